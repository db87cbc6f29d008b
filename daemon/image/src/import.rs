// SPDX-License-Identifier: Apache-2.0
//! `docker import`: a root filesystem's tar becomes an image of one layer.
//!
//! The archive is unpacked while it arrives, and kept as the layer's blob byte for byte, packed as it came if layers
//! may be packed so.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use berth_domain::step::reached;
use berth_domain::{Error, ImageId, Platform, Reference, Result};
use berth_registry::{Descriptor, media_type};
use serde_json::{Value, json};
use tokio::io::AsyncRead;

use crate::arriving::{self, Arriving};
use crate::document::{self, Config, Document, Packing};
use crate::kept::BlobFile;
use crate::layer::{self, Extraction, Staged, to_error};
use crate::pins::Held;
use crate::publish::{NewImage, NewName};
use crate::{Images, Inner, changes, packed};

/// What an import makes.
#[derive(Debug, Clone, Default)]
pub struct ImportRequest {
    /// Its name; `latest` when it has no tag.
    pub name: Option<Reference>,
    /// The comment of its only history entry.
    pub message: String,
    /// Dockerfile instructions for its config ([`changes::apply`]).
    pub changes: Vec<String>,
    /// What it runs on; the host's when `None`.
    pub platform: Option<Platform>,
}

impl Images {
    /// Makes an image of the tar archive (plain, gzip, bzip2, xz or zstd) that `reader` gives.
    ///
    /// # Errors
    ///
    /// Invalid for bad changes, a name with a digest, or what is no tar archive; Internal when it cannot be stored.
    pub async fn import(
        &self,
        reader: impl AsyncRead + Send + Unpin + 'static,
        request: ImportRequest,
    ) -> Result<ImageId> {
        if request.name.as_ref().is_some_and(|name| name.digest().is_some()) {
            return Err(Error::invalid("cannot import digest reference"));
        }
        // What is wrong with the request is known before the archive has come.
        let mut config = json!({});
        changes::apply(&mut config, &request.changes)?;
        let inner = Arc::clone(&self.inner);
        arriving::read(reader, move |archive, given_up| {
            Import { inner: &inner, request, config, given_up }.run(archive)
        })
        .await
    }
}

struct Import<'a> {
    inner: &'a Inner,
    request: ImportRequest,
    config: Value,
    given_up: &'a AtomicBool,
}

impl Import<'_> {
    fn run(self, archive: Arriving) -> Result<ImageId> {
        let layout = &self.inner.layout;
        let blob = BlobFile(layout.fresh("import"));
        let (staged, packing) = self.unpack(archive, &blob)?;
        reached("import.unpacked");
        let layer = Descriptor {
            media_type: packing.media_type().to_owned(),
            digest: staged.blob.clone(),
            size: staged.blob_size,
        };
        let config_bytes = self.document(&staged)?;
        let config = Config::parse(&config_bytes)?;
        let manifest_bytes = document::made_manifest(&config_bytes, &[layer])?;
        let Document::Manifest(manifest) = document::parse(&manifest_bytes, None)? else {
            return Err(Error::internal("a manifest became an index"));
        };
        let descriptor = Descriptor {
            media_type: media_type::OCI_MANIFEST.to_owned(),
            digest: document::sha256(&manifest_bytes),
            size: manifest_bytes.len() as u64,
        };
        let id = config.id.clone();
        let held = [&id, &descriptor.digest, &staged.diff_id, &staged.blob];
        let _pinned = self.inner.pins.hold(held.into_iter().cloned().map(Held::Content).collect());
        let names: Vec<NewName> = self
            .request
            .name
            .into_iter()
            .map(|name| NewName { name: name.or_latest(), target: None })
            .collect();
        let staged = vec![Arc::new(staged)];
        let new = NewImage { config, config_bytes, manifest, manifest_bytes, descriptor, staged };
        self.inner.publish(new, &names)?;
        Ok(id)
    }

    fn unpack(&self, archive: Arriving, blob: &BlobFile) -> Result<(Staged, Packing)> {
        let fail = |e| to_error("reading the archive", e);
        let (format, archive) = packed::told(archive).map_err(fail)?;
        let (packing, archive): (_, Box<dyn Read>) = match format {
            packed::Format::Plain => (Packing::Plain, Box::new(archive)),
            packed::Format::Gzip => (Packing::Gzip, Box::new(archive)),
            packed::Format::Zstd => (Packing::Zstd, Box::new(archive)),
            // No layer is packed so: it is kept plain.
            packed::Format::Bzip2 | packed::Format::Xz => {
                (Packing::Plain, Box::new(packed::unpacked(format, archive).map_err(fail)?))
            }
        };
        let taken = AtomicU64::new(0);
        let extraction = Extraction {
            layout: &self.inner.layout,
            limits: &self.inner.limits,
            packing: Some(packing),
            given_up: self.given_up,
            taken: &taken,
        };
        let mut staged = layer::extract(blob.keep(archive)?, &extraction)?;
        if self.given_up.load(Ordering::Relaxed) {
            return Err(Error::cancelled("given up"));
        }
        staged.blob_file = Some(blob.0.clone());
        Ok((staged, packing))
    }

    /// The image's config, in the order and the words of Docker's.
    fn document(&self, staged: &Staged) -> Result<Vec<u8>> {
        let platform = self.request.platform.clone().unwrap_or_else(Platform::host);
        let now = jiff::Timestamp::now().to_string();
        let mut document = json!({
            "architecture": platform.architecture,
            "comment": self.request.message,
            "config": self.config,
            "created": now,
            "history": [{ "created": now, "comment": self.request.message }],
            "os": platform.os,
            "rootfs": { "type": "layers", "diff_ids": [staged.diff_id.as_str()] },
        });
        if !platform.variant.is_empty() {
            document["variant"] = platform.variant.into();
        }
        serde_json::to_vec(&document).map_err(|e| Error::internal("writing an image config").because(e))
    }
}

#[cfg(test)]
mod tests;
