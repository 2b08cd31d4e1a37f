//! Who speaks for a role: one lease in Redis, terms with numbers, and what holds when Redis is away. Pure.
//!
//! ```text
//!            take: granted                 on disk (and, after Redis lost its past, one TTL waited out)
//!  Follow ----------------> Hold (idle) ------------------------------------------------------> Hold (acting)
//!    ^                        |                                                                   |
//!    |   drained or stopped, disk refuses, a later term or another run of this one is heard       |
//!    +------------------------+-------------------------------------------------------------------+
//!         (the lease is released)      the lease runs out on this node's own clock, or Redis says it is lost
//! ```
//! - A node acts only while its lease is valid on its own monotonic clock, counted from *before* it asked, less a margin
//!   for clocks that run at different speeds.
//! - What it says carries a [`Token`]. Every node obeys the highest epoch that it knows, and of one epoch the run that it
//!   heard first; it knows nothing before that is on its disk. So whoever was frozen, cut off or rolled back speaks to
//!   nobody. Who holds a lease and hears of a later term, or of another run of its own, gives the lease up and takes a
//!   new one with a number above all it has heard.
//! - A Redis that failed over or restarted has lost what it has lost. It is known by its replication id: leases from
//!   before are void, numbers jump ahead, and for one TTL nobody acts, until an older holder's time has run out.
//! - Without Redis nobody leads. Growing alone goes on, see [`grow_only`].

mod asks;
pub mod grow_only;

use std::time::Duration;

use mtxfleet_wire::{LeaseHolder, Mono, NodeId, NodeState, Role, RunId, Terms, TermsReport, Token};

pub use asks::{LeaseAnswer, LeaseAsk, LeaseOrder};
use grow_only::{Crowd, NotGrowing};

/// A lease is asked for again this long after it ran out, so that Redis has seen it run out too.
const AFTER_EXPIRY: Duration = Duration::from_millis(20);

/// A disk that refused the terms is tried again after this long, and this long the node asks for no lease.
const DISK_AGAIN: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Whether this node may lead at all. One that may not still keeps terms and obeys plans.
    pub candidate: bool,
    /// How long a lease lasts in Redis; 6 s.
    pub ttl: Duration,
}

impl Settings {
    /// By how much a holder's clock may run slow against Redis's: a fiftieth, a hundred times what quartz does.
    fn margin(self) -> Duration {
        self.ttl / 50
    }

    /// Renewed this often, 1.5 s of 6: three may fail in a row.
    fn renew_every(self) -> Duration {
        self.ttl / 4
    }

    /// Between two asks of a node that follows; the lease's end is asked for on time besides. A lease that was given back
    /// is taken within this and the time that the successor's disk and Redis need, together a second.
    fn ask_every(self) -> Duration {
        self.ttl / 12
    }

    /// Between two asks when Redis does not answer.
    fn try_again(self) -> Duration {
        self.ttl / 12
    }

    /// An answer that has not come by then is not waited for.
    fn answer_within(self) -> Duration {
        self.ttl / 2
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self { candidate: true, ttl: Duration::from_secs(6) }
    }
}

/// What this node may do for its role now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is the orchestrator: plans carry this token.
    Acting {
        token: Token,
        /// For so long, if the lease is not renewed. A cloud call must be over by then.
        valid_for: Duration,
    },
    /// Redis is away, and this node is the one that may let the cluster grow. It publishes no plan: nothing is drained,
    /// replaced or shrunk.
    GrowOnly {
        token: Option<Token>,
    },
    /// Another one leads, or nobody does yet and this node asks for the lease.
    Following {
        leader: Option<LeaseHolder>,
    },
    Idle(Why),
}

/// Why a node neither leads nor follows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    #[error("it does not orchestrate, by its configuration")]
    NotACandidate,
    #[error("the node is {0}")]
    NotInService(NodeState),
    #[error("it holds the lease, and its term is not on disk yet")]
    Saving,
    #[error("it holds the lease, and waits out an older one that Redis may have lost: {left:?} more")]
    WaitingOut { left: Duration },
    #[error("Redis is away, and growing is not for this node: {0}")]
    NoRedis(NotGrowing),
}

/// Another node, as gossip knows it.
#[derive(Debug, Clone, Copy)]
pub struct Neighbour<'a> {
    pub node: &'a NodeId,
    /// Heard now; not a suspect.
    pub alive: bool,
    pub role: Option<Role>,
    pub state: Option<NodeState>,
    pub reaches_redis: bool,
    pub terms: Option<&'a TermsReport>,
}

impl<'a> From<&'a crate::Member> for Neighbour<'a> {
    fn from(member: &'a crate::Member) -> Self {
        let peer = &member.peer;
        Self {
            node: &peer.node,
            alive: member.liveness == mtxfleet_wire::Liveness::Alive,
            role: peer.facts.as_ref().map(|facts| facts.role),
            state: peer.load.as_ref().map(|load| load.state),
            reaches_redis: peer.load.as_ref().is_some_and(|load| load.redis),
            terms: peer.terms.as_ref(),
        }
    }
}

/// One node's part in the election of its role's orchestrator, and its memory of both roles' terms.
#[derive(Debug)]
pub struct Election {
    role: Role,
    node: NodeId,
    run: RunId,
    settings: Settings,
    state: NodeState,

    /// The highest tokens heard, those being written to disk, and those that are there.
    heard: Terms,
    saving: Terms,
    kept: Terms,
    save_again: Mono,

    holding: Option<Holding>,
    /// Another one's lease as Redis showed it last, and until when it lives.
    seen: Option<(LeaseHolder, Mono)>,
    /// That one said by gossip that it holds the lease.
    holder_said_so: bool,
    asked: Option<LeaseOrder>,
    asked_at: Mono,
    next_ask: Mono,
    /// Terms to be given back.
    releases: Vec<u64>,
    numbers: u64,
    crowd: Crowd,
}

#[derive(Debug)]
struct Holding {
    token: Token,
    valid_until: Mono,
    acts_from: Mono,
}

impl Election {
    /// `kept` is what was on disk at start.
    #[must_use]
    pub fn new(role: Role, node: NodeId, run: RunId, settings: Settings, kept: Terms) -> Self {
        Self {
            role,
            node,
            run,
            settings,
            state: NodeState::Active,
            heard: kept,
            saving: kept,
            kept,
            save_again: Mono::default(),
            holding: None,
            seen: None,
            holder_said_so: false,
            asked: None,
            asked_at: Mono::default(),
            next_ask: Mono::default(),
            releases: Vec::new(),
            numbers: 0,
            crowd: Crowd::default(),
        }
    }

    /// What this node may do now.
    #[must_use]
    pub fn standing(&self, now: Mono) -> Standing {
        if !self.settings.candidate {
            return Standing::Idle(Why::NotACandidate);
        }
        if self.state != NodeState::Active {
            return Standing::Idle(Why::NotInService(self.state));
        }
        if let Some(holding) = self.holding.as_ref().filter(|holding| now < holding.valid_until) {
            let token = holding.token;
            if !self.kept.accepts(self.role, token) {
                return Standing::Idle(Why::Saving);
            }
            if now < holding.acts_from {
                return Standing::Idle(Why::WaitingOut { left: holding.acts_from.since(now) });
            }
            return Standing::Acting { token, valid_for: holding.valid_until.since(now) };
        }
        if self.crowd.redis_answers(now, self.settings.ttl) {
            return Standing::Following { leader: self.leader(now).cloned() };
        }
        match self.crowd.may_grow(now, self.settings.ttl, self.leader(now).is_some()) {
            Ok(()) => Standing::GrowOnly { token: self.kept.of(self.role) },
            Err(not) => Standing::Idle(Why::NoRedis(not)),
        }
    }

    /// Whether a plan with this token is to be carried out: of the highest term known here, of the run heard first for
    /// it, and on disk.
    #[must_use]
    pub fn accepts(&self, role: Role, token: Token) -> bool {
        self.heard.accepts(role, token) && self.kept.accepts(role, token)
    }

    /// The highest tokens heard.
    #[must_use]
    pub const fn terms(&self) -> Terms {
        self.heard
    }

    /// For gossip.
    #[must_use]
    pub fn report(&self, now: Mono) -> TermsReport {
        let held = self.holding.as_ref().filter(|holding| now < holding.valid_until);
        let own = held.map(|holding| LeaseHolder { node: self.node.clone(), token: holding.token });
        let cannot_grow = !self.settings.candidate || !self.crowd.knows_the_fleet();
        TermsReport { known: self.kept, lease: own.or_else(|| self.leader(now).cloned()), cannot_grow }
    }

    /// Time has passed, and the node is in this state. What is to be asked of Redis now comes back, to be sent in this
    /// order; each gets one answer.
    #[must_use]
    pub fn tick(&mut self, now: Mono, state: NodeState) -> Vec<LeaseOrder> {
        self.state = state;
        if self.holding.as_ref().is_some_and(|holding| now >= holding.valid_until) {
            self.holding = None;
        }
        let fit = self.settings.candidate && state == NodeState::Active;
        if !fit {
            self.step_down();
            self.crowd.not_asked();
        }
        let mut orders: Vec<LeaseOrder> = Vec::new();
        for epoch in std::mem::take(&mut self.releases) {
            orders.push(self.order(LeaseAsk::Release { epoch }));
        }
        if self.asked.is_some() && now.since(self.asked_at) >= self.settings.answer_within() {
            self.asked = None;
            self.crowd.not_reached(now);
        }
        if fit && self.asked.is_none() && now >= self.next_ask {
            let floor = self.heard.of(self.role).map_or(0, |token| token.epoch);
            let ask = match &self.holding {
                Some(holding) => LeaseAsk::Renew { epoch: holding.token.epoch },
                None => LeaseAsk::Take { floor },
            };
            let order = self.order(ask);
            self.asked = Some(order.clone());
            self.asked_at = now;
            self.next_ask = now + self.settings.renew_every();
            orders.push(order);
        }
        orders
    }

    /// When [`Election::tick`] is wanted next, whatever happens until then.
    #[must_use]
    pub fn wake(&self) -> Option<Mono> {
        if !self.settings.candidate || self.state != NodeState::Active {
            return None;
        }
        let expiry = self.holding.as_ref().map(|holding| holding.valid_until);
        let ask = match self.asked {
            Some(_) => self.asked_at + self.settings.answer_within(),
            None => self.next_ask,
        };
        Some(expiry.map_or(ask, |expiry| expiry.min(ask)))
    }

    /// The node is about to stop: what it holds is given back. Nothing is asked for afterwards.
    #[must_use]
    pub fn stop(&mut self, now: Mono) -> Vec<LeaseOrder> {
        self.settings.candidate = false;
        self.tick(now, self.state)
    }

    /// Redis answered the order of this number, or could not be asked. A late answer gives nothing.
    pub fn answered(&mut self, now: Mono, number: u64, answer: LeaseAnswer) {
        match answer {
            LeaseAnswer::Unreachable(_) => self.crowd.not_reached(now),
            _ => self.crowd.reached(now),
        }
        let Some(order) = self.asked.take_if(|asked| asked.number == number) else {
            // Nobody waits for it any more. Where it gave a term, that one is never used: the next is another.
            if let LeaseAnswer::Granted { epoch, .. } = answer
                && self.holding.as_ref().is_none_or(|holding| holding.token.epoch != epoch)
            {
                self.heard.hear(self.role, self.token(epoch));
                self.releases.push(epoch);
            }
            return;
        };
        self.next_ask = now + self.settings.try_again();
        match (order.ask, answer) {
            (LeaseAsk::Take { .. }, LeaseAnswer::Granted { epoch, wait }) => self.took(now, epoch, wait),
            (LeaseAsk::Renew { .. }, LeaseAnswer::Granted { .. }) => {
                let valid_until = self.valid_until();
                if let Some(holding) = &mut self.holding {
                    holding.valid_until = valid_until;
                }
                self.next_ask = self.asked_at + self.settings.renew_every();
            }
            (_, LeaseAnswer::Held { by, left }) => {
                self.heard.hear(self.role, by.token);
                self.holding = None;
                let ends = now + left;
                if self.seen.as_ref().is_none_or(|(seen, _)| *seen != by) {
                    self.holder_said_so = false;
                }
                self.seen = Some((by, ends));
                self.next_ask = (now + self.settings.ask_every()).min(ends + AFTER_EXPIRY);
            }
            (_, LeaseAnswer::Lost) => {
                self.holding = None;
                self.next_ask = now;
            }
            // Its number is used up: a release that comes late must not end a later lease.
            (LeaseAsk::Take { .. }, LeaseAnswer::NotReplicated { epoch }) => {
                self.heard.hear(self.role, self.token(epoch));
                self.releases.push(epoch);
            }
            _ => {}
        }
    }

    /// All other nodes as gossip knows them now.
    pub fn hear(&mut self, now: Mono, neighbours: &[Neighbour<'_>]) {
        for neighbour in neighbours {
            for role in [Role::Ingestion, Role::Distribution] {
                if let Some(token) = neighbour.terms.and_then(|terms| terms.known.of(role)) {
                    self.hear_token(role, token);
                }
            }
        }
        self.hear_of_a_release(now, neighbours);
        self.crowd.see(now, self.settings.ttl, self.role, &self.node, neighbours);
    }

    /// The registry lists these members as in service.
    pub fn registered(&mut self, members: impl Iterator<Item = NodeId>) {
        self.crowd.registered(&self.node, members);
    }

    /// A plan with this token was seen. It is not accepted before it is on disk.
    pub fn hear_token(&mut self, role: Role, token: Token) {
        self.heard.hear(role, token);
        let speaks_over = |holding: &Holding| {
            token.epoch > holding.token.epoch || (token.epoch == holding.token.epoch && token.run != holding.token.run)
        };
        if role == self.role && self.holding.as_ref().is_some_and(speaks_over) {
            self.step_down();
        }
    }

    /// Terms that are to be on disk now, when there are any. Answered by [`Election::saved`].
    #[must_use]
    pub fn to_save(&mut self, now: Mono) -> Option<Terms> {
        if self.heard == self.saving || now < self.save_again {
            return None;
        }
        self.saving = self.heard;
        Some(self.saving)
    }

    /// These terms are on disk, or are not.
    pub fn saved(&mut self, now: Mono, terms: Terms, done: bool) {
        if done {
            self.kept = terms;
            return;
        }
        // What could not be kept is not acted on: the lease is for somebody whose disk works.
        self.saving = self.kept;
        self.save_again = now + DISK_AGAIN;
        if self.holding.is_some() {
            self.step_down();
            self.next_ask = now + DISK_AGAIN;
        }
    }

    fn took(&mut self, now: Mono, epoch: u64, wait: Duration) {
        let token = self.token(epoch);
        let valid_until = self.valid_until();
        // A later term was heard while Redis was asked, or Redis answered too late for it to be of use.
        if !self.heard.hear(self.role, token) || now >= valid_until {
            self.releases.push(epoch);
            return;
        }
        self.holding = Some(Holding { token, valid_until, acts_from: now + wait });
        self.seen = None;
        self.next_ask = self.asked_at + self.settings.renew_every();
    }

    /// Gives up the lease, and whatever an ask under way may bring.
    fn step_down(&mut self) {
        self.asked = None;
        if let Some(holding) = self.holding.take() {
            self.releases.push(holding.token.epoch);
            self.next_ask = Mono::default();
        }
    }

    /// The holder said that it has the lease, and now that it has not: it gave it up.
    fn hear_of_a_release(&mut self, now: Mono, neighbours: &[Neighbour<'_>]) {
        let Some((holder, _)) = &self.seen else { return };
        let report = neighbours.iter().find(|neighbour| *neighbour.node == holder.node).and_then(|holder| holder.terms);
        let says_so = report.and_then(|report| report.lease.as_ref()).is_some_and(|lease| lease == holder);
        if self.holder_said_so && !says_so {
            self.seen = None;
            self.next_ask = now;
        }
        self.holder_said_so = says_so;
    }

    fn leader(&self, now: Mono) -> Option<&LeaseHolder> {
        self.seen.as_ref().filter(|(_, until)| now < *until).map(|(holder, _)| holder)
    }

    fn valid_until(&self) -> Mono {
        self.asked_at + (self.settings.ttl - self.settings.margin())
    }

    const fn token(&self, epoch: u64) -> Token {
        Token { epoch, run: self.run }
    }

    fn order(&mut self, ask: LeaseAsk) -> LeaseOrder {
        self.numbers += 1;
        let ttl = self.settings.ttl;
        LeaseOrder { number: self.numbers, role: self.role, node: self.node.clone(), run: self.run, ttl, ask }
    }
}

#[cfg(test)]
mod tests;
