//! The pure centre: `Node::apply(now, Event) -> Vec<Effect>`.
//!
//! One task owns the [`Node`]; nothing in it awaits, locks, or reads a clock. It routes: to [`readers`] (who reads
//! here), [`traffic`] (how much), [`balancers`] (what load balancers are told), [`draining`] (the five phases, in crate
//! `drain`), [`handing_over`] (an ingestion node's cameras in it), [`changing_hands`] (those that go while it stays), [`neighbours`] (what other nodes' drains ask of this
//! one), [`leadership`] (who decides for this role, in crate `leader`), [`orchestrating`] (deciding, when this node is
//! elected), [`carrying_out`] (its own part of plans), [`controls`] (pauses), [`cameras`] (which cameras are
//! pulled here), [`claims`] (who has had a stream last) and [`publishing`] (what the world hears).

pub mod availability;
pub mod balancers;
pub mod cameras;
pub mod carrying_out;
pub mod changing_hands;
pub mod claims;
pub mod cloud;
pub mod controls;
pub mod decisions;
pub mod draining;
pub mod effect;
pub mod event;
pub mod fenced;
pub mod handing_over;
mod healing;
pub mod health;
pub mod leadership;
pub mod neighbours;
pub mod orchestrating;
pub mod publishing;
pub mod readers;
mod recordings;
mod replacing;
pub mod sample;
pub mod traffic;
pub mod views;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mtxfleet_leader::health::replacement::ReplaceSettings;
use mtxfleet_leader::{Fleet, Orchestrator};
use mtxfleet_wire::{
    Bitrate, EventId, EventKind, FleetEvent, HealthReport, Mono, NodeFacts, NodeId, NodeState, SCHEMA, ServerHealth,
    StreamReport, UnixMillis,
};

use availability::Availabilities;
use balancers::Balancers;
use cameras::{CameraSettings, Cameras};
use carrying_out::CarryingOut;
use changing_hands::ChangingHands;
use claims::Claims;
use cloud::{Cloud, CloudSettings};
use controls::{Controls, SavedControls};
use draining::Draining;
use effect::{Effect, Pace};
use event::Event;
use health::{Health, HealthSettings};
use leadership::{Leadership, LeadershipSettings};
use neighbours::Neighbours;
use orchestrating::Orchestrating;
use publishing::{Said, stream_reports};
use readers::{AnonymousRtsp, Readers};
use recordings::RecordingUse;
use replacing::Replacing;
use sample::{MachineSample, ServerProblem, ServerSample};
use traffic::Traffic;

/// Both kinds of time, taken together when an event arrived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Now {
    pub mono: Mono,
    pub wall: UnixMillis,
}

/// What configuration says of this node.
#[derive(Debug, Clone)]
pub struct Settings {
    pub id: NodeId,
    pub facts: NodeFacts,
    /// Outbound bits per second it is meant to carry at most.
    pub capacity: Bitrate,
    /// Nodes of this role that must stay in service when one is drained.
    pub minimum: u32,
    pub anonymous_rtsp: AnonymousRtsp,
    /// With less than this on the recordings' disk the node takes nothing new; bytes.
    pub min_disk_free: u64,
    /// Whether a registry is configured; without one a drain is admitted by what gossip says.
    pub has_registry: bool,
    pub drain: mtxfleet_drain::Settings,
    /// The agent ends when a drain has.
    pub exit_when_drained: bool,
    /// A peer that is silent for so long is dead.
    pub dead_after: Duration,
    pub leadership: LeadershipSettings,
    /// `None`: no inventory is configured, and no camera is pulled.
    pub cameras: Option<CameraSettings>,
    /// With the policy of this node's role; `None`: the fleet only reports and drains.
    pub orchestrator: Option<Orchestrator>,
    /// What was on disk at start.
    pub controls: SavedControls,
    /// `None`: no cloud, the fleet neither grows nor ends machines.
    pub cloud: Option<CloudSettings>,
    /// `host:port` at which the agent itself reaches its RTSP server.
    pub own_rtsp: String,
    pub health: HealthSettings,
    /// For a node that orchestrates a cloud.
    pub replace: ReplaceSettings,
}

#[derive(Debug)]
pub struct Node {
    settings: Settings,
    state: NodeState,
    fleet: Fleet,
    server: Server,
    machine: MachineSample,
    registry_reachable: bool,
    balancers: Balancers,
    cameras: Cameras,
    claims: Claims,
    draining: Draining,
    neighbours: Neighbours,
    leadership: Leadership,
    orchestrating: Orchestrating,
    carrying_out: CarryingOut,
    changing_hands: ChangingHands,
    controls: Controls,
    cloud: Option<Cloud>,
    health: Health,
    said_health: HealthReport,
    availability: Availabilities,
    replacing: Replacing,
    recording_use: RecordingUse,
    started: Mono,
    said: Said,
    events_made: u64,
}

/// What is known of this node's MediaMTX.
#[derive(Debug, Default)]
struct Server {
    health: ServerHealth,
    /// Since when it is not up; `None` while it is.
    ill_since: Option<Mono>,
    sample: ServerSample,
    /// When `sample` was taken; `None` when it is of before an illness.
    looked: Option<Mono>,
    readers: Readers,
    traffic: Traffic,
    /// What gossip, registry and HTTP say of the streams here, made once a look.
    streams: Arc<[StreamReport]>,
    sessions: BTreeSet<String>,
    last_new_session: Option<Mono>,
}

impl Node {
    /// `saved` is what [`Effect::Persist`] wrote last; a drain in it goes on, a drained node stays out of service.
    /// What cannot be read is as if it were not there (the caller has said so).
    #[must_use]
    pub fn start(mut settings: Settings, saved: Option<draining::Saved>, now: Now) -> (Self, Vec<Effect>) {
        let mut node = Self {
            fleet: Fleet::new(settings.dead_after),
            state: NodeState::Active,
            server: Server { ill_since: Some(now.mono), ..Server::default() },
            machine: MachineSample::default(),
            registry_reachable: false,
            balancers: Balancers::new(now.mono),
            cameras: Cameras::default(),
            claims: Claims::default(),
            draining: Draining::default(),
            neighbours: Neighbours::default(),
            leadership: Leadership::new(settings.facts.role, settings.id.clone(), settings.leadership),
            orchestrating: Orchestrating::new(settings.orchestrator.take(), now.mono),
            carrying_out: CarryingOut::default(),
            changing_hands: ChangingHands::default(),
            controls: Controls::new(std::mem::take(&mut settings.controls)),
            cloud: settings.cloud.map(|cloud| Cloud::new(cloud, &settings.facts)),
            health: Health::new(now.mono, settings.health),
            said_health: HealthReport::default(),
            availability: Availabilities::new(None, now.wall),
            replacing: Replacing::new(settings.replace),
            recording_use: RecordingUse::default(),
            started: now.mono,
            said: Said::default(),
            events_made: 0,
            settings,
        };
        let mut effects = vec![Effect::SetPace(Pace::Calm)];
        effects.push(Effect::Announce(node.event(now, EventKind::NodeJoined { role: node.settings.facts.role })));
        node.take_up_saved(saved, now, &mut effects);
        node.lead(now, &mut effects);
        node.publish(now, &mut effects);
        (node, effects)
    }

    /// Goes on from the record of availability of before the start.
    #[must_use]
    pub fn with_availability(mut self, record: Option<availability::Record>, now: Now) -> Self {
        self.availability = Availabilities::new(record, now.wall);
        self
    }

    /// The one way in. Effects are to be carried out in their order.
    pub fn apply(&mut self, now: Now, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        let tends_cameras = matches!(
            event,
            Event::Tick | Event::Server(_) | Event::Peers(_) | Event::Inventory(_) | Event::PathsCompared(_)
        );
        match event {
            Event::Tick => {
                self.look_after_health(now, &mut effects);
                self.note_recording_use(now.mono);
            }
            Event::Checked(seen) => self.checked(now.mono, seen),
            Event::Server(look) => self.see_server(now, look),
            Event::Machine(sample) => self.machine = sample,
            Event::RecordingsFetched(now) => self.recording_use.fetching = now,
            Event::Peers(peers) => self.see_peers(now, peers, &mut effects),
            Event::Registry { reachable } => self.registry_reachable = reachable,
            Event::Admission { drain, answer } => self.admission_answered(now, &drain, answer, &mut effects),
            Event::LeaseAnswered { number, answer } => self.leadership.answered(now, number, answer),
            Event::Registered(members) => self.leadership.registered(members),
            // Who writes without waiting for the answer has it in the log of its edge.
            Event::FencedWritten { .. } => {}
            Event::CloudAnswered { number, answer } => self.cloud_answered(now, number, answer, &mut effects),
            Event::IntentAnswered { number, answer } => self.intent_answered(now, number, answer, &mut effects),
            Event::TermsSaved { terms, done } => self.leadership.saved(now, terms, done),
            Event::Inventory(news) => self.inventory_came(now, news, &mut effects),
            Event::PathsCompared(paths) => self.paths_compared(paths),
            Event::BalancerPolled { who, word } => self.balancers.polled(now.mono, who, word),
            Event::WorkerReport { report, via } => self.worker_reported(report, via, &mut effects),
            Event::DrainOrdered { ticket, order } => self.drain_ordered(now, ticket, order, &mut effects),
            Event::UndrainOrdered { ticket } => self.undrain_ordered(now, ticket, &mut effects),
            Event::ControlOrdered { order, paused } => self.control_ordered(now, order, paused),
            Event::ProtectOrdered { protected } => self.protect_ordered(protected),
        }
        self.pass_time(now, &mut effects);
        self.hear_plans();
        self.orchestrate(now, &mut effects);
        self.carry_out_plan(now, &mut effects);
        self.go_on_draining(now, &mut effects);
        self.lead(now, &mut effects);
        self.replace_machines(now, &mut effects);
        self.use_cloud(now, &mut effects);
        if tends_cameras {
            self.tend_cameras(now, &mut effects);
        }
        self.publish(now, &mut effects);
        effects
    }

    fn see_server(&mut self, now: Now, look: Result<ServerSample, ServerProblem>) {
        match look {
            Ok(sample) => {
                let mut streams = self.server.see(sample, &self.settings);
                // What another has, or will have in a moment, is claimed no longer.
                let drain = self.draining.drain.as_ref();
                for report in streams.iter_mut().filter(|report| report.owned) {
                    let is_kept = drain.is_none_or(|drain| drain.claims(&report.name));
                    report.owned = is_kept && !self.cameras.is_withdrawn(&report.name);
                }
                self.claims.number(&mut streams, &self.fleet);
                // Most looks find what the last one found: whoever shares it need not compare.
                if *self.server.streams != streams[..] {
                    self.server.streams = streams.into();
                }
            }
            Err(problem) => self.server.fell_ill(now.mono, problem),
        }
    }

    /// In service, its MediaMTX answers, and there is room on the disk.
    fn unready_reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.state != NodeState::Active {
            reasons.push(format!("the node is {}", self.state));
        }
        match &self.server.health {
            ServerHealth::Up => {}
            ServerHealth::Unknown => reasons.push("MediaMTX was not asked yet".to_owned()),
            ServerHealth::Away(why) => reasons.push(format!("MediaMTX is away: {why}")),
            ServerHealth::Odd(why) => reasons.push(format!("MediaMTX answers oddly: {why}")),
        }
        if self.delivers_nothing() {
            let ills: Vec<&str> = self.said_health.ills.iter().map(|ill| ill.as_str()).collect();
            reasons.push(format!("it delivers nothing: {}", ills.join(", ")));
        }
        if let Some(free) = self.too_little_disk() {
            reasons.push(format!(
                "{free} bytes are free on the recordings' disk, {} must be",
                self.settings.min_disk_free
            ));
        }
        reasons
    }

    /// Bytes free on the recordings' disk, when they are too few for anything new.
    fn too_little_disk(&self) -> Option<u64> {
        self.machine.disk_free.filter(|free| *free < self.settings.min_disk_free)
    }

    /// Ids are made of the node, its start and a count, so that no randomness is needed.
    fn event(&mut self, now: Now, what: EventKind) -> FleetEvent {
        let about = self.settings.id.clone();
        self.event_about(now, about, what)
    }

    fn event_about(&mut self, now: Now, node: NodeId, what: EventKind) -> FleetEvent {
        self.events_made += 1;
        let id = format!("{}.{}.{}", self.settings.id, self.settings.facts.started.0, self.events_made);
        let id = EventId::new(id).expect("a node id, two numbers and two dots are a valid event id");
        FleetEvent { schema: SCHEMA, id, at: now.wall, node, what }
    }
}

impl Server {
    /// What is carried, as MediaMTX says it.
    fn see(&mut self, sample: ServerSample, settings: &Settings) -> Vec<StreamReport> {
        self.traffic.look(&sample);
        self.readers = Readers::of(&sample, settings.anonymous_rtsp, |path| self.traffic.bitrate(path));
        let streams = stream_reports(settings.facts.role, &sample, &self.readers, &self.traffic);
        let sessions: BTreeSet<String> = self.readers.protocols.keys().cloned().collect();
        if sessions.difference(&self.sessions).next().is_some() {
            self.last_new_session = Some(sample.at);
        }
        self.sessions = sessions;
        self.looked = Some(sample.at);
        self.sample = sample;
        self.health = ServerHealth::Up;
        self.ill_since = None;
        streams
    }

    fn fell_ill(&mut self, now: Mono, problem: ServerProblem) {
        self.health = match problem {
            ServerProblem::Away(why) => ServerHealth::Away(why),
            ServerProblem::Odd(why) => ServerHealth::Odd(why),
        };
        self.ill_since.get_or_insert(now);
        // What was there before is unknown now; unknown is not zero, so nobody may read it as "nobody is here".
        self.looked = None;
        self.sample = ServerSample::default();
        self.readers = Readers::default();
        if !self.streams.is_empty() {
            self.streams = Arc::default();
        }
        self.traffic.forget();
    }
}

#[cfg(test)]
pub(crate) mod tests;
