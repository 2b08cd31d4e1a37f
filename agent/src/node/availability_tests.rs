use proptest::prelude::*;

use super::*;

/// 2026-11-23 00:00 UTC, in seconds.
const MIDNIGHT: u64 = 1_795_392_000;

fn node(name: &str) -> Subject {
    Subject::Node(name.into())
}

fn stream(name: &str) -> Subject {
    Subject::Stream(name.into())
}

/// Virtual time, looked at every 5 s.
struct World {
    kept: Availabilities,
    second: u64,
}

impl World {
    fn new() -> Self {
        Self { kept: Availabilities::new(None, wall(0)), second: 0 }
    }

    fn run(&mut self, seconds: u64, seen: &[(Subject, bool)]) {
        let end = self.second + seconds;
        while self.second < end {
            self.second += 5;
            self.kept.look(mono(self.second), wall(self.second), seen.iter().cloned());
        }
    }

    fn line(&mut self, of: &Subject) -> Option<AvailabilityLine> {
        self.kept.reckon(wall(self.second));
        self.kept.view().lines.iter().find(|line| line.of == *of).cloned()
    }
}

fn mono(second: u64) -> Mono {
    Mono(Duration::from_secs(second))
}

fn wall(second: u64) -> UnixMillis {
    UnixMillis((MIDNIGHT + second) * 1_000)
}

#[test]
fn an_outage_of_a_quarter_of_an_hour_is_seen_in_the_day_the_week_and_the_month() {
    let mut world = World::new();
    let (up, down) = ([(node("a"), true)], [(node("a"), false)]);
    world.run(5, &up);
    world.run(3 * HOUR - 900, &up);
    world.run(900, &down);
    world.run(HOUR, &up);
    let line = world.line(&node("a")).expect("known");
    for window in [line.day, line.week, line.month] {
        assert_eq!((window.watched_seconds, window.watched_seconds - window.available_seconds), (4 * HOUR, 900));
    }
    assert_eq!(line.up_since, Some(wall(5 + 3 * HOUR + 5)), "the first look at which it was back");
}

#[test]
fn windows_end_and_nothing_older_than_a_month_is_kept() {
    let mut world = World::new();
    world.run(5, &[(node("a"), true)]);
    world.run(DAY, &[(node("a"), false)]);
    world.run(DAY, &[(node("a"), true)]);
    let line = world.line(&node("a")).expect("known");
    assert!(line.day.ratio().expect("watched") > 0.999, "{line:?}");
    let week = line.week.ratio().expect("watched");
    assert!((week - 0.5).abs() < 0.001, "{week}");
    world.run(40 * DAY, &[(node("a"), true)]);
    let line = world.line(&node("a")).expect("known");
    assert_eq!(line.month.ratio(), Some(1.0));
    let history = &world.kept.kept[&node("a")];
    assert!(history.hours.len() <= HOURS && history.days.len() <= DAYS);
}

#[test]
fn time_in_which_nobody_looked_is_neither_good_nor_bad() {
    let mut world = World::new();
    world.run(HOUR, &[(node("a"), true)]);
    world.second += 6 * HOUR;
    world.run(HOUR, &[(node("a"), true)]);
    let day = world.line(&node("a")).expect("known").day;
    assert_eq!(day.ratio(), Some(1.0));
    assert!(day.watched_seconds <= 2 * HOUR, "{day:?}");
}

#[test]
fn a_stream_that_nobody_has_any_more_is_not_available_and_forgotten_after_a_month() {
    let mut world = World::new();
    world.run(HOUR, &[(stream("cam1"), true)]);
    world.run(HOUR, &[]);
    let day = world.line(&stream("cam1")).expect("known").day;
    assert!((day.ratio().expect("watched") - 0.5).abs() < 0.01, "{day:?}");
    world.run(32 * DAY, &[]);
    assert_eq!(world.line(&stream("cam1")), None);
}

#[test]
fn a_node_that_is_not_looked_at_is_not_counted() {
    let mut world = World::new();
    world.run(HOUR, &[(node("a"), true)]);
    let before = world.line(&node("a")).expect("known").day;
    world.run(HOUR, &[]);
    assert_eq!(world.line(&node("a")).expect("known").day, before, "drained: by intent");
}

#[test]
fn a_node_that_launches_is_watched_from_its_first_service_on() {
    let mut world = World::new();
    world.run(60, &[(node("a"), false)]);
    assert_eq!(world.line(&node("a")), None);
    world.run(60, &[(node("a"), true)]);
    world.run(20, &[(node("a"), false)]);
    let day = world.line(&node("a")).expect("it has served").day;
    assert_eq!((day.available_seconds, day.watched_seconds), (60, 80), "and once it has, it may fail");
}

#[test]
fn it_goes_on_after_a_restart_and_a_record_of_another_version_is_left_alone() {
    let mut world = World::new();
    world.run(HOUR, &[(node("a"), true), (stream("cam1"), false)]);
    let record = world.kept.record();
    let text = serde_json::to_string(&record).expect("JSON");
    let back: Record = serde_json::from_str(&text).expect("and back");
    assert_eq!(back, record);
    world.kept = Availabilities::new(Some(back), wall(world.second + 60));
    world.second += 60;
    world.run(HOUR, &[(node("a"), false), (stream("cam1"), true)]);
    let day = world.line(&node("a")).expect("known").day;
    assert!((day.ratio().expect("watched") - 0.5).abs() < 0.01, "{day:?}");
    let other = Availabilities::new(Some(Record { version: VERSION + 1, ..record }), wall(0));
    assert!(other.kept.is_empty());
}

#[test]
fn it_is_saved_once_a_minute_and_bounded() {
    let mut kept = Availabilities::new(None, wall(0));
    let many = |from: u64| (0..3_000).map(move |n| (stream(&format!("cam{}", from + n)), true));
    let saves = (0..300).step_by(5).filter(|second| kept.look(mono(*second), wall(*second), many(0)).save).count();
    assert_eq!(saves, 4);
    kept.look(mono(400), wall(400), many(10_000).chain([(node("a"), true)]));
    kept.reckon(wall(400));
    assert_eq!(kept.kept.len(), MAX_KEPT);
    assert!(kept.kept.contains_key(&node("a")), "nodes stay");
}

proptest! {
    #[test]
    fn whatever_the_clock_does_no_window_is_over_full(steps in prop::collection::vec((0_u64..40, any::<bool>(), -90_000_i64..90_000), 1..300)) {
        let mut kept = Availabilities::new(None, wall(0));
        let (mut second, mut offset) = (0_u64, 0_i64);
        for (passed, up, jump) in steps {
            second += passed;
            if passed % 13 == 0 {
                offset += jump;
            }
            let at = UnixMillis(((MIDNIGHT + 40 * DAY + second) as i64 + offset).max(0) as u64 * 1_000);
            kept.look(mono(second), at, [(node("a"), up)]);
            kept.reckon(at);
            for line in &kept.view().lines {
                for window in [line.day, line.week, line.month] {
                    prop_assert!(window.available_seconds <= window.watched_seconds);
                }
                prop_assert!(line.day.watched_seconds <= DAY && line.month.watched_seconds <= 30 * DAY);
            }
        }
    }

    #[test]
    fn any_record_is_survived(text in ".{0,200}") {
        if let Ok(record) = serde_json::from_str::<Record>(&text) {
            let _ = Availabilities::new(Some(record), wall(0));
        }
    }
}
