//! What an orchestrator wants, as data: the whole of it, always.
//!
//! A plan is never changed once made. Whoever carries it out compares it with what is there, so one that is missed,
//! repeated or overwritten does no harm; one of an older epoch is refused.

use std::collections::{BTreeMap, BTreeSet};

pub use mtxfleet_wire::PlanId;
use mtxfleet_wire::{NodeId, Role, RunId, Token};
use serde::{Deserialize, Serialize};

use crate::engine::victim::VictimReason;
use crate::engine::{Reason, Rule};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub id: PlanId,
    /// The run that got the term: of one epoch, the run that was heard first is obeyed, and no other.
    pub run: RunId,
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
    /// What this plan is judged by.
    #[must_use]
    pub const fn token(&self) -> Token {
        Token { epoch: self.id.epoch, run: self.run }
    }

    /// Whether both want the same, whoever made them and why.
    #[must_use]
    pub fn wants_the_same(&self, other: &Self) -> bool {
        self.role == other.role
            && self.size == other.size
            && self.takers == other.takers
            && self.drains.keys().eq(other.drains.keys())
    }
}
