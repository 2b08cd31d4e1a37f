//! From packets of legs, and frames of recordings, to items for the application: the stitch and the splice, with wall
//! times and the bytes of frames. No I/O.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::Bytes;
use mtxfleet_stitch::{AccessUnit, Codec, LegKey, Output, RtpPacket, Stitch, StitchConfig, TrackConfig, TrackId};
use mtxfleet_wire::StitchCounters;

use crate::frame::{self, Discontinuity, Frame, Item, Track};
use crate::ledger::{Entry, Ledger};
use crate::leg::LegItem;
use crate::pace::Pace;
use crate::playback::{self, wall_now};
use crate::resume::{Known, Live, Need, Out, Recorded, Splice, TakeEnd};
use crate::wall::WallClock;

/// A frame of before this life can have a later time than its beginning: by another node's clock, and by the order of
/// B-frames, whose time is that of their showing.
const CLOCKS_APART: Duration = Duration::from_millis(500);

/// Frames that may wait for a recording. More, and they go on without it.
const MOST_HELD: usize = 4096;
const MOST_HELD_BYTES: usize = 64 << 20;

/// Legs whose parameter sets are kept, those that are closed included.
const LEGS_REMEMBERED: usize = 4;

/// While a worker that starts again is further behind than this, live frames are not looked at.
const NEAR: Duration = Duration::from_secs(3);

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
    /// Of each leg that is open, the parameter sets of each track: a camera that comes back may have others.
    parameters: Vec<(LegKey, Vec<Bytes>)>,
    /// The first video track, or the first track where there is none.
    watched: usize,
    pace: Pace,
    /// Of the watched track, where recordings can be had.
    splice: Option<Splice<Frame>>,
    held_bytes: usize,
    /// Handovers without proof, as last told.
    unproven: u64,
    recordings: bool,
    /// Where frames are noted for checkpoints.
    ledger: Option<Arc<Ledger>>,
    /// Frames taken before this, since 1970, were there before this life of the worker.
    born: Option<Duration>,
    /// Packets of legs are thrown away: a recording has to come near first.
    parked: bool,
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
    pub(crate) fn new(
        started: Instant,
        tracks: Vec<Track>,
        rtp_packets: bool,
        recordings: bool,
        ledger: Option<Arc<Ledger>>,
    ) -> Self {
        let of_stitch = |track: &Track| TrackConfig { codec: track.codec, clock_rate: track.clock_rate };
        let stitch = Stitch::new(tracks.iter().map(of_stitch).collect(), StitchConfig::default());
        let clocks = tracks.iter().map(|track| WallClock::new(track.clock_rate)).collect();
        let watched = tracks.iter().position(|track| track.media == "video").unwrap_or(0);
        let needed = |track: &&Track| ledger.is_some() || recordings && track.codec != Codec::Other;
        let splice = tracks.get(watched).filter(needed);
        let splice = splice.map(|track| Splice::new(watched, track.clock_rate));
        Self {
            started,
            tracks,
            rtp_packets,
            stitch,
            unread: Duration::ZERO,
            stitch_now: Duration::ZERO,
            clocks,
            parameters: Vec::new(),
            watched,
            pace: Pace::default(),
            splice,
            held_bytes: 0,
            unproven: 0,
            recordings,
            ledger,
            born: None,
            parked: false,
            out: VecDeque::new(),
            out_bytes: 0,
            covered: Vec::new(),
            watched_frames: 0,
        }
    }

    pub(crate) fn tracks(&self) -> &[Track] {
        &self.tracks
    }

    /// `described` are the stream's tracks as this leg's server has them.
    pub(crate) fn open_leg(&mut self, now: Duration, described: &[Track]) -> LegKey {
        let now = self.stitch_time(now);
        let leg = self.stitch.open_leg(now);
        self.parameters.push((leg, described.iter().map(|track| track.parameter_sets.clone()).collect()));
        leg
    }

    pub(crate) fn push(&mut self, now: Duration, leg: LegKey, item: LegItem) {
        if self.parked {
            if matches!(item, LegItem::Rtp { .. }) && self.covered.last() != Some(&leg) {
                // Nothing is joined here: any leg will do.
                self.covered.push(leg);
            }
            return;
        }
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
        // What a closed leg brought may still wait in the stitch, and recordings want the last one's.
        if let Some(at) =
            self.parameters.iter().position(|(of, _)| *of == leg).filter(|_| self.parameters.len() > LEGS_REMEMBERED)
        {
            self.parameters.remove(at);
        }
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

    /// Media time that no frame shows since the measuring began, and the frame interval before.
    pub(crate) fn missing(&self) -> (Duration, Duration) {
        self.pace.missing()
    }

    /// A frame of the watched track is handed over.
    fn show(&mut self, time: i64) {
        let clock = i128::from(self.tracks.get(self.watched).map_or(1, |track| track.clock_rate.max(1)));
        self.watched_frames += 1;
        self.pace.shows((i128::from(time) * 1_000_000 / clock) as i64);
        self.pace.frame(self.started.elapsed());
    }

    /// None ever falls: a gap counts as a loss once no recording fills it, and a frame once it goes out.
    pub(crate) fn counters(&self) -> StitchCounters {
        let counted = self.stitch.counters();
        let of_splice = |figure: fn(&Splice<Frame>) -> u64| self.splice.as_ref().map_or(0, figure);
        let replayed = of_splice(|splice| splice.replayed);
        let undecided = self.splice.as_ref().map(Splice::undecided).unwrap_or_default();
        let dropped = of_splice(|splice| splice.given_before) + undecided.frames;
        let repaired_packets = of_splice(|splice| splice.repaired_packets);
        StitchCounters {
            frames: (counted.frames + replayed).saturating_sub(dropped),
            handovers: counted.handovers,
            unproven_handovers: self.unproven,
            lost_packets: counted.lost_packets.saturating_sub(repaired_packets + undecided.packets),
            duplicates_dropped: counted.duplicates_dropped,
            replayed,
        }
    }

    /// A switch is undecided a little before the stitch counts it, so the figure is kept.
    fn note_unproven(&mut self) {
        let made_up_for = |splice: &Splice<Frame>| splice.repaired_switches + splice.undecided().switches;
        let made_up_for = self.splice.as_ref().map_or(0, made_up_for);
        let counted = self.stitch.counters().unproven_handovers;
        self.unproven = self.unproven.max(counted.saturating_sub(made_up_for));
    }

    fn collect(&mut self) {
        while let Some(output) = self.stitch.poll() {
            match output {
                Output::Unit(unit) => self.unit(&unit),
                Output::Discontinuity(found) => {
                    let found = Discontinuity::from(found);
                    match self.splice.as_mut().filter(|_| found.track == self.watched) {
                        Some(splice) => splice.gap(found),
                        None => self.out.push_back(Item::Discontinuity(found)),
                    }
                }
                Output::Covered { leg, lossless } => {
                    tracing::debug!(?leg, lossless, "a leg has taken over");
                    self.covered.push(leg);
                }
            }
        }
        self.hand_over();
    }

    fn unit(&mut self, unit: &AccessUnit) {
        let index = unit.track.0;
        let (Some(track), Some(clock)) = (self.tracks.get(index), self.clocks.get_mut(index)) else { return };
        let mut none = Bytes::new();
        let sets = self.parameters.iter_mut().find(|(leg, _)| *leg == unit.leg);
        let sets = sets.and_then(|(_, sets)| sets.get_mut(index)).unwrap_or(&mut none);
        let now = self.started.elapsed();
        let own = unit.packets.first().map_or(0, |packet| packet.timestamp);
        let (data, parameter_sets) = frame::data(&unit.packets, unit.keyframe, track.codec, sets, self.rtp_packets);
        let frame = Frame {
            track: index,
            codec: track.codec,
            rtp_time: unit.rtp_time,
            wall: clock.of_frame(unit.leg, own, unit.rtp_time),
            keyframe: unit.keyframe,
            data,
            parameter_sets,
            received: self.started + (unit.received + self.unread).min(now),
            recorded: false,
            decode_only: false,
            replayed: false,
            entry: None,
            packets: self.rtp_packets.then(|| unit.packets.clone()),
        };
        if index != self.watched {
            return self.out(frame);
        }
        let hash = if self.splice.is_some() { unit.content_hash(track.codec) } else { 0 };
        let Some(splice) = &mut self.splice else {
            self.show(unit.rtp_time);
            return self.out(frame);
        };
        if splice.is_filling() {
            self.held_bytes += frame.data.len();
        }
        splice.live(Live { hash, time: unit.rtp_time, wall: wall_now(), frame });
        if splice.held() > MOST_HELD || self.held_bytes > MOST_HELD_BYTES {
            tracing::warn!("too many live frames wait for the recording; they go on without it");
            splice.abandon();
        }
    }

    fn out(&mut self, frame: Frame) {
        self.out_bytes += frame.data.len();
        self.out.push_back(Item::Frame(frame));
    }

    /// Whether an earlier life may have had a frame of this time.
    fn may_be_known(&self, wall: Duration) -> bool {
        self.born.is_some_and(|born| wall < born + CLOCKS_APART)
    }

    /// What the splice has for the application.
    fn hand_over(&mut self) {
        self.note_unproven();
        while let Some(out) = self.splice.as_mut().and_then(Splice::poll) {
            let frame = match out {
                Out::Live { known, frame } => Frame {
                    rtp_time: known.time,
                    replayed: self.may_be_known(known.wall),
                    entry: self.note(known),
                    ..frame
                },
                Out::Recorded { known, decode_only, frame } => Frame {
                    rtp_time: known.time,
                    wall: UNIX_EPOCH.checked_add(known.wall),
                    decode_only,
                    replayed: self.may_be_known(known.wall),
                    entry: if decode_only { None } else { self.note(known) },
                    ..frame
                },
                Out::Gap(gap) => {
                    self.out.push_back(Item::Discontinuity(gap));
                    continue;
                }
            };
            if !frame.decode_only {
                self.show(frame.rtp_time);
            }
            self.out(frame);
        }
        if let Some(splice) = self.splice.as_ref().filter(|splice| !splice.is_filling() || self.parked) {
            if !splice.is_filling() {
                self.held_bytes = 0;
            }
            self.parked = self.parked && splice.need().is_some() && splice.backlog(wall_now()) > NEAR;
        }
    }

    fn note(&self, known: Known) -> Option<Entry> {
        self.ledger.as_ref().map(|ledger| ledger.note(known))
    }

    /// What is to be read of a recording.
    pub(crate) fn need(&self) -> Option<Need> {
        self.splice.as_ref()?.need()
    }

    /// For the recording's reader; `None` when there is nothing to be had.
    pub(crate) fn wanted(&self) -> Option<playback::Wanted> {
        let track = self.tracks.get(self.watched).filter(|track| self.recordings && track.codec != Codec::Other)?;
        Some(playback::Wanted { codec: track.codec, clock_rate: track.clock_rate, cut: self.rtp_packets })
    }

    /// Goes on after these frames, of an earlier life: a recording gives what came since, then legs are looked at.
    pub(crate) fn resume(&mut self, tail: Vec<Known>) {
        if let Some(splice) = &mut self.splice {
            splice.resume(tail);
            self.parked = true;
            self.born = Some(wall_now());
        }
    }

    /// No leg delivers.
    pub(crate) fn lost_legs(&mut self) {
        if let Some(splice) = &mut self.splice {
            splice.lost_legs();
        }
    }

    pub(crate) fn begin_take(&mut self, after_hole: bool) {
        if let Some(splice) = &mut self.splice {
            splice.begin_take(after_hole);
        }
    }

    /// The next frame of the recording.
    pub(crate) fn recorded(&mut self, unit: playback::Unit) {
        let (Some(splice), Some(track)) = (&mut self.splice, self.tracks.get(self.watched)) else { return };
        let Recorded { hash, ticks, timed, keyframe, wall, frame: packets } = unit;
        // A recording has its parameter sets in it; where not, those that the camera has now are the best guess.
        let mut sets = self.parameters.last().and_then(|(_, sets)| sets.get(self.watched)).cloned().unwrap_or_default();
        let (data, parameter_sets) = frame::data(&packets, keyframe, track.codec, &mut sets, self.rtp_packets);
        let frame = Frame {
            track: self.watched,
            codec: track.codec,
            rtp_time: 0,
            wall: None,
            keyframe,
            data,
            parameter_sets,
            received: Instant::now(),
            recorded: true,
            decode_only: false,
            replayed: false,
            entry: None,
            packets: self.rtp_packets.then(|| Arc::new(packets)),
        };
        splice.recorded(Recorded { hash, ticks, timed, keyframe, wall, frame });
        self.hand_over();
    }

    pub(crate) fn end_take(&mut self) -> TakeEnd {
        let end = self.splice.as_mut().map(Splice::end_take);
        self.hand_over();
        end.unwrap_or(TakeEnd { anchored: false, frames: 0, until: None })
    }

    /// The recording will not give what is missing.
    pub(crate) fn abandon(&mut self) {
        if let Some(splice) = &mut self.splice {
            splice.abandon();
        }
        self.hand_over();
    }

    /// Live frames wait for the recording, or are not looked at until it is near.
    pub(crate) fn waits_for_recording(&self) -> bool {
        self.parked || self.splice.as_ref().is_some_and(|splice| splice.held() > 0)
    }

    pub(crate) fn is_filling(&self) -> bool {
        self.splice.as_ref().is_some_and(Splice::is_filling)
    }

    /// How far the application is behind the camera, while frames come from a recording.
    pub(crate) fn backlog(&self) -> Duration {
        self.splice.as_ref().map_or(Duration::ZERO, |splice| splice.backlog(wall_now()))
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
        let mut assembly = Assembly::new(Instant::now(), vec![track], false, false, None);
        let old = assembly.open_leg(ms(0), &[]);
        for n in 0..25_u16 {
            let payload = Bytes::from(vec![0x65, 0x88, n as u8]);
            let timestamp = u32::from(n) * 3_600;
            let item = LegItem::Rtp { track: 0, sequence: n, timestamp, marker: true, payload };
            assembly.push(ms(40 * u64::from(n)), old, item);
        }
        let new = assembly.open_leg(ms(1_000), &[]);
        (assembly, new)
    }

    #[test]
    fn what_a_recording_may_still_fill_does_not_count_as_lost() {
        let (two, _) = two_legs();
        let mut assembly = Assembly::new(Instant::now(), two.tracks.clone(), false, true, None);
        let leg = assembly.open_leg(ms(0), &[]);
        for n in (0..25_u16).chain(35..60) {
            let payload = Bytes::from(vec![0x65, 0x88, n as u8]);
            let item = LegItem::Rtp { track: 0, sequence: n, timestamp: u32::from(n) * 3_600, marker: true, payload };
            assembly.push(ms(40 * u64::from(n)), leg, item);
        }
        (0..30).for_each(|tick| assembly.tick(ms(2_400 + 100 * tick)));
        assert!(assembly.is_filling());
        let waiting = assembly.counters();
        assert_eq!((waiting.lost_packets, waiting.frames), (0, 25));
        assembly.abandon();
        let told = assembly.counters();
        assert_eq!((told.lost_packets, told.frames), (10, 50));
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
