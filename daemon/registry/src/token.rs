// SPDX-License-Identifier: Apache-2.0
//! `Authorization` headers, and how they are come by (Docker's token authentication specification).
//!
//! Everything here is kept per registry, per scope and per credentials: a token that one user's
//! password bought is never lent to another user, nor to another registry.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::Auth;
use crate::failure::Failure;
use crate::url::Url;

/// Tokens kept at most; the next one to expire goes first.
const MAX_TOKENS: usize = 1024;
/// A token is not used in its last moments.
const MARGIN: Duration = Duration::from_secs(5);
/// What a realm's silence about expiry means (token specification).
const DEFAULT_LIFE: u64 = 60;
/// A realm's answer above this is refused.
pub(crate) const MAX_TOKEN_BYTES: u64 = 256 * 1024;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    origin: String,
    scope: String,
    credentials: [u8; 32],
}

impl Key {
    pub(crate) fn new(registry: &Url, scope: &str, auth: &Auth) -> Self {
        let mut hash = Sha256::new();
        for field in [&auth.username, &auth.password, &auth.identity_token, &auth.registry_token] {
            hash.update((field.len() as u64).to_le_bytes());
            hash.update(field);
        }
        let origin = format!("{}://{}", registry.scheme.as_str(), registry.host);
        Self { origin, scope: scope.to_owned(), credentials: hash.finalize().into() }
    }
}

/// Headers that worked, until they expire.
#[derive(Default)]
pub(crate) struct Tokens {
    ready: Mutex<HashMap<Key, (HeaderValue, Option<Instant>)>>,
}

impl Tokens {
    pub(crate) fn get(&self, key: &Key) -> Option<HeaderValue> {
        let ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let (header, until) = ready.get(key)?;
        until.is_none_or(|until| Instant::now() < until).then(|| header.clone())
    }

    pub(crate) fn put(&self, key: Key, header: HeaderValue, until: Option<Instant>) {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        ready.retain(|_, (_, until)| until.is_none_or(|until| now < until));
        if ready.len() >= MAX_TOKENS {
            let first = ready.iter().min_by_key(|(_, (_, until))| *until).map(|(key, _)| key.clone());
            first.map(|key| ready.remove(&key));
        }
        ready.insert(key, (header, until));
    }

    pub(crate) fn forget(&self, key: &Key) {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

fn secret(text: &str) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::from_str(text).map_err(|_| {
        Failure::broken("the credentials or the token hold characters that a header cannot carry")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

pub(crate) fn basic(auth: &Auth) -> Result<HeaderValue, Failure> {
    secret(&format!("Basic {}", STANDARD.encode(format!("{}:{}", auth.username, auth.password))))
}

pub(crate) fn bearer(token: &str) -> Result<HeaderValue, Failure> {
    secret(&format!("Bearer {token}"))
}

/// What a realm answers.
#[derive(Deserialize)]
pub(crate) struct Grant {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<i64>,
    #[serde(default)]
    pub(crate) refresh_token: Option<String>,
}

impl Grant {
    pub(crate) fn parse(host: &str, body: &[u8]) -> Result<Self, Failure> {
        serde_json::from_slice(body).map_err(|e| {
            Failure::broken(format!("the token server {host} answered with something else: {e}"))
        })
    }

    /// The header, and until when it is good. The clock starts when the answer came: the realm's own
    /// `issued_at` would need the two clocks to agree.
    pub(crate) fn header(&self, host: &str) -> Result<(HeaderValue, Option<Instant>), Failure> {
        let token = [&self.token, &self.access_token].into_iter().flatten().find(|t| !t.is_empty());
        let token = token.ok_or_else(|| Failure::broken(format!("the token server {host} gave no token")))?;
        let life =
            self.expires_in.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0).unwrap_or(DEFAULT_LIFE);
        let life = Duration::from_secs(life.min(86_400)).saturating_sub(MARGIN);
        Ok((bearer(token)?, Some(Instant::now() + life)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn key(user: &str, scope: &str) -> Key {
        Key::new(&Url::parse("https://r.example").unwrap(), scope, &Auth::basic(user, "pw"))
    }

    #[test]
    fn tokens_are_for_one_user_and_one_scope() {
        let tokens = Tokens::default();
        tokens.put(key("a", "s"), bearer("t").unwrap(), None);
        assert!(tokens.get(&key("a", "s")).is_some());
        assert!(tokens.get(&key("b", "s")).is_none());
        assert!(tokens.get(&key("a", "other")).is_none());
        tokens.forget(&key("a", "s"));
        assert!(tokens.get(&key("a", "s")).is_none());
    }

    #[test]
    fn the_store_is_bounded_and_expires() {
        let tokens = Tokens::default();
        tokens.put(key("gone", ""), bearer("t").unwrap(), Some(Instant::now()));
        assert!(tokens.get(&key("gone", "")).is_none());
        let until = Instant::now() + Duration::from_secs(600);
        for n in 0..MAX_TOKENS + 10 {
            tokens.put(key(&n.to_string(), ""), bearer("t").unwrap(), Some(until));
        }
        assert_eq!(tokens.ready.lock().unwrap().len(), MAX_TOKENS);
    }

    #[test]
    fn grants() {
        let header = |body: &str| Grant::parse("h", body.as_bytes())?.header("h");
        assert_eq!(header(r#"{"token":"a"}"#).unwrap().0, "Bearer a");
        assert_eq!(header(r#"{"token":"","access_token":"b","expires_in":300}"#).unwrap().0, "Bearer b");
        assert!(header(r#"{"token":"a","expires_in":-7}"#).is_ok());
        assert!(header("{}").is_err());
        assert!(header("<html>").is_err());
        assert!(header(r#"{"token":"a\nb"}"#).is_err());
    }

    #[test]
    fn secrets_do_not_show() {
        assert_eq!(format!("{:?}", basic(&Auth::basic("u", "p")).unwrap()), "Sensitive");
        assert!(!format!("{:?}", Auth::basic("u", "hunter2")).contains("hunter2"));
    }
}
