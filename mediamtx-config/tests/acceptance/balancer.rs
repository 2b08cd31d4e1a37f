//! The rendered `haproxy.cfg` in the real HAProxy, before servers that only say their name.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mediamtx_config::{DistributionFrontends, Frontend, Haproxy, Server, Servers};

use crate::support::{Folder, Running, free, program, read_head, run, wait_for};

/// Only a failure waits so long, and a machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server that answers everything with its name, and the agent beside it.
struct Node {
    name: &'static str,
    address: SocketAddr,
    agent: SocketAddr,
    /// What the agent answers.
    word: Arc<Mutex<&'static str>>,
    /// What HAProxy has sent to the agent.
    pollers: Arc<Mutex<BTreeSet<String>>>,
}

impl Node {
    fn start(name: &'static str, protocol: &'static str) -> Self {
        let (server, agent) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let word = Arc::new(Mutex::new("ready up 100%"));
        let pollers = Arc::new(Mutex::new(BTreeSet::new()));
        let node = Self {
            name,
            address: server.local_addr().unwrap(),
            agent: agent.local_addr().unwrap(),
            word: word.clone(),
            pollers: pollers.clone(),
        };
        std::thread::spawn(move || {
            for mut stream in server.incoming().flatten() {
                std::thread::spawn(move || {
                    while read_head(&mut stream).is_some() {
                        let answer = format!("{protocol} 200 OK\r\nContent-Length: 0\r\nX-Node: {name}\r\n\r\n");
                        if stream.write_all(answer.as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        std::thread::spawn(move || {
            for mut stream in agent.incoming().flatten() {
                let mut line = [0; 200];
                let length = stream.read(&mut line).unwrap_or(0);
                pollers.lock().unwrap().insert(String::from_utf8_lossy(&line[..length]).into_owned());
                let word = *word.lock().unwrap();
                _ = stream.write_all(format!("{word}\n").as_bytes());
            }
        });
        node
    }

    fn say(&self, word: &'static str) {
        *self.word.lock().unwrap() = word;
    }
}

fn listed(nodes: &[Node]) -> Servers {
    Servers::List(nodes.iter().map(|node| Server::new(node.name, node.address, node.agent)).collect())
}

fn balancer(haproxy: &Path, folder: &Folder, settings: &Haproxy, nodes: &[Node]) -> Running {
    let file = folder.write("haproxy.cfg", &settings.render().unwrap());
    let running = Running::start(Command::new(haproxy).args(["-db", "-q", "-f"]).arg(&file));
    wait_for("every agent was asked", PATIENCE, || {
        nodes.iter().all(|node| !node.pollers.lock().unwrap().is_empty()).then_some(())
    });
    running
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = wait_for("the balancer listens", PATIENCE, || TcpStream::connect(address).ok());
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends a request and gives the answer's head.
fn ask(stream: &mut TcpStream, request: &str) -> Option<String> {
    write!(stream, "{request}\r\n\r\n").ok()?;
    read_head(stream)
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let find = |line: &'a str| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name));
    head.lines().find_map(find).map(|(_, value)| value)
}

fn node_of(head: Option<String>) -> String {
    header(&head.expect("an answer"), "X-Node").expect("a node's answer").to_owned()
}

fn rtsp(balancer: SocketAddr, path: &str) -> (TcpStream, String) {
    let mut stream = connect(balancer);
    let node = node_of(ask(&mut stream, &format!("OPTIONS rtsp://{balancer}/{path} RTSP/1.0\r\nCSeq: 1")));
    (stream, node)
}

#[test]
fn haproxy_accepts_every_golden_file() {
    let Some(haproxy) = program("haproxy") else { return };
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")).unwrap().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "cfg") {
            let (accepted, said) = run(&haproxy, &["-c", "-f", path.to_str().unwrap()]);
            assert!(accepted && !said.contains("WARNING"), "{}: {said}", path.display());
        }
    }
}

#[test]
fn readers_of_one_stream_meet_on_one_node_whatever_their_query_and_a_drain_cuts_none() {
    let Some(haproxy) = program("haproxy") else { return };
    let folder = Folder::new("rtsp");
    let nodes = ["dist-1", "dist-2", "dist-3"].map(|name| Node::start(name, "RTSP/1.0"));
    let mut settings = Haproxy::new("lb-1");
    let bind = free();
    settings.agent_interval = Duration::from_millis(200);
    let frontend = Frontend { bind, servers: listed(&nodes) };
    // At 150 %, three servers share two connections as one each: so few would never meet.
    let balance_factor = 10_000;
    settings.distribution =
        Some(DistributionFrontends { balance_factor, ..DistributionFrontends::rtsp_only(frontend) });
    let _balancer = balancer(&haproxy, &folder, &settings, &nodes);

    let (mut first, home) = rtsp(bind, "site/cam1");
    for path in ["site/cam1?worker=w1&leg=l1", "site/cam1?worker=w2&leg=l2", "site/cam1/"] {
        assert_eq!(rtsp(bind, path).1, home, "{path}");
    }
    // The whole path is the key: were it `site` alone, all of these would meet.
    let spread: BTreeSet<String> = (0..20).map(|camera| rtsp(bind, &format!("site/cam{camera}")).1).collect();
    assert_eq!(spread.len(), 3, "{spread:?}");

    // A request line that comes in two pieces has the same key.
    let mut halves = connect(bind);
    halves.set_nodelay(true).unwrap();
    write!(halves, "OPTIONS rtsp://{bind}/site/ca").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(node_of(ask(&mut halves, "m1?leg=l3 RTSP/1.0\r\nCSeq: 1")), home);

    let drained = nodes.iter().find(|node| node.name == home).unwrap();
    let expected = format!("lb-1/distribution_rtsp/{home}\n");
    assert_eq!(drained.pollers.lock().unwrap().iter().collect::<Vec<_>>(), [&expected]);
    drained.say("drain");
    wait_for("new readers go elsewhere", PATIENCE, || (rtsp(bind, "site/cam1").1 != home).then_some(()));
    assert_eq!(node_of(ask(&mut first, "OPTIONS * RTSP/1.0\r\nCSeq: 2")), home, "the connection it had goes on");
    drained.say("ready up 100%");
    wait_for("it is back", PATIENCE, || (rtsp(bind, "site/cam1").1 == home).then_some(()));
}

#[test]
fn what_is_no_rtsp_is_refused_within_the_inspection() {
    let Some(haproxy) = program("haproxy") else { return };
    let folder = Folder::new("garbage");
    let nodes = [Node::start("dist-1", "RTSP/1.0")];
    let mut settings = Haproxy::new("lb-1");
    let bind = free();
    settings.distribution = Some(DistributionFrontends::rtsp_only(Frontend { bind, servers: listed(&nodes) }));
    let _balancer = balancer(&haproxy, &folder, &settings, &nodes);
    let mut stream = connect(bind);
    assert_eq!(ask(&mut stream, "this is a long line of something else altogether"), None);
}

#[test]
fn a_camera_goes_to_an_ingestion_node_that_has_fewer() {
    let Some(haproxy) = program("haproxy") else { return };
    let folder = Folder::new("ingestion");
    let nodes = ["ing-1", "ing-2"].map(|name| Node::start(name, "RTSP/1.0"));
    let mut settings = Haproxy::new("lb-1");
    let bind = free();
    settings.ingestion = Some(Frontend { bind, servers: listed(&nodes) });
    let _balancer = balancer(&haproxy, &folder, &settings, &nodes);
    let held: Vec<_> = (0..4).map(|camera| rtsp(bind, &format!("cam{camera}"))).collect();
    assert_eq!(held.iter().filter(|(_, node)| node == "ing-1").count(), 2);
}

fn http(balancer: SocketAddr, method: &str, path: &str, cookie: &str) -> (String, Option<String>) {
    let cookie = if cookie.is_empty() { String::new() } else { format!("Cookie: {cookie}\r\n") };
    let request = format!("{method} {path} HTTP/1.1\r\nHost: live\r\n{cookie}Content-Length: 0");
    let head = ask(&mut connect(balancer), &request).expect("an answer");
    (header(&head, "X-Node").expect("a node").to_owned(), header(&head, "Set-Cookie").map(str::to_owned))
}

#[test]
fn an_hls_viewer_stays_on_a_draining_node_until_it_opens_a_new_session() {
    let Some(haproxy) = program("haproxy") else { return };
    let folder = Folder::new("hls");
    let nodes = ["dist-1", "dist-2", "dist-3"].map(|name| Node::start(name, "HTTP/1.1"));
    let mut settings = Haproxy::new("lb-1");
    let (bind, whep) = (free(), free());
    settings.agent_interval = Duration::from_millis(200);
    let unused = Frontend { bind: free(), servers: Servers::List(Vec::new()) };
    settings.distribution = Some(DistributionFrontends {
        hls: Some(Frontend { bind, servers: listed(&nodes) }),
        whep: Some(Frontend { bind: whep, servers: listed(&nodes) }),
        ..DistributionFrontends::rtsp_only(unused)
    });
    let _balancer = balancer(&haproxy, &folder, &settings, &nodes);

    let (home, cookie) = http(bind, "GET", "/site/cam1/index.m3u8", "");
    let cookie = cookie.expect("a cookie");
    assert_eq!(cookie, format!("MTXFLEET_HLS={home}; path=/site/cam1/"), "it holds for this stream only");
    let cookie = cookie.split(';').next().unwrap();
    let (whep_home, whep_cookie) = http(whep, "POST", "/site/cam1/whep", "");
    assert_eq!(whep_cookie, Some(format!("MTXFLEET_WHEP={whep_home}; path=/site/cam1/")));

    for node in nodes.iter().filter(|node| node.name == home || node.name == whep_home) {
        node.say("drain");
    }
    wait_for("new viewers go elsewhere", PATIENCE, || {
        (http(bind, "GET", "/site/cam1/index.m3u8", "").0 != home).then_some(())
    });
    assert_eq!(http(bind, "GET", "/site/cam1/video1_stream.m3u8?session=1", cookie).0, home, "its playlists go on");
    let (next, next_cookie) = http(bind, "GET", "/site/cam1/index.m3u8", cookie);
    assert_ne!(next, home);
    assert_eq!(next_cookie, Some(format!("MTXFLEET_HLS={next}; path=/site/cam1/")));

    let whep_cookie = format!("MTXFLEET_WHEP={whep_home}");
    wait_for("new WHEP sessions go elsewhere", PATIENCE, || {
        (http(whep, "POST", "/site/cam1/whep", &whep_cookie).0 != whep_home).then_some(())
    });
    assert_eq!(http(whep, "PATCH", "/site/cam1/whep/0f3a", &whep_cookie).0, whep_home, "its session goes on");
}
