//! What a frame costs a Python program more than one in Rust: the same stream, read by a program of each kind in turns.
//!
//! A camera of a few lines (below) serves RTSP from this process: H.264, a keyframe every 50, frames of 9 packets, 10 kB.
//! Each reader is a process of its own with the worker library on two threads, and takes each frame's bytes and time. Once
//! the frames come one by one, 1,000 a second, so that the reader sleeps before each: the CPU time of the whole process
//! counts, since waking up and taking the GIL back is what Python adds. And once as fast as they can be read: the time on
//! the clock counts.
//!
//! The wheel is `$MTXFLEET_WHEEL`, an optimised one (`make wheel`).

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtxfleet_ai_client::{Item, Stream, StreamConfig};
use mtxfleet_benches::Figure;
use mtxfleet_tests::lab::python::{Python, WHEEL};
use serde::Deserialize;

const PAYLOAD: usize = 1_200;
const PACKETS: usize = 9;
const GOP: usize = 50;
/// Rounds; the readers take turns in each.
const ROUNDS: usize = 3;
/// More time for each frame than in Rust, at most.
const GOAL: f64 = 30.0;

/// Frames before counting begins, frames counted, and frames a second (`None`: as fast as they are read).
const PACED: (usize, usize, Option<f64>) = (500, 6_000, Some(1_000.0));
const UNPACED: (usize, usize, Option<f64>) = (2_000, 40_000, None);

/// What a reader measured.
#[derive(Debug, Deserialize)]
struct Spent {
    cpu_us: f64,
    wall_us: f64,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [url, first, count] = &args[..] {
        return read(url, first.parse()?, count.parse()?).await;
    }
    let Some(wheel) = std::env::var(WHEEL).ok() else {
        eprintln!("SKIPPED: Python beside Rust: no wheel; `make wheel` builds one, {WHEEL} names it");
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let python = Python::install(&[&wheel], folder.path()).await?;
    let mut missed = Vec::new();
    for (kind, frames) in [("1,000 frames a second", PACED), ("as fast as it reads", UNPACED)] {
        let mut spent = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (spent, reader) in spent.iter_mut().zip(["Rust", "Python", "asyncio"]) {
                let (first, count, rate) = frames;
                let url = format!("rtsp://{}", camera(rate)?);
                let (first, count) = (first.to_string(), count.to_string());
                let said = if reader == "Rust" {
                    let own = std::env::current_exe()?;
                    let output = tokio::process::Command::new(own).args([&url, &first, &count]).output().await?;
                    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                    String::from_utf8(output.stdout)?
                } else {
                    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/python/reader.py");
                    python
                        .run("python", &[&script.display().to_string(), reader, &url, &first, &count], folder.path())
                        .await?
                };
                let measured: Spent = serde_json::from_str(&said)?;
                eprintln!("{kind}: {reader} {measured:.2?} a frame");
                spent.push(if rate.is_some() { measured.cpu_us } else { measured.wall_us });
            }
        }
        let what = if frames.2.is_some() { "CPU time" } else { "time" };
        let [rust, sync, asyncio] = spent.map(|mut spent| {
            spent.sort_by(f64::total_cmp);
            spent[spent.len() / 2]
        });
        for (way, here) in [("for", sync), ("async for", asyncio)] {
            Figure::new(
                format!("{what} of an encoded frame in Python's `{way}`, {kind}: more than in Rust"),
                here - rust,
                "us",
                format!("at most {GOAL}"),
            )
            .beside("all of it in Rust, same run", rust)
            .print();
            if here - rust > GOAL {
                missed.push(format!("`{way}`, {kind}: {:.0} us more than in Rust", here - rust));
            }
        }
    }
    // Only now: what was measured is printed whether it is good or not.
    ensure!(missed.is_empty(), "{}", missed.join("\n"));
    Ok(())
}

/// The reader in Rust.
async fn read(url: &str, first: usize, count: usize) -> Result<()> {
    let mut frames = Stream::open(StreamConfig::new("cam1", "rust", url, "bench")).await?;
    let (mut seen, mut bytes, mut times, mut begun) = (0, 0, 0, None);
    while let Some(item) = frames.next().await {
        let Item::Frame(frame) = item? else { continue };
        bytes += frame.data.len();
        times ^= frame.rtp_time;
        seen += 1;
        if seen == first {
            begun = Some((Instant::now(), cpu()?));
        }
        if seen == first + count {
            break;
        }
    }
    let (at, before) = begun.context("the stream ended")?;
    let (cpu, wall) = (cpu()? - before, at.elapsed());
    eprintln!("{bytes} bytes, {times}");
    let each = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
    println!("{{\"cpu_us\": {}, \"wall_us\": {}}}", each(cpu), each(wall));
    Ok(())
}

/// CPU time of all threads of this process, from Linux' schedstat, in nanoseconds.
fn cpu() -> Result<Duration> {
    let mut nanos = 0;
    for thread in std::fs::read_dir("/proc/self/task")? {
        let schedstat = std::fs::read_to_string(thread?.path().join("schedstat"))?;
        nanos += schedstat.split_whitespace().next().context("schedstat is empty")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanos))
}

/// An RTSP server with one H.264 stream under every name; serves until the process ends.
fn camera(rate: Option<f64>) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            // Ends when the reader goes.
            std::thread::spawn(move || serve(client, rate));
        }
    });
    Ok(address)
}

fn serve(mut client: TcpStream, rate: Option<f64>) -> Result<()> {
    client.set_nodelay(true)?;
    let mut lines = BufReader::new(client.try_clone()?).lines();
    loop {
        let request: Vec<String> = lines.by_ref().map_while(|line| line.ok().filter(|line| !line.is_empty())).collect();
        let (method, rest) = request.first().and_then(|line| line.split_once(' ')).context("the reader left")?;
        let url = rest.split_once(' ').map_or(rest, |(url, _)| url);
        let cseq = request.iter().find(|line| line.to_lowercase().starts_with("cseq:")).context("no CSeq")?;
        let base = format!("RTSP/1.0 200 OK\r\n{cseq}\r\nSession: 1\r\n");
        match method {
            "DESCRIBE" => write!(
                client,
                "{base}Content-Base: {url}/\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{SDP}",
                SDP.len()
            )?,
            "SETUP" => write!(client, "{base}Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n\r\n")?,
            "PLAY" => {
                write!(client, "{base}\r\n")?;
                return send(&mut client, rate);
            }
            _ => write!(client, "{base}Public: DESCRIBE, SETUP, PLAY, TEARDOWN\r\n\r\n")?,
        }
    }
}

const SDP: &str = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n\
                   a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1; profile-level-id=42c01e; \
                   sprop-parameter-sets=Z0LAHtkDxWhAAAADAEAAAAwDxYuS,aMuMsg==\r\na=control:trackID=0\r\n";

fn send(client: &mut TcpStream, rate: Option<f64>) -> Result<()> {
    let began = Instant::now();
    let mut sequence = 0_u16;
    for number in 0_usize.. {
        let nal_type = if number.is_multiple_of(GOP) { 5 } else { 1 };
        let mut frame = Vec::with_capacity(PACKETS * (PAYLOAD + 16));
        for packet in 0..PACKETS {
            let last = packet + 1 == PACKETS;
            frame.extend([b'$', 0]);
            frame.extend(((12 + PAYLOAD) as u16).to_be_bytes());
            frame.extend([0x80, 96 | if last { 0x80 } else { 0 }]);
            frame.extend(sequence.to_be_bytes());
            frame.extend((number as u32).wrapping_mul(3_600).to_be_bytes());
            frame.extend(0x1234_5678_u32.to_be_bytes());
            // FU-A: indicator, header, and the slice with first_mb_in_slice 0.
            let flags = if packet == 0 { 0x80 } else { 0 } | if last { 0x40 } else { 0 };
            frame.extend([0x7c, flags | nal_type, 0x88]);
            frame.extend((number as u32).to_be_bytes());
            frame.resize(frame.len() + PAYLOAD - 7, packet as u8 + 1);
            sequence = sequence.wrapping_add(1);
        }
        if let Some(rate) = rate {
            let due = began + Duration::from_secs_f64(number as f64 / rate);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        client.write_all(&frame)?;
    }
    Ok(())
}
