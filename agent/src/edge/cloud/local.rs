//! Driver `local`: `mtxfleet local-cloud` over HTTP.

use mtxfleet_leader::cloud::{CloudAnswer, CloudCall, CloudError};
use mtxfleet_wire::Role;
use reqwest::{Client, StatusCode};
use serde::Deserialize;
use serde_json::json;
use url::Url;

use super::Listing;

#[derive(Debug, Clone)]
pub(super) struct Local {
    client: Client,
    /// Without a slash at its end.
    url: String,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    error: String,
}

impl Local {
    pub(super) fn new(url: &Url) -> anyhow::Result<Self> {
        // No connection is kept: a call is rare, and one on a connection that was closed meanwhile fails.
        let client = Client::builder().pool_max_idle_per_host(0).no_proxy().build()?;
        Ok(Self { client, url: url.as_str().trim_end_matches('/').to_owned() })
    }

    pub(super) async fn call(&self, role: Role, call: &CloudCall) -> Result<CloudAnswer, CloudError> {
        let group = format!("{}/v1/groups/{role}", self.url);
        let request = match call {
            CloudCall::Describe => self.client.get(group),
            CloudCall::SetDesired { desired } => {
                self.client.put(format!("{group}/desired")).json(&json!({ "desired": desired }))
            }
            CloudCall::End { instance, decrement } => {
                let body = json!({ "instance": instance, "decrement": decrement });
                self.client.post(format!("{group}/end")).json(&body)
            }
        };
        let failed = |error: reqwest::Error| CloudError::Failed(format!("no answer at {}: {error}", self.url));
        let answer = request.send().await.map_err(failed)?;
        let status = answer.status();
        let body = answer.text().await.map_err(failed)?;
        if status.is_success() {
            return match call {
                CloudCall::Describe => serde_json::from_str::<Listing>(&body)
                    .map_err(|error| CloudError::Failed(format!("its listing cannot be read: {error}")))?
                    .whole(role),
                _ => Ok(CloudAnswer::Done),
            };
        }
        let why = serde_json::from_str::<Refusal>(&body).map_or_else(|_| status.to_string(), |refusal| refusal.error);
        Err(match status {
            StatusCode::TOO_MANY_REQUESTS => CloudError::Throttled(why),
            StatusCode::CONFLICT => CloudError::Refused(why),
            _ => CloudError::Failed(why),
        })
    }
}
