//! A worker as a process of its own, that can be killed at any moment and started again.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::Lab;
use super::process::{Process, Recipe};
use super::programs;
use crate::compare::Arrival;

/// One worker on one stream, with checkpoints.
#[derive(Debug)]
pub struct WorkerProcess {
    pub process: Process,
}

/// What its lives did, from its log.
#[derive(Debug, Default)]
pub struct Lives {
    /// How each began.
    pub starts: Vec<String>,
    /// Frames in order, without those that were marked as perhaps handed over before, and were.
    pub frames: Vec<Arrival>,
    /// Those.
    pub repeated: usize,
    /// Frames from recordings.
    pub recorded: usize,
    pub gaps: Vec<Gap>,
    pub errors: Vec<String>,
    /// How far it was behind the camera at most while it read a recording, in seconds.
    pub most_backlog: f64,
    /// Seconds of recording that it handed over in a second, at best.
    pub best_rate: Option<f64>,
}

/// What the worker was told it lacks, in ticks of the camera's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Time of the last frame before it.
    pub after: Option<i64>,
    pub before: i64,
}

impl WorkerProcess {
    /// `journal` is a folder, `redis` whether Redis is used.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn start(lab: &Lab, id: &str, stream: &str, journal: Option<&Path>, redis: bool) -> Result<Self> {
        Self::start_copy(lab, id, id, stream, journal, redis)
    }

    /// As [`WorkerProcess::start`], in a process of this name.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn start_copy(
        lab: &Lab,
        id: &str,
        process: &str,
        stream: &str,
        journal: Option<&Path>,
        redis: bool,
    ) -> Result<Self> {
        let redis = lab.redis.as_ref().filter(|_| redis).map(super::redis::Redis::url);
        let journal = journal.map_or_else(|| "-".to_owned(), |folder| folder.display().to_string());
        let url = format!("rtsp://{}", lab.balancer.live);
        let fixed = [&url, super::CLUSTER, stream, id, &lab.token, &journal, redis.as_deref().unwrap_or("-")];
        let agents = lab.nodes.iter().map(|node| node.agent.url());
        let recipe = Recipe::new(process, programs::of_workspace("mtxfleet-lab-worker")?)
            .args(fixed.map(str::to_owned))
            .args(agents);
        Ok(Self { process: recipe.start(&lab.logs())? })
    }

    /// Frames of all lives so far.
    ///
    /// # Errors
    /// When its log cannot be read.
    pub fn frames(&self) -> Result<usize> {
        let text = std::fs::read_to_string(self.process.log_path())?;
        Ok(text.lines().filter(|line| line.starts_with("F ")).count())
    }

    /// # Errors
    /// When the log holds what no worker writes.
    pub fn lives(&self) -> Result<Lives> {
        Lives::of(&self.log()?)
    }

    /// # Errors
    /// When it cannot be read.
    pub fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.process.log_path())?)
    }
}

impl Lives {
    /// From one log, or from several one behind the other.
    ///
    /// # Errors
    /// When it holds what no worker writes.
    pub fn of(text: &str) -> Result<Self> {
        let mut lives = Lives::default();
        let mut seen = std::collections::HashSet::new();
        let at = Instant::now();
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("start", how)) => lives.starts.push(how.to_owned()),
                Some(("G", gap)) => {
                    let (after, before) = gap.split_once(' ').context("a gap without its end")?;
                    lives.gaps.push(Gap { after: after.parse().ok(), before: before.parse()? });
                }
                Some(("R", status)) => {
                    // A kill may cut a line short.
                    let (backlog, rate) = status.split_once(' ').unwrap_or((status, ""));
                    lives.most_backlog = lives.most_backlog.max(backlog.parse().unwrap_or(0.0));
                    lives.best_rate = lives.best_rate.into_iter().chain(rate.parse().ok()).reduce(f64::max);
                }
                Some(("E", error)) => lives.errors.push(error.to_owned()),
                Some(("F", frame)) => {
                    let (hash, kind) = frame.split_once(' ').context("a frame without its kind")?;
                    // A kill may cut a line short, but never one whose frame was finished with.
                    let Ok(hash) = u64::from_str_radix(hash, 16) else { continue };
                    ensure!(["new", "early", "replayed", "recorded"].contains(&kind), "{line}");
                    lives.recorded += usize::from(["replayed", "recorded"].contains(&kind));
                    if !seen.insert(hash) && ["early", "replayed"].contains(&kind) {
                        lives.repeated += 1;
                    } else {
                        lives.frames.push(Arrival { hash, at });
                    }
                }
                _ => {}
            }
        }
        Ok(lives)
    }
}
