//! Programs that know nothing of the fleet read from `mtxfleet relay`, and lose nothing in a drain, nor in a crash.

use std::time::{Duration, Instant};

use mtxfleet_tests::compare::{Arrival, compare};
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::relay::{FfmpegReader, Relay};
use mtxfleet_tests::lab::wait::{PATIENCE, wait_for};
use mtxfleet_tests::lab::{self, Lab, drain};
use mtxfleet_tests::notes;
use mtxfleet_tests::plain_reader::{PacketReader, PlainReader, SeenPacket, VideoCodec};
use mtxfleet_wire::{DrainOutcome, LegEnd, NodeId};

const DRAIN_WITHIN: Duration = Duration::from_secs(60);

/// Frames before, between and after drains.
const AT_REST: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ffmpeg_and_plain_readers_of_the_relay_lose_no_frame_in_drains_and_a_crash() {
    let _alone = lab::alone().await;
    let cameras = [CameraKind::H264WithBFrames, CameraKind::H265];
    let mut lab = Lab::builder().cameras(cameras).start().await.expect("a fleet");
    notes::ran(&format!("a relay through drains and a crash, on {}", lab.server.kind));
    let truths = [lab.record_camera("cam1").await.expect("owned"), lab.record_camera("cam2").await.expect("owned")];
    wait_for("the recordings to begin", PATIENCE, async || {
        anyhow::ensure!(truths.iter().all(|truth| truth.receives()), "not yet");
        Ok(())
    })
    .await
    .expect("recorded");

    let mut relay = Relay::start(&lab, "relay-1").await.expect("it listens");
    let plain = ["cam1", "cam2"].map(|stream| PlainReader::start(&relay.url(stream)));
    let packets = PacketReader::start_packets(&relay.url("cam1"));
    let mut ffmpegs = [("cam1", VideoCodec::H264), ("cam2", VideoCodec::H265)].map(|(stream, codec)| {
        let name = format!("ffmpeg-{stream}");
        FfmpegReader::start(&name, &relay.url(stream), codec, lab.folder(), &lab.logs()).expect("it runs")
    });
    for reader in &plain {
        assert!(reader.wait_for(AT_REST, PATIENCE).await, "{:?}\n{}", reader.ended(), relay.process.log_tail());
    }
    // ffmpeg looks at a stream before it writes: it is there when its file grows.
    wait_for("ffmpeg to write", PATIENCE, async || ffmpegs.iter_mut().try_for_each(|ffmpeg| ffmpeg.check_written()))
        .await
        .expect("written");

    let mut drained = Vec::<NodeId>::new();
    for stream in ["cam1", "cam2"] {
        let legs = lab.legs_of(stream).await.expect("answered");
        assert_eq!(legs.iter().map(|(_, legs)| legs).sum::<usize>(), 1, "one upstream for all readers: {legs:?}");
        let node = legs[0].0.clone();
        let agent = &lab.node(&node).expect("there").agent;
        let record = drain::run(agent, "test", DRAIN_WITHIN, |_| {}).await.expect("it ends");
        assert_eq!(record.outcome, DrainOutcome::Completed);
        assert!(record.legs.iter().any(|leg| matches!(leg.how, LegEnd::Moved(_))), "{record:#?}");
        for reader in &plain {
            let more = reader.frames().len() + AT_REST;
            assert!(reader.wait_for(more, PATIENCE).await, "{:?}", reader.ended());
        }
        agent.undrain().await.expect("answered").expect("it comes back");
        lab.wait_in_service(&node, PATIENCE).await.expect("in service");
        drained.push(node);
    }

    let legs = lab.legs_of("cam1").await.expect("answered");
    let crashed = lab.node_mut(&legs[0].0).expect("there");
    crashed.server.process.kill();
    crashed.agent.process.kill();
    for reader in &plain {
        let more = reader.frames().len() + AT_REST;
        assert!(reader.wait_for(more, PATIENCE).await, "{:?}", reader.ended());
    }

    assert!(packets.wait_for_sender_report(PATIENCE).await, "no wall time came");
    relay.process.check_alive().expect("the relay runs");
    let log = std::fs::read_to_string(relay.process.log_path()).expect("a log");
    let packets = packets.stop().await;
    let mut read: Vec<(String, usize, Vec<Arrival>, Instant)> = Vec::new();
    for (camera, reader) in plain.into_iter().enumerate() {
        let ended = Instant::now();
        assert_eq!(reader.ended(), None, "it was cut off");
        let frames = reader.stop().await.into_iter().map(Arrival::from).collect();
        read.push((format!("plain reader of cam{}", camera + 1), camera, frames, ended));
    }
    for (camera, ffmpeg) in ffmpegs.into_iter().enumerate() {
        let (frames, ended) = ffmpeg.stop().expect("it ran to the end");
        read.push((format!("ffmpeg of cam{}", camera + 1), camera, frames, ended));
    }
    let mut recordings = Vec::new();
    for truth in truths {
        let recording = truth.stop().await;
        assert_eq!(recording.ends, Vec::<String>::new(), "the recording was cut off");
        recordings.push(recording.arrivals);
    }
    for (who, camera, frames, ended) in read {
        let found = compare(&recordings[camera], &frames, ended).expect("comparable");
        assert!(found.is_perfect(), "{who}: {found:#?}\n{log}");
        let (sent, received) = (found.sent, found.received);
        notes::ran(&format!(
            "{who}, through drains of {drained:?} and a crash: {sent} sent, {received} received, 0 lost"
        ));
    }
    assert_continuous(&packets);
    assert!(!log.contains("frames are missing here"), "{log}");
}

/// One source, no number left out or repeated, and times that never jump.
fn assert_continuous(packets: &[SeenPacket]) {
    assert!(packets.len() > AT_REST);
    for pair in packets.windows(2) {
        assert_eq!(pair[1].ssrc, pair[0].ssrc);
        assert_eq!(pair[1].sequence, pair[0].sequence.wrapping_add(1));
        let step = pair[1].rtp_timestamp.wrapping_sub(pair[0].rtp_timestamp).cast_signed();
        // B-frames step back by up to three pictures of 3600 ticks, and a picture after them as far ahead.
        assert!(step.abs() <= 5 * 3_600, "{pair:?}");
    }
}
