//! Gossip: who is alive, what each node carries, and how loaded it is.
//!
//! chitchat over a transport of our own. A message goes out through [`codec`] (bytes, compressed if long), [`fragments`]
//! (pieces that fit a datagram) and [`seal`] (encrypted, numbered); a datagram comes in the other way round, and what
//! does not authenticate goes no further than `seal`. [`publish`] turns this node's report into chitchat's values,
//! [`peers`] turns the others' values into [`Peer`]s, [`seeds`] finds the first nodes to speak to. A node that is not
//! heard for two rounds is asked directly and through others ([`probe`]), as [`detector`] says, and its silence judged by
//! [`silence`]; the tests in `simulation` run these two on virtual time.

mod codec;
mod counters;
mod detector;
mod fragments;
mod peers;
mod probe;
mod publish;
mod replay;
mod seal;
mod sealed_transport;
mod seeds;
mod silence;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use chitchat::{ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig};
use mtxfleet_leader::plan::Plan;
use mtxfleet_wire::{
    CamerasReport, ClusterName, Control, DecisionsReport, DrainReport, LoadReport, NodeFacts, NodeId, StreamReport,
    TermsReport, UnixMillis,
};
use serde::Serialize;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

pub use counters::{GossipCounters, GossipFigures, Refusal};
pub use seeds::{InvalidSeed, Seed};

use crate::node::event::Peer;
use codec::Codec;
use detector::LOOK_EVERY;
use peers::{Change, View};
use probe::{ProbeSender, Received};
use publish::TooLong;
use seal::{Opener, Sealer, Sender};
use sealed_transport::{Loss, SealedSocket, SealedTransport};
use seeds::Seeder;

/// Load figures are new every second on every node, so they wait for each other this long before a new list of peers
/// is made of them.
const FIGURES_EVERY: Duration = Duration::from_secs(1);
/// While somebody has fallen silent, whoever keeps time over it is woken this often.
const WATCHED_EVERY: Duration = Duration::from_millis(250);
/// Questions and answers of others that wait to be looked at; more are as good as lost.
const PROBES_WAITING: usize = 256;
/// Peers told at once of what cannot wait. They tell the rest.
const TOLD_AT_ONCE: usize = 8;
/// So many of them have to have heard it where that is waited for, and how often this is looked at.
const HEARD_ENOUGH: u64 = 3;
const HEARD_EVERY: Duration = Duration::from_millis(5);
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub struct GossipSettings {
    /// Datagrams of other clusters are refused, the same key notwithstanding.
    pub cluster: ClusterName,
    pub node: NodeId,
    /// UDP. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where the other nodes reach this one. Port 0 stands for the port listened on.
    pub advertise: SocketAddr,
    /// Cluster keys: sealed with the first, opened with any. To replace a key: give every node both, the old one first;
    /// then, node by node, the new one first; then take the old one away.
    pub keys: Vec<[u8; 32]>,
    /// `host:port`, or SRV names; see [`Seed`].
    pub seeds: Vec<String>,
    /// Time between two rounds; 200 ms.
    pub interval: Duration,
    /// Suspicion at which a node is not chosen as a partner of gossip; 8. (Who is suspected is decided by asking it.)
    pub phi: f64,
    /// A node silent for this long is forgotten; 15 min.
    pub dead_node_grace: Duration,
    /// Names among the seeds are looked up again after this long.
    pub seed_refresh: Duration,
    /// Datagrams thrown away on arrival, in a thousand: for tests and benches.
    pub lose_in_1000: u32,
}

impl std::fmt::Debug for GossipSettings {
    /// Without the keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GossipSettings")
            .field("cluster", &self.cluster)
            .field("node", &self.node)
            .field("listen", &self.listen)
            .field("advertise", &self.advertise)
            .field("keys", &self.keys.len())
            .field("seeds", &self.seeds)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum GossipError {
    #[error("gossip has no key: give the cluster key, 32 bytes, that all nodes share")]
    NoKey,
    #[error("{0} is no address that other nodes can reach: advertise this machine's own address for gossip")]
    Unreachable(SocketAddr),
    #[error("gossip cannot listen on UDP {address}: choose another address or port, or stop what uses it")]
    Bind {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Seed(#[from] InvalidSeed),
    #[error("gossip cannot start: {0}")]
    Start(String),
    /// Nothing was set: the others keep this node's last value of that key.
    #[error("the {key} report is {bytes} bytes long and was not gossiped: at most {max} fit", max = mtxfleet_wire::MAX_GOSSIP_VALUE)]
    TooLong { key: &'static str, bytes: usize },
}

/// This node's membership. Dropping it ends gossip at once, as a crash would.
pub struct Gossip {
    handle: Arc<ChitchatHandle>,
    counters: Arc<GossipCounters>,
    added_seeds: watch::Sender<Vec<SocketAddr>>,
    round: Duration,
    listening: SocketAddr,
    advertised: SocketAddr,
    /// Ends its tasks when dropped.
    tasks: JoinSet<()>,
}

impl Gossip {
    /// Joins the fleet. Waits for no seed.
    ///
    /// `generation` is the start time and must be higher at each start of a node: others refuse an older one once they
    /// heard a newer.
    ///
    /// The receiver yields all peers, this node not among them, whenever one of them changed, at most ten times a
    /// second; when it is not read, what comes next is the newest. It ends when gossip has ended by a defect.
    ///
    /// # Errors
    /// [`GossipError`], with nothing left running.
    pub async fn start(
        settings: GossipSettings,
        generation: UnixMillis,
    ) -> Result<(Self, mpsc::Receiver<Vec<Peer>>), GossipError> {
        let seeds: Vec<Seed> = settings.seeds.iter().map(|seed| seed.parse()).collect::<Result<_, _>>()?;
        let first_key = settings.keys.first().ok_or(GossipError::NoKey)?;
        let bind = |source| GossipError::Bind { address: settings.listen, source };
        let socket = UdpSocket::bind(settings.listen).await.map_err(bind)?;
        let listening = socket.local_addr().map_err(bind)?;
        let mut advertised = settings.advertise;
        if advertised.port() == 0 {
            advertised.set_port(listening.port());
        }
        if advertised.ip().is_unspecified() {
            return Err(GossipError::Unreachable(advertised));
        }

        let counters = Arc::new(GossipCounters::default());
        let me = Sender { node: settings.node.clone(), address: advertised, generation: generation.0 };
        let nonces = u64::from_le_bytes(random_bytes()?);
        let socket = Arc::new(socket);
        let sealer = Sealer::new(&settings.cluster, first_key, &me, random_bytes()?);
        let probe_sender = ProbeSender::new(Arc::clone(&socket), sealer.clone(), Arc::clone(&counters));
        let (probes_in, probes) = mpsc::channel(PROBES_WAITING);
        let sealed = SealedSocket::new(
            socket,
            me.clone(),
            sealer,
            Opener::new(&settings.cluster, &settings.keys),
            Codec::new().map_err(|error| GossipError::Start(format!("no memory for zstd: {error}")))?,
            probes_in,
            Arc::clone(&counters),
        );
        let transport = SealedTransport::new(sealed.losing(Loss::new(settings.lose_in_1000, nonces)));
        let handle = chitchat::spawn_chitchat(chitchat_config(&settings, &me), Vec::new(), &transport)
            .await
            .map_err(|error| GossipError::Start(format!("{error:#}")))?;
        let handle = Arc::new(handle);

        let (added_seeds, added) = watch::channel(Vec::new());
        let seeder = Seeder {
            seeds,
            added,
            me: advertised,
            round: settings.interval,
            refresh: settings.seed_refresh,
            counters: Arc::clone(&counters),
        };
        let view = View::new(settings.node, generation.0, settings.interval, nonces, Arc::clone(&counters));
        let (to_node, peers) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(seeder.run(Arc::clone(&handle)));
        tasks.spawn(report_peers(Arc::clone(&handle), view, probes, probe_sender, to_node));
        let round = settings.interval;
        Ok((Self { handle, counters, added_seeds, round, listening, advertised, tasks }, peers))
    }

    /// Where it listens, with the port that was free when 0 was asked for.
    #[must_use]
    pub const fn listening(&self) -> SocketAddr {
        self.listening
    }

    /// What the others are told.
    #[must_use]
    pub const fn advertised(&self) -> SocketAddr {
        self.advertised
    }

    #[must_use]
    pub fn figures(&self) -> GossipFigures {
        self.counters.snapshot()
    }

    /// The live counters, for a reader that outlives this value.
    #[must_use]
    pub fn counters(&self) -> Arc<GossipCounters> {
        Arc::clone(&self.counters)
    }

    /// Addresses that may be peers, such as the registry's nodes. Each list replaces the one before.
    pub fn add_seeds(&self, seeds: Vec<SocketAddr>) {
        self.added_seeds.send_replace(seeds);
    }

    /// # Errors
    /// [`GossipError::TooLong`].
    pub async fn set_facts(&self, facts: &NodeFacts) -> Result<(), GossipError> {
        self.set(publish::FACTS, facts).await
    }

    /// # Errors
    /// [`GossipError::TooLong`].
    pub async fn set_load(&self, load: &LoadReport) -> Result<(), GossipError> {
        self.set(publish::LOAD, load).await
    }

    /// # Errors
    /// [`GossipError::TooLong`].
    pub async fn set_drain(&self, drain: Option<&DrainReport>) -> Result<(), GossipError> {
        self.set_or_delete(publish::DRAIN, drain).await
    }

    /// # Errors
    /// [`GossipError::TooLong`].
    pub async fn set_moves(&self, moves: Option<&DrainReport>) -> Result<(), GossipError> {
        self.set_or_delete(publish::MOVES, moves).await
    }

    async fn set_or_delete(&self, key: &'static str, report: Option<&DrainReport>) -> Result<(), GossipError> {
        let Some(report) = report else {
            let chitchat = self.handle.chitchat();
            delete(chitchat.lock().await.self_node_state(), key);
            return Ok(());
        };
        self.set(key, report).await
    }

    /// # Errors
    /// [`GossipError::TooLong`].
    pub async fn set_terms(&self, terms: &TermsReport) -> Result<(), GossipError> {
        self.set(publish::TERMS, terms).await
    }

    /// # Errors
    /// [`GossipError::TooLong`].
    pub async fn set_plan(&self, plan: &Plan) -> Result<(), GossipError> {
        self.set(publish::PLAN, plan).await
    }

    /// # Errors
    /// [`GossipError::TooLong`].
    pub async fn set_decisions(&self, decisions: &DecisionsReport) -> Result<(), GossipError> {
        self.set(publish::DECISIONS, decisions).await
    }

    /// # Errors
    /// [`GossipError::TooLong`].
    pub async fn set_controls(&self, controls: &[Control]) -> Result<(), GossipError> {
        self.set(publish::CONTROLS, &controls).await
    }

    /// # Errors
    /// [`GossipError::TooLong`].
    pub async fn set_cameras(&self, cameras: &CamerasReport) -> Result<(), GossipError> {
        self.set(publish::CAMERAS, cameras).await
    }

    /// All streams of this node. Those that find no room in their part of the report are left out, those owned last,
    /// and their number is returned and counted.
    pub async fn set_streams(&self, streams: &[StreamReport]) -> usize {
        let (shards, left_out) = publish::encode_streams(streams);
        self.counters.streams_not_gossiped.store(left_out as u64, Relaxed);
        let chitchat = self.handle.chitchat();
        let mut chitchat = chitchat.lock().await;
        let state = chitchat.self_node_state();
        for (key, value) in publish::STREAMS.iter().zip(shards) {
            match value {
                // chitchat compares: a value that is the same is not sent again.
                Some(value) => state.set(key, value),
                None => delete(state, key),
            }
        }
        left_out
    }

    /// Ends gossip as a stop of the agent does: the others find this node silent until it is back.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
        let ended = self.handle.termination_watcher();
        if self.handle.initiate_shutdown().is_err() || tokio::time::timeout(STOP_TIMEOUT, ended).await.is_err() {
            self.handle.abort();
        }
    }

    /// Gossips with some of the others at once: they know what was set last, and tell the rest, sooner than by waiting for
    /// the next round. How many they are.
    pub async fn tell(&self) -> usize {
        let peers: Vec<SocketAddr> = {
            let chitchat = self.handle.chitchat();
            let chitchat = chitchat.lock().await;
            let me = chitchat.self_chitchat_id();
            // Those of whom chitchat is not sure come last, and all are at first: it takes some rounds to be.
            let live: HashSet<&ChitchatId> = chitchat.live_nodes().collect();
            let (sure, unsure): (Vec<_>, Vec<_>) =
                chitchat.node_states().keys().filter(|id| *id != me).partition(|id| live.contains(id));
            let others = sure.into_iter().chain(unsure);
            others.map(|id| id.gossip_advertise_addr).take(TOLD_AT_ONCE).collect()
        };
        peers.iter().take_while(|peer| self.handle.gossip(**peer).is_ok()).count()
    }

    /// Waits until some of the others have what was set last, as far as this node can tell: each was sent, at the end of a
    /// handshake, all that it lacked. False: not within [`STOP_TIMEOUT`], or there is nobody.
    pub async fn be_heard(&self) -> bool {
        let handshakes = || self.counters.handshakes.load(Relaxed);
        let before = handshakes();
        let heard = async {
            let mut looks = tokio::time::interval(HEARD_EVERY);
            let mut again = Instant::now();
            let mut enough = HEARD_ENOUGH;
            while handshakes() - before < enough {
                if Instant::now() >= again {
                    again = Instant::now() + self.round;
                    enough = match self.tell().await {
                        0 => return false,
                        told => HEARD_ENOUGH.min(told as u64),
                    };
                }
                looks.tick().await;
            }
            true
        };
        tokio::time::timeout(STOP_TIMEOUT, heard).await.unwrap_or(false)
    }

    /// Leaves the fleet for good: the others drop this node from their lists without suspecting it first. Takes as long as
    /// they need to hear of it.
    pub async fn leave(self) {
        self.handle.chitchat().lock().await.self_node_state().set(publish::LEFT, "");
        if !self.be_heard().await {
            tracing::warn!("this node leaves, and perhaps nobody has heard that it does: they will find it silent");
        }
        self.stop().await;
    }

    async fn set<T: Serialize>(&self, key: &'static str, value: &T) -> Result<(), GossipError> {
        let value = publish::encode(value).map_err(|TooLong(bytes)| {
            GossipCounters::add(&self.counters.oversize_values, 1);
            GossipError::TooLong { key, bytes }
        })?;
        self.handle.chitchat().lock().await.self_node_state().set(key, value);
        Ok(())
    }
}

impl std::fmt::Debug for Gossip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gossip").field("advertised", &self.advertised).finish_non_exhaustive()
    }
}

fn random_bytes<const N: usize>() -> Result<[u8; N], GossipError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| GossipError::Start(format!("no random numbers: {error}")))?;
    Ok(bytes)
}

fn delete(state: &mut chitchat::NodeState, key: &str) {
    if state.contains_key(key) {
        state.delete(key);
    }
}

fn chitchat_config(settings: &GossipSettings, me: &Sender) -> ChitchatConfig {
    ChitchatConfig {
        chitchat_id: ChitchatId::new(me.node.as_str(), me.generation, me.address),
        cluster_id: settings.cluster.to_string(),
        gossip_interval: settings.interval,
        listen_addr: settings.listen,
        seed_nodes: Vec::new(),
        failure_detector_config: FailureDetectorConfig {
            phi_threshold: settings.phi,
            // The prior of phi: left at its 5 s, a crash would be seen after 5 to 8 s whatever the interval is.
            initial_interval: settings.interval,
            // The pause of a node that was silent and is back says nothing about its pace.
            max_interval: settings.interval * 10,
            dead_node_grace_period: settings.dead_node_grace,
            ..FailureDetectorConfig::default()
        },
        // Tombstones are small and few (17 keys), and whoever misses one for as long as this is forgotten anyway.
        marked_for_deletion_grace_period: settings.dead_node_grace,
        catchup_callback: None,
        // It filters chitchat's watch of live nodes and nothing else. Nobody watches that here, and it would copy the
        // whole state of all nodes in every round in which one of them changed.
        extra_liveness_predicate: Some(Box::new(|_| false)),
    }
}

/// Looks at chitchat's state, asks those that are silent, and sends the peers on when they changed.
async fn report_peers(
    handle: Arc<ChitchatHandle>,
    mut view: View,
    mut probes: mpsc::Receiver<Received>,
    mut sender: ProbeSender,
    to_node: mpsc::Sender<Vec<Peer>>,
) {
    let ended = handle.termination_watcher();
    let report = async {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pending = Change::None;
        let mut sent = Instant::now();
        let mut looked = Instant::now();
        loop {
            let change = tokio::select! {
                Some(received) = probes.recv() => view.receive(received),
                _ = looks.tick() => {
                    let since_last = looked.elapsed();
                    looked = Instant::now();
                    // What was answered before a look counts in it.
                    let mut change = Change::None;
                    for _ in 0..PROBES_WAITING {
                        let Ok(received) = probes.try_recv() else { break };
                        change = change.max(view.receive(received));
                    }
                    change.max(handle.with_chitchat(|chitchat| view.look(chitchat, since_last)).await)
                }
            };
            for (to, probe) in view.take_probes() {
                sender.send(to, &probe);
            }
            pending = pending.max(change);
            let due = match pending {
                Change::None | Change::Figures if view.somebody_fell_silent() => sent.elapsed() >= WATCHED_EVERY,
                Change::None => false,
                Change::Figures => sent.elapsed() >= FIGURES_EVERY,
                Change::Matters => true,
            };
            if !due {
                continue;
            }
            match to_node.try_reserve() {
                Ok(permit) => {
                    permit.send(view.peers());
                    pending = Change::None;
                    sent = Instant::now();
                }
                Err(mpsc::error::TrySendError::Full(())) => {}
                Err(mpsc::error::TrySendError::Closed(())) => break,
            }
        }
    };
    tokio::select! {
        () = report => {}
        // Whoever takes the peers sees that none come any more.
        result = ended => match result {
            Ok(()) => tracing::error!("gossip has ended by itself, which is a defect"),
            Err(error) => tracing::error!(%error, "gossip has ended"),
        },
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
