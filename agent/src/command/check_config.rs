//! `mtxfleet check-config`: all errors at once.

use std::path::PathBuf;

use super::output::say;
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub struct CheckConfig {
    file: PathBuf,
}

impl CheckConfig {
    pub fn run(self) -> anyhow::Result<()> {
        let config = Config::load(&self.file)?;
        let orchestrates = match (config.orchestrator.enabled, config.orchestrator.dry_run) {
            (false, _) => "reports and drains only",
            (true, true) => "stands for orchestrator, as a dry run",
            (true, false) => "stands for orchestrator",
        };
        say(format!(
            "{} is good: {} node {} of fleet {}, which {orchestrates}\n",
            self.file.display(),
            config.node.role,
            config.node.id,
            config.cluster.name
        ))
    }
}
