//! Crashes, and workers that start again, on a whole fleet: what a recording holds is not lost, and what none holds is
//! named.

mod crashes;
mod owners;
mod restarts;

use std::time::Duration;

use anyhow::{Result, ensure};
use mtxfleet_tests::lab::wait::wait_for;
use mtxfleet_tests::lab::worker_process::WorkerProcess;
use mtxfleet_tests::notes;
use mtxfleet_tests::server_binary::{self, ServerBinary};

pub const WITHIN: Duration = Duration::from_secs(60);

/// The real server; a loud skip without it.
pub async fn real(what: &str) -> Option<ServerBinary> {
    let found = tokio::task::spawn_blocking(server_binary::find_real).await.expect("no panic");
    match found.expect("MEDIAMTX_BIN works, when it is set") {
        Ok(server) => Some(server),
        Err(reasons) => {
            notes::skipped(&format!("{what}, on MediaMTX itself"), &reasons.join("; "));
            None
        }
    }
}

pub fn stand_in() -> ServerBinary {
    server_binary::find_stand_in().expect("built")
}

/// The real server, else the stand-in.
pub async fn either() -> ServerBinary {
    tokio::task::spawn_blocking(server_binary::find).await.expect("no panic").expect("one of them")
}

/// Waits until a worker has so many frames more.
pub async fn more(worker: &WorkerProcess, count: usize) -> Result<()> {
    let wanted = worker.frames()? + count;
    wait_for(format!("{count} more frames"), WITHIN, async || -> Result<()> {
        let have = worker.frames()?;
        ensure!(have >= wanted, "{have} of {wanted}; its log ends:\n{}", worker.process.log_tail());
        Ok(())
    })
    .await
}
