//! What the two orchestrators show of themselves: bodies of `/v1/orchestrators` and `/v1/decisions`, and two gossip keys.
//!
//! | key | said by | holds |
//! |---|---|---|
//! | `decisions` | an orchestrator | [`DecisionsReport`]: the last of its decisions, so that every agent can show them |
//! | `controls` | every agent | a list of [`Control`], one a role: the newest that it has heard of |

use serde::{Deserialize, Serialize};

use crate::{NodeId, Role, UnixMillis};

/// Plans are ordered: by the term of the orchestrator that made them, then by their number in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PlanId {
    pub epoch: u64,
    pub number: u64,
}

impl std::fmt::Display for PlanId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.epoch, self.number)
    }
}

/// One role's orchestrator in `GET /v1/orchestrators`, as the agent that answers sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrchestratorView {
    pub role: Role,
    /// The node that acts, as far as the agent knows.
    pub leader: Option<NodeId>,
    /// Number of its term.
    pub epoch: Option<u64>,
    /// What the agent that answers is for this role.
    pub standing: StandingView,
    /// Why it is that, in words; may be empty.
    #[serde(default)]
    pub why: String,
    /// The leader decides and records, and does nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Set while the role is paused: who paused it and why.
    #[serde(default)]
    pub paused: Option<Control>,
    /// The plan that holds.
    #[serde(default)]
    pub plan: Option<PlanView>,
    /// The last ones, the newest last; `GET /v1/decisions` has more of them at the orchestrator itself.
    #[serde(default)]
    pub decisions: Vec<DecisionView>,
}

/// What an agent is for a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StandingView {
    /// Holds the lease: decides, plans, acts.
    Acting,
    /// Redis is away, and this node alone lets the cluster grow.
    GrowOnly,
    /// Could act, and another one does.
    Following,
    /// Is no candidate: of the other role, not in service, or told not to orchestrate.
    Idle,
}

impl StandingView {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Acting => "acting",
            Self::GrowOnly => "grow only",
            Self::Following => "following",
            Self::Idle => "idle",
        }
    }
}

/// What is wanted, as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanView {
    pub id: PlanId,
    /// Nodes that are to serve or to launch.
    pub size: u32,
    pub drains: Vec<PlannedDrain>,
    /// Nodes that take new streams.
    pub takers: Vec<NodeId>,
    pub rule: String,
    pub reasons: Vec<String>,
}

/// A node that is to go, and why this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedDrain {
    pub node: NodeId,
    pub why: String,
}

/// One decision, or several in a row that were alike: of those, the figures are the last one's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecisionView {
    pub role: Role,
    /// The node that decided, in which of its terms, and the number of the decision since its agent started.
    pub by: NodeId,
    pub epoch: Option<u64>,
    pub number: u64,
    /// When it was first and last decided so, and how often.
    pub first: UnixMillis,
    pub last: UnixMillis,
    pub count: u64,
    pub effect: DecisionEffect,
    pub outcome: OutcomeView,
    /// Which part of the policy had the last word: `range`, `load`, `cpu`, `window`, `hold`, `underway`, `schedule`.
    pub rule: String,
    /// What the load asks for now, before windows and steps, within the range.
    pub wanted: u32,
    pub inputs: InputsView,
    /// The one that decided first.
    pub reasons: Vec<String>,
    /// Nodes chosen to be drained, each with its reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub victims: Vec<PlannedDrain>,
}

/// What becomes of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecisionEffect {
    /// It is carried out.
    Live,
    /// `dry_run`: recorded only.
    DryRun,
    /// The role is paused: recorded only.
    Paused,
    /// Redis is away: only growing is carried out.
    GrowOnly,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum OutcomeView {
    Nothing,
    /// `cancel` drains end and their nodes serve again; `launch` nodes are new.
    Grow {
        cancel: u32,
        launch: u32,
    },
    Shrink {
        drain: u32,
    },
}

impl OutcomeView {
    /// As metrics and tables call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Grow { .. } => "grow",
            Self::Shrink { .. } => "shrink",
        }
    }
}

/// The cluster as it was counted for a decision.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct InputsView {
    pub serving: u32,
    pub launching: u32,
    pub draining: u32,
    /// Of those draining, how many the orchestrator could put back into service.
    pub cancellable: u32,
    pub unhealthy: u32,
    pub loads: Vec<MetricView>,
    /// Mean share of all cores in use over the serving nodes; `None` when one of them did not say.
    pub cpu: Option<f64>,
    /// Seconds from a launch to its first reader, as measured; `None` when the configuration's is taken.
    pub lead_seconds: Option<f64>,
}

/// One metric over the whole cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricView {
    /// `cameras`, `readers`, `inbound`, `outbound` (bits per second).
    pub metric: String,
    /// The sum of what is known.
    pub known: f64,
    /// Nodes that did not say.
    pub missing: u32,
    /// What one node carries.
    pub per_node: f64,
}

/// Gossip key `decisions`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecisionsReport {
    pub role: Role,
    pub epoch: Option<u64>,
    #[serde(default)]
    pub dry_run: bool,
    /// The newest last.
    pub decisions: Vec<DecisionView>,
}

/// Whether a role is paused: a register with a version, which every agent keeps and passes on. The highest
/// ([`Control::version`], [`Control::by`]) wins, so it needs no Redis and outlives whoever set it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    pub role: Role,
    pub paused: bool,
    pub version: u64,
    /// The node whose agent took the order.
    pub by: NodeId,
    #[serde(default)]
    pub why: String,
    pub at: UnixMillis,
}

impl Control {
    /// Whether this one is newer than `other`.
    #[must_use]
    pub fn beats(&self, other: &Self) -> bool {
        (self.version, &self.by) > (other.version, &other.by)
    }
}

/// Body of `POST /v1/pause` and `POST /v1/resume`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlOrder {
    pub role: Role,
    /// For the record.
    #[serde(default)]
    pub why: String,
}
