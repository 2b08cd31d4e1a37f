//! Rules of the calendar: what holds for a while from each moment that a cron expression names.
//!
//! Pure: the wall time is an argument, and the time zones are compiled in.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use mtxfleet_wire::UnixMillis;
use serde::{Deserialize, Serialize};

use super::cron::Cron;
use super::{Policy, PolicyError};

/// The longest that one occasion may last.
const LONGEST: Duration = Duration::from_secs(31 * 86_400);

/// As an operator writes it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Named in decisions.
    pub name: String,
    /// When it begins: minute, hour, day of the month, month, day of the week.
    pub cron: String,
    /// Of the IANA database, for example `Europe/Berlin`.
    pub time_zone: String,
    /// How long it holds from each beginning.
    pub lasts: Duration,
    /// In place of the policy's while it holds; of several schedules, the most nodes.
    #[serde(default)]
    pub min: Option<u32>,
    /// In place of the policy's while it holds; of several schedules, the most nodes.
    #[serde(default)]
    pub max: Option<u32>,
    /// In place of the policy's while it holds; of several schedules, the most.
    #[serde(default)]
    pub spare: Option<f64>,
    /// Nothing shrinks while it holds.
    #[serde(default)]
    pub inhibit_scale_down: bool,
}

/// What of the policy holds at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct InForce {
    pub min: u32,
    pub max: u32,
    pub spare: f64,
    /// The first schedule that lets nothing shrink.
    pub inhibited_by: Option<String>,
    /// Names of the schedules that hold now.
    pub schedules: Vec<String>,
}

/// The schedules of a policy, read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Timetable(Vec<(Schedule, Cron, TimeZone)>);

impl Timetable {
    /// # Errors
    /// All that is wrong with the schedules.
    pub(crate) fn new(policy: &Policy) -> Result<Self, Vec<PolicyError>> {
        let (mut read, mut errors) = (Vec::new(), Vec::new());
        for schedule in &policy.schedules {
            let mut refuse = |problem: String| {
                errors.push(PolicyError { key: "schedules", problem: format!("{:?}: {problem}", schedule.name) });
            };
            let cron = Cron::read(&schedule.cron).map_err(|error| refuse(format!("cron: {error}")));
            let zone = TimeZoneDatabase::bundled().get(&schedule.time_zone).map_err(|_| {
                let given = &schedule.time_zone;
                refuse(format!("time_zone: {given:?} is not known; write for example \"Europe/Berlin\" or \"UTC\""));
            });
            if schedule.lasts < Duration::from_secs(60) || schedule.lasts > LONGEST {
                refuse("lasts: write a time from 1m to 31d".to_owned());
            }
            let (min, max) = (schedule.min.unwrap_or(policy.min), schedule.max.unwrap_or(policy.max));
            if min == 0 || min > max {
                refuse(format!("from {min} to {max} nodes is no range; min is 1 or more, and max no less"));
            }
            if schedule.spare.is_some_and(|spare| !super::policy::SPARE.contains(&spare)) {
                refuse("spare: write a number of nodes, from -100 to 10000".to_owned());
            }
            if schedule.min.is_none()
                && schedule.max.is_none()
                && schedule.spare.is_none()
                && !schedule.inhibit_scale_down
            {
                refuse("changes nothing; give it min, max, spare or inhibit_scale_down".to_owned());
            }
            if let (Ok(cron), Ok(zone)) = (cron, zone) {
                read.push((schedule.clone(), cron, zone));
            }
        }
        if errors.is_empty() { Ok(Self(read)) } else { Err(errors) }
    }

    /// The policy's own range and buffer, changed by what the calendar says at `wall`.
    pub(crate) fn in_force(&self, policy: &Policy, wall: UnixMillis) -> InForce {
        let holding: Vec<&Schedule> = self
            .0
            .iter()
            .filter(|(rule, cron, zone)| holds(cron, zone, rule.lasts, wall))
            .map(|(rule, ..)| rule)
            .collect();
        let min = holding.iter().filter_map(|rule| rule.min).max().unwrap_or(policy.min);
        InForce {
            min,
            // A larger least of one schedule wins over the most of another.
            max: holding.iter().filter_map(|rule| rule.max).max().unwrap_or(policy.max).max(min),
            spare: holding.iter().filter_map(|rule| rule.spare).reduce(f64::max).unwrap_or(policy.spare),
            inhibited_by: holding.iter().find(|rule| rule.inhibit_scale_down).map(|rule| rule.name.clone()),
            schedules: holding.iter().map(|rule| rule.name.clone()).collect(),
        }
    }
}

/// Whether the last beginning before `wall` was less than `lasts` ago.
///
/// A beginning in the hour that a change of the clocks skips comes as much later; one in the hour that comes twice is the
/// first of both.
fn holds(cron: &Cron, zone: &TimeZone, lasts: Duration, wall: UnixMillis) -> bool {
    let Ok(now) = i64::try_from(wall.0).map_err(drop).and_then(|ms| Timestamp::from_millisecond(ms).map_err(drop))
    else {
        return false;
    };
    let today = zone.to_datetime(now).date();
    let days = lasts.as_secs() / 86_400 + 1;
    let mut day = Some(today);
    for _ in 0..=days {
        let Some(date) = day else { return false };
        if let Some(last) = last_beginning(cron, zone, date, now) {
            let ago = now.as_millisecond().saturating_sub(last.as_millisecond());
            return u128::try_from(ago).is_ok_and(|ago| ago < lasts.as_millis());
        }
        day = date.yesterday().ok();
    }
    false
}

/// The last beginning of a day that is not after `now`.
fn last_beginning(cron: &Cron, zone: &TimeZone, date: Date, now: Timestamp) -> Option<Timestamp> {
    let weekday = date.weekday().to_sunday_zero_offset();
    if !cron.on_day(date.month().unsigned_abs(), date.day().unsigned_abs(), weekday.unsigned_abs()) {
        return None;
    }
    let moment = |(hour, minute): (u8, u8)| {
        let civil: DateTime = date.at(hour.cast_signed(), minute.cast_signed(), 0, 0);
        zone.to_timestamp(civil).ok()
    };
    cron.times_backwards().filter_map(moment).find(|moment| *moment <= now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distribution_orchestrator;

    fn at(text: &str) -> UnixMillis {
        let moment: Timestamp = text.parse().expect("a time");
        UnixMillis(moment.as_millisecond().unsigned_abs())
    }

    fn evening() -> Schedule {
        Schedule {
            name: "evening".into(),
            cron: "30 18 * * mon-fri".into(),
            time_zone: "Europe/Berlin".into(),
            lasts: Duration::from_secs(6 * 3_600),
            min: Some(8),
            inhibit_scale_down: true,
            ..Schedule::default()
        }
    }

    fn in_force(schedules: &[Schedule], moment: &str) -> InForce {
        let policy = Policy { schedules: schedules.to_vec(), ..distribution_orchestrator::policy() };
        Timetable::new(&policy).expect("good").in_force(&policy, at(moment))
    }

    #[test]
    fn a_schedule_holds_from_its_beginning_in_its_own_zone_across_midnight() {
        // Berlin is an hour ahead of UTC in winter, two in summer. 2026-01-09 is a Friday.
        for (moment, min) in [
            ("2026-01-09T17:29:59Z", 2),
            ("2026-01-09T17:30:00Z", 8),
            ("2026-01-09T23:29:59Z", 8),
            ("2026-01-09T23:30:00Z", 2),
            ("2026-01-10T18:00:00Z", 2),
            ("2026-07-10T16:30:00Z", 8),
            ("2026-07-10T16:29:00Z", 2),
        ] {
            let found = in_force(&[evening()], moment);
            assert_eq!(found.min, min, "{moment}");
            assert_eq!(found.inhibited_by.as_deref(), (min == 8).then_some("evening"), "{moment}");
        }
    }

    #[test]
    fn of_several_schedules_the_most_nodes_win_and_a_least_beats_a_most() {
        let always = |name: &str| Schedule {
            name: name.into(),
            cron: "0 0 * * *".into(),
            time_zone: "UTC".into(),
            lasts: Duration::from_secs(86_400),
            ..Schedule::default()
        };
        let night = Schedule { min: Some(1), max: Some(4), ..always("night") };
        let event = Schedule { min: Some(9), spare: Some(3.0), ..always("event") };
        let found = in_force(&[night.clone(), event], "2026-01-09T12:00:00Z");
        assert_eq!((found.min, found.max, found.spare), (9, 9, 3.0));
        assert_eq!(found.schedules, ["night", "event"]);
        assert_eq!(found.inhibited_by, None);
        let found = in_force(&[night], "2026-01-09T12:00:00Z");
        assert_eq!((found.min, found.max), (1, 4));
    }

    #[test]
    fn clocks_that_change_skip_no_beginning_and_double_none() {
        let night = |cron: &str, minutes: u64| Schedule {
            cron: cron.into(),
            lasts: Duration::from_secs(minutes * 60),
            ..evening()
        };
        // 2026-03-29: 02:00 to 03:00 does not exist in Berlin; 02:30 is 03:30 summer time, 01:30 UTC.
        let spring = [night("30 2 * * *", 10)];
        assert_eq!(in_force(&spring, "2026-03-29T01:35:00Z").min, 8);
        assert_eq!(in_force(&spring, "2026-03-29T00:35:00Z").min, 2);
        // 2026-10-25: 02:30 comes at 00:30 and at 01:30 UTC; the first counts.
        assert_eq!(in_force(&spring, "2026-10-25T00:35:00Z").min, 8);
        assert_eq!(in_force(&spring, "2026-10-25T01:35:00Z").min, 2);
        // Days that are far apart, and last long.
        let monthly = [night("0 0 1 * *", 20 * 24 * 60)];
        assert_eq!(in_force(&monthly, "2026-01-20T12:00:00Z").min, 8);
        assert_eq!(in_force(&monthly, "2026-01-25T12:00:00Z").min, 2);
    }

    #[test]
    fn wrong_schedules_are_refused_each_with_what_to_write() {
        let policy = Policy {
            schedules: vec![
                Schedule { cron: "61 * * * *".into(), ..evening() },
                Schedule { time_zone: "Mars/Base".into(), lasts: Duration::ZERO, ..evening() },
                Schedule { min: Some(30), spare: Some(f64::NAN), ..evening() },
                Schedule { min: None, inhibit_scale_down: false, ..evening() },
            ],
            ..distribution_orchestrator::policy()
        };
        let errors: Vec<String> = policy.errors().iter().map(ToString::to_string).collect();
        for part in ["cron: ", "Mars/Base", "lasts", "from 30 to 20", "spare", "changes nothing"] {
            assert!(errors.iter().any(|error| error.contains(part)), "{part} in {errors:#?}");
        }
        assert_eq!(errors.len(), 6, "{errors:#?}");
    }
}
