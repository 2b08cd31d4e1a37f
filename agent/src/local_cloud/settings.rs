//! The local cloud's TOML file, and the placeholders in its texts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mtxfleet_wire::{InstanceId, NodeId, Role};
use serde::{Deserialize, Deserializer};

use crate::config::units;

/// Everything that is wrong with the file.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct SettingsError(Vec<String>);

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Loopback: whoever reaches it can start and end processes.
    pub listen: SocketAddr,
    /// A folder for each instance, and `logs`.
    pub dir: PathBuf,
    #[serde(rename = "group")]
    pub groups: Vec<GroupSettings>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupSettings {
    pub role: Role,
    pub min: u32,
    pub max: u32,
    /// At the start (`min`).
    #[serde(default = "unset")]
    pub desired: u32,
    /// From launch to the start of the programs (0 s).
    #[serde(default, deserialize_with = "duration")]
    pub launch_delay: Duration,
    /// After SIGTERM the programs have this long to end (5 s).
    #[serde(default = "five_seconds", deserialize_with = "duration")]
    pub stop_within: Duration,
    /// Id of each instance's node; `{n}` counts (`ROLE-{n}`).
    #[serde(default)]
    pub node: String,
    #[serde(rename = "file", default)]
    pub files: Vec<File>,
    #[serde(default)]
    pub prepare: Vec<Step>,
    #[serde(rename = "program")]
    pub programs: Vec<Program>,
    /// Where an instance can live: each is one's alone while it lives. Its texts are placeholders.
    #[serde(rename = "slot")]
    pub slots: Vec<BTreeMap<String, String>>,
}

/// Written into the instance's folder before anything is run.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub name: String,
    /// A file, sought from the folder of the settings; or `text`.
    #[serde(default)]
    pub template: Option<PathBuf>,
    #[serde(default)]
    pub text: String,
}

/// Run to its end before the programs are started.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub command: Vec<String>,
    /// File in the instance's folder that takes what it prints.
    #[serde(default)]
    pub output: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// Its output is appended to `logs/NODE-NAME.log`.
    pub name: String,
    pub command: Vec<String>,
    /// Started again when it ends, as a service manager does (true).
    #[serde(default = "yes")]
    pub restart: bool,
}

impl Settings {
    /// # Errors
    /// All that is wrong with the file.
    pub fn load(path: &Path) -> Result<Self, SettingsError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| SettingsError(vec![format!("{}: cannot be read: {error}", path.display())]))?;
        Self::parse(&text, path)
    }

    /// `file` is for the errors, and templates are sought from its folder.
    ///
    /// # Errors
    /// All that is wrong with the text.
    pub fn parse(text: &str, file: &Path) -> Result<Self, SettingsError> {
        let shown = file.display();
        let mut settings: Self = toml::from_str(text)
            .map_err(|error| SettingsError(vec![format!("{shown}: {}", error.to_string().trim())]))?;
        let folder = file.parent().unwrap_or(Path::new(""));
        let mut errors = Vec::new();
        if !settings.listen.ip().is_loopback() {
            let listen = settings.listen;
            errors.push(format!("listen: {listen} is not on loopback: whoever reaches it starts processes here"));
        }
        if settings.groups.is_empty() {
            errors.push("group: there is none; write [[group]] with role, min, max, program and slot".to_owned());
        }
        for at in 0..settings.groups.len() {
            let role = settings.groups[at].role;
            if settings.groups[..at].iter().any(|other| other.role == role) {
                errors.push(format!("group: there are two for {role}; keep one"));
            }
            settings.groups[at].complete(folder, &mut errors);
        }
        // Programs run in their own folders.
        if let Ok(absolute) = std::path::absolute(&settings.dir) {
            settings.dir = absolute;
        }
        if errors.is_empty() {
            Ok(settings)
        } else {
            Err(SettingsError(errors.into_iter().map(|error| format!("{shown}: {error}")).collect()))
        }
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }
}

impl GroupSettings {
    /// Fills in what has a default, reads the templates, and tries every placeholder in every slot.
    fn complete(&mut self, folder: &Path, errors: &mut Vec<String>) {
        let role = self.role;
        let mut refuse = |problem: String| errors.push(format!("group {role}: {problem}"));
        if self.desired == unset() {
            self.desired = self.min;
        }
        if self.node.is_empty() {
            self.node = format!("{role}-{{n}}");
        }
        if self.min > self.max || !(self.min..=self.max).contains(&self.desired) {
            let (min, max, desired) = (self.min, self.max, self.desired);
            refuse(format!("min {min}, desired {desired} and max {max} must not fall"));
        }
        if self.slots.len() < self.max as usize {
            refuse(format!(
                "{} slot(s) cannot hold {} instances; write a [[group.slot]] for each",
                self.slots.len(),
                self.max
            ));
        }
        if self.programs.is_empty() {
            refuse("program: there is none, so that an instance would be nothing".to_owned());
        }
        if !self.node.contains("{n}") || NodeId::new(self.node.replace("{n}", "1")).is_err() {
            refuse(format!("node: {:?} does not do; write for example \"dist-{{n}}\"", self.node));
        }
        for file in &mut self.files {
            if let Some(template) = &file.template {
                let path = folder.join(template);
                match std::fs::read_to_string(&path) {
                    Ok(text) => file.text = text,
                    Err(error) => refuse(format!("file {}: {} cannot be read: {error}", file.name, path.display())),
                }
            }
        }
        let names =
            self.files.iter().map(|file| &file.name).chain(self.prepare.iter().filter_map(|step| step.output.as_ref()));
        for name in names.chain(self.programs.iter().map(|program| &program.name)) {
            if name.is_empty() || name.contains('/') || name.starts_with('.') {
                refuse(format!("{name:?} does not do as a name; write one without slashes, such as \"agent.toml\""));
            }
        }
        let commands = self.prepare.iter().map(|step| &step.command).chain(self.programs.iter().map(|p| &p.command));
        let commands: Vec<&Vec<String>> = commands.collect();
        if commands.iter().any(|command| command.is_empty()) {
            refuse("command: is empty; write a program and its arguments".to_owned());
        }
        let texts: Vec<&String> =
            commands.into_iter().flatten().chain(self.files.iter().map(|file| &file.text)).collect();
        let (instance, node) = (InstanceId::new("i").expect("valid"), NodeId::new("n").expect("valid"));
        let mut told = Vec::new();
        for slot in 0..self.slots.len() {
            let known = self.placeholders(&instance, &node, slot, Path::new("d"));
            for name in texts.iter().flat_map(|text| placeholders_in(text)).filter(|name| !known.contains_key(*name)) {
                let problem = format!("slot {slot} gives no {name:?}, which {{{name}}} stands for");
                if !told.contains(&problem) {
                    told.push(problem.clone());
                    refuse(problem);
                }
            }
        }
    }

    /// What stands for `{name}` in this instance's files and commands.
    pub(super) fn placeholders(
        &self,
        instance: &InstanceId,
        node: &NodeId,
        slot: usize,
        dir: &Path,
    ) -> BTreeMap<String, String> {
        let mut known = self.slots[slot].clone();
        let own = std::env::current_exe().map_or_else(|_| "mtxfleet".to_owned(), |path| path.display().to_string());
        for (name, value) in [
            ("id", node.to_string()),
            ("instance", instance.to_string()),
            ("role", self.role.to_string()),
            ("dir", dir.display().to_string()),
            ("mtxfleet", own),
        ] {
            known.insert(name.to_owned(), value);
        }
        known.entry("slot".to_owned()).or_insert_with(|| (slot + 1).to_string());
        known
    }
}

/// Names that stand in braces, nothing else beside them.
fn placeholders_in(text: &str) -> impl Iterator<Item = &str> {
    text.split('{').skip(1).filter_map(|rest| {
        let name = &rest[..rest.find('}')?];
        let fits = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        fits.then_some(name)
    })
}

/// In one go: what a placeholder gave is not searched again.
pub(super) fn fill(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut parts = text.split('{');
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once('}').and_then(|(name, rest)| Some((known.get(name)?, rest))) {
            Some((value, rest)) => filled.extend([value.as_str(), rest]),
            None => filled.extend(["{", part]),
        }
    }
    filled
}

const fn unset() -> u32 {
    u32::MAX
}

const fn five_seconds() -> Duration {
    Duration::from_secs(5)
}

const fn yes() -> bool {
    true
}

fn duration<'de, D: Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(input)?;
    units::duration(&text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
listen = "127.0.0.1:8770"
dir = "fleet"
[[group]]
role = "distribution"
min = 1
max = 2
[[group.file]]
name = "agent.toml"
text = "advertise = \"{ip}\"\nx = { y = 1 }\n"
[[group.program]]
name = "agent"
command = ["{mtxfleet}", "agent", "{dir}/agent.toml", "{id}-{slot}"]
[[group.slot]]
ip = "127.77.0.1"
[[group.slot]]
ip = "127.77.0.2"
"#;

    fn said(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "{from}");
        Settings::parse(&GOOD.replace(from, to), Path::new("c.toml")).expect_err("wrong").to_string()
    }

    #[test]
    fn placeholders_are_filled_from_the_slot_and_the_instance() {
        let settings = Settings::parse(GOOD, Path::new("c.toml")).expect("valid");
        let group = &settings.groups[0];
        assert_eq!((group.desired, group.node.as_str()), (1, "distribution-{n}"));
        let (instance, node) = (InstanceId::new("i-7").expect("valid"), NodeId::new("dist-7").expect("valid"));
        let known = group.placeholders(&instance, &node, 1, Path::new("/run/dist-7"));
        assert_eq!(fill(&group.files[0].text, &known), "advertise = \"127.77.0.2\"\nx = { y = 1 }\n");
        assert_eq!(fill("{dir}/{id}-{slot}-{instance} {} {", &known), "/run/dist-7/dist-7-2-i-7 {} {");
    }

    #[test]
    fn what_is_wrong_is_told_with_what_to_write() {
        assert!(said("127.0.0.1:8770", "0.0.0.0:8770").contains("is not on loopback"));
        assert!(said("max = 2", "max = 3").contains("2 slot(s) cannot hold 3 instances"));
        assert!(said("min = 1", "min = 3").contains("must not fall"));
        assert!(said("{ip}", "{rtsp}").contains("slot 0 gives no \"rtsp\", which {rtsp} stands for"));
        assert!(said("\"agent.toml\"", "\"../agent.toml\"").contains("without slashes"));
        assert!(said("role = \"distribution\"", "role = \"other\"").contains("c.toml"));
        assert!(said("min = 1", "mni = 1").contains("mni"));
        assert!(said("max = 2", "max = 2\nlaunch_delay = \"5\"").contains("has no unit"));
        let both = said("max = 2", "max = 3\nnode = \"dist\"");
        assert_eq!(both.lines().count(), 2, "all at once: {both}");
    }
}
