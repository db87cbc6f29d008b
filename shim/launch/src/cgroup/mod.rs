// SPDX-License-Identifier: Apache-2.0
//! A container's cgroup on every layout: unified (v2), v1, and the hybrid of both.
//!
//! A container is put into the group of the same path in every hierarchy that the host has, whatever
//! limits it has. Processes get in without `cgroup.procs`, whose global lock costs an RCU grace period
//! (about 10 ms): a single-threaded process writes `0` to a v1 group's `tasks`, or is born in a v2 group.

mod devices;
mod freeze;
mod groups;
mod layout;
mod limits;

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;
use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::{Pid, Signal};

use crate::error::{Context as _, Error, Result};
use crate::path::clean;
use crate::sys::{ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY, MS_PRIVATE, MountAttr, mount_setattr};
use freeze::{freeze_v1, freeze_v2};
pub(crate) use groups::Made;
use groups::{
    collect_pids, enable_controllers, inherit_cpuset, keyed, open_directory, remove_group, wait_until,
    write_file,
};
use layout::{Hierarchy, Layout};
use limits::Write;

/// A container's cgroup, in each hierarchy that the host has.
#[derive(Debug, Clone)]
pub struct Cgroup {
    /// `berth/<id>`: relative to every hierarchy's mount point; empty for a container without a cgroup.
    path: PathBuf,
    layout: Layout,
}

/// Where the container sees a hierarchy under /sys/fs/cgroup.
#[derive(Debug)]
pub(crate) struct Place {
    /// Directory name, `None` for the unified hierarchy that is /sys/fs/cgroup itself.
    pub(crate) name: Option<String>,
    /// Symbolic links that lead to it (`cpu` to `cpu,cpuacct`).
    pub(crate) links: Vec<String>,
}

impl Cgroup {
    /// The cgroup with the spec's `cgroupsPath`; nothing is made yet.
    ///
    /// # Errors
    ///
    /// The host has no cgroup file system.
    pub fn open(cgroups_path: &Path) -> Result<Self> {
        let path = clean(cgroups_path);
        let path = path.strip_prefix("/").unwrap_or(&path).to_owned();
        if path.as_os_str().is_empty() {
            return Err(Error::invalid("cgroupsPath is the root of the hierarchy"));
        }
        Ok(Self { path, layout: Layout::detect()? })
    }

    /// No cgroup at all: processes stay where their parent is.
    pub(crate) fn none() -> Self {
        Self { path: PathBuf::new(), layout: Layout::default() }
    }

    /// Directory in the unified hierarchy.
    #[must_use]
    pub fn unified_directory(&self) -> Option<PathBuf> {
        self.layout.unified.as_ref().map(|mount| mount.join(&self.path))
    }

    /// Directory in the hierarchy of a controller, v1 or v2.
    #[must_use]
    pub fn directory_of(&self, controller: &str) -> Option<PathBuf> {
        match self.layout.v1.iter().find(|hierarchy| hierarchy.has(controller)) {
            Some(hierarchy) => Some(hierarchy.mount.join(&self.path)),
            None => self.unified_directory(),
        }
    }

    /// Every directory, one a hierarchy.
    fn directories(&self) -> impl Iterator<Item = PathBuf> {
        let v1 = self.layout.v1.iter().map(|hierarchy| hierarchy.mount.join(&self.path));
        v1.chain(self.unified_directory())
    }

    /// A directory that lists every process of the container.
    fn listing_directory(&self) -> Result<PathBuf> {
        self.unified_directory()
            .or_else(|| self.directory_of("freezer"))
            .or_else(|| self.directories().next())
            .ok_or_else(|| Error::internal("the container has no cgroup"))
    }

    /// The group in the unified hierarchy, for `CLONE_INTO_CGROUP`.
    pub(crate) fn open_unified(&self) -> Result<Option<OwnedFd>> {
        self.unified_directory().map(|directory| open_directory(&directory)).transpose()
    }

    /// The group of the unified hierarchy that a process is in now.
    pub(crate) fn unified_of(&self, pid: i32) -> Result<Option<OwnedFd>> {
        let Some(mount) = &self.layout.unified else { return Ok(None) };
        let path = format!("/proc/{pid}/cgroup");
        let text = fs::read_to_string(&path).context(|| path)?;
        let group = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
        open_directory(&mount.join(group)).map(Some)
    }

    /// Makes the group in the unified hierarchy, with its limits if that is where the controllers are,
    /// and returns it for `CLONE_INTO_CGROUP`.
    pub(crate) fn make_unified(
        &self,
        resources: Option<&LinuxResources>,
        made: &mut Made,
        warnings: &mut Vec<String>,
    ) -> Result<Option<OwnedFd>> {
        let Some(mount) = &self.layout.unified else { return Ok(None) };
        let directory = mount.join(&self.path);
        if self.layout.is_unified() {
            enable_controllers(mount, &self.path)?;
        }
        made.group(&directory)?;
        let fd = open_directory(&directory)?;
        if let (true, Some(resources)) = (self.layout.is_unified(), resources) {
            self.write_v2(resources, warnings)?;
            let rules = devices::rules(resources.devices().as_deref().unwrap_or_default())?;
            if !rules.is_empty() {
                devices::attach(fd.as_fd(), &rules)?;
            }
        }
        Ok(Some(fd))
    }

    /// Makes the groups in the v1 hierarchies, sets their limits, and opens their `tasks` for a process
    /// that writes `0` into each.
    pub(crate) fn make_v1(
        &self,
        resources: Option<&LinuxResources>,
        made: &mut Made,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<OwnedFd>> {
        for hierarchy in &self.layout.v1 {
            made.group(&hierarchy.mount.join(&self.path))?;
            if hierarchy.has("cpuset") {
                inherit_cpuset(&hierarchy.mount, &self.path)?;
            }
        }
        if let (false, Some(resources)) = (self.layout.v1.is_empty(), resources) {
            self.write_v1(resources, warnings)?;
            self.write_v1_devices(resources)?;
        }
        self.open_tasks()
    }

    /// The `tasks` files of the v1 hierarchies.
    pub(crate) fn open_tasks(&self) -> Result<Vec<OwnedFd>> {
        let open_tasks = |hierarchy: &Hierarchy| {
            let path = hierarchy.mount.join(&self.path).join("tasks");
            open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                .context(|| path.display().to_string())
        };
        self.layout.v1.iter().map(open_tasks).collect()
    }

    /// Whether the child has v1 groups to join.
    pub(crate) fn has_v1(&self) -> bool {
        !self.layout.v1.is_empty()
    }

    /// Opens what the container is to see under /sys/fs/cgroup as detached mounts, in the order
    /// of [`Cgroup::places`]. In a cgroup namespace of its own, or on v1, it sees its own groups as roots.
    pub(crate) fn open_views(&self, private: bool, read_only: bool) -> Result<Vec<OwnedFd>> {
        let attr = MountAttr {
            set: ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC | if read_only { ATTR_RDONLY } else { 0 },
            propagation: MS_PRIVATE,
            ..MountAttr::default()
        };
        let clone = |path: &Path| -> Result<OwnedFd> {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let mount = open_tree(CWD, path, flags).context(|| path.display().to_string())?;
            mount_setattr(&mount, false, &attr).context(|| path.display().to_string())?;
            Ok(mount)
        };
        if let (true, false, Some(mount)) = (self.layout.is_unified(), private, &self.layout.unified) {
            return Ok(vec![clone(mount)?]);
        }
        self.directories().map(|directory| clone(&directory)).collect()
    }

    /// Where the container sees its hierarchies.
    pub(crate) fn places(&self) -> Vec<Place> {
        let v1 = self.layout.v1.iter().map(|hierarchy| Some(hierarchy.directory_name().to_owned()));
        let hybrid = !self.layout.is_unified();
        let unified = self.layout.unified.as_ref().map(|_| hybrid.then(|| "unified".to_owned()));
        v1.chain(unified)
            .map(|name| {
                let joint = name.as_deref().filter(|name| name.contains(','));
                let links =
                    joint.map(|name| name.split(',').map(str::to_owned).collect()).unwrap_or_default();
                Place { name, links }
            })
            .collect()
    }

    /// Replaces limits: fields that are present are written, others stay. Device rules are not changed.
    ///
    /// Returns what the host cannot do.
    ///
    /// # Errors
    ///
    /// The kernel refuses a value.
    pub fn update(&self, resources: &LinuxResources) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        if self.layout.is_unified() {
            self.write_v2(resources, &mut warnings)?;
        } else {
            self.write_v1(resources, &mut warnings)?;
        }
        Ok(warnings)
    }

    fn write_v2(&self, resources: &LinuxResources, warnings: &mut Vec<String>) -> Result<()> {
        let (writes, cannot) = limits::v2(resources);
        warnings.extend(cannot);
        self.write_all(&writes, warnings)
    }

    fn write_v1(&self, resources: &LinuxResources, warnings: &mut Vec<String>) -> Result<()> {
        self.write_all(&limits::v1(resources), warnings)
    }

    fn write_all(&self, writes: &[Write], warnings: &mut Vec<String>) -> Result<()> {
        // A limit may have to wait for its partner: memory for memory+swap when both grow, the quota for
        // the period when the ratio would pass the parent's.
        let mut refused: Vec<&Write> = Vec::new();
        for write in writes {
            match self.write_one(write)? {
                Written::Done => {}
                Written::Missing => warnings.push(format!("{} is not supported by this host", write.asked)),
                Written::Refused(_) => refused.push(write),
            }
        }
        for write in refused {
            if let Written::Refused(errno) = self.write_one(write)? {
                return Err(Error::invalid(format!(
                    "{}: the kernel refuses {:?} for {}: {errno}",
                    write.asked, write.value, write.file
                )));
            }
        }
        Ok(())
    }

    fn write_one(&self, write: &Write) -> Result<Written> {
        if write.file.contains('/') {
            return Err(Error::invalid(format!("{:?} is not the name of a cgroup file", write.file)));
        }
        let Some(directory) = self.directory_of(write.controller) else { return Ok(Written::Missing) };
        match write_file(&directory.join(&write.file), &write.value) {
            Ok(()) => Ok(Written::Done),
            Err(Errno::NOENT) => Ok(Written::Missing),
            Err(errno @ (Errno::INVAL | Errno::BUSY | Errno::RANGE)) => Ok(Written::Refused(errno)),
            // Without a cpu.rt or swap accounting in the kernel the files may exist and not be writable.
            Err(Errno::OPNOTSUPP) => Ok(Written::Missing),
            Err(errno) => Err(Error::internal(format!(
                "write {:?} to {}: {errno}",
                write.value,
                directory.join(&write.file).display()
            ))),
        }
    }

    fn write_v1_devices(&self, resources: &LinuxResources) -> Result<()> {
        let rules = devices::rules(resources.devices().as_deref().unwrap_or_default())?;
        let hierarchy = self.layout.v1.iter().find(|hierarchy| hierarchy.has("devices"));
        let (Some(hierarchy), false) = (hierarchy, rules.is_empty()) else { return Ok(()) };
        let directory = hierarchy.mount.join(&self.path);
        let open_file = |name: &str| {
            let path = directory.join(name);
            open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                .context(|| path.display().to_string())
        };
        let (allow, deny) = (open_file("devices.allow")?, open_file("devices.deny")?);
        for rule in rules {
            let (file, lines) = rule.v1();
            let fd = if file == "devices.allow" { &allow } else { &deny };
            for line in lines {
                rustix::io::write(fd, line.as_bytes()).context(|| format!("write {line:?} to {file}"))?;
            }
        }
        Ok(())
    }

    /// Processes of this cgroup that the kernel killed for memory since it was made.
    ///
    /// # Errors
    ///
    /// The counter cannot be read.
    pub fn oom_kills(&self) -> Result<u64> {
        let Some(directory) = self.directory_of("memory") else { return Ok(0) };
        let name = if self.layout.is_unified() { "memory.events" } else { "memory.oom_control" };
        let path = directory.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(keyed(&text, "oom_kill").unwrap_or(0)),
            // The hybrid layout may have no memory controller anywhere.
            Err(cause) if cause.kind() == io::ErrorKind::NotFound && directory.exists() => Ok(0),
            Err(cause) => Err(Error::internal(format!("{}: {cause}", path.display()))),
        }
    }

    /// Freezes or thaws every process; returns when the kernel says it is so.
    ///
    /// # Errors
    ///
    /// The kernel refuses, or it did not happen within ten seconds.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        if let Some(hierarchy) = self.layout.v1.iter().find(|hierarchy| hierarchy.has("freezer")) {
            return freeze_v1(&hierarchy.mount.join(&self.path).join("freezer.state"), frozen);
        }
        let directory = self.unified_directory().ok_or_else(|| Error::internal("no freezer on this host"))?;
        freeze_v2(&directory, frozen)
    }

    /// Pids in the cgroup and below it, as this process sees them.
    ///
    /// # Errors
    ///
    /// The list cannot be read.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        collect_pids(&self.listing_directory()?, &mut pids)?;
        Ok(pids)
    }

    /// Sends a signal to every process.
    ///
    /// # Errors
    ///
    /// The list of processes cannot be read.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let signal = Signal::from_named_raw(signal)
            .ok_or_else(|| Error::invalid(format!("{signal} is not a signal")))?;
        for pid in self.pids()? {
            let Some(pid) = Pid::from_raw(pid) else { continue };
            match rustix::process::kill_process(pid, signal) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => {
                    return Err(Error::internal(format!("signal {}: {errno}", pid.as_raw_nonzero())));
                }
            }
        }
        Ok(())
    }

    /// Kills every process, those that fork meanwhile included, and those that are frozen.
    ///
    /// # Errors
    ///
    /// The kernel refuses, or some process would not end within ten seconds.
    pub fn kill(&self) -> Result<()> {
        if let Some(directory) = self.unified_directory() {
            match write_file(&directory.join("cgroup.kill"), "1") {
                // A v1 freezer holds even those that are killed.
                Ok(()) if self.layout.is_unified() => return Ok(()),
                Ok(()) => return self.thaw_for_kill(),
                Err(Errno::NOENT | Errno::OPNOTSUPP) => {}
                Err(errno) => {
                    return Err(Error::internal(format!("{}/cgroup.kill: {errno}", directory.display())));
                }
            }
        }
        self.thaw_for_kill()?;
        wait_until("kill every process of the cgroup", || {
            self.signal(libc::SIGKILL)?;
            Ok(self.pids()?.is_empty())
        })
    }

    fn thaw_for_kill(&self) -> Result<()> {
        let Some(hierarchy) = self.layout.v1.iter().find(|hierarchy| hierarchy.has("freezer")) else {
            return Ok(());
        };
        let path = hierarchy.mount.join(&self.path).join("freezer.state");
        write_file(&path, "THAWED").context(|| path.display().to_string())
    }

    /// Removes the cgroup from every hierarchy, with whatever groups the container made below it.
    /// What is gone already is no error.
    ///
    /// # Errors
    ///
    /// Processes are left in it after ten seconds.
    pub fn remove(&self) -> Result<()> {
        if self.path.as_os_str().is_empty() {
            return Ok(());
        }
        self.directories().try_for_each(|directory| remove_group(&directory))
    }
}

enum Written {
    Done,
    Missing,
    Refused(Errno),
}
