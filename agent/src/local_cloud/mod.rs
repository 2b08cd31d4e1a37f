//! `mtxfleet local-cloud`: an autoscaling group for each role, of processes on this machine.
//!
//! ```text
//!  agents, curl --HTTP--> server --> Cloud (one task) --> Group: what is there, and what is to be
//!                                      |  ^
//!                          start, stop v  | it runs, it is gone
//!                                    one task for each instance: its folder and its programs
//! ```
//! A process apart, so that it outlives a killed orchestrator as a cloud does. It behaves as an autoscaling group: told a
//! number, it starts what is missing, after the launch delay; every instance is protected from its scale-in from birth;
//! one that is ended with decrement lowers the number, and is refused at the least. It can be told to misbehave.
//! `docs/guide/local-cloud.md` shows it at work.

mod faults;
mod group;
mod instance;
mod server;
mod settings;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use mtxfleet_leader::cloud::{CloudCall, Group as Listing};
use mtxfleet_wire::{InstanceId, Role};
use tokio::sync::{mpsc, oneshot, watch};

pub use faults::Faults;
use group::{Act, Group};
use instance::Report;
pub use settings::{GroupSettings, Settings, SettingsError};

use crate::edge::clock::Clock;

/// What waits is looked at this often: launches that are due.
const TICK: Duration = Duration::from_millis(50);

/// All instances together have this long to end when the cloud does, beside what each is given.
const STOP_SLACK: Duration = Duration::from_secs(2);

/// Why a call was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    Unknown(String),
    Refused(String),
    Throttled,
    Failed,
}

/// What a caller wants of the one task.
#[derive(Debug)]
enum Request {
    Call { role: Role, call: CloudCall, answer: oneshot::Sender<Result<Option<Listing>, Refusal>> },
    Faults { set: Option<Faults>, answer: oneshot::Sender<Faults> },
}

/// Runs until `stop` resolves; then ends every instance and waits for them.
///
/// # Errors
/// When the address is taken, or the folder cannot be made.
pub async fn run(settings: Settings, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let clock = Clock::start();
    let logs = settings.logs();
    std::fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    let (requests_in, mut requests) = mpsc::channel(64);
    let (reports_in, mut reports) = mpsc::channel(64);
    let address = server::start(settings.listen, requests_in).await?;
    tracing::info!("the local cloud is at http://{address}");

    let longest = settings.groups.iter().map(|group| group.stop_within).max().unwrap_or_default();
    let mut cloud = Cloud {
        groups: settings.groups.iter().map(|group| (group.role, Group::new(group))).collect(),
        settings,
        clock,
        faults: Faults::default(),
        stops: BTreeMap::new(),
        reports: reports_in,
    };
    let mut tick = tokio::time::interval(TICK);
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(request) = requests.recv() => cloud.answer(request),
            Some(report) = reports.recv() => cloud.hear(report),
            _ = tick.tick() => {}
        }
        cloud.pass_time();
    }
    tracing::info!("ending {} instance(s)", cloud.stops.len());
    for stop in cloud.stops.values() {
        stop.send_replace(true);
    }
    let ended = async {
        while !cloud.stops.is_empty() {
            let Some(report) = reports.recv().await else { return };
            cloud.hear(report);
        }
    };
    // Whoever is left is killed with this process.
    _ = tokio::time::timeout(longest + STOP_SLACK, ended).await;
    Ok(())
}

struct Cloud {
    settings: Settings,
    clock: Clock,
    groups: BTreeMap<Role, Group>,
    faults: Faults,
    /// Of each instance that has a task.
    stops: BTreeMap<InstanceId, watch::Sender<bool>>,
    reports: mpsc::Sender<Report>,
}

impl Cloud {
    fn pass_time(&mut self) {
        let now = self.clock.mono();
        let mut acts = Vec::new();
        for (role, group) in &mut self.groups {
            acts.extend(group.pass_time(now, &self.faults).into_iter().map(|act| (*role, act)));
        }
        for (role, act) in acts {
            self.carry_out(role, act);
        }
    }

    fn carry_out(&mut self, role: Role, act: Act) {
        match act {
            Act::Start(launch) => {
                let Some(group) = self.settings.groups.iter().find(|group| group.role == role) else { return };
                tracing::info!(instance = %launch.instance, node = %launch.node, "starting");
                let (stop, stopped) = watch::channel(false);
                self.stops.insert(launch.instance.clone(), stop);
                let plan = instance::Plan::new(&self.settings, group, launch);
                tokio::spawn(instance::run(plan, stopped, self.reports.clone()));
            }
            Act::Stop(instance) => {
                tracing::info!(%instance, "ending");
                if let Some(stop) = self.stops.get(&instance) {
                    stop.send_replace(true);
                }
            }
        }
    }

    fn hear(&mut self, report: Report) {
        let now = self.clock.mono();
        match report {
            Report::Runs(instance) => self.groups.values_mut().for_each(|group| group.runs(&instance)),
            Report::Gone { instance, why } => {
                match &why {
                    Some(why) => tracing::warn!(%instance, %why, "gone"),
                    None => tracing::info!(%instance, "gone"),
                }
                self.stops.remove(&instance);
                self.groups.values_mut().for_each(|group| group.gone(now, &instance, why.as_deref()));
            }
        }
    }

    fn answer(&mut self, request: Request) {
        // Who asked may have gone.
        match request {
            Request::Call { role, call, answer } => _ = answer.send(self.call(role, call)),
            Request::Faults { set, answer } => {
                if let Some(faults) = set {
                    tracing::warn!(?faults, "misbehaving as told");
                    self.faults = faults;
                }
                _ = answer.send(self.faults.clone());
            }
        }
    }

    fn call(&mut self, role: Role, call: CloudCall) -> Result<Option<Listing>, Refusal> {
        self.faults.strike()?;
        let now = self.clock.mono();
        let known: Vec<&str> = self.groups.keys().map(|role| role.as_str()).collect();
        let unknown = Refusal::Unknown(format!("there is no group for {role}; there is one for {}", known.join(", ")));
        let group = self.groups.get_mut(&role).ok_or(unknown)?;
        match call {
            CloudCall::Describe => return Ok(Some(group.listing(now))),
            CloudCall::SetDesired { .. } if self.faults.fail_desired => return Err(Refusal::Failed),
            CloudCall::SetDesired { desired } => {
                tracing::info!(%role, desired, "told how many");
                group.set_desired(desired)?;
            }
            CloudCall::End { instance, decrement } => {
                if let Some(why) = self.faults.keeps(&instance) {
                    return Err(Refusal::Refused(why.clone()));
                }
                for act in group.end(&instance, decrement)? {
                    self.carry_out(role, act);
                }
            }
        }
        Ok(None)
    }
}
