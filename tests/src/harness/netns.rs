// SPDX-License-Identifier: Apache-2.0
//! A network namespace of the test's own, kept by a file descriptor.
#![allow(unsafe_code)] // Joining a namespace between fork and exec.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// A network namespace; it goes when the last process and descriptor in it go.
#[derive(Clone, Debug)]
pub struct NetNs {
    file: Arc<File>,
}

impl NetNs {
    /// A new one, its loopback up.
    #[must_use]
    pub fn new() -> Self {
        std::thread::spawn(|| {
            // SAFETY: plain system calls on this thread only.
            unsafe {
                assert_eq!(
                    libc::unshare(libc::CLONE_NEWNET),
                    0,
                    "unshare: {}",
                    std::io::Error::last_os_error()
                );
                let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
                assert!(socket >= 0);
                let mut request: libc::ifreq = std::mem::zeroed();
                request.ifr_name[0] = b'l' as libc::c_char;
                request.ifr_name[1] = b'o' as libc::c_char;
                request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).unwrap();
                assert_eq!(libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw const request), 0, "lo up");
                libc::close(socket);
            }
            Self { file: Arc::new(File::open("/proc/thread-self/ns/net").expect("opening the namespace")) }
        })
        .join()
        .expect("making a network namespace")
    }

    /// An existing one, by a file of it.
    #[must_use]
    pub fn open(path: &Path) -> Self {
        Self { file: Arc::new(File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))) }
    }

    /// Its file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Tells namespaces apart.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.file.metadata().expect("stat of the namespace").ino()
    }

    /// Makes the command's process run in it.
    pub fn place(&self, command: &mut Command) {
        let file = Arc::clone(&self.file);
        // SAFETY: setns is async-signal-safe and touches no memory.
        unsafe {
            command.pre_exec(move || {
                if libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) == 0 {
                    Ok(())
                } else {
                    Err(std::io::Error::last_os_error())
                }
            });
        }
    }

    /// Runs `work` on a thread in it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    // SAFETY: a plain system call on this thread only.
                    let entered = unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) };
                    assert_eq!(entered, 0, "setns: {}", std::io::Error::last_os_error());
                    work()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Default for NetNs {
    fn default() -> Self {
        Self::new()
    }
}

/// Makes the command's stdin its controlling terminal.
pub(super) fn controlling_terminal(command: &mut Command) {
    // SAFETY: setsid and ioctl are async-signal-safe and touch no memory of ours.
    unsafe {
        command.pre_exec(|| {
            if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
}
