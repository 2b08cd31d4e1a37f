//! RTP payloads of H.264 (RFC 6184) and H.265 (RFC 7798), read without copying: where NAL units begin and end, whether a
//! packet starts an access unit, whether a unit holds a keyframe, what its pictures hash to.
//!
//! Every byte comes from the network. A payload that no RFC explains is passed over as opaque, never an error: it is
//! forwarded as it came, and only counts for hashes.

use bytes::{BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::Xxh3Default;

use crate::types::{Codec, RtpPacket};

/// How sure the first packet makes it that nothing of its access unit lies before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Start {
    /// In the middle of a unit, as far as the payload tells.
    No,
    /// A first slice, or parameter sets: a unit can start so, but an SEI or a parameter set may be missing before it.
    Likely,
    /// An access unit delimiter, or a boundary seen in the packets before.
    Sure,
}

/// NAL units of an access unit, in pieces: fragmentation gives one NAL unit in several `data` calls.
trait NalSink {
    /// A NAL unit begins; `header` is its whole NAL unit header (one byte for H.264, two for H.265).
    fn begin(&mut self, header: &[u8]);
    fn data(&mut self, piece: &[u8]);
    /// A payload that is no NAL unit.
    fn opaque(&mut self, payload: &[u8]);
}

/// A NAL unit type as the rest of this file needs it.
fn nal_type(codec: Codec, header: u8) -> u8 {
    match codec {
        Codec::H264 => header & 0x1f,
        _ => (header >> 1) & 0x3f,
    }
}

fn header_len(codec: Codec) -> usize {
    match codec {
        Codec::H264 => 1,
        _ => 2,
    }
}

fn is_vcl(codec: Codec, nal_type: u8) -> bool {
    match codec {
        Codec::H264 => (1..=5).contains(&nal_type),
        Codec::H265 => nal_type <= 31,
        Codec::Other => true,
    }
}

fn is_key(codec: Codec, nal_type: u8) -> bool {
    match codec {
        Codec::H264 => nal_type == 5,
        Codec::H265 => (16..=21).contains(&nal_type),
        Codec::Other => true,
    }
}

/// What one payload is, after its first bytes.
enum Form<'a> {
    /// The payload is one NAL unit.
    Single,
    /// Length-prefixed NAL units (STAP-A, AP).
    Aggregate(&'a [u8]),
    /// A piece of one (FU-A, FU): its header as it was before fragmentation, whether it is the first piece, the bytes.
    Fragment {
        header: [u8; 2],
        first: bool,
        piece: &'a [u8],
    },
    Opaque,
}

fn form(codec: Codec, payload: &[u8]) -> Form<'_> {
    match (codec, payload) {
        (Codec::H264, [indicator, rest @ ..]) => match (indicator & 0x1f, rest) {
            (1..=23, _) => Form::Single,
            (24, units) => Form::Aggregate(units),
            (28, [fu, piece @ ..]) => {
                Form::Fragment { header: [(indicator & 0xe0) | (fu & 0x1f), 0], first: fu & 0x80 != 0, piece }
            }
            _ => Form::Opaque,
        },
        (Codec::H265, [first, second, rest @ ..]) => match ((first >> 1) & 0x3f, rest) {
            (0..=47, _) => Form::Single,
            (48, units) => Form::Aggregate(units),
            (49, [fu, piece @ ..]) => {
                Form::Fragment { header: [(first & 0x81) | ((fu & 0x3f) << 1), *second], first: fu & 0x80 != 0, piece }
            }
            _ => Form::Opaque,
        },
        _ => Form::Opaque,
    }
}

/// The NAL units of an aggregate; stops at the first length that does not fit.
fn aggregated(mut units: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = units.split_first_chunk::<2>()?;
        let (unit, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        units = rest;
        Some(unit)
    })
}

fn walk(codec: Codec, packets: &[RtpPacket], sink: &mut impl NalSink) {
    let header_len = header_len(codec);
    // A fragment is only added to the NAL unit that its predecessors began.
    let mut in_fragment = false;
    for packet in packets {
        let payload = &packet.payload[..];
        let was_in_fragment = std::mem::take(&mut in_fragment);
        match form(codec, payload) {
            Form::Single => {
                let (header, data) = payload.split_at(header_len);
                sink.begin(header);
                sink.data(data);
            }
            Form::Aggregate(units) => {
                for unit in aggregated(units) {
                    if let Some((header, data)) = unit.split_at_checked(header_len) {
                        sink.begin(header);
                        sink.data(data);
                    }
                }
            }
            Form::Fragment { header, first, piece } if first || was_in_fragment => {
                if first {
                    sink.begin(&header[..header_len]);
                }
                sink.data(piece);
                in_fragment = true;
            }
            Form::Fragment { .. } | Form::Opaque => sink.opaque(payload),
        }
    }
}

/// Whether an access unit can start with this payload.
pub(crate) fn unit_start(codec: Codec, payload: &[u8]) -> Start {
    match form(codec, payload) {
        _ if codec == Codec::Other => Start::Likely,
        Form::Single => nal_start(codec, payload),
        Form::Aggregate(units) => aggregated(units).next().map_or(Start::No, |unit| nal_start(codec, unit)),
        Form::Fragment { header, first: true, piece } => {
            let header_len = header_len(codec);
            let mut nal = [header[0], header[1], 0];
            nal[header_len] = piece.first().copied().unwrap_or(0);
            nal_start(codec, &nal[..=header_len])
        }
        Form::Fragment { .. } | Form::Opaque => Start::No,
    }
}

/// H.264 section 7.4.1.2.3 and H.265 section 7.4.2.4.4: which NAL units can be the first of an access unit. The first
/// bit of a slice header tells: `first_mb_in_slice` is ue(v), whose zero is a single 1; in H.265 it is
/// `first_slice_segment_in_pic_flag`.
fn nal_start(codec: Codec, nal: &[u8]) -> Start {
    let Some(header) = nal.first() else { return Start::No };
    let first_slice = nal.get(header_len(codec)).is_some_and(|byte| byte & 0x80 != 0);
    match (codec, nal_type(codec, *header)) {
        (Codec::H264, 9) | (Codec::H265, 35) => Start::Sure,
        (Codec::H264, 6..=8 | 14..=15) | (Codec::H265, 32..=34 | 39) => Start::Likely,
        (Codec::H264, 1 | 2 | 5) | (Codec::H265, 0..=31) if first_slice => Start::Likely,
        _ => Start::No,
    }
}

/// Type of the NAL unit that the payload begins, or goes on with; below 64, and 0 where there is none.
pub(crate) fn first_nal_type(codec: Codec, payload: &[u8]) -> u8 {
    match form(codec, payload) {
        _ if codec == Codec::Other => 0,
        Form::Single => nal_type(codec, payload[0]),
        Form::Aggregate(units) => {
            aggregated(units).next().and_then(<[u8]>::first).map_or(0, |header| nal_type(codec, *header))
        }
        Form::Fragment { header, .. } => nal_type(codec, header[0]),
        Form::Opaque => 0,
    }
}

/// Whether this payload holds a part of a picture.
pub(crate) fn is_slice(codec: Codec, payload: &[u8]) -> bool {
    let slice = |header: u8| match codec {
        Codec::H264 => matches!(nal_type(codec, header), 1..=5),
        Codec::H265 => nal_type(codec, header) <= 31,
        Codec::Other => false,
    };
    match form(codec, payload) {
        _ if codec == Codec::Other => false,
        Form::Single => slice(payload[0]),
        Form::Aggregate(units) => aggregated(units).filter_map(<[u8]>::first).any(|header| slice(*header)),
        Form::Fragment { header, .. } => slice(header[0]),
        Form::Opaque => false,
    }
}

/// Whether senders put nothing, but perhaps a delimiter, before a NAL unit of this type in a keyframe.
pub(crate) fn leads_keyframe(codec: Codec, nal_type: u8) -> bool {
    match codec {
        Codec::H264 => matches!(nal_type, 7 | 9),
        Codec::H265 => matches!(nal_type, 32 | 35),
        Codec::Other => true,
    }
}

/// Whether this payload holds a part of a keyframe.
pub(crate) fn is_keyframe(codec: Codec, payload: &[u8]) -> bool {
    match form(codec, payload) {
        _ if codec == Codec::Other => true,
        Form::Single => is_key(codec, nal_type(codec, payload[0])),
        Form::Aggregate(units) => {
            aggregated(units).any(|unit| unit.first().is_some_and(|byte| is_key(codec, nal_type(codec, *byte))))
        }
        Form::Fragment { header, .. } => is_key(codec, nal_type(codec, header[0])),
        Form::Opaque => false,
    }
}

/// The packets of one access unit as an Annex B byte stream: see [`AccessUnit::annex_b`](crate::AccessUnit::annex_b).
pub fn annex_b(codec: Codec, packets: &[RtpPacket]) -> Bytes {
    struct Writer(BytesMut);
    impl NalSink for Writer {
        fn begin(&mut self, header: &[u8]) {
            self.0.put_slice(&[0, 0, 0, 1]);
            self.0.put_slice(header);
        }
        fn data(&mut self, piece: &[u8]) {
            self.0.put_slice(piece);
        }
        fn opaque(&mut self, _: &[u8]) {}
    }
    let length: usize = packets.iter().map(|packet| packet.payload.len() + 4).sum();
    let mut writer = Writer(BytesMut::with_capacity(length));
    match codec {
        Codec::Other => packets.iter().for_each(|packet| writer.0.put_slice(&packet.payload)),
        _ => walk(codec, packets, &mut writer),
    }
    writer.0.freeze()
}

/// Hash of the pictures in the packets of one access unit: see
/// [`AccessUnit::content_hash`](crate::AccessUnit::content_hash).
pub fn content_hash(codec: Codec, packets: &[RtpPacket]) -> u64 {
    /// Hashes the NAL units that `vcl_only` lets through, each with its length, so that a boundary counts.
    struct Hasher {
        codec: Codec,
        vcl_only: bool,
        hash: Xxh3Default,
        /// Length of the NAL unit that is being hashed.
        open: Option<u64>,
        pictures: usize,
    }
    impl Hasher {
        fn end(&mut self) {
            if let Some(length) = self.open.take() {
                self.hash.update(&length.to_le_bytes());
            }
        }
    }
    impl NalSink for Hasher {
        fn begin(&mut self, header: &[u8]) {
            self.end();
            let vcl = is_vcl(self.codec, nal_type(self.codec, header[0]));
            self.pictures += usize::from(vcl);
            if vcl || !self.vcl_only {
                self.open = Some(0);
                self.data(header);
            }
        }
        fn data(&mut self, piece: &[u8]) {
            if let Some(length) = &mut self.open {
                *length += piece.len() as u64;
                self.hash.update(piece);
            }
        }
        fn opaque(&mut self, payload: &[u8]) {
            self.end();
            if !self.vcl_only {
                self.hash.update(payload);
            }
        }
    }
    if codec == Codec::Other {
        let mut hash = Xxh3Default::new();
        packets.iter().for_each(|packet| hash.update(&packet.payload));
        return hash.digest();
    }
    let hashed = |vcl_only| {
        let mut hasher = Hasher { codec, vcl_only, hash: Xxh3Default::new(), open: None, pictures: 0 };
        walk(codec, packets, &mut hasher);
        hasher.end();
        (hasher.pictures, hasher.hash.digest())
    };
    match hashed(true) {
        (0, _) => hashed(false).1,
        (_, pictures) => pictures,
    }
}

#[cfg(test)]
mod tests;
