//! Crashes, and workers that start again, on a whole fleet: what a recording holds is not lost.

use std::time::Duration;

use mtxfleet_tests::lab::audience::{Audience, PerCamera};
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::node::Settings;
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
