//! The keys of a policy, as `--set` and a policy file give them.

use std::time::Duration;

use mtxfleet_leader::engine::Policy;

use super::super::table::Table;
use crate::config::units;

/// A key with its meaning, how it is read, and how it is shown.
struct Key {
    name: &'static str,
    meaning: &'static str,
    set: fn(&mut Policy, &str) -> Result<(), String>,
    show: fn(&Policy) -> String,
}

macro_rules! number {
    ($name:literal, $meaning:literal, $($field:tt)+) => {
        Key {
            name: $name,
            meaning: $meaning,
            set: |policy, text| policy_number(text).map(|value| policy.$($field)+ = value),
            show: |policy| policy.$($field)+.to_string(),
        }
    };
}

macro_rules! time {
    ($name:literal, $meaning:literal, $($field:tt)+) => {
        Key {
            name: $name,
            meaning: $meaning,
            set: |policy, text| units::duration(text).map(|value: Duration| policy.$($field)+ = value),
            show: |policy| units::show_duration(policy.$($field)+),
        }
    };
}

static KEYS: [Key; 18] = [
    number!("min", "nodes in service, at least", min),
    number!("max", "nodes in service, at most", max),
    number!("per_node", "readers, or cameras, that one node carries", metrics[0].per_node),
    number!(
        "bandwidth_per_node",
        "bits a second that one node carries, where the load has bandwidth",
        metrics[1].per_node
    ),
    number!("headroom", "share of the load kept free on top of it", headroom),
    number!("tolerance", "share by which the wanted size must differ", tolerance),
    time!("up_window", "more must be wanted this long before nodes are launched", up_window),
    time!("down_window", "less must be wanted all this time before a node is drained", down_window),
    number!("shrink_step", "nodes draining at once, at most", shrink_step),
    Key {
        name: "grow_step",
        meaning: "nodes launched by one decision, at most; \"none\" for no limit",
        set: |policy, text| {
            policy.grow_step = if text == "none" { None } else { Some(policy_number(text)?) };
            Ok(())
        },
        show: |policy| policy.grow_step.map_or_else(|| "none".to_owned(), |step| step.to_string()),
    },
    number!("spare", "nodes' worth of capacity kept free on top of all; also parts of a node", spare),
    number!("gain", "how much of the growth foreseen within the lead is provided for", lead.gain),
    time!("slope_window", "time over which the growth is measured", lead.window),
    number!("noise", "standard errors of the slope that count as noise", lead.noise),
    time!("assumed_lag", "the age of figures that the policy reckons with; as --lag unless set", lead.lag),
    Key {
        name: "cpu_limit",
        meaning: "mean share of all cores above which a fifth is launched, where the load has CPU; \"none\" for never",
        set: |policy, text| {
            policy.cpu_limit = if text == "none" { None } else { Some(policy_number(text)?) };
            Ok(())
        },
        show: |policy| policy.cpu_limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string()),
    },
    Key {
        name: "dry_run",
        meaning: "true: decide, and do nothing",
        set: |policy, text| {
            policy.dry_run = text.parse().map_err(|_| format!("{text:?} is neither true nor false"))?;
            Ok(())
        },
        show: |policy| policy.dry_run.to_string(),
    },
    time!("assumed_lead", "the lead that the policy reckons with; as --lead unless set", lead.assumed),
];

fn policy_number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is no number that fits"))
}

/// # Errors
/// What is wrong, with the key; the policy is then as it was.
pub(super) fn set(policy: &mut Policy, key: &str, text: &str) -> Result<(), String> {
    match KEYS.iter().find(|known| known.name == key) {
        Some(known) => (known.set)(policy, text).map_err(|problem| format!("{key}: {problem}")),
        None => {
            let names: Vec<_> = KEYS.iter().map(|known| known.name).collect();
            Err(format!("{key}: no such key; there are {}", names.join(", ")))
        }
    }
}

/// Every key with its present value.
pub(super) fn help(policy: &Policy) -> Table {
    let mut table = Table::new(&["KEY", "DEFAULT", "MEANING"]);
    for key in &KEYS {
        table.row(vec![key.name.to_owned(), (key.show)(policy), key.meaning.to_owned()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use mtxfleet_leader::distribution_orchestrator::policy;

    use super::*;

    #[test]
    fn every_key_reads_back_what_it_shows() {
        for key in &KEYS {
            let mut read = policy();
            (key.set)(&mut read, &(key.show)(&policy())).unwrap_or_else(|problem| panic!("{}: {problem}", key.name));
            assert_eq!(read, policy(), "{}", key.name);
        }
    }

    #[test]
    fn wrong_keys_and_values_are_named() {
        let mut changed = policy();
        assert!(
            set(&mut changed, "headrom", "1").is_err_and(|why| why.contains("headrom") && why.contains("headroom"))
        );
        assert!(set(&mut changed, "up_window", "10").is_err_and(|why| why.contains("no unit")));
        assert!(set(&mut changed, "min", "-1").is_err());
        assert_eq!(changed, policy());
        assert_eq!(set(&mut changed, "grow_step", "3"), Ok(()));
        assert_eq!(changed.grow_step, Some(3));
    }
}
