//! Machines that die, hang, break or never come up, and their replacement: on processes, through the local cloud.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtxfleet_leader::cloud::InstanceState;
use mtxfleet_tests::lab::audience::{Audience, PerCamera};
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::cloud::{CloudNode, CloudSettings};
use mtxfleet_tests::lab::node::Settings;
use mtxfleet_tests::lab::wait::wait_for;
use mtxfleet_tests::lab::{self, CLUSTER, Lab};
use mtxfleet_tests::notes;
use mtxfleet_tests::server_binary::ServerKind;
use mtxfleet_wire::{InstanceId, Liveness, NodeId, NodeRecord, NodeState, Role};

const NODES: u32 = 4;

/// Verdicts, a launch, and a machine that has other things to do.
const WITHIN: Duration = Duration::from_secs(120);

/// An instance whose agent has not spoken by then never will. Those of the test speak after three.
const BOOT_DEADLINE: Duration = Duration::from_secs(12);

/// As long as a node may stall.
const STALL: Duration = Duration::from_secs(1);

/// Frames that every worker gets after a crash.
const AT_REST: usize = 50;

async fn instances(lab: &Lab) -> Result<BTreeSet<InstanceId>> {
    Ok(lab.cloud()?.group().await?.present().map(|instance| instance.id.clone()).collect())
}

/// What the first ingestion node's agent sees.
async fn liveness(lab: &Lab, node: &NodeId) -> Result<Liveness> {
    let members = lab.of_role(Role::Ingestion).next().context("one")?.agent.fleet().await?.members;
    let member = members.into_iter().find(|member| member.node == *node);
    Ok(member.with_context(|| format!("{node} is forgotten"))?.liveness)
}

async fn state_in_registry(lab: &Lab, node: &NodeId) -> Result<NodeState> {
    let mut connection = lab.redis.as_ref().context("it has one")?.connect().await?;
    let key = format!("mtxfleet:{{{CLUSTER}}}:nodes");
    let record: String = redis::cmd("HGET").arg(key).arg(node.as_str()).query_async(&mut connection).await?;
    Ok(serde_json::from_str::<NodeRecord>(&record)?.state)
}

/// Waits until an orchestrator's decisions hold a reason with this in it.
async fn wait_reason(lab: &Lab, part: &str) -> Result<()> {
    wait_for(format!("a decision that says {part:?}"), WITHIN, async || -> Result<()> {
        let seen_by = &lab.of_role(Role::Ingestion).next().context("one")?.agent;
        let decisions = seen_by.orchestrator(Role::Distribution).await?.decisions;
        let said = decisions.iter().flat_map(|decision| &decision.reasons).any(|reason| reason.contains(part));
        ensure!(said, "{:#?}", decisions.last());
        Ok(())
    })
    .await
}

/// The node is dead to all, out of its balancer and of the registry, and its instance is gone.
async fn wait_replaced(lab: &Lab, node: &CloudNode) -> Result<Duration> {
    let began = Instant::now();
    wait_for(format!("{} to be dead", node.id), WITHIN, async || -> Result<()> {
        let seen = liveness(lab, &node.id).await?;
        ensure!(seen == Liveness::Dead, "{seen:?}");
        Ok(())
    })
    .await?;
    let dead = began.elapsed();
    wait_for(format!("{} to be offline and replaced", node.id), WITHIN, async || -> Result<()> {
        let state = state_in_registry(lab, &node.id).await?;
        ensure!(state == NodeState::Offline, "the registry has it {state}");
        let there = instances(lab).await?;
        ensure!(!there.contains(&node.instance), "{there:?}");
        Ok(())
    })
    .await?;
    Ok(dead)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_that_die_break_or_never_speak_are_each_replaced_by_one_and_a_stall_by_none() {
    let _alone = lab::alone().await;
    let cloud = CloudSettings {
        min: NODES,
        max: NODES + 2,
        policy: CloudSettings::policy(20, Duration::from_secs(1), Duration::from_secs(60)),
        restart: false,
        boot_deadline: BOOT_DEADLINE,
        ..CloudSettings::default()
    };
    let settings = Settings {
        plain_readers_are_viewers: true,
        // A command that helps nothing.
        mediamtx: "restart_command = [\"true\"]\nrestart_back_off = \"500ms\"\n".to_owned(),
        ..Settings::default()
    };
    let builder =
        Lab::builder().cameras([CameraKind::H264WithBFrames, CameraKind::H264]).settings(settings).cloud(cloud);
    let lab = builder.start().await.expect("a fleet");
    let cloud = lab.cloud().expect("it has one");
    let audience = Audience::gather(&lab, PerCamera { workers: 1, controls: 0, viewers: 0 }).await.expect("workers");
    let nodes = lab.wait_cloud_nodes(NODES as usize, WITHIN).await.expect("all serve");
    let leader = wait_for("a leader", WITHIN, async || lab.distribution_leader().await).await.expect("elected");
    let legs = lab.legs().await.expect("legs");
    let busy = |node: &CloudNode| legs.iter().find(|(id, _)| *id == node.id).map_or(0, |(_, legs)| *legs);
    let mut others: Vec<CloudNode> = nodes.into_iter().filter(|node| node.id != leader.id).collect();
    others.sort_by_key(busy);
    let [stalls, breaks, dies] = <[CloudNode; 3]>::try_from(others).expect("three beside the leader");
    let born = instances(&lab).await.expect("listed");

    // One breaks: its agent goes on, and what should start its server again helps nothing. Meanwhile another stalls.
    let broken_at = Instant::now();
    cloud.kill(&breaks.id, "server").expect("it runs");
    for _ in 0..3 {
        cloud.signal_node(&stalls.id, libc::SIGSTOP).expect("it runs");
        tokio::time::sleep(STALL).await;
        let seen = liveness(&lab, &stalls.id).await.expect("known");
        assert_ne!(seen, Liveness::Dead, "after a second");
        cloud.signal_node(&stalls.id, libc::SIGCONT).expect("it is there");
        wait_for("it to be alive again", WITHIN, async || -> Result<()> {
            let seen = liveness(&lab, &stalls.id).await?;
            ensure!(seen == Liveness::Alive, "{seen:?}");
            Ok(())
        })
        .await
        .expect("it goes on");
    }
    assert_eq!(instances(&lab).await.expect("listed"), born, "a stall ends nobody");

    // One dies, with its workers.
    cloud.signal_node(&dies.id, libc::SIGKILL).expect("it runs");
    let dead_after = wait_replaced(&lab, &dies).await.expect("replaced");
    wait_for("the broken one to be replaced", WITHIN, async || -> Result<()> {
        let there = instances(&lab).await?;
        ensure!(!there.contains(&breaks.instance), "{there:?}");
        Ok(())
    })
    .await
    .expect("replaced");
    let broken_for = broken_at.elapsed();
    lab.wait_cloud_nodes(NODES as usize, WITHIN).await.expect("two took their places");
    let there = instances(&lab).await.expect("listed");
    assert!(there.contains(&stalls.instance), "the one that stalled is still there");
    assert_eq!((there.len(), cloud.said("starting").expect("a log").len()), (NODES as usize, NODES as usize + 2));
    audience.wait_for_more(AT_REST, WITHIN).await.expect("frames at all workers");

    // The orchestrator dies, and what is launched in its place never speaks.
    cloud.launch_mute(true).expect("told");
    let before = instances(&lab).await.expect("listed");
    cloud.signal_node(&leader.id, libc::SIGKILL).expect("it runs");
    wait_replaced(&lab, &leader).await.expect("replaced");
    let mute = wait_for("an instance in its place", WITHIN, async || -> Result<InstanceId> {
        let group = cloud.group().await?;
        let mut new = group.instances.iter().filter(|i| i.state == InstanceState::InService && !before.contains(&i.id));
        Ok(new.next().context("none yet")?.id.clone())
    });
    let mute = mute.await.expect("launched");
    cloud.launch_mute(false).expect("told");
    wait_reason(&lab, &format!("{mute} is replaced: no agent speaks for it")).await.expect("said");
    wait_for("the one that never speaks to be replaced", WITHIN, async || -> Result<()> {
        let there = instances(&lab).await?;
        ensure!(!there.contains(&mute), "{there:?}");
        Ok(())
    })
    .await
    .expect("replaced");
    lab.wait_cloud_nodes(NODES as usize, WITHIN).await.expect("whole again");
    assert_eq!(cloud.said("starting").expect("a log").len(), NODES as usize + 4, "one for each, and none beside");
    assert_eq!(cloud.said("told how many").expect("a log"), Vec::<String>::new(), "nobody asked for more");
    assert_eq!(instances(&lab).await.expect("listed").len(), NODES as usize);

    audience.wait_for_more(AT_REST, WITHIN).await.expect("frames at all workers");
    let results = audience.finish().await.expect("comparable");
    notes::ran(&format!(
        "machines replaced, on {}: dead {dead_after:.1?} after SIGKILL; a broken one replaced after {broken_for:.1?}",
        lab.server.kind
    ));
    match lab.server.kind {
        ServerKind::Real { .. } => {
            assert_eq!(results.imperfect().collect::<Vec<_>>().len(), 0, "{:#?}", results.workers);
            let counters = results.workers.iter().filter_map(|worker| worker.counters);
            assert!(counters.map(|c| c.replayed).sum::<u64>() > 0, "no crash met a worker: {:#?}", results.workers);
        }
        // It records nothing, so what passed in a crash is lost, and told.
        ServerKind::StandIn => {
            notes::skipped("workers' frames through replacements", "the stand-in records nothing");
            let told = results.imperfect().all(|worker| !worker.discontinuities.is_empty());
            assert!(told, "{:#?}", results.workers);
        }
    }
}
