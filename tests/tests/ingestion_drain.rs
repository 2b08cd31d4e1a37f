//! Drains of ingestion nodes: cameras change hands, and workers lose nothing that the camera sent.

use std::time::Duration;

use mtxfleet_tests::lab::audience::{Audience, PerCamera};
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::node::Settings;
use mtxfleet_tests::lab::wait::{PATIENCE, wait_for};
use mtxfleet_tests::lab::{self, Lab, drain};
use mtxfleet_tests::notes;
use mtxfleet_tests::server_binary::{self, ServerBinary};
use mtxfleet_wire::{CameraEnd, CameraSource, DrainOutcome, LegEnd, NodeId};

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

    wait_for("the workers to read at distribution nodes alone", PATIENCE, async || {
        let legs: usize = lab.legs().await?.iter().map(|(_, legs)| legs).sum();
        let direct: usize =
            lab.node(&new)?.agent.streams().await?.iter().filter(|s| s.node == new).map(|s| s.stream.legs.len()).sum();
        anyhow::ensure!((legs, direct) == (2 * cameras.len(), 0), "{legs} legs, {direct} at the owner");
        Ok(())
    })
    .await
    .expect("the load ends where it belongs");
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
