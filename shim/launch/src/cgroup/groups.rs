// SPDX-License-Identifier: Apache-2.0
//! Groups as directories: made, enabled, listed, removed.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use crate::error::{Context as _, Error, Result};

/// How long a freeze or a removal may take before it is an error.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(1);

/// The groups that a launch has made so far, so that a failure takes those away and no others.
#[derive(Debug, Default)]
pub(crate) struct Made(Vec<PathBuf>);

impl Made {
    pub(super) fn group(&mut self, directory: &Path) -> Result<()> {
        make_group(directory)?;
        self.0.push(directory.to_owned());
        Ok(())
    }

    pub(crate) fn undo(&self) -> Result<()> {
        self.0.iter().try_for_each(|directory| remove_group(directory))
    }
}

/// Removes a group; the last process may still be on its way out when its parent has reaped it.
pub(super) fn remove_group(directory: &Path) -> Result<()> {
    wait_until(&format!("remove {}", directory.display()), || match remove_tree(directory) {
        Ok(()) => Ok(true),
        Err(Errno::BUSY) => Ok(false),
        Err(errno) => Err(Error::internal(format!("remove {}: {errno}", directory.display()))),
    })
}

/// Polls a condition that the kernel offers no event for.
pub(super) fn wait_until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = std::time::Instant::now();
    while !done()? {
        if start.elapsed() > PATIENCE {
            return Err(Error::internal(format!("{what}: not done within {} s", PATIENCE.as_secs())));
        }
        #[allow(clippy::disallowed_methods)] // The condition has no event to wait for.
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

pub(super) fn open_directory(path: &Path) -> Result<OwnedFd> {
    open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .context(|| path.display().to_string())
}

pub(super) fn write_file(path: &Path, value: &str) -> std::result::Result<(), Errno> {
    let fd = open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(fd, value.as_bytes()).map(drop)
}

/// Makes a group. What an earlier container of this name left is replaced, unless it is in use.
pub(super) fn make_group(directory: &Path) -> Result<()> {
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
/// the way down. The groups above the last are told to hand theirs on by themselves from now on, which
/// spares the next container the copying.
pub(super) fn inherit_cpuset(mount: &Path, path: &Path) -> Result<()> {
    const FILES: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];
    let read = |directory: &Path, file: &str| {
        let path = directory.join(file);
        fs::read_to_string(&path).context(|| path.display().to_string())
    };
    let write = |directory: &Path, file: &str, value: &str| {
        let path = directory.join(file);
        write_file(&path, value).context(|| path.display().to_string())
    };
    if !read(&mount.join(path), FILES[1])?.trim().is_empty() {
        return Ok(());
    }
    let mut parent = mount.to_owned();
    let mut components = path.components().peekable();
    while let Some(component) = components.next() {
        let child = parent.join(component);
        for file in FILES {
            if read(&child, file)?.trim().is_empty() {
                write(&child, file, read(&parent, file)?.trim())?;
            }
        }
        if components.peek().is_some() {
            write(&child, "cgroup.clone_children", "1")?;
        }
        parent = child;
    }
    Ok(())
}

/// Lets the groups down to `path` have the controllers that their parents can give.
pub(super) fn enable_controllers(mount: &Path, path: &Path) -> Result<()> {
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
pub(super) fn remove_tree(directory: &Path) -> std::result::Result<(), Errno> {
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

pub(super) fn children(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

pub(super) fn collect_pids(directory: &Path, pids: &mut Vec<i32>) -> Result<()> {
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

pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.split_once(' ').filter(|(name, _)| *name == key)?.1.parse().ok())
}
