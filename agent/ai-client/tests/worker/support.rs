//! A small fleet for the worker library: one ingestion server, two distribution servers that pull from it on demand,
//! a load balancer whose direction the test sets, and an agent that says what the test tells it to.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use mtxfleet_tests::lab::address::Loopback;
use mtxfleet_tests::lab::process::{Process, Recipe};
use mtxfleet_tests::lab::wait::{PATIENCE, wait_for};
use mtxfleet_tests::server_binary;
use mtxfleet_wire::{Candidate, LegId, LegNotice, MoveOrder, MoveReason, NodeId, StreamName, WorkerId};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;

pub use mtxfleet_tests::scripted_agent::{Agent, TOKEN, back, event, notice};

/// The real server, else the stand-in; a loud skip where that is not built either.
pub fn media_server(what: &str) -> Option<server_binary::ServerBinary> {
    let found = server_binary::find_real().unwrap_or_else(|error| panic!("{error:#}"));
    let found = found.or_else(|_| server_binary::find_stand_in());
    match &found {
        Ok(found) => mtxfleet_tests::notes::ran(&format!("{what}, on {}", found.kind)),
        Err(error) => mtxfleet_tests::notes::skipped(what, &format!("{error:#}")),
    }
    found.ok()
}

/// A media server.
pub struct Server {
    pub rtsp: SocketAddr,
    pub api: SocketAddr,
    pub process: Process,
}

impl Server {
    /// Starts a server with RTSP and API and nothing else; `more` is the rest of its configuration.
    pub fn start(
        binary: &server_binary::ServerBinary,
        name: &str,
        more: &str,
        addresses: &mut Loopback,
        logs: &Path,
    ) -> Result<Self> {
        let (rtsp, api) = (addresses.port()?, addresses.port()?);
        let text = format!(
            "logLevel: info\napi: yes\napiAddress: {api}\nrtsp: yes\nrtspTransports: [tcp]\nrtspAddress: {rtsp}\n\
             rtmp: no\nhls: no\nwebrtc: no\nsrt: no\nmoq: no\n{more}"
        );
        let file = logs.join(format!("{name}.yml"));
        std::fs::write(&file, text)?;
        let recipe = Recipe::new(name, &binary.path).args([file.to_string_lossy()]);
        Ok(Self { rtsp, api, process: recipe.start(logs)? })
    }

    /// The sessions that read, as `query` says: `worker=ID&leg=UUID`.
    pub async fn readers(&self) -> Result<Vec<String>> {
        let url = format!("http://{}/v3/rtspsessions/list", self.api);
        let list: serde_json::Value = reqwest::get(url).await?.error_for_status()?.json().await?;
        let items = list["items"].as_array().context("no items")?.iter();
        let reading = items.filter(|item| item["state"] == "read");
        Ok(reading.map(|item| item["query"].as_str().unwrap_or_default().to_owned()).collect())
    }
}

/// Three servers; see the module.
pub struct Fleet {
    pub addresses: Loopback,
    pub ingestion: Server,
    pub nodes: BTreeMap<&'static str, Server>,
    pub logs: tempfile::TempDir,
}

impl Fleet {
    pub async fn start(binary: &server_binary::ServerBinary) -> Result<Self> {
        // Another part of the process may have installed it; reqwest needs one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut addresses = Loopback::next();
        let logs = tempfile::tempdir()?;
        let mut start = |name: &str, paths: &str| Server::start(binary, name, paths, &mut addresses, logs.path());
        let ingestion = start("ingestion", "paths:\n  all_others:\n")?;
        let pull = format!(
            "paths:\n  \"~^(.+)$\":\n    source: rtsp://{}/$G1\n    sourceOnDemand: yes\n    rtspTransport: tcp\n",
            ingestion.rtsp
        );
        let nodes = BTreeMap::from([("a", start("a", &pull)?), ("b", start("b", &pull)?)]);
        for server in nodes.values().chain([&ingestion]) {
            wait_for("a media server's API", PATIENCE, async || server.readers().await.map(drop)).await?;
        }
        Ok(Self { addresses, ingestion, nodes, logs })
    }

    /// The order to move `leg` away from `from`, to `to`.
    pub fn order(&self, drain: &str, from: &str, to: &[&str], stream: &str, worker: &str, leg: &LegId) -> MoveOrder {
        let candidate = |node: &&str| Candidate {
            node: NodeId::new(*node).expect("valid"),
            rtsp: self.nodes[node].rtsp.to_string(),
            warm: false,
        };
        let legs = vec![LegNotice {
            leg: leg.clone(),
            worker: WorkerId::new(worker).expect("valid"),
            stream: StreamName::new(stream).expect("valid"),
            candidates: to.iter().map(candidate).collect(),
            reason: MoveReason::NodeLeaves,
        }];
        MoveOrder { drain: drain.parse().expect("valid"), node: NodeId::new(from).expect("valid"), legs }
    }
}

/// Forwards TCP to whichever server is set: what a load balancer is to a worker.
pub struct Balancer {
    pub address: SocketAddr,
    target: watch::Sender<SocketAddr>,
    cut: broadcast::Sender<()>,
    task: JoinHandle<()>,
}

impl Balancer {
    pub async fn start(addresses: &mut Loopback, target: SocketAddr) -> Result<Self> {
        let address = addresses.port()?;
        let listener = TcpListener::bind(address).await?;
        let (target, to) = watch::channel(target);
        let cut = broadcast::Sender::new(1);
        let cuts = cut.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let to = *to.borrow();
                let mut cut = cuts.subscribe();
                connections.spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(to).await {
                        tokio::select! {
                            _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                            _ = cut.recv() => {}
                        }
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, target, cut, task })
    }

    /// Ends all connections.
    pub fn cut(&self) {
        let _ = self.cut.send(());
    }

    /// New connections go there; existing ones go on.
    pub fn point_to(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
