//! Every figure of the design, with its peer beside it.
//!
//! Each program in `src/bin` prints its [`Figure`]s on standard output, one JSON object a line, and its progress on
//! standard error. `make bench` runs them all and puts the lines into `target/bench.json`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// One measured figure. What is unknown or has no peer is `null`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// What was measured, with the conditions that matter, in words.
    pub figure: String,
    pub value: f64,
    pub unit: &'static str,
    /// What stood beside it in the same run.
    pub peer: Option<String>,
    pub peer_value: Option<f64>,
    /// What is to be reached, in words: `0`, `at most the peer's`.
    pub goal: String,
}

impl Figure {
    #[must_use]
    pub fn new(figure: impl Into<String>, value: f64, unit: &'static str, goal: impl Into<String>) -> Self {
        Self { figure: figure.into(), value, unit, peer: None, peer_value: None, goal: goal.into() }
    }

    #[must_use]
    pub fn beside(mut self, peer: impl Into<String>, value: f64) -> Self {
        self.peer = Some(peer.into());
        self.peer_value = Some(value);
        self
    }

    /// Prints it as one line of JSON.
    pub fn print(&self) {
        println!("{}", serde_json::to_string(self).expect("numbers and text"));
    }
}

/// Time this thread spent on a core, so that a busy machine does not count: first field of Linux' schedstat, in
/// nanoseconds. It is brought up to date when the thread yields.
///
/// # Panics
/// Elsewhere than on Linux.
#[must_use]
pub fn cpu_time() -> Duration {
    std::thread::yield_now();
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux' /proc is mounted");
    let nanos = schedstat.split_whitespace().next().and_then(|field| field.parse().ok());
    Duration::from_nanos(nanos.expect("schedstat begins with a number"))
}

/// User and system time of a process so far: fields 14 and 15 of proc(5)'s `stat`, in hundredths of a second (USER_HZ).
///
/// # Errors
/// When the process is gone.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(") ").context("an odd stat")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(ticks as f64 / 100.0)
}

/// `VmRSS` of proc(5)'s `status`.
///
/// # Errors
/// When the process is gone.
pub fn resident_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    line.split_whitespace().next().and_then(|kib| kib.parse().ok()).context("an odd VmRSS")
}
