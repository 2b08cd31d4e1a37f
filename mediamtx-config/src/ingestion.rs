//! `mediamtx.yml` of an ingestion node: cameras publish here, distribution nodes pull from here.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::common::{Action, Auth, Credential, FleetWide, LogLevel, Server};
use crate::setting::{self, InvalidSetting, invalid};
use crate::yaml::Map;

/// Settings of an ingestion node; [`IngestionServer::new`] fills in all that has a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IngestionServer {
    pub fleet: FleetWide,
    /// Where cameras publish and distribution nodes pull (0.0.0.0:8554).
    pub rtsp: SocketAddr,
    /// Loopback (127.0.0.1:9997).
    pub api: SocketAddr,
    /// Loopback (127.0.0.1:9998).
    pub metrics: SocketAddr,
    /// The operator's own rules (anyone may publish); the fleet's user may read beside them.
    pub auth: Auth,
    /// Whether API and metrics need no credential from this machine, as MediaMTX has it by default (true).
    pub anonymous_loopback_api: bool,
    /// The rolling recording that closes the gap after a crash (on).
    pub recording: Option<Recording>,
    /// Take the cameras' clocks instead of this machine's (false). A camera that sends no RTCP sender report would
    /// deliver nothing at all, and one with a wrong clock would shift its recording.
    pub use_absolute_timestamp: bool,
    /// Addresses and networks of load balancers that send the PROXY protocol (none).
    pub trusted_proxies: Vec<String>,
    /// A camera that sends nothing for so long is gone (10 s).
    pub read_timeout: Duration,
    pub log_level: LogLevel,
}

/// A ring on disk: what is older than `delete_after` goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    /// Folder that holds one folder per path (/var/lib/mtxfleet/recordings).
    pub dir: String,
    /// Where it can be asked for; loopback (127.0.0.1:9996).
    pub playback: SocketAddr,
    /// Written, and so readable, this late (200 ms).
    pub part: Duration,
    /// Length of one file (30 s). Files go as a whole, once they *began* before `delete_after`; so what is sure to be
    /// there is the last `delete_after` - `segment`.
    pub segment: Duration,
    /// Age at which a file goes (5 min); at least twice `segment`. MediaMTX looks every `delete_after` / 2, so up to
    /// half as much again lies on the disk.
    pub delete_after: Duration,
}

impl Default for Recording {
    fn default() -> Self {
        Self {
            dir: "/var/lib/mtxfleet/recordings".to_owned(),
            playback: SocketAddr::from((Ipv4Addr::LOCALHOST, 9996)),
            part: Duration::from_millis(200),
            segment: Duration::from_secs(30),
            delete_after: Duration::from_secs(300),
        }
    }
}

impl IngestionServer {
    /// `fleet` is the credential that every member uses between nodes.
    #[must_use]
    pub fn new(fleet: Credential) -> Self {
        Self {
            fleet: FleetWide::new(fleet),
            rtsp: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8554)),
            api: SocketAddr::from((Ipv4Addr::LOCALHOST, 9997)),
            metrics: SocketAddr::from((Ipv4Addr::LOCALHOST, 9998)),
            auth: Auth::anyone([Action::Publish]),
            anonymous_loopback_api: true,
            recording: Some(Recording::default()),
            use_absolute_timestamp: false,
            trusted_proxies: Vec::new(),
            read_timeout: Duration::from_secs(10),
            log_level: LogLevel::Info,
        }
    }

    /// The text of `mediamtx.yml`.
    ///
    /// # Errors
    /// [`InvalidSetting`] for the first setting that MediaMTX would refuse or that would open an inner port.
    pub fn render(&self) -> Result<String, InvalidSetting> {
        self.check()?;
        let server = Server {
            fleet: &self.fleet,
            auth: &self.auth,
            fleet_actions: &[Action::Read],
            anonymous_loopback_api: self.anonymous_loopback_api,
            log_level: self.log_level,
            read_timeout: self.read_timeout,
            rtsp: self.rtsp,
            api: self.api,
            metrics: self.metrics,
            playback: self.recording.as_ref().map(|recording| recording.playback),
            trusted_proxies: &self.trusted_proxies,
        };
        let mut file = Map::default();
        server.render(&mut file)?;
        file.put("hls", false).put("webrtc", false);

        let mut defaults = Map::default();
        defaults
            .put("source", "publisher")
            .put("overridePublisher", true)
            .put("useAbsoluteTimestamp", self.use_absolute_timestamp)
            .put("record", self.recording.is_some());
        if let Some(recording) = &self.recording {
            let pattern = format!("{}/%path/%Y-%m-%d_%H-%M-%S-%f", recording.dir.trim_end_matches('/'));
            defaults
                .put("recordPath", pattern)
                .put("recordFormat", "fmp4")
                .put("recordPartDuration", recording.part)
                .put("recordSegmentDuration", recording.segment)
                .put("recordDeleteAfter", recording.delete_after);
        }
        let mut paths = Map::default();
        paths.put("all_others", Map::default());
        file.put("pathDefaults", defaults).put("paths", paths);
        Ok(format!(
            "# Ingestion node of mtxfleet, for MediaMTX 1.20. Rendered: edit its settings instead.\n{}",
            file.document()
        ))
    }

    fn check(&self) -> Result<(), InvalidSetting> {
        let mut listeners = vec![("rtsp", self.rtsp), ("api", self.api), ("metrics", self.metrics)];
        if let Auth::Jwt { .. } = self.auth {
            return invalid("auth", "the fleet's own pulls carry no token; use internal or http on ingestion nodes");
        }
        if let Some(recording) = &self.recording {
            listeners.push(("recording.playback", recording.playback));
            setting::positive("recording.part", recording.part)?;
            setting::positive("recording.segment", recording.segment)?;
            setting::positive("recording.delete_after", recording.delete_after)?;
            if recording.delete_after < 2 * recording.segment {
                return invalid("recording.delete_after", "must be at least twice recording.segment");
            }
            if recording.dir.is_empty() || recording.dir.contains('%') {
                return invalid("recording.dir", "give a folder, without %");
            }
        }
        setting::distinct(&listeners)
    }
}
