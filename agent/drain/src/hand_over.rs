//! Cameras that change hands while their node stays in service: another node came, or came back, and takes its share.
//!
//! It is [phase 3 of an ingestion node's drain](crate::phase_3_camera_migration) and nothing else of one: that very
//! machine, shown no more than the cameras that move. Workers bridge the change and lose nothing. The node stays in the
//! load balancer, goes on with its other cameras, and nothing of this is on disk: an agent that was killed begins it anew,
//! and workers that bridge go back by themselves.
//!
//! A camera whose next owner fails stays where it is. One that is not free of its readers at the deadline goes all the
//! same, and who was cut for it is in the record.

use std::collections::{BTreeMap, BTreeSet};

use mtxfleet_wire::{
    CameraEnd, DrainId, DrainReport, HandOverRecord, LegEnd, Mono, NodeId, Phase, StreamName, UnixMillis, WorkerId,
    WorkerReport,
};

use crate::action::Action;
use crate::drain::{Drain, Order};
use crate::observation::{IngestionSide, Observation};
use crate::phase_3_camera_migration as phase_3;
use crate::settings::Settings;
use crate::transition::{self, Step};

/// Some cameras of a node on their way to others.
#[derive(Debug, Clone, PartialEq)]
pub struct HandOver {
    /// In its third phase from the beginning, and never in another.
    drain: Drain,
    moving: BTreeSet<StreamName>,
    moved: BTreeMap<StreamName, NodeId>,
    kept: BTreeSet<StreamName>,
}

impl HandOver {
    #[must_use]
    pub fn begin(id: DrainId, node: NodeId, settings: Settings, now: Mono, wall: UnixMillis) -> Self {
        let reason = "cameras are placed elsewhere".to_owned();
        let order = Order { drain: id, node, reason, forced: false, plan: None };
        let (drain, _) = Drain::begin(order, settings, now, wall);
        let drain = Drain { phase: Phase::WorkerMigration, ingestion: true, ..drain };
        Self { drain, moving: BTreeSet::new(), moved: BTreeMap::new(), kept: BTreeSet::new() }
    }

    #[must_use]
    pub fn id(&self) -> &DrainId {
        self.drain.id()
    }

    /// Cameras that are on their way now.
    #[must_use]
    pub fn moving(&self) -> &BTreeSet<StreamName> {
        &self.moving
    }

    /// Takes these in too. The deadline counts from the last one that came.
    pub fn take_in(&mut self, streams: impl IntoIterator<Item = StreamName>, now: Mono) {
        for stream in streams {
            if self.moving.insert(stream.clone()) {
                self.kept.remove(&stream);
                self.moved.remove(&stream);
                self.drain.cameras.remove(&stream);
                self.drain.phase_entered = now;
            }
        }
    }

    /// These are to stay after all.
    pub fn call_off(&mut self, stays: impl Fn(&StreamName) -> bool) {
        let stay: Vec<StreamName> = self.moving.iter().filter(|stream| stays(stream)).cloned().collect();
        for stream in stay {
            self.moving.remove(&stream);
            self.drain.cameras.remove(&stream);
            self.drain.legs.retain(|_, leg| leg.stream != stream);
            self.kept.insert(stream);
        }
    }

    /// Goes on as far as it can with what is seen now, of which only the moving cameras matter.
    pub fn observe(&mut self, seen: &Observation) -> Vec<Action> {
        let mut actions = Vec::new();
        if seen.looked.is_none() {
            return actions;
        }
        let overdue = self.drain.spent_in_phase(seen.now) >= self.drain.settings.camera_deadline;
        if let (true, Some(side)) = (overdue, &seen.ingestion) {
            // Nobody is cut for a camera that no other node delivers.
            let is_here = |stream: &StreamName| side.cameras.iter().any(|camera| camera.stream == *stream);
            self.call_off(|stream| !side.owners.contains_key(stream) && is_here(stream));
        }
        let seen = self.of_moving(seen);
        let Some(side) = &seen.ingestion else { return actions };
        self.drain.note_cameras(seen.now, side);
        // Its owner went again after the last reader had left: there may be readers once more.
        for camera in self.drain.cameras.values_mut().filter(|camera| camera.owner_seen.is_none()) {
            camera.let_go = false;
        }
        self.drain.note_legs(&seen, &mut actions);
        self.drain.note_readers(&seen);
        let given_up = self.drain.spent_in_phase(seen.now) >= transition::deadline(&self.drain, Phase::WorkerMigration);
        self.drain.blockers = match phase_3::step(&mut self.drain, &seen, side, &mut actions) {
            Step::Wait(blockers) => blockers,
            Step::Done => Vec::new(),
        };
        self.strike_off(side, given_up);
        actions
    }

    /// Those that are gone from here, and that no worker bridges any more.
    fn strike_off(&mut self, side: &IngestionSide, given_up: bool) {
        let bridges = |stream: &StreamName| {
            self.drain.legs.values().any(|leg| leg.bridge && leg.end == LegEnd::Here && leg.stream == *stream)
        };
        let is_here = |stream: &StreamName| side.cameras.iter().any(|camera| camera.stream == *stream);
        let over = |stream: &&StreamName| !is_here(stream) && (given_up || !bridges(stream));
        let over: Vec<StreamName> = self.moving.iter().filter(over).cloned().collect();
        for stream in over {
            self.moving.remove(&stream);
            if let Some(CameraEnd::At(owner)) = self.drain.cameras.get(&stream).map(|camera| &camera.end) {
                self.moved.insert(stream, owner.clone());
            }
        }
    }

    fn of_moving(&self, seen: &Observation) -> Observation {
        let moves = |stream: &StreamName| self.moving.contains(stream);
        let mut seen = seen.clone();
        seen.legs.retain(|leg| moves(&leg.stream));
        seen.readers.retain(|reader| self.moving.iter().any(|stream| stream.as_str() == reader.stream));
        seen.viewers.clear();
        if let Some(side) = &mut seen.ingestion {
            side.cameras.retain(|camera| moves(&camera.stream));
            side.legs_elsewhere.retain(|leg| moves(&leg.stream));
            side.legs_at_owners.retain(|leg| moves(&leg.stream));
            side.owners.retain(|stream, _| moves(stream));
        }
        seen
    }

    #[must_use]
    pub fn is_over(&self) -> bool {
        self.moving.is_empty()
    }

    /// Whether MediaMTX here may let go of a camera: nobody who can be told reads it here any more.
    #[must_use]
    pub fn may_let_go(&self, stream: &StreamName) -> bool {
        self.moving.contains(stream) && self.drain.may_let_go(stream)
    }

    /// As [`Drain::worker_reported`].
    pub fn worker_reported(&mut self, report: WorkerReport) {
        self.drain.worker_reported(report);
    }

    /// When who is left is cut.
    #[must_use]
    pub fn deadline(&self) -> UnixMillis {
        let added = self.drain.phase_entered.since(self.drain.begun) + self.drain.settings.camera_deadline;
        UnixMillis(self.drain.started.0 + added.as_millis() as u64)
    }

    /// What goes into gossip.
    #[must_use]
    pub fn report(&self) -> DrainReport {
        DrainReport { deadline: self.deadline(), ..self.drain.report() }
    }

    #[must_use]
    pub fn record(&self, wall: UnixMillis) -> HandOverRecord {
        let led = |leg: &&crate::LegProgress| !leg.bridge && leg.asked_once;
        let cut = self.drain.legs.values().filter(|leg| leg.end == LegEnd::Disconnected);
        let workers: BTreeSet<(&WorkerId, &StreamName)> =
            self.drain.legs.values().filter(led).map(|leg| (&leg.worker, &leg.stream)).collect();
        HandOverRecord {
            moved: self.moved.clone(),
            kept: self.kept.iter().cloned().collect(),
            workers: workers.len() as u32,
            cut: cut.map(|leg| leg.worker.clone()).collect(),
            seconds: wall.since(self.drain.started).as_secs_f64(),
        }
    }
}
