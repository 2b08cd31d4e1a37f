//! One node of the lab: a media server and the agent beside it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use mediamtx_config::Credential;
use mtxfleet_wire::{NodeId, Role};

use super::CLUSTER;
use super::address::Loopback;
use super::agent::{Agent, client};
use super::media_server::{Listeners, MediaServer};
use super::process::Recipe;
use super::wait::wait_for;
use crate::server_binary::ServerBinary;

/// What a lab sets in its agents' configuration beside addresses.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The `[drain]` table, as TOML.
    pub drain: String,
}

impl Settings {
    /// For the demo: viewers are given 6 s to leave, not a minute.
    #[must_use]
    pub fn demo() -> Self {
        Self { drain: "viewer_window = \"6s\"\nviewer_cut = \"4s\"\n".to_owned() }
    }
}

/// A node before it is started.
#[derive(Debug)]
pub(super) struct Plan {
    id: NodeId,
    role: Role,
    at: Listeners,
    pub(super) gossip: SocketAddr,
    http: SocketAddr,
    agent_check: SocketAddr,
}

impl Plan {
    pub(super) fn next(id: NodeId, role: Role, loopback: &mut Loopback) -> Result<Self> {
        let at = Listeners::next(loopback)?;
        Ok(Self { id, role, at, gossip: loopback.port()?, http: loopback.port()?, agent_check: loopback.port()? })
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
        std::fs::write(&config, agent_config(&plan, shared, &dir)).with_context(|| config.display().to_string())?;
        let recipe = Recipe::new(plan.id.as_str(), &shared.agent)
            .args(["agent", "--config", &config.display().to_string()])
            .env("RUST_LOG", std::env::var("MTXFLEET_LAB_LOG").unwrap_or_else(|_| "info".to_owned()));
        let agent =
            Agent { node: plan.id.clone(), process: recipe.start(logs)?, http: plan.http, token: shared.token.clone() };
        let mut node = Self { id: plan.id, role: plan.role, agent, server, agent_check: plan.agent_check };
        node.wait_agent().await?;
        Ok(node)
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
        wait_for(what, Duration::from_secs(10), async || -> Result<()> {
            self.agent.process.check_alive()?;
            client().get(&url).send().await?.error_for_status()?;
            Ok(())
        })
        .await
        .with_context(|| format!("its log ends:\n{}", self.agent.process.log_tail()))
    }
}

fn agent_config(plan: &Plan, shared: &Shared, dir: &Path) -> String {
    let seeds: Vec<String> =
        shared.seeds.iter().filter(|seed| **seed != plan.gossip).map(|s| format!("{s:?}")).collect();
    let seeds = seeds.iter().map(|seed| format!("\"{seed}\"")).collect::<Vec<_>>().join(", ");
    let registry = shared.redis.as_ref().map(|url| format!("[registry]\nurl = \"{url}\"\n")).unwrap_or_default();
    let Credential { user, password } = &shared.credential;
    format!(
        "[node]\nid = \"{id}\"\nrole = \"{role}\"\nstate_dir = \"{state}\"\nadvertise = \"{ip}\"\n\
         [cluster]\nname = \"{CLUSTER}\"\nkey = \"{key}\"\n\
         [mediamtx]\napi = \"http://{api}\"\nmetrics = \"http://{metrics}\"\nrtsp = \"{rtsp}\"\n\
         user = \"{user}\"\npassword = \"{password}\"\n\
         [gossip]\nlisten = \"{gossip}\"\nseeds = [{seeds}]\n\
         {registry}\
         [http]\nlisten = \"{http}\"\ntoken = \"{token}\"\n\
         [resolver]\nlisten = \"{resolver}\"\n\
         [balancer.haproxy]\nagent_check = \"{agent_check}\"\n\
         [drain]\n{drain}\n",
        id = plan.id,
        role = plan.role,
        state = dir.join("state").display(),
        ip = plan.at.rtsp.ip(),
        key = shared.cluster_key,
        api = plan.at.api,
        metrics = plan.at.metrics,
        rtsp = plan.at.rtsp,
        gossip = plan.gossip,
        http = plan.http,
        token = shared.token,
        resolver = plan.at.resolver,
        agent_check = plan.agent_check,
        drain = shared.settings.drain,
    )
}
