//! What the agent costs beside one MediaMTX with 200 and 1,000 live paths in a fleet of 30, held against
//! prometheus-node-exporter on the same machine, scraped once a second in the same run, as the agent is.
//!
//! One camera feeds a server of its own; the node's server pulls it under many names, so every path carries media. Four of
//! the members are whole nodes, which stand for election and decide; the others only gossip, from this process.
//!
//! `MTXFLEET_BENCH_PATHS` sets the numbers of paths (`200,1000`), `MTXFLEET_BENCH_MEMBERS` how many members (30),
//! `MTXFLEET_BENCH_SECONDS` how long each is measured (60).

#[path = "../agent_cost/members.rs"]
mod members;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtxfleet_benches::{Figure, cpu_seconds, resident_kib};
use mtxfleet_tests::lab::address::Loopback;
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::node::Node;
use mtxfleet_tests::lab::process::{Process, Recipe};
use mtxfleet_tests::lab::wait::wait_for;
use mtxfleet_tests::lab::{Lab, leadership, programs};
use mtxfleet_wire::Role;

const PATHS: &str = "200,1000";
const MEMBERS: usize = 30;
const MEASURE_FOR: u64 = 60;
const FLOWING_WITHIN: Duration = Duration::from_secs(180);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let paths = std::env::var("MTXFLEET_BENCH_PATHS").unwrap_or_else(|_| PATHS.to_owned());
    let paths: Vec<usize> =
        paths.split(',').map(str::parse).collect::<Result<_, _>>().context("MTXFLEET_BENCH_PATHS")?;
    let members = number("MTXFLEET_BENCH_MEMBERS", MEMBERS as u64)? as usize;
    let measure_for = Duration::from_secs(number("MTXFLEET_BENCH_SECONDS", MEASURE_FOR)?);

    // Two ingestion nodes: the balancer gives the camera to one of them, the other pulls it again and again.
    let builder = Lab::builder().ingestion(2).distribution(2).cameras([CameraKind::H264]);
    let lab = builder.settings(leadership::settings()).start().await?;
    let on = lab.server.kind.to_string();
    let mut owner = None;
    for node in lab.of_role(Role::Ingestion) {
        if node.agent.streams().await?.iter().any(|s| s.node == node.id && s.stream.owned) {
            owner = Some(node);
        }
    }
    let owner = owner.context("nobody has the camera")?;
    let node = lab.of_role(Role::Ingestion).find(|node| node.id != owner.id).context("there are two")?;

    let config = std::fs::read_to_string(lab.folder().join(node.id.as_str()).join("mtxfleet.toml"))?;
    let seed = members::value(&config, "[gossip]", "listen")?.parse()?;
    let fleet = members::Fleet::of(&config, seed, owner.server.at.rtsp)?;
    let _gossiping = members::start(&fleet, members.saturating_sub(lab.nodes.len())).await?;
    wait_for(format!("{members} members"), FLOWING_WITHIN, async || -> Result<()> {
        let seen = node.agent.fleet().await?.members.len();
        ensure!(seen >= members, "{seen} of {members}");
        Ok(())
    })
    .await?;

    let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?;
    let peer_at = Loopback::next().port()?;
    let exporter = Recipe::new("node-exporter", programs::find("prometheus-node-exporter")?)
        .args([format!("--web.listen-address={peer_at}")])
        .start(&lab.logs())?;
    let pages = [format!("http://{}/metrics", node.agent.http), format!("http://{peer_at}/metrics")];
    wait_for("node-exporter to answer", Duration::from_secs(10), async || client.get(&pages[1]).send().await.map(drop))
        .await?;

    let (mut have, mut missed) = (0, Vec::new());
    for paths in paths {
        add_paths(&client, node, owner, have + 1..=paths).await?;
        have = paths;
        let flowing = format!("{paths} paths to flow");
        wait_for(flowing, FLOWING_WITHIN, async || -> Result<()> {
            let streams = node.agent.streams().await?;
            let flowing = streams.iter().filter(|s| s.node == node.id && s.stream.flowing).count();
            ensure!(flowing >= paths, "{flowing} of {paths} at {}", node.id);
            Ok(())
        })
        .await?;
        eprintln!("{paths} paths: measuring for {} s ...", measure_for.as_secs());
        let (cpu, memory) = measure(&client, &pages, [&node.agent.process, &exporter], measure_for).await?;
        let of = format!("beside {on} with {paths} live paths, {members} members");
        let peer = "prometheus-node-exporter, scraped once a second, same run";
        for (what, unit, [own, peers]) in [("CPU", "% of a core", cpu), ("memory (RSS)", "MiB", memory)] {
            Figure::new(format!("{what} of the agent {of}"), own, unit, "at most the peer's")
                .beside(peer, peers)
                .print();
            if own > peers {
                missed.push(format!("{what} {of}: {own:.2} {unit}, the peer {peers:.2}"));
            }
        }
    }
    ensure!(missed.is_empty(), "{}", missed.join("\n"));
    Ok(())
}

fn number(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} is no number")),
        Err(_) => Ok(default),
    }
}

/// The node pulls the camera under as many names.
async fn add_paths(
    client: &reqwest::Client,
    node: &Node,
    owner: &Node,
    numbers: std::ops::RangeInclusive<usize>,
) -> Result<()> {
    for number in numbers {
        let url = format!("http://{}/v3/config/paths/add/copy{number}", node.server.at.api);
        let body = serde_json::json!({
            "source": format!("rtsp://{}/cam1", owner.server.at.rtsp), "rtspTransport": "tcp", "record": false,
        });
        client.post(url).json(&body).send().await?.error_for_status()?;
    }
    Ok(())
}

/// Per cent of a core, and the most MiB, of the agent and its peer.
async fn measure(
    client: &reqwest::Client,
    pages: &[String; 2],
    processes: [&Process; 2],
    time: Duration,
) -> Result<([f64; 2], [f64; 2])> {
    let before = [cpu_seconds(processes[0].pid())?, cpu_seconds(processes[1].pid())?];
    let (mut memory, began) = ([0.0_f64; 2], Instant::now());
    let mut second = tokio::time::interval(Duration::from_secs(1));
    while began.elapsed() < time {
        second.tick().await;
        for (at, page) in pages.iter().enumerate() {
            client.get(page).send().await?.error_for_status()?.bytes().await?;
            memory[at] = memory[at].max(resident_kib(processes[at].pid())? as f64 / 1024.0);
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let share = |at: usize| -> Result<f64> { Ok((cpu_seconds(processes[at].pid())? - before[at]) / seconds * 100.0) };
    Ok(([share(0)?, share(1)?], memory))
}
