//! What is wrong with this node, and what is tried against it: pure, on virtual time.
//!
//! ```text
//!            an ill lasts for its grace            restarts, 30 s, 90 s, 270 s apart
//!   Well --------------------------------> Ill -----------------------------------> Hopeless
//!    ^                                      |     or no command to restart, for 2 min   |  asks to be replaced
//!    +--------------------------------------+--------------------------------------------+
//!                                  no ill any more
//! ```
//! A node that is ill is *idle because broken*: it says so, nobody takes it for the least loaded, and balancers are told
//! `down`. A full disk is not cured by a restart, which would cut who still reads here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mtxfleet_wire::{HealthReport, Ill, Mono, NodeId};

/// MediaMTX is restarted by its own supervisor first, if it has one.
const SERVER_GRACE: Duration = Duration::from_secs(10);
/// An agent and its server start together, and a large configuration takes its time.
const BOOT_GRACE: Duration = Duration::from_secs(60);
/// Two checks, [`CHECK_EVERY`] apart, and the time of one.
const RTSP_GRACE: Duration = Duration::from_secs(9);
/// MediaMTX itself closes a source that is silent for 10 s (`readTimeout`), so this is three times what it takes.
const STREAMS_GRACE: Duration = Duration::from_secs(30);
const DISK_GRACE: Duration = Duration::from_secs(10);
/// After so many restarts that did not help, nothing more is tried.
const RESTARTS: u32 = 3;
/// Where there is nothing to try, an illness is hopeless after so many times the pause between two restarts.
const HOPELESS_AFTER: u32 = 4;
/// A node that is well for so long has a clean slate.
const CURED_AFTER: Duration = Duration::from_secs(300);

/// Time between two checks of one's own RTSP port.
pub const CHECK_EVERY: Duration = Duration::from_secs(10);
/// Time between two samples of peers, and how many peers are in one.
pub const SAMPLE_EVERY: Duration = Duration::from_secs(30);
pub const SAMPLE: usize = 3;

/// What was seen at one moment. `None` is unknown, and neither an ill nor a cure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Signs {
    /// MediaMTX's API answers as it should; `None` before it ever did.
    pub server: Option<bool>,
    /// There are streams, and at least one delivers; `None` where there is none to judge by.
    pub streams: Option<bool>,
    /// There is room where recordings go.
    pub disk: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthSettings {
    /// A command is configured that starts MediaMTX again.
    pub can_restart: bool,
    /// From the first restart to the second; three times as long each time.
    pub back_off: Duration,
    /// A full disk is hopeless after so long: a retention may yet empty it.
    pub disk_patience: Duration,
}

#[derive(Debug)]
pub struct Health {
    settings: HealthSettings,
    started: Mono,
    /// Since when each sign is bad.
    bad_since: BTreeMap<Ill, Mono>,
    restarts: u32,
    last_restart: Option<Mono>,
    ill_since: Option<Mono>,
    well_since: Option<Mono>,
    hopeless: bool,
    unreachable: BTreeSet<NodeId>,
    checked: Option<Mono>,
    sampled: Option<Mono>,
    samples: usize,
}

impl Health {
    #[must_use]
    pub const fn new(now: Mono, settings: HealthSettings) -> Self {
        Self {
            settings,
            started: now,
            bad_since: BTreeMap::new(),
            restarts: 0,
            last_restart: None,
            ill_since: None,
            well_since: Some(now),
            hopeless: false,
            unreachable: BTreeSet::new(),
            checked: None,
            sampled: None,
            samples: 0,
        }
    }

    /// Takes in what is seen now. True: start MediaMTX again, at once. `in_service`: a node on its way out is left alone.
    #[must_use]
    pub fn see(&mut self, now: Mono, signs: Signs, in_service: bool) -> bool {
        let server = match signs.server {
            // Not asked successfully yet: bad only when that lasts.
            None => (now.since(self.started) >= BOOT_GRACE).then_some(false),
            known => known,
        };
        self.note(now, Ill::Server, server);
        self.note(now, Ill::Streams, signs.streams);
        self.note(now, Ill::Disk, signs.disk);
        if self.ills(now).is_empty() {
            self.get_well(now);
            return false;
        }
        self.well_since = None;
        let ill_since = *self.ill_since.get_or_insert(now);
        let curable = self.ills(now).iter().any(|ill| *ill != Ill::Disk);
        if !in_service {
            return false;
        }
        let HealthSettings { can_restart, back_off, disk_patience } = self.settings;
        let pause = back_off * 3_u32.pow(self.restarts.saturating_sub(1).min(RESTARTS));
        let due = self.last_restart.is_none_or(|last| now.since(last) >= pause);
        if curable && can_restart && self.restarts < RESTARTS {
            if due {
                self.restarts += 1;
                self.last_restart = Some(now);
            }
            return due;
        }
        let patience = if curable { back_off * HOPELESS_AFTER } else { disk_patience };
        self.hopeless |= now.since(ill_since) >= patience && due;
        false
    }

    /// Whether its own RTSP port answered.
    pub fn checked(&mut self, now: Mono, rtsp: bool) {
        self.note(now, Ill::Rtsp, Some(rtsp));
    }

    /// Whether a peer's RTSP port answered. A peer whose agent does not answer either is not a broken server's doing.
    pub fn checked_peer(&mut self, peer: NodeId, rtsp: bool) {
        if rtsp {
            self.unreachable.remove(&peer);
        } else {
            self.unreachable.insert(peer);
        }
    }

    /// Peers that are no more, or not heard, are not unreachable but gone.
    pub fn keep_peers(&mut self, is_alive: impl Fn(&NodeId) -> bool) {
        self.unreachable.retain(is_alive);
    }

    /// What is wrong, each ill once it lasted for its grace.
    #[must_use]
    pub fn ills(&self, now: Mono) -> Vec<Ill> {
        let lasts = |(ill, since): (&Ill, &Mono)| (now.since(*since) >= grace(*ill)).then_some(*ill);
        self.bad_since.iter().filter_map(lasts).collect()
    }

    #[must_use]
    pub fn report(&self, now: Mono) -> HealthReport {
        HealthReport {
            ills: self.ills(now),
            restarts: self.restarts,
            hopeless: self.hopeless,
            unreachable: self.unreachable.iter().cloned().collect(),
            replaced: Vec::new(),
        }
    }

    /// True when the node's own RTSP port is to be checked now; it is not due again until [`CHECK_EVERY`] later.
    pub fn check_is_due(&mut self, now: Mono) -> bool {
        let due = self.checked.is_none_or(|checked| now.since(checked) >= CHECK_EVERY);
        if due {
            self.checked = Some(now);
        }
        due
    }

    /// Which of `peers` to check now: a few in turn, so that each is checked by some nodes and none by all at once.
    pub fn sample<T>(&mut self, now: Mono, mut peers: Vec<T>) -> Vec<T> {
        if peers.is_empty() || self.sampled.is_some_and(|sampled| now.since(sampled) < SAMPLE_EVERY) {
            return Vec::new();
        }
        self.sampled = Some(now);
        let start = self.samples % peers.len();
        self.samples = self.samples.wrapping_add(SAMPLE);
        peers.rotate_left(start);
        peers.truncate(SAMPLE);
        peers
    }

    fn note(&mut self, now: Mono, ill: Ill, good: Option<bool>) {
        match good {
            Some(true) => {
                self.bad_since.remove(&ill);
            }
            Some(false) => {
                self.bad_since.entry(ill).or_insert(now);
            }
            // No stream is left to judge by: what was wrong with those that were there is over.
            None if ill == Ill::Streams => {
                self.bad_since.remove(&ill);
            }
            None => {}
        }
    }

    fn get_well(&mut self, now: Mono) {
        self.ill_since = None;
        self.hopeless = false;
        let since = *self.well_since.get_or_insert(now);
        if now.since(since) >= CURED_AFTER {
            self.restarts = 0;
            self.last_restart = None;
        }
    }
}

const fn grace(ill: Ill) -> Duration {
    match ill {
        Ill::Server => SERVER_GRACE,
        Ill::Rtsp => RTSP_GRACE,
        Ill::Streams => STREAMS_GRACE,
        Ill::Disk => DISK_GRACE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: HealthSettings = HealthSettings {
        can_restart: true,
        back_off: Duration::from_secs(30),
        disk_patience: Duration::from_secs(600),
    };
    const WELL: Signs = Signs { server: Some(true), streams: Some(true), disk: Some(true) };
    const AWAY: Signs = Signs { server: Some(false), streams: None, disk: Some(true) };
    const FULL: Signs = Signs { disk: Some(false), ..WELL };
    const STILL: Signs = Signs { streams: Some(false), ..WELL };

    fn at(seconds: u64) -> Mono {
        Mono(Duration::from_secs(seconds))
    }

    /// Seconds at which MediaMTX was started again, and the first at which the node was hopeless.
    fn run(health: &mut Health, signs: Signs, seconds: std::ops::Range<u64>) -> (Vec<u64>, Option<u64>) {
        let mut restarts = Vec::new();
        let mut hopeless = None;
        for second in seconds {
            if health.see(at(second), signs, true) {
                restarts.push(second);
            }
            if health.report(at(second)).hopeless {
                hopeless.get_or_insert(second);
            }
        }
        (restarts, hopeless)
    }

    #[test]
    fn a_server_that_stays_away_is_restarted_with_back_off_and_then_the_node_asks_to_be_replaced() {
        let mut health = Health::new(at(0), SETTINGS);
        let (restarts, hopeless) = run(&mut health, AWAY, 100..1000);
        assert_eq!(restarts, [110, 140, 230]);
        assert_eq!(hopeless, Some(230 + 270));
        assert_eq!(health.report(at(1000)).ills, [Ill::Server]);
    }

    #[test]
    fn without_a_command_there_is_no_restart_and_the_node_asks_after_two_minutes() {
        let mut health = Health::new(at(0), HealthSettings { can_restart: false, ..SETTINGS });
        assert_eq!(run(&mut health, AWAY, 100..1000), (vec![], Some(230)));
    }

    #[test]
    fn a_blink_is_no_illness_and_a_cure_ends_it() {
        let mut health = Health::new(at(0), SETTINGS);
        assert_eq!(run(&mut health, AWAY, 0..9).0, [] as [u64; 0]);
        run(&mut health, WELL, 9..10);
        assert_eq!(run(&mut health, AWAY, 10..25).0, [20]);
        run(&mut health, WELL, 25..26);
        let report = health.report(at(25));
        assert_eq!((report.ills, report.hopeless, report.restarts), (vec![], false, 1));
        // Not cured for long: the next restart waits for its turn.
        assert_eq!(run(&mut health, AWAY, 26..60).0, [50]);
        run(&mut health, WELL, 60..400);
        assert_eq!(run(&mut health, AWAY, 400..420).0, [410], "a clean slate after five minutes");
    }

    #[test]
    fn a_full_disk_is_said_never_restarted_and_hopeless_after_ten_minutes() {
        let mut health = Health::new(at(0), SETTINGS);
        assert_eq!(run(&mut health, FULL, 0..1000), (vec![], Some(610)));
        assert_eq!(health.report(at(1000)).ills, [Ill::Disk]);
    }

    #[test]
    fn streams_that_deliver_nothing_are_an_ill_and_no_streams_are_none() {
        let mut health = Health::new(at(0), SETTINGS);
        assert_eq!(run(&mut health, STILL, 0..40).0, [30]);
        run(&mut health, Signs { streams: None, ..WELL }, 40..41);
        assert_eq!(health.report(at(41)).ills, []);
    }

    #[test]
    fn an_rtsp_port_that_fails_twice_is_an_ill() {
        let mut health = Health::new(at(0), SETTINGS);
        health.checked(at(0), false);
        assert!(!health.see(at(1), WELL, true));
        health.checked(at(10), false);
        assert!(health.see(at(10), WELL, true), "restarted");
        health.checked(at(20), true);
        assert_eq!(health.report(at(20)).ills, []);
    }

    #[test]
    fn a_server_that_never_came_up_is_given_a_minute() {
        let mut health = Health::new(at(0), SETTINGS);
        let never = Signs { server: None, ..Signs::default() };
        assert_eq!(run(&mut health, never, 0..75).0, [70]);
    }

    #[test]
    fn a_node_on_its_way_out_is_left_alone() {
        let mut health = Health::new(at(0), SETTINGS);
        for second in 0..600 {
            assert!(!health.see(at(second), AWAY, false));
        }
        assert!(!health.report(at(600)).hopeless);
    }

    #[test]
    fn every_peer_has_its_turn_and_those_gone_are_forgotten() {
        let mut health = Health::new(at(0), SETTINGS);
        let peers: Vec<u32> = (0..7).collect();
        let mut seen = BTreeSet::new();
        for round in 0..3 {
            let sample = health.sample(at(round * 30), peers.clone());
            assert_eq!(sample.len(), SAMPLE);
            assert!(health.sample(at(round * 30 + 29), peers.clone()).is_empty(), "not yet");
            seen.extend(sample);
        }
        assert_eq!(seen.len(), 7);
        let b = NodeId::new("b").expect("valid");
        health.checked_peer(b.clone(), false);
        assert_eq!(health.report(at(1)).unreachable, [b]);
        health.keep_peers(|_| false);
        assert_eq!(health.report(at(1)).unreachable, []);
    }
}
