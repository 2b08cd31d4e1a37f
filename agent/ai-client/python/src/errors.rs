//! The worker library's errors as Python exceptions.

use mtxfleet_ai_client::Error;
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;

create_exception!(mtxfleet, StreamError, PyException, "A stream could not be opened, or is over.");
create_exception!(mtxfleet, NotOpened, StreamError, "The stream did not come within `open_timeout`.");
create_exception!(mtxfleet, Gone, StreamError, "The stream was away for longer than `give_up_after`.");
create_exception!(
    mtxfleet,
    TracksChanged,
    StreamError,
    "The camera has other tracks or codecs now: set decoders up anew and open the stream again."
);

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let python = module.py();
    module.add("StreamError", python.get_type::<StreamError>())?;
    module.add("NotOpened", python.get_type::<NotOpened>())?;
    module.add("Gone", python.get_type::<Gone>())?;
    module.add("TracksChanged", python.get_type::<TracksChanged>())
}

/// A configuration that is not valid is a `ValueError`, as in Python's own library.
pub(crate) fn to_python(error: &Error) -> PyErr {
    let text = with_sources(error);
    match error {
        Error::Config(_) => PyValueError::new_err(text),
        Error::NotOpened { .. } => NotOpened::new_err(text),
        Error::Gone { .. } => Gone::new_err(text),
        Error::TracksChanged(_) => TracksChanged::new_err(text),
        _ => StreamError::new_err(text),
    }
}

/// `Display` of ours does not repeat the source.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
