//! The engine on a virtual clock, beside its peers' rules, over a trace of load.
//!
//! The world is kept simple, and the same for every rule: a node carries a fixed number of readers (and bits, and CPU, where the
//! trace has them), readers spread evenly
//! over the nodes that serve, a launched node serves after the lead and is paid from its launch, a draining node is paid
//! until its drain ends and carries nothing that counts. Figures are as old as the lag when they are seen.

pub mod clairvoyant;
pub mod csv;
pub mod frontier;
pub mod picture;
pub mod rules;
pub mod trace;

use std::collections::VecDeque;
use std::time::Duration;

use mtxfleet_wire::{Mono, UnixMillis};

pub use trace::Trace;

/// How a cluster behaves, whoever sizes it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct World {
    /// From launch to first reader.
    pub lead: Duration,
    /// Age of a figure when it is seen.
    pub lag: Duration,
    /// From the order to drain to the end of the node.
    pub drain: Duration,
    /// Readers, or cameras, that one node carries.
    pub per_node: f64,
    /// Bits per second that one node carries; counts where the trace has bandwidth.
    pub bandwidth_per_node: f64,
    pub min: u32,
    pub max: u32,
}

impl World {
    /// Nodes without which a load of so many nodes' worth would be over capacity, within the range.
    #[must_use]
    pub fn nodes_for(&self, worth: f64) -> u32 {
        (worth.ceil() as u32).clamp(self.min, self.max)
    }

    /// What one step's figures come to, in nodes' worth: the largest of what is known.
    fn worth(&self, readers: Option<f64>, bandwidth: Option<f64>, cpu: Option<f64>) -> f64 {
        let readers = readers.map(|readers| readers / self.per_node);
        let bandwidth = bandwidth.map(|bandwidth| bandwidth / self.bandwidth_per_node);
        [readers, bandwidth, cpu].into_iter().flatten().fold(0.0, f64::max)
    }

    /// Nodes' worth at each step of `trace`, whether anybody said so or not.
    #[must_use]
    pub fn needed(&self, trace: &Trace) -> Vec<f64> {
        let at = |series: &Option<trace::Series>, at: usize| series.as_ref().map(|series| series.values[at]);
        let readers = trace.readers.values.iter().enumerate();
        readers
            .map(|(step, readers)| self.worth(Some(*readers), at(&trace.bandwidth, step), at(&trace.cpu, step)))
            .collect()
    }
}

/// What a rule sees. A figure is `None` where nobody said it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Seen {
    pub wall: UnixMillis,
    pub readers: Option<f64>,
    pub bandwidth: Option<f64>,
    /// In nodes' worth.
    pub cpu: Option<f64>,
    /// The largest of what is known, in nodes' worth.
    pub worth: f64,
    /// A figure that the trace has was not said.
    pub incomplete: bool,
    pub serving: u32,
    pub launching: u32,
    pub draining: u32,
}

/// What a rule wants done now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wish {
    /// Drains to be cancelled.
    pub cancel: u32,
    pub launch: u32,
    /// Nodes to be drained; launching ones end at once, before those that serve.
    pub drain: u32,
}

/// Something that sizes a cluster.
pub trait Rule {
    fn wish(&mut self, now: Mono, seen: Seen) -> Wish;
}

/// What a run came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    pub node_hours: f64,
    pub viewer_seconds: f64,
    /// Of those, spent above what the serving nodes carry.
    pub over_viewer_seconds: f64,
    /// Seconds in which there were any.
    pub over_seconds: f64,
    pub launches: u32,
    pub drains: u32,
    pub cancelled: u32,
    /// Readers moved by drains.
    pub moved: f64,
    /// Nodes paid, at each step of the trace.
    pub paid: Vec<u32>,
    /// Nodes that serve, at each step of the trace.
    pub serving: Vec<u32>,
}

impl Outcome {
    /// Share of viewer-seconds over capacity.
    #[must_use]
    pub fn over_share(&self) -> f64 {
        if self.viewer_seconds > 0.0 { self.over_viewer_seconds / self.viewer_seconds } else { 0.0 }
    }
}

/// Runs `rule` over `trace`, from a cluster that fits its first moment.
pub fn run(trace: &Trace, world: &World, rule: &mut dyn Rule) -> Outcome {
    let first = world.needed(trace).first().copied().unwrap_or_default();
    run_from(world.nodes_for(first), trace, world, rule)
}

/// The same from a cluster of `start` nodes.
pub fn run_from(start: u32, trace: &Trace, world: &World, rule: &mut dyn Rule) -> Outcome {
    let step = trace.step.as_secs_f64();
    let lag = (world.lag.as_secs_f64() / step).round() as usize;
    let mut serving = start;
    // When each launch is ready and each drain is over, the earliest first.
    let (mut launching, mut draining) = (VecDeque::<Mono>::new(), VecDeque::<Mono>::new());
    let needed = world.needed(trace);
    let said = |series: &Option<trace::Series>| series.as_ref().map(trace::Series::said);
    let (readers_said, bandwidth, cpu) = (trace.readers.said(), said(&trace.bandwidth), said(&trace.cpu));
    let mut outcome = Outcome::default();
    for (at, readers) in trace.readers.values.iter().copied().enumerate() {
        let since = trace.step * u32::try_from(at).unwrap_or(u32::MAX);
        let now = Mono(since);
        while launching.front().is_some_and(|ready| *ready <= now) {
            launching.pop_front();
            serving += 1;
        }
        while draining.front().is_some_and(|over| *over <= now) {
            draining.pop_front();
        }
        let then = at.saturating_sub(lag);
        let figure = |said: &Option<Vec<Option<f64>>>| said.as_ref().and_then(|said| said[then]);
        let silent = |said: &Option<Vec<Option<f64>>>| said.as_ref().is_some_and(|said| said[then].is_none());
        let seen = Seen {
            wall: UnixMillis(trace.start.0 + since.as_millis() as u64),
            readers: readers_said[then],
            bandwidth: figure(&bandwidth),
            cpu: figure(&cpu),
            worth: world.worth(readers_said[then], figure(&bandwidth), figure(&cpu)),
            incomplete: readers_said[then].is_none() || silent(&bandwidth) || silent(&cpu),
            serving,
            launching: launching.len() as u32,
            draining: draining.len() as u32,
        };
        let wish = rule.wish(now, seen);
        let cancel = wish.cancel.min(seen.draining);
        for _ in 0..cancel {
            draining.pop_back();
        }
        serving += cancel;
        outcome.cancelled += cancel;
        let room = world.max.saturating_sub(serving + launching.len() as u32);
        let launch = wish.launch.min(room);
        launching.extend((0..launch).map(|_| now + world.lead));
        outcome.launches += launch;
        let stop = wish.drain.min(launching.len() as u32);
        for _ in 0..stop {
            launching.pop_back();
        }
        let drain = (wish.drain - stop).min(serving.saturating_sub(world.min));
        outcome.moved += readers / f64::from(serving.max(1)) * f64::from(drain);
        serving -= drain;
        draining.extend((0..drain).map(|_| now + world.drain));
        outcome.drains += drain;

        let paid = serving + (launching.len() + draining.len()) as u32;
        let over = over(readers, needed[at], serving);
        outcome.node_hours += f64::from(paid) * step / 3_600.0;
        outcome.viewer_seconds += readers * step;
        outcome.over_viewer_seconds += over * step;
        outcome.over_seconds += if over > 0.0 { step } else { 0.0 };
        outcome.paid.push(paid);
        outcome.serving.push(serving);
    }
    outcome
}

/// Readers that `serving` nodes do not carry, where all take `needed` nodes' worth.
fn over(readers: f64, needed: f64, serving: u32) -> f64 {
    if needed > 0.0 { readers * (1.0 - f64::from(serving) / needed).max(0.0) } else { 0.0 }
}

#[cfg(test)]
mod tests;
