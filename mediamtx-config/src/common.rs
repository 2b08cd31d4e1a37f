//! What both kinds of node say to MediaMTX, and how it is rendered.
//!
//! Keys are those of MediaMTX 1.20 (its `mediamtx.yml` and the pages Authentication, Control API and RTSP-specific
//! features of its documentation).

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::setting::{self, InvalidSetting, invalid};
use crate::yaml::{Map, Yaml};

/// What must be alike on every node of a fleet, since a relay that splits packets otherwise than its source renumbers
/// them, and then two legs of a stream no longer carry the same sequence numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetWide {
    /// The fleet's own user: pulls between nodes, playback, API.
    pub credential: Credential,
    /// Largest UDP payload in bytes, 512 to 1472 (1452); RTP packets are cut to 12 bytes less, on TCP too.
    pub udp_max_payload_size: u16,
    /// Takes 10 bytes off the largest packet unless it is `No`, hence alike everywhere.
    pub rtsp_encryption: RtspEncryption,
    /// Packets waiting for one reader before any is discarded; a power of two (2048, which is 3 s at 8 Mbit/s, where
    /// MediaMTX's own 512 is under one).
    pub write_queue_size: u32,
}

impl FleetWide {
    #[must_use]
    pub fn new(credential: Credential) -> Self {
        Self { credential, udp_max_payload_size: 1452, rtsp_encryption: RtspEncryption::No, write_queue_size: 2048 }
    }
}

/// A user name and its password, or their `sha256:` / `argon2:` hashes. `Debug` shows no password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    pub user: String,
    pub password: String,
}

impl Credential {
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self { user: user.into(), password: password.into() }
    }

    /// For the user part of a URL, where the password must be plain: percent-encoded `user:password`.
    fn check_plain(&self, name: &str) -> Result<(), InvalidSetting> {
        for (part, text) in [("user", &self.user), ("password", &self.password)] {
            let safe = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if text.is_empty() || !text.chars().all(safe) {
                let problem = "must not be empty, and may hold A-Z a-z 0-9 . _ - only, since it also stands in a URL";
                return invalid(&format!("{name}.{part}"), problem);
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("user", &self.user).field("password", &"...").finish()
    }
}

/// RTSP over TLS beside or instead of plain RTSP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum RtspEncryption {
    No,
    Optional { address: SocketAddr, key: String, certificate: String },
    Strict { address: SocketAddr, key: String, certificate: String },
}

/// Who may do what on this server: the operator's own rules. The fleet's are added to them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Auth {
    /// Users in the file.
    Internal { users: Vec<User> },
    /// Every action is asked of this URL; on an ingestion node it must let the fleet's credential `read` and
    /// `playback`. API and metrics, which listen on loopback only, are not asked.
    Http { address: String },
    /// Tokens. Distribution nodes only: the fleet's own credential is no token.
    Jwt { jwks: String },
}

impl Auth {
    #[must_use]
    pub fn anyone(actions: impl IntoIterator<Item = Action>) -> Self {
        Self::Internal { users: vec![User::anyone(actions)] }
    }
}

/// One entry of `authInternalUsers`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// `any` is everyone, anonymous ones too; the password is then unused.
    pub user: String,
    #[serde(default)]
    pub password: String,
    /// Addresses and networks it may come from; empty: any.
    #[serde(default)]
    pub ips: Vec<String>,
    pub permissions: Vec<Permission>,
}

impl User {
    pub fn anyone(actions: impl IntoIterator<Item = Action>) -> Self {
        Self::named("any", "", actions)
    }

    pub fn named(
        user: impl Into<String>,
        password: impl Into<String>,
        actions: impl IntoIterator<Item = Action>,
    ) -> Self {
        let permissions = actions.into_iter().map(|action| Permission { action, path: String::new() }).collect();
        Self { user: user.into(), password: password.into(), ips: Vec::new(), permissions }
    }

    #[must_use]
    pub fn from_ips(mut self, ips: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.ips = ips.into_iter().map(Into::into).collect();
        self
    }

    fn check(&self, name: &str) -> Result<(), InvalidSetting> {
        // MediaMTX's conf/credential.go: other characters make it refuse the whole file.
        let fits = |c: char| c.is_ascii_alphanumeric() || "!$()*+.;<=>[]^_-{}@#&".contains(c);
        for (part, text) in [("user", &self.user), ("password", &self.password)] {
            let hashed = text.starts_with("sha256:") || text.starts_with("argon2:");
            if !hashed && !text.chars().all(fits) {
                let problem = "may hold A-Z a-z 0-9 and ! $ ( ) * + . ; < = > [ ] ^ _ - { } @ # & only; or give its \
                               sha256: or argon2: hash";
                return invalid(&format!("{name}.{part}"), problem);
            }
        }
        if self.user.is_empty() || (self.user != "any" && self.password.is_empty()) {
            return invalid(name, "needs a user and a password; for everyone write the user \"any\"");
        }
        Ok(())
    }

    fn render(&self) -> Map {
        let mut map = Map::default();
        map.put("user", self.user.as_str()).put("pass", self.password.as_str()).put("ips", self.ips.clone());
        let permissions: Vec<Map> = self
            .permissions
            .iter()
            .map(|permission| {
                let mut map = Map::default();
                map.put("action", permission.action.name()).put("path", permission.path.as_str());
                map
            })
            .collect();
        map.put("permissions", permissions);
        map
    }
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut user = f.debug_struct("User");
        user.field("user", &self.user).field("ips", &self.ips).field("permissions", &self.permissions);
        user.finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permission {
    pub action: Action,
    /// A path, or a regular expression after `~`; empty: every path.
    #[serde(default)]
    pub path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Publish,
    Read,
    Playback,
    Api,
    Metrics,
}

impl Action {
    const fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Read => "read",
            Self::Playback => "playback",
            Self::Api => "api",
            Self::Metrics => "metrics",
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
}

impl LogLevel {
    const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

pub(crate) const LOOPBACK: [&str; 2] = ["127.0.0.1", "::1"];

/// The part of a server's settings that does not depend on its role.
#[derive(Debug)]
pub(crate) struct Server<'a> {
    pub(crate) fleet: &'a FleetWide,
    pub(crate) auth: &'a Auth,
    /// What the fleet's user may do from anywhere, beside API, metrics and playback from loopback.
    pub(crate) fleet_actions: &'a [Action],
    pub(crate) anonymous_loopback_api: bool,
    pub(crate) log_level: LogLevel,
    pub(crate) read_timeout: Duration,
    pub(crate) rtsp: SocketAddr,
    pub(crate) api: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) playback: Option<SocketAddr>,
    pub(crate) trusted_proxies: &'a [String],
}

impl Server<'_> {
    pub(crate) fn render(&self, map: &mut Map) -> Result<(), InvalidSetting> {
        self.check()?;
        map.put("logLevel", self.log_level.name())
            .put("readTimeout", self.read_timeout)
            .put("writeTimeout", Duration::from_secs(10))
            .put_explained(
                "Alike on every node of the fleet: a relay that splits packets renumbers them.",
                "writeQueueSize",
                u64::from(self.fleet.write_queue_size),
            )
            .put("udpMaxPayloadSize", u64::from(self.fleet.udp_max_payload_size));
        self.render_auth(map);
        map.put("api", true).put("apiAddress", self.api);
        map.put("metrics", true).put("metricsAddress", self.metrics);
        map.put("pprof", false);
        map.put("playback", self.playback.is_some());
        if let Some(address) = self.playback {
            map.put("playbackAddress", address);
        }
        self.render_rtsp(map);
        map.put("rtmp", false).put("srt", false).put("moq", false);
        Ok(())
    }

    fn check(&self) -> Result<(), InvalidSetting> {
        self.fleet.credential.check_plain("fleet.credential")?;
        if !(512..=1472).contains(&self.fleet.udp_max_payload_size) {
            return invalid("fleet.udp_max_payload_size", "give 512 to 1472 bytes");
        }
        if !self.fleet.write_queue_size.is_power_of_two() || self.fleet.write_queue_size > 1 << 20 {
            return invalid("fleet.write_queue_size", "give a power of two up to 1048576, such as 2048");
        }
        setting::positive("read_timeout", self.read_timeout)?;
        setting::loopback("api", self.api)?;
        setting::loopback("metrics", self.metrics)?;
        if let Some(address) = self.playback {
            setting::loopback("playback", address)?;
        }
        if let Auth::Internal { users } = self.auth {
            for (index, user) in users.iter().enumerate() {
                user.check(&format!("auth.users[{index}]"))?;
            }
        }
        Ok(())
    }

    fn render_auth(&self, map: &mut Map) {
        let credential = &self.fleet.credential;
        let local = [Action::Api, Action::Metrics, Action::Playback];
        match self.auth {
            Auth::Internal { users } => {
                let mut all: Vec<Map> = Vec::new();
                if !self.fleet_actions.is_empty() {
                    let actions = self.fleet_actions.iter().copied();
                    all.push(User::named(&credential.user, &credential.password, actions).render());
                }
                all.push(User::named(&credential.user, &credential.password, local).from_ips(LOOPBACK).render());
                if self.anonymous_loopback_api {
                    all.push(User::anyone([Action::Api, Action::Metrics]).from_ips(LOOPBACK).render());
                }
                all.extend(users.iter().map(User::render));
                map.put("authMethod", "internal").put("authInternalUsers", all);
            }
            Auth::Http { address } => {
                map.put("authMethod", "http").put("authHTTPAddress", address.as_str());
                map.put("authHTTPExclude", exclude_local());
            }
            Auth::Jwt { jwks } => {
                map.put("authMethod", "jwt").put("authJWTJWKS", jwks.as_str());
                map.put("authJWTExclude", exclude_local());
            }
        }
    }

    fn render_rtsp(&self, map: &mut Map) {
        let (mode, tls) = match &self.fleet.rtsp_encryption {
            RtspEncryption::No => ("no", None),
            RtspEncryption::Optional { address, key, certificate } => ("optional", Some((address, key, certificate))),
            RtspEncryption::Strict { address, key, certificate } => ("strict", Some((address, key, certificate))),
        };
        map.put("rtsp", true)
            .put_explained("UDP cannot cross a TCP load balancer.", "rtspTransports", vec!["tcp"])
            .put("rtspEncryption", mode)
            .put("rtspAddress", self.rtsp);
        if let Some((address, key, certificate)) = tls {
            map.put("rtspsAddress", *address)
                .put("rtspServerKey", key.as_str())
                .put("rtspServerCert", certificate.as_str());
        }
        map.put("rtspTrustedProxies", self.trusted_proxies.to_vec());
    }
}

fn exclude_local() -> Vec<Yaml> {
    [Action::Api, Action::Metrics]
        .into_iter()
        .map(|action| {
            let mut map = Map::default();
            map.put("action", action.name());
            Yaml::from(map)
        })
        .collect()
}
