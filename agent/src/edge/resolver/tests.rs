//! The resolver by raw TCP, and between real servers in `tests/between_real_servers.rs`.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::*;
use crate::edge::mediamtx::real_server::wait_for;

mod between_real_servers;
mod relaying;

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn owner(stream: &str, node_name: &str, rtsp: &str) -> (StreamName, NodeId, String) {
    (StreamName::new(stream).unwrap(), node(node_name), rtsp.to_owned())
}

fn settings() -> ResolverSettings {
    ResolverSettings {
        listen: "127.0.0.1:0".parse().unwrap(),
        node: node("d1"),
        own_rtsp: "10.0.0.9:8554".to_owned(),
        limits: ResolverLimits { hold: Duration::from_millis(100), ..ResolverLimits::default() },
        relay: None,
    }
}

async fn start(change: impl FnOnce(&mut ResolverLimits)) -> Resolver {
    let mut settings = settings();
    change(&mut settings.limits);
    Resolver::start(settings).await.unwrap()
}

async fn connect(resolver: &Resolver) -> TcpStream {
    TcpStream::connect(resolver.local_addr()).await.unwrap()
}

fn describe(path: &str) -> String {
    format!("DESCRIBE rtsp://127.0.0.1:8700/{path} RTSP/1.0\r\nCSeq: 2\r\nAccept: application/sdp\r\n\r\n")
}

/// One answer, as far as it goes: empty when the connection was closed without one.
async fn answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        // A close with unread bytes on the other side is a reset here.
        if !matches!(stream.read_buf(&mut answer).await, Ok(1..)) {
            break;
        }
    }
    String::from_utf8(answer).unwrap()
}

async fn ask(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    answer(stream).await
}

async fn is_closed(stream: &mut TcpStream) -> bool {
    !matches!(stream.read(&mut [0; 64]).await, Ok(1..))
}

#[tokio::test]
async fn a_question_about_a_known_stream_is_answered_with_its_owner() {
    let resolver = start(|_| {}).await;
    resolver.set_owners(vec![owner("site/cam1", "i1", "10.0.0.1:8554"), owner("cam2", "i2", "10.0.0.2:554")]);
    let mut client = connect(&resolver).await;
    let options = ask(&mut client, "OPTIONS rtsp://127.0.0.1:8700/site/cam1 RTSP/1.0\r\nCSeq: 1\r\n\r\n").await;
    assert!(options.starts_with("RTSP/1.0 200 OK\r\nCSeq: 1\r\n") && options.contains("DESCRIBE"), "{options}");
    let found = ask(&mut client, &describe("site/cam1")).await;
    assert!(found.starts_with("RTSP/1.0 302 Found\r\nCSeq: 2\r\n"), "{found}");
    assert!(found.contains("\r\nLocation: rtsp://10.0.0.1:8554/site/cam1?pull=d1\r\n"), "{found}");
    // On the same connection, with a query, a slash at the end, letters in hexadecimal.
    for path in ["cam2?user=x", "cam2/", "%63am2"] {
        let found = ask(&mut client, &describe(path)).await;
        assert!(found.contains("\r\nLocation: rtsp://10.0.0.2:554/cam2?pull=d1\r\n"), "{found}");
    }
    assert_eq!(resolver.counters(), ResolverCounters { redirects: 4, ..Default::default() });
}

#[tokio::test]
async fn a_request_in_pieces_is_answered_once() {
    let resolver = start(|_| {}).await;
    resolver.set_owners(vec![owner("cam1", "i1", "10.0.0.1:8554")]);
    let mut client = connect(&resolver).await;
    client.set_nodelay(true).unwrap();
    for piece in describe("cam1").as_bytes().chunks(7) {
        client.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(answer(&mut client).await.starts_with("RTSP/1.0 302"));
    assert_eq!(resolver.counters().redirects, 1);
}

#[tokio::test]
async fn a_held_question_is_answered_as_soon_as_the_owner_is_known() {
    let resolver = start(|limits| limits.hold = Duration::from_secs(60)).await;
    let (mut first, mut other) = (connect(&resolver).await, connect(&resolver).await);
    first.write_all(describe("cam1").as_bytes()).await.unwrap();
    other.write_all(describe("cam2").as_bytes()).await.unwrap();
    wait_for("two held questions", async || resolver.counters().holding == 2).await;
    resolver.set_owners(vec![owner("cam1", "i1", "10.0.0.1:8554")]);
    assert!(answer(&mut first).await.contains("rtsp://10.0.0.1:8554/cam1"));
    wait_for("one held question", async || resolver.counters().holding == 1).await;
    // An owner that is this node itself does not end the wait; another one does.
    resolver.set_owners(vec![owner("cam2", "d1", "10.0.0.9:8554")]);
    resolver.set_owners(vec![owner("cam2", "i2", "10.0.0.2:8554")]);
    assert!(answer(&mut other).await.contains("rtsp://10.0.0.2:8554/cam2"));
    assert_eq!(resolver.counters(), ResolverCounters { redirects: 2, held: 2, ..Default::default() });
}

#[tokio::test]
async fn a_question_held_too_long_is_answered_not_found() {
    let resolver = start(|_| {}).await;
    let asked = Instant::now();
    let mut client = connect(&resolver).await;
    assert!(ask(&mut client, &describe("cam1")).await.starts_with("RTSP/1.0 404 Not Found\r\nCSeq: 2\r\n"));
    assert!(asked.elapsed() >= Duration::from_millis(100));
    assert_eq!(resolver.counters(), ResolverCounters { unknown: 1, held: 1, ..Default::default() });
}

#[tokio::test]
async fn this_node_is_never_pointed_at() {
    let resolver = start(|_| {}).await;
    let itself = resolver.local_addr().to_string();
    resolver.set_owners(vec![
        owner("by-id", "d1", "10.0.0.1:8554"),
        owner("by-address", "i1", "10.0.0.9:8554"),
        owner("by-resolver", "i2", &itself),
    ]);
    for stream in ["by-id", "by-address", "by-resolver"] {
        let found = ask(&mut connect(&resolver).await, &describe(stream)).await;
        assert!(found.starts_with("RTSP/1.0 404") && !found.contains("Location"), "{found}");
    }
    assert_eq!(resolver.counters(), ResolverCounters { own: 3, held: 3, ..Default::default() });
}

#[tokio::test]
async fn a_name_that_no_stream_can_have_is_not_found_at_once() {
    let resolver = start(|limits| limits.hold = Duration::from_secs(60)).await;
    for path in ["", "cam%0d%0aX:y", "a b", "%ff", "%zz", "%4", &"x".repeat(300)] {
        let found = ask(&mut connect(&resolver).await, &describe(&path.replace(' ', "%20"))).await;
        assert!(found.starts_with("RTSP/1.0 404") || found.starts_with("RTSP/1.0 400"), "{path:?}: {found}");
    }
    assert_eq!(resolver.counters().held, 0);
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_place() {
    let resolver = start(|limits| (limits.hold, limits.held_per_stream) = (Duration::from_secs(60), 1)).await;
    let mut first = connect(&resolver).await;
    first.write_all(describe("cam1").as_bytes()).await.unwrap();
    wait_for("a held question", async || resolver.counters().holding == 1).await;
    let mut second = connect(&resolver).await;
    assert!(ask(&mut second, &describe("cam1")).await.starts_with("RTSP/1.0 503"));
    drop(first);
    wait_for("the place's end", async || resolver.counters().holding == 0).await;
    second.write_all(describe("cam1").as_bytes()).await.unwrap();
    wait_for("a held question again", async || resolver.counters().holding == 1).await;
    assert_eq!(resolver.counters(), ResolverCounters { held: 2, holding: 1, refused_held: 1, ..Default::default() });
}

#[tokio::test]
async fn held_questions_are_bounded_per_stream_and_in_all() {
    let limits = |limits: &mut ResolverLimits| {
        (limits.hold, limits.held_per_stream, limits.held) = (Duration::from_secs(60), 3, 5);
    };
    let resolver = start(limits).await;
    let mut clients = Vec::new();
    for stream in ["a", "a", "a", "a", "b", "c", "d"] {
        let mut client = connect(&resolver).await;
        client.write_all(describe(stream).as_bytes()).await.unwrap();
        clients.push(client);
    }
    wait_for("five held and two refused", async || {
        let counters = resolver.counters();
        (counters.holding, counters.refused_held) == (5, 2)
    })
    .await;
}

#[tokio::test]
async fn garbage_is_refused_and_counted() {
    let resolver = start(|_| {}).await;
    let garbage: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello",
        b"$\x00\x00\x04abcd",
        b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n",
        b"DESCRIBE rtsp://h/cam1 RTSP/1.0\r\nContent-Length: -5\r\n\r\n",
        b"DESCRIBE rtsp://h/cam1 RTSP/1.0\r\nno colon\r\n\r\n",
        b"DESCRIBE not-a-url RTSP/1.0\r\nCSeq: 1\r\n\r\n",
    ];
    for bytes in garbage {
        let mut client = connect(&resolver).await;
        client.write_all(bytes).await.unwrap();
        let said = answer(&mut client).await;
        assert!(said.starts_with("RTSP/1.0 400 Bad Request\r\n"), "{:?}: {said}", String::from_utf8_lossy(bytes));
        assert!(is_closed(&mut client).await);
    }
    assert_eq!(resolver.counters(), ResolverCounters { refused_garbage: 7, ..Default::default() });
    // A method that has no place here is no garbage.
    let said = ask(&mut connect(&resolver).await, "PLAY rtsp://h/cam1 RTSP/1.0\r\nCSeq: 9\r\n\r\n").await;
    assert!(said.starts_with("RTSP/1.0 405 Method Not Allowed\r\nCSeq: 9\r\n"), "{said}");
}

#[tokio::test]
async fn an_oversize_request_is_refused_at_its_bound() {
    let resolver = start(|_| {}).await;
    let requests = [
        format!("DESCRIBE rtsp://h/cam1 RTSP/1.0\r\nX-Long: {}", "x".repeat(100_000)),
        format!("DESCRIBE rtsp://h/{}", "x".repeat(100_000)),
        format!("DESCRIBE rtsp://h/c RTSP/1.0\r\nContent-Length: {}\r\n\r\n{}", u64::MAX, "x".repeat(100_000)),
    ];
    for (number, request) in requests.iter().enumerate() {
        let mut client = connect(&resolver).await;
        // It may be closed before all is written.
        let _ = client.write_all(request.as_bytes()).await;
        while !is_closed(&mut client).await {}
        assert_eq!(resolver.counters(), ResolverCounters { refused_oversize: number as u64 + 1, ..Default::default() });
    }
    // More while a question is held counts the same.
    let resolver = start(|limits| limits.hold = Duration::from_secs(60)).await;
    let mut client = connect(&resolver).await;
    client.write_all(describe("cam1").as_bytes()).await.unwrap();
    wait_for("a held question", async || resolver.counters().holding == 1).await;
    let _ = client.write_all(&[b'x'; 100_000]).await;
    while !is_closed(&mut client).await {}
    let expected = ResolverCounters { held: 1, refused_oversize: 1, ..Default::default() };
    assert_eq!(resolver.counters(), expected);
}

#[tokio::test]
async fn a_slow_client_is_closed_however_often_it_sends_a_byte() {
    let resolver = start(|limits| limits.request_time = Duration::from_millis(300)).await;
    let mut client = connect(&resolver).await;
    let started = Instant::now();
    for byte in describe("cam1").bytes() {
        if client.write_all(&[byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(is_closed(&mut client).await);
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(resolver.counters(), ResolverCounters { refused_slow: 1, ..Default::default() });
    // One that says nothing at all goes too, uncounted.
    assert!(is_closed(&mut connect(&resolver).await).await);
    assert_eq!(resolver.counters().refused_slow, 1);
}

#[tokio::test]
async fn a_thousand_connections_leave_room_for_no_more_than_the_limit_and_harm_nothing() {
    let resolver = start(|limits| (limits.hold, limits.connections) = (Duration::from_secs(60), 200)).await;
    resolver.set_owners(vec![owner("cam1", "i1", "10.0.0.1:8554")]);
    let mut clients = Vec::new();
    for number in 0..1000 {
        let mut client = connect(&resolver).await;
        // Those over the limit may be closed already.
        let _ = client.write_all(describe(&format!("nobody/{number}")).as_bytes()).await;
        clients.push(client);
    }
    wait_for("the limit", async || {
        let counters = resolver.counters();
        counters.refused_connections == 800 && counters.holding + counters.refused_held == 200
    })
    .await;
    assert_eq!(resolver.counters().holding, 192, "held questions have a bound of their own");
    drop(clients);
    wait_for("room again", async || resolver.counters().holding == 0).await;
    let mut found = String::new();
    wait_for("an answer", async || {
        found = ask(&mut connect(&resolver).await, &describe("cam1")).await;
        !found.is_empty()
    })
    .await;
    assert!(found.contains("rtsp://10.0.0.1:8554/cam1"), "{found}");
}

#[tokio::test]
async fn an_address_that_cannot_be_bound_is_named() {
    let resolver = start(|_| {}).await;
    let taken = ResolverSettings { listen: resolver.local_addr(), ..settings() };
    let error = Resolver::start(taken).await.unwrap_err().to_string();
    assert!(error.contains(&resolver.local_addr().to_string()) && error.contains("resolver.listen"), "{error}");
    let everywhere = ResolverSettings { listen: "0.0.0.0:0".parse().unwrap(), ..settings() };
    assert!(Resolver::start(everywhere).await.unwrap_err().to_string().contains("loopback"));
}

#[tokio::test]
async fn dropping_it_closes_every_connection() {
    let resolver = start(|limits| limits.hold = Duration::from_secs(60)).await;
    let mut client = connect(&resolver).await;
    client.write_all(describe("cam1").as_bytes()).await.unwrap();
    wait_for("a held question", async || resolver.counters().holding == 1).await;
    let address = resolver.local_addr();
    drop(resolver);
    assert!(is_closed(&mut client).await);
    assert!(TcpStream::connect(address).await.is_err());
}
