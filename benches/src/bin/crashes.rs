//! SIGKILL of distribution nodes, and of workers, again and again: frames lost, and how long workers waited.
//!
//! On the real server where there is one, else on the stand-in. Plain readers that reconnect at once meet the same
//! crashes; and at the node that a second leg reads from, a plain reader gets the same frames, so that a busy machine is
//! told from a slow worker. `MTXFLEET_BENCH_CRASHES` sets how many of each (50).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtxfleet_benches::Figure;
use mtxfleet_tests::compare::{self, Arrival, Comparison};
use mtxfleet_tests::lab::Lab;
use mtxfleet_tests::lab::audience::{Audience, PerCamera, ReaderResult};
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::node::Settings;
use mtxfleet_tests::lab::reader::ReconnectingReader;
use mtxfleet_tests::lab::wait::{PATIENCE, wait_for};
use mtxfleet_tests::lab::worker_process::WorkerProcess;
use mtxfleet_tests::server_binary::{self, ServerBinary};
use mtxfleet_wire::{NodeId, Role};

const CRASHES: usize = 50;
const WITHIN: Duration = Duration::from_secs(60);

/// Frames that come so long before a crash and after it are touched by it.
const BEFORE: Duration = Duration::from_millis(200);
const AFTER: Duration = Duration::from_secs(3);

/// Frames that every worker gets between two crashes.
const AT_REST: usize = 50;

/// Beyond the camera's interval, with one leg and a recording.
const ONE_LEG_PAUSE_MS: f64 = 2_000.0;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let count = match std::env::var("MTXFLEET_BENCH_CRASHES") {
        Ok(text) => text.parse().context("MTXFLEET_BENCH_CRASHES is no number")?,
        Err(_) => CRASHES,
    };
    ensure!(count > 0, "MTXFLEET_BENCH_CRASHES is 0: nothing to measure");
    let server = tokio::task::spawn_blocking(server_binary::find).await??;
    eprintln!("on {}", server.kind);
    let mut missed = Vec::new();
    missed.extend(one_leg(server.clone(), count).await?);
    missed.extend(two_legs(server.clone(), count).await?);
    missed.extend(workers(server, count).await?);
    ensure!(missed.is_empty(), "{}", missed.join("\n"));
    Ok(())
}

/// Kills server and agent of a node, and brings both back once readers have gone on.
async fn crash(lab: &mut Lab, node: &NodeId, after: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    let there = lab.node_mut(node)?;
    there.server.process.kill();
    there.agent.process.kill();
    after().await?;
    let there = lab.node_mut(node)?;
    there.server.process.restart()?;
    there.server.wait_ready().await?;
    there.restart_agent().await?;
    lab.wait_in_service(node, PATIENCE).await
}

async fn one_leg(server: ServerBinary, count: usize) -> Result<Vec<String>> {
    let builder = Lab::builder().cameras(CameraKind::DEMO).settings(Settings::demo()).server(server);
    let mut lab = builder.start().await?;
    let audience = Audience::gather(&lab, PerCamera { workers: 1, controls: 1, viewers: 0 }).await?;
    audience.wait_for_more(AT_REST, WITHIN).await?;
    let mut met = 0;
    for number in 1..=count {
        let (busiest, legs) = lab.legs().await?.swap_remove(0);
        eprintln!("one leg: crash {number} of {count}, {busiest}: {legs} legs");
        met += legs;
        crash(&mut lab, &busiest, async || audience.wait_for_more(AT_REST, WITHIN).await).await?;
    }
    let results = audience.finish().await?;
    let crashes = format!("{count} SIGKILLs of a distribution node, one leg and a recording");
    let peer = "plain reader that reconnects at once, same crashes";
    let sum =
        |rows: &[ReaderResult], of: fn(&Comparison) -> u64| rows.iter().map(|r| of(&r.frames)).sum::<u64>() as f64;
    let most = |rows: &[ReaderResult], of: fn(&Comparison) -> u64| {
        rows.iter().map(|r| of(&r.frames)).max().unwrap_or_default() as f64
    };
    Figure::new(format!("legs killed, {crashes}"), met as f64, "legs", "none").print();
    Figure::new(format!("frames lost by workers, {crashes}"), sum(&results.workers, |f| f.lost), "frames", "0")
        .beside(peer, sum(&results.control, |f| f.lost))
        .print();
    let wrong = |f: &Comparison| f.duplicated + f.out_of_order + f.foreign;
    Figure::new(
        format!("frames twice, out of order or damaged, {crashes}"),
        sum(&results.workers, wrong),
        "frames",
        "0",
    )
    .print();
    let pause = most(&results.workers, |f| f.longest_delay_ms);
    let what = format!("longest extra pause of a worker, {crashes}");
    Figure::new(&what, pause, "ms", format!("at most {ONE_LEG_PAUSE_MS}")).print();
    Figure::new(
        format!("longest time between two frames at a worker, {crashes}"),
        most(&results.workers, |f| f.longest_pause_ms),
        "ms",
        format!("none; the cameras' own longest was {} ms", most(&results.workers, |f| f.camera_pause_ms)),
    )
    .beside(peer, most(&results.control, |f| f.longest_pause_ms))
    .print();
    let mut missed: Vec<String> =
        results.imperfect().map(|row| format!("{}: {:?} {:?}", row.worker, row.frames, row.discontinuities)).collect();
    if results.lost_by_control() == 0 {
        missed.push("the plain readers lost nothing either, so this proves nothing".to_owned());
    }
    if pause > ONE_LEG_PAUSE_MS {
        missed.push(format!("{what}: {pause} ms"));
    }
    Ok(missed)
}

async fn two_legs(server: ServerBinary, count: usize) -> Result<Vec<String>> {
    let mut lab = Lab::builder().cameras([CameraKind::H264]).server(server).start().await?;
    let truth = lab.record_camera("cam1").await?;
    wait_for("the camera's frames", WITHIN, async || if truth.receives() { Ok(()) } else { Err("none") }).await?;
    let worker = lab.redundant_worker("anpr-1", "cam1").await?;
    let at_nodes: Vec<(NodeId, ReconnectingReader)> = lab
        .of_role(Role::Distribution)
        .map(|node| (node.id.clone(), ReconnectingReader::start(&format!("rtsp://{}/cam1", node.server.at.rtsp))))
        .collect();
    let mut killed = Vec::new();
    for number in 1..=count {
        let mut legs = Vec::new();
        wait_for("two legs at two nodes", WITHIN, async || -> Result<()> {
            legs = lab.legs_of("cam1").await?;
            ensure!(legs.len() == 2 && legs.iter().all(|(_, count)| *count == 1), "{legs:?}");
            Ok(())
        })
        .await?;
        let (node, _) = legs.swap_remove(number % 2);
        let survivor = legs[0].0.clone();
        let reads = &at_nodes.iter().find(|(id, _)| *id == survivor).context("a node of the lab")?.1;
        wait_for(
            "the plain reader at the other node",
            WITHIN,
            async || if reads.receives() { Ok(()) } else { Err("none") },
        )
        .await?;
        eprintln!("two legs: crash {number} of {count}, {node}; {survivor} goes on");
        killed.push((Instant::now(), survivor));
        let wanted = worker.frames() + AT_REST;
        let more = async || if worker.frames() >= wanted { Ok(()) } else { Err("few frames") };
        crash(&mut lab, &node, async || wait_for("frames", WITHIN, more).await).await?;
    }
    let recording = worker.stop().await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let truth = truth.stop().await;
    let mut seen: HashMap<NodeId, HashMap<u64, Instant>> = HashMap::new();
    for (node, reader) in at_nodes {
        seen.insert(node, by_content(&reader.stop().await.arrivals));
    }
    let found = compare::compare(&truth.arrivals, &recording.arrivals, recording.ended)?;
    let (machine, own) = lateness(&by_content(&truth.arrivals), &seen, &recording.arrivals, &killed);
    let crashes = format!("{count} SIGKILLs of a distribution node, two legs");
    Figure::new(format!("frames lost by a worker, {crashes}"), found.lost as f64, "frames", "0").print();
    let allowed = 2 * found.frame_interval_ms + 50;
    let goal = format!("at most {allowed} ms");
    let name = format!("longest extra pause of a worker, {crashes}");
    Figure::new(name, found.longest_delay_ms as f64, "ms", &goal)
        .beside("plain reader at the node that went on, same frames", machine)
        .print();
    Figure::new(format!("the same, beyond that plain reader, {crashes}"), own, "ms", goal).print();
    let mut missed = Vec::new();
    if !found.is_perfect() {
        missed.push(format!("two legs: {found:?} {:?}", recording.discontinuities));
    }
    // A machine that held the plain reader up as well says nothing of the legs.
    if own > allowed as f64 {
        missed.push(format!("two legs: {own:.0} ms later than a plain reader"));
    }
    Ok(missed)
}

fn by_content(arrivals: &[Arrival]) -> HashMap<u64, Instant> {
    arrivals.iter().map(|frame| (frame.hash, frame.at)).collect()
}

/// Around each crash, in ms: how much later than usual a frame came at most at a plain reader of the node that the other
/// leg reads from, and how much later than there it came at the worker.
fn lateness(
    truth: &HashMap<u64, Instant>,
    seen: &HashMap<NodeId, HashMap<u64, Instant>>,
    worker: &[Arrival],
    killed: &[(Instant, NodeId)],
) -> (f64, f64) {
    let ms = |later: Instant, earlier: Instant| later.saturating_duration_since(earlier).as_secs_f64() * 1000.0;
    let mut at_node = Vec::new();
    let mut own: f64 = 0.0;
    for (when, survivor) in killed {
        let touched = |frame: &&Arrival| frame.at + BEFORE >= *when && frame.at <= *when + AFTER;
        for frame in worker.iter().filter(touched) {
            let Some(there) = seen.get(survivor).and_then(|seen| seen.get(&frame.hash)) else { continue };
            own = own.max(ms(frame.at, *there));
            at_node.extend(truth.get(&frame.hash).map(|sent| ms(*there, *sent)));
        }
    }
    at_node.sort_by(f64::total_cmp);
    let usual = at_node.get(at_node.len() / 2).copied().unwrap_or_default();
    (at_node.last().map_or(0.0, |longest| longest - usual), own)
}

async fn workers(server: ServerBinary, count: usize) -> Result<Vec<String>> {
    let lab = Lab::builder().cameras([CameraKind::H264WithBFrames]).server(server).start().await?;
    let truth = lab.record_camera("cam1").await?;
    wait_for("the camera's frames", WITHIN, async || if truth.receives() { Ok(()) } else { Err("none") }).await?;
    let mut worker = WorkerProcess::start(&lab, "anpr-1", "cam1", None, true)?;
    // FNV of the number: as good as random here, and the same in every run.
    let random = |number: usize, below: u64| mtxfleet_wire::fnv1a(&number.to_le_bytes()) % below;
    let more = async |worker: &WorkerProcess, count: usize| -> Result<()> {
        let wanted = worker.frames()? + count;
        wait_for("frames", WITHIN, async || -> Result<()> {
            ensure!(worker.frames()? >= wanted, "few");
            Ok(())
        })
        .await
    };
    for number in 1..=count {
        more(&worker, 1 + random(number, 80) as usize).await?;
        worker.process.kill();
        let pause = random(number + 1000, 3000);
        eprintln!("worker: kill {number} of {count}, away for {pause} ms");
        tokio::time::sleep(Duration::from_millis(pause)).await;
        worker.process.restart()?;
    }
    more(&worker, AT_REST).await?;
    worker.process.kill();
    let (lives, ended) = (worker.lives()?, Instant::now());
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let truth: Vec<Arrival> = truth.stop().await.arrivals;
    let found = compare::compare(&truth, &lives.frames, ended)?;
    let kills = format!("a worker with checkpoints killed {count} times at random and started again");
    Figure::new(format!("frames lost, {kills}"), found.lost as f64, "frames", "0").print();
    Figure::new(format!("frames twice without a mark, {kills}"), found.duplicated as f64, "frames", "0").print();
    Figure::new(
        format!("frames again after the last checkpoint, marked, {kills}"),
        lives.repeated as f64,
        "frames",
        "none",
    )
    .print();
    Figure::new(format!("frames from recordings, {kills}"), lives.recorded as f64, "frames", "none").print();
    let perfect = found.is_perfect() && lives.gaps.is_empty() && lives.errors.is_empty();
    Ok(if perfect { Vec::new() } else { vec![format!("{found:?} {:?} {:?}", lives.gaps, lives.errors)] })
}
