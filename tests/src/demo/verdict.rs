//! What the demo comes to.

use std::fmt;
use std::time::Duration;

use super::day::Day;
use crate::lab::audience::{ReaderResult, Results};

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
    day: Option<DayVerdict>,
}

/// What is said of the day.
#[derive(Debug, Clone, PartialEq, Eq)]
struct DayVerdict {
    holds: bool,
    grew_and_shrank: bool,
    handovers: u64,
    workers: usize,
    frames: u64,
    lost: u64,
}

impl Verdict {
    pub(super) fn of(results: &Results, drains: usize, took: Duration) -> Self {
        Self {
            imperfect: results.imperfect().map(describe).collect(),
            workers: results.workers.len(),
            worker_frames: results.workers.iter().map(|row| row.frames.sent).sum(),
            lost_by_control: results.lost_by_control(),
            drains,
            took,
            day: None,
        }
    }

    /// The same with the day after it.
    pub(super) fn with(self, day: &Day, took: Duration) -> Self {
        let rows = &day.results.workers;
        let verdict = DayVerdict {
            holds: day.holds(),
            grew_and_shrank: day.grew_and_shrank(),
            handovers: day.handovers(),
            workers: rows.len(),
            frames: rows.iter().map(|row| row.frames.sent).sum(),
            lost: rows.iter().map(|row| row.frames.lost).sum(),
        };
        let imperfect = self.imperfect.into_iter().chain(day.results.imperfect().map(describe)).collect();
        Self { imperfect, day: Some(verdict), took, ..self }
    }

    /// No worker lost, repeated or disordered a frame, and the control shows that there was something to lose.
    #[must_use]
    pub fn holds(&self) -> bool {
        let day = self.day.as_ref().is_none_or(|day| day.holds);
        self.imperfect.is_empty() && self.lost_by_control > 0 && day
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
                self.workers + self.day.as_ref().map_or(0, |day| day.workers)
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
        if let Some(day) = &self.day {
            if !day.grew_and_shrank {
                writeln!(f, "FAILED: the cluster did not grow and shrink with its load")?;
            }
            if day.handovers == 0 {
                writeln!(f, "PROVES NOTHING: no drain of the day met a worker")?;
            }
            if day.holds {
                writeln!(
                    f,
                    "OK: the cluster followed a tenfold day; {} workers attached all along moved {} times. \
                     Frames sent to them: {}; lost by workers: {}.",
                    day.workers, day.handovers, day.frames, day.lost
                )?;
            }
        }
        write!(f, "Took {:.0} s.", self.took.as_secs_f64())
    }
}

fn describe(row: &ReaderResult) -> String {
    let f = &row.frames;
    format!(
        "{}: {} lost, {} twice, {} out of order, {} damaged",
        row.worker, f.lost, f.duplicated, f.out_of_order, f.foreign
    )
}
