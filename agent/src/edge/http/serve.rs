//! Connections: how many, and how long each may take for what.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Sleep;

use super::EventFeed;
use super::metrics::{Collector, Metric};

/// What a client may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections at a time, those of event clients among them. More are told 503 and closed.
    pub connections: usize,
    /// Until the whole head of a request is there; also how long a connection may idle between two requests.
    pub head_within: Duration,
    /// A client that takes no byte of its answer for this long is dropped.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 512, head_within: Duration::from_secs(15), stall: Duration::from_secs(15) }
    }
}

/// Bytes of a request's head and of what is read ahead, at most.
const BUFFER: usize = 32 * 1024;

const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\n\
content-length: 54\r\n\r\n{\"error\":\"too many connections; try again in a while\"}";

#[derive(Debug, Default)]
pub(super) struct Counts {
    open: AtomicUsize,
    refused: AtomicU64,
}

pub(super) async fn run(listener: TcpListener, router: Router, counts: Arc<Counts>, limits: Limits) {
    // Ends all connections when this task is aborted.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < limits.connections => {
                    let _ = stream.set_nodelay(true);
                    connections.spawn(connection(stream, router.clone(), limits));
                }
                Ok((stream, _)) => {
                    counts.refused.fetch_add(1, Ordering::Relaxed);
                    let _ = stream.try_write(TOO_MANY);
                }
                Err(error) => {
                    // Out of file descriptors, most likely: a pause lets some be closed.
                    tracing::warn!(%error, "the HTTP API could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
        counts.open.store(connections.len(), Ordering::Relaxed);
    }
}

async fn connection(stream: TcpStream, router: Router, limits: Limits) {
    let io = TokioIo::new(Unstalled { stream, limit: limits.stall, stalled: None });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.head_within).max_buf_size(BUFFER);
    if let Err(error) = builder.serve_connection(io, TowerToHyperService::new(router)).await {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}

/// A connection that fails once a write has waited for `limit`.
struct Unstalled {
    stream: TcpStream,
    limit: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Unstalled {
    fn watch<T>(&mut self, cx: &mut Context<'_>, poll: Poll<std::io::Result<T>>) -> Poll<std::io::Result<T>> {
        if poll.is_ready() {
            self.stalled = None;
            return poll;
        }
        let limit = self.limit;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        match stalled.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(std::io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Unstalled {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Unstalled {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

static OPEN: Metric = Metric::gauge("mtxfleet_http_connections", "Open connections to the HTTP API.");
static REFUSED: Metric =
    Metric::counter("mtxfleet_http_connections_refused_total", "Connections refused, there being too many.");
static CLIENTS: Metric = Metric::gauge("mtxfleet_event_clients", "Clients of /v1/events.");
static SLOW: Metric =
    Metric::counter("mtxfleet_event_clients_dropped_total", "Clients of /v1/events dropped for being too slow.");
static PUBLISHED: Metric = Metric::counter("mtxfleet_events_total", "Events handed to /v1/events.");

pub(super) fn collector(counts: Arc<Counts>, feed: EventFeed) -> Collector {
    Box::new(move || {
        vec![
            OPEN.sample(counts.open.load(Ordering::Relaxed) as f64),
            REFUSED.sample(counts.refused.load(Ordering::Relaxed) as f64),
            CLIENTS.sample(feed.clients() as f64),
            SLOW.sample(feed.dropped() as f64),
            PUBLISHED.sample(feed.published() as f64),
        ]
    })
}
