// SPDX-License-Identifier: Apache-2.0
//! Streaming blobs, with resumption.

use std::fmt;
use std::sync::Arc;

use berth_domain::{Reference, Result};
use bytes::{Buf as _, Bytes};
use http::{Method, StatusCode, header};
use hyper::body::Incoming;

use crate::Auth;
use crate::ask::{Answer, Asker, Question};
use crate::endpoint::Endpoint;
use crate::failure::{Again, Failure, Kind};
use crate::manifest::{Descriptor, scope};
use crate::url::Url;

/// A connection that brought this much was worth opening: the count of mendings starts anew.
const WORTHWHILE: u64 = 1024 * 1024;
/// Mendings in a row that brought less than [`WORTHWHILE`].
const MAX_MENDINGS: u32 = 5;

/// The bytes of a blob. Breaks and stalls of the connection are mended by asking for the rest.
pub struct BlobStream {
    asker: Arc<Asker>,
    /// Those that have not broken this stream yet; the last one stays.
    endpoints: Vec<Endpoint>,
    reference: Reference,
    descriptor: Descriptor,
    auth: Auth,
    body: Option<Body>,
    offset: u64,
    mendings: u32,
}

struct Body {
    incoming: Incoming,
    url: Url,
    /// Bytes before the offset that a server without ranges sends all the same.
    skip: u64,
    /// Index of its endpoint, and the offset it began at.
    endpoint: usize,
    began: u64,
}

impl fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobStream")
            .field("digest", &self.descriptor.digest)
            .field("offset", &self.offset)
            .field("size", &self.descriptor.size)
            .finish_non_exhaustive()
    }
}

impl BlobStream {
    /// Asks at once, so that what is not there is known before a byte is expected.
    pub(crate) async fn open(
        asker: Arc<Asker>,
        endpoints: Vec<Endpoint>,
        reference: Reference,
        descriptor: Descriptor,
        offset: u64,
        auth: Auth,
    ) -> Result<Self> {
        if offset > descriptor.size {
            return Err(berth_domain::Error::invalid(format!(
                "blob {} has {} bytes: it cannot be read from {offset} on",
                descriptor.digest, descriptor.size
            )));
        }
        let mut stream =
            Self { asker, endpoints, reference, descriptor, auth, body: None, offset, mendings: 0 };
        if offset < stream.descriptor.size {
            match stream.connect().await {
                Ok(body) => stream.body = Some(body),
                Err(failure) => return Err(stream.error(failure)),
            }
        }
        Ok(stream)
    }

    /// The next bytes, never empty; `None` once all have come.
    ///
    /// Cancel-safe: a dropped call loses no bytes.
    ///
    /// # Errors
    ///
    /// As [`crate::Client::resolve`], when mending did not help or the registry sends another length
    /// than the descriptor's.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.offset == self.descriptor.size && self.body.is_none() {
                return Ok(None);
            }
            match self.step().await {
                Ok(Some(data)) => return Ok(Some(data)),
                Ok(None) => {}
                Err(failure) => self.mend(failure)?,
            }
        }
    }

    /// Some bytes, or a step towards them.
    async fn step(&mut self) -> Result<Option<Bytes>, Failure> {
        if self.body.is_none() {
            self.body = Some(self.connect().await?);
        }
        let Some(body) = &mut self.body else { return Ok(None) };
        let left = self.descriptor.size - self.offset;
        match self.asker.transport.next_bytes(&body.url, &mut body.incoming).await? {
            None if left == 0 => {
                self.body = None;
                Ok(None)
            }
            None => Err(Failure::transient(
                Kind::Unavailable,
                format!("registry {} stopped {left} bytes before the end", body.url.host),
            )),
            Some(mut data) => {
                if body.skip > 0 {
                    let skipped = usize::try_from(body.skip).unwrap_or(usize::MAX).min(data.len());
                    data.advance(skipped);
                    body.skip -= skipped as u64;
                    if data.is_empty() {
                        return Ok(None);
                    }
                }
                if data.len() as u64 > left {
                    return Err(Failure::broken(format!(
                        "registry {} sends more than the {} bytes that the blob has",
                        body.url.host, self.descriptor.size
                    )));
                }
                self.offset += data.len() as u64;
                Ok(Some(data))
            }
        }
    }

    /// Whether to go on after a failure. A mirror that broke the stream is not asked again.
    fn mend(&mut self, failure: Failure) -> Result<()> {
        let mut again = failure.again != Again::No;
        if let Some(body) = self.body.take() {
            if self.endpoints.get(body.endpoint).is_some_and(|e| e.mirror) {
                self.endpoints.remove(body.endpoint);
                again = true;
            }
            if self.offset - body.began >= WORTHWHILE {
                self.mendings = 0;
            }
        } else {
            // Connecting has had its own retries.
            again = false;
        }
        self.mendings += 1;
        if !again || self.mendings > MAX_MENDINGS {
            return Err(self.error(failure));
        }
        tracing::debug!(digest = %self.descriptor.digest, offset = self.offset, cause = failure.message, "resuming");
        Ok(())
    }

    /// Opens the blob from the offset on, at the first endpoint that gives it.
    async fn connect(&self) -> Result<Body, Failure> {
        let mut last = Failure::broken("no registry to ask");
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            let anonymous = Auth::anonymous();
            let question = Question {
                method: Method::GET,
                path: format!("/v2/{}/blobs/{}", self.reference.repository(), self.descriptor.digest),
                accept: None,
                from: self.offset,
                scope: scope(&self.reference),
                auth: if endpoint.mirror { &anonymous } else { &self.auth },
                body: None,
            };
            let opened = self
                .asker
                .persistently(endpoint, || async {
                    let answer = self.asker.ask(endpoint, &question).await?;
                    self.accept(answer, index)
                })
                .await;
            match opened {
                Ok(body) => return Ok(body),
                Err(failure) => {
                    if endpoint.mirror {
                        tracing::info!(mirror = %endpoint.host, cause = failure.message, "falling back");
                    }
                    last = failure;
                }
            }
        }
        Err(last)
    }

    /// Checks that the answer is the wanted part of the blob.
    fn accept(&self, answer: Answer, endpoint: usize) -> Result<Body, Failure> {
        let Answer { response, url, .. } = answer;
        let size = self.descriptor.size;
        let wrong = |what: String| Failure::broken(format!("registry {} {what}", url.host));
        let skip = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = response.headers().get(header::CONTENT_RANGE).and_then(|r| r.to_str().ok());
                let (start, total) = range
                    .and_then(content_range)
                    .ok_or_else(|| wrong("sent a part without saying which".into()))?;
                if start != self.offset {
                    return Err(wrong(format!("sent the part from {start} on, not from {}", self.offset)));
                }
                if total.is_some_and(|total| total != size) {
                    return Err(wrong(format!("has {total:?} bytes of the blob, not {size}")));
                }
                0
            }
            StatusCode::OK => self.offset,
            status => return Err(wrong(format!("answered {status} to a request for a blob"))),
        };
        use hyper::body::Body as _;
        if let Some(length) = response.body().size_hint().exact() {
            if length + self.offset - skip != size {
                return Err(wrong(format!(
                    "offers {length} bytes where {} are due",
                    size - self.offset + skip
                )));
            }
        }
        Ok(Body { incoming: response.into_body(), url, skip, endpoint, began: self.offset })
    }

    fn error(&self, failure: Failure) -> berth_domain::Error {
        let doing =
            format!("failed to fetch {} of {}", self.descriptor.digest, self.reference.familiar_name());
        match failure.kind {
            Kind::NotFound => berth_domain::Error::not_found("blob not found").context(doing),
            _ => failure.into_error(&self.reference, &doing),
        }
    }

    /// How far into the blob the next byte is.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The blob's length.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.descriptor.size
    }
}

/// Start and, if stated, total of `bytes <start>-<end>/<total or *>`.
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let (start, end): (u64, u64) = (start.trim().parse().ok()?, end.trim().parse().ok()?);
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    (start <= end).then_some((start, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for bad in ["", "bytes */10", "bytes 9-5/10", "bytes 5-9", "octets 5-9/10", "bytes -9/10"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
