//! Phase 3, worker migration: workers move, make-before-break, each overlapping its old leg with the new one.
//!
//! An overlap doubles a stream, so legs are ordered to move in batches that the other nodes' spare bandwidth carries.
//! Readers that count as workers but have no leg id cannot be told: they are disconnected, paced, once all legs have
//! moved. At the deadline the legs left are disconnected too, so that they come back through the stable URL.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mtxfleet_wire::{Bitrate, LegEnd, LegNotice, Mono};

use crate::action::Action;
use crate::blockers::Blocker;
use crate::drain::Drain;
use crate::observation::{Candidate, Observation, ObservedLeg};
use crate::transition::Step;

/// Legs under way at once when nobody knows what the other nodes can carry.
const BATCH_WITHOUT_FIGURES: usize = 8;
/// What a leg is taken to need when its stream's bit rate is not known: a 1080p camera.
const USUAL_BITRATE: Bitrate = Bitrate(4_000_000);
/// A session asked to end is asked again after this long.
const ASK_AGAIN: Duration = Duration::from_secs(2);

pub(crate) fn step(drain: &mut Drain, seen: &Observation, actions: &mut Vec<Action>) -> Step {
    if seen.looked.is_none_or(|looked| looked < drain.phase_entered) {
        return Step::Wait(vec![Blocker::ServerSilent]);
    }
    let spent = drain.spent_in_phase(seen.now);
    if spent >= drain.settings.worker_deadline {
        return disconnect_the_rest(drain, seen, actions);
    }
    let mut blockers = order_next_batch(drain, seen, actions);
    if seen.legs.is_empty() {
        disconnect_readers(drain, seen, actions);
    }
    if !seen.readers.is_empty() {
        blockers.push(Blocker::Readers { left: seen.readers.len() });
    }
    Step::wait_unless_empty(blockers)
}

fn order_next_batch(drain: &mut Drain, seen: &Observation, actions: &mut Vec<Action>) -> Vec<Blocker> {
    let mut blockers = Vec::new();
    let mut room = Room::for_batch(drain, &seen.candidates);
    let mut batch: Vec<LegNotice> = Vec::new();
    let (asked, waiting): (Vec<&ObservedLeg>, Vec<&ObservedLeg>) = seen
        .legs
        .iter()
        .partition(|leg| drain.legs.get(&leg.leg).is_some_and(|progress| progress.asked && progress.failed.is_none()));
    for leg in asked {
        room.take(leg);
        blockers.push(Blocker::Moving { worker: leg.worker.clone(), stream: leg.stream.clone() });
    }
    for leg in waiting {
        if let Some(why) = drain.legs.get(&leg.leg).and_then(|progress| progress.failed.clone()) {
            blockers.push(Blocker::CannotMove { worker: leg.worker.clone(), stream: leg.stream.clone(), why });
            continue;
        }
        let Some(notice) = drain.notice(&leg.leg, &seen.candidates) else { continue };
        let patient = seen.now.since(drain.begun) < drain.settings.warm_patience;
        let warm = notice.candidates.iter().any(|c| c.warm);
        if (patient && !warm) || notice.candidates.is_empty() {
            let first_choice = notice.candidates.first().map(|c| c.node.clone());
            blockers.push(Blocker::NotWarm { stream: leg.stream.clone(), first_choice });
            continue;
        }
        if !room.has_room_for(leg) {
            blockers.push(Blocker::InNextBatch { worker: leg.worker.clone(), stream: leg.stream.clone() });
            continue;
        }
        room.take(leg);
        if let Some(progress) = drain.legs.get_mut(&leg.leg) {
            (progress.asked, progress.asked_once) = (true, true);
        }
        blockers.push(Blocker::Moving { worker: leg.worker.clone(), stream: leg.stream.clone() });
        batch.push(warm_first(notice));
    }
    if !batch.is_empty() {
        actions.push(Action::Move(batch));
    }
    blockers
}

/// The order of nodes is kept from the notice on, but by now another may be the warm one.
fn warm_first(mut notice: LegNotice) -> LegNotice {
    notice.candidates.sort_by_key(|candidate| !candidate.warm);
    notice
}

/// How much more may move at once.
pub(crate) struct Room {
    bandwidth: Option<u64>,
    legs: usize,
}

impl Room {
    pub(crate) fn for_batch(drain: &Drain, candidates: &[Candidate]) -> Self {
        let spare: Option<u64> = candidates.iter().map(|c| c.spare.map(|spare| spare.0)).sum();
        Self { bandwidth: spare.map(|spare| (spare as f64 * drain.settings.batch) as u64), legs: 0 }
    }

    /// One leg may always move: a drain must end also where everything is full.
    pub(crate) fn has_room_for(&self, leg: &ObservedLeg) -> bool {
        let needed = leg.bitrate.unwrap_or(USUAL_BITRATE).0;
        self.legs == 0 || self.bandwidth.map_or(self.legs < BATCH_WITHOUT_FIGURES, |left| left >= needed)
    }

    pub(crate) fn take(&mut self, leg: &ObservedLeg) {
        let needed = leg.bitrate.unwrap_or(USUAL_BITRATE).0;
        self.legs += 1;
        self.bandwidth = self.bandwidth.map(|left| left.saturating_sub(needed));
    }
}

fn disconnect_the_rest(drain: &mut Drain, seen: &Observation, actions: &mut Vec<Action>) -> Step {
    for leg in &seen.legs {
        if let Some(progress) = drain.legs.get_mut(&leg.leg) {
            progress.end = LegEnd::Disconnected;
        }
    }
    disconnect_some(drain, seen.now, seen.legs.iter().map(|leg| leg.session.clone()), actions);
    disconnect_readers(drain, seen, actions);
    let left = seen.legs.len() + seen.readers.len();
    if left == 0 { Step::Done } else { Step::Wait(vec![Blocker::Connections { left }]) }
}

pub(crate) fn disconnect_readers(drain: &mut Drain, seen: &Observation, actions: &mut Vec<Action>) {
    let sessions = seen.readers.iter().map(|reader| reader.session.clone());
    drain.readers_disconnected += disconnect_some(drain, seen.now, sessions, actions);
}

/// Disconnects as many as the pace allows at this moment; returns how many were asked for the first time.
pub(crate) fn disconnect_some(
    drain: &mut Drain,
    now: Mono,
    sessions: impl Iterator<Item = String>,
    actions: &mut Vec<Action>,
) -> u32 {
    let pace = drain.settings.disconnects_per_second.max(0.1);
    let window = pace_window(pace);
    let lately = drain.disconnecting.values().filter(|asked| now.since(**asked) < window).count();
    let mut budget = (pace.max(1.0) as usize).saturating_sub(lately);
    let mut first_time = 0;
    // One that does not end must not take the turn of those that nobody asked yet.
    let (again, never): (Vec<String>, Vec<String>) =
        sessions.partition(|session| drain.disconnecting.contains_key(session));
    for session in never.into_iter().chain(again) {
        if budget == 0 {
            break;
        }
        let asked = drain.disconnecting.get(&session).copied();
        if asked.is_some_and(|asked| now.since(asked) < ASK_AGAIN) {
            continue;
        }
        budget -= 1;
        first_time += u32::from(asked.is_none());
        drain.disconnecting.insert(session.clone(), now);
        actions.push(Action::Disconnect { session });
    }
    first_time
}

/// A pace of less than one in a second is one in a longer window.
fn pace_window(pace: f64) -> Duration {
    Duration::from_secs_f64((1.0 / pace).max(1.0))
}

/// Sessions that are gone, once they do not count for the pace any more.
pub(crate) fn forget_disconnected(asked: &mut BTreeMap<String, Mono>, seen: &Observation, pace: f64) {
    let window = pace_window(pace.max(0.1));
    let cameras = seen.ingestion.iter().flat_map(|side| &side.cameras);
    let theirs = cameras.flat_map(|camera| camera.session.iter().chain(camera.pulls.iter().map(|pull| &pull.session)));
    let others = seen.readers.iter().chain(&seen.viewers).map(|reader| &reader.session);
    let listed: BTreeSet<&String> = seen.legs.iter().map(|leg| &leg.session).chain(others).chain(theirs).collect();
    asked.retain(|session, at| seen.now.since(*at) < window || listed.contains(session));
}
