//! Paths that MediaMTX must not have for now: cameras that another node pulls. Each is put back as it was, once it is
//! not on the list any more.
//!
//! What a path was configured with is on disk (`paths.json`) before it is deleted: the agent that puts it back may be
//! another one. MediaMTX that was restarted has the paths of its file again, and they are deleted once more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use mtxfleet_wire::StreamName;

use super::client::{Answer, Client};
use super::{MediaMtx, ServerProblem, listing};
use crate::edge::state_file::StateFile;

/// What failed is tried again after this long.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// What each path that is gone was configured with, as MediaMTX said it.
pub type Configurations = BTreeMap<StreamName, String>;

/// Takes the list, which a task of its own carries out. Dropping it ends the task, and leaves the paths as they are.
#[derive(Debug)]
pub struct LetGo {
    wanted: watch::Sender<Option<Wanted>>,
}

#[derive(Debug, Clone, Default)]
struct Wanted {
    streams: BTreeSet<StreamName>,
    /// How often it was said that one of them is there again.
    checks: u64,
}

impl LetGo {
    /// `gone` is what the file holds. Nothing is touched before the first list.
    #[must_use]
    pub fn start(mediamtx: Arc<MediaMtx>, file: StateFile<Configurations>, gone: Configurations) -> Self {
        let (wanted, list) = watch::channel(None);
        let paths = Paths { mediamtx, file, gone, done: BTreeSet::new(), checked: 0 };
        tokio::spawn(paths.carry_out(list));
        Self { wanted }
    }

    /// The whole list.
    pub fn set(&self, streams: Vec<StreamName>) {
        self.wanted.send_modify(|wanted| wanted.get_or_insert_default().streams = streams.into_iter().collect());
    }

    /// Compares again: MediaMTX was seen with a path that it must not have.
    pub fn check(&self) {
        self.wanted.send_modify(|wanted| {
            if let Some(wanted) = wanted {
                wanted.checks += 1;
            }
        });
    }
}

struct Paths {
    mediamtx: Arc<MediaMtx>,
    file: StateFile<Configurations>,
    gone: Configurations,
    /// Paths that were deleted, or were not there.
    done: BTreeSet<StreamName>,
    /// The last check that was carried out.
    checked: u64,
}

impl Paths {
    async fn carry_out(mut self, mut list: watch::Receiver<Option<Wanted>>) {
        let mut complained = false;
        loop {
            let wanted = list.borrow_and_update().clone();
            let failed = match &wanted {
                Some(wanted) => self.bring_about(wanted).await.err(),
                None => None,
            };
            if let (Some(error), false) = (&failed, complained) {
                tracing::warn!(%error, "paths that MediaMTX must not have for now cannot be changed; trying on");
            }
            complained = failed.is_some();
            let changed = match failed {
                Some(_) => tokio::time::timeout(TRY_AGAIN, list.changed()).await.unwrap_or(Ok(())),
                None => list.changed().await,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// One that fails holds no other up.
    async fn bring_about(&mut self, wanted: &Wanted) -> Result<(), ServerProblem> {
        if self.checked != wanted.checks {
            let present = self.mediamtx.act(async |client: &mut Client| listing::marks(client).await).await?;
            self.done.retain(|stream| !present.contains_key(stream.as_str()));
            self.checked = wanted.checks;
        }
        let mut problem = Ok(());
        let back: Vec<StreamName> =
            self.gone.keys().filter(|stream| !wanted.streams.contains(*stream)).cloned().collect();
        for stream in back {
            let configuration = self.gone.get(&stream).cloned().unwrap_or_default();
            match self.mediamtx.put_back(&stream, configuration.into()).await {
                Ok(()) => {
                    self.gone.remove(&stream);
                    self.save(&stream).await;
                    tracing::info!(%stream, "a camera is pulled here again");
                }
                Err(error) => problem = Err(error),
            }
        }
        self.done.retain(|stream| wanted.streams.contains(stream));
        for stream in &wanted.streams {
            if self.done.contains(stream) {
                continue;
            }
            match self.remove(stream).await {
                Ok(()) => _ = self.done.insert(stream.clone()),
                Err(error) => problem = Err(error),
            }
        }
        problem
    }

    /// Takes a path out of MediaMTX's configuration, which closes it.
    async fn remove(&mut self, stream: &StreamName) -> Result<(), ServerProblem> {
        if let Some(configuration) = self.mediamtx.configuration(stream).await? {
            self.gone.insert(stream.clone(), configuration);
            self.save(stream).await;
        }
        let path = format!("/v3/config/paths/delete/{stream}");
        let delete = async |client: &mut Client| client.delete(&path).await.map(|_gone_now_or_before| ());
        self.mediamtx.act(delete).await
    }

    async fn save(&self, stream: &StreamName) {
        let gone = Some(self.gone.clone()).filter(|gone| !gone.is_empty());
        if let Err(error) = self.file.save(gone).await {
            tracing::error!(
                %stream, %error,
                "what the path was configured with is not on disk; free space in node.state_dir, or restart MediaMTX \
                 after the drain to have its own paths back"
            );
        }
    }
}

impl MediaMtx {
    /// What a path is configured with; `None` for one that is not there.
    async fn configuration(&self, stream: &StreamName) -> Result<Option<String>, ServerProblem> {
        self.act(async |client: &mut Client| {
            Ok(match client.get(&format!("/v3/config/paths/get/{stream}")).await? {
                Answer::Body(json) => Some(String::from_utf8_lossy(json).into_owned()),
                Answer::NotFound => None,
            })
        })
        .await
    }

    async fn put_back(&self, stream: &StreamName, configuration: Bytes) -> Result<(), ServerProblem> {
        self.act(async |client: &mut Client| {
            // Somebody else may have put it there meanwhile.
            if let Answer::NotFound = client.get(&format!("/v3/config/paths/get/{stream}")).await? {
                client.post_json(&format!("/v3/config/paths/add/{stream}"), configuration).await?;
            }
            Ok(())
        })
        .await
    }

    pub(super) async fn act<T>(
        &self,
        act: impl AsyncFnOnce(&mut Client) -> Result<T, ServerProblem>,
    ) -> Result<T, ServerProblem> {
        let acting = async { act(&mut *self.acting.lock().await).await };
        match tokio::time::timeout(self.timeout, acting).await {
            Ok(done) => done,
            Err(_) => Err(self.too_late()),
        }
    }
}
