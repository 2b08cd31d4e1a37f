//! Ingestion nodes that change, crash and come back: a camera is recorded in pieces, by whoever had it.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtxfleet_tests::compare::Arrival;
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::node::Settings;
use mtxfleet_tests::lab::wait::{PATIENCE, wait_for};
use mtxfleet_tests::lab::worker_process::{Gap, WorkerProcess};
use mtxfleet_tests::lab::{self, Lab, drain};
use mtxfleet_tests::notes;
use mtxfleet_wire::{DrainOutcome, NodeId, Phase};

use crate::{WITHIN, either, more};

/// Ticks between two frames of a camera.
const INTERVAL: i64 = 3600;

/// Between two takes, what lies in a gap is known by the clocks of a busy machine: so many frames, about.
const BY_CLOCK: i64 = 4;

/// What a node of the lab records too late for its own crash: a part of 200 ms, and the frame that ends it.
const NOT_WRITTEN: usize = 15;

/// How long a worker is away while its camera's node goes on, in frames.
const AWAY: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "not finished: the first node takes the camera back by itself, so its crash part proves nothing yet"]
async fn what_any_owner_recorded_is_there_and_what_nobody_did_is_named() {
    owners_come_and_go().await.expect("it runs");
}

async fn owners_come_and_go() -> Result<()> {
    let _alone = lab::alone().await;
    // Longer than anything here takes: it has to end by itself, when the worker is back.
    let settings = Settings { drain: "recording_grace = \"5m\"\n".to_owned(), ..Settings::default() };
    let builder = Lab::builder().ingestion(2).distribution(2).pulled([CameraKind::H264]).settings(settings);
    let mut lab = builder.server(either().await).start().await?;
    let (first, second) = (NodeId::new("ingest-1")?, NodeId::new("ingest-2")?);
    lab.pull(&first, "cam1").await?;
    lab.wait_owned("cam1", &first, PATIENCE).await?;
    let truth = lab.record_camera("cam1").await?;
    wait_for("the camera's frames", WITHIN, async || if truth.receives() { Ok(()) } else { Err("none") }).await?;
    let mut worker = WorkerProcess::start(&lab, "anpr-1", "cam1", None, true)?;
    more(&worker, AWAY).await?;

    the_owner_changes_while_the_worker_is_away(&lab, &mut worker, &first, &second).await?;
    let unharmed = worker.lives()?;
    ensure!(unharmed.gaps.is_empty(), "{unharmed:?}");

    // Nobody records the camera from this crash on until the other node pulls it.
    kill(&mut lab, &second)?;
    lab.pull(&first, "cam1").await?;
    lab.wait_owned("cam1", &first, PATIENCE).await?;
    more(&worker, AWAY).await?;
    let after_crash = worker.lives()?;
    restart(&mut lab, &second).await?;

    // The same while the worker is away, and the dead node is back when it asks for the second time or the third.
    worker.process.kill();
    tokio::time::sleep(Duration::from_millis(40 * AWAY as u64)).await;
    kill(&mut lab, &first)?;
    lab.pull(&second, "cam1").await?;
    lab.wait_owned("cam1", &second, PATIENCE).await?;
    let seen = worker.frames()?;
    worker.process.restart()?;
    restart(&mut lab, &first).await?;
    wait_for("frames", WITHIN, async || -> Result<()> {
        ensure!(worker.frames()? >= seen + 2 * AWAY, "few; its log ends:\n{}", worker.process.log_tail());
        Ok(())
    })
    .await?;
    worker.process.kill();
    let lives = worker.lives()?;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let truth = truth.stop().await;

    let holes = holes(&truth.arrivals, &lives.frames)?;
    ensure!(holes.len() == 2, "lost {holes:?}, told {:?}", lives.gaps);
    ensure!(lives.gaps.len() == 2 && after_crash.gaps.len() == 1, "{:?}", lives.gaps);
    for (hole, gap) in holes.iter().zip(&lives.gaps) {
        ensure!((told(gap)? - *hole as i64).abs() <= BY_CLOCK, "lost {holes:?}, told {:?}", lives.gaps);
    }
    // Of the time away before the second crash, all that was on the disk.
    let fetched = lives.recorded - after_crash.recorded;
    ensure!(fetched >= AWAY - NOT_WRITTEN, "{fetched} frames came from recordings after the second crash");
    notes::ran(&format!(
        "owners that change, crash and come back, on {}: {} frames from recordings; two crashes, {holes:?} frames lost, \
         told as {:?}",
        lab.server.kind,
        lives.recorded,
        lives.gaps.iter().map(told).collect::<Result<Vec<_>>>()?
    ));
    Ok(())
}

/// The old owner's drain waits for the worker, which gets its frames from both.
async fn the_owner_changes_while_the_worker_is_away(
    lab: &Lab,
    worker: &mut WorkerProcess,
    first: &NodeId,
    second: &NodeId,
) -> Result<()> {
    worker.process.kill();
    let agent = &lab.node(first)?.agent;
    let view = drain::order(agent, "test").await?;
    lab.pull(second, "cam1").await?;
    ensure!(drain::wait_phase(agent, &view.drain, Phase::Cleanup, PATIENCE).await?, "it waited for nobody");
    wait_for("the drain to wait for the worker", PATIENCE, async || -> Result<()> {
        let view = agent.drain_view().await?.context("no drain")?;
        ensure!(view.record.is_none(), "it has ended: {:?}", view.record);
        ensure!(view.waiting_for.iter().any(|why| why.contains("recording")), "{:?}", view.waiting_for);
        Ok(())
    })
    .await?;
    worker.process.restart()?;
    more(worker, 2 * AWAY).await?;
    let record = drain::follow(agent, &view.drain, WITHIN, |_| {}).await?;
    ensure!(record.outcome == DrainOutcome::Completed, "{record:#?}");
    agent.undrain().await?.context("back into service")?;
    lab.wait_in_service(first, PATIENCE).await
}

fn kill(lab: &mut Lab, node: &NodeId) -> Result<()> {
    let node = lab.node_mut(node)?;
    node.server.process.kill();
    node.agent.process.kill();
    Ok(())
}

async fn restart(lab: &mut Lab, id: &NodeId) -> Result<()> {
    let node = lab.node_mut(id)?;
    node.server.process.restart()?;
    node.server.wait_ready().await?;
    node.restart_agent().await?;
    lab.wait_in_service(id, PATIENCE).await
}

/// Frames in a row of the camera that the worker lacks, between the first and the last that it has; also that it has the
/// others in order, and once.
fn holes(truth: &[Arrival], frames: &[Arrival]) -> Result<Vec<usize>> {
    let has: HashSet<u64> = frames.iter().map(|frame| frame.hash).collect();
    let sent: Vec<u64> = truth.iter().map(|frame| frame.hash).collect();
    let is_there = |hash: &u64| has.contains(hash);
    let first = sent.iter().position(is_there).context("nothing in common")?;
    let last = sent.iter().rposition(is_there).context("nothing in common")?;
    let kept: Vec<u64> = sent[first..=last].iter().copied().filter(is_there).collect();
    let got: Vec<u64> = frames.iter().map(|frame| frame.hash).collect();
    ensure!(kept == got, "{} frames of the camera, {} at the worker, or in another order", kept.len(), got.len());
    let runs = sent[first..=last].chunk_by(|a, b| is_there(a) == is_there(b));
    Ok(runs.filter(|run| !is_there(&run[0])).map(<[u64]>::len).collect())
}

/// Frames that a gap is as long as.
fn told(gap: &Gap) -> Result<i64> {
    let after = gap.after.context("a gap with no frame before it")?;
    Ok((gap.before - after + INTERVAL / 2) / INTERVAL - 1)
}
