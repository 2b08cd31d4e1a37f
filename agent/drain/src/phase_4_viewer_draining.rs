//! Phase 4, viewer draining: viewers leave by themselves over a window; in its last part those left are disconnected,
//! a few at a time, at a pace that the other nodes can take, never all at once.

use std::time::Duration;

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
    let left = seen.viewers.len();
    if left == 0 {
        return Step::Done;
    }
    let spent = drain.spent_in_phase(seen.now);
    let window = drain.settings.viewer_window;
    // Many viewers need more time at that pace than the cut has: it begins earlier for them.
    let at_pace = Duration::from_secs_f64(left as f64 / drain.settings.disconnects_per_second.max(0.1));
    let cut_at = window.saturating_sub(drain.settings.viewer_cut.max(at_pace));
    if spent < cut_at {
        let cut_in_ms = (cut_at - spent).as_millis() as u64;
        return Step::Wait(vec![Blocker::ViewersLeaving { left, cut_in_ms }]);
    }
    // Evenly over what is left of the window: as many as should be gone by now, if they went one by one.
    let rest = window.saturating_sub(spent);
    let total = left + drain.viewers_disconnected as usize;
    let cut_share = 1.0 - rest.as_secs_f64() / (window - cut_at).as_secs_f64().max(0.001);
    let due = ((total as f64 * cut_share).ceil() as usize).saturating_sub(drain.viewers_disconnected as usize);
    let sessions: Vec<String> = seen.viewers.iter().map(|viewer| viewer.session.clone()).take(due.max(1)).collect();
    drain.viewers_disconnected += disconnect_some(drain, seen.now, sessions.into_iter(), actions);
    Step::Wait(vec![Blocker::ViewersCut { left }])
}
