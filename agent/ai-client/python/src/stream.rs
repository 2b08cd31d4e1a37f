//! One stream, for blocking callers and for asyncio.
//!
//! Waiting and taking are apart: [`Shared::fill`] waits until there is something and leaves it in [`Got`], from where it
//! is taken with the GIL held. A wait that is cancelled, by Ctrl-C or by asyncio, loses nothing, and whoever only asks
//! for figures waits for nobody.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use mtxfleet_ai_client::{self as client, Credentials, Item, StreamConfig, Via};
use pyo3::exceptions::{PyRuntimeError, PyTimeoutError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::errors::to_python;
use crate::frame::{Discontinuity, Frame, Track};
use crate::runtime::{for_asyncio, runtime};

/// Python runs its signal handlers (Ctrl-C) this often while nothing comes.
const SIGNALS_EVERY: Duration = Duration::from_millis(100);

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
    found: Option<Result<client::Frame, client::Error>>,
    /// Gaps whose frame has not come yet.
    gaps: Vec<client::Discontinuity>,
}

/// What can be asked while somebody else waits for a frame.
#[derive(Debug)]
struct Opened {
    tracks: Vec<client::Track>,
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

#[pymethods]
impl Source {
    #[new]
    #[pyo3(signature = (
        stream, worker, url, cluster, *, redis=None, agents=Vec::new(), worker_token=None, via="direct", user=None,
        password=None, buffer=256, open_timeout=15.0, leg_timeout=10.0, cover_timeout=20.0, silence_timeout=6.0,
        give_up_after=None
    ))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn new(
        stream: String,
        worker: String,
        url: String,
        cluster: String,
        redis: Option<String>,
        agents: Vec<String>,
        worker_token: Option<String>,
        via: &str,
        user: Option<String>,
        password: Option<String>,
        buffer: usize,
        open_timeout: f64,
        leg_timeout: f64,
        cover_timeout: f64,
        silence_timeout: f64,
        give_up_after: Option<f64>,
    ) -> PyResult<Self> {
        let via = match via {
            "direct" => Via::Direct,
            "stable-url" => Via::StableUrl,
            other => return Err(PyValueError::new_err(format!("via: {other:?}; write \"direct\" or \"stable-url\""))),
        };
        let credentials = user.map(|user| Credentials { user, password: password.unwrap_or_default() });
        let config = StreamConfig {
            redis,
            agents,
            worker_token,
            via,
            credentials,
            buffer,
            open_timeout: duration("open_timeout", open_timeout)?,
            leg_timeout: duration("leg_timeout", leg_timeout)?,
            cover_timeout: duration("cover_timeout", cover_timeout)?,
            silence_timeout: duration("silence_timeout", silence_timeout)?,
            give_up_after: give_up_after.map(|limit| duration("give_up_after", limit)).transpose()?,
            ..StreamConfig::new(stream, worker, url, cluster)
        };
        config.check().map_err(|error| to_python(&error))?;
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

    /// The same for asyncio.
    fn open_async<'py>(&self, python: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.wait_async(python, Wait::Open)
    }

    /// The next frame, waited for with the GIL released; `None` once the stream was closed.
    #[pyo3(signature = (timeout=None))]
    fn next(&self, python: Python<'_>, timeout: Option<f64>) -> PyResult<Option<Frame>> {
        let limit = timeout.map(|limit| duration("timeout", limit)).transpose()?;
        self.wait(python, limit, Wait::Frame)?;
        self.take(python)
    }

    /// For asyncio: done when [`Source::take`] has something to give.
    fn ready_async<'py>(&self, python: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.wait_async(python, Wait::Frame)
    }

    /// What was waited for; `None` when that was the end.
    fn take(&self, python: Python<'_>) -> PyResult<Option<Frame>> {
        let mut got = self.0.got();
        let Some(found) = got.found.take() else { return Ok(None) };
        let frame = found.map_err(|error| to_python(&error))?;
        let gap = got.gaps.iter().position(|gap| gap.track == frame.track).map(|at| got.gaps.remove(at));
        drop(got);
        let gap = gap.map(|gap| Py::new(python, Discontinuity::from(gap))).transpose()?;
        Ok(Some(Frame::new(frame, gap)))
    }

    /// Closes the connections and sends the last reports; a few seconds at most. What waits elsewhere ends.
    fn close(&self, python: Python<'_>) -> PyResult<()> {
        let runtime = runtime()?;
        python.detach(|| runtime.block_on(self.0.close()));
        Ok(())
    }

    fn close_async<'py>(&self, python: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        for_asyncio()?;
        let shared = Arc::clone(&self.0);
        pyo3_async_runtimes::tokio::future_into_py(python, async move {
            shared.close().await;
            Ok(())
        })
    }

    #[getter]
    fn tracks(&self) -> PyResult<Vec<Track>> {
        Ok(self.0.opened()?.tracks.iter().map(Track::from).collect())
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
        Ok(dict)
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
    Frame,
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
                return Err(PyTimeoutError::new_err("no frame came in time"));
            }
        }
    }

    fn wait_async<'py>(&self, python: Python<'py>, what: Wait) -> PyResult<Bound<'py, PyAny>> {
        for_asyncio()?;
        let shared = Arc::clone(&self.0);
        pyo3_async_runtimes::tokio::future_into_py(python, async move {
            shared.reach(what).await.map_err(|error| to_python(&error))
        })
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
                if matches!(what, Wait::Frame) {
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
                    // Opened once only.
                    let _ = self.opened.set(Opened { tracks: stream.tracks().to_vec(), status: stream.watch() });
                    *phase = Phase::Open(Box::new(stream));
                }
            }
        }
    }

    /// Waits until a frame, an error or the end is there. Cancel-safe: nothing is awaited with a frame in hand.
    async fn fill(&self, phase: &mut Phase) {
        while self.got().found.is_none() {
            let Phase::Open(stream) = phase else { return };
            match stream.next().await {
                Some(Ok(Item::Frame(frame))) => self.got().found = Some(Ok(frame)),
                Some(Ok(Item::Discontinuity(gap))) => self.got().gaps.push(gap),
                Some(Err(error)) => self.got().found = Some(Err(error)),
                None => *phase = Phase::Over,
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
        self.got().found = None;
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

fn duration(name: &str, seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| PyValueError::new_err(format!("{name}: {seconds} is no number of seconds of 0 or more")))
}
