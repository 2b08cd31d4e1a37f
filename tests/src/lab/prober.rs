//! New connections through the load balancer, all the time, to see when a node gets none any more.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mtxfleet_wire::NodeId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::balancer::Balancer;

/// Between two connections; bounds how exactly the last one is known.
const PROBE_EVERY: Duration = Duration::from_millis(20);

/// Paths asked for, one after the other: the balancer's hash spreads them over all servers.
const PATHS: u32 = 97;

/// Connects again and again, and notes when a new connection was given to one node.
#[derive(Debug)]
pub struct Prober {
    last_given: watch::Receiver<Option<Instant>>,
    task: JoinHandle<Result<()>>,
}

impl Prober {
    /// Starts; looks for connections given to `node`.
    #[must_use]
    pub fn start(balancer: &Balancer, node: &NodeId) -> Self {
        let (given, last_given) = watch::channel(None);
        let task = tokio::spawn(probe(balancer.live, balancer.statistics(), node.clone(), given));
        Self { last_given, task }
    }

    /// Waits until the node has been given a connection, so that its being given none means something.
    ///
    /// # Errors
    /// When it is given none in `bound`.
    pub async fn wait_given(&mut self, bound: Duration) -> Result<()> {
        let given = self.last_given.wait_for(Option::is_some);
        tokio::time::timeout(bound, given).await.context("the node is given no connection")??;
        Ok(())
    }

    /// When the last connection that the node was given was opened.
    ///
    /// # Errors
    /// When probing broke off, so that nothing can be said.
    pub async fn stop(self) -> Result<Option<Instant>> {
        if self.task.is_finished() {
            self.task.await?.context("the prober broke off")?;
        } else {
            self.task.abort();
        }
        Ok(*self.last_given.borrow())
    }
}

async fn probe(
    live: SocketAddr,
    statistics: super::balancer::Statistics,
    node: NodeId,
    given: watch::Sender<Option<Instant>>,
) -> Result<()> {
    let mut total = statistics.reader_backend(&node).await?.total;
    for number in (0..PATHS).cycle() {
        let opened = Instant::now();
        // While a server goes, the balancer may refuse a connection; only those given to the node matter.
        let _ = tokio::time::timeout(Duration::from_secs(2), options(live, number)).await;
        let now = statistics.reader_backend(&node).await?.total;
        if now > total {
            total = now;
            given.send_replace(Some(opened));
        }
        tokio::time::sleep(PROBE_EVERY).await;
    }
    Ok(())
}

/// One request and its answer (RFC 2326, 10.1); then the connection is closed.
async fn options(live: SocketAddr, number: u32) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(live).await?;
    let request = format!("OPTIONS rtsp://{live}/probe-{number} RTSP/1.0\r\nCSeq: 1\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let mut buffer = [0; 512];
    while !answer.windows(4).any(|w| w == b"\r\n\r\n") {
        match stream.read(&mut buffer).await? {
            0 => break,
            n => answer.extend_from_slice(&buffer[..n]),
        }
    }
    Ok(())
}
