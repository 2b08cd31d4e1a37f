//! What nodes say of themselves crosses whole, and what cannot be said or read is harmless.

use super::*;

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
                find(peers, "n1").is_some_and(|peer| sorted(peer.streams.to_vec()) == expected)
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
        waiting_for: vec![],
        waiting_more: 0,
        pushed: vec![],
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
        state.set("someday", "a key that this version does not know");
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
