// SPDX-License-Identifier: Apache-2.0
//! Which images there are and what they are called.
//!
//! Readers take a published snapshot and never wait. One writer at a time changes a draft, writes it
//! (`index.json` first, then the store), and publishes it. `index.json` is what makes a change durable: should the
//! store fail, the answer still holds, and the next start rebuilds the store from the file.

mod open;
mod record;

#[cfg(test)]
mod tests;

pub(crate) use record::{DescriptorRecord, ImageRecord, NameRecord, Records};

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use berth_domain::step::reached;
use berth_domain::{Digest, Error, ImageId, Reference, Result};
use berth_registry::Descriptor;
use berth_store::Store;

use crate::document::{self, Config, Document};
use crate::layer::Meta;
use crate::layout::{Layout, sync_dir};
use crate::types::Image;

/// What is known at one moment.
#[derive(Debug, Default, Clone)]
pub(crate) struct State {
    pub(crate) records: Records,
    pub(crate) images: BTreeMap<ImageId, Arc<Image>>,
}

#[derive(Debug)]
pub(crate) struct Catalog {
    layout: Arc<Layout>,
    state: RwLock<Arc<State>>,
    writer: Mutex<Store>,
}

/// The right to change what is on disk: names, images, and the places of blobs and layers.
pub(crate) struct Writer<'a> {
    catalog: &'a Catalog,
    store: MutexGuard<'a, Store>,
}

impl Catalog {
    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for the other writers. Blocks.
    pub(crate) fn writer(&self) -> Writer<'_> {
        Writer { catalog: self, store: self.writer.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

impl Writer<'_> {
    /// Changes a draft of the state, and writes and publishes it unless that fails.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let before = self.catalog.state();
        let mut draft = State::clone(&before);
        let answer = change(&mut draft)?;
        if draft.records == before.records {
            return Ok(answer);
        }
        draft.records.generation = before.records.generation + 1;
        draft.refresh_names(&before);
        draft.records.to_file(&self.catalog.layout)?;
        reached("image.index-written");
        if let Err(error) = draft.records.to_store(&self.store, &before.records) {
            // The file has it; the generations now differ, and the next start rebuilds the store.
            tracing::error!(error = %error.chain(), "the image index is not up to date");
        }
        reached("image.stored");
        *self.catalog.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(draft);
        Ok(answer)
    }

    /// The state that this writer starts from.
    pub(crate) fn state(&self) -> Arc<State> {
        self.catalog.state()
    }
}

impl State {
    /// An image that is there for its users.
    pub(crate) fn image(&self, id: &ImageId) -> Option<&Arc<Image>> {
        self.images.get(id).filter(|_| !self.is_retired(id))
    }

    pub(crate) fn is_retired(&self, id: &ImageId) -> bool {
        self.records.image(id).is_some_and(|record| record.retired)
    }

    /// Adds an image, or takes it back from retirement.
    pub(crate) fn add(&mut self, image: Image) {
        let known = self.records.image(&image.id);
        let record = ImageRecord {
            manifest: (&image.manifest).into(),
            last_tagged_at: known.map_or_else(String::new, |known| known.last_tagged_at.clone()),
            parent: image.parent.as_ref().map(Digest::to_string),
            parents: image.own_directories,
            retired: false,
        };
        self.records.images.insert(image.id.to_string(), record);
        self.images.insert(image.id.clone(), Arc::new(image));
    }

    pub(crate) fn set_name(
        &mut self,
        name: &Reference,
        image: &ImageId,
        target: Option<&Descriptor>,
        now: &str,
    ) {
        let record = NameRecord { image: image.to_string(), target: target.map(Into::into) };
        self.records.names.insert(name.to_string(), record);
        if let Some(record) = self.records.images.get_mut(image.as_str()) {
            now.clone_into(&mut record.last_tagged_at);
        }
    }

    /// The image that a name (with tag or digest) points at.
    pub(crate) fn named(&self, name: &Reference) -> Option<ImageId> {
        self.records.names.get(&name.to_string()).and_then(|record| record.image.parse().ok())
    }

    /// Names of the image as references, sorted.
    pub(crate) fn references(&self, id: &ImageId) -> Vec<Reference> {
        self.records.names_of(id).filter_map(|(name, _)| name.parse().ok()).collect()
    }

    pub(crate) fn set_own_directories(&mut self, id: &ImageId, there: bool) {
        if let Some(record) = self.records.images.get_mut(id.as_str()) {
            record.parents = there;
        }
        if let Some(image) = self.images.get_mut(id) {
            Arc::make_mut(image).own_directories = there;
        }
    }

    pub(crate) fn forget(&mut self, id: &ImageId) {
        self.records.images.remove(id.as_str());
        self.images.remove(id);
    }

    /// Brings the images' own view of their names in line with the records.
    fn refresh_names(&mut self, before: &Self) {
        let mut by_image: BTreeMap<&str, (Vec<String>, Vec<String>)> = BTreeMap::new();
        for (name, record) in &self.records.names {
            if let Ok(reference) = name.parse::<Reference>() {
                let (tags, digests) = by_image.entry(record.image.as_str()).or_default();
                if reference.digest().is_some() { digests } else { tags }.push(reference.familiar());
            }
        }
        for (id, image) in &mut self.images {
            let (mut tags, mut digests) = by_image.remove(id.as_str()).unwrap_or_default();
            tags.sort();
            digests.sort();
            let tagged_at = self.records.images.get(id.as_str()).map_or("", |r| r.last_tagged_at.as_str());
            if image.repo_tags != tags || image.repo_digests != digests || image.last_tagged_at != tagged_at {
                let image = Arc::make_mut(image);
                (image.repo_tags, image.repo_digests) = (tags, digests);
                tagged_at.clone_into(&mut image.last_tagged_at);
            }
        }
        tracing::debug!(
            generation = self.records.generation,
            images = self.images.len(),
            was = before.images.len(),
            "image index changed"
        );
    }
}

/// Reads an image from its manifest, its config and its layers' records; checks what is small.
pub(crate) fn read_image(layout: &Layout, id: &ImageId, record: &ImageRecord) -> Result<Image> {
    let descriptor = record.manifest.read()?;
    let manifest = read_blob(layout, &descriptor.digest, document::MANIFEST_MAX)?;
    let Document::Manifest(manifest) = document::parse(&manifest, Some(&descriptor.media_type))? else {
        return Err(Error::internal(format!("the manifest of image {} is an index", id.short())));
    };
    let config = read_blob(layout, id, document::CONFIG_MAX)?;
    let config = Config::parse(&config)?;
    let mut image = assemble(layout, config, descriptor, &manifest)?;
    image.last_tagged_at.clone_from(&record.last_tagged_at);
    image.parent = record.parent.as_ref().and_then(|p| p.parse().ok());
    if record.parents && !image.own_directories {
        return Err(Error::internal(format!("the directories of image {} itself are missing", id.short())));
    }
    Ok(image)
}

/// An image from its parts; its layers are in place.
pub(crate) fn assemble(
    layout: &Layout,
    config: Config,
    descriptor: Descriptor,
    manifest: &document::Manifest,
) -> Result<Image> {
    let mut layer_sizes = Vec::with_capacity(config.diff_ids.len());
    for id in &config.diff_ids {
        if !layout.layer_fs(id).is_dir() {
            return Err(Error::internal(format!("the layer {} is missing", id.short())));
        }
        layer_sizes.push(Meta::read(&layout.layer(id))?.size);
    }
    let platform = config.platform();
    let Config { id, parsed, raw, diff_ids } = config;
    let text = |key: &str| raw.get(key).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    let created = parsed.created().clone().unwrap_or_default();
    let own_comment = text("comment");
    let history_comment = || {
        let last = parsed.history().as_ref().and_then(|history| history.last());
        last.and_then(|step| step.comment().clone()).unwrap_or_default()
    };
    Ok(Image {
        own_directories: layout.parents(&id).join("fs").is_dir(),
        id,
        manifest: descriptor,
        repo_tags: Vec::new(),
        repo_digests: Vec::new(),
        platform,
        size: layer_sizes.iter().sum(),
        created_at: created.parse::<jiff::Timestamp>().map_or(0, jiff::Timestamp::as_second),
        created,
        layers: diff_ids,
        layer_sizes,
        layer_blobs: manifest.layers.clone(),
        parent: None,
        comment: if own_comment.is_empty() { history_comment() } else { own_comment },
        author: parsed.author().clone().unwrap_or_default(),
        docker_version: text("docker_version"),
        last_tagged_at: String::new(),
        config: parsed,
        raw_config: raw,
    })
}

/// A small blob, whole and right.
pub(crate) fn read_blob(layout: &Layout, digest: &Digest, max: u64) -> Result<Vec<u8>> {
    use std::io::Read;
    let path = layout.blob(digest);
    let mut bytes = Vec::new();
    std::fs::File::open(&path)
        .and_then(|file| file.take(max + 1).read_to_end(&mut bytes))
        .map_err(|e| Error::io("reading", &path, e))?;
    if document::sha256(&bytes) != *digest {
        return Err(Error::internal(format!("the blob {} is damaged", path.display())));
    }
    Ok(bytes)
}

/// Writes a small blob; durable once [`sync_dir`] of the blobs follows.
pub(crate) fn write_blob(layout: &Layout, bytes: &[u8]) -> Result<Digest> {
    let digest = document::sha256(bytes);
    let path = layout.blob(&digest);
    if read_blob(layout, &digest, bytes.len() as u64).is_err() {
        // By way of staging, where what a crash leaves is removed.
        let new = layout.fresh("blob");
        crate::layout::write_atomically(&new, bytes)?;
        std::fs::rename(&new, &path).map_err(|e| Error::io("moving into place", &path, e))?;
    }
    sync_dir(&layout.blobs())?;
    Ok(digest)
}
