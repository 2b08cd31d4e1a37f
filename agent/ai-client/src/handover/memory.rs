//! What has been seen: the same event may come by pub/sub, the event log and SSE, with one id or with several.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use mtxfleet_wire::{DrainId, EventId, LegId, NodeId};

/// Events remembered; catching up reads a few hundred at a time.
const EVENTS: usize = 4096;
const LEGS: usize = 512;
const DRAINS: usize = 64;

/// The end of a drain may be missed; after this a node that is named as a candidate is believed to be back.
const DRAINING_FOR: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Notice,
    Move,
}

/// The last so many, oldest forgotten first.
#[derive(Debug)]
struct Recent<T> {
    order: VecDeque<T>,
    known: HashSet<T>,
    room: usize,
}

impl<T: Clone + Eq + Hash> Recent<T> {
    fn new(room: usize) -> Self {
        Self { order: VecDeque::new(), known: HashSet::new(), room }
    }

    /// False when it was there.
    fn insert(&mut self, item: T) -> bool {
        if !self.known.insert(item.clone()) {
            return false;
        }
        self.order.push_back(item);
        if self.order.len() > self.room
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }

    fn remove(&mut self, item: &T) {
        if self.known.remove(item) {
            self.order.retain(|kept| kept != item);
        }
    }
}

#[derive(Debug)]
struct Draining {
    drain: DrainId,
    node: NodeId,
    since: Duration,
}

#[derive(Debug)]
pub(super) struct Memory {
    events: Recent<EventId>,
    legs: Recent<(DrainId, LegId, Kind)>,
    over: Recent<DrainId>,
    draining: VecDeque<Draining>,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            events: Recent::new(EVENTS),
            legs: Recent::new(LEGS),
            over: Recent::new(DRAINS),
            draining: VecDeque::new(),
        }
    }
}

impl Memory {
    pub(super) fn first_time(&mut self, event: &EventId) -> bool {
        self.events.insert(event.clone())
    }

    pub(super) fn first_of(&mut self, drain: &DrainId, leg: &LegId, kind: Kind) -> bool {
        self.legs.insert((drain.clone(), leg.clone(), kind))
    }

    pub(super) fn forget(&mut self, drain: &DrainId, leg: &LegId, kind: Kind) {
        self.legs.remove(&(drain.clone(), leg.clone(), kind));
    }

    pub(super) fn draining(&mut self, now: Duration, drain: &DrainId, node: &NodeId) {
        if self.draining.iter().any(|known| known.drain == *drain) {
            return;
        }
        self.draining.push_back(Draining { drain: drain.clone(), node: node.clone(), since: now });
        if self.draining.len() > DRAINS {
            self.draining.pop_front();
        }
    }

    /// Nodes that are on their way out, and so are no place to go to.
    pub(super) fn draining_nodes(&self, now: Duration) -> BTreeSet<NodeId> {
        let fresh = |known: &&Draining| now.saturating_sub(known.since) < DRAINING_FOR;
        self.draining.iter().filter(fresh).map(|known| known.node.clone()).collect()
    }

    /// The drain was cancelled or has ended: what still comes of it is late.
    pub(super) fn over(&mut self, drain: &DrainId) {
        self.over.insert(drain.clone());
        self.draining.retain(|known| known.drain != *drain);
    }

    /// The node is in service again.
    pub(super) fn back(&mut self, node: &NodeId) {
        self.draining.retain(|known| known.node != *node);
    }

    pub(super) fn is_over(&self, drain: &DrainId) -> bool {
        self.over.known.contains(drain)
    }
}
