use std::net::SocketAddr;

use chitchat::{ChitchatConfig, DeletionStatus, FailureDetectorConfig, VersionedValue};
use tokio::sync::watch;

use super::super::detector::LOOK_EVERY;
use super::*;

const ME: &str = "me";

fn id(node: &str, generation: u64) -> ChitchatId {
    ChitchatId::new(node, generation, SocketAddr::from(([127, 0, 0, 1], 7946)))
}

fn chitchat() -> Chitchat {
    let config = ChitchatConfig {
        chitchat_id: id(ME, 10),
        cluster_id: "fleet".into(),
        gossip_interval: Duration::from_millis(200),
        listen_addr: ([127, 0, 0, 1], 0).into(),
        seed_nodes: Vec::new(),
        failure_detector_config: FailureDetectorConfig::default(),
        marked_for_deletion_grace_period: Duration::from_secs(900),
        catchup_callback: None,
        extra_liveness_predicate: None,
    };
    Chitchat::with_chitchat_id_and_seeds(config, watch::channel(Default::default()).1, Vec::new())
}

fn view() -> View {
    View::new(NodeId::new(ME).unwrap(), 10, Duration::from_millis(200), 1, Arc::default())
}

/// As if gossip had brought this state; each value's version is its place, from `version` on.
fn bring(chitchat: &mut Chitchat, from: &ChitchatId, version: u64, values: &[(&str, &str)]) {
    let versions = version..;
    let values = values.iter().zip(versions).map(|((key, value), version)| {
        let value = VersionedValue { value: (*value).to_owned(), version, status: DeletionStatus::Set };
        ((*key).to_owned(), value)
    });
    let values: Vec<_> = values.collect();
    let last = version + values.len() as u64 - 1;
    chitchat.reset_node_state_if_update(from, values.into_iter(), last, 0);
}

const FACTS_A: &str = r#"{"schema":1,"role":"ingestion","zone":"a","rtsp":"r","http":"h","version":"v","started":1}"#;
const LOAD_1: &str = r#"{"state":"active","server":{"is":"up"},"cameras":1,"capacity":1,"redis":true,"sampled":1}"#;
const LOAD_2: &str = r#"{"state":"active","server":{"is":"up"},"cameras":2,"capacity":1,"redis":true,"sampled":2}"#;
const LOAD_3: &str = r#"{"state":"draining","server":{"is":"up"},"cameras":2,"capacity":1,"redis":true,"sampled":3}"#;

#[test]
fn a_change_of_figures_waits_and_a_change_of_state_does_not() {
    let mut chitchat = chitchat();
    let mut view = view();
    assert_eq!(view.look(&chitchat, LOOK_EVERY), Change::None, "alone");
    let n1 = id("n1", 1);
    bring(&mut chitchat, &n1, 1, &[(FACTS, FACTS_A), (LOAD, LOAD_1)]);
    assert_eq!(view.look(&chitchat, LOOK_EVERY), Change::Matters);
    assert_eq!(view.look(&chitchat, LOOK_EVERY), Change::None);
    bring(&mut chitchat, &n1, 3, &[(FACTS, FACTS_A), (LOAD, LOAD_2)]);
    assert_eq!(view.peers()[0].load.as_ref().and_then(|load| load.cameras), Some(1), "not looked at yet");
    // The facts have a new version, so they are new, though they say the same.
    assert_eq!(view.look(&chitchat, LOOK_EVERY), Change::Matters);
    let mut only_load = |load: &str, version| {
        let state = chitchat.node_states().get(&n1).unwrap();
        let facts = state.get_versioned(FACTS).unwrap().clone();
        let load = VersionedValue { value: load.to_owned(), version, status: DeletionStatus::Set };
        let values = [(FACTS.to_owned(), facts), (LOAD.to_owned(), load)];
        chitchat.reset_node_state_if_update(&n1, values.into_iter(), version, 0);
        view.look(&chitchat, LOOK_EVERY)
    };
    assert_eq!(only_load(LOAD_1, 5), Change::Figures);
    assert_eq!(only_load(LOAD_3, 6), Change::Matters);
    // A key that this version does not know changes nothing here.
    assert_eq!(only_load(LOAD_3, 6), Change::None);
    assert_eq!(view.peers()[0].load.as_ref().map(|load| load.sampled.0), Some(3));
}

#[test]
fn of_several_starts_the_newest_counts_and_this_node_is_no_peer_of_itself() {
    let mut chitchat = chitchat();
    let mut view = view();
    bring(&mut chitchat, &id("n1", 7), 1, &[(LOAD, LOAD_2)]);
    bring(&mut chitchat, &id("n1", 3), 1, &[(LOAD, LOAD_1), (FACTS, FACTS_A)]);
    bring(&mut chitchat, &id(ME, 4), 1, &[(LOAD, LOAD_1)]);
    view.look(&chitchat, LOOK_EVERY);
    let peers = view.peers();
    assert_eq!(peers.len(), 1);
    assert_eq!(peers[0].load.as_ref().and_then(|load| load.cameras), Some(2));
    assert_eq!(peers[0].facts, None, "what an older start said is not mixed in");
}

#[test]
fn a_later_start_of_this_node_is_noticed_once() {
    let mut chitchat = chitchat();
    let mut view = view();
    bring(&mut chitchat, &id(ME, 4), 1, &[(LOAD, LOAD_1)]);
    view.look(&chitchat, LOOK_EVERY);
    assert!(!view.warned_of_clock);
    bring(&mut chitchat, &id(ME, 11), 1, &[(LOAD, LOAD_1)]);
    view.look(&chitchat, LOOK_EVERY);
    assert!(view.warned_of_clock);
}

#[test]
fn a_node_that_left_is_not_among_the_peers() {
    let mut chitchat = chitchat();
    let mut view = view();
    bring(&mut chitchat, &id("n1", 1), 1, &[(LOAD, LOAD_1)]);
    view.look(&chitchat, LOOK_EVERY);
    assert_eq!(view.peers().len(), 1);
    bring(&mut chitchat, &id("n1", 1), 2, &[(LOAD, LOAD_1), (LEFT, "")]);
    assert_eq!(view.look(&chitchat, LOOK_EVERY), Change::Matters);
    assert_eq!(view.peers(), []);
    // It is back when it starts again.
    bring(&mut chitchat, &id("n1", 2), 1, &[(LOAD, LOAD_1)]);
    assert_eq!(view.look(&chitchat, LOOK_EVERY), Change::Matters);
    assert_eq!(view.peers().len(), 1);
}

#[test]
fn names_that_are_no_node_ids_are_passed_over() {
    let mut chitchat = chitchat();
    let mut view = view();
    bring(&mut chitchat, &id("no such name", 1), 1, &[(LOAD, LOAD_1)]);
    bring(&mut chitchat, &id("", 1), 1, &[(LOAD, LOAD_1)]);
    assert_eq!(view.look(&chitchat, LOOK_EVERY), Change::None);
    assert_eq!(view.peers(), []);
}
