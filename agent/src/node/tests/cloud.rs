//! A drained node and its instance.

use mtxfleet_leader::cloud::{CloudAnswer, CloudAsk, CloudCall, CloudError};
use mtxfleet_wire::InstanceId;

use super::super::cloud::CloudSettings;
use super::*;

fn drained() -> Saved {
    Saved::Offline(Box::new(serde_json::from_str(RECORD).expect("a record")))
}

const RECORD: &str = r#"{"schema":1,"drain":"d","node":"me","reason":"","forced":false,"outcome":"completed","started":1,
    "ended":2,"phases":[],"legs":[],"readers_disconnected":0,"viewers_left":0,"viewers_disconnected":0,
    "out_of_balancer_seconds":null}"#;

fn in_a_cloud(instance: Option<&str>) -> Settings {
    let second = Duration::from_secs(1);
    let mut settings = settings(Role::Distribution);
    settings.facts.instance = instance.map(|instance| InstanceId::new(instance).expect("valid"));
    settings.cloud = Some(CloudSettings { poll_every: second, boot_deadline: second });
    settings.exit_when_drained = true;
    settings
}

fn asked(effects: &[Effect]) -> Option<CloudAsk> {
    effects.iter().find_map(|effect| if let Effect::Cloud(ask) = effect { Some(ask.clone()) } else { None })
}

#[test]
fn a_drained_instance_ends_itself_with_decrement_and_asks_until_it_is_heard() {
    let (mut world, _) = World::with(in_a_cloud(Some("i-7")), Some(drained()));
    let ask = asked(&world.apply(Event::Tick)).expect("at once");
    let instance = InstanceId::new("i-7").expect("valid");
    assert_eq!((&ask.call, ask.not_after), (&CloudCall::End { instance, decrement: true }, None));
    let answer = Err(CloudError::Throttled("slow down".into()));
    assert_eq!(asked(&world.apply(Event::CloudAnswered { number: ask.number, answer })), None);
    let again = asked(&world.after(3_000).apply(Event::Tick)).expect("after a pause");
    world.apply(Event::CloudAnswered { number: again.number, answer: Ok(CloudAnswer::Done) });
    assert_eq!(asked(&world.after(3_000).apply(Event::Tick)), None);
    assert_eq!(world.node.state, NodeState::Offline);
}

#[test]
fn an_instance_that_the_cloud_keeps_is_back_in_service_and_says_why() {
    let (mut world, _) = World::with(in_a_cloud(Some("i-7")), Some(drained()));
    let ask = asked(&world.apply(Event::Tick)).expect("at once");
    let answer = Err(CloudError::Refused("the group is at its least".into()));
    let effects = world.apply(Event::CloudAnswered { number: ask.number, answer });
    assert_eq!(world.node.state, NodeState::Active);
    let why = effects.iter().find_map(|effect| match effect {
        Effect::Announce(FleetEvent { what: EventKind::NodeStateChanged { why, .. }, .. }) => Some(why.as_str()),
        _ => None,
    });
    assert_eq!(why, Some("the cloud does not let it end: the group is at its least"));
    assert!(effects.contains(&Effect::Persist(None)), "it is not drained any more: {effects:?}");
    assert_eq!(asked(&world.after(60_000).apply(Event::Tick)), None);
}

#[test]
fn an_agent_does_not_end_before_its_instance_does_and_one_without_an_instance_asks_for_nothing() {
    let mut world = World::draining(Role::Distribution);
    world.node.settings.exit_when_drained = true;
    world.node.cloud = Some(Cloud::new(in_a_cloud(None).cloud.expect("set"), &in_a_cloud(Some("i-7")).facts));
    let mut all = Vec::new();
    for _ in 0..600 {
        all.extend(world.after(1_000).look(&[]));
    }
    assert_eq!(world.node.state, NodeState::Offline);
    assert!(asked(&all).is_some() && !all.contains(&Effect::Exit));
    let (mut world, _) = World::with(in_a_cloud(None), Some(drained()));
    assert_eq!(asked(&world.apply(Event::Tick)), None);
}
