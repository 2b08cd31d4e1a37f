//! The engine and its peers, each as a rule of the simulation.

use std::collections::VecDeque;
use std::time::Duration;

use mtxfleet_wire::Mono;

use super::{Rule, Seen, Wish};
use crate::engine::{Decision, Engine, Load, Metric, MetricRule, Outcome, Snapshot};

/// mtxfleet's own engine, as the agents run it.
#[derive(Debug)]
pub struct Own {
    engine: Engine,
    last: Option<Decision>,
}

impl Own {
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        Self { engine, last: None }
    }

    /// What was decided last, with its reasons.
    #[must_use]
    pub fn last(&self) -> Option<&Decision> {
        self.last.as_ref()
    }
}

impl Rule for Own {
    fn wish(&mut self, now: Mono, seen: Seen) -> Wish {
        let policy = self.engine.policy();
        if policy.dry_run {
            return Wish::default();
        }
        let load = |rule: &MetricRule| {
            let figure = match rule.metric {
                Metric::Readers | Metric::Cameras => seen.readers,
                Metric::Inbound | Metric::Outbound => seen.bandwidth,
            };
            let missing = if figure.is_none() { (seen.serving + seen.draining).max(1) } else { 0 };
            Load { known: figure.unwrap_or_default(), missing }
        };
        let snapshot = Snapshot {
            serving: seen.serving,
            launching: seen.launching,
            draining: seen.draining,
            cancellable: seen.draining,
            loads: policy.metrics.iter().map(load).collect(),
            cpu: seen.cpu.map(|cpu| (cpu / f64::from(seen.serving.max(1))).min(1.0)),
            wall: seen.wall,
            ..Snapshot::default()
        };
        let decision = self.engine.decide(now, &snapshot);
        let outcome = decision.outcome;
        self.last = Some(decision);
        match outcome {
            Outcome::Nothing => Wish::default(),
            Outcome::Grow { cancel, launch } => Wish { cancel, launch, drain: 0 },
            Outcome::Shrink { drain } => Wish { drain, ..Wish::default() },
        }
    }
}

/// From the present size to `desired`.
fn towards(desired: u32, seen: Seen) -> Wish {
    let size = seen.serving + seen.launching;
    Wish { cancel: 0, launch: desired.saturating_sub(size), drain: size.saturating_sub(desired) }
}

/// Kubernetes' Horizontal Pod Autoscaler with its defaults: every 15 s, tolerance 0.1, 300 s window down, at most double
/// or 4 more at once; pods that are not ready count as 0 on the way up and not at all on the way down; the largest over the
/// metrics, and nothing shrinks while one of them cannot be had.
/// Source: kubernetes.io, "Horizontal Pod Autoscaling", algorithm details.
#[derive(Debug)]
pub struct Hpa {
    target: f64,
    wished: VecDeque<(Mono, u32)>,
    next: Mono,
    min: u32,
    max: u32,
}

impl Hpa {
    const PERIOD: Duration = Duration::from_secs(15);
    const WINDOW: Duration = Duration::from_secs(300);
    const TOLERANCE: f64 = 0.1;

    /// `target` is the share aimed at of what a node carries.
    #[must_use]
    pub fn new(target: f64, min: u32, max: u32) -> Self {
        Self { target, wished: VecDeque::new(), next: Mono::default(), min, max }
    }

    fn recommend(&self, seen: Seen) -> u32 {
        let size = seen.serving + seen.launching;
        let ready = f64::from(seen.serving.max(1));
        let ratio = seen.worth / ready / self.target;
        if (ratio - 1.0).abs() <= Self::TOLERANCE {
            return size;
        }
        if ratio < 1.0 {
            if seen.incomplete {
                return size;
            }
            return (ratio * ready - 1e-9).ceil() as u32;
        }
        let with_launching = seen.worth / f64::from(size.max(1)) / self.target;
        if with_launching <= 1.0 + Self::TOLERANCE {
            return size;
        }
        (with_launching * f64::from(size) - 1e-9).ceil() as u32
    }
}

impl Rule for Hpa {
    fn wish(&mut self, now: Mono, seen: Seen) -> Wish {
        if now < self.next {
            return Wish::default();
        }
        self.next = now + Self::PERIOD;
        let size = seen.serving + seen.launching;
        let wished = self.recommend(seen).clamp(self.min, self.max);
        self.wished.retain(|(at, _)| now.since(*at) < Self::WINDOW);
        self.wished.push_back((now, wished));
        let highest = self.wished.iter().map(|(_, wished)| *wished).max().unwrap_or(wished);
        let desired = if wished > size { wished.min((2 * size).max(size + 4)) } else { highest.min(size) };
        towards(desired, seen)
    }
}

/// AWS target tracking: figures of a minute, three above the target grow, fifteen below nine tenths of it shrink;
/// launching instances are waited for. Source: docs.aws.amazon.com, EC2 Auto Scaling, "Target tracking scaling policies",
/// and the two alarms it makes.
#[derive(Debug)]
pub struct TargetTracking {
    target: f64,
    next: Mono,
    sum: f64,
    samples: u32,
    above: u32,
    below: u32,
    min: u32,
    max: u32,
}

impl TargetTracking {
    const PERIOD: Duration = Duration::from_secs(60);

    /// `target` is the share aimed at of what a node carries.
    #[must_use]
    pub fn new(target: f64, min: u32, max: u32) -> Self {
        let next = Mono(Self::PERIOD);
        Self { target, next, sum: 0.0, samples: 0, above: 0, below: 0, min, max }
    }
}

impl Rule for TargetTracking {
    fn wish(&mut self, now: Mono, seen: Seen) -> Wish {
        // What is missing is no data point, and moves no alarm.
        if !seen.incomplete {
            self.sum += seen.worth / f64::from(seen.serving.max(1));
            self.samples += 1;
        }
        if now < self.next || self.samples == 0 {
            return Wish::default();
        }
        self.next = now + Self::PERIOD;
        let ratio = self.sum / f64::from(self.samples) / self.target;
        (self.sum, self.samples) = (0.0, 0);
        self.above = if ratio > 1.0 { self.above + 1 } else { 0 };
        self.below = if ratio < 0.9 { self.below + 1 } else { 0 };
        let size = seen.serving + seen.launching;
        let wanted = ((ratio * f64::from(seen.serving) - 1e-9).ceil() as u32).clamp(self.min, self.max);
        if self.above >= 3 && wanted > size {
            return towards(wanted, seen);
        }
        if self.below >= 15 && wanted < size && seen.launching == 0 {
            self.below = 0;
            return towards(wanted, seen);
        }
        Wish::default()
    }
}

/// As many nodes as the peak needs, always.
#[derive(Debug)]
pub struct Fixed;

impl Rule for Fixed {
    fn wish(&mut self, _: Mono, _: Seen) -> Wish {
        Wish::default()
    }
}
