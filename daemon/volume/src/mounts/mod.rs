// SPDX-License-Identifier: Apache-2.0
//! From what was asked to a list of mounts. Texts of errors are the reference's: its users and tests know them.

mod oci;
mod parse;
mod tmpfs;

use std::collections::{BTreeMap, BTreeSet};

use berth_api::types::container_create::{HostConfig, Mount as MountRequest};
use berth_domain::{Error, Result};
use serde::{Deserialize, Serialize};

pub(crate) use oci::oci_mount;
pub use parse::parse_volumes_from;

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
    /// An image's files, read-only.
    Image,
}

/// How far a read-only mount reaches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadOnly {
    /// Mounts beneath it too, where the kernel can (5.12).
    #[default]
    IfPossible,
    /// The mount alone.
    NonRecursive,
    /// Mounts beneath it too, or none at all.
    Recursive,
}

/// One mount of a container, as `inspect` shows it and as the container's record keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    /// What is mounted.
    pub r#type: MountType,
    /// The volume's name, or the image's as asked; empty for others.
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
    /// Propagation (`rprivate`, ...); empty for volumes.
    #[serde(default)]
    pub propagation: String,
    /// Not shown by `inspect`: it came from `HostConfig.Tmpfs`, which is shown itself.
    #[serde(default)]
    pub hidden: bool,
    /// The volume was made for this container without a name of its own, and may go with it.
    #[serde(default)]
    pub anonymous: bool,
    /// A missing source is made as a directory at start.
    #[serde(default)]
    pub create_source: bool,
    /// Mounts beneath the source are left out.
    #[serde(default)]
    pub non_recursive: bool,
    /// How far read-only reaches, if not `rw`.
    #[serde(default)]
    pub read_only: ReadOnly,
    /// Options of a tmpfs.
    #[serde(default)]
    pub tmpfs: Vec<String>,
    /// The directory or file of the volume or image that is mounted; empty for all of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subpath: String,
    /// The word that asks for owners to be mapped (`idmap=uids=...;gids=...`); empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub idmap: String,
    /// The image's id; empty for others.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image: String,
}

impl MountPoint {
    pub(crate) fn new(kind: MountType, destination: String) -> Self {
        Self {
            r#type: kind,
            name: String::new(),
            source: String::new(),
            destination,
            driver: String::new(),
            mode: String::new(),
            rw: true,
            propagation: String::new(),
            hidden: false,
            anonymous: false,
            create_source: false,
            non_recursive: false,
            read_only: ReadOnly::default(),
            tmpfs: Vec::new(),
            subpath: String::new(),
            idmap: String::new(),
            image: String::new(),
        }
    }

    /// How its owners are mapped, if they are.
    ///
    /// # Errors
    ///
    /// A record that was not written here.
    pub fn id_mapped(&self) -> Result<Option<crate::IdMapped>> {
        if self.idmap.is_empty() { Ok(None) } else { crate::idmap::word(&self.idmap).map(Some) }
    }
}

/// One mount as asked: checked, nothing made yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPlan {
    /// The mount; a volume without a name will get one.
    pub point: MountPoint,
    /// Fill the volume from the image if it is empty.
    pub copy: bool,
    /// Labels of a volume that has to be made.
    pub labels: Option<BTreeMap<String, String>>,
    /// Driver options of a volume that has to be made.
    pub options: Option<BTreeMap<String, String>>,
    /// It stands for an image's `VOLUME`: a file of the image at its destination is an error.
    pub from_image: bool,
}

impl MountPlan {
    pub(crate) fn new(point: MountPoint) -> Self {
        let copy = point.r#type == MountType::Volume;
        Self { point, copy, labels: None, options: None, from_image: false }
    }
}

/// What decides a container's mounts.
#[derive(Debug, Clone, Copy)]
pub struct PlanInput<'a> {
    /// Binds, Mounts, Tmpfs and VolumeDriver.
    pub host: &'a HostConfig,
    /// Destinations of the image's `VOLUME`s and of `Config.Volumes`.
    pub volumes: &'a [String],
    /// Mounts of the containers of `VolumesFrom`, in order, each with its mode (see [`parse_volumes_from`]).
    pub volumes_from: &'a [(Vec<MountPoint>, String)],
}

/// Checks and merges all sources of mounts; the result is ordered by depth of path.
///
/// What is asked for by hand (`Binds`, `Mounts`, `Tmpfs`) must not name a destination twice; it replaces what
/// `VolumesFrom` brings, and both stand in for an image's `VOLUME`.
///
/// # Errors
///
/// Invalid input, in Docker's words.
pub fn plan(input: &PlanInput<'_>) -> Result<Vec<MountPlan>> {
    let mut all: BTreeMap<String, MountPlan> = BTreeMap::new();
    for (points, mode) in input.volumes_from {
        let mode = parse::check_volumes_from_mode(mode)?;
        for point in points.iter().filter(|p| p.r#type != MountType::Tmpfs) {
            let mut plan = MountPlan::new(MountPoint { rw: point.rw && mode, ..point.clone() });
            plan.copy = false;
            all.insert(point.destination.clone(), plan);
        }
    }
    let mut by_hand = BTreeSet::new();
    let mut add = |plan: MountPlan| {
        let destination = plan.point.destination.clone();
        if !by_hand.insert(destination.clone()) {
            return Err(Error::invalid(format!("Duplicate mount point: {destination}")));
        }
        all.insert(destination, plan);
        Ok(())
    };
    for (destination, options) in input.host.tmpfs.iter().flatten() {
        add(tmpfs_plan(destination, options)?)?;
    }
    for raw in input.host.binds.iter().flatten() {
        add(parse::parse_bind(raw, &input.host.volume_driver)?)?;
    }
    for request in input.host.mounts.iter().flatten() {
        add(parse::parse_mount(request)?)?;
    }
    for destination in input.volumes {
        let destination = parse::destination(destination)?;
        all.entry(destination.clone()).or_insert_with(|| {
            let mut point = MountPoint::new(MountType::Volume, destination);
            point.driver.clone_from(&input.host.volume_driver);
            point.anonymous = true;
            MountPlan { from_image: true, ..MountPlan::new(point) }
        });
    }
    let mut plans: Vec<MountPlan> = all.into_values().collect();
    // A mount beneath another comes after it; among equals the order by name is kept.
    plans.sort_by_key(|plan| plan.point.destination.split('/').count());
    Ok(plans)
}

fn tmpfs_plan(destination: &str, options: &str) -> Result<MountPlan> {
    let mut point = MountPoint::new(MountType::Tmpfs, parse::destination(destination)?);
    let given: Vec<&str> = options.split(',').filter(|o| !o.is_empty()).collect();
    point.tmpfs = tmpfs::merge(&given)?;
    point.rw = !point.tmpfs.iter().any(|o| o == "ro");
    point.hidden = true;
    Ok(MountPlan::new(point))
}

/// For `POST /containers/create`: refuses a `--mount` whose bind source does not exist. The source of `-v` is made at start.
pub(crate) fn check_source(request: &MountRequest) -> Result<()> {
    let creates = request.bind_options.as_ref().is_some_and(|o| o.create_mountpoint);
    match std::fs::metadata(&request.source) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            if creates {
                return Ok(());
            }
            let what = format!("bind source path does not exist: {}", request.source);
            Err(parse::bad_config(request, &what))
        }
        Err(e) => Err(parse::bad_config(request, &format!("{}: {e}", request.source))),
    }
}

#[cfg(test)]
mod tests;
