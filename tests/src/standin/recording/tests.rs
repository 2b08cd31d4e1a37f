use super::super::media;
use super::*;

const SDP: &[u8] =
    b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n\
    a=fmtp:96 packetization-mode=1; sprop-parameter-sets=Z0IACg==,aM4=; profile-level-id=42000A\r\n";

fn recorder(folder: &std::path::Path, segment: Duration) -> Recorder {
    let settings = Settings {
        folder: format!("{}/%path", folder.display()),
        part: Duration::from_millis(200),
        segment,
        delete_after: Duration::from_secs(60),
    };
    Recorder::new(&settings, "cam1", &media::tracks(SDP).unwrap()).unwrap()
}

/// 25 frames a second, the first of each second a keyframe.
fn record(recorder: &mut Recorder, frames: std::ops::Range<u32>) {
    for number in frames {
        let payload = if number % 25 == 0 { [0x65, number as u8] } else { [0x41, number as u8] };
        recorder.write((u32::MAX - 4_000).wrapping_add(number * 3_600), true, &payload);
    }
}

fn numbers(folder: &std::path::Path, segment: &Segment) -> Vec<u8> {
    let (_, samples) = file::read(&folder.join("cam1"), segment).unwrap();
    samples.iter().map(|sample| *sample.data.last().unwrap()).collect()
}

#[test]
fn a_part_reaches_the_disk_once_it_is_complete_and_the_rest_when_the_publisher_ends() {
    let folder = tempfile::tempdir().unwrap();
    let mut recorder = recorder(folder.path(), Duration::from_secs(60));
    record(&mut recorder, 20..42);
    let [segment] = file::segments(&folder.path().join("cam1"))[..] else { panic!("one segment") };
    assert_eq!(numbers(folder.path(), &segment), (25..40).collect::<Vec<_>>(), "from the keyframe on, 200 ms late");
    drop(recorder);
    assert_eq!(numbers(folder.path(), &segment), (25..42).collect::<Vec<_>>());
    let (header, samples) = file::read(&folder.path().join("cam1"), &segment).unwrap();
    assert_eq!(header.parameters, [vec![0x67, 0x42, 0, 10], vec![0x68, 0xce]]);
    assert_eq!(samples[0].data, b"\0\0\0\x04\x67\x42\0\x0a\0\0\0\x02\x68\xce\0\0\0\x02\x65\x19");
    // Over the wrap at 32 bits.
    assert!(samples.windows(2).all(|pair| pair[1].pts - pair[0].pts == 3_600));
}

#[test]
fn segments_begin_at_keyframes_and_go_on_from_each_other() {
    let folder = tempfile::tempdir().unwrap();
    record(&mut recorder(folder.path(), Duration::from_millis(1_500)), 0..125);
    record(&mut recorder(folder.path(), Duration::from_secs(60)), 0..2);
    let segments = file::segments(&folder.path().join("cam1"));
    let lengths: Vec<usize> = segments.iter().map(|segment| numbers(folder.path(), segment).len()).collect();
    assert_eq!(lengths.iter().sum::<usize>(), 127);
    assert!(lengths[..2] == [50, 50], "{lengths:?}");
    let follows: Vec<bool> = segments.windows(2).map(|pair| pair[1].goes_on_from(&pair[0])).collect();
    assert_eq!(follows, [true, true, false]);
}

#[test]
fn a_file_cut_short_has_what_came_whole() {
    let folder = tempfile::tempdir().unwrap();
    record(&mut recorder(folder.path(), Duration::from_secs(60)), 0..10);
    let file = std::fs::read_dir(folder.path().join("cam1")).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() - 3]).unwrap();
    let segment = file::segments(&folder.path().join("cam1"))[0];
    assert_eq!(numbers(folder.path(), &segment), (0..9).collect::<Vec<_>>());
}

#[test]
fn a_name_that_leads_out_of_the_folder_is_not_recorded() {
    let settings = Settings {
        folder: "/r/%path".to_owned(),
        part: Duration::ZERO,
        segment: Duration::ZERO,
        delete_after: Duration::ZERO,
    };
    assert_eq!(settings.folder_of("site/cam1"), Some(PathBuf::from("/r/site/cam1")));
    for name in ["..", "a/../../b", "a//b", ""] {
        assert_eq!(settings.folder_of(name), None, "{name}");
    }
}
