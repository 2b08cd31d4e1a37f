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
    /// Where HLS players connect.
    #[arg(long, requires = "distribution_bind")]
    hls_bind: Option<SocketAddr>,
    /// The port of HLS on every distribution node.
    #[arg(long, default_value_t = 8888)]
    hls_port: u16,
    /// Where WebRTC players connect (WHEP; their media then goes to the node itself).
    #[arg(long, requires = "distribution_bind")]
    whep_bind: Option<SocketAddr>,
    /// The port of WHEP on every distribution node.
    #[arg(long, default_value_t = 8889)]
    whep_port: u16,
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
        let ingestion = servers(&self.ingestion)?;
        let distribution = servers(&self.distribution)?;
        let hls = self.hls_bind.map(|bind| frontend(bind, at_port(&distribution, self.hls_port)));
        let whep = self.whep_bind.map(|bind| frontend(bind, at_port(&distribution, self.whep_port)));
        let rtsp = self.distribution_bind.map(|bind| frontend(bind, distribution));
        let haproxy = Haproxy {
            stats_socket: self.stats_socket,
            ingestion: self.ingestion_bind.map(|bind| frontend(bind, ingestion)),
            distribution: rtsp.map(|rtsp| DistributionFrontends {
                hls,
                whep,
                ..DistributionFrontends::rtsp_only(rtsp)
            }),
            ..Haproxy::new(self.name)
        };
        Ok(haproxy.render()?)
    }
}

const fn frontend(bind: SocketAddr, servers: Vec<Server>) -> Frontend {
    Frontend { bind, servers: Servers::List(servers) }
}

/// The same nodes, another of their protocols.
fn at_port(servers: &[Server], port: u16) -> Vec<Server> {
    let host = |server: &Server| server.address.rsplit_once(':').map_or("", |(host, _)| host).to_owned();
    servers.iter().map(|server| Server::new(&server.name, format!("{}:{port}", host(server)), server.agent)).collect()
}

fn servers(texts: &[String]) -> anyhow::Result<Vec<Server>> {
    texts.iter().map(|text| server(text)).collect()
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

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::HaproxyFlags;

    #[derive(clap::Parser)]
    struct CommandLine {
        #[command(flatten)]
        flags: HaproxyFlags,
    }

    #[test]
    fn every_protocol_has_its_frontend_over_the_same_nodes() {
        let flags = "render --name lb-1 --distribution-bind 0.0.0.0:9554 --hls-bind 0.0.0.0:9888 --whep-bind 0.0.0.0:9889 \
                     --whep-port 8890 --distribution dist-1=10.0.0.7:8554=10.0.0.7:8790 \
                     --distribution dist-2=[fd00::8]:8554=10.0.0.8:8790";
        let line = CommandLine::try_parse_from(flags.split_whitespace()).unwrap_or_else(|error| panic!("{error}"));
        let text = line.flags.render().expect("rendered");
        for shown in ["bind 0.0.0.0:9888", "bind 0.0.0.0:9889", "10.0.0.7:8888", "10.0.0.7:8890", "[fd00::8]:8888"] {
            assert!(text.contains(shown), "{shown} is not in:\n{text}");
        }
    }
}
