//! Readers over time: made from a seed, or read from a CSV.

use std::time::Duration;

/// A week of readers that a seed makes, or what an operator measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    pub step: Duration,
    /// One figure a step.
    pub readers: Vec<f64>,
}

/// The step that everything is simulated in.
pub const STEP: Duration = Duration::from_secs(5);

/// A year, so that a wrong column of a CSV cannot take all memory.
const MOST_STEPS: usize = 366 * 24 * 720;

const WEEK: f64 = 7.0 * 86_400.0;

/// Why a CSV is no trace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    #[error("line {line}: {text:?} is not \"SECONDS,READERS\"; write for example \"60,120\"")]
    NotTwoNumbers { line: usize, text: String },
    #[error("line {line}: its time is not later than the one before; sort the lines by time")]
    NotLater { line: usize },
    #[error("a trace needs two lines at least")]
    TooShort,
    #[error("longer than a year; the first column is seconds")]
    TooLong,
}

impl Trace {
    /// The given weeks one after the other, week 1 the first; each has a generator of its own, so that a week is the same
    /// in whatever company.
    #[must_use]
    pub fn weeks(seed: u64, weeks: impl Iterator<Item = u32>, peak: f64) -> Self {
        let readers = weeks.flat_map(|week| one_week(&mut Random::new(seed, week), peak)).collect();
        Self { step: STEP, readers }
    }

    /// Lines of `SECONDS,READERS`, times rising; a first line that holds no number is a heading. Between two lines the
    /// readers go straight from one figure to the other.
    ///
    /// # Errors
    /// The first line that cannot be read.
    pub fn from_csv(text: &str) -> Result<Self, TraceError> {
        let mut points: Vec<(f64, f64)> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let numbers = line.split_once(',').and_then(|(time, readers)| {
                let (time, readers) = (time.trim().parse::<f64>().ok()?, readers.trim().parse::<f64>().ok()?);
                (time.is_finite() && readers.is_finite() && readers >= 0.0).then_some((time, readers))
            });
            let heading = points.is_empty() && at == 0 && !line.starts_with(|c: char| c.is_ascii_digit() || c == '-');
            match numbers {
                Some(point) if points.last().is_some_and(|last| point.0 <= last.0) => {
                    return Err(TraceError::NotLater { line: at + 1 });
                }
                Some(point) => points.push(point),
                None if heading => {}
                None => {
                    let text = line.chars().take(80).collect();
                    return Err(TraceError::NotTwoNumbers { line: at + 1, text });
                }
            }
        }
        let (Some(first), Some(last)) = (points.first(), points.last()) else { return Err(TraceError::TooShort) };
        let steps = (last.0 - first.0) / STEP.as_secs_f64();
        if points.len() < 2 {
            return Err(TraceError::TooShort);
        }
        if steps > MOST_STEPS as f64 {
            return Err(TraceError::TooLong);
        }
        let (start, mut next) = (first.0, 1);
        let figure = |step: usize| {
            let time = start + step as f64 * STEP.as_secs_f64();
            while next + 1 < points.len() && points[next].0 < time {
                next += 1;
            }
            let ((t0, r0), (t1, r1)) = (points[next - 1], points[next]);
            r0 + (r1 - r0) * ((time - t0) / (t1 - t0)).clamp(0.0, 1.0)
        };
        Ok(Self { step: STEP, readers: (0..=steps as usize).map(figure).collect() })
    }

    #[must_use]
    pub fn peak(&self) -> f64 {
        self.readers.iter().copied().fold(0.0, f64::max)
    }

    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.readers.len() as f64 * self.step.as_secs_f64()
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
