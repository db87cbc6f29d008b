// SPDX-License-Identifier: Apache-2.0
//! Manifests and indexes: fetching, and checking that they are what they claim to be.

use berth_domain::reference::DEFAULT_TAG;
use berth_domain::{Digest, Reference};
use bytes::Bytes;
use http::{HeaderMap, Method, header};
use serde::Deserialize;
use serde::de::IgnoredAny;
use sha2::{Digest as _, Sha256};

use crate::Auth;
use crate::ask::{Asker, Question};
use crate::endpoint::Endpoint;
use crate::failure::Failure;

/// A manifest or index above this is refused (distribution spec: registries should accept 4 MiB at least).
pub const MAX_MANIFEST_BYTES: u64 = 4 * 1024 * 1024;

/// The media types of manifests that are understood.
pub mod media_type {
    /// OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// Docker image manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

    /// Whether it is an index (OCI) or a manifest list (Docker).
    #[must_use]
    pub fn is_index(media_type: &str) -> bool {
        media_type == OCI_INDEX || media_type == DOCKER_LIST
    }

    pub(super) const ALL: [&str; 4] = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST];
    pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
        application/vnd.docker.distribution.manifest.list.v2+json, \
        application/vnd.oci.image.manifest.v1+json, \
        application/vnd.docker.distribution.manifest.v2+json";
}

/// What content is: enough to fetch it and to know that it is right.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Descriptor {
    /// Its media type.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// A manifest or index whose body has been checked against its digest.
#[derive(Debug, Clone)]
pub struct ResolvedManifest {
    /// What it is; the media type is one of [`media_type`]'s and agrees with the body.
    pub descriptor: Descriptor,
    /// The exact bytes.
    pub body: Bytes,
}

pub(crate) fn scope(reference: &Reference) -> String {
    format!("repository:{}:pull", reference.repository())
}

fn question<'a>(reference: &Reference, method: Method, auth: &'a Auth) -> Question<'a> {
    let wanted = match reference.digest() {
        Some(digest) => digest.as_str(),
        None => reference.tag().unwrap_or(DEFAULT_TAG),
    };
    Question {
        method,
        path: format!("/v2/{}/manifests/{wanted}", reference.repository()),
        accept: Some(media_type::ACCEPT),
        from: 0,
        scope: scope(reference),
        auth,
        body: None,
    }
}

/// What `HEAD` tells; `None` when it does not tell enough.
pub(crate) async fn head(
    asker: &Asker,
    endpoint: &Endpoint,
    reference: &Reference,
    auth: &Auth,
) -> Result<Option<Descriptor>, Failure> {
    let answer = asker.ask(endpoint, &question(reference, Method::HEAD, auth)).await?;
    let headers = answer.response.headers();
    let size = headers.get(header::CONTENT_LENGTH).and_then(|l| l.to_str().ok()).and_then(|l| l.parse().ok());
    let (Some(media_type), Some(digest), Some(size)) = (content_type(headers), stated_digest(headers)?, size)
    else {
        return Ok(None);
    };
    if reference.digest().is_some_and(|wanted| *wanted != digest) || !media_type::ALL.contains(&media_type) {
        return Ok(None);
    }
    Ok(Some(Descriptor { media_type: media_type.to_owned(), digest, size }))
}

pub(crate) async fn get(
    asker: &Asker,
    endpoint: &Endpoint,
    reference: &Reference,
    auth: &Auth,
) -> Result<ResolvedManifest, Failure> {
    let answer = asker.ask(endpoint, &question(reference, Method::GET, auth)).await?;
    let (head, body) = answer.response.into_parts();
    let body = asker.transport.whole_body(&answer.url, body, MAX_MANIFEST_BYTES).await?;
    let digest = Digest::from_sha256(Sha256::digest(&body).into());
    for expected in [reference.digest().cloned(), stated_digest(&head.headers)?].into_iter().flatten() {
        if expected != digest {
            return Err(Failure::broken(format!(
                "registry {} answered with another manifest than asked for: {expected} expected, {digest} received",
                answer.url.host
            )));
        }
    }
    let media_type = checked_media_type(content_type(&head.headers), &body)
        .map_err(|why| Failure::broken(format!("the manifest from registry {} {why}", answer.url.host)))?;
    let descriptor = Descriptor { media_type: media_type.to_owned(), digest, size: body.len() as u64 };
    Ok(ResolvedManifest { descriptor, body })
}

fn content_type(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    value.split(';').next().map(str::trim).filter(|v| !v.is_empty())
}

/// `Docker-Content-Digest`, where it is one that we can check.
fn stated_digest(headers: &HeaderMap) -> Result<Option<Digest>, Failure> {
    match headers.get("docker-content-digest").and_then(|d| d.to_str().ok()).map(str::trim) {
        Some(digest) if digest.starts_with("sha256:") => {
            digest.parse().map(Some).map_err(|e: berth_domain::Error| Failure::broken(e.chain()))
        }
        _ => Ok(None),
    }
}

/// One body must not be a manifest to one reader and an index to another (CVE-2021-41190): the header,
/// the body's own `mediaType` and the fields it has must agree.
fn checked_media_type(stated: Option<&str>, body: &[u8]) -> Result<&'static str, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Outline {
        schema_version: Option<u32>,
        media_type: Option<String>,
        config: Option<IgnoredAny>,
        layers: Option<IgnoredAny>,
        manifests: Option<IgnoredAny>,
        fs_layers: Option<IgnoredAny>,
    }
    let outline: Outline = serde_json::from_slice(body).map_err(|e| format!("is not a manifest: {e}"))?;
    if outline.schema_version == Some(1) || outline.fs_layers.is_some() {
        return Err("has schema version 1, which is obsolete and not supported: push the image again".into());
    }
    let index = outline.manifests.is_some();
    if index && (outline.layers.is_some() || outline.config.is_some() || outline.fs_layers.is_some()) {
        return Err("claims to be both an image and an index".into());
    }
    if !index && (outline.layers.is_none() || outline.config.is_none()) {
        return Err("is neither an image nor an index".into());
    }
    let known = |m: &str| media_type::ALL.into_iter().find(|k| *k == m);
    let own = match outline.media_type.as_deref().filter(|m| !m.is_empty()) {
        Some(m) => Some(known(m).ok_or_else(|| format!("has an unknown media type {m:?}"))?),
        None => None,
    };
    // Static file servers say application/json or worse; then the body's word counts.
    let stated = stated.and_then(known);
    let agreed = match (stated, own) {
        (Some(stated), Some(own)) if stated != own => {
            return Err(format!("is served as {stated:?} but says of itself that it is {own:?}"));
        }
        (Some(m), _) | (None, Some(m)) => m,
        // Only OCI allows to leave mediaType out.
        (None, None) if index => media_type::OCI_INDEX,
        (None, None) => media_type::OCI_MANIFEST,
    };
    if media_type::is_index(agreed) == index {
        Ok(agreed)
    } else {
        Err(format!("is {agreed:?} by its media type but not by its fields"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::media_type::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
    use super::*;

    fn check(stated: Option<&str>, body: &str, expected: Result<&str, &str>) {
        match (checked_media_type(stated, body.as_bytes()), expected) {
            (Ok(got), Ok(want)) => assert_eq!(got, want, "{stated:?} {body}"),
            (Err(got), Err(want)) => assert!(got.contains(want), "{got:?} lacks {want:?}"),
            (got, want) => panic!("{stated:?} {body}: {got:?}, not {want:?}"),
        }
    }

    #[test]
    fn media_types_must_agree() {
        let image = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        check(Some(OCI_MANIFEST), image, Ok(OCI_MANIFEST));
        check(Some(DOCKER_MANIFEST), image, Ok(DOCKER_MANIFEST));
        check(Some(DOCKER_LIST), index, Ok(DOCKER_LIST));
        check(None, index, Ok(OCI_INDEX));
        check(Some("application/json"), image, Ok(OCI_MANIFEST));
        check(Some(OCI_INDEX), image, Err("not by its fields"));
        check(Some(OCI_MANIFEST), index, Err("not by its fields"));
        check(
            Some(OCI_INDEX),
            r#"{"mediaType":"application/vnd.oci.image.manifest.v1+json","manifests":[]}"#,
            Err("says of itself"),
        );
        check(None, r#"{"layers":[],"config":{},"manifests":[]}"#, Err("both"));
        check(None, r#"{"schemaVersion":1,"fsLayers":[]}"#, Err("schema version 1"));
        check(None, r#"{"mediaType":"application/x-evil","manifests":[]}"#, Err("unknown media type"));
        check(None, "{}", Err("neither"));
        check(None, "[]", Err("not a manifest"));
    }
}
