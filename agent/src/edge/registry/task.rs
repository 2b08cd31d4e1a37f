//! The task that owns the connection for writing: connects, writes, answers, says whether Redis is there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mtxfleet_leader::growing::{IntentAnswer, IntentOrder};
use mtxfleet_wire::{DrainRefusal, NodeId, NodeRecord, NodeState, SCHEMA};
use redis::aio::MultiplexedConnection;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::projection::Written;
use super::scripts::{Admitted, Manner, Projected, Scripts};
use super::stats::add;
use super::{
    AdmitRequest, Backoff, Command, EVENT_KEPT, EVENTS_WAITING, Link, Problem, QueuedEvent, RegistryEvent, Seed, within,
};
use crate::node::effect::Projection;
use crate::node::event::Admission;
use crate::node::fenced::{FencedAnswer, FencedWrites};

/// An idle connection is tried this often, so that a Redis that went away unseen is missed.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// How often the list of nodes is read.
const SEEDS_EVERY: Duration = Duration::from_secs(30);

/// Events written in one round trip.
const EVENTS_AT_ONCE: usize = 64;

/// Records of drains kept.
const DRAIN_RECORDS: usize = 1_000;

pub(super) struct Task {
    link: Link,
    scripts: Scripts,
    event_log_length: usize,
    commands: mpsc::Receiver<Command>,
    newest: watch::Receiver<Option<Arc<Projection>>>,
    out: mpsc::Sender<RegistryEvent>,

    state: State,
    backoff: Backoff,
    /// What was last said by [`RegistryEvent::Reachable`].
    said: Option<bool>,

    /// The projection that Redis holds.
    held: Option<Arc<Projection>>,
    written: Written,
    events: VecDeque<QueuedEvent>,
    flushes: Vec<oneshot::Sender<()>>,
    /// This agent was admitted and has not released its place.
    admitted: bool,
    /// A place that could not be freed yet.
    release: Option<NodeId>,
}

enum State {
    Up(Up),
    Down { retry: Instant, why: String },
}

struct Up {
    connection: MultiplexedConnection,
    /// Redis's clock in ms since 1970 at an instant of ours.
    clock: (u64, Instant),
    /// Nothing has been written whole over this connection yet.
    fresh: bool,
    answered: Instant,
    seeds_due: Instant,
}

impl Up {
    /// Redis's clock now, as far as it is known.
    fn redis_ms(&self) -> u64 {
        let (redis_ms, at) = self.clock;
        redis_ms + at.elapsed().as_millis() as u64
    }
}

impl Task {
    pub(super) fn new(
        link: Link,
        event_log_length: usize,
        commands: mpsc::Receiver<Command>,
        newest: watch::Receiver<Option<Arc<Projection>>>,
        out: mpsc::Sender<RegistryEvent>,
    ) -> Self {
        Self {
            link,
            scripts: Scripts::new(),
            event_log_length,
            commands,
            newest,
            out,
            state: State::Down { retry: Instant::now(), why: "not connected yet".to_owned() },
            backoff: Backoff::new(),
            said: None,
            held: None,
            written: Written::default(),
            events: VecDeque::new(),
            flushes: Vec::new(),
            admitted: false,
            release: None,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let due = match &self.state {
                State::Down { retry, .. } => *retry,
                State::Up(up) => up.seeds_due.min(up.answered + PROBE_EVERY),
            };
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.order(command).await,
                    None => return,
                },
                changed = self.newest.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(due) => self.due().await,
                () = self.out.closed() => return,
            }
            self.write_what_waits().await;
        }
    }

    async fn order(&mut self, command: Command) {
        match command {
            Command::Admit(request) => self.admit(request).await,
            Command::Intent(order) => self.intent(order).await,
            Command::Release(node) => {
                self.admitted = false;
                self.release = Some(node);
            }
            Command::Fenced(writes) => self.write_fenced(writes).await,
            Command::Announce(event) => {
                if self.events.len() >= EVENTS_WAITING {
                    self.events.pop_front();
                    add(&self.link.stats.events_dropped, 1);
                }
                self.events.push_back(event);
            }
            Command::Flush(done) => self.flushes.push(done),
        }
    }

    /// Connects, or looks whether Redis is still there.
    async fn due(&mut self) {
        let now = Instant::now();
        let result = match &mut self.state {
            State::Down { .. } => self.connect().await,
            State::Up(up) if up.seeds_due <= now => self.read_seeds().await,
            State::Up(up) => {
                let ping = redis::cmd("PING");
                within(self.link.timeout, ping.query_async::<String>(&mut up.connection)).await.map(|_| ())
            }
        };
        self.settle(result).await;
    }

    async fn connect(&mut self) -> Result<(), Problem> {
        self.forget_old_events();
        let mut connection = self.link.connect().await?;
        let clock = (self.link.redis_now(&mut connection).await?, Instant::now());
        add(&self.link.stats.connections, 1);
        self.written = Written::default();
        self.held = None;
        let now = Instant::now();
        self.state = State::Up(Up { connection, clock, fresh: true, answered: now, seeds_due: now });
        if self.newest.borrow().is_none() {
            self.say(true).await;
        }
        Ok(())
    }

    async fn write_what_waits(&mut self) {
        loop {
            let State::Up(_) = &self.state else { return };
            let result = if let Some(projection) = self.not_held() {
                self.project(&projection).await
            } else if let Some(node) = self.release.clone() {
                self.free(&node).await
            } else if !self.events.is_empty() {
                self.write_events().await
            } else {
                break;
            };
            self.settle(result).await;
        }
        for flushed in self.flushes.drain(..) {
            let _ = flushed.send(());
        }
    }

    /// The newest projection, unless Redis holds it.
    fn not_held(&self) -> Option<Arc<Projection>> {
        let newest = self.newest.borrow();
        let held = matches!((&*newest, &self.held), (Some(newest), Some(held)) if Arc::ptr_eq(newest, held));
        newest.as_ref().filter(|_| !held).map(Arc::clone)
    }

    async fn project(&mut self, wanted: &Arc<Projection>) -> Result<(), Problem> {
        let State::Up(up) = &mut self.state else { return Ok(()) };
        let delta = match self.written.delta(wanted) {
            Ok(Some(delta)) => delta,
            Ok(None) => {
                self.held = Some(Arc::clone(wanted));
                return Ok(());
            }
            Err(error) => {
                tracing::error!(%error, "the projection cannot be put as JSON and is not written");
                self.held = Some(Arc::clone(wanted));
                return Ok(());
            }
        };
        // A node in service that was not admitted has no drain: a place in its name is from before it lost its disk,
        // or from an admission whose answer never came.
        let release = up.fresh && !self.admitted && wanted.node.state == NodeState::Active;
        let manner = Manner { expected: &self.written.node, full: up.fresh, release };
        let node = &wanted.node.node;
        let call = self.scripts.project(&mut up.connection, &self.link.keys, node, &delta, manner);
        match within(self.link.timeout, call).await? {
            Projected::Resync => {
                tracing::warn!("Redis does not hold what this node wrote last; everything is written again");
                self.written = Written::default();
                up.fresh = true;
            }
            Projected::Ok { highest_schema, unreadable, kept_by_others } => {
                add(&self.link.stats.projections, 1);
                add(&self.link.stats.full_projections, u64::from(up.fresh));
                add(&self.link.stats.records_skipped, unreadable);
                if up.fresh && highest_schema > u64::from(SCHEMA) {
                    tracing::warn!(highest_schema, own = SCHEMA, "newer agents share this registry; upgrade this one");
                }
                up.fresh = false;
                let node_json = delta.node;
                self.written.took(wanted, node_json, &kept_by_others);
                self.held = Some(Arc::clone(wanted));
                self.backoff.reset();
                self.say(true).await;
            }
        }
        Ok(())
    }

    async fn free(&mut self, node: &NodeId) -> Result<(), Problem> {
        let State::Up(up) = &mut self.state else { return Ok(()) };
        let mut command = redis::cmd("HDEL");
        command.arg(self.link.keys.drains_under_way()).arg(node.as_str());
        within(self.link.timeout, command.query_async::<()>(&mut up.connection)).await?;
        self.release = None;
        Ok(())
    }

    /// Log first, then publish: whoever hears of an event finds it in the log.
    async fn write_events(&mut self) -> Result<(), Problem> {
        self.forget_old_events();
        let State::Up(up) = &mut self.state else { return Ok(()) };
        let keys = &self.link.keys;
        let (log, channel, records) = (keys.event_log(), keys.events(), keys.drain_records());
        let batch = self.events.len().min(EVENTS_AT_ONCE);
        if batch == 0 {
            return Ok(());
        }
        let mut pipeline = redis::pipe();
        for event in self.events.iter().take(batch) {
            pipeline.cmd("XADD").arg(&log).arg("MAXLEN").arg("~").arg(self.event_log_length);
            pipeline.arg("*").arg("event").arg(&event.json).ignore();
            if let Some(record) = &event.record {
                pipeline.cmd("XADD").arg(&records).arg("MAXLEN").arg("~").arg(DRAIN_RECORDS);
                pipeline.arg("*").arg("record").arg(record).ignore();
            }
            pipeline.cmd("PUBLISH").arg(&channel).arg(&event.json).ignore();
        }
        within(self.link.timeout, pipeline.query_async::<()>(&mut up.connection)).await?;
        self.events.drain(..batch);
        add(&self.link.stats.events_written, batch as u64);
        Ok(())
    }

    async fn intent(&mut self, order: IntentOrder) {
        self.connect_if_due().await;
        let result = match &mut self.state {
            State::Down { why, .. } => Ok(Some(IntentAnswer::Unreachable(why.clone()))),
            State::Up(up) => {
                let not_after = up.redis_ms() + self.link.timeout.as_millis() as u64;
                let call = self.scripts.intent(&mut up.connection, &self.link.keys, &order, not_after);
                within(self.link.timeout, call).await
            }
        };
        let answer = match result {
            Ok(Some(answer)) => answer,
            other => {
                let problem = other.err().unwrap_or(Problem::Late);
                let text = problem.to_string();
                self.settle(Err(problem)).await;
                IntentAnswer::Unreachable(text)
            }
        };
        let _ = self.out.send(RegistryEvent::Intent { number: order.number, answer }).await;
    }

    /// Whatever has been known for a moment decides: an answer to a connection attempt that is due now is one.
    async fn connect_if_due(&mut self) {
        if let State::Down { retry, .. } = &self.state
            && *retry <= Instant::now()
        {
            self.due().await;
        }
    }

    async fn admit(&mut self, request: AdmitRequest) {
        self.connect_if_due().await;
        let result = match &mut self.state {
            State::Down { why, .. } => {
                let answer = Admission::Unreachable(why.clone());
                let _ = self.out.send(RegistryEvent::Admission { drain: request.drain, answer }).await;
                return;
            }
            State::Up(up) => {
                let not_after = up.redis_ms() + self.link.timeout.as_millis() as u64;
                let call = self.scripts.admit(&mut up.connection, &self.link.keys, &request, not_after);
                within(self.link.timeout, call).await
            }
        };
        let answer = match result {
            Ok(Admitted::Yes) => {
                self.admitted = true;
                self.release = None;
                Admission::Admitted
            }
            Ok(Admitted::Below { left }) => Admission::Refused(DrainRefusal::BelowMinimum {
                role: request.role,
                serving: left,
                minimum: request.minimum,
            }),
            Ok(Admitted::Superseded { epoch }) => Admission::Refused(DrainRefusal::PlanSuperseded { epoch }),
            Ok(Admitted::Late) => {
                let problem = Problem::Late;
                let text = problem.to_string();
                self.settle(Err(problem)).await;
                Admission::Unreachable(text)
            }
            Err(problem) => {
                let text = problem.to_string();
                self.settle(Err(problem)).await;
                Admission::Unreachable(text)
            }
        };
        let _ = self.out.send(RegistryEvent::Admission { drain: request.drain, answer }).await;
    }

    async fn write_fenced(&mut self, writes: FencedWrites) {
        let result = match &mut self.state {
            State::Down { why, .. } => Err(why.clone()),
            State::Up(up) => {
                let call = self.scripts.write_fenced(&mut up.connection, &self.link.keys, &writes);
                let written = within(self.link.timeout, call).await;
                let said = written.as_ref().map(Clone::clone).map_err(ToString::to_string);
                self.settle(written.map(|_| ())).await;
                said
            }
        };
        let answer = result.unwrap_or_else(FencedAnswer::Unreachable);
        if let FencedAnswer::Superseded { epoch } = answer {
            tracing::warn!(role = %writes.role, own = writes.token.epoch, latest = epoch, "not written: the term is over");
        }
        let _ = self.out.send(RegistryEvent::Fenced { number: writes.number, answer }).await;
    }

    async fn read_seeds(&mut self) -> Result<(), Problem> {
        let State::Up(up) = &mut self.state else { return Ok(()) };
        let mut command = redis::cmd("HGETALL");
        command.arg(self.link.keys.nodes());
        let records: Vec<(String, String)> = within(self.link.timeout, command.query_async(&mut up.connection)).await?;
        up.seeds_due = Instant::now() + SEEDS_EVERY;
        let own = self.newest.borrow().as_ref().map(|projection| projection.node.node.clone());
        let mut seeds = Vec::new();
        for (_, text) in records {
            match serde_json::from_str::<NodeRecord>(&text) {
                Ok(record) if record.schema <= SCHEMA => {
                    if record.state != NodeState::Offline && Some(&record.node) != own.as_ref() {
                        seeds.push(Seed { node: record.node, gossip: record.facts.gossip });
                    }
                }
                _ => add(&self.link.stats.records_skipped, 1),
            }
        }
        let _ = self.out.send(RegistryEvent::Seeds(seeds)).await;
        Ok(())
    }

    fn forget_old_events(&mut self) {
        while self.events.front().is_some_and(|event| event.since.elapsed() > EVENT_KEPT) {
            self.events.pop_front();
            add(&self.link.stats.events_dropped, 1);
        }
    }

    /// Every command ends here: after a failure the connection is given up, whatever the failure was, since a Redis
    /// that answers but takes no writes (full, read-only, still loading) is no registry either.
    async fn settle(&mut self, result: Result<(), Problem>) {
        match result {
            Ok(()) => {
                if let State::Up(up) = &mut self.state {
                    up.answered = Instant::now();
                }
            }
            Err(problem) => {
                add(&self.link.stats.failures, 1);
                let why = problem.to_string();
                if self.said != Some(false) {
                    tracing::warn!(%why, "the registry is away; the fleet goes on without it");
                }
                self.state = State::Down { retry: Instant::now() + self.backoff.pause(), why };
                self.say(false).await;
            }
        }
    }

    async fn say(&mut self, reachable: bool) {
        if self.said == Some(reachable) {
            return;
        }
        if reachable {
            tracing::info!("the registry is there");
        }
        self.said = Some(reachable);
        self.link.stats.reachable.store(reachable, Ordering::Relaxed);
        let _ = self.out.send(RegistryEvent::Reachable(reachable)).await;
    }
}
