//! Who decides for this node's role, and whose plans it obeys: the election of crate `leader`, joined to the node.

use std::time::Duration;

use mtxfleet_leader::Fleet;
use mtxfleet_leader::election::{Election, LeaseAnswer, Neighbour, Standing};
use mtxfleet_wire::{Mono, NodeId, Role, RunId, Terms, TermsReport, Token};

use super::effect::Effect;
use super::{Node, Now};

#[derive(Debug, Clone, Copy)]
pub struct LeadershipSettings {
    /// Of this run of the agent; drawn at random.
    pub run: RunId,
    /// Terms that were on disk at start.
    pub terms: Terms,
    /// Whether this node may become the orchestrator of its role.
    pub candidate: bool,
    /// How long a lease lasts; 6 s.
    pub lease_ttl: Duration,
}

#[derive(Debug)]
pub struct Leadership {
    election: Election,
    said: Option<TermsReport>,
}

impl Leadership {
    pub(super) fn new(role: Role, node: NodeId, settings: LeadershipSettings) -> Self {
        let rules = mtxfleet_leader::election::Settings { candidate: settings.candidate, ttl: settings.lease_ttl };
        Self { election: Election::new(role, node, settings.run, rules, settings.terms), said: None }
    }

    /// What this node may do for its role at this moment.
    #[must_use]
    pub fn standing(&self, now: Mono) -> Standing {
        self.election.standing(now)
    }

    /// Whether this node carries out a plan with this token. Plans of peers are to be told to
    /// [`Leadership::hear_plan`] first.
    #[must_use]
    pub fn accepts(&self, role: Role, token: Token) -> bool {
        self.election.accepts(role, token)
    }

    /// A peer's plan carries this token. A later term than any known is accepted once it is on disk, some turns later.
    pub fn hear_plan(&mut self, role: Role, token: Token) {
        self.election.hear_token(role, token);
    }

    /// What this node knows of the terms, as it says by gossip.
    #[must_use]
    pub fn report(&self, now: Mono) -> TermsReport {
        self.election.report(now)
    }

    pub(super) fn answered(&mut self, now: Now, number: u64, answer: LeaseAnswer) {
        self.election.answered(now.mono, number, answer);
    }

    pub(super) fn saved(&mut self, now: Now, terms: Terms, done: bool) {
        self.election.saved(now.mono, terms, done);
    }

    pub(super) fn registered(&mut self, members: Vec<NodeId>) {
        self.election.registered(members.into_iter());
    }

    pub(super) fn hear(&mut self, now: Now, fleet: &Fleet) {
        let neighbours: Vec<Neighbour<'_>> = fleet.members().map(Neighbour::from).collect();
        self.election.hear(now.mono, &neighbours);
    }
}

impl Node {
    pub(super) fn lead(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let leadership = &mut self.leadership;
        effects.extend(leadership.election.tick(now.mono, self.state).into_iter().map(Effect::Lease));
        effects.extend(leadership.election.to_save(now.mono).map(Effect::SaveTerms));
        let report = leadership.election.report(now.mono);
        if leadership.said.as_ref() != Some(&report) {
            leadership.said = Some(report.clone());
            effects.push(Effect::PublishTerms(report));
        }
    }

    /// Whether this node is the orchestrator of its role now.
    #[must_use]
    pub fn acts(&self, now: Mono) -> bool {
        matches!(self.leadership.standing(now), Standing::Acting { .. })
    }

    /// When the node wants the next [`super::event::Event::Tick`] at the latest; `None`: at its usual pace.
    #[must_use]
    pub fn wake(&self) -> Option<Mono> {
        [self.leadership.election.wake(), self.next_decision(), self.said.counts_at()].into_iter().flatten().min()
    }

    /// The agent is about to stop: it gives back what another can take up at once.
    pub fn stop(&mut self, now: Now) -> Vec<Effect> {
        let mut effects: Vec<Effect> = self.leadership.election.stop(now.mono).into_iter().map(Effect::Lease).collect();
        effects.push(Effect::PublishTerms(self.leadership.election.report(now.mono)));
        effects
    }
}
