//! Boxes of a fragmented MP4 with one video track (ISO/IEC 14496-12, -15), written by hand.

use super::file::Header;

/// One entry of a fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) duration: u32,
    pub(super) pts_offset: i32,
    pub(super) keyframe: bool,
    pub(super) data: Vec<u8>,
}

const TRACK: u32 = 1;
const NON_SYNC: u32 = 1 << 16;

/// Every size in it is far below 4 GiB.
fn boxed(kind: &[u8; 4], body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.extend_from_slice(kind);
    body(&mut bytes);
    let size = bytes.len() as u32;
    bytes[..4].copy_from_slice(&size.to_be_bytes());
    bytes
}

/// With version and flags.
fn full(kind: &[u8; 4], version: u8, flags: u32, body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    boxed(kind, |out| {
        words(out, &[u32::from(version) << 24 | flags]);
        body(out);
    })
}

fn words(out: &mut Vec<u8>, values: &[u32]) {
    values.iter().for_each(|value| out.extend_from_slice(&value.to_be_bytes()));
}

const UNITY: [u32; 9] = [0x1_0000, 0, 0, 0, 0x1_0000, 0, 0, 0, 0x4000_0000];

/// `ftyp` and `moov`. Width and height stand in the parameter sets only.
pub(super) fn description(header: &Header) -> Vec<u8> {
    let mut out = boxed(b"ftyp", |out| out.extend_from_slice(b"mp42\0\0\0\x01mp41mp42isomhlsf"));
    let mvhd = full(b"mvhd", 0, 0, |out| {
        words(out, &[0, 0, 1000, 0, 0x1_0000, 0x0100_0000, 0, 0]);
        words(out, &UNITY);
        words(out, &[0, 0, 0, 0, 0, 0, TRACK + 1]);
    });
    let tkhd = full(b"tkhd", 0, 3, |out| {
        words(out, &[0, 0, TRACK, 0, 0, 0, 0, 0, 0]);
        words(out, &UNITY);
        words(out, &[0, 0]);
    });
    let mdhd = full(b"mdhd", 0, 0, |out| words(out, &[0, 0, header.clock_rate, 0, 0x55c4_0000]));
    let hdlr = full(b"hdlr", 0, 0, |out| {
        words(out, &[0]);
        out.extend_from_slice(b"vide");
        words(out, &[0, 0, 0]);
        out.extend_from_slice(b"video\0");
    });
    let vmhd = full(b"vmhd", 0, 1, |out| words(out, &[0, 0]));
    let dref = full(b"dref", 0, 0, |out| {
        words(out, &[1]);
        out.extend(full(b"url ", 0, 1, |_| {}));
    });
    let stsd = full(b"stsd", 0, 0, |out| {
        words(out, &[1]);
        out.extend(sample_entry(header));
    });
    let stbl = boxed(b"stbl", |out| {
        out.extend(stsd);
        for kind in [b"stts", b"stsc", b"stco"] {
            out.extend(full(kind, 0, 0, |out| words(out, &[0])));
        }
        out.extend(full(b"stsz", 0, 0, |out| words(out, &[0, 0])));
    });
    let minf = boxed(b"minf", |out| {
        out.extend(vmhd);
        out.extend(boxed(b"dinf", |out| out.extend(dref)));
        out.extend(stbl);
    });
    let mdia = boxed(b"mdia", |out| [mdhd, hdlr, minf].into_iter().for_each(|part| out.extend(part)));
    let trak = boxed(b"trak", |out| [tkhd, mdia].into_iter().for_each(|part| out.extend(part)));
    let trex = full(b"trex", 0, 0, |out| words(out, &[TRACK, 1, 0, 0, 0]));
    out.extend(boxed(b"moov", |out| {
        [mvhd, trak, boxed(b"mvex", |out| out.extend(trex))].into_iter().for_each(|part| out.extend(part));
    }));
    out
}

fn sample_entry(header: &Header) -> Vec<u8> {
    let (kind, configuration) = match header.is_h265 {
        true => (b"hvc1", hvcc(&header.parameters)),
        false => (b"avc1", avcc(&header.parameters)),
    };
    boxed(kind, |out| {
        // Data reference 1, no size, 72 dpi, one frame a sample, no name, depth 24.
        words(out, &[0, 1, 0, 0, 0, 0, 0, 0x48_0000, 0x48_0000, 0]);
        out.extend_from_slice(&1_u16.to_be_bytes());
        out.extend_from_slice(&[0; 32]);
        out.extend_from_slice(&24_u16.to_be_bytes());
        out.extend_from_slice(&u16::MAX.to_be_bytes());
        out.extend(configuration);
    })
}

fn avcc(sets: &[Vec<u8>]) -> Vec<u8> {
    let of_kind = |kind: u8| sets.iter().filter(move |set| set[0] & 0x1f == kind);
    boxed(b"avcC", |out| {
        let profile = of_kind(7).next().and_then(|sps| sps.get(1..4)).unwrap_or(&[66, 0, 10]);
        out.push(1);
        out.extend_from_slice(profile);
        // NAL units behind four bytes of length.
        out.push(0xff);
        for (kind, reserved) in [(7, 0xe0), (8, 0)] {
            out.push(reserved | of_kind(kind).count() as u8);
            of_kind(kind).for_each(|set| put_with_length(out, set));
        }
    })
}

fn hvcc(sets: &[Vec<u8>]) -> Vec<u8> {
    let of_kind = |kind: u8| sets.iter().filter(move |set| (set[0] >> 1) & 0x3f == kind);
    boxed(b"hvcC", |out| {
        out.push(1);
        // Behind the NAL unit's header and one byte more stand 12 bytes of profile, tier and level.
        let sps = of_kind(33).next().map(|sps| without_emulation(sps)).unwrap_or_default();
        out.extend_from_slice(sps.get(3..15).unwrap_or(&[1, 0x60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 93]));
        // Reserved bits, 4:2:0, 8 bits, no rates; NAL units behind four bytes of length.
        out.extend_from_slice(&[0xf0, 0, 0xfc, 0xfd, 0xf8, 0xf8, 0, 0, 0x0f, 3]);
        for kind in [32, 33, 34] {
            out.push(0x80 | kind);
            out.extend_from_slice(&(of_kind(kind).count() as u16).to_be_bytes());
            of_kind(kind).for_each(|set| put_with_length(out, set));
        }
    })
}

fn put_with_length(out: &mut Vec<u8>, set: &[u8]) {
    out.extend_from_slice(&(set.len() as u16).to_be_bytes());
    out.extend_from_slice(set);
}

/// A 3 behind two zeros stands there only so that no start code appears (H.264 section 7.4.1).
fn without_emulation(nal: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(nal.len());
    for byte in nal {
        if *byte != 3 || !out.ends_with(&[0, 0]) {
            out.push(*byte);
        }
    }
    out
}

/// `moof` and `mdat`. `dts` of the first entry is in ticks.
pub(super) fn fragment(number: u32, dts: u64, entries: &[Entry]) -> Vec<u8> {
    let moof = |offset: u32| {
        let trun = full(b"trun", 1, 0xf01, |out| {
            words(out, &[entries.len() as u32, offset]);
            for entry in entries {
                let flags = if entry.keyframe { 0 } else { NON_SYNC };
                words(out, &[entry.duration, entry.data.len() as u32, flags, entry.pts_offset as u32]);
            }
        });
        let traf = boxed(b"traf", |out| {
            out.extend(full(b"tfhd", 0, 0x2_0000, |out| words(out, &[TRACK])));
            out.extend(full(b"tfdt", 1, 0, |out| out.extend_from_slice(&dts.to_be_bytes())));
            out.extend(trun);
        });
        boxed(b"moof", |out| {
            out.extend(full(b"mfhd", 0, 0, |out| words(out, &[number])));
            out.extend(traf);
        })
    };
    // The data begins behind the header of its own box.
    let mut out = moof(moof(0).len() as u32 + 8);
    out.extend(boxed(b"mdat", |out| entries.iter().for_each(|entry| out.extend_from_slice(&entry.data))));
    out
}
