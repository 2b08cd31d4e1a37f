//! One RTSP connection of a local reader (RFC 2326), and its session.
//!
//! ```text
//!   Idle --DESCRIBE--> Idle, upstream held --SETUP--> Ready --PLAY--> Playing
//! ```
//!
//! TEARDOWN, a closed connection, the end of the upstream, and silence before PLAY end it from every state. A request
//! that does not fit the state is answered so and changes nothing; what is no RTSP is answered 400, and ends it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::BytesMut;
use mtxfleet_wire::StreamName;
use rtsp_types::{HeaderName, Method, Request, Response, StatusCode, Url, Version, headers};
use tokio::io::AsyncRead;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::channel::{Channel, Counters, QUEUE_ITEMS, Reader};
use crate::message::{Headers as _, Incoming, MessageReader, interleaved};
use crate::streams::{JoinError, Lease, Streams};
use crate::writer::{self, Outgoing};

/// A connection that does not play, and says nothing for this long, is closed. Told to clients, who keep the session
/// alive more often. One that plays lives as long as it takes packets.
const SESSION_TIMEOUT: Duration = Duration::from_secs(60);

const METHODS: &str = "OPTIONS, DESCRIBE, SETUP, PLAY, GET_PARAMETER, TEARDOWN";

/// Serves one connection until it ends.
pub(crate) async fn serve(streams: Arc<Streams>, socket: TcpStream, read_already: BytesMut, write_timeout: Duration) {
    let peer = socket.peer_addr().ok();
    let ending = streams.ending();
    // Packets are small, and a reader wants them now.
    let _ = socket.set_nodelay(true);
    let (read, write) = socket.into_split();
    let (queue, outgoing) = mpsc::channel(QUEUE_ITEMS);
    let counters = Arc::<Counters>::default();
    let mut writer = tokio::spawn(writer::write_all(write, outgoing, Arc::clone(&counters), write_timeout));
    let mut session = Session::new(streams, queue, Arc::clone(&counters));
    let (why, at_once) = tokio::select! {
        end = session.run(MessageReader::after(read_already, read)) => (end.to_string(), matches!(end, End::UpstreamEnded)),
        () = ending.cancelled() => (End::UpstreamEnded.to_string(), true),
        failed = &mut writer => (failed.map_or_else(|e| e.to_string(), |done| match done {
            Ok(()) => "closed".to_owned(),
            Err(error) => error.to_string(),
        }), true),
    };
    let stream = session.lease.as_ref().map(|lease| lease.stream.to_string());
    drop(session);
    // The queue is dropped: the writer sends what is left, and closes. A reader that takes it drop by drop is not waited for.
    if !at_once && !writer.is_finished() {
        tokio::select! {
            _ = tokio::time::timeout(write_timeout, &mut writer) => {}
            () = ending.cancelled() => {}
        }
    }
    writer.abort();
    let (packets, discarded) = (counters.packets.load(Relaxed), counters.discarded.load(Relaxed));
    tracing::info!(?peer, stream, why, packets, discarded, "a reader has left");
}

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("closed by the reader")]
    Closed,
    #[error(transparent)]
    Broken(#[from] io::Error),
    #[error("silent for {SESSION_TIMEOUT:?} without playing")]
    Silent,
    #[error("the upstream is over")]
    UpstreamEnded,
    #[error("{0} answered {1}")]
    Answered(String, u16),
}

struct Session {
    streams: Arc<Streams>,
    queue: mpsc::Sender<Outgoing>,
    counters: Arc<Counters>,
    /// Told to the client with its first SETUP.
    id: String,
    /// From the first DESCRIBE or SETUP on.
    lease: Option<Lease>,
    /// The interleaved channels of RTP and RTCP, for each track that was set up.
    channels: Vec<Option<(u8, u8)>>,
    /// Our number at the channel.
    playing: Option<u64>,
}

/// An answer, and whether the connection ends with it.
struct Answer {
    response: Response<Vec<u8>>,
    close: bool,
}

impl From<StatusCode> for Answer {
    fn from(status: StatusCode) -> Self {
        Self::new(status, &[])
    }
}

impl Answer {
    fn new(status: StatusCode, more: &[(HeaderName, &str)]) -> Self {
        let mut builder = Response::builder(Version::V1_0, status).header(headers::SERVER, "mtxfleet-relay");
        for (name, value) in more {
            builder = builder.header(name.clone(), *value);
        }
        Self { response: builder.build(Vec::new()), close: false }
    }

    fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    fn bytes(mut self, request: Option<&Request<Vec<u8>>>, session: Option<&str>) -> Vec<u8> {
        if let Some(sequence) = request.and_then(|request| request.header(&headers::CSEQ)) {
            self.response.insert_header(headers::CSEQ, sequence.clone());
        }
        if let Some(id) = session {
            self.response.insert_header(headers::SESSION, format!("{id};timeout={}", SESSION_TIMEOUT.as_secs()));
        }
        let mut bytes = Vec::new();
        // Writing to memory does not fail.
        let _ = self.response.write(&mut bytes);
        bytes
    }
}

impl Session {
    fn new(streams: Arc<Streams>, queue: mpsc::Sender<Outgoing>, counters: Arc<Counters>) -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        Self { streams, queue, counters, id, lease: None, channels: Vec::new(), playing: None }
    }

    /// Handles messages until the connection ends.
    async fn run(&mut self, mut reader: MessageReader<impl AsyncRead + Unpin>) -> End {
        loop {
            // One that plays and is gone is noticed by writing to it.
            let patience = if self.playing.is_some() { Duration::MAX } else { SESSION_TIMEOUT };
            let message = tokio::select! {
                message = timeout(patience, reader.next()) => message,
                () = ended(self.lease.as_ref()) => return End::UpstreamEnded,
            };
            let request = match message {
                Ok(Ok(Some(Incoming::Request(request)))) => request,
                // Receiver reports, and answers to what was never asked.
                Ok(Ok(Some(Incoming::Data { .. } | Incoming::Response(_)))) => continue,
                Ok(Ok(None)) => return End::Closed,
                Ok(Err(error)) => {
                    if error.kind() == io::ErrorKind::InvalidData {
                        let answer = Answer::from(StatusCode::BadRequest).bytes(None, None);
                        let _ = self.queue.send(Outgoing::Message(answer)).await;
                    }
                    return End::Broken(error);
                }
                Err(_) => return End::Silent,
            };
            if let Err(end) = self.handle(&request).await {
                return end;
            }
        }
    }

    async fn handle(&mut self, request: &Request<Vec<u8>>) -> Result<(), End> {
        let answer = match request.method() {
            _ if !self.is_ours(request) => StatusCode::SessionNotFound.into(),
            Method::Options => Answer::new(StatusCode::Ok, &[(headers::PUBLIC, METHODS)]),
            Method::Describe => self.describe(request).await,
            Method::Setup => self.setup(request).await,
            Method::Play => match self.play(request) {
                // The answer is in the queue, before the first packet.
                None => return Ok(()),
                Some(answer) => answer,
            },
            Method::GetParameter | Method::SetParameter => StatusCode::Ok.into(),
            Method::Teardown => Answer::from(StatusCode::Ok).closing(),
            _ => StatusCode::NotImplemented.into(),
        };
        let (status, close) = (answer.response.status(), answer.close);
        let bytes = answer.bytes(Some(request), self.session_id());
        self.queue.send(Outgoing::Message(bytes)).await.map_err(|_| End::Closed)?;
        match close {
            true => Err(End::Answered(format!("{:?}", request.method()), status.into())),
            false => Ok(()),
        }
    }

    async fn describe(&mut self, request: &Request<Vec<u8>>) -> Answer {
        match self.lease_for(request).await {
            Ok(channel) => {
                // Without the query, behind which a client would put the name of a track.
                let url = request.request_uri().map_or("", Url::as_str).split('?').next().unwrap_or_default();
                let base = format!("{}/", url.trim_end_matches('/'));
                let more = [(headers::CONTENT_BASE, base.as_str()), (headers::CONTENT_TYPE, "application/sdp")];
                let Answer { response, close } = Answer::new(StatusCode::Ok, &more);
                Answer { response: response.replace_body(channel.sdp()), close }
            }
            Err(answer) => answer,
        }
    }

    async fn setup(&mut self, request: &Request<Vec<u8>>) -> Answer {
        if self.playing.is_some() {
            return StatusCode::MethodNotValidInThisState.into();
        }
        let Some(channels) = request.text(&headers::TRANSPORT).and_then(interleaved) else {
            return StatusCode::UnsupportedTransport.into();
        };
        let channel = match self.lease_for(request).await {
            Ok(channel) => channel,
            Err(answer) => return answer,
        };
        self.channels.resize(channel.tracks.len(), None);
        let track = request.request_uri().and_then(|url| track_id(url.as_str()));
        let Some((track, ssrc)) = track.and_then(|track| Some((track, channel.ssrc(track)?))) else {
            return StatusCode::NotFound.into();
        };
        // The client library takes no more than 16 tracks, so the channels fit.
        let (rtp, rtcp) = channels.unwrap_or((2 * track as u8, 2 * track as u8 + 1));
        let mut others = self.channels.iter().enumerate().filter(|(other, _)| *other != track).filter_map(|(_, c)| *c);
        if rtp == rtcp || others.any(|(a, b)| [rtp, rtcp].contains(&a) || [rtp, rtcp].contains(&b)) {
            return StatusCode::BadRequest.into();
        }
        self.channels[track] = Some((rtp, rtcp));
        let transport = format!("RTP/AVP/TCP;unicast;interleaved={rtp}-{rtcp};ssrc={ssrc:08X}");
        Answer::new(StatusCode::Ok, &[(headers::TRANSPORT, &transport)])
    }

    /// `None` when it plays and the answer is on its way.
    fn play(&mut self, request: &Request<Vec<u8>>) -> Option<Answer> {
        let Some(lease) = self.lease.as_ref().filter(|_| self.session_id().is_some()) else {
            return Some(StatusCode::MethodNotValidInThisState.into());
        };
        if self.playing.is_some() {
            // Some clients say PLAY again to keep the session alive.
            return Some(StatusCode::Ok.into());
        }
        let url = request.request_uri().map_or("", Url::as_str).trim_end_matches('/');
        let reader =
            Reader { channels: self.channels.clone(), queue: self.queue.clone(), counters: Arc::clone(&self.counters) };
        let id = lease.channel.join(reader, |starts| {
            let set_up = self.channels.iter().zip(starts).enumerate().filter(|(_, (channels, _))| channels.is_some());
            let info = set_up.map(|(track, (_, start))| {
                let known = start.map(|start| format!(";seq={};rtptime={}", start.sequence, start.timestamp));
                format!("url={url}/trackID={track}{}", known.unwrap_or_default())
            });
            let info = info.collect::<Vec<_>>().join(",");
            let more = [(headers::RTP_INFO, info.as_str()), (headers::RANGE, "npt=now-")];
            Answer::new(StatusCode::Ok, &more).bytes(Some(request), Some(&self.id))
        });
        let Some(id) = id else { return Some(Answer::from(StatusCode::ServiceUnavailable).closing()) };
        tracing::info!(stream = %lease.stream, reader = id, "a reader plays");
        self.playing = Some(id);
        None
    }

    /// The channel of the request's stream, opened where this connection holds none yet.
    async fn lease_for(&mut self, request: &Request<Vec<u8>>) -> Result<Arc<Channel>, Answer> {
        let stream = target(request).ok_or_else(|| Answer::from(StatusCode::BadRequest).closing())?;
        if let Some(lease) = &self.lease {
            if lease.stream == stream {
                return Ok(Arc::clone(&lease.channel));
            }
            if self.session_id().is_some() {
                return Err(StatusCode::MethodNotValidInThisState.into());
            }
        }
        match self.streams.join(&stream).await {
            Ok(lease) => {
                let channel = Arc::clone(&lease.channel);
                (self.lease, self.channels) = (Some(lease), Vec::new());
                Ok(channel)
            }
            Err(error) => {
                tracing::info!(%stream, %error, "a reader is refused");
                let status = match error {
                    JoinError::TooMany => StatusCode::ServiceUnavailable,
                    JoinError::NotOpened(_) => StatusCode::NotFound,
                };
                Err(Answer::from(status).closing())
            }
        }
    }

    /// From the first SETUP on.
    fn session_id(&self) -> Option<&str> {
        self.channels.iter().any(Option::is_some).then_some(self.id.as_str())
    }

    /// A request may name no session, or this one.
    fn is_ours(&self, request: &Request<Vec<u8>>) -> bool {
        let named = request.text(&headers::SESSION).map(|value| value.split(';').next().unwrap_or_default().trim());
        named.is_none_or(|named| named == self.id)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let (Some(lease), Some(id)) = (&self.lease, self.playing) {
            lease.channel.leave(id);
        }
    }
}

async fn ended(lease: Option<&Lease>) {
    match lease {
        Some(lease) => lease.channel.closed.cancelled().await,
        None => std::future::pending().await,
    }
}

/// The stream that a request's URL names; a SETUP's has the track's control behind it.
fn target(request: &Request<Vec<u8>>) -> Option<StreamName> {
    let path = request.request_uri()?.path().strip_prefix('/')?;
    let path = match (request.method(), path.rsplit_once('/')) {
        (Method::Setup, Some((front, control))) if control.starts_with("trackID=") => front,
        _ => path.trim_end_matches('/'),
    };
    StreamName::new(path).ok()
}

/// The track that a SETUP is for; the first where it does not say.
fn track_id(url: &str) -> Option<usize> {
    match url.rsplit_once("/trackID=") {
        // A query may stand behind it.
        Some((_, id)) => id.split(['?', '/']).next()?.parse().ok(),
        None => Some(0),
    }
}

#[cfg(test)]
mod tests;
