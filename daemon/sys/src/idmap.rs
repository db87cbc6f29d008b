// SPDX-License-Identifier: Apache-2.0
//! Mounts that show their files' owners as others.
//!
//! The kernel takes such a mapping as a user namespace. One is made for a moment: the process that it is made with does
//! nothing but wait for its end, and the mount keeps the namespace.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, WaitId, WaitIdOptions};

/// So many ids in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first as the file system has it.
    pub stored: u32,
    /// The first as it is seen through the mount.
    pub seen: u32,
    /// How many.
    pub count: u32,
}

/// How owners are mapped; ids that are in no range are nobody's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerMap {
    /// Users.
    pub uids: Vec<Range>,
    /// Groups.
    pub gids: Vec<Range>,
}

fn lines(ranges: &[Range]) -> String {
    ranges.iter().map(|r| format!("{} {} {}\n", r.stored, r.seen, r.count)).collect()
}

impl OwnerMap {
    /// Maps the owners of a detached mount, of the mounts beneath it too if asked.
    ///
    /// # Errors
    ///
    /// The file system cannot, or its owners are mapped already; not permitted.
    pub fn apply(&self, mount: &OwnedFd, recursive: bool) -> io::Result<()> {
        let namespace = self.namespace()?;
        crate::filesystem::map_owners(mount, recursive, &namespace).map_err(|error| {
            io::Error::new(error.kind(), format!("owners cannot be mapped on this file system: {error}"))
        })
    }

    fn namespace(&self) -> io::Result<OwnedFd> {
        let waiting = Waiting::start()?;
        let of = |name: &str| format!("/proc/{}/{name}", waiting.pid.as_raw_nonzero());
        for (name, map) in [("uid_map", &self.uids), ("gid_map", &self.gids)] {
            let path = of(name);
            let failed = |error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"));
            std::fs::write(&path, lines(map)).map_err(failed)?;
        }
        Ok(rustix::fs::open(of("ns/user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    }
}

/// A process in a user namespace of its own, ended and reaped with this.
struct Waiting {
    pid: Pid,
    pidfd: OwnedFd,
    /// It ends when this is closed.
    end: Option<OwnedFd>,
}

impl Waiting {
    #[allow(unsafe_code)]
    fn start() -> io::Result<Self> {
        let (here, end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let flags = libc::c_long::from(libc::CLONE_NEWUSER | libc::CLONE_PIDFD);
        let mut pidfd: libc::c_int = -1;
        let (pipe, other) = (here.as_raw_fd(), end.as_raw_fd());
        // SAFETY: a fork (no memory is shared, and no signal is sent at its end); what the child does is three system calls on
        // numbers that were taken before, and it never returns. `pidfd` outlives the call.
        let pid = unsafe {
            let pid = libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0);
            if pid == 0 {
                let mut byte = 0_u8;
                libc::syscall(libc::SYS_close, other);
                libc::syscall(libc::SYS_read, pipe, &raw mut byte, 1);
                libc::syscall(libc::SYS_exit_group, 0);
                // Not reached.
                libc::abort();
            }
            pid
        };
        if pid < 0 {
            let error = io::Error::last_os_error();
            return Err(io::Error::new(error.kind(), format!("making a user namespace: {error}")));
        }
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
        // SAFETY: the kernel has just made this descriptor for us.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(Self { pid, pidfd, end: Some(end) })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        drop(self.end.take());
        use std::os::fd::AsFd as _;
        // It sends no signal at its end, so that it is a clone to wait(2).
        let options = WaitIdOptions::EXITED | WaitIdOptions::from_bits_retain(0x8000_0000);
        loop {
            match rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
                Err(rustix::io::Errno::INTR) => {}
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::os::unix::fs::MetadataExt as _;

    use rustix::fs::AtFlags;

    use super::*;

    #[test]
    fn owners_are_seen_as_others_and_nobody_is_left() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        std::fs::write(dir.path().join("f"), "").unwrap();
        let range = |seen| vec![Range { stored: 0, seen, count: 1 }];
        let map = OwnerMap { uids: range(1000), gids: range(2000) };
        let flags =
            rustix::mount::OpenTreeFlags::OPEN_TREE_CLONE | rustix::mount::OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let clone = || rustix::mount::open_tree(rustix::fs::CWD, dir.path(), flags).unwrap();
        let tree = clone();
        map.apply(&tree, false).unwrap();
        let seen = rustix::fs::statat(&tree, "f", AtFlags::SYMLINK_NOFOLLOW).unwrap();
        assert_eq!((seen.st_uid, seen.st_gid), (1000, 2000));
        assert_eq!(std::fs::metadata(dir.path().join("f")).unwrap().uid(), 0);
        let twice = OwnerMap { uids: [range(1), range(2)].concat(), gids: range(1) };
        assert!(twice.apply(&clone(), false).is_err(), "one id in two ranges");
        let children = std::fs::read_to_string(format!(
            "/proc/self/task/{}/children",
            rustix::thread::gettid().as_raw_nonzero()
        ));
        assert_eq!(children.unwrap_or_default(), "");
    }
}
