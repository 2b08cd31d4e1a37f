//! Phase 3 on an ingestion node: its cameras move, and those who read them lose nothing that can be kept.
//!
//! A **pulled** camera. Its next owner pulls it too, with a numbering of its own, since each connection to a camera has
//! one. Then, for each stream:
//!
//! ```text
//!  no other owner ---> bridging ----------------> pulls end ---------> returning ---------------> let go
//!                      workers open a leg         distribution nodes   workers go back to their   MediaMTX here drops
//!                      straight to the owner;     lose their source,   distribution node, which   the path
//!                      their stitch aligns it     and ask for it       pulls from the owner now
//!                      by content                 anew
//! ```
//! No worker loses a frame. Who else reads the stream at a distribution node is cut once, with its source; unless that node
//! relays (`distribution.source = "relay"`): it opens a leg at the next owner by itself, and nobody who reads there notices.
//!
//! A **pushed** camera is disconnected, and comes back through the load balancer, elsewhere; one at a time, each seen at
//! its new owner before the next. What it does not send meanwhile is in the record.
//!
//! Whoever is left at the deadline is cut.

use std::time::Duration;

use mtxfleet_wire::{CameraEnd, CameraSource, Candidate as WireCandidate, LegEnd, LegNotice, MoveReason, StreamName};

use crate::action::Action;
use crate::blockers::Blocker;
use crate::drain::Drain;
use crate::observation::{Candidate, IngestionSide, Observation, ObservedCamera, ObservedLeg, Owner};
use crate::phase_3_worker_migration::{Room, disconnect_readers, disconnect_some};
use crate::ranking::rank;
use crate::transition::Step;

/// So long another owner is known before a distribution node is made to ask where the stream is: what gossip needs to
/// tell all of them, several times over.
const HEARD_BY_ALL: Duration = Duration::from_secs(1);
/// A relay is waited for so long since the next owner was seen: one that has not come there by then asks anew, as others do.
const RELAY_PATIENCE: Duration = Duration::from_secs(45);
/// A disconnected camera is waited for so long before the next one is disconnected.
const CAMERA_PATIENCE: Duration = Duration::from_secs(20);
/// A worker's count of what it did not get is waited for so long after its camera is back: it may wait for a keyframe.
const COUNT_PATIENCE: Duration = Duration::from_secs(15);
/// So many that did not come back: something is wrong with where they connect, and no more are sent away early.
const MISSING_AT_MOST: usize = 3;
/// A pulled camera that delivers nothing for so long holds the drain up no more: two attempts of MediaMTX, 5 s apart.
const UNREACHABLE_AFTER: Duration = Duration::from_secs(12);

pub(crate) fn step(drain: &mut Drain, seen: &Observation, side: &IngestionSide, actions: &mut Vec<Action>) -> Step {
    if seen.looked.is_none_or(|looked| looked < drain.phase_entered) {
        return Step::Wait(vec![Blocker::ServerSilent]);
    }
    if drain.spent_in_phase(seen.now) >= drain.settings.camera_deadline {
        return Step::wait_unless_empty(cut_the_rest(drain, seen, side, actions));
    }
    Step::wait_unless_empty(lead_over(drain, seen, side, actions))
}

/// Within the deadline.
pub(crate) fn lead_over(
    drain: &mut Drain,
    seen: &Observation,
    side: &IngestionSide,
    actions: &mut Vec<Action>,
) -> Vec<Blocker> {
    let legs = drain.legs_in_question(&seen.legs, Some(side));
    let (bridges, readers): (Vec<ObservedLeg>, Vec<ObservedLeg>) =
        legs.into_iter().partition(|leg| drain.is_bridge(&leg.leg));
    let mut blockers = Vec::new();
    let mut hand_over = HandOver::new(drain, seen, side);
    for camera in side.cameras.iter().filter(|camera| camera.source == CameraSource::Pulled) {
        let readers: Vec<&ObservedLeg> = readers.iter().filter(|leg| leg.stream == camera.stream).collect();
        hand_over.pulled(drain, seen, (side.owners.get(&camera.stream), camera), &readers, &mut blockers, actions);
    }
    for bridge in &bridges {
        blockers.push(hand_over.way_back(drain, side, bridge));
    }
    if !hand_over.ordered.is_empty() {
        actions.push(Action::Move(hand_over.ordered));
    }
    send_next_away(drain, seen, side, &mut blockers, actions);
    blockers.extend(counts_awaited(drain, seen));
    if seen.legs.is_empty() {
        disconnect_readers(drain, seen, actions);
    }
    if !seen.readers.is_empty() {
        blockers.push(Blocker::Readers { left: seen.readers.len() });
    }
    blockers
}

/// Orders of one look, and what the nodes that take over can carry beside what is under way.
struct HandOver {
    to_owners: Room,
    back: Room,
    ordered: Vec<LegNotice>,
}

impl HandOver {
    fn new(drain: &Drain, seen: &Observation, side: &IngestionSide) -> Self {
        Self {
            to_owners: Room::for_batch(drain, &seen.candidates),
            back: Room::for_batch(drain, &side.distribution),
            ordered: Vec::new(),
        }
    }

    fn pulled(
        &mut self,
        drain: &mut Drain,
        seen: &Observation,
        (owner, camera): (Option<&Owner>, &ObservedCamera),
        readers: &[&ObservedLeg],
        blockers: &mut Vec<Blocker>,
        actions: &mut Vec<Action>,
    ) {
        let stream = &camera.stream;
        let Some(progress) = drain.cameras.get_mut(stream) else { return };
        let silent_since = match camera.available {
            true => None,
            false => Some(progress.silent_since.unwrap_or(seen.now)),
        };
        progress.silent_since = silent_since;
        // Taken back where its owner went before MediaMTX has let go: nobody else delivers it.
        progress.let_go &= progress.owner_seen.is_some();
        // Nobody reads it here, or nobody can while another has it.
        if progress.let_go || (progress.owner_seen.is_some() && !camera.available) {
            progress.let_go = true;
            blockers.push(Blocker::LettingGo { stream: stream.clone() });
            return;
        }
        if let Some(since) = silent_since {
            // It may be back in a moment, and then there is nobody else to have it from. One that stays away is no
            // reason to wait, and none to let go of it.
            if seen.now.since(since) < UNREACHABLE_AFTER {
                blockers.push(Blocker::CameraSilent { stream: stream.clone() });
            }
            return;
        }
        let (Some(owner), Some(since)) = (owner, progress.owner_seen) else {
            blockers.push(Blocker::NoNextOwner { stream: stream.clone() });
            return;
        };
        if !readers.is_empty() {
            blockers.extend(readers.iter().map(|leg| self.bridge(drain, leg, owner)));
            return;
        }
        if seen.now.since(since) < HEARD_BY_ALL {
            blockers.push(Blocker::OwnerIsNew { stream: stream.clone(), owner: owner.node.clone() });
            return;
        }
        let pulls = |pull: &crate::Pull| Blocker::PullsHere { stream: stream.clone(), node: pull.node.clone() };
        blockers.extend(camera.pulls.iter().map(pulls));
        let patience = seen.now.since(since) < RELAY_PATIENCE;
        let to_cut = camera.pulls.iter().filter(|pull| !(pull.moves && patience));
        disconnect_some(drain, seen.now, to_cut.map(|pull| pull.session.clone()), actions);
        let others = seen.readers.iter().filter(|reader| reader.stream == stream.as_str()).count();
        if camera.pulls.is_empty() && others == 0 {
            if let Some(progress) = drain.cameras.get_mut(stream) {
                progress.let_go = true;
            }
            blockers.push(Blocker::LettingGo { stream: stream.clone() });
        }
    }

    /// Sends a leg to the next owner, when there is room; says what it waits for.
    fn bridge(&mut self, drain: &mut Drain, leg: &ObservedLeg, owner: &Owner) -> Blocker {
        let (worker, stream) = (leg.worker.clone(), leg.stream.clone());
        let Some(progress) = drain.legs.get_mut(&leg.leg) else { return Blocker::InNextBatch { worker, stream } };
        if let Some(why) = progress.failed.clone() {
            return Blocker::CannotMove { worker, stream, why };
        }
        if !progress.asked {
            if !self.to_owners.has_room_for(leg) {
                return Blocker::InNextBatch { worker, stream };
            }
            (progress.asked, progress.asked_once) = (true, true);
            // Who reads here moves there for good; who reads elsewhere only bridges.
            let reason = if leg.at.is_some() { MoveReason::OwnerChanges } else { MoveReason::NodeLeaves };
            let candidate = WireCandidate { node: owner.node.clone(), rtsp: owner.rtsp.clone(), warm: true };
            drain.order_of_nodes.insert(stream.clone(), vec![owner.node.clone()]);
            self.ordered.push(notice(leg, vec![candidate], reason));
        }
        self.to_owners.take(leg);
        Blocker::Bridging { worker, stream, owner: owner.node.clone() }
    }

    /// Sends a worker that bridged back to a distribution node, once none of these has the stream from here.
    fn way_back(&mut self, drain: &mut Drain, side: &IngestionSide, leg: &ObservedLeg) -> Blocker {
        let (worker, stream) = (leg.worker.clone(), leg.stream.clone());
        let still_pulled = side.cameras.iter().any(|camera| camera.stream == stream && !camera.pulls.is_empty());
        let still_read = drain
            .legs
            .values()
            .any(|known| known.stream == stream && !known.bridge && known.at.is_some() && known.end == LegEnd::Here);
        let home = drain.legs.values().find_map(|known| {
            let same = known.worker == worker && known.stream == stream && !known.bridge;
            known.at.clone().filter(|_| same)
        });
        let Some(progress) = drain.legs.get_mut(&leg.leg) else { return Blocker::Bridged { worker, stream } };
        if let Some(why) = progress.failed.clone() {
            return Blocker::CannotMove { worker, stream, why };
        }
        if !progress.asked {
            let mut nodes: Vec<&Candidate> = rank(&stream, &side.distribution);
            // Where the load balancer sends the stream's readers.
            nodes.sort_by_key(|node| Some(&node.node) != home.as_ref());
            if still_pulled || still_read || nodes.is_empty() || !self.back.has_room_for(leg) {
                return Blocker::Bridged { worker, stream };
            }
            (progress.asked, progress.asked_once) = (true, true);
            drain.order_of_nodes.insert(stream.clone(), nodes.iter().map(|node| node.node.clone()).collect());
            let told = nodes.iter().map(|node| WireCandidate {
                node: node.node.clone(),
                rtsp: node.rtsp.clone(),
                warm: node.warm.contains(&stream),
            });
            self.ordered.push(notice(leg, told.collect(), MoveReason::OwnerChanged));
        }
        self.back.take(leg);
        Blocker::Returning { worker, stream }
    }
}

fn notice(leg: &ObservedLeg, candidates: Vec<WireCandidate>, reason: MoveReason) -> LegNotice {
    let (worker, stream) = (leg.worker.clone(), leg.stream.clone());
    LegNotice { leg: leg.leg.clone(), worker, stream, candidates, reason }
}

/// Cameras that publish here, one at a time.
fn send_next_away(
    drain: &mut Drain,
    seen: &Observation,
    side: &IngestionSide,
    blockers: &mut Vec<Blocker>,
    actions: &mut Vec<Action>,
) {
    for (stream, owner) in &side.owners {
        let here = publishes_here(side, stream).is_some();
        if let Some(camera) = drain.cameras.get_mut(stream)
            && camera.source == CameraSource::Pushed
            && camera.away_ms.is_none()
            && let (Some(gone), Some(gone_at), false) = (camera.disconnected, camera.disconnected_at, here)
        {
            // By the new owner's clock, which may differ; at most what this node waited.
            let waited = seen.now.since(gone_at).as_millis() as u64;
            let by_owner = owner.since.0.checked_sub(gone.0).unwrap_or(waited);
            camera.away_ms = Some(by_owner.min(waited));
        }
    }
    let mut under_way: Option<StreamName> = None;
    let mut waiting: Vec<StreamName> = Vec::new();
    let mut missing = 0;
    for (stream, camera) in drain.cameras.iter_mut().filter(|(_, camera)| camera.source == CameraSource::Pushed) {
        let here = publishes_here(side, stream).is_some();
        if camera.disconnected.is_none() {
            if here {
                waiting.push(stream.clone());
            }
            continue;
        }
        let gone_at = *camera.disconnected_at.get_or_insert(seen.now);
        let gone_for = seen.now.since(gone_at);
        if camera.away_ms.is_some() && !here {
            continue;
        }
        if gone_for < CAMERA_PATIENCE || here {
            under_way.get_or_insert_with(|| stream.clone());
            blockers.push(Blocker::CameraAway { stream: stream.clone(), for_ms: gone_for.as_millis() as u64 });
        } else {
            camera.end = CameraEnd::NotSeenElsewhere;
            missing += 1;
        }
    }
    if let Some(session) = under_way.as_ref().and_then(|stream| publishes_here(side, stream)) {
        // It came back here, or has not gone yet.
        disconnect_some(drain, seen.now, std::iter::once(session), actions);
    }
    if missing >= MISSING_AT_MOST && !waiting.is_empty() {
        blockers.push(Blocker::CamerasDoNotReturn { left: waiting.len() });
        return;
    }
    let mut waiting = waiting.into_iter();
    if let Some(next) = waiting.next()
        && let Some(camera) = drain.cameras.get_mut(&next)
    {
        // The claim goes before the camera does: else distribution nodes would be sent here once more, in vain.
        let withdrawn = *camera.withdrawn.get_or_insert(seen.now);
        if under_way.is_none() && seen.now.since(withdrawn) >= HEARD_BY_ALL {
            (camera.disconnected, camera.disconnected_at) = (Some(seen.wall), Some(seen.now));
            disconnect_some(drain, seen.now, publishes_here(side, &next).into_iter(), actions);
            blockers.push(Blocker::CameraAway { stream: next, for_ms: 0 });
        } else {
            blockers.push(Blocker::CameraWaits { stream: next });
        }
    }
    blockers.extend(waiting.map(|stream| Blocker::CameraWaits { stream }));
}

/// Workers whose camera is back, and who have not said yet what they did not get.
fn counts_awaited(drain: &Drain, seen: &Observation) -> Vec<Blocker> {
    let awaited = drain.legs.values().filter(|leg| {
        let camera = drain.cameras.get(&leg.stream).and_then(|camera| camera.owner_seen);
        let lately = camera.is_some_and(|back| seen.now.since(back) < COUNT_PATIENCE);
        leg.end == LegEnd::CameraLeft && leg.acknowledged && leg.counters.is_none() && lately
    });
    awaited.map(|leg| Blocker::CountAwaited { worker: leg.worker.clone(), stream: leg.stream.clone() }).collect()
}

/// The session of a camera that publishes here.
fn publishes_here(side: &IngestionSide, stream: &StreamName) -> Option<String> {
    let here = |camera: &&ObservedCamera| camera.source == CameraSource::Pushed && camera.stream == *stream;
    side.cameras.iter().find(here)?.session.clone()
}

/// After it.
pub(crate) fn cut_the_rest(
    drain: &mut Drain,
    seen: &Observation,
    side: &IngestionSide,
    actions: &mut Vec<Action>,
) -> Vec<Blocker> {
    for leg in seen.legs.iter().chain(&side.legs_elsewhere) {
        if let Some(progress) = drain.legs.get_mut(&leg.leg) {
            progress.end = LegEnd::Disconnected;
        }
    }
    let pulls = side.cameras.iter().flat_map(|camera| &camera.pulls).map(|pull| pull.session.clone());
    disconnect_some(drain, seen.now, seen.legs.iter().map(|leg| leg.session.clone()).chain(pulls), actions);
    for camera in &side.cameras {
        let Some(progress) = drain.cameras.get_mut(&camera.stream) else { continue };
        match (camera.source, &camera.session) {
            (CameraSource::Pulled, _) => progress.let_go = camera.pulls.is_empty(),
            (CameraSource::Pushed, Some(session)) => {
                progress.disconnected.get_or_insert(seen.wall);
                disconnect_some(drain, seen.now, std::iter::once(session.clone()), actions);
            }
            (CameraSource::Pushed, None) => {}
        }
    }
    disconnect_readers(drain, seen, actions);
    let mut hand_over = HandOver::new(drain, seen, side);
    let mut blockers: Vec<Blocker> = Vec::new();
    for leg in drain.legs_in_question(&[], Some(side)) {
        if drain.is_bridge(&leg.leg) {
            blockers.push(hand_over.way_back(drain, side, &leg));
        }
    }
    if !hand_over.ordered.is_empty() {
        actions.push(Action::Move(hand_over.ordered));
    }
    let connections = seen.legs.len() + seen.readers.len();
    if connections > 0 {
        blockers.push(Blocker::Connections { left: connections });
    }
    if !side.cameras.is_empty() {
        blockers.push(Blocker::Cameras { left: side.cameras.len() });
    }
    blockers
}
