// SPDX-License-Identifier: Apache-2.0
//! `docker pull`: resolve, choose the platform, fetch what is missing, record, name.
//!
//! All of an image's layers are fetched and unpacked at once, as far as places allow ([`crate::fetch`]). The progress lines
//! are those that the API's clients know (`Pulling from`, `Pulling fs layer`, `Downloading`, `Download complete`,
//! `Extracting`, `Pull complete`, `Already exists`, `Digest:`, `Status:`).

use std::collections::HashMap;
use std::sync::Arc;

use berth_domain::progress::{Progress, Sink};
use berth_domain::step::reached;
use berth_domain::{Digest, Error, Platform, Reference, Result};
use berth_registry::{Auth, Descriptor, ResolvedManifest, media_type};
use tokio::task::JoinSet;

use crate::Images;
use crate::document::{self, CONFIG_MAX, Config, Document, Manifest};
use crate::fetch::{Fetch, Stage, Wanted};
use crate::layer::{self, Staged};
use crate::pins::{Held, Pinned};
use crate::publish::{NewImage, NewName};
use crate::types::{PullOutcome, PullRequest};

/// Indexes within indexes.
const INDEX_DEPTH_MAX: usize = 4;

/// Tells progress until nobody listens.
#[derive(Clone)]
pub(crate) struct Teller(pub(crate) Sink);

impl Teller {
    pub(crate) fn tell(&self, progress: Progress) -> Result<()> {
        if (self.0)(progress) { Ok(()) } else { Err(Error::cancelled("the client has gone")) }
    }

    pub(crate) fn status(&self, id: &str, status: impl Into<String>) -> Result<()> {
        self.tell(Progress::status(id, status))
    }

    pub(crate) fn bytes(&self, id: &str, status: &str, done: u64, total: u64) -> Result<()> {
        self.tell(Progress::Status {
            id: id.into(),
            status: status.into(),
            bytes: Some((done.min(total), total)),
        })
    }
}

/// An image as a registry describes it.
struct Found {
    /// What the reference points at.
    top: ResolvedManifest,
    manifest: Manifest,
    descriptor: Descriptor,
    body: Vec<u8>,
}

impl Images {
    /// Pulls an image, or with `all_tags` every image of a repository. Dropping the future, or a sink that
    /// returns false, stops what nobody else waits for.
    ///
    /// # Errors
    ///
    /// What the registry client says; Invalid for what is not an image of ours or not what its digest says;
    /// Internal when it cannot be stored; Cancelled when nobody listens.
    pub async fn pull(&self, request: PullRequest, sink: Sink) -> Result<PullOutcome> {
        let teller = Teller(sink);
        if !request.all_tags {
            let reference = request.reference.clone().or_latest();
            return self.pull_one(&reference, &request, &teller).await;
        }
        let tags = self.inner.source.tags(&request.reference, &request.auth).await?;
        let mut last = None;
        for tag in tags {
            let reference = request.reference.with_tag(&tag)?;
            last = Some(self.pull_one(&reference, &request, &teller).await?);
        }
        last.ok_or_else(|| Error::not_found(format!("{} has no tags", request.reference.familiar_name())))
    }

    async fn pull_one(
        &self,
        reference: &Reference,
        request: &PullRequest,
        teller: &Teller,
    ) -> Result<PullOutcome> {
        // A digest says more than a tag, and the tag may have moved on.
        let reference = match reference.digest() {
            Some(digest) => reference.with_digest(digest.clone()),
            None => reference.clone(),
        };
        let auth = &request.auth;
        let wanted = request.platform.clone().unwrap_or_else(Platform::host);
        let found = self.find(&reference, auth, &wanted).await?;
        let shown = reference.tag().map_or_else(|| found.top.descriptor.digest.to_string(), str::to_owned);
        teller.status(&shown, format!("Pulling from {}", reference.repository()))?;

        let id = found.manifest.config.digest.clone();
        let digest = found.top.descriptor.digest.clone();
        let names = names(&reference, &found.top)?;
        let mut held: Vec<Held> =
            found.manifest.layers.iter().map(|l| Held::Content(l.digest.clone())).collect();
        for content in [&id, &found.descriptor.digest, &digest] {
            held.push(Held::Content(content.clone()));
        }
        let pinned = self.inner.pins.hold(held);
        reached("pull.resolved");

        let moved = match self.inner.catalog.state().image(&id) {
            Some(image) => {
                check_platform(&image.platform, request, &reference)?;
                let (inner, id) = (Arc::clone(&self.inner), id.clone());
                blocking(move || {
                    let _until_named = pinned;
                    inner.name(&id, &names)
                })
                .await?
                .moved
            }
            None => self.pull_new(&reference, request, found, names, pinned, teller).await?,
        };
        teller.status("", format!("Digest: {digest}"))?;
        let what = if moved { "Downloaded newer image for" } else { "Image is up to date for" };
        teller.status("", format!("Status: {what} {}", reference.familiar()))?;
        Ok(PullOutcome { image: id, digest, newer: moved })
    }

    /// Follows indexes down to the manifest for the platform.
    async fn find(&self, reference: &Reference, auth: &Auth, wanted: &Platform) -> Result<Found> {
        let source = &self.inner.source;
        let top = source.resolve(reference, auth).await?;
        let mut current = top.clone();
        for _ in 0..INDEX_DEPTH_MAX {
            match document::parse(&current.body, Some(&current.descriptor.media_type))? {
                Document::Manifest(manifest) => {
                    return Ok(Found {
                        top,
                        manifest,
                        descriptor: current.descriptor,
                        body: current.body.to_vec(),
                    });
                }
                Document::Index(entries) => {
                    let entry = document::choose(&entries, wanted)?;
                    let digest = &entry.descriptor.digest;
                    if entry.descriptor.size > document::MANIFEST_MAX {
                        return Err(Error::invalid(format!("the manifest {} is too large", digest.short())));
                    }
                    let next = source.manifest(reference, digest, auth).await?;
                    if document::sha256(&next.body) != *digest {
                        return Err(Error::invalid(format!(
                            "the manifest {} has another digest",
                            digest.short()
                        )));
                    }
                    let nested = media_type::is_index(&entry.descriptor.media_type);
                    if nested != media_type::is_index(&next.descriptor.media_type) {
                        return Err(Error::invalid(format!(
                            "the manifest {} is not of the media type that the index states",
                            digest.short()
                        )));
                    }
                    current = next;
                }
            }
        }
        Err(Error::invalid("invalid manifest: indexes within indexes"))
    }

    async fn pull_new(
        &self,
        reference: &Reference,
        request: &PullRequest,
        found: Found,
        names: Vec<NewName>,
        pinned: Pinned,
        teller: &Teller,
    ) -> Result<bool> {
        let Found { manifest, descriptor, body, .. } = found;
        let config_bytes = self.small_blob(reference, &manifest.config, &request.auth).await?;
        let config = Config::parse(&config_bytes)?;
        check_platform(&config.platform(), request, reference)?;
        if config.diff_ids.len() != manifest.layers.len() {
            return Err(Error::invalid(format!(
                "invalid image: {} layers in the manifest and {} in the config",
                manifest.layers.len(),
                config.diff_ids.len()
            )));
        }
        let layers =
            self.inner.pins.hold(config.diff_ids.iter().map(|id| Held::Content(id.clone())).collect());
        let (staged, fetches) =
            self.fetch_layers(reference, &request.auth, &manifest, &config, teller).await?;
        reached("pull.unpacked");
        let new = NewImage { config, config_bytes, manifest, manifest_bytes: body, descriptor, staged };
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            // Held to the end even when nobody waits for it any more.
            let _until_recorded = (pinned, layers, fetches);
            inner.publish(new, &names)
        })
        .await?;
        reached("pull.recorded");
        Ok(true)
    }

    /// A blob that fits in memory, checked.
    async fn small_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        auth: &Auth,
    ) -> Result<Vec<u8>> {
        let mut stream = self.inner.source.blob(reference, descriptor, 0, auth).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.chunk().await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > descriptor.size.min(CONFIG_MAX) {
                return Err(Error::invalid("the image config is longer than its manifest says"));
            }
        }
        if document::sha256(&bytes) != descriptor.digest {
            return Err(Error::invalid(format!(
                "the image config does not match its digest {}",
                descriptor.digest
            )));
        }
        Ok(bytes)
    }

    /// Fetches the layers that are not here. The fetches are to be held until their layers are in place.
    async fn fetch_layers(
        &self,
        reference: &Reference,
        auth: &Auth,
        manifest: &Manifest,
        config: &Config,
        teller: &Teller,
    ) -> Result<(Vec<Arc<Staged>>, Vec<Arc<Fetch>>)> {
        let mut missing: HashMap<Digest, Vec<Digest>> = HashMap::new();
        let mut order: Vec<&Descriptor> = Vec::new();
        for (layer, diff_id) in manifest.layers.iter().zip(&config.diff_ids) {
            let blob = &layer.digest;
            // A layer that came in another packing is fetched all the same: the store has every blob that its manifests
            // name, so that pushes and archives are byte-exact, and what is damaged can be made anew.
            let layout = &self.inner.layout;
            if layer::is_in_place(layout, diff_id) && layout.blob(blob).is_file() {
                teller.status(blob.short(), "Already exists")?;
                continue;
            }
            let diff_ids = missing.entry(blob.clone()).or_default();
            if diff_ids.is_empty() {
                teller.status(blob.short(), "Pulling fs layer")?;
                order.push(layer);
            }
            diff_ids.push(diff_id.clone());
        }
        let mut waiting = JoinSet::new();
        for layer in order {
            let follow = Follow {
                images: self.clone(),
                reference: reference.clone(),
                auth: auth.clone(),
                layer: layer.clone(),
                teller: teller.clone(),
            };
            waiting.spawn(follow.run());
        }
        let (mut staged, mut fetches) = (Vec::new(), Vec::new());
        // An error drops the set, which gives up what nobody else waits for.
        while let Some(joined) = waiting.join_next().await {
            let (layer, fetch) = joined.map_err(|e| Error::internal("waiting for a layer").because(e))??;
            let expected = missing.get(&layer.blob).map_or(&[][..], Vec::as_slice);
            if let Some(other) = expected.iter().find(|id| **id != layer.diff_id) {
                return Err(Error::invalid(format!(
                    "layer {}: its content has the digest {}, not {other} as the image config says",
                    layer.blob.short(),
                    layer.diff_id
                )));
            }
            staged.push(layer);
            fetches.push(fetch);
        }
        Ok((staged, fetches))
    }
}

/// One layer of one pull: a share in its fetch, told to this pull's client.
struct Follow {
    images: Images,
    reference: Reference,
    auth: Auth,
    layer: Descriptor,
    teller: Teller,
}

impl Follow {
    async fn run(self) -> Result<(Arc<Staged>, Arc<Fetch>)> {
        loop {
            let (fetch, own) = self.images.inner.fetches.join(Wanted {
                source: Arc::clone(&self.images.inner.source),
                reference: self.reference.clone(),
                auth: self.auth.clone(),
                layer: self.layer.clone(),
            });
            match self.watch(&fetch).await {
                Ok(staged) => return Ok((staged, fetch)),
                Err(Ended::Failed(error)) if own => return Err(shared(&error)),
                // Somebody else's credentials, or repository; now with ours.
                Err(Ended::Failed(error)) => {
                    tracing::debug!(error = %error.chain(), "a shared download failed; starting our own");
                }
                Err(Ended::Unheard(error)) => return Err(error),
            }
        }
    }

    async fn watch(&self, fetch: &Fetch) -> Result<Arc<Staged>, Ended> {
        let blob = &self.layer;
        let (id, total) = (blob.digest.short(), blob.size);
        let mut stages = fetch.stages();
        let (mut downloaded, mut extracting) = (false, false);
        let mut last = None;
        loop {
            let stage = stages.borrow_and_update().clone();
            match stage {
                Stage::Waiting => {}
                Stage::Downloading { done } => {
                    if last != Some(done) {
                        last = Some(done);
                        self.teller.bytes(id, "Downloading", done, total)?;
                    }
                }
                Stage::Extracting { done } => {
                    if !downloaded {
                        downloaded = true;
                        self.teller.status(id, "Download complete")?;
                    }
                    if done > 0 && last != Some(done) {
                        (last, extracting) = (Some(done), true);
                        self.teller.bytes(id, "Extracting", done, total)?;
                    }
                }
                Stage::Done(Ok(staged)) => {
                    if !downloaded {
                        self.teller.status(id, "Download complete")?;
                    }
                    if !extracting || last != Some(total) {
                        self.teller.bytes(id, "Extracting", total, total)?;
                    }
                    self.teller.status(id, "Pull complete")?;
                    return Ok(staged);
                }
                Stage::Done(Err(error)) => return Err(Ended::Failed(error)),
            }
            if stages.changed().await.is_err() && !matches!(&*stages.borrow(), Stage::Done(_)) {
                return Err(Ended::Unheard(Error::internal("a download ended without a result")));
            }
        }
    }
}

enum Ended {
    Failed(Arc<Error>),
    Unheard(Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Unheard(error)
    }
}

/// An error that several wait for, for one of them.
fn shared(error: &Error) -> Error {
    Error::new(error.meaning(), error.chain())
}

/// The tag (if one was asked for) and the digest.
fn names(reference: &Reference, top: &ResolvedManifest) -> Result<Vec<NewName>> {
    let mut names = Vec::new();
    if reference.tag().is_some() {
        names.push(NewName { name: reference.clone(), target: None });
    } else if reference.digest() != Some(&top.descriptor.digest) {
        return Err(Error::invalid(format!("{reference} resolved to {}", top.descriptor.digest)));
    }
    names.push(NewName {
        name: reference.with_digest(top.descriptor.digest.clone()),
        target: Some((top.descriptor.clone(), top.body.to_vec())),
    });
    Ok(names)
}

fn check_platform(offered: &Platform, request: &PullRequest, reference: &Reference) -> Result<()> {
    match &request.platform {
        Some(wanted) if !wanted.accepts(offered) => Err(Error::not_found(format!(
            "image with reference {} was found but its platform ({offered}) does not match the specified platform ({wanted})",
            reference.familiar()
        ))),
        _ => Ok(()),
    }
}

/// Runs what blocks off the async threads; it runs to its end even if nobody waits for it any more.
pub(crate) async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(run)
        .await
        .unwrap_or_else(|e| Err(Error::internal("a task panicked").because(e)))
}

#[cfg(test)]
mod tests;
