//! What an orchestrator asks of a cloud, and what a cloud answers: the terms that all clouds share.
//!
//! A cloud keeps one *group* of instances for each role, as an autoscaling group does: told how many there are to be, it
//! starts what is missing. It never picks which one goes: every instance is protected from its scale-in from birth, and
//! a drained one ends itself.

use std::time::Duration;

use mtxfleet_wire::{InstanceId, Mono, NodeId, Role};
use serde::{Deserialize, Serialize};

/// No call lasts longer, and none is repeated inside; whoever asks may ask again.
pub const CALL_WITHIN: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    /// Asked for, and not running yet.
    Launching,
    /// It runs, as the cloud sees it; what its node says is told by gossip.
    InService,
    /// On its way out: the group does not count it any more.
    Ending,
}

/// One machine of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    pub id: InstanceId,
    pub state: InstanceState,
    /// Since it was launched; `None` when the cloud does not say.
    #[serde(default, with = "seconds", rename = "age_seconds")]
    pub age: Option<Duration>,
    /// Its node, where the cloud knows it; its agent says by gossip which instance it is in any case.
    #[serde(default)]
    pub node: Option<NodeId>,
    /// Availability zone, empty when unknown.
    #[serde(default)]
    pub zone: String,
    /// An operator, or the cloud, wants it kept: it cannot be ended.
    #[serde(default)]
    pub protected: bool,
}

impl Instance {
    /// Whether the group counts it among the desired ones.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.state != InstanceState::Ending
    }
}

/// A *complete* listing of one role's group. A cloud that can give a part only gives an error instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    pub role: Role,
    /// How many instances it keeps; those that end are not among them.
    pub desired: u32,
    pub min: u32,
    pub max: u32,
    pub instances: Vec<Instance>,
    /// Why it would refuse to end an instance now (a suspended process); `None` when it would not.
    #[serde(default)]
    pub keeps: Option<String>,
}

impl Group {
    /// Instances that count among the desired ones.
    pub fn present(&self) -> impl Iterator<Item = &Instance> {
        self.instances.iter().filter(|instance| instance.counts())
    }

    #[must_use]
    pub fn instance(&self, id: &InstanceId) -> Option<&Instance> {
        self.instances.iter().find(|instance| instance.id == *id)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum CloudCall {
    /// Answered by [`CloudAnswer::Group`].
    Describe,
    /// How many there are to be: a number to reach, never one to add.
    SetDesired { desired: u32 },
    /// With `decrement` the group keeps one less and refuses at its minimum; without, it starts another in its place.
    /// Ending one that already ends or is gone is done, and changes nothing.
    End { instance: InstanceId, decrement: bool },
}

/// A call on its way, with what ties its answer to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudAsk {
    pub number: u64,
    pub role: Role,
    pub call: CloudCall,
    /// The call must have ended by then, since the lease that allows it may have: one that could last longer is not
    /// begun. `None` for what needs no lease.
    pub not_after: Option<Mono>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloudAnswer {
    Group(Group),
    Done,
}

/// Whether the call was carried out is unknown after [`CloudError::Failed`] and [`CloudError::TimedOut`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloudError {
    /// It heard, and will not: at its minimum, a suspended process, a protected instance.
    #[error("the cloud refuses: {0}")]
    Refused(String),
    /// Too many calls; nothing was done.
    #[error("the cloud asks for fewer calls: {0}")]
    Throttled(String),
    /// A listing of which a part is missing, which is as good as none.
    #[error("the cloud's listing is not complete: {0}")]
    Incomplete(String),
    #[error("the cloud failed: {0}")]
    Failed(String),
    #[error("the cloud did not answer within {} s", CALL_WITHIN.as_secs())]
    TimedOut,
    /// The lease might have ended before the call; it was not begun.
    #[error("the lease would not have outlasted the call, which was not made")]
    TooLate,
}

/// Seconds with a fraction, as other programs write them.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(age: &Option<Duration>, out: S) -> Result<S::Ok, S::Error> {
        age.map(|age| age.as_secs_f64()).serialize(out)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Duration>, D::Error> {
        let seconds = Option::<f64>::deserialize(input)?;
        let age = seconds.map(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)));
        age.transpose().map_err(|_| serde::de::Error::custom("an age is a number of seconds"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_read_as_other_programs_write_it_and_half_of_one_is_not() {
        let text = r#"{"role": "distribution", "desired": 3, "min": 2, "max": 6, "note": 1, "instances": [
            {"id": "i-1", "state": "in_service", "age_seconds": 61.5, "zone": "a"},
            {"id": "i-2", "state": "ending"}]}"#;
        let group: Group = serde_json::from_str(text).expect("readable");
        assert_eq!(group.instances[0].age, Some(Duration::from_millis(61_500)));
        assert_eq!((group.instances[1].age, group.present().count()), (None, 1));
        assert_eq!(serde_json::from_str::<Group>(&serde_json::to_string(&group).expect("json")).expect("read"), group);
        for (part, other) in [("\"desired\": 3, ", ""), ("61.5", "\"x\""), ("61.5", "1e300"), ("ending", "gone")] {
            assert!(serde_json::from_str::<Group>(&text.replace(part, other)).is_err(), "{other}");
        }
    }
}
