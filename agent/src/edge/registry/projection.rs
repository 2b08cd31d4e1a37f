//! What changed between the projection that Redis holds and the one it should hold. Pure.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use mtxfleet_wire::{LegId, LegRecord, NodeId, NodeRecord, StreamName, StreamRecord};

use crate::node::effect::Projection;

/// What Redis took last.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// The node record, as written; empty before the first.
    pub node: String,
    streams: HashMap<StreamName, StreamRecord>,
    /// The list that `streams` is the whole of, so that the same one is not compared each second.
    all_of: Option<Arc<[StreamRecord]>>,
    legs: HashMap<LegId, LegRecord>,
    offline: HashMap<NodeId, NodeRecord>,
}

/// What to send. Borrows from the projection.
#[derive(Debug)]
pub(super) struct Delta<'a> {
    pub node: String,
    pub set_streams: Vec<&'a StreamRecord>,
    pub remove_streams: Vec<StreamName>,
    pub set_legs: Vec<&'a LegRecord>,
    pub remove_legs: Vec<LegId>,
    pub offline: Vec<&'a NodeRecord>,
}

impl Delta<'_> {
    fn is_empty(&self, written: &Written) -> bool {
        self.node == written.node
            && self.set_streams.is_empty()
            && self.remove_streams.is_empty()
            && self.set_legs.is_empty()
            && self.remove_legs.is_empty()
            && self.offline.is_empty()
    }
}

impl Written {
    /// `None` when Redis holds it already.
    ///
    /// # Errors
    /// When the node record cannot be put as JSON (a load figure that is not a number).
    pub(super) fn delta<'a>(&self, wanted: &'a Projection) -> Result<Option<Delta<'a>>, serde_json::Error> {
        let is_same = self.all_of.as_ref().is_some_and(|streams| Arc::ptr_eq(streams, &wanted.streams));
        let streams: &[StreamRecord] = &wanted.streams;
        let delta = Delta {
            node: serde_json::to_string(&wanted.node)?,
            set_streams: if is_same { Vec::new() } else { changed(&self.streams, streams, |s| &s.stream) },
            remove_streams: if is_same { Vec::new() } else { vanished(&self.streams, streams, |s| &s.stream) },
            set_legs: changed(&self.legs, &wanted.legs, |l| &l.leg),
            remove_legs: vanished(&self.legs, &wanted.legs, |l| &l.leg),
            offline: changed(&self.offline, &wanted.offline, |n| &n.node),
        };
        Ok(if delta.is_empty(self) { None } else { Some(delta) })
    }

    /// Redis took `wanted`, all but the streams in `kept_by_others`, which will be offered again.
    pub(super) fn took(&mut self, wanted: &Projection, node: String, kept_by_others: &[String]) {
        self.node = node;
        if self.all_of.as_ref().is_none_or(|streams| !Arc::ptr_eq(streams, &wanted.streams)) {
            update(&mut self.streams, &wanted.streams, |s| &s.stream);
            self.streams.retain(|name, _| !kept_by_others.iter().any(|kept| kept == name.as_str()));
            self.all_of = kept_by_others.is_empty().then(|| Arc::clone(&wanted.streams));
        }
        update(&mut self.legs, &wanted.legs, |l| &l.leg);
        update(&mut self.offline, &wanted.offline, |n| &n.node);
    }
}

fn changed<'a, K: Hash + Eq + 'a, V: PartialEq>(
    old: &HashMap<K, V>,
    new: &'a [V],
    key: impl Fn(&'a V) -> &'a K,
) -> Vec<&'a V> {
    new.iter().filter(|value| old.get(key(value)) != Some(*value)).collect()
}

fn vanished<'a, K: Hash + Eq + Clone + 'a, V>(
    old: &HashMap<K, V>,
    new: &'a [V],
    key: impl Fn(&'a V) -> &'a K,
) -> Vec<K> {
    let wanted: std::collections::HashSet<&K> = new.iter().map(key).collect();
    old.keys().filter(|name| !wanted.contains(name)).cloned().collect()
}

/// Makes `old` equal to `new`, touching only what differs.
fn update<'a, K: Hash + Eq + Clone + 'a, V: Clone + PartialEq>(
    old: &mut HashMap<K, V>,
    new: &'a [V],
    key: impl Fn(&'a V) -> &'a K,
) {
    for name in vanished(old, new, &key) {
        old.remove(&name);
    }
    for value in changed(old, new, &key) {
        old.insert(key(value).clone(), value.clone());
    }
}
