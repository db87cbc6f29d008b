// SPDX-License-Identifier: Apache-2.0
//! Pushing: blobs that are there already, mounted from a neighbour, or sent; manifests last.
//!
//! ```text
//! HEAD blob -> there
//! POST uploads?mount= -> mounted | a session
//! session: small: PUT all at once;  large: PATCH a stream, PUT the digest
//!          broken: ask how far it came, go on from there
//! ```

use std::sync::Arc;
use std::time::Duration;

use berth_domain::reference::DEFAULT_TAG;
use berth_domain::{Digest, Error, Meaning, Reference, Result};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};

use crate::ask::{Answer, Asker, Question};
use crate::endpoint::Endpoint;
use crate::failure::{Again, Failure, Kind};
use crate::manifest::Descriptor;
use crate::outgoing::{Opener, Outgoing, Told};
use crate::url::{Scheme, Url};
use crate::{Auth, Client, Parts};

/// Up to this size a blob goes in one request, which spares one.
const SMALL: u64 = 4 * 1024 * 1024;
/// An attempt that brought this much was worth making: the count of mendings starts anew.
const WORTHWHILE: u64 = 1024 * 1024;
/// Mendings in a row that brought less than [`WORTHWHILE`].
const MAX_MENDINGS: u32 = 5;

/// How a blob came to be in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uploaded {
    /// It was there.
    Present,
    /// It was taken over from the neighbour.
    Mounted,
    /// It was sent.
    Sent,
}

/// A blob to bring into a repository.
pub struct Upload<'a> {
    /// What it is.
    pub descriptor: &'a Descriptor,
    /// Its bytes; `None` when they are not at hand, and only a registry that has them will do.
    pub content: Option<Opener>,
    /// A repository of the same registry that probably has it.
    pub neighbour: Option<&'a str>,
    /// Hears of bytes sent.
    pub told: Told,
}

impl std::fmt::Debug for Upload<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upload").field("descriptor", self.descriptor).finish_non_exhaustive()
    }
}

impl Client {
    /// Brings a blob into the reference's repository.
    ///
    /// # Errors
    ///
    /// Unauthorized, unavailable, or internal when the registry's answer makes no sense; not found when the
    /// content is neither at hand nor there.
    pub async fn upload(&self, reference: &Reference, upload: Upload<'_>, auth: &Auth) -> Result<Uploaded> {
        let Parts { asker, endpoints } = self.parts();
        let endpoint = endpoints.upstream(reference.registry())?;
        let session = Session { asker: &asker, endpoint: &endpoint, reference, upload: &upload, auth };
        session.run().await.map_err(|failure| {
            let digest = &upload.descriptor.digest;
            refused(failure, reference, &format!("failed to push {digest} to {}", reference.familiar_name()))
        })
    }

    /// Whether the reference's repository has this manifest.
    ///
    /// # Errors
    ///
    /// As [`Client::upload`].
    pub async fn has_manifest(&self, reference: &Reference, digest: &Digest, auth: &Auth) -> Result<bool> {
        let Parts { asker, endpoints } = self.parts();
        let endpoint = endpoints.upstream(reference.registry())?;
        let path = format!("/v2/{}/manifests/{digest}", reference.repository());
        let mut question = question(reference, Method::HEAD, path, auth);
        question.accept = Some(crate::manifest::media_type::ACCEPT);
        found(&asker, &endpoint, &question)
            .await
            .map_err(|failure| refused(failure, reference, &format!("failed to look for {digest}")))
    }

    /// Puts a manifest or index under the reference's digest, else its tag (`latest` when it has neither).
    ///
    /// # Errors
    ///
    /// As [`Client::upload`].
    pub async fn put_manifest(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        body: Bytes,
        auth: &Auth,
    ) -> Result<()> {
        let Parts { asker, endpoints } = self.parts();
        let endpoint = endpoints.upstream(reference.registry())?;
        let name = match reference.digest() {
            Some(digest) => digest.as_str(),
            None => reference.tag().unwrap_or(DEFAULT_TAG),
        };
        let path = format!("/v2/{}/manifests/{name}", reference.repository());
        let mut question = question(reference, Method::PUT, path, auth);
        question.body = Some(Outgoing::bytes(&descriptor.media_type, body));
        let put = || async {
            let answer = asker.ask(&endpoint, &question).await?;
            let stated = answer.response.headers().get("docker-content-digest").and_then(|d| d.to_str().ok());
            match stated {
                Some(other) if other.starts_with("sha256:") && other != descriptor.digest.as_str() => {
                    Err(Failure::broken(format!(
                        "registry {} kept the manifest as {other}, not as {}",
                        endpoint.host, descriptor.digest
                    )))
                }
                _ => Ok(()),
            }
        };
        asker
            .persistently(&endpoint, put)
            .await
            .map_err(|failure| refused(failure, reference, &format!("failed to push {reference}")))
    }
}

fn question<'a>(reference: &Reference, method: Method, path: String, auth: &'a Auth) -> Question<'a> {
    let scope = format!("repository:{}:pull,push", reference.repository());
    Question { method, path, accept: None, from: 0, scope, auth, body: None }
}

async fn found(asker: &Asker, endpoint: &Endpoint, question: &Question<'_>) -> Result<bool, Failure> {
    match asker.persistently(endpoint, || asker.ask(endpoint, question)).await {
        Ok(_) => Ok(true),
        Err(failure) if failure.kind == Kind::NotFound => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// The caller's error. Clients look for "denied" and "unauthorized".
fn refused(failure: Failure, reference: &Reference, doing: &str) -> Error {
    let said = if failure.message.is_empty() { String::new() } else { format!(": {}", failure.message) };
    let (meaning, message) = match failure.kind {
        Kind::Denied => {
            return Error::new(
                Meaning::Unauthorized,
                format!(
                    "push access denied for {}, repository does not exist or may require authorization{said}",
                    reference.familiar_name()
                ),
            );
        }
        Kind::NotFound => (Meaning::NotFound, format!("not found{said}")),
        Kind::Unauthorized => (Meaning::Unauthorized, failure.message),
        Kind::Unreachable | Kind::Unavailable => (Meaning::Unavailable, failure.message),
        Kind::Broken => (Meaning::Internal, failure.message),
    };
    Error::new(meaning, message).context(doing.to_owned())
}

/// One blob on its way.
struct Session<'a> {
    asker: &'a Asker,
    endpoint: &'a Endpoint,
    reference: &'a Reference,
    upload: &'a Upload<'a>,
    auth: &'a Auth,
}

/// Where an upload goes on, who said so, and who had been asked: the only one that is shown credentials.
#[derive(Clone)]
struct Place {
    url: Url,
    from: Url,
    asked: Url,
}

enum Started {
    Mounted,
    At(Place),
}

impl Session<'_> {
    async fn run(&self) -> Result<Uploaded, Failure> {
        if self.is_there().await? {
            return Ok(Uploaded::Present);
        }
        let place = match self.start(self.upload.neighbour).await? {
            Started::Mounted => return Ok(Uploaded::Mounted),
            Started::At(place) => place,
        };
        let Some(content) = &self.upload.content else {
            let message = format!("the content {} is not here", self.upload.descriptor.digest);
            return Err(Failure::new(Kind::NotFound, message));
        };
        self.send(content, place).await?;
        Ok(Uploaded::Sent)
    }

    fn question(&self, method: Method, path: String) -> Question<'_> {
        question(self.reference, method, path, self.auth)
    }

    async fn is_there(&self) -> Result<bool, Failure> {
        let path = format!("/v2/{}/blobs/{}", self.reference.repository(), self.upload.descriptor.digest);
        found(self.asker, self.endpoint, &self.question(Method::HEAD, path)).await
    }

    /// Begins an upload, or spares it by way of a neighbour. One who may not see the neighbour sends.
    async fn start(&self, neighbour: Option<&str>) -> Result<Started, Failure> {
        let uploads = format!("/v2/{}/blobs/uploads/", self.reference.repository());
        if let Some(neighbour) = neighbour {
            let digest = &self.upload.descriptor.digest;
            let path = format!("{uploads}?mount={digest}&from={neighbour}");
            let mut question = self.question(Method::POST, path);
            question.scope.push_str(&format!(" repository:{neighbour}:pull"));
            match self.begin(&question).await {
                Err(failure) if matches!(failure.kind, Kind::Denied | Kind::Unauthorized) => {
                    tracing::debug!(neighbour, cause = failure.message, "not mounted");
                }
                started => return started,
            }
        }
        self.begin(&self.question(Method::POST, uploads)).await
    }

    async fn begin(&self, question: &Question<'_>) -> Result<Started, Failure> {
        let answer =
            self.asker.persistently(self.endpoint, || self.asker.ask(self.endpoint, question)).await?;
        if answer.response.status() == StatusCode::CREATED {
            return Ok(Started::Mounted);
        }
        let (from, asked) = (answer.url.clone(), answer.asked.clone());
        match next(&answer)? {
            Some(url) => Ok(Started::At(Place { url, from, asked })),
            None => {
                Err(Failure::broken(format!("registry {} does not say where to upload to", answer.url.host)))
            }
        }
    }

    async fn send(&self, content: &Opener, mut place: Place) -> Result<(), Failure> {
        let mut offset = 0;
        let mut mendings = 0;
        let mut pause = Duration::from_millis(200);
        loop {
            let Err(failure) = self.attempt(content, &place, offset).await else { return Ok(()) };
            if failure.again == Again::No || mendings >= MAX_MENDINGS {
                return Err(failure);
            }
            tracing::debug!(digest = %self.upload.descriptor.digest, cause = failure.message, "mending an upload");
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2);
            // The last answer may be all that was lost.
            if self.is_there().await? {
                return Ok(());
            }
            let began = offset;
            (place, offset) = match self.progress(&place).await {
                Ok(Some(further)) => further,
                Ok(None) => self.anew().await?,
                Err(failure) if failure.kind == Kind::NotFound => self.anew().await?,
                Err(failure) => return Err(failure),
            };
            mendings = if offset.saturating_sub(began) >= WORTHWHILE { 0 } else { mendings + 1 };
        }
    }

    async fn anew(&self) -> Result<(Place, u64), Failure> {
        match self.start(None).await? {
            Started::At(place) => Ok((place, 0)),
            Started::Mounted => Err(Failure::broken("the registry mounted what was not asked for")),
        }
    }

    /// From the offset to the end, and the digest.
    async fn attempt(&self, content: &Opener, place: &Place, offset: u64) -> Result<(), Failure> {
        let size = self.upload.descriptor.size;
        let rest = Outgoing::stream(Arc::clone(content), offset, size, Arc::clone(&self.upload.told));
        if size <= SMALL && offset == 0 {
            return self.finish(place, Some(rest)).await;
        }
        let mut place = place.clone();
        if offset < size {
            let mut question = self.question(Method::PATCH, String::new());
            question.body = Some(rest);
            let answer = self.ask_at(&place, &place.url, &question).await?;
            if reached(answer.response.headers()).is_some_and(|end| end != size) {
                return Err(Failure::transient(
                    Kind::Unavailable,
                    format!("registry {} did not take the whole blob", answer.url.host),
                ));
            }
            if let Some(url) = next(&answer)? {
                place.url = url;
            }
        }
        self.finish(&place, None).await
    }

    async fn finish(&self, place: &Place, body: Option<Outgoing>) -> Result<(), Failure> {
        let digest = self.upload.descriptor.digest.as_str();
        let url = place.url.clone().with_query(&[("digest", digest)]);
        let mut question = self.question(Method::PUT, String::new());
        question.body = body;
        self.ask_at(place, &url, &question).await.map(drop)
    }

    async fn ask_at(&self, place: &Place, url: &Url, question: &Question<'_>) -> Result<Answer, Failure> {
        self.asker.ask_at(self.endpoint, url, (&place.asked, &place.from), question).await
    }

    /// How far the registry got; `None` when it does not tell.
    async fn progress(&self, place: &Place) -> Result<Option<(Place, u64)>, Failure> {
        let question = self.question(Method::GET, String::new());
        let ask = || self.ask_at(place, &place.url, &question);
        let answer = self.asker.persistently(self.endpoint, ask).await?;
        let Some(end) = reached(answer.response.headers()) else { return Ok(None) };
        if end > self.upload.descriptor.size {
            return Ok(None);
        }
        let url = next(&answer)?.unwrap_or_else(|| place.url.clone());
        Ok(Some((Place { url, ..place.clone() }, end)))
    }
}

/// Where the answer says that the upload goes on. Registries behind a proxy that ends TLS often call themselves
/// `http`: what began with TLS goes on with it.
fn next(answer: &Answer) -> Result<Option<Url>, Failure> {
    let Some(location) = answer.response.headers().get(header::LOCATION) else { return Ok(None) };
    let mut url = location.to_str().ok().and_then(|l| answer.url.join(l)).ok_or_else(|| {
        Failure::broken(format!("registry {} says to upload to what is no URL", answer.url.host))
    })?;
    if answer.url.scheme == Scheme::Https && url.scheme == Scheme::Http {
        url.scheme = Scheme::Https;
    }
    Ok(Some(url))
}

/// `Range: 0-<last>` (with or without `bytes=`): the bytes that are there.
fn reached(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(header::RANGE)?.to_str().ok()?.trim();
    let (start, last) = range.strip_prefix("bytes=").unwrap_or(range).split_once('-')?;
    // An empty upload is `0-0` as well as one byte is: beginning anew costs no more than that byte.
    match (start.trim().parse::<u64>().ok()?, last.trim().parse::<u64>().ok()?) {
        (0, 0) => Some(0),
        (0, last) => last.checked_add(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn how_far_an_upload_came() {
        for (range, expected) in
            [("0-0", Some(0)), ("0-9", Some(10)), ("bytes=0-9", Some(10)), ("5-9", None), ("x", None)]
        {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, range.parse().unwrap());
            assert_eq!(reached(&headers), expected, "{range}");
        }
        assert_eq!(reached(&HeaderMap::new()), None);
    }
}
