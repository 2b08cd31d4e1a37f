//! The relay as a media server's own source: connections that a resolver hands over, streams that are read from their
//! owners, and followed when these change.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use mtxfleet_ai_client::{Credentials, Follow, Owner, StreamConfig};
use mtxfleet_wire::{NodeId, StreamName};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::relay::WRITE_TIMEOUT;
use crate::session;
use crate::streams::{self, StreamStatus, Streams, Totals};

/// MediaMTX keeps a stream for a while after its last reader itself; this is for one that is started again.
const LINGER: Duration = Duration::from_secs(5);

/// MediaMTX gives a source 10 s to answer.
const OPEN_WITHIN: Duration = Duration::from_secs(8);

/// An owner that does not answer, as one whose machine is gone, is asked again, or the next one is.
const LEG_TIMEOUT: Duration = Duration::from_secs(4);

/// MediaMTX ends a source that sends nothing for 10 s; nothing is read for nobody much longer.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub struct SourceConfig {
    /// For whom streams are pulled.
    pub node: NodeId,
    /// For the owners' servers.
    pub credentials: Option<Credentials>,
    /// Connections, each of one stream, at a time.
    pub max_streams: usize,
}

/// Where a stream is; `None` when nobody knows, or may be asked for it.
pub type Find = dyn Fn(&StreamName) -> Option<watch::Receiver<Option<Owner>>> + Send + Sync;

/// Dropping it ends every stream.
#[derive(Debug)]
pub struct Source {
    streams: Arc<Streams>,
    places: Arc<Semaphore>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

/// Room for one connection.
#[derive(Debug)]
pub struct Place(OwnedSemaphorePermit);

impl Source {
    /// Nothing is opened before a connection comes. Needs a tokio runtime only then.
    #[must_use]
    pub fn new(config: SourceConfig, find: Box<Find>) -> Self {
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        let places = Arc::new(Semaphore::new(config.max_streams.min(Semaphore::MAX_PERMITS)));
        let SourceConfig { node, credentials, max_streams } = config;
        let upstream = move |stream: &StreamName| {
            let follow = Follow { owner: find(stream)?, node: node.clone() };
            Some(StreamConfig {
                open_timeout: OPEN_WITHIN,
                leg_timeout: LEG_TIMEOUT,
                give_up_after: Some(GIVE_UP_AFTER),
                ..StreamConfig::following(stream.as_str(), follow, credentials.clone())
            })
        };
        // A stream that lingers has no connection any more.
        let max_streams = max_streams.saturating_mul(2);
        let settings = streams::Settings { upstream: Box::new(upstream), linger: LINGER, max_streams };
        Self { streams: Streams::new(settings, shutdown.clone(), tasks.clone()), places, shutdown, tasks }
    }

    /// `None` when as many connections as are allowed are served.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        Arc::clone(&self.places).try_acquire_owned().ok().map(Place)
    }

    /// Serves a connection of which `read` was read already, in a task of its own.
    pub fn adopt(&self, place: Place, socket: TcpStream, read: &[u8]) {
        let streams = Arc::clone(&self.streams);
        let read = BytesMut::from(read);
        self.tasks.spawn(async move {
            session::serve(streams, socket, read, WRITE_TIMEOUT).await;
            drop(place.0);
        });
    }

    /// Streams that are open, by name.
    #[must_use]
    pub fn status(&self) -> Vec<StreamStatus> {
        self.streams.status()
    }

    /// Since the start.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.streams.totals()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

#[cfg(test)]
mod tests;
