//! A worker under test: fetches what its stream gives, and is held against what the camera sent, by content.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtxfleet_ai_client::{Codec, Discontinuity, Item, LegId, Status, Stream, StreamConfig};
use mtxfleet_tests::compare::{Arrival, Comparison, compare, vcl_hash_annex_b};
use mtxfleet_tests::lab::wait::{PATIENCE, wait_for};
use mtxfleet_tests::plain_reader::{PacketReader, PlainReader, VideoCodec};
use mtxfleet_wire::StitchCounters;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// Ground truth is read on for this long after the worker has stopped.
const TRUTH_AFTER: Duration = Duration::from_millis(1500);

/// What the worker got.
#[derive(Default)]
pub struct Got {
    pub video: Vec<Arrival>,
    /// RTP times of the second track.
    pub audio: Vec<i64>,
    pub gaps: Vec<Discontinuity>,
    pub with_wall_time: usize,
    /// A keyframe had a sequence parameter set before it.
    pub keyframe_with_parameters: bool,
    pub error: Option<String>,
}

/// One worker on one camera, with plain readers at the ingestion node beside it.
pub struct Worker {
    pub status: watch::Receiver<Status>,
    pub got: Arc<Mutex<Got>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<StitchCounters>,
    truth: PlainReader,
    truth_packets: PacketReader,
}

/// How a worker did.
pub struct Outcome {
    pub comparison: Comparison,
    pub counters: StitchCounters,
    /// Audio packets of the camera between the worker's first and last one that it did not get, and others it got.
    pub audio_differences: usize,
    pub got: Got,
}

impl Worker {
    /// Opens the stream once the camera is seen at the ingestion node.
    pub async fn start(config: StreamConfig, truth_url: &str) -> Result<Self> {
        let truth = wait_for("the camera", PATIENCE, async || {
            // A plain reader does not try again.
            let reader = PlainReader::start(truth_url);
            let there = reader.wait_for(5, Duration::from_secs(5)).await;
            if there { Ok(reader) } else { Err(reader.ended().unwrap_or_default()) }
        })
        .await?;
        let truth_packets = PacketReader::start_packets(truth_url);
        ensure!(truth_packets.wait_for(1, PATIENCE).await, "no packets: {:?}", truth_packets.ended());
        let mut stream = Stream::open(config).await?;
        let status = stream.watch();
        let got = Arc::new(Mutex::new(Got::default()));
        let (stop, mut stopped) = oneshot::channel();
        let sink = got.clone();
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = &mut stopped => break,
                    item = stream.next() => match item {
                        Some(item) => sink.lock().expect("unpoisoned").take(item),
                        None => break,
                    }
                }
            }
            stream.close().await
        });
        Ok(Self { status, got, stop, task, truth, truth_packets })
    }

    pub async fn wait_for_frames(&self, count: usize) -> Result<()> {
        wait_for("frames", PATIENCE, async || {
            let got = self.got.lock().expect("unpoisoned");
            match (got.video.len(), &got.error) {
                (_, Some(error)) => Err(error.clone()),
                (now, None) if now >= count => Ok(()),
                (now, None) => Err(format!("{now} of {count}")),
            }
        })
        .await
    }

    pub fn frames(&self) -> usize {
        self.got.lock().expect("unpoisoned").video.len()
    }

    pub fn leg(&self) -> Option<LegId> {
        self.status.borrow().leg.clone()
    }

    /// The leg once it is another than `old`.
    /// # Errors
    /// When the old leg still delivers after [`PATIENCE`].
    pub async fn leg_after(&mut self, old: &LegId) -> Result<LegId> {
        let other = |status: &Status| status.leg.as_ref().is_some_and(|leg| leg != old);
        let waited = tokio::time::timeout(PATIENCE, self.status.wait_for(other)).await;
        waited.context("no other leg")??.leg.clone().context("a leg")
    }

    pub async fn finish(self) -> Result<Outcome> {
        let ended = Instant::now();
        let _ = self.stop.send(());
        let counters = self.task.await?;
        tokio::time::sleep_until((ended + TRUTH_AFTER).into()).await;
        let truth: Vec<Arrival> = self.truth.stop().await.into_iter().map(Arrival::from).collect();
        let packets = self.truth_packets.stop().await;
        let got = std::mem::take(&mut *self.got.lock().expect("unpoisoned"));
        let sent: Vec<u32> = packets.iter().filter(|p| p.track == 1).map(|p| p.rtp_timestamp).collect();
        let audio_differences = differences(&sent, &got.audio);
        Ok(Outcome { comparison: compare(&truth, &got.video, ended)?, counters, audio_differences, got })
    }
}

impl Got {
    fn take(&mut self, item: Result<Item, mtxfleet_ai_client::Error>) {
        let frame = match item {
            Ok(Item::Frame(frame)) => frame,
            Ok(Item::Discontinuity(gap)) => return self.gaps.push(gap),
            Err(error) => return self.error = Some(error.to_string()),
        };
        self.with_wall_time += usize::from(frame.wall.is_some());
        let codec = match frame.codec {
            Codec::H264 => VideoCodec::H264,
            Codec::H265 => VideoCodec::H265,
            Codec::Other => return self.audio.push(frame.rtp_time),
        };
        let bytes = frame.data.annex_b().expect("video is Annex B");
        if let Some(hash) = vcl_hash_annex_b(codec, bytes) {
            self.video.push(Arrival { hash, at: frame.received });
        }
        let sps = match codec {
            VideoCodec::H264 => [0, 0, 1, 0x67],
            VideoCodec::H265 => [0, 0, 1, 0x42],
        };
        self.keyframe_with_parameters |= frame.keyframe && bytes.windows(4).any(|window| window == sps);
    }
}

/// Audio frames have one time each; every one between the first and the last must have come, once and in order.
fn differences(sent: &[u32], got: &[i64]) -> usize {
    let got: Vec<u32> = got.iter().map(|time| *time as u32).collect();
    let (Some(first), Some(last)) = (got.first(), got.last()) else { return 0 };
    let from = sent.iter().position(|time| time == first);
    let to = sent.iter().rposition(|time| time == last);
    let (Some(from), Some(to)) = (from, to) else { return usize::MAX };
    // A frame of several packets has its time several times in a row.
    let mut expected = sent[from..=to].to_vec();
    expected.dedup();
    expected.iter().zip(&got).filter(|(a, b)| a != b).count() + expected.len().abs_diff(got.len())
}
