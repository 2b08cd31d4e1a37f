//! `[drain]`: deadlines and paces of the five phases.

use mtxfleet_drain::Settings;

use super::section::Section;

#[derive(Debug)]
pub(super) struct DrainSection {
    /// Without what `[balancer.haproxy]` says.
    pub(super) settings: Settings,
    pub(super) exit_when_drained: bool,
}

pub(super) fn drain(section: &Section<'_>) -> Option<DrainSection> {
    let notice = section.duration("notice", "3s", "0s"..="10m");
    let balancer_deadline = section.duration("balancer_deadline", "15s", "0s"..="1h");
    let worker_deadline = section.duration("worker_deadline", "30s", "1s"..="1d");
    let warm_patience = section.duration("warm_patience", "5s", "0s"..="10m");
    let batch = section.number("batch", 0.5, 0.01..=1.0);
    let viewer_window = section.duration("viewer_window", "60s", "0s"..="1d");
    let viewer_cut = section.duration("viewer_cut", "10s", "0s"..="1d");
    let disconnects_per_second = section.number("disconnects_per_second", 20.0, 0.1..=10_000.0);
    let cleanup_deadline = section.duration("cleanup_deadline", "10s", "0s"..="1h");
    let camera_deadline = section.duration("camera_deadline", "5m", "1s"..="1d");
    let recording_grace = section.duration("recording_grace", "30s", "0s"..="1d");
    let on_complete = section.choice("on_complete", "stay", &[("stay", false), ("exit", true)]);
    if let (Some(window), Some(cut)) = (viewer_window, viewer_cut)
        && cut > window
    {
        let key = if section.has("viewer_cut") { "viewer_cut" } else { "viewer_window" };
        section.refuse(key, "drain.viewer_cut is the last part of drain.viewer_window; it must not be longer");
    }
    Some(DrainSection {
        settings: Settings {
            notice: notice?,
            balancer_deadline: balancer_deadline?,
            worker_deadline: worker_deadline?,
            warm_patience: warm_patience?,
            batch: batch?,
            viewer_window: viewer_window?,
            viewer_cut: viewer_cut?,
            disconnects_per_second: disconnects_per_second?,
            cleanup_deadline: cleanup_deadline?,
            camera_deadline: camera_deadline?,
            recording_grace: recording_grace?,
            ..Settings::default()
        },
        exit_when_drained: on_complete?,
    })
}
