//! What the application gets.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::{BufMut as _, Bytes, BytesMut};
use mtxfleet_stitch::RtpPacket;

pub use mtxfleet_stitch::{Codec, DiscontinuityKind};

use crate::ledger::Entry;

/// One track of the stream, in the order of the SDP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Track {
    /// `video`, `audio`, `application`.
    pub media: String,
    /// Encoding name in lower case, such as `h264` or `mpeg4-generic`.
    pub encoding: String,
    pub codec: Codec,
    /// Ticks of the RTP clock in a second.
    pub clock_rate: u32,
    /// H.264 and H.265: parameter sets of the SDP in Annex B form, as the stream began; empty when it had none.
    pub parameter_sets: Bytes,
    /// RTP payload type in the SDP.
    pub payload_type: u8,
    /// Value of the SDP's `rtpmap`, without the payload type: `H264/90000`. `None` for static types that have none.
    pub rtpmap: Option<String>,
    /// Value of the SDP's `fmtp`, without the payload type: `packetization-mode=1;...`.
    pub fmtp: Option<String>,
}

impl std::fmt::Display for Track {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} at {} Hz", self.media, self.encoding, self.clock_rate)
    }
}

/// What [`crate::Stream::next`] gives.
#[derive(Debug, Clone)]
pub enum Item {
    Frame(Frame),
    /// Comes before the frame after the gap. There is never a gap without one.
    Discontinuity(Discontinuity),
}

/// One access unit (a picture, or a piece of audio), in decode order on its track.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Index into [`crate::Stream::tracks`].
    pub track: usize,
    pub codec: Codec,
    /// Ticks of the track's clock, without wrap, on one time line over all moves. With B-frames it runs backwards at
    /// times, since frames come in decode order.
    pub rtp_time: i64,
    /// When the camera (or the server, when it stamps times of its own) took it; `None` until a sender report came.
    pub wall: Option<SystemTime>,
    /// A decoder can start here. True for every frame of a track that is neither H.264 nor H.265.
    pub keyframe: bool,
    pub data: Data,
    /// Of a keyframe of H.264 or H.265: what a decoder needs before it. `None` where neither camera nor SDP said.
    pub parameter_sets: Option<ParameterSets>,
    /// When its last packet came.
    pub received: Instant,
    /// It comes from a recording: [`Frame::rtp_time`] is worked out from the recording's times, to a few ticks, and
    /// [`Frame::wall`] is that of the recording node. The pictures are those that the camera sent, bit for bit; what
    /// accompanies them (parameter sets, delimiters) may differ.
    pub recorded: bool,
    /// It was handed over before, and comes again only so that a decoder can be brought to the next frame: decode it, and
    /// do nothing else with it.
    pub decode_only: bool,
    /// It was taken before this worker started again, or within half a second after, which is how far the clocks of cameras,
    /// nodes and this machine are trusted: an earlier life may have had it already, if it ended after its last checkpoint.
    pub replayed: bool,
    /// Its entry among those for checkpoints.
    pub(crate) entry: Option<Entry>,
    /// Filled where [`crate::StreamConfig::rtp_packets`] asks for it.
    pub(crate) packets: Option<Arc<Vec<RtpPacket>>>,
}

/// One RTP packet of a frame, as the server sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    pub payload: &'a Bytes,
    /// The marker bit; its meaning is the codec's (RFC 3550, section 5.1).
    pub marker: bool,
}

impl Frame {
    /// This frame and all before it on its track are finished with: a worker that starts again begins after them. Does
    /// nothing without [`crate::StreamConfig::checkpoints`], on other tracks than the first video track (or the first
    /// one, without video), and for frames that are for decoding only. Never waits.
    pub fn done(&self) {
        if let Some(entry) = &self.entry {
            entry.done();
        }
    }

    /// The RTP packets that the frame came in, in order. Their own numbers and times are those of whichever leg brought
    /// them, so they are not given: [`Frame::rtp_time`] is the time of all of them. Empty unless
    /// [`crate::StreamConfig::rtp_packets`] is set.
    pub fn packets(&self) -> impl Iterator<Item = Packet<'_>> {
        let packets = self.packets.iter().flat_map(|packets| packets.iter());
        packets.map(|packet| Packet { payload: &packet.payload, marker: packet.marker })
    }
}

/// The bytes of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// H.264 and H.265: NAL units behind start codes (ITU-T H.264, annex B). A keyframe without parameter sets gets
    /// the camera's last ones in front, those of the SDP before it sent any, so that a decoder can start at it.
    AnnexB(Bytes),
    /// Other codecs, and all where [`crate::StreamConfig::rtp_packets`] is set: RTP payloads as they came, one for each
    /// packet.
    Payloads(Vec<Bytes>),
}

impl Data {
    /// Bytes in all.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::AnnexB(bytes) => bytes.len(),
            Self::Payloads(payloads) => payloads.iter().map(Bytes::len).sum(),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `None` for [`Data::Payloads`].
    #[must_use]
    pub const fn annex_b(&self) -> Option<&Bytes> {
        match self {
            Self::AnnexB(bytes) => Some(bytes),
            Self::Payloads(_) => None,
        }
    }
}

/// A place where frames are missing, or may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Discontinuity {
    /// Index into [`crate::Stream::tracks`].
    pub track: usize,
    /// [`Frame::rtp_time`] of the last frame before it.
    pub after: Option<i64>,
    /// [`Frame::rtp_time`] of the frame that comes next.
    pub before: i64,
    /// Packets missing, by their sequence numbers; `None` when those cannot tell.
    pub lost_packets: Option<u64>,
    pub kind: DiscontinuityKind,
}

impl From<mtxfleet_stitch::Discontinuity> for Discontinuity {
    fn from(found: mtxfleet_stitch::Discontinuity) -> Self {
        let mtxfleet_stitch::Discontinuity { track, after, before, lost_packets, kind } = found;
        Self { track: track.0, after, before, lost_packets, kind }
    }
}

/// What a decoder needs before a keyframe of H.264 (SPS, PPS) or H.265 (VPS, SPS, PPS).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterSets {
    /// NAL units behind start codes.
    pub annex_b: Bytes,
    /// The camera sent them with this frame. Otherwise they are its last ones, those of the SDP before it sent any.
    pub in_frame: bool,
}

impl ParameterSets {
    /// One by one, without start codes.
    pub fn nal_units(&self) -> impl Iterator<Item = Bytes> {
        nal_units(&self.annex_b).map(|unit| self.annex_b.slice_ref(unit))
    }
}

/// Between start codes of three bytes or four; a NAL unit never ends in a zero byte.
fn nal_units(annex_b: &[u8]) -> impl Iterator<Item = &[u8]> {
    let starts: Vec<usize> =
        annex_b.windows(3).enumerate().filter(|(_, w)| *w == [0, 0, 1]).map(|(at, _)| at + 3).collect();
    let ends: Vec<usize> = starts.iter().skip(1).map(|start| start - 3).chain([annex_b.len()]).collect();
    starts.into_iter().zip(ends).filter_map(|(start, end)| {
        let unit = &annex_b[start..end];
        Some(&unit[..unit.iter().rposition(|byte| *byte != 0)? + 1])
    })
}

/// The bytes of an access unit as the application gets them, and a keyframe's parameter sets. `sets` are those that a
/// keyframe without any gets; those of the camera's last keyframe with such take their place.
pub(crate) fn data(
    packets: &[RtpPacket],
    keyframe: bool,
    codec: Codec,
    sets: &mut Bytes,
    as_packets: bool,
) -> (Data, Option<ParameterSets>) {
    let payloads = || Data::Payloads(packets.iter().map(|packet| packet.payload.clone()).collect());
    if codec == Codec::Other || as_packets && !keyframe {
        return (payloads(), None);
    }
    let bytes = mtxfleet_stitch::annex_b(codec, packets);
    if !keyframe {
        return (Data::AnnexB(bytes), None);
    }
    let in_frame = has_sps(codec, &bytes);
    if let Some(found) = parameter_sets(codec, &bytes).filter(|found| in_frame && found != sets) {
        *sets = found;
    }
    let of_frame = (!sets.is_empty()).then(|| ParameterSets { annex_b: sets.clone(), in_frame });
    if as_packets {
        return (payloads(), of_frame);
    }
    if in_frame {
        return (Data::AnnexB(bytes), of_frame);
    }
    let mut whole = BytesMut::with_capacity(sets.len() + bytes.len());
    // An access unit delimiter, where there is one, has to stay first.
    let (delimiter, rest) = bytes.split_at(delimiter_len(codec, &bytes));
    whole.put_slice(delimiter);
    whole.put_slice(sets);
    whole.put_slice(rest);
    (Data::AnnexB(whole.freeze()), of_frame)
}

/// The parameter sets before the first slice, when a decoder can start with them.
fn parameter_sets(codec: Codec, annex_b: &[u8]) -> Option<Bytes> {
    let (needed, slices): (&[u8], _) = match codec {
        Codec::H265 => (&[33, 34], 0..=31),
        _ => (&[7, 8], 1..=5),
    };
    let starts: Vec<usize> = annex_b.windows(4).enumerate().filter(|(_, w)| *w == START).map(|(at, _)| at).collect();
    let (mut found, mut kinds) = (BytesMut::new(), Vec::new());
    for (index, start) in starts.iter().enumerate() {
        let unit = &annex_b[*start..starts.get(index + 1).copied().unwrap_or(annex_b.len())];
        let kind = nal_type(codec, *unit.get(4)?);
        if slices.contains(&kind) {
            break;
        }
        if needed.contains(&kind) || codec == Codec::H265 && kind == 32 {
            found.put_slice(unit);
            kinds.push(kind);
        }
    }
    needed.iter().all(|kind| kinds.contains(kind)).then(|| found.freeze())
}

/// Start code of a NAL unit, as the stitch writes it.
const START: [u8; 4] = [0, 0, 0, 1];

/// NAL unit type, from the first byte of the unit.
const fn nal_type(codec: Codec, byte: u8) -> u8 {
    match codec {
        Codec::H265 => (byte >> 1) & 0x3f,
        _ => byte & 0x1f,
    }
}

/// Whether a sequence parameter set (H.264 type 7, H.265 type 33) comes before the first slice.
fn has_sps(codec: Codec, annex_b: &[u8]) -> bool {
    let (sps, slices) = match codec {
        Codec::H265 => (33, 0..=31),
        _ => (7, 1..=5),
    };
    let types = annex_b.windows(4).filter(|w| w[..3] == [0, 0, 1]).map(|w| nal_type(codec, w[3]));
    types.take_while(|kind| !slices.contains(kind)).any(|kind| kind == sps)
}

/// Bytes that an access unit delimiter (H.264 type 9, H.265 type 35) takes at the start.
fn delimiter_len(codec: Codec, annex_b: &[u8]) -> usize {
    let wanted = if codec == Codec::H265 { 35 } else { 9 };
    match annex_b {
        [0, 0, 0, 1, byte, rest @ ..] if nal_type(codec, *byte) == wanted => {
            rest.windows(4).position(|w| w == [0, 0, 0, 1]).map_or(0, |at| at + 5)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annex_b(units: &[&[u8]]) -> Vec<u8> {
        units.iter().flat_map(|unit| START.iter().chain(*unit)).copied().collect()
    }

    #[test]
    fn parameter_sets_are_found_only_before_the_first_slice() {
        assert!(has_sps(Codec::H264, &annex_b(&[&[0x09, 0xf0], &[0x67, 1], &[0x68, 2], &[0x65, 3]])));
        assert!(!has_sps(Codec::H264, &annex_b(&[&[0x65, 0x67], &[0x67, 1]])));
        assert!(has_sps(Codec::H265, &annex_b(&[&[0x40, 1, 0], &[0x42, 1, 0], &[0x26, 1, 9]])));
        assert!(!has_sps(Codec::H265, &annex_b(&[&[0x26, 1, 9]])));
    }

    #[test]
    fn a_delimiter_stays_in_front() {
        assert_eq!(delimiter_len(Codec::H264, &annex_b(&[&[0x09, 0xf0], &[0x65, 3]])), 6);
        assert_eq!(delimiter_len(Codec::H264, &annex_b(&[&[0x65, 3]])), 0);
        assert_eq!(delimiter_len(Codec::H265, &annex_b(&[&[0x46, 1, 0x50], &[0x26, 1]])), 7);
        assert_eq!(delimiter_len(Codec::H265, &annex_b(&[&[0x46, 1, 0x50]])), 0, "nothing comes after it");
    }
    #[test]
    fn a_keyframe_without_parameter_sets_gets_the_cameras_last_ones_and_not_older() {
        let packet =
            |nal: &[u8]| RtpPacket { sequence: 0, timestamp: 0, marker: true, payload: Bytes::copy_from_slice(nal) };
        let unit = |nals: &[&[u8]]| nals.iter().map(|nal| packet(nal)).collect::<Vec<_>>();
        for (codec, before, changed, slice) in [
            (Codec::H264, [&[0x67, 1][..], &[0x68, 1]], [&[0x67, 2][..], &[0x68, 2]], &[0x65, 0x88][..]),
            (Codec::H265, [&[0x42, 1, 1], &[0x44, 1, 1]], [&[0x42, 1, 2], &[0x44, 1, 2]], &[0x26, 1, 0x88]),
        ] {
            let mut sets = Bytes::from(annex_b(&before));
            let bytes = |sets: &mut Bytes, nals: &[&[u8]]| data(&unit(nals), true, codec, sets, false).0;
            let whole = |sets: [&[u8]; 2]| Data::AnnexB(annex_b(&[sets[0], sets[1], slice]).into());
            assert_eq!(bytes(&mut sets, &[slice]), whole(before));
            assert_eq!(bytes(&mut sets, &[changed[0], changed[1], slice]), whole(changed));
            assert_eq!(bytes(&mut sets, &[slice]), whole(changed));
            // One of them alone says too little to replace both.
            assert_eq!(bytes(&mut sets, &[before[0], slice]), Data::AnnexB(annex_b(&[before[0], slice]).into()));
            assert_eq!(bytes(&mut sets, &[slice]), whole(changed));
        }
    }
}
