// SPDX-License-Identifier: Apache-2.0
//! One question to one registry: authentication, redirects, the choice between HTTPS and HTTP, and
//! trying again.
//!
//! ```text
//! persistently( ask( https, then http if insecure
//!                    '- authenticated( with what is known; 401 -> obtain -> once more
//!                                      '- follow( redirects, dropping Authorization at the border ))))
//! ```

mod follow;
mod grant;
mod words;

pub(crate) use follow::MAX_REDIRECTS;

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Mutex, PoisonError};

use http::{HeaderValue, Method, Response, StatusCode};
use hyper::body::Incoming;

use crate::Auth;
use crate::challenge::{Challenge, challenges};
use crate::config::Retries;
use crate::endpoint::Endpoint;
use crate::failure::{Again, Failure, Kind};
use crate::outgoing::Outgoing;
use crate::policy::Policy;
use crate::tls::Trust;
use crate::token::{Key, Tokens};
use crate::transport::Transport;
use crate::url::{Scheme, Url};

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) struct Question<'a> {
    pub(crate) method: Method,
    /// Below the endpoint's base, query included (`/v2/a/manifests/x`).
    pub(crate) path: String,
    pub(crate) accept: Option<&'static str>,
    /// `Range: bytes=<from>-` when not 0.
    pub(crate) from: u64,
    /// The token scope this needs; empty for none.
    pub(crate) scope: String,
    pub(crate) auth: &'a Auth,
    pub(crate) body: Option<Outgoing>,
}

impl Question<'_> {
    fn writes(&self) -> bool {
        self.scope.split(' ').any(|scope| scope.ends_with("push"))
    }
}

/// An answer, and who gave it after redirects.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) url: Url,
    /// Who was asked first.
    pub(crate) asked: Url,
}

pub(crate) struct Asker {
    pub(crate) transport: Transport,
    pub(crate) policy: Policy,
    tokens: Tokens,
    retries: Retries,
    user_agent: HeaderValue,
    /// Which scheme an insecure registry turned out to speak.
    schemes: Mutex<HashMap<String, Scheme>>,
}

impl Asker {
    pub(crate) fn new(
        transport: Transport,
        policy: Policy,
        retries: Retries,
        user_agent: HeaderValue,
    ) -> Self {
        Self { transport, policy, tokens: Tokens::default(), retries, user_agent, schemes: Mutex::default() }
    }

    /// What every request says of who asks.
    pub(crate) fn user_agent(&self) -> HeaderValue {
        self.user_agent.clone()
    }

    /// Tries again what may yet succeed, with growing pauses. A mirror is tried once: the next
    /// endpoint is the better second try.
    pub(crate) async fn persistently<T, F>(
        &self,
        endpoint: &Endpoint,
        what: impl Fn() -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut pause = self.retries.first_pause;
        let mut left = if endpoint.mirror { 0 } else { self.retries.count };
        loop {
            let failure = match what().await {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            let wait = match failure.again {
                Again::Yes => pause,
                Again::After(asked) if asked <= self.retries.longest_pause => asked.max(pause),
                Again::After(_) | Again::No => return Err(failure),
            };
            if left == 0 {
                return Err(failure);
            }
            tracing::debug!(registry = %endpoint.host, cause = failure.message, ?wait, "trying again");
            tokio::time::sleep(wait).await;
            left -= 1;
            pause = pause.saturating_mul(2).min(self.retries.longest_pause);
        }
    }

    /// How the registry answers one who shows nothing: the status, from where, and what it wants to see.
    pub(crate) async fn challenged(
        &self,
        endpoint: &Endpoint,
        question: &Question<'_>,
    ) -> Result<(Answer, Vec<Challenge>), Failure> {
        let answer = self.reach(endpoint, question, false).await?;
        let offered = challenges(answer.response.headers());
        Ok((answer, offered))
    }

    /// How far the endpoint's own server is trusted.
    pub(crate) async fn trusted(&self, endpoint: &Endpoint) -> Trust {
        endpoint.trust.or_insecure(self.policy.is_insecure_resolved(&endpoint.host).await)
    }

    /// Asks once, showing credentials when the registry wants them.
    pub(crate) async fn ask(&self, endpoint: &Endpoint, question: &Question<'_>) -> Result<Answer, Failure> {
        self.reach(endpoint, question, true).await
    }

    /// Asks where an earlier answer, `from` there, said to go on. Credentials go along only if that is the server that
    /// was `asked` first: where a redirect led is a stranger, and stays one whatever he answers.
    pub(crate) async fn ask_at(
        &self,
        endpoint: &Endpoint,
        url: &Url,
        (asked, from): (&Url, &Url),
        question: &Question<'_>,
    ) -> Result<Answer, Failure> {
        if url.same_origin(asked) {
            let trust = self.trusted(endpoint).await;
            return self.authenticated(url.clone(), &trust, question).await;
        }
        let insecure = self.policy.is_insecure_resolved(&url.host).await;
        if url.scheme == Scheme::Http && !insecure {
            return Err(Failure::broken(format!(
                "registry {} sends us on to {} by plain HTTP, which is not listed as insecure: refused",
                from.host, url.host
            )));
        }
        let answer =
            self.follow(url, &Trust::plain(insecure), question, None).await.map_err(Failure::elsewhere)?;
        if answer.response.status().is_success() { Ok(answer) } else { Err(self.failure(answer).await) }
    }

    /// An insecure registry is tried by HTTPS first, then by HTTP.
    async fn reach(
        &self,
        endpoint: &Endpoint,
        question: &Question<'_>,
        login: bool,
    ) -> Result<Answer, Failure> {
        let via = |scheme: Scheme, insecure: bool| {
            let url = endpoint.url(scheme, &question.path);
            let trust = endpoint.trust.or_insecure(insecure);
            async move {
                if login {
                    self.authenticated(url, &trust, question).await
                } else {
                    self.follow(&url, &trust, question, None).await
                }
            }
        };
        let insecure = self.policy.is_insecure_resolved(&endpoint.host).await;
        if let Some(scheme) = endpoint.scheme {
            return via(scheme, insecure).await;
        }
        if !insecure {
            return via(Scheme::Https, false).await;
        }
        let name = endpoint.host.to_string();
        let known = self.schemes.lock().unwrap_or_else(PoisonError::into_inner).get(&name).copied();
        let order: &[Scheme] = match &known {
            Some(scheme) => std::slice::from_ref(scheme),
            None => &[Scheme::Https, Scheme::Http],
        };
        let mut last = None;
        for &scheme in order {
            let result = via(scheme, true).await;
            let reached = !matches!(&result, Err(failure) if failure.kind == Kind::Unreachable);
            let mut schemes = self.schemes.lock().unwrap_or_else(PoisonError::into_inner);
            if reached {
                schemes.insert(name, scheme);
                return result;
            }
            schemes.remove(&name);
            last = Some(result);
        }
        last.unwrap_or_else(|| Err(Failure::broken("no way to ask the registry")))
    }

    async fn authenticated(
        &self,
        url: Url,
        trust: &Trust,
        question: &Question<'_>,
    ) -> Result<Answer, Failure> {
        let key = Key::new(&url, &question.scope, question.auth);
        let mut authorization = self.tokens.get(&key);
        let mut refused = false;
        loop {
            let answer = self.follow(&url, trust, question, authorization.as_ref()).await?;
            let status = answer.response.status();
            if status.is_success() {
                return Ok(answer);
            }
            if status != StatusCode::UNAUTHORIZED || !answer.url.same_origin(&url) {
                let failure = self.failure(answer).await;
                // Redirect targets are not asked to log in to: whatever they say, it is not "your password".
                return Err(if failure.kind == Kind::Unauthorized {
                    Failure::broken(format!(
                        "the registry sent us on to a server that refuses us: {}",
                        failure.message
                    ))
                } else {
                    failure
                });
            }
            self.tokens.forget(&key);
            let offered = challenges(answer.response.headers());
            if refused {
                return Err(self.refusal(answer, &offered).await);
            }
            // A cached header that no longer works is not yet a refusal, but the next one is.
            let (header, until) = self.obtain(answer, (&url, trust), &offered, question).await?;
            self.tokens.put(key.clone(), header.clone(), until);
            authorization = Some(header);
            refused = true;
        }
    }

    /// An answer that is no success, in the registry's own words where it has any.
    async fn failure(&self, answer: Answer) -> Failure {
        let (head, body) = answer.response.into_parts();
        let body = self.transport.error_body(&answer.url, body).await;
        Failure::of_status(
            &answer.url.host.to_string(),
            head.status,
            &head.headers,
            &words::words(&head.headers, &body),
        )
    }

    /// The second 401: what we have does not open this door.
    async fn refusal(&self, answer: Answer, offered: &[Challenge]) -> Failure {
        let scoped = offered.iter().any(|c| matches!(c, Challenge::Bearer { .. }));
        let lacking = offered.iter().find_map(|c| match c {
            Challenge::Bearer { error, .. } => error.clone(),
            Challenge::Basic => None,
        });
        let failure = self.failure(answer).await;
        if scoped {
            // A realm that gives everybody a token, but not one that is good for this: what is not
            // there and what may not be seen look the same.
            let message =
                if failure.message.is_empty() { lacking.unwrap_or_default() } else { failure.message };
            Failure::new(Kind::Denied, message)
        } else {
            Failure::new(Kind::Unauthorized, failure.message)
        }
    }
}
