//! The cheapest that could be done by one who knows the future, with the same lead and the same drain.

use super::{Outcome, Trace, World, over};

/// Never over capacity, at the least cost.
///
/// Nodes are taken as layers: the n-th is needed whenever the load needs n or more. A layer's gap is bridged where that
/// is cheaper than a drain and a launch, which is a choice of each gap by itself, so the sum is the least there is.
/// What is above the range's most is no better off here than elsewhere.
#[must_use]
pub fn run(trace: &Trace, world: &World) -> Outcome {
    let step = trace.step.as_secs_f64();
    let steps = |time: std::time::Duration| (time.as_secs_f64() / step).ceil() as usize;
    let (lead, drain) = (steps(world.lead), steps(world.drain));
    let worth = world.needed(trace);
    let needed: Vec<u32> = worth.iter().map(|worth| world.nodes_for(*worth)).collect();
    let most = needed.iter().copied().max().unwrap_or_default();
    let mut outcome = Outcome { paid: vec![0; needed.len()], serving: vec![0; needed.len()], ..Outcome::default() };
    for layer in 1..=most {
        let mut end_of_last: Option<usize> = None;
        let mut at = 0;
        while at < needed.len() {
            if needed[at] < layer {
                at += 1;
                continue;
            }
            let end = (at..needed.len()).find(|later| needed[*later] < layer).unwrap_or(needed.len());
            fill(&mut outcome.paid, at..end);
            fill(&mut outcome.serving, at..end);
            // Those there at the beginning are given to every rule.
            if at > 0 {
                match end_of_last {
                    Some(last) if at - last <= lead + drain => {
                        fill(&mut outcome.paid, last..at);
                        fill(&mut outcome.serving, last..at);
                    }
                    last => {
                        fill(&mut outcome.paid, at.saturating_sub(lead)..at);
                        outcome.launches += 1;
                        if let Some(last) = last {
                            leave(&mut outcome, trace, last, drain);
                        }
                    }
                }
            }
            end_of_last = Some(end);
            at = end;
        }
        if let Some(last) = end_of_last.filter(|last| *last < needed.len()) {
            leave(&mut outcome, trace, last, drain);
        }
    }
    for ((readers, worth), serving) in trace.readers.values.iter().zip(&worth).zip(&outcome.serving) {
        let over = over(*readers, *worth, *serving);
        outcome.viewer_seconds += readers * step;
        outcome.over_viewer_seconds += over * step;
        outcome.over_seconds += if over > 0.0 { step } else { 0.0 };
    }
    outcome.node_hours = outcome.paid.iter().map(|nodes| f64::from(*nodes)).sum::<f64>() * step / 3_600.0;
    outcome
}

/// A layer that is not needed from `last` on.
fn leave(outcome: &mut Outcome, trace: &Trace, last: usize, drain: usize) {
    let end = (last + drain).min(outcome.paid.len());
    fill(&mut outcome.paid, last..end);
    outcome.drains += 1;
    outcome.moved += trace.readers.values[last] / f64::from(outcome.serving[last] + 1);
}

fn fill(nodes: &mut [u32], range: std::ops::Range<usize>) {
    nodes[range].iter_mut().for_each(|count| *count += 1);
}
