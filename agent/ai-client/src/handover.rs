//! What to do about notices, orders, and legs that come and go. Pure: no sockets, no clock.
//!
//! ```text
//!            Opened      Packets          Covered
//!  Opening ---------> Playing -----> Joining -----> it is the current leg, the old one is closed
//!     ^  \_______________|______________|  fails or takes too long: next target
//!     |                                    none left: back-off and the stable URL when nothing delivers,
//!  Waiting (back-off) <-----------------   else the worker stays where it is and says so
//! ```
//! Architecture invariant: a leg that delivers is never closed before its successor covers it. Reading and joining
//! frames is not known here; [`crate::session`] performs the [`Action`]s and reports what came of them as [`Input`]s.

use std::collections::VecDeque;
use std::time::Duration;

use mtxfleet_wire::{DrainId, EventKind, FleetEvent, LegId, LegNotice, MoveReason, NodeId, NodeState};

use crate::config::Via;

mod following;
mod memory;
mod targets;

use following::Goal;
use memory::{Kind, Memory};
pub(crate) use targets::Target;

/// First wait after a failure to connect, doubled up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// A leg that lived this long was a success: the next loss is answered without a wait.
const STEADY: Duration = Duration::from_secs(5);

/// Who bridges a change of its camera's owner and is not ordered back goes back by itself: after this long, or as soon
/// as the drain that asked for it is over.
const BRIDGE_FOR: Duration = Duration::from_secs(180);

/// A way back that failed is tried again after this long.
const BACK_AGAIN: Duration = Duration::from_secs(10);

/// Errors kept for the text of a failure.
const ERRORS_KEPT: usize = 8;

/// What happened.
#[derive(Debug, Clone)]
pub(crate) enum Input<'a> {
    Event(&'a FleetEvent),
    /// The server has answered PLAY.
    Opened(&'a LegId),
    /// It could not be opened.
    Refused(&'a LegId, String),
    /// Its first packet came.
    Packets(&'a LegId),
    /// Every track of it is joined; the leg before it is not needed any more.
    Covered(&'a LegId),
    /// It was open and is gone.
    Ended(&'a LegId, String),
    /// Move the current leg there, though nobody drains: it stays when none of these takes it.
    Elsewhere(VecDeque<Target>),
    /// A deadline may have passed.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Open {
        leg: LegId,
        target: Target,
    },
    /// Close it, or stop opening it.
    Close {
        leg: LegId,
    },
    Acknowledge {
        drain: DrainId,
        leg: LegId,
    },
    Moved {
        drain: DrainId,
        leg: LegId,
        new_leg: LegId,
        to: Option<NodeId>,
    },
    /// The leg ended with its camera's connection, of which the drain had told, and another brings frames again.
    Returned {
        drain: DrainId,
        leg: LegId,
        new_leg: LegId,
    },
    Failed {
        drain: DrainId,
        leg: LegId,
        why: String,
    },
}

/// What the stream is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing has been delivered yet.
    Opening,
    Live,
    /// Live, and a second leg is being brought up to take over.
    Moving,
    /// No leg delivers; it tries to come back through the stable URL.
    Reconnecting,
    /// Closed by the application, or given up.
    Closed,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub via: Via,
    pub leg_timeout: Duration,
    pub cover_timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    Opening,
    Playing,
    Joining,
}

/// A leg that is to become the current one.
#[derive(Debug)]
struct Attempt {
    leg: LegId,
    target: Target,
    stage: Stage,
    /// When this stage has lasted too long, or the wait is over.
    deadline: Duration,
    /// What asked for it; `None` when a leg was lost, or at the start.
    order: Option<Order>,
    /// Where else to try.
    left: VecDeque<Target>,
    errors: VecDeque<String>,
}

/// The drain that wants a leg replaced, and why.
#[derive(Debug, Clone)]
struct Order {
    drain: DrainId,
    leg: LegId,
    reason: MoveReason,
}

/// The current leg goes straight to its camera's new owner for a while.
#[derive(Debug)]
struct Bridge {
    drain: DrainId,
    /// When it goes back without being told to.
    until: Duration,
}

pub(crate) struct Handover {
    limits: Limits,
    new_id: Box<dyn FnMut() -> LegId + Send>,
    /// Where a leg that was lost is replaced: the stable URL, for all but a second leg.
    homes: VecDeque<Target>,
    current: Option<LegId>,
    /// Where the current leg, or the one before it, was opened.
    reads_at: Option<Target>,
    /// Whose leg this is to be, where an owner is followed.
    goal: Option<Goal>,
    /// When the current leg became it.
    since: Duration,
    attempt: Option<Attempt>,
    /// Attempts in a row that led to nothing, or to a leg that did not last.
    failures: u32,
    /// Orders for a leg that is ours but cannot move yet.
    orders: VecDeque<(DrainId, LegNotice)>,
    bridge: Option<Bridge>,
    /// The camera of this leg will be disconnected, and publish elsewhere; said by this drain.
    camera_leaves: Option<(DrainId, LegId)>,
    memory: Memory,
    ever_live: bool,
    actions: Vec<Action>,
}

impl Handover {
    /// Begins with an attempt through the stable URL. `new_id` gives an id that no leg has had.
    pub(crate) fn new(now: Duration, limits: Limits, new_id: Box<dyn FnMut() -> LegId + Send>) -> Self {
        Self::at(now, limits, new_id, VecDeque::from([Target::StableUrl]))
    }

    /// The same for a leg that has places of its own.
    pub(crate) fn at(
        now: Duration,
        limits: Limits,
        new_id: Box<dyn FnMut() -> LegId + Send>,
        homes: VecDeque<Target>,
    ) -> Self {
        let mut new = Self {
            limits,
            new_id,
            homes,
            current: None,
            reads_at: None,
            goal: None,
            since: now,
            attempt: None,
            failures: 0,
            orders: VecDeque::new(),
            bridge: None,
            camera_leaves: None,
            memory: Memory::default(),
            ever_live: false,
            actions: Vec::new(),
        };
        new.reconnect(now, VecDeque::new());
        new
    }

    /// The leg that delivers.
    pub(crate) const fn current(&self) -> Option<&LegId> {
        self.current.as_ref()
    }

    pub(crate) const fn state(&self) -> State {
        match (&self.current, &self.attempt, self.ever_live) {
            (Some(_), None, _) => State::Live,
            (Some(_), Some(_), _) => State::Moving,
            (None, _, true) => State::Reconnecting,
            (None, _, false) => State::Opening,
        }
    }

    /// When to send [`Input::Tick`].
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.attempt.as_ref().map(|attempt| attempt.deadline)
    }

    /// Why the last attempts failed, for an error message.
    pub(crate) fn last_errors(&self) -> String {
        match &self.attempt {
            Some(attempt) if attempt.errors.is_empty() => format!("{}: no answer yet", attempt.target),
            Some(attempt) => joined(&attempt.errors),
            None => String::new(),
        }
    }

    /// What has been decided since the last call.
    pub(crate) fn actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    pub(crate) fn apply(&mut self, now: Duration, input: Input<'_>) {
        match input {
            Input::Event(event) => self.event(now, event),
            Input::Opened(leg) => {
                if let Some(attempt) = self.attempt_of(leg) {
                    attempt.stage = Stage::Playing;
                }
            }
            Input::Packets(leg) => self.packets(now, leg),
            Input::Covered(leg) => {
                if self.attempt_of(leg).is_some() {
                    self.promote(now);
                }
            }
            Input::Refused(leg, why) => {
                if self.attempt_of(leg).is_some() {
                    self.next_target(now, why);
                }
            }
            Input::Ended(leg, why) => self.ended(now, leg, why),
            Input::Elsewhere(mut left) => {
                if let (Some(_), None, Some(target)) = (&self.current, &self.attempt, left.pop_front()) {
                    self.open(now, target, None, left, VecDeque::new());
                }
            }
            Input::Tick => self.tick(now),
        }
    }

    fn attempt_of(&mut self, leg: &LegId) -> Option<&mut Attempt> {
        self.attempt.as_mut().filter(|attempt| attempt.leg == *leg && attempt.stage != Stage::Waiting)
    }

    /// Those that name the current leg or the one that is to become it: two at most.
    fn ours(&self, named: &[LegNotice]) -> Vec<LegNotice> {
        let attempt = self.attempt.as_ref().map(|attempt| &attempt.leg);
        let is_ours = |leg: &LegId| self.current.as_ref() == Some(leg) || attempt == Some(leg);
        named.iter().filter(|named| is_ours(&named.leg)).take(2).cloned().collect()
    }

    fn event(&mut self, now: Duration, event: &FleetEvent) {
        if !self.memory.first_time(&event.id) {
            return;
        }
        match &event.what {
            EventKind::DrainNotice(notice) if !self.memory.is_over(&notice.drain) => {
                self.memory.draining(now, &notice.drain, &notice.node);
                for named in self.ours(&notice.legs) {
                    if named.reason == MoveReason::CameraLeaves {
                        self.camera_leaves = Some((notice.drain.clone(), named.leg.clone()));
                    }
                    if self.memory.first_of(&notice.drain, &named.leg, Kind::Notice) {
                        self.actions.push(Action::Acknowledge { drain: notice.drain.clone(), leg: named.leg });
                    }
                }
            }
            EventKind::DrainMove(order) if !self.memory.is_over(&order.drain) => {
                self.memory.draining(now, &order.drain, &order.node);
                for named in self.ours(&order.legs) {
                    if self.memory.first_of(&order.drain, &named.leg, Kind::Move) {
                        self.orders.push_back((order.drain.clone(), named));
                    }
                }
                self.begin_move(now);
            }
            EventKind::DrainCancelled { drain, .. } => {
                // A move under way goes on: it loses nothing, and stopping it half way would gain nothing.
                self.orders.retain(|(of, _)| of != drain);
                self.over(now, drain);
            }
            EventKind::DrainEnded(record) => self.over(now, &record.drain),
            EventKind::CamerasHandedOver { hand_over, .. } => self.over(now, hand_over),
            EventKind::NodeStateChanged { to: NodeState::Active, .. } => self.memory.back(&event.node),
            _ => {}
        }
    }

    /// Nobody will order a bridge of this drain back.
    fn over(&mut self, now: Duration, drain: &DrainId) {
        self.memory.over(drain);
        if let Some(bridge) = self.bridge.as_mut().filter(|bridge| bridge.drain == *drain) {
            bridge.until = now;
        }
    }

    /// Starts the first order that names the current leg, unless a leg is being brought up already.
    fn begin_move(&mut self, now: Duration) {
        let (Some(current), None) = (&self.current, &self.attempt) else { return };
        let Some(index) = self.orders.iter().position(|(_, named)| named.leg == *current) else { return };
        let Some((drain, named)) = self.orders.remove(index) else { return };
        let draining = self.memory.draining_nodes(now);
        let mut left = targets::in_order(self.limits.via, &named, &draining);
        let Some(target) = left.pop_front() else {
            self.memory.forget(&drain, &named.leg, Kind::Move);
            let why = "the camera's new owner cannot be reached through the stable URL".to_owned();
            return self.actions.push(Action::Failed { drain, leg: named.leg, why });
        };
        let order = Order { drain, leg: named.leg, reason: named.reason };
        self.open(now, target, Some(order), left, VecDeque::new());
    }

    fn open(
        &mut self,
        now: Duration,
        target: Target,
        order: Option<Order>,
        left: VecDeque<Target>,
        errors: VecDeque<String>,
    ) {
        let leg = (self.new_id)();
        self.actions.push(Action::Open { leg: leg.clone(), target: target.clone() });
        let deadline = now.saturating_add(self.limits.leg_timeout);
        self.attempt = Some(Attempt { leg, target, stage: Stage::Opening, deadline, order, left, errors });
    }

    fn packets(&mut self, now: Duration, leg: &LegId) {
        let nothing_delivers = self.current.is_none();
        let cover_timeout = self.limits.cover_timeout;
        let Some(attempt) = self.attempt_of(leg) else { return };
        attempt.stage = Stage::Joining;
        attempt.deadline = now.saturating_add(cover_timeout);
        if nothing_delivers {
            self.promote(now);
        }
    }

    /// The attempt's leg becomes the current one.
    fn promote(&mut self, now: Duration) {
        let Some(attempt) = self.attempt.take() else { return };
        let old = self.current.replace(attempt.leg.clone());
        self.reads_at = Some(attempt.target.clone());
        let nothing_delivered = old.is_none();
        if let Some(old) = old {
            self.actions.push(Action::Close { leg: old });
        }
        self.since = now;
        self.ever_live = true;
        let bridge = self.bridge.take();
        if let Some(Order { drain, leg, reason }) = attempt.order {
            self.bridge = match reason {
                MoveReason::OwnerChanges => {
                    let until = if self.memory.is_over(&drain) { now } else { now.saturating_add(BRIDGE_FOR) };
                    Some(Bridge { drain: drain.clone(), until })
                }
                // The owner that it bridges to hands the camera on: it is not at home there either.
                MoveReason::NodeLeaves => bridge,
                MoveReason::OwnerChanged | MoveReason::CameraLeaves => None,
            };
            let to = attempt.target.node().cloned();
            self.actions.push(Action::Moved { drain, leg, new_leg: attempt.leg.clone(), to });
        } else if let Some((drain, leg)) = self.camera_leaves.take_if(|_| nothing_delivered) {
            self.actions.push(Action::Returned { drain, leg, new_leg: attempt.leg.clone() });
        }
        self.orders.retain(|(_, named)| named.leg == attempt.leg);
        self.begin_move(now);
    }

    fn ended(&mut self, now: Duration, leg: &LegId, why: String) {
        if self.attempt_of(leg).is_some() {
            self.next_target(now, why);
        } else if self.current.as_ref() == Some(leg) {
            self.current = None;
            self.bridge = None;
            self.failures = if now.saturating_sub(self.since) >= STEADY { 0 } else { self.failures + 1 };
            match self.attempt.as_ref().map(|attempt| attempt.stage) {
                None => self.reconnect(now, VecDeque::from([why])),
                Some(Stage::Joining) => self.promote(now),
                // It will be the current one with its first packet.
                Some(_) => {}
            }
        }
    }

    /// The attempt failed.
    fn next_target(&mut self, now: Duration, why: String) {
        let Some(mut attempt) = self.attempt.take() else { return };
        self.actions.push(Action::Close { leg: attempt.leg });
        let told = format!("{}: {why}", attempt.target);
        if attempt.errors.back() != Some(&told) {
            attempt.errors.push_back(told);
        }
        while attempt.errors.len() > ERRORS_KEPT {
            attempt.errors.pop_front();
        }
        if let Some(target) = attempt.left.pop_front() {
            return self.open(now, target, attempt.order, attempt.left, attempt.errors);
        }
        if let Some(bridge) = &mut self.bridge {
            bridge.until = bridge.until.max(now.saturating_add(BACK_AGAIN));
        }
        if let Some(Order { drain, leg, .. }) = attempt.order {
            // A later order for the same leg, with other candidates, is to be tried.
            self.memory.forget(&drain, &leg, Kind::Move);
            self.actions.push(Action::Failed { drain, leg, why: joined(&attempt.errors) });
        }
        if self.current.is_none() {
            self.failures += 1;
            self.reconnect(now, attempt.errors);
        } else {
            self.begin_move(now);
        }
    }

    pub(crate) fn set_homes(&mut self, homes: VecDeque<Target>) {
        self.homes = homes;
    }

    /// Through the stable URL, or wherever its homes are.
    fn open_home(&mut self, now: Duration, errors: VecDeque<String>) {
        let mut left = self.homes.clone();
        let target = left.pop_front().unwrap_or(Target::StableUrl);
        self.open(now, target, None, left, errors);
    }

    /// After a wait that grows with the failures in a row.
    fn reconnect(&mut self, now: Duration, errors: VecDeque<String>) {
        if self.failures == 0 {
            return self.open_home(now, errors);
        }
        let wait = FIRST_WAIT.saturating_mul(1 << (self.failures - 1).min(8)).min(LONGEST_WAIT);
        let leg = (self.new_id)();
        let (target, left) = (Target::StableUrl, VecDeque::new());
        let stage = Stage::Waiting;
        self.attempt = Some(Attempt { leg, target, stage, deadline: now + wait, order: None, left, errors });
    }

    fn tick(&mut self, now: Duration) {
        self.tend(now);
        if self.attempt.is_none() && self.bridge.as_ref().is_some_and(|bridge| bridge.until <= now) {
            return self.open_home(now, VecDeque::new());
        }
        let Some(attempt) = self.attempt.as_ref().filter(|attempt| attempt.deadline <= now) else { return };
        match attempt.stage {
            Stage::Waiting => {
                let errors = self.attempt.take().map_or_else(VecDeque::new, |attempt| attempt.errors);
                self.open_home(now, errors);
            }
            Stage::Opening => self.next_target(now, format!("no answer in {:?}", self.limits.leg_timeout)),
            Stage::Playing => self.next_target(now, format!("no packet in {:?}", self.limits.leg_timeout)),
            Stage::Joining => {
                self.next_target(
                    now,
                    format!("its frames did not join the old leg's in {:?}", self.limits.cover_timeout),
                );
            }
        }
    }
}

fn joined(errors: &VecDeque<String>) -> String {
    errors.iter().map(String::as_str).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
