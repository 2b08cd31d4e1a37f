//! Waits of asyncio: a socket that becomes readable when what is waited for is there.
//!
//! The event loop watches it as it watches all others, so the threads of the streams never ask for the GIL: a program that
//! computes holds up nobody's reading.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use mtxfleet_ai_client::Error;
use pyo3::prelude::*;
use tokio::task::AbortHandle;

use crate::errors::to_python;
use crate::runtime::runtime;

/// For one wait at a time; then it can be used again. Dropped, it waits no longer.
#[pyclass(frozen, module = "mtxfleet")]
#[derive(Debug)]
pub(crate) struct Bell {
    ear: UnixStream,
    mouth: Arc<UnixStream>,
    said: Arc<Mutex<Result<(), Error>>>,
    waiting: Mutex<Option<AbortHandle>>,
}

#[pymethods]
impl Bell {
    #[new]
    fn new() -> PyResult<Self> {
        let (ear, mouth) = UnixStream::pair()?;
        ear.set_nonblocking(true)?;
        mouth.set_nonblocking(true)?;
        Ok(Self { ear, mouth: Arc::new(mouth), said: Arc::new(Mutex::new(Ok(()))), waiting: Mutex::default() })
    }

    /// What the event loop watches for reading.
    fn fileno(&self) -> RawFd {
        self.ear.as_raw_fd()
    }

    /// How the wait ended; once the loop says that it did.
    fn answer(&self) -> PyResult<()> {
        let mut byte = [0];
        match (&self.ear).read(&mut byte) {
            // Woken for nothing: whoever looks for a frame finds none, and waits again.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            read => drop(read?),
        }
        let said = std::mem::replace(&mut *self.said.lock().unwrap_or_else(PoisonError::into_inner), Ok(()));
        said.map_err(|error| to_python(&error))
    }
}

impl Bell {
    /// Rings when `wait` is over.
    pub(crate) fn after(&self, wait: impl Future<Output = Result<(), Error>> + Send + 'static) -> PyResult<()> {
        let (mouth, said) = (Arc::clone(&self.mouth), Arc::clone(&self.said));
        let task = runtime()?.spawn(async move {
            let outcome = wait.await;
            *said.lock().unwrap_or_else(PoisonError::into_inner) = outcome;
            // Fails only where nobody listens any more.
            let _ = (&*mouth).write(&[1]);
        });
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(task.abort_handle());
        Ok(())
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        if let Some(task) = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}
