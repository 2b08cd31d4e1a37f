//! The nodes that pulled cameras are placed on, steadied: a node that goes is taken out at once, one that comes is taken
//! in when it has been fit for a while, and one in doubt stays what it was. Without this, a node that flaps would move its
//! share of all cameras each time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mtxfleet_wire::{Mono, NodeId};

/// In doubt for so long, a node is out: its MediaMTX does not come back. A node that is silent is dead before that.
const DOUBTED_FOR: Duration = Duration::from_secs(15);

/// What a node is good for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fitness {
    /// In service.
    Fit,
    /// Silent just now, or its MediaMTX is away: perhaps back in a moment, and moving its cameras takes as long.
    InDoubt,
    /// Draining, offline, dead, without an inventory.
    Out,
}

#[derive(Debug, Clone, Default)]
pub struct Takers {
    in_use: BTreeSet<NodeId>,
    fit_since: BTreeMap<NodeId, Mono>,
    doubted_since: BTreeMap<NodeId, Mono>,
}

impl Takers {
    /// `seen`: every node of the role, this one among them; who is not named is out. `settle`: for how long a node is fit
    /// before it takes cameras.
    pub fn look(&mut self, now: Mono, settle: Duration, seen: &BTreeMap<NodeId, Fitness>) -> &BTreeSet<NodeId> {
        let known = |node: &NodeId| seen.get(node).is_some_and(|fitness| *fitness != Fitness::Out);
        self.in_use.retain(known);
        self.fit_since.retain(|node, _| seen.get(node) == Some(&Fitness::Fit));
        self.doubted_since.retain(|node, _| seen.get(node) == Some(&Fitness::InDoubt));
        let knew_nobody = self.in_use.is_empty();
        for (node, fitness) in seen {
            match fitness {
                Fitness::Fit => {
                    let since = *self.fit_since.entry(node.clone()).or_insert(now);
                    if now.since(since) >= settle {
                        self.in_use.insert(node.clone());
                    }
                }
                Fitness::InDoubt => {
                    let since = *self.doubted_since.entry(node.clone()).or_insert(now);
                    if now.since(since) >= DOUBTED_FOR {
                        self.in_use.remove(node);
                    }
                }
                Fitness::Out => {}
            }
        }
        // Who has just started hears of the others a moment after itself, and would take all cameras for that moment.
        if knew_nobody && !self.in_use.is_empty() {
            self.in_use.extend(self.fit_since.keys().cloned());
        }
        &self.in_use
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: Duration = Duration::from_secs(5);

    fn look(takers: &mut Takers, seconds: u64, seen: &[(&str, Fitness)]) -> Vec<String> {
        let seen = seen.iter().map(|(node, fitness)| (NodeId::new(*node).expect("valid"), *fitness)).collect();
        takers.look(Mono(Duration::from_secs(seconds)), SETTLE, &seen).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_node_takes_cameras_when_it_was_fit_for_a_while_and_none_the_moment_it_is_out() {
        use Fitness::{Fit, Out};
        let mut takers = Takers::default();
        assert!(look(&mut takers, 0, &[("a", Fit)]).is_empty());
        assert_eq!(look(&mut takers, 5, &[("a", Fit)]), ["a"]);
        assert_eq!(look(&mut takers, 6, &[("a", Fit), ("b", Fit)]), ["a"]);
        assert_eq!(look(&mut takers, 11, &[("a", Fit), ("b", Fit)]), ["a", "b"]);
        assert_eq!(look(&mut takers, 12, &[("a", Out), ("b", Fit)]), ["b"]);
        assert_eq!(look(&mut takers, 13, &[("a", Fit), ("b", Fit)]), ["b"], "it has to settle again");
        assert_eq!(look(&mut takers, 18, &[("a", Fit)]), ["a"], "who is not named is out");
    }

    #[test]
    fn a_node_that_has_just_started_does_not_take_what_belongs_to_others_that_it_hears_of_later() {
        use Fitness::{Fit, InDoubt};
        let mut takers = Takers::default();
        assert!(look(&mut takers, 0, &[("new", Fit)]).is_empty());
        assert!(look(&mut takers, 1, &[("new", Fit), ("old", Fit), ("ill", InDoubt)]).is_empty());
        let seen = [("new", Fit), ("old", Fit), ("ill", InDoubt)];
        assert_eq!(look(&mut takers, 5, &seen), ["new", "old"]);
    }

    #[test]
    fn a_node_in_doubt_stays_what_it_was_for_a_while() {
        use Fitness::{Fit, InDoubt};
        let mut takers = Takers::default();
        look(&mut takers, 0, &[("a", Fit)]);
        assert_eq!(look(&mut takers, 5, &[("a", Fit), ("b", InDoubt)]), ["a"]);
        assert_eq!(look(&mut takers, 6, &[("a", InDoubt), ("b", InDoubt)]), ["a"]);
        assert_eq!(look(&mut takers, 20, &[("a", InDoubt)]), ["a"]);
        assert!(look(&mut takers, 21, &[("a", InDoubt)]).is_empty());
    }
}
