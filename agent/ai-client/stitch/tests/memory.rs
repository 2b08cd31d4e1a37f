//! What waits in the stitch is bounded, whatever legs bring and however long nothing of it can go out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mtxfleet_stitch::{Codec, LegKey, RtpPacket, Stitch, StitchConfig, TrackConfig, TrackId};

const BOUND: usize = 100_000;
const PAYLOAD: usize = 1_000;
const PACKETS: u16 = 2_000;

/// Counts the payload bytes that somebody still holds.
#[derive(Clone, Default)]
struct Held(Arc<AtomicUsize>);

struct Payload(Vec<u8>, Held);

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        self.1.0.fetch_sub(self.0.len(), Ordering::Relaxed);
    }
}

impl Held {
    /// A slice of an IDR picture, other than those of other `content`.
    fn packet(&self, sequence: u16, timestamp: u32, marker: bool, content: u32) -> RtpPacket {
        let mut bytes = vec![0x65, 0x88];
        bytes.extend(content.to_be_bytes());
        bytes.resize(PAYLOAD, 0x11);
        self.0.fetch_add(PAYLOAD, Ordering::Relaxed);
        RtpPacket { sequence, timestamp, marker, payload: Bytes::from_owner(Payload(bytes, self.clone())) }
    }

    fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

struct Scene {
    stitch: Stitch,
    held: Held,
    most: usize,
}

impl Scene {
    fn new() -> Self {
        let config = StitchConfig { max_buffered_bytes: BOUND, max_retained_bytes: BOUND, ..StitchConfig::default() };
        let stitch = Stitch::new(vec![TrackConfig { codec: Codec::H264, clock_rate: 90_000 }], config);
        Self { stitch, held: Held::default(), most: 0 }
    }

    fn push(&mut self, now: Duration, leg: LegKey, packet: RtpPacket) {
        self.stitch.push(now, leg, TrackId(0), packet);
        while self.stitch.poll().is_some() {}
        self.most = self.most.max(self.held.bytes());
    }

    /// One unit of one packet.
    fn unit(&mut self, now: Duration, leg: LegKey, number: u16, content: u32) {
        let packet = self.held.packet(number, u32::from(number) * 3_600, true, content);
        self.push(now, leg, packet);
    }
}

#[test]
fn a_unit_without_an_end_is_dropped_at_the_bound() {
    let mut scene = Scene::new();
    let leg = scene.stitch.open_leg(Duration::ZERO);
    for number in 0..PACKETS {
        let packet = scene.held.packet(number, 0, false, 0);
        scene.push(Duration::ZERO, leg, packet);
    }
    assert!(scene.most > BOUND / 2 && scene.most <= BOUND, "{} bytes", scene.most);
}

#[test]
fn a_leg_that_cannot_be_placed_waits_within_the_bound() {
    let mut scene = Scene::new();
    let (old, strange) = (scene.stitch.open_leg(Duration::ZERO), scene.stitch.open_leg(Duration::ZERO));
    for number in 0..PACKETS {
        let now = Duration::from_millis(u64::from(number));
        scene.unit(now, old, number, u32::from(number));
        // Far away in its numbers, and no picture in common.
        scene.unit(now, strange, number.wrapping_add(30_000), 1_000_000 + u32::from(number));
    }
    assert!(scene.stitch.counters().overflow_dropped > 0);
    assert!(scene.most > BOUND / 2 && scene.most <= 2 * BOUND, "{} bytes", scene.most);
}

#[test]
fn a_leg_past_a_gap_that_another_may_fill_waits_within_the_bound() {
    let mut scene = Scene::new();
    let (torn, hung) = (scene.stitch.open_leg(Duration::ZERO), scene.stitch.open_leg(Duration::ZERO));
    for number in 0..10 {
        scene.unit(Duration::ZERO, torn, number, u32::from(number));
        scene.unit(Duration::ZERO, hung, number, u32::from(number));
    }
    // No time passes, so the loss is not declared.
    for number in 11..PACKETS {
        scene.unit(Duration::ZERO, torn, number, u32::from(number));
    }
    assert!(scene.stitch.counters().overflow_dropped > 0);
    assert!(scene.most > BOUND / 2 && scene.most <= 2 * BOUND, "{} bytes", scene.most);
}
