//! The one task that owns the [`Node`]: select, apply, perform. It awaits and decides nothing.
//!
//! Whatever is slow (MediaMTX, Redis, webhooks) runs in its edge's own task and comes back as an event.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mtxfleet_leader::cloud::CloudError;
use mtxfleet_leader::election::LeaseAnswer;
use mtxfleet_leader::growing::IntentAnswer;
use mtxfleet_wire::{Control, DrainRefusal, DrainView, FleetEvent, MemberView, Role, Terms};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::config::ClusterKey;
use crate::edge::availability_file::AvailabilityFile;
use crate::edge::checks;
use crate::edge::clock::Clock;
use crate::edge::cloud::{Answered, CloudHandle};
use crate::edge::forwarder::Forwarder;
use crate::edge::gossip::Gossip;
use crate::edge::http::{EventFeed, HttpRequest, Snapshot};
use crate::edge::inventory;
use crate::edge::load_balancer::{AgentCheck, Poll};
use crate::edge::mediamtx::{LetGo, MediaMtx, Pulls, Warmer};
use crate::edge::registry::{AdmitRequest, RegistryEvent, RegistryHandle};
use crate::edge::resolver::Resolver;
use crate::edge::state_file::StateFile;
use crate::edge::system::MachineSampler;
use crate::edge::webhook::Webhooks;
use crate::node::cameras::InventoryNews;
use crate::node::controls::SavedControls;
use crate::node::draining::Saved;
use crate::node::effect::{Effect, Pace};
use crate::node::event::{Checked, Event, PullsReport, Ticket, Via};
use crate::node::fenced::FencedAnswer;
use crate::node::sample::{ServerProblem, ServerSample};
use crate::node::{Node, Now};

/// A step of a drain.
const BRISK: Duration = Duration::from_millis(100);
/// Machine figures are read this often.
const MACHINE_EVERY: Duration = Duration::from_secs(1);
/// Passing on a report, and leaving.
const STOP_WITHIN: Duration = Duration::from_secs(2);
/// An agent that ends with its drain still shows the record for this long: `mtxfleet drain --wait` looks every 250 ms.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// Everything outside that effects go to.
#[expect(missing_debug_implementations, reason = "its parts are not all Debug, and nobody prints it")]
pub struct Edges {
    pub gossip: Gossip,
    pub registry: Option<RegistryHandle>,
    /// `None` where no cloud is configured.
    pub cloud: Option<CloudHandle>,
    pub mediamtx: Arc<MediaMtx>,
    pub warmer: Warmer,
    pub let_go: LetGo,
    /// `None` where no inventory of cameras is configured.
    pub pulls: Option<Pulls>,
    pub cluster_key: ClusterKey,
    pub resolver: Option<Arc<Resolver>>,
    pub agent_check: Arc<AgentCheck>,
    pub webhooks: Webhooks,
    pub feed: EventFeed,
    pub snapshot: watch::Sender<Arc<Snapshot>>,
    pub state_file: StateFile<Saved>,
    pub terms_file: StateFile<Terms>,
    pub controls_file: StateFile<SavedControls>,
    pub machine: MachineSampler,
    /// Answers from this node's recordings that are under way.
    pub recordings_fetched: Arc<AtomicU32>,
    pub forwarder: Forwarder,
    pub availability: AvailabilityFile,
    /// `mediamtx.restart_command`; empty where none is configured.
    pub restart_command: Vec<String>,
    pub checked: mpsc::Sender<Checked>,
}

/// Everything outside that events come from.
#[expect(missing_debug_implementations, reason = "its parts are not all Debug, and nobody prints it")]
pub struct Inbox {
    pub peers: mpsc::Receiver<Vec<crate::node::event::Peer>>,
    /// `None` where no registry is configured.
    pub registry: Option<mpsc::Receiver<RegistryEvent>>,
    /// `None` where no cloud is configured.
    pub cloud: Option<mpsc::Receiver<Answered>>,
    pub polls: mpsc::Receiver<Poll>,
    /// `None` where the inventory is no file.
    pub inventory: Option<mpsc::Receiver<InventoryNews>>,
    pub paths: Option<mpsc::Receiver<PullsReport>>,
    pub http: mpsc::Receiver<HttpRequest>,
    pub looks: mpsc::Receiver<Result<ServerSample, ServerProblem>>,
    pub checked: mpsc::Receiver<Checked>,
}

#[expect(missing_debug_implementations, reason = "its parts are not all Debug, and nobody prints it")]
pub struct EventLoop {
    clock: Clock,
    cluster: String,
    node: Node,
    edges: Edges,
    pace: watch::Sender<Pace>,
    answers: HashMap<Ticket, oneshot::Sender<Result<DrainView, DrainRefusal>>>,
    tickets: u64,
    /// What effects brought about, for the node to hear next.
    happened: VecDeque<Event>,
    /// Answered once what they ordered is done.
    controls: Vec<Waiting>,
    machine_read: Option<Instant>,
    shown: Option<Instant>,
    /// Whether this node was the orchestrator of its role after the last event.
    acted: bool,
    /// A lease is free, and the others have not been told.
    is_lease_free: bool,
    exit: bool,
}

/// An agent that nobody hears must not keep a lease, nor be taken for one that is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "gossip has ended, so this agent hears nobody and nobody hears it; it ends, to be started again (systemd does that with \
     Restart=on-failure), and the log says above why"
)]
pub struct GossipEnded;

/// An order that nothing can refuse.
enum Waiting {
    Control(Role, oneshot::Sender<Control>),
    Protect(oneshot::Sender<MemberView>),
}

impl EventLoop {
    pub fn new(clock: Clock, cluster: String, node: Node, edges: Edges, pace: watch::Sender<Pace>) -> Self {
        Self {
            clock,
            cluster,
            node,
            edges,
            pace,
            answers: HashMap::new(),
            tickets: 0,
            happened: VecDeque::new(),
            controls: Vec::new(),
            machine_read: None,
            shown: None,
            acted: false,
            is_lease_free: false,
            exit: false,
        }
    }

    /// Runs until `stop` resolves, or a drain has ended and the configuration says that the agent ends then.
    ///
    /// # Errors
    /// [`GossipEnded`], with everything given back that another node can take up.
    pub async fn run(
        mut self,
        first: Vec<Effect>,
        mut inbox: Inbox,
        stop: impl Future<Output = ()>,
    ) -> Result<(), GossipEnded> {
        self.perform(first).await;
        let mut ended = Ok(());
        let mut stop = std::pin::pin!(stop);
        let mut next_tick = Instant::now();
        while !self.exit {
            let wake = self.wake();
            let event = tokio::select! {
                () = &mut stop => break,
                () = tokio::time::sleep_until(next_tick) => {
                    next_tick = Instant::now() + self.tick_every();
                    self.read_machine().await;
                    Event::Tick
                }
                () = tokio::time::sleep_until(wake) => Event::Tick,
                Some(look) = inbox.looks.recv() => Event::Server(look),
                Some(seen) = inbox.checked.recv() => Event::Checked(seen),
                peers = inbox.peers.recv() => match peers {
                    Some(peers) => Event::Peers(peers),
                    None => {
                        ended = Err(GossipEnded);
                        break;
                    }
                },
                Some(event) = from_some(&mut inbox.registry) => match self.of_registry(event) {
                    Some(event) => event,
                    None => continue,
                },
                Some((number, answer)) = from_some(&mut inbox.cloud) => Event::CloudAnswered { number, answer },
                Some(news) = from_some(&mut inbox.inventory) => Event::Inventory(news),
                Some(paths) = from_some(&mut inbox.paths) => Event::PathsCompared(paths),
                Some(poll) = inbox.polls.recv() => Event::BalancerPolled { who: poll.who, word: poll.said },
                Some(request) = inbox.http.recv() => self.of_http(request),
            };
            self.turn(event).await;
        }
        self.stop().await;
        ended
    }

    async fn turn(&mut self, event: Event) {
        let effects = self.node.apply(self.now(), event);
        let somebody_waits = !self.controls.is_empty()
            || effects.iter().any(|effect| matches!(effect, Effect::Announce(_) | Effect::Answer { .. }));
        if somebody_waits || self.shown.is_none_or(|shown| shown.elapsed() >= self.tick_every() / 2) {
            self.show();
        }
        self.perform(effects).await;
        while let Some(event) = self.happened.pop_front() {
            let effects = self.node.apply(self.now(), event);
            self.perform(effects).await;
        }
        // Who hears of it now asks for it at once, and need not find out at its next ask.
        if std::mem::take(&mut self.is_lease_free) {
            self.edges.gossip.tell().await;
        }
        // Who orchestrates is looked for by those that miss one.
        let acts = self.node.acts(self.clock.mono());
        if std::mem::replace(&mut self.acted, acts) != acts {
            self.show();
        }
        // Who asked may have gone.
        for waiting in std::mem::take(&mut self.controls) {
            match waiting {
                Waiting::Control(role, answer) => {
                    self.node.control(role).map(|control| answer.send(control.clone()));
                }
                Waiting::Protect(answer) => drop(answer.send(self.node.member_view(self.now()))),
            }
        }
    }

    /// Copies what the HTTP API shows. Not at every event: most looks at the API are seconds apart, and in a large
    /// fleet the copy costs more than the event.
    fn show(&mut self) {
        let now = self.now();
        self.shown = Some(Instant::now());
        if let Some(cloud) = &self.edges.cloud {
            cloud.stats().launched(&self.node.take_launched());
        }
        self.edges.snapshot.send_replace(Arc::new(Snapshot {
            node: self.node.member_view(now),
            fleet: self.node.fleet_view(now, &self.cluster),
            streams: self.node.streams_by_node(),
            drain: self.node.drain_view(now.mono),
            ready: self.node.readiness(),
            orchestrators: self.node.orchestrator_views(now.mono),
            decisions: self.node.all_decision_views(),
            decided: self.node.decided(),
            availability: self.node.availability(),
        }));
    }

    /// In order, since what must be on disk first stands first.
    async fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.perform_one(effect).await;
        }
    }

    async fn perform_one(&mut self, effect: Effect) {
        let edges = &mut self.edges;
        match effect {
            Effect::PublishLoad(load) => complain(edges.gossip.set_load(&load).await),
            Effect::PublishStreams(streams) => {
                edges.gossip.set_streams(&streams).await;
            }
            Effect::PublishDrain(drain) => complain(edges.gossip.set_drain(drain.as_ref()).await),
            Effect::PublishMoves(moves) => complain(edges.gossip.set_moves(moves.as_ref()).await),
            Effect::PersistControls(saved) => {
                if let Err(error) = edges.controls_file.save(Some(saved)).await {
                    tracing::error!(%error, "pauses and protection are not on disk; free space in node.state_dir");
                }
            }
            Effect::PublishPlan(plan) => complain(edges.gossip.set_plan(&plan).await),
            Effect::PublishDecisions(report) => complain(edges.gossip.set_decisions(&report).await),
            Effect::PublishControls(controls) => complain(edges.gossip.set_controls(&controls).await),
            Effect::Project(projection) => {
                edges.registry.as_ref().inspect(|registry| registry.project(projection));
            }
            Effect::Announce(event) => announce(edges, &event),
            Effect::Echo(event) => edges.feed.publish(&event),
            Effect::Admit { drain, node, role, serving, minimum, plan } => {
                let request = AdmitRequest { drain, node, role, serving, minimum, plan };
                edges.registry.as_ref().inspect(|registry| registry.admit(request));
            }
            Effect::ReleaseAdmission { node } => {
                edges.registry.as_ref().inspect(|registry| registry.release(node));
            }
            Effect::Persist(saved) => {
                if let Err(error) = edges.state_file.save(saved).await {
                    tracing::error!(%error, "the drain's state is not on disk; free space in node.state_dir");
                }
            }
            Effect::Lease(order) => match &edges.registry {
                Some(registry) => registry.lease(order),
                None => {
                    let answer = LeaseAnswer::Unreachable("no registry is configured".to_owned());
                    self.happened.push_back(Event::LeaseAnswered { number: order.number, answer });
                }
            },
            Effect::WriteFenced(writes) => match &edges.registry {
                Some(registry) => registry.write_fenced(writes),
                None => {
                    let answer = FencedAnswer::Unreachable("no registry is configured".to_owned());
                    self.happened.push_back(Event::FencedWritten { number: writes.number, answer });
                }
            },
            Effect::Cloud(ask) => match &edges.cloud {
                Some(cloud) => cloud.ask(ask),
                None => {
                    let answer = Err(CloudError::Failed("no cloud is configured".to_owned()));
                    self.happened.push_back(Event::CloudAnswered { number: ask.number, answer });
                }
            },
            Effect::Intent(order) => match &edges.registry {
                Some(registry) => registry.intent(order),
                None => {
                    let answer = IntentAnswer::Unreachable("no registry is configured".to_owned());
                    self.happened.push_back(Event::IntentAnswered { number: order.number, answer });
                }
            },
            Effect::SaveTerms(terms) => {
                let saved = edges.terms_file.save(Some(terms)).await;
                if let Err(error) = &saved {
                    tracing::error!(%error, "the terms are not on disk; free space in node.state_dir");
                }
                self.happened.push_back(Event::TermsSaved { terms, done: saved.is_ok() });
            }
            Effect::PublishTerms(terms) => complain(edges.gossip.set_terms(&terms).await),
            Effect::BalancerWord(word) => {
                edges.agent_check.set_word(word);
            }
            Effect::Owners(owners) => {
                edges.resolver.as_ref().inspect(|resolver| resolver.set_owners(owners));
            }
            Effect::KeepWarm(streams) => edges.warmer.set(streams),
            Effect::LetGo(streams) => edges.let_go.set(streams),
            Effect::CheckLetGo => edges.let_go.check(),
            Effect::Pull(orders) => {
                edges.pulls.as_ref().inspect(|pulls| pulls.order(orders));
            }
            Effect::CheckPulls => {
                edges.pulls.as_ref().inspect(|pulls| pulls.check());
            }
            Effect::PublishCameras(cameras) => complain(edges.gossip.set_cameras(&cameras).await),
            Effect::Disconnect { protocol, session } => {
                let mediamtx = Arc::clone(&edges.mediamtx);
                tokio::spawn(async move {
                    if let Err(error) = mediamtx.disconnect(protocol, &session).await {
                        tracing::warn!(%error, session, "not disconnected; it is asked again");
                    }
                });
            }
            Effect::Check(list) => {
                let (client, checked) = (edges.forwarder.client.clone(), edges.checked.clone());
                tokio::spawn(async move {
                    let seen = checks::check(list, &client).await;
                    let _ = checked.send(seen).await;
                });
            }
            Effect::RestartServer => {
                tokio::spawn(checks::restart_server(edges.restart_command.clone()));
            }
            Effect::KeepAvailability => edges.availability.save(self.node.availability_record()),
            Effect::ForwardReport { http, report } => edges.forwarder.forward(http, report),
            Effect::Answer { ticket, answer } => {
                if let Some(waiting) = self.answers.remove(&ticket) {
                    // Who asked may have gone.
                    let _ = waiting.send(answer);
                }
            }
            Effect::SetPace(pace) => {
                self.pace.send_replace(pace);
            }
            Effect::Exit => self.exit = true,
        }
    }

    fn of_registry(&mut self, event: RegistryEvent) -> Option<Event> {
        match event {
            RegistryEvent::Reachable(reachable) => Some(Event::Registry { reachable }),
            RegistryEvent::Admission { drain, answer } => Some(Event::Admission { drain, answer }),
            RegistryEvent::Intent { number, answer } => Some(Event::IntentAnswered { number, answer }),
            RegistryEvent::Lease { number, answer } => {
                self.is_lease_free = answer == LeaseAnswer::Released;
                Some(Event::LeaseAnswered { number, answer })
            }
            RegistryEvent::Fenced { number, answer } => Some(Event::FencedWritten { number, answer }),
            RegistryEvent::WorkerReport(report) => Some(Event::WorkerReport { report, via: Via::Registry }),
            RegistryEvent::Cameras(fields) => {
                Some(Event::Inventory(inventory::of_registry(&fields, &self.edges.cluster_key)))
            }
            RegistryEvent::Seeds(seeds) => {
                self.edges.gossip.add_seeds(seeds.iter().filter_map(|seed| seed.gossip.parse().ok()).collect());
                Some(Event::Registered(seeds.into_iter().map(|seed| seed.node).collect()))
            }
        }
    }

    fn of_http(&mut self, request: HttpRequest) -> Event {
        let mut ticket = |answer| {
            self.tickets += 1;
            self.answers.retain(|_, waiting| !waiting.is_closed());
            self.answers.insert(Ticket(self.tickets), answer);
            Ticket(self.tickets)
        };
        match request {
            HttpRequest::Drain { order, answer } => Event::DrainOrdered { ticket: ticket(answer), order },
            HttpRequest::Undrain { answer } => Event::UndrainOrdered { ticket: ticket(answer) },
            HttpRequest::Control { order, paused, answer } => {
                self.controls.push(Waiting::Control(order.role, answer));
                Event::ControlOrdered { order, paused }
            }
            HttpRequest::Protect { protected, answer } => {
                self.controls.push(Waiting::Protect(answer));
                Event::ProtectOrdered { protected }
            }
            HttpRequest::WorkerReport(report) => Event::WorkerReport { report, via: Via::Http },
        }
    }

    async fn read_machine(&mut self) {
        if self.machine_read.is_none_or(|read| read.elapsed() >= MACHINE_EVERY) {
            self.machine_read = Some(Instant::now());
            let sample = self.edges.machine.sample();
            let fetched = self.edges.recordings_fetched.load(Ordering::Relaxed);
            for event in [Event::Machine(sample), Event::RecordingsFetched(fetched)] {
                let effects = self.node.apply(self.now(), event);
                self.perform(effects).await;
            }
        }
    }

    fn tick_every(&self) -> Duration {
        match *self.pace.borrow() {
            Pace::Calm => Duration::from_secs(1),
            Pace::Brisk => BRISK,
        }
    }

    /// When the node wants to be asked next, between two ticks.
    fn wake(&self) -> Instant {
        let now = self.clock.mono();
        let wait = self.node.wake().map_or(Duration::from_secs(1), |wake| wake.since(now));
        Instant::now() + wait
    }

    fn now(&self) -> Now {
        Now { mono: self.clock.mono(), wall: Clock::wall() }
    }

    /// Stopping is not draining: the media goes on, and the load balancers keep the last word they heard.
    async fn stop(mut self) {
        let effects = self.node.stop(self.now());
        let is_release = |effect: &Effect| matches!(effect, Effect::Lease(order) if order.ask.is_release());
        let gives_up = effects.iter().any(is_release);
        self.perform(effects).await;
        self.edges.availability.flush(self.node.availability_record(), STOP_WITHIN).await;
        if let Some(registry) = &self.edges.registry {
            registry.flush(STOP_WITHIN).await;
        }
        if gives_up {
            self.edges.gossip.be_heard().await;
        }
        self.edges.webhooks.flush(STOP_WITHIN).await;
        if self.exit {
            tokio::time::sleep(LAST_LOOK).await;
        }
        // A drained node is gone for good as far as the others can tell; anyone else may be back in a moment.
        if self.node.is_offline() {
            self.edges.gossip.leave().await;
        } else {
            self.edges.gossip.stop().await;
        }
    }
}

fn announce(edges: &Edges, event: &FleetEvent) {
    tracing::info!(node = %event.node, event = event.what.name(), "announced");
    edges.feed.publish(event);
    edges.registry.as_ref().inspect(|registry| registry.announce(event));
    edges.webhooks.send(event);
}

fn complain<E: std::fmt::Display>(result: Result<(), E>) {
    if let Err(error) = result {
        tracing::warn!(%error, "not gossiped: the others keep what they heard last");
    }
}

async fn from_some<T>(events: &mut Option<mpsc::Receiver<T>>) -> Option<T> {
    match events {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
