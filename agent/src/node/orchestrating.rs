//! This node as the orchestrator of its own role: when it holds the lease, it decides, plans and publishes.
//!
//! ```text
//!  standing (node/leadership) --+
//!  the fleet, this node --------+--> Orchestrator::steer --> plan --> gossip, carried out by whom it names
//!  pauses (node/controls) ------+                        \-> decision log (node/decisions)
//! ```
//! It names nodes and sizes and touches neither: every node carries its own part out (`node/carrying_out`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mtxfleet_leader::election::Standing;
use mtxfleet_leader::engine::{Manner, NodeView, Outcome, Reason};
use mtxfleet_leader::fleet_view::STALE_AFTER;
use mtxfleet_leader::plan::Plan;
#[cfg(test)]
use mtxfleet_leader::plan_checker;
use mtxfleet_leader::{Member, Orchestrator, Seen};
use mtxfleet_wire::{
    DecisionEffect, Liveness, Mono, NodeId, NodeState, OrchestratorView, PlanView, PlannedDrain, Role, RunId,
    StandingView, Token,
};

use super::decisions::{DecisionLog, Made};
use super::effect::Effect;
use super::fenced::{FencedWrites, Write};
use super::{Node, Now};

/// While nothing happens. What is counted is decided on as it changes, and a window as it ends.
const STEER_EVERY: Duration = Duration::from_millis(500);

/// However much changes, decisions are so far apart.
const STEER_AT_MOST_EVERY: Duration = Duration::from_millis(100);

/// An agent that has just started has not heard of the whole fleet yet, and says nothing of it for so long. A round of
/// gossip takes 200 ms, a node of which nothing is heard is a suspect before this is over.
const SETTLED_AFTER: Duration = Duration::from_secs(5);

/// Of what is only considered, and so never becomes a plan.
const NO_TERM: Token = Token { epoch: 0, run: RunId(0) };

/// The last part of the key in Redis, and how many are kept there: one that begins a run of equal ones each.
const DECISIONS: &str = "decisions";
const DECISIONS_KEPT: u64 = 1_000;

/// Number of writes whose answer is of no interest: what Redis does not take is still in gossip and in memory.
const NOBODY_WAITS: u64 = 0;

/// Decisions of each orchestrator that every agent shows.
const SHOWN: usize = 10;

/// How many nodes are wanted now, for whoever launches them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Nodes that are to serve or to launch: a number to reach, never one to add.
    pub size: u32,
    /// The term it was made in; `None` while Redis is away and growing goes on without a plan.
    pub epoch: Option<u64>,
}

#[derive(Debug)]
pub struct Orchestrating {
    /// `None`: this fleet only reports and drains.
    orchestrator: Option<Orchestrator>,
    started: Mono,
    /// The plan to be obeyed, for each role.
    plans: BTreeMap<Role, Arc<Plan>>,
    steered: Option<Steering>,
    wish: Option<Wish>,
    /// The last decision was to launch.
    launches: bool,
    pub(super) log: DecisionLog,
}

/// When this node decided last, on what, and when at the latest it decides again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Steering {
    at: Mono,
    counted: Counted,
    next: Mono,
}

/// What a decision is made of, as far as waiting half a second for it would be too long: it is compared at every event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counted {
    serving: u32,
    cameras: u32,
    readers: u32,
    /// The cloud's listing, while something is to be launched: nothing is asked for on a decision that did not know it.
    listing: Option<u64>,
}

impl Orchestrating {
    #[must_use]
    pub fn new(orchestrator: Option<Orchestrator>, started: Mono) -> Self {
        Self {
            orchestrator,
            started,
            plans: BTreeMap::new(),
            steered: None,
            wish: None,
            launches: false,
            log: DecisionLog::default(),
        }
    }

    /// The plan to be obeyed by nodes of `role`, as far as it is known here.
    #[must_use]
    pub fn plan(&self, role: Role) -> Option<&Arc<Plan>> {
        self.plans.get(&role)
    }

    /// What whoever launches nodes is to reach; `None` while this node does not act, is paused, or only tries.
    #[must_use]
    pub const fn wish(&self) -> Option<Wish> {
        self.wish
    }

    pub(super) fn is_dry(&self) -> bool {
        self.orchestrator.as_ref().is_some_and(|orchestrator| orchestrator.policy().dry_run)
    }
}

impl Counted {
    const fn add(&mut self, serves: bool, cameras: u32, readers: u32) {
        self.serving += serves as u32;
        self.cameras += cameras;
        self.readers += readers;
    }
}

impl Node {
    /// Takes the newest plan of each role that is to be obeyed. It is kept, also when who made it is gone.
    pub(super) fn hear_plans(&mut self) {
        for plan in self.fleet.members().filter_map(|member| member.peer.plan.as_ref()) {
            let known = self.orchestrating.plans.get(&plan.role);
            if known.is_some_and(|known| plan.id <= known.id) {
                continue;
            }
            self.leadership.hear_plan(plan.role, plan.token());
            // One of a new term is obeyed once that term is on disk, some turns later.
            if self.leadership.accepts(plan.role, plan.token()) {
                self.orchestrating.plans.insert(plan.role, Arc::clone(plan));
            }
        }
    }

    /// The plan that this node carries its part of out: none when a later term than its own has been heard of.
    pub(super) fn plan_obeyed(&self) -> Option<&Arc<Plan>> {
        let plan = self.orchestrating.plan(self.settings.facts.role)?;
        Some(plan).filter(|plan| self.leadership.accepts(plan.role, plan.token()))
    }

    /// Decides, when this node acts and the last decision is not of just now.
    pub(super) fn orchestrate(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let role = self.settings.facts.role;
        let token = match self.leadership.standing(now.mono) {
            Standing::Acting { token, .. } => Some(token),
            Standing::GrowOnly { .. } => None,
            Standing::Following { .. } | Standing::Idle(_) => {
                self.orchestrating.steered = None;
                self.orchestrating.wish = None;
                return;
            }
        };
        let epoch = token.map(|token| token.epoch);
        if now.mono.since(self.orchestrating.started) < SETTLED_AFTER {
            return;
        }
        let counted = self.counted();
        if let Some(last) = &mut self.orchestrating.steered {
            if counted != last.counted {
                last.next = last.next.min(last.at + STEER_AT_MOST_EVERY);
            }
            if now.mono < last.next {
                return;
            }
        }
        let Some(mut orchestrator) = self.orchestrating.orchestrator.take() else { return };
        if let Some(plan) = self.orchestrating.plans.get(&role) {
            orchestrator.adopt(Plan::clone(plan));
        }
        let paused = self.controls.paused(role).is_some();
        let (manner, effect) = match (epoch, orchestrator.policy().dry_run, paused) {
            (_, true, _) => (Manner::Consider, DecisionEffect::DryRun),
            (Some(_), false, true) => (Manner::Hold, DecisionEffect::Paused),
            (None, false, true) => (Manner::Consider, DecisionEffect::Paused),
            (Some(_), false, false) => (Manner::Act, DecisionEffect::Live),
            (None, false, false) => (Manner::Consider, DecisionEffect::GrowOnly),
        };
        let nodes = self.nodes_seen(&orchestrator, now);
        let lead = self.measured_lead();
        #[cfg(test)]
        let parent = orchestrator.plan().cloned();
        let steered = orchestrator.steer(now.mono, now.wall, token.unwrap_or(NO_TERM), &nodes, lead, manner);
        #[cfg(test)]
        if let Some(plan) = &steered.plan {
            let policy = orchestrator.policy();
            let given = plan_checker::Given { parent: parent.as_ref(), nodes: &nodes, policy, wall: now.wall, manner };
            assert_eq!(plan_checker::check(plan, given), [], "{plan:?}\nfrom {nodes:#?}\nafter {parent:?}");
        }
        let seen = &steered.decision.inputs;
        let agrees_in = steered.decision.reasons.iter().find_map(|reason| match reason {
            // A window has agreed when what was before it is older than the window, and not as old.
            Reason::UpWindow { remaining } => Some(*remaining + Duration::from_millis(1)),
            _ => None,
        });
        let pause = agrees_in.unwrap_or(STEER_EVERY).clamp(STEER_AT_MOST_EVERY, STEER_EVERY);
        self.orchestrating.launches = matches!(steered.decision.outcome, Outcome::Grow { launch: 1.., .. });
        let more = match steered.decision.outcome {
            Outcome::Grow { launch, .. } if epoch.is_none() => launch,
            _ => 0,
        };
        self.orchestrating.wish = match effect {
            DecisionEffect::DryRun | DecisionEffect::Paused => None,
            DecisionEffect::GrowOnly => Some(Wish { size: seen.size() + more, epoch: None }),
            DecisionEffect::Live => {
                orchestrator.plan().map(|plan| Wish { size: plan.size, epoch: Some(plan.id.epoch) })
            }
        };
        let size = self.orchestrating.wish.map(|wish| wish.size);
        self.aim_growing(now, size, agrees_in, &nodes, |node| orchestrator.counts(node));
        let made = Made {
            role,
            by: &self.settings.id,
            epoch,
            at: now.wall,
            effect,
            metrics: &orchestrator.policy().metrics,
            notes: self.cloud_notes(now),
        };
        let news = self.orchestrating.log.take(&made, &steered);
        if let Some((news, token)) = news.zip(token)
            && let Ok(value) = serde_json::to_string(news)
        {
            let write = Write::Append { table: DECISIONS, length: DECISIONS_KEPT, field: "decision", value };
            effects.push(Effect::WriteFenced(FencedWrites { number: NOBODY_WAITS, role, token, writes: vec![write] }));
        }
        let dry = orchestrator.policy().dry_run;
        if let Some(report) = self.orchestrating.log.report(now.mono, role, epoch, dry) {
            effects.push(Effect::PublishDecisions(Box::new(report)));
        }
        if let Some(plan) = steered.plan {
            self.orchestrating.plans.insert(role, Arc::new(plan.clone()));
            effects.push(Effect::PublishPlan(Box::new(plan)));
        }
        self.orchestrating.orchestrator = Some(orchestrator);
        // After the decision: its own listing is not news.
        let counted = self.counted();
        self.orchestrating.steered = Some(Steering { at: now.mono, counted, next: now.mono + pause });
    }

    /// Of this node's role.
    fn counted(&self) -> Counted {
        let launches = self.orchestrating.launches;
        let listing = self.cloud.as_ref().filter(|_| launches).and_then(|cloud| cloud.listing());
        let mut counted = Counted { listing, ..Counted::default() };
        let own = &self.server.readers;
        counted.add(self.state == NodeState::Active, 0, own.workers() + own.viewers.len() as u32);
        let role = self.settings.facts.role;
        for member in self.fleet.members() {
            let of_role = member.peer.facts.as_ref().is_some_and(|facts| facts.role == role);
            if let Some(load) = member.peer.load.as_ref().filter(|_| of_role) {
                let readers = load.workers.unwrap_or(0) + load.viewers.unwrap_or(0);
                let serves = load.state == NodeState::Active && member.liveness == Liveness::Alive;
                counted.add(serves, load.cameras.unwrap_or(0), readers);
            }
        }
        counted
    }

    /// When a decision is due that no event brings.
    pub(super) fn next_decision(&self) -> Option<Mono> {
        self.orchestrating.steered.map(|steered| steered.next)
    }

    /// The cluster as the engine counts it, this node in it.
    fn nodes_seen(&self, orchestrator: &Orchestrator, now: Now) -> Vec<NodeView> {
        let role = self.settings.facts.role;
        let load = self.load(now);
        let drain = self.draining.drain.as_ref().map(mtxfleet_drain::Drain::report);
        let me = Seen {
            node: &self.settings.id,
            liveness: Liveness::Alive,
            facts: Some(&self.settings.facts),
            load: Some(&load),
            drain: drain.as_ref(),
            fresh: self.server.looked.is_none_or(|looked| now.mono.since(looked) < STALE_AFTER),
            orchestrating: true,
        };
        // When half of a cluster looks dead, the detector is doubted and not the nodes: they may carry what is not seen.
        let of_role =
            || self.fleet.members().filter(|member| member.peer.facts.as_ref().is_some_and(|f| f.role == role));
        let dead = of_role().filter(|member| is_missed(member)).count();
        let is_doubted = dead * 2 > of_role().count();
        let others = self.fleet.members().map(|member| match Seen::member(member, now.mono) {
            seen if is_doubted && is_missed(member) => Seen { liveness: Liveness::Suspect, fresh: false, ..seen },
            seen => seen,
        });
        let mut nodes = orchestrator.nodes(others.chain([me]));
        self.mark_kept(now, &mut nodes);
        nodes.extend(self.launching_nodes(now));
        nodes
    }

    /// Both orchestrators as this node sees them.
    #[must_use]
    pub fn orchestrator_views(&self, now: Mono) -> Vec<OrchestratorView> {
        [Role::Ingestion, Role::Distribution].map(|role| self.orchestrator_view(now, role)).into()
    }

    fn orchestrator_view(&self, now: Mono, role: Role) -> OrchestratorView {
        let (standing, why, leader) = if role == self.settings.facts.role {
            self.own_standing(now)
        } else {
            let why = format!("this is a node of {}", self.settings.facts.role);
            (StandingView::Idle, why, self.heard_leader(role))
        };
        let (leader, epoch) = leader.map_or((None, None), |(node, epoch)| (Some(node), epoch));
        let is_dry = match &leader {
            Some(leader) if *leader == self.settings.id => self.orchestrating.is_dry(),
            Some(leader) => {
                let report = self.fleet.get(leader).and_then(|member| member.peer.decisions.as_ref());
                report.is_some_and(|report| report.dry_run)
            }
            None => false,
        };
        let decisions = self.decision_views(role);
        let shown = &decisions[decisions.len().saturating_sub(SHOWN)..];
        OrchestratorView {
            role,
            leader,
            epoch,
            standing,
            why,
            dry_run: is_dry,
            paused: self.controls.paused(role).cloned(),
            plan: self.orchestrating.plans.get(&role).map(|plan| plan_view(plan)),
            decisions: shown.iter().map(|view| (**view).clone()).collect(),
        }
    }

    fn own_standing(&self, now: Mono) -> (StandingView, String, Option<(NodeId, Option<u64>)>) {
        let me = |epoch| Some((self.settings.id.clone(), epoch));
        match self.leadership.standing(now) {
            Standing::Acting { token, .. } => (StandingView::Acting, String::new(), me(Some(token.epoch))),
            Standing::GrowOnly { token } => {
                (StandingView::GrowOnly, "Redis is away".to_owned(), me(token.map(|token| token.epoch)))
            }
            Standing::Following { leader: Some(leader) } => {
                (StandingView::Following, String::new(), Some((leader.node, Some(leader.token.epoch))))
            }
            Standing::Following { leader: None } => (
                StandingView::Following,
                "nobody holds the lease".to_owned(),
                self.heard_leader(self.settings.facts.role),
            ),
            Standing::Idle(why) => (StandingView::Idle, why.to_string(), self.heard_leader(self.settings.facts.role)),
        }
    }

    /// Who holds the lease of `role`, as live nodes of that role say.
    fn heard_leader(&self, role: Role) -> Option<(NodeId, Option<u64>)> {
        let of_role = |member: &&Member| {
            let in_role = member.peer.facts.as_ref().is_some_and(|facts| facts.role == role);
            in_role && member.liveness == Liveness::Alive
        };
        let leases =
            self.fleet.members().filter(of_role).filter_map(|member| member.peer.terms.as_ref()?.lease.as_ref());
        let latest = leases.max_by_key(|lease| lease.token.epoch)?;
        Some((latest.node.clone(), Some(latest.token.epoch)))
    }

    /// Decisions of `role` that are known here, the newest last: all that this node made, and the last ones of others.
    #[must_use]
    pub fn decision_views(&self, role: Role) -> Vec<Arc<mtxfleet_wire::DecisionView>> {
        let others = self.fleet.members().filter_map(|member| member.peer.decisions.as_ref());
        let others = others.filter(|report| report.role == role).flat_map(|report| report.decisions.iter().cloned());
        let mine = self.orchestrating.log.views().filter(|view| view.role == role).cloned();
        let mut all: Vec<_> = mine.chain(others.map(Arc::new)).collect();
        all.sort_by_key(|view| (view.last, view.number));
        all
    }
}

impl Node {
    /// Decisions of both roles, see [`Node::decision_views`].
    #[must_use]
    pub fn all_decision_views(&self) -> Vec<Arc<mtxfleet_wire::DecisionView>> {
        let both = [Role::Ingestion, Role::Distribution];
        both.into_iter().flat_map(|role| self.decision_views(role)).collect()
    }

    /// Decisions of this node since its agent started: by rule and outcome.
    #[must_use]
    pub fn decided(&self) -> Vec<(String, &'static str, u64)> {
        let totals = self.orchestrating.log.totals().iter();
        totals.map(|((rule, outcome), count)| (rule.clone(), *outcome, *count)).collect()
    }
}

/// Dead, and not known to have left service before.
fn is_missed(member: &Member) -> bool {
    let left = member.peer.load.as_ref().is_some_and(|load| load.state == NodeState::Offline);
    member.liveness == Liveness::Dead && !left
}

fn plan_view(plan: &Plan) -> PlanView {
    PlanView {
        id: plan.id,
        size: plan.size,
        drains: plan
            .drains
            .iter()
            .map(|(node, why)| PlannedDrain { node: node.clone(), why: why.to_string() })
            .collect(),
        takers: plan.takers.iter().cloned().collect(),
        rule: plan.rule.to_string(),
        reasons: plan.reasons.iter().map(ToString::to_string).collect(),
    }
}
