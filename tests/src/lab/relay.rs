//! `mtxfleet relay`, as a process of its own, and a program that reads from it.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::address::Loopback;
use super::process::{Process, Recipe};
use super::wait::{PATIENCE, wait_for};
use super::{CLUSTER, Lab, programs};
use crate::compare::{Arrival, vcl_hashes_annex_b};
use crate::plain_reader::VideoCodec;

/// A running relay. Dropping it stops it.
#[derive(Debug)]
pub struct Relay {
    pub address: SocketAddr,
    pub process: Process,
}

impl Relay {
    /// Starts a relay that reads from the lab's fleet through the load balancer.
    ///
    /// # Errors
    /// When it does not listen in time; the message holds the end of its log.
    pub async fn start(lab: &Lab, worker_prefix: &str) -> Result<Self> {
        let address = Loopback::next().port()?;
        let agents: Vec<String> = lab.nodes.iter().map(|node| node.agent.url()).collect();
        let mut args: Vec<String> =
            ["relay", "--cluster", CLUSTER, "--worker-prefix", worker_prefix, "--upstream"].map(str::to_owned).to_vec();
        args.extend([format!("rtsp://{}", lab.balancer.live), "--listen".to_owned(), address.to_string()]);
        args.extend(["--agents".to_owned(), agents.join(",")]);
        if let Some(redis) = &lab.redis {
            args.extend(["--redis".to_owned(), redis.url()]);
        }
        let recipe = Recipe::new(worker_prefix, programs::of_workspace("mtxfleet")?).args(args);
        let process = recipe.env("MTXFLEET_WORKER_TOKEN", lab.token.clone()).start(&lab.logs())?;
        let mut relay = Self { address, process };
        wait_for("the relay to listen", PATIENCE, async || -> Result<()> {
            relay.process.check_alive()?;
            TcpStream::connect_timeout(&address, Duration::from_millis(100)).context("not yet")?;
            Ok(())
        })
        .await?;
        Ok(relay)
    }

    #[must_use]
    pub fn url(&self, stream: &str) -> String {
        format!("rtsp://{}/{stream}", self.address)
    }
}

/// A real ffmpeg that reads a URL, without any option that helps, and writes the video as it is to a file.
#[derive(Debug)]
pub struct FfmpegReader {
    process: Process,
    codec: VideoCodec,
    file: PathBuf,
}

impl FfmpegReader {
    /// # Errors
    /// When ffmpeg is not there or cannot be run.
    pub fn start(name: &str, url: &str, codec: VideoCodec, folder: &Path, logs: &Path) -> Result<Self> {
        let format = if codec == VideoCodec::H265 { "hevc" } else { "h264" };
        let file = folder.join(format!("{name}.{format}"));
        let out = file.to_string_lossy().into_owned();
        let args =
            ["-hide_banner", "-loglevel", "info", "-nostdin", "-rtsp_transport", "tcp", "-i", url, "-map", "0:v"];
        // Parameter sets that stand in the SDP only would not be in the file: nothing could decode it.
        let args = args.into_iter().chain(["-c", "copy", "-bsf:v", "dump_extra", "-f", format, &out]);
        let process = Recipe::new(name, programs::find("ffmpeg")?).args(args).start(logs)?;
        Ok(Self { process, codec, file })
    }

    /// # Errors
    /// When it has ended, with the end of its log, or has written nothing yet.
    pub fn check_written(&mut self) -> Result<()> {
        self.process.check_alive()?;
        let length = std::fs::metadata(&self.file).map_or(0, |file| file.len());
        ensure!(length > 0, "{} is still empty", self.file.display());
        Ok(())
    }

    /// Asks it to end and gives the pictures in its file, all as of now: the file knows no times.
    ///
    /// # Errors
    /// When it had ended before, or its file cannot be read.
    pub fn stop(self) -> Result<(Vec<Arrival>, Instant)> {
        let (codec, ended) = (self.codec, Instant::now());
        let file = self.stop_with_file()?;
        let data = std::fs::read(&file).with_context(|| file.display().to_string())?;
        let hashes = vcl_hashes_annex_b(codec, &data);
        Ok((hashes.into_iter().map(|hash| Arrival { hash, at: ended }).collect(), ended))
    }

    /// Asks it to end and gives its file, which lies in the folder that it was started with.
    ///
    /// # Errors
    /// When it had ended before.
    pub fn stop_with_file(mut self) -> Result<PathBuf> {
        self.process.check_alive()?;
        self.process.stop();
        Ok(self.file)
    }
}
