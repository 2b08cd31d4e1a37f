//! Orchestrators on a whole fleet: killed, stopped, drained, frozen, and without Redis.

use std::time::Duration;

use mtxfleet_tests::lab::leadership::{self, Leader, wait_leader};
use mtxfleet_tests::lab::redis::Keeps;
use mtxfleet_tests::lab::wait::{PATIENCE, wait_for};
use mtxfleet_tests::lab::{self, Lab};
use mtxfleet_tests::{notes, server_binary};
use mtxfleet_wire::{
    DrainOrder, Liveness, LoadReport, MemberView, NodeId, NodeState, Role, ServerHealth, StandingView,
};

const ROLE: Role = Role::Distribution;
/// A lease lasts 6 s; who follows it needs some of the machine's time.
const AFTER_KILL: Duration = Duration::from_secs(7);
/// A lease that was not given back lives for 4.5 s at least: sooner than that is a release.
const AFTER_RELEASE: Duration = Duration::from_secs(3);

async fn fleet(keeps: Keeps) -> Lab {
    let server = server_binary::find_stand_in().expect("built");
    Lab::builder().server(server).settings(leadership::settings()).redis(Some(keeps)).start().await.expect("a fleet")
}

async fn first_leader(lab: &Lab) -> Leader {
    wait_leader(lab, ROLE, None, PATIENCE).await.expect("one acts").0
}

/// All that answer name the same orchestrator, with the same epoch.
async fn all_follow(lab: &Lab, leader: &Leader) {
    wait_for(format!("all to follow {leader:?}"), PATIENCE, async || -> anyhow::Result<()> {
        for node in &lab.nodes {
            let view = leadership::view(node, ROLE).await?;
            let follows = view.leader.as_ref() == Some(&leader.node) && view.epoch == Some(leader.epoch);
            anyhow::ensure!(follows, "{} sees {:?}, epoch {:?}", node.id, view.leader, view.epoch);
            let acts = view.standing == StandingView::Acting;
            anyhow::ensure!(acts == (node.id == leader.node), "{} is {:?}", node.id, view.standing);
        }
        Ok(())
    })
    .await
    .expect("they do");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orchestrator_that_is_killed_stopped_or_drained_is_followed_by_another() {
    let _alone = lab::alone().await;
    let mut lab = fleet(Keeps::Everything).await;
    let first = first_leader(&lab).await;
    all_follow(&lab, &first).await;

    lab.node_mut(&first.node).expect("there").agent.process.kill();
    let (second, killed) = wait_leader(&lab, ROLE, Some(&first), PATIENCE).await.expect("another acts");
    assert!(killed <= AFTER_KILL, "after SIGKILL another acted only after {killed:?}");
    lab.node_mut(&first.node).expect("there").restart_agent().await.expect("it is back");
    all_follow(&lab, &second).await;

    // Stopped, as for an upgrade.
    let began = std::time::Instant::now();
    lab.node_mut(&second.node).expect("there").agent.process.signal(libc::SIGTERM);
    let (third, _) = wait_leader(&lab, ROLE, Some(&second), PATIENCE).await.expect("another acts");
    let stopped = began.elapsed();
    assert!(stopped <= AFTER_RELEASE, "after SIGTERM another acted only after {stopped:?}");
    let node = lab.node_mut(&second.node).expect("there");
    node.agent.process.stop();
    node.restart_agent().await.expect("it is back");
    all_follow(&lab, &third).await;

    let agent = &lab.node(&third.node).expect("there").agent;
    wait_for("the restarted nodes to serve", PATIENCE, async || -> anyhow::Result<()> {
        let members = agent.fleet().await?.members;
        let serves = |member: &&MemberView| {
            let up = |load: &LoadReport| load.state == NodeState::Active && load.server == ServerHealth::Up;
            member.liveness == Liveness::Alive && member.load.as_ref().is_some_and(up)
        };
        let serving = members.iter().filter(serves).count();
        anyhow::ensure!(serving == lab.nodes.len(), "{serving} serve");
        Ok(())
    })
    .await
    .expect("they do");
    let began = std::time::Instant::now();
    agent.drain(&DrainOrder::default()).await.expect("answered").expect("it begins");
    let (fourth, _) = wait_leader(&lab, ROLE, Some(&third), PATIENCE).await.expect("another acts");
    let drained = began.elapsed();
    assert!(drained <= AFTER_RELEASE, "after a drain began another acted only after {drained:?}");
    assert!(fourth.epoch > third.epoch);
    notes::ran(&format!(
        "orchestrator killed: another acts after {:.1} s; stopped: {:.1} s; drained: {:.1} s",
        killed.as_secs_f64(),
        stopped.as_secs_f64(),
        drained.as_secs_f64()
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orchestrator_that_was_frozen_follows_when_it_goes_on() {
    let _alone = lab::alone().await;
    let mut lab = fleet(Keeps::Everything).await;
    let frozen = first_leader(&lab).await;
    lab.node_mut(&frozen.node).expect("there").agent.process.freeze();
    let (next, _) = wait_leader(&lab, ROLE, Some(&frozen), PATIENCE).await.expect("another acts");
    lab.node_mut(&frozen.node).expect("there").agent.process.thaw();
    all_follow(&lab, &next).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_nobody_acts_and_when_it_is_back_empty_the_next_term_is_above_all_that_were() {
    let _alone = lab::alone().await;
    let mut lab = fleet(Keeps::Nothing).await;
    let before = first_leader(&lab).await;
    all_follow(&lab, &before).await;
    lab.redis.as_mut().expect("there").process.kill();
    // The first by name may let the cluster grow, nobody else may do anything.
    wait_for("one to let grow and the others nothing", PATIENCE, async || -> anyhow::Result<()> {
        for node in lab.of_role(ROLE) {
            let view = leadership::view(node, ROLE).await?;
            let first = node.id == NodeId::new("dist-1")?;
            let wanted = if first { StandingView::GrowOnly } else { StandingView::Idle };
            anyhow::ensure!(view.standing == wanted, "{} is {:?}: {}", node.id, view.standing, view.why);
        }
        Ok(())
    })
    .await
    .expect("they are");
    lab.redis.as_mut().expect("there").restart().await.expect("it is back, and empty");
    let (after, _) = wait_leader(&lab, ROLE, None, PATIENCE).await.expect("one acts");
    assert!(after.epoch > before.epoch, "{after:?} follows {before:?}");
    all_follow(&lab, &after).await;
}
