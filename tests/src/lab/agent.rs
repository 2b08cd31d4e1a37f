//! The agent beside each server, and its HTTP API.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use mtxfleet_wire::{
    AvailabilityView, ControlOrder, DecisionView, DrainOrder, DrainRefusal, DrainView, FleetView, MemberView, NodeId,
    OrchestratorView, Role, StreamView,
};
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;

use super::process::Process;

/// No answer of an agent takes longer than this, unless it hangs.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// One agent that this lab started itself.
#[derive(Debug)]
pub struct Agent {
    pub process: Process,
    pub http: SocketAddr,
    pub api: Api,
}

impl std::ops::Deref for Agent {
    type Target = Api;
    fn deref(&self) -> &Api {
        &self.api
    }
}

/// The HTTP API of one agent.
#[derive(Debug, Clone)]
pub struct Api {
    pub node: NodeId,
    /// `http://host:port`.
    pub url: String,
    pub(super) token: String,
}

impl Api {
    /// `http://host:port`.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// `GET /v1/orchestrators`: who leads each role, with plan and last decisions.
    ///
    /// # Errors
    /// As [`Self::fleet`].
    pub async fn orchestrators(&self) -> Result<Vec<OrchestratorView>> {
        self.get("/v1/orchestrators").await?.context("no orchestrators")
    }

    /// `POST` or `DELETE /v1/protect`: no plan drains a protected node.
    ///
    /// # Errors
    /// When it does not answer, or refuses.
    pub async fn protect(&self, protected: bool) -> Result<()> {
        let method = if protected { Method::POST } else { Method::DELETE };
        let request = client().request(method, self.url() + "/v1/protect").bearer_auth(&self.token);
        request.send().await?.error_for_status()?;
        Ok(())
    }

    /// The bearer token of its API.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// `GET /v1/fleet`: all nodes as this one sees them.
    ///
    /// # Errors
    /// When it does not answer, or oddly.
    pub async fn fleet(&self) -> Result<FleetView> {
        self.get("/v1/fleet").await?.context("no fleet")
    }

    /// `GET /v1/node`: itself.
    ///
    /// # Errors
    /// As [`Self::fleet`].
    pub async fn member(&self) -> Result<MemberView> {
        self.get("/v1/node").await?.context("no node")
    }

    /// `GET /v1/streams`.
    ///
    /// # Errors
    /// As [`Self::fleet`].
    pub async fn streams(&self) -> Result<Vec<StreamView>> {
        self.get("/v1/streams").await?.context("no streams")
    }

    /// `GET /v1/orchestrators`, of one role.
    ///
    /// # Errors
    /// As [`Self::fleet`].
    pub async fn orchestrator(&self, role: Role) -> Result<OrchestratorView> {
        let views: Vec<OrchestratorView> = self.get("/v1/orchestrators").await?.context("no orchestrators")?;
        views.into_iter().find(|view| view.role == role).with_context(|| format!("no orchestrator of {role}"))
    }

    /// `GET /v1/decisions` of one role: those that it made, or heard of.
    ///
    /// # Errors
    /// As [`Self::fleet`].
    pub async fn decisions(&self, role: Role) -> Result<Vec<DecisionView>> {
        self.get(&format!("/v1/decisions?role={role}")).await?.context("no decisions")
    }

    /// `GET /v1/availability`: what it saw, as reckoned in the last minute.
    ///
    /// # Errors
    /// As [`Self::fleet`].
    pub async fn availability(&self) -> Result<AvailabilityView> {
        self.get("/v1/availability").await?.context("no availability")
    }

    /// `POST /v1/pause` or `/v1/resume`.
    ///
    /// # Errors
    /// When it does not answer, or oddly.
    pub async fn pause(&self, role: Role, paused: bool) -> Result<()> {
        self.pause_because(role, paused, "test").await
    }

    /// The same, for this reason.
    ///
    /// # Errors
    /// When it does not answer, or oddly.
    pub async fn pause_because(&self, role: Role, paused: bool, why: &str) -> Result<()> {
        let path = if paused { "/v1/pause" } else { "/v1/resume" };
        let order = ControlOrder { role, why: why.to_owned() };
        let request = client().post(self.url() + path).bearer_auth(&self.token).json(&order);
        request.send().await?.error_for_status().with_context(|| format!("{}: POST {path}", self.node))?;
        Ok(())
    }

    /// `GET /v1/drain`: the drain under way, or the last one; `None` when there was none.
    ///
    /// # Errors
    /// As [`Self::fleet`].
    pub async fn drain_view(&self) -> Result<Option<DrainView>> {
        self.get("/v1/drain").await
    }

    /// `POST /v1/drain`. The inner error is a refusal.
    ///
    /// # Errors
    /// When it does not answer, or oddly.
    pub async fn drain(&self, order: &DrainOrder) -> Result<Result<DrainView, DrainRefusal>> {
        self.change(Method::POST, Some(order)).await
    }

    /// `DELETE /v1/drain`: cancels the drain, or brings the drained node back.
    ///
    /// # Errors
    /// When it does not answer, or oddly.
    pub async fn undrain(&self) -> Result<Result<DrainView, DrainRefusal>> {
        self.change(Method::DELETE, None).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        let asked = format!("{}: GET {path}", self.node);
        let answer = client().get(self.url() + path).send().await.with_context(|| asked.clone())?;
        match answer.status() {
            StatusCode::OK => {
                let body = answer.text().await.with_context(|| asked.clone())?;
                Ok(Some(serde_json::from_str(&body).with_context(|| format!("{asked} answered {body}"))?))
            }
            StatusCode::NOT_FOUND | StatusCode::NO_CONTENT => Ok(None),
            other => bail!("{asked} answered {other}: {}", answer.text().await.unwrap_or_default()),
        }
    }

    async fn change(&self, method: Method, order: Option<&DrainOrder>) -> Result<Result<DrainView, DrainRefusal>> {
        let asked = format!("{}: {method} /v1/drain", self.node);
        let mut request = client().request(method, self.url() + "/v1/drain").bearer_auth(&self.token);
        if let Some(order) = order {
            request = request.json(order);
        }
        let answer = request.send().await.with_context(|| asked.clone())?;
        let status = answer.status();
        let body = answer.text().await.with_context(|| asked.clone())?;
        let odd = || format!("{asked} answered {status}: {body}");
        match status {
            status if status.is_success() => Ok(Ok(serde_json::from_str(&body).with_context(odd)?)),
            StatusCode::CONFLICT => Ok(Err(serde_json::from_str(&body).with_context(odd)?)),
            _ => bail!(odd()),
        }
    }
}

/// One client for all: a connection to each agent is kept open.
///
/// # Panics
/// When there is no TLS provider.
pub fn client() -> &'static reqwest::Client {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    CLIENT.get_or_init(|| {
        // An error means that there is a provider already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        reqwest::Client::builder().timeout(ANSWER_WITHIN).build().expect("a client without proxies or certificates")
    })
}
