use super::*;

fn packets(payloads: &[&[u8]]) -> Vec<RtpPacket> {
    payloads
        .iter()
        .map(|payload| RtpPacket { sequence: 0, timestamp: 0, marker: false, payload: Bytes::copy_from_slice(payload) })
        .collect()
}

const START: [u8; 4] = [0, 0, 0, 1];

fn byte_stream(nals: &[&[u8]]) -> Vec<u8> {
    nals.iter().flat_map(|nal| [&START[..], *nal].concat()).collect()
}

#[test]
fn h264_aggregates_fragments_and_single_nal_units_come_out_as_they_were() {
    let unit = packets(&[
        &[24, 0, 2, 0x67, 1, 0, 3, 0x68, 2, 3],
        &[0x06, 5, 0x80],
        &[0x7c, 0x85, 0xaa, 0xbb],
        &[0x7c, 0x05, 0xcc],
        &[0x7c, 0x45, 0xdd],
    ]);
    let expected = byte_stream(&[&[0x67, 1], &[0x68, 2, 3], &[0x06, 5, 0x80], &[0x65, 0xaa, 0xbb, 0xcc, 0xdd]]);
    assert_eq!(annex_b(Codec::H264, &unit), expected);
}

#[test]
fn h265_aggregates_fragments_and_single_nal_units_come_out_as_they_were() {
    let (vps, sps, idr) = (32 << 1, 33 << 1, 19);
    let unit = packets(&[
        &[48 << 1, 1, 0, 3, vps, 1, 7, 0, 3, sps, 1, 8],
        &[(49 << 1) | 1, 9, 0x80 | idr, 0xaa],
        &[(49 << 1) | 1, 9, 0x40 | idr, 0xbb],
    ]);
    let expected = byte_stream(&[&[vps, 1, 7], &[sps, 1, 8], &[(idr << 1) | 1, 9, 0xaa, 0xbb]]);
    assert_eq!(annex_b(Codec::H265, &unit), expected);
}

#[test]
fn the_hash_is_of_the_pictures_however_packetised() {
    let whole = packets(&[&[0x67, 1], &[0x65, 0xaa, 0xbb, 0xcc]]);
    let fragmented = packets(&[&[0x06, 9], &[0x7c, 0x85, 0xaa], &[0x7c, 0x45, 0xbb, 0xcc]]);
    let other = packets(&[&[0x67, 1], &[0x65, 0xaa, 0xbb, 0xcd]]);
    assert_eq!(content_hash(Codec::H264, &whole), content_hash(Codec::H264, &fragmented));
    assert_ne!(content_hash(Codec::H264, &whole), content_hash(Codec::H264, &other));
    // Where one slice ends and the next begins is content too.
    let two = packets(&[&[0x41, 1, 2], &[0x41, 3]]);
    let moved = packets(&[&[0x41, 1], &[0x41, 2, 0x41, 3]]);
    assert_ne!(content_hash(Codec::H264, &two), content_hash(Codec::H264, &moved));
    // Without pictures, everything counts.
    assert_ne!(content_hash(Codec::H264, &packets(&[&[0x06, 1]])), content_hash(Codec::H264, &packets(&[&[0x06, 2]])));
}

#[test]
fn unit_starts_are_told_from_first_bytes() {
    let h264 = |payload: &[u8]| unit_start(Codec::H264, payload);
    assert_eq!(h264(&[9, 0xf0]), Start::Sure);
    assert_eq!(h264(&[0x67, 1]), Start::Likely);
    assert_eq!(h264(&[0x41, 0x9a]), Start::Likely, "first_mb_in_slice 0");
    assert_eq!(h264(&[0x41, 0x4a]), Start::No, "a later slice");
    assert_eq!(h264(&[0x5c, 0x81, 0x9a]), Start::Likely, "the first fragment of a first slice");
    assert_eq!(h264(&[0x5c, 0x81, 0x4a]), Start::No, "the first fragment of a later slice");
    assert_eq!(h264(&[0x5c, 0x01, 0x9a]), Start::No, "a later fragment");
    assert_eq!(h264(&[24, 0, 2, 9, 0xf0, 0, 2, 0x67, 1]), Start::Sure);
    let h265 = |payload: &[u8]| unit_start(Codec::H265, payload);
    assert_eq!(h265(&[35 << 1, 1, 0x50]), Start::Sure);
    assert_eq!(h265(&[32 << 1, 1]), Start::Likely);
    assert_eq!(h265(&[1 << 1, 1, 0x80]), Start::Likely);
    assert_eq!(h265(&[1 << 1, 1, 0x7f]), Start::No);
    assert_eq!(h265(&[49 << 1, 1, 0x80 | 1, 0x80]), Start::Likely);
    assert_eq!(h265(&[49 << 1, 1, 1, 0x80]), Start::No);
}

#[test]
fn keyframes_are_told_in_every_packetisation() {
    let h264 = |payload: &[u8]| is_keyframe(Codec::H264, payload);
    assert!(h264(&[0x65]) && h264(&[0x7c, 0x45]) && h264(&[24, 0, 1, 0x67, 0, 1, 0x65]));
    assert!(!h264(&[0x41]) && !h264(&[0x7c, 0x41]) && !h264(&[24, 0, 1, 0x67]) && !h264(&[]));
    let h265 = |payload: &[u8]| is_keyframe(Codec::H265, payload);
    assert!(h265(&[16 << 1, 1]) && h265(&[21 << 1, 1]) && h265(&[49 << 1, 1, 20]));
    assert!(!h265(&[15 << 1, 1]) && !h265(&[22 << 1, 1]) && !h265(&[1]));
}

#[test]
fn truncated_payloads_give_what_is_whole_and_no_panic() {
    for codec in [Codec::H264, Codec::H265, Codec::Other] {
        for first in 0..=255_u8 {
            for rest in [&[][..], &[0], &[0, 9], &[1, 0, 0xff, 0xff, 1], &[0x80], &[0x81, 1, 0, 0]] {
                let payload = [&[first], rest].concat();
                let unit = packets(&[&payload, &[], &payload]);
                annex_b(codec, &unit);
                content_hash(codec, &unit);
                for packet in &unit {
                    unit_start(codec, &packet.payload);
                    is_keyframe(codec, &packet.payload);
                    assert!(first_nal_type(codec, &packet.payload) < 64);
                }
            }
        }
    }
    // An aggregate whose second length runs over its end keeps its first NAL unit.
    assert_eq!(annex_b(Codec::H264, &packets(&[&[24, 0, 1, 0x67, 0, 9, 0x68]])), byte_stream(&[&[0x67]]));
}
