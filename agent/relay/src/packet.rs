//! RTP and RTCP packets as readers get them: payloads as they came, headers of our own (RFC 3550). Pure.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut as _, Bytes, BytesMut};
use mtxfleet_ai_client::{Codec, Frame, ParameterSets};

/// From 1900, where NTP begins, to 1970, in seconds.
const NTP_TO_UNIX: u64 = 2_208_988_800;

const RTP_HEADER: usize = 12;

/// A sender report without report blocks.
pub(crate) const REPORT: usize = 28;

/// The packets of one frame. Shared by all readers.
#[derive(Debug)]
pub(crate) struct Unit {
    pub track: usize,
    /// Decoding can begin here.
    pub keyframe: bool,
    pub packets: Vec<Bytes>,
    /// Bytes of all packets.
    pub bytes: usize,
    /// Of the first packet.
    pub sequence: u16,
    /// Of every packet, in ticks of the track's clock.
    pub timestamp: u32,
    /// Goes out before the packets where one is due; `None` while the camera's time is not known.
    pub report: Option<[u8; REPORT]>,
}

/// What a track's packets are numbered with.
#[derive(Debug)]
pub(crate) struct Numbering {
    pub ssrc: u32,
    payload_type: u8,
    next_sequence: u16,
    /// Packets and payload bytes so far, as sender reports tell them.
    packets: u32,
    octets: u32,
}

impl Numbering {
    pub(crate) const fn new(ssrc: u32, payload_type: u8, first_sequence: u16) -> Self {
        Self { ssrc, payload_type, next_sequence: first_sequence, packets: 0, octets: 0 }
    }

    /// Numbers the packets of the next frame of the track. A keyframe without parameter sets gets the camera's last ones, so
    /// that whoever reads on learns of a camera that came back with others.
    pub(crate) fn unit(&mut self, frame: &Frame) -> Unit {
        let missing = frame.parameter_sets.as_ref().filter(|sets| !sets.in_frame);
        let sets: Vec<Bytes> = missing.into_iter().flat_map(ParameterSets::nal_units).collect();
        let all = || frame.packets().map(|packet| (packet.payload, packet.marker));
        // An access unit delimiter has to stay first.
        let delimiters =
            if sets.is_empty() { 0 } else { all().take_while(|(p, _)| is_delimiter(frame.codec, p)).count() };
        let payloads = all().take(delimiters).chain(sets.iter().map(|set| (set, false))).chain(all().skip(delimiters));
        self.number(frame.track, frame.keyframe, frame.rtp_time, frame.wall, payloads)
    }

    pub(crate) fn number<'a>(
        &mut self,
        track: usize,
        keyframe: bool,
        rtp_time: i64,
        wall: Option<SystemTime>,
        payloads: impl Iterator<Item = (&'a Bytes, bool)>,
    ) -> Unit {
        // The lower 32 bits: RTP times wrap.
        let timestamp = rtp_time as u32;
        let report = wall.and_then(to_ntp).map(|ntp| self.report(ntp, timestamp));
        let sequence = self.next_sequence;
        let packets: Vec<Bytes> = payloads.map(|(payload, marker)| self.packet(timestamp, payload, marker)).collect();
        let bytes = packets.iter().map(Bytes::len).sum();
        Unit { track, keyframe, packets, bytes, sequence, timestamp, report }
    }

    /// Copies the payload, so that the upstream's large read buffers are not kept for it.
    fn packet(&mut self, timestamp: u32, payload: &Bytes, marker: bool) -> Bytes {
        let mut packet = BytesMut::with_capacity(RTP_HEADER + payload.len());
        packet.put_u8(0x80);
        packet.put_u8((u8::from(marker) << 7) | (self.payload_type & 0x7f));
        packet.put_u16(self.next_sequence);
        packet.put_u32(timestamp);
        packet.put_u32(self.ssrc);
        packet.put_slice(payload);
        self.next_sequence = self.next_sequence.wrapping_add(1);
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add(payload.len() as u32);
        packet.freeze()
    }

    /// RFC 3550, section 6.4.1.
    fn report(&self, ntp: u64, timestamp: u32) -> [u8; REPORT] {
        let mut report = [0; REPORT];
        report[..4].copy_from_slice(&[0x80, 200, 0, 6]);
        report[4..8].copy_from_slice(&self.ssrc.to_be_bytes());
        report[8..16].copy_from_slice(&ntp.to_be_bytes());
        report[16..20].copy_from_slice(&timestamp.to_be_bytes());
        report[20..24].copy_from_slice(&self.packets.to_be_bytes());
        report[24..].copy_from_slice(&self.octets.to_be_bytes());
        report
    }
}

/// H.264 type 9, H.265 type 35, in a packet of its own.
fn is_delimiter(codec: Codec, payload: &[u8]) -> bool {
    match (codec, payload.first()) {
        (Codec::H264, Some(first)) => first & 0x1f == 9,
        (Codec::H265, Some(first)) => (first >> 1) & 0x3f == 35,
        _ => false,
    }
}

/// Seconds since 1900 with 32 bits of fraction; `None` before 1970.
fn to_ntp(wall: SystemTime) -> Option<u64> {
    let since = wall.duration_since(UNIX_EPOCH).ok()?;
    let fraction = (u64::from(since.subsec_nanos()) << 32) / 1_000_000_000;
    // Wraps in 2036, as NTP does.
    Some((since.as_secs().wrapping_add(NTP_TO_UNIX) << 32) | fraction)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn numbered(numbering: &mut Numbering, rtp_time: i64, wall: Option<SystemTime>, count: usize) -> Unit {
        let payloads = vec![Bytes::from_static(b"payload"); count];
        numbering.number(0, true, rtp_time, wall, payloads.iter().enumerate().map(|(at, p)| (p, at + 1 == count)))
    }

    #[test]
    fn numbers_go_on_without_a_gap_across_frames_and_wraps() {
        let mut numbering = Numbering::new(0x0102_0304, 96, 65_534);
        let first = numbered(&mut numbering, -1, None, 3);
        let second = numbered(&mut numbering, (1 << 32) + 5, None, 1);
        let sequences: Vec<_> =
            first.packets.iter().chain(&second.packets).map(|p| u16::from_be_bytes([p[2], p[3]])).collect();
        assert_eq!(sequences, [65_534, 65_535, 0, 1]);
        assert_eq!((first.timestamp, second.timestamp), (u32::MAX, 5));
        assert_eq!((first.sequence, second.sequence), (65_534, 1));
    }

    #[test]
    fn a_packet_is_the_payload_behind_a_header_of_our_own() {
        let unit = numbered(&mut Numbering::new(0x0102_0304, 96, 7), 9, None, 2);
        assert_eq!(unit.packets[0][..], *b"\x80\x60\x00\x07\x00\x00\x00\x09\x01\x02\x03\x04payload");
        assert_eq!(unit.packets[1][1], 0xe0, "the marker stays where it was");
        assert_eq!(unit.bytes, 2 * (12 + 7));
    }

    #[test]
    fn a_report_tells_the_cameras_time_of_the_frame_and_what_was_sent_before() {
        let mut numbering = Numbering::new(1, 96, 0);
        assert_eq!(numbered(&mut numbering, 0, None, 2).report, None);
        let wall = UNIX_EPOCH + Duration::from_millis(1_500);
        let report = numbered(&mut numbering, 77, Some(wall), 1).report.expect("the time is known");
        let word = |at: usize| u32::from_be_bytes([report[at], report[at + 1], report[at + 2], report[at + 3]]);
        assert_eq!((word(8), word(12)), (2_208_988_801, 1 << 31));
        assert_eq!((word(16), word(20), word(24)), (77, 2, 14));
    }
}
