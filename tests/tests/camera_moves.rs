//! Cameras that change hands as the inventory places them, while nodes come and go: workers lose nothing of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtxfleet_leader::placement;
use mtxfleet_tests::compare;
use mtxfleet_tests::lab::audience::{Audience, PerCamera};
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::node::Settings;
use mtxfleet_tests::lab::reader::ReconnectingReader;
use mtxfleet_tests::lab::wait::{PATIENCE, wait_for};
use mtxfleet_tests::lab::{self, Lab, drain, programs};
use mtxfleet_tests::notes;
use mtxfleet_tests::server_binary::{self, ServerBinary};
use mtxfleet_wire::{CameraEnd, CameraSource, DrainOutcome, EventKind, FleetEvent, HandOverRecord, NodeId, StreamName};

/// Dead after some 5 s, settled after 2 s, handed over in about 7 s; a busy machine takes longer for each.
const MOVED_WITHIN: Duration = Duration::from_secs(90);

const DRAIN_WITHIN: Duration = Duration::from_secs(120);

/// Frames that every worker gets before and after.
const AT_REST: usize = 50;

type Owners = BTreeMap<StreamName, NodeId>;

/// Two ingestion nodes, of which the second is not there yet, and an inventory of these cameras.
struct Fleet {
    lab: Lab,
    /// Names in the inventory.
    names: Vec<StreamName>,
    first: NodeId,
    second: NodeId,
}

impl Fleet {
    /// `many` names for the first camera, or for each its own.
    async fn start(kinds: impl Into<Vec<CameraKind>>, many: Option<usize>, server: ServerBinary) -> Self {
        let cameras = "file = \"../cameras.toml\"\nsettle = \"2s\"\nlet_go_after = \"1s\"".to_owned();
        let settings = Settings { cameras, ..Settings::demo() };
        let builder = Lab::builder().ingestion(2).distribution(2).pulled(kinds).settings(settings).server(server);
        let lab = builder.start().await.expect("a fleet");
        let (first, second) = (NodeId::new("ingest-1").expect("an id"), NodeId::new("ingest-2").expect("an id"));
        let url_of = |index: usize| lab.pulled.get(index).unwrap_or(&lab.pulled[0]).url();
        let count = many.unwrap_or(lab.pulled.len());
        let entry = |index: usize| format!("[[camera]]\nname = \"cam{}\"\nurl = \"{}\"\n", index + 1, url_of(index));
        let inventory: String = (0..count).map(entry).collect();
        let names = (0..count).map(|index| StreamName::new(format!("cam{}", index + 1)).expect("a name")).collect();
        let file = lab.folder().join("cameras.toml");
        let mut fleet = Self { lab, names, first, second };
        fleet.second_goes();
        std::fs::write(file, inventory).expect("written");
        fleet.wait_placed(&[&fleet.first], "at first").await;
        fleet
    }

    fn second_goes(&mut self) {
        let node = self.lab.node_mut(&self.second).expect("there");
        node.agent.process.kill();
        node.server.process.kill();
    }

    async fn second_comes(&mut self) {
        let node = self.lab.node_mut(&self.second).expect("there");
        node.server.process.restart().expect("it starts");
        node.server.wait_ready().await.expect("it answers");
        node.restart_agent().await.expect("it comes up");
    }

    /// Every camera delivers where it is placed among these and nowhere else, nothing is being handed over, and workers
    /// read at distribution nodes alone.
    async fn wait_placed(&self, nodes: &[&NodeId], when: &str) -> Owners {
        let expected = placement::place(&self.names, &nodes.iter().map(|node| (*node).clone()).collect());
        let seen =
            wait_for(format!("the cameras at their places, {when}"), MOVED_WITHIN, async || -> Result<Owners> {
                let agent = &self.lab.node(&NodeId::new("dist-1")?)?.agent;
                let mut seen = Owners::new();
                for view in agent.streams().await? {
                    let is_ingestion = view.node == self.first || view.node == self.second;
                    if is_ingestion && view.stream.ready {
                        ensure!(view.stream.flowing, "{} does not flow at {}", view.stream.name, view.node);
                        ensure!(view.stream.legs.is_empty(), "legs at {}: {:?}", view.node, view.stream);
                        let other = seen.insert(view.stream.name.clone(), view.node.clone());
                        ensure!(other.is_none(), "{} is at {} and at {other:?}", view.stream.name, view.node);
                    }
                }
                ensure!(seen == expected, "{seen:?}, not {expected:?}");
                for member in agent.fleet().await?.members {
                    ensure!(member.moves.is_none(), "{} hands cameras over: {:?}", member.node, member.moves);
                }
                Ok(seen)
            });
        seen.await.unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// What was said of hand-overs, oldest first.
    async fn handed_over(&self) -> Result<Vec<HandOverRecord>> {
        let mut redis = self.lab.redis.as_ref().context("there is a Redis")?.connect().await?;
        let key = mtxfleet_wire::RegistryKeys::new(&lab::CLUSTER.parse()?).event_log();
        let log: Vec<(String, Vec<String>)> =
            redis::cmd("XRANGE").arg(&key).arg("-").arg("+").query_async(&mut redis).await?;
        let events = log.iter().flat_map(|(_, fields)| fields).filter_map(|text| serde_json::from_str(text).ok());
        let record = |event: FleetEvent| match event.what {
            EventKind::CamerasHandedOver { record, .. } => record.map(|record| *record),
            _ => None,
        };
        Ok(events.filter_map(record).collect())
    }

    /// `mtxfleet streams`, as an operator sees it.
    async fn listed(&self) -> String {
        let program = programs::of_workspace("mtxfleet").expect("built");
        let url = self.lab.node(&self.first).expect("there").agent.url();
        let run = tokio::process::Command::new(program).args(["streams", "--agent", &url]).kill_on_drop(true).output();
        let output = tokio::time::timeout(PATIENCE, run).await.expect("it ends").expect("it runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    }
}

async fn real(what: &str) -> Option<ServerBinary> {
    let found = tokio::task::spawn_blocking(server_binary::find_real).await.expect("no panic");
    match found.expect("MEDIAMTX_BIN works, when it is set") {
        Ok(server) => Some(server),
        Err(reasons) => {
            notes::skipped(&format!("{what} on MediaMTX itself"), &reasons.join("; "));
            None
        }
    }
}

fn stand_in() -> ServerBinary {
    server_binary::find_stand_in().expect("built")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_lose_nothing_when_a_node_comes_is_drained_and_comes_back_on_mediamtx() {
    if let Some(server) = real("cameras that move to a node that comes").await {
        a_node_comes_is_drained_and_comes_back(server).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_lose_nothing_when_a_node_comes_is_drained_and_comes_back_on_the_stand_in() {
    a_node_comes_is_drained_and_comes_back(stand_in()).await;
}

async fn a_node_comes_is_drained_and_comes_back(server: ServerBinary) {
    let _alone = lab::alone().await;
    let kinds = [CameraKind::H264WithBFrames, CameraKind::H265, CameraKind::H264WithAudio];
    let mut fleet = Fleet::start(kinds, None, server).await;
    let lab = &fleet.lab;
    let audience = Audience::gather(lab, PerCamera { workers: 2, controls: 1, viewers: 0 }).await.expect("readers");
    audience.wait_for_more(AT_REST, PATIENCE).await.expect("frames");

    let began = Instant::now();
    fleet.second_comes().await;
    let both = fleet.wait_placed(&[&fleet.first, &fleet.second], "a node came").await;
    let took = began.elapsed();
    let moved: Vec<&StreamName> =
        both.iter().filter(|(_, node)| **node == fleet.second).map(|(name, _)| name).collect();
    assert!(!moved.is_empty(), "nothing moves, so this proves nothing");
    let said = fleet.handed_over().await.expect("a log");
    let named: Vec<&StreamName> = said.iter().flat_map(|record| record.moved.keys()).collect();
    assert_eq!(named, moved, "{said:#?}");
    assert!(said.iter().all(|record| record.cut.is_empty() && record.kept.is_empty()), "{said:#?}");
    assert_eq!(said.iter().map(|record| record.workers as usize).sum::<usize>(), 2 * moved.len(), "{said:#?}");
    let listed = fleet.listed().await;
    println!("{listed}");
    for (name, owner) in &both {
        let line = |line: &&str| line.starts_with(name.as_str()) && line.matches(owner.as_str()).count() == 2;
        assert_eq!(listed.lines().filter(line).count(), 1, "{name} at {owner}, once:\n{listed}");
    }

    let agent = &fleet.lab.node(&fleet.second).expect("there").agent;
    let record = drain::run(agent, "test", DRAIN_WITHIN, |_| {}).await.expect("it ends");
    assert_eq!(record.outcome, DrainOutcome::Completed, "{record:#?}");
    assert!(record.phases.iter().all(|phase| !phase.timed_out), "{:#?}", record.phases);
    for camera in &record.cameras {
        let end = (CameraEnd::At(fleet.first.clone()), CameraSource::Pulled);
        assert_eq!((camera.how.clone(), camera.source), end, "{record:#?}");
    }
    let mut drained: Vec<&StreamName> = record.cameras.iter().map(|camera| &camera.stream).collect();
    drained.sort();
    assert_eq!(drained, moved);
    fleet.wait_placed(&[&fleet.first], "the second node was drained").await;

    agent.undrain().await.expect("answered").expect("it comes back");
    assert_eq!(fleet.wait_placed(&[&fleet.first, &fleet.second], "it came back").await, both);
    audience.wait_for_more(AT_REST, PATIENCE).await.expect("frames");

    let results = audience.finish().await.expect("comparable");
    for worker in &results.workers {
        assert!(worker.frames.is_perfect(), "{worker:#?}");
        assert_eq!(worker.discontinuities, Vec::<String>::new());
    }
    assert!(results.lost_by_control() > 0, "the control lost nothing, so this proves nothing: {:#?}", results.control);
    notes::ran(&format!(
        "{} of 3 cameras moved to a node that came ({:.1} s), away from it in a drain, and back, on {}; longest pause of a \
         worker {} ms, the control lost {} frames",
        moved.len(),
        took.as_secs_f64(),
        fleet.lab.server.kind,
        results.workers.iter().map(|worker| worker.frames.longest_pause_ms).max().unwrap_or(0),
        results.lost_by_control(),
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_cameras_move_as_well_and_a_next_owner_that_dies_leaves_them_delivered() {
    let _alone = lab::alone().await;
    let mut fleet = Fleet::start([CameraKind::H264; 3], None, stand_in()).await;
    fleet.lab.redis.as_mut().expect("there is a Redis").process.kill();
    let audience =
        Audience::gather(&fleet.lab, PerCamera { workers: 1, controls: 0, viewers: 0 }).await.expect("readers");
    audience.wait_for_more(AT_REST, PATIENCE).await.expect("frames");
    fleet.second_comes().await;
    fleet.wait_placed(&[&fleet.first, &fleet.second], "without Redis").await;
    audience.wait_for_more(AT_REST, PATIENCE).await.expect("frames");
    for worker in &audience.finish().await.expect("comparable").workers {
        assert!(worker.frames.is_perfect(), "{worker:#?}");
        assert_eq!(worker.discontinuities, Vec::<String>::new());
    }

    let audience =
        Audience::gather(&fleet.lab, PerCamera { workers: 1, controls: 0, viewers: 0 }).await.expect("readers");
    fleet.second_goes();
    fleet.wait_placed(&[&fleet.first], "the second node died").await;
    fleet.second_comes().await;
    wait_for("a hand-over to begin", MOVED_WITHIN, async || -> Result<()> {
        let member = fleet.lab.node(&fleet.first)?.agent.member().await?;
        member.moves.map(|_| ()).context("nothing is handed over")
    })
    .await
    .expect("it begins");
    fleet.second_goes();
    fleet.wait_placed(&[&fleet.first], "it died in a hand-over").await;
    audience.wait_for_more(AT_REST, PATIENCE).await.expect("every worker gets frames again");
}

/// A figure rather than a case: one picture under many names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_of_many_pulled_cameras_loses_nothing() {
    let _alone = lab::alone().await;
    let many = std::env::var("MTXFLEET_CAMERAS").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    let mut fleet = Fleet::start([CameraKind::H264], Some(many), stand_in()).await;
    fleet.second_comes().await;
    let both = fleet.wait_placed(&[&fleet.first, &fleet.second], "a node came").await;
    let truth = ReconnectingReader::start(&fleet.lab.pulled[0].url());
    let mut workers = Vec::new();
    for name in &fleet.names {
        workers.push(fleet.lab.worker(&format!("worker-{name}"), name.as_str()).await.expect("it opens"));
    }
    let more = async |frames: usize| {
        let wanted: Vec<usize> = workers.iter().map(|worker| worker.frames() + frames).collect();
        wait_for("frames at every worker", PATIENCE, async || {
            let lacks = workers.iter().zip(&wanted).find(|(worker, wanted)| worker.frames() < **wanted);
            lacks.map_or(Ok(()), |(worker, wanted)| Err(format!("{} of {wanted} at {}", worker.frames(), worker.id)))
        })
        .await
        .expect("frames");
    };
    more(AT_REST).await;
    let agent = &fleet.lab.node(&fleet.second).expect("there").agent;
    let record = drain::run(agent, "test", DRAIN_WITHIN, |_| {}).await.expect("it ends");
    assert_eq!(record.outcome, DrainOutcome::Completed, "{record:#?}");
    let leaving = both.values().filter(|node| **node == fleet.second).count();
    assert_eq!(record.cameras.len(), leaving);
    assert!(record.phases.iter().all(|phase| !phase.timed_out), "{:#?}", record.phases);
    fleet.wait_placed(&[&fleet.first], "the second node was drained").await;
    more(AT_REST).await;

    let mut recordings = Vec::new();
    for worker in workers {
        let id = worker.id.clone();
        recordings.push((id, worker.stop().await));
    }
    let truth = truth.stop_when_level().await;
    let mut frames = 0;
    for (id, recording) in recordings {
        let compared = compare::compare(&truth.arrivals, &recording.arrivals, recording.ended).expect("comparable");
        assert!(compared.is_perfect(), "{id}: {compared:#?}");
        assert_eq!(recording.discontinuities, Vec::<String>::new(), "{id}");
        frames += recording.arrivals.len();
    }
    notes::ran(&format!(
        "drain of an ingestion node with {leaving} pulled cameras, one worker on each, on the stand-in: {:.1} s; {frames} \
         frames at {many} workers, none lost",
        record.phases.iter().map(|phase| phase.seconds).sum::<f64>(),
    ));
}
