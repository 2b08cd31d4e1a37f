//! Readers beside the workers: what the camera sent (ground truth), and what a reader without the stitch gets.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::compare::Arrival;
use crate::plain_reader::PlainReader;

/// Between two attempts: "at once", but no busy loop while a server refuses.
const RECONNECT_AFTER: Duration = Duration::from_millis(50);

/// What has reached one reader reaches another within this time, also on a busy machine.
const ON_ITS_WAY: Duration = Duration::from_millis(1500);

/// A plain RTSP reader that connects again, to the same URL and at once, whenever it is cut off. It joins nothing.
///
/// It is the demo's control, its ground truth (at the ingestion node, where nothing cuts it off) and its viewers.
#[derive(Debug)]
pub struct ReconnectingReader {
    past: Arc<Mutex<Past>>,
    /// A frame has come over the connection that is open now.
    receives: Arc<AtomicBool>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Past {
    arrivals: Vec<Arrival>,
    undecodable: u64,
    /// Why each connection ended.
    ends: Vec<String>,
}

/// What a [`ReconnectingReader`] saw.
#[derive(Debug)]
pub struct Recording {
    pub arrivals: Vec<Arrival>,
    /// Of these, frames between a reconnection and the next keyframe, which no decoder can show.
    pub undecodable: u64,
    /// Why each connection but the last ended.
    pub ends: Vec<String>,
    /// When reading was stopped.
    pub ended: Instant,
}

impl ReconnectingReader {
    /// Starts to read `url`. Needs a tokio runtime.
    #[must_use]
    pub fn start(url: &str) -> Self {
        let past = Arc::<Mutex<Past>>::default();
        let (stop, stopped) = watch::channel(false);
        let receives = Arc::<AtomicBool>::default();
        let task = tokio::spawn(read(url.to_owned(), past.clone(), receives.clone(), stopped));
        Self { past, receives, stop, task }
    }

    /// Whether a frame has come over the connection that is open now.
    #[must_use]
    pub fn receives(&self) -> bool {
        self.receives.load(Ordering::Relaxed)
    }

    /// How often it was cut off so far.
    #[must_use]
    pub fn times_cut_off(&self) -> usize {
        self.past.lock().unwrap_or_else(PoisonError::into_inner).ends.len()
    }

    /// Stops once all that others have received by now has come here too: they can be compared with this.
    pub async fn stop_when_level(self) -> Recording {
        tokio::time::sleep(ON_ITS_WAY).await;
        self.stop().await
    }

    /// Closes the connection and gives what was seen.
    pub async fn stop(self) -> Recording {
        let ended = Instant::now();
        self.stop.send_replace(true);
        // The task ends by itself; it has no result.
        let _ = self.task.await;
        let past = std::mem::take(&mut *self.past.lock().unwrap_or_else(PoisonError::into_inner));
        Recording { arrivals: past.arrivals, undecodable: past.undecodable, ends: past.ends, ended }
    }
}

async fn read(url: String, past: Arc<Mutex<Past>>, receives: Arc<AtomicBool>, mut stopped: watch::Receiver<bool>) {
    loop {
        let reader = PlainReader::start(&url);
        let reading = async {
            receives.store(reader.wait_for(1, Duration::MAX).await, Ordering::Relaxed);
            reader.wait_for_end(Duration::MAX).await
        };
        let why = tokio::select! {
            why = reading => why,
            // An error means that the handle was dropped: nobody wants the frames any more.
            _ = stopped.wait_for(|stop| *stop) => None,
        };
        receives.store(false, Ordering::Relaxed);
        let frames = reader.stop().await;
        {
            let mut past = past.lock().unwrap_or_else(PoisonError::into_inner);
            if !past.ends.is_empty() {
                past.undecodable += frames.iter().take_while(|frame| !frame.keyframe).count() as u64;
            }
            past.arrivals.extend(frames.into_iter().map(Arrival::from));
            match why {
                Some(why) => past.ends.push(why),
                None => return,
            }
        }
        tokio::time::sleep(RECONNECT_AFTER).await;
    }
}
