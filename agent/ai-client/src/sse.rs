//! Server-sent events: the parser (WHATWG HTML, section 9.2.6), and one connection to one agent.

use std::time::Duration;

use futures::StreamExt as _;
use mtxfleet_wire::FleetEvent;
use tokio::sync::mpsc;
use url::Url;

/// A single event must fit into this; a notice for a thousand legs is about half of it.
const MAX_EVENT: usize = 1 << 20;

/// Nothing for this long, and the connection is taken for dead: agents send a comment every 10 s.
const IDLE: Duration = Duration::from_secs(25);

/// One event as it came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SseEvent {
    pub name: String,
    pub id: Option<String>,
    pub data: String,
}

/// Bytes in, events out. Lines end in LF or CR LF; a lone CR, which the standard also allows, is not taken for an end.
#[derive(Debug, Default)]
pub(crate) struct SseParser {
    line: Vec<u8>,
    event: SseEvent,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("an event is larger than {MAX_EVENT} bytes")]
pub(crate) struct TooLarge;

impl SseParser {
    /// # Errors
    /// [`TooLarge`]: the connection must be closed, since what follows cannot be told apart.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<SseEvent>, TooLarge> {
        let mut found = Vec::new();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if self.line.len() + self.event.data.len() > MAX_EVENT {
                return Err(TooLarge);
            }
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                let text = String::from_utf8_lossy(&line);
                found.extend(self.line(text.trim_end_matches(['\n', '\r'])));
            }
        }
        Ok(found)
    }

    fn line(&mut self, line: &str) -> Option<SseEvent> {
        if line.is_empty() {
            let mut event = std::mem::take(&mut self.event);
            event.data.pop();
            return (!event.data.is_empty()).then_some(event);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.name),
            "id" => self.event.id = Some(value.to_owned()),
            "data" => {
                self.event.data.push_str(value);
                self.event.data.push('\n');
            }
            _ => {}
        }
        None
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum SseError {
    #[error(transparent)]
    Http(#[from] reqwest::Error),
    #[error("it answered {0}")]
    Status(reqwest::StatusCode),
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    #[error("it closed the connection")]
    Closed,
    #[error("it sent nothing for {} s", IDLE.as_secs())]
    Silent,
}

/// Reads the events of one agent until the connection fails; `last` is the last id seen, sent so that the agent can
/// repeat what was missed. `connected` is called once the agent has answered.
pub(crate) async fn follow(
    http: &reqwest::Client,
    agent: &Url,
    last: &mut Option<String>,
    events: &mpsc::Sender<FleetEvent>,
    connected: impl FnOnce(),
) -> SseError {
    match follow_until_failure(http, agent, last, events, connected).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn follow_until_failure(
    http: &reqwest::Client,
    agent: &Url,
    last: &mut Option<String>,
    events: &mpsc::Sender<FleetEvent>,
    connected: impl FnOnce(),
) -> Result<std::convert::Infallible, SseError> {
    let mut request = http.get(format!("{}/v1/events", agent.as_str().trim_end_matches('/')));
    request = request.header("accept", "text/event-stream");
    if let Some(id) = last.as_deref() {
        request = request.header("last-event-id", id);
    }
    let answer = tokio::time::timeout(IDLE, request.send()).await.map_err(|_| SseError::Silent)??;
    if !answer.status().is_success() {
        return Err(SseError::Status(answer.status()));
    }
    connected();
    let mut body = answer.bytes_stream();
    let mut parser = SseParser::default();
    loop {
        let bytes = tokio::time::timeout(IDLE, body.next()).await.map_err(|_| SseError::Silent)?;
        for event in parser.push(&bytes.ok_or(SseError::Closed)??)? {
            if event.id.is_some() {
                last.clone_from(&event.id);
            }
            match serde_json::from_str(&event.data) {
                Ok(event) => events.send(event).await.map_err(|_| SseError::Closed)?,
                Err(error) => tracing::debug!(name = event.name, %error, "an event that this version does not know"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = ": hello\r\n\r\nevent: drain.notice\r\nid: 7\r\ndata: {\"a\":\r\ndata:1}\r\n\r\nretry: 5\n\nid: 8\n\
                        data: x\n\nevent: none\n\n";

    fn expected() -> Vec<SseEvent> {
        vec![
            SseEvent { name: "drain.notice".into(), id: Some("7".into()), data: "{\"a\":\n1}".into() },
            SseEvent { name: String::new(), id: Some("8".into()), data: "x".into() },
        ]
    }

    #[test]
    fn comments_and_events_without_data_give_nothing() {
        assert_eq!(SseParser::default().push(TEXT.as_bytes()), Ok(expected()));
    }

    proptest! {
        #[test]
        fn how_the_bytes_are_cut_does_not_matter(cuts in prop::collection::vec(0..TEXT.len(), 0..12)) {
            let mut cuts = cuts;
            cuts.extend([0, TEXT.len()]);
            cuts.sort_unstable();
            let mut parser = SseParser::default();
            let mut found = Vec::new();
            for pair in cuts.windows(2) {
                found.extend(parser.push(&TEXT.as_bytes()[pair[0]..pair[1]]).expect("small"));
            }
            prop_assert_eq!(found, expected());
        }
    }

    #[test]
    fn an_endless_event_is_refused_and_does_not_fill_memory() {
        let mut parser = SseParser::default();
        let chunk = vec![b'x'; 100_000];
        assert!((0..20).any(|_| parser.push(&chunk) == Err(TooLarge)));
        let mut parser = SseParser::default();
        let line = [b"data: ".as_slice(), &chunk, b"\n"].concat();
        assert!((0..20).any(|_| parser.push(&line) == Err(TooLarge)));
    }
}
