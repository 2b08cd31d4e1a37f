//! A member of the fleet as the engine counts it.

use mtxfleet_wire::{Liveness, LoadReport, MemberView, NodeState, Phase, Role, ServerHealth};

use crate::engine::{Condition, Metric, NodeView};

/// `None` for a node of the other role, or one that is gone. Nodes that say nothing of themselves yet are launching.
pub(crate) fn node(
    role: Role,
    member: &MemberView,
    figures: impl Fn(&LoadReport) -> Vec<Option<f64>>,
    to_move: impl Fn(&LoadReport) -> u32,
) -> Option<NodeView> {
    let facts = member.facts.as_ref().filter(|facts| facts.role == role)?;
    let load = member.load.as_ref();
    let offline = load.is_some_and(|load| load.state == NodeState::Offline);
    if member.liveness == Liveness::Dead || offline {
        return None;
    }
    let condition = match load {
        Some(load) if load.state == NodeState::Draining => {
            let cancellable = member.drain.as_ref().is_none_or(|drain| drain.phase != Phase::Cleanup);
            Condition::Draining { cancellable }
        }
        _ if member.liveness == Liveness::Suspect => Condition::Unhealthy,
        None => Condition::Launching,
        Some(load) => match load.server {
            ServerHealth::Unknown => Condition::Launching,
            ServerHealth::Up => Condition::Serving,
            ServerHealth::Away(_) | ServerHealth::Odd(_) => Condition::Unhealthy,
        },
    };
    Some(NodeView {
        node: member.node.clone(),
        condition,
        loads: load.map(figures).unwrap_or_default(),
        cpu: load.and_then(|load| load.cpu).map(f64::from),
        zone: facts.zone.clone(),
        version: facts.version.clone(),
        to_move: load.map(to_move).unwrap_or_default(),
        protected: false,
        orchestrating: false,
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

    use mtxfleet_wire::{Bitrate, Mono, NodeFacts, NodeId, SCHEMA, UnixMillis};

    use super::*;
    use crate::distribution_orchestrator::{self, DistributionOrchestrator};
    use crate::engine::{Outcome, Reason};
    use crate::ingestion_orchestrator::{self, IngestionOrchestrator};

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
            sampled: UnixMillis(1),
            suspects: Default::default(),
        };
        let node = NodeId::new(name).expect("valid");
        MemberView { node, liveness: Liveness::Alive, facts: Some(facts), load: Some(load), drain: None }
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
        let mut distribution = DistributionOrchestrator::new(distribution_orchestrator::policy()).expect("good");
        let seen = distribution.steer(Mono::default(), UnixMillis(0), 1, &fleet, None).decision.inputs;
        assert_eq!((seen.serving, seen.draining, seen.unhealthy, seen.launching), (1, 1, 2, 1));
        assert_eq!(seen.cancellable, 0, "a drain that no plan ordered is not for the orchestrator to cancel");
        assert_eq!((seen.loads[0].known, seen.loads[0].missing), (80.0, 0));
        let mut ingestion = IngestionOrchestrator::new(ingestion_orchestrator::policy()).expect("good");
        let seen = ingestion.steer(Mono::default(), UnixMillis(0), 1, &fleet, None).decision.inputs;
        assert_eq!((seen.serving, seen.loads[0].known), (1, 40.0));
    }

    #[test]
    fn unknown_readers_hold_the_cluster_and_a_known_lull_shrinks_it() {
        let mut orchestrator = DistributionOrchestrator::new(distribution_orchestrator::policy()).expect("good");
        let mut fleet: Vec<MemberView> =
            ["d1", "d2", "d3"].map(|name| member(name, Role::Distribution, Some(5))).into();
        let mut outcome = |fleet: &[MemberView], from: u64| {
            let look =
                |at: u64| orchestrator.steer(Mono(Duration::from_secs(from + at * 5)), UnixMillis(0), 1, fleet, None);
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
        let mut orchestrator = DistributionOrchestrator::new(policy).expect("good");
        let steered =
            orchestrator.steer(Mono::default(), UnixMillis(0), 1, &[member("d1", Role::Distribution, Some(5))], None);
        assert_eq!(steered.decision.outcome, Outcome::Grow { cancel: 0, launch: 1 });
        assert_eq!(steered.decision.reasons[0], Reason::BelowMin { min: 2 });
        assert_eq!(steered.plan, None);
    }
}
