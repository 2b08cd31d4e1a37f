//! What the session tells: the fleet of its moves, and the application of its state.

use std::time::Duration;

use mtxfleet_wire::{DrainId, LegId, NodeId, WorkerReport};

use super::Session;
use crate::Status;
use crate::assembly::Assembly;
use crate::handover::State;

/// A report waits this long for the first frame after the handover, whose lateness belongs to it.
const FRAME_AFTER_MOVE: Duration = Duration::from_secs(1);

/// The same after the camera was away; keyframes may be this far apart.
const FRAME_AFTER_RETURN: Duration = Duration::from_secs(20);

/// A move that is done but for its first frame.
pub(super) struct Moved {
    drain: DrainId,
    leg: LegId,
    new_leg: LegId,
    how: How,
    at: Duration,
    frames: u64,
}

pub(super) enum How {
    MakeBeforeBreak {
        to: Option<NodeId>,
    },
    /// The leg ended with its camera's connection.
    CameraCameBack,
}

impl Session {
    pub(super) fn has_moved(&mut self, drain: DrainId, leg: LegId, new_leg: LegId, how: How) {
        let frames = self.assembly.as_ref().map_or(0, |assembly| assembly.watched_frames);
        self.moved = Some(Moved { drain, leg, new_leg, how, at: self.now(), frames });
    }

    pub(super) fn report_move(&mut self) {
        let (now, frames) = (self.now(), self.assembly.as_ref().map_or(0, |assembly| assembly.watched_frames));
        let filling = self.assembly.as_ref().is_some_and(Assembly::is_filling);
        let done = |moved: &mut Moved| {
            let (longest, filling) = match moved.how {
                How::MakeBeforeBreak { .. } => (FRAME_AFTER_MOVE, false),
                // It goes on with a keyframe, and a recording may have what came before that.
                How::CameraCameBack => (FRAME_AFTER_RETURN, filling),
            };
            (frames > moved.frames && !filling) || now.saturating_sub(moved.at) >= longest
        };
        let Some(Moved { drain, leg, new_leg, how, .. }) = self.moved.take_if(done) else { return };
        let Some(assembly) = &mut self.assembly else { return };
        let (missing, interval) = assembly.missing();
        let (pause, counters) = (assembly.extra_pause(), assembly.counters());
        self.last_pause = Some(pause);
        let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        let worker = self.settings.worker.clone();
        self.report(match how {
            How::MakeBeforeBreak { to } => {
                tracing::info!(%drain, %leg, %new_leg, to = to.as_ref().map(NodeId::as_str), ?pause, "moved");
                WorkerReport::Moved { drain, worker, leg, new_leg, to, extra_pause_ms: pause_ms, counters }
            }
            How::CameraCameBack => {
                tracing::info!(%drain, %leg, %new_leg, ?missing, "the camera publishes elsewhere now");
                let frame_interval_us = u64::try_from(interval.as_micros()).unwrap_or(0);
                let missing_ms = u64::try_from(missing.as_millis()).unwrap_or(u64::MAX);
                WorkerReport::Returned { drain, worker, leg, new_leg, missing_ms, frame_interval_us, counters }
            }
        });
    }

    pub(super) fn report(&self, report: WorkerReport) {
        if self.reports.try_send(report).is_err() {
            tracing::warn!("a report is dropped: too many wait");
        }
    }

    pub(super) fn publish(&mut self) {
        let (now, state) = (self.now(), self.handover.state());
        let delivers = matches!(state, State::Live | State::Moving);
        self.away_since = if delivers { None } else { self.away_since.or(Some(now)) };
        let counters = self.assembly.as_ref().map(Assembly::counters).unwrap_or_default();
        let replay = self.replay.status(self.assembly.as_ref());
        let last_pause = self.last_pause;
        let (leg, legs) = (self.handover.current(), self.handover.legs());
        self.status.send_if_modified(|old| {
            if old.state == state
                && old.counters == counters
                && old.leg.as_ref() == leg
                && old.legs == legs
                && old.replay == replay
                && old.last_pause == last_pause
            {
                return false;
            }
            *old = Status { state, leg: leg.cloned(), legs, counters, replay, last_pause };
            true
        });
    }
}
