//! One agent's gossip on virtual time: what chitchat does, cut down to heartbeats and reports, with the real detector and
//! the real verdicts on top of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use mtxfleet_leader::Fleet;
use mtxfleet_leader::fleet_view::{Change, Peer};
use mtxfleet_wire::{Bitrate, Liveness, LoadReport, Mono, NodeId, NodeState, ServerHealth, UnixMillis};

use super::super::detector::{Detector, Heard};
use super::super::probe::{Probe, Received, Subject};
use super::super::seal::Sender;
use super::random::Random;
use super::schedule::{MS, Micros, SECOND};

/// As an agent's defaults are.
pub const ROUND: Micros = 200 * MS;
pub const LOOK: Micros = 100 * MS;
pub const REPORT: Micros = SECOND;
const DEAD_AFTER: Duration = Duration::from_secs(4);
/// As chitchat's.
const PARTNERS: usize = 3;
/// In chitchat's place, which says by phi with whom it gossips.
const PARTNER_FOR: Micros = 2 * SECOND;
pub const SEEDS: usize = 3;
/// How often the peers are passed on, as `report_peers` does it.
const FIGURES_EVERY: Micros = SECOND;
const WATCHED_EVERY: Micros = 250 * MS;

/// What one node knows of another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// Which start; 0: it was never heard of.
    pub life: u32,
    pub heartbeat: u32,
    /// Number of its report.
    pub report: u32,
}

pub type Digest = Rc<[Known]>;

#[derive(Debug, Clone)]
pub enum Message {
    Syn(Digest),
    SynAck(Digest),
    Ack(Digest),
    Probe(Sender, Probe),
}

/// Whom each node's reports suspect, by number.
pub type Reports = Vec<Vec<Rc<[NodeId]>>>;

pub struct Process {
    pub me: usize,
    sender: Sender,
    pub known: Vec<Known>,
    risen_at: Vec<Micros>,
    detector: Detector,
    fleet: Fleet,
    looked_at: Micros,
    passed_on_at: Micros,
    pending: bool,
    /// What it makes of each of the others; `None` of whom it has not heard.
    pub verdicts: Vec<Option<Liveness>>,
    pub out: Vec<(usize, Message)>,
}

pub fn name(node: usize) -> NodeId {
    NodeId::new(format!("n{node:02}")).expect("a node's name")
}

fn address(node: usize) -> SocketAddr {
    ([127, 0, 0, 1], 1 + node as u16).into()
}

impl Process {
    pub fn start(me: usize, nodes: usize, life: u32, now: Micros, random: u64) -> Self {
        let mut known = vec![Known::default(); nodes];
        known[me] = Known { life, heartbeat: 1, report: 0 };
        let sender = Sender { node: name(me), address: address(me), generation: life.into() };
        let subject = Subject { node: sender.node.clone(), generation: sender.generation };
        Self {
            me,
            sender,
            known,
            risen_at: vec![0; nodes],
            detector: Detector::new(subject, Duration::from_micros(ROUND), random),
            fleet: Fleet::new(DEAD_AFTER),
            looked_at: now,
            passed_on_at: now,
            pending: false,
            verdicts: vec![None; nodes],
            out: Vec::new(),
        }
    }

    /// A round of gossip: with three that are alive, at times with one that is not, or with a seed.
    pub fn round(&mut self, now: Micros, random: &mut Random) {
        self.known[self.me].heartbeat += 1;
        let digest: Digest = self.known.as_slice().into();
        let others = (0..self.known.len()).filter(|other| *other != self.me && self.known[*other].life > 0);
        let (mut live, dead): (Vec<usize>, Vec<usize>) =
            others.partition(|other| now < self.risen_at[*other] + PARTNER_FOR && self.risen_at[*other] > 0);
        let (lives, deaths) = (live.len() as u64, dead.len() as u64);
        let mut partners = Vec::with_capacity(PARTNERS + 2);
        for _ in 0..PARTNERS.min(live.len()) {
            partners.push(live.swap_remove(random.below(live.len() as u64) as usize));
        }
        if deaths > 0 && random.below(lives + 1) < deaths {
            partners.push(random.one_of(&dead));
        }
        if lives == 0 || random.below(lives + deaths) < SEEDS as u64 {
            partners.push(random.below(self.known.len().min(SEEDS) as u64) as usize);
        }
        let partners = partners.into_iter().filter(|partner| *partner != self.me);
        self.out.extend(partners.map(|partner| (partner, Message::Syn(Rc::clone(&digest)))));
    }

    pub fn take(&mut self, now: Micros, from: usize, message: Message) {
        match message {
            Message::Syn(digest) => {
                self.learn(now, &digest, true, false);
                self.out.push((from, Message::SynAck(self.known.as_slice().into())));
            }
            Message::SynAck(digest) => {
                self.learn(now, &digest, true, true);
                self.out.push((from, Message::Ack(self.known.as_slice().into())));
            }
            Message::Ack(digest) => self.learn(now, &digest, false, true),
            // Where it is received, as a socket does it.
            Message::Probe(_, Probe::Ping { nonce, node }) => {
                if node == self.sender.node {
                    self.out.push((from, Message::Probe(self.sender.clone(), Probe::Pong { nonce })));
                }
            }
            Message::Probe(from, probe) => {
                self.pending |= self.detector.receive(Received { from, probe });
                self.send_probes();
            }
        }
    }

    fn learn(&mut self, now: Micros, digest: &[Known], heartbeats: bool, reports: bool) {
        for (node, told) in digest.iter().enumerate() {
            let known = &mut self.known[node];
            if node == self.me || told.life < known.life {
                continue;
            }
            if told.life > known.life {
                if !heartbeats {
                    continue;
                }
                *known = Known { report: 0, ..*told };
                continue;
            }
            if heartbeats && told.heartbeat > known.heartbeat {
                known.heartbeat = told.heartbeat;
                self.risen_at[node] = now;
            }
            if reports {
                known.report = known.report.max(told.report);
            }
        }
    }

    /// A look at all others. What changed in its verdicts.
    pub fn look(&mut self, now: Micros, names: &[NodeId], reports: &Reports) -> Vec<Change> {
        self.detector.begin_look(Duration::from_micros(now - self.looked_at));
        self.looked_at = now;
        for (node, known) in self.known.iter().enumerate() {
            if node == self.me || known.life == 0 {
                continue;
            }
            let heard = Heard {
                generation: known.life.into(),
                address: address(node),
                heartbeat: known.heartbeat.into(),
                left: false,
            };
            self.pending |= self.detector.see(&names[node], heard);
        }
        self.detector.end_look();
        self.send_probes();
        let every = if self.detector.somebody_fell_silent() { WATCHED_EVERY } else { FIGURES_EVERY };
        if !self.pending && now < self.passed_on_at + every {
            return Vec::new();
        }
        self.pending = false;
        self.passed_on_at = now;
        let peers = (0..self.known.len()).filter(|node| *node != self.me && self.known[*node].life > 0);
        let peers = peers.map(|node| Peer {
            alive: self.detector.is_alive(&names[node]),
            load: self.report(node, reports),
            ..Peer::silent(names[node].clone())
        });
        let changes = self.fleet.update(mono(now), peers.collect());
        self.judge(names);
        changes
    }

    fn judge(&mut self, names: &[NodeId]) {
        for (node, verdict) in self.verdicts.iter_mut().enumerate() {
            *verdict = self.fleet.get(&names[node]).map(|member| member.liveness);
        }
    }

    fn report(&self, node: usize, reports: &Reports) -> Option<LoadReport> {
        let number = self.known[node].report;
        let suspects = reports[node].get((number as usize).checked_sub(1)?)?;
        Some(LoadReport {
            state: NodeState::Active,
            server: ServerHealth::Up,
            cameras: None,
            workers: None,
            viewers: None,
            inbound: None,
            outbound: None,
            discarded_packets: 0,
            cpu: None,
            memory: None,
            disk_free: None,
            capacity: Bitrate(0),
            suspects: suspects.to_vec(),
            health: None,
            redis: true,
            protected: false,
            declines: None,
            sampled: UnixMillis(number.into()),
        })
    }

    /// Its own report, once a second.
    pub fn publish(&mut self, now: Micros, names: &[NodeId], reports: &mut Reports) -> Vec<Change> {
        let changes = self.fleet.pass_time(mono(now));
        self.judge(names);
        let mine = &mut reports[self.me];
        mine.push(self.fleet.silent().cloned().collect());
        self.known[self.me].report = mine.len() as u32;
        changes
    }

    fn send_probes(&mut self) {
        let sender = &self.sender;
        let probes = self.detector.take_probes();
        let probes = probes.map(|(to, probe)| (usize::from(to.port()) - 1, Message::Probe(sender.clone(), probe)));
        self.out.extend(probes);
    }

    /// It has not heard of anybody since it started.
    pub fn knows_nobody(&self) -> bool {
        self.known.iter().enumerate().all(|(node, known)| node == self.me || known.life == 0)
    }

    /// As in a fleet of two, nobody is there to be asked; so it is for who started anew while others were dead.
    pub fn knows_only(&self, node: usize) -> bool {
        self.verdicts.iter().enumerate().all(|(other, verdict)| other == node || verdict.is_none())
    }

    pub fn deaths(&self) -> usize {
        self.verdicts.iter().filter(|verdict| **verdict == Some(Liveness::Dead)).count()
    }
}

fn mono(now: Micros) -> Mono {
    Mono(Duration::from_micros(now))
}

/// Numbers of the nodes, by name.
pub fn numbers(names: &[NodeId]) -> BTreeMap<NodeId, usize> {
    names.iter().cloned().zip(0..).collect()
}
