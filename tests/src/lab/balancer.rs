//! HAProxy in front of both clusters.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use mediamtx_config::{DistributionFrontends, Frontend, Haproxy, Server, Servers};
use mtxfleet_wire::NodeId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::address::Loopback;
use super::process::{Process, Recipe};
use super::programs;
use super::wait::{PATIENCE, wait_for};

/// Name of the lab's balancer in what `agent-send` says.
pub const NAME: &str = "lab";

/// The backend of cameras, as mediamtx-config names it.
pub const PUBLISHERS: &str = "ingestion";

/// The backend of RTSP readers, as mediamtx-config names it.
pub const READERS: &str = "distribution_rtsp";

/// The backend of HLS viewers, as mediamtx-config names it.
pub const HLS: &str = "distribution_hls";

/// The backend of WebRTC viewers, as mediamtx-config names it.
pub const WHEP: &str = "distribution_whep";

/// Where browsers connect, and to what.
#[derive(Debug, Clone)]
pub struct Web {
    pub hls: Frontend,
    pub whep: Frontend,
}

/// The lab's HAProxy.
#[derive(Debug)]
pub struct Balancer {
    pub process: Process,
    /// Where cameras publish: the stand-in for `ingest.example`.
    pub ingest: SocketAddr,
    /// Where workers and RTSP viewers read: the stand-in for `live.example`.
    pub live: SocketAddr,
    /// Where browsers watch, in a lab that has them.
    pub web: Option<Web>,
    socket: PathBuf,
}

impl Balancer {
    /// Starts it in front of these servers.
    ///
    /// # Errors
    /// When haproxy is not installed, refuses its file or does not come up.
    pub async fn start(
        loopback: &mut Loopback,
        ingestion: Vec<Server>,
        distribution: Vec<Server>,
        web: Option<Web>,
        dir: &Path,
        logs: &Path,
    ) -> Result<Self> {
        let (ingest, live) = (loopback.port()?, loopback.port()?);
        let socket = dir.join("haproxy.sock");
        let settings = Haproxy {
            stats_socket: Some(socket.display().to_string()),
            ingestion: Some(Frontend { bind: ingest, servers: Servers::List(ingestion) }),
            distribution: Some(DistributionFrontends {
                hls: web.as_ref().map(|web| web.hls.clone()),
                whep: web.as_ref().map(|web| web.whep.clone()),
                ..DistributionFrontends::rtsp_only(Frontend { bind: live, servers: Servers::List(distribution) })
            }),
            ..Haproxy::new(NAME)
        };
        let file = dir.join("haproxy.cfg");
        std::fs::write(&file, settings.render()?)?;
        // In the foreground and without a master: one process, which ends with this one.
        let recipe = Recipe::new("haproxy", programs::find("haproxy")?).args(["-db", "-f"]);
        let process = recipe.args([file.display().to_string()]).start(logs)?;
        let mut balancer = Self { process, ingest, live, web, socket };
        wait_for("HAProxy to answer", PATIENCE, async || -> Result<()> {
            balancer.process.check_alive()?;
            balancer.statistics().servers().await?;
            Ok(())
        })
        .await?;
        Ok(balancer)
    }

    /// What it says of its servers, to look at from another task too.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        Statistics { socket: self.socket.clone() }
    }
}

/// HAProxy's stats socket.
#[derive(Debug, Clone)]
pub struct Statistics {
    socket: PathBuf,
}

impl Statistics {
    /// All servers of all backends.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn servers(&self) -> Result<BTreeMap<(String, String), ServerState>> {
        parse_states(&ask(&self.socket, "show stat").await?)
    }

    /// A node in the backend of RTSP readers.
    ///
    /// # Errors
    /// When it does not answer, or the node is not in that backend.
    pub async fn reader_backend(&self, node: &NodeId) -> Result<ServerState> {
        let key = (READERS.to_owned(), node.to_string());
        self.servers().await?.remove(&key).with_context(|| format!("{node} is not in {READERS}"))
    }
}

/// What HAProxy says of one server of one backend (`show stat`, the fields `status`, `weight`, `stot` and `scur`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerState {
    /// `UP`, `DRAIN`, `DRAIN (agent)`, `DOWN`, `no check` and so on.
    pub status: String,
    pub weight: u32,
    /// Connections given to it since HAProxy started.
    pub total: u64,
    /// Connections that it has now.
    pub current: u64,
}

/// Sends one command to the stats socket and reads the whole answer.
async fn ask(socket: &Path, command: &str) -> Result<String> {
    let asking = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(format!("{command}\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    tokio::time::timeout(Duration::from_secs(2), asking)
        .await
        .context("no answer in 2 s")
        .flatten()
        .with_context(|| format!("HAProxy, asked `{command}` at {}", socket.display()))
}

/// The servers in the CSV that `show stat` answers, by backend and server name.
fn parse_states(csv: &str) -> Result<BTreeMap<(String, String), ServerState>> {
    let mut lines = csv.lines().filter(|line| !line.is_empty());
    let header = lines.next().context("an empty answer")?.trim_start_matches("# ");
    let names: Vec<&str> = header.split(',').collect();
    let column = |name: &str| names.iter().position(|n| *n == name).with_context(|| format!("no column {name}"));
    let (backend, server) = (column("pxname")?, column("svname")?);
    let (status, weight, total, current) = (column("status")?, column("weight")?, column("stot")?, column("scur")?);
    let mut states = BTreeMap::new();
    for line in lines {
        let fields: Vec<&str> = line.split(',').collect();
        if fields.len() < names.len() {
            bail!("a line of {} fields where the header has {}: {line}", fields.len(), names.len());
        }
        if ["FRONTEND", "BACKEND"].contains(&fields[server]) {
            continue;
        }
        let state = ServerState {
            status: fields[status].to_owned(),
            weight: fields[weight].parse().unwrap_or_default(),
            total: fields[total].parse().unwrap_or_default(),
            current: fields[current].parse().unwrap_or_default(),
        };
        states.insert((fields[backend].to_owned(), fields[server].to_owned()), state);
    }
    Ok(states)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_read_by_the_names_of_their_columns() {
        let csv = "# pxname,svname,scur,stot,status,weight,agent_status\n\
                   dist_rtsp,FRONTEND,3,9,OPEN,,\n\
                   dist_rtsp,dist-1,2,7,DRAIN (agent),100,L7OK\n\
                   dist_rtsp,BACKEND,3,9,UP,100,\n";
        let states = parse_states(csv).expect("readable");
        let wanted = ServerState { status: "DRAIN (agent)".into(), weight: 100, total: 7, current: 2 };
        assert_eq!(states, BTreeMap::from([(("dist_rtsp".into(), "dist-1".into()), wanted)]));
        assert!(parse_states("").is_err());
        assert!(parse_states("# pxname,svname\na,b\n").is_err());
    }
}
