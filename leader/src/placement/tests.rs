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

/// Moves when every `step`-th of the nodes goes (or comes, which is the same two sets), over what these nodes had: 1.0 is
/// 1/N, without the chance of which nodes were looked at.
fn share_moved(cameras: &[StreamName], nodes: &BTreeSet<NodeId>, step: usize) -> (f64, f64) {
    let mut placer = Placer::new(cameras);
    let all = placer.place(nodes);
    let (mut moves, mut had) = (0, 0);
    for gone in nodes.iter().step_by(step) {
        let left = nodes.iter().filter(|other| *other != gone).cloned().collect();
        moves += moved(&all, &placer.place(&left));
        had += loads(&all).get(gone).copied().unwrap_or(0);
    }
    (moves as f64, had as f64)
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
        prop_assert!(most <= bound(count, takers));
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
        let (moves, had) = share_moved(&cameras, &nodes, 1);
        prop_assert!((had - cameras.len() as f64).abs() < 0.5, "each camera is somewhere");
        // One fleet is not the mean over fleets: so many more for each node where a node has only a few.
        let most = 1.1 * had + 3.0 * takers as f64;
        prop_assert!(moves <= most, "{moves} moves of {per_node} a node, {takers} nodes");
    }

    #[test]
    fn who_remembers_orders_places_as_one_who_does_not(
        takers in 2_usize..8, count in 1_usize..200, seed in any::<u32>(), gone in 0_usize..8,
    ) {
        let (cameras, nodes) = (cameras(count, seed), nodes(takers, seed));
        let mut placer = Placer::new(&cameras);
        placer.place(&nodes);
        let left: BTreeSet<NodeId> =
            nodes.iter().enumerate().filter(|(at, _)| *at != gone % takers).map(|(_, node)| node.clone()).collect();
        prop_assert_eq!(placer.place(&left), place(&cameras, &left));
        prop_assert_eq!(placer.place(&nodes), place(&cameras, &nodes));
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

/// The figure itself, averaged over fleets and over which node it is that comes or goes.
#[test]
fn cameras_moved_are_at_most_eleven_tenths_of_one_nodes_share() {
    let small = [(2, 5), (3, 5), (5, 5), (10, 5), (2, 8), (3, 8), (5, 8), (10, 8)];
    let large = [(2, 20), (5, 20), (10, 20), (20, 20), (50, 20), (10, 50), (50, 50), (10, 200), (50, 200)];
    for (takers, per_node) in small.into_iter().chain(large) {
        // Few cameras are soon placed, and need many fleets for a mean.
        let fleets = (8_000 / (takers * per_node)).clamp(2, 100) as u32;
        let runs = (0..fleets)
            .map(|seed| share_moved(&cameras(takers * per_node, seed), &nodes(takers, seed), takers.div_ceil(10)));
        let (moves, had) = runs.fold((0.0, 0.0), |(moves, had), run| (moves + run.0, had + run.1));
        let share = moves / had;
        assert!(share <= 1.1, "{share:.3}/N moved with {takers} nodes of {per_node} cameras");
    }
}

#[test]
fn one_camera_more_moves_about_one_other_on_average() {
    let (mut moves, mut times) = (0, 0);
    for takers in [3, 10, 20] {
        for per_node in [5, 20, 50] {
            for seed in 0..10 {
                let nodes = nodes(takers, seed);
                let before = cameras(takers * per_node, seed);
                let after: Vec<StreamName> = before.iter().cloned().chain(cameras(1, !seed)).collect();
                moves += moved(&place(&before, &nodes), &place(&after, &nodes));
                times += 1;
            }
        }
    }
    assert!(moves < 2 * times, "{moves} others moved, {times} times one camera came");
}

#[test]
fn nobody_to_take_cameras_places_none_and_one_node_takes_all() {
    let cameras = cameras(7, 0);
    assert!(place(&cameras, &BTreeSet::new()).is_empty());
    assert_eq!(place(&cameras, &nodes(1, 0)).len(), 7);
}
