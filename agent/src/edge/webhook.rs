//! Webhooks, as the Standard Webhooks specification has them
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).
//!
//! One task and one bounded queue for each hook: a receiver that hangs holds up nobody else. `docs/ref/events.md` is
//! this page for receivers.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use mtxfleet_wire::{EventKind, FleetEvent};
use reqwest::StatusCode;
use sha2::Sha256;
use tokio::sync::{mpsc, oneshot};
use url::Url;

use super::clock::Clock;
use super::http::metrics::{Collector, Metric};
use super::tls::install_crypto;

/// Events that wait for one hook; beyond it new ones are dropped and counted.
const WAITING: usize = 1_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookSettings {
    /// `http://` or `https://`.
    pub url: Url,
    /// `whsec_` and base64 of the key, which has 24 to 64 bytes.
    pub secret: String,
    /// Names of events, such as `drain.ended`, or `drain.*` for all that begin so. Empty: all.
    pub events: Vec<String>,
}

/// What is wrong with a hook's settings. No hook was started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidWebhook {
    #[error("webhook {number}: url has to be http://host/path or https://host/path")]
    Url { number: usize },
    #[error(
        "webhook {number}: secret has to be `whsec_` and base64 of 24 to 64 random bytes; \
         `echo whsec_$(head -c 32 /dev/urandom | base64)` makes one"
    )]
    Secret { number: usize },
    #[error("webhook {number}: there is no event {name:?}; docs/ref/events.md lists them, `drain.*` takes several")]
    Event { number: usize, name: String },
    #[error("webhooks cannot be sent from this machine: {why}")]
    Client { why: String },
}

/// Limits of a delivery.
#[derive(Debug, Clone)]
struct Pace {
    /// For one attempt, from connection to the head of the answer.
    attempt: Duration,
    /// Pauses before the second attempt and those after it.
    pauses: Vec<Duration>,
    /// Longest pause that a receiver may ask for by `Retry-After`.
    longest: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(10),
            pauses: [1, 5, 30, 120].map(Duration::from_secs).to_vec(),
            longest: Duration::from_secs(300),
        }
    }
}

/// Takes events for all hooks. The hooks end when it is dropped.
#[derive(Debug)]
pub struct Webhooks {
    hooks: Vec<(mpsc::Sender<Message>, Arc<Hook>)>,
}

#[derive(Debug)]
enum Message {
    Event(Delivery),
    Flush(oneshot::Sender<()>),
}

#[derive(Debug, Clone)]
struct Delivery {
    id: String,
    body: axum::body::Bytes,
}

impl Webhooks {
    /// Starts one task for each hook on the current tokio runtime.
    ///
    /// # Errors
    /// [`InvalidWebhook`], for the first hook that has one.
    pub fn start(settings: Vec<WebhookSettings>) -> Result<Self, InvalidWebhook> {
        Self::start_with(settings, &Pace::default())
    }

    fn start_with(settings: Vec<WebhookSettings>, pace: &Pace) -> Result<Self, InvalidWebhook> {
        if settings.is_empty() {
            return Ok(Self { hooks: Vec::new() });
        }
        let numbered = settings.into_iter().enumerate();
        let hooks = numbered.map(|(at, hook)| Hook::new(at + 1, hook)).collect::<Result<Vec<_>, _>>()?;
        install_crypto();
        // A receiver that redirects is refused: the signature is for this URL's owner.
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(pace.attempt);
        let client = client.user_agent(concat!("mtxfleet/", env!("CARGO_PKG_VERSION"))).build();
        let client = client.map_err(|error| InvalidWebhook::Client { why: error.to_string() })?;
        let start = |hook: Hook| {
            let hook = Arc::new(hook);
            let (queue, messages) = mpsc::channel(WAITING);
            tokio::spawn(run(Arc::clone(&hook), messages, client.clone(), pace.clone()));
            (queue, hook)
        };
        Ok(Self { hooks: hooks.into_iter().map(start).collect() })
    }

    /// Sends the event to every hook that wants it. Never waits.
    pub fn send(&self, event: &FleetEvent) {
        let mut delivery = None;
        for (queue, hook) in self.hooks.iter().filter(|(_, hook)| hook.wants(event.what.name())) {
            if hook.stopped.load(Relaxed) {
                hook.dropped.fetch_add(1, Relaxed);
                continue;
            }
            let delivery = delivery.get_or_insert_with(|| Delivery {
                id: event.id.as_str().to_owned(),
                body: serde_json::to_vec(event).unwrap_or_default().into(),
            });
            // Counted before it is sent: its task may take it off again at once.
            hook.waiting.fetch_add(1, Relaxed);
            if queue.try_send(Message::Event(delivery.clone())).is_err() {
                hook.waiting.fetch_sub(1, Relaxed);
                hook.dropped.fetch_add(1, Relaxed);
            }
        }
    }

    /// Waits until every event sent before was taken or given up, at most `within`. True when all were.
    pub async fn flush(&self, within: Duration) -> bool {
        let flushed = self.hooks.iter().map(async |(queue, _)| {
            let (done, wait) = oneshot::channel();
            queue.send(Message::Flush(done)).await.is_ok() && wait.await.is_ok()
        });
        let all = futures::future::join_all(flushed);
        tokio::time::timeout(within, all).await.is_ok_and(|flushed| flushed.into_iter().all(|done| done))
    }

    /// For [`super::http::Metrics::register_collector`].
    #[must_use]
    pub fn collector(&self) -> Collector {
        let hooks: Vec<Arc<Hook>> = self.hooks.iter().map(|(_, hook)| Arc::clone(hook)).collect();
        Box::new(move || {
            let of = |hook: &Hook| {
                let label = [("hook", hook.name.as_str())];
                [
                    (&DELIVERED, &hook.delivered),
                    (&FAILED, &hook.failed),
                    (&DROPPED, &hook.dropped),
                    (&QUEUED, &hook.waiting),
                ]
                .map(|(metric, count)| metric.labelled(&label, count.load(Relaxed) as f64))
            };
            hooks.iter().flat_map(|hook| of(hook)).collect()
        })
    }
}

static DELIVERED: Metric = Metric::counter("mtxfleet_webhook_delivered_total", "Events that the receiver took.");
static FAILED: Metric = Metric::counter("mtxfleet_webhook_failed_attempts_total", "Attempts that failed.");
static DROPPED: Metric = Metric::counter("mtxfleet_webhook_dropped_total", "Events given up.");
static QUEUED: Metric = Metric::gauge("mtxfleet_webhook_waiting", "Events that wait.");

/// One receiver.
struct Hook {
    /// Host and number, for logs and metrics: the rest of a URL is often a secret.
    name: String,
    url: Url,
    key: Vec<u8>,
    events: Vec<String>,
    delivered: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
    waiting: AtomicU64,
    /// It answered `410 Gone`.
    stopped: AtomicBool,
}

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hook").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What an attempt came to.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Taken,
    Gone,
    Failed { why: String, retry_after: Option<Duration> },
}

impl Hook {
    fn new(number: usize, settings: WebhookSettings) -> Result<Self, InvalidWebhook> {
        let url = settings.url;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(InvalidWebhook::Url { number });
        }
        let key = settings.secret.strip_prefix("whsec_").and_then(|text| STANDARD.decode(text).ok());
        let key = key.filter(|key| (24..=64).contains(&key.len())).ok_or(InvalidWebhook::Secret { number })?;
        for name in &settings.events {
            let known = EventKind::NAMES.iter().any(|event| matches(name, event));
            if !known {
                return Err(InvalidWebhook::Event { number, name: name.clone() });
            }
        }
        Ok(Self {
            name: format!("{}#{number}", url.host_str().unwrap_or_default()),
            url,
            key,
            events: settings.events,
            delivered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        })
    }

    fn wants(&self, event: &str) -> bool {
        self.events.is_empty() || self.events.iter().any(|wanted| matches(wanted, event))
    }

    async fn deliver(&self, client: &reqwest::Client, delivery: &Delivery, pace: &Pace) {
        let mut pauses = pace.pauses.iter();
        loop {
            let (why, asked) = match self.attempt(client, delivery).await {
                Outcome::Taken => {
                    self.delivered.fetch_add(1, Relaxed);
                    return;
                }
                Outcome::Gone => {
                    tracing::warn!(hook = self.name, "the webhook answered 410 Gone and is stopped");
                    self.stopped.store(true, Relaxed);
                    self.dropped.fetch_add(1, Relaxed);
                    return;
                }
                Outcome::Failed { why, retry_after } => (why, retry_after),
            };
            self.failed.fetch_add(1, Relaxed);
            let Some(pause) = pauses.next() else {
                tracing::warn!(hook = self.name, event = delivery.id, why, "a webhook's event is given up");
                self.dropped.fetch_add(1, Relaxed);
                return;
            };
            tokio::time::sleep(asked.map_or(*pause, |asked| asked.clamp(*pause, pace.longest))).await;
        }
    }

    async fn attempt(&self, client: &reqwest::Client, delivery: &Delivery) -> Outcome {
        let timestamp = Clock::wall().0 / 1_000;
        let request = client
            .post(self.url.clone())
            .header("content-type", "application/json")
            .header("webhook-id", &delivery.id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature(&self.key, &delivery.id, timestamp, &delivery.body))
            .body(delivery.body.clone());
        let answer = match request.send().await {
            Ok(answer) => answer,
            // Without the URL, which may hold a secret.
            Err(error) => return Outcome::Failed { why: error.without_url().to_string(), retry_after: None },
        };
        match answer.status() {
            status if status.is_success() => Outcome::Taken,
            StatusCode::GONE => Outcome::Gone,
            status => {
                let waits = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&status);
                let after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
                let retry_after = after.filter(|_| waits).map(Duration::from_secs);
                Outcome::Failed { why: format!("it answered {status}"), retry_after }
            }
        }
    }
}

/// Whether the filter `wanted`, a name or the begin of some with `*` after it, takes the event.
pub(crate) fn matches(wanted: &str, event: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(begin) => event.starts_with(begin),
        None => wanted == event,
    }
}

/// The header `webhook-signature`: version 1, HMAC-SHA256 over id, timestamp and body.
fn signature(key: &[u8], id: &str, timestamp: u64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

async fn run(hook: Arc<Hook>, mut messages: mpsc::Receiver<Message>, client: reqwest::Client, pace: Pace) {
    while let Some(message) = messages.recv().await {
        match message {
            Message::Flush(done) => {
                let _ = done.send(());
            }
            Message::Event(delivery) => {
                if hook.stopped.load(Relaxed) {
                    hook.dropped.fetch_add(1, Relaxed);
                } else {
                    hook.deliver(&client, &delivery, &pace).await;
                }
                hook.waiting.fetch_sub(1, Relaxed);
            }
        }
    }
}
