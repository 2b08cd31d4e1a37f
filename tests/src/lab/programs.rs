//! Finds the programs that the lab starts.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// Where Debian keeps what is not in everybody's `PATH` (haproxy).
const ALSO_IN: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/sbin"];

/// A program of the system.
///
/// # Errors
/// When it is not installed; says how to install it.
pub fn find(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(ALSO_IN.map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("{name} is not installed; run tests/setup/install-missing.sh"))
}

/// A program of this workspace, beside the one that runs (tests run in `deps/` below it).
///
/// # Errors
/// When it is not built; says how to build it.
pub fn of_workspace(name: &str) -> Result<PathBuf> {
    let here = std::env::current_exe().context("cannot tell where this program is")?;
    let folders = here.ancestors().skip(1).take(2);
    for candidate in folders.map(|folder| folder.join(name)) {
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    let release = if is_release(&here) { " --release" } else { "" };
    bail!(
        "{name} is not built beside {}; run: cargo build{release} -p mtxfleet -p mtxfleet-tests --bins",
        here.display()
    )
}

fn is_release(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "release")
}
