//! The rendered files, byte for byte, as they lie in `tests/golden/`.
//!
//! After a wanted change: `UPDATE_GOLDEN=1 cargo test -p mediamtx-config --test golden`, then read the difference.

use std::net::SocketAddr;
use std::path::Path;

use mediamtx_config::{
    Auth, Credential, DistributionFrontends, DistributionServer, Frontend, Haproxy, Hls, IngestionServer,
    RtspEncryption, Server, Servers, User, WebRtc, common::Action,
};

fn golden(name: &str, rendered: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, rendered).unwrap();
        return;
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(rendered, kept, "{name} is rendered otherwise; if that is wanted: UPDATE_GOLDEN=1 (see this file)");
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn fleet() -> Credential {
    Credential::new("fleet", "0123456789abcdef0123456789abcdef")
}

fn servers(names: &[&str], port: u16) -> Servers {
    let server = |(index, name): (usize, &&str)| {
        let host = format!("10.0.0.{}", index + 11);
        Server::new(*name, format!("{host}:{port}"), at(&format!("{host}:8790")))
    };
    Servers::List(names.iter().enumerate().map(server).collect())
}

#[test]
fn an_ingestion_node_by_default() {
    golden("ingestion.yml", &IngestionServer::new(fleet()).render().unwrap());
}

#[test]
fn an_ingestion_node_with_everything() {
    let mut server = IngestionServer::new(fleet());
    server.fleet.rtsp_encryption =
        RtspEncryption::Optional { address: at("0.0.0.0:8322"), key: "tls.key".into(), certificate: "tls.crt".into() };
    server.auth = Auth::Internal {
        users: vec![User::named("camera", "sha256:BdSWkrdV+ZxFBLUQQY7+7uv9RmiSVA8nrPmjGjJtZQQ=", [Action::Publish])],
    };
    server.anonymous_loopback_api = false;
    server.trusted_proxies = vec!["10.0.0.0/24".into()];
    golden("ingestion_full.yml", &server.render().unwrap());
}

#[test]
fn a_distribution_node_by_default() {
    golden("distribution.yml", &DistributionServer::new(fleet(), "dist-1", at("127.0.0.1:8700")).render().unwrap());
}

#[test]
fn a_distribution_node_with_everything() {
    let mut server = DistributionServer::new(fleet(), "dist-1", at("127.0.0.1:8700"));
    server.auth = Auth::Http { address: "http://127.0.0.1:9000/auth".into() };
    server.hls = Some(Hls::new(at("0.0.0.0:8888")));
    server.webrtc = Some(WebRtc {
        address: at("0.0.0.0:8889"),
        udp: at("0.0.0.0:8189"),
        additional_hosts: vec!["203.0.113.7".into()],
    });
    golden("distribution_full.yml", &server.render().unwrap());
}

#[test]
fn a_balancer_of_rendered_lists() {
    let dist = ["dist-1", "dist-2", "dist-3"];
    let mut balancer = Haproxy::new("lb-1");
    balancer.stats_socket = Some("/run/haproxy/mtxfleet.sock".into());
    balancer.ingestion = Some(Frontend { bind: at("0.0.0.0:8554"), servers: servers(&["ing-1", "ing-2"], 8554) });
    balancer.distribution = Some(DistributionFrontends {
        rtsp: Frontend { bind: at("0.0.0.0:9554"), servers: servers(&dist, 8554) },
        hls: Some(Frontend { bind: at("0.0.0.0:8888"), servers: servers(&dist, 8888) }),
        whep: Some(Frontend { bind: at("0.0.0.0:8889"), servers: servers(&dist, 8889) }),
        balance_factor: 150,
    });
    golden("haproxy.cfg", &balancer.render().unwrap());
}

#[test]
fn a_balancer_of_srv_records() {
    let srv = |name: &str| Servers::Srv { name: name.into(), slots: 20, agent_port: 8790 };
    let mut balancer = Haproxy::new("lb-1");
    balancer.resolvers = vec![at("10.0.0.2:53")];
    balancer.send_proxy = true;
    balancer.distribution = Some(DistributionFrontends {
        hls: Some(Frontend { bind: at("0.0.0.0:8888"), servers: srv("_hls._tcp.dist.example") }),
        ..DistributionFrontends::rtsp_only(Frontend {
            bind: at("0.0.0.0:8554"),
            servers: srv("_rtsp._tcp.dist.example"),
        })
    });
    golden("haproxy_srv.cfg", &balancer.render().unwrap());
}

/// Each of these is text that the real program would refuse, or a port that it would open to everyone.
#[test]
fn what_cannot_be_rendered_names_the_setting() {
    let ingestion = |change: fn(&mut IngestionServer)| {
        let mut server = IngestionServer::new(fleet());
        change(&mut server);
        server.render().unwrap_err().setting
    };
    assert_eq!(ingestion(|s| s.api = at("0.0.0.0:9997")), "api");
    assert_eq!(ingestion(|s| s.metrics = s.api), "metrics");
    assert_eq!(ingestion(|s| s.fleet.write_queue_size = 1000), "fleet.write_queue_size");
    assert_eq!(ingestion(|s| s.fleet.udp_max_payload_size = 1500), "fleet.udp_max_payload_size");
    assert_eq!(ingestion(|s| s.fleet.credential.password = "a b".into()), "fleet.credential.password");
    assert_eq!(ingestion(|s| s.auth = Auth::Jwt { jwks: "https://id.example/jwks".into() }), "auth");
    assert_eq!(
        ingestion(|s| s.auth = Auth::Internal { users: vec![User::named("cam", "pass word", [Action::Publish])] }),
        "auth.users[0].password"
    );
    assert_eq!(
        ingestion(|s| s.recording.as_mut().unwrap().delete_after = std::time::Duration::from_secs(30)),
        "recording.delete_after"
    );
    let node = DistributionServer::new(fleet(), "dist 1", at("127.0.0.1:8700"));
    assert_eq!(node.render().unwrap_err().setting, "node");
    let balancer = |servers: Servers| {
        let mut balancer = Haproxy::new("lb-1");
        balancer.ingestion = Some(Frontend { bind: at("127.0.0.1:8554"), servers });
        balancer.render().unwrap_err().setting
    };
    let agent = at("10.0.0.1:8790");
    let twice = vec![Server::new("a", "10.0.0.1:1", agent), Server::new("a", "10.0.0.2:1", agent)];
    assert_eq!(balancer(Servers::List(twice)), "ingestion.servers[1]");
    let injected = vec![Server::new("a", "10.0.0.1:1 backup", agent)];
    assert_eq!(balancer(Servers::List(injected)), "ingestion.servers[0].address");
    assert_eq!(Haproxy::new("lb-1").render().unwrap_err().setting, "ingestion, distribution");
}

#[test]
fn a_password_is_never_shown_by_debug() {
    let shown = format!("{:?} {:?}", IngestionServer::new(fleet()), User::named("u", "secret", [Action::Read]));
    assert!(!shown.contains("0123456789") && !shown.contains("secret"), "{shown}");
}
