//! One datagram, sealed.
//!
//! ```text
//! in the clear   version (1)  cluster tag (4)  nonce: random of this start (16), counter (8)
//! sealed         node id (1 + n)  address (1 + 4 or 16, 2)  generation (8)  part (2)  parts (2)  raw length (4)  body
//! in the clear   Poly1305 tag (16)
//! ```
//!
//! XChaCha20-Poly1305 with a key derived from the cluster key and the cluster's name; the clear part before the nonce
//! and the whole name are associated data. So a datagram opens only with the key *and* in the cluster it was made for.
//! The cluster tag, four bytes of a hash, protects nothing: it lets a datagram of a neighbouring cluster be counted as
//! what it is. Nothing behind the nonce is read before it is authenticated.
//!
//! A nonce never comes twice under one key: 128 random bits drawn at each start, then a counter.
//!
//! Limits: a datagram is not bound to its receiver, so one recorded on the way to A can be replayed, once, to B; what
//! it says is then old, and chitchat's versions and heartbeats only move forward.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac};
use mtxfleet_wire::{ClusterName, NodeId};
use sha2::{Digest, Sha256};

use super::counters::Refusal;

/// Longest datagram sent or taken, in bytes of UDP payload: fits the smallest MTU of IPv6 (1,280) with room for a
/// tunnel, as QUIC's does (RFC 9000, section 14).
pub const MAX_DATAGRAM: usize = 1_200;

const VERSION: u8 = 1;
const CLEAR: usize = 1 + 4;
const NONCE: usize = 24;
const TAG: usize = 16;
/// Version, cluster tag, nonce, the shortest sealed header (1-byte node id, IPv4), an empty body, and the tag.
const MIN_DATAGRAM: usize = CLEAR + NONCE + 2 + 7 + 8 + 8 + TAG;

/// Who sent a datagram. It is what the sender, who holds the key, says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    pub node: NodeId,
    /// Where it is reached.
    pub address: SocketAddr,
    /// Start time in milliseconds, higher at each start.
    pub generation: u64,
}

/// Which piece of a message a datagram is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Of this sender's start; parts of a message have successive counters.
    pub counter: u64,
    pub index: u16,
    pub count: u16,
    /// Length of the message when decompressed; 0 when it is not compressed.
    pub raw_length: u32,
}

impl Part {
    /// Whether the datagram is no part of any message of gossip, but a [`super::probe::Probe`].
    #[must_use]
    pub const fn is_probe(&self) -> bool {
        self.count == 0
    }

    /// The counter of the message's first part, which names the message. `None` when the numbers contradict each other.
    #[must_use]
    pub fn message(&self) -> Option<u64> {
        if self.index >= self.count {
            return None;
        }
        self.counter.checked_sub(u64::from(self.index))
    }
}

/// Seals for one cluster, as one sender. Clones share the counter, so that no nonce comes twice.
#[derive(Clone)]
pub struct Sealer {
    cipher: XChaCha20Poly1305,
    cluster: ClusterBinding,
    sender: Vec<u8>,
    nonce: [u8; NONCE],
    next_counter: Arc<AtomicU64>,
}

impl Sealer {
    /// `random` must be drawn anew at each start from the operating system's generator.
    #[must_use]
    pub fn new(cluster: &ClusterName, key: &[u8; 32], sender: &Sender, random: [u8; 16]) -> Self {
        let mut nonce = [0; NONCE];
        nonce[..16].copy_from_slice(&random);
        Self {
            cipher: cipher(cluster, key),
            cluster: ClusterBinding::new(cluster),
            sender: encode_sender(sender),
            nonce,
            next_counter: Arc::new(AtomicU64::new(1)),
        }
    }

    /// Bytes of body that fit into one datagram.
    #[must_use]
    pub fn room(&self) -> usize {
        MAX_DATAGRAM - CLEAR - NONCE - self.sender.len() - 8 - TAG
    }

    /// Takes `count` successive counters; the first is returned.
    pub fn take_counters(&self, count: u16) -> u64 {
        self.next_counter.fetch_add(count.into(), Relaxed)
    }

    /// Writes the sealed datagram over `out`. `body` must not be longer than [`Sealer::room`].
    pub fn seal(&mut self, part: Part, body: &[u8], out: &mut Vec<u8>) {
        debug_assert!(body.len() <= self.room());
        self.nonce[16..].copy_from_slice(&part.counter.to_be_bytes());
        out.clear();
        out.extend_from_slice(&self.cluster.clear);
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(&self.sender);
        out.extend_from_slice(&part.index.to_be_bytes());
        out.extend_from_slice(&part.count.to_be_bytes());
        out.extend_from_slice(&part.raw_length.to_be_bytes());
        out.extend_from_slice(body);
        let tag = self
            .cipher
            .encrypt_inout_detached(
                &XNonce::from(self.nonce),
                &self.cluster.associated,
                (&mut out[CLEAR + NONCE..]).into(),
            )
            .expect("a datagram is far shorter than the cipher's limit of 256 GiB");
        out.extend_from_slice(&tag);
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").field("next_counter", &self.next_counter).finish_non_exhaustive()
    }
}

/// Opens what members of one cluster sealed, with any of the keys in use.
pub struct Opener {
    ciphers: Vec<XChaCha20Poly1305>,
    cluster: ClusterBinding,
}

/// A datagram that a member made.
#[derive(Debug)]
pub struct Opened<'a> {
    pub sender: Sender,
    pub part: Part,
    pub body: &'a [u8],
    /// Which of the keys opened it: 0 is the one this node seals with.
    pub key: usize,
}

impl Opener {
    #[must_use]
    pub fn new(cluster: &ClusterName, keys: &[[u8; 32]]) -> Self {
        Self { ciphers: keys.iter().map(|key| cipher(cluster, key)).collect(), cluster: ClusterBinding::new(cluster) }
    }

    /// Opens `datagram` in place; afterwards its bytes are of no use but for the answer.
    ///
    /// # Errors
    /// [`Refusal::Truncated`], [`Refusal::Oversize`], [`Refusal::OtherCluster`] and [`Refusal::Forged`] without the
    /// sealed part having been read; [`Refusal::Unreadable`] when a member sealed something odd.
    pub fn open<'a>(&self, datagram: &'a mut [u8]) -> Result<Opened<'a>, Refusal> {
        if datagram.len() > MAX_DATAGRAM {
            return Err(Refusal::Oversize);
        }
        if datagram.len() < MIN_DATAGRAM || datagram[0] != VERSION {
            return Err(Refusal::Truncated);
        }
        let (clear, rest) = datagram.split_at_mut(CLEAR);
        if *clear != self.cluster.clear {
            return Err(Refusal::OtherCluster);
        }
        let (nonce, rest) = rest.split_at_mut(NONCE);
        let nonce: [u8; NONCE] = (&*nonce).try_into().map_err(|_| Refusal::Truncated)?;
        let (sealed, tag) = rest.split_at_mut(rest.len() - TAG);
        let tag: [u8; TAG] = (&*tag).try_into().map_err(|_| Refusal::Truncated)?;
        // The cipher checks the tag before it decrypts, so a key that does not fit leaves the bytes as they were.
        let key = self
            .ciphers
            .iter()
            .position(|cipher| {
                cipher
                    .decrypt_inout_detached(&nonce.into(), &self.cluster.associated, (&mut *sealed).into(), &tag.into())
                    .is_ok()
            })
            .ok_or(Refusal::Forged)?;
        let counter = u64::from_be_bytes(nonce[16..].try_into().map_err(|_| Refusal::Truncated)?);
        let (sender, part, body) = decode(counter, sealed).ok_or(Refusal::Unreadable)?;
        Ok(Opened { sender, part, body, key })
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opener").field("keys", &self.ciphers.len()).finish_non_exhaustive()
    }
}

/// What ties a datagram to its cluster.
#[derive(Clone)]
struct ClusterBinding {
    clear: [u8; CLEAR],
    associated: Vec<u8>,
}

impl ClusterBinding {
    fn new(cluster: &ClusterName) -> Self {
        let hash = Sha256::digest(cluster.as_str().as_bytes());
        let clear = [VERSION, hash[0], hash[1], hash[2], hash[3]];
        let mut associated = b"mtxfleet gossip\0".to_vec();
        associated.extend_from_slice(&clear);
        associated.extend_from_slice(cluster.as_str().as_bytes());
        Self { clear, associated }
    }
}

/// The cluster key serves more than gossip, so gossip has a key of its own made from it.
fn cipher(cluster: &ClusterName, cluster_key: &[u8; 32]) -> XChaCha20Poly1305 {
    let mut mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(cluster_key).expect("HMAC takes keys of any length");
    mac.update(b"mtxfleet gossip datagrams v1\0");
    mac.update(cluster.as_str().as_bytes());
    let key: [u8; 32] = mac.finalize().into_bytes().into();
    XChaCha20Poly1305::new(&key.into())
}

fn encode_sender(sender: &Sender) -> Vec<u8> {
    let id = sender.node.as_str().as_bytes();
    let mut bytes = Vec::with_capacity(id.len() + 28);
    bytes.push(id.len() as u8);
    bytes.extend_from_slice(id);
    match sender.address.ip() {
        IpAddr::V4(ip) => {
            bytes.push(4);
            bytes.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes.push(6);
            bytes.extend_from_slice(&ip.octets());
        }
    }
    bytes.extend_from_slice(&sender.address.port().to_be_bytes());
    bytes.extend_from_slice(&sender.generation.to_be_bytes());
    bytes
}

fn decode(counter: u64, bytes: &[u8]) -> Option<(Sender, Part, &[u8])> {
    let (&id_length, rest) = bytes.split_first()?;
    let (id, rest) = rest.split_at_checked(id_length.into())?;
    let node = NodeId::new(std::str::from_utf8(id).ok()?).ok()?;
    let (&family, rest) = rest.split_first()?;
    let (ip, rest) = match family {
        4 => rest.split_first_chunk::<4>().map(|(ip, rest)| (IpAddr::from(*ip), rest))?,
        6 => rest.split_first_chunk::<16>().map(|(ip, rest)| (IpAddr::from(*ip), rest))?,
        _ => return None,
    };
    let (port, rest) = rest.split_first_chunk()?;
    let (generation, rest) = rest.split_first_chunk()?;
    let (index, rest) = rest.split_first_chunk()?;
    let (count, rest) = rest.split_first_chunk()?;
    let (raw_length, body) = rest.split_first_chunk()?;
    let sender = Sender {
        node,
        address: SocketAddr::new(ip, u16::from_be_bytes(*port)),
        generation: u64::from_be_bytes(*generation),
    };
    let part = Part {
        counter,
        index: u16::from_be_bytes(*index),
        count: u16::from_be_bytes(*count),
        raw_length: u32::from_be_bytes(*raw_length),
    };
    Some((sender, part, body))
}

#[cfg(test)]
#[path = "seal_tests.rs"]
mod tests;
