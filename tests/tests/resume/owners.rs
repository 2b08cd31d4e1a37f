//! Ingestion nodes that change, crash and come back: a camera is recorded in pieces, by whoever had it.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use mtxfleet_leader::placement;
use mtxfleet_tests::compare::Arrival;
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::node::{Node, Settings};
use mtxfleet_tests::lab::reader::ReconnectingReader;
use mtxfleet_tests::lab::wait::{PATIENCE, wait_for};
use mtxfleet_tests::lab::worker_process::{Gap, WorkerProcess};
use mtxfleet_tests::lab::{self, Lab, agent, drain};
use mtxfleet_tests::notes;
use mtxfleet_tests::server_binary::ServerBinary;
use mtxfleet_wire::{DrainOutcome, NodeId, Phase, RecordedSpan, RecordingsView, Role, StreamName, StreamView};

use crate::{WITHIN, either, more, real, stand_in};

/// Ticks between two frames of a camera.
const INTERVAL: i64 = 3600;

/// Between two takes, what lies in a gap is known by the clocks of a busy machine: so many frames, about.
const BY_CLOCK: i64 = 4;

/// What a node of the lab records too late for its own crash: a part of 200 ms, and the frame that ends it.
const NOT_WRITTEN: usize = 15;

/// How long a worker is away while its camera's node goes on, in frames.
const AWAY: usize = 50;

/// Dead after some 5 s, then pulled by another node; a busy machine takes longer for each.
const TAKEN_WITHIN: Duration = Duration::from_secs(60);

/// A frame that a node recorded reached the camera's own reader so much later at most.
const LATE: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_owners_recording_is_kept_for_a_worker_that_is_away() {
    let _alone = lab::alone().await;
    the_owner_changes_while_the_worker_is_away().await.expect("it runs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_killed_ingestion_node_a_worker_lacks_what_nobody_recorded_and_is_told_on_mediamtx() {
    if let Some(server) = real("a crash of an ingestion node").await {
        owners_are_killed(server).await.expect("it runs");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_killed_ingestion_node_a_worker_lacks_what_nobody_recorded_and_is_told_on_the_stand_in() {
    owners_are_killed(stand_in()).await.expect("it runs");
}

/// The inventory places the camera, so another node pulls it by itself once its owner is dead.
async fn owners_are_killed(server: ServerBinary) -> Result<()> {
    let _alone = lab::alone().await;
    let cameras = "file = \"../cameras.toml\"\nsettle = \"2s\"\nlet_go_after = \"1s\"".to_owned();
    let settings = Settings { cameras, ..Settings::demo() };
    let builder = Lab::builder().ingestion(3).distribution(1).pulled([CameraKind::H264]).settings(settings);
    let mut lab = builder.server(server).start().await?;
    let inventory = format!("[[camera]]\nname = \"cam1\"\nurl = \"{}\"\n", lab.pulled[0].url());
    std::fs::write(lab.folder().join("cameras.toml"), inventory)?;
    let first = wait_placed(&lab, &[]).await?;
    let truth = lab.record_camera("cam1").await?;
    let plain = ReconnectingReader::start(&format!("rtsp://{}/cam1", lab.balancer.live));
    wait_for("plain readers' frames", WITHIN, async || -> Result<()> {
        ensure!(truth.receives() && plain.receives(), "none");
        Ok(())
    })
    .await?;
    let mut worker = WorkerProcess::start(&lab, "anpr-1", "cam1", None, true)?;
    more(&worker, AWAY).await?;

    // Nobody records the camera from this crash on until the other node pulls it.
    let mut crashes = vec![kill(&mut lab, &first)?];
    let second = wait_placed(&lab, &[&first]).await?;
    let mut spans = vec![recorded_since(&lab, &second, crashes[0]).await?];
    more(&worker, AWAY).await?;
    let after_crash = worker.lives()?;
    wait_for("the plain reader to be back", WITHIN, async || if plain.receives() { Ok(()) } else { Err("not yet") })
        .await?;

    // The same while the worker is away, and the dead node is back when it asks for the second time or the third.
    worker.process.kill();
    tokio::time::sleep(Duration::from_millis(40 * AWAY as u64)).await;
    crashes.push(kill(&mut lab, &second)?);
    let third = wait_placed(&lab, &[&first, &second]).await?;
    spans.push(recorded_since(&lab, &third, crashes[1]).await?);
    let seen = worker.frames()?;
    worker.process.restart()?;
    restart(&mut lab, &second).await?;
    wait_for("frames", WITHIN, async || -> Result<()> {
        ensure!(worker.frames()? >= seen + 2 * AWAY, "few; its log ends:\n{}", worker.process.log_tail());
        Ok(())
    })
    .await?;
    worker.process.kill();
    let lives = worker.lives()?;
    let plain = plain.stop().await;
    let truth = truth.stop_when_level().await;

    let holes = holes(&truth.arrivals, &lives.frames)?;
    let lost: Vec<usize> = holes.iter().map(|hole| hole.frames).collect();
    ensure!(holes.len() == 2, "lost {lost:?}, told {:?}", lives.gaps);
    ensure!(lives.gaps.len() == 2 && after_crash.gaps.len() == 1, "{:?}", lives.gaps);
    for (((hole, gap), crash), span) in holes.iter().zip(&lives.gaps).zip(crashes).zip(spans) {
        hole.check(told(gap)?, crash, span)?;
    }
    // Of the time away before the second crash, all that was on the disk.
    let fetched = lives.recorded - after_crash.recorded;
    ensure!(fetched >= AWAY - NOT_WRITTEN, "{fetched} frames came from recordings after the second crash");
    // Cut with its source each time, and not told of anything.
    ensure!(plain.ends.len() >= 2, "{:?}", plain.ends);
    notes::ran(&format!(
        "an ingestion node killed twice, on {}: another had its camera {:?} ms later; {lost:?} frames lost and told as {:?}, \
         {} from recordings, also of the dead node; a plain reader was cut off {} times and came back",
        lab.server.kind,
        holes.iter().map(|hole| (hole.before - hole.after).as_millis()).collect::<Vec<_>>(),
        lives.gaps.iter().map(told).collect::<Result<Vec<_>>>()?,
        lives.recorded,
        plain.ends.len()
    ));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recording_with_a_hole_and_a_segment_cut_off_gives_all_else_on_mediamtx() {
    if let Some(server) = real("a recording with a hole").await {
        a_recording_has_a_hole(server).await.expect("it runs");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recording_with_a_hole_and_a_segment_cut_off_gives_all_else_on_the_stand_in() {
    a_recording_has_a_hole(stand_in()).await.expect("it runs");
}

/// MediaMTX is killed in the middle of a segment while the worker is away, and its camera is back when that is.
async fn a_recording_has_a_hole(server: ServerBinary) -> Result<()> {
    let _alone = lab::alone().await;
    let mut lab = Lab::builder().ingestion(1).distribution(1).pulled([CameraKind::H264]).server(server).start().await?;
    let node = NodeId::new("ingest-1")?;
    lab.pull(&node, "cam1").await?;
    lab.wait_owned("cam1", &node, PATIENCE).await?;
    let truth = lab.record_camera("cam1").await?;
    wait_for("the camera's frames", WITHIN, async || if truth.receives() { Ok(()) } else { Err("none") }).await?;
    let mut worker = WorkerProcess::start(&lab, "anpr-1", "cam1", None, true)?;
    more(&worker, AWAY).await?;

    worker.process.kill();
    tokio::time::sleep(Duration::from_millis(40 * AWAY as u64)).await;
    let server = &mut lab.node_mut(&node)?.server;
    server.process.kill();
    let crash = Instant::now();
    server.process.restart()?;
    server.wait_ready().await?;
    lab.pull(&node, "cam1").await?;
    let span = recorded_since(&lab, &node, crash).await?;
    worker.process.restart()?;
    more(&worker, 3 * AWAY).await?;
    worker.process.kill();
    let lives = worker.lives()?;
    let truth = truth.stop_when_level().await;

    let holes = holes(&truth.arrivals, &lives.frames)?;
    let told: Vec<i64> = lives.gaps.iter().map(told).collect::<Result<_>>()?;
    ensure!(holes.len() == 1 && told.len() == 1, "{} holes, told {told:?}", holes.len());
    holes[0].check(told[0], crash, span)?;
    ensure!(lives.recorded >= AWAY - NOT_WRITTEN, "{} frames came from the recording", lives.recorded);
    notes::ran(&format!(
        "a recording with a hole, on {}: {} frames lost, told as {told:?}; {} on both sides of it read",
        lab.server.kind, holes[0].frames, lives.recorded
    ));
    Ok(())
}

/// The old owner's drain waits for the worker, which gets its frames from both.
async fn the_owner_changes_while_the_worker_is_away() -> Result<()> {
    // Longer than anything here takes: it has to end by itself, when the worker is back.
    let settings = Settings { drain: "recording_grace = \"5m\"\n".to_owned(), ..Settings::default() };
    let builder = Lab::builder().ingestion(2).distribution(2).pulled([CameraKind::H264]).settings(settings);
    let lab = builder.server(either().await).start().await?;
    let (first, second) = (NodeId::new("ingest-1")?, NodeId::new("ingest-2")?);
    lab.pull(&first, "cam1").await?;
    lab.wait_owned("cam1", &first, PATIENCE).await?;
    let truth = lab.record_camera("cam1").await?;
    wait_for("the camera's frames", WITHIN, async || if truth.receives() { Ok(()) } else { Err("none") }).await?;
    let mut worker = WorkerProcess::start(&lab, "anpr-1", "cam1", None, true)?;
    more(&worker, AWAY).await?;

    worker.process.kill();
    let agent = &lab.node(&first)?.agent;
    let view = drain::order(agent, "test").await?;
    lab.pull(&second, "cam1").await?;
    ensure!(drain::wait_phase(agent, &view.drain, Phase::Cleanup, PATIENCE).await?, "it waited for nobody");
    wait_for("the drain to wait for the worker", PATIENCE, async || -> Result<()> {
        let view = agent.drain_view().await?.context("no drain")?;
        ensure!(view.record.is_none(), "it has ended: {:?}", view.record);
        ensure!(view.waiting_for.iter().any(|why| why.contains("recording")), "{:?}", view.waiting_for);
        Ok(())
    })
    .await?;
    worker.process.restart()?;
    more(&worker, 2 * AWAY).await?;
    let record = drain::follow(agent, &view.drain, WITHIN, |_| {}).await?;
    ensure!(record.outcome == DrainOutcome::Completed, "{record:#?}");
    worker.process.kill();
    let lives = worker.lives()?;
    let truth = truth.stop_when_level().await;
    ensure!(holes(&truth.arrivals, &lives.frames)?.is_empty() && lives.gaps.is_empty(), "told {:?}", lives.gaps);
    ensure!(lives.recorded > 0, "nothing came from a recording");
    Ok(())
}

/// Waits until the camera is where it is placed among the nodes that live, as each of these sees it.
async fn wait_placed(lab: &Lab, dead: &[&NodeId]) -> Result<NodeId> {
    let lives = |node: &&Node| !dead.contains(&&node.id);
    let ids: BTreeSet<NodeId> = lab.of_role(Role::Ingestion).filter(lives).map(|node| node.id.clone()).collect();
    let placed = placement::place(&[StreamName::new("cam1")?], &ids);
    let home = placed.into_values().next().context("it is placed somewhere")?;
    for node in lab.nodes.iter().filter(lives) {
        wait_for(format!("{} to see cam1 at {home} alone", node.id), TAKEN_WITHIN, async || -> Result<()> {
            let streams = node.agent.streams().await?;
            let delivers = |view: &&StreamView| {
                view.stream.name.as_str() == "cam1" && view.stream.flowing && ids.contains(&view.node)
            };
            let owners: Vec<&NodeId> = streams.iter().filter(delivers).map(|view| &view.node).collect();
            ensure!(owners == [&home], "{owners:?}");
            Ok(())
        })
        .await?;
    }
    Ok(home)
}

/// When the recording begins that this node makes of the camera since a crash.
async fn recorded_since(lab: &Lab, node: &NodeId, crash: Instant) -> Result<Instant> {
    let mut from = None;
    wait_for(format!("a recording at {node}"), WITHIN, async || -> Result<()> {
        let url = format!("{}/v1/recordings/cam1", lab.node(node)?.agent.url());
        let answer = agent::client().get(url).bearer_auth(&lab.token).send().await?.error_for_status()?;
        let view: RecordingsView = serde_json::from_slice(&answer.bytes().await?)?;
        let crashed = SystemTime::now().duration_since(UNIX_EPOCH)?.saturating_sub(crash.elapsed());
        let started = |span: &RecordedSpan| Duration::from_millis(span.start.0);
        let of_node = view.spans.iter().filter(|span| span.node == *node);
        let newest = of_node.map(started).filter(|start| *start > crashed).min();
        let passed = newest.with_context(|| format!("{view:?}"))?.saturating_sub(crashed);
        from = Some(crash + passed);
        Ok(())
    })
    .await?;
    from.context("found")
}

/// When.
fn kill(lab: &mut Lab, node: &NodeId) -> Result<Instant> {
    let node = lab.node_mut(node)?;
    node.server.process.kill();
    node.agent.process.kill();
    Ok(Instant::now())
}

async fn restart(lab: &mut Lab, id: &NodeId) -> Result<()> {
    let node = lab.node_mut(id)?;
    node.server.process.restart()?;
    node.server.wait_ready().await?;
    node.restart_agent().await
}

/// Frames in a row of the camera that a worker lacks.
struct Hole {
    frames: usize,
    /// When the camera's own reader had the frame before, and the frame behind.
    after: Instant,
    before: Instant,
}

impl Hole {
    /// It is told with its extent, begins where the dead server's recording ends, and ends where the next one begins.
    fn check(&self, told: i64, crash: Instant, span: Instant) -> Result<()> {
        ensure!((told - self.frames as i64).abs() <= BY_CLOCK, "{} frames are lost, told are {told}", self.frames);
        let unwritten = Duration::from_millis(40 * NOT_WRITTEN as u64);
        ensure!(self.after + unwritten >= crash, "it lacks {:?} before the crash", crash - self.after);
        ensure!(self.before <= span + LATE, "it lacks {:?} of a recording", self.before - span);
        Ok(())
    }
}

/// All of them between the first frame and the last that the worker has; also that it has the others in order, and once.
fn holes(truth: &[Arrival], frames: &[Arrival]) -> Result<Vec<Hole>> {
    let has: HashSet<u64> = frames.iter().map(|frame| frame.hash).collect();
    let is_there = |frame: &Arrival| has.contains(&frame.hash);
    let first = truth.iter().position(is_there).context("nothing in common")?;
    let last = truth.iter().rposition(is_there).context("nothing in common")?;
    let sent = &truth[first..=last];
    let kept: Vec<u64> = sent.iter().filter(|frame| is_there(frame)).map(|frame| frame.hash).collect();
    let got: Vec<u64> = frames.iter().map(|frame| frame.hash).collect();
    ensure!(kept == got, "{} frames of the camera, {} at the worker, or in another order", kept.len(), got.len());
    let (mut holes, mut at) = (Vec::new(), 0);
    for run in sent.chunk_by(|a, b| is_there(a) == is_there(b)) {
        if !is_there(&run[0]) {
            let (after, before) = (sent[at - 1].at, sent[at + run.len()].at);
            holes.push(Hole { frames: run.len(), after, before });
        }
        at += run.len();
    }
    Ok(holes)
}

/// Frames that a gap is as long as.
fn told(gap: &Gap) -> Result<i64> {
    let after = gap.after.context("a gap with no frame before it")?;
    Ok((gap.before - after + INTERVAL / 2) / INTERVAL - 1)
}
