//! What must hold of any decision and any plan, and golden scripts of the policy.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use mtxfleet_wire::{Mono, NodeId, Role, RunId, Token, UnixMillis};
use proptest::prelude::*;

use super::*;
use crate::{distribution_orchestrator, ingestion_orchestrator};

const PACE: Duration = Duration::from_secs(5);

/// By readers alone, without foresight, so that the numbers of a script can be done in the head.
fn plain() -> Policy {
    let mut policy = distribution_orchestrator::policy();
    policy.metrics.retain(|rule| rule.metric == Metric::Readers);
    (policy.headroom, policy.spare) = (0.0, 0.0);
    policy.up_window = Duration::from_secs(10);
    policy.lead.gain = 0.0;
    (policy.lead.window, policy.lead.noise) = (Duration::from_secs(120), 2.0);
    policy.cpu_limit = None;
    policy.down_window = Duration::from_secs(60);
    policy
}

fn seen(serving: u32, readers: f64) -> Snapshot {
    Snapshot { serving, loads: vec![Load { known: readers, missing: 0 }], ..Snapshot::default() }
}

/// Shows `snapshot` for `times` looks, and gives what was decided at the last.
fn look(engine: &mut Engine, from: &mut u32, times: u32, snapshot: &Snapshot) -> Decision {
    let mut decide = || {
        *from += 1;
        engine.decide(Mono(PACE * *from), snapshot)
    };
    let mut last = decide();
    for _ in 1..times {
        last = decide();
    }
    last
}

/// Lines of `LOOKS SNAPSHOT`, each answered by the decision of its last look.
fn script(policy: Policy, steps: &[(u32, Snapshot)]) -> String {
    let mut engine = Engine::new(policy).expect("good");
    let (mut at, mut out) = (0, String::from("\n"));
    for (times, snapshot) in steps {
        let decision = look(&mut engine, &mut at, *times, snapshot);
        writeln!(out, "{:>4} s  {decision}", (PACE * at).as_secs()).expect("text");
    }
    out
}

#[test]
fn golden_growth_waits_for_its_short_window_and_shrinking_for_its_long_one() {
    let mut launching = seen(3, 450.0);
    launching.launching = 2;
    let mut draining = seen(4, 250.0);
    (draining.draining, draining.cancellable) = (1, 1);
    let mut back = draining.clone();
    back.loads[0].known = 520.0;
    let text = script(
        plain(),
        &[
            (1, seen(3, 250.0)),
            (1, seen(3, 450.0)),
            (2, seen(3, 450.0)),
            (1, launching),
            (1, seen(5, 250.0)),
            (13, seen(5, 250.0)),
            (1, draining),
            (3, back),
        ],
    );
    let golden = "
   5 s  nothing: 3 are wanted and there; 250 readers ask for 3 node(s)
  10 s  nothing: more must be wanted for 5 s yet; 450 readers ask for 5 node(s)
  20 s  grow: 2 launched, 0 drain(s) cancelled: 450 readers ask for 5 node(s)
  25 s  nothing: 5 are wanted and there; 450 readers ask for 5 node(s)
  30 s  nothing: the window down lasts 35 s yet; 250 readers ask for 3 node(s)
  95 s  shrink: 1 drained: 250 readers ask for 3 node(s)
 100 s  nothing: 1 node(s) are draining; 250 readers ask for 3 node(s)
 115 s  grow: 1 launched, 1 drain(s) cancelled: 1 drain(s) cancelled, since the load came back; 520 readers ask for 6 node(s)
";
    assert_eq!(text, golden);
}

#[test]
fn golden_what_is_missing_holds_and_is_never_zero() {
    let silent = |serving, known, missing| Snapshot { loads: vec![Load { known, missing }], ..seen(serving, 0.0) };
    let text = script(
        plain(),
        &[(20, silent(4, 0.0, 4)), (20, silent(4, 100.0, 1)), (4, silent(4, 450.0, 1)), (13, seen(4, 150.0))],
    );
    let golden = "
 100 s  nothing: 4 node(s) do not say their readers: nothing shrinks; 0 readers ask for 0 node(s)
 200 s  nothing: 1 node(s) do not say their readers: nothing shrinks; 100 readers ask for 1 node(s)
 220 s  grow: 1 launched, 0 drain(s) cancelled: 450 readers ask for 5 node(s)
 285 s  shrink: 1 drained: 150 readers ask for 2 node(s)
";
    assert_eq!(text, golden);
}

#[test]
fn golden_cpu_grows_by_a_fifth_and_never_speaks_for_fewer() {
    let policy = Policy { cpu_limit: Some(0.8), ..plain() };
    let with_cpu = |serving, readers, cpu| Snapshot { cpu, ..seen(serving, readers) };
    let mut launched = with_cpu(10, 1000.0, Some(0.9));
    launched.launching = 2;
    let text = script(
        policy,
        &[
            (2, with_cpu(10, 1000.0, Some(0.9))),
            (1, with_cpu(10, 1000.0, Some(0.9))),
            (3, launched),
            (13, with_cpu(10, 850.0, Some(0.75))),
            (13, with_cpu(10, 850.0, None)),
            (13, with_cpu(10, 850.0, Some(0.1))),
        ],
    );
    let golden = "
  10 s  nothing: 10 are wanted and there; 1000 readers ask for 10 node(s)
  15 s  grow: 2 launched, 0 drain(s) cancelled: CPU at 90 %, above 80 %: a fifth more; 1000 readers ask for 10 node(s)
  30 s  nothing: the window down lasts 35 s yet; 1000 readers ask for 10 node(s)
  95 s  nothing: CPU of the nodes that stay would be 83 %, limit 80 %; 850 readers ask for 9 node(s)
 160 s  nothing: a node does not say its CPU: nothing shrinks; 850 readers ask for 9 node(s)
 225 s  shrink: 1 drained: 850 readers ask for 9 node(s)
";
    assert_eq!(text, golden);
}

#[test]
fn golden_a_schedule_keeps_what_is_there_and_raises_the_least_before_any_load() {
    let hour = |hours: u64| UnixMillis(hours * 3_600_000);
    let match_day = Schedule {
        name: "match day".into(),
        // The first of January 1970 was a Thursday.
        cron: "0 18 * * thu".into(),
        time_zone: "UTC".into(),
        lasts: Duration::from_secs(4 * 3_600),
        min: Some(6),
        spare: Some(2.0),
        inhibit_scale_down: true,
        ..Schedule::default()
    };
    let at = |wall, serving, readers| Snapshot { wall, ..seen(serving, readers) };
    let text = script(
        Policy { schedules: vec![match_day], ..plain() },
        &[
            (13, at(hour(17), 3, 250.0)),
            (1, at(hour(18), 3, 250.0)),
            (3, at(hour(18), 6, 450.0)),
            (13, at(hour(21), 9, 450.0)),
            (1, at(hour(22), 9, 450.0)),
        ],
    );
    let golden = "
  65 s  nothing: 3 are wanted and there; 250 readers ask for 3 node(s)
  70 s  grow: 3 launched, 0 drain(s) cancelled: fewer than the least, 6; 250 readers ask for 3 node(s); by schedule match day: 6 to 20 nodes, 2 spare
  85 s  grow: 1 launched, 0 drain(s) cancelled: 450 readers, growing by 0.85 a second, ask for 5 node(s); by schedule match day: 6 to 20 nodes, 2 spare
 150 s  nothing: schedule match day lets nothing shrink; 450 readers, growing by 1.60 a second, ask for 5 node(s); by schedule match day: 6 to 20 nodes, 2 spare
 155 s  shrink: 1 drained: 450 readers, growing by 1.46 a second, ask for 5 node(s)
";
    assert_eq!(text, golden);
}

#[test]
fn growth_that_will_come_within_the_lead_is_provided_for() {
    let mut policy = plain();
    policy.lead.gain = 1.0;
    let mut engine = Engine::new(policy).expect("good");
    let mut decision = None;
    for at in 0..30_u32 {
        // 1 reader a second, 92 s ahead: 92 more than there are.
        decision = Some(engine.decide(Mono(PACE * at), &seen(3, 50.0 + f64::from(at) * 5.0)));
    }
    let decision = decision.expect("some");
    assert_eq!(decision.wanted, 3, "195 readers now, 287 when a node would be ready: {decision}");
}

#[test]
fn a_frozen_orchestrator_begins_its_windows_anew() {
    let (mut engine, mut at) = (Engine::new(plain()).expect("good"), 0);
    let before = look(&mut engine, &mut at, 12, &seen(5, 100.0));
    assert_eq!(before.outcome, Outcome::Nothing);
    at += 6;
    let after = look(&mut engine, &mut at, 12, &seen(5, 100.0));
    assert_eq!(after.outcome, Outcome::Nothing, "{after}");
    assert_eq!(look(&mut engine, &mut at, 1, &seen(5, 100.0)).outcome, Outcome::Shrink { drain: 1 });
}

#[test]
fn a_wrong_policy_is_refused_with_all_of_its_errors() {
    let mut policy = plain();
    (policy.min, policy.max, policy.headroom, policy.shrink_step) = (5, 4, f64::NAN, 0);
    let errors = Engine::new(policy).expect_err("refused");
    let keys: Vec<_> = errors.iter().map(|error| error.key).collect();
    assert_eq!(keys, ["min", "headroom", "shrink_step"]);
}

/// A node of a cluster that does what plans say, after a while.
#[derive(Debug, Clone)]
struct Simulated {
    view: NodeView,
    /// Looks until it is ready, or gone.
    left: u32,
}

fn simulated(number: u32, ready: bool) -> Simulated {
    let condition = if ready { Condition::Serving } else { Condition::Launching };
    let view = NodeView {
        node: NodeId::new(format!("node-{number}")).expect("valid"),
        condition,
        loads: vec![None],
        cpu: None,
        zone: ["a", "b"][number as usize % 2].to_owned(),
        version: "1.0.0".to_owned(),
        to_move: 0,
        protected: number % 7 == 3,
        orchestrating: number % 5 == 1,
    };
    Simulated { view, left: 4 }
}

#[derive(Debug, Clone)]
enum Turn {
    Load(f64),
    Silent(usize),
    Sick(usize),
    Well,
    NewEpoch,
    Pass(u32),
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = prop_oneof![
        3 => (0.0..2500.0_f64).prop_map(Turn::Load),
        1 => (0..20_usize).prop_map(Turn::Silent),
        1 => (0..20_usize).prop_map(Turn::Sick),
        2 => Just(Turn::Well),
        1 => Just(Turn::NewEpoch),
        4 => (1..60_u32).prop_map(Turn::Pass),
    ];
    proptest::collection::vec(turn, 1..40)
}

/// The cluster follows its plan by one look, and grows by what the plan's size does not count yet, as [`crate::growing`]
/// does; `next` numbers the nodes.
fn follow(nodes: &mut Vec<Simulated>, steering: &Steering, next: &mut u32) {
    let Some(plan) = steering.plan() else { return };
    let mut coming = 0;
    for node in nodes.iter_mut() {
        let told = plan.drains.contains_key(&node.view.node);
        match node.view.condition {
            Condition::Launching if node.left == 0 => node.view.condition = Condition::Serving,
            Condition::Launching => node.left -= 1,
            Condition::Serving if told => {
                (node.view.condition, node.left) = (Condition::Draining { cancellable: true }, 8);
            }
            Condition::Draining { cancellable: true } if !told => node.view.condition = Condition::Serving,
            Condition::Draining { .. } => {
                node.left = node.left.saturating_sub(1);
                node.view.condition = Condition::Draining { cancellable: node.left > 2 };
            }
            Condition::Unhealthy if told => node.left = node.left.saturating_sub(1),
            _ => {}
        }
        coming += u32::from(!told && steering.counts(&node.view));
    }
    nodes.retain(|node| {
        let over = plan.drains.contains_key(&node.view.node) && node.left == 0;
        !(over && matches!(node.view.condition, Condition::Draining { .. } | Condition::Unhealthy))
    });
    for _ in coming..plan.size.min(100) {
        *next += 1;
        nodes.push(simulated(*next, false));
    }
}

/// Plays `turns` to a cluster that follows its plans, then a steady load. The plan checker judges each plan inside.
fn play(turns: Vec<Turn>) -> Result<(), TestCaseError> {
    let policy = plain();
    let mut steering = Steering::new(Role::Distribution, policy.clone()).expect("good");
    let mut nodes: Vec<Simulated> = (1..=4).map(|number| simulated(number, true)).collect();
    let (mut next, mut load, mut silent, mut epoch, mut at) = (4, 200.0, BTreeMap::new(), 1, 0_u32);
    for turn in turns {
        let mut passes = 3;
        match turn {
            Turn::Load(readers) => load = readers,
            Turn::Silent(which) => {
                silent.insert(which, ());
            }
            Turn::Sick(which) => {
                let serving = |node: &&mut Simulated| node.view.condition == Condition::Serving;
                if let Some(node) = nodes.get_mut(which).filter(serving) {
                    (node.view.condition, node.left) = (Condition::Unhealthy, 8);
                }
            }
            Turn::Well => {
                silent.clear();
                for node in nodes.iter_mut().filter(|node| node.view.condition == Condition::Unhealthy) {
                    node.view.condition = Condition::Serving;
                }
            }
            Turn::NewEpoch => {
                epoch += 1;
                let last = steering.plan().cloned();
                steering = Steering::new(Role::Distribution, policy.clone()).expect("good");
                if let Some(plan) = last {
                    steering.adopt(plan);
                }
            }
            Turn::Pass(looks) => passes = looks,
        }
        for _ in 0..passes {
            at += 1;
            let serving = nodes.iter().filter(|node| node.view.condition == Condition::Serving).count().max(1);
            for (index, node) in nodes.iter_mut().enumerate() {
                let share = if node.view.condition == Condition::Serving { load / serving as f64 } else { 0.0 };
                node.view.loads = vec![(!silent.contains_key(&index)).then_some(share)];
                node.view.to_move = share as u32;
            }
            let views: Vec<NodeView> = nodes.iter().map(|node| node.view.clone()).collect();
            // The plan checker judges each plan inside.
            let steered = steering.steer(
                Mono(PACE * at),
                UnixMillis(0),
                Token { epoch, run: RunId(1) },
                &views,
                None,
                Manner::Act,
            );
            prop_assert!(!steered.decision.reasons.is_empty(), "a decision without a reason");
            follow(&mut nodes, &steering, &mut next);
        }
    }
    // Whatever happened before: a steady load is in the end carried, by no node too many.
    silent.clear();
    for _ in 0..400 {
        at += 1;
        for node in &mut nodes {
            if node.view.condition == Condition::Unhealthy {
                node.view.condition = Condition::Serving;
            }
        }
        let serving = nodes.iter().filter(|node| node.view.condition == Condition::Serving).count().max(1);
        for node in &mut nodes {
            let share = if node.view.condition == Condition::Serving { 450.0 / serving as f64 } else { 0.0 };
            node.view.loads = vec![Some(share)];
        }
        let views: Vec<NodeView> = nodes.iter().map(|node| node.view.clone()).collect();
        steering.steer(Mono(PACE * at), UnixMillis(0), Token { epoch, run: RunId(1) }, &views, None, Manner::Act);
        follow(&mut nodes, &steering, &mut next);
    }
    let serving = nodes.iter().filter(|node| node.view.condition == Condition::Serving).count();
    let kept = nodes.iter().filter(|node| node.view.protected).count();
    prop_assert!(serving == 5.max(kept), "{serving} serve 450 readers: {nodes:#?}");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_plan_passes_the_checker(turns in turns()) {
        play(turns)?;
    }

    #[test]
    fn no_decision_leaves_the_range_or_shrinks_on_what_is_missing(
        looks in proptest::collection::vec((0..25_u32, 0..5_u32, 0..5_u32, 0.0..5e3_f64, 0..2_u32), 1..200),
    ) {
        let policy = plain();
        let mut engine = Engine::new(policy.clone()).expect("good");
        for (at, (serving, launching, draining, known, missing)) in looks.into_iter().enumerate() {
            let snapshot = Snapshot {
                serving, launching, draining, cancellable: draining,
                loads: vec![Load { known, missing }], ..Snapshot::default()
            };
            let decision = engine.decide(Mono(PACE * at as u32), &snapshot);
            let size = snapshot.size();
            match decision.outcome {
                Outcome::Nothing => {}
                Outcome::Grow { cancel, launch } => {
                    prop_assert!(cancel + launch > 0 && size + cancel + launch <= policy.max, "{decision}");
                    prop_assert!(launch == 0 || cancel == draining, "launched before every drain was cancelled");
                }
                Outcome::Shrink { drain } => {
                    prop_assert!(drain > 0 && size - drain >= policy.min && missing == 0, "{decision}");
                }
            }
        }
    }
}

/// Stories that random seeds found once.
#[test]
fn nodes_that_fall_ill_cost_no_other_its_place_and_do_not_let_the_cluster_grow_for_ever() {
    let story = vec![Turn::Sick(2), Turn::Load(1480.9), Turn::Load(0.0), Turn::Pass(45), Turn::Sick(5)];
    play(story).expect("an orchestrating node is in doubt, and would be spared where one goes");
    let (high, none) = (Turn::Load(2411.2), Turn::Load(0.0));
    let story = [high, none.clone(), none, Turn::Sick(11), Turn::Sick(0), Turn::Sick(1), Turn::NewEpoch, Turn::Sick(2)];
    play(story.into_iter().chain([Turn::NewEpoch]).collect()).expect("four in doubt at the most that there may be");
}

#[test]
fn nothing_shrinks_while_a_node_may_be_back_in_a_moment() {
    let (mut engine, mut at) = (Engine::new(plain()).expect("good"), 0);
    let doubted = Snapshot { unhealthy: 1, doubted: 1, ..seen(2, 50.0) };
    let decision = look(&mut engine, &mut at, 20, &doubted);
    assert_eq!(
        (decision.outcome, decision.rule),
        (Outcome::Nothing, Rule::Underway),
        "one of two would go: {decision}"
    );
    assert_eq!(look(&mut engine, &mut at, 1, &seen(3, 50.0)).outcome, Outcome::Shrink { drain: 1 });
}

#[test]
fn a_node_that_falls_ill_after_it_was_told_to_go_holds_no_place_and_counts_among_those_that_drain() {
    let mut steering = Steering::new(Role::Distribution, plain()).expect("good");
    let mut nodes: Vec<NodeView> = (1..=6).map(|number| simulated(number, true).view).collect();
    for node in &mut nodes {
        node.loads = vec![Some(20.0)];
    }
    let token = Token { epoch: 1, run: RunId(1) };
    let mut steer =
        |at: u32, nodes: &[NodeView]| steering.steer(Mono(PACE * at), UnixMillis(0), token, nodes, None, Manner::Act);
    let shrinks = |steered: &Steered| steered.decision.outcome == Outcome::Shrink { drain: 1 };
    let (at, steered) =
        (0..20).map(|at| (at, steer(at, &nodes))).find(|(_, steered)| shrinks(steered)).expect("six are too many");
    let victim = nodes.iter_mut().find(|node| node.node == steered.victims[0].0).expect("one of them");
    victim.condition = Condition::Unhealthy;
    let decision = steer(at + 1, &nodes).decision;
    assert_eq!((decision.inputs.size(), decision.inputs.draining), (5, 1), "{decision}");
    assert_eq!(decision.outcome, Outcome::Nothing);
}

#[test]
fn the_defaults_are_those_of_the_design() {
    let (ingestion, distribution) = (ingestion_orchestrator::policy(), distribution_orchestrator::policy());
    assert!(ingestion.errors().is_empty() && distribution.errors().is_empty());
    assert_eq!((ingestion.min, ingestion.max, ingestion.down_window.as_secs()), (1, 10, 300));
    assert_eq!((distribution.min, distribution.max, distribution.down_window.as_secs()), (2, 20, 600));
    assert_eq!((ingestion.shrink_step, distribution.shrink_step), (1, 1));
}

/// Two days of a cluster that follows its plans, with a match on the first: the plan checker judges each plan inside.
#[test]
fn every_plan_keeps_to_the_schedules_that_hold() {
    let match_day = Schedule {
        name: "match day".into(),
        // The first of January 1970 was a Thursday.
        cron: "0 18 * * thu".into(),
        time_zone: "UTC".into(),
        lasts: Duration::from_secs(4 * 3_600),
        min: Some(6),
        max: Some(9),
        inhibit_scale_down: true,
        ..Schedule::default()
    };
    let policy = Policy { schedules: vec![match_day], ..plain() };
    let mut steering = Steering::new(Role::Distribution, policy).expect("good");
    let mut nodes: Vec<Simulated> = (1..=4).map(|number| simulated(number, true)).collect();
    let (mut next, mut plans, mut sizes) = (4, 0, Vec::new());
    for look in 0..2 * 24 * 720_u32 {
        let hour = f64::from(look) / 720.0;
        // Lowest when the match begins, highest when it ends.
        let load = 500.0 + 480.0 * (hour * 0.8 - 3.41).sin();
        let serving = nodes.iter().filter(|node| node.view.condition == Condition::Serving).count().max(1);
        for node in &mut nodes {
            let share = if node.view.condition == Condition::Serving { load / serving as f64 } else { 0.0 };
            (node.view.loads, node.view.to_move) = (vec![Some(share)], share as u32);
        }
        let views: Vec<NodeView> = nodes.iter().map(|node| node.view.clone()).collect();
        let wall = UnixMillis(u64::from(look) * 5_000);
        let token = Token { epoch: 1, run: RunId(1) };
        let steered = steering.steer(Mono(PACE * look), wall, token, &views, None, Manner::Act);
        plans += u32::from(steered.plan.is_some());
        follow(&mut nodes, &steering, &mut next);
        sizes.push(serving);
    }
    assert!(plans > 20, "{plans} plans");
    let within = |from: u32, to: u32| &sizes[(from * 720) as usize..(to * 720) as usize];
    assert!(within(19, 22).iter().all(|serving| (6..=9).contains(serving)), "in the match");
    assert!(sizes.iter().any(|serving| *serving < 6) && sizes.iter().any(|serving| *serving > 9), "and outside of it");
}

/// "Load step to cloud call: 1 s after the short window agrees": what is pure adds one look, of two a second, at most.
#[test]
fn growth_is_decided_at_the_first_look_after_its_short_window() {
    let look = Duration::from_millis(500);
    for (window, at) in [(0, 0), (1_000, 0), (2_000, 0), (2_000, 137), (10_000, 401)] {
        let window = Duration::from_millis(window);
        let mut steering =
            Steering::new(Role::Distribution, Policy { up_window: window, ..plain() }).expect("a good policy");
        let node = |number: u32, readers: f64| {
            let mut node = simulated(number, false).view;
            (node.condition, node.loads) = (Condition::Serving, vec![Some(readers)]);
            node
        };
        let calm: Vec<NodeView> = (1..=4).map(|number| node(number, 90.0)).collect();
        let busy: Vec<NodeView> = (1..=4).map(|number| node(number, 130.0)).collect();
        let step = Duration::from_secs(60) + Duration::from_millis(at);
        let token = Token { epoch: 1, run: RunId(1) };
        let grown = (0..400).map(|count| look * count).find(|now| {
            let seen = if *now < step { &calm } else { &busy };
            let plan = steering.steer(Mono(*now), UnixMillis(0), token, seen, None, Manner::Act).plan;
            plan.is_some_and(|plan| plan.size > 4)
        });
        let late = grown.expect("it grows").saturating_sub(step + window);
        // Seen at the next look, and once more when the window ends between two.
        assert!(late <= 2 * look, "{late:?} after the window of {window:?}");
    }
}

#[test]
fn stale_metrics_are_no_metrics_and_hold_what_is_there() {
    let (mut engine, mut at) = (Engine::new(plain()).expect("good"), 0);
    let stale = |serving, missing| Snapshot { loads: vec![Load { known: 0.0, missing }], ..seen(serving, 0.0) };
    look(&mut engine, &mut at, 12, &seen(6, 550.0));
    for missing in [6, 1] {
        let decision = look(&mut engine, &mut at, 500, &stale(6, missing));
        assert_eq!((decision.outcome, decision.rule), (Outcome::Nothing, Rule::Hold), "{decision}");
    }
    let known = look(&mut engine, &mut at, 11, &seen(6, 150.0));
    assert_eq!(known.outcome, Outcome::Nothing, "the window down begins when all is known again: {known}");
    assert_eq!(look(&mut engine, &mut at, 2, &seen(6, 150.0)).outcome, Outcome::Shrink { drain: 1 });
}

#[test]
fn figures_that_are_no_numbers_are_missing_and_never_zero() {
    for figure in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0] {
        let mut node = simulated(1, false).view;
        (node.condition, node.loads) = (Condition::Serving, vec![Some(figure)]);
        assert_eq!(Snapshot::of(&[node], 1).loads, [Load { known: 0.0, missing: 1 }], "{figure}");
    }
}

#[test]
fn a_least_above_the_most_is_refused_and_named() {
    let policy = Policy { min: 5, max: 4, ..plain() };
    let errors = Engine::new(policy).expect_err("no cluster can be so");
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].key, "min");
    assert!(errors[0].to_string().contains("above max, 4"), "{}", errors[0]);
}
