//! How many instances there are, are on their way, and are missing.

use std::collections::BTreeSet;
use std::time::Duration;

use mtxfleet_wire::{InstanceId, Mono, NodeId};

use super::{GOAL_HOLDS, Goal, Growing, INTENT_HOLDS, Seen};
use crate::cloud::Group;
use crate::engine::{Condition, NodeView};

/// An instance that has had its time to boot counts for so long more, and until the next listing: it is being replaced, or
/// not, by then.
const JUDGED_WITHIN: Duration = Duration::from_secs(20);

impl Growing {
    /// Instances that were asked for and have no node yet, as the engine counts nodes. `known`: the instances of all
    /// members that gossip knows, in whatever state.
    #[must_use]
    pub fn launching(&self, now: Mono, known: &BTreeSet<InstanceId>) -> Vec<NodeView> {
        let Some(seen) = &self.seen else { return Vec::new() };
        let without_node = seen.group.present().filter(|i| !known.contains(&i.id) && !self.replacing.contains(&i.id));
        let booting = without_node.filter(|instance| self.may_boot(now, &instance.id)).map(|i| i.zone.clone());
        let missing = self.pending(now, &seen.group) + self.places_held();
        let missing = std::iter::repeat_n(String::new(), missing as usize);
        let view = |(number, zone): (usize, String)| NodeView {
            // A name that no agent has: a node that is not there yet is never told anything.
            node: NodeId::new(format!("launching-{}", number + 1)).expect("letters, a dash and a number are valid"),
            condition: Condition::Launching,
            loads: Vec::new(),
            cpu: None,
            zone,
            version: String::new(),
            to_move: 0,
            protected: true,
            orchestrating: false,
        };
        booting.chain(missing).enumerate().map(view).collect()
    }

    /// What has to be desired for the goal; `None` when that is so already.
    pub(super) fn wanted(&self, now: Mono, group: &Group, goal: &Goal) -> Option<u32> {
        let known: BTreeSet<InstanceId> = goal.seats.iter().filter_map(|seat| seat.instance.clone()).collect();
        let counted = goal.seats.iter().filter(|seat| seat.counted).count() + self.launching(now, &known).len();
        let missing = goal.size.saturating_sub(counted as u32);
        let present = group.present().count() as u32;
        // Launched unasked: each takes one off the number when it is drained, and at the least none could be.
        let adopted = group.desired <= group.min && present > group.desired;
        let desired = (present + self.pending(now, group) + missing).min(group.max);
        ((missing > 0 || adopted) && desired > group.desired).then_some(desired)
    }

    /// What a predecessor was about to ask for, if nothing has happened since.
    pub(super) fn inherited(&self, now: Mono, group: &Group) -> Option<u32> {
        let (intent, written) = self.found.as_ref()?;
        let holds = now.since(*written) <= INTENT_HOLDS && group.desired == intent.from;
        let desired = intent.desired.min(group.max);
        (holds && desired > group.desired).then_some(desired)
    }

    pub(super) fn places_held(&self) -> u32 {
        self.seen.as_ref().map_or(0, |seen| self.replacing.places_held(&seen.group))
    }

    /// As many as were wanted serve, or come, without any that is to be replaced: where one was ill for long, another was
    /// launched in its stead. `None` before there is a decision on the newest listing.
    pub(super) fn is_made_up_for(&self, now: Mono, seen: &Seen, instance: &InstanceId) -> Option<bool> {
        // Where nobody decides on a size, none was launched in anybody's stead.
        let Some(aim) = &self.goal else { return Some(false) };
        if now.since(aim.at) > GOAL_HOLDS || aim.listing != Some(seen.number) {
            return None;
        }
        let replaced = |id: &InstanceId| self.replacing.contains(id);
        let seats = &aim.goal.seats;
        let serve = seats.iter().filter(|seat| seat.counted && !seat.instance.as_ref().is_some_and(replaced)).count();
        let known: BTreeSet<&InstanceId> = seats.iter().filter_map(|seat| seat.instance.as_ref()).collect();
        let comes = |id: &InstanceId| !known.contains(id) && !replaced(id) && self.may_boot(now, id);
        let come = seen.group.present().filter(|instance| comes(&instance.id)).count();
        let there = (serve + come) as u32 + self.pending(now, &seen.group);
        Some(there >= self.replacing.size_for(instance)? && seen.group.desired > seen.group.min)
    }

    /// Instances that are desired and not even listed yet. A cloud that launches nothing is not waited for for ever.
    fn pending(&self, now: Mono, group: &Group) -> u32 {
        let waits = self.short_since.is_some_and(|since| now.since(since) < self.settings.boot_deadline);
        if waits { group.desired.saturating_sub(group.present().count() as u32) } else { 0 }
    }

    pub(super) fn boots(&self, now: Mono, instance: &InstanceId) -> bool {
        self.launches.age(now, instance).is_some_and(|age| age < self.settings.boot_deadline)
    }

    fn may_boot(&self, now: Mono, instance: &InstanceId) -> bool {
        let until = self.settings.boot_deadline + self.settings.poll_every + JUDGED_WITHIN;
        self.launches.age(now, instance).is_some_and(|age| age < until)
    }
}
