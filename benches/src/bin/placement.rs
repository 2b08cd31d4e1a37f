//! Cameras that move when one of N ingestion nodes comes or goes, averaged over which, and the node with the most.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use mtxfleet_benches::Figure;
use mtxfleet_leader::placement::{BALANCE, Placer, bound, moved, place};
use mtxfleet_wire::{NodeId, StreamName, rendezvous_score};

/// Fleets with other names, over which each figure is averaged.
const FLEETS: usize = 10;

/// Nodes that go, of each fleet, at most: the large ones take long.
const GONE: usize = 12;

fn main() {
    for nodes in [2, 3, 5, 10, 20, 50] {
        for per_node in [5, 8, 20, 50, 200] {
            figures(nodes, per_node);
        }
    }
    let (cameras, nodes) = fleet(0, 10, 1_000);
    let began = Instant::now();
    let placed = place(&cameras, &nodes);
    let took = began.elapsed().as_secs_f64() * 1e3;
    Figure::new(format!("placing {} cameras on {} nodes", placed.len(), nodes.len()), took, "ms", "no goal").print();
}

fn fleet(number: usize, nodes: usize, per_node: usize) -> (Vec<StreamName>, BTreeSet<NodeId>) {
    let camera = |n| StreamName::new(format!("site{number}/cam{n}")).expect("valid");
    let node = |n| NodeId::new(format!("ingest-{number}-{n}")).expect("valid");
    ((0..nodes * per_node).map(camera).collect(), (0..nodes).map(node).collect())
}

fn figures(nodes: usize, per_node: usize) {
    let (mut moves, mut moves_unbounded, mut most, mut most_unbounded) = (0, 0, 0, 0);
    let (mut had, mut had_unbounded, mut worst) = (0, 0, 0);
    for number in 0..FLEETS {
        let (cameras, ids) = fleet(number, nodes, per_node);
        let mut placer = Placer::new(&cameras);
        let (all, unbounded) = (placer.place(&ids), by_hash_alone(&cameras, &ids));
        most = most.max(largest(&all));
        most_unbounded = most_unbounded.max(largest(&unbounded));
        let its = |placed: &BTreeMap<StreamName, NodeId>, node| placed.values().filter(|at| *at == node).count();
        for gone in ids.iter().step_by(nodes.div_ceil(GONE)) {
            let left: BTreeSet<NodeId> = ids.iter().filter(|node| *node != gone).cloned().collect();
            let here = moved(&all, &placer.place(&left));
            moves += here;
            worst = worst.max(here);
            had += its(&all, gone);
            moves_unbounded += moved(&unbounded, &by_hash_alone(&cameras, &left));
            had_unbounded += its(&unbounded, gone);
        }
    }
    // What those that went had is 1/N on average; of a sample it is not, and that is no merit and no fault.
    let share = |moves: usize, had: usize| moves as f64 / had as f64;
    let mean = |most: usize| most as f64 / per_node as f64;
    let of = format!("{nodes} nodes of {per_node} cameras");
    let peer = "rendezvous hashing without a bound";
    Figure::new(format!("cameras moved when one comes or goes, {of}"), share(moves, had), "times 1/N", "1.1")
        .beside(peer, share(moves_unbounded, had_unbounded))
        .print();
    let worst = worst as f64 / per_node as f64;
    let what = format!("cameras moved, the worst of all those that came or went, {of}");
    let least = bound(nodes * per_node, nodes) as f64 / per_node as f64;
    Figure::new(what, worst, "times 1/N", format!("none; what the fullest node may have: {least}")).print();
    let goal =
        format!("{BALANCE}, rounded up to a camera: {}", bound(nodes * per_node, nodes) as f64 / per_node as f64);
    Figure::new(format!("largest node, {of}"), mean(most), "times the mean", goal)
        .beside(peer, mean(most_unbounded))
        .print();
}

fn largest(placed: &BTreeMap<StreamName, NodeId>) -> usize {
    let mut loads: BTreeMap<&NodeId, usize> = BTreeMap::new();
    placed.values().for_each(|node| *loads.entry(node).or_default() += 1);
    loads.into_values().max().unwrap_or(0)
}

fn by_hash_alone(cameras: &[StreamName], nodes: &BTreeSet<NodeId>) -> BTreeMap<StreamName, NodeId> {
    let score = |camera: &StreamName, node: &NodeId| rendezvous_score(camera.as_str(), node.as_str(), 1.0);
    let best = |camera: &StreamName| nodes.iter().max_by(|a, b| score(camera, a).total_cmp(&score(camera, b)));
    cameras.iter().filter_map(|camera| Some((camera.clone(), best(camera)?.clone()))).collect()
}
