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
    pub gaps: Vec<String>,
    pub errors: Vec<String>,
}

impl WorkerProcess {
    /// `journal` is a folder, `redis` whether Redis is used.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn start(lab: &Lab, id: &str, stream: &str, journal: Option<&Path>, redis: bool) -> Result<Self> {
        let redis = lab.redis.as_ref().filter(|_| redis).map(super::redis::Redis::url);
        let journal = journal.map_or_else(|| "-".to_owned(), |folder| folder.display().to_string());
        let url = format!("rtsp://{}", lab.balancer.live);
        let fixed = [&url, super::CLUSTER, stream, id, &lab.token, &journal, redis.as_deref().unwrap_or("-")];
        let agents = lab.nodes.iter().map(|node| node.agent.url());
        let recipe =
            Recipe::new(id, programs::of_workspace("mtxfleet-lab-worker")?).args(fixed.map(str::to_owned)).args(agents);
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
        let text = std::fs::read_to_string(self.process.log_path())?;
        let mut lives = Lives::default();
        let mut seen = std::collections::HashSet::new();
        let at = Instant::now();
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("start", how)) => lives.starts.push(how.to_owned()),
                Some(("G", gap)) => lives.gaps.push(gap.to_owned()),
                Some(("E", error)) => lives.errors.push(error.to_owned()),
                Some(("F", frame)) => {
                    let (hash, kind) = frame.split_once(' ').context("a frame without its kind")?;
                    // A kill may cut a line short, but never one whose frame was finished with.
                    let Ok(hash) = u64::from_str_radix(hash, 16) else { continue };
                    ensure!(["new", "replayed", "recorded"].contains(&kind), "{line}");
                    lives.recorded += usize::from(kind != "new");
                    if !seen.insert(hash) && kind == "replayed" {
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
