//! `mtxfleet status`: the fleet as one agent sees it.

use mtxfleet_wire::{FleetView, Liveness, MemberView, ServerHealth};

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
    format!("fleet {} as {} sees it, {} node(s)\n\n{table}", fleet.cluster, fleet.seen_by, fleet.members.len())
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
    let drain = member.drain.as_ref().map(|drain| format!("{}/5 {}", drain.phase.number(), drain.phase));
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
