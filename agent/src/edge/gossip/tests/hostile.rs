//! Wrong keys, other clusters, replays, garbage, and settings that cannot work.

use super::*;

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
