// SPDX-License-Identifier: Apache-2.0
//! Hearing of processes that the kernel kills for want of memory.
//!
//! v2 tells changes of `memory.events` by inotify, v1 tells a group's distress by an eventfd that is
//! registered in `cgroup.event_control`. Either is only the hint to look at the counter of kills.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use berth_launch::cgroup::Cgroup;
use rustix::event::{EventfdFlags, PollFlags};
use rustix::fs::inotify;

use crate::watch::{Token, Watch};

/// The counter of a container's memory cgroup.
#[derive(Debug)]
pub(crate) struct OomWatch {
    notice: Option<OwnedFd>,
    cgroup: Cgroup,
    /// Kills seen so far.
    seen: u64,
}

impl OomWatch {
    /// Watches a container's cgroup, as far as the host lets it.
    pub(crate) fn of(cgroup: &Cgroup) -> Self {
        let directory = cgroup.directory_of("memory");
        let notice = directory.and_then(|directory| match directory.join("memory.events") {
            events if events.exists() => watch_events(&events),
            _ => watch_distress(&directory),
        });
        Self { notice, cgroup: cgroup.clone(), seen: 0 }
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
        let count = self.cgroup.oom_kills().unwrap_or(self.seen);
        let grown = count > self.seen;
        self.seen = count;
        grown
    }

    /// Whether there was any kill.
    pub(crate) fn any(&mut self) -> bool {
        self.grown();
        self.seen > 0
    }
}

fn watch_events(counter: &Path) -> Option<OwnedFd> {
    let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
    let notice = inotify::init(flags).ok()?;
    inotify::add_watch(&notice, counter, inotify::WatchFlags::MODIFY).ok()?;
    Some(notice)
}

fn watch_distress(directory: &Path) -> Option<OwnedFd> {
    let notice = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok()?;
    let control = fs::File::open(directory.join("memory.oom_control")).ok()?;
    let line = format!("{} {}", notice.as_raw_fd(), control.as_raw_fd());
    fs::write(directory.join("cgroup.event_control"), line).ok()?;
    Some(notice)
}
