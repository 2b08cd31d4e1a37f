//! `[node]` and `[cluster]`: who this node is, and which fleet it belongs to.

use std::path::PathBuf;

use mtxfleet_wire::{ClusterName, InstanceId, NodeId, Role};

use super::cluster_key::ClusterKey;
use super::section::{Section, parsed};

/// The environment's name of this machine in its cloud; `mtxfleet local-cloud` sets it.
pub const INSTANCE: &str = "MTXFLEET_INSTANCE";

/// `[node]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSection {
    /// Unique in the fleet (the machine's name).
    pub id: NodeId,
    pub role: Role,
    /// Availability zone or rack (empty: unknown).
    pub zone: String,
    /// Where the record of a drain under way is kept (`/var/lib/mtxfleet`).
    pub state_dir: PathBuf,
    /// IP address or name under which other nodes, workers and load balancers reach this one.
    pub advertise: String,
    /// What the cloud calls this machine (the environment's `MTXFLEET_INSTANCE`; none: no cloud started it).
    pub instance: Option<InstanceId>,
}

/// `[cluster]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    pub name: ClusterName,
    /// Seals gossip, and gives the fleet's own credential.
    pub key: ClusterKey,
    /// Accepted beside it while the key is replaced.
    pub next_key: Option<ClusterKey>,
    /// Ingestion nodes that must stay in service when one is drained (1).
    pub min_ingestion: u32,
    /// Distribution nodes that must stay in service when one is drained (2).
    pub min_distribution: u32,
}

impl Cluster {
    /// As gossip takes them: seal with the first, open with any.
    #[must_use]
    pub fn keys(&self) -> Vec<[u8; 32]> {
        std::iter::once(self.key).chain(self.next_key).map(|key| *key.bytes()).collect()
    }

    #[must_use]
    pub const fn minimum(&self, role: Role) -> u32 {
        match role {
            Role::Ingestion => self.min_ingestion,
            Role::Distribution => self.min_distribution,
        }
    }
}

pub(super) fn node(section: &Section<'_>) -> Option<NodeSection> {
    let id = section.optional("id", "the machine's name", "dist-1", parsed::<NodeId>).and_then(|id| {
        id.or_else(|| {
            let name = sysinfo::System::host_name().unwrap_or_default();
            NodeId::new(name)
                .map_err(|error| section.refuse("id", format!("the machine's name does not do: {error}; set node.id")))
                .ok()
        })
    });
    let role = section.required_choice("role", &[("distribution", Role::Distribution), ("ingestion", Role::Ingestion)]);
    let zone = section.read("zone", "", |text| Ok(text.to_owned()));
    let state_dir = section.read("state_dir", "/var/lib/mtxfleet", path);
    let advertise = section.required("advertise", "10.0.0.7", host);
    let default = "`MTXFLEET_INSTANCE` in the environment";
    let instance = section.optional("instance", default, "i-0abc", parsed::<InstanceId>);
    let instance = instance.and_then(|instance| match (instance, std::env::var(INSTANCE)) {
        (None, Ok(text)) if !text.is_empty() => InstanceId::new(text)
            .map(Some)
            .map_err(|error| section.refuse("instance", format!("{INSTANCE} in the environment does not do: {error}")))
            .ok(),
        (instance, _) => Some(instance),
    });
    Some(NodeSection {
        id: id?,
        role: role?,
        zone: zone?,
        state_dir: state_dir?,
        advertise: advertise?,
        instance: instance?,
    })
}

pub(super) fn cluster(section: &Section<'_>) -> Option<Cluster> {
    let name = section.required("name", "prod", parsed::<ClusterName>);
    let key = section.secret("key", "key_file", "64 hexadecimal digits", ClusterKey::from_hex);
    if key.is_some_and(|key| key.is_none()) {
        section.absent_key("key", "is missing; write the 64 hexadecimal digits of openssl rand -hex 32, or key_file");
    }
    let next_key = section.secret("next_key", "next_key_file", "64 hexadecimal digits", ClusterKey::from_hex);
    let min_ingestion = section.integer("min_ingestion", 1, 0..=1000);
    let min_distribution = section.integer("min_distribution", 2, 0..=1000);
    Some(Cluster {
        name: name?,
        key: key??,
        next_key: next_key?,
        min_ingestion: min_ingestion? as u32,
        min_distribution: min_distribution? as u32,
    })
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("must not be empty; write the path of a folder".to_owned()) } else { Ok(text.into()) }
}

/// An IP address (IPv6 without brackets) or a DNS name.
pub(super) fn host(text: &str) -> Result<String, String> {
    let name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_name = !text.is_empty() && text.len() < 254 && text.chars().all(name);
    match text.parse::<std::net::IpAddr>() {
        Ok(ip) if ip.is_unspecified() => {
            Err(format!("{text:?} is no address that others can reach; write this node's own"))
        }
        Ok(_) => Ok(text.to_owned()),
        Err(_) if is_name => Ok(text.to_owned()),
        Err(_) => Err(format!("{text:?} is neither an IP address nor a name; write it without scheme and port")),
    }
}

/// `host:port`, with the brackets that IPv6 needs.
#[must_use]
pub(super) fn host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// `host:port`, checked.
pub(super) fn is_host_port(text: &str) -> Result<String, String> {
    let split = text.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0));
    let fits = split.is_some_and(|(name, _)| host(name.trim_start_matches('[').trim_end_matches(']')).is_ok());
    if fits {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is no host:port; write for example \"127.0.0.1:8554\""))
    }
}
