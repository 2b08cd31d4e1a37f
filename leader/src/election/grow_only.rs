//! Without Redis: one node may let its cluster grow, and nothing else is done.
//!
//! It is the first in the order of names among those of its role that live and could do it, it hears a majority of the
//! members last known, and none of them reaches Redis or sees a lease. Two halves of a fleet cannot both hear a majority.
//! Should two nodes of one half take themselves for the first for a moment, both want the same absolute size.

use std::collections::BTreeSet;
use std::time::Duration;

use mtxfleet_wire::{Mono, NodeId, NodeState, Role};

use super::Neighbour;

/// Redis must be silent for so many TTLs: until then a lease may live that nobody here knows of.
const SILENT_TTLS: u32 = 2;

/// Members are remembered up to this number: far beyond any fleet, so that no damage makes the list grow for ever.
const MEMBERS: usize = 10_000;

/// Why growing is not for this node, though Redis is away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotGrowing {
    #[error("this agent has not read the registry since it started, so it does not know how large the fleet is")]
    NeverReachedRedis,
    #[error("it looks again, since what it knows of Redis and of the others may be old")]
    NotKnown,
    #[error("Redis was there {0:?} ago, and a lease from then may still live")]
    LeaseMayLive(Duration),
    #[error("{0} still reaches Redis")]
    AnotherReachesRedis(NodeId),
    #[error("{0} comes before it, and does that if it can")]
    NotTheFirst(NodeId),
    #[error("it hears {alive} of {known} members, which is no majority")]
    NoMajority { alive: usize, known: usize },
}

/// The other nodes, as far as they matter here.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    /// When Redis last answered.
    reached: Option<Mono>,
    /// When it first did not since then, and when last.
    silent: Option<(Mono, Mono)>,
    /// When gossip was last looked at.
    looked: Mono,
    /// Since when each look found a majority. One look may be wrong: old heartbeats of a node that died go round by others.
    majority_since: Option<Mono>,
    /// Members in service by the registry, when it was last read. An agent that starts where gossip is cut off knows from
    /// it how few it hears.
    registered: Option<BTreeSet<NodeId>>,
    /// Members when Redis was last there, and those that came since; this node is not counted among them.
    known: BTreeSet<NodeId>,
    alive: usize,
    reaches_redis: Option<NodeId>,
    before_me: Option<NodeId>,
}

impl Crowd {
    pub(super) fn reached(&mut self, now: Mono) {
        self.reached = Some(now);
        self.silent = None;
    }

    pub(super) fn not_reached(&mut self, now: Mono) {
        let since = self.silent.map_or(now, |(since, _)| since);
        self.silent = Some((since, now));
    }

    /// Redis is not asked any more, so its silence says nothing.
    pub(super) fn not_asked(&mut self) {
        self.silent = None;
    }

    /// It does, until it has been silent for a TTL.
    pub(super) fn redis_answers(&self, now: Mono, ttl: Duration) -> bool {
        self.silent.is_none_or(|(since, _)| now.since(since) < ttl)
    }

    /// Members in service, as the registry lists them.
    pub(super) fn registered(&mut self, me: &NodeId, members: impl Iterator<Item = NodeId>) {
        self.registered = Some(members.filter(|member| member != me).take(MEMBERS).collect());
    }

    pub(super) fn see(&mut self, now: Mono, ttl: Duration, role: Role, me: &NodeId, neighbours: &[Neighbour<'_>]) {
        // While Redis is there the list is made anew. Without it nobody is struck off for being silent: a half that is
        // cut off would otherwise find itself whole in the end.
        let looks_went_on = now.since(self.looked) <= ttl / 4;
        self.looked = now;
        if self.redis_answers(now, ttl) {
            self.known = self.registered.clone().unwrap_or_default();
        }
        (self.alive, self.reaches_redis, self.before_me) = (0, None, None);
        for neighbour in neighbours {
            if neighbour.state == Some(NodeState::Offline) {
                self.known.remove(neighbour.node);
                continue;
            }
            if self.known.len() < MEMBERS && !self.known.contains(neighbour.node) {
                self.known.insert(neighbour.node.clone());
            }
            if !neighbour.alive {
                continue;
            }
            self.alive += 1;
            let sees_a_lease =
                neighbour.role == Some(role) && neighbour.terms.is_some_and(|terms| terms.lease.is_some());
            if self.reaches_redis.is_none() && (neighbour.reaches_redis || sees_a_lease) {
                self.reaches_redis = Some(neighbour.node.clone());
            }
            let can_grow = !neighbour.terms.is_some_and(|terms| terms.cannot_grow);
            let active = neighbour.role == Some(role) && neighbour.state == Some(NodeState::Active);
            if active
                && can_grow
                && neighbour.node < me
                && self.before_me.as_ref().is_none_or(|first| neighbour.node < first)
            {
                self.before_me = Some(neighbour.node.clone());
            }
        }
        let is_majority = (self.alive + 1) * 2 > self.known.len() + 1;
        self.majority_since = is_majority.then(|| self.majority_since.filter(|_| looks_went_on).unwrap_or(now));
    }

    /// Whether the registry was read since this agent started.
    pub(super) const fn knows_the_fleet(&self) -> bool {
        self.reached.is_some() && self.registered.is_some()
    }

    /// # Errors
    /// What stands against it.
    pub(super) fn may_grow(&self, now: Mono, ttl: Duration, lease_lives: bool) -> Result<(), NotGrowing> {
        if !self.knows_the_fleet() {
            return Err(NotGrowing::NeverReachedRedis);
        }
        let Some((since, last)) = self.silent else { return Err(NotGrowing::NotKnown) };
        let silent = now.since(since);
        if lease_lives || silent < ttl * SILENT_TTLS {
            return Err(NotGrowing::LeaseMayLive(silent));
        }
        if let Some(other) = &self.reaches_redis {
            return Err(NotGrowing::AnotherReachesRedis(other.clone()));
        }
        let Some(majority_since) = self.majority_since else {
            return Err(NotGrowing::NoMajority { alive: self.alive + 1, known: self.known.len() + 1 });
        };
        // Whoever was frozen looks again before it believes what it knew.
        let asked_just_now = now.since(last) <= ttl / 2 && now.since(self.looked) <= ttl / 4;
        if !asked_just_now || now.since(majority_since) < ttl / 2 {
            return Err(NotGrowing::NotKnown);
        }
        match &self.before_me {
            Some(first) => Err(NotGrowing::NotTheFirst(first.clone())),
            None => Ok(()),
        }
    }
}
