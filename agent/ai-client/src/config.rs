//! What a stream needs to be opened, and its checking.

use std::time::Duration;

use mtxfleet_wire::{ClusterName, RegistryKeys, StreamName, WorkerId};
use url::Url;

use crate::checkpoint::Checkpoints;
use crate::following::Follow;
use crate::tls::Tls;
pub use crate::tls::Trust;

/// Frames that may wait in the channel to the application; far more than memory holds of most cameras.
const LARGEST_BUFFER: usize = 65_536;

/// How a worker reaches the nodes that a draining node names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Via {
    /// By the node's own address; the stable URL only when every candidate fails.
    #[default]
    Direct,
    /// Through the stable URL, which by then leads elsewhere: for workers that see only the load balancer.
    StableUrl,
}

/// User name and password for RTSP.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub user: String,
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// What [`crate::Stream::open`] needs. Begin with [`StreamConfig::new`] and change fields as needed.
#[derive(Clone)]
pub struct StreamConfig {
    /// The camera: its path on the servers, such as `cam1` or `site/cam1`.
    pub stream: String,
    /// This worker's own name, the same after a restart. Two processes must not share one.
    pub worker: String,
    /// The stable URL without the stream: `rtsp://live.example:8554`. User and password may stand in it. With
    /// `rtsps://` every leg goes through TLS: the addresses of nodes that the agents tell must then be those of their
    /// RTSPS ports too.
    pub url: String,
    /// Name of the fleet, as in the agents' configuration.
    pub cluster: String,
    /// `redis://host:port`: notices come, and reports go, through it while it is there.
    pub redis: Option<String>,
    /// `http://host:port` of some agents: the other way for notices and reports.
    pub agents: Vec<String>,
    /// Bearer token for `POST /v1/worker-reports`, `/v1/recordings` and `/v1/playback`.
    pub worker_token: Option<String>,
    pub via: Via,
    pub credentials: Option<Credentials>,
    /// Which servers are trusted behind `rtsps://`.
    pub trust: Trust,
    /// Frames kept for an application that is behind, 1 to 65,536. When as many wait, reading pauses; the server then keeps some
    /// (512 packets by MediaMTX's default) and throws away the rest, which is counted as lost.
    pub buffer: usize,
    /// Frames give their RTP packets ([`crate::Frame::packets`]), for who sends them on; no frame is put together then:
    /// [`crate::Frame::data`] holds the payloads, whatever the codec. A keyframe's are as they came: whether parameter sets are
    /// among them, [`crate::Frame::parameter_sets`] says.
    pub rtp_packets: bool,
    /// Legs that read at all times, 1 or 2 (1): with two, each at another node, the crash of one costs no pause. Needs
    /// `agents`, which say where nodes are, and `Via::Direct`; doubles the traffic.
    pub redundancy: u8,
    /// The stream is read from its owner, not through `url`, and no notice is waited for: see [`StreamConfig::following`].
    pub follow: Option<Follow>,
    /// Where the worker is with the stream is kept, in Redis and in a journal on disk: one that starts again goes on
    /// after the last frame that it finished with (none: it begins at the live end). Needs `redis`, a journal, or both.
    pub checkpoints: Option<Checkpoints>,
    /// Frames that no leg brings are read from the recordings of the ingestion nodes, through `agents`, with
    /// `worker_token`. Needs at least one agent.
    pub recordings: bool,
    /// While live frames wait for what a recording still has to give: how long no new frame of it may come before they go
    /// on without, and the gap is told.
    pub recording_timeout: Duration,
    /// How long [`crate::Stream::open`] tries before it fails.
    pub open_timeout: Duration,
    /// How long a new leg may take until its first packet; a node that must fetch the stream starts at a keyframe.
    pub leg_timeout: Duration,
    /// How long a new leg may run beside the old one until every track is joined.
    pub cover_timeout: Duration,
    /// A leg that delivers nothing for this long is taken for dead and replaced. To be longer than the camera's
    /// longest pause between two pictures.
    pub silence_timeout: Duration,
    /// How long an opened stream tries to come back before it ends with [`crate::Error::Gone`]; `None` is for ever.
    pub give_up_after: Option<Duration>,
}

impl StreamConfig {
    /// A configuration with the defaults: no Redis, no agents, [`Via::Direct`], 256 frames, 15 s to open.
    #[must_use]
    pub fn new(
        stream: impl Into<String>,
        worker: impl Into<String>,
        url: impl Into<String>,
        cluster: impl Into<String>,
    ) -> Self {
        Self {
            stream: stream.into(),
            worker: worker.into(),
            url: url.into(),
            cluster: cluster.into(),
            redis: None,
            agents: Vec::new(),
            worker_token: None,
            via: Via::default(),
            credentials: None,
            trust: Trust::default(),
            buffer: 256,
            rtp_packets: false,
            redundancy: 1,
            follow: None,
            checkpoints: None,
            recordings: true,
            recording_timeout: Duration::from_secs(5),
            open_timeout: Duration::from_secs(15),
            leg_timeout: Duration::from_secs(10),
            cover_timeout: Duration::from_secs(20),
            silence_timeout: Duration::from_secs(6),
            give_up_after: None,
        }
    }

    /// For who knows the stream's owner, and serves it on: read from there with these credentials, and moved when the owner
    /// changes. Gives up nothing but what is said otherwise: no Redis, no agents, no recordings, RTP packets.
    #[must_use]
    pub fn following(stream: impl Into<String>, follow: Follow, credentials: Option<Credentials>) -> Self {
        let worker = follow.node.to_string();
        Self {
            follow: Some(follow),
            credentials,
            rtp_packets: true,
            recordings: false,
            // Neither is used: legs go to owners, as pulls of the node.
            ..Self::new(stream, worker, "rtsp://owner.invalid", "none")
        }
    }

    /// Whether [`crate::Stream::open`] would take it, for who opens streams later than it is configured.
    ///
    /// # Errors
    /// [`crate::Error::Config`] with every fault at once.
    pub fn check(&self) -> Result<(), crate::Error> {
        Settings::try_from(self.clone()).map(drop).map_err(crate::Error::Config)
    }
}

impl std::fmt::Debug for StreamConfig {
    /// Without token, password, and Redis URL, which may hold one.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamConfig")
            .field("stream", &self.stream)
            .field("worker", &self.worker)
            .field("cluster", &self.cluster)
            .field("redis", &self.redis.is_some())
            .field("agents", &self.agents)
            .field("via", &self.via)
            .finish_non_exhaustive()
    }
}

/// A [`StreamConfig`] that was checked.
#[derive(Clone)]
pub(crate) struct Settings {
    pub stream: StreamName,
    pub worker: WorkerId,
    /// Without path, user or password.
    pub base: Url,
    pub keys: RegistryKeys,
    pub redis: Option<redis::Client>,
    pub agents: Vec<Url>,
    pub worker_token: Option<String>,
    pub via: Via,
    pub credentials: Option<Credentials>,
    /// `None` for RTSP without it.
    pub tls: Option<Tls>,
    pub buffer: usize,
    pub rtp_packets: bool,
    pub follow: Option<Follow>,
    /// A second leg at another node.
    pub redundant: bool,
    /// Frames can be had from recordings.
    pub recordings: bool,
    pub recording_timeout: Duration,
    pub open_timeout: Duration,
    pub leg_timeout: Duration,
    pub cover_timeout: Duration,
    pub silence_timeout: Duration,
    pub give_up_after: Option<Duration>,
}

impl TryFrom<StreamConfig> for Settings {
    /// Every fault, one a line.
    type Error = String;

    fn try_from(raw: StreamConfig) -> Result<Self, String> {
        let mut faults = Vec::new();
        let stream = note(&mut faults, StreamName::new(raw.stream).map_err(|e| e.to_string()));
        let worker = note(&mut faults, WorkerId::new(raw.worker).map_err(|e| e.to_string()));
        let cluster = note(&mut faults, ClusterName::new(raw.cluster).map_err(|e| e.to_string()));
        let base = note(&mut faults, base_url(&raw.url));
        let tls = base.as_ref().filter(|(url, _)| url.scheme() == "rtsps").and_then(|(url, _)| {
            let tls = Tls::new(&raw.trust, url.host_str().unwrap_or_default());
            note(&mut faults, tls.map_err(|fault| format!("trust: {fault}")))
        });
        if raw.trust != Trust::Machine && base.as_ref().is_some_and(|(url, _)| url.scheme() == "rtsp") {
            faults.push("trust: only rtsps:// has servers to be trusted".to_owned());
        }
        let wants_redis = raw.redis.is_some();
        let redis = raw.redis.and_then(|url| {
            let client = redis::Client::open(url).map_err(|e| format!("redis: {e}; write redis://host:port"));
            note(&mut faults, client)
        });
        let agents: Vec<Url> = raw.agents.iter().filter_map(|url| note(&mut faults, agent_url(url))).collect();
        if raw.buffer == 0 || raw.buffer > LARGEST_BUFFER {
            faults.push(format!("buffer: 1 to {LARGEST_BUFFER} frames"));
        }
        let limits = [
            ("leg_timeout", raw.leg_timeout),
            ("cover_timeout", raw.cover_timeout),
            ("silence_timeout", raw.silence_timeout),
        ];
        for (name, _) in limits.iter().filter(|(_, limit)| limit.is_zero()) {
            faults.push(format!("{name}: longer than 0, or no leg lasts"));
        }
        if !matches!(raw.redundancy, 1 | 2) {
            faults.push("redundancy: 1 or 2".to_owned());
        }
        if raw.redundancy == 2 && (raw.agents.is_empty() || raw.via == Via::StableUrl) {
            faults.push("redundancy: 2 needs agents, and Via::Direct, to find a second node".to_owned());
        }
        if raw.follow.is_some() && raw.redundancy == 2 {
            faults.push("redundancy: 1 where an owner is followed, since there is one".to_owned());
        }
        if let Some(rules) = &raw.checkpoints {
            if rules.every_frames == 0 || rules.every.is_zero() {
                faults.push("checkpoints: every_frames and every are over 0".to_owned());
            }
            if rules.journal.is_none() && !wants_redis {
                faults.push("checkpoints: they need redis, or a folder for the journal, to be kept in".to_owned());
            }
        }
        let (Some(stream), Some(worker), Some(cluster), Some((base, in_url)), true) =
            (stream, worker, cluster, base, faults.is_empty())
        else {
            return Err(faults.join("\n"));
        };
        Ok(Self {
            stream,
            worker,
            base,
            keys: RegistryKeys::new(&cluster),
            redis,
            redundant: raw.redundancy == 2,
            follow: raw.follow,
            recordings: raw.recordings && !agents.is_empty(),
            recording_timeout: raw.recording_timeout,
            agents,
            worker_token: raw.worker_token,
            via: raw.via,
            credentials: raw.credentials.or(in_url),
            tls,
            buffer: raw.buffer,
            rtp_packets: raw.rtp_packets,
            open_timeout: raw.open_timeout,
            leg_timeout: raw.leg_timeout,
            cover_timeout: raw.cover_timeout,
            silence_timeout: raw.silence_timeout,
            give_up_after: raw.give_up_after,
        })
    }
}

fn note<T>(faults: &mut Vec<String>, checked: Result<T, String>) -> Option<T> {
    checked.map_err(|fault| faults.push(fault)).ok()
}

/// The stable URL without its credentials, and those.
fn base_url(text: &str) -> Result<(Url, Option<Credentials>), String> {
    let wanted = "write rtsp://host:port, without the stream";
    let mut url = Url::parse(text).map_err(|e| format!("url: {e}; {wanted}"))?;
    if !matches!(url.scheme(), "rtsp" | "rtsps") || url.host().is_none() {
        return Err(format!("url: it must begin with rtsp:// or rtsps:// and have a host; {wanted}"));
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err(format!("url: no path and no query, the stream has its own field; {wanted}"));
    }
    let credentials = (!url.username().is_empty())
        .then(|| Credentials { user: decoded(url.username()), password: decoded(url.password().unwrap_or_default()) });
    let cleared = url.set_username("").and_then(|()| url.set_password(None));
    cleared.map_err(|()| format!("url: user and password cannot be taken from it; {wanted}"))?;
    Ok((url, credentials))
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn agent_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|e| format!("agent {text:?}: {e}; write http://host:port"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(format!("agent {text:?}: write http://host:port"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_told_at_once() {
        let bad = StreamConfig {
            agents: vec!["ftp://x".into()],
            redis: Some("not a url".into()),
            buffer: 0,
            silence_timeout: Duration::ZERO,
            ..StreamConfig::new("", "a worker", "rtsp://live.example/cam1", "lab")
        };
        let faults = Settings::try_from(bad).err().expect("refused");
        for part in ["stream name", "worker id", "no path", "redis", "ftp://x", "buffer", "silence_timeout"] {
            assert!(faults.contains(part), "{part} is missing in:\n{faults}");
        }
        let endless =
            StreamConfig { buffer: usize::MAX, ..StreamConfig::new("cam1", "w", "rtsp://live.example", "lab") };
        assert!(Settings::try_from(endless).is_err(), "no channel is so large");
    }

    #[test]
    fn credentials_in_the_url_are_used_and_never_sent_in_it() {
        let config = StreamConfig::new("cam1", "w", "rtsp://ann:se%20cret@live.example:8554", "lab");
        let settings = Settings::try_from(config).expect("accepted");
        assert_eq!(settings.base.as_str(), "rtsp://live.example:8554");
        let found = settings.credentials.expect("found");
        assert_eq!((found.user.as_str(), found.password.as_str()), ("ann", "se cret"));
    }
}
