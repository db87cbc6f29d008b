// SPDX-License-Identifier: Apache-2.0
//! Sending one request, and going where redirects say.

use http::{HeaderValue, Request, header};

use super::{Answer, Asker, Question};
use crate::failure::Failure;
use crate::outgoing::{self, Outgoing, Payload};
use crate::tls::Trust;
use crate::url::{Scheme, Url};

/// Redirects followed for one request.
pub(crate) const MAX_REDIRECTS: usize = 5;

impl Asker {
    /// Sends, and goes where redirects say. `Authorization` stays with the server it is for, and does
    /// not come back once it was dropped; HTTPS never turns into HTTP.
    pub(super) async fn follow(
        &self,
        start: &Url,
        trust: &Trust,
        question: &Question<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, Failure> {
        let (mut url, mut trust, mut authorization) = (start.clone(), trust.clone(), authorization);
        for _ in 0..=MAX_REDIRECTS {
            let request = self.request(question, &trust, authorization);
            let response = self
                .transport
                .send(&url, &trust, request, question.body.as_ref().map(|body| &*body.taken))
                .await
                .map_err(|failure| if url == *start { failure } else { failure.elsewhere() })?;
            tracing::debug!(method = %question.method, registry = %url.host, status = response.status().as_u16(), "asked");
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(Answer { response, url, asked: start.clone() });
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
                trust = Trust::plain(self.policy.is_insecure_resolved(&next.host).await);
            }
            url = next;
        }
        Err(Failure::broken(format!("registry {} redirects more than {MAX_REDIRECTS} times", start.host)))
    }

    fn request(
        &self,
        question: &Question<'_>,
        trust: &Trust,
        authorization: Option<&HeaderValue>,
    ) -> Request<Payload> {
        let body = question.body.as_ref();
        let mut request = Request::new(body.map_or_else(outgoing::nothing, Outgoing::payload));
        *request.method_mut() = question.method.clone();
        let headers = request.headers_mut();
        // The administrator's headers first: what the protocol needs is not theirs to change.
        headers.extend(trust.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
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
}
