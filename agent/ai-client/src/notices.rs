//! Where events come from: Redis while it is there, the event stream of one agent while it is not.
//!
//! Pub/sub forgets who was away, so after each connection the event log is read from the last entry seen. It is read
//! every few seconds too: that finds a connection that died without a word. What comes twice is sorted out by whoever
//! receives it.

use std::time::Duration;

use futures::StreamExt as _;
use mtxfleet_wire::{FleetEvent, RegistryKeys, WorkerId, rendezvous_score};
use redis::AsyncCommands as _;
use redis::streams::{StreamId, StreamRangeReply};
use tokio::sync::{mpsc, watch};
use url::Url;

use crate::config::Settings;
use crate::sse;

/// How often the event log is read beside pub/sub.
const LOG_EVERY: Duration = Duration::from_secs(3);

/// Entries read at once; at the first connection no more than these, since older ones cannot name a leg of ours.
const LOG_PAGE: usize = 256;

/// Redis gets this long at the start before an agent is asked.
const HEAD_START: Duration = Duration::from_millis(500);

/// A connection or an answer that takes longer is a failure.
const ANSWER: Duration = Duration::from_secs(2);

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Runs until it is dropped or nobody receives any more.
pub(crate) async fn run(settings: Settings, http: reqwest::Client, events: mpsc::Sender<FleetEvent>) {
    let (redis_up, up) = watch::channel(false);
    let from_redis = async {
        if let Some(client) = settings.redis.clone() {
            follow_redis(client, &settings.keys, &events, &redis_up).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = from_redis => {}
        () = follow_agents(&settings, &http, &events, up) => {}
        () = events.closed() => {}
    }
}

#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Redis(#[from] redis::RedisError),
    #[error("no answer in {ANSWER:?}")]
    Slow(#[from] tokio::time::error::Elapsed),
    #[error("the connection was closed")]
    Closed,
}

/// Ends only when nobody receives.
async fn follow_redis(
    client: redis::Client,
    keys: &RegistryKeys,
    events: &mpsc::Sender<FleetEvent>,
    up: &watch::Sender<bool>,
) {
    let mut last = None;
    let mut wait = FIRST_WAIT;
    while !events.is_closed() {
        let error = match follow_redis_once(&client, keys, events, up, &mut last).await {
            Ok(()) => return,
            Err(error) => error,
        };
        if up.send_replace(false) {
            tracing::warn!(%error, "Redis is away: notices come from an agent now");
            wait = FIRST_WAIT;
        } else {
            tracing::debug!(%error, "Redis is still away");
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// `Ok` when nobody receives.
async fn follow_redis_once(
    client: &redis::Client,
    keys: &RegistryKeys,
    events: &mpsc::Sender<FleetEvent>,
    up: &watch::Sender<bool>,
    last: &mut Option<String>,
) -> Result<(), LinkError> {
    let config =
        redis::AsyncConnectionConfig::new().set_connection_timeout(Some(ANSWER)).set_response_timeout(Some(ANSWER));
    let mut log = tokio::time::timeout(ANSWER, client.get_multiplexed_async_connection_with_config(&config)).await??;
    let mut pubsub = tokio::time::timeout(ANSWER, client.get_async_pubsub()).await??;
    tokio::time::timeout(ANSWER, pubsub.subscribe(keys.events())).await??;
    let mut messages = pubsub.into_on_message();
    let mut read_log = tokio::time::interval(LOG_EVERY);
    read_log.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // The first tick comes at once: what was published before the subscription is in the log by then.
        tokio::select! {
            _ = read_log.tick() => {
                if !catch_up(&mut log, keys, events, last).await? {
                    return Ok(());
                }
                if !up.send_replace(true) {
                    tracing::debug!("Redis is there");
                }
            }
            message = messages.next() => {
                let payload: String = message.ok_or(LinkError::Closed)?.get_payload()?;
                if !pass_on(&payload, events).await {
                    return Ok(());
                }
            }
        }
    }
}

/// Reads the log from `last` to its end. False when nobody receives.
async fn catch_up(
    redis: &mut redis::aio::MultiplexedConnection,
    keys: &RegistryKeys,
    events: &mpsc::Sender<FleetEvent>,
    last: &mut Option<String>,
) -> Result<bool, LinkError> {
    loop {
        let page = match last {
            Some(id) => redis.xrange_count(keys.event_log(), format!("({id}"), "+", LOG_PAGE).await?,
            None => {
                let mut newest: StreamRangeReply = redis.xrevrange_count(keys.event_log(), "+", "-", LOG_PAGE).await?;
                newest.ids.reverse();
                newest
            }
        };
        let begun = last.is_some();
        let StreamRangeReply { ids, .. } = page;
        let full = ids.len() == LOG_PAGE;
        for entry in &ids {
            if !pass_entry_on(entry, events).await {
                return Ok(false);
            }
        }
        *last =
            Some(ids.last().map_or_else(|| last.take().unwrap_or_else(|| "0-0".to_owned()), |entry| entry.id.clone()));
        if !(begun && full) {
            return Ok(true);
        }
    }
}

async fn pass_entry_on(entry: &StreamId, events: &mpsc::Sender<FleetEvent>) -> bool {
    match entry.get::<String>("event") {
        Some(text) => pass_on(&text, events).await,
        None => true,
    }
}

/// False when nobody receives.
async fn pass_on(text: &str, events: &mpsc::Sender<FleetEvent>) -> bool {
    match serde_json::from_str(text) {
        Ok(event) => events.send(event).await.is_ok(),
        Err(error) => {
            tracing::debug!(%error, "an event that this version does not know");
            true
        }
    }
}

/// One agent at a time, in an order of this worker's own so that workers spread over them; ends only when nobody
/// receives.
async fn follow_agents(
    settings: &Settings,
    http: &reqwest::Client,
    events: &mpsc::Sender<FleetEvent>,
    mut redis_up: watch::Receiver<bool>,
) {
    let agents = in_own_order(&settings.agents, &settings.worker);
    if agents.is_empty() {
        return std::future::pending().await;
    }
    if settings.redis.is_some() {
        let _ = tokio::time::timeout(HEAD_START, redis_up.wait_for(|up| *up)).await;
    }
    let mut wait = FIRST_WAIT;
    let mut last = None;
    for agent in agents.iter().cycle() {
        if redis_up.wait_for(|up| !*up).await.is_err() || events.is_closed() {
            return;
        }
        let mut connected = false;
        let following = sse::follow(http, agent, &mut last, events, || {
            tracing::debug!(%agent, "notices come from this agent");
            connected = true;
        });
        tokio::select! {
            error = following => tracing::debug!(%agent, %error, "an agent's event stream failed"),
            _ = redis_up.wait_for(|up| *up) => continue,
        }
        wait = if connected { FIRST_WAIT } else { (wait * 2).min(LONGEST_WAIT) };
        tokio::time::sleep(wait).await;
    }
}

/// Highest rendezvous score first.
pub(crate) fn in_own_order(agents: &[Url], worker: &WorkerId) -> Vec<Url> {
    let mut agents = agents.to_vec();
    let score = |agent: &Url| rendezvous_score(worker.as_str(), agent.as_str(), 1.0);
    agents.sort_by(|a, b| score(b).total_cmp(&score(a)));
    agents
}
