//! Packets of one leg and one track, grouped into access units.
//!
//! RTSP runs over TCP here, so packets come in order: a jump in the sequence numbers means packets that this leg will
//! never bring. A unit is whole when its first packet is known to be the first, no number is missing in it, and its end
//! was seen. What is not whole is left out, and the next unit says how many packets lie between.

use std::sync::Arc;
use std::time::Duration;

use crate::payload::{self, Start};
use crate::types::{Codec, RtpPacket};

/// Beside its payload, what a buffered packet is counted for: `RtpPacket` itself and the allocation behind `Bytes`.
pub(crate) const PACKET_OVERHEAD: usize = 96;

/// Numbers this far back are packets that came twice, not a jump. TCP cannot reorder, but a server may send again.
const STALE_WINDOW: i16 = 64;

/// Units of one unmarked packet in a row after which a track of [`Codec::Other`] is taken to be made of such (G.711,
/// Opus), so that none waits for the next one's timestamp.
const LONE_PACKETS: u32 = 4;

/// What a track's legs have learned of how its sender makes packets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    pub(crate) end: UnitEnd,
    /// The NAL unit types that whole units started with, as bits: of other units, and of keyframes. After a gap a unit
    /// that starts with another type has lost its start.
    starts: [u64; 2],
    /// The same of units that a leg began with: the best guess while nothing surer is known.
    first_starts: [u64; 2],
    /// [`Codec::Other`]: units of several packets were seen (MJPEG, metadata). Nothing in a payload tells then whether it
    /// is the first.
    several: bool,
}

impl Default for Habits {
    fn default() -> Self {
        Self { end: UnitEnd::Marker, starts: [0; 2], first_starts: [0; 2], several: false }
    }
}

/// How the end of a unit is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnitEnd {
    /// By the marker bit, or by the next timestamp where it is missing.
    Marker,
    /// By the next timestamp: markers were seen in mid-unit.
    NextTimestamp,
    /// Every packet is a unit.
    EachPacket,
}

/// What is known when the first packet of a leg comes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Joining {
    /// An extended sequence number and timestamp: near these the packet's are to be unwrapped.
    pub(crate) near: Option<(i64, i64)>,
    /// The leg had been open for longer than the packets of a unit take to come, so this is a unit's first.
    pub(crate) waited: bool,
}

impl Joining {
    /// The packet begins a unit: it is the one after the last of another.
    fn begins(&self, seq: i64, time: i64) -> bool {
        self.waited || self.near.is_some_and(|(last, last_time)| seq == last + 1 && time != last_time)
    }
}

/// A whole access unit of one leg. Numbers and time are extended, in the leg's own space.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    pub(crate) time: i64,
    pub(crate) first_seq: i64,
    pub(crate) last_seq: i64,
    pub(crate) packets: Arc<Vec<RtpPacket>>,
    /// Payload bytes.
    pub(crate) len: usize,
    pub(crate) keyframe: bool,
    pub(crate) start: Start,
    pub(crate) gap: Gap,
    pub(crate) received: Duration,
    pub(crate) continuation: bool,
    /// Content hash, once somebody needed it.
    pub(crate) hash: Option<u64>,
}

impl Unit {
    pub(crate) fn cost(&self) -> usize {
        self.len + self.packets.len() * PACKET_OVERHEAD
    }
}

/// What lies between a unit and the whole unit before it on the same leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gap {
    /// It is the leg's first.
    First,
    /// Nothing.
    None,
    /// So many packets, come or not, that are in no whole unit.
    Lost(u64),
    /// Units dropped from a full buffer; sequence numbers go on.
    Dropped,
    /// The sequence numbers started anew.
    Restart,
}

#[derive(Debug)]
struct Open {
    time: i64,
    first_seq: i64,
    packets: Vec<RtpPacket>,
    len: usize,
    keyframe: bool,
    start: Start,
    continuation: bool,
}

#[derive(Debug)]
pub(crate) struct Assembler {
    codec: Codec,
    max_unit_bytes: usize,
    /// The last packet, extended.
    last: Option<(i64, i64)>,
    open: Option<Open>,
    /// `last` belonged to a unit that cannot become whole.
    skipping: bool,
    /// The last packet of the last whole unit; `None` before the first and after a jump of unknown size.
    whole_until: Option<i64>,
    began: bool,
    /// The last packet of the last whole unit holds a part of a picture.
    ended_in_slice: bool,
    typical_packets: usize,
    lone_packets: u32,
}

impl Assembler {
    pub(crate) fn new(codec: Codec, max_unit_bytes: usize) -> Self {
        Self {
            codec,
            max_unit_bytes,
            last: None,
            open: None,
            skipping: false,
            whole_until: None,
            began: false,
            ended_in_slice: false,
            typical_packets: 4,
            lone_packets: 0,
        }
    }

    pub(crate) fn codec(&self) -> Codec {
        self.codec
    }

    /// The last packet's extended sequence number and timestamp.
    pub(crate) fn last(&self) -> Option<(i64, i64)> {
        self.last
    }

    /// Nothing is missing between the last whole unit and the last packet.
    pub(crate) fn is_whole(&self) -> bool {
        match (&self.open, self.whole_until, self.last) {
            (Some(open), Some(until), _) => open.first_seq == until + 1,
            (None, Some(until), Some((last, _))) => last == until,
            _ => false,
        }
    }

    /// Takes the next packet. `joining` is looked at for the first one of the leg. Calls `whole` for each unit that became whole: none, one, or two (the next
    /// timestamp ends one unit and the packet's marker ends another). False when the packet had come before.
    #[inline]
    pub(crate) fn push(
        &mut self,
        now: Duration,
        packet: RtpPacket,
        joining: Joining,
        habits: &mut Habits,
        mut whole: impl FnMut(Unit),
    ) -> bool {
        let Some((last_seq, last_time)) = self.last else {
            let (seq, time) = match joining.near {
                Some((seq, time)) => (extend_seq(seq, packet.sequence), extend_time(time, packet.timestamp)),
                None => (i64::from(packet.sequence), i64::from(packet.timestamp)),
            };
            self.last = Some((seq, time));
            let start = match self.codec {
                Codec::Other if joining.begins(seq, time) => Start::Sure,
                _ => payload::unit_start(self.codec, &packet.payload),
            };
            self.begin(seq, time, packet, start, false);
            self.end_with_packet(now, habits, &mut whole);
            return true;
        };
        let step = packet.sequence.wrapping_sub(last_seq as u16) as i16;
        if step <= 0 && step > -STALE_WINDOW {
            return false;
        }
        let seq = last_seq + i64::from(step);
        let time = extend_time(last_time, packet.timestamp);
        self.last = Some((seq, time));
        if step == 1 {
            match &mut self.open {
                Some(open) if open.time == time => {
                    open.len += packet.payload.len();
                    open.keyframe = open.keyframe || payload::is_keyframe(self.codec, &packet.payload);
                    open.packets.push(packet);
                    if open.len + open.packets.len() * PACKET_OVERHEAD > self.max_unit_bytes {
                        self.open = None;
                        self.skipping = true;
                    }
                }
                Some(_) => {
                    self.finish(now, seq - 1, habits, &mut whole);
                    self.begin(seq, time, packet, Start::Sure, false);
                }
                None if time != last_time => self.begin(seq, time, packet, Start::Sure, false),
                None if self.skipping => {}
                // A picture ended, and another begins: the sender's clock went back.
                None if self.ended_in_slice && payload::unit_start(self.codec, &packet.payload) != Start::No => {
                    self.begin(seq, time, packet, Start::Sure, false);
                }
                None => {
                    // The marker came too early, or many units share a timestamp, which is the same to us.
                    habits.end = UnitEnd::NextTimestamp;
                    self.begin(seq, time, packet, Start::Sure, true);
                }
            }
        } else {
            self.open = None;
            if step < 0 {
                self.whole_until = None;
            }
            // With the old timestamp it is the tail of a unit whose middle is missing.
            let start = if time == last_time { Start::No } else { payload::unit_start(self.codec, &packet.payload) };
            self.begin(seq, time, packet, start, false);
        }
        self.end_with_packet(now, habits, &mut whole);
        true
    }

    fn begin(&mut self, seq: i64, time: i64, packet: RtpPacket, start: Start, continuation: bool) {
        self.skipping = start == Start::No;
        if self.skipping {
            self.open = None;
            return;
        }
        let mut packets = Vec::with_capacity(self.typical_packets);
        let keyframe = payload::is_keyframe(self.codec, &packet.payload);
        let len = packet.payload.len();
        packets.push(packet);
        self.open = Some(Open { time, first_seq: seq, packets, len, keyframe, start, continuation });
    }

    #[inline]
    fn end_with_packet(&mut self, now: Duration, habits: &mut Habits, whole: &mut impl FnMut(Unit)) {
        let Some(packet) = self.open.as_ref().and_then(|open| open.packets.last()) else { return };
        let ended = match habits.end {
            UnitEnd::Marker => packet.marker,
            UnitEnd::NextTimestamp => false,
            UnitEnd::EachPacket => true,
        };
        if let (true, Some((seq, _))) = (ended, self.last) {
            self.finish(now, seq, habits, whole);
        }
    }

    fn finish(&mut self, now: Duration, last_seq: i64, habits: &mut Habits, whole: &mut impl FnMut(Unit)) {
        let Some(open) = self.open.take() else { return };
        self.observe_end(&open, habits);
        if !self.starts_whole(&open, habits) {
            return;
        }
        let gap = match self.whole_until {
            Some(until) if until + 1 == open.first_seq => Gap::None,
            Some(until) => Gap::Lost((open.first_seq - until - 1).unsigned_abs()),
            None if self.began => Gap::Restart,
            None => Gap::First,
        };
        self.began = true;
        self.ended_in_slice = open.packets.last().is_some_and(|packet| payload::is_slice(self.codec, &packet.payload));
        self.whole_until = Some(last_seq);
        self.typical_packets = open.packets.len().clamp(1, 64);
        whole(Unit {
            time: open.time,
            first_seq: open.first_seq,
            last_seq,
            packets: Arc::new(open.packets),
            len: open.len,
            keyframe: open.keyframe,
            start: open.start,
            gap,
            received: now,
            continuation: open.continuation,
            hash: None,
        });
    }

    /// Whether the unit's first packet is its first, as far as the sender's habits tell; learns them.
    fn starts_whole(&self, open: &Open, habits: &mut Habits) -> bool {
        if self.codec == Codec::Other {
            habits.several |= open.packets.len() > 1;
            return open.start == Start::Sure || !habits.several;
        }
        let nal_type = payload::first_nal_type(self.codec, &open.packets[0].payload);
        let (class, bit) = (usize::from(open.keyframe), 1 << nal_type);
        if open.start == Start::Sure {
            habits.starts[class] |= bit;
            return true;
        }
        if habits.starts[class] != 0 {
            return habits.starts[class] & bit != 0;
        }
        if !self.began {
            habits.first_starts[class] |= bit;
            return true;
        }
        !open.keyframe || habits.first_starts[class] & bit != 0 || payload::leads_keyframe(self.codec, nal_type)
    }

    /// Learns that units of [`Codec::Other`] are single packets without markers.
    fn observe_end(&mut self, open: &Open, habits: &mut Habits) {
        if self.codec != Codec::Other || habits.end != UnitEnd::Marker {
            return;
        }
        let lone = open.packets.len() == 1 && !open.packets[0].marker;
        self.lone_packets = if lone { self.lone_packets + 1 } else { 0 };
        if self.lone_packets >= LONE_PACKETS {
            habits.end = UnitEnd::EachPacket;
        }
    }
}

/// The value nearest to `near` whose low 16 bits are `seq`.
pub(crate) fn extend_seq(near: i64, seq: u16) -> i64 {
    near + i64::from(seq.wrapping_sub(near as u16) as i16)
}

/// The value nearest to `near` whose low 32 bits are `time`.
pub(crate) fn extend_time(near: i64, time: u32) -> i64 {
    near + i64::from(time.wrapping_sub(near as u32) as i32)
}
