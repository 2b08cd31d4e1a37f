//! Opens the upstream of a stream for its first reader, closes it some time after the last.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mtxfleet_ai_client::{Item, Stream, StreamConfig};
use mtxfleet_wire::StreamName;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::channel::Channel;

/// A worker id has no more characters than this.
const LONGEST_WORKER: usize = 128;

/// What one stream is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamStatus {
    pub stream: StreamName,
    /// For each reader, the packets given to it and those discarded since it was too slow.
    pub readers: Vec<(u64, u64)>,
}

/// Why a stream cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum JoinError {
    #[error("as many streams as are allowed are open")]
    TooMany,
    #[error("{0}")]
    NotOpened(String),
}

#[derive(Debug)]
pub(crate) struct Streams {
    settings: Settings,
    open: Mutex<HashMap<StreamName, Entry>>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// For every stream, but for its name and the worker's.
    pub upstream: StreamConfig,
    pub worker_prefix: String,
    /// How long an upstream stays open without readers.
    pub linger: Duration,
    pub max_streams: usize,
}

#[derive(Debug)]
struct Entry {
    state: watch::Receiver<Opening>,
    /// Connections that hold the stream.
    leases: watch::Sender<usize>,
}

#[derive(Debug, Clone)]
enum Opening {
    Busy,
    Open(Arc<Channel>),
    Failed(String),
}

/// Keeps an upstream open. Dropped, it counts no more.
#[derive(Debug)]
pub(crate) struct Lease {
    pub stream: StreamName,
    pub channel: Arc<Channel>,
    _held: Held,
}

#[derive(Debug)]
struct Held(watch::Sender<usize>);

impl Held {
    fn new(leases: &watch::Sender<usize>) -> Self {
        leases.send_modify(|count| *count += 1);
        Self(leases.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Streams {
    pub(crate) fn new(settings: Settings, shutdown: CancellationToken, tasks: TaskTracker) -> Arc<Self> {
        Arc::new(Self { settings, open: Mutex::default(), shutdown, tasks })
    }

    /// A stream's channel, as soon as its upstream delivers. May be dropped while it waits.
    pub(crate) async fn join(self: &Arc<Self>, stream: &StreamName) -> Result<Lease, JoinError> {
        let (mut state, held) = self.entry(stream)?;
        // The state is told before its sender is gone.
        let state = state.wait_for(|state| !matches!(state, Opening::Busy)).await.map(|state| state.clone());
        match state {
            Ok(Opening::Open(channel)) => Ok(Lease { stream: stream.clone(), channel, _held: held }),
            Ok(Opening::Failed(why)) => Err(JoinError::NotOpened(why)),
            Ok(Opening::Busy) | Err(_) => Err(JoinError::NotOpened("the relay is ending".to_owned())),
        }
    }

    pub(crate) fn status(&self) -> Vec<StreamStatus> {
        let of = |(stream, entry): (&StreamName, &Entry)| {
            let readers = match &*entry.state.borrow() {
                Opening::Open(channel) => channel.readers(),
                _ => Vec::new(),
            };
            StreamStatus { stream: stream.clone(), readers }
        };
        let mut all: Vec<_> = self.lock().iter().map(of).collect();
        all.sort_by(|a, b| a.stream.cmp(&b.stream));
        all
    }

    fn entry(self: &Arc<Self>, stream: &StreamName) -> Result<(watch::Receiver<Opening>, Held), JoinError> {
        let mut open = self.lock();
        if let Some(entry) = open.get(stream) {
            return Ok((entry.state.clone(), Held::new(&entry.leases)));
        }
        if open.len() >= self.settings.max_streams {
            return Err(JoinError::TooMany);
        }
        let (sender, state) = watch::channel(Opening::Busy);
        let leases = watch::Sender::new(0);
        let held = Held::new(&leases);
        open.insert(stream.clone(), Entry { state: state.clone(), leases: leases.clone() });
        self.tasks.spawn(Arc::clone(self).run(stream.clone(), sender, leases));
        Ok((state, held))
    }

    /// Owns one upstream from its opening to its end.
    async fn run(self: Arc<Self>, name: StreamName, state: watch::Sender<Opening>, leases: watch::Sender<usize>) {
        tracing::info!(stream = %name, "opening");
        let opened = tokio::select! {
            opened = Stream::open(self.config(&name)) => opened.map_err(|error| error.to_string()),
            () = self.shutdown.cancelled() => Err("the relay is ending".to_owned()),
        };
        let mut upstream = match opened {
            Ok(upstream) => upstream,
            Err(why) => {
                tracing::warn!(stream = %name, why, "cannot be opened");
                self.lock().remove(&name);
                state.send_replace(Opening::Failed(why));
                return;
            }
        };
        let channel = Arc::new(Channel::new(name.as_str(), upstream.tracks().to_vec()));
        let tracks: Vec<String> = upstream.tracks().iter().map(ToString::to_string).collect();
        tracing::info!(stream = %name, ?tracks, "open");
        state.send_replace(Opening::Open(Arc::clone(&channel)));
        let why = self.forward(&name, &mut upstream, &channel, &leases).await;
        // Who comes now opens it anew; after `forward` ended for want of readers it is gone already.
        self.forget(&name, &leases);
        channel.closed.cancel();
        let counted = upstream.close().await;
        tracing::info!(stream = %name, why, frames = counted.frames, handovers = counted.handovers,
            lost_packets = counted.lost_packets, "closed");
    }

    /// Frames from the upstream to the channel, until there is a reason to stop.
    async fn forward(
        &self,
        name: &StreamName,
        upstream: &mut Stream,
        channel: &Channel,
        leases: &watch::Sender<usize>,
    ) -> String {
        let mut unused = pin!(unused(leases.subscribe(), self.settings.linger));
        loop {
            let item = tokio::select! {
                item = upstream.next() => item,
                () = &mut unused => {
                    if self.forget_unused(name, leases) {
                        return "nobody reads it any more".to_owned();
                    }
                    unused.set(self::unused(leases.subscribe(), self.settings.linger));
                    continue;
                }
                () = self.shutdown.cancelled() => return "the relay is ending".to_owned(),
            };
            match item {
                Some(Ok(Item::Frame(frame))) => channel.push(&frame),
                Some(Ok(Item::Discontinuity(gap))) => {
                    tracing::warn!(stream = %name, track = gap.track, lost_packets = gap.lost_packets,
                        after = gap.after, before = gap.before, kind = ?gap.kind, "frames are missing here");
                    channel.gap(gap.track);
                }
                Some(Err(error)) => return error.to_string(),
                None => return "the upstream ended".to_owned(),
            }
        }
    }

    /// False when somebody came just now.
    fn forget_unused(&self, stream: &StreamName, leases: &watch::Sender<usize>) -> bool {
        let mut open = self.lock();
        let unused = *leases.borrow() == 0;
        if unused {
            open.remove(stream);
        }
        unused
    }

    /// Without effect where the stream was opened anew meanwhile.
    fn forget(&self, stream: &StreamName, leases: &watch::Sender<usize>) {
        let mut open = self.lock();
        if open.get(stream).is_some_and(|entry| entry.leases.same_channel(leases)) {
            open.remove(stream);
        }
    }

    fn config(&self, stream: &StreamName) -> StreamConfig {
        let worker = worker(&self.settings.worker_prefix, stream);
        let stream = stream.as_str().to_owned();
        StreamConfig { stream, worker, rtp_packets: true, ..self.settings.upstream.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StreamName, Entry>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream that is open without an upstream.
    #[cfg(test)]
    pub(crate) fn adopt(&self, stream: &StreamName, channel: Arc<Channel>) {
        let (_, state) = watch::channel(Opening::Open(channel));
        self.lock().insert(stream.clone(), Entry { state, leases: watch::Sender::new(0) });
    }

    /// Connections that hold a stream.
    #[cfg(test)]
    pub(crate) fn leases(&self, stream: &StreamName) -> Option<watch::Receiver<usize>> {
        self.lock().get(stream).map(|entry| entry.leases.subscribe())
    }
}

/// Ends when nobody has held the stream for `linger`.
async fn unused(mut leases: watch::Receiver<usize>, linger: Duration) {
    loop {
        // The sender lives as long as the task that waits here.
        let _ = leases.wait_for(|count| *count == 0).await;
        if tokio::time::timeout(linger, leases.wait_for(|count| *count > 0)).await.is_err() {
            return;
        }
    }
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

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_unused_only_after_nobody_came_back_for_the_whole_time() {
        let leases = watch::Sender::new(1);
        let mut unused = pin!(unused(leases.subscribe(), Duration::from_secs(10)));
        let mut waits = async |seconds| tokio::time::timeout(Duration::from_secs(seconds), &mut unused).await.is_err();
        assert!(waits(60).await, "one holds it");
        leases.send_replace(0);
        assert!(waits(9).await);
        leases.send_replace(1);
        assert!(waits(60).await, "one came back");
        leases.send_replace(0);
        assert!(waits(9).await);
        assert!(!waits(2).await);
    }
}
