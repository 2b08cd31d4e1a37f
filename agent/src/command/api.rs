//! The HTTP API, as the subcommands use it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use mtxfleet_wire::{
    AvailabilityView, Control, ControlOrder, DecisionView, DrainOrder, DrainRefusal, DrainView, FleetView, MemberView,
    NodeId, OrchestratorView, Role, StreamView,
};
use reqwest::{Method, Response, StatusCode};
use serde::de::DeserializeOwned;

/// Which agent to ask, and how to prove that one may change something.
#[derive(Debug, Clone, clap::Args)]
pub struct Access {
    /// Any agent of the fleet.
    #[arg(long, env = "MTXFLEET_AGENT", default_value = "http://127.0.0.1:8780")]
    pub agent: String,
    /// File that holds the agents' `http.token`; or set MTXFLEET_TOKEN.
    #[arg(long)]
    pub token_file: Option<PathBuf>,
}

#[derive(Debug)]
pub struct Api {
    client: reqwest::Client,
    agent: String,
    token: Option<String>,
}

impl Api {
    /// # Errors
    /// When the token file cannot be read.
    pub fn new(access: &Access) -> anyhow::Result<Self> {
        crate::edge::tls::install_crypto();
        let token = match &access.token_file {
            Some(file) => {
                let text = std::fs::read_to_string(file);
                Some(text.with_context(|| format!("cannot read the token from {}", file.display()))?.trim().to_owned())
            }
            None => std::env::var("MTXFLEET_TOKEN").ok(),
        };
        // An answer to an order may take as long as the registry's admission.
        let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?;
        Ok(Self { client, agent: access.agent.trim_end_matches('/').to_owned(), token })
    }

    pub async fn fleet(&self) -> anyhow::Result<FleetView> {
        self.get("/v1/fleet").await
    }

    /// # Errors
    /// No agent answers, or with an error.
    pub async fn availability(&self) -> anyhow::Result<AvailabilityView> {
        self.get("/v1/availability").await
    }

    pub async fn streams(&self) -> anyhow::Result<Vec<StreamView>> {
        self.get("/v1/streams").await
    }

    /// `None`: there was no drain since the agent started.
    pub async fn drain(&self) -> anyhow::Result<Option<DrainView>> {
        let response = self.send(self.client.get(self.url("/v1/drain"))).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        Ok(Some(read(response).await?))
    }

    /// The inner error says why the node refused.
    pub async fn order_drain(&self, order: &DrainOrder) -> anyhow::Result<Result<DrainView, DrainRefusal>> {
        self.change(self.client.post(self.url("/v1/drain")).json(order)).await
    }

    pub async fn order_undrain(&self) -> anyhow::Result<Result<DrainView, DrainRefusal>> {
        self.change(self.client.delete(self.url("/v1/drain"))).await
    }

    pub async fn orchestrators(&self) -> anyhow::Result<Vec<OrchestratorView>> {
        self.get("/v1/orchestrators").await
    }

    /// Of this role, or of both; the newest last.
    pub async fn decisions(&self, role: Option<Role>) -> anyhow::Result<Vec<DecisionView>> {
        let query = role.map_or_else(String::new, |role| format!("?role={role}"));
        self.get(&format!("/v1/decisions{query}")).await
    }

    /// Pauses a role, or resumes it.
    pub async fn order_pause(&self, order: &ControlOrder, paused: bool) -> anyhow::Result<Control> {
        let path = if paused { "/v1/pause" } else { "/v1/resume" };
        read(self.authorised(self.client.post(self.url(path)).json(order)).await?).await
    }

    /// Keeps the node whose agent this is, or no longer.
    pub async fn order_protect(&self, protected: bool) -> anyhow::Result<MemberView> {
        let method = if protected { Method::POST } else { Method::DELETE };
        read(self.authorised(self.client.request(method, self.url("/v1/protect"))).await?).await
    }

    /// The same access to the agent of another node; `None`: the agent that is asked.
    ///
    /// # Errors
    /// When the fleet does not know the node, or where its agent is.
    pub async fn of_node(&self, node: Option<&NodeId>) -> anyhow::Result<Self> {
        let fleet = self.fleet().await?;
        let node = node.unwrap_or(&fleet.seen_by);
        let Some(member) = fleet.members.iter().find(|member| member.node == *node) else {
            let known: Vec<&str> = fleet.members.iter().map(|member| member.node.as_str()).collect();
            bail!("no node {node} in fleet {}; it has {}", fleet.cluster, known.join(", "));
        };
        // The agent that answered is reached as it was; its own idea of its address may be good for other nodes only.
        if *node == fleet.seen_by {
            return Ok(Self { client: self.client.clone(), agent: self.agent.clone(), token: self.token.clone() });
        }
        let Some(facts) = &member.facts else { bail!("{node} has not said yet where its agent is; try again") };
        let agent = facts.http.trim_end_matches('/').to_owned();
        Ok(Self { client: self.client.clone(), agent, token: self.token.clone() })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        read(self.send(self.client.get(self.url(path))).await?).await
    }

    async fn change(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Result<DrainView, DrainRefusal>> {
        let response = self.authorised(request).await?;
        if response.status() == StatusCode::CONFLICT {
            return Ok(Err(response
                .json()
                .await
                .context("the agent refused, but not in words that are understood")?));
        }
        Ok(Ok(read(response).await?))
    }

    async fn authorised(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Response> {
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let response = self.send(request).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let what = if self.token.is_some() { "the agent does not take this token" } else { "this needs a token" };
            bail!("{what}; give the agents' http.token with --token-file, or in MTXFLEET_TOKEN");
        }
        Ok(response)
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Response> {
        let hint = || format!("no agent answers at {}; name one with --agent, or in MTXFLEET_AGENT", self.agent);
        request.send().await.with_context(hint)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.agent)
    }
}

/// The body, or the error in it.
async fn read<T: DeserializeOwned>(response: Response) -> anyhow::Result<T> {
    let status = response.status();
    if status.is_success() {
        return response.json().await.context("the agent's answer cannot be read; is it of another version?");
    }
    let text = response.text().await.unwrap_or_default();
    let error = serde_json::from_str::<serde_json::Value>(&text).ok();
    match error.as_ref().and_then(|error| error["error"].as_str()) {
        Some(error) => bail!("the agent answers {status}: {error}"),
        None => bail!("the agent answers {status}"),
    }
}
