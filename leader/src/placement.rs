//! Which ingestion node pulls which camera: rendezvous hashing with bounded loads, a pure function of the names in the
//! inventory and of the nodes that take cameras, so that every agent computes it alike without asking anybody.
//!
//! Each node has an order of all cameras, by the hash of both names. Places in these orders are looked at from the first
//! down; a camera gets the node that has it at the earliest place, unless that has its [`bound`] already. This is the one
//! stable matching (Gale and Shapley, 1962): it depends on no order of the inputs, and when a node goes, a camera of another
//! node moves only if one of the leaver's takes its place. (Bounded loads: Mirrokni, Thorup and Zadimoghaddam, "Consistent
//! Hashing with Bounded Loads", 2016.)
//!
//! **Why the place and not the hash.** Each node has exactly one camera first, one second and so on, where hashes leave to
//! chance how many high ones a node has. This takes half of the variance out of the loads, so that fewer nodes find
//! themselves full, and it is full nodes that make cameras move beyond those that have to.
//!
//! **What moves.** Where one of N nodes comes or goes, 1/N of the cameras have to move, averaged over which node it is; a
//! node that carries its bound moves 1.25/N by itself. The whole stays within 1.1/N for up to 10 nodes from 5 cameras a node
//! on, and for up to 50 from 20 on. With fewer cameras on more nodes a quarter of the mean is one or two cameras, many nodes
//! are full, and more can move (8 each on 20 nodes: 1.2/N): `benches/src/bin/placement.rs` prints how many.

use std::collections::{BTreeMap, BTreeSet};

use mtxfleet_wire::{NodeId, StreamName, fnv1a, rendezvous_hash};

/// No node gets more than so many times the mean.
pub const BALANCE: f64 = 1.25;

/// Most cameras of one node: [`BALANCE`] times the mean, rounded up to a whole camera unless less than a quarter of one is
/// lacking, and never below the mean. With few cameras that can be more than 1.25 times the mean by three quarters of a
/// camera: 8 over 3 nodes have a mean of 2.67, and up to 4 on one (1.5 times). `takers` is above 0.
///
/// Where it rises by a camera, the cameras that found their node full go home all at once. Not rounding up the last quarter
/// keeps that away from inventories that are 4, 8 or 12 times the nodes.
#[must_use]
pub fn bound(cameras: usize, takers: usize) -> usize {
    let takers = takers.max(1);
    // floor(5/4 x mean + 3/4) in whole numbers: the same on every machine.
    ((5 * cameras + 3 * takers) / (4 * takers)).max(cameras.div_ceil(takers))
}

/// Where each camera goes; empty when there is nobody to take any. Who places one inventory again and again keeps a
/// [`Placer`].
#[must_use]
pub fn place<'a>(
    cameras: impl IntoIterator<Item = &'a StreamName>,
    takers: &BTreeSet<NodeId>,
) -> BTreeMap<StreamName, NodeId> {
    Placer::new(cameras).place(takers)
}

/// Places one inventory, and remembers each node's order of it: when a node comes, only its order is made; when one goes,
/// none is.
#[derive(Debug, Clone, Default)]
pub struct Placer {
    /// In the order of their names, each once.
    cameras: Vec<StreamName>,
    /// What each name comes to.
    keys: Vec<u64>,
    orders: BTreeMap<NodeId, Order>,
}

/// One node's order of all cameras, the first choice first.
#[derive(Debug, Clone)]
struct Order {
    /// What the camera's and the node's names come to, and which camera: 4 and 4 bytes, so that thousands of cameras on
    /// hundreds of nodes stay small.
    places: Vec<(u32, u32)>,
}

impl Order {
    fn of(node: &NodeId, cameras: &[u64]) -> Self {
        let node = fnv1a(node.as_str().as_bytes());
        // The upper half of the hash decides, the camera's number where two are equal.
        let key = |(camera, at): (&u64, u64)| ((!rendezvous_hash(*camera, node) >> 32) << 32) | at;
        let mut hashes: Vec<u64> = cameras.iter().zip(0..).map(key).collect();
        hashes.sort_unstable();
        Self { places: hashes.into_iter().map(|hash| ((hash >> 32) as u32, hash as u32)).collect() }
    }
}

/// At one place, a camera that no node had earlier: whose it is to be, by the hash where two have it at the same place.
#[derive(Debug, Clone, Copy)]
struct Claim {
    place: u32,
    hash: u32,
    node: u32,
}

const NOBODY: u32 = u32::MAX;

impl Placer {
    #[must_use]
    pub fn new<'a>(cameras: impl IntoIterator<Item = &'a StreamName>) -> Self {
        let names: BTreeSet<&StreamName> = cameras.into_iter().collect();
        let keys = names.iter().map(|name| fnv1a(name.as_str().as_bytes())).collect();
        Self { cameras: names.into_iter().cloned().collect(), keys, orders: BTreeMap::new() }
    }

    /// Where each camera goes; empty when there is nobody to take any.
    pub fn place(&mut self, takers: &BTreeSet<NodeId>) -> BTreeMap<StreamName, NodeId> {
        if takers.is_empty() {
            return BTreeMap::new();
        }
        self.orders.retain(|node, _| takers.contains(node));
        for node in takers {
            if !self.orders.contains_key(node) {
                self.orders.insert(node.clone(), Order::of(node, &self.keys));
            }
        }
        let nodes: Vec<&NodeId> = takers.iter().collect();
        let placed = self.match_up(bound(self.cameras.len(), nodes.len()));
        let found = |(camera, node): (&StreamName, u32)| (camera.clone(), nodes[node as usize].clone());
        self.cameras.iter().zip(placed).map(found).collect()
    }

    /// The node of each camera, by its number among the takers.
    fn match_up(&self, bound: usize) -> Vec<u32> {
        let mut placed = vec![NOBODY; self.cameras.len()];
        let mut claims = vec![Claim { place: NOBODY, hash: 0, node: NOBODY }; self.cameras.len()];
        let mut loads = vec![0; self.orders.len()];
        let mut left = self.cameras.len();
        let mut claimed = Vec::new();
        // Orders are in the order of the nodes' names; only those with room look on.
        let mut open: Vec<(u32, &Order)> = (0..).zip(self.orders.values()).collect();
        for place in 0..self.cameras.len() {
            if left == 0 {
                break;
            }
            for (node, order) in &open {
                let (hash, camera) = order.places[place];
                if placed[camera as usize] != NOBODY {
                    continue;
                }
                let claim = &mut claims[camera as usize];
                let is_first = claim.place != place as u32;
                // Hashes are stored upside down: the smaller is the better. Equal ones go by the nodes' names.
                if is_first || hash < claim.hash {
                    *claim = Claim { place: place as u32, hash, node: *node };
                }
                if is_first {
                    claimed.push(camera);
                }
            }
            for camera in claimed.drain(..) {
                let node = claims[camera as usize].node;
                placed[camera as usize] = node;
                loads[node as usize] += 1;
                left -= 1;
            }
            open.retain(|(node, _)| loads[*node as usize] < bound);
        }
        placed
    }
}

/// Cameras that are at another node in `after` than in `before`. Those that are in one of the two only do not count.
#[must_use]
pub fn moved(before: &BTreeMap<StreamName, NodeId>, after: &BTreeMap<StreamName, NodeId>) -> usize {
    before.iter().filter(|(camera, node)| after.get(*camera).is_some_and(|now| now != *node)).count()
}

#[cfg(test)]
mod tests;
