//! `make demo`: a fleet on this machine, a drain, and what it did to every frame.

use std::process::ExitCode;

use clap::Parser;
use mtxfleet_tests::demo;
use tracing_subscriber::EnvFilter;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    // Silent unless asked: RUST_LOG=mtxfleet_ai_client=debug shows what the workers do.
    let filter = EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let options = demo::Options::parse();
    let done = tokio::select! {
        // First in order: with --keep it waits for Ctrl-C itself.
        biased;
        done = demo::run(options) => done,
        // What was started is stopped when the run is dropped.
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    match done {
        Ok(verdict) => ExitCode::from(u8::from(!verdict.holds())),
        Err(error) => {
            eprintln!("\nThe demo could not be shown: {error:#}");
            ExitCode::from(2)
        }
    }
}
