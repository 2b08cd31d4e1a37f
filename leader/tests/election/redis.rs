//! Redis as the election sees it: a master and a replica that lags, failovers that lose what had not reached it, splits,
//! restarts from an old snapshot, a clock that steps. `lease.lua` in Rust; the agent's tests hold the script itself to
//! the same on a real Redis.

use std::collections::VecDeque;
use std::time::Duration;

use mtxfleet_leader::election::{LeaseAnswer, LeaseAsk, LeaseOrder};
use mtxfleet_wire::{LeaseHolder, NodeId, RunId, Token};

use super::random::Random;

#[derive(Debug, Clone)]
struct Lease {
    by: LeaseHolder,
    /// By the server's own clock, ms.
    ends: i64,
}

#[derive(Debug, Clone, Copy)]
struct Term {
    token: Token,
    history: u64,
    /// Nobody acts before this, by the server's clock.
    quiet: i64,
}

/// What a server stores, and so what its replica gets.
#[derive(Debug, Clone, Default)]
struct Data {
    lease: Option<Lease>,
    term: Option<Term>,
}

#[derive(Debug)]
struct Server {
    data: Data,
    /// Its replication id: new at each start and at each promotion.
    history: u64,
    /// Its clock's lead over true time, ms.
    lead: i64,
}

#[derive(Debug)]
pub struct Redis {
    servers: [Server; 2],
    master: usize,
    /// Writes on their way to the replica, and when they arrive.
    on_the_way: VecDeque<(u64, Data)>,
    pub up: bool,
    /// Nodes (by bit) that still talk to the old master after a failover.
    pub split: u32,
    /// How long a write takes to the replica, ms; `None`: it is cut off.
    pub lag: Option<u64>,
    /// Leases count only when the replica has them.
    waits: bool,
    /// Whether scripts may know the replication id.
    tells_history: bool,
    snapshot: Data,
    histories: Random,
}

impl Redis {
    pub fn new(mut random: Random, waits: bool, tells_history: bool) -> Self {
        let server = |random: &mut Random| Server { data: Data::default(), history: random.next(), lead: 0 };
        Self {
            servers: [server(&mut random), server(&mut random)],
            master: 0,
            on_the_way: VecDeque::new(),
            up: true,
            split: 0,
            lag: Some(5),
            waits,
            tells_history,
            snapshot: Data::default(),
            histories: random,
        }
    }

    /// The server that this node talks to.
    fn serving(&self, node: usize) -> usize {
        if self.split & (1 << node) != 0 { 1 - self.master } else { self.master }
    }

    pub fn eval(&mut self, true_ms: u64, from: usize, order: &LeaseOrder) -> LeaseAnswer {
        let at = self.serving(from);
        let tells_history = self.tells_history;
        let mut answer = self.servers[at].lease(true_ms as i64, order, tells_history);
        if let LeaseAnswer::Granted { epoch, .. } = answer
            && self.waits
        {
            // While a deposed master is still talked to, nobody has a replica.
            if self.split == 0 && self.lag.is_some_and(|lag| lag < 1_000) {
                self.on_the_way.clear();
                self.servers[1 - at].data = self.servers[at].data.clone();
            } else {
                answer = LeaseAnswer::NotReplicated { epoch };
            }
        }
        if at == self.master
            && let Some(lag) = self.lag
        {
            self.on_the_way.push_back((true_ms + lag, self.servers[at].data.clone()));
        }
        answer
    }

    /// Whether a write under this token is carried out.
    pub fn takes_fenced(&self, from: usize, token: Token) -> bool {
        self.servers[self.serving(from)].data.term.is_some_and(|term| term.token == token)
    }

    pub fn pass(&mut self, true_ms: u64) {
        while let Some((_, data)) = self.on_the_way.pop_front_if(|(at, _)| *at <= true_ms) {
            if self.split == 0 {
                self.servers[1 - self.master].data = data;
            }
        }
    }

    /// The replica takes over, without what is on the way. `split`: nodes that do not notice.
    pub fn fail_over(&mut self, split: u32) {
        self.on_the_way.clear();
        self.master = 1 - self.master;
        self.servers[self.master].history = self.histories.next();
        self.split = split;
        if split == 0 {
            self.join();
        }
    }

    /// Everybody talks to the master, and the other server becomes its replica.
    pub fn join(&mut self) {
        self.split = 0;
        self.servers[1 - self.master].data = self.servers[self.master].data.clone();
    }

    pub fn save_snapshot(&mut self) {
        self.snapshot = self.servers[self.master].data.clone();
    }

    /// It starts again with what it had on disk.
    pub fn restart(&mut self) {
        self.servers[self.master].data = self.snapshot.clone();
        self.servers[self.master].history = self.histories.next();
        self.on_the_way.clear();
        self.join();
    }

    pub fn flush(&mut self) {
        self.servers[self.master].data = Data::default();
        self.on_the_way.clear();
    }

    pub fn step_clock(&mut self, by_ms: i64) {
        for server in &mut self.servers {
            server.lead += by_ms;
        }
    }
}

impl Server {
    /// `lease.lua`.
    fn lease(&mut self, true_ms: i64, order: &LeaseOrder, tells_history: bool) -> LeaseAnswer {
        let now = true_ms + self.lead;
        self.data.lease.take_if(|lease| lease.ends <= now);
        let ends = now + order.ttl.as_millis() as i64;
        let held = self.data.lease.as_ref().map(|lease| lease.by.token);
        let own = held.filter(|token| token.run == order.run).map(|token| token.epoch);
        if let LeaseAsk::Release { epoch } = order.ask {
            if own == Some(epoch) {
                self.data.lease = None;
            }
            return LeaseAnswer::Released;
        }
        let history = if tells_history { self.history } else { 0 };
        let floor = if let LeaseAsk::Take { floor } = order.ask { floor } else { 0 };
        let past_lost = self.data.term.is_none_or(|term| term.history != history || floor > term.token.epoch);
        let quiet = self.data.term.map_or(0, |term| (term.quiet - now).clamp(0, order.ttl.as_millis() as i64));
        let wait = if past_lost { order.ttl } else { Duration::from_millis(quiet as u64) };
        match (order.ask, own) {
            (LeaseAsk::Renew { epoch }, Some(own)) if own == epoch && !past_lost => {
                self.data.lease.iter_mut().for_each(|lease| lease.ends = ends);
                LeaseAnswer::Granted { epoch, wait: Duration::ZERO }
            }
            (LeaseAsk::Renew { .. }, _) => LeaseAnswer::Lost,
            (LeaseAsk::Take { floor }, own) => {
                if let (Some(lease), None, false) = (&self.data.lease, own, past_lost) {
                    let left = Duration::from_millis((lease.ends - now) as u64);
                    return LeaseAnswer::Held { by: lease.by.clone(), left };
                }
                if let (Some(epoch), false) = (own.filter(|epoch| *epoch > floor), past_lost) {
                    self.data.lease.iter_mut().for_each(|lease| lease.ends = ends);
                    return LeaseAnswer::Granted { epoch, wait };
                }
                let jump = if past_lost { Random::new(history ^ order.run.0).next() >> 40 } else { 0 };
                let epoch = self.data.term.map_or(0, |term| term.token.epoch).max(floor) + 1 + jump;
                let token = Token { epoch, run: order.run };
                self.data.term = Some(Term { token, history, quiet: now + wait.as_millis() as i64 });
                self.data.lease = Some(Lease { by: LeaseHolder { node: order.node.clone(), token }, ends });
                LeaseAnswer::Granted { epoch, wait }
            }
            (LeaseAsk::Release { .. }, _) => LeaseAnswer::Released,
        }
    }
}

/// Names are `n0`, `n1`, ..., in this order.
pub fn node_id(number: usize) -> NodeId {
    NodeId::new(format!("n{number}")).expect("valid")
}

/// Never the same twice.
pub fn run_id(node: usize, start: u64) -> RunId {
    RunId(node as u64 + 1 + (start << 8))
}
