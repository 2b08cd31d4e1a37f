//! The world keeps its books, the bound is one, and the engine does what it is there for.

use std::time::Duration;

use super::frontier::{Frontier, Point, sweep, with_reserve};
use super::rules::{Fixed, Hpa, Own, TargetTracking};
use super::trace::{STEP, TraceError};
use super::*;
use crate::distribution_orchestrator;
use crate::engine::{Engine, Metric, Policy};

fn world(lead: u64) -> World {
    let seconds = Duration::from_secs;
    World { lead: seconds(lead), lag: seconds(5), drain: seconds(60), per_node: 100.0, min: 2, max: 20 }
}

fn policy(world: &World) -> Policy {
    let mut policy = distribution_orchestrator::policy();
    policy.metrics.retain(|rule| rule.metric == Metric::Readers);
    policy.cpu_limit = None;
    (policy.lead.assumed, policy.lead.lag) = (world.lead, world.lag);
    policy
}

fn own(policy: Policy) -> Own {
    Own::new(Engine::new(policy).expect("good"))
}

#[test]
fn a_week_is_the_same_in_whatever_company_and_spans_tenfold() {
    let two = Trace::weeks(7, 2..=2, 800.0);
    let both = Trace::weeks(7, 1..=2, 800.0);
    assert_eq!(both.readers[two.readers.len()..], two.readers[..]);
    assert_ne!(both.readers[..two.readers.len()], two.readers[..]);
    assert_ne!(Trace::weeks(8, 2..=2, 800.0).readers, two.readers);
    let night = two.readers.iter().copied().fold(f64::MAX, f64::min);
    assert!(two.peak() / night > 8.0, "from {night} to {}", two.peak());
}

#[test]
fn a_launched_node_serves_after_the_lead_and_is_paid_from_its_launch() {
    struct Once;
    impl Rule for Once {
        fn wish(&mut self, now: Mono, _: Seen) -> Wish {
            Wish { launch: u32::from(now == Mono(STEP)), ..Wish::default() }
        }
    }
    let trace = Trace { step: STEP, readers: vec![250.0; 10] };
    let outcome = run_from(2, &trace, &world(20), &mut Once);
    assert_eq!(outcome.paid, [2, 3, 3, 3, 3, 3, 3, 3, 3, 3]);
    assert_eq!(outcome.serving, [2, 2, 2, 2, 2, 3, 3, 3, 3, 3]);
    assert_eq!((outcome.over_seconds, outcome.over_viewer_seconds), (25.0, 5.0 * 5.0 * 50.0));
    assert!((outcome.node_hours - 29.0 * 5.0 / 3600.0).abs() < 1e-12);
}

#[test]
fn the_clairvoyant_is_never_over_and_nobody_who_is_neither_is_cheaper() {
    let trace = Trace::weeks(3, 1..=1, 800.0);
    for lead in [20, 90, 300] {
        let world = world(lead);
        let bound = clairvoyant::run(&trace, &world);
        assert_eq!(bound.over_seconds, 0.0);
        let fixed = run_from(world.nodes_for(trace.peak()), &trace, &world, &mut Fixed);
        let generous = run(&trace, &world, &mut own(Policy { headroom: 1.0, ..policy(&world) }));
        for outcome in [&fixed, &generous] {
            assert!(outcome.node_hours > bound.node_hours, "lead {lead}");
        }
        assert_eq!(fixed.over_seconds, 0.0);
    }
}

#[test]
fn the_clairvoyant_pays_lead_and_drain_and_bridges_gaps_shorter_than_both() {
    let mut readers = vec![150.0; 100];
    readers[40..50].fill(250.0);
    readers[55..60].fill(250.0);
    let trace = Trace { step: STEP, readers };
    let short = World { lead: STEP * 2, drain: STEP * 2, ..world(0) };
    let bridged = World { drain: STEP * 3, ..short };
    let third = |world: &World| clairvoyant::run(&trace, world).paid.iter().filter(|paid| **paid == 3).count();
    assert_eq!(third(&short), 15 + 2 * (2 + 2), "the gap of 5 is dearer than a drain and a launch");
    assert_eq!(third(&bridged), 15 + 5 + 2 + 3);
}

/// The figure of the README, at a quarter of its length; `mtxfleet simulate --frontier` gives the whole.
#[test]
fn the_engine_is_cheaper_than_hpa_and_target_tracking_at_equal_service() {
    let trace = Trace::weeks(1, 4..=4, 800.0);
    for lead in [90, 20] {
        let world = world(lead);
        let reserves = [-0.2, -0.1, -0.03, 0.0, 0.3, 0.7, 1.0, 2.0, 4.0, 8.0];
        let targets = [1.1, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4];
        let own = sweep(("own", "reserve"), &reserves, &trace, &world, |reserve| {
            Box::new(own(with_reserve(&policy(&world), reserve)))
        });
        let hpa = sweep(("hpa", "target"), &targets, &trace, &world, |at| {
            Box::new(Hpa::new(at, world.per_node, world.min, world.max))
        });
        let aws = sweep(("aws", "target"), &targets, &trace, &world, |at| {
            Box::new(TargetTracking::new(at, world.per_node, world.min, world.max))
        });
        let cost = |frontier: &Frontier| frontier.at(0.0005).unwrap_or_else(|| panic!("{frontier:?}")).cost;
        assert!(cost(&own) < cost(&hpa), "lead {lead}: {own:?} {hpa:?}");
        assert!(cost(&own) < cost(&aws), "lead {lead}: {own:?} {aws:?}");
    }
}

#[test]
fn a_frontier_is_read_between_its_points_and_never_beyond() {
    let point = |setting, cost, over| Point { setting, cost, over };
    let points = vec![point(0.0, 1.0, 1e-2), point(1.0, 2.0, 1e-4), point(2.0, 3.0, 1e-3)];
    let frontier = Frontier { name: "x", setting: "s", points };
    let at = frontier.at(1e-3).expect("between the first two; the third is dearer and worse");
    assert!((at.cost - 1.5).abs() < 1e-9 && (at.setting - 0.5).abs() < 1e-9, "{at:?}");
    assert_eq!(frontier.at(1e-5), None);
    assert_eq!(frontier.at(0.5), None);
}

#[test]
fn a_csv_is_read_straight_between_its_lines_or_refused_with_the_line() {
    let trace = Trace::from_csv("time,readers\n0,100\n# a comment\n10,200\n20,200\n").expect("good");
    assert_eq!(trace.readers, [100.0, 150.0, 200.0, 200.0, 200.0]);
    let wrong = |text| Trace::from_csv(text).expect_err(text);
    assert_eq!(wrong("0,1\nx,2"), TraceError::NotTwoNumbers { line: 2, text: "x,2".into() });
    assert_eq!(wrong("0,1\n5,-2"), TraceError::NotTwoNumbers { line: 2, text: "5,-2".into() });
    assert_eq!(wrong("0,1\n0,2"), TraceError::NotLater { line: 2 });
    assert_eq!(wrong("0,1"), TraceError::TooShort);
    assert_eq!(wrong(""), TraceError::TooShort);
    assert_eq!(wrong("0,1\n1e12,2"), TraceError::TooLong);
    assert!(matches!(wrong("0,NaN\n5,1"), TraceError::NotTwoNumbers { line: 1, .. }));
}

#[test]
fn a_picture_can_be_drawn_of_any_trace() {
    for trace in [Trace::weeks(1, 1..=1, 50.0), Trace { step: STEP, readers: vec![0.0, 0.0] }] {
        let world = world(90);
        let rows = vec![
            ("own".to_owned(), run(&trace, &world, &mut own(policy(&world)))),
            ("fixed <&>".to_owned(), run_from(2, &trace, &world, &mut Fixed)),
            ("clairvoyant".to_owned(), clairvoyant::run(&trace, &world)),
        ];
        let picture = picture::Picture { trace: &trace, world: &world, rows: &rows, frontiers: &[], what: "a <test>" };
        let svg = picture::draw(&picture);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"));
        assert!(svg.contains("fixed &lt;&amp;&gt;"));
    }
}
