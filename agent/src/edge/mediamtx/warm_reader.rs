//! One reader that keeps one stream open: RTSP 1.0 over TCP (RFC 2326), every track interleaved, every byte thrown
//! away unread.
//!
//! ```text
//! DESCRIBE -> SETUP of each track -> PLAY -> throw away, a sign of life every 20 s -> TEARDOWN
//! ```

use std::cell::RefCell;
use std::io;
use std::time::Duration;

use rtsp_types::{Message, ParseError, StatusCode, headers};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior};

/// MediaMTX holds a reader of an on-demand path for 10 s (`sourceOnDemandStartTimeout`); the rest is for us.
const OPENING: Duration = Duration::from_secs(12);

/// MediaMTX ends a session over TCP with its connection, and a silent connection after 60 s.
const SIGN_OF_LIFE: Duration = Duration::from_secs(20);

/// Without a byte for this long the stream is opened anew.
const SILENCE: Duration = Duration::from_secs(15);

/// What has arrived is thrown away this often and not at every packet, which would wake the agent hundreds of times a
/// second per stream. The kernel's buffer holds 128 KiB and more: 20 Mbit/s in this time.
const PACE: Duration = Duration::from_millis(50);

/// Bound on one answer, SDP included.
const MAX_ANSWER: usize = 64 * 1024;

/// Tracks beyond this make a stream that is not opened.
const MAX_TRACKS: usize = 16;

const SCRAP: usize = 64 * 1024;

thread_local! {
    /// Where bytes go that nobody wants, one place for all streams.
    static SCRAP_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug, thiserror::Error)]
pub(super) enum WarmError {
    #[error("no RTSP connection to {address}")]
    Connect { address: String, source: io::Error },
    #[error("the RTSP connection broke")]
    Broken(#[from] io::Error),
    #[error("the server closed the connection")]
    Closed,
    #[error("not open within {OPENING:?}")]
    Slow,
    #[error("no media for {SILENCE:?}")]
    Silent,
    #[error("{method} was answered {status}{hint}")]
    Refused { method: &'static str, status: u16, hint: &'static str },
    #[error("{method} was answered by something that is not RTSP as it should be: {what}")]
    Odd { method: &'static str, what: &'static str },
}

/// What one stream needs to be opened.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// `host:port`.
    pub(super) address: String,
    /// `rtsp://host:port/stream?warm=NODE`.
    pub(super) url: String,
    /// Value of the `Authorization` header.
    pub(super) authorization: Option<String>,
}

/// A session that plays.
#[derive(Debug)]
pub(super) struct WarmReader {
    stream: TcpStream,
    session: String,
    /// URL of the whole stream.
    aggregate: String,
    authorization: Option<String>,
    next_cseq: u32,
}

impl WarmReader {
    pub(super) async fn open(target: &Target) -> Result<Self, WarmError> {
        tokio::time::timeout(OPENING, Self::open_in_any_time(target)).await.map_err(|_| WarmError::Slow)?
    }

    async fn open_in_any_time(target: &Target) -> Result<Self, WarmError> {
        let connect = |source| WarmError::Connect { address: target.address.clone(), source };
        let stream = TcpStream::connect(&target.address).await.map_err(connect)?;
        stream.set_nodelay(true)?;
        let mut reader = Self {
            stream,
            session: String::new(),
            aggregate: target.url.clone(),
            authorization: target.authorization.clone(),
            next_cseq: 1,
        };
        let description = reader.ask("DESCRIBE", &target.url, "Accept: application/sdp\r\n").await?;
        if let Some(base) = description.content_base {
            reader.aggregate = base;
        }
        let controls = track_controls(&description.body)?;
        for (track, control) in controls.iter().enumerate() {
            let transport = format!("Transport: RTP/AVP/TCP;unicast;interleaved={}-{}\r\n", 2 * track, 2 * track + 1);
            let answer = reader.ask("SETUP", &track_url(&reader.aggregate, control), &transport).await?;
            if let Some(session) = answer.session {
                reader.session = session;
            }
        }
        if reader.session.is_empty() {
            return Err(WarmError::Odd { method: "SETUP", what: "no session" });
        }
        let aggregate = reader.aggregate.clone();
        reader.ask("PLAY", &aggregate, "Range: npt=0-\r\n").await?;
        Ok(reader)
    }

    /// Throws away what comes until told to stop, by a word or by the sender's end, or until something is wrong.
    /// `thrown_away` is given the bytes of each turn.
    pub(super) async fn keep_open(
        mut self,
        stop: &mut oneshot::Receiver<()>,
        thrown_away: impl Fn(usize),
    ) -> Result<(), WarmError> {
        let broke = tokio::select! {
            biased;
            _ = &mut *stop => None,
            broke = self.throw_away_for_ever(thrown_away) => Some(broke),
        };
        if let Some(broke) = broke {
            return Err(broke);
        }
        let aggregate = self.aggregate.clone();
        // Politeness only: the server ends the session with the connection.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.send("TEARDOWN", &aggregate, "")).await;
        Ok(())
    }

    async fn throw_away_for_ever(&mut self, thrown_away: impl Fn(usize)) -> WarmError {
        let mut sign_of_life = tokio::time::interval(SIGN_OF_LIFE);
        sign_of_life.set_missed_tick_behavior(MissedTickBehavior::Delay);
        sign_of_life.reset();
        let mut last_byte = Instant::now();
        loop {
            let turn = tokio::select! {
                readable = self.stream.readable() => readable.map_err(WarmError::from).and_then(|()| throw_away(&self.stream)),
                () = tokio::time::sleep_until(last_byte + SILENCE) => Err(WarmError::Silent),
                _ = sign_of_life.tick() => {
                    let aggregate = self.aggregate.clone();
                    self.send("GET_PARAMETER", &aggregate, "").await.map(|()| 0)
                }
            };
            match turn {
                Err(broke) => return broke,
                Ok(0) => {}
                Ok(bytes) => {
                    thrown_away(bytes);
                    last_byte = Instant::now();
                    tokio::time::sleep(PACE).await;
                }
            }
        }
    }

    async fn send(&mut self, method: &'static str, url: &str, more: &str) -> Result<(), WarmError> {
        let mut request = format!("{method} {url} RTSP/1.0\r\nCSeq: {}\r\nUser-Agent: mtxfleet\r\n", self.next_cseq);
        self.next_cseq = self.next_cseq.wrapping_add(1);
        if !self.session.is_empty() {
            request.push_str(&format!("Session: {}\r\n", self.session));
        }
        if let Some(authorization) = &self.authorization {
            request.push_str(&format!("Authorization: {authorization}\r\n"));
        }
        request.push_str(more);
        request.push_str("\r\n");
        self.stream.write_all(request.as_bytes()).await?;
        Ok(())
    }

    /// Before PLAY only: afterwards answers stand among the media, and are thrown away with it.
    async fn ask(&mut self, method: &'static str, url: &str, more: &str) -> Result<Reply, WarmError> {
        self.send(method, url, more).await?;
        let mut buffer = Vec::with_capacity(4096);
        loop {
            if self.stream.read_buf(&mut buffer).await? == 0 {
                return Err(WarmError::Closed);
            }
            match Message::<&[u8]>::parse(&buffer) {
                Ok((Message::Response(response), _)) => return Reply::of(method, &response),
                Ok(_) => return Err(WarmError::Odd { method, what: "no response" }),
                Err(ParseError::Error) => return Err(WarmError::Odd { method, what: "garbage" }),
                Err(ParseError::Incomplete(_)) if buffer.len() >= MAX_ANSWER => {
                    return Err(WarmError::Odd { method, what: "an answer without end" });
                }
                Err(ParseError::Incomplete(_)) => {}
            }
        }
    }
}

/// What is needed of a response.
struct Reply {
    session: Option<String>,
    content_base: Option<String>,
    body: Vec<u8>,
}

impl Reply {
    fn of(method: &'static str, response: &rtsp_types::Response<&[u8]>) -> Result<Self, WarmError> {
        if response.status() != StatusCode::Ok {
            let status = u16::from(response.status());
            let hint = match status {
                401 => {
                    ": set the fleet's credentials, allow that user `action: read`, and leave `basic` in rtspAuthMethods"
                }
                404 => ": nobody publishes it",
                461 => ": allow tcp in rtspTransports",
                _ => "",
            };
            return Err(WarmError::Refused { method, status, hint });
        }
        let header = |name: rtsp_types::HeaderName| response.header(&name).map(|value| value.as_str().trim());
        // These are sent back in requests, where a line's end or a space would make another request of it.
        let sendable =
            |text: &str| !text.is_empty() && text.len() <= 1024 && text.bytes().all(|b| b.is_ascii_graphic());
        let session = header(headers::SESSION).and_then(|value| value.split(';').next()).map(str::trim);
        let content_base = header(headers::CONTENT_BASE);
        for text in [session, content_base].into_iter().flatten() {
            if !sendable(text) {
                return Err(WarmError::Odd { method, what: "a header that cannot be sent back" });
            }
        }
        Ok(Self {
            session: session.map(str::to_owned),
            content_base: content_base.map(str::to_owned),
            body: response.body().to_vec(),
        })
    }
}

/// The `a=control` of each `m=` section (RFC 2326 appendix C.1.1).
fn track_controls(sdp: &[u8]) -> Result<Vec<String>, WarmError> {
    let odd = |what| WarmError::Odd { method: "DESCRIBE", what };
    let sdp = std::str::from_utf8(sdp).map_err(|_| odd("an SDP that is no text"))?;
    let mut controls: Vec<Option<&str>> = Vec::new();
    for line in sdp.lines().map(str::trim_end) {
        if line.starts_with("m=") {
            controls.push(None);
        } else if let (Some(control), Some(track)) = (line.strip_prefix("a=control:"), controls.last_mut()) {
            *track = Some(control);
        }
    }
    if controls.is_empty() || controls.len() > MAX_TRACKS {
        return Err(odd("an SDP with no track, or too many"));
    }
    let sendable = |control: &&str| control.len() <= 1024 && control.bytes().all(|b| b.is_ascii_graphic());
    let controls: Option<Vec<_>> = controls.into_iter().map(|c| c.filter(sendable).map(str::to_owned)).collect();
    controls.ok_or_else(|| odd("a track without a usable control attribute"))
}

fn track_url(aggregate: &str, control: &str) -> String {
    if control.starts_with("rtsp://") || control.starts_with("rtsps://") {
        control.to_owned()
    } else if control == "*" {
        aggregate.to_owned()
    } else {
        format!("{}/{control}", aggregate.trim_end_matches('/'))
    }
}

/// Empties the socket's receive buffer. Bounded by a turn, so that one fast stream does not hold up the agent.
fn throw_away(stream: &TcpStream) -> Result<usize, WarmError> {
    SCRAP_BUFFER.with_borrow_mut(|scrap| {
        scrap.resize(SCRAP, 0);
        let mut bytes = 0;
        for _ in 0..64 {
            match stream.try_read(scrap) {
                Ok(0) => return Err(WarmError::Closed),
                Ok(n) => {
                    bytes += n;
                    // Less than asked for: the buffer is empty, and one more call would only say so.
                    if n < scrap.len() {
                        break;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_track_is_set_up_by_its_own_control() {
        let sdp = b"v=0\r\na=control:*\r\nm=video 0 RTP/AVP 96\r\na=control:trackID=0\r\n\
            m=audio 0 RTP/AVP 97\r\na=rtpmap:97 opus/48000/2\r\na=control:trackID=1\r\n";
        assert_eq!(track_controls(sdp).unwrap(), ["trackID=0", "trackID=1"]);
    }

    #[test]
    fn a_control_that_would_smuggle_a_request_is_refused() {
        for sdp in [
            &b"m=video 0 RTP/AVP 96\r\na=control:x RTSP/1.0\r\n"[..],
            b"m=video 0 RTP/AVP 96\r\n",
            b"v=0\r\n",
            b"m=video 0 RTP/AVP 96\r\na=control:\xff\r\n",
        ] {
            assert!(track_controls(sdp).is_err(), "{}", String::from_utf8_lossy(sdp));
        }
        assert!(track_controls("m=a\n".repeat(17).as_bytes()).is_err());
    }

    #[test]
    fn the_query_stays_in_front_of_the_track() {
        // As MediaMTX takes it apart: everything before `/trackID=` is path and query.
        assert_eq!(track_url("rtsp://h:1/cam1?warm=n1/", "trackID=0"), "rtsp://h:1/cam1?warm=n1/trackID=0");
        assert_eq!(track_url("rtsp://h:1/cam1", "rtsp://h:1/cam1/a"), "rtsp://h:1/cam1/a");
        assert_eq!(track_url("rtsp://h:1/cam1/", "*"), "rtsp://h:1/cam1/");
    }
}
