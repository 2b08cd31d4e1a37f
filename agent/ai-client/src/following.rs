//! A stream read straight from whichever node owns it, and followed when that changes: for a relay beside a media server,
//! whose agent knows owners by gossip, and needs no load balancer to find one.

use mtxfleet_wire::{LegId, NodeId};
use tokio::sync::watch;

use crate::handover::Target;

/// An ingestion node, as one that has a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub node: NodeId,
    /// `host:port` of its RTSP server.
    pub rtsp: String,
}

/// Where to read a stream from, and as what.
#[derive(Debug, Clone)]
pub struct Follow {
    /// `None` while nobody is known to own it: what is read then goes on.
    pub owner: watch::Receiver<Option<Owner>>,
    /// The node that the stream is for. The owner's agent sees `?pull=NODE&leg=UUID`: a member that pulls, and that moves
    /// by itself.
    pub node: NodeId,
}

impl Follow {
    pub(crate) fn query(&self, leg: &LegId) -> String {
        format!("pull={}&leg={leg}", self.node)
    }

    /// Where the stream is now, as far as anybody knows.
    pub(crate) fn target(&self) -> Option<Target> {
        let owner = self.owner.borrow().clone()?;
        Some(Target::Node { node: owner.node, rtsp: owner.rtsp })
    }

    /// Waits for another owner; never, when none is followed, or nobody says so any more. Cancel-safe.
    pub(crate) async fn changed(follow: &mut Option<Self>) {
        let changed = match follow {
            Some(follow) => follow.owner.changed().await.is_ok(),
            None => false,
        };
        if !changed {
            std::future::pending().await
        }
    }
}
