//! The legs and what is said about them.

use std::collections::VecDeque;
use std::time::Duration;

use crate::assembler::{Assembler, UnitEnd};
use crate::types::{AccessUnit, Codec, Counters, LegKey, Output, RtpPacket, StitchConfig, TrackConfig, TrackId};

/// The machine. See the crate's docs.
#[derive(Debug)]
pub struct Stitch {
    tracks: Vec<TrackConfig>,
    config: StitchConfig,
    legs: Vec<(LegKey, Vec<(Assembler, UnitEnd)>)>,
    next_leg: u32,
    outputs: VecDeque<Output>,
    counters: Counters,
}

impl Stitch {
    pub fn new(tracks: Vec<TrackConfig>, config: StitchConfig) -> Self {
        Self { tracks, config, legs: Vec::new(), next_leg: 0, outputs: VecDeque::new(), counters: Counters::default() }
    }

    /// A new connection, to be called once it plays. The first leg's timestamps are output space.
    pub fn open_leg(&mut self, _now: Duration) -> LegKey {
        let key = LegKey(self.next_leg);
        self.next_leg += 1;
        let assemblers = self
            .tracks
            .iter()
            .map(|track| (Assembler::new(track.codec, self.config.max_buffered_bytes), UnitEnd::Marker))
            .collect();
        self.legs.push((key, assemblers));
        key
    }

    /// A packet of a leg. Follow with [`poll`](Self::poll) until it gives `None`.
    pub fn push(&mut self, now: Duration, leg: LegKey, track: TrackId, packet: RtpPacket) {
        let Some((key, assemblers)) = self.legs.first_mut() else { return };
        let Some((assembler, end)) = assemblers.get_mut(track.0) else { return };
        if *key != leg {
            return;
        }
        let (outputs, counters) = (&mut self.outputs, &mut self.counters);
        assembler.push(now, packet, None, end, |unit| {
            outputs.push_back(Output::Unit(AccessUnit {
                track,
                rtp_time: unit.time,
                index: counters.frames,
                keyframe: unit.keyframe,
                packets: unit.packets,
                leg,
                received: now,
                continuation: unit.continuation,
            }));
            counters.frames += 1;
        });
    }

    /// The connection ended, or was closed by us. What it brought before stays of use.
    pub fn close_leg(&mut self, _now: Duration, leg: LegKey) {
        self.legs.retain(|(key, _)| *key != leg);
    }

    /// Time rules: call some ten times a second, whether packets come or not.
    pub fn tick(&mut self, _now: Duration) {}

    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Codec of a track, for [`AccessUnit::annex_b`].
    pub fn codec(&self, track: TrackId) -> Option<Codec> {
        self.tracks.get(track.0).map(|track| track.codec)
    }
}
