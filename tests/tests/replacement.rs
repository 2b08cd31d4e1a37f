//! Machines that die, hang, break or never come up, and their replacement: on processes, through the local cloud.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtxfleet_tests::lab::audience::{Audience, PerCamera};
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::cloud::{self, CloudNode, CloudSettings};
use mtxfleet_tests::lab::leadership::wait_reason;
use mtxfleet_tests::lab::node::Settings;
use mtxfleet_tests::lab::reader::ReconnectingReader;
use mtxfleet_tests::lab::wait::wait_for;
use mtxfleet_tests::lab::{self, CLUSTER, Lab};
use mtxfleet_tests::notes;
use mtxfleet_tests::server_binary::ServerKind;
use mtxfleet_wire::{Ill, InstanceId, Liveness, NodeId, NodeRecord, NodeState, Role};

const ROLE: Role = Role::Distribution;

/// The orchestrator, and one for each fate; a stall, and streams that deliver nothing, come over the same.
const NODES: u32 = 5;

/// Verdicts, a launch, and a machine that has other things to do.
const WITHIN: Duration = Duration::from_secs(120);

/// An instance whose agent has not spoken by then never will. Those of the test speak after three.
const BOOT_DEADLINE: Duration = Duration::from_secs(15);

/// As long as a node may stall.
const STALL: Duration = Duration::from_secs(1);

/// Frames that every worker gets after a crash.
const AT_REST: usize = 50;

/// A command that helps nothing, and little patience.
const LITTLE_PATIENCE: &str = "restart_command = [\"true\"]\nrestart_back_off = \"200ms\"\ndisk_patience = \"1s\"\n";

fn settings() -> CloudSettings {
    CloudSettings {
        min: NODES,
        max: NODES + 2,
        policy: CloudSettings::policy(20, Duration::from_secs(1), Duration::from_secs(60)),
        restart: false,
        boot_deadline: BOOT_DEADLINE,
        small_disk: cloud::can_mount(),
        replace_at_most: 10,
        ..CloudSettings::default()
    }
}

async fn instances(lab: &Lab) -> Result<BTreeSet<InstanceId>> {
    Ok(lab.cloud()?.group().await?.present().map(|instance| instance.id.clone()).collect())
}

/// What the first ingestion node's agent sees.
async fn liveness(lab: &Lab, node: &NodeId) -> Result<Liveness> {
    let members = lab.of_role(Role::Ingestion).next().context("one")?.agent.fleet().await?.members;
    let member = members.into_iter().find(|member| member.node == *node);
    Ok(member.with_context(|| format!("{node} is forgotten"))?.liveness)
}

async fn wait_liveness(lab: &Lab, node: &NodeId, wanted: Liveness) -> Result<()> {
    wait_for(format!("{node} to be {wanted:?}"), WITHIN, async || -> Result<()> {
        let seen = liveness(lab, node).await?;
        ensure!(seen == wanted, "{seen:?}");
        Ok(())
    })
    .await
}

async fn state_in_registry(lab: &Lab, node: &NodeId) -> Result<NodeState> {
    let mut connection = lab.redis.as_ref().context("it has one")?.connect().await?;
    let key = format!("mtxfleet:{{{CLUSTER}}}:nodes");
    let record: String = redis::cmd("HGET").arg(key).arg(node.as_str()).query_async(&mut connection).await?;
    Ok(serde_json::from_str::<NodeRecord>(&record)?.state)
}

async fn wait_gone(lab: &Lab, instance: &InstanceId) -> Result<()> {
    wait_for(format!("{instance} to be replaced"), WITHIN, async || -> Result<()> {
        let there = instances(lab).await?;
        ensure!(!there.contains(instance), "{there:?}");
        Ok(())
    })
    .await
}

/// The node is dead to all, `offline` in the registry, out of its balancer, and its instance is gone.
async fn wait_dead_and_replaced(lab: &Lab, node: &CloudNode) -> Result<Duration> {
    let began = Instant::now();
    let slot = lab.cloud()?.slot_of(node)?;
    wait_liveness(lab, &node.id, Liveness::Dead).await?;
    let dead = began.elapsed();
    wait_for(format!("{} to be offline", node.id), WITHIN, async || -> Result<()> {
        let state = state_in_registry(lab, &node.id).await?;
        ensure!(state == NodeState::Offline, "the registry has it {state}");
        let balanced = lab.balancer.statistics().reader_backend(&slot).await?.status;
        ensure!(!balanced.starts_with("UP"), "its balancer has it {balanced}");
        Ok(())
    })
    .await?;
    wait_gone(lab, &node.instance).await?;
    Ok(dead)
}

/// The node says that it is idle because of this, and is replaced for it.
async fn wait_broken_and_replaced(lab: &Lab, node: &CloudNode, ill: Ill) -> Result<Duration> {
    let began = Instant::now();
    wait_for(format!("{} to say {ill:?}", node.id), WITHIN, async || -> Result<()> {
        let members = lab.of_role(Role::Ingestion).next().context("one")?.agent.fleet().await?.members;
        let member = members.into_iter().find(|member| member.node == node.id);
        let load = member.and_then(|member| member.load).context("it says nothing")?;
        let ills = load.health.as_ref().map(|health| health.ills.clone()).unwrap_or_default();
        ensure!(ills.contains(&ill) && load.is_broken(), "{ills:?}");
        Ok(())
    })
    .await?;
    let why = format!("{} is replaced: {} asks to be replaced ({}", node.instance, node.id, ill.as_str());
    wait_reason(lab, ROLE, &why, WITHIN).await?;
    wait_gone(lab, &node.instance).await?;
    Ok(began.elapsed())
}

/// Twice for a second each, while all else goes on.
async fn stall(lab: &Lab, node: &CloudNode) -> Result<()> {
    for _ in 0..2 {
        lab.cloud()?.signal_node(&node.id, libc::SIGSTOP)?;
        tokio::time::sleep(STALL).await;
        let seen = liveness(lab, &node.id).await?;
        lab.cloud()?.signal_node(&node.id, libc::SIGCONT)?;
        ensure!(seen != Liveness::Dead, "after a second");
        wait_liveness(lab, &node.id, Liveness::Alive).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_that_die_break_or_never_speak_are_each_replaced_by_one_and_a_stall_by_none() {
    let _alone = lab::alone().await;
    let settings = settings();
    let has_disk = settings.small_disk;
    let node =
        Settings { plain_readers_are_viewers: true, mediamtx: LITTLE_PATIENCE.to_owned(), ..Settings::default() };
    let builder = Lab::builder().cameras([CameraKind::H264WithBFrames, CameraKind::H264]).settings(node);
    let lab = builder.cloud(settings).start().await.expect("a fleet");
    let cloud = lab.cloud().expect("it has one");
    let audience = Audience::gather(&lab, PerCamera { workers: 1, controls: 0, viewers: 0 }).await.expect("workers");
    let nodes = lab.wait_cloud_nodes(NODES as usize, WITHIN).await.expect("all serve");
    let leader = wait_for("a leader", WITHIN, async || lab.distribution_leader().await).await.expect("elected");
    let legs = lab.legs().await.expect("legs");
    let busy = |node: &CloudNode| legs.iter().find(|(id, _)| *id == node.id).map_or(0, |(_, legs)| *legs);
    let mut others: Vec<CloudNode> = nodes.into_iter().filter(|node| node.id != leader.id).collect();
    others.sort_by_key(busy);
    let [stalls, fills, breaks, dies] = <[CloudNode; 4]>::try_from(others).expect("four beside the leader");
    let born = instances(&lab).await.expect("listed");
    let mut replaced = 0;

    // Two break while their agents go on: what should start a server again helps nothing. Meanwhile another stalls.
    cloud.kill(&breaks.id, "server").expect("it runs");
    if has_disk {
        cloud.fill_disk(&fills.id).expect("filled");
    } else {
        notes::skipped("a node whose disk is full, on processes", "this process may not mount");
    }
    stall(&lab, &stalls).await.expect("it goes on");
    assert_eq!(instances(&lab).await.expect("listed"), born, "a stall ends nobody");

    // One dies, with its workers. The first that is launched in anybody's place never speaks.
    cloud.launch_mute().expect("told");
    cloud.signal_node(&dies.id, libc::SIGKILL).expect("it runs");
    let still = lab.server.kind == ServerKind::StandIn;
    let reader = ReconnectingReader::start(&format!("rtsp://{}/cam1", stalls.rtsp));
    if still {
        let receives = async || if reader.receives() { Ok(()) } else { Err("nothing") };
        wait_for("frames where they will stand still", WITHIN, receives).await.expect("frames");
        cloud.still(&stalls.id).expect("it runs");
    } else {
        notes::skipped("streams that deliver nothing, on processes", "MediaMTX cannot be told to; the stand-in can");
    }
    let (dead, broken, full) = tokio::join!(
        wait_dead_and_replaced(&lab, &dies),
        wait_broken_and_replaced(&lab, &breaks, Ill::Server),
        async { if has_disk { wait_broken_and_replaced(&lab, &fills, Ill::Disk).await } else { Ok(Duration::ZERO) } }
    );
    let (dead, broken, full) = (dead.expect("replaced"), broken.expect("replaced"), full.expect("replaced"));
    replaced += 2 + usize::from(has_disk);
    assert!(instances(&lab).await.expect("listed").contains(&stalls.instance), "the one that stalled is still there");

    // The orchestrator dies: its successor replaces it, and the one that never spoke.
    cloud.signal_node(&leader.id, libc::SIGKILL).expect("it runs");
    wait_dead_and_replaced(&lab, &leader).await.expect("replaced by its successor");
    let mute = wait_reason(&lab, ROLE, "is replaced: no agent speaks for it", WITHIN).await.expect("said");
    let mute = mute.split(' ').next().and_then(|id| InstanceId::new(id).ok()).expect("it begins with the instance");
    wait_gone(&lab, &mute).await.expect("replaced");
    replaced += 2;
    if still {
        wait_broken_and_replaced(&lab, &stalls, Ill::Streams).await.expect("replaced");
        replaced += 1;
    }

    lab.wait_cloud_nodes(NODES as usize, WITHIN).await.expect("whole again");
    wait_for("the size that is wanted", WITHIN, async || -> Result<()> {
        let group = cloud.group().await?;
        ensure!((group.desired, group.instances.len()) == (NODES, NODES as usize), "{group:?}");
        Ok(())
    })
    .await
    .expect("and no more");
    let started = cloud.said("starting").expect("a log");
    assert_eq!(started.len(), NODES as usize + replaced, "one for each, and none beside: {started:#?}");

    audience.wait_for_more(AT_REST, WITHIN).await.expect("frames at all workers");
    let results = audience.finish().await.expect("comparable");
    notes::ran(&format!(
        "machines replaced, on {}: dead {dead:.1?} after SIGKILL; replaced after {broken:.1?} without a server, {full:.1?} \
         with a full disk",
        lab.server.kind
    ));
    assert_eq!(results.imperfect().collect::<Vec<_>>().len(), 0, "{:#?}", results.workers);
    let counters = results.workers.iter().filter_map(|worker| worker.counters);
    assert!(counters.map(|c| c.replayed).sum::<u64>() > 0, "no crash met a worker: {:#?}", results.workers);
}
