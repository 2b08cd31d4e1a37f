//! The API's lists, page by page, with the fields that are needed and no others.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};

use super::client::{Answer, Client, excerpt};
use super::rfc3339;
use crate::node::sample::{PathSample, Protocol, ServerProblem, SessionSample, SessionState};

/// The server takes any number here (internal/api/paginate.go, v1.20.1), and one page is one consistent state, while
/// what comes or goes between two pages shifts the second. So pages are a bound, not a habit.
const ITEMS_PER_PAGE: usize = 10_000;

/// More than this in one list is refused.
const MAX_PAGES: usize = 10;

/// How often a list is begun anew when it changed between two of its pages.
const TRIES: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionKind {
    Rtsp,
    Rtsps,
    Hls,
    WebRtc,
}

impl SessionKind {
    pub(super) const ALL: [Self; 4] = [Self::Rtsp, Self::Rtsps, Self::Hls, Self::WebRtc];

    pub(super) const fn of(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Rtsp => Self::Rtsp,
            Protocol::Rtsps => Self::Rtsps,
            Protocol::Hls => Self::Hls,
            Protocol::WebRtc => Self::WebRtc,
        }
    }

    const fn protocol(self) -> Protocol {
        match self {
            Self::Rtsp => Protocol::Rtsp,
            Self::Rtsps => Protocol::Rtsps,
            Self::Hls => Protocol::Hls,
            Self::WebRtc => Protocol::WebRtc,
        }
    }

    /// The word in the API's URLs.
    pub(super) const fn list(self) -> &'static str {
        match self {
            Self::Rtsp => "rtspsessions",
            Self::Rtsps => "rtspssessions",
            Self::Hls => "hlssessions",
            Self::WebRtc => "webrtcsessions",
        }
    }
}

/// `None`: there is no such list.
pub(super) async fn paths(client: &mut Client) -> Result<Option<Vec<PathSample>>, ServerProblem> {
    read_whole(client, "paths", parse_paths, |path| &path.name).await
}

/// `None`: this protocol is off.
pub(super) async fn sessions(
    client: &mut Client,
    kind: SessionKind,
) -> Result<Option<Vec<SessionSample>>, ServerProblem> {
    read_whole(client, kind.list(), |body| parse_sessions(kind.protocol(), body), |session| &session.id).await
}

/// How many sessions there are; of one page with one of them on it. `None`: this protocol is off.
pub(super) async fn count(client: &mut Client, kind: SessionKind) -> Result<Option<usize>, ServerProblem> {
    match client.get(&format!("/v3/{}/list?itemsPerPage=1&page=0", kind.list())).await? {
        Answer::NotFound => Ok(None),
        Answer::Body(body) => match serde_json::from_slice::<RawCount>(body) {
            Ok(page) => Ok(Some(page.item_count)),
            Err(error) => Err(ServerProblem::Odd(format!("no number of {}: {error}", kind.list()))),
        },
    }
}

/// Every path of the configuration, with its [`super::MARK_KEY`].
pub(super) async fn marks(client: &mut Client) -> Result<HashMap<String, String>, ServerProblem> {
    let marks = read_whole(client, "config/paths", parse_marks, |(name, _)| name).await?;
    let missing = || ServerProblem::Odd("404 for /v3/config/paths/list; tried with MediaMTX 1.20".to_owned());
    Ok(marks.ok_or_else(missing)?.into_iter().collect())
}

#[derive(Debug)]
struct Page<T> {
    item_count: usize,
    page_count: usize,
    items: Vec<T>,
}

async fn read_whole<T>(
    client: &mut Client,
    list: &str,
    parse: impl Fn(&[u8]) -> serde_json::Result<Page<T>>,
    id: impl Fn(&T) -> &String,
) -> Result<Option<Vec<T>>, ServerProblem> {
    'again: for _ in 0..TRIES {
        let Some(first) = read_page(client, list, 0, &parse).await? else { return Ok(None) };
        if first.page_count > MAX_PAGES {
            return Err(ServerProblem::Odd(format!("{} {list}, of which this agent reads none", first.item_count)));
        }
        let mut items = first.items;
        for number in 1..first.page_count {
            let page = read_page(client, list, number, &parse).await?;
            let Some(page) = page.filter(|page| page.item_count == first.item_count) else { continue 'again };
            items.extend(page.items);
        }
        if items.len() != first.item_count
            || first.page_count > 1 && items.iter().map(&id).collect::<HashSet<_>>().len() != items.len()
        {
            continue;
        }
        return Ok(Some(items));
    }
    Err(ServerProblem::Odd(format!("the list of {list} was not whole in {TRIES} readings")))
}

async fn read_page<T>(
    client: &mut Client,
    list: &str,
    number: usize,
    parse: impl Fn(&[u8]) -> serde_json::Result<Page<T>>,
) -> Result<Option<Page<T>>, ServerProblem> {
    let body = match client.get(&format!("/v3/{list}/list?itemsPerPage={ITEMS_PER_PAGE}&page={number}")).await? {
        Answer::NotFound => return Ok(None),
        Answer::Body(body) => body,
    };
    let page = parse(body).map_err(|e| {
        use serde_json::error::Category;
        ServerProblem::Odd(match e.classify() {
            Category::Eof => format!("half a JSON for the list of {list} ({} bytes)", body.len()),
            Category::Data => format!("a list of {list} in a shape not known here ({e}); tried with MediaMTX 1.20"),
            Category::Syntax | Category::Io => {
                format!("no JSON for the list of {list} ({e}): {}", excerpt(body))
            }
        })
    })?;
    Ok(Some(page))
}

/// `items` may be `null` when there are none, as Go writes an empty slice.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPage<T> {
    item_count: usize,
    page_count: usize,
    items: Option<Vec<T>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawCount {
    item_count: usize,
}

impl<T> RawPage<T> {
    fn map<U>(self, item: impl FnMut(T) -> serde_json::Result<U>) -> serde_json::Result<Page<U>> {
        let items = self.items.unwrap_or_default().into_iter().map(item).collect::<Result<_, _>>()?;
        Ok(Page { item_count: self.item_count, page_count: self.page_count, items })
    }
}

/// Fields as of v1.20.1; `ready`, `readyTime`, `bytesReceived` and `bytesSent` are their names before.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPath<'a> {
    name: String,
    available: Option<bool>,
    ready: Option<bool>,
    #[serde(borrow)]
    available_time: Option<Cow<'a, str>>,
    #[serde(borrow)]
    ready_time: Option<Cow<'a, str>>,
    source: Option<RawSource>,
    readers: Option<Count>,
    inbound_bytes: Option<u64>,
    outbound_bytes: Option<u64>,
    bytes_received: Option<u64>,
    bytes_sent: Option<u64>,
}

#[derive(Deserialize)]
struct RawSource {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSession<'a> {
    id: String,
    /// HLS sessions have none: they only read.
    #[serde(borrow)]
    state: Option<Cow<'a, str>>,
    #[serde(default)]
    path: String,
    #[serde(default)]
    query: String,
    #[serde(default)]
    remote_addr: String,
    inbound_bytes: Option<u64>,
    outbound_bytes: Option<u64>,
    bytes_received: Option<u64>,
    bytes_sent: Option<u64>,
    /// RTSP.
    #[serde(rename = "outboundRTPPacketsDiscarded")]
    packets_discarded: Option<u64>,
    /// WebRTC counts whole frames.
    #[serde(rename = "outboundFramesDiscarded")]
    frames_discarded: Option<u64>,
}

#[derive(Deserialize)]
struct RawConfiguration {
    name: String,
    #[serde(rename = "rpiCameraTextOverlay", default)]
    mark: String,
}

fn parse_marks(body: &[u8]) -> serde_json::Result<Page<(String, String)>> {
    let page: RawPage<RawConfiguration> = serde_json::from_slice(body)?;
    page.map(|path| Ok((path.name, path.mark)))
}

fn parse_paths(body: &[u8]) -> serde_json::Result<Page<PathSample>> {
    let page: RawPage<RawPath<'_>> = serde_json::from_slice(body)?;
    page.map(|path| {
        let available = path.available.or(path.ready);
        let since = path.available_time.or(path.ready_time);
        Ok(PathSample {
            available: available.ok_or_else(|| missing("available", "ready"))?,
            available_since: since.and_then(|time| rfc3339::parse(&time)),
            source: path.source.map(|source| source.kind).unwrap_or_default(),
            inbound_bytes: path
                .inbound_bytes
                .or(path.bytes_received)
                .ok_or_else(|| missing("inboundBytes", "bytesReceived"))?,
            outbound_bytes: path
                .outbound_bytes
                .or(path.bytes_sent)
                .ok_or_else(|| missing("outboundBytes", "bytesSent"))?,
            readers: path.readers.unwrap_or_default().0,
            name: path.name,
        })
    })
}

fn parse_sessions(protocol: Protocol, body: &[u8]) -> serde_json::Result<Page<SessionSample>> {
    let page: RawPage<RawSession<'_>> = serde_json::from_slice(body)?;
    page.map(|session| {
        let state = match session.state.as_deref() {
            Some("read") => SessionState::Read,
            Some("publish") => SessionState::Publish,
            None if protocol == Protocol::Hls => SessionState::Read,
            _ => SessionState::Idle,
        };
        Ok(SessionSample {
            protocol,
            id: session.id,
            state,
            path: session.path,
            query: session.query,
            remote: session.remote_addr,
            inbound_bytes: session.inbound_bytes.or(session.bytes_received).unwrap_or_default(),
            outbound_bytes: session
                .outbound_bytes
                .or(session.bytes_sent)
                .ok_or_else(|| missing("outboundBytes", "bytesSent"))?,
            discarded_packets: session.packets_discarded.or(session.frames_discarded).unwrap_or_default(),
        })
    })
}

fn missing(name: &str, name_before: &str) -> serde_json::Error {
    serde::de::Error::custom(format!("neither `{name}` nor `{name_before}`"))
}

/// Length of an array whose items are of no interest; `null` is 0.
#[derive(Clone, Copy, Default)]
struct Count(u32);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Counting;
        impl<'de> Visitor<'de> for Counting {
            type Value = Count;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Count, A::Error> {
                let mut count = 0_u32;
                while items.next_element::<IgnoredAny>()?.is_some() {
                    count = count.saturating_add(1);
                }
                Ok(Count(count))
            }
        }
        deserializer.deserialize_seq(Counting)
    }
}

#[cfg(test)]
#[path = "tests/listing.rs"]
mod tests;
