//! What a node finds wrong with itself, and how available things were.

use serde::{Deserialize, Serialize};

use crate::{InstanceId, NodeId, Role, UnixMillis};

/// What ails a node, as its own agent finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ill {
    /// MediaMTX's API does not answer, or not as it should.
    Server,
    /// Its RTSP port does not answer.
    Rtsp,
    /// It has streams, and none of them delivers a byte.
    Streams,
    /// No room where recordings go.
    Disk,
}

impl Ill {
    pub const ALL: [Self; 4] = [Self::Server, Self::Rtsp, Self::Streams, Self::Disk];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Rtsp => "rtsp",
            Self::Streams => "streams",
            Self::Disk => "disk",
        }
    }
}

impl std::fmt::Display for Ill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// A node's health, from inside, and what it found of others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthReport {
    /// None: it is well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ills: Vec<Ill>,
    /// Times that its agent started MediaMTX again in this illness.
    #[serde(default)]
    pub restarts: u32,
    /// All that the agent can do was done: the node asks to be replaced.
    #[serde(default)]
    pub hopeless: bool,
    /// Live nodes whose RTSP port did not answer this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreachable: Vec<NodeId>,
    /// What it ordered lately as its role's orchestrator: a successor goes on counting where it stopped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaced: Vec<Replaced>,
}

/// A machine that was ordered to be replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    pub instance: InstanceId,
    /// When this was said: no clock of another node is read.
    pub seconds_ago: u32,
}

/// What availability is told of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "name")]
pub enum Subject {
    Cluster(Role),
    Node(String),
    Stream(String),
}

/// How long something was available, of the time that was watched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Availability {
    pub available_seconds: u64,
    pub watched_seconds: u64,
}

impl Availability {
    /// 0 to 1; `None` when nobody watched.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        (self.watched_seconds > 0).then(|| self.available_seconds as f64 / self.watched_seconds as f64)
    }
}

/// One line of `GET /v1/availability`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AvailabilityLine {
    #[serde(flatten)]
    pub of: Subject,
    /// Available without a break since then; `None` when it is not now.
    pub up_since: Option<UnixMillis>,
    pub day: Availability,
    pub week: Availability,
    pub month: Availability,
}

/// The body of `GET /v1/availability`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AvailabilityView {
    /// When it was reckoned; once a minute.
    pub at: UnixMillis,
    /// Clusters first, then nodes, then streams.
    pub lines: Vec<AvailabilityLine>,
}
