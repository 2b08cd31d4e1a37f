//! One group: what is there, what is to be, and what is to be done about it. It touches no process and no clock.

use std::collections::BTreeMap;
use std::time::Duration;

use mtxfleet_leader::cloud::{Group as Listing, Instance, InstanceState};
use mtxfleet_wire::{InstanceId, Mono, NodeId, Role};

use super::{Faults, GroupSettings, Refusal};

/// After a launch that failed the next one waits, the longer the more failed in a row.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What is to be done with processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Act {
    Start(Launch),
    Stop(InstanceId),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Launch {
    pub(super) instance: InstanceId,
    pub(super) node: NodeId,
    /// Index into the group's slots.
    pub(super) slot: usize,
}

#[derive(Debug)]
struct Machine {
    launch: Launch,
    launched: Mono,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    /// The launch delay runs.
    Waiting {
        until: Mono,
    },
    /// Its programs are being started.
    Starting,
    Running,
    Ending,
}

impl Stage {
    const fn seen_as(self) -> InstanceState {
        match self {
            Self::Waiting { .. } | Self::Starting => InstanceState::Launching,
            Self::Running => InstanceState::InService,
            Self::Ending => InstanceState::Ending,
        }
    }
}

#[derive(Debug)]
pub(super) struct Group {
    role: Role,
    min: u32,
    max: u32,
    desired: u32,
    launch_delay: Duration,
    node: String,
    /// When each was last let go; `None`: it is taken. The one free for the longest is taken next.
    slots: Vec<Option<Mono>>,
    machines: BTreeMap<InstanceId, Machine>,
    launched: u64,
    failures: u32,
    not_before: Mono,
    full_said: bool,
}

impl Group {
    pub(super) fn new(settings: &GroupSettings) -> Self {
        Self {
            role: settings.role,
            min: settings.min,
            max: settings.max,
            desired: settings.desired,
            launch_delay: settings.launch_delay,
            node: settings.node.clone(),
            slots: vec![Some(Mono::default()); settings.slots.len()],
            machines: BTreeMap::new(),
            launched: 0,
            failures: 0,
            not_before: Mono::default(),
            full_said: false,
        }
    }

    /// Launches what is missing, and starts what has waited.
    pub(super) fn pass_time(&mut self, now: Mono, faults: &Faults) -> Vec<Act> {
        let mut acts = Vec::new();
        for machine in self.machines.values_mut() {
            if let Stage::Waiting { until } = machine.stage
                && until <= now
            {
                machine.stage = Stage::Starting;
                acts.push(Act::Start(machine.launch.clone()));
            }
        }
        let present = self.machines.values().filter(|machine| machine.stage != Stage::Ending).count();
        let missing = (self.desired as usize).saturating_sub(present);
        if missing == 0 || faults.launch_nothing || now < self.not_before {
            return acts;
        }
        for _ in 0..missing * if faults.launch_twice { 2 } else { 1 } {
            if !self.launch(now) {
                break;
            }
        }
        acts
    }

    fn launch(&mut self, now: Mono) -> bool {
        let free = self.slots.iter().enumerate().filter_map(|(at, since)| Some((since.as_ref()?.0, at))).min();
        let Some((_, slot)) = free else {
            if !std::mem::replace(&mut self.full_said, true) {
                tracing::warn!(role = %self.role, "no slot is free; instances are launched as they come free");
            }
            return false;
        };
        self.full_said = false;
        self.launched += 1;
        let number = self.launched.to_string();
        let instance = InstanceId::new(format!("i-{}-{number}", self.role));
        let node = NodeId::new(self.node.replace("{n}", &number));
        // Both were tried with a number when the settings were read.
        let (Ok(instance), Ok(node)) = (instance, node) else { return false };
        self.slots[slot] = None;
        let launch = Launch { instance: instance.clone(), node, slot };
        let stage = Stage::Waiting { until: now + self.launch_delay };
        self.machines.insert(instance, Machine { launch, launched: now, stage });
        true
    }

    pub(super) fn runs(&mut self, instance: &InstanceId) {
        if let Some(machine) = self.machines.get_mut(instance)
            && machine.stage == Stage::Starting
        {
            machine.stage = Stage::Running;
            self.failures = 0;
        }
    }

    /// `why`: it went by itself.
    pub(super) fn gone(&mut self, now: Mono, instance: &InstanceId, why: Option<&str>) {
        let Some(machine) = self.machines.remove(instance) else { return };
        self.slots[machine.launch.slot] = Some(now);
        if why.is_some() {
            let pause = FIRST_PAUSE * 2_u32.pow(self.failures.min(10));
            self.failures += 1;
            self.not_before = now + pause.min(LONGEST_PAUSE);
        }
    }

    /// Fewer than there are ends nobody: all are protected from scale-in.
    pub(super) fn set_desired(&mut self, desired: u32) -> Result<(), Refusal> {
        if !(self.min..=self.max).contains(&desired) {
            let (min, max) = (self.min, self.max);
            return Err(Refusal::Refused(format!("{desired} is not from {min} to {max}, the range of this group")));
        }
        self.desired = desired;
        Ok(())
    }

    pub(super) fn end(&mut self, instance: &InstanceId, decrement: bool) -> Result<Vec<Act>, Refusal> {
        // Gone, or never there: what was wanted holds.
        let Some(machine) = self.machines.get_mut(instance) else { return Ok(Vec::new()) };
        if machine.stage == Stage::Ending {
            return Ok(Vec::new());
        }
        if decrement {
            if self.desired <= self.min {
                let why = format!("{} are desired, and {} is the least of this group", self.desired, self.min);
                return Err(Refusal::Refused(why));
            }
            self.desired -= 1;
        }
        let has_processes = !matches!(machine.stage, Stage::Waiting { .. });
        machine.stage = Stage::Ending;
        if has_processes {
            return Ok(vec![Act::Stop(instance.clone())]);
        }
        let slot = machine.launch.slot;
        self.machines.remove(instance);
        self.slots[slot] = Some(Mono::default());
        Ok(Vec::new())
    }

    pub(super) fn listing(&self, now: Mono) -> Listing {
        let instance = |machine: &Machine| Instance {
            id: machine.launch.instance.clone(),
            state: machine.stage.seen_as(),
            age: Some(now.since(machine.launched)),
            node: Some(machine.launch.node.clone()),
            zone: String::new(),
            protected: false,
        };
        let mut instances: Vec<Instance> = self.machines.values().map(instance).collect();
        instances.sort_by_key(|instance| std::cmp::Reverse(instance.age));
        let (role, desired, min, max) = (self.role, self.desired, self.min, self.max);
        Listing { role, desired, min, max, instances, keeps: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(min: u32, max: u32, slots: usize) -> Group {
        let text = format!(
            "listen = \"127.0.0.1:0\"\ndir = \"d\"\n[[group]]\nrole = \"distribution\"\nmin = {min}\nmax = {max}\nlaunch_delay = \"5s\"\n\
             [[group.program]]\nname = \"p\"\ncommand = [\"true\"]\n{}",
            "[[group.slot]]\n".repeat(slots)
        );
        Group::new(&super::super::Settings::parse(&text, std::path::Path::new("c.toml")).expect("valid").groups[0])
    }

    fn at(seconds: u64) -> Mono {
        Mono(Duration::from_secs(seconds))
    }

    fn starts(acts: &[Act]) -> Vec<(&str, usize)> {
        let start = |act: &Act| match act {
            Act::Start(launch) => Some((launch.instance.as_str().to_owned().leak() as &str, launch.slot)),
            Act::Stop(_) => None,
        };
        acts.iter().filter_map(start).collect()
    }

    /// Passes time until `until`, and lets every start succeed.
    fn settle(group: &mut Group, until: u64, faults: &Faults) {
        for second in 0..=until {
            for act in group.pass_time(at(second), faults) {
                if let Act::Start(launch) = act {
                    group.runs(&launch.instance);
                }
            }
        }
    }

    fn states(group: &Group) -> Vec<InstanceState> {
        group.listing(at(1_000)).instances.iter().map(|instance| instance.state).collect()
    }

    #[test]
    fn what_is_missing_is_launched_and_runs_after_the_delay_and_no_more() {
        let mut group = group(2, 4, 6);
        assert_eq!(group.pass_time(at(1), &Faults::default()), []);
        assert_eq!(states(&group), [InstanceState::Launching; 2]);
        assert_eq!(
            starts(&group.pass_time(at(6), &Faults::default())),
            [("i-distribution-1", 0), ("i-distribution-2", 1)]
        );
        assert_eq!(group.pass_time(at(7), &Faults::default()), []);
        group.runs(&InstanceId::new("i-distribution-1").expect("valid"));
        let listing = group.listing(at(8));
        assert_eq!(listing.instances[0].age, Some(Duration::from_secs(7)));
        assert_eq!(listing.present().filter(|i| i.state == InstanceState::InService).count(), 1);
        group.set_desired(4).expect("in range");
        group.set_desired(4).expect("the same again");
        settle(&mut group, 30, &Faults::default());
        assert_eq!(states(&group).len(), 4);
        assert!(matches!(group.set_desired(5), Err(Refusal::Refused(_))));
    }

    #[test]
    fn a_lower_number_ends_nobody_and_an_instance_ends_once_and_never_below_the_least() {
        let mut group = group(1, 4, 4);
        group.set_desired(3).expect("in range");
        settle(&mut group, 10, &Faults::default());
        group.set_desired(2).expect("in range");
        settle(&mut group, 20, &Faults::default());
        assert_eq!(states(&group), [InstanceState::InService; 3]);
        group.set_desired(3).expect("in range");
        let first = InstanceId::new("i-distribution-1").expect("valid");
        assert_eq!(group.end(&first, true), Ok(vec![Act::Stop(first.clone())]));
        assert_eq!(group.end(&first, true), Ok(vec![]), "twice is once");
        assert_eq!(group.listing(at(20)).desired, 2);
        group.gone(at(21), &first, None);
        assert_eq!(group.end(&first, true), Ok(vec![]), "also when it is gone");
        settle(&mut group, 40, &Faults::default());
        assert_eq!(states(&group).len(), 2, "and none took its place");
        let second = InstanceId::new("i-distribution-2").expect("valid");
        assert_eq!(group.end(&second, false).map(|acts| acts.len()), Ok(1));
        group.gone(at(41), &second, None);
        settle(&mut group, 60, &Faults::default());
        assert_eq!(states(&group).len(), 2, "one took its place");
        let third = InstanceId::new("i-distribution-3").expect("valid");
        assert!(group.end(&third, true).is_ok());
        group.gone(at(61), &third, None);
        let last = group.listing(at(62)).instances[0].id.clone();
        assert!(matches!(group.end(&last, true), Err(Refusal::Refused(why)) if why.contains("the least")));
    }

    #[test]
    fn a_slot_is_one_instances_alone_and_a_launch_that_fails_is_tried_again_with_a_pause() {
        let mut group = group(2, 3, 3);
        group.set_desired(3).expect("in range");
        settle(&mut group, 10, &Faults::default());
        let first = InstanceId::new("i-distribution-1").expect("valid");
        assert!(group.end(&first, false).is_ok());
        settle(&mut group, 20, &Faults::default());
        assert_eq!(states(&group).len(), 3, "every slot is taken, also that of the one that ends");
        group.gone(at(20), &first, None);
        group.pass_time(at(20), &Faults::default());
        assert_eq!(starts(&group.pass_time(at(25), &Faults::default())), [("i-distribution-4", 0)]);
        let fourth = InstanceId::new("i-distribution-4").expect("valid");
        group.gone(at(25), &fourth, Some("no such program"));
        group.pass_time(at(25), &Faults::default());
        assert_eq!(states(&group).len(), 2, "not at once");
        group.pass_time(at(26), &Faults::default());
        assert_eq!(starts(&group.pass_time(at(31), &Faults::default())), [("i-distribution-5", 0)]);
    }

    #[test]
    fn told_to_misbehave_it_launches_nothing_or_twice() {
        let mut group = group(2, 6, 9);
        settle(&mut group, 10, &Faults { launch_nothing: true, ..Faults::default() });
        assert_eq!(states(&group).len(), 0);
        settle(&mut group, 10, &Faults { launch_twice: true, ..Faults::default() });
        assert_eq!(states(&group).len(), 4);
    }
}
