//! The agent's configuration: one TOML file, all of its errors at once, each with its line and what to write.
//!
//! Every key with its unit, default and range is in `docs/ref/config.md`, and `docs/ref/agent.toml` is an example with
//! all of them; tests hold both to what is read here.
//!
//! Nothing is fail-first: a section asks its [`section::Section`] for each key, which notes an error and goes on, and
//! what nobody asked for is an unknown key.

use std::path::{Path, PathBuf};

use mtxfleet_leader::engine::Policy;
use mtxfleet_wire::Role;

use crate::config::section::Reader;

mod cameras;
mod cloud;
mod cluster;
pub mod cluster_key;
mod drain;
mod edges;
mod errors;
mod fleet;
mod inventory;
mod orchestrator;
pub mod secret;
mod section;
mod server;
pub(crate) mod units;

pub use cameras::{Cameras, InventorySource};
pub use cloud::{Cloud, CloudDriver};
pub use cluster::{Cluster, INSTANCE, NodeSection};
pub use cluster_key::{ClusterKey, FLEET_USER};
pub use edges::{Balancer, Distribution, Http, Log, LogFormat, Resolver, Source, Webhook};
pub use errors::{ConfigError, ConfigErrors};
pub use fleet::{Gossip, Registry};
pub use inventory::{Camera, Inventory};
pub use orchestrator::{OrchestratorSection, Policies};
pub use secret::Secret;
pub use server::MediaMtx;

/// Everything that an operator can set, checked.
#[derive(Debug, Clone)]
pub struct Config {
    pub node: NodeSection,
    pub cluster: Cluster,
    pub mediamtx: MediaMtx,
    pub gossip: Gossip,
    pub registry: Registry,
    pub http: Http,
    pub resolver: Resolver,
    pub distribution: Distribution,
    pub balancer: Balancer,
    /// `[drain]`, with `expected_pollers` and `quiet` of `[balancer.haproxy]` in it.
    pub drain: mtxfleet_drain::Settings,
    /// `drain.on_complete = "exit"`: the agent ends when a drain has.
    pub exit_when_drained: bool,
    /// `[cloud]` (none: the fleet neither grows nor ends machines).
    pub cloud: Option<Cloud>,
    pub orchestrator: OrchestratorSection,
    /// `[ingestion]` and `[distribution]`, with `orchestrator.dry_run` in them.
    pub policies: Policies,
    /// `[cameras]` (none: cameras publish, and none is pulled).
    pub cameras: Option<Cameras>,
    pub webhooks: Vec<Webhook>,
    pub log: Log,
}

impl Config {
    /// # Errors
    /// Every error of the file, or the one that kept it from being read.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigErrors::one(&file, format!("cannot be read: {error}")))?;
        Self::parse(&text, &file)
    }

    /// The orchestrator that this node stands for, when the fleet has any.
    #[must_use]
    pub fn orchestrator(&self) -> Option<mtxfleet_leader::Orchestrator> {
        self.orchestrator.enabled.then(|| self.policies.orchestrator(self.node.role))
    }

    /// `file_name` is for the errors, and files that it names (`key_file`, `token_file`) are sought from its folder.
    ///
    /// # Errors
    /// Every error of the text.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, ConfigErrors> {
        read(text, file_name).0
    }
}

/// Also gives every key that was asked for, with its default, for the tests of the documentation.
fn read(text: &str, file_name: &str) -> (Result<Config, ConfigErrors>, Vec<section::Asked>) {
    let folder = Path::new(file_name).parent().map(PathBuf::from).unwrap_or_default();
    let (document, syntax) = toml::de::DeTable::parse_recoverable(text);
    let reader = Reader::new(text, folder);
    for error in &syntax {
        reader.syntax(error);
    }
    let config = sections(&reader, document.get_ref());
    let (mut errors, asked) = reader.finish();
    if !syntax.is_empty() {
        // What stands in a line that could not be read is not missing.
        errors.retain(|error| !error.missing);
    }
    match config {
        Some(config) if errors.is_empty() => (Ok(config), asked),
        _ => (Err(ConfigErrors::new(file_name, errors)), asked),
    }
}

fn sections<'a>(reader: &'a Reader<'a>, document: &'a toml::de::DeTable<'a>) -> Option<Config> {
    let root = reader.root(document);
    let node = cluster::node(&root.table("node"));
    let cluster = cluster::cluster(&root.table("cluster"));
    let mediamtx = server::mediamtx(&root.table("mediamtx"));
    let gossip = fleet::gossip(&root.table("gossip"), node.as_ref());
    let registry = fleet::registry(&root.table("registry"));
    let http = edges::http(&root.table("http"), node.as_ref());
    let resolver = edges::resolver(&root.table("resolver"));
    let balancer = edges::balancer(&root.table("balancer"));
    let drain = drain::drain(&root.table("drain"));
    let cloud = cloud::cloud(&root.table("cloud"));
    let has_cloud = cloud.as_ref().is_some_and(Option::is_some);
    let has_registry = registry.as_ref().is_none_or(|registry| registry.url.is_some());
    let orchestrator = orchestrator::orchestrator(&root.table("orchestrator"), has_cloud, has_registry);
    let least = |role| cluster.as_ref().map(|cluster| cluster.minimum(role));
    let ingestion = orchestrator::ingestion(&root.table("ingestion"), least(Role::Ingestion));
    let distribution_table = root.table("distribution");
    let source = edges::distribution(&distribution_table);
    let distribution = orchestrator::distribution(&distribution_table, least(Role::Distribution));
    let role = node.as_ref().map(|node| node.role);
    let cameras = cameras::cameras(&root.table("cameras"), role, has_registry);
    let webhooks = root.tables("webhook").iter().map(edges::webhook).collect::<Option<Vec<_>>>();
    let log = edges::log(&root.table("log"));

    let balancer = balancer?;
    let drain = drain?;
    let orchestrator = orchestrator?;
    let dry_run = orchestrator.dry_run;
    let policies =
        Policies { ingestion: Policy { dry_run, ..ingestion? }, distribution: Policy { dry_run, ..distribution? } };
    Some(Config {
        node: node?,
        cluster: cluster?,
        mediamtx: mediamtx?,
        gossip: gossip?,
        registry: registry?,
        http: http?,
        resolver: resolver?,
        distribution: source?,
        drain: mtxfleet_drain::Settings {
            expected_pollers: balancer.expected_pollers.clone(),
            quiet: balancer.quiet,
            ..drain.settings
        },
        exit_when_drained: drain.exit_when_drained,
        balancer,
        cloud: cloud?,
        orchestrator,
        policies,
        cameras: cameras?,
        webhooks: webhooks?,
        log: log?,
    })
}

#[cfg(test)]
mod tests;
