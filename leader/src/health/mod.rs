//! What an orchestrator makes of the health of its cluster.
//!
//! Each agent finds its own ills and tells them by gossip; each also asks a few others' RTSP ports. Here both come
//! together: [`outside`] tells a broken server from a broken network, and [`replacement`] decides which machines are to
//! be replaced, and which not yet.

pub mod replacement;

use mtxfleet_wire::{Liveness, MemberView, NodeId};

/// What others see of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outside {
    /// Nobody reports that its RTSP port does not answer.
    Fine,
    /// Its own agent finds it ill, whatever others see.
    BrokenServer,
    /// Its own agent finds nothing wrong, and these do not reach its RTSP port: the way between is broken.
    BrokenNetwork { by: Vec<NodeId> },
}

/// What live members report of `node`.
#[must_use]
pub fn outside(members: &[MemberView], node: &NodeId) -> Outside {
    let load = members.iter().find(|member| member.node == *node).and_then(|member| member.load.as_ref());
    if load.is_some_and(mtxfleet_wire::LoadReport::is_broken) {
        return Outside::BrokenServer;
    }
    let misses = |member: &&MemberView| {
        let health = member.load.as_ref().and_then(|load| load.health.as_ref());
        member.liveness == Liveness::Alive && health.is_some_and(|health| health.unreachable.contains(node))
    };
    let by: Vec<NodeId> = members.iter().filter(misses).map(|member| member.node.clone()).collect();
    if by.is_empty() { Outside::Fine } else { Outside::BrokenNetwork { by } }
}
