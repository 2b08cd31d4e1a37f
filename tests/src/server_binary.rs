//! Finds the media server that tests and the demo run: the real MediaMTX where there is one, else the stand-in.
//!
//! Looked for in this order:
//!
//! 1. `$MEDIAMTX_BIN`, the path of an executable;
//! 2. `mediamtx` on `PATH`;
//! 3. the official release [`RELEASE`], downloaded once into `~/.cache/mtxfleet/` (`$XDG_CACHE_HOME` is respected).
//!    Set `MTXFLEET_NO_DOWNLOAD` to skip this step;
//! 4. `mtxfleet-standin`, beside the running executable, with a notice on stderr.
//!
//! The download is checked against `checksums.sha256` of the same release, both fetched over HTTPS from the project's
//! GitHub releases. That detects a damaged or swapped archive, not a release that was replaced as a whole.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use sha2::{Digest, Sha256};

/// The MediaMTX release that the project is tested with, and that is downloaded where none is installed.
pub const RELEASE: &str = "v1.20.1";

const RELEASES_URL: &str = "https://github.com/bluenviron/mediamtx/releases/download";
/// Short, so that a machine without a way out loses little time before it falls back.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The archive has about 30 MB.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(120);
const LARGEST_ARCHIVE: u64 = 200 * 1024 * 1024;

/// A media server that is started as `path CONFIG.yml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerBinary {
    /// The executable.
    pub path: PathBuf,
    /// What it is.
    pub kind: ServerKind,
}

/// What a [`ServerBinary`] is. Displayed as `mediamtx v1.20.1` or `stand-in`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerKind {
    /// MediaMTX itself.
    Real {
        /// As printed by `mediamtx --version`, e.g. `v1.20.1`.
        version: String,
    },
    /// `mtxfleet-standin`, built from this crate.
    StandIn,
}

impl fmt::Display for ServerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerKind::Real { version } => write!(f, "mediamtx {version}"),
            ServerKind::StandIn => f.write_str("stand-in"),
        }
    }
}

/// The real server where one can be had, else the stand-in.
///
/// Blocks while a release is downloaded (at most two minutes, and three seconds where there is no way out).
///
/// # Errors
///
/// When `$MEDIAMTX_BIN` is set and does not work (an explicit choice is never silently replaced), or when there is
/// neither a real server nor a built stand-in.
pub fn find() -> anyhow::Result<ServerBinary> {
    match find_real()? {
        Ok(found) => Ok(found),
        Err(reasons) => {
            let found = find_stand_in()?;
            eprintln!("NOTICE: no MediaMTX found, the stand-in {} is used instead:", found.path.display());
            for reason in reasons {
                eprintln!("NOTICE:   {reason}");
            }
            eprintln!("NOTICE: set MEDIAMTX_BIN or install mediamtx to run the real server.");
            Ok(found)
        }
    }
}

/// The real MediaMTX, or, in the inner `Err`, why each place did not have it.
///
/// # Errors
///
/// When `$MEDIAMTX_BIN` is set and does not work.
pub fn find_real() -> anyhow::Result<Result<ServerBinary, Vec<String>>> {
    if let Some(path) = env::var_os("MEDIAMTX_BIN") {
        let found = real(Path::new(&path))
            .with_context(|| format!("MEDIAMTX_BIN is {path:?}, which does not work; correct or unset it"))?;
        return Ok(Ok(found));
    }
    let mut reasons = Vec::new();
    let on_path = env::split_paths(&env::var_os("PATH").unwrap_or_default())
        .map(|dir| dir.join("mediamtx"))
        .find(|candidate| candidate.is_file());
    match on_path.map(|path| real(&path)) {
        Some(Ok(found)) => return Ok(Ok(found)),
        Some(Err(error)) => reasons.push(format!("mediamtx on PATH does not work: {error:#}")),
        None => reasons.push("no mediamtx on PATH".to_owned()),
    }
    match downloaded() {
        Ok(found) => return Ok(Ok(found)),
        // The root alone: what stands above it is the address, and each skipped test repeats the reason.
        Err(error) => reasons.push(format!("release {RELEASE} not downloaded: {}", error.root_cause())),
    }
    Ok(Err(reasons))
}

/// The stand-in, built by `cargo build -p mtxfleet-tests --bin mtxfleet-standin`, beside the running executable (or
/// one folder up, for tests in `deps/`).
///
/// # Errors
///
/// When it has not been built.
pub fn find_stand_in() -> anyhow::Result<ServerBinary> {
    let exe = env::current_exe().context("the path of the running executable is not known")?;
    exe.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("mtxfleet-standin"))
        .find(|candidate| candidate.is_file())
        .map(|path| ServerBinary { path, kind: ServerKind::StandIn })
        .with_context(|| {
            format!("no mtxfleet-standin beside {}: run cargo build -p mtxfleet-tests --bins", exe.display())
        })
}

/// Asks the executable for its version.
fn real(path: &Path) -> anyhow::Result<ServerBinary> {
    let output = Command::new(path).arg("--version").output().with_context(|| format!("run {}", path.display()))?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    ensure!(output.status.success() && version.starts_with('v'), "--version answered {version:?}, {}", output.status);
    Ok(ServerBinary { path: path.to_owned(), kind: ServerKind::Real { version } })
}

/// The cached release, downloaded when it is not there yet.
fn downloaded() -> anyhow::Result<ServerBinary> {
    ensure!(env::var_os("MTXFLEET_NO_DOWNLOAD").is_none(), "MTXFLEET_NO_DOWNLOAD is set");
    ensure!(cfg!(target_os = "linux"), "releases are fetched on Linux only");
    let arch = match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("no release for {other}"),
    };
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .context("neither HOME nor XDG_CACHE_HOME is set")?
        .join("mtxfleet");
    let target = cache.join(format!("mediamtx-{RELEASE}-{arch}"));
    if !target.is_file() {
        fs::create_dir_all(&cache).with_context(|| format!("create {}", cache.display()))?;
        let name = format!("mediamtx_{RELEASE}_linux_{arch}.tar.gz");
        let (sums, archive) = fetch_in_thread(name.clone())?;
        verify(&sums, &name, &archive)?;
        let work = tempfile::tempdir_in(&cache)?;
        let packed = work.path().join("release.tar.gz");
        fs::write(&packed, &archive)?;
        let status =
            Command::new("tar").arg("-xzf").arg(&packed).arg("-C").arg(work.path()).arg("mediamtx").status()?;
        ensure!(status.success(), "tar could not unpack {name}: {status}");
        // A rename, so that processes that download at the same time never run half a file.
        fs::rename(work.path().join("mediamtx"), &target)?;
    }
    real(&target)
}

/// The release's checksums and archive. In a thread of its own, since the caller may be inside a runtime.
fn fetch_in_thread(name: String) -> anyhow::Result<(String, Vec<u8>)> {
    let fetch = async move {
        // Already installed is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).timeout(DOWNLOAD_TIMEOUT).build()?;
        let get = async |file: &str| -> anyhow::Result<Vec<u8>> {
            let url = format!("{RELEASES_URL}/{RELEASE}/{file}");
            let mut response = client.get(&url).send().await?.error_for_status()?;
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await? {
                ensure!(body.len() as u64 + chunk.len() as u64 <= LARGEST_ARCHIVE, "{url} is too large");
                body.extend_from_slice(&chunk);
            }
            Ok(body)
        };
        let sums = String::from_utf8(get("checksums.sha256").await?).context("checksums.sha256 is not text")?;
        anyhow::Ok((sums, get(&name).await?))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match std::thread::spawn(move || runtime.block_on(fetch)).join() {
        Ok(result) => result,
        Err(_) => bail!("the download failed unexpectedly"),
    }
}

/// Compares `archive` with the line of `sums` (as `sha256sum` writes it) that names it.
fn verify(sums: &str, name: &str, archive: &[u8]) -> anyhow::Result<()> {
    let expected = sums
        .lines()
        .filter_map(|line| line.split_once(char::is_whitespace))
        .find(|(_, file)| file.trim_start().trim_start_matches('*') == name)
        .map(|(sum, _)| sum.to_ascii_lowercase())
        .with_context(|| format!("checksums.sha256 does not list {name}"))?;
    let seen = Sha256::digest(archive).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    ensure!(seen == expected, "{name} has SHA-256 {seen}, not {expected}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_is_accepted_only_with_the_listed_checksum() {
        let sums = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  a.tar.gz\n00  b.tar.gz\n";
        verify(sums, "a.tar.gz", b"abc").unwrap();
        assert!(verify(sums, "b.tar.gz", b"abc").is_err());
        assert!(verify(sums, "c.tar.gz", b"abc").is_err());
    }

    #[test]
    fn a_program_that_is_not_mediamtx_is_refused() {
        assert!(real(Path::new("/bin/true")).is_err());
        assert!(real(Path::new("/nonexistent/mediamtx")).is_err());
    }
}
