//! A stream: packets of one source, handed to the queue of every reader.
//!
//! RTP goes through unchanged but for the SSRC. A reader joins with the next packet, be that in the middle of an access
//! unit. Video starts at its first keyframe; where the source's wall time is asked for, every track starts with the
//! first packet after it is known. All as in MediaMTX 1.20.1 (`internal/protocols/rtsp/to_stream.go`).

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    media::{self, Codec, Track},
    message::Outgoing,
    recording::Recorder,
};

/// Between two sender reports to one reader. MediaMTX's own pace; the first follows the first packet.
const SENDER_REPORT_PERIOD: Duration = Duration::from_secs(10);

/// From 1900, where NTP begins, to 1970.
const NTP_UNIX_OFFSET: u64 = 2_208_988_800;

const RTP_HEADER: usize = 12;
const RTCP_SENDER_REPORT: u8 = 200;

/// What went through one session or path. Bytes are those of RTP and RTCP packets.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) inbound_bytes: AtomicU64,
    pub(super) inbound_rtp: AtomicU64,
    pub(super) inbound_rtcp: AtomicU64,
    pub(super) outbound_bytes: AtomicU64,
    pub(super) outbound_rtp: AtomicU64,
    pub(super) outbound_rtcp: AtomicU64,
    pub(super) outbound_discarded: AtomicU64,
}

impl Counters {
    pub(super) fn received(&self, bytes: usize, rtcp: bool) {
        self.inbound_bytes.fetch_add(bytes as u64, Relaxed);
        if rtcp { &self.inbound_rtcp } else { &self.inbound_rtp }.fetch_add(1, Relaxed);
    }

    fn sent(&self, bytes: usize, rtcp: bool) {
        self.outbound_bytes.fetch_add(bytes as u64, Relaxed);
        if rtcp { &self.outbound_rtcp } else { &self.outbound_rtp }.fetch_add(1, Relaxed);
    }
}

/// Who reads a stream, and where its packets go.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) session: Uuid,
    /// For each track the RTP channel, where it was set up; RTCP goes to the next one.
    pub(super) channels: Vec<Option<(u8, u8)>>,
    pub(super) queue: mpsc::Sender<Outgoing>,
    pub(super) counters: Arc<Counters>,
}

/// A source's tracks while it delivers.
#[derive(Debug)]
pub(super) struct Stream {
    /// Cancelled when the source ends: its readers are closed at once.
    pub(super) closed: CancellationToken,
    pub(super) tracks: Vec<Track>,
    path: Arc<Counters>,
    absolute_timestamp: bool,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    tracks: Vec<TrackState>,
    readers: Vec<JoinedReader>,
    /// Goes with the stream, whoever still holds that.
    recorder: Option<Recorder>,
}

#[derive(Debug)]
struct TrackState {
    ssrc: u32,
    /// False until the first packet that decoding can start with.
    started: bool,
    last: Option<LastPacket>,
    packets: u32,
    octets: u32,
    /// The source's latest pair of wall time (NTP, 32.32 bits) and RTP timestamp.
    source_clock: Option<(u64, u32)>,
}

#[derive(Debug, Clone, Copy)]
struct LastPacket {
    sequence: u16,
    timestamp: u32,
}

#[derive(Debug)]
struct JoinedReader {
    to: Reader,
    /// Per track, when the next sender report is due.
    reports_due: Vec<Instant>,
}

impl Stream {
    /// A stream that starts now. `absolute_timestamp`: tell readers the source's wall time rather than our own.
    pub(super) fn new(
        tracks: Vec<Track>,
        path: Arc<Counters>,
        absolute_timestamp: bool,
        recorder: Option<Recorder>,
    ) -> Self {
        let state = |track: &Track| TrackState {
            // The low bits of a random UUID.
            ssrc: Uuid::new_v4().as_u128() as u32,
            started: matches!(track.codec, Codec::Other(_)),
            last: None,
            packets: 0,
            octets: 0,
            source_clock: None,
        };
        let inner = Inner { tracks: tracks.iter().map(state).collect(), readers: Vec::new(), recorder };
        let closed = CancellationToken::new();
        Stream { closed, tracks, path, absolute_timestamp, inner: Mutex::new(inner) }
    }

    /// The SDP for readers.
    pub(super) fn describe(&self) -> Vec<u8> {
        media::describe(&self.tracks)
    }

    /// The SSRC that packets of a track carry.
    pub(super) fn ssrc(&self, track: usize) -> u32 {
        self.lock().tracks[track].ssrc
    }

    /// The sequence number of the next packet and the timestamp of the last one, for `RTP-Info`; `None` before the
    /// first.
    pub(super) fn next_packet(&self, track: usize) -> Option<(u16, u32)> {
        let last = self.lock().tracks[track].last?;
        Some((last.sequence.wrapping_add(1), last.timestamp))
    }

    /// Lets a reader have packets, from the next one of each track on.
    pub(super) fn add_reader(&self, reader: Reader) {
        let reports_due = vec![Instant::now(); self.tracks.len()];
        self.lock().readers.push(JoinedReader { to: reader, reports_due });
    }

    /// Ends that. Without effect when it is not there.
    pub(super) fn remove_reader(&self, session: Uuid) {
        self.lock().readers.retain(|reader| reader.to.session != session);
    }

    /// Takes an RTP packet from the source. One that is no RTP is dropped.
    pub(super) fn write_rtp(&self, track: usize, mut packet: BytesMut) {
        self.path.received(packet.len(), false);
        let Some(header) = rtp_header(&packet) else { return };
        let inner = &mut *self.lock();
        let state = &mut inner.tracks[track];
        if !state.started && !self.tracks[track].codec.starts_decoding(payload(&packet)) {
            return;
        }
        state.started = true;
        if self.absolute_timestamp && state.source_clock.is_none() {
            return;
        }
        state.last = Some(header);
        state.packets = state.packets.wrapping_add(1);
        state.octets = state.octets.wrapping_add((packet.len() - RTP_HEADER) as u32);
        packet[8..RTP_HEADER].copy_from_slice(&state.ssrc.to_be_bytes());
        let packet = packet.freeze();
        if let Some(recorder) = inner.recorder.as_mut().filter(|recorder| recorder.track == track) {
            recorder.write(header.timestamp, packet[1] & 0x80 != 0, payload(&packet));
        }
        let now = Instant::now();
        let mut report = None;
        for reader in &mut inner.readers {
            let Some((rtp, rtcp)) = reader.to.channels[track] else { continue };
            let report_due = &mut reader.reports_due[track];
            reader.to.send(rtp, packet.clone(), false, &self.path);
            if now >= *report_due {
                let clock_rate = self.tracks[track].clock_rate;
                let report = report.get_or_insert_with(|| state.sender_report(self.absolute_timestamp, clock_rate));
                if let Some(report) = report {
                    reader.to.send(rtcp, report.clone(), true, &self.path);
                    *report_due = now + SENDER_REPORT_PERIOD;
                }
            }
        }
    }

    /// Takes an RTCP packet from the source, and notes the wall time in it.
    pub(super) fn write_rtcp(&self, track: usize, packet: &[u8]) {
        self.path.received(packet.len(), true);
        if let [_, RTCP_SENDER_REPORT, _, _, _, _, _, _, rest @ ..] = packet
            && let Some((ntp, rest)) = rest.split_first_chunk::<8>()
            && let Some(rtp) = rest.first_chunk::<4>()
        {
            self.lock().tracks[track].source_clock = Some((u64::from_be_bytes(*ntp), u32::from_be_bytes(*rtp)));
        }
    }

    /// The source has ended: readers are closed, and what was recorded is complete.
    pub(super) fn close(&self) {
        self.lock().recorder = None;
        self.closed.cancel();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader {
    fn send(&self, channel: u8, data: Bytes, rtcp: bool, path: &Counters) {
        let length = data.len();
        match self.queue.try_send(Outgoing::Data { channel, data }) {
            Ok(()) => {
                self.counters.sent(length, rtcp);
                path.sent(length, rtcp);
            }
            Err(mpsc::error::TrySendError::Full(_)) if !rtcp => {
                self.counters.outbound_discarded.fetch_add(1, Relaxed);
            }
            // A report that will come again, or a connection that is ending.
            Err(_) => {}
        }
    }
}

impl TrackState {
    /// A sender report (RFC 3550, section 6.4.1) for the latest packet. `None` while the source's time is not known.
    fn sender_report(&self, absolute: bool, clock_rate: u32) -> Option<Bytes> {
        let last = self.last?;
        let ntp = match absolute {
            false => ntp_now(),
            true => {
                let (ntp, rtp) = self.source_clock?;
                // Timestamps of B-frames run backwards, so the difference has a sign.
                let ticks = i64::from(last.timestamp.wrapping_sub(rtp) as i32);
                ntp.wrapping_add_signed((ticks << 32) / i64::from(clock_rate))
            }
        };
        let mut report = BytesMut::with_capacity(28);
        report.extend_from_slice(&[0x80, RTCP_SENDER_REPORT, 0, 6]);
        report.extend_from_slice(&self.ssrc.to_be_bytes());
        report.extend_from_slice(&ntp.to_be_bytes());
        for word in [last.timestamp, self.packets, self.octets] {
            report.extend_from_slice(&word.to_be_bytes());
        }
        Some(report.freeze())
    }
}

fn rtp_header(packet: &[u8]) -> Option<LastPacket> {
    let header = packet.first_chunk::<RTP_HEADER>()?;
    (header[0] >> 6 == 2).then(|| LastPacket {
        sequence: u16::from_be_bytes([header[2], header[3]]),
        timestamp: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
    })
}

/// What follows the header, its contributing sources and its extension. Padding is left in.
fn payload(packet: &[u8]) -> &[u8] {
    let mut start = RTP_HEADER + 4 * usize::from(packet[0] & 0x0f);
    if packet[0] & 0x10 != 0 {
        let words = packet.get(start + 2..start + 4).map_or(0, |words| u16::from_be_bytes([words[0], words[1]]));
        start += 4 + 4 * usize::from(words);
    }
    packet.get(start..).unwrap_or_default()
}

fn ntp_now() -> u64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    ((since_1970.as_secs() + NTP_UNIX_OFFSET) << 32) | ((u64::from(since_1970.subsec_nanos()) << 32) / 1_000_000_000)
}

#[cfg(test)]
mod tests;
