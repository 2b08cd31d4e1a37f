//! All other nodes as gossip tells of them, with the two verdicts on those that fall silent.
//!
//! ```text
//!          it answers nobody                suspected for `dead_after`, and
//!  Alive ------------------------------> Suspect ----------------------> Dead
//!    ^                                      |    another suspects it too  |
//!    +--------------------------------------+-----------------------------+
//!                          it is heard again
//! ```
//! Who is suspected is decided where gossip is: a suspect was asked, here and by all others, and did not answer. So a
//! second node that suspects it has asked it too.
//!
//! A node that was cut off from all others suspects everybody, and finds nobody to agree: it declares nobody dead. (In a
//! fleet of two there is nobody to ask, and one's own word is enough.)
//!
//! A suspect gets nothing new; only a dead node is marked `offline` in the registry.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mtxfleet_wire::{
    Bitrate, CamerasReport, Control, DecisionsReport, DrainReport, Liveness, LoadReport, MemberView, Mono, NodeFacts,
    NodeId, NodeState, Role, ServerHealth, StreamName, StreamReport, TermsReport,
};

use crate::plan::Plan;

/// A report whose sample is the same for so long says nothing of now. Agents sample every second.
pub const STALE_AFTER: Duration = Duration::from_secs(10);

/// A peer as gossip knows it now. What it has not said yet, or said in a way that cannot be read, is `None`.
#[derive(Debug, Clone, PartialEq)]
pub struct Peer {
    pub node: NodeId,
    /// What the failure detector says now.
    pub alive: bool,
    pub facts: Option<NodeFacts>,
    pub load: Option<LoadReport>,
    /// Shared with gossip: in a large fleet a copy at each look would be most of an agent's work.
    pub streams: Arc<[StreamReport]>,
    pub drain: Option<DrainReport>,
    /// Cameras that it hands over while it stays in service, and the legs that read them.
    pub moves: Option<DrainReport>,
    /// What it knows of the orchestrators' terms.
    pub terms: Option<TermsReport>,
    /// What it wants as an orchestrator, or wanted last.
    pub plan: Option<Arc<Plan>>,
    /// Its last decisions, when it is or was an orchestrator.
    pub decisions: Option<Arc<DecisionsReport>>,
    /// The newest orders to pause or resume that it knows of.
    pub controls: Arc<[Control]>,
    /// On an ingestion node that pulls cameras.
    pub cameras: Option<CamerasReport>,
}

impl Peer {
    /// One of which nothing is known but that it is there.
    #[must_use]
    pub fn silent(node: NodeId) -> Self {
        Self {
            node,
            alive: false,
            facts: None,
            load: None,
            streams: Arc::default(),
            drain: None,
            moves: None,
            terms: None,
            plan: None,
            decisions: None,
            controls: Arc::default(),
            cameras: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    pub peer: Peer,
    pub liveness: Liveness,
    /// By this node, since it knows of it.
    heard: bool,
    silent_since: Option<Mono>,
    /// So that another one may confirm it.
    is_told: bool,
    /// When its load was last seen to be of another sample. By this node's time, so that no clock is compared.
    sampled_at: Mono,
}

impl Member {
    /// In service, and its MediaMTX answers, as far as it said.
    #[must_use]
    pub fn serves(&self, role: Role) -> bool {
        let in_role = self.peer.facts.as_ref().is_some_and(|facts| facts.role == role);
        let in_service = self.peer.load.as_ref().is_some_and(|load| {
            load.state == NodeState::Active && load.server == ServerHealth::Up && !load.is_broken()
        });
        self.liveness == Liveness::Alive && in_role && in_service
    }

    /// Outbound bits per second it can take on; `None` when it did not say what it carries.
    #[must_use]
    pub fn spare(&self) -> Option<Bitrate> {
        let load = self.peer.load.as_ref()?;
        Some(Bitrate(load.capacity.0.saturating_sub(load.outbound?.0)))
    }

    /// Whether its figures are of now.
    #[must_use]
    pub fn is_fresh(&self, now: Mono) -> bool {
        self.peer.load.is_some() && now.since(self.sampled_at) < STALE_AFTER
    }

    #[must_use]
    pub fn has_ready(&self, stream: &StreamName) -> bool {
        self.peer.streams.iter().any(|s| s.ready && s.name == *stream)
    }

    #[must_use]
    pub fn view(&self) -> MemberView {
        MemberView {
            node: self.peer.node.clone(),
            liveness: self.liveness,
            facts: self.peer.facts.clone(),
            load: self.peer.load.clone(),
            drain: self.peer.drain.clone(),
            // The dead hand nothing over, whatever they said last.
            moves: self.peer.moves.clone().filter(|_| self.liveness != Liveness::Dead),
            cameras: self.peer.cameras.clone(),
        }
    }
}

/// What a look at gossip changed.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    Joined(NodeId, Role),
    /// It was heard, and fell silent.
    Suspected(NodeId),
    Died(NodeId),
    Returned(NodeId),
}

/// A node that others tell of and that was never heard here may be starting, or this one may be: it is given so long.
const UNHEARD_FOR: Duration = Duration::from_secs(30);

/// A report that came so long ago confirms nothing: its node may be cut off, or this one, and say another thing by now.
/// Agents report every second.
const CONFIRMS_FOR: Duration = Duration::from_secs(3);

/// Time is passed at least once a second. Where so much of it passed at once, this node was held up (stopped, starved, or
/// its machine slept), and who was silent meanwhile it cannot tell.
const HELD_UP: Duration = Duration::from_secs(2);
/// Everybody has so long to be heard by a node that was held up. Longer than a report confirms anything: those that waited
/// in this node's socket meanwhile seem to be new, and are not.
const HEARD_AGAIN: Duration = Duration::from_millis(3_500);

/// A claim of ownership, the better the greater: its bytes grow, its node is not suspected, its generation, whose.
type Claim<'a> = (bool, bool, u64, &'a NodeId);

#[derive(Debug, Clone)]
pub struct Fleet {
    members: BTreeMap<NodeId, Member>,
    dead_after: Duration,
    passed: Mono,
    version: u64,
}

impl Fleet {
    #[must_use]
    pub fn new(dead_after: Duration) -> Self {
        Self { members: BTreeMap::new(), dead_after, passed: Mono::default(), version: 0 }
    }

    /// Takes all peers as gossip knows them now. One that gossip has forgotten is forgotten here too.
    pub fn update(&mut self, now: Mono, peers: Vec<Peer>) -> Vec<Change> {
        self.version += 1;
        self.forgive_what_was_missed(now);
        let mut before = std::mem::take(&mut self.members);
        let mut changes = Vec::new();
        for peer in peers {
            let old = before.remove(&peer.node);
            let role = peer.facts.as_ref().map(|facts| facts.role);
            let knew_role = old.as_ref().is_some_and(|m| m.peer.facts.is_some());
            if let (Some(role), false) = (role, knew_role) {
                changes.push(Change::Joined(peer.node.clone(), role));
            }
            // Others tell of a node before it is heard itself: until then it is a suspect, and fell silent for nobody.
            let unheard = (Liveness::Suspect, Some(now));
            let first = if peer.alive { (Liveness::Alive, None) } else { unheard };
            let sampled = |load: &Option<LoadReport>| load.as_ref().map(|load| load.sampled);
            let same_sample = old.as_ref().filter(|old| sampled(&old.peer.load) == sampled(&peer.load));
            let sampled_at = same_sample.map_or(now, |old| old.sampled_at);
            let heard = peer.alive || old.as_ref().is_some_and(|old| old.heard);
            let (was, silent_since) = old.map_or(first, |m| (m.liveness, m.silent_since));
            let (liveness, silent_since) = match (peer.alive, was) {
                (true, was) => {
                    if was != Liveness::Alive {
                        changes.push(Change::Returned(peer.node.clone()));
                    }
                    (Liveness::Alive, None)
                }
                (false, Liveness::Alive) => {
                    changes.push(Change::Suspected(peer.node.clone()));
                    (Liveness::Suspect, Some(now))
                }
                (false, was) => (was, silent_since),
            };
            let is_told = liveness == Liveness::Dead || (heard && liveness == Liveness::Suspect);
            self.members.insert(peer.node.clone(), Member { peer, liveness, heard, silent_since, is_told, sampled_at });
        }
        changes.extend(self.pass_time(now));
        changes
    }

    /// Suspects that were silent for long, as another node confirms, are dead.
    pub fn pass_time(&mut self, now: Mono) -> Vec<Change> {
        self.forgive_what_was_missed(now);
        let nobody_to_ask = self.members.len() < 2;
        let live = self.members.values().filter(|member| member.liveness == Liveness::Alive);
        let suspected_by_others: BTreeSet<NodeId> = live
            .filter(|member| now.since(member.sampled_at) < CONFIRMS_FOR)
            .filter_map(|member| member.peer.load.as_ref())
            .flat_map(|load| load.suspects.iter().cloned())
            .collect();
        let mut changes = Vec::new();
        for (node, member) in &mut self.members {
            let silent_for = member.silent_since.map(|since| now.since(since)).unwrap_or_default();
            let patience = if member.heard { self.dead_after } else { self.dead_after.max(UNHEARD_FOR) };
            member.is_told |= member.liveness == Liveness::Suspect && silent_for >= patience;
            let is_confirmed = nobody_to_ask || suspected_by_others.contains(node);
            if member.liveness == Liveness::Suspect && silent_for >= patience && is_confirmed {
                member.liveness = Liveness::Dead;
                changes.push(Change::Died(member.peer.node.clone()));
            }
        }
        self.version += u64::from(!changes.is_empty());
        changes
    }

    /// Nodes that are not heard now. Of one that was never heard here there is nothing to tell for a while: it may be on its
    /// way. For good it must not go untold: where all that had heard it have started anew, nobody else confirms its death.
    pub fn silent(&self) -> impl Iterator<Item = &NodeId> {
        self.members.values().filter(|member| member.is_told).map(|member| &member.peer.node)
    }

    /// What passed while this node was held up is nobody's silence.
    fn forgive_what_was_missed(&mut self, now: Mono) {
        let missed = now.since(self.passed);
        self.passed = self.passed.max(now);
        if missed < HELD_UP {
            return;
        }
        let silent_for_at_most = self.dead_after.saturating_sub(HEARD_AGAIN);
        for since in self.members.values_mut().filter_map(|member| member.silent_since.as_mut()) {
            *since = (*since + missed).max(Mono(now.0.saturating_sub(silent_for_at_most)));
        }
    }

    /// Another one whenever something about a member may have changed.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    #[must_use]
    pub fn get(&self, node: &NodeId) -> Option<&Member> {
        self.members.get(node)
    }

    /// Nodes that could take over from one of this role, in order of their ids.
    pub fn serving(&self, role: Role) -> impl Iterator<Item = &Member> {
        self.members.values().filter(move |m| m.serves(role))
    }

    /// The first node in the order that lives speaks for the dead; `me` is the asker.
    #[must_use]
    pub fn speaks_for_the_dead(&self, me: &NodeId) -> bool {
        !self.members.values().any(|m| m.liveness == Liveness::Alive && m.peer.node < *me)
    }

    /// Where each stream is to be had: one claim each, the best.
    ///
    /// A claim whose bytes are growing wins, then one of a node that is not suspected, then that of the highest generation;
    /// clocks are never compared.
    #[must_use]
    pub fn owners(&self) -> BTreeMap<StreamName, (NodeId, String)> {
        let mut best: BTreeMap<&StreamName, (Claim<'_>, &str)> = BTreeMap::new();
        for member in self.members.values().filter(|m| m.liveness != Liveness::Dead) {
            let Some(facts) = member.peer.facts.as_ref().filter(|facts| facts.role == Role::Ingestion) else {
                continue;
            };
            let offline = member.peer.load.as_ref().is_some_and(|load| load.state == NodeState::Offline);
            if offline {
                continue;
            }
            for stream in member.peer.streams.iter().filter(|s| s.owned && s.ready) {
                let rank = (stream.flowing, member.liveness == Liveness::Alive, stream.claim, &member.peer.node);
                let known = best.entry(&stream.name).or_insert((rank, &facts.rtsp));
                if rank > known.0 {
                    *known = (rank, &facts.rtsp);
                }
            }
        }
        best.into_iter().map(|(name, (rank, rtsp))| (name.clone(), (rank.3.clone(), rtsp.to_owned()))).collect()
    }
}

#[cfg(test)]
mod tests;
