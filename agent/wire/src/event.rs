//! Events: what happened in the fleet, for people, workers and webhooks.
//!
//! The same JSON goes out by Redis pub/sub, into the capped event log, over `/v1/events` (SSE) and by webhook.

use serde::{Deserialize, Serialize};

use crate::{
    DrainId, DrainNotice, DrainRecord, EventId, HandOverRecord, HealthReport, InstanceId, MoveOrder, Named, NodeId,
    NodeState, Phase, Role, StreamName, UnixMillis,
};

/// One event with where and when it came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FleetEvent {
    pub schema: u16,
    pub id: EventId,
    pub at: UnixMillis,
    /// The node it is about, which need not be the one that says it.
    pub node: NodeId,
    #[serde(flatten)]
    pub what: EventKind,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub enum EventKind {
    #[serde(rename = "node.joined")]
    NodeJoined { role: Role },
    #[serde(rename = "node.state")]
    NodeStateChanged { from: NodeState, to: NodeState, why: String },
    #[serde(rename = "node.suspected")]
    NodeSuspected,
    /// Its agent finds other ills than before, or started its server again, or can do no more.
    #[serde(rename = "node.health")]
    NodeHealth(HealthReport),
    /// Its instance is ended without decrement, so that the cloud starts another.
    #[serde(rename = "node.replaced")]
    NodeReplaced { instance: InstanceId, why: String },
    #[serde(rename = "drain.notice")]
    DrainNotice(DrainNotice),
    #[serde(rename = "drain.phase")]
    DrainPhase { drain: DrainId, phase: Phase },
    #[serde(rename = "drain.move")]
    DrainMove(MoveOrder),
    #[serde(rename = "drain.cancelled")]
    DrainCancelled { drain: DrainId, why: String },
    #[serde(rename = "drain.ended")]
    DrainEnded(Box<DrainRecord>),
    /// This node pulls these cameras from now on; `from` had them before, as far as it was heard of.
    #[serde(rename = "camera.taken")]
    CamerasTaken { streams: Vec<StreamName>, from: Option<NodeId> },
    /// Cameras of this node are another's now, and their workers were led over. `record` is `None` where another agent passes
    /// it on. After it nobody is told anything more of this hand-over.
    #[serde(rename = "camera.handed_over")]
    CamerasHandedOver { hand_over: DrainId, record: Option<Box<HandOverRecord>> },
    /// Cameras that are pulled here deliver nothing for some time. They are tried on.
    #[serde(rename = "camera.unreachable")]
    CamerasUnreachable { streams: Vec<StreamName> },
    #[serde(rename = "camera.reachable")]
    CamerasReachable { streams: Vec<StreamName> },
    /// Another inventory is in force on this node.
    #[serde(rename = "inventory.taken")]
    InventoryTaken {
        hash: String,
        cameras: u32,
        /// Left out, since their entries are wrong or stand twice.
        #[serde(default, skip_serializing_if = "Named::is_empty")]
        wrong: Named,
    },
    /// The newest inventory is not in force on this node; the one before it stays.
    #[serde(rename = "inventory.refused")]
    InventoryRefused { problems: u32, first: String },
}

impl EventKind {
    /// All that [`EventKind::name`] can give, as filters choose from them.
    pub const NAMES: [&'static str; 16] = [
        "node.joined",
        "node.state",
        "node.suspected",
        "node.health",
        "node.replaced",
        "drain.notice",
        "drain.phase",
        "drain.move",
        "drain.cancelled",
        "drain.ended",
        "camera.taken",
        "camera.handed_over",
        "camera.unreachable",
        "camera.reachable",
        "inventory.taken",
        "inventory.refused",
    ];

    /// The name in the JSON's `type`, and the SSE event name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::NodeJoined { .. } => "node.joined",
            Self::NodeStateChanged { .. } => "node.state",
            Self::NodeSuspected => "node.suspected",
            Self::NodeHealth(_) => "node.health",
            Self::NodeReplaced { .. } => "node.replaced",
            Self::DrainNotice(_) => "drain.notice",
            Self::DrainPhase { .. } => "drain.phase",
            Self::DrainMove(_) => "drain.move",
            Self::DrainCancelled { .. } => "drain.cancelled",
            Self::DrainEnded(_) => "drain.ended",
            Self::CamerasTaken { .. } => "camera.taken",
            Self::CamerasHandedOver { .. } => "camera.handed_over",
            Self::CamerasUnreachable { .. } => "camera.unreachable",
            Self::CamerasReachable { .. } => "camera.reachable",
            Self::InventoryTaken { .. } => "inventory.taken",
            Self::InventoryRefused { .. } => "inventory.refused",
        }
    }
}
