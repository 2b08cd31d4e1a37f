//! Cameras that the fleet connects to: which of them this node pulls, and when it lets go of one.
//!
//! ```text
//!  inventory (edge) --names--+
//!  takers: nodes in service, |--> placement (crate leader) --> mine: pull
//!  or those of the plan -----+                            \--> another's: pull on until that node delivers
//! ```
//! Every agent computes the same placement from the same inventory and the same nodes, and carries out its own part. A
//! camera moves **make before break**: its next owner pulls it beside the old one, which goes on until gossip shows the
//! next one delivering; from then on it claims the camera no longer, leads its workers over ([`super::changing_hands`]), and
//! lets go.
//!
//! Where two nodes do not agree (inventories that differ, gossip that is late), a camera may be pulled twice for a while,
//! never not at all: nobody lets go before another delivers. Which of the two is read is decided by their claims alike
//! everywhere, so nobody fights.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mtxfleet_leader::Member;
use mtxfleet_leader::placement::Placer;
use mtxfleet_leader::takers::{Fitness, Takers};
use mtxfleet_wire::{
    CamerasReport, EventKind, Liveness, LoadReport, Mono, NodeId, NodeState, Role, ServerHealth, StreamName,
};

use super::effect::{Effect, PullOrders};
use super::event::PullsReport;
use super::{Node, Now};
use crate::config::{Camera, Inventory};

/// A camera that delivers nothing for so long is said to be unreachable: two attempts of MediaMTX, 5 s apart.
const UNREACHABLE_AFTER: Duration = Duration::from_secs(12);

/// MediaMTX is compared again so often at most while it lacks a path: a look at it may be older than the last order.
const CHECK_EVERY: Duration = Duration::from_secs(2);

/// Streams that one event names; more of them make more events.
const NAMED_IN_AN_EVENT: usize = 200;

/// `[cameras]` of the configuration, as far as it is decided here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CameraSettings {
    pub settle: Duration,
    pub let_go_after: Duration,
}

/// What the inventory's edge says.
#[derive(Debug, Clone, PartialEq)]
pub enum InventoryNews {
    Taken(Arc<Inventory>),
    /// It is there, and wrong: how many errors, and the first.
    Refused {
        problems: u32,
        first: String,
    },
    /// It is not there, or cannot be asked for.
    Unavailable(String),
}

#[derive(Debug, Default)]
pub struct Cameras {
    inventory: Option<Arc<Inventory>>,
    problem: Option<String>,
    /// Paths in MediaMTX, as last compared; `None` before the first time.
    paths: Option<Arc<PullsReport>>,
    takers: Takers,
    /// Of the inventory that `placed` was made of.
    placer: Placer,
    placed: BTreeMap<StreamName, NodeId>,
    /// Of which inventory and which nodes `placed` was made.
    placed_of: Option<(String, BTreeSet<NodeId>)>,
    /// Cameras of ours that another node is to have, and since when it delivers them.
    elsewhere: BTreeMap<StreamName, Mono>,
    orders: Option<PullOrders>,
    /// Cameras pulled here that deliver nothing, and since when.
    silent: BTreeMap<StreamName, Mono>,
    unreachable: BTreeSet<StreamName>,
    checked: Option<Mono>,
}

/// Why a camera that another node is to have is still pulled here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holding {
    /// There is no inventory, or nobody takes cameras: nobody is to have it.
    NobodyIsToHaveIt,
    NobodyElseDelivers,
    /// Readers are on their way to it.
    OwnerIsNew,
    /// Its workers are led over first.
    ReadersHere,
}

impl Cameras {
    /// Whether another node is to have it and delivers it: it is claimed here no longer.
    pub(super) fn is_withdrawn(&self, stream: &StreamName) -> bool {
        self.elsewhere.contains_key(stream)
    }

    /// Cameras pulled here that another node is to have and delivers.
    pub(super) fn delivered_elsewhere(&self) -> impl Iterator<Item = &StreamName> {
        let is_here = |stream: &&StreamName| self.paths.as_ref().is_some_and(|paths| paths.ours.contains(*stream));
        self.elsewhere.keys().filter(is_here)
    }

    pub(super) fn is_placed_at(&self, stream: &StreamName, node: &NodeId) -> bool {
        self.placed.get(stream) == Some(node)
    }

    /// Whether this camera's path is ours to add and delete.
    pub(super) fn manages(&self, stream: &StreamName) -> bool {
        let ordered = |orders: &PullOrders| orders.pull.iter().any(|camera| camera.name == *stream);
        self.paths.as_ref().is_some_and(|paths| paths.ours.contains(stream))
            || self.orders.as_ref().is_some_and(ordered)
    }

    /// For gossip.
    #[must_use]
    pub fn report(&self) -> CamerasReport {
        let none = PullsReport::default();
        let paths = self.paths.as_deref().unwrap_or(&none);
        CamerasReport {
            inventory: self.inventory.as_ref().map(|inventory| inventory.hash.clone()),
            listed: self.inventory.as_ref().map_or(0, |inventory| inventory.cameras.len() as u32),
            pulled: self.orders.as_ref().map_or(paths.ours.len(), |orders| orders.pull.len() + orders.keep.len())
                as u32,
            unreachable: self.unreachable.iter().collect(),
            in_the_way: paths.in_the_way.iter().collect(),
            refused: paths.refused.keys().collect(),
            wrong: self.inventory.iter().flat_map(|inventory| &inventory.wrong).collect(),
            problem: self.problem.clone(),
        }
    }
}

impl Node {
    pub(super) fn inventory_came(&mut self, now: Now, news: InventoryNews, effects: &mut Vec<Effect>) {
        let kind = match news {
            InventoryNews::Taken(inventory) => {
                let problems = &inventory.problems;
                let left_out = || format!("{} error(s), the first: {}", problems.errors().len(), problems.first());
                self.cameras.problem = (!problems.is_empty()).then(left_out);
                let known = self.cameras.inventory.as_ref().map(|known| &known.hash);
                let kind = EventKind::InventoryTaken {
                    hash: inventory.hash.clone(),
                    cameras: inventory.cameras.len() as u32,
                    wrong: inventory.wrong.iter().collect(),
                };
                let is_new = known != Some(&inventory.hash);
                self.cameras.inventory = Some(inventory);
                is_new.then_some(kind)
            }
            InventoryNews::Refused { problems, first } => {
                self.cameras.problem = Some(format!("it is not in force: {problems} error(s), the first: {first}"));
                Some(EventKind::InventoryRefused { problems, first })
            }
            InventoryNews::Unavailable(why) => {
                let problem = Some(format!("it is not in force: {why}"));
                let is_new = self.cameras.problem != problem;
                self.cameras.problem = problem;
                is_new.then_some(EventKind::InventoryRefused { problems: 0, first: why })
            }
        };
        effects.extend(kind.map(|kind| Effect::Announce(self.event(now, kind))));
    }

    pub(super) fn paths_compared(&mut self, paths: PullsReport) {
        self.cameras.paths = Some(Arc::new(paths));
    }

    /// Decides what is pulled here, and says what became of it.
    pub(super) fn tend_cameras(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Some(settings) = self.settings.cameras else { return };
        self.place_cameras(now.mono, settings);
        let Some(paths) = self.cameras.paths.clone() else { return };
        self.look_elsewhere(now.mono, &paths);
        self.go_on_handing_over(now, effects);
        let orders = self.pull_orders(now.mono, settings, &paths);
        if self.cameras.orders.as_ref() != Some(&orders) {
            self.say_taken(now, &orders, &paths, effects);
            self.cameras.orders = Some(orders.clone());
            self.cameras.checked = Some(now.mono);
            effects.push(Effect::Pull(orders));
        }
        self.watch_pulls(now, &paths, effects);
    }

    fn place_cameras(&mut self, now: Mono, settings: CameraSettings) {
        let seen = self.fitness();
        let planned = self.plan_obeyed().map(|plan| plan.takers.clone());
        let steady = self.cameras.takers.look(now, settings.settle, &seen).clone();
        // The plan may be older than the last death: whom it names must be there, too.
        let both = planned.map(|planned| steady.intersection(&planned).cloned().collect::<BTreeSet<_>>());
        let takers = both.filter(|both| !both.is_empty()).unwrap_or(steady);
        let Some(inventory) = &self.cameras.inventory else { return };
        let of = (inventory.hash.clone(), takers);
        if self.cameras.placed_of.as_ref() != Some(&of) {
            let known = self.cameras.placed_of.as_ref().is_some_and(|(hash, _)| *hash == of.0);
            if !known {
                self.cameras.placer = Placer::new(inventory.names());
            }
            self.cameras.placed = self.cameras.placer.place(&of.1);
            self.cameras.placed_of = Some(of);
        }
    }

    fn fitness(&self) -> BTreeMap<NodeId, Fitness> {
        let of_role = |member: &&Member| {
            member.peer.facts.as_ref().is_some_and(|facts| facts.role == Role::Ingestion)
                && member.liveness != Liveness::Dead
        };
        let other = |member: &Member| {
            let has_inventory = member.peer.cameras.as_ref().is_some_and(|cameras| cameras.inventory.is_some());
            let heard = member.liveness == Liveness::Alive;
            (member.peer.node.clone(), fitness(heard, has_inventory, member.peer.load.as_ref()))
        };
        let mut seen: BTreeMap<NodeId, Fitness> = self.fleet.members().filter(of_role).map(other).collect();
        let mine = match (self.state, &self.server.health) {
            _ if self.cameras.inventory.is_none() => Fitness::Out,
            (NodeState::Active, ServerHealth::Up) => Fitness::Fit,
            (NodeState::Active, _) => Fitness::InDoubt,
            (NodeState::Draining | NodeState::Offline, _) => Fitness::Out,
        };
        seen.insert(self.settings.id.clone(), mine);
        seen
    }

    /// Notes which of our cameras are delivered by the node that is to have them. One that was let go of stays noted for
    /// as long as it is in the last look at MediaMTX, which may be older than that: it is not claimed once more.
    fn look_elsewhere(&mut self, now: Mono, paths: &PullsReport) {
        let before = std::mem::take(&mut self.cameras.elsewhere);
        let let_go_of = before.keys().filter(|stream| !paths.ours.contains(*stream) && self.has_path(stream));
        let delivered = paths.ours.iter().chain(let_go_of).filter(|stream| {
            let target = self.cameras.placed.get(*stream).filter(|target| **target != self.settings.id);
            let member = target.and_then(|target| self.fleet.get(target));
            member.filter(|member| member.liveness == Liveness::Alive).is_some_and(|member| delivers(member, stream))
        });
        let since = |stream: &StreamName| (stream.clone(), before.get(stream).copied().unwrap_or(now));
        self.cameras.elsewhere = delivered.map(since).collect();
    }

    fn pull_orders(&self, now: Mono, settings: CameraSettings, paths: &PullsReport) -> PullOrders {
        if self.state == NodeState::Offline {
            return PullOrders::default();
        }
        let Some(inventory) = &self.cameras.inventory else {
            return PullOrders { pull: Vec::new(), keep: paths.ours.clone() };
        };
        let handed_over: BTreeSet<StreamName> = self.let_go().into_iter().collect();
        let is_here = |stream: &StreamName, single_connection| match self.cameras.placed.get(stream) {
            Some(target) if *target == self.settings.id => true,
            _ if !paths.ours.contains(stream) || handed_over.contains(stream) => false,
            _ => self.may_release(now, settings, stream, single_connection).is_err(),
        };
        let is_pulled = |camera: &&Arc<Camera>| is_here(&camera.name, camera.single_connection);
        // It may have a good entry on another node, which then takes it over like any other.
        let is_kept = |stream: &&StreamName| inventory.is_unread(stream) && is_here(stream, false);
        PullOrders {
            pull: inventory.cameras.values().filter(is_pulled).cloned().collect(),
            keep: paths.ours.iter().filter(is_kept).cloned().collect(),
        }
    }

    /// Whether a camera of ours that another node is to have may go from here now.
    fn may_release(
        &self,
        now: Mono,
        settings: CameraSettings,
        stream: &StreamName,
        single_connection: bool,
    ) -> Result<(), Holding> {
        let target = self.cameras.placed.get(stream).ok_or(Holding::NobodyIsToHaveIt)?;
        let target_lives = self.fleet.get(target).is_some_and(|member| member.liveness == Liveness::Alive);
        if single_connection && target_lives {
            return Ok(());
        }
        let since = self.cameras.elsewhere.get(stream).ok_or(Holding::NobodyElseDelivers)?;
        if now.since(*since) < settings.let_go_after {
            return Err(Holding::OwnerIsNew);
        }
        if self.may_let_go(stream) { Ok(()) } else { Err(Holding::ReadersHere) }
    }

    /// What is pulled here and was not before, by who had it.
    fn say_taken(&mut self, now: Now, orders: &PullOrders, paths: &PullsReport, effects: &mut Vec<Effect>) {
        let before: BTreeSet<StreamName> = match &self.cameras.orders {
            Some(orders) => orders.pull.iter().map(|camera| camera.name.clone()).collect(),
            None => paths.ours.clone(),
        };
        let mut taken: BTreeMap<Option<NodeId>, Vec<StreamName>> = BTreeMap::new();
        let new = orders.pull.iter().filter(|camera| !before.contains(&camera.name));
        for stream in new.map(|camera| &camera.name) {
            let had_it = |member: &&Member| member.peer.streams.iter().any(|s| s.owned && s.name == *stream);
            let from = self.fleet.members().find(had_it).map(|member| member.peer.node.clone());
            taken.entry(from).or_default().push(stream.clone());
        }
        for (from, streams) in taken {
            for streams in streams.chunks(NAMED_IN_AN_EVENT) {
                let kind = EventKind::CamerasTaken { streams: streams.to_vec(), from: from.clone() };
                effects.push(Effect::Announce(self.event(now, kind)));
            }
        }
    }

    /// After a restart MediaMTX has none of our paths; a camera that is away is named.
    fn watch_pulls(&mut self, now: Now, paths: &PullsReport, effects: &mut Vec<Effect>) {
        let (Some(orders), Some(_)) = (&self.cameras.orders, self.server.looked) else { return };
        let in_server: BTreeMap<&str, bool> =
            self.server.sample.paths.iter().map(|path| (path.name.as_str(), path.available)).collect();
        let pulled = || orders.pull.iter().map(|camera| &camera.name).filter(|stream| paths.ours.contains(*stream));
        let lacks = pulled().any(|stream| !in_server.contains_key(stream.as_str()));
        if lacks && self.cameras.checked.is_none_or(|checked| now.mono.since(checked) >= CHECK_EVERY) {
            self.cameras.checked = Some(now.mono);
            effects.push(Effect::CheckPulls);
        }
        let mut before = std::mem::take(&mut self.cameras.silent);
        for stream in pulled().filter(|stream| in_server.get(stream.as_str()) != Some(&true)) {
            let since = before.remove(stream).unwrap_or(now.mono);
            self.cameras.silent.insert(stream.clone(), since);
        }
        let over = |(stream, since): (&StreamName, &Mono)| {
            (now.mono.since(*since) >= UNREACHABLE_AFTER).then(|| stream.clone())
        };
        let unreachable: BTreeSet<StreamName> = self.cameras.silent.iter().filter_map(over).collect();
        let came: Vec<StreamName> = unreachable.difference(&self.cameras.unreachable).cloned().collect();
        let delivers = |stream: &&StreamName| in_server.get(stream.as_str()) == Some(&true);
        let went: Vec<StreamName> =
            self.cameras.unreachable.difference(&unreachable).filter(delivers).cloned().collect();
        self.cameras.unreachable = unreachable;
        for streams in came.chunks(NAMED_IN_AN_EVENT) {
            let kind = EventKind::CamerasUnreachable { streams: streams.to_vec() };
            effects.push(Effect::Announce(self.event(now, kind)));
        }
        for streams in went.chunks(NAMED_IN_AN_EVENT) {
            let kind = EventKind::CamerasReachable { streams: streams.to_vec() };
            effects.push(Effect::Announce(self.event(now, kind)));
        }
    }
}

fn fitness(heard: bool, has_inventory: bool, load: Option<&LoadReport>) -> Fitness {
    match load {
        _ if !heard => Fitness::InDoubt,
        None => Fitness::InDoubt,
        Some(load) if load.state != NodeState::Active || !has_inventory => Fitness::Out,
        Some(load) if load.server == ServerHealth::Up => Fitness::Fit,
        Some(_) => Fitness::InDoubt,
    }
}

fn delivers(member: &Member, stream: &StreamName) -> bool {
    member.peer.streams.iter().any(|report| report.name == *stream && report.owned && report.ready && report.flowing)
}

#[cfg(test)]
mod tests;
