//! The machine as its owner sees it: legs come and go, packets go in, units come out.

use std::collections::VecDeque;
use std::time::Duration;

use crate::track::Track;
use crate::types::{Codec, Counters, DiscontinuityKind, LegKey, Output, RtpPacket, StitchConfig, TrackConfig, TrackId};

/// One stream out of several legs. See the crate's docs.
///
/// Everything is bounded by its [`StitchConfig`], times the number of open legs; the owner polls until `None` after each
/// call that takes `now`, or the outputs pile up. `now` is a monotonic clock from any fixed origin.
#[derive(Debug)]
pub struct Stitch {
    tracks: Vec<Track>,
    configs: Vec<TrackConfig>,
    legs: Vec<Leg>,
    /// Legs that are not the first and were not said to be covered.
    uncovered: usize,
    next_leg: u32,
    outputs: VecDeque<Output>,
    counters: Counters,
}

#[derive(Debug)]
struct Leg {
    key: LegKey,
    covered: bool,
}

/// Where tracks put what they have to say.
#[derive(Debug)]
pub(crate) struct Sink<'a> {
    pub(crate) outputs: &'a mut VecDeque<Output>,
    pub(crate) counters: &'a mut Counters,
}

impl Stitch {
    /// `tracks` in the order of [`TrackId`]. All legs must have these tracks.
    pub fn new(tracks: Vec<TrackConfig>, config: StitchConfig) -> Self {
        Self {
            tracks: tracks
                .iter()
                .enumerate()
                .map(|(index, track)| Track::new(TrackId(index), *track, config))
                .collect(),
            configs: tracks,
            legs: Vec::new(),
            uncovered: 0,
            next_leg: 0,
            outputs: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// A new connection, to be called when it starts to play. The first unit that any leg brings on a track defines that
    /// track's output space: the first leg's, as a rule.
    pub fn open_leg(&mut self, now: Duration) -> LegKey {
        let key = LegKey(self.next_leg);
        let first = self.next_leg == 0;
        self.next_leg += 1;
        self.legs.push(Leg { key, covered: first });
        self.uncovered += usize::from(!first);
        for track in &mut self.tracks {
            track.open_leg(now, key);
        }
        key
    }

    /// The next packet of a leg, in the order in which the connection gave it.
    #[inline]
    pub fn push(&mut self, now: Duration, leg: LegKey, track: TrackId, packet: RtpPacket) {
        let mut sink = Sink { outputs: &mut self.outputs, counters: &mut self.counters };
        match self.tracks.get_mut(track.0) {
            Some(track) => track.push(now, leg, packet, &mut sink),
            None => sink.counters.stray_packets += 1,
        }
        if self.uncovered > 0 {
            self.say_covered(now);
        }
    }

    /// The connection ended, or was closed by us. What it brought before stays of use; an unknown key does nothing.
    pub fn close_leg(&mut self, now: Duration, leg: LegKey) {
        self.legs.retain(|known| known.key != leg);
        self.uncovered = self.legs.iter().filter(|leg| !leg.covered).count();
        let mut sink = Sink { outputs: &mut self.outputs, counters: &mut self.counters };
        for track in &mut self.tracks {
            track.close_leg(now, leg, &mut sink);
        }
        self.say_covered(now);
    }

    /// Applies the time rules: call some ten times a second, whether packets come or not.
    pub fn tick(&mut self, now: Duration) {
        let mut sink = Sink { outputs: &mut self.outputs, counters: &mut self.counters };
        for track in &mut self.tracks {
            track.advance(now, &mut sink);
        }
        self.say_covered(now);
    }

    /// What comes next, until `None`.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Codec of a track, as [`AccessUnit::annex_b`](crate::AccessUnit::annex_b) wants it.
    pub fn codec(&self, track: TrackId) -> Option<Codec> {
        self.configs.get(track.0).map(|track| track.codec)
    }

    fn say_covered(&mut self, now: Duration) {
        for leg in self.legs.iter_mut().filter(|leg| !leg.covered) {
            if !self.tracks.iter().all(|track| track.covered_by(leg.key, now)) {
                continue;
            }
            let entries = || self.tracks.iter().filter_map(|track| track.entry(leg.key));
            let lossless = entries().next().is_none();
            let unproven = entries().any(|entry| entry == DiscontinuityKind::UnprovenSwitch);
            leg.covered = true;
            self.uncovered -= 1;
            self.counters.handovers += 1;
            self.counters.unproven_handovers += u64::from(unproven);
            self.outputs.push_back(Output::Covered { leg: leg.key, lossless });
        }
    }
}
