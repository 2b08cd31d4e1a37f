//! A TCP connection on which everything comes later by a fixed time: a server that lies behind another.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// Forwards connections while it lives.
#[derive(Debug)]
pub struct DelayLine {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl DelayLine {
    /// Forwards from `address` to `target`; what `target` says comes `delay` later.
    ///
    /// # Errors
    /// When the address is taken.
    pub async fn start(address: SocketAddr, target: SocketAddr, delay: Duration) -> Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(async move {
                    if let Ok(server) = TcpStream::connect(target).await {
                        forward(client, server, delay).await;
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, task })
    }
}

impl Drop for DelayLine {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Until either side ends.
async fn forward(client: TcpStream, server: TcpStream, delay: Duration) {
    let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let (late, mut due) = mpsc::unbounded_channel::<(Instant, Bytes)>();
    let read = async {
        loop {
            let mut bytes = BytesMut::with_capacity(16 << 10);
            match from_server.read_buf(&mut bytes).await {
                Ok(count) if count > 0 => {
                    let _ = late.send((Instant::now() + delay, bytes.freeze()));
                }
                _ => break,
            }
        }
    };
    let write = async {
        while let Some((at, bytes)) = due.recv().await {
            tokio::time::sleep_until(at).await;
            if to_client.write_all(&bytes).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
    }
}
