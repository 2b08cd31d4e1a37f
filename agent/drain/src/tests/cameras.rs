//! An ingestion node's drain: its cameras, the nodes that pull them, and the workers behind those.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use mtxfleet_wire::{
    Bitrate, CameraEnd, CameraSource, DrainId, DrainRecord, LegEnd, LegId, LegNotice, Mono, MoveReason, NodeId, Phase,
    StitchCounters, StreamName, UnixMillis, WorkerId, WorkerReport,
};
use proptest::prelude::*;

use super::world::{LOOK_EVERY, candidate};
use crate::{
    Action, Drain, HandOver, IngestionSide, Observation, ObservedCamera, ObservedLeg, Order, Owner, Pull, Settings,
};

pub(super) fn id<T: std::str::FromStr>(text: &str) -> T {
    text.parse().ok().expect("valid")
}

/// Looks after which somebody acts; `None`: never.
pub(super) type Patience = Option<u32>;

#[derive(Debug, Clone)]
pub(super) struct Camera {
    source: CameraSource,
    pub(super) here: bool,
    /// The next owner has it, after so many looks of the drain; or after so many looks of its disconnection.
    pub(super) elsewhere_after: Patience,
    pub(super) elsewhere_since: Option<Duration>,
    gone_at: Option<u32>,
    /// It delivers, or can be reached.
    pub(super) available: bool,
    /// Nodes that pull it from here.
    pulls: BTreeSet<&'static str>,
}

#[derive(Debug, Clone)]
pub(super) struct Worker {
    pub(super) name: String,
    stream: String,
    leg: LegId,
    /// `None`: at the draining node.
    pub(super) at: Option<&'static str>,
    pub(super) obeys_after: Patience,
    pub(super) ordered: Option<(u32, LegNotice)>,
}

pub(super) const NODES: [&str; 3] = ["dist-1", "dist-2", "dist-3"];
pub(super) const OWNER: &str = "ingest-2";

pub(super) struct World {
    pub(super) now: Duration,
    looks: u32,
    pub(super) cameras: BTreeMap<String, Camera>,
    pub(super) workers: Vec<Worker>,
    pub(super) drain: Drain,
    /// In the place of the drain.
    pub(super) hand_over: Option<HandOver>,
    log: Vec<Action>,
    /// Workers that were cut off by something that the drain did.
    pub(super) cut: Vec<String>,
    legs: u32,
    /// What the draining node knows of legs elsewhere is so many looks old.
    pub(super) lag: usize,
    /// Bits per second that the next owner can take on.
    pub(super) spare: u64,
    heard: VecDeque<(Vec<ObservedLeg>, BTreeMap<StreamName, Owner>)>,
    most_away: usize,
    /// Distribution nodes relay, and are at the next owner so many looks after it has the camera.
    relays: Option<Patience>,
}

impl World {
    pub(super) fn new(settings: Settings) -> Self {
        let order = Order { drain: id("d1"), node: id("ingest-1"), reason: "test".into(), forced: false, plan: None };
        let (drain, log) = Drain::begin(order, settings, Mono(Duration::ZERO), UnixMillis(1_000_000));
        let (cameras, workers, cut, heard) = Default::default();
        Self {
            now: Duration::ZERO,
            looks: 0,
            cameras,
            workers,
            drain,
            hand_over: None,
            log,
            cut,
            legs: 0,
            lag: 0,
            spare: 1_000_000_000,
            heard,
            most_away: 0,
            relays: None,
        }
    }

    /// The node stays in service, and hands over what its next owner delivers.
    pub(super) fn handing_over(settings: Settings) -> Self {
        let hand_over =
            HandOver::begin(id("d1"), id("ingest-1"), settings.clone(), Mono(Duration::ZERO), UnixMillis(1_000_000));
        Self { hand_over: Some(hand_over), ..Self::new(settings) }
    }

    pub(super) fn camera(mut self, name: &str, source: CameraSource, elsewhere_after: Patience) -> Self {
        let (here, pulls) = (true, BTreeSet::new());
        let available = true;
        let camera = Camera { source, here, elsewhere_after, elsewhere_since: None, gone_at: None, available, pulls };
        self.cameras.insert(name.to_owned(), camera);
        self
    }

    pub(super) fn worker(mut self, stream: &str, at: Option<&'static str>, obeys_after: Patience) -> Self {
        let (name, leg) = (format!("w{}", self.workers.len()), self.new_leg());
        self.workers.push(Worker { name, stream: stream.to_owned(), leg, at, obeys_after, ordered: None });
        if let Some(node) = at {
            self.cameras.get_mut(stream).expect("known").pulls.insert(node);
        }
        self
    }

    fn new_leg(&mut self) -> LegId {
        self.legs += 1;
        id(&format!("leg-{}", self.legs))
    }

    pub(super) fn wall(&self) -> UnixMillis {
        UnixMillis(1_000_000 + self.now.as_millis() as u64)
    }

    pub(super) fn look(&mut self) -> Vec<Action> {
        self.now += LOOK_EVERY;
        self.looks += 1;
        self.cameras_act();
        self.workers_act();
        let seen = self.seen();
        let is_elsewhere = |(_, camera): &(&String, &Camera)| camera.here && camera.elsewhere_since.is_some();
        let elsewhere = self.cameras.iter().filter(is_elsewhere).map(|(name, _)| id(name));
        let actions = match &mut self.hand_over {
            None => self.drain.observe(&seen),
            Some(hand_over) => {
                hand_over.take_in(elsewhere, Mono(self.now));
                hand_over.observe(&seen)
            }
        };
        for action in &actions {
            self.obey(action);
        }
        let let_go: Vec<StreamName> = match &self.hand_over {
            None => self.drain.let_go(),
            Some(hand_over) => {
                self.cameras.keys().map(|name| id(name)).filter(|name| hand_over.may_let_go(name)).collect()
            }
        };
        for stream in let_go {
            let camera = self.cameras.get_mut(stream.as_str()).expect("known");
            if std::mem::replace(&mut camera.here, false) {
                let pulls = std::mem::take(&mut camera.pulls);
                self.source_ends(stream.as_str(), |at| at.is_none_or(|node| pulls.contains(node)));
            }
        }
        // One that never comes back is not waited for for ever.
        let away =
            |camera: &&Camera| !camera.here && camera.elsewhere_after.is_some() && camera.elsewhere_since.is_none();
        let away = self.cameras.values().filter(away).count();
        self.most_away = self.most_away.max(away);
        self.log.extend(actions.iter().cloned());
        actions
    }

    fn cameras_act(&mut self) {
        let relays_come = self.relays.flatten().map(|looks| LOOK_EVERY * looks);
        for camera in self.cameras.values_mut() {
            if let (Some(after), Some(since)) = (relays_come, camera.elsewhere_since)
                && self.now >= since + after
            {
                camera.pulls.clear();
            }
            let since = match camera.source {
                CameraSource::Pulled => Some(0),
                CameraSource::Pushed => camera.gone_at,
            };
            if let (Some(after), Some(since)) = (camera.elsewhere_after, since)
                && self.looks >= since + after
            {
                camera.elsewhere_since.get_or_insert(self.now);
            }
        }
    }

    fn workers_act(&mut self) {
        let mut reports = Vec::new();
        for at in 0..self.workers.len() {
            let worker = &mut self.workers[at];
            let (Some((looks, notice)), Some(after)) = (&mut worker.ordered, worker.obeys_after) else { continue };
            *looks += 1;
            if *looks <= after {
                continue;
            }
            let (old, to) = (worker.leg.clone(), notice.candidates[0].node.clone());
            let new = self.new_leg();
            let worker = &mut self.workers[at];
            worker.ordered = None;
            worker.leg = new.clone();
            worker.at = NODES.into_iter().chain([OWNER]).find(|node| *node == to.as_str());
            reports.push(WorkerReport::Moved {
                drain: id("d1"),
                worker: id(&worker.name),
                leg: old,
                new_leg: new,
                to: Some(to),
                extra_pause_ms: 3,
                counters: StitchCounters::default(),
            });
        }
        reports.into_iter().for_each(|report| self.told(report));
    }

    fn told(&mut self, report: WorkerReport) {
        match &mut self.hand_over {
            None => self.drain.worker_reported(report),
            Some(hand_over) => hand_over.worker_reported(report),
        }
    }

    fn observed(&self, worker: &Worker) -> ObservedLeg {
        ObservedLeg {
            leg: worker.leg.clone(),
            worker: id(&worker.name),
            stream: id(&worker.stream),
            at: worker.at.map(id),
            session: worker.at.map_or_else(|| format!("session-{}", worker.leg), |_| String::new()),
            bitrate: Some(Bitrate(2_000_000)),
        }
    }

    fn seen(&mut self) -> Observation {
        let (here, elsewhere): (Vec<&Worker>, Vec<&Worker>) = self.workers.iter().partition(|w| w.at.is_none());
        let legs = here.into_iter().map(|worker| self.observed(worker)).collect();
        let elsewhere: Vec<ObservedLeg> = elsewhere.into_iter().map(|worker| self.observed(worker)).collect();
        let owners = self.cameras.iter().filter_map(|(name, camera)| {
            let since = UnixMillis(1_000_000 + camera.elsewhere_since?.as_millis() as u64);
            Some((id(name), Owner { node: id(OWNER), rtsp: "i2:8554".into(), since }))
        });
        self.heard.push_back((elsewhere, owners.collect()));
        while self.heard.len() > self.lag + 1 {
            self.heard.pop_front();
        }
        let (elsewhere, owners) = self.heard.front().cloned().expect("just put there");
        let cameras = self.cameras.iter().filter(|(_, camera)| camera.here).map(|(name, camera)| ObservedCamera {
            stream: id(name),
            source: camera.source,
            available: camera.available,
            session: (camera.source == CameraSource::Pushed).then(|| format!("publisher {name}")),
            pulls: camera
                .pulls
                .iter()
                .map(|node| Pull {
                    session: format!("pull {node} {name}"),
                    node: id(node),
                    moves: self.relays.is_some(),
                })
                .collect(),
        });
        let cameras: Vec<ObservedCamera> = cameras.collect();
        let pulled = |leg: &&ObservedLeg| {
            let of_stream = cameras.iter().filter(|camera| camera.stream == leg.stream);
            let mut pulls = of_stream.flat_map(|camera| &camera.pulls).filter(|pull| !pull.moves);
            pulls.any(|pull| Some(&pull.node) == leg.at.as_ref())
        };
        let owner: NodeId = id(OWNER);
        let side = IngestionSide {
            legs_elsewhere: elsewhere.iter().filter(pulled).cloned().collect(),
            legs_at_owners: elsewhere.iter().filter(|leg| leg.at.as_ref() == Some(&owner)).cloned().collect(),
            distribution: NODES.map(|node| candidate(node, Some(1_000_000_000), &[])).into(),
            owners,
            recording_readers: 0,
            cameras,
        };
        Observation {
            now: Mono(self.now),
            wall: self.wall(),
            looked: Some(Mono(self.now)),
            legs,
            candidates: vec![candidate(OWNER, Some(self.spare), &[])],
            ingestion: Some(side),
            ..Observation::default()
        }
    }

    fn obey(&mut self, action: &Action) {
        match action {
            Action::Notify(legs) => {
                for notice in legs {
                    self.told(WorkerReport::Acknowledged {
                        drain: id("d1"),
                        worker: notice.worker.clone(),
                        leg: notice.leg.clone(),
                    });
                }
            }
            Action::Move(legs) => {
                for notice in legs {
                    let worker = self.workers.iter_mut().find(|worker| worker.leg == notice.leg);
                    if let Some(worker) = worker.filter(|worker| worker.ordered.is_none()) {
                        worker.ordered = Some((0, notice.clone()));
                    }
                }
            }
            Action::Disconnect { session } => self.disconnect(session),
            _ => {}
        }
    }

    fn disconnect(&mut self, session: &str) {
        if let Some(name) = session.strip_prefix("publisher ") {
            let looks = self.looks;
            let camera = self.cameras.get_mut(name).expect("known");
            camera.here = false;
            camera.pulls.clear();
            camera.gone_at = Some(looks);
            // Its workers come back to where the stream then is.
            for index in 0..self.workers.len() {
                if self.workers[index].stream == name {
                    self.workers[index].leg = self.new_leg();
                    self.workers[index].at.get_or_insert(NODES[0]);
                }
            }
            return;
        }
        if let Some((node, name)) = session.strip_prefix("pull ").and_then(|rest| rest.split_once(' ')) {
            self.cameras.get_mut(name).expect("known").pulls.remove(node);
            return self.source_ends(name, |at| at == Some(node));
        }
        let leg = session.strip_prefix("session-").expect("a leg's");
        let worker = self.workers.iter_mut().find(|worker| worker.leg.as_str() == leg);
        if let Some(worker) = worker {
            self.cut.push(worker.name.clone());
            worker.at = Some(NODES[0]);
        }
    }

    /// Who reads there loses its leg, and comes back to a node that gets the stream from the new owner.
    fn source_ends(&mut self, stream: &str, at: impl Fn(Option<&'static str>) -> bool) {
        for index in 0..self.workers.len() {
            let worker = &self.workers[index];
            if worker.stream == stream && worker.at != Some(OWNER) && at(worker.at) {
                self.cut.push(worker.name.clone());
                let leg = self.new_leg();
                let worker = &mut self.workers[index];
                (worker.leg, worker.ordered) = (leg, None);
                worker.at.get_or_insert(NODES[0]);
            }
        }
    }

    fn run(&mut self) -> DrainRecord {
        while self.now < Duration::from_secs(900) {
            for action in self.look() {
                if let Action::Ended(record) | Action::Cancelled(record) = action {
                    return record;
                }
            }
        }
        panic!("the drain did not end: {:#?}", self.drain.view(Mono(self.now)));
    }

    fn restart_agent(&mut self) {
        let saved = serde_json::to_string(&self.drain.lasting()).expect("a drain is JSON");
        self.now += Duration::from_secs(1);
        self.drain = serde_json::from_str(&saved).expect("and back");
        let actions = self.drain.resume(Mono(self.now), self.wall());
        self.log.extend(actions);
    }

    pub(super) fn reasons(&self) -> Vec<MoveReason> {
        let legs = self.log.iter().filter_map(|action| if let Action::Move(legs) = action { Some(legs) } else { None });
        legs.flatten().map(|leg| leg.reason).collect()
    }
}

use CameraSource::{Pulled, Pushed};

#[test]
fn workers_bridge_the_change_of_owner_and_come_back_and_none_is_cut() {
    let mut world = World::new(Settings::default())
        .camera("cam1", Pulled, Some(20))
        .worker("cam1", Some("dist-1"), Some(3))
        .worker("cam1", Some("dist-2"), Some(9));
    let record = world.run();
    assert_eq!(world.cut, Vec::<String>::new());
    let to_owner = [MoveReason::OwnerChanges; 2];
    assert_eq!(world.reasons(), [to_owner, [MoveReason::OwnerChanged; 2]].concat());
    let at: Vec<_> = world.workers.iter().map(|worker| worker.at).collect();
    assert_eq!(at, [Some("dist-1"), Some("dist-2")], "each is back where it was");
    let ways: BTreeSet<String> = record.legs.iter().map(|leg| format!("{:?}", leg.how)).collect();
    assert_eq!(ways.len(), 3, "to the owner, and back to two nodes: {ways:?}");
    assert_eq!(record.cameras[0].how, CameraEnd::At(id(OWNER)));
    assert!(record.phases.iter().all(|phase| !phase.timed_out), "{:#?}", record.phases);
}

#[test]
fn relays_come_to_the_next_owner_by_themselves_and_nobody_behind_them_is_told_or_cut() {
    let mut world = World::new(Settings::default())
        .camera("cam1", Pulled, Some(20))
        .worker("cam1", Some("dist-1"), Some(3))
        .worker("cam1", Some("dist-2"), Some(3));
    world.relays = Some(Some(100));
    let record = world.run();
    let told = |action: &&Action| matches!(action, Action::Move(_) | Action::Disconnect { .. });
    assert_eq!(world.log.iter().find(told), None);
    assert_eq!(world.cut, Vec::<String>::new());
    assert_eq!(record.cameras[0].how, CameraEnd::At(id(OWNER)));
    assert!(world.now > LOOK_EVERY * 120, "it waited for them");
    assert!(record.phases.iter().all(|phase| !phase.timed_out), "{:#?}", record.phases);
}

#[test]
fn a_relay_that_does_not_come_to_the_next_owner_is_cut_after_a_while() {
    let mut world =
        World::new(Settings::default()).camera("cam1", Pulled, Some(0)).worker("cam1", Some("dist-1"), None);
    world.relays = Some(None);
    let record = world.run();
    assert_eq!(world.cut, ["w0"]);
    assert_eq!(record.cameras[0].how, CameraEnd::At(id(OWNER)));
    assert!(record.phases.iter().all(|phase| !phase.timed_out), "{:#?}", record.phases);
}

#[test]
fn pulls_end_only_once_no_worker_of_the_stream_reads_through_any_of_them() {
    let mut world = World::new(Settings::default())
        .camera("cam1", Pulled, Some(0))
        .worker("cam1", Some("dist-1"), Some(0))
        .worker("cam1", Some("dist-2"), Some(40));
    world.run();
    let last_order = world.log.iter().position(|action| matches!(action, Action::Disconnect { .. })).expect("some");
    let before: Vec<_> = world.log[..last_order].iter().filter(|action| matches!(action, Action::Move(_))).collect();
    assert!(!before.is_empty());
    assert_eq!(world.cut, Vec::<String>::new());
}

#[test]
fn a_camera_that_nobody_else_pulls_is_waited_for_and_named() {
    let settings = Settings { camera_deadline: Duration::from_secs(10), ..Settings::default() };
    let mut world = World::new(settings).camera("cam1", Pulled, None).worker("cam1", Some("dist-1"), Some(0));
    let record = world.run();
    let third = &record.phases[2];
    assert!(third.timed_out || world.now > Duration::from_secs(10), "{third:?}");
    assert_eq!(world.reasons(), [], "nowhere to go");
    assert_eq!(world.cut, ["w0"]);
    assert_eq!(record.legs[0].how, LegEnd::Disconnected);
    assert_eq!(record.cameras[0].how, CameraEnd::Here);
}

/// Until the cameras are led over.
fn reach_third(world: &mut World) {
    while world.drain.phase() < Phase::WorkerMigration {
        world.look();
    }
}

#[test]
fn a_camera_that_is_away_for_a_moment_is_not_let_go_before_another_node_has_it() {
    let mut world =
        World::new(Settings::default()).camera("cam1", Pulled, None).worker("cam1", Some("dist-1"), Some(0));
    reach_third(&mut world);
    // MediaMTX restarts, or the camera does: a few seconds.
    world.cameras.get_mut("cam1").expect("known").available = false;
    for _ in 0..40 {
        world.look();
        assert!(world.drain.let_go().is_empty());
    }
    let waits = world.drain.view(Mono(world.now)).waiting_for;
    assert_eq!(waits, ["camera cam1 delivers nothing and is waited for a moment"]);
    world.cameras.get_mut("cam1").expect("known").available = true;
    for _ in 0..40 {
        world.look();
        assert!(world.cameras["cam1"].here && world.drain.claims(&id("cam1")));
    }
    // Its next owner has it at last.
    world.cameras.get_mut("cam1").expect("known").elsewhere_after = Some(0);
    let record = world.run();
    assert_eq!((world.cut.len(), &record.cameras[0].how), (0, &CameraEnd::At(id(OWNER))));
}

#[test]
fn a_dead_camera_holds_no_drain_up_and_one_that_another_node_has_goes_at_once() {
    let mut world = World::new(Settings::default()).camera("cam1", Pulled, None).camera("cam2", Pulled, Some(0));
    reach_third(&mut world);
    let begun = world.now;
    for camera in world.cameras.values_mut() {
        camera.available = false;
    }
    world.look();
    assert_eq!(world.drain.let_go(), [id::<StreamName>("cam2")]);
    let record = world.run();
    let third = &record.phases[2];
    assert!(!third.timed_out && (12.0..14.0).contains(&third.seconds), "{third:?}");
    assert!(world.now - begun < Duration::from_secs(60));
    assert!(world.cameras["cam1"].here, "nobody else has it: the path stays");
}

#[test]
fn a_camera_whose_next_owner_dies_before_it_has_gone_stays() {
    let mut world = World::new(Settings::default()).camera("cam1", Pulled, Some(0));
    while world.drain.let_go().is_empty() {
        world.look();
        assert!(world.now < Duration::from_secs(60));
    }
    let camera = world.cameras.get_mut("cam1").expect("known");
    (camera.here, camera.elsewhere_after, camera.elsewhere_since) = (true, None, None);
    world.look();
    assert!(world.drain.let_go().is_empty());
    assert!(world.drain.claims(&id("cam1")), "it is to be had here again");
}

#[test]
fn a_worker_that_stays_is_cut_at_the_deadline_and_named_and_its_recording_is_kept_for_a_while() {
    let settings = Settings { camera_deadline: Duration::from_secs(10), ..Settings::default() };
    let mut world = World::new(settings)
        .camera("cam1", Pulled, Some(0))
        .camera("cam2", Pulled, Some(0))
        .worker("cam1", Some("dist-1"), None)
        .worker("cam2", Some("dist-1"), Some(2));
    let record = world.run();
    assert_eq!(world.cut, ["w0"]);
    let cut: Vec<_> = record.legs.iter().filter(|leg| leg.how == LegEnd::Disconnected).collect();
    assert_eq!(cut.len(), 1);
    assert_eq!(cut[0].worker.as_str(), "w0");
    assert!(record.phases[4].seconds >= 30.0, "the grace for its recordings: {:?}", record.phases[4]);
}

#[test]
fn who_reads_at_the_draining_node_itself_moves_to_the_new_owner_and_stays_there() {
    let mut world = World::new(Settings::default()).camera("cam1", Pulled, Some(0)).worker("cam1", None, Some(2));
    world.run();
    assert_eq!(world.reasons(), [MoveReason::NodeLeaves]);
    assert_eq!((world.workers[0].at, world.cut.len()), (Some(OWNER), 0));
}

#[test]
fn cameras_that_publish_go_one_at_a_time_and_what_they_did_not_send_is_in_the_record() {
    let mut world = World::new(Settings::default());
    for name in ["cam1", "cam2", "cam3"] {
        world = world.camera(name, Pushed, Some(7)).worker(name, Some("dist-1"), Some(0));
    }
    let mut cuts = Vec::new();
    let record = loop {
        let actions = world.look();
        for action in &actions {
            if let Action::Disconnect { session } = action {
                cuts.push((session.clone(), world.now));
                let stream = session.strip_prefix("publisher ").expect("nothing else");
                let claimed = world.drain.claims(&id(stream));
                assert!(!claimed, "{stream} is still claimed when it is disconnected");
                let worker = world.workers.iter().find(|worker| worker.stream == stream).expect("one").clone();
                world.drain.worker_reported(WorkerReport::Returned {
                    drain: id("d1"),
                    worker: id(&worker.name),
                    leg: id(&stream.replace("cam", "leg-")),
                    new_leg: worker.leg,
                    missing_ms: 2_000,
                    frame_interval_us: 40_000,
                    counters: StitchCounters::default(),
                });
            }
        }
        if let Some(Action::Ended(record)) = actions.into_iter().find(|a| matches!(a, Action::Ended(_))) {
            break record;
        }
        assert!(world.now < Duration::from_secs(100), "{:?}", world.drain.view(Mono(world.now)).waiting_for);
    };
    assert_eq!((world.most_away, cuts.len()), (1, 3));
    assert_eq!(world.reasons(), []);
    for camera in &record.cameras {
        assert_eq!(camera.how, CameraEnd::At(id(OWNER)));
        // 7 looks of 200 ms; the worker waited 600 ms more for its first frame.
        assert_eq!((camera.away_ms, camera.frames_not_sent, camera.frames_missed), (Some(1_400), Some(35), Some(15)));
    }
    assert!(record.legs.iter().all(|leg| leg.how == LegEnd::CameraLeft), "{:?}", record.legs);
}

#[test]
fn a_camera_that_does_not_come_back_is_not_waited_for_for_ever_and_after_three_no_more_are_sent_away() {
    let mut world = World::new(Settings::default()).camera("cam1", Pushed, None).camera("cam2", Pushed, Some(2));
    let record = world.run();
    let ends: Vec<_> = record.cameras.iter().map(|camera| camera.how.clone()).collect();
    assert_eq!(ends, [CameraEnd::NotSeenElsewhere, CameraEnd::At(id(OWNER))]);

    let mut world = World::new(Settings::default());
    for n in 0..6 {
        world = world.camera(&format!("cam{n}"), Pushed, None);
    }
    while world.now < Duration::from_secs(200) {
        world.look();
    }
    assert_eq!(world.cameras.values().filter(|camera| camera.here).count(), 3);
    let waits = world.drain.view(Mono(world.now)).waiting_for;
    assert!(waits.iter().any(|why| why.contains("do not come back")), "{waits:?}");
}

#[test]
fn a_drain_that_is_cancelled_midway_lets_go_of_nothing_more() {
    let mut world = World::new(Settings::default())
        .camera("cam1", Pulled, Some(0))
        .camera("cam2", Pulled, None)
        .worker("cam1", Some("dist-1"), Some(2));
    while world.drain.let_go().is_empty() {
        world.look();
        assert!(world.now < Duration::from_secs(60));
    }
    let actions = world.drain.cancel(Mono(world.now), world.wall()).expect("in time");
    let Some(Action::Cancelled(record)) = actions.into_iter().next() else { panic!("not cancelled") };
    let cam2 = record.cameras.iter().find(|camera| camera.stream.as_str() == "cam2").expect("named");
    assert_eq!(cam2.how, CameraEnd::Here);
    assert_eq!(world.cut, Vec::<String>::new());
}

pub(super) fn patience() -> impl Strategy<Value = Patience> {
    prop_oneof![8 => (0..20u32).prop_map(Some), 1 => Just(None)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens: it ends in bounded time, no worker that obeys is cut, no camera is away beside another, and
    /// no pulled camera is let go before its next owner has it, all within the deadline.
    #[test]
    fn no_worker_that_obeys_loses_its_stream(
        cameras in prop::collection::vec((any::<bool>(), patience()), 1..5),
        workers in prop::collection::vec((0..5usize, 0..4usize, patience()), 0..8),
        kills in prop::collection::btree_set(0..200u32, 0..4),
        lag in 0..6usize,
    ) {
        let settings = Settings { camera_deadline: Duration::from_secs(120), ..Settings::default() };
        let mut world = World::new(settings.clone());
        world.lag = lag;
        for (n, (pushed, after)) in cameras.iter().enumerate() {
            world = world.camera(&format!("cam{n}"), if *pushed { Pushed } else { Pulled }, *after);
        }
        for (camera, node, obeys) in workers {
            let stream = format!("cam{}", camera % cameras.len());
            world = world.worker(&stream, NODES.get(node).copied(), obeys);
        }
        let mut third_since = None;
        let record = loop {
            if kills.contains(&world.looks) {
                world.restart_agent();
            }
            let actions = world.look();
            if actions.iter().any(|action| matches!(action, Action::PhaseEntered(Phase::WorkerMigration))) {
                third_since = Some(world.now);
            }
            let in_time = third_since.is_none_or(|since| world.now - since < settings.camera_deadline / 2);
            if in_time {
                for name in &world.cut {
                    let worker = world.workers.iter().find(|worker| worker.name == *name).expect("known");
                    prop_assert!(worker.obeys_after.is_none(), "{name} was cut: {:?}", world.log);
                }
                prop_assert!(world.most_away <= 1, "{} cameras away at once", world.most_away);
            }
            if let Some(Action::Ended(record)) = actions.into_iter().find(|a| matches!(a, Action::Ended(_))) {
                break record;
            }
            prop_assert!(world.now < Duration::from_secs(400), "{:?}", world.drain.view(Mono(world.now)).waiting_for);
        };
        prop_assert_eq!(record.cameras.len(), cameras.len());
        let names: BTreeSet<WorkerId> = record.legs.iter().map(|leg| leg.worker.clone()).collect();
        prop_assert_eq!(names.len(), world.workers.len(), "each worker is in the record");
        prop_assert!(record.legs.iter().all(|leg| leg.how != LegEnd::Here), "{:?}", record.legs);
        let _: DrainId = record.drain;
    }
}
