//! A camera changes its owner: a leg in the new owner's numbers bridges, and a third one, in the same numbers, follows.

use std::time::Duration;

use bytes::Bytes;
use mtxfleet_stitch::{Codec, LegKey, Output, RtpPacket, Stitch, StitchConfig, TrackConfig, TrackId};

const INTERVAL: Duration = Duration::from_millis(20);
const TICKS: u32 = 160;

/// What a leg adds to the camera's numbers.
#[derive(Clone, Copy)]
struct Numbers {
    sequence: u16,
    timestamp: u32,
}

const OLD: Numbers = Numbers { sequence: 0, timestamp: 0 };
/// Sequence numbers and timestamps wrap between the bridge and its successor.
const NEW: Numbers = Numbers { sequence: 65_350, timestamp: 0_u32.wrapping_sub(200 * TICKS) };
const FOREIGN: Numbers = Numbers { sequence: 30_000, timestamp: 7 };

struct Call {
    stitch: Stitch,
    /// Legs with their numbers.
    legs: Vec<(LegKey, Numbers)>,
    /// The first unit that is silence, as all after it.
    silent_from: u16,
    times: Vec<i64>,
    gaps: usize,
    covered: Vec<bool>,
}

impl Call {
    fn new(silent_from: u16) -> Self {
        let voice = TrackConfig { codec: Codec::Other, clock_rate: 8_000 };
        let stitch = Stitch::new(vec![voice], StitchConfig::default());
        Self { stitch, legs: Vec::new(), silent_from, times: Vec::new(), gaps: 0, covered: Vec::new() }
    }

    fn open(&mut self, unit: u16, numbers: Numbers) {
        let key = self.stitch.open_leg(INTERVAL * u32::from(unit));
        self.legs.push((key, numbers));
    }

    fn close_oldest(&mut self, unit: u16) {
        let (key, _) = self.legs.remove(0);
        self.stitch.close_leg(INTERVAL * u32::from(unit), key);
    }

    /// These units come on every leg.
    fn units(&mut self, units: std::ops::Range<u16>) {
        for unit in units {
            let now = INTERVAL * u32::from(unit);
            for (key, numbers) in self.legs.clone() {
                let payload =
                    if unit < self.silent_from { vec![unit as u8, (unit >> 8) as u8, 9] } else { vec![0xd5; 160] };
                let packet = RtpPacket {
                    sequence: unit.wrapping_add(numbers.sequence),
                    timestamp: (u32::from(unit) * TICKS).wrapping_add(numbers.timestamp),
                    marker: true,
                    payload: Bytes::from(payload),
                };
                self.stitch.push(now, key, TrackId(0), packet);
            }
            self.stitch.tick(now);
            while let Some(output) = self.stitch.poll() {
                match output {
                    Output::Unit(unit) => self.times.push(unit.rtp_time),
                    Output::Discontinuity(_) => self.gaps += 1,
                    Output::Covered { lossless, .. } => self.covered.push(lossless),
                }
            }
        }
    }

    /// To the new owner while somebody speaks, and on from there in silence.
    fn bridged_into_silence(next: Numbers) -> Self {
        let mut call = Self::new(160);
        call.open(0, OLD);
        call.units(0..100);
        call.open(100, NEW);
        call.units(100..130);
        assert_eq!(call.covered, [true], "aligned by content");
        call.close_oldest(130);
        call.units(130..300);
        call.open(300, next);
        call.units(300..600);
        call
    }
}

#[test]
fn a_leg_in_the_bridges_numbers_is_placed_by_them_also_where_content_says_nothing() {
    let mut call = Call::bridged_into_silence(NEW);
    assert_eq!(call.covered, [true, true]);
    call.close_oldest(600);
    call.units(600..700);
    assert_eq!(call.gaps, 0);
    let expected: Vec<i64> = (0..700).map(|unit| i64::from(unit) * i64::from(TICKS)).collect();
    assert_eq!(call.times, expected);
}

#[test]
fn a_leg_in_numbers_of_its_own_is_not_said_to_be_placed_in_silence() {
    let call = Call::bridged_into_silence(FOREIGN);
    assert_eq!(call.covered, [true, false]);
}
