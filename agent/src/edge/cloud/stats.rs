//! What is counted of the cloud, for `/metrics`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mtxfleet_leader::cloud::{CloudAnswer, CloudCall, CloudError, InstanceState};
use mtxfleet_leader::growing::LaunchTimes;

use crate::edge::http::metrics::{Collector, Metric, Sample};

static CALLS: Metric = Metric::counter("mtxfleet_cloud_calls_total", "Calls to the cloud, by call and outcome.");
static DESIRED: Metric =
    Metric::gauge("mtxfleet_cloud_desired", "Instances that the group of this role is to have, as listed last.");
static INSTANCES: Metric =
    Metric::gauge("mtxfleet_cloud_instances", "Instances of the group of this role by state, as listed last.");
static LAUNCH: Metric =
    Metric::gauge("mtxfleet_launch_seconds", "Of the last launch that was watched: from its beginning to each phase.");

/// Counted since the agent started; only an orchestrator lists its group.
#[derive(Debug, Default)]
pub struct CloudStats {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    calls: BTreeMap<(&'static str, &'static str), u64>,
    desired: Option<u32>,
    instances: [u32; 3],
    launch: [Option<Duration>; 3],
}

impl CloudStats {
    pub(super) fn called(&self, call: &CloudCall, answer: &Result<CloudAnswer, CloudError>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        *inner.calls.entry((super::name(call), outcome(answer))).or_default() += 1;
        if let Ok(CloudAnswer::Group(group)) = answer {
            let of = |state| group.instances.iter().filter(|instance| instance.state == state).count() as u32;
            inner.desired = Some(group.desired);
            inner.instances = [InstanceState::Launching, InstanceState::InService, InstanceState::Ending].map(of);
        }
    }

    /// Launches that have come further.
    pub fn launched(&self, launches: &[LaunchTimes]) {
        let Some(last) = launches.last() else { return };
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.launch = [last.joined, last.serving, last.first_reader];
    }

    /// With something in every metric, for the test of their documentation.
    #[cfg(test)]
    pub(crate) fn full() -> Arc<Self> {
        let group = serde_json::from_str(r#"{"role": "ingestion", "desired": 1, "min": 1, "max": 1, "instances": []}"#);
        let stats = Self::default();
        stats.called(&CloudCall::Describe, &Ok(CloudAnswer::Group(group.expect("a group"))));
        let instance = mtxfleet_wire::InstanceId::new("i-1").expect("valid");
        let second = Some(Duration::from_secs(1));
        stats.launched(&[LaunchTimes { instance, joined: second, serving: second, first_reader: None }]);
        Arc::new(stats)
    }

    /// For [`crate::edge::http::Metrics::register_collector`].
    #[must_use]
    pub fn collector(self: &Arc<Self>) -> Collector {
        let stats = Arc::clone(self);
        Box::new(move || stats.samples())
    }

    fn samples(&self) -> Vec<Sample> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = inner.calls.iter();
        let mut samples: Vec<Sample> = calls
            .map(|((call, outcome), count)| CALLS.labelled(&[("call", call), ("outcome", outcome)], *count as f64))
            .collect();
        if let Some(desired) = inner.desired {
            samples.push(DESIRED.sample(f64::from(desired)));
            let states = ["launching", "in_service", "ending"].into_iter().zip(inner.instances);
            samples.extend(states.map(|(state, count)| INSTANCES.labelled(&[("state", state)], f64::from(count))));
        }
        let phases = ["joined", "serving", "first_reader"].into_iter().zip(inner.launch);
        let known = phases.filter_map(|(phase, time)| Some((phase, time?)));
        samples.extend(known.map(|(phase, time)| LAUNCH.labelled(&[("phase", phase)], time.as_secs_f64())));
        samples
    }
}

const fn outcome(answer: &Result<CloudAnswer, CloudError>) -> &'static str {
    match answer {
        Ok(_) => "done",
        Err(CloudError::Refused(_)) => "refused",
        Err(CloudError::Throttled(_)) => "throttled",
        Err(CloudError::Incomplete(_)) => "incomplete",
        Err(CloudError::Failed(_)) => "failed",
        Err(CloudError::TimedOut) => "timed_out",
        Err(CloudError::TooLate) => "too_late",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_launches_are_shown_once_there_were_any() {
        let stats = Arc::new(CloudStats::default());
        let shown = || stats.samples().len();
        assert_eq!(shown(), 0);
        stats.called(&CloudCall::Describe, &Err(CloudError::TimedOut));
        stats.called(&CloudCall::Describe, &Err(CloudError::TimedOut));
        assert_eq!(shown(), 1);
        assert_eq!(CloudStats::full().samples().len(), 1 + 1 + 3 + 2);
    }
}
