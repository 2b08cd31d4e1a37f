//! What the machine is shown each time it is asked to go on.

use std::collections::{BTreeMap, BTreeSet};

use mtxfleet_wire::{Bitrate, LegId, Mono, NodeId, StreamName, UnixMillis, WorkerId};

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
    pub candidates: Vec<Candidate>,
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
    /// MediaMTX's id of its session.
    pub session: String,
    pub bitrate: Option<Bitrate>,
}

/// A connection that can only be ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    pub session: String,
    pub stream: String,
}

/// A healthy node of the same role.
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
