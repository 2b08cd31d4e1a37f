//! A fleet that grows and shrinks by itself through the local cloud.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mtxfleet_tests::lab::audience::{Audience, PerCamera};
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::cloud::CloudSettings;
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
async fn a_cluster_grows_with_its_readers_and_shrinks_without_a_frame_lost_by_a_worker() {
    let _alone = lab::alone().await;
    let lab = lab_with(CloudSettings { max: 3, ..settings() }, Keeps::Nothing).await;
    let cloud = lab.cloud().expect("it has one");
    cloud.wait_size(2, PATIENCE).await.expect("the least");
    let audience = Audience::gather(&lab, PerCamera { workers: 3, controls: 0, viewers: 0 }).await.expect("workers");

    let load_step = Instant::now();
    let crowd = viewers(&lab, 7).await;
    let asked = wait_for("a third instance to be asked for", CYCLE, async || -> Result<Duration> {
        let group = cloud.group().await?;
        ensure!(group.desired == 3, "{group:?}");
        Ok(load_step.elapsed())
    });
    let asked = asked.await.expect("asked for");
    let nodes = lab.wait_cloud_nodes(3, CYCLE).await.expect("it joins");
    notes::ran(&format!("load step to cloud call {asked:.1?}, to the new node in service {:.1?}", load_step.elapsed()));

    let newest = nodes.iter().max_by_key(|node| node.id.to_string()).expect("three");
    // HAProxy sends it readers; with one camera, whose place on the hash is another's, it fills the others first.
    let reader = ReconnectingReader::start(&format!("rtsp://{}/cam1", newest.rtsp));
    let receives = async || if reader.receives() { Ok(()) } else { Err("nothing") };
    wait_for("frames from the new node", PATIENCE, receives).await.expect("it serves");

    // The node with the most workers is the only one that may go.
    let (busiest, legs) = lab.legs().await.expect("legs").swap_remove(0);
    assert!(legs > 0, "the workers are somewhere");
    for node in nodes.iter().filter(|node| node.id != busiest) {
        node.api.protect(true).await.expect("protected");
    }
    drop((crowd, reader));
    cloud.wait_size(2, CYCLE).await.expect("it shrinks to the least");
    let left = lab.wait_cloud_nodes(2, CYCLE).await.expect("two are left");
    assert!(left.iter().all(|node| node.id != busiest), "the one that was free to go went");
    audience.wait_for_more(50, CYCLE).await.expect("frames at all workers");
    let results = audience.finish().await.expect("comparable");
    assert_eq!(results.workers.len(), 3);
    assert_eq!(results.imperfect().collect::<Vec<_>>().len(), 0, "{:?}", results.workers);
    assert_eq!(intents(&lab).await.expect("Redis answers"), 0);
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
