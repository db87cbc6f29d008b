// SPDX-License-Identifier: Apache-2.0
//! Search, as Docker Hub's index has it (`/v1/search`): the only part of the first registry API that lives on.

use berth_domain::reference::DEFAULT_REGISTRY;
use berth_domain::{Error, Meaning, Result};
use http::Method;
use serde::Deserialize;

use crate::ask::Question;
use crate::failure::{Failure, Kind};
use crate::url::form_encode;
use crate::{Auth, Client, Parts};

/// A longer answer is refused.
const MAX_ANSWER_BYTES: u64 = 4 * 1024 * 1024;

/// One repository that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Found {
    /// `name` or `user/name`.
    pub name: String,
    /// In its owner's words.
    pub description: Option<String>,
    /// How many like it.
    pub star_count: i64,
    /// One of Docker's own.
    pub is_official: bool,
    /// Built by Docker Hub from a source repository.
    pub is_automated: bool,
}

#[derive(Deserialize)]
struct Results {
    #[serde(default)]
    results: Option<Vec<Found>>,
}

impl Client {
    /// Searches Docker Hub, or the registry that `term` begins with (`host:port/term`).
    ///
    /// # Errors
    ///
    /// Unauthorized, not found where there is no index, unavailable, or internal when the answer makes no sense.
    pub async fn search(&self, term: &str, limit: u32, auth: &Auth) -> Result<Vec<Found>> {
        let Parts { asker, endpoints } = self.parts();
        let (registry, wanted) = split(term);
        let endpoint = endpoints.index(registry)?;
        let mut path = String::from("/v1/search?q=");
        form_encode(wanted, &mut path);
        path.push_str(&format!("&n={limit}"));
        let question = Question {
            method: Method::GET,
            path,
            accept: Some("application/json"),
            from: 0,
            scope: String::new(),
            auth,
            body: None,
        };
        let ask = || async {
            let answer = asker.ask(&endpoint, &question).await?;
            let body = answer.response.into_body();
            let body = asker.transport.whole_body(&answer.url, body, MAX_ANSWER_BYTES).await?;
            serde_json::from_slice::<Results>(&body).map_err(|e| {
                Failure::broken(format!("{} answered with no list of repositories: {e}", endpoint.host))
            })
        };
        let results = asker.persistently(&endpoint, ask).await.map_err(|failure| {
            let (meaning, message) = match failure.kind {
                Kind::NotFound => (Meaning::NotFound, format!("{} has no search", endpoint.host)),
                Kind::Denied | Kind::Unauthorized => (Meaning::Unauthorized, failure.message),
                Kind::Unreachable | Kind::Unavailable => (Meaning::Unavailable, failure.message),
                Kind::Broken => (Meaning::Internal, failure.message),
            };
            Error::new(meaning, message).context(format!("searching for {term:?}"))
        })?;
        Ok(results.results.unwrap_or_default())
    }
}

/// The registry that a term begins with, if it does, and the rest.
fn split(term: &str) -> (&str, &str) {
    match term.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => match host {
            "docker.io" | "index.docker.io" => (DEFAULT_REGISTRY, rest),
            _ => (host, rest),
        },
        _ => (DEFAULT_REGISTRY, term),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_may_begin_with_a_registry() {
        assert_eq!(split("redis"), ("docker.io", "redis"));
        assert_eq!(split("user/redis"), ("docker.io", "user/redis"));
        assert_eq!(split("localhost/redis"), ("localhost", "redis"));
        assert_eq!(split("r.example:5000/a/b"), ("r.example:5000", "a/b"));
        assert_eq!(split("index.docker.io/redis"), ("docker.io", "redis"));
    }
}
