//! The application's handle.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use mtxfleet_wire::{LegId, StitchCounters};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::checkpoint::{CheckpointError, Start, Store};
use crate::config::{Settings, StreamConfig};
use crate::frame::{Item, Track};
use crate::handover::State;
use crate::ledger::{Entry, Ledger};
use crate::session::{Outlets, Resuming, Session};
use crate::{notices, uplink};

/// Events that wait for the session, and reports that wait for the uplink.
const QUEUE: usize = 64;

/// How long [`Stream::close`] waits for the last reports after the legs are closed.
const LAST_REPORTS: Duration = Duration::from_secs(2);

const CONNECT: Duration = Duration::from_secs(2);

/// Why a stream could not be opened, or is over. After an error [`Stream::next`] gives `None`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing was started.
    #[error("the stream's configuration is not valid:\n{0}")]
    Config(String),
    /// Nothing was started.
    #[error("the HTTP client cannot be set up")]
    Http(#[source] reqwest::Error),
    #[error(
        "the stream did not open in {after:.1?}; check that the camera publishes and the stable URL is right. \
         Last: {why}"
    )]
    NotOpened { after: Duration, why: String },
    #[error("the stream has been away for {after:.1?}, longer than `give_up_after`. Last: {why}")]
    Gone { after: Duration, why: String },
    /// The camera's settings were changed: decoders must be set up anew.
    #[error("the camera has other tracks now, so open the stream again ({0})")]
    TracksChanged(String),
    /// At the opening: nothing is left running. Later: the stream is over.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("the stream's task has ended unexpectedly; this is a defect")]
    Task,
}

/// What a stream is doing.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    pub state: State,
    /// The leg that delivers; `None` while none does.
    pub leg: Option<LegId>,
    /// Legs that deliver: with `redundancy = 2` two, as a rule.
    pub legs: usize,
    pub counters: StitchCounters,
    /// `Some` while frames come from a recording.
    pub replay: Option<ReplayStatus>,
    /// Longest pause between two frames in the last handover, less the frame interval; `None` before the first.
    pub last_pause: Option<Duration>,
}

impl Status {
    /// Of a stream from which nothing has come yet.
    #[must_use]
    pub fn opening() -> Self {
        let counters = StitchCounters::default();
        Self { state: State::Opening, leg: None, legs: 0, counters, replay: None, last_pause: None }
    }
}

/// How a worker catches up from a recording.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ReplayStatus {
    /// How far the last frame handed over lies behind the camera, in steps of 100 ms.
    pub backlog: Duration,
    /// Seconds of recording handed over in a second, since it began; `None` in its first fifth of a second. Above 1 it
    /// catches up.
    pub rate: Option<f64>,
}

/// Frames of one camera. Dropping it closes the connections; [`Stream::close`] also waits until that is done.
#[derive(Debug)]
pub struct Stream {
    items: mpsc::Receiver<Result<Item, crate::Error>>,
    tracks: Vec<Track>,
    status: watch::Receiver<Status>,
    stop: Option<oneshot::Sender<()>>,
    session: JoinHandle<()>,
    uplink: JoinHandle<()>,
    start: Start,
    checkpoints: Option<Writing>,
    /// Of the worker and of the stream.
    names: (String, String),
}

/// Checkpoints as they are written.
#[derive(Debug)]
struct Writing {
    /// Only the application itself says what is finished with.
    explicit: bool,
    /// The frame given last.
    given: Option<Entry>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Stream {
    /// Connects through the stable URL, and tries again until a packet has come or `open_timeout` has passed.
    ///
    /// # Errors
    /// [`Error::Config`] with every fault at once, [`Error::NotOpened`] with what was tried last. Nothing is left
    /// running then.
    pub async fn open(config: StreamConfig) -> Result<Self, Error> {
        let rules = config.checkpoints.clone();
        let mut settings = Settings::try_from(config).map_err(Error::Config)?;
        if let Some(follow) = &mut settings.follow {
            let known = follow.owner.wait_for(Option::is_some);
            if !matches!(tokio::time::timeout(settings.open_timeout, known).await, Ok(Ok(_))) {
                let why = "nobody is known to own it".to_owned();
                return Err(Error::NotOpened { after: settings.open_timeout, why });
            }
        }
        // Another provider may have been installed by the application; either will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().connect_timeout(CONNECT).build().map_err(Error::Http)?;
        let names = (settings.worker.to_string(), settings.stream.to_string());
        let opening = match rules {
            Some(rules) => Some((rules.explicit, Store::open(&settings, rules).await?)),
            None => None,
        };
        let (to_app, items) = mpsc::channel(settings.buffer);
        let (to_uplink, reports) = mpsc::channel(QUEUE);
        let (to_session, events) = mpsc::channel(QUEUE);
        let (ready, opened) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let (to_status, status) = watch::channel(Status::opening());
        // The notices end when the session, which receives them, does; the uplink when it has no sender any more.
        tokio::spawn(notices::run(settings.clone(), http.clone(), to_session));
        let uplink = tokio::spawn(uplink::run(settings.clone(), http.clone(), reports, status.clone()));
        let outlets = Outlets { to_app, reports: to_uplink, status: to_status, ready };
        let (mut start, mut resuming, mut checkpoints, mut track) = (Start::Live, None, None, None);
        if let Some((explicit, (store, begun, tail))) = opening {
            let ledger = Arc::new(Ledger::default());
            ledger.begin_with(tail.iter().copied());
            let (tell, superseded) = oneshot::channel();
            let (tell_track, told_track) = oneshot::channel();
            let (stop, stopped) = watch::channel(false);
            let task = store.run(Arc::clone(&ledger), told_track, tail.len() as u64, tell, stopped);
            checkpoints = Some(Writing { explicit, given: None, stop, task: tokio::spawn(task) });
            (start, track) = (begun, Some(tell_track));
            resuming = Some(Resuming { ledger, tail, superseded });
        }
        let session = Session::new(settings, http, outlets, resuming);
        let session = tokio::spawn(session.run(events, stopped));
        let tracks = opened.await.map_err(|_| Error::Task)??;
        if let Some(tell) = track {
            let watched = tracks.iter().find(|track| track.media == "video").or(tracks.first());
            if let Some(track) = watched {
                // Its task has ended early only where another copy took over already.
                drop(tell.send(track.clone()));
            }
        }
        Ok(Self { items, tracks, status, stop: Some(stop), session, uplink, start, checkpoints, names })
    }

    /// The next frame or gap; `None` after an error. Cancel-safe.
    ///
    /// An application that is behind by [`StreamConfig::buffer`] frames makes reading pause.
    ///
    /// # Errors
    /// [`Error::Gone`] and [`Error::TracksChanged`]; the stream is over then.
    pub async fn next(&mut self) -> Option<Result<Item, Error>> {
        self.finish_given();
        let next = self.items.recv().await;
        self.note_given(next.as_ref());
        next
    }

    /// Where the stream began. Without checkpoints always [`Start::Live`].
    #[must_use]
    pub const fn start(&self) -> &Start {
        &self.start
    }

    /// Names of the worker and of the stream.
    #[must_use]
    pub fn names(&self) -> (&str, &str) {
        (&self.names.0, &self.names.1)
    }

    /// Who asks for the next item has finished with the one before, unless it says so itself.
    fn finish_given(&mut self) {
        if let Some(entry) = self.checkpoints.as_mut().filter(|writing| !writing.explicit).and_then(|w| w.given.take())
        {
            entry.done();
        }
    }

    fn note_given(&mut self, item: Option<&Result<Item, Error>>) {
        if let (Some(writing), Some(Ok(Item::Frame(frame)))) = (&mut self.checkpoints, item) {
            writing.given.clone_from(&frame.entry);
        }
    }

    /// The tracks, in the order that [`crate::Frame::track`] counts. They stay the same over all moves.
    #[must_use]
    pub fn tracks(&self) -> &[Track] {
        &self.tracks
    }

    /// Totals since the start.
    #[must_use]
    pub fn counters(&self) -> StitchCounters {
        self.status.borrow().counters
    }

    /// The leg that delivers; `None` while none does.
    #[must_use]
    pub fn leg(&self) -> Option<LegId> {
        self.status.borrow().leg.clone()
    }

    #[must_use]
    pub fn state(&self) -> State {
        self.status.borrow().state
    }

    /// Follows state, leg and counters, also from another task.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Closes the connections (with TEARDOWN) and sends the last reports; a few seconds at most. Frames that were not
    /// fetched are dropped.
    pub async fn close(mut self) -> StitchCounters {
        drop(self.stop.take());
        self.items.close();
        self.finish_given();
        if let Some(Writing { stop, mut task, .. }) = self.checkpoints.take() {
            stop.send_replace(true);
            if tokio::time::timeout(LAST_REPORTS, &mut task).await.is_err() {
                tracing::warn!("the last checkpoint could not be written");
                task.abort();
            }
        }
        let _ = (&mut self.session).await;
        if tokio::time::timeout(LAST_REPORTS, &mut self.uplink).await.is_err() {
            tracing::debug!("the last reports could not be sent");
            self.uplink.abort();
        }
        self.counters()
    }
}

impl futures::Stream for Stream {
    type Item = Result<Item, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.finish_given();
        let next = self.items.poll_recv(context);
        if let Poll::Ready(item) = &next {
            self.note_given(item.as_ref());
        }
        next
    }
}
