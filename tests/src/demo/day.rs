//! A day in three minutes: viewers come and go tenfold, and the distribution cluster follows them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mtxfleet_leader::cloud::InstanceState;
use mtxfleet_wire::{DecisionView, NodeId, OutcomeView, Role};
use serde::Serialize;

use super::{chart, progress};
use crate::lab::Lab;
use crate::lab::audience::{Audience, PerCamera, Results};
use crate::lab::camera::CameraKind;
use crate::lab::cloud::{CloudNode, CloudSettings};
use crate::lab::node::Settings;
use crate::lab::reader::ReconnectingReader;
use crate::lab::wait::{PATIENCE, wait_for};
use crate::server_binary::ServerBinary;

/// A day of 24 hours.
const DAY: Duration = Duration::from_secs(180);

/// One worker on each camera all day, and one plain reader, which every drain of its node cuts off.
const AUDIENCE: PerCamera = PerCamera { workers: 1, controls: 1, viewers: 0 };

/// Viewers by the hour; between these, a straight line. A flash crowd at noon, the peak in the evening.
const VIEWERS: [(f64, f64); 11] = [
    (0.0, 4.0),
    (6.0, 4.0),
    (9.0, 16.0),
    (12.0, 14.0),
    (12.6, 28.0),
    (13.4, 14.0),
    (17.0, 20.0),
    (19.5, 40.0),
    (21.0, 40.0),
    (22.5, 4.0),
    (24.0, 4.0),
];

/// Viewers, workers and plain readers that one node carries here.
const READERS_PER_NODE: u32 = 10;

const MIN: u32 = 2;
const MAX: u32 = 6;

/// From this hour on nodes without a worker are protected until one with workers has been chosen to go: the evening is to
/// show that workers survive it. (By itself an orchestrator takes the cheapest first: those without.)
const EVENING: f64 = 21.0;

/// Viewers join and leave in steps of this.
const STEP: Duration = Duration::from_millis(250);

/// The fleet is looked at this often.
const LOOK: Duration = Duration::from_secs(1);

/// After midnight the cluster may take so long to be small again: what was begun is ended.
const SMALL_AGAIN_WITHIN: Duration = Duration::from_secs(60);

/// One look at the fleet.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Look {
    /// Hours since midnight.
    pub(super) hour: f64,
    /// Everybody who reads.
    pub(super) readers: u32,
    /// Instances that are paid for: those that launch, serve, or end.
    pub(super) paid: u32,
    /// Of these, those that serve.
    pub(super) serving: u32,
}

/// What the day came to.
#[derive(Debug, Serialize)]
pub struct Day {
    pub(super) looks: Vec<Look>,
    /// Minutes that instances ran.
    pub(super) node_minutes: f64,
    /// Instances at the peak.
    pub(super) peak: u32,
    /// The same for a cluster that is as large all day as this one was at its peak.
    pub(super) fixed_node_minutes: f64,
    pub(super) launched: u32,
    pub(super) drained: u32,
    pub(super) results: Results,
}

impl Day {
    /// It grew, it shrank again through drains that met workers, and no worker lost, repeated or disordered a frame.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.results.imperfect().next().is_none() && self.grew_and_shrank() && self.handovers() > 0
    }

    pub(super) fn grew_and_shrank(&self) -> bool {
        let last = self.looks.last().map_or(0, |look| look.paid);
        self.peak > MIN && last < self.peak && self.launched > 0 && self.drained > 0
    }

    pub(super) fn handovers(&self) -> u64 {
        self.results.workers.iter().filter_map(|row| row.counters).map(|counters| counters.handovers).sum()
    }
}

/// Starts a fleet whose distribution nodes come from a local cloud, and lives a day with it.
///
/// # Errors
/// When a part of the fleet does not come up, or does not answer: then nothing was shown.
pub(super) async fn run(server: Option<ServerBinary>) -> Result<(Lab, Day)> {
    let began = Instant::now();
    progress::title("A day in three minutes: the cluster follows its load");
    let cloud = CloudSettings {
        min: MIN,
        max: MAX,
        launch_delay: Duration::from_secs(2),
        policy: CloudSettings::policy(READERS_PER_NODE, Duration::from_secs(2), Duration::from_secs(8)),
        ..CloudSettings::default()
    };
    let settings = Settings { drain: "viewer_window = \"3s\"\nviewer_cut = \"2s\"\n".to_owned(), ..Settings::demo() };
    let mut builder = Lab::builder().cameras(CameraKind::DEMO).settings(settings).cloud(cloud);
    if let Some(server) = server {
        builder = builder.server(server);
    }
    let lab = builder.start().await?;
    let audience = Audience::gather(&lab, AUDIENCE).await?;
    progress::day_begins(&lab, &audience, MIN, MAX, READERS_PER_NODE, began.elapsed());

    let steady = (audience.workers.len() + audience.controls.len()) as u32;
    let mut watch = Watch::new(&lab, steady);
    let mut kept: Option<Kept> = None;
    let mut viewers: Vec<ReconnectingReader> = Vec::new();
    let midnight = tokio::time::Instant::now();
    let mut steps = tokio::time::interval(STEP);
    steps.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while midnight.elapsed() < DAY {
        steps.tick().await;
        let hour = 24.0 * midnight.elapsed().as_secs_f64() / DAY.as_secs_f64();
        let wanted = viewers_at(hour);
        while viewers.len() > wanted {
            // Dropping it closes the connection; a viewer says no goodbye.
            viewers.pop();
        }
        while viewers.len() < wanted {
            viewers.push(lab.plain_reader(favourite(&lab, viewers.len())));
        }
        watch.look(hour.min(24.0), viewers.len()).await?;
        match &mut kept {
            None if hour >= EVENING => kept = Some(Kept::begin(&lab, watch.drained).await?),
            Some(kept) if watch.drained > kept.drained_before => kept.end().await?,
            _ => {}
        }
    }
    if let Some(kept) = &mut kept {
        kept.end().await?;
    }
    // The last drains of the evening are seen to their end.
    let cloud = lab.cloud()?;
    wait_for("the cluster to be small again", SMALL_AGAIN_WITHIN, async || {
        let paid = cloud.present().await?;
        anyhow::ensure!(paid as u32 <= MIN, "{paid} instances");
        Ok(())
    })
    .await?;
    watch.last_look(viewers.len()).await?;
    audience.wait_for_more(25, PATIENCE).await?;
    drop(viewers);
    progress::note("Comparing what every reader got with what its camera sent ...");
    let results = audience.finish().await?;
    let day = watch.day(results);
    super::table::print(&lab, &day.results);
    chart::print(&day.looks, MAX);
    progress::day_ends(&day);
    Ok((lab, day))
}

/// Nodes that are protected for a while.
struct Kept {
    nodes: Vec<CloudNode>,
    /// Nodes chosen to be drained before that.
    drained_before: u32,
}

impl Kept {
    async fn begin(lab: &Lab, drained_before: u32) -> Result<Self> {
        let with_workers: Vec<NodeId> =
            lab.legs().await?.into_iter().filter(|(_, legs)| *legs > 0).map(|(node, _)| node).collect();
        let mut nodes = lab.cloud_nodes().await?;
        nodes.retain(|node| !with_workers.contains(&node.id));
        for node in &nodes {
            node.api.protect(true).await?;
        }
        progress::kept(&nodes.iter().map(|node| node.id.as_str()).collect::<Vec<_>>());
        Ok(Self { nodes, drained_before })
    }

    async fn end(&mut self) -> Result<()> {
        for node in std::mem::take(&mut self.nodes) {
            node.api.protect(false).await?;
        }
        Ok(())
    }
}

/// The more, the earlier in the list: half of the viewers watch the first camera.
fn favourite(lab: &Lab, number: usize) -> &str {
    let ranks = [0, 1, 0, 2, 0, 1, 0, 3];
    &lab.cameras[ranks[number % ranks.len()] % lab.cameras.len()].name
}

fn viewers_at(hour: f64) -> usize {
    let line = VIEWERS.windows(2).find(|line| hour <= line[1].0);
    line.map_or(VIEWERS[VIEWERS.len() - 1].1, |line| {
        let ((from, low), (to, high)) = (line[0], line[1]);
        low + (high - low) * (hour - from) / (to - from)
    })
    .round() as usize
}

/// Looks at the fleet as the hours pass, and tells what changed.
struct Watch<'a> {
    lab: &'a Lab,
    /// Readers that stay all day.
    steady: u32,
    looked: Option<Instant>,
    looks: Vec<Look>,
    node_seconds: f64,
    seconds: f64,
    /// The last decision that was told, by orchestrator and number.
    told: Option<(String, u64)>,
    launched: u32,
    drained: u32,
}

impl<'a> Watch<'a> {
    fn new(lab: &'a Lab, steady: u32) -> Self {
        Self {
            lab,
            steady,
            looked: None,
            looks: Vec::new(),
            node_seconds: 0.0,
            seconds: 0.0,
            told: None,
            launched: 0,
            drained: 0,
        }
    }

    async fn look(&mut self, hour: f64, viewers: usize) -> Result<()> {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK) {
            return Ok(());
        }
        let since = self.looked.replace(Instant::now()).map_or(0.0, |looked| looked.elapsed().as_secs_f64());
        let group = self.lab.cloud()?.group().await?;
        let paid = group.instances.len() as u32;
        let serving = group.instances.iter().filter(|i| i.state == InstanceState::InService).count() as u32;
        self.node_seconds += since * f64::from(paid);
        self.seconds += since;
        let look = Look { hour, readers: viewers as u32 + self.steady, paid, serving };
        self.looks.push(look);
        for decision in self.news().await? {
            match decision.outcome {
                OutcomeView::Grow { launch, .. } => self.launched += launch,
                OutcomeView::Shrink { drain } => self.drained += drain,
                OutcomeView::Nothing => {}
            }
            progress::decided(&look, &decision);
        }
        Ok(())
    }

    async fn last_look(&mut self, viewers: usize) -> Result<()> {
        self.looked = self.looked.and_then(|looked| looked.checked_sub(LOOK));
        self.look(24.0, viewers).await
    }

    /// Decisions since the last look that do something.
    async fn news(&mut self) -> Result<Vec<DecisionView>> {
        let seen_by = self.lab.of_role(Role::Ingestion).next().context("the lab has no ingestion node")?;
        let views = seen_by.agent.orchestrators().await?;
        let decisions =
            views.into_iter().filter(|view| view.role == Role::Distribution).flat_map(|view| view.decisions);
        let told = self.told.clone();
        let is_new = |decision: &DecisionView| {
            told.as_ref().is_none_or(|(by, number)| decision.by.as_str() != by || decision.number > *number)
        };
        let new: Vec<DecisionView> = decisions.filter(is_new).collect();
        if let Some(last) = new.last() {
            self.told = Some((last.by.to_string(), last.number));
        }
        Ok(new.into_iter().filter(|decision| decision.outcome != OutcomeView::Nothing).collect())
    }

    fn day(self, results: Results) -> Day {
        let peak = self.looks.iter().map(|look| look.paid).max().unwrap_or(0);
        Day {
            looks: self.looks,
            node_minutes: self.node_seconds / 60.0,
            peak,
            fixed_node_minutes: f64::from(peak) * self.seconds / 60.0,
            launched: self.launched,
            drained: self.drained,
            results,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn viewers_swing_tenfold_over_the_day() {
        let day: Vec<usize> = (0..=240).map(|tenth| viewers_at(f64::from(tenth) / 10.0)).collect();
        let (least, most) = (day.iter().min().expect("some"), day.iter().max().expect("some"));
        assert_eq!(*most, 10 * least);
        assert_eq!(day.first(), day.last(), "the next day begins as this one");
    }
}
