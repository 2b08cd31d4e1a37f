//! What an ingestion node says of the cameras that it pulls: gossip key `cameras`. No credentials, no addresses.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{NodeId, StreamName, WorkerId};

/// Names given of each kind; beyond, they are counted.
pub const NAMES_SAID: usize = 50;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CamerasReport {
    /// Hash of the inventory in force here, by the cluster key: alike on every node whose inventory is alike. `None`
    /// while there is none, and the node then takes no camera.
    pub inventory: Option<String>,
    /// Cameras in it, without those that are wrong.
    pub listed: u32,
    /// Cameras that this node pulls, or tries to.
    pub pulled: u32,
    /// Of these, those that deliver nothing for some time; MediaMTX tries on.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub unreachable: Named,
    /// Cameras whose name is a path of the operator's own in this node's `mediamtx.yml`, which is left alone.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub in_the_way: Named,
    /// Cameras whose path MediaMTX refused, or that could not be asked of it.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub refused: Named,
    /// Cameras whose entry in the inventory in force is wrong, or whose name stands twice in it: they are left out. One that
    /// is pulled already stays as it is.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub wrong: Named,
    /// What is wrong with the newest inventory: it is not in force at all, or without some of its entries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What became of cameras that were placed elsewhere while their node stayed in service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HandOverRecord {
    /// Who has each now.
    pub moved: BTreeMap<StreamName, NodeId>,
    /// Those that stay after all: they were placed here again, or no other node delivered them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<StreamName>,
    /// Workers that were led over, each counted once for each stream.
    pub workers: u32,
    /// Those that had not left at the deadline, and were disconnected.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub cut: BTreeSet<WorkerId>,
    pub seconds: f64,
}

/// The first names, and how many there are in all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    pub count: u32,
    pub first: Vec<StreamName>,
}

impl Named {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl<'a> FromIterator<&'a StreamName> for Named {
    fn from_iter<I: IntoIterator<Item = &'a StreamName>>(names: I) -> Self {
        let mut named = Self::default();
        for name in names {
            named.count += 1;
            if named.first.len() < NAMES_SAID {
                named.first.push(name.clone());
            }
        }
        named
    }
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.first.iter().map(StreamName::as_str).collect();
        f.write_str(&names.join(", "))?;
        match self.count as usize - self.first.len().min(self.count as usize) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
