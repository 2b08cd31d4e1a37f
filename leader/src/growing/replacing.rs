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
    ending: Option<(u64, InstanceId, Mono)>,
    /// A cloud that keeps one instance still launches others: these pauses hold up no growth.
    pause_until: Mono,
    failures: u32,
}

impl Replacing {
    /// These, and no others; `size` is what is wanted now.
    pub(super) fn set(&mut self, instances: BTreeSet<InstanceId>, size: u32) {
        self.kept.retain(|kept| instances.contains(kept));
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
        (self.ending, self.pause_until, self.failures) = (None, now, 0);
        self.kept.clear();
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
        self.instances.keys().filter(there).find(due)
    }

    pub(super) fn asked(&mut self, now: Mono, number: u64, instance: InstanceId) {
        self.ending = Some((number, instance, now));
    }

    /// `None`: it is no answer to what was asked here. An error is for people.
    pub(super) fn answered(
        &mut self,
        now: Mono,
        number: u64,
        answer: &Result<CloudAnswer, CloudError>,
    ) -> Option<Result<(), String>> {
        let (_, instance, _) = self.ending.take_if(|(asked, ..)| *asked == number)?;
        Some(match answer {
            Ok(_) => {
                self.kept.remove(&instance);
                self.ended.insert(instance, now);
                self.failures = 0;
                Ok(())
            }
            Err(error) => Err(self.failed(now, instance, error)),
        })
    }

    /// What to tell people when the cloud has not answered for too long.
    pub(super) fn give_up_waiting(&mut self, now: Mono) -> Option<String> {
        let (_, instance, _) = self.ending.take_if(|(.., asked)| now.since(*asked) > ANSWER_WITHIN)?;
        Some(self.failed(now, instance, &CloudError::TimedOut))
    }

    fn failed(&mut self, now: Mono, instance: InstanceId, error: &CloudError) -> String {
        self.pause_until = now + pause_after(error, self.failures);
        self.failures = self.failures.saturating_add(1);
        let told = format!("{instance} is not ended: {error}");
        if matches!(error, CloudError::Refused(_)) {
            self.kept.insert(instance);
        }
        told
    }
}
