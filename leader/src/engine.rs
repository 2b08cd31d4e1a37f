//! The one engine of both orchestrators: from what a cluster carries to how many nodes it should have.
//!
//! ```text
//! need = ceil((D x (1 + headroom) + gain x max(0, slope - noise) x (lead + lag)) / per node + spare)    for each metric
//!
//!   the largest need, or CPU's own rule, above the size for the whole short window  -> grow at once
//!   the largest need below the size for the whole long window                       -> shrink, a step at a time
//!   anything unknown                                                                -> hold: never zero
//! ```
//! It counts; which node goes is for [`victim`], what is then wanted of whom for [`crate::plan`].

mod cron;
pub mod decision;
pub mod policy;
pub mod schedule;
pub mod snapshot;
pub mod steering;
pub mod trend;
pub mod victim;

use std::time::Duration;

use mtxfleet_wire::{Mono, UnixMillis};

pub use decision::{Decision, Outcome, Reason, Rule};
pub use policy::{Lead, Metric, MetricRule, Policy, PolicyError};
use schedule::Timetable;
pub use schedule::{InForce, Schedule};
pub use snapshot::{Condition, Load, NodeView, Snapshot};
pub use steering::{Manner, Steered, Steering};
use trend::{Extremes, Trend};

/// After a silence longer than this no window has seen all of its time: an orchestrator that was frozen begins anew.
const LONGEST_SILENCE: Duration = Duration::from_secs(15);

/// Rounding must not ask for a node that nobody needs.
const EPSILON: f64 = 1e-9;

/// What the load asks for at one moment, as a number of nodes that is not rounded.
#[derive(Debug)]
struct Need {
    nodes: f64,
    reason: Option<Reason>,
}

/// Remembers what the windows need, and nothing else: a new one decides alike once they have passed.
#[derive(Debug, Clone)]
pub struct Engine {
    policy: Policy,
    timetable: Timetable,
    trends: Vec<Trend>,
    up: Extremes,
    down: Extremes,
    cpu_high: Extremes,
    last: Option<Mono>,
}

impl Engine {
    /// # Errors
    /// All that is wrong with the policy.
    pub fn new(policy: Policy) -> Result<Self, Vec<PolicyError>> {
        let errors = policy.errors();
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Self {
            timetable: Timetable::new(&policy)?,
            trends: policy.metrics.iter().map(|_| Trend::new(policy.lead.window)).collect(),
            up: Extremes::new(policy.up_window),
            down: Extremes::new(policy.down_window),
            cpu_high: Extremes::new(policy.up_window),
            last: None,
            policy,
        })
    }

    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Decides on what is seen now. To be called at a steady pace, a few seconds at most.
    pub fn decide(&mut self, now: Mono, seen: &Snapshot) -> Decision {
        if self.last.replace(now).is_some_and(|last| now.since(last) > LONGEST_SILENCE) {
            self.forget();
        }
        let in_force = self.in_force(seen.wall);
        let (min, max, spare) = (in_force.min, in_force.max, in_force.spare);
        let need = self.need(now, seen);
        let nodes = |share: f64| (share + spare - EPSILON).ceil().max(0.0) as u32;
        let band = 1.0 + self.policy.tolerance;
        let (more, less) = (nodes(need.nodes / band), nodes(need.nodes * band));
        let missing = self.missing(seen);
        self.up.push(now, more);
        if missing.is_empty() {
            self.down.push(now, less);
        } else {
            self.down.clear();
        }
        let cpu = self.cpu(now, seen);
        let size = seen.size();
        let agreed = if self.up.remaining(now).is_zero() { self.up.smallest().unwrap_or(0) } else { 0 };
        let by_cpu = cpu.as_ref().map_or(0, |(nodes, _)| *nodes);

        let mut reasons: Vec<Reason> = Vec::new();
        let (rule, outcome) = if size < min || agreed.max(by_cpu) > size {
            let rule = if by_cpu > agreed && by_cpu > size {
                reasons.extend(cpu.map(|(_, reason)| reason));
                Rule::Cpu
            } else if size < min && agreed <= min {
                reasons.push(Reason::BelowMin { min });
                Rule::Range
            } else {
                Rule::Load
            };
            reasons.extend(need.reason);
            self.grow(seen, agreed.max(by_cpu).max(min), max, rule, &mut reasons)
        } else if more > size && size < max {
            reasons.push(Reason::UpWindow { remaining: self.up.above_in(now, size) });
            reasons.extend(need.reason);
            (Rule::Window, Outcome::Nothing)
        } else {
            reasons.extend(missing);
            let decided = self.shrink(now, seen, less, &in_force, &mut reasons);
            reasons.extend(need.reason);
            decided
        };
        if !in_force.schedules.is_empty() {
            reasons.push(Reason::Schedules { names: in_force.schedules, min, max, spare });
        }
        Decision { inputs: seen.clone(), wanted: more.clamp(min, max), rule, outcome, reasons }
    }

    /// The range and the buffer that hold at `wall`.
    #[must_use]
    pub fn in_force(&self, wall: UnixMillis) -> InForce {
        self.timetable.in_force(&self.policy, wall)
    }

    /// Windows begin anew, as after a pause in which nothing was seen.
    fn forget(&mut self) {
        self.trends.iter_mut().for_each(Trend::clear);
        self.up.clear();
        self.down.clear();
        self.cpu_high.clear();
    }

    fn need(&mut self, now: Mono, seen: &Snapshot) -> Need {
        let lead = self.policy.lead;
        let ahead = (seen.lead.unwrap_or(lead.assumed) + lead.lag).as_secs_f64();
        let mut most = Need { nodes: 0.0, reason: None };
        for (at, (rule, trend)) in self.policy.metrics.iter().zip(&mut self.trends).enumerate() {
            let load = seen.loads.get(at).copied().unwrap_or_default();
            // A node that stops or begins to report is no change of the load.
            let growth = if load.missing == 0 {
                trend.push(now, load.known);
                trend.growth(lead.noise)
            } else {
                trend.clear();
                0.0
            };
            let demand = load.known * (1.0 + self.policy.headroom) + lead.gain * growth * ahead;
            let nodes = demand / rule.per_node;
            if nodes >= most.nodes {
                let rounded = (nodes - EPSILON).ceil().max(0.0) as u32;
                let (metric, load) = (rule.metric, load.known);
                most = Need {
                    nodes,
                    reason: Some(Reason::LoadWants { metric, load, growth_per_s: growth, nodes: rounded }),
                };
            }
        }
        most
    }

    /// Why nothing may shrink on these figures.
    fn missing(&self, seen: &Snapshot) -> Vec<Reason> {
        let of_metric = |(at, rule): (usize, &MetricRule)| {
            let nodes = seen.loads.get(at).map_or(seen.serving, |load| load.missing);
            (nodes > 0).then_some(Reason::Missing { metric: rule.metric, nodes })
        };
        let mut missing: Vec<_> = self.policy.metrics.iter().enumerate().filter_map(of_metric).collect();
        if self.policy.cpu_limit.is_some() && seen.cpu.is_none() && seen.serving > 0 {
            missing.push(Reason::CpuMissing);
        }
        missing
    }

    /// One node more, or a fifth, once CPU was high for the short window, and not again while those launch.
    fn cpu(&mut self, now: Mono, seen: &Snapshot) -> Option<(u32, Reason)> {
        let limit = self.policy.cpu_limit?;
        match seen.cpu {
            Some(cpu) if cpu > limit => {
                self.cpu_high.push(now, 1);
                let agreed = self.cpu_high.remaining(now).is_zero() && seen.launching == 0;
                agreed.then(|| (seen.serving + seen.serving.div_ceil(5).max(1), Reason::CpuHigh { cpu, limit }))
            }
            _ => {
                self.cpu_high.clear();
                None
            }
        }
    }

    fn grow(&self, seen: &Snapshot, wanted: u32, max: u32, rule: Rule, reasons: &mut Vec<Reason>) -> (Rule, Outcome) {
        let size = seen.size();
        if wanted > max {
            reasons.insert(0, Reason::AtMax { max, wanted });
        }
        let short = wanted.min(max).saturating_sub(size);
        if short == 0 {
            return (Rule::Range, Outcome::Nothing);
        }
        let cancel = short.min(seen.cancellable);
        let step = self.policy.grow_step.unwrap_or(u32::MAX);
        let launch = (short - cancel).min(step);
        if launch < short - cancel {
            reasons.push(Reason::StepLimited { wanted: short - cancel, step });
        }
        if cancel > 0 {
            reasons.insert(0, Reason::DrainCancelled { nodes: cancel });
        }
        (rule, Outcome::Grow { cancel, launch })
    }

    /// `less` is what the load asks for now; `reasons` hold what is missing.
    fn shrink(
        &self,
        now: Mono,
        seen: &Snapshot,
        less: u32,
        in_force: &InForce,
        reasons: &mut Vec<Reason>,
    ) -> (Rule, Outcome) {
        let (size, min) = (seen.size(), in_force.min);
        let held = reasons.iter().any(|r| matches!(r, Reason::Missing { .. } | Reason::CpuMissing));
        let mut nothing = |rule, reason: Reason| {
            reasons.insert(0, reason);
            (rule, Outcome::Nothing)
        };
        if size <= min {
            return nothing(Rule::Range, Reason::AtMin { min });
        }
        // Above the most, which was lowered: that needs no agreement of any load.
        let surplus = size.saturating_sub(in_force.max);
        if less >= size && surplus == 0 {
            return nothing(Rule::Load, Reason::InBand { nodes: size });
        }
        if let Some(schedule) = &in_force.inhibited_by {
            return nothing(Rule::Schedule, Reason::InhibitedBy { schedule: schedule.clone() });
        }
        let highest = self.down.largest().unwrap_or(size).max(min);
        if held {
            // The reasons say already what is missing.
            return (Rule::Hold, Outcome::Nothing);
        }
        let remaining = self.down.remaining(now);
        if !remaining.is_zero() || (highest >= size && surplus == 0) {
            return nothing(Rule::Window, Reason::DownWindow { remaining, highest });
        }
        if seen.launching > 0 {
            return nothing(Rule::Underway, Reason::Launching { nodes: seen.launching });
        }
        // Well again or not counted any more in a moment. Until then one that serves would go in its stead, perhaps below the
        // least.
        if seen.doubted > 0 {
            return nothing(Rule::Underway, Reason::Doubted { nodes: seen.doubted });
        }
        let free = self.policy.shrink_step.saturating_sub(seen.draining);
        if free == 0 {
            return nothing(Rule::Underway, Reason::Draining { nodes: seen.draining });
        }
        let drain = free.min((size - highest.min(size)).max(surplus)).min(size - min);
        let stay = f64::from(seen.serving.saturating_sub(drain).max(1));
        for (load, rule) in seen.loads.iter().zip(&self.policy.metrics) {
            let (per_node, limit) = (load.known / stay, rule.per_node * self.policy.fullest());
            if surplus == 0 && per_node > limit {
                let metric = rule.metric;
                return nothing(Rule::Load, Reason::LoadAfterShrink { metric, per_node, limit });
            }
        }
        if let (Some(limit), Some(cpu)) = (self.policy.cpu_limit, seen.cpu) {
            let after = cpu * f64::from(seen.serving) / stay;
            if surplus == 0 && after > limit {
                return nothing(Rule::Cpu, Reason::CpuAfterShrink { cpu: after, limit });
            }
        }
        (Rule::Load, Outcome::Shrink { drain })
    }
}

#[cfg(test)]
mod tests;
