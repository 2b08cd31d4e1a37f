//! Planned moves between real servers lose nothing, whichever way the order comes; a crash is bridged and told.

use anyhow::{Context as _, Result};
use mtxfleet_ai_client::StreamConfig;
use mtxfleet_tests::lab::camera::{Camera, CameraKind};
use mtxfleet_tests::lab::wait::{PATIENCE, wait_for};
use mtxfleet_wire::{EventKind, WorkerReport};

use crate::reader::{Outcome, Worker};
use crate::support::{Agent, Balancer, Fleet, TOKEN, back, media_server, notice};

/// Frames of 40 ms that are seen between two moves.
const BETWEEN: usize = 40;

/// The design's bound on the extra pause: skew between the legs, two frame intervals and 50 ms. The servers are on one
/// machine, so the skew is small; what a machine under load adds is allowed for.
const EXTRA_PAUSE_MS: u64 = 500;

fn config(stream: &str, worker: &str, balancer: &Balancer, agent: &Agent) -> StreamConfig {
    StreamConfig {
        agents: vec![agent.url.clone()],
        worker_token: Some(TOKEN.into()),
        ..StreamConfig::new(stream, worker, format!("rtsp://{}", balancer.address), "lab")
    }
}

fn worker_name(stream: &str) -> String {
    format!("w-{}", stream.replace('/', "-"))
}

fn assert_whole(name: &str, outcome: &Outcome, moves: u64) {
    let Outcome { comparison, counters, audio_differences, got } = outcome;
    assert!(comparison.is_perfect(), "{name}: {comparison:?}, {counters:?}");
    assert_eq!(got.gaps, [], "{name}: a gap was told where nothing is missing");
    assert_eq!(got.error, None, "{name}");
    assert_eq!((counters.handovers, counters.unproven_handovers), (moves, 0), "{name}: {counters:?}");
    assert_eq!(counters.lost_packets, 0, "{name}");
    assert_eq!(*audio_differences, 0, "{name}: audio");
}

/// Moves a worker to `to` as a draining node would, and gives the extra pause that it reports.
async fn move_to(
    fleet: &Fleet,
    agent: &mut Agent,
    worker: &mut Worker,
    stream: &str,
    n: usize,
    to: &str,
) -> Result<u64> {
    let from = if to == "a" { "b" } else { "a" };
    let leg = worker.leg().context("it reads")?;
    let name = worker_name(stream);
    let order = fleet.order(&format!("{name}-{n}"), from, &[to], stream, &name, &leg);
    agent.say(from, notice(&order));
    let report = agent.report().await?;
    assert!(matches!(&report, WorkerReport::Acknowledged { leg: of, .. } if *of == leg), "{report:?}");
    assert_eq!(worker.leg().as_ref(), Some(&leg), "a notice alone moves nothing");
    agent.say(from, EventKind::DrainMove(order));
    let new_leg = worker.leg_after(&leg).await?;
    let report = agent.report().await?;
    let WorkerReport::Moved { leg: old, new_leg: reported, to: node, extra_pause_ms, .. } = report else {
        panic!("{report:?}");
    };
    assert_eq!((old, reported, node.as_ref().map(|node| node.as_str())), (leg.clone(), new_leg.clone(), Some(to)));
    wait_for("the old leg to be closed", PATIENCE, async || {
        let readers = fleet.nodes[from].readers().await.map_err(|e| e.to_string())?;
        if readers.iter().any(|query| query.contains(leg.as_str())) { Err(readers.join(" ")) } else { Ok(()) }
    })
    .await?;
    agent.say(from, back());
    let readers = fleet.nodes[to].readers().await?;
    assert!(readers.contains(&format!("worker={name}&leg={new_leg}")), "{readers:?}");
    Ok(extra_pause_ms)
}

#[tokio::test]
async fn moves_there_and_back_lose_nothing_whatever_the_camera_sends() -> Result<()> {
    let Some(binary) = media_server("worker library: planned moves") else { return Ok(()) };
    let mut fleet = Fleet::start(&binary).await?;
    let kinds = [CameraKind::H264WithAudio, CameraKind::H265, CameraKind::H264WithBFrames, CameraKind::H264Slices];
    for kind in kinds {
        let stream = format!("site/{kind:?}").to_lowercase();
        let _camera = Camera::start(&stream, kind, &fleet.ingestion.rtsp.to_string(), fleet.logs.path())?;
        let balancer = Balancer::start(&mut fleet.addresses, fleet.nodes["a"].rtsp).await?;
        let mut agent = Agent::start(&mut fleet.addresses).await?;
        let name = worker_name(&stream);
        let truth = format!("rtsp://{}/{stream}", fleet.ingestion.rtsp);
        let mut worker = Worker::start(config(&stream, &name, &balancer, &agent), &truth).await?;
        agent.wait_for_listeners(1).await?;
        let mut pauses = Vec::new();
        for (n, to) in ["b", "a", "b"].into_iter().enumerate() {
            worker.wait_for_frames(worker.frames() + BETWEEN).await?;
            pauses.push(move_to(&fleet, &mut agent, &mut worker, &stream, n, to).await?);
        }
        worker.wait_for_frames(worker.frames() + BETWEEN).await?;
        let outcome = worker.finish().await?;
        eprintln!("{kind:?}: {:?}, extra pauses {pauses:?} ms", outcome.comparison);
        assert_whole(&name, &outcome, 3);
        assert!(pauses.iter().all(|pause| *pause <= EXTRA_PAUSE_MS), "{name}: {pauses:?} ms");
        assert!(outcome.got.keyframe_with_parameters, "{name}: a decoder could not start at a keyframe");
        assert!(outcome.got.with_wall_time > 0, "{name}: no sender report was used");
    }
    Ok(())
}
