//! What the demo comes to.

use std::fmt;
use std::time::Duration;

use crate::lab::audience::Results;

/// Whether the workers lost nothing, and whether that means anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Workers that did not get every frame once, in order.
    imperfect: Vec<String>,
    workers: usize,
    worker_frames: u64,
    lost_by_control: u64,
    drains: usize,
    took: Duration,
}

impl Verdict {
    pub(super) fn of(results: &Results, drains: usize, took: Duration) -> Self {
        let describe = |row: &crate::lab::audience::ReaderResult| {
            let f = &row.frames;
            format!(
                "{}: {} lost, {} twice, {} out of order, {} damaged",
                row.worker, f.lost, f.duplicated, f.out_of_order, f.foreign
            )
        };
        Self {
            imperfect: results.imperfect().map(describe).collect(),
            workers: results.workers.len(),
            worker_frames: results.workers.iter().map(|row| row.frames.sent).sum(),
            lost_by_control: results.lost_by_control(),
            drains,
            took,
        }
    }

    /// No worker lost, repeated or disordered a frame, and the control shows that there was something to lose.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.imperfect.is_empty() && self.lost_by_control > 0
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        if !self.imperfect.is_empty() {
            writeln!(
                f,
                "FAILED: {} of {} workers did not get every frame once and in order",
                self.imperfect.len(),
                self.workers
            )?;
            for line in &self.imperfect {
                writeln!(f, "  {line}")?;
            }
        }
        if self.lost_by_control == 0 {
            writeln!(f, "PROVES NOTHING: the plain readers lost no frame either, so the drain met nobody")?;
        }
        if self.holds() {
            let drains = if self.drains == 1 { "the drain".to_owned() } else { format!("{} drains", self.drains) };
            writeln!(
                f,
                "OK: {} workers got all of {} frames over {drains}, each once and in order; plain readers lost {}.",
                self.workers, self.worker_frames, self.lost_by_control
            )?;
        }
        write!(f, "Took {:.0} s.", self.took.as_secs_f64())
    }
}
