//! What load balancers are told, and which of them have heard it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mtxfleet_drain::Polls;
use mtxfleet_wire::Mono;

use super::effect::BalancerWord;

/// `ready` is said for so long after a start or a return, then plain `up`: an operator's own drain by hand, set later,
/// is not undone by it. Longer than any usual `agent-inter`.
const READY_FOR: Duration = Duration::from_secs(8);
/// A balancer that has not polled for so long is gone.
const POLLER_GONE: Duration = Duration::from_secs(30);
/// A MediaMTX that is away for less is not taken out: a look that timed out once is no reason.
const ILL_FOR: Duration = Duration::from_secs(3);
/// Names of balancers that are remembered: whoever connects names itself. A load balancer has one for each backend.
const NAMES: usize = 64;

#[derive(Debug)]
pub struct Balancers {
    last_poll: BTreeMap<String, Mono>,
    since_told: BTreeMap<String, Polls>,
    returned: Mono,
}

impl Balancers {
    #[must_use]
    pub const fn new(now: Mono) -> Self {
        Self { last_poll: BTreeMap::new(), since_told: BTreeMap::new(), returned: now }
    }

    /// A balancer asked and was answered `word`.
    pub fn polled(&mut self, now: Mono, who: String, word: BalancerWord) {
        self.last_poll.retain(|_, polled| now.since(*polled) < POLLER_GONE);
        if self.last_poll.len() >= NAMES && !self.last_poll.contains_key(&who) {
            return;
        }
        let last_poll = &self.last_poll;
        self.since_told.retain(|name, _| *name == who || last_poll.contains_key(name));
        if word == BalancerWord::Drain {
            let polls = self.since_told.entry(who.clone()).or_insert(Polls { first: now, count: 0 });
            polls.count += 1;
        }
        self.last_poll.insert(who, now);
    }

    /// A drain begins: what was heard before does not count.
    pub fn leave(&mut self) {
        self.since_told.clear();
    }

    pub const fn come_back(&mut self, now: Mono) {
        self.returned = now;
    }

    #[must_use]
    pub fn known(&self) -> BTreeSet<String> {
        self.last_poll.keys().cloned().collect()
    }

    #[must_use]
    pub const fn since_told(&self) -> &BTreeMap<String, Polls> {
        &self.since_told
    }

    /// The word for a node that is in service; `ill_since` is when its MediaMTX was last well.
    #[must_use]
    pub fn word_in_service(&self, now: Mono, weight: u8, ill_since: Option<Mono>, never_seen_up: bool) -> BalancerWord {
        let ill_for = ill_since.map(|since| now.since(since)).unwrap_or_default();
        if ill_since.is_some() && (never_seen_up || ill_for >= ILL_FOR) {
            return BalancerWord::Down;
        }
        if now.since(self.returned) < READY_FOR { BalancerWord::Ready { weight } } else { BalancerWord::Up { weight } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_connects_under_ever_new_names_takes_no_memory_and_no_place_of_a_balancer() {
        let mut balancers = Balancers::new(Mono::default());
        let at = |ms| Mono(Duration::from_millis(ms));
        balancers.polled(at(0), "lb-1".into(), BalancerWord::Drain);
        for n in 0..100_000 {
            balancers.polled(at(n), format!("stranger-{n}"), BalancerWord::Drain);
            if n % 1_000 == 0 {
                balancers.polled(at(n), "lb-1".into(), BalancerWord::Drain);
            }
        }
        assert!(balancers.known().len() <= NAMES && balancers.since_told().len() <= NAMES);
        assert_eq!(balancers.since_told().get("lb-1").map(|polls| polls.count), Some(101));
    }
}
