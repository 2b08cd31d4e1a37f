//! Places are found by content; the clocks only say where it would be a surprise.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Known, TAIL};

/// How far the clocks of a worker and of a recording node may be apart; members agree within a second.
pub(super) const CLOCKS_APART: Duration = Duration::from_secs(5);

/// Whether the last of `seen` is the last of `tail`: all that can be compared before both is equal, and it is enough.
pub(super) fn is_place(seen: &VecDeque<u64>, tail: &VecDeque<Known>, apart: Duration) -> bool {
    let Some(last) = tail.back() else { return false };
    if seen.back() != Some(&last.hash) {
        return false;
    }
    let mut pairs = seen.iter().rev().zip(tail.iter().rev());
    let compared = seen.len().min(tail.len());
    if !pairs.all(|(seen, known)| *seen == known.hash) {
        return false;
    }
    // A still scene repeats its pictures: one of those compared must have come once.
    let once = |hash: u64| {
        tail.iter().filter(|known| known.hash == hash).count() == 1
            && seen.iter().filter(|seen| **seen == hash).count() == 1
    };
    let telling = tail.iter().rev().take(compared).any(|known| once(known.hash));
    telling && (apart <= CLOCKS_APART || compared >= TAIL / 4)
}

/// Ticks between two frames, as the last ones lie: the middle one of the distances, since with B-frames times jump.
pub(super) fn interval(tail: &VecDeque<Known>) -> i64 {
    let mut times: Vec<i64> = tail.iter().map(|known| known.time).collect();
    times.sort_unstable();
    let mut distances: Vec<i64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    distances.sort_unstable();
    distances.get(distances.len() / 2).copied().unwrap_or(1)
}
