//! A whole fleet on one machine, from the real parts, on loopback addresses and free ports.
//!
//! ```text
//! cameras (ffmpeg) --> HAProxy --> ingestion nodes  <--302--  distribution nodes <-- HAProxy <-- workers, viewers
//!                                  MediaMTX + agent           MediaMTX + agent
//!                                                    Redis
//! ```
//! Everything that [`Builder::start`] starts ends with the [`Lab`], or with this process however it ends.

pub mod address;
pub mod agent;
pub mod audience;
pub mod balancer;
pub mod browser;
pub mod camera;
pub mod camera_box;
pub mod cloud;
pub mod cycles;
pub mod drain;
pub mod leadership;
pub mod media_server;
pub mod node;
pub mod prober;
pub mod process;
pub mod programs;
pub mod pulled_camera;
pub mod python;
pub mod reader;
pub mod redis;
pub mod relay;
pub mod wait;
pub mod web_viewer;
pub mod worker;
pub mod worker_process;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use mediamtx_config::{Frontend, Server, Servers};
use mtxfleet_wire::{Liveness, NodeId, NodeState, Role, ServerHealth};

use address::Loopback;
use balancer::Balancer;
use camera::{Camera, CameraKind};
use cloud::{Cloud, CloudSettings};
use node::{Node, Settings};
use pulled_camera::PulledCamera;
use reader::ReconnectingReader;
use redis::{Keeps, Redis};
use wait::{PATIENCE, wait_for};
use worker::Worker;

use crate::server_binary::{self, ServerBinary};

/// Name of the lab's fleet.
pub const CLUSTER: &str = "lab";

/// What a lab is made of; [`Builder::start`] starts it.
#[derive(Debug, Clone)]
pub struct Builder {
    ingestion: usize,
    distribution: usize,
    cameras: Vec<CameraKind>,
    pulled: Vec<CameraKind>,
    redis: Option<Keeps>,
    server: Option<ServerBinary>,
    settings: Settings,
    cloud: Option<CloudSettings>,
    web: bool,
}

impl Builder {
    /// Number of ingestion nodes (1).
    #[must_use]
    pub const fn ingestion(mut self, nodes: usize) -> Self {
        self.ingestion = nodes;
        self
    }

    /// Number of distribution nodes (3).
    #[must_use]
    pub const fn distribution(mut self, nodes: usize) -> Self {
        self.distribution = nodes;
        self
    }

    /// Cameras `cam1`, `cam2`, ... of these kinds (none).
    #[must_use]
    pub fn cameras(mut self, kinds: impl Into<Vec<CameraKind>>) -> Self {
        self.cameras = kinds.into();
        self
    }

    /// Cameras of these kinds that wait to be pulled (none), named as those that publish, and numbered after them. No
    /// node pulls them before [`Lab::pull`].
    #[must_use]
    pub fn pulled(mut self, kinds: impl Into<Vec<CameraKind>>) -> Self {
        self.pulled = kinds.into();
        self
    }

    /// Redis, and what it keeps when it is killed; `None` leaves it out (keeps nothing).
    #[must_use]
    pub const fn redis(mut self, redis: Option<Keeps>) -> Self {
        self.redis = redis;
        self
    }

    /// The media server (whichever is found, the real one first).
    #[must_use]
    pub fn server(mut self, server: ServerBinary) -> Self {
        self.server = Some(server);
        self
    }

    /// All distribution nodes come from a local cloud and not from [`Builder::distribution`]: their orchestrator grows and
    /// shrinks the cluster.
    #[must_use]
    pub fn cloud(mut self, settings: CloudSettings) -> Self {
        self.distribution = 0;
        self.cloud = Some(settings);
        self
    }

    /// Distribution nodes serve browsers, too: HLS and WebRTC.
    #[must_use]
    pub const fn web(mut self) -> Self {
        self.web = true;
        self
    }

    /// How the agents' drains are set.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Starts everything, and waits until the fleet is whole and every camera flows.
    ///
    /// # Errors
    /// When a part does not come up; the message holds the end of its log.
    pub async fn start(self) -> Result<Lab> {
        let server = match self.server {
            Some(server) => server,
            // May download a release: blocks.
            None => tokio::task::spawn_blocking(server_binary::find).await??,
        };
        let folder = tempfile::Builder::new().prefix("mtxfleet-lab-").tempdir().context("a folder for the lab")?;
        let logs = folder.path().join("logs");
        std::fs::create_dir(&logs)?;
        let mut loopback = Loopback::next();
        let redis = match self.redis {
            Some(keeps) => Some(Redis::start(&mut loopback, keeps, folder.path(), &logs).await?),
            None => None,
        };

        let mut planned = Vec::new();
        for (role, short, count) in
            [(Role::Ingestion, "ingest", self.ingestion), (Role::Distribution, "dist", self.distribution)]
        {
            for number in 1..=count {
                let mut plan = node::Plan::next(NodeId::new(format!("{short}-{number}"))?, role, &mut loopback)?;
                if self.web && role == Role::Distribution {
                    plan.at.web = Some(media_server::Web::next(&mut loopback)?);
                }
                planned.push(plan);
            }
        }
        let (half, other) = (uuid::Uuid::new_v4().into_bytes(), uuid::Uuid::new_v4().into_bytes());
        let cluster_key: [u8; 32] = std::array::from_fn(|at| if at < 16 { half[at] } else { other[at - 16] });
        let shared = node::Shared {
            binary: server.clone(),
            agent: programs::of_workspace("mtxfleet")?,
            credential: node::fleet_credential(&cluster_key),
            cluster_key: node::hex(&cluster_key),
            token: uuid::Uuid::new_v4().simple().to_string(),
            redis: redis.as_ref().map(Redis::url),
            seeds: planned.iter().map(|plan| plan.gossip).collect(),
            settings: self.settings,
        };
        let mut nodes = Vec::new();
        for plan in planned {
            nodes.push(Node::start(plan, &shared, folder.path(), &logs).await?);
        }
        let cloud = match self.cloud {
            Some(settings) => Some(Cloud::start(settings, &shared, &mut loopback, folder.path(), &logs).await?),
            None => None,
        };
        let servers = |role: Role| -> Vec<Server> {
            let of_role = nodes.iter().filter(|node| node.role == role);
            of_role.map(|node| Server::new(node.id.as_str(), node.server.at.rtsp, node.agent_check)).collect()
        };
        let (ingestion, mut distribution) = (servers(Role::Ingestion), servers(Role::Distribution));
        distribution.extend(cloud.iter().flat_map(Cloud::servers));
        let of_web = |bind: std::net::SocketAddr, at: fn(media_server::Web) -> std::net::SocketAddr| {
            let server = |node: &Node| Some(Server::new(node.id.as_str(), at(node.server.at.web?), node.agent_check));
            Frontend { bind, servers: Servers::List(nodes.iter().filter_map(server).collect()) }
        };
        let web = if self.web {
            let (hls, whep) = (of_web(loopback.port()?, |web| web.hls), of_web(loopback.port()?, |web| web.whep));
            Some(balancer::Web { hls, whep })
        } else {
            None
        };
        let balancer = Balancer::start(&mut loopback, ingestion, distribution, web, folder.path(), &logs).await?;
        let token = shared.token.clone();
        let mut lab =
            Lab { cameras: Vec::new(), pulled: Vec::new(), balancer, nodes, cloud, redis, server, token, folder };
        lab.wait_whole().await?;
        let published = self.cameras.len();
        for (index, kind) in self.pulled.into_iter().enumerate() {
            let name = format!("cam{}", published + index + 1);
            lab.pulled.push(PulledCamera::start(&name, kind, lab.folder.path(), &logs).await?);
        }
        for (index, kind) in self.cameras.into_iter().enumerate() {
            let to = lab.balancer.ingest.to_string();
            lab.cameras.push(Camera::start(&format!("cam{}", index + 1), kind, &to, &logs)?);
        }
        lab.wait_cameras_flow().await?;
        Ok(lab)
    }
}

/// A running fleet. Dropping it stops every part of it.
#[derive(Debug)]
pub struct Lab {
    // In the order in which they are stopped.
    pub cameras: Vec<Camera>,
    pub pulled: Vec<PulledCamera>,
    pub balancer: Balancer,
    pub nodes: Vec<Node>,
    /// Where its distribution nodes come from, in a lab that was built with a cloud.
    pub cloud: Option<Cloud>,
    pub redis: Option<Redis>,
    /// Which server the nodes run.
    pub server: ServerBinary,
    /// Bearer token of every agent.
    pub token: String,
    folder: tempfile::TempDir,
}

impl Lab {
    #[must_use]
    pub fn builder() -> Builder {
        Builder {
            ingestion: 1,
            distribution: 3,
            cameras: Vec::new(),
            pulled: Vec::new(),
            redis: Some(Keeps::Nothing),
            server: None,
            settings: Settings::default(),
            cloud: None,
            web: false,
        }
    }

    /// Where the parts keep their files and logs, until the lab is dropped.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.folder.path().join("logs")
    }

    /// # Errors
    /// When there is no such node.
    pub fn node(&self, id: &NodeId) -> Result<&Node> {
        self.nodes.iter().find(|node| node.id == *id).with_context(|| format!("the lab has no node {id}"))
    }

    /// # Errors
    /// When there is no such node.
    pub fn node_mut(&mut self, id: &NodeId) -> Result<&mut Node> {
        self.nodes.iter_mut().find(|node| node.id == *id).with_context(|| format!("the lab has no node {id}"))
    }

    /// Nodes of one role.
    pub fn of_role(&self, role: Role) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |node| node.role == role)
    }

    /// Makes an ingestion node pull a camera, as an operator would: by a path of MediaMTX.
    ///
    /// # Errors
    /// When there is no such node or camera, or MediaMTX refuses.
    pub async fn pull(&self, node: &NodeId, camera: &str) -> Result<()> {
        let known = self.pulled.iter().find(|pulled| pulled.name == camera);
        let url = known.with_context(|| format!("no camera {camera} waits to be pulled"))?.url();
        let api = self.node(node)?.server.at.api;
        let path = serde_json::json!({ "source": url, "rtspTransport": "tcp" });
        let add = agent::client().post(format!("http://{api}/v3/config/paths/add/{camera}")).json(&path);
        add.send().await?.error_for_status().with_context(|| format!("{node} does not take the path {camera}"))?;
        Ok(())
    }

    /// Waits until every node sees a stream owned, by this node, and delivering.
    ///
    /// # Errors
    /// When that is not so in time.
    pub async fn wait_owned(&self, stream: &str, owner: &NodeId, bound: Duration) -> Result<()> {
        for node in &self.nodes {
            let what = format!("{} to see {stream} flow at {owner}", node.id);
            wait_for(what, bound, async || -> Result<()> {
                let streams = node.agent.streams().await?;
                let mut of_stream = streams.iter().filter(|s| s.stream.name.as_str() == stream);
                let owns = |s: &mtxfleet_wire::StreamView| s.node == *owner && s.stream.owned && s.stream.flowing;
                ensure!(of_stream.any(owns), "streams: {streams:?}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// What the camera sends: a plain reader at the camera itself where it waits to be pulled, else at its ingestion
    /// node, which no drain of a distribution node touches.
    ///
    /// # Errors
    /// When no ingestion node owns the stream.
    pub async fn record_camera(&self, stream: &str) -> Result<ReconnectingReader> {
        if let Some(camera) = self.pulled.iter().find(|camera| camera.name == stream) {
            return Ok(ReconnectingReader::start(&camera.url()));
        }
        Ok(ReconnectingReader::start(&self.url_at_owner(stream).await?))
    }

    /// Where a stream is read straight from the node that has it from its camera.
    ///
    /// # Errors
    /// When no ingestion node owns it.
    pub async fn url_at_owner(&self, stream: &str) -> Result<String> {
        for node in self.of_role(Role::Ingestion) {
            let streams = node.agent.streams().await?;
            if streams.iter().any(|s| s.node == node.id && s.stream.owned && s.stream.name.as_str() == stream) {
                return Ok(format!("rtsp://{}/{stream}", node.server.at.rtsp));
            }
        }
        bail!("no ingestion node owns {stream}")
    }

    /// A plain reader through the load balancer, which connects again whenever it is cut off.
    #[must_use]
    pub fn plain_reader(&self, stream: &str) -> ReconnectingReader {
        ReconnectingReader::start(&format!("rtsp://{}/{stream}", self.balancer.live))
    }

    /// An AI worker with two legs at two nodes.
    ///
    /// # Errors
    /// When it cannot open the stream.
    pub async fn redundant_worker(&self, id: &str, stream: &str) -> Result<Worker> {
        Worker::open(mtxfleet_ai_client::StreamConfig { redundancy: 2, ..self.worker_config(id, stream) }).await
    }

    /// An AI worker through the load balancer.
    ///
    /// # Errors
    /// When it cannot open the stream.
    pub async fn worker(&self, id: &str, stream: &str) -> Result<Worker> {
        Worker::open(self.worker_config(id, stream)).await
    }

    fn worker_config(&self, id: &str, stream: &str) -> mtxfleet_ai_client::StreamConfig {
        let url = format!("rtsp://{}", self.balancer.live);
        mtxfleet_ai_client::StreamConfig {
            redis: self.redis.as_ref().map(Redis::url),
            agents: self.nodes.iter().map(|node| node.agent.url()).collect(),
            worker_token: Some(self.token.clone()),
            ..mtxfleet_ai_client::StreamConfig::new(stream, id, url, CLUSTER)
        }
    }

    /// Waits until every node sees every node alive and in service, and HAProxy sees all servers up.
    async fn wait_whole(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.server.wait_ready().await?;
        }
        let of_cloud = self.cloud.as_ref().map_or(0, Cloud::at_start);
        let (count, redis) = (self.nodes.len() + of_cloud, self.redis.is_some());
        for node in &mut self.nodes {
            let what = format!("{} to see {count} nodes in service", node.id);
            wait_for(what, PATIENCE, async || -> Result<()> {
                node.agent.process.check_alive()?;
                let fleet = node.agent.fleet().await?;
                let fit = |member: &&mtxfleet_wire::MemberView| {
                    let serves = member.load.as_ref().is_some_and(|load| {
                        load.state == NodeState::Active && load.server == ServerHealth::Up && load.redis == redis
                    });
                    member.liveness == Liveness::Alive && serves
                };
                let seen: Vec<&str> = fleet.members.iter().filter(fit).map(|member| member.node.as_str()).collect();
                ensure!(seen.len() == count, "only {seen:?} of {count}");
                Ok(())
            })
            .await
            .with_context(|| format!("log of {} ends:\n{}", node.id, node.agent.process.log_tail()))?;
        }
        let balancer = &mut self.balancer;
        wait_for("HAProxy to see every server up", PATIENCE, async || -> Result<()> {
            balancer.process.check_alive()?;
            for ((backend, server), state) in balancer.statistics().servers().await? {
                let is_slot = of_cloud > 0 && backend == balancer::READERS;
                ensure!(is_slot || state.status == "UP", "{backend}/{server} is {}", state.status);
            }
            Ok(())
        })
        .await?;
        if of_cloud > 0 {
            self.wait_cloud_nodes(of_cloud, PATIENCE).await?;
        }
        Ok(())
    }

    /// Waits until a node is in service, as it says itself, every other one sees it and HAProxy does.
    ///
    /// # Errors
    /// When it is not in time.
    pub async fn wait_in_service(&self, id: &NodeId, bound: Duration) -> Result<()> {
        wait_for(format!("{id} to be in service"), bound, async || -> Result<()> {
            for node in &self.nodes {
                let fleet = node.agent.fleet().await?;
                let seen = fleet.members.iter().find(|member| member.node == *id);
                let state = seen.and_then(|member| member.load.as_ref()).map(|load| load.state);
                ensure!(state == Some(NodeState::Active), "{} sees it as {state:?}", node.id);
            }
            if self.node(id)?.role == Role::Distribution {
                let state = self.balancer.statistics().reader_backend(id).await?;
                ensure!(state.status == "UP", "HAProxy sees it as {}", state.status);
            }
            Ok(())
        })
        .await
    }

    /// Waits until every camera's stream is owned and delivers, as every node sees it.
    async fn wait_cameras_flow(&mut self) -> Result<()> {
        for camera in &mut self.cameras {
            for node in &self.nodes {
                let what = format!("{} to see {} flow", node.id, camera.name);
                wait_for(what, PATIENCE, async || -> Result<()> {
                    camera.process.check_alive()?;
                    let streams = node.agent.streams().await?;
                    let mut of_camera = streams.iter().filter(|s| s.stream.name.as_str() == camera.name);
                    ensure!(of_camera.any(|s| s.stream.owned && s.stream.flowing), "streams: {streams:?}");
                    Ok(())
                })
                .await?;
            }
        }
        Ok(())
    }

    /// The distribution nodes that have legs of workers on a stream, and how many, as their own agents count them.
    ///
    /// # Errors
    /// When an agent does not answer.
    pub async fn legs_of(&self, stream: &str) -> Result<Vec<(NodeId, usize)>> {
        let mut counted = Vec::new();
        for node in self.of_role(Role::Distribution) {
            let streams = node.agent.streams().await?;
            let of_stream = streams.iter().filter(|s| s.node == node.id && s.stream.name.as_str() == stream);
            let legs = of_stream.map(|s| s.stream.legs.len()).sum();
            if legs > 0 {
                counted.push((node.id.clone(), legs));
            }
        }
        Ok(counted)
    }

    /// Legs of workers on each distribution node, as its own agent counts them, most first.
    ///
    /// # Errors
    /// When an agent does not answer.
    pub async fn legs(&self) -> Result<Vec<(NodeId, usize)>> {
        let mut apis: Vec<agent::Api> = self.of_role(Role::Distribution).map(|node| node.agent.api.clone()).collect();
        if self.cloud.is_some() {
            apis.extend(self.cloud_nodes().await?.into_iter().map(|node| node.api));
        }
        let mut counted = Vec::new();
        for api in apis {
            let streams = api.streams().await?;
            let legs = streams.iter().filter(|s| s.node == api.node).map(|s| s.stream.legs.len()).sum();
            counted.push((api.node.clone(), legs));
        }
        counted.sort_by_key(|(_, legs)| std::cmp::Reverse(*legs));
        Ok(counted)
    }
}

impl Drop for Lab {
    /// All are asked to end before any is waited for.
    fn drop(&mut self) {
        for camera in &mut self.cameras {
            camera.process.signal(libc::SIGTERM);
        }
        for node in &mut self.nodes {
            node.agent.process.signal(libc::SIGTERM);
            node.server.process.signal(libc::SIGTERM);
        }
        if let Some(cloud) = &mut self.cloud {
            cloud.process.signal(libc::SIGTERM);
        }
        self.balancer.process.signal(libc::SIGTERM);
    }
}

/// One lab at a time in a process: two would share two cores, and time limits would say nothing.
///
/// Tests of a file run side by side; each holds this while its lab runs.
pub async fn alone() -> tokio::sync::OwnedMutexGuard<()> {
    static ALONE: std::sync::OnceLock<Arc<tokio::sync::Mutex<()>>> = std::sync::OnceLock::new();
    ALONE.get_or_init(Arc::default).clone().lock_owned().await
}
