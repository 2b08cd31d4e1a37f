//! One track's frames without a seam: what was handed over, what a recording holds, what comes live. Pure.
//!
//! ```text
//!            a gap, or no leg delivers, or a worker that starts again
//!   Live ----------------------------------------------------------> Filling
//!    ^   everything passes                                             |  live frames are held
//!    |                                                                 |  a recording is read, again and again:
//!    |     the held frames go on where the recording's got to          |    Seeking the frame handed over last
//!    '-----------------------------------------------------------------'    Following it
//!          or nothing records what is missing: the gap is told, to the frame
//! ```
//!
//! Places are found by content: the frames before a place are the same, as many as can be compared. Times of a
//! recording are exact to a few ticks only (MediaMTX counts them in nanoseconds and back), so a recorded frame's time is
//! worked out from the distance to the frame handed over last. Whether a recording is *read* is not known here.

mod frames;
mod joining;
mod place;
mod take;

use std::collections::VecDeque;
use std::time::Duration;

use crate::frame::{Discontinuity, DiscontinuityKind};

pub(crate) use frames::{Known, Live, Need, Out, Recorded, TakeEnd};
use take::Take;

/// Frames remembered to find a place by. A take begins at a keyframe, so it has more than a few of them.
pub(crate) const TAIL: usize = 64;

#[derive(Debug)]
enum Held<T> {
    Unit(Live<T>),
    Gap(Discontinuity),
}

#[derive(Debug)]
struct Filling<T> {
    /// What the stitch said when live frames came again.
    gap: Option<Discontinuity>,
    /// Live frames' times are on the line of what was handed over.
    same_line: bool,
    /// The decoder knows nothing: frames from a keyframe on go out before the first one.
    fresh_decoder: bool,
    /// A worker that starts again: live frames never follow directly.
    restarted: bool,
    frames: u64,
    /// The wall time of the last frame is the recording node's.
    exact: bool,
    /// The live frames' place is found, and more of them are waited for.
    met: bool,
    abandoned: bool,
    take: Option<Take<T>>,
}

/// One video track. See the module's page.
#[derive(Debug)]
pub(crate) struct Splice<T> {
    track: usize,
    clock_rate: f64,
    tail: VecDeque<Known>,
    /// What to add to live frames' times.
    shift: i64,
    filling: Option<Filling<T>>,
    held: VecDeque<Held<T>>,
    out: VecDeque<Out<T>>,
    /// Frames handed over from recordings, those for decoding only not counted.
    pub replayed: u64,
    /// Of the packets that the stitch said are lost, those whose frames came from a recording.
    pub repaired_packets: u64,
    /// Switches without proof that a recording has proven.
    pub repaired_switches: u64,
    /// Live frames that were dropped, since a recording had given them.
    pub given_before: u64,
}

/// What the stitch has counted and a recording may still make up for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Undecided {
    pub frames: u64,
    pub packets: u64,
    pub switches: u64,
}

impl<T> Splice<T> {
    pub(crate) fn new(track: usize, clock_rate: u32) -> Self {
        Self {
            track,
            clock_rate: f64::from(clock_rate.max(1)),
            tail: VecDeque::with_capacity(TAIL),
            shift: 0,
            filling: None,
            held: VecDeque::new(),
            out: VecDeque::new(),
            replayed: 0,
            repaired_packets: 0,
            repaired_switches: 0,
            given_before: 0,
        }
    }

    /// Goes on after frames that were handed over in an earlier life, oldest first.
    pub(crate) fn resume(&mut self, tail: impl IntoIterator<Item = Known>) {
        self.tail = tail.into_iter().collect();
        let filling = Filling { fresh_decoder: true, restarted: true, same_line: false, ..Filling::new(None) };
        self.filling = Some(filling);
    }

    pub(crate) fn poll(&mut self) -> Option<Out<T>> {
        self.out.pop_front()
    }

    /// Live frames that wait.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    pub(crate) fn undecided(&self) -> Undecided {
        let mut all = Undecided::default();
        let first = self.filling.as_ref().and_then(|filling| filling.gap);
        let gaps = self.held.iter().filter_map(|held| if let Held::Gap(gap) = held { Some(*gap) } else { None });
        for gap in first.into_iter().chain(gaps) {
            all.packets += gap.lost_packets.unwrap_or(0);
            all.switches += u64::from(gap.kind != DiscontinuityKind::Lost);
        }
        all.frames = self.held.iter().filter(|held| matches!(held, Held::Unit(_))).count() as u64;
        all
    }

    pub(crate) const fn is_filling(&self) -> bool {
        self.filling.is_some()
    }

    /// What is to be read of a recording; `None` when nothing is.
    pub(crate) fn need(&self) -> Option<Need> {
        let filling = self.filling.as_ref().filter(|filling| !filling.abandoned && !filling.met)?;
        Some(Need { wall: self.tail.back()?.wall, exact: filling.exact })
    }

    /// No leg delivers.
    pub(crate) fn lost_legs(&mut self) {
        if self.filling.is_none() && !self.tail.is_empty() {
            self.filling = Some(Filling::new(None));
        }
    }

    /// The stitch says that live frames are missing here.
    pub(crate) fn gap(&mut self, gap: Discontinuity) {
        match &mut self.filling {
            None if self.tail.is_empty() => self.out.push_back(Out::Gap(gap)),
            None => self.filling = Some(Filling::new(Some(gap))),
            Some(filling) if self.held.is_empty() && filling.gap.is_none() => {
                filling.gap = Some(gap);
                filling.same_line &= gap.kind == DiscontinuityKind::Lost;
            }
            Some(_) => self.held.push_back(Held::Gap(gap)),
        }
    }

    /// The next live frame.
    pub(crate) fn live(&mut self, live: Live<T>) {
        if self.filling.is_none() {
            return self.hand_over_live(live);
        }
        self.held.push_back(Held::Unit(live));
        self.join();
    }

    /// No recording will give what is missing: it is told, and live frames go on.
    pub(crate) fn abandon(&mut self) {
        if let Some(filling) = &mut self.filling {
            filling.abandoned = true;
            self.join();
        }
    }

    /// How far the frames handed over are behind.
    pub(crate) fn backlog(&self, now: Duration) -> Duration {
        match (&self.filling, self.tail.back()) {
            (Some(_), Some(last)) => now.saturating_sub(last.wall),
            _ => Duration::ZERO,
        }
    }

    fn remember(&mut self, known: Known) {
        self.tail.push_back(known);
        if self.tail.len() > TAIL {
            self.tail.pop_front();
        }
    }

    fn hand_over_live(&mut self, live: Live<T>) {
        let time = live.time + self.shift;
        let known = Known { hash: live.hash, time, wall: live.wall };
        self.remember(known);
        self.out.push_back(Out::Live { known, frame: live.frame });
    }
}

impl<T> Filling<T> {
    fn new(gap: Option<Discontinuity>) -> Self {
        Self {
            same_line: gap.is_none_or(|gap| gap.kind == DiscontinuityKind::Lost),
            gap,
            fresh_decoder: false,
            restarted: false,
            frames: 0,
            exact: false,
            met: false,
            abandoned: false,
            take: None,
        }
    }
}

#[cfg(test)]
mod tests;
