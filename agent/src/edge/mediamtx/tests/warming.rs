use super::*;
use mtxfleet_wire::{NodeId, StreamName};

fn warmer(rtsp: SocketAddr, credentials: Option<Credentials>) -> Warmer {
    let node = NodeId::new("d2").unwrap();
    Warmer::new(WarmerSettings { rtsp: rtsp.to_string(), credentials, node, max: 3 })
}

fn streams<const N: usize>(names: [&str; N]) -> Vec<StreamName> {
    names.map(|name| StreamName::new(name).unwrap()).to_vec()
}

/// An ingestion server, and a distribution server that pulls from it on demand and closes a path soon after use.
async fn pair(what: &str) -> Option<(RealServer, RealServer)> {
    find("ffmpeg", what)?;
    let ingestion = RealServer::start(what, "paths:\n  all_others:\n").await?;
    let paths = format!(
        "paths:\n  '~^(.+)$':\n    source: rtsp://{}/$G1\n    sourceOnDemand: yes\n    rtspTransport: tcp\n    \
         sourceOnDemandCloseAfter: 1s\n",
        ingestion.rtsp
    );
    Some((ingestion, RealServer::start(what, &paths).await?))
}

#[tokio::test]
async fn a_stream_is_open_while_it_is_kept_warm_and_closes_afterwards() {
    let Some((ingestion, distribution)) = pair("warming on the real MediaMTX").await else { return };
    let _cameras = ["cam1", "site/cam2"].map(|path| ingestion.publish(path));
    let (api, clock) = (MediaMtx::new(settings(distribution.api)).unwrap(), Clock::start());
    let open = async |name: &str| {
        let sample = api.sample(&clock).await.unwrap();
        sample.paths.iter().any(|p| p.name == name && p.available && p.readers == 1)
    };

    let mut warmer = warmer(distribution.rtsp, None);
    warmer.set(streams(["cam1", "site/cam2", "cam1"]));
    wait_for("both streams warm", async || open("cam1").await && open("site/cam2").await).await;
    wait_for("bytes thrown away", async || warmer.status().thrown_away > 20_000).await;
    let sample = api.sample(&clock).await.unwrap();
    let readers: Vec<_> = sample.sessions.iter().filter(|s| s.state == SessionState::Read).collect();
    assert_eq!(readers.len(), 2);
    assert!(readers.iter().all(|s| s.query == "warm=d2" && s.discarded_packets == 0), "{readers:?}");
    let before = readers.iter().find(|s| s.path == "cam1").unwrap().id.clone();

    // One is no longer wanted; the other is not touched.
    warmer.set(streams(["cam1"]));
    wait_for("the unwanted path's end", async || {
        api.sample(&clock).await.unwrap().paths.iter().all(|p| p.name != "site/cam2" || !p.available)
    })
    .await;
    let sample = api.sample(&clock).await.unwrap();
    assert!(sample.sessions.iter().any(|s| s.id == before));
    assert_eq!((warmer.status().wanted, warmer.status().open), (1, 1));

    drop(warmer);
    wait_for("the end of every path", async || api.sample(&clock).await.unwrap().paths.iter().all(|p| !p.available))
        .await;
}

#[tokio::test]
async fn a_warm_stream_that_breaks_is_opened_again() {
    let Some((ingestion, distribution)) = pair("warming again on the real MediaMTX").await else { return };
    let (api, clock) = (MediaMtx::new(settings(distribution.api)).unwrap(), Clock::start());
    let _camera = ingestion.publish("cam1");
    let mut warmer = warmer(distribution.rtsp, None);
    warmer.set(streams(["cam1"]));
    let reader = async || {
        let sample = api.sample(&clock).await.unwrap();
        sample.sessions.into_iter().find(|s| s.state == SessionState::Read && s.outbound_bytes > 0).map(|s| s.id)
    };
    wait_for("a warm stream", async || reader().await.is_some()).await;
    let first = reader().await.unwrap();
    api.disconnect(Protocol::Rtsp, &first).await.unwrap();
    wait_for("a new reader", async || reader().await.is_some_and(|id| id != first)).await;
    assert!(warmer.status().failures >= 1);
}

#[tokio::test]
async fn the_fleets_credentials_open_a_guarded_stream() {
    let what = "warming with credentials on the real MediaMTX";
    let users = "authInternalUsers:\n- user: any\n  permissions: [{action: publish}, {action: api}]\n\
                 - user: fleet\n  pass: secret\n  permissions: [{action: read}]\npaths:\n  all_others:\n";
    let (Some(server), Some(_)) = (RealServer::start(what, users).await, find("ffmpeg", what)) else { return };
    let _camera = server.publish("cam1");
    let mut with = warmer(server.rtsp, Some(credentials()));
    with.set(streams(["cam1"]));
    wait_for("a warm stream", async || with.status().thrown_away > 0).await;
    let mut without = warmer(server.rtsp, None);
    without.set(streams(["cam1"]));
    wait_for("a refusal", async || without.status().failures > 0).await;
    assert_eq!(without.status().open, 0);
}

#[tokio::test]
async fn no_more_streams_than_allowed_are_opened() {
    let mut warmer = warmer(free_address(), None);
    warmer.set(streams(["a", "b", "c", "d", "e"]));
    assert_eq!((warmer.status().wanted, warmer.status().beyond_max), (3, 2));
    warmer.set(vec![]);
    assert_eq!((warmer.status().wanted, warmer.status().beyond_max), (0, 0));
}

/// Answers the first request with `answer`, then nothing.
async fn rtsp_server_that_says(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut request).await;
            let _ = stream.write_all(answer).await;
        }
    });
    address
}

#[tokio::test]
async fn an_answer_that_is_no_rtsp_is_a_failure_and_tried_again() {
    for answer in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"RTSP/1.0 404 Not Found\r\nCSeq: 1\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: 0\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Base: rtsp://h/ x\r\nContent-Length: 4\r\n\r\nm=a\n",
        b"$\0\0\x01a",
        b"",
    ] {
        let mut warmer = warmer(rtsp_server_that_says(answer).await, None);
        warmer.set(streams(["cam1"]));
        wait_for("two failures", async || warmer.status().failures >= 2).await;
        assert_eq!(warmer.status().open, 0);
    }
}

/// Answers DESCRIBE, SETUP and PLAY, then sends 4 Mbit/s in bursts of one frame at 25 frames a second.
async fn stream_for_ever(stream: tokio::net::TcpStream) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    let mut requests = 0;
    while requests < 3 {
        match lines.next_line().await {
            Ok(Some(line)) if line.is_empty() => {
                requests += 1;
                let sdp = if requests == 1 { "m=video 0 RTP/AVP 96\r\na=control:trackID=0\r\n" } else { "" };
                let answer = format!("RTSP/1.0 200 OK\r\nSession: 1\r\nContent-Length: {}\r\n\r\n{sdp}", sdp.len());
                if write.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            Ok(Some(_)) => {}
            _ => return,
        }
    }
    let mut frame = tokio::time::interval(Duration::from_millis(40));
    loop {
        frame.tick().await;
        if write.write_all(&[0; 20_000]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
#[ignore = "a measurement: cargo test --release -p mtxfleet --lib cost_of_warming -- --ignored --nocapture"]
async fn cost_of_warming() {
    let (told, address) = std::sync::mpsc::channel();
    // In a thread of its own, so that this thread's CPU time is the agent's.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            told.send(listener.local_addr().unwrap()).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(stream_for_ever(stream));
            }
        });
    });
    let count = 50;
    let node = NodeId::new("d2").unwrap();
    let rtsp = address.recv().unwrap().to_string();
    let mut warmer = Warmer::new(WarmerSettings { rtsp, credentials: None, node, max: count });
    warmer.set((0..count).map(|n| StreamName::new(format!("cam{n}")).unwrap()).collect());
    wait_for("all open", async || warmer.status().open == count as u64).await;
    let (cpu, bytes) = (super::against_the_real_one::thread_cpu(), warmer.status().thrown_away);
    let span = Duration::from_secs(5);
    tokio::time::sleep(span).await;
    let cpu = super::against_the_real_one::thread_cpu() - cpu;
    let rate = mtxfleet_wire::Bitrate::from_bytes(warmer.status().thrown_away - bytes, span);
    println!("{count} warm streams, {rate} in all: {:.2} % of a core", cpu.as_secs_f64() / span.as_secs_f64() * 100.0);
}
