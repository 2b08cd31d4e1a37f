//! One instance: its folder, the files in it, and its programs, which are started again when they end.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use mtxfleet_wire::InstanceId;
use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::group::Launch;
use super::settings::{GroupSettings, Program, Settings, fill};
use crate::config::INSTANCE;

/// What prepares an instance has this long for each command.
const PREPARED_WITHIN: Duration = Duration::from_secs(30);
/// A program that ended is started again after this, doubled while it ends as soon as it was started.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// One that ran for so long did start.
const RAN: Duration = Duration::from_secs(10);

/// What the instance's task says.
#[derive(Debug)]
pub(super) enum Report {
    Runs(InstanceId),
    /// With all of its processes; `why` unless it was stopped.
    Gone {
        instance: InstanceId,
        why: Option<String>,
    },
}

/// All that an instance is made of, with every placeholder filled in.
#[derive(Debug)]
pub(super) struct Plan {
    instance: InstanceId,
    dir: PathBuf,
    logs: PathBuf,
    /// Names within `dir`, and what stands in them.
    files: Vec<(String, String)>,
    /// Run in order before the programs: name of the file in `dir` that takes the output, and the command.
    prepare: Vec<(Option<String>, Vec<String>)>,
    programs: Vec<Program>,
    log_name: String,
    stop_within: Duration,
}

impl Plan {
    pub(super) fn new(settings: &Settings, group: &GroupSettings, launch: Launch) -> Self {
        let dir = settings.dir.join(launch.node.as_str());
        let known = group.placeholders(&launch.instance, &launch.node, launch.slot, &dir);
        let all = |words: &[String]| words.iter().map(|word| fill(word, &known)).collect::<Vec<_>>();
        let programs =
            group.programs.iter().map(|program| Program { command: all(&program.command), ..program.clone() });
        Self {
            instance: launch.instance,
            logs: settings.logs(),
            files: group.files.iter().map(|file| (file.name.clone(), fill(&file.text, &known))).collect(),
            prepare: group.prepare.iter().map(|step| (step.output.clone(), all(&step.command))).collect(),
            programs: programs.collect(),
            log_name: launch.node.to_string(),
            stop_within: group.stop_within,
            dir,
        }
    }

    fn command(&self, words: &[String]) -> anyhow::Result<Command> {
        let Some((program, args)) = words.split_first() else { bail!("an empty command") };
        let mut command = Command::new(program);
        command.args(args).current_dir(&self.dir).env(INSTANCE, self.instance.as_str());
        command.stdin(Stdio::null()).process_group(0).kill_on_drop(true);
        die_with_this_process(&mut command);
        Ok(command)
    }

    fn log(&self, program: &str) -> anyhow::Result<std::fs::File> {
        let path = self.logs.join(format!("{}-{program}.log", self.log_name));
        let file = std::fs::File::options().create(true).append(true).open(&path);
        file.with_context(|| format!("cannot write {}", path.display()))
    }

    fn spawn(&self, program: &Program) -> anyhow::Result<Child> {
        let log = self.log(&program.name)?;
        let mut command = self.command(&program.command)?;
        command.stdout(log.try_clone()?).stderr(log);
        command.spawn().with_context(|| format!("cannot run {}", program.command.join(" ")))
    }

    async fn prepare(&self) -> anyhow::Result<()> {
        // What a former run left there is another instance's.
        _ = std::fs::remove_dir_all(&self.dir);
        std::fs::create_dir_all(&self.dir).with_context(|| format!("cannot make {}", self.dir.display()))?;
        for (name, text) in &self.files {
            write(&self.dir.join(name), text.as_bytes())?;
        }
        for (output, words) in &self.prepare {
            let shown = words.join(" ");
            let ran = self.command(words)?.stderr(self.log("prepare")?).output();
            let ran = tokio::time::timeout(PREPARED_WITHIN, ran).await;
            let done = ran.with_context(|| format!("{shown}: still runs after {PREPARED_WITHIN:?}"))?;
            let done = done.with_context(|| format!("cannot run {shown}"))?;
            if !done.status.success() {
                bail!("{shown}: {}; {}-prepare.log says why", done.status, self.log_name);
            }
            if let Some(name) = output {
                write(&self.dir.join(name), &done.stdout)?;
            }
        }
        Ok(())
    }
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// From folder to last process, until `stop` says so. Programs that end meanwhile are started again.
pub(super) async fn run(plan: Plan, mut stop: watch::Receiver<bool>, reports: mpsc::Sender<Report>) {
    let mut running = Vec::new();
    let started = async {
        plan.prepare().await?;
        for program in &plan.programs {
            running.push(Running { child: Some(plan.spawn(program)?), since: Instant::now(), pause: FIRST_PAUSE });
        }
        anyhow::Ok(())
    };
    let started = tokio::select! {
        started = started => started,
        _ = stop.wait_for(|stop| *stop) => Ok(()),
    };
    let why = match started {
        Ok(()) => {
            _ = reports.send(Report::Runs(plan.instance.clone())).await;
            let mut told = stop.clone();
            let mut told = std::pin::pin!(told.wait_for(|stop| *stop));
            loop {
                tokio::select! {
                    // An error: the cloud itself is gone.
                    _ = &mut told => break,
                    () = tend(&plan, &mut running) => {}
                }
            }
            None
        }
        Err(error) => Some(format!("{error:#}")),
    };
    end(running, plan.stop_within).await;
    _ = std::fs::remove_dir_all(&plan.dir);
    _ = reports.send(Report::Gone { instance: plan.instance, why }).await;
}

struct Running {
    child: Option<Child>,
    since: Instant,
    pause: Duration,
}

/// Waits until a program has ended and is to be started again, and does so.
async fn tend(plan: &Plan, running: &mut [Running]) {
    let each = running.iter_mut().zip(&plan.programs).map(|(running, program)| {
        Box::pin(async move {
            if let Some(child) = &mut running.child {
                let status = child.wait().await;
                running.child = None;
                if running.since.elapsed() > RAN {
                    running.pause = FIRST_PAUSE;
                }
                let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                tracing::warn!(instance = %plan.instance, program = program.name, %status, "a program ended");
            }
            if !program.restart {
                return std::future::pending().await;
            }
            tokio::time::sleep(running.pause).await;
            running.pause = (running.pause * 2).min(LONGEST_PAUSE);
            running.since = Instant::now();
            match plan.spawn(program) {
                Ok(child) => running.child = Some(child),
                Err(error) => tracing::warn!(instance = %plan.instance, "{error:#}"),
            }
        })
    });
    let each: Vec<_> = each.collect();
    if each.is_empty() {
        return std::future::pending().await;
    }
    futures::future::select_all(each).await;
}

/// SIGTERM to all, a bounded wait, SIGKILL to whoever is left.
async fn end(mut running: Vec<Running>, within: Duration) {
    let deadline = Instant::now() + within;
    signal(&running, Signal::TERM);
    // A stopped process does not see SIGTERM before it goes on.
    signal(&running, Signal::CONT);
    for child in running.iter_mut().filter_map(|running| running.child.as_mut()) {
        _ = tokio::time::timeout_at(deadline, child.wait()).await;
    }
    signal(&running, Signal::KILL);
    for child in running.iter_mut().filter_map(|running| running.child.as_mut()) {
        _ = child.wait().await;
    }
}

/// To the process groups: a program may have children of its own. Not to one that was waited for.
fn signal(running: &[Running], signal: Signal) {
    for child in running.iter().filter_map(|running| running.child.as_ref()) {
        if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            _ = rustix::process::kill_process_group(pid, signal);
        }
    }
}

/// However this process ends, what it started ends with it. "Parent" is the *thread* that forks: the main one, since the
/// program's runtime has no other.
fn die_with_this_process(command: &mut Command) {
    let parent = rustix::process::getpid();
    #[allow(unsafe_code, reason = "prctl must be called in the child, between fork and exec")]
    // SAFETY: only async-signal-safe calls (prctl, getppid) between fork and exec, and no allocation.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the request was made.
            if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(std::io::ErrorKind::BrokenPipe.into()) }
        });
    }
}
