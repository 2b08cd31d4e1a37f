//! The loop with real edges on loopback, and nobody at their other ends.

use mtxfleet_wire::UnixMillis;

use super::*;
use crate::edge::gossip::GossipSettings;
use crate::edge::load_balancer::AgentCheckSettings;
use crate::edge::mediamtx::{MediaMtxSettings, WarmerSettings};
use crate::node::effect::BalancerWord;
use crate::node::tests::settings;

#[tokio::test]
async fn an_agent_whose_gossip_has_ended_ends_with_an_error() {
    crate::edge::tls::install_crypto();
    let dir = tempfile::tempdir().expect("a folder");
    let clock = Clock::start();
    let node_settings = settings(Role::Ingestion);
    let id = node_settings.id.clone();
    let here = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let gossip = GossipSettings {
        cluster: "lab".parse().expect("valid"),
        node: id.clone(),
        listen: here,
        advertise: here,
        keys: vec![[1; 32]],
        seeds: Vec::new(),
        interval: Duration::from_millis(200),
        phi: 8.0,
        dead_node_grace: Duration::from_secs(900),
        seed_refresh: Duration::from_secs(30),
        lose_in_1000: 0,
    };
    let (gossip, peers) = Gossip::start(gossip, UnixMillis(1)).await.expect("starts");
    let api = url::Url::parse("http://127.0.0.1:9").expect("valid");
    let mediamtx = MediaMtxSettings { api, credentials: None, timeout: Duration::from_secs(1) };
    let mediamtx = Arc::new(MediaMtx::new(mediamtx).expect("valid"));
    let file = |name| StateFile::open(dir.path(), name).expect("opened");
    let (polls_in, polls) = mpsc::channel(1);
    let agent_check = AgentCheck::start(AgentCheckSettings { listen: here }, BalancerWord::Down, polls_in).await;
    let starting = Snapshot::starting("lab", &id, UnixMillis(1));
    let (checked_in, checked) = mpsc::channel(1);
    let edges = Edges {
        gossip,
        registry: None,
        cloud: None,
        let_go: LetGo::start(
            Arc::clone(&mediamtx),
            StateFile::open(dir.path(), "paths.json").expect("opened"),
            Default::default(),
        ),
        mediamtx,
        warmer: Warmer::new(WarmerSettings { rtsp: "127.0.0.1:9".to_owned(), credentials: None, node: id, max: 1 }),
        pulls: None,
        cluster_key: ClusterKey::new([1; 32]),
        resolver: None,
        agent_check: Arc::new(agent_check.expect("listens")),
        webhooks: Webhooks::start(Vec::new()).expect("none"),
        feed: EventFeed::default(),
        snapshot: watch::channel(Arc::new(starting)).0,
        state_file: file("drain.json"),
        terms_file: StateFile::open(dir.path(), "terms.json").expect("opened"),
        controls_file: StateFile::open(dir.path(), "controls.json").expect("opened"),
        machine: MachineSampler::new(None),
        recordings_fetched: Arc::default(),
        forwarder: Forwarder { client: reqwest::Client::new(), token: None },
        availability: AvailabilityFile::new(dir.path()),
        restart_command: Vec::new(),
        checked: checked_in,
    };
    let (_requests, http) = mpsc::channel(1);
    let (_looks_in, looks) = mpsc::channel(1);
    let now = Now { mono: clock.mono(), wall: Clock::wall() };
    let (node, first) = Node::start(node_settings, None, now);
    // What is left of a task of gossip that panicked.
    drop(peers);
    let (_, ended) = mpsc::channel(1);
    let inbox =
        Inbox { peers: ended, registry: None, cloud: None, polls, inventory: None, paths: None, http, looks, checked };
    let event_loop = EventLoop::new(clock, "lab".to_owned(), node, edges, watch::channel(Pace::Calm).0);
    let run = event_loop.run(first, inbox, std::future::pending());
    let ended = tokio::time::timeout(Duration::from_secs(20), run).await.expect("it ends");
    assert_eq!(ended, Err(GossipEnded));
}
