//! Two legs at all times, each at another node: both go into one stitch, and whichever is first gives the next frame.
//!
//! Each leg has a [`Handover`] of its own, with the same rules; the second one's legs go to nodes that the agents name, away
//! from the first one's.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mtxfleet_wire::{FleetView, LegId, Liveness, NodeId, NodeState, Role, ServerHealth, StreamView, rendezvous_score};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use url::Url;

use crate::config::Settings;
use crate::handover::{Action, Handover, Input, Limits, State, Target};
use crate::notices::in_own_order;

/// How often the agents are asked where nodes and legs are.
const LOOK_EVERY: Duration = Duration::from_secs(1);

const ANSWER: Duration = Duration::from_secs(2);

/// Of an answer. 10,000 streams on one page are some 4 MiB.
const LARGEST: usize = 16 << 20;

/// Nodes tried for the second leg, one after another.
const MOST_HOMES: usize = 4;

/// Where distribution nodes and legs are, as an agent knows it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    /// Nodes in service, with `host:port` of their RTSP servers, and whether they have the stream.
    nodes: Vec<(NodeId, String, bool)>,
    legs: HashMap<LegId, NodeId>,
}

/// Asks the agents while it lives.
#[derive(Debug)]
pub(crate) struct Spread {
    places: watch::Receiver<Arc<Places>>,
    task: AbortHandle,
}

impl Drop for Spread {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Spread {
    pub(crate) fn start(settings: &Settings, http: reqwest::Client) -> Self {
        let (tell, places) = watch::channel(Arc::default());
        let settings = settings.clone();
        let task = tokio::spawn(async move {
            let mut agents: VecDeque<Url> = in_own_order(&settings.agents, &settings.worker).into();
            loop {
                match look(&http, agents.front(), &settings).await {
                    Ok(found) => {
                        tell.send_replace(Arc::new(found));
                    }
                    Err(why) => {
                        tracing::debug!(why, "an agent does not say where nodes are");
                        agents.rotate_left(1.min(agents.len()));
                    }
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        Self { places, task: task.abort_handle() }
    }

    /// The next look; never without one. Cancel-safe.
    pub(crate) async fn next(spread: &mut Option<Self>) -> Arc<Places> {
        let Some(spread) = spread else { return std::future::pending().await };
        if spread.places.changed().await.is_err() {
            // Its task ends with this value only.
            return std::future::pending().await;
        }
        spread.places.borrow_and_update().clone()
    }
}

async fn look(http: &reqwest::Client, agent: Option<&Url>, settings: &Settings) -> Result<Places, String> {
    let agent = agent.ok_or("no agent is known")?;
    let fleet: FleetView = get(http, agent, "fleet").await?;
    let streams: Vec<StreamView> = get(http, agent, "streams").await?;
    Ok(places(&fleet, &streams, settings.stream.as_str()))
}

async fn get<T: DeserializeOwned>(http: &reqwest::Client, agent: &Url, what: &str) -> Result<T, String> {
    let url = format!("{}/v1/{what}", agent.as_str().trim_end_matches('/'));
    let asked = async {
        let mut answer = http.get(url).send().await?.error_for_status()?;
        let mut body = Vec::new();
        while let Some(bytes) = answer.chunk().await? {
            body.extend_from_slice(&bytes);
            if body.len() > LARGEST {
                break;
            }
        }
        Ok::<_, reqwest::Error>(body)
    };
    let body = tokio::time::timeout(ANSWER, asked).await.map_err(|_| format!("no answer in {ANSWER:?}"))?;
    serde_json::from_slice(&body.map_err(|error| error.to_string())?).map_err(|error| error.to_string())
}

fn places(fleet: &FleetView, streams: &[StreamView], stream: &str) -> Places {
    let of_stream = || streams.iter().filter(|view| view.stream.name.as_str() == stream);
    let nodes = fleet.members.iter().filter_map(|member| {
        let (facts, load) = (member.facts.as_ref()?, member.load.as_ref()?);
        let serves = facts.role == Role::Distribution
            && member.liveness == Liveness::Alive
            && load.state == NodeState::Active
            && load.server == ServerHealth::Up;
        let warm = of_stream().any(|view| view.node == member.node && view.stream.ready);
        serves.then(|| (member.node.clone(), facts.rtsp.clone(), warm))
    });
    let legs = of_stream().flat_map(|view| view.stream.legs.iter().map(|leg| (leg.leg.clone(), view.node.clone())));
    Places { nodes: nodes.collect(), legs: legs.collect() }
}

/// One [`Handover`], or two, as the session sees them.
pub(crate) struct Handovers {
    first: Handover,
    second: Option<Handover>,
    limits: Limits,
    fresh_id: fn() -> LegId,
    warned: bool,
}

impl Handovers {
    pub(crate) fn new(limits: Limits, fresh_id: fn() -> LegId) -> Self {
        let first = Handover::new(Duration::ZERO, limits, Box::new(fresh_id));
        Self { first, second: None, limits, fresh_id, warned: false }
    }

    /// Reads where the stream is: one leg, that goes there.
    pub(crate) fn following(limits: Limits, fresh_id: fn() -> LegId, target: Target) -> Self {
        let homes = VecDeque::from([target.clone()]);
        let mut first = Handover::at(Duration::ZERO, limits, Box::new(fresh_id), homes);
        first.follow(Duration::ZERO, target);
        Self { first, second: None, limits, fresh_id, warned: false }
    }

    /// The stream is to be had there from now on.
    pub(crate) fn follow(&mut self, now: Duration, target: Target) {
        self.first.follow(now, target);
    }

    fn both(&self) -> impl Iterator<Item = &Handover> {
        std::iter::once(&self.first).chain(&self.second)
    }

    /// A leg that delivers.
    pub(crate) fn current(&self) -> Option<&LegId> {
        self.both().find_map(Handover::current)
    }

    /// Legs that deliver.
    pub(crate) fn legs(&self) -> usize {
        self.both().filter_map(Handover::current).count()
    }

    pub(crate) fn state(&self) -> State {
        let first = self.first.state();
        match &self.second {
            Some(second) if second.current().is_some() => match (first, second.state()) {
                (State::Live, State::Live) => State::Live,
                _ => State::Moving,
            },
            _ => first,
        }
    }

    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.both().filter_map(Handover::deadline).min()
    }

    pub(crate) fn last_errors(&self) -> String {
        self.first.last_errors()
    }

    pub(crate) fn actions(&mut self) -> Vec<Action> {
        let mut actions = self.first.actions();
        actions.extend(self.second.as_mut().map(Handover::actions).unwrap_or_default());
        actions
    }

    /// Each takes what is its own: legs are named, and events count once for each.
    pub(crate) fn apply(&mut self, now: Duration, input: Input<'_>) {
        if let Some(second) = &mut self.second {
            second.apply(now, input.clone());
        }
        self.first.apply(now, input);
    }

    /// Keeps the second leg away from the first one's node.
    pub(crate) fn spread(&mut self, now: Duration, places: &Places, settings: &Settings) {
        let Some(first) = self.first.current().and_then(|leg| places.legs.get(leg)) else { return };
        let homes = homes(places, first, settings);
        if homes.is_empty() {
            if !std::mem::replace(&mut self.warned, true) {
                tracing::warn!("there is no second node in service for the second leg");
            }
            return;
        }
        self.warned = false;
        match &mut self.second {
            None => {
                let handover = Handover::at(now, self.limits, Box::new(self.fresh_id), homes);
                self.second = Some(handover);
            }
            Some(second) => {
                second.set_homes(homes.clone());
                if second.current().and_then(|leg| places.legs.get(leg)) == Some(first) {
                    second.apply(now, Input::Elsewhere(homes));
                }
            }
        }
    }
}

/// Nodes for the second leg, best first: those that have the stream before those that would have to fetch it, in an
/// order of this worker's own.
fn homes(places: &Places, but: &NodeId, settings: &Settings) -> VecDeque<Target> {
    let mut nodes: Vec<_> = places.nodes.iter().filter(|(node, ..)| node != but).collect();
    let key = format!("{}/{}", settings.worker, settings.stream);
    let score = |node: &NodeId| rendezvous_score(&key, node.as_str(), 1.0);
    nodes.sort_by(|a, b| b.2.cmp(&a.2).then(score(&b.0).total_cmp(&score(&a.0))));
    let target = |(node, rtsp, _): &(NodeId, String, bool)| Target::Node { node: node.clone(), rtsp: rtsp.clone() };
    nodes.into_iter().take(MOST_HOMES).map(target).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::config::StreamConfig;

    fn fresh() -> LegId {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        LegId::new(format!("leg-{}", COUNT.fetch_add(1, Ordering::Relaxed))).expect("valid")
    }

    fn node(name: &str) -> NodeId {
        NodeId::new(name).expect("valid")
    }

    fn settings() -> Settings {
        let config = StreamConfig {
            agents: vec!["http://127.0.0.1:1".into()],
            redundancy: 2,
            ..StreamConfig::new("cam1", "w", "rtsp://127.0.0.1", "lab")
        };
        Settings::try_from(config).expect("valid")
    }

    const NOW: Duration = Duration::from_secs(1);

    /// Opens what is asked for, with packets; where it went.
    fn carry_out(handovers: &mut Handovers, places: &mut Places) -> Vec<Target> {
        let mut opened = Vec::new();
        for action in handovers.actions() {
            match action {
                Action::Open { leg, target } => {
                    places.legs.insert(leg.clone(), target.node().cloned().unwrap_or_else(|| node("d1")));
                    handovers.apply(NOW, Input::Opened(&leg));
                    handovers.apply(NOW, Input::Packets(&leg));
                    handovers.apply(NOW, Input::Covered(&leg));
                    opened.push(target);
                }
                Action::Close { leg } => drop(places.legs.remove(&leg)),
                _ => {}
            }
        }
        opened
    }

    #[test]
    fn the_second_leg_goes_to_another_node_and_leaves_when_the_first_comes_there() {
        let limits = Limits { via: crate::config::Via::Direct, leg_timeout: NOW, cover_timeout: NOW };
        let mut places = Places {
            nodes: ["d1", "d2", "d3"].map(|name| (node(name), format!("{name}:8554"), name == "d3")).to_vec(),
            legs: HashMap::new(),
        };
        let mut handovers = Handovers::new(limits, fresh);
        handovers.spread(NOW, &places, &settings());
        assert_eq!(carry_out(&mut handovers, &mut places), [Target::StableUrl]);
        handovers.spread(NOW, &places, &settings());
        let warm = Target::Node { node: node("d3"), rtsp: "d3:8554".into() };
        assert_eq!(carry_out(&mut handovers, &mut places), [warm]);
        assert_eq!((handovers.legs(), handovers.state()), (2, State::Live));

        // The first one's node dies, and the balancer sends it to where the second is.
        let lost = handovers.first.current().cloned().expect("it reads");
        handovers.apply(NOW, Input::Ended(&lost, "killed".into()));
        assert_eq!((handovers.legs(), handovers.state()), (1, State::Moving));
        places.nodes.remove(0);
        places.legs.remove(&lost);
        handovers.apply(NOW + NOW, Input::Tick);
        for action in handovers.actions() {
            if let Action::Open { leg, .. } = action {
                places.legs.insert(leg.clone(), node("d3"));
                handovers.apply(NOW, Input::Opened(&leg));
                handovers.apply(NOW, Input::Packets(&leg));
            }
        }
        handovers.spread(NOW, &places, &settings());
        let other = Target::Node { node: node("d2"), rtsp: "d2:8554".into() };
        assert_eq!(carry_out(&mut handovers, &mut places), [other]);
        assert_eq!(handovers.legs(), 2);
        handovers.spread(NOW, &places, &settings());
        assert_eq!(carry_out(&mut handovers, &mut places), [], "they are apart");
    }
}
