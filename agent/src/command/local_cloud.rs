//! `mtxfleet local-cloud`: autoscaling groups of processes on this machine.

use std::path::PathBuf;

use super::agent::stop_signal;
use crate::edge::tls;
use crate::local_cloud::{self, Settings};

#[derive(Debug, clap::Args)]
pub struct LocalCloud {
    /// Its groups and what an instance is made of, a TOML file.
    #[arg(long)]
    config: PathBuf,
}

impl LocalCloud {
    pub async fn run(self) -> anyhow::Result<()> {
        let settings = Settings::load(&self.config)?;
        let filter = tracing_subscriber::EnvFilter::try_from_default_env();
        let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
        tls::install_crypto();
        local_cloud::run(settings, stop_signal()?).await
    }
}
