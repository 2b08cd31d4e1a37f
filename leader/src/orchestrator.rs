//! Either orchestrator, for whoever runs the one of its own role.

use std::time::Duration;

use mtxfleet_wire::{Mono, Role, Token, UnixMillis};

use crate::distribution_orchestrator::DistributionOrchestrator;
use crate::engine::{Manner, NodeView, Policy, PolicyError, Steered, Steering};
use crate::ingestion_orchestrator::IngestionOrchestrator;
use crate::node_view::Seen;
use crate::plan::Plan;

#[derive(Debug, Clone)]
pub enum Orchestrator {
    Ingestion(IngestionOrchestrator),
    Distribution(DistributionOrchestrator),
}

impl Orchestrator {
    /// # Errors
    /// All that is wrong with the policy.
    pub fn new(role: Role, policy: Policy) -> Result<Self, Vec<PolicyError>> {
        Ok(match role {
            Role::Ingestion => Self::Ingestion(IngestionOrchestrator::new(policy)?),
            Role::Distribution => Self::Distribution(DistributionOrchestrator::new(policy)?),
        })
    }

    /// What it sees of the fleet, its own node included; nodes of the other role are passed over.
    pub fn nodes<'a>(&self, fleet: impl IntoIterator<Item = Seen<'a>>) -> Vec<NodeView> {
        match self {
            Self::Ingestion(ingestion) => ingestion.nodes(fleet),
            Self::Distribution(distribution) => distribution.nodes(fleet),
        }
    }

    #[must_use]
    pub const fn policy(&self) -> &Policy {
        self.steering().policy()
    }

    /// The plan that it holds to.
    #[must_use]
    pub const fn plan(&self) -> Option<&Plan> {
        self.steering().plan()
    }

    /// See [`Steering::counts`].
    #[must_use]
    pub fn counts(&self, node: &NodeView) -> bool {
        self.steering().counts(node)
    }

    /// See [`Steering::adopt`].
    pub fn adopt(&mut self, plan: Plan) {
        self.steering_mut().adopt(plan);
    }

    /// See [`Steering::steer`].
    pub fn steer(
        &mut self,
        now: Mono,
        wall: UnixMillis,
        token: Token,
        nodes: &[NodeView],
        lead: Option<Duration>,
        manner: Manner,
    ) -> Steered {
        self.steering_mut().steer(now, wall, token, nodes, lead, manner)
    }

    const fn steering(&self) -> &Steering {
        match self {
            Self::Ingestion(ingestion) => ingestion.steering(),
            Self::Distribution(distribution) => distribution.steering(),
        }
    }

    const fn steering_mut(&mut self) -> &mut Steering {
        match self {
            Self::Ingestion(ingestion) => ingestion.steering_mut(),
            Self::Distribution(distribution) => distribution.steering_mut(),
        }
    }
}
