//! Bearer tokens (RFC 6750, section 2.1).

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};

use super::error::ApiError;

#[derive(Debug)]
pub(super) struct Auth {
    token: Option<Token>,
    worker_token: Option<Token>,
}

/// Only the hash is kept: comparing hashes takes as long for a token that is nearly right as for any other.
struct Token([u8; 32]);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(hidden)")
    }
}

impl Token {
    fn new(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    fn is(&self, text: &str) -> bool {
        let other = Self::new(text);
        self.0.iter().zip(other.0).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
    }
}

impl Auth {
    /// An empty token is none: nobody is let in by sending nothing.
    pub(super) fn new(token: Option<String>, worker_token: Option<String>) -> Self {
        let keep = |token: Option<String>| token.filter(|text| !text.is_empty()).map(|text| Token::new(&text));
        Self { token: keep(token), worker_token: keep(worker_token) }
    }

    /// May the sender change the node?
    pub(super) fn operator(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(token) = &self.token else {
            return Err(ApiError::forbidden(
                "no token is configured, so nothing can be changed over HTTP; set `token` or `token_file` in section [http] of the \
                 agent's configuration and restart the agent",
            ));
        };
        check(headers, &[token])
    }

    /// May the sender do what workers do: report, and read recordings?
    pub(super) fn worker(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let tokens: Vec<&Token> = self.token.iter().chain(&self.worker_token).collect();
        if tokens.is_empty() {
            return Err(ApiError::forbidden(
                "no token is configured, so nothing is taken from or given to workers over HTTP; set `worker_token` (or `token`) in section \
                 [http] of the agent's configuration and restart the agent",
            ));
        }
        check(headers, &tokens)
    }
}

fn check(headers: &HeaderMap, tokens: &[&Token]) -> Result<(), ApiError> {
    let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let sent = header.and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    match sent {
        None => Err(ApiError::unauthorised("this needs a token: send the header `Authorization: Bearer TOKEN`")),
        Some(sent) if tokens.iter().any(|token| token.is(sent)) => Ok(()),
        Some(_) => Err(ApiError::unauthorised("the token is not the one in this agent's configuration")),
    }
}
