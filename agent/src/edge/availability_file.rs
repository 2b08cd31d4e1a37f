//! `STATE_DIR/availability.json.zst`: what [`Availabilities`] keeps over a restart.
//!
//! [`Availabilities`]: crate::node::availability::Availabilities

use std::io;
use std::path::{Path, PathBuf};

use crate::node::availability::Record;

/// Far more than 4,000 things take, each with all of its buckets.
const MAX_BYTES: usize = 64 << 20;
const LEVEL: i32 = 1;

#[derive(Debug)]
pub struct AvailabilityFile {
    path: PathBuf,
    writing: Option<tokio::task::JoinHandle<()>>,
}

impl AvailabilityFile {
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join("availability.json.zst"), writing: None }
    }

    /// What was kept. A file that cannot be read is put aside, said so, and begun anew: it is a report, and nothing
    /// that an agent must not start without.
    #[must_use]
    pub fn load(&self) -> Option<Record> {
        let read = || -> io::Result<Record> {
            let compressed = std::fs::read(&self.path)?;
            let text = zstd::bulk::decompress(&compressed, MAX_BYTES)?;
            Ok(serde_json::from_slice(&text)?)
        };
        match read() {
            Ok(record) => Some(record),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                let aside = self.path.with_extension("damaged");
                tracing::error!(%error, file = %self.path.display(), aside = %aside.display(),
                    "the record of availability cannot be read; it is put aside, and begun anew");
                if let Err(error) = std::fs::rename(&self.path, &aside) {
                    tracing::warn!(%error, "not put aside; the next record is written over it");
                }
                None
            }
        }
    }

    /// Writes in the background; while a write is under way (a disk that hangs), nothing more is.
    pub fn save(&mut self, record: Record) {
        if self.writing.as_ref().is_some_and(|writing| !writing.is_finished()) {
            return;
        }
        let path = self.path.clone();
        self.writing = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = write(&path, &record) {
                tracing::warn!(%error, "the record of availability is not on disk; free space in node.state_dir");
            }
        }));
    }

    /// On disk when it returns, or given up after `within`.
    pub async fn flush(&mut self, record: Record, within: std::time::Duration) {
        let write = async {
            if let Some(writing) = self.writing.take() {
                let _ = writing.await;
            }
            self.save(record);
            if let Some(writing) = self.writing.take() {
                let _ = writing.await;
            }
        };
        let _ = tokio::time::timeout(within, write).await;
    }
}

fn write(path: &Path, record: &Record) -> io::Result<()> {
    let bytes = zstd::bulk::compress(&serde_json::to_vec(record)?, LEVEL)?;
    let beside = path.with_extension("new");
    std::fs::write(&beside, bytes)?;
    std::fs::File::open(&beside)?.sync_all()?;
    std::fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mtxfleet_wire::{Mono, Subject, UnixMillis};

    use super::*;
    use crate::node::availability::Availabilities;

    #[tokio::test]
    async fn what_was_kept_is_there_after_a_restart_and_a_damaged_file_is_put_aside() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut file = AvailabilityFile::new(dir.path());
        assert_eq!(file.load(), None);
        let mut kept = Availabilities::new(None, UnixMillis(0));
        for second in 0..20 {
            let seen = [(Subject::Node("a".into()), true)];
            kept.look(Mono(Duration::from_secs(second)), UnixMillis(second * 1_000), seen);
        }
        file.flush(kept.record(), Duration::from_secs(10)).await;
        assert_eq!(file.load(), Some(kept.record()));
        for damage in [&b"not zstd"[..], &zstd::bulk::compress(b"{\"version\":", 1).expect("compressed")] {
            std::fs::write(dir.path().join("availability.json.zst"), damage).expect("written");
            assert_eq!(file.load(), None);
            assert!(!dir.path().join("availability.json.zst").exists(), "put aside");
        }
        file.flush(kept.record(), Duration::from_secs(10)).await;
        assert_eq!(file.load(), Some(kept.record()));
    }
}
