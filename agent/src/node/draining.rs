//! This node's own drain: orders and admission before it, the machine of crate `drain` in it, the record after it.

use std::time::Duration;

use mtxfleet_drain::{Action, Candidate, Drain, Observation, Order};
use mtxfleet_wire::{
    DrainId, DrainOrder, DrainRecord, DrainRefusal, DrainView, EventKind, LegNotice, Liveness, Mono, MoveOrder, NodeId,
    NodeState, Phase, PlanId, Role, Token, UnixMillis, WorkerReport,
};
use serde::{Deserialize, Serialize};

use super::effect::{Effect, Pace};
use super::event::{Admission, Ticket, Via};
use super::{Node, Now};

/// The registry has this long to admit a drain.
const ADMISSION_WITHIN: Duration = Duration::from_secs(4);

/// Where this node stands between in service and drained.
#[derive(Debug, Default)]
pub struct Draining {
    pub(super) drain: Option<Drain>,
    pending: Option<Pending>,
    pub(super) last_record: Option<DrainRecord>,
}

/// What is on disk, so that a drain survives its agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Saved {
    Draining(Box<Drain>),
    /// Drained, and not brought back.
    Offline(Box<DrainRecord>),
}

/// An order that waits for the registry.
#[derive(Debug)]
struct Pending {
    /// `None`: a plan wants it, and nobody waits for an answer.
    ticket: Option<Ticket>,
    order: Order,
    asked: Mono,
}

impl Pending {
    /// Of a drain in no phase yet.
    fn view(&self, wall: UnixMillis) -> DrainView {
        DrainView {
            drain: self.order.drain.clone(),
            node: self.order.node.clone(),
            started: wall,
            phase: None,
            seconds_in_phase: 0.0,
            seconds_left: 0.0,
            waiting_for: Vec::new(),
            phases: Vec::new(),
            legs: Vec::new(),
            cameras: Vec::new(),
            viewers: 0,
            record: None,
        }
    }
}

impl Draining {
    /// Whether an order waits for the registry.
    pub(super) const fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    pub(super) fn saved(&self, state: NodeState) -> Option<Saved> {
        match (&self.drain, state, &self.last_record) {
            (Some(drain), _, _) => Some(Saved::Draining(Box::new(drain.lasting()))),
            (None, NodeState::Offline, Some(record)) => Some(Saved::Offline(Box::new(record.clone()))),
            _ => None,
        }
    }
}

impl Node {
    pub(super) fn take_up_saved(&mut self, saved: Option<Saved>, now: Now, effects: &mut Vec<Effect>) {
        match saved {
            Some(Saved::Draining(mut drain)) => {
                let actions = drain.resume(now.mono, now.wall);
                self.state = NodeState::Draining;
                self.draining.drain = Some(*drain);
                effects.push(Effect::SetPace(Pace::Brisk));
                self.carry_out(now, actions, effects);
            }
            Some(Saved::Offline(record)) => {
                self.state = NodeState::Offline;
                self.draining.last_record = Some(*record);
            }
            None => {}
        }
    }

    pub(super) fn drain_ordered(&mut self, now: Now, ticket: Ticket, order: DrainOrder, effects: &mut Vec<Effect>) {
        self.drain_wanted(now, Some(ticket), order, None, effects);
    }

    /// A plan names this node.
    pub(super) fn order_planned_drain(
        &mut self,
        now: Now,
        plan: (PlanId, Token),
        reason: String,
        effects: &mut Vec<Effect>,
    ) {
        self.drain_wanted(now, None, DrainOrder { force: false, reason }, Some(plan), effects);
    }

    /// The plan that named it does so no more. In cleanup that is too late, and the drain ends as it would have.
    pub(super) fn cancel_planned(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Some(drain) = &mut self.draining.drain else { return };
        let actions = drain.cancel(now.mono, now.wall).unwrap_or_default();
        self.carry_out(now, actions, effects);
    }

    fn drain_wanted(
        &mut self,
        now: Now,
        ticket: Option<Ticket>,
        order: DrainOrder,
        plan: Option<(PlanId, Token)>,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(refusal) = self.refuses(&order) {
            self.refuse(now, ticket, refusal, effects);
            return;
        }
        let id = DrainId::new(format!("{}.{}", self.settings.id, now.wall.0));
        let drain = id.expect("a node id, a number and a dot are a valid drain id");
        let admit = Effect::Admit {
            drain: drain.clone(),
            node: self.settings.id.clone(),
            role: self.role(),
            serving: self.serving(),
            minimum: if order.force { 0 } else { self.settings.minimum },
            plan: plan.map(|(_, token)| token),
        };
        let plan = plan.map(|(id, _)| id);
        let by_registry = self.settings.has_registry && self.registry_reachable;
        let order = Order { drain, node: self.settings.id.clone(), reason: order.reason, forced: order.force, plan };
        if by_registry {
            effects.push(admit);
        }
        if by_registry && !order.forced {
            self.draining.pending = Some(Pending { ticket, order, asked: now.mono });
            return;
        }
        self.begin(now, ticket, order, effects);
    }

    pub(super) fn admission_answered(
        &mut self,
        now: Now,
        drain: &DrainId,
        answer: Admission,
        effects: &mut Vec<Effect>,
    ) {
        let Some(pending) = self.draining.pending.take_if(|pending| pending.order.drain == *drain) else {
            // Too late: nobody waits for it any more, and the place that it gave must not stay taken. (An order that was
            // forced waits for no answer; a drain that has begun since keeps the place, whichever order it is from.)
            if answer == Admission::Admitted && self.draining.drain.is_none() && self.draining.pending.is_none() {
                effects.push(Effect::ReleaseAdmission { node: self.settings.id.clone() });
            }
            return;
        };
        let refusal = match answer {
            Admission::Admitted => return self.begin(now, pending.ticket, pending.order, effects),
            Admission::Refused(refusal) => refusal,
            Admission::Unreachable(_) => DrainRefusal::NoRegistry,
        };
        self.refuse(now, pending.ticket, refusal, effects);
    }

    /// Tells who asked; what a plan asked for is asked for again, or declined.
    fn refuse(&mut self, now: Now, ticket: Option<Ticket>, refusal: DrainRefusal, effects: &mut Vec<Effect>) {
        match ticket {
            Some(ticket) => effects.push(Effect::Answer { ticket, answer: Err(refusal) }),
            None => self.planned_drain_refused(now, &refusal),
        }
    }

    pub(super) fn undrain_ordered(&mut self, now: Now, ticket: Ticket, effects: &mut Vec<Effect>) {
        if let Some(pending) = self.draining.pending.take() {
            let withdrawn = pending.view(now.wall);
            self.refuse(now, pending.ticket, DrainRefusal::NotDraining, effects);
            self.decline(now, "an operator withdrew its drain");
            return effects.push(Effect::Answer { ticket, answer: Ok(withdrawn) });
        }
        let cancelled = match (&mut self.draining.drain, self.state) {
            (Some(drain), _) => drain.cancel(now.mono, now.wall).map_err(|_| DrainRefusal::TooLate),
            (None, NodeState::Offline) => Ok(Vec::new()),
            (None, _) => Err(DrainRefusal::NotDraining),
        };
        let answer = match cancelled {
            Ok(actions) => {
                self.carry_out(now, actions, effects);
                if self.state == NodeState::Offline {
                    self.come_back(now, "brought back", effects);
                }
                // The plan that may have begun it is not to begin it again at once.
                self.decline(now, "an operator put it back into service");
                self.drain_view(now.mono).ok_or(DrainRefusal::NotDraining)
            }
            Err(refusal) => Err(refusal),
        };
        effects.push(Effect::Answer { ticket, answer });
    }

    /// A report on another node's drain that came to this agent alone is passed on.
    pub(super) fn worker_reported(&mut self, report: WorkerReport, via: Via, effects: &mut Vec<Effect>) {
        match &mut self.draining.drain {
            Some(drain) if drain.id() == report.drain() => return drain.worker_reported(report),
            _ => {}
        }
        match &mut self.changing_hands.under_way {
            Some(hand_over) if hand_over.id() == report.drain() => hand_over.worker_reported(report),
            _ if via == Via::Http => {
                let concerns = |m: &&mtxfleet_leader::Member| {
                    m.peer.drain.iter().chain(&m.peer.moves).any(|d| d.id == *report.drain())
                };
                let http = self.fleet.members().find(concerns).and_then(|m| Some(m.peer.facts.as_ref()?.http.clone()));
                effects.extend(http.map(|http| Effect::ForwardReport { http, report }));
            }
            _ => {}
        }
    }

    /// One step of the machine with what is seen now.
    pub(super) fn go_on_draining(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if let Some(pending) = self.draining.pending.take_if(|pending| now.mono.since(pending.asked) > ADMISSION_WITHIN)
        {
            self.refuse(now, pending.ticket, DrainRefusal::NoRegistry, effects);
        }
        if self.draining.drain.is_none() {
            return;
        }
        let seen = self.observation(now);
        let yields = self.yields_to_another_drain();
        let Some(drain) = &mut self.draining.drain else { return };
        let actions = match yields {
            true => drain.cancel(now.mono, now.wall).unwrap_or_default(),
            false => drain.observe(&seen),
        };
        self.carry_out(now, actions, effects);
    }

    /// Without a registry nobody admits drains, and two that begin within one round of gossip do not see each other.
    /// Together they would leave too few nodes: the one that began later, which nobody has left yet, gives way.
    fn yields_to_another_drain(&self) -> bool {
        let Some(drain) = &self.draining.drain else { return false };
        let in_time = drain.phase() < Phase::WorkerMigration;
        if self.settings.has_registry || drain.order().forced || !in_time {
            return false;
        }
        let left = self.fleet.serving(self.role()).count() as u32;
        let mine = (drain.started(), &self.settings.id);
        let began_earlier = |member: &mtxfleet_leader::Member| {
            let in_role = member.peer.facts.as_ref().is_some_and(|facts| facts.role == self.role());
            let report = member.peer.drain.as_ref().filter(|_| in_role);
            report.is_some_and(|report| (report.started, &member.peer.node) < mine)
        };
        left < self.settings.minimum && self.fleet.members().any(began_earlier)
    }

    fn begin(&mut self, now: Now, ticket: Option<Ticket>, order: Order, effects: &mut Vec<Effect>) {
        let reason = order.reason.clone();
        let (drain, actions) = Drain::begin(order, self.settings.drain.clone(), now.mono, now.wall);
        self.draining.drain = Some(drain);
        self.draining.last_record = None;
        self.change_state(now, NodeState::Draining, &reason, effects);
        effects.push(Effect::SetPace(Pace::Brisk));
        self.carry_out(now, actions, effects);
        if let Some((ticket, view)) = ticket.zip(self.drain_view(now.mono)) {
            effects.push(Effect::Answer { ticket, answer: Ok(view) });
        }
    }

    fn carry_out(&mut self, now: Now, actions: Vec<Action>, effects: &mut Vec<Effect>) {
        for action in actions {
            match action {
                Action::LeaveBalancers => self.balancers.leave(),
                Action::Notify(legs) => self.announce_drain(now, effects, |id, node, deadline| {
                    EventKind::DrainNotice(mtxfleet_wire::DrainNotice { drain: id, node, deadline, legs })
                }),
                Action::Move(legs) => self.announce_move(now, legs, effects),
                Action::Disconnect { session } => {
                    if let Some(protocol) = self.server.readers.protocol_of(&session) {
                        effects.push(Effect::Disconnect { protocol, session });
                    }
                }
                Action::PhaseEntered(phase) => {
                    self.announce_drain(now, effects, |drain, _, _| EventKind::DrainPhase { drain, phase });
                }
                Action::Cancelled(record) => {
                    let drain = record.drain.clone();
                    self.finish(record, effects);
                    self.come_back(now, "drain cancelled", effects);
                    let why = "the node stays in service".to_owned();
                    effects.push(Effect::Announce(self.event(now, EventKind::DrainCancelled { drain, why })));
                }
                Action::Ended(record) => {
                    self.done_with_plan();
                    self.finish(record.clone(), effects);
                    self.change_state(now, NodeState::Offline, "drained", effects);
                    effects.push(Effect::Announce(self.event(now, EventKind::DrainEnded(Box::new(record)))));
                    // An instance that ends itself has something to do yet, and its end is the agent's.
                    if self.settings.exit_when_drained && !self.ends_itself() {
                        effects.push(Effect::Exit);
                    }
                }
            }
        }
    }

    fn announce_drain(
        &mut self,
        now: Now,
        effects: &mut Vec<Effect>,
        kind: impl FnOnce(DrainId, NodeId, mtxfleet_wire::UnixMillis) -> EventKind,
    ) {
        let Some(drain) = &self.draining.drain else { return };
        let kind = kind(drain.id().clone(), self.settings.id.clone(), drain.deadline());
        effects.push(Effect::Announce(self.event(now, kind)));
    }

    fn announce_move(&mut self, now: Now, legs: Vec<LegNotice>, effects: &mut Vec<Effect>) {
        self.announce_drain(now, effects, |drain, node, _| EventKind::DrainMove(MoveOrder { drain, node, legs }));
    }

    fn finish(&mut self, record: DrainRecord, effects: &mut Vec<Effect>) {
        self.draining.drain = None;
        self.draining.last_record = Some(record);
        effects.push(Effect::ReleaseAdmission { node: self.settings.id.clone() });
        effects.push(Effect::SetPace(Pace::Calm));
    }

    pub(super) fn come_back(&mut self, now: Now, why: &str, effects: &mut Vec<Effect>) {
        self.balancers.come_back(now.mono);
        self.change_state(now, NodeState::Active, why, effects);
    }

    fn change_state(&mut self, now: Now, to: NodeState, why: &str, effects: &mut Vec<Effect>) {
        let from = std::mem::replace(&mut self.state, to);
        let kind = EventKind::NodeStateChanged { from, to, why: why.to_owned() };
        effects.push(Effect::Announce(self.event(now, kind)));
    }

    fn refuses(&self, order: &DrainOrder) -> Option<DrainRefusal> {
        if let Some(drain) = &self.draining.drain {
            return Some(DrainRefusal::AlreadyDraining { drain: drain.id().clone() });
        }
        if let Some(pending) = &self.draining.pending {
            return Some(DrainRefusal::AlreadyDraining { drain: pending.order.drain.clone() });
        }
        if self.state == NodeState::Offline {
            return Some(DrainRefusal::AlreadyOffline);
        }
        if order.force {
            return None;
        }
        let left = self.serving().iter().filter(|node| **node != self.settings.id).count() as u32;
        if left < self.settings.minimum {
            let role = self.role();
            return Some(DrainRefusal::BelowMinimum { role, serving: left, minimum: self.settings.minimum });
        }
        if self.settings.has_registry && !self.registry_reachable {
            return Some(DrainRefusal::NoRegistry);
        }
        None
    }

    pub(super) fn role(&self) -> Role {
        self.settings.facts.role
    }

    /// Nodes of this role in service, this one among them.
    fn serving(&self) -> Vec<NodeId> {
        let mut serving: Vec<NodeId> = self.fleet.serving(self.role()).map(|m| m.peer.node.clone()).collect();
        serving.push(self.settings.id.clone());
        serving.sort();
        serving
    }

    fn observation(&self, now: Now) -> Observation {
        Observation {
            now: now.mono,
            wall: now.wall,
            looked: self.server.looked,
            legs: self.server.readers.legs.clone(),
            readers: self.server.readers.anonymous.clone(),
            viewers: self.server.readers.viewers.clone(),
            polls_since_told: self.balancers.since_told().clone(),
            known_pollers: self.balancers.known(),
            last_new_session: self.server.last_new_session,
            candidates: self.candidates(self.role()),
            ingestion: (self.role() == Role::Ingestion)
                .then(|| self.ingestion_side(self.draining.drain.iter().flat_map(Drain::cameras))),
        }
    }

    /// Nodes of a role that can take over from this one.
    pub(super) fn candidates(&self, role: Role) -> Vec<Candidate> {
        let alive = self.fleet.serving(role).filter(|member| member.liveness == Liveness::Alive);
        let candidate = |member: &mtxfleet_leader::Member| {
            let facts = member.peer.facts.as_ref()?;
            let warm = member.peer.streams.iter().filter(|s| s.ready).map(|s| s.name.clone());
            let node = member.peer.node.clone();
            Some(Candidate { node, rtsp: facts.rtsp.clone(), spare: member.spare(), warm: warm.collect() })
        };
        alive.filter_map(candidate).collect()
    }
}
