//! Terms of the orchestrators: who may speak for a role, and what each node knows of it.
//!
//! An orchestrator's word is good by its [`Token`]. Epochs come from a counter in Redis, which may lose its last writes
//! and give a number out twice; the run id of the agent that got it tells the two apart.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{NodeId, Role};

/// Epochs beyond are taken for damage and not heard. Redis's scripts count in doubles, which are exact up to 2^53.
pub const MAX_EPOCH: u64 = 1 << 52;

/// One run of one agent's process: a random number, drawn at each start, 16 hexadecimal digits in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(pub u64);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("run id {0:?} is not valid: 16 hexadecimal digits")]
pub struct InvalidRunId(String);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for RunId {
    type Err = InvalidRunId;
    fn from_str(text: &str) -> Result<Self, InvalidRunId> {
        let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|_| digits);
        number.map(Self).ok_or_else(|| InvalidRunId(text.to_owned()))
    }
}

impl TryFrom<String> for RunId {
    type Error = InvalidRunId;
    fn try_from(text: String) -> Result<Self, InvalidRunId> {
        text.parse()
    }
}

impl From<RunId> for String {
    fn from(run: RunId) -> Self {
        run.to_string()
    }
}

/// What an orchestrator's word is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Token {
    /// Number of the term, 1 to [`MAX_EPOCH`]. The higher one is obeyed.
    pub epoch: u64,
    /// The run that got it. Of one epoch, the run that was heard first is obeyed, and no other.
    pub run: RunId,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of run {}", self.epoch, self.run)
    }
}

/// The highest token known for each role. On disk, and in gossip as part of [`TermsReport`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Terms {
    pub ingestion: Option<Token>,
    pub distribution: Option<Token>,
}

impl Terms {
    #[must_use]
    pub const fn of(&self, role: Role) -> Option<Token> {
        match role {
            Role::Ingestion => self.ingestion,
            Role::Distribution => self.distribution,
        }
    }

    /// Takes in a token that somebody knows; true when it is of a later term than the one known here, which it then
    /// replaces. Another run of the term known here changes nothing.
    pub fn hear(&mut self, role: Role, token: Token) -> bool {
        if token.epoch == 0 || token.epoch > MAX_EPOCH {
            return false;
        }
        let known = match role {
            Role::Ingestion => &mut self.ingestion,
            Role::Distribution => &mut self.distribution,
        };
        let is_later = known.is_none_or(|known| token.epoch > known.epoch);
        if is_later {
            *known = Some(token);
        }
        is_later
    }

    /// Whether an orchestrator with this token is obeyed by who knows these terms: not one of an older term, and not
    /// another run of the term known. (One of a later term is to be heard first.)
    #[must_use]
    pub fn accepts(&self, role: Role, token: Token) -> bool {
        self.of(role) == Some(token)
    }
}

/// A lease that lives in Redis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseHolder {
    pub node: NodeId,
    pub token: Token,
}

/// What a node says of the terms in gossip: key `terms`, when it changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TermsReport {
    /// The highest tokens it knows. It obeys these and no others.
    pub known: Terms,
    /// The living lease of its own role that it sees in Redis now, its own or another's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseHolder>,
    /// It lets nothing grow while Redis is away: it is no candidate, or has not read the registry since it started. Others
    /// do not wait for it then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cannot_grow: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(epoch: u64, run: u64) -> Token {
        Token { epoch, run: RunId(run) }
    }

    #[test]
    fn an_older_term_and_another_run_of_the_same_term_are_refused() {
        let mut terms = Terms::default();
        let role = Role::Distribution;
        assert!(!terms.accepts(role, token(1, 1)), "not heard yet");
        assert!(terms.hear(role, token(5, 1)));
        assert!(!terms.hear(role, token(5, 2)) && !terms.hear(role, token(4, 1)));
        assert!(terms.accepts(role, token(5, 1)));
        assert!(!terms.accepts(role, token(5, 2)) && !terms.accepts(role, token(4, 1)));
        assert!(!terms.accepts(Role::Ingestion, token(5, 1)), "roles have terms of their own");
        assert!(terms.hear(role, token(6, 2)));
        assert!(!terms.accepts(role, token(5, 1)));
    }

    #[test]
    fn an_epoch_that_no_counter_gives_is_not_heard() {
        let mut terms = Terms::default();
        assert!(!terms.hear(Role::Ingestion, token(u64::MAX, 1)) && !terms.hear(Role::Ingestion, token(0, 1)));
        assert_eq!(terms, Terms::default());
    }

    #[test]
    fn run_ids_are_sixteen_hexadecimal_digits_and_come_back() {
        let text = r#"{"epoch":7,"run":"00000000000000ff"}"#;
        assert_eq!(serde_json::from_str::<Token>(text).expect("valid"), token(7, 255));
        assert_eq!(serde_json::to_string(&token(7, 255)).expect("JSON"), text);
        for wrong in ["", "ff", "+0000000000000ff", "00000000000000fg", "000000000000000ff"] {
            assert!(wrong.parse::<RunId>().is_err(), "{wrong}");
        }
    }
}
