//! A fleet that grows and shrinks by itself through the local cloud.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mtxfleet_tests::lab::audience::{Audience, PerCamera};
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::cloud::CloudSettings;
use mtxfleet_tests::lab::cycles;
use mtxfleet_tests::lab::node::Settings;
use mtxfleet_tests::lab::reader::ReconnectingReader;
use mtxfleet_tests::lab::redis::Keeps;
use mtxfleet_tests::lab::wait::{PATIENCE, wait_for};
use mtxfleet_tests::lab::{self, Lab};
use mtxfleet_tests::{notes, server_binary};
use serde_json::json;

const UP_WINDOW: Duration = Duration::from_secs(1);
const DOWN_WINDOW: Duration = Duration::from_secs(6);

/// A node carries four readers here.
const PER_NODE: u32 = 4;

/// A whole cycle: windows, launch, drain, and a machine that has other things to do.
const CYCLE: Duration = Duration::from_secs(120);

async fn lab_with(cloud: CloudSettings, redis: Keeps) -> Lab {
    let settings = Settings {
        drain: "viewer_window = \"2s\"\nviewer_cut = \"1s\"\n".to_owned(),
        plain_readers_are_viewers: true,
        ..Settings::default()
    };
    let server = server_binary::find_stand_in().expect("built");
    let builder = Lab::builder().cameras([CameraKind::H264]).settings(settings).server(server).redis(Some(redis));
    builder.cloud(cloud).start().await.expect("a fleet")
}

fn settings() -> CloudSettings {
    CloudSettings { policy: CloudSettings::policy(PER_NODE, UP_WINDOW, DOWN_WINDOW), ..CloudSettings::default() }
}

/// So many plain readers of the camera, each of which receives.
async fn viewers(lab: &Lab, count: usize) -> Vec<ReconnectingReader> {
    let viewers: Vec<_> = (0..count).map(|_| lab.plain_reader("cam1")).collect();
    for viewer in &viewers {
        let receives = async || if viewer.receives() { Ok(()) } else { Err("nothing") };
        wait_for("frames at a viewer", PATIENCE, receives).await.expect("frames");
    }
    viewers
}

/// Keys in Redis that end so.
async fn intents(lab: &Lab) -> Result<usize> {
    let mut connection = lab.redis.as_ref().expect("it has one").connect().await?;
    let keys: Vec<String> = redis::cmd("KEYS").arg("*:intent:distribution").query_async(&mut connection).await?;
    Ok(keys.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_cycles_of_growing_and_shrinking_by_an_operators_commands_cost_workers_no_frame() {
    let _alone = lab::alone().await;
    let each = PerCamera { workers: 2, controls: 1, viewers: 0 };
    let steady = 3;
    let by_commands = std::process::Command::new("curl").arg("--version").output().is_ok();
    if !by_commands {
        notes::skipped("the exec cloud on a whole fleet", "no curl for the commands of the test; driver local instead");
    }
    let cloud = CloudSettings { by_commands, ..cycles::cloud(steady) };
    let builder = Lab::builder().cameras([CameraKind::H264WithBFrames]).settings(cycles::settings()).cloud(cloud);
    let lab = builder.start().await.expect("a fleet");
    let audience = Audience::gather(&lab, each).await.expect("readers");
    let mut done = Vec::new();
    for number in 1..=2 {
        let cycle = cycles::run(&lab, &audience).await;
        done.push(cycle.unwrap_or_else(|error| panic!("cycle {number}: {error:#}")));
    }
    assert_eq!(intents(&lab).await.expect("Redis answers"), 0);
    let results = audience.finish().await.expect("comparable");
    notes::ran(&format!(
        "two cycles of a cluster by commands, on {}: {done:?}; plain readers lost {}",
        lab.server.kind,
        results.lost_by_control()
    ));
    assert_eq!(results.workers.len(), 2);
    assert_eq!(results.imperfect().collect::<Vec<_>>().len(), 0, "{:#?}", results.workers);
    assert!(results.lost_by_control() > 0, "a control that loses nothing proves nothing: {:#?}", results.control);
    let handovers = results.workers.iter().filter_map(|row| row.counters).map(|counters| counters.handovers);
    assert!(handovers.sum::<u64>() >= 2, "workers were on the nodes that went");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_of_the_load_reaches_the_cloud_a_second_after_its_window() {
    let _alone = lab::alone().await;
    let lab = lab_with(CloudSettings { max: 6, ..settings() }, Keeps::Nothing).await;
    // What is asked for is measured, so nothing need come of it.
    lab.cloud().expect("it has one").faults(&json!({ "launch_nothing": true })).await.expect("told");
    let mut crowd = viewers(&lab, 8).await;
    lab.distribution_leader().await.expect("elected");
    let mut late = Vec::new();
    for size in 3..=6 {
        let step: Vec<_> = (0..PER_NODE).map(|_| lab.plain_reader("cam1")).collect();
        let asked = cycles::asked_after(&lab, &step, size).await.expect("asked for");
        late.push(asked.saturating_sub(UP_WINDOW));
        crowd.extend(step);
    }
    late.sort();
    notes::ran(&format!("load step to cloud call, after its window of {UP_WINDOW:?}, four times: {late:.2?}"));
    // The longest is at the mercy of a busy machine; bench `load_step` has many.
    assert!(late[1] <= Duration::from_secs(1), "{late:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_orchestrator_was_about_to_ask_for_is_asked_for_once_by_its_successor() {
    let _alone = lab::alone().await;
    let lab = lab_with(settings(), Keeps::Nothing).await;
    let cloud = lab.cloud().expect("it has one");
    let leader = wait_for("a leader", CYCLE, async || lab.distribution_leader().await).await.expect("elected");
    // The cloud does not hear the call: as if the caller had died before it.
    cloud.faults(&json!({ "fail_desired": true })).await.expect("told");
    let crowd = viewers(&lab, 10).await;
    let intent = async || -> Result<()> {
        ensure!(intents(&lab).await? == 1, "none");
        Ok(())
    };
    wait_for("an intent", CYCLE, intent).await.expect("written");
    cloud.kill(&leader.id, "agent").expect("it runs");
    // What it wanted is not wanted any more, so that only the intent can be the reason.
    drop(crowd);
    cloud.faults(&json!({})).await.expect("told");
    let killed = Instant::now();
    wait_for("the successor to finish", CYCLE, async || -> Result<()> {
        let desired = cloud.group().await?.desired;
        ensure!(desired == 3, "{desired} are desired");
        ensure!(intents(&lab).await? == 0, "the intent stands");
        Ok(())
    })
    .await
    .expect("finished");
    notes::ran(&format!("an intent finished by a successor {:.1?} after the kill", killed.elapsed()));
    // And then, since nobody is there, it shrinks again: never more than three.
    let mut most = 0;
    wait_for("the least again", CYCLE, async || -> Result<()> {
        let group = cloud.group().await?;
        most = most.max(group.instances.len());
        ensure!(group.desired == 2 && group.instances.len() == 2, "{group:?}");
        Ok(())
    })
    .await
    .expect("it shrinks");
    assert_eq!(most, 3, "no double growth");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_nothing_shrinks_the_cluster_still_grows_and_all_catches_up_afterwards() {
    let _alone = lab::alone().await;
    let mut lab = lab_with(settings(), Keeps::Everything).await;
    let crowd = viewers(&lab, 10).await;
    lab.wait_cloud_nodes(3, CYCLE).await.expect("it grows");
    lab.redis.as_mut().expect("it has one").process.kill();
    drop(crowd);
    // Twice the window in which it would shrink.
    let until = Instant::now() + 2 * DOWN_WINDOW;
    while Instant::now() < until {
        let group = lab.cloud().expect("it has one").group().await.expect("it answers");
        assert_eq!((group.desired, group.instances.len()), (3, 3), "nothing shrinks without Redis");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let crowd = viewers(&lab, 14).await;
    lab.wait_cloud_nodes(4, CYCLE).await.expect("it grows without Redis");
    assert_eq!(lab.cloud().expect("it has one").group().await.expect("it answers").desired, 4);
    lab.redis.as_mut().expect("it has one").restart().await.expect("Redis is back");
    drop(crowd);
    let cloud = lab.cloud().expect("it has one");
    cloud.wait_size(2, 2 * CYCLE).await.expect("all catches up");
}
