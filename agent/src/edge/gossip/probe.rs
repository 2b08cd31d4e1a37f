//! Questions about who is there, beside gossip and through the same socket: sealed like everything else, each in one
//! datagram of its own kind (a message of no parts, which gossip itself never sends).

use std::net::SocketAddr;
use std::sync::Arc;

use mtxfleet_wire::NodeId;
use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;

use super::counters::GossipCounters;
use super::seal::{MAX_DATAGRAM, Part, Sealer, Sender};

/// Ties an answer to its question, so that a recorded answer proves nothing.
pub type Nonce = u64;

/// Which start of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    pub node: NodeId,
    pub generation: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// Are you `node`, and there?
    Ping { nonce: Nonce, node: NodeId },
    /// The answer to a ping.
    Pong { nonce: Nonce },
    /// `about` does not answer me: ask it, and tell me if it answers you.
    Doubt { nonce: Nonce, about: Subject },
    /// The answer to a doubt: it answered here.
    Vouch { nonce: Nonce, node: NodeId },
    /// `about` answered neither me nor those whom I asked.
    Silent { about: Subject },
}

/// A question or answer, and who sent it.
#[derive(Debug, Clone)]
pub struct Received {
    pub from: Sender,
    pub probe: Probe,
}

/// Seals probes and sends them from gossip's own socket, so that they take the way that gossip takes.
#[derive(Debug)]
pub struct ProbeSender {
    socket: Arc<UdpSocket>,
    sealer: Sealer,
    counters: Arc<GossipCounters>,
    outbound: Vec<u8>,
}

impl ProbeSender {
    #[must_use]
    pub fn new(socket: Arc<UdpSocket>, sealer: Sealer, counters: Arc<GossipCounters>) -> Self {
        Self { socket, sealer, counters, outbound: Vec::with_capacity(MAX_DATAGRAM) }
    }

    /// At once or not at all: one that was not sent is asked again, like one that was lost.
    pub fn send(&mut self, to: SocketAddr, probe: &Probe) {
        // The wire type holds nothing that JSON cannot say, and a node id is 128 bytes at most.
        let Ok(body) = serde_json::to_vec(probe) else { return };
        let part = Part { counter: self.sealer.take_counters(1), index: 0, count: 0, raw_length: 0 };
        self.sealer.seal(part, &body, &mut self.outbound);
        match self.socket.try_send_to(&self.outbound, to) {
            Ok(length) => {
                GossipCounters::add(&self.counters.datagrams_out, 1);
                GossipCounters::add(&self.counters.bytes_out, length);
                GossipCounters::add(&self.counters.probes, 1);
            }
            Err(error) => {
                GossipCounters::add(&self.counters.send_failures, 1);
                tracing::debug!(%to, %error, "probe not sent");
            }
        }
    }
}
