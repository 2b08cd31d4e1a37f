//! Load over time: made from a seed, or read from a CSV ([`super::csv`]).

use std::ops::Range;
use std::time::Duration;

use mtxfleet_wire::UnixMillis;

/// A figure of the whole cluster over time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Series {
    /// What was there, one figure a step.
    pub values: Vec<f64>,
    /// Steps at which nobody said so, in order.
    pub unknown: Vec<Range<usize>>,
}

/// What a trace can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    Readers,
    Bandwidth,
    Cpu,
}

/// A week that a seed makes, or what an operator measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    pub step: Duration,
    /// Wall time of the first step.
    pub start: UnixMillis,
    /// Readers; cameras, for the ingestion cluster.
    pub readers: Series,
    /// Bits per second: outbound, or inbound for the ingestion cluster.
    pub bandwidth: Option<Series>,
    /// In nodes' worth: 2.5 keeps all cores of two nodes and a half busy.
    pub cpu: Option<Series>,
}

/// The step that everything is simulated in.
pub const STEP: Duration = Duration::from_secs(5);

/// Generated weeks, and seconds that are no Unix time, begin on a Monday: 2026-01-05, 00:00 UTC.
pub const MONDAY: UnixMillis = UnixMillis(1_767_571_200_000);

const WEEK: f64 = 7.0 * 86_400.0;

impl Column {
    pub const ALL: [Self; 3] = [Self::Readers, Self::Bandwidth, Self::Cpu];
}

impl std::fmt::Display for Column {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Readers => "readers",
            Self::Bandwidth => "bandwidth",
            Self::Cpu => "cpu",
        })
    }
}

impl From<Vec<f64>> for Series {
    fn from(values: Vec<f64>) -> Self {
        Self { values, unknown: Vec::new() }
    }
}

impl Series {
    /// What is said at each step; `None` where nobody does.
    #[must_use]
    pub fn said(&self) -> Vec<Option<f64>> {
        let mut said: Vec<Option<f64>> = self.values.iter().copied().map(Some).collect();
        for steps in &self.unknown {
            let end = steps.end.min(said.len());
            said[steps.start.min(end)..end].fill(None);
        }
        said
    }
}

impl Trace {
    /// The given weeks one after the other, week 1 the first; each has a generator of its own, so that a week is the same
    /// in whatever company.
    #[must_use]
    pub fn weeks(seed: u64, weeks: impl Iterator<Item = u32>, peak: f64) -> Self {
        Self::of(weeks.flat_map(|week| one_week(&mut Random::new(seed, week), peak)).collect())
    }

    /// Of readers alone.
    #[must_use]
    pub fn of(readers: Vec<f64>) -> Self {
        Self { step: STEP, start: MONDAY, readers: readers.into(), bandwidth: None, cpu: None }
    }

    /// The same for cameras: installed in batches, most of which stay; now and then a site loses its power, and comes back
    /// at once.
    #[must_use]
    pub fn cameras(seed: u64, weeks: impl Iterator<Item = u32>, most: f64) -> Self {
        let cameras = weeks.flat_map(|week| a_week_of_cameras(&mut Random::new(seed, week), most)).collect();
        Self::of(cameras)
    }

    #[must_use]
    pub fn peak(&self) -> f64 {
        self.readers.values.iter().copied().fold(0.0, f64::max)
    }

    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.readers.values.len() as f64 * self.step.as_secs_f64()
    }
}

/// A crowd that comes for something, stays, and goes.
#[derive(Debug)]
struct Crowd {
    begins: f64,
    readers: f64,
    /// Seconds to come, to stay, and of the half-life of going.
    comes: f64,
    stays: f64,
    goes: f64,
}

impl Crowd {
    fn readers(&self, time: f64) -> f64 {
        let since = time - self.begins;
        if since < 0.0 {
            return 0.0;
        }
        let gone = (since - self.comes - self.stays).max(0.0);
        self.readers * (since / self.comes).min(1.0) * 0.5_f64.powf(gone / self.goes)
    }
}

/// Tenfold from night to evening, each day of another height, with flash crowds and the unrest of single readers.
fn one_week(random: &mut Random, peak: f64) -> Vec<f64> {
    let days: Vec<f64> = (0..8).map(|_| random.between(0.75, 1.0)).collect();
    let crowds: Vec<Crowd> = (0..8)
        .map(|_| Crowd {
            begins: random.between(0.0, WEEK - 7_200.0),
            readers: peak * random.between(0.1, 0.9),
            // From a minute and a half to a quarter of an hour: some are as fast as a node is launched.
            comes: 90.0 * 10.0_f64.powf(random.unit()),
            stays: random.between(600.0, 3_600.0),
            goes: random.between(180.0, 900.0),
        })
        .collect();
    let step = STEP.as_secs_f64();
    // Readers come and go by themselves: an Ornstein-Uhlenbeck process of a mean stay of 20 min and a variance that is
    // their number; and the day's mood, 3 % over two hours.
    let (mut single, mut mood) = (0.0_f64, 0.0_f64);
    let steps = (WEEK / step) as usize;
    (0..steps)
        .map(|at| {
            let time = at as f64 * step;
            let (day, hour) = ((time / 86_400.0) as usize, time % 86_400.0 / 3_600.0);
            // Lowest at 4 in the morning, highest at 20: two half-waves of 16 and 8 hours.
            let since = (hour + 20.0) % 24.0;
            let phase = if since < 16.0 { since / 16.0 } else { 1.0 + (since - 16.0) / 8.0 };
            let wave = (1.0 - (std::f64::consts::PI * phase).cos()) / 2.0;
            let tomorrow = (hour / 24.0).powi(4);
            let height = days[day] * (1.0 - tomorrow) + days[day + 1] * tomorrow;
            let base = peak * (0.1 + 0.9 * wave * height);
            single += -single * step / 1_200.0 + (2.0 * step / 1_200.0).sqrt() * random.normal();
            mood += -mood * step / 7_200.0 + 0.03 * (2.0 * step / 7_200.0).sqrt() * random.normal();
            let crowd: f64 = crowds.iter().map(|crowd| crowd.readers(time)).sum();
            let mean = base * (1.0 + mood) + crowd;
            (mean + mean.max(0.0).sqrt() * single).max(0.0).round()
        })
        .collect()
}

/// From six tenths of `most` to all of it over the week, in batches on working days; ten cuts of a twentieth to a fifth.
fn a_week_of_cameras(random: &mut Random, most: f64) -> Vec<f64> {
    let batches: Vec<(f64, f64)> = (0..25)
        .map(|at| {
            let day = f64::from(at / 5);
            ((day * 24.0 + random.between(8.0, 17.0)) * 3_600.0, most * 0.016)
        })
        .collect();
    let cuts: Vec<(f64, f64, f64)> = (0..10)
        .map(|_| (random.between(0.0, WEEK), random.between(60.0, 1_800.0), most * random.between(0.05, 0.2)))
        .collect();
    let step = STEP.as_secs_f64();
    (0..(WEEK / step) as usize)
        .map(|at| {
            let time = at as f64 * step;
            let installed: f64 = batches.iter().filter(|(from, _)| *from <= time).map(|(_, cameras)| cameras).sum();
            let away = |(from, lasts, _): &&(f64, f64, f64)| (*from..from + lasts).contains(&time);
            let cut: f64 = cuts.iter().filter(away).map(|(.., cameras)| cameras).sum();
            (most * 0.6 + installed - cut).max(0.0).round()
        })
        .collect()
}

/// SplitMix64 (Steele, Lea and Flood, 2014): a week is the same on every machine and with every version.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// A child generator for each purpose.
    #[must_use]
    pub fn new(seed: u64, purpose: u32) -> Self {
        let mut parent = Self(seed);
        let start = parent.next() ^ u64::from(purpose).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self(start)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// In (0, 1).
    pub fn unit(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Mean 0, variance 1: Box and Muller's transform, one of its two values.
    pub fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }
}
