//! What `mtxfleet.Stream` was given, as the library's configuration.

use std::path::PathBuf;
use std::time::Duration;

use mtxfleet_ai_client::{Checkpoints, Credentials, StreamConfig, Via};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::errors::to_python;

/// A `dict` with every key; the defaults are those of `mtxfleet.Stream`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Options {
    stream: String,
    worker: String,
    url: String,
    cluster: String,
    redis: Option<String>,
    agents: Vec<String>,
    worker_token: Option<String>,
    via: String,
    user: Option<String>,
    password: Option<String>,
    checkpoints: Option<Rules>,
    redundancy: u8,
    recordings: bool,
    buffer: usize,
    open_timeout: f64,
    leg_timeout: f64,
    cover_timeout: f64,
    silence_timeout: f64,
    recording_timeout: f64,
    give_up_after: Option<f64>,
}

/// The attributes of `mtxfleet.Checkpoints`.
#[derive(FromPyObject)]
struct Rules {
    every_frames: u64,
    every: f64,
    journal: Option<PathBuf>,
}

impl TryFrom<Options> for StreamConfig {
    /// `ValueError`.
    type Error = PyErr;

    fn try_from(given: Options) -> PyResult<Self> {
        let via = match &given.via[..] {
            "direct" => Via::Direct,
            "stable-url" => Via::StableUrl,
            other => {
                return Err(PyValueError::new_err(format!("via: {other:?}; write \"direct\" or \"stable-url\"")));
            }
        };
        let password = given.password.unwrap_or_default();
        let checkpoints = given.checkpoints.map(|rules| -> PyResult<Checkpoints> {
            let every = duration("every", rules.every)?;
            // Frames are taken from the library ahead of the program, so which are finished with is said from Python.
            Ok(Checkpoints {
                every_frames: rules.every_frames,
                every,
                journal: rules.journal,
                ..Checkpoints::explicit()
            })
        });
        let config = Self {
            redis: given.redis,
            agents: given.agents,
            worker_token: given.worker_token,
            via,
            credentials: given.user.map(|user| Credentials { user, password }),
            checkpoints: checkpoints.transpose()?,
            redundancy: given.redundancy,
            recordings: given.recordings,
            buffer: given.buffer,
            open_timeout: duration("open_timeout", given.open_timeout)?,
            leg_timeout: duration("leg_timeout", given.leg_timeout)?,
            cover_timeout: duration("cover_timeout", given.cover_timeout)?,
            silence_timeout: duration("silence_timeout", given.silence_timeout)?,
            recording_timeout: duration("recording_timeout", given.recording_timeout)?,
            give_up_after: given.give_up_after.map(|limit| duration("give_up_after", limit)).transpose()?,
            ..Self::new(given.stream, given.worker, given.url, given.cluster)
        };
        config.check().map_err(|error| to_python(&error))?;
        Ok(config)
    }
}

/// # Errors
/// `ValueError` for what is no length of time.
pub(crate) fn duration(name: &str, seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| PyValueError::new_err(format!("{name}: {seconds} is no number of seconds of 0 or more")))
}
