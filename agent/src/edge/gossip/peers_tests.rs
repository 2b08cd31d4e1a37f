use std::net::SocketAddr;

use chitchat::{ChitchatConfig, DeletionStatus, FailureDetectorConfig, VersionedValue};
use tokio::sync::watch;

use super::super::seal::Sender;
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
    assert_eq!(view.look(&chitchat, false), Change::None, "alone");
    let n1 = id("n1", 1);
    bring(&mut chitchat, &n1, 1, &[(FACTS, FACTS_A), (LOAD, LOAD_1)]);
    assert_eq!(view.look(&chitchat, false), Change::Matters);
    assert_eq!(view.look(&chitchat, false), Change::None);
    bring(&mut chitchat, &n1, 3, &[(FACTS, FACTS_A), (LOAD, LOAD_2)]);
    assert_eq!(view.peers()[0].load.as_ref().and_then(|load| load.cameras), Some(1), "not looked at yet");
    // The facts have a new version, so they are new, though they say the same.
    assert_eq!(view.look(&chitchat, false), Change::Matters);
    let mut only_load = |load: &str, version| {
        let state = chitchat.node_states().get(&n1).unwrap();
        let facts = state.get_versioned(FACTS).unwrap().clone();
        let load = VersionedValue { value: load.to_owned(), version, status: DeletionStatus::Set };
        let values = [(FACTS.to_owned(), facts), (LOAD.to_owned(), load)];
        chitchat.reset_node_state_if_update(&n1, values.into_iter(), version, 0);
        view.look(&chitchat, false)
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
    view.look(&chitchat, false);
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
    view.look(&chitchat, false);
    assert!(!view.warned_of_clock);
    bring(&mut chitchat, &id(ME, 11), 1, &[(LOAD, LOAD_1)]);
    view.look(&chitchat, false);
    assert!(view.warned_of_clock);
}

#[test]
fn a_node_that_left_is_not_among_the_peers() {
    let mut chitchat = chitchat();
    let mut view = view();
    bring(&mut chitchat, &id("n1", 1), 1, &[(LOAD, LOAD_1)]);
    view.look(&chitchat, false);
    assert_eq!(view.peers().len(), 1);
    bring(&mut chitchat, &id("n1", 1), 2, &[(LOAD, LOAD_1), (LEFT, "")]);
    assert_eq!(view.look(&chitchat, false), Change::Matters);
    assert_eq!(view.peers(), []);
    // It is back when it starts again.
    bring(&mut chitchat, &id("n1", 2), 1, &[(LOAD, LOAD_1)]);
    assert_eq!(view.look(&chitchat, false), Change::Matters);
    assert_eq!(view.peers().len(), 1);
}

#[test]
fn names_that_are_no_node_ids_are_passed_over() {
    let mut chitchat = chitchat();
    let mut view = view();
    bring(&mut chitchat, &id("no such name", 1), 1, &[(LOAD, LOAD_1)]);
    bring(&mut chitchat, &id("", 1), 1, &[(LOAD, LOAD_1)]);
    assert_eq!(view.look(&chitchat, false), Change::None);
    assert_eq!(view.peers(), []);
}

/// A view of `n1` and `n2`, and of the time that passes over them.
struct Watched {
    view: View,
    heartbeats: [u64; 2],
}

impl Watched {
    /// Both were heard.
    fn new() -> Self {
        let mut watched = Self { view: view(), heartbeats: [0, 0] };
        watched.look(&[0, 1]);
        watched.look(&[0, 1]);
        watched.sent();
        watched
    }

    /// A look in which the heartbeats of `beating` have risen.
    fn look(&mut self, beating: &[usize]) -> Change {
        let mut change = Change::None;
        let mut acts = Vec::new();
        self.view.begin_look();
        for (index, name) in NAMES.iter().enumerate() {
            self.heartbeats[index] += u64::from(beating.contains(&index));
            let mut state = NodeState::for_test();
            state.try_set_heartbeat(serde_json::from_value(self.heartbeats[index].into()).unwrap());
            let node = NodeId::new(*name).unwrap();
            change = change.max(self.view.look_at(&node, &id(name, 1), &state, true, &mut acts));
        }
        for (node, act) in acts {
            self.view.act(&node, act);
        }
        change
    }

    fn sent(&mut self) -> Vec<Probe> {
        self.view.take_probes().map(|(_, probe)| probe).collect()
    }

    fn receive(&mut self, from: &str, generation: u64, probe: Probe) -> Change {
        let address = ([127, 0, 0, 1], 7946).into();
        let from = Sender { node: NodeId::new(from).unwrap(), address, generation };
        self.view.receive(Received { from, probe })
    }

    fn alive(&self, index: usize) -> bool {
        self.view.peers()[index].alive
    }

    /// Looks in which only `n2` is heard, until `n1` is asked; the number that its answer must bear.
    fn until_asked(&mut self) -> Nonce {
        for _ in 0..10 {
            self.look(&[1]);
            if let Some(Probe::Ping { nonce, node }) = self.sent().pop() {
                assert_eq!(node.as_str(), NAMES[0]);
                return nonce;
            }
        }
        panic!("not asked");
    }
}

const NAMES: [&str; 2] = ["n1", "n2"];

fn subject() -> Subject {
    Subject { node: NodeId::new(NAMES[0]).unwrap(), generation: 1 }
}

#[test]
fn a_node_that_answers_is_not_silent_and_an_answer_to_nothing_is_none() {
    let mut watched = Watched::new();
    let nonce = watched.until_asked();
    for (from, generation, wrong) in [(NAMES[0], 1, nonce + 1), (NAMES[0], 2, nonce), (NAMES[1], 1, nonce)] {
        watched.receive(from, generation, Probe::Pong { nonce: wrong });
    }
    for _ in 0..5 {
        watched.look(&[1]);
    }
    assert!(!watched.alive(0), "none of these was its answer to this question");
    assert!(watched.sent().iter().any(|probe| matches!(probe, Probe::Doubt { about, .. } if *about == subject())));
    assert_eq!(watched.receive(NAMES[0], 1, Probe::Pong { nonce }), Change::Matters);
    assert!(watched.alive(0) && watched.alive(1));
}

#[test]
fn whoever_doubts_is_told_of_an_answer_and_of_no_heartbeat() {
    let mut watched = Watched::new();
    watched.receive(NAMES[1], 1, Probe::Doubt { nonce: 5, about: subject() });
    let asked = watched.sent();
    let [Probe::Ping { nonce, .. }] = asked[..] else { panic!("{asked:?}") };
    watched.look(&[0, 1]);
    assert_eq!(watched.sent(), [], "it may have been on its way for long");
    watched.receive(NAMES[0], 1, Probe::Pong { nonce });
    assert_eq!(watched.sent(), [Probe::Vouch { nonce: 5, node: NodeId::new(NAMES[0]).unwrap() }]);
}

#[test]
fn a_verdict_of_another_is_taken_only_when_it_does_not_answer_here_either() {
    let mut watched = Watched::new();
    watched.receive(NAMES[1], 1, Probe::Silent { about: subject() });
    assert!(watched.alive(0), "it is asked first");
    let asked = watched.sent();
    let [Probe::Ping { nonce, .. }] = asked[..] else { panic!("{asked:?}") };
    watched.receive(NAMES[0], 1, Probe::Pong { nonce });
    watched.look(&[1]);
    watched.look(&[1]);
    assert!(watched.alive(0), "it answered");
    watched.receive(NAMES[1], 1, Probe::Silent { about: subject() });
    watched.look(&[1]);
    assert_eq!(watched.look(&[1]), Change::Matters);
    assert!(!watched.alive(0));
    assert!(watched.view.somebody_fell_silent());
}

#[test]
fn a_doubt_about_this_node_is_answered_by_itself_and_one_about_a_stranger_is_not() {
    let mut watched = Watched::new();
    let me = Subject { node: NodeId::new(ME).unwrap(), generation: 10 };
    watched.receive(NAMES[1], 1, Probe::Doubt { nonce: 9, about: me.clone() });
    assert_eq!(watched.sent(), [Probe::Vouch { nonce: 9, node: me.node.clone() }]);
    watched.receive(NAMES[1], 1, Probe::Doubt { nonce: 9, about: Subject { generation: 9, ..me } });
    watched.receive(NAMES[1], 1, Probe::Doubt { nonce: 9, about: Subject { generation: 2, ..subject() } });
    let stranger = NodeId::new("stranger").unwrap();
    watched.receive(NAMES[1], 1, Probe::Doubt { nonce: 9, about: Subject { node: stranger, ..subject() } });
    assert_eq!(watched.sent(), []);
}

#[test]
fn probes_are_bounded_when_everybody_falls_silent() {
    let mut watched = Watched::new();
    for node in 0..400 {
        let name = format!("x{node}");
        for heartbeat in 1..3 {
            let mut state = NodeState::for_test();
            state.try_set_heartbeat(serde_json::from_value(heartbeat.into()).unwrap());
            watched.view.look_at(&NodeId::new(&*name).unwrap(), &id(&name, 1), &state, true, &mut Vec::new());
        }
    }
    for node in 0..400 {
        watched.view.act(&NodeId::new(format!("x{node}")).unwrap(), Act::Doubt);
    }
    assert!(watched.sent().len() <= MAX_TO_SEND + 400, "a ping each, and help within the bound");
}

#[test]
fn when_many_are_silent_at_once_nobody_is_judged_in_haste_and_questions_are_few() {
    let mut view = view();
    let mut state = NodeState::for_test();
    let mut look = |view: &mut View, heartbeat: u64| {
        let mut acts = Vec::new();
        view.begin_look();
        let counts = !view.is_strained || view.looks.is_multiple_of(STRAINED_PACE);
        state.try_set_heartbeat(serde_json::from_value(heartbeat.into()).unwrap());
        for number in 0..12 {
            let name = format!("n{number}");
            view.look_at(&NodeId::new(&*name).unwrap(), &id(&name, 1), &state, counts, &mut acts);
        }
        for (node, act) in acts {
            view.act(&node, act);
        }
        let sent = view.take_probes().count();
        (view.peers().iter().filter(|peer| peer.alive).count(), sent)
    };
    look(&mut view, 1);
    assert_eq!(look(&mut view, 2).0, 12);
    let silent: Vec<(usize, usize)> = (0..60).map(|_| look(&mut view, 2)).collect();
    assert_eq!(silent[15].0, 12, "one of them would have been silent long ago");
    assert_eq!(silent[59].0, 0, "and in the end they are");
    let most = silent.iter().map(|(_, sent)| *sent).max();
    assert!(most <= Some(12 * (1 + ASKED_AGAIN)), "{most:?} at once");
}
