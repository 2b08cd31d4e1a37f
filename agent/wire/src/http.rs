//! Bodies of the HTTP API, `docs/ref/http-api.md`.

use serde::{Deserialize, Serialize};

use crate::{
    CameraOutcome, CamerasReport, DrainId, DrainReport, LegOutcome, LoadReport, NodeFacts, NodeId, PhaseTime,
    StreamReport, UnixMillis,
};

/// The five phases of a drain, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    PreNotification,
    LoadBalancer,
    WorkerMigration,
    ViewerDraining,
    Cleanup,
}

impl Phase {
    pub const ALL: [Self; 5] =
        [Self::PreNotification, Self::LoadBalancer, Self::WorkerMigration, Self::ViewerDraining, Self::Cleanup];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PreNotification => "pre-notification",
            Self::LoadBalancer => "load balancer",
            Self::WorkerMigration => "worker migration",
            Self::ViewerDraining => "viewer draining",
            Self::Cleanup => "cleanup",
        }
    }

    /// 1 to 5.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8 + 1
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// How sure an agent is that another node lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Liveness {
    Alive,
    /// Silent just now: nothing new is sent there.
    Suspect,
    /// Silent for long: marked `offline`.
    Dead,
}

/// One node in `GET /v1/fleet`; `GET /v1/node` gives the agent's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberView {
    pub node: NodeId,
    pub liveness: Liveness,
    pub facts: Option<NodeFacts>,
    pub load: Option<LoadReport>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainReport>,
    /// Cameras that it hands over while it stays in service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moves: Option<DrainReport>,
    /// On an ingestion node that pulls cameras.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cameras: Option<CamerasReport>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FleetView {
    pub cluster: String,
    /// The agent that answered.
    pub seen_by: NodeId,
    pub at: UnixMillis,
    pub members: Vec<MemberView>,
}

/// One stream in `GET /v1/streams`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamView {
    #[serde(flatten)]
    pub stream: StreamReport,
    pub node: NodeId,
}

/// Body of `POST /v1/drain`. All fields may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrainOrder {
    /// Begin even where the rules refuse: last serving nodes, no Redis.
    pub force: bool,
    /// For the record.
    pub reason: String,
}

/// Why a drain was not begun: body of a 409.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "refused", rename_all = "snake_case")]
pub enum DrainRefusal {
    #[error("drain {drain} of this node is under way already")]
    AlreadyDraining { drain: DrainId },
    #[error("this node is out of service already; `mtxfleet undrain` brings it back")]
    AlreadyOffline,
    #[error("only {serving} {role} node(s) would be left, and {minimum} must be; start another first, or use --force")]
    BelowMinimum { role: crate::Role, serving: u32, minimum: u32 },
    #[error("Redis is away, so two drains could slip below the minimum together; wait for it, or use --force")]
    NoRegistry,
    #[error("the plan that wants this drain is of term {epoch}, which is not the latest; the next plan decides")]
    PlanSuperseded { epoch: u64 },
    #[error("this node is not in a drain")]
    NotDraining,
    #[error(
        "the drain is in cleanup and cannot be cancelled; `mtxfleet undrain` brings the node back when it has ended"
    )]
    TooLate,
}

/// `GET /v1/drain`: the drain under way, live, or the last one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrainView {
    pub drain: DrainId,
    pub node: NodeId,
    pub started: UnixMillis,
    /// The phase it is in; `None` when it has ended.
    pub phase: Option<Phase>,
    pub seconds_in_phase: f64,
    /// Seconds until this phase ends whatever it waits for.
    pub seconds_left: f64,
    /// What it waits for, in words.
    pub waiting_for: Vec<String>,
    /// Phases behind it.
    pub phases: Vec<PhaseTime>,
    pub legs: Vec<LegOutcome>,
    /// On an ingestion node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cameras: Vec<CameraOutcome>,
    pub viewers: u32,
    /// `Some` when it has ended.
    pub record: Option<crate::DrainRecord>,
}
