// SPDX-License-Identifier: Apache-2.0
//! /sys/fs/cgroup as the container sees it.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, mkdirat, openat, symlinkat};

use super::fs::{attach, make_fs};
use super::options::Options;
use crate::cgroup::Place;
use crate::error::{Context as _, Error, Result};
use crate::sys::{ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY, MountAttr, mount_setattr};

const WHAT: &str = "mount the cgroup hierarchies";

/// Mount points for the hierarchies, made while the parent still makes the groups.
#[derive(Debug)]
pub(crate) struct CgroupMount {
    /// The tmpfs with the v1 hierarchies side by side; the unified hierarchy needs none.
    root: Option<OwnedFd>,
    slots: Vec<OwnedFd>,
    read_only: bool,
}

impl CgroupMount {
    /// Prepares the mount points on what `target` names.
    pub(crate) fn prepare(target: OwnedFd, places: &[Place], read_only: bool) -> Result<Self> {
        if let [Place { name: None, .. }] = places {
            return Ok(Self { root: None, slots: vec![target], read_only });
        }
        let mut options = Options::default();
        options.attr.set = ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;
        options.data = vec![("mode".to_owned(), Some("755".to_owned()))];
        let root = make_fs("tmpfs", Some("tmpfs"), &options)?;
        attach(&root, target).context(|| WHAT)?;
        let mut slots = Vec::with_capacity(places.len());
        for place in places {
            let name = place.name.as_deref().unwrap_or_default();
            mkdirat(&root, name, Mode::from_raw_mode(0o755)).context(|| WHAT)?;
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            slots.push(openat(&root, name, flags, Mode::empty()).context(|| WHAT)?);
            for link in &place.links {
                symlinkat(name, &root, link.as_str()).context(|| WHAT)?;
            }
        }
        Ok(Self { root: Some(root), slots, read_only })
    }

    /// Attaches the hierarchies, in the order of the places.
    pub(crate) fn fill(self, mounts: &[OwnedFd]) -> Result<()> {
        if mounts.len() != self.slots.len() {
            return Err(Error::internal(format!(
                "{} cgroup hierarchies for {} places",
                mounts.len(),
                self.slots.len()
            )));
        }
        for (mount, slot) in mounts.iter().zip(&self.slots) {
            attach(mount, slot).context(|| WHAT)?;
        }
        if let (Some(root), true) = (&self.root, self.read_only) {
            let attr = MountAttr { set: ATTR_RDONLY, ..MountAttr::default() };
            mount_setattr(root, false, &attr).context(|| WHAT)?;
        }
        Ok(())
    }
}
