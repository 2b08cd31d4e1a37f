//! An RTSP server over TCP that plays what a test makes up: a camera that misbehaves, or one that never comes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, broadcast};
use tokio::task::{JoinHandle, JoinSet};

use crate::publisher::{Media, sdp};

/// What the server does with who connects.
#[derive(Debug, Clone)]
pub enum Script {
    /// Takes connections and never says a word.
    Mute,
    /// Plays these medias. [`ScriptedServer::send`] gives packets to all who play then.
    Plays(Vec<Media>),
}

/// The server. Dropped, it ends.
#[derive(Debug)]
pub struct ScriptedServer {
    pub address: SocketAddr,
    packets: broadcast::Sender<(usize, Bytes)>,
    task: JoinHandle<()>,
}

impl ScriptedServer {
    /// # Errors
    /// When the address is taken.
    pub async fn start(address: SocketAddr, script: Script) -> Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let packets = broadcast::Sender::new(4096);
        let to_readers = packets.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let (script, packets) = (script.clone(), to_readers.clone());
                connections.spawn(async move {
                    let served = match script {
                        Script::Mute => mute(socket).await,
                        Script::Plays(medias) => play(socket, &medias, &packets).await,
                    };
                    served.unwrap_or_else(|error| eprintln!("scripted server: {error:#}"));
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, packets, task })
    }

    /// Sends an RTP packet of a track to everybody who plays.
    pub fn send(&self, track: usize, packet: &Bytes) {
        let _ = self.packets.send((track, packet.clone()));
    }
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn mute(mut socket: TcpStream) -> Result<()> {
    let mut bytes = [0; 1024];
    while socket.read(&mut bytes).await? > 0 {}
    Ok(())
}

async fn play(socket: TcpStream, medias: &[Media], packets: &broadcast::Sender<(usize, Bytes)>) -> Result<()> {
    socket.set_nodelay(true)?;
    let (reader, writer) = socket.into_split();
    let (mut reader, writer) = (BufReader::new(reader), Arc::new(Mutex::new(writer)));
    let mut playing = JoinSet::new();
    while let Some(request) = request(&mut reader).await? {
        let header = |name: &str| request.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let sequence = header("CSeq:").context("no CSeq")?;
        let method = request.split(' ').next().unwrap_or_default();
        let (more, body) = match method {
            "DESCRIBE" => ("Content-Type: application/sdp\r\n".to_owned(), sdp(medias)),
            "SETUP" => (format!("Transport: {}\r\n", header("Transport:").context("no Transport")?), String::new()),
            _ => (String::new(), String::new()),
        };
        // Before the answer, so that no packet sent after it is missed.
        let mut subscribed = (method == "PLAY").then(|| packets.subscribe());
        let length = body.len();
        let answer = format!(
            "RTSP/1.0 200 OK\r\nCSeq: {sequence}\r\nSession: 1\r\n{more}Content-Length: {length}\r\n\r\n{body}"
        );
        writer.lock().await.write_all(answer.as_bytes()).await?;
        if let Some(packets) = subscribed.take() {
            playing.spawn(hand_on(packets, Arc::clone(&writer)));
        }
        if method == "TEARDOWN" {
            break;
        }
    }
    Ok(())
}

async fn hand_on(mut packets: broadcast::Receiver<(usize, Bytes)>, writer: Arc<Mutex<OwnedWriteHalf>>) {
    while let Ok((track, packet)) = packets.recv().await {
        let mut framed = BytesMut::with_capacity(4 + packet.len());
        framed.put_slice(&[b'$', 2 * track as u8]);
        framed.put_u16(packet.len() as u16);
        framed.put_slice(&packet);
        if writer.lock().await.write_all(&framed).await.is_err() {
            return;
        }
    }
}

/// The next request's head; RTCP of the reader is passed over. `None` at the end, and after a long silence.
async fn request(reader: &mut BufReader<tokio::net::tcp::OwnedReadHalf>) -> Result<Option<String>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(Ok(byte)) = tokio::time::timeout(Duration::from_secs(120), reader.read_u8()).await else {
            return Ok(None);
        };
        if head.is_empty() && byte == b'$' {
            reader.read_u8().await?;
            let length = reader.read_u16().await?;
            reader.read_exact(&mut vec![0; usize::from(length)]).await?;
            continue;
        }
        head.push(byte);
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}
