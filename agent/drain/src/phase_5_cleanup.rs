//! Phase 5, cleanup: verify that nobody is left, then the record of the drain, and the node is out of service.
//!
//! On an ingestion node it also waits, for a bounded grace, for workers that may still need its recordings.
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
    let cameras = seen.ingestion.iter().flat_map(|side| &side.cameras);
    let theirs = cameras.flat_map(|camera| camera.session.iter().chain(camera.pulls.iter().map(|pull| &pull.session)));
    let left: Vec<String> = legs.chain(others).chain(theirs).cloned().collect();
    let mut blockers: Vec<Blocker> = wanted_recordings(drain, seen).into_iter().collect();
    if !left.is_empty() {
        blockers.push(Blocker::Connections { left: left.len() });
        disconnect_some(drain, seen.now, left.into_iter(), actions);
    }
    Step::wait_unless_empty(blockers)
}

/// A worker that was cut off, or is away, may fetch from here what it missed, and one that fetches is not interrupted, for
/// a while.
fn wanted_recordings(drain: &Drain, seen: &Observation) -> Option<Blocker> {
    let side = seen.ingestion.as_ref()?;
    let workers = side.recording_readers.max(drain.cut_workers());
    let left = drain.settings.recording_grace.saturating_sub(drain.spent_in_phase(seen.now));
    let wanted = workers > 0 && !left.is_zero();
    wanted.then_some(Blocker::Recordings { workers, left_ms: left.as_millis() as u64 })
}
