//! Several nodes' elections, one Redis, gossip between them, and faults drawn from a seed.

use std::sync::Arc;
use std::time::Duration;

use mtxfleet_leader::election::{Election, LeaseAnswer, LeaseOrder, Neighbour, Settings, Standing};
use mtxfleet_wire::{Mono, NodeId, NodeState, Role, Terms, TermsReport, Token};

use super::invariants::{Invariant, Judge, Judged, require};
use super::random::Random;
use super::redis::{Redis, node_id, run_id};

pub const ROLE: Role = Role::Distribution;
/// One step of true time, ms.
const STEP: u64 = 50;
/// Faults begin when everybody has met, and end here.
const CALM_UNTIL: u64 = 4_000;
const FAULTS_UNTIL: u64 = 50_000;
/// By the end somebody must act: a lease that a dead node holds, the disk's pause, and the wait after a failover.
const END: u64 = 80_000;
const GOSSIP_EVERY: u64 = 200;
/// A peer whose heartbeat stands for so long is not heard.
const SILENT_AFTER: Duration = Duration::from_millis(1_500);
/// How far a node's view may lag behind the truth that it is judged by: a look that is at most a quarter TTL old, a peer
/// that was not missed yet, and its last heartbeats that went round by others.
const VIEW_LAG: u64 = 5_000;

/// A defect put in on purpose, to see that the invariants find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// Agents obey the newest plan they see, whatever its token.
    ObeyAnyone,
    /// A lease that was valid once is taken to be valid.
    ActPastExpiry,
    /// What is to be on disk is said to be there at once, and is there later.
    ActBeforeDisk,
    /// Nothing of the terms is left after a restart.
    ForgetTerms,
    /// Who may only grow publishes plans too, under the next number.
    PlanWithoutLease,
    /// Whoever does not reach Redis lets the cluster grow.
    GrowAlone,
    /// Redis does not say that it has another history now.
    HideHistory,
    /// A node that once did not reach Redis never asks again, until it starts anew.
    GiveUp,
    /// After Redis lost its past nobody waits.
    WaitForNobody,
}

/// What a node says by gossip.
#[derive(Debug, Default)]
struct Says {
    report: TermsReport,
    plan: Option<Token>,
    state: Option<NodeState>,
    reaches_redis: bool,
}

#[derive(Debug, Clone, Default)]
struct Known {
    /// Start of the process, then heartbeats of it.
    beat: (u64, u64),
    /// On this node's clock.
    heard: Mono,
    says: Arc<Says>,
}

#[derive(Debug)]
struct Node {
    id: NodeId,
    /// `None`: its process is dead.
    election: Option<Election>,
    starts: u64,
    started: u64,
    ppm: i64,
    disk: Terms,
    writing: Option<(u64, Terms, bool)>,
    answers: Vec<(u64, u64, LeaseAnswer)>,
    view: Vec<Known>,
    beats: u64,
    state: NodeState,
    reaches_redis: bool,
    gave_up: bool,
    plan: Option<Token>,
    /// Decided and not published when the process was frozen.
    unfinished: Option<Token>,
    acted: Option<Token>,
    frozen_until: u64,
    dead_until: u64,
    drained_until: u64,
    cut_off_until: u64,
    disk_bad_until: u64,
    /// When it was last in a part of the fleet that is a majority, and which parts it was in.
    majority_at: u64,
    with: Vec<u64>,
    reaches_since: u64,
}

#[derive(Debug)]
struct Request {
    at: u64,
    from: usize,
    start: u64,
    order: LeaseOrder,
}

#[derive(Debug)]
pub struct World {
    now: u64,
    random: Random,
    faults: Random,
    defect: Option<Defect>,
    nodes: Vec<Node>,
    redis: Redis,
    requests: Vec<Request>,
    /// Bit j of entry i: they do not hear each other.
    cuts: Vec<u32>,
    slow_until: u64,
    redis_down_until: u64,
    split_until: u64,
    lag_until: u64,
    /// Until then two nodes may act at a moment, by what Redis's clock or an old master did.
    overlap_until: u64,
    judge: Judge,
    /// What happened, kept only where it is to be shown.
    pub log: Option<Vec<String>>,
}

impl World {
    pub fn new(seed: u64, defect: Option<Defect>, logged: bool) -> Self {
        let mut random = Random::new(seed);
        let mut faults = random.child();
        let count = faults.between(2, 5) as usize;
        // One schedule in four has a Redis that does not tell its history, where runs alone tell two terms apart.
        let tells_history = defect != Some(Defect::HideHistory) && !faults.one_in(4);
        let redis = Redis::new(random.child(), faults.one_in(3), tells_history);
        let mut world = Self {
            now: 0,
            nodes: (0..count).map(|number| Node::new(number, count, &mut random)).collect(),
            random,
            faults,
            defect,
            redis,
            requests: Vec::new(),
            cuts: vec![0; count],
            slow_until: 0,
            redis_down_until: 0,
            split_until: 0,
            lag_until: 0,
            overlap_until: 0,
            judge: Judge::new(count, tells_history || defect == Some(Defect::HideHistory)),
            log: logged.then(Vec::new),
        };
        for number in 0..count {
            world.start(number);
        }
        world
    }

    /// The whole schedule.
    pub fn run(&mut self) -> Judged {
        while self.now < END {
            self.now += STEP;
            if (CALM_UNTIL..FAULTS_UNTIL).contains(&self.now) {
                self.draw_faults();
            }
            self.end_faults();
            self.redis.pass(self.now);
            self.deliver()?;
            if self.now.is_multiple_of(GOSSIP_EVERY) {
                self.gossip();
                self.see_truth();
            }
            for number in 0..self.nodes.len() {
                if self.is_running(number) {
                    self.turn(number)?;
                }
            }
            self.judge_moment()?;
        }
        self.judge_end()
    }

    fn is_running(&self, number: usize) -> bool {
        let node = &self.nodes[number];
        node.election.is_some() && node.frozen_until <= self.now
    }

    fn start(&mut self, number: usize) {
        let now = self.now;
        let forget = self.defect == Some(Defect::ForgetTerms);
        let node = &mut self.nodes[number];
        node.starts += 1;
        node.started = now;
        node.beats = 0;
        (node.plan, node.unfinished, node.acted) = (None, None, None);
        node.answers.clear();
        node.view = vec![Known::default(); node.view.len()];
        (node.reaches_redis, node.gave_up) = (false, false);
        let kept = if forget { Terms::default() } else { node.disk };
        let run = run_id(number, node.starts);
        let election = Election::new(ROLE, node.id.clone(), run, Settings::default(), kept);
        node.election = Some(election);
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            log.push(format!("{:6} {}", self.now, what()));
        }
    }

    fn draw_faults(&mut self) {
        if !self.faults.one_in(45) {
            return;
        }
        let (now, count) = (self.now, self.nodes.len());
        let number = self.faults.below(count as u64) as usize;
        let lasting = now + [500, 3_000, 9_000, 32_000][self.faults.below(4) as usize] + self.faults.below(1_000);
        let kind = self.faults.below(15);
        match kind {
            0 | 1 => {
                let node = &mut self.nodes[number];
                node.frozen_until = lasting;
                node.unfinished = node.acted;
            }
            2 | 3 => {
                let node = &mut self.nodes[number];
                node.election = None;
                node.dead_until = now + (lasting - now) / 3;
                if let Some((_, terms, _)) = node.writing.take()
                    && self.faults.one_in(2)
                {
                    node.disk = terms;
                }
            }
            4 => {
                let half = self.faults.below(1 << count) as u32;
                for (at, cuts) in self.cuts.iter_mut().enumerate() {
                    *cuts = if half & (1 << at) == 0 { half } else { !half };
                }
            }
            5 => {
                let other = self.faults.below(count as u64) as usize;
                self.cuts[number] ^= 1 << other;
                self.cuts[other] ^= 1 << number;
            }
            6 => self.cuts.fill(0),
            7 => self.nodes[number].cut_off_until = lasting,
            8 => self.slow_until = lasting,
            9 => self.redis_down_until = now + (lasting - now) / 2,
            10 => {
                self.redis.fail_over(0);
            }
            11 => {
                self.redis.fail_over(self.faults.below(1 << count) as u32);
                self.split_until = now + (lasting - now) / 2;
                self.overlap_until = self.overlap_until.max(self.split_until + 7_000);
            }
            12 => {
                if self.faults.one_in(3) {
                    self.redis.flush();
                } else {
                    self.redis.restart();
                }
            }
            13 => {
                if now < FAULTS_UNTIL / 2 {
                    let by = self.faults.between(0, 30_000) as i64 - 15_000;
                    self.redis.step_clock(by);
                    self.overlap_until = self.overlap_until.max(now + 7_000);
                }
                self.redis.save_snapshot();
            }
            _ => {
                let node = &mut self.nodes[number];
                if self.faults.one_in(2) {
                    node.disk_bad_until = lasting;
                } else {
                    node.drained_until = lasting;
                }
            }
        }
        if self.faults.one_in(2) {
            // Replication falls behind, so that a failover loses something.
            self.redis.lag = [Some(200), Some(3_000), None][self.faults.below(3) as usize];
            self.lag_until = lasting;
        }
        self.note(|| format!("fault {kind} on n{number} until {lasting}"));
    }

    fn end_faults(&mut self) {
        let now = self.now;
        if now == FAULTS_UNTIL {
            self.cuts.fill(0);
            for until in [&mut self.slow_until, &mut self.redis_down_until, &mut self.split_until, &mut self.lag_until]
            {
                *until = (*until).min(now);
            }
            for node in &mut self.nodes {
                for until in [
                    &mut node.frozen_until,
                    &mut node.dead_until,
                    &mut node.drained_until,
                    &mut node.cut_off_until,
                    &mut node.disk_bad_until,
                ] {
                    *until = (*until).min(now);
                }
            }
        }
        self.redis.up = self.redis_down_until <= now;
        if self.lag_until <= now {
            self.redis.lag = Some(5);
        }
        if self.redis.split != 0 && self.split_until <= now {
            self.redis.join();
        }
        for number in 0..self.nodes.len() {
            let node = &mut self.nodes[number];
            node.state = if node.drained_until > now { NodeState::Draining } else { NodeState::Active };
            if node.election.is_none() && node.dead_until <= now {
                self.start(number);
            }
        }
    }

    /// Requests that have reached Redis by now.
    fn deliver(&mut self) -> Judged {
        let now = self.now;
        let mut at = 0;
        while at < self.requests.len() {
            if self.requests[at].at > now {
                at += 1;
                continue;
            }
            let request = self.requests.swap_remove(at);
            if !self.redis.up || self.nodes[request.from].cut_off_until > now {
                continue;
            }
            let mut answer = self.redis.eval(now, request.from, &request.order);
            if let LeaseAnswer::Granted { epoch, wait } = &mut answer {
                self.judge.granted(Token { epoch: *epoch, run: request.order.run });
                if self.defect == Some(Defect::WaitForNobody) {
                    *wait = Duration::ZERO;
                }
            }
            self.note(|| format!("n{} {:?} -> {answer:?}", request.from, request.order.ask));
            let back = now + self.latency();
            let node = &mut self.nodes[request.from];
            if node.starts == request.start {
                // The edge answers each order once: this takes the place of "no answer in time" if it is earlier.
                if let Some(slot) = node.answers.iter_mut().find(|slot| slot.1 == request.order.number && slot.0 > back)
                {
                    *slot = (back, request.order.number, answer);
                }
            }
        }
        Ok(())
    }

    fn latency(&mut self) -> u64 {
        let most = if self.slow_until > self.now { 3_000 } else { 20 };
        self.random.below(most)
    }

    fn hear_each_other(&self, a: usize, b: usize) -> bool {
        self.is_running(a) && self.is_running(b) && self.cuts[a] & (1 << b) == 0 && self.cuts[b] & (1 << a) == 0
    }

    /// Each running node swaps all it knows with one other that it reaches.
    fn gossip(&mut self) {
        let count = self.nodes.len();
        for number in 0..count {
            if !self.is_running(number) {
                continue;
            }
            self.nodes[number].publish(number, self.now);
            let first = self.random.below(count as u64) as usize;
            let mut others = (0..count).map(|at| (first + at) % count).filter(|other| *other != number);
            let Some(other) = others.find(|other| self.hear_each_other(number, *other)) else { continue };
            for about in 0..count {
                let (mine, theirs) = (self.nodes[number].view[about].clone(), self.nodes[other].view[about].clone());
                let now = self.now;
                self.nodes[number].learn(about, &theirs, now);
                self.nodes[other].learn(about, &mine, now);
            }
        }
    }

    /// For the judge: who is with a majority, and who is together, by true connections.
    fn see_truth(&mut self) {
        let (now, count) = (self.now, self.nodes.len());
        for number in 0..count {
            let mut part = 1u32 << number;
            let mut grown = true;
            while grown {
                grown = false;
                for (a, b) in (0..count).flat_map(|a| (0..count).map(move |b| (a, b))) {
                    if part & (1 << a) != 0 && part & (1 << b) == 0 && self.hear_each_other(a, b) {
                        part |= 1 << b;
                        grown = true;
                    }
                }
            }
            let node = &mut self.nodes[number];
            if part.count_ones() as usize * 2 > count {
                node.majority_at = now;
            }
            for (other, since) in node.with.iter_mut().enumerate() {
                if part & (1 << other) == 0 {
                    *since = now;
                }
            }
            if !node.reaches_redis || node.election.is_none() || node.frozen_until > now {
                node.reaches_since = now;
            }
        }
    }

    /// One turn of one agent: what came in, then what it does.
    fn turn(&mut self, number: usize) -> Judged {
        let (now, defect) = (self.now, self.defect);
        let bad_disk = self.nodes[number].disk_bad_until > now;
        let (write_takes, fenced_at) = (10 + self.random.below(60), self.random.one_in(10));
        let node = &mut self.nodes[number];
        let mono = node.mono(now);
        let Some(election) = &mut node.election else { return Ok(()) };

        if let Some((_, terms, done)) = node.writing.take_if(|(at, ..)| *at <= now) {
            if done {
                node.disk = terms;
            }
            election.saved(mono, terms, done);
        }
        self.judge.on_disk(number, &node.disk);
        node.answers.sort_unstable_by_key(|answer| std::cmp::Reverse(answer.0));
        while let Some((_, order, answer)) = node.answers.pop_if(|answer| answer.0 <= now) {
            node.reaches_redis = !matches!(answer, LeaseAnswer::Unreachable(_));
            if node.reaches_redis {
                election.registered((0..node.view.len()).map(node_id));
            }
            node.gave_up |= !node.reaches_redis && defect == Some(Defect::GiveUp);
            election.answered(mono, order, answer);
        }
        if now.is_multiple_of(GOSSIP_EVERY) {
            let view = node.view.iter().enumerate().filter(|(about, known)| *about != number && known.beat.1 > 0);
            let ids: Vec<NodeId> = (0..node.view.len()).map(node_id).collect();
            let neighbours: Vec<Neighbour<'_>> = view
                .map(|(about, known)| Neighbour {
                    node: &ids[about],
                    alive: mono.since(known.heard) < SILENT_AFTER,
                    role: Some(ROLE),
                    state: known.says.state,
                    reaches_redis: known.says.reaches_redis,
                    terms: Some(&known.says.report),
                })
                .collect();
            election.hear(mono, &neighbours);
        }
        for token in node.view.iter().filter_map(|known| known.says.plan) {
            election.hear_token(ROLE, token);
        }
        let orders = election.tick(mono, node.state);
        if node.writing.is_none()
            && let Some(terms) = election.to_save(mono)
        {
            let done_at = if bad_disk { now + 2_000 } else { now + write_takes };
            let early = defect == Some(Defect::ActBeforeDisk);
            if early {
                election.saved(mono, terms, true);
            }
            node.writing = Some((done_at, terms, !bad_disk || early));
        }

        let standing = election.standing(mono);
        node.acted = match standing {
            Standing::Acting { token, .. } => Some(token),
            _ if defect == Some(Defect::ActPastExpiry) && node.state == NodeState::Active => node.acted,
            _ => None,
        };
        let mut growing = matches!(standing, Standing::GrowOnly { .. });
        if defect == Some(Defect::GrowAlone) {
            growing |= matches!(standing, Standing::Idle(mtxfleet_leader::election::Why::NoRedis(_)));
        }
        if let Some(token) = node.acted {
            self.judge.acts(number, token, &node.disk)?;
            node.plan = Some(token);
        }
        if growing && defect == Some(Defect::PlanWithoutLease) {
            let epoch = election.terms().of(ROLE).map_or(0, |token| token.epoch) + 1;
            node.plan = Some(Token { epoch, run: run_id(number, node.starts) });
        }
        // A process that was frozen between deciding and doing does it now.
        let unfinished = node.unfinished.take();
        node.plan = unfinished.or(node.plan);

        // Carrying out: the plan of the token that it accepts.
        let mut plans = node.view.iter().filter_map(|known| known.says.plan).chain(node.plan);
        let obeyed = match defect {
            Some(Defect::ObeyAnyone) => plans.next_back(),
            _ => plans.rfind(|token| election.accepts(ROLE, *token)),
        };
        if let Some(token) = obeyed {
            self.judge.obeys(number, token, &node.disk)?;
        }
        let writes_under = unfinished.or(node.acted.filter(|_| fenced_at));
        if growing {
            self.judge_growing(number)?;
        }
        if let Some(token) = writes_under.filter(|_| self.redis.up && self.nodes[number].cut_off_until <= now)
            && self.redis.takes_fenced(number, token)
        {
            self.judge.redis_took(token)?;
        }
        let (start, gave_up) = (self.nodes[number].starts, self.nodes[number].gave_up);
        for order in orders.into_iter().filter(|_| !gave_up) {
            let at = now + self.latency();
            self.nodes[number].answers.push((now + 2_000, order.number, LeaseAnswer::Unreachable(String::new())));
            self.requests.push(Request { at, from: number, start, order });
        }
        Ok(())
    }

    fn judge_growing(&self, number: usize) -> Judged {
        let (now, node) = (self.now, &self.nodes[number]);
        require(Invariant::GrowOnlyNeedsMajority, now - node.majority_at <= VIEW_LAG, || {
            format!("n{number} lets grow, and was with a majority {} ms ago", now - node.majority_at)
        })?;
        for (other, peer) in self.nodes.iter().enumerate() {
            let told = other != number && now - node.with[other] > VIEW_LAG && now - peer.reaches_since > VIEW_LAG;
            require(Invariant::GrowOnlyNeedsMajority, !told, || {
                format!("n{number} lets grow, and n{other} has told it that it reaches Redis")
            })?;
        }
        Ok(())
    }

    fn judge_moment(&self) -> Judged {
        if self.now <= self.overlap_until {
            return Ok(());
        }
        let acting = |number: &usize| self.is_running(*number) && self.nodes[*number].acted.is_some();
        let acting: Vec<usize> = (0..self.nodes.len()).filter(acting).collect();
        require(Invariant::OneActingAtATime, acting.len() < 2 || !self.judge.epochs_are_unique, || {
            format!("{acting:?} act at once")
        })
    }

    fn judge_end(&self) -> Judged {
        let actors: Vec<Token> = self.nodes.iter().filter_map(|node| node.acted).collect();
        let obeyed = actors.len() == 1
            && self
                .nodes
                .iter()
                .all(|node| node.election.as_ref().is_some_and(|election| election.accepts(ROLE, actors[0])));
        require(Invariant::EventuallySomebodyActs, obeyed, || {
            let all = self.nodes.iter().map(|node| node.election.as_ref().map(|e| e.standing(node.mono(self.now))));
            format!("at the end {actors:?} act; {:?}", all.collect::<Vec<_>>())
        })
    }
}

impl Node {
    fn new(number: usize, count: usize, random: &mut Random) -> Self {
        Self {
            id: node_id(number),
            election: None,
            starts: 0,
            started: 0,
            // Ten times what quartz does.
            ppm: random.below(10_000) as i64 - 5_000,
            disk: Terms::default(),
            writing: None,
            answers: Vec::new(),
            view: vec![Known::default(); count],
            beats: 0,
            state: NodeState::Active,
            reaches_redis: false,
            gave_up: false,
            plan: None,
            unfinished: None,
            acted: None,
            frozen_until: 0,
            dead_until: 0,
            drained_until: 0,
            cut_off_until: 0,
            disk_bad_until: 0,
            majority_at: 0,
            with: vec![0; count],
            reaches_since: 0,
        }
    }

    /// Its own clock, which runs from the start of its process at a rate of its own. Steps of the wall clock do not reach
    /// the election at all: it is never given one.
    fn mono(&self, now: u64) -> Mono {
        let micros = (now - self.started) as i64 * (1_000_000 + self.ppm) / 1_000;
        Mono(Duration::from_micros(micros as u64))
    }

    fn publish(&mut self, number: usize, now: u64) {
        let mono = self.mono(now);
        let Some(election) = &self.election else { return };
        self.beats += 1;
        let report = election.report(mono);
        let says = Says { report, plan: self.plan, state: Some(self.state), reaches_redis: self.reaches_redis };
        self.view[number] = Known { beat: (self.starts, self.beats), heard: mono, says: Arc::new(says) };
    }

    fn learn(&mut self, about: usize, theirs: &Known, now: u64) {
        if theirs.beat > self.view[about].beat {
            self.view[about] = Known { heard: self.mono(now), ..theirs.clone() };
        }
    }
}
