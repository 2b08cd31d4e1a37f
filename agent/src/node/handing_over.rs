//! What an ingestion node sees of its cameras while they change hands, for crate `drain`: who reads them, and who has them
//! next.

use std::collections::{BTreeMap, BTreeSet};

use mtxfleet_drain::{IngestionSide, ObservedCamera, ObservedLeg, Owner, Pull};
use mtxfleet_leader::Member;
use mtxfleet_wire::{CameraEnd, CameraSource, NodeId, NodeState, Role, StreamName, StreamReport};

use super::Node;
use super::sample::PathSample;

impl Node {
    /// `more` are streams that it may have no longer, and whose readers matter.
    pub(super) fn ingestion_side<'a>(&'a self, more: impl IntoIterator<Item = &'a StreamName>) -> IngestionSide {
        let cameras: Vec<ObservedCamera> =
            self.server.sample.paths.iter().filter_map(|path| self.camera(path)).collect();
        let here = cameras.iter().map(|camera| camera.stream.clone());
        let streams: BTreeSet<StreamName> = here.chain(more.into_iter().cloned()).collect();
        IngestionSide {
            legs_elsewhere: self.legs_through(&cameras),
            legs_at_owners: self.legs_at_owners(&streams),
            distribution: self.candidates(Role::Distribution),
            owners: self.next_owners(&streams),
            recording_readers: self.recording_use.wanted_by(),
            cameras,
        }
    }

    /// Streams that MediaMTX here must not have: handed over in this drain, or in the one that took the node out of
    /// service.
    pub(super) fn let_go(&self) -> Vec<StreamName> {
        if let Some(drain) = &self.draining.drain {
            return drain.let_go();
        }
        let record = self.draining.last_record.as_ref().filter(|_| self.state == NodeState::Offline);
        let cameras = record.iter().flat_map(|record| &record.cameras);
        let gone = cameras.filter(|camera| camera.source == CameraSource::Pulled && camera.how != CameraEnd::Here);
        gone.map(|camera| camera.stream.clone()).collect()
    }

    /// Whether this node may stop pulling a camera whose next owner has it: once nobody who can be told reads it here any
    /// more.
    #[must_use]
    pub fn may_let_go(&self, stream: &StreamName) -> bool {
        match (&self.draining.drain, &self.changing_hands.under_way) {
            (Some(drain), _) => drain.may_let_go(stream),
            (None, Some(hand_over)) if hand_over.moving().any(|moving| moving == stream) => {
                hand_over.may_let_go(stream)
            }
            // Nobody reads what is not there.
            (None, _) => self.server.looked.is_some() && !self.has_path(stream),
        }
    }

    /// As far as the last look says.
    pub(super) fn has_path(&self, stream: &StreamName) -> bool {
        self.server.sample.paths.iter().any(|path| path.name == stream.as_str())
    }

    fn camera(&self, path: &PathSample) -> Option<ObservedCamera> {
        // `rtspSource`, `hlsSource`, ...: MediaMTX connects to it. `rtspSession`, `webRTCSession`, ...: it publishes.
        let source = match path.source.as_str() {
            "" => return None,
            source if source.ends_with("Source") => CameraSource::Pulled,
            _ => CameraSource::Pushed,
        };
        let readers = &self.server.readers;
        let publisher = readers.publishers.iter().find(|publisher| publisher.stream == path.name);
        let pulls = readers.pulls.iter().filter(|pull| pull.stream == path.name);
        Some(ObservedCamera {
            stream: StreamName::new(path.name.as_str()).ok()?,
            source,
            available: path.available,
            session: publisher.map(|publisher| publisher.session.clone()),
            pulls: pulls
                .map(|pull| Pull { session: pull.session.clone(), node: pull.node.clone(), moves: pull.moves })
                .collect(),
        })
    }

    /// Legs at the nodes that pull a camera from here. A node that reads it from elsewhere is no concern of this one, nor is
    /// one that relays: who reads there notices nothing.
    fn legs_through(&self, cameras: &[ObservedCamera]) -> Vec<ObservedLeg> {
        let mut legs = Vec::new();
        let pulled: BTreeMap<(&NodeId, &StreamName), ()> = cameras
            .iter()
            .flat_map(|camera| {
                camera.pulls.iter().filter(|pull| !pull.moves).map(move |pull| ((&pull.node, &camera.stream), ()))
            })
            .collect();
        for ((node, stream), ()) in pulled {
            let Some(member) = self.fleet.get(node) else { continue };
            legs.extend(member.peer.streams.iter().filter(|report| report.name == *stream).flat_map(legs_of(node)));
        }
        legs
    }

    fn legs_at_owners(&self, streams: &BTreeSet<StreamName>) -> Vec<ObservedLeg> {
        let of_role = |member: &&Member| member.peer.facts.as_ref().is_some_and(|facts| facts.role == Role::Ingestion);
        let mut legs = Vec::new();
        for member in self.fleet.members().filter(of_role) {
            let theirs = member.peer.streams.iter().filter(|report| streams.contains(&report.name));
            legs.extend(theirs.flat_map(legs_of(&member.peer.node)));
        }
        legs
    }

    /// Of several, the one that is to have it, or else the first in the order of their ids.
    fn next_owners(&self, streams: &BTreeSet<StreamName>) -> BTreeMap<StreamName, Owner> {
        let mut owners = BTreeMap::new();
        for member in self.fleet.serving(Role::Ingestion) {
            let Some(facts) = &member.peer.facts else { continue };
            let delivers = |report: &&StreamReport| report.owned && report.ready && report.flowing;
            for report in member.peer.streams.iter().filter(delivers).filter(|report| streams.contains(&report.name)) {
                let is_placed = self.cameras.is_placed_at(&report.name, &member.peer.node);
                if is_placed || !owners.contains_key(&report.name) {
                    let (node, rtsp) = (member.peer.node.clone(), facts.rtsp.clone());
                    owners.insert(report.name.clone(), Owner { node, rtsp, since: report.since });
                }
            }
        }
        owners
    }
}

fn legs_of(node: &NodeId) -> impl Fn(&StreamReport) -> Vec<ObservedLeg> {
    move |report| {
        let leg = |leg: &mtxfleet_wire::Leg| ObservedLeg {
            leg: leg.leg.clone(),
            worker: leg.worker.clone(),
            stream: report.name.clone(),
            at: Some(node.clone()),
            session: String::new(),
            bitrate: report.bitrate,
        };
        report.legs.iter().map(leg).collect()
    }
}
