//! How available nodes, clusters and streams were, over a day, a week and a month: pure, on virtual time.
//!
//! What counts, seen from this agent, every [`LOOK_EVERY`]:
//!
//! | of | watched while | available while |
//! |---|---|---|
//! | a node | it is a member, has served, and did not leave by a drain | it is neither suspected nor dead, and its MediaMTX serves |
//! | a cluster | the agent runs | at least one node of the role serves |
//! | a stream | it was owned in the last month | its owner has it ready, and its bytes grow |
//!
//! Time in which this agent did not run, or was held up, was not watched: it is neither good nor bad. A node that was
//! drained is out of service by intent and not watched until it is back; nor is one that launches and never served yet.
//!
//! Seconds are counted on the monotonic clock and kept by wall time: 24 buckets of an hour and 31 of a day each.

use std::collections::BTreeMap;
use std::time::Duration;

use mtxfleet_wire::{Availability, AvailabilityLine, AvailabilityView, Mono, Role, Subject, UnixMillis};
use serde::{Deserialize, Serialize};

/// Time between two looks. An outage shorter than this may pass unseen.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A longer pause between two looks was not watched.
const WATCHED_AT_MOST: Duration = Duration::from_secs(15);
/// The view is reckoned anew after this long.
const RECKON_EVERY: Duration = Duration::from_secs(60);
/// Written to disk after this long; an agent that is killed forgets as much.
const SAVE_EVERY: Duration = Duration::from_secs(60);
/// Things that are kept. Of more, those not seen for longest are forgotten, streams before nodes.
const MAX_KEPT: usize = 4_000;

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;
const HOURS: usize = 24;
const DAYS: usize = 31;
/// Of the file. A later version is not read, and not written over until there is something new to say.
pub const VERSION: u32 = 1;

/// What is on disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub version: u32,
    pub kept: Vec<(Subject, History)>,
}

/// Seconds available and watched, by the number of the hour and of the day since 1970.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    hours: BTreeMap<u64, (u32, u32)>,
    days: BTreeMap<u64, (u32, u32)>,
    up_since: Option<UnixMillis>,
}

#[derive(Debug)]
pub struct Availabilities {
    kept: BTreeMap<Subject, History>,
    looked: Option<Mono>,
    reckoned: Option<Mono>,
    saved: Option<Mono>,
    view: std::sync::Arc<AvailabilityView>,
}

/// What is to be done after a look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Due {
    pub save: bool,
}

impl Availabilities {
    /// Goes on from what was kept; what this version cannot have written is left out.
    #[must_use]
    pub fn new(record: Option<Record>, wall: UnixMillis) -> Self {
        let record = record.filter(|record| record.version == VERSION).unwrap_or_default();
        let mut kept: BTreeMap<Subject, History> = record.kept.into_iter().take(MAX_KEPT).collect();
        for history in kept.values_mut() {
            // Nobody watched in between.
            history.up_since = None;
            history.forget(wall);
        }
        Self { kept, looked: None, reckoned: None, saved: None, view: std::sync::Arc::default() }
    }

    /// True when [`Availabilities::look`] has something to do.
    #[must_use]
    pub fn is_due(&self, now: Mono) -> bool {
        self.looked.is_none_or(|looked| now.since(looked) >= LOOK_EVERY)
    }

    /// Takes in who is available now. A stream that was known and is not in `seen` is not available.
    pub fn look(&mut self, now: Mono, wall: UnixMillis, seen: impl IntoIterator<Item = (Subject, bool)>) -> Due {
        let passed = self.looked.map(|looked| now.since(looked)).unwrap_or_default();
        let passed = if passed > WATCHED_AT_MOST { Duration::ZERO } else { passed };
        self.looked = Some(now);
        let seconds = passed.as_secs_f64().round() as u32;
        let mut gone: std::collections::BTreeSet<Subject> =
            self.kept.keys().filter(|subject| matches!(subject, Subject::Stream(_))).cloned().collect();
        for (subject, available) in seen {
            gone.remove(&subject);
            if !available && matches!(subject, Subject::Node(_)) && !self.kept.contains_key(&subject) {
                continue;
            }
            self.kept.entry(subject).or_default().add(wall, seconds, available);
        }
        for subject in gone {
            if let Some(history) = self.kept.get_mut(&subject) {
                history.add(wall, seconds, false);
            }
        }
        let reckon = self.reckoned.is_none_or(|reckoned| now.since(reckoned) >= RECKON_EVERY);
        if reckon {
            self.reckoned = Some(now);
            self.reckon(wall);
        }
        let save = self.saved.is_some_and(|saved| now.since(saved) >= SAVE_EVERY);
        if save || self.saved.is_none() {
            self.saved = Some(now);
        }
        Due { save }
    }

    /// As it was reckoned last.
    #[must_use]
    pub fn view(&self) -> std::sync::Arc<AvailabilityView> {
        std::sync::Arc::clone(&self.view)
    }

    #[must_use]
    pub fn record(&self) -> Record {
        Record { version: VERSION, kept: self.kept.iter().map(|(of, history)| (of.clone(), history.clone())).collect() }
    }

    fn reckon(&mut self, wall: UnixMillis) {
        for history in self.kept.values_mut() {
            history.forget(wall);
        }
        // A stream that was not available for a month is none any more; nor is a node that nobody watched for as long.
        self.kept.retain(|subject, history| match subject {
            Subject::Stream(_) => history.days.values().any(|(available, _)| *available > 0) || history.days.len() < 2,
            Subject::Node(_) => !history.days.is_empty(),
            Subject::Cluster(_) => true,
        });
        self.keep_to_bound();
        let line = |(of, history): (&Subject, &History)| AvailabilityLine {
            of: of.clone(),
            up_since: history.up_since,
            day: history.last_hours(wall, HOURS as u64),
            week: history.last_days(wall, 7),
            month: history.last_days(wall, 30),
        };
        let lines = self.kept.iter().map(line).collect();
        self.view = std::sync::Arc::new(AvailabilityView { at: wall, lines });
    }

    fn keep_to_bound(&mut self) {
        if self.kept.len() <= MAX_KEPT {
            return;
        }
        let mut by_age: Vec<(bool, u64, Subject)> = self
            .kept
            .iter()
            .map(|(subject, history)| {
                let last = history.hours.iter().rev().find(|(_, (up, _))| *up > 0).map_or(0, |(hour, _)| *hour);
                (!matches!(subject, Subject::Stream(_)), last, subject.clone())
            })
            .collect();
        by_age.sort();
        for (_, _, subject) in by_age.iter().take(self.kept.len() - MAX_KEPT) {
            self.kept.remove(subject);
        }
    }
}

impl History {
    #[cfg(test)]
    pub(super) fn total(&self) -> (u32, u32) {
        self.days.values().fold((0, 0), |(up, watched), day| (up + day.0, watched + day.1))
    }

    fn add(&mut self, wall: UnixMillis, seconds: u32, available: bool) {
        let second = wall.0 / 1_000;
        for (buckets, number, full) in
            [(&mut self.hours, second / HOUR, HOUR as u32), (&mut self.days, second / DAY, DAY as u32)]
        {
            let (up, watched) = buckets.entry(number).or_default();
            // A clock that was set back can bring the same hour twice.
            *watched = watched.saturating_add(seconds).min(full);
            *up = up.saturating_add(if available { seconds } else { 0 }).min(*watched);
        }
        self.up_since = if available { self.up_since.or(Some(wall)) } else { None };
    }

    /// What is over, and what is yet to come: a clock that was ahead once must not keep its hours for ever.
    fn forget(&mut self, wall: UnixMillis) {
        let second = wall.0 / 1_000;
        let (hour, day) = (second / HOUR, second / DAY);
        self.hours.retain(|number, _| *number <= hour && *number + HOURS as u64 > hour);
        self.days.retain(|number, _| *number <= day && *number + DAYS as u64 > day);
    }

    fn last_hours(&self, wall: UnixMillis, count: u64) -> Availability {
        sum(&self.hours, wall.0 / 1_000 / HOUR, count)
    }

    fn last_days(&self, wall: UnixMillis, count: u64) -> Availability {
        sum(&self.days, wall.0 / 1_000 / DAY, count)
    }
}

fn sum(buckets: &BTreeMap<u64, (u32, u32)>, last: u64, count: u64) -> Availability {
    let mut sum = Availability::default();
    for (up, watched) in buckets.range(last.saturating_sub(count - 1)..=last).map(|(_, bucket)| bucket) {
        sum.available_seconds += u64::from((*up).min(*watched));
        sum.watched_seconds += u64::from(*watched);
    }
    sum
}

/// Both clusters, whether or not anybody is in them.
#[must_use]
pub fn clusters(serving: impl Fn(Role) -> bool) -> [(Subject, bool); 2] {
    [Role::Ingestion, Role::Distribution].map(|role| (Subject::Cluster(role), serving(role)))
}

#[cfg(test)]
#[path = "availability_tests.rs"]
mod tests;
