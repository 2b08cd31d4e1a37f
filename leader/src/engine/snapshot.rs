//! What the engine decides on: a cluster counted at one moment.

use std::time::Duration;

use mtxfleet_wire::{NodeId, UnixMillis};
use serde::{Deserialize, Serialize};

/// What a node can be counted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    Serving,
    /// Launched or put back, and not ready yet.
    Launching,
    /// Serves what it still has; `cancellable` until its cleanup begins.
    Draining {
        cancellable: bool,
    },
    /// Suspected, or its MediaMTX does not answer as it should: carries no load, and is never "the least loaded".
    Unhealthy,
}

/// One node of the cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeView {
    pub node: NodeId,
    pub condition: Condition,
    /// In the order of the policy's metrics; `None` is unknown, never zero.
    pub loads: Vec<Option<f64>>,
    /// Share of all cores in use, 0.0 to 1.0.
    pub cpu: Option<f64>,
    /// Availability zone or rack, empty when unknown.
    pub zone: String,
    /// Of the image it runs; older ones are drained first.
    pub version: String,
    /// Readers or cameras that a drain would have to move.
    pub to_move: u32,
    /// An operator, or the cloud, wants it kept.
    pub protected: bool,
    /// Holds a lease now.
    pub orchestrating: bool,
}

/// One metric over the whole cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// The sum of what is known. With nodes missing it is a lower bound: enough to grow on, never to shrink on.
    pub known: f64,
    /// Nodes that carry load and did not say how much.
    pub missing: u32,
}

/// A cluster counted. Draining and launching nodes are apart from those that serve.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub serving: u32,
    pub launching: u32,
    pub draining: u32,
    /// Of those draining, how many can still be put back into service.
    pub cancellable: u32,
    pub unhealthy: u32,
    /// Of those unhealthy, how many have been so for a moment only: they hold their places, and carry what nobody knows.
    #[serde(default)]
    pub doubted: u32,
    /// In the order of the policy's metrics, draining nodes' load included: it has to go somewhere.
    pub loads: Vec<Load>,
    /// Mean over the serving nodes; `None` when one of them did not say.
    pub cpu: Option<f64>,
    /// From launch to first reader, as last measured.
    pub lead: Option<Duration>,
    /// For schedules alone: nothing else is decided by the time of day.
    #[serde(default)]
    pub wall: UnixMillis,
}

impl Snapshot {
    /// Counts `nodes` by `metrics` metrics, in no time yet.
    #[must_use]
    pub fn of(nodes: &[NodeView], metrics: usize) -> Self {
        let mut counted = Self { loads: vec![Load::default(); metrics], ..Self::default() };
        let mut cpu = Some(0.0);
        for node in nodes {
            match node.condition {
                Condition::Serving => {
                    counted.serving += 1;
                    cpu = cpu.zip(node.cpu).map(|(sum, cpu)| sum + cpu);
                }
                Condition::Launching => counted.launching += 1,
                Condition::Draining { cancellable } => {
                    counted.draining += 1;
                    counted.cancellable += u32::from(cancellable);
                }
                Condition::Unhealthy => counted.unhealthy += 1,
            }
            for (at, load) in counted.loads.iter_mut().enumerate() {
                // A figure that is no number is as good as none.
                match node.loads.get(at).copied().flatten().filter(|figure| figure.is_finite() && *figure >= 0.0) {
                    Some(figure) => load.known += figure,
                    // A node that is not ready carries nothing, unless it says so.
                    None if node.condition == Condition::Launching => {}
                    None => load.missing += 1,
                }
            }
        }
        counted.cpu = cpu.filter(|_| counted.serving > 0).map(|sum| sum / f64::from(counted.serving));
        counted
    }

    /// Nodes that serve, soon will, or may again in a moment.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.serving + self.launching + self.doubted
    }
}
