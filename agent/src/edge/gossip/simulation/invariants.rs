//! What must hold in every schedule. The judge sees the truth: who runs, who is stopped, who is cut off from whom.

use mtxfleet_wire::Liveness;

use super::schedule::{MS, Micros, SECOND, Weather};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invariant {
    /// Who crashed, was stopped or is cut off is suspected by every node that runs, and stays so.
    SilenceIsSuspectedByAll,
    /// And is dead to all of them soon after, where another can confirm it.
    SilenceIsConfirmedByAll,
    /// Who runs and is reached is soon taken for alive again by all.
    LifeIsSeenByAll,
    /// Nobody is dead to anyone that was not silent to it for at least three seconds, and until just now.
    NobodyDiesAlive,
    /// Who is cut off from all others judges nobody.
    AloneJudgesNobody,
    /// Never is half of a view dead when less than half is.
    HalfIsNeverDeadByMistake,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub at: Micros,
    pub invariant: Invariant,
    pub what: String,
}

/// How long each may take.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub suspected: Micros,
    pub confirmed: Micros,
    pub cleared: Micros,
}

/// When more than a quarter of all is silent at once, nobody is judged in haste.
const STRAINED: Micros = 4 * SECOND;
/// A node that nobody had heard is given longer.
const UNHEARD: Micros = 35 * SECOND;
/// A pause in a silence that is too short to hear anybody in.
const UNNOTICED: Micros = SECOND;
/// Silent for less, nobody may be taken for dead: a stall of a second, with room for what went before it.
pub const STALL: Micros = 3 * SECOND;

impl Bounds {
    pub const fn new(weather: Weather, is_strained: bool, is_unheard: bool) -> Self {
        let (suspected, cleared) = match weather {
            Weather::Calm => (1_500 * MS, 2 * SECOND),
            Weather::Lossy => (3 * SECOND, 4 * SECOND),
            Weather::Starved => (25 * SECOND, 15 * SECOND),
        };
        let suspected = if is_strained { suspected + STRAINED } else { suspected };
        let confirmed = suspected + 4_500 * MS + if is_unheard { UNHEARD } else { 0 };
        Self { suspected, confirmed, cleared }
    }
}

/// What is true of one node for another, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    Reached { since: Micros },
    Silent { since: Micros },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    pub truth: Truth,
    /// The last silence that ended, as begin and end.
    pub last_silence: Option<(Micros, Micros)>,
}

impl Pair {
    pub const fn new(now: Micros) -> Self {
        Self { truth: Truth::Reached { since: now }, last_silence: None }
    }

    pub fn update(&mut self, now: Micros, is_silent: bool) {
        self.truth = match (self.truth, is_silent) {
            (Truth::Reached { .. }, true) => {
                let goes_on = self.last_silence.filter(|(_, to)| now < to + UNNOTICED);
                Truth::Silent { since: goes_on.map_or(now, |(from, _)| from) }
            }
            (Truth::Silent { since }, false) => {
                self.last_silence = Some((since, now));
                Truth::Reached { since: now }
            }
            (same, _) => same,
        };
    }

    /// Whether a verdict of death can be right now.
    pub fn may_be_dead(&self, now: Micros, bounds: Bounds) -> bool {
        let is_silent = matches!(self.truth, Truth::Silent { since } if now >= since + STALL);
        is_silent || self.last_silence.is_some_and(|(from, to)| to >= from + STALL && now <= to + bounds.cleared)
    }

    /// What of this verdict is wrong, `calm_since` nothing else changed for either of them.
    pub fn judge(
        &self,
        now: Micros,
        calm_since: Micros,
        verdict: Option<Liveness>,
        bounds: Bounds,
    ) -> Option<Invariant> {
        let for_long = |since: Micros, bound: Micros| now > since.max(calm_since) + bound;
        match (self.truth, verdict) {
            (Truth::Silent { since }, Some(Liveness::Alive)) if for_long(since, bounds.suspected) => {
                Some(Invariant::SilenceIsSuspectedByAll)
            }
            (Truth::Silent { since }, Some(Liveness::Alive | Liveness::Suspect))
                if for_long(since, bounds.confirmed) =>
            {
                Some(Invariant::SilenceIsConfirmedByAll)
            }
            (Truth::Reached { since }, verdict)
                if verdict != Some(Liveness::Alive) && for_long(since, bounds.cleared) =>
            {
                Some(Invariant::LifeIsSeenByAll)
            }
            _ => None,
        }
    }
}
