//! The demo, in two parts. First one ingestion and three distribution nodes, four cameras, workers and plain readers
//! through the load balancer, and drains in the midst of it. Then [`day`]: the same fleet sizes itself.

mod chart;
mod day;
mod progress;
mod table;
mod verdict;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use mtxfleet_wire::{DrainRecord, NodeId, Role};
use serde::Serialize;

pub use day::Day;
pub use verdict::Verdict;

use crate::lab::audience::{Audience, PerCamera, Results};
use crate::lab::camera::CameraKind;
use crate::lab::node::Settings;
use crate::lab::wait::PATIENCE;
use crate::lab::{Lab, drain};

/// Drains a node of a fleet on this machine, and compares every frame that every reader got with what its camera sent.
#[derive(Debug, Parser)]
#[command(name = "mtxfleet-demo")]
pub struct Options {
    /// Write everything that was measured to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Leave the fleet running afterwards, with its addresses shown, until Ctrl-C
    #[arg(long)]
    pub keep: bool,
    /// Drains, one after the other; each drained node comes back before the next
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub drains: u32,
    /// The first drain alone, without the day after it
    #[arg(long)]
    pub quick: bool,
    /// Run the stand-in even where MediaMTX is found
    #[arg(long)]
    pub stand_in: bool,
}

/// What `--json` writes.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// `mediamtx v1.20.1`, or `stand-in`.
    server: String,
    /// The last drain.
    drain: &'a DrainRecord,
    /// All drains, the last one too.
    drains: &'a [DrainRecord],
    #[serde(flatten)]
    results: &'a Results,
    /// The day, unless `--quick` left it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    day: Option<&'a Day>,
}

/// Readers of each camera.
const AUDIENCE: PerCamera = PerCamera { workers: 2, controls: 2, viewers: 0 };

/// Frames that every worker gets before the first drain, between drains and after the last: 3 s.
const AT_REST: usize = 75;

/// Longest that a drain may take here.
const DRAIN_WITHIN: Duration = Duration::from_secs(90);

/// Starts the fleet, drains, compares and shows it all.
///
/// # Errors
/// When a part of the fleet does not come up or a drain does not end: then nothing was shown, neither good nor bad.
pub async fn run(options: Options) -> Result<Verdict> {
    let began = Instant::now();
    progress::title("mtxfleet: a drain that loses no frame");
    let mut builder = Lab::builder().cameras(CameraKind::DEMO).settings(Settings::demo());
    if options.stand_in {
        builder = builder.server(crate::server_binary::find_stand_in()?);
    }
    let lab = builder.start().await?;
    progress::fleet(&lab, began.elapsed());
    let audience = Audience::gather(&lab, AUDIENCE).await?;
    progress::audience(&audience, began.elapsed());
    audience.wait_for_more(AT_REST, PATIENCE).await?;

    let mut records = Vec::new();
    let mut last: Option<NodeId> = None;
    for number in 1..=options.drains {
        if let Some(node) = last.take() {
            bring_back(&lab, &node).await?;
        }
        let node = choose(&lab).await?;
        progress::drain_begins(&lab, &node, number, options.drains).await?;
        let agent = &lab.node(&node)?.agent;
        let mut show = progress::Phases::default();
        let record = drain::run(agent, "demo", DRAIN_WITHIN, |view| show.look(view)).await?;
        show.ended(&record);
        records.push(record);
        audience.wait_for_more(AT_REST, PATIENCE).await?;
        last = Some(node);
    }

    progress::note("Comparing what every reader got with what its camera sent ...");
    let results = audience.finish().await?;
    table::print(&lab, &results);
    let mut verdict = Verdict::of(&results, records.len(), began.elapsed());
    println!("{verdict}");
    let (lab, day) = if options.quick {
        (lab, None)
    } else {
        let server = options.stand_in.then(|| lab.server.clone());
        // Two fleets at once are too many for a small machine.
        drop(lab);
        let (lab, day) = day::run(server).await?;
        (lab, Some(day))
    };
    if let Some(path) = &options.json {
        let drain = records.last().context("no drain was done")?;
        let server = lab.server.kind.to_string();
        let report = Report { server, drain, drains: &records, results: &results, day: day.as_ref() };
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
        progress::note(&format!("Written to {}", path.display()));
    }
    if let Some(day) = day {
        verdict = verdict.with(&day, began.elapsed());
        println!("{verdict}");
    }
    if options.keep {
        progress::addresses(&lab);
        tokio::signal::ctrl_c().await.context("cannot wait for Ctrl-C")?;
    }
    Ok(verdict)
}

/// The node with the most workers, of those that a plain reader is on: it has to meet the same drain.
async fn choose(lab: &Lab) -> Result<NodeId> {
    let mut best: Option<(bool, usize, NodeId)> = None;
    for (node, legs) in lab.legs().await? {
        let streams = lab.node(&node)?.agent.streams().await?;
        let readers: u32 = streams.iter().filter(|s| s.node == node).map(|s| s.stream.readers).sum();
        let candidate = (readers > 0, legs, node);
        if best.as_ref().is_none_or(|best| (best.0, best.1) < (candidate.0, candidate.1)) {
            best = Some(candidate);
        }
    }
    Ok(best.context("the lab has no distribution node")?.2)
}

/// Undrains a node, and waits until it is in service and HAProxy sends to it again.
async fn bring_back(lab: &Lab, node: &NodeId) -> Result<()> {
    let agent = &lab.node(node)?.agent;
    agent.undrain().await?.with_context(|| format!("{node} does not come back"))?;
    lab.wait_in_service(node, PATIENCE).await
}

/// Distribution nodes in the order of their names.
fn distribution(lab: &Lab) -> impl Iterator<Item = &crate::lab::node::Node> {
    lab.of_role(Role::Distribution)
}
