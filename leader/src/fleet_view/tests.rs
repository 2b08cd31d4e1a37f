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

/// Time passes as it does for a node that is not held up, with the same peers all along, and a new report of each every
/// second. What changed in the end.
fn until(fleet: &mut Fleet, from: u64, to: u64, peers: impl Fn() -> Vec<Peer>) -> Vec<Change> {
    let mut update = |ms: u64| {
        let mut peers = peers();
        peers.iter_mut().filter_map(|peer| peer.load.as_mut()).for_each(|load| load.sampled = UnixMillis(ms));
        fleet.update(at(ms), peers)
    };
    let changes = (from..to).step_by(1_000).flat_map(&mut update).collect::<Vec<_>>();
    assert_eq!(changes, [], "before the end");
    update(to)
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
    assert_eq!(until(&mut fleet, 2000, 7000, hears_it), [], "b hears it");
    let confirmed = || vec![silent(), suspecting("b", "a")];
    assert_eq!(until(&mut fleet, 7100, 7100, confirmed), [Change::Died(id("a"))]);
    assert_eq!(until(&mut fleet, 8000, 8000, confirmed), []);
}

#[test]
fn a_node_that_is_cut_off_declares_nobody_dead() {
    let mut fleet = Fleet::new(DEAD_AFTER);
    let all = |alive| ["a", "b", "c"].map(|name| Peer { alive, ..suspecting(name, "a") }).to_vec();
    fleet.update(at(0), all(true));
    fleet.update(at(1000), all(false));
    assert_eq!(until(&mut fleet, 2000, 600_000, || all(false)), []);
}

#[test]
fn what_another_said_long_ago_confirms_nothing() {
    let mut fleet = Fleet::new(DEAD_AFTER);
    let suspected = || vec![Peer { alive: false, ..peer("a", Role::Distribution) }, suspecting("b", "a")];
    fleet.update(at(0), vec![peer("a", Role::Distribution), peer("b", Role::Distribution)]);
    assert_eq!(fleet.update(at(1000), suspected()), [Change::Suspected(id("a"))]);
    // Nothing new of b comes any more: this node is cut off, and does not know it yet.
    let changes: Vec<Change> = (2..61).flat_map(|second| fleet.update(at(second * 1000), suspected())).collect();
    assert_eq!(changes, []);
    assert_eq!(until(&mut fleet, 61_000, 61_000, suspected), [Change::Died(id("a"))], "b says so now");
}

#[test]
fn in_a_fleet_of_two_ones_own_word_is_enough() {
    let mut fleet = Fleet::new(DEAD_AFTER);
    fleet.update(at(0), vec![peer("a", Role::Distribution)]);
    let silent = || vec![Peer { alive: false, ..peer("a", Role::Distribution) }];
    fleet.update(at(1000), silent());
    assert_eq!(until(&mut fleet, 2000, 6000, silent), [Change::Died(id("a"))]);
}

#[test]
fn a_node_that_was_held_up_takes_that_for_nobodys_silence() {
    let silent = || vec![Peer { alive: false, ..peer("a", Role::Distribution) }, suspecting("b", "a")];
    let all = || vec![peer("a", Role::Distribution), peer("b", Role::Distribution)];
    // It just fell silent, and was about to be dead.
    for silent_for in [1_000, 4_000] {
        let mut fleet = Fleet::new(DEAD_AFTER);
        fleet.update(at(0), all());
        fleet.update(at(1000), silent());
        assert_eq!(until(&mut fleet, 2000, 1000 + silent_for, silent), []);
        // SIGSTOP, and SIGCONT: what it knows is of before.
        let goes_on = 30_000;
        assert_eq!(fleet.pass_time(at(goes_on)), []);
        assert_eq!(until(&mut fleet, goes_on + 200, goes_on + 3_200, silent), [], "silent for {silent_for} ms before");
        assert_eq!(fleet.update(at(goes_on + 3_300), all()), [Change::Returned(id("a"))]);
    }
    let mut fleet = Fleet::new(DEAD_AFTER);
    fleet.update(at(0), all());
    fleet.update(at(1000), silent());
    assert_eq!(fleet.update(at(30_000), silent()), []);
    assert_eq!(until(&mut fleet, 31_000, 35_000, silent), [Change::Died(id("a"))], "what is silent on and on dies");
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
    assert_eq!(until(&mut fleet, 1000, 29_000, told), []);
    assert_eq!(fleet.silent().count(), 0);
    assert_eq!(until(&mut fleet, 30_000, 30_000, told), [Change::Died(id("a"))]);
    assert_eq!(fleet.silent().count(), 1);
}

#[test]
fn a_node_that_nobody_heard_since_they_all_started_anew_is_told_of_in_the_end_so_that_it_can_die() {
    let mut fleet = Fleet::new(DEAD_AFTER);
    let unheard = || vec![Peer { alive: false, ..peer("a", Role::Distribution) }, peer("b", Role::Distribution)];
    fleet.update(at(0), unheard());
    assert_eq!(until(&mut fleet, 1000, 30_000, unheard), [], "b does not say so yet");
    assert_eq!(fleet.silent().collect::<Vec<_>>(), [&id("a")]);
}
