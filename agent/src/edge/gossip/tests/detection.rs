//! How soon a silence is noticed by all, and that nothing but silence is.

use super::*;

/// The goal is for 30 agents, and is measured by the bench `detection`; as many as fit beside other tests here.
const NODES: usize = 8;

/// A bound that only a hang reaches, also where this process hardly runs.
const AT_LAST: Duration = Duration::from_secs(60);

/// Everybody but `silent` suspects it; how long that took, and who else was suspected meanwhile.
async fn until_all_suspect(nodes: &mut [Node], silent: &str) -> (Duration, usize) {
    let begun = Instant::now();
    let wrong = Cell::new(0);
    let suspected_already: Vec<_> =
        nodes[0].peers.iter().filter(|peer| !peer.alive).map(|peer| &peer.node).cloned().collect();
    on_all(nodes, async |node| {
        node.until("the silent one is suspected", AT_LAST, |peers| {
            let is_wrong =
                |peer: &&Peer| !peer.alive && peer.node.as_str() != silent && !suspected_already.contains(&peer.node);
            wrong.set(wrong.get() + peers.iter().filter(is_wrong).count());
            find(peers, silent).is_some_and(|peer| !peer.alive)
        })
        .await;
    })
    .await;
    (begun.elapsed(), wrong.get())
}

#[tokio::test]
async fn a_crash_is_suspected_by_all_within_a_second_and_a_half_whoever_it_is() {
    let mut nodes = fleet(NODES).await;
    all_see_all(&mut nodes).await;
    // The last one first: the first is the seed of all.
    for crashed in (NODES - 2..=NODES).rev() {
        drop(nodes.pop());
        let name = format!("n{crashed}");
        let ((took, wrong), stall) = with_longest_stall(until_all_suspect(&mut nodes, &name)).await;
        assert_within(Duration::from_millis(1_500), took, stall);
        assert!(wrong == 0 || stall > STARVED, "{wrong} that live were suspected (longest stall {stall:?})");
    }
}

#[tokio::test]
async fn a_node_that_only_stalls_is_suspected_in_the_same_time_and_alive_at_once_when_it_goes_on() {
    // One that crashed has closed its socket, and its machine may say so. One that hangs has not.
    let (to_here, from_there) = std::sync::mpsc::channel();
    let (stall, stalls) = std::sync::mpsc::channel::<()>();
    let mut nodes = fleet(5).await;
    let seed = nodes[0].gossip.advertised();
    let there = std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let mut hangs = Node::start(settings("hangs", &[seed])).await;
            hangs.until("all others", PATIENCE, |peers| alive(peers) == 5).await;
            to_here.send(()).unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
            // Blocks its runtime, as SIGSTOP would: until it is seen to be suspected.
            let _ = stalls.recv();
            let _ = timeout(PATIENCE, std::future::pending::<()>()).await;
        });
    });
    on_all(&mut nodes, async |node| node.until("it too", PATIENCE, |peers| alive(peers) == 5).await).await;
    from_there.recv_timeout(PATIENCE).unwrap();
    tokio::time::sleep(Duration::from_millis(900)).await;
    let ((took, _), held_up) = with_longest_stall(until_all_suspect(&mut nodes, "hangs")).await;
    // It hangs up to 0.1 s after this is looked for.
    assert_within(Duration::from_millis(1_600), took, held_up);
    let begun = Instant::now();
    drop(stall);
    let back = on_all(&mut nodes, async |node| node.until("it is back", PATIENCE, |peers| alive(peers) == 5).await);
    let ((), held_up) = with_longest_stall(back).await;
    assert_within(Duration::from_secs(1), begun.elapsed(), held_up);
    drop(nodes);
    drop(there);
}

#[tokio::test]
async fn under_a_quarter_of_loss_nobody_is_suspected_but_the_one_that_crashed() {
    let mut nodes = Vec::new();
    let mut seeds = Vec::new();
    for number in 1..=NODES {
        let lossy = GossipSettings { lose_in_1000: 250, ..settings(&format!("n{number}"), &seeds) };
        nodes.push(Node::start(lossy).await);
        seeds = vec![nodes[0].gossip.advertised()];
    }
    all_see_all(&mut nodes).await;
    on_all(&mut nodes, async |node| node.assert_nobody_suspected_for(Duration::from_secs(5), NODES - 1).await).await;
    drop(nodes.pop());
    let ((took, wrong), stall) = with_longest_stall(until_all_suspect(&mut nodes, &format!("n{NODES}"))).await;
    assert_within(Duration::from_secs(2), took, stall);
    assert!(wrong == 0 || stall > STARVED, "{wrong} that live were suspected (longest stall {stall:?})");
    let asked: u64 = nodes.iter().map(|node| node.gossip.figures().probes).sum();
    println!("{asked} probes in all");
}
