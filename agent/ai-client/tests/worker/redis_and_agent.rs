//! Notices come, and reports go, through Redis while it is there, and through an agent when it is not.

use anyhow::{Context as _, Result};
use mtxfleet_ai_client::StreamConfig;
use mtxfleet_tests::lab::process::{Process, Recipe};
use mtxfleet_tests::lab::programs;
use mtxfleet_tests::lab::wait::wait_for;
use mtxfleet_wire::{EventKind, FleetEvent, RegistryKeys, WorkerRecord, WorkerReport};
use redis::AsyncCommands as _;
use redis::streams::StreamRangeReply;

use crate::faults::{BOUND, CAMERA, Scene, WORKER};
use crate::support::{back, event, notice};

pub(crate) struct Redis {
    pub process: Process,
    pub url: String,
}

impl Redis {
    pub async fn start(scene: &mut Scene) -> Result<Option<Self>> {
        let program = match programs::find("redis-server") {
            Ok(program) => program,
            Err(error) => {
                mtxfleet_tests::notes::skipped("worker library: notices by Redis", &format!("{error:#}"));
                return Ok(None);
            }
        };
        let address = scene.fleet.addresses.port()?;
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let args = ["--bind", &ip, "--port", &port, "--save", "", "--appendonly", "no"];
        let process = Recipe::new("redis", program).args(args).start(scene.fleet.logs.path())?;
        let redis = Self { process, url: format!("redis://{address}") };
        wait_for("Redis", BOUND, async || redis.connect().await.map(drop)).await?;
        Ok(Some(redis))
    }

    pub async fn connect(&self) -> Result<redis::aio::MultiplexedConnection> {
        Ok(redis::Client::open(self.url.as_str())?.get_multiplexed_async_connection().await?)
    }
}

/// The reports in Redis, once there are `count`.
async fn reports(
    redis: &mut redis::aio::MultiplexedConnection,
    keys: &RegistryKeys,
    count: usize,
) -> Result<Vec<WorkerReport>> {
    wait_for("reports in Redis", BOUND, async || {
        let found: StreamRangeReply = redis.xrange_all(keys.worker_reports()).await.map_err(|e| e.to_string())?;
        let texts: Vec<String> = found.ids.iter().filter_map(|entry| entry.get("report")).collect();
        if texts.len() < count { Err(format!("{texts:?}")) } else { Ok(texts) }
    })
    .await?
    .iter()
    .map(|text| Ok(serde_json::from_str(text)?))
    .collect()
}

fn json(event: &FleetEvent) -> Result<String> {
    Ok(serde_json::to_string(event)?)
}

#[tokio::test]
async fn notices_come_by_redis_and_by_an_agent_once_it_is_gone() -> Result<()> {
    let Some(mut scene) = Scene::start("worker library: Redis and its loss").await? else { return Ok(()) };
    let Some(mut server) = Redis::start(&mut scene).await? else { return Ok(()) };
    let (mut redis, keys) = (server.connect().await?, RegistryKeys::new(&"lab".parse()?));
    let mut worker = scene.worker(StreamConfig { redis: Some(server.url.clone()), ..scene.config.clone() }).await?;
    worker.wait_for_frames(25).await?;
    let leg = worker.leg().context("it reads")?;

    // By pub/sub.
    wait_for("the worker to subscribe", BOUND, async || {
        let (_, count): (String, u32) = redis::cmd("PUBSUB")
            .arg("NUMSUB")
            .arg(keys.events())
            .query_async(&mut redis)
            .await
            .map_err(|e| e.to_string())?;
        if count == 0 { Err("nobody listens") } else { Ok(()) }.map_err(str::to_owned)
    })
    .await?;
    let order = scene.order("d1", &worker)?;
    let _: u32 = redis.publish(keys.events(), json(&event("a", notice(&order)))?).await?;
    let told = reports(&mut redis, &keys, 1).await?;
    assert!(matches!(&told[0], WorkerReport::Acknowledged { leg: of, .. } if *of == leg), "{told:?}");

    // By the log alone, as for a worker that was away when it was published.
    let _: String =
        redis.xadd(keys.event_log(), "*", &[("event", json(&event("a", EventKind::DrainMove(order)))?)]).await?;
    let leg = worker.leg_after(&leg).await?;
    let told = reports(&mut redis, &keys, 2).await?;
    assert!(matches!(&told[1], WorkerReport::Moved { new_leg, .. } if *new_leg == leg), "{told:?}");
    let record: WorkerRecord = wait_for("the worker's record", BOUND, async || {
        let text: Option<String> =
            redis.hget(keys.workers(), format!("{WORKER}/{CAMERA}")).await.map_err(|e| e.to_string())?;
        let record: WorkerRecord = serde_json::from_str(&text.ok_or("none")?).map_err(|e| e.to_string())?;
        if record.counters.handovers == 1 { Ok(record) } else { Err(format!("{record:?}")) }
    })
    .await?;
    assert_eq!((record.worker.as_str(), record.stream.as_str()), (WORKER, CAMERA));

    // By an agent.
    server.process.kill();
    scene.agent.wait_for_listeners(1).await?;
    scene.agent.say("a", back());
    let order = scene.fleet.order("d2", "b", &["a"], CAMERA, WORKER, &leg);
    scene.agent.say("b", notice(&order));
    let report = scene.agent.report().await?;
    assert!(matches!(report, WorkerReport::Acknowledged { .. }), "{report:?}");
    scene.agent.say("b", EventKind::DrainMove(order));
    worker.leg_after(&leg).await?;
    let report = scene.agent.report().await?;
    assert!(matches!(report, WorkerReport::Moved { to: Some(_), .. }), "{report:?}");
    worker.wait_for_frames(worker.frames() + 25).await?;
    let outcome = worker.finish().await?;
    assert!(outcome.comparison.is_perfect(), "{:?}", outcome.comparison);
    assert_eq!(outcome.counters.handovers, 2);
    Ok(())
}

#[tokio::test]
async fn reports_that_every_agent_refuses_are_dropped_and_reading_goes_on() -> Result<()> {
    let Some(mut scene) = Scene::start("worker library: a wrong token").await? else { return Ok(()) };
    let mut worker = scene.worker(StreamConfig { worker_token: Some("wrong".into()), ..scene.config.clone() }).await?;
    scene.agent.wait_for_listeners(1).await?;
    worker.wait_for_frames(25).await?;
    let leg = worker.leg().context("it reads")?;
    scene.agent.say("a", EventKind::DrainMove(scene.order("d1", &worker)?));
    worker.leg_after(&leg).await?;
    wait_for("the report to be refused", BOUND, async || {
        let refused = scene.agent.refused();
        if refused == 1 { Ok(()) } else { Err(format!("refused {refused} times")) }
    })
    .await?;
    worker.wait_for_frames(worker.frames() + 50).await?;
    assert_eq!(scene.agent.refused(), 1, "it asks again and again");
    assert!(scene.agent.reports.try_recv().is_err());
    assert!(worker.finish().await?.comparison.is_perfect());
    Ok(())
}
