//! Webhooks against a receiver on loopback.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use mtxfleet_wire::{EventId, EventKind, NodeId, NodeState, Role, SCHEMA, UnixMillis};
use tokio::net::TcpListener;

use super::*;

const LIMIT: Duration = Duration::from_secs(10);

/// The secret and the signed message of the examples in the documentation of Standard Webhooks' libraries.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#[derive(Debug)]
struct Received {
    headers: HeaderMap,
    body: Bytes,
}

/// Answers what it is told to, in order, then 204; hands on what it got.
struct Receiver {
    url: String,
    received: mpsc::UnboundedReceiver<Received>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn receiver(answers: Vec<Response>) -> Receiver {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}/hook/secret", listener.local_addr().expect("address"));
    let (report, received) = mpsc::unbounded_channel();
    let answers = Arc::new(std::sync::Mutex::new(answers.into_iter()));
    let handler = async |State((report, answers)): State<Shared>, headers: HeaderMap, body: Bytes| {
        let _ = report.send(Received { headers, body });
        let next = answers.lock().expect("lock").next();
        next.unwrap_or_else(|| StatusCode::NO_CONTENT.into_response())
    };
    let router = Router::new().fallback(handler).with_state((report, answers));
    let task = tokio::spawn(async move { axum::serve(listener, router).await.expect("serves") });
    Receiver { url, received, task }
}

type Shared = (mpsc::UnboundedSender<Received>, Arc<std::sync::Mutex<std::vec::IntoIter<Response>>>);

impl Receiver {
    async fn next(&mut self) -> Received {
        tokio::time::timeout(LIMIT, self.received.recv()).await.expect("in time").expect("the receiver runs")
    }
}

fn settings(url: &str, events: &[&str]) -> WebhookSettings {
    let events = events.iter().map(|name| (*name).to_owned()).collect();
    WebhookSettings { url: url.parse().expect("a URL"), secret: SECRET.to_owned(), events }
}

fn quick() -> Pace {
    let attempt = Duration::from_millis(500);
    Pace { attempt, pauses: vec![Duration::from_millis(20); 2], longest: Duration::from_millis(400) }
}

fn event(id: &str, what: EventKind) -> FleetEvent {
    let (id, node) = (EventId::new(id).expect("id"), NodeId::new("d1").expect("id"));
    FleetEvent { schema: SCHEMA, id, at: UnixMillis(1), node, what }
}

fn status(code: u16) -> Response {
    StatusCode::from_u16(code).expect("a status").into_response()
}

#[test]
fn a_signature_is_that_of_the_published_example() {
    let key = STANDARD.decode(&SECRET["whsec_".len()..]).expect("base64");
    let signed = signature(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
    assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
}

#[tokio::test]
async fn an_event_arrives_signed_and_a_hook_gets_only_what_it_wants() {
    let mut receiver = receiver(Vec::new()).await;
    let mut other = self::receiver(Vec::new()).await;
    let hooks = vec![settings(&receiver.url, &["node.state", "drain.*"]), settings(&other.url, &[])];
    let webhooks = Webhooks::start(hooks).expect("starts");
    webhooks.send(&event("e1", EventKind::NodeSuspected));
    let changed =
        EventKind::NodeStateChanged { from: NodeState::Active, to: NodeState::Draining, why: "order".to_owned() };
    let sent = event("e2", changed);
    webhooks.send(&sent);
    assert!(webhooks.flush(LIMIT).await);

    let got = receiver.next().await;
    let header = |name: &str| got.headers[name].to_str().expect("text").to_owned();
    assert_eq!(header("webhook-id"), "e2");
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(serde_json::from_slice::<FleetEvent>(&got.body).expect("an event"), sent);
    let timestamp: u64 = header("webhook-timestamp").parse().expect("seconds");
    assert!(Clock::wall().0 / 1_000 - timestamp < 60);
    let key = STANDARD.decode(&SECRET["whsec_".len()..]).expect("base64");
    assert_eq!(header("webhook-signature"), signature(&key, "e2", timestamp, &got.body));
    assert!(receiver.received.try_recv().is_err(), "an event came that the hook does not want");
    assert_eq!(other.next().await.headers["webhook-id"], "e1");
    assert_eq!(other.next().await.headers["webhook-id"], "e2");
}

#[tokio::test]
async fn a_failed_event_is_tried_again_under_the_same_id_and_in_order() {
    let mut receiver = receiver(vec![status(500), status(302)]).await;
    let webhooks = Webhooks::start_with(vec![settings(&receiver.url, &[])], &quick()).expect("starts");
    webhooks.send(&event("e1", EventKind::NodeSuspected));
    webhooks.send(&event("e2", EventKind::NodeJoined { role: Role::Ingestion }));
    assert!(webhooks.flush(LIMIT).await);
    for id in ["e1", "e1", "e1", "e2"] {
        assert_eq!(receiver.next().await.headers["webhook-id"], id);
    }
    let (_, hook) = &webhooks.hooks[0];
    assert_eq!((hook.delivered.load(Relaxed), hook.failed.load(Relaxed), hook.dropped.load(Relaxed)), (2, 2, 0));
}

#[tokio::test]
async fn an_event_is_given_up_after_its_attempts_and_the_next_goes_on() {
    let mut receiver = receiver(vec![status(500), status(404), status(500)]).await;
    let webhooks = Webhooks::start_with(vec![settings(&receiver.url, &[])], &quick()).expect("starts");
    webhooks.send(&event("e1", EventKind::NodeSuspected));
    webhooks.send(&event("e2", EventKind::NodeSuspected));
    assert!(webhooks.flush(LIMIT).await);
    for id in ["e1", "e1", "e1", "e2"] {
        assert_eq!(receiver.next().await.headers["webhook-id"], id);
    }
    let (_, hook) = &webhooks.hooks[0];
    assert_eq!((hook.delivered.load(Relaxed), hook.dropped.load(Relaxed)), (1, 1));
}

#[tokio::test]
async fn a_receiver_that_is_gone_is_told_nothing_more() {
    let mut receiver = receiver(vec![status(410)]).await;
    let webhooks = Webhooks::start_with(vec![settings(&receiver.url, &[])], &quick()).expect("starts");
    for id in ["e1", "e2"] {
        webhooks.send(&event(id, EventKind::NodeSuspected));
    }
    assert!(webhooks.flush(LIMIT).await);
    webhooks.send(&event("e3", EventKind::NodeSuspected));
    assert!(webhooks.flush(LIMIT).await);
    assert_eq!(receiver.next().await.headers["webhook-id"], "e1");
    assert!(receiver.received.try_recv().is_err());
    assert_eq!(webhooks.hooks[0].1.dropped.load(Relaxed), 3);
    assert_eq!(webhooks.hooks[0].1.waiting.load(Relaxed), 0);
}

#[tokio::test]
async fn a_busy_receiver_may_ask_for_time_but_not_for_too_much() {
    let later = (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "86400")]).into_response();
    let mut receiver = receiver(vec![later]).await;
    let webhooks = Webhooks::start_with(vec![settings(&receiver.url, &[])], &quick()).expect("starts");
    let began = tokio::time::Instant::now();
    webhooks.send(&event("e1", EventKind::NodeSuspected));
    assert!(webhooks.flush(LIMIT).await);
    assert!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
    receiver.next().await;
    receiver.next().await;
}

#[tokio::test]
async fn a_receiver_that_hangs_holds_up_neither_the_sender_nor_other_hooks() {
    // It accepts and never answers.
    let deaf = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let deaf_url = format!("http://{}/", deaf.local_addr().expect("address"));
    let mut receiver = receiver(Vec::new()).await;
    let hooks = vec![settings(&deaf_url, &[]), settings(&receiver.url, &["node.joined"])];
    let webhooks = Webhooks::start(hooks).expect("starts");
    for _ in 0..WAITING + 10 {
        webhooks.send(&event("e1", EventKind::NodeSuspected));
    }
    webhooks.send(&event("e2", EventKind::NodeJoined { role: Role::Ingestion }));
    assert_eq!(receiver.next().await.headers["webhook-id"], "e2");
    let (_, hook) = &webhooks.hooks[0];
    // One may be on its way, out of the queue.
    assert!((9..=11).contains(&hook.dropped.load(Relaxed)), "{} dropped", hook.dropped.load(Relaxed));
    assert!(!webhooks.flush(Duration::from_millis(50)).await);
    drop(deaf);
}

#[tokio::test]
async fn bad_settings_are_refused_with_what_to_do() {
    let good = || settings("https://hooks.example.com/x", &[]);
    let refused = |hook: WebhookSettings| Webhooks::start(vec![good(), hook]).expect_err("refused");
    for url in ["ftp://x/", "mailto:x@example.com"] {
        assert_eq!(refused(settings(url, &[])), InvalidWebhook::Url { number: 2 });
    }
    for secret in ["", "secret", "whsec_", "whsec_c2hvcnQ=", "whsec_***"] {
        let hook = WebhookSettings { secret: secret.to_owned(), ..good() };
        assert_eq!(refused(hook), InvalidWebhook::Secret { number: 2 });
    }
    let error = refused(settings("https://x/", &["drain.*", "drain.end"]));
    assert_eq!(error, InvalidWebhook::Event { number: 2, name: "drain.end".to_owned() });
}

#[test]
fn the_names_a_filter_may_give_are_those_of_the_events() {
    let known = |kind: EventKind| EventKind::NAMES.contains(&kind.name());
    assert!(known(EventKind::NodeSuspected) && known(EventKind::NodeJoined { role: Role::Ingestion }));
    // The reference page has each of them, and no other.
    let page = include_str!("../../../../docs/ref/events.md");
    let on_page: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .filter(|(name, _)| ["node.", "drain.", "camera.", "inventory."].iter().any(|family| name.starts_with(family)))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(on_page, EventKind::NAMES);
}
