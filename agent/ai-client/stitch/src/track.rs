//! One track: decides which leg's unit comes next.
//!
//! A leg *offers* its front unit when nothing lies between the unit emitted last and that one. If any leg offers, its
//! unit is emitted. If none does, and a leg is already past a gap, the others are waited for as long as they may still
//! bring what is missing; then the loss is declared and the earliest unit taken. Decode order is the order within a leg;
//! timestamps name units and never order them.

use std::time::Duration;

use crate::alignment::{self, Mark, Offsets, Search};
use crate::assembler::{Habits, Joining, Unit};
use crate::history::{Emitted, History};
use crate::leg::{LegTrack, Place};
use crate::payload;
use crate::stitch::Sink;
use crate::types::{
    AccessUnit, Discontinuity, DiscontinuityKind, LegKey, Output, RtpPacket, StitchConfig, TrackConfig, TrackId,
};

/// The packets of one unit come within this time, as long as they come at all.
const LONGEST_UNIT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Track {
    id: TrackId,
    config: TrackConfig,
    limits: StitchConfig,
    pub(crate) legs: Vec<LegTrack>,
    pub(crate) history: History,
    habits: Habits,
}

impl Track {
    pub(crate) fn new(id: TrackId, config: TrackConfig, limits: StitchConfig) -> Self {
        Self { id, config, limits, legs: Vec::new(), history: History::new(&limits), habits: Habits::default() }
    }

    pub(crate) fn open_leg(&mut self, now: Duration, key: LegKey) {
        self.legs.push(LegTrack::new(key, self.config.codec, &self.limits, now));
    }

    pub(crate) fn close_leg(&mut self, now: Duration, key: LegKey, sink: &mut Sink) {
        for leg in self.legs.iter_mut().filter(|leg| leg.key == key) {
            leg.closed = true;
        }
        self.advance(now, sink);
    }

    #[inline]
    pub(crate) fn push(&mut self, now: Duration, key: LegKey, packet: RtpPacket, sink: &mut Sink) {
        let Some(at) = self.legs.iter().position(|leg| leg.key == key && !leg.closed) else {
            sink.counters.stray_packets += 1;
            return;
        };
        let joining = if self.legs[at].assembler.last().is_none() { self.joining(at, now) } else { Joining::default() };
        match self.legs[at].push(now, packet, joining, &mut self.habits) {
            None => sink.counters.stray_packets += 1,
            Some(0) => {}
            Some(units) => self.units_came(now, at, units, sink),
        }
    }

    /// A new leg's first packet is unwrapped near the output's end, or else whatever came last.
    fn joining(&self, at: usize, now: Duration) -> Joining {
        let near = match self.history.last() {
            Some(last) => Some((last.last_seq, last.time)),
            None => self.legs.iter().find_map(|leg| leg.assembler.last()),
        };
        Joining { near, waited: now.saturating_sub(self.legs[at].active) >= LONGEST_UNIT }
    }

    fn units_came(&mut self, now: Duration, at: usize, units: usize, sink: &mut Sink) {
        let leg = &mut self.legs[at];
        match leg.place {
            Place::Retired => leg.clear(),
            Place::Searching => {
                leg.searching_since.get_or_insert(now);
                sink.counters.overflow_dropped += leg.bound(self.limits.max_buffered_bytes, self.limits.history);
                self.search(at, sink);
            }
            Place::Aligned(_) => {
                if !leg.goes_on_from(&self.history) {
                    leg.drop_emitted(&self.history, units, sink.counters);
                }
                sink.counters.overflow_dropped += leg.bound(self.limits.max_buffered_bytes, usize::MAX);
            }
        }
        self.advance(now, sink);
    }

    /// Nothing after the last emitted unit would be missing here with this leg alone.
    pub(crate) fn covered_by(&self, key: LegKey, now: Duration) -> bool {
        let Some(leg) = self.legs.iter().find(|leg| leg.key == key) else { return false };
        if leg.covers() {
            return true;
        }
        // A silent track: nothing waits here, and nobody brings anything.
        let silent = |leg: &LegTrack| now.saturating_sub(leg.active) >= self.limits.silent_track;
        leg.queue.is_empty() && self.legs.iter().filter(|leg| !leg.closed).all(silent)
    }

    pub(crate) fn entry(&self, key: LegKey) -> Option<DiscontinuityKind> {
        self.legs.iter().find(|leg| leg.key == key).and_then(|leg| leg.entry)
    }

    /// Emits all that can be, and applies the time rules.
    pub(crate) fn advance(&mut self, now: Duration, sink: &mut Sink) {
        while self.step(now, sink) {}
        if self.legs.iter().any(|leg| leg.closed) {
            self.legs.retain(|leg| !leg.closed || (leg.offsets().is_some() && !leg.queue.is_empty()));
        }
    }

    fn step(&mut self, now: Duration, sink: &mut Sink) -> bool {
        if self.history.next_index() == 0 {
            // Whoever is first defines output space.
            let Some(at) = self.legs.iter().position(|leg| !leg.queue.is_empty()) else { return false };
            self.legs[at].align(Offsets::SAME, &self.history, sink.counters);
            self.emit(at, None, sink);
            return true;
        }
        if let Some(at) = self.legs.iter().position(|leg| leg.goes_on_from(&self.history)) {
            self.emit(at, None, sink);
            return true;
        }
        for leg in &mut self.legs {
            if leg.front_is_late(&self.history) {
                leg.pop();
                sink.counters.late_dropped += 1;
                return true;
            }
        }
        self.adopt(now, sink) || self.declare_loss(now, sink)
    }

    /// Emits the front unit of a leg.
    fn emit(&mut self, at: usize, break_before: Option<(DiscontinuityKind, Option<u64>)>, sink: &mut Sink) {
        let Some(offsets) = self.legs[at].offsets() else { return };
        let after = self.history.last().map(|last| last.time);
        let expected_seq = self.history.last().map(|last| last.last_seq + 1);
        let alone = self.legs.len() == 1;
        let leg = &mut self.legs[at];
        let Some(unit) = leg.pop() else { return };
        let time = unit.time + offsets.time;
        let index = self.history.next_index();
        if let Some((kind, lost_packets)) = break_before {
            if leg.met.is_none() {
                leg.entry = Some(kind);
            }
            if kind == DiscontinuityKind::UnprovenSwitch {
                self.history.forget();
            }
            sink.counters.lost_packets += lost_packets.unwrap_or(0);
            sink.outputs.push_back(Output::Discontinuity(Discontinuity {
                track: self.id,
                after,
                before: time,
                lost_packets,
                kind,
            }));
        }
        // Where nothing is missing, output numbers go on, and the leg's offset is read off them again. The only leg's
        // numbering is the output's.
        let first_seq = match (break_before, expected_seq) {
            (None, Some(expected)) => expected,
            _ => unit.first_seq + offsets.seq,
        };
        leg.place = Place::Aligned(Offsets {
            seq: first_seq - unit.first_seq,
            seq_steady: offsets.seq_steady || alone,
            ..offsets
        });
        let renumbers = !offsets.seq_steady;
        leg.met = Some(index);
        let key = leg.key;
        let last_seq = first_seq + (unit.last_seq - unit.first_seq);
        let received = unit.received;
        // Other legs bring it too, and know it by its content.
        let is_compared = self.legs.iter().enumerate().any(|(other, leg)| other != at && leg.place != Place::Retired);
        let codec = self.config.codec;
        let hash = is_compared.then(|| unit.hash.unwrap_or_else(|| payload::content_hash(codec, &unit.packets)));
        let joined = break_before.is_none();
        let numbers = (first_seq, last_seq);
        self.history.push(Emitted::new(time, numbers, unit.packets.clone(), unit.len, joined, received, hash));
        if renumbers {
            self.history.mark_renumbered();
        }
        sink.counters.frames += 1;
        sink.outputs.push_back(Output::Unit(AccessUnit {
            track: self.id,
            rtp_time: time,
            index,
            keyframe: unit.keyframe,
            packets: unit.packets,
            leg: key,
            received,
            continuation: unit.continuation,
        }));
        for other in (0..self.legs.len()).filter(|other| *other != at) {
            match self.legs[other].place {
                Place::Aligned(_) => self.legs[other].drop_just_emitted(&self.history, sink.counters),
                Place::Searching if !self.legs[other].queue.is_empty() => {
                    self.search(other, sink);
                }
                _ => {}
            }
        }
    }

    /// Looks for the place of a searching leg, in the output and in what aligned legs have waiting. What it cannot
    /// prove it returns.
    fn search(&mut self, at: usize, sink: &mut Sink) -> Search {
        let Some(oldest) = self.legs[at].queue.front().map(|unit| unit.received) else { return Search::Nothing };
        let codec = self.config.codec;
        let mut output: Vec<Mark> = self
            .history
            .since(oldest.saturating_sub(self.limits.max_skew))
            .map(|emitted| Mark {
                time: emitted.time,
                first_seq: emitted.first_seq,
                last_seq: emitted.last_seq,
                len: emitted.len,
                hash: emitted.hash(codec),
                joined: emitted.joined,
                received: emitted.received,
            })
            .collect();
        for leg in self.legs.iter_mut().filter(|leg| leg.offsets().is_some()) {
            output.extend(leg.marks(codec));
        }
        let waiting: Vec<Mark> = self.legs[at].marks(codec).collect();
        let as_another = self.numbered_as_another(at).into_iter().find(|offsets| {
            offsets.seq_steady && alignment::shares_numbers(&output, &waiting, *offsets, self.limits.max_skew)
        });
        let found = match as_another {
            Some(offsets) => Search::Proven(offsets),
            None => alignment::search(&output, &waiting, self.limits.max_skew, self.limits.min_run),
        };
        if let Search::Proven(offsets) = found {
            let waiting = |leg: &&LegTrack| leg.front().is_some();
            let numbers_hold = self.legs.iter().filter(waiting).all(|leg| leg.numbers_hold(&self.history));
            let leg = &mut self.legs[at];
            leg.align(offsets, &self.history, sink.counters);
            if numbers_hold && leg.met.is_none() {
                leg.placed = self.history.next_index().checked_sub(1);
            }
        }
        found
    }

    /// The offsets that a leg would have if its numbers were those of another one, for each other that has a place. The
    /// two may have been unwrapped to different multiples of what numbers and timestamps wrap at.
    fn numbered_as_another(&self, at: usize) -> Vec<Offsets> {
        let Some((seq, time)) = self.legs[at].assembler.last() else { return Vec::new() };
        let whole_turns = |from: i64, to: i64, turn: i64| (to - from + turn / 2).div_euclid(turn) * turn;
        let others = self.legs.iter().filter(|leg| leg.key != self.legs[at].key);
        let same = others.filter_map(|leg| {
            let (offsets, (their_seq, their_time)) = (leg.offsets()?, leg.assembler.last()?);
            Some(Offsets {
                time: offsets.time + whole_turns(time, their_time, 1 << 32),
                seq: offsets.seq + whole_turns(seq, their_seq, 1 << 16),
                seq_steady: offsets.seq_steady,
            })
        });
        same.filter(|offsets| *offsets != Offsets::SAME).collect()
    }

    /// Places a leg that has units and found no proof, once the other legs bring nothing any more or the wait is over.
    fn adopt(&mut self, now: Duration, sink: &mut Sink) -> bool {
        for at in 0..self.legs.len() {
            let leg = &self.legs[at];
            if leg.place != Place::Searching || leg.queue.is_empty() || leg.closed {
                continue;
            }
            let others_ended = self.legs.iter().all(|other| {
                other.key == leg.key
                    || other.offsets().is_none()
                    || other.closed
                    || now.saturating_sub(other.active) >= self.limits.silent_track
            });
            let over = leg.searching_since.is_some_and(|since| now.saturating_sub(since) >= self.limits.alignment_wait);
            if (others_ended || over) && self.adopt_leg(at, now, others_ended, over, sink) {
                return true;
            }
        }
        false
    }

    fn adopt_leg(&mut self, at: usize, now: Duration, others_ended: bool, over: bool, sink: &mut Sink) -> bool {
        if self.continues_numbers(at) {
            self.legs[at].align(Offsets::SAME, &self.history, sink.counters);
            return true;
        }
        let found = self.search(at, sink);
        match found {
            Search::Proven(_) => return true,
            Search::Likely(offsets) if others_ended => {
                self.legs[at].align(offsets, &self.history, sink.counters);
                return true;
            }
            Search::Nothing => {}
            _ if !over => return false,
            _ => {}
        }
        self.switch_without_proof(at, now, others_ended, sink)
    }

    /// Whether a leg's first unit is, by its numbers, what comes after the output's end: the sequence number is ahead by
    /// no more than the time passed allows, and the timestamp agrees with the clock. For random starting values (RFC
    /// 3550 section 5.1) both are so once in some million legs.
    fn continues_numbers(&self, at: usize) -> bool {
        let (Some(front), Some(last)) = (self.legs[at].queue.front(), self.history.last()) else { return false };
        let clock = f64::from(self.config.clock_rate.max(1));
        let by_time = (front.time - last.time) as f64 / clock;
        let by_clock = front.received.as_secs_f64() - last.received.as_secs_f64();
        let ahead = front.first_seq - last.last_seq;
        let pace = self.packets_per_second();
        // Half of the sequence numbers, where their order becomes a guess.
        let most = (pace * (by_clock.max(0.0) + 2.0 * NUMBERS_TOLERANCE_S) + 64.0).min(f64::from(i16::MAX));
        (by_time - by_clock).abs() <= NUMBERS_TOLERANCE_S
            && ahead >= 1
            && ahead as f64 <= most
            && pace * by_clock < f64::from(i16::MAX)
            && self.history.renumbered().is_none()
            && self.history.find(None, |_, emitted| emitted.time == front.time).is_none()
    }

    /// Over the history, for an estimate; a burst of twice as many is allowed for.
    fn packets_per_second(&self) -> f64 {
        let (Some(first), Some(last)) = (self.history.first(), self.history.last()) else { return 0.0 };
        let seconds = (last.received.saturating_sub(first.received)).as_secs_f64().max(0.5);
        2.0 * (last.last_seq - first.first_seq + 1) as f64 / seconds
    }

    /// Goes over to a leg at a keyframe, and says that this is no proof. With another leg still running, only at a
    /// keyframe that has just come, so that little is repeated or left out.
    fn switch_without_proof(&mut self, at: usize, now: Duration, others_ended: bool, sink: &mut Sink) -> bool {
        let (Some((end, end_time)), key) =
            (self.history.last().map(|last| (last.received, last.time)), self.legs[at].key)
        else {
            return false;
        };
        let since = if others_ended { end } else { now };
        let fits = |unit: &Unit| unit.keyframe && unit.received >= since;
        let Some(keyframe) = self.legs[at].queue.iter().position(fits) else { return false };
        for _ in 0..keyframe {
            self.legs[at].pop();
        }
        let Some(front) = self.legs[at].queue.front() else { return false };
        let clock = f64::from(self.config.clock_rate.max(1));
        let elapsed = front.received.saturating_sub(end).as_secs_f64();
        let same_time = ((front.time - end_time) as f64 / clock - elapsed).abs() <= NUMBERS_TOLERANCE_S;
        let newest = self.history.newest_time().unwrap_or(end_time);
        let time = if same_time { 0 } else { newest.max(end_time) + ((elapsed * clock) as i64).max(1) - front.time };
        for leg in self.legs.iter_mut().filter(|leg| leg.key != key) {
            if leg.key < key { leg.retire() } else { leg.search_again() }
        }
        let leg = &mut self.legs[at];
        leg.place = Place::Aligned(Offsets { time, seq: 0, seq_steady: true });
        leg.searching_since = None;
        self.emit(at, Some((DiscontinuityKind::UnprovenSwitch, None)), sink);
        true
    }

    /// No leg offers. If one is past a gap and none may still fill it, says so and goes on behind it.
    fn declare_loss(&mut self, now: Duration, sink: &mut Sink) -> bool {
        let past = |leg: &&LegTrack| leg.front().is_some();
        let Some(since) = self.legs.iter().filter(past).filter_map(|leg| Some(leg.front()?.0.received)).min() else {
            return false;
        };
        let others = self.legs.iter().any(|leg| !leg.closed && leg.front().is_none() && leg.place != Place::Retired);
        if others && now.saturating_sub(since) < self.limits.straggler_wait {
            return false;
        }
        let mut first: Option<usize> = None;
        for (at, leg) in self.legs.iter().enumerate().filter(|(_, leg)| past(leg)) {
            if first.is_none_or(|first| comes_before(leg, &self.legs[first], &self.history)) {
                first = Some(at);
            }
        }
        let Some(at) = first else { return false };
        let lost = self.legs[at].lost_before_front(&self.history);
        self.emit(at, Some((DiscontinuityKind::Lost, lost)), sink);
        true
    }
}

/// How far RTP time and the clock may differ over the time between two legs, in seconds: skew, jitter and the reordering
/// of B-frames, with a wide margin.
const NUMBERS_TOLERANCE_S: f64 = 2.0;

/// Whether `a`'s front unit belongs before `b`'s.
fn comes_before(a: &LegTrack, b: &LegTrack, history: &History) -> bool {
    let (Some((ours, our)), Some((theirs, their))) = (a.front(), b.front()) else { return false };
    let (our_time, their_time) = (ours.time + our.time, theirs.time + their.time);
    if a.numbers_hold(history) && b.numbers_hold(history) {
        let (our_first, their_first) = (ours.first_seq + our.seq, theirs.first_seq + their.seq);
        let apart = ours.last_seq + our.seq < their_first || theirs.last_seq + their.seq < our_first;
        if our_time != their_time || apart {
            return our_first < their_first;
        }
    }
    if our_time == their_time {
        return ours.start > theirs.start;
    }
    let holds = |leg: &LegTrack, offset: i64, time: i64| leg.queue.iter().any(|unit| unit.time + offset == time);
    if holds(a, our.time, their_time) {
        return true;
    }
    !holds(b, their.time, our_time) && our_time < their_time
}
