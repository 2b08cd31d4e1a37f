//! `mtxfleet drain`: take a node out of service, in five phases.

use std::time::Duration;

use anyhow::bail;
use mtxfleet_wire::{
    CameraEnd, CameraOutcome, CameraSource, DrainOrder, DrainOutcome, DrainRecord, DrainView, LegEnd, NodeId, Phase,
};

use super::api::{Access, Api};
use super::output::say;

/// Between two looks at a drain that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Looks between two lines that differ in figures only: 5 s.
const FIGURES_EVERY: u32 = 20;
/// An agent that is restarted in a drain is waited for this long.
const AGENT_AWAY: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub struct Drain {
    /// The node; without it, the one whose agent is asked.
    node: Option<NodeId>,
    /// Begin also where the rules refuse: too few nodes left, or Redis away.
    #[arg(long)]
    force: bool,
    /// Stay until it has ended, and show the phases.
    #[arg(long)]
    wait: bool,
    /// For the record.
    #[arg(long, default_value = "ordered by hand")]
    reason: String,
    #[command(flatten)]
    access: Access,
}

impl Drain {
    pub async fn run(self) -> anyhow::Result<()> {
        let node = Api::new(&self.access)?.of_node(self.node.as_ref()).await?;
        let view = node.order_drain(&DrainOrder { force: self.force, reason: self.reason }).await?;
        let view = match view {
            Ok(view) => view,
            Err(refusal) => bail!("not drained: {refusal}"),
        };
        say(format!("drain {} of {} has begun\n", view.drain, view.node))?;
        if self.wait { watch(&node, view).await } else { Ok(()) }
    }
}

async fn watch(node: &Api, mut view: DrainView) -> anyhow::Result<()> {
    let mut shown = Shown::default();
    let id = view.drain.clone();
    loop {
        shown.show(&view)?;
        if let Some(record) = &view.record {
            say(summary(record))?;
            return if record.outcome == DrainOutcome::Completed { Ok(()) } else { bail!("the drain was cancelled") };
        }
        tokio::time::sleep(LOOK_EVERY).await;
        let look_again = async {
            loop {
                match node.drain().await {
                    Ok(Some(next)) if next.drain == id => return next,
                    _ => tokio::time::sleep(LOOK_EVERY).await,
                }
            }
        };
        view = match tokio::time::timeout(AGENT_AWAY, look_again).await {
            Ok(next) => next,
            Err(_) => {
                bail!("the agent has not said anything of drain {id} for {AGENT_AWAY:?}; look with `mtxfleet status`")
            }
        };
    }
}

/// What was printed, so that only news is.
#[derive(Default)]
struct Shown {
    ended: usize,
    phase: Option<Phase>,
    waiting_for: String,
    looks_since: u32,
}

impl Shown {
    fn show(&mut self, view: &DrainView) -> anyhow::Result<()> {
        for phase in view.phases.iter().skip(self.ended) {
            let how = if phase.timed_out { "ended at its deadline" } else { "done" };
            say(format!("  {}/5 {:<17} {how} after {:.1} s\n", phase.phase.number(), phase.phase, phase.seconds))?;
            for reason in &phase.waiting_for {
                say(format!("        still waiting: {reason}\n"))?;
            }
        }
        self.ended = view.phases.len();
        if let Some(phase) = view.phase.filter(|phase| self.phase != Some(*phase)) {
            say(format!("  {}/5 {phase:<17} ...\n", phase.number()))?;
            self.waiting_for.clear();
        }
        self.phase = view.phase;
        let Some(first) = view.waiting_for.first() else { return Ok(()) };
        let more = match view.waiting_for.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        let line = format!("{first}{more}");
        // A line in which only a figure has changed, such as seconds that run down, is shown again after a while.
        let figures = |c: char| c.is_ascii_digit() || c == '.';
        let same = self.waiting_for.replace(figures, "") == line.replace(figures, "");
        self.looks_since += 1;
        if line == self.waiting_for || (same && self.looks_since < FIGURES_EVERY) {
            return Ok(());
        }
        say(format!("        {line}\n"))?;
        self.waiting_for = line;
        self.looks_since = 0;
        Ok(())
    }
}

fn summary(record: &DrainRecord) -> String {
    let seconds = record.ended.since(record.started).as_secs_f64();
    let legs = |end: fn(&LegEnd) -> bool| record.legs.iter().filter(|leg| end(&leg.how)).count();
    let moved = legs(|end| matches!(end, LegEnd::Moved(_)));
    let cut = legs(|end| *end == LegEnd::Disconnected);
    let outcome = match record.outcome {
        DrainOutcome::Completed => "is out of service",
        DrainOutcome::Cancelled => "stays in service",
    };
    let reports: Vec<u64> =
        record.legs.iter().filter_map(|leg| leg.counters.map(|counters| counters.lost_packets)).collect();
    let lost = match (reports.len(), record.legs.len()) {
        (_, 0) => String::new(),
        (said, legs) => {
            let lost: u64 = reports.iter().sum();
            let silent = if said == legs { String::new() } else { format!(", {} did not report", legs - said) };
            format!("; their workers report {lost} packet(s) lost{silent}")
        }
    };
    let asked = record.phases.iter().find(|phase| phase.phase == Phase::LoadBalancer);
    let balancers = match (record.out_of_balancer_seconds, asked) {
        (Some(seconds), _) => format!("out of the load balancers after {seconds:.1} s"),
        (None, Some(phase)) if !phase.timed_out => "no load balancer polls this node".to_owned(),
        (None, _) => "the load balancers were not seen to take it out".to_owned(),
    };
    let cameras: String = record.cameras.iter().map(camera_line).collect();
    format!(
        "{} {outcome} after {seconds:.1} s: {moved} worker leg(s) moved, {cut} cut{lost}; {} other connection(s) cut; \
         {} viewer(s) left, {} cut; {balancers}\n{cameras}",
        record.node, record.readers_disconnected, record.viewers_left, record.viewers_disconnected
    )
}

/// Where a camera is now. Pulled ones that another node has need no line: nothing happened to them.
fn camera_line(camera: &CameraOutcome) -> String {
    let stream = &camera.stream;
    match (&camera.how, camera.source) {
        (CameraEnd::At(_), CameraSource::Pulled) => String::new(),
        (CameraEnd::At(node), CameraSource::Pushed) => {
            let away = camera.away_ms.map_or_else(String::new, |ms| format!(" after {:.1} s", ms as f64 / 1e3));
            let frames = match (camera.frames_not_sent, camera.frames_missed) {
                (Some(not_sent), Some(missed)) => {
                    format!(
                        "; it did not send {not_sent} frame(s) meanwhile, and {missed} passed before a worker read again"
                    )
                }
                _ => String::new(),
            };
            format!("  {stream} publishes to {node}{away}{frames}\n")
        }
        (CameraEnd::NotSeenElsewhere, _) => format!("  {stream} was disconnected, and was not seen elsewhere\n"),
        (CameraEnd::Here, _) => format!("  {stream} was not handed over\n"),
    }
}
