//! Checks that every rendered file shares. Each names the setting and what to write instead.

use std::net::SocketAddr;
use std::time::Duration;

/// A setting that cannot be rendered. Nothing was rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct InvalidSetting {
    /// Path of the setting in the struct, such as `recording.delete_after`.
    pub setting: String,
    /// What is wrong with it, and what to write instead.
    pub problem: String,
}

pub(crate) fn invalid<T>(setting: &str, problem: impl Into<String>) -> Result<T, InvalidSetting> {
    Err(InvalidSetting { setting: setting.to_owned(), problem: problem.into() })
}

/// Whoever reaches the API, metrics or playback can read everything and cut everyone: only this machine may.
pub(crate) fn loopback(setting: &str, address: SocketAddr) -> Result<(), InvalidSetting> {
    if address.ip().is_loopback() {
        return Ok(());
    }
    invalid(setting, format!("{address} is reachable from outside; give a loopback address such as 127.0.0.1:9997"))
}

/// MediaMTX and HAProxy both refuse two listeners on one address, but late and without naming the settings.
pub(crate) fn distinct(listeners: &[(&str, SocketAddr)]) -> Result<(), InvalidSetting> {
    for (index, (setting, address)) in listeners.iter().enumerate() {
        if let Some((other, _)) = listeners[..index].iter().find(|(_, taken)| taken == address) {
            return invalid(setting, format!("{address} is already taken by {other}; give it a port of its own"));
        }
    }
    Ok(())
}

/// A name that goes unquoted into a query, a backend or a cookie.
pub(crate) fn name(setting: &str, text: &str) -> Result<(), InvalidSetting> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !text.is_empty() && text.len() <= 128 && text.chars().all(fits) {
        return Ok(());
    }
    invalid(setting, format!("{text:?} is no valid name; use 1 to 128 characters of A-Z a-z 0-9 . _ -"))
}

/// A text that must stay one word of one line.
pub(crate) fn word(setting: &str, text: &str) -> Result<(), InvalidSetting> {
    if !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() && !"\"'\\#".contains(c)) {
        return Ok(());
    }
    invalid(setting, format!("{text:?} must be one word without blanks, quotes, # or \\"))
}

pub(crate) fn positive(setting: &str, value: Duration) -> Result<(), InvalidSetting> {
    if value >= Duration::from_millis(1) && value <= Duration::from_secs(30 * 86_400) {
        return Ok(());
    }
    invalid(setting, format!("{value:?} is out of range; give 1 ms to 30 days"))
}

/// `1500` milliseconds become `1500ms`, whole seconds `2s`: both MediaMTX and HAProxy read these.
pub(crate) fn duration(value: Duration) -> String {
    if value.subsec_millis() == 0 { format!("{}s", value.as_secs()) } else { format!("{}ms", value.as_millis()) }
}
