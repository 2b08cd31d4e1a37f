//! A member of the fleet as the engine counts it.

use mtxfleet_wire::{
    DrainReport, Liveness, LoadReport, MemberView, Mono, NodeFacts, NodeId, NodeState, Phase, Role, ServerHealth,
};

use crate::engine::{Condition, Metric, NodeView};
use crate::fleet_view::Member;

/// A member as an orchestrator looks at it; nothing is copied.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    pub node: &'a NodeId,
    pub liveness: Liveness,
    pub facts: Option<&'a NodeFacts>,
    pub load: Option<&'a LoadReport>,
    pub drain: Option<&'a DrainReport>,
    /// Its figures are of now. Those that are not are unknown.
    pub fresh: bool,
    /// Holds a lease now.
    pub orchestrating: bool,
}

impl<'a> Seen<'a> {
    /// A member of the fleet, of which `now` tells how old its figures are.
    #[must_use]
    pub fn member(member: &'a Member, now: Mono) -> Self {
        Self {
            node: &member.peer.node,
            liveness: member.liveness,
            facts: member.peer.facts.as_ref(),
            load: member.peer.load.as_ref(),
            drain: member.peer.drain.as_ref(),
            fresh: member.is_fresh(now),
            orchestrating: false,
        }
    }
}

impl<'a> From<&'a MemberView> for Seen<'a> {
    /// Taken to be fresh.
    fn from(view: &'a MemberView) -> Self {
        Self {
            node: &view.node,
            liveness: view.liveness,
            facts: view.facts.as_ref(),
            load: view.load.as_ref(),
            drain: view.drain.as_ref(),
            fresh: true,
            orchestrating: false,
        }
    }
}

/// `None` for a node of the other role, or one that is gone. Nodes that say nothing of themselves yet are launching.
pub(crate) fn node(
    role: Role,
    member: Seen<'_>,
    figures: impl Fn(&LoadReport) -> Vec<Option<f64>>,
    to_move: impl Fn(&LoadReport) -> u32,
) -> Option<NodeView> {
    let facts = member.facts.filter(|facts| facts.role == role)?;
    let load = member.load;
    let figured = load.filter(|_| member.fresh);
    let offline = load.is_some_and(|load| load.state == NodeState::Offline);
    if member.liveness == Liveness::Dead || offline {
        return None;
    }
    let condition = match load {
        Some(load) if load.state == NodeState::Draining => {
            let cancellable = member.drain.is_none_or(|drain| drain.phase != Phase::Cleanup);
            Condition::Draining { cancellable }
        }
        _ if member.liveness == Liveness::Suspect => Condition::Unhealthy,
        None => Condition::Launching,
        Some(load) => match load.server {
            _ if load.is_broken() => Condition::Unhealthy,
            ServerHealth::Unknown => Condition::Launching,
            ServerHealth::Up => Condition::Serving,
            ServerHealth::Away(_) | ServerHealth::Odd(_) => Condition::Unhealthy,
        },
    };
    Some(NodeView {
        node: member.node.clone(),
        condition,
        loads: figured.map(figures).unwrap_or_default(),
        cpu: figured.and_then(|load| load.cpu).map(f64::from),
        zone: facts.zone.clone(),
        version: facts.version.clone(),
        to_move: load.map(to_move).unwrap_or_default(),
        protected: load.is_some_and(|load| load.protected || load.declines.is_some()),
        orchestrating: member.orchestrating,
    })
}

/// `None` where the node does not know: half of a sum is no figure.
pub(crate) fn figure(metric: Metric, load: &LoadReport) -> Option<f64> {
    match metric {
        Metric::Cameras => load.cameras.map(f64::from),
        Metric::Readers => Some(f64::from(load.viewers?) + f64::from(load.workers?)),
        Metric::Inbound => load.inbound.map(|rate| rate.0 as f64),
        Metric::Outbound => load.outbound.map(|rate| rate.0 as f64),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mtxfleet_wire::{Bitrate, RunId, SCHEMA, Token, UnixMillis};

    use super::*;
    use crate::engine::{Manner, Outcome, Policy, Reason, Steered};
    use crate::{Orchestrator, distribution_orchestrator, ingestion_orchestrator};

    const TOKEN: Token = Token { epoch: 1, run: RunId(1) };

    fn orchestrator(role: Role, policy: Policy) -> Orchestrator {
        Orchestrator::new(role, policy).expect("good")
    }

    fn steer(orchestrator: &mut Orchestrator, at: u64, fleet: &[MemberView]) -> Steered {
        let nodes = orchestrator.nodes(fleet.iter().map(Seen::from));
        orchestrator.steer(Mono(Duration::from_secs(at)), UnixMillis(0), TOKEN, &nodes, None, Manner::Act)
    }

    fn member(name: &str, role: Role, readers: Option<u32>) -> MemberView {
        let facts = NodeFacts {
            schema: SCHEMA,
            role,
            zone: "a".into(),
            rtsp: "127.0.0.1:8554".into(),
            http: "http://127.0.0.1:8780".into(),
            gossip: String::new(),
            version: "0.1.0".into(),
            started: UnixMillis(1),
            instance: None,
        };
        let load = LoadReport {
            state: NodeState::Active,
            server: ServerHealth::Up,
            cameras: readers,
            workers: readers,
            viewers: readers,
            inbound: Some(Bitrate(0)),
            outbound: Some(Bitrate(0)),
            discarded_packets: 0,
            cpu: Some(0.1),
            memory: None,
            disk_free: None,
            capacity: Bitrate(1_000_000_000),
            redis: true,
            protected: false,
            declines: None,
            sampled: UnixMillis(1),
            suspects: Default::default(),
            health: None,
        };
        let node = NodeId::new(name).expect("valid");
        MemberView {
            node,
            liveness: Liveness::Alive,
            facts: Some(facts),
            load: Some(load),
            drain: None,
            moves: None,
            cameras: None,
        }
    }

    #[test]
    fn each_orchestrator_sees_its_own_role_and_counts_each_state_apart() {
        let mut fleet: Vec<MemberView> =
            ["d1", "d2", "d3", "d4", "d5", "d6"].map(|name| member(name, Role::Distribution, Some(10))).into();
        fleet.push(member("i1", Role::Ingestion, Some(40)));
        fleet[1].load.as_mut().expect("set").state = NodeState::Draining;
        fleet[2].liveness = Liveness::Suspect;
        fleet[3].liveness = Liveness::Dead;
        fleet[4].load = None;
        fleet[5].load.as_mut().expect("set").server = ServerHealth::Away("refused".into());
        let mut distribution = orchestrator(Role::Distribution, distribution_orchestrator::policy());
        let seen = steer(&mut distribution, 0, &fleet).decision.inputs;
        assert_eq!((seen.serving, seen.draining, seen.unhealthy, seen.launching), (1, 1, 2, 1));
        assert_eq!(seen.cancellable, 0, "a drain that no plan ordered is not for the orchestrator to cancel");
        assert_eq!((seen.loads[0].known, seen.loads[0].missing), (80.0, 0));
        let mut ingestion = orchestrator(Role::Ingestion, ingestion_orchestrator::policy());
        let seen = steer(&mut ingestion, 0, &fleet).decision.inputs;
        assert_eq!((seen.serving, seen.loads[0].known), (1, 40.0));
    }

    #[test]
    fn a_node_in_doubt_holds_its_place_for_a_while_and_then_another_is_launched() {
        let policy = Policy { min: 2, cpu_limit: None, ..distribution_orchestrator::policy() };
        let mut orchestrator = orchestrator(Role::Distribution, policy);
        let mut fleet: Vec<MemberView> = ["d1", "d2"].map(|name| member(name, Role::Distribution, Some(5))).into();
        let mut outcome = |at: u64, fleet: &[MemberView]| steer(&mut orchestrator, at, fleet).decision.outcome;
        assert_eq!(outcome(0, &fleet), Outcome::Nothing);
        fleet[1].liveness = Liveness::Suspect;
        assert_eq!(outcome(1, &fleet), Outcome::Nothing, "it may be back in a moment");
        fleet[1].liveness = Liveness::Alive;
        assert_eq!(outcome(2, &fleet), Outcome::Nothing);
        fleet[1].load.as_mut().expect("set").server = ServerHealth::Away("refused".into());
        assert!((3..18).all(|at| outcome(at, &fleet) == Outcome::Nothing), "its MediaMTX may be started again");
        assert_eq!(outcome(18, &fleet), Outcome::Grow { cancel: 0, launch: 1 });
        fleet[1].liveness = Liveness::Dead;
        assert_eq!(outcome(19, &fleet), Outcome::Grow { cancel: 0, launch: 1 }, "the dead are not in doubt");
    }

    #[test]
    fn unknown_readers_hold_the_cluster_and_a_known_lull_shrinks_it() {
        let mut orchestrator = orchestrator(Role::Distribution, distribution_orchestrator::policy());
        let mut fleet: Vec<MemberView> =
            ["d1", "d2", "d3"].map(|name| member(name, Role::Distribution, Some(5))).into();
        let mut outcome = |fleet: &[MemberView], from: u64| {
            let look = |at: u64| steer(&mut orchestrator, from + at * 5, fleet);
            (0..=130).map(look).find(|steered| steered.decision.outcome != Outcome::Nothing)
        };
        fleet[2].load.as_mut().expect("set").viewers = None;
        assert_eq!(outcome(&fleet, 0), None);
        fleet[2].load.as_mut().expect("set").viewers = Some(4);
        let steered = outcome(&fleet, 660).expect("ten minutes below");
        assert_eq!(steered.decision.outcome, Outcome::Shrink { drain: 1 });
        let plan = steered.plan.expect("a new wish");
        assert_eq!((plan.size, plan.drains.len(), plan.takers.len()), (2, 1, 2));
        assert!(plan.drains.keys().all(|node| node.as_str() == "d3"), "the fewest to move: {plan:?}");
    }

    #[test]
    fn a_dry_run_decides_and_plans_nothing() {
        let policy = crate::engine::Policy { dry_run: true, ..distribution_orchestrator::policy() };
        let mut orchestrator = orchestrator(Role::Distribution, policy);
        let steered = steer(&mut orchestrator, 0, &[member("d1", Role::Distribution, Some(5))]);
        assert_eq!(steered.decision.outcome, Outcome::Grow { cancel: 0, launch: 1 });
        assert_eq!(steered.decision.reasons[0], Reason::BelowMin { min: 2 });
        assert_eq!(steered.plan, None);
    }

    #[test]
    fn figures_that_are_not_of_now_are_unknown() {
        let orchestrator = orchestrator(Role::Distribution, distribution_orchestrator::policy());
        let view = member("d1", Role::Distribution, Some(5));
        let nodes = orchestrator.nodes([Seen { fresh: false, ..Seen::from(&view) }]);
        assert_eq!((nodes[0].condition, nodes[0].cpu), (Condition::Serving, None));
        assert!(nodes[0].loads.is_empty(), "{nodes:?}");
    }

    #[test]
    fn a_drain_that_its_node_declines_is_dropped_and_another_node_is_chosen() {
        let mut orchestrator = orchestrator(Role::Distribution, distribution_orchestrator::policy());
        let mut fleet: Vec<MemberView> =
            ["d1", "d2", "d3"].map(|name| member(name, Role::Distribution, Some(5))).into();
        let plans = |orchestrator: &mut Orchestrator, fleet: &[MemberView], from: u64| {
            (from..from + 700).step_by(5).filter_map(|at| steer(orchestrator, at, fleet).plan).last()
        };
        let named = |plan: &crate::plan::Plan| plan.drains.keys().map(ToString::to_string).collect::<Vec<_>>();
        let first = plans(&mut orchestrator, &fleet, 0).expect("ten minutes below");
        assert_eq!(named(&first), ["d1"]);
        fleet[0].load.as_mut().expect("set").declines = Some("an operator put it back".into());
        let second = plans(&mut orchestrator, &fleet, 700).expect("another wish");
        assert_eq!(named(&second), ["d2"]);
    }

    #[test]
    fn a_role_that_is_held_decides_and_its_plan_stays_as_it_was_but_for_who_takes_streams() {
        let mut orchestrator = orchestrator(Role::Distribution, distribution_orchestrator::policy());
        let mut fleet: Vec<MemberView> =
            ["d1", "d2", "d3"].map(|name| member(name, Role::Distribution, Some(5))).into();
        let mut hold = |fleet: &[MemberView], at: u64| {
            let nodes = orchestrator.nodes(fleet.iter().map(Seen::from));
            orchestrator.steer(Mono(Duration::from_secs(at)), UnixMillis(0), TOKEN, &nodes, None, Manner::Hold)
        };
        let mut steered = hold(&fleet, 0);
        assert_eq!(steered.plan.expect("the first").takers.len(), 3);
        for at in (5..700).step_by(5) {
            steered = hold(&fleet, at);
            assert_eq!(steered.plan, None);
        }
        assert_eq!(steered.decision.outcome, Outcome::Shrink { drain: 1 });
        assert_eq!(steered.victims.len(), 1, "whom it would have been");
        fleet[2].liveness = Liveness::Suspect;
        let plan = hold(&fleet, 705).plan.expect("others take streams");
        assert_eq!((plan.takers.len(), plan.drains.len()), (2, 0));
    }
}
