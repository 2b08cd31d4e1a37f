//! Members of a fleet that only gossip, over real UDP, all in this process: to the agent that is measured they look like
//! distribution nodes with readers, each with a new report every second.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use mtxfleet::edge::clock::Clock;
use mtxfleet::edge::gossip::{Gossip, GossipSettings};
use mtxfleet_wire::{
    Bitrate, ClusterName, Leg, LegId, LoadReport, NodeFacts, NodeId, NodeState, Role, SCHEMA, ServerHealth, StreamName,
    StreamReport, UnixMillis, WorkerId,
};
use tokio::task::JoinSet;

/// Streams that each of them serves, with a worker each.
const STREAMS: usize = 20;

/// What they have in common with the fleet that they join.
#[derive(Debug, Clone)]
pub struct Fleet {
    pub cluster: ClusterName,
    pub key: [u8; 32],
    pub seed: SocketAddr,
    /// A server that answers whoever looks whether theirs does.
    pub rtsp: SocketAddr,
}

impl Fleet {
    /// As the configuration of one of its agents says.
    pub fn of(config: &str, seed: SocketAddr, rtsp: SocketAddr) -> Result<Self> {
        let hex = value(config, "[cluster]", "key")?;
        let mut key = [0; 32];
        for (byte, digits) in key.iter_mut().zip(hex.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits)?, 16).context("the key is hexadecimal")?;
        }
        Ok(Self { cluster: ClusterName::new(value(config, "[cluster]", "name")?)?, key, seed, rtsp })
    }
}

/// A text in a section of a configuration, as the lab writes it.
pub fn value<'a>(config: &'a str, section: &str, key: &str) -> Result<&'a str> {
    let (_, rest) = config.split_once(section).with_context(|| format!("no {section}"))?;
    let start = format!("{key} = \"");
    let line = rest.lines().take_while(|line| !line.starts_with('[')).find_map(|line| line.strip_prefix(&start));
    line.and_then(|line| line.strip_suffix('"')).with_context(|| format!("no {key} in {section}"))
}

/// They gossip until what is returned is dropped.
pub async fn start(fleet: &Fleet, count: usize) -> Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    for number in 0..count {
        let settings = GossipSettings {
            cluster: fleet.cluster.clone(),
            node: NodeId::new(format!("member-{number:02}"))?,
            listen: (fleet.seed.ip(), 0).into(),
            advertise: (fleet.seed.ip(), 0).into(),
            keys: vec![fleet.key],
            seeds: vec![fleet.seed.to_string()],
            interval: Duration::from_millis(200),
            phi: 8.0,
            dead_node_grace: Duration::from_secs(900),
            seed_refresh: Duration::from_secs(30),
            lose_in_1000: 0,
        };
        let (gossip, mut peers) = Gossip::start(settings, Clock::wall()).await?;
        gossip.set_facts(&facts(fleet)).await?;
        gossip.set_streams(&(0..STREAMS).map(|at| stream(number, at)).collect::<Result<Vec<_>>>()?).await;
        tasks.spawn(async move {
            let mut second = tokio::time::interval(Duration::from_secs(1));
            for turn in 0_u32.. {
                tokio::select! {
                    _ = second.tick() => if gossip.set_load(&load(turn)).await.is_err() { break },
                    heard = peers.recv() => if heard.is_none() { break },
                }
            }
        });
    }
    Ok(tasks)
}

fn facts(fleet: &Fleet) -> NodeFacts {
    NodeFacts {
        schema: SCHEMA,
        role: Role::Distribution,
        zone: "zone-1".into(),
        rtsp: fleet.rtsp.to_string(),
        http: "http://127.0.0.1:8780".into(),
        gossip: String::new(),
        version: "bench".into(),
        started: UnixMillis(1),
        instance: None,
    }
}

fn stream(member: usize, at: usize) -> Result<StreamReport> {
    let worker = WorkerId::new(format!("detector-{member}-{at}"))?;
    let leg = LegId::new(format!("00000000-0000-4000-8000-{member:06}{at:06}"))?;
    Ok(StreamReport {
        name: StreamName::new(format!("site-{member}/camera-{at}"))?,
        owned: false,
        ready: true,
        flowing: true,
        since: UnixMillis(1),
        claim: 0,
        legs: vec![Leg { worker, leg }],
        readers: 1,
        bitrate: Some(Bitrate(4_000_000)),
    })
}

fn load(turn: u32) -> LoadReport {
    LoadReport {
        state: NodeState::Active,
        server: ServerHealth::Up,
        cameras: Some(0),
        workers: Some(STREAMS as u32),
        viewers: Some(turn % 7),
        inbound: Some(Bitrate(80_000_000 + u64::from(turn))),
        outbound: Some(Bitrate(90_000_000 + u64::from(turn))),
        discarded_packets: 0,
        suspects: Vec::new(),
        health: None,
        cpu: Some(0.25),
        memory: Some(0.5),
        disk_free: Some(1 << 40),
        capacity: Bitrate(1_000_000_000),
        redis: true,
        protected: false,
        declines: None,
        sampled: Clock::wall(),
    }
}
