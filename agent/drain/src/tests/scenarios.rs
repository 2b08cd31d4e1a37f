use std::time::Duration;

use mtxfleet_wire::{DrainOutcome, LegEnd, Mono, NodeId, Phase};

use super::world::{Conduct, World, candidate, leg};
use crate::{Action, Reader, Settings};

fn viewers(count: usize) -> Vec<Reader> {
    (0..count).map(|n| Reader { session: format!("viewer-{n}"), stream: "cam1".into() }).collect()
}

fn phases(world: &World) -> Vec<Phase> {
    world
        .log
        .iter()
        .filter_map(|action| if let Action::PhaseEntered(phase) = action { Some(*phase) } else { None })
        .collect()
}

#[test]
fn an_idle_node_goes_through_all_five_phases_in_little_time() {
    let mut world = World::new(Settings::default());
    let record = world.run();
    assert_eq!(phases(&world), Phase::ALL);
    assert_eq!(record.outcome, DrainOutcome::Completed);
    assert!(world.now < Duration::from_secs(3), "took {:?}", world.now);
}

#[test]
fn workers_move_and_are_never_disconnected() {
    let mut world = World::new(Settings::default())
        .with_worker("cam1", Conduct::Moves { after: 3 })
        .with_worker("cam1", Conduct::Moves { after: 9 });
    let record = world.run();
    assert!(!world.log.iter().any(|action| matches!(action, Action::Disconnect { .. })));
    let moved = LegEnd::Moved(NodeId::new("dist-2").ok());
    assert!(record.legs.iter().all(|leg| leg.how == moved && leg.acknowledged && leg.extra_pause_ms == Some(7)));
}

#[test]
fn a_worker_that_stays_is_disconnected_at_the_deadline_and_named() {
    let mut world = World::new(Settings::default())
        .with_worker("cam1", Conduct::Stays)
        .with_worker("cam1", Conduct::Moves { after: 1 });
    let record = world.run();
    assert_eq!(record.legs[0].how, LegEnd::Disconnected);
    assert_eq!(record.legs[1].how, LegEnd::Moved(NodeId::new("dist-2").ok()));
    assert!(world.now > Settings::default().worker_deadline);
}

#[test]
fn a_silent_worker_holds_the_first_phase_for_its_deadline_only() {
    let mut world = World::new(Settings::default()).with_worker("cam1", Conduct::Silent);
    let record = world.run();
    let first = &record.phases[0];
    assert!(first.timed_out && first.seconds < 3.5, "{first:?}");
    assert_eq!(first.waiting_for, ["worker worker-0 has not acknowledged"]);
}

#[test]
fn a_balancer_that_never_polls_ends_the_phase_at_its_deadline_and_is_named() {
    let mut world = World::new(Settings::default());
    world.pollers.insert("lb-1".into(), 0);
    let record = world.run();
    let second = &record.phases[1];
    assert!(second.timed_out && second.waiting_for[0].contains("lb-1"), "{second:?}");
    assert_eq!(record.out_of_balancer_seconds, None);
}

#[test]
fn the_balancer_must_poll_again_after_it_was_told() {
    let mut world = World::new(Settings { quiet: Duration::ZERO, ..Settings::default() });
    world.pollers.insert("lb-1".into(), 10);
    let record = world.run();
    assert_eq!(record.phases[1].waiting_for, Vec::<String>::new());
    assert!(record.phases[1].seconds > 3.0, "the second poll comes after 4 s: {:?}", record.phases[1]);
    assert_eq!(record.out_of_balancer_seconds, Some(2.0), "the first one is when it was told");
}

#[test]
fn readers_without_a_leg_are_disconnected_after_the_last_leg_moved() {
    let mut world = World::new(Settings::default()).with_worker("cam1", Conduct::Moves { after: 20 });
    world.readers = viewers(3);
    let record = world.run();
    assert_eq!(record.readers_disconnected, 3);
    let cut = world.log.iter().position(|action| matches!(action, Action::Disconnect { .. })).expect("some");
    let ordered = world.log.iter().position(|action| matches!(action, Action::Move(_))).expect("some");
    assert!(ordered < cut);
    assert_eq!(record.legs[0].how, LegEnd::Moved(NodeId::new("dist-2").ok()));
}

#[test]
fn viewers_are_disconnected_a_few_at_a_time_in_the_last_part_of_the_window() {
    let mut world = World::new(Settings::default());
    world.viewers = viewers(40);
    let mut most_at_once = 0;
    let mut first_cut = None;
    let record = loop {
        let actions = world.look();
        let cut = actions.iter().filter(|action| matches!(action, Action::Disconnect { .. })).count();
        most_at_once = most_at_once.max(cut);
        if cut > 0 {
            first_cut.get_or_insert(world.now);
        }
        if let Some(Action::Ended(record)) = actions.into_iter().find(|action| matches!(action, Action::Ended(_))) {
            break record;
        }
        assert!(world.now < Duration::from_secs(120));
    };
    assert_eq!((record.viewers_disconnected, record.viewers_left), (40, 0));
    assert!(most_at_once <= 4, "{most_at_once} at once");
    assert!(first_cut.expect("some") > Duration::from_secs(48), "{first_cut:?}");
}

#[test]
fn viewers_that_leave_by_themselves_are_counted_and_end_the_phase() {
    let mut world = World::new(Settings::default());
    world.viewers = viewers(5);
    for _ in 0..20 {
        world.look();
    }
    world.viewers.clear();
    let record = world.run();
    assert_eq!((record.viewers_disconnected, record.viewers_left), (0, 5));
    assert!(world.now < Duration::from_secs(10));
}

#[test]
fn a_batch_takes_no_more_than_its_share_of_the_spare_bandwidth() {
    let mut world = World::new(Settings::default());
    // Half of 8 Mbit/s carries two streams of 2 Mbit/s.
    world.candidates = vec![candidate("dist-2", Some(8_000_000), &["cam1"])];
    for _ in 0..6 {
        world = world.with_worker("cam1", Conduct::Moves { after: 2 });
    }
    let record = world.run();
    let largest = world.log.iter().map(|action| if let Action::Move(legs) = action { legs.len() } else { 0 }).max();
    assert_eq!(largest, Some(2));
    assert!(record.legs.iter().all(|leg| leg.how != LegEnd::Disconnected));
}

#[test]
fn a_full_fleet_still_lets_one_leg_move_at_a_time() {
    let mut world = World::new(Settings::default());
    world.candidates = vec![candidate("dist-2", Some(0), &["cam1"])];
    for _ in 0..3 {
        world = world.with_worker("cam1", Conduct::Moves { after: 1 });
    }
    let record = world.run();
    assert!(record.legs.iter().all(|leg| leg.how != LegEnd::Disconnected), "{:?}", record.legs);
}

#[test]
fn legs_wait_for_a_warm_node_and_then_for_no_longer_than_patience() {
    let mut world = World::new(Settings::default()).with_worker("cam9", Conduct::Moves { after: 1 });
    let record = world.run();
    assert!(world.now > Settings::default().warm_patience && world.now < Duration::from_secs(9), "{:?}", world.now);
    assert_ne!(record.legs[0].how, LegEnd::Disconnected);
}

#[test]
fn with_nowhere_to_go_workers_keep_their_legs_until_the_deadline() {
    let mut world = World::new(Settings::default()).with_worker("cam1", Conduct::Moves { after: 1 });
    world.candidates.clear();
    let record = world.run();
    assert!(!world.log.iter().any(|action| matches!(action, Action::Move(_))));
    assert_eq!(record.legs[0].how, LegEnd::Disconnected);
    assert!(record.phases[2].seconds >= 30.0);
}

#[test]
fn a_worker_that_comes_in_the_middle_is_told_and_moves_too() {
    let mut world = World::new(Settings::default()).with_worker("cam1", Conduct::Moves { after: 10 });
    for _ in 0..8 {
        world.look();
    }
    world = world.with_worker("cam1", Conduct::Moves { after: 1 });
    let record = world.run();
    assert_eq!(record.legs.len(), 2);
    assert!(record.legs.iter().all(|leg| leg.acknowledged && leg.how != LegEnd::Disconnected));
}

#[test]
fn a_server_that_does_not_answer_is_never_taken_for_an_empty_one() {
    let settings = Settings::default();
    let deadlines = settings.total(false) - settings.balancer_deadline;
    let mut world = World::new(settings).with_worker("cam1", Conduct::Stays);
    world.server_up = false;
    let record = world.run();
    assert!(world.now > deadlines - Duration::from_secs(5), "took only {:?}", world.now);
    assert!(record.phases.iter().filter(|phase| phase.timed_out).count() >= 4, "{:?}", record.phases);
}

#[test]
fn a_cancelled_drain_says_so_and_does_nothing_more() {
    let mut world = World::new(Settings::default()).with_worker("cam1", Conduct::Stays);
    world.look();
    let actions = world.drain.cancel(Mono(world.now), world.wall()).expect("in time");
    assert!(matches!(&actions[..], [Action::Cancelled(record)] if record.outcome == DrainOutcome::Cancelled));
    assert_eq!(world.look(), []);
    assert!(world.drain.cancel(Mono(world.now), world.wall()).is_err(), "twice");
}

#[test]
fn cleanup_cannot_be_cancelled() {
    let mut world = World::new(Settings::default());
    // A server that says nothing keeps each phase to its deadline.
    world.server_up = false;
    while world.drain.phase() != Phase::Cleanup {
        world.look();
    }
    assert_eq!(world.drain.cancel(Mono(world.now), world.wall()), Err(Phase::Cleanup));
    world.run();
}

#[test]
fn an_agent_killed_in_any_phase_goes_on_and_ends_as_it_would_have() {
    for look in 0..40 {
        let mut world = World::new(Settings { viewer_window: Duration::from_secs(4), ..Settings::default() })
            .with_worker("cam1", Conduct::Moves { after: 4 });
        world.pollers.insert("lb-1".into(), 3);
        world.viewers = viewers(2);
        for _ in 0..look {
            world.look();
            if world.log.iter().any(|action| matches!(action, Action::Ended(_))) {
                return;
            }
        }
        world.restart_agent(Duration::from_millis(700));
        let record = world.run();
        assert_eq!(record.legs[0].how, LegEnd::Moved(NodeId::new("dist-2").ok()), "killed at look {look}");
        assert_eq!(
            record.phases.iter().map(|phase| phase.phase).collect::<Vec<_>>(),
            Phase::ALL,
            "killed at look {look}"
        );
    }
}

#[test]
fn whoever_is_left_at_the_deadline_is_disconnected_at_the_pace_and_nobody_is_left_over() {
    let mut world = World::new(Settings { disconnects_per_second: 5.0, ..Settings::default() });
    world.readers = viewers(10);
    for _ in 0..50 {
        world = world.with_worker("cam1", Conduct::Stays);
    }
    let record = world.run();
    let third = &record.phases[2];
    assert!(!third.timed_out, "12 s are needed at that pace, and given: {third:?}");
    assert!(record.legs.iter().all(|leg| leg.how == LegEnd::Disconnected));
}

#[test]
fn a_pace_below_one_in_a_second_is_kept() {
    let settings = Settings { disconnects_per_second: 0.5, worker_deadline: Duration::ZERO, ..Settings::default() };
    let mut world = World::new(settings);
    world.readers = viewers(4);
    let mut cuts = Vec::new();
    while cuts.len() < 4 {
        let disconnects = world.look().iter().filter(|action| matches!(action, Action::Disconnect { .. })).count();
        cuts.extend(vec![world.now; disconnects]);
    }
    assert!(cuts.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_secs(2)), "{cuts:?}");
}

#[test]
fn a_worker_that_cannot_move_is_named_gets_no_more_orders_and_holds_up_nobody() {
    let mut world = World::new(Settings::default())
        .with_worker("cam1", Conduct::Stays)
        .with_worker("cam1", Conduct::Moves { after: 1 });
    // Room for one leg at a time.
    world.candidates = vec![candidate("dist-2", Some(1), &["cam1"])];
    let ordered = |actions: &[Action]| actions.iter().any(|action| matches!(action, Action::Move(_)));
    while !ordered(&world.look()) {}
    let leg = world.workers[0].leg.clone();
    world.drain.worker_reported(mtxfleet_wire::WorkerReport::Failed {
        drain: world.drain.id().clone(),
        worker: leg.worker,
        leg: leg.leg,
        why: "no free decoder".into(),
    });
    assert!(ordered(&world.look()), "the next one's turn");
    let waiting_for = world.drain.view(Mono(world.now)).waiting_for;
    assert!(waiting_for.contains(&"worker-0 on cam1 cannot move: no free decoder".to_owned()), "{waiting_for:?}");
    world.restart_agent(Duration::from_secs(1));
    let record = world.run();
    let orders = world.log.iter().filter_map(|action| if let Action::Move(legs) = action { Some(legs) } else { None });
    assert_eq!(orders.flatten().filter(|notice| notice.leg.as_str() == "leg-0").count(), 1);
    assert_eq!(record.legs[0].how, LegEnd::Disconnected);
}

#[test]
fn an_agent_killed_before_it_told_a_worker_tells_it_after_its_restart() {
    let mut world = World::new(Settings::default()).with_worker("cam1", Conduct::Silent);
    let told = |actions: &[Action]| actions.iter().any(|action| matches!(action, Action::Notify(_)));
    assert!(told(&world.look()));
    assert!(!told(&world.look()), "once is enough while the agent lives");
    world.restart_agent(Duration::from_secs(1));
    assert!(told(&world.look()));
}

#[test]
fn what_only_passes_is_no_reason_to_write_to_disk() {
    let mut world = World::new(Settings::default());
    world.viewers = viewers(3);
    while world.drain.phase() != Phase::ViewerDraining {
        world.look();
    }
    world.look();
    let before = world.drain.lasting();
    world.look();
    assert_ne!(world.drain.view(Mono(world.now)).waiting_for, Vec::<String>::new());
    assert_eq!(world.drain.lasting(), before);
}

#[test]
fn a_server_that_does_not_answer_is_not_taken_for_quiet() {
    let mut world = World::new(Settings::default());
    while world.drain.phase() == Phase::PreNotification {
        world.look();
    }
    world.server_up = false;
    let record = world.run();
    assert!(record.phases[1].timed_out, "{:?}", record.phases[1]);
    assert_eq!(record.phases[1].waiting_for, ["MediaMTX has not said yet who is connected"]);
}

#[test]
fn clients_that_connect_anew_all_the_time_do_not_fill_memory_or_disk() {
    let settings = Settings { worker_deadline: Duration::from_secs(3_600), ..Settings::default() };
    let mut world = World::new(settings).with_worker("cam1", Conduct::Stays);
    let looks = 3_000;
    for n in 0..looks {
        // One leg that stays, one with a new id at each look, and a reader and a viewer likewise.
        world.workers.truncate(1);
        world.workers.push(super::world::Worker {
            leg: leg(n + 1, "cam1"),
            conduct: Conduct::Silent,
            ordered_for: None,
        });
        world.readers = vec![Reader { session: format!("reader-{n}"), stream: "cam1".into() }];
        world.viewers = vec![Reader { session: format!("viewer-{n}"), stream: "cam1".into() }];
        world.look();
    }
    // Readers are disconnected once the legs are gone.
    world.workers.clear();
    for n in looks..looks + 500 {
        world.readers = vec![Reader { session: format!("reader-{n}"), stream: "cam1".into() }];
        world.look();
    }
    let saved = serde_json::to_string(&world.drain.lasting()).expect("a drain is JSON").len();
    assert!(saved < 1_000_000, "{saved} bytes");
    assert!(
        !world.drain.disconnecting.is_empty() && world.drain.disconnecting.len() < 50,
        "{} sessions",
        world.drain.disconnecting.len()
    );
    let record = world.drain.record(world.wall(), mtxfleet_wire::DrainOutcome::Completed);
    assert_eq!(record.legs.len() + record.legs_more as usize, looks + 1, "all are counted");
    assert!(record.legs.iter().any(|leg| leg.worker.as_str() == "worker-0"), "who answered is named");
    assert_eq!(record.viewers_left as usize, looks - 1);
}

#[test]
fn sessions_that_do_not_end_do_not_take_the_turn_of_the_others() {
    let settings = Settings { disconnects_per_second: 2.0, ..Settings::default() };
    let mut world = World::new(settings);
    // These stay whatever they are told; the last one goes.
    let stuck: Vec<Reader> = (0..10).map(|n| Reader { session: format!("stuck-{n}"), stream: "cam1".into() }).collect();
    let last = Reader { session: "last".into(), stream: "cam1".into() };
    let asked = |world: &World| {
        world.log.iter().any(|action| matches!(action, Action::Disconnect { session } if session == "last"))
    };
    while !asked(&world) {
        world.readers = stuck.iter().cloned().chain([last.clone()]).collect();
        world.look();
        assert!(world.now < Duration::from_secs(25), "never asked");
    }
}
