//! Workers that are killed and started again, that another copy takes over from, and whose Redis is away.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtxfleet_tests::compare;
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::wait::wait_for;
use mtxfleet_tests::lab::worker_process::{Lives, WorkerProcess};
use mtxfleet_tests::lab::{self, Lab};
use mtxfleet_tests::notes;
use mtxfleet_tests::server_binary::ServerBinary;

use crate::{WITHIN, more, real, stand_in};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_killed_and_started_again_has_every_frame_on_mediamtx() {
    if let Some(server) = real("a worker killed and started again").await {
        a_worker_has_every_frame(server).await.expect("it runs");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_killed_and_started_again_has_every_frame_on_the_stand_in() {
    a_worker_has_every_frame(stand_in()).await.expect("it runs");
}

/// After so many frames more it is killed, and started again after so many milliseconds.
const LIVES: [(usize, u64); 4] = [(60, 0), (37, 1500), (8, 300), (90, 4000)];

/// Frames that both copies may have handed over until the first one was told: it writes every 5 frames.
const OVERLAP: u64 = 75;

async fn a_worker_has_every_frame(server: ServerBinary) -> Result<()> {
    let _alone = lab::alone().await;
    let kind = server.kind.to_string();
    let mut lab = Lab::builder().cameras([CameraKind::H264WithBFrames]).server(server).start().await?;
    let truth = lab.record_camera("cam1").await?;
    wait_for("the camera's frames", WITHIN, async || if truth.receives() { Ok(()) } else { Err("none") }).await?;
    // Each is asked for what was sent until its own last frame: what came after the kills is nobody's.
    let started = Instant::now();
    let mut worker = WorkerProcess::start(&lab, "anpr-1", "cam1", None, true)?;
    for (frames, pause) in LIVES {
        more(&worker, frames).await?;
        worker.process.kill();
        tokio::time::sleep(Duration::from_millis(pause)).await;
        worker.process.restart()?;
    }
    more(&worker, 60).await?;
    let copy = a_copy_takes_over(&lab, &mut worker).await?;
    let alone = without_redis(&mut lab).await?;
    let (first, copy, alone) = (worker.log()?, copy.log()?, alone.lives()?);
    let truth = truth.stop_when_level().await.arrivals;

    let lives = Lives::of(&first)?;
    let found = compare::compare(&truth, &lives.frames, started)?;
    ensure!((found.lost, found.duplicated, found.out_of_order, found.foreign) == (0, 0, 0, 0), "{found:#?} {lives:?}");
    let resumed = lives.starts.iter().filter(|start| start.starts_with("resumed ")).count();
    ensure!(resumed == LIVES.len() && lives.starts[0] == "live", "{:?}", lives.starts);
    ensure!(lives.recorded > 0, "nothing came from the recording, so this proves nothing");
    // How much of it is seen depends on when the first frame comes: it is caught up with in some 100 ms.
    ensure!(lives.most_backlog > 0.0, "4 s away, and never told to be behind");
    ensure!(lives.best_rate.is_none_or(|rate| rate > 1.0), "slower than real time: {:?}", lives.best_rate);

    let both = Lives::of(&(first + &copy))?;
    let found = compare::compare(&truth, &both.frames, started)?;
    ensure!((found.lost, found.foreign) == (0, 0) && found.duplicated <= OVERLAP, "{found:#?}");
    ensure!(both.gaps.is_empty() && both.errors.len() == 1, "{:?} {:?}", both.gaps, both.errors);
    ensure!(both.errors[0].contains("another copy of worker anpr-1"), "{:?}", both.errors);

    let found = compare::compare(&truth, &alone.frames, started)?;
    ensure!((found.lost, found.duplicated, found.out_of_order, found.foreign) == (0, 0, 0, 0), "{found:#?} {alone:?}");
    ensure!(alone.starts[0].starts_with("unknown ") && alone.starts[1].starts_with("resumed "), "{:?}", alone.starts);
    notes::ran(&format!(
        "a worker killed {} times, on {kind}: {} frames, each there; {} from recordings, {} again after the last \
         checkpoint, marked; at most {:.1} s behind, caught up at {:?} times real time",
        LIVES.len(),
        lives.frames.len(),
        lives.recorded,
        lives.repeated,
        lives.most_backlog,
        lives.best_rate,
    ));
    Ok(())
}

/// A second copy starts while the first one runs, goes on after what that has finished with, and the first one ends.
async fn a_copy_takes_over(lab: &Lab, first: &mut WorkerProcess) -> Result<WorkerProcess> {
    let mut copy = WorkerProcess::start_copy(lab, "anpr-1", "anpr-1-again", "cam1", None, true)?;
    wait_for("the first copy to end", WITHIN, async || {
        first.process.ended().map(drop).with_context(|| format!("it runs; its log:\n{}", first.process.log_tail()))
    })
    .await?;
    let done = checkpoint(lab, "anpr-1").await?.context("no checkpoint")?;
    more(&copy, 60).await?;
    wait_for("the copy to write", WITHIN, async || -> Result<()> {
        let now = checkpoint(lab, "anpr-1").await?.context("no checkpoint")?;
        ensure!(now > done, "{now} frames, as before");
        Ok(())
    })
    .await?;
    copy.process.kill();
    let starts = copy.lives()?.starts;
    ensure!(matches!(&starts[..], [how] if how.starts_with("resumed ")), "{starts:?}");
    Ok(copy)
}

/// Redis is away before the worker starts, and when it starts again: the journal has its checkpoint, and Redis once it is
/// back.
async fn without_redis(lab: &mut Lab) -> Result<WorkerProcess> {
    let journal = lab.folder().join("journal");
    lab.redis.as_mut().context("no Redis")?.process.kill();
    let mut worker = WorkerProcess::start(lab, "anpr-2", "cam1", Some(&journal), true)?;
    more(&worker, 40).await?;
    worker.process.kill();
    tokio::time::sleep(Duration::from_millis(700)).await;
    worker.process.restart()?;
    more(&worker, 40).await?;
    lab.redis.as_mut().context("no Redis")?.restart().await?;
    wait_for("the checkpoint to be in Redis", WITHIN, async || -> Result<()> {
        checkpoint(lab, "anpr-2").await?.context("none")?;
        Ok(())
    })
    .await?;
    worker.process.kill();
    Ok(worker)
}

/// Frames that a worker has finished with, as Redis has it.
async fn checkpoint(lab: &Lab, worker: &str) -> Result<Option<u64>> {
    let mut redis = lab.redis.as_ref().context("no Redis")?.connect().await?;
    let key = format!("mtxfleet:{{{}}}:checkpoint:{worker}/cam1", lab::CLUSTER);
    let record: Option<String> = redis::cmd("HGET").arg(key).arg("record").query_async(&mut redis).await?;
    let record: Option<serde_json::Value> = record.as_deref().map(serde_json::from_str).transpose()?;
    Ok(record.and_then(|record| record["done"].as_u64()))
}
