//! How soon a crash is suspected and confirmed by all of 30 agents on real UDP, and that nothing but a crash is.
//!
//! Each agent is a process of its own: the gossip edge and the verdicts of an agent, without its server. One is killed
//! with SIGKILL, stopped with SIGSTOP (its socket stays open, as nothing says that it is gone), or stopped for a second;
//! then under a quarter of loss, and on a starved machine. hashicorp/memberlist with its LAN defaults meets the same crashes in the same
//! run, where Go is installed.
//!
//! `MTXFLEET_BENCH_CRASHES` sets how many SIGKILLs (30; of the other crashes and the stalls a third), `MTXFLEET_BENCH_NODES`
//! how many agents (30), `MTXFLEET_BENCH_PARTS` what is done (`kill,stop,loss,starved`, and `soak`, which is left out by
//! default: agents at rest for `MTXFLEET_BENCH_SOAK` seconds, an hour).

#[path = "../detection/member.rs"]
mod member;
#[path = "../detection/swarm.rs"]
mod swarm;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mtxfleet_benches::Figure;
use swarm::{Crash, Kind, Swarm};

const CRASHES: usize = 30;
const NODES: usize = 30;
const PARTS: &str = "kill,stop,loss,starved";
/// Of memberlist, each of which takes longer.
const PEER_CRASHES: usize = 5;
const SUSPECTED_WITHIN: Duration = Duration::from_secs(20);
/// On a machine that is starved on purpose.
const STARVED_WITHIN: Duration = Duration::from_secs(60);
/// Time in which nothing happens, and nobody may be suspected.
const AT_REST: Duration = Duration::from_secs(60);
const SOAK: usize = 3600;
const STALL: Duration = Duration::from_secs(1);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [name, loss, seeds @ ..] = &arguments[..] {
        return member::run(name, loss.parse()?, seeds);
    }
    let crashes = from_environment("MTXFLEET_BENCH_CRASHES", CRASHES)?;
    let nodes = from_environment("MTXFLEET_BENCH_NODES", NODES)?;
    let parts = std::env::var("MTXFLEET_BENCH_PARTS").unwrap_or_else(|_| PARTS.to_owned());
    let of_others = crashes.div_ceil(3);
    let mut missed = Vec::new();
    for part in parts.split(',') {
        match part {
            "kill" => {
                // Its peer in the same run.
                let peer = match swarm::memberlist() {
                    Ok(program) => Some(memberlist(&program, nodes, crashes.min(PEER_CRASHES))?),
                    Err(why) => {
                        eprintln!("NOT MEASURED beside memberlist: {why}");
                        None
                    }
                };
                let mut run = Run::start(nodes, 0, "no loss", &mut missed)?;
                run.crash(Crash::Kill, "SIGKILL", crashes, SUSPECTED_WITHIN, true, peer.as_ref())?;
                run.end();
            }
            "stop" => {
                let mut run = Run::start(nodes, 0, "no loss", &mut missed)?;
                run.crash(Crash::Stop, "SIGSTOP", of_others, SUSPECTED_WITHIN, true, None)?;
                run.stall(of_others)?;
                run.rest(AT_REST);
                run.end();
            }
            "loss" => {
                let mut run = Run::start(nodes, 250, "25 % loss", &mut missed)?;
                run.crash(Crash::Kill, "SIGKILL", of_others, SUSPECTED_WITHIN, false, None)?;
                run.stall(of_others)?;
                run.rest(AT_REST);
                run.end();
            }
            "starved" => {
                let mut run = Run::start(nodes, 0, "two busy threads a core beside it", &mut missed)?;
                let busy = Busy::start();
                run.crash(Crash::Kill, "SIGKILL", of_others.div_ceil(2), STARVED_WITHIN, false, None)?;
                run.stall(of_others.div_ceil(2))?;
                run.rest(AT_REST);
                drop(busy);
                run.end();
            }
            "soak" => {
                let mut run = Run::start(nodes, 0, "at rest", &mut missed)?;
                run.rest(Duration::from_secs(from_environment("MTXFLEET_BENCH_SOAK", SOAK)? as u64));
                run.end();
            }
            other => bail!("MTXFLEET_BENCH_PARTS has {other:?}, which is none of {PARTS},soak"),
        }
    }
    ensure!(missed.is_empty(), "{}", missed.join("\n"));
    Ok(())
}

/// One swarm of agents under one condition, and what is counted of it.
struct Run<'a> {
    swarm: Swarm,
    nodes: usize,
    condition: &'static str,
    began: Instant,
    missed: &'a mut Vec<String>,
}

impl<'a> Run<'a> {
    fn start(nodes: usize, lose_in_1000: u32, condition: &'static str, missed: &'a mut Vec<String>) -> Result<Self> {
        eprintln!("== {nodes} agents, {condition}");
        let swarm = Swarm::start(Kind::Agents { lose_in_1000 }, nodes)?;
        Ok(Self { swarm, nodes, condition, began: Instant::now(), missed })
    }

    fn crash(
        &mut self,
        crash: Crash,
        how: &str,
        count: usize,
        within: Duration,
        is_goal: bool,
        peer: Option<&(f64, f64)>,
    ) -> Result<()> {
        let mut seen = Seen::default();
        for number in 1..=count {
            seen.add(&self.swarm.crash(crash, "silent", within)?);
            let (silent, dead) = (seen.newest("silent"), seen.newest("dead"));
            eprintln!("{how} {number}/{count}: suspected by the last after {silent:.2} s, dead {dead:.2} s");
        }
        let what = format!("{how} x {count}, {} agents, {}", self.nodes, self.condition);
        seen.print(&what, peer, is_goal, self.missed);
        Ok(())
    }

    /// Stalls of a second: suspected, and never dead.
    fn stall(&mut self, count: usize) -> Result<()> {
        let before = self.swarm.wrong();
        for _ in 0..count {
            self.swarm.stall(STALL)?;
        }
        let dead = self.swarm.wrong().dead - before.dead;
        let figure = format!("deaths seen in {count} stalls of 1 s, {}", self.condition);
        Figure::new(figure, dead as f64, "count", "0").print();
        Ok(())
    }

    fn rest(&mut self, time: Duration) {
        let before = self.swarm.wrong();
        self.swarm.rest(time);
        let suspected = self.swarm.wrong().suspected - before.suspected;
        let node_seconds = time.as_secs() * self.nodes as u64;
        let figure = format!("suspicions in {node_seconds} node-seconds at rest, {}", self.condition);
        Figure::new(figure, suspected as f64, "count", "counted").print();
    }

    /// Of the whole run, crashes and stalls included.
    fn end(self) {
        let wrong = self.swarm.wrong();
        let node_seconds = self.began.elapsed().as_secs() * self.nodes as u64;
        let of = format!("in {node_seconds} node-seconds, {}", self.condition);
        Figure::new(format!("suspicions of live nodes {of}"), wrong.suspected as f64, "count", "counted").print();
        Figure::new(format!("wrong deaths {of}"), wrong.dead as f64, "count", "0").print();
        if wrong.dead > 0 {
            self.missed.push(format!("{} wrong deaths {of}", wrong.dead));
        }
    }
}

/// Threads that want all of the processor, until dropped.
struct Busy(Arc<AtomicBool>);

impl Busy {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        for _ in 0..2 * std::thread::available_parallelism().map_or(1, usize::from) {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Self(stop)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Median of the last node's verdict of memberlist, and its 99th percentile.
fn memberlist(program: &std::path::Path, nodes: usize, crashes: usize) -> Result<(f64, f64)> {
    eprintln!("== {nodes} members of memberlist");
    let mut swarm = Swarm::start(Kind::Memberlist { program: program.to_owned() }, nodes)?;
    let mut last = Vec::new();
    for number in 1..=crashes {
        let seen = swarm.crash(Crash::Kill, "dead", Duration::from_secs(60))?;
        last.extend(seen.verdicts("dead").last().copied());
        eprintln!(
            "memberlist {number}/{crashes}: dead for the last after {:.2} s",
            last.last().copied().unwrap_or_default()
        );
    }
    last.sort_by(f64::total_cmp);
    Ok((quantile(&last, 0.5), quantile(&last, 0.99)))
}

/// Times of the first, the median and the last node, of each crash, in seconds.
#[derive(Default)]
struct Seen {
    suspected: [Vec<f64>; 3],
    dead: [Vec<f64>; 3],
}

impl Seen {
    fn add(&mut self, seen: &swarm::Outcome) {
        for (word, into) in [("silent", &mut self.suspected), ("dead", &mut self.dead)] {
            let times = seen.verdicts(word);
            let of = |at: usize| times.get(at.min(times.len().saturating_sub(1))).copied().unwrap_or(f64::INFINITY);
            for (which, at) in [0, times.len() / 2, usize::MAX].into_iter().enumerate() {
                into[which].push(of(at));
            }
        }
    }

    fn newest(&self, word: &str) -> f64 {
        let of = if word == "dead" { &self.dead } else { &self.suspected };
        of[2].last().copied().unwrap_or(f64::INFINITY)
    }

    fn print(mut self, how: &str, peer: Option<&(f64, f64)>, is_goal: bool, missed: &mut Vec<String>) {
        for (what, times, goal) in [("suspected", &mut self.suspected, 1.5), ("dead", &mut self.dead, 6.0)] {
            for (who, times) in ["first", "median", "last"].into_iter().zip(times.iter_mut()) {
                times.sort_by(f64::total_cmp);
                for (name, share) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
                    let value = quantile(times, share);
                    let is_the_goal = is_goal && who == "last" && name == "p99";
                    let goal_text = if is_the_goal { format!("at most {goal} s") } else { "counted".to_owned() };
                    let mut figure =
                        Figure::new(format!("{what} by the {who} agent after {how}, {name}"), value, "s", goal_text);
                    if let (Some((median, worst)), "last") = (peer, who) {
                        figure = figure.beside(
                            "memberlist, LAN defaults, dead for the last",
                            if name == "p50" { *median } else { *worst },
                        );
                    }
                    figure.print();
                    if is_the_goal && value > goal {
                        missed.push(format!(
                            "{what} by the last agent after {value:.2} s at p99 ({how}); {goal} s is the goal"
                        ));
                    }
                }
            }
        }
    }
}

/// Of sorted values; the nearest rank.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

fn from_environment(name: &str, default: usize) -> Result<usize> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} is no number")),
        Err(_) => Ok(default),
    }
}
