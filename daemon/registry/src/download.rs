// SPDX-License-Identifier: Apache-2.0
//! Any URL's content, as `docker import URL` wants it: nobody is logged in to, and TLS is not left for plain HTTP.

use berth_domain::{Error, Meaning, Result};
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use hyper::body::{Body as _, Incoming};

use crate::ask::MAX_REDIRECTS;
use crate::failure::{Failure, Kind};
use crate::outgoing;
use crate::tls::Trust;
use crate::url::{Scheme, Url};
use crate::{Client, Parts};

/// Content on its way.
pub struct Download {
    parts: Parts,
    url: Url,
    body: Incoming,
    length: Option<u64>,
}

impl std::fmt::Debug for Download {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Download").field("url", &self.url.to_string()).finish_non_exhaustive()
    }
}

impl Client {
    /// Asks for an `http` or `https` URL, following redirects.
    ///
    /// # Errors
    ///
    /// Invalid for what is no such URL; not found; unavailable.
    pub async fn download(&self, url: &str) -> Result<Download> {
        let parts = self.parts();
        let mut next = Url::parse(url).ok_or_else(|| {
            Error::invalid(format!("{url:?} is not a URL that can be fetched: http:// or https:// expected"))
        })?;
        for _ in 0..=MAX_REDIRECTS {
            let mut request = Request::new(outgoing::nothing());
            let headers = request.headers_mut();
            headers.insert(header::USER_AGENT, parts.asker.user_agent());
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            let sent = parts.asker.transport.send(&next, &Trust::plain(false), request, None).await;
            let response = sent.map_err(|failure| error(url, failure))?;
            let status = response.status();
            if status.is_success() {
                let length = response.body().size_hint().exact();
                return Ok(Download { url: next, body: response.into_body(), length, parts });
            }
            let location = response.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
            match location.and_then(|l| next.join(l)).filter(|_| status.is_redirection()) {
                Some(to) if next.scheme == Scheme::Https && to.scheme == Scheme::Http => {
                    let why = format!("it redirects from HTTPS to plain HTTP ({}): refused", to.host);
                    return Err(error(url, Failure::broken(why)));
                }
                Some(to) => next = to,
                None => {
                    let kind = match status {
                        StatusCode::NOT_FOUND | StatusCode::GONE => Kind::NotFound,
                        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Kind::Denied,
                        _ => Kind::Unavailable,
                    };
                    return Err(error(url, Failure::new(kind, format!("{} answered {status}", next.host))));
                }
            }
        }
        Err(error(url, Failure::broken(format!("more than {MAX_REDIRECTS} redirects"))))
    }
}

impl Download {
    /// How long it is, where the server says so.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// Whence it came in the end.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.to_string()
    }

    /// The next bytes, never empty; `None` once all have come.
    ///
    /// # Errors
    ///
    /// The connection broke or stalled.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        let next = self.parts.asker.transport.next_bytes(&self.url, &mut self.body).await;
        next.map_err(|failure| error(&self.url.to_string(), failure))
    }
}

fn error(url: &str, failure: Failure) -> Error {
    let meaning = match failure.kind {
        Kind::NotFound => Meaning::NotFound,
        Kind::Denied | Kind::Unauthorized => Meaning::Forbidden,
        Kind::Unreachable | Kind::Unavailable => Meaning::Unavailable,
        Kind::Broken => Meaning::Internal,
    };
    Error::new(meaning, failure.message).context(format!("failed to GET {url}"))
}
