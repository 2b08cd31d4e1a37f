//! How long one orchestrator takes to decide and plan: 200 nodes that carry 10,000 streams and 16,000 readers.
//!
//! Every look differs from the last: loads move, now and then a node falls silent, falls ill, or the load doubles or
//! halves, so that each kind of plan is made. A look is what the leader does twice a second: count what gossip says, decide,
//! choose victims, make the plan. The plan checker is
//! run on such plans by the leader's own tests.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::time::Duration;

use mtxfleet_benches::{Figure, cpu_time};
use mtxfleet_leader::engine::{Manner, Policy};
use mtxfleet_leader::placement::Placer;
use mtxfleet_leader::simulation::trace::Random;
use mtxfleet_leader::{Orchestrator, Seen, distribution_orchestrator, ingestion_orchestrator};
use mtxfleet_wire::{
    LoadReport, MemberView, Mono, NodeId, NodeState, Role, RunId, ServerHealth, StreamName, Token, UnixMillis,
};
use serde_json::json;

const NODES: u32 = 200;
const STREAMS: u32 = 10_000;
const READERS: f64 = 16_000.0;
const LOOKS: u32 = 5_000;
const GOAL: Duration = Duration::from_millis(5);

fn main() {
    let medians = [steering(Role::Distribution), steering(Role::Ingestion), placing()];
    if medians.iter().any(|median| *median > GOAL) {
        eprintln!("FAILED: slower than {GOAL:?}");
        std::process::exit(1);
    }
}

/// Prints the figures of one role, and gives the median.
fn steering(role: Role) -> Duration {
    let policy = match role {
        Role::Ingestion => ingestion_orchestrator::policy(),
        Role::Distribution => distribution_orchestrator::policy(),
    };
    let policy = Policy { min: 100, max: 400, shrink_step: 20, ..policy };
    let mut orchestrator = Orchestrator::new(role, policy).expect("a good policy");
    let token = Token { epoch: 1, run: RunId(1) };
    let mut random = Random::new(1, 1);
    let mut fleet: Vec<MemberView> = (0..NODES).map(|number| member(number, role)).collect();
    let (mut took, mut plans, mut scale) = (Vec::new(), 0, 1.0);
    for look in 0..LOOKS {
        change(&mut fleet, &mut random, &mut scale);
        let now = Mono(Duration::from_secs(1) * look);
        let before = cpu_time();
        let nodes = orchestrator.nodes(fleet.iter().map(Seen::from));
        let steered = orchestrator.steer(now, UnixMillis(0), token, &nodes, None, Manner::Act);
        took.push(cpu_time().saturating_sub(before));
        plans += u32::from(steered.plan.is_some());
    }
    eprintln!("{role}: {plans} plans in {LOOKS} looks");
    let what = format!("{role}: one look at {NODES} nodes with {STREAMS} streams, decided and planned");
    print(&what, "under 5", took)
}

/// What each node of the role does when the cameras' takers change, and keeps until they do again. Gives the median with
/// the orders of the other nodes known, as they are after the first time.
fn placing() -> Duration {
    let cameras: Vec<StreamName> =
        (0..STREAMS).map(|at| StreamName::new(format!("cam{at}")).expect("a good name")).collect();
    let takers: BTreeSet<NodeId> =
        (0..NODES).map(|at| NodeId::new(format!("node-{at:03}")).expect("a good name")).collect();
    let (mut first, mut goes, mut comes) = (Vec::new(), Vec::new(), Vec::new());
    for away in takers.iter().take(20) {
        let mut placer = Placer::new(&cameras);
        let mut timed = |takers: &BTreeSet<NodeId>, took: &mut Vec<Duration>| {
            let before = cpu_time();
            black_box(placer.place(takers));
            took.push(cpu_time().saturating_sub(before));
        };
        let left = takers.iter().filter(|taker| *taker != away).cloned().collect();
        timed(&takers, &mut first);
        timed(&left, &mut goes);
        timed(&takers, &mut comes);
    }
    let what = format!("{STREAMS} cameras placed on {NODES} nodes");
    print(&format!("{what}, the first time"), "none", first);
    print(&format!("{what}, when one goes"), "under 5", goes).max(print(
        &format!("{what}, when one comes"),
        "under 5",
        comes,
    ))
}

fn print(what: &str, goal: &str, mut took: Vec<Duration>) -> Duration {
    took.sort();
    let (median, longest) = (took[took.len() / 2], took[took.len() - 1]);
    eprintln!("{what}: median {median:?}, longest {longest:?}");
    for (which, value) in [("median", median), ("longest", longest)] {
        Figure::new(format!("{what}, {which}, of a core's time"), value.as_secs_f64() * 1e3, "ms", goal).print();
    }
    median
}

/// As gossip would say it, by way of JSON, so that what is new in a report is at its default.
fn member(number: u32, role: Role) -> MemberView {
    let zone = ["a", "b", "c"][number as usize % 3];
    let view = json!({
        "node": format!("node-{number:03}"),
        "liveness": "alive",
        "facts": {
            "schema": 1, "role": role, "zone": zone, "rtsp": "127.0.0.1:8554",
            "http": "http://127.0.0.1:8780", "gossip": "", "version": "0.1.0", "started": 1,
        },
        "load": {
            "state": "active", "server": { "is": "up" }, "cameras": STREAMS / NODES, "workers": 20, "viewers": 60,
            "inbound": 100_000_000, "outbound": 300_000_000, "discarded_packets": 0, "cpu": 0.4, "memory": 0.3,
            "disk_free": 100_000_000_000_u64, "capacity": 1_000_000_000, "redis": true, "sampled": 1,
        },
    });
    serde_json::from_value(view).expect("a member of the fleet")
}

fn change(fleet: &mut [MemberView], random: &mut Random, scale: &mut f64) {
    // Every few minutes half or double the load, for a few minutes.
    if random.unit() < 0.003 {
        *scale = if *scale == 1.0 { 0.5 + 1.2 * random.unit() } else { 1.0 };
    }
    for member in fleet {
        let Some(load) = &mut member.load else { continue };
        let share = *scale * random.between(0.9, 1.1);
        let readers = READERS / f64::from(NODES) * share;
        load.viewers = Some((readers * 0.75) as u32);
        load.workers = Some((readers * 0.25) as u32);
        load.cameras = Some((f64::from(STREAMS) / f64::from(NODES) * 0.8 * share) as u32);
        sometimes(load, random);
    }
}

/// A node drains, is back, falls silent or ill.
fn sometimes(load: &mut LoadReport, random: &mut Random) {
    match random.unit() {
        chance if chance < 0.000_05 => load.state = NodeState::Draining,
        chance if chance < 0.000_1 => load.server = ServerHealth::Away("connection refused".to_owned()),
        chance if chance < 0.02 => (load.state, load.server) = (NodeState::Active, ServerHealth::Up),
        _ => {}
    }
}
