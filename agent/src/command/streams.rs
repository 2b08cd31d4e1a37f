//! `mtxfleet streams`: every stream, where it comes from and who reads it where.

use std::time::Duration;

use mtxfleet_wire::{NodeId, StreamName};

use super::api::{Access, Api};
use super::output::say;
use super::table::{Table, known};
use crate::edge::clock::Clock;

#[derive(Debug, clap::Args)]
pub struct Streams {
    #[command(flatten)]
    access: Access,
    /// The API's JSON instead of a table.
    #[arg(long)]
    json: bool,
}

impl Streams {
    pub async fn run(self) -> anyhow::Result<()> {
        let mut streams = Api::new(&self.access)?.streams().await?;
        if self.json {
            return say(serde_json::to_string_pretty(&streams)? + "\n");
        }
        streams.sort_by(|a, b| {
            (&a.stream.name, !a.stream.owned, &a.node).cmp(&(&b.stream.name, !b.stream.owned, &b.node))
        });
        let owner =
            |name: &StreamName| streams.iter().find(|v| v.stream.owned && v.stream.name == *name).map(|v| &v.node);
        let owners: Vec<Option<NodeId>> = streams.iter().map(|view| owner(&view.stream.name).cloned()).collect();
        let now = Clock::wall();
        let heading = ["STREAM", "OWNER", "NODE", "READY", "FLOWING", "BITRATE", "WORKERS", "READERS", "AGE"];
        let mut table = Table::new(&heading);
        for (view, owner) in streams.into_iter().zip(owners) {
            let stream = view.stream;
            let yes = |what: bool| if what { "yes" } else { "no" }.to_owned();
            table.row(vec![
                stream.name.to_string(),
                known(owner),
                view.node.to_string(),
                yes(stream.ready),
                yes(stream.flowing),
                known(stream.bitrate),
                stream.legs.len().to_string(),
                stream.readers.to_string(),
                known((stream.since.0 > 0).then(|| age(now.since(stream.since)))),
            ]);
        }
        say(table)
    }
}

/// Since it became ready on that node, by both machines' clocks: `4s`, `12m`, `3h`, `2d`.
fn age(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3_600 => format!("{}m", seconds / 60),
        seconds @ 3_600..86_400 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_the_unit_that_fits() {
        let shown = [0, 59, 60, 3_599, 3_600, 90_000].map(|seconds| age(Duration::from_secs(seconds)));
        assert_eq!(shown, ["0s", "59s", "1m", "59m", "1h", "1d"]);
    }
}
