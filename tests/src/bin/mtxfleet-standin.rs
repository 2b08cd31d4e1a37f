//! `mtxfleet-standin CONFIG.yml`: serves RTSP, API and metrics in the place of MediaMTX. See `mtxfleet_tests::standin`.

use std::{io::IsTerminal, path::PathBuf, process::ExitCode, sync::atomic::Ordering};

use clap::Parser;
use mtxfleet_tests::standin::{self, config::Config};

/// A small stand-in for MediaMTX: RTSP over TCP, API and metrics, from the same configuration file.
#[derive(Debug, Parser)]
#[command(version = standin::VERSION)]
struct Arguments {
    /// The mediamtx.yml to serve.
    config: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal()).init();
    match serve(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Until SIGTERM or SIGINT, which end it at once, as they end the real one. SIGUSR1 makes what it pulls stand still.
async fn serve(arguments: Arguments) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let yaml = std::fs::read_to_string(&arguments.config)
        .map_err(|error| anyhow::anyhow!("{}: {error}", arguments.config.display()))?;
    let config = Config::parse(&yaml)?;
    let mut still = signal(SignalKind::user_defined1())?;
    tokio::spawn(async move {
        while still.recv().await.is_some() {
            standin::STILL.store(true, Ordering::Relaxed);
        }
    });
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        ended = standin::run(config) => ended,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}
