// SPDX-License-Identifier: Apache-2.0
//! The manifests behind an image: its own, and what else the index lists that it came by (other platforms,
//! attestations), here or not.

use std::sync::Arc;

use berth_domain::{Digest, ImageId, Platform, Result};
use berth_registry::{Descriptor, media_type};

use crate::Images;
use crate::catalog::{self, State};
use crate::document::{self, Document, IndexEntry};
use crate::types::Image;

/// What BuildKit's attestations say of themselves.
const KIND: &str = "vnd.docker.reference.type";
const ABOUT: &str = "vnd.docker.reference.digest";

/// A manifest that belongs to an image.
#[derive(Debug, Clone)]
pub struct Listed {
    /// As its index has it.
    pub descriptor: Descriptor,
    /// Likewise.
    pub platform: Option<Platform>,
    /// Likewise.
    pub annotations: Vec<(String, String)>,
    /// Bytes of what of it is here, packed.
    pub content: u64,
    /// What it is.
    pub what: ListedKind,
}

/// What a listed manifest is.
#[derive(Debug, Clone)]
pub enum ListedKind {
    /// An image that is here.
    Image(Arc<Image>),
    /// An image that is not.
    Absent,
    /// A statement about the manifest with this digest.
    Attestation(String),
}

impl Images {
    /// The manifests of an image, in the order of the index that it came by. Blocks.
    ///
    /// # Errors
    ///
    /// Not found; Internal when the index cannot be read.
    pub fn manifests(&self, id: &ImageId) -> Result<Vec<Listed>> {
        let state = self.inner.catalog.state();
        let image = self.image(id)?;
        let entries = self.entries(&state, &image)?;
        if entries.is_empty() {
            let platform = Some(image.platform.clone());
            let descriptor = image.manifest.clone();
            return Ok(vec![
                self.listed(&state, &IndexEntry { descriptor, platform, annotations: Vec::new() }),
            ]);
        }
        Ok(entries.iter().map(|entry| self.listed(&state, entry)).collect())
    }

    /// Those of the index that one of its names stands for, if that one lists this image.
    fn entries(&self, state: &State, image: &Image) -> Result<Vec<IndexEntry>> {
        for (_, record) in state.records.names_of(&image.id) {
            let Some(target) = &record.target else { continue };
            let target = target.read()?;
            if !media_type::is_index(&target.media_type) {
                continue;
            }
            let bytes = catalog::read_blob(&self.inner.layout, &target.digest, document::MANIFEST_MAX)?;
            if let Document::Index(entries) = document::parse(&bytes, Some(&target.media_type))? {
                if entries.iter().any(|entry| entry.descriptor.digest == image.manifest.digest) {
                    return Ok(entries);
                }
            }
        }
        Ok(Vec::new())
    }

    fn listed(&self, state: &State, entry: &IndexEntry) -> Listed {
        let IndexEntry { descriptor, platform, annotations } = entry.clone();
        let said = |key: &str| annotations.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone());
        let here = state.images.values().find(|image| image.manifest.digest == descriptor.digest);
        let what = match here {
            Some(image) => ListedKind::Image(Arc::clone(image)),
            None if said(KIND).as_deref() == Some("attestation-manifest") => {
                ListedKind::Attestation(said(ABOUT).unwrap_or_default())
            }
            None => ListedKind::Absent,
        };
        let content = here.map_or(0, |image| {
            let parts = [&image.manifest.digest, &image.id];
            let mut parts: Vec<&Digest> =
                parts.into_iter().chain(image.layer_blobs.iter().map(|b| &b.digest)).collect();
            parts.sort();
            parts.dedup();
            parts.into_iter().map(|digest| self.size_here(digest)).sum()
        });
        Listed { descriptor, platform, annotations, content, what }
    }

    /// Length of a blob; nothing if it is not here.
    fn size_here(&self, digest: &Digest) -> u64 {
        std::fs::metadata(self.inner.layout.blob(digest)).map_or(0, |meta| meta.len())
    }
}
