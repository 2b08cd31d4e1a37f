//! Plans carried out: this node's own part of them, and nobody else's.
//!
//! A plan is the whole wish, so it is compared with what is: named and in service, the node begins its drain; in a drain
//! that a plan began and named no more, it goes back into service where it still can. A plan that was missed, comes
//! twice or is overwritten does no harm, and one that is older than what was obeyed already changes nothing.
//!
//! What this node does not carry out it says, with the reason (`LoadReport::declines`), so that the orchestrator drops
//! it and chooses another.

use std::time::Duration;

use mtxfleet_wire::{DrainRefusal, Mono, NodeState, PlanId, Token};

use super::effect::Effect;
use super::{Node, Now};

/// A drain that was refused for a reason that passes (Redis away, another drain first) is asked for again after this.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// Refused so long, it is declined: the orchestrator then chooses another node.
const GIVE_UP_AFTER: Duration = Duration::from_secs(20);

/// What is declined stays so for this long; by then the plan has dropped this node.
const DECLINED_FOR: Duration = Duration::from_secs(5 * 60);

#[derive(Debug, Default)]
pub struct CarryingOut {
    /// Since when, and when last, the drain that is wanted now was refused.
    refused: Option<(Mono, Mono)>,
    declined: Option<Declined>,
    /// Plans up to this one have had their word on this node.
    done_with: Option<PlanId>,
}

#[derive(Debug)]
struct Declined {
    why: String,
    until: Mono,
}

impl Node {
    /// Begins or cancels this node's own drain, as the plan wants it.
    pub(super) fn carry_out_plan(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.carrying_out.declined.take_if(|declined| now.mono >= declined.until);
        let Some(plan) = self.plan_obeyed() else { return };
        let (id, token, named) = (plan.id, plan.token(), plan.drains.get(&self.settings.id));
        match (named, &self.draining.drain) {
            (Some(why), None) => {
                let why = format!("plan {id}: {why}");
                self.begin_planned(now, (id, token), why, effects);
            }
            (None, Some(drain)) if drain.order().plan.is_some_and(|ordered| ordered < id) => {
                self.carrying_out.refused = None;
                self.cancel_planned(now, effects);
            }
            (None, _) => self.carrying_out.refused = None,
            (Some(_), Some(_)) => {}
        }
    }

    fn begin_planned(&mut self, now: Now, plan: (PlanId, Token), why: String, effects: &mut Vec<Effect>) {
        let asks_again = self.carrying_out.refused.is_none_or(|(_, last)| now.mono.since(last) >= ASK_AGAIN);
        let has_had_its_word = self.carrying_out.done_with.is_some_and(|done| plan.0 <= done);
        let idle = self.state == NodeState::Active && !self.draining.is_pending();
        if !idle || !asks_again || has_had_its_word || self.carrying_out.declined.is_some() {
            return;
        }
        if self.controls.is_protected() {
            self.decline(now, "it is protected");
            return;
        }
        self.order_planned_drain(now, plan, why, effects);
    }

    /// The registry, or this node's own rules, refused what the plan wants.
    pub(super) fn planned_drain_refused(&mut self, now: Now, refusal: &DrainRefusal) {
        if let DrainRefusal::PlanSuperseded { .. } = refusal {
            // The plan of that term comes by gossip, and says what it wants of this node.
            self.carrying_out.refused = Some((now.mono, now.mono));
            return;
        }
        let since = self.carrying_out.refused.map_or(now.mono, |(since, _)| since);
        self.carrying_out.refused = Some((since, now.mono));
        let passes = matches!(refusal, DrainRefusal::NoRegistry | DrainRefusal::BelowMinimum { .. });
        if !passes || now.mono.since(since) >= GIVE_UP_AFTER {
            self.decline(now, &refusal.to_string());
        }
    }

    /// No plan drains this node for a while, and the orchestrator hears why.
    pub(super) fn decline(&mut self, now: Now, why: &str) {
        self.carrying_out.declined = Some(Declined { why: why.to_owned(), until: now.mono + DECLINED_FOR });
        self.carrying_out.refused = None;
        self.done_with_plan();
        self.said.forget_load();
    }

    /// The plan that holds has had its word on this node; only a newer one can name it again.
    pub(super) fn done_with_plan(&mut self) {
        let plan = self.orchestrating.plan(self.settings.facts.role);
        self.carrying_out.done_with = self.carrying_out.done_with.max(plan.map(|plan| plan.id));
    }

    /// Why no plan drains this node now.
    pub(super) fn declines(&self) -> Option<String> {
        self.carrying_out.declined.as_ref().map(|declined| declined.why.clone())
    }
}
