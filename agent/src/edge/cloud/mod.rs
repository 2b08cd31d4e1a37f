//! The cloud: starts and ends machines. One driver for each kind, all behind the same calls.
//!
//! ```text
//!  event loop -- CloudAsk --> CloudHandle --> a task for each call --> driver --HTTP, or a program--> the cloud
//!             <-- number, answer ------------------------------------
//! ```
//! A call has 3 s and is not repeated here: whether to ask again is the node's decision. `docs/ref/cloud.md` says what
//! a driver's other side has to do.

mod exec;
mod local;
mod stats;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use mtxfleet_leader::cloud::{CALL_WITHIN, CloudAnswer, CloudAsk, CloudCall, CloudError, Group};
use mtxfleet_wire::{ClusterName, Role};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::config::CloudDriver;
use crate::edge::clock::Clock;
use exec::Exec;
use local::Local;
pub use stats::CloudStats;

/// Answers to calls that nobody has read yet.
const ANSWERS_WAITING: usize = 64;

/// A listing as both drivers read it: a part of one says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    #[serde(default)]
    pub complete: bool,
    #[serde(flatten)]
    pub group: Group,
}

impl Listing {
    fn whole(self, role: Role) -> Result<CloudAnswer, CloudError> {
        if !self.complete {
            let some = self.group.instances.len();
            return Err(CloudError::Incomplete(format!("{some} instance(s), and it does not say that these are all")));
        }
        let mut ids: Vec<_> = self.group.instances.iter().map(|instance| &instance.id).collect();
        ids.sort();
        if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(CloudError::Incomplete(format!("{} is in it twice", twice[0])));
        }
        if self.group.role != role {
            return Err(CloudError::Failed(format!("it lists the group for {}", self.group.role)));
        }
        Ok(CloudAnswer::Group(self.group))
    }
}

/// An answer with the number of what was asked.
pub type Answered = (u64, Result<CloudAnswer, CloudError>);

/// Gives calls to the cloud. Nothing here waits.
#[derive(Debug, Clone)]
pub struct CloudHandle {
    driver: Driver,
    clock: Clock,
    stats: Arc<CloudStats>,
    answers: mpsc::Sender<Answered>,
}

#[derive(Debug, Clone)]
enum Driver {
    Local(Local),
    Exec(Exec),
}

impl CloudHandle {
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(
        driver: &CloudDriver,
        cluster: &ClusterName,
        clock: Clock,
    ) -> anyhow::Result<(Self, mpsc::Receiver<Answered>)> {
        let driver = match driver {
            CloudDriver::Local { url } => Driver::Local(Local::new(url)?),
            CloudDriver::Exec { list, grow, end } => {
                Driver::Exec(Exec::new(cluster.clone(), list.clone(), grow.clone(), end.clone()))
            }
        };
        let (answers, receiver) = mpsc::channel(ANSWERS_WAITING);
        Ok((Self { driver, clock, stats: Arc::default(), answers }, receiver))
    }

    /// The answer comes within [`CALL_WITHIN`].
    pub fn ask(&self, ask: CloudAsk) {
        let cloud = self.clone();
        tokio::spawn(async move {
            let (number, call) = (ask.number, ask.call.clone());
            let answer = cloud.call(ask).await;
            cloud.stats.called(&call, &answer);
            match &answer {
                Err(error) => {
                    tracing::warn!(call = name(&call), %error, "the cloud did not do as asked; it is asked again")
                }
                Ok(_) if call != CloudCall::Describe => tracing::info!(?call, "the cloud did as asked"),
                Ok(_) => {}
            }
            // An error means that the agent stops.
            _ = cloud.answers.send((number, answer)).await;
        });
    }

    #[must_use]
    pub const fn stats(&self) -> &Arc<CloudStats> {
        &self.stats
    }

    async fn call(&self, ask: CloudAsk) -> Result<CloudAnswer, CloudError> {
        // This process may have been frozen since it was asked.
        if ask.not_after.is_some_and(|limit| self.clock.mono() + CALL_WITHIN > limit) {
            return Err(CloudError::TooLate);
        }
        let CloudAsk { role, call, .. } = ask;
        let called = async {
            match &self.driver {
                Driver::Local(local) => local.call(role, &call).await,
                Driver::Exec(exec) => exec.call(role, &call).await,
            }
        };
        match tokio::time::timeout(CALL_WITHIN, called).await {
            Ok(answer) => answer,
            Err(_) => Err(CloudError::TimedOut),
        }
    }
}

/// What a call is called in logs and metrics.
#[must_use]
pub const fn name(call: &CloudCall) -> &'static str {
    match call {
        CloudCall::Describe => "describe",
        CloudCall::SetDesired { .. } => "set_desired",
        CloudCall::End { .. } => "end",
    }
}
