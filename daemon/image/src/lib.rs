// SPDX-License-Identifier: Apache-2.0
//! Images: pulled from registries and pushed to them, loaded from archives and saved, unpacked once a layer, named,
//! listed, removed.
//!
//! The id of an image is the digest of its config. Manifests and blobs are kept as they came; each
//! layer is a directory under its diff id, with whiteouts as overlayfs has them, shared by all images
//! that have it. What is on disk, and in which order it gets there, is in [`layout`]; what happens when any of it is lost,
//! in [`catalog`].
//!
//! Reading calls ([`Images::resolve`], [`Images::image`], [`Images::list`], [`Images::layers`]) take a
//! snapshot and return at once. [`Images::tag`], [`Images::remove`], [`Images::collect`] and [`Images::rebuild_index`] write and
//! sync files: they block for some milliseconds and belong on a blocking thread.
#![forbid(unsafe_code)]

mod arriving;
mod catalog;
pub mod changes;
mod check;
mod commit;
mod compare;
mod document;
mod fetch;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod gc;
mod import;
mod kept;
mod layer;
mod layout;
mod listed;
mod load;
pub mod packed;
mod parents;
mod pins;
mod places;
mod publish;
mod pull;
mod push;
mod remove;
mod repair;
mod resolve;
mod save;
mod source;
pub mod tar;
mod types;
mod unpack;

#[cfg(test)]
mod fixture;

pub use berth_registry::Auth;
pub use check::{CheckReport, CheckRequest, Damage, RunningOn};
pub use commit::{CommitRequest, Committed};
pub use import::ImportRequest;
pub use listed::{Listed, ListedKind};
pub use push::PushRequest;
pub use save::Archive;
pub use types::{
    HistoryEntry, Image, ImageUse, ImagesConfig, PullOutcome, PullRequest, RemoveOptions, Removed,
};
pub use unpack::Limits;

use std::path::PathBuf;
use std::sync::Arc;

use berth_domain::{Error, ImageId, Reference, Result};
use berth_registry::Client;

use catalog::Catalog;
use fetch::Fetches;
use layout::Layout;
use pins::{Pinned, Pins};
use places::Places;
use publish::NewName;
use source::Source;

/// All images of one data root. Cheap to clone.
#[derive(Clone)]
pub struct Images {
    inner: Arc<Inner>,
}

struct Inner {
    layout: Arc<Layout>,
    catalog: Catalog,
    source: Arc<dyn Source>,
    fetches: Fetches,
    places: Arc<Places>,
    /// Layers sent at once, over all pushes.
    uploads: Places,
    pins: Arc<Pins>,
    limits: Limits,
}

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Images").field("root", &self.inner.layout.root()).finish_non_exhaustive()
    }
}

/// Keeps an image from being removed, and its layers from being collected, until dropped.
#[derive(Debug)]
pub struct Lease {
    image: Arc<Image>,
    _pinned: Pinned,
}

impl Lease {
    /// The image.
    #[must_use]
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }
}

impl Images {
    /// Opens the images under a data root, recovering what a crash left behind. Blocks.
    ///
    /// # Errors
    ///
    /// Conflict when another engine has them open; Internal when the data root cannot be written.
    pub fn open(config: ImagesConfig, registry: Client) -> Result<Self> {
        Self::open_with(config, Arc::new(registry))
    }

    fn open_with(config: ImagesConfig, source: Arc<dyn Source>) -> Result<Self> {
        let layout = Arc::new(Layout::prepare(&config.root)?);
        let limits = config.limits;
        let catalog = Catalog::open(&layout, |id, record| repair::image(&layout, &limits, id, record))?;
        let places = Arc::new(Places::new(config.max_concurrent_downloads));
        let fetches = Fetches::new(Arc::clone(&layout), limits.clone(), Arc::clone(&places));
        let images = Self {
            inner: Arc::new(Inner {
                layout,
                catalog,
                source,
                fetches,
                places,
                uploads: Places::new(config.max_concurrent_uploads),
                pins: Arc::default(),
                limits,
            }),
        };
        images.inner.clean_staging()?;
        images.inner.sweep()?;
        Ok(images)
    }

    /// The image, also one that was removed while containers still stand on it.
    ///
    /// # Errors
    ///
    /// Not found.
    pub fn image(&self, id: &ImageId) -> Result<Arc<Image>> {
        let state = self.inner.catalog.state();
        state.images.get(id).cloned().ok_or_else(|| Error::not_found(format!("No such image: {id}")))
    }

    /// All images, newest first.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Image>> {
        let state = self.inner.catalog.state();
        let mut images: Vec<_> = state.images.keys().filter_map(|id| state.image(id)).cloned().collect();
        images.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.id.cmp(&b.id)));
        images
    }

    /// The directories that make up the image's root, topmost first, as overlayfs takes them.
    ///
    /// # Errors
    ///
    /// Not found.
    pub fn layers(&self, id: &ImageId) -> Result<Vec<PathBuf>> {
        let image = self.image(id)?;
        let layout = &self.inner.layout;
        let extra = layout.parents(id).join("fs");
        let extra = extra.is_dir().then_some(extra);
        let layers = image.layers.iter().rev().map(|diff_id| layout.layer_fs(diff_id));
        Ok(extra.into_iter().chain(layers).collect())
    }

    /// Holds an image while a container is being created from it.
    ///
    /// # Errors
    ///
    /// Not found.
    pub fn lease(&self, id: &ImageId) -> Result<Lease> {
        let gone = || Error::not_found(format!("No such image: {id}"));
        // Held first, then looked for: it cannot be removed in between.
        let pinned = self.inner.pins.lease(id).ok_or_else(gone)?;
        let image = self.image(id)?;
        Ok(Lease { image, _pinned: pinned })
    }

    /// Gives an image one more name. Blocks.
    ///
    /// # Errors
    ///
    /// Not found when there is no such image; Invalid when the name has a digest.
    pub fn tag(&self, id: &ImageId, name: &Reference) -> Result<()> {
        if name.digest().is_some() {
            return Err(Error::invalid("refusing to create a tag with a digest reference"));
        }
        let name = NewName { name: name.clone().or_latest(), target: None };
        self.inner.name(id, &[name]).map(|_| ())
    }

    /// From now on so many layers are fetched and unpacked at once; what is under way is not stopped. Must be
    /// called within a runtime.
    pub fn set_max_concurrent_downloads(&self, wanted: usize) {
        self.inner.places.set(wanted);
    }

    /// The same of layers that are sent.
    pub fn set_max_concurrent_uploads(&self, wanted: usize) {
        self.inner.uploads.set(wanted);
    }

    /// Reads everything anew from files: names from `index.json`, and every manifest among the blobs whose
    /// layers are here. The number of images found. Blocks.
    ///
    /// # Errors
    ///
    /// Internal when the files cannot be read or the index not written.
    pub fn rebuild_index(&self) -> Result<usize> {
        self.inner.catalog.writer().rebuild()
    }
}
