//! Phase 1, pre-notification: the workers hear that they will have to move, and where to.
//!
//! The notices themselves go out as soon as a leg is seen, here or in a later phase (`Drain::note_legs`): a worker that
//! connects in the middle of a drain is told as well. The load balancers are told at the same moment, and the nodes that
//! are first choice for a stream open it, since with smart codecs a keyframe can be 20 s away.

use mtxfleet_wire::LegEnd;

use crate::action::Action;
use crate::blockers::Blocker;
use crate::drain::Drain;
use crate::observation::Observation;
use crate::transition::Step;

pub(crate) fn step(drain: &mut Drain, seen: &Observation, _actions: &mut Vec<Action>) -> Step {
    // A look from before the order may miss a worker that came since.
    if seen.looked.is_none_or(|looked| looked <= drain.begun) {
        return Step::Wait(vec![Blocker::ServerSilent]);
    }
    let silent = drain.legs.iter().filter(|(_, leg)| leg.end == LegEnd::Here && !leg.acknowledged);
    let blockers = silent.map(|(id, leg)| Blocker::Unacknowledged { worker: leg.worker.clone(), leg: id.clone() });
    Step::wait_unless_empty(blockers.collect())
}
