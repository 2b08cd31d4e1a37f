//! Phase 2, load balancer update: nothing new comes. They were told in phase 1; here they are seen to have heard.
//!
//! A poll that is answered `drain` is one thing, a balancer that has taken it in another: so each must poll *again*.
//! Then no new session for a while, since some balancers go on routing for long after they say that they do not.

use crate::blockers::Blocker;
use crate::drain::Drain;
use crate::observation::Observation;
use crate::transition::Step;

/// The poll that is answered `drain`, and the one that shows the balancer has it.
const POLLS_NEEDED: u32 = 2;

pub(crate) fn step(drain: &mut Drain, seen: &Observation) -> Step {
    let pollers = drain.pollers(&seen.known_pollers);
    let polled = |poller: &String| seen.polls_since_told.get(poller).is_some_and(|polls| polls.count >= POLLS_NEEDED);
    let mut blockers: Vec<Blocker> =
        pollers.iter().filter(|p| !polled(p)).map(|p| Blocker::NotPolled { poller: p.clone() }).collect();

    if blockers.is_empty() && !pollers.is_empty() && drain.out_of_balancer_seconds.is_none() {
        let last_told = pollers.iter().filter_map(|p| Some(seen.polls_since_told.get(p)?.first)).max();
        drain.out_of_balancer_seconds = last_told.map(|told| told.since(drain.begun).as_secs_f64());
    }
    if seen.looked.is_none() {
        blockers.push(Blocker::ServerSilent);
    }
    let quiet_since = seen.last_new_session.unwrap_or_default().max(drain.begun);
    let quiet_for = seen.now.since(quiet_since);
    if quiet_for < drain.settings.quiet {
        blockers.push(Blocker::NotQuiet { session_ago_ms: quiet_for.as_millis() as u64 });
    }
    Step::wait_unless_empty(blockers)
}
