//! The status page in a browser: what an operator sees of a fleet in which something happens.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::node::Settings;
use mtxfleet_tests::lab::reader::ReconnectingReader;
use mtxfleet_tests::lab::wait::{PATIENCE, wait_for};
use mtxfleet_tests::lab::{self, Lab, programs};
use mtxfleet_tests::notes;
use mtxfleet_wire::{DrainOrder, Phase, Role};

/// It draws after its first answers; in this time of its own clock it has them.
const DRAWN_AFTER_MS: u32 = 4_000;
const BROWSER_WITHIN: Duration = Duration::from_secs(60);
/// What nobody should be able to put into the page.
const HOSTILE: &str = "<img src=x onerror=alert(1)>";

fn settings() -> Settings {
    Settings {
        drain: "viewer_window = \"2m\"\nviewer_cut = \"5s\"\n".to_owned(),
        plain_readers_are_viewers: true,
        ..lab::leadership::settings()
    }
}

/// The page's elements as the browser has them after its script ran.
async fn drawn(chromium: &Path, url: &str, profile: &Path) -> Result<String> {
    let mut command = tokio::process::Command::new(chromium);
    command
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"])
        .args(["--disable-background-networking", "--disable-component-update"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("--virtual-time-budget={DRAWN_AFTER_MS}"))
        .args(["--dump-dom", url])
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(BROWSER_WITHIN, command.output()).await.context("the browser hangs")??;
    String::from_utf8(output.stdout).context("the page is text")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_shows_a_drains_phase_and_blockers_the_decisions_reasons_and_what_is_wrong_as_text() {
    let Ok(chromium) = programs::find("chromium") else {
        notes::skipped("the status page in a browser", "chromium is not installed");
        return;
    };
    let _alone = lab::alone().await;
    let builder = Lab::builder().distribution(3).cameras([CameraKind::H264]).settings(settings());
    let mut lab = builder.start().await.expect("a fleet");
    let at = lab.nodes[0].agent.api.clone();

    // Somebody orchestrates and decides; a pause has a reason that would be a picture if it were taken for HTML.
    at.pause_because(Role::Distribution, true, HOSTILE).await.expect("paused");
    wait_for("decisions of an orchestrator", PATIENCE, async || -> Result<()> {
        let view = at.orchestrator(Role::Distribution).await?;
        ensure!(view.leader.is_some() && view.paused.is_some() && !view.decisions.is_empty(), "{view:#?}");
        Ok(())
    })
    .await
    .expect("it decides");

    // A drain that waits for a viewer; and a node of the other role whose server is gone.
    let draining = lab.of_role(Role::Distribution).next().expect("a node");
    let viewer = ReconnectingReader::start(&format!("rtsp://{}/cam1", draining.server.at.rtsp));
    wait_for("a viewer", PATIENCE, async || {
        ensure!(viewer.receives(), "it gets nothing");
        let load = draining.agent.member().await?.load.context("no load")?;
        ensure!(load.viewers == Some(1), "{load:?}");
        Ok(())
    })
    .await
    .expect("it reads");
    draining.agent.drain(&DrainOrder::default()).await.expect("an answer").expect("begun");
    let mut waits = Vec::new();
    wait_for("a drain that waits for its viewer", PATIENCE, async || -> Result<()> {
        let members = at.fleet().await?.members;
        let report = members.into_iter().find_map(|member| member.drain).context("nobody drains")?;
        ensure!(report.phase == Phase::ViewerDraining, "{report:?}");
        // Until MediaMTX was looked at in this phase, it waits for that.
        ensure!(report.waiting_for.first().is_some_and(|why| why.contains("viewer")), "{report:?}");
        waits = report.waiting_for;
        Ok(())
    })
    .await
    .expect("it waits");
    let drained = draining.id.clone();
    lab.nodes[0].server.process.freeze();
    let ill = lab.nodes[0].id.clone();
    wait_for("a server that hangs to be told of", PATIENCE, async || -> Result<()> {
        let load = at.member().await?.load.context("no load")?;
        ensure!(load.server != mtxfleet_wire::ServerHealth::Up, "{load:?}");
        Ok(())
    })
    .await
    .expect("told");
    let decisions = at.orchestrator(Role::Distribution).await.expect("shown").decisions;
    let reason = decisions[0].reasons.first().expect("a decision has a reason").clone();

    let page = drawn(&chromium, &format!("{}/", at.url), &lab.folder().join("browser")).await.expect("a page");
    lab.nodes[0].server.process.thaw();
    let shows = |what: &str| assert!(page.contains(what), "the page does not show {what:?}:\n{page}");
    shows(r#"<li class="now">4 viewer draining</li>"#);
    shows(&format!(r#"<strong class="name">{drained}</strong>"#));
    // Figures in it change by the second.
    shows(
        waits[0]
            .trim_start_matches(|c: char| c.is_ascii_digit())
            .split(|c: char| c.is_ascii_digit())
            .next()
            .expect("words"),
    );
    shows(&reason.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"));
    shows(&format!(r#"<strong class="name">{ill}</strong> ill: MediaMTX away"#));
    shows("&lt;img src=x onerror=alert(1)&gt;");
    assert!(!page.contains("<img"), "what was said is in the page as HTML:\n{page}");
    notes::ran("the status page in chromium, during a drain");
}
