// SPDX-License-Identifier: Apache-2.0
//! Where images come from: the registry client, behind the few calls that a pull makes of it.

use std::future::Future;
use std::pin::Pin;

use berth_domain::{Digest, Error, Reference, Result};
use berth_registry::{Auth, BlobStream, Client, Descriptor, ResolvedManifest};
use bytes::Bytes;

/// A future of a trait object.
pub(crate) type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A registry. Manifests come checked against their digests; blobs do not.
pub(crate) trait Source: Send + Sync + 'static {
    fn resolve<'a>(&'a self, reference: &'a Reference, auth: &'a Auth)
    -> Boxed<'a, Result<ResolvedManifest>>;

    fn manifest<'a>(
        &'a self,
        reference: &'a Reference,
        digest: &'a Digest,
        auth: &'a Auth,
    ) -> Boxed<'a, Result<ResolvedManifest>>;

    /// The blob's bytes from `offset` on: as many as the descriptor says, or an error.
    fn blob<'a>(
        &'a self,
        reference: &'a Reference,
        descriptor: &'a Descriptor,
        offset: u64,
        auth: &'a Auth,
    ) -> Boxed<'a, Result<Box<dyn Chunks>>>;

    fn tags<'a>(&'a self, reference: &'a Reference, auth: &'a Auth) -> Boxed<'a, Result<Vec<String>>>;

    /// The client that pushes; only a real registry has one.
    fn client(&self) -> Result<Client> {
        Err(Error::not_implemented("this source of images cannot be pushed to"))
    }
}

/// Bytes as they arrive; `None` after the last. A dropped call loses none.
pub(crate) trait Chunks: Send {
    fn chunk(&mut self) -> Boxed<'_, Result<Option<Bytes>>>;
}

impl Source for Client {
    fn resolve<'a>(
        &'a self,
        reference: &'a Reference,
        auth: &'a Auth,
    ) -> Boxed<'a, Result<ResolvedManifest>> {
        Box::pin(Self::resolve(self, reference, auth))
    }

    fn manifest<'a>(
        &'a self,
        reference: &'a Reference,
        digest: &'a Digest,
        auth: &'a Auth,
    ) -> Boxed<'a, Result<ResolvedManifest>> {
        Box::pin(Self::manifest(self, reference, digest, auth))
    }

    fn blob<'a>(
        &'a self,
        reference: &'a Reference,
        descriptor: &'a Descriptor,
        offset: u64,
        auth: &'a Auth,
    ) -> Boxed<'a, Result<Box<dyn Chunks>>> {
        Box::pin(async move {
            let stream = Self::blob(self, reference, descriptor, offset, auth).await?;
            Ok(Box::new(stream) as Box<dyn Chunks>)
        })
    }

    fn tags<'a>(&'a self, reference: &'a Reference, auth: &'a Auth) -> Boxed<'a, Result<Vec<String>>> {
        Box::pin(Self::tags(self, reference, auth))
    }

    fn client(&self) -> Result<Client> {
        Ok(self.clone())
    }
}

impl Chunks for BlobStream {
    fn chunk(&mut self) -> Boxed<'_, Result<Option<Bytes>>> {
        Box::pin(Self::chunk(self))
    }
}
