// SPDX-License-Identifier: Apache-2.0
//! Mending an image whose layers are not all there: a layer's blob has all that is needed to unpack it again.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use berth_domain::{Digest, Error, ImageId, Result};

use crate::catalog::{self, ImageRecord};
use crate::document::{self, Config, Document, LayerDescriptor};
use crate::layer::{self, Extraction};
use crate::layout::Layout;
use crate::publish::place;
use crate::unpack::Limits;

/// Unpacks the layers of this image that are missing or have no record.
pub(crate) fn image(layout: &Layout, limits: &Limits, id: &ImageId, record: &ImageRecord) -> Result<()> {
    let manifest = record.manifest.read()?;
    let bytes = catalog::read_blob(layout, &manifest.digest, document::MANIFEST_MAX)?;
    let Document::Manifest(manifest) = document::parse(&bytes, None)? else {
        return Err(Error::internal("the manifest is an index"));
    };
    let config = Config::parse(&catalog::read_blob(layout, id, document::CONFIG_MAX)?)?;
    let mut staged = Vec::new();
    for (blob, diff_id) in manifest.layers.iter().zip(&config.diff_ids) {
        if layer::is_in_place(layout, diff_id) {
            continue;
        }
        tracing::warn!(layer = %diff_id.short(), "unpacking the layer again");
        staged.push(Arc::new(unpack(layout, limits, blob, diff_id)?));
    }
    layout.sync_all()?;
    place(layout, &staged)
}

fn unpack(
    layout: &Layout,
    limits: &Limits,
    layer: &LayerDescriptor,
    diff_id: &Digest,
) -> Result<layer::Staged> {
    let path = layout.blob(&layer.descriptor.digest);
    let file = File::open(&path).map_err(|e| Error::io("opening", &path, e))?;
    let (given_up, taken) = (AtomicBool::new(false), AtomicU64::new(0));
    let packing = Some(layer.packing);
    let extraction = Extraction { layout, limits, packing, given_up: &given_up, taken: &taken };
    let staged = layer::extract(file, &extraction)?;
    if staged.blob != layer.descriptor.digest || staged.diff_id != *diff_id {
        return Err(Error::internal(format!("the blob {} is damaged", path.display())));
    }
    Ok(staged)
}
