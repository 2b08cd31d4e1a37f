//! What an agent sees of its own MediaMTX and its own machine, once a second.

use mtxfleet_wire::{Mono, UnixMillis};

/// One look at MediaMTX's API.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServerSample {
    /// When the look began.
    pub at: Mono,
    pub paths: Vec<PathSample>,
    /// Every connection that reads or publishes, of all protocols that are on.
    pub sessions: Vec<SessionSample>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct PathSample {
    pub name: String,
    /// `available` (before 1.20: `ready`): a reader gets media at once.
    pub available: bool,
    pub available_since: Option<UnixMillis>,
    /// Type of its source: `rtspSession` for a publisher, `rtspSource` for a pull; empty when there is none.
    pub source: String,
    pub inbound_bytes: u64,
    pub outbound_bytes: u64,
    pub readers: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Rtsp,
    Rtsps,
    Hls,
    WebRtc,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    Idle,
    Read,
    Publish,
}

#[derive(Debug, Clone, PartialEq)]
pub struct SessionSample {
    pub protocol: Protocol,
    /// The server's id of it, which `kick` takes.
    pub id: String,
    pub state: SessionState,
    pub path: String,
    /// The reader's own query, without `?`: `worker=anpr-1&leg=...`; `pull=NODE` and `warm=NODE` are members' own.
    pub query: String,
    /// `host:port` of the peer as MediaMTX sees it.
    pub remote: String,
    pub inbound_bytes: u64,
    pub outbound_bytes: u64,
    /// Packets thrown away since the reader was too slow.
    pub discarded_packets: u64,
}

/// Why there is no sample.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServerProblem {
    /// No connection, or no answer in time.
    #[error("MediaMTX is away: {0}")]
    Away(String),
    /// It answers, but not as MediaMTX should.
    #[error("MediaMTX answers oddly: {0}")]
    Odd(String),
}

/// The machine, by sysinfo. `None` is unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MachineSample {
    /// Share of all cores in use, 0.0 to 1.0.
    pub cpu: Option<f32>,
    /// Share of memory in use, 0.0 to 1.0.
    pub memory: Option<f32>,
    /// Bytes free on the disk that holds recordings.
    pub disk_free: Option<u64>,
}
