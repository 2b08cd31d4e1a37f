//! Recordings, read through the agents: `GET /v1/recordings/{stream}` says what there is, `GET /v1/playback/{stream}`
//! gives it. One task reads while frames are needed; what they mean is decided in [`crate::resume`].

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use mtxfleet_stitch::{Codec, RtpPacket};
use mtxfleet_wire::{RecordedSpan, RecordingsView, UnixMillis};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use url::Url;

use crate::config::Settings;
use crate::fmp4::{Fmp4Error, Parser, Sample};
use crate::notices::in_own_order;
use crate::packets;
use crate::resume::{Need, Recorded};

/// A recording is asked from so long before the frame that is sought: clocks agree within a second, and a frame reaches a
/// worker later than its recording.
const MARGIN: Duration = Duration::from_millis(2500);

/// The same by the recording's own clock: some frames before, so that there is something to compare.
const EXACT_MARGIN: Duration = Duration::from_millis(400);

/// Seconds asked for at once. More follows in the next request.
const PIECE: f64 = 600.0;

/// Between two requests while the recording is being written.
const ASK_AGAIN: Duration = Duration::from_millis(120);

/// After a failure.
const RETRY: Duration = Duration::from_millis(400);

/// Requests that brought no frame before the recording is believed to go on behind a hole only.
const TRIES_BEFORE_HOLE: u32 = 6;

/// For the head of an answer, and between two pieces of it.
const ANSWER: Duration = Duration::from_secs(5);

/// Frames that wait for the session.
const QUEUE: usize = 32;

/// Of an answer that lists recordings.
const LIST_BYTES: usize = 4 << 20;

/// A recorded frame as its packets.
pub(crate) type Unit = Recorded<Vec<RtpPacket>>;

#[derive(Debug)]
pub(crate) enum Event {
    Begin {
        after_hole: bool,
    },
    Unit(Unit),
    End,
    /// Tried again, until the session has had enough.
    Failed(String),
    /// There is none, or none may be had: trying again changes nothing.
    Nothing(String),
}

/// Reads while it is not dropped.
#[derive(Debug)]
pub(crate) struct Reading {
    need: watch::Sender<(u64, Option<Need>)>,
    events: mpsc::Receiver<Event>,
    task: AbortHandle,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the recording is read for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub codec: Codec,
    pub clock_rate: u32,
    /// Large NAL units are cut into packets.
    pub cut: bool,
}

impl Reading {
    pub(crate) fn start(settings: &Settings, http: reqwest::Client, wanted: Wanted, first: Need) -> Self {
        let (need, needs) = watch::channel((0, Some(first)));
        let (to_session, events) = mpsc::channel(QUEUE);
        let agents = in_own_order(&settings.agents, &settings.worker).into();
        let progress = Instant::now();
        let reader = Reader { settings: settings.clone(), http, agents, wanted, needs, to_session, progress };
        let task = tokio::spawn(reader.run()).abort_handle();
        Self { need, events, task }
    }

    /// The next event; cancel-safe. `None` never comes while this value lives.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// What is needed now: to be said after [`Event::End`], whether it has changed or not.
    pub(crate) fn go_on(&self, need: Option<Need>) {
        self.need.send_modify(|(count, last)| (*count, *last) = (*count + 1, need));
    }
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("{0} cannot be reached")]
    Away(Url, #[source] reqwest::Error),
    #[error("{0} answered {1}: {2}")]
    Refused(Url, reqwest::StatusCode, String),
    #[error("{0} did not answer in {ANSWER:?}")]
    Slow(Url),
    #[error("{0} answered what is no list of recordings: {1}")]
    Odd(Url, String),
    #[error("the recording cannot be read: {0}")]
    Fmp4(#[from] Fmp4Error),
    #[error("the recording has no H.264 or H.265 track like the stream's")]
    OtherTrack,
}

impl ReadError {
    /// Asked again, the same agent says the same.
    fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_, status, _) if matches!(status.as_u16(), 400 | 401 | 403 | 405))
            || matches!(self, Self::OtherTrack)
    }
}

/// With causes.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

struct Reader {
    settings: Settings,
    http: reqwest::Client,
    agents: VecDeque<Url>,
    wanted: Wanted,
    needs: watch::Receiver<(u64, Option<Need>)>,
    to_session: mpsc::Sender<Event>,
    /// When a frame last came that was needed.
    progress: Instant,
}

impl Reader {
    async fn run(mut self) {
        let (mut fruitless, mut refused) = (0, 0);
        loop {
            let (_, need) = *self.needs.borrow_and_update();
            let Some(need) = need else {
                if self.needs.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let (event, pause) = match self.take(need, fruitless).await {
                Ok(true) => {
                    fruitless += 1;
                    (Event::End, ASK_AGAIN)
                }
                Ok(false) => (Event::Nothing(format!("nothing of {} is recorded", self.settings.stream)), RETRY),
                Err(error) => {
                    fruitless += 1;
                    refused = if error.is_refusal() { refused + 1 } else { 0 };
                    self.agents.rotate_left(1.min(self.agents.len()));
                    let text = told(&error);
                    let all = refused >= self.agents.len();
                    (if all { Event::Nothing(text) } else { Event::Failed(text) }, RETRY)
                }
            };
            let last = need.wall;
            if self.to_session.send(event).await.is_err() {
                return;
            }
            // The session says where it is by now, and so whether there was progress: frames behind a hole are none.
            if self.needs.changed().await.is_err() {
                return;
            }
            if self.needs.borrow().1.is_some_and(|need| need.wall > last) {
                fruitless = 0;
                self.progress = Instant::now();
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// One answer of a recording. False when nothing is recorded.
    async fn take(&mut self, need: Need, fruitless: u32) -> Result<bool, ReadError> {
        // After some tries in vain it may be another node that is asked, with a clock of its own.
        let margin = if need.exact && fruitless < 2 { EXACT_MARGIN } else { MARGIN };
        let view = self.list(need.wall.saturating_sub(margin)).await?;
        // What it may have is waited for, but not so long that nothing behind the hole would be read.
        let awaited = !view.unanswered.is_empty() && self.progress.elapsed() < self.settings.recording_timeout / 2;
        let patient = fruitless < TRIES_BEFORE_HOLE || awaited;
        let Some(piece) = choose(&view.spans, need, margin, Tries { fruitless, patient, awaited }) else {
            return Ok(!view.spans.is_empty() || !view.unanswered.is_empty());
        };
        let agent = self.agent()?;
        let url = format!("{}/v1/playback/{}", agent.as_str().trim_end_matches('/'), self.settings.stream);
        let start = UnixMillis(u64::try_from(piece.start.as_millis()).unwrap_or_default());
        let query = [("start", start.to_rfc3339()), ("duration", PIECE.to_string()), ("node", piece.node.clone())];
        let mut answer = self.get(&agent, &url, &query).await?;
        if self.to_session.send(Event::Begin { after_hole: piece.after_hole }).await.is_err() {
            return Ok(true);
        }
        let began = Duration::from_millis(start.0);
        let mut parser = Parser::default();
        while let Some(bytes) = chunk(&agent, &mut answer).await? {
            parser.push(&bytes)?;
            if parser.is_described() && parser.video().is_none_or(|video| video.codec != self.wanted.codec) {
                return Err(ReadError::OtherTrack);
            }
            let timescale = parser.video().map_or(1, |video| video.timescale);
            while let Some(sample) = parser.next() {
                if self.to_session.send(Event::Unit(self.unit(sample, timescale, began))).await.is_err() {
                    return Ok(true);
                }
            }
        }
        Ok(true)
    }

    fn unit(&self, sample: Sample, timescale: u32, began: Duration) -> Unit {
        let Sample { dts, pts, duration, keyframe, nals } = sample;
        let ticks = if timescale == self.wanted.clock_rate {
            pts
        } else {
            (i128::from(pts) * i128::from(self.wanted.clock_rate) / i128::from(timescale.max(1))) as i64
        };
        let seconds = dts.max(0) as f64 / f64::from(timescale.max(1));
        let wall = began.saturating_add(Duration::try_from_secs_f64(seconds).unwrap_or_default());
        let frame = packets::of_nal_units(self.wanted.codec, &nals, ticks as u32, !self.wanted.cut);
        let hash = mtxfleet_stitch::content_hash(self.wanted.codec, &frame);
        Recorded { hash, ticks, timed: duration > 0, keyframe, wall, frame }
    }

    async fn list(&self, from: Duration) -> Result<RecordingsView, ReadError> {
        let agent = self.agent()?;
        let url = format!("{}/v1/recordings/{}", agent.as_str().trim_end_matches('/'), self.settings.stream);
        let start = UnixMillis(u64::try_from(from.as_millis()).unwrap_or_default());
        let mut answer = self.get(&agent, &url, &[("start", start.to_rfc3339())]).await?;
        let mut body = Vec::new();
        while let Some(bytes) = chunk(&agent, &mut answer).await? {
            if body.len() + bytes.len() > LIST_BYTES {
                return Err(ReadError::Odd(agent, format!("more than {LIST_BYTES} bytes")));
            }
            body.extend_from_slice(&bytes);
        }
        serde_json::from_slice(&body).map_err(|error| ReadError::Odd(agent, error.to_string()))
    }

    fn agent(&self) -> Result<Url, ReadError> {
        // Without agents no reading is started.
        self.agents.front().cloned().ok_or(ReadError::OtherTrack)
    }

    async fn get(&self, agent: &Url, url: &str, query: &[(&str, String)]) -> Result<reqwest::Response, ReadError> {
        let mut request = self.http.get(url).query(query);
        if let Some(token) = &self.settings.worker_token {
            request = request.bearer_auth(token);
        }
        let answer = match tokio::time::timeout(ANSWER, request.send()).await {
            Ok(answer) => answer.map_err(|error| ReadError::Away(agent.clone(), error))?,
            Err(_) => return Err(ReadError::Slow(agent.clone())),
        };
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let text = tokio::time::timeout(ANSWER, answer.text()).await.ok().and_then(Result::ok).unwrap_or_default();
        let text = text.chars().take(200).collect();
        Err(ReadError::Refused(agent.clone(), status, text))
    }
}

async fn chunk(agent: &Url, answer: &mut reqwest::Response) -> Result<Option<Bytes>, ReadError> {
    match tokio::time::timeout(ANSWER, answer.chunk()).await {
        Ok(bytes) => bytes.map_err(|error| ReadError::Away(agent.clone(), error)),
        Err(_) => Err(ReadError::Slow(agent.clone())),
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Piece {
    node: String,
    start: Duration,
    after_hole: bool,
}

#[derive(Debug, Clone, Copy)]
struct Tries {
    fruitless: u32,
    /// It is too early to believe in a hole.
    patient: bool,
    /// A node has not said what it has.
    awaited: bool,
}

/// What to read next: the span that holds what is needed (another one at each try, where several do), or, when that
/// brings nothing for long, the next one behind a hole.
fn choose(spans: &[RecordedSpan], need: Need, margin: Duration, tries: Tries) -> Option<Piece> {
    let begin = |span: &RecordedSpan| Duration::from_millis(span.start.0);
    // Rounded down, it would lie before the span, where MediaMTX finds the end of the one before, and so nothing.
    let inside = |span: &RecordedSpan| begin(span) + Duration::from_millis(1);
    let end = |span: &RecordedSpan| Duration::from_millis(span.end().0);
    let holds = |span: &&RecordedSpan| begin(span) <= need.wall + margin && end(span) + margin >= need.wall;
    let holding: Vec<&RecordedSpan> = spans.iter().filter(holds).collect();
    let next = spans.iter().filter(|span| begin(span) > need.wall).min_by_key(|span| span.start);
    match (holding.get(tries.fruitless as usize % holding.len().max(1)), next) {
        (Some(span), next) if tries.patient || next.is_none() => {
            let start = need.wall.saturating_sub(margin).max(inside(span));
            Some(Piece { node: span.node.to_string(), start, after_hole: false })
        }
        (None, _) if tries.awaited => None,
        (_, Some(span)) => Some(Piece { node: span.node.to_string(), start: inside(span), after_hole: true }),
        (_, None) => None,
    }
}

/// Since 1970.
pub(crate) fn wall_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use mtxfleet_wire::NodeId;

    use super::*;

    fn span(node: &str, from: u64, seconds: f64) -> RecordedSpan {
        RecordedSpan { node: NodeId::new(node).expect("valid"), start: UnixMillis(from), seconds }
    }

    fn at(ms: u64) -> Need {
        Need { wall: Duration::from_millis(ms), exact: false }
    }

    fn chosen(spans: &[RecordedSpan], need: Need, fruitless: u32) -> Option<(String, u64, bool)> {
        let tries = Tries { fruitless, patient: fruitless < TRIES_BEFORE_HOLE, awaited: false };
        let piece = choose(spans, need, MARGIN, tries)?;
        Some((piece.node, piece.start.as_millis() as u64, piece.after_hole))
    }

    #[test]
    fn the_span_that_holds_the_frame_is_read_from_a_margin_before_it() {
        let spans = [span("a", 10_000, 50.0)];
        assert_eq!(chosen(&spans, at(40_000), 0), Some(("a".into(), 37_500, false)));
        assert_eq!(chosen(&spans, at(11_000), 0), Some(("a".into(), 10_001, false)), "and not before it");
        assert_eq!(chosen(&spans, at(62_000), 0), Some(("a".into(), 59_500, false)), "its end is written late");
    }

    #[test]
    fn behind_a_hole_the_next_span_is_read_once_the_one_before_brings_nothing_more() {
        let spans = [span("a", 10_000, 30.0), span("b", 60_000, 30.0)];
        assert_eq!(chosen(&spans, at(40_100), 0), Some(("a".into(), 37_600, false)));
        assert_eq!(chosen(&spans, at(40_100), TRIES_BEFORE_HOLE), Some(("b".into(), 60_001, true)));
        assert_eq!(chosen(&spans, at(50_000), 0), Some(("b".into(), 60_001, true)));
        assert_eq!(chosen(&spans, at(200_000), 0), None);
    }

    #[test]
    fn a_hole_is_not_believed_while_a_node_does_not_say_what_it_has() {
        let spans = [span("b", 60_000, 30.0)];
        let tries = Tries { fruitless: TRIES_BEFORE_HOLE, patient: true, awaited: true };
        assert_eq!(choose(&spans, at(40_100), MARGIN, tries), None);
        let given_up = choose(&spans, at(40_100), MARGIN, Tries { patient: false, awaited: false, ..tries });
        assert!(given_up.is_some_and(|piece| piece.after_hole));
    }

    #[test]
    fn of_two_nodes_that_recorded_the_same_time_both_are_tried() {
        let spans = [span("a", 10_000, 60.0), span("b", 20_000, 60.0)];
        assert_eq!(chosen(&spans, at(40_000), 0).map(|piece| piece.0), Some("a".into()));
        assert_eq!(chosen(&spans, at(40_000), 1).map(|piece| piece.0), Some("b".into()));
    }
}
