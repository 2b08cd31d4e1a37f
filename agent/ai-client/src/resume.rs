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

use std::collections::VecDeque;
use std::time::Duration;

use crate::frame::{Discontinuity, DiscontinuityKind};

/// Frames remembered to find a place by. A take begins at a keyframe, so it has more than a few of them.
pub(crate) const TAIL: usize = 64;

/// Frames in a row, of content that came once, that prove where live frames with times of their own belong.
const RUN: usize = 3;

/// How far the clocks of a worker and of a recording node may be apart; members agree within a second.
const CLOCKS_APART: Duration = Duration::from_secs(5);

/// Times that agree so far, in seconds, are those of one frame: rounding, and nothing else, lies between.
const SAME_TIME: f64 = 0.001;

/// How much further than the live frames a recording is followed before it is no longer believed to meet them.
const OVERRUN: Duration = Duration::from_secs(8);

/// A frame that was handed over, as far as it is needed to find its place again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    pub hash: u64,
    pub time: i64,
    /// Since 1970: by this machine's clock for a live frame, by the recording node's for a recorded one.
    pub wall: Duration,
}

#[derive(Debug)]
pub(crate) struct Live<T> {
    pub hash: u64,
    pub time: i64,
    pub wall: Duration,
    pub frame: T,
}

#[derive(Debug)]
pub(crate) struct Recorded<T> {
    pub hash: u64,
    /// Presentation time in ticks of the track's clock, on a line of this take's own.
    pub ticks: i64,
    /// False for what a server sends only so that decoding can begin: its `ticks` say nothing.
    pub timed: bool,
    pub keyframe: bool,
    pub wall: Duration,
    pub frame: T,
}

/// What comes next for the application.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Out<T> {
    Live { known: Known, frame: T },
    Recorded { known: Known, decode_only: bool, frame: T },
    Gap(Discontinuity),
}

/// What is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Need {
    /// When the frame handed over last was taken.
    pub wall: Duration,
    /// By the recording node's clock: no margin is needed.
    pub exact: bool,
}

/// What one answer of a recording came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TakeEnd {
    /// The frame handed over last was in it.
    pub anchored: bool,
    /// Frames handed over from it.
    pub frames: u64,
    /// When its last frame was taken.
    pub until: Option<Duration>,
}

#[derive(Debug)]
enum Held<T> {
    Unit(Live<T>),
    Gap(Discontinuity),
}

#[derive(Debug)]
struct Take<T> {
    /// Nothing records what came before it: it may begin without the frame handed over last.
    after_hole: bool,
    /// Hashes of its frames so far, the last [`TAIL`] of them.
    seen: VecDeque<u64>,
    /// From the last keyframe on, while a decoder has to be brought to the place.
    lead: Vec<Recorded<T>>,
    /// What to add to `ticks`; `None` while the place is sought.
    line: Option<i64>,
    /// The place was found at a frame whose `ticks` say nothing: the next one's are taken to follow it.
    line_at_next: bool,
    frames: u64,
    until: Option<Duration>,
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

    /// A recording begins to answer. `after_hole`: nothing records what lies between the frame handed over last and it.
    pub(crate) fn begin_take(&mut self, after_hole: bool) {
        if let Some(filling) = &mut self.filling {
            filling.take = Some(Take {
                after_hole,
                seen: VecDeque::new(),
                lead: Vec::new(),
                line: None,
                line_at_next: false,
                frames: 0,
                until: None,
            });
        }
    }

    /// The next frame of a recording.
    pub(crate) fn recorded(&mut self, unit: Recorded<T>) {
        let Some(filling) = self.filling.as_mut().filter(|filling| !filling.abandoned && !filling.met) else { return };
        let Some(take) = &mut filling.take else { return };
        take.until = Some(unit.wall);
        if take.line_at_next && unit.timed {
            let last = self.tail.back().map_or(0, |last| last.time);
            take.line = Some(last + interval(&self.tail) - unit.ticks);
            take.line_at_next = false;
        }
        if let Some(line) = take.line {
            let time = unit.ticks + line;
            return self.follow(unit, time);
        }
        if take.line_at_next {
            return self.follow_untimed(unit);
        }
        self.seek(unit);
    }

    /// The recording has nothing more now.
    pub(crate) fn end_take(&mut self) -> TakeEnd {
        let take = self.filling.as_mut().and_then(|filling| filling.take.take());
        take.map_or(TakeEnd { anchored: false, frames: 0, until: None }, |take| TakeEnd {
            anchored: take.line.is_some() || take.line_at_next,
            frames: take.frames,
            until: take.until,
        })
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

    fn seek(&mut self, unit: Recorded<T>) {
        let (Some(filling), Some(last)) = (&mut self.filling, self.tail.back().copied()) else { return };
        let Some(take) = &mut filling.take else { return };
        take.seen.push_back(unit.hash);
        if take.seen.len() > TAIL {
            take.seen.pop_front();
        }
        let (wall, ticks, timed, keyframe) = (unit.wall, unit.ticks, unit.timed, unit.keyframe);
        let here = is_place(&take.seen, &self.tail, wall.abs_diff(last.wall));
        let after_hole = take.after_hole && keyframe && wall > last.wall;
        if after_hole && !here {
            // By the clocks, since nothing else says how long the hole is.
            let passed = (wall.saturating_sub(last.wall).as_secs_f64() * self.clock_rate) as i64;
            let time = last.time + passed.max(1);
            take.line = Some(time - ticks);
            take.lead.clear();
            filling.fresh_decoder = false;
            filling.same_line = false;
            let kind = DiscontinuityKind::Lost;
            let gap =
                Discontinuity { track: self.track, after: Some(last.time), before: time, lost_packets: None, kind };
            self.out.push_back(Out::Gap(gap));
            return self.follow(unit, time);
        }
        if filling.fresh_decoder {
            if keyframe {
                take.lead.clear();
            }
            take.lead.push(unit);
        }
        if !here {
            return;
        }
        take.line = timed.then_some(last.time - ticks);
        take.line_at_next = !timed;
        let line = take.line;
        filling.fresh_decoder = false;
        for unit in std::mem::take(&mut take.lead) {
            let time = line.filter(|_| unit.timed).map_or(last.time, |line| line + unit.ticks);
            let known = Known { hash: unit.hash, time, wall: unit.wall };
            self.out.push_back(Out::Recorded { known, decode_only: true, frame: unit.frame });
        }
        // Live frames may be there that follow the very frame that was found.
        self.join();
    }

    /// A frame after the place whose own time is not known.
    fn follow_untimed(&mut self, unit: Recorded<T>) {
        let time = self.tail.back().map_or(0, |last| last.time) + interval(&self.tail);
        self.follow(unit, time);
    }

    fn follow(&mut self, unit: Recorded<T>, time: i64) {
        let Some(filling) = &mut self.filling else { return };
        filling.frames += 1;
        filling.exact = true;
        if let Some(take) = &mut filling.take {
            take.frames += 1;
        }
        self.replayed += 1;
        let known = Known { hash: unit.hash, time, wall: unit.wall };
        self.remember(known);
        self.out.push_back(Out::Recorded { known, decode_only: false, frame: unit.frame });
        self.join();
        let newest = self.held.iter().rev().find_map(|held| match held {
            Held::Unit(live) => Some(live.wall),
            Held::Gap(_) => None,
        });
        if newest.is_some_and(|newest| unit.wall > newest + OVERRUN) {
            self.abandon();
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

    /// Ends the filling where the held frames go on from the last one handed over.
    fn join(&mut self) {
        let Some(filling) = &self.filling else { return };
        let Some(Held::Unit(first)) = self.held.front() else { return };
        if filling.gap.is_none() && filling.frames == 0 && !filling.restarted {
            // The stitch found nothing missing.
            return self.release();
        }
        if let Some((known, delta)) = self.meeting() {
            let behind = self.tail.len() - known;
            if self.held_units() < behind {
                // Live is behind the recording: it comes.
                if let Some(filling) = self.filling.as_mut().filter(|filling| !filling.abandoned) {
                    filling.met = true;
                    return;
                }
            }
            for _ in 0..behind.min(self.held_units()) {
                self.held.pop_front();
            }
            self.shift += delta;
            let gap = self.filling.as_ref().and_then(|filling| filling.gap);
            self.repaired_packets += gap.and_then(|gap| gap.lost_packets).unwrap_or(0);
            self.repaired_switches += u64::from(gap.is_some_and(|gap| gap.kind != DiscontinuityKind::Lost));
            return self.release();
        }
        if filling.abandoned {
            let (gap, frames, restarted) = (filling.gap, filling.frames, filling.restarted);
            if restarted {
                self.shift = self.estimated_shift(first);
            }
            let Some(Held::Unit(first)) = self.held.front() else { return };
            let (after, before) = (self.tail.back().map(|last| last.time), first.time + self.shift);
            let told = match gap {
                Some(gap) if frames == 0 && !restarted => gap,
                _ => Discontinuity {
                    track: self.track,
                    after,
                    before,
                    lost_packets: None,
                    kind: gap.map_or(DiscontinuityKind::Lost, |gap| gap.kind),
                },
            };
            self.out.push_back(Out::Gap(told));
            self.release();
        }
    }

    fn release(&mut self) {
        self.filling = None;
        while let Some(held) = self.held.pop_front() {
            match held {
                Held::Unit(live) => self.hand_over_live(live),
                Held::Gap(gap) => {
                    let shifted = |time: i64| time + self.shift;
                    let gap = Discontinuity { after: gap.after.map(shifted), before: shifted(gap.before), ..gap };
                    self.filling = Some(Filling::new(Some(gap)));
                    return;
                }
            }
        }
    }

    fn held_units(&self) -> usize {
        self.held.iter().take_while(|held| matches!(held, Held::Unit(_))).count()
    }

    /// Which of the frames handed over the first held one is, and what to add to the held ones' times.
    fn meeting(&self) -> Option<(usize, i64)> {
        let same_line = self.filling.as_ref().is_some_and(|filling| filling.same_line);
        let tolerance = (SAME_TIME * self.clock_rate) as i64;
        let units = || {
            self.held.iter().map_while(|held| match held {
                Held::Unit(live) => Some(live),
                Held::Gap(_) => None,
            })
        };
        let first = units().next()?;
        for at in (0..self.tail.len()).rev().filter(|at| self.tail[*at].hash == first.hash) {
            let delta = self.tail[at].time - (first.time + self.shift);
            if same_line {
                if delta.abs() <= tolerance {
                    return Some((at, 0));
                }
                continue;
            }
            let pairs = || self.tail.range(at..).zip(units());
            let equal = |(known, live): (&Known, &Live<T>)| {
                known.hash == live.hash && (known.time - (live.time + self.shift) - delta).abs() <= tolerance
            };
            if pairs().count() < RUN || !pairs().all(equal) {
                continue;
            }
            let once = |hash: u64| {
                self.tail.iter().filter(|known| known.hash == hash).count() == 1
                    && units().filter(|live| live.hash == hash).count() == 1
            };
            let telling = pairs().filter(|(known, _)| once(known.hash)).count();
            if telling >= RUN || telling > 0 && pairs().count() >= TAIL / 4 {
                return Some((at, delta));
            }
        }
        None
    }

    /// For live frames after a restart, when nothing but the clocks relates them to the checkpoint. A camera that went
    /// on meanwhile has the same RTP times, which are exact.
    fn estimated_shift(&self, first: &Live<T>) -> i64 {
        let Some(last) = self.tail.back() else { return 0 };
        let passed = (first.wall.saturating_sub(last.wall).as_secs_f64() * self.clock_rate) as i64;
        let by_clock = last.time + passed.max(1);
        // On the RTP clock, which wraps at 32 bits, the time nearest to that.
        let wrapped = by_clock + i64::from((first.time as u32).wrapping_sub(by_clock as u32) as i32);
        let tolerance = (CLOCKS_APART.as_secs_f64() * self.clock_rate) as i64;
        let time = if (wrapped - by_clock).abs() <= tolerance { wrapped } else { by_clock };
        time.max(last.time + 1) - first.time
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

/// Whether the last of `seen` is the last of `tail`: all that can be compared before both is equal, and it is enough.
fn is_place(seen: &VecDeque<u64>, tail: &VecDeque<Known>, apart: Duration) -> bool {
    let Some(last) = tail.back() else { return false };
    if seen.back() != Some(&last.hash) {
        return false;
    }
    let mut pairs = seen.iter().rev().zip(tail.iter().rev());
    let compared = seen.len().min(tail.len());
    if !pairs.all(|(seen, known)| *seen == known.hash) {
        return false;
    }
    // A still scene repeats its pictures: one of those compared must have come once.
    let once = |hash: u64| {
        tail.iter().filter(|known| known.hash == hash).count() == 1
            && seen.iter().filter(|seen| **seen == hash).count() == 1
    };
    let telling = tail.iter().rev().take(compared).any(|known| once(known.hash));
    telling && (apart <= CLOCKS_APART || compared >= TAIL / 4)
}

/// Ticks between two frames, as the last ones lie: the middle one of the distances, since with B-frames times jump.
fn interval(tail: &VecDeque<Known>) -> i64 {
    let mut times: Vec<i64> = tail.iter().map(|known| known.time).collect();
    times.sort_unstable();
    let mut distances: Vec<i64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    distances.sort_unstable();
    distances.get(distances.len() / 2).copied().unwrap_or(1)
}

#[cfg(test)]
mod tests;
