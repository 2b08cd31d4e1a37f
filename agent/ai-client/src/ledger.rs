//! Frames handed over and frames finished with: what a checkpoint is made of.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::resume::Known;

/// Frames that an application may still be busy with; older ones cannot be finished with any more. At 25 fps 4096 are
/// 164 s.
const KEPT: usize = 4096;

/// Frames of a checkpoint: enough to find the place of the last in a scene that moves.
const IN_CHECKPOINT: usize = 16;

/// Shared by the session, which notes frames, the frames themselves, and the task that writes checkpoints. Locked for a
/// push or a copy of some 16 entries.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    frames: Mutex<Frames>,
    /// Number of the newest frame finished with, counted from 1; 0 while there is none.
    done: AtomicU64,
    /// A frame was finished with.
    pub changed: Notify,
}

#[derive(Debug, Default)]
struct Frames {
    known: VecDeque<Known>,
    /// Frames noted in all: number of the newest.
    count: u64,
}

/// A frame's entry.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    ledger: Arc<Ledger>,
    number: u64,
}

impl Entry {
    /// This frame and all before it are finished with.
    pub(crate) fn done(&self) {
        if self.ledger.done.fetch_max(self.number, Ordering::Relaxed) < self.number {
            self.ledger.changed.notify_one();
        }
    }
}

impl Ledger {
    /// Frames of an earlier life, oldest first.
    pub(crate) fn begin_with(&self, known: impl IntoIterator<Item = Known>) {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        frames.known.extend(known);
        frames.count = frames.known.len() as u64;
        self.done.store(frames.count, Ordering::Relaxed);
    }

    /// The next frame handed over.
    pub(crate) fn note(self: &Arc<Self>, known: Known) -> Entry {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        frames.known.push_back(known);
        frames.count += 1;
        if frames.known.len() > KEPT {
            frames.known.pop_front();
        }
        Entry { ledger: Arc::clone(self), number: frames.count }
    }

    /// Number of the newest frame finished with.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// The frames up to that one, the last ones only; empty when it is too long ago.
    pub(crate) fn up_to(&self, number: u64) -> Vec<Known> {
        let frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = usize::try_from(frames.count.saturating_sub(number)).unwrap_or(usize::MAX);
        let end = frames.known.len().saturating_sub(newer);
        frames.known.range(end.saturating_sub(IN_CHECKPOINT)..end).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn known(time: i64) -> Known {
        Known { hash: time as u64, time, wall: Duration::ZERO }
    }

    #[test]
    fn a_checkpoint_ends_at_the_newest_frame_finished_with_whatever_the_order() {
        let ledger = Arc::new(Ledger::default());
        ledger.begin_with([known(-1)]);
        let entries: Vec<Entry> = (0..40).map(|n| ledger.note(known(n))).collect();
        assert_eq!((ledger.done(), ledger.up_to(1)), (1, vec![known(-1)]));
        entries[30].done();
        entries[3].done();
        assert_eq!(ledger.done(), 32);
        assert_eq!(ledger.up_to(32), (15..=30).map(known).collect::<Vec<_>>());
    }

    #[test]
    fn an_application_that_never_finishes_a_frame_fills_no_memory() {
        let ledger = Arc::new(Ledger::default());
        let first = ledger.note(known(0));
        (1..3 * KEPT as i64).for_each(|n| drop(ledger.note(known(n))));
        first.done();
        assert_eq!(ledger.up_to(ledger.done()), []);
        assert!(ledger.frames.lock().expect("not poisoned").known.len() <= KEPT);
    }
}
