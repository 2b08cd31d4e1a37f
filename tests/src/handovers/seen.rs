//! What a worker saw, held against what its camera sent. Pure.

use std::collections::{BTreeMap, HashSet};
use std::ops::AddAssign as _;
use std::time::{Duration, Instant};

use crate::compare::Arrival;

/// Frames as they were handed to an application.
#[derive(Debug, Default)]
pub struct Seen {
    /// Counters of pictures, `None` for a damaged one, and when they came.
    pub pictures: Vec<(Option<u64>, Instant)>,
    /// Counters of what other tracks brought.
    pub others: BTreeMap<usize, Vec<Option<u64>>>,
    /// Discontinuities that were told.
    pub gaps: u64,
}

/// Totals over workers and tracks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub frames: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub out_of_order: u64,
    pub damaged: u64,
    /// Discontinuities told.
    pub gaps: u64,
    pub handovers: u64,
    pub unproven: u64,
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        let Self { frames, lost, duplicated, out_of_order, damaged, gaps, handovers, unproven } = other;
        self.frames.add_assign(frames);
        self.lost.add_assign(lost);
        self.duplicated.add_assign(duplicated);
        self.out_of_order.add_assign(out_of_order);
        self.damaged.add_assign(damaged);
        self.gaps.add_assign(gaps);
        self.handovers.add_assign(handovers);
        self.unproven.add_assign(unproven);
    }

    /// Every frame once, in order, whole, and nothing told that is not so.
    #[must_use]
    pub const fn is_perfect(&self) -> bool {
        self.lost == 0
            && self.duplicated == 0
            && self.out_of_order == 0
            && self.damaged == 0
            && self.gaps == 0
            && self.unproven == 0
            && self.frames > 0
    }
}

/// One handover.
#[derive(Debug, Clone, Copy)]
pub struct Move {
    pub ordered: Instant,
    /// Its report has come.
    pub ended: Instant,
    /// How far the new leg lies behind the old one; zero when it is ahead.
    pub skew: Duration,
    /// The longest time between two pictures at the worker, less the time that the camera took between the same two.
    pub pause: Duration,
    /// What the worker library says the pause was.
    pub reported: Duration,
}

impl Seen {
    #[must_use]
    pub fn tally(&self) -> Tally {
        let pictures: Vec<Option<u64>> = self.pictures.iter().map(|(counter, _)| *counter).collect();
        let mut tally = Tally { gaps: self.gaps, ..Tally::default() };
        tally.add(held_against_counting(&pictures));
        self.others.values().for_each(|counters| tally.add(held_against_counting(counters)));
        tally
    }

    /// Of a move, against when the camera `sent` each picture.
    #[must_use]
    pub fn pause(&self, moved: &Move, sent: &[Arrival]) -> Duration {
        let sent_at = |counter: Option<u64>| sent.get(usize::try_from(counter?).ok()?).map(|picture| picture.at);
        let within = |at: Instant| at >= moved.ordered && at <= moved.ended;
        let extra = self.pictures.windows(2).filter(|pair| within(pair[1].1)).filter_map(|pair| {
            let here = pair[1].1.saturating_duration_since(pair[0].1);
            let there = sent_at(pair[1].0)?.saturating_duration_since(sent_at(pair[0].0)?);
            Some(here.saturating_sub(there))
        });
        extra.max().unwrap_or_default()
    }
}

/// Counters that should go up by one each time, from wherever they begin.
fn held_against_counting(counters: &[Option<u64>]) -> Tally {
    let mut tally = Tally { frames: counters.len() as u64, ..Tally::default() };
    let mut came = HashSet::new();
    let mut furthest = None;
    for counter in counters {
        let Some(counter) = *counter else {
            tally.damaged += 1;
            continue;
        };
        if !came.insert(counter) {
            tally.duplicated += 1;
        } else if furthest.is_some_and(|furthest| counter < furthest) {
            tally.out_of_order += 1;
        }
        furthest = furthest.max(Some(counter));
    }
    if let (Some(first), Some(last)) = (came.iter().min(), furthest) {
        tally.lost = last - first + 1 - came.len() as u64;
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_twice_late_or_damaged_is_counted() {
        let tally = held_against_counting(&[Some(4), Some(5), Some(8), Some(7), Some(7), None, Some(9)]);
        let expected = Tally { frames: 7, lost: 1, duplicated: 1, out_of_order: 1, damaged: 1, ..Tally::default() };
        assert_eq!(tally, expected);
        assert!(!tally.is_perfect());
        assert_eq!(held_against_counting(&[]), Tally::default());
    }

    #[test]
    fn a_pause_is_what_the_camera_did_not_make_itself() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let sent: Vec<Arrival> = [0, 40, 140, 180].map(|ms| Arrival { hash: 0, at: at(ms) }).to_vec();
        let seen = Seen {
            pictures: [(0, 5), (1, 45), (2, 145), (3, 400)].map(|(n, ms)| (Some(n), at(ms))).to_vec(),
            ..Seen::default()
        };
        let none = Duration::ZERO;
        let mut moved = Move { ordered: at(20), ended: at(300), skew: none, pause: none, reported: none };
        assert_eq!(seen.pause(&moved, &sent), Duration::ZERO);
        moved.ended = at(500);
        assert_eq!(seen.pause(&moved, &sent), Duration::from_millis(215));
    }
}
