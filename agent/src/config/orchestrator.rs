//! `[orchestrator]`, `[ingestion]` and `[distribution]`: whether this fleet sizes itself, and by which policies.

use mtxfleet_leader::engine::{Metric, Policy, Schedule};
use mtxfleet_leader::{Orchestrator, distribution_orchestrator, ingestion_orchestrator};
use mtxfleet_wire::Role;

use super::section::Section;
use super::units::show_duration;

/// `[orchestrator]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrchestratorSection {
    /// Whether nodes of this fleet stand for election, and plan (when a cloud is configured).
    pub enabled: bool,
    /// Decide and record, and do nothing.
    pub dry_run: bool,
}

/// How each cluster is sized.
#[derive(Debug, Clone, PartialEq)]
pub struct Policies {
    pub ingestion: Policy,
    pub distribution: Policy,
}

impl Policies {
    /// # Panics
    /// Never: the policies were checked when they were read.
    #[must_use]
    pub fn orchestrator(&self, role: Role) -> Orchestrator {
        let policy = match role {
            Role::Ingestion => &self.ingestion,
            Role::Distribution => &self.distribution,
        };
        Orchestrator::new(role, policy.clone()).expect("the policy was checked when it was read")
    }
}

/// `has_cloud`: the default of `enabled`. `has_registry`: leases live there.
pub(super) fn orchestrator(section: &Section<'_>, has_cloud: bool, has_registry: bool) -> Option<OrchestratorSection> {
    let enabled = section.flag_or("enabled", has_cloud, "true where a `[cloud]` is configured");
    let dry_run = section.flag("dry_run", false);
    if enabled == Some(true) && !has_registry {
        let because = if section.has("enabled") { "an" } else { "with a [cloud] the fleet sizes itself, and its" };
        let problem = "orchestrator is elected through Redis; set registry.url, or orchestrator.enabled = false";
        section.refuse("enabled", format!("{because} {problem}"));
    }
    Some(OrchestratorSection { enabled: enabled?, dry_run: dry_run? })
}

pub(super) fn ingestion(section: &Section<'_>, least: Option<u32>) -> Option<Policy> {
    policy(section, ingestion_orchestrator::policy(), "cluster.min_ingestion", least)
}

pub(super) fn distribution(section: &Section<'_>, least: Option<u32>) -> Option<Policy> {
    policy(section, distribution_orchestrator::policy(), "cluster.min_distribution", least)
}

/// `least` nodes are to stay in service whoever drains one, as `least_key` says.
fn policy(section: &Section<'_>, mut policy: Policy, least_key: &str, least: Option<u32>) -> Option<Policy> {
    let least = least.unwrap_or(policy.min);
    let min = section.integer_or("min", u64::from(least).max(1), &format!("`{least_key}`"), 1..=1000);
    let max = section.integer("max", policy.max.into(), 1..=1000);
    for rule in &mut policy.metrics {
        let per_node = match rule.metric {
            Metric::Cameras => section.number("cameras_per_node", rule.per_node, 1.0..=100_000.0),
            Metric::Readers => section.number("readers_per_node", rule.per_node, 1.0..=1_000_000.0),
            Metric::Inbound => rate(section, "inbound_per_node", rule.per_node),
            Metric::Outbound => rate(section, "outbound_per_node", rule.per_node),
        };
        rule.per_node = per_node.unwrap_or(rule.per_node);
    }
    let headroom = section.number("headroom", policy.headroom, -0.5..=10.0);
    let tolerance = section.number("tolerance", policy.tolerance, 0.0..=0.5);
    let window = |key, default| section.duration(key, &show_duration(default), "0s"..="1d");
    let up_window = window("up_window", policy.up_window);
    let down_window = window("down_window", policy.down_window);
    let assumed = window("assumed_lead", policy.lead.assumed);
    let lag = window("lag", policy.lead.lag);
    let slope_window = window("slope_window", policy.lead.window);
    let shrink_step = section.integer("shrink_step", policy.shrink_step.into(), 1..=1000);
    let grow_step = section.integer("grow_step", policy.grow_step.unwrap_or(0).into(), 0..=1000);
    let spare = section.number("spare", policy.spare, 0.0..=1000.0);
    let gain = section.number("gain", policy.lead.gain, 0.0..=10.0);
    let noise = section.number("noise", policy.lead.noise, 0.0..=100.0);
    let cpu_limit = section.number("cpu_limit", policy.cpu_limit.unwrap_or(0.0), 0.0..=1.0);

    policy.min = min? as u32;
    policy.max = max? as u32;
    policy.headroom = headroom?;
    policy.tolerance = tolerance?;
    policy.up_window = up_window?;
    policy.down_window = down_window?;
    policy.lead.assumed = assumed?;
    policy.lead.lag = lag?;
    policy.lead.window = slope_window?;
    policy.shrink_step = shrink_step? as u32;
    policy.grow_step = grow_step.map(|step| step as u32).filter(|step| *step > 0);
    policy.spare = spare?;
    policy.lead.gain = gain?;
    policy.lead.noise = noise?;
    policy.cpu_limit = cpu_limit.filter(|limit| *limit > 0.0);
    if policy.min < least {
        let problem =
            format!("{} is below {least_key}, {least}, under which no drain is admitted; raise it", policy.min);
        section.refuse("min", problem);
        return None;
    }
    policy.schedules = section.tables("schedule").iter().map(schedule).collect::<Option<Vec<_>>>()?;
    let errors = policy.errors();
    for error in &errors {
        // The key that the file has, when two do not fit each other.
        let key = match error.key {
            "min" if !section.has("min") => "max",
            "schedules" => "schedule",
            key => key,
        };
        section.refuse(key, error.problem.clone());
    }
    errors.is_empty().then_some(policy)
}

/// `[[ingestion.schedule]]`, `[[distribution.schedule]]`.
fn schedule(section: &Section<'_>) -> Option<Schedule> {
    let text = |text: &str| Ok(text.to_owned());
    let name = section.required("name", "match day", text);
    let cron = section.required("cron", "0 14 * * 6", text);
    let time_zone = section.read("time_zone", "UTC", text);
    let lasts = section.required("lasts", "6h", super::units::duration);
    // Those that are absent are as the policy has them.
    let min = section.optional_integer("min", 1..=1000);
    let max = section.optional_integer("max", 1..=1000);
    let spare = section.optional_number("spare", 0.0..=1000.0);
    let inhibit_scale_down = section.flag("inhibit_scale_down", false);
    Some(Schedule {
        name: name?,
        cron: cron?,
        time_zone: time_zone?,
        lasts: lasts?,
        min: min?.map(|nodes| nodes as u32),
        max: max?.map(|nodes| nodes as u32),
        spare: spare?,
        inhibit_scale_down: inhibit_scale_down?,
    })
}

/// Bits per second, as the policy has them.
fn rate(section: &Section<'_>, key: &'static str, default: f64) -> Option<f64> {
    let default = format!("{}Mbit/s", default / 1e6);
    section.bitrate(key, &default).map(|rate| rate.0 as f64)
}
