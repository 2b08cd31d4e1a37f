use mtxfleet_wire::{SCHEMA, UnixMillis};

use super::*;

const DEAD_AFTER: Duration = Duration::from_secs(5);

fn id(text: &str) -> NodeId {
    NodeId::new(text).expect("valid")
}

fn at(ms: u64) -> Mono {
    Mono(Duration::from_millis(ms))
}

fn peer(name: &str, role: Role) -> Peer {
    Peer {
        node: id(name),
        alive: true,
        facts: Some(NodeFacts {
            schema: SCHEMA,
            role,
            zone: String::new(),
            rtsp: format!("{name}:8554"),
            http: format!("http://{name}:8780"),
            gossip: String::new(),
            version: "0".into(),
            started: UnixMillis(0),
            instance: None,
        }),
        load: Some(LoadReport {
            state: NodeState::Active,
            server: ServerHealth::Up,
            cameras: None,
            workers: None,
            viewers: None,
            inbound: None,
            outbound: Some(Bitrate(400)),
            discarded_packets: 0,
            suspects: Vec::new(),
            health: None,
            cpu: None,
            memory: None,
            disk_free: None,
            capacity: Bitrate(1000),
            redis: true,
            protected: false,
            declines: None,
            sampled: UnixMillis(0),
        }),
        streams: Arc::default(),
        ..Peer::silent(NodeId::new(name).expect("valid"))
    }
}

fn owning(mut peer: Peer, stream: &str, flowing: bool, claim: u64) -> Peer {
    peer.streams = [StreamReport {
        name: StreamName::new(stream).expect("valid"),
        owned: true,
        ready: true,
        flowing,
        // A clock that is wrong by years decides nothing.
        since: UnixMillis(u64::MAX - claim),
        claim,
        legs: Vec::new(),
        readers: 0,
        bitrate: None,
    }]
    .into();
    peer
}

#[test]
fn a_node_that_stalls_for_a_second_is_suspected_and_never_dead() {
    let mut fleet = Fleet::new(DEAD_AFTER);
    let silent = || Peer { alive: false, ..peer("a", Role::Distribution) };
    assert_eq!(fleet.update(at(0), vec![peer("a", Role::Distribution)]), [Change::Joined(id("a"), Role::Distribution)]);
    assert_eq!(fleet.update(at(1000), vec![silent()]), [Change::Suspected(id("a"))]);
    assert_eq!(fleet.serving(Role::Distribution).count(), 0, "nothing new goes to a suspect");
    assert_eq!(fleet.pass_time(at(2000)), []);
    assert_eq!(fleet.update(at(2100), vec![peer("a", Role::Distribution)]), [Change::Returned(id("a"))]);
    assert_eq!(fleet.pass_time(at(60_000)), []);
}

/// A live node that does not hear `other`.
fn suspecting(name: &str, other: &str) -> Peer {
    let mut peer = peer(name, Role::Distribution);
    peer.load.as_mut().expect("set").suspects = vec![id(other)];
    peer
}

#[test]
fn a_node_that_is_told_of_before_it_is_heard_fell_silent_for_nobody() {
    let mut fleet = Fleet::new(DEAD_AFTER);
    let unheard = Peer { alive: false, ..peer("a", Role::Distribution) };
    assert_eq!(fleet.update(at(0), vec![unheard]), [Change::Joined(id("a"), Role::Distribution)]);
    assert_eq!(fleet.serving(Role::Distribution).count(), 0, "nothing is sent there yet");
    assert_eq!(fleet.update(at(100), vec![peer("a", Role::Distribution)]), [Change::Returned(id("a"))]);
    assert_eq!(fleet.serving(Role::Distribution).count(), 1);
}

#[test]
fn a_node_silent_for_long_is_dead_once_another_confirms_it_and_said_so_once() {
    let mut fleet = Fleet::new(DEAD_AFTER);
    let silent = || Peer { alive: false, ..peer("a", Role::Distribution) };
    let hears_it = || vec![silent(), peer("b", Role::Distribution)];
    fleet.update(at(0), vec![peer("a", Role::Distribution), peer("b", Role::Distribution)]);
    fleet.update(at(1000), hears_it());
    assert_eq!(fleet.update(at(7000), hears_it()), [], "b hears it");
    let confirmed = || vec![silent(), suspecting("b", "a")];
    assert_eq!(fleet.update(at(7100), confirmed()), [Change::Died(id("a"))]);
    assert_eq!(fleet.update(at(8000), confirmed()), []);
}

#[test]
fn a_node_that_is_cut_off_declares_nobody_dead() {
    let mut fleet = Fleet::new(DEAD_AFTER);
    let all = |alive| ["a", "b", "c"].map(|name| Peer { alive, ..suspecting(name, "a") }).to_vec();
    fleet.update(at(0), all(true));
    fleet.update(at(1000), all(false));
    assert_eq!(fleet.pass_time(at(600_000)), []);
}

#[test]
fn in_a_fleet_of_two_ones_own_word_is_enough() {
    let mut fleet = Fleet::new(DEAD_AFTER);
    fleet.update(at(0), vec![peer("a", Role::Distribution)]);
    fleet.update(at(1000), vec![Peer { alive: false, ..peer("a", Role::Distribution) }]);
    assert_eq!(fleet.pass_time(at(6000)), [Change::Died(id("a"))]);
}

#[test]
fn the_claim_whose_bytes_grow_owns_the_stream_then_the_one_of_the_later_generation() {
    let mut fleet = Fleet::new(DEAD_AFTER);
    let cam = StreamName::new("cam1").expect("valid");
    let old_but_flowing = owning(peer("a", Role::Ingestion), "cam1", true, 1);
    let new_but_still = owning(peer("b", Role::Ingestion), "cam1", false, 9);
    fleet.update(at(0), vec![old_but_flowing.clone(), new_but_still]);
    assert_eq!(fleet.owners()[&cam].0, id("a"));
    let new_and_flowing = owning(peer("b", Role::Ingestion), "cam1", true, 9);
    fleet.update(at(1), vec![old_but_flowing.clone(), new_and_flowing.clone()]);
    assert_eq!(fleet.owners()[&cam].0, id("b"));
    fleet.update(at(2), vec![old_but_flowing, Peer { alive: false, ..new_and_flowing }]);
    assert_eq!(fleet.owners()[&cam].0, id("a"), "a claim of a suspect comes after one of a live node");
}

#[test]
fn a_distribution_node_never_owns_a_stream() {
    let mut fleet = Fleet::new(DEAD_AFTER);
    fleet.update(at(0), vec![owning(peer("a", Role::Distribution), "cam1", true, 1)]);
    assert!(fleet.owners().is_empty());
}

#[test]
fn one_node_speaks_for_the_dead() {
    let mut fleet = Fleet::new(DEAD_AFTER);
    fleet.update(at(0), vec![peer("a", Role::Ingestion), Peer { alive: false, ..peer("b", Role::Ingestion) }]);
    assert!(!fleet.speaks_for_the_dead(&id("c")));
    fleet.update(at(1), vec![Peer { alive: false, ..peer("a", Role::Ingestion) }]);
    assert!(fleet.speaks_for_the_dead(&id("c")));
}

#[test]
fn a_node_never_heard_is_given_longer_and_confirms_nobody_elses_verdict() {
    let mut fleet = Fleet::new(DEAD_AFTER);
    let told = || vec![Peer { alive: false, ..peer("a", Role::Distribution) }, suspecting("b", "a")];
    fleet.update(at(0), told());
    assert_eq!(fleet.silent().count(), 0);
    assert_eq!(fleet.update(at(29_000), told()), []);
    assert_eq!(fleet.update(at(30_000), told()), [Change::Died(id("a"))]);
    assert_eq!(fleet.silent().count(), 1);
}
