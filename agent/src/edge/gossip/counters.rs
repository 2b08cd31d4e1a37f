//! What gossip has sent, received and refused, for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why a datagram, or the message in it, was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// Not sealed with a key of this cluster: forged, damaged, or from a node with the wrong key.
    Forged,
    /// Of another cluster, by its name.
    OtherCluster,
    /// Its counter was seen before or is too old, or a newer start of its sender is known.
    Replayed,
    /// Shorter than any datagram of ours, or not of our format.
    Truncated,
    /// Longer than any datagram of ours.
    Oversize,
    /// In this node's own name: a loop, or two agents with one node id.
    OwnName,
    /// Parts of a long message whose other parts did not come in time, or that do not fit together.
    Reassembly,
    /// Authentic, but not a message that this version reads.
    Unreadable,
}

impl Refusal {
    pub const ALL: [Self; 8] = [
        Self::Forged,
        Self::OtherCluster,
        Self::Replayed,
        Self::Truncated,
        Self::Oversize,
        Self::OwnName,
        Self::Reassembly,
        Self::Unreadable,
    ];

    /// The `reason` label of the metric.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forged => "forged",
            Self::OtherCluster => "other_cluster",
            Self::Replayed => "replayed",
            Self::Truncated => "truncated",
            Self::Oversize => "oversize",
            Self::OwnName => "own_name",
            Self::Reassembly => "reassembly",
            Self::Unreadable => "unreadable",
        }
    }
}

/// Live counters, shared by the transport and whoever reads them.
#[derive(Debug, Default)]
pub struct GossipCounters {
    pub(super) datagrams_in: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) datagrams_out: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) probes: AtomicU64,
    /// Handshakes that this node began and ended by sending the other what it lacked.
    pub(super) handshakes: AtomicU64,
    pub(super) doubts: AtomicU64,
    pub(super) opened_with_old_key: AtomicU64,
    pub(super) send_failures: AtomicU64,
    pub(super) receive_failures: AtomicU64,
    pub(super) unreadable_values: AtomicU64,
    pub(super) oversize_values: AtomicU64,
    pub(super) streams_not_gossiped: AtomicU64,
    pub(super) seed_lookup_failures: AtomicU64,
    refused: [AtomicU64; Refusal::ALL.len()],
}

impl GossipCounters {
    /// How many of them there are now.
    pub(super) fn refuse(&self, why: Refusal) -> u64 {
        self.refused[why as usize].fetch_add(1, Relaxed) + 1
    }

    pub(super) fn add(counter: &AtomicU64, amount: usize) {
        counter.fetch_add(amount as u64, Relaxed);
    }

    #[must_use]
    pub fn snapshot(&self) -> GossipFigures {
        GossipFigures {
            datagrams_in: self.datagrams_in.load(Relaxed),
            bytes_in: self.bytes_in.load(Relaxed),
            datagrams_out: self.datagrams_out.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            probes: self.probes.load(Relaxed),
            doubts: self.doubts.load(Relaxed),
            opened_with_old_key: self.opened_with_old_key.load(Relaxed),
            send_failures: self.send_failures.load(Relaxed),
            receive_failures: self.receive_failures.load(Relaxed),
            unreadable_values: self.unreadable_values.load(Relaxed),
            oversize_values: self.oversize_values.load(Relaxed),
            streams_not_gossiped: self.streams_not_gossiped.load(Relaxed),
            seed_lookup_failures: self.seed_lookup_failures.load(Relaxed),
            refused: Refusal::ALL.map(|why| (why, self.refused[why as usize].load(Relaxed))),
        }
    }
}

/// The counters at one moment. All of them only grow, except `streams_not_gossiped`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GossipFigures {
    /// Everything that arrived, refused ones included. Bytes are UDP payload.
    pub datagrams_in: u64,
    pub bytes_in: u64,
    pub datagrams_out: u64,
    pub bytes_out: u64,
    /// Questions and answers sent beside gossip, about nodes that were not heard for a while.
    pub probes: u64,
    /// Times that this node asked all others about one that did not answer it.
    pub doubts: u64,
    /// Datagrams that opened with another key than the one this node seals with. When this no longer grows on any node,
    /// the old key can be taken away.
    pub opened_with_old_key: u64,
    /// Datagrams that the operating system would not send, such as to a host without a route.
    pub send_failures: u64,
    pub receive_failures: u64,
    /// Values in a peer's report that could not be parsed; they count as not said.
    pub unreadable_values: u64,
    /// Values of our own that were not gossiped since they are too long.
    pub oversize_values: u64,
    /// Streams of our own that are not gossiped now since their part of the report is full.
    pub streams_not_gossiped: u64,
    pub seed_lookup_failures: u64,
    /// Datagrams (messages for [`Refusal::Unreadable`]) that were refused, by reason.
    pub refused: [(Refusal, u64); Refusal::ALL.len()],
}

impl GossipFigures {
    #[must_use]
    pub fn refused(&self, why: Refusal) -> u64 {
        self.refused[why as usize].1
    }
}
