//! A publisher of packets made by the test itself: RTSP over TCP (ANNOUNCE, SETUP, RECORD), and nothing else.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::task::JoinHandle;

/// One media, as the SDP describes it (RFC 8866 section 5.14).
#[derive(Debug, Clone)]
pub struct Media {
    /// `video`, `audio`, `application`.
    pub media: &'static str,
    pub payload_type: u8,
    /// `H264/90000`; `None` for a static payload type.
    pub rtpmap: Option<&'static str>,
    pub fmtp: Option<&'static str>,
}

/// The SDP of these medias; track `n` has the control `streamid=n`.
#[must_use]
pub fn sdp(medias: &[Media]) -> String {
    let mut text = String::from("v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=a test\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n");
    for (index, Media { media, payload_type, rtpmap, fmtp }) in medias.iter().enumerate() {
        text += &format!("m={media} 0 RTP/AVP {payload_type}\r\n");
        text.extend(rtpmap.map(|map| format!("a=rtpmap:{payload_type} {map}\r\n")));
        text.extend(fmtp.map(|fmtp| format!("a=fmtp:{payload_type} {fmtp}\r\n")));
        text += &format!("a=control:streamid={index}\r\n");
    }
    text
}

/// Makes the RTP packets of one track (RFC 3550 section 5.1).
#[derive(Debug, Clone)]
pub struct Packetiser {
    pub payload_type: u8,
    /// Of the next packet.
    pub sequence: u16,
    pub ssrc: u32,
}

impl Packetiser {
    pub fn packet(&mut self, timestamp: u32, marker: bool, payload: &[u8]) -> Bytes {
        let mut packet = BytesMut::with_capacity(12 + payload.len());
        packet.put_slice(&[0x80, self.payload_type | if marker { 0x80 } else { 0 }]);
        packet.put_u16(self.sequence);
        packet.put_u32(timestamp);
        packet.put_u32(self.ssrc);
        packet.put_slice(payload);
        self.sequence = self.sequence.wrapping_add(1);
        packet.freeze()
    }
}

/// A connection that records. Dropped, it ends.
#[derive(Debug)]
pub struct Publisher {
    writer: OwnedWriteHalf,
    /// Takes what the server says: receiver reports.
    reading: JoinHandle<()>,
}

impl Publisher {
    /// Publishes to `rtsp://SERVER/PATH`.
    ///
    /// # Errors
    /// When the server cannot be reached, or refuses.
    pub async fn start(server: SocketAddr, path: &str, medias: &[Media]) -> Result<Self> {
        let mut socket = TcpStream::connect(server).await.context("the server cannot be reached")?;
        socket.set_nodelay(true)?;
        let (url, sdp) = (format!("rtsp://{server}/{path}"), sdp(medias));
        let announce = format!("Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{sdp}", sdp.len());
        call(&mut socket, 1, "ANNOUNCE", &url, &announce).await?;
        let mut session = String::new();
        for track in 0..medias.len() {
            let (rtp, rtcp) = (2 * track, 2 * track + 1);
            let rest = format!("Transport: RTP/AVP/TCP;unicast;interleaved={rtp}-{rtcp};mode=record\r\n{session}\r\n");
            let answer = call(&mut socket, 2 + track, "SETUP", &format!("{url}/streamid={track}"), &rest).await?;
            let given = answer.lines().find_map(|line| line.strip_prefix("Session: ")).context("no session")?;
            session = format!("Session: {}\r\n", given.split(';').next().unwrap_or(given));
        }
        call(&mut socket, 2 + medias.len(), "RECORD", &url, &format!("{session}\r\n")).await?;
        let (mut reader, writer) = socket.into_split();
        let reading = tokio::spawn(async move {
            let mut bytes = [0; 4096];
            while reader.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
        });
        Ok(Self { writer, reading })
    }

    /// Sends RTP packets of one track.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send<'a>(&mut self, track: usize, packets: impl IntoIterator<Item = &'a Bytes>) -> Result<()> {
        let mut out = BytesMut::new();
        for packet in packets {
            out.put_slice(&[b'$', u8::try_from(2 * track)?]);
            out.put_u16(u16::try_from(packet.len())?);
            out.put_slice(packet);
        }
        Ok(self.writer.write_all(&out).await?)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// Sends a request and gives the head of its answer, which must be 200.
async fn call(socket: &mut TcpStream, sequence: usize, method: &str, url: &str, rest: &str) -> Result<String> {
    let request = format!("{method} {url} RTSP/1.0\r\nCSeq: {sequence}\r\n{rest}");
    socket.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        ensure!(answer.len() < 10_000, "{method}: the answer has no end");
        answer.push(socket.read_u8().await.with_context(|| format!("{method}: no answer"))?);
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    ensure!(answer.starts_with("RTSP/1.0 200 "), "{method} {url}: {answer}");
    Ok(answer)
}
