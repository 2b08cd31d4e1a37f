//! What other nodes ask of this one by gossip: to warm streams of a draining node, and to tell workers of its drain.
//!
//! Every agent turns a peer's drain report into the same notices that the draining node announces through Redis, for
//! its own event stream. So a worker that listens to any live agent hears of every drain, also while Redis is away.

use std::collections::{BTreeMap, BTreeSet};

use mtxfleet_leader::fleet_view::Change;
use mtxfleet_leader::{Member, Peer};
use mtxfleet_wire::{
    Candidate, DrainId, DrainNotice, DrainReport, EventKind, LegId, LegNotice, Liveness, MoveOrder, MoveReason, NodeId,
    NodeState, Role, StreamName, StreamReport,
};

use super::effect::Effect;
use super::{Node, Now};

/// What was passed on of each drain that other nodes are in, and of each hand-over of cameras.
#[derive(Debug, Default)]
pub struct Neighbours {
    drains: BTreeMap<NodeId, Passed>,
    hand_overs: BTreeMap<NodeId, Passed>,
}

#[derive(Debug)]
struct Passed {
    drain: DrainId,
    noticed: BTreeSet<LegId>,
    ordered: BTreeSet<LegId>,
}

impl Passed {
    /// Goes on with what is known of this drain; another one of the node's begins anew.
    fn of(report: &DrainReport, known: Option<Self>) -> Self {
        let new = || Self { drain: report.id.clone(), noticed: BTreeSet::new(), ordered: BTreeSet::new() };
        known.filter(|known| known.drain == report.id).unwrap_or_else(new)
    }
}

impl Node {
    pub(super) fn see_peers(&mut self, now: Now, peers: Vec<Peer>, effects: &mut Vec<Effect>) {
        let changes = self.fleet.update(now.mono, peers);
        self.leadership.hear(now, &self.fleet);
        self.say_changes(now, changes, effects);
        self.pass_on_drains(now, effects);
        self.pass_on_hand_overs(now, effects);
        self.hear_controls();
    }

    pub(super) fn pass_time(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let changes = self.fleet.pass_time(now.mono);
        self.say_changes(now, changes, effects);
    }

    /// Streams that this node opens for a draining one: those for which it is first choice.
    pub(super) fn wanted_warm(&self) -> Vec<StreamName> {
        if self.state != NodeState::Active {
            return Vec::new();
        }
        let me = &self.settings.id;
        // Who died in its drain hands nothing over any more.
        let alive = self.fleet.members().filter(|member| member.liveness != Liveness::Dead);
        let reports = alive.flat_map(|member| member.peer.drain.iter().chain(&member.peer.moves));
        let mine = reports.flat_map(|report| {
            let first = |order: &Vec<u8>| order.first().and_then(|index| report.nodes.get(usize::from(*index)));
            report.streams.iter().filter(move |(_, order)| first(order) == Some(me)).map(|(stream, _)| stream.clone())
        });
        let mine: BTreeSet<StreamName> = mine.collect();
        mine.into_iter().collect()
    }

    /// One node says what all see, so that it is said once.
    fn say_changes(&mut self, now: Now, changes: Vec<Change>, effects: &mut Vec<Effect>) {
        if !self.fleet.speaks_for_the_dead(&self.settings.id) {
            return;
        }
        for change in changes {
            let (node, kind) = match change {
                Change::Suspected(node) => (node, EventKind::NodeSuspected),
                Change::Died(node) => {
                    let load = self.fleet.get(&node).and_then(|member| member.peer.load.as_ref());
                    let from = load.map_or(NodeState::Active, |load| load.state);
                    if from == NodeState::Offline {
                        continue;
                    }
                    let why = "not heard of for long".to_owned();
                    (node, EventKind::NodeStateChanged { from, to: NodeState::Offline, why })
                }
                Change::Joined(..) | Change::Returned(_) => continue,
            };
            effects.push(Effect::Announce(self.event_about(now, node, kind)));
        }
    }

    fn pass_on_drains(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let reports: Vec<(NodeId, DrainReport)> = self
            .fleet
            .members()
            .filter_map(|member| Some((member.peer.node.clone(), member.peer.drain.clone()?)))
            .collect();
        self.pass_on_cancellations(now, &reports, effects);
        for (node, report) in reports {
            let legs = self.legs_of(&node, &report);
            let mut passed = Passed::of(&report, self.neighbours.drains.remove(&node));
            self.pass_on(now, &node, &report, legs, &mut passed, effects);
            self.neighbours.drains.insert(node, passed);
        }
    }

    /// Cameras that change hands while their node stays in service. When its report goes, or it dies, nobody will be
    /// told any more.
    fn pass_on_hand_overs(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let alive = self.fleet.members().filter(|member| member.liveness != Liveness::Dead);
        let report = |member: &Member| Some((member.peer.node.clone(), member.peer.moves.clone()?));
        let reports: Vec<(NodeId, DrainReport)> = alive.filter_map(report).collect();
        let mut before = std::mem::take(&mut self.neighbours.hand_overs);
        for (node, report) in reports {
            let known = before.remove(&node);
            if let Some(other) = known.as_ref().filter(|known| known.drain != report.id) {
                self.pass_on_end(now, &node, other.drain.clone(), effects);
            }
            let mut legs = self.legs_of(&node, &report);
            // It has other cameras, which stay.
            legs.retain(|leg| report.streams.contains_key(&leg.stream));
            let mut passed = Passed::of(&report, known);
            self.pass_on(now, &node, &report, legs, &mut passed, effects);
            self.neighbours.hand_overs.insert(node, passed);
        }
        for (node, passed) in before {
            self.pass_on_end(now, &node, passed.drain, effects);
        }
    }

    fn pass_on_end(&mut self, now: Now, node: &NodeId, hand_over: DrainId, effects: &mut Vec<Effect>) {
        let kind = EventKind::CamerasHandedOver { hand_over, record: None };
        effects.push(Effect::Echo(self.event_about(now, node.clone(), kind)));
    }

    fn pass_on(
        &mut self,
        now: Now,
        node: &NodeId,
        report: &DrainReport,
        legs: Vec<LegNotice>,
        passed: &mut Passed,
        effects: &mut Vec<Effect>,
    ) {
        // Who bridges a change of owner has been told of it.
        let news = legs.iter().filter(|leg| leg.reason != MoveReason::OwnerChanged);
        let fresh: Vec<LegNotice> = news.filter(|leg| passed.noticed.insert(leg.leg.clone())).cloned().collect();
        let moving = legs.into_iter().filter(|leg| report.moving.contains(&leg.leg));
        let moving: Vec<LegNotice> = moving.filter(|leg| passed.ordered.insert(leg.leg.clone())).collect();
        if !fresh.is_empty() {
            let (drain, deadline) = (report.id.clone(), report.deadline);
            let notice = DrainNotice { drain, node: node.clone(), deadline, legs: fresh };
            effects.push(Effect::Echo(self.event_about(now, node.clone(), EventKind::DrainNotice(notice))));
        }
        if !moving.is_empty() {
            let order = MoveOrder { drain: report.id.clone(), node: node.clone(), legs: moving };
            effects.push(Effect::Echo(self.event_about(now, node.clone(), EventKind::DrainMove(order))));
        }
    }

    /// A drain whose report went and whose node is in service was cancelled. The two are two gossip keys, so the report
    /// may go a moment before the node says that it is back.
    fn pass_on_cancellations(&mut self, now: Now, reports: &[(NodeId, DrainReport)], effects: &mut Vec<Effect>) {
        let over = |node: &NodeId| !reports.iter().any(|(draining, _)| draining == node);
        let over: Vec<NodeId> = self.neighbours.drains.keys().filter(|node| over(node)).cloned().collect();
        for node in over {
            let load = self.fleet.get(&node).and_then(|member| member.peer.load.as_ref());
            let state = load.map(|load| load.state);
            if state == Some(NodeState::Draining) {
                continue;
            }
            let Some(passed) = self.neighbours.drains.remove(&node) else { continue };
            if state == Some(NodeState::Active) {
                let why = "the node stays in service".to_owned();
                let kind = EventKind::DrainCancelled { drain: passed.drain, why };
                effects.push(Effect::Echo(self.event_about(now, node, kind)));
            }
        }
    }

    /// The legs that a drain is about: those at its node, and where that is an ingestion node, those that read the
    /// streams it names anywhere else.
    fn legs_of(&self, node: &NodeId, report: &DrainReport) -> Vec<LegNotice> {
        let Some(member) = self.fleet.get(node) else { return Vec::new() };
        let leaves = |stream: &StreamName| match report.pushed.contains(stream) {
            true => MoveReason::CameraLeaves,
            false => MoveReason::NodeLeaves,
        };
        let mut legs = self.notices(member.peer.streams.iter(), report, leaves);
        if member.peer.facts.as_ref().is_none_or(|facts| facts.role != Role::Ingestion) {
            return legs;
        }
        let me = (self.settings.facts.role, &self.server.streams[..]);
        let others = self.fleet.members().filter(|other| other.peer.node != *node);
        let others = others.filter_map(|other| Some((other.peer.facts.as_ref()?.role, &*other.peer.streams)));
        for (role, streams) in others.chain([me]) {
            let named = streams.iter().filter(|stream| report.streams.contains_key(&stream.name));
            legs.extend(self.notices(named, report, |stream| match role {
                Role::Ingestion => MoveReason::OwnerChanged,
                Role::Distribution if report.pushed.contains(stream) => MoveReason::CameraLeaves,
                Role::Distribution => MoveReason::OwnerChanges,
            }));
        }
        legs
    }

    fn notices<'a>(
        &self,
        streams: impl Iterator<Item = &'a StreamReport>,
        report: &DrainReport,
        reason: impl Fn(&StreamName) -> MoveReason,
    ) -> Vec<LegNotice> {
        let legs = streams.flat_map(|stream| stream.legs.iter().map(move |leg| (leg, &stream.name)));
        let notice = |(leg, stream): (&mtxfleet_wire::Leg, &StreamName)| LegNotice {
            leg: leg.leg.clone(),
            worker: leg.worker.clone(),
            stream: stream.clone(),
            candidates: self.candidates_in(report, stream),
            reason: reason(stream),
        };
        legs.map(notice).collect()
    }

    fn candidates_in(&self, report: &DrainReport, stream: &StreamName) -> Vec<Candidate> {
        let order = report.streams.get(stream).map(Vec::as_slice).unwrap_or_default();
        let nodes = order.iter().filter_map(|index| report.nodes.get(usize::from(*index)));
        let candidate = |node: &NodeId| {
            if *node == self.settings.id {
                let warm = self.server.sample.paths.iter().any(|path| path.available && path.name == stream.as_str());
                return Some(Candidate { node: node.clone(), rtsp: self.settings.facts.rtsp.clone(), warm });
            }
            let member = self.fleet.get(node)?;
            let rtsp = member.peer.facts.as_ref()?.rtsp.clone();
            Some(Candidate { node: node.clone(), rtsp, warm: member.has_ready(stream) })
        };
        let mut candidates: Vec<Candidate> = nodes.filter_map(candidate).collect();
        candidates.sort_by_key(|candidate| !candidate.warm);
        candidates
    }
}
