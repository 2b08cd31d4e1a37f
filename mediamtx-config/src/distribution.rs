//! `mediamtx.yml` of a distribution node: viewers and workers read here, and each stream is pulled from its owner on
//! demand. The file never changes while streams come and go: one path matches every name, and its source is the local
//! agent, which answers `302` with the owner's address, or relays the stream; the file is the same either way.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::common::{Action, Auth, Credential, FleetWide, LogLevel, Server};
use crate::setting::{self, InvalidSetting};
use crate::yaml::Map;

/// Settings of a distribution node; [`DistributionServer::new`] fills in all that has a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistributionServer {
    pub fleet: FleetWide,
    /// Id of this node; the pulls carry it as `?pull=ID`, so that nobody takes them for readers.
    pub node: String,
    /// The local agent's resolver, by IP or, for a fixed upstream, any RTSP server's address.
    pub resolver: SocketAddr,
    /// Where readers connect (0.0.0.0:8554).
    pub rtsp: SocketAddr,
    /// Loopback (127.0.0.1:9997).
    pub api: SocketAddr,
    /// Loopback (127.0.0.1:9998).
    pub metrics: SocketAddr,
    /// The operator's own rules (anyone may read).
    pub auth: Auth,
    /// Whether API and metrics need no credential from this machine, as MediaMTX has it by default (true).
    pub anonymous_loopback_api: bool,
    /// HLS (off).
    pub hls: Option<Hls>,
    /// WebRTC, read over WHEP (off).
    pub webrtc: Option<WebRtc>,
    /// Readers are held so long for the owner to be found and to answer (10 s); over the resolver's own hold.
    pub start_timeout: Duration,
    /// A stream is pulled so long after its last reader left (10 s): a worker that comes back finds it warm.
    pub close_after: Duration,
    /// Pass on the wall time that the ingestion node gave each frame, so that every node tells the same time for the
    /// same frame (true). The few packets before its first sender report are skipped; measured at 5 to 12 packets of
    /// a cold start, none of a warm one.
    pub use_absolute_timestamp: bool,
    /// Addresses and networks of load balancers that send the PROXY protocol (none).
    pub trusted_proxies: Vec<String>,
    /// An owner that sends nothing for so long is gone (10 s).
    pub read_timeout: Duration,
    pub log_level: LogLevel,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hls {
    pub address: SocketAddr,
    /// `lowLatency`, which Apple devices want over TLS, or `fmp4` or `mpegts`.
    pub variant: HlsVariant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HlsVariant {
    LowLatency,
    Fmp4,
    Mpegts,
}

impl Hls {
    #[must_use]
    pub const fn new(address: SocketAddr) -> Self {
        Self { address, variant: HlsVariant::LowLatency }
    }
}

/// Signalling crosses the load balancer; media goes straight to this node, which must be reachable for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebRtc {
    /// WHEP, over HTTP.
    pub address: SocketAddr,
    /// Media.
    pub udp: SocketAddr,
    /// Public addresses or names of this node, where they are not those of its interfaces.
    #[serde(default)]
    pub additional_hosts: Vec<String>,
}

impl DistributionServer {
    /// `fleet` is the credential that every member uses between nodes, `node` this node's id, `resolver` where its
    /// agent's resolver listens.
    #[must_use]
    pub fn new(fleet: Credential, node: impl Into<String>, resolver: SocketAddr) -> Self {
        Self {
            fleet: FleetWide::new(fleet),
            node: node.into(),
            resolver,
            rtsp: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8554)),
            api: SocketAddr::from((Ipv4Addr::LOCALHOST, 9997)),
            metrics: SocketAddr::from((Ipv4Addr::LOCALHOST, 9998)),
            auth: Auth::anyone([Action::Read]),
            anonymous_loopback_api: true,
            hls: None,
            webrtc: None,
            start_timeout: Duration::from_secs(10),
            close_after: Duration::from_secs(10),
            use_absolute_timestamp: true,
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
            // An agent reads its own node's streams, and warms them, also where viewers need a credential.
            fleet_actions: &[Action::Read],
            anonymous_loopback_api: self.anonymous_loopback_api,
            log_level: self.log_level,
            read_timeout: self.read_timeout,
            rtsp: self.rtsp,
            api: self.api,
            metrics: self.metrics,
            playback: None,
            trusted_proxies: &self.trusted_proxies,
        };
        let mut file = Map::default();
        server.render(&mut file)?;
        self.render_hls(&mut file);
        self.render_webrtc(&mut file);

        let Credential { user, password } = &self.fleet.credential;
        let source = format!("rtsp://{user}:{password}@{}/$G1?pull={}", self.resolver, self.node);
        let mut path = Map::default();
        path.put_explained(
            "The agent answers 302 with the owner's address, or with the stream itself (distribution.source). The\n\
             credential is kept across the redirect, the query is not: the owner's address brings its own.",
            "source",
            source,
        )
        .put("sourceOnDemand", true)
        .put("sourceOnDemandStartTimeout", self.start_timeout)
        .put("sourceOnDemandCloseAfter", self.close_after)
        .put("rtspTransport", "tcp")
        .put("useAbsoluteTimestamp", self.use_absolute_timestamp)
        .put("record", false);
        let mut paths = Map::default();
        paths.put("~^(.+)$", path);
        file.put("paths", paths);
        Ok(format!(
            "# Distribution node of mtxfleet, for MediaMTX 1.20. Rendered: edit its settings instead.\n{}",
            file.document()
        ))
    }

    fn render_hls(&self, file: &mut Map) {
        file.put("hls", self.hls.is_some());
        if let Some(hls) = &self.hls {
            let variant = match hls.variant {
                HlsVariant::LowLatency => "lowLatency",
                HlsVariant::Fmp4 => "fmp4",
                HlsVariant::Mpegts => "mpegts",
            };
            file.put("hlsAddress", hls.address).put("hlsVariant", variant).put("hlsAlwaysRemux", false);
        }
    }

    fn render_webrtc(&self, file: &mut Map) {
        file.put("webrtc", self.webrtc.is_some());
        if let Some(webrtc) = &self.webrtc {
            file.put("webrtcAddress", webrtc.address)
                .put("webrtcLocalUDPAddress", webrtc.udp)
                .put("webrtcLocalTCPAddress", "")
                .put("webrtcAdditionalHosts", webrtc.additional_hosts.clone());
        }
    }

    fn check(&self) -> Result<(), InvalidSetting> {
        setting::name("node", &self.node)?;
        setting::positive("start_timeout", self.start_timeout)?;
        setting::positive("close_after", self.close_after)?;
        let mut listeners =
            vec![("rtsp", self.rtsp), ("resolver", self.resolver), ("api", self.api), ("metrics", self.metrics)];
        if let Some(hls) = &self.hls {
            listeners.push(("hls.address", hls.address));
        }
        if let Some(webrtc) = &self.webrtc {
            listeners.push(("webrtc.address", webrtc.address));
        }
        setting::distinct(&listeners)
    }
}
