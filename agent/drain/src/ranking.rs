//! Which node takes over a stream, and from it, a leg.

use std::collections::BTreeMap;

use mtxfleet_wire::{NodeId, StreamName, rendezvous_score};

use crate::observation::Candidate;

/// Nodes for a stream, best first: those that have it open, then by rendezvous hashing on the stream weighted by spare
/// bandwidth. All legs of one stream get the same order, so that it is pulled from its owner once and not by every
/// node; different streams spread over the nodes.
#[must_use]
pub fn rank<'a>(stream: &StreamName, candidates: &'a [Candidate]) -> Vec<&'a Candidate> {
    let score = |c: &Candidate| rendezvous_score(stream.as_str(), c.node.as_str(), weight(c));
    let mut ranked: Vec<&Candidate> = candidates.iter().collect();
    ranked.sort_by(|a, b| {
        let warm = b.warm.contains(stream).cmp(&a.warm.contains(stream));
        warm.then_with(|| score(b).total_cmp(&score(a)))
    });
    ranked
}

/// Spare Mbit/s, at least 1: a node that did not say what it carries counts as average, never as idle.
fn weight(candidate: &Candidate) -> f64 {
    const UNKNOWN: f64 = 100.0;
    candidate.spare.map_or(UNKNOWN, |spare| spare.0 as f64 / 1e6).max(1.0)
}

/// The order a stream was given first is kept while its nodes last: a warm stream must not be asked of another node at
/// the next look because a load figure moved. Nodes that went are dropped, new ones come last.
pub(crate) fn keep_order<'a>(
    kept: &mut BTreeMap<StreamName, Vec<NodeId>>,
    stream: &StreamName,
    candidates: &'a [Candidate],
) -> Vec<&'a Candidate> {
    let ranked = rank(stream, candidates);
    let order = kept.entry(stream.clone()).or_default();
    order.retain(|node| ranked.iter().any(|c| c.node == *node));
    for candidate in &ranked {
        if !order.contains(&candidate.node) {
            order.push(candidate.node.clone());
        }
    }
    order.iter().filter_map(|node| candidates.iter().find(|c| c.node == *node)).collect()
}
