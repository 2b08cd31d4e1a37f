//! What the machine is shown each time it is asked to go on.

use std::collections::{BTreeMap, BTreeSet};

use mtxfleet_wire::{Bitrate, CameraSource, LegId, Mono, NodeId, StreamName, UnixMillis, WorkerId};

/// One look at the draining node and at those that can take over.
#[derive(Debug, Clone, Default)]
pub struct Observation {
    pub now: Mono,
    pub wall: UnixMillis,
    /// When the lists of connections below were taken; `None` while MediaMTX does not answer, which leaves them empty
    /// and proves nothing.
    pub looked: Option<Mono>,
    pub legs: Vec<ObservedLeg>,
    /// RTSP readers that count as workers, but have no leg id and so cannot be told.
    pub readers: Vec<Reader>,
    pub viewers: Vec<Reader>,
    /// How often each load balancer has asked since it was first answered `drain`.
    pub polls_since_told: BTreeMap<String, Polls>,
    /// Balancers that polled in the time before the drain.
    pub known_pollers: BTreeSet<String>,
    /// When a session that was not there before was last seen.
    pub last_new_session: Option<Mono>,
    /// Healthy nodes of this role.
    pub candidates: Vec<Candidate>,
    /// What only an ingestion node has.
    pub ingestion: Option<IngestionSide>,
}

/// What an ingestion node sees of its cameras, and of those that read them elsewhere.
#[derive(Debug, Clone, Default)]
pub struct IngestionSide {
    /// Streams that this node has from their cameras.
    pub cameras: Vec<ObservedCamera>,
    /// Legs that read these at nodes which pull them from here.
    pub legs_elsewhere: Vec<ObservedLeg>,
    /// Legs at other ingestion nodes.
    pub legs_at_owners: Vec<ObservedLeg>,
    /// Healthy distribution nodes.
    pub distribution: Vec<Candidate>,
    /// Healthy ingestion nodes that have a camera's stream too, and deliver it.
    pub owners: BTreeMap<StreamName, Owner>,
    /// Workers that still read this node's recordings, or read its cameras and are away: they may want to.
    pub recording_readers: u32,
}

/// A stream that this node has from its camera.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedCamera {
    pub stream: StreamName,
    pub source: CameraSource,
    /// A reader gets it here. A pulled camera that cannot be reached is listed and not available.
    pub available: bool,
    /// The session of a camera that publishes.
    pub session: Option<String>,
    /// Connections of distribution nodes.
    pub pulls: Vec<Pull>,
}

/// A distribution node's connection to this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pull {
    pub session: String,
    pub node: NodeId,
    /// It is a leg of that node's relay, which goes to the next owner by itself, and is not to be cut before.
    pub moves: bool,
}

/// Another ingestion node that has the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub node: NodeId,
    /// `host:port` of its RTSP server.
    pub rtsp: String,
    /// Since when, by its clock.
    pub since: UnixMillis,
}

/// A load balancer's polls since the word `drain` was there for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Polls {
    pub first: Mono,
    pub count: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedLeg {
    pub leg: LegId,
    pub worker: WorkerId,
    pub stream: StreamName,
    /// The node that it reads at; `None`: this one.
    pub at: Option<NodeId>,
    /// MediaMTX's id of its session; empty where it reads elsewhere.
    pub session: String,
    pub bitrate: Option<Bitrate>,
}

/// A connection that can only be ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    pub session: String,
    pub stream: String,
}

/// A healthy node that can take over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub node: NodeId,
    /// `host:port` of its RTSP server.
    pub rtsp: String,
    /// Outbound bits per second it can take on; `None` when it did not say.
    pub spare: Option<Bitrate>,
    /// Streams that it has open.
    pub warm: BTreeSet<StreamName>,
}
