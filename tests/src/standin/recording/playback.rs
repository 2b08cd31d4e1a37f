//! The playback server: `GET /list?path=` and `GET /get?path=&start=&duration=&format=fmp4`, as MediaMTX 1.20.1 answers.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{ConnectInfo, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;

use super::super::{
    api::{self, ApiError, error},
    config::{Action, Credentials},
    paths::Server,
};
use super::file::{self, Header, Sample, Segment};
use super::mp4::{self, Entry};

/// Of a fragment, in seconds.
const FRAGMENT: i64 = 1;

type Parameters = Query<BTreeMap<String, String>>;

pub(in super::super) fn router(server: Arc<Server>) -> Router {
    Router::new()
        .route("/list", get(list))
        .route("/get", get(read))
        .fallback(api::not_found)
        .method_not_allowed_fallback(api::not_found)
        .with_state(server)
}

async fn list(
    State(server): State<Arc<Server>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Query(query): Parameters,
) -> Result<Response, Refused> {
    let folder = folder(&server, peer, &headers, &query)?;
    let time = |name: &str| query.get(name).map(|text| parse_time(text, name)).transpose();
    let (start, end) = (time("start")?, time("end")?);
    let found = overlapping(&folder, start, end);
    if found.is_empty() {
        return Err(none().into());
    }
    let mut spans: Vec<(Duration, Duration)> = Vec::new();
    for run in found.chunk_by(|before, segment| segment.goes_on_from(before)) {
        let (segment, last) = (&run[0], &run[run.len() - 1]);
        let length = of_file(&folder, last)?.length();
        spans.push((segment.start, last.start.saturating_sub(segment.start) + length));
    }
    if let Some(start) = start {
        let first = &mut spans[0];
        if first.0 + first.1 < start {
            spans.remove(0);
        } else if first.0 < start {
            *first = (start, first.0 + first.1 - start);
        }
    }
    if let (Some(end), Some(last)) = (end, spans.last_mut()) {
        last.1 = last.1.min(end.saturating_sub(last.0));
    }
    if spans.is_empty() {
        return Err(none().into());
    }
    let path = query.get("path").map_or("", String::as_str);
    let entry = |(start, length): (Duration, Duration)| {
        let (start, seconds) = (format_time(start), length.as_secs_f64());
        let url = format!("/get?duration={seconds}&path={path}&start={start}");
        json!({ "start": start, "duration": seconds, "url": url })
    };
    Ok(Json(spans.into_iter().map(entry).collect::<Vec<_>>()).into_response())
}

async fn read(
    State(server): State<Arc<Server>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Query(query): Parameters,
) -> Result<Response, Refused> {
    let folder = folder(&server, peer, &headers, &query)?;
    let text = |name: &str| query.get(name).map_or("", String::as_str);
    let start = parse_time(text("start"), "start")?;
    let duration = text("duration").parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let duration = duration.ok_or_else(|| bad("invalid duration"))?;
    if !matches!(text("format"), "" | "fmp4") {
        return Err(bad("invalid format: the stand-in knows fmp4"));
    }
    let found = overlapping(&folder, Some(start), Some(start + duration));
    let run = found.chunk_by(|before, segment| segment.goes_on_from(before)).next().ok_or_else(none)?;
    let mut taken = of_file(&folder, &run[0])?;
    for segment in &run[1..] {
        taken.samples.extend(of_file(&folder, segment)?.samples);
    }
    let offset = run[0].start.as_nanos() as i64 - start.as_nanos() as i64;
    let body = cut(&taken, offset, duration).ok_or_else(none)?;
    Ok(([(header::CONTENT_TYPE, "video/mp4")], body).into_response())
}

/// A segment, or several one behind the other.
struct Taken {
    header: Header,
    samples: Vec<Sample>,
}

fn of_file(folder: &std::path::Path, segment: &Segment) -> Result<Taken, Refused> {
    let (header, samples) = file::read(folder, segment).map_err(|why| bad(&why.to_string()))?;
    Ok(Taken { header, samples })
}

impl Taken {
    /// In ticks from the first one on, each with its duration: what decoding in order needs. Decode times are the
    /// presentation times in their own order; the last one lasts as long as the one before.
    fn decode_times(&self) -> Vec<(i64, i64)> {
        let mut sorted: Vec<i64> = self.samples.iter().map(|sample| sample.pts).collect();
        sorted.sort_unstable();
        let Some(first) = sorted.first().copied() else { return Vec::new() };
        let lasts = |at: usize| match (sorted.get(at + 1), at.checked_sub(1)) {
            (Some(next), _) => next - sorted[at],
            (None, Some(before)) => sorted[at] - sorted[before],
            (None, None) => 0,
        };
        (0..sorted.len()).map(|at| (sorted[at] - first, lasts(at))).collect()
    }

    fn length(&self) -> Duration {
        let last = self.decode_times().last().copied().unwrap_or_default();
        super::ticks_to_duration(last.0 + last.1, self.header.clock_rate)
    }
}

/// The fragments from `-offset` ns after the first sample on, begun so early that decoding can begin; `None` when nothing
/// lies there. Times go to nanoseconds and back, and lose a tick; what is sent only for decoding lasts no time. All of
/// that as in MediaMTX (`muxer_fmp4.go`).
fn cut(taken: &Taken, offset: i64, duration: Duration) -> Option<Vec<u8>> {
    let rate = i128::from(taken.header.clock_rate);
    let to_nanos = |ticks: i64| (i128::from(ticks) * 1_000_000_000 / rate) as i64;
    let to_ticks = |nanos: i64| (i128::from(nanos) * rate / 1_000_000_000) as i64;
    let end = to_ticks(duration.as_nanos() as i64);
    let first_pts = taken.samples.iter().map(|sample| sample.pts).min()?;
    let shown = |sample: &Sample, decode: i64| sample.pts - first_pts - decode;
    // With B-frames all is shown so much later that nothing is before it is decoded.
    let times = taken.decode_times();
    let reordering = taken.samples.iter().zip(&times).map(|(sample, (decode, _))| shown(sample, *decode)).min()?;

    let (mut out, mut number) = (mp4::description(&taken.header), 0);
    let mut entries: Vec<Entry> = Vec::new();
    let (mut first, mut last): (Option<i64>, i64) = (None, 0);
    for (sample, (decode, lasts)) in taken.samples.iter().zip(times) {
        let dts = to_ticks(offset) + to_ticks(to_nanos(decode));
        if dts >= end {
            break;
        }
        if dts < 0 || first.is_none() {
            // A keyframe needs nothing of what came before it.
            if sample.keyframe {
                entries.clear();
            }
        } else if let Some(before) = entries.last_mut() {
            before.duration = u32::try_from(dts - last).unwrap_or(0);
        }
        entries.push(Entry {
            duration: if dts >= 0 { u32::try_from(lasts).unwrap_or(0) } else { 0 },
            pts_offset: i32::try_from(shown(sample, decode) - reordering).unwrap_or(0),
            keyframe: sample.keyframe,
            data: sample.data.clone(),
        });
        if dts < 0 {
            continue;
        }
        let began = *first.get_or_insert(dts);
        last = dts;
        if dts - began >= FRAGMENT * i64::from(taken.header.clock_rate) && entries.len() > 1 {
            let next = entries.pop();
            out.extend(mp4::fragment(number, began as u64, &entries));
            number += 1;
            entries.clear();
            entries.extend(next);
            first = Some(dts);
        }
    }
    let began = first?;
    out.extend(mp4::fragment(number, began as u64, &entries));
    Some(out)
}

/// Segments that hold something of that time, oldest first (`recordstore.FindSegments`).
fn overlapping(folder: &std::path::Path, start: Option<Duration>, end: Option<Duration>) -> Vec<Segment> {
    let mut found = file::segments(folder);
    found.retain(|segment| end.is_none_or(|end| segment.start <= end));
    if let Some(start) = start {
        let before = found.iter().rposition(|segment| segment.start <= start).unwrap_or(0);
        found.drain(..before.min(found.len()));
    }
    found
}

/// Where the recordings of the path lie that is asked for.
fn folder(
    server: &Server,
    peer: SocketAddr,
    headers: &HeaderMap,
    query: &BTreeMap<String, String>,
) -> Result<PathBuf, Refused> {
    let path = query.get("path").map_or("", String::as_str);
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let credentials = given.and_then(Credentials::from_header);
    if let Err(unauthorized) = server.authorize(Action::Playback, path, credentials.as_ref(), peer.ip()) {
        return Err(api::unauthorized(unauthorized).into());
    }
    let settings = server.recording_of(path).ok_or_else(|| bad("path is not configured, or not recorded"))?;
    let folder = settings.folder_of(path).ok_or_else(|| bad("invalid path name"))?;
    match folder.is_dir() {
        true => Ok(folder),
        false => Err(bad(&format!("lstat {}: no such file or directory", folder.display()))),
    }
}

/// An answer that is no recording.
struct Refused(Box<Response>);

impl From<Response> for Refused {
    fn from(answer: Response) -> Self {
        Self(Box::new(answer))
    }
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        error.into_response().into()
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        *self.0
    }
}

fn none() -> ApiError {
    error(StatusCode::NOT_FOUND, "no recording segments found")
}

fn bad(why: &str) -> Refused {
    error(StatusCode::BAD_REQUEST, why).into()
}

/// RFC 3339, since 1970.
fn parse_time(text: &str, name: &str) -> Result<Duration, Refused> {
    let time: jiff::Timestamp = text.parse().map_err(|_| bad(&format!("invalid {name}: {text:?}")))?;
    Duration::try_from(time.duration_since(jiff::Timestamp::UNIX_EPOCH)).map_err(|_| bad(&format!("invalid {name}")))
}

fn format_time(time: Duration) -> String {
    let time = i64::try_from(time.as_micros()).ok().and_then(|us| jiff::Timestamp::from_microsecond(us).ok());
    time.unwrap_or_default().to_string()
}
