//! A cloud that misbehaves, and an orchestrator that is frozen meanwhile and comes back with its old plan.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::cloud::CloudSettings;
use mtxfleet_tests::lab::leadership::{self, wait_leader};
use mtxfleet_tests::lab::node::Settings;
use mtxfleet_tests::lab::reader::ReconnectingReader;
use mtxfleet_tests::lab::redis::Keeps;
use mtxfleet_tests::lab::wait::{PATIENCE, wait_for};
use mtxfleet_tests::lab::{self, Lab, programs};
use mtxfleet_tests::{notes, server_binary};
use mtxfleet_wire::{Liveness, MemberView, NodeId, OrchestratorView, Role, StandingView};
use serde_json::json;

const ROLE: Role = Role::Distribution;
const WITHIN: Duration = Duration::from_secs(90);
const DOWN_WINDOW: Duration = Duration::from_secs(5);
const BOOT_DEADLINE: Duration = Duration::from_secs(8);

const FROZEN_FOR: Duration = Duration::from_secs(30);

/// A lease lasts 6 s; who follows it needs some of the machine's time.
const AFTER_FREEZE: Duration = Duration::from_secs(7);

async fn orchestrator(lab: &Lab) -> Result<OrchestratorView> {
    lab.of_role(Role::Ingestion).next().context("one")?.agent.orchestrator(ROLE).await
}

/// Waits until a decision gives this as a reason; until then the cloud's group is as `holds` says. (Without it the cloud is
/// not asked: its failures are for the fleet.)
async fn wait_reason(lab: &Lab, part: &str, holds: Option<(u32, usize)>) {
    let said = wait_for(format!("a decision that says {part:?}"), WITHIN, async || -> Result<()> {
        if let Some(holds) = holds {
            let group = lab.cloud()?.group().await?;
            assert_eq!((group.desired, group.instances.len()), holds, "while waiting for {part:?}");
        }
        let decisions = orchestrator(lab).await?.decisions;
        let said = decisions.iter().flat_map(|decision| &decision.reasons).any(|reason| reason.contains(part));
        ensure!(said, "{:#?}", decisions.last());
        Ok(())
    });
    said.await.expect("said");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloud_that_misbehaves_while_a_leader_is_frozen_is_asked_once_for_what_is_missing() {
    let _alone = lab::alone().await;
    let cloud = CloudSettings {
        min: 2,
        group_min: Some(2),
        max: 6,
        spare_slots: 4,
        policy: CloudSettings::policy(4, Duration::from_secs(1), DOWN_WINDOW),
        nodes: "elastic-{n}",
        boot_deadline: BOOT_DEADLINE,
        launch_delay: Duration::from_secs(2),
        ..CloudSettings::default()
    };
    // The first leader is of no cloud, so that nobody ends it while it is frozen: it says an instance that was detached.
    let settings = Settings {
        drain: "viewer_window = \"2s\"\nviewer_cut = \"1s\"\n".to_owned(),
        plain_readers_are_viewers: true,
        instance: Some("i-detached".to_owned()),
        ..Settings::default()
    };
    let server = server_binary::find_stand_in().expect("built");
    let builder = Lab::builder().cameras([CameraKind::H264]).server(server).settings(settings);
    let builder = builder.redis(Some(Keeps::Nothing)).cloud(cloud).distribution(1);
    let mut lab = builder.start().await.expect("a fleet");
    let (first, _) = wait_leader(&lab, ROLE, None, PATIENCE).await.expect("it leads, being there first");
    wait_reason(&lab, "the instance of dist-1 is not in the cloud's group", Some((2, 2))).await;
    let old_plan = wait_for("a plan", PATIENCE, async || orchestrator(&lab).await?.plan.context("none")).await;
    let old_plan = old_plan.expect("planned");
    let elastic = lab.cloud_nodes().await.expect("listed").into_iter().find(|node| node.id.as_str() == "elastic-1");
    let rtsp = elastic.expect("one of the cloud").rtsp;

    // Thirteen readers at a node that carries four, from a moment on in which the leader hangs and the cloud lists a half.
    lab.cloud().expect("it has one").faults(&json!({ "half_list": true })).await.expect("told");
    lab.node_mut(&NodeId::new("dist-1").expect("valid")).expect("there").agent.process.freeze();
    let frozen_at = Instant::now();
    let crowd: Vec<_> = (0..13).map(|_| ReconnectingReader::start(&format!("rtsp://{rtsp}/cam1"))).collect();
    let acts = wait_for("another to act", PATIENCE, async || -> Result<OrchestratorView> {
        let view = orchestrator(&lab).await?;
        let follows = view.leader.as_ref().is_some_and(|leader| leader.as_str().starts_with("elastic-"));
        ensure!(follows && view.epoch > Some(first.epoch), "{:?} leads, epoch {:?}", view.leader, view.epoch);
        Ok(view)
    });
    let epoch = acts.await.expect("it acts").epoch;
    let followed = frozen_at.elapsed();
    assert!(followed <= AFTER_FREEZE, "another acted only after {followed:?}");

    // A part of a listing: nothing is asked for on it.
    wait_reason_of_half(&lab, &first.node).await;
    let cloud = lab.cloud().expect("it has one");
    assert_eq!(cloud.said("told how many").expect("a log"), Vec::<String>::new());

    // It fails and throttles, and then takes the number and launches nothing.
    let faults = json!({ "fail": 2, "throttle": 1, "launch_nothing": true });
    cloud.faults(&faults).await.expect("told");
    wait_reason(&lab, "failed, as told", None).await;
    wait_reason(&lab, "too many calls, as told", None).await;
    wait_for("four to be desired", WITHIN, async || -> Result<()> {
        let group = cloud.group().await?;
        ensure!(group.desired == 4, "{}", group.desired);
        Ok(())
    })
    .await
    .expect("asked for");
    wait_reason(&lab, "the cloud has 2 instances where 4 are desired, and has launched none", Some((4, 2))).await;

    // It launches two for each.
    cloud.faults(&json!({ "launch_twice": true })).await.expect("told");
    wait_for("six instances", WITHIN, async || -> Result<()> {
        let group = cloud.group().await?;
        ensure!(group.instances.len() == 6, "{}", group.instances.len());
        Ok(())
    })
    .await
    .expect("launched");
    cloud.faults(&json!({})).await.expect("told");
    wait_reason(&lab, "the cloud has 6 instances where 4 are desired", Some((4, 6))).await;

    // What the frozen one wanted is of a term that is over.
    while frozen_at.elapsed() < FROZEN_FOR {
        assert_eq!(orchestrator(&lab).await.expect("it answers").epoch, epoch, "one term, all along");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    lab.node_mut(&NodeId::new("dist-1").expect("valid")).expect("there").agent.process.thaw();
    wait_for("the one that was frozen to follow", PATIENCE, async || -> Result<()> {
        let node = lab.node(&first.node)?;
        let view = leadership::view(node, ROLE).await?;
        // It may be the first that is drained.
        let follows = matches!(view.standing, StandingView::Following | StandingView::Idle);
        ensure!(follows && view.epoch == epoch, "{:?}, epoch {:?}: {}", view.standing, view.epoch, view.why);
        let plan = view.plan.context("it knows of one")?.id;
        ensure!(plan.epoch > old_plan.id.epoch, "it obeys {plan}");
        Ok(())
    })
    .await
    .expect("it follows");
    let cloud = lab.cloud().expect("it has one");
    // Of the seven nodes that there are then four are wanted: what is too much is drained, one at a time.
    wait_for("what is too much to go", WITHIN, async || -> Result<()> {
        let present = cloud.present().await?;
        ensure!(present == 4, "{present} are left");
        Ok(())
    })
    .await
    .expect("drained");
    let told = cloud.said("told how many").expect("a log");
    assert_eq!(told.len(), 1, "{told:?}");
    drop(crowd);

    let shown = tokio::process::Command::new(programs::of_workspace("mtxfleet").expect("built"))
        .args(["decisions", "--role", "distribution", "--last", "200", "--agent", &lab.nodes[0].agent.url()])
        .output()
        .await
        .expect("it runs");
    let text = String::from_utf8_lossy(&shown.stdout);
    for part in ["does not say that these are all", "has launched none", "the cloud has 6 instances"] {
        assert!(text.contains(part), "{part} in\n{text}{}", String::from_utf8_lossy(&shown.stderr));
    }
    notes::ran(&format!("leader frozen for {FROZEN_FOR:?}: another acts after {followed:.1?}; the cloud told once"));
}

/// The listing of the test itself is halved too, so only what is desired is seen.
async fn wait_reason_of_half(lab: &Lab, frozen: &NodeId) {
    let said = wait_for("a decision on half a listing", WITHIN, async || -> Result<()> {
        assert_eq!(lab.cloud()?.group().await?.desired, 2, "nothing is asked for on a part of a listing");
        let decisions = orchestrator(lab).await?.decisions;
        let said = decisions.iter().any(|decision| {
            let said = |part: &str| decision.reasons.iter().any(|reason| reason.contains(part));
            said("does not say that these are all") && said("ask for 4 node(s)")
        });
        ensure!(said, "{:#?}", decisions.last());
        let seen_by = &lab.of_role(Role::Ingestion).next().context("one")?.agent;
        let dead = |member: &MemberView| member.node == *frozen && member.liveness == Liveness::Dead;
        ensure!(seen_by.fleet().await?.members.iter().any(dead), "{frozen} is not dead yet");
        Ok(())
    });
    said.await.expect("said");
}
