// SPDX-License-Identifier: Apache-2.0
//! A container's cgroup on every layout: unified (v2), v1, and the hybrid of both.
//!
//! A container is put into the group of the same path in every hierarchy that the host has, whatever
//! limits it has. Processes get in without `cgroup.procs`, whose global lock costs an RCU grace period
//! (about 10 ms): a single-threaded process writes `0` to a v1 group's `tasks`, or is born in a v2 group.

mod devices;
mod layout;
mod limits;

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::LinuxResources;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::{Pid, Signal};

use crate::error::{Context as _, Error, Result};
use crate::path::clean;
use crate::sys::{ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY, MS_PRIVATE, MountAttr, mount_setattr};
use layout::{Hierarchy, Layout};
use limits::Write;

/// How long a freeze or a removal may take before it is an error.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(1);

/// A container's cgroup, in each hierarchy that the host has.
#[derive(Debug, Clone)]
pub struct Cgroup {
    /// `berth/<id>`: relative to every hierarchy's mount point; empty for a container without a cgroup.
    path: PathBuf,
    layout: Layout,
}

/// A hierarchy as the container sees it under /sys/fs/cgroup.
#[derive(Debug)]
pub(crate) struct View {
    /// Directory name, `None` for the unified hierarchy that is /sys/fs/cgroup itself.
    pub(crate) name: Option<String>,
    /// Symbolic links that lead to it (`cpu` to `cpu,cpuacct`).
    pub(crate) links: Vec<String>,
    /// The container's own group, or the hierarchy's root, as a detached mount.
    pub(crate) mount: OwnedFd,
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

    /// How many v1 hierarchies there are, and so how many descriptors [`Cgroup::make_v1`] gives.
    pub(crate) fn v1_count(&self) -> usize {
        self.layout.v1.len()
    }

    /// Opens what the container is to see under /sys/fs/cgroup as detached mounts, as
    /// [`Cgroup::views`] takes them. In a cgroup namespace of its own, or on v1, it sees its own groups as roots.
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

    /// Joins descriptors from [`Cgroup::open_views`] with where they go.
    pub(crate) fn views(&self, mounts: Vec<OwnedFd>) -> Vec<View> {
        let names = self.layout.v1.iter().map(|hierarchy| Some(hierarchy.directory_name().to_owned()));
        let unified = (!self.layout.is_unified()).then(|| "unified".to_owned());
        names
            .chain([unified])
            .zip(mounts)
            .map(|(name, mount)| {
                let joint = name.as_deref().filter(|name| name.contains(','));
                let links =
                    joint.map(|name| name.split(',').map(str::to_owned).collect()).unwrap_or_default();
                View { name, links, mount }
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

/// The groups that a launch has made so far, so that a failure takes those away and no others.
#[derive(Debug, Default)]
pub(crate) struct Made(Vec<PathBuf>);

impl Made {
    fn group(&mut self, directory: &Path) -> Result<()> {
        make_group(directory)?;
        self.0.push(directory.to_owned());
        Ok(())
    }

    pub(crate) fn undo(&self) -> Result<()> {
        self.0.iter().try_for_each(|directory| remove_group(directory))
    }
}

/// Removes a group; the last process may still be on its way out when its parent has reaped it.
fn remove_group(directory: &Path) -> Result<()> {
    wait_until(&format!("remove {}", directory.display()), || match remove_tree(directory) {
        Ok(()) => Ok(true),
        Err(Errno::BUSY) => Ok(false),
        Err(errno) => Err(Error::internal(format!("remove {}: {errno}", directory.display()))),
    })
}

enum Written {
    Done,
    Missing,
    Refused(Errno),
}

/// Polls a condition that the kernel offers no event for.
fn wait_until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = std::time::Instant::now();
    while !done()? {
        if start.elapsed() > PATIENCE {
            return Err(Error::internal(format!("{what}: not done within {} s", PATIENCE.as_secs())));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
    open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .context(|| path.display().to_string())
}

fn write_file(path: &Path, value: &str) -> std::result::Result<(), Errno> {
    let fd = open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(fd, value.as_bytes()).map(drop)
}

/// Makes a group. What an earlier container of this name left is replaced, unless it is in use.
fn make_group(directory: &Path) -> Result<()> {
    let mode = Mode::from_raw_mode(0o755);
    let what = || format!("make cgroup {}", directory.display());
    match rustix::fs::mkdir(directory, mode) {
        Ok(()) => return Ok(()),
        Err(Errno::NOENT) => {
            if let Some(parent) = directory.parent() {
                fs::create_dir_all(parent).context(what)?;
            }
        }
        Err(Errno::EXIST) => match remove_tree(directory) {
            Ok(()) => {}
            Err(Errno::BUSY) => {
                return Err(Error::invalid(format!("cgroup {} is in use", directory.display())));
            }
            Err(errno) => return Err(Error::internal(format!("{}: {errno}", what()))),
        },
        Err(errno) => return Err(Error::internal(format!("{}: {errno}", what()))),
    }
    rustix::fs::mkdir(directory, mode).context(what)
}

/// A v1 cpuset takes no process until it has cpus and memory nodes: empty ones get their parent's, all
/// the way down.
fn inherit_cpuset(mount: &Path, path: &Path) -> Result<()> {
    let mut parent = mount.to_owned();
    for component in path.components() {
        let child = parent.join(component);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let read = |directory: &Path| {
                let path = directory.join(file);
                fs::read_to_string(&path).context(|| path.display().to_string())
            };
            if read(&child)?.trim().is_empty() {
                let path = child.join(file);
                write_file(&path, read(&parent)?.trim()).context(|| path.display().to_string())?;
            }
        }
        parent = child;
    }
    Ok(())
}

/// Lets the groups down to `path` have the controllers that their parents can give.
fn enable_controllers(mount: &Path, path: &Path) -> Result<()> {
    const WANTED: [&str; 6] = ["cpu", "cpuset", "hugetlb", "io", "memory", "pids"];
    let mut group = mount.to_owned();
    let mut components = path.components().peekable();
    while let Some(component) = components.next() {
        let read = |name: &str| -> Result<Vec<String>> {
            let path = group.join(name);
            let text = fs::read_to_string(&path).context(|| path.display().to_string())?;
            Ok(text.split_whitespace().map(str::to_owned).collect())
        };
        let (available, enabled) = (read("cgroup.controllers")?, read("cgroup.subtree_control")?);
        let missing = WANTED.iter().filter(|wanted| {
            available.iter().any(|one| one == *wanted) && !enabled.iter().any(|one| one == *wanted)
        });
        let change: Vec<String> = missing.map(|one| format!("+{one}")).collect();
        if !change.is_empty() {
            let file = group.join("cgroup.subtree_control");
            write_file(&file, &change.join(" ")).context(|| file.display().to_string())?;
        }
        group.push(component);
        if components.peek().is_some() {
            match rustix::fs::mkdir(&group, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => {
                    return Err(Error::internal(format!("make cgroup {}: {errno}", group.display())));
                }
            }
        }
    }
    Ok(())
}

/// `rmdir`, children first. What is not there is done.
fn remove_tree(directory: &Path) -> std::result::Result<(), Errno> {
    match rustix::fs::rmdir(directory) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // BUSY is what a group with children or processes answers.
        Err(Errno::BUSY | Errno::NOTEMPTY) => {}
        Err(errno) => return Err(errno),
    }
    for child in children(directory) {
        remove_tree(&child)?;
    }
    match rustix::fs::rmdir(directory) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn collect_pids(directory: &Path, pids: &mut Vec<i32>) -> Result<()> {
    let path = directory.join("cgroup.procs");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        // A threaded v2 group lists its processes in the group above it.
        Err(cause) if cause.raw_os_error() == Some(libc::EOPNOTSUPP) => String::new(),
        Err(cause) => return Err(Error::internal(format!("{}: {cause}", path.display()))),
    };
    // 0 stands for a process that this pid namespace cannot see.
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    for child in children(directory) {
        collect_pids(&child, pids)?;
    }
    Ok(())
}

fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.split_once(' ').filter(|(name, _)| *name == key)?.1.parse().ok())
}

fn freeze_v1(state: &Path, frozen: bool) -> Result<()> {
    let wanted = if frozen { "FROZEN" } else { "THAWED" };
    let what = || state.display().to_string();
    let result = wait_until(&format!("{wanted} in {}", state.display()), || {
        // Written again each time: a process that forked just then is caught by the next try.
        let mut file = fs::OpenOptions::new().read(true).write(true).open(state).context(what)?;
        file.write_all(wanted.as_bytes()).context(what)?;
        let mut text = String::new();
        let mut file = fs::File::open(state).context(what)?;
        file.read_to_string(&mut text).context(what)?;
        Ok(text.trim() == wanted)
    });
    if frozen && result.is_err() {
        // Half frozen is worse than not frozen.
        write_file(state, "THAWED").context(what)?;
    }
    result
}

fn freeze_v2(directory: &Path, frozen: bool) -> Result<()> {
    let events = directory.join("cgroup.events");
    let what = || events.display().to_string();
    let mut file = fs::File::open(&events).context(what)?;
    let control = directory.join("cgroup.freeze");
    write_file(&control, if frozen { "1" } else { "0" }).context(|| control.display().to_string())?;
    let start = std::time::Instant::now();
    loop {
        let mut text = String::new();
        io::Seek::rewind(&mut file).context(what)?;
        file.read_to_string(&mut text).context(what)?;
        if keyed(&text, "frozen") == Some(u64::from(frozen)) {
            return Ok(());
        }
        let left = PATIENCE.saturating_sub(start.elapsed());
        if left.is_zero() {
            write_file(&control, "0").context(|| control.display().to_string())?;
            return Err(Error::internal(format!("{}: not frozen in time", directory.display())));
        }
        let timeout = rustix::event::Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match poll(&mut [PollFd::new(&file, PollFlags::PRI)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::internal(format!("poll {}: {errno}", events.display()))),
        }
    }
}
