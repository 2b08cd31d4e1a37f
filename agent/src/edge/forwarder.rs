//! Workers' reports that were given to the wrong agent.

use std::time::Duration;

use mtxfleet_wire::WorkerReport;

/// For one report to reach the agent that it concerns.
const WITHIN: Duration = Duration::from_secs(2);

/// Passes workers' reports on to the agent that they concern.
#[derive(Debug, Clone)]
pub struct Forwarder {
    pub client: reqwest::Client,
    pub token: Option<String>,
}

impl Forwarder {
    /// In a task of its own; one that does not arrive is logged, since a report only speeds a phase up.
    pub fn forward(&self, http: String, report: WorkerReport) {
        let url = format!("{}/v1/worker-reports", http.trim_end_matches('/'));
        let mut request = self.client.post(url).json(&report).timeout(WITHIN);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        tokio::spawn(async move {
            if let Err(error) = request.send().await.and_then(reqwest::Response::error_for_status) {
                tracing::warn!(%error, "a worker's report was not passed on");
            }
        });
    }
}
