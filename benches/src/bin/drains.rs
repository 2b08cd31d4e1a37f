//! Consecutive drains of a whole fleet: frames lost, repeated, out of order, and how long workers waited.
//!
//! On the real server, where it is found, and on the stand-in. Plain readers that reconnect at once meet the same
//! drains. `MTXFLEET_BENCH_DRAINS` sets how many (50).

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtxfleet_benches::Figure;
use mtxfleet_tests::lab::audience::{Audience, PerCamera, ReaderResult, Results};
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::node::Settings;
use mtxfleet_tests::lab::wait::PATIENCE;
use mtxfleet_tests::lab::{Lab, drain};
use mtxfleet_tests::server_binary::{self, ServerBinary};
use mtxfleet_wire::{DrainOutcome, DrainRecord, LegEnd};

const DRAINS: usize = 50;
const DRAIN_WITHIN: Duration = Duration::from_secs(60);
const EACH: PerCamera = PerCamera { workers: 2, controls: 1, viewers: 0 };

/// Frames that every worker gets between two drains.
const AT_REST: usize = 50;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let count = match std::env::var("MTXFLEET_BENCH_DRAINS") {
        Ok(text) => text.parse().context("MTXFLEET_BENCH_DRAINS is no number")?,
        Err(_) => DRAINS,
    };
    ensure!(count > 0, "MTXFLEET_BENCH_DRAINS is 0: nothing to measure");
    let mut servers = Vec::new();
    match tokio::task::spawn_blocking(server_binary::find_real).await?? {
        Ok(real) => servers.push(real),
        Err(reasons) => eprintln!("NOT MEASURED with MediaMTX: {}", reasons.join("; ")),
    }
    servers.push(server_binary::find_stand_in()?);
    let mut missed = Vec::new();
    for server in servers {
        let on = server.kind.to_string();
        let results = bench(server, count).await?;
        missed.extend(results.imperfect().map(|row| format!("{} on {on}: {:?}", row.worker, row.frames)));
        if results.lost_by_control() == 0 {
            missed.push(format!("the plain readers lost nothing on {on} either, so this proves nothing"));
        }
    }
    // Only now: what was measured is printed whether it is good or not.
    ensure!(missed.is_empty(), "{}", missed.join("\n"));
    Ok(())
}

/// Measures and prints it all, and gives what every reader got.
async fn bench(server: ServerBinary, count: usize) -> Result<Results> {
    let on = server.kind.to_string();
    let builder = Lab::builder().cameras(CameraKind::DEMO).settings(Settings::demo()).server(server);
    let lab = builder.start().await?;
    let audience = Audience::gather(&lab, EACH).await?;
    audience.wait_for_more(AT_REST, DRAIN_WITHIN).await?;
    let mut records: Vec<DrainRecord> = Vec::new();
    for number in 1..=count {
        let (busiest, _) = lab.legs().await?.swap_remove(0);
        let agent = &lab.node(&busiest)?.agent;
        let record = drain::run(agent, "bench", DRAIN_WITHIN, |_| {}).await?;
        let seconds = record.ended.since(record.started).as_secs_f64();
        eprintln!("{on}: drain {number} of {count}, {busiest}: {} legs, {seconds:.1} s", record.legs.len());
        ensure!(record.outcome == DrainOutcome::Completed, "drain {number} ended as {:?}", record.outcome);
        records.push(record);
        audience.wait_for_more(AT_REST, DRAIN_WITHIN).await?;
        agent.undrain().await?.with_context(|| format!("{busiest} does not come back"))?;
        lab.wait_in_service(&busiest, PATIENCE).await?;
    }
    let results = audience.finish().await?;
    report(&on, &records, &results);
    Ok(results)
}

fn report(on: &str, records: &[DrainRecord], results: &Results) {
    let drains = format!("{} consecutive drains, {on}", records.len());
    let sum = |rows: &[ReaderResult], of: fn(&ReaderResult) -> u64| rows.iter().map(of).sum::<u64>() as f64;
    let peer = "plain reader that reconnects at once, same drains";
    let both = |what: &str, of: fn(&ReaderResult) -> u64| {
        let figure = Figure::new(format!("{what}, {drains}"), sum(&results.workers, of), "frames", "0");
        figure.beside(peer, sum(&results.control, of)).print();
    };
    both("frames lost by workers", |row| row.frames.lost);
    both("frames a worker got twice", |row| row.frames.duplicated);
    both("frames out of order at workers", |row| row.frames.out_of_order);
    both("damaged frames at workers", |row| row.frames.foreign);

    let moved = |record: &DrainRecord| record.legs.iter().filter(|l| matches!(l.how, LegEnd::Moved(_))).count();
    let handovers = records.iter().map(moved).sum::<usize>() as f64;
    let legs = records.iter().map(|record| record.legs.len()).sum::<usize>();
    Figure::new(format!("handovers, {drains}"), handovers, "handovers", format!("all of {legs}")).print();

    let longest =
        |rows: &[ReaderResult], of: fn(&ReaderResult) -> u64| rows.iter().map(of).max().unwrap_or_default() as f64;
    let interval = longest(&results.workers, |row| row.frames.frame_interval_ms);
    // Against the same frame at the ingestion node, so that the camera's own stutter is not in it.
    let goal = format!("at most the skew of the legs + {} ms", 2.0 * interval + 50.0);
    let delay = longest(&results.workers, |row| row.frames.longest_delay_ms);
    Figure::new(format!("longest extra pause of a worker, {drains}"), delay, "ms", goal).print();
    // A plain reader loses what would have been late, so it is held against in pauses, the camera's own included.
    let pause = |rows: &[ReaderResult]| longest(rows, |row| row.frames.longest_pause_ms);
    let goal =
        format!("the cameras' own longest was {} ms", longest(&results.workers, |row| row.frames.camera_pause_ms));
    Figure::new(format!("longest time between two frames at a worker, {drains}"), pause(&results.workers), "ms", goal)
        .beside(peer, pause(&results.control))
        .print();

    let mut seconds: Vec<f64> = records.iter().map(|r| r.ended.since(r.started).as_secs_f64()).collect();
    seconds.sort_by(f64::total_cmp);
    Figure::new(format!("median time of a drain with readers, {drains}"), seconds[seconds.len() / 2], "s", "none")
        .print();
    let out = records.iter().filter_map(|record| record.out_of_balancer_seconds).fold(0.0, f64::max);
    Figure::new(format!("longest time until out of HAProxy, {drains}"), out, "s", "under 1.5").print();
}
