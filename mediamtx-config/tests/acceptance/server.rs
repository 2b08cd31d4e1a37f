//! The rendered `mediamtx.yml` in the real MediaMTX.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use mediamtx_config::{Action, Auth, Credential, DistributionServer, Hls, IngestionServer, User, WebRtc};
use serde_json::Value;

use crate::support::{Folder, Running, free, get, program, read_head, run, wait_for};

/// Only a failure waits so long, and a machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

fn fleet() -> Credential {
    Credential::new("fleet", "0123456789abcdef0123456789abcdef")
}

/// `fleet:0123456789abcdef0123456789abcdef`
const AS_FLEET: &str = "Authorization: Basic ZmxlZXQ6MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\r\n";

fn ingestion(folder: &Folder) -> IngestionServer {
    let mut server = IngestionServer::new(fleet());
    (server.rtsp, server.api, server.metrics) = (free(), free(), free());
    let recording = server.recording.as_mut().unwrap();
    recording.playback = free();
    recording.dir = folder.0.join("rec").to_str().unwrap().to_owned();
    server
}

fn distribution(resolver: SocketAddr) -> DistributionServer {
    let mut server = DistributionServer::new(fleet(), "dist-1", resolver);
    (server.rtsp, server.api, server.metrics) = (free(), free(), free());
    server
}

fn start(mediamtx: &Path, folder: &Folder, name: &str, text: &str, api: SocketAddr) -> Running {
    let file = folder.write(name, text);
    let running = Running::start(Command::new(mediamtx).arg(&file).current_dir(&folder.0));
    wait_for("MediaMTX answers", PATIENCE, || get(api, "/v3/info", AS_FLEET).filter(|(status, ..)| *status == 200));
    running
}

fn json(api: SocketAddr, path: &str) -> Value {
    let (status, _, body) = get(api, path, AS_FLEET).unwrap();
    assert_eq!(status, 200, "{path}");
    serde_json::from_slice(&body).unwrap()
}

/// Every listening TCP and bound UDP socket of a process, as `tcp 127.0.0.1:8554`, by /proc.
fn listeners(pid: u32) -> BTreeSet<String> {
    let mut inodes = BTreeSet::new();
    for descriptor in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        if let Ok(link) = std::fs::read_link(descriptor.path())
            && let Some(inode) = link.to_string_lossy().strip_prefix("socket:[")
        {
            inodes.insert(inode.trim_end_matches(']').to_owned());
        }
    }
    let mut found = BTreeSet::new();
    for (table, protocol, listening) in
        [("tcp", "tcp", "0A"), ("tcp6", "tcp", "0A"), ("udp", "udp", "07"), ("udp6", "udp", "07")]
    {
        for line in std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default().lines().skip(1) {
            let columns: Vec<&str> = line.split_whitespace().collect();
            if columns[3] == listening && inodes.contains(columns[9]) {
                let (ip, port) = columns[1].split_once(':').unwrap();
                let port = u16::from_str_radix(port, 16).unwrap();
                let ip = if ip == "0100007F" { "127.0.0.1".to_owned() } else { format!("0x{ip}") };
                found.insert(format!("{protocol} {ip}:{port}"));
            }
        }
    }
    found
}

fn expected(tcp: &[SocketAddr], udp: &[SocketAddr]) -> BTreeSet<String> {
    tcp.iter().map(|at| format!("tcp {at}")).chain(udp.iter().map(|at| format!("udp {at}"))).collect()
}

fn assert_holds(answer: &Value, wanted: &[(&str, Value)]) {
    for (key, value) in wanted {
        assert_eq!(&answer[*key], value, "{key}");
    }
}

#[test]
fn an_ingestion_node_runs_with_what_was_asked_and_opens_nothing_else() {
    let Some(mediamtx) = program("mediamtx") else { return };
    let folder = Folder::new("ingestion");
    let mut server = ingestion(&folder);
    server.anonymous_loopback_api = false;
    server.auth = Auth::Internal { users: vec![User::named("cam", "s3cret!", [Action::Publish])] };
    let running = start(&mediamtx, &folder, "i.yml", &server.render().unwrap(), server.api);

    assert_eq!(get(server.api, "/v3/info", "").unwrap().0, 401, "without the fleet's credential");
    let playback = server.recording.as_ref().unwrap().playback;
    assert_eq!(
        listeners(running.0.id()),
        expected(&[server.rtsp, server.api, server.metrics, playback], &[]),
        "what was not asked for must be off"
    );
    let off = Value::from(false);
    assert_holds(
        &json(server.api, "/v3/config/global/get"),
        &[
            ("rtspTransports", serde_json::json!(["tcp"])),
            ("rtspEncryption", "no".into()),
            ("writeQueueSize", 2048.into()),
            ("udpMaxPayloadSize", 1452.into()),
            ("hls", off.clone()),
            ("webrtc", off.clone()),
            ("rtmp", off.clone()),
            ("srt", off.clone()),
            ("moq", off.clone()),
            ("pprof", off.clone()),
        ],
    );
    assert_holds(
        &json(server.api, "/v3/config/pathdefaults/get"),
        &[
            ("record", true.into()),
            ("recordFormat", "fmp4".into()),
            ("recordPartDuration", "200ms".into()),
            ("recordSegmentDuration", "30s".into()),
            ("recordDeleteAfter", "5m0s".into()),
            ("useAbsoluteTimestamp", off),
        ],
    );
}

#[test]
fn a_distribution_node_opens_hls_and_webrtc_only_when_asked() {
    let Some(mediamtx) = program("mediamtx") else { return };
    let folder = Folder::new("distribution");
    let mut server = distribution(free());
    {
        let running = start(&mediamtx, &folder, "off.yml", &server.render().unwrap(), server.api);
        assert_eq!(listeners(running.0.id()), expected(&[server.rtsp, server.api, server.metrics], &[]));
    }
    let (hls, whep, media) = (free(), free(), free());
    server.hls = Some(Hls::new(hls));
    server.webrtc = Some(WebRtc { address: whep, udp: media, additional_hosts: vec!["203.0.113.7".into()] });
    let running = start(&mediamtx, &folder, "on.yml", &server.render().unwrap(), server.api);
    let all = expected(&[server.rtsp, server.api, server.metrics, hls, whep], &[media]);
    assert_eq!(listeners(running.0.id()), all);
    assert_holds(
        &json(server.api, "/v3/config/paths/list")["items"][0],
        &[
            ("name", "~^(.+)$".into()),
            ("sourceOnDemand", true.into()),
            ("sourceOnDemandCloseAfter", "10s".into()),
            ("rtspTransport", "tcp".into()),
            ("useAbsoluteTimestamp", true.into()),
            ("record", false.into()),
        ],
    );
    assert_eq!(get(server.api, "/v3/info", "").unwrap().0, 200, "the agent, from loopback, without a credential");
}

/// Answers every DESCRIBE with 302 to `owner`; says on the channel which request lines came.
fn responder(owner: SocketAddr) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (said, heard) = mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            while let Some(head) = read_head(&mut stream) {
                let sequence = head.lines().find(|line| line.starts_with("CSeq")).unwrap_or("CSeq: 1");
                let path =
                    head.split(['/', '?', ' ']).skip(4).take_while(|part| !part.contains('=')).collect::<Vec<_>>();
                let path = path.join("/");
                let answer = if head.starts_with("DESCRIBE") {
                    format!("302 Found\r\n{sequence}\r\nLocation: rtsp://{owner}/{path}?pull=from-location")
                } else {
                    format!("200 OK\r\n{sequence}\r\nPublic: DESCRIBE")
                };
                if said.send(head.lines().next().unwrap_or_default().to_owned()).is_err()
                    || write!(stream, "RTSP/1.0 {answer}\r\n\r\n").is_err()
                {
                    return;
                }
            }
        }
    });
    (address, heard)
}

#[test]
fn a_camera_reaches_a_reader_through_the_resolver_and_can_be_played_back() {
    let (Some(mediamtx), Some(ffmpeg), Some(ffprobe)) = (program("mediamtx"), program("ffmpeg"), program("ffprobe"))
    else {
        return;
    };
    let folder = Folder::new("chain");
    let mut owner = ingestion(&folder);
    owner.auth = Auth::Internal { users: vec![User::named("cam", "s3cret", [Action::Publish])] };
    let (resolver, questions) = responder(owner.rtsp);
    let replica = distribution(resolver);
    let _owner = start(&mediamtx, &folder, "i.yml", &owner.render().unwrap(), owner.api);
    let _replica = start(&mediamtx, &folder, "d.yml", &replica.render().unwrap(), replica.api);

    let publish = format!("rtsp://cam:s3cret@{}/site/cam1", owner.rtsp);
    let arguments = "-v error -re -f lavfi -i testsrc2=size=160x120:rate=25 -c:v libx264 -preset ultrafast -g 25 -f rtsp \
                     -rtsp_transport tcp";
    let _camera = Running::start(Command::new(&ffmpeg).args(arguments.split_whitespace()).arg(&publish));
    wait_for("the camera is there", PATIENCE, || {
        (json(owner.api, "/v3/paths/list")["items"][0]["available"] == true).then_some(())
    });

    let read = format!("rtsp://{}/site/cam1?worker=w1&leg=l1", replica.rtsp);
    let probe = "-v error -rtsp_transport tcp -timeout 10000000 -count_packets -read_intervals %+#25 -show_entries \
                 stream=codec_name,nb_read_packets -of csv=p=0";
    let arguments: Vec<&str> = probe.split_whitespace().chain([read.as_str()]).collect();
    let (well, said) = run(&ffprobe, &arguments);
    assert!(well && said.trim() == "h264,25", "{said}");

    let asked = questions.try_iter().find(|line| line.starts_with("DESCRIBE")).unwrap();
    assert_eq!(asked, format!("DESCRIBE rtsp://{resolver}/site/cam1?pull=dist-1 RTSP/1.0"), "no credential in the URL");
    let sessions = json(owner.api, "/v3/rtspsessions/list");
    let pull = sessions["items"].as_array().unwrap().iter().find(|session| session["state"] == "read").unwrap();
    // The resolver's question carries the source's query, the pull that follows carries Location's.
    assert_holds(
        pull,
        &[("path", "site/cam1".into()), ("query", "pull=from-location".into()), ("user", "fleet".into())],
    );

    let (anonymous, _) =
        run(&ffprobe, &["-v", "error", "-rtsp_transport", "tcp", &format!("rtsp://{}/site/cam1", owner.rtsp)]);
    assert!(!anonymous, "nobody but the fleet reads on an ingestion node");

    let playback = owner.recording.as_ref().unwrap().playback;
    assert_eq!(get(playback, "/list?path=site/cam1", "").unwrap().0, 401);
    let (status, _, list) = get(playback, "/list?path=site/cam1", AS_FLEET).unwrap();
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&list));
    let list: Value = serde_json::from_slice(&list).unwrap();
    let begin = list[0]["start"].as_str().unwrap().replace('+', "%2B");
    let get_path = format!("/get?path=site/cam1&start={begin}&duration=1&format=fmp4");
    let (status, _, video) = get(playback, &get_path, AS_FLEET).unwrap();
    assert!(status == 200 && video.len() > 1000, "{status}, {} bytes", video.len());
}
