//! `mtxfleet availability`: how available clusters, nodes and streams were, as one agent saw it.

use mtxfleet_wire::{Availability as Seconds, Subject, UnixMillis};

use super::api::{Access, Api};
use super::output::say;
use super::table::Table;

#[derive(Debug, clap::Args)]
pub struct Availability {
    #[command(flatten)]
    access: Access,
    /// The API's JSON instead of a table.
    #[arg(long)]
    json: bool,
}

impl Availability {
    pub async fn run(self) -> anyhow::Result<()> {
        let view = Api::new(&self.access)?.availability().await?;
        if self.json {
            return say(serde_json::to_string_pretty(&view)? + "\n");
        }
        let mut table = Table::new(&["WHAT", "NAME", "DAY", "WEEK", "MONTH", "DOWN (MONTH)", "UP FOR"]);
        for line in view.lines {
            let (what, name) = match &line.of {
                Subject::Cluster(role) => ("cluster", role.to_string()),
                Subject::Node(name) => ("node", name.clone()),
                Subject::Stream(name) => ("stream", name.clone()),
            };
            table.row(vec![
                what.to_owned(),
                name,
                percent(line.day),
                percent(line.week),
                percent(line.month),
                span(line.month.watched_seconds - line.month.available_seconds.min(line.month.watched_seconds)),
                line.up_since.map_or_else(|| "down".to_owned(), |since| up_for(view.at, since)),
            ]);
        }
        say(table)
    }
}

/// Rounded down: 100 % is said only of what was never away.
fn percent(seconds: Seconds) -> String {
    seconds.ratio().map_or_else(|| "-".to_owned(), |ratio| format!("{:.3} %", (ratio * 100_000.0).floor() / 1_000.0))
}

fn up_for(now: UnixMillis, since: UnixMillis) -> String {
    span(now.since(since).as_secs())
}

fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_away_is_never_shown_as_none() {
        let of = |available_seconds, watched_seconds| Seconds { available_seconds, watched_seconds };
        assert_eq!(percent(of(2_591_999, 2_592_000)), "99.999 %");
        assert_eq!(percent(of(100, 100)), "100.000 %");
        assert_eq!(percent(of(0, 0)), "-");
        assert_eq!([span(59), span(61), span(7_260), span(200_000)], ["59 s", "1 min", "2 h 1 min", "2 d 7 h"]);
    }
}
