//! redis-server.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::address::Loopback;
use super::process::{Process, Recipe};
use super::programs;
use super::wait::{PATIENCE, wait_for};

/// What a Redis knows after it was killed and started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    /// Nothing: as after a failover to an empty replica.
    Nothing,
    /// Everything: append-only file, written at every command.
    Everything,
}

/// The lab's Redis.
#[derive(Debug)]
pub struct Redis {
    pub process: Process,
    address: SocketAddr,
}

impl Redis {
    /// # Errors
    /// When redis-server is not installed or does not answer.
    pub async fn start(loopback: &mut Loopback, keeps: Keeps, dir: &Path, logs: &Path) -> Result<Self> {
        let address = loopback.port()?;
        let data = dir.join("redis");
        std::fs::create_dir_all(&data)?;
        let append_only = if keeps == Keeps::Everything { "yes" } else { "no" };
        let recipe = Recipe::new("redis", programs::find("redis-server")?)
            .args(["--bind", &address.ip().to_string(), "--port", &address.port().to_string()])
            .args(["--daemonize", "no", "--protected-mode", "no", "--save", ""])
            .args(["--appendonly", append_only, "--appendfsync", "always", "--dir", &data.display().to_string()]);
        let mut redis = Self { process: recipe.start(logs)?, address };
        redis.wait_ready().await?;
        Ok(redis)
    }

    /// `redis://host:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// A connection for looking at what the fleet wrote.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn connect(&self) -> Result<redis::aio::MultiplexedConnection> {
        let client = redis::Client::open(self.url())?;
        client.get_multiplexed_async_connection().await.with_context(|| format!("Redis at {}", self.address))
    }

    /// Starts it again after [`Process::kill`].
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.restart()?;
        self.wait_ready().await
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let client = redis::Client::open(self.url())?;
        wait_for("Redis to answer", PATIENCE, async || -> Result<()> {
            self.process.check_alive()?;
            let mut connection = client.get_multiplexed_async_connection().await?;
            redis::cmd("PING").query_async::<String>(&mut connection).await?;
            Ok(())
        })
        .await
    }
}
