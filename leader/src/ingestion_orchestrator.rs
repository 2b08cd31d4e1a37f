//! Sizes the ingestion cluster: by cameras, then by inbound bandwidth. A thin policy over [`crate::engine`].

use std::time::Duration;

use mtxfleet_wire::{LoadReport, Role};

use crate::engine::{Lead, Metric, MetricRule, NodeView, Policy, PolicyError, Steering};
use crate::node_view::{self, Seen};

/// One to ten nodes; down after five minutes below.
#[must_use]
pub fn policy() -> Policy {
    Policy {
        min: 1,
        max: 10,
        metrics: vec![
            MetricRule { metric: Metric::Cameras, per_node: 50.0 },
            MetricRule { metric: Metric::Inbound, per_node: 400e6 },
        ],
        headroom: 0.2,
        tolerance: 0.0,
        up_window: Duration::from_secs(10),
        down_window: Duration::from_secs(5 * 60),
        shrink_step: 1,
        grow_step: None,
        spare: 0.0,
        // Cameras come by installation, not by crowd: what is there is what is provided for.
        lead: Lead {
            assumed: Duration::from_secs(90),
            lag: Duration::from_secs(2),
            gain: 0.0,
            window: Duration::from_secs(120),
            noise: 2.0,
        },
        cpu_limit: Some(0.8),
        dry_run: false,
        schedules: Vec::new(),
    }
}

#[derive(Debug, Clone)]
pub struct IngestionOrchestrator {
    steering: Steering,
}

impl IngestionOrchestrator {
    /// # Errors
    /// All that is wrong with the policy.
    pub fn new(policy: Policy) -> Result<Self, Vec<PolicyError>> {
        Ok(Self { steering: Steering::new(Role::Ingestion, policy)? })
    }

    /// What it sees of the fleet, its own node included; nodes of the other role are passed over.
    pub fn nodes<'a>(&self, fleet: impl IntoIterator<Item = Seen<'a>>) -> Vec<NodeView> {
        let rules = &self.steering.policy().metrics;
        let of_role = |member| node_view::node(Role::Ingestion, member, |load| figures(rules, load), to_move);
        fleet.into_iter().filter_map(of_role).collect()
    }

    #[must_use]
    pub const fn steering(&self) -> &Steering {
        &self.steering
    }

    pub const fn steering_mut(&mut self) -> &mut Steering {
        &mut self.steering
    }
}

/// Cameras that a drain would have to move.
fn to_move(load: &LoadReport) -> u32 {
    load.cameras.unwrap_or_default()
}

fn figures(rules: &[MetricRule], load: &LoadReport) -> Vec<Option<f64>> {
    rules.iter().map(|rule| node_view::figure(rule.metric, load)).collect()
}
