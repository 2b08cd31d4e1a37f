//! Cases about streams: publishing, reading, pulling.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use anyhow::{Context, Result, ensure};
use mtxfleet_tests::{
    lab::{programs, wait::wait_for},
    plain_reader::{PacketReader, PlainReader, SeenPacket},
};

use crate::servers::{CLOSE_AFTER, Dialogue, FLEET, Pair, SOON, START_TIMEOUT, Sample, basic};

/// The samples have 25 frames a second, so this many take two seconds.
const ENOUGH: usize = 50;

pub async fn every_codec_is_published_and_read(pair: Arc<Pair>) -> Result<()> {
    for sample in Sample::ALL {
        let path = format!("site/{sample:?}");
        let _camera = pair.camera(&path, sample).await?;
        let reader = PlainReader::start(&pair.ingestion.url(&path));
        ensure!(reader.wait_for(ENOUGH, SOON).await, "{sample:?}: {:?} {}", reader.ended(), reader.frames().len());
        let frames = reader.stop().await;
        let backwards =
            frames.windows(2).any(|two| two[1].rtp_timestamp.wrapping_sub(two[0].rtp_timestamp) > u32::MAX / 2);
        ensure!(backwards == (sample == Sample::H264WithBFrames), "{sample:?}: timestamps backwards: {backwards}");
        ensure!(frames.iter().any(|frame| frame.keyframe), "{sample:?}: no keyframe");
        let mut hashes: Vec<_> = frames.iter().map(|frame| frame.hash).collect();
        hashes.sort_unstable();
        hashes.dedup();
        ensure!(hashes.len() > ENOUGH / 2, "{sample:?}: only {} pictures differ", hashes.len());
    }
    Ok(())
}

pub async fn a_pull_passes_every_packet_on_unchanged(pair: Arc<Pair>) -> Result<()> {
    for sample in [Sample::H264WithAac, Sample::H264WithBFrames, Sample::H265] {
        let path = format!("{sample:?}");
        let _camera = pair.camera(&path, sample).await?;
        let direct = PacketReader::start_packets(&pair.ingestion.url(&path));
        ensure!(direct.wait_for(1, SOON).await, "{sample:?}, direct: {:?}", direct.ended());
        let pulled = PacketReader::start_packets(&pair.distribution.url(&path));
        ensure!(pulled.wait_for(4 * ENOUGH, SOON).await, "{sample:?}, pulled: {:?}", pulled.ended());
        ensure!(pulled.wait_for_sender_report(SOON).await, "{sample:?}: no sender report");
        let pulled = pulled.stop().await;
        let last = pulled.last().context("packets were seen")?;
        // What the direct reader has not got yet cannot be compared.
        ensure!(direct.wait_for(direct.packets().len() + 20, SOON).await, "{:?}", direct.ended());
        let direct = direct.stop().await;
        let tracks = if sample == Sample::H264WithAac { 2 } else { 1 };
        for track in 0..tracks {
            let compared =
                same_packets(&direct, &pulled, track).with_context(|| format!("{sample:?}, track {track}"))?;
            ensure!(compared >= ENOUGH / 2, "{sample:?}, track {track}: only {compared} packets of {}", pulled.len());
        }
        ensure!(direct.iter().all(|packet| packet.ssrc != last.ssrc), "{sample:?}: the SSRC is passed on");
    }
    Ok(())
}

/// Checks that a track's packets follow each other without a gap, and are the same where both have them; how many those
/// are.
fn same_packets(direct: &[SeenPacket], pulled: &[SeenPacket], track: usize) -> Result<usize> {
    let of_track = |packets: &[SeenPacket]| -> Result<BTreeMap<u16, (u32, bool, u64)>> {
        let packets: Vec<_> = packets.iter().filter(|packet| packet.track == track).collect();
        for two in packets.windows(2) {
            ensure!(two[1].sequence == two[0].sequence.wrapping_add(1), "{two:?}");
        }
        let content = |packet: &SeenPacket| (packet.rtp_timestamp, packet.marker, packet.payload_hash);
        Ok(packets.into_iter().map(|packet| (packet.sequence, content(packet))).collect())
    };
    let (direct, pulled) = (of_track(direct)?, of_track(pulled)?);
    let common: Vec<_> =
        pulled.iter().filter_map(|(sequence, seen)| Some((sequence, seen, direct.get(sequence)?))).collect();
    for (sequence, pulled, direct) in &common {
        ensure!(pulled == direct, "packet {sequence}: {direct:?} became {pulled:?}");
    }
    Ok(common.len())
}

pub async fn ffprobe_reads_through_a_pull(pair: Arc<Pair>) -> Result<()> {
    let _camera = pair.camera("cam1", Sample::H264WithAac).await?;
    let probing = tokio::process::Command::new(programs::find("ffprobe")?)
        .args(["-v", "error", "-rtsp_transport", "tcp", "-show_entries", "stream=codec_name,width,sample_rate"])
        .args(["-of", "csv=p=0", &pair.distribution.url("cam1")])
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(SOON, probing).await.context("ffprobe does not end")??;
    let seen = String::from_utf8_lossy(&output.stdout);
    ensure!(
        seen.contains("h264,320") && seen.contains("aac,48000"),
        "{seen} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

pub async fn a_pull_follows_redirects_and_keeps_its_credentials(pair: Arc<Pair>) -> Result<()> {
    let _camera = pair.camera("site/cam1", Sample::H264).await?;
    let first = PlainReader::start(&pair.distribution.url("site/cam1"));
    ensure!(first.wait_for(2, SOON).await, "{:?}", first.ended());
    let second = PlainReader::start(&pair.distribution.url("site/cam1"));
    ensure!(second.wait_for(2, SOON).await, "{:?}", second.ended());
    ensure!(pair.redirector.describes() == 1, "a warm path asked again: {}", pair.redirector.describes());
    // The ingestion server lets nobody else read, and the Location has no credentials.
    let sessions = pair.ingestion.list("rtspsessions").await?;
    let pulls: Vec<_> = sessions.iter().filter(|session| session["state"] == "read").collect();
    ensure!(pulls.len() == 1 && pulls[0]["path"] == "site/cam1", "{sessions:?}");
    Ok(())
}

pub async fn a_reader_of_a_warm_path_starts_at_once_with_any_packet(pair: Arc<Pair>) -> Result<()> {
    let _camera = pair.camera("cam1", Sample::H264).await?;
    let first = PacketReader::start_packets(&pair.distribution.url("cam1"));
    ensure!(first.wait_for(ENOUGH, SOON).await, "{:?}", first.ended());
    for _ in 0..5 {
        let asked = Instant::now();
        let second = PacketReader::start_packets(&pair.distribution.url("cam1"));
        ensure!(second.wait_for(1, SOON).await, "{:?}", second.ended());
        let waited = asked.elapsed();
        // A keyframe comes once a second, a frame every 40 ms.
        ensure!(waited.as_millis() < 700, "waited {waited:?} on a warm path");
        ensure!(first.wait_for(first.packets().len() + 2, SOON).await, "{:?}", first.ended());
        let joined = second.stop().await;
        ensure!(same_packets(&first.packets(), &joined, 0)? > 0, "{joined:?}");
    }
    Ok(())
}

pub async fn the_end_of_the_source_closes_readers_and_the_next_one_starts_it_again(pair: Arc<Pair>) -> Result<()> {
    let mut camera = pair.camera("cam1", Sample::H264).await?;
    let direct = PlainReader::start(&pair.ingestion.url("cam1"));
    let pulled = PlainReader::start(&pair.distribution.url("cam1"));
    ensure!(direct.wait_for(5, SOON).await && pulled.wait_for(5, SOON).await, "{direct:?} {pulled:?}");
    camera.kill();
    let killed = Instant::now();
    for (name, reader) in [("direct", &direct), ("pulled", &pulled)] {
        ensure!(reader.wait_for_end(SOON).await.is_some(), "the {name} reader goes on");
        ensure!(killed.elapsed().as_secs() < 3, "the {name} reader was closed after {:?}", killed.elapsed());
    }
    pair.ingestion.wait_gone("cam1").await?;
    pair.distribution.wait_idle("cam1").await?;
    let _camera = pair.camera("cam1", Sample::H264).await?;
    let again = PlainReader::start(&pair.distribution.url("cam1"));
    ensure!(again.wait_for(5, SOON).await, "{:?}", again.ended());
    ensure!(pair.redirector.describes() == 2, "the source was asked for {} times", pair.redirector.describes());
    Ok(())
}

pub async fn an_on_demand_source_ends_after_its_last_reader(pair: Arc<Pair>) -> Result<()> {
    let _camera = pair.camera("cam1", Sample::H264).await?;
    ensure!(pair.distribution.list("paths").await?.is_empty(), "pulled before anyone asked");
    let one = PlainReader::start(&pair.distribution.url("cam1"));
    let other = PlainReader::start(&pair.distribution.url("cam1"));
    ensure!(one.wait_for(2, SOON).await && other.wait_for(2, SOON).await, "{one:?} {other:?}");
    one.stop().await;
    ensure!(other.wait_for(other.frames().len() + 2 * ENOUGH, SOON).await, "the last reader was cut off");
    other.stop().await;
    let left = Instant::now();
    pair.distribution.wait_idle("cam1").await?;
    let lasted = left.elapsed();
    ensure!(lasted > CLOSE_AFTER / 2 && lasted < CLOSE_AFTER * 3, "closed after {lasted:?}");
    wait_for("the pull to end", SOON, async || -> Result<()> {
        let sessions = pair.ingestion.list("rtspsessions").await?;
        ensure!(sessions.iter().all(|session| session["state"] != "read"), "{sessions:?}");
        Ok(())
    })
    .await
}

pub async fn readers_of_an_unknown_source_are_held_and_then_refused(pair: Arc<Pair>) -> Result<()> {
    let asked = Instant::now();
    let uri = format!("DESCRIBE rtsp://{}/nope", pair.distribution.rtsp);
    let (status, _) = Dialogue::open(pair.distribution.rtsp).await?.call(&uri, &[]).await?;
    let held = asked.elapsed();
    ensure!(status == 400, "answered {status}");
    ensure!(held > START_TIMEOUT / 2 && held < START_TIMEOUT * 3, "held for {held:?}");
    ensure!(pair.redirector.describes() == 1, "asked {} times in {held:?}", pair.redirector.describes());
    pair.distribution.wait_idle("nope").await
}

pub async fn a_path_nobody_publishes_is_not_found(pair: Arc<Pair>) -> Result<()> {
    let uri = format!("DESCRIBE rtsp://{}/cam9", pair.ingestion.rtsp);
    let (status, _) = Dialogue::open(pair.ingestion.rtsp).await?.call(&uri, &[&basic(FLEET)]).await?;
    ensure!(status == 404, "answered {status}");
    let reader = PlainReader::start(&pair.ingestion.url("cam9"));
    let why = reader.wait_for_end(SOON).await.context("it reads something")?;
    ensure!(why.contains("404"), "{why}");
    Ok(())
}

pub async fn reading_needs_the_right_credentials(pair: Arc<Pair>) -> Result<()> {
    let _camera = pair.camera("cam1", Sample::H264).await?;
    let uri = format!("DESCRIBE rtsp://{}/cam1", pair.ingestion.rtsp);
    let mut dialogue = Dialogue::open(pair.ingestion.rtsp).await?;
    let (status, head) = dialogue.call(&uri, &[]).await?;
    ensure!(status == 401 && head.contains("WWW-Authenticate: Basic realm="), "{head}");
    let (status, head) = dialogue.call(&uri, &[&basic(FLEET)]).await?;
    ensure!(status == 200 && head.contains("application/sdp"), "{head}");
    let wrong = basic("fleet:wrong");
    let (status, _) = Dialogue::open(pair.ingestion.rtsp).await?.call(&uri, &[&wrong]).await?;
    ensure!(status == 401, "wrong credentials are answered {status}");
    Ok(())
}

pub async fn only_tcp_is_served(pair: Arc<Pair>) -> Result<()> {
    let _camera = pair.camera("cam1", Sample::H264).await?;
    let url = format!("rtsp://{}/cam1", pair.ingestion.rtsp);
    let credentials = basic(FLEET);
    let mut dialogue = Dialogue::open(pair.ingestion.rtsp).await?;
    let (status, head) = dialogue.call(&format!("OPTIONS {url}"), &[]).await?;
    ensure!(status == 200 && head.contains("DESCRIBE") && head.contains("RECORD"), "{head}");
    let setup = format!("SETUP {url}/trackID=0");
    let udp = "Transport: RTP/AVP;unicast;client_port=5000-5001";
    let (status, _) = dialogue.call(&setup, &[&credentials, udp]).await?;
    ensure!(status == 461, "UDP is answered {status}");
    let mut dialogue = Dialogue::open(pair.ingestion.rtsp).await?;
    let tcp = "Transport: RTP/AVP/TCP;unicast;interleaved=4-5";
    let (status, head) = dialogue.call(&setup, &[&credentials, tcp]).await?;
    ensure!(status == 200 && head.contains("interleaved=4-5"), "{head}");
    let session = head.lines().find(|line| line.starts_with("Session: ")).context("a session")?;
    let session = session.split(';').next().unwrap_or_default();
    for request in ["PLAY", "GET_PARAMETER", "TEARDOWN"] {
        let (status, head) = dialogue.call(&format!("{request} {url}"), &[&credentials, session]).await?;
        ensure!(status == 200, "{request}: {head}");
    }
    Ok(())
}

pub async fn a_second_publisher_takes_over(pair: Arc<Pair>) -> Result<()> {
    let mut first = pair.camera("cam1", Sample::H264).await?;
    let before = pair.ingestion.wait_available("cam1").await?;
    let reader = PlainReader::start(&pair.ingestion.url("cam1"));
    ensure!(reader.wait_for(2, SOON).await, "{:?}", reader.ended());
    let _second = pair.camera_at("cam1", Sample::H264, &["-re"])?;
    wait_for("the first publisher to be cut off", SOON, async || -> Result<()> {
        ensure!(first.ended().is_some(), "it goes on");
        Ok(())
    })
    .await?;
    ensure!(reader.wait_for_end(SOON).await.is_some(), "a reader of the first publisher goes on");
    let after = pair.ingestion.wait_available("cam1").await?;
    ensure!(before["source"]["id"] != after["source"]["id"], "{after}");
    Ok(())
}

pub async fn a_reader_that_is_too_slow_loses_packets_and_they_are_counted(pair: Arc<Pair>) -> Result<()> {
    let url = format!("rtsp://{}/cam1", pair.ingestion.rtsp);
    let credentials = basic(FLEET);
    // Fast, so that the buffers of the operating system (some megabytes) are full soon.
    let _camera = pair.camera_at("cam1", Sample::H264, &["-readrate", "100"])?;
    pair.ingestion.wait_available("cam1").await?;
    let quick = PacketReader::start_packets(&pair.ingestion.url("cam1"));
    let mut slow = Dialogue::open(pair.ingestion.rtsp).await?;
    let tcp = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1";
    let (_, head) = slow.call(&format!("SETUP {url}/trackID=0?reader=slow"), &[&credentials, tcp]).await?;
    let session = head.lines().find_map(|line| Some(line.strip_prefix("Session: ")?.split(';').next()?.to_owned()));
    let session = format!("Session: {}", session.with_context(|| head.clone())?);
    let (status, head) = slow.call(&format!("PLAY {url}?reader=slow"), &[&credentials, &session]).await?;
    ensure!(status == 200, "{head}");
    // Nothing is read from here on.
    wait_for("packets to be discarded", SOON, async || -> Result<()> {
        let sessions = pair.ingestion.list("rtspsessions").await?;
        let discarded = sessions.iter().filter_map(|session| session["outboundRTPPacketsDiscarded"].as_u64()).max();
        ensure!(discarded > Some(0), "{sessions:?}");
        Ok(())
    })
    .await?;
    ensure!(quick.wait_for(quick.packets().len() + ENOUGH, SOON).await, "the quick reader: {:?}", quick.ended());
    Ok(())
}
