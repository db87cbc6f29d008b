// SPDX-License-Identifier: Apache-2.0
//! What answers a challenge: a name and a password, or a token from the realm that the registry names.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};

use super::{Answer, Asker, Question};
use crate::Auth;
use crate::challenge::Challenge;
use crate::failure::{Failure, Kind};
use crate::outgoing;
use crate::tls::Trust;
use crate::token::{self, Grant, MAX_TOKEN_BYTES};
use crate::url::{Scheme, Url, form_encode};

/// How long a name and password that worked are sent without being asked for.
const BASIC_LIFE: Duration = Duration::from_secs(600);
/// The client id that token servers see.
const CLIENT_ID: &str = "berth";

impl Asker {
    /// A header that answers one of the challenges.
    pub(super) async fn obtain(
        &self,
        answer: Answer,
        (url, trust): (&Url, &Trust),
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
            let grant = self.grant((url, trust), realm, service.as_deref(), &scope, auth, false).await?;
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
    /// identity token (`POST`, OAuth2). A realm at the registry's own origin is trusted as the registry is.
    pub(crate) async fn grant(
        &self,
        (registry, trust): (&Url, &Trust),
        realm: &str,
        service: Option<&str>,
        scope: &str,
        auth: &Auth,
        offline: bool,
    ) -> Result<Grant, Failure> {
        let realm = self.realm(registry, realm).await?;
        let trust = if realm.same_origin(registry) {
            trust.without_headers()
        } else {
            Trust::plain(self.policy.is_insecure(&realm.host))
        };
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
            self.follow(&realm, &trust, &question, authorization.as_ref())
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
                self.transport.send(&realm, &trust, request, None).await.map_err(Failure::elsewhere)?;
            Answer { response, url: realm.clone(), asked: realm }
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
}
