//! Real UDP on loopback, several nodes in this process.

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
        cpu: Some(0.5),
        memory: None,
        disk_free: None,
        capacity: Bitrate(1_000_000_000),
        redis: true,
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
        version: "0.1.0".into(),
        started: UnixMillis(1),
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

#[tokio::test]
async fn all_see_all_within_two_seconds_and_a_change_within_one() {
    let begun = Instant::now();
    let mut nodes = fleet(5).await;
    let ((), stall) = with_longest_stall(all_see_all(&mut nodes)).await;
    assert_within(Duration::from_secs(2), begun.elapsed(), stall);

    let begun = Instant::now();
    let ((), stall) = with_longest_stall(async {
        nodes[4].gossip.set_facts(&facts("zone-a")).await.unwrap();
        nodes[4].gossip.set_load(&load(7)).await.unwrap();
        on_all(&mut nodes[..4], async |node| {
            node.until("the change of n5", PATIENCE, |peers| {
                find(peers, "n5").is_some_and(|peer| peer.load == Some(load(7)) && peer.facts == Some(facts("zone-a")))
            })
            .await;
        })
        .await;
    })
    .await;
    assert_within(Duration::from_secs(1), begun.elapsed(), stall);
    for node in &nodes {
        let figures = node.gossip.figures();
        assert!(figures.datagrams_in > 0 && figures.bytes_out > 0);
        assert!(figures.refused.iter().all(|&(_, count)| count == 0), "{figures:?}");
    }
}

#[tokio::test]
async fn a_node_that_crashes_is_not_alive_within_three_seconds_and_nobody_else_is_suspected() {
    let mut nodes = fleet(4).await;
    all_see_all(&mut nodes).await;
    drop(nodes.pop());
    let begun = Instant::now();
    let suspected = Cell::new(false);
    let ((), stall) = with_longest_stall(on_all(&mut nodes, async |node| {
        node.until("n4 not alive", PATIENCE, |peers| {
            suspected.set(suspected.get() || peers.iter().any(|peer| peer.node.as_str() != "n4" && !peer.alive));
            find(peers, "n4").is_some_and(|peer| !peer.alive)
        })
        .await;
    }))
    .await;
    assert_within(Duration::from_secs(3), begun.elapsed(), stall);
    assert!(!suspected.get() || stall > STARVED, "one that lives was suspected (longest stall {stall:?})");
}

#[tokio::test]
async fn a_node_that_comes_back_counts_once_with_its_newest_start() {
    let mut nodes = fleet(2).await;
    all_see_all(&mut nodes).await;
    let seed = nodes[0].gossip.advertised();
    nodes[1].gossip.set_facts(&facts("old")).await.unwrap();
    let bound = PATIENCE;
    let is_in = |zone: &'static str| {
        move |peers: &[Peer]| {
            peers.len() == 1 && peers[0].alive && peers[0].facts.as_ref().is_some_and(|facts| facts.zone == zone)
        }
    };
    nodes[0].until("n2 in the old zone", bound, is_in("old")).await;
    let again = nodes.pop().unwrap();
    again.gossip.stop().await;
    let mut nodes = [nodes.pop().unwrap(), Node::start(settings("n2", &[seed])).await];
    nodes[1].gossip.set_facts(&facts("new")).await.unwrap();
    nodes[0].until("n2 in the new zone", bound, is_in("new")).await;
    nodes[1].until("n1 only", bound, |peers| peers.len() == 1 && alive(peers) == 1).await;
}

#[tokio::test]
async fn a_node_that_leaves_vanishes_without_being_suspected() {
    let mut nodes = fleet(3).await;
    all_see_all(&mut nodes).await;
    let leaver = nodes.pop().unwrap();
    let suspected = Cell::new(false);
    let rest = on_all(&mut nodes, async |node| {
        node.until("n3 gone", PATIENCE, |peers| {
            suspected.set(suspected.get() || alive(peers) < peers.len());
            find(peers, "n3").is_none()
        })
        .await;
    });
    let (_, stall) = with_longest_stall(async { tokio::join!(leaver.gossip.leave(), rest) }).await;
    assert!(!suspected.get() || stall > STARVED, "suspected (longest stall {stall:?})");
}

#[tokio::test]
async fn a_node_with_the_wrong_key_never_appears_and_is_counted() {
    let mut nodes = fleet(2).await;
    let seed = nodes[0].gossip.advertised();
    let mut stranger = Node::start(GossipSettings { keys: vec![[9; 32]], ..settings("stranger", &[seed]) }).await;
    all_see_all(&mut nodes).await;
    let refused = async {
        while nodes[0].gossip.figures().refused(Refusal::Forged) < 5 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(5), refused).await.expect("its datagrams are counted");
    assert!(nodes[0].peer("stranger").is_none() && nodes[1].peer("stranger").is_none());
    assert!(stranger.inbox.try_recv().is_err(), "and it sees nobody");
}

#[tokio::test]
async fn a_cluster_of_another_name_with_the_same_key_stays_apart() {
    let mut nodes = fleet(2).await;
    let seed = nodes[0].gossip.advertised();
    let other = GossipSettings { cluster: ClusterName::new("other").unwrap(), ..settings("n9", &[seed]) };
    let _other = Node::start(other).await;
    all_see_all(&mut nodes).await;
    let refused = async {
        while nodes[0].gossip.figures().refused(Refusal::OtherCluster) < 5 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(5), refused).await.expect("its datagrams are counted");
    assert!(nodes[0].peer("n9").is_none());
}

#[tokio::test]
async fn a_key_is_replaced_node_by_node_with_nobody_lost() {
    const NEW: [u8; 32] = [2; 32];
    let mut nodes = vec![Node::start(GossipSettings { keys: vec![KEY, NEW], ..settings("n1", &[]) }).await];
    let seed = nodes[0].gossip.advertised();
    // n2 seals with the new key already, n3 still with the old one; each knows both.
    for (node, keys) in [("n2", vec![NEW, KEY]), ("n3", vec![KEY, NEW])] {
        nodes.push(Node::start(GossipSettings { keys, ..settings(node, &[seed]) }).await);
    }
    all_see_all(&mut nodes).await;
    let with_other_key = async {
        while nodes.iter().any(|node| node.gossip.figures().opened_with_old_key == 0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(5), with_other_key).await.expect("both keys are in use, and it shows");
    assert!(nodes.iter().all(|node| node.gossip.figures().refused(Refusal::Forged) == 0));
}

#[tokio::test]
async fn big_reports_cross_in_pieces_and_change_one_shard_at_a_time() {
    let mut nodes = fleet(3).await;
    all_see_all(&mut nodes).await;
    let mut streams: Vec<_> = (0..200).map(|n| stream(&format!("site/cam{n}"), 4)).collect();
    assert_eq!(nodes[0].gossip.set_streams(&streams).await, 0);
    let sorted = |mut streams: Vec<StreamReport>| {
        streams.sort_by(|a, b| a.name.cmp(&b.name));
        streams
    };
    for round in 0..2 {
        let expected = sorted(streams.clone());
        on_all(&mut nodes[1..], async |node| {
            node.until("all streams of n1", PATIENCE, |peers| {
                find(peers, "n1").is_some_and(|peer| sorted(peer.streams.clone()) == expected)
            })
            .await;
        })
        .await;
        // Then most of them go, and whole shards with them.
        if round == 0 {
            streams.truncate(2);
            nodes[0].gossip.set_streams(&streams).await;
        }
    }
    let figures = nodes[1].gossip.figures();
    assert!(figures.bytes_in / figures.datagrams_in < 1_200);
    assert_eq!(figures.unreadable_values, 0);
}

#[tokio::test]
async fn a_drain_appears_and_disappears() {
    let mut nodes = fleet(2).await;
    let drain = DrainReport {
        id: DrainId::new("d1").unwrap(),
        phase: Phase::PreNotification,
        started: UnixMillis(1),
        deadline: UnixMillis(2),
        nodes: vec![],
        streams: Default::default(),
        moving: vec![],
    };
    let bound = PATIENCE;
    nodes[0].gossip.set_drain(None).await.unwrap();
    nodes[0].gossip.set_drain(Some(&drain)).await.unwrap();
    nodes[1].until("the drain", bound, |peers| find(peers, "n1").is_some_and(|peer| peer.drain.is_some())).await;
    nodes[0].gossip.set_drain(None).await.unwrap();
    nodes[1].until("no drain", bound, |peers| find(peers, "n1").is_some_and(|peer| peer.drain.is_none())).await;
}

#[tokio::test]
async fn a_report_too_long_is_an_error_and_the_last_one_stays() {
    let mut nodes = fleet(2).await;
    nodes[0].gossip.set_facts(&facts("zone-a")).await.unwrap();
    let error = nodes[0].gossip.set_facts(&facts(&"z".repeat(100_000))).await.unwrap_err();
    assert!(matches!(error, GossipError::TooLong { key: "facts", bytes: 100_000.. }), "{error}");
    assert_eq!(nodes[0].gossip.figures().oversize_values, 1);
    nodes[1]
        .until("the last facts", PATIENCE, |peers| {
            find(peers, "n1").is_some_and(|peer| peer.facts == Some(facts("zone-a")))
        })
        .await;
}

#[tokio::test]
async fn a_value_that_cannot_be_read_is_not_said_and_counted() {
    let mut nodes = fleet(2).await;
    {
        let chitchat = nodes[0].gossip.handle.chitchat();
        let mut chitchat = chitchat.lock().await;
        let state = chitchat.self_node_state();
        state.set(publish::LOAD, "{\"half\":");
        state.set(publish::DRAIN, "[1,2]");
        // A newer version's field is no reason to know nothing.
        let mut facts = serde_json::to_value(facts("zone-a")).unwrap();
        facts["rack"] = 7.into();
        state.set(publish::FACTS, facts);
        state.set("plan", "a key that this version does not know");
    }
    nodes[1]
        .until("facts but no load", PATIENCE, |peers| {
            find(peers, "n1").is_some_and(|peer| peer.facts == Some(facts("zone-a")))
        })
        .await;
    let peer = nodes[1].peer("n1").unwrap();
    assert_eq!((&peer.load, &peer.drain), (&None, &None));
    assert_eq!(nodes[1].gossip.figures().unreadable_values, 2);
}

#[tokio::test]
async fn seeds_handed_in_later_join_two_fleets() {
    let mut one = Node::start(settings("n1", &[])).await;
    let mut two = Node::start(settings("n2", &[])).await;
    // Its own address and a dead one among them do no harm.
    two.gossip.add_seeds(vec![two.gossip.advertised(), ([127, 0, 0, 1], 9).into(), one.gossip.advertised()]);
    let bound = PATIENCE;
    one.until("n2", bound, |peers| alive(peers) == 1).await;
    two.until("n1", bound, |peers| alive(peers) == 1).await;
}

#[tokio::test]
async fn a_name_among_the_seeds_is_looked_up() {
    let mut one = Node::start(settings("n1", &[])).await;
    let seeds = vec![
        "no-such-host.invalid:7946".to_owned(),
        "_gossip._udp.no-such-service.invalid".to_owned(),
        format!("localhost:{}", one.gossip.advertised().port()),
    ];
    let mut two = Node::start(GossipSettings { seeds, ..settings("n2", &[]) }).await;
    // Names that do not resolve hold the others up for as long as DNS takes to say so.
    let bound = Duration::from_secs(20);
    one.until("n2", bound, |peers| alive(peers) == 1).await;
    two.until("n1", bound, |peers| alive(peers) == 1).await;
}

#[tokio::test]
async fn a_flood_of_garbage_does_not_end_gossip() {
    let mut nodes = fleet(2).await;
    all_see_all(&mut nodes).await;
    let target = nodes[0].gossip.advertised();
    let attacker = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut garbage = vec![0_u8; 1_400];
    let mut state = 1_u64;
    for number in 0..5_000_usize {
        for byte in &mut garbage {
            // A linear congruential generator (Knuth's constants): any garbage will do.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (state >> 56) as u8;
        }
        // Every other one looks like ours at its beginning.
        if number % 2 == 0 {
            garbage[0] = 1;
        }
        attacker.send_to(&garbage[..number % 1_400], target).await.unwrap();
        if number % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    nodes[0].gossip.set_load(&load(9)).await.unwrap();
    nodes[1]
        .until("the load of n1 after the flood", PATIENCE, |peers| {
            find(peers, "n1").is_some_and(|peer| peer.alive && peer.load == Some(load(9)))
        })
        .await;
    let figures = nodes[0].gossip.figures();
    let refused: u64 = figures.refused.iter().map(|(_, count)| count).sum();
    assert!(refused > 1_000, "most arrive, and none is taken: {figures:?}");
    assert!(figures.refused(Refusal::Truncated) > 0 && figures.refused(Refusal::Oversize) > 0, "{figures:?}");
}

#[tokio::test]
async fn datagrams_recorded_on_the_way_are_refused_when_they_come_again() {
    // n2 reaches n1 through a relay that sends everything twice.
    let mut one = Node::start(settings("n1", &[])).await;
    let relay = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let target = one.gossip.advertised();
    let mut two = Node::start(settings("n2", &[relay.local_addr().unwrap()])).await;
    let repeat = async {
        let mut datagram = [0; 2_000];
        loop {
            let length = relay.recv(&mut datagram).await.unwrap();
            for _ in 0..2 {
                relay.send_to(&datagram[..length], target).await.unwrap();
            }
        }
    };
    let bound = PATIENCE;
    tokio::select! {
        () = repeat => unreachable!("it repeats for ever"),
        () = async {
            one.until("n2", bound, |peers| alive(peers) == 1).await;
            two.until("n1", bound, |peers| alive(peers) == 1).await;
        } => {}
    }
    let figures = one.gossip.figures();
    assert!(figures.refused(Refusal::Replayed) > 0, "{figures:?}");
}

/// Passes on what comes for `node`, but for a share of `lost` in 100, chosen by a fixed generator.
async fn lossy_relay(relay: UdpSocket, node: SocketAddr, lost: u64) {
    let mut datagram = [0; 2_000];
    let mut state = u64::from(node.port());
    loop {
        let length = relay.recv(&mut datagram).await.unwrap();
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if (state >> 33) % 100 >= lost {
            relay.send_to(&datagram[..length], node).await.unwrap();
        }
    }
}

#[tokio::test]
async fn with_a_quarter_of_all_datagrams_lost_all_find_each_other_and_nobody_is_suspected() {
    let mut nodes = Vec::new();
    let mut relays = JoinSet::new();
    let mut seeds = Vec::new();
    for number in 1..=5 {
        // Each node is reached through a relay of its own.
        let relay = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let advertise = relay.local_addr().unwrap();
        let node = Node::start(GossipSettings { advertise, ..settings(&format!("n{number}"), &seeds) }).await;
        relays.spawn(lossy_relay(relay, node.gossip.listening(), 25));
        seeds = vec![advertise];
        nodes.push(node);
    }
    all_see_all(&mut nodes).await;
    on_all(&mut nodes, async |node| node.assert_nobody_suspected_for(Duration::from_secs(5), 4).await).await;
    nodes[0].gossip.set_load(&load(3)).await.unwrap();
    on_all(&mut nodes[1..], async |node| {
        node.until("the load of n1", PATIENCE, |peers| find(peers, "n1").is_some_and(|peer| peer.load.is_some())).await;
    })
    .await;
}

#[tokio::test]
async fn a_node_that_was_held_up_for_a_second_suspects_nobody_when_it_goes_on() {
    // The others live on a thread of their own, so that only this one is held up.
    let (to_here, from_there) = std::sync::mpsc::channel();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let there = std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let nodes = fleet(3).await;
            to_here.send(nodes[0].gossip.advertised()).unwrap();
            let _ = ended.await;
        });
    });
    let seed = from_there.recv_timeout(Duration::from_secs(5)).unwrap();
    let mut here = Node::start(settings("here", &[seed])).await;
    here.until("all others", PATIENCE, |peers| alive(peers) == 3).await;
    // chitchat has settled when its samples outweigh the prior.
    here.gossip.set_load(&load(1)).await.unwrap();
    let _ = timeout(Duration::from_secs(1), here.until("nothing", Duration::from_secs(9), |_| false)).await;
    // Blocks the runtime, as SIGSTOP or a starved machine would.
    assert!(from_there.recv_timeout(Duration::from_secs(1)).is_err());
    here.assert_nobody_suspected_for(Duration::from_secs(2), 3).await;
    let _ = end.send(());
    there.join().unwrap();
}

#[tokio::test]
async fn a_dead_node_is_forgotten_after_the_grace() {
    let short = |node: &str, seeds: &[SocketAddr]| GossipSettings {
        dead_node_grace: Duration::from_secs(1),
        ..settings(node, seeds)
    };
    let mut one = Node::start(short("n1", &[])).await;
    let two = Node::start(short("n2", &[one.gossip.advertised()])).await;
    one.until("n2", PATIENCE, |peers| alive(peers) == 1).await;
    drop(two);
    one.until("n2 not alive", PATIENCE, |peers| alive(peers) == 0).await;
    one.until("n2 forgotten", PATIENCE, <[Peer]>::is_empty).await;
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_with_what_to_do() {
    let refused = async |change: &dyn Fn(&mut GossipSettings)| {
        let mut settings = settings("n1", &[]);
        change(&mut settings);
        Gossip::start(settings, UnixMillis(1)).await.expect_err("refused").to_string()
    };
    assert!(refused(&|settings| settings.keys.clear()).await.contains("cluster key"));
    assert!(refused(&|settings| settings.advertise = ([0, 0, 0, 0], 0).into()).await.contains("advertise"));
    assert!(refused(&|settings| settings.seeds.push("nowhere".into())).await.contains("nowhere"));
    let taken = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    assert!(refused(&|settings| settings.listen = address).await.contains(&address.to_string()));
}

#[test]
fn keys_are_not_shown() {
    assert!(!format!("{:?}", settings("n1", &[])).contains("1, 1, 1"));
}
