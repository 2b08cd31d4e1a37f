//! What goes out on one connection.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use crate::channel::Counters;
use crate::packet::Unit;

/// Written with one call, about; a larger frame is written whole.
const BATCH_BYTES: usize = 64 * 1024;

/// Something to be sent.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// An answer.
    Message(Vec<u8>),
    /// A frame, on the interleaved channels of its track; a sender report before it where `report` says so.
    Unit { rtp: u8, rtcp: u8, unit: Arc<Unit>, report: bool },
}

/// Writes what comes in `queue`, until the queue is closed, the connection fails, or one write takes `timeout`.
pub(crate) async fn write_all(
    mut to: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<Outgoing>,
    counters: Arc<Counters>,
    timeout: Duration,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    while let Some(first) = queue.recv().await {
        let mut of_units = append(&mut bytes, first);
        while bytes.len() < BATCH_BYTES
            && let Ok(next) = queue.try_recv()
        {
            of_units += append(&mut bytes, next);
        }
        match tokio::time::timeout(timeout, to.write_all(&bytes)).await {
            Ok(written) => written?,
            Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "the reader takes no data")),
        }
        counters.queued.fetch_sub(of_units, Relaxed);
        bytes.clear();
        // A large keyframe's room is not kept.
        bytes.shrink_to(2 * BATCH_BYTES);
    }
    to.shutdown().await
}

/// The packets' bytes, as [`Counters::queued`] counts them.
fn append(bytes: &mut Vec<u8>, outgoing: Outgoing) -> usize {
    match outgoing {
        Outgoing::Message(message) => {
            bytes.extend_from_slice(&message);
            0
        }
        Outgoing::Unit { rtp, rtcp, unit, report } => {
            if let Some(report) = unit.report.as_ref().filter(|_| report) {
                interleave(bytes, rtcp, report);
            }
            unit.packets.iter().for_each(|packet| interleave(bytes, rtp, packet));
            unit.bytes
        }
    }
}

/// RFC 2326, section 10.12.
fn interleave(bytes: &mut Vec<u8>, channel: u8, packet: &[u8]) {
    // The upstream's packets came behind such a length too, with headers at least as long.
    let Ok(length) = u16::try_from(packet.len()) else { return };
    bytes.extend_from_slice(&[b'$', channel]);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(packet);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[tokio::test]
    async fn packets_stand_behind_their_channel_and_length_and_the_report_before_them() {
        let unit = Arc::new(Unit {
            track: 0,
            keyframe: true,
            packets: vec![Bytes::from_static(b"one"), Bytes::from_static(b"three")],
            bytes: 8,
            sequence: 0,
            timestamp: 0,
            report: Some([7; 28]),
        });
        let (queue, outgoing) = mpsc::channel(8);
        let counters = Arc::new(Counters::default());
        counters.queued.store(16, Relaxed);
        let send = |report| Outgoing::Unit { rtp: 2, rtcp: 3, unit: Arc::clone(&unit), report };
        for outgoing in [Outgoing::Message(b"RTSP".to_vec()), send(true), send(false)] {
            queue.try_send(outgoing).expect("room");
        }
        drop(queue);
        let mut written = Vec::new();
        write_all(&mut written, outgoing, Arc::clone(&counters), Duration::from_secs(1)).await.expect("written");
        let packets = b"$\x02\x00\x03one$\x02\x00\x05three";
        let wanted = [&b"RTSP$\x03\x00\x1c"[..], &[7; 28], packets, packets].concat();
        assert_eq!(written, wanted);
        assert_eq!(counters.queued.load(Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_is_given_up() {
        let (to, _from) = tokio::io::duplex(4);
        let (queue, outgoing) = mpsc::channel(1);
        queue.try_send(Outgoing::Message(vec![0; 100])).expect("room");
        let failed = write_all(to, outgoing, Arc::default(), Duration::from_secs(10)).await.expect_err("given up");
        assert_eq!(failed.kind(), io::ErrorKind::TimedOut);
    }
}
