//! Checkpoints: claimed and read before a stream is opened, written while it runs.
//!
//! ```text
//!   claim in Redis (an epoch higher than every earlier copy's)  --> the record, or none
//!   journal on disk (with Redis away, or when it is ahead)      --'
//!   frame.done() ... every N frames or T seconds --> journal, then Redis: 'written', or 'superseded' -> the stream ends
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mtxfleet_wire::{
    CHECKPOINT_SCHEMA, Checkpoint, CheckpointFrame, InvalidCheckpoint, StreamName, UnixMillis, WorkerId,
};
use redis::aio::MultiplexedConnection;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::config::Settings;
use crate::frame::Track;
use crate::journal::{Journal, JournalError, Page};
use crate::ledger::Ledger;
use crate::playback::wall_now;
use crate::resume::Known;

/// Redis gets this long to answer.
const ANSWER: Duration = Duration::from_secs(1);

/// At the start, before the journal has to do.
const CLAIM_WITHIN: Duration = Duration::from_secs(3);

/// The disk gets this long for a small file; Redis waits for it so long at most.
const JOURNAL_WITHIN: Duration = Duration::from_secs(1);

/// After a failure.
const RETRY: Duration = Duration::from_secs(1);

/// A checkpoint is forgotten when its worker has not been seen for so long.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// A second copy is noticed within this time, also while no frame is finished with.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// When frames count as finished with, and how often that is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoints {
    /// Only [`crate::Frame::done`] finishes a frame. Otherwise a frame counts as finished with once the next item is asked for,
    /// and the last one when the stream is closed.
    pub explicit: bool,
    /// Written when so many frames were finished with since the last time (25) ...
    pub every_frames: u64,
    /// ... or one was, and so much time has passed (1 s).
    pub every: Duration,
    /// Folder of the journal, a small file for each worker and stream (none): a worker that starts again while Redis is away
    /// goes on from it, and one whose Redis was away at its end loses no checkpoint.
    pub journal: Option<PathBuf>,
}

impl Default for Checkpoints {
    fn default() -> Self {
        Self { explicit: false, every_frames: 25, every: Duration::from_secs(1), journal: None }
    }
}

impl Checkpoints {
    /// Only [`crate::Frame::done`] finishes a frame.
    #[must_use]
    pub fn explicit() -> Self {
        Self { explicit: true, ..Self::default() }
    }
}

/// Where a stream with checkpoints began: [`crate::Stream::start`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// Without checkpoints, or for the first time: at the live end.
    Live,
    /// After the last frame finished with; the next frame is the one after it, or a discontinuity says what is missing.
    Resumed {
        /// Frames finished with in the earlier lives.
        done: u64,
        /// [`crate::Frame::rtp_time`] of the last of them.
        after: i64,
        /// When it was taken.
        at: SystemTime,
    },
    /// At the live end, since it cannot be known whether there was a checkpoint: Redis is away, and the journal has none.
    Unknown { why: String },
}

/// Why a stream with checkpoints cannot be opened, or has ended.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error(
        "checkpoint {place} cannot be used: {why}. Nothing was changed; repair it, or remove it to begin at the live end"
    )]
    Invalid {
        place: String,
        #[source]
        why: InvalidCheckpoint,
    },
    #[error("the journal cannot be used")]
    Journal(#[from] JournalError),
    /// Its writes are refused from now on.
    #[error("another copy of worker {worker} reads {stream} since (epoch {epoch}, this one had {own}); this one ends")]
    Superseded { worker: WorkerId, stream: StreamName, epoch: u64, own: u64 },
}

#[derive(Debug, thiserror::Error)]
enum RedisProblem {
    #[error(transparent)]
    Redis(#[from] redis::RedisError),
    #[error("no answer in {ANSWER:?}")]
    Slow(#[from] tokio::time::error::Elapsed),
    #[error("an answer that makes no sense: {0:?}")]
    Odd(Vec<String>),
}

/// What Redis says to a claim.
enum Claim {
    /// The record that stood there.
    Taken(String),
    /// Its epoch.
    LaterCopy(u64),
}

/// One worker's checkpoint of one stream.
pub(crate) struct Store {
    settings: Settings,
    rules: Checkpoints,
    key: String,
    holder: String,
    /// 0 until it is claimed.
    epoch: u64,
    /// When this run began: of two copies the one that began last goes on, whichever claims last.
    began: Instant,
    redis: Option<MultiplexedConnection>,
    redis_from: Instant,
    journal: Option<Arc<Journal>>,
    /// A write that the disk has not done in time: until it is over, there is no other.
    hangs: Option<JoinHandle<Result<(), JournalError>>>,
    /// Frames finished with in earlier lives.
    done_before: u64,
}

impl Store {
    /// Claims the checkpoint and reads it.
    pub(crate) async fn open(
        settings: &Settings,
        rules: Checkpoints,
    ) -> Result<(Self, Start, Vec<Known>), CheckpointError> {
        let journal = match &rules.journal {
            Some(folder) => Some(Arc::new(Journal::open(folder, &settings.worker, &settings.stream)?)),
            None => None,
        };
        let mut store = Self {
            settings: settings.clone(),
            rules,
            key: settings.keys.checkpoint(&settings.worker, &settings.stream),
            holder: uuid::Uuid::new_v4().to_string(),
            epoch: 0,
            began: Instant::now(),
            redis: None,
            redis_from: Instant::now(),
            journal,
            hangs: None,
            done_before: 0,
        };
        let page = match &store.journal {
            Some(journal) => journal.read()?,
            None => None,
        };
        let known_epoch = page.as_ref().map_or(0, |page| page.epoch);
        let claimed = store.claim_at_start(known_epoch).await?;
        let (found, known) = match (claimed, page) {
            (Ok(in_redis), page) => {
                // Another copy has claimed since the journal was written: what it did counts.
                let page = page.filter(|page| page.epoch + 1 >= store.epoch).map(|page| page.checkpoint);
                (latest(in_redis, page), None)
            }
            (Err(_), Some(page)) => (Some(page.checkpoint), None),
            (Err(why), None) => (None, Some(why)),
        };
        let start = match (&found, known) {
            (Some(checkpoint), _) => {
                store.done_before = checkpoint.done;
                let last = checkpoint.frames.last().map_or((0, 0), |frame| (frame.time, frame.wall_us));
                let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(last.1));
                Start::Resumed { done: checkpoint.done, after: last.0, at: at.unwrap_or(SystemTime::UNIX_EPOCH) }
            }
            (None, Some(why)) if settings.redis.is_some() => {
                tracing::warn!(why, "no checkpoint can be read; the stream begins at the live end");
                Start::Unknown { why }
            }
            (None, _) => Start::Live,
        };
        let frames = found.map(|checkpoint| checkpoint.frames).unwrap_or_default();
        let known = |frame: CheckpointFrame| Known {
            hash: frame.hash,
            time: frame.time,
            wall: Duration::from_micros(frame.wall_us),
        };
        Ok((store, start, frames.into_iter().map(known).collect()))
    }

    /// The inner error is why Redis did not answer.
    async fn claim_at_start(&mut self, known: u64) -> Result<Result<Option<Checkpoint>, String>, CheckpointError> {
        if self.settings.redis.is_none() {
            return Ok(Err("no Redis is configured".to_owned()));
        }
        let until = Instant::now() + CLAIM_WITHIN;
        loop {
            let why = match self.claim(known, false).await {
                Ok(Claim::Taken(record)) => return Ok(Ok(self.checked(record)?)),
                // One that starts is never refused.
                Ok(Claim::LaterCopy(epoch)) => format!("epoch {epoch} claims to be from later"),
                Err(RedisProblem::Odd(answer)) if answer.first().is_some_and(|word| word == "damaged") => {
                    let why = InvalidCheckpoint::Damaged(answer.get(1).cloned().unwrap_or_default());
                    return Err(CheckpointError::Invalid { place: self.key.clone(), why });
                }
                Err(problem) => problem.to_string(),
            };
            if Instant::now() >= until {
                return Ok(Err(format!("Redis is away: {why}")));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn checked(&self, record: String) -> Result<Option<Checkpoint>, CheckpointError> {
        if record.is_empty() {
            return Ok(None);
        }
        match Checkpoint::read(&record, &self.settings.worker, &self.settings.stream) {
            Ok(checkpoint) => Ok(Some(checkpoint)),
            Err(why) => Err(CheckpointError::Invalid { place: format!("{} in Redis", self.key), why }),
        }
    }

    /// Takes the claim. A `late` one, made when Redis was back and not at the start, gives way to a copy that began after
    /// this one.
    async fn claim(&mut self, known: u64, late: bool) -> Result<Claim, RedisProblem> {
        let script = redis::Script::new(include_str!("claim.lua"));
        let mut call = script.prepare_invoke();
        let age = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        call.key(&self.key).arg(&self.holder).arg(known).arg(age).arg(if late { "late" } else { "" });
        call.arg(u64::try_from(KEPT.as_millis()).unwrap_or(u64::MAX));
        let redis = self.redis().await?;
        let answer: Result<Vec<String>, _> = tokio::time::timeout(ANSWER, call.invoke_async(redis)).await?;
        let answer = self.kept(answer)?;
        match &answer[..] {
            [word, epoch, record] if word == "claimed" => {
                self.epoch = epoch.parse().map_err(|_| RedisProblem::Odd(answer.clone()))?;
                Ok(Claim::Taken(record.clone()))
            }
            [word, epoch] if word == "later" => Ok(Claim::LaterCopy(epoch.parse().unwrap_or(u64::MAX))),
            _ => Err(RedisProblem::Odd(answer)),
        }
    }

    /// `Some` when another copy has taken over: its epoch.
    async fn write(&mut self, record: &str) -> Result<Option<u64>, RedisProblem> {
        if self.epoch == 0 {
            // Redis was away at the start.
            let known = self.journal.as_ref().map_or(0, |journal| journal.epoch());
            if let Claim::LaterCopy(epoch) = self.claim(known, true).await? {
                return Ok(Some(epoch));
            }
        }
        let script = redis::Script::new(include_str!("write.lua"));
        let mut call = script.prepare_invoke();
        let kept = u64::try_from(KEPT.as_millis()).unwrap_or(u64::MAX);
        call.key(&self.key).arg(&self.holder).arg(self.epoch).arg(record).arg(kept);
        let redis = self.redis().await?;
        let answer: Result<Vec<String>, _> = tokio::time::timeout(ANSWER, call.invoke_async(redis)).await?;
        let answer = self.kept(answer)?;
        match &answer[..] {
            [word] if word == "written" => Ok(None),
            [word, epoch, _] if word == "superseded" => Ok(Some(epoch.parse().unwrap_or(u64::MAX))),
            _ => Err(RedisProblem::Odd(answer)),
        }
    }

    async fn redis(&mut self) -> Result<&mut MultiplexedConnection, RedisProblem> {
        if self.redis.is_none() {
            let client = self.settings.redis.as_ref().ok_or_else(|| RedisProblem::Odd(Vec::new()))?;
            let config = redis::AsyncConnectionConfig::new()
                .set_connection_timeout(Some(ANSWER))
                .set_response_timeout(Some(ANSWER));
            let connecting = client.get_multiplexed_async_connection_with_config(&config);
            self.redis = Some(tokio::time::timeout(ANSWER, connecting).await??);
        }
        self.redis.as_mut().ok_or_else(|| RedisProblem::Odd(Vec::new()))
    }

    /// A connection that failed once is not used again.
    fn kept<T>(&mut self, answer: Result<T, redis::RedisError>) -> Result<T, RedisProblem> {
        Ok(answer.inspect_err(|_| self.redis = None)?)
    }

    fn checkpoint(&self, track: &Track, done: u64, frames: &[Known]) -> Checkpoint {
        let frame = |known: &Known| CheckpointFrame {
            hash: known.hash,
            time: known.time,
            wall_us: u64::try_from(known.wall.as_micros()).unwrap_or(u64::MAX),
        };
        Checkpoint {
            schema: CHECKPOINT_SCHEMA,
            worker: self.settings.worker.clone(),
            stream: self.settings.stream.clone(),
            encoding: track.encoding.clone(),
            clock_rate: track.clock_rate,
            done,
            frames: frames.iter().map(frame).collect(),
            updated: UnixMillis(u64::try_from(wall_now().as_millis()).unwrap_or(u64::MAX)),
        }
    }

    /// Writes checkpoints until the ledger's owner says stop, then a last one. `superseded` is told once.
    pub(crate) async fn run(
        mut self,
        ledger: Arc<Ledger>,
        track: oneshot::Receiver<Track>,
        resumed: u64,
        superseded: oneshot::Sender<CheckpointError>,
        mut stop: watch::Receiver<bool>,
    ) {
        let Ok(track) = track.await else { return };
        // Frames of the earlier life are in the ledger too, and counted in `done_before`.
        let (mut noted, mut written) = (resumed, resumed);
        let mut record: Option<String> = None;
        let mut last = Instant::now();
        let has_redis = self.settings.redis.is_some();
        let mut complained = false;
        loop {
            // Its owner says so, or is gone.
            let stopping = *stop.borrow() || stop.has_changed().is_err();
            let done = ledger.done();
            let due = done - noted >= self.rules.every_frames || last.elapsed() >= self.rules.every || stopping;
            if done > noted && due {
                let frames = ledger.up_to(done);
                last = Instant::now();
                noted = done;
                if frames.is_empty() {
                    tracing::warn!("a frame was finished with so late that it can be no checkpoint");
                } else {
                    let checkpoint = self.checkpoint(&track, self.done_before + (done - resumed), &frames);
                    record = self.journal(checkpoint).await;
                }
            }
            let look = last.elapsed() >= LOOK_EVERY;
            // The last one is tried whenever the one before failed.
            let may = has_redis && (Instant::now() >= self.redis_from || stopping);
            if let Some(text) = record.as_ref().filter(|_| (noted > written || look) && may) {
                match self.write(&text.clone()).await {
                    Ok(None) => {
                        written = noted;
                        last = Instant::now();
                        if std::mem::take(&mut complained) {
                            tracing::info!(worker = %self.settings.worker, "Redis has the checkpoint again");
                        }
                    }
                    Ok(Some(epoch)) => {
                        let (worker, stream) = (self.settings.worker.clone(), self.settings.stream.clone());
                        let own = self.epoch;
                        let _ = superseded.send(CheckpointError::Superseded { worker, stream, epoch, own });
                        return;
                    }
                    Err(problem) => {
                        if !std::mem::replace(&mut complained, true) || stopping {
                            self.complain(&problem, stopping);
                        }
                        self.redis = None;
                        self.redis_from = Instant::now() + RETRY;
                    }
                }
            }
            if stopping {
                return;
            }
            tokio::select! {
                () = ledger.changed.notified(), if ledger.done() - noted < self.rules.every_frames => {}
                _ = stop.wait_for(|stop| *stop) => {}
                () = tokio::time::sleep(self.rules.every.min(RETRY)) => {}
            }
        }
    }

    fn complain(&self, problem: &RedisProblem, at_the_end: bool) {
        let (worker, stream) = (&self.settings.worker, &self.settings.stream);
        match (at_the_end, self.journal.is_some()) {
            (false, true) => tracing::warn!(%worker, %stream, %problem, "Redis takes no checkpoint; the journal does"),
            (false, false) => tracing::warn!(
                %worker, %stream, %problem,
                "Redis takes no checkpoint; a worker that ends before it is back goes on from the one before, unless \
                 Checkpoints.journal is set"
            ),
            (true, true) => tracing::warn!(%worker, %stream, %problem, "the last checkpoint is in the journal only"),
            (true, false) => tracing::warn!(
                %worker, %stream, %problem,
                "the last checkpoint is lost: the frames since the one before come again; set Checkpoints.journal"
            ),
        }
    }

    /// On disk first, unless the disk hangs; the text for Redis. Written on a thread of its own, since a slow disk would
    /// hold up all streams of this one.
    async fn journal(&mut self, checkpoint: Checkpoint) -> Option<String> {
        let text = serde_json::to_string(&checkpoint).ok();
        let Some(journal) = self.journal.clone() else { return text };
        if self.hangs.take_if(|write| write.is_finished()).is_some() {
            tracing::info!("the journal's disk takes writes again");
        }
        if self.hangs.is_some() {
            return text;
        }
        let page = Page { epoch: self.epoch, checkpoint };
        let mut write = tokio::task::spawn_blocking(move || journal.write(&page));
        match tokio::time::timeout(JOURNAL_WITHIN, &mut write).await {
            Ok(Ok(Err(error))) => tracing::warn!(%error, "the journal cannot be written; free space in its folder"),
            Ok(_) => {}
            Err(_) => {
                tracing::warn!("the journal's disk hangs; checkpoints are in Redis only until it does not");
                self.hangs = Some(write);
            }
        }
        text
    }
}

/// The one that is further.
fn latest(a: Option<Checkpoint>, b: Option<Checkpoint>) -> Option<Checkpoint> {
    a.into_iter().chain(b).max_by_key(|checkpoint| (checkpoint.done, checkpoint.updated))
}
