//! A draining node's surroundings, on virtual time: workers that obey (or not), viewers that leave (or not), balancers
//! that poll (or not).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mtxfleet_wire::{
    Bitrate, DrainId, DrainRecord, LegId, Mono, NodeId, StitchCounters, StreamName, UnixMillis, WorkerId, WorkerReport,
};

use crate::{Action, Candidate, Drain, Observation, ObservedLeg, Order, Polls, Reader, Settings};

pub(super) const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How a worker behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conduct {
    /// Acknowledges and moves, after so many looks.
    Moves { after: u32 },
    /// Acknowledges and stays.
    Stays,
    /// Says nothing and stays.
    Silent,
}

#[derive(Debug, Clone)]
pub(super) struct Worker {
    pub(super) leg: ObservedLeg,
    pub(super) conduct: Conduct,
    pub(super) ordered_for: Option<u32>,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Duration,
    pub(super) workers: Vec<Worker>,
    pub(super) readers: Vec<Reader>,
    pub(super) viewers: Vec<Reader>,
    /// Each balancer polls at every so many looks; 0: never again.
    pub(super) pollers: BTreeMap<String, u32>,
    pub(super) polls: BTreeMap<String, Polls>,
    pub(super) candidates: Vec<Candidate>,
    pub(super) server_up: bool,
    pub(super) drain: Drain,
    pub(super) log: Vec<Action>,
    pub(super) looks: u32,
}

pub(super) fn leg(n: usize, stream: &str) -> ObservedLeg {
    ObservedLeg {
        leg: LegId::new(format!("leg-{n}")).expect("valid"),
        worker: WorkerId::new(format!("worker-{n}")).expect("valid"),
        stream: StreamName::new(stream).expect("valid"),
        at: None,
        session: format!("session-{n}"),
        bitrate: Some(Bitrate(2_000_000)),
    }
}

pub(super) fn candidate(name: &str, spare: Option<u64>, warm: &[&str]) -> Candidate {
    Candidate {
        node: NodeId::new(name).expect("valid"),
        rtsp: format!("{name}:8554"),
        spare: spare.map(Bitrate),
        warm: warm.iter().map(|stream| StreamName::new(*stream).expect("valid")).collect(),
    }
}

impl World {
    pub(super) fn new(settings: Settings) -> Self {
        let order = Order {
            drain: DrainId::new("d1").expect("valid"),
            node: NodeId::new("dist-1").expect("valid"),
            reason: "test".into(),
            forced: false,
            plan: None,
        };
        let (drain, log) = Drain::begin(order, settings, Mono(Duration::ZERO), UnixMillis(1_000_000));
        Self {
            now: Duration::ZERO,
            workers: Vec::new(),
            readers: Vec::new(),
            viewers: Vec::new(),
            pollers: BTreeMap::new(),
            polls: BTreeMap::new(),
            candidates: vec![candidate("dist-2", Some(1_000_000_000), &["cam1"])],
            server_up: true,
            drain,
            log,
            looks: 0,
        }
    }

    pub(super) fn with_worker(mut self, stream: &str, conduct: Conduct) -> Self {
        let leg = leg(self.workers.len(), stream);
        self.workers.push(Worker { leg, conduct, ordered_for: None });
        self
    }

    pub(super) fn wall(&self) -> UnixMillis {
        UnixMillis(1_000_000 + self.now.as_millis() as u64)
    }

    /// One look: the surroundings act, then the machine.
    pub(super) fn look(&mut self) -> Vec<Action> {
        self.now += LOOK_EVERY;
        self.looks += 1;
        let now = Mono(self.now);
        for (poller, every) in &self.pollers {
            if *every > 0 && self.looks.is_multiple_of(*every) {
                self.polls.entry(poller.clone()).or_insert(Polls { first: now, count: 0 }).count += 1;
            }
        }
        let mut moved = Vec::new();
        for worker in &mut self.workers {
            if let (Some(looks), Conduct::Moves { after }) = (&mut worker.ordered_for, worker.conduct) {
                *looks += 1;
                if *looks > after {
                    moved.push(worker.leg.clone());
                }
            }
        }
        self.workers.retain(|worker| !moved.contains(&worker.leg));
        for leg in moved {
            self.drain.worker_reported(WorkerReport::Moved {
                drain: DrainId::new("d1").expect("valid"),
                worker: leg.worker,
                leg: leg.leg,
                new_leg: LegId::new("new").expect("valid"),
                to: NodeId::new("dist-2").ok(),
                extra_pause_ms: 7,
                counters: StitchCounters::default(),
            });
        }
        let actions = self.drain.observe(&self.seen());
        for action in &actions {
            self.obey(action);
        }
        self.log.extend(actions.iter().cloned());
        actions
    }

    pub(super) fn seen(&self) -> Observation {
        let up = self.server_up;
        let now = Mono(self.now);
        Observation {
            now,
            wall: self.wall(),
            looked: up.then_some(now),
            legs: self.workers.iter().filter(|_| up).map(|worker| worker.leg.clone()).collect(),
            readers: self.readers.iter().filter(|_| up).cloned().collect(),
            viewers: self.viewers.iter().filter(|_| up).cloned().collect(),
            polls_since_told: self.polls.clone(),
            known_pollers: self.pollers.keys().cloned().collect::<BTreeSet<_>>(),
            last_new_session: None,
            candidates: self.candidates.clone(),
            ingestion: None,
        }
    }

    fn obey(&mut self, action: &Action) {
        match action {
            Action::Notify(legs) => {
                for notice in legs {
                    let told = self.workers.iter().find(|worker| worker.leg.leg == notice.leg);
                    if told.is_some_and(|worker| worker.conduct != Conduct::Silent) {
                        self.drain.worker_reported(WorkerReport::Acknowledged {
                            drain: DrainId::new("d1").expect("valid"),
                            worker: notice.worker.clone(),
                            leg: notice.leg.clone(),
                        });
                    }
                }
            }
            Action::Move(legs) => {
                for notice in legs {
                    for worker in self.workers.iter_mut().filter(|worker| worker.leg.leg == notice.leg) {
                        worker.ordered_for.get_or_insert(0);
                    }
                }
            }
            Action::Disconnect { session } => {
                self.workers.retain(|worker| worker.leg.session != *session);
                self.readers.retain(|reader| reader.session != *session);
                self.viewers.retain(|viewer| viewer.session != *session);
            }
            _ => {}
        }
    }

    /// Looks until the drain is over; fails when that takes longer than its deadlines allow.
    pub(super) fn run(&mut self) -> DrainRecord {
        // Deadlines, the pace of disconnections on top of two phases, and a look for each phase.
        let longest = Duration::from_secs(600);
        while self.now < longest {
            for action in self.look() {
                if let Action::Ended(record) | Action::Cancelled(record) = action {
                    return record;
                }
            }
        }
        panic!("the drain did not end within {longest:?}: {:?}", self.drain.view(Mono(self.now)));
    }

    /// The agent was killed, and another takes up what was on disk after `away`.
    pub(super) fn restart_agent(&mut self, away: Duration) {
        let saved = serde_json::to_string(&self.drain).expect("a drain is JSON");
        self.now += away;
        self.drain = serde_json::from_str(&saved).expect("and back");
        self.polls.clear();
        let actions = self.drain.resume(Mono(self.now), self.wall());
        self.log.extend(actions);
    }
}
