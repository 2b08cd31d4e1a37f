//! Viewers in a browser, on MediaMTX's own pages through HAProxy: what a drain, a crash, a Redis outage and a node that
//! comes are to them; and what an ingestion node that drains or crashes is to them, to a worker and to its camera.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtxfleet_tests::lab::agent::client;
use mtxfleet_tests::lab::browser::{Seen, Viewer};
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::node::Settings;
use mtxfleet_tests::lab::pulled_camera::Publisher;
use mtxfleet_tests::lab::redis::Keeps;
use mtxfleet_tests::lab::wait::{PATIENCE, wait_for};
use mtxfleet_tests::lab::{self, Lab, drain};
use mtxfleet_tests::server_binary::{self, ServerBinary};
use mtxfleet_tests::{compare, notes};
use mtxfleet_wire::{DrainOutcome, NodeId, Role};

const DRAIN_WITHIN: Duration = Duration::from_secs(60);

/// How long they are watched where nothing is to happen to them.
const QUIET: Duration = Duration::from_secs(3);

/// Seconds; a browser on a busy machine may take a breath.
const STANDSTILL: f64 = 3.0;

/// The lab's drains disconnect viewers in the last second of the viewers' window, of 6 s.
const DRAIN: &str = "viewer_window = \"6s\"\nviewer_cut = \"1s\"\n";

/// Pictures of 3 s.
const STEADY: u64 = 75;

/// From the order on.
const UNTOUCHED: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn browsers_are_cut_once_by_a_drain_and_come_back_through_the_same_url_on_mediamtx() {
    if let Some(server) = real("HLS and WebRTC viewers in a browser").await {
        browsers_watch(server).await.expect("they watch");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ingestion_node_that_goes_cuts_all_once_and_they_come_back_through_the_same_url_on_mediamtx() {
    if let Some(server) = real("viewers in a browser of a camera whose ingestion node goes").await {
        an_ingestion_node_goes(server).await.expect("they watch");
    }
}

async fn real(what: &str) -> Option<ServerBinary> {
    if let Some(missing) = Viewer::missing() {
        notes::skipped(what, &missing);
        return None;
    }
    let found = tokio::task::spawn_blocking(server_binary::find_real).await.expect("no panic");
    let server = found.expect("MEDIAMTX_BIN works, when it is set");
    let absent = |reasons: Vec<String>| {
        notes::skipped(what, &format!("needs MediaMTX itself: {}", reasons.join("; ")));
    };
    server.map_err(absent).ok()
}

async fn browsers_watch(server: ServerBinary) -> Result<()> {
    let _alone = lab::alone().await;
    let settings = Settings { drain: DRAIN.to_owned(), ..Settings::demo() };
    let builder = Lab::builder().cameras([CameraKind::H264]).settings(settings).redis(Some(Keeps::Nothing));
    let mut lab = builder.server(server).web().start().await?;
    let viewers = watch(&lab).await?;
    let plain = lab.plain_reader("cam1");
    wait_for("the plain reader", PATIENCE, async || if plain.receives() { Ok(()) } else { Err("nothing") }).await?;

    let mut before = Vec::new();
    for (kind, _) in &viewers {
        before.push(sessions(&lab, *kind).await?);
    }
    lab.redis.as_mut().context("there")?.process.kill();
    let until = Instant::now() + QUIET;
    while Instant::now() < until {
        for (kind, viewer) in &viewers {
            let seen = viewer.look().await?;
            ensure!(seen.still < STANDSTILL, "{kind:?} without Redis: {seen:?}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    lab.redis.as_mut().context("there")?.restart().await?;
    for node in &lab.nodes {
        wait_for(format!("{} to reach Redis", node.id), PATIENCE, async || -> Result<()> {
            ensure!(node.agent.member().await?.load.is_some_and(|load| load.redis), "not yet");
            Ok(())
        })
        .await?;
    }
    let mut idle = None;
    for node in lab.of_role(Role::Distribution) {
        let reader = lab.balancer.statistics().reader_backend(&node.id).await?.current > 0;
        if !reader && !before.iter().flatten().any(|session| session.node == node.id) {
            idle = Some(node.id.clone());
        }
    }
    let idle = idle.context("every node serves somebody")?;
    drained_and_back(&lab, &idle).await?;
    for ((kind, _), before) in viewers.iter().zip(&before) {
        ensure!(sessions(&lab, *kind).await? == *before, "{kind:?}: cut by what is not its business");
    }
    ensure!(plain.times_cut_off() == 0, "the plain reader was cut off");
    notes::ran(
        "browsers and a plain reader: not touched by a Redis outage, nor by a node that goes and comes elsewhere",
    );

    for (kind, viewer) in &viewers {
        let (was, Seen { cuts, url, .. }) = settled(&lab, *kind, viewer).await?;
        let (ordered, cuts) = (Instant::now(), cuts.len());
        let agent = &lab.node(&was.node)?.agent;
        let order = drain::order(agent, "test").await?;
        while ordered.elapsed() < UNTOUCHED {
            let now = sessions(&lab, *kind).await?;
            ensure!(now == [was.clone()], "{kind:?} has {now:?} {:?} after the order, not {was:?}", ordered.elapsed());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let record = drain::follow(agent, &order.drain, DRAIN_WITHIN, |_| {}).await?;
        ensure!(record.outcome == DrainOutcome::Completed, "{record:#?}");
        let seen = comes_back(&lab, *kind, viewer, |now| now.node != was.node)
            .await
            .with_context(|| format!("{kind:?}, after a drain"))?;
        ensure!(seen.url == url, "{kind:?}: {seen:?}");
        agent.undrain().await?.map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
        lab.wait_in_service(&was.node, PATIENCE).await?;
        let stood = stood_still(&seen, cuts);
        notes::ran(&format!(
            "a browser on {kind:?}, its node drained: cut once, back through the same URL; stood still {stood}"
        ));
    }
    for (kind, viewer) in &viewers {
        let (was, Seen { cuts, .. }) = settled(&lab, *kind, viewer).await?;
        let cuts = cuts.len();
        let node = lab.node_mut(&was.node)?;
        node.server.process.kill();
        node.agent.process.kill();
        let seen = comes_back(&lab, *kind, viewer, |now| now.node != was.node)
            .await
            .with_context(|| format!("{kind:?}, after a crash"))?;
        notes::ran(&format!(
            "a browser on {kind:?}, its node killed: back by itself; stood still {}",
            stood_still(&seen, cuts)
        ));
        // The other one's crash has to leave a node.
        let node = lab.node_mut(&was.node)?;
        node.server.process.restart()?;
        node.restart_agent().await?;
        lab.wait_in_service(&was.node, DRAIN_WITHIN).await?;
    }
    Ok(())
}

/// The camera publishes, and the distribution node redirects its MediaMTX to the owner.
async fn an_ingestion_node_goes(server: ServerBinary) -> Result<()> {
    let _alone = lab::alone().await;
    let builder = Lab::builder().ingestion(2).distribution(1).pulled([CameraKind::H264]).settings(Settings::demo());
    let mut lab = builder.server(server).web().start().await?;
    let _camera = Publisher::start(&lab.pulled[0], lab.balancer.ingest, &lab.logs())?;
    let first = owner_beside(&lab, None).await?;
    let truth = lab.record_camera("cam1").await?;
    let viewers = watch(&lab).await?;
    let worker = lab.worker("worker", "cam1").await?;
    let receives = async || if truth.receives() && worker.frames() > 0 { Ok(()) } else { Err("nothing") };
    wait_for("the worker", PATIENCE, receives).await?;

    let was = all_settled(&lab, &viewers).await?;
    let record = drain::run(&lab.node(&first)?.agent, "test", DRAIN_WITHIN, |_| {}).await?;
    ensure!(record.outcome == DrainOutcome::Completed, "{record:#?}");
    let second = owner_beside(&lab, Some(&first)).await?;
    all_come_back(&lab, &viewers, &was, "drained").await?;
    lab.node(&first)?.agent.undrain().await?.map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
    lab.wait_in_service(&first, PATIENCE).await?;

    let was = all_settled(&lab, &viewers).await?;
    let seen = worker.frames();
    let node = lab.node_mut(&second)?;
    node.server.process.kill();
    node.agent.process.kill();
    owner_beside(&lab, Some(&second)).await?;
    all_come_back(&lab, &viewers, &was, "killed").await?;
    let goes_on = async || if worker.frames() > seen + STEADY as usize { Ok(()) } else { Err("few frames") };
    wait_for("the worker to go on", PATIENCE, goes_on).await?;

    let recording = worker.stop().await;
    let truth = truth.stop().await;
    let found = compare::compare(&truth.arrivals, &recording.arrivals, recording.ended)?;
    let told = &recording.discontinuities;
    ensure!((found.duplicated, found.out_of_order, found.foreign) == (0, 0, 0), "{found:#?}");
    ensure!(found.lost > 0 && told.len() >= 2, "each time it lacks what was not sent: {found:#?}, told {told:?}");
    notes::ran(&format!(
        "its worker lacks {} frames of a camera that went elsewhere twice, has no other twice or late, and was told: {}",
        found.lost,
        told.join("; ")
    ));
    Ok(())
}

/// The node that the camera publishes to, as all nodes see it: another than this one.
async fn owner_beside(lab: &Lab, gone: Option<&NodeId>) -> Result<NodeId> {
    let mut found = None;
    wait_for("the camera to publish", DRAIN_WITHIN, async || -> Result<()> {
        let streams = lab.of_role(Role::Distribution).next().context("one")?.agent.streams().await?;
        let owned = streams.iter().find(|s| s.stream.owned && s.stream.flowing && Some(&s.node) != gone);
        found = Some(owned.with_context(|| format!("{streams:?}"))?.node.clone());
        Ok(())
    })
    .await?;
    found.context("seen")
}

async fn watch(lab: &Lab) -> Result<Vec<(Kind, Viewer)>> {
    let web = lab.balancer.web.clone().context("the lab has web frontends")?;
    let mut viewers = Vec::new();
    for (kind, at) in [(Kind::Hls, web.hls.bind), (Kind::WebRtc, web.whep.bind)] {
        let url = format!("http://{at}/cam1/");
        viewers.push((kind, Viewer::watch(kind.name(), &url, lab.folder(), &lab.logs()).await?));
    }
    Ok(viewers)
}

async fn all_settled(lab: &Lab, viewers: &[(Kind, Viewer)]) -> Result<Vec<(Session, Seen)>> {
    let mut all = Vec::new();
    for (kind, viewer) in viewers {
        all.push(settled(lab, *kind, viewer).await?);
    }
    Ok(all)
}

/// At the same node, since it is the only one.
async fn all_come_back(lab: &Lab, viewers: &[(Kind, Viewer)], was: &[(Session, Seen)], what: &str) -> Result<()> {
    for ((kind, viewer), (was, before)) in viewers.iter().zip(was) {
        let is_new = |session: &Session| session.id != was.id;
        let back = comes_back(lab, *kind, viewer, is_new).await;
        let seen = back.with_context(|| format!("{kind:?}, the ingestion node {what}"))?;
        ensure!(seen.url == before.url, "{kind:?}: {seen:?}");
        notes::ran(&format!(
            "a browser on {kind:?}, the camera's ingestion node {what}: back by itself through the same URL; stood still {}",
            stood_still(&seen, before.cuts.len())
        ));
    }
    Ok(())
}

fn stood_still(seen: &Seen, cuts: usize) -> String {
    match seen.cuts.get(cuts..) {
        Some([]) | None => "less than 1 s".to_owned(),
        Some(all) => all.iter().map(|cut| format!("{cut:.1} s")).collect::<Vec<_>>().join(" and "),
    }
}

async fn drained_and_back(lab: &Lab, node: &NodeId) -> Result<()> {
    let agent = &lab.node(node)?.agent;
    let record = drain::run(agent, "test", DRAIN_WITHIN, |_| {}).await?;
    ensure!(record.outcome == DrainOutcome::Completed, "{record:#?}");
    agent.undrain().await?.map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
    lab.wait_in_service(node, PATIENCE).await
}

/// Waits until the viewer plays steadily over one session, another than before: it was cut once. A browser on WebRTC needs some time to find out, and then shows a first picture before the others follow.
async fn comes_back(lab: &Lab, kind: Kind, viewer: &Viewer, is_new: impl Fn(&Session) -> bool) -> Result<Seen> {
    let mut last = None;
    wait_for(format!("{kind:?} to come back"), DRAIN_WITHIN, async || -> Result<()> {
        let seen = viewer.look().await?;
        let now = sessions(lab, kind).await?;
        ensure!(now.len() == 1 && is_new(&now[0]), "{seen:?} {now:?}");
        // It counts pictures anew.
        ensure!(seen.still < 0.5 && seen.pictures > STEADY, "{seen:?}");
        last = Some(seen);
        Ok(())
    })
    .await?;
    last.context("seen")
}

/// Where MediaMTX's API lists them.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Hls,
    WebRtc,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Hls => "hls",
            Self::WebRtc => "webrtc",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Session {
    node: NodeId,
    id: String,
}

/// Sessions of a kind at all nodes that answer.
async fn sessions(lab: &Lab, kind: Kind) -> Result<Vec<Session>> {
    let mut found = Vec::new();
    for node in lab.of_role(Role::Distribution) {
        let url = format!("http://{}/v3/{}sessions/list", node.server.at.api, kind.name());
        let Ok(answer) = client().get(url).send().await else { continue };
        let list: serde_json::Value = answer.error_for_status()?.json().await?;
        let ids = list["items"].as_array().context("no items")?.iter().filter_map(|item| item["id"].as_str());
        found.extend(ids.map(|id| Session { node: node.id.clone(), id: id.to_owned() }));
    }
    Ok(found)
}

/// The viewer's session, once it plays: what happened to the other one may have cut it as well.
async fn settled(lab: &Lab, kind: Kind, viewer: &Viewer) -> Result<(Session, Seen)> {
    let mut found = None;
    wait_for(format!("{kind:?} to play"), DRAIN_WITHIN, async || -> Result<()> {
        let (seen, now) = (viewer.look().await?, sessions(lab, kind).await?);
        ensure!(now.len() == 1 && seen.still < 0.5, "{seen:?} {now:?}");
        found = now.first().cloned().zip(Some(seen));
        Ok(())
    })
    .await?;
    found.context("seen")
}
