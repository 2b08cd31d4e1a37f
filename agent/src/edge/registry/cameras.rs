//! The inventory of pulled cameras in Redis, read now and then over a connection of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;

use super::{Backoff, Link, Problem, RegistryEvent, within};

const READ_EVERY: Duration = Duration::from_secs(5);

pub(super) async fn run(link: Link, events: mpsc::Sender<RegistryEvent>) {
    let mut told = None;
    let mut backoff = Backoff::new();
    loop {
        tokio::select! {
            // The task that reports reachability says what is wrong; what was told stays in force.
            _ = follow(&link, &events, &mut told, &mut backoff) => {}
            () = events.closed() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.pause()) => {}
            () = events.closed() => return,
        }
    }
}

async fn follow(
    link: &Link,
    events: &mpsc::Sender<RegistryEvent>,
    told: &mut Option<BTreeMap<String, String>>,
    backoff: &mut Backoff,
) -> Result<(), Problem> {
    let mut connection = link.connect().await?;
    loop {
        let mut command = redis::cmd("HGETALL");
        command.arg(link.keys.cameras());
        let fields: BTreeMap<String, String> = within(link.timeout, command.query_async(&mut connection)).await?;
        backoff.reset();
        if told.as_ref() != Some(&fields) {
            let _ = events.send(RegistryEvent::Cameras(fields.clone())).await;
            *told = Some(fields);
        }
        tokio::time::sleep(READ_EVERY).await;
    }
}
