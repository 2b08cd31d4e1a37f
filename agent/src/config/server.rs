//! `[mediamtx]`: the server beside this agent.

use std::path::PathBuf;
use std::time::Duration;

use mtxfleet_wire::Bitrate;
use url::Url;

use super::cluster::{host_port, is_host_port, path};
use super::section::Section;
use crate::edge::mediamtx::Credentials;
use crate::node::readers::AnonymousRtsp;

/// `[mediamtx]`.
#[derive(Debug, Clone)]
pub struct MediaMtx {
    /// Its control API (`http://127.0.0.1:9997`).
    pub api: Url,
    /// Its metrics (`http://127.0.0.1:9998`).
    pub metrics: Url,
    /// Its playback server, ingestion nodes only (`http://127.0.0.1:9996`).
    pub playback: Url,
    /// `host:port` at which the agent itself reads (`127.0.0.1:8554`).
    pub rtsp: String,
    /// Port of its RTSP server as others reach it (the port of `rtsp`).
    pub advertise_rtsp_port: u16,
    /// For its API (none: it asks nothing of loopback).
    pub credentials: Option<Credentials>,
    /// Time between two looks at it (1 s).
    pub sample_every: Duration,
    /// Bound on one look (2 s).
    pub timeout: Duration,
    /// Outbound bits per second that it is meant to carry at most (1 Gbit/s).
    pub capacity: Bitrate,
    /// What an RTSP reader without a leg id counts as (worker).
    pub rtsp_readers: AnonymousRtsp,
    /// Folder of its recordings, whose disk is watched (none).
    pub recording_dir: Option<PathBuf>,
    /// With less free on that disk, in bytes, the node takes nothing new (1 GiB).
    pub min_disk_free: u64,
    /// Program and arguments that start MediaMTX again (none).
    pub restart_command: Vec<String>,
    /// From the first restart to the second (30 s); three times as long to the third.
    pub restart_back_off: Duration,
    /// A disk may stay full for so long before the node asks to be replaced (10 min).
    pub disk_patience: Duration,
}

impl MediaMtx {
    /// `host:port` at which other nodes and workers read, given `node.advertise`.
    #[must_use]
    pub fn advertised_rtsp(&self, advertise: &str) -> String {
        host_port(advertise, self.advertise_rtsp_port)
    }

    /// The port that it listens on.
    #[must_use]
    pub fn rtsp_port(&self) -> u16 {
        port_of(&self.rtsp)
    }
}

pub(super) fn mediamtx(section: &Section<'_>) -> Option<MediaMtx> {
    let api = section.read("api", "http://127.0.0.1:9997", http_url);
    let metrics = section.read("metrics", "http://127.0.0.1:9998", http_url);
    let playback = section.read("playback", "http://127.0.0.1:9996", http_url);
    let rtsp = section.read("rtsp", "127.0.0.1:8554", is_host_port);
    let rtsp_port = rtsp.as_deref().map_or(8554, port_of);
    let advertise_rtsp_port = section.integer_or("advertise_rtsp_port", rtsp_port.into(), "port of `rtsp`", 1..=65_535);
    let user = section.optional("user", "none", "fleet", not_empty);
    let password = section.optional("password", "none", "...", not_empty);
    if section.has("user") != section.has("password") {
        let (here, other) = if section.has("user") { ("user", "password") } else { ("password", "user") };
        section.refuse(here, format!("stands without {other}; write both or none"));
    }
    let sample_every = section.duration("sample_every", "1s", "100ms"..="1m");
    let timeout = section.duration("timeout", "2s", "100ms"..="1m");
    let capacity = section.bitrate("capacity", "1Gbit/s");
    let readers = [("worker", AnonymousRtsp::Worker), ("viewer", AnonymousRtsp::Viewer)];
    let rtsp_readers = section.choice("rtsp_readers", "worker", &readers);
    let recording_dir = section.optional("recording_dir", "none", "/var/lib/mtxfleet/recordings", path);
    let min_disk_free = section.size("min_disk_free", "1GiB");
    let restart_command = section.list("restart_command", not_empty);
    let restart_back_off = section.duration("restart_back_off", "30s", "100ms"..="10m");
    let disk_patience = section.duration("disk_patience", "10m", "1s"..="1d");
    Some(MediaMtx {
        api: api?,
        metrics: metrics?,
        playback: playback?,
        rtsp: rtsp?,
        advertise_rtsp_port: advertise_rtsp_port? as u16,
        credentials: user?.zip(password?).map(|(user, password)| Credentials { user, password }),
        sample_every: sample_every?,
        timeout: timeout?,
        capacity: capacity?,
        rtsp_readers: rtsp_readers?,
        recording_dir: recording_dir?,
        min_disk_free: min_disk_free?,
        restart_command: restart_command?,
        restart_back_off: restart_back_off?,
        disk_patience: disk_patience?,
    })
}

/// Of a `host:port` that was checked.
fn port_of(address: &str) -> u16 {
    address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(8554)
}

fn not_empty(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.to_owned()) }
}

pub(super) fn http_url(text: &str) -> Result<Url, String> {
    let wrong = || format!("{text:?} is no HTTP address; write http://HOST:PORT, or https://");
    let url = Url::parse(text).map_err(|_| wrong())?;
    let fits = matches!(url.scheme(), "http" | "https") && url.host().is_some();
    if fits { Ok(url) } else { Err(wrong()) }
}
