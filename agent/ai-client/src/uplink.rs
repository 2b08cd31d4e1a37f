//! What the worker tells the fleet: reports about handovers, and its record. Through Redis, else through an agent.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mtxfleet_wire::{UnixMillis, WorkerRecord, WorkerReport, worker_field};
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use redis::streams::StreamMaxlen;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use url::Url;

use crate::Status;
use crate::config::Settings;
use crate::notices::in_own_order;

/// Reports that wait while neither Redis nor an agent can be reached; the oldest are dropped.
const QUEUE: usize = 64;

/// The fleet keeps about this many reports.
const REPORTS_KEPT: usize = 10_000;

const RECORD_EVERY: Duration = Duration::from_secs(3);
const ANSWER: Duration = Duration::from_secs(1);

/// After a failure Redis is left alone for this long.
const REDIS_PAUSE: Duration = Duration::from_secs(1);
/// First wait after a failure, doubled up to the longest.
const RETRY: Duration = Duration::from_millis(300);
const LONGEST_RETRY: Duration = Duration::from_secs(3);

/// Runs until the reports' sender is gone and what was queued has been sent once.
pub(crate) async fn run(
    settings: Settings,
    http: reqwest::Client,
    mut reports: mpsc::Receiver<WorkerReport>,
    status: watch::Receiver<Status>,
) {
    let mut uplink = Uplink::new(settings, http);
    let mut queue: VecDeque<WorkerReport> = VecDeque::new();
    let mut record_due = tokio::time::interval(RECORD_EVERY);
    record_due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut wait = RETRY;
    loop {
        while let Some(report) = queue.front() {
            if uplink.send(report).await {
                queue.pop_front();
                wait = RETRY;
            } else {
                wait = (wait * 2).min(LONGEST_RETRY);
                break;
            }
        }
        let retry = tokio::time::sleep(wait);
        tokio::select! {
            report = reports.recv() => match report {
                Some(report) => queue.push_back(report),
                None => {
                    for report in &queue {
                        uplink.send(report).await;
                    }
                    return uplink.leave().await;
                }
            },
            _ = record_due.tick() => {
                let status = status.borrow().clone();
                uplink.record(&status).await;
            }
            () = retry, if !queue.is_empty() => {}
        }
        while queue.len() > QUEUE {
            tracing::warn!(
                "a report is dropped: neither Redis nor an agent can be reached from here; check their URLs"
            );
            queue.pop_front();
        }
    }
}

struct Uplink {
    settings: Settings,
    http: reqwest::Client,
    redis: Option<MultiplexedConnection>,
    /// Not before this is Redis tried again.
    redis_from: Instant,
    /// The one that answered last comes first.
    agents: VecDeque<Url>,
}

impl Uplink {
    fn new(settings: Settings, http: reqwest::Client) -> Self {
        let agents = in_own_order(&settings.agents, &settings.worker).into();
        Self { settings, http, redis: None, redis_from: Instant::now(), agents }
    }

    /// True when it arrived somewhere, or never can.
    async fn send(&mut self, report: &WorkerReport) -> bool {
        let json = match serde_json::to_string(report) {
            Ok(json) => json,
            Err(error) => {
                tracing::error!(%error, "a report cannot be written as JSON");
                return true;
            }
        };
        if self.by_redis(&json).await {
            return true;
        }
        let mut refused = 0;
        for _ in 0..self.agents.len() {
            match self.by_agent(&json).await {
                Ok(()) => return true,
                Err(error) if error.status().is_some_and(|status| status.is_client_error()) => {
                    tracing::warn!(%error, "an agent refuses this worker's reports; check `worker_token`");
                    refused += 1;
                }
                Err(error) => tracing::debug!(%error, "an agent took no report"),
            }
            self.agents.rotate_left(1);
        }
        // Asking those again that all refuse would change nothing.
        self.settings.redis.is_none() && refused == self.agents.len()
    }

    async fn by_redis(&mut self, json: &str) -> bool {
        let key = self.settings.keys.worker_reports();
        let Some(redis) = self.redis().await else { return false };
        let kept = StreamMaxlen::Approx(REPORTS_KEPT);
        let done: redis::RedisResult<String> = redis.xadd_maxlen(key, kept, "*", &[("report", json)]).await;
        self.checked(done).is_some()
    }

    async fn by_agent(&self, json: &str) -> Result<(), reqwest::Error> {
        let Some(agent) = self.agents.front() else { return Ok(()) };
        let url = format!("{}/v1/worker-reports", agent.as_str().trim_end_matches('/'));
        let mut request = self.http.post(url).header("content-type", "application/json").body(json.to_owned());
        if let Some(token) = &self.settings.worker_token {
            request = request.bearer_auth(token);
        }
        request.timeout(ANSWER).send().await?.error_for_status().map(drop)
    }

    async fn record(&mut self, status: &Status) {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let record = WorkerRecord {
            worker: self.settings.worker.clone(),
            stream: self.settings.stream.clone(),
            counters: status.counters,
            legs: status.legs,
            last_pause_ms: status.last_pause.map(millis),
            backlog_ms: status.replay.map(|replay| millis(replay.backlog)),
            updated: unix_now(),
        };
        let (key, field) = (self.settings.keys.workers(), worker_field(&self.settings.worker, &self.settings.stream));
        let Ok(json) = serde_json::to_string(&record) else { return };
        let Some(redis) = self.redis().await else { return };
        let done: redis::RedisResult<()> = redis.hset(key, field, json).await;
        self.checked(done);
    }

    /// The record goes with the worker.
    async fn leave(&mut self) {
        let (key, field) = (self.settings.keys.workers(), worker_field(&self.settings.worker, &self.settings.stream));
        if let Some(redis) = self.redis.as_mut() {
            let _: redis::RedisResult<()> = redis.hdel(key, field).await;
        }
    }

    async fn redis(&mut self) -> Option<&mut MultiplexedConnection> {
        let client = self.settings.redis.as_ref()?;
        if self.redis.is_none() && Instant::now() >= self.redis_from {
            let config = redis::AsyncConnectionConfig::new()
                .set_connection_timeout(Some(ANSWER))
                .set_response_timeout(Some(ANSWER));
            let connecting = client.get_multiplexed_async_connection_with_config(&config);
            match tokio::time::timeout(ANSWER, connecting).await {
                Ok(Ok(connection)) => self.redis = Some(connection),
                _ => self.redis_from = Instant::now() + REDIS_PAUSE,
            }
        }
        self.redis.as_mut()
    }

    /// A connection that failed once is not used again.
    fn checked<T>(&mut self, done: redis::RedisResult<T>) -> Option<T> {
        done.inspect_err(|error| {
            tracing::debug!(%error, "Redis took no report");
            self.redis = None;
            self.redis_from = Instant::now() + REDIS_PAUSE;
        })
        .ok()
    }
}

fn unix_now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
