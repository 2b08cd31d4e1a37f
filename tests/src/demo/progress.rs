//! What the demo says while it runs.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::Result;
use mtxfleet_wire::{DrainRecord, DrainView, LegEnd, NodeId, Phase};

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

pub(super) fn addresses(lab: &Lab) {
    println!("\nThe fleet is up until Ctrl-C:");
    println!("  publish    rtsp://{}/NAME", lab.balancer.ingest);
    println!("  read       rtsp://{}/cam1", lab.balancer.live);
    for node in &lab.nodes {
        println!("  {:<10} {}/v1/fleet   MediaMTX rtsp://{}", node.id.as_str(), node.agent.url(), node.server.at.rtsp);
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
