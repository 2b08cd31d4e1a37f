//! How long launches take: measured from the cloud's own word of an instance's age to its node's first service.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use mtxfleet_wire::{InstanceId, Mono};

use super::Seat;
use crate::cloud::Group;

/// The lead is the median of so many: one slow start is no rule.
const REMEMBERED: usize = 5;

/// Phases of a launch, each from its beginning; `None`: not yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchTimes {
    pub instance: InstanceId,
    /// Its agent spoke.
    pub joined: Option<Duration>,
    /// Its MediaMTX answered, and it is in service.
    pub serving: Option<Duration>,
    pub first_reader: Option<Duration>,
}

#[derive(Debug)]
struct Launch {
    began: Mono,
    /// It was seen before it served: the moment at which it did is known.
    watched: bool,
    times: LaunchTimes,
}

#[derive(Debug, Default)]
pub(super) struct Launches {
    known: BTreeMap<InstanceId, Launch>,
    leads: VecDeque<Duration>,
    news: Vec<LaunchTimes>,
}

impl Launches {
    /// Takes in new instances, and forgets those that are gone.
    pub(super) fn listed(&mut self, now: Mono, group: &Group) {
        self.known.retain(|id, _| group.instance(id).is_some());
        for instance in &group.instances {
            // A cloud that tells no age is believed from the first look on.
            let began = Mono(now.0.saturating_sub(instance.age.unwrap_or_default()));
            let times = LaunchTimes { instance: instance.id.clone(), joined: None, serving: None, first_reader: None };
            self.known.entry(instance.id.clone()).or_insert(Launch { began, watched: false, times });
        }
    }

    pub(super) fn look(&mut self, now: Mono, group: &Group, listed: Mono, seats: &[Seat]) {
        self.news.retain(|old| self.known.contains_key(&old.instance));
        for (id, launch) in &mut self.known {
            let seat = seats.iter().find(|seat| seat.instance.as_ref() == Some(id));
            let serves = seat.is_some_and(|seat| seat.serves);
            if !launch.watched {
                // An instance that serves when it is first seen may have done so for days.
                launch.watched = !serves && launch.times.serving.is_none();
                if !launch.watched {
                    continue;
                }
            }
            let since = now.since(launch.began);
            let before = launch.times.clone();
            if seat.is_some() {
                launch.times.joined.get_or_insert(since);
            }
            if serves && launch.times.serving.is_none() {
                launch.times.serving = Some(since);
                let told = group.instance(id).is_some_and(|instance| instance.age.is_some()) && listed <= now;
                if told {
                    self.leads.push_back(since);
                    if self.leads.len() > REMEMBERED {
                        self.leads.pop_front();
                    }
                }
            }
            if seat.is_some_and(|seat| seat.serves && seat.has_readers) {
                launch.times.first_reader.get_or_insert(since);
            }
            if launch.times != before {
                self.news.retain(|old| old.instance != *id);
                self.news.push(launch.times.clone());
            }
        }
    }

    pub(super) fn take_news(&mut self) -> Vec<LaunchTimes> {
        std::mem::take(&mut self.news)
    }

    pub(super) fn lead(&self) -> Option<Duration> {
        let mut leads: Vec<Duration> = self.leads.iter().copied().collect();
        leads.sort();
        leads.get(leads.len() / 2).copied()
    }

    /// Since its launch; `None` for one that is not listed.
    pub(super) fn age(&self, now: Mono, instance: &InstanceId) -> Option<Duration> {
        self.known.get(instance).map(|launch| now.since(launch.began))
    }
}
