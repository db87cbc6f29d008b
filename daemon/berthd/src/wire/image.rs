// SPDX-License-Identifier: Apache-2.0
//! Images.

use std::collections::BTreeMap;
use std::path::PathBuf;

use berth_api::types::container::DriverData;
use berth_api::types::image::{
    AttestationData, HistoryItem, ImageInspect, ImageMetadata, ImageSummary, ManifestImageData, ManifestSize,
    ManifestSummary, RootFs, UnpackedSize,
};
use berth_api::types::{Descriptor, PlatformSpec};
use berth_domain::Platform;
use berth_image::{HistoryEntry, Image, Listed, ListedKind};
use serde_json::Value;

use super::container::STORAGE_DRIVER;
use super::signed;

/// Unix seconds of an RFC 3339 text; 0 where there is none.
fn unix(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().map_or(0, |t| t.as_second())
}

fn platform(image: &Image) -> PlatformSpec {
    PlatformSpec {
        architecture: image.platform.architecture.clone(),
        os: image.platform.os.clone(),
        os_version: String::new(),
        variant: image.platform.variant.clone(),
    }
}

fn descriptor(image: &Image) -> Descriptor {
    Descriptor {
        media_type: image.manifest.media_type.clone(),
        digest: image.manifest.digest.to_string(),
        size: signed(image.manifest.size),
        ..Descriptor::default()
    }
}

/// One of the manifests of an image; `containers` are those of the image that it is.
pub(crate) fn manifest(listed: Listed, containers: impl Fn(&Image) -> Vec<String>) -> ManifestSummary {
    let spec = |p: &Platform| PlatformSpec {
        architecture: p.architecture.clone(),
        os: p.os.clone(),
        os_version: String::new(),
        variant: p.variant.clone(),
    };
    let stated = listed.platform.as_ref().map(spec);
    let (mut unpacked, mut image_data, mut attestation_data) = (0, None, None);
    match &listed.what {
        ListedKind::Image(image) => {
            unpacked = image.size;
            image_data = Some(ManifestImageData {
                platform: platform(image),
                size: UnpackedSize { unpacked: signed(unpacked) },
                containers: Some(containers(image)),
            });
        }
        ListedKind::Absent => {
            let platform = stated.clone().unwrap_or_default();
            image_data = Some(ManifestImageData { platform, ..ManifestImageData::default() });
        }
        ListedKind::Attestation(about) => attestation_data = Some(AttestationData { r#for: about.clone() }),
    }
    let annotations: BTreeMap<String, String> = listed.annotations.into_iter().collect();
    ManifestSummary {
        id: listed.descriptor.digest.to_string(),
        available: matches!(listed.what, ListedKind::Image(_)),
        kind: if attestation_data.is_some() { "attestation" } else { "image" }.to_owned(),
        size: ManifestSize {
            content: signed(listed.content),
            total: signed(listed.content.saturating_add(unpacked)),
        },
        descriptor: Descriptor {
            media_type: listed.descriptor.media_type,
            digest: listed.descriptor.digest.to_string(),
            size: signed(listed.descriptor.size),
            annotations: (!annotations.is_empty()).then_some(annotations),
            platform: stated,
            urls: None,
        },
        image_data,
        attestation_data,
    }
}

/// `GET /images/{name}/json`; `layers` are directories, topmost first.
pub(crate) fn inspect(image: &Image, layers: &[PathBuf]) -> ImageInspect {
    let paths: Vec<String> = layers.iter().map(|p| p.display().to_string()).collect();
    let mut data = BTreeMap::new();
    if let Some((top, below)) = paths.split_first() {
        data.insert("UpperDir".to_owned(), top.clone());
        if !below.is_empty() {
            data.insert("LowerDir".to_owned(), below.join(":"));
        }
    }
    let raw = |key: &str| image.raw_config.get(key).cloned();
    ImageInspect {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        parent: image.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
        comment: image.comment.clone(),
        created: Some(image.created.clone()).filter(|c| !c.is_empty()),
        docker_version: image.docker_version.clone(),
        author: image.author.clone(),
        architecture: image.platform.architecture.clone(),
        variant: image.platform.variant.clone(),
        os: image.platform.os.clone(),
        os_version: raw("os.version").and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default(),
        size: signed(image.size),
        graph_driver: Some(DriverData { data: Some(data), name: STORAGE_DRIVER.to_owned() }),
        root_fs: RootFs {
            r#type: "layers".to_owned(),
            layers: image.layers.iter().map(ToString::to_string).collect(),
        },
        metadata: ImageMetadata {
            last_tag_time: Some(match image.last_tagged_at.as_str() {
                "" => berth_api::types::ZERO_TIME.to_owned(),
                at => at.to_owned(),
            }),
        },
        descriptor: Some(descriptor(image)),
        manifests: None,
        config: raw("config")
            .filter(Value::is_object)
            .unwrap_or_else(|| Value::Object(serde_json::Map::new())),
    }
}

/// A line of `GET /images/json`.
pub(crate) fn summary(image: &Image, containers: usize) -> ImageSummary {
    let labels: BTreeMap<String, String> = image.labels().into_iter().collect();
    ImageSummary {
        containers: i64::try_from(containers).unwrap_or(i64::MAX),
        created: unix(&image.created),
        id: image.id.to_string(),
        labels: (!labels.is_empty()).then_some(labels),
        parent_id: image.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
        descriptor: Some(descriptor(image)),
        manifests: None,
        repo_digests: image.repo_digests.clone(),
        repo_tags: image.repo_tags.clone(),
        shared_size: -1,
        size: signed(image.size),
    }
}

/// A line of `GET /images/{name}/history`.
pub(crate) fn history(entry: &HistoryEntry) -> HistoryItem {
    HistoryItem {
        comment: entry.comment.clone(),
        created: unix(&entry.created),
        created_by: entry.created_by.clone(),
        id: entry.id.as_ref().map_or_else(|| "<missing>".to_owned(), ToString::to_string),
        size: signed(entry.size),
        tags: (!entry.tags.is_empty()).then(|| entry.tags.clone()),
    }
}
