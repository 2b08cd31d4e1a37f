//! What the world hears of this node: gossip, registry, load balancers, resolver, disk. Said when it changed, and the
//! load once a second.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mtxfleet_wire::{
    Bitrate, CamerasReport, DrainReport, Leg, LegRecord, Liveness, LoadReport, Mono, NodeId, NodeRecord, NodeState,
    Role, SCHEMA, ServerHealth, StreamName, StreamRecord, StreamReport, UnixMillis,
};

use super::draining::Saved;
use super::effect::{BalancerWord, Effect, Projection};
use super::readers::Readers;
use super::sample::{PathSample, Protocol, ServerSample};
use super::traffic::Traffic;
use super::{Node, Now};

/// The load is said this often, also while the server is looked at more often.
const LOAD_EVERY: Duration = Duration::from_millis(900);

/// When somebody comes or goes it is said at once, and not more often than this: orchestrators count readers.
const COUNTS_EVERY: Duration = Duration::from_millis(150);

/// A path that MediaMTX lists still, or again, so long after it was to go is looked after once more.
const LET_GO_WITHIN: Duration = Duration::from_secs(2);

/// What was said last, so that only changes are said.
#[derive(Debug, Default)]
pub struct Said {
    load_at: Option<Mono>,
    load_state: Option<NodeState>,
    /// Who came or went since then is said at this time, whatever else happens.
    counts_at: Option<Mono>,
    counts: [Option<u32>; 3],
    streams: Option<Arc<[StreamReport]>>,
    drain: Option<Option<DrainReport>>,
    moves: Option<Option<DrainReport>>,
    word: Option<BalancerWord>,
    records: Option<Records>,
    owners: Option<Vec<(StreamName, NodeId, String)>>,
    /// The version of the fleet that these are of.
    owners_at: Option<u64>,
    warm: Option<Vec<StreamName>>,
    let_go: Option<Vec<StreamName>>,
    let_go_at: Option<Mono>,
    cameras: Option<CamerasReport>,
    saved: Option<Option<Saved>>,
}

/// What the registry has of this node's streams.
#[derive(Debug)]
struct Records {
    of: Arc<[StreamReport]>,
    in_service: bool,
    records: Arc<[StreamRecord]>,
}

impl Said {
    /// The load is said again in this turn.
    pub(super) const fn forget_load(&mut self) {
        self.load_at = None;
    }
}

/// Takes `new` into `said` and tells whether that is news.
fn is_news<T: PartialEq + Clone>(said: &mut Option<T>, new: &T) -> bool {
    if said.as_ref() == Some(new) {
        return false;
    }
    *said = Some(new.clone());
    true
}

impl Said {
    /// When the node has something to say that waits.
    pub(super) const fn counts_at(&self) -> Option<Mono> {
        self.counts_at
    }
}

impl Node {
    pub(super) fn publish(&mut self, now: Now, effects: &mut Vec<Effect>) {
        // Persist, then act: whatever this turn decided is on disk before any of it is done.
        let saved = self.draining.saved(self.state);
        if is_news(&mut self.said.saved, &saved) {
            effects.insert(0, Effect::Persist(saved));
        }
        let word = self.balancer_word(now.mono);
        if is_news(&mut self.said.word, &word) {
            effects.push(Effect::BalancerWord(word));
        }
        let drain = self.draining.drain.as_ref().map(mtxfleet_drain::Drain::report);
        if is_news(&mut self.said.drain, &drain) {
            effects.push(Effect::PublishDrain(drain));
        }
        self.publish_load(now, effects);
        let moves = self.changing_hands.under_way.as_ref().map(mtxfleet_drain::HandOver::report);
        if is_news(&mut self.said.moves, &moves) {
            effects.push(Effect::PublishMoves(moves));
        }
        let said = self.said.streams.replace(Arc::clone(&self.server.streams));
        if said.is_none_or(|said| !Arc::ptr_eq(&said, &self.server.streams)) {
            effects.push(Effect::PublishStreams(Arc::clone(&self.server.streams)));
        }
        // Only gossip tells who owns what, and most events bring none.
        if self.said.owners_at.replace(self.fleet.version()) != Some(self.fleet.version()) {
            let owners = self.owners();
            if is_news(&mut self.said.owners, &owners) {
                effects.push(Effect::Owners(owners));
            }
        }
        let warm = self.wanted_warm();
        if is_news(&mut self.said.warm, &warm) {
            effects.push(Effect::KeepWarm(warm));
        }
        // Cameras of the inventory are let go of by whoever added them.
        let mut let_go = self.let_go();
        let_go.retain(|stream| !self.cameras.manages(stream));
        let listed = self.server.looked.is_some() && let_go.iter().any(|stream| self.has_path(stream));
        if is_news(&mut self.said.let_go, &let_go) {
            self.said.let_go_at = Some(now.mono);
            effects.push(Effect::LetGo(let_go));
        } else if listed && self.said.let_go_at.is_none_or(|at| now.mono.since(at) >= LET_GO_WITHIN) {
            self.said.let_go_at = Some(now.mono);
            effects.push(Effect::CheckLetGo);
        }
        self.publish_controls(effects);
        if self.settings.cameras.is_some() {
            let cameras = self.cameras.report();
            if is_news(&mut self.said.cameras, &cameras) {
                effects.push(Effect::PublishCameras(cameras));
            }
        }
    }

    /// Before the streams: whoever hears of a stream's new reader has heard then how many there are.
    fn publish_load(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let since = self.said.load_at.map(|said| now.mono.since(said));
        let due = since.is_none_or(|since| since >= LOAD_EVERY) || self.said.load_state != Some(self.state);
        let counts_due = since.is_none_or(|since| since >= COUNTS_EVERY);
        self.said.counts_at = self.said.load_at.filter(|_| !due && !counts_due).map(|said| said + COUNTS_EVERY);
        if self.said.counts_at.is_some() {
            return;
        }
        let load = self.load(now);
        let counts = [load.cameras, load.workers, load.viewers];
        if !due && counts == self.said.counts {
            return;
        }
        self.said.counts = counts;
        // The pace of all the rest is that of the last time it was due.
        if due {
            self.said.load_at = Some(now.mono);
            self.said.load_state = Some(self.state);
            let projection = self.projection(now);
            effects.push(Effect::Project(projection));
        }
        effects.push(Effect::PublishLoad(load));
    }

    pub(super) fn load(&self, now: Now) -> LoadReport {
        let known = self.server.looked.is_some();
        let age = self.server.looked.map(|looked| now.mono.since(looked)).unwrap_or_default();
        let readers: &Readers = &self.server.readers;
        let ours = |path: &&PathSample| path.available && is_owned(self.settings.facts.role, path);
        LoadReport {
            state: self.state,
            server: self.server.health.clone(),
            cameras: known.then(|| self.server.sample.paths.iter().filter(ours).count() as u32),
            workers: known.then(|| readers.workers()),
            viewers: known.then_some(readers.viewers.len() as u32),
            inbound: self.server.traffic.inbound(),
            outbound: self.server.traffic.outbound(),
            discarded_packets: self.server.traffic.discarded_packets(),
            suspects: self.fleet.silent().cloned().collect(),
            health: Some(self.said_health.clone()),
            cpu: self.machine.cpu,
            memory: self.machine.memory,
            disk_free: self.machine.disk_free,
            capacity: self.settings.capacity,
            redis: self.registry_reachable,
            protected: self.controls.is_protected(),
            declines: self.declines(),
            sampled: UnixMillis(now.wall.0.saturating_sub(age.as_millis() as u64)),
        }
    }

    fn balancer_word(&self, now: Mono) -> BalancerWord {
        if self.state != NodeState::Active {
            return BalancerWord::Drain;
        }
        if self.too_little_disk().is_some() || self.delivers_nothing() {
            return BalancerWord::Down;
        }
        let never_seen_up = self.server.health == ServerHealth::Unknown;
        self.balancers.word_in_service(now, self.weight(), self.server.ill_since, never_seen_up)
    }

    /// Hashed backends (distribution) move streams at each change of weight, so there it is all or nothing; by spare
    /// capacity, in tenths, where the algorithm is leastconn (ingestion).
    fn weight(&self) -> u8 {
        match (self.settings.facts.role, self.server.traffic.inbound()) {
            (Role::Distribution, _) | (_, None) => 100,
            (Role::Ingestion, Some(Bitrate(inbound))) => {
                let used = inbound as f64 / self.settings.capacity.0.max(1) as f64;
                let tenths = ((1.0 - used) * 10.0).ceil().clamp(1.0, 10.0);
                tenths as u8 * 10
            }
        }
    }

    /// Where streams are to be had, this node never among them: the resolver must not send MediaMTX to itself.
    fn owners(&self) -> Vec<(StreamName, NodeId, String)> {
        self.fleet.owners().into_iter().map(|(stream, (node, rtsp))| (stream, node, rtsp)).collect()
    }

    /// Streams owned here, for the registry: made anew only when one of them has changed.
    fn stream_records(&mut self) -> Arc<[StreamRecord]> {
        // Nobody pulls from a node that is out of service, whatever its MediaMTX still has.
        let in_service = self.state != NodeState::Offline;
        let said = self.said.records.as_ref();
        if let Some(said) =
            said.filter(|said| said.in_service == in_service && Arc::ptr_eq(&said.of, &self.server.streams))
        {
            return Arc::clone(&said.records);
        }
        let record = |stream: &StreamReport| StreamRecord {
            stream: stream.name.clone(),
            owner: self.settings.id.clone(),
            url: format!("rtsp://{}/{}", self.settings.facts.rtsp, stream.name),
            flowing: stream.flowing,
            bitrate: stream.bitrate,
            since: stream.since,
            claim: stream.claim,
        };
        let owned = self.server.streams.iter().filter(|stream| in_service && stream.owned && stream.ready);
        let records: Arc<[StreamRecord]> = owned.map(record).collect();
        let of = Arc::clone(&self.server.streams);
        self.said.records = Some(Records { of, in_service, records: Arc::clone(&records) });
        records
    }

    fn projection(&mut self, now: Now) -> Projection {
        let streams = self.stream_records();
        let me = &self.settings.id;
        let legs = self.server.readers.legs.iter().map(|leg| LegRecord {
            leg: leg.leg.clone(),
            worker: leg.worker.clone(),
            stream: leg.stream.clone(),
            node: me.clone(),
        });
        // Whoever orchestrates, and the first live node where nobody does (or has not heard yet that one does).
        let speaks = self.acts(now.mono) || self.fleet.speaks_for_the_dead(me);
        let offline = if speaks { self.records_of_the_dead(now.wall) } else { Vec::new() };
        let node = NodeRecord {
            schema: SCHEMA,
            node: me.clone(),
            state: self.state,
            facts: self.settings.facts.clone(),
            load: self.load(now),
            updated: now.wall,
        };
        Projection { node, streams, legs: legs.collect(), offline }
    }

    fn records_of_the_dead(&self, wall: UnixMillis) -> Vec<NodeRecord> {
        let dead = self.fleet.members().filter(|member| member.liveness == Liveness::Dead);
        let record = |member: &mtxfleet_leader::Member| {
            Some(NodeRecord {
                schema: SCHEMA,
                node: member.peer.node.clone(),
                state: NodeState::Offline,
                facts: member.peer.facts.clone()?,
                load: LoadReport { state: NodeState::Offline, ..member.peer.load.clone()? },
                updated: wall,
            })
        };
        dead.filter_map(record).collect()
    }
}

/// The streams of one look, in the order that MediaMTX lists them.
pub(super) fn stream_reports(
    role: Role,
    sample: &ServerSample,
    readers: &Readers,
    traffic: &Traffic,
) -> Vec<StreamReport> {
    let mut legs: BTreeMap<&str, Vec<Leg>> = BTreeMap::new();
    for leg in &readers.legs {
        let known = Leg { worker: leg.worker.clone(), leg: leg.leg.clone() };
        legs.entry(leg.stream.as_str()).or_default().push(known);
    }
    let mut others: BTreeMap<&str, u32> = BTreeMap::new();
    for reader in readers.anonymous.iter().chain(&readers.viewers) {
        *others.entry(&reader.stream).or_default() += 1;
    }
    let report = |path: &PathSample| {
        let mut legs = legs.remove(path.name.as_str()).unwrap_or_default();
        legs.sort();
        Some(StreamReport {
            // A path that no fleet could name is not gossiped.
            name: StreamName::new(path.name.as_str()).ok()?,
            owned: is_owned(role, path),
            ready: path.available,
            flowing: traffic.flows(&path.name, sample.at),
            since: path.available_since.unwrap_or_default(),
            claim: 0,
            legs,
            readers: others.get(path.name.as_str()).copied().unwrap_or(0),
            bitrate: traffic.bitrate(&path.name),
        })
    };
    // MediaMTX goes on listing a path that was pulled on demand after its source has ended.
    let is_carried = |path: &&PathSample| path.available || path.readers > 0;
    sample.paths.iter().filter(is_carried).filter_map(report).collect()
}

/// A stream is owned where it comes from its camera: on an ingestion node, whatever its source.
fn is_owned(role: Role, path: &PathSample) -> bool {
    role == Role::Ingestion && !path.source.is_empty()
}

/// How a protocol is called in the registry and in metrics.
impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Rtsp => "rtsp",
            Self::Rtsps => "rtsps",
            Self::Hls => "hls",
            Self::WebRtc => "webrtc",
        })
    }
}
