//! `/metrics` in the text format of Prometheus, with the names of MediaMTX 1.20.1 and its filters `type`, `path` and
//! `rtsp_session`. The deprecated names are left out.

use std::{
    collections::HashMap,
    fmt::Write,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use axum::{
    Router,
    extract::{Query, State},
    http::header,
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};

use super::{
    api,
    config::Action,
    paths::{Phase, Server},
};

/// `/metrics`.
pub(super) fn router(server: Arc<Server>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .fallback(api::not_found)
        .layer(middleware::from_fn_with_state((server.clone(), Action::Metrics), api::authorize))
        .with_state(server)
}

async fn metrics(State(server): State<Arc<Server>>, Query(filter): Query<HashMap<String, String>>) -> Response {
    let kind = filter.get("type").map(String::as_str).unwrap_or_default();
    let (path, session) = (filter.get("path"), filter.get("rtsp_session"));
    let mut text = String::new();
    // A filter for one kind leaves the others out, as in the real one.
    if matches!(kind, "" | "paths") && session.is_none() {
        paths(&server, path, &mut text);
    }
    if matches!(kind, "" | "rtsp_sessions") && path.is_none() {
        sessions(&server, session, &mut text);
    }
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

fn paths(server: &Server, only: Option<&String>, text: &mut String) {
    *text += "# Paths\n";
    for path in server.paths().iter().filter(|path| only.is_none_or(|name| *name == path.name)) {
        let state = if matches!(&*path.phase.borrow(), Phase::Ready { .. }) { "ready" } else { "notReady" };
        let name = &path.name;
        let readers = path.readers().len();
        let reader_type = if readers > 0 { "rtspSession" } else { "" };
        // Names and ids hold no character that would have to be escaped. Writing to a string does not fail.
        let _ = writeln!(text, "paths{{name=\"{name}\",state=\"{state}\"}} 1");
        let _ =
            writeln!(text, "paths_readers{{name=\"{name}\",readerType=\"{reader_type}\",state=\"{state}\"}} {readers}");
        for (figure, value) in [
            ("inbound_bytes", path.counters.inbound_bytes.load(Relaxed)),
            ("outbound_bytes", path.counters.outbound_bytes.load(Relaxed)),
            ("inbound_frames_in_error", 0),
        ] {
            let _ = writeln!(text, "paths_{figure}{{name=\"{name}\",state=\"{state}\"}} {value}");
        }
    }
    *text += "\n";
}

fn sessions(server: &Server, only: Option<&String>, text: &mut String) {
    *text += "# RTSP sessions\n";
    for session in server.sessions().iter().filter(|session| only.is_none_or(|id| *id == session.id.to_string())) {
        let shown = session.shown();
        let tags = format!(
            "{{id=\"{}\",path=\"{}\",remoteAddr=\"{}\",state=\"{}\"}}",
            session.id, shown.path, session.peer, shown.state
        );
        let counters = &session.counters;
        let _ = writeln!(text, "rtsp_sessions{tags} 1");
        for (figure, value) in [
            ("inbound_bytes", counters.inbound_bytes.load(Relaxed)),
            ("inbound_rtp_packets", counters.inbound_rtp.load(Relaxed)),
            ("inbound_rtp_packets_lost", 0),
            ("inbound_rtp_packets_in_error", 0),
            ("inbound_rtp_packets_jitter", 0),
            ("inbound_rtcp_packets", counters.inbound_rtcp.load(Relaxed)),
            ("inbound_rtcp_packets_in_error", 0),
            ("outbound_bytes", counters.outbound_bytes.load(Relaxed)),
            ("outbound_rtp_packets", counters.outbound_rtp.load(Relaxed)),
            ("outbound_rtp_packets_reported_lost", 0),
            ("outbound_rtp_packets_discarded", counters.outbound_discarded.load(Relaxed)),
            ("outbound_rtcp_packets", counters.outbound_rtcp.load(Relaxed)),
        ] {
            let _ = writeln!(text, "rtsp_sessions_{figure}{tags} {value}");
        }
    }
    *text += "\n";
}
