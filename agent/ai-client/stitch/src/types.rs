//! The values that go into the stitch and come out of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::payload;

/// How a track's payloads are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// RFC 6184, packetization modes 0 and 1.
    H264,
    /// RFC 7798, without DONL fields (`sprop-max-don-diff` is 0).
    H265,
    /// Anything else: access units are told apart by timestamp and marker alone, and every one counts as a keyframe.
    Other,
}

/// One media of the session, in the order of its SDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackConfig {
    pub codec: Codec,
    /// Ticks of the RTP timestamp per second; 0 is taken as 1.
    pub clock_rate: u32,
}

/// Index of a track in the list given to [`Stitch::new`](crate::Stitch::new).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrackId(pub usize);

/// Handle of a leg, given by [`Stitch::open_leg`](crate::Stitch::open_leg). Never used again for another leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LegKey(pub(crate) u32);

/// What the stitch needs of an RTP packet (RFC 3550 section 5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RtpPacket {
    pub sequence: u16,
    pub timestamp: u32,
    pub marker: bool,
    pub payload: Bytes,
}

/// Bounds in time and memory. Every default is meant for cameras of up to some 30 Mbit/s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StitchConfig {
    /// Emitted access units remembered per track, to recognise them on another leg. At 25 fps 1024 are 41 s.
    pub history: usize,
    /// How long the payloads of emitted units are kept while one leg is open. Needed only to align a leg in *another*
    /// sequence space that begins with units emitted before it was opened, when the older leg is dead: rare, since a
    /// crash takes longer to see than legs lie apart, and costly, since payloads cool the caches. With another leg open,
    /// hashes are taken as units go out.
    pub retained: Duration,
    /// Bytes of retained payloads per track.
    pub max_retained_bytes: usize,
    /// Bytes of units and of the open unit that wait on one leg, per track; the oldest are dropped beyond it.
    pub max_buffered_bytes: usize,
    /// The largest skew between two legs that content is searched for.
    pub max_skew: Duration,
    /// A track without packets for this long on the older legs needs no proof to be covered.
    pub silent_track: Duration,
    /// How long a leg's alignment is searched before the switch is made without proof, at a keyframe.
    pub alignment_wait: Duration,
    /// How long a loss on one leg waits for another leg that may still bring the missing units.
    pub straggler_wait: Duration,
    /// Equal content hashes in a row, with equal spacing, that prove an alignment between different spaces.
    pub min_run: usize,
}

impl Default for StitchConfig {
    fn default() -> Self {
        Self {
            history: 1024,
            retained: Duration::ZERO,
            max_retained_bytes: 8 << 20,
            max_buffered_bytes: 32 << 20,
            max_skew: Duration::from_secs(10),
            silent_track: Duration::from_secs(2),
            alignment_wait: Duration::from_secs(3),
            straggler_wait: Duration::from_secs(2),
            min_run: 3,
        }
    }
}

/// What [`Stitch::poll`](crate::Stitch::poll) gives.
#[derive(Clone, Debug)]
pub enum Output {
    /// The next access unit of its track, in decode order.
    Unit(AccessUnit),
    /// Something is missing between the last unit of this track and the next.
    Discontinuity(Discontinuity),
    /// Everything after the last emitted unit will come from `leg`, on every track: the legs opened before it can be
    /// closed and nothing is missing. Said once for each leg but the first. `lossless` is false when a discontinuity
    /// stands where a track first went over to this leg.
    Covered { leg: LegKey, lossless: bool },
}

/// All packets of one picture (or audio frame): those with one RTP timestamp. As they came, from one leg.
#[derive(Clone, Debug)]
pub struct AccessUnit {
    pub track: TrackId,
    /// Extended RTP timestamp in output space (that of the first leg, unwrapped), in ticks of the track's clock. Unique
    /// on its track unless the camera's clock goes back; with B-frames it runs backwards, since units come in decode order.
    pub rtp_time: i64,
    /// Position on its track in decode order, from 0, counting emitted units.
    pub index: u64,
    /// A decoder can start here: H.264 NAL unit type 5, H.265 types 16 to 21; always true for [`Codec::Other`].
    pub keyframe: bool,
    /// The packets, unchanged, in their leg's own sequence and timestamp space.
    pub packets: Arc<Vec<RtpPacket>>,
    /// The leg that brought it.
    pub leg: LegKey,
    /// When its last packet came, on the caller's clock.
    pub received: Duration,
    /// The rest of the unit emitted just before, with the same `rtp_time`: a sender set the marker too early. After the
    /// first such unit the track no longer trusts markers, so this happens once.
    pub continuation: bool,
}

impl AccessUnit {
    /// The unit as an Annex B byte stream (ITU-T H.264/H.265): each NAL unit after a four-byte start code, aggregation
    /// and fragmentation undone. For [`Codec::Other`], the payloads one after another. Payloads that no RFC explains are
    /// left out.
    pub fn annex_b(&self, codec: Codec) -> Bytes {
        payload::annex_b(codec, &self.packets)
    }

    /// Hash of the pictures' NAL units (VCL), however they were packetised; of all payload bytes where there are none.
    pub fn content_hash(&self, codec: Codec) -> u64 {
        payload::content_hash(codec, &self.packets)
    }

    /// Payload bytes in all.
    pub fn payload_len(&self) -> usize {
        self.packets.iter().map(|packet| packet.payload.len()).sum()
    }
}

/// A place where the output of one track is not proven to be whole. Comes just before the unit at `before`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discontinuity {
    pub track: TrackId,
    /// `rtp_time` of the last unit emitted.
    pub after: Option<i64>,
    /// `rtp_time` of the next one.
    pub before: i64,
    /// Packets that are missing, from the sequence numbers; packets of units that came in part are among them. `None`
    /// when the numbers cannot tell.
    pub lost_packets: Option<u64>,
    pub kind: DiscontinuityKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiscontinuityKind {
    /// Packets that no leg brought. Units lost lie between `after` and `before`.
    Lost,
    /// The track went over to a leg whose place in the stream is not known: units may be missing or come twice.
    UnprovenSwitch,
}

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Access units emitted, over all tracks.
    pub frames: u64,
    /// Legs, after the first, that took over ([`Output::Covered`]).
    pub handovers: u64,
    /// Of these, the ones that went over to the leg without proof of its place, on any track.
    pub unproven_handovers: u64,
    /// Packets known to be lost on every leg.
    pub lost_packets: u64,
    /// Units that came again on another leg, and were dropped.
    pub duplicates_dropped: u64,
    /// Units that came after their loss had been declared, and were dropped.
    pub late_dropped: u64,
    /// Units dropped because a leg's buffer was full.
    pub overflow_dropped: u64,
    /// Packets that came twice on one leg, or for an unknown leg or track.
    pub stray_packets: u64,
}
