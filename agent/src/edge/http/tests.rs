//! The API as clients see it, over real sockets but where only time matters.

use std::time::Duration;

use futures::StreamExt;
use mtxfleet_wire::{
    Bitrate, DrainId, EventId, EventKind, FleetEvent, LegId, LoadReport, NodeFacts, NodeState, Role, SCHEMA,
    ServerHealth, StreamName, StreamReport, WorkerId,
};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::feed::Replay;
use super::serve::Limits;
use super::*;
use crate::edge::mediamtx::Credentials;
use crate::edge::tls::install_crypto;

mod page;
mod recordings;

const LIMIT: Duration = Duration::from_secs(10);

struct Api {
    server: HttpServer,
    snapshot: watch::Sender<Arc<Snapshot>>,
    requests: mpsc::Receiver<HttpRequest>,
    feed: EventFeed,
    client: reqwest::Client,
}

fn node() -> NodeId {
    NodeId::new("d1").expect("id")
}

fn full_snapshot() -> Snapshot {
    let mut snapshot = Snapshot::starting("test", &node(), UnixMillis(1));
    snapshot.ready = Ok(());
    snapshot.node.facts = Some(NodeFacts {
        schema: SCHEMA,
        role: Role::Distribution,
        zone: "a\"b".to_owned(),
        rtsp: "127.0.0.1:8554".to_owned(),
        http: "http://127.0.0.1:9000".to_owned(),
        gossip: String::new(),
        version: "0".to_owned(),
        started: UnixMillis(1_500),
        instance: None,
    });
    snapshot.node.load = Some(LoadReport {
        state: NodeState::Draining,
        server: ServerHealth::Up,
        cameras: Some(0),
        workers: Some(3),
        viewers: Some(2),
        inbound: Some(Bitrate(8_000)),
        outbound: Some(Bitrate(80_000)),
        discarded_packets: 0,
        suspects: Vec::new(),
        health: Some(mtxfleet_wire::HealthReport::default()),
        cpu: Some(0.5),
        memory: Some(0.25),
        disk_free: Some(1_000),
        capacity: Bitrate(800_000),
        redis: true,
        protected: false,
        declines: None,
        sampled: UnixMillis(1),
    });
    let seconds = mtxfleet_wire::Availability { available_seconds: 1, watched_seconds: 2 };
    let line = |of| mtxfleet_wire::AvailabilityLine { of, up_since: None, day: seconds, week: seconds, month: seconds };
    let subjects = [mtxfleet_wire::Subject::Cluster(Role::Ingestion), mtxfleet_wire::Subject::Stream("cam1".into())];
    snapshot.availability =
        Arc::new(mtxfleet_wire::AvailabilityView { at: UnixMillis(1), lines: subjects.map(line).into() });
    snapshot.node.cameras = Some(mtxfleet_wire::CamerasReport { listed: 3, ..Default::default() });
    snapshot.fleet.members = vec![snapshot.node.clone()];
    let stream = StreamReport {
        name: StreamName::new("cam1").expect("name"),
        owned: false,
        ready: true,
        flowing: true,
        since: UnixMillis(1),
        claim: 0,
        legs: Vec::new(),
        readers: 1,
        bitrate: None,
    };
    snapshot.streams = vec![(node(), Arc::new([stream]))];
    snapshot.decided = vec![("window".to_owned(), "nothing", 7)];
    snapshot.orchestrators = vec![mtxfleet_wire::OrchestratorView {
        role: Role::Distribution,
        leader: Some(node()),
        epoch: Some(7),
        standing: mtxfleet_wire::StandingView::Acting,
        why: String::new(),
        dry_run: false,
        paused: None,
        plan: Some(mtxfleet_wire::PlanView {
            id: mtxfleet_wire::PlanId { epoch: 7, number: 3 },
            size: 3,
            drains: Vec::new(),
            takers: Vec::new(),
            rule: "load".into(),
            reasons: Vec::new(),
        }),
        decisions: vec![(*decision(Role::Distribution, 1)).clone()],
    }];
    snapshot
}

fn drain_view() -> DrainView {
    DrainView {
        drain: DrainId::new("drain-1").expect("id"),
        node: node(),
        started: UnixMillis(1),
        phase: Some(mtxfleet_wire::Phase::WorkerMigration),
        seconds_in_phase: 1.5,
        seconds_left: 28.5,
        waiting_for: vec!["worker anpr-1 to leave".to_owned()],
        phases: Vec::new(),
        legs: Vec::new(),
        cameras: Vec::new(),
        viewers: 2,
        record: None,
    }
}

fn event(number: usize) -> FleetEvent {
    FleetEvent {
        schema: SCHEMA,
        id: EventId::new(format!("e{number}")).expect("id"),
        at: UnixMillis(1),
        node: node(),
        what: EventKind::NodeSuspected,
    }
}

fn no_playback() -> PlaybackSettings {
    let credentials = Credentials { user: "fleet".to_owned(), password: "secret".to_owned() };
    PlaybackSettings { server: None, credentials, token: None, fetched: Arc::default() }
}

fn tokens() -> HttpSettings {
    HttpSettings {
        listen: ([127, 0, 0, 1], 0).into(),
        token: Some("secret".to_owned()),
        playback: no_playback(),
        worker_token: Some("worker".to_owned()),
    }
}

async fn api_with(settings: HttpSettings, limits: Limits) -> Api {
    install_crypto();
    let (snapshot, shown) = watch::channel(Arc::new(Snapshot::starting("test", &node(), UnixMillis(1))));
    let (orders, requests) = mpsc::channel(4);
    let feed = EventFeed::default();
    let metrics = Arc::new(Metrics::default());
    let server = HttpServer::start_with(settings, shown, orders, feed.clone(), metrics, limits).await.expect("listens");
    Api { server, snapshot, requests, feed, client: reqwest::Client::new() }
}

async fn api() -> Api {
    api_with(tokens(), Limits::default()).await
}

impl Api {
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.address())
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let response = self.client.get(self.url(path)).send().await.expect("an answer");
        (response.status().as_u16(), response.text().await.expect("a body"))
    }

    async fn send(&self, method: reqwest::Method, path: &str, token: Option<&str>, body: &str) -> (u16, Value) {
        let mut request = self.client.request(method, self.url(path)).body(body.to_owned());
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.expect("an answer");
        (response.status().as_u16(), response.json().await.expect("JSON"))
    }
}

/// Answers one order.
async fn answer(requests: &mut mpsc::Receiver<HttpRequest>, with: Result<DrainView, DrainRefusal>) -> DrainOrder {
    match requests.recv().await.expect("an order") {
        HttpRequest::Drain { order, answer } => {
            answer.send(with).expect("somebody waits");
            order
        }
        HttpRequest::Undrain { answer } => {
            answer.send(with).expect("somebody waits");
            DrainOrder::default()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn reads_show_the_newest_snapshot() {
    let api = api().await;
    assert_eq!(api.get("/livez").await, (200, "ok\n".to_owned()));
    let (status, body) = api.get("/readyz").await;
    assert_eq!(status, 503);
    assert!(body.contains("the agent is starting"), "{body}");
    assert_eq!(api.get("/v1/drain").await.0, 404);

    let mut snapshot = full_snapshot();
    snapshot.drain = Some(drain_view());
    api.snapshot.send_replace(Arc::new(snapshot.clone()));
    assert_eq!(api.get("/readyz").await.0, 200);
    let read = async |path: &str| serde_json::from_str::<Value>(&api.get(path).await.1).expect("JSON");
    assert_eq!(read("/v1/node").await, serde_json::to_value(&snapshot.node).expect("JSON"));
    assert_eq!(read("/v1/fleet").await, serde_json::to_value(&snapshot.fleet).expect("JSON"));
    assert_eq!(read("/v1/streams").await, serde_json::to_value(snapshot.stream_views()).expect("JSON"));
    assert_eq!(read("/v1/drain").await, serde_json::to_value(drain_view()).expect("JSON"));
}

#[tokio::test]
async fn a_process_whose_event_loop_ended_is_not_alive() {
    let Api { server, client, requests, snapshot: _snapshot, .. } = api().await;
    drop(requests);
    let response = client.get(format!("http://{}/livez", server.address())).send().await.expect("an answer");
    assert_eq!(response.status().as_u16(), 503);
}

#[tokio::test]
async fn nothing_is_changed_without_the_right_token() {
    use reqwest::Method;
    let mut without = tokens();
    without.token = Some(String::new());
    without.worker_token = None;
    let open = api_with(without, Limits::default()).await;
    for (method, path) in
        [(Method::POST, "/v1/drain"), (Method::DELETE, "/v1/drain"), (Method::POST, "/v1/worker-reports")]
    {
        for token in [None, Some(""), Some("x")] {
            let (status, body) = open.send(method.clone(), path, token, "{}").await;
            assert_eq!(status, 403);
            let text = body["error"].as_str().expect("text");
            assert!(
                text.contains("token` (or") || text.contains("set `token` or `token_file` in section [http]"),
                "{text}"
            );
        }
    }
    let mut api = api().await;
    for token in [None, Some(""), Some("secre"), Some("secret2"), Some("worker")] {
        for method in [Method::POST, Method::DELETE] {
            assert_eq!(api.send(method, "/v1/drain", token, "").await.0, 401, "{token:?}");
        }
    }
    assert_eq!(api.send(Method::POST, "/v1/worker-reports", Some("wrong"), "{}").await.0, 401);
    assert!(api.requests.try_recv().is_err(), "an order without a token came through");
}

#[tokio::test]
async fn pauses_and_protection_need_a_token_and_are_answered() {
    use mtxfleet_wire::Control;
    use reqwest::Method;
    let mut api = api().await;
    let order = r#"{"role":"distribution","why":"load test"}"#;
    for (method, path) in [(Method::POST, "/v1/pause"), (Method::POST, "/v1/resume"), (Method::DELETE, "/v1/protect")] {
        assert_eq!(api.send(method.clone(), path, None, order).await.0, 401, "{path}");
        assert_eq!(api.send(method, path, Some("worker"), order).await.0, 401, "{path}");
    }
    let (status, body) = api.send(Method::POST, "/v1/pause", Some("secret"), r#"{"role":"relay"}"#).await;
    assert!(status == 400 && body["error"].as_str().is_some_and(|text| text.contains("relay")), "{body}");

    let taken = async |requests: &mut mpsc::Receiver<HttpRequest>| match requests.recv().await.expect("an order") {
        HttpRequest::Control { order, paused, answer } => {
            let why = order.why.clone();
            let control = Control { role: order.role, paused, version: 3, by: node(), why, at: UnixMillis(9) };
            answer.send(control).expect("somebody waits");
        }
        HttpRequest::Protect { protected, answer } => {
            assert!(protected);
            answer.send(Snapshot::starting("test", &node(), UnixMillis(1)).node).expect("somebody waits");
        }
        other => panic!("{other:?}"),
    };
    let url = api.url("/v1/pause");
    let pause = api.client.post(url).bearer_auth("secret").body(order).send();
    let (response, ()) = tokio::join!(pause, taken(&mut api.requests));
    let control: Control = response.expect("an answer").json().await.expect("a control");
    assert_eq!((control.paused, control.version, control.why.as_str()), (true, 3, "load test"));
    let url = api.url("/v1/protect");
    let protect = api.client.post(url).bearer_auth("secret").send();
    let (response, ()) = tokio::join!(protect, taken(&mut api.requests));
    assert_eq!(response.expect("an answer").status().as_u16(), 200);
}

fn decision(role: Role, number: u64) -> Arc<mtxfleet_wire::DecisionView> {
    Arc::new(mtxfleet_wire::DecisionView {
        role,
        by: node(),
        epoch: Some(1),
        number,
        first: UnixMillis(1),
        last: UnixMillis(number),
        count: 1,
        effect: mtxfleet_wire::DecisionEffect::Live,
        outcome: mtxfleet_wire::OutcomeView::Nothing,
        rule: "load".into(),
        wanted: 2,
        inputs: mtxfleet_wire::InputsView { serving: 2, ..Default::default() },
        reasons: vec!["2 are wanted and there".into()],
        victims: Vec::new(),
    })
}

#[tokio::test]
async fn decisions_are_shown_by_role_and_as_many_as_asked_for() {
    let api = api().await;
    let mut snapshot = Snapshot::starting("test", &node(), UnixMillis(1));
    snapshot.decisions = (1..=4).map(|n| decision(Role::Distribution, n)).collect();
    snapshot.decisions.push(decision(Role::Ingestion, 5));
    api.snapshot.send_replace(Arc::new(snapshot));
    let numbers = async |path: &str| -> Vec<u64> {
        let (status, text) = api.get(path).await;
        assert_eq!(status, 200, "{text}");
        let views: Vec<mtxfleet_wire::DecisionView> = serde_json::from_str(&text).expect("decisions");
        views.iter().map(|view| view.number).collect()
    };
    assert_eq!(numbers("/v1/decisions").await, [1, 2, 3, 4, 5]);
    assert_eq!(numbers("/v1/decisions?role=distribution&last=2").await, [3, 4]);
    for wrong in ["role=relay", "last=-1", "rule=load"] {
        let (status, text) = api.get(&format!("/v1/decisions?{wrong}")).await;
        assert!(status == 400 && text.contains("role"), "{wrong}: {status} {text}");
    }
}

#[tokio::test]
async fn a_drain_is_ordered_answered_and_refused() {
    use reqwest::Method;
    let Api { server: _server, client, mut requests, snapshot: _snapshot, .. } = api().await;
    let url = format!("http://{}/v1/drain", _server.address());
    let post = |body: &'static str| client.request(Method::POST, &url).bearer_auth("secret").body(body).send();

    let (response, order) =
        tokio::join!(post(r#"{"force":true,"reason":"upgrade"}"#), answer(&mut requests, Ok(drain_view())));
    assert_eq!(order, DrainOrder { force: true, reason: "upgrade".to_owned() });
    let response = response.expect("an answer");
    assert_eq!(response.status().as_u16(), 202);
    assert_eq!(response.json::<DrainView>().await.expect("a view"), drain_view());

    let refusal = DrainRefusal::BelowMinimum { role: Role::Distribution, serving: 1, minimum: 2 };
    let (response, order) = tokio::join!(post(""), answer(&mut requests, Err(refusal.clone())));
    assert_eq!(order, DrainOrder::default());
    let response = response.expect("an answer");
    assert_eq!(response.status().as_u16(), 409);
    let body: Value = response.json().await.expect("JSON");
    assert_eq!(body["error"], refusal.to_string());
    assert_eq!(body["refused"], "below_minimum");
    assert_eq!(serde_json::from_value::<DrainRefusal>(body).expect("a refusal"), refusal);

    let undrain = client.request(Method::DELETE, &url).bearer_auth("secret").send();
    let (response, _) = tokio::join!(undrain, answer(&mut requests, Err(DrainRefusal::NotDraining)));
    assert_eq!(response.expect("an answer").status().as_u16(), 409);
}

#[tokio::test]
async fn a_worker_reports_with_either_token() {
    use reqwest::Method;
    let mut api = api().await;
    let report = WorkerReport::Acknowledged {
        drain: DrainId::new("d").expect("id"),
        worker: WorkerId::new("w").expect("id"),
        leg: LegId::new("l").expect("id"),
    };
    let body = serde_json::to_string(&report).expect("JSON");
    for token in ["worker", "secret"] {
        assert_eq!(api.send(Method::POST, "/v1/worker-reports", Some(token), &body).await.0, 202);
        let Some(HttpRequest::WorkerReport(came)) = api.requests.recv().await else { panic!("no report") };
        assert_eq!(came, report);
    }
}

#[tokio::test]
async fn bad_requests_get_an_error_that_says_what_is_wrong() {
    use reqwest::Method;
    let mut api = api().await;
    let long = "x".repeat(65 * 1024);
    let cases = [
        (Method::POST, "/v1/drain", r#"{"forec":true}"#, 400, "unknown field `forec`"),
        (Method::POST, "/v1/drain", r#"{"force":"yes"}"#, 400, "expected a boolean"),
        (Method::POST, "/v1/drain", "{", 400, "EOF"),
        (Method::POST, "/v1/drain", long.as_str(), 413, "64 KiB"),
        (Method::POST, "/v1/worker-reports", "[]", 400, "expected"),
        (Method::PUT, "/v1/drain", "", 405, "does not take PUT"),
        (Method::DELETE, "/v1/node", "", 405, "does not take DELETE"),
        (Method::GET, "/v2/node", "", 404, "/v1/node"),
        (Method::GET, "/v1/events?replay=many", "", 400, "replay"),
    ];
    for (method, path, body, wanted, says) in cases {
        let (status, answer) = api.send(method.clone(), path, Some("secret"), body).await;
        assert_eq!(status, wanted, "{method} {path}");
        assert!(answer["error"].as_str().is_some_and(|text| text.contains(says)), "{method} {path}: {answer}");
    }
    assert!(api.requests.try_recv().is_err(), "a bad order came through");
}

#[tokio::test(start_paused = true)]
async fn an_order_that_nobody_answers_ends_in_time() {
    use hyper::service::Service;
    let (_snapshot, shown) = watch::channel(Arc::new(full_snapshot()));
    let (orders, requests) = mpsc::channel(1);
    let app = routes::App {
        snapshot: shown,
        requests: orders,
        feed: EventFeed::default(),
        metrics: Arc::default(),
        auth: auth::Auth::new(Some("secret".to_owned()), None),
        recordings: super::recordings::Recordings::new(no_playback()),
    };
    let service = hyper_util::service::TowerToHyperService::new(routes::router(app));
    let request = || {
        let request = axum::http::Request::post("/v1/drain").header("authorization", "bearer secret");
        request.body(axum::body::Body::empty()).expect("a request")
    };
    let began = tokio::time::Instant::now();
    let response = service.call(request()).await.expect("an answer");
    assert_eq!(response.status().as_u16(), 503);
    assert!(began.elapsed() >= Duration::from_secs(5) && began.elapsed() < Duration::from_secs(6));
    // The first order is still in the queue, which holds one: the second is refused at once.
    let began = tokio::time::Instant::now();
    assert_eq!(service.call(request()).await.expect("an answer").status().as_u16(), 503);
    assert!(began.elapsed() < Duration::from_secs(1));
    drop(requests);
}

/// The ids of the next `count` events of an SSE response.
async fn ids(response: reqwest::Response, count: usize) -> Vec<String> {
    let mut text = String::new();
    let mut chunks = response.bytes_stream();
    let read = async {
        while text.matches("\ndata: ").count() < count || !text.ends_with("\n\n") {
            text += std::str::from_utf8(&chunks.next().await.expect("goes on").expect("bytes")).expect("UTF-8");
        }
    };
    tokio::time::timeout(LIMIT, read).await.expect("the events come in time");
    text.lines().filter_map(|line| line.strip_prefix("id: ")).map(str::to_owned).collect()
}

#[tokio::test]
async fn events_come_live_and_those_missed_come_again() {
    let api = api().await;
    for number in 0..300 {
        api.feed.publish(&event(number));
    }
    let open = |query: &str, last: Option<&'static str>| {
        let request = api.client.get(api.url(&format!("/v1/events{query}")));
        last.into_iter().fold(request, |request, id| request.header("last-event-id", id)).send()
    };
    let response = open("?replay=2", None).await.expect("an answer");
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    api.feed.publish(&event(300));
    assert_eq!(ids(response, 3).await, ["e298", "e299", "e300"]);
    let response = open("", Some("e297")).await.expect("an answer");
    assert_eq!(ids(response, 3).await, ["e298", "e299", "e300"]);
    // Last seen before the oldest that is kept, or never: all that is kept.
    for last in [Some("e1"), None] {
        let all = ids(open("", last).await.expect("an answer"), 256).await;
        assert_eq!((all.len(), all[0].as_str(), all[255].as_str()), (256, "e45", "e300"));
    }
}

#[tokio::test]
async fn an_event_is_named_and_carries_the_same_json_as_elsewhere() {
    let feed = EventFeed::default();
    let mut stream = Box::pin(feed.subscribe(&Replay::Last(0)).expect("a place"));
    feed.publish(&event(7));
    let _opening = stream.next().await;
    let frame = stream.next().await.expect("goes on").expect("no error");
    let text = std::str::from_utf8(&frame).expect("UTF-8");
    let data = text.strip_prefix("id: e7\nevent: node.suspected\ndata: ").expect(text).trim_end();
    assert_eq!(serde_json::from_str::<FleetEvent>(data).expect("an event"), event(7));
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_is_kept_alive() {
    let feed = EventFeed::default();
    let mut stream = Box::pin(feed.subscribe(&Replay::Last(0)).expect("a place"));
    let _opening = stream.next().await;
    let began = tokio::time::Instant::now();
    for _ in 0..3 {
        assert_eq!(stream.next().await.expect("goes on").expect("no error"), ": keep-alive\n\n");
    }
    assert_eq!(began.elapsed().as_secs(), 30);
}

#[tokio::test]
async fn a_client_too_slow_is_dropped_and_too_many_are_refused() {
    let feed = EventFeed::default();
    let mut slow = Box::pin(feed.subscribe(&Replay::Last(0)).expect("a place"));
    for number in 0..300 {
        feed.publish(&event(number));
    }
    let _opening = slow.next().await;
    assert!(slow.next().await.is_none(), "a client that is 300 events behind goes on");
    assert_eq!(feed.dropped(), 1);
    drop(slow);
    let clients: Vec<_> = std::iter::from_fn(|| feed.subscribe(&Replay::Last(0))).take(1_000).collect();
    assert_eq!(clients.len(), 256);
    drop(clients);
    assert!(feed.subscribe(&Replay::Last(0)).is_some(), "places of clients that left are not given again");
}

/// All that the server sends until it closes.
async fn until_closed(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut text)).await;
    // A reset is a close too.
    let _ = read.expect("the server closes in time");
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn connections_are_bounded_in_number_and_in_time() {
    let limits = Limits { connections: 2, head_within: Duration::from_millis(300), stall: LIMIT };
    let api = api_with(tokens(), limits).await;
    let connect = || TcpStream::connect(api.server.address());
    let mut idle = connect().await.expect("connects");
    let mut slow = connect().await.expect("connects");
    slow.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.expect("sent");
    let mut third = connect().await.expect("connects");
    let refused = until_closed(&mut third).await;
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    let (head, body) = refused.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.contains(&format!("content-length: {}", body.len())), "{refused}");
    serde_json::from_str::<Value>(body).expect("JSON");

    // Neither of the two ever finishes a request: both lose their place.
    until_closed(&mut idle).await;
    until_closed(&mut slow).await;
    assert_eq!(api.get("/livez").await.0, 200);
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_dropped() {
    let limits = Limits { connections: 1, head_within: LIMIT, stall: Duration::from_millis(300) };
    let api = api_with(tokens(), limits).await;
    let mut snapshot = full_snapshot();
    let stream = snapshot.streams[0].1[0].clone();
    snapshot.streams = vec![(node(), vec![stream; 200_000].into())];
    api.snapshot.send_replace(Arc::new(snapshot));
    let mut slow = TcpStream::connect(api.server.address()).await.expect("connects");
    slow.write_all(b"GET /v1/streams HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    // Its place, the only one, is free again though it still holds the connection.
    let free = async {
        while api.client.get(api.url("/livez")).send().await.map_or(true, |r| r.status().as_u16() != 200) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LIMIT, free).await.expect("the slow client loses its place");
    drop(slow);
}

#[tokio::test]
async fn garbage_instead_of_http_ends_that_connection_only() {
    let api = api().await;
    for garbage in
        [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"[..], b"DESCRIBE rtsp://x RTSP/1.0\r\n\r\n", &[b'A'; 100_000]]
    {
        let mut stream = TcpStream::connect(api.server.address()).await.expect("connects");
        let _ = stream.write_all(garbage).await;
        until_closed(&mut stream).await;
    }
    assert_eq!(api.get("/livez").await.0, 200);
}

#[tokio::test]
async fn metrics_are_in_base_units_and_leave_out_what_is_unknown() {
    let api = api().await;
    let (_, starting) = api.get("/metrics").await;
    assert!(!starting.contains("mtxfleet_cpu_ratio"), "an unknown figure is shown: {starting}");
    api.snapshot.send_replace(Arc::new(full_snapshot()));
    let (status, text) = api.get("/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "# TYPE mtxfleet_outbound_bytes_per_second gauge",
        "mtxfleet_outbound_bytes_per_second 10000",
        "mtxfleet_cpu_ratio 0.5",
        "mtxfleet_node_state{state=\"active\"} 0",
        "mtxfleet_node_state{state=\"draining\"} 1",
        "mtxfleet_members{liveness=\"alive\",role=\"distribution\"} 1",
        "mtxfleet_node_info{cluster=\"test\",node=\"d1\",role=\"distribution\",zone=\"a\\\"b\"} 1",
        "mtxfleet_start_time_seconds 1.5",
    ] {
        let sorted = |line: &str| {
            let mut characters: Vec<char> = line.chars().collect();
            characters.sort_unstable();
            characters
        };
        // Labels may come in any order.
        assert!(text.lines().any(|have| have == line || sorted(have) == sorted(line)), "{line} is not in {text}");
    }
}

#[tokio::test]
async fn every_metric_is_on_the_reference_page_and_named_by_the_conventions() {
    let page = include_str!("../../../../docs/ref/metrics.md");
    let metrics = Metrics::default();
    metrics.register_collector(serve::collector(Arc::default(), EventFeed::default()));
    metrics.register_collector(Arc::new(crate::edge::registry::RegistryStats::default()).collector());
    metrics.register_collector(crate::edge::cloud::CloudStats::full().collector());
    let hook = crate::edge::webhook::WebhookSettings {
        url: "http://127.0.0.1:9/".parse().expect("a URL"),
        secret: format!("whsec_{}", "A".repeat(32)),
        events: Vec::new(),
    };
    metrics.register_collector(crate::edge::webhook::Webhooks::start(vec![hook]).expect("starts").collector());
    let text = metrics.render(&full_snapshot());
    let types: Vec<(&str, &str)> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    assert!(types.len() > 30, "{text}");
    for (name, kind) in &types {
        assert!(page.contains(&format!("| `{name}` | {kind} |")), "{name} ({kind}) is not on docs/ref/metrics.md");
        assert_eq!(name.ends_with("_total"), *kind == "counter", "{name}");
    }
    for line in page.lines().filter_map(|line| line.strip_prefix("| `mtxfleet_")) {
        let name = format!("mtxfleet_{}", line.split('`').next().unwrap_or_default());
        let elsewhere = ["gossip", "resolver", "relay", "agent_check", "load_balancer", "worker_"]
            .iter()
            .any(|edge| name.contains(edge));
        assert!(elsewhere || types.iter().any(|(have, _)| *have == name), "{name} is on the page and is not exported");
    }
}
