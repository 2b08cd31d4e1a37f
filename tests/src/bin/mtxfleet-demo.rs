//! `make demo`: a fleet on this machine, a drain, and what it did to every frame.

use std::process::ExitCode;

use clap::Parser;
use mtxfleet_tests::demo;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    match demo::run(demo::Options::parse()).await {
        Ok(verdict) => {
            println!("{verdict}");
            ExitCode::from(u8::from(!verdict.holds()))
        }
        Err(error) => {
            eprintln!("\nThe demo could not be shown: {error:#}");
            ExitCode::from(2)
        }
    }
}
