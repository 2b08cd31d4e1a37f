//! The node driven by events alone, on virtual time.

mod orchestrating;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mtxfleet_wire::{
    DrainOrder, DrainRefusal, DrainReport, DrainView, Leg, LegId, LoadReport, Phase, Role, StreamName, StreamReport,
    WorkerId, WorkerReport,
};

use super::draining::Saved;
use super::effect::BalancerWord;
use super::event::{Admission, Peer, Ticket, Via};
use super::leadership::LeadershipSettings;
use super::sample::{PathSample, Protocol, SessionSample, SessionState};
use super::*;

mod cloud;
mod replacing;

const TICKET: Ticket = Ticket(1);

pub(super) fn id(text: &str) -> NodeId {
    NodeId::new(text).expect("valid")
}

fn facts(name: &str, role: Role) -> NodeFacts {
    NodeFacts {
        schema: SCHEMA,
        role,
        zone: String::new(),
        rtsp: format!("{name}:8554"),
        http: format!("http://{name}:8780"),
        gossip: String::new(),
        version: "0".into(),
        started: UnixMillis(7),
        instance: None,
    }
}

pub(crate) fn settings(role: Role) -> Settings {
    Settings {
        id: id("me"),
        facts: facts("me", role),
        capacity: Bitrate(1_000_000_000),
        minimum: 2,
        anonymous_rtsp: AnonymousRtsp::Worker,
        min_disk_free: 1,
        has_registry: true,
        drain: mtxfleet_drain::Settings::default(),
        exit_when_drained: false,
        dead_after: Duration::from_secs(5),
        cameras: None,
        leadership: LeadershipSettings {
            run: mtxfleet_wire::RunId(7),
            terms: mtxfleet_wire::Terms::default(),
            candidate: false,
            lease_ttl: Duration::from_secs(6),
        },
        orchestrator: None,
        controls: super::controls::SavedControls::default(),
        cloud: None,
        own_rtsp: "127.0.0.1:8554".into(),
        health: super::health::HealthSettings {
            can_restart: true,
            back_off: Duration::from_secs(30),
            disk_patience: Duration::from_secs(600),
        },
        replace: ReplaceSettings::default(),
    }
}

pub(super) fn peer(name: &str, role: Role) -> Peer {
    Peer {
        node: id(name),
        alive: true,
        facts: Some(facts(name, role)),
        load: Some(LoadReport {
            state: NodeState::Active,
            server: ServerHealth::Up,
            cameras: Some(0),
            workers: Some(0),
            viewers: Some(0),
            inbound: None,
            outbound: Some(Bitrate(0)),
            discarded_packets: 0,
            suspects: Vec::new(),
            health: None,
            cpu: None,
            memory: None,
            disk_free: None,
            capacity: Bitrate(1_000_000_000),
            redis: true,
            protected: false,
            declines: None,
            sampled: UnixMillis(0),
        }),
        streams: Arc::default(),
        ..Peer::silent(NodeId::new(name).expect("valid"))
    }
}

pub(super) fn stream(name: &str, owned: bool, legs: &[(&str, &str)]) -> StreamReport {
    let leg = |(worker, leg): &(&str, &str)| Leg {
        worker: WorkerId::new(*worker).expect("valid"),
        leg: LegId::new(*leg).expect("valid"),
    };
    StreamReport {
        name: StreamName::new(name).expect("valid"),
        owned,
        ready: true,
        flowing: true,
        since: UnixMillis(1),
        claim: 0,
        legs: legs.iter().map(leg).collect(),
        readers: 0,
        bitrate: None,
    }
}

fn worker_session(leg: &str) -> SessionSample {
    SessionSample {
        protocol: Protocol::Rtsp,
        id: format!("session-{leg}"),
        state: SessionState::Read,
        path: "cam1".into(),
        query: format!("worker=w-{leg}&leg={leg}"),
        remote: String::new(),
        inbound_bytes: 0,
        outbound_bytes: 0,
        discarded_packets: 0,
    }
}

/// A node and its virtual time.
pub(super) struct World {
    pub(super) node: Node,
    pub(super) now: Now,
}

impl World {
    fn new(role: Role) -> (Self, Vec<Effect>) {
        Self::with(settings(role), None)
    }

    pub(super) fn with(settings: Settings, saved: Option<Saved>) -> (Self, Vec<Effect>) {
        let now = Now { mono: Mono(Duration::from_secs(10)), wall: UnixMillis(1_000_000) };
        let (node, effects) = Node::start(settings, saved, now);
        (Self { node, now }, effects)
    }

    /// In service, with two peers of its role, and Redis.
    fn serving(role: Role) -> Self {
        let (mut world, _) = Self::new(role);
        world.look(&[]);
        world.apply(Event::Registry { reachable: true });
        world.apply(Event::Peers(vec![peer("b", role), peer("c", role)]));
        world
    }

    pub(super) fn apply(&mut self, event: Event) -> Vec<Effect> {
        self.node.apply(self.now, event)
    }

    pub(super) fn after(&mut self, ms: u64) -> &mut Self {
        self.now.mono = self.now.mono + Duration::from_millis(ms);
        self.now.wall = UnixMillis(self.now.wall.0 + ms);
        self
    }

    fn look(&mut self, sessions: &[SessionSample]) -> Vec<Effect> {
        let path = PathSample {
            name: "cam1".into(),
            available: true,
            available_since: Some(UnixMillis(5)),
            source: "rtspSource".into(),
            inbound_bytes: self.now.mono.0.as_millis() as u64 * 250,
            outbound_bytes: 0,
            readers: sessions.len() as u32,
        };
        let at = self.now.mono;
        self.apply(Event::Server(Ok(ServerSample { at, paths: vec![path], sessions: sessions.to_vec() })))
    }

    fn order(&mut self, force: bool) -> Vec<Effect> {
        self.apply(Event::DrainOrdered { ticket: TICKET, order: DrainOrder { force, reason: "test".into() } })
    }

    /// Ordered and admitted.
    fn draining(role: Role) -> Self {
        let mut world = Self::serving(role);
        let effects = world.order(false);
        let Some(Effect::Admit { drain, .. }) = effects.iter().find(|e| matches!(e, Effect::Admit { .. })) else {
            panic!("not asked for admission: {effects:?}")
        };
        let drain = drain.clone();
        world.apply(Event::Admission { drain, answer: Admission::Admitted });
        assert_eq!(world.node.state, NodeState::Draining);
        world
    }
}

fn answer(effects: &[Effect]) -> Option<&Result<DrainView, DrainRefusal>> {
    effects.iter().find_map(|effect| if let Effect::Answer { answer, .. } = effect { Some(answer) } else { None })
}

fn announced(effects: &[Effect]) -> Vec<&'static str> {
    let name = |effect: &Effect| if let Effect::Announce(event) = effect { Some(event.what.name()) } else { None };
    effects.iter().filter_map(name).collect()
}

fn word(effects: &[Effect]) -> Option<BalancerWord> {
    effects.iter().find_map(|effect| if let Effect::BalancerWord(word) = effect { Some(*word) } else { None })
}

#[test]
fn a_starting_node_says_down_then_ready_then_up() {
    let (mut world, effects) = World::new(Role::Distribution);
    assert_eq!(word(&effects), Some(BalancerWord::Down));
    assert_eq!(word(&world.look(&[])), Some(BalancerWord::Ready { weight: 100 }));
    assert_eq!(word(&world.after(9_000).look(&[])), Some(BalancerWord::Up { weight: 100 }));
}

#[test]
fn a_server_that_is_away_is_a_state_and_its_figures_are_unknown_not_zero() {
    let mut world = World::serving(Role::Distribution);
    world.after(1_000).look(&[worker_session("a")]);
    let away = || Event::Server(Err(ServerProblem::Away("refused".into())));
    assert_eq!(word(&world.after(1_000).apply(away())), None, "one look that fails takes nothing out");
    let effects = world.after(4_000).apply(away());
    assert_eq!(word(&effects), Some(BalancerWord::Down));
    let load = effects.iter().find_map(|effect| if let Effect::PublishLoad(load) = effect { Some(load) } else { None });
    let load = load.expect("said");
    assert_eq!((load.workers, load.cameras, load.outbound), (None, None, None));
    assert!(world.node.readiness().is_err());
    let back = word(&world.after(1_000).look(&[]));
    assert!(matches!(back, Some(BalancerWord::Up { .. } | BalancerWord::Ready { .. })), "{back:?}");
}

#[test]
fn figures_are_as_old_as_the_look_that_they_are_from() {
    let mut world = World::serving(Role::Distribution);
    let at = world.now.wall;
    world.after(1_500);
    assert_eq!(world.node.load(world.now).sampled, at);
}

#[test]
fn a_path_that_is_only_listed_is_not_carried() {
    let mut world = World::serving(Role::Distribution);
    let ended = PathSample { name: "cam9".into(), source: "rtspSource".into(), ..PathSample::default() };
    let at = world.now.mono;
    let effects = world.apply(Event::Server(Ok(ServerSample { at, paths: vec![ended], sessions: Vec::new() })));
    assert!(effects.contains(&Effect::PublishStreams(Arc::default())), "{effects:?}");
}

#[test]
fn a_node_with_a_full_disk_is_not_ready_and_load_balancers_send_nothing_new() {
    let mut world = World::serving(Role::Ingestion);
    assert_eq!(world.node.readiness(), Ok(()));
    let effects = world.apply(Event::Machine(MachineSample { disk_free: Some(0), ..MachineSample::default() }));
    assert_eq!(word(&effects), Some(BalancerWord::Down));
    let reasons = world.node.readiness().expect_err("no room");
    assert!(reasons[0].contains("disk"), "{reasons:?}");
}

#[test]
fn the_drain_is_on_disk_before_anything_of_it_is_done() {
    let mut world = World::serving(Role::Distribution);
    let effects = world.order(false);
    let Some(Effect::Admit { drain, serving, minimum, .. }) = effects.first() else { panic!("{effects:?}") };
    assert_eq!((serving.len(), *minimum), (3, 2));
    let drain = drain.clone();
    let effects = world.apply(Event::Admission { drain, answer: Admission::Admitted });
    assert!(matches!(effects[0], Effect::Persist(Some(Saved::Draining(_)))), "{effects:?}");
    assert_eq!(announced(&effects), ["node.state", "drain.phase"]);
    assert_eq!(word(&effects), Some(BalancerWord::Drain));
    assert!(matches!(answer(&effects), Some(Ok(_))));
}

#[test]
fn orders_are_refused_with_the_reason() {
    let (mut alone, _) = World::new(Role::Distribution);
    alone.apply(Event::Registry { reachable: true });
    assert!(matches!(
        answer(&alone.order(false)),
        Some(Err(DrainRefusal::BelowMinimum { serving: 0, minimum: 2, .. }))
    ));

    let mut no_redis = World::serving(Role::Distribution);
    no_redis.apply(Event::Registry { reachable: false });
    assert_eq!(answer(&no_redis.order(false)), Some(&Err(DrainRefusal::NoRegistry)));
    assert!(matches!(answer(&no_redis.order(true)), Some(Ok(_))), "forced");

    let mut twice = World::draining(Role::Distribution);
    assert!(matches!(answer(&twice.order(true)), Some(Err(DrainRefusal::AlreadyDraining { .. }))));

    let mut last = World::with(Settings { minimum: 1, ..settings(Role::Ingestion) }, None).0;
    last.look(&[]);
    last.apply(Event::Registry { reachable: true });
    assert!(matches!(answer(&last.order(false)), Some(Err(DrainRefusal::BelowMinimum { .. }))), "the last one serving");

    let mut idle = World::serving(Role::Distribution);
    assert_eq!(answer(&idle.apply(Event::UndrainOrdered { ticket: TICKET })), Some(&Err(DrainRefusal::NotDraining)));
}

#[test]
fn an_admission_that_does_not_come_is_a_refusal_and_one_that_comes_late_begins_nothing() {
    let mut world = World::serving(Role::Distribution);
    let effects = world.order(false);
    let Some(Effect::Admit { drain, .. }) = effects.first() else { panic!("{effects:?}") };
    let drain = drain.clone();
    assert_eq!(answer(&world.after(5_000).apply(Event::Tick)), Some(&Err(DrainRefusal::NoRegistry)));
    let effects = world.apply(Event::Admission { drain, answer: Admission::Admitted });
    assert_eq!(world.node.state, NodeState::Active);
    assert!(effects.contains(&Effect::ReleaseAdmission { node: id("me") }), "its place is not kept: {effects:?}");
}

#[test]
fn an_order_that_waits_for_admission_is_withdrawn_by_undrain() {
    let mut world = World::serving(Role::Distribution);
    let effects = world.order(false);
    let Some(Effect::Admit { drain, .. }) = effects.first() else { panic!("{effects:?}") };
    let drain = drain.clone();
    let effects = world.apply(Event::UndrainOrdered { ticket: Ticket(2) });
    let answers = effects.iter().filter_map(|effect| match effect {
        Effect::Answer { ticket, answer } => Some((*ticket, answer.is_ok())),
        _ => None,
    });
    let answers: Vec<_> = answers.collect();
    assert_eq!(answers, [(TICKET, false), (Ticket(2), true)], "whoever withdrew it is told that it is");
    let effects = world.after(100).apply(Event::Admission { drain, answer: Admission::Admitted });
    assert_eq!(world.node.state, NodeState::Active);
    assert!(effects.contains(&Effect::ReleaseAdmission { node: id("me") }), "{effects:?}");
}

#[test]
fn without_a_registry_in_the_configuration_gossip_admits() {
    let (mut world, _) = World::with(Settings { has_registry: false, ..settings(Role::Distribution) }, None);
    world.look(&[]);
    world.apply(Event::Peers(vec![peer("b", Role::Distribution), peer("c", Role::Distribution)]));
    assert!(matches!(answer(&world.order(false)), Some(Ok(_))));
}

#[test]
fn of_two_drains_that_gossip_alone_admitted_the_later_one_gives_way() {
    let draining = |started: u64| {
        let mut b = peer("b", Role::Distribution);
        b.load.as_mut().expect("set").state = NodeState::Draining;
        b.drain = Some(DrainReport { started: UnixMillis(started), ..drain_report(&[], &[]) });
        Event::Peers(vec![b, peer("c", Role::Distribution)])
    };
    for (other_began, expected) in [(1, NodeState::Active), (u64::MAX, NodeState::Draining)] {
        let (mut world, _) = World::with(Settings { has_registry: false, ..settings(Role::Distribution) }, None);
        world.look(&[]);
        world.apply(Event::Peers(vec![peer("b", Role::Distribution), peer("c", Role::Distribution)]));
        world.order(false);
        world.after(100).apply(draining(other_began));
        assert_eq!(world.node.state, expected, "the other began at {other_began}");
    }
}

#[test]
fn a_worker_is_told_and_ordered_and_the_drain_ends_when_it_is_gone() {
    let mut world = World::draining(Role::Distribution);
    let mut warm = peer("b", Role::Distribution);
    warm.streams = [stream("cam1", false, &[])].into();
    world.apply(Event::Peers(vec![warm, peer("c", Role::Distribution)]));
    let effects = world.after(200).look(&[worker_session("a")]);
    assert_eq!(announced(&effects), ["drain.notice"]);
    let drain = world.node.draining.drain.as_ref().expect("draining").id().clone();
    let worker = WorkerId::new("w-a").expect("valid");
    let report = WorkerReport::Acknowledged { drain, worker, leg: LegId::new("a").expect("valid") };
    let effects = world.after(10).apply(Event::WorkerReport { report, via: Via::Registry });
    assert_eq!(announced(&effects), ["drain.phase"], "phase 2");
    let effects = world.after(1_500).look(&[worker_session("a")]);
    assert_eq!(announced(&effects), ["drain.phase", "drain.move"], "phase 3");
    let effects = world.after(200).look(&[]);
    assert!(announced(&effects).contains(&"drain.ended"), "{effects:?}");
    assert_eq!(world.node.state, NodeState::Offline);
    assert!(matches!(effects[0], Effect::Persist(Some(Saved::Offline(_)))));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::ReleaseAdmission { .. })));
}

#[test]
fn a_cancelled_drain_and_an_undrained_node_come_back_with_ready() {
    let mut world = World::draining(Role::Distribution);
    let effects = world.after(100).apply(Event::UndrainOrdered { ticket: TICKET });
    assert_eq!(announced(&effects), ["node.state", "drain.cancelled"]);
    assert_eq!(word(&effects), Some(BalancerWord::Ready { weight: 100 }));
    assert!(matches!(effects[0], Effect::Persist(None)));

    let mut world = World::draining(Role::Distribution);
    for _ in 0..20 {
        world.after(200).look(&[]);
    }
    assert_eq!(world.node.state, NodeState::Offline);
    let effects = world.apply(Event::UndrainOrdered { ticket: TICKET });
    assert!(matches!(answer(&effects), Some(Ok(_))));
    assert_eq!(word(&effects), Some(BalancerWord::Ready { weight: 100 }));
    assert_eq!(world.node.state, NodeState::Active);
}

#[test]
fn a_drain_goes_on_after_a_restart_and_a_drained_node_stays_out() {
    let mut world = World::draining(Role::Distribution);
    world.after(200).look(&[worker_session("a")]);
    let saved = world.node.draining.saved(world.node.state).expect("saved");
    let saved: Saved = serde_json::from_str(&serde_json::to_string(&saved).expect("JSON")).expect("and back");
    let (mut again, effects) = World::with(settings(Role::Distribution), Some(saved));
    assert_eq!(word(&effects), Some(BalancerWord::Drain));
    assert_eq!(again.node.draining.drain.as_ref().map(mtxfleet_drain::Drain::phase), Some(Phase::PreNotification));
    for _ in 0..60 {
        again.after(200).look(&[]);
    }
    assert_eq!(again.node.state, NodeState::Offline);
    let saved = again.node.draining.saved(again.node.state);
    let (out, effects) = World::with(settings(Role::Distribution), saved);
    assert_eq!((out.node.state, word(&effects)), (NodeState::Offline, Some(BalancerWord::Drain)));
}

#[test]
fn a_path_that_is_there_again_after_it_was_let_go_of_is_looked_after_once_more() {
    let record = r#"{"schema":1,"drain":"d","node":"me","reason":"","forced":false,"outcome":"completed","started":1,
        "ended":2,"phases":[],"legs":[],"readers_disconnected":0,"viewers_left":0,"viewers_disconnected":0,
        "cameras":[{"stream":"cam1","source":"pulled","how":{"at":"b"}}],"out_of_balancer_seconds":null}"#;
    let saved = Saved::Offline(Box::new(serde_json::from_str(record).expect("a record")));
    let (mut world, _) = World::with(settings(Role::Ingestion), Some(saved));
    let said = |effects: &[Effect]| {
        let about = |effect: &&Effect| matches!(effect, Effect::LetGo(_) | Effect::CheckLetGo);
        effects.iter().find(about).cloned()
    };
    let cam1 = StreamName::new("cam1").expect("valid");
    let first = said(&world.apply(Event::Tick));
    assert!(first.is_none_or(|effect| effect == Effect::LetGo(vec![cam1])));
    // As a MediaMTX that was restarted with its own file has it.
    assert_eq!(said(&world.after(3_000).look(&[])), Some(Effect::CheckLetGo));
    assert_eq!(said(&world.after(1_000).look(&[])), None, "once in a while");
    assert_eq!(said(&world.after(1_500).look(&[])), Some(Effect::CheckLetGo));
}

fn drain_report(streams: &[(&str, &[u8])], moving: &[&str]) -> DrainReport {
    DrainReport {
        id: mtxfleet_wire::DrainId::new("d9").expect("valid"),
        phase: Phase::PreNotification,
        started: UnixMillis(1),
        deadline: UnixMillis(2),
        nodes: vec![id("me"), id("c")],
        streams: streams
            .iter()
            .map(|(name, order)| (StreamName::new(*name).expect("valid"), order.to_vec()))
            .collect::<BTreeMap<_, _>>(),
        moving: moving.iter().map(|leg| LegId::new(*leg).expect("valid")).collect(),
        waiting_for: vec![],
        waiting_more: 0,
        pushed: Vec::new(),
    }
}

fn echoes(effects: &[Effect]) -> Vec<&'static str> {
    let name = |effect: &Effect| if let Effect::Echo(event) = effect { Some(event.what.name()) } else { None };
    effects.iter().filter_map(name).collect()
}

#[test]
fn a_neighbours_drain_warms_its_streams_here_and_is_told_to_workers_once() {
    let mut world = World::serving(Role::Distribution);
    let mut b = peer("b", Role::Distribution);
    b.streams = [stream("cam1", false, &[("w1", "leg1")]), stream("cam2", false, &[("w2", "leg2")])].into();
    b.drain = Some(drain_report(&[("cam1", &[0, 1]), ("cam2", &[1, 0])], &[]));
    let effects = world.apply(Event::Peers(vec![b.clone()]));
    assert!(effects.contains(&Effect::KeepWarm(vec![StreamName::new("cam1").expect("valid")])), "{effects:?}");
    assert_eq!(echoes(&effects), ["drain.notice"]);
    assert_eq!(echoes(&world.apply(Event::Peers(vec![b.clone()]))), Vec::<&str>::new(), "said once");
    b.drain = Some(drain_report(&[("cam1", &[0, 1]), ("cam2", &[1, 0])], &["leg2"]));
    assert_eq!(echoes(&world.apply(Event::Peers(vec![b.clone()]))), ["drain.move"]);
    b.drain = None;
    let state = |peer: &mut Peer, state| peer.load.as_mut().expect("said").state = state;
    state(&mut b, NodeState::Draining);
    let effects = world.apply(Event::Peers(vec![b.clone()]));
    assert_eq!(echoes(&effects), Vec::<&str>::new(), "its report may go before its new state comes");
    state(&mut b, NodeState::Active);
    let effects = world.after(100).apply(Event::Peers(vec![b]));
    assert_eq!(echoes(&effects), ["drain.cancelled"]);
}

#[test]
fn cameras_that_a_neighbour_hands_over_are_told_to_their_workers_until_it_is_over_or_dies() {
    let mut world = World::serving(Role::Distribution);
    let reader = |legs: &[(&str, &str)]| {
        let streams = [stream("cam1", false, legs), stream("cam2", false, &[("w2", "leg2")])].into();
        Peer { streams, ..peer("d", Role::Distribution) }
    };
    let mut b = peer("b", Role::Ingestion);
    b.streams = [stream("cam2", true, &[("w3", "leg3")])].into();
    b.moves = Some(drain_report(&[("cam1", &[1])], &["leg1"]));
    let effects = world.apply(Event::Peers(vec![b.clone(), reader(&[("w1", "leg1")])]));
    assert_eq!(echoes(&effects), ["drain.notice", "drain.move"]);
    let legs = effects.iter().find_map(|effect| match effect {
        Effect::Echo(event) => match &event.what {
            EventKind::DrainMove(order) => Some(order.legs.clone()),
            _ => None,
        },
        _ => None,
    });
    let legs = legs.expect("an order");
    assert_eq!((legs.len(), legs[0].leg.as_str()), (1, "leg1"), "nobody of a camera that stays");
    assert_eq!(legs[0].reason, mtxfleet_wire::MoveReason::OwnerChanges);
    let again = world.apply(Event::Peers(vec![b.clone(), reader(&[("w1", "leg1")])]));
    assert_eq!(echoes(&again), Vec::<&str>::new(), "said once");

    let over = Peer { moves: None, ..b.clone() };
    assert_eq!(echoes(&world.apply(Event::Peers(vec![over, reader(&[])]))), ["camera.handed_over"]);
    world.apply(Event::Peers(vec![b.clone(), reader(&[])]));
    b.alive = false;
    let mut other = reader(&[]);
    other.load.as_mut().expect("set").suspects = vec![id("b")];
    let mut said = Vec::new();
    for second in 0..6 {
        other.load.as_mut().expect("set").sampled.0 += 1_000 * second;
        said.extend(echoes(&world.after(1_000).apply(Event::Peers(vec![b.clone(), other.clone()]))));
    }
    assert_eq!(said, ["camera.handed_over"]);
}

#[test]
fn streams_of_a_neighbour_that_died_in_its_drain_are_not_kept_warm() {
    let mut world = World::serving(Role::Distribution);
    let mut b = peer("b", Role::Distribution);
    b.drain = Some(drain_report(&[("cam1", &[0])], &[]));
    world.apply(Event::Peers(vec![b.clone()]));
    b.alive = false;
    world.apply(Event::Peers(vec![b]));
    let effects: Vec<Effect> = (0..6).flat_map(|_| world.after(1_000).apply(Event::Tick)).collect();
    assert!(effects.contains(&Effect::KeepWarm(Vec::new())), "{effects:?}");
}

#[test]
fn a_neighbours_report_that_points_past_its_nodes_is_survived() {
    let mut world = World::serving(Role::Distribution);
    let mut b = peer("b", Role::Distribution);
    b.streams = [stream("cam1", false, &[("w1", "leg1")])].into();
    b.drain = Some(drain_report(&[("cam1", &[200, 1]), ("cam7", &[])], &["leg1", "unknown"]));
    let effects = world.apply(Event::Peers(vec![b, peer("c", Role::Distribution)]));
    assert_eq!(echoes(&effects), ["drain.notice", "drain.move"]);
}

#[test]
fn a_report_on_a_neighbours_drain_that_came_by_http_is_passed_on() {
    let mut world = World::serving(Role::Distribution);
    let mut b = peer("b", Role::Distribution);
    b.drain = Some(drain_report(&[], &[]));
    world.apply(Event::Peers(vec![b]));
    let report = || WorkerReport::Acknowledged {
        drain: mtxfleet_wire::DrainId::new("d9").expect("valid"),
        worker: WorkerId::new("w").expect("valid"),
        leg: LegId::new("leg1").expect("valid"),
    };
    let effects = world.apply(Event::WorkerReport { report: report(), via: Via::Http });
    assert!(matches!(&effects[..], [Effect::ForwardReport { http, .. }] if http == "http://b:8780"), "{effects:?}");
    let effects = world.apply(Event::WorkerReport { report: report(), via: Via::Registry });
    assert_eq!(effects, [], "every agent reads it there");
}

#[test]
fn the_resolver_learns_owners_from_gossip_and_never_this_node() {
    let mut world = World::serving(Role::Distribution);
    let mut owner = peer("i1", Role::Ingestion);
    owner.streams = [stream("cam1", true, &[])].into();
    let effects = world.apply(Event::Peers(vec![owner]));
    let expected = vec![(StreamName::new("cam1").expect("valid"), id("i1"), "i1:8554".to_owned())];
    assert!(effects.contains(&Effect::Owners(expected)), "{effects:?}");
}

#[test]
fn the_first_live_node_says_that_another_died_and_marks_it_offline() {
    let mut world = World::serving(Role::Distribution);
    let silent = || Peer { alive: false, ..peer("z", Role::Distribution) };
    world.apply(Event::Peers(vec![peer("z", Role::Distribution)]));
    assert_eq!(announced(&world.apply(Event::Peers(vec![silent()]))), ["node.suspected"]);
    // In one leap it would be this node that was held up.
    let effects: Vec<Effect> = (0..6).flat_map(|_| world.after(1_000).apply(Event::Tick)).collect();
    assert_eq!(announced(&effects), ["node.state"]);
    let offline = effects.iter().rev().find_map(|e| if let Effect::Project(p) = e { Some(&p.offline) } else { None });
    assert_eq!(offline.map(Vec::len), Some(1));
    // With an earlier node alive, this one leaves it to that.
    let mut second = World::serving(Role::Distribution);
    second.apply(Event::Peers(vec![peer("a", Role::Distribution), peer("z", Role::Distribution)]));
    assert_eq!(
        announced(&second.apply(Event::Peers(vec![peer("a", Role::Distribution), silent()]))),
        Vec::<&str>::new()
    );
}

fn ills(effects: &[Effect]) -> Option<Vec<mtxfleet_wire::Ill>> {
    effects.iter().find_map(|effect| match effect {
        Effect::Announce(event) => match &event.what {
            EventKind::NodeHealth(report) => Some(report.ills.clone()),
            _ => None,
        },
        _ => None,
    })
}

#[test]
fn a_server_that_stays_away_is_an_ill_that_is_said_and_treated_and_over_when_it_is_back() {
    let mut world = World::serving(Role::Distribution);
    world.apply(Event::Tick);
    world.after(1_000).apply(Event::Server(Err(ServerProblem::Away("refused".into()))));
    world.apply(Event::Tick);
    let effects = world.after(10_000).apply(Event::Tick);
    assert!(effects.contains(&Effect::RestartServer), "{effects:?}");
    assert_eq!(ills(&effects), Some(vec![mtxfleet_wire::Ill::Server]));
    assert_eq!(ills(&world.after(1_000).apply(Event::Tick)), None, "said once");
    assert!(world.node.load(world.now).is_broken(), "idle because broken");
    world.look(&[]);
    assert_eq!(ills(&world.after(1_000).apply(Event::Tick)), Some(vec![]));
    assert!(!world.node.load(world.now).is_broken());
}

#[test]
fn a_stream_that_is_read_here_and_still_while_its_owner_has_it_flowing_is_an_ill() {
    let mut world = World::serving(Role::Distribution);
    let mut owner = peer("i1", Role::Ingestion);
    owner.streams = [stream("cam1", true, &[])].into();
    let still = |world: &mut World, owner: Peer| {
        world.apply(Event::Peers(vec![owner]));
        for _ in 0..40 {
            let at = world.after(1_000).now.mono;
            let path = PathSample { name: "cam1".into(), available: true, readers: 1, ..PathSample::default() };
            let sessions = vec![worker_session("a")];
            world.apply(Event::Server(Ok(ServerSample { at, paths: vec![path], sessions })));
            world.apply(Event::Tick);
        }
        world.node.load(world.now).health.expect("looked").ills
    };
    assert_eq!(still(&mut world, owner.clone()), [mtxfleet_wire::Ill::Streams]);
    assert_eq!(world.node.readiness().map_err(|reasons| reasons.len()), Err(1));
    let mut nowhere = owner;
    nowhere.streams = [StreamReport { flowing: false, ..stream("cam1", true, &[]) }].into();
    assert_eq!(still(&mut world, nowhere), [], "its camera is still, which is not this node's doing");
}

#[test]
fn checks_are_asked_for_in_turn_and_a_peer_whose_rtsp_port_is_shut_is_told() {
    let mut world = World::serving(Role::Distribution);
    let check = |effects: &[Effect]| {
        effects.iter().find_map(|effect| if let Effect::Check(list) = effect { Some(list.clone()) } else { None })
    };
    let list = check(&world.apply(Event::Tick)).expect("at once");
    assert!(list.own.is_some() && list.peers.len() == 2, "{list:?}");
    assert_eq!(check(&world.after(1_000).apply(Event::Tick)), None);
    let list = check(&world.after(9_000).apply(Event::Tick)).expect("ten seconds later");
    assert!(list.own.is_some() && list.peers.is_empty(), "{list:?}");
    let seen = event::Checked { own: Some(true), peers: vec![(id("b"), false), (id("c"), true)] };
    world.apply(Event::Checked(seen));
    world.after(1_000).apply(Event::Tick);
    assert_eq!(world.node.load(world.now).health.expect("looked").unreachable, [id("b")]);
}

#[test]
fn availability_is_watched_once_settled_and_not_while_this_node_is_cut_off() {
    let mut world = World::serving(Role::Distribution);
    let run = |world: &mut World, seconds: u64| {
        for _ in 0..seconds {
            world.after(1_000).look(&[]);
            world.apply(Event::Tick);
        }
        let record = world.node.availability_record();
        let line = record.kept.iter().find(|(of, _)| *of == mtxfleet_wire::Subject::Node("b".into()));
        serde_json::to_value(line).expect("JSON")
    };
    assert_eq!(run(&mut world, 10), serde_json::Value::Null, "not settled");
    let known = run(&mut world, 30);
    assert_ne!(known, serde_json::Value::Null);
    let silent = |name| Peer { alive: false, ..peer(name, Role::Distribution) };
    world.apply(Event::Peers(vec![silent("b"), silent("c")]));
    assert_eq!(run(&mut world, 30), known, "it hears nobody: it is the one that is away");
}

#[test]
fn a_node_that_the_fleet_launched_and_ended_was_available_as_long_as_it_was_watched() {
    let mut world = World::serving(Role::Distribution);
    let mut told = peer("d", Role::Distribution);
    let mut run = |told: &Peer, seconds: u64| {
        for _ in 0..seconds {
            world.after(1_000).look(&[]);
            let others = ["b", "c"].map(|name| peer(name, Role::Distribution));
            world.apply(Event::Peers(others.into_iter().chain([told.clone()]).collect()));
            world.apply(Event::Tick);
        }
        let record = world.node.availability_record();
        record
            .kept
            .into_iter()
            .find(|(of, _)| *of == mtxfleet_wire::Subject::Node("d".into()))
            .map(|(_, kept)| kept.total())
    };
    let says = |told: &mut Peer, state, server| {
        let load = told.load.as_mut().expect("set");
        (load.state, load.server) = (state, server);
    };
    says(&mut told, NodeState::Active, ServerHealth::Unknown);
    assert_eq!(run(&told, 30), None, "it boots");
    says(&mut told, NodeState::Active, ServerHealth::Up);
    run(&told, 60);
    says(&mut told, NodeState::Draining, ServerHealth::Up);
    let (available, watched) = run(&told, 20).expect("watched");
    assert_eq!(available, watched);
    // Its instance ends before it has said that it is drained, and it is silent for a while before it is forgotten.
    told.alive = false;
    assert_eq!(run(&told, 60), Some((available, watched)));
}
