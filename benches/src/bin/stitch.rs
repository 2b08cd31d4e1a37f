//! Packets per second and core through the stitch, beside plain forwarding, in interleaved runs.
//!
//! Both sides do what a client that hands RTP on does: take one interleaved frame after the other from the bytes of an
//! RTSP connection (RFC 2326 section 10.12), read the RTP header (RFC 3550 section 5.1), and pass the packet to a
//! consumer, which writes it to an outgoing buffer with its four-byte frame header, as to a downstream connection. In
//! between, plain forwarding has a queue, and the stitch has itself with one leg open. A second pair leaves out the
//! outgoing buffer: the consumer only reads the packet's header.
//!
//! The stream is like a camera's: H.264, 25 fps, 18 packets of 1,200 bytes a picture (4.3 Mbit/s), a keyframe every 50.

use std::collections::VecDeque;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use mtxfleet_benches::{Figure, cpu_time};
use mtxfleet_stitch::{Codec, Output, RtpPacket, Stitch, StitchConfig, TrackConfig, TrackId};

const PAYLOAD: usize = 1_200;
const PACKETS_PER_PICTURE: usize = 18;
const PICTURES: usize = 2_000;
/// Runs of each side, taking turns.
const PAIRS: usize = 101;
/// At most a tenth more time a packet.
const GOAL: f64 = 0.909;

fn main() -> ExitCode {
    let mut reached = true;
    let wire = camera();
    let packets = (PACKETS_PER_PICTURE * PICTURES) as f64;
    for (figure, outgoing) in [
        ("packets through the stitch, for each second of a core", true),
        ("packets through the stitch without writing them out, for each second of a core", false),
    ] {
        let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for pair in 0..PAIRS {
            // Whoever goes second finds warmer caches: take turns.
            let (stitched, forwarded) = if pair % 2 == 0 {
                let stitched = stitch(&wire, outgoing);
                (stitched, forward(&wire, outgoing))
            } else {
                let forwarded = forward(&wire, outgoing);
                (stitch(&wire, outgoing), forwarded)
            };
            ours.push(packets / stitched.as_secs_f64());
            theirs.push(packets / forwarded.as_secs_f64());
            ratios.push(forwarded.as_secs_f64() / stitched.as_secs_f64());
        }
        let (ours, theirs, ratio) = (median(&mut ours), median(&mut theirs), median(&mut ratios));
        eprintln!(
            "{figure}: stitch {:.2} M/s ({:.0} ns a packet), plain forwarding {:.2} M/s ({:.0} ns); median ratio {ratio:.3}",
            ours / 1e6,
            1e9 / ours,
            theirs / 1e6,
            1e9 / theirs,
        );
        Figure::new(figure, ours.round(), "packets/s", format!("at least {GOAL} of the peer's"))
            .beside("plain forwarding, same run", theirs.round())
            .print();
        if ratio < GOAL {
            eprintln!("FAILED: {ratio:.3} of plain forwarding, {figure}");
            reached = false;
        }
    }
    if reached { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What comes over the connection, one buffer a picture.
fn camera() -> Vec<Bytes> {
    let mut sequence = 65_000_u16;
    (0..PICTURES)
        .map(|picture| {
            let mut wire = BytesMut::new();
            let nal_type = if picture % 50 == 0 { 5 } else { 1 };
            for packet in 0..PACKETS_PER_PICTURE {
                let last = packet + 1 == PACKETS_PER_PICTURE;
                wire.put_slice(&[b'$', 0]);
                wire.put_u16((12 + PAYLOAD) as u16);
                wire.put_slice(&[0x80, 96 | if last { 0x80 } else { 0 }]);
                wire.put_u16(sequence);
                wire.put_u32((picture as u32).wrapping_mul(3_600));
                wire.put_u32(0x1234_5678);
                // FU-A: indicator, header, and the slice with first_mb_in_slice 0.
                let flags = if packet == 0 { 0x80 } else { 0 } | if last { 0x40 } else { 0 };
                wire.put_slice(&[0x7c, flags | nal_type, 0x88]);
                wire.put_bytes(packet as u8, PAYLOAD - 3);
                sequence = sequence.wrapping_add(1);
            }
            wire.freeze()
        })
        .collect()
}

/// The next interleaved frame's RTP packet; the payload stays in the connection's buffer.
#[inline]
fn next_packet(wire: &mut Bytes) -> Option<RtpPacket> {
    let header = wire.first_chunk::<4>()?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[0] != b'$' || wire.len() < 4 + length || length < 12 {
        return None;
    }
    wire.advance(4);
    let mut rtp = wire.split_to(length);
    if rtp[0] >> 6 != 2 {
        return None;
    }
    let header_len = 12 + 4 * usize::from(rtp[0] & 0x0f);
    let marker = rtp[1] & 0x80 != 0;
    let sequence = u16::from_be_bytes([rtp[2], rtp[3]]);
    let timestamp = u32::from_be_bytes([rtp[4], rtp[5], rtp[6], rtp[7]]);
    (header_len <= length).then(|| {
        rtp.advance(header_len);
        RtpPacket { sequence, timestamp, marker, payload: rtp }
    })
}

/// The downstream connection.
struct Consumer {
    out: Option<BytesMut>,
    seen: u64,
}

impl Consumer {
    fn new(outgoing: bool) -> Self {
        Self { out: outgoing.then(|| BytesMut::with_capacity(1 << 16)), seen: 0 }
    }

    #[inline]
    fn take(&mut self, packet: &RtpPacket) {
        self.seen += u64::from(packet.sequence) + packet.payload.len() as u64;
        let Some(out) = &mut self.out else { return };
        if out.len() > (1 << 16) - 1_500 {
            out.clear(); // written to the socket
        }
        out.put_slice(&[b'$', 0]);
        out.put_u16((12 + packet.payload.len()) as u16);
        out.put_slice(&[0x80, 96 | if packet.marker { 0x80 } else { 0 }]);
        out.put_u16(packet.sequence);
        out.put_u32(packet.timestamp);
        out.put_u32(0x1234_5678);
        out.put_slice(&packet.payload);
    }
}

/// A copy of what a read from the socket leaves in a fresh buffer.
fn read(picture: &Bytes) -> Bytes {
    Bytes::copy_from_slice(picture)
}

fn forward(wire: &[Bytes], outgoing: bool) -> Duration {
    let mut consumer = Consumer::new(outgoing);
    let mut queue = VecDeque::new();
    let started = cpu_time();
    for picture in wire {
        let mut connection = read(picture);
        while let Some(packet) = next_packet(&mut connection) {
            queue.push_back(packet);
            while let Some(packet) = queue.pop_front() {
                consumer.take(&packet);
            }
        }
    }
    let took = cpu_time() - started;
    black_box(consumer.seen);
    took
}

fn stitch(wire: &[Bytes], outgoing: bool) -> Duration {
    let mut consumer = Consumer::new(outgoing);
    let track = TrackConfig { codec: Codec::H264, clock_rate: 90_000 };
    let mut stitch = Stitch::new(vec![track], StitchConfig::default());
    let leg = stitch.open_leg(Duration::ZERO);
    let mut units = 0;
    let started = cpu_time();
    for (index, picture) in wire.iter().enumerate() {
        let now = Duration::from_millis(40 * index as u64);
        let mut connection = read(picture);
        while let Some(packet) = next_packet(&mut connection) {
            stitch.push(now, leg, TrackId(0), packet);
            while let Some(output) = stitch.poll() {
                if let Output::Unit(unit) = output {
                    units += 1;
                    unit.packets.iter().for_each(|packet| consumer.take(packet));
                }
            }
        }
    }
    let took = cpu_time() - started;
    assert_eq!(units, wire.len(), "every picture comes out");
    black_box(consumer.seen);
    took
}
