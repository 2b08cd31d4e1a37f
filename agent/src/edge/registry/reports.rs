//! What workers report, read from their capped stream over a connection of its own, since the read blocks.

use std::time::Duration;

use mtxfleet_wire::WorkerReport;
use redis::aio::MultiplexedConnection;
use redis::streams::StreamReadReply;
use tokio::sync::mpsc;

use super::stats::add;
use super::{Backoff, Link, Problem, RegistryEvent, within};

/// How long one read blocks. Longer would find a Redis that hangs later.
const BLOCK: Duration = Duration::from_secs(5);

/// Where reading starts: an agent that was killed in a drain and resumes it must not miss what came meanwhile.
const LOOK_BACK: Duration = Duration::from_secs(60);

pub(super) async fn run(link: Link, events: mpsc::Sender<RegistryEvent>) {
    let mut last = None;
    let mut backoff = Backoff::new();
    loop {
        tokio::select! {
            // The task that reports reachability says what is wrong; saying it here too would say it twice.
            _ = follow(&link, &events, &mut last, &mut backoff) => {}
            () = events.closed() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.pause()) => {}
            () = events.closed() => return,
        }
    }
}

/// Position in the stream: milliseconds since 1970 by Redis's clock, and a sequence number.
type Position = (u64, u64);

/// Reads until something fails. `last` is the last entry read, kept over connections so that none is missed.
async fn follow(
    link: &Link,
    events: &mpsc::Sender<RegistryEvent>,
    last: &mut Option<Position>,
    backoff: &mut Backoff,
) -> Result<(), Problem> {
    let mut connection = link.connect().await?;
    let now = link.redis_now(&mut connection).await?;
    backoff.reset();
    // A position ahead of Redis's clock is of a Redis that is gone, with another clock.
    let start = last.filter(|(ms, _)| *ms <= now).unwrap_or((now.saturating_sub(LOOK_BACK.as_millis() as u64), 0));
    *last = Some(start);
    let key = link.keys.worker_reports();
    loop {
        let (ms, sequence) = last.unwrap_or(start);
        let reply = read(link, &mut connection, &key, &format!("{ms}-{sequence}")).await?;
        for entry in reply.into_iter().flat_map(|reply| reply.keys).flat_map(|stream| stream.ids) {
            *last = position(&entry.id).or(*last);
            let text: Option<String> = entry.get("report");
            match text.and_then(|text| serde_json::from_str::<WorkerReport>(&text).ok()) {
                Some(report) => {
                    add(&link.stats.worker_reports, 1);
                    let _ = events.send(RegistryEvent::WorkerReport(report)).await;
                }
                None => add(&link.stats.records_skipped, 1),
            }
        }
    }
}

async fn read(
    link: &Link,
    connection: &mut MultiplexedConnection,
    key: &str,
    after: &str,
) -> Result<Option<StreamReadReply>, Problem> {
    let mut command = redis::cmd("XREAD");
    command.arg("COUNT").arg(64).arg("BLOCK").arg(BLOCK.as_millis() as u64).arg("STREAMS").arg(key).arg(after);
    within(BLOCK + link.timeout, command.query_async(connection)).await
}

fn position(id: &str) -> Option<Position> {
    let (ms, sequence) = id.split_once('-')?;
    Some((ms.parse().ok()?, sequence.parse().ok()?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_stream_id_is_two_numbers() {
        assert_eq!(super::position("1526919030474-55"), Some((1_526_919_030_474, 55)));
        assert_eq!(super::position("x"), None);
    }
}
