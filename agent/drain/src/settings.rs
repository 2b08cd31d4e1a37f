//! What an operator can set of a drain.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Deadlines and paces. A drain keeps those it began with, also over a restart of the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Phase 1 waits this long for acknowledgements.
    pub notice: Duration,
    /// Phase 2 waits this long for the load balancers.
    pub balancer_deadline: Duration,
    /// No new session for this long, once the balancers know: then none will come.
    pub quiet: Duration,
    /// Balancers that must poll, by the text they send; with none named, those that polled before the drain.
    pub expected_pollers: Vec<String>,
    /// Phase 3: legs still here after this are disconnected.
    pub worker_deadline: Duration,
    /// A leg is asked to move once a node has its stream warm, or after this long.
    pub warm_patience: Duration,
    /// Share of the other nodes' spare bandwidth that moving legs may take at once, 0.0 to 1.0.
    pub batch: f64,
    /// Phase 4: how long viewers may take to leave by themselves, the cut included.
    pub viewer_window: Duration,
    /// The last part of that window, in which those left are disconnected, evenly.
    pub viewer_cut: Duration,
    /// Readers are disconnected at this pace at most.
    pub disconnects_per_second: f64,
    /// Phase 5 waits this long for the last connection to go.
    pub cleanup_deadline: Duration,
    /// Phase 3 of an ingestion node, in place of `worker_deadline`: cameras still here after this are let go.
    #[serde(default = "camera_deadline")]
    pub camera_deadline: Duration,
    /// Phase 5 of an ingestion node waits this long for workers that may still need its recordings.
    #[serde(default = "recording_grace")]
    pub recording_grace: Duration,
}

const fn camera_deadline() -> Duration {
    Duration::from_secs(300)
}

const fn recording_grace() -> Duration {
    Duration::from_secs(30)
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            notice: Duration::from_secs(3),
            balancer_deadline: Duration::from_secs(15),
            quiet: Duration::from_secs(1),
            expected_pollers: Vec::new(),
            worker_deadline: Duration::from_secs(30),
            warm_patience: Duration::from_secs(5),
            batch: 0.5,
            viewer_window: Duration::from_secs(60),
            viewer_cut: Duration::from_secs(10),
            disconnects_per_second: 20.0,
            cleanup_deadline: Duration::from_secs(10),
            camera_deadline: camera_deadline(),
            recording_grace: recording_grace(),
        }
    }
}

impl Settings {
    /// The longest a drain can take.
    #[must_use]
    pub fn total(&self, of_ingestion: bool) -> Duration {
        let (third, grace) = match of_ingestion {
            true => (self.camera_deadline, self.recording_grace),
            false => (self.worker_deadline, Duration::ZERO),
        };
        self.notice + self.balancer_deadline + third + self.viewer_window + self.cleanup_deadline + grace
    }
}
