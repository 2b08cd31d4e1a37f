//! One rule at many settings: what each level of service costs with it.

use std::time::Duration;

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

/// What is swept: what the engine keeps free (see [`with_reserve`]), and the target of its peers. Dense where the cost turns
/// with it, and wide enough that both reach from a fifth over capacity to none.
pub const RESERVES: [f64; 38] = [
    -1.4, -1.35, -1.3, -1.25, -1.2, -1.15, -1.1, -1.06, -1.03, -1.0, -0.9, -0.8, -0.7, -0.6, -0.5, -0.4, -0.3, -0.2,
    -0.1, -0.05, -0.02, -0.001, 0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0,
];
pub const TARGETS: [f64; 21] =
    [1.4, 1.3, 1.2, 1.1, 1.05, 1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25];

/// Up to this many nodes' worth less than the load asks for, a node is launched only for readers that keep it half busy;
/// beyond it, nodes are over capacity by a share, on purpose.
const HALF_A_NODE: f64 = 0.5;

/// How soon who is meant to be over capacity gives nodes back.
const DOWN_WHEN_OVER: Duration = Duration::from_secs(120);

/// The engine's one knob: `reserve` is nodes' worth of capacity kept free. Below 0 nodes are meant to be over capacity: from
/// 0 to -1 up to half a node's worth is not provided for, further down a share of the load as well (-1.2: a fifth). Who
/// wants that looks at no growth, and keeps no node for long that is not needed.
#[must_use]
pub fn with_reserve(policy: &Policy, reserve: f64) -> Policy {
    let mut policy = policy.clone();
    if reserve < 0.0 {
        policy.spare = HALF_A_NODE * reserve.max(-1.0);
        policy.headroom = (reserve + 1.0).min(0.0);
        policy.lead.gain = 0.0;
        policy.down_window = policy.down_window.min(DOWN_WHEN_OVER);
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

    /// Points that no other one of this rule beats in cost and in service, the dearest first.
    fn undominated(&self) -> Vec<Point> {
        let beaten = |point: &Point| {
            let beats = |other: &Point| {
                other.cost <= point.cost
                    && other.over <= point.over
                    && (other.cost < point.cost || other.over < point.over)
            };
            self.points.iter().any(beats)
        };
        let mut points: Vec<Point> = self.points.iter().filter(|point| !beaten(point)).copied().collect();
        points.sort_by(|a, b| b.cost.total_cmp(&a.cost));
        points
    }

    /// What this rule costs in times the peer's cost, at each point of either that is on its own rule's frontier, the other
    /// rule's cost read between its points; `setting` is that of the rule whose point it is. Points that one of the two does
    /// not reach, and those within a handful of seconds of one reader, are left out.
    #[must_use]
    pub fn against(&self, peer: &Self) -> Vec<Point> {
        let told_apart = |point: &Point| point.over > NONE_OVER;
        let at_peers = |point: Point| self.at(point.over).map(|own| Point { cost: own.cost / point.cost, ..point });
        let at_ours = |point: Point| peer.at(point.over).map(|its| Point { cost: point.cost / its.cost, ..point });
        let peers = peer.undominated().into_iter().filter(told_apart).filter_map(at_peers);
        let ours = self.undominated().into_iter().filter(told_apart).filter_map(at_ours);
        let mut compared: Vec<Point> = peers.chain(ours).collect();
        compared.sort_by(|a, b| a.over.total_cmp(&b.over));
        compared
    }
}
