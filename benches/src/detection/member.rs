//! One agent's gossip and its verdicts on the others, in a process of its own.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use mtxfleet::edge::clock::Clock;
use mtxfleet::edge::gossip::{Gossip, GossipSettings};
use mtxfleet_leader::Fleet;
use mtxfleet_wire::{
    Bitrate, ClusterName, Liveness, LoadReport, NodeFacts, NodeId, NodeState, Role, SCHEMA, ServerHealth, UnixMillis,
};

/// As by default.
const DEAD_AFTER: Duration = Duration::from_secs(4);
const INTERVAL: Duration = Duration::from_millis(200);

/// Says `up ADDRESS`, then each change of its verdict on another: `alive`, `silent` or `dead`, the name, and microseconds
/// since 1970. Ends with its standard input.
pub fn run(name: &str, lose_in_1000: u32, seeds: &[String]) -> Result<()> {
    std::thread::spawn(|| {
        let mut rest = Vec::new();
        let _ = std::io::stdin().read_to_end(&mut rest);
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(live(name, lose_in_1000, seeds))
}

async fn live(name: &str, lose_in_1000: u32, seeds: &[String]) -> Result<()> {
    let clock = Clock::start();
    let settings = GossipSettings {
        cluster: ClusterName::new("bench")?,
        node: NodeId::new(name)?,
        listen: ([127, 0, 0, 1], 0).into(),
        advertise: ([127, 0, 0, 1], 0).into(),
        keys: vec![[7; 32]],
        seeds: seeds.to_vec(),
        interval: INTERVAL,
        phi: 8.0,
        dead_node_grace: Duration::from_secs(900),
        seed_refresh: Duration::from_secs(30),
        lose_in_1000,
    };
    let (gossip, mut peers) = Gossip::start(settings, Clock::wall()).await?;
    gossip.set_facts(&facts()).await?;
    println!("up {}", gossip.advertised());
    let mut fleet = Fleet::new(DEAD_AFTER);
    let mut said: BTreeMap<NodeId, Liveness> = BTreeMap::new();
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = tick.tick() => {
                fleet.pass_time(clock.mono());
                gossip.set_load(&load(fleet.silent().cloned().collect())).await?;
            }
            now = peers.recv() => {
                fleet.update(clock.mono(), now.context("gossip has ended")?);
            }
        }
        for member in fleet.members() {
            let before = said.insert(member.peer.node.clone(), member.liveness);
            // A node that was told of and not heard yet is suspected by nobody.
            if before == Some(member.liveness) || (before.is_none() && member.liveness == Liveness::Suspect) {
                continue;
            }
            let word = match member.liveness {
                Liveness::Alive => "alive",
                Liveness::Suspect => "silent",
                Liveness::Dead => "dead",
            };
            println!("{word} {} {}", member.peer.node, micros());
        }
    }
}

pub fn micros() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros()
}

fn facts() -> NodeFacts {
    NodeFacts {
        schema: SCHEMA,
        role: Role::Distribution,
        zone: String::new(),
        rtsp: "127.0.0.1:8554".into(),
        http: "http://127.0.0.1:8780".into(),
        gossip: String::new(),
        version: "bench".into(),
        started: UnixMillis(1),
        instance: None,
    }
}

fn load(suspects: Vec<NodeId>) -> LoadReport {
    LoadReport {
        state: NodeState::Active,
        server: ServerHealth::Up,
        cameras: Some(0),
        workers: Some(10),
        viewers: Some(100),
        inbound: Some(Bitrate(100_000_000)),
        outbound: Some(Bitrate(400_000_000)),
        discarded_packets: 0,
        suspects,
        health: None,
        cpu: Some(0.5),
        memory: Some(0.5),
        disk_free: Some(1 << 40),
        capacity: Bitrate(1_000_000_000),
        redis: true,
        protected: false,
        declines: None,
        // New in each report, as an agent's is.
        sampled: Clock::wall(),
    }
}
