//! This node and its cloud: the orchestrator's growing, and a drained node's own end. Crate `leader` decides; here it
//! is joined to what the node knows.
//!
//! ```text
//!  leadership: may this node act? --+
//!  a decision: how many, of whom? --+--> Growing --> intent in the registry, calls to the cloud
//!  the cloud's listing -------------+           \--> nodes that launch, the lead: for the next decision
//!  drained -----------------------------> Ending --> the instance ends, or the node is back in service
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use mtxfleet_leader::cloud::{CloudAnswer, CloudError, Group};
use mtxfleet_leader::election::Standing;
use mtxfleet_leader::ending::{Ended, Ending};
use mtxfleet_leader::engine::NodeView;
use mtxfleet_leader::growing::{Ask, Goal, Growing, IntentAnswer, LaunchTimes, Leave, Seat};
use mtxfleet_wire::{InstanceId, Liveness, LoadReport, Mono, NodeFacts, NodeId, NodeState, ServerHealth};

use super::effect::Effect;
use super::{Node, Now};

pub use mtxfleet_leader::growing::Settings as CloudSettings;

#[derive(Debug)]
pub struct Cloud {
    growing: Growing,
    boot_deadline: Duration,
    /// `None` where no cloud started this node.
    ending: Option<Ending>,
}

/// A member as its seat in the group is worked out.
struct Known<'a> {
    node: &'a NodeId,
    facts: Option<&'a NodeFacts>,
    load: Option<&'a LoadReport>,
    alive: bool,
}

impl Cloud {
    pub(super) fn new(settings: CloudSettings, facts: &NodeFacts) -> Self {
        Self {
            growing: Growing::new(facts.role, settings),
            boot_deadline: settings.boot_deadline,
            ending: facts.instance.clone().map(|instance| Ending::new(facts.role, instance)),
        }
    }
}

impl Cloud {
    /// Which listing the next decision is made on.
    pub(super) fn listing(&self) -> Option<u64> {
        self.growing.listing()
    }

    /// The newest complete listing, while it is fresh.
    pub(super) fn group(&self, now: Mono) -> Option<&Group> {
        self.growing.group(now)
    }
}

impl Node {
    /// After a decision: `size` nodes are to serve or to launch, and more when the window that runs has agreed. `nodes` is
    /// what it was made from; `counts` says which of them that size counts. `None` where nothing is to be done: a pause, a
    /// trial run, no lease.
    pub fn aim_growing(
        &mut self,
        now: Now,
        size: Option<u32>,
        agrees_in: Option<Duration>,
        nodes: &[NodeView],
        counts: impl Fn(&NodeView) -> bool,
    ) {
        let counted: BTreeSet<&NodeId> = nodes.iter().filter(|node| counts(node)).map(|node| &node.node).collect();
        let load = self.load(now);
        let goal = size.map(|size| {
            let seat = |known: Known<'_>| {
                let serves = known.alive
                    && known.load.is_some_and(|l| l.state == NodeState::Active && l.server == ServerHealth::Up);
                let readers = known.load.map(|load| load.workers.unwrap_or(0) + load.viewers.unwrap_or(0));
                Seat {
                    instance: known.facts.and_then(|facts| facts.instance.clone()),
                    counted: counted.contains(known.node),
                    serves,
                    has_readers: readers.is_some_and(|readers| readers > 0),
                }
            };
            Goal { size, seats: self.all_of_role(&load).into_iter().map(seat).collect(), agrees_in }
        });
        if let Some(cloud) = &mut self.cloud {
            cloud.growing.aim(now.mono, goal);
        }
    }

    /// Instances that launch and have no agent yet, as the engine counts nodes; to be given to it beside the members.
    #[must_use]
    pub fn launching_nodes(&self, now: Now) -> Vec<NodeView> {
        let Some(cloud) = &self.cloud else { return Vec::new() };
        cloud.growing.launching(now.mono, &self.known_instances(&self.load(now)))
    }

    /// Nodes that the cloud would not let go are not to be drained; while its group cannot be listed as a whole, none of
    /// its own is.
    pub fn mark_kept(&self, now: Now, nodes: &mut [NodeView]) {
        let Some(cloud) = &self.cloud else { return };
        let is_unseen = cloud.group(now.mono).is_none();
        for node in nodes {
            let own = (node.node == self.settings.id).then_some(&self.settings.facts);
            let facts = own.or_else(|| self.fleet.get(&node.node).and_then(|member| member.peer.facts.as_ref()));
            let instance = facts.and_then(|facts| facts.instance.as_ref());
            node.protected |= instance.is_some_and(|instance| is_unseen || cloud.growing.keeps(instance).is_some());
        }
    }

    /// What the cloud does not do as it was asked, and what becomes of its machines: for the decision log.
    pub(super) fn cloud_notes(&self, now: Now) -> Vec<String> {
        let Some(cloud) = &self.cloud else { return Vec::new() };
        let progress = cloud.growing.progress(now.mono, &BTreeSet::new());
        let mut notes: Vec<String> = progress.problem.into_iter().collect();
        if let (Some(desired), Some(present)) = (progress.desired, progress.present) {
            let counts = format!("the cloud has {present} instances where {desired} are desired");
            if present > desired {
                notes.push(counts);
            } else if let Some(short) = progress.short_for.filter(|short| *short >= cloud.boot_deadline) {
                notes.push(format!("{counts}, and has launched none for {} s", short.as_secs()));
            }
        }
        notes.extend(self.replacing.notes());
        notes
    }

    /// From launch to service, as this orchestrator has measured it.
    #[must_use]
    pub fn measured_lead(&self) -> Option<Duration> {
        self.cloud.as_ref()?.growing.lead()
    }

    /// Instances that others are to take the place of, the whole list each time.
    pub fn replace_instances(&mut self, instances: BTreeSet<InstanceId>) {
        if let Some(cloud) = &mut self.cloud {
            cloud.growing.replace(instances);
        }
    }

    /// Launches that have come further since this was asked last.
    pub fn take_launched(&mut self) -> Vec<LaunchTimes> {
        self.cloud.as_mut().map(|cloud| cloud.growing.take_launched()).unwrap_or_default()
    }

    pub(super) fn use_cloud(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let leave = match self.leadership.standing(now.mono) {
            Standing::Acting { token, valid_for } => Some(Leave::Term { token, until: now.mono + valid_for }),
            Standing::GrowOnly { .. } => Some(Leave::GrowOnly),
            Standing::Following { .. } | Standing::Idle(_) => None,
        };
        let drained = self.state == NodeState::Offline;
        let Some(cloud) = &mut self.cloud else { return };
        effects.extend(cloud.growing.pass_time(now.mono, leave).into_iter().map(done_outside));
        let end = cloud.ending.as_mut().and_then(|ending| ending.pass_time(now.mono, drained));
        effects.extend(end.map(Effect::Cloud));
    }

    pub(super) fn cloud_answered(
        &mut self,
        now: Now,
        number: u64,
        answer: Result<CloudAnswer, CloudError>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(cloud) = &mut self.cloud else { return };
        if !Ending::asked_by(number) {
            effects.extend(cloud.growing.answered(now.mono, number, answer).into_iter().map(done_outside));
            return;
        }
        let ended = cloud.ending.as_mut().and_then(|ending| ending.answered(now.mono, number, answer));
        match ended {
            Some(Ended::Refused(why)) if self.state == NodeState::Offline => {
                let why = format!("the cloud does not let it end: {why}");
                // Or the next plan would drain it again, to the same end.
                self.decline(now, &why);
                self.come_back(now, &why, effects);
            }
            // A failure is asked about again; the edge has logged it.
            _ => {}
        }
    }

    pub(super) fn intent_answered(&mut self, now: Now, number: u64, answer: IntentAnswer, effects: &mut Vec<Effect>) {
        let Some(cloud) = &mut self.cloud else { return };
        effects.extend(cloud.growing.intent_answered(now.mono, number, answer).into_iter().map(done_outside));
    }

    /// Whether this node's own instance ends once it is drained.
    pub(super) fn ends_itself(&self) -> bool {
        self.cloud.as_ref().is_some_and(|cloud| cloud.ending.is_some())
    }

    /// All nodes of this role that gossip knows, in whatever state, and this one.
    fn all_of_role<'a>(&'a self, own: &'a LoadReport) -> Vec<Known<'a>> {
        let role = self.settings.facts.role;
        let others = self.fleet.members().filter(|m| m.peer.facts.as_ref().is_some_and(|facts| facts.role == role));
        let mut all: Vec<Known<'_>> = others
            .map(|member| Known {
                node: &member.peer.node,
                facts: member.peer.facts.as_ref(),
                load: member.peer.load.as_ref(),
                alive: member.liveness == Liveness::Alive,
            })
            .collect();
        all.push(Known { node: &self.settings.id, facts: Some(&self.settings.facts), load: Some(own), alive: true });
        all
    }

    fn known_instances(&self, own: &LoadReport) -> BTreeSet<InstanceId> {
        let all = self.all_of_role(own);
        all.into_iter().filter_map(|known| known.facts?.instance.clone()).collect()
    }
}

fn done_outside(ask: Ask) -> Effect {
    match ask {
        Ask::Cloud(ask) => Effect::Cloud(ask),
        Ask::Intent(order) => Effect::Intent(order),
    }
}
