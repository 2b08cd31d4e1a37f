//! What the agent costs beside one MediaMTX with 200 live paths, held against prometheus-node-exporter on the same
//! machine, scraped once a second in the same run, as the agent is.
//!
//! One camera feeds a server of its own; the node's server pulls it under 200 names, so every path carries media.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtxfleet_benches::{Figure, cpu_seconds, resident_kib};
use mtxfleet_tests::lab::address::Loopback;
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::process::Recipe;
use mtxfleet_tests::lab::wait::wait_for;
use mtxfleet_tests::lab::{Lab, programs};
use mtxfleet_wire::Role;

const PATHS: usize = 200;
const MEASURE_FOR: Duration = Duration::from_secs(60);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    // Two ingestion nodes: the balancer gives the camera to one of them, the other pulls it 200 times.
    let lab = Lab::builder().ingestion(2).distribution(2).cameras([CameraKind::H264]).start().await?;
    let on = lab.server.kind.to_string();
    let mut owner = None;
    for node in lab.of_role(Role::Ingestion) {
        if node.agent.streams().await?.iter().any(|s| s.node == node.id && s.stream.owned) {
            owner = Some(node);
        }
    }
    let owner = owner.context("nobody has the camera")?;
    let node = lab.of_role(Role::Ingestion).find(|node| node.id != owner.id).context("there are two")?;
    let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
    for number in 1..=PATHS {
        let url = format!("http://{}/v3/config/paths/add/copy{number}", node.server.at.api);
        let body = serde_json::json!({
            "source": format!("rtsp://{}/cam1", owner.server.at.rtsp), "rtspTransport": "tcp", "record": false,
        });
        client.post(url).json(&body).send().await?.error_for_status()?;
    }
    wait_for(format!("{PATHS} paths to flow"), Duration::from_secs(60), async || -> Result<()> {
        let streams = node.agent.streams().await?;
        let flowing = streams.iter().filter(|s| s.node == node.id && s.stream.flowing).count();
        ensure!(flowing >= PATHS, "{flowing} of {PATHS} at {}", node.id);
        Ok(())
    })
    .await?;

    let peer_at = Loopback::next().port()?;
    let exporter = Recipe::new("node-exporter", programs::find("prometheus-node-exporter")?)
        .args([format!("--web.listen-address={peer_at}")])
        .start(&lab.logs())?;
    let pages = [format!("http://{}/metrics", node.agent.http), format!("http://{peer_at}/metrics")];
    wait_for("node-exporter to answer", Duration::from_secs(10), async || client.get(&pages[1]).send().await.map(drop))
        .await?;

    eprintln!("measuring for {} s ...", MEASURE_FOR.as_secs());
    let (agent, peer) = (&node.agent.process, &exporter);
    let before = (cpu_seconds(agent.pid())?, cpu_seconds(peer.pid())?);
    let (mut memory, began) = ((0, 0), Instant::now());
    let mut second = tokio::time::interval(Duration::from_secs(1));
    while began.elapsed() < MEASURE_FOR {
        second.tick().await;
        for page in &pages {
            client.get(page).send().await?.error_for_status()?.bytes().await?;
        }
        memory = (memory.0.max(resident_kib(agent.pid())?), memory.1.max(resident_kib(peer.pid())?));
    }
    let seconds = began.elapsed().as_secs_f64();
    let share = |before: f64, after: f64| (after - before) / seconds * 100.0;
    let of = format!("beside {on} with {PATHS} live paths, {} members", lab.nodes.len());
    let peer_name = "prometheus-node-exporter, scraped once a second, same run";
    let goal = "at most the peer's";
    Figure::new(format!("CPU of the agent {of}"), share(before.0, cpu_seconds(agent.pid())?), "% of a core", goal)
        .beside(peer_name, share(before.1, cpu_seconds(peer.pid())?))
        .print();
    Figure::new(format!("memory (RSS) of the agent {of}"), memory.0 as f64 / 1024.0, "MiB", goal)
        .beside(peer_name, memory.1 as f64 / 1024.0)
        .print();
    Ok(())
}
