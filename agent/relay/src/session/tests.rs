//! Real connections to a relay whose stream is fed by the test.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use mtxfleet_ai_client::StreamConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::channel::tests::{audio, video};
use crate::{relay, streams};

const SOON: Duration = Duration::from_secs(10);

struct Fixture {
    address: SocketAddr,
    streams: Arc<Streams>,
    channel: Arc<Channel>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// `cam1`, with a picture and sound.
async fn fixture() -> Fixture {
    let settings = streams::Settings {
        // Nothing answers there.
        upstream: Box::new(|stream| {
            Some(StreamConfig {
                open_timeout: Duration::from_millis(200),
                ..StreamConfig::new(stream.as_str(), "relay", "rtsp://127.0.0.1:1", "lab")
            })
        }),
        linger: Duration::from_millis(10),
        max_streams: 2,
    };
    let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
    let streams = Streams::new(settings, shutdown, tasks.clone());
    let channel = Arc::new(Channel::new("cam1", vec![video(), audio()]));
    streams.adopt(&cam1(), Arc::clone(&channel));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let accepting = tokio::spawn(relay::accept(listener, Arc::clone(&streams), 4, tasks));
    Fixture { address, streams, channel, accepting }
}

fn cam1() -> StreamName {
    StreamName::new("cam1").expect("a name")
}

struct Client {
    reader: MessageReader<tokio::net::tcp::OwnedReadHalf>,
    writer: tokio::net::tcp::OwnedWriteHalf,
    address: SocketAddr,
}

impl Client {
    async fn connect(fixture: &Fixture) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        // Small, so that a test of a reader that stalls need not send much.
        socket.set_recv_buffer_size(16 * 1024).expect("set");
        let (read, writer) = socket.connect(fixture.address).await.expect("connected").into_split();
        Self { reader: MessageReader::new(read), writer, address: fixture.address }
    }

    async fn send(&mut self, method: &str, path: &str, more: &str) {
        let request = format!("{method} rtsp://{}/{path} RTSP/1.0\r\nCSeq: 5\r\n{more}\r\n", self.address);
        self.writer.write_all(request.as_bytes()).await.expect("sent");
    }

    async fn next(&mut self) -> Option<Incoming> {
        timeout(SOON, self.reader.next()).await.expect("in time").ok().flatten()
    }

    async fn ask(&mut self, method: &str, path: &str, more: &str) -> Response<Vec<u8>> {
        self.send(method, path, more).await;
        loop {
            match self.next().await.expect("an answer") {
                Incoming::Response(response) => return response,
                Incoming::Data { .. } => {}
                Incoming::Request(request) => panic!("{request:?}"),
            }
        }
    }

    async fn status(&mut self, method: &str, path: &str, more: &str) -> u16 {
        self.ask(method, path, more).await.status().into()
    }

    async fn play(fixture: &Fixture) -> Self {
        let mut client = Self::connect(fixture).await;
        let tcp = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n";
        assert_eq!(client.status("SETUP", "cam1/trackID=0", tcp).await, 200);
        assert_eq!(client.status("PLAY", "cam1/", "").await, 200);
        client
    }

    /// The RTP timestamp of the next packet.
    async fn packet(&mut self) -> u32 {
        match self.next().await.expect("a packet") {
            Incoming::Data { channel: 0, data } => u32::from_be_bytes([data[4], data[5], data[6], data[7]]),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_session_goes_from_describe_to_teardown() {
    let fixture = fixture().await;
    let mut client = Client::connect(&fixture).await;
    let options = client.ask("OPTIONS", "cam1", "").await;
    assert_eq!(options.text(&headers::CSEQ), Some("5"));
    assert!(options.text(&headers::PUBLIC).is_some_and(|methods| methods.contains("DESCRIBE")));
    let described = client.ask("DESCRIBE", "cam1", "Accept: application/sdp\r\n").await;
    let base = format!("rtsp://{}/cam1/", fixture.address);
    assert_eq!(described.text(&headers::CONTENT_BASE), Some(base.as_str()));
    assert!(String::from_utf8_lossy(described.body()).contains("a=rtpmap:96 H264/90000"));

    let set_up = client.ask("SETUP", "cam1/trackID=1", "Transport: RTP/AVP/TCP;unicast;interleaved=4-5\r\n").await;
    assert!(set_up.text(&headers::TRANSPORT).is_some_and(|t| t.contains("interleaved=4-5;ssrc=")));
    let session = set_up.text(&headers::SESSION).and_then(|s| s.strip_suffix(";timeout=60")).expect("an id").to_owned();
    fixture.channel.push_test_unit(0, true, 1, 100);
    fixture.channel.push_test_unit(1, true, 2, 100);
    let played = client.ask("PLAY", "cam1/", &format!("Session: {session}\r\n")).await;
    let info = played.text(&headers::RTP_INFO).expect("there");
    assert!(info.contains("/cam1/trackID=1;seq=") && info.ends_with(";rtptime=2"), "{info}");
    assert!(matches!(client.next().await, Some(Incoming::Data { channel: 4, .. })), "only what was set up");
    assert_eq!(client.status("GET_PARAMETER", "cam1", &format!("Session: {session}\r\n")).await, 200);
    assert_eq!(client.status("TEARDOWN", "cam1", &format!("Session: {session}\r\n")).await, 200);
    assert!(client.next().await.is_none(), "closed");

    let mut leases = fixture.streams.leases(&cam1()).expect("open");
    timeout(SOON, leases.wait_for(|count| *count == 0)).await.expect("in time").expect("alive");
    assert_eq!(fixture.channel.readers(), []);
}

#[tokio::test]
async fn what_does_not_fit_is_refused_and_what_is_no_rtsp_ends_the_connection() {
    let fixture = fixture().await;
    let mut client = Client::connect(&fixture).await;
    let tcp = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n";
    let udp = "Transport: RTP/AVP;unicast;client_port=4-5\r\n";
    assert_eq!(client.status("PLAY", "cam1", "").await, 455, "before SETUP");
    assert_eq!(client.status("SETUP", "cam1/trackID=0", udp).await, 461);
    assert_eq!(client.status("SETUP", "cam1/trackID=7", tcp).await, 404);
    assert_eq!(client.status("SETUP", "cam1/trackID=x", tcp).await, 404);
    assert_eq!(client.status("ANNOUNCE", "cam1", "").await, 501);
    assert_eq!(client.status("SETUP", "cam1/trackID=0", tcp).await, 200);
    assert_eq!(client.status("SETUP", "cam1/trackID=1", tcp).await, 400, "the channels are taken");
    assert_eq!(client.status("PLAY", "cam1", "Session: another\r\n").await, 454);
    assert_eq!(client.status("PLAY", "cam1", "").await, 200);
    assert_eq!(client.status("SETUP", "cam1/trackID=1", tcp).await, 455);

    for bad in ["GET / HTTP/1.1\r\n\r\n".to_owned(), format!("OPTIONS rtsp://a/{} RTSP", "x".repeat(70_000))] {
        let mut client = Client::connect(&fixture).await;
        client.writer.write_all(bad.as_bytes()).await.expect("sent");
        match client.next().await {
            Some(Incoming::Response(response)) => assert_eq!(response.status(), StatusCode::BadRequest),
            other => panic!("{other:?}"),
        }
        assert!(client.next().await.is_none(), "closed");
    }
    let mut client = Client::connect(&fixture).await;
    assert_eq!(client.status("DESCRIBE", "a%20b", "").await, 400);
    assert!(client.next().await.is_none(), "closed");
}

#[tokio::test]
async fn a_stream_that_cannot_be_opened_is_not_found_and_streams_are_bounded() {
    let fixture = fixture().await;
    let (mut first, mut second) = (Client::connect(&fixture).await, Client::connect(&fixture).await);
    first.send("DESCRIBE", "cam2", "").await;
    let name = StreamName::new("cam2").expect("a name");
    // Both streams that may be open are, from when the first is being opened.
    let opening = async {
        while fixture.streams.leases(&name).is_none() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, opening).await.expect("in time");
    assert_eq!(second.status("DESCRIBE", "cam3", "").await, 503);
    match first.next().await {
        Some(Incoming::Response(response)) => assert_eq!(response.status(), StatusCode::NotFound),
        other => panic!("{other:?}"),
    }
    assert!(fixture.streams.leases(&name).is_none(), "it can be tried again");
}

#[tokio::test]
async fn connections_are_bounded() {
    let fixture = fixture().await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = Client::connect(&fixture).await;
        assert_eq!(client.status("OPTIONS", "cam1", "").await, 200);
        clients.push(client);
    }
    match Client::connect(&fixture).await.next().await {
        Some(Incoming::Response(response)) => assert_eq!(response.status(), StatusCode::ServiceUnavailable),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_reader_that_stalls_holds_no_other_and_goes_on_at_a_keyframe() {
    const FRAME: usize = 60_000;
    let fixture = fixture().await;
    let (mut quick, mut stalled) = (Client::play(&fixture).await, Client::play(&fixture).await);
    // 60 MB: more than the queue and the sockets' buffers hold.
    let frames = 1_000;
    for number in 1..=frames {
        fixture.channel.push_test_unit(0, number % 10 == 1, number, FRAME);
        assert_eq!(quick.packet().await, number);
    }
    let counted = fixture.channel.readers();
    assert_eq!(counted[0], (u64::from(frames), 0));
    assert!(counted[1].1 > 0, "the stalled one lost nothing, so this proves nothing: {counted:?}");
    assert_eq!(counted[1].0 + counted[1].1, u64::from(frames), "each is given or counted: {counted:?}");

    // What it gets then is whole up to where it was behind, and goes on at a keyframe.
    let mut seen = vec![stalled.packet().await];
    let more = frames + 20;
    for number in frames + 1..=more {
        while (seen.len() as u64) < fixture.channel.readers()[1].0 {
            seen.push(stalled.packet().await);
        }
        fixture.channel.push_test_unit(0, number % 10 == 1, number, FRAME);
    }
    while seen.last() != Some(&more) {
        seen.push(stalled.packet().await);
    }
    let jumps: Vec<_> = seen.windows(2).filter(|pair| pair[1] != pair[0] + 1).map(|pair| pair[1]).collect();
    assert_eq!(seen[0], 1);
    assert_eq!(jumps.len(), 1, "{jumps:?}");
    assert_eq!(jumps[0] % 10, 1, "not a keyframe: {jumps:?}");
}

#[tokio::test]
async fn readers_are_closed_when_the_upstream_is_over() {
    let fixture = fixture().await;
    let mut client = Client::play(&fixture).await;
    fixture.channel.closed.cancel();
    let mut rest = Vec::new();
    timeout(SOON, async {
        let Client { reader, writer, .. } = &mut client;
        while reader.next().await.ok().flatten().is_some() {}
        let _ = writer.shutdown().await;
    })
    .await
    .expect("closed");
    drop(client);
    let mut socket = TcpStream::connect(fixture.address).await.expect("it still listens");
    socket.write_all(b"nonsense\r\n\r\n").await.expect("sent");
    timeout(SOON, socket.read_to_end(&mut rest)).await.expect("in time").expect("read");
    assert!(rest.starts_with(b"RTSP/1.0 400"));
}
