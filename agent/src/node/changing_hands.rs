//! Cameras that change hands while this node stays in service: the machine of crate `drain`, for those that another node
//! is to have and delivers.
//!
//! Workers are told as in a drain: by Redis, and by every agent, which derives the orders from this node's gossip.

use mtxfleet_drain::{Action, Candidate, HandOver, IngestionSide, Observation};
use mtxfleet_wire::{Bitrate, DrainId, DrainNotice, EventKind, Liveness, MoveOrder, NodeState, Role, StreamName};

use super::effect::{Effect, Pace};
use super::{Node, Now};

#[derive(Debug, Default)]
pub struct ChangingHands {
    pub(super) under_way: Option<HandOver>,
}

impl Node {
    /// One step with what is seen now; begins when there is something to hand over.
    pub(super) fn go_on_handing_over(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.state != NodeState::Active {
            // A drain leads over who is still here; those that bridge know the way back.
            return self.end_handing_over(now, effects);
        }
        let mut hand_over = match self.changing_hands.under_way.take() {
            Some(hand_over) => hand_over,
            None if self.to_hand_over().next().is_none() => return,
            None => {
                effects.push(Effect::SetPace(Pace::Brisk));
                let id = DrainId::new(format!("{}.cameras.{}", self.settings.id, now.wall.0));
                let id = id.expect("a node id, a word, a number and two dots are a valid drain id");
                HandOver::begin(id, self.settings.id.clone(), self.settings.drain.clone(), now.mono, now.wall)
            }
        };
        hand_over.take_in(self.to_hand_over().cloned(), now.mono);
        hand_over.call_off(|stream| self.cameras.is_placed_at(stream, &self.settings.id));
        let actions = hand_over.observe(&self.seen_of_hand_over(now, hand_over.moving()));
        let (id, node, deadline) = (hand_over.id().clone(), self.settings.id.clone(), hand_over.deadline());
        let is_over = hand_over.is_over();
        self.changing_hands.under_way = Some(hand_over);
        for action in actions {
            let (drain, node) = (id.clone(), node.clone());
            let kind = match action {
                Action::Notify(legs) => EventKind::DrainNotice(DrainNotice { drain, node, deadline, legs }),
                Action::Move(legs) => EventKind::DrainMove(MoveOrder { drain, node, legs }),
                Action::Disconnect { session } => {
                    if let Some(protocol) = self.server.readers.protocol_of(&session) {
                        effects.push(Effect::Disconnect { protocol, session });
                    }
                    continue;
                }
                // Of a whole drain only.
                Action::LeaveBalancers | Action::PhaseEntered(_) | Action::Cancelled(_) | Action::Ended(_) => continue,
            };
            effects.push(Effect::Announce(self.event(now, kind)));
        }
        if is_over {
            self.end_handing_over(now, effects);
        }
    }

    /// Cameras pulled here that another node is to have and delivers.
    fn to_hand_over(&self) -> impl Iterator<Item = &StreamName> {
        self.cameras.delivered_elsewhere().filter(|stream| self.has_path(stream))
    }

    fn end_handing_over(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Some(hand_over) = self.changing_hands.under_way.take() else { return };
        let record = Some(Box::new(hand_over.record(now.wall)));
        let kind = EventKind::CamerasHandedOver { hand_over: hand_over.id().clone(), record };
        effects.push(Effect::Announce(self.event(now, kind)));
        let pace = if self.state == NodeState::Draining { Pace::Brisk } else { Pace::Calm };
        effects.push(Effect::SetPace(pace));
    }

    fn seen_of_hand_over<'a>(&'a self, now: Now, moving: impl Iterator<Item = &'a StreamName>) -> Observation {
        let side = self.ingestion_side(moving);
        Observation {
            now: now.mono,
            wall: now.wall,
            looked: self.server.looked,
            legs: self.server.readers.legs.clone(),
            readers: self.server.readers.anonymous.clone(),
            candidates: self.next_owners_in_part(&side),
            ingestion: Some(side),
            ..Observation::default()
        }
    }

    /// The next owners, with this node's part of what they can carry: each node that hands cameras over takes as much.
    fn next_owners_in_part(&self, side: &IngestionSide) -> Vec<Candidate> {
        let others = self.fleet.members().filter(|member| member.liveness == Liveness::Alive);
        let nodes = 1 + others.filter(|member| member.peer.moves.is_some()).count() as u64;
        let mut candidates = self.candidates(Role::Ingestion);
        candidates.retain(|candidate| side.owners.values().any(|owner| owner.node == candidate.node));
        for candidate in &mut candidates {
            candidate.spare = candidate.spare.map(|Bitrate(spare)| Bitrate(spare / nodes));
        }
        candidates
    }
}
