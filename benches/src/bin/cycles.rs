//! A cluster that grows and shrinks ten times under load, through the local cloud: frames lost by AI workers, and by plain
//! readers that connect again at once.
//!
//! In each cycle the node with the most workers is the one that goes: the others are protected meanwhile.
//! `MTXFLEET_BENCH_CYCLES` sets how many (10).

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtxfleet_benches::Figure;
use mtxfleet_tests::lab::Lab;
use mtxfleet_tests::lab::audience::{Audience, PerCamera};
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::{agent, cycles};
use mtxfleet_wire::{AvailabilityView, Subject};

const CYCLES: usize = 10;
const EACH: PerCamera = PerCamera { workers: 2, controls: 1, viewers: 0 };
const STEADY: u32 = 9;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let count = match std::env::var("MTXFLEET_BENCH_CYCLES") {
        Ok(text) => text.parse().context("MTXFLEET_BENCH_CYCLES is no number")?,
        Err(_) => CYCLES,
    };
    ensure!(count > 0, "MTXFLEET_BENCH_CYCLES is 0: nothing to measure");
    let cameras = [CameraKind::H264, CameraKind::H264WithBFrames, CameraKind::H264WithAudio];
    let builder = Lab::builder().cameras(cameras).settings(cycles::settings()).cloud(cycles::cloud(STEADY));
    let lab = builder.start().await?;
    let audience = Audience::gather(&lab, EACH).await?;
    let mut met = 0;
    for number in 1..=count {
        let cycle = cycles::run(&lab, &audience).await.with_context(|| format!("cycle {number}"))?;
        met += cycle.workers_on_it;
        eprintln!("{number} of {count}: {cycle:.1?}");
    }
    let ended = ended_nodes(&lab).await?;
    let results = audience.finish().await?;
    let sum = |what: fn(&mtxfleet_tests::compare::Comparison) -> u64| -> f64 {
        results.workers.iter().map(|row| what(&row.frames)).sum::<u64>() as f64
    };
    let handovers: u64 = results.workers.iter().filter_map(|row| row.counters).map(|counters| counters.handovers).sum();
    let of = format!("in {count} cycles of 2, 3 and 2 nodes, on {}", lab.server.kind);
    Figure::new(
        format!("frames lost by {} workers {of} ({handovers} handovers)", results.workers.len()),
        sum(|frames| frames.lost),
        "frames",
        "0",
    )
    .beside("plain readers that reconnect at once", results.lost_by_control() as f64)
    .print();
    Figure::new(format!("frames that came twice {of}"), sum(|frames| frames.duplicated), "frames", "0").print();
    Figure::new(format!("frames sent to workers {of}"), sum(|frames| frames.sent), "frames", "").print();
    if let Some(lowest) = ended.iter().map(|(_, ratio)| *ratio).reduce(f64::min) {
        let figure = format!("lowest availability of {} nodes that the fleet launched and ended itself", ended.len());
        Figure::new(figure, lowest * 100.0, "%", "100").print();
        ensure!(lowest > 0.999, "nodes that were ended count as down: {ended:?}");
    }
    let imperfect: Vec<_> = results.imperfect().collect();
    ensure!(imperfect.is_empty(), "{imperfect:#?}");
    ensure!(met > 0 && handovers > 0, "no worker was on a node that went: this proves nothing");
    ensure!(results.lost_by_control() > 0, "the control lost nothing: this proves nothing");
    Ok(())
}

/// Nodes of the cloud that are gone, with their availability as the ingestion node's agent has it (reckoned each minute).
async fn ended_nodes(lab: &Lab) -> Result<Vec<(String, f64)>> {
    tokio::time::sleep(Duration::from_secs(61)).await;
    let url = lab.nodes[0].agent.url() + "/v1/availability";
    let view: AvailabilityView = agent::client().get(url).send().await?.error_for_status()?.json().await?;
    let there: Vec<String> = lab.cloud_nodes().await?.iter().map(|node| node.id.to_string()).collect();
    let node = |line: mtxfleet_wire::AvailabilityLine| match line.of {
        Subject::Node(name) if name.starts_with("dist-") && !there.contains(&name) => Some((name, line.day.ratio()?)),
        _ => None,
    };
    Ok(view.lines.into_iter().filter_map(node).collect())
}
