//! Which machines of a cluster are to be replaced, and why, and which not yet.
//!
//! A machine is replaced by ending its instance without decrement: the cloud's group then launches another. Orders are
//! absolute: an instance that is gone already is ended again without harm.
//!
//! | what | becomes | after |
//! |---|---|---|
//! | a dead member with an instance | [`ReplaceReason::Dead`] | `settle` |
//! | a member that asks for it | [`ReplaceReason::Hopeless`] | `settle` |
//! | an instance that no agent speaks for | [`ReplaceReason::NeverJoined`] | its boot deadline |
//! | an agent whose instance is not in the group | [`Verdict::strays`]: said, never ended | at once |
//!
//! Architecture invariant: without a complete listing of the group nothing is replaced, and nothing is an orphan.
//!
//! When half of the cluster looks dead, and more than one node, it is the detector that is doubted: a network that is
//! split looks the same from both sides. A storm of replacements is held at `at_most` in `window`, over all terms: each
//! orchestrator says in its health report what it ordered ([`Replacer::ordered_lately`]), and every agent of the role
//! [heeds](Replacer::heed) it, also long before it leads itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mtxfleet_wire::{Ill, InstanceId, Liveness, MemberView, Mono, NodeId, NodeState, Replaced, Role};
use serde::{Deserialize, Serialize};

use crate::cloud::{Group, Instance, InstanceState};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplaceSettings {
    /// A verdict must stand for so long; 5 s.
    pub settle: Duration,
    /// An instance whose agent has not spoken by then never will; 5 min.
    pub boot_deadline: Duration,
    /// Replacements begun in `window`, at most; 3 in 10 min.
    pub at_most: u32,
    pub window: Duration,
}

impl Default for ReplaceSettings {
    fn default() -> Self {
        Self {
            settle: Duration::from_secs(5),
            boot_deadline: Duration::from_secs(300),
            at_most: 3,
            window: Duration::from_secs(600),
        }
    }
}

/// Why a machine is to be replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum ReplaceReason {
    /// Silent, as another node confirms.
    Dead { node: NodeId },
    /// Its agent has tried what it can.
    Hopeless { node: NodeId, ills: Vec<Ill> },
    /// It runs, and no agent speaks for it.
    NeverJoined { seconds: u64 },
}

impl std::fmt::Display for ReplaceReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dead { node } => write!(f, "{node} is dead"),
            Self::Hopeless { node, ills } => {
                let ills: Vec<&str> = ills.iter().map(|ill| ill.as_str()).collect();
                write!(f, "{node} asks to be replaced ({})", ills.join(", "))
            }
            Self::NeverJoined { seconds } => write!(f, "no agent speaks for it {seconds} s after its launch"),
        }
    }
}

/// Why one that should be replaced is not, yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "held")]
pub enum Held {
    /// Too many were replaced lately.
    Storm { lately: u32, at_most: u32 },
    /// So many look dead at once that it may be the network.
    HalfDead { dead: u32, of: u32 },
    /// The cloud keeps it.
    Protected,
    /// It never said which instance it is.
    NoInstance,
    /// No complete listing of the group is there.
    NoListing,
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Storm { lately, at_most } => write!(f, "{lately} were replaced lately, {at_most} may be"),
            Self::HalfDead { dead, of } => write!(f, "{dead} of {of} look dead: the network is doubted, not the nodes"),
            Self::Protected => f.write_str("the cloud protects it"),
            Self::NoInstance => f.write_str("it never said which instance it is; set node.instance"),
            Self::NoListing => f.write_str("the cloud has not listed its group"),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Instances to end without decrement, again and again until the group no longer counts them.
    pub replace: BTreeMap<InstanceId, ReplaceReason>,
    /// By instance, or by node where none is known.
    pub held: BTreeMap<String, (ReplaceReason, Held)>,
    /// Live members of the role whose instance the group does not list: nobody pays attention to them but they run.
    pub strays: BTreeSet<NodeId>,
}

/// Remembers since when, and what was ordered lately.
#[derive(Debug)]
pub struct Replacer {
    settings: ReplaceSettings,
    since: BTreeMap<String, Mono>,
    /// Orders of this node, and when.
    ordered: BTreeMap<InstanceId, Mono>,
    /// Orders of its predecessors, and until when they count.
    heeded: BTreeMap<InstanceId, Mono>,
}

impl Replacer {
    #[must_use]
    pub const fn new(settings: ReplaceSettings) -> Self {
        Self { settings, since: BTreeMap::new(), ordered: BTreeMap::new(), heeded: BTreeMap::new() }
    }

    /// Takes note of what other orchestrators of the role say that they ordered, the dead ones' last words among them. To be
    /// called all the time: what is heard first decides until when it counts, on the clock of this node alone.
    pub fn heed<'a>(&mut self, now: Mono, reports: impl IntoIterator<Item = &'a [Replaced]>) {
        self.heeded.retain(|_, until| *until > now);
        for replaced in reports.into_iter().flatten() {
            let left = self.settings.window.saturating_sub(Duration::from_secs(replaced.seconds_ago.into()));
            if !left.is_zero() && !self.ordered.contains_key(&replaced.instance) {
                self.heeded.entry(replaced.instance.clone()).or_insert(now + left);
            }
        }
    }

    /// What this node ordered itself, for its report. What it heeded is not said again, or it would never be forgotten.
    #[must_use]
    pub fn ordered_lately(&self, now: Mono) -> Vec<Replaced> {
        let recent = self.ordered.iter().filter(|(_, ordered)| now.since(**ordered) < self.settings.window);
        let say = |(instance, ordered): (&InstanceId, &Mono)| Replaced {
            instance: instance.clone(),
            seconds_ago: u32::try_from(now.since(*ordered).as_secs()).unwrap_or(u32::MAX),
        };
        recent.map(say).collect()
    }

    /// `members` are all of the fleet, this node among them; `group` is the newest complete listing, if there is one.
    pub fn judge(&mut self, now: Mono, role: Role, members: &[MemberView], group: Option<&Group>) -> Verdict {
        let mut verdict = Verdict::default();
        let mine: Vec<&MemberView> = members.iter().filter(|member| is_of(member, role)).collect();
        let mut wanted = Vec::new();
        for member in &mine {
            if let Some(reason) = ails(member) {
                wanted.push((self.target(member, group), reason));
            }
        }
        if let Some(group) = group {
            wanted.extend(self.never_joined(members, group));
            verdict.strays = strays(&mine, group);
        }
        wanted.retain(|(target, _)| *target != Target::Gone);
        self.settle(now, &mut wanted);
        let doubt = self.doubt(&mine, group);
        self.ordered.retain(|_, ordered| now.since(*ordered) < self.settings.window);
        self.heeded.retain(|_, until| *until > now);
        for (target, reason) in wanted {
            let held = |why| (reason.clone(), why);
            match target {
                Target::Instance(instance) if !instance.protected => {
                    // What looks dead may be cut off. One that speaks for itself, or never spoke, does not.
                    let doubted = doubt.clone().filter(|_| matches!(reason, ReplaceReason::Dead { .. }));
                    match doubted.or_else(|| self.storm(&instance.id)) {
                        Some(why) => {
                            verdict.held.insert(instance.id.to_string(), held(why));
                        }
                        None => {
                            if !self.heeded.contains_key(&instance.id) {
                                self.ordered.entry(instance.id.clone()).or_insert(now);
                            }
                            verdict.replace.insert(instance.id, reason);
                        }
                    }
                }
                Target::Instance(instance) => {
                    verdict.held.insert(instance.id.to_string(), held(Held::Protected));
                }
                Target::Unknown(node, why) => {
                    verdict.held.insert(node.to_string(), held(why));
                }
                Target::Gone => {}
            }
        }
        verdict
    }

    fn target(&self, member: &MemberView, group: Option<&Group>) -> Target {
        let node = || member.node.clone();
        let Some(group) = group else { return Target::Unknown(node(), Held::NoListing) };
        match member.facts.as_ref().and_then(|facts| facts.instance.as_ref()) {
            None => match group.present().find(|instance| instance.node.as_ref() == Some(&member.node)) {
                Some(instance) => Target::Instance(instance.clone()),
                None => Target::Unknown(node(), Held::NoInstance),
            },
            Some(id) => match group.present().find(|instance| instance.id == *id) {
                Some(instance) => Target::Instance(instance.clone()),
                None => Target::Gone,
            },
        }
    }

    fn never_joined(&self, members: &[MemberView], group: &Group) -> Vec<(Target, ReplaceReason)> {
        let spoken_for = |instance: &Instance| {
            members.iter().any(|member| {
                let says = member.facts.as_ref().is_some_and(|facts| facts.instance.as_ref() == Some(&instance.id));
                says || instance.node.as_ref() == Some(&member.node)
            })
        };
        let late = |instance: &&Instance| {
            instance.state == InstanceState::InService
                && instance.age.is_some_and(|age| age >= self.settings.boot_deadline)
                && !spoken_for(instance)
        };
        let wanted = |instance: &Instance| {
            let seconds = instance.age.unwrap_or_default().as_secs();
            (Target::Instance(instance.clone()), ReplaceReason::NeverJoined { seconds })
        };
        group.instances.iter().filter(late).map(wanted).collect()
    }

    /// Keeps those that were wanted for long enough.
    fn settle(&mut self, now: Mono, wanted: &mut Vec<(Target, ReplaceReason)>) {
        let names: BTreeSet<String> = wanted.iter().map(|(target, _)| target.name()).collect();
        self.since.retain(|name, _| names.contains(name));
        wanted.retain(|(target, _)| {
            let since = *self.since.entry(target.name()).or_insert(now);
            now.since(since) >= self.settings.settle
        });
    }

    fn doubt(&self, mine: &[&MemberView], group: Option<&Group>) -> Option<Held> {
        // One that was replaced already is dead beyond doubt, and says nothing about the others.
        let counts = |member: &&&MemberView| {
            let instance = member.facts.as_ref().and_then(|facts| facts.instance.as_ref());
            match (instance, group) {
                (Some(instance), Some(group)) => {
                    group.present().any(|present| present.id == *instance)
                        && !self.ordered.contains_key(instance)
                        && !self.heeded.contains_key(instance)
                }
                _ => true,
            }
        };
        let of = mine.iter().filter(counts).count();
        let dead = mine.iter().filter(counts).filter(|member| member.liveness != Liveness::Alive).count();
        (dead >= 2 && dead * 2 >= of).then_some(Held::HalfDead { dead: dead as u32, of: of as u32 })
    }

    fn storm(&self, instance: &InstanceId) -> Option<Held> {
        let at_most = self.settings.at_most;
        let lately = (self.ordered.len() + self.heeded.len()) as u32;
        // Those that were ordered already are ordered again until they are gone, also by a successor.
        let is_new = !self.ordered.contains_key(instance) && !self.heeded.contains_key(instance);
        (is_new && lately >= at_most).then_some(Held::Storm { lately, at_most })
    }
}

/// What is to be ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Instance(Instance),
    Unknown(NodeId, Held),
    /// Its instance is gone, or on its way out: the group has seen to it.
    Gone,
}

impl Target {
    fn name(&self) -> String {
        match self {
            Self::Instance(instance) => instance.id.to_string(),
            Self::Unknown(node, _) => node.to_string(),
            Self::Gone => String::new(),
        }
    }
}

fn is_of(member: &MemberView, role: Role) -> bool {
    member.facts.as_ref().is_some_and(|facts| facts.role == role)
}

/// A node that is offline was drained, and ends itself.
fn ails(member: &MemberView) -> Option<ReplaceReason> {
    let load = member.load.as_ref();
    let drained = load.is_some_and(|load| load.state == NodeState::Offline);
    match member.liveness {
        Liveness::Dead if !drained => Some(ReplaceReason::Dead { node: member.node.clone() }),
        Liveness::Alive if !drained => {
            let health = load?.health.as_ref().filter(|health| health.hopeless)?;
            Some(ReplaceReason::Hopeless { node: member.node.clone(), ills: health.ills.clone() })
        }
        _ => None,
    }
}

fn strays(mine: &[&MemberView], group: &Group) -> BTreeSet<NodeId> {
    let is_stray = |member: &&&MemberView| {
        let instance = member.facts.as_ref().and_then(|facts| facts.instance.as_ref());
        member.liveness == Liveness::Alive && instance.is_some_and(|instance| group.instance(instance).is_none())
    };
    mine.iter().filter(is_stray).map(|member| member.node.clone()).collect()
}

#[cfg(test)]
#[path = "replacement_tests.rs"]
mod tests;
