//! The outside: configuration, the listener, status and end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use mtxfleet_ai_client::StreamConfig;
use mtxfleet_wire::StreamName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::session;
use crate::streams::{self, StreamStatus, Streams};

/// A worker id has no more characters than this.
const LONGEST_WORKER: usize = 128;

/// How long one write to a reader may take before the reader is cut off.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// After an error of `accept` that comes back at once (no file descriptor is left).
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Begin with [`RelayConfig::new`] and change fields as needed.
#[derive(Debug, Clone)]
pub struct RelayConfig {
    /// Where local readers connect.
    pub listen: SocketAddr,
    /// How every stream is opened; `stream`, `worker` and `rtp_packets` are filled in for each.
    pub upstream: StreamConfig,
    /// Streams are read as worker `PREFIX.STREAM`. Two relays of a fleet must not share it.
    pub worker_prefix: String,
    /// How long an upstream stays open after its last reader has left.
    pub linger: Duration,
    /// Streams open at a time.
    pub max_streams: usize,
    /// Connections of readers at a time.
    pub max_connections: usize,
}

impl RelayConfig {
    /// 10 s of lingering, 64 streams, 256 connections.
    #[must_use]
    pub fn new(listen: SocketAddr, upstream: StreamConfig, worker_prefix: impl Into<String>) -> Self {
        Self {
            listen,
            upstream,
            worker_prefix: worker_prefix.into(),
            linger: Duration::from_secs(10),
            max_streams: 64,
            max_connections: 256,
        }
    }
}

/// Why a relay cannot start. Nothing is left running then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the relay cannot read from the fleet as it is configured")]
    Upstream(#[source] mtxfleet_ai_client::Error),
    #[error("cannot listen on {0}; choose another address")]
    Listen(SocketAddr, #[source] std::io::Error),
}

/// A relay that runs. Dropping it ends it; [`Relay::stop`] also waits until upstreams are closed.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    streams: Arc<Streams>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Relay {
    /// Listens, and opens upstreams as readers come.
    ///
    /// # Errors
    /// When the configuration of the upstream is not valid, or the address cannot be listened on.
    pub async fn start(config: RelayConfig) -> Result<Self, Error> {
        let probe = StreamConfig {
            stream: "any".to_owned(),
            worker: format!("{}.any", config.worker_prefix),
            ..config.upstream.clone()
        };
        probe.check().map_err(Error::Upstream)?;
        let not_listening = |error| Error::Listen(config.listen, error);
        let listener = TcpListener::bind(config.listen).await.map_err(not_listening)?;
        let address = listener.local_addr().map_err(not_listening)?;
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "whoever reaches this address can read every stream: the relay asks for no password");
        }
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (upstream, prefix) = (config.upstream, config.worker_prefix);
        let upstream = move |stream: &StreamName| {
            let worker = worker(&prefix, stream);
            let stream = stream.as_str().to_owned();
            Some(StreamConfig { stream, worker, rtp_packets: true, ..upstream.clone() })
        };
        let settings =
            streams::Settings { upstream: Box::new(upstream), linger: config.linger, max_streams: config.max_streams };
        let streams = Streams::new(settings, shutdown.clone(), tasks.clone());
        let accepting = accept(listener, Arc::clone(&streams), config.max_connections, tasks.clone());
        let ended = shutdown.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = accepting => {}
                () = ended.cancelled() => {}
            }
        });
        Ok(Self { address, streams, shutdown, tasks })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Streams that are open, by name.
    #[must_use]
    pub fn status(&self) -> Vec<StreamStatus> {
        self.streams.status()
    }

    /// Cuts the readers off and closes the upstreams, with TEARDOWN; a few seconds at most.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Does not end.
pub(crate) async fn accept(listener: TcpListener, streams: Arc<Streams>, max: usize, tasks: TaskTracker) {
    let places = Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS)));
    loop {
        let (socket, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted; if files ran out, raise `ulimit -n`");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        match Arc::clone(&places).try_acquire_owned() {
            Ok(place) => {
                let streams = Arc::clone(&streams);
                tasks.spawn(async move {
                    session::serve(streams, socket, BytesMut::with_capacity(16 * 1024), WRITE_TIMEOUT).await;
                    drop(place);
                });
            }
            Err(_) => {
                tracing::warn!(%peer, max, "refused: as many readers as are allowed are connected");
                refuse(socket).await;
            }
        }
    }
}

/// The answer fits into the socket's empty buffer, so this does not wait.
async fn refuse(mut socket: TcpStream) {
    let _ = socket.write_all(b"RTSP/1.0 503 Service Unavailable\r\n\r\n").await;
}

/// `relay-1.site~cam1`: one worker for each stream. Worker ids have no slash.
pub(crate) fn worker(prefix: &str, stream: &StreamName) -> String {
    let all = format!("{prefix}.{}", stream.as_str().replace('/', "~"));
    all.chars().take(LONGEST_WORKER).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stream_has_a_worker_id_that_is_valid() {
        for stream in ["cam1", "site/cam1", &"x".repeat(256)] {
            let stream = StreamName::new(stream).expect("a name");
            mtxfleet_wire::WorkerId::new(worker("relay-1", &stream)).expect("a worker id");
        }
    }
}
