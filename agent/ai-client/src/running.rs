//! The legs that play, and reading them in turn.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use mtxfleet_stitch::LegKey;
use mtxfleet_wire::LegId;

use crate::leg::{Leg, LegError, LegItem};

/// A leg that plays.
pub(crate) struct Running {
    pub id: LegId,
    pub key: LegKey,
    pub leg: Leg,
    /// When anything last came; for a leg that has brought nothing yet, when it was opened.
    pub heard: Duration,
    /// A media packet has come.
    pub flowing: bool,
}

/// The next item of any leg, with the leg's index; `None` as item is the leg's end. Cancel-safe.
///
/// The youngest leg is asked first: in a handover it is the one that has to catch up, and what the older one has
/// meanwhile is there at the next call.
pub(crate) async fn next_item(legs: &mut [Running]) -> (usize, Option<Result<LegItem, LegError>>) {
    poll_fn(|context| {
        for (index, running) in legs.iter_mut().enumerate().rev() {
            if let Poll::Ready(item) = running.leg.poll_item(context) {
                return Poll::Ready((index, item));
            }
        }
        Poll::Pending
    })
    .await
}
