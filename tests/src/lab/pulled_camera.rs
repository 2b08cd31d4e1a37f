//! Cameras that are pulled. As at real cameras, each connection to one gets sequence numbers, timestamps and an SSRC of
//! its own, so nothing but content tells that two connections bring the same frames.
//!
//! ```text
//! ffmpeg --> stand-in server <-- renumbering, connection by connection <-- ingestion nodes
//! ```

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::{Buf as _, BytesMut};
use mediamtx_config::Credential;
use mtxfleet_wire::{NodeId, Role};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::address::Loopback;
use super::camera::{Camera, CameraKind};
use super::media_server::{Listeners, MediaServer};
use super::process::Recipe;
use super::programs;
use super::wait::{PATIENCE, wait_for};
use crate::server_binary;

/// A header block or a packet that is longer is no RTSP.
const LONGEST: usize = 1 << 20;

/// A camera that waits to be pulled. Dropping it stops it.
#[derive(Debug)]
pub struct PulledCamera {
    /// Its path, and what it is to be called in the fleet.
    pub name: String,
    pub kind: CameraKind,
    at: SocketAddr,
    renumbering: JoinHandle<()>,
    sender: Camera,
    _server: MediaServer,
}

impl PulledCamera {
    /// Starts it, and waits until it delivers.
    ///
    /// # Errors
    /// When a part of it does not come up.
    pub async fn start(name: &str, kind: CameraKind, dir: &Path, logs: &Path) -> Result<Self> {
        let mut loopback = Loopback::next();
        let dir = dir.join(format!("camera-{name}"));
        std::fs::create_dir(&dir).with_context(|| dir.display().to_string())?;
        let id = NodeId::new(format!("camera-{name}"))?;
        let binary = server_binary::find_stand_in()?;
        let (listeners, nobody) = (Listeners::next(&mut loopback)?, Credential::new("nobody", "nothing"));
        let mut server = MediaServer::start(&binary, &id, Role::Ingestion, listeners, &nobody, &dir, logs)?;
        server.wait_ready().await?;
        let mut sender = Camera::start(name, kind, &listeners.rtsp.to_string(), logs)?;
        let at = loopback.port()?;
        let listener = TcpListener::bind(at).await.with_context(|| format!("{at} for camera {name}"))?;
        let renumbering = tokio::spawn(serve(listener, listeners.rtsp));
        let streams = format!("http://{}/v3/paths/get/{name}", listeners.api);
        wait_for(format!("camera {name} to deliver"), PATIENCE, async || -> Result<()> {
            sender.process.check_alive()?;
            super::agent::client().get(&streams).send().await?.error_for_status()?;
            Ok(())
        })
        .await?;
        Ok(Self { name: name.to_owned(), kind, at, renumbering, sender, _server: server })
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("rtsp://{}/{}", self.at, self.name)
    }

    /// # Errors
    /// When it has ended.
    pub fn check_alive(&mut self) -> Result<()> {
        self.sender.process.check_alive()
    }
}

impl Drop for PulledCamera {
    fn drop(&mut self) {
        self.renumbering.abort();
    }
}

/// Publishes a camera's pictures to the fleet, as a camera would that publishes by itself: it connects again whenever it
/// is cut off, and what it films meanwhile nobody gets.
#[derive(Debug)]
pub struct Publisher {
    supervision: JoinHandle<()>,
}

impl Publisher {
    /// To `rtsp://TO/NAME`.
    ///
    /// # Errors
    /// When ffmpeg is not there or cannot be run.
    pub fn start(camera: &PulledCamera, to: SocketAddr, logs: &Path) -> Result<Self> {
        let from = camera.url();
        let to = format!("rtsp://{to}/{}", camera.name);
        let args = ["-hide_banner", "-loglevel", "warning", "-nostdin", "-fflags", "nobuffer", "-analyzeduration", "0"];
        let copy = ["-c", "copy", "-f", "rtsp", "-rtsp_transport", "tcp", &to];
        let args = args.into_iter().chain(["-rtsp_transport", "tcp", "-i", &from]).chain(copy);
        let recipe = Recipe::new(format!("publisher-{}", camera.name), programs::find("ffmpeg")?).args(args);
        let mut process = recipe.start(logs)?;
        let supervision = tokio::spawn(async move {
            loop {
                if process.ended().is_some() && process.restart().is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Ok(Self { supervision })
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.supervision.abort();
    }
}

async fn serve(listener: TcpListener, server: SocketAddr) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((client, _)) => _ = connections.spawn(pass_on(client, server)),
            // Too many open files, at most: it passes.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Until either side closes.
async fn pass_on(client: TcpStream, server: SocketAddr) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let upwards = tokio::io::copy(&mut from_client, &mut to_server);
    let downwards = async {
        let offsets = Offsets::random();
        let mut buffer = BytesMut::new();
        while from_server.read_buf(&mut buffer).await? > 0 && buffer.len() < LONGEST {
            while let Some(message) = next_message(&mut buffer, &offsets) {
                to_client.write_all(&message).await?;
            }
        }
        std::io::Result::Ok(())
    };
    tokio::select! {
        _ = upwards => {}
        _ = downwards => {}
    }
}

/// What is added to the numbers of a connection; each track has its own.
struct Offsets(uuid::Uuid);

impl Offsets {
    fn random() -> Self {
        Self(uuid::Uuid::new_v4())
    }

    /// For sequence number, timestamp and SSRC of the track on this interleaved channel.
    fn of(&self, channel: u8) -> (u16, u32, u32) {
        let (high, low) = self.0.as_u64_pair();
        let mixed = (high ^ low.rotate_left(u32::from(channel / 2) * 7 + 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed as u16, (mixed >> 16) as u32, (mixed >> 32) as u32)
    }
}

/// Takes the next whole message of the server, renumbered; `None` when it has not come whole yet.
fn next_message(buffer: &mut BytesMut, offsets: &Offsets) -> Option<Vec<u8>> {
    if buffer.first() == Some(&b'$') {
        let length = 4 + usize::from(u16::from_be_bytes([*buffer.get(2)?, *buffer.get(3)?]));
        let mut message = buffer.get(..length)?.to_vec();
        buffer.advance(length);
        let channel = message[1];
        let offsets = offsets.of(channel);
        match channel % 2 {
            0 => renumber_rtp(&mut message[4..], offsets),
            _ => renumber_rtcp(&mut message[4..], offsets),
        }
        return Some(message);
    }
    let head = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&buffer[..head]).into_owned();
    let length_of_body = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok())
        .unwrap_or(0);
    let body = buffer.get(head..head + length_of_body)?.to_vec();
    buffer.advance(head + length_of_body);
    // What says the numbers that the server uses is left out; cameras may.
    let kept = text.split_inclusive("\r\n").filter(|line| !line.to_ascii_lowercase().starts_with("rtp-info:"));
    let mut message: Vec<u8> = kept.map(without_ssrc).collect::<String>().into_bytes();
    message.extend(body);
    Some(message)
}

/// A `Transport` line without `;ssrc=01234567`.
fn without_ssrc(line: &str) -> String {
    match line.split_once(";ssrc=") {
        Some((before, rest)) => format!("{before}{}", rest.trim_start_matches(|c: char| c.is_ascii_hexdigit())),
        None => line.to_owned(),
    }
}

/// RFC 3550 section 5.1.
fn renumber_rtp(packet: &mut [u8], (sequence, timestamp, ssrc): (u16, u32, u32)) {
    if packet.len() < 12 {
        return;
    }
    let number = u16::from_be_bytes([packet[2], packet[3]]).wrapping_add(sequence);
    packet[2..4].copy_from_slice(&number.to_be_bytes());
    add(&mut packet[4..8], timestamp);
    add(&mut packet[8..12], ssrc);
}

/// RFC 3550 section 6: every packet of a compound names its SSRC; a sender report also has the time of its track.
fn renumber_rtcp(mut packet: &mut [u8], (_, timestamp, ssrc): (u16, u32, u32)) {
    const SENDER_REPORT: u8 = 200;
    while packet.len() >= 8 {
        let length = 4 * (1 + usize::from(u16::from_be_bytes([packet[2], packet[3]])));
        if length > packet.len() {
            return;
        }
        let (this, rest) = packet.split_at_mut(length);
        add(&mut this[4..8], ssrc);
        if this[1] == SENDER_REPORT && length >= 20 {
            add(&mut this[16..20], timestamp);
        }
        packet = rest;
    }
}

fn add(number: &mut [u8], offset: u32) {
    if let Ok(bytes) = <[u8; 4]>::try_from(&*number) {
        number.copy_from_slice(&u32::from_be_bytes(bytes).wrapping_add(offset).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_renumbered_whole_and_what_says_the_numbers_is_left_out() {
        let offsets = Offsets(uuid::Uuid::from_u128(7));
        let rtp = [b"$\0\0\x0e".as_slice(), &[0x80, 96, 255, 255], &[0; 8], b"xy"].concat();
        let answer = b"RTSP/1.0 200 OK\r\nRTP-Info: url=a;seq=1\r\nContent-Length: 3\r\n\r\nabc".to_vec();
        let mut buffer = BytesMut::from([answer, rtp.clone()].concat().as_slice());
        let whole = buffer.len();
        let mut cut = buffer.split_to(20);
        assert_eq!(next_message(&mut cut, &offsets), None, "not whole yet");
        cut.unsplit(buffer);
        let mut buffer = cut;
        assert_eq!(buffer.len(), whole);
        let text = next_message(&mut buffer, &offsets).expect("whole");
        assert_eq!(text, b"RTSP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc");
        let packet = next_message(&mut buffer, &offsets).expect("whole");
        let (sequence, ..) = offsets.of(0);
        assert_eq!(packet[6..8], 65_535_u16.wrapping_add(sequence).to_be_bytes());
        assert_eq!((packet.len(), &packet[16..]), (rtp.len(), b"xy".as_slice()));
        assert_ne!(packet[8..16], rtp[8..16]);
        assert!(buffer.is_empty());
        let other = Offsets(uuid::Uuid::from_u128(8));
        assert_ne!(other.of(0), offsets.of(0), "another connection");
        assert_ne!(offsets.of(2), offsets.of(0), "another track");
    }
}
