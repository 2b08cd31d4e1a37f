//! The RTSP responder that tells MediaMTX where a stream lives.
//!
//! A distribution node's `mediamtx.yml` has one path whose source is `rtsp://127.0.0.1:PORT/$G1`. MediaMTX asks here
//! with DESCRIBE and is answered `302` with the owner's address, which it follows (tried with v1.20.1). A question
//! about a stream that nobody is known to own is **held**, since owners become known by gossip within a second, and
//! answered `404` when the time is over.
//!
//! Where it is told to relay, it answers such a question with the stream itself: the connection goes on as that of a reader of
//! [`mtxfleet_relay::Source`], which reads from the owner, and from the next one when it changes (`relaying`).
//!
//! Never points at this node itself: such a loop was tried, at 1,650 questions a second.
//!
//! Everything is bounded: connections, the size and time of a request, questions held per stream and in all.

mod connection;
mod counters;
mod owners;
mod relaying;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use mtxfleet_relay::{Source, Totals};
use mtxfleet_wire::{NodeId, StreamName};

pub use counters::ResolverCounters;

use self::connection::Connection;
use self::counters::Counters;
use self::owners::{HeldQuestions, Owners};

/// After `accept` failed, as it does when the process has no file descriptor left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug, Clone)]
pub struct ResolverSettings {
    /// On loopback; port 0 takes a free one.
    pub listen: SocketAddr,
    /// This node, which is never pointed at, and which the owner's server sees as `pull=NODE`.
    pub node: NodeId,
    /// `host:port` of this node's own RTSP server, which is never pointed at either.
    pub own_rtsp: String,
    pub limits: ResolverLimits,
    /// Streams are served instead of redirected.
    pub relay: Option<RelaySettings>,
}

/// How streams are served.
#[derive(Debug, Clone)]
pub struct RelaySettings {
    /// What the owners' servers ask for.
    pub credentials: mtxfleet_ai_client::Credentials,
    /// At a time. MediaMTX is redirected for those beyond.
    pub max_streams: usize,
}

#[derive(Debug, Clone, Copy)]
pub struct ResolverLimits {
    /// How long a question about an unknown stream is held. MediaMTX gives a source 10 s to answer.
    pub hold: Duration,
    /// Connections beyond are closed at once.
    pub connections: usize,
    /// Bytes of one request, headers and body.
    pub request: usize,
    /// From the opening of a connection, or the last answer, to the end of a request.
    pub request_time: Duration,
    /// Questions held at the same time about one stream, and in all. Those beyond are answered `503` at once.
    pub held_per_stream: usize,
    pub held: usize,
}

impl Default for ResolverLimits {
    fn default() -> Self {
        Self {
            hold: Duration::from_secs(8),
            connections: 256,
            request: 8 * 1024,
            request_time: Duration::from_secs(5),
            held_per_stream: 32,
            held: 192,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    #[error("cannot listen for the questions of MediaMTX on {listen}; choose another address in resolver.listen")]
    Bind { listen: SocketAddr, source: io::Error },
    #[error(
        "resolver.listen {0} is not on loopback, where only this machine's MediaMTX can ask; choose 127.0.0.1 or [::1]"
    )]
    NotLoopback(SocketAddr),
}

/// The responder. Dropping it closes the listener and every connection.
#[derive(Debug)]
pub struct Resolver {
    local: SocketAddr,
    owners: watch::Sender<Owners>,
    counters: Arc<Counters>,
    source: Option<Arc<Source>>,
    task: AbortHandle,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    settings: ResolverSettings,
    local: SocketAddr,
    held: HeldQuestions,
    counters: Arc<Counters>,
    source: Option<Arc<Source>>,
}

impl Resolver {
    /// Knows no owner yet.
    ///
    /// # Errors
    /// When the address cannot be bound, or is not on loopback.
    pub async fn start(settings: ResolverSettings) -> Result<Self, ResolverError> {
        let listen = settings.listen;
        if !listen.ip().is_loopback() {
            return Err(ResolverError::NotLoopback(listen));
        }
        let failed = |source| ResolverError::Bind { listen, source };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        let (owners, known) = watch::channel(Owners::default());
        let counters = Arc::<Counters>::default();
        let held = HeldQuestions::new(settings.limits.held_per_stream, settings.limits.held);
        let source =
            settings.relay.clone().map(|relay| Arc::new(relaying::source(relay, &settings, known.clone(), local)));
        let shared =
            Arc::new(Shared { settings, local, held, counters: Arc::clone(&counters), source: source.clone() });
        let task = tokio::spawn(serve(listener, known, shared)).abort_handle();
        Ok(Self { local, owners, counters, source, task })
    }

    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The whole list each time: stream, owner's node, `host:port` of its RTSP server. Nothing else is ever pointed at.
    pub fn set_owners(&self, owners: Vec<(StreamName, NodeId, String)>) {
        let owners = Owners::from(owners);
        // Held questions are woken by a change only.
        self.owners.send_if_modified(|known| {
            let changed = *known != owners;
            if changed {
                *known = owners;
            }
            changed
        });
    }

    /// What is relayed; `None` where nothing is.
    #[must_use]
    pub fn relayed(&self) -> Option<Totals> {
        self.source.as_ref().map(|source| source.totals())
    }

    #[must_use]
    pub fn counters(&self) -> ResolverCounters {
        self.counters.snapshot()
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, owners: watch::Receiver<Owners>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(_) if connections.len() >= shared.settings.limits.connections => {
                    shared.counters.refused_connections.add();
                }
                Ok((stream, _)) => {
                    let connection = Connection::new(stream, owners.clone(), Arc::clone(&shared));
                    connections.spawn(connection.serve());
                }
                Err(error) => {
                    tracing::warn!(%error, "resolver: a connection could not be accepted; if files ran out, raise LimitNOFILE");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            },
            Some(_) = connections.join_next() => while connections.try_join_next().is_some() {},
        }
    }
}

#[cfg(test)]
mod tests;
