//! MediaMTX: its API, sampled; sessions disconnected; streams kept warm.
//!
//! [`MediaMtx`] looks at the server once a second. A look is whole or it is a [`ServerProblem`]: a listing of which a
//! page is missing is never taken as complete, since a session that is not seen looks like one that has left.
//! [`Warmer`] keeps streams open by reading them.
//!
//! Reference: <https://mediamtx.org/docs/references/control-api>; shapes of v1.20.1 stand in `tests/`.

mod client;
mod credentials;
mod let_go;
mod listing;
mod looking;
mod pulls;
pub(crate) mod rfc3339;
mod warm_reader;
mod warmer;

#[cfg(test)]
pub(crate) mod real_server;
#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::sync::Mutex;
use url::Url;

pub use client::SettingsError;
pub use credentials::Credentials;
pub use let_go::{Configurations, LetGo};
pub use looking::look_at_server;
pub use pulls::{MARK_KEY, Pulls};
pub use warmer::{WarmStatus, Warmer, WarmerSettings};

use self::client::Client;
use self::listing::SessionKind;
use super::clock::Clock;
use crate::node::sample::{Protocol, ServerProblem, ServerSample};
use mtxfleet_wire::Mono;

/// A list of a protocol that is off (the server answers 404) is asked again after this long. A new connection to the
/// API, which a restart of the server makes, asks for all of them at once.
const ASK_AGAIN: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub struct MediaMtxSettings {
    /// `http://host:port` of the control API.
    pub api: Url,
    /// For a server whose `authInternalUsers` asks them of whoever uses `action: api`.
    pub credentials: Option<Credentials>,
    /// Bound on a whole look at the server, or on one disconnection.
    pub timeout: Duration,
}

/// The control API of the MediaMTX beside this agent. Keeps one connection for looking and one for acting, so that a
/// disconnection does not wait for a listing.
#[derive(Debug)]
pub struct MediaMtx {
    timeout: Duration,
    has_credentials: bool,
    looking: Mutex<Looking>,
    acting: Mutex<Client>,
}

#[derive(Debug)]
struct Looking {
    client: Client,
    /// For each of [`SessionKind::ALL`]: until when its list is not asked, as its protocol is off.
    off_until: [Option<Mono>; SessionKind::ALL.len()],
    /// How many sessions of each kind the last look, or glance, saw.
    counts: [usize; SessionKind::ALL.len()],
}

impl MediaMtx {
    /// Opens no connection yet.
    ///
    /// # Errors
    /// When `api` is not an `http` URL with a host, or holds credentials of its own.
    pub fn new(settings: MediaMtxSettings) -> Result<Self, SettingsError> {
        let client = || Client::new(&settings.api, settings.credentials.as_ref());
        Ok(Self {
            timeout: settings.timeout,
            has_credentials: settings.credentials.is_some(),
            looking: Mutex::new(Looking {
                client: client()?,
                off_until: Default::default(),
                counts: Default::default(),
            }),
            acting: Mutex::new(client()?),
        })
    }

    /// All paths, and all sessions of the protocols that are on.
    ///
    /// # Errors
    /// [`ServerProblem::Away`] without connection or without the whole answer in time; [`ServerProblem::Odd`] when
    /// what comes is not what MediaMTX says. The next call starts afresh.
    pub async fn sample(&self, clock: &Clock) -> Result<ServerSample, ServerProblem> {
        let at = clock.mono();
        let look = async {
            let mut looking = self.looking.lock().await;
            looking.look(at).await
        };
        match tokio::time::timeout(self.timeout, look).await {
            Ok(sample) => sample,
            Err(_) => Err(self.too_late()),
        }
    }

    /// Whether the number of sessions is another than at the last look: a fraction of a look's work. What goes wrong is for
    /// the next look to find.
    pub async fn glance(&self, clock: &Clock) -> bool {
        let at = clock.mono();
        let glance = async { self.looking.lock().await.glance(at).await };
        tokio::time::timeout(self.timeout, glance).await.is_ok_and(|seen| seen.unwrap_or(false))
    }

    /// Disconnects one session. One that is gone already is no error.
    ///
    /// # Errors
    /// As [`Self::sample`]; the session may have been disconnected all the same.
    pub async fn disconnect(&self, protocol: Protocol, session: &str) -> Result<(), ServerProblem> {
        if session.is_empty() || !session.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(ServerProblem::Odd(format!("{session:?} is no session id")));
        }
        let path = format!("/v3/{}/kick/{session}", SessionKind::of(protocol).list());
        let act = async { self.acting.lock().await.post(&path).await.map(|_gone_now_or_before| ()) };
        match tokio::time::timeout(self.timeout, act).await {
            Ok(done) => done,
            Err(_) => Err(self.too_late()),
        }
    }

    /// The exchange that ran out of time was dropped with its connection.
    fn too_late(&self) -> ServerProblem {
        ServerProblem::Away(format!(
            "no whole answer within {:?}{}",
            self.timeout,
            // internal/auth of MediaMTX pauses 2 s after wrong credentials.
            if self.has_credentials {
                "; it also pauses so after a wrong mediamtx.user or mediamtx.password"
            } else {
                ""
            }
        ))
    }
}

impl Looking {
    async fn look(&mut self, at: Mono) -> Result<ServerSample, ServerProblem> {
        if !self.client.is_connected() {
            self.off_until = Default::default();
        }
        let paths = listing::paths(&mut self.client).await?.ok_or_else(|| {
            ServerProblem::Odd("404 for /v3/paths/list: does mediamtx.api point at MediaMTX's control API?".to_owned())
        })?;
        let mut sessions = Vec::new();
        for kind in SessionKind::ALL {
            let off_until = &mut self.off_until[kind as usize];
            if off_until.is_some_and(|until| at < until) {
                continue;
            }
            match listing::sessions(&mut self.client, kind).await? {
                Some(mut of_kind) => {
                    self.counts[kind as usize] = of_kind.len();
                    sessions.append(&mut of_kind);
                }
                None => *off_until = Some(at + ASK_AGAIN),
            }
        }
        Ok(ServerSample { at, paths, sessions })
    }

    async fn glance(&mut self, at: Mono) -> Result<bool, ServerProblem> {
        let mut changed = false;
        for kind in SessionKind::ALL {
            if self.off_until[kind as usize].is_some_and(|until| at < until) {
                continue;
            }
            let count = listing::count(&mut self.client, kind).await?.unwrap_or(0);
            changed |= std::mem::replace(&mut self.counts[kind as usize], count) != count;
        }
        Ok(changed)
    }
}
