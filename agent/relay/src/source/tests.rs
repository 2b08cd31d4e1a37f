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

/// What the camera has in its stream from this keyframe on; its servers' SDP goes on to say otherwise.
const CHANGES_AT: u32 = 120;
const CHANGED: [&[u8]; 2] = [&[0x67, 0x4d, 0x40, 0x1f, 9], &[0x68, 0xee, 9]];

/// What the SDP says.
const SPROP: &str = "Z2QADKw7ULBLQgAAAwACAAADAD0I,aO48gA==";

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
                let keyframe = number % GOP == 0;
                let content = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
                let slice = [&[if keyframe { 0x65 } else { 0x41 }], &content[..]].concat();
                let sets = CHANGED.iter().filter(|_| keyframe && number >= CHANGES_AT);
                let nals: Vec<&[u8]> = sets.copied().chain([&slice[..]]).collect();
                for (at, nal) in nals.iter().enumerate() {
                    let marker = if at + 1 == nals.len() { 0x80 } else { 0 };
                    out.extend_from_slice(&[b'$', 0, 0, 12 + nal.len() as u8, 0x80, marker | 96]);
                    out.extend_from_slice(&sequence.to_be_bytes());
                    out.extend_from_slice(&(first + number * TICKS).to_be_bytes());
                    out.extend_from_slice(&[0, 0, 0, 1]);
                    out.extend_from_slice(nal);
                    sequence = sequence.wrapping_add(1);
                }
                write.write_all(&out).await.ok()?;
                continue;
            }
            incoming = reader.next() => incoming.ok()??,
        };
        let Incoming::Request(request) = incoming else { continue };
        let method = format!("{:?}", request.method());
        let url = request.request_uri()?.to_string();
        let sequence = request.text(&rtsp_types::headers::CSEQ)?;
        let sdp = format!(
            "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n\
            a=fmtp:96 packetization-mode=1; sprop-parameter-sets={SPROP}\r\na=control:trackID=0\r\n"
        );
        let (more, body) = match method.as_str() {
            "Describe" => {
                urls.lock().expect("not poisoned").push(url);
                (format!("Content-Type: application/sdp\r\nContent-Length: {}\r\n", sdp.len()), &*sdp)
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
    sdp: String,
    /// The last packet's number.
    last: Option<u16>,
}

/// What came: time and frame; a parameter set; or the seconds since 1970 of a sender report.
#[derive(Debug, PartialEq)]
enum Came {
    Frame(u32, u64),
    Set(Vec<u8>),
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
        let sdp = String::from_utf8(described.body().clone()).expect("text");
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
        Self { reader, _writer: writer, sdp, last: None }
    }

    /// The next so many frames, and what else comes meanwhile; every packet has the next number.
    async fn more(&mut self, frames: usize) -> Vec<Came> {
        let mut came = Vec::new();
        let mut left = frames;
        while left > 0 {
            let incoming = tokio::time::timeout(SOON, self.reader.next()).await.expect("in time").expect("open");
            let Some(Incoming::Data { channel, data }) = incoming else { panic!("{incoming:?}") };
            let word = |at: usize| u32::from_be_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]);
            if channel == 1 {
                came.push(Came::Report(u64::from(word(8)) - 2_208_988_800));
                continue;
            }
            let sequence = word(0) as u16;
            assert_eq!(sequence, self.last.map_or(sequence, |last| last.wrapping_add(1)));
            self.last = Some(sequence);
            if matches!(data[12] & 0x1f, 7 | 8) {
                came.push(Came::Set(data[12..].to_vec()));
                continue;
            }
            let frame = (u64::from(word(13)) << 32) | u64::from(word(17));
            came.push(Came::Frame(word(4), frame));
            left -= 1;
        }
        came
    }
}

fn numbers(came: &[Came]) -> Vec<(u32, u64)> {
    let frame = |came: &Came| if let Came::Frame(time, frame) = came { Some((*time, *frame)) } else { None };
    came.iter().filter_map(frame).collect()
}

fn source(owner: &watch::Sender<Option<Owner>>, max_streams: usize) -> Source {
    let owner = owner.subscribe();
    let config = SourceConfig { node: NodeId::new("d1").expect("valid"), credentials: None, max_streams };
    Source::new(config, Box::new(move |_| Some(owner.clone())))
}

#[tokio::test]
async fn a_change_of_owner_is_no_more_than_the_next_frame_to_who_reads() {
    let (frames, camera) = camera();
    let mut servers = [Server::start(&frames, 1_000).await, Server::start(&frames, 77_000).await];
    let owner = watch::Sender::new(Some(servers[0].owner("i1")));
    let source = source(&owner, 1);
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
        assert_eq!(pair[1].0, pair[0].0.wrapping_add(TICKS), "{pair:?}");
        assert_eq!(pair[1].1, pair[0].1.wrapping_add(factor), "the next frame: {pair:?}");
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
async fn new_parameter_sets_reach_readers_in_the_stream_and_new_ones_in_the_sdp() {
    let (frames, camera) = camera();
    let server = Server::start(&frames, 1_000).await;
    let owner = watch::Sender::new(Some(server.owner("i1")));
    let source = source(&owner, 2);
    let mut early = Client::play(&source).await;
    assert!(early.sdp.contains(SPROP), "{}", early.sdp);
    let came = early.more(CHANGES_AT as usize + 2 * GOP as usize).await;
    // The camera never sent the first ones, the SDP did: every keyframe has its own all the same.
    let sets: Vec<&[u8]> =
        came.iter().filter_map(|c| if let Came::Set(set) = c { Some(&set[..]) } else { None }).collect();
    let changed_at = sets.iter().position(|set| *set == CHANGED[0]).expect("the new ones come");
    assert!(changed_at >= 2 && sets[..changed_at].iter().all(|set| !CHANGED.contains(set)), "{sets:?}");
    assert!(sets[changed_at..].chunks(2).all(|sets| sets == CHANGED), "{sets:?}");
    let mut late = Client::play(&source).await;
    assert!(late.sdp.contains("profile-level-id=4D401F; sprop-parameter-sets=Z01AHwk=,aO4J"), "{}", late.sdp);
    let came = late.more(1).await;
    assert!(
        matches!(&came[..], [.., Came::Set(sps), Came::Set(pps), Came::Frame(..)] if [&sps[..], pps] == CHANGED),
        "{came:?}"
    );
    camera.abort();
}

#[tokio::test]
async fn an_owner_that_dies_is_replaced_by_the_next_and_the_reader_stays() {
    let (frames, camera) = camera();
    let [first, mut second] = [Server::start(&frames, 1_000).await, Server::start(&frames, 77_000).await];
    let owner = watch::Sender::new(Some(first.owner("i1")));
    let source = source(&owner, 1);
    let mut client = Client::play(&source).await;
    let mut came = client.more(20).await;
    drop(first);
    owner.send_replace(None);
    owner.send_replace(Some(second.owner("i2")));
    second.wait_readers(1).await;
    came.extend(client.more(40).await);
    for pair in numbers(&came).windows(2) {
        assert!((1..500).contains(&(pair[1].0.wrapping_sub(pair[0].0) / TICKS)), "{pair:?}");
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
