// SPDX-License-Identifier: Apache-2.0
//! `docker push`: what a tag points at, sent as it came, byte for byte.
//!
//! An image that came by way of an index goes as that index, if all of it is here or there already. Otherwise the one
//! manifest goes, and the client is told so. Layers go side by side, the config after them, the manifest last: a
//! registry never shows an image that lacks something.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use berth_domain::progress::{Progress, Sink};
use berth_domain::{Digest, Error, ImageId, Platform, Reference, Result};
use berth_registry::{Auth, Client, Descriptor, Opener, Upload, Uploaded, media_type};
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::Images;
use crate::catalog::{self, State};
use crate::document::{self, Document, IndexEntry, Manifest};
use crate::pins::Held;
use crate::publish::NewName;
use crate::pull::{Teller, blocking};
use crate::types::Image;

/// A bar moves when so many bytes more have gone.
const STEP: u64 = 512 << 10;

/// What to push.
#[derive(Debug, Clone)]
pub struct PushRequest {
    /// The tag; every tag of the repository when there is none.
    pub reference: Reference,
    /// Only the manifest for this platform.
    pub platform: Option<Platform>,
    /// Credentials for the reference's registry.
    pub auth: Auth,
}

/// What stands under the tag in the end.
struct Top {
    descriptor: Descriptor,
    body: Vec<u8>,
    /// The index that the image came with, if it did not go.
    instead_of: Option<Descriptor>,
}

impl Images {
    /// Pushes a tag, or all tags of a repository. Dropping the future, or a sink that returns false, gives it up.
    ///
    /// # Errors
    ///
    /// Not found when there is no such tag, or the content is neither here nor there; what the registry client says;
    /// Cancelled when nobody listens.
    pub async fn push(&self, request: PushRequest, sink: Sink) -> Result<()> {
        let teller = Teller(sink);
        let reference = &request.reference;
        let repository = format!("{}/{}", reference.registry(), reference.repository());
        teller.status("", format!("The push refers to repository [{repository}]"))?;
        let state = self.inner.catalog.state();
        let tagged: Vec<(Reference, ImageId)> = if reference.tag().is_some() {
            state.named(reference).map(|id| (reference.clone(), id)).into_iter().collect()
        } else {
            tags(&state, reference)
        };
        if tagged.is_empty() {
            return Err(Error::not_found(match reference.tag() {
                Some(_) => format!("tag does not exist: {}", reference.familiar()),
                None => {
                    format!("An image does not exist locally with the tag: {}", reference.familiar_name())
                }
            }));
        }
        for (reference, id) in tagged {
            let image = self.image(&id)?;
            self.push_one(&reference, &image, &request, &teller).await?;
        }
        Ok(())
    }

    async fn push_one(
        &self,
        reference: &Reference,
        image: &Arc<Image>,
        request: &PushRequest,
        teller: &Teller,
    ) -> Result<()> {
        if let Some(wanted) = request.platform.as_ref().filter(|wanted| !wanted.accepts(&image.platform)) {
            return Err(Error::not_found(format!(
                "image with reference {} was found but its platform ({}) does not match the specified platform ({wanted})",
                reference.familiar(),
                image.platform
            )));
        }
        let registry = self.inner.source.client()?;
        let auth = &request.auth;
        let mut held: Vec<Held> =
            image.layer_blobs.iter().map(|blob| Held::Content(blob.digest.clone())).collect();
        held.extend([image.id.clone(), image.manifest.digest.clone()].map(Held::Content));
        let _pinned = self.inner.pins.hold(held);

        let body = catalog::read_blob(&self.inner.layout, &image.manifest.digest, document::MANIFEST_MAX)?;
        let Document::Manifest(manifest) = document::parse(&body, Some(&image.manifest.media_type))? else {
            return Err(Error::internal(format!("the manifest of image {} is an index", image.id.short())));
        };
        let push = Push { images: self.clone(), registry, reference: reference.clone(), auth: auth.clone() };
        push.layers(&manifest, teller).await?;
        push.blob(&manifest.config, Arc::new(|_| {})).await?;

        let single = Top { descriptor: image.manifest.clone(), body, instead_of: None };
        let top = match request.platform {
            Some(_) => single,
            None => push.index(image, single).await?,
        };
        if top.descriptor != image.manifest {
            let body =
                catalog::read_blob(&self.inner.layout, &image.manifest.digest, document::MANIFEST_MAX)?;
            let by_digest = reference.with_digest(image.manifest.digest.clone());
            push.registry.put_manifest(&by_digest, &image.manifest, Bytes::from(body), auth).await?;
        }
        let Top { descriptor, body, instead_of } = top;
        push.registry.put_manifest(reference, &descriptor, Bytes::from(body.clone()), auth).await?;
        let tag = reference.tag().unwrap_or_default().to_owned();
        let (digest, size) = (descriptor.digest.clone(), descriptor.size);
        teller.status("", format!("{tag}: digest: {digest} size: {size}"))?;
        teller.tell(Progress::Pushed { tag, digest: digest.to_string(), size })?;
        if let Some(index) = instead_of {
            let parts = |d: &Descriptor| (d.media_type.clone(), d.digest.to_string(), d.size);
            teller.tell(Progress::PushedInstead { index: parts(&index), manifest: parts(&descriptor) })?;
        }
        // From now on the image is known by its digest there, too.
        let name = NewName { name: reference.with_digest(digest), target: Some((descriptor, body)) };
        let (inner, id) = (Arc::clone(&self.inner), image.id.clone());
        blocking(move || inner.name(&id, &[name])).await?;
        Ok(())
    }
}

pub(crate) fn tags(state: &State, repository: &Reference) -> Vec<(Reference, ImageId)> {
    let names = state.records.names.iter();
    names
        .filter_map(|(name, record)| Some((name.parse::<Reference>().ok()?, record.image.parse().ok()?)))
        .filter(|(name, _)| {
            name.tag().is_some() && name.digest().is_none() && same_repository(name, repository)
        })
        .collect()
}

fn same_repository(a: &Reference, b: &Reference) -> bool {
    a.registry() == b.registry() && a.repository() == b.repository()
}

/// One image on its way to one repository.
#[derive(Clone)]
struct Push {
    images: Images,
    registry: Client,
    reference: Reference,
    auth: Auth,
}

impl Push {
    async fn layers(&self, manifest: &Manifest, teller: &Teller) -> Result<()> {
        let mut layers: Vec<Descriptor> = Vec::new();
        for layer in &manifest.layers {
            if layers.iter().all(|known| known.digest != layer.digest) {
                teller.status(layer.digest.short(), "Preparing")?;
                layers.push(layer.clone());
            }
        }
        let mut uploads = JoinSet::new();
        for layer in layers {
            uploads.spawn(self.clone().layer(layer, teller.clone()));
        }
        // An error drops the set, which ends the others.
        while let Some(done) = uploads.join_next().await {
            done.map_err(|e| Error::internal("an upload ended abnormally").because(e))??;
        }
        Ok(())
    }

    /// Sends a layer and tells of it; given up when nobody listens.
    async fn layer(self, layer: Descriptor, teller: Teller) -> Result<()> {
        let _place = self.images.inner.uploads.take().await?;
        let gone = Arc::new(Notify::new());
        let told = {
            let (gone, teller, id) = (Arc::clone(&gone), teller.clone(), layer.digest.short().to_owned());
            let (total, next) = (layer.size, AtomicU64::new(0));
            move |done: u64| {
                if done < next.load(Ordering::Relaxed) && done != total {
                    return;
                }
                next.store(done + STEP, Ordering::Relaxed);
                if teller.bytes(&id, "Pushing", done, total).is_err() {
                    gone.notify_one();
                }
            }
        };
        let (uploaded, neighbour) = tokio::select! {
            uploaded = self.blob(&layer, Arc::new(told)) => uploaded?,
            () = gone.notified() => return Err(Error::cancelled("the client has gone")),
        };
        let id = layer.digest.short();
        match uploaded {
            Uploaded::Present => teller.status(id, "Layer already exists"),
            Uploaded::Mounted => teller.status(id, format!("Mounted from {}", neighbour.unwrap_or_default())),
            Uploaded::Sent => teller.status(id, "Pushed"),
        }
    }

    async fn blob(
        &self,
        descriptor: &Descriptor,
        told: berth_registry::Told,
    ) -> Result<(Uploaded, Option<String>)> {
        let neighbour = self.neighbour(&descriptor.digest);
        let upload = Upload {
            descriptor,
            content: self.content(&descriptor.digest),
            neighbour: neighbour.as_deref(),
            told,
        };
        let uploaded = self.registry.upload(&self.reference, upload, &self.auth).await?;
        Ok((uploaded, neighbour))
    }

    /// The blob, if it is here: a layer that another image brought in another packing is not.
    fn content(&self, digest: &Digest) -> Option<Opener> {
        let path = self.images.inner.layout.blob(digest);
        path.is_file().then(|| -> Opener {
            Arc::new(move |offset| -> io::Result<Box<dyn Read + Send>> {
                let mut file = File::open(&path)?;
                file.seek(SeekFrom::Start(offset))?;
                Ok(Box::new(file))
            })
        })
    }

    /// Another repository of the same registry that an image with this blob came from or went to.
    fn neighbour(&self, digest: &Digest) -> Option<String> {
        let state = self.images.inner.catalog.state();
        let with_blob = state.images.values().filter(|image| {
            image.id == *digest || image.layer_blobs.iter().any(|blob| blob.digest == *digest)
        });
        let mut names = with_blob.flat_map(|image| state.references(&image.id)).filter(|name| {
            name.digest().is_some()
                && name.registry() == self.reference.registry()
                && name.repository() != self.reference.repository()
        });
        names.next().map(|name| name.repository().to_owned())
    }

    /// The index that the image came with, if it can go as a whole. One of this very repository is preferred.
    async fn index(&self, image: &Image, single: Top) -> Result<Top> {
        let state = self.images.inner.catalog.state();
        let mut indexes: Vec<(bool, Descriptor)> = Vec::new();
        for (name, record) in state.records.names_of(&image.id) {
            let (Some(target), Ok(name)) = (&record.target, name.parse::<Reference>()) else { continue };
            let target = target.read()?;
            if media_type::is_index(&target.media_type) {
                indexes.push((!same_repository(&name, &self.reference), target));
            }
        }
        indexes.sort_by_key(|(elsewhere, _)| *elsewhere);
        let mut instead_of = None;
        for (_, index) in indexes {
            let body = catalog::read_blob(&self.images.inner.layout, &index.digest, document::MANIFEST_MAX)?;
            let Document::Index(entries) = document::parse(&body, Some(&index.media_type))? else { continue };
            if self.is_complete(image, &entries).await? {
                return Ok(Top { descriptor: index, body, instead_of: None });
            }
            instead_of.get_or_insert(index);
        }
        Ok(Top { instead_of, ..single })
    }

    /// Whether the repository has all that an index lists, but for the image that is about to come.
    async fn is_complete(&self, image: &Image, entries: &[IndexEntry]) -> Result<bool> {
        for entry in entries {
            let digest = &entry.descriptor.digest;
            if *digest != image.manifest.digest
                && !self.registry.has_manifest(&self.reference, digest, &self.auth).await?
            {
                return Ok(false);
            }
        }
        Ok(entries.iter().any(|entry| entry.descriptor.digest == image.manifest.digest))
    }
}
