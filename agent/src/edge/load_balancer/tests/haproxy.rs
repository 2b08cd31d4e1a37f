//! The responder by raw TCP, and polled by the real HAProxy.

use std::collections::{HashMap, HashSet};

use tokio::net::UnixStream;

use super::*;
use crate::edge::mediamtx::real_server::{Process, SOON, find, free_address, wait_for};

const DRAIN: BalancerWord = BalancerWord::Drain;

async fn start(word: BalancerWord) -> (AgentCheck, mpsc::Receiver<Poll>) {
    let (sender, polls) = mpsc::channel(128);
    let settings = AgentCheckSettings { listen: "127.0.0.1:0".parse().unwrap() };
    (AgentCheck::start(settings, word, sender).await.unwrap(), polls)
}

async fn next(polls: &mut mpsc::Receiver<Poll>) -> Poll {
    tokio::time::timeout(SOON, polls.recv()).await.expect("a poll in time").expect("the responder lives")
}

/// What is answered to a poller that sends this.
async fn poll(check: &AgentCheck, sent: &[u8]) -> String {
    let mut stream = TcpStream::connect(check.local_addr()).await.unwrap();
    let _ = stream.write_all(sent).await;
    let mut answer = Vec::new();
    // A close with unread bytes on the other side is a reset here, after the answer.
    while matches!(stream.read_buf(&mut answer).await, Ok(1..)) {}
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn each_word_is_said_as_haproxy_knows_it() {
    let (check, _polls) = start(DRAIN).await;
    for (word, expected) in [
        (BalancerWord::Up { weight: 75 }, "up 75%\n"),
        (BalancerWord::Ready { weight: 100 }, "ready up 100%\n"),
        (BalancerWord::Drain, "drain\n"),
        (BalancerWord::Down, "down\n"),
    ] {
        check.set_word(word);
        assert_eq!(check.word(), word);
        assert_eq!(poll(&check, b"lb1\n").await, expected);
    }
}

#[tokio::test]
async fn a_poll_is_reported_with_who_asked_and_what_it_was_told() {
    let (check, mut polls) = start(DRAIN).await;
    for (sent, who) in [
        (&b"lb1/rtsp\n"[..], "lb1/rtsp"),
        (b"  lb1 rtsp \r\nmore\n", "lb1 rtsp"),
        (b"without an end", "without an end"),
        (b"", "127.0.0.1"),
        (b" \n", "127.0.0.1"),
        (b"\x00\xff\x1b[31m", "\u{fffd}\u{fffd}\u{fffd}[31m"),
    ] {
        assert_eq!(poll(&check, sent).await, "drain\n");
        assert_eq!(next(&mut polls).await, Poll { who: who.to_owned(), said: DRAIN });
    }
    assert_eq!(poll(&check, &[b'x'; 10_000]).await, "drain\n");
    assert_eq!(next(&mut polls).await.who, "x".repeat(MAX_LINE));
    assert_eq!(check.counters(), AgentCheckCounters { answered: 7, ..Default::default() });
}

#[tokio::test]
async fn a_poll_under_way_when_the_word_changes_gets_the_new_one() {
    let (check, mut polls) = start(BalancerWord::Up { weight: 100 }).await;
    let mut stream = TcpStream::connect(check.local_addr()).await.unwrap();
    stream.write_all(b"lb1").await.unwrap();
    check.set_word(DRAIN);
    stream.write_all(b"\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!((answer.as_str(), next(&mut polls).await.said), ("drain\n", DRAIN));
}

#[tokio::test]
async fn pollers_that_never_read_or_leave_at_once_do_not_stop_it() {
    let (check, mut polls) = start(DRAIN).await;
    for _ in 0..20 {
        drop(TcpStream::connect(check.local_addr()).await.unwrap());
    }
    let _silent: Vec<_> = futures::future::join_all((0..20).map(|_| TcpStream::connect(check.local_addr()))).await;
    assert_eq!(poll(&check, b"lb1\n").await, "drain\n");
    while next(&mut polls).await.who != "lb1" {}
}

#[tokio::test]
async fn connections_are_bounded_and_there_is_room_again() {
    let (check, _polls) = start(DRAIN).await;
    let many = futures::future::join_all((0..300).map(|_| TcpStream::connect(check.local_addr()))).await;
    wait_for("refusals", async || check.counters().refused > 0).await;
    drop(many);
    wait_for("an answer", async || poll(&check, b"lb1\n").await == "drain\n").await;
}

#[tokio::test]
async fn a_report_that_nobody_takes_is_counted_and_the_poller_answered_all_the_same() {
    let (sender, _polls) = mpsc::channel(1);
    let settings = AgentCheckSettings { listen: "127.0.0.1:0".parse().unwrap() };
    let check = AgentCheck::start(settings, DRAIN, sender).await.unwrap();
    for _ in 0..3 {
        assert_eq!(poll(&check, b"lb1\n").await, "drain\n");
    }
    wait_for("the counts", async || check.counters().answered == 3).await;
    assert_eq!(check.counters().unreported, 2);
    let taken = AgentCheckSettings { listen: check.local_addr() };
    let error = AgentCheck::start(taken, DRAIN, mpsc::channel(1).0).await.unwrap_err().to_string();
    assert!(
        error.contains(&check.local_addr().to_string()) && error.contains("balancer.haproxy.agent_check"),
        "{error}"
    );
}

/// HAProxy with three backends of one server each: two name themselves to the agent, one does not.
struct Haproxy {
    dir: tempfile::TempDir,
    _process: Process,
}

/// Of a server, from a row of `show stat`.
#[derive(Debug, PartialEq, Eq)]
struct State {
    status: String,
    weight: String,
}

impl Haproxy {
    async fn start(check: &AgentCheck) -> Option<Self> {
        let program = find("haproxy", "agent-checks by the real HAProxy")?;
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("stats");
        let (server, agent) = (free_address(), check.local_addr());
        let options = format!("agent-check agent-addr {} agent-port {} agent-inter 300ms", agent.ip(), agent.port());
        let config = format!(
            "global\n  stats socket {} level admin\ndefaults\n  mode tcp\n  timeout connect 1s\n  timeout client 5s\n  \
             timeout server 5s\nbackend rtsp\n  server d1 {server} weight 100 {options} agent-send \"lb1/rtsp\\n\"\n\
             backend hls\n  server d1 {server} weight 100 {options} agent-send \"lb1/hls\\n\"\n\
             backend plain\n  server d1 {server} weight 100 {options}\n",
            socket.display()
        );
        let file = dir.path().join("haproxy.cfg");
        std::fs::write(&file, config).unwrap();
        let process = Process::start(program.to_str().unwrap(), &["-db", "-f", file.to_str().unwrap()]);
        wait_for("HAProxy's socket", async || UnixStream::connect(&socket).await.is_ok()).await;
        Some(Self { dir, _process: process })
    }

    async fn command(&self, command: &str) -> String {
        let mut stream = UnixStream::connect(self.dir.path().join("stats")).await.unwrap();
        stream.write_all(format!("{command}\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Of the backend's only server in `show stat`.
    async fn column(&self, backend: &str, name: &str) -> String {
        let stat = self.command("show stat").await;
        let header = stat.lines().next().unwrap().trim_start_matches("# ");
        let index = header.split(',').position(|column| column == name).unwrap();
        let row = stat.lines().find(|line| line.starts_with(&format!("{backend},d1,"))).unwrap();
        row.split(',').nth(index).unwrap().to_owned()
    }

    async fn state(&self, backend: &str) -> State {
        State { status: self.column(backend, "status").await, weight: self.column(backend, "weight").await }
    }

    async fn becomes(&self, status: &str, weight: &str) {
        for backend in ["rtsp", "hls", "plain"] {
            let what = format!("{backend} {status} with weight {weight}");
            let expected = State { status: status.to_owned(), weight: weight.to_owned() };
            wait_for(&what, async || self.state(backend).await == expected).await;
        }
    }
}

#[tokio::test]
async fn haproxy_obeys_each_word_and_every_backend_polls_under_its_own_name() {
    let (check, mut polls) = start(BalancerWord::Ready { weight: 100 }).await;
    let Some(haproxy) = Haproxy::start(&check).await else { return };
    let mut seen = HashSet::new();
    for _ in 0..30 {
        let poll = next(&mut polls).await;
        assert_eq!(poll.said, BalancerWord::Ready { weight: 100 });
        seen.insert(poll.who);
    }
    assert_eq!(seen, HashSet::from(["lb1/rtsp", "lb1/hls", "127.0.0.1"].map(str::to_owned)));

    let in_service = haproxy.state("rtsp").await.status;
    haproxy.becomes(&in_service, "100").await;
    check.set_word(BalancerWord::Up { weight: 50 });
    haproxy.becomes(&in_service, "50").await;
    check.set_word(BalancerWord::Drain);
    haproxy.becomes("DRAIN (agent)", "50").await;

    // `up` alone leaves a drain as it is, an operator's too; `ready` ends it.
    let up = BalancerWord::Up { weight: 60 };
    check.set_word(up);
    tokio::time::timeout(SOON, all_told_twice(&mut polls, up)).await.expect("every backend polls on");
    haproxy.becomes("DRAIN (agent)", "60").await;
    check.set_word(BalancerWord::Ready { weight: 70 });
    haproxy.becomes(&in_service, "70").await;

    check.set_word(BalancerWord::Down);
    haproxy.becomes("DOWN (agent)", "70").await;
    check.set_word(BalancerWord::Up { weight: 80 });
    haproxy.becomes(&in_service, "80").await;

    // An agent that is gone changes nothing: the last word stays.
    check.set_word(BalancerWord::Drain);
    haproxy.becomes("DRAIN (agent)", "80").await;
    drop(check);
    for backend in ["rtsp", "hls", "plain"] {
        wait_for("a poll in vain", async || haproxy.column(backend, "agent_status").await == "L4CON").await;
    }
    haproxy.becomes("DRAIN (agent)", "80").await;
}

/// Twice, since a state that must not change shows only when the first answer has been acted on.
async fn all_told_twice(polls: &mut mpsc::Receiver<Poll>, word: BalancerWord) {
    let mut told = HashMap::<String, u32>::new();
    while told.len() < 3 || told.values().any(|times| *times < 2) {
        let poll = next(polls).await;
        if poll.said == word {
            *told.entry(poll.who).or_default() += 1;
        }
    }
}
