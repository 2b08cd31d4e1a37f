//! Paths that MediaMTX must not have for now: cameras that another node pulls. Each is put back as it was, once it is
//! not on the list any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use mtxfleet_wire::StreamName;

use super::client::{Answer, Client};
use super::{MediaMtx, ServerProblem};

/// What failed is tried again after this long.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Takes the list, which a task of its own carries out. Dropping it ends the task, and leaves the paths as they are.
#[derive(Debug)]
pub struct LetGo {
    wanted: watch::Sender<BTreeSet<StreamName>>,
}

impl LetGo {
    #[must_use]
    pub fn start(mediamtx: Arc<MediaMtx>) -> Self {
        let (wanted, list) = watch::channel(BTreeSet::new());
        tokio::spawn(carry_out(mediamtx, list));
        Self { wanted }
    }

    /// The whole list.
    pub fn set(&self, streams: Vec<StreamName>) {
        self.wanted.send_replace(streams.into_iter().collect());
    }
}

async fn carry_out(mediamtx: Arc<MediaMtx>, mut list: watch::Receiver<BTreeSet<StreamName>>) {
    // What each path was configured with; `None` for one that was not there.
    let mut gone: BTreeMap<StreamName, Option<Bytes>> = BTreeMap::new();
    loop {
        let wanted = list.borrow_and_update().clone();
        let mut failed = false;
        let back: Vec<StreamName> = gone.keys().filter(|stream| !wanted.contains(stream)).cloned().collect();
        for stream in back {
            let configuration = gone.get(&stream).cloned().flatten();
            match mediamtx.put_back(&stream, configuration).await {
                Ok(()) => _ = gone.remove(&stream),
                Err(error) => {
                    tracing::warn!(%stream, %error, "a camera is not pulled again yet; it is tried again");
                    failed = true;
                }
            }
        }
        for stream in wanted.iter().filter(|stream| !gone.contains_key(*stream)).cloned().collect::<Vec<_>>() {
            match mediamtx.remove(&stream).await {
                Ok(configuration) => _ = gone.insert(stream, configuration),
                Err(error) => {
                    tracing::warn!(%stream, %error, "a camera is still pulled here; it is tried again");
                    failed = true;
                }
            }
        }
        let changed = match failed {
            true => tokio::time::timeout(TRY_AGAIN, list.changed()).await.unwrap_or(Ok(())),
            false => list.changed().await,
        };
        if changed.is_err() {
            return;
        }
    }
}

impl MediaMtx {
    /// Takes a path out of MediaMTX's configuration, which closes it; gives what it was configured with.
    async fn remove(&self, stream: &StreamName) -> Result<Option<Bytes>, ServerProblem> {
        self.act(async |client: &mut Client| {
            let configuration = match client.get(&format!("/v3/config/paths/get/{stream}")).await? {
                Answer::Body(json) => Some(Bytes::copy_from_slice(json)),
                Answer::NotFound => None,
            };
            client.delete(&format!("/v3/config/paths/delete/{stream}")).await?;
            Ok(configuration)
        })
        .await
    }

    async fn put_back(&self, stream: &StreamName, configuration: Option<Bytes>) -> Result<(), ServerProblem> {
        let Some(configuration) = configuration else { return Ok(()) };
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
