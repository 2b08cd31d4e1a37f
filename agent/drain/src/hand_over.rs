//! Cameras that change hands while their node stays in service: another node came, or came back, and takes its share.
//!
//! It is [phase 3 of an ingestion node's drain](crate::phase_3_camera_migration) and nothing else of one: that very
//! machine, shown no more than the cameras that move. Workers bridge the change and lose nothing. The node stays in the
//! load balancer, goes on with its other cameras, and nothing of this is on disk: an agent that was killed begins it anew,
//! and workers that bridge go back by themselves.
//!
//! A camera whose next owner fails stays where it is. One that is not free of its readers at the deadline goes all the
//! same, and who was cut for it is in the record.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mtxfleet_wire::{
    CameraEnd, DrainId, DrainReport, HandOverRecord, LegEnd, Mono, NodeId, Phase, StreamName, UnixMillis, WorkerId,
    WorkerReport,
};

use crate::action::Action;
use crate::drain::{Drain, Order};
use crate::observation::{IngestionSide, Observation};
use crate::phase_3_camera_migration as phase_3;
use crate::settings::Settings;
use crate::transition;

/// Some cameras of a node on their way to others.
#[derive(Debug, Clone, PartialEq)]
pub struct HandOver {
    /// In its third phase from the beginning, and never in another.
    drain: Drain,
    /// Since when each is on its way: each has a deadline of its own.
    moving: BTreeMap<StreamName, Mono>,
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
        Self { drain, moving: BTreeMap::new(), moved: BTreeMap::new(), kept: BTreeSet::new() }
    }

    #[must_use]
    pub fn id(&self) -> &DrainId {
        self.drain.id()
    }

    /// Cameras that are on their way now.
    pub fn moving(&self) -> impl Iterator<Item = &StreamName> {
        self.moving.keys()
    }

    /// Takes these in too. The deadline of each counts from now; those on their way already keep theirs.
    pub fn take_in(&mut self, streams: impl IntoIterator<Item = StreamName>, now: Mono) {
        for stream in streams {
            if let Entry::Vacant(new) = self.moving.entry(stream) {
                self.kept.remove(new.key());
                self.moved.remove(new.key());
                self.drain.cameras.remove(new.key());
                new.insert(now);
            }
        }
    }

    /// These are to stay after all.
    pub fn call_off(&mut self, stays: impl Fn(&StreamName) -> bool) {
        let stay: Vec<StreamName> = self.moving.keys().filter(|stream| stays(stream)).cloned().collect();
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
        let overdue = self.past(self.drain.settings.camera_deadline, seen.now);
        if let Some(side) = &seen.ingestion {
            // Nobody is cut for a camera that no other node delivers.
            let is_here = |stream: &StreamName| side.cameras.iter().any(|camera| camera.stream == *stream);
            self.call_off(|stream| overdue.contains(stream) && !side.owners.contains_key(stream) && is_here(stream));
        }
        let seen = of_cameras(seen, |stream| self.moving.contains_key(stream));
        let late = of_cameras(&seen, |stream| overdue.contains(stream));
        let in_time = of_cameras(&seen, |stream| !overdue.contains(stream));
        let Some(side) = &seen.ingestion else { return actions };
        self.drain.note_cameras(seen.now, side);
        // Its owner went again after the last reader had left: there may be readers once more.
        for camera in self.drain.cameras.values_mut().filter(|camera| camera.owner_seen.is_none()) {
            camera.let_go = false;
        }
        self.drain.note_legs(&seen, &mut actions);
        self.drain.note_readers(&seen);
        let given_up = self.past(transition::deadline(&self.drain, Phase::WorkerMigration), seen.now);
        let mut blockers = Vec::new();
        if let Some(side) = &in_time.ingestion {
            blockers.extend(phase_3::lead_over(&mut self.drain, &in_time, side, &mut actions));
        }
        if let (Some(side), false) = (&late.ingestion, overdue.is_empty()) {
            blockers.extend(phase_3::cut_the_rest(&mut self.drain, &late, side, &mut actions));
        }
        self.drain.blockers = blockers;
        self.strike_off(side, &given_up);
        actions
    }

    /// Cameras that are on their way for so long or longer.
    fn past(&self, deadline: Duration, now: Mono) -> BTreeSet<StreamName> {
        let past = self.moving.iter().filter(|(_, since)| now.since(**since) >= deadline);
        past.map(|(stream, _)| stream.clone()).collect()
    }

    /// Those that are gone from here, and that no worker bridges any more.
    fn strike_off(&mut self, side: &IngestionSide, given_up: &BTreeSet<StreamName>) {
        let bridges = |stream: &StreamName| {
            self.drain.legs.values().any(|leg| leg.bridge && leg.end == LegEnd::Here && leg.stream == *stream)
        };
        let is_here = |stream: &StreamName| side.cameras.iter().any(|camera| camera.stream == *stream);
        let over = |stream: &&StreamName| !is_here(stream) && (given_up.contains(*stream) || !bridges(stream));
        let over: Vec<StreamName> = self.moving.keys().filter(over).cloned().collect();
        for stream in over {
            self.moving.remove(&stream);
            if let Some(CameraEnd::At(owner)) = self.drain.cameras.get(&stream).map(|camera| &camera.end) {
                self.moved.insert(stream, owner.clone());
            }
        }
    }

    #[must_use]
    pub fn is_over(&self) -> bool {
        self.moving.is_empty()
    }

    /// Whether MediaMTX here may let go of a camera: nobody who can be told reads it here any more.
    #[must_use]
    pub fn may_let_go(&self, stream: &StreamName) -> bool {
        self.moving.contains_key(stream) && self.drain.may_let_go(stream)
    }

    /// As [`Drain::worker_reported`].
    pub fn worker_reported(&mut self, report: WorkerReport) {
        self.drain.worker_reported(report);
    }

    /// When who is left of the camera that is on its way for longest is cut.
    #[must_use]
    pub fn deadline(&self) -> UnixMillis {
        let first = self.moving.values().min().copied().unwrap_or(self.drain.begun);
        let added = first.since(self.drain.begun) + self.drain.settings.camera_deadline;
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

/// What of this look is about these cameras.
fn of_cameras(seen: &Observation, wanted: impl Fn(&StreamName) -> bool) -> Observation {
    let mut seen = seen.clone();
    seen.legs.retain(|leg| wanted(&leg.stream));
    seen.readers.retain(|reader| StreamName::new(reader.stream.as_str()).is_ok_and(|stream| wanted(&stream)));
    seen.viewers.clear();
    if let Some(side) = &mut seen.ingestion {
        side.cameras.retain(|camera| wanted(&camera.stream));
        side.legs_elsewhere.retain(|leg| wanted(&leg.stream));
        side.legs_at_owners.retain(|leg| wanted(&leg.stream));
        side.owners.retain(|stream, _| wanted(stream));
    }
    seen
}
