//! How long the video stood still during a handover. Pure.

use std::collections::VecDeque;
use std::time::Duration;

/// Frames over which the frame interval is taken.
const WINDOW: usize = 64;

/// Arrivals of one video track.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    arrivals: VecDeque<Duration>,
    /// Media times of the same frames, in microseconds.
    shown: VecDeque<i64>,
    measuring: Option<Measure>,
}

#[derive(Debug)]
struct Measure {
    interval: Duration,
    last: Option<Duration>,
    longest: Duration,
    /// By media time: the frame interval before, the latest frame before, and what came since.
    media_interval: i64,
    shown_until: Option<i64>,
    shown_since: Option<i64>,
    frames: i64,
}

impl Pace {
    /// The media time, in microseconds, of the frame that is handed over next. With B-frames it runs backwards.
    pub(crate) fn shows(&mut self, time: i64) {
        if let Some(measure) = &mut self.measuring {
            measure.shown_since = measure.shown_since.max(Some(time));
            measure.frames += 1;
        }
        self.shown.push_back(time);
        if self.shown.len() > WINDOW {
            self.shown.pop_front();
        }
    }

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
        let (media_interval, shown_until) = (self.media_interval(), self.shown.iter().max().copied());
        self.measuring = Some(Measure {
            interval: self.interval(),
            last,
            longest: Duration::ZERO,
            media_interval,
            shown_until,
            shown_since: None,
            frames: 0,
        });
    }

    /// The handover is over: its longest pause, less the frame interval before it.
    pub(crate) fn end(&mut self) -> Duration {
        self.measuring.take().map_or(Duration::ZERO, |measure| measure.longest.saturating_sub(measure.interval))
    }

    /// What no frame shows since the measuring began, by media time, and the frame interval before. However late frames
    /// came, and from wherever, those that came are not missing.
    pub(crate) fn missing(&self) -> (Duration, Duration) {
        let Some(measure) = &self.measuring else { return Default::default() };
        let passed =
            measure.shown_since.zip(measure.shown_until).map_or(0, |(since, until)| since.saturating_sub(until));
        let missing = passed.saturating_sub(measure.frames.saturating_mul(measure.media_interval));
        let micros = |time: i64| Duration::from_micros(u64::try_from(time).unwrap_or(0));
        (micros(missing), micros(measure.media_interval))
    }

    /// The median, so that a gap among the frames does not count.
    fn media_interval(&self) -> i64 {
        let mut times: Vec<i64> = self.shown.iter().copied().collect();
        times.sort_unstable();
        let mut steps: Vec<i64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        steps.sort_unstable();
        steps.get(steps.len() / 2).copied().unwrap_or(0)
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

    #[test]
    fn frames_that_come_late_or_from_a_recording_are_not_missing_and_those_between_are() {
        // Two B-frames between references; the camera is away for 30 frames of 40 ms.
        let media = |n: i64| 40_000 * (3 * (n / 3) + [2, 0, 1][n as usize % 3]);
        let mut pace = Pace::default();
        (0..30).for_each(|n| pace.shows(media(n)));
        pace.begin();
        assert_eq!(pace.missing(), (ms(0), ms(40)));
        (30..36).chain(66..90).for_each(|n| pace.shows(media(n)));
        assert_eq!(pace.missing(), (ms(1_200), ms(40)));
    }
}
