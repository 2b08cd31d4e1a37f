//! `mtxfleet relay`: a local RTSP server whose URL never breaks, for programs that know nothing of the fleet.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use mtxfleet_ai_client::{StreamConfig, Trust, Via};
use mtxfleet_relay::{RelayConfig, StreamStatus};

use super::agent::stop_signal;
use crate::edge::tls;

/// How often what every reader got is logged, while there are any.
const TELL_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub struct Relay {
    /// The stable URL without the stream: rtsp://live.example:8554, or rtsps://. User and password may stand in it.
    #[arg(long, env = "MTXFLEET_UPSTREAM", hide_env_values = true)]
    upstream: String,
    /// PEM file with the certificate authorities to trust behind rtsps://, instead of this machine's own.
    #[arg(long, value_name = "FILE", conflicts_with = "upstream_fingerprint")]
    upstream_ca: Option<std::path::PathBuf>,
    /// SHA-256 of the one certificate to trust behind rtsps://, in hexadecimal.
    #[arg(long, value_name = "SHA256")]
    upstream_fingerprint: Option<String>,
    /// Name of the fleet, as in the agents' configuration.
    #[arg(long)]
    cluster: String,
    /// redis://host:port, for notices of drains.
    #[arg(long, env = "MTXFLEET_REDIS", hide_env_values = true)]
    redis: Option<String>,
    /// http://host:port of some agents, comma-separated: the other way for notices.
    #[arg(long, value_delimiter = ',')]
    agents: Vec<String>,
    /// Bearer token for the agents, where they ask workers for one.
    #[arg(long, env = "MTXFLEET_WORKER_TOKEN", hide_env_values = true)]
    worker_token: Option<String>,
    /// Streams are read as worker PREFIX.STREAM; no two relays of a fleet may have the same.
    #[arg(long, default_value = "relay")]
    worker_prefix: String,
    /// Move through the stable URL instead of to the nodes' own addresses.
    #[arg(long)]
    via_stable_url: bool,
    /// Where local readers connect. Keep it on loopback: it asks for no password.
    #[arg(long, default_value = "127.0.0.1:8654")]
    listen: SocketAddr,
    /// Seconds that a stream stays open after its last reader has left.
    #[arg(long, default_value_t = 10)]
    linger: u64,
    /// Streams open at a time.
    #[arg(long, default_value_t = 64)]
    max_streams: usize,
    /// Connections of readers at a time.
    #[arg(long, default_value_t = 256)]
    max_readers: usize,
}

impl Relay {
    pub async fn run(self) -> anyhow::Result<()> {
        let filter = tracing_subscriber::EnvFilter::try_from_default_env();
        let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
        tls::install_crypto();
        let mut stopped = std::pin::pin!(stop_signal()?);
        let relay = mtxfleet_relay::Relay::start(self.config()).await.context("the relay cannot start")?;
        tracing::info!("streams are at rtsp://{}/STREAM", relay.address());
        let mut tell = tokio::time::interval(TELL_EVERY);
        loop {
            tokio::select! {
                () = &mut stopped => break,
                _ = tell.tick() => tell_readers(&relay.status()),
            }
        }
        tracing::info!("ending");
        relay.stop().await;
        Ok(())
    }

    fn config(self) -> RelayConfig {
        let trust = match (self.upstream_ca, self.upstream_fingerprint) {
            (Some(file), _) => Trust::Authorities(file),
            (None, Some(fingerprint)) => Trust::Certificate(fingerprint),
            (None, None) => Trust::Machine,
        };
        let upstream = StreamConfig {
            trust,
            redis: self.redis,
            agents: self.agents,
            worker_token: self.worker_token,
            via: if self.via_stable_url { Via::StableUrl } else { Via::Direct },
            ..StreamConfig::new("", "", self.upstream, self.cluster)
        };
        RelayConfig {
            linger: Duration::from_secs(self.linger),
            max_streams: self.max_streams,
            max_connections: self.max_readers,
            ..RelayConfig::new(self.listen, upstream, self.worker_prefix)
        }
    }
}

fn tell_readers(streams: &[StreamStatus]) {
    for status in streams {
        let discarded: u64 = status.readers.iter().map(|(_, discarded)| discarded).sum();
        tracing::info!(stream = %status.stream, readers = status.readers.len(), discarded, "relayed");
    }
}
