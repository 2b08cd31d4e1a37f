//! Who may still need this ingestion node's recordings: whoever fetches from them, and workers that read its cameras a
//! while ago and read nowhere now. Those start again, it may be from a checkpoint, and go on with what was recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mtxfleet_drain::Drain;
use mtxfleet_wire::{Mono, StreamName, WorkerId};

use super::Node;

/// As far back as a recording reaches as rendered (`delete_after` of crate `mediamtx-config`).
const REACH: Duration = Duration::from_secs(300);

/// Workers and streams remembered; more are not waited for.
const MOST: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct RecordingUse {
    /// Answers under way.
    pub fetching: u32,
    last_read: BTreeMap<(WorkerId, StreamName), Mono>,
    /// When that was last looked at.
    looked: Mono,
}

impl RecordingUse {
    fn see(&mut self, now: Mono, reading: impl Iterator<Item = (WorkerId, StreamName)>) {
        for who in reading {
            if self.last_read.len() < MOST || self.last_read.contains_key(&who) {
                self.last_read.insert(who, now);
            }
        }
        self.last_read.retain(|_, seen| now.since(*seen) <= REACH);
        self.looked = now;
    }

    /// Workers that fetch, or are away. One that is opening a leg anew counts as well, until that is seen.
    pub(super) fn wanted_by(&self) -> u32 {
        let away = self.last_read.iter().filter(|(_, seen)| **seen < self.looked);
        let away: BTreeSet<&WorkerId> = away.map(|((worker, _), _)| worker).collect();
        self.fetching + u32::try_from(away.len()).unwrap_or(u32::MAX - self.fetching)
    }
}

impl Node {
    /// Notes who reads the cameras that this node has, or had.
    pub(super) fn note_recording_use(&mut self, now: Mono) {
        let own = self.server.streams.iter().filter(|report| report.owned).map(|report| &report.name);
        let handed_over = self.draining.drain.iter().flat_map(Drain::cameras);
        let known = self.recording_use.last_read.keys().map(|(_, stream)| stream);
        let streams: BTreeSet<&StreamName> = own.chain(handed_over).chain(known).collect();
        let theirs = self.fleet.members().flat_map(|member| member.peer.streams.iter());
        let theirs = theirs.filter(|report| streams.contains(&report.name));
        let theirs = theirs.flat_map(|report| report.legs.iter().map(|leg| (leg.worker.clone(), report.name.clone())));
        let here = self.server.readers.legs.iter().map(|leg| (leg.worker.clone(), leg.stream.clone()));
        let reading: Vec<(WorkerId, StreamName)> = theirs.chain(here).collect();
        self.recording_use.see(now, reading.into_iter());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Mono {
        Mono::default() + Duration::from_secs(seconds)
    }

    fn worker(name: &str) -> (WorkerId, StreamName) {
        (WorkerId::new(name).expect("valid"), StreamName::new("cam1").expect("valid"))
    }

    #[test]
    fn a_worker_that_went_away_is_waited_for_as_long_as_the_recording_reaches_and_one_that_reads_is_not() {
        let mut used = RecordingUse::default();
        used.see(at(0), [worker("a"), worker("b")].into_iter());
        assert_eq!(used.wanted_by(), 0);
        used.see(at(10), [worker("b")].into_iter());
        assert_eq!(used.wanted_by(), 1);
        used.fetching = 2;
        assert_eq!(used.wanted_by(), 3);
        used.see(at(301), [worker("b")].into_iter());
        assert_eq!(used.wanted_by(), 2);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut used = RecordingUse::default();
        used.see(at(0), (0..2 * MOST).map(|number| worker(&format!("w{number}"))));
        assert_eq!(used.last_read.len(), MOST);
    }
}
