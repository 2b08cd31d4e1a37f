//! How soon a crash is suspected and confirmed by all of 30 agents on real UDP, and that nothing but a crash is.
//!
//! Each agent is a process of its own: the gossip edge and the verdicts of an agent, without its server. One is killed
//! with SIGKILL, stopped with SIGSTOP (its socket stays open, as nothing says that it is gone), or stopped for a second;
//! then all of it under a quarter of loss. hashicorp/memberlist with its LAN defaults meets the same crashes in the same
//! run, where Go is installed.
//!
//! `MTXFLEET_BENCH_CRASHES` sets how many crashes of each kind (20), `MTXFLEET_BENCH_NODES` how many agents (30).

#[path = "../detection/member.rs"]
mod member;
#[path = "../detection/swarm.rs"]
mod swarm;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtxfleet_benches::Figure;
use swarm::{Crash, Kind, Swarm};

const CRASHES: usize = 20;
const NODES: usize = 30;
/// Of memberlist, each of which takes longer.
const PEER_CRASHES: usize = 5;
const SUSPECTED_WITHIN: Duration = Duration::from_secs(20);
/// Time in which nothing happens, and nobody may be suspected.
const AT_REST: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [name, loss, seeds @ ..] = &arguments[..] {
        return member::run(name, loss.parse()?, seeds);
    }
    let crashes = from_environment("MTXFLEET_BENCH_CRASHES", CRASHES)?;
    let nodes = from_environment("MTXFLEET_BENCH_NODES", NODES)?;
    let mut missed = Vec::new();

    let peer = match swarm::memberlist() {
        Ok(program) => Some(memberlist(&program, nodes, crashes.min(PEER_CRASHES))?),
        Err(why) => {
            eprintln!("NOT MEASURED beside memberlist: {why}");
            None
        }
    };
    for (loss, in_1000) in [("no loss", 0), ("25 % loss", 250)] {
        eprintln!("== {nodes} agents, {loss}");
        let mut swarm = Swarm::start(Kind::Agents { lose_in_1000: in_1000 }, nodes)?;
        for (how, crash) in [("SIGKILL", Crash::Kill), ("SIGSTOP", Crash::Stop)] {
            let mut seen = Seen::default();
            for number in 1..=crashes {
                seen.add(&swarm.crash(crash, "silent", SUSPECTED_WITHIN)?);
                eprintln!(
                    "{how} {number}/{crashes}: suspected by the last after {:.2} s, dead {:.2} s",
                    seen.newest("silent"),
                    seen.newest("dead")
                );
            }
            seen.print(&format!("{how}, {nodes} agents, {loss}"), peer.as_ref(), in_1000 == 0, &mut missed);
        }
        let before = swarm.wrong();
        for _ in 0..crashes {
            swarm.stall(Duration::from_secs(1))?;
        }
        let stalls = swarm.wrong();
        let dead = stalls.dead - before.dead;
        Figure::new(format!("deaths seen in {crashes} stalls of 1 s, {loss}"), dead as f64, "count", "0").print();
        if dead > 0 {
            missed.push(format!("{dead} wrong deaths in stalls of a second, {loss}"));
        }
        swarm.rest(AT_REST);
        let rest = swarm.wrong();
        let node_seconds = AT_REST.as_secs() as usize * nodes;
        let suspected = rest.suspected - stalls.suspected;
        Figure::new(
            format!("suspicions in {node_seconds} node-seconds at rest, {loss}"),
            suspected as f64,
            "count",
            "counted",
        )
        .print();
        Figure::new(format!("wrong deaths in the whole run, {loss}"), rest.dead as f64, "count", "0").print();
        Figure::new(
            format!("suspicions of live nodes beside the crashes, {loss}"),
            before.suspected as f64,
            "count",
            "counted",
        )
        .print();
        if rest.dead > 0 {
            missed.push(format!("{} wrong deaths, {loss}", rest.dead));
        }
    }
    ensure!(missed.is_empty(), "{}", missed.join("\n"));
    Ok(())
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
