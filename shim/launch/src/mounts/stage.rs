// SPDX-License-Identifier: Apache-2.0
//! /proc, /sys and /dev, built on a tmpfs of ours before the image is anywhere near.
//!
//! Everything here is resolved beneath mounts that this process has just made, so no path can lead to
//! something that an image or another container has prepared. That is where the masks of most runtimes
//! were bypassed (CVE-2019-16884, CVE-2025-31133, CVE-2025-52565, CVE-2025-52881, CVE-2026-41579).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, symlinkat};
use rustix::fs::{CWD, Mode, OFlags, fstat, makedev, mkdirat, open, openat, statat};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, move_mount};

use super::cgroupfs::CgroupMount;
use super::fs::{attach, bind_of, filesystem, make_fs};
use super::options::Options;
use super::plan::{MountPlan, Source};
use crate::cgroup::Place;
use crate::error::{Context as _, Error, Result};
use crate::path::{Missing, ensure_in_root, open_in_root};
use crate::sys::{
    ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY, MS_PRIVATE, MountAttr, PROC_SUPER_MAGIC,
    mount_setattr, mount_setattr_at,
};

/// What may be bound over single files of /proc (lxcfs does that).
const PROC_FILES: [&str; 11] = [
    "cpuinfo",
    "diskstats",
    "loadavg",
    "meminfo",
    "slabinfo",
    "stat",
    "swaps",
    "sys/crypto/fips_enabled",
    "sys/kernel/ns_last_pid",
    "uptime",
    "version",
];

/// A mount at /proc, /sys or /dev.
#[derive(Debug)]
pub(crate) struct Top {
    pub(crate) name: &'static str,
    /// Its root, attached in the stage and later moved into the image.
    pub(crate) mount: OwnedFd,
    /// A new file system rather than a bind of something of the host's.
    pub(crate) is_new: bool,
    /// To become read-only when its contents are complete.
    read_only_later: bool,
}

/// The private tmpfs and what is on it.
#[derive(Debug)]
pub(crate) struct Stage {
    root: OwnedFd,
    pub(crate) tops: Vec<Top>,
    pub(crate) masks: Masks,
}

/// Things that hide others.
#[derive(Debug)]
pub(crate) struct Masks {
    /// The host's /dev/null, checked.
    null: OwnedFd,
    /// An empty read-only directory, once one is attached.
    empty: Option<OwnedFd>,
}

impl Stage {
    /// Cuts this mount namespace off from the host's and lays the stage over the host's /sys, which is
    /// there on every host and of no more use here. It must not lie over `/`: leaving the host's root would
    /// then take off the stage alone, and what joins this namespace later would find the host's root.
    pub(crate) fn new() -> Result<Self> {
        let private = MountAttr { propagation: MS_PRIVATE, ..MountAttr::default() };
        mount_setattr_at(CWD, c"/", 0, true, &private).context(|| "make the mounts private")?;
        let null = open("/dev/null", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .context(|| "/dev/null of the host")?;
        require_null(&null)?;
        let mut options = Options::default();
        options.attr.set = ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;
        options.data = vec![("mode".to_owned(), Some("0755".to_owned()))];
        let root = make_fs("tmpfs", None, &options)?;
        move_mount(&root, "", CWD, "/sys", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .context(|| "attach the stage")?;
        for name in ["image", "proc", "sys", "dev"] {
            mkdirat(&root, name, Mode::from_raw_mode(0o755)).context(|| format!("stage: mkdir {name}"))?;
        }
        Ok(Self { root, tops: Vec::new(), masks: Masks { null, empty: None } })
    }

    /// Where the image is attached.
    pub(crate) fn image_place(&self) -> Result<OwnedFd> {
        self.place("image")
    }

    fn place(&self, name: &str) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.root, name, flags, Mode::empty()).context(|| format!("stage: {name}"))
    }

    /// Makes one of the tops.
    pub(crate) fn mount_top(&mut self, plan: MountPlan) -> Result<()> {
        let name = plan.as_top().ok_or_else(|| Error::internal("not a mount at /proc, /sys or /dev"))?;
        let mut options = plan.options;
        // Read-only must wait until devices and mount points are made.
        let read_only_later = name == "dev" && options.is_read_only();
        let (mount, is_new) = match plan.source {
            Source::Bind { mount, .. } => (mount, false),
            Source::Fs { kind, source } => {
                if read_only_later {
                    options.attr.set &= !ATTR_RDONLY;
                    options.recursive.set &= !ATTR_RDONLY;
                }
                (make_fs(&kind, source.as_deref(), &options)?, true)
            }
            Source::Cgroup => return Err(Error::invalid(format!("a cgroup mount at /{name}"))),
        };
        if name == "proc" && filesystem(&mount)? != PROC_SUPER_MAGIC {
            return Err(Error::invalid("what is mounted at /proc must be a proc file system"));
        }
        attach(&mount, self.place(name)?).context(|| format!("attach /{name}"))?;
        self.tops.push(Top { name, mount, is_new, read_only_later: read_only_later && is_new });
        Ok(())
    }

    /// Makes a mount below one of the tops.
    pub(crate) fn mount_below(&self, plan: MountPlan) -> Result<()> {
        let target = self.target_of(&plan)?;
        place_mount(plan, &target)
    }

    /// Prepares the view of the cgroups below /sys.
    pub(crate) fn prepare_cgroup(&self, plan: &MountPlan, places: &[Place]) -> Result<CgroupMount> {
        CgroupMount::prepare(self.target_of(plan)?, places, plan.options.is_read_only())
    }

    fn target_of(&self, plan: &MountPlan) -> Result<OwnedFd> {
        let name = plan.destination.display();
        let (top, path) = self
            .find(&plan.destination)
            .ok_or_else(|| Error::internal(format!("{name} is below nothing that is mounted")))?;
        if top.name == "proc" && !PROC_FILES.iter().any(|file| path == Path::new(file)) {
            return Err(Error::invalid(format!("{name} cannot be mounted, it is inside /proc")));
        }
        ensure_in_root(&top.mount, &path, plan.missing())
    }

    /// The top that a path lies below, and the rest of the path.
    fn find(&self, path: &Path) -> Option<(&Top, PathBuf)> {
        self.tops.iter().find_map(|top| {
            let rest = path.strip_prefix(Path::new("/").join(top.name)).ok()?;
            Some((top, rest.to_owned()))
        })
    }

    pub(crate) fn top(&self, name: &str) -> Option<&Top> {
        self.tops.iter().find(|top| top.name == name)
    }

    /// Opens what a path below a top names: `None` if it lies below none, `Some(None)` if it is missing.
    pub(crate) fn open(&self, path: &Path) -> Result<Option<Option<OwnedFd>>> {
        match self.find(path) {
            Some((top, rest)) => open_if_there(&top.mount, &rest).map(Some),
            None => Ok(None),
        }
    }

    /// The last step: no more can be made in the tops after it.
    pub(crate) fn seal(&self) -> Result<()> {
        for top in self.tops.iter().filter(|top| top.read_only_later) {
            let attr = MountAttr { set: ATTR_RDONLY, ..MountAttr::default() };
            mount_setattr(&top.mount, false, &attr).context(|| format!("/{} read-only", top.name))?;
        }
        Ok(())
    }

    /// The links that programs expect in /dev.
    pub(crate) fn link_devices(&self, dev: BorrowedFd<'_>) -> Result<()> {
        let mut links = vec![
            ("/proc/self/fd", "fd"),
            ("/proc/self/fd/0", "stdin"),
            ("/proc/self/fd/1", "stdout"),
            ("/proc/self/fd/2", "stderr"),
        ];
        let has_kcore =
            self.top("proc").is_some_and(|proc| statat(&proc.mount, "kcore", AtFlags::empty()).is_ok());
        if has_kcore {
            links.push(("/proc/kcore", "core"));
        }
        if statat(dev, "pts/ptmx", AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            links.push(("pts/ptmx", "ptmx"));
        }
        for (target, name) in links {
            match symlinkat(target, dev, name) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(Error::internal(format!("link /dev/{name}: {errno}"))),
            }
        }
        Ok(())
    }
}

impl MountPlan {
    /// What its mount point is to be if it is missing.
    pub(super) fn missing(&self) -> Missing {
        match &self.source {
            Source::Bind { kind, .. } => *kind,
            _ => Missing::Directory,
        }
    }
}

/// Attaches a planned mount on its opened destination.
pub(super) fn place_mount(plan: MountPlan, target: &OwnedFd) -> Result<()> {
    let name = plan.destination.display().to_string();
    let mut options = plan.options;
    let mount = match plan.source {
        Source::Bind { mount, .. } => mount,
        Source::Cgroup => return Err(Error::internal("a cgroup mount is prepared and filled")),
        Source::Fs { kind, source } => {
            if kind == "tmpfs" && !options.data.iter().any(|(key, _)| key == "mode") {
                // A tmpfs over a directory of the image takes that directory's mode.
                let mode = fstat(target).context(|| name.clone())?.st_mode & 0o7777;
                options.data.push(("mode".to_owned(), Some(format!("{mode:o}"))));
            }
            make_fs(&kind, source.as_deref(), &options)
                .map_err(|error| Error { message: format!("{name}: {}", error.message), ..error })?
        }
    };
    attach(&mount, target).map_err(|errno| {
        let is_directory = |fd: &OwnedFd| {
            fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
        };
        if is_directory(&mount) == is_directory(target) {
            return Error::internal(format!("mount {name}: {errno}"));
        }
        Error::invalid(format!(
            "mount {name}: a directory cannot be mounted onto a file, nor a file onto a directory"
        ))
    })
}

impl Masks {
    /// Hides a file behind /dev/null, a directory behind an empty one.
    pub(crate) fn hide(&mut self, target: &OwnedFd, name: &str) -> Result<()> {
        let what = || format!("mask {name}");
        let stat = fstat(target).context(what)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            let mount = bind_of(&self.null, false).context(what)?;
            // What is attached is what was checked, not what a path says.
            require_null(&mount)?;
            return attach(&mount, target).context(what);
        }
        if let Some(empty) = &self.empty {
            return attach(bind_of(empty, false).context(what)?, target).context(what);
        }
        let mut options = Options::default();
        options.attr.set = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;
        options.data = vec![
            ("ro".to_owned(), None),
            ("nr_inodes".to_owned(), Some("1".to_owned())),
            ("size".to_owned(), Some("4k".to_owned())),
        ];
        let empty = make_fs("tmpfs", None, &options)?;
        attach(&empty, target).context(what)?;
        self.empty = Some(empty);
        Ok(())
    }
}

/// Takes writing away from a path and what is mounted below it.
pub(crate) fn make_read_only(target: &OwnedFd, name: &str) -> Result<()> {
    let what = || format!("make {name} read-only");
    let mount = bind_of(target, true).context(what)?;
    let attr = MountAttr { set: ATTR_RDONLY, propagation: MS_PRIVATE, ..MountAttr::default() };
    mount_setattr(&mount, true, &attr).context(what)?;
    attach(&mount, target).context(what)
}

/// Opens a path beneath a root; `None` if it is not there.
pub(crate) fn open_if_there(root: impl AsFd, path: &Path) -> Result<Option<OwnedFd>> {
    match open_in_root(root, path, OFlags::PATH) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(Error::invalid(format!("{}: {errno}", path.display()))),
    }
}

fn require_null(fd: &OwnedFd) -> Result<()> {
    let stat = fstat(fd).context(|| "/dev/null of the host")?;
    let is_null =
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == makedev(1, 3);
    if is_null { Ok(()) } else { Err(Error::internal("/dev/null of the host is not the null device")) }
}
