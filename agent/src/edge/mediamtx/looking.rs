//! A look at MediaMTX, again and again, at the pace that the node sets.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use super::MediaMtx;
use crate::edge::clock::Clock;
use crate::node::effect::Pace;
use crate::node::sample::{ServerProblem, ServerSample};

/// A look during a drain.
const BRISK_LOOK: Duration = Duration::from_millis(200);
/// Between two looks: how many sessions there are.
const GLANCE_EVERY: Duration = Duration::from_millis(250);

/// Looks until nobody takes what is seen. It wants a task of its own: a server that hangs holds nobody up. With `glances`,
/// which a fleet that sizes itself needs, whoever comes or goes between two looks is seen at once.
pub async fn look_at_server(
    mediamtx: Arc<MediaMtx>,
    clock: Clock,
    every: Duration,
    glances: bool,
    mut pace: watch::Receiver<Pace>,
    looks: mpsc::Sender<Result<ServerSample, ServerProblem>>,
) {
    loop {
        let every = match *pace.borrow_and_update() {
            Pace::Calm => every,
            Pace::Brisk => BRISK_LOOK.min(every),
        };
        let mut interval = tokio::time::interval(every);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // A session that has just been opened does not read yet: a moment later it does.
        let mut again = false;
        loop {
            tokio::select! {
                changed = pace.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                _ = interval.tick() => again = false,
                () = somebody_comes_or_goes(&mediamtx, &clock, again), if glances => {
                    interval.reset();
                    again = !again;
                }
            }
            let look = mediamtx.sample(&clock).await;
            if looks.send(look).await.is_err() {
                return;
            }
        }
    }
}

async fn somebody_comes_or_goes(mediamtx: &MediaMtx, clock: &Clock, surely: bool) {
    loop {
        tokio::time::sleep(GLANCE_EVERY).await;
        if surely || mediamtx.glance(clock).await {
            return;
        }
    }
}
