use proptest::prelude::*;

use super::*;

fn cameras(count: usize, seed: u32) -> Vec<StreamName> {
    (0..count).map(|n| StreamName::new(format!("site{seed}/cam{n}")).expect("valid")).collect()
}

fn nodes(count: usize, seed: u32) -> BTreeSet<NodeId> {
    (0..count).map(|n| NodeId::new(format!("ingest-{seed}-{n}")).expect("valid")).collect()
}

fn loads(placed: &BTreeMap<StreamName, NodeId>) -> BTreeMap<&NodeId, usize> {
    let mut loads = BTreeMap::new();
    for node in placed.values() {
        *loads.entry(node).or_default() += 1;
    }
    loads
}

/// Moves when each of the nodes goes (or comes, which is the same two sets), averaged.
fn mean_moved(cameras: &[StreamName], nodes: &BTreeSet<NodeId>) -> f64 {
    let all = place(cameras, nodes);
    let without = |node: &NodeId| nodes.iter().filter(|other| *other != node).cloned().collect();
    let moves: usize = nodes.iter().map(|node| moved(&all, &place(cameras, &without(node)))).sum();
    moves as f64 / nodes.len() as f64
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_camera_has_one_taker_and_no_node_is_above_the_bound(
        count in 0_usize..600, takers in 1_usize..21, seed in any::<u32>(),
    ) {
        let (cameras, nodes) = (cameras(count, seed), nodes(takers, seed));
        let placed = place(&cameras, &nodes);
        prop_assert_eq!(placed.len(), count);
        prop_assert!(placed.values().all(|node| nodes.contains(node)));
        let most = loads(&placed).into_values().max().unwrap_or(0);
        let mean = count as f64 / takers as f64;
        prop_assert!(most as f64 <= (BALANCE * mean).ceil(), "{most} with a mean of {mean}");
    }

    #[test]
    fn the_order_of_the_inventory_and_repeats_in_it_change_nothing(
        count in 1_usize..100, takers in 1_usize..8, seed in any::<u32>(),
    ) {
        let (cameras, nodes) = (cameras(count, seed), nodes(takers, seed));
        let backwards = cameras.iter().rev().chain(&cameras);
        prop_assert_eq!(place(&cameras, &nodes), place(backwards, &nodes));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn when_a_node_comes_or_goes_few_cameras_move(
        takers in 2_usize..11, per_node in 4_usize..60, seed in any::<u32>(),
    ) {
        let (cameras, nodes) = (cameras(takers * per_node, seed), nodes(takers, seed));
        let moves = mean_moved(&cameras, &nodes);
        let most = 1.1 * per_node as f64 + SMALL_FLEET_EXTRA;
        prop_assert!(moves <= most, "{moves} moves of {per_node} a node, {takers} nodes");
    }

    #[test]
    fn a_camera_that_comes_moves_hardly_another(takers in 2_usize..11, per_node in 4_usize..60, seed in any::<u32>()) {
        let nodes = nodes(takers, seed);
        let before = cameras(takers * per_node, seed);
        let after: Vec<StreamName> = before.iter().cloned().chain(cameras(1, !seed)).collect();
        let moves = moved(&place(&before, &nodes), &place(&after, &nodes));
        prop_assert!(moves <= 2 * takers, "{moves} others moved, {takers} nodes of {per_node}");
    }
}

/// The figure itself, where the inventory is large enough to speak of shares.
#[test]
fn cameras_moved_are_at_most_eleven_tenths_of_one_nodes_share() {
    for takers in [2, 3, 5, 10] {
        for per_node in [40, 100] {
            let runs = 4;
            let moves: f64 =
                (0..runs).map(|seed| mean_moved(&cameras(takers * per_node, seed), &nodes(takers, seed))).sum::<f64>()
                    / f64::from(runs);
            let share = moves / per_node as f64;
            assert!(share <= 1.1, "{share:.3}/N moved with {takers} nodes of {per_node} cameras");
        }
    }
}

#[test]
fn nobody_to_take_cameras_places_none_and_one_node_takes_all() {
    let cameras = cameras(7, 0);
    assert!(place(&cameras, &BTreeSet::new()).is_empty());
    assert_eq!(place(&cameras, &nodes(1, 0)).len(), 7);
}
