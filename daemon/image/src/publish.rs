// SPDX-License-Identifier: Apache-2.0
//! From staging to the store: data, sync, rename, sync of the directories, records. In that order, so that a
//! record never names what a power cut could take away.

use std::fs;
use std::sync::Arc;

use berth_domain::step::reached;
use berth_domain::{Error, ImageId, Reference, Result};
use berth_registry::Descriptor;

use crate::Inner;
use crate::catalog::{self, Writer};
use crate::document::{Config, Manifest};
use crate::layer::{self, Staged};
use crate::layout::{Layout, sync_dir};
use crate::parents;
use crate::types::Image;

/// An image whose layers are in place or in staging.
pub(crate) struct NewImage {
    pub(crate) config: Config,
    pub(crate) config_bytes: Vec<u8>,
    pub(crate) manifest: Manifest,
    pub(crate) manifest_bytes: Vec<u8>,
    pub(crate) descriptor: Descriptor,
    pub(crate) staged: Vec<Arc<Staged>>,
}

/// A name to give.
pub(crate) struct NewName {
    pub(crate) name: Reference,
    /// For a digest: the document that it is the digest of.
    pub(crate) target: Option<(Descriptor, Vec<u8>)>,
}

/// What giving names changed.
#[derive(Debug, Default)]
pub(crate) struct Named {
    /// Whether any name is new or points elsewhere now.
    pub(crate) moved: bool,
    /// Tags that pointed at another image before.
    pub(crate) taken: Vec<(Reference, ImageId)>,
}

impl Inner {
    /// Puts the image and its names on record. Blocks. The caller has pinned its content.
    pub(crate) fn publish(&self, new: NewImage, names: &[NewName]) -> Result<Named> {
        self.publish_child(new, names, None)
    }

    /// The same of an image that was made here of another.
    pub(crate) fn publish_child(
        &self,
        new: NewImage,
        names: &[NewName],
        parent: Option<ImageId>,
    ) -> Result<Named> {
        if !new.staged.is_empty() {
            // Without the lock: this is the long part.
            self.layout.sync_all()?;
            reached("image.synced");
        }
        let writer = self.catalog.writer();
        place(&self.layout, &new.staged)?;
        reached("image.placed");
        catalog::write_blob(&self.layout, &new.config_bytes)?;
        reached("image.config-written");
        catalog::write_blob(&self.layout, &new.manifest_bytes)?;
        reached("image.manifest-written");
        own_directories(&self.layout, &new.config)?;
        let mut image = catalog::assemble(&self.layout, new.config, new.descriptor, &new.manifest)?;
        image.parent = parent;
        self.record(&writer, Some(image), None, names)
    }

    /// Gives names to an image that is on record. Blocks.
    pub(crate) fn name(&self, image: &ImageId, names: &[NewName]) -> Result<Named> {
        self.record(&self.catalog.writer(), None, Some(image), names)
    }

    fn record(
        &self,
        writer: &Writer<'_>,
        new: Option<Image>,
        known: Option<&ImageId>,
        names: &[NewName],
    ) -> Result<Named> {
        for name in names {
            if let Some((_, bytes)) = &name.target {
                catalog::write_blob(&self.layout, bytes)?;
            }
        }
        let now = jiff::Timestamp::now().to_string();
        writer.change(|state| {
            let id = match (new, known) {
                (Some(image), _) => {
                    let id = image.id.clone();
                    state.add(image);
                    id
                }
                (None, Some(id)) if state.image(id).is_some() => id.clone(),
                (None, id) => {
                    return Err(Error::not_found(format!(
                        "No such image: {}",
                        id.map_or("", berth_domain::Digest::as_str)
                    )));
                }
            };
            let mut named = Named::default();
            for NewName { name, target } in names {
                let before = state.named(name);
                if before.as_ref() == Some(&id) {
                    continue;
                }
                named.moved = true;
                state.set_name(name, &id, target.as_ref().map(|(descriptor, _)| descriptor), &now);
                if let Some(before) = before {
                    named.taken.push((name.clone(), before));
                }
            }
            Ok(named)
        })
    }
}

/// Moves what is staged to its place. A layer that somebody else put there meanwhile is as good.
pub(crate) fn place(layout: &Layout, staged: &[Arc<Staged>]) -> Result<()> {
    if staged.is_empty() {
        return Ok(());
    }
    for new in staged {
        if let Some(blob) = &new.blob_file {
            let to = layout.blob(&new.blob);
            if !to.exists() {
                rename(blob, &to)?;
                reached("image.blob-renamed");
            }
        }
        if let Some(dir) = new.take() {
            let to = layout.layer(&new.diff_id);
            if layer::is_in_place(layout, &new.diff_id) {
                layout.discard(dir)?;
            } else {
                // What a crash or a damaged disk left of it.
                layout.discard(&to)?;
                rename(dir, &to)?;
                reached("image.layer-renamed");
            }
        }
    }
    sync_dir(&layout.blobs())?;
    sync_dir(&layout.layers())
}

/// Puts in place what this image needs on top of its layers, if anything.
pub(crate) fn own_directories(layout: &Layout, config: &Config) -> Result<()> {
    let Some(extra) = parents::prepare(layout, &config.id, &config.diff_ids)? else { return Ok(()) };
    let to = layout.parents(&config.id);
    if to.exists() {
        return layout.discard(&extra);
    }
    layout.sync_all()?;
    rename(&extra, &to)?;
    reached("image.parents-renamed");
    sync_dir(&layout.layers())
}

fn rename(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    fs::rename(from, to).map_err(|e| Error::io("moving into place", from, e))
}
