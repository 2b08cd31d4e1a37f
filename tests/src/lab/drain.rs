//! Ordering a drain and following it to its end.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use mtxfleet_wire::{DrainId, DrainOrder, DrainRecord, DrainView, Phase};

use super::agent::Agent;

/// Between two looks at a drain.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Orders a drain of the agent's node.
///
/// # Errors
/// When it is refused, or the agent does not answer.
pub async fn order(agent: &Agent, reason: &str) -> Result<DrainView> {
    let order = DrainOrder { reason: reason.to_owned(), ..DrainOrder::default() };
    agent.drain(&order).await?.with_context(|| format!("the drain of {} was refused", agent.node))
}

/// Follows a drain until it has ended. An agent that does not answer just now is asked again: it may be restarting.
///
/// # Errors
/// When it has not ended after `bound`, with what it waits for.
pub async fn follow(
    agent: &Agent,
    drain: &DrainId,
    bound: Duration,
    mut look: impl FnMut(&DrainView),
) -> Result<DrainRecord> {
    let deadline = Instant::now() + bound;
    let mut last: Result<Option<DrainView>> = Ok(None);
    while Instant::now() < deadline {
        last = agent.drain_view().await;
        if let Ok(Some(view)) = &last
            && view.drain == *drain
        {
            look(view);
            if let Some(record) = &view.record {
                return Ok(record.clone());
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    match last {
        Ok(Some(view)) => bail!(
            "drain {drain} of {} has not ended after {bound:?}: phase {:?}, waiting for {:?}",
            agent.node,
            view.phase,
            view.waiting_for
        ),
        Ok(None) => bail!("{} knows no drain {drain}", agent.node),
        Err(error) => Err(error.context(format!("drain {drain} of {} has not ended after {bound:?}", agent.node))),
    }
}

/// Waits until a drain is in `phase`. True when it was seen there, false when it has passed it already: phases with
/// nothing to wait for are over in a moment.
///
/// # Errors
/// When it has not come so far after `bound`.
pub async fn wait_phase(agent: &Agent, drain: &DrainId, phase: Phase, bound: Duration) -> Result<bool> {
    let deadline = Instant::now() + bound;
    loop {
        let view = agent.drain_view().await?.with_context(|| format!("{} knows no drain", agent.node))?;
        match view.phase {
            _ if view.drain != *drain => {}
            Some(now) if now == phase => return Ok(true),
            Some(now) if now < phase => {}
            Some(_) | None => return Ok(false),
        }
        if Instant::now() > deadline {
            bail!("drain {drain} is not in {phase} after {bound:?}, but waits for {:?}", view.waiting_for);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Orders a drain and follows it to its end.
///
/// # Errors
/// As [`order`] and [`follow`].
pub async fn run(agent: &Agent, reason: &str, bound: Duration, look: impl FnMut(&DrainView)) -> Result<DrainRecord> {
    let view = order(agent, reason).await?;
    follow(agent, &view.drain, bound, look).await
}
