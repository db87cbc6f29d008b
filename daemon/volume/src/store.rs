// SPDX-License-Identifier: Apache-2.0
//! The volumes of the `local` driver.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use berth_domain::{ContainerId, Error, Result};
use oci_spec::runtime::Mount;

use crate::mounts::{MountPlan, MountPoint};

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// `local`.
    pub driver: String,
    /// Its content on the host.
    pub mountpoint: PathBuf,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// Labels; `None` where the client sent none.
    pub labels: Option<BTreeMap<String, String>>,
    /// Driver options, likewise.
    pub options: Option<BTreeMap<String, String>>,
}

/// What a prune removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Names.
    pub removed: Vec<String>,
    /// Bytes.
    pub reclaimed: u64,
}

/// All volumes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Volumes {}

impl Volumes {
    /// Opens `root` (`<data-root>/volumes`), making it if needed, and reads what is there.
    ///
    /// # Errors
    ///
    /// The directory cannot be made or read. A single damaged volume is logged and left alone.
    pub fn open(root: &Path) -> Result<Self> {
        let _unused = root;
        Err(Error::not_implemented("volumes"))
    }

    /// Makes a volume, or answers the one of that name. Durable when it returns. `None` or an empty name makes an anonymous one.
    ///
    /// # Errors
    ///
    /// A name or option that cannot be; a driver that does not exist.
    pub fn create(
        &self,
        name: Option<&str>,
        driver: &str,
        options: Option<BTreeMap<String, String>>,
        labels: Option<BTreeMap<String, String>>,
    ) -> Result<Volume> {
        let _unused = (name, driver, options, labels);
        Err(Error::not_implemented("volumes"))
    }

    /// All volumes by name.
    #[must_use]
    pub fn list(&self) -> Vec<Volume> {
        Vec::new()
    }

    /// One volume.
    ///
    /// # Errors
    ///
    /// `get NAME: no such volume`.
    pub fn inspect(&self, name: &str) -> Result<Volume> {
        Err(Error::not_found(format!("get {name}: no such volume")))
    }

    /// Removes a volume; `force` makes a missing one no error.
    ///
    /// # Errors
    ///
    /// Conflict while in use; not found.
    pub fn remove(&self, name: &str, force: bool) -> Result<()> {
        let _unused = (name, force);
        Err(Error::not_implemented("volumes"))
    }

    /// Removes unused volumes that `select` chooses: only anonymous ones unless `all`.
    ///
    /// # Errors
    ///
    /// The first failure; what was removed stays removed.
    pub fn prune(&self, all: bool, select: impl Fn(&Volume) -> bool) -> Result<Pruned> {
        let _unused = (all, select(&self.inspect("")?));
        Err(Error::not_implemented("volumes"))
    }

    /// Marks a volume as used by a container. Idempotent; kept in memory: the engine repeats it at start from its records.
    ///
    /// # Errors
    ///
    /// No such volume.
    pub fn acquire(&self, name: &str, container: &ContainerId) -> Result<()> {
        let _unused = (name, container);
        Err(Error::not_implemented("volumes"))
    }

    /// Undoes [`Self::acquire`].
    pub fn release(&self, name: &str, container: &ContainerId) {
        let _unused = (name, container);
    }

    /// Containers that use a volume.
    #[must_use]
    pub fn users(&self, name: &str) -> Vec<ContainerId> {
        let _unused = name;
        Vec::new()
    }

    /// Bytes that a volume's content takes on disk.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn size(&self, name: &str) -> Result<u64> {
        let _unused = name;
        Err(Error::not_implemented("volumes"))
    }

    /// Create: makes and acquires the volumes of a plan, and fills empty ones from the image (`image_root`: a descriptor of the image's root
    /// directory). On error everything it acquired is released and anonymous volumes it made are removed.
    ///
    /// # Errors
    ///
    /// As [`Self::create`]; a failed copy.
    pub fn realise(
        &self,
        plan: Vec<MountPlan>,
        container: &ContainerId,
        image_root: Option<BorrowedFd<'_>>,
    ) -> Result<Vec<MountPoint>> {
        let _unused = (plan, container, image_root);
        Err(Error::not_implemented("volumes"))
    }

    /// Start: the OCI mounts of a container, making missing sources of `-v` binds.
    ///
    /// # Errors
    ///
    /// A source of `--mount` that does not exist.
    pub fn oci_mounts(&self, points: &[MountPoint]) -> Result<Vec<Mount>> {
        let _unused = points;
        Err(Error::not_implemented("volumes"))
    }

    /// Removal of a container: releases its volumes and, if `remove_anonymous`, removes those without a name of their own
    /// that nobody else uses.
    ///
    /// # Errors
    ///
    /// The first failure; the rest is done all the same.
    pub fn release_all(
        &self,
        points: &[MountPoint],
        container: &ContainerId,
        remove_anonymous: bool,
    ) -> Result<()> {
        let _unused = (points, container, remove_anonymous);
        Err(Error::not_implemented("volumes"))
    }

    /// Copies a directory of the image into a volume if that is empty; tells whether it did. Never follows a link out of the image.
    ///
    /// # Errors
    ///
    /// The copy failed; the volume is empty again.
    pub fn copy_up(&self, name: &str, image_root: BorrowedFd<'_>, path: &Path) -> Result<bool> {
        let _unused = (name, image_root, path);
        Err(Error::not_implemented("volumes"))
    }
}
