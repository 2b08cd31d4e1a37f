//! `mtxfleet streams`: every stream, where it comes from and who reads it where.

use super::api::{Access, Api};
use super::output::say;
use super::table::{Table, known};

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
        let mut table = Table::new(&["STREAM", "NODE", "HERE", "READY", "FLOWING", "BITRATE", "WORKERS", "READERS"]);
        for view in streams {
            let stream = view.stream;
            let yes = |what: bool| if what { "yes" } else { "no" }.to_owned();
            table.row(vec![
                stream.name.to_string(),
                view.node.to_string(),
                if stream.owned { "owned" } else { "served" }.to_owned(),
                yes(stream.ready),
                yes(stream.flowing),
                known(stream.bitrate),
                stream.legs.len().to_string(),
                stream.readers.to_string(),
            ]);
        }
        say(table)
    }
}
