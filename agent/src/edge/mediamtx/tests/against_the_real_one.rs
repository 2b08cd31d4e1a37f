use bytes::Bytes;
use mtxfleet_wire::StreamName;

use super::super::client::{Answer, Client};
use super::*;
use crate::edge::state_file::StateFile;

const ANY_PATH: &str = "paths:\n  all_others:\n";

#[tokio::test]
async fn publishers_and_readers_are_seen_and_disconnected() {
    let what = "sampling and disconnecting on the real MediaMTX";
    let (Some(server), Some(_)) = (RealServer::start(what, ANY_PATH).await, find("ffmpeg", what)) else { return };
    let (mediamtx, clock) = (MediaMtx::new(settings(server.api)).unwrap(), Clock::start());
    let nothing = mediamtx.sample(&clock).await.unwrap();
    assert!(nothing.sessions.is_empty());

    let _camera = server.publish("site/cam1");
    wait_for("a path that delivers", async || {
        mediamtx.sample(&clock).await.unwrap().paths.iter().any(|p| p.name == "site/cam1" && p.available)
    })
    .await;
    let mut reader = server.read("site/cam1?worker=w1&leg=l1");
    wait_for("a reader that reads", async || {
        mediamtx.sample(&clock).await.unwrap().sessions.iter().any(|s| s.outbound_bytes > 0)
    })
    .await;

    let sample = mediamtx.sample(&clock).await.unwrap();
    let path = &sample.paths[0];
    assert_eq!((path.source.as_str(), path.readers), ("rtspSession", 1));
    assert!(path.inbound_bytes > 0 && path.available_since.unwrap().since(Clock::wall()) < Duration::from_secs(60));
    let of = |state| sample.sessions.iter().find(|s| s.state == state).expect("both ends have a session");
    assert_eq!(
        (of(SessionState::Publish).path.as_str(), of(SessionState::Publish).protocol),
        ("site/cam1", Protocol::Rtsp)
    );
    let reading = of(SessionState::Read);
    assert_eq!((reading.path.as_str(), reading.query.as_str()), ("site/cam1", "worker=w1&leg=l1"));
    assert!(reading.remote.parse::<SocketAddr>().is_ok());

    mediamtx.disconnect(Protocol::Rtsp, &reading.id).await.unwrap();
    wait_for("the reader's end", async || reader.has_ended()).await;
    mediamtx.disconnect(Protocol::Rtsp, &reading.id).await.expect("gone already");
    // The list of a protocol that is off is not there, so nothing of it can be connected either.
    mediamtx.disconnect(Protocol::Hls, &reading.id).await.unwrap();
}

#[tokio::test]
async fn hls_and_webrtc_lists_are_read_where_they_are_on() {
    let (hls, webrtc) = (free_address(), free_address());
    let more = format!(
        "hls: yes\nhlsAddress: {hls}\nwebrtc: yes\nwebrtcAddress: {webrtc}\nwebrtcLocalUDPAddress: ''\n\
         webrtcLocalTCPAddress: {}\n{ANY_PATH}",
        free_address()
    );
    let Some(server) = RealServer::start("HLS sessions on the real MediaMTX", &more).await else { return };
    let Some(_) = find("ffmpeg", "HLS sessions on the real MediaMTX") else { return };
    let (mediamtx, clock) = (MediaMtx::new(settings(server.api)).unwrap(), Clock::start());
    let _camera = server.publish("cam1");
    wait_for("a path that delivers", async || mediamtx.sample(&clock).await.unwrap().paths.iter().any(|p| p.available))
        .await;
    let url = format!("http://{hls}/cam1/index.m3u8");
    let _viewer = super::super::real_server::Process::start(
        "ffmpeg",
        &["-nostdin", "-loglevel", "error", "-i", &url, "-c", "copy", "-f", "null", "-"],
    );
    let mut session = None;
    wait_for("an HLS session", async || {
        let sample = mediamtx.sample(&clock).await.unwrap();
        session = sample.sessions.into_iter().find(|s| s.protocol == Protocol::Hls && s.outbound_bytes > 0);
        session.is_some()
    })
    .await;
    let session = session.unwrap();
    assert_eq!((session.path.as_str(), session.state), ("cam1", SessionState::Read));
    mediamtx.disconnect(Protocol::Hls, &session.id).await.unwrap();
    let sample = mediamtx.sample(&clock).await.unwrap();
    assert!(sample.sessions.iter().all(|s| s.id != session.id));
}

#[tokio::test]
async fn a_server_that_asks_for_credentials_is_odd_without_and_fine_with_them() {
    let users =
        "authInternalUsers:\n- user: fleet\n  pass: secret\n  permissions: [{action: api}]\npaths:\n  all_others:\n";
    let Some(server) = RealServer::start("credentials on the real MediaMTX", users).await else { return };
    let (without, clock) = (MediaMtx::new(settings(server.api)).unwrap(), Clock::start());
    let why = text(without.sample(&clock).await.unwrap_err());
    assert!(why.contains("401") && why.contains("mediamtx.user"), "{why}");
    let with = MediaMtx::new(MediaMtxSettings { credentials: Some(credentials()), ..settings(server.api) }).unwrap();
    with.sample(&clock).await.unwrap();
}

/// Figures of one sample at 200 paths, each read once; run by hand in release mode.
#[tokio::test]
#[ignore = "a measurement: cargo test --release -p mtxfleet --lib cost_of_a_sample -- --ignored --nocapture"]
async fn cost_of_a_sample() {
    let path = |n| {
        format!(
            r#"{{"name":"cam{n}","confName":"all_others","ready":true,"readyTime":"2026-11-23T15:22:33.817718012Z","available":true,"availableTime":"2026-11-23T15:22:33.817718012Z","online":true,"onlineTime":"2026-11-23T15:22:33.817722799Z","source":{{"type":"rtspSession","id":"99a5feed-e9db-4679-97d9-820192c2d840"}},"tracks":["H264"],"tracks2":[{{"codec":"H264","codecProps":{{"width":160,"height":120,"profile":"High","level":"1"}}}}],"readers":[{{"type":"rtspSession","id":"99a5feed-e9db-4679-97d9-820192c2d841"}}],"inboundBytes":36069,"outboundBytes":17,"inboundFramesInError":0,"bytesReceived":36069,"bytesSent":17}}"#
        )
    };
    let session = |n| {
        format!(
            r#"{{"id":"99a5feed-e9db-4679-97d9-{n:012}","created":"2026-11-23T15:22:33.816577491Z","remoteAddr":"127.0.0.1:51396","state":"read","path":"cam{n}","query":"worker=w{n}&leg=99a5feed-e9db-4679-97d9-820192c2d840","user":"","userAgent":"Lavf59.27.100","transport":"TCP","profile":"AVP","conns":["35ade8f2-30d0-4f5f-9792-c3e7e1b2b706"],"inboundBytes":36618,"inboundRTPPackets":39,"inboundRTPPacketsLost":0,"inboundRTPPacketsInError":0,"inboundRTPPacketsJitter":463.2980365283207,"inboundRTCPPackets":1,"inboundRTCPPacketsInError":0,"outboundBytes":0,"outboundRTPPackets":0,"outboundRTPPacketsReportedLost":0,"outboundRTPPacketsDiscarded":7,"outboundRTCPPackets":0,"bytesReceived":36618,"bytesSent":0,"rtpPacketsReceived":39,"rtpPacketsSent":0,"rtpPacketsLost":0,"rtpPacketsInError":0,"rtpPacketsJitter":463.2980365283207,"rtcpPacketsReceived":1,"rtcpPacketsSent":0,"rtcpPacketsInError":0}}"#
        )
    };
    let list = |items: Vec<String>| {
        json(&format!(r#"{{"itemCount":{0},"pageCount":1,"items":[{1}]}}"#, items.len(), items.join(",")))
    };
    // The fake runs in a thread of its own, so that this thread's CPU time is the agent's.
    let (paths, sessions) = (list((0..200).map(path).collect()), list((0..400).map(session).collect()));
    let rounds = 500;
    let (told, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut first = vec![paths.clone(), sessions.clone()];
            first.extend([not_found(), not_found(), not_found()]);
            first.extend([paths, sessions].into_iter().cycle().take(2 * rounds));
            let server = FakeServer::start(first).await;
            told.send(server.address).unwrap();
            std::future::pending::<()>().await;
        });
    });
    let mediamtx = MediaMtx::new(settings(address.recv().unwrap())).unwrap();
    let clock = Clock::start();
    mediamtx.sample(&clock).await.unwrap();
    let before = thread_cpu();
    for _ in 0..rounds {
        let sample = mediamtx.sample(&clock).await.unwrap();
        assert_eq!((sample.paths.len(), sample.sessions.len()), (200, 400));
    }
    let each = (thread_cpu() - before) / rounds as u32;
    println!("one sample of 200 paths and 400 sessions: {each:?} of CPU");
}

/// CPU time of this thread, by `/proc/thread-self/schedstat` (proc(5)): nanoseconds on a CPU.
pub(super) fn thread_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn a_path_that_was_let_go_of_is_put_back_by_an_agent_that_was_restarted() {
    let paths = "paths:\n  cam1:\n    source: rtsp://127.0.0.1:9/cam1\n    sourceOnDemand: yes\n";
    let Some(server) = RealServer::start("letting go of paths on the real MediaMTX", paths).await else { return };
    let mediamtx = Arc::new(MediaMtx::new(settings(server.api)).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let start = || {
        let file = StateFile::open(dir.path(), "paths.json").unwrap();
        let gone = file.load().unwrap().unwrap_or_default();
        LetGo::start(Arc::clone(&mediamtx), file, gone)
    };
    let configured = async || {
        let found = mediamtx.act(async |client: &mut Client| {
            Ok(match client.get("/v3/config/paths/get/cam1").await? {
                Answer::Body(json) => serde_json::from_slice::<serde_json::Value>(json).ok(),
                Answer::NotFound => None,
            })
        });
        found.await.unwrap()
    };
    let before = configured().await.expect("of the file");
    let cam1 = StreamName::new("cam1").unwrap();

    let first = start();
    first.set(vec![cam1.clone()]);
    wait_for("cam1 has gone", async || configured().await.is_none()).await;

    // What a restart of MediaMTX does.
    let body = Bytes::from(before.to_string());
    let again = async |client: &mut Client| client.post_json("/v3/config/paths/add/cam1", body).await.map(|_| ());
    mediamtx.act(again).await.unwrap();
    first.check();
    wait_for("cam1 has gone again", async || configured().await.is_none()).await;

    drop(first);
    let second = start();
    second.set(vec![cam1]);
    second.set(Vec::new());
    wait_for("cam1 is back", async || configured().await.is_some()).await;
    assert_eq!(configured().await.unwrap(), before);
    wait_for("nothing is kept", async || !dir.path().join("paths.json").exists()).await;
}
