//! One connection: requests one after the other, each parsed, answered, counted.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rtsp_types::{Message, Method, ParseError, headers};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use mtxfleet_relay::Place;
use mtxfleet_wire::StreamName;

use super::Shared;
use super::counters::Counter;
use super::owners::{Found, Owners};

/// Bound on writing an answer of a few hundred bytes.
const ANSWER: Duration = Duration::from_secs(2);

pub(super) struct Connection {
    stream: TcpStream,
    owners: watch::Receiver<Owners>,
    shared: Arc<Shared>,
    /// What has come and is not answered yet.
    buffer: Vec<u8>,
}

/// What is needed of a request.
struct Request {
    method: Method,
    cseq: Option<u32>,
    /// Path of its URL, decoded, without slashes around it.
    path: Option<String>,
    /// Bytes of the buffer that it took.
    length: usize,
}

/// Why a connection ends.
enum End {
    /// By the client, or it broke.
    Closed,
    Slow,
    Garbage,
    Oversize,
    /// The stream itself is the answer: the connection is the relay's from now on, with the question.
    Relayed(Place),
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Closed
    }
}

impl Connection {
    pub(super) fn new(stream: TcpStream, owners: watch::Receiver<Owners>, shared: Arc<Shared>) -> Self {
        Self { stream, owners, shared, buffer: Vec::new() }
    }

    pub(super) async fn serve(mut self) {
        // Answers are single small writes.
        let _ = self.stream.set_nodelay(true);
        let end = loop {
            let deadline = Instant::now() + self.shared.settings.limits.request_time;
            let request = match timeout_at(deadline, self.read_request()).await {
                Ok(Ok(request)) => request,
                Ok(Err(end)) => break end,
                // A client that keeps its connection and asks nothing is no slow one.
                Err(_) if self.buffer.is_empty() => break End::Closed,
                Err(_) => break End::Slow,
            };
            if let Err(end) = self.answer(&request).await {
                break end;
            }
            self.buffer.drain(..request.length);
        };
        let shared = Arc::clone(&self.shared);
        match end {
            End::Closed => {}
            End::Relayed(place) => {
                if let Some(source) = &shared.source {
                    source.adopt(place, self.stream, &self.buffer);
                }
            }
            End::Slow => shared.counters.refused_slow.add(),
            End::Garbage => self.refuse(&shared.counters.refused_garbage).await,
            End::Oversize => self.refuse(&shared.counters.refused_oversize).await,
        }
    }

    async fn refuse(&mut self, reason: &Counter) {
        reason.add();
        let _ = self.write(None, "400 Bad Request", "Connection: close\r\n").await;
    }

    async fn read_request(&mut self) -> Result<Request, End> {
        loop {
            if let Some(request) = parse(&self.buffer)? {
                return Ok(request);
            }
            self.read_more().await?;
        }
    }

    /// Cancel-safe: what has been read is in the buffer.
    async fn read_more(&mut self) -> Result<(), End> {
        let limit = self.shared.settings.limits.request;
        let room = limit.saturating_sub(self.buffer.len());
        if room == 0 {
            return Err(End::Oversize);
        }
        match (&mut self.stream).take(room as u64).read_buf(&mut self.buffer).await? {
            0 => Err(End::Closed),
            _ => Ok(()),
        }
    }

    async fn answer(&mut self, request: &Request) -> Result<(), End> {
        match request.method {
            Method::Options => self.write(request.cseq, "200 OK", "Public: OPTIONS, DESCRIBE\r\n").await,
            Method::Describe => self.describe(request).await,
            _ => self.write(request.cseq, "405 Method Not Allowed", "Allow: OPTIONS, DESCRIBE\r\n").await,
        }
    }

    async fn describe(&mut self, request: &Request) -> Result<(), End> {
        let shared = Arc::clone(&self.shared);
        let Some(stream) = request.path.as_ref().and_then(|path| StreamName::new(path.as_str()).ok()) else {
            shared.counters.unknown.add();
            return self.write(request.cseq, "404 Not Found", "").await;
        };
        let found = match shared.find(&mut self.owners, &stream) {
            Found::At(owner) => Found::At(owner),
            Found::Own | Found::Nowhere => match shared.held.enter(&stream) {
                Some(_place) => {
                    shared.counters.held.add();
                    shared.counters.holding.add();
                    let found = self.hold(&stream).await;
                    shared.counters.holding.subtract();
                    found?
                }
                None => {
                    shared.counters.refused_held.add();
                    return self.write(request.cseq, "503 Service Unavailable", "Retry-After: 5\r\n").await;
                }
            },
        };
        match found {
            Found::At(owner) => {
                if let Some(source) = &shared.source {
                    if let Some(place) = source.place() {
                        shared.counters.relayed.add();
                        return Err(End::Relayed(place));
                    }
                    shared.counters.relay_full.add();
                }
                shared.counters.redirects.add();
                let location = format!("Location: rtsp://{}/{stream}?pull={}\r\n", owner.rtsp, shared.settings.node);
                self.write(request.cseq, "302 Found", &location).await
            }
            Found::Own => {
                shared.counters.own.add();
                self.write(request.cseq, "404 Not Found", "").await
            }
            Found::Nowhere => {
                shared.counters.unknown.add();
                self.write(request.cseq, "404 Not Found", "").await
            }
        }
    }

    /// Until another node is known to own the stream, the time is over, or the client has gone.
    async fn hold(&mut self, stream: &StreamName) -> Result<Found, End> {
        let deadline = Instant::now() + self.shared.settings.limits.hold;
        let mut owners = self.owners.clone();
        loop {
            let found = self.shared.find(&mut owners, stream);
            if matches!(found, Found::At(_)) {
                return Ok(found);
            }
            tokio::select! {
                changed = owners.changed() => {
                    if changed.is_err() {
                        return Ok(found);
                    }
                }
                () = tokio::time::sleep_until(deadline) => return Ok(found),
                read = self.read_more() => read?,
            }
        }
    }

    async fn write(&mut self, cseq: Option<u32>, status: &str, headers: &str) -> Result<(), End> {
        let cseq = cseq.map(|cseq| format!("CSeq: {cseq}\r\n")).unwrap_or_default();
        let answer = format!("RTSP/1.0 {status}\r\n{cseq}Server: mtxfleet\r\n{headers}\r\n");
        timeout(ANSWER, self.stream.write_all(answer.as_bytes())).await.map_err(|_| End::Slow)??;
        Ok(())
    }
}

impl Shared {
    fn find(&self, owners: &mut watch::Receiver<Owners>, stream: &StreamName) -> Found {
        let Self { settings, local, .. } = self;
        owners.borrow_and_update().find(stream, &settings.node, &settings.own_rtsp, *local)
    }
}

/// `None` when the request is not whole yet.
fn parse(buffer: &[u8]) -> Result<Option<Request>, End> {
    let (message, length) = match Message::<&[u8]>::parse(buffer) {
        Ok(parsed) => parsed,
        Err(ParseError::Incomplete(_)) => return Ok(None),
        Err(ParseError::Error) => return Err(End::Garbage),
    };
    let Message::Request(request) = message else { return Err(End::Garbage) };
    let cseq = request.header(&headers::CSEQ).and_then(|value| value.as_str().trim().parse().ok());
    let path = request.request_uri().and_then(|url| decode(url.path())).map(|path| path.trim_matches('/').to_owned());
    Ok(Some(Request { method: request.method().clone(), cseq, path, length }))
}

/// Percent-decoding (RFC 3986 section 2.1); `None` when it is wrong or yields no UTF-8.
fn decode(path: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                let digits =
                    std::str::from_utf8(&digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()))?;
                u8::from_str_radix(digits, 16).ok()?
            }
            plain => plain,
        });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn nothing_after_a_method_makes_the_parser_panic(rest in "[ -~\r\n]{0,200}") {
            let _ = parse(format!("DESCRIBE {rest}").as_bytes());
        }

        #[test]
        fn every_name_survives_the_way_through_a_url(name in "[A-Za-z0-9._~-]{1,20}(/[A-Za-z0-9_~-]{1,20}){0,3}") {
            // A URL takes segments of dots only as steps up and down.
            prop_assume!(!name.split('/').any(|part| part.chars().all(|c| c == '.')));
            let encoded: String = name.bytes().map(|b| if b == b'/' { "/".to_owned() } else { format!("%{b:02x}") }).collect();
            for path in [&name, &encoded] {
                let request = format!("DESCRIBE rtsp://127.0.0.1:8700/{path} RTSP/1.0\r\nCSeq: 3\r\n\r\n");
                let parsed = parse(request.as_bytes()).ok().flatten().expect("a whole request");
                prop_assert_eq!((parsed.path.as_ref(), parsed.cseq, parsed.length), (Some(&name), Some(3), request.len()));
            }
        }
    }
}
