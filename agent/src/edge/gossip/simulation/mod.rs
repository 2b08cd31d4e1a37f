//! The detector on virtual time, over seeded schedules of crashes, stops, splits, loss and starvation, with its invariants
//! judged ten times a second.
//!
//! `MTXFLEET_DETECTOR_NODE_SECONDS=10000000 cargo test --release -p mtxfleet --lib simulation -- --nocapture` runs long;
//! `MTXFLEET_DETECTOR_SEED=...` runs one schedule again, and shows what happened in it.

mod invariants;
mod process;
mod random;
mod schedule;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use invariants::{Broken, Invariant};
use schedule::{SECOND, Weather};
use world::{Defect, Seen, World};

/// Run by each `make test`.
const NODE_SECONDS: u64 = 8_000;
/// A defect must be found within so many schedules.
const TRIES: u64 = 50;

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} has to be a number and is {text:?}")))
}

/// Runs schedules on all cores until so many node-seconds have passed, or one breaks something. What was seen, by
/// weather, and the first seed that broke.
fn run(node_seconds: u64, defect: Option<Defect>) -> ([Seen; 3], u64, Option<(u64, Broken)>) {
    let (next, passed, found) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let seen = Mutex::new(<[Seen; 3]>::default());
    let work = || {
        let mut worst: Option<(u64, Broken)> = None;
        while passed.load(Ordering::Relaxed) < node_seconds * SECOND && found.load(Ordering::Relaxed) == u64::MAX {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let mut world = World::new(seed, defect, false);
            let judged = world.run();
            passed.fetch_add(world.seen.node_micros.max(SECOND), Ordering::Relaxed);
            if let Err(broken) = judged {
                found.fetch_min(seed, Ordering::Relaxed);
                worst = Some((seed, broken));
            }
            seen.lock().expect("no panic in a schedule")[world.schedule.weather as usize].add(world.seen);
        }
        worst
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let broken = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let found = threads.into_iter().filter_map(|thread| thread.join().expect("no panic in a schedule"));
        found.min_by_key(|(seed, _)| *seed)
    });
    (seen.into_inner().expect("no panic in a schedule"), next.into_inner(), broken)
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.node_micros += other.node_micros;
        self.suspicions += other.suspicions;
        self.crashes += other.crashes;
        self.suspected_after.extend(other.suspected_after);
        self.dead_after.extend(other.dead_after);
    }
}

/// Median, 99th percentile and longest, in seconds.
fn spread(times: &mut [u64]) -> String {
    times.sort_unstable();
    let at = |share: f64| {
        let rank = (times.len() as f64 * share).ceil() as usize;
        times.get(rank.saturating_sub(1)).map_or(f64::NAN, |time| *time as f64 / SECOND as f64)
    };
    format!("{:.1} / {:.1} / {:.1} s", at(0.5), at(0.99), at(1.0))
}

#[test]
fn whatever_fails_silence_is_noticed_by_all_and_nobody_dies_alive() {
    if let Some(seed) = variable("MTXFLEET_DETECTOR_SEED") {
        let mut world = World::new(seed, None, true);
        let judged = world.run();
        for line in world.log.iter().flatten() {
            println!("{line}");
        }
        println!("{:?}", world.schedule);
        panic!("schedule {seed}: {judged:?}");
    }
    let wanted = variable("MTXFLEET_DETECTOR_NODE_SECONDS").unwrap_or(NODE_SECONDS);
    let (mut seen, schedules, broken) = run(wanted, None);
    if let Some((seed, broken)) = broken {
        panic!("schedule {seed} breaks {broken:?}\nsee it with MTXFLEET_DETECTOR_SEED={seed}");
    }
    println!("seeds 0 to {}: every invariant held", schedules - 1);
    for (weather, seen) in [Weather::Calm, Weather::Lossy, Weather::Starved].into_iter().zip(&mut seen) {
        println!(
            "{weather:?}: {} node-seconds, {} crashes, {} times somebody that lives was suspected by one; a crash alone \
             was suspected by all after (p50 / p99 / max) {}, dead to all after {}",
            seen.node_micros / SECOND,
            seen.crashes,
            seen.suspicions,
            spread(&mut seen.suspected_after),
            spread(&mut seen.dead_after),
        );
    }
}

#[test]
fn each_defect_is_found_by_its_invariant() {
    let expected = [
        (Defect::OneIsBlind, &[Invariant::SilenceIsSuspectedByAll][..]),
        (Defect::ReportsAreLost, &[Invariant::SilenceIsConfirmedByAll]),
        (Defect::TheStoppedStayMute, &[Invariant::LifeIsSeenByAll, Invariant::NobodyDiesAlive]),
    ];
    for (defect, invariants) in expected {
        let (_, _, broken) = run(TRIES * 1_000, Some(defect));
        let (seed, broken) = broken.unwrap_or_else(|| panic!("{defect:?} is not found"));
        println!("{defect:?}: schedule {seed} breaks {broken:?}");
        assert!(invariants.contains(&broken.invariant), "{defect:?}: {broken:?}");
    }
}
