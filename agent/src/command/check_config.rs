//! `mtxfleet check-config`: all errors at once.

use std::path::PathBuf;

use crate::config::Config;

#[derive(Debug, clap::Args)]
pub struct CheckConfig {
    file: PathBuf,
}

impl CheckConfig {
    pub fn run(self) -> anyhow::Result<()> {
        let config = Config::load(&self.file)?;
        println!(
            "{} is good: {} node {} of fleet {}",
            self.file.display(),
            config.node.role,
            config.node.id,
            config.cluster.name
        );
        Ok(())
    }
}
