// SPDX-License-Identifier: Apache-2.0
//! Start: where the mounts of a container come from, made ready for whoever launches it.
//!
//! A part of a volume is looked up once, beneath the volume, to a descriptor: another container may have the volume and
//! exchange directories for links meanwhile. The launcher, which is another process, gets the name that the descriptor has in
//! /proc. An image's layers are put together at a place in the run directory. Both are needed only until the launcher has
//! cloned them, which is before it answers.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use berth_domain::{ContainerId, Error, Result};
use berth_sys::{filesystem, in_root};
use oci_spec::runtime::Mount;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::mounts::{MountPoint, MountType, oci_mount};
use crate::store::Volumes;

/// What a start brings along.
pub struct Start<'a> {
    /// Of which container.
    pub container: &'a ContainerId,
    /// Its run directory.
    pub run_dir: &'a Path,
    /// The directories of an image's layers, topmost first, by its id.
    pub layers: &'a dyn Fn(&str) -> Result<Vec<PathBuf>>,
    /// Maps the ids of a container that has its own: it sees its volumes and images with the ids that are stored.
    pub userns: Option<&'a OwnedFd>,
}

impl std::fmt::Debug for Start<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Start").field("container", &self.container).finish_non_exhaustive()
    }
}

/// The OCI mounts of a container, and what keeps their sources there. To be kept until the container was launched.
#[derive(Debug, Default)]
pub struct Sources {
    /// In the order of the mount points.
    pub mounts: Vec<Mount>,
    files: Vec<OwnedFd>,
    places: Vec<PathBuf>,
}

impl Sources {
    /// Whether there is something to unmount in the end, which takes a while.
    #[must_use]
    pub fn has_mounts(&self) -> bool {
        !self.places.is_empty()
    }
}

impl Drop for Sources {
    fn drop(&mut self) {
        for place in &self.places {
            if let Err(error) = berth_sys::mount::detach(place) {
                tracing::warn!(path = %place.display(), %error, "unmounting an image");
            }
        }
    }
}

/// The folder of the run directory in which images are put together.
const PLACES: &str = "images";

/// Unmounts what a daemon that was killed in the middle of a start left in a run directory.
pub fn clear_places(run_dir: &Path) {
    let Ok(entries) = std::fs::read_dir(run_dir.join(PLACES)) else { return };
    for entry in entries.flatten() {
        if let Err(error) = berth_sys::mount::detach(&entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "unmounting an image");
        }
    }
}

impl Volumes {
    /// Start: the OCI mounts of a container. Mounts volumes that need it, for the container ([`Self::unmount_all`] when its
    /// run has ended); after an error nothing is mounted. Sources of binds are not touched: one on a file system that does
    /// not answer would hold the caller for ever, and past its own death. They are for the container's shim to look at,
    /// see [`Volumes::bind_sources`].
    ///
    /// # Errors
    ///
    /// A volume that cannot be mounted.
    pub fn oci_mounts(&self, points: &[MountPoint], start: &Start<'_>) -> Result<Sources> {
        let made = self.sources(points, start);
        if made.is_err() {
            self.unmount_all(points, start.container);
        }
        made
    }

    /// Start: the sources of a container's binds, and whether a missing one is to be made.
    #[must_use]
    pub fn bind_sources(points: &[MountPoint]) -> Vec<(String, bool)> {
        let binds = points.iter().filter(|point| point.r#type == MountType::Bind);
        binds.map(|point| (point.source.clone(), point.create_source)).collect()
    }

    /// Whether a volume is a directory of this store's, and not something mounted whose ids are others' to say.
    ///
    /// # Errors
    ///
    /// No such volume.
    pub fn is_own_directory(&self, name: &str) -> Result<bool> {
        self.known(name)?.is_plain()
    }

    fn sources(&self, points: &[MountPoint], start: &Start<'_>) -> Result<Sources> {
        let mut sources = Sources::default();
        for point in points {
            let mut mapped = false;
            let source = match point.r#type {
                MountType::Tmpfs => PathBuf::new(),
                MountType::Volume => {
                    let path = self.mount(&point.name, start.container.as_str())?;
                    check_exists(&path).map_err(|e| e.context("failed to mount local volume"))?;
                    mapped = start.userns.is_some()
                        && point.idmap.is_empty()
                        && self.is_own_directory(&point.name)?;
                    sources.beneath(path, &point.subpath)?
                }
                MountType::Bind => PathBuf::from(&point.source),
                MountType::Image => {
                    let layers = (start.layers)(&point.image)?;
                    let path = sources.image(&layers, start.run_dir, start.userns)?;
                    sources.beneath(path, &point.subpath)?
                }
            };
            let mut mount = oci_mount(point, &source, self.recursive_read_only())?;
            if mapped {
                let mut options = mount.options().clone().unwrap_or_default();
                options.push("idmap".to_owned());
                mount.set_options(Some(options));
            }
            sources.mounts.push(mount);
        }
        Ok(sources)
    }
}

impl Sources {
    /// A path beneath a volume's content or an image, as a name that leads nowhere else.
    fn beneath(&mut self, path: PathBuf, subpath: &str) -> Result<PathBuf> {
        if subpath.is_empty() {
            return Ok(path);
        }
        let file = open_beneath(&path, subpath)?;
        let name = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        self.files.push(file);
        Ok(name.into())
    }

    /// An image's files.
    fn image(&mut self, layers: &[PathBuf], run_dir: &Path, userns: Option<&OwnedFd>) -> Result<PathBuf> {
        let places = run_dir.join(PLACES);
        let place = places.join(self.places.len().to_string());
        std::fs::create_dir_all(&place).map_err(|e| Error::io("making", &place, e))?;
        if !layers.is_empty() {
            let failed = |e| Error::io("mounting an image at", &place, e);
            // Never the layer's own directory, which other containers have, too: who may remount could write to it.
            let mut layers = layers.to_vec();
            if layers.len() == 1 {
                let empty = run_dir.join("empty-layer");
                std::fs::create_dir_all(&empty).map_err(|e| Error::io("making", &empty, e))?;
                layers.push(empty);
            }
            let mount = match userns {
                None => berth_sys::mount::overlay_read_only(&layers),
                Some(userns) => berth_sys::mapped::overlay_read_only(&layers, userns),
            };
            let mount = mount.map_err(failed)?;
            filesystem::attach(&mount, &place).map_err(failed)?;
        }
        self.places.push(place.clone());
        Ok(place)
    }
}

/// What is at a path beneath a directory. Links are followed as long as they lead nowhere else.
///
/// # Errors
///
/// Invalid: nothing is there, or the path leads out.
fn open_beneath(directory: &Path, subpath: &str) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root =
        rustix::fs::open(directory, flags, Mode::empty()).map_err(|e| Error::io("opening", directory, e))?;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    in_root::openat2(root.as_fd(), Path::new(subpath), OFlags::PATH, Mode::empty(), how).map_err(|errno| {
        match errno {
            Errno::NOENT | Errno::NOTDIR => Error::invalid(format!(
                "cannot access path {}: no such file or directory",
                directory.join(subpath).display()
            )),
            Errno::XDEV => {
                Error::invalid(format!("the path {subpath:?} escapes from the volume or image that it is of"))
            }
            errno => Error::io("opening", directory.join(subpath), errno),
        }
    })
}

fn check_exists(source: &Path) -> Result<()> {
    match std::fs::metadata(source) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(Error::invalid(format!(
            "invalid mount config for type \"bind\": bind source path does not exist: {}",
            source.display()
        ))),
        Err(e) => Err(Error::io("stat", source, e)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_part_of_a_volume_never_leads_out_of_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("v/a/b")).unwrap();
        std::fs::write(dir.path().join("v/a/b/f"), "x").unwrap();
        symlink("a/b", dir.path().join("v/inside")).unwrap();
        symlink("/etc", dir.path().join("v/absolute")).unwrap();
        symlink("../..", dir.path().join("v/up")).unwrap();
        let open = |path: &str| open_beneath(&dir.path().join("v"), path);
        for good in ["a", "a/b/f", "inside/f", "a/../a/b"] {
            open(good).unwrap();
        }
        assert!(open("nothing").unwrap_err().to_string().starts_with("cannot access path"));
        for bad in ["absolute", "up", "up/v", "absolute/passwd"] {
            assert!(open(bad).unwrap_err().to_string().contains("escapes"), "{bad}");
        }
    }
}
