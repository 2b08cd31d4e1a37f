//! `[gossip]` and `[registry]`: how this node knows the others, and where the outside world sees the fleet.

use std::net::SocketAddr;
use std::time::Duration;

use url::Url;

use super::cluster::{NodeSection, host_port, is_host_port};
use super::secret::Secret;
use super::section::{Section, parsed};
use crate::edge::gossip::Seed;

/// `[gossip]`.
#[derive(Debug, Clone)]
pub struct Gossip {
    /// UDP (`0.0.0.0:7946`).
    pub listen: SocketAddr,
    /// `host:port` at which other nodes reach it (`node.advertise` and the port of `listen`).
    pub advertise: String,
    /// `host:port`, or SRV names (none: this node waits for others to come).
    pub seeds: Vec<String>,
    /// Time between two rounds (200 ms).
    pub interval: Duration,
    /// Suspicion (phi) at which a node is not chosen as a partner of gossip (8).
    pub suspect_phi: f64,
    /// A node silent for so long is dead, if another confirms it (4 s).
    pub dead_after: Duration,
    /// A dead node is forgotten after this (15 min).
    pub dead_node_grace: Duration,
    /// Names among the seeds are looked up again after this (30 s).
    pub seed_refresh: Duration,
}

/// `[registry]`.
#[derive(Debug, Clone)]
pub struct Registry {
    /// `redis://[user:password@]host:port[/db]` (none: no registry). It may hold a password.
    pub url: Option<Secret>,
    /// Bound on a connection attempt and on each command (2 s).
    pub timeout: Duration,
    /// Events kept in the event log, about (10,000).
    pub event_log_length: usize,
    /// How long an orchestrator's lease lasts; it is renewed four times in it (6 s).
    pub lease_ttl: Duration,
    /// Replicas that must have a lease before it counts (0).
    pub wait_replicas: u32,
}

pub(super) fn gossip(section: &Section<'_>, node: Option<&NodeSection>) -> Option<Gossip> {
    let listen = section.read("listen", "0.0.0.0:7946", socket);
    let advertise =
        section.optional("advertise", "`node.advertise` and the port of `listen`", "10.0.0.7:7946", is_host_port);
    let seeds = section.list("seeds", |text| parsed::<Seed>(text).map(|_| text.trim().to_owned()));
    let interval = section.duration("interval", "200ms", "20ms"..="10s");
    let suspect_phi = section.number("suspect_phi", 8.0, 1.0..=100.0);
    let dead_after = section.duration("dead_after", "4s", "500ms"..="10m");
    let dead_node_grace = section.duration("dead_node_grace", "15m", "10s"..="7d");
    let seed_refresh = section.duration("seed_refresh", "30s", "1s"..="1h");
    if let (Some(dead_after), Some(grace)) = (dead_after, dead_node_grace)
        && grace <= dead_after
    {
        section.refuse("dead_node_grace", "must be longer than gossip.dead_after, or the dead are forgotten first");
    }
    let listen = listen?;
    let advertise = advertise?.or_else(|| node.map(|node| host_port(&node.advertise, listen.port())));
    Some(Gossip {
        listen,
        advertise: advertise?,
        seeds: seeds?,
        interval: interval?,
        suspect_phi: suspect_phi?,
        dead_after: dead_after?,
        dead_node_grace: dead_node_grace?,
        seed_refresh: seed_refresh?,
    })
}

pub(super) fn registry(section: &Section<'_>) -> Option<Registry> {
    let url = section.optional("url", "none", "redis://10.0.0.5:6379", |text| {
        // The text is not repeated in the error: it may hold a password.
        let wrong = "is no Redis address; write for example \"redis://10.0.0.5:6379\"";
        let url = Url::parse(text).map_err(|_| wrong.to_owned())?;
        let fits = url.scheme() == "redis" && url.host_str().is_some_and(|host| !host.is_empty());
        if fits { Ok(Secret::new(text)) } else { Err(wrong.to_owned()) }
    });
    let timeout = section.duration("timeout", "2s", "100ms"..="1m");
    let event_log_length = section.integer("event_log_length", 10_000, 100..=10_000_000);
    let lease_ttl = section.duration("lease_ttl", "6s", "1s"..="1m");
    let wait_replicas = section.integer("wait_replicas", 0, 0..=16);
    Some(Registry {
        url: url?,
        timeout: timeout?,
        event_log_length: event_log_length? as usize,
        lease_ttl: lease_ttl?,
        wait_replicas: wait_replicas? as u32,
    })
}

/// An IP address and a port to listen on.
pub(super) fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("{text:?} is no IP address with a port; write IP:PORT, or [IPV6]:PORT (a name cannot be listened on)")
    })
}
