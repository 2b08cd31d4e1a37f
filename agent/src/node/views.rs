//! What this node shows: the bodies of the HTTP API.

use std::sync::Arc;

use mtxfleet_wire::{DrainView, FleetView, Liveness, MemberView, Mono, NodeId, NodeState, StreamReport};

use super::{Node, Now};

impl Node {
    #[must_use]
    pub fn member_view(&self, now: Now) -> MemberView {
        MemberView {
            node: self.settings.id.clone(),
            liveness: Liveness::Alive,
            facts: Some(self.settings.facts.clone()),
            load: Some(self.load(now)),
            drain: self.draining.drain.as_ref().map(mtxfleet_drain::Drain::report),
            moves: self.changing_hands.under_way.as_ref().map(mtxfleet_drain::HandOver::report),
            cameras: self.settings.cameras.map(|_| self.cameras.report()),
        }
    }

    /// All members, this node among them, in order of their ids.
    #[must_use]
    pub fn fleet_view(&self, now: Now, cluster: &str) -> FleetView {
        let mut members: Vec<MemberView> = self.fleet.members().map(mtxfleet_leader::Member::view).collect();
        members.push(self.member_view(now));
        members.sort_by(|a, b| a.node.cmp(&b.node));
        FleetView { cluster: cluster.to_owned(), seen_by: self.settings.id.clone(), at: now.wall, members }
    }

    /// All streams of all members, by member.
    #[must_use]
    pub fn streams_by_node(&self) -> Vec<(NodeId, Arc<[StreamReport]>)> {
        let mine = (self.settings.id.clone(), Arc::clone(&self.server.streams));
        let theirs = self.fleet.members().filter(|member| member.liveness != Liveness::Dead);
        let theirs = theirs.map(|member| (member.peer.node.clone(), Arc::clone(&member.peer.streams)));
        std::iter::once(mine).chain(theirs).collect()
    }

    /// The drain under way, or the last one since the agent started.
    #[must_use]
    pub fn drain_view(&self, now: Mono) -> Option<DrainView> {
        if let Some(drain) = &self.draining.drain {
            return Some(drain.view(now));
        }
        let record = self.draining.last_record.clone()?;
        Some(DrainView {
            drain: record.drain.clone(),
            node: record.node.clone(),
            started: record.started,
            phase: None,
            seconds_in_phase: 0.0,
            seconds_left: 0.0,
            waiting_for: Vec::new(),
            phases: record.phases.clone(),
            legs: record.legs.clone(),
            cameras: record.cameras.clone(),
            viewers: 0,
            record: Some(record),
        })
    }

    #[must_use]
    pub fn availability(&self) -> Arc<mtxfleet_wire::AvailabilityView> {
        self.availability.view()
    }

    /// What is to be kept over a restart.
    #[must_use]
    pub fn availability_record(&self) -> super::availability::Record {
        self.availability.record()
    }

    /// Drained, and not brought back.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.state == NodeState::Offline
    }

    /// # Errors
    /// Why load balancers should send nothing new here.
    pub fn readiness(&self) -> Result<(), Vec<String>> {
        let reasons = self.unready_reasons();
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }
}
