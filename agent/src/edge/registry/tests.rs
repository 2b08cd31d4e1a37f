//! The registry on a real Redis.

use std::collections::BTreeMap;
use std::time::Duration;

use mtxfleet_wire::{
    Bitrate, ClusterName, DrainId, DrainOutcome, DrainRecord, DrainRefusal, EventId, EventKind, FleetEvent, LegId,
    LegRecord, LoadReport, NodeFacts, NodeId, NodeRecord, NodeState, RegistryKeys, Role, SCHEMA, ServerHealth,
    StreamName, StreamRecord, UnixMillis, WorkerId, WorkerReport,
};
use redis::aio::MultiplexedConnection;
use tokio::sync::mpsc;

use super::stats::get;
use super::test_redis::TestRedis;
use super::*;

const LIMIT: Duration = Duration::from_secs(10);

fn cluster() -> ClusterName {
    ClusterName::new("test").expect("name")
}

fn keys() -> RegistryKeys {
    RegistryKeys::new(&cluster())
}

fn settings(url: String) -> RegistrySettings {
    RegistrySettings {
        cameras: false,
        url,
        cluster: cluster(),
        timeout: Duration::from_millis(300),
        event_log_length: 200,
        wait_replicas: 0,
    }
}

fn node_id(name: &str) -> NodeId {
    NodeId::new(name).expect("id")
}

fn node(name: &str, state: NodeState, updated: u64) -> NodeRecord {
    NodeRecord {
        schema: SCHEMA,
        node: node_id(name),
        state,
        facts: NodeFacts {
            schema: SCHEMA,
            role: Role::Distribution,
            zone: String::new(),
            rtsp: "127.0.0.1:8554".to_owned(),
            http: "http://127.0.0.1:9000".to_owned(),
            gossip: "127.0.0.1:7946".to_owned(),
            version: "0".to_owned(),
            started: UnixMillis(1),
            instance: None,
        },
        load: LoadReport {
            state,
            server: ServerHealth::Up,
            cameras: None,
            workers: Some(1),
            viewers: Some(0),
            inbound: None,
            outbound: None,
            discarded_packets: 0,
            suspects: Vec::new(),
            health: None,
            cpu: Some(0.5),
            memory: None,
            disk_free: None,
            capacity: Bitrate(1_000_000),
            redis: true,
            protected: false,
            declines: None,
            sampled: UnixMillis(updated),
        },
        updated: UnixMillis(updated),
    }
}

fn stream(name: &str, owner: &str, claim: u64) -> StreamRecord {
    StreamRecord {
        stream: StreamName::new(name).expect("name"),
        owner: node_id(owner),
        url: format!("rtsp://127.0.0.1:8554/{name}"),
        flowing: true,
        bitrate: None,
        // A clock that is wrong by years decides nothing.
        since: UnixMillis(9_000_000_000_000 - claim),
        claim,
    }
}

fn leg(id: &str, node: &str) -> LegRecord {
    LegRecord {
        leg: LegId::new(id).expect("id"),
        worker: WorkerId::new("w1").expect("id"),
        stream: StreamName::new("cam1").expect("name"),
        node: node_id(node),
    }
}

fn projection(name: &str, updated: u64, streams: Vec<StreamRecord>, legs: Vec<LegRecord>) -> Projection {
    Projection { node: node(name, NodeState::Active, updated), streams: streams.into(), legs, offline: Vec::new() }
}

fn event(id: usize) -> FleetEvent {
    FleetEvent {
        schema: SCHEMA,
        id: EventId::new(format!("e{id}")).expect("id"),
        at: UnixMillis(id as u64),
        node: node_id("a"),
        what: EventKind::NodeSuspected,
    }
}

async fn hash(connection: &mut MultiplexedConnection, key: &str) -> BTreeMap<String, String> {
    redis::cmd("HGETALL").arg(key).query_async(connection).await.expect("HGETALL")
}

async fn names(connection: &mut MultiplexedConnection, key: &str) -> Vec<String> {
    hash(connection, key).await.into_keys().collect()
}

/// The next event that `pick` wants; others are passed over.
async fn next<T>(events: &mut mpsc::Receiver<RegistryEvent>, pick: impl Fn(RegistryEvent) -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = pick(events.recv().await.expect("the registry runs")) {
                return found;
            }
        }
    };
    tokio::time::timeout(LIMIT, found).await.expect("the event comes in time")
}

async fn reachable(events: &mut mpsc::Receiver<RegistryEvent>) -> bool {
    next(events, |event| if let RegistryEvent::Reachable(is) = event { Some(is) } else { None }).await
}

async fn admission(events: &mut mpsc::Receiver<RegistryEvent>) -> Admission {
    next(events, |event| if let RegistryEvent::Admission { answer, .. } = event { Some(answer) } else { None }).await
}

fn request(node: &str, drain: &str, serving: &[&str], minimum: u32) -> AdmitRequest {
    AdmitRequest {
        drain: DrainId::new(drain).expect("id"),
        node: node_id(node),
        role: Role::Distribution,
        serving: serving.iter().map(|name| node_id(name)).collect(),
        minimum,
        plan: None,
    }
}

async fn bounded(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(LIMIT, waited).await.is_ok(), "{what} did not come about within {LIMIT:?}");
}

#[tokio::test]
async fn a_projection_writes_what_changed_and_nothing_else() {
    let Some(redis) = TestRedis::start().await else { return };
    let mut other = redis.connection().await;
    let (registry, _events) = Registry::start(settings(redis.url())).expect("starts");

    registry.project(projection("a", 1, vec![stream("cam1", "a", 1), stream("cam2", "a", 1)], vec![leg("l1", "a")]));
    assert!(registry.flush(LIMIT).await);
    assert_eq!(names(&mut other, &keys().streams()).await, ["cam1", "cam2"]);
    assert_eq!(names(&mut other, &keys().legs()).await, ["l1"]);
    let schema: u16 = redis::cmd("GET").arg(keys().schema()).query_async(&mut other).await.expect("GET");
    assert_eq!(schema, SCHEMA);

    // Somebody else's change to a stream that did not change here must stay: proof that it is not written again.
    redis::cmd("HSET").arg(keys().streams()).arg("cam1").arg("mark").exec_async(&mut other).await.expect("HSET");
    registry.project(projection("a", 2, vec![stream("cam1", "a", 1), stream("cam3", "a", 1)], vec![]));
    assert!(registry.flush(LIMIT).await);
    let streams = hash(&mut other, &keys().streams()).await;
    assert_eq!(streams.keys().collect::<Vec<_>>(), ["cam1", "cam3"]);
    assert_eq!(streams["cam1"], "mark");
    assert!(names(&mut other, &keys().legs()).await.is_empty());
    let record: NodeRecord =
        serde_json::from_str(&hash(&mut other, &keys().nodes()).await["a"]).expect("a node record");
    assert_eq!(record.updated, UnixMillis(2));

    let before = get(&registry.stats().projections);
    registry.project(projection("a", 2, vec![stream("cam1", "a", 1), stream("cam3", "a", 1)], vec![]));
    assert!(registry.flush(LIMIT).await);
    assert_eq!(get(&registry.stats().projections), before, "an equal projection was sent again");
}

#[tokio::test]
async fn a_stream_taken_over_by_another_node_is_neither_removed_nor_overwritten_by_its_old_owner() {
    let Some(redis) = TestRedis::start().await else { return };
    let mut other = redis.connection().await;
    let (a, _events_a) = Registry::start(settings(redis.url())).expect("starts");
    let (b, _events_b) = Registry::start(settings(redis.url())).expect("starts");
    a.project(projection(
        "a",
        1,
        vec![stream("cam1", "a", 1), stream("cam2", "a", 1), stream("cam3", "a", 1)],
        vec![leg("l1", "a")],
    ));
    assert!(a.flush(LIMIT).await);
    b.project(projection("b", 1, vec![stream("cam1", "b", 5), stream("cam3", "b", 5)], vec![leg("l1", "b")]));
    assert!(b.flush(LIMIT).await);

    // The old owner says something new of the stream: the later claim stays.
    let mut old_claim = stream("cam1", "a", 1);
    old_claim.flowing = false;
    a.project(projection("a", 2, vec![old_claim, stream("cam2", "a", 1), stream("cam3", "a", 1)], vec![]));
    assert!(a.flush(LIMIT).await);
    // Then it lets go of all, of cam3 without a word since it was taken: only its own goes.
    a.project(projection("a", 3, vec![], vec![]));
    assert!(a.flush(LIMIT).await);
    let streams = hash(&mut other, &keys().streams()).await;
    assert_eq!(streams.keys().collect::<Vec<_>>(), ["cam1", "cam3"]);
    let left: StreamRecord = serde_json::from_str(&streams["cam1"]).expect("a stream record");
    assert_eq!(left.owner, node_id("b"));
    assert_eq!(names(&mut other, &keys().legs()).await, ["l1"]);
}

#[tokio::test]
async fn a_dead_peer_is_marked_offline_without_its_streams_and_comes_back_whole() {
    let Some(redis) = TestRedis::start().await else { return };
    let mut other = redis.connection().await;
    let (a, _events_a) = Registry::start(settings(redis.url())).expect("starts");
    let (b, _events_b) = Registry::start(settings(redis.url())).expect("starts");
    b.project(projection("b", 1, vec![stream("cam2", "b", 1)], vec![leg("l2", "b")]));
    assert!(b.flush(LIMIT).await);
    let mut with_dead = projection("a", 1, vec![stream("cam1", "a", 1)], vec![leg("l1", "a")]);
    with_dead.offline = vec![node("b", NodeState::Offline, 1)];
    a.project(with_dead);
    assert!(a.flush(LIMIT).await);
    let nodes = hash(&mut other, &keys().nodes()).await;
    assert!(nodes["b"].contains("\"offline\""), "{nodes:?}");
    assert_eq!(names(&mut other, &keys().streams()).await, ["cam1"]);
    assert_eq!(names(&mut other, &keys().legs()).await, ["l1"]);

    // It was not dead: with its next projection all of it is back, though nothing changed for it.
    b.project(projection("b", 2, vec![stream("cam2", "b", 1)], vec![leg("l2", "b")]));
    assert!(b.flush(LIMIT).await);
    assert_eq!(names(&mut other, &keys().streams()).await, ["cam1", "cam2"]);
    assert_eq!(names(&mut other, &keys().legs()).await, ["l1", "l2"]);
}

#[tokio::test]
async fn what_an_earlier_run_of_the_agent_left_is_removed_at_start() {
    let Some(redis) = TestRedis::start().await else { return };
    let mut other = redis.connection().await;
    let (first, _events) = Registry::start(settings(redis.url())).expect("starts");
    first.project(projection("a", 1, vec![stream("cam1", "a", 1)], vec![leg("l1", "a")]));
    assert!(first.flush(LIMIT).await);
    drop(first);
    let garbage = redis::cmd("HSET").arg(keys().streams()).arg("odd").arg("{half").exec_async(&mut other).await;
    garbage.expect("HSET");

    let (second, _events) = Registry::start(settings(redis.url())).expect("starts");
    second.project(projection("a", 2, vec![stream("cam9", "a", 2)], vec![]));
    assert!(second.flush(LIMIT).await);
    assert_eq!(names(&mut other, &keys().streams()).await, ["cam9", "odd"]);
    assert!(names(&mut other, &keys().legs()).await.is_empty());
    assert!(get(&second.stats().records_skipped) > 0, "the entry that cannot be read was not counted");
}

#[tokio::test]
async fn ghosts_of_nodes_long_offline_go_and_recent_ones_stay() {
    let Some(redis) = TestRedis::start().await else { return };
    let mut other = redis.connection().await;
    let (seconds, _): (u64, u64) = redis::cmd("TIME").query_async(&mut other).await.expect("TIME");
    let now = seconds * 1_000;
    let day = 24 * 3_600 * 1_000;
    let records = [
        node("old", NodeState::Offline, now - day - 2_000),
        node("recent", NodeState::Offline, now - day / 2),
        node("silent", NodeState::Active, now - 2 * day),
    ];
    for record in records {
        let mut set = redis::cmd("HSET");
        set.arg(keys().nodes()).arg(record.node.as_str()).arg(serde_json::to_string(&record).expect("JSON"));
        set.exec_async(&mut other).await.expect("HSET");
    }
    let (registry, _events) = Registry::start(settings(redis.url())).expect("starts");
    registry.project(projection("a", now, vec![], vec![]));
    assert!(registry.flush(LIMIT).await);
    assert_eq!(names(&mut other, &keys().nodes()).await, ["a", "recent", "silent"]);
}

#[tokio::test]
async fn of_two_drains_at_once_that_together_pass_below_the_minimum_one_is_admitted() {
    let Some(redis) = TestRedis::start().await else { return };
    let mut other = redis.connection().await;
    let (a, mut events_a) = Registry::start(settings(redis.url())).expect("starts");
    let (b, mut events_b) = Registry::start(settings(redis.url())).expect("starts");
    assert!(reachable(&mut events_a).await && reachable(&mut events_b).await);
    for round in 0..200 {
        let serving = ["a", "b", "c"];
        a.admit(request("a", &format!("da{round}"), &serving, 2));
        b.admit(request("b", &format!("db{round}"), &serving, 2));
        let answers = [admission(&mut events_a).await, admission(&mut events_b).await];
        let admitted = answers.iter().filter(|answer| **answer == Admission::Admitted).count();
        assert_eq!(admitted, 1, "round {round}: {answers:?}");
        let refused = DrainRefusal::BelowMinimum { role: Role::Distribution, serving: 1, minimum: 2 };
        assert!(answers.contains(&Admission::Refused(refused)), "round {round}: {answers:?}");
        a.release(node_id("a"));
        b.release(node_id("b"));
        assert!(a.flush(LIMIT).await && b.flush(LIMIT).await);
        assert!(names(&mut other, &keys().drains_under_way()).await.is_empty());
    }
}

#[tokio::test]
async fn admission_is_given_again_to_the_same_drain_and_a_crashed_drainer_blocks_nobody() {
    let Some(redis) = TestRedis::start().await else { return };
    let mut other = redis.connection().await;
    let (a, mut events) = Registry::start(settings(redis.url())).expect("starts");
    assert!(reachable(&mut events).await);
    a.admit(request("a", "d1", &["a", "b", "c"], 2));
    assert_eq!(admission(&mut events).await, Admission::Admitted);
    // After a restart of the agent, when gossip counts it as serving no more.
    a.admit(request("a", "d1", &["b"], 2));
    assert_eq!(admission(&mut events).await, Admission::Admitted);
    // Another id of the same node takes the place of the first.
    a.admit(request("a", "d2", &["a", "b", "c"], 2));
    assert_eq!(admission(&mut events).await, Admission::Admitted);
    let slots = hash(&mut other, &keys().drains_under_way()).await;
    let slot: mtxfleet_wire::DrainSlot = serde_json::from_str(&slots["a"]).expect("a drain slot");
    assert_eq!((slot.drain.as_str(), slot.role), ("d2", Role::Distribution));

    // `a` crashed in its drain: it serves no more, so it is not counted a second time.
    let (b, mut events_b) = Registry::start(settings(redis.url())).expect("starts");
    assert!(reachable(&mut events_b).await);
    b.admit(request("b", "d3", &["b", "c", "d"], 2));
    assert_eq!(admission(&mut events_b).await, Admission::Admitted);
    // Its place stays, for one whose gossip is late and still counts `a` (and `b`) as serving.
    let (c, mut events_c) = Registry::start(settings(redis.url())).expect("starts");
    assert!(reachable(&mut events_c).await);
    c.admit(request("c", "d4", &["a", "b", "c", "d"], 2));
    let refused = DrainRefusal::BelowMinimum { role: Role::Distribution, serving: 1, minimum: 2 };
    assert_eq!(admission(&mut events_c).await, Admission::Refused(refused));
    // Drains of the other role do not count.
    let mut ingestion = request("e", "d5", &["e", "f"], 1);
    ingestion.role = Role::Ingestion;
    c.admit(ingestion);
    assert_eq!(admission(&mut events_c).await, Admission::Admitted);
}

#[tokio::test]
async fn a_place_that_was_never_given_back_blocks_nobody_for_ever() {
    let Some(redis) = TestRedis::start().await else { return };
    let mut other = redis.connection().await;
    let (b, mut events) = Registry::start(settings(redis.url())).expect("starts");
    assert!(reachable(&mut events).await);
    // `a` is back in service, and its place is from two hours ago.
    let long_ago = crate::edge::clock::Clock::wall().0 - 2 * 3_600_000;
    let slot = serde_json::json!({ "drain": "d1", "role": "distribution", "at": long_ago });
    let mut set = redis::cmd("HSET");
    set.arg(keys().drains_under_way()).arg("a").arg(slot.to_string());
    set.exec_async(&mut other).await.expect("HSET");
    b.admit(request("b", "d2", &["a", "b", "c"], 2));
    assert_eq!(admission(&mut events).await, Admission::Admitted);
    assert_eq!(names(&mut other, &keys().drains_under_way()).await, ["b"]);
}

#[tokio::test]
async fn a_place_is_given_back_however_many_orders_wait() {
    let Some(redis) = TestRedis::start().await else { return };
    let mut other = redis.connection().await;
    let (a, mut events) = Registry::start(settings(redis.url())).expect("starts");
    assert!(reachable(&mut events).await);
    a.admit(request("a", "d1", &["a", "b", "c"], 2));
    assert_eq!(admission(&mut events).await, Admission::Admitted);
    // Nobody else runs until this task waits for something: the queue fills.
    for n in 0..2_000 {
        a.announce(&event(n));
    }
    a.release(node_id("a"));
    let freed = async {
        while !names(&mut other, &keys().drains_under_way()).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, freed).await.expect("the place is free");
}

#[tokio::test]
async fn an_intent_is_written_found_and_dropped_under_the_latest_term_only() {
    use mtxfleet_leader::growing::{Intent, IntentAnswer, IntentAsk, IntentOrder};
    use mtxfleet_wire::{RunId, Token};

    let Some(redis) = TestRedis::start().await else { return };
    let mut connection = redis.connection().await;
    let (registry, mut events) = Registry::start(settings(redis.url())).expect("a URL");
    let term = async |connection: &mut MultiplexedConnection, token: Token| {
        let mut set = redis::cmd("HSET");
        set.arg(keys().term(Role::Distribution)).arg("epoch").arg(token.epoch).arg("run").arg(token.run.to_string());
        set.query_async::<()>(connection).await.expect("set");
    };
    let mut number = 0;
    let mut ask = async |token: Token, ask: IntentAsk| {
        number += 1;
        registry.intent(IntentOrder { number, role: Role::Distribution, token, ask });
        let answer = next(&mut events, |event| match event {
            RegistryEvent::Intent { number, answer } => Some((number, answer)),
            _ => None,
        });
        let (answered, answer) = answer.await;
        assert_eq!(answered, number);
        answer
    };
    let (first, second) = (Token { epoch: 7, run: RunId(1) }, Token { epoch: 8, run: RunId(2) });
    let intent = Intent { desired: 4, from: 2 };
    assert_eq!(ask(first, IntentAsk::Read).await, IntentAnswer::Fenced, "no term is known to Redis");
    term(&mut connection, first).await;
    assert_eq!(ask(first, IntentAsk::Read).await, IntentAnswer::Found(None));
    assert_eq!(ask(first, IntentAsk::Write(intent.clone())).await, IntentAnswer::Done);
    term(&mut connection, second).await;
    for late in [IntentAsk::Read, IntentAsk::Write(Intent { desired: 9, from: 4 }), IntentAsk::Drop] {
        assert_eq!(ask(first, late).await, IntentAnswer::Fenced);
    }
    let other_run = Token { run: RunId(3), ..second };
    assert_eq!(ask(other_run, IntentAsk::Drop).await, IntentAnswer::Fenced);
    let IntentAnswer::Found(Some(found)) = ask(second, IntentAsk::Read).await else { panic!("it is gone") };
    assert_eq!(found.intent, intent);
    assert!(found.age < LIMIT);
    assert_eq!(ask(second, IntentAsk::Drop).await, IntentAnswer::Done);
    assert_eq!(ask(second, IntentAsk::Read).await, IntentAnswer::Found(None));
    redis.freeze();
    assert!(matches!(ask(second, IntentAsk::Write(intent)).await, IntentAnswer::Unreachable(_)));
    redis.thaw();
}

#[tokio::test]
async fn an_admission_that_comes_too_late_is_void() {
    let Some(redis) = TestRedis::start().await else { return };
    let mut other = redis.connection().await;
    let scripts = scripts::Scripts::new();
    let (seconds, _): (u64, u64) = redis::cmd("TIME").query_async(&mut other).await.expect("TIME");
    let order = request("a", "d1", &["a", "b", "c"], 2);
    let late = scripts.admit(&mut other, &keys(), &order, seconds * 1_000 - 1).await.expect("an answer");
    assert_eq!(late, scripts::Admitted::Late);
    assert!(names(&mut other, &keys().drains_under_way()).await.is_empty());
    let in_time = scripts.admit(&mut other, &keys(), &order, (seconds + 60) * 1_000).await.expect("an answer");
    assert_eq!(in_time, scripts::Admitted::Yes);
}

#[tokio::test]
async fn a_place_that_a_node_in_service_holds_from_before_is_freed_at_start() {
    let Some(redis) = TestRedis::start().await else { return };
    let mut other = redis.connection().await;
    let slot = r#"{"drain":"old","role":"distribution","at":1}"#;
    redis::cmd("HSET").arg(keys().drains_under_way()).arg("a").arg(slot).exec_async(&mut other).await.expect("HSET");
    let (draining, _events) = Registry::start(settings(redis.url())).expect("starts");
    let mut resumed = projection("a", 1, vec![], vec![]);
    resumed.node.state = NodeState::Draining;
    draining.project(resumed);
    assert!(draining.flush(LIMIT).await);
    assert_eq!(names(&mut other, &keys().drains_under_way()).await, ["a"], "a drain that is resumed keeps its place");
    drop(draining);
    let (active, _events) = Registry::start(settings(redis.url())).expect("starts");
    active.project(projection("a", 2, vec![], vec![]));
    assert!(active.flush(LIMIT).await);
    assert!(names(&mut other, &keys().drains_under_way()).await.is_empty());
}

#[tokio::test]
async fn redis_killed_and_back_empty_holds_everything_again() {
    let Some(mut redis) = TestRedis::start().await else { return };
    let (registry, mut events) = Registry::start(settings(redis.url())).expect("starts");
    let streams = vec![stream("cam1", "a", 1), stream("cam2", "a", 1)];
    registry.project(projection("a", 1, streams, vec![leg("l1", "a")]));
    assert!(reachable(&mut events).await);
    redis.kill();
    registry.announce(&event(1));
    assert!(!reachable(&mut events).await);
    registry.admit(request("a", "d1", &["a", "b", "c"], 2));
    assert!(matches!(admission(&mut events).await, Admission::Unreachable(_)));
    registry.announce(&event(2));

    redis.restart().await;
    assert!(reachable(&mut events).await);
    assert!(registry.flush(LIMIT).await);
    let mut other = redis.connection().await;
    assert_eq!(names(&mut other, &keys().nodes()).await, ["a"]);
    assert_eq!(names(&mut other, &keys().streams()).await, ["cam1", "cam2"]);
    assert_eq!(names(&mut other, &keys().legs()).await, ["l1"]);
    let logged = log(&mut other, "-").await;
    assert_eq!(ids(&logged), ["e1", "e2"], "events of the outage were not written");
}

#[tokio::test]
async fn an_emptied_redis_is_filled_again_though_the_connection_held() {
    let Some(redis) = TestRedis::start().await else { return };
    let mut other = redis.connection().await;
    let (registry, _events) = Registry::start(settings(redis.url())).expect("starts");
    registry.project(projection("a", 1, vec![stream("cam1", "a", 1)], vec![]));
    assert!(registry.flush(LIMIT).await);
    redis::cmd("FLUSHALL").exec_async(&mut other).await.expect("FLUSHALL");
    registry.project(projection("a", 2, vec![stream("cam1", "a", 1)], vec![]));
    assert!(registry.flush(LIMIT).await);
    assert_eq!(names(&mut other, &keys().streams()).await, ["cam1"]);
    assert_eq!(get(&registry.stats().full_projections), 2);
}

#[tokio::test]
async fn a_redis_that_hangs_is_found_in_time_and_nothing_waits_for_it() {
    let Some(redis) = TestRedis::start().await else { return };
    let (registry, mut events) = Registry::start(settings(redis.url())).expect("starts");
    registry.project(projection("a", 1, vec![], vec![]));
    assert!(reachable(&mut events).await);
    redis.freeze();
    let asked = tokio::time::Instant::now();
    registry.admit(request("a", "d1", &["a", "b", "c"], 2));
    assert!(matches!(admission(&mut events).await, Admission::Unreachable(_)));
    assert!(asked.elapsed() < Duration::from_secs(3), "the answer took {:?}", asked.elapsed());
    registry.project(projection("a", 2, vec![], vec![]));
    assert!(!registry.flush(Duration::from_millis(700)).await);
    // A second one meets a connection attempt that hangs, and is answered in time too.
    let asked = tokio::time::Instant::now();
    registry.admit(request("a", "d2", &["a", "b", "c"], 2));
    assert!(matches!(admission(&mut events).await, Admission::Unreachable(_)));
    assert!(asked.elapsed() < Duration::from_secs(3), "the answer took {:?}", asked.elapsed());

    redis.thaw();
    // The one from before the freeze is still in Redis's buffers; it must not hold a place nobody knows of.
    bounded("Redis being reachable", async || registry.stats().reachable.load(std::sync::atomic::Ordering::Relaxed))
        .await;
    assert!(registry.flush(LIMIT).await);
    let mut other = redis.connection().await;
    assert!(names(&mut other, &keys().drains_under_way()).await.is_empty());
    let record: NodeRecord =
        serde_json::from_str(&hash(&mut other, &keys().nodes()).await["a"]).expect("a node record");
    assert_eq!(record.updated, UnixMillis(2));
}

#[tokio::test]
async fn an_idle_connection_to_a_redis_that_hangs_is_found_too() {
    let Some(redis) = TestRedis::start().await else { return };
    let (_registry, mut events) = Registry::start(settings(redis.url())).expect("starts");
    assert!(reachable(&mut events).await);
    redis.freeze();
    assert!(!reachable(&mut events).await);
    redis.thaw();
    assert!(reachable(&mut events).await);
}

#[tokio::test]
async fn start_does_not_wait_for_redis_and_joins_it_when_it_comes() {
    let Some(mut redis) = TestRedis::start().await else { return };
    redis.kill();
    let (registry, mut events) = Registry::start(settings(redis.url())).expect("starts");
    registry.project(projection("a", 1, vec![], vec![]));
    assert!(!reachable(&mut events).await);
    redis.restart().await;
    assert!(reachable(&mut events).await);
    assert!(Registry::start(settings("http://127.0.0.1/".to_owned())).is_err(), "no Redis URL");
}

#[tokio::test]
async fn redis_that_takes_no_writes_is_away_and_does_not_flap() {
    let Some(redis) = TestRedis::start().await else { return };
    let mut other = redis.connection().await;
    // The key of the streams is of another type, so every projection fails.
    redis::cmd("SET").arg(keys().nodes()).arg("x").exec_async(&mut other).await.expect("SET");
    let (registry, mut events) = Registry::start(settings(redis.url())).expect("starts");
    registry.project(projection("a", 1, vec![], vec![]));
    bounded("three failed attempts", async || get(&registry.stats().failures) >= 3).await;
    redis::cmd("DEL").arg(keys().nodes()).exec_async(&mut other).await.expect("DEL");
    assert!(registry.flush(LIMIT).await);
    let mut said = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let RegistryEvent::Reachable(is) = event {
            said.push(is);
        }
    }
    assert!(said == [false, true] || said == [true, false, true], "{said:?}");
}

#[tokio::test]
async fn events_are_published_and_logged_and_the_log_is_capped() {
    let Some(redis) = TestRedis::start().await else { return };
    let client = redis::Client::open(redis.url()).expect("url");
    let mut listener = client.get_async_pubsub().await.expect("pub/sub");
    listener.subscribe(keys().events()).await.expect("subscribed");
    let (registry, mut events) = Registry::start(settings(redis.url())).expect("starts");
    assert!(reachable(&mut events).await);
    registry.announce(&event(0));
    let heard = {
        use futures::StreamExt;
        tokio::time::timeout(LIMIT, listener.on_message().next()).await.expect("in time").expect("a message")
    };
    let heard: FleetEvent = serde_json::from_str(&heard.get_payload::<String>().expect("text")).expect("an event");
    assert_eq!(heard, event(0));

    for id in 1..1_000 {
        registry.announce(&event(id));
    }
    assert!(registry.flush(LIMIT).await);
    let mut other = redis.connection().await;
    let logged = log(&mut other, "-").await;
    assert!((200..=400).contains(&logged.len()), "{} entries of about 200", logged.len());
    assert_eq!(ids(&logged).last().map(String::as_str), Some("e999"));
    // Who was away reads on from what it saw last.
    let (seen, _) = &logged[logged.len() - 4];
    assert_eq!(ids(&log(&mut other, &format!("({seen}")).await), ["e997", "e998", "e999"]);
    assert_eq!(get(&registry.stats().events_dropped), 0);
}

#[tokio::test]
async fn events_of_a_long_outage_are_dropped_and_counted_and_those_that_wait_are_bounded() {
    let Some(mut redis) = TestRedis::start().await else { return };
    let mut keeps_all = settings(redis.url());
    keeps_all.event_log_length = 5_000;
    let (registry, mut events) = Registry::start(keeps_all).expect("starts");
    assert!(reachable(&mut events).await);
    redis.kill();
    assert!(!reachable(&mut events).await);
    registry.announce(&event(0));
    // Taken by the task, which then waits for Redis.
    assert!(!registry.flush(Duration::from_millis(50)).await);
    tokio::time::pause();
    tokio::time::advance(EVENT_KEPT + Duration::from_secs(1)).await;
    tokio::time::resume();
    for id in 1..=1_500 {
        registry.announce(&event(id));
        if id % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    redis.restart().await;
    assert!(registry.flush(LIMIT).await);
    let mut other = redis.connection().await;
    let logged = ids(&log(&mut other, "-").await);
    assert_eq!((logged.len(), logged[0].as_str(), logged[999].as_str()), (1_000, "e501", "e1500"));
    assert_eq!(get(&registry.stats().events_dropped), 501);
}

#[tokio::test]
async fn a_thousand_streams_are_written_in_one_call_within_the_time_limit() {
    let Some(redis) = TestRedis::start().await else { return };
    let mut other = redis.connection().await;
    let (registry, _events) = Registry::start(settings(redis.url())).expect("starts");
    let streams: Vec<StreamRecord> = (0..1_000).map(|n| stream(&format!("site/cam{n}"), "a", 1)).collect();
    let legs: Vec<LegRecord> = (0..2_000).map(|n| leg(&format!("l{n}"), "a")).collect();
    registry.project(projection("a", 1, streams, legs));
    assert!(registry.flush(LIMIT).await);
    assert_eq!(names(&mut other, &keys().streams()).await.len(), 1_000);
    assert_eq!(names(&mut other, &keys().legs()).await.len(), 2_000);
    assert_eq!((get(&registry.stats().projections), get(&registry.stats().failures)), (1, 0));
    registry.project(projection("a", 2, vec![], vec![]));
    assert!(registry.flush(LIMIT).await);
    assert!(names(&mut other, &keys().streams()).await.is_empty());
}

#[tokio::test]
async fn the_record_of_a_drain_is_kept_beside_its_event() {
    let Some(redis) = TestRedis::start().await else { return };
    let (registry, _events) = Registry::start(settings(redis.url())).expect("starts");
    let record = DrainRecord {
        schema: SCHEMA,
        drain: DrainId::new("d1").expect("id"),
        node: node_id("a"),
        reason: "upgrade".to_owned(),
        forced: false,
        outcome: DrainOutcome::Completed,
        started: UnixMillis(1),
        ended: UnixMillis(2),
        phases: Vec::new(),
        legs: Vec::new(),
        readers_disconnected: 0,
        legs_more: 0,
        viewers_left: 0,
        viewers_disconnected: 0,
        cameras: Vec::new(),
        out_of_balancer_seconds: Some(0.7),
    };
    let mut ended = event(1);
    ended.what = EventKind::DrainEnded(Box::new(record.clone()));
    registry.announce(&ended);
    assert!(registry.flush(LIMIT).await);
    let mut other = redis.connection().await;
    let reply: redis::streams::StreamRangeReply =
        redis::cmd("XRANGE").arg(keys().drain_records()).arg("-").arg("+").query_async(&mut other).await.expect("");
    let text: String = reply.ids[0].get("record").expect("field");
    assert_eq!(serde_json::from_str::<DrainRecord>(&text).expect("a record"), record);
    assert_eq!(ids(&log(&mut other, "-").await), ["e1"]);
}

#[tokio::test]
async fn worker_reports_come_once_each_over_a_killed_connection_and_garbage_is_counted() {
    let Some(redis) = TestRedis::start().await else { return };
    let mut other = redis.connection().await;
    let report = |leg: usize| WorkerReport::Acknowledged {
        drain: DrainId::new("d1").expect("id"),
        worker: WorkerId::new("w1").expect("id"),
        leg: LegId::new(format!("l{leg}")).expect("id"),
    };
    let mut add = redis::cmd("XADD");
    add.arg(keys().worker_reports()).arg("*").arg("report");
    let send = async |connection: &mut MultiplexedConnection, text: String| {
        add.clone().arg(text).exec_async(connection).await.expect("XADD");
    };
    // This one was sent before the agent came, as to one that was killed and resumes.
    send(&mut other, serde_json::to_string(&report(0)).expect("JSON")).await;
    let (registry, mut events) = Registry::start(settings(redis.url())).expect("starts");
    let pick = |event| if let RegistryEvent::WorkerReport(report) = event { Some(report) } else { None };
    assert_eq!(next(&mut events, pick).await, report(0));
    send(&mut other, "{half".to_owned()).await;
    for number in 1..20 {
        send(&mut other, serde_json::to_string(&report(number)).expect("JSON")).await;
        if number % 5 == 0 {
            let kill = redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").exec_async(&mut other).await;
            kill.expect("CLIENT KILL");
        }
    }
    for number in 1..20 {
        assert_eq!(next(&mut events, pick).await, report(number));
    }
    assert_eq!(get(&registry.stats().records_skipped), 1);
}

#[tokio::test]
async fn the_nodes_in_the_registry_are_offered_as_seeds_but_not_those_offline_or_newer() {
    let Some(redis) = TestRedis::start().await else { return };
    let mut other = redis.connection().await;
    let mut newer = node("d", NodeState::Active, 1);
    newer.schema = SCHEMA + 1;
    let records = [node("b", NodeState::Active, 1), node("c", NodeState::Offline, 1), newer];
    for record in records {
        let text = serde_json::to_string(&record).expect("JSON");
        let mut set = redis::cmd("HSET");
        set.arg(keys().nodes()).arg(record.node.as_str()).arg(text);
        set.exec_async(&mut other).await.expect("HSET");
    }
    let (registry, mut events) = Registry::start(settings(redis.url())).expect("starts");
    registry.project(projection("a", 1, vec![], vec![]));
    let seeds = next(&mut events, |event| if let RegistryEvent::Seeds(seeds) = event { Some(seeds) } else { None });
    let seeds = seeds.await;
    assert_eq!(seeds.iter().map(|seed| seed.node.as_str()).collect::<Vec<_>>(), ["b"]);
    assert_eq!(seeds[0].gossip, "127.0.0.1:7946");
    assert_eq!(get(&registry.stats().records_skipped), 1);
}

async fn log(connection: &mut MultiplexedConnection, from: &str) -> Vec<(String, FleetEvent)> {
    let reply: redis::streams::StreamRangeReply =
        redis::cmd("XRANGE").arg(keys().event_log()).arg(from).arg("+").query_async(connection).await.expect("XRANGE");
    let entry = |entry: redis::streams::StreamId| {
        let text: String = entry.get("event").expect("field `event`");
        (entry.id, serde_json::from_str(&text).expect("an event"))
    };
    reply.ids.into_iter().map(entry).collect()
}

fn ids(logged: &[(String, FleetEvent)]) -> Vec<String> {
    logged.iter().map(|(_, event)| event.id.as_str().to_owned()).collect()
}
