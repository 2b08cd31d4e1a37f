//! AI workers: the real client library, and a consumer that notes every frame's content.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result};
use mtxfleet_ai_client::{Codec, Item, Stream, StreamConfig};
use mtxfleet_wire::StitchCounters;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::compare::{Arrival, vcl_hash_annex_b};
use crate::plain_reader::VideoCodec;

/// One worker on one stream. Dropping it closes its legs.
#[derive(Debug)]
pub struct Worker {
    pub id: String,
    pub stream: String,
    seen: Arc<Mutex<Seen>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Seen {
    arrivals: Vec<Arrival>,
    audio_frames: u64,
    discontinuities: Vec<String>,
    counters: StitchCounters,
    failed: Option<String>,
}

/// What a [`Worker`] got.
#[derive(Debug)]
pub struct WorkerRecording {
    /// Video frames, when the application had them.
    pub arrivals: Vec<Arrival>,
    pub audio_frames: u64,
    /// Gaps that the library admitted to.
    pub discontinuities: Vec<String>,
    /// What the library counted.
    pub counters: StitchCounters,
    /// Why the stream ended before it was stopped.
    pub failed: Option<String>,
    /// When reading was stopped.
    pub ended: Instant,
}

impl Worker {
    /// # Errors
    /// When the stream cannot be opened.
    pub async fn open(config: StreamConfig) -> Result<Self> {
        let (id, name) = (config.worker.clone(), config.stream.clone());
        let stream = Stream::open(config).await.with_context(|| format!("{id} cannot open {name}"))?;
        let seen = Arc::<Mutex<Seen>>::default();
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(consume(stream, seen.clone(), stopped));
        Ok(Self { id, stream: name, seen, stop, task })
    }

    /// Video frames so far.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.seen().arrivals.len()
    }

    /// What the library has counted so far.
    #[must_use]
    pub fn counters(&self) -> StitchCounters {
        self.seen().counters
    }

    /// Closes the stream and gives what was seen.
    pub async fn stop(self) -> WorkerRecording {
        let ended = Instant::now();
        self.stop.send_replace(true);
        // The task ends by itself; it has no result.
        let _ = self.task.await;
        let seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        WorkerRecording {
            arrivals: seen.arrivals,
            audio_frames: seen.audio_frames,
            discontinuities: seen.discontinuities,
            counters: seen.counters,
            failed: seen.failed,
            ended,
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn consume(mut stream: Stream, seen: Arc<Mutex<Seen>>, mut stopped: watch::Receiver<bool>) {
    loop {
        let next = tokio::select! {
            next = stream.next() => next,
            // An error means that the handle was dropped.
            _ = stopped.wait_for(|stop| *stop) => break,
        };
        let at = Instant::now();
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        match next {
            Some(Ok(Item::Frame(frame))) => {
                let codec = match frame.codec {
                    Codec::H264 => VideoCodec::H264,
                    Codec::H265 => VideoCodec::H265,
                    Codec::Other => {
                        seen.audio_frames += 1;
                        continue;
                    }
                };
                let hash = frame.data.annex_b().and_then(|bytes| vcl_hash_annex_b(codec, bytes));
                // Parameter sets alone are no picture; the plain reader leaves them out too.
                if let Some(hash) = hash {
                    seen.arrivals.push(Arrival { hash, at });
                }
                seen.counters = stream.counters();
            }
            Some(Ok(Item::Discontinuity(gap))) => seen.discontinuities.push(format!("{gap:?}")),
            Some(Err(error)) => seen.failed = Some(error.to_string()),
            None => return,
        }
    }
    let counters = stream.close().await;
    seen.lock().unwrap_or_else(PoisonError::into_inner).counters = counters;
}
