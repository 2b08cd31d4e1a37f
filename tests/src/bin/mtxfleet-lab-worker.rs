//! A worker as a process of its own, to be killed and started again: it says what it does with each frame, one line
//! each, and then that it is done with it.
//!
//! ```text
//! start resumed 25               how it began
//! F HASH new|early|replayed|recorded   a frame, by the hash of its pictures; those for decoding only are left out. `early`
//!                                came live, so soon that an earlier life may have had it
//! G AFTER|- BEFORE               a gap
//! R BACKLOG RATE|-               how far it is behind, in seconds, and how fast it catches up
//! ```

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use mtxfleet_ai_client::{Checkpoints, Codec, Item, Start, Stream, StreamConfig};
use mtxfleet_tests::compare::vcl_hash_annex_b;
use mtxfleet_tests::plain_reader::VideoCodec;

/// Longer than a node takes to come back after a crash.
const RECORDING_TIMEOUT: Duration = Duration::from_secs(16);

/// URL, cluster, stream, worker, token, journal, Redis or `-`, agents.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [url, cluster, stream, worker, token, journal, redis, agents @ ..] = &args[..] else {
        anyhow::bail!("URL CLUSTER STREAM WORKER TOKEN JOURNAL REDIS|- AGENT...");
    };
    let checkpoints = Checkpoints {
        every_frames: 5,
        every: Duration::from_millis(500),
        journal: (journal != "-").then(|| PathBuf::from(journal)),
        ..Checkpoints::explicit()
    };
    let config = StreamConfig {
        redis: (redis != "-").then(|| redis.clone()),
        agents: agents.to_vec(),
        worker_token: Some(token.clone()),
        checkpoints: Some(checkpoints),
        recording_timeout: RECORDING_TIMEOUT,
        ..StreamConfig::new(stream, worker, url, cluster)
    };
    let mut frames = Stream::open(config).await?;
    let mut out = std::io::stdout().lock();
    let start = match frames.start() {
        Start::Live => "live".to_owned(),
        Start::Resumed { done, .. } => format!("resumed {done}"),
        Start::Unknown { why } => format!("unknown {why}"),
    };
    writeln!(out, "start {start}")?;
    let status = frames.watch();
    let mut told = None;
    while let Some(item) = frames.next().await {
        let replay = status.borrow().replay;
        if let Some(replay) = replay.filter(|replay| told != Some(*replay)) {
            let rate = replay.rate.map_or_else(|| "-".to_owned(), |rate| rate.to_string());
            writeln!(out, "R {} {rate}", replay.backlog.as_secs_f64())?;
            told = Some(replay);
        }
        match item {
            Ok(Item::Frame(frame)) if !frame.decode_only => {
                let codec = match frame.codec {
                    Codec::H264 => VideoCodec::H264,
                    Codec::H265 => VideoCodec::H265,
                    Codec::Other => continue,
                };
                let bytes = frame.data.annex_b().context("video comes as Annex B")?;
                if let Some(hash) = vcl_hash_annex_b(codec, bytes) {
                    let kind = match (frame.replayed, frame.recorded) {
                        (true, true) => "replayed",
                        (true, false) => "early",
                        (false, true) => "recorded",
                        (false, false) => "new",
                    };
                    writeln!(out, "F {hash:016x} {kind}")?;
                }
                out.flush()?;
                frame.done();
            }
            Ok(Item::Frame(_)) => {}
            Ok(Item::Discontinuity(gap)) => {
                let after = gap.after.map_or_else(|| "-".to_owned(), |after| after.to_string());
                writeln!(out, "G {after} {}", gap.before)?;
            }
            Err(error) => {
                writeln!(out, "E {error}")?;
                out.flush()?;
            }
        }
    }
    Ok(())
}
