//! Checkpoints: whose they are, where they stand while Redis is away, and what is no checkpoint.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use mtxfleet_ai_client::{CheckpointError, Checkpoints, Error, Frame, Item, Start, Stream, StreamConfig};
use mtxfleet_tests::lab::wait::wait_for;
use mtxfleet_wire::{Checkpoint, RegistryKeys};
use redis::AsyncCommands as _;

use crate::faults::{BOUND, CAMERA, Scene, WORKER};
use crate::redis_and_agent::Redis;

fn key() -> String {
    RegistryKeys::new(&"lab".parse().expect("valid"))
        .checkpoint(&WORKER.parse().expect("valid"), &CAMERA.parse().expect("valid"))
}

fn often() -> Checkpoints {
    Checkpoints { every_frames: 5, every: Duration::from_millis(200), ..Checkpoints::explicit() }
}

/// The next frame, and the gaps before it.
async fn frame(stream: &mut Stream) -> Result<(Frame, usize)> {
    let mut gaps = 0;
    loop {
        match tokio::time::timeout(BOUND, stream.next()).await.context("no frame")? {
            Some(Ok(Item::Frame(frame))) => return Ok((frame, gaps)),
            Some(Ok(Item::Discontinuity(_))) => gaps += 1,
            Some(Err(error)) => return Err(error.into()),
            None => bail!("the stream is over"),
        }
    }
}

/// Finishes so many frames; the RTP time of the last.
async fn work(stream: &mut Stream, frames: usize) -> Result<i64> {
    let mut last = 0;
    for _ in 0..frames {
        let (frame, _) = frame(stream).await?;
        frame.done();
        last = frame.rtp_time;
    }
    Ok(last)
}

fn resumed(stream: &Stream) -> Result<(u64, i64)> {
    match stream.start() {
        Start::Resumed { done, after, .. } => Ok((*done, *after)),
        other => bail!("it did not resume: {other:?}"),
    }
}

#[tokio::test]
async fn a_second_copy_takes_over_and_the_first_is_told_and_writes_no_more() -> Result<()> {
    let Some(mut scene) = Scene::start("worker library: two copies of one worker").await? else { return Ok(()) };
    let Some(server) = Redis::start(&mut scene).await? else { return Ok(()) };
    let mut redis = server.connect().await?;
    let config = StreamConfig { redis: Some(server.url.clone()), checkpoints: Some(often()), ..scene.config.clone() };
    let mut first = scene.stream(config.clone()).await?;
    assert_eq!(first.start(), &Start::Live);
    work(&mut first, 30).await?;
    wait_for("a checkpoint", BOUND, async || {
        let found: Option<String> = redis.hget(key(), "record").await.map_err(|error| error.to_string())?;
        found.map(drop).ok_or_else(|| "none".to_owned())
    })
    .await?;

    let mut second = Stream::open(config.clone()).await?;
    let (done, _) = resumed(&second)?;
    assert!((5..=30).contains(&done), "{done}");
    let ended = async {
        loop {
            match first.next().await {
                Some(Ok(Item::Frame(frame))) => frame.done(),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Some(error),
                None => return None,
            }
        }
    };
    let ended = tokio::time::timeout(BOUND, ended).await.context("the first copy reads on")?;
    assert!(
        matches!(ended, Some(Error::Checkpoint(CheckpointError::Superseded { epoch: 2, own: 1, .. }))),
        "{ended:?}"
    );
    assert!(first.next().await.is_none());
    first.close().await;
    let (next, gaps) = frame(&mut second).await?;
    assert_eq!(gaps, 1, "without a recording what was missed is told");
    next.done();
    work(&mut second, 30).await?;
    second.close().await;
    let text: String = redis.hget(key(), "record").await?;
    let record = Checkpoint::read(&text, &WORKER.parse()?, &CAMERA.parse()?)?;
    assert_eq!(record.done, done + 31, "the first copy's frames are not in it");
    let epoch: u64 = redis.hget(key(), "epoch").await?;
    assert_eq!(epoch, 2);
    Ok(())
}

#[tokio::test]
async fn a_record_that_is_damaged_or_newer_is_an_error_and_stays_as_it_is() -> Result<()> {
    let Some(mut scene) = Scene::start("worker library: damaged checkpoints").await? else { return Ok(()) };
    let Some(server) = Redis::start(&mut scene).await? else { return Ok(()) };
    let mut redis = server.connect().await?;
    let config = StreamConfig { redis: Some(server.url.clone()), checkpoints: Some(often()), ..scene.config.clone() };
    for (record, expected) in
        [("{\"schema\":1,\"do", "damaged"), ("{\"schema\":7}", "newer version"), ("null", "damaged")]
    {
        let _: () = redis.hset_multiple(key(), &[("epoch", "3"), ("holder", "x"), ("record", record)]).await?;
        let error = Stream::open(config.clone()).await.err().context("it opened")?;
        let mut text = error.to_string();
        text.extend(std::error::Error::source(&error).map(ToString::to_string));
        assert!(matches!(error, Error::Checkpoint(CheckpointError::Invalid { .. })), "{error:?}");
        assert!(text.contains(expected) && text.contains(&key()), "{text}");
        let kept: String = redis.hget(key(), "record").await?;
        assert_eq!(kept, record);
        let _: () = redis.del(key()).await?;
    }
    let _: () = redis.set(key(), "text").await?;
    assert!(matches!(Stream::open(config.clone()).await, Err(Error::Checkpoint(_))));
    let _: () = redis.del(key()).await?;
    let _: () = redis.hset(key(), "epoch", "many").await?;
    assert!(matches!(Stream::open(config).await, Err(Error::Checkpoint(_))));
    Ok(())
}

#[tokio::test]
async fn with_redis_away_from_start_to_end_the_journal_has_it_and_redis_gets_it_later() -> Result<()> {
    let Some(mut scene) = Scene::start("worker library: checkpoints without Redis").await? else { return Ok(()) };
    let Some(mut server) = Redis::start(&mut scene).await? else { return Ok(()) };
    server.process.kill();
    let folder = tempfile::tempdir()?;
    let checkpoints = Checkpoints { journal: Some(folder.path().to_owned()), ..often() };
    let config =
        StreamConfig { redis: Some(server.url.clone()), checkpoints: Some(checkpoints), ..scene.config.clone() };

    let mut first = scene.stream(config.clone()).await?;
    assert!(matches!(first.start(), Start::Unknown { .. }), "{:?}", first.start());
    let last = work(&mut first, 20).await?;
    first.close().await;
    let mut second = Stream::open(config.clone()).await?;
    assert_eq!(resumed(&second)?, (20, last));
    let last = work(&mut second, 20).await?;

    // It comes back empty.
    server.process.restart()?;
    let mut redis = wait_for("Redis", BOUND, async || server.connect().await).await?;
    wait_for("the checkpoint in Redis", BOUND, async || {
        let text: Option<String> = redis.hget(key(), "record").await.map_err(|error| error.to_string())?;
        let text = text.ok_or("none")?;
        let worker = (WORKER.parse().expect("valid"), CAMERA.parse().expect("valid"));
        let record = Checkpoint::read(&text, &worker.0, &worker.1).map_err(|error| error.to_string())?;
        let at = record.frames.last().map(|frame| frame.time);
        if (record.done, at) == (40, Some(last)) { Ok(()) } else { Err(format!("{record:?}")) }
    })
    .await?;
    second.close().await;
    let third = Stream::open(config).await?;
    assert_eq!(resumed(&third)?, (40, last));
    third.close().await;
    Ok(())
}

#[tokio::test]
async fn of_two_copies_the_one_that_began_last_goes_on_also_when_the_first_began_without_redis() -> Result<()> {
    let Some(mut scene) = Scene::start("worker library: a copy that began without Redis").await? else {
        return Ok(());
    };
    let Some(mut server) = Redis::start(&mut scene).await? else { return Ok(()) };
    server.process.kill();
    let config = StreamConfig { redis: Some(server.url.clone()), checkpoints: Some(often()), ..scene.config.clone() };
    let mut first = scene.stream(config.clone()).await?;
    assert!(matches!(first.start(), Start::Unknown { .. }), "{:?}", first.start());

    server.process.restart()?;
    let mut redis = wait_for("Redis", BOUND, async || server.connect().await).await?;
    let mut second = Stream::open(config).await?;
    // The first has something to write only now.
    let ended = async {
        loop {
            match first.next().await {
                Some(Ok(Item::Frame(frame))) => frame.done(),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Some(error),
                None => return None,
            }
        }
    };
    let ended = tokio::time::timeout(BOUND, ended).await.context("the first copy reads on")?;
    assert!(matches!(ended, Some(Error::Checkpoint(CheckpointError::Superseded { epoch: 1, .. }))), "{ended:?}");
    work(&mut second, 30).await?;
    second.close().await;
    let text: String = redis.hget(key(), "record").await?;
    assert_eq!(Checkpoint::read(&text, &WORKER.parse()?, &CAMERA.parse()?)?.done, 30);
    Ok(())
}

#[tokio::test]
async fn a_frame_counts_as_done_when_the_next_is_asked_for_unless_the_application_says_so_itself() -> Result<()> {
    let Some(scene) = Scene::start("worker library: when a frame is done").await? else { return Ok(()) };
    for (explicit, expected) in [(false, 10), (true, 4)] {
        let folder = tempfile::tempdir()?;
        let checkpoints = Checkpoints { explicit, journal: Some(folder.path().to_owned()), ..often() };
        let config = StreamConfig { checkpoints: Some(checkpoints), ..scene.config.clone() };
        let mut stream = scene.stream(config.clone()).await?;
        for n in 1..=10 {
            let (frame, _) = frame(&mut stream).await?;
            if explicit && n == 4 {
                frame.done();
            }
        }
        stream.close().await;
        let again = Stream::open(config).await?;
        assert_eq!(resumed(&again)?.0, expected, "explicit: {explicit}");
        again.close().await;
    }
    Ok(())
}

#[tokio::test]
async fn a_checkpoint_is_written_after_so_many_frames_or_so_much_time_whichever_comes_first() -> Result<()> {
    let Some(scene) = Scene::start("worker library: when checkpoints are written").await? else { return Ok(()) };
    let (never, soon) = (Duration::from_secs(3600), Duration::from_millis(200));
    for (every_frames, every, frames) in [(10, never, 10), (u64::MAX, soon, 3)] {
        let folder = tempfile::tempdir()?;
        let journal = Some(folder.path().to_owned());
        let checkpoints = Checkpoints { every_frames, every, journal, ..Checkpoints::explicit() };
        let config = StreamConfig { checkpoints: Some(checkpoints), ..scene.config.clone() };
        let mut stream = scene.stream(config).await?;
        work(&mut stream, frames).await?;
        wait_for("the journal", BOUND, async || -> Result<()> {
            let file = std::fs::read_dir(folder.path())?.next().context("none")??;
            let page: serde_json::Value = serde_json::from_slice(&std::fs::read(file.path())?)?;
            let done = page["checkpoint"]["done"].as_u64();
            anyhow::ensure!(done == Some(frames as u64), "{page}");
            Ok(())
        })
        .await?;
        stream.close().await;
    }
    Ok(())
}
