//! RTSP messages and interleaved data as they come on one TCP connection (RFC 2326, section 10.12).
//!
//! Public, since the stand-in for MediaMTX that the tests run reads its connections with it too.

use std::io;

use bytes::{Buf, BytesMut};
use rtsp_types::{HeaderName, Message, ParseError, Request, Response};
use tokio::io::{AsyncRead, AsyncReadExt};

/// A request or response with its body. An SDP has 1 to 4 KiB.
const LARGEST_MESSAGE: usize = 64 * 1024;

/// Something that came in.
#[derive(Debug)]
pub enum Incoming {
    Request(Request<Vec<u8>>),
    Response(Response<Vec<u8>>),
    Data { channel: u8, data: BytesMut },
}

/// Cuts a byte stream into messages.
#[derive(Debug)]
pub struct MessageReader<R> {
    from: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> MessageReader<R> {
    #[must_use]
    pub fn new(from: R) -> Self {
        MessageReader { from, buffer: BytesMut::with_capacity(16 * 1024) }
    }

    /// Of a connection whose first bytes were read already.
    #[must_use]
    pub fn after(read: BytesMut, from: R) -> Self {
        MessageReader { from, buffer: read }
    }

    /// The next message; `None` at the end of the stream. May be dropped and called again without loss.
    ///
    /// # Errors
    ///
    /// When the connection fails, or holds something that is no RTSP, or a message that is too large.
    pub async fn next(&mut self) -> io::Result<Option<Incoming>> {
        loop {
            if let Some(message) = self.cut()? {
                return Ok(Some(message));
            }
            self.buffer.reserve(16 * 1024);
            if self.from.read_buf(&mut self.buffer).await? == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed within a message")),
                };
            }
        }
    }

    fn cut(&mut self) -> io::Result<Option<Incoming>> {
        // Some clients send empty lines between messages.
        while matches!(self.buffer.first(), Some(b'\r' | b'\n')) {
            self.buffer.advance(1);
        }
        if let [b'$', channel, high, low, rest @ ..] = &self.buffer[..] {
            let (channel, length) = (*channel, usize::from(u16::from_be_bytes([*high, *low])));
            if rest.len() < length {
                return Ok(None);
            }
            self.buffer.advance(4);
            return Ok(Some(Incoming::Data { channel, data: self.buffer.split_to(length) }));
        }
        if self.buffer.is_empty() || self.buffer[0] == b'$' {
            return Ok(None);
        }
        match Message::<Vec<u8>>::parse(&self.buffer[..]) {
            Ok((message, length)) => {
                self.buffer.advance(length);
                Ok(match message {
                    Message::Request(request) => Some(Incoming::Request(request)),
                    Message::Response(response) => Some(Incoming::Response(response)),
                    Message::Data(_) => None,
                })
            }
            Err(ParseError::Incomplete(_)) if self.buffer.len() < LARGEST_MESSAGE => Ok(None),
            Err(ParseError::Incomplete(_)) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "a message is larger than 64 KiB"))
            }
            Err(ParseError::Error) => Err(io::Error::new(io::ErrorKind::InvalidData, "that is no RTSP message")),
        }
    }
}

/// The value of a header, as text.
pub trait Headers {
    fn text(&self, name: &HeaderName) -> Option<&str>;
}

impl<B> Headers for Request<B> {
    fn text(&self, name: &HeaderName) -> Option<&str> {
        self.header(name).map(|value| value.as_str())
    }
}

impl<B> Headers for Response<B> {
    fn text(&self, name: &HeaderName) -> Option<&str> {
        self.header(name).map(|value| value.as_str())
    }
}

/// The two channels of `Transport: RTP/AVP/TCP;unicast;interleaved=0-1`. `None` when it is not over TCP; without
/// `interleaved` (then the server chooses) the inner value is `None`.
#[must_use]
pub fn interleaved(transport: &str) -> Option<Option<(u8, u8)>> {
    // Several may be offered; the first over TCP is taken.
    let offer = transport.split(',').map(str::trim).find(|offer| offer.starts_with("RTP/AVP/TCP"))?;
    let Some(channels) = offer.split(';').find_map(|part| part.trim().strip_prefix("interleaved=")) else {
        return Some(None);
    };
    let (rtp, rtcp) = channels.split_once('-')?;
    Some(Some((rtp.trim().parse().ok()?, rtcp.trim().parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    async fn read_all(bytes: &[u8]) -> Vec<io::Result<Incoming>> {
        // One byte at a time, the worst that TCP can do.
        let (mut to, from) = tokio::io::duplex(1);
        let bytes = bytes.to_vec();
        let writer = tokio::spawn(async move {
            let _ = to.write_all(&bytes).await;
        });
        let mut reader = MessageReader::new(from);
        let mut seen = Vec::new();
        loop {
            match reader.next().await {
                Ok(None) => break,
                Ok(Some(message)) => seen.push(Ok(message)),
                Err(error) => {
                    seen.push(Err(error));
                    break;
                }
            }
        }
        drop(reader);
        writer.await.unwrap();
        seen
    }

    #[tokio::test]
    async fn messages_and_data_are_told_apart_byte_by_byte() {
        let seen =
            read_all(b"OPTIONS rtsp://a/b RTSP/1.0\r\nCSeq: 1\r\n\r\n$\x03\x00\x02hi\r\nRTSP/1.0 200 OK\r\n\r\n").await;
        assert!(
            matches!(&seen[0], Ok(Incoming::Request(request)) if request.text(&rtsp_types::headers::CSEQ) == Some("1"))
        );
        assert!(matches!(&seen[1], Ok(Incoming::Data { channel: 3, data }) if &data[..] == b"hi"));
        assert!(matches!(&seen[2], Ok(Incoming::Response(_))));
        assert_eq!(seen.len(), 3);
    }

    #[tokio::test]
    async fn garbage_ends_the_connection() {
        assert!(read_all(b"GET / nonsense\r\n\r\n").await.pop().unwrap().is_err());
        assert!(read_all(b"$\x00\xff\xff cut off").await.pop().unwrap().is_err());
    }

    #[tokio::test]
    async fn an_endless_header_is_refused() {
        let mut endless = b"OPTIONS rtsp://a/b RTSP/1.0\r\n".to_vec();
        endless.extend(std::iter::repeat_n(b"X: y\r\n", LARGEST_MESSAGE / 3).flatten());
        let mut reader = MessageReader::new(&endless[..]);
        assert!(reader.next().await.is_err());
        assert!(reader.buffer.capacity() < 4 * LARGEST_MESSAGE);
    }

    #[test]
    fn only_tcp_transports_are_taken() {
        assert_eq!(interleaved("RTP/AVP/TCP;unicast;interleaved=2-3"), Some(Some((2, 3))));
        assert_eq!(interleaved("RTP/AVP;unicast;client_port=1-2,RTP/AVP/TCP;unicast"), Some(None));
        assert_eq!(interleaved("RTP/AVP;unicast;client_port=1-2"), None);
        assert_eq!(interleaved("RTP/AVP/TCP;interleaved=900-901"), None);
    }
}
