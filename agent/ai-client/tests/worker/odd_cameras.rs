//! Cameras, and servers, that do what they should not: whatever it is, frames come whole and in order, and where some
//! are missing the stream says so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mtxfleet_ai_client::{Error, Item, LegId, Stream, StreamConfig};
use mtxfleet_tests::lab::address::Loopback;
use mtxfleet_tests::plain_reader::VideoCodec;
use mtxfleet_tests::publisher::{Media, Packetiser};
use mtxfleet_tests::scripted_server::{Script, ScriptedServer};
use mtxfleet_tests::stamped::{counter_of_picture, picture, picture_packets};
use tokio::task::JoinHandle;

use crate::faults::{BOUND, CAMERA, WORKER};

/// Faster than cameras are, to save time.
const INTERVAL: Duration = Duration::from_millis(15);

fn video() -> Media {
    let fmtp = Some("packetization-mode=1; sprop-parameter-sets=Z0LAHtkDxWhAAAADAEAAAAwDxYuS,aMuMsg==");
    Media { media: "video", payload_type: 96, rtpmap: Some("H264/90000"), fmtp }
}

/// A live camera: what `sends` makes of each picture's packets goes to whoever plays then.
struct Odd {
    server: Arc<ScriptedServer>,
    task: JoinHandle<()>,
}

impl Odd {
    async fn start(mut sends: impl FnMut(u64, &mut Packetiser) -> u32 + Send + 'static, copies: usize) -> Result<Self> {
        let address = Loopback::next().port()?;
        let server = Arc::new(ScriptedServer::start(address, Script::Plays(vec![video()])).await?);
        let sending = Arc::clone(&server);
        let task = tokio::spawn(async move {
            let mut packets = Packetiser { payload_type: 96, sequence: 65_000, ssrc: 1 };
            let mut due = tokio::time::interval(INTERVAL);
            for number in 0.. {
                due.tick().await;
                let timestamp = sends(number, &mut packets);
                let nal = picture(VideoCodec::H264, number);
                for packet in picture_packets(VideoCodec::H264, &nal, timestamp, &mut packets) {
                    (0..copies).for_each(|_| sending.send(0, &packet));
                }
            }
        });
        Ok(Self { server, task })
    }

    async fn open(&self) -> Result<Stream> {
        let url = format!("rtsp://{}", self.server.address);
        Ok(Stream::open(StreamConfig { open_timeout: BOUND, ..StreamConfig::new(CAMERA, WORKER, url, "lab") }).await?)
    }
}

impl Drop for Odd {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn steady(number: u64) -> u32 {
    (number as u32).wrapping_mul(1_350)
}

/// Reads until this picture: each whole, in order, once, and what is missing is told. How many are missing.
async fn read_until(stream: &mut Stream, end: u64) -> Result<u64> {
    let (mut before, mut told, mut missing): (Option<u64>, bool, u64) = (None, false, 0);
    loop {
        match tokio::time::timeout(BOUND, stream.next()).await.context("no frame")?.context("the stream is over")?? {
            Item::Discontinuity(_) => told = true,
            Item::Frame(frame) => {
                let bytes = frame.data.annex_b().context("H.264")?;
                let number = counter_of_picture(bytes).context("a damaged picture")?;
                let expected = before.map_or(number, |before| before + 1);
                anyhow::ensure!(number >= expected, "{number} after {before:?}");
                anyhow::ensure!(number == expected || told, "{expected} to {number} are missing, and nothing says so");
                missing += number - expected;
                (before, told) = (Some(number), false);
                if number >= end {
                    return Ok(missing);
                }
            }
        }
    }
}

#[tokio::test]
async fn a_camera_that_sends_every_packet_twice_is_read_on_one_connection() -> Result<()> {
    let camera = Odd::start(|number, _| steady(number), 2).await?;
    let mut stream = camera.open().await?;
    let leg: Option<LegId> = stream.leg();
    assert_eq!(read_until(&mut stream, 120).await?, 0);
    assert_eq!(stream.leg(), leg, "it did not come back, it stayed");
    assert_eq!(stream.close().await.lost_packets, 0);
    Ok(())
}

#[tokio::test]
async fn a_clock_that_jumps_back_or_ahead_costs_no_frame() -> Result<()> {
    let jumps = |number: u64, _: &mut Packetiser| match number {
        0..40 => steady(number),
        40..80 => steady(number).wrapping_sub(900_000),
        80..110 => steady(number).wrapping_add(1 << 31),
        // A camera whose clock stands still and then goes on in another rate.
        _ => 7 + number as u32,
    };
    let camera = Odd::start(jumps, 1).await?;
    let mut stream = camera.open().await?;
    assert_eq!(read_until(&mut stream, 150).await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_camera_that_changes_its_ssrc_or_counts_anew_is_followed_and_what_is_missed_is_told() -> Result<()> {
    let changes = |number: u64, packets: &mut Packetiser| {
        match number {
            40 => packets.ssrc = 2,
            90 => packets.sequence = packets.sequence.wrapping_sub(20_000),
            140 => packets.sequence = packets.sequence.wrapping_add(20_000),
            190 => *packets = Packetiser { payload_type: 96, sequence: 9, ssrc: 77 },
            _ => {}
        }
        steady(number)
    };
    let camera = Odd::start(changes, 1).await?;
    let mut stream = camera.open().await?;
    let missing = read_until(&mut stream, 280).await?;
    assert!(missing < 150, "{missing} pictures");
    Ok(())
}

#[tokio::test]
async fn a_server_that_never_answers_or_never_plays_is_a_clear_error_in_time() -> Result<()> {
    let mut addresses = Loopback::next();
    for (script, expected) in [(Script::Mute, "no answer"), (Script::Plays(vec![video()]), "no packet")] {
        let server = ScriptedServer::start(addresses.port()?, script).await?;
        let config = StreamConfig {
            open_timeout: Duration::from_millis(1_500),
            leg_timeout: Duration::from_millis(500),
            ..StreamConfig::new(CAMERA, WORKER, format!("rtsp://{}", server.address), "lab")
        };
        let begun = Instant::now();
        let error = Stream::open(config).await.err().context("it opened")?;
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        assert!(matches!(error, Error::NotOpened { .. }), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    Ok(())
}
