//! The HTTP API: `docs/ref/http-api.md`.
//!
//! ```text
//!  event loop -- watch<Arc<Snapshot>> ---> reads   (/readyz /metrics /v1/node /v1/fleet /v1/streams /v1/drain
//!                                             /v1/orchestrators /v1/decisions)
//!             -- EventFeed::publish ----> /v1/events, over server-sent events
//!  MediaMTX's playback ----------------> /v1/recordings /v1/playback
//!             <- mpsc<HttpRequest> ------ orders  (POST and DELETE /v1/drain and /v1/protect, POST /v1/pause, /v1/resume,
//!                                           /v1/worker-reports)
//! ```
//! Reads never ask the event loop anything: they show the newest snapshot. Every client is bounded in connections, in
//! bytes and in time.

mod auth;
mod error;
mod feed;
pub mod metrics;
mod page;
mod recordings;
mod routes;
mod serve;

#[cfg(test)]
mod tests;

pub use feed::EventFeed;
pub use metrics::Metrics;
pub use recordings::PlaybackSettings;

use std::net::SocketAddr;
use std::sync::Arc;

use mtxfleet_wire::{
    AvailabilityView, Control, ControlOrder, DecisionView, DrainOrder, DrainRefusal, DrainView, FleetView, Liveness,
    MemberView, NodeId, OrchestratorView, StreamReport, StreamView, UnixMillis, WorkerReport,
};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};

#[derive(Debug, Clone)]
pub struct HttpSettings {
    pub listen: SocketAddr,
    /// What changes something needs it as `Authorization: Bearer TOKEN`. Without one, nothing can be changed.
    pub token: Option<String>,
    /// Good for what workers do only: `POST /v1/worker-reports`, and the recordings.
    pub worker_token: Option<String>,
    pub playback: PlaybackSettings,
}

/// What the API shows, as the event loop last knew it.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    pub node: MemberView,
    pub fleet: FleetView,
    /// Streams of all nodes, by node: shared with whoever reported them, since a copy would cost more than most events.
    pub streams: Vec<(NodeId, Arc<[StreamReport]>)>,
    /// The drain under way, or the last one.
    pub drain: Option<DrainView>,
    /// Whether this node can take new sessions, and if not, why.
    pub ready: Result<(), Vec<String>>,
    pub orchestrators: Vec<OrchestratorView>,
    /// Of both roles, as many as are known here, the newest last.
    pub decisions: Vec<Arc<DecisionView>>,
    /// Decisions of this node since its agent started: by rule and outcome.
    pub decided: Vec<(String, &'static str, u64)>,
    /// Reckoned once a minute.
    pub availability: Arc<AvailabilityView>,
}

impl Snapshot {
    #[must_use]
    pub fn stream_views(&self) -> Vec<StreamView> {
        let views = |(node, streams): &(NodeId, Arc<[StreamReport]>)| {
            let view = |stream: &StreamReport| StreamView { stream: stream.clone(), node: node.clone() };
            streams.iter().map(view).collect::<Vec<_>>()
        };
        self.streams.iter().flat_map(views).collect()
    }

    /// What is shown until the event loop has looked for the first time.
    #[must_use]
    pub fn starting(cluster: &str, node: &NodeId, at: UnixMillis) -> Self {
        Self {
            node: MemberView {
                node: node.clone(),
                liveness: Liveness::Alive,
                facts: None,
                load: None,
                drain: None,
                moves: None,
                cameras: None,
            },
            fleet: FleetView { cluster: cluster.to_owned(), seen_by: node.clone(), at, members: Vec::new() },
            streams: Vec::new(),
            drain: None,
            ready: Err(vec!["the agent is starting".to_owned()]),
            orchestrators: Vec::new(),
            decisions: Vec::new(),
            decided: Vec::new(),
            availability: Arc::default(),
        }
    }
}

/// What somebody wants from the node. An answer that does not come within 5 s is a 503 to the client.
#[derive(Debug)]
pub enum HttpRequest {
    Drain {
        order: DrainOrder,
        answer: oneshot::Sender<Result<DrainView, DrainRefusal>>,
    },
    Undrain {
        answer: oneshot::Sender<Result<DrainView, DrainRefusal>>,
    },
    /// Pause a role, or resume it.
    Control {
        order: ControlOrder,
        paused: bool,
        answer: oneshot::Sender<Control>,
    },
    /// Keep this node, or no longer.
    Protect {
        protected: bool,
        answer: oneshot::Sender<MemberView>,
    },
    /// From a worker that does not reach Redis, to any agent.
    WorkerReport(WorkerReport),
}

/// The API listens while this value lives.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl HttpServer {
    /// Binds and serves on the current tokio runtime.
    ///
    /// # Errors
    /// When the address cannot be bound; nothing was started.
    pub async fn start(
        settings: HttpSettings,
        snapshot: watch::Receiver<Arc<Snapshot>>,
        requests: mpsc::Sender<HttpRequest>,
        feed: EventFeed,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Self> {
        Self::start_with(settings, snapshot, requests, feed, metrics, serve::Limits::default()).await
    }

    async fn start_with(
        settings: HttpSettings,
        snapshot: watch::Receiver<Arc<Snapshot>>,
        requests: mpsc::Sender<HttpRequest>,
        feed: EventFeed,
        metrics: Arc<Metrics>,
        limits: serve::Limits,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(settings.listen).await?;
        let address = listener.local_addr()?;
        let counts = Arc::new(serve::Counts::default());
        metrics.register_collector(serve::collector(Arc::clone(&counts), feed.clone()));
        let auth = auth::Auth::new(settings.token, settings.worker_token);
        let recordings = recordings::Recordings::new(settings.playback);
        let router = routes::router(routes::App { snapshot, requests, feed, metrics, auth, recordings });
        let task = tokio::spawn(serve::run(listener, router, counts, limits));
        Ok(Self { address, task })
    }

    /// Where it listens; the port is a real one when `listen` asked for port 0.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
