//! A worker's figures in Prometheus's text format, of all its streams: to be put on a page of the application's own, or
//! served on a port of theirs.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use crate::{State, Status, Stream};

/// Connections to the listener at a time; Prometheus needs one.
const CONNECTIONS: usize = 16;

/// For a whole request and its answer.
const WITHIN: Duration = Duration::from_secs(5);

/// Bytes of a request's head.
const HEAD: usize = 8 * 1024;

/// Figures of streams, kept while they are open. Cloned, it is the same collection.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    streams: Arc<Mutex<Vec<Followed>>>,
}

#[derive(Debug)]
struct Followed {
    worker: String,
    stream: String,
    status: watch::Receiver<Status>,
}

/// Serves while it lives.
#[derive(Debug)]
pub struct MetricsListener {
    address: SocketAddr,
    task: AbortHandle,
}

impl MetricsListener {
    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for MetricsListener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Figure = (&'static str, &'static str, &'static str, fn(&Status) -> f64);

const FIGURES: [Figure; 11] = [
    ("frames_total", "counter", "Frames handed over, those from recordings among them.", |s| s.counters.frames as f64),
    ("handovers_total", "counter", "Moves from one leg to another.", |s| s.counters.handovers as f64),
    ("unproven_handovers_total", "counter", "Moves of which it is not proven that nothing is missing.", |s| {
        s.counters.unproven_handovers as f64
    }),
    ("lost_packets_total", "counter", "RTP packets known to be lost for good.", |s| s.counters.lost_packets as f64),
    ("duplicates_dropped_total", "counter", "Frames that came again over another leg, and were dropped.", |s| {
        s.counters.duplicates_dropped as f64
    }),
    ("replayed_frames_total", "counter", "Frames that came from recordings.", |s| s.counters.replayed as f64),
    ("gap_seconds", "gauge", "Longest pause between two frames in the last handover, less the frame interval.", |s| {
        s.last_pause.unwrap_or_default().as_secs_f64()
    }),
    ("backlog_seconds", "gauge", "How far the worker is behind its camera while it reads a recording; else 0.", |s| {
        s.replay.map_or(0.0, |replay| replay.backlog.as_secs_f64())
    }),
    ("replay_rate", "gauge", "Seconds of recording handed over in a second while it is read; else 0.", |s| {
        s.replay.and_then(|replay| replay.rate).unwrap_or(0.0)
    }),
    ("legs", "gauge", "RTSP connections that deliver.", |s| s.legs as f64),
    ("up", "gauge", "1 while frames come, else 0.", |s| {
        f64::from(u8::from(matches!(s.state, State::Live | State::Moving)))
    }),
];

impl Status {
    /// Every figure, by its name in Prometheus without `mtxfleet_worker_`.
    pub fn figures(&self) -> impl Iterator<Item = (&'static str, f64)> {
        FIGURES.iter().map(|(name, _, _, figure)| (*name, figure(self)))
    }
}

impl Metrics {
    /// Follows a stream until it is closed.
    pub fn add(&self, stream: &Stream) {
        let (worker, name) = stream.names();
        let followed = Followed { worker: worker.to_owned(), stream: name.to_owned(), status: stream.watch() };
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        // Also where nobody ever looks at the page.
        streams.retain(|followed| followed.status.borrow().state != State::Closed);
        streams.push(followed);
    }

    /// `mtxfleet_worker_...{worker="...",stream="..."} VALUE`, in Prometheus's text format 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.retain(|followed| followed.status.borrow().state != State::Closed);
        let mut text = String::new();
        for (name, kind, help, figure) in FIGURES {
            // Writing to a `String` does not fail.
            let _ = writeln!(text, "# HELP mtxfleet_worker_{name} {help}\n# TYPE mtxfleet_worker_{name} {kind}");
            for Followed { worker, stream, status } in streams.iter() {
                let value = figure(&status.borrow());
                // Ids hold nothing that would have to be escaped.
                let _ = writeln!(text, "mtxfleet_worker_{name}{{worker=\"{worker}\",stream=\"{stream}\"}} {value}");
            }
        }
        text
    }

    /// Answers every request at `listen` with [`Metrics::render`], on the current tokio runtime.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn serve(&self, listen: SocketAddr) -> std::io::Result<MetricsListener> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let (metrics, free) = (self.clone(), Arc::new(Semaphore::new(CONNECTIONS)));
        let task = tokio::spawn(async move {
            loop {
                let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
                let Ok((stream, _)) = listener.accept().await else {
                    // Out of file descriptors, most likely.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                let metrics = metrics.clone();
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(WITHIN, answer(stream, &metrics)).await;
                    drop(permit);
                });
            }
        });
        Ok(MetricsListener { address, task: task.abort_handle() })
    }
}

async fn answer(mut stream: TcpStream, metrics: &Metrics) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        let read = stream.read(&mut piece).await?;
        head.extend_from_slice(&piece[..read]);
        if read == 0 || head.len() > HEAD {
            return Ok(());
        }
    }
    let body = metrics.render();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use mtxfleet_wire::StitchCounters;

    use super::*;
    use crate::ReplayStatus;

    fn followed(metrics: &Metrics, stream: &str, state: State) -> watch::Sender<Status> {
        let counters = StitchCounters { frames: 70, replayed: 7, ..StitchCounters::default() };
        let replay = Some(ReplayStatus { backlog: Duration::from_millis(2500), rate: Some(8.5) });
        let last_pause = Some(Duration::from_millis(40));
        let (tell, status) = watch::channel(Status { state, leg: None, legs: 1, counters, replay, last_pause });
        let followed = Followed { worker: "w".to_owned(), stream: stream.to_owned(), status };
        metrics.streams.lock().expect("not poisoned").push(followed);
        tell
    }

    #[tokio::test]
    async fn every_open_stream_is_on_the_page_and_closed_ones_are_not() {
        let metrics = Metrics::default();
        let _open = followed(&metrics, "site/cam1", State::Live);
        let _closed = followed(&metrics, "cam2", State::Closed);
        let listener = metrics.serve(([127, 0, 0, 1], 0).into()).await.expect("a port");
        let mut client = TcpStream::connect(listener.address()).await.expect("it listens");
        client.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
        let mut text = String::new();
        client.read_to_string(&mut text).await.expect("text");
        for line in [
            "HTTP/1.1 200 OK",
            "# TYPE mtxfleet_worker_frames_total counter",
            "mtxfleet_worker_frames_total{worker=\"w\",stream=\"site/cam1\"} 70",
            "mtxfleet_worker_replayed_frames_total{worker=\"w\",stream=\"site/cam1\"} 7",
            "mtxfleet_worker_gap_seconds{worker=\"w\",stream=\"site/cam1\"} 0.04",
            "mtxfleet_worker_backlog_seconds{worker=\"w\",stream=\"site/cam1\"} 2.5",
            "mtxfleet_worker_replay_rate{worker=\"w\",stream=\"site/cam1\"} 8.5",
            "mtxfleet_worker_up{worker=\"w\",stream=\"site/cam1\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in:\n{text}");
        }
        assert!(!text.contains("cam2"), "{text}");
    }

    #[test]
    fn every_figure_is_in_the_reference() {
        let page = include_str!("../../../docs/ref/metrics.md");
        for (name, ..) in FIGURES {
            assert!(page.contains(&format!("`mtxfleet_worker_{name}`")), "{name} is not in docs/ref/metrics.md");
        }
    }
}
