//! The inventory of pulled cameras, read again and again: a file, or the registry's hash `cameras`.
//!
//! What changes is parsed and told, and what is wrong with single entries with it; what cannot be read at all is told once,
//! and the node stays with what it had.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use crate::config::{ClusterKey, ConfigErrors, Inventory};
use crate::node::cameras::InventoryNews;

/// The file is read this often; a read that finds the same bytes costs nothing more.
const READ_EVERY: Duration = Duration::from_secs(2);

/// Bytes of the file, at most: 20,000 cameras with 800 each.
const LONGEST: u64 = 16 << 20;

/// Reads `path` until the receiver is dropped. The file may be replaced, rewritten in place, or go for a while.
#[must_use]
pub fn watch_file(path: PathBuf, key: ClusterKey) -> mpsc::Receiver<InventoryNews> {
    let (news, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut reading = Reading::new(path.display().to_string(), key);
        let mut interval = tokio::time::interval(READ_EVERY);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                () = news.closed() => return,
            }
            if let Some(found) = reading.take(read(&path).await)
                && news.send(found).await.is_err()
            {
                return;
            }
        }
    });
    receiver
}

/// What the registry's hash holds now.
#[must_use]
pub fn of_registry(fields: &BTreeMap<String, String>, key: &ClusterKey) -> InventoryNews {
    let found = news(Inventory::of_fields(fields, key));
    log(&found.1);
    found.0
}

async fn read(path: &Path) -> Result<String, String> {
    let unreadable = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    let mut text = String::new();
    file.take(LONGEST + 1).read_to_string(&mut text).await.map_err(unreadable)?;
    if text.len() as u64 > LONGEST {
        return Err(format!("{} is longer than {} MiB", path.display(), LONGEST >> 20));
    }
    Ok(text)
}

/// What was read last, so that only changes are told.
struct Reading {
    file_name: String,
    key: ClusterKey,
    last: Option<Result<String, String>>,
    told: Option<InventoryNews>,
    has_password_files: bool,
}

impl Reading {
    fn new(file_name: String, key: ClusterKey) -> Self {
        Self { file_name, key, last: None, told: None, has_password_files: true }
    }

    fn take(&mut self, read: Result<String, String>) -> Option<InventoryNews> {
        // A password file may change while the inventory stays.
        if !self.has_password_files && self.last.as_ref() == Some(&read) {
            return None;
        }
        let found = match &read {
            Ok(text) => {
                let parsed = Inventory::parse(text, &self.file_name, &self.key);
                // Of one that is wrong it is not known.
                self.has_password_files = parsed.as_ref().map_or(true, |inventory| inventory.has_password_files);
                news(parsed)
            }
            Err(why) => (InventoryNews::Unavailable(why.clone()), None),
        };
        self.last = Some(read);
        if self.told.as_ref() == Some(&found.0) {
            return None;
        }
        log(&found.1);
        self.told = Some(found.0.clone());
        Some(found.0)
    }
}

/// With all that is wrong, for the log.
fn news(parsed: Result<Inventory, ConfigErrors>) -> (InventoryNews, Option<ConfigErrors>) {
    match parsed {
        Ok(inventory) => {
            let problems = inventory.problems.clone();
            (InventoryNews::Taken(Arc::new(inventory)), Some(problems))
        }
        Err(errors) => {
            let news = InventoryNews::Refused { problems: errors.errors().len() as u32, first: errors.first() };
            (news, Some(errors))
        }
    }
}

fn log(problems: &Option<ConfigErrors>) {
    for line in problems.iter().flat_map(ConfigErrors::lines) {
        tracing::error!("{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: ClusterKey = ClusterKey::new([7; 32]);

    fn reading() -> Reading {
        Reading::new("cameras.toml".to_owned(), KEY)
    }

    fn one(name: &str) -> Result<String, String> {
        Ok(format!("[[camera]]\nname = \"{name}\"\nurl = \"rtsp://10.0.0.1/s\"\n"))
    }

    #[test]
    fn only_what_changes_is_told() {
        let mut reading = reading();
        assert!(matches!(reading.take(one("a")), Some(InventoryNews::Taken(_))));
        assert_eq!(reading.take(one("a")), None);
        assert!(matches!(reading.take(Ok("x".to_owned())), Some(InventoryNews::Refused { .. })));
        assert_eq!(reading.take(Ok("x".to_owned())), None);
        assert!(matches!(reading.take(Err("gone".to_owned())), Some(InventoryNews::Unavailable(_))));
        assert!(matches!(reading.take(one("a")), Some(InventoryNews::Taken(_))), "back to the one before");
    }

    #[test]
    fn an_entry_that_is_wrong_holds_up_no_other_and_is_read_again_when_its_password_file_comes() {
        let folder = tempfile::tempdir().unwrap();
        let mut reading = Reading::new(folder.path().join("cameras.toml").display().to_string(), KEY);
        let text = one("a").unwrap() + "user = \"u\"\npassword_file = \"cam.password\"\n" + &one("b").unwrap();
        let names = |news: Option<InventoryNews>| match news {
            Some(InventoryNews::Taken(inventory)) => {
                (inventory.cameras.len(), inventory.wrong.len(), inventory.problems.errors().len())
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(names(reading.take(Ok(text.clone()))), (1, 1, 1));
        assert_eq!(reading.take(Ok(text.clone())), None, "told once");
        std::fs::write(folder.path().join("cam.password"), "secret\n").unwrap();
        assert_eq!(names(reading.take(Ok(text))), (2, 0, 0));
    }

    #[test]
    fn a_password_file_that_changes_alone_is_news() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("cam.password");
        let mut reading = Reading::new(folder.path().join("cameras.toml").display().to_string(), KEY);
        let text = one("a").unwrap() + "user = \"u\"\npassword_file = \"cam.password\"\n";
        std::fs::write(&secret, "first\n").unwrap();
        assert!(matches!(reading.take(Ok(text.clone())), Some(InventoryNews::Taken(_))));
        assert_eq!(reading.take(Ok(text.clone())), None);
        std::fs::write(&secret, "second\n").unwrap();
        let Some(InventoryNews::Taken(inventory)) = reading.take(Ok(text)) else { panic!("it changed") };
        assert!(inventory.cameras.values().all(|camera| camera.source().contains("second")));
    }

    #[tokio::test]
    async fn a_file_is_read_again_when_it_changes_and_missed_when_it_goes() {
        tokio::time::pause();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cameras.toml");
        let mut news = watch_file(path.clone(), KEY);
        assert!(matches!(news.recv().await, Some(InventoryNews::Unavailable(_))));
        std::fs::write(&path, one("a").unwrap()).unwrap();
        let Some(InventoryNews::Taken(first)) = news.recv().await else { panic!("it is there") };
        std::fs::write(&path, one("b").unwrap()).unwrap();
        let Some(InventoryNews::Taken(second)) = news.recv().await else { panic!("it changed") };
        assert_ne!(first.hash, second.hash);
    }
}
