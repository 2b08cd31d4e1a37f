//! Which nodes go, with the reason of each.
//!
//! Never a protected one. Launching and orchestrating ones last; then unhealthy ones first, then those of the oldest
//! image, then those of a zone that has more than its share, then the cheapest to drain.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use mtxfleet_wire::NodeId;
use serde::{Deserialize, Serialize};

use super::{Condition, NodeView};

/// Why this node, and no other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum VictimReason {
    Unhealthy,
    OlderImage { version: String },
    CrowdedZone { zone: String, nodes: u32 },
    Cheapest { to_move: u32 },
}

impl fmt::Display for VictimReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unhealthy => f.write_str("it is not healthy"),
            Self::OlderImage { version } => write!(f, "its image is older: {version}"),
            Self::CrowdedZone { zone, nodes } => write!(f, "its zone {zone} has {nodes} nodes, more than its share"),
            Self::Cheapest { to_move } => write!(f, "the fewest have to move: {to_move}"),
        }
    }
}

/// Chooses up to `count` nodes to drain, the first choice first. Fewer when too few may go.
#[must_use]
pub fn choose(nodes: &[NodeView], count: u32) -> Vec<(NodeId, VictimReason)> {
    let mut left: Vec<&NodeView> = nodes.iter().filter(|node| may_go(node)).collect();
    let mut chosen = Vec::new();
    for _ in 0..count {
        // Counted anew each time: the first one to go leaves its zone less crowded.
        let gone: Vec<&NodeId> = chosen.iter().map(|(node, _)| node).collect();
        let zones = zones(nodes.iter().filter(|node| !gone.contains(&&node.node)));
        let newest = left.iter().map(|node| parts(&node.version)).max().unwrap_or_default();
        let Some(best) = left.iter().copied().min_by_key(|node| {
            let late = node.orchestrating || node.condition == Condition::Launching;
            let sound = node.condition != Condition::Unhealthy;
            (late, sound, parts(&node.version), Reverse(excess(&zones, node)), node.to_move, node.node.clone())
        }) else {
            break;
        };
        let reason = if best.condition == Condition::Unhealthy {
            VictimReason::Unhealthy
        } else if parts(&best.version) < newest {
            VictimReason::OlderImage { version: best.version.clone() }
        } else if excess(&zones, best) > 0 {
            let nodes = zones.get(best.zone.as_str()).copied().unwrap_or_default();
            VictimReason::CrowdedZone { zone: best.zone.clone(), nodes }
        } else {
            VictimReason::Cheapest { to_move: best.to_move }
        };
        left.retain(|node| node.node != best.node);
        chosen.push((best.node.clone(), reason));
    }
    chosen
}

/// Whether a node can be chosen at all.
#[must_use]
pub fn may_go(node: &NodeView) -> bool {
    !node.protected && !matches!(node.condition, Condition::Draining { .. })
}

fn zones<'a>(nodes: impl Iterator<Item = &'a NodeView>) -> BTreeMap<&'a str, u32> {
    let mut zones = BTreeMap::new();
    for node in nodes.filter(|node| !node.zone.is_empty() && !matches!(node.condition, Condition::Draining { .. })) {
        *zones.entry(node.zone.as_str()).or_insert(0) += 1;
    }
    zones
}

/// Nodes that its zone has above the even share, rounded up.
fn excess(zones: &BTreeMap<&str, u32>, node: &NodeView) -> u32 {
    let total: u32 = zones.values().sum();
    let share = total.div_ceil(u32::try_from(zones.len()).unwrap_or(u32::MAX).max(1));
    zones.get(node.zone.as_str()).map_or(0, |nodes| nodes.saturating_sub(share))
}

/// The numbers of a version, so that 0.10 is newer than 0.9.
fn parts(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, version: &str, zone: &str, to_move: u32) -> NodeView {
        NodeView {
            node: NodeId::new(name).expect("valid"),
            condition: Condition::Serving,
            loads: vec![],
            cpu: None,
            zone: zone.into(),
            version: version.into(),
            to_move,
            protected: false,
            orchestrating: false,
        }
    }

    fn order(nodes: &[NodeView]) -> Vec<String> {
        choose(nodes, 9).into_iter().map(|(node, reason)| format!("{node}: {reason}")).collect()
    }

    #[test]
    fn victims_come_in_the_documented_order_each_with_its_reason() {
        let mut nodes = vec![
            node("cheap", "0.10.0", "a", 1),
            node("dear", "0.10.0", "a", 50),
            node("crowded", "0.10.0", "b", 60),
            node("crowded-2", "0.10.0", "b", 70),
            node("crowded-3", "0.10.0", "b", 80),
            node("old", "0.9.0", "a", 90),
            node("sick", "0.10.0", "c", 5),
            node("leader", "0.8.0", "c", 0),
            node("kept", "0.8.0", "c", 0),
            node("leaving", "0.8.0", "c", 0),
        ];
        nodes[6].condition = Condition::Unhealthy;
        nodes[7].orchestrating = true;
        nodes[8].protected = true;
        nodes[9].condition = Condition::Draining { cancellable: true };
        let order = order(&nodes);
        assert_eq!(order[0], "sick: it is not healthy");
        assert_eq!(order[1], "old: its image is older: 0.9.0");
        assert_eq!(order[2], "cheap: the fewest have to move: 1");
        assert!(order[7].starts_with("leader"), "{order:?}");
        assert_eq!(order.len(), 8, "neither a protected node nor one that drains already: {order:?}");
    }

    #[test]
    fn zones_stay_balanced_before_cost_counts() {
        let nodes =
            [node("a1", "1", "a", 1), node("b1", "1", "b", 50), node("b2", "1", "b", 60), node("b3", "1", "b", 70)];
        let chosen = choose(&nodes, 2);
        assert_eq!(chosen[0].0.as_str(), "b1", "{chosen:?}");
        assert_eq!(chosen[0].1, VictimReason::CrowdedZone { zone: "b".into(), nodes: 3 });
        assert_eq!(chosen[1].0.as_str(), "a1", "{chosen:?}");
    }
}
