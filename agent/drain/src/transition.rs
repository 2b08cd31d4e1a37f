//! From phase to phase: the one table of what may follow what, and the loop that goes through it.

use std::time::Duration;

use mtxfleet_wire::{Mono, Phase, PhaseTime};

use crate::action::Action;
use crate::blockers::Blocker;
use crate::drain::Drain;
use crate::observation::Observation;
use crate::{
    phase_1_pre_notification, phase_2_load_balancer, phase_3_camera_migration, phase_3_worker_migration,
    phase_4_viewer_draining, phase_5_cleanup,
};

/// What a phase answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Done,
    /// Not yet, and why: at least one reason.
    Wait(Vec<Blocker>),
}

impl Step {
    pub(crate) fn wait_unless_empty(blockers: Vec<Blocker>) -> Self {
        if blockers.is_empty() { Self::Done } else { Self::Wait(blockers) }
    }
}

/// What follows a phase; `None` after the last. A drain only ever goes forward.
pub(crate) const fn after(phase: Phase) -> Option<Phase> {
    match phase {
        Phase::PreNotification => Some(Phase::LoadBalancer),
        Phase::LoadBalancer => Some(Phase::WorkerMigration),
        Phase::WorkerMigration => Some(Phase::ViewerDraining),
        Phase::ViewerDraining => Some(Phase::Cleanup),
        Phase::Cleanup => None,
    }
}

/// A cancelled drain puts the node back. In cleanup nobody is left to keep, and the record may be out.
pub(crate) const fn can_be_cancelled(phase: Phase) -> bool {
    !matches!(phase, Phase::Cleanup)
}

/// How long the phase may take.
pub(crate) fn deadline(drain: &Drain, phase: Phase) -> Duration {
    let settings = &drain.settings;
    match phase {
        Phase::PreNotification => settings.notice,
        Phase::LoadBalancer => settings.balancer_deadline,
        Phase::WorkerMigration if drain.ingestion => {
            settings.camera_deadline + drain.grace_for_disconnects() + drain.grace_for_bridges()
        }
        Phase::WorkerMigration => settings.worker_deadline + drain.grace_for_disconnects(),
        Phase::ViewerDraining => settings.viewer_window + drain.grace_for_disconnects(),
        Phase::Cleanup if drain.ingestion => settings.cleanup_deadline + settings.recording_grace,
        Phase::Cleanup => settings.cleanup_deadline,
    }
}

/// Goes on as far as it can now: several phases at once where none has anything to wait for.
pub(crate) fn advance(drain: &mut Drain, seen: &Observation, actions: &mut Vec<Action>) {
    loop {
        let step = match drain.phase {
            Phase::PreNotification => phase_1_pre_notification::step(drain, seen, actions),
            Phase::LoadBalancer => phase_2_load_balancer::step(drain, seen),
            Phase::WorkerMigration => match &seen.ingestion {
                Some(side) => phase_3_camera_migration::step(drain, seen, side, actions),
                None => phase_3_worker_migration::step(drain, seen, actions),
            },
            Phase::ViewerDraining => phase_4_viewer_draining::step(drain, seen, actions),
            Phase::Cleanup => phase_5_cleanup::step(drain, seen, actions),
        };
        let spent = drain.spent_in_phase(seen.now);
        match step {
            Step::Wait(blockers) if spent < deadline(drain, drain.phase) => {
                drain.blockers = blockers;
                return;
            }
            // At its deadline a phase ends all the same, and the record says what it still waited for.
            Step::Wait(blockers) => note(drain, spent, true, blockers.iter().map(ToString::to_string).collect()),
            Step::Done => note(drain, spent, false, Vec::new()),
        }
        drain.blockers.clear();
        match after(drain.phase) {
            Some(next) => {
                enter(drain, next, seen.now);
                actions.push(Action::PhaseEntered(next));
            }
            None => {
                drain.over = true;
                actions.push(Action::Ended(drain.record(seen.wall, mtxfleet_wire::DrainOutcome::Completed)));
                return;
            }
        }
    }
}

fn enter(drain: &mut Drain, phase: Phase, now: Mono) {
    drain.phase = phase;
    drain.phase_entered = now;
    drain.spent_before = Duration::ZERO;
    drain.most_here = 0;
}

pub(crate) fn note(drain: &mut Drain, spent: Duration, timed_out: bool, waiting_for: Vec<String>) {
    drain.phases.push(PhaseTime { phase: drain.phase, seconds: spent.as_secs_f64(), timed_out, waiting_for });
}
