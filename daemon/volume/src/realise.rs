// SPDX-License-Identifier: Apache-2.0
//! From a plan to volumes that exist, are held and are filled; from mount points to the mounts of a start.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::PoisonError;

use berth_domain::{ContainerId, Error, Meaning, Result};
use berth_sys::in_root::{self, InRoot};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::copy_up;
use crate::disk;
use crate::mounts::{MountPlan, MountPoint, MountType};
use crate::store::Volumes;

impl Volumes {
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
        let mut points = Vec::with_capacity(plan.len());
        for plan in plan {
            let made = match plan.point.r#type {
                MountType::Volume => self.realise_volume(plan, container, image_root),
                MountType::Bind | MountType::Tmpfs | MountType::Image => Ok(plan.point),
            };
            match made {
                Ok(point) => points.push(point),
                Err(error) => {
                    if let Err(also) = self.release_all(&points, container, true) {
                        tracing::warn!(container = container.short(), error = also.chain(), "undoing mounts");
                    }
                    return Err(error);
                }
            }
        }
        Ok(points)
    }

    fn realise_volume(
        &self,
        plan: MountPlan,
        container: &ContainerId,
        image_root: Option<BorrowedFd<'_>>,
    ) -> Result<MountPoint> {
        let MountPlan { mut point, copy, labels, options, from_image } = plan;
        if let Some(root) = image_root.filter(|_| from_image) {
            refuse_file(root, &point.destination)?;
        }
        let name = (!point.name.is_empty()).then_some(point.name.as_str());
        let created = self.create_for(Some(container), name, &point.driver, options, labels)?;
        point.name.clone_from(&created.volume.name);
        point.driver.clone_from(&created.volume.driver);
        point.source = created.volume.mountpoint.display().to_string();
        if point.mode.is_empty() && !from_image && point.driver == disk::LOCAL {
            // What the reference shows for volumes that were asked for: shared by containers as far as SELinux goes.
            "z".clone_into(&mut point.mode);
        }
        let filled = match image_root.filter(|_| copy) {
            Some(root) => self.copy_up(&point.name, root, Path::new(&point.destination)).map(drop),
            None => Ok(()),
        };
        if let Err(error) = filled {
            self.release(&point.name, container);
            if created.new && point.anonymous {
                self.remove(&point.name, true)?;
            }
            return Err(error);
        }
        Ok(point)
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
        let mut first = Ok(());
        self.unmount_all(points, container);
        for point in points.iter().filter(|p| p.r#type == MountType::Volume) {
            self.release(&point.name, container);
            if !(remove_anonymous && point.anonymous) {
                continue;
            }
            match self.remove(&point.name, true) {
                Ok(()) => {}
                // Another container took it over with --volumes-from.
                Err(e) if e.meaning() == Meaning::Conflict => {}
                Err(e) => first = first.and(Err(e)),
            }
        }
        first
    }

    /// Copies a directory of the image into a volume if that is empty; tells whether it did. Never follows a link out of the image.
    ///
    /// A volume that nobody else uses is filled beside its place and appears whole. One that another container has mounted is
    /// filled in place, or that container would keep the empty one.
    ///
    /// # Errors
    ///
    /// The copy failed; the volume is empty again.
    pub fn copy_up(&self, name: &str, image_root: BorrowedFd<'_>, path: &Path) -> Result<bool> {
        let image = InRoot::from_fd(
            image_root
                .try_clone_to_owned()
                .map_err(|e| Error::internal("copying a descriptor").because(e))?,
        );
        let source = match image.open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
            Ok(source) => source,
            Err(e) if is(&e, &[Errno::NOENT, Errno::NOTDIR]) => return Ok(false),
            Err(e) => return Err(Error::io("opening in the image", path, e)),
        };
        let filling = self.filling(name)?;
        let _one_at_a_time = filling.lock().unwrap_or_else(PoisonError::into_inner);
        let held = self.hold(name)?;
        let content = held.path().to_owned();
        let volume = self.known(name)?;
        let plain = volume.is_plain()?;
        let open = |path: &Path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty()).map_err(|e| Error::io("opening", path, e))
        };
        let target = open(&content)?;
        if !in_root::is_empty(target.as_fd()).map_err(|e| Error::io("reading", &content, e))? {
            return Ok(false);
        }
        let failed = |e: std::io::Error| {
            Error::io("copying the image's content to volume", name, e).context("failed to populate volume")
        };
        // What is mounted cannot be replaced by a rename.
        let in_place = !plain || self.users(name).len() > 1;
        let nothing =
            in_root::is_empty(source.as_fd()).map_err(|e| Error::io("reading in the image", path, e))?;
        if in_place || nothing {
            return match copy_up::copy(source.as_fd(), target.as_fd()) {
                Ok(()) => Ok(true),
                Err(error) => {
                    in_root::remove_contents(target.as_fd())
                        .map_err(|e| Error::io("emptying", &content, e))?;
                    Err(failed(error))
                }
            };
        }
        let directory = content.parent().unwrap_or(&content);
        let place = disk::open_filling(directory, volume.project)?;
        let filled = open(&place)?;
        copy_up::copy(source.as_fd(), filled.as_fd()).map_err(failed)?;
        disk::finish_filling(directory, filled.as_fd())?;
        Ok(true)
    }
}

fn is(error: &std::io::Error, kinds: &[Errno]) -> bool {
    kinds.iter().any(|kind| error.raw_os_error() == Some(kind.raw_os_error()))
}

/// A `VOLUME` needs a directory.
fn refuse_file(image_root: BorrowedFd<'_>, destination: &str) -> Result<()> {
    let failed = |e| Error::io("looking in the image for", destination, e);
    let image = InRoot::from_fd(image_root.try_clone_to_owned().map_err(failed)?);
    let found = match image.resolve(Path::new(destination)) {
        Ok(found) => found,
        Err(e) if is(&e, &[Errno::NOENT]) => return Ok(()),
        Err(e) => return Err(failed(e)),
    };
    let stat = rustix::fs::fstat(&found).map_err(|e| failed(e.into()))?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Ok(());
    }
    Err(Error::invalid(format!("cannot mount volume over existing file, file exists {destination}")))
}

#[cfg(test)]
mod tests;
