// SPDX-License-Identifier: Apache-2.0
//! The image as the container's root: attached, completed and entered.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, open, openat2};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{chdir, fchdir, pivot_root};

use super::cgroupfs::CgroupMount;
use super::fs::{attach, filesystem};
use super::plan::MountPlan;
use super::stage::{Stage, Top, place_mount};
use crate::cgroup::Place;
use crate::error::{Context as _, Error, Result};
use crate::path::ensure_in_root;
use crate::sys::{ATTR_RDONLY, MS_PRIVATE, MountAttr, PROC_SUPER_MAGIC, mount_setattr};

/// The root-to-be.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) mount: OwnedFd,
}

impl Image {
    /// Attaches a detached mount in the stage.
    pub(crate) fn attach(mount: OwnedFd, stage: &Stage) -> Result<Self> {
        attach(&mount, stage.image_place()?).context(|| "attach the container's root")?;
        Ok(Self { mount })
    }

    /// Attaches a detached mount at a directory of the host's, in this mount namespace alone.
    pub(crate) fn attach_at(mount: OwnedFd, path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = open(path, flags, Mode::empty()).context(|| path.display().to_string())?;
        attach(&mount, place).context(|| format!("attach the container's root at {}", path.display()))?;
        Ok(Self { mount })
    }

    /// Moves a top with all that is mounted on it to its place in the image, which must be an ordinary
    /// directory: a link could send /proc, and with it every label and mask, elsewhere.
    pub(crate) fn adopt(&self, top: &Top) -> Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let open = || openat2(&self.mount, top.name, flags, Mode::empty(), resolve);
        let place = match open() {
            Err(Errno::NOENT) => {
                mkdirat(&self.mount, top.name, Mode::from_raw_mode(0o755))
                    .context(|| format!("make /{} in the container's root", top.name))?;
                open()
            }
            other => other,
        };
        let place = place.map_err(|errno| match errno {
            Errno::LOOP | Errno::NOTDIR => Error::invalid(format!(
                "/{0} of the image is not an ordinary directory: the {0} file system cannot be mounted there",
                top.name
            )),
            errno => Error::internal(format!("/{}: {errno}", top.name)),
        })?;
        attach(&top.mount, place).context(|| format!("move /{} into the container's root", top.name))
    }

    /// Makes one of the mounts outside /proc, /sys and /dev.
    pub(crate) fn mount(&self, plan: MountPlan) -> Result<()> {
        let target = self.target_of(&plan)?;
        place_mount(plan, &target)
    }

    /// Prepares a view of the cgroups outside /sys.
    pub(crate) fn prepare_cgroup(&self, plan: &MountPlan, places: &[Place]) -> Result<CgroupMount> {
        CgroupMount::prepare(self.target_of(plan)?, places, plan.options.is_read_only())
    }

    fn target_of(&self, plan: &MountPlan) -> Result<OwnedFd> {
        let target = ensure_in_root(&self.mount, &plan.destination, plan.missing()).map_err(|error| {
            Error { message: format!("mount {}: {}", plan.destination.display(), error.message), ..error }
        })?;
        if filesystem(&target)? == PROC_SUPER_MAGIC {
            // Only a link in the image or a volume can lead here; the plan has dealt with plain paths.
            return Err(Error::invalid(format!(
                "mount {}: the destination leads into /proc",
                plan.destination.display()
            )));
        }
        Ok(target)
    }

    /// Takes writing to the image itself away; what is mounted on it is not touched.
    pub(crate) fn make_read_only(&self) -> Result<()> {
        let attr = MountAttr { set: ATTR_RDONLY, ..MountAttr::default() };
        mount_setattr(&self.mount, false, &attr).context(|| "make the container's root read-only")
    }
}

/// Makes the image this process's `/` and lets go of everything else: the host's tree and the stage.
pub(crate) fn enter_root(image: &Image, propagation: u64) -> Result<()> {
    fchdir(&image.mount).context(|| "enter the container's root")?;
    pivot_root(".", ".").context(|| "pivot_root")?;
    // "." is now the old root, stacked on the new one.
    unmount(".", UnmountFlags::DETACH).context(|| "leave the host's root")?;
    chdir(Path::new("/")).context(|| "enter the container's root")?;
    if propagation != 0 && propagation != MS_PRIVATE {
        let attr = MountAttr { propagation, ..MountAttr::default() };
        mount_setattr(&image.mount, false, &attr).context(|| "propagation of the container's root")?;
    }
    Ok(())
}
