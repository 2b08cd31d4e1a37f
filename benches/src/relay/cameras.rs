//! A box of cameras in this process: whatever path is asked for is H.264 of 2 Mbit/s, numbered anew on each connection.
//! Its pictures hold noise; nothing here decodes them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Bits that every stream has in a second, about.
pub const BITRATE: u64 = 2_000_000;

const FRAMES_A_SECOND: u32 = 25;
/// Frames from one keyframe to the next: 2 s.
const GOP: usize = 50;
/// A keyframe is this many times as large as another frame.
const KEYFRAME_FACTOR: usize = 6;
/// Payload bytes of a packet, few enough that nobody splits it.
const PAYLOAD: usize = 1400;
const REPORT_EVERY: usize = 5 * FRAMES_A_SECOND as usize;

const SDP: &str = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n\
    a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1; profile-level-id=64000C; \
    sprop-parameter-sets=Z2QADKw7ULBLQgAAAwACAAADAD0I,aO48gA==\r\na=control:trackID=0\r\n";

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener) {
    // Shared by all connections for the life of the process.
    let gop: &'static [Vec<Vec<u8>>] = Box::leak(group_of_pictures().into_boxed_slice());
    while let Ok((socket, _)) = listener.accept().await {
        tokio::spawn(async move {
            // It ends when its reader leaves.
            let _ = connection(socket, gop).await;
        });
    }
}

/// RTP payloads (RFC 6184, FU-A) of each frame.
fn group_of_pictures() -> Vec<Vec<Vec<u8>>> {
    let gop_bytes = BITRATE as usize / 8 * GOP / FRAMES_A_SECOND as usize;
    let unit = gop_bytes / (GOP - 1 + KEYFRAME_FACTOR);
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut frames = Vec::new();
    for number in 0..GOP {
        let (bytes, kind) = if number == 0 { (unit * KEYFRAME_FACTOR, 5) } else { (unit, 1) };
        let packets = bytes.div_ceil(PAYLOAD);
        let mut frame = Vec::new();
        for at in 0..packets {
            let (first, last) = (u8::from(at == 0) << 7, u8::from(at + 1 == packets) << 6);
            let mut payload = vec![0x7c, first | last | kind];
            payload.extend((payload.len()..bytes / packets).map(|_| noise.byte()));
            frame.push(payload);
        }
        frames.push(frame);
    }
    frames
}

/// Marsaglia's xorshift.
struct Noise(u64);

impl Noise {
    fn byte(&mut self) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 as u8
    }
}

async fn connection(mut socket: TcpStream, gop: &[Vec<Vec<u8>>]) -> Result<()> {
    socket.set_nodelay(true)?;
    let mut buffer = Vec::new();
    loop {
        let request = read_message(&mut socket, &mut buffer).await?;
        let (method, _) = request.split_once(' ').context("no request")?;
        let url = request.split(' ').nth(1).context("no URL")?.trim_end_matches('/');
        let sequence = request.lines().find_map(|line| line.strip_prefix("CSeq: ")).context("no CSeq")?;
        let (more, body) = match method {
            "OPTIONS" => ("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n".to_owned(), ""),
            "DESCRIBE" => {
                let length = SDP.len();
                let base = url.split('?').next().unwrap_or(url);
                let more =
                    format!("Content-Base: {base}/\r\nContent-Type: application/sdp\r\nContent-Length: {length}\r\n");
                (more, SDP)
            }
            "SETUP" => ("Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n".to_owned(), ""),
            "PLAY" => ("Session: 1\r\n".to_owned(), ""),
            "TEARDOWN" => bail!("the reader leaves"),
            _ => ("Session: 1\r\n".to_owned(), ""),
        };
        let answer = format!("RTSP/1.0 200 OK\r\nCSeq: {sequence}\r\n{more}\r\n{body}");
        socket.write_all(answer.as_bytes()).await?;
        if method == "PLAY" {
            return play(socket, gop).await;
        }
    }
}

/// One message without a body: all that readers ask.
pub async fn read_message(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<String> {
    loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            let message: Vec<u8> = buffer.drain(..end + 4).collect();
            return Ok(String::from_utf8_lossy(&message).into_owned());
        }
        if socket.read_buf(buffer).await? == 0 {
            bail!("the connection was closed");
        }
    }
}

/// Sends the group of pictures over and over, and reads what the reader says only to notice that it has left.
async fn play(mut socket: TcpStream, gop: &[Vec<Vec<u8>>]) -> Result<()> {
    let random = uuid::Uuid::new_v4().as_u128();
    let (ssrc, mut sequence, mut timestamp) = (random as u32, (random >> 32) as u16, (random >> 64) as u32);
    let mut tick = tokio::time::interval(Duration::from_secs(1) / FRAMES_A_SECOND);
    let (mut out, mut heard) = (Vec::new(), [0; 4096]);
    for number in 0_usize.. {
        tokio::select! {
            _ = tick.tick() => {}
            read = socket.read(&mut heard) => match read? {
                0 => return Ok(()),
                _ => continue,
            },
        }
        out.clear();
        if number % REPORT_EVERY == 0 {
            report(&mut out, ssrc, timestamp);
        }
        let frame = &gop[number % gop.len()];
        for (at, payload) in frame.iter().enumerate() {
            out.extend_from_slice(&[b'$', 0]);
            out.extend_from_slice(&(12 + payload.len() as u16).to_be_bytes());
            out.extend_from_slice(&[0x80, 96 | (u8::from(at + 1 == frame.len()) << 7)]);
            out.extend_from_slice(&sequence.to_be_bytes());
            out.extend_from_slice(&timestamp.to_be_bytes());
            out.extend_from_slice(&ssrc.to_be_bytes());
            out.extend_from_slice(payload);
            sequence = sequence.wrapping_add(1);
        }
        timestamp = timestamp.wrapping_add(90_000 / FRAMES_A_SECOND);
        socket.write_all(&out).await?;
    }
    Ok(())
}

/// A sender report (RFC 3550, section 6.4.1), which MediaMTX waits for before it passes anything on.
fn report(out: &mut Vec<u8>, ssrc: u32, timestamp: u32) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let ntp = ((since.as_secs() + 2_208_988_800) << 32) | ((u64::from(since.subsec_nanos()) << 32) / 1_000_000_000);
    out.extend_from_slice(&[b'$', 1, 0, 28, 0x80, 200, 0, 6]);
    out.extend_from_slice(&ssrc.to_be_bytes());
    out.extend_from_slice(&ntp.to_be_bytes());
    out.extend_from_slice(&timestamp.to_be_bytes());
    out.extend_from_slice(&[0; 8]);
}
