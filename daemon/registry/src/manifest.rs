// SPDX-License-Identifier: Apache-2.0
//! Manifests and indexes: fetching, and checking that they are what they claim to be.

use berth_domain::Digest;
use bytes::Bytes;

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
