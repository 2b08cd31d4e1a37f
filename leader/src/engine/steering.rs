//! From the engine's numbers to a plan that names nodes: what both orchestrators share.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mtxfleet_wire::{Mono, NodeId, Role, Token, UnixMillis};

use super::victim::{self, VictimReason};
use super::{Condition, Decision, Engine, NodeView, Outcome, Policy, PolicyError, Reason, Snapshot};
use crate::plan::{Plan, PlanId};

/// A node that is ill, or silent, is replaced in the count after so long only: the same time that its cameras wait for it.
pub(crate) const DOUBTED_FOR: Duration = Duration::from_secs(15);

/// What may become of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// It becomes a plan.
    Act,
    /// The plan goes on as it is, whatever was decided; only who takes streams follows the cluster.
    Hold,
    /// No plan is made.
    Consider,
}

/// What one look at the cluster led to.
#[derive(Debug, Clone, PartialEq)]
pub struct Steered {
    pub decision: Decision,
    /// Whom the decision would drain, also where it is not acted on.
    pub victims: Vec<(NodeId, VictimReason)>,
    /// Set when the wish differs from the last plan's; never under `dry_run`, nor when it was only considered.
    pub plan: Option<Plan>,
}

/// The engine with the last plan, from which the next one is made.
#[derive(Debug, Clone)]
pub struct Steering {
    role: Role,
    engine: Engine,
    last: Option<Plan>,
    /// Nodes whose drain was cancelled and that do not serve yet: they are on their way, as if launched.
    returning: BTreeSet<NodeId>,
    /// Nodes that are ill or silent, and since when.
    ill_since: BTreeMap<NodeId, Mono>,
    /// When it was decided last.
    decided: Mono,
}

impl Steering {
    /// # Errors
    /// All that is wrong with the policy.
    pub fn new(role: Role, policy: Policy) -> Result<Self, Vec<PolicyError>> {
        Ok(Self {
            role,
            engine: Engine::new(policy)?,
            last: None,
            returning: BTreeSet::new(),
            ill_since: BTreeMap::new(),
            decided: Mono::default(),
        })
    }

    /// Goes on from a predecessor's plan, so that its drains are known as ordered. Older ones than the last, and those of
    /// the other role, change nothing.
    pub fn adopt(&mut self, plan: Plan) {
        if plan.role == self.role && self.last.as_ref().is_none_or(|last| plan.id > last.id) {
            self.last = Some(plan);
        }
    }

    #[must_use]
    pub const fn policy(&self) -> &Policy {
        self.engine.policy()
    }

    /// The plan that holds now.
    #[must_use]
    pub const fn plan(&self) -> Option<&Plan> {
        self.last.as_ref()
    }

    /// Decides on `nodes`, all of this role that are not gone. `wall` is for schedules alone; `token` is that of the lease
    /// held now; `lead` as measured.
    pub fn steer(
        &mut self,
        now: Mono,
        wall: UnixMillis,
        token: Token,
        nodes: &[NodeView],
        lead: Option<Duration>,
        manner: Manner,
    ) -> Steered {
        let still = |id: &NodeId| {
            let back = |node: &NodeView| node.condition == Condition::Draining { cancellable: true };
            nodes.iter().any(|node| node.node == *id && back(node))
        };
        self.returning.retain(still);
        self.doubt(now, nodes);
        #[cfg(test)]
        let (parent, said) = (self.last.clone(), nodes.to_vec());
        let mut drains = self.drains_left(nodes);
        let nodes: Vec<NodeView> = nodes.iter().map(|node| self.as_ordered(node, &drains)).collect();
        let doubted = nodes.iter().filter(|node| self.is_doubted(node)).count() as u32;
        let seen = Snapshot { wall, lead, doubted, ..Snapshot::of(&nodes, self.policy().metrics.len()) };
        let mut decision = self.engine.decide(now, &seen);
        let mut victims = Vec::new();
        if let Outcome::Shrink { drain } = decision.outcome {
            victims = victim::choose(&nodes, drain);
            if victims.is_empty() {
                decision.reasons.insert(0, Reason::NoVictim);
                decision.outcome = Outcome::Nothing;
            }
        }
        if self.policy().dry_run || manner == Manner::Consider {
            return Steered { decision, victims, plan: None };
        }
        let outcome = if manner == Manner::Hold { Outcome::Nothing } else { decision.outcome };
        let size = match outcome {
            Outcome::Nothing => seen.size(),
            Outcome::Grow { cancel, launch } => {
                for node in to_put_back(&nodes, cancel) {
                    drains.remove(&node);
                    self.returning.insert(node);
                }
                seen.size() + cancel + launch
            }
            Outcome::Shrink { .. } => {
                // One that has been ill for long was not counted in.
                let named = |node: &&NodeView| victims.iter().any(|(victim, _)| *victim == node.node);
                let fewer = nodes.iter().filter(named).filter(|node| self.is_counted(node)).count() as u32;
                drains.extend(victims.iter().cloned());
                seen.size() - fewer
            }
        };
        let plan = self.next(token, size, drains, &nodes, &decision);
        #[cfg(test)]
        if let Some(plan) = &plan {
            let policy = self.policy();
            let given = crate::plan_checker::Given { parent: parent.as_ref(), nodes: &said, policy, wall, manner };
            let problems = crate::plan_checker::check(plan, given);
            assert!(problems.is_empty(), "{problems:?} in {plan:?}\nfrom {said:#?}\nafter {parent:?}");
        }
        Steered { decision, victims, plan }
    }

    /// Whether the size that was decided on last counts this node: it serves, launches or is in doubt, and is not to go.
    #[must_use]
    pub fn counts(&self, node: &NodeView) -> bool {
        self.is_counted(&self.as_ordered(node, &self.drains_left(std::slice::from_ref(node))))
    }

    fn is_counted(&self, node: &NodeView) -> bool {
        matches!(node.condition, Condition::Serving | Condition::Launching) || self.is_doubted(node)
    }

    /// Notes since when who is ill, or silent.
    fn doubt(&mut self, now: Mono, nodes: &[NodeView]) {
        let before = std::mem::take(&mut self.ill_since);
        let ill = nodes.iter().filter(|node| node.condition == Condition::Unhealthy).map(|node| &node.node);
        self.ill_since = ill.map(|node| (node.clone(), before.get(node).copied().unwrap_or(now))).collect();
        self.decided = now;
    }

    /// Ill or silent, and not for so long that another is needed: most are back, or dead, before one is launched.
    fn is_doubted(&self, node: &NodeView) -> bool {
        let briefly = |since: &Mono| self.decided.since(*since) < DOUBTED_FOR;
        node.condition == Condition::Unhealthy && self.ill_since.get(&node.node).is_none_or(briefly)
    }

    /// A node that was told to drain is draining, also before it says so, and where it is ill; one that drains by another's
    /// order stays so.
    fn as_ordered(&self, node: &NodeView, drains: &BTreeMap<NodeId, VictimReason>) -> NodeView {
        let ordered = drains.contains_key(&node.node);
        let condition = match node.condition {
            Condition::Draining { .. } if self.returning.contains(&node.node) => Condition::Launching,
            Condition::Serving if ordered => Condition::Draining { cancellable: true },
            Condition::Unhealthy if ordered => Condition::Draining { cancellable: false },
            Condition::Draining { cancellable } => Condition::Draining { cancellable: cancellable && ordered },
            other => other,
        };
        NodeView { condition, ..node.clone() }
    }

    /// The last plan's drains whose nodes are still there, without those that serve and are not to go after all.
    fn drains_left(&self, nodes: &[NodeView]) -> BTreeMap<NodeId, VictimReason> {
        let kept = |node: &NodeView| node.protected && node.condition == Condition::Serving;
        let there = |id: &NodeId| nodes.iter().any(|node| node.node == *id && !kept(node));
        let last = self.last.iter().flat_map(|last| &last.drains);
        last.filter(|(node, _)| there(node)).map(|(node, reason)| (node.clone(), reason.clone())).collect()
    }

    fn next(
        &mut self,
        token: Token,
        size: u32,
        drains: BTreeMap<NodeId, VictimReason>,
        nodes: &[NodeView],
        decision: &Decision,
    ) -> Option<Plan> {
        let serves = |node: &&NodeView| node.condition == Condition::Serving && !drains.contains_key(&node.node);
        let takers = nodes.iter().filter(serves).map(|node| node.node.clone()).collect();
        let number = match &self.last {
            Some(last) if last.id.epoch == token.epoch => last.id.number + 1,
            _ => 1,
        };
        let plan = Plan {
            id: PlanId { epoch: token.epoch, number },
            run: token.run,
            parent: self.last.as_ref().map(|last| last.id),
            role: self.role,
            size,
            drains,
            takers,
            rule: decision.rule,
            reasons: decision.reasons.clone(),
        };
        // A term that has ended speaks no more: its plan would be refused everywhere.
        let newer = self
            .last
            .as_ref()
            .is_none_or(|last| plan.id > last.id && (token.epoch > last.id.epoch || !plan.wants_the_same(last)));
        newer.then(|| self.last.insert(plan).clone())
    }
}

/// Of the drains that can be cancelled, those with the most left to move.
fn to_put_back(nodes: &[NodeView], count: u32) -> Vec<NodeId> {
    let mut drains: Vec<_> =
        nodes.iter().filter(|node| node.condition == Condition::Draining { cancellable: true }).collect();
    drains.sort_by(|a, b| (b.to_move, &a.node).cmp(&(a.to_move, &b.node)));
    drains.into_iter().take(count as usize).map(|node| node.node.clone()).collect()
}
