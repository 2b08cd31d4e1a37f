//! `mtxfleet agent`: builds every edge from the configuration, and runs the event loop over them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use anyhow::Context;
use mtxfleet_ai_client::Credentials;
use mtxfleet_leader::health::replacement::ReplaceSettings;
use mtxfleet_wire::{NodeFacts, Role, RunId, SCHEMA, Terms, UnixMillis};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::config::{Config, InventorySource, LogFormat, Secret, Source};
use crate::edge::availability_file::AvailabilityFile;
use crate::edge::clock::Clock;
use crate::edge::cloud::CloudHandle;
use crate::edge::forwarder::Forwarder;
use crate::edge::gossip::{Gossip, GossipSettings};
use crate::edge::http::{EventFeed, HttpServer, HttpSettings, Metrics, PlaybackSettings, Snapshot};
use crate::edge::load_balancer::{AgentCheck, AgentCheckSettings};
use crate::edge::mediamtx::{LetGo, MediaMtx, MediaMtxSettings, Pulls, Warmer, WarmerSettings, look_at_server};
use crate::edge::registry::{Registry, RegistrySettings};
use crate::edge::resolver::{RelaySettings, Resolver, ResolverLimits, ResolverSettings};
use crate::edge::state_file::{self, StateFile};
use crate::edge::system::MachineSampler;
use crate::edge::webhook::{WebhookSettings, Webhooks};
use crate::edge::{collectors, inventory, tls};
use crate::event_loop::{Edges, EventLoop, Inbox};
use crate::node::cameras::CameraSettings;
use crate::node::cloud::CloudSettings;
use crate::node::controls::SavedControls;
use crate::node::effect::{BalancerWord, Pace};
use crate::node::health::HealthSettings;
use crate::node::leadership::LeadershipSettings;
use crate::node::{Node, Now, Settings};

/// Streams that this node opens for draining neighbours, at most.
const WARM_AT_MOST: usize = 200;

#[derive(Debug, clap::Args)]
pub struct Agent {
    /// The configuration, a TOML file.
    #[arg(long, default_value = "/etc/mtxfleet/agent.toml")]
    config: PathBuf,
}

impl Agent {
    pub async fn run(self) -> anyhow::Result<()> {
        let config = Config::load(&self.config)?;
        log_by(&config);
        tls::install_crypto();
        run(config).await
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    let clock = Clock::start();
    let started = Clock::wall();
    let node_id = config.node.id.clone();
    let metrics = Arc::new(Metrics::default());
    let feed = EventFeed::default();

    let state_file = StateFile::open(&config.node.state_dir, "drain.json")?;
    let terms_file = StateFile::open(&config.node.state_dir, "terms.json")?;
    let controls_file = StateFile::open(&config.node.state_dir, "controls.json")?;
    let paths_file = StateFile::open(&config.node.state_dir, "paths.json")?;
    let generation = state_file::next_generation(&config.node.state_dir, started);
    let (gossip, peers) = Gossip::start(gossip_settings(&config).await?, generation).await?;
    let facts = facts(&config, gossip.advertised(), started);
    gossip.set_facts(&facts).await?;
    let source = config.cameras.as_ref().map(|cameras| &cameras.inventory);
    let (registry, registry_events) = match &config.registry.url {
        Some(url) => {
            let (handle, events) = Registry::start(RegistrySettings {
                url: url.expose().to_owned(),
                cluster: config.cluster.name.clone(),
                timeout: config.registry.timeout,
                event_log_length: config.registry.event_log_length,
                wait_replicas: config.registry.wait_replicas,
                cameras: source == Some(&InventorySource::Redis),
            })?;
            (Some(handle), Some(events))
        }
        None => (None, None),
    };
    let (cloud, cloud_answers) = match &config.cloud {
        Some(cloud) => {
            let (handle, answers) = CloudHandle::new(&cloud.driver, &config.cluster.name, clock)?;
            metrics.register_collector(handle.stats().collector());
            (Some(handle), Some(answers))
        }
        None => (None, None),
    };
    let mediamtx = Arc::new(MediaMtx::new(MediaMtxSettings {
        api: config.mediamtx.api.clone(),
        credentials: config.mediamtx.credentials.clone(),
        timeout: config.mediamtx.timeout,
    })?);
    let paths_gone = loaded(&paths_file).unwrap_or_default();
    let let_go = LetGo::start(Arc::clone(&mediamtx), paths_file, paths_gone);
    let (pulls, paths) = source.map(|_| Pulls::start(Arc::clone(&mediamtx))).unzip();
    let inventory = match source {
        Some(InventorySource::File(file)) => Some(inventory::watch_file(file.clone(), config.cluster.key)),
        Some(InventorySource::Redis) | None => None,
    };
    let warmer = Warmer::new(WarmerSettings {
        rtsp: config.mediamtx.rtsp.clone(),
        credentials: Some(config.cluster.key.fleet_credentials()),
        node: node_id.clone(),
        max: WARM_AT_MOST,
    });
    let resolver = match config.node.role {
        Role::Distribution => Some(Arc::new(Resolver::start(resolver_settings(&config, &facts)).await?)),
        Role::Ingestion => None,
    };
    let (polls_in, polls) = mpsc::channel(64);
    let check = AgentCheckSettings { listen: config.balancer.agent_check };
    let agent_check = Arc::new(AgentCheck::start(check, BalancerWord::Down, polls_in).await?);

    let (snapshot, snapshots) =
        watch::channel(Arc::new(Snapshot::starting(config.cluster.name.as_str(), &node_id, started)));
    let (requests, http) = mpsc::channel(64);
    let secret = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.expose().to_owned());
    let recordings_fetched = Arc::<AtomicU32>::default();
    let http_settings = HttpSettings {
        listen: config.http.listen,
        token: secret(&config.http.token),
        worker_token: secret(&config.http.worker_token),
        playback: PlaybackSettings {
            server: (config.node.role == Role::Ingestion).then(|| config.mediamtx.playback.clone()),
            credentials: config.cluster.key.fleet_credentials(),
            token: secret(&config.http.worker_token).or_else(|| secret(&config.http.token)),
            fetched: Arc::clone(&recordings_fetched),
        },
    };
    let listen = http_settings.listen;
    let server = HttpServer::start(http_settings, snapshots, requests, feed.clone(), Arc::clone(&metrics)).await;
    let server =
        server.with_context(|| format!("cannot serve HTTP on {listen}; choose another address in http.listen"))?;
    let webhooks = Webhooks::start(config.webhooks.iter().map(webhook).collect())?;

    collectors::register(&metrics, &gossip, resolver.as_ref(), &agent_check);
    if let Some(registry) = &registry {
        metrics.register_collector(registry.stats().collector());
    }
    metrics.register_collector(webhooks.collector());

    let saved = loaded(&state_file);
    let terms = loaded(&terms_file).unwrap_or_default();
    let controls = loaded(&controls_file).unwrap_or_default();
    let now = Now { mono: clock.mono(), wall: started };
    let (node, first) = Node::start(node_settings(&config, facts, terms, controls), saved, now);
    let availability = AvailabilityFile::new(&config.node.state_dir);
    let node = node.with_availability(availability.load(), now);
    let (checked_in, checked) = mpsc::channel(8);
    let (pace, paces) = watch::channel(Pace::Calm);
    let (looks_in, looks) = mpsc::channel(1);
    tokio::spawn(look_at_server(
        Arc::clone(&mediamtx),
        clock,
        config.mediamtx.sample_every,
        config.orchestrator.enabled,
        paces,
        looks_in,
    ));

    let forwarder = Forwarder {
        client: reqwest::Client::builder().build()?,
        token: secret(&config.http.worker_token).or_else(|| secret(&config.http.token)),
    };
    let edges = Edges {
        gossip,
        registry,
        cloud,
        mediamtx,
        warmer,
        let_go,
        pulls,
        cluster_key: config.cluster.key,
        resolver,
        agent_check,
        webhooks,
        feed,
        snapshot,
        state_file,
        terms_file,
        controls_file,
        machine: MachineSampler::new(config.mediamtx.recording_dir.clone()),
        recordings_fetched,
        forwarder,
        availability,
        restart_command: config.mediamtx.restart_command.clone(),
        checked: checked_in,
    };
    let inbox =
        Inbox { inventory, paths, peers, registry: registry_events, cloud: cloud_answers, polls, http, looks, checked };
    tracing::info!(
        node = %node_id, role = %config.node.role, cluster = %config.cluster.name, http = %server.address(), "agent started"
    );
    EventLoop::new(clock, config.cluster.name.to_string(), node, edges, pace).run(first, inbox, stop_signal()?).await?;
    tracing::info!("agent stopped");
    Ok(())
}

fn facts(config: &Config, gossip: SocketAddr, started: UnixMillis) -> NodeFacts {
    NodeFacts {
        schema: SCHEMA,
        role: config.node.role,
        zone: config.node.zone.clone(),
        rtsp: config.mediamtx.advertised_rtsp(&config.node.advertise),
        http: config.http.advertise.as_str().trim_end_matches('/').to_owned(),
        gossip: gossip.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started,
        instance: config.node.instance.clone(),
    }
}

fn replace_settings(config: &Config) -> ReplaceSettings {
    let cloud = |cloud: &crate::config::Cloud| ReplaceSettings {
        boot_deadline: cloud.boot_deadline,
        at_most: cloud.replace_at_most,
        ..ReplaceSettings::default()
    };
    config.cloud.as_ref().map(cloud).unwrap_or_default()
}

fn node_settings(config: &Config, facts: NodeFacts, terms: Terms, controls: SavedControls) -> Settings {
    Settings {
        id: config.node.id.clone(),
        facts,
        capacity: config.mediamtx.capacity,
        minimum: config.cluster.minimum(config.node.role),
        anonymous_rtsp: config.mediamtx.rtsp_readers,
        min_disk_free: config.mediamtx.min_disk_free,
        has_registry: config.registry.url.is_some(),
        drain: config.drain.clone(),
        exit_when_drained: config.exit_when_drained,
        dead_after: config.gossip.dead_after,
        cameras: config
            .cameras
            .as_ref()
            .map(|cameras| CameraSettings { settle: cameras.settle, let_go_after: cameras.let_go_after }),
        leadership: LeadershipSettings {
            run: RunId(uuid::Uuid::new_v4().as_u64_pair().0),
            terms,
            candidate: config.orchestrator.enabled,
            lease_ttl: config.registry.lease_ttl,
        },
        orchestrator: config.orchestrator(),
        controls,
        cloud: config
            .cloud
            .as_ref()
            .map(|cloud| CloudSettings { poll_every: cloud.poll_every, boot_deadline: cloud.boot_deadline }),
        own_rtsp: config.mediamtx.rtsp.clone(),
        health: HealthSettings {
            can_restart: !config.mediamtx.restart_command.is_empty(),
            back_off: config.mediamtx.restart_back_off,
            disk_patience: config.mediamtx.disk_patience,
        },
        replace: replace_settings(config),
    }
}

/// What the file holds; when that cannot be read it is said, and nothing is held.
fn loaded<T: Serialize + DeserializeOwned + Send + 'static>(file: &StateFile<T>) -> Option<T> {
    file.load().unwrap_or_else(|error| {
        tracing::error!(error = %chain(&error), "no saved state; repair the file, or remove it");
        None
    })
}

async fn gossip_settings(config: &Config) -> anyhow::Result<GossipSettings> {
    Ok(GossipSettings {
        cluster: config.cluster.name.clone(),
        node: config.node.id.clone(),
        listen: config.gossip.listen,
        advertise: resolve(&config.gossip.advertise, "gossip.advertise").await?,
        keys: config.cluster.keys(),
        seeds: config.gossip.seeds.clone(),
        interval: config.gossip.interval,
        phi: config.gossip.suspect_phi,
        dead_node_grace: config.gossip.dead_node_grace,
        seed_refresh: config.gossip.seed_refresh,
        lose_in_1000: 0,
    })
}

/// This machine's own name, looked up once: an address of it is what gossip carries.
async fn resolve(address: &str, key: &str) -> anyhow::Result<SocketAddr> {
    let found = tokio::net::lookup_host(address).await.with_context(|| format!("{key}: cannot look up {address}"))?;
    let mut found: Vec<SocketAddr> = found.collect();
    found.sort_by_key(SocketAddr::is_ipv6);
    found.first().copied().with_context(|| format!("{key}: {address} has no address"))
}

fn resolver_settings(config: &Config, facts: &NodeFacts) -> ResolverSettings {
    let limits = ResolverLimits {
        hold: config.resolver.hold,
        connections: config.resolver.max_connections,
        ..ResolverLimits::default()
    };
    ResolverSettings {
        listen: config.resolver.listen,
        node: config.node.id.clone(),
        own_rtsp: facts.rtsp.clone(),
        limits,
        relay: (config.distribution.source == Source::Relay).then(|| {
            let fleet = config.cluster.key.fleet_credentials();
            RelaySettings {
                credentials: Credentials { user: fleet.user, password: fleet.password },
                max_streams: config.distribution.relay_max_streams,
            }
        }),
    }
}

fn webhook(webhook: &crate::config::Webhook) -> WebhookSettings {
    WebhookSettings {
        url: webhook.url.clone(),
        secret: webhook.secret.expose().to_owned(),
        events: webhook.events.clone(),
    }
}

fn log_by(config: &Config) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(&config.log.level));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log.format {
        LogFormat::Json => log.json().init(),
        LogFormat::Text => log.with_ansi(false).init(),
    }
}

/// SIGTERM or SIGINT.
pub(super) fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// The error with all its sources: `Display` of ours does not repeat them.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
