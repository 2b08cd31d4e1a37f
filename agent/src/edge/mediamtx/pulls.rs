//! Pulled cameras as paths of MediaMTX: added by its API, put back when it has restarted, deleted when they are another
//! node's.
//!
//! Paths added by API live as long as the server does, so what tells ours from the operator's lives in them: each carries
//! [`MARK_KEY`], a setting of a source of another kind that MediaMTX keeps and does not use, with the hash of what the
//! inventory said. So the agent knows its own after any restart of either. **A path without the mark is never touched.**
//!
//! MediaMTX connects to the cameras by itself, tries unreachable ones again every 5 s, each apart from the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mtxfleet_wire::StreamName;
use tokio::sync::{mpsc, watch};

use super::client::{Answer, Client};
use super::{MediaMtx, ServerProblem, listing};
use crate::config::Camera;
use crate::node::effect::PullOrders;
use crate::node::event::PullsReport;

/// The overlay of a Raspberry Pi's own camera: free text, without effect where the source is another.
pub const MARK_KEY: &str = "rpiCameraTextOverlay";
const MARK: &str = "mtxfleet camera ";

/// What failed is tried again after this long.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Takes orders, which a task of its own carries out. Dropping it ends the task, and leaves the paths as they are.
#[derive(Debug)]
pub struct Pulls {
    orders: watch::Sender<Option<PullOrders>>,
}

impl Pulls {
    /// Looks at MediaMTX until it answers, and says what is there; touches nothing before the first orders.
    #[must_use]
    pub fn start(mediamtx: Arc<MediaMtx>) -> (Self, mpsc::Receiver<PullsReport>) {
        let (orders, wanted) = watch::channel(None);
        let (reports, seen) = mpsc::channel(4);
        tokio::spawn(carry_out(mediamtx, wanted, reports));
        (Self { orders }, seen)
    }

    /// The whole wish, in the place of the one before.
    pub fn order(&self, orders: PullOrders) {
        self.orders.send_replace(Some(orders));
    }

    /// Compares again: MediaMTX was seen without a path that it should have.
    pub fn check(&self) {
        self.orders.send_modify(|_| {});
    }
}

async fn carry_out(
    mediamtx: Arc<MediaMtx>,
    mut wanted: watch::Receiver<Option<PullOrders>>,
    reports: mpsc::Sender<PullsReport>,
) {
    let mut complained = false;
    loop {
        let orders = wanted.borrow_and_update().clone();
        let done = mediamtx.reconcile(orders.as_ref()).await;
        let again = match done {
            Ok(report) => {
                complained = false;
                let again = !report.refused.is_empty();
                if reports.send(report).await.is_err() {
                    return;
                }
                again
            }
            Err(error) => {
                if !std::mem::replace(&mut complained, true) {
                    tracing::warn!(%error, "the paths of pulled cameras cannot be compared; trying on");
                }
                true
            }
        };
        let changed = match again {
            true => tokio::time::timeout(TRY_AGAIN, wanted.changed()).await.unwrap_or(Ok(())),
            false => wanted.changed().await,
        };
        if changed.is_err() {
            return;
        }
    }
}

impl MediaMtx {
    /// One comparison, and what it takes. Each exchange has its own time limit: a thousand paths take a second or two.
    async fn reconcile(&self, orders: Option<&PullOrders>) -> Result<PullsReport, ServerProblem> {
        let present = self.act(async |client: &mut Client| listing::marks(client).await).await?;
        let mut report = PullsReport::default();
        let mut ours: BTreeMap<StreamName, &str> = BTreeMap::new();
        for (name, mark) in &present {
            if let (Ok(name), Some(hash)) = (StreamName::new(name.as_str()), mark.strip_prefix(MARK)) {
                ours.insert(name, hash);
            }
        }
        report.ours = ours.keys().cloned().collect();
        let Some(orders) = orders else { return Ok(report) };

        let wanted: BTreeSet<&StreamName> = orders.pull.iter().map(|camera| &camera.name).collect();
        for name in ours.keys().filter(|name| !wanted.contains(name) && !orders.keep.contains(*name)) {
            let path = format!("/v3/config/paths/delete/{name}");
            self.act(async |client: &mut Client| client.delete(&path).await.map(|_gone_now_or_before| ())).await?;
            tracing::info!(stream = %name, "a camera is not pulled here any more");
            report.ours.remove(name);
        }
        for camera in &orders.pull {
            let verb = match (ours.get(&camera.name), present.contains_key(camera.name.as_str())) {
                (Some(hash), _) if **hash == *camera.hash => continue,
                (Some(_), _) => "replace",
                (None, true) => {
                    report.in_the_way.insert(camera.name.clone());
                    continue;
                }
                (None, false) => "add",
            };
            match self.put(verb, camera).await {
                Ok(()) => {
                    tracing::info!(stream = %camera.name, "a camera is pulled here");
                    report.ours.insert(camera.name.clone());
                }
                Err(ServerProblem::Away(why)) => return Err(ServerProblem::Away(why)),
                Err(ServerProblem::Odd(why)) => {
                    tracing::warn!(stream = %camera.name, why, "MediaMTX refuses a camera's path; it is tried again");
                    report.refused.insert(camera.name.clone(), why);
                }
            }
        }
        Ok(report)
    }

    async fn put(&self, verb: &str, camera: &Camera) -> Result<(), ServerProblem> {
        let path = format!("/v3/config/paths/{verb}/{}", camera.name);
        let body = Bytes::from(camera.path_settings(&format!("{MARK}{}", camera.hash)).to_string());
        let done = self.act(async |client: &mut Client| match client.post_json(&path, body).await? {
            Answer::Body(_) => Ok(()),
            Answer::NotFound => Err(ServerProblem::Odd("404: the path went meanwhile".to_owned())),
        });
        done.await.map_err(|error| without_secrets(error, camera))
    }
}

/// MediaMTX repeats in its errors what it was given.
fn without_secrets(error: ServerProblem, camera: &Camera) -> ServerProblem {
    let clean = |text: String| camera.secrets().iter().fold(text, |text, secret| text.replace(secret.as_str(), "..."));
    match error {
        ServerProblem::Away(text) => ServerProblem::Away(clean(text)),
        ServerProblem::Odd(text) => ServerProblem::Odd(clean(text)),
    }
}
