//! What a drain knows of an ingestion node's cameras, and what it says of them.

use std::time::Duration;

use mtxfleet_wire::{CameraEnd, CameraOutcome, CameraSource, LegEnd, LegId, Mono, StreamName, UnixMillis};
use serde::{Deserialize, Serialize};

use crate::drain::Drain;
use crate::observation::{IngestionSide, ObservedLeg};

/// What a worker needs to go back to a distribution node, which may wait for a keyframe.
const BRIDGES_GO_BACK: Duration = Duration::from_secs(10);

/// How far a camera has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CameraProgress {
    pub(crate) source: CameraSource,
    pub(crate) end: CameraEnd,
    /// Pulled: nobody reads it here any more, and MediaMTX may let go of it.
    pub(crate) let_go: bool,
    /// Pushed: when it was disconnected.
    pub(crate) disconnected: Option<UnixMillis>,
    pub(crate) away_ms: Option<u64>,
    /// What the worker lacks that lacks most, and the time between two of its frames.
    pub(crate) worker_misses_ms: Option<u64>,
    pub(crate) frame_interval_us: u64,
    /// Since when another node has it.
    #[serde(skip)]
    pub(crate) owner_seen: Option<Mono>,
    /// Pulled: since when it delivers nothing.
    #[serde(skip)]
    pub(crate) silent_since: Option<Mono>,
    /// Pushed: since when this node does not claim it any more.
    #[serde(skip)]
    pub(crate) withdrawn: Option<Mono>,
    /// Pushed: as `disconnected`; after a restart of the agent, the restart.
    #[serde(skip)]
    pub(crate) disconnected_at: Option<Mono>,
}

impl CameraProgress {
    pub(crate) const fn new(source: CameraSource) -> Self {
        Self {
            source,
            end: CameraEnd::Here,
            let_go: false,
            disconnected: None,
            away_ms: None,
            worker_misses_ms: None,
            frame_interval_us: 0,
            owner_seen: None,
            silent_since: None,
            withdrawn: None,
            disconnected_at: None,
        }
    }

    /// Without what a restarted agent finds again by itself.
    pub(crate) fn lasting(&self) -> Self {
        Self { owner_seen: None, silent_since: None, withdrawn: None, disconnected_at: None, ..self.clone() }
    }

    fn outcome(&self, stream: &StreamName) -> CameraOutcome {
        let frames = |ms: u64| (ms * 1000).checked_div(self.frame_interval_us);
        // What is missing is at first what the camera did not send.
        let not_sent = self.worker_misses_ms.and_then(|ms| frames(ms.min(self.away_ms?)));
        let missed = self.worker_misses_ms.and_then(|ms| frames(ms.saturating_sub(self.away_ms?)));
        CameraOutcome {
            stream: stream.clone(),
            source: self.source,
            how: self.end.clone(),
            away_ms: self.away_ms,
            frames_not_sent: not_sent,
            frames_missed: missed,
        }
    }
}

impl Drain {
    /// Streams that MediaMTX here must not have any more, though they may be configured.
    #[must_use]
    pub fn let_go(&self) -> Vec<StreamName> {
        self.cameras.iter().filter(|(_, camera)| camera.let_go).map(|(stream, _)| stream.clone()).collect()
    }

    /// Whether MediaMTX here may let go of a camera's stream: nobody who can be told reads it here.
    #[must_use]
    pub fn may_let_go(&self, stream: &StreamName) -> bool {
        self.cameras.get(stream).is_some_and(|camera| camera.let_go)
    }

    /// Whether this node still claims the stream as its own: not once another has it, nor from a moment before its
    /// camera is disconnected. So the resolvers of the distribution nodes send nobody here any more.
    #[must_use]
    pub fn claims(&self, stream: &StreamName) -> bool {
        let withdrawn = |camera: &CameraProgress| {
            camera.owner_seen.is_some() || camera.withdrawn.is_some() || camera.let_go || camera.disconnected.is_some()
        };
        !self.cameras.get(stream).is_some_and(withdrawn)
    }

    /// Every camera that this drain is about.
    pub fn cameras(&self) -> impl Iterator<Item = &StreamName> {
        self.cameras.keys()
    }

    pub(crate) fn camera_outcomes(&self) -> Vec<CameraOutcome> {
        self.cameras.iter().map(|(stream, camera)| camera.outcome(stream)).collect()
    }

    /// Workers that may miss what is only recorded here: those that had to be disconnected.
    pub(crate) fn cut_workers(&self) -> u32 {
        self.legs.values().filter(|leg| leg.end == LegEnd::Disconnected).count() as u32
    }

    pub(crate) fn is_bridge(&self, leg: &LegId) -> bool {
        self.legs.get(leg).is_some_and(|known| known.bridge)
    }

    /// Workers that still bridge go back after the deadline too: nobody else would tell them.
    pub(crate) fn grace_for_bridges(&self) -> Duration {
        let bridges = self.legs.values().any(|leg| leg.bridge && leg.end == LegEnd::Here);
        if bridges { BRIDGES_GO_BACK } else { Duration::ZERO }
    }

    /// The legs that this drain is about, wherever they read: here, at nodes that pull from here, and those of workers
    /// that bridge the change of their camera's owner.
    pub(crate) fn legs_in_question(&self, here: &[ObservedLeg], side: Option<&IngestionSide>) -> Vec<ObservedLeg> {
        let mut legs = here.to_vec();
        let Some(side) = side else { return legs };
        legs.extend(side.legs_elsewhere.iter().cloned());
        let bridges = side.legs_at_owners.iter().filter(|leg| {
            let left_for_it = self.legs.iter().any(|(id, known)| {
                !known.bridge && known.asked_once && known.at.is_some() && *id != leg.leg && same_reader(known, leg)
            });
            self.legs.get(&leg.leg).map_or(left_for_it, |known| known.bridge)
        });
        legs.extend(bridges.cloned());
        legs
    }

    /// Takes note of the cameras, and of whether others have them.
    pub(crate) fn note_cameras(&mut self, now: Mono, side: &IngestionSide) {
        self.ingestion = true;
        for seen in &side.cameras {
            let new = || CameraProgress::new(seen.source);
            self.cameras.entry(seen.stream.clone()).or_insert_with(new).source = seen.source;
        }
        for (stream, camera) in &mut self.cameras {
            let owner = side.owners.get(stream);
            let here = side.cameras.iter().any(|seen| seen.stream == *stream);
            match (owner, camera.source) {
                (Some(_), CameraSource::Pulled) => _ = camera.owner_seen.get_or_insert(now),
                // A camera that publishes is not elsewhere while it is here, whatever is still said.
                (Some(_), CameraSource::Pushed) if !here => _ = camera.owner_seen.get_or_insert(now),
                _ => camera.owner_seen = None,
            }
            if let (Some(owner), false) = (owner, here) {
                camera.end = CameraEnd::At(owner.node.clone());
            }
        }
    }
}

fn same_reader(known: &crate::LegProgress, leg: &ObservedLeg) -> bool {
    known.worker == leg.worker && known.stream == leg.stream
}
