//! What each address answers.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use mtxfleet_wire::{ControlOrder, DrainOrder, DrainRefusal, DrainView, Role, WorkerReport};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};

use super::auth::Auth;
use super::error::ApiError;
use super::feed::{REPLAYED, Replay};
use super::recordings::{self, Recordings};
use super::{EventFeed, HttpRequest, Metrics, Snapshot, page};

/// Bytes of a request's body, at most.
const BODY: usize = 64 * 1024;

/// For reading a body; a client slower than this gets 408.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// For an answer of the event loop.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

pub(super) struct App {
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    pub requests: mpsc::Sender<HttpRequest>,
    pub feed: EventFeed,
    pub metrics: Arc<Metrics>,
    pub auth: Auth,
    pub recordings: Recordings,
}

impl App {
    pub(super) fn now(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }
}

type Shared = State<Arc<App>>;

pub(super) fn router(app: App) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/v1/node", get(async |app: Shared| Json(app.now().node.clone())))
        .route("/v1/fleet", get(async |app: Shared| Json(app.now().fleet.clone())))
        .route("/v1/streams", get(async |app: Shared| Json(app.now().stream_views())))
        .route("/v1/availability", get(async |app: Shared| Json(app.now().availability.as_ref().clone())))
        .route("/v1/events", get(events))
        .route("/v1/drain", get(drain_view).post(drain).delete(undrain))
        .route("/v1/orchestrators", get(async |app: Shared| Json(app.now().orchestrators.clone())))
        .route("/v1/decisions", get(decisions))
        .route("/v1/pause", post(async |app: Shared, headers: HeaderMap, body| control(app, headers, body, true).await))
        .route(
            "/v1/resume",
            post(async |app: Shared, headers: HeaderMap, body| control(app, headers, body, false).await),
        )
        .route(
            "/v1/protect",
            post(async |app: Shared, headers: HeaderMap| protect(app, headers, true).await)
                .delete(async |app: Shared, headers: HeaderMap| protect(app, headers, false).await),
        )
        .route("/v1/worker-reports", post(worker_report))
        .merge(page::routes())
        .route("/v1/recordings/{*stream}", get(recordings::list))
        .route("/v1/playback/{*stream}", get(recordings::playback))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(never_cached))
        .with_state(Arc::new(app))
}

/// This process works: its HTTP answers and its event loop runs.
async fn livez(app: Shared) -> Response {
    if app.requests.is_closed() {
        return ApiError::unavailable("the agent's event loop has ended; restart the agent").into_response();
    }
    "ok\n".into_response()
}

/// This node can take new sessions.
async fn readyz(app: Shared) -> Response {
    match &app.now().ready {
        Ok(()) => Json(json!({ "ready": true })).into_response(),
        Err(reasons) => {
            (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "ready": false, "reasons": reasons }))).into_response()
        }
    }
}

async fn metrics(app: Shared) -> Response {
    let text = app.metrics.render(&app.now());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

#[derive(Debug, Deserialize)]
struct EventsQuery {
    replay: Option<usize>,
}

async fn events(
    app: Shared,
    query: Result<Query<EventsQuery>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|_| {
        ApiError::new(StatusCode::BAD_REQUEST, "`replay` is the number of past events to send first, 0 to 256")
    })?;
    let last_seen = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let replay = match (query.replay, last_seen) {
        (_, Some(id)) => Replay::After(id.to_owned()),
        (Some(count), None) => Replay::Last(count),
        (None, None) => Replay::Last(REPLAYED),
    };
    let stream = app.feed.subscribe(&replay).ok_or_else(|| {
        ApiError::unavailable("too many clients of /v1/events here; ask another agent, or read the events from Redis")
    })?;
    Ok(([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(stream)).into_response())
}

async fn drain_view(app: Shared) -> Result<Response, ApiError> {
    match &app.now().drain {
        Some(drain) => Ok(Json(drain.clone()).into_response()),
        None => Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "this node is in no drain, and remembers none; POST /v1/drain begins one",
        )),
    }
}

async fn drain(app: Shared, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    app.auth.operator(&headers)?;
    let body = read(body).await?;
    let order: DrainOrder = if body.is_empty() { DrainOrder::default() } else { parse(&body)? };
    let view = ask(&app, |answer| HttpRequest::Drain { order, answer }).await?;
    Ok((StatusCode::ACCEPTED, Json(view)).into_response())
}

async fn undrain(app: Shared, headers: HeaderMap) -> Result<Response, ApiError> {
    app.auth.operator(&headers)?;
    let view = ask(&app, |answer| HttpRequest::Undrain { answer }).await?;
    Ok(Json(view).into_response())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DecisionsQuery {
    role: Option<Role>,
    last: Option<usize>,
}

async fn decisions(
    app: Shared,
    query: Result<Query<DecisionsQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|_| {
        let text = "there are `role`, which is ingestion or distribution, and `last`, how many to show";
        ApiError::new(StatusCode::BAD_REQUEST, text)
    })?;
    let now = app.now();
    let asked = now.decisions.iter().filter(|view| query.role.is_none_or(|role| view.role == role));
    let asked: Vec<_> = asked.map(|view| &**view).collect();
    let skipped = query.last.map_or(0, |last| asked.len().saturating_sub(last));
    Ok(Json(&asked[skipped..]).into_response())
}

async fn control(app: Shared, headers: HeaderMap, body: Body, paused: bool) -> Result<Response, ApiError> {
    app.auth.operator(&headers)?;
    let order: ControlOrder = parse(&read(body).await?)?;
    let control = answered(&app, |answer| HttpRequest::Control { order, paused, answer }).await?;
    Ok(Json(control).into_response())
}

async fn protect(app: Shared, headers: HeaderMap, protected: bool) -> Result<Response, ApiError> {
    app.auth.operator(&headers)?;
    let node = answered(&app, |answer| HttpRequest::Protect { protected, answer }).await?;
    Ok(Json(node).into_response())
}

async fn worker_report(app: Shared, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    app.auth.worker(&headers)?;
    let report: WorkerReport = parse(&read(body).await?)?;
    app.requests.try_send(HttpRequest::WorkerReport(report)).map_err(|_| busy())?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "accepted": true }))).into_response())
}

async fn unknown(request: Request) -> ApiError {
    let text = format!(
        "there is no {}; there are / (the status page), /livez, /readyz, /metrics, /v1/node, /v1/fleet, /v1/streams, /v1/events, \
         /v1/drain, /v1/orchestrators, /v1/decisions, /v1/pause, /v1/resume, /v1/protect, /v1/worker-reports, \
         /v1/recordings and /v1/playback",
        request.uri().path()
    );
    ApiError::new(StatusCode::NOT_FOUND, text)
}

async fn wrong_method(request: Request) -> ApiError {
    let text =
        format!("{} does not take {}; the header `Allow` says what it takes", request.uri().path(), request.method());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, text)
}

async fn never_cached(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn ask(
    app: &App,
    request: impl FnOnce(oneshot::Sender<Result<DrainView, DrainRefusal>>) -> HttpRequest,
) -> Result<DrainView, ApiError> {
    answered(app, request).await?.map_err(|refusal| ApiError::refused(&refusal))
}

async fn answered<T>(app: &App, request: impl FnOnce(oneshot::Sender<T>) -> HttpRequest) -> Result<T, ApiError> {
    let (answer, answered) = oneshot::channel();
    app.requests.try_send(request(answer)).map_err(|_| busy())?;
    match tokio::time::timeout(ANSWER_WITHIN, answered).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(ApiError::unavailable("the agent dropped the order; it is stopping")),
        Err(_) => Err(ApiError::unavailable(
            "no answer within 5 s; the order may still be carried out: GET /v1/drain and /v1/orchestrators show whether \
             it was",
        )),
    }
}

fn busy() -> ApiError {
    ApiError::unavailable("the agent has too many orders waiting, or is stopping; nothing was done, try again")
}

async fn read(body: Body) -> Result<Bytes, ApiError> {
    match tokio::time::timeout(BODY_WITHIN, axum::body::to_bytes(body, BODY)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is longer than 64 KiB, or its connection broke; nothing was done",
        )),
        Err(_) => Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body did not come within 10 s")),
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, format!("the body is not what is expected: {error}")))
}
