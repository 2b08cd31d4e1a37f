//! `mtxfleet simulate`: a scaling policy on weeks of virtual time, beside its peers' rules.

mod keys;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use mtxfleet_leader::distribution_orchestrator;
use mtxfleet_leader::engine::{Engine, Metric, Policy};
use mtxfleet_leader::simulation::frontier::{Frontier, sweep};
use mtxfleet_leader::simulation::picture::{self, Picture};
use mtxfleet_leader::simulation::rules::{Fixed, Hpa, Own, TargetTracking};
use mtxfleet_leader::simulation::{Outcome, Rule, Trace, World, clairvoyant, run, run_from};

use super::output::say;
use super::table::Table;
use crate::config::units;

/// Shares of viewer-seconds over capacity at which frontiers are compared.
const LEVELS: [f64; 2] = [0.0005, 0.0001];

/// What the frontier sweeps: headroom for the engine, the target for its peers.
const HEADROOMS: [f64; 18] =
    [-0.3, -0.2, -0.1, -0.05, 0.0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0];
const TARGETS: [f64; 15] = [1.1, 1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45, 0.4, 0.3];

#[derive(Debug, clap::Args)]
pub struct Simulate {
    /// A policy as a TOML file of the keys that --set takes.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// One key of the policy, e.g. --set headroom=0.3; comes after the file. `--set help` lists them.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Readers over time, lines of SECONDS,READERS, instead of generated weeks.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Makes the generated weeks.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Generated weeks: 1-3 are there to tune on, 4-6 to report.
    #[arg(long, default_value = "4-6")]
    weeks: String,
    /// Readers in the evening of a good day, flash crowds not counted.
    #[arg(long, default_value_t = 800.0)]
    peak: f64,
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
}

impl Simulate {
    pub fn run(self) -> anyhow::Result<()> {
        if self.set.iter().any(|set| set == "help") {
            return say(keys::help(&self.base_policy()));
        }
        let (trace, what) = self.trace()?;
        let policy = self.policy()?;
        let world = World {
            lead: self.lead,
            lag: self.lag,
            drain: self.drain,
            per_node: policy.metrics[0].per_node,
            min: policy.min,
            max: policy.max,
        };
        let own = |policy: Policy| Engine::new(policy).map(Own::new).expect("checked when it was read");
        let peak_nodes = world.nodes_for(trace.peak());
        let rows: Vec<(String, Outcome)> = vec![
            (format!("mtxfleet, headroom {}", policy.headroom), run(&trace, &world, &mut own(policy.clone()))),
            (format!("HPA's rule, target {}", self.target), run(&trace, &world, &mut self.hpa(&world, self.target))),
            (format!("AWS target tracking, {}", self.target), run(&trace, &world, &mut self.aws(&world, self.target))),
            (format!("fixed for the peak, {peak_nodes}"), run_from(peak_nodes, &trace, &world, &mut Fixed)),
            ("clairvoyant".to_owned(), clairvoyant::run(&trace, &world)),
        ];
        let lead = units::show_duration(self.lead);
        say(format!("{what}, peak {:.0}; {} readers a node, lead {lead}\n\n", trace.peak(), world.per_node))?;
        say(self.table(&rows))?;

        let frontiers = if self.frontier { self.frontiers(&policy, &trace, &world) } else { Vec::new() };
        if self.frontier {
            say(format!("\nCost at equal service, in times the clairvoyant's node-hours:\n\n{}", levels(&frontiers)))?;
            say(format!("\nThe points swept:\n\n{}", points(&frontiers)))?;
        }
        if let Some(file) = &self.svg {
            let picture = Picture { trace: &trace, world: &world, rows: &rows, frontiers: &frontiers, what: &what };
            std::fs::write(file, picture::draw(&picture))
                .with_context(|| format!("cannot write {}", file.display()))?;
            say(format!("\n{} is drawn\n", file.display()))?;
        }
        Ok(())
    }

    fn trace(&self) -> anyhow::Result<(Trace, String)> {
        if let Some(file) = &self.csv {
            let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            let trace = Trace::from_csv(&text).with_context(|| format!("{} is no trace", file.display()))?;
            return Ok((trace, file.display().to_string()));
        }
        let range = self.weeks.split_once('-').unwrap_or((&self.weeks, &self.weeks));
        let weeks = range.0.trim().parse::<u32>().ok().zip(range.1.trim().parse::<u32>().ok());
        let Some((first, last)) = weeks.filter(|(first, last)| 1 <= *first && first <= last && *last <= 52) else {
            anyhow::bail!("--weeks {}: write for example 4-6, within 1 to 52", self.weeks);
        };
        if !(1.0..=1e7).contains(&self.peak) {
            anyhow::bail!("--peak {}: write a number of readers, from 1 to 10000000", self.peak);
        }
        let what = format!("generated weeks {first} to {last} of seed {}", self.seed);
        Ok((Trace::weeks(self.seed, first..=last, self.peak), what))
    }

    /// The distribution cluster's defaults, as far as readers alone tell.
    fn base_policy(&self) -> Policy {
        let mut policy = distribution_orchestrator::policy();
        policy.metrics.retain(|rule| rule.metric == Metric::Readers);
        policy.cpu_limit = None;
        policy.lead.assumed = self.lead;
        policy.lead.lag = self.lag;
        policy
    }

    fn policy(&self) -> anyhow::Result<Policy> {
        let mut policy = self.base_policy();
        let mut errors = Vec::new();
        if let Some(file) = &self.policy {
            let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            let table: toml::Table = text.parse().with_context(|| format!("{} is no valid TOML", file.display()))?;
            for (key, value) in &table {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                errors.extend(keys::set(&mut policy, key, &text).err());
            }
        }
        for set in &self.set {
            match set.split_once('=') {
                Some((key, value)) => errors.extend(keys::set(&mut policy, key.trim(), value.trim()).err()),
                None => errors.push(format!("--set {set}: write KEY=VALUE, for example headroom=0.3")),
            }
        }
        errors.extend(policy.errors().iter().map(ToString::to_string));
        if !(0.05..=2.0).contains(&self.target) {
            errors.push(format!("--target {}: write a share of what a node carries, from 0.05 to 2", self.target));
        }
        for (flag, value) in [("--lead", self.lead), ("--lag", self.lag), ("--drain", self.drain)] {
            if value > Duration::from_secs(86_400) {
                errors.push(format!("{flag}: is longer than a day"));
            }
        }
        anyhow::ensure!(errors.is_empty(), "the policy cannot be used:\n  {}", errors.join("\n  "));
        Ok(policy)
    }

    fn hpa(&self, world: &World, target: f64) -> Hpa {
        Hpa::new(target, world.per_node, world.min, world.max)
    }

    fn aws(&self, world: &World, target: f64) -> TargetTracking {
        TargetTracking::new(target, world.per_node, world.min, world.max)
    }

    fn frontiers(&self, policy: &Policy, trace: &Trace, world: &World) -> Vec<Frontier> {
        let own = |headroom: f64, gain: f64, more: u32| -> Box<dyn Rule> {
            let mut policy = Policy { headroom, spare: policy.spare + f64::from(more), ..policy.clone() };
            policy.lead.gain = gain;
            Box::new(Engine::new(policy).map(Own::new).expect("checked when it was read"))
        };
        let gain = policy.lead.gain;
        vec![
            sweep(("mtxfleet", "headroom"), &HEADROOMS, trace, world, |at| own(at, gain, 0)),
            sweep(("mtxfleet without slope", "headroom"), &HEADROOMS, trace, world, |at| own(at, 0.0, 0)),
            sweep(("mtxfleet, one spare more", "headroom"), &HEADROOMS, trace, world, |at| own(at, gain, 1)),
            sweep(("HPA's rule", "target"), &TARGETS, trace, world, |at| Box::new(self.hpa(world, at))),
            sweep(("AWS target tracking", "target"), &TARGETS, trace, world, |at| Box::new(self.aws(world, at))),
        ]
    }

    fn table(&self, rows: &[(String, Outcome)]) -> Table {
        let node_hours = |named: &str| rows.iter().find(|row| row.0.starts_with(named)).map_or(0.0, |r| r.1.node_hours);
        let (bound, fixed) = (node_hours("clairvoyant"), node_hours("fixed"));
        let mut table = Table::new(&[
            "RULE",
            "NODE-HOURS",
            "X CLAIRVOYANT",
            "SAVED AGAINST FIXED",
            "OVER CAPACITY",
            "VIEWER-S OVER",
            "LAUNCHES",
            "DRAINS",
            "CANCELLED",
            "MOVED",
        ]);
        for (name, outcome) in rows {
            let saved = fixed - outcome.node_hours;
            table.row(vec![
                name.clone(),
                format!("{:.0}", outcome.node_hours),
                format!("{:.2}", outcome.node_hours / bound),
                format!("{:.0} ({:.0} %)", saved * self.price, saved / fixed * 100.0),
                format!("{:.1} min", outcome.over_seconds / 60.0),
                format!("{:.4} %", outcome.over_share() * 100.0),
                outcome.launches.to_string(),
                outcome.drains.to_string(),
                outcome.cancelled.to_string(),
                format!("{:.0}", outcome.moved),
            ]);
        }
        table
    }
}

fn levels(frontiers: &[Frontier]) -> Table {
    let heading = LEVELS.map(|level| format!("AT {} % OVER", level * 100.0));
    let mut table = Table::new(&["RULE", &heading[0], &heading[1]]);
    for frontier in frontiers {
        let cell = |level: f64| match frontier.at(level) {
            Some(point) => format!("{:.2} ({} {:.2})", point.cost, frontier.setting, point.setting),
            None => "not within what was swept".to_owned(),
        };
        table.row(vec![frontier.name.to_owned(), cell(LEVELS[0]), cell(LEVELS[1])]);
    }
    table
}

fn points(frontiers: &[Frontier]) -> Table {
    let mut table = Table::new(&["RULE", "SETTING", "X CLAIRVOYANT", "VIEWER-S OVER"]);
    for frontier in frontiers {
        for point in &frontier.points {
            table.row(vec![
                frontier.name.to_owned(),
                format!("{} {}", frontier.setting, point.setting),
                format!("{:.3}", point.cost),
                format!("{:.4} %", point.over * 100.0),
            ]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        simulate: Simulate,
    }

    fn line(words: &[&str]) -> Simulate {
        Line::try_parse_from(std::iter::once(&"simulate").chain(words)).expect("parsed").simulate
    }

    #[test]
    fn a_policy_file_comes_before_the_flags_and_all_that_is_wrong_is_said_at_once() {
        let file = tempfile::NamedTempFile::new().expect("made");
        std::fs::write(file.path(), "headroom = 0.5\ndown_window = \"5m\"\nspare = 2\n").expect("written");
        let name = file.path().to_str().expect("text");
        let policy = line(&["--policy", name, "--set", "headroom=0.1"]).policy().expect("good");
        assert_eq!((policy.headroom, policy.spare, policy.down_window.as_secs()), (0.1, 2.0, 300));

        std::fs::write(file.path(), "headrom = 0.5\nmin = 9\nmax = 3\n").expect("written");
        let error =
            line(&["--policy", name, "--set", "gain", "--target", "9"]).policy().expect_err("wrong").to_string();
        for part in ["headrom", "--set gain", "9 is above max, 3", "--target 9"] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }

    #[test]
    fn weeks_and_csv_that_make_no_sense_are_refused() {
        for wrong in ["0-3", "4-3", "x", "1-60"] {
            assert!(line(&["--weeks", wrong]).trace().is_err(), "{wrong}");
        }
        assert!(line(&["--csv", "/nowhere/at/all.csv"]).trace().is_err());
        assert!(line(&["--peak", "NaN"]).trace().is_err());
        assert_eq!(line(&["--weeks", "2"]).trace().expect("one week").0.readers.len(), 120_960);
    }
}
