//! Why a phase is not over yet, as typed reasons that are shown live.

use mtxfleet_wire::{LegId, NodeId, StreamName, WorkerId};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blocker {
    /// The worker has not acknowledged the notice.
    Unacknowledged { worker: WorkerId, leg: LegId },
    /// The load balancer has not asked again since it was told.
    NotPolled { poller: String },
    /// A new session came a moment ago.
    NotQuiet { session_ago_ms: u64 },
    /// The leg was not asked to move yet: no node has its stream warm.
    NotWarm { stream: StreamName, first_choice: Option<NodeId> },
    /// The leg waits until the batch before it has moved.
    InNextBatch { worker: WorkerId, stream: StreamName },
    /// The leg was asked to move and is still here.
    Moving { worker: WorkerId, stream: StreamName },
    /// The worker said that it cannot move; its leg is disconnected at the deadline.
    CannotMove { worker: WorkerId, stream: StreamName, why: String },
    /// Readers without a leg id are being disconnected.
    Readers { left: usize },
    /// Viewers may leave by themselves for a while longer.
    ViewersLeaving { left: usize, cut_in_ms: u64 },
    /// Viewers are being disconnected.
    ViewersCut { left: usize },
    /// Connections that should be gone are still there.
    Connections { left: usize },
    /// MediaMTX has not said who is connected since the phase began, or says nothing any more.
    ServerSilent,
}

impl Blocker {
    /// In words, without a figure that runs down by itself: what is gossiped is news to all nodes each time it changes.
    #[must_use]
    pub fn gist(&self) -> String {
        match self {
            Self::NotQuiet { .. } => "new sessions came until just now".to_owned(),
            Self::ViewersLeaving { left, .. } => format!("{left} viewer(s) may leave by themselves for a while"),
            other => other.to_string(),
        }
    }
}

impl std::fmt::Display for Blocker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unacknowledged { worker, .. } => write!(f, "worker {worker} has not acknowledged"),
            Self::NotPolled { poller } => write!(f, "load balancer {poller} has not polled again"),
            Self::NotQuiet { session_ago_ms } => write!(f, "no new session for {session_ago_ms} ms only"),
            Self::NotWarm { stream, first_choice: Some(node) } => write!(f, "{node} has not opened {stream} yet"),
            Self::NotWarm { stream, first_choice: None } => write!(f, "no other node can take {stream}"),
            Self::InNextBatch { worker, stream } => write!(f, "{worker} on {stream} waits for the batch before it"),
            Self::Moving { worker, stream } => write!(f, "{worker} on {stream} is moving"),
            Self::CannotMove { worker, stream, why } => {
                // The words are the worker's own, of any length.
                let why: String = why.chars().take(200).collect();
                write!(f, "{worker} on {stream} cannot move: {why}")
            }
            Self::Readers { left } => write!(f, "{left} reader(s) without a leg id are being disconnected"),
            Self::ViewersLeaving { left, cut_in_ms } => {
                write!(f, "{left} viewer(s) may leave by themselves for {:.1} s more", *cut_in_ms as f64 / 1e3)
            }
            Self::ViewersCut { left } => write!(f, "{left} viewer(s) are being disconnected"),
            Self::Connections { left } => write!(f, "{left} connection(s) are still there"),
            Self::ServerSilent => f.write_str("MediaMTX has not said yet who is connected"),
        }
    }
}
