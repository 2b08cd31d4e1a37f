//! How long the video stood still during a handover. Pure.

use std::collections::VecDeque;
use std::time::Duration;

/// Frames over which the frame interval is taken.
const WINDOW: usize = 64;

/// Arrivals of one video track.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    arrivals: VecDeque<Duration>,
    measuring: Option<Measure>,
}

#[derive(Debug)]
struct Measure {
    interval: Duration,
    last: Option<Duration>,
    longest: Duration,
}

impl Pace {
    /// A frame was handed over.
    pub(crate) fn frame(&mut self, now: Duration) {
        if let Some(measure) = &mut self.measuring {
            let pause = measure.last.map_or(Duration::ZERO, |last| now.saturating_sub(last));
            measure.longest = measure.longest.max(pause);
            measure.last = Some(now);
        }
        self.arrivals.push_back(now);
        if self.arrivals.len() > WINDOW {
            self.arrivals.pop_front();
        }
    }

    /// A handover begins. Arrival times, not RTP times, give the interval: those run backwards with B-frames.
    pub(crate) fn begin(&mut self) {
        let last = self.arrivals.back().copied();
        self.measuring = Some(Measure { interval: self.interval(), last, longest: Duration::ZERO });
    }

    /// The handover is over: its longest pause, less the frame interval before it.
    pub(crate) fn end(&mut self) -> Duration {
        self.measuring.take().map_or(Duration::ZERO, |measure| measure.longest.saturating_sub(measure.interval))
    }

    /// The frame interval before the handover that is being measured.
    pub(crate) fn interval_before(&self) -> Duration {
        self.measuring.as_ref().map_or(Duration::ZERO, |measure| measure.interval)
    }

    fn interval(&self) -> Duration {
        match (self.arrivals.front(), self.arrivals.back(), self.arrivals.len()) {
            (Some(first), Some(last), count @ 2..) => last.saturating_sub(*first) / (count as u32 - 1),
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_steady_camera_has_no_extra_pause_and_a_late_frame_has_its_lateness() {
        let mut pace = Pace::default();
        (0..30).for_each(|n| pace.frame(ms(40 * n)));
        pace.begin();
        (30..40).for_each(|n| pace.frame(ms(40 * n)));
        assert_eq!(pace.end(), ms(0));
        pace.begin();
        pace.frame(ms(40 * 39 + 190));
        pace.frame(ms(40 * 39 + 191));
        assert_eq!(pace.end(), ms(150));
        assert_eq!(pace.end(), ms(0), "nothing was measured");
    }
}
