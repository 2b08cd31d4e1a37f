//! The decisions that this node made as an orchestrator, kept so that "why?" and "why not?" have an answer.
//!
//! Most decisions are the same as the one before: such a run is one entry, with a count, its first and last time, and
//! the figures of the last.

use std::collections::{BTreeMap, VecDeque};
use std::mem::Discriminant;
use std::sync::Arc;
use std::time::Duration;

use mtxfleet_leader::engine::{Decision, MetricRule, Outcome, Reason, Rule, Steered};
use mtxfleet_wire::{
    DecisionEffect, DecisionView, DecisionsReport, InputsView, MetricView, Mono, NodeId, OutcomeView, PlannedDrain,
    Role, UnixMillis,
};

/// Entries kept: some hours, as decisions go.
const KEPT: usize = 200;

/// Entries in the report for the other agents, and how long its JSON may be; a report has some 8 kB.
const REPORTED: usize = 10;
const REPORTED_BYTES: usize = 24_000;

/// A run that only gets longer is gossiped again this often.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// Under which circumstances a decision was made.
#[derive(Debug)]
pub struct Made<'a> {
    pub role: Role,
    pub by: &'a NodeId,
    pub epoch: Option<u64>,
    pub at: UnixMillis,
    pub effect: DecisionEffect,
    pub metrics: &'a [MetricRule],
    /// What the cloud does not do as it was asked: reasons beside those of the engine.
    pub notes: Vec<String>,
}

impl Made<'_> {
    fn reasons(&self, decision: &Decision) -> Vec<String> {
        decision.reasons.iter().map(ToString::to_string).chain(self.notes.iter().cloned()).collect()
    }
}

#[derive(Debug, Default)]
pub struct DecisionLog {
    entries: VecDeque<Entry>,
    number: u64,
    totals: BTreeMap<(String, &'static str), u64>,
    /// There is an entry that was not reported.
    fresh: bool,
    reported: Option<Mono>,
}

#[derive(Debug)]
struct Entry {
    view: Arc<DecisionView>,
    kind: Kind,
}

/// What two decisions in a row must share to be one entry.
#[derive(Debug, PartialEq)]
struct Kind {
    epoch: Option<u64>,
    effect: DecisionEffect,
    outcome: Outcome,
    rule: Rule,
    reasons: Vec<Discriminant<Reason>>,
    /// Without their numbers, which grow by the second.
    notes: Vec<String>,
    counted: [u32; 4],
    victims: Vec<NodeId>,
}

impl DecisionLog {
    /// Gives the entry back that it began, when it is not as the one before.
    pub fn take(&mut self, made: &Made<'_>, steered: &Steered) -> Option<&DecisionView> {
        let decision = &steered.decision;
        let outcome = outcome_view(decision.outcome);
        *self.totals.entry((decision.rule.to_string(), outcome.name())).or_default() += 1;
        let seen = &decision.inputs;
        let kind = Kind {
            epoch: made.epoch,
            effect: made.effect,
            outcome: decision.outcome,
            rule: decision.rule,
            reasons: decision.reasons.iter().map(std::mem::discriminant).collect(),
            notes: made.notes.iter().map(|note| note.replace(|c: char| c.is_ascii_digit(), "")).collect(),
            counted: [seen.serving, seen.launching, seen.draining, seen.unhealthy],
            victims: steered.victims.iter().map(|(node, _)| node.clone()).collect(),
        };
        if let Some(last) = self.entries.back_mut().filter(|last| last.kind == kind) {
            let view = Arc::make_mut(&mut last.view);
            view.last = made.at;
            view.count += 1;
            view.wanted = decision.wanted;
            view.inputs = inputs_view(decision, made.metrics);
            view.reasons = made.reasons(decision);
            return None;
        }
        self.number += 1;
        let view = DecisionView {
            role: made.role,
            by: made.by.clone(),
            epoch: made.epoch,
            number: self.number,
            first: made.at,
            last: made.at,
            count: 1,
            effect: made.effect,
            outcome,
            rule: decision.rule.to_string(),
            wanted: decision.wanted,
            inputs: inputs_view(decision, made.metrics),
            reasons: made.reasons(decision),
            victims: steered
                .victims
                .iter()
                .map(|(node, why)| PlannedDrain { node: node.clone(), why: why.to_string() })
                .collect(),
        };
        if self.entries.len() == KEPT {
            self.entries.pop_front();
        }
        self.entries.push_back(Entry { view: Arc::new(view), kind });
        self.fresh = true;
        self.entries.back().map(|entry| &*entry.view)
    }

    /// The oldest first.
    pub fn views(&self) -> impl Iterator<Item = &Arc<DecisionView>> {
        self.entries.iter().map(|entry| &entry.view)
    }

    /// Decisions since the agent started, by rule and outcome.
    #[must_use]
    pub const fn totals(&self) -> &BTreeMap<(String, &'static str), u64> {
        &self.totals
    }

    /// What the other agents are to hear, when that is due.
    pub fn report(&mut self, now: Mono, role: Role, epoch: Option<u64>, dry_run: bool) -> Option<DecisionsReport> {
        let due = self.fresh || self.reported.is_none_or(|at| now.since(at) >= REPORT_EVERY);
        if !due || self.entries.is_empty() {
            return None;
        }
        self.fresh = false;
        self.reported = Some(now);
        let mut bytes = 0;
        let newest = self.entries.iter().rev().take(REPORTED);
        let fits = newest.take_while(|entry| {
            bytes += serde_json::to_string(&*entry.view).map_or(REPORTED_BYTES, |text| text.len());
            bytes <= REPORTED_BYTES
        });
        let mut decisions: Vec<DecisionView> = fits.map(|entry| (*entry.view).clone()).collect();
        decisions.reverse();
        Some(DecisionsReport { role, epoch, dry_run, decisions })
    }
}

const fn outcome_view(outcome: Outcome) -> OutcomeView {
    match outcome {
        Outcome::Nothing => OutcomeView::Nothing,
        Outcome::Grow { cancel, launch } => OutcomeView::Grow { cancel, launch },
        Outcome::Shrink { drain } => OutcomeView::Shrink { drain },
    }
}

fn inputs_view(decision: &Decision, metrics: &[MetricRule]) -> InputsView {
    let seen = &decision.inputs;
    let loads = metrics.iter().zip(&seen.loads).map(|(rule, load)| MetricView {
        metric: rule.metric.as_str().to_owned(),
        known: load.known,
        missing: load.missing,
        per_node: rule.per_node,
    });
    InputsView {
        serving: seen.serving,
        launching: seen.launching,
        draining: seen.draining,
        cancellable: seen.cancellable,
        unhealthy: seen.unhealthy,
        loads: loads.collect(),
        cpu: seen.cpu,
        lead_seconds: seen.lead.map(|lead| lead.as_secs_f64()),
    }
}
