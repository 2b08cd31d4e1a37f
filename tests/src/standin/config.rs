//! The part of `mediamtx.yml` that the stand-in understands.
//!
//! It reads the files that crate `mediamtx-config` renders and that the real server reads. Keys it does not know are
//! ignored; protocols it does not speak are named by [`Config::unserved`], so that nobody waits for them. Defaults are
//! those of MediaMTX 1.20.1.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use anyhow::{Context, bail, ensure};
use base64::Engine;
use regex_lite::Regex;
use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};

use super::recording;

/// What the stand-in needs to know, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where RTSP is served over TCP.
    pub rtsp_address: String,
    /// Where the control API is served, when it is on.
    pub api_address: Option<String>,
    /// Where metrics are served, when they are on.
    pub metrics_address: Option<String>,
    /// Where recordings are served, when they are.
    pub playback_address: Option<String>,
    /// After this long without data, a publisher or a source is given up.
    pub read_timeout: Duration,
    /// A client that takes no data for this long is closed.
    pub write_timeout: Duration,
    /// Packets that wait for one reader; further ones are discarded.
    pub write_queue_size: usize,
    /// HLS is on in the file: its lists answer, empty.
    pub hls: bool,
    /// WebRTC is on in the file: its lists answer, empty.
    pub webrtc: bool,
    users: Vec<User>,
    pub(super) paths: Vec<Arc<PathConf>>,
    defaults: RawPath,
    unserved: Vec<&'static str>,
}

/// Settings of one path, or of all that match a regular expression.
#[derive(Debug, Clone)]
pub struct PathConf {
    /// As in the file: `cam1`, `~^(.+)$` or `all_others`.
    pub name: String,
    /// Where the stream is pulled from; `None` for a path that is published to.
    pub source: Option<String>,
    /// Pull only while somebody reads.
    pub on_demand: bool,
    /// How long readers wait for the source.
    pub start_timeout: Duration,
    /// How long the source goes on after the last reader.
    pub close_after: Duration,
    /// Readers get the source's wall time, not the stand-in's own.
    pub absolute_timestamp: bool,
    /// Free text that the real server keeps and does not use for sources of RTSP: `rpiCameraTextOverlay`.
    pub text_overlay: String,
    /// How it is recorded, when it is.
    pub(super) recording: Option<recording::Settings>,
    regex: Option<Regex>,
}

/// What a client wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Send a stream.
    Publish,
    /// Receive a stream.
    Read,
    /// Use the control API.
    Api,
    /// Read metrics.
    Metrics,
    /// Get recordings.
    Playback,
    /// Anything the stand-in has not got.
    #[serde(other)]
    Other,
}

/// A user name and password, as sent with the Basic scheme.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user name.
    pub user: String,
    /// The password.
    pub pass: String,
}

impl Credentials {
    /// From the value of an `Authorization` header (RFC 7617); `None` when it is of another scheme, or damaged.
    pub fn from_header(value: &str) -> Option<Self> {
        let (scheme, encoded) = value.split_once(' ')?;
        let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
        let (user, pass) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
        scheme.eq_ignore_ascii_case("basic").then(|| Credentials { user: user.to_owned(), pass: pass.to_owned() })
    }
}

#[derive(Debug, Clone, Deserialize)]
struct User {
    user: String,
    #[serde(default)]
    pass: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    ips: Vec<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    permissions: Vec<Permission>,
}

#[derive(Debug, Clone, Deserialize)]
struct Permission {
    action: Action,
    #[serde(default)]
    path: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Raw {
    rtsp: bool,
    rtsp_address: String,
    rtmp: bool,
    hls: bool,
    webrtc: bool,
    srt: bool,
    moq: bool,
    playback: bool,
    playback_address: String,
    api: bool,
    api_address: String,
    metrics: bool,
    metrics_address: String,
    read_timeout: Span,
    write_timeout: Span,
    write_queue_size: usize,
    auth_method: String,
    auth_internal_users: Option<Vec<User>>,
    path_defaults: Option<RawPath>,
    paths: Option<BTreeMap<String, Option<RawPath>>>,
}

impl Default for Raw {
    fn default() -> Self {
        Raw {
            rtsp: true,
            rtsp_address: ":8554".to_owned(),
            rtmp: true,
            hls: true,
            webrtc: true,
            srt: true,
            moq: true,
            playback: false,
            playback_address: ":9996".to_owned(),
            api: false,
            api_address: ":9997".to_owned(),
            metrics: false,
            metrics_address: ":9998".to_owned(),
            read_timeout: Span(Duration::from_secs(10)),
            write_timeout: Span(Duration::from_secs(10)),
            write_queue_size: 512,
            auth_method: "internal".to_owned(),
            auth_internal_users: None,
            path_defaults: None,
            paths: None,
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawPath {
    source: Option<String>,
    source_on_demand: Option<bool>,
    source_on_demand_start_timeout: Option<Span>,
    source_on_demand_close_after: Option<Span>,
    use_absolute_timestamp: Option<bool>,
    rpi_camera_text_overlay: Option<String>,
    record: Option<bool>,
    record_path: Option<String>,
    record_part_duration: Option<Span>,
    record_segment_duration: Option<Span>,
    record_delete_after: Option<Span>,
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    ///
    /// When it is no YAML, a value is of a wrong kind, or it asks for something that changes who may do what and that
    /// the stand-in cannot do (external authentication, hashed passwords other than SHA-256).
    pub fn parse(yaml: &str) -> anyhow::Result<Config> {
        let raw: Raw = serde_saphyr::from_str(yaml).context("the configuration cannot be read")?;
        ensure!(raw.rtsp, "rtsp is off: the stand-in serves nothing else, use the real MediaMTX");
        ensure!(raw.auth_method == "internal", "authMethod {}: the stand-in knows `internal` only", raw.auth_method);
        ensure!((1..=1 << 20).contains(&raw.write_queue_size), "writeQueueSize must be 1 to 1048576");
        let unserved =
            [("rtmp", raw.rtmp), ("hls", raw.hls), ("webrtc", raw.webrtc), ("srt", raw.srt), ("moq", raw.moq)];
        let users = raw.auth_internal_users.unwrap_or_else(default_users);
        for secret in users.iter().filter_map(|user| user.pass.as_deref()) {
            ensure!(!secret.starts_with("argon2:"), "argon2 passwords need the real MediaMTX");
        }
        let defaults = raw.path_defaults.unwrap_or_default();
        let mut paths = raw
            .paths
            .unwrap_or_default()
            .into_iter()
            .map(|(name, path)| PathConf::new(name, path.unwrap_or_default(), &defaults))
            .collect::<anyhow::Result<Vec<_>>>()?;
        paths.sort_by_key(PathConf::rank);
        Ok(Config {
            rtsp_address: listen_address(&raw.rtsp_address),
            api_address: raw.api.then(|| listen_address(&raw.api_address)),
            metrics_address: raw.metrics.then(|| listen_address(&raw.metrics_address)),
            playback_address: raw.playback.then(|| listen_address(&raw.playback_address)),
            read_timeout: raw.read_timeout.0,
            write_timeout: raw.write_timeout.0,
            write_queue_size: raw.write_queue_size,
            hls: raw.hls,
            webrtc: raw.webrtc,
            users,
            paths: paths.into_iter().map(Arc::new).collect(),
            defaults,
            unserved: unserved.into_iter().filter_map(|(name, on)| on.then_some(name)).collect(),
        })
    }

    /// Protocols that the file turns on (or does not turn off) and that the stand-in does not speak.
    pub fn unserved(&self) -> &[&'static str] {
        &self.unserved
    }

    /// The settings of a path as the API gives them, over `pathDefaults`.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    pub fn path_by_api(&self, name: &str, json: &[u8]) -> anyhow::Result<PathConf> {
        PathConf::new(name.to_owned(), serde_json::from_slice(json)?, &self.defaults)
    }

    /// The settings for path `name`, and the source's URL with `$G1` and `$MTX_QUERY` filled in. `None` when no entry
    /// matches.
    pub fn path(&self, name: &str, query: &str) -> Option<(Arc<PathConf>, Option<String>)> {
        find_path(&self.paths, name, query)
    }

    /// Whether somebody at `ip` with these credentials may do `action` on `path` (empty for the API and metrics).
    pub fn allows(&self, action: Action, path: &str, credentials: Option<&Credentials>, ip: IpAddr) -> bool {
        self.users.iter().any(|user| {
            user.is(credentials)
                && (user.ips.is_empty() || user.ips.iter().any(|range| contains(range, ip)))
                && user.permissions.iter().any(|permission| permission.allows(action, path))
        })
    }
}

/// As [`Config::path`], among `paths`, which are in the order of [`PathConf::rank`].
pub(super) fn find_path(paths: &[Arc<PathConf>], name: &str, query: &str) -> Option<(Arc<PathConf>, Option<String>)> {
    paths.iter().find_map(|path| {
        let groups: Vec<String> = match &path.regex {
            None if path.name == name => Vec::new(),
            None => return None,
            Some(regex) => {
                let found = regex.captures(name)?;
                found.iter().map(|group| group.map_or(String::new(), |g| g.as_str().to_owned())).collect()
            }
        };
        let source = path.source.as_ref().map(|source| {
            let filled = source.replace("$MTX_QUERY", query).replace("$MTX_PATH", name);
            groups.iter().enumerate().fold(filled, |url, (i, group)| url.replace(&format!("$G{i}"), group))
        });
        Some((path.clone(), source))
    })
}

impl PathConf {
    /// As the real one tries them: plain names, then expressions by name, then the rest.
    pub(super) fn rank(&self) -> (bool, bool, String) {
        (self.regex.is_some(), self.is_all_others(), self.name.clone())
    }

    /// A name of its own, and a source that is pulled all the time.
    pub(super) fn is_persistent(&self) -> bool {
        self.regex.is_none() && self.source.is_some() && !self.on_demand
    }

    fn new(name: String, own: RawPath, defaults: &RawPath) -> anyhow::Result<PathConf> {
        let regex = match name.strip_prefix('~') {
            Some(pattern) => Some(Regex::new(pattern).with_context(|| format!("path {name:?} is no expression"))?),
            None if matches!(name.as_str(), "all_others" | "all") => Some(Regex::new(".+")?),
            None => None,
        };
        let recorded = own.record.or(defaults.record).unwrap_or(false);
        let recording = recorded.then(|| own.recording(defaults)).transpose()?;
        let source = own.source.or_else(|| defaults.source.clone()).filter(|source| source != "publisher");
        if let Some(source) = &source {
            ensure!(source.starts_with("rtsp://"), "path {name:?}: the stand-in pulls rtsp:// only, not {source}");
        }
        let on_demand = own.source_on_demand.or(defaults.source_on_demand).unwrap_or(false);
        if source.is_some() && regex.is_some() && !on_demand {
            bail!("path {name:?} is an expression with a source: set sourceOnDemand to yes");
        }
        let ten_seconds = Span(Duration::from_secs(10));
        let start = own.source_on_demand_start_timeout.or(defaults.source_on_demand_start_timeout);
        let close = own.source_on_demand_close_after.or(defaults.source_on_demand_close_after);
        Ok(PathConf {
            recording,
            on_demand,
            start_timeout: start.unwrap_or(ten_seconds).0,
            close_after: close.unwrap_or(ten_seconds).0,
            absolute_timestamp: own.use_absolute_timestamp.or(defaults.use_absolute_timestamp).unwrap_or(false),
            text_overlay: own
                .rpi_camera_text_overlay
                .or_else(|| defaults.rpi_camera_text_overlay.clone())
                .unwrap_or_else(|| "%Y-%m-%d %H:%M:%S - MediaMTX".to_owned()),
            name,
            source,
            regex,
        })
    }

    fn is_all_others(&self) -> bool {
        matches!(self.name.as_str(), "all_others" | "all")
    }
}

impl RawPath {
    fn recording(&self, defaults: &RawPath) -> anyhow::Result<recording::Settings> {
        let own_or = |own: Option<Span>, default: Option<Span>, otherwise: u64| {
            own.or(default).map_or(Duration::from_millis(otherwise), |span| span.0)
        };
        let pattern = self.record_path.as_ref().or(defaults.record_path.as_ref());
        let pattern = pattern.map_or("./recordings/%path/%Y-%m-%d_%H-%M-%S-%f", String::as_str);
        let folder = pattern.rsplit_once('/').map(|(folder, _)| folder).filter(|folder| folder.ends_with("/%path"));
        Ok(recording::Settings {
            folder: folder
                .context("recordPath: the stand-in wants a folder for each path, as .../%path/NAME")?
                .to_owned(),
            part: own_or(self.record_part_duration, defaults.record_part_duration, 1_000),
            segment: own_or(self.record_segment_duration, defaults.record_segment_duration, 3_600_000),
            delete_after: own_or(self.record_delete_after, defaults.record_delete_after, 86_400_000),
        })
    }
}

impl User {
    fn is(&self, given: Option<&Credentials>) -> bool {
        if self.user == "any" {
            return true;
        }
        let Some(given) = given else { return false };
        matches(&self.user, &given.user) && self.pass.as_deref().is_none_or(|pass| matches(pass, &given.pass))
    }
}

impl Permission {
    fn allows(&self, action: Action, path: &str) -> bool {
        let here = match self.path.as_deref() {
            None | Some("") => true,
            Some(own) => match own.strip_prefix('~') {
                Some(pattern) => Regex::new(pattern).is_ok_and(|regex| regex.is_match(path)),
                None => own == path,
            },
        };
        self.action == action && here
    }
}

/// Compares with a plain value or one given as `sha256:BASE64`.
fn matches(expected: &str, given: &str) -> bool {
    match expected.strip_prefix("sha256:") {
        Some(hash) => base64::engine::general_purpose::STANDARD.encode(Sha256::digest(given)) == hash,
        None => expected == given,
    }
}

/// The real server's users when the file names none.
fn default_users() -> Vec<User> {
    let user = |ips: &[&str], actions: &[Action]| User {
        user: "any".to_owned(),
        pass: None,
        ips: ips.iter().map(|ip| (*ip).to_owned()).collect(),
        permissions: actions.iter().map(|action| Permission { action: *action, path: None }).collect(),
    };
    vec![
        user(&[], &[Action::Publish, Action::Read, Action::Playback]),
        user(&["127.0.0.1", "::1"], &[Action::Api, Action::Metrics]),
    ]
}

/// Whether `range` (an address, or a network as `address/bits`) holds `ip`.
fn contains(range: &str, ip: IpAddr) -> bool {
    let (address, bits) = match range.split_once('/') {
        Some((address, bits)) => (address, bits.parse::<u32>().ok()),
        None => (range, Some(128)),
    };
    match (address.parse(), ip, bits) {
        (Ok(IpAddr::V4(a)), IpAddr::V4(b), Some(bits)) => {
            let shift = 32 - bits.min(32);
            u32::from(a).checked_shr(shift) == u32::from(b).checked_shr(shift)
        }
        (Ok(IpAddr::V6(a)), IpAddr::V6(b), Some(bits)) => {
            let shift = 128 - bits.min(128);
            u128::from(a).checked_shr(shift) == u128::from(b).checked_shr(shift)
        }
        _ => false,
    }
}

/// `:8554` means every interface.
fn listen_address(address: &str) -> String {
    if address.starts_with(':') { format!("0.0.0.0{address}") } else { address.to_owned() }
}

/// A list written as `null`, or not written, is empty.
fn null_as_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// A duration as in the file: `10s`, `200ms`, `1m30s`, `1d`.
#[derive(Debug, Clone, Copy)]
struct Span(Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        span(&text).map(Span).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no duration (as 10s)")))
    }
}

fn span(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return None,
        };
        rest = &rest[unit..];
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests;
