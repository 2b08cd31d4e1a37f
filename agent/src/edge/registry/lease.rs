//! The task that asks for leases: over a connection of its own, since `WAIT` blocks it, and nothing else may hold up a
//! renewal.

use std::time::Duration;

use mtxfleet_leader::election::{LeaseAnswer, LeaseAsk, LeaseOrder};
use mtxfleet_wire::{LeaseHolder, NodeId, Token};
use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Script};
use tokio::sync::{mpsc, oneshot};

use super::stats::add;
use super::{Link, Problem, RegistryEvent, within};

/// Asks come one at a time, with a release or two beside.
const ASKS_WAITING: usize = 16;

#[derive(Debug)]
pub(super) enum LeaseCommand {
    Ask(LeaseOrder),
    Flush(oneshot::Sender<()>),
}

pub(super) struct LeaseTask {
    link: Link,
    /// Replicas that must have a lease before it counts; 0: none is waited for.
    replicas: u32,
    script: Script,
    commands: mpsc::Receiver<LeaseCommand>,
    out: mpsc::Sender<RegistryEvent>,
    connection: Option<MultiplexedConnection>,
}

impl LeaseTask {
    pub(super) fn new(
        link: Link,
        replicas: u32,
        commands: mpsc::Receiver<LeaseCommand>,
        out: mpsc::Sender<RegistryEvent>,
    ) -> Self {
        Self { link, replicas, script: Script::new(include_str!("lease.lua")), commands, out, connection: None }
    }

    pub(super) async fn run(mut self) {
        while let Some(command) = self.commands.recv().await {
            match command {
                LeaseCommand::Flush(done) => {
                    let _ = done.send(());
                }
                LeaseCommand::Ask(order) => {
                    let limit = order.ttl / 3;
                    let answer = match tokio::time::timeout(limit, self.ask(&order)).await {
                        Ok(answer) => answer,
                        Err(_) => Err(Problem::TimedOut(limit)),
                    };
                    let answer = answer.unwrap_or_else(|problem| {
                        add(&self.link.stats.failures, 1);
                        LeaseAnswer::Unreachable(problem.to_string())
                    });
                    if self.out.send(RegistryEvent::Lease { number: order.number, answer }).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// After a failure, whatever it was, the connection is given up: a new one may lead to another, better Redis.
    async fn ask(&mut self, order: &LeaseOrder) -> Result<LeaseAnswer, Problem> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.link.connect().await?,
        };
        let mut answer = self.call(&mut connection, order).await?;
        if let LeaseAnswer::Granted { epoch, .. } = answer
            && self.replicas > 0
            && !self.replicated(&mut connection, order.ttl / 6).await?
        {
            tracing::warn!(role = %order.role, replicas = self.replicas, "a lease did not reach enough replicas of Redis");
            answer = LeaseAnswer::NotReplicated { epoch };
        }
        self.connection = Some(connection);
        Ok(answer)
    }

    async fn call(&self, connection: &mut MultiplexedConnection, order: &LeaseOrder) -> Result<LeaseAnswer, Problem> {
        let keys = &self.link.keys;
        let (word, number) = match order.ask {
            LeaseAsk::Take { floor } => ("take", floor),
            LeaseAsk::Renew { epoch } => ("renew", epoch),
            LeaseAsk::Release { epoch } => ("release", epoch),
        };
        let mut call = self.script.key(keys.lease(order.role));
        call.key(keys.term(order.role));
        call.arg(word).arg(order.node.as_str()).arg(order.run.to_string()).arg(number);
        call.arg(order.ttl.as_millis() as u64);
        let said: Vec<String> = within(self.link.timeout, call.invoke_async(connection)).await?;
        Ok(understand(&said)?)
    }

    /// `WAIT` counts replicas that have all that this connection wrote.
    async fn replicated(&self, connection: &mut MultiplexedConnection, limit: Duration) -> Result<bool, Problem> {
        let mut wait = redis::cmd("WAIT");
        wait.arg(self.replicas).arg(limit.as_millis() as u64);
        let have: u32 = within(limit * 2, wait.query_async(connection)).await?;
        Ok(have >= self.replicas)
    }
}

fn understand(said: &[String]) -> RedisResult<LeaseAnswer> {
    let words: Vec<&str> = said.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().map_err(|_| super::scripts::odd("lease"));
    Ok(match words[..] {
        ["granted", epoch, wait] => {
            LeaseAnswer::Granted { epoch: number(epoch)?, wait: Duration::from_millis(number(wait)?) }
        }
        ["held", node, run, epoch, left] => {
            let node = NodeId::new(node).map_err(|_| super::scripts::odd("lease"))?;
            let run = run.parse().map_err(|_| super::scripts::odd("lease"))?;
            let by = LeaseHolder { node, token: Token { epoch: number(epoch)?, run } };
            // -1 would be a lease without an end, which the script never makes.
            LeaseAnswer::Held { by, left: Duration::from_millis(left.parse().unwrap_or(0)) }
        }
        ["lost"] => LeaseAnswer::Lost,
        ["released"] => LeaseAnswer::Released,
        _ => return Err(super::scripts::odd("lease")),
    })
}

/// Sends orders to the task; when it cannot keep up, they are answered at once.
#[derive(Debug, Clone)]
pub(super) struct LeaseDesk {
    pub(super) commands: mpsc::Sender<LeaseCommand>,
    pub(super) events: mpsc::Sender<RegistryEvent>,
}

impl LeaseDesk {
    pub(super) fn ask(&self, order: LeaseOrder) {
        let number = order.number;
        if self.commands.try_send(LeaseCommand::Ask(order)).is_err() {
            let answer = LeaseAnswer::Unreachable("too many asks for a lease are waiting".to_owned());
            let _ = self.events.try_send(RegistryEvent::Lease { number, answer });
        }
    }

    pub(super) async fn flush(&self) -> bool {
        let (done, wait) = oneshot::channel();
        self.commands.send(LeaseCommand::Flush(done)).await.is_ok() && wait.await.is_ok()
    }
}

/// Starts the task.
pub(super) fn start(link: Link, replicas: u32, events: mpsc::Sender<RegistryEvent>) -> LeaseDesk {
    let (commands, queue) = mpsc::channel(ASKS_WAITING);
    tokio::spawn(LeaseTask::new(link, replicas, queue, events.clone()).run());
    LeaseDesk { commands, events }
}
