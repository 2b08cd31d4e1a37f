//! Waiting for a state, with a bound and a message that says what was seen last.

use std::fmt::Display;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// For what takes moments where nothing else runs: only a failure waits so long, and a machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Looks until `look` gives `Ok`, at most `bound` long; the last `Err` is what the message shows.
///
/// # Errors
/// When the state has not come in time.
pub async fn wait_for<T, E: Display>(
    what: impl Display,
    bound: Duration,
    mut look: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T> {
    let deadline = Instant::now() + bound;
    let mut last: Option<E> = None;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, look()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(seen)) => last = Some(seen),
            Err(_) => {}
        }
        if Instant::now() >= deadline {
            match last {
                Some(seen) => bail!("waited {bound:?} for {what}; last seen: {seen:#}"),
                None => bail!("waited {bound:?} for {what}; no look at it ended in that time"),
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
