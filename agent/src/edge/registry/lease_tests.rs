//! Leases, terms and fenced writes on a real Redis, with a replica where one matters.

use std::time::Duration;

use mtxfleet_leader::election::{LeaseAnswer, LeaseAsk, LeaseOrder};
use mtxfleet_wire::{ClusterName, DrainId, DrainRefusal, NodeId, RegistryKeys, Role, RunId, Token};
use redis::aio::MultiplexedConnection;
use tokio::sync::mpsc;

use super::test_redis::TestRedis;
use super::*;
use crate::node::fenced::{FencedAnswer, FencedWrites, Write};

const LIMIT: Duration = Duration::from_secs(10);
const ROLE: Role = Role::Distribution;
const TTL: Duration = Duration::from_secs(6);

fn keys() -> RegistryKeys {
    RegistryKeys::new(&ClusterName::new("test").expect("name"))
}

/// One agent's registry, which asks one thing at a time.
struct Asker {
    registry: RegistryHandle,
    events: mpsc::Receiver<RegistryEvent>,
    node: NodeId,
    run: RunId,
    ttl: Duration,
    number: u64,
}

impl Asker {
    fn new(redis: &TestRedis, node: &str, run: u64) -> Self {
        Self::waiting_for(redis, node, run, 0)
    }

    fn waiting_for(redis: &TestRedis, node: &str, run: u64, wait_replicas: u32) -> Self {
        let settings = RegistrySettings {
            cameras: false,
            url: redis.url(),
            cluster: ClusterName::new("test").expect("name"),
            timeout: Duration::from_secs(1),
            event_log_length: 200,
            wait_replicas,
        };
        let (registry, events) = Registry::start(settings).expect("starts");
        Self { registry, events, node: NodeId::new(node).expect("id"), run: RunId(run), ttl: TTL, number: 0 }
    }

    fn order(&mut self, ask: LeaseAsk) -> LeaseOrder {
        self.number += 1;
        LeaseOrder { number: self.number, role: ROLE, node: self.node.clone(), run: self.run, ttl: self.ttl, ask }
    }

    async fn ask(&mut self, ask: LeaseAsk) -> LeaseAnswer {
        let order = self.order(ask);
        self.registry.lease(order);
        self.next(|event| match event {
            RegistryEvent::Lease { number, answer } => Some((number, answer)),
            _ => None,
        })
        .await
    }

    async fn write(&mut self, epoch: u64, value: &str) -> FencedAnswer {
        let writes = vec![
            Write::Append { table: "decisions", length: 10, field: "decision", value: value.to_owned() },
            Write::Put { table: "intents", field: "x".to_owned(), value: value.to_owned() },
        ];
        self.number += 1;
        let token = Token { epoch, run: self.run };
        self.registry.write_fenced(FencedWrites { number: self.number, role: ROLE, token, writes });
        self.next(|event| match event {
            RegistryEvent::Fenced { number, answer } => Some((number, answer)),
            _ => None,
        })
        .await
    }

    async fn next<T>(&mut self, pick: impl Fn(RegistryEvent) -> Option<(u64, T)>) -> T {
        let found = async {
            loop {
                let event = self.events.recv().await.expect("the registry runs");
                if let Some((number, answer)) = pick(event)
                    && number == self.number
                {
                    return answer;
                }
            }
        };
        tokio::time::timeout(LIMIT, found).await.expect("an answer in time")
    }

    /// Takes the lease, which must be free.
    async fn take(&mut self, floor: u64) -> (u64, bool) {
        match self.ask(LeaseAsk::Take { floor }).await {
            LeaseAnswer::Granted { epoch, wait } => (epoch, !wait.is_zero()),
            other => panic!("not granted: {other:?}"),
        }
    }

    async fn reaches_redis(&mut self) {
        let reached =
            async { while self.events.recv().await.expect("the registry runs") != RegistryEvent::Reachable(true) {} };
        tokio::time::timeout(LIMIT, reached).await.expect("Redis is reached");
    }
}

async fn run(command: &mut redis::Cmd, on: &mut MultiplexedConnection) {
    command.exec_async(on).await.expect("Redis does it");
}

async fn number(command: &mut redis::Cmd, on: &mut MultiplexedConnection) -> i64 {
    command.query_async(on).await.expect("a number")
}

#[tokio::test]
async fn one_run_holds_a_lease_at_a_time_and_the_next_has_a_higher_number() {
    let Some(redis) = TestRedis::start().await else { return };
    let (mut a, mut b) = (Asker::new(&redis, "a", 1), Asker::new(&redis, "b", 2));
    let (first, past_lost) = a.take(0).await;
    assert!(past_lost, "nothing is known of before the first term");
    let LeaseAnswer::Held { by, left } = b.ask(LeaseAsk::Take { floor: 0 }).await else { panic!("held by a") };
    assert_eq!((by.node.as_str(), by.token), ("a", Token { epoch: first, run: RunId(1) }));
    assert!(left <= TTL && left > TTL / 2, "{left:?}");
    assert_eq!(b.ask(LeaseAsk::Renew { epoch: first }).await, LeaseAnswer::Lost);
    assert_eq!(b.ask(LeaseAsk::Release { epoch: first }).await, LeaseAnswer::Released);
    let granted = LeaseAnswer::Granted { epoch: first, wait: Duration::ZERO };
    assert_eq!(a.ask(LeaseAsk::Renew { epoch: first }).await, granted, "another's release changed nothing");
    // The answer to an ask was lost: it asks again, and has the same term, with what is left of the wait.
    let LeaseAnswer::Granted { epoch, wait } = a.ask(LeaseAsk::Take { floor: first - 1 }).await else { panic!("lost") };
    assert!(epoch == first && wait > Duration::ZERO && wait < TTL, "{wait:?}");
    // It gave that number up, or fears it did: then it gets another, and the wait goes on.
    assert_eq!(a.take(first).await, (first + 1, true));
    assert_eq!(a.ask(LeaseAsk::Release { epoch: first }).await, LeaseAnswer::Released);
    assert!(
        matches!(b.ask(LeaseAsk::Take { floor: 0 }).await, LeaseAnswer::Held { .. }),
        "a late release of an old number"
    );
    assert_eq!(a.ask(LeaseAsk::Release { epoch: first + 1 }).await, LeaseAnswer::Released);
    assert_eq!(b.take(0).await.0, first + 2);
    assert_eq!(a.ask(LeaseAsk::Renew { epoch: first + 1 }).await, LeaseAnswer::Lost);
}

#[tokio::test]
async fn a_lease_ends_by_itself_and_its_term_is_remembered() {
    let Some(redis) = TestRedis::start().await else { return };
    let (mut a, mut b) = (Asker::new(&redis, "a", 1), Asker::new(&redis, "b", 2));
    a.ttl = Duration::from_secs(1);
    let (first, _) = a.take(0).await;
    let taken = async {
        loop {
            match b.ask(LeaseAsk::Take { floor: 0 }).await {
                LeaseAnswer::Granted { epoch, wait } => return (epoch, !wait.is_zero()),
                LeaseAnswer::Held { left, .. } => tokio::time::sleep(left).await,
                other => panic!("{other:?}"),
            }
        }
    };
    assert_eq!(tokio::time::timeout(LIMIT, taken).await.expect("it ends"), (first + 1, false));
}

#[tokio::test]
async fn a_floor_lifts_the_number_above_what_the_asker_knows_of() {
    let Some(redis) = TestRedis::start().await else { return };
    let mut a = Asker::new(&redis, "a", 1);
    let (first, _) = a.take(0).await;
    // Beyond what Lua prints exactly by itself.
    let floor = mtxfleet_wire::MAX_EPOCH - (1 << 25) - 1;
    assert!(first < floor);
    let (lifted, past_lost) = a.take(floor).await;
    assert!(past_lost && lifted > floor, "Redis has lost a term that somebody knows of");
    let granted = LeaseAnswer::Granted { epoch: lifted, wait: Duration::ZERO };
    assert_eq!(a.ask(LeaseAsk::Renew { epoch: lifted }).await, granted);
}

#[tokio::test]
async fn a_redis_that_lost_its_last_writes_in_a_failover_voids_the_lease_and_gives_no_number_out_twice() {
    let Some(redis) = TestRedis::start().await else { return };
    let Some(replica) = TestRedis::start().await else { return };
    let (mut on_redis, mut on_replica) = (redis.connection().await, replica.connection().await);
    let mut a = Asker::new(&redis, "a", 1);
    // The first replica of a server gives it a new replication id, so it comes before the first term.
    replica.follow(&redis).await;
    let (first, _) = a.take(0).await;
    replica.has_all_of(&redis).await;
    // Cut off, it misses what comes now: the end of that term, and the beginning of the next.
    run(redis::cmd("REPLICAOF").arg("NO").arg("ONE"), &mut on_replica).await;
    a.ask(LeaseAsk::Release { epoch: first }).await;
    let mut b = Asker::new(&redis, "b", 2);
    let (second, _) = b.take(0).await;
    assert_eq!(second, first + 1);
    // Failover: the replica is what everybody talks to now. It believes that `a` holds the first term.
    let known = redis::cmd("HGET").arg(keys().term(ROLE)).arg("epoch").query_async::<u64>(&mut on_replica).await;
    assert_eq!(known.expect("replicated"), first);
    let mut a = Asker::new(&replica, "a", 1);
    assert_eq!(a.ask(LeaseAsk::Renew { epoch: first }).await, LeaseAnswer::Lost);
    let mut c = Asker::new(&replica, "c", 3);
    let (third, past_lost) = c.take(0).await;
    assert!(past_lost && third > second, "{third} was given out before, or past is not known to be lost");
    // Back and forth: the first server becomes the replica of the second, and is promoted in its turn.
    redis.follow(&replica).await;
    run(redis::cmd("REPLICAOF").arg("NO").arg("ONE"), &mut on_redis).await;
    let mut d = Asker::new(&redis, "d", 4);
    let (fourth, past_lost) = d.take(0).await;
    assert!(past_lost && fourth > third);
}

#[tokio::test]
async fn an_emptied_redis_and_one_that_forbids_info_still_give_leases() {
    let Some(redis) = TestRedis::start().await else { return };
    let mut other = redis.connection().await;
    let mut a = Asker::new(&redis, "a", 1);
    let (first, _) = a.take(0).await;
    run(&mut redis::cmd("FLUSHALL"), &mut other).await;
    assert_eq!(a.ask(LeaseAsk::Renew { epoch: first }).await, LeaseAnswer::Lost);
    let (second, past_lost) = a.take(first).await;
    assert!(past_lost && second > first);
    run(redis::cmd("ACL").arg("SETUSER").arg("default").arg("-info"), &mut other).await;
    let granted = LeaseAnswer::Granted { epoch: second, wait: Duration::ZERO };
    assert_eq!(a.ask(LeaseAsk::Renew { epoch: second }).await, granted);
    assert_eq!(a.take(second).await.0, second + 1);
}

#[tokio::test]
async fn a_lease_that_must_be_on_a_replica_counts_only_when_it_is() {
    let Some(redis) = TestRedis::start().await else { return };
    let mut on_redis = redis.connection().await;
    let mut a = Asker::waiting_for(&redis, "a", 1, 1);
    let LeaseAnswer::NotReplicated { epoch } = a.ask(LeaseAsk::Take { floor: 0 }).await else { panic!("no replica") };
    assert_eq!(a.ask(LeaseAsk::Release { epoch }).await, LeaseAnswer::Released);
    assert_eq!(number(redis::cmd("EXISTS").arg(keys().lease(ROLE)), &mut on_redis).await, 0);
    let Some(replica) = TestRedis::start().await else { return };
    replica.follow(&redis).await;
    let (second, _) = a.take(epoch).await;
    assert!(second > epoch);
    let mut on_replica = replica.connection().await;
    let there = redis::cmd("HGET").arg(keys().lease(ROLE)).arg("epoch").query_async::<u64>(&mut on_replica).await;
    assert_eq!(there.expect("on the replica when the answer is given"), second);
    replica.freeze();
    assert_eq!(a.ask(LeaseAsk::Renew { epoch: second }).await, LeaseAnswer::NotReplicated { epoch: second });
    replica.thaw();
}

#[tokio::test]
async fn a_redis_that_hangs_or_is_gone_is_said_in_time_and_found_again() {
    let Some(mut redis) = TestRedis::start().await else { return };
    let mut a = Asker::new(&redis, "a", 1);
    let (first, _) = a.take(0).await;
    redis.freeze();
    let began = tokio::time::Instant::now();
    assert!(matches!(a.ask(LeaseAsk::Renew { epoch: first }).await, LeaseAnswer::Unreachable(_)));
    assert!(began.elapsed() < TTL / 2, "{:?}", began.elapsed());
    redis.thaw();
    assert_eq!(
        a.ask(LeaseAsk::Renew { epoch: first }).await,
        LeaseAnswer::Granted { epoch: first, wait: Duration::ZERO }
    );
    redis.kill();
    assert!(matches!(a.ask(LeaseAsk::Renew { epoch: first }).await, LeaseAnswer::Unreachable(_)));
    redis.restart().await;
    assert_eq!(a.ask(LeaseAsk::Renew { epoch: first }).await, LeaseAnswer::Lost);
    assert!(a.take(first).await.1);
}

#[tokio::test]
async fn an_orchestrator_whose_term_is_over_writes_nothing() {
    let Some(redis) = TestRedis::start().await else { return };
    let mut other = redis.connection().await;
    let (mut a, mut b) = (Asker::new(&redis, "a", 1), Asker::new(&redis, "b", 2));
    a.reaches_redis().await;
    b.reaches_redis().await;
    let (first, _) = a.take(0).await;
    assert_eq!(a.write(first, "one").await, FencedAnswer::Written);
    assert_eq!(b.write(first, "another run of this number").await, FencedAnswer::Superseded { epoch: first });
    a.ask(LeaseAsk::Release { epoch: first }).await;
    let (second, _) = b.take(0).await;
    assert_eq!(a.write(first, "too late").await, FencedAnswer::Superseded { epoch: second });
    assert_eq!(b.write(second, "two").await, FencedAnswer::Written);
    assert_eq!(number(redis::cmd("XLEN").arg(keys().table("decisions")), &mut other).await, 2);
    let intent = redis::cmd("HGET").arg(keys().table("intents")).arg("x").query_async::<String>(&mut other).await;
    assert_eq!(intent.expect("written"), "two");
}

#[tokio::test]
async fn a_drain_that_an_older_plan_wants_is_not_admitted() {
    let Some(redis) = TestRedis::start().await else { return };
    let mut a = Asker::new(&redis, "a", 1);
    a.reaches_redis().await;
    let (first, _) = a.take(0).await;
    let (second, _) = a.take(first).await;
    let mut other = redis.connection().await;
    let scripts = scripts::Scripts::new();
    let request = |plan| AdmitRequest {
        drain: DrainId::new("d").expect("id"),
        node: NodeId::new("b").expect("id"),
        role: ROLE,
        serving: ["a", "b", "c"].map(|node| NodeId::new(node).expect("id")).to_vec(),
        minimum: 2,
        plan,
    };
    for wrong in [Token { epoch: first, run: RunId(1) }, Token { epoch: second, run: RunId(2) }] {
        let answer = scripts.admit(&mut other, &keys(), &request(Some(wrong)), u64::MAX >> 11).await.expect("answers");
        assert_eq!(answer, scripts::Admitted::Superseded { epoch: second }, "{wrong}");
    }
    a.registry.admit(request(Some(Token { epoch: first, run: RunId(1) })));
    let refused = async {
        loop {
            if let Some(RegistryEvent::Admission { answer, .. }) = a.events.recv().await {
                return answer;
            }
        }
    };
    let refused = tokio::time::timeout(LIMIT, refused).await.expect("an answer");
    assert_eq!(refused, Admission::Refused(DrainRefusal::PlanSuperseded { epoch: second }));
    for right in [Some(Token { epoch: second, run: RunId(1) }), None] {
        let answer = scripts.admit(&mut other, &keys(), &request(right), u64::MAX >> 11).await.expect("answers");
        assert_eq!(answer, scripts::Admitted::Yes);
    }
}
