//! From packets of legs to items for the application: the stitch, with wall times and the bytes of frames. No I/O.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use mtxfleet_stitch::{AccessUnit, LegKey, Output, RtpPacket, Stitch, StitchConfig, TrackConfig, TrackId};
use mtxfleet_wire::StitchCounters;

use crate::frame::{self, Discontinuity, Frame, Item, Track};
use crate::leg::LegItem;
use crate::pace::Pace;
use crate::wall::WallClock;

pub(crate) struct Assembly {
    /// Zero of every `now` given here.
    started: Instant,
    tracks: Vec<Track>,
    /// Frames carry their RTP packets.
    rtp_packets: bool,
    stitch: Stitch,
    /// How long nothing was read. For the stitch, which draws conclusions from silence, that time did not pass.
    unread: Duration,
    /// The stitch's clock never runs backwards.
    stitch_now: Duration,
    clocks: Vec<WallClock<LegKey>>,
    /// The first video track, or the first track where there is none.
    watched: usize,
    pace: Pace,
    /// Items for the application, in order.
    out: VecDeque<Item>,
    /// Bytes of the frames among them.
    out_bytes: usize,
    /// Legs that the stitch has covered since these were last taken.
    pub covered: Vec<LegKey>,
    /// Frames of the watched track so far.
    pub watched_frames: u64,
}

impl Assembly {
    pub(crate) fn new(started: Instant, tracks: Vec<Track>, rtp_packets: bool) -> Self {
        let of_stitch = |track: &Track| TrackConfig { codec: track.codec, clock_rate: track.clock_rate };
        let stitch = Stitch::new(tracks.iter().map(of_stitch).collect(), StitchConfig::default());
        let clocks = tracks.iter().map(|track| WallClock::new(track.clock_rate)).collect();
        let watched = tracks.iter().position(|track| track.media == "video").unwrap_or(0);
        Self {
            started,
            tracks,
            rtp_packets,
            stitch,
            unread: Duration::ZERO,
            stitch_now: Duration::ZERO,
            clocks,
            watched,
            pace: Pace::default(),
            out: VecDeque::new(),
            out_bytes: 0,
            covered: Vec::new(),
            watched_frames: 0,
        }
    }

    pub(crate) fn tracks(&self) -> &[Track] {
        &self.tracks
    }

    pub(crate) fn open_leg(&mut self, now: Duration) -> LegKey {
        let now = self.stitch_time(now);
        self.stitch.open_leg(now)
    }

    pub(crate) fn push(&mut self, now: Duration, leg: LegKey, item: LegItem) {
        match item {
            LegItem::Rtp { track, sequence, timestamp, marker, payload } => {
                let now = self.stitch_time(now);
                self.stitch.push(now, leg, TrackId(track), RtpPacket { sequence, timestamp, marker, payload });
                self.collect();
            }
            LegItem::Report { track, ntp, rtp } => {
                if let Some(clock) = self.clocks.get_mut(track) {
                    clock.report(leg, ntp, rtp);
                }
            }
        }
    }

    pub(crate) fn close_leg(&mut self, now: Duration, leg: LegKey) {
        let now = self.stitch_time(now);
        self.stitch.close_leg(now, leg);
        self.collect();
        self.clocks.iter_mut().for_each(|clock| clock.forget(&leg));
    }

    pub(crate) fn tick(&mut self, now: Duration) {
        let now = self.stitch_time(now);
        self.stitch.tick(now);
        self.collect();
    }

    /// No leg was read for so long, up to now: they were not silent, nobody listened.
    pub(crate) fn not_read_for(&mut self, time: Duration) {
        self.unread += time;
    }

    fn stitch_time(&mut self, now: Duration) -> Duration {
        self.stitch_now = self.stitch_now.max(now.saturating_sub(self.unread));
        self.stitch_now
    }

    /// The next item for the application.
    pub(crate) fn take(&mut self) -> Option<Item> {
        let item = self.out.pop_front()?;
        self.out_bytes -= size(&item);
        Some(item)
    }

    /// Takes back what [`Assembly::take`] gave.
    pub(crate) fn put_back(&mut self, item: Item) {
        self.out_bytes += size(&item);
        self.out.push_front(item);
    }

    /// Items that wait, and the bytes in them.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        (self.out.len(), self.out_bytes)
    }

    pub(crate) fn begin_measuring_pause(&mut self) {
        self.pace.begin();
    }

    pub(crate) fn extra_pause(&mut self) -> Duration {
        self.pace.end()
    }

    /// Between two frames before the pause that is being measured; zero while nothing is known.
    pub(crate) fn frame_interval(&self) -> Duration {
        self.pace.interval_before()
    }

    pub(crate) fn counters(&self) -> StitchCounters {
        let counted = self.stitch.counters();
        StitchCounters {
            frames: counted.frames,
            handovers: counted.handovers,
            unproven_handovers: counted.unproven_handovers,
            lost_packets: counted.lost_packets,
            duplicates_dropped: counted.duplicates_dropped,
        }
    }

    fn collect(&mut self) {
        while let Some(output) = self.stitch.poll() {
            match output {
                Output::Unit(unit) => self.unit(&unit),
                Output::Discontinuity(found) => self.out.push_back(Item::Discontinuity(Discontinuity::from(found))),
                Output::Covered { leg, lossless } => {
                    tracing::debug!(?leg, lossless, "a leg has taken over");
                    self.covered.push(leg);
                }
            }
        }
    }

    fn unit(&mut self, unit: &AccessUnit) {
        let index = unit.track.0;
        let (Some(track), Some(clock)) = (self.tracks.get(index), self.clocks.get_mut(index)) else { return };
        let now = self.started.elapsed();
        let own = unit.packets.first().map_or(0, |packet| packet.timestamp);
        let frame = Frame {
            track: index,
            codec: track.codec,
            rtp_time: unit.rtp_time,
            wall: clock.of_frame(unit.leg, own, unit.rtp_time),
            keyframe: unit.keyframe,
            data: frame::data(unit, track, self.rtp_packets),
            received: self.started + (unit.received + self.unread).min(now),
            packets: self.rtp_packets.then(|| unit.packets.clone()),
        };
        self.out_bytes += frame.data.len();
        self.out.push_back(Item::Frame(frame));
        if index == self.watched {
            self.watched_frames += 1;
            self.pace.frame(now);
        }
    }
}

fn size(item: &Item) -> usize {
    match item {
        Item::Frame(frame) => frame.data.len(),
        Item::Discontinuity(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use mtxfleet_stitch::Codec;

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Two legs; the first has brought a second of frames, the second nothing yet.
    fn two_legs() -> (Assembly, LegKey) {
        let track = Track {
            media: "video".to_owned(),
            encoding: "h264".to_owned(),
            codec: Codec::H264,
            clock_rate: 90_000,
            parameter_sets: Bytes::new(),
            payload_type: 96,
            rtpmap: None,
            fmtp: None,
        };
        let mut assembly = Assembly::new(Instant::now(), vec![track], false);
        let old = assembly.open_leg(ms(0));
        for n in 0..25_u16 {
            let payload = Bytes::from(vec![0x65, 0x88, n as u8]);
            let timestamp = u32::from(n) * 3_600;
            let item = LegItem::Rtp { track: 0, sequence: n, timestamp, marker: true, payload };
            assembly.push(ms(40 * u64::from(n)), old, item);
        }
        let new = assembly.open_leg(ms(1_000));
        (assembly, new)
    }

    #[test]
    fn legs_that_nobody_reads_are_not_taken_for_silent() {
        let (mut assembly, new) = two_legs();
        for tick in 1..=100 {
            assembly.not_read_for(ms(100));
            assembly.tick(ms(1_000 + 100 * tick));
        }
        assert_eq!(assembly.covered, []);
        (1..=30).for_each(|tick| assembly.tick(ms(11_000 + 100 * tick)));
        assert_eq!(assembly.covered, [new], "that was silence");
    }
}
