// SPDX-License-Identifier: Apache-2.0
//! OCI image layouts (image spec, image-layout.md).

use berth_domain::{Error, Platform, Reference, Result};
use berth_registry::Descriptor;

use super::spool::Spool;
use super::{Archived, ArchivedLayer};
use crate::document::{self, Config, Document, IndexEntry, MANIFEST_MAX, Manifest};

/// Indexes within indexes.
const DEPTH_MAX: usize = 4;

/// A manifest of the layout, and the name it is listed under.
pub(super) struct Listed {
    pub(super) manifest: Manifest,
    pub(super) bytes: Vec<u8>,
    pub(super) descriptor: Descriptor,
    name: Option<Reference>,
}

pub(super) fn images(spool: &Spool) -> Result<Vec<Archived>> {
    let listed = manifests(spool)?;
    if listed.is_empty() {
        return Err(Error::invalid("the OCI layout has no image for Linux"));
    }
    listed.into_iter().map(|found| image(spool, found)).collect()
}

fn image(spool: &Spool, found: Listed) -> Result<Archived> {
    let Listed { manifest, bytes, descriptor, name } = found;
    let config_bytes = spool
        .blob(&manifest.config.digest)
        .ok_or_else(|| Error::invalid(format!("the archive lacks the config {}", manifest.config.digest)))?
        .read(document::CONFIG_MAX)?;
    let config = Config::parse(&config_bytes)?;
    if config.diff_ids.len() != manifest.layers.len() {
        return Err(Error::invalid(format!(
            "invalid manifest, layers length mismatch: expected {}, got {}",
            config.diff_ids.len(),
            manifest.layers.len()
        )));
    }
    let layers = manifest
        .layers
        .iter()
        .map(|layer| ArchivedLayer { file: spool.blob(&layer.digest).cloned() })
        .collect();
    Ok(Archived {
        config,
        config_bytes,
        manifest,
        manifest_bytes: bytes,
        descriptor,
        layers,
        names: name.into_iter().collect(),
    })
}

/// Every image that `index.json` lists; of an index within it, the one for this host.
pub(super) fn manifests(spool: &Spool) -> Result<Vec<Listed>> {
    let bytes = spool.require("index.json")?.read(MANIFEST_MAX)?;
    let Document::Index(entries) = document::parse(&bytes, None)? else {
        return Err(Error::invalid("index.json is not an index"));
    };
    let mut found = Vec::new();
    for entry in entries.iter().filter(|entry| is_image(entry)) {
        found.push(follow(spool, entry, name(entry))?);
    }
    Ok(found)
}

/// Not an attestation, which is listed for the platform "unknown".
fn is_image(entry: &IndexEntry) -> bool {
    entry.platform.as_ref().is_none_or(|p| p.os == "linux" || p.os.is_empty())
}

/// The name that containerd and Docker write, or a whole reference where the standard has one. A tag alone is no name.
fn name(entry: &IndexEntry) -> Option<Reference> {
    let annotation = |key: &str| entry.annotations.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
    annotation("io.containerd.image.name")
        .or_else(|| annotation("org.opencontainers.image.ref.name").filter(|name| name.contains([':', '/'])))
        .and_then(|name| name.parse::<Reference>().ok())
        .filter(|name| name.digest().is_none())
        .map(Reference::or_latest)
}

fn follow(spool: &Spool, entry: &IndexEntry, name: Option<Reference>) -> Result<Listed> {
    let mut entry = entry.clone();
    for _ in 0..DEPTH_MAX {
        let descriptor = entry.descriptor.clone();
        let bytes = spool
            .blob(&descriptor.digest)
            .ok_or_else(|| Error::invalid(format!("the archive lacks the manifest {}", descriptor.digest)))?
            .read(MANIFEST_MAX)?;
        match document::parse(&bytes, Some(&descriptor.media_type))? {
            Document::Manifest(manifest) => {
                let descriptor = Descriptor { size: bytes.len() as u64, ..descriptor };
                return Ok(Listed { manifest, bytes, descriptor, name });
            }
            Document::Index(entries) => {
                // An index may list more platforms than the archive has.
                let present: Vec<IndexEntry> = entries
                    .into_iter()
                    .filter(|e| is_image(e) && spool.blob(&e.descriptor.digest).is_some())
                    .collect();
                entry = match present.as_slice() {
                    [only] => only.clone(),
                    several => document::choose(several, &Platform::host())?.clone(),
                };
            }
        }
    }
    Err(Error::invalid("invalid manifest: indexes within indexes"))
}
