//! `mtxfleet check-config`: all errors at once.

use std::path::PathBuf;

use anyhow::Context as _;

use super::output::say;
use crate::config::{Config, Inventory, InventorySource};

#[derive(Debug, clap::Args)]
pub struct CheckConfig {
    file: PathBuf,
}

impl CheckConfig {
    pub fn run(self) -> anyhow::Result<()> {
        let config = Config::load(&self.file)?;
        if let Some(InventorySource::File(file)) = config.cameras.as_ref().map(|cameras| &cameras.inventory) {
            let shown = file.display().to_string();
            let text =
                std::fs::read_to_string(file).with_context(|| format!("{shown}: cameras.file cannot be read"))?;
            let inventory = Inventory::parse(&text, &shown, &config.cluster.key)?;
            if !inventory.problems.is_empty() {
                return Err(inventory.problems.into());
            }
            say(format!("{shown} is good: {} cameras, inventory {}\n", inventory.cameras.len(), inventory.hash))?;
        }
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
