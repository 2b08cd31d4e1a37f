//! Every kind of track goes through planned moves packet by packet: compared by content with what the ingestion server
//! has, on the real server and on the stand-in.

use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use mtxfleet_ai_client::{Discontinuity, Item, State, Stream, StreamConfig};
use mtxfleet_tests::lab::camera::{Camera, CameraKind};
use mtxfleet_tests::lab::wait::{PATIENCE, wait_for};
use mtxfleet_tests::plain_reader::{PacketReader, SeenPacket, payload_hash};
use mtxfleet_tests::server_binary::{self, ServerBinary};
use mtxfleet_tests::stamped::{Begin, Kind, StampedCamera};
use mtxfleet_wire::{EventKind, WorkerReport};

use crate::support::{Agent, Balancer, Fleet, TOKEN, back, notice};

/// What a worker got of each track: hashes of payloads, in order.
type Tracks = Vec<Vec<u64>>;

/// One stream with a worker.
struct Reading {
    stream: String,
    agent: Agent,
    status: tokio::sync::watch::Receiver<mtxfleet_ai_client::Status>,
    got: Arc<Mutex<(Tracks, Vec<Discontinuity>)>>,
    stop: tokio::sync::oneshot::Sender<()>,
    task: tokio::task::JoinHandle<Result<()>>,
    truth: PacketReader,
    _balancer: Balancer,
}

impl Reading {
    async fn start(fleet: &mut Fleet, stream: &str) -> Result<Self> {
        let url = format!("rtsp://{}/{stream}", fleet.ingestion.rtsp);
        let truth = wait_for("the camera", PATIENCE, async || {
            let reader = PacketReader::start_packets(&url);
            let there = reader.wait_for(5, std::time::Duration::from_secs(5)).await;
            if there { Ok(reader) } else { Err(reader.ended().unwrap_or_default()) }
        })
        .await?;
        let balancer = Balancer::start(&mut fleet.addresses, fleet.nodes["a"].rtsp).await?;
        let agent = Agent::start(&mut fleet.addresses).await?;
        let config = StreamConfig {
            agents: vec![agent.url.clone()],
            worker_token: Some(TOKEN.into()),
            rtp_packets: true,
            open_timeout: PATIENCE,
            ..StreamConfig::new(stream, format!("w-{stream}"), format!("rtsp://{}", balancer.address), "lab")
        };
        let mut frames = Stream::open(config).await?;
        let status = frames.watch();
        let got = Arc::new(Mutex::new((vec![Vec::new(); frames.tracks().len()], Vec::new())));
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let sink = Arc::clone(&got);
        let task = tokio::spawn(async move {
            loop {
                let item = tokio::select! {
                    _ = &mut stopped => break,
                    item = frames.next() => item.context("the stream is over")??,
                };
                let mut sink = sink.lock().expect("unpoisoned");
                match item {
                    Item::Frame(frame) => {
                        sink.0[frame.track].extend(frame.packets().map(|packet| payload_hash(packet.payload)));
                    }
                    Item::Discontinuity(gap) => sink.1.push(gap),
                }
            }
            frames.close().await;
            Ok(())
        });
        agent.wait_for_listeners(1).await?;
        Ok(Self { stream: stream.to_owned(), agent, status, got, stop, task, truth, _balancer: balancer })
    }

    /// Packets of the first track so far.
    fn packets(&self) -> usize {
        self.got.lock().expect("unpoisoned").0[0].len()
    }

    async fn move_to(&mut self, fleet: &Fleet, n: usize, to: &str) -> Result<()> {
        let (from, enough) = (if to == "a" { "b" } else { "a" }, self.packets() + 40);
        wait_for(format!("packets of {}", self.stream), PATIENCE, async || {
            let now = self.packets();
            if now >= enough { Ok(()) } else { Err(format!("{now} of {enough}")) }
        })
        .await?;
        let leg = self.status.borrow().leg.clone().context("it reads")?;
        let name = format!("w-{}", self.stream);
        let order = fleet.order(&format!("{name}-{n}"), from, &[to], &self.stream, &name, &leg);
        self.agent.say(from, notice(&order));
        self.agent.say(from, EventKind::DrainMove(order));
        let moved = |now: &mtxfleet_ai_client::Status| {
            now.state == State::Live && now.leg.as_ref().is_some_and(|now| *now != leg)
        };
        tokio::time::timeout(PATIENCE, self.status.wait_for(moved)).await.context("no other leg")??;
        while !matches!(self.agent.report().await?, WorkerReport::Moved { .. }) {}
        self.agent.say(from, back());
        Ok(())
    }

    /// Of each track, how many packets of the camera the worker got.
    async fn held_against_the_camera(self) -> Result<Vec<usize>> {
        let _ = self.stop.send(());
        self.task.await??;
        let sent: Vec<SeenPacket> = self.truth.packets();
        let (got, gaps) = std::mem::take(&mut *self.got.lock().expect("unpoisoned"));
        ensure!(gaps.is_empty(), "{}: gaps were told: {gaps:?}", self.stream);
        for (track, got) in got.iter().enumerate() {
            let sent: Vec<u64> = sent.iter().filter(|p| p.track == track).map(|packet| packet.payload_hash).collect();
            let begin = got.first().and_then(|_| sent.windows(got.len()).position(|window| window == got));
            ensure!(
                got.is_empty() || begin.is_some(),
                "{}: the {} packets of track {track} are not those that the camera sent one after another",
                self.stream,
                got.len()
            );
        }
        Ok(got.iter().map(Vec::len).collect())
    }
}

async fn every_kind_of_track_moves_whole(binary: &ServerBinary) -> Result<()> {
    mtxfleet_tests::notes::ran(&format!("worker library: every kind of track, on {}", binary.kind));
    let mut fleet = Fleet::start(binary).await?;
    let kinds = [CameraKind::H264WithAudio, CameraKind::H264WithOpus, CameraKind::H265WithG711, CameraKind::Mjpeg];
    let to = fleet.ingestion.rtsp;
    let cameras: Vec<Camera> = kinds
        .iter()
        .map(|kind| Camera::start(&format!("{kind:?}").to_lowercase(), *kind, &to.to_string(), fleet.logs.path()))
        .collect::<Result<_>>()?;
    // Its metadata comes every 3.2 s, so that it says nothing while others move.
    let begin = Begin { sequence: 65_500, timestamp: u32::MAX - 90_000 };
    let onvif = Kind { sound: true, metadata: true, ..Kind::nth(0) };
    let _stamped = StampedCamera::start(to, "onvif", onvif, begin).await?;
    let mut readings = Vec::new();
    for stream in cameras.iter().map(|camera| camera.name.as_str()).chain(["onvif"]) {
        readings.push(Reading::start(&mut fleet, stream).await.context(stream.to_owned())?);
    }
    for (n, to) in ["b", "a"].into_iter().enumerate() {
        let moves = readings.iter_mut().map(|reading| reading.move_to(&fleet, n, to));
        futures::future::try_join_all(moves).await?;
    }
    for reading in readings {
        let stream = reading.stream.clone();
        // The metadata's next one, in the numbers of the last leg.
        let documents = || reading.got.lock().expect("unpoisoned").0.get(2).map_or(3, Vec::len);
        let before = documents();
        wait_for("metadata after the moves", PATIENCE, async || {
            if stream != "onvif" || documents() > before { Ok(()) } else { Err(documents().to_string()) }
        })
        .await?;
        let packets = reading.held_against_the_camera().await?;
        eprintln!("{stream}: packets of each track {packets:?}");
        let tracks = if stream == "onvif" { 3 } else { 2 };
        assert!(packets.len() == tracks && packets.iter().all(|count| *count > 0), "{stream}: {packets:?}");
    }
    Ok(())
}

#[tokio::test]
async fn every_kind_of_track_moves_whole_on_mediamtx() -> Result<()> {
    match server_binary::find_real()? {
        Ok(binary) => every_kind_of_track_moves_whole(&binary).await,
        Err(reasons) => {
            mtxfleet_tests::notes::skipped("worker library: every kind of track on MediaMTX", &reasons.join("; "));
            Ok(())
        }
    }
}

#[tokio::test]
async fn every_kind_of_track_moves_whole_on_the_stand_in() -> Result<()> {
    match server_binary::find_stand_in() {
        Ok(binary) => every_kind_of_track_moves_whole(&binary).await,
        Err(error) => {
            mtxfleet_tests::notes::skipped("worker library: every kind of track", &format!("{error:#}"));
            Ok(())
        }
    }
}
