//! The registry in Redis: what the fleet shows to the outside world, and the few things that need one writer.
//!
//! ```text
//!  event loop -- project, admit, release, announce --> task    -- one connection --> Redis
//!             <-- Reachable, Admission, Seeds --------
//!             <-- WorkerReport ----------------------- reports -- one connection, XREAD BLOCK
//!             -- lease, <-- Lease -------------------- lease   -- one connection, WAIT
//! ```
//! Nothing here waits for Redis but those three tasks. Start-up does not, each command has a time limit, and what
//! cannot be written is kept within bounds: the newest projection replaces one not yet sent, events wait up to
//! [`EVENT_KEPT`]. `docs/ref/registry.md` says what stands in Redis.

mod cameras;
mod lease;
mod projection;
mod reports;
mod scripts;
mod stats;
mod task;

#[cfg(test)]
mod lease_tests;
#[cfg(test)]
mod test_redis;
#[cfg(test)]
mod tests;

pub use stats::RegistryStats;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mtxfleet_leader::election::{LeaseAnswer, LeaseOrder};
use mtxfleet_leader::growing::{IntentAnswer, IntentOrder};
use mtxfleet_wire::{ClusterName, DrainId, FleetEvent, NodeId, RegistryKeys, Role, Token, WorkerReport};
use tokio::sync::{mpsc, oneshot, watch};

use crate::node::effect::Projection;
use crate::node::event::Admission;
use crate::node::fenced::{FencedAnswer, FencedWrites};

/// An event that could not be written for this long is dropped and counted: workers have had it by SSE.
pub const EVENT_KEPT: Duration = Duration::from_secs(60);

/// Events that wait for Redis at most; beyond it the oldest are dropped and counted.
const EVENTS_WAITING: usize = 1_000;

/// Commands between two turns of the task. It takes them even while Redis is away, so they do not pile up.
const COMMANDS_WAITING: usize = 1_024;

#[derive(Debug, Clone)]
pub struct RegistrySettings {
    /// `redis://[user:password@]host:port[/db]`.
    pub url: String,
    pub cluster: ClusterName,
    /// Limit for a connection attempt and for each command.
    pub timeout: Duration,
    /// Events kept in the event log, about (Redis trims whole blocks of some 100).
    pub event_log_length: usize,
    /// Replicas that must have a lease before it counts; 0: none is waited for.
    pub wait_replicas: u32,
    /// The inventory of pulled cameras is here.
    pub cameras: bool,
}

/// The URL in the settings is no Redis URL. Nothing was started.
#[derive(Debug, thiserror::Error)]
#[error("registry url is not valid; it has to be redis://[user:password@]host:port[/db]")]
pub struct InvalidUrl(#[source] redis::RedisError);

/// May a drain begin? See [`crate::node::effect::Effect::Admit`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdmitRequest {
    pub drain: DrainId,
    pub node: NodeId,
    pub role: Role,
    /// Nodes of this role that serve, as gossip knows them.
    pub serving: Vec<NodeId>,
    /// How many of them must be left.
    pub minimum: u32,
    /// Of the plan that wants the drain; `None`: an operator does.
    pub plan: Option<Token>,
}

/// Another node that the registry knows, for finding peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    pub node: NodeId,
    /// `ip:port` of its gossip.
    pub gossip: String,
}

#[derive(Debug, Clone, PartialEq)]
pub enum RegistryEvent {
    /// Redis answers and takes writes, or does not. Said once at start and at each change.
    Reachable(bool),
    Admission {
        drain: DrainId,
        answer: Admission,
    },
    /// To [`RegistryHandle::intent`], with the order's number.
    Intent {
        number: u64,
        answer: IntentAnswer,
    },
    /// To [`RegistryHandle::lease`], with the order's number.
    Lease {
        number: u64,
        answer: LeaseAnswer,
    },
    /// To [`RegistryHandle::write_fenced`], with the number of the writes.
    Fenced {
        number: u64,
        answer: FencedAnswer,
    },
    /// A worker said something, to whichever node it concerns. May be said twice.
    WorkerReport(WorkerReport),
    /// What the hash of pulled cameras holds, when it has changed.
    Cameras(BTreeMap<String, String>),
    /// Nodes that are not offline, without this one. After each connection and every 30 s.
    Seeds(Vec<Seed>),
}

/// Start it with [`Registry::start`].
#[derive(Debug)]
pub struct Registry;

impl Registry {
    /// Starts its tasks on the current tokio runtime and returns at once, whether Redis is there or not. They end
    /// when the last handle is dropped or the receiver is.
    ///
    /// # Errors
    /// [`InvalidUrl`].
    pub fn start(settings: RegistrySettings) -> Result<(RegistryHandle, mpsc::Receiver<RegistryEvent>), InvalidUrl> {
        let client = redis::Client::open(settings.url.as_str()).map_err(InvalidUrl)?;
        let keys = RegistryKeys::new(&settings.cluster);
        let stats = Arc::new(RegistryStats::default());
        let (events, receiver) = mpsc::channel(256);
        let (commands, command_queue) = mpsc::channel(COMMANDS_WAITING);
        let (projection, newest) = watch::channel(None);

        let link = Link { client, keys, timeout: settings.timeout, stats: Arc::clone(&stats) };
        tokio::spawn(reports::run(link.clone(), events.clone()));
        if settings.cameras {
            tokio::spawn(cameras::run(link.clone(), events.clone()));
        }
        let leases = lease::start(link.clone(), settings.wait_replicas, events.clone());
        let task = task::Task::new(link, settings.event_log_length, command_queue, newest, events.clone());
        tokio::spawn(task.run());
        Ok((RegistryHandle { commands, projection, leases, events, stats }, receiver))
    }
}

/// Gives orders to the registry. No call waits; answers come as [`RegistryEvent`]s.
#[derive(Debug, Clone)]
pub struct RegistryHandle {
    commands: mpsc::Sender<Command>,
    projection: watch::Sender<Option<Arc<Projection>>>,
    leases: lease::LeaseDesk,
    events: mpsc::Sender<RegistryEvent>,
    stats: Arc<RegistryStats>,
}

impl RegistryHandle {
    /// Writes what changed since the last projection that Redis took. One not yet sent is replaced.
    pub fn project(&self, projection: Projection) {
        self.projection.send_replace(Some(Arc::new(projection)));
    }

    /// Asks for admission; [`RegistryEvent::Admission`] is the answer, within twice the time limit.
    pub fn admit(&self, request: AdmitRequest) {
        let drain = request.drain.clone();
        if self.commands.try_send(Command::Admit(request)).is_err() {
            let answer = Admission::Unreachable("too many orders to the registry are waiting".to_owned());
            let _ = self.events.try_send(RegistryEvent::Admission { drain, answer });
        }
    }

    /// Reads, writes or drops an orchestrator's intent, under its term; [`RegistryEvent::Intent`] is the answer, within
    /// twice the time limit.
    pub fn intent(&self, order: IntentOrder) {
        let number = order.number;
        if self.commands.try_send(Command::Intent(order)).is_err() {
            let answer = IntentAnswer::Unreachable("too many orders to the registry are waiting".to_owned());
            let _ = self.events.try_send(RegistryEvent::Intent { number, answer });
        }
    }

    /// Asks for a lease; [`RegistryEvent::Lease`] is the answer, always, within a third of the lease's TTL.
    pub fn lease(&self, order: LeaseOrder) {
        self.leases.ask(order);
    }

    /// Writes as an orchestrator; [`RegistryEvent::Fenced`] is the answer, always. Not tried again when Redis is away.
    pub fn write_fenced(&self, writes: FencedWrites) {
        let number = writes.number;
        if self.commands.try_send(Command::Fenced(writes)).is_err() {
            let answer = FencedAnswer::Unreachable("too many orders to the registry are waiting".to_owned());
            let _ = self.events.try_send(RegistryEvent::Fenced { number, answer });
        }
    }

    /// Frees the place that admission gave. When Redis is away, it is freed once it is back.
    pub fn release(&self, node: NodeId) {
        // A place that is never given back blocks other drains: this order waits for its turn.
        if let Err(mpsc::error::TrySendError::Full(release)) = self.commands.try_send(Command::Release(node)) {
            let commands = self.commands.clone();
            tokio::spawn(async move { commands.send(release).await });
        }
    }

    /// Publishes an event and appends it to the event log; the record of a drain goes to the drain records too.
    /// At least once: after a time-out it is written again, with the same id.
    pub fn announce(&self, event: &FleetEvent) {
        let sent = QueuedEvent::new(event).map(|queued| self.commands.try_send(Command::Announce(queued)));
        if !matches!(sent, Some(Ok(()))) {
            stats::add(&self.stats.events_dropped, 1);
        }
    }

    /// Waits until everything ordered before is written, at most `within`. True when it is.
    pub async fn flush(&self, within: Duration) -> bool {
        let (done, wait) = oneshot::channel();
        let flushed = async {
            self.leases.flush().await && self.commands.send(Command::Flush(done)).await.is_ok() && wait.await.is_ok()
        };
        tokio::time::timeout(within, flushed).await.unwrap_or(false)
    }

    #[must_use]
    pub fn stats(&self) -> &Arc<RegistryStats> {
        &self.stats
    }
}

#[derive(Debug)]
enum Command {
    Admit(AdmitRequest),
    Intent(IntentOrder),
    Release(NodeId),
    Fenced(FencedWrites),
    Announce(QueuedEvent),
    Flush(oneshot::Sender<()>),
}

/// An event on its way to Redis.
#[derive(Debug)]
struct QueuedEvent {
    since: tokio::time::Instant,
    json: String,
    /// The record, when the event ends a drain.
    record: Option<String>,
}

impl QueuedEvent {
    fn new(event: &FleetEvent) -> Option<Self> {
        let record = match &event.what {
            mtxfleet_wire::EventKind::DrainEnded(record) => Some(serde_json::to_string(record).ok()?),
            _ => None,
        };
        Some(Self { since: tokio::time::Instant::now(), json: serde_json::to_string(event).ok()?, record })
    }
}

/// What both tasks need to talk to Redis.
#[derive(Debug, Clone)]
struct Link {
    client: redis::Client,
    keys: RegistryKeys,
    timeout: Duration,
    stats: Arc<RegistryStats>,
}

impl Link {
    async fn connect(&self) -> Result<redis::aio::MultiplexedConnection, Problem> {
        // Time limits are put around each command (see `within`), since a blocking read needs a longer one.
        let config = redis::AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        within(self.timeout, self.client.get_multiplexed_async_connection_with_config(&config)).await
    }

    /// Redis's clock, in milliseconds since 1970.
    async fn redis_now(&self, connection: &mut redis::aio::MultiplexedConnection) -> Result<u64, Problem> {
        let (seconds, micros): (u64, u64) = within(self.timeout, redis::cmd("TIME").query_async(connection)).await?;
        Ok(seconds * 1_000 + micros / 1_000)
    }
}

/// Why a command failed. Whether Redis has carried it out is then unknown.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("Redis did not answer within {0:?}")]
    TimedOut(Duration),
    #[error("Redis: {0}")]
    Redis(#[from] redis::RedisError),
    #[error("an admission reached Redis too late; its clock may have jumped")]
    Late,
}

async fn within<T>(limit: Duration, command: impl Future<Output = redis::RedisResult<T>>) -> Result<T, Problem> {
    match tokio::time::timeout(limit, command).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Problem::TimedOut(limit)),
    }
}

/// Pauses between connection attempts: doubled up to 2 s, so that a Redis that comes back is found soon, and spread
/// so that the agents of a fleet do not come back in one instant.
#[derive(Debug)]
struct Backoff {
    next: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LAST: Duration = Duration::from_secs(2);

    const fn new() -> Self {
        Self { next: Self::FIRST }
    }

    fn reset(&mut self) {
        *self = Self::new();
    }

    fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(Self::LAST);
        let spread = f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 255.0;
        pause.mul_f64(0.75 + spread / 4.0)
    }
}
