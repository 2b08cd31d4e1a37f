//! Who owns what, and how many wait to know.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mtxfleet_ai_client::Owner;
use mtxfleet_wire::{NodeId, StreamName};

/// Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Owners(Arc<HashMap<StreamName, Owner>>);

/// Where a stream is to be had, as seen from one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    At(Owner),
    /// It would be this node itself, or this very resolver.
    Own,
    Nowhere,
}

impl From<Vec<(StreamName, NodeId, String)>> for Owners {
    fn from(owners: Vec<(StreamName, NodeId, String)>) -> Self {
        let sendable = |rtsp: &str| {
            !rtsp.is_empty() && rtsp.len() <= 300 && rtsp.bytes().all(|b| b.is_ascii_graphic() && !b"/?#@".contains(&b))
        };
        let owner = |(stream, node, rtsp)| (stream, Owner { node, rtsp });
        // An address comes from another node's report and goes into a header line.
        Self(Arc::new(owners.into_iter().filter(|(_, _, rtsp)| sendable(rtsp)).map(owner).collect()))
    }
}

impl Owners {
    pub(super) fn find(&self, stream: &StreamName, node: &NodeId, own_rtsp: &str, resolver: SocketAddr) -> Found {
        match self.0.get(stream) {
            None => Found::Nowhere,
            Some(owner) if owner.node == *node || owner.rtsp.eq_ignore_ascii_case(own_rtsp) => Found::Own,
            Some(owner) if is_resolver(&owner.rtsp, resolver) => Found::Own,
            Some(owner) => Found::At(owner.clone()),
        }
    }
}

fn is_resolver(rtsp: &str, resolver: SocketAddr) -> bool {
    match rtsp.rsplit_once(':') {
        Some((host, port)) => {
            port.parse() == Ok(resolver.port())
                && (host.eq_ignore_ascii_case("localhost")
                    || host.trim_matches(['[', ']']).parse() == Ok(resolver.ip()))
        }
        None => false,
    }
}

/// Places for questions that wait.
#[derive(Debug)]
pub(super) struct HeldQuestions {
    per_stream: usize,
    in_all: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    in_all: usize,
    per_stream: HashMap<StreamName, usize>,
}

impl HeldQuestions {
    pub(super) fn new(per_stream: usize, in_all: usize) -> Self {
        Self { per_stream, in_all, waiting: Mutex::default() }
    }

    /// `None` when there is no place left.
    pub(super) fn enter<'a>(&'a self, stream: &'a StreamName) -> Option<Place<'a>> {
        let mut waiting = self.lock();
        let of_stream = waiting.per_stream.get(stream).copied().unwrap_or_default();
        if waiting.in_all >= self.in_all || of_stream >= self.per_stream {
            return None;
        }
        waiting.in_all += 1;
        waiting.per_stream.insert(stream.clone(), of_stream + 1);
        Some(Place { held: self, stream })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question's place among those that wait; free again when dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    held: &'a HeldQuestions,
    stream: &'a StreamName,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.held.lock();
        waiting.in_all -= 1;
        if let Some(count) = waiting.per_stream.get_mut(self.stream) {
            *count -= 1;
            if *count == 0 {
                waiting.per_stream.remove(self.stream);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(name: &str) -> StreamName {
        StreamName::new(name).unwrap()
    }

    fn find(rtsp: &str, node: &str) -> Found {
        let owners = Owners::from(vec![(stream("cam1"), NodeId::new(node).unwrap(), rtsp.to_owned())]);
        let resolver = "127.0.0.1:8700".parse().unwrap();
        owners.find(&stream("cam1"), &NodeId::new("d1").unwrap(), "10.0.0.9:8554", resolver)
    }

    #[test]
    fn this_node_is_never_found_whatever_it_is_called() {
        let at = |rtsp: &str| Found::At(Owner { node: NodeId::new("i1").unwrap(), rtsp: rtsp.to_owned() });
        assert_eq!(find("10.0.0.1:8554", "i1"), at("10.0.0.1:8554"));
        assert_eq!(find("10.0.0.1:8554", "d1"), Found::Own);
        assert_eq!(find("10.0.0.9:8554", "i1"), Found::Own);
        assert_eq!(find("127.0.0.1:8700", "i1"), Found::Own);
        assert_eq!(find("LOCALHOST:8700", "i1"), Found::Own);
        assert_eq!(find("127.0.0.1:8701", "i1"), at("127.0.0.1:8701"));
    }

    #[test]
    fn an_address_that_would_forge_a_header_is_no_owner() {
        for forged in ["", "a\r\nX: y", "h:1/other", "user@h:1", "h:1?x", "h :1"] {
            assert_eq!(find(forged, "i1"), Found::Nowhere, "{forged:?}");
        }
    }

    #[test]
    fn places_are_bounded_and_come_back() {
        let held = HeldQuestions::new(2, 3);
        let (a, b) = (stream("a"), stream("b"));
        let first = held.enter(&a).unwrap();
        let _second = held.enter(&a).unwrap();
        assert!(held.enter(&a).is_none());
        let _third = held.enter(&b).unwrap();
        assert!(held.enter(&b).is_none());
        drop(first);
        assert!(held.enter(&b).is_some());
        assert_eq!(held.lock().in_all, 2);
    }
}
