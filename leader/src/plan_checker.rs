//! What must be true of every plan, said a second time and apart from the planner.
//!
//! Every test that makes plans runs it: [`Steering`](crate::engine::Steering) itself does in this crate's tests, the agent's
//! node in its own. It shares no code with what it checks, but for the calendar that says which schedules hold.

use std::collections::BTreeSet;

use mtxfleet_wire::{NodeId, UnixMillis};

use crate::engine::schedule::Timetable;
use crate::engine::{Condition, Manner, NodeView, Policy};
use crate::plan::Plan;

/// Something that no plan may want.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Problem {
    #[error("it is not later than its parent")]
    NotLaterThanParent,
    #[error("its parent is of another role")]
    RoleChanged,
    #[error("it names a parent that is not the one given")]
    WrongParent,
    #[error("it asks for {size} nodes, outside of {min} to {max}, and moves away from that range")]
    OutOfRange { size: u32, min: u32, max: u32 },
    #[error("it drains {0}, which is not in the cluster")]
    DrainsUnknown(NodeId),
    #[error("it drains {0}, which is protected")]
    DrainsProtected(NodeId),
    #[error("it drains {new} more with {old} draining, above the step of {step}")]
    DrainsTooMany { old: usize, new: usize, step: u32 },
    #[error("it leaves {left} serving, below the least, {min}")]
    BelowMin { left: u32, min: u32 },
    #[error("it grows and drains at once")]
    GrowsAndDrains,
    #[error("it drains while {0} does not say what it carries")]
    DrainsBlindly(NodeId),
    #[error("it leaves {after:.1} per node, above {limit:.1}")]
    Overloads { after: f64, limit: f64 },
    #[error("it drains {0}, and schedule {1} lets nothing shrink")]
    DrainsAgainstSchedule(NodeId, String),
    #[error("it drains {0}, and nothing was to be decided")]
    DrainsWhileHeld(NodeId),
    #[error("it grows from {from} to {to}, and nothing was to be decided")]
    GrowsWhileHeld { from: u32, to: u32 },
    #[error("{0} serves, stays, and does not take streams")]
    MissingTaker(NodeId),
    #[error("{0} takes streams and does not serve, or is to be drained")]
    WrongTaker(NodeId),
    #[error("it drops the drain of {0}, which cannot be cancelled any more")]
    DropsLateDrain(NodeId),
}

/// What a plan was made from.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    pub parent: Option<&'a Plan>,
    /// All of the role that are not gone, as they say themselves that they are.
    pub nodes: &'a [NodeView],
    pub policy: &'a Policy,
    /// For the policy's schedules.
    pub wall: UnixMillis,
    pub manner: Manner,
}

/// Everything that is wrong with `plan`.
#[must_use]
pub fn check(plan: &Plan, given: Given<'_>) -> Vec<Problem> {
    let Given { parent, nodes, .. } = given;
    let mut problems = Vec::new();
    // What the calendar makes of the policy's range. A policy that is refused makes no plans.
    let mut policy = given.policy.clone();
    let mut inhibited_by = None;
    if let Ok(timetable) = Timetable::new(given.policy) {
        let in_force = timetable.in_force(given.policy, given.wall);
        (policy.min, policy.max, inhibited_by) = (in_force.min, in_force.max, in_force.inhibited_by);
    }
    if plan.parent != parent.map(|parent| parent.id) {
        problems.push(Problem::WrongParent);
    }
    if let Some(parent) = parent {
        if plan.id <= parent.id {
            problems.push(Problem::NotLaterThanParent);
        }
        if plan.role != parent.role {
            problems.push(Problem::RoleChanged);
        }
    }
    let ordered = |node: &NodeId| parent.is_some_and(|parent| parent.drains.contains_key(node));
    let new: BTreeSet<&NodeId> = plan.drains.keys().filter(|node| !ordered(node)).collect();
    let find = |wanted: &NodeId| nodes.iter().find(|node| node.node == *wanted);

    for node in plan.drains.keys() {
        match find(node) {
            None => problems.push(Problem::DrainsUnknown(node.clone())),
            Some(view) if view.protected && new.contains(node) => {
                problems.push(Problem::DrainsProtected(node.clone()));
            }
            Some(_) => {}
        }
    }
    for view in nodes {
        let late = view.condition == Condition::Draining { cancellable: false };
        if late && ordered(&view.node) && !plan.drains.contains_key(&view.node) {
            problems.push(Problem::DropsLateDrain(view.node.clone()));
        }
    }
    // One whose drain was just cancelled takes streams when it says that it serves.
    let stays = |view: &&NodeView| {
        view.condition == Condition::Serving && !plan.drains.contains_key(&view.node) && !ordered(&view.node)
    };
    for view in nodes.iter().filter(stays).filter(|view| !plan.takers.contains(&view.node)) {
        problems.push(Problem::MissingTaker(view.node.clone()));
    }
    for taker in &plan.takers {
        let serves = find(taker).is_some_and(|view| view.condition == Condition::Serving);
        if !serves || plan.drains.contains_key(taker) {
            problems.push(Problem::WrongTaker(taker.clone()));
        }
    }
    size(plan, given, &policy, &mut problems);
    if !new.is_empty() {
        shrinking(plan, &new, nodes, &policy, &mut problems);
    }
    for node in new {
        if given.manner == Manner::Hold {
            problems.push(Problem::DrainsWhileHeld(node.clone()));
        }
        if let Some(schedule) = &inhibited_by {
            problems.push(Problem::DrainsAgainstSchedule(node.clone(), schedule.clone()));
        }
    }
    problems
}

/// In service or on its way there, and not told to go.
fn counts(view: &NodeView, drains: impl Fn(&NodeId) -> bool) -> bool {
    matches!(view.condition, Condition::Serving | Condition::Launching) && !drains(&view.node)
}

fn size(plan: &Plan, given: Given<'_>, policy: &Policy, problems: &mut Vec<Problem>) {
    let told = |node: &NodeId| given.parent.is_some_and(|parent| parent.drains.contains_key(node));
    let present = given.nodes.iter().filter(|view| counts(view, told)).count() as u32;
    // Who was told to hold may leave too few as few as they are.
    let held = given.manner == Manner::Hold;
    let away_below = plan.size < policy.min && if held { plan.size < present } else { plan.size <= present };
    // Those that are ill may hold their places for a while.
    let ill = |view: &&NodeView| view.condition == Condition::Unhealthy && !told(&view.node);
    let away_above = plan.size > policy.max && plan.size > present + given.nodes.iter().filter(ill).count() as u32;
    let there = given.nodes.len() as u32;
    if held && plan.size > there {
        problems.push(Problem::GrowsWhileHeld { from: there, to: plan.size });
    }
    if away_below || away_above {
        problems.push(Problem::OutOfRange { size: plan.size, min: policy.min, max: policy.max });
    }
}

fn shrinking(plan: &Plan, new: &BTreeSet<&NodeId>, nodes: &[NodeView], policy: &Policy, problems: &mut Vec<Problem>) {
    let leaving = |node: &NodeId| plan.drains.contains_key(node);
    let stay: Vec<_> = nodes.iter().filter(|view| counts(view, leaving)).collect();
    let left = stay.len() as u32;
    if left < policy.min {
        problems.push(Problem::BelowMin { left, min: policy.min });
    }
    if plan.size > left {
        problems.push(Problem::GrowsAndDrains);
    }
    let draining = |view: &&NodeView| matches!(view.condition, Condition::Draining { .. });
    let old = nodes.iter().filter(|view| draining(view) || (leaving(&view.node) && !new.contains(&view.node))).count();
    if old + new.len() > policy.shrink_step as usize {
        problems.push(Problem::DrainsTooMany { old, new: new.len(), step: policy.shrink_step });
    }
    if nodes.len() as u32 > policy.max {
        return;
    }
    for (at, rule) in policy.metrics.iter().enumerate() {
        let mut sum = 0.0;
        for view in nodes.iter().filter(|view| view.condition != Condition::Launching) {
            match view.loads.get(at).copied().flatten() {
                Some(load) => sum += load,
                None => problems.push(Problem::DrainsBlindly(view.node.clone())),
            }
        }
        let serving = stay.iter().filter(|view| view.condition == Condition::Serving).count();
        let after = sum / serving.max(1) as f64;
        let limit = rule.per_node / (1.0 + policy.headroom.min(0.0));
        if after > limit * (1.0 + 1e-9) {
            problems.push(Problem::Overloads { after, limit });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use mtxfleet_wire::Role;

    use super::*;
    use crate::distribution_orchestrator;
    use crate::engine::victim::VictimReason;
    use crate::engine::{Metric, Rule, Schedule};
    use crate::plan::PlanId;

    fn policy() -> Policy {
        let mut policy = distribution_orchestrator::policy();
        policy.metrics.retain(|rule| rule.metric == Metric::Readers);
        policy
    }

    fn id(name: &str) -> NodeId {
        NodeId::new(name).expect("valid")
    }

    fn nodes(readers: f64) -> Vec<NodeView> {
        let node = |name| NodeView {
            node: id(name),
            condition: Condition::Serving,
            loads: vec![Some(readers)],
            cpu: None,
            zone: String::new(),
            version: "1".into(),
            to_move: 0,
            protected: false,
            orchestrating: false,
        };
        ["a", "b", "c", "d"].map(node).into()
    }

    fn given<'a>(nodes: &'a [NodeView], policy: &'a Policy) -> Given<'a> {
        Given { parent: None, nodes, policy, wall: UnixMillis(0), manner: Manner::Act }
    }

    fn plan(drains: &[&str], takers: &[&str], size: u32) -> Plan {
        let drain = |name: &&str| (id(name), VictimReason::Unhealthy);
        Plan {
            id: PlanId { epoch: 2, number: 1 },
            run: mtxfleet_wire::RunId(1),
            parent: None,
            role: Role::Distribution,
            size,
            drains: drains.iter().map(drain).collect::<BTreeMap<_, _>>(),
            takers: takers.iter().map(|name| id(name)).collect(),
            rule: Rule::Load,
            reasons: vec![],
        }
    }

    #[test]
    fn each_wrong_plan_is_told_by_its_own_problem_and_a_good_one_by_none() {
        let policy = policy();
        let all = |plan: &Plan, nodes: &[NodeView]| check(plan, given(nodes, &policy));
        assert_eq!(all(&plan(&["d"], &["a", "b", "c"], 3), &nodes(70.0)), []);
        assert_eq!(all(&plan(&[], &["a", "b", "c", "d"], 9), &nodes(70.0)), []);
        assert_eq!(all(&plan(&[], &["a", "b", "d"], 4), &nodes(70.0)), [Problem::MissingTaker(id("c"))]);
        // The plans below name only what is wrong with them, and no takers.
        let judged = |plan: &Plan, nodes: &[NodeView]| {
            let mut problems = all(plan, nodes);
            problems.retain(|problem| !matches!(problem, Problem::MissingTaker(_)));
            problems
        };

        let after = Problem::Overloads { after: 80.0 * 4.0 / 3.0, limit: 100.0 };
        assert_eq!(judged(&plan(&["d"], &[], 3), &nodes(80.0)), [after]);
        assert_eq!(judged(&plan(&["d"], &[], 5), &nodes(70.0)), [Problem::GrowsAndDrains]);
        assert_eq!(judged(&plan(&["d"], &["d"], 3), &nodes(70.0)), [Problem::WrongTaker(id("d"))]);
        let too_many = Problem::DrainsTooMany { old: 0, new: 2, step: 1 };
        assert_eq!(judged(&plan(&["c", "d"], &[], 2), &nodes(10.0)), [too_many]);
        let out = Problem::OutOfRange { size: 21, min: 2, max: 20 };
        assert_eq!(judged(&plan(&[], &[], 21), &nodes(70.0)), [out]);
        assert!(judged(&plan(&["e"], &[], 3), &nodes(70.0)).contains(&Problem::DrainsUnknown(id("e"))));
        assert!(judged(&plan(&["b", "c", "d"], &[], 1), &nodes(1.0)).contains(&Problem::BelowMin { left: 1, min: 2 }));

        let mut changed = nodes(70.0);
        changed[3].protected = true;
        changed[0].loads = vec![None];
        let problems = judged(&plan(&["d"], &[], 3), &changed);
        assert_eq!(problems, [Problem::DrainsProtected(id("d")), Problem::DrainsBlindly(id("a"))]);
    }

    #[test]
    fn a_plan_must_follow_its_parent() {
        let parent = Plan { id: PlanId { epoch: 2, number: 5 }, ..plan(&["d"], &["a", "b", "c"], 3) };
        let mut child = Plan { role: Role::Ingestion, ..plan(&[], &["a", "b", "c"], 3) };
        let mut late = nodes(10.0);
        late[3].condition = Condition::Draining { cancellable: false };
        let policy = policy();
        let problems = check(&child, Given { parent: Some(&parent), ..given(&late, &policy) });
        let wanted =
            [Problem::WrongParent, Problem::NotLaterThanParent, Problem::RoleChanged, Problem::DropsLateDrain(id("d"))];
        assert_eq!(problems, wanted);
        child = Plan {
            id: PlanId { epoch: 3, number: 1 },
            parent: Some(parent.id),
            role: Role::Distribution,
            ..parent.clone()
        };
        assert_eq!(check(&child, Given { parent: Some(&parent), ..given(&late, &policy) }), []);
    }

    #[test]
    fn the_range_is_the_one_that_schedules_make_of_it() {
        let match_day = Schedule {
            name: "match day".into(),
            // The first of January 1970 was a Thursday.
            cron: "0 18 * * thu".into(),
            time_zone: "UTC".into(),
            lasts: Duration::from_secs(4 * 3_600),
            min: Some(4),
            max: Some(6),
            inhibit_scale_down: true,
            ..Schedule::default()
        };
        let policy = Policy { schedules: vec![match_day], ..policy() };
        let hour = |hours: u64| UnixMillis(hours * 3_600_000);
        let nodes = nodes(10.0);
        let at = |wall, plan: &Plan| check(plan, Given { wall, ..given(&nodes, &policy) });
        let smaller = plan(&["d"], &["a", "b", "c"], 3);
        let against = Problem::DrainsAgainstSchedule(id("d"), "match day".into());
        let out = Problem::OutOfRange { size: 3, min: 4, max: 6 };
        assert_eq!(at(hour(19), &smaller), [out, Problem::BelowMin { left: 3, min: 4 }, against]);
        assert_eq!(at(hour(23), &smaller), []);
        let larger = plan(&[], &["a", "b", "c", "d"], 9);
        assert_eq!(at(hour(19), &larger), [Problem::OutOfRange { size: 9, min: 4, max: 6 }]);
        assert_eq!(at(hour(23), &larger), []);
    }

    #[test]
    fn who_is_to_hold_changes_nothing_but_who_takes_streams() {
        let policy = policy();
        let one = nodes(10.0);
        let few = &one[..1];
        let held =
            |plan: &Plan, nodes: &[NodeView]| check(plan, Given { manner: Manner::Hold, ..given(nodes, &policy) });
        assert_eq!(held(&plan(&[], &["a"], 1), few), [], "as few as they are");
        let drains = Problem::DrainsWhileHeld(id("d"));
        assert_eq!(held(&plan(&["d"], &["a", "b", "c"], 3), &nodes(10.0)), [drains]);
        let grows = Problem::GrowsWhileHeld { from: 1, to: 2 };
        assert_eq!(held(&plan(&[], &["a"], 2), few), [grows]);
    }
}
