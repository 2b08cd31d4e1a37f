//! Cameras that change hands while their node stays in service.

use std::time::Duration;

use mtxfleet_wire::CameraSource::Pulled;
use mtxfleet_wire::{HandOverRecord, MoveReason};
use proptest::prelude::*;

use super::cameras::{NODES, OWNER, World, id, patience};
use crate::{Action, Settings};

fn settings() -> Settings {
    Settings { camera_deadline: Duration::from_secs(60), ..Settings::default() }
}

/// Until nothing is on its way any more.
fn run(world: &mut World) -> HandOverRecord {
    let mut begun = false;
    while world.now < Duration::from_secs(400) {
        world.look();
        let hand_over = world.hand_over.as_ref().expect("one");
        begun |= !hand_over.is_over();
        if begun && hand_over.is_over() {
            return hand_over.record(world.wall());
        }
    }
    panic!("it did not end: {:#?}", world.hand_over.as_ref().expect("one").report());
}

#[test]
fn workers_bridge_the_change_and_come_back_and_cameras_that_stay_are_not_touched() {
    let mut world = World::handing_over(settings())
        .camera("cam1", Pulled, Some(5))
        .camera("cam2", Pulled, None)
        .worker("cam1", Some("dist-1"), Some(3))
        .worker("cam1", Some("dist-2"), Some(9))
        .worker("cam2", Some("dist-1"), Some(0));
    let record = run(&mut world);
    assert_eq!(world.cut, Vec::<String>::new());
    assert_eq!(world.reasons(), [[MoveReason::OwnerChanges; 2], [MoveReason::OwnerChanged; 2]].concat());
    let at: Vec<_> = world.workers.iter().map(|worker| worker.at).collect();
    assert_eq!(at, [Some("dist-1"), Some("dist-2"), Some("dist-1")], "each is back where it was");
    assert_eq!(record.moved, [(id("cam1"), id(OWNER))].into());
    assert_eq!((record.workers, record.cut.len(), record.kept.len()), (2, 0, 0));
    assert!(world.cameras["cam2"].here && !world.cameras["cam1"].here);
}

#[test]
fn a_worker_that_stays_is_cut_at_the_deadline_and_named_and_holds_up_no_other_camera() {
    let mut world = World::handing_over(settings())
        .camera("cam1", Pulled, Some(0))
        .camera("cam2", Pulled, Some(0))
        .worker("cam1", Some("dist-1"), None)
        .worker("cam2", Some("dist-1"), Some(2));
    while world.cameras["cam2"].here {
        world.look();
        assert!(world.now < Duration::from_secs(20), "it waits for cam1");
    }
    let record = run(&mut world);
    assert_eq!(world.cut, ["w0"]);
    assert_eq!(record.cut, [id("w0")].into());
    assert_eq!(record.moved.len(), 2, "it goes all the same: {record:?}");
}

#[test]
fn each_camera_has_its_own_deadline_however_often_others_come() {
    let mut world =
        World::handing_over(settings()).camera("cam0", Pulled, Some(0)).worker("cam0", Some("dist-1"), None);
    // Another comes every 20 s, and goes at once.
    for n in 1..10_u32 {
        world = world.camera(&format!("cam{n}"), Pulled, Some(n * 100));
    }
    let deadline = world.wall().0 + settings().camera_deadline.as_millis() as u64;
    while world.cameras["cam0"].here {
        world.look();
        if world.now > Duration::from_secs(1) && world.cameras["cam0"].here {
            let told = world.hand_over.as_ref().expect("one").deadline().0;
            assert!(told.abs_diff(deadline) <= 400, "it was put off by {} ms", told.abs_diff(deadline));
        }
        assert!(world.now < settings().camera_deadline + Duration::from_secs(10), "it is still here");
    }
    assert_eq!(world.cut, ["w0"]);
}

#[test]
fn nobody_is_cut_for_a_camera_whose_next_owner_fails_and_it_stays() {
    let mut world = World::handing_over(settings())
        .camera("cam1", Pulled, Some(0))
        .worker("cam1", Some("dist-1"), None)
        .worker("cam1", None, None);
    world.look();
    let camera = world.cameras.get_mut("cam1").expect("there");
    (camera.elsewhere_after, camera.elsewhere_since) = (None, None);
    let record = run(&mut world);
    assert_eq!(world.cut, Vec::<String>::new());
    assert_eq!((record.kept, record.moved.len()), (vec![id("cam1")], 0));
    assert!(world.cameras["cam1"].here);
}

#[test]
fn a_camera_that_is_placed_here_again_stays_with_its_readers() {
    let mut world =
        World::handing_over(settings()).camera("cam1", Pulled, Some(0)).worker("cam1", Some("dist-1"), None);
    world.look();
    let hand_over = world.hand_over.as_mut().expect("one");
    assert!(!hand_over.is_over() && !hand_over.may_let_go(&id("cam1")));
    hand_over.call_off(|stream| stream.as_str() == "cam1");
    assert!(hand_over.is_over());
    assert_eq!((hand_over.report().moving.len(), world.cut.len()), (0, 0));
}

#[test]
fn no_more_workers_are_under_way_at_once_than_the_next_owners_spare_bandwidth_carries() {
    let mut world = World::handing_over(settings());
    // Half of it is for the move: two legs of 2 Mbit/s.
    world.spare = 8_000_000;
    for n in 0..6 {
        let stream = format!("cam{n}");
        world = world.camera(&stream, Pulled, Some(0)).worker(&stream, Some(NODES[n % 3]), Some(4));
    }
    let mut most = 0;
    while world.workers.iter().any(|worker| worker.at != Some(OWNER)) && world.now < Duration::from_secs(30) {
        world.look();
        let to_owner = |ordered: &(u32, mtxfleet_wire::LegNotice)| ordered.1.reason == MoveReason::OwnerChanges;
        most = most.max(world.workers.iter().filter(|w| w.ordered.as_ref().is_some_and(to_owner)).count());
        if world.cameras.values().all(|camera| !camera.here) {
            break;
        }
    }
    run_out(&mut world);
    assert_eq!((most, world.cut.len()), (2, 0));
}

fn run_out(world: &mut World) {
    while !world.hand_over.as_ref().is_some_and(crate::HandOver::is_over) {
        world.look();
        assert!(world.now < Duration::from_secs(100));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens: no worker that obeys is cut within the deadline, no camera goes that nobody else delivers, and it
    /// ends in bounded time.
    #[test]
    fn no_worker_that_obeys_loses_its_stream(
        cameras in prop::collection::vec(patience(), 1..5),
        workers in prop::collection::vec((0..5usize, 0..4usize, patience()), 0..8),
        lag in 0..6usize,
    ) {
        let mut world = World::handing_over(settings());
        world.lag = lag;
        for (n, after) in cameras.iter().enumerate() {
            world = world.camera(&format!("cam{n}"), Pulled, *after);
        }
        for (camera, node, obeys) in workers {
            let stream = format!("cam{}", camera % cameras.len());
            world = world.worker(&stream, NODES.get(node).copied(), obeys);
        }
        for _ in 0..600 {
            let actions = world.look();
            let ends = actions.iter().any(|action| matches!(action, Action::Ended(_) | Action::LeaveBalancers));
            prop_assert!(!ends, "the node stays in service: {actions:?}");
            if world.now < settings().camera_deadline / 2 {
                for name in &world.cut {
                    let worker = world.workers.iter().find(|worker| worker.name == *name).expect("known");
                    prop_assert!(worker.obeys_after.is_none(), "{name} was cut");
                }
            }
        }
        prop_assert!(world.hand_over.as_ref().is_some_and(crate::HandOver::is_over), "after {:?}", world.now);
        for (n, after) in cameras.iter().enumerate() {
            prop_assert_eq!(world.cameras[&format!("cam{n}")].here, after.is_none());
        }
    }
}
