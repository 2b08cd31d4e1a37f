use std::sync::atomic::{AtomicU64, Ordering};

/// What the resolver did since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResolverCounters {
    /// Questions answered with an owner's address.
    pub redirects: u64,
    /// Questions answered with the stream itself.
    pub relayed: u64,
    /// Redirected although streams are relayed: as many as are allowed were.
    pub relay_full: u64,
    /// Questions that had to wait, however they were answered in the end.
    pub held: u64,
    /// Questions that wait now.
    pub holding: u64,
    /// Answered `404`: no owner became known in time, or the name is none a stream can have.
    pub unknown: u64,
    /// Answered `404`: the only owner known was this node itself.
    pub own: u64,
    /// Connections closed at once, as there were too many.
    pub refused_connections: u64,
    /// Answered `503`: too many questions were held.
    pub refused_held: u64,
    /// Answered `400` and closed: no RTSP.
    pub refused_garbage: u64,
    /// Answered `400` and closed: a request longer than allowed.
    pub refused_oversize: u64,
    /// Closed: no whole request in time, or the answer was not taken.
    pub refused_slow: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn subtract(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) redirects: Counter,
    pub(super) relayed: Counter,
    pub(super) relay_full: Counter,
    pub(super) held: Counter,
    pub(super) holding: Counter,
    pub(super) unknown: Counter,
    pub(super) own: Counter,
    pub(super) refused_connections: Counter,
    pub(super) refused_held: Counter,
    pub(super) refused_garbage: Counter,
    pub(super) refused_oversize: Counter,
    pub(super) refused_slow: Counter,
}

impl Counters {
    pub(super) fn snapshot(&self) -> ResolverCounters {
        ResolverCounters {
            redirects: self.redirects.get(),
            relayed: self.relayed.get(),
            relay_full: self.relay_full.get(),
            held: self.held.get(),
            holding: self.holding.get(),
            unknown: self.unknown.get(),
            own: self.own.get(),
            refused_connections: self.refused_connections.get(),
            refused_held: self.refused_held.get(),
            refused_garbage: self.refused_garbage.get(),
            refused_oversize: self.refused_oversize.get(),
            refused_slow: self.refused_slow.get(),
        }
    }
}
