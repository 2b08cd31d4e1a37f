//! The client that pulls a stream from another server, over TCP, following redirects.
//!
//! Timing is that of MediaMTX 1.20.1: a source that cannot be had is asked again after 5 s; one on demand that was up
//! and ended takes its path with it, and the next reader starts it anew.

use std::{
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use base64::Engine;
use rtsp_types::{HeaderName, Method, Request, Response, StatusCode, Url, Version, headers};
use tokio::{
    io::AsyncWriteExt,
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{Instant, timeout},
};

use super::{
    config::PathConf,
    media::{self, Track},
    message::{Headers, Incoming, MessageReader, interleaved},
    paths::{Path, Phase, Server},
    stream::Stream,
};

/// Before a source that failed is asked again.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// The real one has no limit, and loops for ever between two servers that redirect to each other.
const MAX_REDIRECTS: usize = 10;

/// Set by SIGUSR1: what is pulled is not handed on any more, as behind a network that swallows packets.
pub static STILL: AtomicBool = AtomicBool::new(false);

/// Half of the session timeout that most servers give (60 s).
const KEEPALIVE_PERIOD: Duration = Duration::from_secs(30);

/// Pulls until the source ends or is not needed, or could not be started within its time; then the path is idle.
pub(super) async fn run_on_demand(server: Arc<Server>, path: Arc<Path>, conf: Arc<PathConf>, url: String) {
    let give_up = Instant::now() + conf.start_timeout;
    let pulling = async {
        loop {
            match timeout_at(give_up, Source::start(&url, server.config.read_timeout)).await {
                Some(Ok(source)) => {
                    source.deliver(&server, &path, &conf).await;
                    break;
                }
                Some(Err(error)) => tracing::info!("path {}: {error:#}", path.name),
                None => break,
            }
            if timeout_at(give_up, tokio::time::sleep(RETRY_PAUSE)).await.is_none() {
                break;
            }
        }
    };
    tokio::select! {
        () = pulling => {}
        () = path.unneeded.notified() => tracing::info!("path {}: not needed by anyone", path.name),
    }
    path.set_not_ready(Phase::Idle);
}

/// Pulls for ever.
pub(super) async fn run_always(server: Arc<Server>, path: Arc<Path>, conf: &PathConf, url: String) {
    loop {
        match Source::start(&url, server.config.read_timeout).await {
            Ok(source) => source.deliver(&server, &path, conf).await,
            Err(error) => tracing::info!("path {}: {error:#}", path.name),
        }
        path.set_not_ready(Phase::Waiting);
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn timeout_at<F: Future>(at: Instant, future: F) -> Option<F::Output> {
    tokio::time::timeout_at(at, future).await.ok()
}

/// A source that plays.
struct Source {
    connection: Connection,
    tracks: Vec<Track>,
    /// The track of each RTP channel; RTCP has the next one.
    channels: Vec<u8>,
    url: Url,
}

struct Connection {
    reader: MessageReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    credentials: Option<String>,
    session: Option<String>,
    sequence: u32,
    /// How long to wait for an answer.
    patience: Duration,
}

impl Source {
    /// Connects, follows redirects, sets up every track and plays.
    async fn start(url: &str, patience: Duration) -> anyhow::Result<Source> {
        let mut url = Url::parse(url).with_context(|| format!("{url} is no URL"))?;
        let credentials = (!url.username().is_empty()).then(|| {
            let plain = format!("{}:{}", url.username(), url.password().unwrap_or_default());
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(plain))
        });
        for _ in 0..=MAX_REDIRECTS {
            // Those in the redirect are ignored: the first ones are kept.
            ensure!(url.set_username("").is_ok() && url.set_password(None).is_ok(), "{url} cannot be pulled");
            ensure!(url.scheme() == "rtsp", "the source redirects to {url}, which is no rtsp://");
            let mut connection = Connection::open(&url, credentials.clone(), patience).await?;
            connection.call(Method::Options, &url, &[]).await?;
            let accept = (headers::ACCEPT, "application/sdp".to_owned());
            let answer = connection.call(Method::Describe, &url, &[accept]).await?;
            match answer.status() {
                StatusCode::Ok => return Source::play(connection, url, &answer).await,
                StatusCode::MovedPermanently | StatusCode::Found => {
                    let location = answer.text(&headers::LOCATION).context("a redirect without a Location")?;
                    url = Url::parse(location).with_context(|| format!("redirected to {location}, no URL"))?;
                }
                status => bail!("{url} answers {} {}", u16::from(status), answer.reason_phrase()),
            }
        }
        bail!("more than {MAX_REDIRECTS} redirects, the last one to {url}")
    }

    async fn play(mut connection: Connection, url: Url, described: &Response<Vec<u8>>) -> anyhow::Result<Source> {
        let base = described.text(&headers::CONTENT_BASE).unwrap_or(url.as_str()).to_owned();
        let tracks = media::tracks(described.body())?;
        let mut channels = Vec::new();
        for (index, track) in tracks.iter().enumerate() {
            let control = control_url(&base, &track.control)?;
            let asked = format!("RTP/AVP/TCP;unicast;interleaved={}-{}", 2 * index, 2 * index + 1);
            let answer = connection.call(Method::Setup, &control, &[(headers::TRANSPORT, asked)]).await?;
            ensure!(answer.status() == StatusCode::Ok, "SETUP of {control}: {}", answer.reason_phrase());
            let given = answer.text(&headers::TRANSPORT).and_then(interleaved).context("SETUP: no TCP transport")?;
            channels.push(given.map_or(2 * index as u8, |(rtp, _)| rtp));
            let session = answer.text(&headers::SESSION).context("SETUP: no session")?;
            connection.session = session.split(';').next().map(str::to_owned);
        }
        let range = (headers::RANGE, "npt=0-".to_owned());
        let answer = connection.call(Method::Play, &url, &[range]).await?;
        ensure!(answer.status() == StatusCode::Ok, "PLAY: {}", answer.reason_phrase());
        Ok(Source { connection, tracks, channels, url })
    }

    /// Makes the path ready and hands on what comes, until the source ends.
    async fn deliver(mut self, server: &Server, path: &Path, conf: &PathConf) {
        let patience = server.config.read_timeout;
        let stream = Arc::new(server.stream(path, conf, self.tracks.clone()));
        path.set_ready(stream.clone());
        let mut keepalive = tokio::time::interval_at(Instant::now() + KEEPALIVE_PERIOD, KEEPALIVE_PERIOD);
        loop {
            tokio::select! {
                message = timeout(patience, self.connection.reader.next()) => match message {
                    Ok(Ok(Some(Incoming::Data { channel, data }))) => self.hand_on(&stream, channel, data),
                    // Answers to keepalives.
                    Ok(Ok(Some(_))) => {}
                    Ok(Ok(None)) => break tracing::info!("path {}: the source ended", path.name),
                    Ok(Err(error)) => break tracing::info!("path {}: the source failed: {error}", path.name),
                    Err(_) => break tracing::info!("path {}: the source is silent", path.name),
                },
                _ = keepalive.tick() => {
                    let request = self.connection.request(Method::GetParameter, &self.url, &[]);
                    if timeout(patience, self.connection.writer.write_all(&request)).await.is_err() {
                        break;
                    }
                }
            }
        }
    }

    fn hand_on(&self, stream: &Stream, channel: u8, data: bytes::BytesMut) {
        if STILL.load(Ordering::Relaxed) {
            return;
        }
        if let Some(track) = self.channels.iter().position(|rtp| *rtp == channel) {
            stream.write_rtp(track, data);
        } else if let Some(track) = self.channels.iter().position(|rtp| rtp.checked_add(1) == Some(channel)) {
            stream.write_rtcp(track, &data);
        }
    }
}

impl Connection {
    async fn open(url: &Url, credentials: Option<String>, patience: Duration) -> anyhow::Result<Connection> {
        let host = url.host_str().context("the source has no host")?;
        let address = (host.trim_matches(['[', ']']), url.port().unwrap_or(554));
        let socket = timeout(patience, TcpStream::connect(address)).await.context("the source cannot be reached")??;
        socket.set_nodelay(true)?;
        let (reader, writer) = socket.into_split();
        let reader = MessageReader::new(reader);
        Ok(Connection { reader, writer, credentials, session: None, sequence: 0, patience })
    }

    fn request(&mut self, method: Method, url: &Url, more: &[(HeaderName, String)]) -> Vec<u8> {
        self.sequence += 1;
        let mut request = Request::builder(method, Version::V1_0)
            .request_uri(url.clone())
            .header(headers::CSEQ, self.sequence.to_string())
            .header(headers::USER_AGENT, "mtxfleet-standin");
        let session = self.session.clone().map(|session| (headers::SESSION, session));
        let credentials = self.credentials.clone().map(|credentials| (headers::AUTHORIZATION, credentials));
        for (name, value) in more.iter().cloned().chain(session).chain(credentials) {
            request = request.header(name, value);
        }
        let mut bytes = Vec::new();
        // Writing to memory does not fail.
        let _ = request.empty().write(&mut bytes);
        bytes
    }

    /// Sends a request and waits for the answer. Packets that come before it are dropped: nothing plays yet.
    async fn call(
        &mut self,
        method: Method,
        url: &Url,
        more: &[(HeaderName, String)],
    ) -> anyhow::Result<Response<Vec<u8>>> {
        let request = self.request(method, url, more);
        let answer = async {
            self.writer.write_all(&request).await?;
            loop {
                match self.reader.next().await?.context("the source closed the connection")? {
                    Incoming::Response(response) => return anyhow::Ok(response),
                    Incoming::Request(_) | Incoming::Data { .. } => {}
                }
            }
        };
        timeout(self.patience, answer).await.context("the source does not answer")?
    }
}

/// The URL of a track: `control` is one itself, or is put behind the base (RFC 2326, appendix C.1.1).
fn control_url(base: &str, control: &str) -> anyhow::Result<Url> {
    let url = match control {
        "" | "*" => base.to_owned(),
        whole if whole.starts_with("rtsp://") => whole.to_owned(),
        part if base.ends_with('/') => format!("{base}{part}"),
        part => format!("{base}/{part}"),
    };
    Url::parse(&url).with_context(|| format!("the track's URL {url} is none"))
}
