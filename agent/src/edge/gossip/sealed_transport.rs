//! chitchat's transport: messages out are encoded, split, sealed and sent; datagrams in are opened, checked against
//! replay, put together and decoded, in this order. A probe is answered here, or handed on to whoever looks at peers.
//!
//! Architecture invariant: nothing here ends the gossip loop. chitchat stops for ever at the first error that `recv`
//! returns, so there is none: what is bad is counted and passed over.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use chitchat::ChitchatMessage;
use chitchat::transport::{Socket, Transport};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::codec::Codec;
use super::counters::{GossipCounters, Refusal};
use super::fragments::Senders;
use super::probe::{Probe, ProbeSender, Received};
use super::seal::{MAX_DATAGRAM, Opener, Part, Sealer, Sender};

/// After an error of the socket itself (out of memory, say), so that one that stays does not spin.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(50);

/// Hands its one socket, bound before, to chitchat.
pub struct SealedTransport(Mutex<Option<SealedSocket>>);

impl SealedTransport {
    #[must_use]
    pub fn new(socket: SealedSocket) -> Self {
        Self(Mutex::new(Some(socket)))
    }
}

#[async_trait]
impl Transport for SealedTransport {
    async fn open(&self, _listen: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let socket = self.0.lock().ok().and_then(|mut socket| socket.take());
        Ok(Box::new(socket.ok_or_else(|| anyhow::anyhow!("the gossip socket was opened before"))?))
    }
}

/// Datagrams lost on purpose, for tests and benches: a share of all that arrive, by a fixed generator.
#[derive(Debug, Clone, Copy)]
pub struct Loss {
    in_1000: u32,
    state: u64,
}

impl Loss {
    #[must_use]
    pub const fn new(in_1000: u32, seed: u64) -> Self {
        Self { in_1000, state: seed }
    }

    fn drops(&mut self) -> bool {
        if self.in_1000 == 0 {
            return false;
        }
        // A linear congruential generator (Knuth's constants).
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % 1000 < u64::from(self.in_1000)
    }
}

pub struct SealedSocket {
    socket: Arc<UdpSocket>,
    me: Sender,
    sealer: Sealer,
    opener: Opener,
    senders: Senders,
    codec: Codec,
    answers: ProbeSender,
    probes: mpsc::Sender<Received>,
    loss: Loss,
    counters: Arc<GossipCounters>,
    inbound: Box<[u8]>,
    outbound: Vec<u8>,
}

impl SealedSocket {
    /// `probes` gets what others ask and answer; what finds no room there is as good as lost on the way.
    #[must_use]
    pub fn new(
        socket: Arc<UdpSocket>,
        me: Sender,
        sealer: Sealer,
        opener: Opener,
        codec: Codec,
        probes: mpsc::Sender<Received>,
        counters: Arc<GossipCounters>,
    ) -> Self {
        Self {
            answers: ProbeSender::new(Arc::clone(&socket), sealer.clone(), Arc::clone(&counters)),
            probes,
            loss: Loss::new(0, 0),
            socket,
            me,
            sealer,
            opener,
            senders: Senders::default(),
            codec,
            counters,
            // One byte more than is ever sent tells an oversize datagram from one of full size.
            inbound: vec![0; MAX_DATAGRAM + 1].into(),
            outbound: Vec::with_capacity(MAX_DATAGRAM),
        }
    }

    /// For tests and benches.
    #[must_use]
    pub const fn losing(mut self, loss: Loss) -> Self {
        self.loss = loss;
        self
    }

    /// What the datagram in `inbound` leads to. `Ok(None)`: parts of its message are missing.
    fn read(&mut self, length: usize) -> Result<Option<(SocketAddr, ChitchatMessage)>, Refusal> {
        let datagram = self.opener.open(&mut self.inbound[..length])?;
        if datagram.sender.node == self.me.node {
            return Err(Refusal::OwnName);
        }
        if datagram.key > 0 {
            GossipCounters::add(&self.counters.opened_with_old_key, 1);
        }
        if datagram.part.is_probe() {
            self.senders.refuse_replay(&datagram)?;
            let probe = serde_json::from_slice(datagram.body).map_err(|_| Refusal::Unreadable)?;
            let received = Received { from: datagram.sender, probe };
            self.take_probe(received);
            return Ok(None);
        }
        let Some(whole) = self.senders.take(&datagram, Instant::now(), &self.counters)? else {
            return Ok(None);
        };
        // The answer goes where the sender says it is, and not where the datagram seems to come from: that is not
        // authenticated.
        let from = datagram.sender.address;
        let message = self.codec.decode(&whole.bytes, whole.raw_length)?;
        Ok(Some((from, message)))
    }

    /// A ping is answered by the task that gossips, so that an answer says that gossip goes on.
    fn take_probe(&mut self, received: Received) {
        if let Probe::Ping { nonce, node } = &received.probe {
            if *node == self.me.node {
                self.answers.send(received.from.address, &Probe::Pong { nonce: *nonce });
            }
            return;
        }
        if self.probes.try_send(received).is_err() {
            tracing::debug!("more probes than are looked at");
        }
    }

    fn refuse(&self, why: Refusal, from: SocketAddr) {
        let so_far = self.counters.refuse(why);
        // Seldom enough to be read, however many there are.
        if so_far.is_power_of_two() {
            let advice = advice(why);
            tracing::warn!(%from, reason = why.as_str(), so_far, "gossip datagram refused: {advice}");
        }
    }
}

fn advice(why: Refusal) -> &'static str {
    match why {
        Refusal::Forged => {
            "it is not sealed with a key of this cluster; if a node of yours sends it, give it the same key"
        }
        Refusal::OtherCluster => "it belongs to a cluster of another name; check this node's and that node's seeds",
        Refusal::Replayed => {
            "it came before, or its sender started again with its clock set back; if that node does not appear, correct \
             its clock and start it again"
        }
        Refusal::Truncated | Refusal::Oversize => "it is not of this program; something else sends to this port",
        Refusal::OwnName => "it bears this node's own id; if another machine has the same id, give it one of its own",
        Refusal::Reassembly => "parts of a message were lost on the way; harmless unless it goes on",
        Refusal::Unreadable => "its sender runs another version of mtxfleet; bring both to the same one",
    }
}

#[async_trait]
impl Socket for SealedSocket {
    /// Always `Ok`: what could not be sent is counted, and gossip says it again in the next round.
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        let room = self.sealer.room();
        let (bytes, raw_length) = self.codec.encode(&message, room);
        let Ok(count) = u16::try_from(bytes.len().div_ceil(room)) else {
            GossipCounters::add(&self.counters.send_failures, 1);
            return Ok(());
        };
        let first = self.sealer.take_counters(count);
        for (index, body) in (0..count).zip(bytes.chunks(room)) {
            let part = Part { counter: first + u64::from(index), index, count, raw_length };
            self.sealer.seal(part, body, &mut self.outbound);
            if let Err(error) = self.socket.send_to(&self.outbound, to).await {
                GossipCounters::add(&self.counters.send_failures, 1);
                tracing::debug!(%to, %error, "gossip datagram not sent");
                break;
            }
            GossipCounters::add(&self.counters.datagrams_out, 1);
            GossipCounters::add(&self.counters.bytes_out, self.outbound.len());
        }
        if matches!(message, ChitchatMessage::Ack { .. }) {
            GossipCounters::add(&self.counters.handshakes, 1);
        }
        Ok(())
    }

    /// Never `Err`. Cancel-safe: between two waits everything is done at once.
    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        loop {
            let (length, from) = match self.socket.recv_from(&mut self.inbound).await {
                Ok(received) => received,
                Err(error) => {
                    GossipCounters::add(&self.counters.receive_failures, 1);
                    tracing::debug!(%error, "gossip socket");
                    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                    continue;
                }
            };
            if self.loss.drops() {
                continue;
            }
            GossipCounters::add(&self.counters.datagrams_in, 1);
            GossipCounters::add(&self.counters.bytes_in, length);
            match self.read(length) {
                Ok(Some(received)) => return Ok(received),
                Ok(None) => {}
                Err(why) => self.refuse(why, from),
            }
        }
    }
}

impl std::fmt::Debug for SealedSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedSocket").field("me", &self.me).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for SealedTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedTransport").finish_non_exhaustive()
    }
}
