//! Waits of asyncio: a socket that becomes readable when what is waited for may be there.
//!
//! The event loop watches it as it watches all others, and looks at the wait itself when it is readable: no task and no
//! thread is woken in between, and the threads of the streams never ask for the GIL, so a program that computes holds up
//! nobody's reading.

use std::fmt;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use mtxfleet_ai_client::Error;
use pyo3::prelude::*;

use crate::errors::to_python;
use crate::runtime::runtime;

type Wait = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// For one wait at a time; then it can be used again. Dropped, it waits no longer.
#[pyclass(frozen, module = "mtxfleet")]
pub(crate) struct Bell {
    ear: UnixStream,
    clapper: Arc<Clapper>,
    waiting: Mutex<Option<Wait>>,
}

/// Rings once, until it is heard.
struct Clapper {
    mouth: UnixStream,
    has_rung: AtomicBool,
}

impl Wake for Clapper {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.has_rung.swap(true, Ordering::AcqRel) {
            // Fails only where nobody listens any more.
            let _ = (&self.mouth).write(&[1]);
        }
    }
}

#[pymethods]
impl Bell {
    #[new]
    fn new() -> PyResult<Self> {
        let (ear, mouth) = UnixStream::pair()?;
        ear.set_nonblocking(true)?;
        mouth.set_nonblocking(true)?;
        let clapper = Arc::new(Clapper { mouth, has_rung: AtomicBool::new(false) });
        Ok(Self { ear, clapper, waiting: Mutex::default() })
    }

    /// What the event loop watches for reading.
    fn fileno(&self) -> RawFd {
        self.ear.as_raw_fd()
    }

    /// Whether the wait is over; to be asked when the loop says that the socket is readable. Raises what ended it.
    fn answer(&self) -> PyResult<bool> {
        match (&self.ear).read(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            read => drop(read?),
        }
        // Before it is looked at: what comes from here on rings again.
        self.clapper.has_rung.store(false, Ordering::Release);
        self.look()
    }
}

impl Bell {
    /// Rings when `wait` may be over; whether it is already.
    pub(crate) fn after(&self, wait: impl Future<Output = Result<(), Error>> + Send + 'static) -> PyResult<bool> {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::pin(wait));
        self.look()
    }

    fn look(&self) -> PyResult<bool> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(wait) = waiting.as_mut() else { return Ok(true) };
        // It may start tasks and timers.
        let _entered = runtime()?.enter();
        match wait.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::clone(&self.clapper)))) {
            Poll::Pending => Ok(false),
            Poll::Ready(said) => {
                *waiting = None;
                said.map(|()| true).map_err(|error| to_python(&error))
            }
        }
    }
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bell").field("ear", &self.ear).finish_non_exhaustive()
    }
}
