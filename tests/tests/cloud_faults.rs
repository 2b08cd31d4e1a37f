//! A cloud that misbehaves in every way, and an orchestrator that is frozen meanwhile and comes back with its old plan.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::cloud::CloudSettings;
use mtxfleet_tests::lab::leadership::wait_reason;
use mtxfleet_tests::lab::node::Settings;
use mtxfleet_tests::lab::reader::ReconnectingReader;
use mtxfleet_tests::lab::redis::Keeps;
use mtxfleet_tests::lab::wait::{PATIENCE, wait_for};
use mtxfleet_tests::lab::{self, CLUSTER, Lab, programs};
use mtxfleet_tests::{notes, server_binary};
use mtxfleet_wire::{DecisionView, OrchestratorView, Role, StandingView};
use serde_json::json;

const ROLE: Role = Role::Distribution;
const WITHIN: Duration = Duration::from_secs(120);
const DOWN_WINDOW: Duration = Duration::from_secs(4);
const BOOT_DEADLINE: Duration = Duration::from_secs(8);

const FROZEN_FOR: Duration = Duration::from_secs(30);

/// A lease lasts 6 s; who follows it needs some of the machine's time.
const AFTER_FREEZE: Duration = Duration::from_secs(7);

/// Four a node: four nodes are wanted.
const READERS: usize = 13;
const WANTED: u32 = 4;

/// As the ingestion node sees it.
async fn orchestrator(lab: &Lab) -> Result<OrchestratorView> {
    lab.of_role(Role::Ingestion).next().context("one")?.agent.orchestrator(ROLE).await
}

async fn wait_group(lab: &Lab, desired: u32, instances: usize) {
    let what = format!("{instances} instances where {desired} are desired");
    let there = wait_for(what, WITHIN, async || -> Result<()> {
        let group = lab.cloud()?.group().await?;
        ensure!((group.desired, group.instances.len()) == (desired, instances), "{group:?}");
        Ok(())
    });
    there.await.expect("so it is");
}

/// What orchestrators wrote to the registry, oldest first.
async fn decided(lab: &Lab) -> Result<Vec<DecisionView>> {
    let mut connection = lab.redis.as_ref().context("it has one")?.connect().await?;
    let key = format!("mtxfleet:{{{CLUSTER}}}:decisions");
    let entries: redis::streams::StreamRangeReply =
        redis::cmd("XRANGE").arg(key).arg("-").arg("+").query_async(&mut connection).await?;
    let text = |entry: redis::streams::StreamId| entry.get::<String>("decision").context("without a decision");
    entries.ids.into_iter().map(|entry| Ok(serde_json::from_str(&text(entry)?)?)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloud_that_misbehaves_while_a_leader_is_frozen_is_asked_for_what_is_missing_and_all_ends_right() {
    let _alone = lab::alone().await;
    let settings = CloudSettings {
        max: 6,
        spare_slots: 4,
        policy: CloudSettings::policy(4, Duration::from_secs(1), DOWN_WINDOW),
        boot_deadline: BOOT_DEADLINE,
        ..CloudSettings::default()
    };
    let node = Settings {
        drain: "viewer_window = \"2s\"\nviewer_cut = \"1s\"\n".to_owned(),
        plain_readers_are_viewers: true,
        ..Settings::default()
    };
    let server = server_binary::find_stand_in().expect("built");
    let builder = Lab::builder().cameras([CameraKind::H264]).server(server).settings(node);
    let lab = builder.redis(Some(Keeps::Nothing)).cloud(settings).start().await.expect("a fleet");
    let cloud = lab.cloud().expect("it has one");
    let frozen = wait_for("a leader", PATIENCE, async || lab.distribution_leader().await).await.expect("elected");
    let planned = wait_for("a plan", PATIENCE, async || orchestrator(&lab).await?.plan.context("none"));
    let old_plan = planned.await.expect("planned").id;
    let nodes = lab.cloud_nodes().await.expect("listed");
    let other = nodes.into_iter().find(|node| node.id != frozen.id).expect("two");

    // Thirteen readers at a node that carries four, from a moment on in which the leader hangs and the cloud lists a half.
    // It will not end the instance that hangs either, so that this one comes back.
    let kept = json!({ "refuse_end": "it is needed", "refuse_end_of": frozen.instance });
    let and_kept = |faults: serde_json::Value| {
        let mut all = kept.clone();
        all.as_object_mut().expect("one").extend(faults.as_object().expect("one").clone());
        all
    };
    cloud.faults(&and_kept(json!({ "half_list": true }))).await.expect("told");
    cloud.signal_node(&frozen.id, libc::SIGSTOP).expect("it runs");
    let frozen_at = Instant::now();
    let crowd: Vec<_> =
        (0..READERS).map(|_| ReconnectingReader::start(&format!("rtsp://{}/cam1", other.rtsp))).collect();
    let acts = wait_for("another to act", PATIENCE, async || -> Result<Option<u64>> {
        let view = orchestrator(&lab).await?;
        let follows = view.leader.as_ref() == Some(&other.id) && view.epoch > Some(old_plan.epoch);
        ensure!(follows, "{:?} leads, epoch {:?}", view.leader, view.epoch);
        Ok(view.epoch)
    });
    let epoch = acts.await.expect("it acts");
    let followed = frozen_at.elapsed();
    assert!(followed <= AFTER_FREEZE, "another acted only after {followed:?}");

    // A part of a listing: nothing is asked for on it.
    wait_reason(&lab, ROLE, "does not say that these are all", WITHIN).await.expect("said");
    wait_reason(&lab, ROLE, "ask for 4 node(s)", WITHIN).await.expect("said");
    assert_eq!(cloud.said("told how many").expect("a log"), Vec::<String>::new());

    // It takes the number and launches nothing. It keeps the dead one, whose place is filled. Then it fails and throttles, too.
    cloud.faults(&and_kept(json!({ "launch_nothing": true }))).await.expect("told");
    wait_reason(&lab, ROLE, "it is needed", WITHIN).await.expect("said");
    wait_group(&lab, WANTED + 1, 2).await;
    cloud.faults(&and_kept(json!({ "fail": 2, "throttle": 1, "launch_nothing": true }))).await.expect("told");
    wait_reason(&lab, ROLE, "failed, as told", WITHIN).await.expect("said");
    wait_reason(&lab, ROLE, "too many calls, as told", WITHIN).await.expect("said");
    let why = "the cloud has 2 instances where 5 are desired, and has launched none";
    wait_reason(&lab, ROLE, why, WITHIN).await.expect("said");

    // It launches two for each.
    cloud.faults(&and_kept(json!({ "launch_twice": true }))).await.expect("told");
    wait_group(&lab, WANTED + 1, 8).await;
    cloud.faults(&kept).await.expect("told");
    wait_reason(&lab, ROLE, "instances where 5 are desired", WITHIN).await.expect("said");
    let told = cloud.said("told how many").expect("a log").len();
    assert!(told <= 3, "{told} calls for what was missing");

    // What the frozen one wanted is of a term that is over.
    while frozen_at.elapsed() < FROZEN_FOR {
        assert_eq!(orchestrator(&lab).await.expect("it answers").epoch, epoch, "one term, all along");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let frozen_for = frozen_at.elapsed();
    cloud.signal_node(&frozen.id, libc::SIGCONT).expect("it is there");
    wait_for("the one that was frozen to follow", PATIENCE, async || -> Result<()> {
        let view = frozen.api.orchestrator(ROLE).await?;
        // It may be the first that is drained.
        let follows = matches!(view.standing, StandingView::Following | StandingView::Idle);
        ensure!(follows && view.epoch == epoch, "{:?}, epoch {:?}: {}", view.standing, view.epoch, view.why);
        let plan = view.plan.context("it knows of one")?.id;
        ensure!(plan.epoch > old_plan.epoch, "it obeys {plan}");
        Ok(())
    })
    .await
    .expect("it follows");

    // Of the eight nodes that there were then four are wanted: what is too much is drained, one at a time.
    cloud.faults(&json!({})).await.expect("told");
    wait_group(&lab, WANTED, WANTED as usize).await;
    lab.wait_cloud_nodes(WANTED as usize, WITHIN).await.expect("all of them serve");
    let started = cloud.said("starting").expect("a log");
    assert_eq!(started.len(), 2 + 6, "three were missing, and the cloud launched each twice: {started:#?}");
    drop(crowd);

    // Every term had one orchestrator, and none was written to after the next.
    let decided = decided(&lab).await.expect("kept");
    for pair in decided.iter().filter(|decision| decision.role == ROLE).collect::<Vec<_>>().windows(2) {
        let in_order = pair[0].epoch < pair[1].epoch || (pair[0].epoch, &pair[0].by) == (pair[1].epoch, &pair[1].by);
        assert!(in_order, "{:#?}", pair);
    }
    let last = decided.last().expect("some");
    assert_eq!((&last.by, last.epoch), (&other.id, epoch), "one term, to the end");

    let shown = tokio::process::Command::new(programs::of_workspace("mtxfleet").expect("built"))
        .args(["decisions", "--role", "distribution", "--last", "200", "--agent", &lab.nodes[0].agent.url()])
        .output()
        .await
        .expect("it runs");
    let text = String::from_utf8_lossy(&shown.stdout);
    for part in ["does not say that these are all", "it is needed", "has launched none", "where 5 are desired"] {
        assert!(text.contains(part), "{part} in\n{text}{}", String::from_utf8_lossy(&shown.stderr));
    }
    notes::ran(&format!(
        "an orchestrator frozen for {:.0} s, and a cloud that misbehaves: another acts after {followed:.1?}",
        frozen_for.as_secs_f64()
    ));
}
