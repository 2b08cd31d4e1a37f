//! The API edge against a server that answers whatever a test wants, and against the real one.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as StdMutex};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use super::real_server::{RealServer, find, free_address, wait_for};
use super::*;
use crate::node::sample::SessionState;

mod against_the_real_one;
mod warming;

fn settings(api: SocketAddr) -> MediaMtxSettings {
    let api = Url::parse(&format!("http://{api}")).unwrap();
    MediaMtxSettings { api, credentials: None, timeout: Duration::from_secs(5) }
}

fn credentials() -> Credentials {
    Credentials { user: "fleet".to_owned(), password: "secret".to_owned() }
}

/// What the fake server does with one request.
#[derive(Clone)]
enum Reaction {
    /// Status line, content type, body.
    Answer(&'static str, &'static str, String),
    /// The same, with the connection closed afterwards, unannounced.
    AnswerAndClose(&'static str),
    /// Says that more comes than comes.
    Cut,
    Hang,
    /// JSON without end.
    Endless,
}

fn json(body: &str) -> Reaction {
    Reaction::Answer("200 OK", "application/json; charset=utf-8", body.to_owned())
}

fn not_found() -> Reaction {
    Reaction::Answer("404 Not Found", "text/plain", "404 page not found".to_owned())
}

const EMPTY: &str = r#"{"itemCount":0,"pageCount":0,"items":[]}"#;

/// Requests seen and reactions to come; when these are out, every list is empty, and only RTSP is on.
struct FakeServer {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<StdMutex<Vec<String>>>,
    reactions: Arc<StdMutex<VecDeque<Reaction>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeServer {
    async fn start(reactions: impl IntoIterator<Item = Reaction>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::<AtomicUsize>::default();
        let requests = Arc::<StdMutex<Vec<String>>>::default();
        let reactions = Arc::new(StdMutex::new(reactions.into_iter().collect()));
        let task = tokio::spawn({
            let (connections, requests, reactions) = (connections.clone(), requests.clone(), reactions.clone());
            async move {
                let mut open = tokio::task::JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    connections.fetch_add(1, Ordering::Relaxed);
                    open.spawn(fake_connection(stream, requests.clone(), reactions.clone()));
                }
            }
        });
        Self { address, connections, requests, reactions, task }
    }

    fn next(&self, reaction: Reaction) {
        self.reactions.lock().unwrap().push_back(reaction);
    }

    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }

    fn paths_asked(&self) -> Vec<String> {
        let path = |head: String| head.split(' ').nth(1).unwrap().split('?').next().unwrap().to_owned();
        self.requests().into_iter().map(path).collect()
    }
}

async fn fake_connection(
    stream: tokio::net::TcpStream,
    requests: Arc<StdMutex<Vec<String>>>,
    reactions: Arc<StdMutex<VecDeque<Reaction>>>,
) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    loop {
        let mut head = String::new();
        loop {
            match lines.next_line().await {
                Ok(Some(line)) if line.is_empty() => break,
                Ok(Some(line)) => head.push_str(&(line + "\n")),
                _ => return,
            }
        }
        let usual =
            || if head.contains("/paths/") || head.contains("/rtspsessions/") { json(EMPTY) } else { not_found() };
        let reaction = reactions.lock().unwrap().pop_front().unwrap_or_else(usual);
        requests.lock().unwrap().push(head);
        let (status, kind, body, then_close) = match reaction {
            Reaction::Answer(status, kind, body) => (status, kind, body, false),
            Reaction::AnswerAndClose(body) => ("200 OK", "application/json", body.to_owned(), true),
            Reaction::Hang => return std::future::pending().await,
            Reaction::Cut => {
                let _ = write.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"itemCount\":").await;
                return;
            }
            Reaction::Endless => {
                let _ = write.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n").await;
                while write.write_all(&[b' '; 65_536]).await.is_ok() {}
                return;
            }
        };
        let length = body.len();
        let answer = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}");
        if write.write_all(answer.as_bytes()).await.is_err() || then_close {
            return;
        }
    }
}

async fn problem_of(reaction: Reaction) -> ServerProblem {
    let server = FakeServer::start([reaction]).await;
    let mediamtx = MediaMtx::new(settings(server.address)).unwrap();
    let problem = mediamtx.sample(&Clock::start()).await.expect_err("no sample should have come of this");
    // And it is over when the server is well again.
    mediamtx.sample(&Clock::start()).await.expect("the next look starts afresh");
    problem
}

fn text(problem: ServerProblem) -> String {
    problem.to_string()
}

#[tokio::test]
async fn a_server_that_is_not_there_is_away() {
    let mediamtx = MediaMtx::new(settings(free_address())).unwrap();
    let problem = mediamtx.sample(&Clock::start()).await.unwrap_err();
    assert!(
        matches!(&problem, ServerProblem::Away(why) if why.contains("refused") && why.contains("api: yes")),
        "{problem}"
    );
}

#[tokio::test]
async fn a_server_that_hangs_is_away_in_time_and_its_late_answer_is_never_read() {
    let server = FakeServer::start([Reaction::Hang]).await;
    let mut settings = settings(server.address);
    settings.timeout = Duration::from_millis(200);
    settings.credentials = Some(credentials());
    let mediamtx = MediaMtx::new(settings).unwrap();
    let problem = mediamtx.sample(&Clock::start()).await.unwrap_err();
    assert!(matches!(&problem, ServerProblem::Away(why) if why.contains("mediamtx.password")), "{problem}");
    mediamtx.sample(&Clock::start()).await.unwrap();
    assert_eq!(server.connections.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn an_answer_cut_short_is_away() {
    assert!(matches!(problem_of(Reaction::Cut).await, ServerProblem::Away(_)));
}

#[tokio::test]
async fn a_server_that_refuses_is_odd_and_the_text_names_the_keys_to_set() {
    let unauthorized = Reaction::Answer("401 Unauthorized", "application/json", r#"{"status":"error"}"#.to_owned());
    let why = text(problem_of(unauthorized).await);
    assert!(why.contains("401") && why.contains("mediamtx.user") && why.contains("action: api"), "{why}");
}

#[tokio::test]
async fn a_server_that_is_not_mediamtx_is_odd() {
    let html = Reaction::Answer("200 OK", "text/html; charset=utf-8", "<html>hello</html>".to_owned());
    for (reaction, expected) in [
        (not_found(), "404 for /v3/paths/list"),
        (html, "a web page"),
        (Reaction::Answer("200 OK", "text/plain", "<html>".to_owned()), "no JSON"),
        (Reaction::Answer("500 Internal Server Error", "text/plain", "on\nfire".to_owned()), "on fire"),
        (json(r#"{"itemCount":1,"pageCount":1,"items":[{"name":"ca"#), "half a JSON"),
        (json(""), "half a JSON"),
        (json(r#"{"itemCount":1,"pageCount":1,"items":[{"name":7}]}"#), "shape not known"),
        (json(r#"{"itemCount":9999999,"pageCount":1000,"items":[]}"#), "9999999 paths"),
    ] {
        let problem = problem_of(reaction).await;
        assert!(matches!(&problem, ServerProblem::Odd(why) if why.contains(expected)), "{problem}");
    }
}

#[tokio::test]
async fn an_answer_without_end_is_refused_at_its_bound() {
    let why = text(problem_of(Reaction::Endless).await);
    assert!(why.contains("more than 16 MiB"), "{why}");
}

fn page(items: std::ops::Range<usize>, item_count: usize) -> Reaction {
    let path = |n| format!(r#"{{"name":"cam{n}","available":true,"inboundBytes":1,"outboundBytes":1}}"#);
    let items = items.map(path).collect::<Vec<_>>().join(",");
    json(&format!(r#"{{"itemCount":{item_count},"pageCount":2,"items":[{items}]}}"#))
}

#[tokio::test]
async fn a_list_of_several_pages_is_whole() {
    let server = FakeServer::start([page(0..3, 5), page(3..5, 5)]).await;
    let sample = MediaMtx::new(settings(server.address)).unwrap().sample(&Clock::start()).await.unwrap();
    assert_eq!(
        sample.paths.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(),
        ["cam0", "cam1", "cam2", "cam3", "cam4"]
    );
}

#[tokio::test]
async fn a_list_that_changes_between_its_pages_is_read_again() {
    // One went: its successor would be missed.
    let server = FakeServer::start([page(0..3, 5), page(4..5, 4), page(0..2, 4), page(2..4, 4)]).await;
    let sample = MediaMtx::new(settings(server.address)).unwrap().sample(&Clock::start()).await.unwrap();
    assert_eq!(sample.paths.len(), 4);
    // One came: one would be seen twice.
    let server = FakeServer::start([page(0..3, 5), page(2..4, 5), page(0..3, 5), page(3..5, 5)]).await;
    let sample = MediaMtx::new(settings(server.address)).unwrap().sample(&Clock::start()).await.unwrap();
    assert_eq!(sample.paths.len(), 5);
}

#[tokio::test]
async fn a_list_of_which_a_page_fails_is_no_list() {
    let server =
        FakeServer::start([page(0..3, 5), Reaction::Answer("500 Internal Server Error", "", String::new())]).await;
    let mediamtx = MediaMtx::new(settings(server.address)).unwrap();
    assert!(matches!(mediamtx.sample(&Clock::start()).await, Err(ServerProblem::Odd(_))));

    let never_whole = [page(0..3, 5), page(3..4, 5)].into_iter().cycle().take(6);
    let server = FakeServer::start(never_whole).await;
    let mediamtx = MediaMtx::new(settings(server.address)).unwrap();
    let why = text(mediamtx.sample(&Clock::start()).await.unwrap_err());
    assert!(why.contains("not whole"), "{why}");
}

#[tokio::test]
async fn one_connection_serves_all_samples_and_lists_that_are_off_are_not_asked_again() {
    let server = FakeServer::start([]).await;
    let (mediamtx, clock) = (MediaMtx::new(settings(server.address)).unwrap(), Clock::start());
    mediamtx.sample(&clock).await.unwrap();
    let all = ["paths", "rtspsessions", "rtspssessions", "hlssessions", "webrtcsessions"];
    assert_eq!(server.paths_asked(), all.map(|list| format!("/v3/{list}/list")));
    for _ in 0..3 {
        mediamtx.sample(&clock).await.unwrap();
    }
    assert_eq!(server.paths_asked(), ["/v3/paths/list", "/v3/rtspsessions/list"].repeat(3));
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_restarted_server_is_asked_for_every_list_again() {
    let server = FakeServer::start([]).await;
    let (mediamtx, clock) = (MediaMtx::new(settings(server.address)).unwrap(), Clock::start());
    mediamtx.sample(&clock).await.unwrap();
    server.next(json(EMPTY));
    server.next(Reaction::AnswerAndClose(EMPTY));
    mediamtx.sample(&clock).await.unwrap();
    server.requests();
    // Whether the close is seen before the next look or in the middle of it.
    mediamtx.sample(&clock).await.unwrap();
    mediamtx.sample(&clock).await.unwrap();
    assert!(server.paths_asked().contains(&"/v3/webrtcsessions/list".to_owned()));
    assert_eq!(server.connections.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn credentials_go_with_every_request_and_never_into_a_log() {
    let server = FakeServer::start([]).await;
    let settings = MediaMtxSettings { credentials: Some(credentials()), ..settings(server.address) };
    assert!(!format!("{settings:?}").contains("secret"));
    let mediamtx = MediaMtx::new(settings).unwrap();
    assert!(!format!("{mediamtx:?}").contains(&credentials().basic()));
    mediamtx.sample(&Clock::start()).await.unwrap();
    let requests = server.requests();
    assert_eq!(requests.len(), 5);
    // printf fleet:secret | base64
    assert!(requests.iter().all(|head| head.to_lowercase().contains("authorization: basic zmxlzxq6c2vjcmv0")));
}

#[tokio::test]
async fn a_session_is_disconnected_through_its_own_protocols_list() {
    let server = FakeServer::start([json(r#"{"status":"ok"}"#), not_found()]).await;
    let mediamtx = MediaMtx::new(settings(server.address)).unwrap();
    mediamtx.disconnect(Protocol::Rtsp, "99a5feed-e9db").await.unwrap();
    mediamtx.disconnect(Protocol::WebRtc, "gone").await.expect("one that is gone already is no error");
    let requests = server.requests();
    assert!(requests[0].starts_with("POST /v3/rtspsessions/kick/99a5feed-e9db HTTP/1.1\n"), "{}", requests[0]);
    assert!(requests[1].starts_with("POST /v3/webrtcsessions/kick/gone HTTP/1.1\n"), "{}", requests[1]);

    server.next(Reaction::Answer("500 Internal Server Error", "text/plain", "terminated".to_owned()));
    let why = text(mediamtx.disconnect(Protocol::Hls, "a").await.unwrap_err());
    assert!(why.contains("terminated"), "{why}");
    for id in ["", "../paths", "a?b", "a b"] {
        assert!(mediamtx.disconnect(Protocol::Rtsp, id).await.is_err(), "{id:?}");
    }
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn settings_that_cannot_work_are_refused_with_what_to_do() {
    let refused = |url: &str| {
        MediaMtx::new(MediaMtxSettings { api: Url::parse(url).unwrap(), credentials: None, timeout: Duration::ZERO })
            .expect_err(url)
            .to_string()
    };
    assert!(refused("https://127.0.0.1:9997").contains("only plain http"));
    assert!(refused("http://u:p@127.0.0.1:9997").contains("mediamtx.user"));
}
