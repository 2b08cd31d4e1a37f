//! Crashes, and workers that start again, on a whole fleet: what a recording holds is not lost.

use std::time::Duration;

use anyhow::{Result, ensure};
use mtxfleet_tests::compare;

use mtxfleet_tests::lab::audience::{Audience, PerCamera};
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::node::Settings;
use mtxfleet_tests::lab::wait::wait_for;
use mtxfleet_tests::lab::worker_process::WorkerProcess;
use mtxfleet_tests::lab::{self, Lab};
use mtxfleet_tests::notes;
use mtxfleet_tests::server_binary::{self, ServerBinary};

const WITHIN: Duration = Duration::from_secs(60);

/// Frames that every worker gets before and after the crash.
const AT_REST: usize = 75;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_distribution_node_costs_workers_no_frame_where_a_plain_reader_loses_some_on_mediamtx() {
    let found = tokio::task::spawn_blocking(server_binary::find_real).await.expect("no panic");
    match found.expect("MEDIAMTX_BIN works, when it is set") {
        Ok(server) => a_killed_distribution_node_costs_no_frame(server).await,
        Err(reasons) => notes::skipped("a crash on MediaMTX itself", &reasons.join("; ")),
    }
}

async fn a_killed_distribution_node_costs_no_frame(server: ServerBinary) {
    let _alone = lab::alone().await;
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
        "a node killed with {legs} legs: {replayed} frames from recordings, 0 lost, longest pause {longest} ms; plain \
         readers lost {}",
        results.lost_by_control()
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_killed_and_started_again_has_every_frame_on_mediamtx() {
    let found = tokio::task::spawn_blocking(server_binary::find_real).await.expect("no panic");
    match found.expect("MEDIAMTX_BIN works, when it is set") {
        Ok(server) => a_killed_worker_has_every_frame(server).await.expect("it runs"),
        Err(reasons) => notes::skipped("a worker killed and started again on MediaMTX itself", &reasons.join("; ")),
    }
}

/// After so many frames more it is killed, and started again after so many milliseconds.
const LIVES: [(usize, u64); 4] = [(60, 0), (37, 1500), (8, 300), (90, 4000)];

async fn a_killed_worker_has_every_frame(server: ServerBinary) -> Result<()> {
    let _alone = lab::alone().await;
    let lab = Lab::builder().cameras([CameraKind::H264WithBFrames]).server(server).start().await?;
    let truth = lab.record_camera("cam1").await?;
    wait_for("the camera's frames", WITHIN, async || if truth.receives() { Ok(()) } else { Err("none") }).await?;
    let mut worker = WorkerProcess::start(&lab, "anpr-1", "cam1", None, true)?;
    let more = async |worker: &WorkerProcess, count: usize| -> Result<()> {
        let wanted = worker.frames()? + count;
        wait_for(format!("{count} more frames"), WITHIN, async || -> Result<()> {
            let have = worker.frames()?;
            ensure!(have >= wanted, "{have} of {wanted}; its log ends:\n{}", worker.process.log_tail());
            Ok(())
        })
        .await
    };
    for (frames, pause) in LIVES {
        more(&worker, frames).await?;
        worker.process.kill();
        tokio::time::sleep(Duration::from_millis(pause)).await;
        worker.process.restart()?;
    }
    more(&worker, 100).await?;
    worker.process.kill();
    let lives = worker.lives()?;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let truth = truth.stop().await;

    let ended = lives.frames.first().map_or(truth.ended, |frame| frame.at);
    let found = compare::compare(&truth.arrivals, &lives.frames, ended)?;
    // What was sent after the kill is nobody's.
    ensure!((found.lost, found.duplicated, found.out_of_order, found.foreign) == (0, 0, 0, 0), "{found:#?} {lives:?}");
    ensure!(lives.gaps.is_empty() && lives.errors.is_empty(), "{:?} {:?}", lives.gaps, lives.errors);
    let resumed = lives.starts.iter().filter(|start| start.starts_with("resumed ")).count();
    ensure!(resumed == LIVES.len() && lives.starts[0] == "live", "{:?}", lives.starts);
    ensure!(lives.recorded > 0, "nothing came from the recording, so this proves nothing");
    notes::ran(&format!(
        "a worker killed {} times: {} frames, each there; {} from recordings, {} again after the last checkpoint, marked",
        LIVES.len(),
        lives.frames.len(),
        lives.recorded,
        lives.repeated
    ));
    Ok(())
}

/// How far two nodes of one machine may be apart in a stream, when every other process of it wants the same two cores.
const SKEW_MS: u64 = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_two_legs_a_killed_node_costs_neither_frame_nor_pause_on_mediamtx() {
    let found = tokio::task::spawn_blocking(server_binary::find_real).await.expect("no panic");
    match found.expect("MEDIAMTX_BIN works, when it is set") {
        Ok(server) => two_legs_cost_no_pause(server).await.expect("it runs"),
        Err(reasons) => notes::skipped("a crash with two legs on MediaMTX itself", &reasons.join("; ")),
    }
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
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let truth = truth.stop().await;
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
