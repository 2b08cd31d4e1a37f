//! `mtxfleet status`: the fleet as one agent sees it.

use std::collections::BTreeSet;

use mtxfleet_wire::{FleetView, Liveness, MemberView, Named, ServerHealth};

use super::api::{Access, Api};
use super::output::say;
use super::table::{Table, known};

#[derive(Debug, clap::Args)]
pub struct Status {
    #[command(flatten)]
    access: Access,
    /// The API's JSON instead of a table.
    #[arg(long)]
    json: bool,
}

impl Status {
    pub async fn run(self) -> anyhow::Result<()> {
        let fleet = Api::new(&self.access)?.fleet().await?;
        if self.json { say(serde_json::to_string_pretty(&fleet)? + "\n") } else { say(render(&fleet)) }
    }
}

fn render(fleet: &FleetView) -> String {
    let heading =
        ["NODE", "ROLE", "STATE", "MEDIAMTX", "CAMERAS", "WORKERS", "VIEWERS", "IN", "OUT", "CPU", "REDIS", "DRAIN"];
    let mut table = Table::new(&heading);
    for member in &fleet.members {
        table.row(row(member));
    }
    let (count, cameras) = (fleet.members.len(), cameras(fleet));
    format!("fleet {} as {} sees it, {count} node(s)\n\n{table}{cameras}", fleet.cluster, fleet.seen_by)
}

/// What is wrong with pulled cameras, one line each; empty when nothing is.
fn cameras(fleet: &FleetView) -> String {
    let mut lines = String::new();
    let reports = || fleet.members.iter().filter_map(|member| Some((&member.node, member.cameras.as_ref()?)));
    for (node, report) in reports() {
        let mut say = |what: &str, names: &Named| {
            if !names.is_empty() {
                lines += &format!("{node}: {} camera(s) {what}: {names}\n", names.count);
            }
        };
        say("deliver nothing; they are tried on", &report.unreachable);
        say("have a path of the same name in mediamtx.yml, which stays; rename one of the two", &report.in_the_way);
        say("refused by MediaMTX; the agent's log says why", &report.refused);
        say("left out: their entries in the inventory are wrong, or stand twice", &report.wrong);
        if let Some(problem) = &report.problem {
            lines += &format!("{node}: the newest camera inventory: {problem}\n");
        }
    }
    let hashes: BTreeSet<&String> = reports().filter_map(|(_, report)| report.inventory.as_ref()).collect();
    if hashes.len() > 1 {
        let each = reports().map(|(node, report)| format!("{node} {}", report.inventory.as_deref().unwrap_or("none")));
        lines += &format!("camera inventories differ: {}\n", each.collect::<Vec<_>>().join(", "));
    }
    if lines.is_empty() { lines } else { format!("\n{lines}") }
}

fn row(member: &MemberView) -> Vec<String> {
    let load = member.load.as_ref();
    let state = match (member.liveness, load) {
        (Liveness::Alive, Some(load)) => load.state.to_string(),
        (Liveness::Alive, None) => "joining".to_owned(),
        (Liveness::Suspect, _) => "suspect".to_owned(),
        (Liveness::Dead, _) => "dead".to_owned(),
    };
    let server = load.map(|load| match &load.server {
        ServerHealth::Unknown => "unknown",
        ServerHealth::Up => "up",
        ServerHealth::Away(_) => "away",
        ServerHealth::Odd(_) => "odd",
    });
    let drain = match (&member.drain, &member.moves) {
        (Some(drain), _) => Some(format!("{}/5 {}", drain.phase.number(), drain.phase)),
        (None, Some(_)) => Some("hands cameras over".to_owned()),
        (None, None) => None,
    };
    vec![
        member.node.to_string(),
        known(member.facts.as_ref().map(|facts| facts.role)),
        state,
        known(server),
        known(load.and_then(|load| load.cameras)),
        known(load.and_then(|load| load.workers)),
        known(load.and_then(|load| load.viewers)),
        known(load.and_then(|load| load.inbound)),
        known(load.and_then(|load| load.outbound)),
        known(load.and_then(|load| load.cpu).map(|cpu| format!("{:.0} %", cpu * 100.0))),
        known(load.map(|load| if load.redis { "yes" } else { "no" })),
        known(drain),
    ]
}
