//! The one task that owns a stream: it reads legs, feeds the stitch, hands frames over, and carries out what
//! [`crate::handover`] decides. Nothing here is shared, so there is no lock. `legs` has what is done with legs, `telling`
//! what is told.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mtxfleet_wire::{FleetEvent, LegId, WorkerReport};
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

mod legs;
mod telling;

use telling::{How, Moved};

/// The stitch's time rules want to be asked some ten times a second.
const TICK: Duration = Duration::from_millis(100);

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

    fn recording(&mut self, event: playback::Event) {
        let now = self.now();
        if let Some(assembly) = &mut self.assembly {
            self.replay.apply(now, event, assembly);
        }
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
