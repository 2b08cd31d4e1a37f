//! Sizes the distribution cluster: by viewers and workers, then by outbound bandwidth. A thin policy over
//! [`crate::engine`].

use std::time::Duration;

use mtxfleet_wire::{LoadReport, Role};

use crate::engine::{Lead, Metric, MetricRule, NodeView, Policy, PolicyError, Steering};
use crate::node_view::{self, Seen};

/// Two to twenty nodes; down after ten minutes below. Short window, slope and what is kept free (nodes, and not a share:
/// crowds come in any hour) are those that did best on the generated weeks 1 to 3 of seeds 1 to 5 with a lead of 90 s, at
/// 0.01 % of viewer-seconds over capacity (docs/guide/simulate.md).
#[must_use]
pub fn policy() -> Policy {
    Policy {
        min: 2,
        max: 20,
        metrics: vec![
            MetricRule { metric: Metric::Readers, per_node: 100.0 },
            MetricRule { metric: Metric::Outbound, per_node: 800e6 },
        ],
        headroom: 0.0,
        tolerance: 0.0,
        up_window: Duration::from_secs(2),
        down_window: Duration::from_secs(10 * 60),
        shrink_step: 1,
        grow_step: None,
        spare: 1.0,
        lead: Lead {
            assumed: Duration::from_secs(90),
            lag: Duration::from_secs(2),
            gain: 2.0,
            window: Duration::from_secs(30),
            noise: 2.0,
        },
        cpu_limit: Some(0.8),
        dry_run: false,
        schedules: Vec::new(),
    }
}

#[derive(Debug, Clone)]
pub struct DistributionOrchestrator {
    steering: Steering,
}

impl DistributionOrchestrator {
    /// # Errors
    /// All that is wrong with the policy.
    pub fn new(policy: Policy) -> Result<Self, Vec<PolicyError>> {
        Ok(Self { steering: Steering::new(Role::Distribution, policy)? })
    }

    /// What it sees of the fleet, its own node included; nodes of the other role are passed over.
    pub fn nodes<'a>(&self, fleet: impl IntoIterator<Item = Seen<'a>>) -> Vec<NodeView> {
        let rules = &self.steering.policy().metrics;
        let of_role = |member| node_view::node(Role::Distribution, member, |load| figures(rules, load), to_move);
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

/// Readers that a drain would have to move.
fn to_move(load: &LoadReport) -> u32 {
    load.viewers.unwrap_or_default().saturating_add(load.workers.unwrap_or_default())
}

fn figures(rules: &[MetricRule], load: &LoadReport) -> Vec<Option<f64>> {
    rules.iter().map(|rule| node_view::figure(rule.metric, load)).collect()
}
