//! Readers that cost as little as possible: they count bytes, and look at none.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::cameras::{BITRATE, read_message};

/// Dropping it closes their connections.
pub struct Readers {
    /// Bytes so far, of each.
    counts: Vec<Arc<AtomicU64>>,
    _tasks: JoinSet<()>,
}

impl Readers {
    /// One reader each of `cam1` to `camN` at a server; ready when all receive.
    ///
    /// # Errors
    /// When one is refused, or gets nothing in time.
    pub async fn start(server: SocketAddr, streams: usize) -> Result<Self> {
        let (mut counts, mut tasks) = (Vec::new(), JoinSet::new());
        for number in 1..=streams {
            let stream = format!("cam{number}");
            let opened = open(server, &stream);
            let opened = tokio::time::timeout(Duration::from_secs(15), opened).await.context("no answer");
            let socket = opened.flatten().with_context(|| format!("{stream} at {server}"))?;
            let count = Arc::<AtomicU64>::default();
            counts.push(Arc::clone(&count));
            tasks.spawn(drain(socket, count));
        }
        Ok(Self { counts, _tasks: tasks })
    }

    pub fn bytes(&self) -> Vec<u64> {
        self.counts.iter().map(|count| count.load(Relaxed)).collect()
    }

    /// That each got what its camera sent since `before`, or nearly so.
    ///
    /// # Errors
    /// When one did not: then the work was not done, and its cost says nothing.
    pub fn check(&self, before: &[u64], passed: Duration) -> Result<()> {
        let wanted = BITRATE as f64 / 8.0 * passed.as_secs_f64();
        for (at, (now, before)) in self.bytes().into_iter().zip(before).enumerate() {
            let got = (now - before) as f64;
            ensure!(got > 0.9 * wanted, "the reader of cam{} got {got} of {wanted} bytes", at + 1);
        }
        Ok(())
    }
}

async fn open(server: SocketAddr, stream: &str) -> Result<TcpStream> {
    let mut socket = TcpStream::connect(server).await?;
    let (mut buffer, url) = (Vec::new(), format!("rtsp://{server}/{stream}"));
    let described = ask(&mut socket, &mut buffer, 1, "DESCRIBE", &url, "Accept: application/sdp").await?;
    let length = header(&described, "content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    while buffer.len() < length {
        ensure!(socket.read_buf(&mut buffer).await? > 0, "closed within its SDP");
    }
    let sdp = String::from_utf8_lossy(&buffer.drain(..length).collect::<Vec<_>>()).into_owned();
    let control = sdp.lines().rev().find_map(|line| line.strip_prefix("a=control:")).context("no control")?;
    let base = header(&described, "content-base").unwrap_or_else(|| format!("{url}/"));
    let track = if control.starts_with("rtsp://") { control.to_owned() } else { format!("{base}{control}") };
    let transport = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1";
    let set_up = ask(&mut socket, &mut buffer, 2, "SETUP", &track, transport).await?;
    let session = header(&set_up, "session").context("no session")?;
    let session = format!("Session: {}", session.split(';').next().unwrap_or_default());
    ask(&mut socket, &mut buffer, 3, "PLAY", &base, &session).await?;
    Ok(socket)
}

async fn ask(
    socket: &mut TcpStream,
    buffer: &mut Vec<u8>,
    sequence: u32,
    method: &str,
    url: &str,
    more: &str,
) -> Result<String> {
    let request = format!("{method} {url} RTSP/1.0\r\nCSeq: {sequence}\r\n{more}\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let answer = read_message(socket, buffer).await?;
    ensure!(answer.starts_with("RTSP/1.0 200"), "{method}: {answer}");
    Ok(answer)
}

fn header(answer: &str, name: &str) -> Option<String> {
    let named = |line: &str| {
        line.split_once(':').filter(|(of, _)| of.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim().to_owned())
    };
    answer.lines().find_map(named)
}

async fn drain(mut socket: TcpStream, count: Arc<AtomicU64>) {
    let mut bytes = vec![0; 64 * 1024];
    // A connection that ends is found by its count.
    while let Ok(read @ 1..) = socket.read(&mut bytes).await {
        count.fetch_add(read as u64, Relaxed);
    }
}
