//! Who is alive, who is not, and how soon all know.

use super::*;

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
async fn a_node_that_leaves_while_the_others_are_held_up_vanishes_all_the_same() {
    let mut nodes = fleet(2).await;
    let seed = nodes[0].gossip.advertised();
    // On a thread of its own, so that only the others are held up.
    let (to_here, from_there) = std::sync::mpsc::channel();
    let (go, going) = tokio::sync::oneshot::channel::<()>();
    let there = std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let mut leaver = Node::start(settings("n3", &[seed])).await;
            leaver.until("all others alive", PATIENCE, |peers| alive(peers) == 2).await;
            let _ = going.await;
            leaver.gossip.leave().await;
            to_here.send(()).unwrap();
        });
    });
    on_all(&mut nodes, async |node| node.until("all others alive", PATIENCE, |peers| alive(peers) == 2).await).await;
    go.send(()).unwrap();
    // Blocks the runtime of these two, for longer than a node that waits for nobody needs to leave.
    let _ = from_there.recv_timeout(Duration::from_secs(1));
    on_all(&mut nodes, async |node| {
        node.until("n3 gone", PATIENCE, |peers| find(peers, "n3").is_none()).await;
    })
    .await;
    there.join().unwrap();
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
async fn a_node_that_was_held_up_for_two_seconds_suspects_nobody_when_it_goes_on() {
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
    assert!(from_there.recv_timeout(Duration::from_secs(2)).is_err());
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
