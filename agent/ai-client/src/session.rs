//! The one task that owns a stream: it reads legs, feeds the stitch, hands frames over, and carries out what
//! [`crate::handover`] decides. Nothing here is shared, so there is no lock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mtxfleet_wire::{DrainId, FleetEvent, LegId, NodeId, WorkerReport};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::assembly::Assembly;
use crate::checkpoint::CheckpointError;
use crate::config::Settings;
use crate::following::Follow;
use crate::frame::{Item, Track};
use crate::handover::{Action, Input, Limits, State, Target};
use crate::ledger::Ledger;
use crate::leg::{Leg, LegError, LegItem};
use crate::playback;
use crate::redundancy::{Handovers, Places, Spread};
use crate::replay::Replay;
use crate::resume::Known;
use crate::running::{Running, next_item};
use crate::{Error, Status};

/// The stitch's time rules want to be asked some ten times a second.
const TICK: Duration = Duration::from_millis(100);

/// A report waits this long for the first frame after the handover, whose lateness belongs to it.
const FRAME_AFTER_MOVE: Duration = Duration::from_secs(1);

/// The same after the camera was away; keyframes may be this far apart.
const FRAME_AFTER_RETURN: Duration = Duration::from_secs(20);

/// What may wait for an application that is behind while a leg is being brought up.
const MOVE_ITEMS: usize = 1024;
const MOVE_BYTES: usize = 32 << 20;

/// The recording is read on while no more than these wait for the application.
const REPLAY_ITEMS: usize = 4;

/// Where the session sends things.
pub(crate) struct Outlets {
    pub to_app: mpsc::Sender<Result<Item, Error>>,
    pub reports: mpsc::Sender<WorkerReport>,
    pub status: watch::Sender<Status>,
    /// Told once: the tracks when the first packet came, or why none does.
    pub ready: oneshot::Sender<Result<Vec<Track>, Error>>,
}

/// What a stream with checkpoints has beside.
pub(crate) struct Resuming {
    /// Where frames are noted.
    pub ledger: Arc<Ledger>,
    /// The last frames that an earlier life finished with; none for the first one.
    pub tail: Vec<Known>,
    /// Told when another copy of the worker has taken over.
    pub superseded: oneshot::Receiver<CheckpointError>,
}

/// A move that is done but for its first frame.
struct Moved {
    drain: DrainId,
    leg: LegId,
    new_leg: LegId,
    how: How,
    at: Duration,
    frames: u64,
}

enum How {
    MakeBeforeBreak {
        to: Option<NodeId>,
    },
    /// The leg ended with its camera's connection.
    CameraCameBack,
}

type Opened = (LegId, Result<(Leg, Vec<Track>), LegError>);

pub(crate) struct Session {
    settings: Settings,
    started: Instant,
    handover: Handovers,
    /// From the first leg on.
    assembly: Option<Assembly>,
    legs: Vec<Running>,
    opening: JoinSet<Opened>,
    openers: HashMap<LegId, (Target, AbortHandle)>,
    closing: JoinSet<()>,
    moved: Option<Moved>,
    last_pause: Option<Duration>,
    /// Recordings, while they are read.
    replay: Replay,
    /// Where a second leg can go; `None` without one.
    spread: Option<Spread>,
    resuming: Option<Resuming>,
    /// The last tick.
    ticked: Duration,
    /// Since when nothing delivers.
    away_since: Option<Duration>,
    /// Why the stream is over.
    fatal: Option<Error>,
    to_app: mpsc::Sender<Result<Item, Error>>,
    reports: mpsc::Sender<WorkerReport>,
    status: watch::Sender<Status>,
    ready: Option<oneshot::Sender<Result<Vec<Track>, Error>>>,
}

/// What the loop woke up for.
enum Step {
    Event(FleetEvent),
    Opened(Opened),
    Sent,
    Packet(usize, Option<Result<LegItem, LegError>>),
    Recording(playback::Event),
    Superseded(CheckpointError),
    Places(Arc<Places>),
    Owner,
    Tick,
    Stop,
}

impl Session {
    pub(crate) fn new(settings: Settings, http: reqwest::Client, outlets: Outlets, resuming: Option<Resuming>) -> Self {
        let limits =
            Limits { via: settings.via, leg_timeout: settings.leg_timeout, cover_timeout: settings.cover_timeout };
        let Outlets { to_app, reports, status, ready } = outlets;
        let handover = match settings.follow.as_ref().and_then(Follow::target) {
            Some(target) => Handovers::following(limits, fresh_leg_id, target),
            None => Handovers::new(limits, fresh_leg_id),
        };
        Self {
            started: Instant::now(),
            handover,
            spread: settings.redundant.then(|| Spread::start(&settings, http.clone())),
            assembly: None,
            legs: Vec::new(),
            opening: JoinSet::new(),
            openers: HashMap::new(),
            closing: JoinSet::new(),
            moved: None,
            last_pause: None,
            replay: Replay::new(&settings, http),
            resuming,
            ticked: Duration::ZERO,
            away_since: Some(Duration::ZERO),
            fatal: None,
            settings,
            to_app,
            reports,
            status,
            ready: Some(ready),
        }
    }

    /// Runs until the application closes or drops its stream, or the stream is over.
    pub(crate) async fn run(mut self, mut events: mpsc::Receiver<FleetEvent>, mut stop: oneshot::Receiver<()>) {
        let mut next_tick = Duration::ZERO;
        loop {
            self.settle();
            if let Some(error) = self.verdict() {
                self.give_up(error).await;
                break;
            }
            let wake = self.handover.deadline().map_or(next_tick, |at| at.min(next_tick));
            match self.select(&mut events, &mut stop, wake).await {
                Step::Event(event) => self.apply(Input::Event(&event)),
                Step::Opened((id, result)) => self.opened(id, result),
                Step::Sent => {}
                Step::Packet(index, item) => self.packet(index, item),
                Step::Recording(event) => self.recording(event),
                Step::Places(places) => {
                    let now = self.now();
                    self.handover.spread(now, &places, &self.settings);
                }
                Step::Owner => {
                    let now = self.now();
                    if let Some(target) = self.settings.follow.as_ref().and_then(Follow::target) {
                        tracing::info!(stream = %self.settings.stream, %target, "the stream is there now");
                        self.handover.follow(now, target);
                    }
                }
                Step::Superseded(error) => {
                    self.resuming = None;
                    self.assembly = None;
                    self.fatal = Some(Error::Checkpoint(error));
                }
                Step::Tick => {
                    next_tick = self.now() + TICK;
                    self.tick();
                }
                Step::Stop => break,
            }
        }
        self.shut_down().await;
    }

    /// Awaits and decides nothing. A frame that waits for the application is handed over here.
    async fn select(
        &mut self,
        events: &mut mpsc::Receiver<FleetEvent>,
        stop: &mut oneshot::Receiver<()>,
        wake: Duration,
    ) -> Step {
        let may_read = !self.legs.is_empty() && self.has_room();
        let may_replay = self.assembly.as_ref().is_some_and(|assembly| assembly.waiting().0 <= REPLAY_ITEMS);
        let mut waiting = self.assembly.as_mut().and_then(Assembly::take);
        let is_waiting = waiting.is_some();
        let step = tokio::select! {
            biased;
            _ = &mut *stop => Step::Stop,
            () = self.to_app.closed() => Step::Stop,
            error = superseded(&mut self.resuming) => Step::Superseded(error),
            places = Spread::next(&mut self.spread) => Step::Places(places),
            () = Follow::changed(&mut self.settings.follow) => Step::Owner,
            Some(event) = events.recv() => Step::Event(event),
            Some(done) = self.opening.join_next(), if !self.opening.is_empty() => match done {
                Ok(opened) => Step::Opened(opened),
                Err(_) => Step::Tick,
            },
            () = tokio::time::sleep_until((self.started + wake).into()) => Step::Tick,
            room = self.to_app.reserve(), if is_waiting => match (room, waiting.take()) {
                (Ok(room), Some(item)) => {
                    room.send(Ok(item));
                    Step::Sent
                }
                _ => Step::Stop,
            },
            event = self.replay.next(), if may_replay => Step::Recording(event),
            (index, item) = next_item(&mut self.legs), if may_read => Step::Packet(index, item),
        };
        if let (Some(item), Some(assembly)) = (waiting, self.assembly.as_mut()) {
            assembly.put_back(item);
        }
        step
    }

    /// Reading pauses while the application is behind, except while a leg is being brought up: that goes on within these
    /// bounds, so that a node can drain, and a lost leg be replaced, whatever the application is busy with.
    fn has_room(&self) -> bool {
        let (items, bytes) = self.assembly.as_ref().map_or((0, 0), Assembly::waiting);
        let filling = self.assembly.as_ref().is_some_and(Assembly::is_filling);
        items == 0 || ((filling || self.handover.state() != State::Live) && items < MOVE_ITEMS && bytes < MOVE_BYTES)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn apply(&mut self, input: Input<'_>) {
        let now = self.now();
        self.handover.apply(now, input);
    }

    /// Hands over what there is room for, and carries out what was decided, until nothing new comes of it.
    fn settle(&mut self) {
        loop {
            for key in self.assembly.as_mut().map(|assembly| std::mem::take(&mut assembly.covered)).unwrap_or_default()
            {
                if let Some(id) = self.legs.iter().find(|running| running.key == key).map(|running| running.id.clone())
                {
                    self.apply(Input::Covered(&id));
                }
            }
            let actions = self.handover.actions();
            if actions.is_empty() {
                break;
            }
            actions.into_iter().for_each(|action| self.perform(action));
        }
        self.report_move();
        let now = self.now();
        if let Some(assembly) = &mut self.assembly {
            self.replay.tend(now, assembly);
        }
        self.publish();
        while let Some(assembly) = &mut self.assembly
            && let Ok(room) = self.to_app.try_reserve()
            && let Some(item) = assembly.take()
        {
            room.send(Ok(item));
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Open { leg, target } => self.open(leg, target),
            Action::Close { leg } => self.close(&leg),
            Action::Acknowledge { drain, leg } => {
                tracing::info!(%drain, %leg, "the node of this leg will drain");
                self.report(WorkerReport::Acknowledged { drain, worker: self.settings.worker.clone(), leg });
            }
            Action::Moved { drain, leg, new_leg, to } => {
                self.has_moved(drain, leg, new_leg, How::MakeBeforeBreak { to });
            }
            Action::Returned { drain, leg, new_leg } => self.has_moved(drain, leg, new_leg, How::CameraCameBack),
            Action::Failed { drain, leg, why } => {
                tracing::warn!(%drain, %leg, why, "no other node would take this leg; it stays");
                self.report(WorkerReport::Failed { drain, worker: self.settings.worker.clone(), leg, why });
            }
        }
    }

    fn has_moved(&mut self, drain: DrainId, leg: LegId, new_leg: LegId, how: How) {
        let frames = self.assembly.as_ref().map_or(0, |assembly| assembly.watched_frames);
        self.moved = Some(Moved { drain, leg, new_leg, how, at: self.now(), frames });
    }

    fn open(&mut self, leg: LegId, target: Target) {
        tracing::debug!(%leg, %target, "opening a leg");
        if let (Some(assembly), Some(_)) = (&mut self.assembly, self.handover.current()) {
            assembly.begin_measuring_pause();
        }
        let wanted = match &self.assembly {
            Some(assembly) if self.ready.is_none() => assembly.tracks().to_vec(),
            _ => Vec::new(),
        };
        let (settings, id, to) = (self.settings.clone(), leg.clone(), target.clone());
        let opener = self.opening.spawn(async move {
            let result = Leg::open(&settings, &to, &id, &wanted).await;
            (id, result)
        });
        self.openers.insert(leg, (target, opener));
    }

    fn close(&mut self, id: &LegId) {
        if let Some((_, opener)) = self.openers.remove(id) {
            opener.abort();
        }
        if let Some(index) = self.legs.iter().position(|running| running.id == *id) {
            let leg = self.remove(index);
            self.closing.spawn(leg.close());
        }
        while self.closing.try_join_next().is_some() {}
    }

    fn remove(&mut self, index: usize) -> Leg {
        let now = self.now();
        let Running { key, leg, .. } = self.legs.remove(index);
        if let Some(assembly) = &mut self.assembly {
            assembly.close_leg(now, key);
        }
        leg
    }

    fn opened(&mut self, id: LegId, result: Result<(Leg, Vec<Track>), LegError>) {
        let Some((target, _)) = self.openers.remove(&id) else { return };
        let (leg, tracks) = match result {
            Ok(opened) => opened,
            Err(error) => {
                tracing::debug!(leg = %id, %target, %error, "a leg could not be opened");
                if let (LegError::OtherTracks(what), None) = (&error, self.handover.current()) {
                    self.fatal = Some(Error::TracksChanged(what.clone()));
                }
                return self.apply(Input::Refused(&id, error.to_string()));
            }
        };
        let now = self.now();
        if self.ready.is_some() {
            // No leg has delivered yet, so this one's tracks are the stream's.
            self.assembly = None;
        }
        let rtp_packets = self.settings.rtp_packets;
        let recordings = self.settings.recordings;
        let ledger = self.resuming.as_ref().map(|resuming| Arc::clone(&resuming.ledger));
        let tail = self.resuming.as_ref().map(|resuming| resuming.tail.clone()).unwrap_or_default();
        let assembly = self.assembly.get_or_insert_with(|| {
            let mut new = Assembly::new(self.started, tracks, rtp_packets, recordings, ledger);
            if !tail.is_empty() {
                new.resume(tail);
            }
            new
        });
        let key = assembly.open_leg(now);
        self.legs.push(Running { id: id.clone(), key, leg, heard: now, flowing: false });
        self.apply(Input::Opened(&id));
    }

    fn packet(&mut self, index: usize, item: Option<Result<LegItem, LegError>>) {
        let now = self.now();
        let Some(running) = self.legs.get_mut(index) else { return };
        let item = match item {
            Some(Ok(item)) => item,
            Some(Err(error)) => return self.lost(index, error.to_string()),
            None => return self.lost(index, "the server ended it".to_owned()),
        };
        // A sender report is a sign of life too: the server sends them whether the camera does anything or not.
        running.heard = now;
        let is_media = matches!(item, LegItem::Rtp { .. });
        if let Some(assembly) = &mut self.assembly {
            assembly.push(now, running.key, item);
        }
        if is_media && !std::mem::replace(&mut running.flowing, true) {
            let id = running.id.clone();
            self.apply(Input::Packets(&id));
            if let (Some(ready), Some(assembly)) = (self.ready.take(), &self.assembly) {
                let _ = ready.send(Ok(assembly.tracks().to_vec()));
            }
        }
    }

    fn lost(&mut self, index: usize, why: String) {
        let id = self.legs[index].id.clone();
        tracing::info!(leg = %id, why, "a leg has ended");
        if let (Some(assembly), true) = (&mut self.assembly, self.handover.current() == Some(&id)) {
            assembly.begin_measuring_pause();
        }
        drop(self.remove(index));
        self.apply(Input::Ended(&id, why));
        if let (None, Some(assembly)) = (self.handover.current(), &mut self.assembly) {
            assembly.lost_legs();
        }
    }

    fn recording(&mut self, event: playback::Event) {
        let now = self.now();
        if let Some(assembly) = &mut self.assembly {
            self.replay.apply(now, event, assembly);
        }
    }

    fn tick(&mut self) {
        let now = self.now();
        let since = now.saturating_sub(std::mem::replace(&mut self.ticked, now));
        let is_read = self.has_room();
        if !is_read {
            // Nothing can be said about silence.
            self.legs.iter_mut().for_each(|running| running.heard = now);
        }
        if let Some(assembly) = &mut self.assembly {
            if !is_read {
                assembly.not_read_for(since);
            }
            assembly.tick(now);
        }
        let limit = self.settings.silence_timeout;
        while let Some(index) = self.legs.iter().position(|leg| leg.flowing && now.saturating_sub(leg.heard) >= limit) {
            self.lost(index, format!("nothing came for {limit:?}"));
        }
        self.apply(Input::Tick);
    }

    fn report_move(&mut self) {
        let (now, frames) = (self.now(), self.assembly.as_ref().map_or(0, |assembly| assembly.watched_frames));
        let filling = self.assembly.as_ref().is_some_and(Assembly::is_filling);
        let done = |moved: &mut Moved| {
            let (longest, filling) = match moved.how {
                How::MakeBeforeBreak { .. } => (FRAME_AFTER_MOVE, false),
                // It goes on with a keyframe, and a recording may have what came before that.
                How::CameraCameBack => (FRAME_AFTER_RETURN, filling),
            };
            (frames > moved.frames && !filling) || now.saturating_sub(moved.at) >= longest
        };
        let Some(Moved { drain, leg, new_leg, how, .. }) = self.moved.take_if(done) else { return };
        let Some(assembly) = &mut self.assembly else { return };
        let (missing, interval) = assembly.missing();
        let (pause, counters) = (assembly.extra_pause(), assembly.counters());
        self.last_pause = Some(pause);
        let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        let worker = self.settings.worker.clone();
        self.report(match how {
            How::MakeBeforeBreak { to } => {
                tracing::info!(%drain, %leg, %new_leg, to = to.as_ref().map(NodeId::as_str), ?pause, "moved");
                WorkerReport::Moved { drain, worker, leg, new_leg, to, extra_pause_ms: pause_ms, counters }
            }
            How::CameraCameBack => {
                tracing::info!(%drain, %leg, %new_leg, ?missing, "the camera publishes elsewhere now");
                let frame_interval_us = u64::try_from(interval.as_micros()).unwrap_or(0);
                let missing_ms = u64::try_from(missing.as_millis()).unwrap_or(u64::MAX);
                WorkerReport::Returned { drain, worker, leg, new_leg, missing_ms, frame_interval_us, counters }
            }
        });
    }

    fn report(&self, report: WorkerReport) {
        if self.reports.try_send(report).is_err() {
            tracing::warn!("a report is dropped: too many wait");
        }
    }

    fn publish(&mut self) {
        let (now, state) = (self.now(), self.handover.state());
        let delivers = matches!(state, State::Live | State::Moving);
        self.away_since = if delivers { None } else { self.away_since.or(Some(now)) };
        let counters = self.assembly.as_ref().map(Assembly::counters).unwrap_or_default();
        let replay = self.replay.status(self.assembly.as_ref());
        let last_pause = self.last_pause;
        let (leg, legs) = (self.handover.current(), self.handover.legs());
        self.status.send_if_modified(|old| {
            if old.state == state
                && old.counters == counters
                && old.leg.as_ref() == leg
                && old.legs == legs
                && old.replay == replay
                && old.last_pause == last_pause
            {
                return false;
            }
            *old = Status { state, leg: leg.cloned(), legs, counters, replay, last_pause };
            true
        });
    }

    /// Why the stream is over, when it is.
    fn verdict(&mut self) -> Option<Error> {
        if let Some(fatal) = self.fatal.take() {
            return Some(fatal);
        }
        let away = self.now().saturating_sub(self.away_since?);
        let why = || self.handover.last_errors();
        match (&self.ready, self.settings.give_up_after) {
            (Some(_), _) if away >= self.settings.open_timeout => Some(Error::NotOpened { after: away, why: why() }),
            (None, Some(limit)) if away >= limit => Some(Error::Gone { after: away, why: why() }),
            _ => None,
        }
    }

    async fn give_up(&mut self, error: Error) {
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(Err(error));
            return;
        }
        while let Some(item) = self.assembly.as_mut().and_then(Assembly::take) {
            if self.to_app.send(Ok(item)).await.is_err() {
                return;
            }
        }
        let _ = self.to_app.send(Err(error)).await;
    }

    /// Says TEARDOWN on every leg, bounded by [`Leg::close`].
    async fn shut_down(mut self) {
        self.opening.shutdown().await;
        for id in self.legs.iter().map(|running| running.id.clone()).collect::<Vec<_>>() {
            self.close(&id);
        }
        self.publish();
        self.status.send_modify(|status| (status.state, status.leg, status.legs) = (State::Closed, None, 0));
        while self.closing.join_next().await.is_some() {}
    }
}

#[expect(clippy::expect_used, reason = "a UUID is 36 characters that every id may hold")]
fn fresh_leg_id() -> LegId {
    LegId::new(uuid::Uuid::new_v4().to_string()).expect("a UUID is a valid leg id")
}

/// Never, when there is nothing to be superseded, or nobody to say so any more.
async fn superseded(resuming: &mut Option<Resuming>) -> CheckpointError {
    match resuming {
        Some(resuming) if !resuming.superseded.is_terminated() => match (&mut resuming.superseded).await {
            Ok(error) => error,
            Err(_) => std::future::pending().await,
        },
        _ => std::future::pending().await,
    }
}
