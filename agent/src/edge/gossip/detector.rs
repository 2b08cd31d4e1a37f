//! Who of the others is silent, decided by asking: pure, one [`Silence`] for each, and what they say to each other.
//!
//! Whoever gossips shows it each peer's newest heartbeat, ten times a second (a *look*), hands it the probes that come
//! in, and sends those that it wants sent.
//!
//! Silence is counted in looks, not in time: when this process itself was stopped for a while, everybody seems silent to
//! it, and nobody is. For the same reason a look that comes late does not count: what was answered meanwhile is still on
//! its way through this process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use mtxfleet_wire::NodeId;

use super::probe::{Nonce, Probe, Received, Subject};
use super::silence::{Act, Silence};

/// How often the others are looked at.
pub const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A look that comes so long after the last one is late.
const LATE: Duration = Duration::from_millis(250);
/// Where all looks are late, every one of so many must do.
const OF_LATE_ONES: u32 = 3;
/// Peers that are asked, or told, about one that is silent. With these, in a fleet of any size, the chance that all of
/// them are lost to 25 % loss is nil.
const ASKED_AT_MOST: usize = 32;
/// Peers that are asked again about one that has been silent for a while.
const ASKED_AGAIN: usize = 3;
/// When more than a quarter of all peers, and more than these, do not answer at once, it is more likely that this node is
/// cut off, or that machine and network have no time for anybody, than that so many crashed. Then looks count at a
/// quarter of their pace only, few are asked for help, and nobody else's verdict is believed: or the questions would be
/// the load that keeps the answers away.
const FEW: usize = 2;
const STRAINED_PACE: Duration = Duration::from_millis(400);
/// Nodes that are asked on behalf of others between two looks.
const CALLED_AT_MOST: usize = 16;
/// Probes between two looks. When everybody seems silent, nobody answers, and there is no use in asking on and on.
const MAX_TO_SEND: usize = 512;

/// Numbers that nobody who does not read this process can guess (SplitMix64, from a random start); never 0.
struct Nonces(u64);

impl Nonces {
    fn next(&mut self) -> Nonce {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).max(1)
    }
}

/// One start of a peer, as gossip knows it at a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    pub generation: u64,
    pub address: SocketAddr,
    pub heartbeat: u64,
    /// It said that it leaves for good: nobody asks about it any more.
    pub left: bool,
}

struct Watched {
    heard: Heard,
    silence: Silence<SocketAddr>,
    /// Of the questions about its present silence.
    nonce: Nonce,
    look: u64,
}

pub struct Detector {
    me: Subject,
    round: Duration,
    nonces: Nonces,
    watched: BTreeMap<NodeId, Watched>,
    looks: u64,
    /// Looks in a row that were late.
    late: u32,
    since_counted: Duration,
    counts: bool,
    is_strained: bool,
    called: usize,
    doubts: u64,
    acts: Vec<(NodeId, Act)>,
    to_send: Vec<(SocketAddr, Probe)>,
}

impl Detector {
    /// `round`: time between two heartbeats. `random` makes the numbers that answers to this node must bear.
    #[must_use]
    pub fn new(me: Subject, round: Duration, random: u64) -> Self {
        Self {
            me,
            round,
            nonces: Nonces(random),
            watched: BTreeMap::new(),
            looks: 0,
            late: 0,
            since_counted: Duration::ZERO,
            counts: true,
            is_strained: false,
            called: 0,
            doubts: 0,
            acts: Vec::new(),
            to_send: Vec::new(),
        }
    }

    /// A look begins, so long after the last one.
    pub fn begin_look(&mut self, since_last: Duration) {
        self.looks += 1;
        self.called = 0;
        let asked = self.watched.values().filter(|watched| watched.silence.is_asked() && !watched.heard.left).count();
        self.is_strained = asked > FEW.max(self.watched.len() / 4);
        self.late = if since_last > LATE { self.late + 1 } else { 0 };
        self.since_counted += since_last;
        let is_late = !self.late.is_multiple_of(OF_LATE_ONES);
        // By time and not by every fourth look: the fourth may be the late one each time.
        self.counts = !is_late && (!self.is_strained || self.since_counted >= STRAINED_PACE);
        if self.counts {
            self.since_counted = Duration::ZERO;
        }
    }

    /// What is known of one peer at this look. True: it fell silent, or is back, or has started anew.
    pub fn see(&mut self, node: &NodeId, heard: Heard) -> bool {
        let is_same = |known: &Heard| known.generation == heard.generation && known.address == heard.address;
        if !self.watched.get(node).is_some_and(|watched| is_same(&watched.heard)) {
            let mut silence = Silence::new(self.round.as_millis() as u64, LOOK_EVERY.as_millis() as u64);
            let old = self.watched.remove(node);
            // A later start than the one known is later than all that was known: a sign of life.
            if old.as_ref().is_some_and(|old| heard.generation > old.heard.generation) {
                silence.heartbeat();
            }
            let changed = old.is_some_and(|old| old.silence.alive()) != silence.alive();
            self.watched.insert(node.clone(), Watched { heard, silence, nonce: 0, look: self.looks });
            return changed;
        }
        let Some(watched) = self.watched.get_mut(node) else { return false };
        let was = watched.silence.alive();
        let has_risen = heard.heartbeat > watched.heard.heartbeat;
        watched.heard = heard;
        watched.look = self.looks;
        let act = if has_risen { watched.silence.heartbeat() } else { watched.silence.look(self.counts) };
        self.acts.extend(act.filter(|_| !heard.left).map(|act| (node.clone(), act)));
        watched.silence.alive() != was
    }

    /// The look ends: who was not seen in it is forgotten, and those are asked who must be.
    pub fn end_look(&mut self) {
        let look = self.looks;
        self.watched.retain(|_, watched| watched.look == look);
        for (node, act) in std::mem::take(&mut self.acts) {
            self.act(&node, act);
        }
    }

    #[must_use]
    pub fn is_alive(&self, node: &NodeId) -> bool {
        self.watched.get(node).is_some_and(|watched| watched.silence.alive())
    }

    /// Whether somebody fell silent so lately that others keep time over it.
    #[must_use]
    pub fn somebody_fell_silent(&self) -> bool {
        self.watched.values().any(|watched| watched.silence.silent_lately() && !watched.heard.left)
    }

    /// Times that this node asked all others about one that did not answer it.
    #[must_use]
    pub const fn doubts(&self) -> u64 {
        self.doubts
    }

    /// What is to be asked and answered, by address.
    pub fn take_probes(&mut self) -> std::vec::Drain<'_, (SocketAddr, Probe)> {
        self.to_send.drain(..)
    }

    /// Takes in what another asks, or answers. True: somebody fell silent by it, or is back.
    pub fn receive(&mut self, received: Received) -> bool {
        let Received { from, probe } = received;
        match probe {
            Probe::Ping { .. } => false,
            Probe::Pong { nonce } => self.vouched(&from.node, nonce, Some(from.generation)),
            Probe::Vouch { nonce, node } => self.vouched(&node, nonce, None),
            Probe::Doubt { nonce, about } if about.node == self.me.node => {
                if about.generation == self.me.generation {
                    self.to_send.push((from.address, Probe::Vouch { nonce, node: about.node }));
                }
                false
            }
            Probe::Doubt { nonce, about } => {
                self.called(from.address, nonce, &about);
                false
            }
            Probe::Silent { about } => self.told(&about),
        }
    }

    fn vouched(&mut self, node: &NodeId, nonce: Nonce, generation: Option<u64>) -> bool {
        let Some(watched) = self.watched.get_mut(node) else { return false };
        if watched.nonce != nonce || generation.is_some_and(|generation| generation != watched.heard.generation) {
            return false;
        }
        let was = watched.silence.alive();
        watched.nonce = 0;
        let askers = watched.silence.vouched();
        let changed = watched.silence.alive() != was;
        let vouch = |(asker, nonce)| (asker, Probe::Vouch { nonce, node: node.clone() });
        self.to_send.extend(askers.into_iter().map(vouch));
        changed
    }

    /// The start that is asked about, if this node watches it.
    fn about(&mut self, about: &Subject) -> Option<&mut Watched> {
        let watched = self.watched.get_mut(&about.node)?;
        (watched.heard.generation == about.generation && !watched.heard.left).then_some(watched)
    }

    fn called(&mut self, asker: SocketAddr, nonce: Nonce, about: &Subject) {
        if self.called >= CALLED_AT_MOST {
            return;
        }
        let Some(watched) = self.about(about) else { return };
        let ask = watched.silence.called(asker, nonce);
        self.called += 1;
        if ask {
            self.ping(&about.node);
        }
    }

    fn told(&mut self, about: &Subject) -> bool {
        let believed = !self.is_strained;
        let Some(watched) = self.about(about) else { return false };
        let was = watched.silence.alive();
        let ask = watched.silence.told(believed);
        let changed = watched.silence.alive() != was;
        if ask {
            self.ping(&about.node);
        }
        changed
    }

    fn act(&mut self, node: &NodeId, act: Act) {
        match act {
            Act::Ping => self.ping(node),
            Act::Doubt => {
                self.doubts += 1;
                self.ping(node);
                let at_most = if self.is_strained { ASKED_AGAIN } else { ASKED_AT_MOST };
                self.tell(node, at_most, |nonce, about| Probe::Doubt { nonce, about });
            }
            Act::Recheck => {
                self.ping(node);
                self.tell(node, ASKED_AGAIN, |nonce, about| Probe::Doubt { nonce, about });
            }
            Act::Tell if self.is_strained => {}
            Act::Tell => self.tell(node, ASKED_AT_MOST, |_, about| Probe::Silent { about }),
        }
    }

    fn ping(&mut self, node: &NodeId) {
        let Some(watched) = self.watched.get_mut(node) else { return };
        if watched.nonce == 0 {
            watched.nonce = self.nonces.next();
        }
        let ping = Probe::Ping { nonce: watched.nonce, node: node.clone() };
        self.to_send.push((watched.heard.address, ping));
    }

    /// To up to `at_most` of the others, another selection each time.
    fn tell(&mut self, node: &NodeId, at_most: usize, probe: impl Fn(Nonce, Subject) -> Probe) {
        let Some(watched) = self.watched.get(node) else { return };
        let nonce = watched.nonce;
        let about = Subject { node: node.clone(), generation: watched.heard.generation };
        let others: Vec<SocketAddr> = self
            .watched
            .iter()
            .filter(|(other, watched)| *other != node && watched.silence.alive() && !watched.heard.left)
            .map(|(_, watched)| watched.heard.address)
            .collect();
        let start = self.nonces.next() as usize % others.len().max(1);
        for address in others.iter().cycle().skip(start).take(at_most.min(others.len())) {
            if self.to_send.len() >= MAX_TO_SEND {
                break;
            }
            self.to_send.push((*address, probe(nonce, about.clone())));
        }
    }
}

impl std::fmt::Debug for Detector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Detector").field("watched", &self.watched.keys()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "detector_tests.rs"]
mod tests;
