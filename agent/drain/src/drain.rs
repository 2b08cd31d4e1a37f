//! The machine's state, and what can be said to it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mtxfleet_wire::{
    CameraSource, Candidate as WireCandidate, DrainId, DrainOutcome, DrainRecord, DrainReport, DrainView, LegEnd,
    LegId, LegNotice, LegOutcome, Mono, MoveReason, NodeId, Phase, PhaseTime, PlanId, SCHEMA, StitchCounters,
    StreamName, UnixMillis, WorkerId, WorkerReport,
};
use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::blockers::Blocker;
use crate::cameras::CameraProgress;
use crate::observation::{Candidate, Observation, ObservedLeg};
use crate::phase_3_worker_migration::forget_disconnected;
use crate::ranking::keep_order;
use crate::settings::Settings;
use crate::transition;

/// Legs that have ended and are told one by one in the record: a node has hundreds. A client may make new ones all the
/// time, and the whole is written to disk when it changes.
const ENDED_LEGS_KEPT: usize = 2_000;

/// Who wants which node drained, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub drain: DrainId,
    pub node: NodeId,
    pub reason: String,
    pub forced: bool,
    /// The plan that named the node; `None` when somebody ordered it by hand.
    #[serde(default)]
    pub plan: Option<PlanId>,
}

/// One drain of this node, from order to record. Serialised whole; what is skipped is found again after a restart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drain {
    pub(crate) order: Order,
    pub(crate) settings: Settings,
    pub(crate) started: UnixMillis,
    pub(crate) phase: Phase,
    pub(crate) phases: Vec<PhaseTime>,
    pub(crate) legs: BTreeMap<LegId, LegProgress>,
    /// For each stream the nodes that take over, best first, as first told.
    pub(crate) order_of_nodes: BTreeMap<StreamName, Vec<NodeId>>,
    pub(crate) readers_disconnected: u32,
    pub(crate) viewers_disconnected: u32,
    /// Viewers that left by themselves.
    #[serde(default)]
    pub(crate) viewers_left: u32,
    /// Legs that have ended and are not in `legs` any more: what a client makes again and again is not kept for ever.
    #[serde(default)]
    pub(crate) legs_more: u32,
    pub(crate) out_of_balancer_seconds: Option<f64>,
    /// This is an ingestion node, and these are its cameras.
    #[serde(default)]
    pub(crate) ingestion: bool,
    #[serde(default)]
    pub(crate) cameras: BTreeMap<StreamName, CameraProgress>,
    /// Wall time at which the phase was entered, for [`Drain::resume`] only.
    pub(crate) phase_entered_wall: UnixMillis,
    #[serde(skip)]
    pub(crate) begun: Mono,
    #[serde(skip)]
    pub(crate) phase_entered: Mono,
    /// Spent in this phase before the agent was restarted.
    #[serde(skip)]
    pub(crate) spent_before: Duration,
    #[serde(skip)]
    pub(crate) blockers: Vec<Blocker>,
    /// Sessions that were asked to end, and when, so that none is asked at every look.
    #[serde(skip)]
    pub(crate) disconnecting: BTreeMap<String, Mono>,
    #[serde(skip)]
    pub(crate) readers_now: u32,
    /// Sessions of viewers at the last look.
    #[serde(skip)]
    pub(crate) viewers_here: BTreeSet<String>,
    /// Most legs, readers and viewers at one look in this phase: what the pace of disconnections is worked out from.
    #[serde(skip)]
    pub(crate) most_here: usize,
    #[serde(skip)]
    pub(crate) over: bool,
}

/// How far a worker's leg has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegProgress {
    pub worker: WorkerId,
    pub stream: StreamName,
    /// Where it reads; `None`: here.
    #[serde(default)]
    pub at: Option<NodeId>,
    /// It reads at its camera's next owner until it can go back to a distribution node.
    #[serde(default)]
    pub bridge: bool,
    pub acknowledged: bool,
    /// Its notice went out since this agent started: one that was killed may have recorded the leg and told nobody.
    #[serde(skip)]
    pub told: bool,
    /// It was ordered to move, since this agent started.
    pub asked: bool,
    /// It was ordered to move.
    #[serde(default)]
    pub asked_once: bool,
    /// Where its worker says it went; known before it is seen to be gone.
    pub moved_to: Option<NodeId>,
    pub end: LegEnd,
    pub counters: Option<StitchCounters>,
    pub extra_pause_ms: Option<u64>,
    /// A worker that said it cannot move gets no more orders.
    pub failed: Option<String>,
}

impl Drain {
    /// Begins. The node is out of the load balancers' choice from this moment: phase 1 announces it to them together
    /// with the workers, phase 2 sees that they heard.
    #[must_use]
    pub fn begin(order: Order, settings: Settings, now: Mono, wall: UnixMillis) -> (Self, Vec<Action>) {
        let drain = Self {
            order,
            settings,
            started: wall,
            phase: Phase::PreNotification,
            phases: Vec::new(),
            legs: BTreeMap::new(),
            order_of_nodes: BTreeMap::new(),
            readers_disconnected: 0,
            viewers_disconnected: 0,
            viewers_left: 0,
            legs_more: 0,
            out_of_balancer_seconds: None,
            ingestion: false,
            cameras: BTreeMap::new(),
            phase_entered_wall: wall,
            begun: now,
            phase_entered: now,
            spent_before: Duration::ZERO,
            blockers: Vec::new(),
            disconnecting: BTreeMap::new(),
            readers_now: 0,
            viewers_here: BTreeSet::new(),
            most_here: 0,
            over: false,
        };
        (drain, vec![Action::LeaveBalancers, Action::PhaseEntered(Phase::PreNotification)])
    }

    /// Goes on after a restart of the agent, in the phase it was in. Time since then counts, up to half of the phase's
    /// deadline: the phase gets a fair rest of it, since nothing could go on meanwhile. Notices that were not acknowledged
    /// and orders are said again.
    pub fn resume(&mut self, now: Mono, wall: UnixMillis) -> Vec<Action> {
        self.begun = now;
        self.phase_entered = now;
        self.spent_before = wall.since(self.phase_entered_wall).min(transition::deadline(self, self.phase) / 2);
        for leg in self.legs.values_mut() {
            leg.asked = false;
        }
        vec![Action::LeaveBalancers, Action::PhaseEntered(self.phase)]
    }

    /// Goes on as far as it can with what is seen now.
    pub fn observe(&mut self, seen: &Observation) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.over {
            return actions;
        }
        if let (Some(side), Some(_)) = (&seen.ingestion, seen.looked) {
            self.note_cameras(seen.now, side);
        }
        self.note_legs(seen, &mut actions);
        self.note_readers(seen);
        let phase = self.phase;
        transition::advance(self, seen, &mut actions);
        if self.phase != phase {
            self.phase_entered_wall = seen.wall;
        }
        actions
    }

    /// A worker acknowledged, moved, or could not. Reports on another drain or an unknown leg change nothing.
    pub fn worker_reported(&mut self, report: WorkerReport) {
        if *report.drain() != self.order.drain {
            return;
        }
        let Some(leg) = self.legs.get_mut(report.leg()) else { return };
        leg.acknowledged = true;
        match report {
            WorkerReport::Acknowledged { .. } => {}
            WorkerReport::Returned { missing_ms, frame_interval_us, counters, .. } => {
                leg.counters = Some(counters);
                let most =
                    |camera: &&mut CameraProgress| camera.worker_misses_ms.is_none_or(|known| known < missing_ms);
                if let Some(camera) = self.cameras.get_mut(&leg.stream).filter(most) {
                    (camera.worker_misses_ms, camera.frame_interval_us) = (Some(missing_ms), frame_interval_us);
                }
            }
            WorkerReport::Moved { to, extra_pause_ms, counters, .. } => {
                leg.moved_to = to;
                leg.counters = Some(counters);
                leg.extra_pause_ms = Some(extra_pause_ms);
                if let LegEnd::Moved(known) = &mut leg.end {
                    *known = leg.moved_to.clone();
                }
            }
            WorkerReport::Failed { why, .. } => leg.failed = Some(why),
        }
    }

    /// Cancels; the node goes back into service.
    ///
    /// # Errors
    /// `Err(phase)` when it is too late; the drain then goes on unchanged.
    pub fn cancel(&mut self, now: Mono, wall: UnixMillis) -> Result<Vec<Action>, Phase> {
        if self.over || !transition::can_be_cancelled(self.phase) {
            return Err(self.phase);
        }
        let waiting_for = self.blockers.iter().map(ToString::to_string).collect();
        transition::note(self, self.spent_in_phase(now), false, waiting_for);
        self.over = true;
        Ok(vec![Action::Cancelled(self.record(wall, DrainOutcome::Cancelled))])
    }

    #[must_use]
    pub fn id(&self) -> &DrainId {
        &self.order.drain
    }

    #[must_use]
    pub const fn order(&self) -> &Order {
        &self.order
    }

    #[must_use]
    pub const fn started(&self) -> UnixMillis {
        self.started
    }

    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// When the last phase ends at the latest.
    #[must_use]
    pub fn deadline(&self) -> UnixMillis {
        UnixMillis(self.started.0 + self.settings.total(self.ingestion).as_millis() as u64)
    }

    /// Names of the load balancers that phase 2 waits for.
    #[must_use]
    pub fn pollers(&self, known: &BTreeSet<String>) -> BTreeSet<String> {
        if self.settings.expected_pollers.is_empty() {
            return known.clone();
        }
        self.settings.expected_pollers.iter().cloned().collect()
    }

    /// What goes into gossip.
    #[must_use]
    pub fn report(&self) -> DrainReport {
        let here = |progress: &&LegProgress| progress.end == LegEnd::Here;
        let streams: BTreeSet<&StreamName> = self.legs.values().filter(here).map(|leg| &leg.stream).collect();
        let mut nodes: Vec<NodeId> = Vec::new();
        let mut index = |node: &NodeId| -> Option<u8> {
            let at = nodes.iter().position(|known| known == node).unwrap_or_else(|| {
                nodes.push(node.clone());
                nodes.len() - 1
            });
            u8::try_from(at).ok()
        };
        // Three choices are enough for a worker, and keep the report small.
        let streams = streams.into_iter().map(|stream| {
            let order = self.order_of_nodes.get(stream).map(Vec::as_slice).unwrap_or_default();
            (stream.clone(), order.iter().take(3).filter_map(&mut index).collect())
        });
        let streams: BTreeMap<StreamName, Vec<u8>> = streams.collect();
        let publishes = |stream: &&StreamName| {
            self.cameras.get(*stream).is_some_and(|camera| camera.source == CameraSource::Pushed)
        };
        let pushed = streams.keys().filter(publishes).cloned().collect();
        let moving = self.legs.iter().filter(|(_, leg)| leg.asked && leg.end == LegEnd::Here).map(|(id, _)| id.clone());
        let waits = self.blockers.iter().map(Blocker::gist);
        DrainReport {
            id: self.order.drain.clone(),
            phase: self.phase,
            started: self.started,
            deadline: self.deadline(),
            moving: moving.collect(),
            waiting_for: waits.take(DrainReport::WAITS_SAID).collect(),
            waiting_more: self.blockers.len().saturating_sub(DrainReport::WAITS_SAID) as u32,
            streams,
            nodes,
            pushed,
        }
    }

    /// What is shown live.
    #[must_use]
    pub fn view(&self, now: Mono) -> DrainView {
        let spent = self.spent_in_phase(now);
        DrainView {
            drain: self.order.drain.clone(),
            node: self.order.node.clone(),
            started: self.started,
            phase: Some(self.phase),
            seconds_in_phase: spent.as_secs_f64(),
            seconds_left: transition::deadline(self, self.phase).saturating_sub(spent).as_secs_f64(),
            waiting_for: self.blockers.iter().map(ToString::to_string).collect(),
            phases: self.phases.clone(),
            legs: self.leg_outcomes(),
            cameras: self.camera_outcomes(),
            viewers: self.viewers_here.len() as u32,
            record: None,
        }
    }

    pub(crate) fn spent_in_phase(&self, now: Mono) -> Duration {
        now.since(self.phase_entered) + self.spent_before
    }

    /// The pace of disconnections may need longer than the deadline leaves: never all at once. Of all that were here in
    /// this phase, not of those left: else the time would run out twice as fast as they go.
    pub(crate) fn grace_for_disconnects(&self) -> Duration {
        Duration::from_secs_f64(self.most_here as f64 / self.settings.disconnects_per_second.max(0.1) + 2.0)
    }

    /// What a restarted agent needs of it: equal as long as nothing has to be written to disk again.
    #[must_use]
    pub fn lasting(&self) -> Self {
        Self {
            begun: Mono::default(),
            phase_entered: Mono::default(),
            spent_before: Duration::ZERO,
            blockers: Vec::new(),
            disconnecting: BTreeMap::new(),
            readers_now: 0,
            viewers_here: BTreeSet::new(),
            most_here: 0,
            cameras: self.cameras.iter().map(|(stream, camera)| (stream.clone(), camera.lasting())).collect(),
            ..self.clone()
        }
    }

    pub(crate) fn notice(&mut self, leg: &LegId, candidates: &[Candidate]) -> Option<LegNotice> {
        let progress = self.legs.get(leg)?;
        let stream = progress.stream.clone();
        let worker = progress.worker.clone();
        let ranked = keep_order(&mut self.order_of_nodes, &stream, candidates);
        let told = ranked.iter().map(|c| WireCandidate {
            node: c.node.clone(),
            rtsp: c.rtsp.clone(),
            warm: c.warm.contains(&stream),
        });
        let candidates = told.collect();
        Some(LegNotice { leg: leg.clone(), worker, candidates, stream, reason: MoveReason::NodeLeaves })
    }

    /// What the first notice says of a leg. A camera's next owner is not known yet.
    fn first_notice(&mut self, leg: &LegId, candidates: &[Candidate]) -> Option<LegNotice> {
        let progress = self.legs.get(leg)?;
        let pushed = |camera: &CameraProgress| camera.source == CameraSource::Pushed;
        let reason = match self.cameras.get(&progress.stream) {
            None => return self.notice(leg, candidates),
            Some(camera) if pushed(camera) => MoveReason::CameraLeaves,
            Some(_) if progress.at.is_some() => MoveReason::OwnerChanges,
            Some(_) => MoveReason::NodeLeaves,
        };
        let (worker, stream) = (progress.worker.clone(), progress.stream.clone());
        Some(LegNotice { leg: leg.clone(), worker, stream, candidates: Vec::new(), reason })
    }

    /// Legs that came are told, in whatever phase; legs that went have moved, unless they were disconnected.
    pub(crate) fn note_legs(&mut self, seen: &Observation, actions: &mut Vec<Action>) {
        if seen.looked.is_none() {
            return;
        }
        let legs = self.legs_in_question(&seen.legs, seen.ingestion.as_ref());
        let bridge = |leg: &ObservedLeg| seen.ingestion.as_ref().is_some_and(|side| side.legs_at_owners.contains(leg));
        for leg in &legs {
            self.legs.entry(leg.leg.clone()).or_insert_with(|| LegProgress {
                worker: leg.worker.clone(),
                stream: leg.stream.clone(),
                at: leg.at.clone(),
                bridge: bridge(leg),
                // A worker knows of the bridge that it built.
                acknowledged: bridge(leg),
                told: false,
                asked: false,
                asked_once: false,
                moved_to: None,
                end: LegEnd::Here,
                counters: None,
                extra_pause_ms: None,
                failed: None,
            });
        }
        let listed: BTreeSet<&LegId> = legs.iter().map(|leg| &leg.leg).collect();
        let mut untold = Vec::new();
        for (id, leg) in &mut self.legs {
            if leg.end == LegEnd::Here && !listed.contains(id) {
                let camera_left = self.cameras.get(&leg.stream).is_some_and(|camera| camera.disconnected.is_some());
                leg.end = if camera_left { LegEnd::CameraLeft } else { LegEnd::Moved(leg.moved_to.clone()) };
            }
            if leg.end == LegEnd::Here && !leg.acknowledged && !leg.told {
                leg.told = true;
                untold.push(id.clone());
            }
        }
        self.forget_ended_legs();
        let notices: Vec<LegNotice> =
            untold.iter().filter_map(|leg| self.first_notice(leg, &seen.candidates)).collect();
        if !notices.is_empty() {
            actions.push(Action::Notify(notices));
        }
    }

    pub(crate) fn note_readers(&mut self, seen: &Observation) {
        if seen.looked.is_some() {
            self.readers_now = seen.readers.len() as u32;
            let viewers: BTreeSet<String> = seen.viewers.iter().map(|viewer| viewer.session.clone()).collect();
            let left = self.viewers_here.iter().filter(|viewer| !viewers.contains(*viewer));
            self.viewers_left += left.filter(|viewer| !self.disconnecting.contains_key(*viewer)).count() as u32;
            self.viewers_here = viewers;
            forget_disconnected(&mut self.disconnecting, seen, self.settings.disconnects_per_second);
            let cameras = seen.ingestion.iter().flat_map(|side| &side.cameras);
            let theirs: usize = cameras.map(|camera| 1 + camera.pulls.len()).sum();
            self.most_here = self.most_here.max(seen.legs.len() + seen.readers.len() + seen.viewers.len() + theirs);
        }
    }

    /// Of the legs that have ended those that say least go first: nobody told their worker anything, or it never answered.
    fn forget_ended_legs(&mut self) {
        let ended = |leg: &LegProgress| leg.end != LegEnd::Here;
        let more = self.legs.values().filter(|leg| ended(leg)).count().saturating_sub(ENDED_LEGS_KEPT);
        if more == 0 {
            return;
        }
        let mut least: Vec<(bool, LegId)> =
            self.legs.iter().filter(|(_, leg)| ended(leg)).map(|(id, leg)| (leg.acknowledged, id.clone())).collect();
        least.sort_by_key(|(acknowledged, _)| *acknowledged);
        for (_, id) in least.into_iter().take(more) {
            self.legs.remove(&id);
            self.legs_more += 1;
        }
    }

    fn leg_outcomes(&self) -> Vec<LegOutcome> {
        let outcome = |(id, leg): (&LegId, &LegProgress)| LegOutcome {
            leg: id.clone(),
            worker: leg.worker.clone(),
            stream: leg.stream.clone(),
            acknowledged: leg.acknowledged,
            how: leg.end.clone(),
            counters: leg.counters,
            extra_pause_ms: leg.extra_pause_ms,
        };
        self.legs.iter().map(outcome).collect()
    }

    pub(crate) fn record(&self, wall: UnixMillis, outcome: DrainOutcome) -> DrainRecord {
        DrainRecord {
            schema: SCHEMA,
            drain: self.order.drain.clone(),
            node: self.order.node.clone(),
            reason: self.order.reason.clone(),
            forced: self.order.forced,
            outcome,
            started: self.started,
            ended: wall,
            phases: self.phases.clone(),
            legs: self.leg_outcomes(),
            legs_more: self.legs_more,
            readers_disconnected: self.readers_disconnected,
            viewers_left: self.viewers_left,
            viewers_disconnected: self.viewers_disconnected,
            cameras: self.camera_outcomes(),
            out_of_balancer_seconds: self.out_of_balancer_seconds,
        }
    }
}
