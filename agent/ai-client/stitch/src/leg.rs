//! One leg's part in one track: its whole units that were not emitted yet, and where they belong.
//!
//! ```text
//!              proof, or same numbers         its unit emitted, or met in the history
//!  Searching --------------------------> Aligned ----------------------------------> met
//!      |  \----- switch without proof -------^
//!      v
//!   Retired    a younger leg was switched to without proof: its place is no longer known
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use crate::alignment::{Mark, Offsets};
use crate::assembler::{Assembler, Gap, Habits, Joining, Unit};
use crate::history::{Emitted, History};
use crate::payload;
use crate::types::{Codec, Counters, DiscontinuityKind, LegKey, RtpPacket, StitchConfig};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Searching,
    Aligned(Offsets),
    Retired,
}

#[derive(Debug)]
pub(crate) struct LegTrack {
    pub(crate) key: LegKey,
    pub(crate) place: Place,
    /// The connection is gone; kept as long as it holds units that may be needed.
    pub(crate) closed: bool,
    pub(crate) assembler: Assembler,
    /// Whole units in decode order, none of them emitted yet as far as alignment can tell.
    pub(crate) queue: VecDeque<Unit>,
    queue_cost: usize,
    /// Index in the history of the newest emitted unit that this leg also brought, or brought alone. The front of the
    /// queue is the unit after it.
    pub(crate) met: Option<u64>,
    /// Index of the newest emitted unit when the leg was placed by units that wait on others, whose numbers held then.
    pub(crate) placed: Option<u64>,
    /// When the first unit came that waits for alignment.
    pub(crate) searching_since: Option<Duration>,
    /// The last packet, or the opening.
    pub(crate) active: Duration,
    /// What came before its first unit in the output, if that followed none it knew.
    pub(crate) entry: Option<DiscontinuityKind>,
}

impl LegTrack {
    pub(crate) fn new(key: LegKey, codec: Codec, config: &StitchConfig, now: Duration) -> Self {
        Self {
            key,
            place: Place::Searching,
            closed: false,
            assembler: Assembler::new(codec, config.max_buffered_bytes),
            queue: VecDeque::new(),
            queue_cost: 0,
            met: None,
            placed: None,
            searching_since: None,
            active: now,
            entry: None,
        }
    }

    /// Takes a packet; the number of units that became whole by it, or `None` for a packet that came before.
    #[inline]
    pub(crate) fn push(
        &mut self,
        now: Duration,
        packet: RtpPacket,
        joining: Joining,
        habits: &mut Habits,
    ) -> Option<usize> {
        self.active = now;
        let (queue, cost, mut count) = (&mut self.queue, &mut self.queue_cost, 0);
        let fresh = self.assembler.push(now, packet, joining, habits, |unit| {
            *cost += unit.cost();
            queue.push_back(unit);
            count += 1;
        });
        fresh.then_some(count)
    }

    pub(crate) fn offsets(&self) -> Option<Offsets> {
        match self.place {
            Place::Aligned(offsets) => Some(offsets),
            _ => None,
        }
    }

    /// The next unit and the offsets that place it.
    pub(crate) fn front(&self) -> Option<(&Unit, Offsets)> {
        Some((self.queue.front()?, self.offsets()?))
    }

    pub(crate) fn pop(&mut self) -> Option<Unit> {
        let unit = self.queue.pop_front()?;
        self.queue_cost -= unit.cost();
        Some(unit)
    }

    pub(crate) fn retire(&mut self) {
        self.place = Place::Retired;
        self.clear();
    }

    /// Back to the search, when the output it was aligned to ended.
    pub(crate) fn search_again(&mut self) {
        self.place = Place::Searching;
        self.met = None;
        self.placed = None;
    }

    pub(crate) fn clear(&mut self) {
        self.queue.clear();
        self.queue_cost = 0;
    }

    /// Keeps the buffer within its bound, dropping the oldest units; says how many.
    pub(crate) fn bound(&mut self, max_cost: usize, max_units: usize) -> u64 {
        let mut dropped = 0;
        while self.queue_cost > max_cost || self.queue.len() > max_units {
            if self.pop().is_none() {
                break;
            }
            dropped += 1;
        }
        if let (true, Some(front)) = (dropped > 0, self.queue.front_mut()) {
            front.gap = Gap::Dropped;
        }
        dropped
    }

    pub(crate) fn align(&mut self, offsets: Offsets, history: &History, counters: &mut Counters) {
        self.place = Place::Aligned(offsets);
        self.searching_since = None;
        self.drop_emitted(history, self.queue.len(), counters);
    }

    /// Drops what the history holds, looking at the `newest` units, and what lies before that, and notes where the rest
    /// goes on.
    pub(crate) fn drop_emitted(&mut self, history: &History, newest: usize, counters: &mut Counters) {
        let oldest = self.queue.len().saturating_sub(newest);
        self.take_hashes(oldest);
        let found = |leg: &Self, unit: &Unit, after| {
            history.find(after, |index, emitted| leg.is_same(unit, index, emitted, history))
        };
        let Some((last, index)) =
            (oldest..self.queue.len()).rev().find_map(|at| Some((at, found(self, &self.queue[at], self.met)?)))
        else {
            return;
        };
        for at in 0..=last {
            let Some(unit) = self.pop() else { break };
            if at == last {
                counters.duplicates_dropped += 1;
                self.meet(index, &unit, history);
            } else if found(self, &unit, None).is_some() {
                counters.duplicates_dropped += 1;
            } else {
                counters.late_dropped += 1;
            }
        }
    }

    /// Called when another leg's unit was emitted: drops it here, with all before it.
    pub(crate) fn drop_just_emitted(&mut self, history: &History, counters: &mut Counters) {
        let (Some(offsets), Some(emitted)) = (self.offsets(), history.last()) else { return };
        let Some(first) = self.queue.iter().position(|unit| unit.time + offsets.time == emitted.time) else { return };
        let index = history.next_index() - 1;
        self.take_hashes(first);
        let Some(at) = self.queue.iter().rposition(|unit| self.is_same(unit, index, emitted, history)) else { return };
        for position in 0..=at {
            let Some(unit) = self.pop() else { break };
            if position == at {
                counters.duplicates_dropped += 1;
                self.meet(index, &unit, history);
            } else {
                counters.late_dropped += 1;
            }
        }
    }

    /// `unit` of this leg is the emitted unit at `index`. The time alone does not say so, since a clock that goes back gives
    /// it to two units: their content has to agree, or else, where it is known no more, their numbers.
    fn is_same(&self, unit: &Unit, index: u64, emitted: &Emitted, history: &History) -> bool {
        let Some(offsets) = self.offsets() else { return false };
        if unit.time + offsets.time != emitted.time {
            return false;
        }
        match (unit.hash, emitted.known_hash()) {
            (Some(ours), Some(theirs)) => ours == theirs,
            // Some packets in common: relays may make more of them.
            _ if self.numbers_hold(history) && history.renumbered().is_none_or(|last| last <= index) => {
                unit.first_seq + offsets.seq <= emitted.last_seq && emitted.first_seq <= unit.last_seq + offsets.seq
            }
            _ => true,
        }
    }

    /// Of the units that wait, from the one at `from`.
    fn take_hashes(&mut self, from: usize) {
        let codec = self.assembler.codec();
        for unit in self.queue.range_mut(from..) {
            unit.hash.get_or_insert_with(|| payload::content_hash(codec, &unit.packets));
        }
    }

    /// `unit` of this leg is the emitted unit at `index`: the sequence offset is read off it again.
    fn meet(&mut self, index: u64, unit: &Unit, history: &History) {
        self.met = Some(index);
        if let (Place::Aligned(offsets), Some(emitted)) = (&mut self.place, history.get(index)) {
            let seq = emitted.last_seq - unit.last_seq;
            offsets.seq_steady &= seq == offsets.seq;
            offsets.seq = seq;
        }
    }

    /// Its numbers, with the offset, can be compared with those of the output's end.
    pub(crate) fn numbers_hold(&self, history: &History) -> bool {
        self.offsets().is_some_and(|offsets| offsets.seq_steady) && self.met.max(self.placed) >= history.renumbered()
    }

    /// The front of the queue follows what was emitted last, with nothing between.
    #[inline]
    pub(crate) fn goes_on_from(&self, history: &History) -> bool {
        let Some((front, offsets)) = self.front() else { return false };
        if front.gap == Gap::None && self.met.is_some() && self.met == history.next_index().checked_sub(1) {
            return true;
        }
        // Without having met that unit: the numbers are as good, where they can be trusted.
        front.gap != Gap::Restart
            && self.numbers_hold(history)
            && history.last().is_some_and(|last| last.last_seq + 1 == front.first_seq + offsets.seq)
    }

    /// Packets that lie between what was emitted last and the front of the queue, when the numbers tell.
    pub(crate) fn lost_before_front(&self, history: &History) -> Option<u64> {
        let (front, offsets) = self.front()?;
        match front.gap {
            Gap::Restart => None,
            Gap::Lost(packets) if self.met == history.next_index().checked_sub(1) => Some(packets),
            _ if self.numbers_hold(history) => {
                u64::try_from(front.first_seq + offsets.seq - history.last()?.last_seq - 1).ok()
            }
            _ => None,
        }
    }

    /// The numbers show that the front of the queue lies before what was emitted last, or in it. So must the time, since
    /// dropping a unit by mistake would be a silent loss.
    pub(crate) fn front_is_late(&self, history: &History) -> bool {
        let (Some((front, offsets)), Some(last)) = (self.front(), history.last()) else { return false };
        front.gap != Gap::Restart
            && self.numbers_hold(history)
            && front.last_seq + offsets.seq <= last.last_seq
            && front.time + offsets.time <= last.time
    }

    /// Its next unit follows the last emitted one or comes again: nothing after that unit is missing here.
    pub(crate) fn covers(&self) -> bool {
        self.offsets().is_some() && self.met.is_some() && self.queue.is_empty() && self.assembler.is_whole()
    }

    /// The waiting units for [`alignment::search`](crate::alignment::search), in output space where the leg is aligned.
    pub(crate) fn marks(&mut self, codec: Codec) -> impl Iterator<Item = Mark> {
        let offsets = self.offsets().unwrap_or(Offsets::SAME);
        self.queue.iter_mut().map(move |unit| {
            let hash = *unit.hash.get_or_insert_with(|| payload::content_hash(codec, &unit.packets));
            Mark {
                time: unit.time + offsets.time,
                first_seq: unit.first_seq + offsets.seq,
                last_seq: unit.last_seq + offsets.seq,
                len: unit.len,
                hash: Some(hash),
                joined: unit.gap == Gap::None,
                received: unit.received,
            }
        })
    }
}
