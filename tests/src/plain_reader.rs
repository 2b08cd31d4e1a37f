//! A plain RTSP reader, independent of the stitch: what it saw is the ground truth for tests and the demo.
//!
//! It reads one URL once, over TCP, into memory, until the server ends the stream or [`Reader::stop`] is called. It
//! does not reconnect. [`PlainReader`] keeps the video frames by content, [`PacketReader`] the RTP packets of every
//! track.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use futures::StreamExt;
use retina::{
    client::{
        Credentials, InitialSequenceNumberPolicy, InitialTimestampPolicy, PacketItem, PlayOptions, Playing, Session,
        SessionOptions, SetupOptions, UnknownRtcpSsrcPolicy,
    },
    codec::CodecItem,
};
use tokio::{sync::watch, task::JoinHandle};
use url::Url;

/// Longer than MediaMTX holds a reader of a path whose source does not start (10 s).
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);

/// Packets in a row that cannot be put together to frames. MediaMTX starts a pulled stream with `useAbsoluteTimestamp`
/// in the middle of an access unit, which has a few hundred packets at most.
const MAX_DAMAGED_PACKETS: usize = 1_000;

/// Reads the video track, frame by frame. A frame of which not all is received is left out, and so is the one after it,
/// which may be the damaged one's rest.
pub type PlainReader = Reader<SeenFrame>;

/// Reads every track, packet by packet.
pub type PacketReader = Reader<SeenPacket>;

/// One access unit of the video track, in the order received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenFrame {
    /// [`vcl_hash`] of the access unit: the same wherever the same picture is read.
    pub hash: u64,
    /// As sent (the low 32 bits), in units of 1/90,000 s.
    pub rtp_timestamp: u32,
    /// When the whole frame was here.
    pub at: Instant,
    /// Decodable without any other frame.
    pub keyframe: bool,
}

/// One RTP packet, in the order received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenPacket {
    /// Index of the track in the SDP.
    pub track: usize,
    /// RTP sequence number.
    pub sequence: u16,
    /// RTP timestamp, as sent.
    pub rtp_timestamp: u32,
    /// RTP marker bit.
    pub marker: bool,
    /// RTP synchronisation source: one per server and track.
    pub ssrc: u32,
    /// [`payload_hash`] of the payload.
    pub payload_hash: u64,
    /// When it was here.
    pub at: Instant,
}

/// A reading task, and what it has seen so far. Dropped, it stops.
#[derive(Debug)]
pub struct Reader<T> {
    seen: Arc<Mutex<Vec<T>>>,
    progress: watch::Receiver<Progress>,
    task: JoinHandle<()>,
}

#[derive(Debug, Clone, Default)]
struct Progress {
    count: usize,
    ended: Option<String>,
    sender_report: bool,
}

/// What a reading task writes to.
struct Sink<T> {
    seen: Arc<Mutex<Vec<T>>>,
    progress: watch::Sender<Progress>,
}

impl Reader<SeenFrame> {
    /// Starts to read the video track of `url` (`rtsp://[user:password@]host:port/path[?query]`). Needs a tokio
    /// runtime; what fails is told by [`Reader::ended`].
    pub fn start(url: &str) -> Self {
        let url = url.to_owned();
        Self::spawn(|sink| async move { read_frames(&url, &sink).await })
    }

    /// The frames seen so far, in the order received.
    pub fn frames(&self) -> Vec<SeenFrame> {
        self.seen()
    }
}

impl Reader<SeenPacket> {
    /// Starts to read the packets of all tracks of `url`. Needs a tokio runtime.
    pub fn start_packets(url: &str) -> Self {
        let url = url.to_owned();
        Self::spawn(|sink| async move { read_packets(&url, &sink).await })
    }

    /// The packets seen so far, in the order received.
    pub fn packets(&self) -> Vec<SeenPacket> {
        self.seen()
    }

    /// Waits until the server has sent wall time (an RTCP sender report). False when it ended first, or took longer
    /// than `within`.
    pub async fn wait_for_sender_report(&self, within: Duration) -> bool {
        self.wait(within, |progress| progress.sender_report).await
    }
}

impl<T: Clone + Send + 'static> Reader<T> {
    /// Why reading has ended; `None` while it goes on. An end of the stream by the server counts as an end, too.
    pub fn ended(&self) -> Option<String> {
        self.progress.borrow().ended.clone()
    }

    /// Waits until `count` items were seen in all. False when reading ended first, or took longer than `within`.
    pub async fn wait_for(&self, count: usize, within: Duration) -> bool {
        self.wait(within, |progress| progress.count >= count).await
    }

    /// Waits until reading has ended, and says why. `None` when it goes on after `within`.
    pub async fn wait_for_end(&self, within: Duration) -> Option<String> {
        self.wait(within, |progress| progress.ended.is_some()).await;
        self.ended()
    }

    /// Closes the connection, and gives what was seen.
    pub async fn stop(mut self) -> Vec<T> {
        self.task.abort();
        let _ = (&mut self.task).await;
        self.seen()
    }

    async fn wait(&self, within: Duration, reached: impl Fn(&Progress) -> bool) -> bool {
        let mut progress = self.progress.clone();
        let waited = progress.wait_for(|progress| reached(progress) || progress.ended.is_some());
        match tokio::time::timeout(within, waited).await {
            Ok(Ok(progress)) => reached(&progress),
            _ => false,
        }
    }

    fn seen(&self) -> Vec<T> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn spawn<F>(read: impl FnOnce(Arc<Sink<T>>) -> F) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let seen = Arc::<Mutex<Vec<T>>>::default();
        let (sender, progress) = watch::channel(Progress::default());
        let sink = Arc::new(Sink { seen: seen.clone(), progress: sender });
        let reading = read(sink.clone());
        let task = tokio::spawn(async move {
            let why = match reading.await {
                Ok(()) => "the server ended the stream".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            sink.progress.send_modify(|progress| progress.ended = Some(why));
        });
        Reader { seen, progress, task }
    }
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<T> Sink<T> {
    fn push(&self, item: T) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.push(item);
        let count = seen.len();
        drop(seen);
        self.progress.send_modify(|progress| progress.count = count);
    }
}

async fn read_frames(url: &str, sink: &Sink<SeenFrame>) -> anyhow::Result<()> {
    let (session, codec) = open(url, true).await?;
    let codec = codec.context("no H.264 or H.265 track")?;
    let mut frames = session.demuxed()?;
    let (mut damaged, mut last_error) = (0, None);
    while let Some(item) = frames.next().await {
        let frame = match item {
            Ok(CodecItem::VideoFrame(frame)) => frame,
            Ok(_) => continue,
            // A connection that failed stays so, and fails again; a reader that joined within an access unit goes on.
            Err(error) if damaged < MAX_DAMAGED_PACKETS => {
                damaged += 1;
                last_error = Some(error);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        damaged = 0;
        if last_error.take().is_some() {
            // What may be left of the damaged one.
            continue;
        }
        // A unit without a picture (parameter sets alone) is no frame.
        let Some(hash) = vcl_hash(codec, frame.data()) else { continue };
        sink.push(SeenFrame {
            hash,
            rtp_timestamp: frame.timestamp().timestamp() as u32,
            at: Instant::now(),
            keyframe: frame.is_random_access_point(),
        });
    }
    last_error.map_or(Ok(()), |error| Err(error.into()))
}

async fn read_packets(url: &str, sink: &Sink<SeenPacket>) -> anyhow::Result<()> {
    let (mut session, _) = open(url, false).await?;
    while let Some(item) = session.next().await {
        match item? {
            PacketItem::Rtp(packet) => sink.push(SeenPacket {
                track: packet.stream_id(),
                sequence: packet.sequence_number(),
                rtp_timestamp: packet.timestamp().timestamp() as u32,
                marker: packet.mark(),
                ssrc: packet.ssrc(),
                payload_hash: payload_hash(packet.payload()),
                at: Instant::now(),
            }),
            PacketItem::Rtcp(compound) => {
                let report = compound
                    .pkts()
                    .any(|packet| matches!(packet.as_typed(), Ok(Some(retina::rtcp::TypedPacketRef::SenderReport(_)))));
                if report {
                    sink.progress.send_modify(|progress| progress.sender_report = true);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Connects, sets up the first video track (or every track) over TCP, and plays.
async fn open(url: &str, video_only: bool) -> anyhow::Result<(Session<Playing>, Option<VideoCodec>)> {
    let mut url = Url::parse(url).with_context(|| format!("{url} is not a URL"))?;
    let creds = (!url.username().is_empty()).then(|| Credentials {
        username: url.username().to_owned(),
        password: url.password().unwrap_or_default().to_owned(),
    });
    // retina refuses URLs that hold credentials.
    if url.set_username("").is_err() || url.set_password(None).is_err() {
        bail!("{url} cannot be read: expected rtsp://host:port/path");
    }
    let opening = async {
        let options = SessionOptions::default().creds(creds).user_agent("mtxfleet-plain-reader".to_owned());
        let mut session = Session::describe(url, options).await?;
        let tracks: Vec<_> = session.streams().iter().map(|s| (s.media() == "video", codec(s))).collect();
        let video = tracks.iter().position(|(video, codec)| *video && codec.is_some());
        for track in 0..tracks.len() {
            if !video_only || Some(track) == video {
                session.setup(track, SetupOptions::default()).await?;
            }
        }
        let options = PlayOptions::default()
            .initial_timestamp(InitialTimestampPolicy::Permissive)
            .initial_seq(InitialSequenceNumberPolicy::Ignore)
            .unknown_rtcp_ssrc(UnknownRtcpSsrcPolicy::ProcessPackets);
        anyhow::Ok((session.play(options).await?, video.and_then(|track| tracks[track].1)))
    };
    tokio::time::timeout(OPEN_TIMEOUT, opening).await.context("no answer within 15 s")?
}

/// The two video codecs whose frames are told apart by content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VideoCodec {
    /// ITU-T H.264.
    H264,
    /// ITU-T H.265.
    H265,
}

fn codec(stream: &retina::client::Stream) -> Option<VideoCodec> {
    match stream.encoding_name() {
        "h264" => Some(VideoCodec::H264),
        "h265" => Some(VideoCodec::H265),
        _ => None,
    }
}

/// FNV-1a over the slices (VCL NAL units) of an access unit given as NAL units, each behind its length of four bytes.
/// `None` when there is no slice.
///
/// Parameter sets, delimiters and SEI are left out, since a server may add or drop them.
pub fn vcl_hash(codec: VideoCodec, length_prefixed: &[u8]) -> Option<u64> {
    let mut rest = length_prefixed;
    let mut hash = None;
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let length = (u32::from_be_bytes(*length) as usize).min(tail.len());
        let (nal, tail) = tail.split_at(length);
        rest = tail;
        let vcl = nal.first().is_some_and(|header| match codec {
            // H.264 table 7-1 (data partitions, 2 to 4, do not occur over RTSP); H.265 table 7-1.
            VideoCodec::H264 => matches!(header & 0x1f, 1 | 5),
            VideoCodec::H265 => (header >> 1) & 0x3f <= 31,
        });
        if vcl {
            hash = Some(fnv1a(hash.unwrap_or(FNV_OFFSET), nal));
        }
    }
    hash
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a of a packet's payload.
#[must_use]
pub fn payload_hash(payload: &[u8]) -> u64 {
    fnv1a(FNV_OFFSET, payload)
}

/// Fowler-Noll-Vo 1a, 64 bits: quick without optimisation, which cryptographic hashes are not.
fn fnv1a(seed: u64, data: &[u8]) -> u64 {
    data.iter().fold(seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(nals: &[&[u8]]) -> Vec<u8> {
        nals.iter().flat_map(|nal| [&(nal.len() as u32).to_be_bytes()[..], nal].concat()).collect()
    }

    #[test]
    fn hash_covers_every_slice_and_nothing_else() {
        let slices = units(&[&[0x65, 1, 2], &[0x41, 3]]);
        let with_parameters = units(&[&[0x67, 9], &[0x68, 9], &[0x06, 9], &[0x65, 1, 2], &[0x41, 3]]);
        let h264 = |data: &[u8]| vcl_hash(VideoCodec::H264, data);
        assert_eq!(h264(&slices), h264(&with_parameters));
        assert_ne!(h264(&slices), h264(&units(&[&[0x65, 1, 2], &[0x41, 4]])));
        assert_eq!(h264(&units(&[&[0x67, 9]])), None);
        assert_eq!(vcl_hash(VideoCodec::H265, &units(&[&[32 << 1, 1, 9]])), None);
        assert!(vcl_hash(VideoCodec::H265, &units(&[&[19 << 1, 1, 9]])).is_some());
    }

    #[test]
    fn damaged_lengths_do_not_panic() {
        assert_eq!(vcl_hash(VideoCodec::H264, &[0, 0, 1]), None);
        assert!(vcl_hash(VideoCodec::H264, &[0xff, 0xff, 0xff, 0xff, 0x65]).is_some());
        assert_eq!(fnv1a(FNV_OFFSET, b"a"), 0xaf63_dc4c_8601_ec8c);
    }
}
