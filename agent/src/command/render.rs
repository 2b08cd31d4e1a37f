//! `mtxfleet render`: the files that MediaMTX and HAProxy start with.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, bail};
use mediamtx_config::{
    Credential, DistributionFrontends, DistributionServer, Frontend, Haproxy, Hls, IngestionServer, Recording, Server,
    Servers, WebRtc,
};
use mtxfleet_wire::Role;

use super::output::say;
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub struct Render {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// mediamtx.yml for the node of an agent's configuration.
    Mediamtx(Mediamtx),
    /// haproxy.cfg for the two clusters.
    Haproxy(HaproxyFlags),
}

#[derive(Debug, clap::Args)]
struct Mediamtx {
    /// The agent's configuration, a TOML file.
    #[arg(long, default_value = "/etc/mtxfleet/agent.toml")]
    config: PathBuf,
    /// Address of the RTSP server [default: 0.0.0.0 and the port of `mediamtx.rtsp`].
    #[arg(long)]
    rtsp: Option<SocketAddr>,
    /// Distribution: serve HLS at this address.
    #[arg(long)]
    hls: Option<SocketAddr>,
    /// Distribution: serve WebRTC, its signalling (WHEP) at this address.
    #[arg(long, requires = "webrtc_media")]
    webrtc: Option<SocketAddr>,
    /// Distribution: UDP address of WebRTC's media.
    #[arg(long)]
    webrtc_media: Option<SocketAddr>,
    /// Distribution: this node's public address, for WebRTC's media.
    #[arg(long)]
    webrtc_public: Vec<String>,
    /// Ingestion: folder of the rolling recording [default: `mediamtx.recording_dir`, else
    /// /var/lib/mtxfleet/recordings].
    #[arg(long)]
    recordings: Option<String>,
    /// Ingestion: do not record.
    #[arg(long, conflicts_with = "recordings")]
    no_recordings: bool,
}

#[derive(Debug, clap::Args)]
struct HaproxyFlags {
    /// This load balancer's name, different for each: phase 2 of a drain waits for it by this name.
    #[arg(long)]
    name: String,
    /// Where cameras connect.
    #[arg(long, requires = "ingestion")]
    ingestion_bind: Option<SocketAddr>,
    /// Where RTSP readers connect.
    #[arg(long, requires = "distribution")]
    distribution_bind: Option<SocketAddr>,
    /// An ingestion node, NAME=RTSP_HOST:PORT=AGENT_CHECK_IP:PORT; repeat for each.
    #[arg(long, requires = "ingestion_bind")]
    ingestion: Vec<String>,
    /// A distribution node, in the same form; repeat for each.
    #[arg(long, requires = "distribution_bind")]
    distribution: Vec<String>,
    /// Unix socket for `show stat`.
    #[arg(long)]
    stats_socket: Option<String>,
}

impl Render {
    pub fn run(self) -> anyhow::Result<()> {
        let text = match self.what {
            What::Mediamtx(mediamtx) => mediamtx.render()?,
            What::Haproxy(haproxy) => haproxy.render()?,
        };
        say(text)
    }
}

impl Mediamtx {
    fn render(self) -> anyhow::Result<String> {
        let config = Config::load(&self.config)?;
        let fleet = config.cluster.key.fleet_credentials();
        let fleet = Credential::new(fleet.user, fleet.password);
        let api = local_address(&config.mediamtx.api, "mediamtx.api")?;
        let metrics = local_address(&config.mediamtx.metrics, "mediamtx.metrics")?;
        let rtsp = self.rtsp.unwrap_or((Ipv4Addr::UNSPECIFIED, config.mediamtx.rtsp_port()).into());
        let text = match config.node.role {
            Role::Ingestion => {
                let configured = config.mediamtx.recording_dir.map(|dir| dir.display().to_string());
                let default = Recording::default();
                let dir = self.recordings.or(configured).unwrap_or(default.dir);
                let playback = local_address(&config.mediamtx.playback, "mediamtx.playback")?;
                let recording = (!self.no_recordings).then_some(Recording { dir, playback, ..default });
                IngestionServer { rtsp, api, metrics, recording, ..IngestionServer::new(fleet) }.render()
            }
            Role::Distribution => {
                let server = DistributionServer::new(fleet, config.node.id.as_str(), config.resolver.listen);
                let webrtc = self.webrtc.zip(self.webrtc_media).map(|(address, udp)| WebRtc {
                    address,
                    udp,
                    additional_hosts: self.webrtc_public,
                });
                DistributionServer { rtsp, api, metrics, hls: self.hls.map(Hls::new), webrtc, ..server }.render()
            }
        };
        Ok(text?)
    }
}

impl HaproxyFlags {
    fn render(self) -> anyhow::Result<String> {
        let frontend = |bind: Option<SocketAddr>, servers: &[String]| -> anyhow::Result<Option<Frontend>> {
            let servers = servers.iter().map(|text| server(text)).collect::<anyhow::Result<Vec<_>>>()?;
            Ok(bind.map(|bind| Frontend { bind, servers: Servers::List(servers) }))
        };
        let distribution = frontend(self.distribution_bind, &self.distribution)?.map(DistributionFrontends::rtsp_only);
        let ingestion = frontend(self.ingestion_bind, &self.ingestion)?;
        Ok(Haproxy { stats_socket: self.stats_socket, ingestion, distribution, ..Haproxy::new(self.name) }.render()?)
    }
}

fn server(text: &str) -> anyhow::Result<Server> {
    let form = "write NAME=RTSP_HOST:PORT=AGENT_CHECK_IP:PORT";
    let [name, address, agent] = text.split('=').collect::<Vec<_>>()[..] else {
        bail!("{text:?} is no node; {form}");
    };
    // Without a port HAProxy would take the one that the client connected to.
    if address.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
        bail!("{address:?} in {text:?} is no HOST:PORT; {form}");
    }
    let agent = agent.parse().with_context(|| format!("{agent:?} in {text:?} is no IP:PORT; {form}"))?;
    Ok(Server::new(name, address, agent))
}

fn local_address(url: &url::Url, key: &str) -> anyhow::Result<SocketAddr> {
    let addresses = url.socket_addrs(|| None).with_context(|| format!("{key}: {url} has no address"))?;
    addresses.first().copied().with_context(|| format!("{key}: {url} has no address"))
}
