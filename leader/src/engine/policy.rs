//! What an operator can set of an orchestrator.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::schedule::{Schedule, Timetable};

/// Nodes' worth of capacity that can be kept free; below 0, nodes are meant to be over capacity at times.
pub(super) const SPARE: RangeInclusive<f64> = -100.0..=10_000.0;

/// What the load of a cluster is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Streams that an ingestion node owns and that deliver bytes.
    Cameras,
    /// Viewers and workers, a worker with two legs counted once.
    Readers,
    /// Inbound bits per second.
    Inbound,
    /// Outbound bits per second.
    Outbound,
}

impl Metric {
    /// As JSON and metrics call it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cameras => "cameras",
            Self::Readers => "readers",
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

impl std::fmt::Display for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Cameras => "cameras",
            Self::Readers => "readers",
            Self::Inbound => "inbound bandwidth",
            Self::Outbound => "outbound bandwidth",
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MetricRule {
    pub metric: Metric,
    /// What one node carries, in the metric's unit; above 0.
    pub per_node: f64,
}

/// The demand that will be there when a node launched now is ready: a straight line on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Lead {
    /// From launch to first reader, until it is measured from the cluster's own launches.
    pub assumed: Duration,
    /// How old a figure is when it is decided on.
    pub lag: Duration,
    /// How much of the foreseen growth is provided for; 0 looks only at what is there.
    pub gain: f64,
    /// The slope is that of the least-squares line over this time.
    pub window: Duration,
    /// Standard errors of that line's slope which count as noise.
    pub noise: f64,
}

/// Policy of one role's orchestrator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Nodes in service, at least and at most.
    pub min: u32,
    pub max: u32,
    /// The wanted size is the largest that any of them asks for.
    pub metrics: Vec<MetricRule>,
    /// Share of the demand kept free on top of it; below 0, nodes are meant to be over capacity at times.
    pub headroom: f64,
    /// Share of the wanted size by which it must differ from the present one before anything is done.
    pub tolerance: f64,
    /// Load must ask for more this long before nodes are launched.
    pub up_window: Duration,
    /// Load must ask for less all this time before a node is drained.
    pub down_window: Duration,
    /// Nodes draining at once, at most.
    pub shrink_step: u32,
    /// Nodes launched by one decision, at most.
    pub grow_step: Option<u32>,
    /// The warm buffer: nodes' worth of capacity kept free, whatever the load; also half a node.
    pub spare: f64,
    pub lead: Lead,
    /// Mean share of all cores in use above which the cluster grows by a fifth; `None` looks at no CPU.
    pub cpu_limit: Option<f64>,
    /// Decide and record, and make no plan.
    pub dry_run: bool,
    /// What the calendar changes.
    #[serde(default)]
    pub schedules: Vec<Schedule>,
}

/// What is wrong with a policy: the key, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct PolicyError {
    pub key: &'static str,
    pub problem: String,
}

impl Policy {
    /// How full, as a share of what it carries, a node may be meant to be: above 1 with a headroom below 0.
    #[must_use]
    pub fn fullest(&self) -> f64 {
        1.0 / (1.0 + self.headroom.min(0.0))
    }

    /// All that is wrong with it at once; empty when it can be used.
    #[must_use]
    pub fn errors(&self) -> Vec<PolicyError> {
        let mut errors = Vec::new();
        let mut refuse = |key, problem: String| errors.push(PolicyError { key, problem });
        if self.min == 0 {
            refuse("min", "a cluster of no nodes serves nobody; write 1 or more".to_owned());
        }
        if self.min > self.max {
            refuse("min", format!("{} is above max, {}; lower it, or raise max", self.min, self.max));
        }
        if self.metrics.is_empty() {
            refuse("metrics", "none is named, so the load could not be seen".to_owned());
        }
        for rule in &self.metrics {
            if !(rule.per_node.is_finite() && rule.per_node > 0.0) {
                refuse("per_node", format!("a node must carry more than 0 {}, not {}", rule.metric, rule.per_node));
            }
        }
        let mut within = |key, value: f64, low: f64, high: f64| {
            if !(low..=high).contains(&value) {
                errors.push(PolicyError { key, problem: format!("{value} is not from {low} to {high}") });
            }
        };
        within("headroom", self.headroom, -0.5, 10.0);
        within("spare", self.spare, *SPARE.start(), *SPARE.end());
        within("tolerance", self.tolerance, 0.0, 0.5);
        within("gain", self.lead.gain, 0.0, 10.0);
        within("noise", self.lead.noise, 0.0, 100.0);
        if let Some(limit) = self.cpu_limit {
            within("cpu_limit", limit, 0.05, 1.0);
        }
        if self.shrink_step == 0 {
            errors
                .push(PolicyError { key: "shrink_step", problem: "0 would never shrink; write 1 or more".to_owned() });
        }
        if self.grow_step == Some(0) {
            errors.push(PolicyError { key: "grow_step", problem: "0 would never grow; write 1 or more".to_owned() });
        }
        let day = Duration::from_secs(86_400);
        for (key, value) in [
            ("up_window", self.up_window),
            ("down_window", self.down_window),
            ("lead", self.lead.assumed),
            ("lag", self.lead.lag),
            ("slope_window", self.lead.window),
        ] {
            if value > day {
                errors.push(PolicyError { key, problem: "is longer than a day".to_owned() });
            }
        }
        errors.extend(Timetable::new(self).err().into_iter().flatten());
        errors
    }
}
