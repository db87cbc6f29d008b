// SPDX-License-Identifier: Apache-2.0
//! Hearing of processes that the kernel kills for want of memory.
//!
//! v2 tells changes of `memory.events` by inotify, v1 tells a group's distress by an eventfd that is
//! registered in `cgroup.event_control`. Either is only the hint to look at the counter of kills.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{EventfdFlags, PollFlags};
use rustix::fs::inotify;

use crate::watch::{Token, Watch};

/// The counter of a container's memory cgroup.
#[derive(Debug)]
pub(crate) struct OomWatch {
    notice: Option<OwnedFd>,
    counter: PathBuf,
    /// Kills seen so far.
    seen: u64,
}

impl OomWatch {
    /// Watches the memory cgroup of a process; `None` where it has none.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let (directory, unified) = memory_directory(&groups, &mounts)?;
        let counter = directory.join(if unified { "memory.events" } else { "memory.oom_control" });
        fs::metadata(&counter).ok()?;
        let notice = if unified { watch_events(&counter) } else { watch_distress(&directory, &counter) };
        let mut this = Self { notice, counter, seen: 0 };
        this.grown();
        this.seen = 0;
        Some(this)
    }

    pub(crate) fn watch<'a>(&'a self, watch: &mut Watch<'a>) {
        if let Some(notice) = &self.notice {
            watch.add(notice, PollFlags::IN, Token::Oom);
        }
    }

    /// Takes the notice off its descriptor.
    pub(crate) fn on_ready(&mut self) {
        let mut taken = [0u8; 512];
        if let Some(notice) = &self.notice {
            if !matches!(rustix::io::read(notice, &mut taken), Ok(1..) | Err(rustix::io::Errno::AGAIN)) {
                self.notice = None;
            }
        }
    }

    /// Whether there were kills since this was last asked.
    pub(crate) fn grown(&mut self) -> bool {
        let count = self.count().unwrap_or(self.seen);
        let grown = count > self.seen;
        self.seen = count;
        grown
    }

    /// Whether there was any kill.
    pub(crate) fn any(&mut self) -> bool {
        self.grown();
        self.seen > 0
    }

    fn count(&self) -> Option<u64> {
        let text = fs::read_to_string(&self.counter).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "))?;
        line.trim().parse().ok()
    }
}

fn watch_events(counter: &Path) -> Option<OwnedFd> {
    let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
    let notice = inotify::init(flags).ok()?;
    inotify::add_watch(&notice, counter, inotify::WatchFlags::MODIFY).ok()?;
    Some(notice)
}

fn watch_distress(directory: &Path, counter: &Path) -> Option<OwnedFd> {
    let notice = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok()?;
    let control = fs::File::open(counter).ok()?;
    let line = format!("{} {}", notice.as_raw_fd(), control.as_raw_fd());
    fs::write(directory.join("cgroup.event_control"), line).ok()?;
    Some(notice)
}

/// The directory of a process's memory cgroup, and whether it is on the unified hierarchy.
fn memory_directory(groups: &str, mounts: &str) -> Option<(PathBuf, bool)> {
    let mut unified = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        if controllers.split(',').any(|c| c == "memory") {
            let mount = mount_point(mounts, |kind, options| {
                kind == "cgroup" && options.split(',').any(|o| o == "memory")
            })?;
            return Some((below(&mount, path), false));
        }
        if number == "0" {
            unified = Some(path);
        }
    }
    let mount = mount_point(mounts, |kind, _| kind == "cgroup2")?;
    Some((below(&mount, unified?), true))
}

fn below(mount: &str, path: &str) -> PathBuf {
    Path::new(mount).join(path.trim_start_matches('/'))
}

/// The first mount of a whole hierarchy for which `wanted(type, super options)` holds.
fn mount_point(mounts: &str, wanted: impl Fn(&str, &str) -> bool) -> Option<String> {
    mounts.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, point) = (mount.next()?, mount.next()?);
        let mut file_system = file_system.split(' ');
        let (kind, options) = (file_system.next()?, file_system.nth(1)?);
        (root == "/" && wanted(kind, options)).then(|| point.replace("\\040", " "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 29 0:26 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
31 29 0:27 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn a_hybrid_host_has_memory_on_v1() {
        let found = memory_directory("4:memory:/berth/x\n0::/berth/x\n", MOUNTS);
        assert_eq!(found, Some(("/sys/fs/cgroup/memory/berth/x".into(), false)));
    }

    #[test]
    fn a_unified_host_has_one_tree() {
        let mounts = "31 29 0:27 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n";
        let found = memory_directory("0::/berth/x\n", mounts);
        assert_eq!(found, Some(("/sys/fs/cgroup/berth/x".into(), true)));
    }
}
