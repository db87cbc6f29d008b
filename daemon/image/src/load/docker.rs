// SPDX-License-Identifier: Apache-2.0
//! `manifest.json` of `docker save`.

use std::io::BufReader;

use berth_domain::{Digest, Error, Reference, Result};
use berth_registry::{Descriptor, media_type};
use serde::Deserialize;

use super::oci::{self, Listed};
use super::spool::{Spool, Spooled};
use super::{Archived, ArchivedLayer};
use crate::document::{self, Config, Document, MANIFEST_MAX};
use crate::layer::{sniff, to_error};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

pub(super) fn images(spool: &Spool) -> Result<Vec<Archived>> {
    let bytes = spool.require("manifest.json")?.read(MANIFEST_MAX)?;
    let items: Vec<Item> =
        serde_json::from_slice(&bytes).map_err(|e| Error::invalid("invalid manifest.json").because(e))?;
    // The archive's own, if it is an OCI layout as well.
    let listed = oci::manifests(spool).unwrap_or_default();
    items.iter().map(|item| image(spool, &listed, item)).collect()
}

fn image(spool: &Spool, listed: &[Listed], item: &Item) -> Result<Archived> {
    let names = item
        .repo_tags
        .iter()
        .flatten()
        .map(|tag| match tag.parse::<Reference>() {
            Ok(name) if name.digest().is_none() => Ok(name.or_latest()),
            _ => Err(Error::invalid(format!("invalid tag {tag:?}"))),
        })
        .collect::<Result<Vec<_>>>()?;
    let config_bytes = spool.require(&item.config)?.read(document::CONFIG_MAX)?;
    let config = Config::parse(&config_bytes)?;
    let files = item.layers.iter().flatten().map(|name| spool.require(name)).collect::<Result<Vec<_>>>()?;
    if files.len() != config.diff_ids.len() {
        return Err(Error::invalid(format!(
            "invalid manifest, layers length mismatch: expected {}, got {}",
            config.diff_ids.len(),
            files.len()
        )));
    }
    let described = files.iter().map(|file| describe(file)).collect::<Result<Vec<_>>>()?;
    let (manifest_bytes, declared) = match own_manifest(listed, &config.id, &described) {
        Some((bytes, declared)) => (bytes, declared),
        None => {
            let layers: Vec<_> = described.clone();
            (document::made_manifest(&config_bytes, &layers)?, media_type::OCI_MANIFEST.to_owned())
        }
    };
    let Document::Manifest(manifest) = document::parse(&manifest_bytes, Some(&declared))? else {
        return Err(Error::internal("a manifest became an index"));
    };
    let descriptor = Descriptor {
        media_type: declared,
        digest: document::sha256(&manifest_bytes),
        size: manifest_bytes.len() as u64,
    };
    let layers = files.into_iter().map(|file| ArchivedLayer { file: Some(file.clone()) }).collect();
    Ok(Archived { config, config_bytes, manifest, manifest_bytes, descriptor, layers, names })
}

fn describe(file: &Spooled) -> Result<Descriptor> {
    let packing = sniff(&mut BufReader::new(file.open()?)).map_err(|e| to_error("reading a layer", e))?;
    let media_type = packing.media_type().to_owned();
    Ok(Descriptor { media_type, digest: file.digest.clone(), size: file.size })
}

/// The OCI manifest that the archive itself has for this image, if it lists the very same layers.
fn own_manifest(listed: &[Listed], config: &Digest, layers: &[Descriptor]) -> Option<(Vec<u8>, String)> {
    listed.iter().find_map(|found| {
        let same = found.manifest.config.digest == *config
            && found.manifest.layers.len() == layers.len()
            && found.manifest.layers.iter().zip(layers).all(|(a, b)| a.digest == b.digest);
        same.then(|| (found.bytes.clone(), found.descriptor.media_type.clone()))
    })
}
