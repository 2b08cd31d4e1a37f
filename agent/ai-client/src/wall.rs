//! Wall time of frames, from RTCP sender reports (RFC 3550, section 6.4.1). Pure.
//!
//! A new leg's first report may come seconds after its first frame. Since the legs of one stream share one time line
//! after the stitch, what an earlier leg reported holds until then.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds from 1900, where NTP begins, to 1970.
const NTP_TO_UNIX: u64 = 2_208_988_800;

/// One track: what legs reported, on the time line of the frames handed over.
#[derive(Debug)]
pub(crate) struct WallClock<Leg> {
    clock_rate: u32,
    /// RTP time and the wall time it was taken at.
    known: Option<(i64, SystemTime)>,
    /// The newest report of each leg that no frame has come after: the leg's own RTP time, and the wall time.
    reports: HashMap<Leg, (u32, SystemTime)>,
}

impl<Leg: Eq + Hash> WallClock<Leg> {
    pub(crate) fn new(clock_rate: u32) -> Self {
        Self { clock_rate, known: None, reports: HashMap::new() }
    }

    /// A sender report: 64-bit NTP time and the leg's RTP time for it.
    pub(crate) fn report(&mut self, leg: Leg, ntp: u64, rtp: u32) {
        let Some(wall) = from_ntp(ntp) else { return };
        self.reports.insert(leg, (rtp, wall));
    }

    /// Wall time of a frame; `own` is the RTP time its leg gave it, `rtp_time` the one it is handed over with.
    pub(crate) fn of_frame(&mut self, leg: Leg, own: u32, rtp_time: i64) -> Option<SystemTime> {
        if let Some((rtp, wall)) = self.reports.remove(&leg) {
            // The report is near the frame; a wrap between the two must not count.
            let from_frame = i64::from(rtp.wrapping_sub(own) as i32);
            self.known = Some((rtp_time + from_frame, wall));
        }
        let (at, wall) = self.known?;
        let ticks = rtp_time - at;
        let away = Duration::from_secs_f64(ticks.unsigned_abs() as f64 / f64::from(self.clock_rate.max(1)));
        if ticks < 0 { wall.checked_sub(away) } else { wall.checked_add(away) }
    }

    pub(crate) fn forget(&mut self, leg: &Leg) {
        self.reports.remove(leg);
    }
}

/// `None` for times before 1970, which a server without a clock sends.
fn from_ntp(ntp: u64) -> Option<SystemTime> {
    let seconds = (ntp >> 32).checked_sub(NTP_TO_UNIX)?;
    let nanos = ((ntp & 0xffff_ffff) * 1_000_000_000) >> 32;
    UNIX_EPOCH.checked_add(Duration::new(seconds, nanos as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ntp(unix_seconds: u64) -> u64 {
        (unix_seconds + NTP_TO_UNIX) << 32
    }

    fn seconds(time: Option<SystemTime>) -> Option<f64> {
        time.map(|time| time.duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64())
    }

    #[test]
    fn a_frame_has_the_time_its_report_implies_even_across_a_wrap() {
        let mut clock = WallClock::new(90_000);
        assert_eq!(clock.of_frame(1, u32::MAX - 89_999, 0), None);
        clock.report(1, ntp(1000), u32::MAX - 89_999);
        assert_eq!(seconds(clock.of_frame(1, 0, 90_000)), Some(1001.0));
        assert_eq!(seconds(clock.of_frame(1, 90_000, 180_000)), Some(1002.0));
    }

    #[test]
    fn after_a_move_the_old_time_holds_until_the_new_leg_reports() {
        let mut clock = WallClock::new(90_000);
        clock.report("a", ntp(1000), 500);
        assert_eq!(seconds(clock.of_frame("a", 500, 500)), Some(1000.0));
        clock.forget(&"a");
        // Leg b numbers its time otherwise; the stitch has joined it.
        assert_eq!(seconds(clock.of_frame("b", 7_000_000, 90_500)), Some(1001.0));
        clock.report("b", ntp(3000), 7_000_000);
        assert_eq!(seconds(clock.of_frame("b", 7_090_000, 180_500)), Some(3001.0));
    }

    #[test]
    fn a_server_without_a_clock_gives_no_time() {
        let mut clock = WallClock::new(90_000);
        clock.report(1, 5 << 32, 0);
        assert_eq!(clock.of_frame(1, 0, 0), None);
    }
}
