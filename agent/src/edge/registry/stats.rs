//! What the registry counts, for `/metrics`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counted since the agent started.
#[derive(Debug, Default)]
pub struct RegistryStats {
    pub reachable: AtomicBool,
    pub connections: AtomicU64,
    /// Commands that failed or timed out, connection attempts among them.
    pub failures: AtomicU64,
    pub projections: AtomicU64,
    /// Projections sent whole: after a connection, or since Redis did not hold what was last written.
    pub full_projections: AtomicU64,
    pub events_written: AtomicU64,
    /// Events given up: too old, or too many waiting.
    pub events_dropped: AtomicU64,
    pub worker_reports: AtomicU64,
    /// Records in Redis that could not be read, or have a newer schema.
    pub records_skipped: AtomicU64,
}

pub(super) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

#[cfg(test)]
pub(super) fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
