//! Relays and the worker that reads from them, in model time.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use mtxfleet_stitch::{AccessUnit, Counters, Discontinuity, LegKey, Output, RtpPacket, Stitch, StitchConfig, TrackId};

use super::source::{CAMERA_MTU, Random, Source, packetise};

/// What a relay does to numbers and packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spaces {
    /// Passes packets through.
    Same,
    /// Numbers and timestamps of its own, as when the camera is pulled twice.
    Other { sequence: u16, timestamp: u32 },
    /// The camera's timestamps; packets split, so numbers drift away.
    Split,
}

#[derive(Clone, Debug)]
pub struct Leg {
    pub opened: Duration,
    /// How much later than the camera's, packets come.
    pub delay: Duration,
    pub spaces: Spaces,
    /// Ends by itself.
    pub dies: Option<Duration>,
}

/// Packets that one leg does not bring: on a track, from the `packet`th one of the `unit`th unit.
#[derive(Clone, Copy, Debug)]
pub struct Loss {
    pub leg: usize,
    pub track: usize,
    pub unit: usize,
    pub packet: usize,
    pub count: usize,
}

/// What came out, and what had gone in.
pub struct Run {
    pub outputs: Vec<(Duration, Output)>,
    pub counters: Counters,
    /// For each leg and track, how many packets of each unit were pushed.
    pub pushed: Vec<Vec<BTreeMap<usize, usize>>>,
    /// For each leg and track, how many packets each unit has there.
    pub packets: Vec<Vec<Vec<usize>>>,
    pub keys: Vec<LegKey>,
    pub opened: Vec<Duration>,
    pub covered: BTreeMap<usize, (Duration, bool)>,
    pub closed: Vec<Option<Duration>>,
}

impl Run {
    pub fn units(&self, track: usize) -> impl Iterator<Item = (Duration, &AccessUnit)> {
        self.outputs.iter().filter_map(move |(at, output)| match output {
            Output::Unit(unit) if unit.track == TrackId(track) => Some((*at, unit)),
            _ => None,
        })
    }

    pub fn discontinuities(&self) -> impl Iterator<Item = &Discontinuity> {
        self.outputs.iter().filter_map(|(_, output)| match output {
            Output::Discontinuity(discontinuity) => Some(discontinuity),
            _ => None,
        })
    }
}

/// Packets of a unit leave the camera spread over this.
pub const SPREAD: Duration = Duration::from_millis(8);
pub const TICK: Duration = Duration::from_millis(50);

struct Delivery {
    at: Duration,
    leg: usize,
    track: usize,
    unit: usize,
    packet: RtpPacket,
}

/// Reads `source` over `legs` until its end. A leg's elders are closed `close_after` its cover.
pub fn run(source: &Source, legs: &[Leg], losses: &[Loss], config: StitchConfig, close_after: Duration) -> Run {
    let mut packets = Vec::new();
    let mut deliveries = Vec::new();
    for (index, leg) in legs.iter().enumerate() {
        packets.push(deliver(source, index, leg, losses, &mut deliveries));
    }
    deliveries.sort_by_key(|delivery| delivery.at); // stable: order within a leg is kept
    let mut worker = Worker {
        stitch: Stitch::new(source.track_configs(), config),
        opened: 0,
        run: Run {
            outputs: Vec::new(),
            counters: Counters::default(),
            pushed: vec![vec![BTreeMap::new(); source.tracks.len()]; legs.len()],
            packets,
            keys: Vec::new(),
            opened: Vec::new(),
            covered: BTreeMap::new(),
            closed: vec![None; legs.len()],
        },
    };
    let mut tick = Duration::ZERO;
    for delivery in deliveries {
        while tick <= delivery.at {
            worker.housekeeping(tick, legs, close_after);
            tick += TICK;
        }
        worker.open_due(delivery.at, legs);
        worker.close_due(delivery.at, legs, close_after);
        if worker.run.closed[delivery.leg].is_some() || delivery.leg >= worker.opened {
            continue;
        }
        *worker.run.pushed[delivery.leg][delivery.track].entry(delivery.unit).or_default() += 1;
        let key = worker.run.keys[delivery.leg];
        worker.stitch.push(delivery.at, key, TrackId(delivery.track), delivery.packet);
        worker.collect(delivery.at);
    }
    for _ in 0..120 {
        worker.housekeeping(tick, legs, close_after);
        tick += TICK;
    }
    worker.run.counters = worker.stitch.counters();
    worker.run
}

struct Worker {
    stitch: Stitch,
    opened: usize,
    run: Run,
}

impl Worker {
    fn housekeeping(&mut self, now: Duration, legs: &[Leg], close_after: Duration) {
        self.open_due(now, legs);
        self.close_due(now, legs, close_after);
        self.stitch.tick(now);
        self.collect(now);
    }

    fn open_due(&mut self, now: Duration, legs: &[Leg]) {
        while self.opened < legs.len() && legs[self.opened].opened <= now {
            self.run.keys.push(self.stitch.open_leg(now));
            self.run.opened.push(now);
            self.opened += 1;
        }
    }

    fn close_due(&mut self, now: Duration, legs: &[Leg], close_after: Duration) {
        for (index, leg) in legs.iter().enumerate().take(self.opened) {
            let replaced = self.run.covered.iter().any(|(leg, (at, _))| *leg > index && *at + close_after <= now);
            let died = leg.dies.is_some_and(|at| at <= now);
            if self.run.closed[index].is_none() && (replaced || died) {
                self.run.closed[index] = Some(now);
                self.stitch.close_leg(now, self.run.keys[index]);
                self.collect(now);
            }
        }
    }

    fn collect(&mut self, now: Duration) {
        while let Some(output) = self.stitch.poll() {
            if let Output::Covered { leg, lossless } = &output {
                let index = self.run.keys.iter().position(|key| key == leg).expect("a key that was given");
                self.run.covered.insert(index, (now, *lossless));
            }
            self.run.outputs.push((now, output));
        }
    }
}

/// All packets of a leg, from its opening on; returns how many each unit has on each track.
fn deliver(
    source: &Source,
    index: usize,
    leg: &Leg,
    losses: &[Loss],
    deliveries: &mut Vec<Delivery>,
) -> Vec<Vec<usize>> {
    let mut counts = Vec::new();
    for (track_index, track) in source.tracks.iter().enumerate() {
        let lost: HashSet<(usize, usize)> = losses
            .iter()
            .filter(|loss| loss.leg == index && loss.track == track_index)
            .flat_map(|loss| following(source, loss))
            .collect();
        let (add_seq, add_time) = match leg.spaces {
            Spaces::Other { sequence, timestamp } => (sequence, timestamp),
            _ => (0, 0),
        };
        let mut split_seq = i64::from(source.config.first_sequence);
        let mut track_counts = Vec::new();
        for (unit_index, unit) in track.units.iter().enumerate() {
            let split;
            let packets = match leg.spaces {
                Spaces::Split => {
                    split = packetise(track.kind, &unit.nals, split_seq, unit.time, CAMERA_MTU / 2);
                    split_seq += split.len() as i64;
                    &split
                }
                _ => &unit.packets,
            };
            track_counts.push(packets.len());
            for (position, packet) in packets.iter().enumerate() {
                let at = unit.sent + leg.delay + SPREAD * position as u32 / packets.len() as u32;
                if at < leg.opened || lost.contains(&(unit_index, position)) {
                    continue;
                }
                let packet = RtpPacket {
                    sequence: packet.sequence.wrapping_add(add_seq),
                    timestamp: packet.timestamp.wrapping_add(add_time),
                    ..packet.clone()
                };
                deliveries.push(Delivery { at, leg: index, track: track_index, unit: unit_index, packet });
            }
        }
        counts.push(track_counts);
    }
    counts
}

/// The packets of a loss, across units, counted in the camera's packets.
fn following(source: &Source, loss: &Loss) -> Vec<(usize, usize)> {
    let units = &source.tracks[loss.track].units;
    let mut lost = Vec::new();
    let (mut unit, mut packet) = (loss.unit, loss.packet);
    while lost.len() < loss.count && unit < units.len() {
        if packet >= units[unit].packets.len() {
            (unit, packet) = (unit + 1, 0);
            continue;
        }
        lost.push((unit, packet));
        packet += 1;
    }
    lost
}

/// Legs that each take over from the one before, with random skews; see the tests.
pub fn random_skew(random: &mut Random, most: Duration) -> Duration {
    Duration::from_millis(random.below(most.as_millis() as u64 + 1))
}
