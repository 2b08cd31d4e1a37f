use mtxfleet_wire::{Candidate, DrainNotice, EventId, MoveOrder, SCHEMA, StreamName, UnixMillis, WorkerId};

use super::*;

const LIMITS: Limits =
    Limits { via: Via::Direct, leg_timeout: Duration::from_secs(10), cover_timeout: Duration::from_secs(20) };

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn id<T: std::str::FromStr>(text: &str) -> T {
    text.parse().ok().expect("valid")
}

/// A machine whose legs are called 1, 2, 3 ...
struct Script {
    machine: Handover,
    events: u32,
}

impl Script {
    fn new(limits: Limits) -> Self {
        let mut last = 0;
        let new_id = Box::new(move || {
            last += 1;
            id(&last.to_string())
        });
        Self { machine: Handover::new(ms(0), limits, new_id), events: 0 }
    }

    /// With leg 1 delivering since time 0.
    fn live(limits: Limits) -> Self {
        let mut script = Self::new(limits);
        assert_eq!(script.told(), ["open 1 stable URL"]);
        assert_eq!(script.on(0, Input::Opened(&id("1"))), [""; 0]);
        assert_eq!(script.on(0, Input::Packets(&id("1"))), [""; 0]);
        assert_eq!(script.machine.state(), State::Live);
        script
    }

    fn on(&mut self, at: u64, input: Input<'_>) -> Vec<String> {
        self.machine.apply(ms(at), input);
        self.told()
    }

    fn told(&mut self) -> Vec<String> {
        let words = |action| match action {
            Action::Open { leg, target } => format!("open {leg} {target}"),
            Action::Close { leg } => format!("close {leg}"),
            Action::Acknowledge { drain, leg } => format!("acknowledge {drain} {leg}"),
            Action::Moved { drain, leg, new_leg, to } => {
                format!("moved {drain} {leg} to {new_leg} at {}", to.map_or("?".to_owned(), String::from))
            }
            Action::Returned { drain, leg, new_leg } => format!("returned {drain} {leg} as {new_leg}"),
            Action::Failed { drain, leg, why } => format!("failed {drain} {leg}: {why}"),
        };
        self.machine.actions().into_iter().map(words).collect()
    }

    fn event(&mut self, at: u64, what: EventKind) -> Vec<String> {
        self.events += 1;
        let event = FleetEvent {
            schema: SCHEMA,
            id: EventId::new(format!("e{}", self.events)).expect("valid"),
            at: UnixMillis(0),
            node: id("a"),
            what,
        };
        let told = self.on(at, Input::Event(&event));
        assert_eq!(self.on(at, Input::Event(&event)), [""; 0], "the same event again must do nothing");
        told
    }

    /// With this text as the legs' part, `at` as time.
    fn order(&mut self, at: u64, drain: &str, leg: &str, candidates: &[(&str, bool)]) -> Vec<String> {
        let legs = vec![named(leg, candidates)];
        self.event(at, EventKind::DrainMove(MoveOrder { drain: id(drain), node: id("a"), legs }))
    }

    fn notice(&mut self, at: u64, drain: &str, node: &str, leg: &str) -> Vec<String> {
        let legs = vec![named("other", &[]), named(leg, &[("b", true)])];
        let (drain, node) = (id(drain), id(node));
        self.event(at, EventKind::DrainNotice(DrainNotice { drain, node, deadline: UnixMillis(0), legs }))
    }

    fn refused(&mut self, at: u64, leg: &str) -> Vec<String> {
        self.on(at, Input::Refused(&id(leg), "no".into()))
    }

    fn ended(&mut self, at: u64, leg: &str) -> Vec<String> {
        self.on(at, Input::Ended(&id(leg), "gone".into()))
    }
}

fn named(leg: &str, candidates: &[(&str, bool)]) -> LegNotice {
    let candidate =
        |(node, warm): &(&str, bool)| Candidate { node: id(node), rtsp: format!("{node}:554"), warm: *warm };
    LegNotice {
        leg: id(leg),
        worker: WorkerId::new("w").expect("valid"),
        stream: StreamName::new("cam1").expect("valid"),
        candidates: candidates.iter().map(candidate).collect(),
        reason: MoveReason::NodeLeaves,
    }
}

#[test]
fn a_notice_is_acknowledged_once_and_only_for_a_leg_of_ours() {
    let mut script = Script::live(LIMITS);
    assert_eq!(script.notice(1, "d1", "a", "7"), [""; 0]);
    assert_eq!(script.notice(2, "d1", "a", "1"), ["acknowledge d1 1"]);
    assert_eq!(script.notice(3, "d1", "a", "1"), [""; 0], "the same notice under another id");
    assert_eq!(script.machine.state(), State::Live, "a notice moves nothing");
}

#[test]
fn an_order_moves_make_before_break() {
    let mut script = Script::live(LIMITS);
    assert_eq!(script.order(10, "d1", "1", &[("b", true)]), ["open 2 b (b:554)"]);
    assert_eq!(script.order(11, "d1", "1", &[("b", true)]), [""; 0], "the same order under another id");
    assert_eq!(script.machine.state(), State::Moving);
    assert_eq!(script.on(40, Input::Opened(&id("2"))), [""; 0]);
    assert_eq!(script.on(50, Input::Packets(&id("2"))), [""; 0], "the old leg stays until it is covered");
    assert_eq!(script.on(90, Input::Covered(&id("2"))), ["close 1", "moved d1 1 to 2 at b"]);
    assert_eq!((script.machine.state(), script.machine.current()), (State::Live, Some(&id("2"))));
    assert_eq!(script.on(91, Input::Covered(&id("2"))), [""; 0]);
    assert_eq!(script.machine.deadline(), None);
}

#[test]
fn warm_nodes_come_before_cold_ones_and_a_draining_one_never() {
    let mut script = Script::live(LIMITS);
    script.notice(1, "d2", "c", "7");
    assert_eq!(script.order(10, "d1", "1", &[("c", true), ("d", false), ("b", true)]), ["open 2 b (b:554)"]);
    assert_eq!(script.refused(11, "2"), ["close 2", "open 3 d (d:554)"]);
    assert_eq!(script.refused(12, "3"), ["close 3", "open 4 stable URL"]);
}

#[test]
fn a_node_that_is_back_in_service_is_gone_to_again() {
    let mut script = Script::live(LIMITS);
    script.notice(1, "d2", "a", "7");
    let (from, to) = (NodeState::Offline, NodeState::Active);
    assert_eq!(script.event(2, EventKind::NodeStateChanged { from, to, why: String::new() }), [""; 0]);
    let order = MoveOrder { drain: id("d3"), node: id("b"), legs: vec![named("1", &[("a", true)])] };
    assert_eq!(script.event(3, EventKind::DrainMove(order)), ["open 2 a (a:554)"]);
}

#[test]
fn legs_spread_over_warm_nodes() {
    let nodes = ["b", "c", "d"];
    let candidates = nodes.map(|node| (node, true));
    let first = |leg: u32| {
        let notice = named(&format!("leg-{leg}"), &candidates);
        targets::in_order(Via::Direct, &notice, &std::collections::BTreeSet::new())[0].to_string()
    };
    let firsts: Vec<String> = (0..90).map(first).collect();
    for node in nodes {
        let count = firsts.iter().filter(|first| first.starts_with(node)).count();
        assert!((15..=45).contains(&count), "{count} of 90 legs chose {node}");
    }
}

#[test]
fn when_no_node_takes_it_the_worker_stays_and_says_why_and_a_later_order_is_tried() {
    let mut script = Script::live(LIMITS);
    script.order(10, "d1", "1", &[("b", true)]);
    assert_eq!(script.refused(20, "2"), ["close 2", "open 3 stable URL"]);
    let told = script.refused(30, "3");
    assert_eq!(told, ["close 3", "failed d1 1: b (b:554): no; stable URL: no"]);
    assert_eq!((script.machine.state(), script.machine.current()), (State::Live, Some(&id("1"))));
    assert_eq!(script.order(40, "d1", "1", &[("d", true)]), ["open 4 d (d:554)"]);
}

#[test]
fn each_stage_of_a_new_leg_has_its_bound() {
    let mut script = Script::live(LIMITS);
    script.order(0, "d1", "1", &[("b", true), ("c", false)]);
    assert_eq!(script.on(9_999, Input::Tick), [""; 0]);
    assert_eq!(script.on(10_000, Input::Tick), ["close 2", "open 3 c (c:554)"]);
    script.on(10_001, Input::Opened(&id("3")));
    assert_eq!(script.on(20_000, Input::Tick), ["close 3", "open 4 stable URL"], "it plays, and no packet comes");
    script.on(20_001, Input::Opened(&id("4")));
    script.on(20_002, Input::Packets(&id("4")));
    assert_eq!(script.on(40_001, Input::Tick), [""; 0]);
    let told = script.on(40_002, Input::Tick);
    assert_eq!(told[0], "close 4");
    assert!(told[1].starts_with("failed d1 1: b (b:554): no answer"), "{told:?}");
    assert!(told[1].contains("did not join"), "{told:?}");
    assert_eq!(script.on(40_003, Input::Packets(&id("4"))), [""; 0], "what comes late of it does nothing");
}

#[test]
fn a_cancelled_drain_is_forgotten_with_its_late_orders() {
    let mut script = Script::live(LIMITS);
    script.notice(1, "d1", "b", "1");
    assert_eq!(script.event(2, EventKind::DrainCancelled { drain: id("d1"), why: String::new() }), [""; 0]);
    assert_eq!(script.order(3, "d1", "1", &[("c", true)]), [""; 0]);
    assert_eq!(script.order(4, "d2", "1", &[("b", true)]), ["open 2 b (b:554)"], "its node may be gone to again");
}

#[test]
fn a_lost_leg_is_replaced_at_once_and_then_with_growing_waits() {
    let mut script = Script::live(LIMITS);
    assert_eq!(script.ended(60_000, "1"), ["open 2 stable URL"]);
    assert_eq!(script.machine.state(), State::Reconnecting);
    let mut now = 60_000;
    let mut waits = Vec::new();
    for leg in 0..7 {
        assert_eq!(script.refused(now, &(2 * leg + 2).to_string()).len(), 1, "closed, nothing opened yet");
        let at = script.machine.deadline().expect("it waits").as_millis() as u64;
        waits.push(at - now);
        now = at;
        assert_eq!(script.on(now, Input::Tick), [format!("open {} stable URL", 2 * leg + 4)]);
    }
    assert_eq!(waits, [50, 100, 200, 400, 800, 1000, 1000]);
    script.on(now, Input::Opened(&id("16")));
    script.on(now, Input::Packets(&id("16")));
    assert_eq!(script.machine.state(), State::Live);
    assert_eq!(script.ended(now + 100, "16"), [""; 0], "a leg that did not last is no reason for haste");
    assert_eq!(script.machine.deadline(), Some(ms(now + 100 + 1000)));
}

#[test]
fn when_the_old_leg_dies_in_a_handover_the_new_one_takes_over() {
    let mut script = Script::live(LIMITS);
    script.order(10, "d1", "1", &[("b", true)]);
    assert_eq!(script.ended(20, "1"), [""; 0], "the new leg is on its way already");
    script.on(30, Input::Opened(&id("2")));
    assert_eq!(script.on(40, Input::Packets(&id("2"))), ["moved d1 1 to 2 at b"]);

    let mut script = Script::live(LIMITS);
    script.order(10, "d1", "1", &[("b", true)]);
    script.on(20, Input::Opened(&id("2")));
    script.on(30, Input::Packets(&id("2")));
    assert_eq!(script.ended(40, "1"), ["moved d1 1 to 2 at b"], "joining, and it is all there is");
}

#[test]
fn when_both_legs_die_it_comes_back_through_the_stable_url() {
    let mut script = Script::live(LIMITS);
    script.order(10_000, "d1", "1", &[]);
    script.ended(10_001, "1");
    let told = script.ended(10_002, "2");
    assert_eq!(told[..2], ["close 2", "failed d1 1: stable URL: gone"]);
    let wait = script.machine.deadline().expect("it waits");
    assert_eq!(wait, ms(10_052));
    assert_eq!(script.on(10_052, Input::Tick), ["open 4 stable URL"]);
}

#[test]
fn an_order_for_the_leg_that_is_being_brought_up_is_kept_until_it_is_the_current_one() {
    let mut script = Script::live(LIMITS);
    script.order(10, "d1", "1", &[("b", true)]);
    script.on(20, Input::Opened(&id("2")));
    assert_eq!(script.notice(21, "d2", "b", "2"), ["acknowledge d2 2"]);
    assert_eq!(script.order(22, "d2", "2", &[("c", true)]), [""; 0]);
    script.on(23, Input::Packets(&id("2")));
    let told = script.on(30, Input::Covered(&id("2")));
    assert_eq!(told, ["close 1", "moved d1 1 to 2 at b", "open 3 c (c:554)"]);
}

#[test]
fn by_stable_url_no_node_is_reached_directly() {
    let mut script = Script::live(Limits { via: Via::StableUrl, ..LIMITS });
    assert_eq!(script.order(10, "d1", "1", &[("b", true)]), ["open 2 stable URL"]);
    script.on(20, Input::Opened(&id("2")));
    script.on(30, Input::Packets(&id("2")));
    assert_eq!(script.on(40, Input::Covered(&id("2"))), ["close 1", "moved d1 1 to 2 at ?"]);
}

#[test]
fn a_stream_that_was_never_there_is_asked_for_again_and_again() {
    let mut script = Script::new(LIMITS);
    assert_eq!(script.told(), ["open 1 stable URL"]);
    assert_eq!(script.refused(5, "1"), ["close 1"]);
    assert_eq!(script.machine.state(), State::Opening);
    assert_eq!(script.on(55, Input::Tick), ["open 3 stable URL"]);
    assert_eq!(script.machine.last_errors(), "stable URL: no");
}

#[test]
fn limits_without_end_are_no_overflow() {
    let limits = Limits { leg_timeout: Duration::MAX, cover_timeout: Duration::MAX, ..LIMITS };
    let mut script = Script::new(limits);
    script.told();
    script.on(5, Input::Opened(&id("1")));
    script.on(10, Input::Packets(&id("1")));
    assert_eq!(script.machine.state(), State::Live);
}

impl Script {
    /// An order to bridge, or to come back from a bridge.
    fn owner(&mut self, at: u64, reason: MoveReason, leg: &str, candidates: &[(&str, bool)]) -> Vec<String> {
        let legs = vec![LegNotice { reason, ..named(leg, candidates) }];
        self.event(at, EventKind::DrainMove(MoveOrder { drain: id("d1"), node: id("a"), legs }))
    }

    /// The leg that was opened takes over.
    fn takes_over(&mut self, at: u64, leg: &str) -> Vec<String> {
        assert_eq!(self.on(at, Input::Opened(&id(leg))), [""; 0]);
        assert_eq!(self.on(at, Input::Packets(&id(leg))), [""; 0]);
        self.on(at, Input::Covered(&id(leg)))
    }

    /// Bridges to `b` with leg 2.
    fn bridged() -> Self {
        let mut script = Self::live(LIMITS);
        assert_eq!(script.owner(10, MoveReason::OwnerChanges, "1", &[("b", true)]), ["open 2 b (b:554)"]);
        assert_eq!(script.takes_over(20, "2"), ["close 1", "moved d1 1 to 2 at b"]);
        script
    }

    fn cancelled(&mut self, at: u64) -> Vec<String> {
        self.event(at, EventKind::DrainCancelled { drain: id("d1"), why: String::new() })
    }
}

#[test]
fn a_bridge_goes_to_the_new_owner_and_nowhere_else() {
    let mut script = Script::live(LIMITS);
    assert_eq!(script.owner(10, MoveReason::OwnerChanges, "1", &[("b", true)]), ["open 2 b (b:554)"]);
    assert_eq!(script.refused(20, "2"), ["close 2", "failed d1 1: b (b:554): no"], "not through the stable URL");
    let mut behind = Script::live(Limits { via: Via::StableUrl, ..LIMITS });
    let told = behind.owner(10, MoveReason::OwnerChanges, "1", &[("b", true)]);
    assert_eq!(told, ["failed d1 1: the camera's new owner cannot be reached through the stable URL"]);
    assert_eq!(behind.machine.state(), State::Live);
}

#[test]
fn a_bridge_is_left_as_ordered_and_then_it_is_over() {
    let mut script = Script::bridged();
    let back = script.owner(30, MoveReason::OwnerChanged, "2", &[("c", false), ("d", false)]);
    assert_eq!(back, ["open 3 c (c:554)"]);
    assert_eq!(script.takes_over(40, "3"), ["close 2", "moved d1 2 to 3 at c"]);
    assert_eq!(script.cancelled(50), [""; 0]);
    assert_eq!(script.on(400_000, Input::Tick), [""; 0]);
}

#[test]
fn a_bridge_that_nobody_orders_back_ends_with_its_drain_or_after_a_while() {
    let mut script = Script::bridged();
    assert_eq!(script.on(30_000, Input::Tick), [""; 0]);
    assert_eq!(script.cancelled(31_000), [""; 0]);
    assert_eq!(script.on(31_100, Input::Tick), ["open 3 stable URL"]);
    assert_eq!(script.refused(31_200, "3"), ["close 3"]);
    assert_eq!(script.on(31_300, Input::Tick), [""; 0], "not at once again");
    assert_eq!(script.on(42_000, Input::Tick), ["open 4 stable URL"]);
    assert_eq!(script.takes_over(42_100, "4"), ["close 2"]);
    assert_eq!(script.on(400_000, Input::Tick), [""; 0]);

    let mut forgotten = Script::bridged();
    assert_eq!(forgotten.on(200_000, Input::Tick), ["open 3 stable URL"]);
}

#[test]
fn a_bridge_ends_when_the_cameras_were_handed_over_and_is_none_the_less_one_at_the_owner_after_that() {
    let mut script = Script::bridged();
    let leaves = vec![LegNotice { reason: MoveReason::NodeLeaves, ..named("2", &[("c", true)]) }];
    let order = MoveOrder { drain: id("d2"), node: id("b"), legs: leaves };
    assert_eq!(script.event(30, EventKind::DrainMove(order)), ["open 3 c (c:554)"]);
    assert_eq!(script.takes_over(40, "3"), ["close 2", "moved d2 2 to 3 at c"]);
    let over = EventKind::CamerasHandedOver { hand_over: id("d1"), record: None };
    assert_eq!(script.event(50, over), [""; 0]);
    assert_eq!(script.on(60, Input::Tick), ["open 4 stable URL"], "it is at home at a distribution node");
}

#[test]
fn a_camera_comes_back_to_an_owner_that_handed_it_over_before() {
    let mut script = Script::bridged();
    assert_eq!(script.owner(30, MoveReason::OwnerChanged, "2", &[("c", true)]), ["open 3 c (c:554)"]);
    script.takes_over(40, "3");
    // That the hand-over from `a` was over never arrived.
    let legs = vec![LegNotice { reason: MoveReason::OwnerChanges, ..named("3", &[("a", true)]) }];
    let order = MoveOrder { drain: id("d2"), node: id("b"), legs };
    assert_eq!(script.event(50, EventKind::DrainMove(order)), ["open 4 a (a:554)"]);
}

#[test]
fn a_camera_that_was_sent_elsewhere_is_reported_when_it_delivers_again() {
    let mut script = Script::live(LIMITS);
    let legs = vec![LegNotice { reason: MoveReason::CameraLeaves, ..named("1", &[]) }];
    let notice = DrainNotice { drain: id("d1"), node: id("a"), deadline: UnixMillis(0), legs };
    assert_eq!(script.event(10, EventKind::DrainNotice(notice)), ["acknowledge d1 1"]);
    assert_eq!(script.ended(9_000, "1"), ["open 2 stable URL"]);
    assert_eq!(script.on(9_100, Input::Opened(&id("2"))), [""; 0]);
    assert_eq!(script.on(9_200, Input::Packets(&id("2"))), ["returned d1 1 as 2"]);
    assert_eq!(script.ended(20_000, "2"), ["open 3 stable URL"]);
    script.on(20_100, Input::Opened(&id("3")));
    assert_eq!(script.on(20_200, Input::Packets(&id("3"))), [""; 0], "that was something else");
}
