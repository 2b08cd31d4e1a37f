//! One RTSP connection of a publisher or reader, and its session.
//!
//! ```text
//!          ANNOUNCE            SETUP, RECORD
//!  Idle ------------> Announced ------------> Publishing
//!   |       SETUP                PLAY
//!   +------------> Prepared ------------> Playing
//! ```
//!
//! TEARDOWN, a closed connection, a kick, the end of the path's source and silence end it from every state. A request
//! that does not fit the state is answered 400 or 501 and changes nothing.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use anyhow::{anyhow, bail};
use rtsp_types::{HeaderName, Method, Request, Response, StatusCode, Url, Version, headers};
use tokio::{net::TcpStream, sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    config::{Action, Credentials},
    media::{self, Track},
    message::{self, Headers, Incoming, MessageReader, Outgoing, interleaved},
    paths::{Path, Server, SessionRecord, Shown},
    stream::{Reader, Stream},
};

/// A connection that neither plays nor publishes, and says nothing for this long, is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Told to clients, in seconds: they keep the session alive more often than this.
const SESSION_TIMEOUT: &str = "55";

const LONGEST_PATH: usize = 512;

const METHODS: &str = "DESCRIBE, ANNOUNCE, SETUP, PLAY, RECORD, PAUSE, GET_PARAMETER, TEARDOWN";

/// Serves one connection until it ends.
pub(super) async fn serve(server: Arc<Server>, socket: TcpStream, peer: SocketAddr) {
    // Packets are small, and a viewer wants them now.
    let _ = socket.set_nodelay(true);
    let (read, write) = socket.into_split();
    let (queue, outgoing) = mpsc::channel(server.config.write_queue_size);
    let kick = CancellationToken::new();
    let mut writer = tokio::spawn(message::write_all(write, outgoing, server.config.write_timeout));
    let mut client = Client::new(server, peer, queue, kick.clone());
    let why = tokio::select! {
        why = client.run(MessageReader::new(read)) => why,
        () = kick.cancelled() => anyhow!("terminated"),
        failed = &mut writer => match failed {
            Ok(Err(error)) => anyhow!(error),
            _ => anyhow!("closed"),
        },
    };
    tracing::info!("{peer}: {why:#}");
    let kicked = kick.is_cancelled();
    client.end();
    // Drops the queue: the writer sends what is left, within its timeout, and closes.
    drop(client);
    if kicked {
        writer.abort();
    } else if !writer.is_finished() {
        let _ = writer.await;
    }
}

struct Client {
    server: Arc<Server>,
    peer: SocketAddr,
    queue: mpsc::Sender<Outgoing>,
    record: Arc<SessionRecord>,
    listed: bool,
    user_agent: String,
    role: Role,
}

enum Role {
    Idle,
    Announced { path: String, tracks: Vec<Track>, channels: Vec<Option<(u8, u8)>> },
    Publishing { path: Arc<Path>, stream: Arc<Stream>, channels: Vec<Option<(u8, u8)>> },
    Prepared { path: Arc<Path>, stream: Arc<Stream>, channels: Vec<Option<(u8, u8)>> },
    Playing { path: Arc<Path>, stream: Arc<Stream> },
}

/// An answer, and whether the connection ends with it.
struct Answer {
    response: Response<Vec<u8>>,
    close: bool,
}

impl Client {
    fn new(server: Arc<Server>, peer: SocketAddr, queue: mpsc::Sender<Outgoing>, kick: CancellationToken) -> Client {
        let record = Arc::new(SessionRecord {
            id: Uuid::new_v4(),
            connection: Uuid::new_v4(),
            created: SystemTime::now(),
            peer,
            counters: Arc::default(),
            kick,
            shown: Mutex::new(Shown { state: "idle", ..Shown::default() }),
        });
        Client { server, peer, queue, record, listed: false, user_agent: String::new(), role: Role::Idle }
    }

    /// Handles messages until the connection ends, and says why it did.
    async fn run(&mut self, mut reader: MessageReader<impl tokio::io::AsyncRead + Unpin>) -> anyhow::Error {
        loop {
            let step = tokio::select! {
                message = timeout(self.patience(), reader.next()) => match message {
                    Ok(Ok(Some(message))) => self.handle(message).await,
                    Ok(Ok(None)) => Err(anyhow!("closed by the client")),
                    Ok(Err(error)) => Err(error.into()),
                    Err(_) => Err(anyhow!("silent for too long")),
                },
                () = source_ended(&self.role) => Err(anyhow!("the source ended")),
            };
            if let Err(why) = step {
                return why;
            }
        }
    }

    fn patience(&self) -> Duration {
        match self.role {
            Role::Publishing { .. } => self.server.config.read_timeout,
            // A reader over TCP that is gone is noticed by writing to it.
            Role::Playing { .. } => Duration::MAX,
            _ => IDLE_TIMEOUT,
        }
    }

    async fn handle(&mut self, message: Incoming) -> anyhow::Result<()> {
        let request = match message {
            Incoming::Request(request) => request,
            Incoming::Response(_) => return Ok(()),
            Incoming::Data { channel, data } => {
                self.take(channel, data);
                return Ok(());
            }
        };
        if let Some(agent) = request.text(&headers::USER_AGENT) {
            self.user_agent = agent.chars().take(200).collect();
        }
        let Answer { mut response, close } = match request.method() {
            Method::Options => self.answer(StatusCode::Ok, &[(headers::PUBLIC, METHODS)]),
            Method::Describe => self.describe(&request).await,
            Method::Announce => self.announce(&request),
            Method::Setup => self.setup(&request).await,
            Method::Record => self.record(),
            Method::Play => self.play(&request),
            Method::GetParameter | Method::SetParameter => self.answer(StatusCode::Ok, &[]),
            Method::Teardown => self.answer(StatusCode::Ok, &[]).closing(),
            Method::Pause => self.answer(StatusCode::NotImplemented, &[]),
            other => bail!("unknown method {other:?}"),
        };
        if let Some(sequence) = request.header(&headers::CSEQ) {
            response.insert_header(headers::CSEQ, sequence.clone());
        }
        let mut bytes = Vec::new();
        response.write(&mut bytes)?;
        self.queue.send(Outgoing::Message(bytes)).await?;
        if *request.method() == Method::Play && response.status() == StatusCode::Ok {
            self.start_playing();
        }
        match close {
            true => bail!("{:?} answered {}", request.method(), u16::from(response.status())),
            false => Ok(()),
        }
    }

    async fn describe(&mut self, request: &Request<Vec<u8>>) -> Answer {
        let Some((path, query)) = target(request) else { return self.refuse(StatusCode::BadRequest) };
        if let Err(answer) = self.authorize(Action::Read, &path, request) {
            return answer;
        }
        match self.server.stream_for(&path, &query).await {
            Ok((_, stream)) => {
                let base = format!("{}/", request.request_uri().map_or("", Url::as_str).trim_end_matches('/'));
                let mut answer = self.answer(
                    StatusCode::Ok,
                    &[(headers::CONTENT_BASE, &base), (headers::CONTENT_TYPE, "application/sdp")],
                );
                answer.response = answer.response.replace_body(stream.describe());
                answer
            }
            Err(status) => self.refuse(status),
        }
    }

    fn announce(&mut self, request: &Request<Vec<u8>>) -> Answer {
        let Some((path, query)) = target(request) else { return self.refuse(StatusCode::BadRequest) };
        if let Err(answer) = self.authorize(Action::Publish, &path, request) {
            return answer;
        }
        match (&self.role, media::tracks(request.body())) {
            (Role::Idle, Ok(tracks)) => {
                let channels = vec![None; tracks.len()];
                self.list(&path, &query, "idle");
                self.role = Role::Announced { path, tracks, channels };
                self.answer(StatusCode::Ok, &[])
            }
            (_, Err(error)) => {
                tracing::info!("{}: {error:#}", self.peer);
                self.refuse(StatusCode::BadRequest)
            }
            _ => self.refuse(StatusCode::BadRequest),
        }
    }

    async fn setup(&mut self, request: &Request<Vec<u8>>) -> Answer {
        let Some(channels) = request.text(&headers::TRANSPORT).and_then(interleaved) else {
            return self.answer(StatusCode::UnsupportedTransport, &[]);
        };
        if matches!(self.role, Role::Idle)
            && let Err(answer) = self.prepare(request).await
        {
            return answer;
        }
        let url = request.request_uri().map_or("", Url::as_str).to_owned();
        let (track, taken) = match &mut self.role {
            Role::Announced { tracks, channels, .. } => {
                let track = tracks
                    .iter()
                    .position(|track| track.control == url || url.ends_with(&format!("/{}", track.control)));
                (track, channels)
            }
            Role::Prepared { channels, .. } => (track_id(&url).filter(|track| *track < channels.len()), channels),
            _ => return self.refuse(StatusCode::BadRequest),
        };
        let Some(track) = track else { return self.refuse(StatusCode::NotFound) };
        // At most 16 tracks, so the channels fit.
        let (rtp, rtcp) = channels.unwrap_or((2 * track as u8, 2 * track as u8 + 1));
        let in_use = taken.iter().flatten().any(|(a, b)| [rtp, rtcp].contains(a) || [rtp, rtcp].contains(b));
        if in_use || rtp == rtcp {
            return self.refuse(StatusCode::BadRequest);
        }
        taken[track] = Some((rtp, rtcp));
        let mut transport = format!("RTP/AVP/TCP;unicast;interleaved={rtp}-{rtcp}");
        if let Role::Prepared { stream, .. } = &self.role {
            transport += &format!(";ssrc={:08X}", stream.ssrc(track));
        }
        self.answer(StatusCode::Ok, &[(headers::TRANSPORT, &transport)])
    }

    /// The first SETUP of a reader: finds the stream.
    async fn prepare(&mut self, request: &Request<Vec<u8>>) -> Result<(), Answer> {
        let (path, query) = target(request).ok_or_else(|| self.refuse(StatusCode::BadRequest))?;
        self.authorize(Action::Read, &path, request)?;
        match self.server.stream_for(&path, &query).await {
            Ok((path, stream)) => {
                self.server.add_reader(&path, self.record.id);
                self.list(&path.name, &query, "read");
                let channels = vec![None; stream.tracks.len()];
                self.role = Role::Prepared { path, stream, channels };
                Ok(())
            }
            Err(status) => Err(self.refuse(status)),
        }
    }

    fn record(&mut self) -> Answer {
        let (path, tracks, channels) = match std::mem::replace(&mut self.role, Role::Idle) {
            Role::Announced { path, tracks, channels } if channels.iter().all(Option::is_some) => {
                (path, tracks, channels)
            }
            other => {
                self.role = other;
                return self.refuse(StatusCode::BadRequest);
            }
        };
        match self.server.publish(&self.record, &path, tracks) {
            Ok((path, stream)) => {
                self.record.show(|shown| shown.state = "publish");
                self.role = Role::Publishing { path, stream, channels };
                self.answer(StatusCode::Ok, &[])
            }
            Err(status) => self.refuse(status),
        }
    }

    fn play(&mut self, request: &Request<Vec<u8>>) -> Answer {
        let Role::Prepared { stream, channels, .. } = &self.role else {
            return self.answer(StatusCode::NotImplemented, &[]);
        };
        let url = request.request_uri().map_or("", Url::as_str).trim_end_matches('/');
        let info = channels.iter().enumerate().filter(|(_, channels)| channels.is_some()).map(|(track, _)| {
            let start = stream.next_packet(track).map(|(seq, time)| format!(";seq={seq};rtptime={time}"));
            format!("url={url}/trackID={track}{}", start.unwrap_or_default())
        });
        let info = info.collect::<Vec<_>>().join(",");
        self.record.show(|shown| {
            if let (true, Some((_, query))) = (shown.query.is_empty(), target(request)) {
                shown.query = query;
            }
        });
        self.answer(StatusCode::Ok, &[(headers::RTP_INFO, &info)])
    }

    /// After the answer to PLAY is queued, so that no packet goes before it.
    fn start_playing(&mut self) {
        self.role = match std::mem::replace(&mut self.role, Role::Idle) {
            Role::Prepared { path, stream, channels } => {
                stream.add_reader(Reader {
                    session: self.record.id,
                    channels,
                    queue: self.queue.clone(),
                    counters: self.record.counters.clone(),
                });
                Role::Playing { path, stream }
            }
            other => other,
        };
    }

    /// Interleaved data: a publisher's packets, or a reader's reports.
    fn take(&mut self, channel: u8, data: bytes::BytesMut) {
        let Role::Publishing { stream, channels, .. } = &self.role else {
            self.record.counters.received(data.len(), true);
            return;
        };
        for (track, channels) in channels.iter().enumerate() {
            match channels {
                Some((rtp, _)) if *rtp == channel => {
                    self.record.counters.received(data.len(), false);
                    return stream.write_rtp(track, data);
                }
                Some((_, rtcp)) if *rtcp == channel => {
                    self.record.counters.received(data.len(), true);
                    return stream.write_rtcp(track, &data);
                }
                _ => {}
            }
        }
    }

    fn authorize(&self, action: Action, path: &str, request: &Request<Vec<u8>>) -> Result<(), Answer> {
        let credentials = request.text(&headers::AUTHORIZATION).and_then(Credentials::from_header);
        let ip = self.peer.ip();
        self.server.authorize(action, path, credentials.as_ref(), ip).map_err(|unauthorized| {
            let ask = (headers::WWW_AUTHENTICATE, "Basic realm=\"ipcam\"");
            let answer = self.answer(StatusCode::Unauthorized, &[ask]);
            // Wrong ones end the connection, so that guessing takes time.
            if unauthorized.ask { answer } else { answer.closing() }
        })?;
        if let Some(credentials) = credentials {
            self.record.show(|shown| shown.user = credentials.user);
        }
        Ok(())
    }

    /// Makes the session known to the API.
    fn list(&mut self, path: &str, query: &str, state: &'static str) {
        let user_agent = self.user_agent.clone();
        self.record.show(|shown| {
            shown.state = state;
            shown.path = path.to_owned();
            shown.query = query.to_owned();
            shown.user_agent = user_agent;
        });
        self.server.add_session(self.record.clone());
        self.listed = true;
    }

    fn answer(&self, status: StatusCode, more: &[(HeaderName, &str)]) -> Answer {
        let mut response =
            Response::builder(Version::V1_0, status).header(headers::SERVER, "mtxfleet-standin").build(Vec::new());
        if self.listed {
            let session = format!("{};timeout={SESSION_TIMEOUT}", self.record.id.simple());
            response.insert_header(headers::SESSION, session);
        }
        for (name, value) in more {
            response.insert_header(name.clone(), *value);
        }
        Answer { response, close: false }
    }

    /// An error after which MediaMTX closes the connection.
    fn refuse(&self, status: StatusCode) -> Answer {
        self.answer(status, &[]).closing()
    }

    /// Leaves the path and the lists.
    fn end(&mut self) {
        match std::mem::replace(&mut self.role, Role::Idle) {
            Role::Publishing { path, .. } => self.server.end(&path),
            Role::Prepared { path, stream, .. } | Role::Playing { path, stream } => {
                stream.remove_reader(self.record.id);
                self.server.remove_reader(&path, self.record.id);
            }
            Role::Idle | Role::Announced { .. } => {}
        }
        self.server.remove_session(self.record.id);
    }
}

impl Answer {
    fn closing(mut self) -> Answer {
        self.close = true;
        self
    }
}

async fn source_ended(role: &Role) {
    match role {
        Role::Prepared { stream, .. } | Role::Playing { stream, .. } => stream.closed.cancelled().await,
        _ => std::future::pending().await,
    }
}

/// Path and query of the request's URL. The track's control may stand behind either of them. `None` when the path is
/// empty, too long, or has characters that MediaMTX does not allow in names.
fn target(request: &Request<Vec<u8>>) -> Option<(String, String)> {
    let url = request.request_uri()?;
    let without_track = |part: &str| match (request.method(), part.rsplit_once('/')) {
        (Method::Setup, Some((front, control))) if control.starts_with("trackID=") => front.to_owned(),
        _ => part.trim_end_matches('/').to_owned(),
    };
    let path = without_track(url.path().strip_prefix('/')?);
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-./~:".contains(c);
    let sound = (1..=LONGEST_PATH).contains(&path.len()) && path.chars().all(allowed);
    sound.then(|| (path, without_track(url.query().unwrap_or_default())))
}

/// The track that a reader's SETUP is for; the first where it does not say.
fn track_id(url: &str) -> Option<usize> {
    match url.rsplit_once("/trackID=") {
        // `cam1/trackID=0?a=b` is sent, too.
        Some((_, id)) => id.split('?').next()?.parse().ok(),
        None => Some(0),
    }
}

#[cfg(test)]
mod tests;
