//! Planned drains on a whole fleet: nothing is lost, and they are quick.

use std::time::{Duration, Instant};

use mtxfleet_tests::lab::audience::{Audience, PerCamera};
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::node::Settings;
use mtxfleet_tests::lab::prober::Prober;
use mtxfleet_tests::lab::wait::PATIENCE;
use mtxfleet_tests::lab::{self, Lab, drain};
use mtxfleet_tests::notes;
use mtxfleet_tests::server_binary::{self, ServerBinary};
use mtxfleet_wire::{DrainOutcome, LegEnd, NodeId};

const DRAIN_WITHIN: Duration = Duration::from_secs(60);

/// How far two nodes of one machine may be apart in a stream, when every other process of it wants the same two cores.
const SKEW_MS: u64 = 100;

/// Frames that every worker gets between two drains.
const AT_REST: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_drains_lose_no_frame_where_a_plain_reader_does_on_mediamtx() {
    let found = tokio::task::spawn_blocking(server_binary::find_real).await.expect("no panic");
    match found.expect("MEDIAMTX_BIN works, when it is set") {
        Ok(server) => three_drains_lose_no_frame(server).await,
        Err(reasons) => notes::skipped("three drains on MediaMTX itself", &reasons.join("; ")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_drains_lose_no_frame_where_a_plain_reader_does_on_the_stand_in() {
    three_drains_lose_no_frame(server_binary::find_stand_in().expect("built")).await;
}

async fn three_drains_lose_no_frame(server: ServerBinary) {
    let _alone = lab::alone().await;
    let builder = Lab::builder().cameras(CameraKind::DEMO).settings(Settings::demo()).server(server);
    let lab = builder.start().await.expect("a fleet");
    notes::ran(&format!("drains of a whole fleet, on {}", lab.server.kind));
    let each = PerCamera { workers: 2, controls: 1, viewers: 0 };
    let audience = Audience::gather(&lab, each).await.expect("readers");
    audience.wait_for_more(AT_REST, DRAIN_WITHIN).await.expect("frames");

    let mut moved = 0;
    for _ in 0..3 {
        let (busiest, _) = lab.legs().await.expect("legs").swap_remove(0);
        let agent = &lab.node(&busiest).expect("there").agent;
        let record = drain::run(agent, "test", DRAIN_WITHIN, |_| {}).await.expect("it ends");
        assert_eq!(record.outcome, DrainOutcome::Completed);
        for leg in &record.legs {
            assert!(matches!(leg.how, LegEnd::Moved(_)), "a worker did not move by itself: {leg:?}");
            moved += 1;
        }
        audience.wait_for_more(AT_REST, DRAIN_WITHIN).await.expect("frames");
        agent.undrain().await.expect("answered").expect("it comes back");
        lab.wait_in_service(&busiest, PATIENCE).await.expect("in service");
    }
    let results = audience.finish().await.expect("comparable");

    assert!(moved > 0, "the drains met no worker");
    // All share two cores: what stopped one camera for a moment may have stopped any reader.
    let stutter = results.workers.iter().map(|worker| worker.frames.camera_pause_ms).max().unwrap_or_default();
    for worker in &results.workers {
        assert!(worker.frames.is_perfect(), "{worker:#?}");
        assert_eq!(worker.discontinuities, Vec::<String>::new());
        let frames = &worker.frames;
        let bound = stutter + 2 * frames.frame_interval_ms + 50 + SKEW_MS;
        assert!(frames.longest_delay_ms <= bound, "a frame came more than {bound} ms late: {worker:#?}");
    }
    assert!(results.lost_by_control() > 0, "the control lost nothing, so this proves nothing: {:#?}", results.control);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_without_viewers_is_quick_and_new_connections_stop_at_once() {
    let _alone = lab::alone().await;
    let lab = Lab::builder().cameras([CameraKind::H264]).start().await.expect("a fleet");
    let node = NodeId::new("dist-2").expect("an id");
    let mut prober = Prober::start(&lab.balancer, &node);
    prober.wait_given(PATIENCE).await.expect("it is in service");

    let ordered = Instant::now();
    let agent = &lab.node(&node).expect("there").agent;
    let record = drain::run(agent, "test", DRAIN_WITHIN, |_| {}).await.expect("it ends");
    let took = ordered.elapsed();
    let last_given = prober.stop().await.expect("it probed on").expect("it was in service");

    let out = last_given.saturating_duration_since(ordered);
    assert!(took < Duration::from_secs(8), "{took:?}, of which {:#?}", record.phases);
    assert!(out < Duration::from_millis(1500), "new connections came for {out:?}");
    for phase in &record.phases {
        assert!(!phase.timed_out, "{phase:?}");
    }
    notes::ran(&format!(
        "drain without viewers: {:.1} s, out of HAProxy after {:.2} s",
        took.as_secs_f64(),
        out.as_secs_f64()
    ));
}
