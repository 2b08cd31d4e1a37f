//! `haproxy.cfg`: one balancer for the ingestion nodes, the distribution nodes, or both.
//!
//! | frontend | mode | rule |
//! |---|---|---|
//! | ingestion RTSP | tcp | `leastconn` |
//! | distribution RTSP | tcp | by stream: the whole path of the first request, without its query, with bounded load |
//! | distribution HLS, WHEP | http | by stream, with a cookie that holds a viewer where its session lives |
//!
//! Every server has a health check, since an agent that falls silent changes nothing, and an agent check beside it,
//! on which the agent says `drain` and `ready`. There is no `on-marked-down`: no check may cut a live session.
//! Written for HAProxy 2.6 and later (its Configuration Manual, sections 4 and 5).

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::setting::{self, InvalidSetting, invalid};

mod backend;

/// Settings of one balancer; [`Haproxy::new`] fills in all that has a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Haproxy {
    /// Name of this balancer, the first part of what `agent-send` says; different for each balancer.
    pub name: String,
    /// Unix socket for `show stat` and `set server` (none).
    pub stats_socket: Option<String>,
    /// Connections at once (as many as the limit on open files allows, each taking two; HAProxy does not start where
    /// this asks for more).
    pub max_connections: Option<u32>,
    /// Time between two agent checks (500 ms): a drain is out of the balancer after at most this.
    pub agent_interval: Duration,
    /// Time between two health checks (1 s); two that fail take a server out.
    pub check_interval: Duration,
    /// Time to connect to a server (2 s); then another is tried.
    pub connect_timeout: Duration,
    /// An RTSP connection on which nothing passes for so long is closed (1 h).
    pub tunnel_timeout: Duration,
    /// Send the PROXY protocol, version 2, to RTSP servers (false); they need `trusted_proxies`, and members then
    /// still connect without it.
    pub send_proxy: bool,
    /// DNS, for [`Servers::Srv`] (none).
    pub resolvers: Vec<SocketAddr>,
    pub ingestion: Option<Frontend>,
    pub distribution: Option<DistributionFrontends>,
}

/// One address that clients connect to, and the servers behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frontend {
    pub bind: SocketAddr,
    pub servers: Servers,
}

/// RTSP always; HLS and WHEP where they are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistributionFrontends {
    pub rtsp: Frontend,
    #[serde(default)]
    pub hls: Option<Frontend>,
    #[serde(default)]
    pub whep: Option<Frontend>,
    /// How far a server may be over the mean before its streams spread, in percent, over 100 (150). With few
    /// connections per server a stream spreads early: at 150, three servers hold two connections as one each.
    #[serde(default = "default_balance_factor")]
    pub balance_factor: u32,
}

const fn default_balance_factor() -> u32 {
    150
}

impl DistributionFrontends {
    #[must_use]
    pub const fn rtsp_only(rtsp: Frontend) -> Self {
        Self { rtsp, hls: None, whep: None, balance_factor: default_balance_factor() }
    }
}

/// Where the servers of a backend come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Servers {
    List(Vec<Server>),
    /// SRV records of `name`, up to `slots` servers; agents answer on `agent_port` of the server's own address. The
    /// `agent-send` line then names no server: HAProxy has no variable for it.
    Srv {
        name: String,
        slots: u16,
        agent_port: u16,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// The node's id.
    pub name: String,
    /// `host:port`.
    pub address: String,
    /// Where the node's agent answers agent checks.
    pub agent: SocketAddr,
}

impl Server {
    pub fn new(name: impl Into<String>, address: impl ToString, agent: SocketAddr) -> Self {
        Self { name: name.into(), address: address.to_string(), agent }
    }
}

impl Haproxy {
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            stats_socket: None,
            max_connections: None,
            agent_interval: Duration::from_millis(500),
            check_interval: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(2),
            tunnel_timeout: Duration::from_secs(3600),
            send_proxy: false,
            resolvers: Vec::new(),
            ingestion: None,
            distribution: None,
        }
    }

    /// The text of `haproxy.cfg`.
    ///
    /// # Errors
    /// [`InvalidSetting`] for the first setting that HAProxy would refuse or read as something else.
    pub fn render(&self) -> Result<String, InvalidSetting> {
        self.check()?;
        let mut out = String::from("# Balancer of mtxfleet, for HAProxy 2.6. Rendered: edit its settings instead.\n");
        self.render_head(&mut out);
        if let Some(ingestion) = &self.ingestion {
            backend::ingestion(self, ingestion, &mut out);
        }
        if let Some(distribution) = &self.distribution {
            backend::distribution(self, distribution, &mut out);
        }
        Ok(out)
    }

    fn render_head(&self, out: &mut String) {
        out.push_str("global\n");
        out.push_str("    log stdout format raw local0 notice\n");
        if let Some(connections) = self.max_connections {
            out.push_str(&format!("    maxconn {connections}\n"));
        }
        if let Some(path) = &self.stats_socket {
            out.push_str(&format!("    stats socket {path} mode 660 level admin\n"));
        }
        out.push_str("\ndefaults\n    log global\n    option dontlognull\n");
        out.push_str("    # A server that died since its last check: the connection goes to another at once.\n");
        out.push_str("    option redispatch 1\n    retries 3\n");
        out.push_str(&format!("    timeout connect {}\n", setting::duration(self.connect_timeout)));
        out.push_str("    timeout check 2s\n    timeout client 60s\n    timeout server 60s\n");
        out.push_str("    timeout client-fin 10s\n    timeout server-fin 10s\n");
        out.push_str("    timeout http-request 10s\n    timeout http-keep-alive 30s\n");
        out.push_str("    # A published or read stream: both ends talk, one of them rarely.\n");
        out.push_str(&format!("    timeout tunnel {}\n", setting::duration(self.tunnel_timeout)));
        if !self.resolvers.is_empty() {
            out.push_str("\nresolvers fleet\n");
            for (index, address) in self.resolvers.iter().enumerate() {
                out.push_str(&format!("    nameserver dns{} {address}\n", index + 1));
            }
            out.push_str("    accepted_payload_size 8192\n    resolve_retries 3\n");
            out.push_str("    timeout resolve 500ms\n    timeout retry 500ms\n    hold valid 500ms\n");
            out.push_str("    # A name server that is away or answers nonsense must not empty a backend.\n");
            out.push_str("    hold other 24h\n    hold refused 24h\n    hold nx 24h\n    hold timeout 24h\n");
            out.push_str("    # A record that is gone from a good answer is gone.\n    hold obsolete 2s\n");
        }
    }

    fn check(&self) -> Result<(), InvalidSetting> {
        setting::name("name", &self.name)?;
        if let Some(path) = &self.stats_socket {
            setting::word("stats_socket", path)?;
        }
        if self.max_connections == Some(0) {
            return invalid("max_connections", "give at least 1");
        }
        for (name, value) in [
            ("agent_interval", self.agent_interval),
            ("check_interval", self.check_interval),
            ("connect_timeout", self.connect_timeout),
            ("tunnel_timeout", self.tunnel_timeout),
        ] {
            setting::positive(name, value)?;
        }
        let mut frontends = Vec::new();
        frontends.extend(self.ingestion.as_ref().map(|frontend| ("ingestion", frontend)));
        if let Some(distribution) = &self.distribution {
            frontends.push(("distribution.rtsp", &distribution.rtsp));
            frontends.extend(distribution.hls.as_ref().map(|frontend| ("distribution.hls", frontend)));
            frontends.extend(distribution.whep.as_ref().map(|frontend| ("distribution.whep", frontend)));
            if !(101..=10_000).contains(&distribution.balance_factor) {
                return invalid("distribution.balance_factor", "give 101 to 10000 percent, such as 150");
            }
        }
        if frontends.is_empty() {
            return invalid("ingestion, distribution", "give at least one of them, or there is nothing to balance");
        }
        for (name, frontend) in &frontends {
            self.check_servers(name, &frontend.servers)?;
        }
        let listeners: Vec<_> = frontends.iter().map(|(name, frontend)| (*name, frontend.bind)).collect();
        setting::distinct(&listeners)
    }

    fn check_servers(&self, frontend: &str, servers: &Servers) -> Result<(), InvalidSetting> {
        match servers {
            Servers::List(list) => {
                for (index, server) in list.iter().enumerate() {
                    let at = format!("{frontend}.servers[{index}]");
                    setting::name(&format!("{at}.name"), &server.name)?;
                    setting::word(&format!("{at}.address"), &server.address)?;
                    if list[..index].iter().any(|other| other.name == server.name) {
                        return invalid(&at, format!("{} is there twice; give each server once", server.name));
                    }
                }
                Ok(())
            }
            Servers::Srv { name, slots, .. } => {
                setting::word(&format!("{frontend}.servers.name"), name)?;
                if *slots == 0 || self.resolvers.is_empty() {
                    return invalid(&format!("{frontend}.servers"), "SRV needs at least one slot, and `resolvers`");
                }
                Ok(())
            }
        }
    }
}
