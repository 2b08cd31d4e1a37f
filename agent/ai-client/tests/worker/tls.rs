//! RTSPS and digest authentication, on MediaMTX itself: the stand-in has neither.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtxfleet_ai_client::{Credentials, Stream, StreamConfig, Trust};
use mtxfleet_tests::lab::address::Loopback;
use mtxfleet_tests::lab::camera::{Camera, CameraKind};
use mtxfleet_tests::lab::programs;
use mtxfleet_tests::lab::wait::{PATIENCE, wait_for};
use mtxfleet_tests::server_binary::{self, ServerBinary};
use mtxfleet_wire::{
    Candidate, EventKind, LegId, LegNotice, MoveOrder, MoveReason, NodeId, StreamName, WorkerId, WorkerReport,
};

use crate::faults::{CAMERA, WORKER};
use crate::reader::Worker;
use crate::support::{Agent, Server, TOKEN};

fn openssl(folder: &Path, command: &str) -> Result<String> {
    let output = Command::new(programs::find("openssl")?).args(command.split(' ')).current_dir(folder).output()?;
    ensure!(output.status.success(), "openssl {command}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// An authority and a certificate of it for this address, in `folder`; the certificate's fingerprint.
fn certificate(folder: &Path, address: SocketAddr) -> Result<String> {
    const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    std::fs::write(folder.join("names"), format!("subjectAltName=IP:{}", address.ip()))?;
    openssl(folder, &format!("req -x509 {KEY} -keyout ca.key -out ca.crt -days 2 -subj /CN=authority"))?;
    openssl(folder, &format!("req {KEY} -keyout server.key -out server.csr -subj /CN=server"))?;
    let sign = "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out server.crt -days 2";
    openssl(folder, &format!("{sign} -extfile names"))?;
    let printed = openssl(folder, "x509 -in server.crt -noout -fingerprint -sha256")?;
    Ok(printed.trim().rsplit('=').next().context("no fingerprint")?.to_owned())
}

/// A camera at an ingestion server, and two servers that give it through TLS to who has a password.
struct Scene {
    addresses: Loopback,
    ingestion: Server,
    /// Their RTSPS addresses.
    nodes: [SocketAddr; 2],
    fingerprint: String,
    logs: tempfile::TempDir,
    _servers: Vec<Server>,
    _camera: Camera,
}

impl Scene {
    async fn start(binary: &ServerBinary) -> Result<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (mut addresses, logs) = (Loopback::next(), tempfile::tempdir()?);
        let start = |name: &str, more: &str, addresses: &mut Loopback| {
            Server::start(binary, name, more, addresses, logs.path())
        };
        let ingestion = start("ingestion", "paths:\n  all_others:\n", &mut addresses)?;
        let nodes = [addresses.port()?, addresses.port()?];
        let fingerprint = certificate(logs.path(), nodes[0])?;
        let file = |name: &str| logs.path().join(name).display().to_string();
        let mut servers = Vec::new();
        for (name, rtsps) in ["a", "b"].into_iter().zip(nodes) {
            let more = format!(
                "rtspEncryption: optional\nrtspsAddress: {rtsps}\nrtspServerKey: {}\nrtspServerCert: {}\n\
                 rtspAuthMethods: [digest]\nauthInternalUsers:\n- user: any\n  permissions:\n  - action: api\n\
                 - user: ann\n  pass: se+cret\n  permissions:\n  - action: read\n\
                 paths:\n  \"~^(.+)$\":\n    source: rtsp://{}/$G1\n    sourceOnDemand: yes\n    rtspTransport: tcp\n",
                file("server.key"),
                file("server.crt"),
                ingestion.rtsp,
            );
            servers.push(start(name, &more, &mut addresses)?);
        }
        for server in servers.iter().chain([&ingestion]) {
            wait_for("a media server's API", PATIENCE, async || server.readers().await.map(drop)).await?;
        }
        let camera = Camera::start(CAMERA, CameraKind::H264, &ingestion.rtsp.to_string(), logs.path())?;
        Ok(Self { addresses, ingestion, nodes, fingerprint, logs, _servers: servers, _camera: camera })
    }

    fn config(&self, trust: Trust) -> StreamConfig {
        StreamConfig {
            credentials: Some(Credentials { user: "ann".into(), password: "se+cret".into() }),
            trust,
            ..StreamConfig::new(CAMERA, WORKER, format!("rtsps://{}", self.nodes[0]), "lab")
        }
    }

    fn authority(&self) -> Trust {
        Trust::Authorities(self.logs.path().join("ca.crt"))
    }

    /// The order to go from `a` to `b`.
    fn order(&self, leg: LegId) -> Result<MoveOrder> {
        let b = Candidate { node: NodeId::new("b")?, rtsp: self.nodes[1].to_string(), warm: false };
        let legs = vec![LegNotice {
            leg,
            worker: WorkerId::new(WORKER)?,
            stream: StreamName::new(CAMERA)?,
            candidates: vec![b],
            reason: MoveReason::NodeLeaves,
        }];
        Ok(MoveOrder { drain: "d1".parse()?, node: NodeId::new("a")?, legs })
    }
}

#[tokio::test]
async fn through_tls_a_worker_moves_without_loss_and_what_is_not_trusted_is_a_clear_error() -> Result<()> {
    const WHAT: &str = "worker library: RTSPS and digest authentication";
    let binary = match (server_binary::find_real()?, programs::find("openssl")) {
        (Ok(binary), Ok(_)) => binary,
        (found, openssl) => {
            let reasons = [found.err().map(|all| all.join("; ")), openssl.err().map(|error| format!("{error:#}"))];
            mtxfleet_tests::notes::skipped(WHAT, &reasons.into_iter().flatten().collect::<Vec<_>>().join("; "));
            return Ok(());
        }
    };
    mtxfleet_tests::notes::ran(&format!("{WHAT}, on {}", binary.kind));
    let mut scene = Scene::start(&binary).await?;

    let mut agent = Agent::start(&mut scene.addresses).await?;
    let config = StreamConfig {
        agents: vec![agent.url.clone()],
        worker_token: Some(TOKEN.into()),
        open_timeout: PATIENCE,
        ..scene.config(scene.authority())
    };
    let mut worker = Worker::start(config, &format!("rtsp://{}/{CAMERA}", scene.ingestion.rtsp)).await?;
    agent.wait_for_listeners(1).await?;
    worker.wait_for_frames(25).await?;
    let leg = worker.leg().context("it reads")?;
    agent.say("a", EventKind::DrainMove(scene.order(leg.clone())?));
    worker.leg_after(&leg).await?;
    let report = agent.report().await?;
    assert!(matches!(&report, WorkerReport::Moved { to: Some(node), .. } if node.as_str() == "b"), "{report:?}");
    worker.wait_for_frames(worker.frames() + 25).await?;
    let outcome = worker.finish().await?;
    assert!(outcome.comparison.is_perfect(), "{:?}", outcome.comparison);

    let pinned = scene.config(Trust::Certificate(scene.fingerprint.clone()));
    Stream::open(pinned.clone()).await?.close().await;

    // MediaMTX waits some seconds before it refuses a password.
    let refusal = async |config: StreamConfig| -> Result<String> {
        let config = StreamConfig { open_timeout: Duration::from_secs(10), ..config };
        Ok(Stream::open(config).await.err().context("it opened")?.to_string())
    };
    let other = scene.fingerprint.replace(|digit: char| digit.is_ascii_hexdigit(), "0");
    let wrong = Some(Credentials { user: "ann".into(), password: "wrong".into() });
    let anonymous = StreamConfig { credentials: None, ..pinned.clone() };
    let plain_port = StreamConfig { url: format!("rtsps://{}", scene.ingestion.rtsp), ..pinned.clone() };
    let (untrusted, other, wrong, anonymous, plain_port) = tokio::try_join!(
        refusal(scene.config(Trust::Machine)),
        refusal(scene.config(Trust::Certificate(other))),
        refusal(StreamConfig { credentials: wrong, ..pinned.clone() }),
        refusal(anonymous),
        refusal(plain_port),
    )?;
    assert!(untrusted.contains("certificate") && untrusted.contains("UnknownIssuer"), "{untrusted}");
    assert!(other.contains("another certificate"), "{other}");
    assert!(wrong.contains("refuses this user and password"), "{wrong}");
    assert!(anonymous.contains("asks for user and password"), "{anonymous}");
    assert!(plain_port.contains("RTSPS at"), "{plain_port}");
    Ok(())
}
