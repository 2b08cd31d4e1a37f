//! Viewers in a browser, on MediaMTX's own pages through HAProxy: what a drain, a crash, a Redis outage and a node that
//! comes are to them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtxfleet_tests::lab::agent::client;
use mtxfleet_tests::lab::browser::{Seen, Viewer};
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::node::{Node, Settings};
use mtxfleet_tests::lab::redis::Keeps;
use mtxfleet_tests::lab::wait::{PATIENCE, wait_for};
use mtxfleet_tests::lab::{self, Lab, drain};
use mtxfleet_tests::notes;
use mtxfleet_tests::server_binary::{self, ServerBinary};
use mtxfleet_wire::{DrainOutcome, NodeId, Role};

const DRAIN_WITHIN: Duration = Duration::from_secs(60);

/// How long they are watched where nothing is to happen to them.
const QUIET: Duration = Duration::from_secs(3);

/// Where MediaMTX's API lists each kind.
const KINDS: [&str; 2] = ["hlssessions", "webrtcsessions"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn browsers_are_cut_once_by_a_drain_and_come_back_through_the_same_url_on_mediamtx() {
    let what = "HLS and WebRTC viewers in a browser";
    if let Some(missing) = Viewer::missing() {
        notes::skipped(what, &missing);
        return;
    }
    let found = tokio::task::spawn_blocking(server_binary::find_real).await.expect("no panic");
    match found.expect("MEDIAMTX_BIN works, when it is set") {
        Ok(server) => browsers_watch(server).await.expect("they watch"),
        Err(reasons) => notes::skipped(what, &format!("needs MediaMTX itself: {}", reasons.join("; "))),
    }
}

async fn browsers_watch(server: ServerBinary) -> Result<()> {
    let _alone = lab::alone().await;
    let builder = Lab::builder().cameras([CameraKind::H264]).settings(Settings::demo()).redis(Some(Keeps::Nothing));
    let mut lab = builder.server(server).web().start().await?;
    let web = lab.balancer.web.clone().context("the lab has web frontends")?;
    let mut viewers = Vec::new();
    for (name, at) in [("HLS", web.hls.bind), ("WebRTC", web.whep.bind)] {
        let url = format!("http://{at}/cam1/");
        viewers.push(Viewer::watch(name, &url, lab.folder(), &lab.logs()).await?);
    }
    let plain = lab.plain_reader("cam1");
    wait_for("the plain reader", PATIENCE, async || if plain.receives() { Ok(()) } else { Err("nothing") }).await?;

    lab.redis.as_mut().context("there")?.process.kill();
    undisturbed(&viewers, "Redis was killed").await?;
    lab.redis.as_mut().context("there")?.restart().await?;
    for node in &lab.nodes {
        wait_for(format!("{} to reach Redis", node.id), PATIENCE, async || -> Result<()> {
            ensure!(node.agent.member().await?.load.is_some_and(|load| load.redis), "not yet");
            Ok(())
        })
        .await?;
    }
    let mut idle = None;
    for node in lab.of_role(Role::Distribution) {
        if serving(node).await? == [0, 0] && lab.balancer.statistics().reader_backend(&node.id).await?.current == 0 {
            idle = Some(node.id.clone());
        }
    }
    let idle = idle.context("every node serves somebody")?;
    through_a_drain(&lab, &idle, &viewers, [false, false]).await?;
    ensure!(plain.times_cut_off() == 0, "the plain reader was cut off");
    notes::ran(
        "browsers and a plain reader: not touched by a Redis outage, nor by a node that goes and comes elsewhere",
    );

    for (at, kind) in KINDS.iter().enumerate() {
        let node = node_that_serves(&lab, at).await?;
        let served = serving(lab.node(&node)?).await?.map(|count| count > 0);
        // The one before may have had both.
        if at == 0 || viewers[at].look().await?.cuts.is_empty() {
            through_a_drain(&lab, &node, &viewers, served).await.with_context(|| format!("{node}, {kind}"))?;
        }
    }
    for (viewer, name) in viewers.iter().zip(["HLS", "WebRTC"]) {
        let seen = viewer.look().await?;
        ensure!(seen.cuts.len() == 1, "{name}: {seen:?}");
        notes::ran(&format!(
            "a browser on {name}, its node drained: cut once, back by itself after {:.1} s",
            seen.cuts[0]
        ));
    }

    for (at, name) in ["HLS", "WebRTC"].into_iter().enumerate() {
        let node = node_that_serves(&lab, at).await?;
        let before = viewers[at].look().await?.cuts.len();
        let node = lab.node_mut(&node)?;
        node.server.process.kill();
        node.agent.process.kill();
        let seen = comes_back(&viewers[at], before).await.with_context(|| format!("{name}, after a crash"))?;
        notes::ran(&format!("a browser on {name}, its node killed: back by itself after {:.1} s", seen.cuts[before]));
        // Its node comes back for the other one's crash.
        node.server.process.restart()?;
        node.restart_agent().await?;
        let id = node.id.clone();
        lab.wait_in_service(&id, DRAIN_WITHIN).await?;
    }
    Ok(())
}

/// Drains a node that serves some of the viewers, or none. They see nothing of it before they are cut.
async fn through_a_drain(lab: &Lab, node: &NodeId, viewers: &[Viewer], served: [bool; 2]) -> Result<()> {
    let mut before = Vec::new();
    for viewer in viewers {
        before.push(viewer.look().await?);
    }
    let agent = &lab.node(node)?.agent;
    let ordered = Instant::now();
    let record = drain::run(agent, "test", DRAIN_WITHIN, |_| {}).await?;
    ensure!(record.outcome == DrainOutcome::Completed, "{record:#?}");
    let took = ordered.elapsed();
    for ((viewer, before), served) in viewers.iter().zip(before).zip(served) {
        let was = before.cuts.len();
        let after = if served { comes_back(viewer, was).await? } else { viewer.look().await? };
        ensure!(after.cuts.len() == was + usize::from(served), "{before:?}, then {after:?}");
        ensure!(after.url == before.url, "{before:?}, then {after:?}");
    }
    if served.contains(&true) {
        // The window is theirs, and 6 s here.
        ensure!(took > Duration::from_secs(6), "the drain waited for nobody: {took:?}");
        ensure!(serving(lab.node(node)?).await? == [0, 0], "{node} still serves");
    }
    agent.undrain().await?.map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
    lab.wait_in_service(node, PATIENCE).await?;
    Ok(())
}

async fn comes_back(viewer: &Viewer, cuts: usize) -> Result<Seen> {
    let mut last = None;
    wait_for("the viewer to be cut and come back", DRAIN_WITHIN, async || -> Result<()> {
        let seen = viewer.look().await?;
        ensure!(seen.cuts.len() > cuts && seen.still < 0.5, "{seen:?}");
        last = Some(seen);
        Ok(())
    })
    .await?;
    last.context("seen")
}

async fn undisturbed(viewers: &[Viewer], what: &str) -> Result<()> {
    let until = Instant::now() + QUIET;
    while Instant::now() < until {
        for viewer in viewers {
            let seen = viewer.look().await?;
            ensure!(seen.cuts.is_empty() && seen.still < 1.0, "{what}: {seen:?}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// Sessions of each kind at a node.
async fn serving(node: &Node) -> Result<[usize; 2]> {
    let mut counts = [0; 2];
    for (count, kind) in counts.iter_mut().zip(KINDS) {
        let url = format!("http://{}/v3/{kind}/list", node.server.at.api);
        let list: serde_json::Value = client().get(url).send().await?.error_for_status()?.json().await?;
        *count = list["items"].as_array().context("no items")?.len();
    }
    Ok(counts)
}

async fn node_that_serves(lab: &Lab, kind: usize) -> Result<NodeId> {
    for node in lab.of_role(Role::Distribution) {
        if serving(node).await?[kind] > 0 {
            return Ok(node.id.clone());
        }
    }
    anyhow::bail!("no node serves {}", KINDS[kind])
}
