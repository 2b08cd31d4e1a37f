//! From byte counters to rates: what each stream brings in, and whether it flows.

use std::collections::BTreeMap;
use std::time::Duration;

use mtxfleet_wire::{Bitrate, Mono};

use super::sample::{PathSample, ServerSample};

/// A stream whose bytes stood still for longer does not flow. Cameras of one frame in two seconds exist.
const STILL_AFTER: Duration = Duration::from_secs(5);
/// Rates are taken over at least this time, so that quick looks during a drain do not make them jump.
const RATE_OVER: Duration = Duration::from_millis(900);
/// A stream's bit rate is said anew only when it differs by more than this share, so that the report changes seldom.
const NEWS: f64 = 0.2;

#[derive(Debug, Default)]
pub struct Traffic {
    paths: BTreeMap<String, PathTraffic>,
    last: Option<(Mono, u64, u64)>,
    inbound: Option<Bitrate>,
    outbound: Option<Bitrate>,
    /// By session, as last seen, and of all there ever were.
    discarded: BTreeMap<String, u64>,
    discarded_total: u64,
}

#[derive(Debug)]
struct PathTraffic {
    counted_at: Mono,
    bytes: u64,
    grew_at: Option<Mono>,
    grew_from: u64,
    bitrate: Option<Bitrate>,
}

impl Traffic {
    pub fn look(&mut self, sample: &ServerSample) {
        let at = sample.at;
        let mut before = std::mem::take(&mut self.paths);
        let look = |path: &PathSample| {
            let new = || (path.name.clone(), PathTraffic::new(at, path.inbound_bytes));
            let (name, mut known) = before.remove_entry(&path.name).unwrap_or_else(new);
            known.look(at, path.inbound_bytes);
            (name, known)
        };
        self.paths = sample.paths.iter().map(look).collect();
        self.count_discarded(sample);
        // Each session's bytes would double those of a path with many readers; the path counts both directions.
        let inbound: u64 = sample.paths.iter().map(|path| path.inbound_bytes).sum();
        let outbound: u64 = sample.paths.iter().map(|path| path.outbound_bytes).sum();
        match self.last {
            Some((then, _, _)) if at.since(then) < RATE_OVER => {}
            Some((then, inbound_then, outbound_then)) => {
                // A path that closed takes its bytes along, so a sum can shrink: that look says nothing.
                let rate =
                    |now: u64, then_bytes: u64| Some(Bitrate::from_bytes(now.checked_sub(then_bytes)?, at.since(then)));
                self.inbound = rate(inbound, inbound_then).or(self.inbound);
                self.outbound = rate(outbound, outbound_then).or(self.outbound);
                self.last = Some((at, inbound, outbound));
            }
            None => self.last = Some((at, inbound, outbound)),
        }
    }

    /// A session's count goes with it, so what each added is kept here.
    fn count_discarded(&mut self, sample: &ServerSample) {
        let before = std::mem::take(&mut self.discarded);
        for session in sample.sessions.iter().filter(|session| session.discarded_packets > 0) {
            let known = before.get(&session.id).copied().unwrap_or(0);
            self.discarded_total += session.discarded_packets.saturating_sub(known);
            self.discarded.insert(session.id.clone(), session.discarded_packets);
        }
    }

    /// MediaMTX is away or has restarted: no rate is known.
    pub fn forget(&mut self) {
        *self = Self { discarded_total: self.discarded_total, ..Self::default() };
    }

    /// Packets that readers were too slow for, since this agent started.
    #[must_use]
    pub const fn discarded_packets(&self) -> u64 {
        self.discarded_total
    }

    #[must_use]
    pub const fn inbound(&self) -> Option<Bitrate> {
        self.inbound
    }

    #[must_use]
    pub const fn outbound(&self) -> Option<Bitrate> {
        self.outbound
    }

    #[must_use]
    pub fn bitrate(&self, path: &str) -> Option<Bitrate> {
        self.paths.get(path)?.bitrate
    }

    #[must_use]
    pub fn flows(&self, path: &str, now: Mono) -> bool {
        self.paths.get(path).and_then(|path| path.grew_at).is_some_and(|grew| now.since(grew) < STILL_AFTER)
    }
}

impl PathTraffic {
    const fn new(at: Mono, bytes: u64) -> Self {
        Self { counted_at: at, bytes, grew_at: None, grew_from: bytes, bitrate: None }
    }

    fn look(&mut self, at: Mono, bytes: u64) {
        if bytes < self.grew_from || bytes < self.bytes {
            // The path was made anew.
            *self = Self { bitrate: self.bitrate, ..Self::new(at, bytes) };
            return;
        }
        if bytes > self.grew_from {
            self.grew_at = Some(at);
            self.grew_from = bytes;
        }
        let over = at.since(self.counted_at);
        if over < RATE_OVER {
            return;
        }
        let rate = Bitrate::from_bytes(bytes - self.bytes, over);
        let is_news = self.bitrate.is_none_or(|old| rate.0.abs_diff(old.0) as f64 > old.0 as f64 * NEWS);
        if is_news {
            self.bitrate = Some(rate);
        }
        self.counted_at = at;
        self.bytes = bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::sample::{Protocol, SessionSample, SessionState};

    fn look(traffic: &mut Traffic, ms: u64, bytes: u64) {
        let path = PathSample {
            name: "cam1".into(),
            inbound_bytes: bytes,
            outbound_bytes: 2 * bytes,
            ..PathSample::default()
        };
        traffic.look(&ServerSample { at: at(ms), paths: vec![path], sessions: Vec::new() });
    }

    fn at(ms: u64) -> Mono {
        Mono(Duration::from_millis(ms))
    }

    #[test]
    fn rates_are_unknown_before_the_second_look_and_then_bits_per_second() {
        let mut traffic = Traffic::default();
        look(&mut traffic, 0, 0);
        assert_eq!((traffic.inbound(), traffic.bitrate("cam1")), (None, None));
        look(&mut traffic, 1000, 125_000);
        assert_eq!((traffic.inbound(), traffic.outbound()), (Some(Bitrate(1_000_000)), Some(Bitrate(2_000_000))));
        assert_eq!(traffic.bitrate("cam1"), Some(Bitrate(1_000_000)));
    }

    #[test]
    fn a_stream_whose_bytes_stand_still_does_not_flow() {
        let mut traffic = Traffic::default();
        look(&mut traffic, 0, 10);
        assert!(!traffic.flows("cam1", at(0)), "one look proves nothing");
        look(&mut traffic, 1000, 20);
        assert!(traffic.flows("cam1", at(1000)));
        look(&mut traffic, 7000, 20);
        assert!(!traffic.flows("cam1", at(7000)));
    }

    #[test]
    fn discarded_packets_stay_counted_when_their_session_is_gone() {
        let session = |id: &str, discarded_packets| SessionSample {
            protocol: Protocol::Rtsp,
            id: id.into(),
            state: SessionState::Read,
            path: "cam1".into(),
            query: String::new(),
            remote: String::new(),
            inbound_bytes: 0,
            outbound_bytes: 0,
            discarded_packets,
        };
        let mut traffic = Traffic::default();
        for sessions in [vec![session("a", 3)], vec![session("a", 5), session("b", 1)], vec![session("b", 1)], vec![]] {
            traffic.look(&ServerSample { sessions, ..ServerSample::default() });
        }
        traffic.forget();
        assert_eq!(traffic.discarded_packets(), 6);
    }

    #[test]
    fn counters_that_start_again_are_no_huge_rate() {
        let mut traffic = Traffic::default();
        look(&mut traffic, 0, 1_000_000);
        look(&mut traffic, 1000, 1_125_000);
        look(&mut traffic, 2000, 5);
        assert_eq!(traffic.bitrate("cam1"), Some(Bitrate(1_000_000)));
        assert_eq!(traffic.inbound(), Some(Bitrate(1_000_000)));
    }
}
