//! A source over two owners in this process. Both have the same camera, and number its frames each in their own way.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

use super::*;
use crate::message::{Headers as _, Incoming, MessageReader};

const SOON: Duration = Duration::from_secs(20);
const EVERY: Duration = Duration::from_millis(20);
const GOP: u32 = 10;
const TICKS: u32 = 1_800;

/// Frames by number, as they are taken.
fn camera() -> (broadcast::Sender<u32>, JoinHandle<()>) {
    let (frames, _) = broadcast::channel(64);
    let taken = frames.clone();
    let task = tokio::spawn(async move {
        let mut tick = tokio::time::interval(EVERY);
        for number in 0.. {
            tick.tick().await;
            let _ = taken.send(number);
        }
    });
    (frames, task)
}

struct Server {
    at: SocketAddr,
    /// URLs that were asked for.
    asked: Arc<Mutex<Vec<String>>>,
    readers: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(frames: &broadcast::Sender<u32>, first: u32) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let at = listener.local_addr().expect("bound");
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let (count, readers) = watch::channel(0);
        let (frames, urls) = (frames.clone(), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let (frames, urls, count) = (frames.clone(), Arc::clone(&urls), count.clone());
                connections.spawn(async move {
                    count.send_modify(|count| *count += 1);
                    let _ = connection(socket, frames, first, &urls).await;
                    count.send_modify(|count| *count -= 1);
                });
            }
        });
        Self { at, asked, readers, task }
    }

    fn owner(&self, name: &str) -> Owner {
        Owner { node: NodeId::new(name).expect("valid"), rtsp: self.at.to_string() }
    }

    async fn wait_readers(&mut self, count: usize) {
        let waited = self.readers.wait_for(|readers| *readers == count);
        tokio::time::timeout(SOON, waited).await.expect("in time").expect("it runs");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connection(
    socket: TcpStream,
    frames: broadcast::Sender<u32>,
    first: u32,
    urls: &Mutex<Vec<String>>,
) -> Option<()> {
    let (read, mut write) = socket.into_split();
    let mut reader = MessageReader::new(read);
    let mut playing: Option<broadcast::Receiver<u32>> = None;
    let mut sequence = first as u16;
    loop {
        let frame = async {
            match &mut playing {
                Some(frames) => frames.recv().await.ok(),
                None => std::future::pending().await,
            }
        };
        let incoming = tokio::select! {
            number = frame => {
                let number = number?;
                let mut out = Vec::new();
                if number % GOP == 0 {
                    // As if the first frame had been taken in 1970, plus an hour.
                    let ntp = (2_208_988_800 + 3_600 + u64::from(number * TICKS / 90_000)) << 32;
                    out.extend_from_slice(&[b'$', 1, 0, 28, 0x80, 200, 0, 6, 0, 0, 0, 1]);
                    out.extend_from_slice(&ntp.to_be_bytes());
                    out.extend_from_slice(&(first + number * TICKS / 90_000 * 90_000).to_be_bytes());
                    out.extend_from_slice(&[0; 8]);
                }
                out.extend_from_slice(&[b'$', 0, 0, 12 + 9, 0x80, 0x80 | 96]);
                out.extend_from_slice(&sequence.to_be_bytes());
                out.extend_from_slice(&(first + number * TICKS).to_be_bytes());
                out.extend_from_slice(&[0, 0, 0, 1, if number % GOP == 0 { 0x65 } else { 0x41 }]);
                out.extend_from_slice(&u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
                sequence = sequence.wrapping_add(1);
                write.write_all(&out).await.ok()?;
                continue;
            }
            incoming = reader.next() => incoming.ok()??,
        };
        let Incoming::Request(request) = incoming else { continue };
        let method = format!("{:?}", request.method());
        let url = request.request_uri()?.to_string();
        let sequence = request.text(&rtsp_types::headers::CSEQ)?;
        let sdp = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n\
            a=fmtp:96 packetization-mode=1; sprop-parameter-sets=Z2QADKw7ULBLQgAAAwACAAADAD0I,aO48gA==\r\n\
            a=control:trackID=0\r\n";
        let (more, body) = match method.as_str() {
            "Describe" => {
                urls.lock().expect("not poisoned").push(url);
                (format!("Content-Type: application/sdp\r\nContent-Length: {}\r\n", sdp.len()), sdp)
            }
            "Setup" => ("Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n".to_owned(), ""),
            _ => ("Session: 1\r\n".to_owned(), ""),
        };
        write.write_all(format!("RTSP/1.0 200 OK\r\nCSeq: {sequence}\r\n{more}\r\n{body}").as_bytes()).await.ok()?;
        match method.as_str() {
            "Play" => playing = Some(frames.subscribe()),
            "Teardown" => return None,
            _ => {}
        }
    }
}

/// MediaMTX, as far as it matters here.
struct Client {
    reader: MessageReader<tokio::net::tcp::OwnedReadHalf>,
    _writer: tokio::net::tcp::OwnedWriteHalf,
}

/// What came: sequence number, time, and frame; or the seconds since 1970 of a sender report.
#[derive(Debug, PartialEq)]
enum Came {
    Packet(u16, u32, u64),
    Report(u64),
}

impl Client {
    /// Plays `cam1`, of which the question was read by somebody else.
    async fn play(source: &Source) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let at = listener.local_addr().expect("bound");
        let (socket, accepted) = tokio::join!(TcpStream::connect(at), listener.accept());
        let question = format!("DESCRIBE rtsp://{at}/cam1?pull=d1 RTSP/1.0\r\nCSeq: 1\r\n\r\n");
        source.adopt(source.place().expect("room"), accepted.expect("accepted").0, question.as_bytes());
        let (read, mut writer) = socket.expect("connected").into_split();
        let mut reader = MessageReader::new(read);
        let described = reader.next().await;
        let Ok(Some(Incoming::Response(described))) = described else { panic!("{described:?}") };
        assert_eq!(described.text(&rtsp_types::headers::CONTENT_BASE), Some(&*format!("rtsp://{at}/cam1/")));
        let set_up = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n";
        let requests = format!(
            "SETUP rtsp://{at}/cam1/trackID=0 RTSP/1.0\r\nCSeq: 2\r\n{set_up}\r\nPLAY rtsp://{at}/cam1/ RTSP/1.0\r\nCSeq: 3\r\n\r\n"
        );
        writer.write_all(requests.as_bytes()).await.expect("written");
        for _ in 0..2 {
            let answer = reader.next().await;
            assert!(
                matches!(&answer, Ok(Some(Incoming::Response(r))) if r.status() == rtsp_types::StatusCode::Ok),
                "{answer:?}"
            );
        }
        Self { reader, _writer: writer }
    }

    /// The next so many packets, and what else comes meanwhile.
    async fn more(&mut self, packets: usize) -> Vec<Came> {
        let mut came = Vec::new();
        let mut left = packets;
        while left > 0 {
            let incoming = tokio::time::timeout(SOON, self.reader.next()).await.expect("in time").expect("open");
            let Some(Incoming::Data { channel, data }) = incoming else { panic!("{incoming:?}") };
            let word = |at: usize| u32::from_be_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]);
            if channel == 1 {
                came.push(Came::Report(u64::from(word(8)) - 2_208_988_800));
                continue;
            }
            let frame = (u64::from(word(13)) << 32) | u64::from(word(17));
            came.push(Came::Packet(word(0) as u16, word(4), frame));
            left -= 1;
        }
        came
    }
}

fn numbers(came: &[Came]) -> Vec<(u16, u32, u64)> {
    let packet = |came: &Came| {
        if let Came::Packet(sequence, time, frame) = came { Some((*sequence, *time, *frame)) } else { None }
    };
    came.iter().filter_map(packet).collect()
}

fn source(owner: &watch::Sender<Option<Owner>>) -> Source {
    let owner = owner.subscribe();
    let config = SourceConfig { node: NodeId::new("d1").expect("valid"), credentials: None, max_streams: 1 };
    Source::new(config, Box::new(move |_| Some(owner.clone())))
}

#[tokio::test]
async fn a_change_of_owner_is_no_more_than_the_next_frame_to_who_reads() {
    let (frames, camera) = camera();
    let mut servers = [Server::start(&frames, 1_000).await, Server::start(&frames, 77_000).await];
    let owner = watch::Sender::new(Some(servers[0].owner("i1")));
    let source = source(&owner);
    let mut client = Client::play(&source).await;
    assert!(source.place().is_none(), "one at a time");
    let mut came = client.more(60).await;
    owner.send_replace(Some(servers[1].owner("i2")));
    servers[1].wait_readers(1).await;
    servers[0].wait_readers(0).await;
    came.extend(client.more(60).await);
    let got = numbers(&came);
    let factor = 0x9e37_79b9_7f4a_7c15_u64;
    for pair in got.windows(2) {
        assert_eq!(pair[1].0, pair[0].0.wrapping_add(1), "{pair:?}");
        assert_eq!(pair[1].1, pair[0].1.wrapping_add(TICKS), "{pair:?}");
        assert_eq!(pair[1].2, pair[0].2.wrapping_add(factor), "the next frame: {pair:?}");
    }
    let reports: Vec<&Came> = came.iter().filter(|came| matches!(came, Came::Report(_))).collect();
    assert!(
        reports.iter().all(|report| matches!(report, Came::Report(3_600..3_700))),
        "the camera's time: {reports:?}"
    );
    assert!(!reports.is_empty());
    let totals = source.totals();
    assert_eq!((totals.streams, totals.handovers, totals.unproven_handovers, totals.lost_packets), (1, 1, 0, 0));
    for server in &servers {
        let asked = server.asked.lock().expect("not poisoned").clone();
        assert!(asked.len() == 1 && asked[0].contains("/cam1?pull=d1&leg="), "{asked:?}");
    }
    camera.abort();
}

#[tokio::test]
async fn an_owner_that_dies_is_replaced_by_the_next_and_the_reader_stays() {
    let (frames, camera) = camera();
    let [first, mut second] = [Server::start(&frames, 1_000).await, Server::start(&frames, 77_000).await];
    let owner = watch::Sender::new(Some(first.owner("i1")));
    let source = source(&owner);
    let mut client = Client::play(&source).await;
    let mut came = client.more(20).await;
    drop(first);
    owner.send_replace(None);
    owner.send_replace(Some(second.owner("i2")));
    second.wait_readers(1).await;
    came.extend(client.more(40).await);
    for pair in numbers(&came).windows(2) {
        assert_eq!(pair[1].0, pair[0].0.wrapping_add(1), "{pair:?}");
        assert!((1..500).contains(&(pair[1].1.wrapping_sub(pair[0].1) / TICKS)), "{pair:?}");
    }
    camera.abort();
}

#[tokio::test]
async fn a_stream_that_nobody_may_be_asked_for_is_not_found() {
    let config = SourceConfig { node: NodeId::new("d1").expect("valid"), credentials: None, max_streams: 1 };
    let source = Source::new(config, Box::new(|_| None));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let at = listener.local_addr().expect("bound");
    let (socket, accepted) = tokio::join!(TcpStream::connect(at), listener.accept());
    let question = format!("DESCRIBE rtsp://{at}/cam1 RTSP/1.0\r\nCSeq: 1\r\n\r\n");
    source.adopt(source.place().expect("room"), accepted.expect("accepted").0, question.as_bytes());
    let (read, _writer) = socket.expect("connected").into_split();
    let answer = MessageReader::new(read).next().await;
    assert!(
        matches!(&answer, Ok(Some(Incoming::Response(r))) if r.status() == rtsp_types::StatusCode::NotFound),
        "{answer:?}"
    );
    assert_eq!((source.totals().streams, source.totals().not_opened), (0, 1));
}
