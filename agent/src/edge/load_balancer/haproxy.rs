//! HAProxy's agent-check: a poller connects, may send a line (`agent-send`), and is answered one line that says what
//! the load balancer is to do with this node.
//!
//! | word | answer | effect (HAProxy 2.6) |
//! |---|---|---|
//! | [`BalancerWord::Up`] | `up 75%` | weight; an operator's own drain by hand stays |
//! | [`BalancerWord::Ready`] | `ready up 75%` | leaves `drain` and `maint` too |
//! | [`BalancerWord::Drain`] | `drain` | nothing new comes, what runs goes on |
//! | [`BalancerWord::Down`] | `down` | nothing new comes, sticky readers move |
//!
//! Silence changes nothing at the load balancer, so an agent that is to be obeyed must answer. The node decides which
//! word; here it is only said. Reference: HAProxy 2.6 configuration manual, `agent-check`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::node::effect::BalancerWord;

/// A poller that sends a line does so with its connection; one that does not waits for the answer this long. To that
/// the kernel of its machine adds 40 ms (it delays the end of the handshake when there is nothing to send), so an
/// `agent-inter` of 100 ms, which is the poll's timeout too, needs `agent-send`.
const LINE: Duration = Duration::from_millis(50);

/// Longest line of a poller; of a longer one the start is taken.
const MAX_LINE: usize = 256;

/// Bound on answering and closing.
const ANSWER: Duration = Duration::from_secs(2);

/// One load balancer polls once per backend and second, and each poll lasts some milliseconds.
const MAX_CONNECTIONS: usize = 64;

/// After `accept` failed, as it does when the process has no file descriptor left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy)]
pub struct AgentCheckSettings {
    /// Where pollers connect; port 0 takes a free one.
    pub listen: SocketAddr,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot listen for agent-checks on {listen}; choose another address in balancer.haproxy.agent_check")]
pub struct AgentCheckError {
    listen: SocketAddr,
    source: io::Error,
}

/// A poller was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poll {
    /// The text that its `agent-send` makes it send, trimmed; without one its IP address. Two backends of one load
    /// balancer poll separately, and only `agent-send` tells them apart.
    pub who: String,
    /// What it was told. A poll that was answered before the word changed does not count as told, however late its
    /// report is read.
    pub said: BalancerWord,
}

/// Counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AgentCheckCounters {
    pub answered: u64,
    /// Connections closed at once, as there were too many.
    pub refused: u64,
    /// Polls that broke before they were answered.
    pub broken: u64,
    /// Answered, but not reported: the channel was full.
    pub unreported: u64,
}

#[derive(Debug, Default)]
struct Counters {
    answered: AtomicU64,
    refused: AtomicU64,
    broken: AtomicU64,
    unreported: AtomicU64,
}

/// The responder. Dropping it closes the listener and every connection.
#[derive(Debug)]
pub struct AgentCheck {
    local: SocketAddr,
    word: watch::Sender<BalancerWord>,
    counters: Arc<Counters>,
    task: AbortHandle,
}

impl AgentCheck {
    /// Answers `word` from now on, and reports each poll on `polls`. When `polls` is full the report is dropped and
    /// counted: the poller comes again within seconds.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(
        settings: AgentCheckSettings,
        word: BalancerWord,
        polls: mpsc::Sender<Poll>,
    ) -> Result<Self, AgentCheckError> {
        let listen = settings.listen;
        let failed = |source| AgentCheckError { listen, source };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        let (word, heard) = watch::channel(word);
        let counters = Arc::<Counters>::default();
        let task = tokio::spawn(serve(listener, heard, polls, Arc::clone(&counters))).abort_handle();
        Ok(Self { local, word, counters, task })
    }

    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Every poll that is answered after this call gets this word.
    pub fn set_word(&self, word: BalancerWord) {
        self.word.send_replace(word);
    }

    /// The word that is said now.
    #[must_use]
    pub fn word(&self) -> BalancerWord {
        *self.word.borrow()
    }

    #[must_use]
    pub fn counters(&self) -> AgentCheckCounters {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        AgentCheckCounters {
            answered: of(&self.counters.answered),
            refused: of(&self.counters.refused),
            broken: of(&self.counters.broken),
            unreported: of(&self.counters.unreported),
        }
    }
}

impl Drop for AgentCheck {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    listener: TcpListener,
    word: watch::Receiver<BalancerWord>,
    polls: mpsc::Sender<Poll>,
    counters: Arc<Counters>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(_) if connections.len() >= MAX_CONNECTIONS => count(&counters.refused),
                Ok((stream, peer)) => {
                    let (word, polls, counters) = (word.clone(), polls.clone(), Arc::clone(&counters));
                    connections.spawn(async move { handle(stream, peer, &word, &polls, &counters).await });
                }
                Err(error) => {
                    tracing::warn!(%error, "agent-check: a connection could not be accepted; if files ran out, raise LimitNOFILE");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            },
            Some(_) = connections.join_next() => while connections.try_join_next().is_some() {},
        }
    }
}

async fn handle(
    mut stream: TcpStream,
    peer: SocketAddr,
    word: &watch::Receiver<BalancerWord>,
    polls: &mpsc::Sender<Poll>,
    counters: &Counters,
) {
    let line = read_line(&mut stream).await;
    let answer = async {
        // Read at the last moment, so that no poll answered after a change gets the word before it.
        let said = *word.borrow();
        stream.write_all(text(said).as_bytes()).await?;
        stream.shutdown().await?;
        Ok::<_, io::Error>(said)
    };
    let Ok(Ok(said)) = tokio::time::timeout(ANSWER, answer).await else {
        count(&counters.broken);
        return;
    };
    count(&counters.answered);
    let who = if line.is_empty() { peer.ip().to_string() } else { line };
    if polls.try_send(Poll { who, said }).is_err() {
        count(&counters.unreported);
    }
}

/// What the poller sends up to the end of its first line, its bound in length, in time, or its own end.
async fn read_line(stream: &mut TcpStream) -> String {
    let mut line = Vec::with_capacity(MAX_LINE);
    let read = async {
        while line.len() < MAX_LINE && !line.contains(&b'\n') {
            let room = (MAX_LINE - line.len()) as u64;
            if !matches!(stream.take(room).read_buf(&mut line).await, Ok(1..)) {
                break;
            }
        }
    };
    // Time over or not: what has come is taken.
    let _ = tokio::time::timeout(LINE, read).await;
    let first = line.split(|b| *b == b'\n').next().unwrap_or_default();
    let printable = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    String::from_utf8_lossy(first).trim().chars().map(printable).collect()
}

fn text(word: BalancerWord) -> String {
    match word {
        BalancerWord::Up { weight } => format!("up {weight}%\n"),
        BalancerWord::Ready { weight } => format!("ready up {weight}%\n"),
        BalancerWord::Drain => "drain\n".to_owned(),
        BalancerWord::Down => "down\n".to_owned(),
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
#[path = "tests/haproxy.rs"]
mod tests;
