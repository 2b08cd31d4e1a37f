//! Cameras whose every frame carries a counter and a checksum, so that whoever reads knows what came without asking
//! anybody: which frame it is, whether it is whole, and what is missing before it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::compare::{Arrival, vcl_hash_annex_b};
use crate::plain_reader::VideoCodec;
use crate::publisher::{Media, Packetiser, Publisher};

/// Time between two pictures.
pub const INTERVAL: Duration = Duration::from_millis(40);

/// Ticks of the 90 kHz clock between two pictures.
const TICKS: u32 = 3_600;

/// Pieces of sound in the time of a picture.
const SOUNDS: u64 = 2;

/// Pictures between two documents of metadata: longer than a silent track holds a handover up.
const METADATA_EVERY: u64 = 80;

/// Pictures between two keyframes.
const GOP: u64 = 25;

/// Bytes of a stamp: the counter in front, and the checksum behind, each in hexadecimal so that no start code arises.
const COUNTER: usize = 16;
const CHECKSUM: usize = 8;

/// The slice header: its first bit says that the picture begins here. No header before it holds such a byte.
const SLICE: u8 = 0x88;

/// How a picture is cut into packets, and how long their sending takes, so that readers join within pictures.
const FRAGMENT: usize = 300;
const SPREAD: Duration = Duration::from_millis(16);

/// What a camera sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    pub codec: VideoCodec,
    /// Decode order differs from display order: timestamps run backwards.
    pub b_frames: bool,
    /// G.711 beside it, as a second track.
    pub sound: bool,
    /// ONVIF metadata beside it, as the last track: a document of several packets now and then.
    pub metadata: bool,
}

impl Kind {
    /// The `n`th of many cameras.
    #[must_use]
    pub const fn nth(n: usize) -> Self {
        let codec = if n % 4 == 1 { VideoCodec::H265 } else { VideoCodec::H264 };
        Self { codec, b_frames: n.is_multiple_of(2), sound: n % 4 >= 2, metadata: n % 8 == 7 }
    }

    fn medias(self) -> Vec<Media> {
        let video = match self.codec {
            VideoCodec::H264 => Media {
                media: "video",
                payload_type: 96,
                rtpmap: Some("H264/90000"),
                fmtp: Some("packetization-mode=1; sprop-parameter-sets=Z0LAHtkDxWhAAAADAEAAAAwDxYuS,aMuMsg=="),
            },
            VideoCodec::H265 => Media { media: "video", payload_type: 96, rtpmap: Some("H265/90000"), fmtp: None },
        };
        let sound = Media { media: "audio", payload_type: 0, rtpmap: Some("PCMU/8000"), fmtp: None };
        let metadata =
            Media { media: "application", payload_type: 107, rtpmap: Some("vnd.onvif.metadata/90000"), fmtp: None };
        [Some(video), self.sound.then_some(sound), self.metadata.then_some(metadata)].into_iter().flatten().collect()
    }
}

/// Where a camera begins to count packets and time: both wrap.
#[derive(Debug, Clone, Copy)]
pub struct Begin {
    pub sequence: u16,
    pub timestamp: u32,
}

/// What a camera has sent so far: of each picture its content, and when its last packet left.
#[derive(Debug, Default)]
pub struct Sent(Mutex<Vec<Arrival>>);

impl Sent {
    fn note(&self, picture: Arrival) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(picture);
    }

    /// All pictures, by their counter.
    #[must_use]
    pub fn pictures(&self) -> Vec<Arrival> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A camera that publishes. Dropped, it ends.
#[derive(Debug)]
pub struct StampedCamera {
    pub sent: Arc<Sent>,
    task: JoinHandle<()>,
}

impl StampedCamera {
    /// Starts a camera that publishes to `rtsp://SERVER/PATH`.
    ///
    /// # Errors
    /// When the server does not take it.
    pub async fn start(server: SocketAddr, path: &str, kind: Kind, begin: Begin) -> Result<Self> {
        let publisher = Publisher::start(server, path, &kind.medias()).await?;
        let sent = Arc::new(Sent::default());
        let noting = Arc::clone(&sent);
        let path = path.to_owned();
        let task = tokio::spawn(async move {
            if let Err(error) = run(publisher, kind, begin, &noting).await {
                eprintln!("camera {path}: {error:#}");
            }
        });
        Ok(Self { sent, task })
    }
}

impl Drop for StampedCamera {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(mut publisher: Publisher, kind: Kind, begin: Begin, sent: &Sent) -> Result<()> {
    let mut video = Packetiser { payload_type: 96, sequence: begin.sequence, ssrc: 0x51 };
    let mut sound = Packetiser { payload_type: 0, sequence: begin.sequence, ssrc: 0x52 };
    let mut metadata = Packetiser { payload_type: 107, sequence: begin.sequence, ssrc: 0x53 };
    let mut due = tokio::time::interval(INTERVAL);
    // Late is late: a camera does not hurry afterwards.
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for counter in 0_u64.. {
        due.tick().await;
        // Each P is sent before the two B that it follows in time.
        let shown = match (kind.b_frames, counter % 3) {
            (false, _) => counter,
            (true, 0) => counter + 2,
            (true, _) => counter - 1,
        };
        let nal = picture(kind.codec, counter);
        let packets = picture_packets(kind.codec, &nal, begin.timestamp.wrapping_add(shown as u32 * TICKS), &mut video);
        let (first, second) = packets.split_at(packets.len() / 2);
        publisher.send(0, first).await?;
        if kind.sound {
            for piece in SOUNDS * counter..SOUNDS * (counter + 1) {
                let packet =
                    sound.packet(begin.timestamp.wrapping_add(piece as u32 * 160), false, &stamped(piece, 160));
                publisher.send(1, [&packet]).await?;
            }
        }
        if kind.metadata && counter.is_multiple_of(METADATA_EVERY) {
            let document = stamped(counter / METADATA_EVERY, 900);
            let timestamp = begin.timestamp.wrapping_add(counter as u32 * TICKS);
            let cut = document.chunks(FRAGMENT).enumerate();
            let packets: Vec<Bytes> = cut.map(|(n, piece)| metadata.packet(timestamp, n == 2, piece)).collect();
            publisher.send(1 + usize::from(kind.sound), &packets).await?;
        }
        tokio::time::sleep(SPREAD).await;
        publisher.send(0, second).await?;
        let annex_b = [&[0, 0, 1][..], &nal].concat();
        if let Some(hash) = vcl_hash_annex_b(kind.codec, &annex_b) {
            sent.note(Arrival { hash, at: Instant::now() });
        }
    }
    Ok(())
}

/// The one slice of a picture: its header, then the stamp.
#[must_use]
pub fn picture(codec: VideoCodec, counter: u64) -> Vec<u8> {
    let key = counter.is_multiple_of(GOP);
    let mut nal = match codec {
        VideoCodec::H264 => vec![if key { 0x65 } else { 0x41 }, SLICE],
        VideoCodec::H265 => vec![if key { 19 << 1 } else { 1 << 1 }, 1, SLICE],
    };
    let length = if key { 6_000 } else { 1_200 + (counter * 7_919 % 1_500) as usize };
    nal.extend(stamped(counter, length));
    nal
}

/// Fragments, as RFC 6184 section 5.8 and RFC 7798 section 4.4.3 have them.
pub fn picture_packets(codec: VideoCodec, nal: &[u8], timestamp: u32, to: &mut Packetiser) -> Vec<Bytes> {
    let header = if codec == VideoCodec::H264 { 1 } else { 2 };
    let pieces: Vec<&[u8]> = nal[header..].chunks(FRAGMENT).collect();
    let last = pieces.len() - 1;
    let fragment = |(index, piece): (usize, &&[u8])| {
        let flags = if index == 0 { 0x80 } else { 0 } | if index == last { 0x40 } else { 0 };
        let mut payload = match codec {
            VideoCodec::H264 => vec![(nal[0] & 0xe0) | 28, flags | (nal[0] & 0x1f)],
            VideoCodec::H265 => vec![49 << 1, nal[1], flags | ((nal[0] >> 1) & 0x3f)],
        };
        payload.extend_from_slice(piece);
        to.packet(timestamp, index == last, &payload)
    };
    pieces.iter().enumerate().map(fragment).collect()
}

/// `length` bytes that say which they are, and prove it.
fn stamped(counter: u64, length: usize) -> Vec<u8> {
    let mut bytes = format!("{counter:016x}").into_bytes();
    let mut noise = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while bytes.len() + CHECKSUM < length {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        bytes.push(noise as u8 | 0x80);
    }
    bytes.extend(format!("{:08x}", crc32(&bytes)).into_bytes());
    bytes
}

/// The counter of a picture in Annex B form, of which the slice comes last; `None` when it is damaged.
#[must_use]
pub fn counter_of_picture(annex_b: &[u8]) -> Option<u64> {
    let slice = annex_b.windows(3).rposition(|window| window == [0, 0, 1])? + 3;
    let header = annex_b[slice..].iter().position(|byte| *byte == SLICE)?;
    counter(&annex_b[slice + header + 1..])
}

/// The counter of a piece of sound; `None` when it is damaged.
#[must_use]
pub fn counter(stamped: &[u8]) -> Option<u64> {
    let (stamped, checksum) = stamped.split_at_checked(stamped.len().checked_sub(CHECKSUM)?)?;
    let number = |text: &[u8]| u64::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok();
    (number(checksum)? == u64::from(crc32(stamped))).then_some(())?;
    number(stamped.get(..COUNTER)?)
}

/// CRC-32 of IEEE 802.3, bit by bit: frames are small.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(crc & 1)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_from_what_is_whole_and_from_nothing_else() {
        for codec in [VideoCodec::H264, VideoCodec::H265] {
            for number in [0, 1, 25, 77_777] {
                let mut whole = vec![0, 0, 0, 1, 0x67, 9, 0, 0, 0, 1];
                whole.extend(picture(codec, number));
                assert_eq!(counter_of_picture(&whole), Some(number));
                let mut damaged = whole.clone();
                damaged.remove(200);
                assert_eq!(counter_of_picture(&damaged), None);
                assert_eq!(counter_of_picture(&whole[..whole.len() - 1]), None);
            }
        }
        assert_eq!(counter(&stamped(9, 160)), Some(9));
        assert_eq!(counter(b"short"), None);
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
