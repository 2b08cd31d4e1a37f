//! What an orchestrator wants, as data: the whole of it, always.
//!
//! A plan is never changed once made. Whoever carries it out compares it with what is there, so one that is missed,
//! repeated or overwritten does no harm; one of an older epoch is refused.

use std::collections::{BTreeMap, BTreeSet};

use mtxfleet_wire::{NodeId, Role};
use serde::{Deserialize, Serialize};

use crate::engine::victim::VictimReason;
use crate::engine::{Reason, Rule};

/// Plans are ordered: by the term of the orchestrator that made them, then by their number in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PlanId {
    pub epoch: u64,
    pub number: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub id: PlanId,
    /// The plan it was made from; `None` for the first of a fleet.
    pub parent: Option<PlanId>,
    pub role: Role,
    /// Nodes that are to serve or to launch: a number to reach, never one to add.
    pub size: u32,
    /// Nodes that are to be taken out of service, with the reason why these. One that is no longer here goes back into
    /// service where its drain can still be cancelled.
    pub drains: BTreeMap<NodeId, VictimReason>,
    /// Nodes that take new streams.
    pub takers: BTreeSet<NodeId>,
    pub rule: Rule,
    pub reasons: Vec<Reason>,
}

impl Plan {
    /// Whether both want the same, whoever made them and why.
    #[must_use]
    pub fn wants_the_same(&self, other: &Self) -> bool {
        self.role == other.role
            && self.size == other.size
            && self.takers == other.takers
            && self.drains.keys().eq(other.drains.keys())
    }
}
