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
//! - [`Client::upload`] and [`Client::put_manifest`] push, mounting and resuming where that spares sending.
//! - Images are asked of the registry's mirrors first (`hosts.toml`; for docker.io `registry-mirrors` as well), which
//!   never see credentials.
#![forbid(unsafe_code)]

mod ask;
mod auth;
mod blob;
mod challenge;
mod config;
mod direct;
mod download;
mod endpoint;
mod failure;
mod hosts;
mod login;
mod manifest;
mod outgoing;
mod policy;
mod proxy;
mod search;
mod tags;
mod tls;
mod token;
mod transport;
mod upload;
mod url;

use std::fmt;
use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock};

use berth_domain::{Digest, Error, Reference, Result};
use http::HeaderValue;

pub use auth::Auth;
pub use blob::BlobStream;
pub use config::{DOCKER_HUB, DOCKER_INDEX, RegistryConfig, Retries, Timeouts};
pub use download::Download;
pub use manifest::{Descriptor, MAX_MANIFEST_BYTES, ResolvedManifest, media_type};
pub use outgoing::{Opener, Told};
pub use proxy::Proxies;
pub use search::Found;
pub use upload::{Upload, Uploaded};

use ask::Asker;
use endpoint::{Endpoint, Endpoints, Need};
use failure::Failure;
use policy::Policy;
use transport::Transport;

/// Reads a `WWW-Authenticate` header and a `Location`, as any registry may send them; for fuzz targets.
#[cfg(feature = "fuzzing")]
pub fn fuzz_headers(text: &str) {
    let mut headers = http::HeaderMap::new();
    if let Ok(value) = http::HeaderValue::from_str(text) {
        headers.insert(http::header::WWW_AUTHENTICATE, value);
        challenge::challenges(&headers);
    }
    if let Some(base) = url::Url::parse("https://registry.example/v2/") {
        if let Some(to) = base.join(text) {
            assert!(to.path().starts_with('/'), "a path that is none");
        }
    }
}

/// The registry client. Cheap to clone; clones share connections, tokens and configuration.
#[derive(Clone)]
pub struct Client {
    parts: Arc<RwLock<Parts>>,
}

#[derive(Clone)]
struct Parts {
    asker: Arc<Asker>,
    endpoints: Arc<Endpoints>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("endpoints", &self.parts().endpoints).finish_non_exhaustive()
    }
}

impl Parts {
    fn new(config: RegistryConfig) -> Result<Self> {
        let policy = Policy::new(&config.insecure, config.loopback_is_insecure)?;
        let endpoints = Endpoints::new(
            &config.mirrors,
            &config.docker_hub,
            &config.docker_index,
            config.certs_dirs.clone(),
        )?;
        let user_agent = HeaderValue::from_str(&config.user_agent)
            .map_err(|e| Error::invalid(format!("user agent {:?}", config.user_agent)).because(e))?;
        let transport = Transport::new(config.timeouts, config.certs_dirs, config.proxies.routes());
        let asker = Asker::new(transport, policy, config.retries, user_agent);
        Ok(Self { asker: Arc::new(asker), endpoints: Arc::new(endpoints) })
    }
}

impl Client {
    /// A client with this configuration. Nothing is connected yet, and no certificate read.
    ///
    /// # Errors
    ///
    /// [`berth_domain::Meaning::InvalidInput`] for a mirror or insecure registry that cannot be read.
    pub fn new(config: RegistryConfig) -> Result<Self> {
        Ok(Self { parts: Arc::new(RwLock::new(Parts::new(config)?)) })
    }

    /// Puts another configuration in force, here and in all clones. What is under way goes on as it began;
    /// connections and tokens are made anew.
    ///
    /// # Errors
    ///
    /// As [`Client::new`]; nothing has changed then.
    pub fn reconfigure(&self, config: RegistryConfig) -> Result<()> {
        let parts = Parts::new(config)?;
        *self.parts.write().unwrap_or_else(PoisonError::into_inner) = parts;
        Ok(())
    }

    fn parts(&self) -> Parts {
        self.parts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the reference's tag (or digest; `latest` when it has neither) points at, without the
    /// manifest itself where the registry can tell (`HEAD`; free of Docker Hub's pull limit).
    ///
    /// # Errors
    ///
    /// As [`Client::resolve`].
    pub async fn head(&self, reference: &Reference, auth: &Auth) -> Result<Descriptor> {
        self.anywhere(reference, auth, |asker, endpoint, auth| async move {
            match manifest::head(&asker, &endpoint, reference, &auth).await? {
                Some(descriptor) => Ok(descriptor),
                None => Ok(manifest::get(&asker, &endpoint, reference, &auth).await?.descriptor),
            }
        })
        .await
    }

    /// The manifest (or index: the choice of a platform is the caller's) that the reference's tag or
    /// digest points at; `latest` when it has neither. A digest in the reference wins over its tag.
    ///
    /// # Errors
    ///
    /// Not found, unauthorized, unavailable (registry down, throttled or stalled), or internal when
    /// the registry's answer is not what was asked for.
    pub async fn resolve(&self, reference: &Reference, auth: &Auth) -> Result<ResolvedManifest> {
        self.anywhere(reference, auth, |asker, endpoint, auth| async move {
            manifest::get(&asker, &endpoint, reference, &auth).await
        })
        .await
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
        let Parts { asker, endpoints } = self.parts();
        let endpoints = endpoints.of(reference.registry(), Need::Pull)?;
        BlobStream::open(asker, endpoints, reference.clone(), descriptor.clone(), offset, auth.clone()).await
    }

    /// All tags of the reference's repository, in the registry's order.
    ///
    /// # Errors
    ///
    /// As [`Client::resolve`].
    pub async fn tags(&self, reference: &Reference, auth: &Auth) -> Result<Vec<String>> {
        self.anywhere(reference, auth, |asker, endpoint, auth| async move {
            tags::list(&asker, &endpoint, reference, &auth).await
        })
        .await
    }

    /// Checks credentials against a registry (`docker.io`, `localhost:5000`), as `POST /auth` does.
    /// Gives the identity token if the registry hands one out.
    ///
    /// # Errors
    ///
    /// Unauthorized when they are refused; else as [`Client::resolve`].
    pub async fn login(&self, registry: &str, auth: &Auth) -> Result<Option<String>> {
        let Parts { asker, endpoints } = self.parts();
        let endpoint = endpoints.upstream(registry)?;
        login::login(&asker, &endpoint, registry, auth).await
    }

    /// Asks the mirrors, then the registry itself, until one gives it. Mirrors are asked as nobody.
    async fn anywhere<T, F>(
        &self,
        reference: &Reference,
        auth: &Auth,
        ask: impl Fn(Arc<Asker>, Endpoint, Auth) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let doing = format!("failed to resolve reference \"{reference}\"");
        let mut last = Failure::broken("no registry to ask");
        let Parts { asker, endpoints } = self.parts();
        let need = if reference.digest().is_some() { Need::Pull } else { Need::Resolve };
        for endpoint in endpoints.of(reference.registry(), need)? {
            let auth = if endpoint.mirror { Auth::anonymous() } else { auth.clone() };
            match asker
                .persistently(&endpoint, || ask(Arc::clone(&asker), endpoint.clone(), auth.clone()))
                .await
            {
                Ok(found) => return Ok(found),
                Err(failure) => {
                    if endpoint.mirror {
                        tracing::info!(mirror = %endpoint.host, cause = failure.message, "falling back");
                    }
                    last = failure;
                }
            }
        }
        Err(last.into_error(reference, &doing))
    }
}
