//! What goes wrong, and when, drawn from a seed.

use super::random::Random;

/// Virtual time, in microseconds.
pub type Micros = u64;
pub const MS: Micros = 1_000;
pub const SECOND: Micros = 1_000_000;

/// All know each other by then, and nothing went wrong yet.
pub const SETTLED: Micros = 5 * SECOND;
/// Nothing goes wrong in the last part of a schedule, and all must be well at its end.
pub const CALM_AT_THE_END: Micros = 45 * SECOND;

/// How bad things are, which says how soon others must notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weather {
    /// Nothing is lost, and every process runs when it wants to.
    Calm,
    /// A part of all datagrams is lost.
    Lossy,
    /// Processes wait for the processor for up to a second at a time; datagrams may be lost too.
    Starved,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL; a new start follows after this long, if it does.
    Crash { node: usize, back_after: Option<Micros> },
    /// SIGSTOP and SIGCONT.
    Stop { node: usize, time: Micros },
    /// Nodes with their bit set do not hear the others.
    Split { side: u64, time: Micros },
}

#[derive(Debug, Clone)]
pub struct Schedule {
    pub nodes: usize,
    pub weather: Weather,
    pub lost_in_1000: u64,
    /// Of a datagram on its way.
    pub delay_at_most: Micros,
    /// A process is held up after so long on average, for up to so long.
    pub held_up: Option<(Micros, Micros)>,
    pub faults: Vec<(Micros, Fault)>,
    pub end: Micros,
}

impl Schedule {
    pub fn draw(random: &mut Random) -> Self {
        let nodes = random.one_of(&[2, 3, 4, 5, 8, 12, 20, 30]);
        let weather = random.one_of(&[Weather::Calm, Weather::Lossy, Weather::Starved]);
        let lost_in_1000 = match weather {
            Weather::Calm => 0,
            Weather::Lossy => random.one_of(&[50, 250, 250]),
            Weather::Starved => random.one_of(&[0, 0, 100, 250]),
        };
        let held_up = (weather == Weather::Starved).then(|| {
            (random.between(50 * MS, 2 * SECOND), random.one_of(&[50 * MS, 150 * MS, 300 * MS, 600 * MS, SECOND]))
        });
        let end = random.between(75 * SECOND, 140 * SECOND);
        let faulty = SETTLED..end - CALM_AT_THE_END;
        let mut faults = Vec::new();
        let mut at = faulty.start;
        // Some at once, some one after the other.
        loop {
            at += random.one_of(&[0, 300 * MS, 2 * SECOND, 8 * SECOND, 20 * SECOND]) + random.below(SECOND);
            if at >= faulty.end {
                break;
            }
            faults.push((at, Fault::draw(random, nodes)));
        }
        Self {
            nodes,
            weather,
            lost_in_1000,
            delay_at_most: random.one_of(&[MS, 5 * MS, 50 * MS]),
            held_up,
            faults,
            end,
        }
    }
}

impl Fault {
    fn draw(random: &mut Random, nodes: usize) -> Self {
        let node = random.below(nodes as u64) as usize;
        match random.below(10) {
            0..4 => {
                let back = [None, Some(50 * MS), Some(SECOND), Some(3 * SECOND), Some(12 * SECOND)];
                Self::Crash { node, back_after: random.one_of(&back) }
            }
            4..8 => {
                let time = random.one_of(&[300 * MS, SECOND, SECOND, SECOND, 3 * SECOND, 8 * SECOND, 20 * SECOND]);
                Self::Stop { node, time }
            }
            8 => Self::Split { side: 1 << node, time: random.between(SECOND, 15 * SECOND) },
            _ => Self::Split { side: random.next(), time: random.between(SECOND, 15 * SECOND) },
        }
    }
}
