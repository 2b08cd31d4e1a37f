//! What must hold whatever comes, in whatever order.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use mtxfleet_wire::{Candidate, EventId, MoveOrder, SCHEMA, UnixMillis};
use proptest::prelude::*;

use super::*;

/// Something that happens; the leg is the one being brought up, unless it says otherwise.
#[derive(Debug, Clone)]
enum Happening {
    /// An order for the leg that delivers, with so many candidates.
    Order(u8),
    /// An order for the leg that is being brought up.
    OrderAhead,
    CancelLast,
    Opened,
    Refused,
    Packets,
    Covered,
    Ended,
    CurrentEnded,
    /// So many milliseconds pass.
    Time(u16),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        1 => (0..4_u8).prop_map(Happening::Order),
        1 => Just(Happening::OrderAhead),
        1 => Just(Happening::CancelLast),
        3 => Just(Happening::Opened),
        1 => Just(Happening::Refused),
        3 => Just(Happening::Packets),
        2 => Just(Happening::Covered),
        1 => Just(Happening::Ended),
        1 => Just(Happening::CurrentEnded),
        3 => (0..15_000_u16).prop_map(Happening::Time),
    ]
}

/// The machine and what its session would know.
struct World {
    machine: Handover,
    now: Duration,
    /// Opened and neither closed nor ended.
    alive: BTreeSet<LegId>,
    ever: BTreeSet<LegId>,
    /// Moves begun, and what was said of them.
    begun: u32,
    done: u32,
    drains: u32,
}

impl World {
    fn new() -> Self {
        let last = AtomicU64::new(0);
        let new_id = Box::new(move || id(&format!("leg-{}", last.fetch_add(1, Ordering::Relaxed))));
        let limits =
            Limits { via: Via::Direct, leg_timeout: Duration::from_secs(10), cover_timeout: Duration::from_secs(20) };
        let machine = Handover::new(Duration::ZERO, limits, new_id);
        let (alive, ever) = (BTreeSet::new(), BTreeSet::new());
        let mut world = Self { machine, now: Duration::ZERO, alive, ever, begun: 0, done: 0, drains: 0 };
        world.settle(None);
        world
    }

    fn attempt(&self) -> Option<LegId> {
        self.machine
            .attempt
            .as_ref()
            .filter(|attempt| attempt.stage != Stage::Waiting)
            .map(|attempt| attempt.leg.clone())
    }

    fn happens(&mut self, what: &Happening) {
        let (current, attempt) = (self.machine.current.clone(), self.attempt());
        let delivering = current.clone();
        let covered = matches!(what, Happening::Covered).then(|| attempt.clone()).flatten();
        match (what, current, attempt) {
            (Happening::Order(candidates), Some(leg), _) => self.order(&leg, *candidates),
            (Happening::OrderAhead, _, Some(leg)) => self.order(&leg, 1),
            (Happening::CancelLast, _, _) => {
                let drain = id(&format!("d{}", self.drains));
                self.event(EventKind::DrainCancelled { drain, why: String::new() });
            }
            (Happening::Opened, _, Some(leg)) => self.machine.apply(self.now, Input::Opened(&leg)),
            (Happening::Refused, _, Some(leg)) => self.machine.apply(self.now, Input::Refused(&leg, "no".into())),
            (Happening::Packets, _, Some(leg)) => self.machine.apply(self.now, Input::Packets(&leg)),
            (Happening::Covered, _, Some(leg)) => self.machine.apply(self.now, Input::Covered(&leg)),
            (Happening::Ended, _, Some(leg)) => {
                self.alive.remove(&leg);
                self.machine.apply(self.now, Input::Ended(&leg, "gone".into()));
            }
            (Happening::CurrentEnded, Some(leg), _) => {
                self.alive.remove(&leg);
                self.machine.apply(self.now, Input::Ended(&leg, "gone".into()));
            }
            (Happening::Time(ms), _, _) => {
                self.now += Duration::from_millis(u64::from(*ms));
                self.machine.apply(self.now, Input::Tick);
            }
            _ => return,
        }
        self.settle(delivering.filter(|_| covered.is_none()));
    }

    fn order(&mut self, leg: &LegId, candidates: u8) {
        self.drains += 1;
        let candidate = |n| Candidate { node: id(&format!("n{n}")), rtsp: "x:1".into(), warm: n % 2 == 0 };
        let candidates = (0..candidates).map(candidate).collect();
        let legs = vec![LegNotice {
            leg: leg.clone(),
            worker: id("w"),
            stream: id("cam1"),
            candidates,
            reason: MoveReason::NodeLeaves,
        }];
        let drain = id(&format!("d{}", self.drains));
        self.event(EventKind::DrainMove(MoveOrder { drain, node: id("a"), legs }));
    }

    fn event(&mut self, what: EventKind) {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let id = EventId::new(format!("e{}", LAST.fetch_add(1, Ordering::Relaxed))).expect("valid");
        let event = FleetEvent { schema: SCHEMA, id, at: UnixMillis(0), node: self::id("a"), what };
        self.machine.apply(self.now, Input::Event(&event));
    }

    /// Carries the actions out; `keep` delivers, and nothing said that it may be closed.
    fn settle(&mut self, keep: Option<LegId>) {
        for action in self.machine.actions() {
            match action {
                Action::Open { leg, .. } => {
                    assert!(self.ever.insert(leg.clone()), "{leg} is used again");
                    self.alive.insert(leg);
                    let attempt = self.machine.attempt.as_ref();
                    self.begun += u32::from(attempt.is_some_and(|a| a.order.is_some() && a.errors.is_empty()));
                }
                Action::Close { leg } => {
                    assert_ne!(Some(&leg), keep.as_ref(), "the leg that delivers was closed");
                    self.alive.remove(&leg);
                }
                Action::Moved { .. } | Action::Failed { .. } => self.done += 1,
                Action::Acknowledge { .. } | Action::Returned { .. } => {}
            }
        }
        let (current, attempt) = (self.machine.current.clone(), self.attempt());
        assert!(self.machine.current.is_some() || self.machine.attempt.is_some(), "nothing delivers, nothing is tried");
        let wanted: BTreeSet<LegId> = current.into_iter().chain(attempt).collect();
        assert!(self.alive.is_subset(&wanted), "{:?} are open, {wanted:?} wanted", self.alive);
        assert!(self.machine.orders.len() <= self.drains as usize);
    }
}

fn id<T: std::str::FromStr>(text: &str) -> T {
    text.parse().ok().expect("valid")
}

proptest! {
    #[test]
    fn nothing_leaks_the_delivering_leg_stays_and_in_the_end_it_is_live(
        happenings in prop::collection::vec(happening(), 0..80)
    ) {
        let mut world = World::new();
        for what in &happenings {
            world.happens(what);
        }
        // From now on all goes well.
        for _ in 0..200 {
            world.happens(&Happening::Time(1000));
            world.happens(&Happening::Opened);
            world.happens(&Happening::Packets);
            world.happens(&Happening::Covered);
        }
        prop_assert_eq!(world.machine.state(), State::Live);
        prop_assert_eq!(world.alive.len(), 1);
        prop_assert_eq!(world.begun, world.done, "each move that was begun is reported once");
    }
}
