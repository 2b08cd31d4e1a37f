//! Viewers as people are: Chromium, without a window, on the pages that MediaMTX serves.
//!
//! chromedriver speaks for it (W3C WebDriver, over HTTP). Chromium itself is started here, so that it ends with the lab,
//! and chromedriver joins it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use super::agent::client;
use super::process::{Process, Recipe};
use super::programs;
use super::wait::wait_for;

/// Chromium needs some seconds on a busy machine.
const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// In the page: watches the number of decoded pictures, and notes each time that it stood still for over a second.
const WATCH: &str = "
    const video = document.getElementById('video');
    const seen = { last: performance.now(), cuts: [] };
    let pictures = -1;
    setInterval(() => {
        const now = performance.now(), count = video.getVideoPlaybackQuality().totalVideoFrames;
        if (count !== pictures && count > 0) {
            if (now - seen.last > 1000) seen.cuts.push((now - seen.last) / 1000);
            seen.last = now;
            pictures = count;
        }
    }, 40);
    window.seen = seen;
";

const LOOK: &str = "
    const video = document.getElementById('video');
    return { pictures: video.getVideoPlaybackQuality().totalVideoFrames, width: video.videoWidth,
             still: (performance.now() - window.seen.last) / 1000, cuts: window.seen.cuts, url: location.href,
             message: document.getElementById('message').innerText };
";

/// What a viewer sees.
#[derive(Debug, Clone, Deserialize)]
pub struct Seen {
    /// Decoded since the page began to play, or began again.
    pub pictures: u64,
    pub width: u32,
    /// Seconds since the picture changed last.
    pub still: f64,
    /// Seconds of each standstill of over a second that is over.
    pub cuts: Vec<f64>,
    pub url: String,
    /// What the page says, instead of playing.
    pub message: String,
}

/// A viewer with one page.
#[derive(Debug)]
pub struct Viewer {
    name: String,
    session: String,
    _chromium: Process,
    _driver: Process,
}

/// A Chromium without a window, for a page that plays by itself: its address is the argument that lacks.
///
/// # Errors
/// When there is no Chromium.
pub fn chromium(name: &str, profile: &Path) -> Result<Recipe> {
    Ok(Recipe::new(format!("{name}-chromium"), programs::find("chromium")?).args([
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-quic",
        "--autoplay-policy=no-user-gesture-required",
        // The lab is on loopback, which WebRTC leaves out as a rule.
        "--allow-loopback-in-peer-connection",
        "--disable-features=WebRtcHideLocalIpsWithMdns",
        &format!("--user-data-dir={}", profile.display()),
    ]))
}

impl Viewer {
    /// Which program is missing, if any.
    #[must_use]
    pub fn missing() -> Option<String> {
        let found = programs::find("chromium").and_then(|_| programs::find("chromedriver"));
        found.err().map(|_| "chromium and chromedriver are not on PATH (Debian: chromium, chromium-driver)".to_owned())
    }

    /// Opens a page, and waits until it shows moving pictures.
    ///
    /// # Errors
    /// When Chromium does not start or the page does not play; the message says what the page says.
    pub async fn watch(name: &str, url: &str, folder: &Path, logs: &Path) -> Result<Self> {
        let profile = folder.join(name);
        let chromium = chromium(name, &profile)?.args(["--remote-debugging-port=0", "about:blank"]);
        let mut chromium = chromium.start(logs)?;
        let driver = Recipe::new(format!("{name}-driver"), programs::find("chromedriver")?).args(["--port=0"]);
        let mut driver = driver.start(logs)?;
        let (mut debugger, mut port) = (String::new(), String::new());
        wait_for(format!("the browser of {name}"), STARTS_WITHIN, async || -> Result<()> {
            chromium.check_alive()?;
            driver.check_alive()?;
            let active = std::fs::read_to_string(profile.join("DevToolsActivePort"))?;
            debugger = active.lines().next().context("an empty file")?.to_owned();
            let log = std::fs::read_to_string(driver.log_path())?;
            let said = log.split_once("successfully on port ").context("chromedriver has no port yet")?.1;
            port = said.chars().take_while(char::is_ascii_digit).collect();
            Ok(())
        })
        .await?;
        let join = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": { "debuggerAddress": format!("127.0.0.1:{debugger}") },
        } } });
        let session = post(&format!("http://127.0.0.1:{port}/session"), &join).await?;
        let id = session["sessionId"].as_str().context("chromedriver gave no session")?;
        let session = format!("http://127.0.0.1:{port}/session/{id}");
        let viewer = Self { name: name.to_owned(), session, _chromium: chromium, _driver: driver };
        post(&format!("{}/url", viewer.session), &json!({ "url": url })).await?;
        viewer.run(WATCH).await?;
        viewer.wait_playing().await?;
        // From here on, a standstill counts.
        viewer.run("window.seen.cuts.length = 0;").await?;
        Ok(viewer)
    }

    /// What it sees now.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub async fn look(&self) -> Result<Seen> {
        Ok(serde_json::from_value(self.run(LOOK).await?)?)
    }

    /// Waits until pictures move.
    ///
    /// # Errors
    /// When they do not.
    pub async fn wait_playing(&self) -> Result<()> {
        wait_for(format!("{} to play", self.name), STARTS_WITHIN, async || -> Result<()> {
            let seen = self.look().await?;
            ensure!(seen.width > 0 && seen.pictures > 25 && seen.still < 0.5, "{seen:?}");
            Ok(())
        })
        .await
    }

    async fn run(&self, script: &str) -> Result<Value> {
        post(&format!("{}/execute/sync", self.session), &json!({ "script": script, "args": [] })).await
    }
}

/// The answer's `value`.
async fn post(url: &str, body: &Value) -> Result<Value> {
    let answer = client().post(url).timeout(STARTS_WITHIN).json(body).send().await?;
    let (status, mut said): (_, Value) = (answer.status(), answer.json().await?);
    ensure!(status.is_success(), "chromedriver, asked {body}, answered {status}: {said}");
    Ok(said["value"].take())
}
