//! One rule at many settings: what each level of service costs with it.

use super::{Outcome, Rule, Trace, World, clairvoyant, run};
use crate::engine::Policy;

/// One setting and what came of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub setting: f64,
    /// Times the clairvoyant's node-hours.
    pub cost: f64,
    /// Share of viewer-seconds over capacity.
    pub over: f64,
}

/// All points of one rule, in the order of its settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Frontier {
    pub name: &'static str,
    /// What the setting is called.
    pub setting: &'static str,
    pub points: Vec<Point>,
}

/// A share over capacity below which points are not told apart: about a second of one viewer in a week of a thousand.
const NONE_OVER: f64 = 1e-7;

/// The engine's one knob: `reserve` is nodes' worth of capacity kept free. Below 0 it is the share by which nodes are meant
/// to be over capacity; who wants that looks at no growth either.
#[must_use]
pub fn with_reserve(policy: &Policy, reserve: f64) -> Policy {
    let mut policy = policy.clone();
    if reserve < 0.0 {
        (policy.headroom, policy.spare, policy.lead.gain) = (reserve, 0.0, 0.0);
    } else {
        policy.spare = reserve;
    }
    policy
}

/// Runs the rule that `make` makes, at each setting.
pub fn sweep(
    (name, setting): (&'static str, &'static str),
    settings: &[f64],
    trace: &Trace,
    world: &World,
    mut make: impl FnMut(f64) -> Box<dyn Rule>,
) -> Frontier {
    let bound = clairvoyant::run(trace, world).node_hours;
    let point =
        |at: f64, outcome: Outcome| Point { setting: at, cost: outcome.node_hours / bound, over: outcome.over_share() };
    let points = settings.iter().map(|at| point(*at, run(trace, world, make(*at).as_mut()))).collect();
    Frontier { name, setting, points }
}

impl Frontier {
    /// The least cost at which no more than `over` is over capacity, straight between points (the share on a logarithmic
    /// scale), and the setting that gives it. `None` where no setting reaches it, or all do: then the sweep is too short.
    #[must_use]
    pub fn at(&self, over: f64) -> Option<Point> {
        let mut points = self.points.clone();
        points.sort_by(|a, b| a.cost.total_cmp(&b.cost));
        let mut last: Option<Point> = None;
        for point in points {
            match last {
                // Dearer and no better: off the frontier.
                Some(before) if point.over >= before.over => {}
                Some(before) if point.over <= over => {
                    let log = |over: f64| over.max(NONE_OVER).ln();
                    let span = log(before.over) - log(point.over);
                    let share = if span > 0.0 { (log(before.over) - log(over)) / span } else { 1.0 };
                    let between = |from: f64, to: f64| from + (to - from) * share.clamp(0.0, 1.0);
                    let (setting, cost) = (between(before.setting, point.setting), between(before.cost, point.cost));
                    return Some(Point { setting, cost, over });
                }
                None if point.over <= over => return None,
                _ => last = Some(point),
            }
        }
        None
    }

    /// At each point on the peer's own frontier, what this rule costs in times the peer's cost; `setting` is the peer's.
    /// Points that this rule does not reach, and those that are off the peer's frontier, are left out.
    #[must_use]
    pub fn against(&self, peer: &Self) -> Vec<Point> {
        let on_frontier = |point: &&Point| {
            let better = |other: &Point| other.cost <= point.cost && other.over < point.over;
            point.over > NONE_OVER && !peer.points.iter().any(better)
        };
        let compare = |point: &Point| {
            let own = self.at(point.over)?;
            Some(Point { cost: own.cost / point.cost, ..*point })
        };
        peer.points.iter().filter(on_frontier).filter_map(compare).collect()
    }
}
