//! Where the first words go: addresses from the configuration, from DNS, and from the registry.
//!
//! chitchat's own seeds are resolved before it starts, by the system's resolver; ours are looked up beside it, and
//! again as time goes by, so that start-up waits for nothing.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chitchat::ChitchatHandle;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use hickory_resolver::proto::rr::RData;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::counters::GossipCounters;

/// A name that takes longer is tried again at the next refresh.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses kept, so that a wild DNS answer costs little.
const MAX_ADDRESSES: usize = 1_024;
/// Seeds spoken to in one round while no peer is known.
const SEEDS_PER_ROUND: usize = 3;
/// With peers known, one seed that is not among them is spoken to every so many rounds: it heals a fleet that came up in
/// two halves.
const ROUNDS_BETWEEN_SEEDS: u32 = 10;

/// One entry of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seed {
    Address(SocketAddr),
    /// A and AAAA records.
    Host(String, u16),
    /// SRV records (RFC 2782), such as `_gossip._udp.fleet.example`; the ports are theirs.
    Service(String),
}

impl std::str::FromStr for Seed {
    type Err = InvalidSeed;

    fn from_str(text: &str) -> Result<Self, InvalidSeed> {
        let text = text.trim();
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let invalid = || InvalidSeed(text.to_owned());
        let is_name = |name: &str| {
            let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !name.is_empty() && name.len() < 254 && name.chars().all(fits)
        };
        if text.starts_with('_') {
            // The records hold the port; one given here as well is of no use.
            let name = text.split_once(':').map_or(text, |(name, _)| name);
            return if is_name(name) { Ok(Self::Service(name.to_owned())) } else { Err(invalid()) };
        }
        let (name, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let port = port.parse().ok().filter(|&port| port > 0).ok_or_else(invalid)?;
        if is_name(name) { Ok(Self::Host(name.to_owned(), port)) } else { Err(invalid()) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "seed {0:?} is not valid: write host:port, such as 10.0.0.5:7946 or seeds.example:7946, or an SRV name, such as \
         _gossip._udp.fleet.example"
)]
pub struct InvalidSeed(pub String);

/// Speaks to seeds until `handle`'s gossip ends.
pub struct Seeder {
    pub seeds: Vec<Seed>,
    /// Addresses that others hand in; the newest list counts.
    pub added: watch::Receiver<Vec<SocketAddr>>,
    /// Where this node is reached: never a seed.
    pub me: SocketAddr,
    pub round: Duration,
    pub refresh: Duration,
    pub counters: Arc<GossipCounters>,
}

impl Seeder {
    pub async fn run(self, handle: Arc<ChitchatHandle>) {
        let (looked_up, names) = watch::channel(BTreeSet::new());
        tokio::join!(self.look_up_for_ever(looked_up), self.speak_for_ever(&handle, names));
    }

    async fn speak_for_ever(&self, handle: &ChitchatHandle, names: watch::Receiver<BTreeSet<SocketAddr>>) {
        let mut rounds = tokio::time::interval(self.round);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut round = 0_u32;
        let mut last = None;
        loop {
            rounds.tick().await;
            round = round.wrapping_add(1);
            let live: BTreeSet<SocketAddr> = handle
                .with_chitchat(|chitchat| {
                    let me = chitchat.self_chitchat_id();
                    chitchat.live_nodes().filter(|id| *id != me).map(|id| id.gossip_advertise_addr).collect()
                })
                .await;
            let how_many = match live.is_empty() {
                true => SEEDS_PER_ROUND,
                false if round.is_multiple_of(ROUNDS_BETWEEN_SEEDS) => 1,
                false => continue,
            };
            let mut candidates = self.fixed();
            candidates.extend(names.borrow().iter());
            candidates.extend(self.added.borrow().iter().take(MAX_ADDRESSES));
            candidates.retain(|seed| {
                *seed != self.me && seed.is_ipv4() == self.me.is_ipv4() && seed.port() != 0 && !live.contains(seed)
            });
            for seed in next_in_turn(&candidates, last, how_many) {
                last = Some(seed);
                if handle.gossip(seed).is_err() {
                    return;
                }
            }
        }
    }

    fn fixed(&self) -> BTreeSet<SocketAddr> {
        let address = |seed: &Seed| if let Seed::Address(address) = seed { Some(*address) } else { None };
        self.seeds.iter().filter_map(address).collect()
    }

    async fn look_up_for_ever(&self, found: watch::Sender<BTreeSet<SocketAddr>>) {
        if self.seeds.iter().all(|seed| matches!(seed, Seed::Address(_))) {
            return;
        }
        loop {
            let begun = Instant::now();
            // Anew each time, so that a changed resolv.conf is seen.
            match resolver() {
                Ok(resolver) => {
                    let mut addresses = BTreeSet::new();
                    let mut all_failed = true;
                    for seed in &self.seeds {
                        match tokio::time::timeout(LOOKUP_TIMEOUT, look_up(&resolver, seed)).await {
                            Ok(Ok(some)) => {
                                all_failed = false;
                                addresses.extend(some);
                            }
                            Ok(Err(error)) => self.failed(seed, &error),
                            Err(_) => self.failed(seed, "no answer in time"),
                        }
                    }
                    // While DNS is away the last answer is better than none.
                    if !all_failed {
                        found.send_replace(addresses.into_iter().take(MAX_ADDRESSES).collect());
                    }
                }
                Err(error) => self.failed(&"the system's resolver", &error),
            }
            let nobody = found.borrow().is_empty();
            let pause = if nobody { self.refresh.min(LOOKUP_TIMEOUT) } else { self.refresh };
            tokio::time::sleep_until(begun + pause.max(Duration::from_secs(1))).await;
        }
    }

    fn failed(&self, seed: &dyn std::fmt::Debug, why: &(impl std::fmt::Display + ?Sized)) {
        GossipCounters::add(&self.counters.seed_lookup_failures, 1);
        tracing::debug!(?seed, %why, "seed not found; it is looked up again later");
    }
}

/// `how_many` of `candidates`, in order after `last` and round again.
fn next_in_turn(candidates: &BTreeSet<SocketAddr>, last: Option<SocketAddr>, how_many: usize) -> Vec<SocketAddr> {
    let is_after = |seed: &&SocketAddr| last.is_none_or(|last| **seed > last);
    let after = candidates.iter().filter(is_after);
    let before = candidates.iter().filter(|seed| !is_after(seed));
    after.chain(before).take(how_many).copied().collect()
}

fn resolver() -> Result<TokioResolver, String> {
    let mut builder = TokioResolver::builder_tokio().map_err(|error| error.to_string())?;
    builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    builder.build().map_err(|error| error.to_string())
}

async fn look_up(resolver: &TokioResolver, seed: &Seed) -> Result<Vec<SocketAddr>, String> {
    match seed {
        Seed::Address(_) => Ok(Vec::new()),
        Seed::Host(name, port) => {
            let found = resolver.lookup_ip(name.as_str()).await.map_err(|error| error.to_string())?;
            Ok(found.iter().map(|ip| SocketAddr::new(ip, *port)).collect())
        }
        Seed::Service(name) => {
            let found = resolver.srv_lookup(name.as_str()).await.map_err(|error| error.to_string())?;
            let mut addresses = Vec::new();
            for record in found.answers() {
                let RData::SRV(service) = &record.data else { continue };
                // One target that is gone must not hide the others.
                let Ok(target) = resolver.lookup_ip(service.target.clone()).await else { continue };
                addresses.extend(target.iter().map(|ip| SocketAddr::new(ip, service.port)));
                if addresses.len() >= MAX_ADDRESSES {
                    break;
                }
            }
            Ok(addresses)
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;
    use hickory_resolver::proto::op::{Message, ResponseCode};
    use hickory_resolver::proto::rr::rdata::{A, AAAA, SRV};
    use hickory_resolver::proto::rr::{Name, Record, RecordType};
    use tokio::net::UdpSocket;

    use super::*;

    /// A name server with one service of three targets, of which one is gone.
    async fn name_server(socket: UdpSocket) {
        let mut question = [0; 1_500];
        loop {
            let (length, from) = socket.recv_from(&mut question).await.unwrap();
            let mut message = Message::from_vec(&question[..length]).unwrap().into_response();
            let query = message.queries[0].clone();
            let name = query.name().to_string();
            let service = |target: &str, port| RData::SRV(SRV::new(0, 0, port, Name::from_ascii(target).unwrap()));
            let answers = match (name.as_str(), query.query_type()) {
                ("_gossip._udp.fleet.test.", RecordType::SRV) => {
                    vec![
                        service("a.fleet.test.", 7001),
                        service("gone.fleet.test.", 7002),
                        service("b.fleet.test.", 7003),
                    ]
                }
                ("a.fleet.test.", RecordType::A) => vec![RData::A(A::new(10, 0, 0, 1)), RData::A(A::new(10, 0, 0, 2))],
                ("b.fleet.test.", RecordType::AAAA) => vec![RData::AAAA(AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))],
                ("a.fleet.test." | "b.fleet.test.", _) => vec![],
                _ => {
                    message.metadata.response_code = ResponseCode::NXDomain;
                    vec![]
                }
            };
            message.add_answers(answers.into_iter().map(|data| Record::from_rdata(query.name().clone(), 60, data)));
            socket.send_to(&message.to_vec().unwrap(), from).await.unwrap();
        }
    }

    #[tokio::test]
    async fn services_and_hosts_are_looked_up_with_both_families_and_the_records_ports() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut connection = ConnectionConfig::udp();
        connection.port = socket.local_addr().unwrap().port();
        let server = NameServerConfig::new([127, 0, 0, 1].into(), true, vec![connection]);
        let config = ResolverConfig::from_parts(None, vec![], vec![server]);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        let resolver = builder.build().unwrap();
        let look_up = async |seed: &str| {
            let found = look_up(&resolver, &seed.parse().unwrap()).await;
            found.map(|found| found.into_iter().collect::<BTreeSet<_>>())
        };
        let addresses = |all: &[&str]| all.iter().map(|address| address.parse().unwrap()).collect::<BTreeSet<_>>();
        let questions = async {
            assert_eq!(
                look_up("_gossip._udp.fleet.test.").await,
                Ok(addresses(&["10.0.0.1:7001", "10.0.0.2:7001", "[2001:db8::1]:7003"]))
            );
            assert_eq!(look_up("a.fleet.test.:7946").await, Ok(addresses(&["10.0.0.1:7946", "10.0.0.2:7946"])));
            assert_eq!(look_up("b.fleet.test.:7946").await, Ok(addresses(&["[2001:db8::1]:7946"])));
            assert!(look_up("nobody.fleet.test.:7946").await.is_err());
        };
        tokio::select! {
            () = questions => {}
            () = name_server(socket) => unreachable!("it serves for ever"),
            () = tokio::time::sleep(Duration::from_secs(10)) => panic!("no answers in time"),
        }
    }

    #[test]
    fn entries_are_addresses_hosts_or_services() {
        assert_eq!("127.0.0.1:7946".parse(), Ok(Seed::Address(([127, 0, 0, 1], 7946).into())));
        assert!(matches!("[::1]:7946".parse(), Ok(Seed::Address(SocketAddr::V6(_)))));
        assert_eq!("seeds.example:7946".parse(), Ok(Seed::Host("seeds.example".into(), 7946)));
        assert_eq!("_gossip._udp.example".parse(), Ok(Seed::Service("_gossip._udp.example".into())));
        for bad in ["", "seeds.example", "seeds.example:0", "seeds.example:70000", "a b:1", ":7946", "10.0.0.5"] {
            assert_eq!(bad.parse::<Seed>(), Err(InvalidSeed(bad.into())), "{bad:?}");
        }
    }

    #[test]
    fn every_seed_has_its_turn() {
        let seed = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let all: BTreeSet<_> = [1, 2, 3, 4, 5].map(seed).into();
        assert_eq!(next_in_turn(&all, None, 3), [1, 2, 3].map(seed));
        assert_eq!(next_in_turn(&all, Some(seed(3)), 3), [4, 5, 1].map(seed));
        assert_eq!(next_in_turn(&all, Some(seed(5)), 2), [1, 2].map(seed));
        assert_eq!(next_in_turn(&[seed(9)].into(), Some(seed(9)), 3), [seed(9)]);
        assert_eq!(next_in_turn(&BTreeSet::new(), None, 3), []);
    }
}
