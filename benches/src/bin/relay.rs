//! What `mtxfleet relay` costs with 50 streams of 2 Mbit/s and one reader each, beside MediaMTX that pulls the same streams
//! from the same cameras and serves them to one reader each, in the same run. Then the same streams on a small fleet: what a
//! distribution node costs whose agent relays them to its MediaMTX, beside one that redirects it.
//!
//! Needs MediaMTX itself: the stand-in is no peer. `MTXFLEET_BENCH_SECONDS` sets how long is measured (60).

#[path = "../relay/cameras.rs"]
mod cameras;
#[path = "../relay/readers.rs"]
mod readers;

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mediamtx_config::{Credential, DistributionServer};
use mtxfleet_benches::{Figure, cpu_seconds, resident_kib};
use mtxfleet_tests::lab::Lab;
use mtxfleet_tests::lab::address::Loopback;
use mtxfleet_tests::lab::agent::client;
use mtxfleet_tests::lab::node::Settings;
use mtxfleet_tests::lab::process::{Process, Recipe};
use mtxfleet_tests::lab::programs;
use mtxfleet_tests::lab::wait::wait_for;
use mtxfleet_tests::server_binary::{self, ServerBinary};
use mtxfleet_wire::NodeId;
use readers::Readers;
use tokio::net::TcpListener;

const STREAMS: usize = 50;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let seconds = match std::env::var("MTXFLEET_BENCH_SECONDS") {
        Ok(text) => text.parse().context("MTXFLEET_BENCH_SECONDS is no number")?,
        Err(_) => 60,
    };
    let measure_for = Duration::from_secs(seconds);
    let server = match tokio::task::spawn_blocking(server_binary::find_real).await?? {
        Ok(server) => server,
        Err(reasons) => {
            eprintln!("NOT MEASURED without MediaMTX: {}", reasons.join("; "));
            return Ok(());
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    tokio::spawn(cameras::serve(listener));
    let mut missed = Vec::new();
    missed.extend(beside_mediamtx(&server, at, measure_for).await?);
    as_a_source(&server, at, measure_for).await?;
    // Only now: what was measured is printed whether it is good or not.
    ensure!(missed.is_empty(), "{}", missed.join("\n"));
    Ok(())
}

/// Nodes of a fleet: `dist-1` redirects, `dist-2` relays.
async fn as_a_source(server: &ServerBinary, cameras: SocketAddr, measure_for: Duration) -> Result<()> {
    let settings = Settings { relaying: vec!["dist-2"], ..Settings::default() };
    let builder = Lab::builder().ingestion(1).distribution(2).redis(None).settings(settings).server(server.clone());
    let lab = builder.start().await?;
    let owner = lab.node(&NodeId::new("ingest-1")?)?;
    for number in 1..=STREAMS {
        let url = format!("http://{}/v3/config/paths/add/cam{number}", owner.server.at.api);
        let source = format!("rtsp://{cameras}/cam{number}");
        let path = serde_json::json!({ "source": source, "rtspTransport": "tcp", "record": false });
        client().post(url).json(&path).send().await?.error_for_status()?;
    }
    let nodes = [lab.node(&NodeId::new("dist-1")?)?, lab.node(&NodeId::new("dist-2")?)?];
    for node in nodes {
        wait_for(format!("{} to see {STREAMS} streams", node.id), Duration::from_secs(60), async || -> Result<()> {
            let streams = node.agent.streams().await?;
            let flowing = streams.iter().filter(|s| s.stream.owned && s.stream.flowing).count();
            ensure!(flowing >= STREAMS, "{flowing}");
            Ok(())
        })
        .await?;
    }
    let mut readers = Vec::new();
    for node in nodes {
        readers.push(Readers::start(node.server.at.rtsp, STREAMS).await?);
    }
    let [plain, relaying] = nodes;
    let of = [&plain.agent.process, &plain.server.process, &relaying.agent.process, &relaying.server.process];
    let [agent, server, relay, behind] = measure(of, &readers, measure_for).await?;
    let with = format!("a node with {STREAMS} streams of 2 Mbit/s, one reader each, that relays");
    let peer = "a node that redirects, same run";
    Figure::new(format!("CPU of agent and MediaMTX of {with}"), relay.0 + behind.0, "% of a core", "known")
        .beside(peer, agent.0 + server.0)
        .print();
    Figure::new(format!("of it, the agent of {with}"), relay.0, "% of a core", "known").beside(peer, agent.0).print();
    Figure::new(format!("memory (RSS) of the agent of {with}"), relay.1, "MiB", "bounded")
        .beside(peer, agent.1)
        .print();
    Ok(())
}

/// Gives what was not reached.
async fn beside_mediamtx(server: &ServerBinary, cameras: SocketAddr, measure_for: Duration) -> Result<Option<String>> {
    let folder = tempfile::tempdir()?;
    let mut loopback = Loopback::next();
    let (relay_at, peer_at) = (loopback.port()?, loopback.port()?);
    let upstream = format!("rtsp://{cameras}");
    let relay = Recipe::new("relay", programs::of_workspace("mtxfleet")?)
        .args(["relay", "--cluster", "bench", "--upstream", &upstream, "--listen", &relay_at.to_string()])
        .start(folder.path())?;
    let text = DistributionServer {
        rtsp: peer_at,
        api: loopback.port()?,
        metrics: loopback.port()?,
        ..DistributionServer::new(Credential::new("fleet", "bench"), "bench", cameras)
    }
    .render()?;
    let file = folder.path().join("mediamtx.yml");
    std::fs::write(&file, text)?;
    let peer = Recipe::new("mediamtx", &server.path).args([file.display().to_string()]).start(folder.path())?;
    listening(relay_at).await?;
    listening(peer_at).await?;
    let through = [Readers::start(relay_at, STREAMS).await?, Readers::start(peer_at, STREAMS).await?];
    let [(cpu, memory), (peer_cpu, peer_memory)] = measure([&relay, &peer], &through, measure_for).await?;

    let of = format!("{STREAMS} streams of 2 Mbit/s, one reader each");
    let peer_name = format!("{}, which pulls and serves the same, same run", server.kind);
    let goal = "at most the peer's";
    Figure::new(format!("CPU of the relay, {of}"), cpu, "% of a core", goal).beside(&peer_name, peer_cpu).print();
    Figure::new(format!("memory (RSS) of the relay, {of}"), memory, "MiB", "bounded")
        .beside(&peer_name, peer_memory)
        .print();
    Ok((cpu > peer_cpu).then(|| format!("the relay takes {cpu:.1} % of a core, MediaMTX {peer_cpu:.1} %")))
}

async fn listening(at: SocketAddr) -> Result<()> {
    wait_for(format!("a listener on {at}"), Duration::from_secs(10), async || {
        TcpStream::connect_timeout(&at, Duration::from_millis(100)).map(drop)
    })
    .await
}

/// Percent of a core, and the most memory in MiB, of each process.
async fn measure<const N: usize>(
    of: [&Process; N],
    readers: &[Readers],
    measure_for: Duration,
) -> Result<[(f64, f64); N]> {
    // What is done once, at the opening, is over.
    tokio::time::sleep(Duration::from_secs(3)).await;
    eprintln!("measuring for {} s ...", measure_for.as_secs());
    let before: Vec<Vec<u64>> = readers.iter().map(Readers::bytes).collect();
    let cpu: Vec<f64> = of.iter().map(|process| cpu_seconds(process.pid())).collect::<Result<_>>()?;
    let (mut memory, began) = ([0; N], Instant::now());
    let mut second = tokio::time::interval(Duration::from_secs(1));
    while began.elapsed() < measure_for {
        second.tick().await;
        for (most, process) in memory.iter_mut().zip(of) {
            *most = resident_kib(process.pid())?.max(*most);
        }
    }
    let passed = began.elapsed();
    let mut measured = [(0.0, 0.0); N];
    for (at, measured) in measured.iter_mut().enumerate() {
        let spent = cpu_seconds(of[at].pid())? - cpu[at];
        *measured = (spent / passed.as_secs_f64() * 100.0, memory[at] as f64 / 1024.0);
    }
    for (readers, before) in readers.iter().zip(&before) {
        readers.check(before, passed)?;
    }
    Ok(measured)
}
