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
    /// No other ingestion node has this camera yet.
    NoNextOwner { stream: StreamName },
    /// The camera delivers nothing here, and no other node has it: it may be back in a moment.
    CameraSilent { stream: StreamName },
    /// The camera's next owner has it, and the distribution nodes may not have heard of it yet.
    OwnerIsNew { stream: StreamName, owner: NodeId },
    /// The worker was asked to open a leg straight to the camera's next owner.
    Bridging { worker: WorkerId, stream: StreamName, owner: NodeId },
    /// The worker reads at the next owner until its distribution node has the stream from there.
    Bridged { worker: WorkerId, stream: StreamName },
    /// The worker was asked to come back to a distribution node.
    Returning { worker: WorkerId, stream: StreamName },
    /// The node still pulls the stream from here.
    PullsHere { stream: StreamName, node: NodeId },
    /// Nobody reads the camera here any more; MediaMTX is to let go of it.
    LettingGo { stream: StreamName },
    /// The camera is disconnected, and not seen to publish elsewhere yet.
    CameraAway { stream: StreamName, for_ms: u64 },
    /// The camera is elsewhere now; the worker has not said yet how many frames it lacks.
    CountAwaited { worker: WorkerId, stream: StreamName },
    /// The camera publishes here, and waits for the one before it.
    CameraWaits { stream: StreamName },
    /// Cameras that were disconnected did not come back: no more are before the deadline.
    CamerasDoNotReturn { left: usize },
    /// Cameras that should be gone are still here.
    Cameras { left: usize },
    /// Workers may still need what was recorded here.
    Recordings { workers: u32, left_ms: u64 },
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
            Self::NoNextOwner { stream } => write!(f, "no other ingestion node has {stream} yet"),
            Self::CameraSilent { stream } => write!(f, "camera {stream} delivers nothing and is waited for a moment"),
            Self::OwnerIsNew { stream, owner } => write!(f, "{owner} has {stream} since a moment ago only"),
            Self::Bridging { worker, stream, owner } => write!(f, "{worker} on {stream} is moving to {owner}"),
            Self::Bridged { worker, stream } => write!(f, "{worker} on {stream} reads at the next owner for now"),
            Self::Returning { worker, stream } => {
                write!(f, "{worker} on {stream} is coming back to a distribution node")
            }
            Self::PullsHere { stream, node } => write!(f, "{node} still pulls {stream} from here"),
            Self::LettingGo { stream } => write!(f, "MediaMTX is letting go of {stream}"),
            Self::CameraAway { stream, for_ms } => {
                let seconds = *for_ms as f64 / 1e3;
                write!(f, "camera {stream} was disconnected {seconds:.1} s ago and is not seen elsewhere yet")
            }
            Self::CountAwaited { worker, stream } => {
                write!(f, "{worker} has not said yet what it lacks of {stream}")
            }
            Self::CameraWaits { stream } => write!(f, "camera {stream} waits for the one before it"),
            Self::CamerasDoNotReturn { left } => {
                write!(f, "disconnected cameras do not come back, so {left} more stay until the deadline")
            }
            Self::Cameras { left } => write!(f, "{left} camera(s) are still here"),
            Self::Recordings { workers, left_ms } => {
                let seconds = *left_ms as f64 / 1e3;
                write!(f, "{workers} worker(s) may need this node's recordings for {seconds:.1} s more")
            }
            Self::ServerSilent => f.write_str("MediaMTX has not said yet who is connected"),
        }
    }
}
