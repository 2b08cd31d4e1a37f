//! What must survive the agent: its drain, as JSON in `STATE_DIR/drain.json`.

use std::io;
use std::path::{Path, PathBuf};

use crate::node::draining::Saved;

#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
}

/// Why there is no saved state to go on from.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot use the state directory {dir}; create it, writable for the agent, or set node.state_dir")]
    Directory { dir: PathBuf, source: io::Error },
    #[error("cannot read {path}; the node starts in service, and a drain that was under way does not go on")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is damaged; the node starts in service, and a drain that was under way does not go on")]
    Damaged { path: PathBuf, source: serde_json::Error },
}

impl StateFile {
    /// # Errors
    /// [`StateError::Directory`] when the directory is not there and cannot be made.
    pub fn open(dir: &Path) -> Result<Self, StateError> {
        std::fs::create_dir_all(dir).map_err(|source| StateError::Directory { dir: dir.to_owned(), source })?;
        Ok(Self { path: dir.join("drain.json") })
    }

    /// # Errors
    /// [`StateError::Read`], [`StateError::Damaged`]; the file is left as it is, for whoever looks into it.
    pub fn load(&self) -> Result<Option<Saved>, StateError> {
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StateError::Read { path: self.path.clone(), source }),
        };
        let damaged = |source| StateError::Damaged { path: self.path.clone(), source };
        serde_json::from_slice(&text).map(Some).map_err(damaged)
    }

    /// On disk when it returns: written beside, synced, renamed over. `None` removes the file.
    ///
    /// # Errors
    /// What the file system says; the file then holds what it held before.
    pub async fn save(&self, saved: Option<Saved>) -> io::Result<()> {
        let path = self.path.clone();
        let write = move || {
            let Some(saved) = saved else {
                return match std::fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                    _ => Ok(()),
                };
            };
            let beside = path.with_extension("json.new");
            std::fs::write(&beside, serde_json::to_vec(&saved)?)?;
            std::fs::File::open(&beside)?.sync_all()?;
            std::fs::rename(&beside, &path)
        };
        tokio::task::spawn_blocking(write).await.map_err(io::Error::other)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_saved_is_loaded_and_a_damaged_file_is_an_error_not_a_panic() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = StateFile::open(&dir.path().join("new")).expect("made");
        assert!(file.load().expect("no file is no error").is_none());
        let order = mtxfleet_drain::Order {
            drain: mtxfleet_wire::DrainId::new("d").expect("valid"),
            node: mtxfleet_wire::NodeId::new("n").expect("valid"),
            reason: String::new(),
            forced: false,
        };
        let (drain, _) = mtxfleet_drain::Drain::begin(
            order,
            mtxfleet_drain::Settings::default(),
            mtxfleet_wire::Mono::default(),
            mtxfleet_wire::UnixMillis(5),
        );
        let saved = Saved::Draining(Box::new(drain));
        file.save(Some(saved.clone())).await.expect("saved");
        assert_eq!(file.load().expect("readable"), Some(saved));
        std::fs::write(dir.path().join("new/drain.json"), b"{\"draining\":{").expect("written");
        assert!(matches!(file.load(), Err(StateError::Damaged { .. })));
        file.save(None).await.expect("removed");
        file.save(None).await.expect("removing nothing is no error");
        assert!(file.load().expect("no file").is_none());
    }
}
