//! A small stand-in for MediaMTX, for machines where the real one cannot be had.
//!
//! It serves RTSP over TCP (publish, read, pull on demand with redirects), the control API and the metrics that the
//! agent uses, and a rolling recording of video, from the same `mediamtx.yml` as the real server. It behaves as MediaMTX 1.20.1 was seen to, and
//! `tests/contract.rs` holds both to the same tests. What it leaves out: every other protocol, recording of
//! sound, UDP, encryption, configuration by API beyond paths, hooks, splitting of large RTP packets, jitter and loss figures.
//!
//! ```text
//!  publisher --> session --+                         +--> reader's queue --> session --> reader
//!                          +--> path --> stream -----+
//!  source <----- pull -----+                         +--> reader's queue --> session --> reader
//!                            ^        api, metrics: what paths and sessions there are
//! ```
//!
//! Everything runs on one thread; locks are held for a few instructions and never across an `await`. Connections,
//! messages, tracks and queues are bounded by the constants beside them.

pub mod config;
mod media;
mod message;
mod paths;
mod pull;
mod recording;
mod session;
mod stream;

mod api;
mod metrics;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{net::TcpListener, sync::Semaphore};

use config::Config;
use paths::Server;

pub use pull::STILL;

/// RTSP connections at a time; further ones wait in the listen queue.
const MAX_CONNECTIONS: usize = 2_000;

/// After a failed accept, so that a lack of descriptors does not keep the processor busy.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What `/v3/info` says: the version whose behaviour is imitated, marked.
pub const VERSION: &str = "v1.20.1-standin";

/// Serves `config` until an error ends it.
///
/// # Errors
///
/// When an address cannot be bound.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let rtsp = listen("rtspAddress", &config.rtsp_address).await?;
    let api = listen_if("apiAddress", config.api_address.as_deref()).await?;
    let metrics = listen_if("metricsAddress", config.metrics_address.as_deref()).await?;
    let playback = listen_if("playbackAddress", config.playback_address.as_deref()).await?;
    for protocol in config.unserved() {
        tracing::warn!("{protocol} is on in the configuration and not served by the stand-in");
    }
    let server = Server::new(config);
    if let Some(listener) = api {
        let router = api::router(server.clone());
        tokio::spawn(serve_http(listener, router));
    }
    if let Some(listener) = metrics {
        let router = metrics::router(server.clone());
        tokio::spawn(serve_http(listener, router));
    }
    if let Some(listener) = playback {
        let router = recording::playback::router(server.clone());
        tokio::spawn(serve_http(listener, router));
    }
    server.start_persistent_sources();
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = free.clone().acquire_owned().await.context("the semaphore is never closed")?;
        let (socket, peer) = match rtsp.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or the peer has gone already: neither is a reason to stop serving the others.
                tracing::warn!("accept: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let server = server.clone();
        tokio::spawn(async move {
            session::serve(server, socket, peer).await;
            drop(permit);
        });
    }
}

async fn serve_http(listener: TcpListener, router: axum::Router) {
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    if let Err(error) = axum::serve(listener, service).await {
        tracing::error!("HTTP: {error}");
    }
}

async fn listen(key: &str, address: &str) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("{key}: cannot listen on {address}"))?;
    tracing::info!("{key}: listening on {}", listener.local_addr()?);
    Ok(listener)
}

async fn listen_if(key: &str, address: Option<&str>) -> anyhow::Result<Option<TcpListener>> {
    match address {
        Some(address) => Ok(Some(listen(key, address).await?)),
        None => Ok(None),
    }
}
