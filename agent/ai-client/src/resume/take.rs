//! One answer of a recording: the frame handed over last is sought in it, then it is followed.

use std::collections::VecDeque;
use std::time::Duration;

use super::place::{interval, is_place};
use super::{Held, Known, Out, Recorded, Splice, TAIL, TakeEnd};
use crate::frame::{Discontinuity, DiscontinuityKind};

/// How much further than the live frames a recording is followed before it is no longer believed to meet them.
const OVERRUN: Duration = Duration::from_secs(8);

#[derive(Debug)]
pub(super) struct Take<T> {
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

impl<T> Splice<T> {
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
            // By the clocks, since nothing else says how long the hole is. A keyframe without a time of its own, since it
            // is asked for a moment too late, comes with that of the frame behind it.
            let passed = (wall.saturating_sub(last.wall).as_secs_f64() * self.clock_rate) as i64;
            let early = if timed { 0 } else { interval(&self.tail) };
            let time = last.time + (passed - early).max(1);
            take.line = timed.then_some(time - ticks);
            take.line_at_next = !timed;
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
}
