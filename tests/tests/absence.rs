//! An agent starts with nothing around it, and joins what comes.

use anyhow::{Result, ensure};
use mtxfleet_tests::lab::redis::Keeps;
use mtxfleet_tests::lab::wait::{PATIENCE, wait_for};
use mtxfleet_tests::lab::{self, Lab};
use mtxfleet_wire::{ClusterName, Liveness, LoadReport, NodeId, RegistryKeys, ServerHealth};

async fn wait_load(lab: &Lab, id: &NodeId, what: &str, holds: impl Fn(&LoadReport) -> bool) {
    let agent = &lab.node(id).expect("there").agent;
    wait_for(what, PATIENCE, async || -> Result<()> {
        let load = agent.member().await?.load;
        ensure!(load.as_ref().is_some_and(&holds), "{load:?}");
        Ok(())
    })
    .await
    .expect("in time");
}

async fn readiness(lab: &Lab, id: &NodeId) -> (reqwest::StatusCode, String) {
    let url = lab.node(id).expect("there").agent.url() + "/readyz";
    let answer = reqwest::get(url).await.expect("answered");
    (answer.status(), answer.text().await.expect("text"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_starts_without_redis_peers_and_server_and_joins_each_as_it_comes() {
    let _alone = lab::alone().await;
    let builder = Lab::builder().distribution(2).cameras([]).redis(Some(Keeps::Nothing));
    let mut lab = builder.start().await.expect("a fleet");
    let id = NodeId::new("dist-1").expect("an id");
    lab.redis.as_mut().expect("there").process.kill();
    for node in &mut lab.nodes {
        node.agent.process.kill();
    }
    lab.node_mut(&id).expect("there").server.process.kill();

    lab.node_mut(&id).expect("there").restart_agent().await.expect("it starts with nothing around it");
    wait_load(&lab, &id, "its server to be away", |load| matches!(load.server, ServerHealth::Away(_))).await;
    let load = lab.node(&id).expect("there").agent.member().await.expect("answered").load.expect("a report");
    assert_eq!((load.workers, load.outbound), (None, None), "what nobody can know is unknown, not zero");
    assert!(!load.redis);
    let (status, reasons) = readiness(&lab, &id).await;
    assert_eq!(status, reqwest::StatusCode::SERVICE_UNAVAILABLE);
    assert!(reasons.contains("MediaMTX is away"), "{reasons}");

    let server = &mut lab.node_mut(&id).expect("there").server;
    server.process.restart().expect("started");
    server.wait_ready().await.expect("up");
    wait_load(&lab, &id, "its server to be up", |load| load.server == ServerHealth::Up).await;
    assert_eq!(readiness(&lab, &id).await.0, reqwest::StatusCode::OK);

    lab.redis.as_mut().expect("there").restart().await.expect("up");
    wait_load(&lab, &id, "Redis to be reached", |load| load.redis).await;
    let keys = RegistryKeys::new(&ClusterName::new(lab::CLUSTER).expect("valid"));
    let redis = lab.redis.as_ref().expect("there").connect().await.expect("connected");
    wait_for("its record in Redis", PATIENCE, async || -> Result<()> {
        let known: Vec<String> = redis::cmd("HKEYS").arg(keys.nodes()).query_async(&mut redis.clone()).await?;
        ensure!(known == ["dist-1"], "{known:?}");
        Ok(())
    })
    .await
    .expect("in time");

    for other in ["ingest-1", "dist-2"] {
        let other = NodeId::new(other).expect("an id");
        lab.node_mut(&other).expect("there").restart_agent().await.expect("up");
    }
    let agent = &lab.node(&id).expect("there").agent;
    wait_for("all three to be members", PATIENCE, async || -> Result<()> {
        let fleet = agent.fleet().await?;
        let alive = fleet.members.iter().filter(|m| m.liveness == Liveness::Alive && m.load.is_some()).count();
        ensure!(alive == 3, "{:?}", fleet.members);
        Ok(())
    })
    .await
    .expect("in time");
}
