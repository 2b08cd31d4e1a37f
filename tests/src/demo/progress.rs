//! What the demo says while it runs.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::Result;
use mtxfleet_wire::{DecisionView, DrainRecord, DrainView, LegEnd, NodeId, OutcomeView, Phase};

use super::day::{Day, Look};
use super::distribution;
use crate::lab::Lab;
use crate::lab::audience::Audience;

pub(super) fn title(text: &str) {
    println!("\n{text}\n");
}

pub(super) fn note(text: &str) {
    println!("\n{text}");
}

pub(super) fn fleet(lab: &Lab, took: Duration) {
    let cameras: Vec<String> = lab.cameras.iter().map(|c| format!("{} {}", c.name, c.kind.words())).collect();
    let nodes = lab.nodes.len() - distribution(lab).count();
    println!("  server    {}", lab.server.kind);
    println!(
        "  fleet     {nodes} ingestion + {} distribution nodes, Redis, HAProxy; up after {:.1} s",
        distribution(lab).count(),
        took.as_secs_f64()
    );
    println!("  cameras   {}", cameras.join(" | "));
}

pub(super) fn audience(audience: &Audience, after: Duration) {
    println!(
        "  readers   {} AI workers; {} plain RTSP viewers that reconnect at once, as the control",
        audience.workers.len(),
        audience.controls.len()
    );
    println!("            all through the load balancer; all receive after {:.1} s", after.as_secs_f64());
}

pub(super) async fn drain_begins(lab: &Lab, drained: &NodeId, number: u32, of: u32) -> Result<()> {
    println!("\nWho reads what where (workers + plain viewers)");
    for node in distribution(lab) {
        let member = node.agent.member().await?;
        let streams = node.agent.streams().await?;
        let here = streams.iter().filter(|s| s.node == node.id && s.stream.ready);
        let carries: Vec<String> =
            here.map(|s| format!("{}: {} + {}", s.stream.name, s.stream.legs.len(), s.stream.readers)).collect();
        let state = member.load.map_or("unknown", |load| load.state.as_str());
        let mark = if node.id == *drained { "->" } else { "  " };
        println!("{mark} {:<8} {state:<9} {}", node.id.as_str(), carries.join("   "));
    }
    let which = if of > 1 { format!(" ({number} of {of})") } else { String::new() };
    println!("\nDraining {drained}, the busiest{which}");
    Ok(())
}

/// Shows a drain's phases as they pass.
#[derive(Debug, Default)]
pub(super) struct Phases {
    shown: usize,
    line_open: bool,
}

impl Phases {
    pub(super) fn look(&mut self, view: &DrainView) {
        for time in view.phases.iter().skip(self.shown) {
            self.clear_line();
            phase_line(time.phase, time.seconds, time.timed_out, &time.waiting_for);
        }
        self.shown = view.phases.len();
        if let Some(phase) = view.phase
            && std::io::stdout().is_terminal()
        {
            self.clear_line();
            let waiting = view.waiting_for.first().map(|w| format!("  {w}")).unwrap_or_default();
            let mut line =
                format!("  {} {:<18}{:>5.1} s{waiting}", phase.number(), phase.name(), view.seconds_in_phase);
            line.truncate(line.char_indices().nth(100).map_or(line.len(), |(at, _)| at));
            print!("{line}");
            let _ = std::io::stdout().flush();
            self.line_open = true;
        }
    }

    pub(super) fn ended(&mut self, record: &DrainRecord) {
        for time in record.phases.iter().skip(self.shown) {
            self.clear_line();
            phase_line(time.phase, time.seconds, time.timed_out, &time.waiting_for);
        }
        self.clear_line();
        let moved = record.legs.iter().filter(|leg| matches!(leg.how, LegEnd::Moved(_))).count();
        let seconds = record.ended.since(record.started).as_secs_f64();
        let out = record.out_of_balancer_seconds.map_or_else(|| "unknown".to_owned(), |s| format!("{s:.1} s"));
        println!("  {:?} after {seconds:.1} s; out of the load balancer after {out}", record.outcome);
        println!(
            "  {moved} of {} workers moved; of the viewers {} left by themselves, {} were disconnected",
            record.legs.len(),
            record.viewers_left,
            record.viewers_disconnected + record.readers_disconnected
        );
    }

    fn clear_line(&mut self) {
        if self.line_open {
            // Back to the start, and erase to the end (ECMA-48, EL).
            print!("\r\x1b[K");
            self.line_open = false;
        }
    }
}

fn phase_line(phase: Phase, seconds: f64, timed_out: bool, waiting_for: &[String]) {
    let late = if timed_out {
        format!("  ended at its deadline, waiting for {}", waiting_for.join("; "))
    } else {
        String::new()
    };
    println!("  {} {:<18}{seconds:>5.1} s{late}", phase.number(), phase.name());
}

pub(super) fn day_begins(lab: &Lab, audience: &Audience, min: u32, max: u32, per_node: u32, after: Duration) {
    println!("  fleet     {} ingestion node, {min} to {max} distribution nodes from a local cloud", lab.nodes.len());
    println!("  policy    {per_node} readers for each node; up after 2 s, down after 8 s below");
    println!(
        "  readers   {} AI workers and {} plain readers all day; 4 to 40 viewers more",
        audience.workers.len(),
        audience.controls.len()
    );
    println!("            all receive after {:.1} s; an hour is 7.5 s from here on\n", after.as_secs_f64());
}

pub(super) fn decided(look: &Look, decision: &DecisionView) {
    let what = match decision.outcome {
        OutcomeView::Grow { launch: 0, cancel } => format!("{cancel} drain(s) cancelled"),
        OutcomeView::Grow { launch, .. } => format!("+{launch}"),
        OutcomeView::Shrink { .. } => {
            let victims: Vec<&str> = decision.victims.iter().map(|victim| victim.node.as_str()).collect();
            format!("-{}", victims.join(", "))
        }
        OutcomeView::Nothing => return,
    };
    let (hour, minute) = (look.hour as u32, (look.hour.fract() * 60.0) as u32);
    let why = decision.reasons.first().map_or("", String::as_str);
    println!("  {hour:02}:{minute:02}  {:>3} readers  {} nodes  {what:<12} {why}", look.readers, look.serving);
}

pub(super) fn kept(nodes: &[&str]) {
    if !nodes.is_empty() {
        println!("  21:00  {} protected until a node with AI workers has been chosen to go", nodes.join(", "));
    }
}

pub(super) fn day_ends(day: &Day) {
    let saved = 100.0 * (1.0 - day.node_minutes / day.fixed_node_minutes);
    println!(
        "\n{:.1} node-minutes; fixed provisioning for the same peak ({} nodes) takes {:.1}: {saved:.0} % saved.",
        day.node_minutes, day.peak, day.fixed_node_minutes
    );
    println!(
        "{} nodes launched, {} drained; {} workers changed nodes {} times.",
        day.launched,
        day.drained,
        day.results.workers.len(),
        day.handovers()
    );
}

pub(super) fn addresses(lab: &Lab) {
    println!("\nThe fleet is up until Ctrl-C; each agent's address is a status page for a browser:");
    println!("  publish    rtsp://{}/NAME", lab.balancer.ingest);
    println!("  read       rtsp://{}/cam1", lab.balancer.live);
    for node in &lab.nodes {
        println!("  {:<10} {}/   MediaMTX rtsp://{}", node.id.as_str(), node.agent.url(), node.server.at.rtsp);
    }
    if let Some(redis) = &lab.redis {
        println!("  Redis      {}", redis.url());
    }
    println!("  token      {}", lab.token);
    println!("  cluster    {}", crate::lab::CLUSTER);
    println!("  files      {}", lab.folder().display());
    if let Some(node) = lab.nodes.first() {
        println!("\nFor target/debug/mtxfleet status, streams, drain, undrain:");
        println!("  export MTXFLEET_AGENT={} MTXFLEET_TOKEN={}", node.agent.url(), lab.token);
    }
}
