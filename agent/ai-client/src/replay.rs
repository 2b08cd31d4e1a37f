//! When a recording is read, how far that is, and when it is given up.

use std::time::Duration;

use crate::ReplayStatus;
use crate::assembly::Assembly;
use crate::config::Settings;
use crate::playback::{Event, Reading};

/// A rate is told once this much time has passed.
const RATE_AFTER: Duration = Duration::from_millis(200);

pub(crate) struct Replay {
    settings: Settings,
    http: reqwest::Client,
    reading: Option<Reading>,
    /// When reading began, and how far behind the camera it was then.
    began: Option<(Duration, Duration)>,
    /// When a frame of it last came, or live frames began to wait for one.
    progress: Duration,
    waited: bool,
    frames: u64,
    now: Duration,
    /// What went wrong last, for the log.
    trouble: Option<String>,
}

impl Replay {
    pub(crate) fn new(settings: &Settings, http: reqwest::Client) -> Self {
        Self {
            settings: settings.clone(),
            http,
            reading: None,
            began: None,
            progress: Duration::ZERO,
            waited: false,
            frames: 0,
            now: Duration::ZERO,
            trouble: None,
        }
    }

    /// The next of the recording; never, while none is read. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Event {
        match &mut self.reading {
            Some(reading) => match reading.next().await {
                Some(event) => event,
                None => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }

    pub(crate) fn apply(&mut self, now: Duration, event: Event, assembly: &mut Assembly) {
        match event {
            Event::Begin { after_hole } => assembly.begin_take(after_hole),
            Event::Unit(unit) => {
                assembly.recorded(unit);
                self.note_progress(now, assembly);
                return;
            }
            Event::End => {
                assembly.end_take();
            }
            Event::Failed(why) => {
                assembly.end_take();
                self.note_trouble(why);
            }
            Event::Nothing(why) => {
                assembly.end_take();
                self.note_trouble(why);
                if assembly.waits_for_recording() {
                    self.give_up(assembly);
                }
            }
        }
        if let Some(reading) = &self.reading {
            reading.go_on(assembly.need());
        }
    }

    /// Begins and ends reading as it is needed, and gives up what takes too long.
    pub(crate) fn tend(&mut self, now: Duration, assembly: &mut Assembly) {
        self.now = now;
        let Some(need) = assembly.need() else {
            if self.reading.take().is_some() {
                tracing::debug!(frames = assembly.counters().replayed - self.frames, "the recording is read no more");
            }
            (self.began, self.waited, self.trouble) = (None, false, None);
            return;
        };
        let Some(wanted) = assembly.wanted() else {
            return assembly.abandon();
        };
        let waits = assembly.waits_for_recording();
        // An application that is behind makes the recording wait, and not the other way round.
        if assembly.waiting().0 > 0 {
            self.progress = now;
        }
        if waits != self.waited || self.began.is_none() {
            (self.waited, self.progress) = (waits, now);
        }
        if self.reading.is_none() {
            tracing::info!("frames are missing; the recording is read");
            self.frames = assembly.counters().replayed;
            self.began = Some((now, assembly.backlog()));
            self.reading = Some(Reading::start(&self.settings, self.http.clone(), wanted, need));
        }
        if waits && now.saturating_sub(self.progress) >= self.settings.recording_timeout {
            self.give_up(assembly);
        }
    }

    pub(crate) fn status(&self, assembly: Option<&Assembly>) -> Option<ReplayStatus> {
        let ((began, at_first), assembly) = (self.began?, assembly?);
        let backlog = assembly.backlog();
        let passed = self.now.saturating_sub(began);
        // What was handed over is what has passed, and what the backlog has shrunk by.
        let covered = passed.as_secs_f64() + at_first.as_secs_f64() - backlog.as_secs_f64();
        let rate = (passed >= RATE_AFTER).then(|| (covered / passed.as_secs_f64()).max(0.0));
        let round = |seconds: f64| (seconds * 10.0).round() / 10.0;
        Some(ReplayStatus { backlog: Duration::from_secs_f64(round(backlog.as_secs_f64())), rate: rate.map(round) })
    }

    fn note_progress(&mut self, now: Duration, assembly: &Assembly) {
        let frames = assembly.counters().replayed;
        if frames > self.frames {
            (self.frames, self.progress) = (frames, now);
        }
    }

    fn note_trouble(&mut self, why: String) {
        if self.trouble.as_ref() != Some(&why) {
            tracing::warn!(why, "the recording cannot be read");
            self.trouble = Some(why);
        }
    }

    fn give_up(&mut self, assembly: &mut Assembly) {
        let why = self.trouble.as_deref().unwrap_or("no recording holds it");
        tracing::warn!(why, "frames are lost: the recording did not give them");
        assembly.abandon();
        self.reading = None;
        (self.began, self.waited) = (None, false);
    }
}
