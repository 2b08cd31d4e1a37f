//! `distribution.source = "relay"`: streams change owners, and nobody who watches at a relaying node notices.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtxfleet_tests::compare::{Arrival, compare};
use mtxfleet_tests::lab::agent::client;
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::node::Settings;
use mtxfleet_tests::lab::process::Process;
use mtxfleet_tests::lab::reader::ReconnectingReader;
use mtxfleet_tests::lab::wait::{PATIENCE, wait_for};
use mtxfleet_tests::lab::web_viewer::{HlsViewer, WebSession, browser, sessions};
use mtxfleet_tests::lab::{self, Lab, drain, programs};
use mtxfleet_tests::notes;
use mtxfleet_tests::plain_reader::{PacketReader, PlainReader, SeenPacket};
use mtxfleet_tests::server_binary::{self, ServerBinary};
use mtxfleet_wire::{CameraEnd, DrainOutcome, NodeId};

const DRAIN_WITHIN: Duration = Duration::from_secs(60);

/// Frames before and after.
const AT_REST: usize = 50;

const CAMERAS: [&str; 2] = ["cam1", "cam2"];

fn id(text: &str) -> NodeId {
    NodeId::new(text).expect("an id")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ingestion_drain_is_unseen_at_a_relaying_node_on_mediamtx() {
    let found = tokio::task::spawn_blocking(server_binary::find_real).await.expect("no panic");
    match found.expect("MEDIAMTX_BIN works, when it is set") {
        Ok(server) => an_ingestion_drain_is_unseen(server, true).await,
        Err(reasons) => {
            notes::skipped("viewers (RTSP, HLS, WebRTC) at a relaying node on MediaMTX itself", &reasons.join("; "));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ingestion_drain_is_unseen_at_a_relaying_node_on_the_stand_in() {
    an_ingestion_drain_is_unseen(server_binary::find_stand_in().expect("built"), false).await;
}

/// `dist-1` relays, `dist-2` redirects.
async fn an_ingestion_drain_is_unseen(server: ServerBinary, web: bool) {
    let _alone = lab::alone().await;
    let settings = Settings { relaying: vec!["dist-1"], ..Settings::demo() };
    let kinds = [CameraKind::H264, CameraKind::H264WithAudio];
    let builder = Lab::builder().ingestion(2).distribution(2).pulled(kinds).settings(settings).server(server);
    let builder = if web { builder.web() } else { builder };
    let mut lab = builder.start().await.expect("a fleet");
    let (old, new) = (id("ingest-1"), id("ingest-2"));
    for camera in CAMERAS {
        lab.pull(&old, camera).await.expect("taken");
    }
    let mut truths = Vec::new();
    for camera in CAMERAS {
        lab.wait_owned(camera, &old, PATIENCE).await.expect("it flows");
        truths.push(lab.record_camera(camera).await.expect("it waits to be pulled"));
    }
    let on = lab.server.kind.to_string();
    let plain = CAMERAS.map(|camera| PlainReader::start(&url(&lab, "dist-1", camera)));
    let packets = PacketReader::start_packets(&url(&lab, "dist-1", "cam2"));
    let control = ReconnectingReader::start(&url(&lab, "dist-2", "cam1"));
    let watching = if web { Some(Watching::start(&lab).expect("a browser")) } else { None };
    for reader in &plain {
        assert!(reader.wait_for(AT_REST, PATIENCE).await, "{:?}\n{}", reader.ended(), log(&lab, "dist-1"));
    }
    wait_for("the control", PATIENCE, async || if control.receives() { Ok(()) } else { Err("nothing") })
        .await
        .expect("read");
    if let Some(watching) = &watching {
        watching.goes_on().await.expect("HLS and WebRTC play");
    }
    let before = all_sessions(&lab).await.expect("answered");

    let agent = &lab.node(&old).expect("there").agent;
    let view = drain::order(agent, "test").await.expect("taken");
    for camera in CAMERAS {
        lab.pull(&new, camera).await.expect("taken");
    }
    let record = drain::follow(agent, &view.drain, DRAIN_WITHIN, |_| {}).await.expect("it ends");
    assert_eq!(record.outcome, DrainOutcome::Completed, "{record:#?}");
    assert!(record.cameras.iter().all(|camera| camera.how == CameraEnd::At(new.clone())), "{record:#?}");
    assert!(record.phases.iter().all(|phase| !phase.timed_out), "{:#?}", record.phases);
    for reader in &plain {
        let more = reader.frames().len() + AT_REST;
        assert!(reader.wait_for(more, PATIENCE).await, "{:?}\n{}", reader.ended(), log(&lab, "dist-1"));
    }
    if let Some(watching) = &watching {
        watching.goes_on().await.expect("HLS and WebRTC play on");
    }
    assert_eq!(ids(&all_sessions(&lab).await.expect("answered")), ids(&before), "the same sessions as before");
    assert!(control.times_cut_off() > 0, "the redirecting node's reader was not cut, so this proves nothing");
    let (proven, unproven, lost) = relayed(&lab).await.expect("answered");
    assert!(proven >= CAMERAS.len() as u64 && (unproven, lost) == (0, 0), "{proven} {unproven} {lost}");

    assert_continuous(&packets.stop().await);
    let seconds: f64 = record.phases.iter().map(|phase| phase.seconds).sum();
    for ((camera, reader), truth) in CAMERAS.iter().zip(plain).zip(truths) {
        let ended = Instant::now();
        assert_eq!(reader.ended(), None, "it was cut off");
        let frames: Vec<Arrival> = reader.stop().await.into_iter().map(Arrival::from).collect();
        assert!(truth.receives(), "the camera goes on");
        let found = compare(&truth.stop_when_level().await.arrivals, &frames, ended).expect("comparable");
        assert!(found.is_perfect(), "{camera}: {found:#?}\n{}", log(&lab, "dist-1"));
        let (sent, received, pause) = (found.sent, found.received, found.longest_pause_ms);
        notes::ran(&format!(
            "a plain reader of {camera} at a relaying node, ingestion drain of {seconds:.1} s, {on}: {sent} sent, \
             {received} received, 0 lost, longest pause {pause} ms; with redirect it is cut"
        ));
    }
    an_owner_dies(&mut lab, watching.as_ref()).await;
    the_agent_is_killed(&mut lab).await;
}

/// The one that was drained comes back, with its cameras, and dies.
async fn an_owner_dies(lab: &mut Lab, watching: Option<&Watching>) {
    let old = id("ingest-1");
    lab.node(&old).expect("there").agent.undrain().await.expect("answered").expect("it comes back");
    lab.wait_in_service(&old, PATIENCE).await.expect("in service");
    let reader = PlainReader::start(&url(lab, "dist-1", "cam1"));
    assert!(reader.wait_for(AT_REST, PATIENCE).await, "{:?}", reader.ended());
    let api = lab.node(&old).expect("there").server.at.api;
    wait_for("the relay to be at the owner of before", PATIENCE, async || -> Result<()> {
        for camera in CAMERAS.iter().take(if watching.is_some() { 2 } else { 1 }) {
            ensure!(!sessions(api, "rtspsessions", camera).await?.is_empty(), "not with {camera}");
        }
        Ok(())
    })
    .await
    .expect("outside a drain too");
    let before = all_sessions(lab).await.expect("answered");
    lab.node_mut(&old).expect("there").server.process.kill();
    let more = reader.frames().len() + AT_REST;
    assert!(reader.wait_for(more, PATIENCE).await, "{:?}\n{}", reader.ended(), log(lab, "dist-1"));
    if let Some(watching) = watching {
        watching.goes_on().await.expect("HLS and WebRTC play on");
    }
    assert_eq!(ids(&all_sessions(lab).await.expect("answered")), ids(&before), "the same sessions as before");
    let frames = reader.stop().await;
    let pause = frames.windows(2).map(|pair| pair[1].at - pair[0].at).max().unwrap_or_default();
    notes::ran(&format!(
        "an owner killed, seen at a relaying node: nobody cut, {} ms without a frame",
        pause.as_millis()
    ));
}

/// Its MediaMTX loses the source, and asks again for the reader that comes back.
async fn the_agent_is_killed(lab: &mut Lab) {
    let reader = ReconnectingReader::start(&url(lab, "dist-1", "cam1"));
    let receives = async || if reader.receives() { Ok(()) } else { Err("nothing") };
    wait_for("a reader", PATIENCE, &receives).await.expect("read");
    let node = lab.node_mut(&id("dist-1")).expect("there");
    node.agent.process.kill();
    wait_for("the cut", PATIENCE, async || if reader.times_cut_off() > 0 { Ok(()) } else { Err("none") })
        .await
        .expect("cut");
    node.restart_agent().await.expect("it comes up");
    wait_for("the reader to be back", PATIENCE, &receives).await.expect("read");
    reader.stop().await;
}

/// At `dist-1`, in a browser and in a player of HLS.
#[derive(Debug)]
struct Watching {
    server: std::net::SocketAddr,
    hls: HlsViewer,
    chromium: Option<Process>,
}

impl Watching {
    fn start(lab: &Lab) -> Result<Self> {
        let at = lab.node(&id("dist-1"))?.server.at;
        let web = at.web.expect("asked for");
        let chromium = match programs::find("chromium") {
            Ok(_) => Some(browser(web.whep, "cam1", lab.folder(), &lab.logs())?),
            Err(why) => {
                notes::skipped("a WebRTC viewer at a relaying node", &why.to_string());
                None
            }
        };
        Ok(Self { server: at.api, hls: HlsViewer::start(web.hls, "cam1"), chromium })
    }

    /// Three segments more, and bytes more to the browser.
    async fn goes_on(&self) -> Result<()> {
        let (segments, sent) = (self.hls.progress().segments, self.sent().await?);
        wait_for("HLS and WebRTC to go on", PATIENCE, async || -> Result<()> {
            let hls = self.hls.progress();
            ensure!(hls.ended.is_none() && hls.segments >= segments + 3, "{hls:?}, {segments} before");
            let now = self.sent().await?;
            ensure!(self.chromium.is_none() || now > sent + 10_000, "{now} bytes to the browser, {sent} before");
            Ok(())
        })
        .await
    }

    async fn sent(&self) -> Result<u64> {
        Ok(sessions(self.server, "webrtcsessions", "cam1").await?.iter().map(|session| session.sent).sum())
    }
}

/// Of every protocol, at the relaying node.
async fn all_sessions(lab: &Lab) -> Result<Vec<WebSession>> {
    let at = lab.node(&id("dist-1"))?.server.at;
    let mut all = Vec::new();
    for camera in CAMERAS {
        all.extend(sessions(at.api, "rtspsessions", camera).await?);
        if at.web.is_some() {
            all.extend(sessions(at.api, "hlssessions", camera).await?);
            all.extend(sessions(at.api, "webrtcsessions", camera).await?);
        }
    }
    Ok(all)
}

fn ids(sessions: &[WebSession]) -> BTreeSet<&str> {
    sessions.iter().map(|session| session.id.as_str()).collect()
}

/// Of `dist-1`'s metrics: handovers with and without proof, and packets lost.
async fn relayed(lab: &Lab) -> Result<(u64, u64, u64)> {
    let url = format!("http://{}/metrics", lab.node(&id("dist-1"))?.agent.http);
    let text = client().get(url).send().await?.error_for_status()?.text().await?;
    let value = |name: &str| {
        let line =
            text.lines().find_map(|line| line.strip_prefix(name)).and_then(|value| value.trim().parse::<f64>().ok());
        line.map(|value| value as u64).with_context(|| format!("no {name} in\n{text}"))
    };
    let handovers = "mtxfleet_relay_handovers_total";
    Ok((
        value(&format!("{handovers}{{proven=\"true\"}}"))?,
        value(&format!("{handovers}{{proven=\"false\"}}"))?,
        value("mtxfleet_relay_lost_packets_total")?,
    ))
}

/// What the server sends on each track: one source, no number left out or repeated.
fn assert_continuous(packets: &[SeenPacket]) {
    let tracks: BTreeSet<usize> = packets.iter().map(|packet| packet.track).collect();
    assert_eq!(tracks.len(), 2, "a picture and sound");
    for track in tracks {
        let of_track: Vec<&SeenPacket> = packets.iter().filter(|packet| packet.track == track).collect();
        for pair in of_track.windows(2) {
            assert_eq!(pair[1].ssrc, pair[0].ssrc);
            assert_eq!(pair[1].sequence, pair[0].sequence.wrapping_add(1));
            let step = pair[1].rtp_timestamp.wrapping_sub(pair[0].rtp_timestamp).cast_signed();
            // Of 25 pictures a second 3600 ticks, of AAC 1024; its packets hold several frames.
            assert!((0..=4 * 3_600).contains(&step), "{pair:?}");
        }
    }
}

fn url(lab: &Lab, node: &str, stream: &str) -> String {
    format!("rtsp://{}/{stream}", lab.node(&id(node)).expect("there").server.at.rtsp)
}

fn log(lab: &Lab, node: &str) -> String {
    lab.node(&id(node)).expect("there").agent.process.log_tail()
}
