//! The inventory of pulled cameras: a TOML file of its own, or a hash in Redis, read like the configuration, all of its
//! errors at once. `docs/ref/cameras.md` has every key.
//!
//! It is read entry by entry: one that is wrong, or whose name stands twice, is named and left out, and the others are taken.
//! What is left out goes by its *name* only: the name is placed like any other, so that nodes that read an entry differently
//! (a password file that one of them lacks) place all other cameras alike, and a camera that is pulled already stays as it is.
//!
//! A camera's password is in [`Camera`] and in the order to MediaMTX, and nowhere else: `Debug` shows none, errors repeat
//! no URL that may hold one, and gossip carries only a hash with the cluster key.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mtxfleet_wire::StreamName;
use url::Url;

use super::cluster_key::ClusterKey;
use super::errors::{ConfigError, ConfigErrors};
use super::section::{Asked, Reader, Section, parsed};
use crate::edge::mediamtx::Credentials;

/// Cameras of one inventory. MediaMTX and gossip carry this many; a larger one is surely a mistake.
pub const MOST_CAMERAS: usize = 20_000;

/// One camera that the fleet connects to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Camera {
    pub name: StreamName,
    /// `rtsp://` or `rtsps://`, without credentials.
    url: Url,
    credentials: Option<Credentials>,
    transport: &'static str,
    /// SHA-256 of its certificate, for `rtsps` with one that nobody vouches for.
    fingerprint: Option<String>,
    /// `None`: as `pathDefaults` has it.
    absolute_timestamp: Option<bool>,
    record: Option<bool>,
    /// It serves one connection at a time, so it cannot be pulled by its next owner first.
    pub single_connection: bool,
    /// HMAC over all of it, the password too: tells whether a path in MediaMTX is still what the inventory says.
    pub hash: String,
}

impl Camera {
    /// The URL as MediaMTX takes it, with the credentials. Never to be logged.
    #[must_use]
    pub fn source(&self) -> String {
        let mut url = self.url.clone();
        if let Some(Credentials { user, password }) = &self.credentials {
            // Neither fails: the URL has a host.
            _ = url.set_username(user);
            _ = url.set_password(Some(password));
        }
        url.into()
    }

    /// Texts that no error of MediaMTX may bring into a log: the password as it is and as it stands in the URL.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        let Some(Credentials { password, .. }) = &self.credentials else { return Vec::new() };
        let source = self.source();
        let encoded = Url::parse(&source).ok().and_then(|url| url.password().map(str::to_owned));
        let mut secrets = vec![source, password.clone()];
        secrets.extend(encoded);
        secrets
    }

    /// The settings of its path, as `/v3/config/paths/add` takes them. `mark` says that an agent added it.
    #[must_use]
    pub fn path_settings(&self, mark: &str) -> serde_json::Value {
        let mut settings = serde_json::json!({
            "source": self.source(),
            "sourceOnDemand": false,
            "rtspTransport": self.transport,
            super::super::edge::mediamtx::MARK_KEY: mark,
        });
        if let Some(fingerprint) = &self.fingerprint {
            settings["sourceFingerprint"] = fingerprint.clone().into();
        }
        if let Some(absolute) = self.absolute_timestamp {
            settings["useAbsoluteTimestamp"] = absolute.into();
        }
        if let Some(record) = self.record {
            settings["record"] = record.into();
        }
        settings
    }

    fn hashed(mut self, key: &ClusterKey) -> Self {
        self.hash = String::new();
        self.hash = key.inventory_hash(self.path_settings("").to_string().as_bytes());
        self
    }
}

/// All cameras that are to be pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    pub cameras: BTreeMap<StreamName, Arc<Camera>>,
    /// Names of entries that are wrong, and names that stand more than once: all entries of such a name are left out, so
    /// that it does not matter which of them stands first.
    pub wrong: BTreeSet<StreamName>,
    /// Some entry has no name that can be read: whose it is nobody knows.
    pub has_nameless: bool,
    /// What is wrong with the entries that are left out.
    pub problems: ConfigErrors,
    /// Tells two inventories apart, and nothing of what they hold.
    pub hash: String,
    /// Passwords stand in files of their own, which may change alone.
    pub has_password_files: bool,
}

impl Inventory {
    /// `file_name` is for the errors, and password files are sought from its folder.
    ///
    /// # Errors
    /// Every error of a text that is no list of cameras. What is wrong with single entries is in [`Inventory::problems`].
    pub fn parse(text: &str, file_name: &str, key: &ClusterKey) -> Result<Self, ConfigErrors> {
        Self::read(text, file_name, key).0
    }

    /// Fields of the hash in Redis: name to a JSON object with the keys of the file but `name`.
    ///
    /// # Errors
    /// When there is none. What is wrong with single fields is in [`Inventory::problems`], with the "line" of none.
    pub fn of_fields(fields: &BTreeMap<String, String>, key: &ClusterKey) -> Result<Self, ConfigErrors> {
        let mut all = Entries::default();
        if fields.is_empty() {
            return Err(ConfigErrors::one(
                "cameras",
                "there is none; an emptied Redis lets go of no camera".to_owned(),
            ));
        }
        for (name, json) in fields {
            let place = format!("camera {name:?}");
            let mut leave_out = |errors: Vec<ConfigError>| {
                all.errors.extend(errors);
                match path_name(name) {
                    Ok(name) => _ = all.wrong.insert(name),
                    Err(_) => all.has_nameless = true,
                }
            };
            let table = match serde_json::from_str::<toml::Table>(json) {
                Ok(mut table) => {
                    table.insert("name".to_owned(), name.clone().into());
                    toml::Table::from_iter([("camera".to_owned(), toml::Value::Array(vec![table.into()]))])
                }
                // serde's message repeats nothing of the text but the place.
                Err(error) => {
                    let problem = format!("is no JSON object: line {} column {}", error.line(), error.column());
                    leave_out(ConfigErrors::one("", format!("{place}: {problem}")).into_errors());
                    continue;
                }
            };
            let (cameras, errors) = match Self::parse(&table.to_string(), &place, key) {
                Ok(one) => (one.cameras, one.problems.into_errors()),
                Err(found) => (BTreeMap::new(), found.into_errors()),
            };
            match errors.is_empty() {
                true => all.cameras.extend(cameras),
                false => leave_out(errors.into_iter().map(|error| error.at_no_line(&place)).collect()),
            }
        }
        // Read anew anyway.
        all.has_files = false;
        Ok(Self::of(all, "cameras in Redis", key))
    }

    /// Names of all entries, also of those that are left out: who pulls what goes by these.
    pub fn names(&self) -> impl Iterator<Item = &StreamName> {
        self.cameras.keys().chain(&self.wrong)
    }

    /// Whether what it says of this camera could not be read: one that is pulled already stays as it is.
    #[must_use]
    pub fn is_unread(&self, name: &StreamName) -> bool {
        self.wrong.contains(name) || (self.has_nameless && !self.cameras.contains_key(name))
    }

    pub(super) fn read(text: &str, file_name: &str, key: &ClusterKey) -> (Result<Self, ConfigErrors>, Vec<Asked>) {
        let folder = Path::new(file_name).parent().map(PathBuf::from).unwrap_or_default();
        let (document, syntax) = toml::de::DeTable::parse_recoverable(text);
        let reader = Reader::new(text, folder);
        for error in &syntax {
            reader.syntax(error);
        }
        let entries = entries(&reader.root(document.get_ref()), &reader, key);
        let (mut errors, asked) = reader.finish();
        if errors.is_empty() {
            return (Ok(Self::of(entries, file_name, key)), asked);
        }
        errors.extend(entries.errors);
        if !syntax.is_empty() {
            errors.retain(|error| !error.missing);
        }
        (Err(ConfigErrors::new(file_name, errors)), asked)
    }

    fn of(entries: Entries, file_name: &str, key: &ClusterKey) -> Self {
        let Entries { cameras, wrong, has_nameless, has_files, errors } = entries;
        let taken = cameras.values().map(|c| format!("{} {} {}\n", c.name, c.hash, c.single_connection));
        // No name begins with an exclamation mark.
        let left_out = wrong.iter().map(|name| format!("! {name}\n")).chain(has_nameless.then(|| "!\n".to_owned()));
        let all: String = taken.chain(left_out).collect();
        let problems = ConfigErrors::new(file_name, errors);
        let hash = key.inventory_hash(all.as_bytes());
        Self { cameras, wrong, has_nameless, problems, hash, has_password_files: has_files }
    }
}

/// What the entries of one text hold.
#[derive(Debug, Default)]
struct Entries {
    cameras: BTreeMap<StreamName, Arc<Camera>>,
    wrong: BTreeSet<StreamName>,
    has_nameless: bool,
    has_files: bool,
    errors: Vec<ConfigError>,
}

fn entries(root: &Section<'_>, reader: &Reader<'_>, key: &ClusterKey) -> Entries {
    let sections = root.tables("camera");
    if sections.len() > MOST_CAMERAS {
        root.refuse("camera", format!("stands {} times; {MOST_CAMERAS} cameras are the most", sections.len()));
        // Their keys are not asked for, and so not named one by one.
        sections.into_iter().for_each(Section::ignore);
        return Entries::default();
    }
    let mut all = Entries::default();
    let mut seen = BTreeSet::new();
    let of_the_file = reader.noted();
    for section in sections {
        let noted = reader.noted();
        all.has_files |= section.has("password_file");
        let name = section.required("name", "site/cam1", path_name);
        let camera = camera(&section, name.clone());
        let twice = name.as_ref().is_some_and(|name| !seen.insert(name.clone()));
        if twice {
            section
                .refuse("name", "stands twice, and no entry of this name is taken; give every camera one of its own");
        }
        // Only then it is said which keys are not known.
        drop(section);
        match (name, camera) {
            (Some(name), Some(camera)) if reader.noted() == noted => {
                all.cameras.insert(name, Arc::new(camera.hashed(key)));
            }
            (Some(name), _) => {
                all.cameras.remove(&name);
                all.wrong.insert(name);
            }
            (None, _) => all.has_nameless = true,
        }
    }
    all.errors = reader.take_after(of_the_file);
    all
}

/// The rest of an entry whose name is read already.
fn camera(section: &Section<'_>, name: Option<StreamName>) -> Option<Camera> {
    let url = section.required("url", "rtsp://10.1.1.20:554/stream1", camera_url);
    let user = section.optional("user", "none", "viewer", not_empty);
    let password = section.secret("password", "password_file", "...", not_empty);
    if section.has("user") != (section.has("password") || section.has("password_file")) {
        let (here, other) = match section.has("user") {
            true => ("user", "password or password_file"),
            false if section.has("password") => ("password", "user"),
            false => ("password_file", "user"),
        };
        section.refuse(here, format!("stands without {other}; write both or none"));
    }
    let transport = section.choice("transport", "tcp", &[("tcp", "tcp"), ("udp", "udp")]);
    let fingerprint = section.optional("fingerprint", "none", "33949e05...", |text| {
        let fits = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if fits {
            Ok(text.to_owned())
        } else {
            Err("must be 64 hexadecimal digits, the SHA-256 of its certificate".into())
        }
    });
    let default = "as `pathDefaults`";
    let absolute_timestamp = section.optional_flag("absolute_timestamp", default);
    let record = section.optional_flag("record", default);
    let single_connection = section.flag("single_connection", false);
    Some(Camera {
        name: name?,
        url: url?,
        credentials: user?.zip(password?).map(|(user, password)| Credentials { user, password }),
        transport: transport?,
        fingerprint: fingerprint?,
        absolute_timestamp: absolute_timestamp?,
        record: record?,
        single_connection: single_connection?,
        hash: String::new(),
    })
}

/// A stream's name that is a plain path in `mediamtx.yml` too.
fn path_name(text: &str) -> Result<StreamName, String> {
    let name: StreamName = parsed(text)?;
    // conf/path.go of MediaMTX: `all` and what begins with `~` are expressions, slashes at the ends are refused.
    let is_path = !matches!(text, "all" | "all_others") && !text.starts_with(['~', '/']) && !text.ends_with('/');
    let segments_fit = !text.split('/').any(|part| matches!(part, "" | "." | ".."));
    if is_path && segments_fit {
        Ok(name)
    } else {
        Err(format!("{text:?} cannot be a path of MediaMTX: not all, no ~ or / at the ends, no empty part, . or .."))
    }
}

/// The text is not repeated in the error: it may hold a password.
fn camera_url(text: &str) -> Result<Url, String> {
    let wrong = || "is no camera's address; write rtsp://HOST:PORT/PATH, or rtsps://".to_owned();
    let url = Url::parse(text.trim()).map_err(|_| wrong())?;
    if !matches!(url.scheme(), "rtsp" | "rtsps") || url.host_str().is_none_or(str::is_empty) {
        return Err(wrong());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds credentials; write them as user and password, where they are kept out of all logs".into());
    }
    Ok(url)
}

fn not_empty(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.to_owned()) }
}

#[cfg(test)]
mod tests;
