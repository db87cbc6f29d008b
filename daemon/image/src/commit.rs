// SPDX-License-Identifier: Apache-2.0
//! `docker commit`: an image with one more layer.
//!
//! The layer arrives as the tar archive that a registry would serve, and takes the way of every other layer: summed,
//! unpacked in staging, kept as a blob. So what is pushed or saved later is byte for byte what was committed, and a
//! damaged layer can be made again from its blob.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use berth_domain::{Digest, Error, ImageId, Platform, Reference, Result};
use berth_registry::{Descriptor, media_type};
use serde_json::{Value, json};

use crate::document::{self, Config, Document, LAYERS_MAX, Packing};
use crate::kept::BlobFile;
use crate::layer::{self, Extraction, Staged};
use crate::pins::Held;
use crate::publish::{NewImage, NewName};
use crate::types::Image;
use crate::{Images, Inner, catalog};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// What is to become of a container.
#[derive(Debug, Clone)]
pub struct CommitRequest {
    /// The image that it was made from; `None` to start from nothing.
    pub parent: Option<ImageId>,
    /// What it runs on, if there is no parent to say so.
    pub platform: Platform,
    /// The image's `config`, in the shape of the OCI image spec with Docker's additions.
    pub config: Value,
    /// `author` of the image.
    pub author: String,
    /// `comment` of the new history entry.
    pub comment: String,
    /// `created_by` of the new history entry.
    pub created_by: String,
    /// The name that the image is given, if any.
    pub name: Option<Reference>,
}

/// An image that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Its id.
    pub id: ImageId,
    /// Bytes of its new layer.
    pub size: u64,
}

impl Images {
    /// Makes an image of a parent's layers and the one that `archive` holds (whiteouts as layers have them). A layer with
    /// nothing in it is left out. Durable when it returns. Blocks.
    ///
    /// # Errors
    ///
    /// Not found when the parent has gone; Invalid when it has as many layers as there can be, or the archive is none.
    pub fn commit(&self, request: CommitRequest, archive: impl Read + Send) -> Result<Committed> {
        let parent = request.parent.as_ref().map(|id| self.lease(id)).transpose()?;
        let parent = parent.as_ref().map(|lease| Arc::clone(lease.image()));
        if parent.as_ref().is_some_and(|parent| parent.layers.len() >= LAYERS_MAX) {
            return Err(Error::invalid(format!(
                "the image has {LAYERS_MAX} layers already, and cannot have more"
            )));
        }
        let new = self.inner.stage(archive)?;
        berth_domain::step::reached("commit.layer-staged");
        let size = new.size;
        let config = config(&request, parent.as_deref(), &new)?;
        let config_bytes = to_bytes(&config)?;
        let config = Config::parse(&config_bytes)?;
        let manifest_bytes = self.manifest(parent.as_deref(), &config_bytes, &new)?;
        let descriptor = Descriptor {
            media_type: media_type::OCI_MANIFEST.to_owned(),
            digest: document::sha256(&manifest_bytes),
            size: manifest_bytes.len() as u64,
        };
        let Document::Manifest(manifest) = document::parse(&manifest_bytes, Some(media_type::OCI_MANIFEST))?
        else {
            return Err(Error::internal("a manifest became an index"));
        };
        let id = config.id.clone();
        let mut held: Vec<Held> = manifest.layers.iter().map(|l| Held::Content(l.digest.clone())).collect();
        held.extend(config.diff_ids.iter().cloned().map(Held::Content));
        held.extend([id.clone(), descriptor.digest.clone()].map(Held::Content));
        let _pinned = self.inner.pins.hold(held);
        let names: Vec<NewName> =
            request.name.into_iter().map(|name| NewName { name: name.or_latest(), target: None }).collect();
        let NewLayer { staged, entries, blob: _blob, .. } = new;
        let staged = if entries == 0 { Vec::new() } else { vec![Arc::new(staged)] };
        self.inner.publish_child(
            NewImage { config, config_bytes, manifest, manifest_bytes, descriptor, staged },
            &names,
            request.parent,
        )?;
        Ok(Committed { id, size })
    }

    fn manifest(&self, parent: Option<&Image>, config: &[u8], new: &NewLayer) -> Result<Vec<u8>> {
        let mut layers = Vec::new();
        if let Some(parent) = parent {
            let bytes =
                catalog::read_blob(&self.inner.layout, &parent.manifest.digest, document::MANIFEST_MAX)?;
            let manifest: Value = serde_json::from_slice(&bytes)
                .map_err(|e| Error::internal("reading the manifest of the container's image").because(e))?;
            // As they stand, but for types of Docker's own, which an OCI manifest does not mix with.
            for layer in manifest["layers"].as_array().into_iter().flatten() {
                let mut layer = layer.clone();
                if let Some(kind) = layer["mediaType"].as_str().and_then(oci_type) {
                    layer["mediaType"] = kind.into();
                }
                layers.push(layer);
            }
        }
        if !new.is_empty() {
            let (digest, size) = (new.staged.blob.as_str(), new.staged.blob_size);
            layers.push(json!({ "mediaType": LAYER, "digest": digest, "size": size }));
        }
        to_bytes(&json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": document::sha256(config).as_str(),
                "size": config.len(),
            },
            "layers": layers,
        }))
    }
}

fn oci_type(docker: &str) -> Option<&'static str> {
    Some(match docker {
        "application/vnd.docker.image.rootfs.diff.tar" => LAYER,
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => "application/vnd.oci.image.layer.v1.tar+zstd",
        _ => return None,
    })
}

fn to_bytes(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::internal("writing an image's config").because(e))
}

/// The config of the new image: the parent's history and layers, and one more of each.
fn config(request: &CommitRequest, parent: Option<&Image>, new: &NewLayer) -> Result<Value> {
    let now = jiff::Timestamp::now().to_string();
    let mut diff_ids: Vec<&str> = parent.iter().flat_map(|p| &p.layers).map(Digest::as_str).collect();
    if !new.is_empty() {
        diff_ids.push(new.staged.diff_id.as_str());
    }
    let raw = |key: &str| parent.and_then(|parent| parent.raw_config.get(key)).filter(|v| !v.is_null());
    let mut history = raw("history").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut step = json!({ "created": now, "created_by": request.created_by });
    for (key, text) in [("author", &request.author), ("comment", &request.comment)] {
        if !text.is_empty() {
            step[key] = text.as_str().into();
        }
    }
    if new.is_empty() {
        step["empty_layer"] = true.into();
    }
    history.push(step);
    let platform = parent.map_or(&request.platform, |parent| &parent.platform);
    let mut config = json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "created": now,
        "config": request.config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": history,
    });
    if !platform.variant.is_empty() {
        config["variant"] = platform.variant.as_str().into();
    }
    if !request.author.is_empty() {
        config["author"] = request.author.as_str().into();
    }
    for key in ["os.version", "os.features"] {
        if let Some(value) = raw(key) {
            config[key] = value.clone();
        }
    }
    Ok(config)
}

/// A layer in staging, with its blob.
struct NewLayer {
    staged: Staged,
    /// Entries in it.
    entries: u64,
    /// Bytes of its files.
    size: u64,
    /// Goes in the end, unless it was moved to its place.
    blob: BlobFile,
}

impl NewLayer {
    fn is_empty(&self) -> bool {
        self.entries == 0
    }
}

impl Inner {
    /// Unpacks an archive in staging and keeps its bytes beside it.
    fn stage(&self, archive: impl Read + Send) -> Result<NewLayer> {
        let blob = BlobFile(self.layout.fresh("commit"));
        let extraction = Extraction {
            layout: &self.layout,
            limits: &self.limits,
            packing: Some(Packing::Plain),
            given_up: &AtomicBool::new(false),
            taken: &AtomicU64::new(0),
        };
        let mut staged = layer::extract(blob.keep(archive)?, &extraction)?;
        let layer::Meta { entries, size, .. } = layer::Meta::read(staged.dir())?;
        staged.blob_file = Some(blob.0.clone());
        Ok(NewLayer { staged, entries, size, blob })
    }
}
