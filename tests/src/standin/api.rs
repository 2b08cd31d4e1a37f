//! The control API, as far as the agent uses it, with the field names of MediaMTX 1.20.1 (its `api/openapi.yaml`;
//! answers of the real one are kept in `tests/data/mediamtx-1.20.1`).

use std::{net::SocketAddr, sync::Arc, sync::atomic::Ordering::Relaxed, time::SystemTime};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{ConnectInfo, Path, Query, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    VERSION,
    config::{Action, Credentials, PathConf},
    paths::{self, Phase, Server, SessionRecord, Unauthorized},
};

const DEFAULT_PAGE: usize = 100;

/// `/v3/...`.
pub(super) fn router(server: Arc<Server>) -> Router {
    let mut router = Router::new()
        .route("/v3/info", get(info))
        .route("/v3/paths/list", get(paths_list))
        .route("/v3/paths/get/{*name}", get(paths_get))
        .route("/v3/config/paths/list", get(conf_list))
        .route("/v3/config/paths/get/{*name}", get(conf_get))
        .route("/v3/config/paths/add/{*name}", post(conf_add))
        .route("/v3/config/paths/replace/{*name}", post(conf_replace))
        .route("/v3/config/paths/delete/{*name}", delete(conf_delete))
        .route("/v3/rtspsessions/list", get(sessions_list))
        .route("/v3/rtspsessions/get/{id}", get(sessions_get))
        .route("/v3/rtspsessions/kick/{id}", post(sessions_kick));
    // Lists of protocols that are off are not there, and those that are on in the file have nobody to show.
    for (list, on) in [("hlssessions", server.config.hls), ("webrtcsessions", server.config.webrtc)] {
        if on {
            router = router.route(&format!("/v3/{list}/list"), get(async |query| page(Vec::<Value>::new(), query)));
        }
    }
    router
        .fallback(not_found)
        .method_not_allowed_fallback(not_found)
        .layer(middleware::from_fn_with_state((server.clone(), Action::Api), authorize))
        .with_state(server)
}

/// Refuses whoever may not do the action that stands in the state.
pub(super) async fn authorize(
    State((server, action)): State<(Arc<Server>, Action)>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    request: Request,
    next: Next,
) -> Response {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let credentials = given.and_then(Credentials::from_header);
    match server.authorize(action, "", credentials.as_ref(), peer.ip()) {
        Ok(()) => next.run(request).await,
        Err(why) => unauthorized(why),
    }
}

pub(super) fn unauthorized(why: Unauthorized) -> Response {
    let mut response = error(StatusCode::UNAUTHORIZED, "authentication error").into_response();
    if why.ask {
        let ask = header::HeaderValue::from_static("Basic realm=\"mediamtx\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, ask);
    }
    response
}

pub(super) async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, "text/plain")], "404 page not found").into_response()
}

/// Answered as `{"status":"error","error":...}`.
pub(super) struct ApiError(StatusCode, String);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "status": "error", "error": self.1 }))).into_response()
    }
}

pub(super) fn error(status: StatusCode, message: impl Into<String>) -> ApiError {
    ApiError(status, message.into())
}

async fn info(State(server): State<Arc<Server>>) -> Response {
    Json(json!({ "version": VERSION, "started": rfc3339(server.started) })).into_response()
}

async fn paths_list(State(server): State<Arc<Server>>, query: Query<Paging>) -> Result<Response, ApiError> {
    page(server.paths().iter().map(|path| PathItem::new(path)).collect(), query)
}

async fn paths_get(State(server): State<Arc<Server>>, Path(name): Path<String>) -> Result<Response, ApiError> {
    let path = server.path(&name).ok_or_else(|| error(StatusCode::NOT_FOUND, "path not found"))?;
    Ok(Json(PathItem::new(&path)).into_response())
}

async fn conf_list(State(server): State<Arc<Server>>, query: Query<Paging>) -> Result<Response, ApiError> {
    let mut paths = server.configured();
    paths.sort_by(|a, b| a.name.cmp(&b.name));
    page(paths.iter().map(|path| conf_item(path)).collect(), query)
}

async fn conf_get(State(server): State<Arc<Server>>, Path(name): Path<String>) -> Result<Response, ApiError> {
    let path = server.configured().into_iter().find(|path| path.name == name).ok_or_else(no_conf)?;
    Ok(Json(conf_item(&path)).into_response())
}

async fn conf_add(
    State(server): State<Arc<Server>>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Response, ApiError> {
    if server.configured().iter().any(|path| path.name == name) {
        return Err(error(StatusCode::BAD_REQUEST, "path already exists"));
    }
    conf_replace(State(server), Path(name), body).await
}

async fn conf_replace(
    State(server): State<Arc<Server>>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let conf = server.config.path_by_api(&name, &body);
    server.configure(conf.map_err(|invalid| error(StatusCode::BAD_REQUEST, format!("{invalid:#}")))?);
    Ok(Json(json!({ "status": "ok" })).into_response())
}

async fn conf_delete(State(server): State<Arc<Server>>, Path(name): Path<String>) -> Result<Response, ApiError> {
    match server.unconfigure(&name) {
        true => Ok(Json(json!({ "status": "ok" })).into_response()),
        false => Err(no_conf()),
    }
}

fn no_conf() -> ApiError {
    error(StatusCode::NOT_FOUND, "path configuration not found")
}

fn conf_item(path: &PathConf) -> Value {
    let source = path.source.as_deref().unwrap_or("publisher");
    json!({
        "name": path.name, "source": source, "sourceOnDemand": path.on_demand,
        "useAbsoluteTimestamp": path.absolute_timestamp, "rpiCameraTextOverlay": path.text_overlay,
    })
}

async fn sessions_list(State(server): State<Arc<Server>>, query: Query<Paging>) -> Result<Response, ApiError> {
    page(server.sessions().iter().map(|session| SessionItem::new(session)).collect(), query)
}

async fn sessions_get(State(server): State<Arc<Server>>, Path(id): Path<String>) -> Result<Response, ApiError> {
    Ok(Json(SessionItem::new(&*find(&server, &id)?)).into_response())
}

async fn sessions_kick(State(server): State<Arc<Server>>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let session = find(&server, &id)?;
    session.kick.cancel();
    // Out of the list when the answer is there, as with the real one.
    server.remove_session(session.id);
    Ok(Json(json!({ "status": "ok" })).into_response())
}

fn find(server: &Server, id: &str) -> Result<Arc<SessionRecord>, ApiError> {
    let id = Uuid::parse_str(id).map_err(|invalid| error(StatusCode::BAD_REQUEST, invalid.to_string()))?;
    server.session(id).ok_or_else(|| error(StatusCode::NOT_FOUND, "session not found"))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Paging {
    items_per_page: Option<String>,
    page: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Page<T> {
    item_count: usize,
    page_count: usize,
    items: Vec<T>,
}

fn page<T: Serialize>(items: Vec<T>, Query(paging): Query<Paging>) -> Result<Response, ApiError> {
    let per_page = number(paging.items_per_page.as_deref(), DEFAULT_PAGE)?;
    let page = number(paging.page.as_deref(), 0)?;
    if per_page == 0 {
        return Err(error(StatusCode::BAD_REQUEST, "invalid items per page"));
    }
    let (item_count, page_count) = (items.len(), items.len().div_ceil(per_page));
    let items = items.into_iter().skip(page.saturating_mul(per_page)).take(per_page).collect();
    Ok(Json(Page { item_count, page_count, items }).into_response())
}

fn number(text: Option<&str>, default: usize) -> Result<usize, ApiError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(default) };
    // The real one reads 31 bits.
    match text.parse::<u32>() {
        Ok(number) if number < 1 << 31 => Ok(number as usize),
        _ => Err(error(StatusCode::BAD_REQUEST, format!("strconv.ParseUint: parsing {text:?}: invalid syntax"))),
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PathItem {
    name: String,
    conf_name: String,
    ready: bool,
    ready_time: Option<String>,
    available: bool,
    available_time: Option<String>,
    online: bool,
    online_time: Option<String>,
    source: Link,
    tracks: Vec<String>,
    tracks2: Vec<Value>,
    readers: Vec<Link>,
    inbound_bytes: u64,
    outbound_bytes: u64,
    inbound_frames_in_error: u64,
    bytes_received: u64,
    bytes_sent: u64,
}

#[derive(Debug, Serialize)]
struct Link {
    r#type: &'static str,
    id: String,
}

impl PathItem {
    fn new(path: &paths::Path) -> PathItem {
        let (since, tracks) = match &*path.phase.borrow() {
            Phase::Ready { stream, since } => {
                (Some(rfc3339(*since)), stream.tracks.iter().map(|track| track.codec.name().to_owned()).collect())
            }
            Phase::Waiting | Phase::Idle => (None, Vec::new()),
        };
        let (inbound, outbound) =
            (path.counters.inbound_bytes.load(Relaxed), path.counters.outbound_bytes.load(Relaxed));
        PathItem {
            name: path.name.clone(),
            conf_name: path.conf_name.clone(),
            ready: since.is_some(),
            ready_time: since.clone(),
            available: since.is_some(),
            available_time: since.clone(),
            // The real one says so of a path that waits for its source, too.
            online: true,
            online_time: Some(since.unwrap_or_else(|| "0001-01-01T00:00:00Z".to_owned())),
            source: match &path.publisher {
                Some((session, _)) => Link { r#type: "rtspSession", id: session.to_string() },
                None => Link { r#type: "rtspSource", id: String::new() },
            },
            tracks2: tracks.iter().map(|codec: &String| json!({ "codec": codec, "codecProps": null })).collect(),
            tracks,
            readers: path.readers().iter().map(|id| Link { r#type: "rtspSession", id: id.to_string() }).collect(),
            inbound_bytes: inbound,
            outbound_bytes: outbound,
            inbound_frames_in_error: 0,
            bytes_received: inbound,
            bytes_sent: outbound,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SessionItem {
    id: String,
    created: String,
    remote_addr: String,
    state: &'static str,
    path: String,
    query: String,
    user: String,
    user_agent: String,
    transport: &'static str,
    profile: &'static str,
    conns: Vec<String>,
    inbound_bytes: u64,
    #[serde(rename = "inboundRTPPackets")]
    inbound_rtp: u64,
    #[serde(rename = "inboundRTPPacketsLost")]
    inbound_lost: u64,
    #[serde(rename = "inboundRTPPacketsInError")]
    inbound_in_error: u64,
    #[serde(rename = "inboundRTPPacketsJitter")]
    inbound_jitter: f64,
    #[serde(rename = "inboundRTCPPackets")]
    inbound_rtcp: u64,
    #[serde(rename = "inboundRTCPPacketsInError")]
    inbound_rtcp_in_error: u64,
    outbound_bytes: u64,
    #[serde(rename = "outboundRTPPackets")]
    outbound_rtp: u64,
    #[serde(rename = "outboundRTPPacketsReportedLost")]
    outbound_reported_lost: u64,
    #[serde(rename = "outboundRTPPacketsDiscarded")]
    outbound_discarded: u64,
    #[serde(rename = "outboundRTCPPackets")]
    outbound_rtcp: u64,
    bytes_received: u64,
    bytes_sent: u64,
}

impl SessionItem {
    fn new(session: &SessionRecord) -> SessionItem {
        let shown = session.shown();
        let counters = &session.counters;
        let (inbound, outbound) = (counters.inbound_bytes.load(Relaxed), counters.outbound_bytes.load(Relaxed));
        SessionItem {
            id: session.id.to_string(),
            created: rfc3339(session.created),
            remote_addr: session.peer.to_string(),
            state: shown.state,
            path: shown.path,
            query: shown.query,
            user: shown.user,
            user_agent: shown.user_agent,
            transport: "TCP",
            profile: "AVP",
            conns: vec![session.connection.to_string()],
            inbound_bytes: inbound,
            inbound_rtp: counters.inbound_rtp.load(Relaxed),
            inbound_lost: 0,
            inbound_in_error: 0,
            inbound_jitter: 0.0,
            inbound_rtcp: counters.inbound_rtcp.load(Relaxed),
            inbound_rtcp_in_error: 0,
            outbound_bytes: outbound,
            outbound_rtp: counters.outbound_rtp.load(Relaxed),
            outbound_reported_lost: 0,
            outbound_discarded: counters.outbound_discarded.load(Relaxed),
            outbound_rtcp: counters.outbound_rtcp.load(Relaxed),
            bytes_received: inbound,
            bytes_sent: outbound,
        }
    }
}

fn rfc3339(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| "0001-01-01T00:00:00Z".to_owned(), |time| time.to_string())
}
