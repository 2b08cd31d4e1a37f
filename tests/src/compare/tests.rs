use super::*;

const INTERVAL: Duration = Duration::from_millis(40);

/// Frames with these contents, one every 40 ms.
fn sequence(start: Instant, contents: &[u64]) -> Vec<Arrival> {
    contents.iter().enumerate().map(|(n, hash)| Arrival { hash: *hash, at: start + INTERVAL * n as u32 }).collect()
}

/// The camera sends 0..200; the reader gets `contents`, reading ends right after its last frame.
fn against_200(contents: &[u64]) -> Comparison {
    let start = Instant::now();
    let truth = sequence(start, &(0..200).collect::<Vec<_>>());
    let reader = sequence(start, contents);
    let ended = reader.last().expect("some").at;
    compare(&truth, &reader, ended).expect("comparable")
}

#[test]
fn both_forms_of_an_access_unit_have_the_same_hash() {
    let units: [&[u8]; 4] = [&[0x67, 9, 9], &[0x68, 1], &[0x65, 1, 0, 0, 3, 1, 2], &[0x65, 7]];
    let prefixed: Vec<u8> = units.iter().flat_map(|u| [&(u.len() as u32).to_be_bytes()[..], u].concat()).collect();
    let long_codes: Vec<u8> = units.iter().flat_map(|u| [&[0, 0, 0, 1][..], u].concat()).collect();
    let short_codes: Vec<u8> = units.iter().flat_map(|u| [&[0, 0, 1][..], u].concat()).collect();
    let wanted = vcl_hash(VideoCodec::H264, &prefixed);
    assert!(wanted.is_some());
    assert_eq!(vcl_hash_annex_b(VideoCodec::H264, &long_codes), wanted);
    assert_eq!(vcl_hash_annex_b(VideoCodec::H264, &short_codes), wanted);
    assert_ne!(vcl_hash_annex_b(VideoCodec::H264, &short_codes[..short_codes.len() - 1]), wanted);
    for junk in [&[][..], &[0, 0, 1], &[0, 0, 0, 1, 0], &[1, 2, 3]] {
        assert_eq!(vcl_hash_annex_b(VideoCodec::H265, junk), None);
    }
}

#[test]
fn the_same_frames_are_perfect_and_only_the_readers_range_counts() {
    let seen = against_200(&(50..150).collect::<Vec<_>>());
    assert!(seen.is_perfect());
    assert_eq!((seen.sent, seen.received, seen.frame_interval_ms), (100, 100, 40));
    assert_eq!((seen.longest_pause_ms, seen.camera_pause_ms), (40, 40));
}

#[test]
fn the_longest_delay_is_against_the_same_frame_at_the_camera_and_not_its_stutter() {
    let start = Instant::now();
    let mut truth = sequence(start, &(0..200).collect::<Vec<_>>());
    // The camera stutters by 300 ms; the way to the reader is 5 ms shorter than to the recording.
    truth[120..].iter_mut().for_each(|frame| frame.at += Duration::from_millis(300));
    let mut reader = truth.clone();
    truth.iter_mut().for_each(|frame| frame.at += Duration::from_millis(5));
    let ended = reader[199].at;
    assert_eq!(compare(&truth, &reader, ended).expect("comparable").longest_delay_ms, 0);
    // A handover holds two frames back.
    reader[60].at += Duration::from_millis(70);
    reader[61].at += Duration::from_millis(30);
    let seen = compare(&truth, &reader, ended).expect("comparable");
    assert_eq!((seen.longest_delay_ms, seen.camera_pause_ms), (70, 340));
}

#[test]
fn a_gap_is_lost_frames() {
    let seen = against_200(&[10, 11, 12, 20, 21]);
    assert_eq!((seen.sent, seen.received, seen.lost, seen.duplicated, seen.out_of_order), (12, 5, 7, 0, 0));
    assert!(!seen.is_perfect());
}

#[test]
fn a_frame_twice_is_duplicated_and_not_out_of_order() {
    let seen = against_200(&[10, 11, 12, 11, 12, 13]);
    assert_eq!((seen.lost, seen.duplicated, seen.out_of_order), (0, 2, 0));
}

#[test]
fn swapped_frames_are_out_of_order_and_not_lost() {
    let seen = against_200(&[10, 12, 11, 13]);
    assert_eq!((seen.lost, seen.duplicated, seen.out_of_order), (0, 0, 1));
}

#[test]
fn a_frame_that_the_camera_never_sent_is_foreign_and_leaves_its_own_place_lost() {
    let seen = against_200(&[10, 11, 999, 13]);
    assert_eq!((seen.foreign, seen.lost), (1, 1));
    assert!(!seen.is_perfect());
}

#[test]
fn a_reader_that_was_cut_off_has_lost_what_came_until_reading_ended() {
    let start = Instant::now();
    let truth = sequence(start, &(0..200).collect::<Vec<_>>());
    let reader = sequence(start, &(0..50).collect::<Vec<_>>());
    let seen = compare(&truth, &reader, truth[199].at).expect("comparable");
    // All but the last second, which may have been on its way.
    assert_eq!((seen.sent, seen.lost), (175, 125));
    assert_eq!(seen.longest_pause_ms, 150 * 40);
}

#[test]
fn repeated_pictures_are_placed_by_their_neighbours() {
    let start = Instant::now();
    // 7 stands three times, twice running.
    let camera = [1, 2, 7, 7, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 7, 14, 15, 16, 17, 18, 19, 20];
    let truth = sequence(start, &camera);
    let all = compare(&truth, &sequence(start, &camera), truth[21].at).expect("comparable");
    assert!(all.is_perfect(), "{all:?}");

    // One of the pair is missing, and the reader that begins at the third.
    let one_missing = compare(&truth, &sequence(start, &[1, 2, 7, 3, 4]), start + INTERVAL * 5).expect("comparable");
    assert_eq!((one_missing.lost, one_missing.duplicated, one_missing.out_of_order), (1, 0, 0));
    let late = compare(&truth, &sequence(start, &[7, 14, 15]), start + INTERVAL * 3).expect("comparable");
    assert_eq!((late.sent, late.lost), (3, 0));
    // Three where the camera had two.
    let tripled = compare(&truth, &sequence(start, &[1, 2, 7, 7, 7, 3]), start).expect("comparable");
    assert!(!tripled.is_perfect(), "{tripled:?}");
}

#[test]
fn a_still_scene_is_refused_rather_than_guessed_at() {
    let start = Instant::now();
    let contents: Vec<u64> = (0..100).map(|n| n / 2).collect();
    let truth = sequence(start, &contents);
    let refused = compare(&truth, &truth, start).expect_err("too much alike");
    assert_eq!(refused, CannotCompare::TooMuchAlike { repeated: 50, frames: 100 });
}

#[test]
fn nothing_received_and_nothing_in_common_are_errors_not_zero_losses() {
    let start = Instant::now();
    let truth = sequence(start, &[1, 2, 3]);
    assert_eq!(compare(&truth, &[], start), Err(CannotCompare::NothingReceived));
    assert_eq!(compare(&truth, &sequence(start, &[8, 9]), start), Err(CannotCompare::NothingInCommon(2)));
    assert_eq!(compare(&[], &truth, start), Err(CannotCompare::NoTruth(0)));
}

#[test]
fn pictures_of_an_elementary_stream_are_told_apart_by_their_first_slice() {
    let stream = |units: &[&[u8]]| units.iter().flat_map(|unit| [&[0, 0, 0, 1], *unit].concat()).collect::<Vec<u8>>();
    // Parameter sets, a picture of two slices, a delimiter, a picture of one.
    let h264: [&[u8]; 5] = [&[0x67, 1], &[0x65, 0x88, 1], &[0x65, 0x11, 2], &[0x09, 0xf0], &[0x41, 0x9a, 3]];
    let found = vcl_hashes_annex_b(VideoCodec::H264, &stream(&h264));
    let apart =
        [&h264[1..3], &h264[4..]].map(|units| vcl_hash_annex_b(VideoCodec::H264, &stream(units)).expect("slices"));
    assert_eq!(found, apart);
    let h265: [&[u8]; 3] = [&[0x40, 1, 9], &[0x26, 1, 0x80, 1], &[0x02, 1, 0x80, 2]];
    assert_eq!(vcl_hashes_annex_b(VideoCodec::H265, &stream(&h265)).len(), 2);
    assert!(vcl_hashes_annex_b(VideoCodec::H265, &[]).is_empty());
}
