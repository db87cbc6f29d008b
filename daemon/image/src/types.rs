// SPDX-License-Identifier: Apache-2.0
//! What is asked of this crate and what it answers.

use std::path::PathBuf;

use berth_domain::{Digest, ImageId, Platform, Reference};
use berth_registry::{Auth, Descriptor};
use oci_spec::image::ImageConfiguration;
use serde_json::Value;

use crate::unpack::Limits;

/// How images are kept.
#[derive(Debug, Clone)]
pub struct ImagesConfig {
    /// The data root.
    pub root: PathBuf,
    /// Layers fetched and unpacked at once, over all pulls and loads (`max-concurrent-downloads`).
    pub max_concurrent_downloads: usize,
    /// Layers sent at once, over all pushes (`max-concurrent-uploads`).
    pub max_concurrent_uploads: usize,
    /// What one layer may ask of the disk.
    pub limits: Limits,
}

impl ImagesConfig {
    /// The defaults on this data root.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            max_concurrent_downloads: 3,
            max_concurrent_uploads: 5,
            limits: Limits::default(),
        }
    }
}

/// What to pull.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// The image; `latest` when it has neither tag nor digest. A digest wins over a tag.
    pub reference: Reference,
    /// For this platform; the host's when `None`.
    pub platform: Option<Platform>,
    /// Credentials for the reference's registry.
    pub auth: Auth,
    /// Every tag of the repository; the reference's own tag and digest do not matter then.
    pub all_tags: bool,
}

/// What was pulled (with `all_tags`: last).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullOutcome {
    /// The image.
    pub image: ImageId,
    /// What the reference points at: the digest of the manifest, or of the index that led to it.
    pub digest: Digest,
    /// Whether anything changed here.
    pub newer: bool,
}

/// An image, as it is now.
#[derive(Debug, Clone)]
pub struct Image {
    /// The digest of its config.
    pub id: ImageId,
    /// Its manifest (for an image from an archive without one: the manifest that was made for it).
    pub manifest: Descriptor,
    /// `name:tag` in familiar form, sorted.
    pub repo_tags: Vec<String>,
    /// `name@digest` in familiar form, sorted.
    pub repo_digests: Vec<String>,
    /// The config. Fields that it has no place for are in `raw_config`.
    pub config: ImageConfiguration,
    /// The whole config document, with Docker's own fields (`config.Healthcheck`, `config.OnBuild`, ...).
    pub raw_config: Value,
    /// What it runs on.
    pub platform: Platform,
    /// Sum of its unpacked layers, in bytes.
    pub size: u64,
    /// RFC 3339, as the config has it; empty when it has none.
    pub created: String,
    /// The same in seconds since 1970; 0 when there is none.
    pub created_at: i64,
    /// Diff ids, bottom first.
    pub layers: Vec<Digest>,
    /// Unpacked size of each layer.
    pub layer_sizes: Vec<u64>,
    /// The layers' blobs as the manifest lists them, bottom first.
    pub layer_blobs: Vec<Descriptor>,
    /// The image it was built from here; never set for a pulled one.
    pub parent: Option<ImageId>,
    /// It has a directory of its own on top of its layers, for what no layer shows right.
    pub own_directories: bool,
    /// `comment` of the config's last history entry.
    pub comment: String,
    /// `author` of the config.
    pub author: String,
    /// `docker_version` of the config.
    pub docker_version: String,
    /// When a name was last given to it here (RFC 3339); empty when never.
    pub last_tagged_at: String,
}

impl Image {
    /// Labels, in the config's words.
    #[must_use]
    pub fn labels(&self) -> std::collections::HashMap<String, String> {
        self.config.config().as_ref().and_then(|c| c.labels().clone()).unwrap_or_default()
    }

    /// How it came about, newest first, as `docker history` shows it.
    #[must_use]
    pub fn history(&self) -> Vec<HistoryEntry> {
        let mut sizes = self.layer_sizes.iter();
        let mut entries: Vec<HistoryEntry> = self
            .config
            .history()
            .iter()
            .flatten()
            .map(|step| HistoryEntry {
                id: None,
                created: step.created().clone().unwrap_or_default(),
                created_by: step.created_by().clone().unwrap_or_default(),
                tags: Vec::new(),
                size: match step.empty_layer() {
                    Some(true) => 0,
                    _ => sizes.next().copied().unwrap_or(0),
                },
                comment: step.comment().clone().unwrap_or_default(),
            })
            .collect();
        entries.reverse();
        if let Some(newest) = entries.first_mut() {
            newest.id = Some(self.id.clone());
            newest.tags = self.repo_tags.clone();
        }
        entries
    }
}

/// One step of an image's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The image that the step ended in, where it is known (`<missing>` otherwise).
    pub id: Option<ImageId>,
    /// RFC 3339; empty when not recorded.
    pub created: String,
    /// The command.
    pub created_by: String,
    /// `name:tag` of that image.
    pub tags: Vec<String>,
    /// Bytes that the step added.
    pub size: u64,
    /// Free text.
    pub comment: String,
}

/// How hard to remove.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoveOptions {
    /// Also when stopped containers use it, or other names point at it.
    pub force: bool,
    /// Keep its untagged parents.
    pub noprune: bool,
}

/// A container that uses an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUse {
    /// The container's id; messages show its first 12 digits.
    pub container: String,
    /// Whether it runs.
    pub running: bool,
}

/// What a removal did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name is gone (familiar form).
    Untagged(String),
    /// An image or a layer is gone: the image's id, or the layer's chain id.
    Deleted(String),
}
