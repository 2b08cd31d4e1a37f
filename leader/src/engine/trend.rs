//! What passed lately: the slope of a load, and the extremes of a wish over a window.

use std::collections::VecDeque;
use std::time::Duration;

use mtxfleet_wire::Mono;

/// Samples below which no line is drawn.
const FEWEST: usize = 5;

/// Samples kept at most, whatever the window and the pace: a bound of memory.
const MOST: usize = 4_096;

/// The least-squares line through a window of samples.
#[derive(Debug, Clone)]
pub struct Trend {
    window: Duration,
    samples: VecDeque<(Mono, f64)>,
}

impl Trend {
    #[must_use]
    pub fn new(window: Duration) -> Self {
        Self { window, samples: VecDeque::new() }
    }

    pub fn push(&mut self, now: Mono, value: f64) {
        while self.samples.front().is_some_and(|(at, _)| now.since(*at) > self.window) || self.samples.len() >= MOST {
            self.samples.pop_front();
        }
        self.samples.push_back((now, value));
    }

    pub fn clear(&mut self) {
        self.samples.clear();
    }

    /// Growth per second that stands out from `noise` standard errors of the slope; 0 when none does.
    #[must_use]
    pub fn growth(&self, noise: f64) -> f64 {
        let Some((first, _)) = self.samples.front() else { return 0.0 };
        if self.samples.len() < FEWEST {
            return 0.0;
        }
        let points = || self.samples.iter().map(|(at, y)| (at.since(*first).as_secs_f64(), *y));
        let n = self.samples.len() as f64;
        let (sum_x, sum_y) = points().fold((0.0, 0.0), |(x, y), (px, py)| (x + px, y + py));
        let (mean_x, mean_y) = (sum_x / n, sum_y / n);
        let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
        for (x, y) in points() {
            xx += (x - mean_x).powi(2);
            xy += (x - mean_x) * (y - mean_y);
            yy += (y - mean_y).powi(2);
        }
        if xx <= 0.0 {
            return 0.0;
        }
        let slope = xy / xx;
        let residual = (yy - slope * xy).max(0.0);
        let error = (residual / (n - 2.0) / xx).sqrt();
        (slope - noise * error).max(0.0)
    }
}

/// Smallest and largest value of a window, in constant time on average.
#[derive(Debug, Clone)]
pub struct Extremes {
    window: Duration,
    since: Option<Mono>,
    rising: VecDeque<(Mono, u32)>,
    falling: VecDeque<(Mono, u32)>,
}

impl Extremes {
    #[must_use]
    pub fn new(window: Duration) -> Self {
        Self { window, since: None, rising: VecDeque::new(), falling: VecDeque::new() }
    }

    pub fn push(&mut self, now: Mono, value: u32) {
        self.since.get_or_insert(now);
        for kept in [&mut self.rising, &mut self.falling] {
            while kept.front().is_some_and(|(at, _)| now.since(*at) > self.window) {
                kept.pop_front();
            }
        }
        while self.rising.back().is_some_and(|(_, last)| *last >= value) {
            self.rising.pop_back();
        }
        while self.falling.back().is_some_and(|(_, last)| *last <= value) {
            self.falling.pop_back();
        }
        self.rising.push_back((now, value));
        self.falling.push_back((now, value));
    }

    pub fn clear(&mut self) {
        *self = Self::new(self.window);
    }

    /// Time until the whole window has been seen; zero once it has.
    #[must_use]
    pub fn remaining(&self, now: Mono) -> Duration {
        self.window.saturating_sub(self.since.map_or(Duration::ZERO, |since| now.since(since)))
    }

    /// Time until no value of the window is `limit` or less, if all that come are more.
    #[must_use]
    pub fn above_in(&self, now: Mono, limit: u32) -> Duration {
        // The last small value is the smallest since then, so it is kept.
        let last_small = self.rising.iter().rev().find(|(_, value)| *value <= limit);
        let gone = last_small.map_or(Duration::ZERO, |(at, _)| self.window.saturating_sub(now.since(*at)));
        self.remaining(now).max(gone)
    }

    #[must_use]
    pub fn smallest(&self) -> Option<u32> {
        self.rising.front().map(|(_, value)| *value)
    }

    #[must_use]
    pub fn largest(&self) -> Option<u32> {
        self.falling.front().map(|(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Mono {
        Mono(Duration::from_millis(millis))
    }

    #[test]
    fn the_time_until_a_window_agrees_counts_from_the_last_moment_that_did_not() {
        let mut wanted = Extremes::new(Duration::from_secs(2));
        wanted.push(at(0), 3);
        assert_eq!(wanted.above_in(at(500), 2), Duration::from_millis(1_500), "all of the window is to be seen");
        for (when, value) in [(5_000, 2), (5_500, 4), (6_000, 3)] {
            wanted.push(at(when), value);
        }
        assert_eq!(wanted.above_in(at(6_000), 2), Duration::from_secs(1));
        assert_eq!(wanted.above_in(at(6_000), 3), Duration::from_secs(2));
        assert_eq!(wanted.above_in(at(6_000), 1), Duration::ZERO);
        wanted.push(at(7_001), 4);
        assert_eq!((wanted.above_in(at(7_001), 2), wanted.smallest()), (Duration::ZERO, Some(3)));
    }
}
