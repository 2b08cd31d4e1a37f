//! What chitchat knows of the other nodes, as [`Peer`]s.
//!
//! The view is looked at ten times a second. Only keys whose version changed are parsed again.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use chitchat::{Chitchat, ChitchatId, Heartbeat, NodeState};
use mtxfleet_wire::{DrainReport, LoadReport, NodeFacts, NodeId, STREAM_SHARDS, StreamReport};
use serde::de::DeserializeOwned;

use super::counters::GossipCounters;
use super::publish::{DRAIN, FACTS, LEFT, LOAD, STREAMS};
use crate::node::event::Peer;

/// How often the view is looked at, and the least time between two lists of peers.
pub const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A node is not suspected before it has been silent for this many gossip rounds in which this process was awake,
/// whatever phi says. phi 8 alone says so after 0.8 to 1.0 s in fleets of 3 to 5 nodes at 200 ms (measured), so this
/// costs no time there; it is for the moments after this process itself was held up, when phi doubts everybody.
const SILENT_ROUNDS: u32 = 4;

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
    /// Looks without a new heartbeat after which phi decides.
    patience: u32,
    known: BTreeMap<NodeId, Known>,
    counters: Arc<GossipCounters>,
    warned_of_clock: bool,
}

/// One peer: the decoded values, each with the version it was parsed at.
struct Known {
    id: ChitchatId,
    version: (u64, u64),
    heartbeat: Heartbeat,
    /// Looks since the heartbeat last rose; `None` before it ever did.
    silent_for: Option<u32>,
    alive: bool,
    left: bool,
    facts: Slot<NodeFacts>,
    load: Slot<LoadReport>,
    drain: Slot<DrainReport>,
    shards: [Slot<Vec<StreamReport>>; STREAM_SHARDS as usize],
    /// All shards, joined anew when one of them changed.
    streams: Arc<[StreamReport]>,
}

struct Slot<T> {
    version: u64,
    value: Option<T>,
}

impl View {
    #[must_use]
    pub fn new(me: NodeId, my_generation: u64, round: Duration, counters: Arc<GossipCounters>) -> Self {
        let patience = (round * SILENT_ROUNDS).as_millis().div_ceil(LOOK_EVERY.as_millis());
        Self {
            me,
            my_generation,
            patience: u32::try_from(patience).unwrap_or(u32::MAX),
            known: BTreeMap::new(),
            counters,
            warned_of_clock: false,
        }
    }

    /// Takes in what changed since the last look.
    ///
    /// Silence is counted in looks, not in time: when this process itself was stopped for a while, everybody seems
    /// silent to chitchat at once, and nobody is.
    pub fn look(&mut self, chitchat: &Chitchat) -> Change {
        let live: HashSet<&ChitchatId> = chitchat.live_nodes().collect();
        let mut change = Change::None;
        let mut present = HashSet::new();
        let mut states = chitchat.node_states().iter().peekable();
        // Ordered by node, then generation: of several generations the newest counts, or the newest that is alive.
        let mut best: Option<(&ChitchatId, &NodeState)> = None;
        while let Some((id, state)) = states.next() {
            if *id.node_id == *self.me.as_str() {
                self.check_my_generation(id);
                continue;
            }
            if best.is_none_or(|(best, _)| live.contains(id) || !live.contains(best)) {
                best = Some((id, state));
            }
            if states.peek().is_some_and(|(next, _)| next.node_id == id.node_id) {
                continue;
            }
            let Some((id, state)) = best.take() else { continue };
            let Ok(node) = NodeId::new(&*id.node_id) else { continue };
            change = change.max(self.look_at(&node, id, state, live.contains(id)));
            present.insert(node);
        }
        let before = self.known.len();
        self.known.retain(|node, _| present.contains(node));
        if self.known.len() < before { Change::Matters } else { change }
    }

    /// All peers that have not left, in order of their ids.
    #[must_use]
    pub fn peers(&self) -> Vec<Peer> {
        let peer = |(node, known): (&NodeId, &Known)| Peer {
            node: node.clone(),
            alive: known.alive,
            facts: known.facts.value.clone(),
            load: known.load.value.clone(),
            streams: Arc::clone(&known.streams),
            drain: known.drain.value.clone(),
        };
        self.known.iter().filter(|(_, known)| !known.left).map(peer).collect()
    }

    fn look_at(&mut self, node: &NodeId, id: &ChitchatId, state: &NodeState, live: bool) -> Change {
        let mut change = Change::None;
        let known = match self.known.get_mut(node) {
            Some(known) if known.id == *id => known,
            _ => {
                change = Change::Matters;
                self.known.insert(node.clone(), Known::new(id.clone(), state.heartbeat()));
                let Some(known) = self.known.get_mut(node) else { return change };
                known
            }
        };
        if known.update_alive(state.heartbeat(), live, self.patience) {
            change = Change::Matters;
        }
        let version = (state.last_gc_version(), state.max_version());
        if known.version != version {
            known.version = version;
            change = change.max(known.read(node, state, &self.counters));
        }
        change
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
    fn new(id: ChitchatId, heartbeat: Heartbeat) -> Self {
        Self {
            id,
            version: (0, 0),
            heartbeat,
            silent_for: None,
            alive: false,
            left: false,
            facts: Slot::default(),
            load: Slot::default(),
            drain: Slot::default(),
            shards: Default::default(),
            streams: Arc::default(),
        }
    }

    /// True when the verdict is another one than before.
    fn update_alive(&mut self, heartbeat: Heartbeat, live: bool, patience: u32) -> bool {
        if heartbeat > self.heartbeat {
            self.heartbeat = heartbeat;
            self.silent_for = Some(0);
        } else if let Some(looks) = &mut self.silent_for {
            *looks = looks.saturating_add(1);
        }
        let alive = live || self.silent_for.is_some_and(|looks| looks < patience);
        std::mem::replace(&mut self.alive, alive) != alive
    }

    fn read(&mut self, node: &NodeId, state: &NodeState, counters: &GossipCounters) -> Change {
        let mut matters = std::mem::replace(&mut self.left, state.contains_key(LEFT)) != self.left;
        matters |= self.facts.read(node, state, FACTS, counters);
        matters |= self.drain.read(node, state, DRAIN, counters);
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
        let figures = self.load.read(node, state, LOAD, counters);
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
        });
        had_one || self.value.is_some()
    }
}

#[cfg(test)]
#[path = "peers_tests.rs"]
mod tests;
