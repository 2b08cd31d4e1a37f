//! A drained node ends its own instance: with decrement, so that the group keeps one less and starts none in its place.
//!
//! Asked for again after a failure, with a growing pause: an instance that ends already, or is gone, makes the call a
//! success that changes nothing. A refusal is final: the node goes back into service and says why.

use std::time::Duration;

use mtxfleet_wire::{InstanceId, Mono, Role};

use crate::cloud::{CloudAnswer, CloudAsk, CloudCall, CloudError};

/// Numbers of these asks begin here, apart from those of [`crate::growing`].
const NUMBERS: u64 = 1 << 63;

const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The cloud said yes; if this node still runs after so long, it is asked again.
const STILL_HERE: Duration = Duration::from_secs(60);

/// An answer that has not come by then is not waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The instance ends in a moment.
    Accepted,
    /// It stays.
    Refused(String),
    /// It is asked for again in a while.
    Failed(String),
}

#[derive(Debug)]
pub struct Ending {
    instance: InstanceId,
    role: Role,
    numbers: u64,
    asked: Option<(u64, Mono)>,
    next: Mono,
    failures: u32,
}

impl Ending {
    #[must_use]
    pub const fn new(role: Role, instance: InstanceId) -> Self {
        Self { instance, role, numbers: NUMBERS, asked: None, next: Mono(Duration::ZERO), failures: 0 }
    }

    /// Whether an ask of this number is one of these.
    #[must_use]
    pub const fn asked_by(number: u64) -> bool {
        number >= NUMBERS
    }

    #[must_use]
    pub const fn instance(&self) -> &InstanceId {
        &self.instance
    }

    /// `drained`: this node has left service, and its instance is to end.
    pub fn pass_time(&mut self, now: Mono, drained: bool) -> Option<CloudAsk> {
        if !drained {
            (self.asked, self.next, self.failures) = (None, Mono::default(), 0);
            return None;
        }
        if self.asked.take_if(|(_, asked)| now.since(*asked) > ANSWER_WITHIN).is_some() {
            self.wait(now);
        }
        if self.asked.is_some() || now < self.next {
            return None;
        }
        self.numbers += 1;
        self.asked = Some((self.numbers, now));
        let call = CloudCall::End { instance: self.instance.clone(), decrement: true };
        Some(CloudAsk { number: self.numbers, role: self.role, call, not_after: None })
    }

    /// `None` for an answer that nobody waits for.
    pub fn answered(&mut self, now: Mono, number: u64, answer: Result<CloudAnswer, CloudError>) -> Option<Ended> {
        self.asked.take_if(|(asked, _)| *asked == number)?;
        Some(match answer {
            Ok(_) => {
                self.next = now + STILL_HERE;
                Ended::Accepted
            }
            Err(CloudError::Refused(why)) => Ended::Refused(why),
            Err(error) => {
                self.wait(now);
                Ended::Failed(error.to_string())
            }
        })
    }

    fn wait(&mut self, now: Mono) {
        self.next = now + (FIRST_PAUSE * 2_u32.pow(self.failures.min(10))).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Mono {
        Mono(Duration::from_secs(seconds))
    }

    #[test]
    fn a_drained_node_asks_until_it_is_heard_and_never_twice_at_once() {
        let mut ending = Ending::new(Role::Distribution, InstanceId::new("i-1").expect("valid"));
        assert_eq!(ending.pass_time(at(0), false), None);
        let ask = ending.pass_time(at(1), true).expect("at once");
        assert_eq!(ask.call, CloudCall::End { instance: ending.instance().clone(), decrement: true });
        assert_eq!(ending.pass_time(at(2), true), None);
        let failed = ending.answered(at(2), ask.number, Err(CloudError::Throttled("slow".into())));
        assert!(matches!(failed, Some(Ended::Failed(_))));
        assert_eq!(ending.answered(at(2), ask.number, Ok(CloudAnswer::Done)), None, "one answer each");
        assert_eq!(ending.pass_time(at(3), true), None, "a pause");
        let second = ending.pass_time(at(4), true).expect("after it");
        assert_eq!(ending.pass_time(at(9), true), None);
        assert_eq!(ending.pass_time(at(10), true), None, "no answer: a longer pause");
        assert_eq!(ending.answered(at(11), second.number, Ok(CloudAnswer::Done)), None, "a late one");
        let third = ending.pass_time(at(14), true).expect("after it");
        assert_eq!(ending.answered(at(15), third.number, Ok(CloudAnswer::Done)), Some(Ended::Accepted));
        assert_eq!(ending.pass_time(at(40), true), None);
        assert!(ending.pass_time(at(80), true).is_some(), "still here");
    }

    #[test]
    fn a_refusal_is_told_with_its_reason() {
        let mut ending = Ending::new(Role::Distribution, InstanceId::new("i-1").expect("valid"));
        let ask = ending.pass_time(at(0), true).expect("at once");
        let answer = ending.answered(at(1), ask.number, Err(CloudError::Refused("at its least".into())));
        assert_eq!(answer, Some(Ended::Refused("at its least".into())));
    }
}
