//! Instances that others are to take the place of: the cloud is told to end them, one at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mtxfleet_wire::{InstanceId, Mono};

use super::{ANSWER_WITHIN, pause_after};
use crate::cloud::{CloudAnswer, CloudError, Group, InstanceState};

/// An instance that was ended is not ended again before.
const END_AGAIN: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Replacing {
    /// With the size that was wanted when each was found out.
    instances: BTreeMap<InstanceId, u32>,
    ended: BTreeMap<InstanceId, Mono>,
    /// Of those to be replaced, the ones that the cloud refused to end.
    kept: BTreeSet<InstanceId>,
    /// Those that the cloud did not end when it was asked, for whatever reason: others have their turn first.
    failed: BTreeMap<InstanceId, Mono>,
    ending: Option<(u64, InstanceId, Mono)>,
    /// A cloud that keeps one instance still launches others: these pauses hold up no growth.
    pause_until: Mono,
    failures: u32,
    problem: Option<String>,
}

impl Replacing {
    /// These, and no others; `size` is what is wanted now.
    pub(super) fn set(&mut self, instances: BTreeSet<InstanceId>, size: u32) {
        self.kept.retain(|kept| instances.contains(kept));
        self.failed.retain(|failed, _| instances.contains(failed));
        if instances.is_empty() {
            self.problem = None;
        }
        let before = std::mem::take(&mut self.instances);
        let with_size = |id: InstanceId| (before.get(&id).copied().unwrap_or(size), id);
        self.instances = instances.into_iter().map(with_size).map(|(size, id)| (id, size)).collect();
    }

    pub(super) fn contains(&self, instance: &InstanceId) -> bool {
        self.instances.contains_key(instance)
    }

    /// The size that was wanted when this one was found out.
    pub(super) fn size_for(&self, instance: &InstanceId) -> Option<u32> {
        self.instances.get(instance).copied()
    }

    /// One that is to be replaced holds the place of the one that comes after it; nothing comes after one that is kept.
    pub(super) fn places_held(&self, group: &Group) -> u32 {
        let held = |id: &InstanceId| self.contains(id) && !self.kept.contains(id);
        group.present().filter(|instance| held(&instance.id)).count() as u32
    }

    /// What the cloud refused to the last term it may grant to this one.
    pub(super) fn begin_term(&mut self, now: Mono) {
        (self.ending, self.pause_until, self.failures, self.problem) = (None, now, 0, None);
        self.kept.clear();
        self.failed.clear();
    }

    pub(super) fn listed(&mut self, group: &Group) {
        self.ended.retain(|id, _| group.instance(id).is_some());
    }

    /// The next one to be ended: not before the last one's end shows in the listing, made at `listed`.
    pub(super) fn due(&self, now: Mono, group: &Group, listed: Mono) -> Option<&InstanceId> {
        if self.ending.is_some() || now < self.pause_until || self.ended.values().any(|ended| *ended > listed) {
            return None;
        }
        let due = |id: &&InstanceId| self.ended.get(*id).is_none_or(|at| now.since(*at) > END_AGAIN);
        let there = |id: &&InstanceId| group.instance(id).is_some_and(|i| i.state != InstanceState::Ending);
        self.instances.keys().filter(there).filter(due).min_by_key(|id| self.failed.get(*id))
    }

    pub(super) fn asked(&mut self, now: Mono, number: u64, instance: InstanceId) {
        self.ending = Some((number, instance, now));
    }

    /// Whether it is the answer to what was asked here.
    pub(super) fn answered(&mut self, now: Mono, number: u64, answer: &Result<CloudAnswer, CloudError>) -> bool {
        let Some((_, instance, _)) = self.ending.take_if(|(asked, ..)| *asked == number) else { return false };
        match answer {
            Ok(_) => {
                self.kept.remove(&instance);
                self.failed.remove(&instance);
                self.ended.insert(instance, now);
                (self.failures, self.problem) = (0, None);
            }
            Err(error) => self.not_ended(now, instance, error),
        }
        true
    }

    /// Whether the cloud has not answered for too long. It may have done as it was told.
    pub(super) fn give_up_waiting(&mut self, now: Mono) -> bool {
        let late = self.ending.take_if(|(.., asked)| now.since(*asked) > ANSWER_WITHIN);
        let is_late = late.is_some();
        if let Some((_, instance, _)) = late {
            self.not_ended(now, instance, &CloudError::TimedOut);
        }
        is_late
    }

    /// Why the cloud did not end what it was asked to end last, for people.
    pub(super) fn problem(&self) -> Option<&String> {
        self.problem.as_ref()
    }

    fn not_ended(&mut self, now: Mono, instance: InstanceId, error: &CloudError) {
        self.pause_until = now + pause_after(error, self.failures);
        self.failures = self.failures.saturating_add(1);
        self.problem = Some(format!("{instance} is not ended: {error}"));
        if matches!(error, CloudError::Refused(_)) {
            self.kept.insert(instance.clone());
        }
        self.failed.insert(instance, now);
    }
}
