//! An orchestrator and machines that are to be replaced: Redis and the cloud are played here.

use mtxfleet_leader::cloud::{CloudAnswer, CloudCall, CloudError, Group, Instance, InstanceState};
use mtxfleet_leader::election::{LeaseAnswer, LeaseAsk};
use mtxfleet_leader::growing::{IntentAnswer, IntentAsk};
use mtxfleet_wire::InstanceId;

use super::super::cloud::CloudSettings;
use super::*;

struct Played {
    world: World,
    peers: Vec<Peer>,
    group: Vec<&'static str>,
    /// Seconds since the launch of each instance.
    age: u64,
    desired: Vec<u32>,
    /// The cloud gives a part of its listing only, and says so.
    lists_half: bool,
    drained: Vec<String>,
    ended: Vec<(String, bool)>,
    announced: Vec<(String, String)>,
}

fn instance_of(name: &str) -> InstanceId {
    InstanceId::new(format!("i-{name}")).expect("valid")
}

fn on_instance(name: &str) -> Peer {
    let mut peer = peer(name, Role::Distribution);
    peer.facts.as_mut().expect("set").instance = Some(instance_of(name));
    peer
}

impl Played {
    /// `me` acts for a cluster of itself and `others`.
    fn acting(others: &[&'static str]) -> Self {
        Self::with(settings(Role::Distribution), others)
    }

    fn with(mut settings: Settings, others: &[&'static str]) -> Self {
        settings.facts.instance = Some(instance_of("me"));
        settings.leadership.candidate = true;
        let second = Duration::from_secs(1);
        settings.cloud = Some(CloudSettings { poll_every: second, boot_deadline: second * 300 });
        let (mut world, effects) = World::with(settings, None);
        world.look(&[]);
        let peers = others.iter().map(|name| on_instance(name)).collect();
        let group = others.iter().copied().chain(["me"]).collect();
        let mut played = Self {
            world,
            peers,
            group,
            age: 100,
            desired: Vec::new(),
            lists_half: false,
            drained: Vec::new(),
            ended: Vec::new(),
            announced: Vec::new(),
        };
        played.play(effects);
        played.event(Event::Registry { reachable: true });
        played.run(20);
        played
    }

    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds * 2 {
            self.world.after(500);
            let at = self.world.now.mono;
            // Those that live report anew.
            for peer in self.peers.iter_mut().filter(|peer| peer.alive) {
                peer.load.iter_mut().for_each(|load| load.sampled.0 += 500);
            }
            self.event(Event::Server(Ok(ServerSample { at, ..ServerSample::default() })));
            self.event(Event::Peers(self.peers.clone()));
            self.event(Event::Tick);
        }
    }

    fn event(&mut self, event: Event) {
        let effects = self.world.apply(event);
        self.play(effects);
    }

    fn play(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Lease(order) => {
                    let answer = match order.ask {
                        LeaseAsk::Take { floor } => LeaseAnswer::Granted { epoch: floor + 1, wait: Duration::ZERO },
                        LeaseAsk::Renew { epoch } => LeaseAnswer::Granted { epoch, wait: Duration::ZERO },
                        LeaseAsk::Release { .. } => LeaseAnswer::Released,
                    };
                    self.event(Event::LeaseAnswered { number: order.number, answer });
                }
                Effect::SaveTerms(terms) => self.event(Event::TermsSaved { terms, done: true }),
                Effect::Intent(order) => {
                    let answer =
                        if order.ask == IntentAsk::Read { IntentAnswer::Found(None) } else { IntentAnswer::Done };
                    self.event(Event::IntentAnswered { number: order.number, answer });
                }
                Effect::PublishPlan(plan) => self.drained = plan.drains.keys().map(ToString::to_string).collect(),
                Effect::Cloud(ask) if self.lists_half && ask.call == CloudCall::Describe => {
                    let answer = Err(CloudError::Incomplete("2 instance(s)".into()));
                    self.event(Event::CloudAnswered { number: ask.number, answer });
                }
                Effect::Cloud(ask) => {
                    let answer = match ask.call {
                        CloudCall::Describe => CloudAnswer::Group(self.listing()),
                        CloudCall::End { instance, decrement } => {
                            self.ended.push((instance.to_string(), decrement));
                            CloudAnswer::Done
                        }
                        CloudCall::SetDesired { desired } => {
                            self.desired.push(desired);
                            CloudAnswer::Done
                        }
                    };
                    self.event(Event::CloudAnswered { number: ask.number, answer: Ok(answer) });
                }
                Effect::Announce(FleetEvent { node, what: EventKind::NodeReplaced { why, .. }, .. }) => {
                    self.announced.push((node.to_string(), why));
                }
                _ => {}
            }
        }
    }

    fn listing(&self) -> Group {
        let instance = |name: &&str| Instance {
            id: instance_of(name),
            state: InstanceState::InService,
            age: Some(Duration::from_secs(self.age)),
            node: None,
            zone: String::new(),
            protected: false,
        };
        let instances: Vec<Instance> = self.group.iter().map(instance).collect();
        Group { role: Role::Distribution, desired: instances.len() as u32, min: 1, max: 20, instances, keeps: None }
    }

    fn silence(&mut self, name: &str) {
        for peer in &mut self.peers {
            if peer.node.as_str() == name {
                peer.alive = false;
            } else if let Some(load) = &mut peer.load {
                load.suspects.push(id(name));
            }
        }
    }
}

#[test]
fn an_orchestrator_replaces_a_dead_machine_without_decrement_and_says_so_once() {
    let mut played = Played::acting(&["b", "c", "d"]);
    played.run(10);
    assert_eq!(played.ended, []);
    played.silence("d");
    played.run(20);
    assert_eq!(played.ended, [("i-d".to_owned(), false)]);
    assert_eq!(played.announced, [("d".to_owned(), "d is dead".to_owned())]);
}

#[test]
fn a_machine_that_stalls_for_a_second_is_never_replaced() {
    let mut played = Played::acting(&["b", "c", "d"]);
    for _ in 0..30 {
        let before = played.peers.clone();
        played.silence("d");
        played.run(1);
        played.peers = before;
        played.run(2);
    }
    assert_eq!((played.ended, played.announced), (vec![], vec![]));
}

#[test]
fn a_machine_that_asks_for_it_is_replaced() {
    let mut played = Played::acting(&["b", "c", "d"]);
    let ill = mtxfleet_wire::HealthReport {
        ills: vec![mtxfleet_wire::Ill::Disk],
        hopeless: true,
        ..mtxfleet_wire::HealthReport::default()
    };
    played.peers[0].load.as_mut().expect("said").health = Some(ill);
    played.run(20);
    assert_eq!(played.ended, [("i-b".to_owned(), false)]);
    assert_eq!(played.announced[0].1, "b asks to be replaced (disk)");
}

#[test]
fn half_of_the_cluster_silent_is_a_network_to_be_doubted() {
    let mut played = Played::acting(&["b", "c", "d"]);
    played.silence("c");
    played.silence("d");
    played.run(30);
    assert_eq!((played.ended, played.announced), (vec![], vec![]));
}

#[test]
fn a_successor_counts_what_its_predecessor_replaced() {
    let others = ["b", "c", "d", "e", "f", "g", "h", "i", "j"];
    let ill = || mtxfleet_wire::HealthReport {
        ills: vec![mtxfleet_wire::Ill::Disk],
        hopeless: true,
        ..mtxfleet_wire::HealthReport::default()
    };
    let mut first = Played::acting(&others);
    first.peers[0].load.as_mut().expect("said").health = Some(ill());
    first.run(10);
    assert_eq!(first.ended, [("i-b".to_owned(), false)]);
    let said = first.world.node.said_health.replaced.clone();
    assert_eq!(said.len(), 1, "it says so in its own report");

    let mut second = Played::acting(&others);
    let mut lately = vec![said[0].clone()];
    lately.extend(["x", "y"].map(|name| mtxfleet_wire::Replaced { instance: instance_of(name), seconds_ago: 60 }));
    let report = mtxfleet_wire::HealthReport { replaced: lately, ..mtxfleet_wire::HealthReport::default() };
    second.peers[0].load.as_mut().expect("said").health = Some(report);
    second.run(1);
    second.peers[1].load.as_mut().expect("said").health = Some(ill());
    second.run(20);
    assert_eq!(second.ended, [], "three were replaced lately, by whom is the same");
}

#[test]
fn an_instance_whose_agent_never_speaks_is_replaced_once_it_is_overdue_and_nothing_is_launched_beside() {
    let mut settings = settings(Role::Distribution);
    let policy = mtxfleet_leader::engine::Policy {
        min: 4,
        cpu_limit: None,
        ..mtxfleet_leader::distribution_orchestrator::policy()
    };
    settings.orchestrator = Some(mtxfleet_leader::Orchestrator::new(Role::Distribution, policy).expect("good"));
    let mut played = Played::with(settings, &["b", "c"]);
    // What was short of the least is launched, and mute.
    played.group.push("mute");
    played.age = 0;
    played.run(5);
    played.desired.clear();
    // It is listed anew every second, a second older.
    for second in 0..290 {
        played.age = second;
        played.run(1);
    }
    assert_eq!((played.ended.len(), played.desired.len()), (0, 0), "it may still boot");
    for second in 290..340 {
        played.age = second;
        played.run(1);
    }
    assert_eq!(played.ended, [("i-mute".to_owned(), false)]);
    assert!(played.desired.is_empty(), "the group launches another in its place, and nobody asks for one beside");
}

#[test]
fn on_half_a_listing_nothing_shrinks_and_the_decision_says_why() {
    let mut settings = settings(Role::Distribution);
    let window = Duration::from_secs(40);
    let policy = mtxfleet_leader::engine::Policy {
        min: 2,
        cpu_limit: None,
        down_window: window,
        ..mtxfleet_leader::distribution_orchestrator::policy()
    };
    settings.orchestrator = Some(mtxfleet_leader::Orchestrator::new(Role::Distribution, policy).expect("good"));
    let mut played = Played::with(settings, &["b", "c", "d"]);
    played.lists_half = true;
    played.run(100);
    let last = played.world.node.decision_views(Role::Distribution).pop().expect("decided");
    assert!(played.drained.is_empty(), "{last:#?}");
    assert!(last.reasons.iter().any(|reason| reason.contains("not complete: 2 instance(s)")), "{last:#?}");
    played.lists_half = false;
    // It asks again after a pause of a minute at most.
    played.run(90);
    assert!(!played.drained.is_empty(), "{:#?}", played.world.node.decision_views(Role::Distribution).pop());
}
