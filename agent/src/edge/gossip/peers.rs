//! What chitchat knows of the other nodes, as [`Peer`]s.
//!
//! The view is looked at ten times a second. Only keys whose version changed are parsed again.
//!
//! Who is silent is decided here, by [`Silence`], and not by chitchat's phi: that is the age of the last heartbeat over
//! the mean interval between them, and a threshold which loss or a busy machine does not reach by chance is reached too
//! late after a crash. phi says only whom chitchat gossips with.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chitchat::{Chitchat, ChitchatId, NodeState};
use mtxfleet_leader::plan::Plan;
use mtxfleet_wire::{
    CamerasReport, Control, DecisionsReport, DrainReport, LoadReport, NodeFacts, NodeId, STREAM_SHARDS, StreamReport,
    TermsReport,
};
use serde::de::DeserializeOwned;

use super::counters::GossipCounters;
use super::probe::{Nonce, Probe, Received, Subject};
use super::publish::{CAMERAS, CONTROLS, DECISIONS, DRAIN, FACTS, LEFT, LOAD, MOVES, PLAN, STREAMS, TERMS};
use super::silence::{Act, Silence};
use crate::node::event::Peer;

/// How often the view is looked at, and the least time between two lists of peers.
pub const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Peers that are asked, or told, about one that is silent. With these, in a fleet of any size, the chance that all of
/// them are lost to 25 % loss is nil.
const ASKED_AT_MOST: usize = 32;
/// Peers that are asked again about one that has been silent for a while.
const ASKED_AGAIN: usize = 3;
/// When more than a quarter of all peers, and more than these, do not answer at once, it is more likely that this node is
/// cut off, or that machine and network have no time for anybody, than that so many crashed. Then only every fourth look
/// counts, few are asked for help, and nobody else's verdict is believed: or the questions would be the load that keeps
/// the answers away.
const FEW: usize = 2;
const STRAINED_PACE: u64 = 4;
/// Nodes that are asked on behalf of others between two looks.
const CALLED_AT_MOST: usize = 16;
/// Probes between two looks. When everybody seems silent, nobody answers, and there is no use in asking on and on.
const MAX_TO_SEND: usize = 512;

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    None,
    /// Only figures of a load report.
    Figures,
    /// Somebody came, went, fell silent, or changed state, streams, facts or drain.
    Matters,
}

impl Change {
    const fn if_other(before: bool, after: bool) -> Self {
        if before == after { Self::None } else { Self::Matters }
    }
}

/// Numbers that nobody who does not read this process can guess (SplitMix64, from a random start); never 0.
struct Nonces(u64);

impl Nonces {
    fn next(&mut self) -> Nonce {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).max(1)
    }
}

pub struct View {
    me: NodeId,
    my_generation: u64,
    round: Duration,
    nonces: Nonces,
    to_send: Vec<(SocketAddr, Probe)>,
    looks: u64,
    called: usize,
    is_strained: bool,
    known: BTreeMap<NodeId, Known>,
    counters: Arc<GossipCounters>,
    warned_of_clock: bool,
}

/// One peer: the decoded values, each with the version it was parsed at.
struct Known {
    id: ChitchatId,
    version: (u64, u64),
    heartbeat: u64,
    silence: Silence<SocketAddr>,
    /// Of the questions about its present silence.
    nonce: Nonce,
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
        Self {
            me,
            my_generation,
            round,
            nonces: Nonces(random),
            to_send: Vec::new(),
            looks: 0,
            called: 0,
            is_strained: false,
            known: BTreeMap::new(),
            counters,
            warned_of_clock: false,
        }
    }

    /// Takes in what changed since the last look.
    ///
    /// Silence is counted in looks, not in time: when this process itself was stopped for a while, everybody seems
    /// silent to chitchat at once, and nobody is. For the same reason a look that comes late does not count: what was
    /// answered meanwhile is still on its way through this process.
    pub fn look(&mut self, chitchat: &Chitchat, is_late: bool) -> Change {
        self.begin_look();
        let counts = !is_late && (!self.is_strained || self.looks.is_multiple_of(STRAINED_PACE));
        let live: HashSet<&ChitchatId> = chitchat.live_nodes().collect();
        let mut change = Change::None;
        let mut present = HashSet::new();
        let mut acts = Vec::new();
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
            change = change.max(self.look_at(&node, id, state, counts, &mut acts));
            present.insert(node);
        }
        let before = self.known.len();
        self.known.retain(|node, _| present.contains(node));
        for (node, act) in acts {
            self.act(&node, act);
        }
        if self.known.len() < before { Change::Matters } else { change }
    }

    /// All peers that have not left, in order of their ids.
    #[must_use]
    pub fn peers(&self) -> Vec<Peer> {
        let peer = |(node, known): (&NodeId, &Known)| Peer {
            node: node.clone(),
            alive: known.silence.alive(),
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
        self.known.values().any(|known| known.silence.silent_lately() && !known.left)
    }

    /// What is to be asked and answered, by address.
    pub fn take_probes(&mut self) -> std::vec::Drain<'_, (SocketAddr, Probe)> {
        self.to_send.drain(..)
    }

    /// Takes in what another asks, or answers.
    pub fn receive(&mut self, received: Received) -> Change {
        let Received { from, probe } = received;
        match probe {
            Probe::Ping { .. } => Change::None,
            Probe::Pong { nonce } => self.vouched(&from.node, nonce, Some(from.generation)),
            Probe::Vouch { nonce, node } => self.vouched(&node, nonce, None),
            Probe::Doubt { nonce, about } if about.node == self.me => {
                if about.generation == self.my_generation {
                    self.to_send.push((from.address, Probe::Vouch { nonce, node: about.node }));
                }
                Change::None
            }
            Probe::Doubt { nonce, about } => self.called(from.address, nonce, &about),
            Probe::Silent { about } => self.told(&about),
        }
    }

    fn vouched(&mut self, node: &NodeId, nonce: Nonce, generation: Option<u64>) -> Change {
        let Some(known) = self.known.get_mut(node) else { return Change::None };
        if known.nonce != nonce || generation.is_some_and(|generation| generation != known.id.generation_id) {
            return Change::None;
        }
        let was = known.silence.alive();
        known.nonce = 0;
        let askers = known.silence.vouched();
        let change = Change::if_other(was, known.silence.alive());
        self.vouch(node, askers);
        change
    }

    fn called(&mut self, asker: SocketAddr, nonce: Nonce, about: &Subject) -> Change {
        let Some(known) = self.known.get_mut(&about.node) else { return Change::None };
        if known.id.generation_id != about.generation || known.left || self.called >= CALLED_AT_MOST {
            return Change::None;
        }
        self.called += 1;
        if known.silence.called(asker, nonce) {
            self.ping(&about.node);
        }
        Change::None
    }

    fn told(&mut self, about: &Subject) -> Change {
        let Some(known) = self.known.get_mut(&about.node) else { return Change::None };
        if known.id.generation_id != about.generation || known.left {
            return Change::None;
        }
        let was = known.silence.alive();
        let ask = known.silence.told(!self.is_strained);
        let change = Change::if_other(was, known.silence.alive());
        if ask {
            self.ping(&about.node);
        }
        change
    }

    fn act(&mut self, node: &NodeId, act: Act) {
        match act {
            Act::Ping => self.ping(node),
            Act::Doubt => {
                GossipCounters::add(&self.counters.doubts, 1);
                self.ping(node);
                let at_most = if self.is_strained { ASKED_AGAIN } else { ASKED_AT_MOST };
                self.tell(node, at_most, |nonce, about| Probe::Doubt { nonce, about });
            }
            Act::Recheck => {
                self.ping(node);
                self.tell(node, ASKED_AGAIN, |nonce, about| Probe::Doubt { nonce, about });
            }
            Act::Tell if self.is_strained => {}
            Act::Tell => self.tell(node, ASKED_AT_MOST, |_, about| Probe::Silent { about }),
        }
    }

    fn ping(&mut self, node: &NodeId) {
        let Some(known) = self.known.get_mut(node) else { return };
        if known.nonce == 0 {
            known.nonce = self.nonces.next();
        }
        let ping = Probe::Ping { nonce: known.nonce, node: node.clone() };
        self.to_send.push((known.id.gossip_advertise_addr, ping));
    }

    /// To up to `at_most` of the others, another selection each time.
    fn tell(&mut self, node: &NodeId, at_most: usize, probe: impl Fn(Nonce, Subject) -> Probe) {
        let Some(known) = self.known.get(node) else { return };
        let about = Subject { node: node.clone(), generation: known.id.generation_id };
        let others: Vec<SocketAddr> = self
            .known
            .iter()
            .filter(|(other, known)| *other != node && known.silence.alive() && !known.left)
            .map(|(_, known)| known.id.gossip_advertise_addr)
            .collect();
        let start = self.nonces.next() as usize % others.len().max(1);
        for address in others.iter().cycle().skip(start).take(at_most.min(others.len())) {
            if self.to_send.len() >= MAX_TO_SEND {
                break;
            }
            self.to_send.push((*address, probe(known.nonce, about.clone())));
        }
    }

    fn vouch(&mut self, node: &NodeId, askers: Vec<(SocketAddr, Nonce)>) {
        let vouch = |(asker, nonce)| (asker, Probe::Vouch { nonce, node: node.clone() });
        self.to_send.extend(askers.into_iter().map(vouch));
    }

    fn begin_look(&mut self) {
        self.looks += 1;
        self.called = 0;
        let asked = self.known.values().filter(|known| known.silence.is_asked() && !known.left).count();
        self.is_strained = asked > FEW.max(self.known.len() / 4);
    }

    fn look_at(
        &mut self,
        node: &NodeId,
        id: &ChitchatId,
        state: &NodeState,
        counts: bool,
        acts: &mut Vec<(NodeId, Act)>,
    ) -> Change {
        let mut change = Change::None;
        let heartbeat = u64::from(state.heartbeat());
        if self.known.get(node).is_none_or(|known| known.id != *id) {
            change = Change::Matters;
            self.known.insert(node.clone(), Known::new(id.clone(), heartbeat, self.round));
        }
        let Some(known) = self.known.get_mut(node) else { return change };
        let was = known.silence.alive();
        let act = if heartbeat > known.heartbeat {
            known.heartbeat = heartbeat;
            known.silence.heartbeat()
        } else {
            known.silence.look(counts)
        };
        acts.extend(act.filter(|_| !known.left).map(|act| (node.clone(), act)));
        change = change.max(Change::if_other(was, known.silence.alive()));
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
    fn new(id: ChitchatId, heartbeat: u64, round: Duration) -> Self {
        Self {
            id,
            version: (0, 0),
            heartbeat,
            silence: Silence::new(round.as_millis() as u64, LOOK_EVERY.as_millis() as u64),
            nonce: 0,
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
