//! `GET /v1/recordings/{stream}` and `GET /v1/playback/{stream}`: the rolling recordings of the ingestion nodes.
//!
//! ```text
//!  worker --bearer token--> any agent --the same, `here`--> agents of ingestion nodes --> MediaMTX's playback
//! ```
//! MediaMTX's playback server listens on loopback and stays there. Whoever was the owner of a stream keeps its
//! recording for a while, so every ingestion node is asked, and nobody has to remember who was it when.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;
use mtxfleet_wire::{
    Liveness, MemberView, NodeFacts, NodeId, RecordedSpan, RecordingsView, Role, StreamName, UnansweredNode,
};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::Url;

use super::Snapshot;
use super::error::ApiError;
use super::routes::App;
use crate::edge::mediamtx::{Credentials, rfc3339};

/// Recordings handed out at a time by one agent: each is one file read and one copy sent.
const AT_A_TIME: usize = 32;

/// For a list, and for the head of an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Between two pieces of an answer.
const STALL: Duration = Duration::from_secs(10);

/// Seconds that one request may ask for.
const LONGEST: f64 = 3600.0;

/// MediaMTX's list of one path, in bytes: some 100 for each hole in the recording.
const LIST_BYTES: usize = 4 << 20;

/// Where recordings are got from.
#[derive(Debug, Clone)]
pub struct PlaybackSettings {
    /// MediaMTX's playback server on this node; `None` on a distribution node.
    pub server: Option<Url>,
    /// For it: the fleet's own user.
    pub credentials: Credentials,
    /// Bearer token that the other agents want.
    pub token: Option<String>,
    /// Counts the answers from this node's own recordings that are under way.
    pub fetched: Arc<AtomicU32>,
}

#[derive(Debug)]
pub(super) struct Recordings {
    settings: PlaybackSettings,
    http: reqwest::Client,
    free: Arc<Semaphore>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ListQuery {
    start: Option<String>,
    end: Option<String>,
    /// Only what this node itself holds.
    #[serde(default)]
    here: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct PlaybackQuery {
    start: String,
    duration: f64,
    node: Option<String>,
    #[serde(default)]
    here: bool,
}

/// One entry of MediaMTX's `/list`.
#[derive(Debug, Deserialize)]
struct Entry {
    start: String,
    duration: f64,
}

impl Recordings {
    pub(super) fn new(settings: PlaybackSettings) -> Self {
        // Without any option set this cannot fail but for a missing TLS provider, which `main` installs.
        let http = reqwest::Client::builder().connect_timeout(ANSWER_WITHIN).read_timeout(STALL).build();
        Self { settings, http: http.unwrap_or_default(), free: Arc::new(Semaphore::new(AT_A_TIME)) }
    }

    async fn own_spans(
        &self,
        stream: &StreamName,
        query: &ListQuery,
        own: &NodeId,
    ) -> Result<Vec<RecordedSpan>, String> {
        let Some(server) = &self.settings.server else { return Ok(Vec::new()) };
        let mut request = self.local(server, "list").query(&[("path", stream.as_str())]);
        for (name, value) in [("start", &query.start), ("end", &query.end)] {
            if let Some(value) = value {
                request = request.query(&[(name, value)]);
            }
        }
        let answer = request.timeout(ANSWER_WITHIN).send().await.map_err(|error| chain(&error))?;
        let status = answer.status();
        let body = bounded(answer, LIST_BYTES).await?;
        match status {
            StatusCode::NOT_FOUND => return Ok(Vec::new()),
            // So it says of a stream that it never had: there is no folder.
            StatusCode::BAD_REQUEST if holds(&body, "no such file or directory") => return Ok(Vec::new()),
            StatusCode::OK => {}
            status => return Err(format!("MediaMTX's playback server answered {status}")),
        }
        let entries: Vec<Entry> = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        let span = |entry: Entry| {
            let start = rfc3339::parse(&entry.start)?;
            entry.duration.is_finite().then(|| RecordedSpan { node: own.clone(), start, seconds: entry.duration })
        };
        Ok(entries.into_iter().filter_map(span).collect())
    }

    async fn spans_of(&self, peer: &Peer, stream: &StreamName, query: &ListQuery) -> Result<RecordingsView, String> {
        let mut request = self.remote(peer, "recordings", stream);
        for (name, value) in [("start", &query.start), ("end", &query.end)] {
            if let Some(value) = value {
                request = request.query(&[(name, value)]);
            }
        }
        let answer = request.timeout(ANSWER_WITHIN).send().await.map_err(|error| chain(&error))?;
        if answer.status() != StatusCode::OK {
            return Err(format!("its agent answered {}", answer.status()));
        }
        let body = bounded(answer, LIST_BYTES).await?;
        serde_json::from_slice(&body).map_err(|error| error.to_string())
    }

    fn local(&self, server: &Url, what: &str) -> reqwest::RequestBuilder {
        let url = format!("{}/{what}", server.as_str().trim_end_matches('/'));
        self.http.get(url).header(header::AUTHORIZATION, self.settings.credentials.basic())
    }

    fn remote(&self, peer: &Peer, what: &str, stream: &StreamName) -> reqwest::RequestBuilder {
        // A stream's name holds no character that a path would need escaped.
        let request = self.http.get(format!("{}/v1/{what}/{stream}", peer.http)).query(&[("here", "true")]);
        match &self.settings.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }
}

/// An ingestion node whose recordings can be asked for.
struct Peer {
    node: NodeId,
    http: String,
}

fn peers(snapshot: &Snapshot) -> Vec<Peer> {
    let alive = others(snapshot).filter(|(member, _)| member.liveness != Liveness::Dead);
    alive.map(|(member, facts)| Peer { node: member.node.clone(), http: facts.http.clone() }).collect()
}

/// Ingestion nodes that died lately: what they recorded is there again when they are.
fn dead(snapshot: &Snapshot) -> impl Iterator<Item = UnansweredNode> {
    let dead = others(snapshot).filter(|(member, _)| member.liveness == Liveness::Dead);
    dead.map(|(member, _)| UnansweredNode { node: member.node.clone(), why: "it is dead".to_owned() })
}

/// The ingestion nodes but for this one.
fn others(snapshot: &Snapshot) -> impl Iterator<Item = (&MemberView, &NodeFacts)> {
    let others = snapshot.fleet.members.iter().filter(|member| member.node != snapshot.node.node);
    let facts = others.filter_map(|member| Some((member, member.facts.as_ref()?)));
    facts.filter(|(_, facts)| facts.role == Role::Ingestion)
}

pub(super) async fn list(
    app: State<Arc<App>>,
    Path(stream): Path<String>,
    query: Result<Query<ListQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    app.auth.worker(&headers)?;
    let stream = name(stream)?;
    let Query(query) = query.map_err(|_| bad("`here` is true or false"))?;
    for time in [&query.start, &query.end].into_iter().flatten() {
        check_time(time)?;
    }
    let snapshot = app.now();
    let own = &snapshot.node.node;
    let mut view = RecordingsView { stream: stream.clone(), spans: Vec::new(), unanswered: Vec::new() };
    let peers = if query.here { Vec::new() } else { peers(&snapshot) };
    let asked = peers.iter().map(async |peer| (peer, app.recordings.spans_of(peer, &stream, &query).await));
    let (here, others) = tokio::join!(app.recordings.own_spans(&stream, &query, own), futures::future::join_all(asked));
    match here {
        Ok(spans) => view.spans.extend(spans),
        Err(why) => view.unanswered.push(UnansweredNode { node: own.clone(), why }),
    }
    for (peer, answer) in others {
        match answer {
            Ok(of_peer) => {
                view.spans.extend(of_peer.spans);
                view.unanswered.extend(of_peer.unanswered);
            }
            Err(why) => view.unanswered.push(UnansweredNode { node: peer.node.clone(), why }),
        }
    }
    if !query.here {
        view.unanswered.extend(dead(&snapshot));
    }
    view.spans.sort_by_key(|span| span.start);
    Ok(Json(view).into_response())
}

pub(super) async fn playback(
    app: State<Arc<App>>,
    Path(stream): Path<String>,
    query: Result<Query<PlaybackQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    app.auth.worker(&headers)?;
    let stream = name(stream)?;
    let Query(query) =
        query.map_err(|_| bad("write ?start=RFC3339&duration=SECONDS, and &node=ID for another than this one"))?;
    check_time(&query.start)?;
    if !(query.duration > 0.0 && query.duration <= LONGEST) {
        return Err(bad(&format!("`duration` is over 0 and at most {LONGEST} seconds; ask again for what follows")));
    }
    let snapshot = app.now();
    let from = source(&snapshot, &stream, query.node.as_deref(), query.here)?;
    let permit = Arc::clone(&app.recordings.free).try_acquire_owned().map_err(|_| {
        ApiError::unavailable("this agent hands out as many recordings as it may; ask another agent, or try again")
    })?;
    let seconds = query.duration.to_string();
    let request = match (&from, &app.recordings.settings.server) {
        (None, Some(server)) => app.recordings.local(server, "get").query(&[
            ("path", stream.as_str()),
            ("start", &query.start),
            ("duration", &seconds),
            ("format", "fmp4"),
        ]),
        (None, None) => return Err(ApiError::new(StatusCode::NOT_FOUND, "a distribution node holds no recordings")),
        (Some(peer), _) => app.recordings.remote(peer, "playback", &stream).query(&[
            ("start", query.start.as_str()),
            ("duration", &seconds),
            ("node", peer.node.as_str()),
        ]),
    };
    let answer = match tokio::time::timeout(ANSWER_WITHIN, request.send()).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(gateway(&format!("the recording cannot be reached: {}", chain(&error)))),
        Err(_) => return Err(gateway(&format!("the recording did not answer within {} s", ANSWER_WITHIN.as_secs()))),
    };
    match answer.status() {
        StatusCode::OK => {
            let own = from.is_none().then(|| UnderWay::of(&app.recordings.settings.fetched));
            Ok(streamed(answer, (permit, own)))
        }
        StatusCode::NOT_FOUND => Err(ApiError::new(
            StatusCode::NOT_FOUND,
            format!("no recording of {stream} there at that time; GET /v1/recordings/{stream} lists what there is"),
        )),
        status => Err(gateway(&format!("the recording's server answered {status}"))),
    }
}

/// `None` for this node itself.
fn source(snapshot: &Snapshot, stream: &StreamName, node: Option<&str>, here: bool) -> Result<Option<Peer>, ApiError> {
    let own = snapshot.node.node.as_str();
    if here || node == Some(own) {
        return Ok(None);
    }
    let mut peers = peers(snapshot);
    let wanted = match node {
        Some(node) => node.to_owned(),
        None => {
            let owns = |streams: &[mtxfleet_wire::StreamReport]| {
                streams.iter().any(|report| report.owned && report.name == *stream)
            };
            let owner = snapshot.streams.iter().find(|(_, streams)| owns(streams));
            match owner.map(|(node, _)| node.as_str()) {
                Some(owner) if owner == own => return Ok(None),
                Some(owner) => owner.to_owned(),
                None => {
                    let text = format!("nobody has {stream} now; name the `node`, from GET /v1/recordings/{stream}");
                    return Err(ApiError::new(StatusCode::NOT_FOUND, text));
                }
            }
        }
    };
    match peers.iter().position(|peer| peer.node.as_str() == wanted) {
        Some(at) => Ok(Some(peers.swap_remove(at))),
        None => Err(ApiError::new(StatusCode::NOT_FOUND, format!("{wanted:?} is no ingestion node that is there"))),
    }
}

/// Counts while it is there.
struct UnderWay(Arc<AtomicU32>);

impl UnderWay {
    fn of(count: &Arc<AtomicU32>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Passed through piece by piece; what is to be held is held until the last one.
fn streamed(answer: reqwest::Response, held: (OwnedSemaphorePermit, Option<UnderWay>)) -> Response {
    let body = answer.bytes_stream().map(move |piece| {
        let _held = &held;
        piece
    });
    ([(header::CONTENT_TYPE, HeaderValue::from_static("video/mp4"))], Body::from_stream(body)).into_response()
}

async fn bounded(mut answer: reqwest::Response, most: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(|error| chain(&error))? {
        if body.len() + piece.len() > most {
            return Err(format!("an answer of more than {most} bytes"));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

fn holds(body: &[u8], text: &str) -> bool {
    String::from_utf8_lossy(body).contains(text)
}

fn name(stream: String) -> Result<StreamName, ApiError> {
    StreamName::new(stream).map_err(|error| bad(&error.to_string()))
}

fn check_time(time: &str) -> Result<(), ApiError> {
    match rfc3339::parse(time) {
        Some(_) => Ok(()),
        None => Err(bad(&format!("{time:?} is no time; write RFC 3339, such as 2026-01-31T12:00:00.5Z"))),
    }
}

fn bad(text: &str) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, text)
}

fn gateway(text: &str) -> ApiError {
    ApiError::new(StatusCode::BAD_GATEWAY, text)
}

/// With causes: reqwest's own text names none.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
