//! MediaMTX, or the stand-in, as one node of the lab runs it.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use mediamtx_config::{
    Action, Auth, Credential, DistributionServer, Hls, IngestionServer, LogLevel, Recording, WebRtc,
};
use mtxfleet_wire::{NodeId, Role};

use super::address::Loopback;
use super::agent::client;
use super::process::{Process, Recipe};
use super::wait::{PATIENCE, wait_for};
use crate::server_binary::ServerBinary;

/// Where one node's server listens, all on loopback.
#[derive(Debug, Clone, Copy)]
pub struct Listeners {
    pub rtsp: SocketAddr,
    pub api: SocketAddr,
    pub metrics: SocketAddr,
    pub playback: SocketAddr,
    /// The agent's, which a distribution server pulls from.
    pub resolver: SocketAddr,
    /// For browsers, on distribution servers of a lab that has them.
    pub web: Option<Web>,
}

/// Where browsers find a distribution server.
#[derive(Debug, Clone, Copy)]
pub struct Web {
    pub hls: SocketAddr,
    pub whep: SocketAddr,
    /// WebRTC's media, over UDP.
    pub media: SocketAddr,
}

impl Web {
    /// # Errors
    /// When no port is free.
    pub fn next(loopback: &mut Loopback) -> Result<Self> {
        Ok(Self { hls: loopback.port()?, whep: loopback.port()?, media: loopback.port()? })
    }
}

impl Listeners {
    /// # Errors
    /// When no port is free.
    pub fn next(loopback: &mut Loopback) -> Result<Self> {
        Ok(Self {
            rtsp: loopback.port()?,
            api: loopback.port()?,
            metrics: loopback.port()?,
            playback: loopback.port()?,
            resolver: loopback.port()?,
            web: None,
        })
    }
}

/// The media server of one node.
#[derive(Debug)]
pub struct MediaServer {
    pub process: Process,
    pub at: Listeners,
}

impl MediaServer {
    /// Starts it with the file that mediamtx-config renders for its role.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(
        binary: &ServerBinary,
        node: &NodeId,
        role: Role,
        at: Listeners,
        fleet: &Credential,
        dir: &Path,
        logs: &Path,
    ) -> Result<Self> {
        let text = match role {
            Role::Ingestion => IngestionServer {
                rtsp: at.rtsp,
                api: at.api,
                metrics: at.metrics,
                auth: Auth::anyone([Action::Publish, Action::Read]),
                recording: Some(Recording {
                    dir: dir.join("recordings").display().to_string(),
                    playback: at.playback,
                    ..Recording::default()
                }),
                log_level: LogLevel::Info,
                ..IngestionServer::new(fleet.clone())
            }
            .render()?,
            Role::Distribution => DistributionServer {
                rtsp: at.rtsp,
                api: at.api,
                metrics: at.metrics,
                hls: at.web.map(|web| Hls::new(web.hls)),
                webrtc: at.web.map(|web| WebRtc {
                    address: web.whep,
                    udp: web.media,
                    additional_hosts: vec![web.media.ip().to_string()],
                }),
                log_level: LogLevel::Info,
                ..DistributionServer::new(fleet.clone(), node.as_str(), at.resolver)
            }
            .render()?,
        };
        let file = dir.join("mediamtx.yml");
        std::fs::write(&file, text).with_context(|| file.display().to_string())?;
        let recipe = Recipe::new(format!("{node}-server"), &binary.path).args([file.display().to_string()]);
        Ok(Self { process: recipe.start(logs)?, at })
    }

    /// Waits until its API answers.
    ///
    /// # Errors
    /// When it dies, or does not answer in [`PATIENCE`].
    pub async fn wait_ready(&mut self) -> Result<()> {
        let url = format!("http://{}/v3/paths/list", self.at.api);
        let what = format!("the API of {} to answer", self.process.name());
        wait_for(what, PATIENCE, async || -> Result<()> {
            self.process.check_alive()?;
            client().get(&url).send().await?.error_for_status()?;
            Ok(())
        })
        .await
    }
}
