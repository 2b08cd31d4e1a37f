//! `/metrics` in Prometheus's text format, made from the snapshot at each scrape. `docs/ref/metrics.md` has them all.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use mtxfleet_wire::{Bitrate, Ill, Liveness, NodeState, Role, ServerHealth, StandingView, Subject};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric as Point, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};

use super::Snapshot;
use crate::edge::clock::Clock;

/// A metric by name. Names follow Prometheus's conventions: `mtxfleet_`, base units, `_total` for counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub help: &'static str,
    counts: bool,
}

impl Metric {
    /// A figure that goes up and down.
    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, counts: false }
    }

    /// A figure that only grows while the process lives.
    #[must_use]
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, counts: true }
    }

    #[must_use]
    pub const fn sample(&'static self, value: f64) -> Sample {
        Sample { metric: self, labels: Vec::new(), value }
    }

    #[must_use]
    pub fn labelled(&'static self, labels: &[(&'static str, &str)], value: f64) -> Sample {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Sample { metric: self, labels, value }
    }
}

/// One line of `/metrics`.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub metric: &'static Metric,
    pub labels: Vec<(&'static str, String)>,
    pub value: f64,
}

/// Gives an edge's figures when asked. Must not wait.
pub type Collector = Box<dyn Fn() -> Vec<Sample> + Send + Sync>;

/// All that `/metrics` shows: the snapshot's figures and those of the edges that registered.
#[derive(Default)]
pub struct Metrics {
    collectors: Mutex<Vec<Collector>>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// From now on `/metrics` shows what `collector` gives. Each new name goes on `docs/ref/metrics.md`.
    pub fn register_collector(&self, collector: Collector) {
        self.collectors.lock().unwrap_or_else(PoisonError::into_inner).push(collector);
    }

    /// The text of `/metrics`.
    #[must_use]
    pub fn render(&self, snapshot: &Snapshot) -> String {
        let mut samples = of_snapshot(snapshot);
        for collector in self.collectors.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            samples.extend(collector());
        }
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&families(samples), &mut text) {
            tracing::error!(%error, "metrics cannot be written");
        }
        String::from_utf8(text).unwrap_or_default()
    }
}

fn families(samples: Vec<Sample>) -> Vec<MetricFamily> {
    let mut families: BTreeMap<&'static str, MetricFamily> = BTreeMap::new();
    for sample in samples {
        let metric = sample.metric;
        let family = families.entry(metric.name).or_insert_with(|| {
            let mut family = MetricFamily::default();
            family.set_name(metric.name.to_owned());
            family.set_help(metric.help.to_owned());
            family.set_field_type(if metric.counts { MetricType::COUNTER } else { MetricType::GAUGE });
            family
        });
        let mut point = Point::default();
        let labels = sample.labels.into_iter().map(|(name, value)| {
            let mut label = LabelPair::default();
            label.set_name(name.to_owned());
            label.set_value(value);
            label
        });
        point.set_label(labels.collect());
        if metric.counts {
            let mut counter = Counter::default();
            counter.set_value(sample.value);
            point.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(sample.value);
            point.set_gauge(gauge);
        }
        family.mut_metric().push(point);
    }
    families.into_values().collect()
}

macro_rules! gauges {
    ($($name:ident = $text:literal, $help:literal;)*) => {
        $(static $name: Metric = Metric::gauge($text, $help);)*
    };
}

gauges! {
    BUILD = "mtxfleet_build_info", "Version of the agent; the value is always 1.";
    NODE = "mtxfleet_node_info", "This node's id, cluster, role and zone; the value is always 1.";
    STARTED = "mtxfleet_start_time_seconds", "When the agent started, seconds since 1970.";
    STATE = "mtxfleet_node_state", "1 for the state this node is in, 0 for the others.";
    READY = "mtxfleet_node_ready", "1 when this node can take new sessions (/readyz).";
    PHASE = "mtxfleet_drain_phase", "Phase of the drain under way, 1 to 5; 0 when there is none.";
    PHASE_AGE = "mtxfleet_drain_phase_seconds", "Time spent in the phase of the drain under way.";
    CAMERAS = "mtxfleet_cameras", "Streams owned here that are ready.";
    WORKERS = "mtxfleet_workers", "AI workers that read here.";
    VIEWERS = "mtxfleet_viewers", "Other readers here.";
    INBOUND = "mtxfleet_inbound_bytes_per_second", "What MediaMTX receives.";
    OUTBOUND = "mtxfleet_outbound_bytes_per_second", "What MediaMTX sends.";
    CAPACITY = "mtxfleet_capacity_bytes_per_second", "What this node is meant to send at most, by configuration.";
    CPU = "mtxfleet_cpu_ratio", "Share of all cores in use, 0 to 1.";
    MEMORY = "mtxfleet_memory_ratio", "Share of memory in use, 0 to 1.";
    DISK = "mtxfleet_disk_free_bytes", "Free where recordings go.";
    SERVER = "mtxfleet_mediamtx_up", "1 when MediaMTX answers as it should.";
    SAMPLE_AGE = "mtxfleet_sample_age_seconds", "Age of the figures of MediaMTX and of the machine.";
    ILL = "mtxfleet_node_ill", "1 for what ails this node, 0 for what does not.";
    RESTARTS = "mtxfleet_mediamtx_restarts", "Times that the agent started MediaMTX again in this illness.";
    HOPELESS = "mtxfleet_node_hopeless", "1 when this node asks to be replaced.";
    UNREACHABLE = "mtxfleet_peers_unreachable", "Live nodes whose RTSP port did not answer this one when last asked.";
    AVAILABILITY = "mtxfleet_availability_ratio",
        "Share of the time watched in which this node, or a cluster, was available, 0 to 1.";
    REGISTRY = "mtxfleet_registry_reachable", "1 when this agent reaches Redis.";
    MEMBERS = "mtxfleet_members", "Nodes as this agent knows them, itself included, by role and liveness.";
    MEMBER_STATES = "mtxfleet_member_states", "Nodes that are not dead, by role and state.";
    REPORT_AGE = "mtxfleet_member_report_age_seconds",
        "Age of a live node's report by this node's clock; below -1 or above 5 that node's clock is off.";
    STREAMS = "mtxfleet_streams", "Streams on this node, by whether it owns them.";
    LISTED = "mtxfleet_inventory_cameras", "Cameras in the inventory that is in force here.";
    INVENTORY_OK = "mtxfleet_inventory_ok", "1 when the newest inventory is in force here.";
    INVENTORIES = "mtxfleet_inventories", "Different inventories in force on live nodes; more than 1 is a mistake.";
    PULLED = "mtxfleet_cameras_pulled", "Cameras that this node pulls, by what is wrong with them.";
    FLOWING = "mtxfleet_streams_flowing", "Streams on this node whose bytes are growing.";
    PROTECTED = "mtxfleet_node_protected", "1 when no plan may drain this node.";
    ACTING = "mtxfleet_orchestrator_acting", "1 when this agent orchestrates the role.";
    DRY_RUN = "mtxfleet_orchestrator_dry_run", "1 when the role's orchestrator only decides and records.";
    PAUSED = "mtxfleet_orchestrator_paused", "1 while the role is paused.";
    EPOCH = "mtxfleet_orchestrator_epoch", "Number of the term of the role's orchestrator.";
    PLAN_EPOCH = "mtxfleet_plan_epoch", "Number of the term in which the plan that holds was made.";
    PLAN_SIZE = "mtxfleet_plan_nodes", "Nodes that are to serve or to launch, by the plan that holds.";
    PLAN_DRAINS = "mtxfleet_plan_drains", "Nodes that the plan wants drained.";
    WANTED = "mtxfleet_wanted_nodes", "Nodes that the load asked for at the last decision, within the range.";
    COUNTED = "mtxfleet_counted_nodes", "Nodes as the last decision counted them, by condition.";
}

static DISCARDED: Metric = Metric::counter(
    "mtxfleet_discarded_packets_total",
    "Packets that MediaMTX threw away since a reader was too slow.",
);

static DECISIONS: Metric =
    Metric::counter("mtxfleet_decisions_total", "Decisions of this agent as an orchestrator, by rule and outcome.");

fn of_snapshot(snapshot: &Snapshot) -> Vec<Sample> {
    let mut samples = vec![
        BUILD.labelled(&[("version", env!("CARGO_PKG_VERSION"))], 1.0),
        READY.sample(flag(snapshot.ready.is_ok())),
        PHASE.sample(running(snapshot).map_or(0.0, |(phase, _)| phase)),
        PHASE_AGE.sample(running(snapshot).map_or(0.0, |(_, seconds)| seconds)),
    ];
    this_node(snapshot, &mut samples);
    cameras(snapshot, &mut samples);
    members(snapshot, &mut samples);
    availability(snapshot, &mut samples);
    orchestrators(snapshot, &mut samples);

    let here = || snapshot.streams.iter().filter(|(node, _)| *node == snapshot.node.node).flat_map(|(_, here)| &**here);
    for owned in [true, false] {
        let count = here().filter(|stream| stream.owned == owned).count();
        samples.push(STREAMS.labelled(&[("owned", if owned { "true" } else { "false" })], count as f64));
    }
    samples.push(FLOWING.sample(here().filter(|stream| stream.flowing).count() as f64));
    samples
}

fn running(snapshot: &Snapshot) -> Option<(f64, f64)> {
    let drain = snapshot.drain.as_ref()?;
    Some((f64::from(drain.phase?.number()), drain.seconds_in_phase))
}

/// What is unknown is left out, not 0.
fn this_node(snapshot: &Snapshot, samples: &mut Vec<Sample>) {
    let node = &snapshot.node;
    if let Some(facts) = &node.facts {
        let labels = [
            ("node", node.node.as_str()),
            ("cluster", &snapshot.fleet.cluster),
            ("role", facts.role.as_str()),
            ("zone", &facts.zone),
        ];
        samples.push(NODE.labelled(&labels, 1.0));
        samples.push(STARTED.sample(facts.started.0 as f64 / 1e3));
    }
    let Some(load) = &node.load else { return };
    for state in [NodeState::Active, NodeState::Draining, NodeState::Offline] {
        samples.push(STATE.labelled(&[("state", state.as_str())], flag(load.state == state)));
    }
    let bytes = |rate: Bitrate| rate.0 as f64 / 8.0;
    let known = [
        (&CAMERAS, load.cameras.map(f64::from)),
        (&WORKERS, load.workers.map(f64::from)),
        (&VIEWERS, load.viewers.map(f64::from)),
        (&INBOUND, load.inbound.map(bytes)),
        (&OUTBOUND, load.outbound.map(bytes)),
        (&CAPACITY, Some(bytes(load.capacity))),
        (&CPU, load.cpu.map(f64::from)),
        (&MEMORY, load.memory.map(f64::from)),
        (&DISK, load.disk_free.map(|bytes| bytes as f64)),
        (&SERVER, Some(flag(load.server == ServerHealth::Up))),
        (&SAMPLE_AGE, Some(Clock::wall().since(load.sampled).as_secs_f64())),
        (&REGISTRY, Some(flag(load.redis))),
        (&PROTECTED, Some(flag(load.protected))),
        (&DISCARDED, Some(load.discarded_packets as f64)),
    ];
    if let Some(health) = &load.health {
        for ill in Ill::ALL {
            samples.push(ILL.labelled(&[("ill", ill.as_str())], flag(health.ills.contains(&ill))));
        }
        samples.push(RESTARTS.sample(f64::from(health.restarts)));
        samples.push(HOPELESS.sample(flag(health.hopeless)));
        samples.push(UNREACHABLE.sample(health.unreachable.len() as f64));
    }
    samples.extend(known.into_iter().filter_map(|(metric, value)| Some(metric.sample(value?))));
}

fn cameras(snapshot: &Snapshot, samples: &mut Vec<Sample>) {
    let Some(report) = &snapshot.node.cameras else { return };
    samples.push(LISTED.sample(f64::from(report.listed)));
    samples.push(INVENTORY_OK.sample(flag(report.inventory.is_some() && report.problem.is_none())));
    let wrong = [
        ("unreachable", report.unreachable.count),
        ("in_the_way", report.in_the_way.count),
        ("refused", report.refused.count),
    ];
    let sound = report.pulled.saturating_sub(wrong.iter().map(|(_, count)| count).sum());
    for (state, count) in [("sound", sound)].into_iter().chain(wrong) {
        samples.push(PULLED.labelled(&[("state", state)], f64::from(count)));
    }
    let alive = snapshot.fleet.members.iter().filter(|member| member.liveness == Liveness::Alive);
    let inventories: std::collections::BTreeSet<&String> =
        alive.filter_map(|member| member.cameras.as_ref()?.inventory.as_ref()).collect();
    samples.push(INVENTORIES.sample(inventories.len() as f64));
}

fn members(snapshot: &Snapshot, samples: &mut Vec<Sample>) {
    for member in snapshot.fleet.members.iter().filter(|member| member.liveness == Liveness::Alive) {
        if let Some(load) = &member.load {
            let age = snapshot.fleet.at.0 as f64 - load.sampled.0 as f64;
            samples.push(REPORT_AGE.labelled(&[("node", member.node.as_str())], age / 1e3));
        }
    }
    let of = |role: Role| {
        let has =
            move |facts: &Option<mtxfleet_wire::NodeFacts>| facts.as_ref().is_some_and(|facts| facts.role == role);
        snapshot.fleet.members.iter().filter(move |member| has(&member.facts))
    };
    for role in [Role::Ingestion, Role::Distribution] {
        for (liveness, name) in [(Liveness::Alive, "alive"), (Liveness::Suspect, "suspect"), (Liveness::Dead, "dead")] {
            let count = of(role).filter(|member| member.liveness == liveness).count();
            samples.push(MEMBERS.labelled(&[("role", role.as_str()), ("liveness", name)], count as f64));
        }
        for state in [NodeState::Active, NodeState::Draining, NodeState::Offline] {
            let here = of(role).filter(|member| member.liveness != Liveness::Dead);
            let count = here.filter(|member| member.load.as_ref().is_some_and(|load| load.state == state)).count();
            samples.push(MEMBER_STATES.labelled(&[("role", role.as_str()), ("state", state.as_str())], count as f64));
        }
    }
}

/// Of this node and of the clusters. Every agent has those of all nodes and streams, at `/v1/availability`.
fn availability(snapshot: &Snapshot, samples: &mut Vec<Sample>) {
    for line in &snapshot.availability.lines {
        let (of, name) = match &line.of {
            Subject::Cluster(role) => ("cluster", role.as_str()),
            Subject::Node(name) if *name == snapshot.node.node.as_str() => ("node", name.as_str()),
            Subject::Node(_) | Subject::Stream(_) => continue,
        };
        for (window, seconds) in [("day", line.day), ("week", line.week), ("month", line.month)] {
            if let Some(ratio) = seconds.ratio() {
                samples.push(AVAILABILITY.labelled(&[("of", of), ("name", name), ("window", window)], ratio));
            }
        }
    }
}

fn orchestrators(snapshot: &Snapshot, samples: &mut Vec<Sample>) {
    for view in &snapshot.orchestrators {
        let role = [("role", view.role.as_str())];
        samples.push(ACTING.labelled(&role, flag(view.standing == StandingView::Acting)));
        samples.push(PAUSED.labelled(&role, flag(view.paused.is_some())));
        samples.push(DRY_RUN.labelled(&role, flag(view.dry_run)));
        samples.extend(view.epoch.map(|epoch| EPOCH.labelled(&role, epoch as f64)));
        if let Some(plan) = &view.plan {
            samples.push(PLAN_EPOCH.labelled(&role, plan.id.epoch as f64));
            samples.push(PLAN_SIZE.labelled(&role, f64::from(plan.size)));
            samples.push(PLAN_DRAINS.labelled(&role, plan.drains.len() as f64));
        }
        let Some(last) = view.decisions.last() else { continue };
        samples.push(WANTED.labelled(&role, f64::from(last.wanted)));
        let seen = &last.inputs;
        for (condition, count) in [
            ("serving", seen.serving),
            ("launching", seen.launching),
            ("draining", seen.draining),
            ("unhealthy", seen.unhealthy),
        ] {
            samples.push(COUNTED.labelled(&[role[0], ("condition", condition)], f64::from(count)));
        }
    }
    for (rule, outcome, count) in &snapshot.decided {
        samples.push(DECISIONS.labelled(&[("rule", rule), ("outcome", outcome)], *count as f64));
    }
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}
