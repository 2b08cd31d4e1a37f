//! Figures of all streams of this process, in Prometheus's text format.

use std::net::SocketAddr;
use std::sync::{Mutex, OnceLock, PoisonError};

use mtxfleet_ai_client::{Metrics, MetricsListener};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;

use crate::runtime::runtime;

/// Every stream that is open.
pub(crate) fn all() -> &'static Metrics {
    static ALL: OnceLock<Metrics> = OnceLock::new();
    ALL.get_or_init(Metrics::default)
}

/// They serve until the process ends.
static SERVING: Mutex<Vec<MetricsListener>> = Mutex::new(Vec::new());

#[pyfunction]
pub(crate) fn metrics_text() -> String {
    all().render()
}

/// Serves [`metrics_text`] at `HOST:PORT`, and gives the port.
#[pyfunction]
pub(crate) fn serve_metrics(python: Python<'_>, host: &str, port: u16) -> PyResult<u16> {
    let runtime = runtime()?;
    let ip = host.parse().map_err(|_| PyValueError::new_err(format!("host: {host:?} is no IP address")))?;
    let listen = SocketAddr::new(ip, port);
    let serving = python.detach(|| runtime.block_on(all().serve(listen)));
    let listener = serving.map_err(|error| PyOSError::new_err(format!("{listen}: {error}")))?;
    let port = listener.address().port();
    SERVING.lock().unwrap_or_else(PoisonError::into_inner).push(listener);
    Ok(port)
}
