//! A fleet on virtual time: processes that are held up, datagrams that are late or lost, and what goes wrong.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use mtxfleet_leader::fleet_view::Change;
use mtxfleet_wire::{Liveness, NodeId};

use super::invariants::{Bounds, Broken, Invariant, Pair, Truth};
use super::process::{LOOK, Message, Process, REPORT, ROUND, Reports, SEEDS, name, numbers};
use super::random::Random;
use super::schedule::{Fault, MS, Micros, SECOND, SETTLED, Schedule};

/// How often truth and verdicts are compared.
const JUDGE_EVERY: Micros = 100 * MS;
/// Datagrams that wait for a process that is held up; a socket's buffer takes no more.
const BUFFERED: usize = 250;
/// A process that is held up for longer is silent to the others, and blind itself.
const HELD_UP: Micros = 250 * MS;

/// A mistake put in on purpose, which must be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// One node never looks.
    OneIsBlind,
    /// Reports, and with them the suspicions of others, are never passed on.
    ReportsAreLost,
    /// Who was stopped never speaks again.
    TheStoppedStayMute,
}

#[derive(Debug)]
enum What {
    Round,
    Look,
    Report,
    HoldUp,
    Take { from: usize, message: Message },
    Fault(Fault),
    Continue,
    Start,
    Heal,
    Judge,
}

struct Event {
    at: Micros,
    seq: u64,
    to: usize,
    /// Of which start of the node; 0: of any.
    life: u32,
    what: What,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.seq) == (other.at, other.seq)
    }
}
impl Eq for Event {}
impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.seq).cmp(&(other.at, other.seq))
    }
}

/// The machine under one process.
#[derive(Default)]
struct Machine {
    process: Option<Process>,
    lives: u32,
    held_until: Micros,
    buffered: usize,
    stopped: bool,
    side: bool,
    started: Micros,
    /// Its last start, or the end of its last long hold-up.
    calm_since: Micros,
}

impl Machine {
    const fn answers(&self) -> bool {
        self.process.is_some() && !self.stopped
    }
}

/// What a run saw.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    pub node_micros: u64,
    /// Alive and reached, and suspected all the same.
    pub suspicions: u64,
    pub crashes: u64,
    /// From the crash of a node to the last one's suspicion and verdict of death, one crash at a time.
    pub suspected_after: Vec<Micros>,
    pub dead_after: Vec<Micros>,
}

pub struct World {
    pub schedule: Schedule,
    pub seen: Seen,
    pub log: Option<Vec<String>>,
    defect: Option<Defect>,
    now: Micros,
    seq: u64,
    queue: BinaryHeap<Reverse<Event>>,
    names: Vec<NodeId>,
    numbers: BTreeMap<NodeId, usize>,
    machines: Vec<Machine>,
    reports: Reports,
    /// Of observer and observed, one row for each observer.
    pairs: Vec<Pair>,
    /// The network or the number of the silent changed.
    calm_since: Micros,
    is_split: bool,
    split_at: Micros,
    network: Random,
    scheduler: Random,
    /// A crash that is being timed.
    timed: Option<(usize, Micros, Option<Micros>)>,
}

impl World {
    pub fn new(seed: u64, defect: Option<Defect>, is_logged: bool) -> Self {
        let mut random = Random::new(seed);
        let schedule = Schedule::draw(&mut random);
        let names: Vec<NodeId> = (0..schedule.nodes).map(name).collect();
        let mut world = Self {
            seen: Seen::default(),
            log: is_logged.then(Vec::new),
            defect,
            now: 0,
            seq: 0,
            queue: BinaryHeap::new(),
            numbers: numbers(&names),
            machines: names.iter().map(|_| Machine::default()).collect(),
            reports: vec![Vec::new(); names.len()],
            pairs: vec![Pair::new(0); names.len() * names.len()],
            calm_since: 0,
            is_split: false,
            split_at: 0,
            network: Random::new(random.next()),
            scheduler: Random::new(random.next()),
            timed: None,
            names,
            schedule,
        };
        for node in 0..world.names.len() {
            world.start(node);
        }
        for (at, fault) in world.schedule.faults.clone() {
            world.push(at, 0, 0, What::Fault(fault));
        }
        world.push(SETTLED, 0, 0, What::Judge);
        world
    }

    pub fn run(&mut self) -> Result<(), Broken> {
        while let Some(Reverse(event)) = self.queue.pop() {
            if event.at > self.schedule.end {
                break;
            }
            self.now = event.at;
            self.happen(event)?;
        }
        self.seen.node_micros = self.now * self.names.len() as u64;
        Ok(())
    }

    fn push(&mut self, at: Micros, to: usize, life: u32, what: What) {
        self.seq += 1;
        self.queue.push(Reverse(Event { at, seq: self.seq, to, life, what }));
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(log) = &mut self.log {
            log.push(format!("{:10.3} s  {}", now as f64 / SECOND as f64, what()));
        }
    }

    fn happen(&mut self, mut event: Event) -> Result<(), Broken> {
        let to = event.to;
        match event.what {
            What::Fault(fault) => {
                self.strike(fault);
                return Ok(());
            }
            What::Continue => {
                if self.machines[to].lives == event.life {
                    self.note(|| format!("n{to:02} goes on"));
                    self.machines[to].stopped = false;
                    self.machines[to].calm_since = self.now;
                    self.truth_changed();
                }
                return Ok(());
            }
            What::Start => {
                if self.machines[to].process.is_none() {
                    self.start(to);
                    self.truth_changed();
                }
                return Ok(());
            }
            What::Heal => {
                self.note(|| "the network is whole".to_owned());
                self.is_split = false;
                self.truth_changed();
                return Ok(());
            }
            What::Judge => {
                self.push(self.now + JUDGE_EVERY, 0, 0, What::Judge);
                return self.judge();
            }
            _ => {}
        }
        let machine = &mut self.machines[to];
        if machine.process.is_none() || (event.life != 0 && event.life != machine.lives) {
            return Ok(());
        }
        if self.now < machine.held_until {
            let is_datagram = matches!(event.what, What::Take { .. });
            machine.buffered += usize::from(is_datagram);
            if is_datagram && machine.buffered > BUFFERED {
                return Ok(());
            }
            // All of it is there when it goes on, and what comes first is anybody's guess.
            event.at = machine.held_until + self.scheduler.below(2 * MS);
            self.queue.push(Reverse(event));
            return Ok(());
        }
        machine.buffered = 0;
        self.act(event)
    }

    fn act(&mut self, event: Event) -> Result<(), Broken> {
        let (now, to) = (self.now, event.to);
        let Some(process) = &mut self.machines[to].process else { return Ok(()) };
        let changes = match event.what {
            What::Round => {
                process.round(now, &mut self.network);
                // Rounds that were missed are made up for, as tokio's interval does it.
                self.push(event.at.min(now) + ROUND, to, event.life, What::Round);
                Vec::new()
            }
            What::Look => {
                let blind = self.defect == Some(Defect::OneIsBlind) && to == 0 && now > SETTLED;
                let changes = if blind { Vec::new() } else { process.look(now, &self.names, &self.reports) };
                self.push(now + LOOK, to, event.life, What::Look);
                changes
            }
            What::Report => {
                let changes = process.publish(now, &self.names, &mut self.reports);
                if self.defect == Some(Defect::ReportsAreLost) {
                    process.known[to].report = 0;
                }
                self.push(now + REPORT, to, event.life, What::Report);
                changes
            }
            What::HoldUp => {
                if let Some((every, at_most)) = self.schedule.held_up {
                    let time = self.scheduler.below(at_most);
                    self.hold(to, time);
                    let next = now + time + self.scheduler.below(2 * every);
                    self.push(next, to, event.life, What::HoldUp);
                }
                Vec::new()
            }
            What::Take { from, message } => {
                process.take(now, from, message);
                Vec::new()
            }
            _ => Vec::new(),
        };
        self.deliver(to);
        for change in changes {
            self.changed(to, change)?;
        }
        Ok(())
    }

    fn deliver(&mut self, from: usize) {
        let Some(process) = &mut self.machines[from].process else { return };
        let mut out = std::mem::take(&mut process.out);
        for (to, message) in out.drain(..) {
            let is_cut = self.is_split && self.machines[from].side != self.machines[to].side;
            if is_cut || self.network.in_1000(self.schedule.lost_in_1000) {
                continue;
            }
            let at = self.now + 50 + self.network.below(self.schedule.delay_at_most);
            let life = self.machines[to].lives;
            self.push(at, to, life, What::Take { from, message });
        }
        if let Some(process) = &mut self.machines[from].process {
            process.out = out;
        }
    }

    fn start(&mut self, node: usize) {
        let now = self.now;
        let random = self.scheduler.next();
        let nodes = self.names.len();
        let machine = &mut self.machines[node];
        machine.lives += 1;
        let life = machine.lives;
        machine.process = Some(Process::start(node, nodes, life, now, random));
        (machine.held_until, machine.buffered, machine.stopped) = (0, 0, false);
        (machine.started, machine.calm_since) = (now, now);
        for (every, what) in [(ROUND, What::Round), (LOOK, What::Look), (REPORT, What::Report)] {
            let at = now + self.scheduler.below(every);
            self.push(at, node, life, what);
        }
        if self.schedule.held_up.is_some() {
            let at = now + self.scheduler.below(SECOND);
            self.push(at, node, life, What::HoldUp);
        }
        self.note(|| format!("n{node:02} starts, life {life}"));
    }

    fn hold(&mut self, node: usize, time: Micros) {
        let machine = &mut self.machines[node];
        machine.held_until = machine.held_until.max(self.now + time);
        if time > HELD_UP {
            machine.calm_since = machine.calm_since.max(self.now + time);
        }
    }

    fn strike(&mut self, fault: Fault) {
        self.note(|| format!("{fault:?}"));
        match fault {
            Fault::Crash { node, back_after } => {
                let machine = &mut self.machines[node];
                if machine.process.take().is_none() {
                    return;
                }
                self.seen.crashes += 1;
                machine.stopped = false;
                let is_alone = self.machines.iter().all(|machine| !machine.stopped) && !self.is_split;
                let others_run = self.machines.iter().filter(|machine| machine.process.is_some()).count();
                let is_timed = is_alone && others_run + 1 == self.names.len();
                self.timed = is_timed.then_some((node, self.now, None));
                if let Some(time) = back_after {
                    self.push(self.now + time, node, 0, What::Start);
                }
            }
            Fault::Stop { node, time } => {
                let life = self.machines[node].lives;
                if self.machines[node].process.is_none() || self.machines[node].stopped {
                    return;
                }
                self.hold(node, time);
                self.machines[node].stopped = true;
                self.push(self.machines[node].held_until, node, life, What::Continue);
                if self.defect == Some(Defect::TheStoppedStayMute) {
                    self.machines[node].held_until = Micros::MAX / 2;
                }
                self.timed = None;
            }
            Fault::Split { side, time } => {
                if self.is_split {
                    return;
                }
                for (node, machine) in self.machines.iter_mut().enumerate() {
                    machine.side = side & (1 << node) != 0;
                }
                (self.is_split, self.split_at) = (true, self.now);
                self.push(self.now + time, 0, 0, What::Heal);
                self.timed = None;
            }
        }
        self.truth_changed();
    }

    fn is_silent_to(&self, observer: usize, node: usize) -> bool {
        let is_lost = self.is_lost(observer) || self.is_lost(node);
        is_lost || !self.machines[node].answers() || self.is_cut_off(observer, node)
    }

    /// It has started and knows nobody yet, and none of its seeds can tell it of the others: that is as good as cut off.
    fn is_lost(&self, node: usize) -> bool {
        let knows_nobody = self.machines[node].process.as_ref().is_some_and(Process::knows_nobody);
        let mut seeds = (0..self.names.len().min(SEEDS)).filter(|seed| *seed != node);
        knows_nobody && seeds.all(|seed| !self.machines[seed].answers() || self.is_cut_off(node, seed))
    }

    fn truth_changed(&mut self) {
        self.calm_since = self.now;
        self.update_pairs();
    }

    fn update_pairs(&mut self) {
        let nodes = self.names.len();
        for observer in 0..nodes {
            for node in 0..nodes {
                let is_silent = self.is_silent_to(observer, node);
                self.pairs[observer * nodes + node].update(self.now, is_silent);
            }
        }
    }

    fn changed(&mut self, observer: usize, change: Change) -> Result<(), Broken> {
        self.note(|| format!("n{observer:02} finds {change:?}"));
        let nodes = self.names.len();
        match change {
            Change::Suspected(node) => {
                let node = self.numbers[&node];
                if matches!(self.pairs[observer * nodes + node].truth, Truth::Reached { .. }) {
                    self.seen.suspicions += 1;
                }
            }
            Change::Died(node) => {
                let node = self.numbers[&node];
                let pair = self.pairs[observer * nodes + node];
                let bounds = Bounds::new(self.schedule.weather, false, false);
                self.require(Invariant::NobodyDiesAlive, pair.may_be_dead(self.now, bounds), || {
                    format!("n{node:02} is dead to n{observer:02}, and {pair:?}")
                })?;
                let is_alone = (0..nodes).all(|other| other == observer || self.is_cut_off(observer, other));
                // Who was silent before that may have been suspected by another.
                let is_since = matches!(pair.truth, Truth::Silent { since } if since >= self.split_at);
                let nobody_to_ask = self.machines[observer].process.as_ref().is_some_and(|it| it.knows_only(node));
                self.require(Invariant::AloneJudgesNobody, nobody_to_ask || !(is_alone && is_since), || {
                    format!("n{node:02} is dead to n{observer:02}, which is alone")
                })?;
                let pairs = &self.pairs[observer * nodes..(observer + 1) * nodes];
                let gone = pairs.iter().filter(|pair| pair.may_be_dead(self.now, bounds)).count();
                let deaths = self.machines[observer].process.as_ref().map_or(0, Process::deaths);
                let is_right = deaths * 2 <= nodes || deaths <= gone;
                self.require(Invariant::HalfIsNeverDeadByMistake, is_right, || {
                    format!("{deaths} of {nodes} are dead to n{observer:02}, and {gone} were silent")
                })?;
            }
            Change::Joined(..) | Change::Returned(_) => {}
        }
        Ok(())
    }

    fn is_cut_off(&self, one: usize, other: usize) -> bool {
        self.is_split && self.machines[one].side != self.machines[other].side
    }

    fn require(&self, invariant: Invariant, holds: bool, what: impl FnOnce() -> String) -> Result<(), Broken> {
        if holds { Ok(()) } else { Err(Broken { at: self.now, invariant, what: what() }) }
    }

    fn judge(&mut self) -> Result<(), Broken> {
        self.time();
        // Who was lost may have been found.
        self.update_pairs();
        let (now, nodes) = (self.now, self.names.len());
        for observer in 0..nodes {
            let machine = &self.machines[observer];
            let Some(process) = machine.process.as_ref().filter(|_| !machine.stopped) else { continue };
            let silent = (0..nodes).filter(|node| self.is_silent_to(observer, *node)).count();
            let is_strained = silent > ((nodes - 1) / 4).max(2);
            // With nobody else there to confirm it.
            let is_alone = nodes > 2 && nodes - silent <= 2;
            for node in (0..nodes).filter(|node| *node != observer) {
                let pair = &self.pairs[observer * nodes + node];
                let other = &self.machines[node];
                let mut bounds = Bounds::new(self.schedule.weather, is_strained, false);
                if let Truth::Silent { since } = pair.truth
                    && !self.was_heard(observer, node, since.saturating_sub(bounds.cleared))
                {
                    bounds = Bounds::new(self.schedule.weather, is_strained, true);
                }
                if is_alone {
                    bounds.confirmed = Micros::MAX / 2;
                }
                let calm_since = self.calm_since.max(machine.calm_since).max(other.calm_since);
                let verdict = process.verdicts[node];
                if let Some(invariant) = pair.judge(now, calm_since, verdict, bounds) {
                    let what = format!("n{node:02} is {verdict:?} to n{observer:02}, and {pair:?}");
                    return Err(Broken { at: now, invariant, what });
                }
            }
        }
        Ok(())
    }

    /// Whether all that it takes to find this node dead had time to hear it before `by`: itself, the observer, and another
    /// that confirms it.
    fn was_heard(&self, observer: usize, node: usize, by: Micros) -> bool {
        let ran = |of: usize| self.machines[of].lives == 1 || self.machines[of].started <= by;
        let confirms =
            |other: usize| other != observer && other != node && ran(other) && !self.is_silent_to(observer, other);
        let nodes = self.names.len();
        ran(observer) && ran(node) && (nodes == 2 || (0..nodes).any(confirms))
    }

    /// Takes the time of a crash that nothing else disturbs.
    fn time(&mut self) {
        let Some((node, at, suspected)) = self.timed else { return };
        let verdicts = || {
            let processes = self.machines.iter().filter_map(|machine| machine.process.as_ref());
            processes.filter(move |process| process.me != node).map(move |process| process.verdicts[node])
        };
        if self.machines[node].process.is_some() {
            self.timed = None;
        } else if verdicts().all(|verdict| verdict == Some(Liveness::Dead)) {
            self.seen.dead_after.push(self.now - at);
            self.timed = None;
        } else if suspected.is_none() && verdicts().all(|verdict| verdict != Some(Liveness::Alive)) {
            self.seen.suspected_after.push(self.now - at);
            self.timed = Some((node, at, Some(self.now)));
        }
    }
}
