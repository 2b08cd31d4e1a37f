//! Recordings through the agents, with a playback server of our own behind them.

use axum::Router;
use axum::extract::Query;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use mtxfleet_wire::RecordingsView;
use std::collections::HashMap;

use super::*;

const MP4: &[u8] = b"some recording";

/// As MediaMTX's: `GET /list` and `GET /get`, for the fleet's user only.
async fn playback_server() -> url::Url {
    let authorised =
        |headers: &HeaderMap| headers.get("authorization").is_some_and(|value| value == "Basic ZmxlZXQ6c2VjcmV0");
    let list = move |Query(query): Query<HashMap<String, String>>, headers: HeaderMap| async move {
        match query["path"].as_str() {
            _ if !authorised(&headers) => (StatusCode::UNAUTHORIZED, String::new()),
            "site/cam1" => {
                (StatusCode::OK, r#"[{"start":"2026-11-23T15:22:33.817718012Z","duration":12.5,"url":""}]"#.into())
            }
            "broken" => (StatusCode::INTERNAL_SERVER_ERROR, String::new()),
            "odd" => (StatusCode::OK, "<html>".to_owned()),
            "never" => (StatusCode::BAD_REQUEST, r#"{"error":"lstat /r/never: no such file or directory"}"#.into()),
            "refused" => (StatusCode::BAD_REQUEST, r#"{"error":"invalid start"}"#.into()),
            _ => (StatusCode::NOT_FOUND, String::new()),
        }
    };
    let content = move |Query(query): Query<HashMap<String, String>>, headers: HeaderMap| async move {
        match query["path"].as_str() {
            _ if !authorised(&headers) => (StatusCode::UNAUTHORIZED, Vec::new()),
            "site/cam1" if query["start"] == "2026-11-23T15:22:34Z" && query["duration"] == "2.5" => {
                (StatusCode::OK, MP4.to_vec())
            }
            "broken" => (StatusCode::INTERNAL_SERVER_ERROR, Vec::new()),
            _ => (StatusCode::NOT_FOUND, Vec::new()),
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let router = Router::new().route("/list", get(list)).route("/get", get(content));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url.parse().expect("a URL")
}

/// An ingestion node's agent, and a distribution node's that knows it; with a third node that is not there, and one that
/// is dead.
async fn two_agents() -> (Api, Api) {
    let mut with_server = tokens();
    with_server.playback.server = Some(playback_server().await);
    let ingestion = api_with(with_server, Limits::default()).await;
    let mut without = tokens();
    without.playback.token = Some("worker".to_owned());
    let distribution = api_with(without, Limits::default()).await;
    let mut snapshot = full_snapshot();
    let member = |node: &str, http: String| {
        let mut member = snapshot.node.clone();
        member.node = NodeId::new(node).expect("id");
        let facts = member.facts.as_mut().expect("set");
        (facts.role, facts.http) = (Role::Ingestion, http);
        member
    };
    let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let mut members = vec![member("i1", ingestion.url("")), member("i2", format!("http://{gone}"))];
    members.push(MemberView { liveness: mtxfleet_wire::Liveness::Dead, ..member("i4", ingestion.url("")) });
    snapshot.fleet.members = members;
    distribution.snapshot.send_replace(Arc::new(snapshot));
    let mut snapshot = full_snapshot();
    snapshot.node.node = NodeId::new("i1").expect("id");
    ingestion.snapshot.send_replace(Arc::new(snapshot));
    (ingestion, distribution)
}

async fn got(api: &Api, path: &str, token: Option<&str>) -> (u16, Vec<u8>) {
    let mut request = api.client.get(api.url(path));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let response = request.send().await.expect("an answer");
    (response.status().as_u16(), response.bytes().await.expect("a body").to_vec())
}

#[tokio::test]
async fn any_agent_lists_and_gives_the_recordings_of_the_ingestion_nodes() {
    let (ingestion, distribution) = two_agents().await;
    let wanted = "/v1/playback/site/cam1?start=2026-11-23T15:22:34Z&duration=2.5&node=i1";
    for api in [&ingestion, &distribution] {
        let (status, body) = got(api, "/v1/recordings/site/cam1", Some("worker")).await;
        assert_eq!(status, 200);
        let view: RecordingsView = serde_json::from_slice(&body).expect("a view");
        let [span] = &view.spans[..] else { panic!("{view:?}") };
        assert_eq!((span.node.as_str(), span.start, span.seconds), ("i1", UnixMillis(1_795_447_353_817), 12.5));
        assert_eq!(got(api, wanted, Some("worker")).await, (200, MP4.to_vec()));
    }
    let (_, body) = got(&distribution, "/v1/recordings/site/cam1", Some("secret")).await;
    let view: RecordingsView = serde_json::from_slice(&body).expect("a view");
    let unanswered: Vec<&str> = view.unanswered.iter().map(|node| node.node.as_str()).collect();
    assert_eq!(unanswered, ["i2", "i4"], "nodes that are not there, and dead ones, are named: {view:?}");
}

#[tokio::test]
async fn recordings_are_for_who_has_a_token() {
    let (ingestion, distribution) = two_agents().await;
    for api in [&ingestion, &distribution] {
        for path in ["/v1/recordings/site/cam1", "/v1/playback/site/cam1?start=2026-11-23T15:22:34Z&duration=2.5"] {
            for token in [None, Some("wrong")] {
                assert_eq!(got(api, path, token).await.0, 401, "{path} with {token:?}");
            }
        }
    }
}

#[tokio::test]
async fn what_cannot_be_had_is_an_error_that_says_so() {
    let (ingestion, distribution) = two_agents().await;
    let time = "start=2026-11-23T15:22:34Z";
    for (path, status) in [
        ("/v1/recordings/site/cam2".to_owned(), 200),
        ("/v1/recordings/sp%20ace".to_owned(), 400),
        ("/v1/recordings/site/cam1?start=yesterday".to_owned(), 400),
        (format!("/v1/playback/site/cam2?{time}&duration=2&node=i1"), 404),
        (format!("/v1/playback/broken?{time}&duration=2&node=i1"), 502),
        (format!("/v1/playback/site/cam1?{time}&duration=0&node=i1"), 400),
        (format!("/v1/playback/site/cam1?{time}&duration=NaN&node=i1"), 400),
        (format!("/v1/playback/site/cam1?{time}&duration=9999&node=i1"), 400),
        ("/v1/playback/site/cam1?start=x&duration=2&node=i1".to_owned(), 400),
        ("/v1/playback/site/cam1".to_owned(), 400),
    ] {
        for api in [&ingestion, &distribution] {
            let (found, body) = got(api, &path, Some("worker")).await;
            assert_eq!(found, status, "{path}: {}", String::from_utf8_lossy(&body));
        }
    }
    for (path, status) in [
        (format!("/v1/playback/site/cam1?{time}&duration=2&node=i2"), 502),
        (format!("/v1/playback/site/cam1?{time}&duration=2&node=i3"), 404),
        (format!("/v1/playback/site/cam1?{time}&duration=2"), 404),
        (format!("/v1/playback/site/cam1?{time}&duration=2&here=true"), 404),
    ] {
        assert_eq!(got(&distribution, &path, Some("worker")).await.0, status, "{path}");
    }
    let (_, body) = got(&ingestion, "/v1/recordings/never", Some("worker")).await;
    let view: RecordingsView = serde_json::from_slice(&body).expect("a view");
    assert_eq!((view.spans.len(), view.unanswered.len()), (0, 0), "it never had the stream: {view:?}");
    for stream in ["broken", "odd", "refused"] {
        let (_, body) = got(&ingestion, &format!("/v1/recordings/{stream}"), Some("worker")).await;
        let view: RecordingsView = serde_json::from_slice(&body).expect("a view");
        assert_eq!((view.spans.len(), view.unanswered.len()), (0, 1), "silence is not taken for nothing: {view:?}");
    }
}
