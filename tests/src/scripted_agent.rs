//! The HTTP side of an agent, which says what the test tells it to and keeps what workers report.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, Sse};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::{Stream, StreamExt as _};
use mtxfleet_wire::{
    DrainNotice, EventId, EventKind, FleetEvent, MoveOrder, NodeId, NodeState, SCHEMA, UnixMillis, WorkerReport,
};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinHandle;

use crate::lab::address::Loopback;
use crate::lab::wait::{PATIENCE, wait_for};

/// What workers must show to report.
pub const TOKEN: &str = "a-worker-token";

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

/// Events out, reports in.
#[derive(Debug)]
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
    /// # Errors
    /// When no port can be had.
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

    /// # Errors
    /// When they have not come in [`PATIENCE`].
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

    /// The next report.
    ///
    /// # Errors
    /// When none comes in [`PATIENCE`].
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
