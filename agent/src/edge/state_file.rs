//! What must survive the agent, as JSON in files of `STATE_DIR`: its drain (`drain.json`), the orchestrators' terms that
//! it knows (`terms.json`), pauses and its own protection (`controls.json`), what paths that it deleted were configured
//! with (`paths.json`), and the generation of its last start. For the agent's user only: a camera's URL may hold a password.
//!
//! A thread for each file writes, in the order of the calls. A disk that hangs holds the event loop up once, for
//! [`SAVED_WITHIN`], and what could not be written is tried again until it is, or something newer is.

use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use mtxfleet_wire::UnixMillis;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

/// The event loop waits for the disk this long at most. A write of some kilobytes with its sync takes milliseconds; one
/// that takes longer than this must not keep a drain from its deadlines.
pub const SAVED_WITHIN: Duration = Duration::from_secs(2);

/// What the disk did not take is tried again after this long.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// One file, which holds a `T` or is not there.
#[derive(Debug)]
pub struct StateFile<T> {
    path: PathBuf,
    writer: mpsc::Sender<Job<T>>,
    /// The writer is with a job that nobody waits for any more.
    behind: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Job<T> {
    saved: Option<T>,
    done: oneshot::Sender<io::Result<()>>,
}

/// Why there is no saved state to go on from.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot use the state directory {dir}; create it, writable for the agent, or set node.state_dir")]
    Directory { dir: PathBuf, source: io::Error },
    #[error("cannot read {path}; the agent starts as if it had not been there")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is damaged; the agent starts as if it had not been there")]
    Damaged { path: PathBuf, source: serde_json::Error },
}

impl<T: Serialize + DeserializeOwned + Send + 'static> StateFile<T> {
    /// # Errors
    /// [`StateError::Directory`] when the directory is not there and cannot be made, or no thread can.
    pub fn open(dir: &Path, name: &str) -> Result<Self, StateError> {
        let failed = |source| StateError::Directory { dir: dir.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(failed)?;
        let path = dir.join(name);
        let (writer, jobs) = mpsc::channel();
        let behind = Arc::<AtomicBool>::default();
        let (to, late) = (path.clone(), Arc::clone(&behind));
        let thread = std::thread::Builder::new().name("state file".to_owned());
        thread.spawn(move || write_all(&to, &jobs, &late)).map_err(failed)?;
        Ok(Self { path, writer, behind })
    }

    /// # Errors
    /// [`StateError::Read`], [`StateError::Damaged`]; the file is left as it is, for whoever looks into it.
    pub fn load(&self) -> Result<Option<T>, StateError> {
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StateError::Read { path: self.path.clone(), source }),
        };
        let damaged = |source| StateError::Damaged { path: self.path.clone(), source };
        serde_json::from_slice(&text).map(Some).map_err(damaged)
    }

    /// On disk when it returns: written beside, synced, renamed over. `None` removes the file.
    ///
    /// # Errors
    /// What the file system says, or `TimedOut` after [`SAVED_WITHIN`]; the file then holds what it held before, and
    /// the writer tries on.
    pub async fn save(&self, saved: Option<T>) -> io::Result<()> {
        let ended = || io::Error::other("the writer of the state file has ended");
        let late = || io::Error::new(io::ErrorKind::TimedOut, "the disk is slow to take it");
        let (done, written) = oneshot::channel();
        self.writer.send(Job { saved, done }).map_err(|_| ended())?;
        if self.behind.load(Ordering::Relaxed) {
            return Err(late());
        }
        match tokio::time::timeout(SAVED_WITHIN, written).await {
            Ok(result) => result.map_err(|_| ended())?,
            Err(_) => {
                self.behind.store(true, Ordering::Relaxed);
                Err(late())
            }
        }
    }
}

/// `now`, or, where the clock was set back since the last start, one more than that start's: other nodes refuse the
/// gossip of a generation older than one they have heard. Kept in `STATE_DIR/generation`; the directory is there.
#[must_use]
pub fn next_generation(dir: &Path, now: UnixMillis) -> UnixMillis {
    let path = dir.join("generation");
    let last = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let next = last.map_or(now.0, |last| now.0.max(last.saturating_add(1)));
    if next != now.0 {
        tracing::warn!(last, now = now.0, "the clock was set back since the last start; check it");
    }
    if let Err(error) = write(&path, next.to_string().as_bytes()) {
        tracing::warn!(%error, "the generation of this start is not on disk");
    }
    UnixMillis(next)
}

/// Until the [`StateFile`] is dropped.
fn write_all<T: Serialize>(path: &Path, jobs: &mpsc::Receiver<Job<T>>, behind: &AtomicBool) {
    let mut unwritten: Option<Option<T>> = None;
    loop {
        let job = match unwritten {
            Some(_) => jobs.recv_timeout(TRY_AGAIN),
            None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match job {
            Ok(job) => {
                // Of those that came while the disk hung, the newest counts; nobody waits for the others any more.
                let job = jobs.try_iter().last().unwrap_or(job);
                let result = put(path, job.saved.as_ref());
                unwritten = result.is_err().then_some(job.saved);
                behind.store(false, Ordering::Relaxed);
                let _ = job.done.send(result);
            }
            Err(RecvTimeoutError::Timeout) => unwritten = unwritten.filter(|saved| put(path, saved.as_ref()).is_err()),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn put<T: Serialize>(path: &Path, saved: Option<&T>) -> io::Result<()> {
    match saved {
        Some(saved) => write(path, &serde_json::to_vec(saved)?),
        None => match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    // The new name is on disk when its folder is.
    path.parent().map_or(Ok(()), |folder| std::fs::File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::draining::Saved;

    fn open(dir: &Path) -> StateFile<Saved> {
        StateFile::open(dir, "drain.json").expect("made")
    }

    fn a_drain() -> Saved {
        let order = mtxfleet_drain::Order {
            drain: mtxfleet_wire::DrainId::new("d").expect("valid"),
            node: mtxfleet_wire::NodeId::new("n").expect("valid"),
            reason: String::new(),
            forced: false,
            plan: None,
        };
        let (drain, _) = mtxfleet_drain::Drain::begin(
            order,
            mtxfleet_drain::Settings::default(),
            mtxfleet_wire::Mono::default(),
            UnixMillis(5),
        );
        Saved::Draining(Box::new(drain))
    }

    #[tokio::test]
    async fn a_disk_that_hangs_is_waited_for_once_and_never_for_long() {
        let dir = tempfile::tempdir().expect("temporary directory");
        // Opening a pipe for writing waits for its reader, as a disk that hangs would.
        let made = std::process::Command::new("mkfifo").arg(dir.path().join("drain.new")).status();
        assert!(made.expect("mkfifo").success());
        let file = open(dir.path());
        let began = tokio::time::Instant::now();
        let first = file.save(Some(a_drain())).await.expect_err("it hangs");
        assert_eq!(first.kind(), io::ErrorKind::TimedOut);
        for _ in 0..50 {
            assert!(file.save(Some(a_drain())).await.is_err());
        }
        assert!(began.elapsed() < SAVED_WITHIN * 2, "waited {:?}", began.elapsed());
    }

    #[tokio::test]
    async fn what_the_disk_did_not_take_is_there_once_it_does() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = open(dir.path());
        let in_the_way = dir.path().join("drain.new");
        std::fs::create_dir(&in_the_way).expect("made");
        file.save(Some(a_drain())).await.expect_err("a directory is no file");
        std::fs::remove_dir(&in_the_way).expect("removed");
        let written = async {
            while file.load().expect("readable").is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(TRY_AGAIN * 10, written).await.expect("tried again");
    }

    #[tokio::test]
    async fn a_clock_that_was_set_back_makes_no_older_generation() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let start = |now| next_generation(dir.path(), UnixMillis(now)).0;
        assert_eq!(
            [start(1_000), start(2_000), start(500), start(500), start(3_000)],
            [1_000, 2_000, 2_001, 2_002, 3_000]
        );
    }

    #[tokio::test]
    async fn what_was_saved_is_loaded_and_a_damaged_file_is_an_error_not_a_panic() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = open(&dir.path().join("new"));
        assert!(file.load().expect("no file is no error").is_none());
        let saved = a_drain();
        file.save(Some(saved.clone())).await.expect("saved");
        assert_eq!(file.load().expect("readable"), Some(saved));
        std::fs::write(dir.path().join("new/drain.json"), b"{\"draining\":{").expect("written");
        assert!(matches!(file.load(), Err(StateError::Damaged { .. })));
        file.save(None).await.expect("removed");
        file.save(None).await.expect("removing nothing is no error");
        assert!(file.load().expect("no file").is_none());
    }
}
