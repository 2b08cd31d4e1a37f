//! What must be true of every plan, said a second time and apart from the planner.
//!
//! Every test that makes plans runs it; it shares no code with what it checks.

use std::collections::BTreeSet;

use mtxfleet_wire::NodeId;

use crate::engine::{Condition, NodeView, Policy};
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
    #[error("{0} takes streams and does not serve, or is to be drained")]
    WrongTaker(NodeId),
    #[error("it drops the drain of {0}, which cannot be cancelled any more")]
    DropsLateDrain(NodeId),
}

/// Everything that is wrong with `plan`, made from `parent` and `nodes` under `policy`.
#[must_use]
pub fn check(plan: &Plan, parent: Option<&Plan>, nodes: &[NodeView], policy: &Policy) -> Vec<Problem> {
    let mut problems = Vec::new();
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
    for taker in &plan.takers {
        let serves = find(taker).is_some_and(|view| view.condition == Condition::Serving);
        if !serves || plan.drains.contains_key(taker) {
            problems.push(Problem::WrongTaker(taker.clone()));
        }
    }
    size(plan, parent, nodes, policy, &mut problems);
    if !new.is_empty() {
        shrinking(plan, &new, nodes, policy, &mut problems);
    }
    problems
}

/// In service or on its way there, and not told to go.
fn counts(view: &NodeView, drains: impl Fn(&NodeId) -> bool) -> bool {
    matches!(view.condition, Condition::Serving | Condition::Launching) && !drains(&view.node)
}

fn size(plan: &Plan, parent: Option<&Plan>, nodes: &[NodeView], policy: &Policy, problems: &mut Vec<Problem>) {
    let told = |node: &NodeId| parent.is_some_and(|parent| parent.drains.contains_key(node));
    let present = nodes.iter().filter(|view| counts(view, told)).count() as u32;
    let away_below = plan.size < policy.min && plan.size <= present;
    let away_above = plan.size > policy.max && plan.size > present;
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

    use mtxfleet_wire::Role;

    use super::*;
    use crate::distribution_orchestrator;
    use crate::engine::victim::VictimReason;
    use crate::engine::{Metric, Rule};
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
        let judged = |plan: &Plan, nodes: &[NodeView]| check(plan, None, nodes, &policy);
        assert_eq!(judged(&plan(&["d"], &["a", "b", "c"], 3), &nodes(70.0)), []);
        assert_eq!(judged(&plan(&[], &["a", "b", "c", "d"], 9), &nodes(70.0)), []);

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
        let problems = check(&child, Some(&parent), &late, &policy());
        let wanted =
            [Problem::WrongParent, Problem::NotLaterThanParent, Problem::RoleChanged, Problem::DropsLateDrain(id("d"))];
        assert_eq!(problems, wanted);
        child = Plan {
            id: PlanId { epoch: 3, number: 1 },
            parent: Some(parent.id),
            role: Role::Distribution,
            ..parent.clone()
        };
        assert_eq!(check(&child, Some(&parent), &late, &policy()), []);
    }
}
