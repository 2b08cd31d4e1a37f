//! Real UDP on loopback, several nodes in this process.

mod detection;
mod hostile;
mod membership;
mod reports;

use std::cell::Cell;
use std::future::Future;
use std::time::Duration;

use mtxfleet_wire::{Bitrate, DrainId, Leg, LegId, NodeState, Phase, Role, SCHEMA, ServerHealth, StreamName, WorkerId};
use tokio::time::timeout;

use super::*;

const KEY: [u8; 32] = [1; 32];

/// Bounds what is waited for where the time it takes is not the point.
const PATIENCE: Duration = Duration::from_secs(10);

fn settings(node: &str, seeds: &[SocketAddr]) -> GossipSettings {
    GossipSettings {
        cluster: ClusterName::new("fleet").unwrap(),
        node: NodeId::new(node).unwrap(),
        listen: ([127, 0, 0, 1], 0).into(),
        advertise: ([127, 0, 0, 1], 0).into(),
        keys: vec![KEY],
        seeds: seeds.iter().map(SocketAddr::to_string).collect(),
        interval: Duration::from_millis(200),
        phi: 8.0,
        dead_node_grace: Duration::from_secs(900),
        seed_refresh: Duration::from_secs(30),
        lose_in_1000: 0,
    }
}

/// A node and what it knows.
struct Node {
    gossip: Gossip,
    inbox: mpsc::Receiver<Vec<Peer>>,
    peers: Vec<Peer>,
}

impl Node {
    async fn start(settings: GossipSettings) -> Self {
        static GENERATION: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let generation = UnixMillis(GENERATION.fetch_add(1, Relaxed));
        let (gossip, inbox) = Gossip::start(settings, generation).await.unwrap();
        Self { gossip, inbox, peers: Vec::new() }
    }

    /// Waits until the peers are as asked.
    async fn until(&mut self, what: &str, bound: Duration, is_so: impl Fn(&[Peer]) -> bool) {
        let wait = async {
            while !is_so(&self.peers) {
                self.peers = self.inbox.recv().await.expect("gossip goes on");
            }
        };
        if timeout(bound, wait).await.is_err() {
            let known: Vec<_> = self.peers.iter().map(|peer| (&peer.node, peer.alive)).collect();
            panic!("not within {bound:?}: {what}; known: {known:?}; {:?}", self.gossip.figures());
        }
    }

    async fn assert_nobody_suspected_for(&mut self, time: Duration, others: usize) {
        let mut suspected = None;
        let (_, stall) = with_longest_stall(timeout(time, async {
            while suspected.is_none() {
                let peers = self.inbox.recv().await.expect("gossip goes on");
                suspected = (alive(&peers) < others).then_some(peers);
            }
        }))
        .await;
        assert!(suspected.is_none() || stall > STARVED, "longest stall {stall:?}; suspected: {suspected:?}");
    }

    fn peer(&self, node: &str) -> Option<&Peer> {
        find(&self.peers, node)
    }
}

fn find<'a>(peers: &'a [Peer], node: &str) -> Option<&'a Peer> {
    peers.iter().find(|peer| peer.node.as_str() == node)
}

fn alive(peers: &[Peer]) -> usize {
    peers.iter().filter(|peer| peer.alive).count()
}

fn load(cameras: u32) -> LoadReport {
    LoadReport {
        state: NodeState::Active,
        server: ServerHealth::Up,
        cameras: Some(cameras),
        workers: None,
        viewers: None,
        inbound: None,
        outbound: Some(Bitrate(1)),
        discarded_packets: 0,
        suspects: Vec::new(),
        health: None,
        cpu: Some(0.5),
        memory: None,
        disk_free: None,
        capacity: Bitrate(1_000_000_000),
        redis: true,
        protected: false,
        declines: None,
        sampled: UnixMillis(1),
    }
}

fn facts(zone: &str) -> NodeFacts {
    NodeFacts {
        schema: SCHEMA,
        role: Role::Distribution,
        zone: zone.into(),
        rtsp: "127.0.0.1:8554".into(),
        http: "http://127.0.0.1:9000".into(),
        gossip: String::new(),
        version: "0.1.0".into(),
        started: UnixMillis(1),
        instance: None,
    }
}

fn stream(name: &str, legs: usize) -> StreamReport {
    let leg = |n| Leg {
        worker: WorkerId::new(format!("worker-{n}-at-a-site-with-a-long-name")).unwrap(),
        leg: LegId::new(uuid::Uuid::new_v4().to_string()).unwrap(),
    };
    StreamReport {
        name: StreamName::new(name).unwrap(),
        owned: false,
        ready: true,
        flowing: true,
        since: UnixMillis(1),
        claim: 0,
        legs: (0..legs).map(leg).collect(),
        readers: 3,
        bitrate: Some(Bitrate(4_000_000)),
    }
}

/// `n1` to `n<count>`, the first the seed of all others.
async fn fleet(count: usize) -> Vec<Node> {
    let mut nodes = vec![Node::start(settings("n1", &[])).await];
    let seed = nodes[0].gossip.advertised();
    for number in 2..=count {
        nodes.push(Node::start(settings(&format!("n{number}"), &[seed])).await);
    }
    nodes
}

async fn all_see_all(nodes: &mut [Node]) {
    let others = nodes.len() - 1;
    on_all(nodes, async |node| node.until("all others alive", PATIENCE, |peers| alive(peers) == others).await).await;
}

async fn on_all(nodes: &mut [Node], check: impl AsyncFn(&mut Node)) {
    futures::future::join_all(nodes.iter_mut().map(|node| check(node))).await;
}

/// The longest this process was held up while `work` ran: on a starved machine silence proves nothing.
async fn with_longest_stall<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let step = Duration::from_millis(10);
    let mut longest = Duration::ZERO;
    let watch = async {
        loop {
            let before = Instant::now();
            tokio::time::sleep(step).await;
            longest = longest.max(before.elapsed().saturating_sub(step));
        }
    };
    let result = tokio::select! {
        result = work => result,
        () = watch => unreachable!("it watches for ever"),
    };
    (result, longest)
}

/// A machine that keeps this process waiting for so long makes silence of its own.
const STARVED: Duration = Duration::from_millis(300);

/// A goal, met by a process that was held up for at most `stall` at a time: each of a few steps may have met that.
#[track_caller]
fn assert_within(goal: Duration, took: Duration, stall: Duration) {
    println!("took {took:?} of {goal:?} (longest stall {stall:?})");
    assert!(took <= goal + stall * 4, "took {took:?} of {goal:?} (longest stall {stall:?})");
}
