//! What chitchat knows of the other nodes, as [`Peer`]s.
//!
//! The view is looked at ten times a second. Only keys whose version changed are parsed again.
//!
//! Who is silent is decided by the [`Detector`], and not by chitchat's phi: that is the age of the last heartbeat over
//! the mean interval between them, and a threshold which loss or a busy machine does not reach by chance is reached too
//! late after a crash. phi says only whom chitchat gossips with.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use chitchat::{Chitchat, ChitchatId, NodeState};
use mtxfleet_leader::plan::Plan;
use mtxfleet_wire::{
    CamerasReport, Control, DecisionsReport, DrainReport, LoadReport, NodeFacts, NodeId, STREAM_SHARDS, StreamReport,
    TermsReport,
};
use serde::de::DeserializeOwned;

use super::counters::GossipCounters;
use super::detector::{Detector, Heard};
use super::probe::{Probe, Received, Subject};
use super::publish::{CAMERAS, CONTROLS, DECISIONS, DRAIN, FACTS, LEFT, LOAD, MOVES, PLAN, STREAMS, TERMS};
use crate::node::event::Peer;

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    None,
    /// Only figures of a load report.
    Figures,
    /// Somebody came, went, fell silent, or changed state, streams, facts or drain.
    Matters,
}

pub struct View {
    me: NodeId,
    my_generation: u64,
    detector: Detector,
    known: BTreeMap<NodeId, Known>,
    looks: u64,
    counters: Arc<GossipCounters>,
    warned_of_clock: bool,
}

/// One peer: the decoded values, each with the version it was parsed at.
struct Known {
    id: ChitchatId,
    /// The number of the look.
    seen_at: u64,
    version: (u64, u64),
    left: bool,
    facts: Slot<NodeFacts>,
    load: Slot<LoadReport>,
    drain: Slot<DrainReport>,
    moves: Slot<DrainReport>,
    terms: Slot<TermsReport>,
    plan: Slot<Arc<Plan>>,
    decisions: Slot<Arc<DecisionsReport>>,
    controls: Slot<Arc<[Control]>>,
    cameras: Slot<CamerasReport>,
    shards: [Slot<Vec<StreamReport>>; STREAM_SHARDS as usize],
    /// All shards, joined anew when one of them changed.
    streams: Arc<[StreamReport]>,
}

struct Slot<T> {
    version: u64,
    value: Option<T>,
}

impl View {
    /// `random` makes the numbers that answers to this node must bear.
    #[must_use]
    pub fn new(me: NodeId, my_generation: u64, round: Duration, random: u64, counters: Arc<GossipCounters>) -> Self {
        let subject = Subject { node: me.clone(), generation: my_generation };
        Self {
            me,
            my_generation,
            detector: Detector::new(subject, round, random),
            known: BTreeMap::new(),
            looks: 0,
            counters,
            warned_of_clock: false,
        }
    }

    /// Takes in what changed since the last look, which was so long ago.
    pub fn look(&mut self, chitchat: &Chitchat, since_last: Duration) -> Change {
        self.detector.begin_look(since_last);
        self.looks += 1;
        // Asked only between two starts of one node, which is seldom.
        let lives = |id: &ChitchatId| chitchat.live_nodes().any(|live| live == id);
        let mut change = Change::None;
        let mut states = chitchat.node_states().iter().peekable();
        // Ordered by node, then generation: of several generations the newest counts, or the newest that is alive.
        let mut best: Option<(&ChitchatId, &NodeState)> = None;
        while let Some((id, state)) = states.next() {
            if *id.node_id == *self.me.as_str() {
                self.check_my_generation(id);
                continue;
            }
            if best.is_none_or(|(best, _)| lives(id) || !lives(best)) {
                best = Some((id, state));
            }
            if states.peek().is_some_and(|(next, _)| next.node_id == id.node_id) {
                continue;
            }
            let Some((id, state)) = best.take() else { continue };
            let Ok(node) = NodeId::new(&*id.node_id) else { continue };
            change = change.max(self.look_at(&node, id, state));
        }
        let before = self.known.len();
        let looks = self.looks;
        self.known.retain(|_, known| known.seen_at == looks);
        self.detector.end_look();
        if self.known.len() < before { Change::Matters } else { change }
    }

    /// All peers that have not left, in order of their ids.
    #[must_use]
    pub fn peers(&self) -> Vec<Peer> {
        let peer = |(node, known): (&NodeId, &Known)| Peer {
            node: node.clone(),
            alive: self.detector.is_alive(node),
            facts: known.facts.value.clone(),
            load: known.load.value.clone(),
            streams: Arc::clone(&known.streams),
            drain: known.drain.value.clone(),
            moves: known.moves.value.clone(),
            terms: known.terms.value.clone(),
            plan: known.plan.value.clone(),
            decisions: known.decisions.value.clone(),
            controls: known.controls.value.clone().unwrap_or_default(),
            cameras: known.cameras.value.clone(),
        };
        self.known.iter().filter(|(_, known)| !known.left).map(peer).collect()
    }

    /// Whether somebody fell silent so lately that others keep time over it.
    #[must_use]
    pub fn somebody_fell_silent(&self) -> bool {
        self.detector.somebody_fell_silent()
    }

    /// What is to be asked and answered, by address.
    pub fn take_probes(&mut self) -> std::vec::Drain<'_, (SocketAddr, Probe)> {
        self.counters.doubts.store(self.detector.doubts(), Relaxed);
        self.detector.take_probes()
    }

    /// Takes in what another asks, or answers.
    pub fn receive(&mut self, received: Received) -> Change {
        if self.detector.receive(received) { Change::Matters } else { Change::None }
    }

    fn look_at(&mut self, node: &NodeId, id: &ChitchatId, state: &NodeState) -> Change {
        let mut change = Change::None;
        if self.known.get(node).is_none_or(|known| known.id != *id) {
            change = Change::Matters;
            self.known.insert(node.clone(), Known::new(id.clone()));
        }
        let Some(known) = self.known.get_mut(node) else { return change };
        known.seen_at = self.looks;
        let version = (state.last_gc_version(), state.max_version());
        if known.version != version {
            known.version = version;
            change = change.max(known.read(node, state, &self.counters));
        }
        let heard = Heard {
            generation: id.generation_id,
            address: id.gossip_advertise_addr,
            heartbeat: state.heartbeat().into(),
            left: known.left,
        };
        if self.detector.see(node, heard) { Change::Matters } else { change }
    }

    /// A newer start of this very node that others know of means that its clock went back, or that another machine has
    /// its id. Either way the others refuse what this one says.
    fn check_my_generation(&mut self, mine: &ChitchatId) {
        if mine.generation_id > self.my_generation && !self.warned_of_clock {
            self.warned_of_clock = true;
            tracing::error!(
                node = %self.me,
                address = %mine.gossip_advertise_addr,
                "the fleet knows a later start of this node and does not hear this one: either this machine's clock was \
                 set back (correct it and start the agent again), or another machine has the same node id (give each \
                 its own)"
            );
        }
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("known", &self.known.keys()).finish_non_exhaustive()
    }
}

impl Known {
    fn new(id: ChitchatId) -> Self {
        Self {
            id,
            seen_at: 0,
            version: (0, 0),
            left: false,
            facts: Slot::default(),
            load: Slot::default(),
            drain: Slot::default(),
            moves: Slot::default(),
            terms: Slot::default(),
            plan: Slot::default(),
            decisions: Slot::default(),
            controls: Slot::default(),
            cameras: Slot::default(),
            shards: Default::default(),
            streams: Arc::default(),
        }
    }

    fn read(&mut self, node: &NodeId, state: &NodeState, counters: &GossipCounters) -> Change {
        let mut matters = std::mem::replace(&mut self.left, state.contains_key(LEFT)) != self.left;
        matters |= self.facts.read(node, state, FACTS, counters);
        matters |= self.drain.read(node, state, DRAIN, counters);
        matters |= self.moves.read(node, state, MOVES, counters);
        matters |= self.terms.read(node, state, TERMS, counters);
        matters |= self.plan.read_shared::<Plan>(node, state, PLAN, counters);
        matters |= self.controls.read_shared::<Vec<Control>>(node, state, CONTROLS, counters);
        matters |= self.cameras.read(node, state, CAMERAS, counters);
        let mut streams_changed = false;
        for (shard, key) in self.shards.iter_mut().zip(STREAMS) {
            streams_changed |= shard.read(node, state, key, counters);
        }
        if streams_changed {
            self.streams = self.shards.iter().filter_map(|shard| shard.value.as_ref()).flatten().cloned().collect();
        }
        matters |= streams_changed;
        let words = |load: &Option<LoadReport>| load.as_ref().map(|load| (load.state, load.server.clone()));
        let before = words(&self.load.value);
        let figures = self.load.read(node, state, LOAD, counters)
            | self.decisions.read_shared::<DecisionsReport>(node, state, DECISIONS, counters);
        if matters || before != words(&self.load.value) {
            Change::Matters
        } else if figures {
            Change::Figures
        } else {
            Change::None
        }
    }
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self { version: 0, value: None }
    }
}

impl<T: DeserializeOwned> Slot<T> {
    /// Parses the value if its version is new; true when it was.
    fn read(&mut self, node: &NodeId, state: &NodeState, key: &str, counters: &GossipCounters) -> bool {
        self.read_as::<T>(node, state, key, counters, |value| value)
    }
}

impl<S: ?Sized> Slot<Arc<S>> {
    /// The same for a value that is kept shared, parsed as `T`.
    fn read_shared<T>(&mut self, node: &NodeId, state: &NodeState, key: &str, counters: &GossipCounters) -> bool
    where
        T: DeserializeOwned,
        Arc<S>: From<T>,
    {
        self.read_as::<T>(node, state, key, counters, Arc::from)
    }
}

impl<V> Slot<V> {
    fn read_as<T: DeserializeOwned>(
        &mut self,
        node: &NodeId,
        state: &NodeState,
        key: &str,
        counters: &GossipCounters,
        keep: fn(T) -> V,
    ) -> bool {
        // Deleted keys keep a version until they are forgotten, which then shows as version 0.
        let found = state.get_versioned(key);
        let version = found.map_or(0, |value| value.version);
        if version == self.version {
            return false;
        }
        self.version = version;
        let had_one = self.value.is_some();
        self.value = found.filter(|value| !value.is_deleted()).and_then(|value| {
            serde_json::from_str(&value.value)
                .inspect_err(|error| {
                    GossipCounters::add(&counters.unreadable_values, 1);
                    tracing::debug!(%node, key, %error, "a peer's report cannot be read");
                })
                .ok()
                .map(keep)
        });
        had_one || self.value.is_some()
    }
}

#[cfg(test)]
#[path = "peers_tests.rs"]
mod tests;
