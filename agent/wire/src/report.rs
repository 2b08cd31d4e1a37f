//! What a node says of itself in gossip: the **node report**.
//!
//! | key | changes | holds |
//! |---|---|---|
//! | `facts` | at start | [`NodeFacts`] |
//! | `load` | every second | [`LoadReport`] |
//! | `streams/0` .. `streams/f` | when they change | a list of [`StreamReport`], by hash of the name |
//! | `drain` | while draining | [`DrainReport`] |
//! | `terms` | when an orchestrator changes | [`crate::TermsReport`] |
//! | `plan` | when an orchestrator wants something else | the plan of crate `leader` |
//! | `decisions` | when an orchestrator decided something else | [`crate::DecisionsReport`] |
//! | `controls` | when a role is paused or resumed | a list of [`crate::Control`] |
//!
//! A figure that is missing is `None`: unknown, never zero.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Bitrate, DrainId, HealthReport, InstanceId, LegId, NodeId, Phase, StreamName, UnixMillis, WorkerId};

/// chitchat panics on values over 65,535 bytes; a value longer than this is refused before it is set.
pub const MAX_GOSSIP_VALUE: usize = 60_000;

/// Number of `streams/` keys that a node's streams are spread over.
pub const STREAM_SHARDS: u8 = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Cameras publish here, or it pulls them.
    Ingestion,
    /// Viewers and AI workers read here.
    Distribution,
}

impl Role {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingestion => "ingestion",
            Self::Distribution => "distribution",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// In service.
    Active,
    /// On its way out; serves what it has, takes nothing new.
    Draining,
    /// Out of service: drained, or confirmed dead by others.
    Offline,
}

impl NodeState {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Offline => "offline",
        }
    }
}

impl std::fmt::Display for NodeState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// What does not change while a node's agent runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    pub schema: u16,
    pub role: Role,
    /// Availability zone or rack, empty when unknown.
    pub zone: String,
    /// `host:port` where other nodes and workers reach this node's RTSP server.
    pub rtsp: String,
    /// `http://host:port` of this node's agent.
    pub http: String,
    /// `ip:port` of its gossip, so that a newcomer finds the fleet in the registry.
    #[serde(default)]
    pub gossip: String,
    /// Version of mtxfleet.
    pub version: String,
    pub started: UnixMillis,
    /// What the cloud calls this machine; `None` where no cloud started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
}

/// How the node's MediaMTX answers its agent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is", content = "why")]
pub enum ServerHealth {
    /// Not asked yet.
    #[default]
    Unknown,
    Up,
    /// No connection, or no answer in time.
    Away(String),
    /// It answers, but not as MediaMTX should (401, 404, HTML, half a JSON): the text says what.
    Odd(String),
}

/// The part of a report that is new every second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    pub state: NodeState,
    pub server: ServerHealth,
    /// Streams owned (ingestion) that are ready.
    pub cameras: Option<u32>,
    /// AI workers reading here, each counted once however many legs it has here.
    pub workers: Option<u32>,
    pub viewers: Option<u32>,
    pub inbound: Option<Bitrate>,
    pub outbound: Option<Bitrate>,
    /// Packets that MediaMTX threw away since a reader was too slow, counted while this agent runs.
    #[serde(default)]
    pub discarded_packets: u64,
    /// Share of all cores in use, 0.0 to 1.0.
    pub cpu: Option<f32>,
    /// Share of memory in use, 0.0 to 1.0.
    pub memory: Option<f32>,
    /// Bytes free where recordings go.
    pub disk_free: Option<u64>,
    /// Outbound bits per second this node is meant to carry at most, by configuration.
    pub capacity: Bitrate,
    /// Nodes that this one does not hear now. A node is dead only when another one suspects it too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suspects: Vec<NodeId>,
    /// What the node finds wrong with itself; `None` from an agent that does not look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthReport>,
    /// Whether this agent reaches Redis.
    pub redis: bool,
    /// An operator wants it kept: no plan drains it.
    #[serde(default)]
    pub protected: bool,
    /// Why it carries out no plan that drains it now, in words; `None`: it would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declines: Option<String>,
    /// When MediaMTX was looked at; while it does not answer, when this was said.
    pub sampled: UnixMillis,
}

/// One stream on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamReport {
    pub name: StreamName,
    /// True on the ingestion node that has the stream from its camera.
    pub owned: bool,
    /// MediaMTX has it, and a reader would get it without waiting for a keyframe.
    pub ready: bool,
    /// Its bytes are growing now.
    pub flowing: bool,
    /// When it became ready, by its own machine's clock: for its age, and for nothing that is decided.
    pub since: UnixMillis,
    /// Generation of the claim of ownership: one above all that its node had heard of when the stream became ready
    /// there. Of two claims whose bytes grow, the higher wins. 0 where it is not owned.
    #[serde(default)]
    pub claim: u64,
    /// Legs of workers that read it here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub legs: Vec<Leg>,
    /// Other readers of it here, members' own pulls not counted.
    pub readers: u32,
    /// Bits per second of one copy; said anew when it has changed by more than a fifth, so that the report changes seldom.
    pub bitrate: Option<Bitrate>,
}

/// One connection of a worker, as the agent sees it on its node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Leg {
    pub worker: WorkerId,
    pub leg: LegId,
}

/// What a draining node tells the others: whom it hands over to. From it every agent derives the same
/// [`crate::DrainNotice`] for its own event stream, so workers hear of the drain when Redis is away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainReport {
    pub id: DrainId,
    pub phase: Phase,
    pub started: UnixMillis,
    pub deadline: UnixMillis,
    /// Nodes that take over; [`DrainReport::streams`] points into it.
    pub nodes: Vec<NodeId>,
    /// For each stream that legs read here (on an ingestion node: wherever they read it), indices into `nodes`, best
    /// first. The first one warms it.
    pub streams: BTreeMap<StreamName, Vec<u8>>,
    /// Legs asked to move now: the present batch.
    pub moving: Vec<LegId>,
    /// On an ingestion node: streams whose cameras publish here, of those that legs read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pushed: Vec<StreamName>,
    /// What the phase waits for, in words; [`DrainReport::WAITS_SAID`] of them at most, for the status page of every
    /// agent. `GET /v1/drain` of the node itself has all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<String>,
    /// How many more there are.
    #[serde(default)]
    pub waiting_more: u32,
}

impl DrainReport {
    /// More than these nobody reads at a glance, and each is gossiped whenever it changes.
    pub const WAITS_SAID: usize = 5;
}

/// Which of the `streams/` keys a stream is in: FNV-1a of its name, modulo [`STREAM_SHARDS`].
#[must_use]
pub fn stream_shard(name: &StreamName) -> u8 {
    (crate::rendezvous::fnv1a(name.as_str().as_bytes()) % u64::from(STREAM_SHARDS)) as u8
}

impl LoadReport {
    /// Its agent finds it broken: idle perhaps, but not the least loaded.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.health.as_ref().is_some_and(|health| !health.ills.is_empty())
    }
}
