//! A small HTTP/1.1 client for one server on loopback: one connection, kept alive; one exchange at a time; bodies
//! bounded and read into a buffer that is used again. A pooled client with TLS costs several times the CPU and memory
//! of the rest of a sample.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use url::Url;

use super::Credentials;
use crate::node::sample::ServerProblem;

/// A page of 1,000 sessions takes about 1 MiB (v1.20.1).
const MAX_BODY: usize = 16 * 1024 * 1024;

/// The body's buffer is given back when it grew beyond this, so that one big listing does not stay in memory.
const KEPT_BODY: usize = 1024 * 1024;

/// hyper's own read buffer, which else grows to 400 KiB.
const READ_BUFFER: usize = 64 * 1024;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("mediamtx.api {0}: only plain http is spoken to the API, which belongs on loopback")]
    Scheme(Url),
    #[error("mediamtx.api {0}: a host is missing")]
    Host(Url),
    #[error("mediamtx.api: put the credentials in mediamtx.user and mediamtx.password, not in the URL")]
    CredentialsInUrl,
    #[error("mediamtx.user or mediamtx.password holds characters that no header can carry")]
    Credentials,
}

pub(super) enum Answer<'a> {
    /// 200, and its body.
    Body(&'a [u8]),
    /// 404: the session, or the whole list, is not there.
    NotFound,
}

#[derive(Debug)]
pub(super) struct Client {
    host: String,
    port: u16,
    /// `host:port` as the `Host` header has it.
    authority: HeaderValue,
    /// What stands before `/v3`; empty unless the API is behind a proxy.
    prefix: String,
    authorization: Option<HeaderValue>,
    connection: Option<Connection>,
    body: Vec<u8>,
}

/// Ends its driver when dropped, even in the middle of an exchange.
#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Client {
    pub(super) fn new(api: &Url, credentials: Option<&Credentials>) -> Result<Self, SettingsError> {
        if api.scheme() != "http" {
            return Err(SettingsError::Scheme(api.clone()));
        }
        if !api.username().is_empty() || api.password().is_some() {
            return Err(SettingsError::CredentialsInUrl);
        }
        let no_host = || SettingsError::Host(api.clone());
        let shown = api.host_str().ok_or_else(no_host)?;
        let port = api.port_or_known_default().ok_or_else(no_host)?;
        let authorization = credentials.map(|credentials| {
            let mut value = HeaderValue::try_from(credentials.basic()).map_err(|_| SettingsError::Credentials)?;
            value.set_sensitive(true);
            Ok(value)
        });
        Ok(Self {
            host: shown.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port,
            authority: HeaderValue::try_from(format!("{shown}:{port}")).map_err(|_| no_host())?,
            prefix: api.path().trim_end_matches('/').to_owned(),
            authorization: authorization.transpose()?,
            connection: None,
            body: Vec::new(),
        })
    }

    /// Whether the connection of the last exchange is still there.
    pub(super) fn is_connected(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| !connection.sender.is_closed())
    }

    pub(super) async fn get(&mut self, path_and_query: &str) -> Result<Answer<'_>, ServerProblem> {
        self.exchange(Method::GET, path_and_query, Bytes::new()).await
    }

    pub(super) async fn post(&mut self, path_and_query: &str) -> Result<Answer<'_>, ServerProblem> {
        self.exchange(Method::POST, path_and_query, Bytes::new()).await
    }

    pub(super) async fn post_json(&mut self, path_and_query: &str, body: Bytes) -> Result<Answer<'_>, ServerProblem> {
        self.exchange(Method::POST, path_and_query, body).await
    }

    pub(super) async fn delete(&mut self, path_and_query: &str) -> Result<Answer<'_>, ServerProblem> {
        self.exchange(Method::DELETE, path_and_query, Bytes::new()).await
    }

    /// The connection is put back only when the whole body has been read: an exchange that fails or is dropped
    /// half-way takes its connection along, so that no later one reads its rest.
    async fn exchange(
        &mut self,
        method: Method,
        path_and_query: &str,
        body: Bytes,
    ) -> Result<Answer<'_>, ServerProblem> {
        let kept = self.connection.take().filter(|connection| connection.sender.is_ready());
        let was_kept = kept.is_some();
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let mut sent = connection.sender.send_request(self.request(&method, path_and_query, body.clone())?).await;
        if was_kept && sent.as_ref().is_err_and(|e| e.is_canceled() || e.is_incomplete_message() || e.is_closed()) {
            // The server had closed the idle connection: that says nothing about the server.
            connection = self.connect().await?;
            sent = connection.sender.send_request(self.request(&method, path_and_query, body.clone())?).await;
        }
        let response = sent.map_err(|e| self.away(&e))?;
        let status = response.status();
        let html = is_html(&response);
        self.read_body(response).await?;
        self.connection = Some(connection);
        match status {
            StatusCode::OK if html => Err(ServerProblem::Odd(format!(
                "a web page instead of JSON: does mediamtx.api ({}) point at MediaMTX's API?",
                self.shown()
            ))),
            StatusCode::OK => Ok(Answer::Body(&self.body)),
            StatusCode::NOT_FOUND => Ok(Answer::NotFound),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(ServerProblem::Odd(format!(
                "{}: set mediamtx.user and mediamtx.password to a user of MediaMTX that has the permission `action: api`",
                status.as_u16()
            ))),
            _ => Err(ServerProblem::Odd(format!("{status} for {path_and_query}: {}", excerpt(&self.body)))),
        }
    }

    fn request(
        &self,
        method: &Method,
        path_and_query: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, ServerProblem> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path_and_query}", self.prefix))
            .header(HOST, &self.authority)
            .header(ACCEPT, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        request.body(Full::new(body)).map_err(|e| ServerProblem::Odd(format!("no request for {path_and_query}: {e}")))
    }

    async fn connect(&self) -> Result<Connection, ServerProblem> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|e| {
            ServerProblem::Away(format!("{}: {e}; is it running, with `api: yes` and this `apiAddress`?", self.shown()))
        })?;
        // A request is one small write; waiting to fill a segment would only add delay.
        stream.set_nodelay(true).map_err(|e| self.away(&e))?;
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(READ_BUFFER)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| self.away(&e))?;
        let driver = tokio::spawn(async move {
            // What goes wrong shows in the exchange that it breaks.
            let _ = driver.await;
        });
        Ok(Connection { sender, driver: driver.abort_handle() })
    }

    async fn read_body(&mut self, response: Response<Incoming>) -> Result<(), ServerProblem> {
        self.body.clear();
        if self.body.capacity() > KEPT_BODY {
            self.body = Vec::new();
        }
        let mut incoming = response.into_body();
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|e| self.away(&e))?;
            let Some(data) = frame.data_ref() else { continue };
            if self.body.len() + data.len() > MAX_BODY {
                return Err(ServerProblem::Odd(format!("an answer of more than {} MiB", MAX_BODY >> 20)));
            }
            self.body.extend_from_slice(data);
        }
        Ok(())
    }

    fn away(&self, error: &dyn std::error::Error) -> ServerProblem {
        let mut text = format!("{}: {error}", self.shown());
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        ServerProblem::Away(text)
    }

    fn shown(&self) -> &str {
        self.authority.to_str().unwrap_or("MediaMTX")
    }
}

fn is_html(response: &Response<Incoming>) -> bool {
    let content_type = response.headers().get(CONTENT_TYPE);
    content_type.and_then(|value| value.to_str().ok()).is_some_and(|value| value.starts_with("text/html"))
}

/// The start of a body, on one line, for a message.
pub(super) fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(160)]);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
