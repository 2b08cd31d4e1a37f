//! One stream, for blocking callers and for asyncio.
//!
//! Waiting and taking are apart: [`Shared::fill`] waits until there is something and leaves all that is there in [`Got`],
//! from where it is taken one by one with the GIL held, which is released only to wait. A wait that is cancelled, by
//! Ctrl-C or by asyncio, loses nothing, and whoever only asks for figures waits for nobody.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use mtxfleet_ai_client::{self as client, Item, StreamConfig};
use pyo3::exceptions::{PyRuntimeError, PyTimeoutError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::bell::Bell;
use crate::errors::to_python;
use crate::figures;
use crate::frame::{Discontinuity, Frame, Start, Track};
use crate::options::{Options, duration};
use crate::runtime::runtime;

/// Python runs its signal handlers (Ctrl-C) this often while nothing comes.
const SIGNALS_EVERY: Duration = Duration::from_millis(100);

/// Items taken over in one wait. They wait here beside the `buffer` of the library.
const BATCH: usize = 32;

/// A stream with its GIL-free machinery. `mtxfleet.Stream` is what programs use.
#[pyclass(frozen, module = "mtxfleet")]
#[derive(Debug)]
pub(crate) struct Source(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Held by whoever waits.
    phase: tokio::sync::Mutex<Phase>,
    /// Held for a moment only.
    got: Mutex<Got>,
    opened: OnceLock<Opened>,
    closed: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Got {
    items: VecDeque<Result<Item, client::Error>>,
    /// Given already, and to be given again with the next frame of their track.
    gaps: Vec<Discontinuity>,
}

/// What can be asked while somebody else waits for a frame.
#[derive(Debug)]
struct Opened {
    tracks: Vec<client::Track>,
    start: client::Start,
    status: watch::Receiver<client::Status>,
}

#[derive(Debug)]
enum Phase {
    Configured(Box<StreamConfig>),
    /// In a task of its own, so that it goes on while nobody waits.
    Opening(JoinHandle<Result<client::Stream, client::Error>>),
    Open(Box<client::Stream>),
    Over,
}

/// What a program is given, in order.
#[derive(IntoPyObject)]
pub(crate) enum Taken {
    Frame(Frame),
    Gap(Discontinuity),
}

#[pymethods]
impl Source {
    #[new]
    fn new(options: Options) -> PyResult<Self> {
        let config = StreamConfig::try_from(options)?;
        Ok(Self(Arc::new(Shared {
            phase: tokio::sync::Mutex::new(Phase::Configured(Box::new(config))),
            got: Mutex::default(),
            opened: OnceLock::new(),
            closed: watch::Sender::new(false),
        })))
    }

    /// Waits until the stream is open, with the GIL released.
    fn open(&self, python: Python<'_>) -> PyResult<()> {
        self.wait(python, None, Wait::Open)
    }

    /// The same for asyncio: `bell` rings when it is open, or could not be. Whether it is open already.
    fn open_async(&self, bell: &Bell) -> PyResult<bool> {
        let shared = Arc::clone(&self.0);
        bell.after(async move { shared.reach(Wait::Open).await })
    }

    /// The next frame or discontinuity, waited for with the GIL released; `None` once the stream was closed.
    #[pyo3(signature = (timeout=None))]
    fn next(&self, python: Python<'_>, timeout: Option<f64>) -> PyResult<Option<Taken>> {
        // Refused in a fork, whatever came before it.
        runtime()?;
        if let Some(taken) = self.take()? {
            return Ok(Some(taken));
        }
        let limit = timeout.map(|limit| duration("timeout", limit)).transpose()?;
        self.wait(python, limit, Wait::Item)?;
        self.take()
    }

    /// For asyncio: `bell` rings when [`Source::take`] has something to give, or the stream is over. Whether that is so
    /// already.
    fn ready_async(&self, bell: &Bell) -> PyResult<bool> {
        let shared = Arc::clone(&self.0);
        bell.after(async move { shared.reach(Wait::Item).await })
    }

    /// What has come and was not taken yet, if anything.
    fn take(&self) -> PyResult<Option<Taken>> {
        let mut got = self.0.got();
        match got.items.pop_front() {
            None => Ok(None),
            Some(Err(error)) => Err(to_python(&error)),
            Some(Ok(Item::Discontinuity(gap))) => {
                let gap = Discontinuity::from(gap);
                got.gaps.push(gap.clone());
                Ok(Some(Taken::Gap(gap)))
            }
            Some(Ok(Item::Frame(frame))) if got.gaps.is_empty() => Ok(Some(Taken::Frame(Frame::new(frame, None)))),
            Some(Ok(Item::Frame(frame))) => {
                let before = got.gaps.extract_if(.., |gap| gap.track() == frame.track);
                let gap = before.reduce(|whole, next| whole.and(&next));
                Ok(Some(Taken::Frame(Frame::new(frame, gap))))
            }
        }
    }

    /// Closes the connections and sends the last reports; a few seconds at most. What waits elsewhere ends. Interrupted
    /// by Ctrl-C, it goes on behind the program's back.
    fn close(&self, python: Python<'_>) -> PyResult<()> {
        let runtime = runtime()?;
        let shared = Arc::clone(&self.0);
        let mut closing = runtime.spawn(async move { shared.close().await });
        while python.detach(|| runtime.block_on(async { timeout(SIGNALS_EVERY, &mut closing).await })).is_err() {
            python.check_signals()?;
        }
        Ok(())
    }

    fn close_async(&self, bell: &Bell) -> PyResult<bool> {
        let shared = Arc::clone(&self.0);
        bell.after(async move {
            shared.close().await;
            Ok(())
        })
    }

    #[getter]
    fn tracks(&self) -> PyResult<Vec<Track>> {
        Ok(self.0.opened()?.tracks.iter().map(Track::from).collect())
    }

    #[getter]
    fn start(&self) -> PyResult<Start> {
        Ok(Start::from(&self.0.opened()?.start))
    }

    /// Totals since the start.
    #[getter]
    fn counters<'py>(&self, python: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counters = self.0.opened()?.status.borrow().counters;
        let dict = PyDict::new(python);
        dict.set_item("frames", counters.frames)?;
        dict.set_item("handovers", counters.handovers)?;
        dict.set_item("unproven_handovers", counters.unproven_handovers)?;
        dict.set_item("lost_packets", counters.lost_packets)?;
        dict.set_item("duplicates_dropped", counters.duplicates_dropped)?;
        dict.set_item("replayed", counters.replayed)?;
        Ok(dict)
    }

    /// The figures that Prometheus gets, by their names there.
    #[getter]
    fn metrics<'py>(&self, python: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(python);
        let status = self.0.opened()?.status.borrow().clone();
        for (name, value) in status.figures() {
            dict.set_item(name, value)?;
        }
        Ok(dict)
    }

    #[getter]
    fn state(&self) -> &'static str {
        let Some(opened) = self.0.opened.get() else {
            return "opening";
        };
        match opened.status.borrow().state {
            client::State::Opening => "opening",
            client::State::Live => "live",
            client::State::Moving => "moving",
            client::State::Reconnecting => "reconnecting",
            client::State::Closed => "closed",
        }
    }

    /// Id of the connection that delivers; `None` while none does.
    #[getter]
    fn leg(&self) -> PyResult<Option<String>> {
        Ok(self.0.opened()?.status.borrow().leg.as_ref().map(ToString::to_string))
    }
}

/// What is waited for.
#[derive(Debug, Clone, Copy)]
enum Wait {
    Open,
    Item,
}

impl Source {
    fn wait(&self, python: Python<'_>, limit: Option<Duration>, what: Wait) -> PyResult<()> {
        let runtime = runtime()?;
        let deadline = limit.map(|limit| Instant::now() + limit);
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let step = left.map_or(SIGNALS_EVERY, |left| left.min(SIGNALS_EVERY));
            let came = python.detach(|| runtime.block_on(async { timeout(step, self.0.reach(what)).await }));
            if let Ok(reached) = came {
                return reached.map_err(|error| to_python(&error));
            }
            python.check_signals()?;
            if left.is_some_and(|left| left <= step) {
                return Err(PyTimeoutError::new_err("no frame came in time; nothing is lost, so ask again"));
            }
        }
    }
}

impl Shared {
    /// Cancel-safe.
    async fn reach(&self, what: Wait) -> Result<(), client::Error> {
        let mut closed = self.closed.subscribe();
        tokio::select! {
            // An error means that the sender is gone, which `self` holds.
            _ = closed.wait_for(|closed| *closed) => Ok(()),
            reached = async {
                let mut phase = self.phase.lock().await;
                self.open(&mut phase).await?;
                if matches!(what, Wait::Item) {
                    self.fill(&mut phase).await;
                }
                Ok(())
            } => reached,
        }
    }

    /// Cancel-safe: the opening goes on in its own task.
    async fn open(&self, phase: &mut Phase) -> Result<(), client::Error> {
        loop {
            match phase {
                Phase::Open(_) | Phase::Over => return Ok(()),
                Phase::Configured(config) => {
                    let config = (**config).clone();
                    *phase = Phase::Opening(tokio::spawn(client::Stream::open(config)));
                }
                Phase::Opening(opening) => {
                    let opened = opening.await.unwrap_or(Err(client::Error::Task));
                    *phase = Phase::Over;
                    let stream = opened?;
                    figures::all().add(&stream);
                    let (tracks, start) = (stream.tracks().to_vec(), stream.start().clone());
                    // Opened once only.
                    let _ = self.opened.set(Opened { tracks, start, status: stream.watch() });
                    *phase = Phase::Open(Box::new(stream));
                }
            }
        }
    }

    /// Waits until a frame, a gap, an error or the end is there, and takes along what has come as well. Cancel-safe:
    /// nothing is awaited with an item in hand.
    async fn fill(&self, phase: &mut Phase) {
        if !self.got().items.is_empty() {
            return;
        }
        let Phase::Open(stream) = phase else { return };
        let mut next = stream.next().await;
        loop {
            let Some(item) = next else {
                *phase = Phase::Over;
                return;
            };
            let mut got = self.got();
            got.items.push_back(item);
            if got.items.len() >= BATCH {
                return;
            }
            drop(got);
            match stream.next().now_or_never() {
                Some(more) => next = more,
                None => return,
            }
        }
    }

    async fn close(&self) {
        self.closed.send_replace(true);
        let mut phase = self.phase.lock().await;
        match std::mem::replace(&mut *phase, Phase::Over) {
            Phase::Open(stream) => drop(stream.close().await),
            Phase::Opening(opening) => opening.abort(),
            Phase::Configured(_) | Phase::Over => {}
        }
        self.got().items.clear();
    }

    fn got(&self) -> MutexGuard<'_, Got> {
        self.got.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self) -> PyResult<&Opened> {
        let opened = self.opened.get();
        opened.ok_or_else(|| {
            PyRuntimeError::new_err("the stream is not open yet; iterate over it, or use it with `with`")
        })
    }
}
