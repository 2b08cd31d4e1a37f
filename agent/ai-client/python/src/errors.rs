//! The worker library's errors as Python exceptions.

use mtxfleet_ai_client::{CheckpointError as Checkpoint, Error};
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
create_exception!(
    mtxfleet,
    CheckpointError,
    StreamError,
    "The worker's checkpoint cannot be read, or written any more. Nothing is begun from nowhere."
);
create_exception!(
    mtxfleet,
    Superseded,
    CheckpointError,
    "Another copy of this worker reads the stream since: end this one, or give it a name of its own."
);

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let python = module.py();
    module.add("StreamError", python.get_type::<StreamError>())?;
    module.add("NotOpened", python.get_type::<NotOpened>())?;
    module.add("Gone", python.get_type::<Gone>())?;
    module.add("TracksChanged", python.get_type::<TracksChanged>())?;
    module.add("CheckpointError", python.get_type::<CheckpointError>())?;
    module.add("Superseded", python.get_type::<Superseded>())
}

/// A configuration that is not valid is a `ValueError`, as in Python's own library.
pub(crate) fn to_python(error: &Error) -> PyErr {
    let text = with_sources(error);
    match error {
        Error::Config(_) => PyValueError::new_err(text),
        Error::NotOpened { .. } => NotOpened::new_err(text),
        Error::Gone { .. } => Gone::new_err(format!("{text}. Open the stream again, or set `give_up_after` higher")),
        Error::TracksChanged(_) => TracksChanged::new_err(text),
        Error::Checkpoint(Checkpoint::Superseded { .. }) => {
            Superseded::new_err(format!("{text}. Two running programs need two names"))
        }
        Error::Checkpoint(_) => CheckpointError::new_err(text),
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
