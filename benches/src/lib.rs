//! Every figure of the design, with its peer beside it.
//!
//! Each program in `src/bin` prints its [`Figure`]s on standard output, one JSON object a line, and its progress on
//! standard error. `make bench` runs them all and puts the lines into `target/bench.json`.

use std::time::Duration;

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
