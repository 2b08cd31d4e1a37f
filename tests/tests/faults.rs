//! Drains that are refused, doubled, cancelled or hit by the loss of a part, on a whole fleet.

use std::time::Duration;

use mtxfleet_tests::lab::agent::Agent;
use mtxfleet_tests::lab::audience::{Audience, PerCamera, Results};
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::node::Settings;
use mtxfleet_tests::lab::redis::Keeps;
use mtxfleet_tests::lab::wait::{PATIENCE, wait_for};
use mtxfleet_tests::lab::{self, Lab, drain, programs};
use mtxfleet_tests::notes;
use mtxfleet_wire::{
    DrainOrder, DrainOutcome, DrainRecord, DrainRefusal, DrainView, LegEnd, NodeId, NodeState, Phase, Role,
};

const DRAIN_WITHIN: Duration = Duration::from_secs(60);
const WORKERS: PerCamera = PerCamera { workers: 2, controls: 0, viewers: 1 };

fn node(name: &str) -> NodeId {
    NodeId::new(name).expect("an id")
}

/// The node with the most workers.
async fn busiest(lab: &Lab) -> NodeId {
    lab.legs().await.expect("legs").swap_remove(0).0
}

async fn bring_back(lab: &Lab, node: &NodeId) {
    let agent = &lab.node(node).expect("there").agent;
    agent.undrain().await.expect("answered").expect("it comes back");
    lab.wait_in_service(node, PATIENCE).await.expect("in service");
}

fn assert_nothing_lost(results: &Results) {
    for worker in &results.workers {
        assert!(worker.frames.is_perfect(), "{worker:#?}");
    }
}

/// Runs `mtxfleet` as an operator does; gives whether it ended well, and all that it printed.
async fn mtxfleet(lab: &Lab, args: &[&str]) -> (bool, String) {
    let program = programs::of_workspace("mtxfleet").expect("built");
    let run =
        tokio::process::Command::new(program).args(args).env("MTXFLEET_TOKEN", &lab.token).kill_on_drop(true).output();
    let output = tokio::time::timeout(DRAIN_WITHIN, run).await.expect("it ends").expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drains_that_must_not_be_are_refused_with_the_reason() {
    let _alone = lab::alone().await;
    let lab = Lab::builder().start().await.expect("a fleet");
    let agent = |name: &str| &lab.node(&node(name)).expect("there").agent;
    let order = DrainOrder::default();

    // Two at once, of three where two must stay: one is admitted.
    let (one, two) = tokio::join!(agent("dist-1").drain(&order), agent("dist-2").drain(&order));
    let answers = [("dist-1", one.expect("answered")), ("dist-2", two.expect("answered"))];
    let (admitted, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|(_, answer)| answer.is_ok());
    assert_eq!((admitted.len(), refused.len()), (1, 1), "{answers:?}");
    assert!(
        matches!(refused[0].1, Err(DrainRefusal::BelowMinimum { role: Role::Distribution, minimum: 2, .. })),
        "{refused:?}"
    );
    let (first, Ok(view)) = admitted[0] else { panic!("{admitted:?}") };

    // Again while it runs, and again when it is over.
    let again = agent(first).drain(&order).await.expect("answered");
    assert!(
        matches!(&again, Err(DrainRefusal::AlreadyDraining { drain } ) if *drain == view.drain)
            || again == Err(DrainRefusal::AlreadyOffline),
        "{again:?}"
    );
    let record = drain::follow(agent(first), &view.drain, DRAIN_WITHIN, |_| {}).await.expect("it ends");
    assert_eq!(record.outcome, DrainOutcome::Completed);
    let again = agent(first).drain(&order).await.expect("answered");
    assert_eq!(again, Err(DrainRefusal::AlreadyOffline));

    // The last two, by command: refused with the reason, and possible with --force.
    let second = refused[0].0;
    let url = agent(second).url();
    let (done, said) = mtxfleet(&lab, &["drain", "--agent", &url, "--wait"]).await;
    assert!(!done && said.contains("--force"), "{said}");
    let (done, said) = mtxfleet(&lab, &["drain", "--agent", &url, "--wait", "--force"]).await;
    assert!(done, "{said}");
    let load = agent(second).member().await.expect("answered").load.expect("a report");
    assert_eq!(load.state, NodeState::Offline);

    // A node that is not there.
    let (done, said) = mtxfleet(&lab, &["drain", "dist-77", "--agent", &url]).await;
    assert!(!done && said.contains("dist-77"), "{said}");
    // No token, no drain.
    let (done, said) = mtxfleet(&lab, &["undrain", "--agent", &url]).await;
    assert!(done, "{said}");
    let unauthorised = reqwest::Client::new().delete(url + "/v1/drain").send().await.expect("answered");
    assert_eq!(unauthorised.status(), reqwest::StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_is_cancelled_and_the_node_serves_again() {
    let _alone = lab::alone().await;
    // Viewers have a minute: there is time to cancel.
    let lab = Lab::builder().cameras([CameraKind::H264]).start().await.expect("a fleet");
    let audience = Audience::gather(&lab, WORKERS).await.expect("readers");
    let id = busiest(&lab).await;
    let agent = &lab.node(&id).expect("there").agent;
    let view = drain::order(agent, "test").await.expect("admitted");
    drain::wait_phase(agent, &view.drain, Phase::WorkerMigration, PATIENCE).await.expect("in time");
    agent.undrain().await.expect("answered").expect("it can be cancelled");
    let record = drain::follow(agent, &view.drain, PATIENCE, |_| {}).await.expect("it ends");
    assert_eq!(record.outcome, DrainOutcome::Cancelled);
    lab.wait_in_service(&id, PATIENCE).await.expect("in service");
    audience.wait_for_more(50, PATIENCE).await.expect("frames");
    assert_nothing_lost(&audience.finish().await.expect("comparable"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_killed_in_any_phase_goes_on_with_the_drain() {
    let _alone = lab::alone().await;
    let cameras = [CameraKind::H264, CameraKind::H264WithAudio];
    let mut lab = Lab::builder().cameras(cameras).settings(Settings::demo()).start().await.expect("a fleet");
    notes::ran(&format!("faults of a whole fleet, on {}", lab.server.kind));
    let audience = Audience::gather(&lab, WORKERS).await.expect("readers");
    for phase in Phase::ALL {
        let id = busiest(&lab).await;
        let agent = &mut lab.node_mut(&id).expect("there").agent;
        let view = drain::order(agent, "test").await.expect("admitted");
        meet(agent, &view, phase, "the agent").await;
        agent.process.kill();
        lab.node_mut(&id).expect("there").restart_agent().await.expect("up again");
        let agent = &lab.node(&id).expect("there").agent;
        let record = drain::follow(agent, &view.drain, DRAIN_WITHIN, |_| {}).await.expect("it ends");
        assert_eq!(record.outcome, DrainOutcome::Completed, "killed in {phase}");
        let member = agent.member().await.expect("answered");
        assert_eq!(member.load.expect("a report").state, NodeState::Offline, "killed in {phase}");
        audience.wait_for_more(50, PATIENCE).await.expect("frames");
        bring_back(&lab, &id).await;
    }
    assert_nothing_lost(&audience.finish().await.expect("comparable"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_killed_in_any_phase_neither_stops_the_drain_nor_costs_a_frame() {
    let _alone = lab::alone().await;
    let cameras = [CameraKind::H264, CameraKind::H264WithBFrames];
    let builder = Lab::builder().cameras(cameras).settings(Settings::demo()).redis(Some(Keeps::Nothing));
    let mut lab = builder.start().await.expect("a fleet");
    let audience = Audience::gather(&lab, WORKERS).await.expect("readers");
    for phase in Phase::ALL {
        let id = busiest(&lab).await;
        let agent = &lab.node(&id).expect("there").agent;
        let view = drain::order(agent, "test").await.expect("admitted");
        meet(agent, &view, phase, "Redis").await;
        lab.redis.as_mut().expect("there").process.kill();
        let agent = &lab.node(&id).expect("there").agent;
        let record = drain::follow(agent, &view.drain, DRAIN_WITHIN, |_| {}).await.expect("it ends");
        assert_eq!(record.outcome, DrainOutcome::Completed, "Redis killed in {phase}");
        assert_all_moved(&record, &format!("Redis killed in {phase}"));
        audience.wait_for_more(50, PATIENCE).await.expect("frames");
        lab.redis.as_mut().expect("there").restart().await.expect("up again");
        wait_redis(&lab, true).await;
        bring_back(&lab, &id).await;
    }

    // Away from the start: only an operator who insists begins a drain, and workers hear of it by SSE alone.
    lab.redis.as_mut().expect("there").process.kill();
    wait_redis(&lab, false).await;
    let id = busiest(&lab).await;
    let agent = &lab.node(&id).expect("there").agent;
    let refused = agent.drain(&DrainOrder::default()).await.expect("answered");
    assert_eq!(refused, Err(DrainRefusal::NoRegistry));
    let order = DrainOrder { force: true, reason: "test".to_owned() };
    let view = agent.drain(&order).await.expect("answered").expect("forced");
    let record = drain::follow(agent, &view.drain, DRAIN_WITHIN, |_| {}).await.expect("it ends");
    assert!(!record.legs.is_empty(), "the drain met no worker");
    assert_all_moved(&record, "without Redis");
    audience.wait_for_more(50, PATIENCE).await.expect("frames");
    assert_nothing_lost(&audience.finish().await.expect("comparable"));
}

/// Waits for the phase in which `victim` is to be killed, and says so when it was over too soon.
async fn meet(agent: &Agent, view: &DrainView, phase: Phase, victim: &str) {
    if !drain::wait_phase(agent, &view.drain, phase, DRAIN_WITHIN).await.expect("in time") {
        notes::skipped(&format!("kill of {victim} in {phase}"), "the phase was over before it could be met");
    }
}

fn assert_all_moved(record: &DrainRecord, when: &str) {
    for leg in &record.legs {
        assert!(matches!(leg.how, LegEnd::Moved(_)), "{when}: {leg:?}");
    }
}

/// Waits until every agent says whether it reaches Redis.
async fn wait_redis(lab: &Lab, reached: bool) {
    wait_for(format!("every agent to say that Redis is reached: {reached}"), PATIENCE, async || {
        for node in &lab.nodes {
            let load = node.agent.member().await.ok().and_then(|member| member.load);
            if load.is_none_or(|load| load.redis != reached) {
                return Err(format!("{} does not", node.id));
            }
        }
        Ok(())
    })
    .await
    .expect("in time");
}
