//! Which cameras a node pulls, on virtual time.

use mtxfleet_leader::placement;
use mtxfleet_wire::{CamerasReport, DrainOrder, MoveReason, StreamReport, UnixMillis};

use super::super::sample::{PathSample, Protocol, ServerSample, SessionSample, SessionState};
use super::super::tests::{World, id, peer, settings, stream};
use super::*;
use crate::config::ClusterKey;
use crate::node::event::{Event, Peer, Ticket};

const KEY: ClusterKey = ClusterKey::new([7; 32]);
const NAMES: [&str; 12] = ["c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8", "c9", "c10", "c11"];

fn inventory(names: &[&str], more: &str) -> Arc<Inventory> {
    let text: String = names
        .iter()
        .map(|name| format!("[[camera]]\nname = \"{name}\"\nurl = \"rtsp://10.0.0.1/{name}\"\n{more}\n"))
        .collect();
    Arc::new(Inventory::parse(&text, "cameras.toml", &KEY).expect("valid"))
}

fn name(text: &str) -> StreamName {
    StreamName::new(text).expect("valid")
}

/// A node of three that pull cameras, its MediaMTX and its peers.
struct Site {
    world: World,
    /// Paths that MediaMTX has, all delivering but those in `silent`.
    paths: BTreeSet<StreamName>,
    silent: BTreeSet<StreamName>,
    peers: BTreeMap<&'static str, Peer>,
    inventory: Arc<Inventory>,
    /// Distribution nodes that pull a stream from here.
    pulls: BTreeSet<(&'static str, StreamName)>,
    effects: Vec<Effect>,
    bytes: u64,
}

impl Site {
    fn new(more: &str) -> Self {
        let settings = super::super::Settings {
            cameras: Some(CameraSettings { settle: Duration::from_secs(5), let_go_after: Duration::from_secs(3) }),
            minimum: 1,
            has_registry: false,
            ..settings(Role::Ingestion)
        };
        let (world, _) = World::with(settings, None);
        let inventory = inventory(&NAMES, more);
        let peer = |name: &'static str| {
            let cameras = CamerasReport { inventory: Some(inventory.hash.clone()), ..CamerasReport::default() };
            (name, Peer { cameras: Some(cameras), ..peer(name, Role::Ingestion) })
        };
        let peers = [peer("a"), peer("b")].into();
        let (paths, silent, pulls) = Default::default();
        Self { world, paths, silent, peers, inventory, pulls, effects: Vec::new(), bytes: 0 }
    }

    /// In service, with its share of the cameras.
    fn at_work(more: &str) -> Self {
        let mut site = Self::new(more);
        site.tell_inventory();
        site.compare();
        site.pass(7);
        site
    }

    fn tell_inventory(&mut self) {
        let news = InventoryNews::Taken(Arc::clone(&self.inventory));
        self.apply(Event::Inventory(news));
    }

    fn apply(&mut self, event: Event) {
        let effects = self.world.apply(event);
        for effect in effects {
            if let Effect::Pull(orders) = &effect {
                let wanted = orders.pull.iter().map(|camera| camera.name.clone()).chain(orders.keep.iter().cloned());
                self.paths = wanted.collect();
                let effects = self.world.apply(Event::PathsCompared(self.report()));
                self.effects.extend(effects);
            }
            self.effects.push(effect);
        }
    }

    fn report(&self) -> PullsReport {
        PullsReport { ours: self.paths.clone(), ..PullsReport::default() }
    }

    fn compare(&mut self) {
        self.apply(Event::PathsCompared(self.report()));
    }

    /// Seconds, in each of which everything is looked at.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.world.after(1000);
            self.bytes += 1000;
            let sample = self.sample();
            self.apply(Event::Server(Ok(sample)));
            // Those that live report anew.
            for peer in self.peers.values_mut().filter(|peer| peer.alive) {
                peer.load.iter_mut().for_each(|load| load.sampled.0 += 1000);
            }
            self.apply(Event::Peers(self.peers.values().cloned().collect()));
            self.apply(Event::Tick);
        }
    }

    fn sample(&self) -> ServerSample {
        let path = |stream: &StreamName| PathSample {
            name: stream.to_string(),
            available: !self.silent.contains(stream),
            available_since: Some(UnixMillis(5)),
            source: "rtspSource".into(),
            inbound_bytes: self.bytes,
            ..PathSample::default()
        };
        let paths = self.paths.iter().map(path).collect();
        let pull = |(node, stream): &(&str, StreamName)| SessionSample {
            protocol: Protocol::Rtsp,
            id: format!("pull {node} {stream}"),
            state: SessionState::Read,
            path: stream.to_string(),
            query: format!("pull={node}"),
            remote: String::new(),
            inbound_bytes: 0,
            outbound_bytes: 0,
            discarded_packets: 0,
        };
        let sessions = self.pulls.iter().map(pull).collect();
        ServerSample { at: self.world.now.mono, paths, sessions }
    }

    fn mine(&self) -> BTreeSet<StreamName> {
        let nodes = self.peers.iter().filter(|(_, peer)| peer.alive).map(|(name, _)| id(name)).chain([id("me")]);
        self.share("me", nodes.collect())
    }

    fn share(&self, node: &str, nodes: BTreeSet<NodeId>) -> BTreeSet<StreamName> {
        let placed = placement::place(self.inventory.cameras.keys(), &nodes);
        placed.into_iter().filter(|(_, target)| *target == id(node)).map(|(stream, _)| stream).collect()
    }

    /// From now on that peer says that it delivers these.
    fn delivers(&mut self, node: &str, streams: &BTreeSet<StreamName>) {
        let reports: Vec<StreamReport> = streams.iter().map(|name| stream(name.as_str(), true, &[])).collect();
        self.peers.get_mut(node).expect("a peer").streams = reports.into();
    }

    fn events(&mut self) -> Vec<EventKind> {
        let taken = std::mem::take(&mut self.effects).into_iter();
        let kind = |effect| if let Effect::Announce(event) = effect { Some(event.what) } else { None };
        taken.filter_map(kind).collect()
    }
}

#[test]
fn a_node_pulls_its_share_once_it_has_settled_and_not_before_it_knows_what_is_there() {
    let mut site = Site::new("");
    site.tell_inventory();
    site.pass(8);
    assert!(site.paths.is_empty(), "MediaMTX was not compared yet");
    site.compare();
    assert_eq!(site.paths, site.mine());
    assert!(!site.paths.is_empty() && site.paths.len() < NAMES.len());
    let mut young = Site::new("");
    young.tell_inventory();
    young.compare();
    young.pass(3);
    assert!(young.paths.is_empty(), "who starts does not know yet who else is there");
}

#[test]
fn cameras_of_a_node_that_dies_are_taken_over_and_named_and_those_of_a_suspect_are_not() {
    let mut site = Site::at_work("");
    let all = [id("a"), id("b"), id("me")];
    site.delivers("a", &site.share("a", all.clone().into()));
    site.pass(1);
    let before = site.paths.clone();
    site.peers.get_mut("a").expect("there").alive = false;
    site.pass(3);
    assert_eq!(site.paths, before, "it may be back in a moment");
    site.peers.get_mut("b").expect("there").load.as_mut().expect("set").suspects = vec![id("a")];
    site.events();
    site.pass(5);
    assert_eq!(site.paths, site.mine());
    let more: Vec<StreamName> = site.paths.difference(&before).cloned().collect();
    assert!(!more.is_empty());
    assert!(site.events().contains(&EventKind::CamerasTaken { streams: more, from: Some(id("a")) }));
}

#[test]
fn a_camera_moves_only_once_its_next_owner_delivers_it_and_is_claimed_by_one_at_a_time() {
    let mut site = Site::at_work("");
    let joined = Peer { node: id("late"), ..site.peers["a"].clone() };
    let joined = Peer { facts: peer("late", Role::Ingestion).facts, ..joined };
    site.peers.insert("late", joined);
    let (before, after) = (site.paths.clone(), site.mine());
    let leaving: BTreeSet<StreamName> = before.difference(&after).cloned().collect();
    assert!(!leaving.is_empty(), "the test needs another name for the node that comes");
    site.pass(30);
    assert!(site.paths.is_superset(&leaving), "nobody else delivers them");
    let owned = |site: &Site| -> BTreeSet<StreamName> {
        let mine = site.world.node.streams_by_node().into_iter().filter(|(node, _)| *node == id("me"));
        let names = |streams: Arc<[StreamReport]>| {
            streams.iter().filter(|stream| stream.owned).map(|stream| stream.name.clone()).collect::<Vec<_>>()
        };
        mine.flat_map(|(_, streams)| names(streams)).collect()
    };
    assert!(owned(&site).is_superset(&leaving));
    site.delivers("late", &leaving);
    site.pass(2);
    assert!(site.paths.is_superset(&leaving), "its readers are still on their way");
    assert!(owned(&site).is_disjoint(&leaving), "and are all sent to the next owner");
    let look_before = (0..3).find_map(|_| {
        let look = site.sample();
        site.pass(1);
        (site.paths == after).then_some(look)
    });
    let late = look_before.expect("it lets go");
    let at = site.world.now.mono;
    site.apply(Event::Server(Ok(ServerSample { at, ..late })));
    assert!(owned(&site).is_disjoint(&leaving), "a look from before they went is no claim");
}

#[test]
fn workers_are_led_over_before_a_camera_goes_to_a_node_that_came() {
    let mut site = Site::at_work("");
    let joined = Peer { facts: peer("late", Role::Ingestion).facts, node: id("late"), ..site.peers["a"].clone() };
    site.peers.insert("late", joined);
    let leaving: BTreeSet<StreamName> = site.paths.difference(&site.mine()).cloned().collect();
    let camera = leaving.first().expect("some").clone();
    let reads = |site: &mut Site, node: &'static str, role: Role, leg: Option<&str>| {
        let legs: Vec<(&str, &str)> = leg.map(|leg| ("w1", leg)).into_iter().collect();
        let report = stream(camera.as_str(), role == Role::Ingestion, &legs);
        let others = leaving.iter().filter(|name| role == Role::Ingestion && **name != camera);
        let streams = others.map(|name| stream(name.as_str(), true, &[])).chain([report]).collect();
        site.peers.entry(node).or_insert_with(|| peer(node, role)).streams = streams;
    };
    reads(&mut site, "d", Role::Distribution, Some("leg1"));
    site.pulls.insert(("d", camera.clone()));
    site.pass(7);
    let orders = |site: &mut Site| -> Vec<(MoveReason, String, NodeId)> {
        let legs = site.events().into_iter().filter_map(|event| match event {
            EventKind::DrainMove(order) => Some(order.legs),
            _ => None,
        });
        legs.flatten().map(|leg| (leg.reason, leg.leg.to_string(), leg.candidates[0].node.clone())).collect()
    };
    assert_eq!(orders(&mut site), [], "nobody else delivers it");

    site.delivers("late", &leaving);
    site.pass(10);
    assert_eq!(orders(&mut site), [(MoveReason::OwnerChanges, "leg1".to_owned(), id("late"))]);
    assert!(site.paths.contains(&camera), "its worker is not on its way yet");
    let others: Vec<&StreamName> = leaving.iter().filter(|name| **name != camera).collect();
    assert!(others.iter().all(|name| !site.paths.contains(*name)), "nobody waits for another's worker");
    assert!(site.world.node.changing_hands.under_way.is_some());

    reads(&mut site, "d", Role::Distribution, None);
    reads(&mut site, "late", Role::Ingestion, Some("leg2"));
    site.pass(2);
    let ended =
        |effect: &Effect| matches!(effect, Effect::Disconnect { session, .. } if session.starts_with("pull d "));
    assert!(site.effects.iter().any(ended), "its distribution node is to ask anew");
    assert!(site.paths.contains(&camera));
    site.pulls.clear();
    site.pass(2);
    assert_eq!(orders(&mut site), [(MoveReason::OwnerChanged, "leg2".to_owned(), id("d"))]);
    reads(&mut site, "late", Role::Ingestion, None);
    reads(&mut site, "d", Role::Distribution, Some("leg3"));
    site.pass(3);
    assert!(!site.paths.contains(&camera));
    let record = site.events().into_iter().find_map(|event| match event {
        EventKind::CamerasHandedOver { record, .. } => record,
        _ => None,
    });
    let record = record.expect("it is said");
    assert_eq!(record.moved.keys().cloned().collect::<BTreeSet<_>>(), leaving);
    assert_eq!((record.workers, record.cut.len()), (1, 0));
    assert!(site.world.node.changing_hands.under_way.is_none());
}

#[test]
fn a_drain_that_begins_while_cameras_change_hands_takes_their_place() {
    let mut site = Site::at_work("");
    let joined = Peer { facts: peer("late", Role::Ingestion).facts, node: id("late"), ..site.peers["a"].clone() };
    site.peers.insert("late", joined);
    let leaving: BTreeSet<StreamName> = site.paths.difference(&site.mine()).cloned().collect();
    site.delivers("late", &leaving);
    site.pass(7);
    assert!(site.world.node.changing_hands.under_way.is_some());
    site.effects.clear();
    site.apply(Event::DrainOrdered { ticket: Ticket(1), order: DrainOrder { force: true, reason: String::new() } });
    site.pass(1);
    assert!(site.world.node.changing_hands.under_way.is_none());
    assert!(site.effects.contains(&Effect::PublishMoves(None)));
    let mut paces = site.effects.iter().filter(|effect| matches!(effect, Effect::SetPace(_)));
    assert_eq!(paces.next_back(), Some(&Effect::SetPace(crate::node::effect::Pace::Brisk)));
}

#[test]
fn a_camera_that_serves_one_connection_is_let_go_of_first() {
    let mut site = Site::at_work("single_connection = true\n");
    let joined = Peer { facts: peer("late", Role::Ingestion).facts, node: id("late"), ..site.peers["a"].clone() };
    site.peers.insert("late", joined);
    site.pass(7);
    assert_eq!(site.paths, site.mine());
}

#[test]
fn a_node_in_a_drain_is_no_taker_and_holds_each_camera_until_another_delivers_it() {
    let mut site = Site::at_work("");
    let before = site.paths.clone();
    site.apply(Event::DrainOrdered { ticket: Ticket(1), order: DrainOrder { force: true, reason: String::new() } });
    site.pass(5);
    assert_eq!(site.paths, before);
}

#[test]
fn without_a_good_inventory_everything_stays_as_it_is_and_an_alarm_says_so() {
    let mut site = Site::at_work("");
    let before = site.paths.clone();
    site.apply(Event::Inventory(InventoryNews::Refused { problems: 2, first: "cameras.toml:1: x".into() }));
    site.pass(5);
    assert_eq!(site.paths, before);
    assert!(site.world.node.cameras.report().problem.is_some_and(|problem| problem.contains("cameras.toml:1")));
    assert!(site.events().iter().any(|event| matches!(event, EventKind::InventoryRefused { problems: 2, .. })));
    site.tell_inventory();
    assert_eq!(site.world.node.cameras.report().problem, None);

    let mut restarted = Site::new("");
    restarted.paths = before.clone();
    restarted.compare();
    restarted.apply(Event::Inventory(InventoryNews::Unavailable("gone".into())));
    restarted.pass(60);
    assert_eq!(restarted.paths, before, "paths of an earlier run are nobody else's yet");
}

#[test]
fn a_camera_whose_entry_is_wrong_stays_as_it_is_and_holds_up_no_other() {
    let mut site = Site::at_work("");
    let before = site.paths.clone();
    let broken = before.first().expect("some").clone();
    let text: String = NAMES
        .iter()
        .map(|name| {
            let scheme = if *name == broken.as_str() { "http" } else { "rtsp" };
            format!("[[camera]]\nname = \"{name}\"\nurl = \"{scheme}://10.0.0.2/{name}\"\n")
        })
        .collect();
    site.inventory = Arc::new(Inventory::parse(&text, "cameras.toml", &KEY).expect("a list of cameras"));
    site.events();
    site.tell_inventory();
    site.pass(5);
    assert_eq!(site.paths, before, "placed as ever");
    let orders = site.world.node.cameras.orders.as_ref().expect("some");
    assert_eq!((orders.keep.iter().collect::<Vec<_>>(), orders.pull.len()), (vec![&broken], before.len() - 1));
    let report = site.world.node.cameras.report();
    assert_eq!((report.wrong.first.as_slice(), report.listed), ([broken.clone()].as_slice(), 11));
    assert!(report.problem.is_some_and(|problem| problem.contains("camera.url")), "named with its line");
    let taken =
        |event: &EventKind| matches!(event, EventKind::InventoryTaken { cameras: 11, wrong, .. } if wrong.count == 1);
    assert!(site.events().iter().any(taken));

    // Its name cannot be read any more: nobody knows whose entry it is, so nothing is let go of for want of one.
    let nameless = text.replacen(&format!("name = \"{broken}\""), "nmae = \"x\"", 1);
    site.inventory = Arc::new(Inventory::parse(&nameless, "cameras.toml", &KEY).expect("a list of cameras"));
    site.tell_inventory();
    site.pass(5);
    assert!(site.paths.is_superset(&before), "{:?}", site.paths);
    site.inventory = inventory(&NAMES, "");
    site.tell_inventory();
    site.pass(5);
    assert!(site.paths.is_superset(&before), "{:?}", site.paths);
    assert_eq!(site.world.node.cameras.report().problem, None);
}

#[test]
fn a_camera_taken_out_of_the_inventory_goes_at_once() {
    let mut site = Site::at_work("");
    let gone = site.paths.first().expect("some").clone();
    let left: Vec<&str> = NAMES.into_iter().filter(|name| *name != gone.as_str()).collect();
    site.inventory = inventory(&left, "");
    site.tell_inventory();
    assert!(!site.paths.contains(&gone));
}

#[test]
fn paths_that_mediamtx_lost_are_asked_for_again() {
    let mut site = Site::at_work("");
    site.effects.clear();
    let had = std::mem::take(&mut site.paths);
    site.pass(3);
    assert!(site.effects.contains(&Effect::CheckPulls), "{had:?}");
}

#[test]
fn unreachable_cameras_are_named_and_hold_up_no_other() {
    let mut site = Site::at_work("");
    let away = site.paths.first().expect("some").clone();
    site.silent.insert(away.clone());
    site.events();
    site.pass(14);
    let report = site.world.node.cameras.report();
    assert_eq!((report.unreachable.count, &report.unreachable.first), (1, &vec![away.clone()]));
    assert_eq!(site.events(), [EventKind::CamerasUnreachable { streams: vec![away.clone()] }]);
    site.silent.clear();
    site.pass(1);
    assert_eq!(site.events(), [EventKind::CamerasReachable { streams: vec![away] }]);
}

#[test]
fn nodes_without_an_inventory_get_no_cameras() {
    let mut site = Site::new("");
    for peer in site.peers.values_mut() {
        peer.cameras = None;
    }
    site.tell_inventory();
    site.compare();
    site.pass(7);
    assert_eq!(site.paths, NAMES.map(name).into());
}
