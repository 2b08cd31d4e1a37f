//! What an orchestrator is about to ask of the cloud, written down before it does.

use std::time::Duration;

use mtxfleet_wire::{Role, Token};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The number that the group is to have.
    pub desired: u32,
    /// The number that it had.
    pub from: u32,
}

/// One that stands in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub intent: Intent,
    /// By the registry's own clock.
    pub age: Duration,
}

/// For the registry, which does it only under this term: `intent.lua` of the agent is the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntentOrder {
    pub number: u64,
    pub role: Role,
    pub token: Token,
    pub ask: IntentAsk,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IntentAsk {
    /// Answered by [`IntentAnswer::Found`].
    Read,
    Write(Intent),
    /// It is fulfilled, or not wanted any more. Nobody waits for the answer.
    Drop,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IntentAnswer {
    Found(Option<Found>),
    Done,
    /// The registry knows a later term, or another run of this one; nothing was done.
    Fenced,
    /// No answer in time: whether it was done is not known.
    Unreachable(String),
}
