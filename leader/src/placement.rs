//! Which ingestion node pulls which camera: rendezvous hashing with bounded loads, a pure function of the names in the
//! inventory and of the nodes that take cameras, so that every agent computes it alike without asking anybody.
//!
//! Each pair of camera and node has a score. Pairs are looked at from the best score down; a camera gets the node unless
//! that has its [`bound`] already. This is the one stable matching of the scores (Gale and Shapley, 1962): it depends on
//! no order of the inputs, and when a node goes, a camera of another node moves only if one of the leaver's takes its
//! place. (Bounded loads: Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016.)
//!
//! **What moves.** Where one of N nodes comes or goes, 1/N of the cameras have to move, averaged over which node it is;
//! a node that carries its bound moves 1.25/N by itself. Beyond that, cameras move that find a full node: rarely from
//! some 30 cameras a node on, where the whole stays within 1.1/N (`benches/src/bin/placement.rs` prints the figures),
//! and more with fewer, where 25 % are one or two cameras: there it stays within 1.1/N and [`SMALL_FLEET_EXTRA`] cameras.

use std::collections::{BTreeMap, BTreeSet};

use mtxfleet_wire::{NodeId, StreamName, rendezvous_score};

/// No node gets more than so many times the mean.
pub const BALANCE: f64 = 1.25;

/// Cameras that move beyond 1.1/N of all where a node has only a few, averaged over which node comes or goes; measured
/// for 2 to 10 nodes of 4 cameras and more.
pub const SMALL_FLEET_EXTRA: f64 = 4.0;

/// Most cameras of one node: [`BALANCE`] times the mean, **rounded up** to a whole camera. With few cameras that can be
/// more than 1.25 times the mean by nearly one camera: 8 over 3 nodes have a mean of 2.67, and up to 4 on one (1.5
/// times). `takers` is above 0.
#[must_use]
pub fn bound(cameras: usize, takers: usize) -> usize {
    // 5/4 in whole numbers: the same on every machine.
    (5 * cameras).div_ceil(4 * takers.max(1))
}

/// Where each camera goes; empty when there is nobody to take any.
///
/// Takes time in the order of pairs times their logarithm: some 40 ms for 10,000 cameras and 10 nodes, so callers keep
/// the result until names or takers change.
#[must_use]
pub fn place<'a>(
    cameras: impl IntoIterator<Item = &'a StreamName>,
    takers: &BTreeSet<NodeId>,
) -> BTreeMap<StreamName, NodeId> {
    let cameras: Vec<&StreamName> = cameras.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    let nodes: Vec<&NodeId> = takers.iter().collect();
    if nodes.is_empty() {
        return BTreeMap::new();
    }
    let mut pairs = Vec::with_capacity(cameras.len() * nodes.len());
    for (camera, name) in cameras.iter().enumerate() {
        for (node, id) in nodes.iter().enumerate() {
            pairs.push((rendezvous_score(name.as_str(), id.as_str(), 1.0), camera, node));
        }
    }
    // Equal scores are as good as impossible; camera and node then decide, in the order of their names.
    pairs.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let bound = bound(cameras.len(), nodes.len());
    let mut loads = vec![0; nodes.len()];
    let mut placed: Vec<Option<usize>> = vec![None; cameras.len()];
    for (_, camera, node) in pairs {
        if placed[camera].is_none() && loads[node] < bound {
            placed[camera] = Some(node);
            loads[node] += 1;
        }
    }
    let found = |(camera, node): (&StreamName, Option<usize>)| Some((camera.clone(), nodes[node?].clone()));
    cameras.into_iter().zip(placed).filter_map(found).collect()
}

/// Cameras that are at another node in `after` than in `before`. Those that are in one of the two only do not count.
#[must_use]
pub fn moved(before: &BTreeMap<StreamName, NodeId>, after: &BTreeMap<StreamName, NodeId>) -> usize {
    before.iter().filter(|(camera, node)| after.get(*camera).is_some_and(|now| now != *node)).count()
}

#[cfg(test)]
mod tests;
