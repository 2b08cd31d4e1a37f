//! The threads on which all streams of this process run.

use std::sync::OnceLock;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use tokio::runtime::{Builder, Runtime};

/// Streams wait for the network most of the time: two threads carry hundreds.
const THREADS: usize = 2;

static RUNTIME: OnceLock<(u32, Runtime)> = OnceLock::new();

/// # Errors
/// `RuntimeError` in a process forked after streams were opened: threads are not forked, so nothing would ever come.
pub(crate) fn runtime() -> PyResult<&'static Runtime> {
    let own = std::process::id();
    if RUNTIME.get().is_none() {
        let made = Builder::new_multi_thread().worker_threads(THREADS).thread_name("mtxfleet").enable_all().build();
        let made = made.map_err(|error| PyRuntimeError::new_err(format!("threads cannot be started: {error}")))?;
        // Whoever comes second drops theirs.
        let _ = RUNTIME.set((own, made));
    }
    let (pid, runtime) = RUNTIME.get().ok_or_else(|| PyRuntimeError::new_err("no threads"))?;
    if *pid != own {
        return Err(PyRuntimeError::new_err(
            "this process was forked from one that has streams; start it with \
             multiprocessing.get_context(\"spawn\"), or open streams only after the fork",
        ));
    }
    Ok(runtime)
}
