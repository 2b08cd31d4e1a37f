use mtxfleet_wire::{Bitrate, HealthReport, LoadReport, NodeFacts, SCHEMA, ServerHealth, UnixMillis};

use super::*;
use crate::health::{Outside, outside};

fn id(name: &str) -> NodeId {
    NodeId::new(name).expect("valid")
}

fn instance_id(name: &str) -> InstanceId {
    InstanceId::new(format!("i-{name}")).expect("valid")
}

/// A live distribution node on the instance of its name.
fn member(name: &str) -> MemberView {
    let facts = NodeFacts {
        schema: SCHEMA,
        role: Role::Distribution,
        zone: String::new(),
        rtsp: String::new(),
        http: String::new(),
        gossip: String::new(),
        version: String::new(),
        started: UnixMillis(1),
        instance: Some(instance_id(name)),
    };
    let load = LoadReport {
        state: NodeState::Active,
        server: ServerHealth::Up,
        cameras: None,
        workers: None,
        viewers: None,
        inbound: None,
        outbound: None,
        discarded_packets: 0,
        suspects: Vec::new(),
        health: Some(HealthReport::default()),
        declines: None,
        protected: false,
        cpu: None,
        memory: None,
        disk_free: None,
        capacity: Bitrate(1),
        redis: true,
        sampled: UnixMillis(1),
    };
    MemberView {
        node: id(name),
        liveness: Liveness::Alive,
        facts: Some(facts),
        load: Some(load),
        drain: None,
        moves: None,
        cameras: None,
    }
}

fn dead(name: &str) -> MemberView {
    MemberView { liveness: Liveness::Dead, ..member(name) }
}

fn hopeless(name: &str) -> MemberView {
    let mut member = member(name);
    let health = HealthReport { ills: vec![Ill::Disk], hopeless: true, ..HealthReport::default() };
    member.load.as_mut().expect("set").health = Some(health);
    member
}

fn instance(name: &str, age: u64) -> Instance {
    Instance {
        id: instance_id(name),
        state: InstanceState::InService,
        age: Some(Duration::from_secs(age)),
        node: None,
        zone: String::new(),
        protected: false,
    }
}

fn group(names: &[&str]) -> Group {
    Group {
        role: Role::Distribution,
        desired: names.len() as u32,
        min: 1,
        max: 20,
        instances: names.iter().map(|name| instance(name, 10_000)).collect(),
        keeps: None,
    }
}

/// Judged at once, and again when it has settled.
fn judge(replacer: &mut Replacer, second: u64, members: &[MemberView], group: Option<&Group>) -> Verdict {
    let at = |seconds| Mono(Duration::from_secs(seconds));
    replacer.judge(at(second), Role::Distribution, members, group);
    replacer.judge(at(second + 5), Role::Distribution, members, group)
}

fn replaced(verdict: &Verdict) -> Vec<&str> {
    verdict.replace.keys().map(InstanceId::as_str).collect()
}

fn replacer() -> Replacer {
    Replacer::new(ReplaceSettings::default())
}

#[test]
fn a_dead_node_is_replaced_once_that_has_settled_and_on_and_on_until_its_instance_is_gone() {
    let mut replacer = replacer();
    let members = [member("a"), member("b"), member("c"), dead("d")];
    let all = group(&["a", "b", "c", "d"]);
    let at = |seconds| Mono(Duration::from_secs(seconds));
    assert_eq!(replacer.judge(at(0), Role::Distribution, &members, Some(&all)), Verdict::default());
    let verdict = replacer.judge(at(5), Role::Distribution, &members, Some(&all));
    assert_eq!(verdict.replace[&instance_id("d")], ReplaceReason::Dead { node: id("d") });
    assert_eq!(replaced(&replacer.judge(at(6), Role::Distribution, &members, Some(&all))), ["i-d"], "absolute");
    let gone = group(&["a", "b", "c"]);
    assert_eq!(replacer.judge(at(7), Role::Distribution, &members, Some(&gone)), Verdict::default());
    let mut ending = all;
    ending.instances[3].state = InstanceState::Ending;
    assert_eq!(replacer.judge(at(8), Role::Distribution, &members, Some(&ending)), Verdict::default());
}

#[test]
fn a_node_that_stalls_and_comes_back_is_not_replaced_nor_is_a_suspect() {
    let mut replacer = replacer();
    let all = group(&["a", "b", "c"]);
    let suspect = MemberView { liveness: Liveness::Suspect, ..member("c") };
    let members = [member("a"), member("b"), suspect];
    assert_eq!(judge(&mut replacer, 0, &members, Some(&all)), Verdict::default());
    replacer.judge(
        Mono(Duration::from_secs(20)),
        Role::Distribution,
        &[member("a"), member("b"), dead("c")],
        Some(&all),
    );
    let back = [member("a"), member("b"), member("c")];
    assert_eq!(judge(&mut replacer, 21, &back, Some(&all)), Verdict::default());
    let again = [member("a"), member("b"), dead("c")];
    let at = Mono(Duration::from_secs(30));
    assert_eq!(replacer.judge(at, Role::Distribution, &again, Some(&all)), Verdict::default(), "from the beginning");
}

#[test]
fn when_half_looks_dead_the_network_is_doubted() {
    let all = group(&["a", "b", "c", "d"]);
    let members = [member("a"), member("b"), dead("c"), dead("d")];
    let verdict = judge(&mut replacer(), 0, &members, Some(&all));
    assert_eq!(replaced(&verdict), [] as [&str; 0]);
    assert_eq!(verdict.held["i-c"].1, Held::HalfDead { dead: 2, of: 4 });
    let suspected = MemberView { liveness: Liveness::Suspect, ..member("d") };
    let members = [member("a"), member("b"), dead("c"), suspected];
    assert_eq!(replaced(&judge(&mut replacer(), 0, &members, Some(&all))), [] as [&str; 0], "suspects count too");
    // One of two is half, and all that is left can still replace it.
    let verdict = judge(&mut replacer(), 0, &[member("a"), dead("b")], Some(&group(&["a", "b"])));
    assert_eq!(replaced(&verdict), ["i-b"]);
}

#[test]
fn a_storm_of_replacements_is_held_and_goes_on_when_its_window_is_over() {
    let mut replacer = replacer();
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let all = group(&names);
    let members: Vec<MemberView> =
        names.iter().enumerate().map(|(n, name)| if n < 5 { member(name) } else { hopeless(name) }).collect();
    let verdict = judge(&mut replacer, 0, &members, Some(&all));
    assert_eq!(replaced(&verdict), ["i-f", "i-g", "i-h"]);
    assert_eq!(verdict.held["i-i"].1, Held::Storm { lately: 3, at_most: 3 });
    let rest = group(&["a", "b", "c", "d", "e", "i"]);
    assert_eq!(replaced(&judge(&mut replacer, 100, &members, Some(&rest))), [] as [&str; 0]);
    assert_eq!(replaced(&judge(&mut replacer, 610, &members, Some(&rest))), ["i-i"]);
}

#[test]
fn a_successor_goes_on_counting_where_its_predecessor_stopped() {
    let at = |seconds| Mono(Duration::from_secs(seconds));
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let all = group(&names);
    let members: Vec<MemberView> =
        names.iter().enumerate().map(|(n, name)| if n < 5 { member(name) } else { hopeless(name) }).collect();
    let mut first = replacer();
    assert_eq!(replaced(&judge(&mut first, 0, &members, Some(&all))), ["i-f", "i-g", "i-h"]);
    let said = first.ordered_lately(at(105));
    assert_eq!(said[0], Replaced { instance: instance_id("f"), seconds_ago: 100 });

    // Another machine, whose clock says something else.
    let mut second = replacer();
    second.heed(at(5_000), [said.as_slice()]);
    let verdict = judge(&mut second, 5_000, &members, Some(&all));
    assert_eq!(replaced(&verdict), ["i-f", "i-g", "i-h"], "what was begun is finished");
    assert_eq!(verdict.held["i-i"].1, Held::Storm { lately: 3, at_most: 3 });
    assert_eq!(second.ordered_lately(at(5_005)), [], "what was heard is not said again");
    // Its last words stay in gossip as they were.
    second.heed(at(5_400), [said.as_slice()]);
    let rest = group(&["a", "b", "c", "d", "e", "i"]);
    assert_eq!(replaced(&judge(&mut second, 5_490, &members, Some(&rest))), [] as [&str; 0]);
    assert_eq!(replaced(&judge(&mut second, 5_501, &members, Some(&rest))), ["i-i"], "500 s were left of ten minutes");
    assert_eq!(second.ordered_lately(at(5_506)).len(), 1);
    assert_eq!(replaced(&judge(&mut replacer(), 0, &members, Some(&rest))), ["i-i"], "who hears nothing begins anew");
}

#[test]
fn without_a_listing_nothing_is_replaced_and_nothing_is_an_orphan() {
    let verdict = judge(&mut replacer(), 0, &[member("a"), member("b"), dead("c")], None);
    assert_eq!((replaced(&verdict), verdict.strays.len()), (vec![], 0));
    assert_eq!(verdict.held["c"].1, Held::NoListing);
}

#[test]
fn an_instance_that_no_agent_speaks_for_is_replaced_after_its_boot_deadline() {
    let mut all = group(&["a", "b"]);
    all.instances.push(instance("x", 299));
    let members = [member("a"), member("b")];
    assert_eq!(judge(&mut replacer(), 0, &members, Some(&all)), Verdict::default());
    all.instances[2].age = Some(Duration::from_secs(300));
    let verdict = judge(&mut replacer(), 0, &members, Some(&all));
    assert_eq!(verdict.replace[&instance_id("x")], ReplaceReason::NeverJoined { seconds: 300 });
    all.instances[2].state = InstanceState::Launching;
    assert_eq!(judge(&mut replacer(), 0, &members, Some(&all)), Verdict::default(), "the cloud is still at it");
    all.instances[2] = Instance { age: None, ..instance("x", 0) };
    assert_eq!(judge(&mut replacer(), 0, &members, Some(&all)), Verdict::default(), "its age is unknown, not great");
}

#[test]
fn an_agent_without_an_instance_is_said_and_left_alone() {
    let verdict = judge(&mut replacer(), 0, &[member("a"), member("b")], Some(&group(&["a"])));
    assert_eq!(verdict.strays, BTreeSet::from([id("b")]));
    assert_eq!(verdict.replace.len() + verdict.held.len(), 0);
}

#[test]
fn what_the_cloud_protects_or_cannot_be_found_there_is_held_with_the_reason() {
    let mut all = group(&["a", "b", "c"]);
    all.instances[2].protected = true;
    let verdict = judge(&mut replacer(), 0, &[member("a"), member("b"), dead("c")], Some(&all));
    assert_eq!(verdict.held["i-c"].1, Held::Protected);
    let mut nameless = dead("c");
    nameless.facts.as_mut().expect("set").instance = None;
    let verdict = judge(&mut replacer(), 0, &[member("a"), member("b"), nameless.clone()], Some(&all));
    assert_eq!(verdict.held["c"].1, Held::NoInstance);
    // The cloud may know its node.
    all.instances[2] = Instance { node: Some(id("c")), ..instance("c", 10_000) };
    assert_eq!(replaced(&judge(&mut replacer(), 0, &[member("a"), member("b"), nameless], Some(&all))), ["i-c"]);
}

#[test]
fn a_drained_node_and_one_of_the_other_role_are_none_of_it() {
    let all = group(&["a", "b", "c"]);
    let mut drained = dead("c");
    drained.load.as_mut().expect("set").state = NodeState::Offline;
    assert_eq!(judge(&mut replacer(), 0, &[member("a"), member("b"), drained], Some(&all)).replace.len(), 0);
    let mut other = dead("c");
    other.facts.as_mut().expect("set").role = Role::Ingestion;
    assert_eq!(judge(&mut replacer(), 0, &[member("a"), member("b"), other], Some(&all)).replace.len(), 0);
}

#[test]
fn a_broken_network_is_told_from_a_broken_server() {
    let mut members = [member("a"), member("b"), member("c")];
    assert_eq!(outside(&members, &id("c")), Outside::Fine);
    members[0].load.as_mut().expect("set").health.as_mut().expect("set").unreachable = vec![id("c")];
    assert_eq!(outside(&members, &id("c")), Outside::BrokenNetwork { by: vec![id("a")] });
    members[2].load.as_mut().expect("set").health.as_mut().expect("set").ills = vec![Ill::Rtsp];
    assert_eq!(outside(&members, &id("c")), Outside::BrokenServer);
    members[0].liveness = Liveness::Dead;
    members[2] = member("c");
    assert_eq!(outside(&members, &id("c")), Outside::Fine, "the word of the dead");
}
