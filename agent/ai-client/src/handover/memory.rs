//! What has been seen: the same event may come by pub/sub, the event log and SSE, with one id or with several.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::hash::Hash;

use mtxfleet_wire::{DrainId, EventId, LegId, NodeId};

/// Events remembered; catching up reads a few hundred at a time.
const EVENTS: usize = 4096;
const LEGS: usize = 512;
const DRAINS: usize = 64;

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
pub(super) struct Memory {
    events: Recent<EventId>,
    legs: Recent<(DrainId, LegId, Kind)>,
    over: Recent<DrainId>,
    draining: VecDeque<(DrainId, NodeId)>,
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

    pub(super) fn draining(&mut self, drain: &DrainId, node: &NodeId) {
        if self.draining.iter().any(|(of, _)| of == drain) {
            return;
        }
        self.draining.push_back((drain.clone(), node.clone()));
        if self.draining.len() > DRAINS {
            self.draining.pop_front();
        }
    }

    /// Nodes that are on their way out, and so are no place to go to.
    pub(super) fn draining_nodes(&self) -> BTreeSet<NodeId> {
        self.draining.iter().map(|(_, node)| node.clone()).collect()
    }

    /// The drain was cancelled or has ended: what still comes of it is late.
    pub(super) fn over(&mut self, drain: &DrainId) {
        self.over.insert(drain.clone());
        self.draining.retain(|(of, _)| of != drain);
    }

    /// The node is in service again.
    pub(super) fn back(&mut self, node: &NodeId) {
        self.draining.retain(|(_, draining)| draining != node);
    }

    pub(super) fn is_over(&self, drain: &DrainId) -> bool {
        self.over.known.contains(drain)
    }
}
