//! Phase 5, cleanup: verify that nobody is left, then the record of the drain, and the node is out of service.
//!
//! Who slipped in after all (an old address kept by a client) is disconnected.

use crate::action::Action;
use crate::blockers::Blocker;
use crate::drain::Drain;
use crate::observation::Observation;
use crate::phase_3_worker_migration::disconnect_some;
use crate::transition::Step;

pub(crate) fn step(drain: &mut Drain, seen: &Observation, actions: &mut Vec<Action>) -> Step {
    if seen.looked.is_none_or(|looked| looked < drain.phase_entered) {
        return Step::Wait(vec![Blocker::ServerSilent]);
    }
    let legs = seen.legs.iter().map(|leg| &leg.session);
    let others = seen.readers.iter().chain(&seen.viewers).map(|reader| &reader.session);
    let left: Vec<String> = legs.chain(others).cloned().collect();
    if left.is_empty() {
        return Step::Done;
    }
    let blockers = vec![Blocker::Connections { left: left.len() }];
    disconnect_some(drain, seen.now, left.into_iter(), actions);
    Step::Wait(blockers)
}
