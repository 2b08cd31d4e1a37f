//! What the registry counts, for `/metrics`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::edge::http::metrics::{Collector, Metric};

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

impl RegistryStats {
    /// For [`crate::edge::http::Metrics::register_collector`].
    #[must_use]
    pub fn collector(self: &Arc<Self>) -> Collector {
        let stats = Arc::clone(self);
        Box::new(move || {
            let counters = [
                (&CONNECTIONS, &stats.connections),
                (&FAILURES, &stats.failures),
                (&PROJECTIONS, &stats.projections),
                (&FULL, &stats.full_projections),
                (&WRITTEN, &stats.events_written),
                (&DROPPED, &stats.events_dropped),
                (&REPORTS, &stats.worker_reports),
                (&SKIPPED, &stats.records_skipped),
            ];
            counters.into_iter().map(|(metric, count)| metric.sample(get(count) as f64)).collect()
        })
    }
}

macro_rules! counters {
    ($($name:ident = $text:literal, $help:literal;)*) => {
        $(static $name: Metric = Metric::counter($text, $help);)*
    };
}

counters! {
    CONNECTIONS = "mtxfleet_registry_connections_total", "Connections made to Redis.";
    FAILURES = "mtxfleet_registry_failures_total", "Commands and connection attempts that failed or timed out.";
    PROJECTIONS = "mtxfleet_registry_projections_total", "Projections written.";
    FULL = "mtxfleet_registry_full_projections_total", "Projections written whole, not as differences.";
    WRITTEN = "mtxfleet_registry_events_written_total", "Events published and logged.";
    DROPPED = "mtxfleet_registry_events_dropped_total", "Events given up: older than 60 s, or too many waiting.";
    REPORTS = "mtxfleet_registry_worker_reports_total", "Reports of workers read.";
    SKIPPED = "mtxfleet_registry_records_skipped_total", "Records that could not be read, or have a newer schema.";
}

pub(super) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

pub(super) fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
