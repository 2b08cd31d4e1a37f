//! What must hold in every schedule, and the memory that judging takes. It sees truth: disks, time, who is cut off.

use std::collections::BTreeMap;

use mtxfleet_wire::{RunId, Terms, Token};

use super::world::ROLE;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invariant {
    /// Of one epoch, one run acts and is obeyed, by agents and by Redis, wherever they are.
    OneActorPerEpochAndRole,
    /// Two nodes never act at one moment (while Redis's clock does not step, and nobody talks to a deposed master).
    OneActingAtATime,
    /// No agent carries out a plan of an older term than its disk ever held.
    NoOlderPlanCarriedOut,
    /// No agent carries out plans of two runs of one epoch.
    NoOtherRunOfAnEpochAccepted,
    /// The epochs of the plans that an agent carries out never fall, not even over its restarts.
    EpochsNeverFallPerAgent,
    /// Who acts, and who obeys, has the token on disk.
    TokenPersistedBeforeActed,
    /// A plan that is carried out was made under a lease that Redis gave: nothing is drained on anybody's own word.
    NoShrinkWithoutLease,
    /// Without Redis only a node that hears a majority lets the cluster grow, and none in it reaches Redis.
    GrowOnlyNeedsMajority,
    /// Some time after the last fault somebody acts, and everybody obeys.
    EventuallySomebodyActs,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub invariant: Invariant,
    pub what: String,
}

pub type Judged = Result<(), Broken>;

#[derive(Debug, Default)]
pub struct Judge {
    /// Whether Redis can tell that it lost its past: without that, one epoch may have two runs, each obeyed by some.
    pub epochs_are_unique: bool,
    actors: BTreeMap<u64, RunId>,
    granted: BTreeMap<(u64, RunId), ()>,
    agents: Vec<Agent>,
}

#[derive(Debug, Default, Clone)]
struct Agent {
    obeyed: BTreeMap<u64, RunId>,
    last: u64,
    /// The highest epoch that was ever on its disk.
    held: u64,
}

impl Judge {
    pub fn new(nodes: usize, epochs_are_unique: bool) -> Self {
        Self { epochs_are_unique, agents: vec![Agent::default(); nodes], ..Self::default() }
    }

    pub fn granted(&mut self, token: Token) {
        self.granted.insert((token.epoch, token.run), ());
    }

    pub fn on_disk(&mut self, agent: usize, disk: &Terms) {
        let agent = &mut self.agents[agent];
        agent.held = agent.held.max(disk.of(ROLE).map_or(0, |token| token.epoch));
    }

    pub fn acts(&mut self, node: usize, token: Token, disk: &Terms) -> Judged {
        require(Invariant::TokenPersistedBeforeActed, disk.of(ROLE) == Some(token), || {
            format!("n{node} acts under {token} with {:?} on disk", disk.of(ROLE))
        })?;
        self.is_the_actor(token)
    }

    pub fn redis_took(&mut self, token: Token) -> Judged {
        self.is_the_actor(token)
    }

    pub fn obeys(&mut self, number: usize, token: Token, disk: &Terms) -> Judged {
        let agent = &mut self.agents[number];
        let first = *agent.obeyed.entry(token.epoch).or_insert(token.run);
        let (last, held) = (agent.last, agent.held);
        agent.last = agent.last.max(token.epoch);
        require(Invariant::NoOtherRunOfAnEpochAccepted, first == token.run, || {
            format!("n{number} obeys {token} after run {first}")
        })?;
        require(Invariant::EpochsNeverFallPerAgent, token.epoch >= last, || {
            format!("n{number} obeys {token} after epoch {last}")
        })?;
        require(Invariant::NoOlderPlanCarriedOut, token.epoch >= held, || {
            format!("n{number} obeys {token} and had epoch {held} on disk")
        })?;
        require(Invariant::TokenPersistedBeforeActed, disk.of(ROLE) == Some(token), || {
            format!("n{number} obeys {token} with {:?} on disk", disk.of(ROLE))
        })?;
        require(Invariant::NoShrinkWithoutLease, self.granted.contains_key(&(token.epoch, token.run)), || {
            format!("n{number} obeys {token}, which Redis never gave")
        })?;
        self.is_the_actor(token)
    }

    fn is_the_actor(&mut self, token: Token) -> Judged {
        let first = *self.actors.entry(token.epoch).or_insert(token.run);
        require(Invariant::OneActorPerEpochAndRole, !self.epochs_are_unique || first == token.run, || {
            format!("{token} acts after run {first}")
        })
    }
}

pub fn require(invariant: Invariant, holds: bool, what: impl FnOnce() -> String) -> Judged {
    if holds { Ok(()) } else { Err(Broken { invariant, what: what() }) }
}
