//! Where the node's health and everybody's availability meet the rest of the node.

use std::collections::BTreeMap;
use std::time::Duration;

use mtxfleet_leader::Member;
use mtxfleet_wire::{EventKind, HealthReport, Ill, Liveness, Mono, NodeState, Role, ServerHealth, StreamName, Subject};

use super::availability::clusters;
use super::effect::{CheckList, Effect, PeerToCheck};
use super::event::Checked;
use super::health::Signs;
use super::{Node, Now};

/// A node that has just started knows nobody yet: what it does not see is not missing.
const SETTLED_AFTER: Duration = Duration::from_secs(15);

impl Node {
    /// With the tick: once a second, ten times in a drain.
    pub(super) fn look_after_health(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let signs = self.signs();
        let before = self.said_health.clone();
        if self.health.see(now.mono, signs, self.state == NodeState::Active) {
            effects.push(Effect::RestartServer);
        }
        let alive = &self.fleet;
        self.health.keep_peers(|peer| alive.get(peer).is_some_and(|member| member.liveness == Liveness::Alive));
        let report = HealthReport { replaced: self.replacing.ordered_lately(now.mono), ..self.health.report(now.mono) };
        let told = |report: &HealthReport| (report.ills.clone(), report.restarts, report.hopeless);
        if told(&before) != told(&report) && (!before.ills.is_empty() || !report.ills.is_empty()) {
            effects.push(Effect::Announce(self.event(now, EventKind::NodeHealth(report.clone()))));
        }
        self.said_health = report;
        self.check(now.mono, effects);
        self.watch_availability(now, effects);
    }

    pub(super) fn checked(&mut self, now: Mono, seen: Checked) {
        if let Some(own) = seen.own {
            self.health.checked(now, own);
        }
        for (peer, answers) in seen.peers {
            self.health.checked_peer(peer, answers);
        }
    }

    /// Ills that keep balancers from sending anything here, beside those that they are told of in other ways.
    pub(super) fn delivers_nothing(&self) -> bool {
        self.said_health.ills.iter().any(|ill| matches!(ill, Ill::Rtsp | Ill::Streams))
    }

    fn signs(&self) -> Signs {
        let server = match self.server.health {
            ServerHealth::Unknown => None,
            ServerHealth::Up => Some(true),
            ServerHealth::Away(_) | ServerHealth::Odd(_) => Some(false),
        };
        let disk = self.machine.disk_free.map(|free| free >= self.settings.min_disk_free);
        Signs { server, streams: self.streams_deliver(), disk }
    }

    /// Whether what this node has delivers. `None` where nothing can be said: no streams, or streams that deliver
    /// nothing at their owner either, which is not this node's doing. One camera alone that is still is no proof.
    fn streams_deliver(&self) -> Option<bool> {
        let streams = &self.server.streams;
        if streams.iter().any(|stream| stream.flowing) {
            return Some(true);
        }
        match self.settings.facts.role {
            Role::Ingestion => {
                (streams.iter().filter(|stream| stream.owned && stream.ready).count() >= 2).then_some(false)
            }
            Role::Distribution => {
                let read =
                    streams.iter().filter(|stream| stream.ready && (stream.readers > 0 || !stream.legs.is_empty()));
                let flows_elsewhere = |name: &StreamName| {
                    let has = |member: &Member| {
                        member.peer.streams.iter().any(|stream| stream.owned && stream.flowing && stream.name == *name)
                    };
                    self.fleet.members().any(has)
                };
                read.map(|stream| &stream.name).any(flows_elsewhere).then_some(false)
            }
        }
    }

    fn check(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        let own = self.health.check_is_due(now).then(|| self.settings.own_rtsp.clone());
        let peer = |member: &Member| {
            let facts = member.peer.facts.as_ref().filter(|_| member.liveness == Liveness::Alive)?;
            Some(PeerToCheck { node: member.peer.node.clone(), rtsp: facts.rtsp.clone(), http: facts.http.clone() })
        };
        let peers = if own.is_some() { self.fleet.members().filter_map(peer).collect() } else { Vec::new() };
        let peers = self.health.sample(now, peers);
        if own.is_some() || !peers.is_empty() {
            effects.push(Effect::Check(CheckList { own, peers }));
        }
    }

    fn watch_availability(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let settled = now.mono.since(self.started) >= SETTLED_AFTER;
        if !settled || !self.availability.is_due(now.mono) || self.is_cut_off() {
            return;
        }
        let mut seen: Vec<(Subject, bool)> =
            clusters(|role| self.serves(role) || self.fleet.serving(role).next().is_some()).into();
        if self.state != NodeState::Offline {
            let up = self.server.health == ServerHealth::Up && self.said_health.ills.is_empty();
            seen.push((Subject::Node(self.settings.id.to_string()), up));
        }
        for member in self.fleet.members() {
            let Some(load) = &member.peer.load else { continue };
            // A node that falls silent in its drain was ended by whoever drained it, before it could say that it is done.
            let has_left = load.state == NodeState::Offline
                || load.state == NodeState::Draining && member.liveness != Liveness::Alive;
            if !has_left {
                let up = member.liveness == Liveness::Alive && load.server == ServerHealth::Up && !load.is_broken();
                seen.push((Subject::Node(member.peer.node.to_string()), up));
            }
        }
        let mut streams: BTreeMap<&StreamName, bool> = BTreeMap::new();
        let alive = self.fleet.members().filter(|member| member.liveness == Liveness::Alive);
        let owned = alive.flat_map(|member| member.peer.streams.iter()).chain(self.server.streams.iter());
        for stream in owned.filter(|stream| stream.owned) {
            *streams.entry(&stream.name).or_default() |= stream.ready && stream.flowing;
        }
        seen.extend(streams.into_iter().map(|(name, flows)| (Subject::Stream(name.to_string()), flows)));
        if self.availability.look(now.mono, now.wall, seen).save {
            effects.push(Effect::KeepAvailability);
        }
    }

    fn serves(&self, role: Role) -> bool {
        self.settings.facts.role == role && self.state == NodeState::Active && self.unready_reasons().is_empty()
    }

    /// Hears none of several others: it is this node that is away, and what it does not see is not missing.
    fn is_cut_off(&self) -> bool {
        let mut members = self.fleet.members().peekable();
        members.peek().is_some() && members.all(|member| member.liveness != Liveness::Alive)
    }
}
