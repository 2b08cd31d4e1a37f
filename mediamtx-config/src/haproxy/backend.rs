//! Frontends and backends of [`Haproxy`], by protocol.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::{DistributionFrontends, Frontend, Haproxy, Servers};
use crate::setting;

/// The key of a stream in RTSP: the whole path of the request line, without `rtsp://host/`, query and last slash.
/// (`payload(0,0)` is all that came so far; with a length in its place the variable stays empty.)
const RTSP_STREAM: &str = r#"req.payload(0,0),word(2," "),regsub("^[a-z]+://[^/]*/*",""),field(1,?),regsub("/+$","")"#;

/// The key of a stream in HLS: the folder of what is asked for.
const HLS_STREAM: &str = r#"path,regsub("/[^/]*$","")"#;

/// The key of a stream in WHEP: what stands before `/whep` and its sessions below.
const WHEP_STREAM: &str = r#"path,regsub("/whep(/.*)?$",""),regsub("/+$","")"#;

pub(super) fn ingestion(haproxy: &Haproxy, frontend: &Frontend, out: &mut String) {
    let name = "ingestion";
    _ = writeln!(out, "\nfrontend {name}\n    mode tcp\n    bind {}\n    default_backend {name}", frontend.bind);
    _ = writeln!(out, "\nbackend {name}\n    mode tcp\n    balance leastconn");
    rtsp_health(out);
    servers(haproxy, name, &frontend.servers, Kind::Rtsp, out);
}

pub(super) fn distribution(haproxy: &Haproxy, frontends: &DistributionFrontends, out: &mut String) {
    rtsp(haproxy, &frontends.rtsp, frontends.balance_factor, out);
    let http = [
        (&frontends.hls, "distribution_hls", HLS_STREAM, "{ path_end /index.m3u8 }", "MTXFLEET_HLS"),
        (&frontends.whep, "distribution_whep", WHEP_STREAM, "{ method POST }", "MTXFLEET_WHEP"),
    ];
    for (frontend, name, stream, opens_session, cookie) in http {
        if let Some(frontend) = frontend {
            _ = writeln!(out, "\nfrontend {name}\n    mode http\n    bind {}", frontend.bind);
            _ = writeln!(out, "    default_backend {name}\n\nbackend {name}\n    mode http");
            _ = writeln!(out, "    http-request set-var(txn.stream) '{stream}'");
            by_stream(out, "txn.stream", frontends.balance_factor);
            _ = writeln!(out, "    # A session lives on one server, also while that drains. Whoever opens a new one");
            _ = writeln!(out, "    # is placed anew; the cookie holds for its stream only, since it may watch two.");
            let srv = matches!(frontend.servers, Servers::Srv { .. });
            let dynamic = if srv { " dynamic\n    dynamic-cookie-key mtxfleet" } else { "" };
            _ = writeln!(out, "    cookie {cookie} insert indirect nocache{dynamic}");
            _ = writeln!(out, "    http-request replace-header Cookie {cookie}=[^;]* {cookie}=none if {opens_session}");
            _ = writeln!(
                out,
                "    http-after-response replace-header Set-Cookie '({cookie}=[^;]*); path=/' '\\1; path=%[var(txn.stream)]/'"
            );
            _ = writeln!(out, "    option httpchk\n    http-check send meth OPTIONS uri /");
            _ = writeln!(out, "    http-check expect status 200-499");
            servers(haproxy, name, &frontend.servers, Kind::Http, out);
        }
    }
}

fn rtsp(haproxy: &Haproxy, frontend: &Frontend, balance_factor: u32, out: &mut String) {
    let name = "distribution_rtsp";
    _ = writeln!(out, "\nfrontend {name}\n    mode tcp\n    bind {}", frontend.bind);
    _ = writeln!(out, "    # Wait for the first request line; what sends none is no RTSP client.");
    _ = writeln!(out, "    tcp-request inspect-delay 3s");
    _ = writeln!(out, "    tcp-request content set-var(sess.stream) '{RTSP_STREAM}'");
    _ = writeln!(out, "    tcp-request content accept if {{ req.payload(0,0) -m sub \" RTSP/1.0\" }}");
    _ = writeln!(out, "    tcp-request content reject");
    _ = writeln!(out, "    default_backend {name}\n\nbackend {name}\n    mode tcp");
    by_stream(out, "sess.stream", balance_factor);
    rtsp_health(out);
    servers(haproxy, name, &frontend.servers, Kind::Rtsp, out);
}

fn by_stream(out: &mut String, variable: &str, balance_factor: u32) {
    _ = writeln!(out, "    balance hash var({variable})\n    hash-type consistent");
    _ = writeln!(out, "    hash-balance-factor {balance_factor}");
}

/// A server that accepts and says nothing is not well: it must answer OPTIONS.
fn rtsp_health(out: &mut String) {
    _ = writeln!(out, "    option tcp-check\n    tcp-check connect");
    _ = writeln!(out, r#"    tcp-check send "OPTIONS rtsp://health/ RTSP/1.0\r\nCSeq: 1\r\n\r\n""#);
    _ = writeln!(out, r#"    tcp-check expect string "RTSP/1.0 ""#);
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Rtsp,
    Http,
}

fn servers(haproxy: &Haproxy, backend: &str, servers: &Servers, kind: Kind, out: &mut String) {
    let check = setting::duration(haproxy.check_interval);
    let agent = setting::duration(haproxy.agent_interval);
    let proxy = if haproxy.send_proxy && kind == Kind::Rtsp { " send-proxy-v2 check-send-proxy" } else { "" };
    _ = writeln!(out, "    default-server inter {check} fall 2 rise 1 agent-inter {agent}{proxy}");
    let line = |server: &str| format!(r#"agent-send "{}/{backend}{server}\n""#, haproxy.name);
    match servers {
        Servers::List(list) => {
            let mut taken = BTreeSet::new();
            for server in list {
                let id = stable_id(&server.name, &mut taken);
                let cookie = if kind == Kind::Http { format!(" cookie {}", server.name) } else { String::new() };
                _ = writeln!(
                    out,
                    "    server {name} {address} id {id} check agent-check agent-addr {ip} agent-port {port} {send} init-addr libc,none{cookie}",
                    name = server.name,
                    address = server.address,
                    ip = server.agent.ip(),
                    port = server.agent.port(),
                    send = line(&format!("/{}", server.name)),
                );
            }
        }
        Servers::Srv { name, slots, agent_port } => {
            let send = line("");
            // The weight in SRV records and the agent's would overwrite each other.
            _ = writeln!(
                out,
                "    server-template {backend}_ 1-{slots} {name} resolvers fleet resolve-opts ignore-weight check agent-check agent-port {agent_port} {send} init-addr none",
            );
        }
    }
}

/// The consistent hash places a server by its id. By default that is its place in the list, so that one server less
/// would move the streams of all that follow; from the name, it moves its own only.
fn stable_id(name: &str, taken: &mut BTreeSet<u32>) -> u32 {
    // FNV-1a folded to 20 bits: HAProxy multiplies the id by 4096 in 32 bits (lb_chash.c), so that ids which differ
    // above those only would lie on the same places.
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let mut id = (hash ^ (hash >> 20)) & 0xf_ffff;
    while id == 0 || !taken.insert(id) {
        id = (id + 1) & 0xf_ffff;
    }
    id
}
