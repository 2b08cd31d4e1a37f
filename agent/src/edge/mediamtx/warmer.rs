//! Keeps streams open by reading them from this node's own MediaMTX, so that a reader who comes over from a draining
//! node does not wait for a keyframe.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

use mtxfleet_wire::{NodeId, StreamName};

use super::Credentials;
use super::warm_reader::{Target, WarmReader};

/// Streams that are opened at the same time: after a restart of the server all are to be opened anew.
const OPENING_AT_ONCE: usize = 16;

/// Pause after a failure; doubles with each, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct WarmerSettings {
    /// `host:port` of this node's RTSP server, plain RTSP over TCP.
    pub rtsp: String,
    /// The fleet's own, which may read every path.
    pub credentials: Option<Credentials>,
    /// This node; its readers show `warm=NODE` as their query.
    pub node: NodeId,
    /// Most streams that are read at the same time; those beyond are not warmed.
    pub max: usize,
}

/// What the warmer does, for the metrics. Counters count from its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WarmStatus {
    /// Streams it tries to keep open.
    pub wanted: usize,
    /// Of these, streams that play.
    pub open: u64,
    /// Streams of the last list that were beyond `max`.
    pub beyond_max: usize,
    /// Openings that failed, and sessions that broke.
    pub failures: u64,
    /// Bytes read and thrown away.
    pub thrown_away: u64,
}

#[derive(Debug, Default)]
struct Counters {
    open: AtomicU64,
    failures: AtomicU64,
    thrown_away: AtomicU64,
}

/// Dropping it closes all its streams.
#[derive(Debug)]
pub struct Warmer {
    settings: WarmerSettings,
    /// Dropping the sender ends the stream's task.
    kept: HashMap<StreamName, oneshot::Sender<()>>,
    beyond_max: usize,
    counters: Arc<Counters>,
    opening: Arc<Semaphore>,
}

impl Warmer {
    #[must_use]
    pub fn new(settings: WarmerSettings) -> Self {
        Self {
            settings,
            kept: HashMap::new(),
            beyond_max: 0,
            counters: Arc::default(),
            opening: Arc::new(Semaphore::new(OPENING_AT_ONCE)),
        }
    }

    /// From now on exactly these are kept open: those not named are closed, those open already are not touched.
    /// Must be called within a tokio runtime.
    pub fn set(&mut self, mut wanted: Vec<StreamName>) {
        wanted.sort_unstable();
        wanted.dedup();
        self.beyond_max = wanted.len().saturating_sub(self.settings.max);
        if self.beyond_max > 0 {
            tracing::warn!(wanted = wanted.len(), max = self.settings.max, "more streams to warm than allowed");
            wanted.truncate(self.settings.max);
        }
        self.kept.retain(|stream, _| wanted.binary_search(stream).is_ok());
        for stream in wanted {
            if !self.kept.contains_key(&stream) {
                let stop = self.start(&stream);
                self.kept.insert(stream, stop);
            }
        }
    }

    #[must_use]
    pub fn status(&self) -> WarmStatus {
        WarmStatus {
            wanted: self.kept.len(),
            open: self.counters.open.load(Ordering::Relaxed),
            beyond_max: self.beyond_max,
            failures: self.counters.failures.load(Ordering::Relaxed),
            thrown_away: self.counters.thrown_away.load(Ordering::Relaxed),
        }
    }

    fn start(&self, stream: &StreamName) -> oneshot::Sender<()> {
        let (stop, stopped) = oneshot::channel();
        let WarmerSettings { rtsp, credentials, node, .. } = &self.settings;
        let target = Target {
            address: rtsp.clone(),
            url: format!("rtsp://{rtsp}/{stream}?warm={node}"),
            authorization: credentials.as_ref().map(Credentials::basic),
        };
        let counters = Arc::clone(&self.counters);
        tokio::spawn(keep_warm(target, stream.clone(), stopped, counters, Arc::clone(&self.opening)));
        stop
    }
}

/// Until `stop` is sent or its sender is gone.
async fn keep_warm(
    target: Target,
    stream: StreamName,
    mut stop: oneshot::Receiver<()>,
    counters: Arc<Counters>,
    opening: Arc<Semaphore>,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let open = async {
            let _place = opening.acquire().await;
            WarmReader::open(&target).await
        };
        let opened = tokio::select! {
            biased;
            _ = &mut stop => return,
            opened = open => opened,
        };
        let broke = match opened {
            Ok(reader) => {
                pause = FIRST_PAUSE;
                counters.open.fetch_add(1, Ordering::Relaxed);
                let count = |bytes| {
                    counters.thrown_away.fetch_add(bytes as u64, Ordering::Relaxed);
                };
                let ended = reader.keep_open(&mut stop, count).await;
                counters.open.fetch_sub(1, Ordering::Relaxed);
                match ended {
                    Ok(()) => return,
                    Err(broke) => broke,
                }
            }
            Err(refused) => refused,
        };
        counters.failures.fetch_add(1, Ordering::Relaxed);
        let cause = std::error::Error::source(&broke).map(ToString::to_string);
        if pause == FIRST_PAUSE {
            tracing::warn!(%stream, error = %broke, cause, "a stream is not kept warm; trying on");
        } else {
            tracing::debug!(%stream, error = %broke, cause, again_in = ?pause, "a stream is still not kept warm");
        }
        tokio::select! {
            _ = &mut stop => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
