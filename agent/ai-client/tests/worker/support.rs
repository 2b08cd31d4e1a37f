//! A small fleet for the worker library: one ingestion server, two distribution servers that pull from it on demand,
//! a load balancer whose direction the test sets, and an agent that says what the test tells it to.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, Sse};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::{Stream, StreamExt as _};
use mtxfleet_tests::lab::address::Loopback;
use mtxfleet_tests::lab::process::{Process, Recipe};
use mtxfleet_tests::lab::wait::{PATIENCE, wait_for};
use mtxfleet_tests::server_binary;
use mtxfleet_wire::{
    Candidate, DrainNotice, EventId, EventKind, FleetEvent, LegId, LegNotice, MoveOrder, MoveReason, NodeId, NodeState,
    SCHEMA, StreamName, UnixMillis, WorkerId, WorkerReport,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;

pub const TOKEN: &str = "a-worker-token";

/// The real server, else the stand-in; a loud skip where that is not built either.
pub fn media_server(what: &str) -> Option<server_binary::ServerBinary> {
    let found = server_binary::find_real().unwrap_or_else(|error| panic!("{error:#}"));
    let found = found.or_else(|_| server_binary::find_stand_in());
    match &found {
        Ok(found) => mtxfleet_tests::notes::ran(&format!("{what}, on {}", found.kind)),
        Err(error) => mtxfleet_tests::notes::skipped(what, &format!("{error:#}")),
    }
    found.ok()
}

/// A media server.
pub struct Server {
    pub rtsp: SocketAddr,
    pub api: SocketAddr,
    pub process: Process,
}

impl Server {
    /// Starts a server with RTSP and API and nothing else; `more` is the rest of its configuration.
    pub fn start(
        binary: &server_binary::ServerBinary,
        name: &str,
        more: &str,
        addresses: &mut Loopback,
        logs: &Path,
    ) -> Result<Self> {
        let (rtsp, api) = (addresses.port()?, addresses.port()?);
        let text = format!(
            "logLevel: info\napi: yes\napiAddress: {api}\nrtsp: yes\nrtspTransports: [tcp]\nrtspAddress: {rtsp}\n\
             rtmp: no\nhls: no\nwebrtc: no\nsrt: no\nmoq: no\n{more}"
        );
        let file = logs.join(format!("{name}.yml"));
        std::fs::write(&file, text)?;
        let recipe = Recipe::new(name, &binary.path).args([file.to_string_lossy()]);
        Ok(Self { rtsp, api, process: recipe.start(logs)? })
    }

    /// The sessions that read, as `query` says: `worker=ID&leg=UUID`.
    pub async fn readers(&self) -> Result<Vec<String>> {
        let url = format!("http://{}/v3/rtspsessions/list", self.api);
        let list: serde_json::Value = reqwest::get(url).await?.error_for_status()?.json().await?;
        let items = list["items"].as_array().context("no items")?.iter();
        let reading = items.filter(|item| item["state"] == "read");
        Ok(reading.map(|item| item["query"].as_str().unwrap_or_default().to_owned()).collect())
    }
}

/// Three servers; see the module.
pub struct Fleet {
    pub addresses: Loopback,
    pub ingestion: Server,
    pub nodes: BTreeMap<&'static str, Server>,
    pub logs: tempfile::TempDir,
}

impl Fleet {
    pub async fn start(binary: &server_binary::ServerBinary) -> Result<Self> {
        // Another part of the process may have installed it; reqwest needs one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut addresses = Loopback::next();
        let logs = tempfile::tempdir()?;
        let mut start = |name: &str, paths: &str| Server::start(binary, name, paths, &mut addresses, logs.path());
        let ingestion = start("ingestion", "paths:\n  all_others:\n")?;
        let pull = format!(
            "paths:\n  \"~^(.+)$\":\n    source: rtsp://{}/$G1\n    sourceOnDemand: yes\n    rtspTransport: tcp\n",
            ingestion.rtsp
        );
        let nodes = BTreeMap::from([("a", start("a", &pull)?), ("b", start("b", &pull)?)]);
        for server in nodes.values().chain([&ingestion]) {
            wait_for("a media server's API", PATIENCE, async || server.readers().await.map(drop)).await?;
        }
        Ok(Self { addresses, ingestion, nodes, logs })
    }

    /// The order to move `leg` away from `from`, to `to`.
    pub fn order(&self, drain: &str, from: &str, to: &[&str], stream: &str, worker: &str, leg: &LegId) -> MoveOrder {
        let candidate = |node: &&str| Candidate {
            node: NodeId::new(*node).expect("valid"),
            rtsp: self.nodes[node].rtsp.to_string(),
            warm: false,
        };
        let legs = vec![LegNotice {
            leg: leg.clone(),
            worker: WorkerId::new(worker).expect("valid"),
            stream: StreamName::new(stream).expect("valid"),
            candidates: to.iter().map(candidate).collect(),
            reason: MoveReason::NodeLeaves,
        }];
        MoveOrder { drain: drain.parse().expect("valid"), node: NodeId::new(from).expect("valid"), legs }
    }
}

/// The notice that comes before an order.
pub fn notice(order: &MoveOrder) -> EventKind {
    let MoveOrder { drain, node, legs } = order.clone();
    EventKind::DrainNotice(DrainNotice { drain, node, deadline: UnixMillis(u64::MAX), legs })
}

/// A node that drained serves again.
pub fn back() -> EventKind {
    EventKind::NodeStateChanged { from: NodeState::Draining, to: NodeState::Active, why: "drained in a test".into() }
}

/// An event with an id of its own.
pub fn event(node: &str, what: EventKind) -> FleetEvent {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let id = EventId::new(format!("event-{}", LAST.fetch_add(1, Ordering::Relaxed))).expect("valid");
    FleetEvent { schema: SCHEMA, id, at: UnixMillis(0), node: NodeId::new(node).expect("valid"), what }
}

/// Forwards TCP to whichever server is set: what a load balancer is to a worker.
pub struct Balancer {
    pub address: SocketAddr,
    target: watch::Sender<SocketAddr>,
    cut: broadcast::Sender<()>,
    task: JoinHandle<()>,
}

impl Balancer {
    pub async fn start(addresses: &mut Loopback, target: SocketAddr) -> Result<Self> {
        let address = addresses.port()?;
        let listener = TcpListener::bind(address).await?;
        let (target, to) = watch::channel(target);
        let cut = broadcast::Sender::new(1);
        let cuts = cut.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let to = *to.borrow();
                let mut cut = cuts.subscribe();
                connections.spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(to).await {
                        tokio::select! {
                            _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                            _ = cut.recv() => {}
                        }
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, target, cut, task })
    }

    /// Ends all connections.
    pub fn cut(&self) {
        let _ = self.cut.send(());
    }

    /// New connections go there; existing ones go on.
    pub fn point_to(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The HTTP side of an agent: events out, reports in.
pub struct Agent {
    pub url: String,
    events: broadcast::Sender<FleetEvent>,
    pub reports: mpsc::UnboundedReceiver<WorkerReport>,
    listeners: Arc<AtomicU32>,
    refused: Arc<AtomicU32>,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct AgentState {
    events: broadcast::Sender<FleetEvent>,
    reports: mpsc::UnboundedSender<WorkerReport>,
    listeners: Arc<AtomicU32>,
    refused: Arc<AtomicU32>,
}

impl Agent {
    pub async fn start(addresses: &mut Loopback) -> Result<Self> {
        let address = addresses.port()?;
        let listener = TcpListener::bind(address).await?;
        let (to_worker, reports) = mpsc::unbounded_channel();
        let (events, listeners, refused) = (broadcast::Sender::new(64), Arc::<AtomicU32>::default(), Arc::default());
        let state = AgentState {
            events: events.clone(),
            reports: to_worker,
            listeners: Arc::clone(&listeners),
            refused: Arc::clone(&refused),
        };
        let routes =
            Router::new().route("/v1/events", get(serve_events)).route("/v1/worker-reports", post(take_report));
        let app = routes.with_state(state);
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { url: format!("http://{address}"), events, reports, listeners, refused, task })
    }

    pub async fn wait_for_listeners(&self, count: u32) -> Result<()> {
        wait_for("workers at the agent's events", PATIENCE, async || {
            let now = self.listeners.load(Ordering::Relaxed);
            if now >= count { Ok(()) } else { Err(format!("{now} of {count}")) }
        })
        .await
    }

    /// Reports without the right token, so far.
    pub fn refused(&self) -> u32 {
        self.refused.load(Ordering::Relaxed)
    }

    pub fn say(&self, node: &str, what: EventKind) {
        let _ = self.events.send(event(node, what));
    }

    pub async fn report(&mut self) -> Result<WorkerReport> {
        let report = tokio::time::timeout(PATIENCE, self.reports.recv()).await;
        report.context("no report")?.context("the agent is gone")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve_events(State(state): State<AgentState>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let receiver = state.events.subscribe();
    state.listeners.fetch_add(1, Ordering::Relaxed);
    let events = futures::stream::unfold(receiver, async |mut receiver| {
        let event = receiver.recv().await.ok()?;
        Some((event, receiver))
    });
    Sse::new(events.map(|event| {
        let data = serde_json::to_string(&event).expect("JSON");
        Ok(Event::default().event(event.what.name()).id(event.id.as_str()).data(data))
    }))
}

async fn take_report(
    State(state): State<AgentState>,
    headers: HeaderMap,
    Json(report): Json<WorkerReport>,
) -> StatusCode {
    if headers.get("authorization").is_none_or(|found| found != &format!("Bearer {TOKEN}")[..]) {
        state.refused.fetch_add(1, Ordering::Relaxed);
        return StatusCode::UNAUTHORIZED;
    }
    let _ = state.reports.send(report);
    StatusCode::NO_CONTENT
}
