//! What is asked of Redis, and what it answers. `lease.lua` of the agent is the other side.

use std::time::Duration;

use mtxfleet_wire::{LeaseHolder, NodeId, Role, RunId};

/// One ask. Redis does it as one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseOrder {
    /// Comes back with the answer, so that a late one gives nothing.
    pub number: u64,
    pub role: Role,
    pub node: NodeId,
    pub run: RunId,
    pub ttl: Duration,
    pub ask: LeaseAsk,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseAsk {
    /// The lease, if it is free or void, under a number above `floor`. Where this run holds it already by a number above
    /// `floor` (the answer to an earlier ask was lost), that stands.
    Take { floor: u64 },
    /// The lease for another TTL, if this run holds it by this number.
    Renew { epoch: u64 },
    /// Its end, if this run holds it by this number.
    Release { epoch: u64 },
}

impl LeaseAsk {
    #[must_use]
    pub const fn is_release(self) -> bool {
        matches!(self, Self::Release { .. })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseAnswer {
    /// To `Take` and `Renew`.
    Granted {
        epoch: u64,
        /// To be waited out before anything is done, since Redis failed over, restarted or was emptied just before: there
        /// may be a holder of a term that it knows nothing of. Zero to `Renew`.
        wait: Duration,
    },
    /// To `Take`: another one holds it, for this long at most.
    Held { by: LeaseHolder, left: Duration },
    /// To `Renew`: it is nobody's, another's, or from before Redis failed over.
    Lost,
    /// To `Release`: this run does not hold it now.
    Released,
    /// Granted, and then not on as many replicas as must have it: a lease that was taken is not acted on, one that was
    /// renewed lasts no longer than before, as far as its holder may count on it.
    NotReplicated { epoch: u64 },
    /// No answer in time. Whether Redis did it is not known.
    Unreachable(String),
}
