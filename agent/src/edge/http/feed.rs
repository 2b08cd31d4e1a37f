//! Events for server-sent events (WHATWG HTML, section 9.2): the last ones kept, new ones handed to every client.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use futures::Stream;
use mtxfleet_wire::FleetEvent;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};

/// Events that a client coming back, or coming late, is told again.
pub const REPLAYED: usize = 256;

/// A client this many events behind is dropped; it comes back with `Last-Event-ID` and misses nothing.
const BEHIND_AT_MOST: usize = 256;

/// Clients at a time.
const CLIENTS: usize = 256;

/// A comment is sent this often when there is nothing else, so that both ends notice a dead connection.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// One event, formatted once for all clients.
#[derive(Debug, Clone)]
struct Frame {
    id: Arc<str>,
    bytes: Bytes,
}

/// Where events go in and clients come for them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EventFeed {
    ring: Arc<Mutex<VecDeque<Frame>>>,
    sender: broadcast::Sender<Frame>,
    places: Arc<Semaphore>,
    published: Arc<AtomicU64>,
    dropped: Arc<AtomicU64>,
}

impl Default for EventFeed {
    fn default() -> Self {
        Self {
            ring: Arc::default(),
            sender: broadcast::Sender::new(BEHIND_AT_MOST),
            places: Arc::new(Semaphore::new(CLIENTS)),
            published: Arc::default(),
            dropped: Arc::default(),
        }
    }
}

/// What a new client is told of the past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Replay {
    /// Those after this one; all kept, when it is not among them any more.
    After(String),
    /// The last so many.
    Last(usize),
}

impl EventFeed {
    /// Hands the event to every client. Never waits.
    pub fn publish(&self, event: &FleetEvent) {
        let Ok(json) = serde_json::to_string(event) else { return };
        let frame = Frame {
            id: event.id.as_str().into(),
            // JSON has no line breaks, so one `data:` line holds it.
            bytes: format!("id: {}\nevent: {}\ndata: {json}\n\n", event.id, event.what.name()).into(),
        };
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.len() == REPLAYED {
            ring.pop_front();
        }
        ring.push_back(frame.clone());
        // Under the same lock, so that a client that comes now gets it exactly once. No client is no error.
        let _ = self.sender.send(frame);
        self.published.fetch_add(1, Ordering::Relaxed);
    }

    /// `None` when there are too many clients.
    pub(super) fn subscribe(&self, replay: &Replay) -> Option<impl Stream<Item = Result<Bytes, Infallible>> + use<>> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let skip = match replay {
            Replay::After(id) => ring.iter().position(|frame| *frame.id == **id).map_or(0, |at| at + 1),
            Replay::Last(count) => ring.len().saturating_sub(*count),
        };
        let past = ring.iter().skip(skip).map(|frame| frame.bytes.clone());
        // A first comment makes proxies and clients see the response's start at once.
        let waiting = std::iter::once(Bytes::from_static(b": mtxfleet events\n\n")).chain(past).collect();
        let new = self.sender.subscribe();
        let client = Client { waiting, new, feed: self.clone(), _place: place };
        Some(futures::stream::unfold(client, |mut client| async {
            let bytes = client.next().await?;
            Some((Ok(bytes), client))
        }))
    }

    pub(super) fn clients(&self) -> usize {
        CLIENTS - self.places.available_permits()
    }

    pub(super) fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    /// Clients dropped since they were too slow.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

struct Client {
    waiting: VecDeque<Bytes>,
    new: broadcast::Receiver<Frame>,
    feed: EventFeed,
    _place: OwnedSemaphorePermit,
}

impl Client {
    /// `None` ends the response.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(bytes) = self.waiting.pop_front() {
            return Some(bytes);
        }
        match tokio::time::timeout(KEEP_ALIVE, self.new.recv()).await {
            Ok(Ok(frame)) => Some(frame.bytes),
            Ok(Err(broadcast::error::RecvError::Lagged(_))) => {
                self.feed.dropped.fetch_add(1, Ordering::Relaxed);
                None
            }
            Ok(Err(broadcast::error::RecvError::Closed)) => None,
            Err(_) => Some(Bytes::from_static(b": keep-alive\n\n")),
        }
    }
}
