use std::collections::BTreeSet;
use std::time::Duration;

use mtxfleet_wire::{LegEnd, LegId, Mono, Phase};
use proptest::prelude::*;

use super::world::{Conduct, World, candidate};
use crate::{Action, Reader, Settings};

fn conduct() -> impl Strategy<Value = Conduct> {
    prop_oneof![
        6 => (0..30u32).prop_map(|after| Conduct::Moves { after }),
        1 => Just(Conduct::Stays),
        1 => Just(Conduct::Silent),
    ]
}

/// What happens to the surroundings at one look.
#[derive(Debug, Clone)]
enum Fate {
    Nothing,
    AgentKilled(u64),
    ServerAway(bool),
    WorkerJoins(u8, Conduct),
    ViewerLeaves,
    CandidateGoes,
    CandidateComes,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        12 => Just(Fate::Nothing),
        1 => (0..5000u64).prop_map(Fate::AgentKilled),
        1 => any::<bool>().prop_map(Fate::ServerAway),
        1 => (0..4u8, conduct()).prop_map(|(stream, conduct)| Fate::WorkerJoins(stream, conduct)),
        1 => Just(Fate::ViewerLeaves),
        1 => Just(Fate::CandidateGoes),
        1 => Just(Fate::CandidateComes),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens: the drain ends in bounded time, phases come once and in order, every leg is told before it is
    /// ordered to move, none is disconnected before the workers' deadline, and the record names every leg.
    #[test]
    fn every_drain_ends_in_order_and_cuts_no_worker_early(
        workers in prop::collection::vec((0..4u8, conduct()), 0..12),
        viewers in 0..30usize,
        pollers in prop::collection::vec(0..8u32, 0..3),
        fates in prop::collection::vec(fate(), 0..150),
    ) {
        let settings = Settings::default();
        let mut world = World::new(settings.clone());
        for (stream, conduct) in workers {
            world = world.with_worker(&format!("cam{stream}"), conduct);
        }
        world.viewers = (0..viewers).map(|n| Reader { session: format!("viewer-{n}"), stream: "cam1".into() }).collect();
        for (n, every) in pollers.into_iter().enumerate() {
            world.pollers.insert(format!("lb-{n}"), every);
        }
        let mut fates = fates.into_iter();
        let mut told: BTreeSet<LegId> = BTreeSet::new();
        let mut phase_three_at = None;
        let mut sessions_of_legs: BTreeSet<String> = BTreeSet::new();
        let mut away = Duration::ZERO;
        let record = loop {
            match fates.next().unwrap_or(Fate::ServerAway(false)) {
                Fate::Nothing => {}
                Fate::AgentKilled(ms) => {
                    away += Duration::from_millis(ms);
                    world.restart_agent(Duration::from_millis(ms));
                }
                Fate::ServerAway(is_away) => world.server_up = !is_away,
                Fate::WorkerJoins(stream, conduct) if world.drain.phase() < Phase::ViewerDraining => {
                    let n = 100 + world.looks as usize;
                    let leg = super::world::leg(n, &format!("cam{stream}"));
                    world.workers.push(super::world::Worker { leg, conduct, ordered_for: None });
                }
                Fate::WorkerJoins(..) => {}
                Fate::ViewerLeaves => { world.viewers.pop(); }
                Fate::CandidateGoes => { world.candidates.pop(); }
                Fate::CandidateComes => {
                    let name = format!("dist-{}", 2 + world.candidates.len());
                    world.candidates.push(candidate(&name, Some(50_000_000), &["cam1", "cam2"]));
                }
            }
            sessions_of_legs.extend(world.workers.iter().map(|worker| worker.leg.session.clone()));
            let mut ended = None;
            for action in world.look() {
                match action {
                    Action::Notify(legs) => told.extend(legs.into_iter().map(|leg| leg.leg)),
                    Action::Move(legs) => for leg in legs {
                        prop_assert!(told.contains(&leg.leg), "{:?} was ordered to move untold", leg.leg);
                        prop_assert!(!leg.candidates.is_empty());
                    },
                    Action::PhaseEntered(Phase::WorkerMigration) => phase_three_at = Some(world.now),
                    Action::Disconnect { session } if sessions_of_legs.contains(&session) => {
                        // A restart may count half of the deadline as spent.
                        let since = world.now.saturating_sub(phase_three_at.expect("phase three"));
                        prop_assert!(since + Duration::from_secs(1) >= settings.worker_deadline / 2, "cut after {since:?}");
                    }
                    Action::Ended(record) => ended = Some(record),
                    _ => {}
                }
            }
            if let Some(record) = ended {
                break record;
            }
            let longest = settings.total(false) + Duration::from_secs(60) + away;
            prop_assert!(world.now < longest * 4, "not over after {:?}: {:?}", world.now, world.drain.view(Mono(world.now)));
        };
        let phases: Vec<Phase> = record.phases.iter().map(|phase| phase.phase).collect();
        prop_assert_eq!(phases, Phase::ALL);
        prop_assert_eq!(record.legs.len(), told.len());
        let server_hid_them = record.phases[4].timed_out;
        for leg in &record.legs {
            prop_assert!(server_hid_them || leg.how != LegEnd::Here, "{leg:?} is still here: {record:?}");
        }
    }
}
