// SPDX-License-Identifier: Apache-2.0
//! Manifests, indexes and configs: what is accepted, and what of them is used.
//!
//! A document means one thing or is refused (CVE-2021-41190: one digest, two meanings by media type).

use berth_domain::{Digest, Error, ImageId, Platform, Result};
use berth_registry::{Descriptor, media_type};
use oci_spec::image::ImageConfiguration;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// A larger manifest or index is refused.
pub(crate) const MANIFEST_MAX: u64 = 4 << 20;
/// A larger config is refused.
pub(crate) const CONFIG_MAX: u64 = 8 << 20;
/// More layers than this are refused; overlayfs takes 500 lower directories.
pub(crate) const LAYERS_MAX: usize = 490;

/// How a layer's tar stream is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    /// The media type of a layer that is packed so (OCI image spec, media-types.md).
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Plain => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// The manifest of one image.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// One line of an index.
#[derive(Debug, Clone)]
pub(crate) struct IndexEntry {
    pub(crate) descriptor: Descriptor,
    pub(crate) platform: Option<Platform>,
    pub(crate) annotations: Vec<(String, String)>,
}

/// A manifest or an index.
#[derive(Debug, Clone)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Vec<IndexEntry>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    media_type: Option<String>,
    digest: String,
    size: i64,
    #[serde(default)]
    urls: Option<Vec<String>>,
    #[serde(default)]
    platform: Option<RawPlatform>,
    #[serde(default)]
    annotations: Option<serde_json::Map<String, Value>>,
}

#[derive(Deserialize)]
struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<i64>,
    media_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
}

fn refused(why: impl std::fmt::Display) -> Error {
    Error::invalid(format!("invalid manifest: {why}"))
}

impl RawDescriptor {
    fn checked(&self, default_type: &str) -> Result<Descriptor> {
        Ok(Descriptor {
            media_type: self
                .media_type
                .clone()
                .filter(|t| !t.is_empty())
                .unwrap_or_else(|| default_type.to_owned()),
            digest: self.digest.parse()?,
            size: u64::try_from(self.size).map_err(|_| refused("a negative size"))?,
        })
    }
}

/// Reads a manifest or index. `declared` is the media type it was served or listed as, if any.
pub(crate) fn parse(bytes: &[u8], declared: Option<&str>) -> Result<Document> {
    if bytes.len() as u64 > MANIFEST_MAX {
        return Err(refused(format!("{} bytes, {MANIFEST_MAX} at most", bytes.len())));
    }
    let value: Value = serde_json::from_slice(bytes).map_err(|e| refused(&e).because(e))?;
    let object = value.as_object().ok_or_else(|| refused("not an object"))?;
    // Go reads keys whatever their case; a document must not mean something else there than here.
    let has =
        |name: &str| object.iter().any(|(key, value)| key.eq_ignore_ascii_case(name) && !value.is_null());
    if has("fsLayers") || (has("history") && has("signatures")) {
        return Err(Error::invalid(
            "the image is in Docker's schema 1 format, which is no longer supported: push it again with a newer tool",
        ));
    }
    if has("manifests") && (has("layers") || has("config")) {
        return Err(refused("it is ambiguous, with both layers and manifests"));
    }
    let raw: Raw = serde_json::from_slice(bytes).map_err(|e| refused(&e).because(e))?;
    if raw.schema_version != Some(2) {
        return Err(refused("schemaVersion must be 2"));
    }
    let stated = raw.media_type.as_deref().filter(|t| !t.is_empty());
    if let (Some(stated), Some(declared)) = (stated, declared) {
        if stated != declared {
            return Err(refused(format!("it says it is {stated:?} and was served as {declared:?}")));
        }
    }
    let kind = stated.or(declared);
    match (raw.manifests, raw.config, raw.layers) {
        (Some(manifests), None, None) => {
            if kind.is_some_and(|kind| !media_type::is_index(kind)) {
                return Err(refused("an index under the media type of a manifest"));
            }
            manifests.iter().map(index_entry).collect::<Result<_>>().map(Document::Index)
        }
        (None, Some(config), layers) => {
            if kind
                .is_some_and(|kind| kind != media_type::OCI_MANIFEST && kind != media_type::DOCKER_MANIFEST)
            {
                return Err(refused(format!("unsupported media type {:?}", kind.unwrap_or_default())));
            }
            manifest(&config, &layers.unwrap_or_default()).map(Document::Manifest)
        }
        _ => Err(refused("neither a config nor manifests in it")),
    }
}

fn index_entry(raw: &RawDescriptor) -> Result<IndexEntry> {
    let annotations = raw.annotations.iter().flatten();
    Ok(IndexEntry {
        descriptor: raw.checked(media_type::OCI_MANIFEST)?,
        platform: raw.platform.as_ref().map(|p| Platform {
            os: p.os.clone(),
            architecture: p.architecture.clone(),
            variant: p.variant.clone(),
        }),
        annotations: annotations.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect(),
    })
}

fn manifest(config: &RawDescriptor, layers: &[RawDescriptor]) -> Result<Manifest> {
    let config = config.checked("application/vnd.oci.image.config.v1+json")?;
    if !matches!(
        config.media_type.as_str(),
        "application/vnd.oci.image.config.v1+json"
            | "application/vnd.docker.container.image.v1+json"
            | "application/json"
            | "text/plain"
            | "application/octet-stream"
    ) {
        return Err(refused(format!("it is not an image: its config is of type {:?}", config.media_type)));
    }
    if config.size > CONFIG_MAX {
        return Err(refused(format!("a config of {} bytes, {CONFIG_MAX} at most", config.size)));
    }
    if layers.len() > LAYERS_MAX {
        return Err(refused(format!("{} layers, {LAYERS_MAX} at most", layers.len())));
    }
    let layers = layers
        .iter()
        .map(|raw| {
            let descriptor = raw.checked("")?;
            if raw.urls.as_ref().is_some_and(|urls| !urls.is_empty()) {
                return Err(refused(format!(
                    "layer {} is to be fetched from elsewhere",
                    descriptor.digest.short()
                )));
            }
            if !is_layer(&descriptor.media_type) {
                return Err(refused(format!("unsupported layer media type {:?}", descriptor.media_type)));
            }
            Ok(descriptor)
        })
        .collect::<Result<_>>()?;
    Ok(Manifest { config, layers })
}

/// Media types of layers (image spec, media-types.md; Docker's manifest schema 2). Foreign ones are not among them.
///
/// How a layer is packed is told by its first bytes all the same: Docker 28 pushes layers that it pulled packed with
/// zstd under the media type of gzip. What it comes to is held against the digests, so that nothing rests on the name.
fn is_layer(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.oci.image.layer.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.diff.tar"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd"
    )
}

/// The manifest for `wanted`, preferring the index's order. Entries without a platform count as a last resort.
pub(crate) fn choose<'a>(entries: &'a [IndexEntry], wanted: &Platform) -> Result<&'a IndexEntry> {
    let stated = |e: &&IndexEntry| e.platform.as_ref().is_some_and(|p| wanted.accepts(p));
    entries
        .iter()
        .find(stated)
        .or_else(|| match entries {
            [only] if only.platform.is_none() => Some(only),
            _ => None,
        })
        .ok_or_else(|| {
            Error::not_found(format!("no matching manifest for {wanted} in the manifest list entries"))
        })
}

/// The config of an image, read and checked.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) id: ImageId,
    pub(crate) parsed: ImageConfiguration,
    pub(crate) raw: Value,
    pub(crate) diff_ids: Vec<Digest>,
}

impl Config {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let refused = |why: &dyn std::fmt::Display| Error::invalid(format!("invalid image config: {why}"));
        if bytes.len() as u64 > CONFIG_MAX {
            return Err(refused(&format!("{} bytes, {CONFIG_MAX} at most", bytes.len())));
        }
        let raw: Value = serde_json::from_slice(bytes).map_err(|e| refused(&e).because(e))?;
        let mut plain = raw.clone();
        drop_nulls(&mut plain);
        let object = plain.as_object_mut().ok_or_else(|| refused(&"not an object"))?;
        // Images of before these fields were required.
        object.entry("architecture").or_insert_with(|| Platform::host().architecture.into());
        object.entry("os").or_insert_with(|| "linux".into());
        let parsed: ImageConfiguration = serde_json::from_value(plain).map_err(|e| refused(&e).because(e))?;
        if parsed.rootfs().typ() != "layers" {
            return Err(refused(&"rootfs.type must be layers"));
        }
        if parsed.os().to_string() != "linux" {
            return Err(Error::invalid(format!(
                "image operating system {:?} cannot be used on this platform",
                parsed.os().to_string()
            )));
        }
        let diff_ids =
            parsed.rootfs().diff_ids().iter().map(|d| d.parse()).collect::<Result<Vec<Digest>>>()?;
        if diff_ids.len() > LAYERS_MAX {
            return Err(refused(&format!("{} layers, {LAYERS_MAX} at most", diff_ids.len())));
        }
        Ok(Self { id: sha256(bytes), parsed, raw, diff_ids })
    }

    pub(crate) fn platform(&self) -> Platform {
        Platform {
            os: self.parsed.os().to_string(),
            architecture: self.parsed.architecture().to_string(),
            variant: self.parsed.variant().clone().unwrap_or_default(),
        }
    }
}

/// Go writes nil maps and slices as null.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// The manifest made for an image that has none: loaded from an old archive, imported or committed.
pub(crate) fn made_manifest(config: &[u8], layers: &[Descriptor]) -> Result<Vec<u8>> {
    let layers: Vec<_> = layers
        .iter()
        .map(
            |d| serde_json::json!({ "mediaType": d.media_type, "digest": d.digest.as_str(), "size": d.size }),
        )
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": sha256(config).as_str(),
            "size": config.len(),
        },
        "layers": layers,
    });
    serde_json::to_vec(&manifest).map_err(|e| Error::internal("writing a manifest").because(e))
}

/// The digest of bytes at hand.
pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}

/// The digest of a finished sum.
pub(crate) fn finished(sum: Sha256) -> Digest {
    Digest::from_sha256(sum.finalize().into())
}

/// Chain ids, bottom first (image spec, config.md): what stands for a layer with all below it.
pub(crate) fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(below) => sha256(format!("{below} {diff_id}").as_bytes()),
        };
        chain.push(next);
    }
    chain
}

#[cfg(test)]
mod tests;
