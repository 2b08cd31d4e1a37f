//! The checkpoint on disk, for as long as Redis is away.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use mtxfleet_wire::{Checkpoint, InvalidCheckpoint, StreamName, WorkerId};
use serde::Serialize;

/// A checkpoint is about 2 KiB.
const LARGEST: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("{}: cannot be {doing}", path.display())]
    Io {
        path: PathBuf,
        doing: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("{}: {why}. Remove it to go on from the record in Redis, or without one at the live end", path.display())]
    Invalid {
        path: PathBuf,
        #[source]
        why: InvalidCheckpoint,
    },
}

/// What stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Page {
    /// Of the claim under which it was written; 0 when Redis has been away since the start.
    pub epoch: u64,
    pub checkpoint: Checkpoint,
}

#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    worker: WorkerId,
    stream: StreamName,
    /// The highest that was read or written.
    epoch: std::sync::atomic::AtomicU64,
}

/// A file's name has 255 bytes at most; a longer one ends in its hash instead.
fn short(name: String) -> String {
    use sha2::Digest as _;
    use std::fmt::Write as _;

    const LONGEST: usize = 250;
    if name.len() <= LONGEST {
        return name;
    }
    let mut short: String = name.chars().take(100).collect();
    short.push('%');
    for byte in &sha2::Sha256::digest(name.as_bytes())[..16] {
        let _ = write!(short, "{byte:02x}");
    }
    short + ".json"
}

impl Journal {
    pub(crate) fn open(folder: &Path, worker: &WorkerId, stream: &StreamName) -> Result<Self, JournalError> {
        // A stream's slashes make no folders; `~` is in no other place of an id than where it was written, so `%` is used.
        let name = format!("{worker}%{}.json", stream.as_str().replace('/', "%"));
        let path = folder.join(short(name));
        std::fs::create_dir_all(folder).map_err(|source| JournalError::Io {
            path: folder.to_owned(),
            doing: "made a folder",
            source,
        })?;
        Ok(Self { path, worker: worker.clone(), stream: stream.clone(), epoch: 0.into() })
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// `None` when there is no file.
    pub(crate) fn read(&self) -> Result<Option<Page>, JournalError> {
        let io = |source| JournalError::Io { path: self.path.clone(), doing: "read", source };
        let invalid = |why| JournalError::Invalid { path: self.path.clone(), why };
        match std::fs::metadata(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
            Ok(found) if found.len() > LARGEST => {
                return Err(invalid(InvalidCheckpoint::Damaged(format!("it has {} bytes", found.len()))));
            }
            Ok(_) => {}
        }
        let bytes = std::fs::read(&self.path).map_err(io)?;
        let damaged = |error: serde_json::Error| invalid(InvalidCheckpoint::Damaged(error.to_string()));
        let page: serde_json::Value = serde_json::from_slice(&bytes).map_err(damaged)?;
        let epoch = page["epoch"].as_u64();
        let epoch = epoch.ok_or_else(|| invalid(InvalidCheckpoint::Damaged("it has no epoch".to_owned())))?;
        let checkpoint =
            Checkpoint::read(&page["checkpoint"].to_string(), &self.worker, &self.stream).map_err(invalid)?;
        self.epoch.fetch_max(epoch, std::sync::atomic::Ordering::Relaxed);
        Ok(Some(Page { epoch, checkpoint }))
    }

    /// Whole, or not at all: written beside it and renamed.
    pub(crate) fn write(&self, page: &Page) -> Result<(), JournalError> {
        let page = Page { epoch: page.epoch.max(self.epoch()), ..page.clone() };
        self.epoch.store(page.epoch, std::sync::atomic::Ordering::Relaxed);
        let beside = self.path.with_extension("new");
        let text = serde_json::to_vec(&page).unwrap_or_default();
        let written = std::fs::File::create(&beside).and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_data()
        });
        let done = written.and_then(|()| std::fs::rename(&beside, &self.path));
        done.map_err(|source| JournalError::Io { path: self.path.clone(), doing: "written", source })
    }
}

#[cfg(test)]
mod tests {
    use mtxfleet_wire::{CHECKPOINT_SCHEMA, CheckpointFrame, UnixMillis};

    use super::*;

    fn journal(folder: &Path) -> Journal {
        let (worker, stream) = (WorkerId::new("w").expect("valid"), StreamName::new("site/cam1").expect("valid"));
        Journal::open(folder, &worker, &stream).expect("a folder")
    }

    fn page(epoch: u64) -> Page {
        let checkpoint = Checkpoint {
            schema: CHECKPOINT_SCHEMA,
            worker: WorkerId::new("w").expect("valid"),
            stream: StreamName::new("site/cam1").expect("valid"),
            encoding: "h265".to_owned(),
            clock_rate: 90_000,
            done: 3,
            frames: vec![CheckpointFrame { hash: 1, time: 2, wall_us: 3 }],
            updated: UnixMillis(4),
        };
        Page { epoch, checkpoint }
    }

    #[test]
    fn names_of_any_length_have_a_file_of_their_own() {
        let folder = tempfile::tempdir().expect("made");
        let worker: WorkerId = "w".repeat(128).parse().expect("valid");
        let stream = |last: &str| ("s".repeat(255) + last).parse::<StreamName>().expect("valid");
        let (a, b) = (stream("a"), stream("b"));
        let paths = [&a, &b].map(|stream| {
            let journal = Journal::open(folder.path(), &worker, stream).expect("opened");
            assert!(journal.read().expect("no file is no error").is_none());
            journal.path
        });
        assert_ne!(paths[0], paths[1]);
    }

    #[test]
    fn what_was_written_is_read_by_the_next_life() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(journal(folder.path()).read().expect("readable"), None);
        journal(folder.path()).write(&page(5)).expect("written");
        let next = journal(folder.path());
        assert_eq!(next.read().expect("readable"), Some(page(5)));
        // Written before Redis answered again: the epoch known is not forgotten.
        next.write(&page(0)).expect("written");
        assert_eq!(journal(folder.path()).read().expect("readable"), Some(page(5)));
    }

    #[test]
    fn a_damaged_or_newer_journal_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let written = journal(folder.path());
        for text in ["", "{}", "{\"epoch\":1}", "{\"epoch\":1,\"checkpoint\":{\"schema\":9}}", "\u{0}"] {
            std::fs::write(&written.path, text).expect("written");
            let error = written.read().expect_err(text).to_string();
            assert!(error.contains("w%site%cam1.json"), "{error}");
        }
    }
}
