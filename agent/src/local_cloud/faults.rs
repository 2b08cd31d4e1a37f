//! How the local cloud misbehaves when it is told to, for tests and for trying a fleet out.

use std::time::Duration;

use mtxfleet_wire::InstanceId;
use serde::{Deserialize, Serialize};

use super::Refusal;

/// Set as a whole by `PUT /v1/faults`; what is not given is off.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// So many calls fail (500).
    pub fail: u32,
    /// And then so many are answered 429.
    pub throttle: u32,
    /// The number of desired instances cannot be set (500).
    pub fail_desired: bool,
    /// Listings miss half of the instances, and say so.
    pub half_list: bool,
    /// Nothing is launched, whatever is desired.
    pub launch_nothing: bool,
    /// Whatever is launched is launched twice.
    pub launch_twice: bool,
    /// No instance is ended, for this reason.
    pub refuse_end: Option<String>,
    /// `refuse_end` holds for this one alone.
    pub refuse_end_of: Option<InstanceId>,
    /// Calls are carried out, and answered so much later.
    pub answer_after_ms: u64,
}

impl Faults {
    /// One call: fails while there are failures left.
    pub(super) fn strike(&mut self) -> Result<(), Refusal> {
        if self.fail > 0 {
            self.fail -= 1;
            return Err(Refusal::Failed);
        }
        if self.throttle > 0 {
            self.throttle -= 1;
            return Err(Refusal::Throttled);
        }
        Ok(())
    }

    /// Why this instance is not ended.
    #[must_use]
    pub(super) fn keeps(&self, instance: &InstanceId) -> Option<&String> {
        let meant = self.refuse_end_of.as_ref().is_none_or(|kept| kept == instance);
        self.refuse_end.as_ref().filter(|_| meant)
    }

    #[must_use]
    pub(super) fn delay(&self) -> Duration {
        Duration::from_millis(self.answer_after_ms.min(60_000))
    }
}
