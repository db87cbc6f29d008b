// SPDX-License-Identifier: Apache-2.0
//! From what was asked to a list of mounts.

use berth_api::types::container_create::HostConfig;
use berth_domain::{Error, Result};
use serde::{Deserialize, Serialize};

/// What is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountType {
    /// A path of the host.
    Bind,
    /// A volume.
    Volume,
    /// A new tmpfs.
    Tmpfs,
}

/// One mount of a container, as `inspect` shows it and as the container's record keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MountPoint {
    /// What is mounted.
    pub r#type: MountType,
    /// The volume's name; empty for others.
    #[serde(default)]
    pub name: String,
    /// Path on the host; empty for a tmpfs.
    #[serde(default)]
    pub source: String,
    /// Path in the container.
    pub destination: String,
    /// The volume's driver; empty for others.
    #[serde(default)]
    pub driver: String,
    /// Options as given (`z`, `ro,rslave`).
    #[serde(default)]
    pub mode: String,
    /// Whether the container may write.
    pub rw: bool,
    /// Propagation (`rprivate`, ...).
    #[serde(default)]
    pub propagation: String,
}

/// One mount as asked: checked, nothing made yet.
#[derive(Debug, Clone, PartialEq)]
pub struct MountPlan {
    /// The mount; a volume without a name will get one.
    pub point: MountPoint,
}

/// What decides a container's mounts.
#[derive(Debug, Clone, Copy)]
pub struct PlanInput<'a> {
    /// Binds, Mounts, Tmpfs and VolumeDriver.
    pub host: &'a HostConfig,
    /// Destinations of the image's `VOLUME`s and of `Config.Volumes`.
    pub volumes: &'a [String],
    /// Mounts of the containers of `VolumesFrom`, in order, each with its mode (`rw`, `ro`).
    pub volumes_from: &'a [(Vec<MountPoint>, String)],
}

/// Checks and merges all sources of mounts; the result is ordered by depth of path.
///
/// # Errors
///
/// Invalid input, in Docker's words.
pub fn plan(input: &PlanInput<'_>) -> Result<Vec<MountPlan>> {
    let _unused = input;
    Err(Error::not_implemented("mounts"))
}
