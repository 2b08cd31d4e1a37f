//! What a track has emitted lately, so that it is known again when another leg brings it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::payload;
use crate::types::{Codec, RtpPacket, StitchConfig};

/// An emitted unit. Time and numbers are in output space.
#[derive(Debug)]
pub(crate) struct Emitted {
    pub(crate) time: i64,
    pub(crate) first_seq: i64,
    pub(crate) last_seq: i64,
    pub(crate) len: usize,
    /// Nothing is missing between the unit before and this one.
    pub(crate) joined: bool,
    pub(crate) received: Duration,
    /// Gone once it is too old or too much is kept; then only the hash is left, if anybody asked for it before.
    packets: Option<Arc<Vec<RtpPacket>>>,
    hash: Option<u64>,
}

impl Emitted {
    pub(crate) fn new(
        time: i64,
        (first_seq, last_seq): (i64, i64),
        packets: Arc<Vec<RtpPacket>>,
        len: usize,
        joined: bool,
        received: Duration,
        hash: Option<u64>,
    ) -> Self {
        Self { time, first_seq, last_seq, len, joined, received, packets: Some(packets), hash }
    }

    /// The hash, if it was taken.
    pub(crate) fn known_hash(&self) -> Option<u64> {
        self.hash
    }

    pub(crate) fn hash(&mut self, codec: Codec) -> Option<u64> {
        if self.hash.is_none() {
            self.hash = self.packets.as_ref().map(|packets| payload::content_hash(codec, packets));
        }
        self.hash
    }
}

#[derive(Debug)]
pub(crate) struct History {
    entries: VecDeque<Emitted>,
    /// Index of `entries[0]`, counting all units ever emitted on the track.
    first_index: u64,
    /// Index of the first entry that still has its packets.
    retained_from: u64,
    retained_bytes: usize,
    /// Index of the last unit that came from a leg with a numbering of its own. A leg that has not met that unit or a
    /// later one cannot compare its numbers with the output's.
    renumbered: Option<u64>,
    capacity: usize,
    retained: Duration,
    max_retained_bytes: usize,
}

impl History {
    pub(crate) fn new(config: &StitchConfig) -> Self {
        Self {
            entries: VecDeque::with_capacity(config.history.clamp(1, 4096)),
            first_index: 0,
            retained_from: 0,
            retained_bytes: 0,
            renumbered: None,
            capacity: config.history.max(1),
            retained: config.retained,
            max_retained_bytes: config.max_retained_bytes,
        }
    }

    /// Index that the next emitted unit will get; 0 means nothing was ever emitted.
    pub(crate) fn next_index(&self) -> u64 {
        self.first_index + self.entries.len() as u64
    }

    pub(crate) fn last(&self) -> Option<&Emitted> {
        self.entries.back()
    }

    pub(crate) fn get(&self, index: u64) -> Option<&Emitted> {
        self.entries.get(usize::try_from(index.checked_sub(self.first_index)?).ok()?)
    }

    pub(crate) fn push(&mut self, emitted: Emitted) {
        self.retained_bytes += emitted.len;
        let newest = emitted.received;
        self.entries.push_back(emitted);
        if self.entries.len() > self.capacity {
            if self.retained_from == self.first_index {
                self.release_oldest();
            }
            self.entries.pop_front();
            self.first_index += 1;
        }
        while let Some(oldest) = self.get(self.retained_from) {
            // The last one stays: a leg that is opened next may begin with it, and it must be known again.
            let old = newest.saturating_sub(oldest.received) > self.retained;
            if !old && self.retained_bytes <= self.max_retained_bytes {
                break;
            }
            self.release_oldest();
        }
    }

    /// The unit emitted last came from a leg that makes other packets than the legs before it.
    pub(crate) fn mark_renumbered(&mut self) {
        self.renumbered = self.next_index().checked_sub(1);
    }

    pub(crate) fn renumbered(&self) -> Option<u64> {
        self.renumbered
    }

    fn release_oldest(&mut self) {
        let position = (self.retained_from - self.first_index) as usize;
        if let Some(entry) = self.entries.get_mut(position) {
            entry.packets = None;
            self.retained_bytes -= entry.len;
            self.retained_from += 1;
        }
    }

    pub(crate) fn first(&self) -> Option<&Emitted> {
        self.entries.front()
    }

    pub(crate) fn newest_time(&self) -> Option<i64> {
        self.entries.iter().map(|entry| entry.time).max()
    }

    /// Forgets the units, not their count: what follows has no known relation to them.
    pub(crate) fn forget(&mut self) {
        self.first_index = self.next_index();
        self.retained_from = self.first_index;
        self.retained_bytes = 0;
        self.renumbered = None;
        self.entries.clear();
    }

    /// The newest unit that is looked for among those emitted after index `after` (all, with `None`). Looks first where a
    /// leg that goes on without loss will be.
    pub(crate) fn find(&self, after: Option<u64>, is: impl Fn(u64, &Emitted) -> bool) -> Option<u64> {
        let start = after.map_or(0, |index| index + 1);
        let is = |index: u64| self.get(index).is_some_and(|entry| is(index, entry));
        if is(start) && !is(start + 1) {
            return Some(start);
        }
        (start.max(self.first_index)..self.next_index()).rev().find(|index| is(*index))
    }

    /// Oldest first, from the first unit received at `since` or later.
    pub(crate) fn since(&mut self, since: Duration) -> impl Iterator<Item = &mut Emitted> {
        let skipped = self.entries.partition_point(|entry| entry.received < since);
        self.entries.range_mut(skipped..)
    }
}
