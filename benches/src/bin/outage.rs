//! Redis away for ten minutes while the load changes: frames lost by workers, and whether anything shrank.
//!
//! Viewers come and go every half a minute, and a node is drained by an operator who insists. The cluster may grow, and may
//! not shrink; when Redis is back all catches up. `MTXFLEET_BENCH_OUTAGE` sets the seconds (600).

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtxfleet_benches::Figure;
use mtxfleet_tests::lab::Lab;
use mtxfleet_tests::lab::audience::{Audience, PerCamera};
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::cloud::CloudSettings;
use mtxfleet_tests::lab::cycles;
use mtxfleet_tests::lab::reader::ReconnectingReader;
use mtxfleet_tests::lab::redis::Keeps;
use mtxfleet_tests::lab::wait::{PATIENCE, wait_for};
use mtxfleet_wire::{DrainOrder, Subject};

const AWAY: Duration = Duration::from_secs(600);
const WITHIN: Duration = Duration::from_secs(240);
const EACH: PerCamera = PerCamera { workers: 2, controls: 1, viewers: 0 };
const STEADY: u32 = 6;
const TIDE: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let away = match std::env::var("MTXFLEET_BENCH_OUTAGE") {
        Ok(text) => Duration::from_secs(text.parse().context("MTXFLEET_BENCH_OUTAGE is no number")?),
        Err(_) => AWAY,
    };
    ensure!(away >= 2 * TIDE, "MTXFLEET_BENCH_OUTAGE: at least {} s", 2 * TIDE.as_secs());
    let cameras = [CameraKind::H264, CameraKind::H264WithBFrames];
    let cloud = CloudSettings { max: 4, ..cycles::cloud(STEADY) };
    let builder = Lab::builder().cameras(cameras).settings(cycles::settings()).cloud(cloud);
    let mut lab = builder.redis(Some(Keeps::Everything)).start().await?;
    let audience = Audience::gather(&lab, EACH).await?;
    let mut crowd = viewers(&lab, cycles::crowd(STEADY));
    lab.wait_cloud_nodes(3, WITHIN).await?;

    lab.redis.as_mut().context("it has one")?.process.kill();
    let began = Instant::now();
    let (mut before, mut most, mut shrank, mut drained) = (3, 3, 0, false);
    while began.elapsed() < away {
        let high = began.elapsed().as_secs() / TIDE.as_secs() % 2 == 1;
        crowd.truncate(if high { crowd.len() } else { 0 });
        if high && crowd.is_empty() {
            crowd = viewers(&lab, 3 * cycles::crowd(STEADY));
        }
        let desired = lab.cloud()?.group().await?.desired;
        shrank += u32::from(desired < before);
        (before, most) = (desired, most.max(desired));
        if !drained && began.elapsed() > away / 2 {
            drained = true;
            drain_the_busiest(&lab).await?;
            // By an operator's order, which is no shrinking.
            before = lab.cloud()?.group().await?.desired;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    audience.wait_for_more(25, PATIENCE).await?;
    lab.redis.as_mut().context("it has one")?.restart().await?;
    let back = Instant::now();
    drop(crowd);
    lab.cloud()?.wait_size(2, WITHIN).await?;
    let caught_up = back.elapsed();
    audience.wait_for_more(25, PATIENCE).await?;
    // ffmpeg ends when its connection does.
    lab.cameras.iter_mut().try_for_each(|camera| camera.process.check_alive())?;
    all_was_available(&lab).await?;
    let results = audience.finish().await?;
    let lost: u64 = results.workers.iter().map(|row| row.frames.lost).sum();
    let of = format!("Redis away for {} s, on {}", away.as_secs(), lab.server.kind);
    Figure::new(format!("frames lost by {} workers, {of}", results.workers.len()), lost as f64, "frames", "0")
        .beside("plain readers that reconnect at once", results.lost_by_control() as f64)
        .print();
    let figure = format!("times that the group was made smaller, {most} instances at most, {of}");
    Figure::new(figure, shrank.into(), "times", "0").print();
    Figure::new(format!("small again after it is back, {of}"), caught_up.as_secs_f64(), "s", "").print();
    ensure!(shrank == 0, "it shrank {shrank} times without Redis");
    ensure!(most == 4, "{most} instances at most: it did not grow without Redis");
    let imperfect: Vec<_> = results.imperfect().collect();
    ensure!(imperfect.is_empty(), "{imperfect:#?}");
    Ok(())
}

fn viewers(lab: &Lab, count: u32) -> Vec<ReconnectingReader> {
    (0..count).map(|at| lab.plain_reader(&lab.cameras[at as usize % lab.cameras.len()].name)).collect()
}

/// Nothing crashed, and nodes that were drained and ended were none that failed.
async fn all_was_available(lab: &Lab) -> Result<()> {
    let lines = lab.nodes[0].agent.availability().await?.lines;
    let nodes = lines.iter().filter(|line| matches!(line.of, Subject::Node(_))).count();
    ensure!(nodes > 4, "{nodes} nodes in the figures, of all that ran");
    for line in lines {
        // A busy machine may have somebody suspected for a moment.
        ensure!(line.day.ratio().is_none_or(|ratio| ratio >= 0.98), "{line:?}");
    }
    Ok(())
}

async fn drain_the_busiest(lab: &Lab) -> Result<()> {
    let (busiest, _) = lab.legs().await?.swap_remove(0);
    let nodes = lab.cloud_nodes().await?;
    let node = nodes.iter().find(|node| node.id == busiest).context("it is of the cloud")?;
    let order = DrainOrder { force: true, ..DrainOrder::default() };
    node.api.drain(&order).await?.map_err(|refusal| anyhow::anyhow!("refused: {refusal}"))?;
    // Its instance ends with decrement, and the load, where it is high, asks for another.
    wait_for("the drained instance to end", WITHIN, async || -> Result<()> {
        let group = lab.cloud()?.group().await?;
        ensure!(group.instance(&node.instance).is_none(), "{group:?}");
        Ok(())
    })
    .await
}
