//! The local cloud's HTTP: what agents ask of it, and what a shell can.

use std::net::SocketAddr;

use anyhow::Context as _;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use mtxfleet_leader::cloud::CloudCall;
use mtxfleet_wire::{InstanceId, Role};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use super::{Faults, Refusal, Request};
use crate::edge::cloud::Listing;

type Cloud = State<mpsc::Sender<Request>>;

/// Serves in a task of its own, until the process ends.
pub(super) async fn start(listen: SocketAddr, requests: mpsc::Sender<Request>) -> anyhow::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}; choose another address in listen"))?;
    let address = listener.local_addr()?;
    let routes = Router::new()
        .route("/v1/groups/{role}", get(describe))
        .route("/v1/groups/{role}/desired", put(set_desired))
        .route("/v1/groups/{role}/end", post(end))
        .route("/v1/faults", get(faults).put(set_faults))
        .with_state(requests);
    tokio::spawn(async move { axum::serve(listener, routes).await });
    Ok(address)
}

async fn describe(cloud: Cloud, Path(role): Path<Role>) -> Response {
    call(&cloud, role, CloudCall::Describe).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Desired {
    desired: u32,
}

async fn set_desired(cloud: Cloud, Path(role): Path<Role>, Json(body): Json<Desired>) -> Response {
    call(&cloud, role, CloudCall::SetDesired { desired: body.desired }).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    instance: InstanceId,
    decrement: bool,
}

async fn end(cloud: Cloud, Path(role): Path<Role>, Json(body): Json<End>) -> Response {
    call(&cloud, role, CloudCall::End { instance: body.instance, decrement: body.decrement }).await
}

async fn faults(State(requests): Cloud) -> Response {
    exchange_faults(&requests, None).await.map_or_else(ending, |faults| Json(faults).into_response())
}

async fn set_faults(State(requests): Cloud, Json(set): Json<Faults>) -> Response {
    exchange_faults(&requests, Some(set)).await.map_or_else(ending, |faults| Json(faults).into_response())
}

async fn call(State(requests): &Cloud, role: Role, call: CloudCall) -> Response {
    let (answer, answered) = oneshot::channel();
    if requests.send(Request::Call { role, call, answer }).await.is_err() {
        return ending();
    }
    let Ok(answer) = answered.await else { return ending() };
    let Some(faults) = exchange_faults(requests, None).await else { return ending() };
    tokio::time::sleep(faults.delay()).await;
    let error = |status: StatusCode, error: &str| (status, Json(json!({ "error": error }))).into_response();
    match answer {
        Ok(None) => Json(json!({})).into_response(),
        Ok(Some(mut group)) => {
            if faults.half_list {
                group.instances.truncate(group.instances.len() / 2);
            }
            Json(Listing { complete: !faults.half_list, group }).into_response()
        }
        Err(Refusal::Unknown(why)) => error(StatusCode::NOT_FOUND, &why),
        Err(Refusal::Refused(why)) => error(StatusCode::CONFLICT, &why),
        Err(Refusal::Throttled) => error(StatusCode::TOO_MANY_REQUESTS, "too many calls, as told"),
        Err(Refusal::Failed) => error(StatusCode::INTERNAL_SERVER_ERROR, "failed, as told"),
    }
}

async fn exchange_faults(requests: &mpsc::Sender<Request>, set: Option<Faults>) -> Option<Faults> {
    let (answer, answered) = oneshot::channel();
    requests.send(Request::Faults { set, answer }).await.ok()?;
    answered.await.ok()
}

fn ending() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "error": "the local cloud is ending" }))).into_response()
}
