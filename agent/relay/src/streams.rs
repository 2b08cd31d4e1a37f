//! Opens the upstream of a stream for its first reader, closes it some time after the last.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mtxfleet_ai_client::{Item, Status, StitchCounters, Stream, StreamConfig};
use mtxfleet_wire::StreamName;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::channel::Channel;

/// What one stream is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamStatus {
    pub stream: StreamName,
    /// For each reader, the packets given to it and those discarded since it was too slow.
    pub readers: Vec<(u64, u64)>,
}

/// What all streams together did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Open now.
    pub streams: usize,
    /// That could not be opened.
    pub not_opened: u64,
    /// Packets given to readers.
    pub packets: u64,
    /// Packets not given, since a reader took them too slowly.
    pub discarded_packets: u64,
    /// Times that a leg took over from another.
    pub handovers: u64,
    /// Of these, without proof that nothing is missing.
    pub unproven_handovers: u64,
    /// Packets that no leg brought.
    pub lost_packets: u64,
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
    open: Mutex<Open>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

pub(crate) type Upstream = dyn Fn(&StreamName) -> Option<StreamConfig> + Send + Sync;

pub(crate) struct Settings {
    /// How a stream is opened; `None` when it cannot be.
    pub upstream: Box<Upstream>,
    /// How long an upstream stays open without readers.
    pub linger: Duration,
    pub max_streams: usize,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("linger", &self.linger).finish_non_exhaustive()
    }
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
    Open(Arc<Channel>, watch::Receiver<Status>),
    Failed(String),
}

/// What there is.
#[derive(Debug, Default)]
struct Open {
    streams: HashMap<StreamName, Entry>,
    /// Taken from `streams`, and not in `past` yet.
    closing: Vec<Entry>,
    /// Of streams that are closed.
    past: Totals,
}

impl Open {
    /// Who comes now opens it anew; it still counts.
    fn close(&mut self, stream: &StreamName) {
        self.closing.extend(self.streams.remove(stream));
    }
}

impl Totals {
    fn add(&mut self, channel: &Channel, counted: &StitchCounters) {
        self.packets += channel.sums.packets.load(Relaxed);
        self.discarded_packets += channel.sums.discarded.load(Relaxed);
        self.handovers += counted.handovers;
        self.unproven_handovers += counted.unproven_handovers;
        self.lost_packets += counted.lost_packets;
    }
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
            Ok(Opening::Open(channel, _)) => Ok(Lease { stream: stream.clone(), channel, _held: held }),
            Ok(Opening::Failed(why)) => Err(JoinError::NotOpened(why)),
            Ok(Opening::Busy) | Err(_) => Err(JoinError::NotOpened("the relay is ending".to_owned())),
        }
    }

    pub(crate) fn status(&self) -> Vec<StreamStatus> {
        let of = |(stream, entry): (&StreamName, &Entry)| {
            let readers = match &*entry.state.borrow() {
                Opening::Open(channel, _) => channel.readers(),
                _ => Vec::new(),
            };
            StreamStatus { stream: stream.clone(), readers }
        };
        let mut all: Vec<_> = self.lock().streams.iter().map(of).collect();
        all.sort_by(|a, b| a.stream.cmp(&b.stream));
        all
    }

    /// Cancelled when the relay ends.
    pub(crate) fn ending(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    pub(crate) fn totals(&self) -> Totals {
        let open = self.lock();
        let mut totals = open.past;
        totals.streams =
            open.streams.values().filter(|entry| matches!(&*entry.state.borrow(), Opening::Open(..))).count();
        for entry in open.streams.values().chain(&open.closing) {
            if let Opening::Open(channel, status) = &*entry.state.borrow() {
                totals.add(channel, &status.borrow().counters);
            }
        }
        totals
    }

    fn entry(self: &Arc<Self>, stream: &StreamName) -> Result<(watch::Receiver<Opening>, Held), JoinError> {
        let mut open = self.lock();
        if let Some(entry) = open.streams.get(stream) {
            return Ok((entry.state.clone(), Held::new(&entry.leases)));
        }
        if open.streams.len() >= self.settings.max_streams {
            return Err(JoinError::TooMany);
        }
        let (sender, state) = watch::channel(Opening::Busy);
        let leases = watch::Sender::new(0);
        let held = Held::new(&leases);
        open.streams.insert(stream.clone(), Entry { state: state.clone(), leases: leases.clone() });
        self.tasks.spawn(Arc::clone(self).run(stream.clone(), sender, leases));
        Ok((state, held))
    }

    /// Owns one upstream from its opening to its end.
    async fn run(self: Arc<Self>, name: StreamName, state: watch::Sender<Opening>, leases: watch::Sender<usize>) {
        tracing::info!(stream = %name, "opening");
        let opening = async {
            let config = (self.settings.upstream)(&name).ok_or("nobody is known to own it")?;
            Stream::open(config).await.map_err(|error| error.to_string())
        };
        let opened = tokio::select! {
            opened = opening => opened,
            () = self.shutdown.cancelled() => Err("the relay is ending".to_owned()),
        };
        let mut upstream = match opened {
            Ok(upstream) => upstream,
            Err(why) => {
                tracing::warn!(
                    stream = %name, why,
                    "cannot be opened; the next reader tries again: see whether `mtxfleet streams` has it"
                );
                let mut open = self.lock();
                open.past.not_opened += 1;
                open.streams.remove(&name);
                drop(open);
                state.send_replace(Opening::Failed(why));
                return;
            }
        };
        let channel = Arc::new(Channel::new(name.as_str(), upstream.tracks().to_vec()));
        let tracks: Vec<String> = upstream.tracks().iter().map(ToString::to_string).collect();
        tracing::info!(stream = %name, ?tracks, "open");
        state.send_replace(Opening::Open(Arc::clone(&channel), upstream.watch()));
        let why = self.forward(&name, &mut upstream, &channel, &leases).await;
        // Who comes now opens it anew; after `forward` ended for want of readers it is gone already.
        self.forget(&name, &leases);
        channel.closed.cancel();
        let counted = upstream.close().await;
        {
            // In one step: a sum that falls for a moment is read as a counter that began anew.
            let mut open = self.lock();
            open.closing.retain(|entry| !entry.leases.same_channel(&leases));
            open.past.add(&channel, &counted);
        }
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
            open.close(stream);
        }
        unused
    }

    /// Without effect where the stream was opened anew meanwhile.
    fn forget(&self, stream: &StreamName, leases: &watch::Sender<usize>) {
        let mut open = self.lock();
        if open.streams.get(stream).is_some_and(|entry| entry.leases.same_channel(leases)) {
            open.close(stream);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream that is open without an upstream.
    #[cfg(test)]
    pub(crate) fn adopt(&self, stream: &StreamName, channel: Arc<Channel>) {
        let (_, status) = watch::channel(Status::opening());
        let (_, state) = watch::channel(Opening::Open(channel, status));
        self.lock().streams.insert(stream.clone(), Entry { state, leases: watch::Sender::new(0) });
    }

    /// Connections that hold a stream.
    #[cfg(test)]
    pub(crate) fn leases(&self, stream: &StreamName) -> Option<watch::Receiver<usize>> {
        self.lock().streams.get(stream).map(|entry| entry.leases.subscribe())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_do_not_fall_while_an_upstream_closes() {
        let settings = Settings { upstream: Box::new(|_| None), linger: Duration::ZERO, max_streams: 1 };
        let streams = Streams::new(settings, CancellationToken::new(), TaskTracker::new());
        let (name, channel) = (StreamName::new("cam1").expect("valid"), Arc::new(Channel::new("cam1", Vec::new())));
        channel.sums.packets.store(7, Relaxed);
        streams.adopt(&name, channel);
        assert_eq!((streams.totals().streams, streams.totals().packets), (1, 7));
        let leases = streams.lock().streams[&name].leases.clone();
        assert!(streams.forget_unused(&name, &leases));
        assert_eq!((streams.totals().streams, streams.totals().packets), (0, 7), "it closes");
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
