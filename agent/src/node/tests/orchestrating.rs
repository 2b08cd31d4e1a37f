//! Orchestrating: decided, published, carried out, held.

use mtxfleet_leader::election::{LeaseAnswer, LeaseAsk};
use mtxfleet_leader::engine::{Lead, Metric, MetricRule, Policy, Rule};
use mtxfleet_leader::plan::Plan;
use mtxfleet_leader::{Orchestrator, distribution_orchestrator};
use mtxfleet_wire::{
    Control, ControlOrder, DecisionEffect, DecisionView, OutcomeView, PlanId, RunId, StandingView, Token,
};

use super::*;
use crate::node::controls::SavedControls;
use crate::node::fenced::Write;

const RUN: RunId = RunId(99);

/// Nodes of 10 readers each; up after a second, down after three.
fn quick() -> Policy {
    let policy = distribution_orchestrator::policy();
    Policy {
        metrics: vec![MetricRule { metric: Metric::Readers, per_node: 10.0 }],
        lead: Lead { gain: 0.0, ..policy.lead },
        headroom: 0.0,
        spare: 0.0,
        up_window: Duration::from_secs(1),
        down_window: Duration::from_secs(3),
        cpu_limit: None,
        ..policy
    }
}

fn orchestrating(policy: Policy) -> Settings {
    let role = Role::Distribution;
    let mut settings = settings(role);
    settings.leadership.candidate = true;
    settings.orchestrator = Some(Orchestrator::new(role, policy).expect("a good policy"));
    settings
}

/// The world of [`World`], where Redis grants every lease and the disk takes everything.
struct Fleet {
    world: World,
    epoch: u64,
    others: Vec<Peer>,
    /// Of the node itself.
    sessions: Vec<SessionSample>,
    /// All effects so far but those that the world itself answers.
    seen: Vec<Effect>,
}

impl Fleet {
    fn with(settings: Settings, others: Vec<Peer>) -> Self {
        let (world, first) = World::with(settings, None);
        let mut fleet = Self { world, epoch: 0, others, sessions: Vec::new(), seen: Vec::new() };
        fleet.settle(first);
        let effects = fleet.world.apply(Event::Registry { reachable: true });
        fleet.settle(effects);
        // An agent that has just started waits until it has heard of the fleet.
        fleet.pass(6);
        fleet
    }

    /// Elected, with three peers that have `readers` each.
    fn elected(policy: Policy, readers: u32) -> Self {
        let others = ["b", "c", "d"].map(|name| with_readers(name, readers)).into();
        let fleet = Self::with(orchestrating(policy), others);
        assert!(fleet.epoch > 0, "elected");
        fleet
    }

    fn settle(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Lease(order) => {
                    if let LeaseAsk::Take { .. } = order.ask {
                        self.epoch += 1;
                    }
                    let answer = match order.ask {
                        LeaseAsk::Release { .. } => LeaseAnswer::Released,
                        _ => LeaseAnswer::Granted { epoch: self.epoch, wait: Duration::ZERO },
                    };
                    self.apply(Event::LeaseAnswered { number: order.number, answer });
                }
                Effect::SaveTerms(terms) => self.apply(Event::TermsSaved { terms, done: true }),
                Effect::Admit { ref drain, .. } => {
                    let drain = drain.clone();
                    self.seen.push(effect);
                    self.apply(Event::Admission { drain, answer: Admission::Admitted });
                }
                other => self.seen.push(other),
            }
        }
    }

    fn apply(&mut self, event: Event) {
        let effects = self.world.apply(event);
        self.settle(effects);
    }

    /// Seconds go by in which everybody reports.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.world.after(1_000);
            let effects = self.world.look(&self.sessions);
            self.settle(effects);
            for load in self.others.iter_mut().filter_map(|peer| peer.load.as_mut()) {
                load.sampled.0 += 1_000;
            }
            self.apply(Event::Peers(self.others.clone()));
            self.apply(Event::Tick);
        }
    }

    /// The plans published since the last look.
    fn plans(&mut self) -> Vec<Plan> {
        let plan = |effect: &Effect| if let Effect::PublishPlan(plan) = effect { Some((**plan).clone()) } else { None };
        let plans = self.seen.iter().filter_map(plan).collect();
        self.seen.clear();
        plans
    }

    fn decisions(&self) -> Vec<DecisionView> {
        self.world.node.decision_views(Role::Distribution).iter().map(|view| (**view).clone()).collect()
    }

    fn last(&self) -> DecisionView {
        self.decisions().pop().expect("something was decided")
    }

    fn state(&self) -> NodeState {
        self.world.node.state
    }
}

fn with_readers(name: &str, readers: u32) -> Peer {
    let mut peer = peer(name, Role::Distribution);
    peer.load.as_mut().expect("set").workers = Some(readers);
    peer
}

fn drained(plan: &Plan) -> Vec<&str> {
    plan.drains.keys().map(NodeId::as_str).collect()
}

#[test]
fn the_elected_node_shrinks_the_cluster_and_records_why() {
    let mut fleet = Fleet::elected(quick(), 5);
    let first = fleet.plans();
    assert_eq!((first[0].size, first[0].takers.len()), (4, 4), "{first:?}");
    fleet.pass(5);
    let recorded = fleet.seen.iter().find_map(|effect| match effect {
        Effect::WriteFenced(writes) => match &writes.writes[..] {
            [Write::Append { table: "decisions", value, .. }] if value.contains("\"is\":\"shrink\"") => {
                Some(writes.token)
            }
            _ => None,
        },
        _ => None,
    });
    assert_eq!(recorded.map(|token| token.epoch), Some(fleet.epoch));
    let plans = fleet.plans();
    // It has fewer readers than the others, and orchestrates: it goes last.
    assert_eq!((drained(&plans[0]), plans[0].size), (vec!["b"], 3), "{plans:?}");
    assert_eq!(plans[0].token().epoch, fleet.epoch);
    let decisions = fleet.decisions();
    let shrink = decisions.iter().find(|view| view.outcome == OutcomeView::Shrink { drain: 1 }).expect("recorded");
    assert_eq!((shrink.effect, shrink.victims[0].node.as_str()), (DecisionEffect::Live, "b"));
    assert!(decisions.iter().any(|view| view.rule == Rule::Window.to_string() && view.count > 2), "{decisions:#?}");
    let views = fleet.world.node.orchestrator_views(fleet.world.now.mono);
    assert_eq!((views[1].standing, views[1].leader.as_ref()), (StandingView::Acting, Some(&id("me"))));
    assert_eq!(views[1].plan.as_ref().map(|plan| plan.size), Some(3));
}

#[test]
fn load_that_returns_cancels_the_drain_before_anything_is_launched() {
    let mut fleet = Fleet::elected(quick(), 5);
    fleet.pass(5);
    assert_eq!(drained(fleet.plans().last().expect("a plan")), ["b"]);
    for peer in &mut fleet.others {
        peer.load.as_mut().expect("set").workers = Some(13);
    }
    fleet.others[0].load.as_mut().expect("set").state = NodeState::Draining;
    fleet.pass(4);
    let plan = fleet.plans().pop().expect("another wish");
    assert_eq!((drained(&plan).len(), plan.size), (0, 4));
    assert!(fleet.decisions().iter().any(|view| view.outcome == OutcomeView::Grow { cancel: 1, launch: 0 }));
}

#[test]
fn a_grow_decision_is_the_wish_that_whoever_launches_nodes_reaches_for() {
    let mut fleet = Fleet::elected(quick(), 18);
    fleet.pass(2);
    let plan = fleet.plans().pop().expect("a plan");
    assert_eq!(plan.size, 6);
    let wish = fleet.world.node.orchestrating.wish().expect("it acts");
    assert_eq!((wish.size, wish.epoch), (6, Some(fleet.epoch)));
}

#[test]
fn a_dry_run_records_what_it_would_do_and_does_nothing() {
    let mut fleet = Fleet::elected(Policy { dry_run: true, ..quick() }, 5);
    fleet.pass(8);
    assert_eq!((fleet.plans(), fleet.world.node.orchestrating.wish()), (vec![], None));
    let last = fleet.last();
    assert_eq!((last.effect, last.outcome), (DecisionEffect::DryRun, OutcomeView::Shrink { drain: 1 }));
    assert!(last.count > 3 && last.victims.len() == 1, "the same again is one entry: {last:#?}");
    assert!(fleet.world.node.orchestrator_views(fleet.world.now.mono)[1].dry_run);
}

#[test]
fn a_pause_holds_the_plan_until_the_role_is_resumed() {
    let mut fleet = Fleet::elected(quick(), 5);
    let order = || ControlOrder { role: Role::Distribution, why: "load test".into() };
    fleet.apply(Event::ControlOrdered { order: order(), paused: true });
    assert!(fleet.seen.iter().any(|effect| matches!(effect, Effect::PersistControls(_))));
    fleet.plans();
    fleet.pass(8);
    assert_eq!((fleet.plans(), fleet.world.node.orchestrating.wish()), (vec![], None));
    assert_eq!((fleet.last().effect, fleet.last().outcome), (DecisionEffect::Paused, OutcomeView::Shrink { drain: 1 }));
    fleet.apply(Event::ControlOrdered { order: order(), paused: false });
    fleet.pass(2);
    assert_eq!(drained(&fleet.plans()[0]), ["b"]);
}

#[test]
fn reports_that_stop_changing_are_unknown_and_nothing_shrinks_on_them() {
    let mut fleet = Fleet::elected(Policy { down_window: Duration::from_secs(30), ..quick() }, 5);
    for _ in 0..60 {
        fleet.world.after(1_000);
        let effects = fleet.world.look(&[]);
        fleet.settle(effects);
        // Gossip goes on; what it says is always of the same moment.
        fleet.apply(Event::Peers(fleet.others.clone()));
    }
    let last = fleet.last();
    assert_eq!((last.rule.as_str(), last.outcome), ("hold", OutcomeView::Nothing));
    assert_eq!(last.inputs.loads[0].missing, 3);
    assert!(fleet.plans().iter().all(|plan| plan.drains.is_empty()));
}

#[test]
fn when_half_of_the_cluster_looks_dead_nothing_shrinks() {
    let mut fleet = Fleet::elected(Policy { min: 1, down_window: Duration::from_secs(30), ..quick() }, 9);
    for at in [0, 1] {
        fleet.others[at].alive = false;
        let silent = fleet.others[at].node.clone();
        fleet.others[2].load.as_mut().expect("set").suspects.push(silent);
    }
    fleet.plans();
    fleet.pass(60);
    assert!(fleet.plans().iter().all(|plan| plan.drains.is_empty()));
    let last = fleet.last();
    assert_eq!((last.rule.as_str(), last.inputs.unhealthy, last.inputs.serving), ("hold", 2, 2), "{last:#?}");
}

#[test]
fn a_fleet_that_does_not_orchestrate_asks_for_no_lease_and_decides_nothing() {
    let others = ["b", "c", "d"].map(|name| with_readers(name, 5)).into();
    let mut fleet = Fleet::with(settings(Role::Distribution), others);
    fleet.pass(20);
    assert_eq!((fleet.epoch, fleet.plans(), fleet.decisions()), (0, vec![], vec![]));
}

/// A plan of `b`, which leads.
fn plan(epoch: u64, number: u64, drains: &[&str]) -> Plan {
    let why = mtxfleet_leader::engine::victim::VictimReason::Cheapest { to_move: 0 };
    Plan {
        id: PlanId { epoch, number },
        run: RUN,
        parent: None,
        role: Role::Distribution,
        size: 3,
        drains: drains.iter().map(|name| (id(name), why.clone())).collect(),
        takers: ["b", "c", "d"].map(id).into(),
        rule: Rule::Load,
        reasons: Vec::new(),
    }
}

/// Of four nodes; carries out what `b` plans.
fn obedient() -> Fleet {
    let others = ["b", "c", "d"].map(|name| peer(name, Role::Distribution)).into();
    let mut fleet = Fleet::with(settings(Role::Distribution), others);
    // A drain goes on until it has moved.
    fleet.sessions = vec![worker_session("a")];
    fleet
}

impl Fleet {
    fn hear(&mut self, plan: Plan) {
        self.others[0].plan = Some(Arc::new(plan));
        self.pass(1);
    }

    fn asked(&mut self) -> Vec<Option<Token>> {
        let asked = |effect: &Effect| if let Effect::Admit { plan, .. } = effect { Some(*plan) } else { None };
        let asked = self.seen.iter().filter_map(asked).collect();
        self.seen.clear();
        asked
    }
}

#[test]
fn a_node_that_a_plan_names_drains_itself_once_and_comes_back_when_named_no_more() {
    let mut fleet = obedient();
    fleet.hear(plan(3, 1, &["me"]));
    assert_eq!(fleet.asked(), [Some(Token { epoch: 3, run: RUN })]);
    assert_eq!(fleet.state(), NodeState::Draining);
    fleet.hear(plan(3, 1, &["me"]));
    assert_eq!((fleet.asked(), fleet.state()), (vec![], NodeState::Draining), "the same plan again");
    fleet.hear(plan(2, 9, &[]));
    assert_eq!(fleet.state(), NodeState::Draining, "a plan of an older term");
    fleet.hear(Plan { run: RunId(1), ..plan(3, 2, &[]) });
    assert_eq!(fleet.state(), NodeState::Draining, "a plan of another run of this term");
    fleet.hear(plan(3, 2, &[]));
    assert_eq!(fleet.state(), NodeState::Active, "named no more");
}

#[test]
fn a_plan_of_an_older_term_or_another_run_begins_nothing() {
    let mut fleet = obedient();
    fleet.hear(plan(3, 1, &[]));
    fleet.hear(plan(2, 9, &["me"]));
    fleet.hear(Plan { run: RunId(1), ..plan(3, 9, &["me"]) });
    assert_eq!((fleet.asked(), fleet.state()), (vec![], NodeState::Active));
}

#[test]
fn plans_that_were_missed_do_no_harm_since_each_is_the_whole_wish() {
    let mut fleet = obedient();
    fleet.hear(plan(3, 1, &["me"]));
    fleet.hear(plan(5, 4, &["me", "c"]));
    assert_eq!((fleet.asked().len(), fleet.state()), (1, NodeState::Draining));
    fleet.others[0].plan = None;
    fleet.pass(1);
    assert_eq!(fleet.state(), NodeState::Draining, "whoever made it is gone, and the plan holds");
}

#[test]
fn an_operators_own_drain_is_not_cancelled_by_a_plan_that_does_not_name_it() {
    let mut fleet = obedient();
    let effects = fleet.world.order(false);
    fleet.settle(effects);
    fleet.hear(plan(3, 1, &[]));
    assert_eq!(fleet.state(), NodeState::Draining);
}

#[test]
fn an_operator_who_puts_a_node_back_is_not_overruled_by_the_plan() {
    let mut fleet = obedient();
    fleet.hear(plan(3, 1, &["me"]));
    fleet.apply(Event::UndrainOrdered { ticket: TICKET });
    fleet.pass(3);
    fleet.hear(plan(3, 2, &["me", "c"]));
    assert_eq!(fleet.state(), NodeState::Active);
    let load = fleet.world.node.load(fleet.world.now);
    assert!(load.declines.is_some_and(|why| why.contains("operator")));
}

#[test]
fn a_protected_node_declines_and_says_so() {
    let mut fleet = obedient();
    fleet.apply(Event::ProtectOrdered { protected: true });
    assert!(fleet.seen.iter().any(|effect| matches!(effect, Effect::PublishLoad(load) if load.protected)), "at once");
    fleet.hear(plan(3, 1, &["me"]));
    assert_eq!((fleet.asked(), fleet.state()), (vec![], NodeState::Active));
    let load = fleet.world.node.load(fleet.world.now);
    assert!(load.protected && load.declines.is_some());
}

#[test]
fn what_would_leave_too_few_nodes_is_asked_again_for_a_while_and_then_declined() {
    let mut fleet = obedient();
    fleet.others.truncate(2);
    fleet.others[1].load.as_mut().expect("set").state = NodeState::Draining;
    fleet.hear(plan(3, 1, &["me"]));
    fleet.pass(10);
    assert_eq!(fleet.world.node.load(fleet.world.now).declines, None, "it may pass");
    fleet.pass(15);
    let why = fleet.world.node.load(fleet.world.now).declines.expect("given up");
    assert!(why.contains("would be left"), "{why}");
    assert_eq!(fleet.state(), NodeState::Active);
}

fn control(version: u64, by: &str, paused: bool) -> Control {
    Control { role: Role::Distribution, paused, version, by: id(by), why: String::new(), at: UnixMillis(1) }
}

#[test]
fn the_newest_order_to_pause_wins_wherever_it_comes_from_and_is_kept_and_passed_on() {
    let saved = SavedControls { controls: vec![control(4, "b", true)], protected: true };
    let others = vec![peer("b", Role::Distribution)];
    let mut fleet = Fleet::with(Settings { controls: saved, ..settings(Role::Distribution) }, others);
    let paused = |fleet: &Fleet| fleet.world.node.controls.paused(Role::Distribution).is_some();
    assert!(paused(&fleet) && fleet.world.node.controls.is_protected(), "it was on disk");
    assert!(fleet.seen.contains(&Effect::PublishControls(vec![control(4, "b", true)])));
    fleet.others[0].controls = [control(3, "c", false)].into();
    fleet.pass(1);
    assert!(paused(&fleet), "an older order");
    fleet.others[0].controls = [control(4, "c", false)].into();
    fleet.pass(1);
    assert!(!paused(&fleet), "of two that were given at once, all agents take the same");
    let order = ControlOrder { role: Role::Distribution, why: "x".repeat(2_000) };
    fleet.apply(Event::ControlOrdered { order, paused: true });
    let newest = fleet.world.node.control(Role::Distribution).expect("set");
    assert_eq!((newest.version, newest.why.len()), (5, 500));
}

#[test]
fn the_report_of_decisions_is_short_whatever_was_decided() {
    let mut fleet = Fleet::elected(quick(), 5);
    for turn in 0..40_u32 {
        // A change of the size each time makes each decision an entry of its own.
        let count = 3 + turn as usize % 40;
        fleet.others = (0..count).map(|at| with_readers(&format!("{}{at}", "n".repeat(120)), 5)).collect();
        fleet.pass(1);
    }
    let longest = fleet.seen.iter().filter_map(|effect| match effect {
        Effect::PublishDecisions(report) => {
            Some((report.decisions.len(), serde_json::to_string(report).expect("JSON").len()))
        }
        _ => None,
    });
    let (entries, bytes) = longest.max().expect("reported");
    assert!(entries == 10 && bytes < 30_000, "{entries} entries, {bytes} bytes");
    assert!(fleet.decisions().len() <= 200);
}

#[test]
fn a_step_of_the_load_is_decided_on_when_it_is_heard_and_when_its_window_ends() {
    let mut fleet = Fleet::elected(quick(), 5);
    fleet.pass(2);
    fleet.plans();
    // Between two seconds, and nothing else happens then.
    fleet.world.after(300);
    let begun = fleet.world.now.mono;
    fleet.others[0].load.as_mut().expect("set").workers = Some(60);
    fleet.apply(Event::Peers(fleet.others.clone()));
    assert_eq!(fleet.last().rule, Rule::Window.to_string(), "{:#?}", fleet.last());
    while fleet.plans().is_empty() {
        let wake = fleet.world.node.wake().expect("it wants to be woken");
        assert!(wake > fleet.world.now.mono, "it would be woken for nothing, for ever");
        fleet.world.now.mono = wake;
        fleet.apply(Event::Tick);
        assert!(fleet.world.now.mono.since(begun) < Duration::from_secs(3), "{:#?}", fleet.last());
    }
    let decided = fleet.world.now.mono.since(begun);
    assert!(decided <= Duration::from_millis(1_150), "window 1 s, decided after {decided:?}");
}
