//! Python programs, in a virtual environment that holds what they need and nothing else.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

use super::process::{Process, Recipe};
use super::{CLUSTER, Lab, programs};

/// Path of the built wheel; `make test` sets it.
pub const WHEEL: &str = "MTXFLEET_WHEEL";

/// PyAV and numpy are some 60 MB.
const INSTALL_WITHIN: Duration = Duration::from_secs(300);

/// A virtual environment of its own.
#[derive(Debug)]
pub struct Python {
    program: PathBuf,
}

impl Python {
    /// Installs packages (names for PyPI, or paths of wheels) into a new virtual environment in `folder`.
    ///
    /// # Errors
    /// When they cannot be installed; the message holds what pip said.
    pub async fn install(packages: &[&str], folder: &Path) -> Result<Self> {
        let venv = folder.join("venv");
        run(Command::new(programs::find("python3")?).args(["-m", "venv"]).arg(&venv)).await?;
        let pip = venv.join("bin/pip");
        run(Command::new(pip).args(["install", "--quiet", "--disable-pip-version-check"]).args(packages)).await?;
        Ok(Self { program: venv.join("bin/python") })
    }

    /// How to start a script with some arguments.
    #[must_use]
    pub fn recipe(&self, name: &str, script: &Path, args: &[&str]) -> Recipe {
        Recipe::new(name, self.program.clone()).args([script.display().to_string()]).args(args.iter().copied())
    }

    /// Starts a script as a worker of the lab's fleet. Its standard output is in the log.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn worker(&self, lab: &Lab, name: &str, script: &Path, args: &[&str]) -> Result<Process> {
        let url = format!("rtsp://{}", lab.balancer.live);
        let agents: Vec<String> = lab.nodes.iter().map(|node| node.agent.url()).collect();
        let mut recipe = self
            .recipe(name, script, args)
            .env("MTXFLEET_URL", url)
            .env("MTXFLEET_CLUSTER", CLUSTER)
            .env("MTXFLEET_AGENTS", agents.join(","))
            .env("MTXFLEET_WORKER_TOKEN", lab.token.clone());
        if let Some(redis) = &lab.redis {
            recipe = recipe.env("MTXFLEET_REDIS", redis.url());
        }
        recipe.start(&lab.logs())
    }

    /// Runs a script to its end and gives what it printed.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub async fn script(&self, text: &str) -> Result<String> {
        run(Command::new(&self.program).args(["-c", text])).await
    }

    /// Runs a program that a package brings (`mypy`), to its end, in a folder, and gives what it printed.
    ///
    /// # Errors
    /// When it fails, with what it printed and said.
    pub async fn run(&self, program: &str, args: &[&str], folder: &Path) -> Result<String> {
        run(Command::new(self.program.with_file_name(program)).args(args).current_dir(folder)).await
    }
}

async fn run(command: &mut Command) -> Result<String> {
    let output = tokio::time::timeout(INSTALL_WITHIN, command.kill_on_drop(true).output()).await;
    let output = output.with_context(|| format!("{command:?} took too long"))??;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed:\n{said}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
