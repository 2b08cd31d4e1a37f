//! This node as the orchestrator of its role: machines that are to be replaced, handed to whoever speaks to the cloud.
//!
//! `leader::health::replacement` decides; the cloud's group starts the next one by itself, since the end of an instance
//! without decrement leaves its number as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mtxfleet_leader::Member;
use mtxfleet_leader::election::Standing;
use mtxfleet_leader::health::replacement::{Held, ReplaceReason, ReplaceSettings, Replacer, Verdict};
use mtxfleet_wire::{EventKind, InstanceId, MemberView, Mono, NodeId, Replaced};

use super::effect::Effect;
use super::{Node, Now};

const JUDGE_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Replacing {
    replacer: Replacer,
    judged: Option<Mono>,
    said: BTreeMap<InstanceId, ReplaceReason>,
    said_held: BTreeMap<String, (ReplaceReason, Held)>,
    said_strays: BTreeSet<NodeId>,
}

impl Replacing {
    pub(super) const fn new(settings: ReplaceSettings) -> Self {
        Self {
            replacer: Replacer::new(settings),
            judged: None,
            said: BTreeMap::new(),
            said_held: BTreeMap::new(),
            said_strays: BTreeSet::new(),
        }
    }

    /// For the health report, where a successor reads it.
    pub(super) fn ordered_lately(&self, now: Mono) -> Vec<Replaced> {
        self.replacer.ordered_lately(now)
    }

    /// What is replaced now, what is not, and why: for the decision log.
    pub(super) fn notes(&self) -> impl Iterator<Item = String> {
        let replaced = self.said.iter().map(|(instance, why)| format!("{instance} is replaced: {why}"));
        let held =
            self.said_held.iter().map(|(name, (why, held))| format!("{name} is not replaced although {why}: {held}"));
        let strays = self.said_strays.iter().map(|node| format!("the instance of {node} is not in the cloud's group"));
        replaced.chain(held).chain(strays)
    }
}

impl Node {
    /// Judges while this node acts, and is neither paused nor only trying.
    pub(super) fn replace_machines(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let role = self.settings.facts.role;
        let of_role =
            self.fleet.members().filter(|member| member.peer.facts.as_ref().is_some_and(|facts| facts.role == role));
        let said = of_role.filter_map(|member| Some(member.peer.load.as_ref()?.health.as_ref()?.replaced.as_slice()));
        self.replacing.replacer.heed(now.mono, said);
        let acts = matches!(self.leadership.standing(now.mono), Standing::Acting { .. });
        if self.cloud.is_none() || !acts || self.orchestrating.is_dry() || self.controls.paused(role).is_some() {
            if self.replacing.judged.take().is_some() {
                self.replace_instances(BTreeSet::new());
                self.replacing.said.clear();
                self.replacing.said_held.clear();
                self.replacing.said_strays.clear();
            }
            return;
        }
        if self.replacing.judged.is_some_and(|judged| now.mono.since(judged) < JUDGE_EVERY) {
            return;
        }
        let mut members: Vec<MemberView> = self.fleet.members().map(Member::view).collect();
        members.push(self.member_view(now));
        let group = self.cloud.as_ref().and_then(|cloud| cloud.group(now.mono));
        let verdict = self.replacing.replacer.judge(now.mono, role, &members, group);
        self.replacing.judged = Some(now.mono);
        self.say_replaced(now, &verdict, effects);
        self.replace_instances(verdict.replace.into_keys().collect());
    }

    fn say_replaced(&mut self, now: Now, verdict: &Verdict, effects: &mut Vec<Effect>) {
        for (instance, reason) in &verdict.replace {
            if self.replacing.said.contains_key(instance) {
                continue;
            }
            let about = match reason {
                ReplaceReason::Dead { node } | ReplaceReason::Hopeless { node, .. } => node.clone(),
                ReplaceReason::NeverJoined { .. } => self.settings.id.clone(),
            };
            let what = EventKind::NodeReplaced { instance: instance.clone(), why: reason.to_string() };
            effects.push(Effect::Announce(self.event_about(now, about, what)));
        }
        self.replacing.said.clone_from(&verdict.replace);
        for (name, (reason, held)) in &verdict.held {
            // Numbers in the reasons change; that one is held, and why, is said once.
            let kind = |held: &Held| std::mem::discriminant(held);
            if self.replacing.said_held.get(name).is_none_or(|(_, said)| kind(said) != kind(held)) {
                tracing::warn!(name, "not replaced although {reason}: {held}");
            }
        }
        self.replacing.said_held.clone_from(&verdict.held);
        for stray in verdict.strays.difference(&self.replacing.said_strays) {
            tracing::warn!(node = %stray, "its instance is not in the cloud's group: it serves, and nobody would end it");
        }
        self.replacing.said_strays.clone_from(&verdict.strays);
    }
}
