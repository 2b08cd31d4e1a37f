//! Many planned handovers in a short time: workers that are ordered from node to node by an agent of their own, on
//! real servers, of stamped cameras.
//!
//! ```text
//!  stamped cameras --> ingestion server --> delay 0, 90, .. 450 ms --> a distribution server each --> workers
//! ```
//!
//! The delays are the skews that handovers meet. Every frame is known by its stamp, so nothing that the worker library
//! counts takes part in the result.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use mtxfleet_ai_client::{Data, Item, LegId, Stream, StreamConfig};
use mtxfleet_wire::{
    Candidate, EventKind, LegNotice, MoveOrder, MoveReason, NodeId, StreamName, WorkerId, WorkerReport,
};
use tokio::sync::watch;

use crate::compare::{Arrival, Comparison, compare};
use crate::delay_line::DelayLine;
use crate::lab::address::Loopback;
use crate::lab::process::{Process, Recipe};
use crate::lab::wait::{PATIENCE, wait_for};
use crate::plain_reader::PlainReader;
use crate::scripted_agent::{Agent, TOKEN, back, notice};
use crate::server_binary::ServerBinary;
use crate::stamped::{Begin, INTERVAL, Kind, Sent, StampedCamera, counter, counter_of_picture};

mod seen;

pub use seen::{Move, Seen, Tally};

/// How far each distribution server lies behind the ingestion server.
const DELAYS_MS: [u64; 6] = [0, 450, 90, 360, 180, 270];

/// Pictures that a worker gets between two moves, at least; up to as many again by its own count.
const AT_REST: usize = 5;

/// Cameras begin to count packets this far before the end of the numbers, each at another place, so that they wrap
/// while workers move.
const BEFORE_WRAP: u16 = 1_500;

/// What is to be done.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Cameras, with a worker each.
    pub streams: usize,
    /// Of all workers together.
    pub moves: usize,
    /// Of each of two plain readers that reconnect at once.
    pub control_moves: usize,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    pub tally: Tally,
    pub moves: Vec<Move>,
    /// What plain readers made of the same servers.
    pub control: Vec<Comparison>,
    pub took: Duration,
}

/// The servers and cameras.
struct Rig {
    nodes: Vec<SocketAddr>,
    cameras: Vec<StampedCamera>,
    addresses: Loopback,
    // Dropped last.
    _lines: Vec<DelayLine>,
    _servers: Vec<Process>,
    _logs: tempfile::TempDir,
}

/// Carries out the plan.
///
/// # Errors
/// When a part does not start, a worker does not move in [`PATIENCE`], or a stream ends.
pub async fn run(binary: &ServerBinary, plan: Plan) -> Result<Outcome> {
    // Another part of the process may have installed it; reqwest needs one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut rig = Rig::start(binary, plan.streams).await?;
    let began = Instant::now();
    let left = AtomicUsize::new(plan.moves);
    let mut workers = Vec::new();
    for (number, camera) in rig.cameras.iter().enumerate() {
        let agent = Agent::start(&mut rig.addresses).await?;
        workers.push(work(number, &left, agent, &rig.nodes, &camera.sent));
    }
    let plain_readers = rig.cameras.iter().enumerate().take(2);
    let controls = plain_readers.map(|(number, camera)| plain(number, plan.control_moves, &rig.nodes, &camera.sent));
    let (done, control) = tokio::try_join!(try_join_all(workers), try_join_all(controls))?;
    let (mut tally, mut moves) = (Tally::default(), Vec::new());
    for (of_worker, its_moves) in done {
        tally.add(of_worker);
        moves.extend(its_moves);
    }
    Ok(Outcome { tally, moves, control, took: began.elapsed() })
}

impl Rig {
    async fn start(binary: &ServerBinary, streams: usize) -> Result<Self> {
        let mut addresses = Loopback::next();
        let logs = tempfile::tempdir()?;
        let (mut servers, mut lines, mut nodes) = (Vec::new(), Vec::new(), Vec::new());
        let ingestion = addresses.port()?;
        let (server, api) = serve(binary, "ingestion", ingestion, "  all_others:\n", &mut addresses, logs.path())?;
        servers.push(server);
        wait_for_paths(api, 0).await?;
        let mut cameras = Vec::new();
        for number in 0..streams {
            let wraps_after = BEFORE_WRAP.wrapping_mul(number as u16 + 1);
            let begin = Begin {
                sequence: 0_u16.wrapping_sub(wraps_after),
                timestamp: 0_u32.wrapping_sub(u32::from(wraps_after) * 900),
            };
            cameras.push(StampedCamera::start(ingestion, &name(number), Kind::nth(number), begin).await?);
        }
        for (number, delay) in DELAYS_MS.into_iter().enumerate() {
            let line = DelayLine::start(addresses.port()?, ingestion, Duration::from_millis(delay)).await?;
            let source =
                |n| format!("  {}:\n    source: rtsp://{}/{0}\n    rtspTransport: tcp\n", name(n), line.address);
            let paths: String = (0..streams).map(source).collect();
            let rtsp = addresses.port()?;
            let (server, api) = serve(binary, &node(number), rtsp, &paths, &mut addresses, logs.path())?;
            servers.push(server);
            nodes.push(rtsp);
            lines.push(line);
            wait_for_paths(api, streams).await?;
        }
        Ok(Self { nodes, cameras, addresses, _lines: lines, _servers: servers, _logs: logs })
    }
}

fn name(number: usize) -> String {
    format!("cam{number}")
}

fn node(number: usize) -> String {
    format!("node-{number}")
}

/// A server with RTSP and API and nothing else.
fn serve(
    binary: &ServerBinary,
    name: &str,
    rtsp: SocketAddr,
    paths: &str,
    addresses: &mut Loopback,
    logs: &std::path::Path,
) -> Result<(Process, SocketAddr)> {
    let api = addresses.port()?;
    let text = format!(
        "logLevel: info\napi: yes\napiAddress: {api}\nrtsp: yes\nrtspTransports: [tcp]\nrtspAddress: {rtsp}\n\
         rtmp: no\nhls: no\nwebrtc: no\nsrt: no\nmoq: no\npaths:\n{paths}"
    );
    let file = logs.join(format!("{name}.yml"));
    std::fs::write(&file, text)?;
    Ok((Recipe::new(name, &binary.path).args([file.to_string_lossy()]).start(logs)?, api))
}

async fn wait_for_paths(api: SocketAddr, count: usize) -> Result<()> {
    let url = format!("http://{api}/v3/paths/list?itemsPerPage=1000");
    wait_for(format!("{count} streams at a server"), PATIENCE, async || -> Result<()> {
        let list: serde_json::Value = reqwest::get(&url).await?.error_for_status()?.json().await?;
        let items = list["items"].as_array().context("no items")?;
        let there = items.iter().filter(|item| item["ready"] == true).count();
        ensure!(there >= count, "{there}");
        Ok(())
    })
    .await
}

/// One worker: moves there and elsewhere, and is held against what its camera sent.
async fn work(
    number: usize,
    left: &AtomicUsize,
    mut agent: Agent,
    nodes: &[SocketAddr],
    sent: &Sent,
) -> Result<(Tally, Vec<Move>)> {
    let (stream, worker) = (name(number), format!("w-{number}"));
    let mut at = number % nodes.len();
    let config = StreamConfig {
        agents: vec![agent.url.clone()],
        worker_token: Some(TOKEN.into()),
        open_timeout: PATIENCE,
        ..StreamConfig::new(&stream, &worker, format!("rtsp://{}", nodes[at]), "lab")
    };
    let mut frames = Stream::open(config).await?;
    let mut status = frames.watch();
    let (progress, mut seen_so_far) = watch::channel(0_usize);
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let reading = tokio::spawn(async move {
        let mut seen = Seen::default();
        loop {
            tokio::select! {
                _ = &mut stopped => break,
                item = frames.next() => match item {
                    Some(item) => take(&mut seen, item?),
                    None => break,
                },
            }
            progress.send_replace(seen.pictures.len());
        }
        let counters = frames.close().await;
        anyhow::Ok((seen, counters))
    });
    agent.wait_for_listeners(1).await?;
    let mut done = Vec::new();
    while left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
        let n = done.len();
        let until = *seen_so_far.borrow() + AT_REST + (n * 7 + number * 3) % (AT_REST + 1);
        tokio::time::timeout(PATIENCE, seen_so_far.wait_for(|now| *now >= until)).await.context("no frames")??;
        let to = (at + 1 + (n + number) % (nodes.len() - 1)) % nodes.len();
        let leg = status.borrow().leg.clone().context("no leg delivers")?;
        let order = order(&format!("{worker}-{n}"), (at, to), nodes, (&stream, &worker), &leg);
        let ordered = Instant::now();
        agent.say(&node(at), notice(&order));
        agent.say(&node(at), EventKind::DrainMove(order));
        let other = |now: &mtxfleet_ai_client::Status| now.leg.as_ref().is_some_and(|now| *now != leg);
        tokio::time::timeout(PATIENCE, status.wait_for(other)).await.context("no other leg")??;
        let reported = loop {
            match agent.report().await? {
                WorkerReport::Moved { extra_pause_ms, .. } => break Duration::from_millis(extra_pause_ms),
                WorkerReport::Acknowledged { .. } => {}
                other => anyhow::bail!("{worker} reports {other:?}"),
            }
        };
        agent.say(&node(at), back());
        let delay = |node: usize| Duration::from_millis(DELAYS_MS[node]);
        let skew = delay(to).saturating_sub(delay(at));
        done.push(Move { ordered, ended: Instant::now(), skew, pause: Duration::ZERO, reported });
        at = to;
    }
    let _ = stop.send(());
    let (seen, counters) = reading.await??;
    let sent = sent.pictures();
    done.iter_mut().for_each(|moved| moved.pause = seen.pause(moved, &sent));
    Ok((Tally { handovers: counters.handovers, unproven: counters.unproven_handovers, ..seen.tally() }, done))
}

fn take(seen: &mut Seen, item: Item) {
    let frame = match item {
        Item::Frame(frame) => frame,
        Item::Discontinuity(_) => return seen.gaps += 1,
    };
    match &frame.data {
        Data::AnnexB(bytes) => seen.pictures.push((counter_of_picture(bytes), Instant::now())),
        Data::Payloads(pieces) => seen.others.entry(frame.track).or_default().push(counter(&pieces.concat())),
    }
}

fn order(
    drain: &str,
    (from, to): (usize, usize),
    nodes: &[SocketAddr],
    (stream, worker): (&str, &str),
    leg: &LegId,
) -> MoveOrder {
    let id = |number| NodeId::new(node(number)).expect("valid");
    let legs = vec![LegNotice {
        leg: leg.clone(),
        worker: WorkerId::new(worker).expect("valid"),
        stream: StreamName::new(stream).expect("valid"),
        candidates: vec![Candidate { node: id(to), rtsp: nodes[to].to_string(), warm: true }],
        reason: MoveReason::NodeLeaves,
    }];
    MoveOrder { drain: drain.parse().expect("valid"), node: id(from), legs }
}

/// A plain reader that is sent from node to node: it closes its connection and opens the next at once.
async fn plain(number: usize, moves: usize, nodes: &[SocketAddr], sent: &Sent) -> Result<Comparison> {
    let mut all = Vec::new();
    for n in 0..=moves {
        let url = format!("rtsp://{}/{}", nodes[(number + n) % nodes.len()], name(number));
        let reader = PlainReader::start(&url);
        ensure!(reader.wait_for(4 * AT_REST, PATIENCE).await, "the control reads nothing: {:?}", reader.ended());
        all.extend(reader.stop().await.into_iter().map(Arrival::from));
    }
    let ended = Instant::now();
    // What it can have seen last was sent by now.
    tokio::time::sleep(2 * INTERVAL).await;
    Ok(compare(&sent.pictures(), &all, ended)?)
}
