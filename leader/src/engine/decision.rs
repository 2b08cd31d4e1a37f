//! What was decided, by which rule, and why: also when the outcome is "nothing".

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Metric, Snapshot};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Outcome {
    Nothing,
    /// `cancel` drains end and their nodes serve again; `launch` nodes are new.
    Grow {
        cancel: u32,
        launch: u32,
    },
    Shrink {
        drain: u32,
    },
}

/// Which part of the policy had the last word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The least and the most nodes of the policy.
    Range,
    /// What the load asks for, against what a node carries.
    Load,
    /// CPU has a rule of its own.
    Cpu,
    /// A window has not agreed yet.
    Window,
    /// Figures are missing: nothing shrinks.
    Hold,
    /// The calendar lets nothing shrink.
    Schedule,
    /// Nodes that launch or drain have to arrive first.
    Underway,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Range => "range",
            Self::Load => "load",
            Self::Cpu => "cpu",
            Self::Window => "window",
            Self::Hold => "hold",
            Self::Underway => "underway",
            Self::Schedule => "schedule",
        })
    }
}

/// One line of the answer to "why?", or to "why not?".
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Reason {
    /// The metric that asks for the most nodes.
    LoadWants {
        metric: Metric,
        load: f64,
        growth_per_s: f64,
        nodes: u32,
    },
    BelowMin {
        min: u32,
    },
    AtMin {
        min: u32,
    },
    AtMax {
        max: u32,
        wanted: u32,
    },
    /// More is wanted, and not for long enough yet.
    UpWindow {
        remaining: Duration,
    },
    /// Less is wanted, and some moment of the window wanted more, or was not seen.
    DownWindow {
        remaining: Duration,
        highest: u32,
    },
    StepLimited {
        wanted: u32,
        step: u32,
    },
    /// The load asks for the size there is.
    InBand {
        nodes: u32,
    },
    Missing {
        metric: Metric,
        nodes: u32,
    },
    CpuMissing,
    CpuHigh {
        cpu: f64,
        limit: f64,
    },
    /// The nodes that stay would be above the limit after taking the load.
    CpuAfterShrink {
        cpu: f64,
        limit: f64,
    },
    LoadAfterShrink {
        metric: Metric,
        per_node: f64,
        limit: f64,
    },
    Launching {
        nodes: u32,
    },
    /// Ill or silent for a moment only.
    Doubted {
        nodes: u32,
    },
    Draining {
        nodes: u32,
    },
    /// Load came back: a drain is cancelled before anything is launched.
    DrainCancelled {
        nodes: u32,
    },
    /// What the calendar says now.
    Schedules {
        names: Vec<String>,
        min: u32,
        max: u32,
        spare: f64,
    },
    /// Less is wanted, and a schedule keeps what is there.
    InhibitedBy {
        schedule: String,
    },
    /// Every node that could go is protected or carries out something else.
    NoVictim,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: f64| (share * 100.0).round();
        match self {
            Self::LoadWants { metric, load, growth_per_s, nodes } => {
                write!(f, "{load:.0} {metric}")?;
                if *growth_per_s > 0.0 {
                    write!(f, ", growing by {growth_per_s:.2} a second,")?;
                }
                write!(f, " ask for {nodes} node(s)")
            }
            Self::BelowMin { min } => write!(f, "fewer than the least, {min}"),
            Self::AtMin { min } => write!(f, "at the least, {min}"),
            Self::AtMax { max, wanted } => write!(f, "at the most, {max}, where {wanted} are wanted: raise max"),
            Self::UpWindow { remaining } => {
                write!(f, "more must be wanted for {} s yet", remaining.as_secs_f64().ceil())
            }
            Self::DownWindow { remaining, highest } if remaining.is_zero() => {
                write!(f, "within the window down, {highest} were wanted")
            }
            Self::DownWindow { remaining, .. } => write!(f, "the window down lasts {} s yet", remaining.as_secs()),
            Self::StepLimited { wanted, step } => write!(f, "{step} of {wanted} at once, by the step set"),
            Self::InBand { nodes } => write!(f, "{nodes} are wanted and there"),
            Self::Missing { metric, nodes } => write!(f, "{nodes} node(s) do not say their {metric}: nothing shrinks"),
            Self::CpuMissing => f.write_str("a node does not say its CPU: nothing shrinks"),
            Self::CpuHigh { cpu, limit } => {
                write!(f, "CPU at {} %, above {} %: a fifth more", percent(*cpu), percent(*limit))
            }
            Self::CpuAfterShrink { cpu, limit } => {
                write!(f, "CPU of the nodes that stay would be {} %, limit {} %", percent(*cpu), percent(*limit))
            }
            Self::LoadAfterShrink { metric, per_node, limit } => {
                write!(f, "the nodes that stay would have {per_node:.0} {metric} each, limit {limit:.0}")
            }
            Self::Launching { nodes } => write!(f, "{nodes} node(s) are launching"),
            Self::Doubted { nodes } => write!(f, "{nodes} node(s) may be back in a moment, or dead: nothing shrinks"),
            Self::Draining { nodes } => write!(f, "{nodes} node(s) are draining"),
            Self::DrainCancelled { nodes } => write!(f, "{nodes} drain(s) cancelled, since the load came back"),
            Self::Schedules { names, min, max, spare } => {
                write!(f, "by schedule {}: {min} to {max} nodes, {spare} spare", names.join(", "))
            }
            Self::InhibitedBy { schedule } => write!(f, "schedule {schedule} lets nothing shrink"),
            Self::NoVictim => f.write_str("no node may go: all are protected"),
        }
    }
}

/// A decision with all that it was made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// What was seen.
    pub inputs: Snapshot,
    /// What the load asks for now, before windows and steps, within the range.
    pub wanted: u32,
    pub rule: Rule,
    pub outcome: Outcome,
    /// The one that decided first.
    pub reasons: Vec<Reason>,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.outcome {
            Outcome::Nothing => f.write_str("nothing")?,
            Outcome::Grow { cancel, launch } => write!(f, "grow: {launch} launched, {cancel} drain(s) cancelled")?,
            Outcome::Shrink { drain } => write!(f, "shrink: {drain} drained")?,
        }
        for (at, reason) in self.reasons.iter().enumerate() {
            write!(f, "{} {reason}", if at == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}
