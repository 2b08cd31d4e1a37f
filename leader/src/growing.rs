//! From the size that a plan wants to calls to the cloud, and back from the cloud's listing to nodes that launch.
//!
//! ```text
//!             new term: what did the last one leave?      fewer than wanted, on a fresh listing
//!   Fresh ------------------------------------------> Idle -----------------------------------> Writing
//!     ^                                                ^  ^                                        | the intent is in the
//!     | the term ends, or the registry refuses it      |  +--- failed: a pause, a new listing --+  v registry
//!     +------------------------------------------------+--------- done: intent dropped ----- Calling
//! ```
//! - What is asked for is absolute: the instances there are, those on their way, and those that are missing. It is never
//!   lower than what is desired already, so a call that comes twice, or late, does no harm.
//! - An instance that leaves, or does not serve as it should, still has its place in the group: the plan's size comes on
//!   top of it. One that launches counts for the plan as soon as it is asked for, whether its agent speaks yet or not.
//! - More instances than were asked for are no reason to ask for more: only what is *missing* raises the number.
//! - A call is made while the lease outlasts it, and after the intent was written; a successor finds that, and finishes
//!   or drops it. Without Redis, where one node alone may grow the cluster, there is no intent.
//! - A listing that failed changes nothing: what was seen last stays, and nothing is asked for on it.

mod counting;
mod intent;
mod launches;
mod replacing;

use std::collections::BTreeSet;
use std::time::Duration;

use mtxfleet_wire::{InstanceId, Mono, Role, Token};

use crate::cloud::{CALL_WITHIN, CloudAnswer, CloudAsk, CloudCall, CloudError, Group};
pub use intent::{Found, Intent, IntentAnswer, IntentAsk, IntentOrder};
pub use launches::LaunchTimes;
use launches::Launches;
use replacing::Replacing;

/// A listing is good enough to grow on for so long; an older one is made anew first, and decided on again.
const FRESH: Duration = Duration::from_secs(2);

/// So long before a window that may end in growth, a listing is made that will be fresh then: a cloud takes its time.
const AHEAD: Duration = Duration::from_secs(1);

/// What was wanted so long ago is not wanted any more: whoever decides falls silent.
const GOAL_HOLDS: Duration = Duration::from_secs(2);

/// Beyond the limit of a call, for its way; then its answer is not waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// After a failure; doubled by each further one up to the last. A refusal is not repeated soon.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const AFTER_REFUSAL: Duration = Duration::from_secs(30);

/// A predecessor's intent is finished for so long; then its reasons may have passed.
const INTENT_HOLDS: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    pub poll_every: Duration,
    pub boot_deadline: Duration,
}

/// What allows this node to act on the cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// It holds the lease: of this term, until then on its own clock.
    Term { token: Token, until: Mono },
    /// Redis is away, and this node alone may let the cluster grow.
    GrowOnly,
}

/// A member of the role, as the last decision saw it; every one that gossip knows, also those that are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    pub instance: Option<InstanceId>,
    /// It is among the nodes that the plan's size counts.
    pub counted: bool,
    pub serves: bool,
    pub has_readers: bool,
}

/// What a decision wants, with what it was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goal {
    /// Nodes that are to serve or to launch.
    pub size: u32,
    pub seats: Vec<Seat>,
    /// More will be wanted then, if the load stays as it is.
    pub agrees_in: Option<Duration>,
}

/// What is to be done outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    Cloud(CloudAsk),
    Intent(IntentOrder),
}

/// How growing stands, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    pub desired: Option<u32>,
    pub present: Option<u32>,
    /// Since the cloud was listed last; `None`: not in this term.
    pub listed: Option<Duration>,
    pub failures: u32,
    /// For how long more have been desired than are there.
    pub short_for: Option<Duration>,
    /// Why the cloud does not do as wanted.
    pub problem: Option<String>,
    /// Instances without a node after the boot deadline.
    pub orphans: Vec<InstanceId>,
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Fresh { ask_at: Mono },
    Reading { number: u64, asked: Mono },
    Idle,
    Writing { number: u64, asked: Mono, intent: Intent },
    Calling { number: u64, asked: Mono, intent: Intent },
}

#[derive(Debug)]
struct Seen {
    group: Group,
    at: Mono,
    /// Of the ask that it answers.
    number: u64,
}

#[derive(Debug)]
struct Aim {
    goal: Goal,
    at: Mono,
    /// The listing that the decision knew. On another one it says nothing: what launched then may be a node by now, and
    /// would be missed twice or counted twice.
    listing: Option<u64>,
}

#[derive(Debug)]
pub struct Growing {
    role: Role,
    settings: Settings,
    numbers: u64,
    leave: Option<Leave>,
    /// The registry knows a later term than this one.
    fenced: Option<Token>,
    step: Step,
    goal: Option<Aim>,
    seen: Option<Seen>,
    listing: Option<(u64, Mono)>,
    next_listing: Mono,
    listing_failures: u32,
    /// More are desired than are there, since then.
    short_since: Option<Mono>,
    /// An intent stands in the registry and is to be dropped when it is fulfilled.
    open: Option<Intent>,
    found: Option<(Intent, Mono)>,
    pause_until: Mono,
    failures: u32,
    problem: Option<String>,
    /// Why the registry did not answer the last time.
    registry: Option<String>,
    launches: Launches,
    replacing: Replacing,
}

impl Growing {
    #[must_use]
    pub fn new(role: Role, settings: Settings) -> Self {
        Self {
            role,
            settings,
            numbers: 0,
            leave: None,
            fenced: None,
            step: Step::Fresh { ask_at: Mono::default() },
            goal: None,
            seen: None,
            listing: None,
            next_listing: Mono::default(),
            listing_failures: 0,
            short_since: None,
            open: None,
            found: None,
            pause_until: Mono::default(),
            failures: 0,
            problem: None,
            registry: None,
            launches: Launches::default(),
            replacing: Replacing::default(),
        }
    }

    /// What the decision just made wants; `None` while nothing may be done (a pause, a trial run). It is to be given anew
    /// with every decision, and is forgotten soon after the last one.
    pub fn aim(&mut self, now: Mono, goal: Option<Goal>) {
        if let (Some(seen), Some(goal)) = (&self.seen, &goal) {
            self.launches.look(now, &seen.group, seen.at, &goal.seats);
        }
        let listing = self.seen.as_ref().map(|seen| seen.number);
        self.goal = goal.map(|goal| Aim { goal, at: now, listing });
    }

    /// Dead or hopeless instances that others are to take the place of.
    pub fn replace(&mut self, instances: BTreeSet<InstanceId>) {
        let wanted = self.goal.as_ref().map_or(u32::MAX, |aim| aim.goal.size.saturating_sub(self.places_held()));
        self.replacing.set(instances, wanted);
    }

    /// The newest complete listing, while it is fresh enough to act on, and this node may act.
    #[must_use]
    pub fn group(&self, now: Mono) -> Option<&Group> {
        self.leave?;
        let fresh = |seen: &&Seen| now.since(seen.at) <= self.settings.poll_every + ANSWER_WITHIN;
        self.seen.as_ref().filter(fresh).map(|seen| &seen.group)
    }

    /// The number of the newest complete listing: what was decided before it says nothing of it.
    #[must_use]
    pub fn listing(&self) -> Option<u64> {
        self.seen.as_ref().map(|seen| seen.number)
    }

    /// One turn, with what this node may do now.
    pub fn pass_time(&mut self, now: Mono, leave: Option<Leave>) -> Vec<Ask> {
        self.take_leave(now, leave);
        let Some(leave) = self.leave else { return Vec::new() };
        self.give_up_waiting(now);
        let mut asks = Vec::new();
        if self.listing.is_none() && (now >= self.next_listing || self.would_be_stale(now)) {
            asks.push(self.list(now));
        }
        match self.step {
            Step::Fresh { ask_at } if now >= ask_at => match leave {
                Leave::Term { token, .. } => asks.push(self.read(now, token)),
                Leave::GrowOnly => self.step = Step::Idle,
            },
            Step::Idle => asks.extend(self.act(now, leave)),
            _ => {}
        }
        asks.extend(self.end_one(now, leave));
        asks
    }

    /// An answer of the cloud. One that nobody waits for changes nothing.
    pub fn answered(&mut self, now: Mono, number: u64, answer: Result<CloudAnswer, CloudError>) -> Vec<Ask> {
        if self.listing.take_if(|(asked, _)| *asked == number).is_some() {
            match answer {
                Ok(CloudAnswer::Group(group)) => self.listed(now, number, group),
                Ok(CloudAnswer::Done) => self.not_listed(now, "it answers without a listing".to_owned()),
                Err(error) => self.not_listed(now, error.to_string()),
            }
            let leave = self.leave;
            return self.pass_time(now, leave);
        }
        if self.replacing.answered(now, number, &answer) {
            // Also after a failure: it may have been carried out.
            self.next_listing = now;
            return Vec::new();
        }
        let Step::Calling { number: asked, intent, .. } = &self.step else { return Vec::new() };
        if *asked != number {
            return Vec::new();
        }
        let intent = intent.clone();
        self.step = Step::Idle;
        // Also after a failure: it may have been carried out.
        self.next_listing = now;
        match answer {
            Ok(_) => {
                self.failures = 0;
                self.problem = None;
                if let Some(seen) = &mut self.seen {
                    seen.group.desired = seen.group.desired.max(intent.desired);
                    self.short_since.get_or_insert(now);
                }
            }
            Err(error) => self.failed(now, &error),
        }
        let leave = self.leave;
        self.pass_time(now, leave)
    }

    /// An answer of the registry to an [`IntentOrder`].
    pub fn intent_answered(&mut self, now: Mono, number: u64, answer: IntentAnswer) -> Vec<Ask> {
        let step = match &self.step {
            Step::Reading { number: asked, .. } | Step::Writing { number: asked, .. } if *asked == number => {
                std::mem::replace(&mut self.step, Step::Idle)
            }
            _ => return Vec::new(),
        };
        let leave = self.leave;
        self.registry = match &answer {
            IntentAnswer::Unreachable(why) => Some(format!("the registry: {why}")),
            _ => None,
        };
        match (answer, step) {
            (IntentAnswer::Found(found), Step::Reading { .. }) => {
                self.found = found.map(|found| (found.intent, Mono(now.0.saturating_sub(found.age))));
            }
            (IntentAnswer::Done, Step::Writing { intent, .. }) => {
                self.open = Some(intent.clone());
                return leave.and_then(|leave| self.call(now, leave, intent)).into_iter().collect();
            }
            (IntentAnswer::Fenced, _) => {
                if let Some(Leave::Term { token, .. }) = leave {
                    self.fenced = Some(token);
                }
                self.problem = Some("another orchestrator has taken over".to_owned());
                self.step = Step::Fresh { ask_at: now };
                return Vec::new();
            }
            (IntentAnswer::Unreachable(_), Step::Reading { .. }) => {
                self.step = Step::Fresh { ask_at: now + FIRST_PAUSE };
            }
            (IntentAnswer::Unreachable(_), _) => self.pause_until = now + FIRST_PAUSE,
            _ => {}
        }
        self.pass_time(now, leave)
    }

    /// From launch to service, as seen of this group's last launches; `None` before the first.
    #[must_use]
    pub fn lead(&self) -> Option<Duration> {
        self.launches.lead()
    }

    /// Launches that have come further since this was asked last.
    pub fn take_launched(&mut self) -> Vec<LaunchTimes> {
        self.launches.take_news()
    }

    /// Why the cloud would not let this instance end; such a node is not to be drained. `None` where it would, or where
    /// it is not known.
    #[must_use]
    pub fn keeps(&self, instance: &InstanceId) -> Option<String> {
        let group = &self.seen.as_ref()?.group;
        let instance = group.instance(instance)?;
        if let Some(why) = &group.keeps {
            return Some(why.clone());
        }
        if instance.protected {
            return Some("the cloud protects it".to_owned());
        }
        let at_least = group.desired <= group.min;
        at_least.then(|| format!("the group has {} desired, and that is its least", group.desired))
    }

    #[must_use]
    pub fn progress(&self, now: Mono, known: &BTreeSet<InstanceId>) -> Progress {
        let seen = self.seen.as_ref();
        let orphans = seen.iter().flat_map(|seen| seen.group.present());
        let orphans = orphans.filter(|i| !known.contains(&i.id) && !self.boots(now, &i.id)).map(|i| i.id.clone());
        Progress {
            desired: seen.map(|seen| seen.group.desired),
            present: seen.map(|seen| seen.group.present().count() as u32),
            listed: seen.map(|seen| now.since(seen.at)),
            failures: self.failures.max(self.listing_failures),
            short_for: self.short_since.map(|since| now.since(since)),
            problem: self.problem.as_ref().or(self.registry.as_ref()).or(self.replacing.problem()).cloned(),
            orphans: orphans.collect(),
        }
    }

    fn take_leave(&mut self, now: Mono, leave: Option<Leave>) {
        let leave = leave.filter(|leave| match leave {
            Leave::Term { token, .. } => self.fenced != Some(*token),
            Leave::GrowOnly => true,
        });
        let term = |leave: &Leave| match leave {
            Leave::Term { token, .. } => Some(*token),
            Leave::GrowOnly => None,
        };
        if self.leave.as_ref().map(term) != leave.as_ref().map(term) {
            self.step = Step::Fresh { ask_at: now };
            (self.open, self.found, self.goal, self.seen, self.short_since) = (None, None, None, None, None);
            (self.listing, self.next_listing, self.listing_failures) = (None, now, 0);
            (self.pause_until, self.failures, self.problem, self.registry) = (now, 0, None, None);
            self.replacing.begin_term(now);
        }
        self.leave = leave;
    }

    fn give_up_waiting(&mut self, now: Mono) {
        let late = |asked: Mono| now.since(asked) > ANSWER_WITHIN;
        if self.listing.is_some_and(|(_, asked)| late(asked)) {
            self.listing = None;
            self.not_listed(now, CloudError::TimedOut.to_string());
        }
        if self.replacing.give_up_waiting(now) {
            self.next_listing = now;
        }
        match self.step {
            Step::Reading { asked, .. } if late(asked) => self.step = Step::Fresh { ask_at: now },
            Step::Writing { asked, .. } | Step::Calling { asked, .. } if late(asked) => {
                self.step = Step::Idle;
                self.next_listing = now;
                self.failed(now, &CloudError::TimedOut);
            }
            _ => {}
        }
    }

    /// More may be wanted in a moment, and the listing would be too old to grow on.
    fn would_be_stale(&self, now: Mono) -> bool {
        let (Some(aim), Some(seen)) = (&self.goal, &self.seen) else { return false };
        let left = aim.goal.agrees_in.map(|wait| wait.saturating_sub(now.since(aim.at)));
        let stale = |left: Duration| left <= AHEAD && now.since(seen.at) + left + FRESH / 4 > FRESH;
        self.listing_failures == 0 && now.since(aim.at) <= GOAL_HOLDS && left.is_some_and(stale)
    }

    /// Grows if something is missing; drops an intent that is fulfilled or not wanted any more.
    fn act(&mut self, now: Mono, leave: Leave) -> Option<Ask> {
        let seen = self.seen.as_ref()?;
        let aim = self.goal.as_ref().filter(|aim| now.since(aim.at) <= GOAL_HOLDS)?;
        if aim.listing != Some(seen.number) {
            return None;
        }
        let wanted = self.wanted(now, &seen.group, &aim.goal).max(self.inherited(now, &seen.group));
        let fresh = now.since(seen.at) <= FRESH;
        let Some(desired) = wanted else {
            let stands = self.open.is_some() || self.found.is_some();
            if !stands || !fresh {
                return None;
            }
            (self.open, self.found) = (None, None);
            let Leave::Term { token, .. } = leave else { return None };
            let number = self.number();
            return Some(Ask::Intent(IntentOrder { number, role: self.role, token, ask: IntentAsk::Drop }));
        };
        if now < self.pause_until {
            return None;
        }
        if !fresh {
            // After a failure the pause before the next one holds.
            let may = self.listing.is_none() && (self.listing_failures == 0 || now >= self.next_listing);
            return may.then(|| self.list(now));
        }
        let intent = Intent { desired, from: seen.group.desired };
        match leave {
            Leave::GrowOnly => self.call(now, leave, intent),
            // It would be too late for the call that follows.
            Leave::Term { until, .. } if now + CALL_WITHIN >= until => None,
            Leave::Term { token, .. } => {
                self.found = None;
                let number = self.number();
                self.step = Step::Writing { number, asked: now, intent: intent.clone() };
                let ask = IntentAsk::Write(intent);
                Some(Ask::Intent(IntentOrder { number, role: self.role, token, ask }))
            }
        }
    }

    fn call(&mut self, now: Mono, leave: Leave, intent: Intent) -> Option<Ask> {
        let not_after = match leave {
            Leave::Term { until, .. } => Some(until),
            Leave::GrowOnly => None,
        };
        if not_after.is_some_and(|until| now + CALL_WITHIN >= until) {
            self.step = Step::Idle;
            return None;
        }
        let number = self.number();
        let call = CloudCall::SetDesired { desired: intent.desired };
        self.step = Step::Calling { number, asked: now, intent };
        Some(Ask::Cloud(CloudAsk { number, role: self.role, call, not_after }))
    }

    fn read(&mut self, now: Mono, token: Token) -> Ask {
        let number = self.number();
        self.step = Step::Reading { number, asked: now };
        Ask::Intent(IntentOrder { number, role: self.role, token, ask: IntentAsk::Read })
    }

    fn list(&mut self, now: Mono) -> Ask {
        let number = self.number();
        self.listing = Some((number, now));
        Ask::Cloud(CloudAsk { number, role: self.role, call: CloudCall::Describe, not_after: None })
    }

    fn listed(&mut self, now: Mono, number: u64, group: Group) {
        if self.listing_failures > 0 {
            self.problem = None;
        }
        self.listing_failures = 0;
        self.next_listing = now + self.settings.poll_every;
        let short = group.desired as usize > group.present().count();
        self.short_since = short.then(|| self.short_since.unwrap_or(now));
        self.replacing.listed(&group);
        self.launches.listed(now, &group);
        self.seen = Some(Seen { group, at: now, number });
    }

    fn not_listed(&mut self, now: Mono, why: String) {
        self.problem = Some(why);
        self.next_listing = now + pause(self.listing_failures).max(self.settings.poll_every.min(FIRST_PAUSE));
        self.listing_failures = self.listing_failures.saturating_add(1);
    }

    fn failed(&mut self, now: Mono, error: &CloudError) {
        self.problem = Some(error.to_string());
        self.pause_until = now + pause_after(error, self.failures);
        self.failures = self.failures.saturating_add(1);
    }

    /// One at a time, and never without a lease.
    fn end_one(&mut self, now: Mono, leave: Leave) -> Option<Ask> {
        let Leave::Term { until, .. } = leave else { return None };
        let seen = self.seen.as_ref().filter(|seen| now.since(seen.at) <= self.settings.poll_every + ANSWER_WITHIN)?;
        if now + CALL_WITHIN >= until {
            return None;
        }
        let instance = self.replacing.due(now, &seen.group, seen.at)?.clone();
        let decrement = self.is_made_up_for(now, seen, &instance)?;
        let number = self.number();
        self.replacing.asked(now, number, instance.clone());
        let call = CloudCall::End { instance, decrement };
        Some(Ask::Cloud(CloudAsk { number, role: self.role, call, not_after: Some(until) }))
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }
}

fn pause_after(error: &CloudError, failures: u32) -> Duration {
    match error {
        CloudError::Refused(_) => AFTER_REFUSAL.max(pause(failures)),
        _ => pause(failures),
    }
}

fn pause(failures: u32) -> Duration {
    (FIRST_PAUSE * 2_u32.pow(failures.min(10))).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests;
