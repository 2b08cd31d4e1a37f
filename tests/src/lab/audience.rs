//! Everybody who reads from a lab, and what became of every frame on its way to each of them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtxfleet_wire::StitchCounters;
use serde::Serialize;

use super::Lab;
use super::reader::ReconnectingReader;
use super::wait::{PATIENCE, wait_for};
use super::worker::Worker;
use crate::compare::{self, Arrival, Comparison};

/// The camera's own recording goes on for so long after the readers stopped: what they got last is in it then.
const TRUTH_GOES_ON: Duration = Duration::from_millis(1500);

/// How many read each camera.
#[derive(Debug, Clone, Copy)]
pub struct PerCamera {
    pub workers: usize,
    /// Plain readers that connect again at once, compared as the workers are.
    pub controls: usize,
    /// Plain readers that nobody looks at.
    pub viewers: usize,
}

/// Readers at work.
#[derive(Debug)]
pub struct Audience {
    /// What each camera sends, by stream.
    truth: Vec<(String, ReconnectingReader)>,
    pub workers: Vec<Worker>,
    pub controls: Vec<(String, ReconnectingReader)>,
    viewers: Vec<ReconnectingReader>,
}

/// What one reader got; a row of the demo's table.
#[derive(Debug, Clone, Serialize)]
pub struct ReaderResult {
    pub worker: String,
    pub stream: String,
    #[serde(flatten)]
    pub frames: Comparison,
    /// Times that the connection was lost: for a plain reader only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times_cut_off: Option<usize>,
    /// Frames that came between a reconnection and the next keyframe, which no decoder can show: for a plain reader
    /// only. They are not counted as lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undecodable: Option<u64>,
    /// What the worker's library counted; the figures above do not use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counters: Option<StitchCounters>,
    /// Gaps that the library admitted to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub discontinuities: Vec<String>,
}

/// What all readers of an [`Audience`] got.
#[derive(Debug, Clone, Serialize)]
pub struct Results {
    pub workers: Vec<ReaderResult>,
    pub control: Vec<ReaderResult>,
}

impl Audience {
    /// Opens all readers of all cameras of the lab, and waits until every one receives.
    ///
    /// # Errors
    /// When a reader gets nothing.
    pub async fn gather(lab: &Lab, each: PerCamera) -> Result<Self> {
        let published = lab.cameras.iter().map(|camera| camera.name.clone());
        let streams: Vec<String> = published.chain(lab.pulled.iter().map(|camera| camera.name.clone())).collect();
        let mut truth = Vec::new();
        for stream in &streams {
            truth.push((stream.clone(), lab.record_camera(stream).await?));
        }
        for (stream, reader) in &truth {
            wait_for_frames(&format!("the recording of {stream}"), reader).await?;
        }
        let mut opening = Vec::new();
        for stream in &streams {
            for n in 0..each.workers {
                let letter = char::from(b'a' + (n % 26) as u8);
                let id = format!("worker-{stream}-{letter}");
                opening.push(async move { lab.worker(&id, stream).await });
            }
        }
        let workers = futures::future::try_join_all(opening).await?;
        let plain = |count: usize| -> Vec<(String, ReconnectingReader)> {
            let each_camera = streams.iter().flat_map(|stream| std::iter::repeat_n(stream, count));
            each_camera.map(|stream| (stream.clone(), lab.plain_reader(stream))).collect()
        };
        let controls = plain(each.controls);
        let viewers = plain(each.viewers).into_iter().map(|(_, viewer)| viewer).collect();
        let audience = Self { truth, workers, controls, viewers };
        for worker in &audience.workers {
            wait_for(format!("frames at {}", worker.id), PATIENCE, async || {
                if worker.frames() > 0 { Ok(()) } else { Err("none") }
            })
            .await?;
        }
        for (stream, reader) in &audience.controls {
            wait_for_frames(&format!("the plain reader of {stream}"), reader).await?;
        }
        for viewer in &audience.viewers {
            wait_for_frames("a viewer", viewer).await?;
        }
        Ok(audience)
    }

    /// Waits until every worker has got this many more frames than it has now: the fleet is at rest again.
    ///
    /// # Errors
    /// When one does not get them in time.
    pub async fn wait_for_more(&self, frames: usize, bound: Duration) -> Result<()> {
        let wanted: Vec<usize> = self.workers.iter().map(|worker| worker.frames() + frames).collect();
        for (worker, wanted) in self.workers.iter().zip(wanted) {
            wait_for(format!("{frames} more frames at {}", worker.id), bound, async || {
                let have = worker.frames();
                if have >= wanted { Ok(()) } else { Err(format!("{have} of {wanted}")) }
            })
            .await?;
        }
        Ok(())
    }

    /// Stops all readers and compares what each got with what its camera sent.
    ///
    /// # Errors
    /// When a comparison is impossible, or the ground truth itself has a gap.
    pub async fn finish(self) -> Result<Results> {
        let stopped = futures::future::join_all(self.workers.into_iter().map(|worker| async {
            let name = (worker.id.clone(), worker.stream.clone());
            (name, worker.stop().await)
        }))
        .await;
        let controls =
            futures::future::join_all(self.controls.into_iter().map(async |(s, reader)| (s, reader.stop().await)))
                .await;
        drop(self.viewers);
        tokio::time::sleep(TRUTH_GOES_ON).await;
        let mut truth = Vec::new();
        for (stream, reader) in self.truth {
            let recording = reader.stop().await;
            ensure!(
                recording.ends.is_empty(),
                "the recording of {stream} at the ingestion node was cut off ({:?}): nothing can be said",
                recording.ends
            );
            truth.push((stream, recording.arrivals));
        }
        let of = |stream: &str| -> Result<&[Arrival]> {
            let found = truth.iter().find(|(name, _)| name == stream);
            Ok(&found.with_context(|| format!("{stream} was not recorded"))?.1)
        };

        let mut results = Results { workers: Vec::new(), control: Vec::new() };
        for ((id, stream), recording) in stopped {
            let frames = compare::compare(of(&stream)?, &recording.arrivals, recording.ended)
                .with_context(|| format!("{id} on {stream}; the library said: {:?}", recording.failed))?;
            results.workers.push(ReaderResult {
                worker: id,
                stream,
                frames,
                times_cut_off: None,
                undecodable: None,
                counters: Some(recording.counters),
                discontinuities: recording.discontinuities,
            });
        }
        for (index, (stream, recording)) in controls.into_iter().enumerate() {
            let worker = format!("plain-{}", index + 1);
            let frames = compare::compare(of(&stream)?, &recording.arrivals, recording.ended)
                .with_context(|| format!("{worker} on {stream}"))?;
            let times_cut_off = Some(recording.ends.len());
            results.control.push(ReaderResult {
                worker,
                stream,
                frames,
                times_cut_off,
                undecodable: Some(recording.undecodable),
                counters: None,
                discontinuities: Vec::new(),
            });
        }
        Ok(results)
    }
}

impl Results {
    /// Workers that did not get every frame once and in order.
    pub fn imperfect(&self) -> impl Iterator<Item = &ReaderResult> {
        self.workers.iter().filter(|worker| !worker.frames.is_perfect())
    }

    /// Frames that the plain readers lost: none means that the drain met nobody, and so proves nothing.
    #[must_use]
    pub fn lost_by_control(&self) -> u64 {
        self.control.iter().map(|reader| reader.frames.lost).sum()
    }
}

async fn wait_for_frames(who: &str, reader: &ReconnectingReader) -> Result<()> {
    wait_for(format!("frames at {who}"), PATIENCE, async || {
        if reader.receives() { Ok(()) } else { Err(format!("none; cut off {} times", reader.times_cut_off())) }
    })
    .await
}
