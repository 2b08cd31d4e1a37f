//! Crashes of distribution nodes, under workers with one leg and with two.

use anyhow::{Result, ensure};
use mtxfleet_tests::compare;

use mtxfleet_tests::lab::audience::{Audience, PerCamera};
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::node::Settings;
use mtxfleet_tests::lab::wait::wait_for;
use mtxfleet_tests::lab::{self, Lab};
use mtxfleet_tests::notes;
use mtxfleet_tests::server_binary::ServerBinary;

use crate::{WITHIN, real, stand_in};

/// Frames that every worker gets before and after the crash.
const AT_REST: usize = 75;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_distribution_node_costs_workers_no_frame_where_a_plain_reader_loses_some_on_mediamtx() {
    if let Some(server) = real("a crash of a distribution node").await {
        a_killed_distribution_node_costs_no_frame(server).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_distribution_node_costs_workers_no_frame_where_a_plain_reader_loses_some_on_the_stand_in() {
    a_killed_distribution_node_costs_no_frame(stand_in()).await;
}

async fn a_killed_distribution_node_costs_no_frame(server: ServerBinary) {
    let _alone = lab::alone().await;
    let kind = server.kind.to_string();
    let builder = Lab::builder().cameras(CameraKind::DEMO).settings(Settings::demo()).server(server);
    let mut lab = builder.start().await.expect("a fleet");
    let each = PerCamera { workers: 1, controls: 1, viewers: 0 };
    let audience = Audience::gather(&lab, each).await.expect("readers");
    audience.wait_for_more(AT_REST, WITHIN).await.expect("frames");

    let (busiest, legs) = lab.legs().await.expect("legs").swap_remove(0);
    assert!(legs > 0, "no worker reads anywhere");
    let node = lab.node_mut(&busiest).expect("there");
    node.server.process.kill();
    node.agent.process.kill();
    audience.wait_for_more(AT_REST, WITHIN).await.expect("frames");
    let results = audience.finish().await.expect("comparable");

    for worker in &results.workers {
        assert!(worker.frames.is_perfect(), "{worker:#?}");
    }
    let replayed: u64 = results.workers.iter().filter_map(|worker| worker.counters).map(|c| c.replayed).sum();
    let longest = results.workers.iter().map(|worker| worker.frames.longest_pause_ms).max().unwrap_or_default();
    assert!(replayed > 0, "the crash met no worker: {:#?}", results.workers);
    assert!(results.lost_by_control() > 0, "the control lost nothing, so this proves nothing: {:#?}", results.control);
    notes::ran(&format!(
        "a node killed with {legs} legs, on {kind}: {replayed} frames from recordings, 0 lost, longest pause {longest} ms; plain \
         readers lost {}",
        results.lost_by_control()
    ));
}

/// How far two nodes of one machine may be apart in a stream, when every other process of it wants the same two cores.
const SKEW_MS: u64 = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_two_legs_a_killed_node_costs_neither_frame_nor_pause_on_mediamtx() {
    if let Some(server) = real("a crash with two legs").await {
        two_legs_cost_no_pause(server).await.expect("it runs");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_two_legs_a_killed_node_costs_neither_frame_nor_pause_on_the_stand_in() {
    two_legs_cost_no_pause(stand_in()).await.expect("it runs");
}

async fn two_legs_cost_no_pause(server: ServerBinary) -> Result<()> {
    let _alone = lab::alone().await;
    let mut lab = Lab::builder().cameras([CameraKind::H264]).server(server).start().await?;
    let truth = lab.record_camera("cam1").await?;
    wait_for("the camera's frames", WITHIN, async || if truth.receives() { Ok(()) } else { Err("none") }).await?;
    let worker = lab.redundant_worker("anpr-1", "cam1").await?;
    let mut killed = Vec::new();
    for _ in 0..2 {
        let mut legs = Vec::new();
        wait_for("two legs at two nodes", WITHIN, async || -> Result<()> {
            legs = lab.legs_of("cam1").await?;
            legs.retain(|(node, _)| !killed.contains(node));
            ensure!(legs.len() == 2 && legs.iter().all(|(_, count)| *count == 1), "{legs:?}");
            Ok(())
        })
        .await?;
        let wanted = worker.frames() + AT_REST;
        wait_for("frames", WITHIN, async || if worker.frames() >= wanted { Ok(()) } else { Err("few") }).await?;
        // Once the first leg's node, once the second's.
        let (node, _) = legs.swap_remove(killed.len());
        let server = &mut lab.node_mut(&node)?.server;
        server.process.kill();
        killed.push(node);
        if killed.len() == 1 {
            // It comes back, for the second to be killed.
            server.process.restart()?;
            server.wait_ready().await?;
            killed[0] = "none".parse()?;
        }
    }
    let wanted = worker.frames() + AT_REST;
    wait_for("frames", WITHIN, async || if worker.frames() >= wanted { Ok(()) } else { Err("few") }).await?;
    let recording = worker.stop().await;
    let truth = truth.stop_when_level().await;
    let found = compare::compare(&truth.arrivals, &recording.arrivals, recording.ended)?;
    ensure!(found.is_perfect() && recording.discontinuities.is_empty(), "{found:#?} {:?}", recording.discontinuities);
    ensure!(recording.counters.replayed == 0, "the second leg had it all: {:?}", recording.counters);
    let bound = found.camera_pause_ms + 2 * found.frame_interval_ms + 50 + SKEW_MS;
    ensure!(found.longest_delay_ms <= bound, "a frame came more than {bound} ms late: {found:#?}");
    notes::ran(&format!(
        "two nodes killed, one after another, under a worker with two legs: 0 lost, longest pause {} ms, latest frame {} ms",
        found.longest_pause_ms, found.longest_delay_ms
    ));
    Ok(())
}
