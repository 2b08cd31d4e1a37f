//! Who has sent what lately: replay windows per sender, and messages of which some parts are still missing.
//!
//! Only authenticated datagrams come here, so the bounds below hold against members that misbehave and against loss,
//! not against strangers, who never get this far.

use std::collections::HashMap;
use std::time::Duration;

use mtxfleet_wire::NodeId;
use tokio::time::Instant;

use super::codec::MAX_MESSAGE;
use super::counters::{GossipCounters, Refusal};
use super::replay::ReplayWindow;
use super::seal::{Opened, Part};

/// Senders remembered. The one not heard for longest gives way, and its replay window with it.
const MAX_SENDERS: usize = 4_096;
/// Incomplete messages in all, and of one sender. At 25 % loss a fleet of 30 leaves some 40 a second behind.
const MAX_PARTIAL: usize = 256;
const MAX_PARTIAL_PER_SENDER: usize = 16;
/// Bytes held for incomplete messages in all.
const MAX_PARTIAL_BYTES: usize = 4 * MAX_MESSAGE;
/// A part that is not there after this long was lost: parts leave in one burst.
const MAX_AGE: Duration = Duration::from_secs(2);
/// Smallest body of a part but the last is 984 bytes (a node id of 128 characters, IPv6), so a message has at most
/// this many.
const MAX_PARTS: u16 = (MAX_MESSAGE / 984 + 1) as u16;

/// A message put together again, still compressed if `raw_length` is not 0.
#[derive(Debug, PartialEq, Eq)]
pub struct Whole {
    pub bytes: Vec<u8>,
    pub raw_length: u32,
}

/// Replay protection and reassembly of one receiver.
///
/// A receiver that has just started (or forgot a sender, see [`MAX_SENDERS`]) takes the first generation and counter it
/// hears from a sender, so a datagram recorded before can be replayed to it once.
#[derive(Debug, Default)]
pub struct Senders {
    known: HashMap<NodeId, Known>,
    partial: Vec<Partial>,
    partial_bytes: usize,
    heard: u64,
}

#[derive(Debug)]
struct Known {
    generation: u64,
    window: ReplayWindow,
    last_heard: u64,
}

#[derive(Debug)]
struct Partial {
    sender: NodeId,
    generation: u64,
    message: u64,
    raw_length: u32,
    parts: Vec<Option<Box<[u8]>>>,
    missing: u16,
    bytes: usize,
    started: Instant,
}

impl Senders {
    /// Takes one opened datagram in. `Ok(None)`: other parts of its message are still missing.
    ///
    /// # Errors
    /// [`Refusal::Replayed`], or [`Refusal::Reassembly`] when it contradicts another part of its message, which is then
    /// dropped. Incomplete messages that are given up here are counted in `counters`.
    pub fn take(
        &mut self,
        datagram: &Opened<'_>,
        now: Instant,
        counters: &GossipCounters,
    ) -> Result<Option<Whole>, Refusal> {
        self.refuse_replay(datagram)?;
        let part = datagram.part;
        let message = part.message().filter(|_| part.count <= MAX_PARTS).ok_or(Refusal::Reassembly)?;
        if part.count == 1 {
            return Ok(Some(Whole { bytes: datagram.body.to_vec(), raw_length: part.raw_length }));
        }
        self.give_up_old(now, counters);
        let at = match self.find(datagram, message) {
            Some(at) => at,
            None => self.begin(datagram, message, now, counters),
        };
        let partial = &mut self.partial[at];
        if partial.parts.len() != usize::from(part.count) || partial.raw_length != part.raw_length {
            self.drop_partial(at);
            return Err(Refusal::Reassembly);
        }
        if partial.add(part, datagram.body) {
            self.partial_bytes += datagram.body.len();
        }
        if partial.missing == 0 {
            let partial = self.drop_partial(at);
            let raw_length = partial.raw_length;
            return Ok(Some(Whole { bytes: partial.join(), raw_length }));
        }
        while self.partial_bytes > MAX_PARTIAL_BYTES {
            self.drop_partial(0);
            counters.refuse(Refusal::Reassembly);
        }
        Ok(None)
    }

    /// Replay protection alone, for a datagram that is no part of a message.
    ///
    /// # Errors
    /// [`Refusal::Replayed`].
    pub fn refuse_replay(&mut self, datagram: &Opened<'_>) -> Result<(), Refusal> {
        self.heard += 1;
        let sender = &datagram.sender;
        let counter = datagram.part.counter;
        if let Some(known) = self.known.get_mut(&sender.node) {
            if sender.generation < known.generation {
                return Err(Refusal::Replayed);
            }
            if sender.generation > known.generation {
                known.generation = sender.generation;
                known.window = ReplayWindow::starting_with(counter);
            } else if !known.window.accept(counter) {
                return Err(Refusal::Replayed);
            }
            known.last_heard = self.heard;
            return Ok(());
        }
        if self.known.len() >= MAX_SENDERS {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.last_heard).map(|(node, _)| node.clone());
            if let Some(oldest) = oldest {
                self.known.remove(&oldest);
            }
        }
        let window = ReplayWindow::starting_with(counter);
        let known = Known { generation: sender.generation, window, last_heard: self.heard };
        self.known.insert(sender.node.clone(), known);
        Ok(())
    }

    fn find(&self, datagram: &Opened<'_>, message: u64) -> Option<usize> {
        self.partial.iter().position(|partial| {
            partial.message == message
                && partial.generation == datagram.sender.generation
                && partial.sender == datagram.sender.node
        })
    }

    fn begin(&mut self, datagram: &Opened<'_>, message: u64, now: Instant, counters: &GossipCounters) -> usize {
        let of_sender = |partial: &Partial| partial.sender == datagram.sender.node;
        let gives_way = if self.partial.iter().filter(|p| of_sender(p)).count() >= MAX_PARTIAL_PER_SENDER {
            self.partial.iter().position(of_sender)
        } else {
            (self.partial.len() >= MAX_PARTIAL).then_some(0)
        };
        if let Some(at) = gives_way {
            self.drop_partial(at);
            counters.refuse(Refusal::Reassembly);
        }
        let partial = Partial::new(datagram, message, now);
        self.partial_bytes += partial.bytes;
        self.partial.push(partial);
        self.partial.len() - 1
    }

    /// The oldest come first.
    fn give_up_old(&mut self, now: Instant, counters: &GossipCounters) {
        while self.partial.first().is_some_and(|partial| now.duration_since(partial.started) > MAX_AGE) {
            self.drop_partial(0);
            counters.refuse(Refusal::Reassembly);
        }
    }

    fn drop_partial(&mut self, at: usize) -> Partial {
        let partial = self.partial.remove(at);
        self.partial_bytes -= partial.bytes;
        partial
    }
}

impl Partial {
    fn new(datagram: &Opened<'_>, message: u64, now: Instant) -> Self {
        let count = datagram.part.count;
        Self {
            sender: datagram.sender.node.clone(),
            generation: datagram.sender.generation,
            message,
            raw_length: datagram.part.raw_length,
            parts: vec![None; count.into()],
            missing: count,
            bytes: usize::from(count) * size_of::<Option<Box<[u8]>>>(),
            started: now,
        }
    }

    fn add(&mut self, part: Part, body: &[u8]) -> bool {
        let slot = &mut self.parts[usize::from(part.index)];
        if slot.is_some() {
            return false;
        }
        *slot = Some(body.into());
        self.missing -= 1;
        self.bytes += body.len();
        true
    }

    fn join(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.bytes);
        for part in self.parts.iter().flatten() {
            bytes.extend_from_slice(part);
        }
        bytes
    }
}

#[cfg(test)]
#[path = "fragments_tests.rs"]
mod tests;
