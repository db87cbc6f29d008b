// SPDX-License-Identifier: Apache-2.0
//! Mending an image whose layers are not all there: a layer's blob has all that is needed to unpack it again.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use berth_domain::{Digest, Error, ImageId, Reference, Result};
use berth_registry::{Auth, Descriptor};
use sha2::{Digest as _, Sha256};

use crate::Inner;
use crate::catalog::{self, ImageRecord};
use crate::document::{self, Config, Document};
use crate::layer::{self, Extraction};
use crate::layout::{Layout, io_error, sync_dir};
use crate::publish::{own_directories, place};
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
    place(layout, &staged)?;
    own_directories(layout, &config)
}

/// Unpacks a layer from its blob, into staging.
pub(crate) fn unpack(
    layout: &Layout,
    limits: &Limits,
    blob: &Descriptor,
    diff_id: &Digest,
) -> Result<layer::Staged> {
    let path = layout.blob(&blob.digest);
    let file = File::open(&path).map_err(|e| Error::io("opening", &path, e))?;
    let (given_up, taken) = (AtomicBool::new(false), AtomicU64::new(0));
    let extraction = Extraction { layout, limits, packing: None, given_up: &given_up, taken: &taken };
    let staged = layer::extract(file, &extraction)?;
    if staged.blob != blob.digest || staged.diff_id != *diff_id {
        return Err(Error::internal(format!("the blob {} is damaged", path.display())));
    }
    Ok(staged)
}

/// Fetches a blob anew and puts it in its place, over what is there. Blocks; must be called within a runtime.
pub(crate) fn refetch(
    inner: &Inner,
    reference: &Reference,
    descriptor: &Descriptor,
    auth: &Auth,
) -> Result<()> {
    let new = inner.layout.fresh("blob");
    let fetched = fetch(inner, reference, descriptor, auth, &new);
    if fetched.is_err() {
        if let Err(error) = std::fs::remove_file(&new) {
            tracing::debug!(path = %new.display(), %error, "left behind");
        }
    }
    fetched?;
    let path = inner.layout.blob(&descriptor.digest);
    std::fs::rename(&new, &path).map_err(|e| Error::io("moving into place", &path, e))?;
    sync_dir(&inner.layout.blobs())
}

fn fetch(
    inner: &Inner,
    reference: &Reference,
    descriptor: &Descriptor,
    auth: &Auth,
    path: &Path,
) -> Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| io_error("making", path, e))?;
    let runtime = tokio::runtime::Handle::current();
    let mut stream = runtime.block_on(inner.source.blob(reference, descriptor, 0, auth))?;
    let mut sum = Sha256::new();
    while let Some(chunk) = runtime.block_on(stream.chunk())? {
        sum.update(&chunk);
        file.write_all(&chunk).map_err(|e| io_error("writing", path, e))?;
    }
    let found = document::finished(sum);
    if found != descriptor.digest {
        return Err(Error::invalid(format!("what {} sent has the digest {found}", reference.registry())));
    }
    file.sync_all().map_err(|e| io_error("syncing", path, e))
}
