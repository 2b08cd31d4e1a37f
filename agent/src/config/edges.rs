//! `[http]`, `[resolver]`, `[balancer.haproxy]`, `[[webhook]]` and `[log]`.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use mtxfleet_wire::EventKind;
use url::Url;

use super::cluster::{NodeSection, host_port};
use super::fleet::socket;
use super::secret::Secret;
use super::section::Section;
use super::server::http_url;

/// `[http]`.
#[derive(Debug, Clone)]
pub struct Http {
    /// TCP (`127.0.0.1:8780`); other nodes and workers reach it only when this is not loopback.
    pub listen: SocketAddr,
    /// How others reach it (`http://`, `node.advertise` and the port of `listen`).
    pub advertise: Url,
    /// Bearer token of whatever changes something (none: nothing can be changed over HTTP).
    pub token: Option<Secret>,
    /// Bearer token that is good for workers' reports only (none).
    pub worker_token: Option<Secret>,
}

/// `[resolver]`.
#[derive(Debug, Clone)]
pub struct Resolver {
    /// Loopback (`127.0.0.1:8700`).
    pub listen: SocketAddr,
    /// A question about a stream without an owner is held so long (8 s; MediaMTX gives a source 10 s).
    pub hold: Duration,
    /// Connections beyond are closed at once (256).
    pub max_connections: usize,
}

/// `[distribution]`, as far as it says how a node of it gets streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Distribution {
    /// How MediaMTX gets a stream (`redirect`).
    pub source: Source,
    /// Streams relayed at a time (500); further ones are redirected.
    pub relay_max_streams: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// It is told who owns it, and pulls it from there: another owner means another source, and readers are cut.
    Redirect,
    /// From this agent, which pulls it from the owner: another owner goes unseen.
    Relay,
}

/// `[balancer.haproxy]`.
#[derive(Debug, Clone)]
pub struct Balancer {
    /// Where HAProxy's agent checks are answered (`0.0.0.0:8790`).
    pub agent_check: SocketAddr,
    /// Pollers that must have seen a drain, as `agent-send` names them (none: those seen).
    pub expected_pollers: Vec<String>,
    /// No new session for so long after the balancers know: then none will come (1 s).
    pub quiet: Duration,
}

/// `[[webhook]]`, after the Standard Webhooks specification.
#[derive(Debug, Clone)]
pub struct Webhook {
    pub url: Url,
    /// `whsec_` and base64 of 24 to 64 bytes.
    pub secret: Secret,
    /// Types of event that go there (empty: all).
    pub events: Vec<String>,
}

/// `[log]`.
#[derive(Debug, Clone)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,mtxfleet=debug` (`info`).
    pub level: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

pub(super) fn http(section: &Section<'_>, node: Option<&NodeSection>) -> Option<Http> {
    let listen = section.read("listen", "127.0.0.1:8780", socket);
    let default = "`http://`, `node.advertise` and the port of `listen`";
    let advertise = section.optional("advertise", default, "http://10.0.0.7:8780", http_url);
    let token = section.secret("token", "token_file", "a long random text", token);
    let worker_token = section.secret("worker_token", "worker_token_file", "a long random text", self::token);
    let listen = listen?;
    let reached =
        node.and_then(|node| Url::parse(&format!("http://{}", host_port(&node.advertise, listen.port()))).ok());
    Some(Http { listen, advertise: advertise?.or(reached)?, token: token?, worker_token: worker_token? })
}

/// Short ones can be tried out over the network.
fn token(text: &str) -> Result<Secret, String> {
    let fits = text.len() >= 16 && text.len() <= 512 && text.chars().all(|c| c.is_ascii_graphic());
    if fits {
        Ok(Secret::new(text))
    } else {
        Err("must be 16 to 512 visible ASCII characters; openssl rand -hex 32 makes one".to_owned())
    }
}

pub(super) fn resolver(section: &Section<'_>) -> Option<Resolver> {
    let listen = section.read("listen", "127.0.0.1:8700", |text| {
        let address = socket(text)?;
        if address.ip().is_loopback() {
            return Ok(address);
        }
        Err(format!(
            "{text:?} is not on loopback, where only this machine's MediaMTX can ask; choose 127.0.0.1 or [::1]"
        ))
    });
    let hold = section.duration("hold", "8s", "0s"..="9500ms");
    let max_connections = section.integer("max_connections", 256, 1..=65_536);
    Some(Resolver { listen: listen?, hold: hold?, max_connections: max_connections? as usize })
}

pub(super) fn distribution(section: &Section<'_>) -> Option<Distribution> {
    let source = section.choice("source", "redirect", &[("redirect", Source::Redirect), ("relay", Source::Relay)]);
    let relay_max_streams = section.integer("relay_max_streams", 500, 1..=10_000);
    Some(Distribution { source: source?, relay_max_streams: relay_max_streams? as usize })
}

pub(super) fn balancer(section: &Section<'_>) -> Option<Balancer> {
    let section = section.table("haproxy");
    let agent_check = section.read("agent_check", "0.0.0.0:8790", socket);
    let expected_pollers = section.list("expected_pollers", |text| {
        let text = text.trim();
        if text.is_empty() {
            Err("holds an empty name; write what agent-send says, such as \"lb-1/distribution_rtsp/dist-1\"".to_owned())
        } else {
            Ok(text.to_owned())
        }
    });
    let quiet = section.duration("quiet", "1s", "0s"..="10m");
    Some(Balancer { agent_check: agent_check?, expected_pollers: expected_pollers?, quiet: quiet? })
}

pub(super) fn webhook(section: &Section<'_>) -> Option<Webhook> {
    let url = section.required("url", "https://hooks.example/mtxfleet", http_url);
    let secret = section.required("secret", "whsec_...", |text| {
        let bytes = text.strip_prefix("whsec_").map(|key| base64::engine::general_purpose::STANDARD.decode(key));
        match bytes {
            Some(Ok(bytes)) if (24..=64).contains(&bytes.len()) => Ok(Secret::new(text)),
            _ => {
                Err("must be whsec_ and base64 of 24 to 64 bytes; make it with: echo whsec_$(openssl rand -base64 32)"
                    .to_owned())
            }
        }
    });
    let events = section.list("events", |text| {
        if EventKind::NAMES.iter().any(|event| crate::edge::webhook::matches(text, event)) {
            Ok(text.to_owned())
        } else {
            Err(format!("{text:?} is no event; choose from {}", EventKind::NAMES.join(", ")))
        }
    });
    Some(Webhook { url: url?, secret: secret?, events: events? })
}

pub(super) fn log(section: &Section<'_>) -> Option<Log> {
    let level = section.read("level", "info", |text| {
        let problem = |error: String| format!("{text:?} is no level: {error}; write for example \"info\"");
        let named = ["error", "warn", "info", "debug", "trace", "off"].contains(&text) || text.contains(['=', ',']);
        if !named {
            return Err(problem("not known".to_owned()));
        }
        text.parse::<tracing_subscriber::filter::EnvFilter>().map_err(|error| problem(error.to_string()))?;
        Ok(text.to_owned())
    });
    let format = section.choice("format", "text", &[("text", LogFormat::Text), ("json", LogFormat::Json)]);
    Some(Log { level: level?, format: format? })
}
