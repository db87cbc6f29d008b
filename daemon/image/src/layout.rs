// SPDX-License-Identifier: Apache-2.0
//! Where things are on disk, and how they get there durably.
//!
//! ```text
//! <data root>/                0710
//!   blobs/sha256/<hex>        0700 directories; manifests, configs and layers as they were pulled
//!   layers/<hex of diff id>/  0710
//!     fs/                     the unpacked layer, whiteouts as overlayfs has them
//!     meta.json               its size, its implied directories
//!   layers/<image hex>.parents/fs/   directories of an image that no layer shows right (see `parents`)
//!   staging/                  0700; emptied at start, except for resumable downloads
//!     <hex>.partial           a layer's blob, as far as it came
//!     layer-*, load-*, trash-*
//!   images.sled/              the index, rebuilt from the files when lost
//!   index.json                names and images; with blobs/ and oci-layout an OCI image layout for others to read
//!   oci-layout
//! ```
//! The order is always: data, `syncfs`, rename, sync of the directory, record, answer.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use berth_domain::{Digest, Error, Result};
use rustix::fs::{FlockOperation, flock};

/// What makes a directory an OCI image layout (image-spec, image-layout.md).
const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// The paths of one data root.
#[derive(Debug)]
pub(crate) struct Layout {
    root: PathBuf,
    serial: AtomicU64,
}

impl Layout {
    /// Makes what is missing.
    pub(crate) fn prepare(root: &Path) -> Result<Self> {
        let layout = Self { root: root.to_owned(), serial: AtomicU64::new(0) };
        make_dir(root, 0o710)?;
        make_dir(&root.join("blobs"), 0o700)?;
        make_dir(&layout.blobs(), 0o700)?;
        make_dir(&layout.layers(), 0o710)?;
        make_dir(&layout.staging(), 0o700)?;
        let marker = root.join("oci-layout");
        if fs::read(&marker).ok().as_deref() != Some(OCI_LAYOUT) {
            write_atomically(&marker, OCI_LAYOUT)?;
        }
        sync_dir(root)?;
        Ok(layout)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.root.join("index.json")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.root.join("images.sled")
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    pub(crate) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(crate) fn layer(&self, diff_id: &Digest) -> PathBuf {
        self.layers().join(diff_id.hex())
    }

    pub(crate) fn layer_fs(&self, diff_id: &Digest) -> PathBuf {
        self.layer(diff_id).join("fs")
    }

    pub(crate) fn parents(&self, image: &Digest) -> PathBuf {
        self.layers().join(format!("{}.parents", image.hex()))
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    pub(crate) fn partial(&self, blob: &Digest) -> PathBuf {
        self.staging().join(format!("{}.partial", blob.hex()))
    }

    /// A name in staging that nobody has.
    pub(crate) fn fresh(&self, kind: &str) -> PathBuf {
        let n = self.serial.fetch_add(1, Ordering::Relaxed);
        self.staging().join(format!("{kind}-{}-{n}", std::process::id()))
    }

    /// Makes all file data of the data root durable. One call a pull: fsync of each file costs twenty times as much.
    pub(crate) fn sync_all(&self) -> Result<()> {
        let dir = File::open(&self.root).map_err(|e| Error::io("opening", &self.root, e))?;
        rustix::fs::syncfs(&dir).map_err(|e| io_error("syncing", &self.root, e.into()))
    }

    /// Removes interrupted downloads that nobody is at, when the disk is needed for something else.
    pub(crate) fn drop_partials(&self) -> Result<()> {
        let staging = self.staging();
        for entry in fs::read_dir(&staging).map_err(|e| Error::io("listing", &staging, e))? {
            let path = entry.map_err(|e| Error::io("listing", &staging, e))?.path();
            if path.extension().is_none_or(|ext| ext != "partial") {
                continue;
            }
            let Ok(file) = File::open(&path) else { continue };
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                fs::remove_file(&path).map_err(|e| Error::io("removing", &path, e))?;
            }
        }
        Ok(())
    }

    /// Removes a tree that may be in use by nobody: moved to staging first, so that a crash leaves no half of it.
    pub(crate) fn discard(&self, path: &Path) -> Result<()> {
        let trash = self.fresh("trash");
        match fs::rename(path, &trash) {
            Ok(()) => remove_dir(&trash),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(Error::io("removing", path, e)),
        }
    }
}

/// An error with path and operation, a full disk in the words that everyone greps for.
pub(crate) fn io_error(doing: &str, path: impl AsRef<Path>, error: io::Error) -> Error {
    match no_room(&error) {
        Some(words) => Error::internal(format!("{doing} {}: {words}", path.as_ref().display())),
        None => Error::io(doing, path, error),
    }
}

/// What to call it when the disk is what is missing.
pub(crate) fn no_room(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        io::ErrorKind::StorageFull => Some("no space left on device"),
        io::ErrorKind::QuotaExceeded => Some("disk quota exceeded"),
        _ => None,
    }
}

fn make_dir(path: &Path, mode: u32) -> Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(io_error("making", path, e)),
    }
    // An existing directory may be wider open than ours may be.
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|e| Error::io("restricting", path, e))
}

pub(crate) fn make_new_dir(path: &Path, mode: u32) -> Result<()> {
    DirBuilder::new().mode(mode).create(path).map_err(|e| io_error("making", path, e))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|e| Error::io("restricting", path, e))
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(|e| io_error("syncing", path, e))
}

/// Removes a directory with all in it, if it is there.
pub(crate) fn remove_dir(path: &Path) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::internal(format!("removing {}: it has no parent", path.display())));
    };
    let parent = File::open(parent).map_err(|e| Error::io("opening", parent, e))?;
    match crate::unpack::remove_tree(&parent, name.as_encoded_bytes()) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("removing", path, e)),
        _ => Ok(()),
    }
}

/// Replaces the file at `path` so that a crash leaves the old or the new one; durable on return.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().ok_or_else(|| Error::internal(format!("{} has no directory", path.display())))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = dir.join(name);
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    if let Err(e) = write() {
        if let Err(left) = fs::remove_file(&new) {
            tracing::debug!(path = %new.display(), error = %left, "left behind");
        }
        return Err(io_error("writing", path, e));
    }
    sync_dir(dir)
}
