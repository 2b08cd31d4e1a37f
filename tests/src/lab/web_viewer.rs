//! Who watches in a browser: HLS as a player reads it, and WebRTC in a real Chromium, on MediaMTX's own page.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use reqwest::Url;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::agent::client;
use super::browser::chromium;
use super::process::Process;

/// Between two looks at a playlist; a segment lasts 1 s at least.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// The first playlist comes when there are segments to play.
const ANSWER: Duration = Duration::from_secs(30);

/// An HLS player of one session: it never opens a second one. Dropping it stops it.
#[derive(Debug)]
pub struct HlsViewer {
    progress: watch::Receiver<HlsProgress>,
    task: JoinHandle<()>,
}

#[derive(Debug, Clone, Default)]
pub struct HlsProgress {
    /// Segments fetched, whole and not empty.
    pub segments: usize,
    /// Why it has ended; `None` while it goes on.
    pub ended: Option<String>,
}

impl HlsViewer {
    /// Needs a tokio runtime.
    #[must_use]
    pub fn start(server: SocketAddr, stream: &str) -> Self {
        let (tell, progress) = watch::channel(HlsProgress::default());
        let url = format!("http://{server}/{stream}/index.m3u8");
        let task = tokio::spawn(async move {
            let why = match watch_stream(&url, &tell).await {
                Ok(()) => "nobody wants it any more".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            tell.send_modify(|progress| progress.ended = Some(why));
        });
        Self { progress, task }
    }

    #[must_use]
    pub fn progress(&self) -> HlsProgress {
        self.progress.borrow().clone()
    }
}

impl Drop for HlsViewer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch_stream(url: &str, tell: &watch::Sender<HlsProgress>) -> Result<()> {
    let master = Url::parse(url)?;
    let media = {
        let text = get(master.clone()).await?;
        let media = text.lines().find(|line| !line.is_empty() && !line.starts_with('#')).context("no playlist")?;
        // The session is in its query.
        master.join(media)?
    };
    let mut known = HashSet::new();
    while !tell.is_closed() {
        let text = get(media.clone()).await?;
        // `gap.mp4` stands for what was before the first one (EXT-X-GAP), and is not there.
        let is_segment = |line: &&str| !line.is_empty() && !line.starts_with(['#']) && !line.starts_with("gap.");
        for segment in text.lines().filter(is_segment) {
            if known.insert(segment.to_owned()) {
                if get_bytes(media.join(segment)?).await? == 0 {
                    bail!("{segment} is empty");
                }
                tell.send_modify(|progress| progress.segments += 1);
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

async fn get(url: Url) -> Result<String> {
    Ok(client().get(url).timeout(ANSWER).send().await?.error_for_status()?.text().await?)
}

async fn get_bytes(url: Url) -> Result<usize> {
    Ok(client().get(url).timeout(ANSWER).send().await?.error_for_status()?.bytes().await?.len())
}

/// A Chromium that shows MediaMTX's page of a stream, which plays it over WHEP.
///
/// # Errors
/// When there is no Chromium, or it cannot be run.
pub fn browser(server: SocketAddr, stream: &str, folder: &Path, logs: &Path) -> Result<Process> {
    let page = format!("http://{server}/{stream}/");
    chromium("whep", &folder.join("chromium"))?.args([page]).start(logs)
}

/// A session of a server's API: its id, and bytes sent to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSession {
    pub id: String,
    pub sent: u64,
}

/// `kind` is `webrtcsessions`, `hlssessions` or `rtspsessions`: those that read this stream.
///
/// # Errors
/// When the server does not answer.
pub async fn sessions(api: SocketAddr, kind: &str, stream: &str) -> Result<Vec<WebSession>> {
    let url = format!("http://{api}/v3/{kind}/list?itemsPerPage=1000");
    let list: serde_json::Value = client().get(url).send().await?.error_for_status()?.json().await?;
    let of_stream = |item: &&serde_json::Value| item["path"] == stream && item["state"] != "publish";
    let items = list["items"].as_array().context("no items")?.iter().filter(of_stream);
    let session = |item: &serde_json::Value| {
        let id = item["id"].as_str().unwrap_or_default().to_owned();
        WebSession { id, sent: item["outboundBytes"].as_u64().unwrap_or(0) }
    };
    Ok(items.map(session).collect())
}
