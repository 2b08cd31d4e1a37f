//! What stands in Redis, and under which keys. `docs/ref/registry.md` is this page for operators.

use serde::{Deserialize, Serialize};

use crate::{
    Bitrate, ClusterName, DrainId, LegId, LoadReport, NodeFacts, NodeId, NodeState, Phase, StitchCounters, StreamName,
    UnixMillis, WorkerId,
};

/// Every key and channel of one cluster. All are in one hash slot (`{cluster}`), so that scripts run on Redis Cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryKeys {
    prefix: String,
}

impl RegistryKeys {
    #[must_use]
    pub fn new(cluster: &ClusterName) -> Self {
        Self { prefix: format!("mtxfleet:{{{cluster}}}") }
    }

    fn key(&self, name: &str) -> String {
        format!("{}:{name}", self.prefix)
    }

    /// A table that only orchestrators write, such as `decisions`.
    #[must_use]
    pub fn table(&self, name: &str) -> String {
        self.key(name)
    }

    /// String: [`crate::SCHEMA`].
    #[must_use]
    pub fn schema(&self) -> String {
        self.key("schema")
    }

    /// Hash: node id to [`NodeRecord`].
    #[must_use]
    pub fn nodes(&self) -> String {
        self.key("nodes")
    }

    /// Hash: stream to [`StreamRecord`].
    #[must_use]
    pub fn streams(&self) -> String {
        self.key("streams")
    }

    /// Hash: leg to [`LegRecord`].
    #[must_use]
    pub fn legs(&self) -> String {
        self.key("legs")
    }

    /// Hash: [`worker_field`] to [`WorkerRecord`].
    #[must_use]
    pub fn workers(&self) -> String {
        self.key("workers")
    }

    /// Hash of one worker's checkpoint of one stream: `epoch` of the claim, `holder`, and `record`, a
    /// [`crate::Checkpoint`].
    #[must_use]
    pub fn checkpoint(&self, worker: &WorkerId, stream: &StreamName) -> String {
        self.key(&format!("checkpoint:{}", worker_field(worker, stream)))
    }

    /// Hash: stream to a JSON object of its camera, where `cameras.redis` is set. Written by the operator only.
    #[must_use]
    pub fn cameras(&self) -> String {
        self.key("cameras")
    }

    /// Hash: node id to [`DrainSlot`], one for each drain under way. Written only by the admission scripts.
    #[must_use]
    pub fn drains_under_way(&self) -> String {
        self.key("drains-under-way")
    }

    /// Capped stream, field `record`: [`DrainRecord`] of each drain that ended.
    #[must_use]
    pub fn drain_records(&self) -> String {
        self.key("drain-records")
    }

    /// Hash with an expiry, gone when nobody holds it: `node`, `run`, `epoch` of a role's orchestrator. Written only by
    /// the lease script.
    #[must_use]
    pub fn lease(&self, role: crate::Role) -> String {
        self.key(&format!("lease:{role}"))
    }

    /// Hash: `epoch`, `run` and `node` of the latest term of a role, and `history`, Redis's own replication id when it
    /// was given. Never expires. Writes of an orchestrator are checked against it.
    #[must_use]
    pub fn term(&self, role: crate::Role) -> String {
        self.key(&format!("term:{role}"))
    }

    /// Hash: `desired`, `from`, `at`, `epoch`, `run` of what a role's orchestrator is about to ask of the cloud. Written
    /// before the call and removed after it, under the term only.
    #[must_use]
    pub fn intent(&self, role: crate::Role) -> String {
        self.key(&format!("intent:{role}"))
    }

    /// Pub/sub channel: [`crate::FleetEvent`].
    #[must_use]
    pub fn events(&self) -> String {
        self.key("events")
    }

    /// Capped stream, field `event`: the same [`crate::FleetEvent`]s, for who was away.
    #[must_use]
    pub fn event_log(&self) -> String {
        self.key("event-log")
    }

    /// Capped stream, field `report`: [`crate::WorkerReport`].
    #[must_use]
    pub fn worker_reports(&self) -> String {
        self.key("worker-reports")
    }
}

/// Under which field of [`RegistryKeys::workers`] a worker's record of one stream stands: `WORKER/STREAM`.
#[must_use]
pub fn worker_field(worker: &WorkerId, stream: &StreamName) -> String {
    format!("{worker}/{stream}")
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeRecord {
    pub schema: u16,
    pub node: NodeId,
    pub state: NodeState,
    pub facts: NodeFacts,
    pub load: LoadReport,
    pub updated: UnixMillis,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamRecord {
    pub stream: StreamName,
    pub owner: NodeId,
    /// `rtsp://host:port/path` at the owner.
    pub url: String,
    pub flowing: bool,
    pub bitrate: Option<Bitrate>,
    pub since: UnixMillis,
    /// As [`crate::StreamReport::claim`]: of two owners that deliver, the record of the higher one stays.
    #[serde(default)]
    pub claim: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegRecord {
    pub leg: LegId,
    pub worker: WorkerId,
    pub stream: StreamName,
    pub node: NodeId,
}

/// Written by the worker itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRecord {
    pub worker: WorkerId,
    pub stream: StreamName,
    pub counters: StitchCounters,
    /// RTSP connections that deliver.
    #[serde(default)]
    pub legs: usize,
    /// Longest pause between two frames in the last handover, less the frame interval; `None` before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_pause_ms: Option<u64>,
    /// How far it is behind its camera; `None` unless it reads a recording.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backlog_ms: Option<u64>,
    pub updated: UnixMillis,
}

/// A drain that was admitted and has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainSlot {
    pub drain: DrainId,
    pub role: crate::Role,
    pub at: UnixMillis,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainOutcome {
    Completed,
    Cancelled,
}

/// Seconds spent in one phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseTime {
    pub phase: Phase,
    pub seconds: f64,
    /// It ended at its deadline, still waiting for what `waiting_for` says.
    pub timed_out: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<String>,
}

/// A worker's leg in the record of a drain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegOutcome {
    pub leg: LegId,
    pub worker: WorkerId,
    pub stream: StreamName,
    pub acknowledged: bool,
    pub how: LegEnd,
    /// As its worker reported them; `None` when it did not.
    pub counters: Option<StitchCounters>,
    pub extra_pause_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LegEnd {
    /// Still connected (only in a record shown while the drain runs, or of one that was cancelled).
    Here,
    /// It left by itself; `Some` when it said where to.
    Moved(Option<NodeId>),
    /// Disconnected at the deadline, to come back through the stable URL.
    Disconnected,
    /// Its camera was sent to another ingestion node, and its connection ended with the camera's.
    CameraLeft,
}

/// How an ingestion node gets a camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CameraSource {
    /// The node connects to the camera.
    Pulled,
    /// The camera connects to the node.
    Pushed,
}

/// A camera in the record of an ingestion node's drain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CameraOutcome {
    pub stream: StreamName,
    pub source: CameraSource,
    pub how: CameraEnd,
    /// Pushed: from its disconnection until another node had it; milliseconds.
    #[serde(default)]
    pub away_ms: Option<u64>,
    /// Pushed: frames that the camera itself did not send while it was away, by its workers' frame interval.
    #[serde(default)]
    pub frames_not_sent: Option<u64>,
    /// Pushed: frames that passed, by its workers' word, beside those: sent to the new owner before a worker read again.
    #[serde(default)]
    pub frames_missed: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CameraEnd {
    /// It is still here (only while the drain runs, or in one that was cancelled).
    Here,
    /// That node has it now.
    At(NodeId),
    /// Disconnected here, and seen nowhere else in time.
    NotSeenElsewhere,
}

const fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// What a drain did, kept in Redis and shown by `mtxfleet drain --wait` at its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrainRecord {
    pub schema: u16,
    pub drain: DrainId,
    pub node: NodeId,
    pub reason: String,
    pub forced: bool,
    pub outcome: DrainOutcome,
    pub started: UnixMillis,
    pub ended: UnixMillis,
    pub phases: Vec<PhaseTime>,
    pub legs: Vec<LegOutcome>,
    /// Legs that have ended beside those: a client that connects anew all the time makes more than are listed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub legs_more: u32,
    /// RTSP readers without a leg id, which cannot be told, and were disconnected.
    pub readers_disconnected: u32,
    /// Viewers that left by themselves, and those disconnected.
    pub viewers_left: u32,
    pub viewers_disconnected: u32,
    /// On an ingestion node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cameras: Vec<CameraOutcome>,
    /// Seconds from the order (or the agent's restart since) until the last load balancer was first told `drain`; `None`
    /// when none polls, or not all of them asked again.
    pub out_of_balancer_seconds: Option<f64>,
}
