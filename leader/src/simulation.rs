//! The engine on a virtual clock, beside its peers' rules, over a trace of readers.
//!
//! The world is kept simple, and the same for every rule: a node carries a fixed number of readers, readers spread evenly
//! over the nodes that serve, a launched node serves after the lead and is paid from its launch, a draining node is paid
//! until its drain ends and carries nothing that counts. Figures are as old as the lag when they are seen.

pub mod clairvoyant;
pub mod frontier;
pub mod picture;
pub mod rules;
pub mod trace;

use std::collections::VecDeque;
use std::time::Duration;

use mtxfleet_wire::Mono;

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
    /// Readers that one node carries.
    pub per_node: f64,
    pub min: u32,
    pub max: u32,
}

impl World {
    /// Nodes without which `readers` would be over capacity, within the range.
    #[must_use]
    pub fn nodes_for(&self, readers: f64) -> u32 {
        ((readers / self.per_node).ceil() as u32).clamp(self.min, self.max)
    }
}

/// What a rule sees.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seen {
    pub readers: f64,
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
    let first = trace.readers.first().copied().unwrap_or_default();
    run_from(world.nodes_for(first), trace, world, rule)
}

/// The same from a cluster of `start` nodes.
pub fn run_from(start: u32, trace: &Trace, world: &World, rule: &mut dyn Rule) -> Outcome {
    let step = trace.step.as_secs_f64();
    let lag = (world.lag.as_secs_f64() / step).round() as usize;
    let mut serving = start;
    // When each launch is ready and each drain is over, the earliest first.
    let (mut launching, mut draining) = (VecDeque::<Mono>::new(), VecDeque::<Mono>::new());
    let mut outcome = Outcome::default();
    for (at, readers) in trace.readers.iter().copied().enumerate() {
        let now = Mono(trace.step * u32::try_from(at).unwrap_or(u32::MAX));
        while launching.front().is_some_and(|ready| *ready <= now) {
            launching.pop_front();
            serving += 1;
        }
        while draining.front().is_some_and(|over| *over <= now) {
            draining.pop_front();
        }
        let seen = Seen {
            readers: trace.readers[at.saturating_sub(lag)],
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
        let over = (readers - f64::from(serving) * world.per_node).max(0.0);
        outcome.node_hours += f64::from(paid) * step / 3_600.0;
        outcome.viewer_seconds += readers * step;
        outcome.over_viewer_seconds += over * step;
        outcome.over_seconds += if over > 0.0 { step } else { 0.0 };
        outcome.paid.push(paid);
        outcome.serving.push(serving);
    }
    outcome
}

#[cfg(test)]
mod tests;
