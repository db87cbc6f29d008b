// SPDX-License-Identifier: Apache-2.0
//! The client of image registries (OCI distribution spec 1.1, Docker registry API v2).
//!
//! What comes out of here is either what was asked for, byte for byte by its digest or length, or an
//! error by meaning. A registry is a stranger: whatever it answers is bounded in size and time, and
//! what it says about where to go next (redirects, token realms) never carries credentials further
//! than the host they are for.
//!
//! - [`Client::head`] asks what a tag points at; [`Client::resolve`] and [`Client::manifest`] fetch manifests.
//! - [`Client::blob`] streams a blob and resumes by `Range` on its own when the connection breaks.
//! - Images of docker.io are asked of the mirrors first, which never see credentials.
#![forbid(unsafe_code)]

mod auth;
mod blob;
mod config;
mod manifest;

pub use auth::Auth;
pub use blob::BlobStream;
pub use config::{RegistryConfig, Retries, Timeouts};
pub use manifest::{Descriptor, MAX_MANIFEST_BYTES, ResolvedManifest, media_type};

use berth_domain::{Digest, Error, Reference, Result};

/// The registry client. Cheap to clone; clones share connections and tokens.
#[derive(Debug, Clone)]
pub struct Client {}

impl Client {
    /// A client with this configuration. Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// [`berth_domain::Meaning::InvalidInput`] for a mirror or insecure registry that cannot be read.
    #[allow(clippy::needless_pass_by_value)] // The client keeps it.
    pub fn new(config: RegistryConfig) -> Result<Self> {
        drop(config);
        Ok(Self {})
    }

    /// What the reference's tag (or digest; `latest` when it has neither) points at, without the
    /// manifest itself where the registry can tell (HEAD; free of Docker Hub's pull limit).
    ///
    /// # Errors
    ///
    /// As [`Client::resolve`].
    pub async fn head(&self, reference: &Reference, auth: &Auth) -> Result<Descriptor> {
        Ok(self.resolve(reference, auth).await?.descriptor)
    }

    /// The manifest (or index: the choice of a platform is the caller's) that the reference's tag or
    /// digest points at; `latest` when it has neither. A digest in the reference wins over its tag.
    ///
    /// # Errors
    ///
    /// Not found, unauthorized, unavailable (registry down, throttled or stalled), or internal when
    /// the registry's answer is not what was asked for.
    pub async fn resolve(&self, reference: &Reference, auth: &Auth) -> Result<ResolvedManifest> {
        let _unused = (reference, auth);
        Err(Error::not_implemented("the registry client is being written"))
    }

    /// The manifest or index with this digest in the reference's repository (the reference's own tag
    /// and digest do not matter).
    ///
    /// # Errors
    ///
    /// As [`Client::resolve`].
    pub async fn manifest(
        &self,
        reference: &Reference,
        digest: &Digest,
        auth: &Auth,
    ) -> Result<ResolvedManifest> {
        self.resolve(&reference.with_digest(digest.clone()), auth).await
    }

    /// Streams a blob of the reference's repository from `offset` to its end.
    ///
    /// Exactly `descriptor.size - offset` bytes come out, or an error. The digest is the reader's to
    /// check: it hashes the bytes anyway while it unpacks them.
    ///
    /// # Errors
    ///
    /// As [`Client::resolve`]; also from [`BlobStream::chunk`] once it is under way.
    pub async fn blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        offset: u64,
        auth: &Auth,
    ) -> Result<BlobStream> {
        let _unused = (reference, descriptor, offset, auth);
        Err(Error::not_implemented("the registry client is being written"))
    }

    /// All tags of the reference's repository, in the registry's order.
    ///
    /// # Errors
    ///
    /// As [`Client::resolve`].
    pub async fn tags(&self, reference: &Reference, auth: &Auth) -> Result<Vec<String>> {
        let _unused = (reference, auth);
        Err(Error::not_implemented("the registry client is being written"))
    }

    /// Checks credentials against a registry (`docker.io`, `localhost:5000`), as `POST /auth` does.
    /// Gives the identity token if the registry hands one out.
    ///
    /// # Errors
    ///
    /// Unauthorized when they are refused; else as [`Client::resolve`].
    pub async fn login(&self, registry: &str, auth: &Auth) -> Result<Option<String>> {
        let _unused = (registry, auth);
        Err(Error::not_implemented("the registry client is being written"))
    }
}
