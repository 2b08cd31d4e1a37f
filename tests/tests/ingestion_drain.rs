//! Drains of ingestion nodes: cameras change hands, and workers lose nothing that the camera sent.

use std::time::Duration;

use mtxfleet_tests::lab::audience::{Audience, PerCamera};
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::node::Settings;
use mtxfleet_tests::lab::pulled_camera::Publisher;
use mtxfleet_tests::lab::wait::{PATIENCE, wait_for};
use mtxfleet_tests::lab::{self, Lab, drain};
use mtxfleet_tests::notes;
use mtxfleet_tests::server_binary::{self, ServerBinary};
use mtxfleet_wire::{CameraEnd, CameraSource, DrainOutcome, LegEnd, NodeId, Phase, Role};

const DRAIN_WITHIN: Duration = Duration::from_secs(120);

/// Frames that every worker gets before and after.
const AT_REST: usize = 50;

fn id(text: &str) -> NodeId {
    NodeId::new(text).expect("an id")
}

async fn real(what: &str) -> Option<ServerBinary> {
    let found = tokio::task::spawn_blocking(server_binary::find_real).await.expect("no panic");
    match found.expect("MEDIAMTX_BIN works, when it is set") {
        Ok(server) => Some(server),
        Err(reasons) => {
            notes::skipped(&format!("{what} on MediaMTX itself"), &reasons.join("; "));
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pulled_cameras_change_hands_and_workers_lose_nothing_on_mediamtx() {
    if let Some(server) = real("pulled cameras that change hands").await {
        pulled_cameras_change_hands(server).await;
    }
}

async fn pulled_cameras_change_hands(server: ServerBinary) {
    let _alone = lab::alone().await;
    let kinds = [CameraKind::H264WithBFrames, CameraKind::H265, CameraKind::H264WithAudio];
    let builder = Lab::builder().ingestion(2).distribution(2).pulled(kinds).settings(Settings::demo()).server(server);
    let lab = builder.start().await.expect("a fleet");
    let (old, new) = (id("ingest-1"), id("ingest-2"));
    let cameras: Vec<String> = lab.pulled.iter().map(|camera| camera.name.clone()).collect();
    for camera in &cameras {
        lab.pull(&old, camera).await.expect("taken");
    }
    for camera in &cameras {
        lab.wait_owned(camera, &old, PATIENCE).await.expect("it flows");
    }
    notes::ran(&format!("a drain of an ingestion node with pulled cameras, on {}", lab.server.kind));
    let audience = Audience::gather(&lab, PerCamera { workers: 2, controls: 1, viewers: 0 }).await.expect("readers");
    audience.wait_for_more(AT_REST, DRAIN_WITHIN).await.expect("frames");

    let agent = &lab.node(&old).expect("there").agent;
    let view = drain::order(agent, "test").await.expect("taken");
    for camera in &cameras {
        lab.pull(&new, camera).await.expect("taken");
    }
    let record = drain::follow(agent, &view.drain, DRAIN_WITHIN, |_| {}).await.expect("it ends");
    assert_eq!(record.outcome, DrainOutcome::Completed, "{record:#?}");
    for camera in &record.cameras {
        assert_eq!((&camera.how, camera.source), (&CameraEnd::At(new.clone()), CameraSource::Pulled), "{record:#?}");
    }
    assert_eq!(record.cameras.len(), cameras.len());
    assert!(record.phases.iter().all(|phase| !phase.timed_out), "{:#?}", record.phases);
    let legs = record.legs.len();
    assert_eq!(legs, 2 * 2 * cameras.len(), "each worker bridged, and came back: {:#?}", record.legs);
    assert!(record.legs.iter().all(|leg| matches!(leg.how, LegEnd::Moved(Some(_)))), "{:#?}", record.legs);

    wait_for_legs_where_they_belong(&lab, 2 * cameras.len()).await;
    audience.wait_for_more(AT_REST, DRAIN_WITHIN).await.expect("frames");
    let results = audience.finish().await.expect("comparable");
    for worker in &results.workers {
        assert!(worker.frames.is_perfect(), "{worker:#?}");
        assert_eq!(worker.discontinuities, Vec::<String>::new());
    }
    assert!(results.lost_by_control() > 0, "the control lost nothing, so this proves nothing: {:#?}", results.control);
    notes::ran(&format!(
        "drain of an ingestion node: {:.1} s; longest pause of a worker {} ms, the control lost {} frames",
        record.phases.iter().map(|phase| phase.seconds).sum::<f64>(),
        results.workers.iter().map(|worker| worker.frames.longest_pause_ms).max().unwrap_or(0),
        results.lost_by_control(),
    ));
}

/// Every worker has one leg, at a distribution node.
async fn wait_for_legs_where_they_belong(lab: &Lab, workers: usize) {
    wait_for("the workers to read at distribution nodes alone", PATIENCE, async || {
        let legs: usize = lab.legs().await?.iter().map(|(_, legs)| legs).sum();
        let mut direct = 0;
        for node in lab.of_role(Role::Ingestion) {
            let streams = node.agent.streams().await?;
            direct += streams.iter().filter(|s| s.node == node.id).map(|s| s.stream.legs.len()).sum::<usize>();
        }
        anyhow::ensure!((legs, direct) == (workers, 0), "{legs} legs, {direct} at ingestion nodes");
        Ok(())
    })
    .await
    .expect("the load ends where it belongs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_handing_over_puts_cameras_back_and_a_killed_agent_goes_on_on_mediamtx() {
    let Some(server) = real("a cancelled drain of an ingestion node").await else { return };
    let _alone = lab::alone().await;
    let kinds = [CameraKind::H264, CameraKind::H265];
    let builder = Lab::builder().ingestion(2).distribution(2).pulled(kinds).settings(Settings::demo()).server(server);
    let mut lab = builder.start().await.expect("a fleet");
    let (old, new) = (id("ingest-1"), id("ingest-2"));
    for camera in ["cam1", "cam2"] {
        lab.pull(&old, camera).await.expect("taken");
    }
    for camera in ["cam1", "cam2"] {
        lab.wait_owned(camera, &old, PATIENCE).await.expect("it flows");
    }
    let audience = Audience::gather(&lab, PerCamera { workers: 1, controls: 0, viewers: 0 }).await.expect("readers");
    audience.wait_for_more(AT_REST, DRAIN_WITHIN).await.expect("frames");

    // Only one of the two cameras gets another owner: the drain stays in its third phase.
    lab.pull(&new, "cam1").await.expect("taken");
    let agent = &lab.node(&old).expect("there").agent;
    let view = drain::order(agent, "test").await.expect("taken");
    assert!(drain::wait_phase(agent, &view.drain, Phase::WorkerMigration, PATIENCE).await.expect("it comes there"));
    wait_for_path(&lab, &old, "cam1", false).await;
    wait_for_legs_where_they_belong(&lab, 2).await;
    agent.undrain().await.expect("answered").expect("in time");
    lab.wait_in_service(&old, PATIENCE).await.expect("in service");
    wait_for_path(&lab, &old, "cam1", true).await;
    audience.wait_for_more(AT_REST, DRAIN_WITHIN).await.expect("frames");

    let agent = &lab.node(&old).expect("there").agent;
    let view = drain::order(agent, "test").await.expect("taken");
    assert!(drain::wait_phase(agent, &view.drain, Phase::WorkerMigration, PATIENCE).await.expect("it comes there"));
    let node = lab.node_mut(&old).expect("there");
    node.agent.process.kill();
    node.restart_agent().await.expect("it comes up");
    lab.pull(&new, "cam2").await.expect("taken");
    let agent = &lab.node(&old).expect("there").agent;
    let record = drain::follow(agent, &view.drain, DRAIN_WITHIN, |_| {}).await.expect("it ends");
    assert_eq!(record.outcome, DrainOutcome::Completed);
    assert!(record.cameras.iter().all(|camera| camera.how == CameraEnd::At(new.clone())), "{:#?}", record.cameras);
    wait_for_legs_where_they_belong(&lab, 2).await;
    audience.wait_for_more(AT_REST, DRAIN_WITHIN).await.expect("frames");
    for worker in &audience.finish().await.expect("comparable").workers {
        assert!(worker.frames.is_perfect(), "{worker:#?}");
        assert_eq!(worker.discontinuities, Vec::<String>::new());
    }
}

/// Waits until a node's MediaMTX has a stream, or has it no more.
async fn wait_for_path(lab: &Lab, node: &NodeId, stream: &str, there: bool) {
    let agent = &lab.node(node).expect("there").agent;
    wait_for(format!("{stream} at {node}: {there}"), PATIENCE, async || {
        let streams = agent.streams().await?;
        let ready = streams.iter().any(|s| s.node == *node && s.stream.name.as_str() == stream && s.stream.ready);
        anyhow::ensure!(ready == there, "{streams:?}");
        Ok(())
    })
    .await
    .expect("in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_cameras_go_one_at_a_time_and_what_they_did_not_send_is_named_on_mediamtx() {
    if let Some(server) = real("publishing cameras that change hands").await {
        publishing_cameras_go_one_at_a_time(server).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_cameras_go_one_at_a_time_and_what_they_did_not_send_is_named_on_the_stand_in() {
    publishing_cameras_go_one_at_a_time(server_binary::find_stand_in().expect("built")).await;
}

async fn publishing_cameras_go_one_at_a_time(server: ServerBinary) {
    let _alone = lab::alone().await;
    let kinds = [CameraKind::H264; 3];
    let builder = Lab::builder().ingestion(2).distribution(2).pulled(kinds).settings(Settings::demo()).server(server);
    let lab = builder.start().await.expect("a fleet");
    let publish = |camera| Publisher::start(camera, lab.balancer.ingest, &lab.logs()).expect("ffmpeg");
    let publishers: Vec<Publisher> = lab.pulled.iter().map(publish).collect();
    let mut owners: Vec<(String, NodeId)> = Vec::new();
    for camera in &lab.pulled {
        let owner = wait_for(format!("{} to be owned", camera.name), PATIENCE, async || -> anyhow::Result<NodeId> {
            let streams = lab.nodes[0].agent.streams().await?;
            let owned = |s: &&mtxfleet_wire::StreamView| {
                s.stream.owned && s.stream.flowing && s.stream.name.as_str() == camera.name
            };
            Ok(streams.iter().find(owned).ok_or_else(|| anyhow::anyhow!("{streams:?}"))?.node.clone())
        });
        let owner = owner.await.expect("it publishes");
        lab.wait_owned(&camera.name, &owner, PATIENCE).await.expect("all see it");
        owners.push((camera.name.clone(), owner));
    }
    // Three cameras, two nodes: one has two at least.
    let count = |node: &NodeId| owners.iter().filter(|(_, owner)| owner == node).count();
    let old = lab.of_role(Role::Ingestion).map(|node| node.id.clone()).max_by_key(count).expect("two");
    let moving: Vec<&String> = owners.iter().filter(|(_, owner)| *owner == old).map(|(name, _)| name).collect();
    notes::ran(&format!(
        "a drain of an ingestion node with {} publishing cameras, on {}",
        moving.len(),
        lab.server.kind
    ));
    let audience = Audience::gather(&lab, PerCamera { workers: 1, controls: 0, viewers: 0 }).await.expect("readers");
    audience.wait_for_more(AT_REST, DRAIN_WITHIN).await.expect("frames");

    let agent = &lab.node(&old).expect("there").agent;
    let mut most_away = 0;
    let record = drain::run(agent, "test", DRAIN_WITHIN, |view| {
        most_away = most_away.max(view.waiting_for.iter().filter(|why| why.contains("was disconnected")).count());
    });
    let record = record.await.expect("it ends");
    assert_eq!(most_away, 1, "cameras away at once");
    let mut named: Vec<&str> = record.cameras.iter().map(|camera| camera.stream.as_str()).collect();
    named.sort_unstable();
    assert_eq!(named, moving);
    audience.wait_for_more(AT_REST, DRAIN_WITHIN).await.expect("frames");
    wait_for_legs_where_they_belong(&lab, lab.pulled.len()).await;
    let results = audience.finish().await.expect("comparable");
    for camera in &record.cameras {
        assert!(matches!(camera.how, CameraEnd::At(_)), "{camera:?}");
        assert_eq!(camera.source, CameraSource::Pushed);
        let (Some(not_sent), Some(missed)) = (camera.frames_not_sent, camera.frames_missed) else {
            panic!("its worker's count is missing: {camera:?}")
        };
        let lost = results.workers.iter().find(|worker| worker.stream == camera.stream.as_str()).expect("one");
        let lost = lost.frames.lost;
        notes::ran(&format!(
            "{}: away for {} ms, {not_sent} frames not sent, {missed} beside; its worker lacks {lost}",
            camera.stream,
            camera.away_ms.unwrap_or(0)
        ));
        // Counted by time, on a machine whose processes all wait for each other.
        assert!((not_sent + missed).abs_diff(lost) <= 10 + lost / 4, "{camera:?}, but {lost} are missing");
    }
    for leg in &record.legs {
        assert_eq!(leg.how, LegEnd::CameraLeft, "{leg:?}");
    }
    for worker in results.workers.iter().filter(|worker| !moving.contains(&&worker.stream)) {
        assert!(worker.frames.is_perfect(), "no concern of this drain: {worker:#?}");
    }
    drop(publishers);
}
