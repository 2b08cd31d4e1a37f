//! The election on virtual time, over seeded schedules of faults, with its invariants judged after every step.
//!
//! `MTXFLEET_ELECTION_SCHEDULES=100000 cargo test --release -p mtxfleet-leader --test election -- --nocapture` runs many;
//! `MTXFLEET_ELECTION_FIRST=...` takes others than 0 and up; `MTXFLEET_ELECTION_SEED=...` runs one again, and shows what
//! happened in it.

mod invariants;
mod random;
mod redis;
mod world;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use invariants::{Broken, Invariant};
use world::{Defect, World};

/// Run by each `make test`.
const SCHEDULES: u64 = 3_000;
/// A defect must be found within so many schedules.
const TRIES: u64 = 3_000;

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} has to be a number and is {text:?}")))
}

/// The first of these schedules that breaks something, on all cores.
fn first_broken(seeds: Range<u64>, defect: Option<Defect>) -> Option<(u64, Broken)> {
    let (next, found) = (AtomicU64::new(seeds.start), AtomicU64::new(u64::MAX));
    let work = || {
        let mut worst: Option<(u64, Broken)> = None;
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || seed > found.load(Ordering::Relaxed) {
                return worst;
            }
            if let Err(broken) = World::new(seed, defect, false).run() {
                found.fetch_min(seed, Ordering::Relaxed);
                if worst.as_ref().is_none_or(|(known, _)| seed < *known) {
                    worst = Some((seed, broken));
                }
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let found = threads.into_iter().filter_map(|thread| thread.join().expect("no panic in a schedule"));
        found.min_by_key(|(seed, _)| *seed)
    })
}

#[test]
fn whatever_fails_nobody_acts_twice_and_somebody_acts_in_the_end() {
    if let Some(seed) = variable("MTXFLEET_ELECTION_SEED") {
        let mut world = World::new(seed, None, true);
        let judged = world.run();
        for line in world.log.iter().flatten() {
            println!("{line}");
        }
        panic!("schedule {seed}: {judged:?}");
    }
    let first = variable("MTXFLEET_ELECTION_FIRST").unwrap_or(0);
    let count = variable("MTXFLEET_ELECTION_SCHEDULES").unwrap_or(SCHEDULES);
    if let Some((seed, broken)) = first_broken(first..first + count, None) {
        panic!(
            "schedule {seed} breaks {:?}: {}\nsee it with MTXFLEET_ELECTION_SEED={seed}",
            broken.invariant, broken.what
        );
    }
    println!("{count} schedules, seeds {first} to {}: every invariant held", first + count - 1);
}

#[test]
fn each_defect_is_found_by_its_invariant() {
    let expected = [
        (
            Defect::ObeyAnyone,
            &[
                Invariant::EpochsNeverFallPerAgent,
                Invariant::NoOlderPlanCarriedOut,
                Invariant::NoOtherRunOfAnEpochAccepted,
                Invariant::TokenPersistedBeforeActed,
            ][..],
        ),
        (Defect::ActPastExpiry, &[Invariant::OneActingAtATime, Invariant::TokenPersistedBeforeActed]),
        (Defect::ActBeforeDisk, &[Invariant::TokenPersistedBeforeActed]),
        (Defect::ForgetTerms, &[Invariant::EpochsNeverFallPerAgent, Invariant::NoOlderPlanCarriedOut]),
        (Defect::PlanWithoutLease, &[Invariant::NoShrinkWithoutLease]),
        (Defect::GrowAlone, &[Invariant::GrowOnlyNeedsMajority]),
        (Defect::HideHistory, &[Invariant::OneActorPerEpochAndRole, Invariant::OneActingAtATime]),
        (Defect::GiveUp, &[Invariant::EventuallySomebodyActs]),
        (Defect::WaitForNobody, &[Invariant::OneActingAtATime]),
    ];
    for (defect, invariants) in expected {
        let (seed, broken) = first_broken(0..TRIES, Some(defect)).unwrap_or_else(|| panic!("{defect:?} is not found"));
        println!("{defect:?}: schedule {seed} breaks {:?}: {}", broken.invariant, broken.what);
        assert!(invariants.contains(&broken.invariant), "{defect:?}: {broken:?}");
    }
}
