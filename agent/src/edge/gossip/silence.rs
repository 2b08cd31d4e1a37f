//! What one node makes of the silence of another: pure, on a count of looks.
//!
//! ```text
//!   a sign of life        no sign for 2 rounds        no answer for 2 looks       no answer for 3 more
//!  Heard -----------> Heard ------------> Asked -------------------> Doubted -------------------> Silent
//!    ^                                     (pings)     (all others are asked to ping it)   (others are told)
//!    +------- a newer heartbeat, an answer, or somebody's word that it answered ---------------+
//! ```
//! As in SWIM (Das, Gupta, Motivala 2002), a node is not taken for silent on one's own word: those that are asked ping
//! it too, and tell when it answers. What they add to SWIM: being asked makes them look themselves at once, so that all
//! come to the verdict together, however late the last heartbeat reached each of them; and the first to be sure tells
//! the others, who take its word if their own pings were not answered either. Heartbeats come by hearsay, up to 0.7 s
//! late in a fleet of 30, so nobody vouches for a node by one: only by an answer.
//!
//! Time is counted in looks. When this process itself was held up for a while, it has looked once since, and nobody was
//! silent for longer than that.

use super::probe::Nonce;

/// Gossip rounds without a sign of life after which a node is asked.
const QUIET_ROUNDS: u32 = 2;
/// Looks after the first ping at which others are asked to help.
const DOUBT_AT: u32 = 2;
/// A node that was called by another's doubt leaves the doubting to that one for so many looks.
const LEAVE_IT: u32 = 6;
/// Looks between the doubt and the verdict.
const VERDICT_AFTER: u32 = 3;
/// Another's verdict is believed after own pings of so many looks.
const BELIEVE_AFTER: u32 = 2;
/// Pings and words vouch for a node whose heartbeat has not moved for so many looks (5 s), and not for longer: it
/// answers, and yet nothing of what it reports arrives.
const VOUCHED_AT_MOST: u32 = 50;
/// Silent nodes are asked again at this pace: after the verdict, and when they have been silent for [`LONG`].
const AGAIN: u32 = 5;
const AGAIN_LONG: u32 = 50;
const LONG: u32 = 600;
/// Others that want to know when it answers.
const MAX_ASKERS: usize = 64;

/// What to do about a node now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Ask it.
    Ping,
    /// Ask it, and have everybody ask it.
    Doubt,
    /// Ask it, and have a few ask it.
    Recheck,
    /// It is silent: tell everybody.
    Tell,
}

#[derive(Debug)]
pub struct Silence<A> {
    quiet_at: u32,
    /// Looks since the last sign of life; `None` before the first.
    since: Option<u32>,
    since_heartbeat: u32,
    /// Looks since the first ping of this silence.
    asked_for: Option<u32>,
    doubt_at: u32,
    told: bool,
    silent: bool,
    /// Newer heartbeats since the verdict. The first may have been on its way for long.
    rises: u32,
    askers: Vec<(A, Nonce)>,
}

impl<A> Silence<A> {
    /// `round` and `look` in milliseconds.
    #[must_use]
    pub fn new(round: u64, look: u64) -> Self {
        let quiet_at = (round * u64::from(QUIET_ROUNDS)).div_ceil(look.max(1));
        Self {
            quiet_at: u32::try_from(quiet_at).unwrap_or(u32::MAX).max(2),
            since: None,
            since_heartbeat: 0,
            asked_for: None,
            doubt_at: DOUBT_AT,
            told: false,
            silent: false,
            rises: 0,
            askers: Vec::new(),
        }
    }

    /// It was heard, and is not silent now.
    #[must_use]
    pub const fn alive(&self) -> bool {
        self.since.is_some() && !self.silent
    }

    /// Fell silent lately: whoever keeps time over it wants to look more often.
    #[must_use]
    pub fn silent_lately(&self) -> bool {
        self.silent && self.since.is_some_and(|since| since < LONG)
    }

    /// Its heartbeat rose.
    pub fn heartbeat(&mut self) -> Option<Act> {
        self.since_heartbeat = 0;
        self.rises += 1;
        if self.silent && self.rises < 2 {
            return Some(Act::Ping);
        }
        self.is_heard();
        None
    }

    /// It answered a ping, or somebody says that it did. Whoever wanted to know is returned.
    pub fn vouched(&mut self) -> Vec<(A, Nonce)> {
        if self.since.is_none() || self.since_heartbeat > VOUCHED_AT_MOST {
            return Vec::new();
        }
        self.is_heard();
        std::mem::take(&mut self.askers)
    }

    fn is_heard(&mut self) {
        self.since = Some(0);
        self.asked_for = None;
        self.doubt_at = DOUBT_AT;
        self.told = false;
        self.silent = false;
        self.rises = 0;
    }

    /// It is being asked, and not silent yet.
    #[must_use]
    pub const fn is_asked(&self) -> bool {
        self.asked_for.is_some() && !self.silent
    }

    /// A look passed without a newer heartbeat. One that does not `count` (this process was held up just before it, or
    /// too many are silent at once to be believed) brings nobody nearer to a verdict.
    pub fn look(&mut self, counts: bool) -> Option<Act> {
        if !counts {
            return None;
        }
        let since = self.since.as_mut()?;
        *since = since.saturating_add(1);
        self.since_heartbeat = self.since_heartbeat.saturating_add(1);
        let since = *since;
        if self.silent {
            return self.ask_again(since);
        }
        let Some(asked_for) = &mut self.asked_for else {
            if since < self.quiet_at {
                return None;
            }
            self.asked_for = Some(0);
            return Some(Act::Ping);
        };
        *asked_for += 1;
        if *asked_for >= self.doubt_at + VERDICT_AFTER {
            self.silent = true;
            return Some(Act::Tell);
        }
        if self.told && *asked_for >= BELIEVE_AFTER {
            self.silent = true;
            return None;
        }
        Some(if *asked_for == self.doubt_at { Act::Doubt } else { Act::Ping })
    }

    fn ask_again(&self, since: u32) -> Option<Act> {
        let pace = if since < LONG { AGAIN } else { AGAIN_LONG };
        if !since.is_multiple_of(pace) {
            None
        } else if since.is_multiple_of(2 * pace) {
            Some(Act::Recheck)
        } else {
            Some(Act::Ping)
        }
    }

    /// Another doubts it. True: ask it now.
    pub fn called(&mut self, asker: A, nonce: Nonce) -> bool {
        if self.since.is_none() {
            return false;
        }
        if self.askers.len() >= MAX_ASKERS {
            self.askers.remove(0);
        }
        self.askers.push((asker, nonce));
        self.begin_to_ask() || self.silent
    }

    /// Another is sure that it is silent. True: ask it now. `believed`: not while too many are silent at once.
    pub fn told(&mut self, believed: bool) -> bool {
        if self.since.is_none() || self.silent {
            return false;
        }
        let begins = self.begin_to_ask();
        self.told |= believed;
        if self.told && self.asked_for.is_some_and(|looks| looks >= BELIEVE_AFTER) {
            self.silent = true;
        }
        begins
    }

    fn begin_to_ask(&mut self) -> bool {
        if self.asked_for.is_some() || self.silent {
            return false;
        }
        self.asked_for = Some(0);
        self.doubt_at = LEAVE_IT;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard() -> Silence<u8> {
        let mut silence = Silence::new(200, 100);
        silence.heartbeat();
        silence
    }

    /// Looks until silent, and what was done on the way.
    fn run(silence: &mut Silence<u8>, at_most: u32) -> (Option<u32>, Vec<Act>) {
        let mut acts = Vec::new();
        for look in 1..=at_most {
            acts.extend(silence.look(true));
            if !silence.alive() {
                return (Some(look), acts);
            }
        }
        (None, acts)
    }

    #[test]
    fn a_silent_node_is_asked_then_doubted_then_silent_within_nine_looks() {
        use Act::{Doubt, Ping, Tell};
        let (silent, acts) = run(&mut heard(), 20);
        assert_eq!(silent, Some(9), "0.9 s after its last sign of life");
        assert_eq!(acts, [Ping, Ping, Doubt, Ping, Ping, Tell]);
    }

    #[test]
    fn one_sign_of_life_of_any_kind_ends_the_doubt() {
        let by_heartbeat = |silence: &mut Silence<u8>| assert_eq!(silence.heartbeat(), None);
        let by_answer = |silence: &mut Silence<u8>| assert_eq!(silence.vouched(), []);
        for sign in [by_heartbeat, by_answer] {
            let mut silence = heard();
            assert_eq!(run(&mut silence, 8).0, None);
            sign(&mut silence);
            assert_eq!(run(&mut silence, 8).0, None);
            assert_eq!(run(&mut silence, 1).0, Some(1));
        }
    }

    #[test]
    fn a_silent_node_returns_with_an_answer_and_not_with_one_late_heartbeat() {
        let mut silence = heard();
        run(&mut silence, 9);
        assert_eq!(silence.heartbeat(), Some(Act::Ping), "it may be of before it fell silent");
        assert!(!silence.alive());
        silence.vouched();
        assert!(silence.alive());
        run(&mut silence, 9);
        silence.heartbeat();
        silence.heartbeat();
        assert!(silence.alive(), "where pings do not pass, a second heartbeat does");
    }

    #[test]
    fn being_asked_starts_own_pings_and_nobody_is_believed_before_they_went_unanswered() {
        let mut silence = heard();
        assert!(silence.called(7, 1), "asked at once");
        assert!(!silence.called(8, 2), "pings are under way");
        assert!(!silence.told(true));
        assert!(silence.alive(), "its own first ping is not a look old");
        silence.look(true);
        assert!(silence.alive());
        silence.look(true);
        assert!(!silence.alive(), "told, and own pings of two looks not answered");
        assert_eq!(silence.vouched(), [(7, 1), (8, 2)], "whoever asked is told that it lives");
    }

    #[test]
    fn a_node_that_was_called_comes_to_its_own_verdict_when_the_caller_is_lost() {
        let mut silence = heard();
        silence.called(7, 1);
        let (silent, acts) = run(&mut silence, 20);
        assert_eq!(silent, Some(LEAVE_IT + VERDICT_AFTER));
        assert_eq!(acts.iter().filter(|act| **act == Act::Doubt).count(), 1);
    }

    #[test]
    fn a_false_alarm_that_was_told_is_forgotten_with_the_next_sign_of_life() {
        let mut silence = heard();
        silence.told(true);
        silence.vouched();
        assert_eq!(run(&mut silence, 8).0, None, "from the beginning");
    }

    #[test]
    fn a_node_never_heard_is_neither_alive_nor_asked() {
        let mut silence: Silence<u8> = Silence::new(200, 100);
        assert_eq!(run(&mut silence, 1), (Some(1), Vec::new()));
        assert!(!silence.called(1, 1) && !silence.told(true));
        silence.vouched();
        assert!(!silence.alive(), "hearsay");
    }

    #[test]
    fn answers_alone_do_not_vouch_for_ever() {
        let mut silence = heard();
        let mut looks = 0;
        while silence.alive() {
            silence.look(true);
            if silence.alive() {
                silence.vouched();
            }
            looks += 1;
            assert!(looks < 100, "its reports do not come, and still it is alive");
        }
        assert!(looks > VOUCHED_AT_MOST);
    }

    #[test]
    fn looks_that_do_not_count_and_words_that_are_not_believed_bring_no_verdict() {
        let mut silence = heard();
        for _ in 0..100 {
            assert_eq!(silence.look(false), None);
        }
        assert!(silence.told(false), "it is asked all the same");
        for _ in 0..LEAVE_IT {
            silence.look(true);
        }
        assert!(silence.alive() && silence.is_asked());
    }

    #[test]
    fn a_silent_node_is_asked_on_and_on_but_ever_less() {
        let mut silence = heard();
        run(&mut silence, 9);
        let mut count = |looks: u32| (0..looks).filter_map(|_| silence.look(true)).count();
        assert_eq!(count(100), 20);
        count(600);
        assert_eq!(count(100), 2);
    }
}
