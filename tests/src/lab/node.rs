//! One node of the lab: a media server and the agent beside it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use hmac::{Hmac, KeyInit as _, Mac as _};
use mediamtx_config::Credential;
use mtxfleet_wire::{NodeId, Role};
use sha2::Sha256;

use super::address::Loopback;
use super::agent::{Agent, Api, client};
use super::media_server::{Listeners, MediaServer};
use super::process::Recipe;
use super::wait::{PATIENCE, wait_for};
use super::{CLUSTER, balancer};
use crate::server_binary::ServerBinary;

/// What a lab sets in its agents' configuration beside addresses.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Lines of the `[drain]` table (none: the defaults).
    pub drain: String,
    /// Plain RTSP readers count as viewers, who leave in phase 4, and not as workers that cannot be told.
    pub plain_readers_are_viewers: bool,
    /// Lines of the `[cameras]` table on ingestion nodes (none: no such table). The lab's folder is `..`.
    pub cameras: String,
    /// `node.instance` of distribution nodes that the lab starts itself, and no cloud (none).
    pub instance: Option<String>,
    /// More lines of the `[mediamtx]` table (none).
    pub mediamtx: String,
    /// Distribution nodes that relay streams instead of redirecting their server (none).
    pub relaying: Vec<&'static str>,
    /// More tables of the configuration (none).
    pub more: String,
}

impl Settings {
    /// For the demo: viewers are given 6 s to leave, not a minute.
    #[must_use]
    pub fn demo() -> Self {
        let drain = "viewer_window = \"6s\"\nviewer_cut = \"4s\"\n".to_owned();
        Self { drain, plain_readers_are_viewers: true, ..Self::default() }
    }
}

/// A node before it is started.
#[derive(Debug)]
pub(super) struct Plan {
    id: NodeId,
    role: Role,
    pub(super) at: Listeners,
    pub(super) gossip: SocketAddr,
    http: SocketAddr,
    agent_check: SocketAddr,
}

impl Plan {
    pub(super) fn next(id: NodeId, role: Role, loopback: &mut Loopback) -> Result<Self> {
        let at = Listeners::next(loopback)?;
        Ok(Self { id, role, at, gossip: loopback.port()?, http: loopback.port()?, agent_check: loopback.port()? })
    }

    fn fields(&self, shared: &Shared, dir: &Path) -> Fields {
        let others = shared.seeds.iter().filter(|seed| **seed != self.gossip);
        let seeds: Vec<String> = others.map(|seed| format!("\"{seed}\"")).collect();
        Fields {
            id: self.id.to_string(),
            role: self.role,
            state: dir.join("state").display().to_string(),
            ip: self.at.rtsp.ip().to_string(),
            api: self.at.api.to_string(),
            metrics: self.at.metrics.to_string(),
            playback: self.at.playback.to_string(),
            rtsp: self.at.rtsp.to_string(),
            gossip: self.gossip.to_string(),
            seeds: seeds.join(", "),
            http: self.http.to_string(),
            resolver: self.at.resolver.to_string(),
            agent_check: self.agent_check.to_string(),
            balanced_as: self.id.to_string(),
            instance: shared.settings.instance.clone().filter(|_| self.role == Role::Distribution),
            web: self.at.web.is_some(),
            disk: None,
        }
    }
}

/// What all nodes of a lab have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) binary: ServerBinary,
    pub(super) agent: PathBuf,
    pub(super) credential: Credential,
    pub(super) cluster_key: String,
    pub(super) token: String,
    pub(super) redis: Option<String>,
    pub(super) seeds: Vec<SocketAddr>,
    pub(super) settings: Settings,
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    pub id: NodeId,
    pub role: Role,
    pub agent: Agent,
    pub server: MediaServer,
    /// Where HAProxy asks the agent.
    pub agent_check: SocketAddr,
}

impl Node {
    pub(super) async fn start(plan: Plan, shared: &Shared, folder: &Path, logs: &Path) -> Result<Self> {
        let dir = folder.join(plan.id.as_str());
        std::fs::create_dir(&dir)?;
        let server = MediaServer::start(&shared.binary, &plan.id, plan.role, plan.at, &shared.credential, &dir, logs)?;
        let config = dir.join("mtxfleet.toml");
        std::fs::write(&config, agent_config(&plan.fields(shared, &dir), shared))
            .with_context(|| config.display().to_string())?;
        let recipe =
            Recipe::new(plan.id.as_str(), &shared.agent).args(["agent", "--config", &config.display().to_string()]);
        let agent = Agent {
            process: recipe.start(logs)?,
            http: plan.http,
            api: Api { node: plan.id.clone(), url: format!("http://{}", plan.http), token: shared.token.clone() },
        };
        let mut node = Self { id: plan.id, role: plan.role, agent, server, agent_check: plan.agent_check };
        node.wait_agent().await?;
        Ok(node)
    }

    /// Gives the agent another configuration, which it reads when it is started again.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn reconfigure(&self, folder: &Path, change: impl FnOnce(String) -> String) -> Result<()> {
        let config = folder.join(self.id.as_str()).join("mtxfleet.toml");
        let text = std::fs::read_to_string(&config).with_context(|| config.display().to_string())?;
        std::fs::write(&config, change(text)).with_context(|| config.display().to_string())
    }

    /// Starts the agent again after it was killed.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart_agent(&mut self) -> Result<()> {
        self.agent.process.restart()?;
        self.wait_agent().await
    }

    async fn wait_agent(&mut self) -> Result<()> {
        let url = self.agent.url() + "/livez";
        let what = format!("the agent of {} to answer", self.id);
        wait_for(what, PATIENCE, async || -> Result<()> {
            self.agent.process.check_alive()?;
            client().get(&url).send().await?.error_for_status()?;
            Ok(())
        })
        .await
        .with_context(|| format!("its log ends:\n{}", self.agent.process.log_tail()))
    }
}

/// What of an agent's configuration is its own.
#[derive(Debug)]
pub(super) struct Fields {
    pub(super) id: String,
    pub(super) role: Role,
    pub(super) state: String,
    pub(super) ip: String,
    pub(super) api: String,
    pub(super) metrics: String,
    pub(super) playback: String,
    pub(super) rtsp: String,
    pub(super) gossip: String,
    /// TOML, without the brackets.
    pub(super) seeds: String,
    pub(super) http: String,
    pub(super) resolver: String,
    pub(super) agent_check: String,
    /// Its name in HAProxy.
    pub(super) balanced_as: String,
    /// Where it is not in the environment, as a cloud puts it there.
    pub(super) instance: Option<String>,
    /// It serves browsers, too.
    pub(super) web: bool,
    /// Where recordings go, on a disk of a few megabytes.
    pub(super) disk: Option<String>,
}

/// What `docs/ref/config.md` describes. What is not set has its default.
pub(super) fn agent_config(fields: &Fields, shared: &Shared) -> String {
    let registry = shared.redis.as_ref().map(|url| format!("[registry]\nurl = \"{url}\"\n")).unwrap_or_default();
    let backends = match fields.role {
        Role::Ingestion => &[balancer::PUBLISHERS][..],
        Role::Distribution if fields.web => &[balancer::READERS, balancer::HLS, balancer::WHEP],
        Role::Distribution => &[balancer::READERS],
    };
    let poller = |backend: &&str| format!("\"{}/{backend}/{}\"", balancer::NAME, fields.balanced_as);
    let pollers: Vec<String> = backends.iter().map(poller).collect();
    format!(
        r#"
[node]
id = "{id}"
role = "{role}"
state_dir = "{state}"
advertise = "{ip}"
{instance}
[cluster]
name = "{CLUSTER}"
key = "{key}"
[mediamtx]
api = "http://{api}"
metrics = "http://{metrics}"
playback = "http://{playback}"
rtsp = "{rtsp}"
rtsp_readers = "{rtsp_readers}"
{mediamtx}
{disk}
[gossip]
listen = "{gossip}"
seeds = [{seeds}]
{registry}
[http]
listen = "{http}"
token = "{token}"
[resolver]
listen = "{resolver}"
[balancer.haproxy]
agent_check = "{agent_check}"
expected_pollers = [{pollers}]
[drain]
{drain}
{cameras}
{source}
[log]
level = "{log}"
{more}
"#,
        id = fields.id,
        role = fields.role,
        state = fields.state,
        ip = fields.ip,
        key = shared.cluster_key,
        api = fields.api,
        metrics = fields.metrics,
        playback = fields.playback,
        rtsp = fields.rtsp,
        rtsp_readers = if shared.settings.plain_readers_are_viewers { "viewer" } else { "worker" },
        instance = fields.instance.as_ref().map(|id| format!("instance = \"{id}\"")).unwrap_or_default(),
        mediamtx = shared.settings.mediamtx,
        disk = match &fields.disk {
            Some(dir) => format!("recording_dir = \"{dir}\"\nmin_disk_free = \"1MiB\""),
            None => String::new(),
        },
        gossip = fields.gossip,
        seeds = fields.seeds,
        http = fields.http,
        token = shared.token,
        resolver = fields.resolver,
        agent_check = fields.agent_check,
        pollers = pollers.join(", "),
        drain = shared.settings.drain,
        cameras = match fields.role {
            Role::Ingestion if !shared.settings.cameras.is_empty() => format!("[cameras]\n{}", shared.settings.cameras),
            _ => String::new(),
        },
        source = match shared.settings.relaying.contains(&fields.id.as_str()) {
            true => "[distribution]\nsource = \"relay\"",
            false => "",
        },
        more = shared.settings.more,
        log = std::env::var("MTXFLEET_LAB_LOG").unwrap_or_else(|_| "info".to_owned()),
    )
}

/// The fleet's own credential at every server, which agents derive from the cluster key: the first 32 hexadecimal
/// digits of HMAC-SHA256 over a label (`docs/ref/config.md`, `[cluster]`).
pub(super) fn fleet_credential(cluster_key: &[u8; 32]) -> Credential {
    let mut mac = Hmac::<Sha256>::new_from_slice(cluster_key).expect("HMAC takes keys of any length");
    mac.update(b"mtxfleet fleet password v1");
    Credential::new("fleet", hex(&mac.finalize().into_bytes()[..16]))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
