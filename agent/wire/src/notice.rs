//! What passes between a draining node and the workers that read from it.
//!
//! ```text
//! node   --- DrainNotice (drain, deadline, legs, ranked nodes) --->  worker     phase 1
//! node   <-- WorkerReport::Acknowledged (drain, leg) --------------  worker
//! node   --- MoveOrder (drain, legs of this batch) --------------->  worker     phase 3
//!            the worker opens a leg on the next node, overlaps, closes the old one
//! node   <-- WorkerReport::Moved (drain, leg, new leg, counters) --  worker
//! ```
//! An ingestion node does the same for legs that read its cameras through distribution nodes, in two moves:
//! [`MoveReason::OwnerChanges`] and [`MoveReason::OwnerChanged`].
//!
//! Notices travel as [`crate::FleetEvent`]s; reports by the Redis stream named in
//! [`crate::RegistryKeys::worker_reports`], or by `POST /v1/worker-reports` to any agent when Redis is away.

use serde::{Deserialize, Serialize};

use crate::{DrainId, LegId, NodeId, StreamName, UnixMillis, WorkerId};

/// A node that a worker can move to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    pub node: NodeId,
    /// `host:port` of its RTSP server.
    pub rtsp: String,
    /// It has the stream open already, so a reader does not wait for a keyframe.
    pub warm: bool,
}

/// Why a leg has to move, and so which ways are open to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveReason {
    /// The node that it reads at goes away.
    #[default]
    NodeLeaves,
    /// The camera gets another owner, which numbers its packets anew. The one candidate is that owner: wherever else a
    /// leg leads may still get the stream from the old one. A *bridge*, until the leg is ordered back.
    OwnerChanges,
    /// The distribution nodes get the stream from the new owner now: back to one of them.
    OwnerChanged,
    /// The camera publishes here, and is about to be disconnected so that it publishes elsewhere. There is nothing to
    /// move to: the leg ends with its camera's connection, and the worker comes back by itself.
    CameraLeaves,
}

/// One leg that will have to move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegNotice {
    pub leg: LegId,
    pub worker: WorkerId,
    pub stream: StreamName,
    /// Healthy nodes, best first.
    pub candidates: Vec<Candidate>,
    #[serde(default)]
    pub reason: MoveReason,
}

/// A node will go away: phase 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainNotice {
    pub drain: DrainId,
    pub node: NodeId,
    /// After this the node disconnects who is left.
    pub deadline: UnixMillis,
    pub legs: Vec<LegNotice>,
}

/// Move these legs now: phase 3. Candidates are given again, since more nodes are warm by now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveOrder {
    pub drain: DrainId,
    pub node: NodeId,
    pub legs: Vec<LegNotice>,
}

/// What a worker's stitch counted, since it started, on one stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StitchCounters {
    /// Access units handed to the application.
    pub frames: u64,
    pub handovers: u64,
    /// Handovers in which no proof of alignment was found, so that frames may be missing.
    pub unproven_handovers: u64,
    /// RTP packets known to be missing.
    pub lost_packets: u64,
    /// Access units of a second leg dropped since they had been delivered.
    pub duplicates_dropped: u64,
    /// Access units that came from a recording.
    #[serde(default)]
    pub replayed: u64,
}

/// What a worker tells the node it leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
pub enum WorkerReport {
    Acknowledged {
        drain: DrainId,
        worker: WorkerId,
        leg: LegId,
    },
    /// The old leg is closed and nothing is missing up to the first frame of the new one.
    Moved {
        drain: DrainId,
        worker: WorkerId,
        leg: LegId,
        new_leg: LegId,
        /// Where to; `None` when it went through the stable URL and does not know.
        to: Option<NodeId>,
        /// Longest pause between two frames during the handover, less the frame interval; milliseconds.
        extra_pause_ms: u64,
        counters: StitchCounters,
    },
    /// Its camera was disconnected ([`MoveReason::CameraLeaves`]), and frames come again.
    Returned {
        drain: DrainId,
        worker: WorkerId,
        leg: LegId,
        new_leg: LegId,
        /// So much of the stream it lacks, by the frames' own times; milliseconds. What a recording gave is not missing.
        missing_ms: u64,
        /// Between two frames before that; microseconds, 0 when it is not known.
        frame_interval_us: u64,
        counters: StitchCounters,
    },
    /// It could not move; the text says why. It stays until it is disconnected.
    Failed {
        drain: DrainId,
        worker: WorkerId,
        leg: LegId,
        why: String,
    },
}

impl WorkerReport {
    #[must_use]
    pub const fn drain(&self) -> &DrainId {
        match self {
            Self::Acknowledged { drain, .. }
            | Self::Moved { drain, .. }
            | Self::Returned { drain, .. }
            | Self::Failed { drain, .. } => drain,
        }
    }

    #[must_use]
    pub const fn leg(&self) -> &LegId {
        match self {
            Self::Acknowledged { leg, .. }
            | Self::Moved { leg, .. }
            | Self::Returned { leg, .. }
            | Self::Failed { leg, .. } => leg,
        }
    }
}
