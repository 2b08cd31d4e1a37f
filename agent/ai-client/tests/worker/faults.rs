//! What a worker does when things break: a node dies, Redis goes, a candidate is not there, the application is slow.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mtxfleet_ai_client::{Error, Item, State, Status, Stream, StreamConfig, Via};
use mtxfleet_tests::lab::address::Loopback;
use mtxfleet_tests::lab::camera::{Camera, CameraKind};
use mtxfleet_tests::lab::wait::wait_for;
use mtxfleet_wire::{EventKind, MoveOrder, NodeId, WorkerReport};

use crate::reader::Worker;
use crate::support::{Agent, Balancer, Fleet, Server, TOKEN, media_server, notice};

pub const CAMERA: &str = "cam1";
pub const WORKER: &str = "w-1";
pub use mtxfleet_tests::lab::wait::PATIENCE as BOUND;

/// A fleet with one camera, and a worker's configuration that leads to node `a`.
pub struct Scene {
    pub fleet: Fleet,
    camera: Camera,
    pub balancer: Balancer,
    pub agent: Agent,
    pub config: StreamConfig,
}

impl Scene {
    pub async fn start(what: &str) -> Result<Option<Self>> {
        let Some(binary) = media_server(what) else { return Ok(None) };
        let mut fleet = Fleet::start(&binary).await?;
        let camera = Camera::start(CAMERA, CameraKind::H264, &fleet.ingestion.rtsp.to_string(), fleet.logs.path())?;
        let balancer = Balancer::start(&mut fleet.addresses, fleet.nodes["a"].rtsp).await?;
        let agent = Agent::start(&mut fleet.addresses).await?;
        let config = StreamConfig {
            agents: vec![agent.url.clone()],
            worker_token: Some(TOKEN.into()),
            ..StreamConfig::new(CAMERA, WORKER, format!("rtsp://{}", balancer.address), "lab")
        };
        Ok(Some(Self { fleet, camera, balancer, agent, config }))
    }

    pub async fn worker(&self, config: StreamConfig) -> Result<Worker> {
        Worker::start(config, &format!("rtsp://{}/{CAMERA}", self.fleet.ingestion.rtsp)).await
    }

    /// The stream itself, once the camera is there.
    pub async fn stream(&self, config: StreamConfig) -> Result<Stream> {
        let config = StreamConfig { open_timeout: BOUND, ..config };
        Ok(Stream::open(config).await?)
    }

    /// The order for the worker's present leg to go from `a` to `b`.
    pub fn order(&self, drain: &str, worker: &Worker) -> Result<MoveOrder> {
        Ok(self.fleet.order(drain, "a", &["b"], CAMERA, WORKER, &worker.leg().context("it reads")?))
    }
}

#[tokio::test]
async fn a_crash_is_bridged_by_the_stable_url_and_the_gap_is_told() -> Result<()> {
    let Some(mut scene) = Scene::start("worker library: crash of a node").await? else { return Ok(()) };
    let mut worker = scene.worker(scene.config.clone()).await?;
    worker.wait_for_frames(50).await?;
    let leg = worker.leg().context("it reads")?;
    scene.balancer.point_to(scene.fleet.nodes["b"].rtsp);
    scene.fleet.nodes.get_mut("a").context("a node")?.process.kill();
    let killed = Instant::now();
    worker.leg_after(&leg).await?;
    let away = killed.elapsed();
    worker.wait_for_frames(worker.frames() + 50).await?;
    let outcome = worker.finish().await?;
    eprintln!("crash: back after {away:?}, {:?}, gaps {:?}", outcome.comparison, outcome.got.gaps);
    let found = outcome.comparison;
    assert_eq!((found.duplicated, found.out_of_order, found.foreign), (0, 0, 0), "{found:?}");
    assert_eq!(outcome.got.gaps.is_empty(), found.lost == 0, "a loss is told, and only a loss: {found:?}");
    Ok(())
}

#[tokio::test]
async fn a_node_that_hangs_is_left() -> Result<()> {
    let Some(mut scene) = Scene::start("worker library: a node that hangs").await? else { return Ok(()) };
    let config = StreamConfig { silence_timeout: Duration::from_secs(1), ..scene.config.clone() };
    let mut worker = scene.worker(config).await?;
    worker.wait_for_frames(25).await?;
    let leg = worker.leg().context("it reads")?;
    scene.balancer.point_to(scene.fleet.nodes["b"].rtsp);
    let node = scene.fleet.nodes.get_mut("a").context("a node")?;
    node.process.freeze();
    worker.leg_after(&leg).await?;
    worker.wait_for_frames(worker.frames() + 25).await?;
    let outcome = worker.finish().await?;
    let found = outcome.comparison;
    assert_eq!((found.duplicated, found.out_of_order, found.foreign), (0, 0, 0), "{found:?}");
    assert_eq!(outcome.got.gaps.is_empty(), found.lost == 0, "a loss is told, and only a loss: {found:?}");
    Ok(())
}

#[tokio::test]
async fn a_camera_that_restarts_is_followed_and_one_with_another_codec_is_told() -> Result<()> {
    let Some(mut scene) = Scene::start("worker library: a camera that restarts").await? else { return Ok(()) };
    let mut stream = Stream::open(scene.config.clone()).await?;
    let mut status = stream.watch();
    let follow = async |stream: &mut Stream, frames: usize| -> Result<usize, Error> {
        let (mut seen, mut gaps) = (0, 0);
        while seen < frames {
            match stream.next().await {
                Some(Ok(Item::Frame(_))) => seen += 1,
                Some(Ok(Item::Discontinuity(_))) => gaps += 1,
                Some(Err(error)) => return Err(error),
                None => return Err(Error::Task),
            }
        }
        Ok(gaps)
    };
    assert_eq!(tokio::time::timeout(BOUND, follow(&mut stream, 25)).await??, 0);
    let leg = stream.leg();
    scene.camera.process.kill();
    tokio::time::timeout(BOUND, status.wait_for(|now| now.state == State::Reconnecting)).await??;
    let to = scene.fleet.ingestion.rtsp.to_string();
    // Coded otherwise, since this camera sends the same pictures bit for bit each time it starts.
    scene.camera = Camera::start(CAMERA, CameraKind::H264Slices, &to, scene.fleet.logs.path())?;
    let back = |now: &Status| now.state == State::Live && now.leg != leg;
    tokio::time::timeout(BOUND, status.wait_for(back)).await??;
    // Some of these were there before; the gap is told before the first new one.
    assert!(tokio::time::timeout(BOUND, follow(&mut stream, 250)).await?? >= 1, "no gap was told");
    scene.camera.process.kill();
    scene.camera = Camera::start(CAMERA, CameraKind::H265, &to, scene.fleet.logs.path())?;
    let error = tokio::time::timeout(BOUND, follow(&mut stream, usize::MAX)).await?.expect_err("other tracks");
    assert!(matches!(&error, Error::TracksChanged(what) if what.contains("h265")), "{error}");
    assert!(stream.next().await.is_none());
    Ok(())
}

#[tokio::test]
async fn user_and_password_open_what_is_closed_to_others() -> Result<()> {
    let Some(binary) = media_server("worker library: RTSP credentials") else { return Ok(()) };
    let (mut addresses, logs) = (Loopback::next(), tempfile::tempdir()?);
    let closed = "authInternalUsers:\n- user: any\n  permissions:\n  - action: publish\n  - action: api\n\
                  - user: ann\n  pass: se+cret\n  permissions:\n  - action: read\npaths:\n  all_others:\n";
    let server = Server::start(&binary, "closed", closed, &mut addresses, logs.path())?;
    let _camera = wait_for("the camera", BOUND, async || -> Result<Camera> {
        // The server may not listen yet, and ffmpeg tries once.
        server.readers().await?;
        Camera::start(CAMERA, CameraKind::H264, &server.rtsp.to_string(), logs.path())
    })
    .await?;
    let config = |user: &str| StreamConfig::new(CAMERA, WORKER, format!("rtsp://{user}{}", server.rtsp), "lab");
    let mut stream = Stream::open(config("ann:se%2Bcret@")).await?;
    assert!(matches!(stream.next().await, Some(Ok(Item::Frame(_)))));
    stream.close().await;
    // The server waits before it refuses.
    let open_timeout = Duration::from_secs(5);
    let refused = Stream::open(StreamConfig { open_timeout, ..config("ann:wrong@") }).await.expect_err("refused");
    assert!(refused.to_string().contains("401"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn a_candidate_that_is_not_there_is_passed_over() -> Result<()> {
    let Some(mut scene) = Scene::start("worker library: dead candidate").await? else { return Ok(()) };
    let mut worker = scene.worker(scene.config.clone()).await?;
    scene.agent.wait_for_listeners(1).await?;
    worker.wait_for_frames(50).await?;
    let leg = worker.leg().context("it reads")?;
    let mut order = scene.order("d1", &worker)?;
    let mut dead = order.legs[0].candidates[0].clone();
    (dead.node, dead.rtsp, dead.warm) =
        (NodeId::new("dead").context("valid")?, scene.fleet.addresses.port()?.to_string(), true);
    order.legs[0].candidates.insert(0, dead);
    scene.agent.say("a", EventKind::DrainMove(order));
    worker.leg_after(&leg).await?;
    let report = scene.agent.report().await?;
    assert!(matches!(&report, WorkerReport::Moved { to: Some(node), .. } if node.as_str() == "b"), "{report:?}");
    worker.wait_for_frames(worker.frames() + 25).await?;
    let outcome = worker.finish().await?;
    assert!(outcome.comparison.is_perfect(), "{:?}", outcome.comparison);
    Ok(())
}

#[tokio::test]
async fn a_worker_that_sees_only_the_balancer_moves_through_it() -> Result<()> {
    let Some(mut scene) = Scene::start("worker library: move through the stable URL").await? else { return Ok(()) };
    let mut worker = scene.worker(StreamConfig { via: Via::StableUrl, ..scene.config.clone() }).await?;
    scene.agent.wait_for_listeners(1).await?;
    worker.wait_for_frames(50).await?;
    let leg = worker.leg().context("it reads")?;
    scene.balancer.point_to(scene.fleet.nodes["b"].rtsp);
    scene.agent.say("a", EventKind::DrainMove(scene.order("d1", &worker)?));
    let new_leg = worker.leg_after(&leg).await?;
    let report = scene.agent.report().await?;
    assert!(matches!(report, WorkerReport::Moved { to: None, .. }), "{report:?}");
    let readers = scene.fleet.nodes["b"].readers().await?;
    assert!(readers.iter().any(|query| query.contains(new_leg.as_str())), "{readers:?}");
    worker.wait_for_frames(worker.frames() + 25).await?;
    let outcome = worker.finish().await?;
    assert!(outcome.comparison.is_perfect(), "{:?}", outcome.comparison);
    Ok(())
}

#[tokio::test]
async fn an_application_that_is_behind_still_moves_and_loses_nothing() -> Result<()> {
    let Some(mut scene) = Scene::start("worker library: slow application").await? else { return Ok(()) };
    let config = StreamConfig { buffer: 4, silence_timeout: Duration::from_millis(500), ..scene.config.clone() };
    // The camera may need a moment; opening waits for it.
    let mut stream = Stream::open(config).await?;
    scene.agent.wait_for_listeners(1).await?;
    assert!(matches!(stream.next().await, Some(Ok(Item::Frame(_)))));
    let leg = stream.leg().context("it reads")?;
    // Nothing is fetched from here on: reading stops, and that must not be taken for a dead leg.
    let order = scene.fleet.order("d1", "a", &["b"], CAMERA, WORKER, &leg);
    scene.agent.say("a", notice(&order));
    let report = scene.agent.report().await?;
    assert!(matches!(report, WorkerReport::Acknowledged { .. }), "{report:?}");
    let mut status = stream.watch();
    let gives_up = status.wait_for(|now| now.leg.as_ref() != Some(&leg));
    let gives_up = tokio::time::timeout(Duration::from_secs(2), gives_up).await;
    assert!(gives_up.is_err(), "the leg was given up while the application was behind");
    // A node must be able to drain all the same.
    scene.agent.say("a", EventKind::DrainMove(order));
    let report = scene.agent.report().await?;
    assert!(matches!(report, WorkerReport::Moved { .. }), "{report:?}");
    // More than can have waited, so that the handover is among them.
    for _ in 0..150 {
        match tokio::time::timeout(BOUND, stream.next()).await?.context("a frame")?? {
            Item::Frame(_) => {}
            Item::Discontinuity(gap) => panic!("{gap:?}"),
        }
    }
    let counters = stream.close().await;
    assert_eq!((counters.lost_packets, counters.unproven_handovers, counters.handovers), (0, 0, 1), "{counters:?}");
    Ok(())
}

#[tokio::test]
async fn an_application_that_is_behind_has_a_leg_again_after_all_were_lost() -> Result<()> {
    let Some(mut scene) = Scene::start("worker library: slow application, lost legs").await? else { return Ok(()) };
    let config = StreamConfig { buffer: 4, leg_timeout: Duration::from_secs(3), ..scene.config.clone() };
    let mut stream = Stream::open(config).await?;
    scene.agent.wait_for_listeners(1).await?;
    assert!(matches!(stream.next().await, Some(Ok(Item::Frame(_)))));
    let leg = stream.leg().context("it reads")?;
    let mut status = stream.watch();
    // Nothing is fetched from here on. The new node hangs, so the move lasts, and the old one dies meanwhile.
    let order = scene.fleet.order("d1", "a", &["b"], CAMERA, WORKER, &leg);
    scene.balancer.point_to(scene.fleet.nodes["b"].rtsp);
    scene.fleet.nodes.get_mut("b").context("a node")?.process.freeze();
    scene.agent.say("a", EventKind::DrainMove(order));
    let frames_wait = |now: &Status| now.state == State::Moving && now.counters.frames > 20;
    tokio::time::timeout(BOUND, status.wait_for(frames_wait)).await??;
    scene.fleet.nodes.get_mut("a").context("a node")?.process.kill();
    tokio::time::timeout(BOUND, status.wait_for(|now| now.state == State::Reconnecting)).await??;
    scene.fleet.nodes.get_mut("b").context("a node")?.process.thaw();
    let back = |now: &Status| now.state == State::Live && now.leg.as_ref().is_some_and(|now| *now != leg);
    tokio::time::timeout(BOUND, status.wait_for(back)).await.context("no leg is read")??;
    stream.close().await;
    Ok(())
}

#[tokio::test]
async fn a_stream_that_never_comes_is_a_clear_error_in_time() -> Result<()> {
    let mut addresses = Loopback::next();
    let nobody = addresses.port()?;
    let config = StreamConfig {
        open_timeout: Duration::from_millis(700),
        ..StreamConfig::new(CAMERA, WORKER, format!("rtsp://{nobody}"), "lab")
    };
    let begun = Instant::now();
    let error = Stream::open(config).await.expect_err("nobody is there");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(matches!(error, Error::NotOpened { .. }));
    let text = error.to_string();
    assert!(text.contains("stable URL: ") && text.contains("refused"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_stream_that_goes_for_good_ends_when_asked_to() -> Result<()> {
    let Some(mut scene) = Scene::start("worker library: giving up").await? else { return Ok(()) };
    let config = StreamConfig { give_up_after: Some(Duration::from_secs(1)), ..scene.config.clone() };
    let mut stream = Stream::open(config).await?;
    let mut status = stream.watch();
    assert!(matches!(stream.next().await, Some(Ok(Item::Frame(_)))));
    scene.fleet.nodes.get_mut("a").context("a node")?.process.kill();
    let away = |now: &Status| now.state == State::Reconnecting;
    tokio::time::timeout(BOUND, status.wait_for(away)).await??;
    let last = tokio::time::timeout(BOUND, async {
        let mut last = None;
        while let Some(item) = futures::StreamExt::next(&mut stream).await {
            last = Some(item);
        }
        last
    });
    assert!(matches!(last.await?, Some(Err(Error::Gone { .. }))));
    Ok(())
}
