//! The only place where the agent reads a clock.
#![expect(clippy::disallowed_methods, reason = "this is that place")]

use std::time::{Instant, SystemTime};

use mtxfleet_wire::{Mono, UnixMillis};

/// Monotonic time counts from the making of this value.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    #[must_use]
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    #[must_use]
    pub fn mono(&self) -> Mono {
        Mono(self.started.elapsed())
    }

    /// Wall time; 0 on a machine whose clock is before 1970.
    #[must_use]
    pub fn wall() -> UnixMillis {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        UnixMillis(since_epoch.as_millis() as u64)
    }
}
