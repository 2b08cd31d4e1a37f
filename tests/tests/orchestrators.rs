//! The elected orchestrator of a whole fleet: it tries, it is held, it drains nodes, it puts one back.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtxfleet_tests::lab::audience::{Audience, PerCamera};
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::node::Settings;
use mtxfleet_tests::lab::reader::ReconnectingReader;
use mtxfleet_tests::lab::wait::{PATIENCE, wait_for};
use mtxfleet_tests::lab::{self, Lab, programs};
use mtxfleet_tests::notes;
use mtxfleet_wire::{
    DecisionEffect, DecisionView, DrainOutcome, DrainRecord, NodeId, NodeState, OrchestratorView, OutcomeView, Role,
};

/// Windows, a drain with its viewers, and a machine that is shared.
const SOON: Duration = Duration::from_secs(90);

/// Four readers a node: the eight of the test ask for two nodes of the four. Viewers are given the time in which load
/// returns.
fn settings() -> Settings {
    let more = "\
[orchestrator]
enabled = true
dry_run = true
[distribution]
readers_per_node = 4
up_window = \"1s\"
down_window = \"4s\"
headroom = 0
spare = 0
gain = 0
cpu_limit = 0
";
    Settings {
        drain: "viewer_window = \"25s\"\nviewer_cut = \"5s\"\n".to_owned(),
        plain_readers_are_viewers: true,
        more: more.to_owned(),
        ..Settings::default()
    }
}

/// As the first node that answers sees it.
async fn orchestrator(lab: &Lab) -> Result<OrchestratorView> {
    lab.nodes[0].agent.orchestrator(Role::Distribution).await
}

async fn wait_decided(lab: &Lab, what: &str, is_it: impl Fn(&DecisionView) -> bool) -> Result<DecisionView> {
    let mut found = None;
    wait_for(format!("a decision: {what}"), SOON, async || -> Result<()> {
        let view = orchestrator(lab).await?;
        found = view.decisions.iter().rev().find(|decision| is_it(decision)).cloned();
        ensure!(found.is_some(), "{view:#?}");
        Ok(())
    })
    .await?;
    found.context("found")
}

/// Distribution nodes by state, as they say themselves.
async fn in_state(lab: &Lab, state: NodeState) -> Result<Vec<NodeId>> {
    let mut found = Vec::new();
    for node in lab.of_role(Role::Distribution) {
        let load = node.agent.member().await?.load.context("it says its load")?;
        if load.state == state {
            found.push(node.id.clone());
        }
    }
    Ok(found)
}

async fn wait_drained(lab: &Lab, nodes: usize) -> Result<Vec<DrainRecord>> {
    wait_for(format!("{nodes} drained node(s)"), SOON, async || -> Result<()> {
        let offline = in_state(lab, NodeState::Offline).await?;
        ensure!(offline.len() == nodes, "{offline:?}; {:#?}", orchestrator(lab).await?.decisions.last());
        Ok(())
    })
    .await?;
    let mut records = Vec::new();
    for node in in_state(lab, NodeState::Offline).await? {
        let view = lab.node(&node)?.agent.drain_view().await?.context("it drained")?;
        records.push(view.record.context("it ended")?);
    }
    Ok(records)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_elected_node_tries_is_held_then_drains_nodes_and_puts_one_back_when_load_returns() {
    let _alone = lab::alone().await;
    let builder = Lab::builder().distribution(4).cameras([CameraKind::H264]).settings(settings());
    let mut lab = builder.start().await.expect("a fleet");
    let audience = Audience::gather(&lab, PerCamera { workers: 4, controls: 0, viewers: 0 }).await.expect("readers");
    // One at each node: whichever drains has somebody to wait for.
    let at_nodes = |lab: &Lab| -> Vec<ReconnectingReader> {
        let url = |node: &lab::node::Node| format!("rtsp://{}/cam1", node.server.at.rtsp);
        lab.of_role(Role::Distribution).map(|node| ReconnectingReader::start(&url(node))).collect()
    };
    let _viewers = at_nodes(&lab);

    // It tries.
    let shrink = |effect: DecisionEffect| {
        move |decision: &DecisionView| {
            decision.outcome == OutcomeView::Shrink { drain: 1 } && decision.effect == effect && decision.count > 3
        }
    };
    let tried = wait_decided(&lab, "a dry run that would shrink", shrink(DecisionEffect::DryRun)).await.expect("tried");
    assert_eq!((tried.victims.len(), tried.inputs.serving), (1, 4), "{tried:#?}");
    assert_eq!(orchestrator(&lab).await.expect("shown").plan, None, "a dry run plans nothing");

    // It is held, also over a restart of all agents, which read that it may act now.
    lab.nodes[0].agent.pause(Role::Distribution, true).await.expect("paused");
    wait_for("every agent to know of the pause", PATIENCE, async || -> Result<()> {
        for node in &lab.nodes {
            ensure!(node.agent.orchestrator(Role::Distribution).await?.paused.is_some(), "{} does not", node.id);
        }
        Ok(())
    })
    .await
    .expect("passed on");
    let folder = lab.folder().to_owned();
    for node in &mut lab.nodes {
        node.reconfigure(&folder, |text| text.replace("dry_run = true", "dry_run = false")).expect("written");
        node.agent.process.signal(libc::SIGTERM);
    }
    for node in &mut lab.nodes {
        node.restart_agent().await.expect("it comes up");
    }
    let held = wait_decided(&lab, "one that is held", shrink(DecisionEffect::Paused)).await.expect("held");
    assert_eq!(in_state(&lab, NodeState::Active).await.expect("said").len(), 4, "{held:#?}");

    // It drains one.
    lab.nodes[0].agent.pause(Role::Distribution, false).await.expect("resumed");
    let first = wait_drained(&lab, 1).await.expect("drained");
    assert_eq!(first[0].outcome, DrainOutcome::Completed);
    assert!(first[0].reason.starts_with("plan ") && first[0].phases.len() == 5, "{:#?}", first[0]);

    // And another, until load returns.
    wait_for("a second drain", SOON, async || -> Result<()> {
        let draining = in_state(&lab, NodeState::Draining).await?;
        ensure!(draining.len() == 1, "{draining:?}; {:#?}", orchestrator(&lab).await?.decisions.last());
        Ok(())
    })
    .await
    .expect("begun");
    let mut more = Vec::new();
    for at in 0..4 {
        more.push(lab.worker(&format!("later-{at}"), "cam1").await.expect("it reads"));
    }
    let is_cancelled = |decision: &DecisionView| matches!(decision.outcome, OutcomeView::Grow { cancel: 1, .. });
    wait_decided(&lab, "a cancelled drain", is_cancelled).await.expect("cancelled");
    wait_for("three nodes in service", SOON, async || -> Result<()> {
        let active = in_state(&lab, NodeState::Active).await?;
        ensure!(active.len() == 3, "{active:?}");
        Ok(())
    })
    .await
    .expect("put back");

    // Any agent says why.
    let shown = tokio::process::Command::new(programs::of_workspace("mtxfleet").expect("built"))
        .args(["decisions", "--role", "distribution", "--last", "100", "--agent", &lab.nodes[0].agent.url()])
        .output()
        .await
        .expect("it runs");
    let text = String::from_utf8_lossy(&shown.stdout);
    // Which decisions are among the last ten that it heard of is a matter of time; all were seen above.
    for part in ["distribution: dist-", "orchestrates, in term"] {
        assert!(text.contains(part), "{part} in\n{text}{}", String::from_utf8_lossy(&shown.stderr));
    }
    notes::ran(&format!("orchestrated drains and a cancelled one, on {}:\n{text}", lab.server.kind));

    drop(more);
    let results = audience.finish().await.expect("comparable");
    for worker in &results.workers {
        assert!(worker.frames.is_perfect(), "{worker:#?}");
    }
}
