//! Where live frames go on from those of a recording, and what is told where nothing proves it.

use super::place::CLOCKS_APART;
use super::{Filling, Held, Known, Live, Out, Splice, TAIL};
use crate::frame::{Discontinuity, DiscontinuityKind};

/// Frames in a row, of content that came once, that prove where live frames with times of their own belong.
const RUN: usize = 3;

/// Times that agree so far, in seconds, are those of one frame: rounding, and nothing else, lies between.
const SAME_TIME: f64 = 0.001;

impl<T> Splice<T> {
    /// Ends the filling where the held frames go on from the last one handed over.
    pub(super) fn join(&mut self) {
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
                self.given_before += 1;
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
