//! Where a leg can go, and in which order it is tried.

use std::collections::{BTreeSet, VecDeque};

use mtxfleet_wire::{Candidate, LegNotice, MoveReason, NodeId, rendezvous_score};

use crate::config::Via;

/// Candidates tried for one order, so that it ends within a drain's deadline even when each takes its full time.
const MOST_CANDIDATES: usize = 4;

/// Tries of the stable URL for one order when the worker sees nothing else.
const STABLE_TRIES: usize = 3;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Node {
        node: NodeId,
        /// `host:port`.
        rtsp: String,
    },
    StableUrl,
}

impl Target {
    /// `None` when the load balancer chooses.
    pub(crate) const fn node(&self) -> Option<&NodeId> {
        match self {
            Self::Node { node, .. } => Some(node),
            Self::StableUrl => None,
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node { node, rtsp } => write!(f, "{node} ({rtsp})"),
            Self::StableUrl => f.write_str("stable URL"),
        }
    }
}

/// Warm candidates first: they are alike for a reader, so the legs spread over them by rendezvous. Then the cold ones
/// as the draining node ranked them, since each one more means one more pull. The stable URL last; not when a camera
/// changes its owner, since it may lead to a node that still has the stream from the old one.
pub(super) fn in_order(via: Via, named: &LegNotice, draining: &BTreeSet<NodeId>) -> VecDeque<Target> {
    let owner_only = named.reason == MoveReason::OwnerChanges;
    if via == Via::StableUrl {
        return vec![Target::StableUrl; if owner_only { 0 } else { STABLE_TRIES }].into();
    }
    // A camera's next owner is in service, whatever was heard of it before.
    let usable = named.candidates.iter().filter(|candidate| owner_only || !draining.contains(&candidate.node));
    let (mut warm, cold): (Vec<&Candidate>, Vec<&Candidate>) = usable.partition(|candidate| candidate.warm);
    let score = |candidate: &Candidate| rendezvous_score(named.leg.as_str(), candidate.node.as_str(), 1.0);
    warm.sort_by(|a, b| score(b).total_cmp(&score(a)));
    let nodes = warm.into_iter().chain(cold).take(MOST_CANDIDATES);
    let nodes = nodes.map(|candidate| Target::Node { node: candidate.node.clone(), rtsp: candidate.rtsp.clone() });
    nodes.chain((!owner_only).then_some(Target::StableUrl)).collect()
}
