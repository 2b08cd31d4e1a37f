//! A leg that follows the owner of its stream.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Action, Handover, Input, Stage, Target};

/// A leg that the owner did not give is asked for again after this long.
const AGAIN: Duration = Duration::from_secs(1);

/// Where the stream is to be read from.
#[derive(Debug)]
pub(crate) struct Goal {
    pub(super) target: Target,
    /// Not before this is a leg opened there beside one that delivers.
    pub(super) not_before: Duration,
}

impl Handover {
    /// The stream is to be had there from now on. A leg that delivers goes on until its successor covers it; one that was
    /// being brought up elsewhere is given up; a wait is over.
    pub(crate) fn follow(&mut self, now: Duration, target: Target) {
        if self.goal.as_ref().is_some_and(|goal| goal.target == target) {
            return;
        }
        self.homes = VecDeque::from([target.clone()]);
        if let Some(attempt) =
            self.attempt.take_if(|attempt| attempt.target != target || attempt.stage == Stage::Waiting)
        {
            if attempt.stage != Stage::Waiting {
                self.actions.push(Action::Close { leg: attempt.leg });
            }
            if self.current.is_none() {
                self.open_home(now, attempt.errors);
            }
        }
        self.goal = Some(Goal { target, not_before: now });
        self.tend(now);
    }

    /// Goes where the stream is, when the leg that delivers is elsewhere and nothing is under way.
    pub(super) fn tend(&mut self, now: Duration) {
        let Some(goal) = &mut self.goal else { return };
        let elsewhere = self.current.is_some() && self.reads_at.as_ref() != Some(&goal.target);
        if elsewhere && self.attempt.is_none() && goal.not_before <= now {
            goal.not_before = now.saturating_add(AGAIN);
            let there = VecDeque::from([goal.target.clone()]);
            self.apply(now, Input::Elsewhere(there));
        }
    }
}

#[cfg(test)]
mod tests {
    use mtxfleet_wire::{LegId, NodeId};

    use super::super::Limits;
    use super::*;
    use crate::config::Via;

    const SECOND: Duration = Duration::from_secs(1);

    fn target(name: &str) -> Target {
        Target::Node { node: NodeId::new(name).expect("valid"), rtsp: format!("{name}:8554") }
    }

    fn following(name: &str) -> Handover {
        let mut count = 0;
        let fresh = move || {
            count += 1;
            LegId::new(format!("leg-{count}")).expect("valid")
        };
        let limits = Limits { via: Via::Direct, leg_timeout: 3 * SECOND, cover_timeout: 3 * SECOND };
        let mut handover = Handover::at(Duration::ZERO, limits, Box::new(fresh), VecDeque::from([target(name)]));
        handover.follow(Duration::ZERO, target(name));
        handover
    }

    /// The one leg that is to be opened now.
    fn opened(handover: &mut Handover) -> (LegId, Target) {
        let mut opened = handover.actions().into_iter().filter_map(|action| match action {
            Action::Open { leg, target } => Some((leg, target)),
            _ => None,
        });
        let one = opened.next().expect("a leg is opened");
        assert_eq!(opened.next(), None);
        one
    }

    fn plays(handover: &mut Handover, now: Duration, leg: &LegId) {
        handover.apply(now, Input::Opened(leg));
        handover.apply(now, Input::Packets(leg));
    }

    #[test]
    fn another_owner_is_read_beside_the_old_one_until_it_covers() {
        let mut handover = following("i1");
        let (first, at) = opened(&mut handover);
        assert_eq!(at, target("i1"));
        plays(&mut handover, SECOND, &first);
        handover.follow(2 * SECOND, target("i1"));
        assert_eq!(handover.actions(), [], "nothing new");
        handover.follow(2 * SECOND, target("i2"));
        let (second, at) = opened(&mut handover);
        assert_eq!(at, target("i2"));
        plays(&mut handover, 2 * SECOND, &second);
        assert_eq!(handover.actions(), [], "the old leg goes on");
        handover.apply(2 * SECOND, Input::Covered(&second));
        assert_eq!(handover.actions(), [Action::Close { leg: first }]);
        handover.apply(60 * SECOND, Input::Tick);
        assert_eq!(handover.actions(), [], "it is where it belongs");
    }

    #[test]
    fn an_owner_that_refuses_is_asked_again_while_the_old_leg_goes_on() {
        let mut handover = following("i1");
        let (first, _) = opened(&mut handover);
        plays(&mut handover, SECOND, &first);
        handover.follow(2 * SECOND, target("i2"));
        let (second, _) = opened(&mut handover);
        handover.apply(2 * SECOND, Input::Refused(&second, "404".into()));
        handover.apply(2 * SECOND, Input::Tick);
        assert_eq!(handover.actions(), [Action::Close { leg: second }], "not at once");
        handover.apply(3 * SECOND, Input::Tick);
        assert_eq!(opened(&mut handover).1, target("i2"));
        assert_eq!(handover.current(), Some(&first));
    }

    #[test]
    fn an_owner_that_changes_its_mind_costs_no_leg_that_delivers() {
        let mut handover = following("i1");
        let (first, _) = opened(&mut handover);
        plays(&mut handover, SECOND, &first);
        handover.follow(2 * SECOND, target("i2"));
        let (second, _) = opened(&mut handover);
        handover.follow(2 * SECOND, target("i1"));
        assert_eq!(handover.actions(), [Action::Close { leg: second }]);
        assert_eq!(handover.current(), Some(&first));
    }

    #[test]
    fn a_lost_leg_waits_no_longer_once_the_next_owner_is_known() {
        let mut handover = following("i1");
        let (first, _) = opened(&mut handover);
        plays(&mut handover, SECOND, &first);
        handover.apply(SECOND, Input::Ended(&first, "killed".into()));
        let mut now = SECOND;
        // Its own back-off, at the owner that is gone.
        for _ in 0..4 {
            now += SECOND;
            handover.apply(now, Input::Tick);
            for action in handover.actions() {
                if let Action::Open { leg, target: at } = action {
                    assert_eq!(at, target("i1"));
                    handover.apply(now, Input::Refused(&leg, "refused".into()));
                }
            }
        }
        handover.follow(now, target("i2"));
        assert_eq!(opened(&mut handover).1, target("i2"));
    }
}
