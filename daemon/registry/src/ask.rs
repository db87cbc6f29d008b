// SPDX-License-Identifier: Apache-2.0
//! One question to one registry: authentication, redirects, the choice between HTTPS and HTTP, and
//! trying again.
//!
//! ```text
//! persistently( ask( https, then http if insecure
//!                    '- authenticated( with what is known; 401 -> obtain -> once more
//!                                      '- follow( redirects, dropping Authorization at the border ))))
//! ```

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde::Deserialize;

use crate::Auth;
use crate::challenge::{Challenge, challenges};
use crate::config::Retries;
use crate::endpoint::Endpoint;
use crate::failure::{Again, Failure, Kind};
use crate::outgoing::{self, Outgoing, Payload};
use crate::policy::Policy;
use crate::token::{self, Grant, Key, MAX_TOKEN_BYTES, Tokens};
use crate::transport::Transport;
use crate::url::{Scheme, Url, form_encode};

/// Redirects followed for one request.
const MAX_REDIRECTS: usize = 5;
/// How long a name and password that worked are sent without being asked for.
const BASIC_LIFE: Duration = Duration::from_secs(600);
/// The client id that token servers see.
const CLIENT_ID: &str = "berth";

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

/// A successful answer, and who gave it after redirects.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) url: Url,
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
    ) -> Result<(StatusCode, Url, Vec<Challenge>), Failure> {
        let answer = self.reach(endpoint, question, false).await?;
        let offered = challenges(answer.response.headers());
        Ok((answer.response.status(), answer.url, offered))
    }

    /// Asks once, showing credentials when the registry wants them.
    pub(crate) async fn ask(&self, endpoint: &Endpoint, question: &Question<'_>) -> Result<Answer, Failure> {
        self.reach(endpoint, question, true).await
    }

    /// Asks where an earlier answer said to go on. Credentials go along only if that is the same server.
    pub(crate) async fn ask_at(
        &self,
        url: &Url,
        from: &Url,
        question: &Question<'_>,
    ) -> Result<Answer, Failure> {
        let insecure = self.policy.is_insecure_resolved(&url.host).await;
        if url.same_origin(from) {
            return self.authenticated(url.clone(), insecure, question).await;
        }
        if url.scheme == Scheme::Http && !insecure {
            return Err(Failure::broken(format!(
                "registry {} sends us on to {} by plain HTTP, which is not listed as insecure: refused",
                from.host, url.host
            )));
        }
        let answer = self.follow(url, insecure, question, None).await.map_err(Failure::elsewhere)?;
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
            async move {
                if login {
                    self.authenticated(url, insecure, question).await
                } else {
                    self.follow(&url, insecure, question, None).await
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
        insecure: bool,
        question: &Question<'_>,
    ) -> Result<Answer, Failure> {
        let key = Key::new(&url, &question.scope, question.auth);
        let mut authorization = self.tokens.get(&key);
        let mut refused = false;
        loop {
            let answer = self.follow(&url, insecure, question, authorization.as_ref()).await?;
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
            let (header, until) = self.obtain(answer, &url, &offered, question).await?;
            self.tokens.put(key.clone(), header.clone(), until);
            authorization = Some(header);
            refused = true;
        }
    }

    /// A header that answers one of the challenges.
    async fn obtain(
        &self,
        answer: Answer,
        url: &Url,
        offered: &[Challenge],
        question: &Question<'_>,
    ) -> Result<(HeaderValue, Option<Instant>), Failure> {
        let auth = question.auth;
        let basic_life = Some(Instant::now() + BASIC_LIFE);
        let tokens = offered.iter().find(|c| matches!(c, Challenge::Bearer { .. }));
        if let Some(Challenge::Bearer { realm, service, scope, .. }) = tokens {
            if !auth.registry_token.is_empty() {
                return Ok((token::bearer(&auth.registry_token)?, basic_life));
            }
            // A challenge names what this one request needs. Writing takes several that share a token.
            let scope = match scope.as_deref() {
                Some(asked) if !question.writes() => asked.to_owned(),
                Some(asked) if !question.scope.split(' ').any(|own| own == asked) => {
                    format!("{} {asked}", question.scope)
                }
                _ => question.scope.clone(),
            };
            let grant = self.grant(url, realm, service.as_deref(), &scope, auth, false).await?;
            return grant.header(&url.host.to_string());
        }
        if offered.contains(&Challenge::Basic) {
            if auth.username.is_empty() {
                return Err(Failure::new(
                    Kind::Unauthorized,
                    format!("registry {} wants a user and a password: no basic auth credentials", url.host),
                ));
            }
            return Ok((token::basic(auth)?, basic_life));
        }
        Err(self.failure(answer).await)
    }

    /// Asks a realm for a token (`GET`, with the name and password if there are any), or exchanges an
    /// identity token (`POST`, OAuth2).
    pub(crate) async fn grant(
        &self,
        registry: &Url,
        realm: &str,
        service: Option<&str>,
        scope: &str,
        auth: &Auth,
        offline: bool,
    ) -> Result<Grant, Failure> {
        let realm = self.realm(registry, realm).await?;
        let insecure = self.policy.is_insecure(&realm.host);
        let host = realm.host.to_string();
        let answer = if auth.identity_token.is_empty() {
            let mut query: Vec<(&str, &str)> = service.map(|s| ("service", s)).into_iter().collect();
            query.extend(scope.split(' ').filter(|s| !s.is_empty()).map(|s| ("scope", s)));
            if !auth.username.is_empty() {
                query.push(("account", &auth.username));
            }
            query.push(("client_id", CLIENT_ID));
            if offline {
                query.push(("offline_token", "true"));
            }
            let realm = realm.with_query(&query);
            let authorization = if auth.username.is_empty() { None } else { Some(token::basic(auth)?) };
            let question = Question {
                method: Method::GET,
                path: String::new(),
                accept: None,
                from: 0,
                scope: String::new(),
                auth,
                body: None,
            };
            self.follow(&realm, insecure, &question, authorization.as_ref())
                .await
                .map_err(Failure::elsewhere)?
        } else {
            let mut form = String::from("grant_type=refresh_token");
            for (name, value) in [
                ("refresh_token", auth.identity_token.as_str()),
                ("service", service.unwrap_or_default()),
                ("scope", scope),
                ("client_id", CLIENT_ID),
            ] {
                form.push('&');
                form.push_str(name);
                form.push('=');
                form_encode(value, &mut form);
            }
            let mut request = Request::new(outgoing::whole(Bytes::from(form)));
            *request.method_mut() = Method::POST;
            let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
            request.headers_mut().insert(header::CONTENT_TYPE, form_type);
            request.headers_mut().insert(header::USER_AGENT, self.user_agent.clone());
            let response =
                self.transport.send(&realm, insecure, request, None).await.map_err(Failure::elsewhere)?;
            Answer { response, url: realm }
        };
        if !answer.response.status().is_success() {
            let failure = self.failure(answer).await;
            return Err(match failure.kind {
                Kind::Unauthorized | Kind::Denied => {
                    let said = if failure.message.is_empty() { "unauthorized" } else { &failure.message };
                    Failure::new(
                        Kind::Unauthorized,
                        format!("the token server {host} refuses the credentials: {said}"),
                    )
                }
                Kind::NotFound => Failure::broken(format!("the token server {host} answered 404 Not Found")),
                _ => failure,
            });
        }
        let body =
            self.transport.whole_body(&answer.url, answer.response.into_body(), MAX_TOKEN_BYTES).await?;
        Grant::parse(&host, &body)
    }

    /// The realm decides where the password goes. It must be HTTPS; plain HTTP only where both the
    /// registry and the realm's host are insecure by the administrator's word or loopback.
    async fn realm(&self, registry: &Url, realm: &str) -> Result<Url, Failure> {
        let url = Url::parse(realm).ok_or_else(|| {
            Failure::broken(format!(
                "registry {} names a token server that is no URL: {realm:?}",
                registry.host
            ))
        })?;
        if url.scheme == Scheme::Http
            && !(self.policy.is_insecure_resolved(&registry.host).await && self.policy.is_insecure(&url.host))
        {
            return Err(Failure::broken(format!(
                "registry {} names a token server without TLS ({url}): credentials are not sent there",
                registry.host
            )));
        }
        Ok(url)
    }

    /// Sends, and goes where redirects say. `Authorization` stays with the server it is for, and does
    /// not come back once it was dropped; HTTPS never turns into HTTP.
    async fn follow(
        &self,
        start: &Url,
        insecure: bool,
        question: &Question<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, Failure> {
        let (mut url, mut insecure, mut authorization) = (start.clone(), insecure, authorization);
        for _ in 0..=MAX_REDIRECTS {
            let request = self.request(question, authorization);
            let response = self
                .transport
                .send(&url, insecure, request, question.body.as_ref().map(|body| &*body.taken))
                .await
                .map_err(|failure| if url == *start { failure } else { failure.elsewhere() })?;
            tracing::debug!(method = %question.method, registry = %url.host, status = response.status().as_u16(), "asked");
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(Answer { response, url });
            }
            let location = response.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
            let Some(next) = location.and_then(|l| url.join(l)) else {
                return Err(Failure::broken(format!("registry {} redirects to what is no URL", url.host)));
            };
            if next.scheme == Scheme::Http {
                if url.scheme == Scheme::Https {
                    return Err(Failure::broken(format!(
                        "registry {} redirects from HTTPS to plain HTTP ({}): refused",
                        url.host, next.host
                    )));
                }
                if !next.same_origin(&url) && !self.policy.is_insecure_resolved(&next.host).await {
                    return Err(Failure::broken(format!(
                        "registry {} redirects to {} by plain HTTP, which is not listed as insecure: refused",
                        url.host, next.host
                    )));
                }
            }
            if !next.same_origin(&url) {
                authorization = None;
                insecure = self.policy.is_insecure_resolved(&next.host).await;
            }
            url = next;
        }
        Err(Failure::broken(format!("registry {} redirects more than {MAX_REDIRECTS} times", start.host)))
    }

    fn request(&self, question: &Question<'_>, authorization: Option<&HeaderValue>) -> Request<Payload> {
        let body = question.body.as_ref();
        let mut request = Request::new(body.map_or_else(outgoing::nothing, Outgoing::payload));
        *request.method_mut() = question.method.clone();
        let headers = request.headers_mut();
        headers.insert(header::USER_AGENT, self.user_agent.clone());
        // Bytes are counted and hashed as they are stored: no transfer compression on the way.
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(accept) = question.accept {
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        }
        if question.from > 0 {
            if let Ok(range) = HeaderValue::from_str(&format!("bytes={}-", question.from)) {
                headers.insert(header::RANGE, range);
            }
        }
        if let Some(body) = body {
            if let Ok(kind) = HeaderValue::from_str(&body.content_type) {
                headers.insert(header::CONTENT_TYPE, kind);
            }
            let range = body.range.and_then(|(from, to)| HeaderValue::from_str(&format!("{from}-{to}")).ok());
            if let Some(range) = range {
                headers.insert(header::CONTENT_RANGE, range);
            }
        }
        if let Some(authorization) = authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        request
    }

    /// An answer that is no success, in the registry's own words where it has any.
    async fn failure(&self, answer: Answer) -> Failure {
        let (head, body) = answer.response.into_parts();
        let body = self.transport.error_body(&answer.url, body).await;
        Failure::of_status(
            &answer.url.host.to_string(),
            head.status,
            &head.headers,
            &words(&head.headers, &body),
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

/// `{"errors":[{"code","message"}]}` (distribution spec) or a token server's `{"details"}`, in a line.
fn words(headers: &HeaderMap, body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        errors: Vec<One>,
        #[serde(default)]
        details: String,
        #[serde(default)]
        error_description: String,
    }
    #[derive(Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let json =
        headers.get(header::CONTENT_TYPE).and_then(|t| t.to_str().ok()).is_none_or(|t| t.contains("json"));
    let Some(body) = json.then(|| serde_json::from_slice::<Body>(body).ok()).flatten() else {
        return String::new();
    };
    let said = match body.errors.first() {
        Some(one) => match (one.code.to_lowercase().replace('_', " "), one.message.as_str()) {
            (code, "") => code,
            (code, message) if code.is_empty() => message.to_owned(),
            (code, message) => format!("{code}: {message}"),
        },
        None if body.details.is_empty() => body.error_description,
        None => body.details,
    };
    // It ends up on terminals and in logs.
    said.chars().filter(|c| !c.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_words_are_made_fit_to_show() {
        let say = |body: &str| words(&HeaderMap::new(), body.as_bytes());
        assert_eq!(
            say(r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your limit"}]}"#),
            "toomanyrequests: You have reached your limit"
        );
        assert_eq!(say(r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#), "name unknown");
        assert_eq!(say(r#"{"details":"incorrect username or password"}"#), "incorrect username or password");
        assert_eq!(say("{\"errors\":[{\"message\":\"a\\u001b[31mb\\n\"}]}"), "a[31mb");
        assert_eq!(say("<html>"), "");
        assert_eq!(say(&format!("{{\"details\":\"{}\"}}", "x".repeat(10_000))).len(), 300);
    }
}
