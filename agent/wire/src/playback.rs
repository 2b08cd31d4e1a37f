//! What recordings of a stream there are, and where: body of `GET /v1/recordings/{stream}`.

use serde::{Deserialize, Serialize};

use crate::{NodeId, StreamName, UnixMillis};

/// The recordings of one stream, of all ingestion nodes that answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordingsView {
    pub stream: StreamName,
    /// By begin. Spans of two nodes may overlap, when the camera was moved from one to the other.
    pub spans: Vec<RecordedSpan>,
    /// Ingestion nodes that could not be asked: their recordings, if any, are missing here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unanswered: Vec<UnansweredNode>,
}

/// A piece of recording without a hole, on one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordedSpan {
    pub node: NodeId,
    /// By the node's clock, which dates the pictures.
    pub start: UnixMillis,
    /// How long it is by now: it may still grow.
    pub seconds: f64,
}

impl RecordedSpan {
    /// By the node's clock.
    #[must_use]
    pub fn end(&self) -> UnixMillis {
        // A negative or absurd figure counts as an empty span.
        UnixMillis(self.start.0.saturating_add((self.seconds.max(0.0) * 1000.0) as u64))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnansweredNode {
    pub node: NodeId,
    pub why: String,
}
