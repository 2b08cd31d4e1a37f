//! Which paths and sessions there are: what the API lists, and what a new reader finds.
//!
//! A published path exists while it has a publisher. One that is pulled on demand comes with its first reader and
//! stays listed, idle, when its source has ended, could not be started in time, or was not needed for a while: the next
//! reader starts it again. So does the real server.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use rtsp_types::StatusCode;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    config::{self, Action, Config, Credentials, PathConf},
    media::Track,
    pull,
    recording::{self, Recorder},
    stream::{Counters, Stream},
};

/// Pulls that wait for a source are bounded by this, whatever names readers think of.
const MAX_PATHS: usize = 4_096;

/// The state of the stand-in.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) config: Config,
    pub(super) started: SystemTime,
    paths: Mutex<BTreeMap<String, Arc<Path>>>,
    /// As in the file at the start, then as the API changed it.
    configured: Mutex<Vec<Arc<PathConf>>>,
    /// What ends the pull of each path that is pulled all the time.
    pulls: Mutex<BTreeMap<String, CancellationToken>>,
    sessions: Mutex<BTreeMap<Uuid, Arc<SessionRecord>>>,
}

/// A path with a source.
#[derive(Debug)]
pub(super) struct Path {
    pub(super) name: String,
    pub(super) conf_name: String,
    /// The session that publishes, and what ends its connection; `None` when the stream is pulled.
    pub(super) publisher: Option<(Uuid, CancellationToken)>,
    pub(super) counters: Arc<Counters>,
    pub(super) phase: watch::Sender<Phase>,
    readers: Mutex<BTreeSet<Uuid>>,
    /// For a pull on demand: how long it outlives its last reader.
    close_after: Option<Duration>,
    /// Told to the pull when nobody has read for long enough.
    pub(super) unneeded: Notify,
    /// Counts changes of readers, so that a timer set before the latest one does nothing.
    changes: AtomicU64,
}

/// How far a path's source is.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    /// Not asked for, or over.
    Idle,
    /// Being started.
    Waiting,
    /// Delivering.
    Ready { stream: Arc<Stream>, since: SystemTime },
}

/// What the API shows of an RTSP session.
#[derive(Debug)]
pub(super) struct SessionRecord {
    pub(super) id: Uuid,
    pub(super) connection: Uuid,
    pub(super) created: SystemTime,
    pub(super) peer: SocketAddr,
    pub(super) counters: Arc<Counters>,
    /// Ends the connection.
    pub(super) kick: CancellationToken,
    pub(super) shown: Mutex<Shown>,
}

/// The part of a session that changes.
#[derive(Debug, Clone, Default)]
pub(super) struct Shown {
    pub(super) state: &'static str,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) user: String,
    pub(super) user_agent: String,
}

impl Server {
    pub(super) fn new(config: Config) -> Arc<Server> {
        Arc::new(Server {
            started: SystemTime::now(),
            paths: Mutex::default(),
            configured: Mutex::new(config.paths.clone()),
            pulls: Mutex::default(),
            sessions: Mutex::default(),
            config,
        })
    }

    /// Whether somebody may do something, and whether it makes sense to ask for credentials when not.
    pub(super) fn authorize(
        &self,
        action: Action,
        path: &str,
        credentials: Option<&Credentials>,
        ip: IpAddr,
    ) -> Result<(), Unauthorized> {
        match self.config.allows(action, path, credentials, ip) {
            true => Ok(()),
            false => Err(Unauthorized { ask: credentials.is_none() }),
        }
    }

    /// Starts the sources that are pulled all the time.
    pub(super) fn start_persistent_sources(self: &Arc<Self>) {
        for conf in self.configured().iter().filter(|conf| conf.is_persistent()) {
            self.start_pull(conf);
        }
    }

    fn start_pull(self: &Arc<Self>, conf: &Arc<PathConf>) {
        let path = Arc::new(Path::new(conf.name.clone(), conf.name.clone(), None, None));
        path.set_not_ready(Phase::Waiting);
        lock(&self.paths).insert(path.name.clone(), path.clone());
        let (conf, url) = (conf.clone(), conf.source.clone().unwrap_or_default());
        let (server, stop) = (self.clone(), CancellationToken::new());
        lock(&self.pulls).insert(conf.name.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = pull::run_always(server.clone(), path.clone(), &conf, url) => {}
                () = stop.cancelled() => server.end(&path),
            }
        });
    }

    /// The configuration of paths, in the order in which they are tried.
    pub(super) fn configured(&self) -> Vec<Arc<PathConf>> {
        lock(&self.configured).clone()
    }

    fn conf(&self, name: &str, query: &str) -> Option<(Arc<PathConf>, Option<String>)> {
        config::find_path(&lock(&self.configured), name, query)
    }

    /// Puts a path's settings in the place of those that it had, if any; what was there ends.
    pub(super) fn configure(self: &Arc<Self>, conf: PathConf) {
        self.unconfigure(&conf.name);
        if let Some(former) = self.path(&conf.name) {
            if let Some((_, kick)) = &former.publisher {
                kick.cancel();
            }
            self.end(&former);
        }
        let conf = Arc::new(conf);
        {
            let mut configured = lock(&self.configured);
            configured.push(conf.clone());
            configured.sort_by_key(|path| path.rank());
        }
        if conf.is_persistent() {
            self.start_pull(&conf);
        }
    }

    /// Takes a path's settings away; what was there ends. False when there were none.
    pub(super) fn unconfigure(&self, name: &str) -> bool {
        let mut configured = lock(&self.configured);
        let before = configured.len();
        configured.retain(|path| path.name != name);
        let was_there = configured.len() < before;
        drop(configured);
        if let Some(stop) = lock(&self.pulls).remove(name) {
            stop.cancel();
        }
        if let Some(path) = self.path(name).filter(|path| was_there && path.conf_name == name) {
            if let Some((_, kick)) = &path.publisher {
                kick.cancel();
            }
            self.end(&path);
        }
        was_there
    }

    /// The stream of a path, for a reader: at once when the path is ready, when its source delivers where that is
    /// pulled on demand.
    ///
    /// # Errors
    ///
    /// The status to answer with, as MediaMTX does: 404 when nobody publishes, 400 when the name is not configured or
    /// the source did not start in time.
    pub(super) async fn stream_for(
        self: &Arc<Self>,
        name: &str,
        query: &str,
    ) -> Result<(Arc<Path>, Arc<Stream>), StatusCode> {
        let (conf, source) = self.conf(name, query).ok_or(StatusCode::BadRequest)?;
        let path = match (self.path(name), &source) {
            (Some(path), _) => path,
            (None, None) => return Err(StatusCode::NotFound),
            (None, Some(_)) => {
                self.add_path(Path::new(name.to_owned(), conf.name.clone(), None, Some(conf.close_after)))?
            }
        };
        if let (Some(url), Some(_), true) = (source, path.close_after, path.leave_idle()) {
            tokio::spawn(pull::run_on_demand(self.clone(), path.clone(), conf, url));
        }
        let mut phase = path.phase.subscribe();
        let reached = if path.close_after.is_some() {
            // Ends within the start timeout.
            phase.wait_for(|phase| !matches!(phase, Phase::Waiting)).await.map(|phase| phase.clone())
        } else {
            Ok(phase.borrow().clone())
        };
        match reached {
            Ok(Phase::Ready { stream, .. }) => {
                self.close_when_idle(&path);
                Ok((path, stream))
            }
            Ok(Phase::Waiting) => Err(StatusCode::NotFound),
            Ok(Phase::Idle) | Err(_) => Err(StatusCode::BadRequest),
        }
    }

    /// Puts a publisher's stream on a path; one that was there is ended, as with `overridePublisher`.
    ///
    /// # Errors
    ///
    /// 400 when the path is not configured, or is one that is pulled.
    pub(super) fn publish(
        &self,
        session: &SessionRecord,
        name: &str,
        tracks: Vec<Track>,
    ) -> Result<(Arc<Path>, Arc<Stream>), StatusCode> {
        let conf = match self.conf(name, "") {
            Some((conf, None)) => conf,
            _ => return Err(StatusCode::BadRequest),
        };
        if let Some(former) = self.path(name) {
            if let Some((_, kick)) = &former.publisher {
                kick.cancel();
            }
            self.end(&former);
        }
        let publisher = Some((session.id, session.kick.clone()));
        let path = self.add_path(Path::new(name.to_owned(), conf.name.clone(), publisher, None))?;
        let stream = Arc::new(self.stream(&path, &conf, tracks));
        path.set_ready(stream.clone());
        Ok((path, stream))
    }

    /// A stream that delivers from now on, recorded where that is set.
    pub(super) fn stream(&self, path: &Path, conf: &PathConf, tracks: Vec<Track>) -> Stream {
        let recorder = conf.recording.as_ref().and_then(|settings| Recorder::new(settings, &path.name, &tracks));
        Stream::new(tracks, path.counters.clone(), conf.absolute_timestamp, recorder)
    }

    /// How a path is recorded, whether it is there now or not.
    pub(super) fn recording_of(&self, name: &str) -> Option<recording::Settings> {
        self.conf(name, "")?.0.recording.clone()
    }

    fn add_path(&self, path: Path) -> Result<Arc<Path>, StatusCode> {
        let path = Arc::new(path);
        let mut paths = lock(&self.paths);
        if paths.len() >= MAX_PATHS {
            return Err(StatusCode::ServiceUnavailable);
        }
        paths.insert(path.name.clone(), path.clone());
        Ok(path)
    }

    /// Takes a publisher's path away and closes its readers. Without effect when another one has its name by now.
    pub(super) fn end(&self, path: &Arc<Path>) {
        let mut paths = lock(&self.paths);
        if paths.get(&path.name).is_some_and(|listed| Arc::ptr_eq(listed, path)) {
            paths.remove(&path.name);
        }
        drop(paths);
        path.set_not_ready(Phase::Idle);
    }

    pub(super) fn path(&self, name: &str) -> Option<Arc<Path>> {
        lock(&self.paths).get(name).cloned()
    }

    /// By name.
    pub(super) fn paths(&self) -> Vec<Arc<Path>> {
        lock(&self.paths).values().cloned().collect()
    }

    pub(super) fn add_session(&self, session: Arc<SessionRecord>) {
        lock(&self.sessions).insert(session.id, session);
    }

    pub(super) fn remove_session(&self, id: Uuid) {
        lock(&self.sessions).remove(&id);
    }

    pub(super) fn session(&self, id: Uuid) -> Option<Arc<SessionRecord>> {
        lock(&self.sessions).get(&id).cloned()
    }

    /// Oldest first.
    pub(super) fn sessions(&self) -> Vec<Arc<SessionRecord>> {
        let mut sessions: Vec<_> = lock(&self.sessions).values().cloned().collect();
        sessions.sort_by_key(|session| session.created);
        sessions
    }

    pub(super) fn add_reader(&self, path: &Path, session: Uuid) {
        lock(&path.readers).insert(session);
        path.changes.fetch_add(1, Relaxed);
    }

    pub(super) fn remove_reader(&self, path: &Arc<Path>, session: Uuid) {
        lock(&path.readers).remove(&session);
        self.close_when_idle(path);
    }

    /// Ends a pull on demand that has no reader by the time it may be closed.
    fn close_when_idle(&self, path: &Arc<Path>) {
        let Some(close_after) = path.close_after else { return };
        let change = path.changes.fetch_add(1, Relaxed) + 1;
        if !lock(&path.readers).is_empty() {
            return;
        }
        let path = path.clone();
        tokio::spawn(async move {
            tokio::time::sleep(close_after).await;
            if path.changes.load(Relaxed) == change {
                path.unneeded.notify_waiters();
            }
        });
    }
}

/// Not allowed; `ask`: no credentials were given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unauthorized {
    pub(super) ask: bool,
}

impl Path {
    fn new(
        name: String,
        conf_name: String,
        publisher: Option<(Uuid, CancellationToken)>,
        close_after: Option<Duration>,
    ) -> Path {
        Path {
            name,
            conf_name,
            publisher,
            counters: Arc::default(),
            phase: watch::Sender::new(Phase::Idle),
            readers: Mutex::default(),
            close_after,
            unneeded: Notify::new(),
            changes: AtomicU64::new(0),
        }
    }

    /// Goes from idle to waiting; false when it was not idle. A timer set for the last readers ends nothing any more.
    fn leave_idle(&self) -> bool {
        self.changes.fetch_add(1, Relaxed);
        self.phase.send_if_modified(|phase| {
            let idle = matches!(phase, Phase::Idle);
            if idle {
                *phase = Phase::Waiting;
            }
            idle
        })
    }

    /// The source delivers now.
    pub(super) fn set_ready(&self, stream: Arc<Stream>) {
        self.phase.send_replace(Phase::Ready { stream, since: SystemTime::now() });
    }

    /// The source delivers no longer: readers are closed.
    pub(super) fn set_not_ready(&self, phase: Phase) {
        if let Phase::Ready { stream, .. } = self.phase.send_replace(phase) {
            stream.close();
        }
    }

    /// The sessions that read.
    pub(super) fn readers(&self) -> Vec<Uuid> {
        lock(&self.readers).iter().copied().collect()
    }
}

impl SessionRecord {
    pub(super) fn shown(&self) -> Shown {
        lock(&self.shown).clone()
    }

    pub(super) fn show(&self, change: impl FnOnce(&mut Shown)) {
        change(&mut lock(&self.shown));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
