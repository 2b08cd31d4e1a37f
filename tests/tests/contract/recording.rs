//! Cases about the rolling recording and the playback server.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use mtxfleet_tests::{
    compare::vcl_hashes_annex_b,
    lab::{programs, wait::wait_for},
    plain_reader::{PlainReader, VideoCodec},
};
use serde_json::Value;

use crate::servers::{Pair, SOON, Sample};

/// Keyframes of the samples are a second apart.
const GOP: usize = 25;

pub async fn a_recording_holds_the_pictures_that_a_reader_saw(pair: Arc<Pair>) -> Result<()> {
    for (path, sample, codec) in [
        ("site/cam1", Sample::H264WithBFrames, VideoCodec::H264),
        ("cam2", Sample::H265, VideoCodec::H265),
        ("cam3", Sample::H264WithAac, VideoCodec::H264),
    ] {
        let _camera = pair.camera(path, sample).await?;
        let reader = PlainReader::start(&pair.ingestion.url(path));
        ensure!(reader.wait_for(1, SOON).await, "{:?}", reader.ended());
        let seconds = |entry: &Value| entry["duration"].as_f64().context("no duration");
        let had = wait_for("a recording", SOON, async || only_entry(&pair, path).await).await?;
        let from = seconds(&had)?.ceil() + 1.5;
        wait_for("enough to be recorded", SOON, async || -> Result<()> {
            let entry = only_entry(&pair, path).await?;
            ensure!(seconds(&entry)? >= from + 2.5, "{entry}");
            Ok(())
        })
        .await?;
        let start: jiff::Timestamp = had["start"].as_str().context("no start")?.parse()?;
        let start = start.checked_add(jiff::SignedDuration::from_secs_f64(from))?.to_string();
        let seen: Vec<u64> = reader.stop().await.iter().map(|frame| frame.hash).collect();
        let (status, file) = get(&pair, path, &start, "2").await?;
        ensure!(status == 200, "{status}: {}", String::from_utf8_lossy(&file));

        let hashes = vcl_hashes_annex_b(codec, &pictures(&pair, &file, codec).await?);
        ensure!(seen.windows(hashes.len()).any(|run| run == hashes), "{path}: other pictures than a reader's");
        // From the keyframe before, though shown from the place on that was asked for.
        let packets = packets(&pair, &file).await?;
        ensure!(packets.len() == hashes.len() && packets[0].0, "{path}: {packets:?}");
        let lead = packets.iter().take_while(|packet| packet.1 == 0).count();
        ensure!((1..GOP).contains(&lead), "{path}: {lead} frames that last no time: {packets:?}");
        let keyframes = packets.iter().filter(|packet| packet.0).count();
        ensure!((3..=4).contains(&keyframes), "{path}: {packets:?}");
        let shown = packets.len() - lead;
        ensure!((2 * GOP - 1..=2 * GOP + 1).contains(&shown), "{path}: {shown} frames in 2 s");
        // A tick is lost here and there.
        let even = |packet: &(bool, i64)| (3_590..=3_610).contains(&packet.1);
        ensure!(packets[lead..packets.len() - 1].iter().all(even), "{path}: {packets:?}");
    }
    Ok(())
}

pub async fn what_was_recorded_is_there_after_a_crash_and_goes_on_in_a_second_piece(pair: Arc<Pair>) -> Result<()> {
    let mut camera = pair.camera("cam1", Sample::H264).await?;
    let before = wait_for("a recording", SOON, async || -> Result<Value> {
        let entry = only_entry(&pair, "cam1").await?;
        ensure!(entry["duration"].as_f64().is_some_and(|seconds| seconds >= 2.0), "{entry}");
        Ok(entry)
    });
    let before = before.await?;
    pair.ingestion.crash().await?;
    let after = only_entry(&pair, "cam1").await?;
    ensure!(after["start"] == before["start"], "{before} {after}");
    ensure!(after["duration"].as_f64() >= before["duration"].as_f64(), "{before} {after}");
    camera.stop();
    camera.restart()?;
    wait_for("a second piece", SOON, async || -> Result<()> {
        let (_, body) = pair.ingestion.playback("/list", &[("path", "cam1")], true).await?;
        let entries: Value = serde_json::from_slice(&body)?;
        ensure!(entries.as_array().is_some_and(|entries| entries.len() == 2), "{entries}");
        Ok(())
    })
    .await?;
    // Asked for from before the hole, only what is before it comes.
    let start = before["start"].as_str().context("no start")?;
    let (_, file) = get(&pair, "cam1", start, "600").await?;
    let seconds = packets(&pair, &file).await?.len() as f64 / 25.0;
    ensure!(after["duration"].as_f64().is_some_and(|length| (length - seconds).abs() < 0.3), "{after}, {seconds} s");
    Ok(())
}

pub async fn playback_refuses_what_it_cannot_give(pair: Arc<Pair>) -> Result<()> {
    let status = async |what: &str, query: &[(&str, &str)], credentials: bool| -> Result<u16> {
        Ok(pair.ingestion.playback(what, query, credentials).await?.0)
    };
    let (never, body) = pair.ingestion.playback("/list", &[("path", "cam1")], true).await?;
    let body = String::from_utf8_lossy(&body);
    ensure!(never == 400 && body.contains("no such file or directory"), "never recorded: {never} {body}");
    let _camera = pair.camera("cam1", Sample::H264).await?;
    wait_for("a recording", SOON, async || only_entry(&pair, "cam1").await).await?;
    ensure!(status("/list", &[("path", "cam1")], false).await? == 401, "no credentials");
    ensure!(status("/list", &[("path", "../cam1")], true).await? == 400, "a name that leads out");
    ensure!(status("/list", &[("path", "cam1"), ("start", "yesterday")], true).await? == 400, "no time");
    let asked =
        |start, duration, format| [("path", "cam1"), ("start", start), ("duration", duration), ("format", format)];
    ensure!(status("/get", &asked("yesterday", "1", "fmp4"), true).await? == 400, "no time");
    ensure!(status("/get", &asked("2020-01-01T00:00:00Z", "soon", "fmp4"), true).await? == 400, "no duration");
    ensure!(status("/get", &asked("2020-01-01T00:00:00Z", "1", "avi"), true).await? == 400, "no format");
    ensure!(status("/get", &asked("2020-01-01T00:00:00Z", "1", "fmp4"), true).await? == 404, "long before");
    ensure!(status("/get", &asked("2099-01-01T00:00:00Z", "1", "fmp4"), true).await? == 404, "not yet");
    ensure!(status("/list", &[("path", "cam1"), ("start", "2099-01-01T00:00:00Z")], true).await? == 404, "not yet");
    Ok(())
}

async fn only_entry(pair: &Pair, path: &str) -> Result<Value> {
    let (status, body) = pair.ingestion.playback("/list", &[("path", path)], true).await?;
    ensure!(status == 200, "{status}: {}", String::from_utf8_lossy(&body));
    let mut entries: Vec<Value> = serde_json::from_slice(&body)?;
    ensure!(entries.len() == 1 && entries[0]["url"].is_string(), "{entries:?}");
    Ok(entries.swap_remove(0))
}

async fn get(pair: &Pair, path: &str, start: &str, seconds: &str) -> Result<(u16, Vec<u8>)> {
    let query = [("path", path), ("start", start), ("duration", seconds), ("format", "fmp4")];
    pair.ingestion.playback("/get", &query, true).await
}

/// The video as an elementary stream, by ffmpeg.
async fn pictures(pair: &Pair, file: &[u8], codec: VideoCodec) -> Result<Vec<u8>> {
    let (filter, format) = match codec {
        VideoCodec::H264 => ("h264_mp4toannexb", "h264"),
        VideoCodec::H265 => ("hevc_mp4toannexb", "hevc"),
    };
    let path = pair.file("recorded.mp4", file)?;
    let options = ["-map", "0:v", "-c", "copy", "-bsf:v", filter, "-f", format, "-"];
    run("ffmpeg", &["-v", "error", "-nostdin", "-i"], &path, &options).await
}

/// Of each video packet whether it is a keyframe, and ticks until the next one is decoded, by ffprobe.
async fn packets(pair: &Pair, file: &[u8]) -> Result<Vec<(bool, i64)>> {
    let path = pair.file("packets.mp4", file)?;
    let options = ["-v", "error", "-select_streams", "v", "-show_packets", "-of", "json"];
    let shown: Value = serde_json::from_slice(&run("ffprobe", &options, &path, &[]).await?)?;
    let packets = shown["packets"].as_array().context("no packets")?;
    let at = |at: usize| packets.get(at).and_then(|packet| packet["dts"].as_i64());
    let lasts = |index: usize| at(index + 1).zip(at(index)).map_or(0, |(next, this)| next - this);
    let is_key = |packet: &Value| packet["flags"].as_str().is_some_and(|flags| flags.starts_with('K'));
    Ok(packets.iter().enumerate().map(|(index, packet)| (is_key(packet), lasts(index))).collect())
}

async fn run(program: &str, before: &[&str], file: &Path, after: &[&str]) -> Result<Vec<u8>> {
    let mut command = tokio::process::Command::new(programs::find(program)?);
    command.args(before).arg(file).args(after).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(20), command.output()).await??;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}
