//! How far a worker has come with a stream: what stands in Redis, and in the worker's journal on disk.

use serde::{Deserialize, Serialize};

use crate::{StreamName, UnixMillis, WorkerId};

/// Version of [`Checkpoint`]. A reader refuses a newer one.
pub const CHECKPOINT_SCHEMA: u16 = 1;

/// The last frame that a worker has finished with, and those before it, by which its place is found again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub schema: u16,
    pub worker: WorkerId,
    pub stream: StreamName,
    /// Encoding name of the track, in lower case: `h264`.
    pub encoding: String,
    /// Ticks of the track's clock in a second.
    pub clock_rate: u32,
    /// Frames finished with since the worker's first checkpoint, over all of its lives.
    pub done: u64,
    /// Oldest first; the last one is the one finished with last.
    pub frames: Vec<CheckpointFrame>,
    pub updated: UnixMillis,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointFrame {
    /// Of the pictures' NAL units, in hexadecimal: JSON's numbers end at 2^53 for many readers.
    #[serde(with = "hexadecimal")]
    pub hash: u64,
    /// Ticks of the track's clock, as the worker counts them.
    pub time: i64,
    /// When it was taken, or came, by the worker's clock or the recording node's: microseconds since 1970.
    pub wall_us: u64,
}

mod hexadecimal {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{value:016x}"))
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(deserializer: D) -> Result<u64, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}

/// Why a record is not taken for a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCheckpoint {
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error("it was written by a newer version (schema {0}; this one reads up to {CHECKPOINT_SCHEMA})")]
    Newer(u64),
    #[error("it is of worker {worker} and stream {stream}")]
    Another { worker: String, stream: String },
}

impl Checkpoint {
    /// Reads a record of this worker and stream.
    ///
    /// # Errors
    /// [`InvalidCheckpoint`]: a record that cannot be understood is never taken for none.
    pub fn read(text: &str, worker: &WorkerId, stream: &StreamName) -> Result<Self, InvalidCheckpoint> {
        #[derive(Deserialize)]
        struct Version {
            schema: u64,
        }
        let damaged = |error: serde_json::Error| InvalidCheckpoint::Damaged(error.to_string());
        let version: Version = serde_json::from_str(text).map_err(damaged)?;
        if version.schema > u64::from(CHECKPOINT_SCHEMA) {
            return Err(InvalidCheckpoint::Newer(version.schema));
        }
        let read: Self = serde_json::from_str(text).map_err(damaged)?;
        if read.worker != *worker || read.stream != *stream {
            return Err(InvalidCheckpoint::Another { worker: read.worker.into(), stream: read.stream.into() });
        }
        if read.frames.is_empty() || read.clock_rate == 0 {
            return Err(InvalidCheckpoint::Damaged("it names no frame, or no clock rate".to_owned()));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> (WorkerId, StreamName) {
        (WorkerId::new("anpr-1").expect("valid"), StreamName::new("site/cam1").expect("valid"))
    }

    fn checkpoint() -> Checkpoint {
        let (worker, stream) = ids();
        Checkpoint {
            schema: CHECKPOINT_SCHEMA,
            worker,
            stream,
            encoding: "h264".to_owned(),
            clock_rate: 90_000,
            done: 7,
            frames: vec![CheckpointFrame { hash: u64::MAX - 1, time: -5, wall_us: 1 }],
            updated: UnixMillis(3),
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let (worker, stream) = ids();
        let text = serde_json::to_string(&checkpoint()).expect("JSON");
        assert!(text.contains("\"fffffffffffffffe\""), "{text}");
        assert_eq!(Checkpoint::read(&text, &worker, &stream), Ok(checkpoint()));
    }

    #[test]
    fn damaged_newer_and_foreign_records_are_told_apart_and_never_taken_for_none() {
        let (worker, stream) = ids();
        let text = serde_json::to_string(&checkpoint()).expect("JSON");
        for damaged in ["", "{}", "null", &text[..text.len() / 2], r#"{"schema":1}"#, "\u{0}\u{1}"] {
            let found = Checkpoint::read(damaged, &worker, &stream);
            assert!(matches!(found, Err(InvalidCheckpoint::Damaged(_))), "{damaged:?} gave {found:?}");
        }
        let nothing = text.replace(r#"[{"hash":"fffffffffffffffe","time":-5,"wall_us":1}]"#, "[]");
        assert!(matches!(Checkpoint::read(&nothing, &worker, &stream), Err(InvalidCheckpoint::Damaged(_))));
        // All else may have changed in it.
        let found = Checkpoint::read(r#"{"schema":2,"done":"many"}"#, &worker, &stream);
        assert_eq!(found, Err(InvalidCheckpoint::Newer(2)));
        let other = WorkerId::new("anpr-2").expect("valid");
        assert!(matches!(Checkpoint::read(&text, &other, &stream), Err(InvalidCheckpoint::Another { .. })));
    }
}
