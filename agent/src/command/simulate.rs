//! `mtxfleet simulate`: a scaling policy on weeks of virtual time, beside its peers' rules.

mod keys;
mod report;
mod schedules;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use mtxfleet_leader::engine::{Engine, Metric, Policy};
use mtxfleet_leader::simulation::frontier::{Frontier, RESERVES, TARGETS, sweep, with_reserve};
use mtxfleet_leader::simulation::picture::{self, Picture};
use mtxfleet_leader::simulation::rules::{Fixed, Hpa, Own, TargetTracking};
use mtxfleet_leader::simulation::{Outcome, Trace, World, clairvoyant, run, run_from};
use mtxfleet_leader::{distribution_orchestrator, ingestion_orchestrator};
use report::Report;

use super::output::say;
use crate::config::units;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum SimulatedRole {
    Ingestion,
    Distribution,
}

#[derive(Debug, clap::Args)]
pub struct Simulate {
    /// Whose policy, and what the load is: cameras, or viewers and workers.
    #[arg(long, value_enum, default_value = "distribution")]
    role: SimulatedRole,
    /// A policy as a TOML file of the keys that --set takes, and of [[schedules]].
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// One key of the policy, e.g. --set spare=2; comes after the file. `--set help` lists them.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Load over time, lines of `SECONDS,READERS[,BANDWIDTH[,CPU]]`, instead of generated weeks.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Makes the generated weeks; a range, e.g. 1-10, compares frontiers for each seed.
    #[arg(long, default_value = "1")]
    seed: String,
    /// Generated weeks: 1-3 are there to tune on, 4-6 to report.
    #[arg(long, default_value = "4-6")]
    weeks: String,
    /// Readers in the evening of a good day, flash crowds not counted (800); cameras when all are installed (300).
    #[arg(long)]
    peak: Option<f64>,
    /// From a node's launch to its first reader.
    #[arg(long, default_value = "90s", value_parser = units::duration)]
    lead: Duration,
    /// How old a figure is when it is seen.
    #[arg(long, default_value = "5s", value_parser = units::duration)]
    lag: Duration,
    /// How long a drain takes.
    #[arg(long, default_value = "60s", value_parser = units::duration)]
    drain: Duration,
    /// The peers' target: share of what a node carries.
    #[arg(long, default_value_t = 0.7)]
    target: f64,
    /// Money an hour of a node costs.
    #[arg(long, default_value_t = 0.17)]
    price: f64,
    /// Sweep the main parameter of each rule, and compare at equal service.
    #[arg(long)]
    frontier: bool,
    /// Draw a picture of it.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Simulate {
    pub fn run(self) -> anyhow::Result<()> {
        if self.set.iter().any(|set| set == "help") {
            return say(keys::help(&self.base_policy()));
        }
        let seeds = range("--seed", &self.seed, 1_000_000)?;
        if seeds.clone().count() > 1 {
            return self.seeds(seeds);
        }
        let (trace, what) = self.trace(*seeds.start())?;
        let policy = self.policy(&trace)?;
        let world = self.world(&policy);
        let peak = world.needed(&trace).into_iter().fold(0.0, f64::max);
        let peak_nodes = world.nodes_for(peak);
        let hpa = &mut Hpa::new(self.target, world.min, world.max);
        let aws = &mut TargetTracking::new(self.target, world.min, world.max);
        let rows: Vec<(String, Outcome)> = vec![
            (format!("mtxfleet, {} spare", policy.spare), run(&trace, &world, &mut own(policy.clone()))),
            (format!("HPA's rule, target {}", self.target), run(&trace, &world, hpa)),
            (format!("AWS target tracking, {}", self.target), run(&trace, &world, aws)),
            (format!("fixed for the peak, {peak_nodes}"), run_from(peak_nodes, &trace, &world, &mut Fixed)),
            ("clairvoyant".to_owned(), clairvoyant::run(&trace, &world)),
        ];
        let frontiers = if self.frontier { frontiers(&policy, &trace, &world) } else { Vec::new() };
        let report = Report {
            what: &what,
            unit: self.unit(),
            peak: trace.peak(),
            world: &world,
            price: self.price,
            rows: &rows,
            frontiers: &frontiers,
        };
        if self.json {
            say(report.json()? + "\n")?;
        } else {
            say(report.text())?;
        }
        if let Some(file) = &self.svg {
            let picture = Picture { trace: &trace, world: &world, rows: &rows, frontiers: &frontiers, what: &what };
            std::fs::write(file, picture::draw(&picture))
                .with_context(|| format!("cannot write {}", file.display()))?;
            if !self.json {
                say(format!("\n{} is drawn\n", file.display()))?;
            }
        }
        Ok(())
    }

    /// One line for each seed: how the frontiers compare.
    fn seeds(&self, seeds: std::ops::RangeInclusive<u64>) -> anyhow::Result<()> {
        anyhow::ensure!(self.csv.is_none(), "--seed with a range makes weeks: take --csv away");
        anyhow::ensure!(self.svg.is_none() && !self.json, "--svg and --json show one seed: give --seed one number");
        let mut table = report::seeds();
        for seed in seeds {
            let (trace, _) = self.trace(seed)?;
            let policy = self.policy(&trace)?;
            let world = self.world(&policy);
            let swept = |at: f64| Box::new(own(with_reserve(&policy, at))) as _;
            let own = sweep(("mtxfleet", "reserve"), &RESERVES, &trace, &world, swept);
            let hpa = hpas(&trace, &world);
            report::seed(&mut table, seed, &own, &hpa);
        }
        say(table)
    }

    fn world(&self, policy: &Policy) -> World {
        let per_node = |wanted: [Metric; 2]| policy.metrics.iter().find(|rule| wanted.contains(&rule.metric));
        World {
            lead: self.lead,
            lag: self.lag,
            drain: self.drain,
            per_node: per_node([Metric::Readers, Metric::Cameras]).map_or(f64::INFINITY, |rule| rule.per_node),
            bandwidth_per_node: per_node([Metric::Outbound, Metric::Inbound])
                .map_or(f64::INFINITY, |rule| rule.per_node),
            min: policy.min,
            // A schedule may ask for more than the policy's most; the world lets it.
            max: policy
                .schedules
                .iter()
                .filter_map(|schedule| schedule.max.max(schedule.min))
                .fold(policy.max, u32::max),
        }
    }

    fn unit(&self) -> &'static str {
        match self.role {
            SimulatedRole::Ingestion => "cameras",
            SimulatedRole::Distribution => "readers",
        }
    }

    fn trace(&self, seed: u64) -> anyhow::Result<(Trace, String)> {
        if let Some(file) = &self.csv {
            let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            let trace = Trace::from_csv(&text).with_context(|| format!("{} is no trace", file.display()))?;
            return Ok((trace, file.display().to_string()));
        }
        let weeks = range("--weeks", &self.weeks, 52)?;
        let (first, last) = (*weeks.start() as u32, *weeks.end() as u32);
        let usual = if self.role == SimulatedRole::Ingestion { 300.0 } else { 800.0 };
        let peak = self.peak.unwrap_or(usual);
        if !(1.0..=1e7).contains(&peak) {
            anyhow::bail!("--peak {peak}: write a number of {}, from 1 to 10000000", self.unit());
        }
        let what = format!("generated weeks {first} to {last} of seed {seed}");
        let trace = match self.role {
            SimulatedRole::Ingestion => Trace::cameras(seed, first..=last, peak),
            SimulatedRole::Distribution => Trace::weeks(seed, first..=last, peak),
        };
        Ok((trace, what))
    }

    /// The role's defaults, with the world's lead and lag.
    fn base_policy(&self) -> Policy {
        let mut policy = match self.role {
            SimulatedRole::Ingestion => ingestion_orchestrator::policy(),
            SimulatedRole::Distribution => distribution_orchestrator::policy(),
        };
        policy.lead.assumed = self.lead;
        policy.lead.lag = self.lag;
        policy
    }

    /// As far as the trace has figures for it: what a trace never says would be missing for ever.
    fn policy(&self, trace: &Trace) -> anyhow::Result<Policy> {
        let mut policy = self.base_policy();
        let mut errors = Vec::new();
        if let Some(file) = &self.policy {
            let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            let table: toml::Table = text.parse().with_context(|| format!("{} is no valid TOML", file.display()))?;
            for (key, value) in &table {
                if key == "schedules" {
                    schedules::read(value).map_or_else(|why| errors.push(why), |read| policy.schedules = read);
                    continue;
                }
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                errors.extend(keys::set(&mut policy, key, &text).err());
            }
        }
        for set in &self.set {
            match set.split_once('=') {
                Some((key, value)) => errors.extend(keys::set(&mut policy, key.trim(), value.trim()).err()),
                None => errors.push(format!("--set {set}: write KEY=VALUE, for example spare=2")),
            }
        }
        errors.extend(policy.errors().iter().map(ToString::to_string));
        if !(0.05..=2.0).contains(&self.target) {
            errors.push(format!("--target {}: write a share of what a node carries, from 0.05 to 2", self.target));
        }
        if !(0.0..=1e6).contains(&self.price) {
            errors.push(format!("--price {}: write what a node costs an hour, from 0 to 1000000", self.price));
        }
        for (flag, value) in [("--lead", self.lead), ("--lag", self.lag), ("--drain", self.drain)] {
            if value > Duration::from_secs(86_400) {
                errors.push(format!("{flag}: is longer than a day"));
            }
        }
        anyhow::ensure!(errors.is_empty(), "the policy cannot be used:\n  {}", errors.join("\n  "));
        if trace.bandwidth.is_none() {
            policy.metrics.retain(|rule| matches!(rule.metric, Metric::Readers | Metric::Cameras));
        }
        policy.cpu_limit = policy.cpu_limit.filter(|_| trace.cpu.is_some());
        Ok(policy)
    }
}

fn own(policy: Policy) -> Own {
    Engine::new(policy).map(Own::new).expect("checked when it was read")
}

fn hpas(trace: &Trace, world: &World) -> Frontier {
    sweep(("HPA's rule", "target"), &TARGETS, trace, world, |at| Box::new(Hpa::new(at, world.min, world.max)))
}

fn frontiers(policy: &Policy, trace: &Trace, world: &World) -> Vec<Frontier> {
    let mut blind = policy.clone();
    blind.lead.gain = 0.0;
    let aws = |at: f64| Box::new(TargetTracking::new(at, world.min, world.max)) as _;
    let with = |policy: &Policy, at: f64| Box::new(own(with_reserve(policy, at))) as _;
    vec![
        sweep(("mtxfleet", "reserve"), &RESERVES, trace, world, |at| with(policy, at)),
        sweep(("mtxfleet without slope", "reserve"), &RESERVES, trace, world, |at| with(&blind, at)),
        hpas(trace, world),
        sweep(("AWS target tracking", "target"), &TARGETS, trace, world, aws),
    ]
}

/// `4-6`, or `4` alone.
fn range(flag: &str, text: &str, most: u64) -> anyhow::Result<std::ops::RangeInclusive<u64>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let numbers = first.trim().parse::<u64>().ok().zip(last.trim().parse::<u64>().ok());
    match numbers.filter(|(first, last)| 1 <= *first && first <= last && *last <= most) {
        Some((first, last)) => Ok(first..=last),
        None => anyhow::bail!("{flag} {text}: write for example 4 or 4-6, within 1 to {most}"),
    }
}

#[cfg(test)]
mod tests;
