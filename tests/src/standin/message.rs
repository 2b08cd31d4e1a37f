//! What is written to a connection; what comes is read as the relay reads it.

use std::{io, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};

pub(super) use mtxfleet_relay::message::{Headers, Incoming, MessageReader, interleaved};

/// Messages taken from a queue at a time, to be written with one call.
const BATCH: usize = 64;

/// Something to be sent.
#[derive(Debug)]
pub(super) enum Outgoing {
    Message(Vec<u8>),
    Data { channel: u8, data: Bytes },
}

/// Writes what comes in `queue`, until the queue is closed, the connection fails, or one write takes `timeout`.
pub(super) async fn write_all(
    mut to: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<Outgoing>,
    timeout: Duration,
) -> io::Result<()> {
    let mut batch = Vec::with_capacity(BATCH);
    let mut bytes = Vec::with_capacity(64 * 1024);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        bytes.clear();
        for message in batch.drain(..) {
            match message {
                Outgoing::Message(message) => bytes.extend_from_slice(&message),
                Outgoing::Data { channel, data } => {
                    // Packets come from RTSP, whose length field has 16 bits.
                    let length = (data.len() as u16).to_be_bytes();
                    bytes.extend_from_slice(&[b'$', channel, length[0], length[1]]);
                    bytes.extend_from_slice(&data);
                }
            }
        }
        match tokio::time::timeout(timeout, to.write_all(&bytes)).await {
            Ok(written) => written?,
            Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes no data")),
        }
    }
    to.shutdown().await
}
