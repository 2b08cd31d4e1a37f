//! `[cloud]`: what starts and ends machines.

use std::time::Duration;

use url::Url;

use super::section::Section;
use super::server::http_url;

/// `[cloud]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cloud {
    pub driver: CloudDriver,
    /// The orchestrator lists its group so often (5 s).
    pub poll_every: Duration,
    /// An instance that was asked for counts as launching for so long (10 min).
    pub boot_deadline: Duration,
    /// Machines replaced in ten minutes, at most (3).
    pub replace_at_most: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloudDriver {
    /// `mtxfleet local-cloud`, at this address.
    Local { url: Url },
    /// The operator's own commands: program and arguments each.
    Exec { list: Vec<String>, grow: Vec<String>, end: Vec<String> },
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Driver {
    Local,
    Exec,
}

/// Outer `None`: an error was noted. Inner `None`: no cloud.
pub(super) fn cloud(section: &Section<'_>) -> Option<Option<Cloud>> {
    let drivers = [("local", Driver::Local), ("exec", Driver::Exec)];
    let driver = section.optional_choice("driver", &drivers);
    let url = section.optional("url", "none", "http://127.0.0.1:8770", http_url);
    let [list, grow, end] = COMMANDS.map(|key| section.list(key, word));
    let poll_every = section.duration("poll_every", "5s", "100ms"..="10m");
    let boot_deadline = section.duration("boot_deadline", "10m", "1s"..="1d");
    let replace_at_most = section.integer("replace_at_most", 3, 1..=1_000);

    let unfit = |keys: &[&str], needs: &str| {
        for key in keys.iter().filter(|key| section.has(key)) {
            section.refuse(key, format!("does nothing without driver = {needs:?}; write that, or take it away"));
        }
    };
    let Some(driver) = driver? else {
        unfit(&["url"], "local");
        unfit(&COMMANDS, "exec");
        return Some(None);
    };
    let driver = match driver {
        Driver::Local => {
            unfit(&COMMANDS, "exec");
            let url = url?;
            if url.is_none() {
                section.absent_key("url", "is missing; write for example url = \"http://127.0.0.1:8770\"");
            }
            CloudDriver::Local { url: url? }
        }
        Driver::Exec => {
            unfit(&["url"], "local");
            let (list, grow, end) = (list?, grow?, end?);
            for (key, command) in COMMANDS.iter().zip([&list, &grow, &end]) {
                if command.is_empty() {
                    section
                        .absent_key(key, &format!("is missing; write for example {key} = [\"/usr/local/bin/{key}\"]"));
                }
            }
            CloudDriver::Exec { list, grow, end }
        }
    };
    Some(Some(Cloud {
        driver,
        poll_every: poll_every?,
        boot_deadline: boot_deadline?,
        replace_at_most: replace_at_most? as u32,
    }))
}

const COMMANDS: [&str; 3] = ["list", "grow", "end"];

fn word(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Err("holds an empty text; write a program, then its arguments".to_owned())
    } else {
        Ok(text.to_owned())
    }
}
