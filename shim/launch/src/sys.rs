// SPDX-License-Identifier: Apache-2.0
//! The system calls that rustix lacks: this crate's only unsafe code.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_long};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use berth_seccomp::SockFilter;
use rustix::io::Errno;

pub(crate) const CLONE_NEWTIME: u64 = 0x80;
pub(crate) const CLONE_NEWNS: u64 = 0x0002_0000;
pub(crate) const CLONE_NEWCGROUP: u64 = 0x0200_0000;
pub(crate) const CLONE_NEWUTS: u64 = 0x0400_0000;
pub(crate) const CLONE_NEWIPC: u64 = 0x0800_0000;
pub(crate) const CLONE_NEWUSER: u64 = 0x1000_0000;
pub(crate) const CLONE_NEWPID: u64 = 0x2000_0000;
pub(crate) const CLONE_NEWNET: u64 = 0x4000_0000;
const CLONE_PIDFD: u64 = 0x1000;
const CLONE_PARENT: u64 = 0x8000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

pub(crate) const ATTR_RDONLY: u64 = 0x1;
pub(crate) const ATTR_NOSUID: u64 = 0x2;
pub(crate) const ATTR_NODEV: u64 = 0x4;
pub(crate) const ATTR_NOEXEC: u64 = 0x8;
pub(crate) const ATTR_ATIME: u64 = 0x70;
pub(crate) const ATTR_NOATIME: u64 = 0x10;
pub(crate) const ATTR_STRICTATIME: u64 = 0x20;
pub(crate) const ATTR_NODIRATIME: u64 = 0x80;
pub(crate) const ATTR_IDMAP: u64 = 0x10_0000;
pub(crate) const ATTR_NOSYMFOLLOW: u64 = 0x20_0000;

pub(crate) const MS_UNBINDABLE: u64 = 1 << 17;
pub(crate) const MS_PRIVATE: u64 = 1 << 18;
pub(crate) const MS_SLAVE: u64 = 1 << 19;
pub(crate) const MS_SHARED: u64 = 1 << 20;

pub(crate) const PROC_SUPER_MAGIC: i64 = 0x9fa0;
pub(crate) const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;
pub(crate) const CGROUP_SUPER_MAGIC: i64 = 0x27_e0eb;
pub(crate) const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;

/// The kernel's `struct clone_args`, up to the version that has `cgroup`.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// The kernel's `struct mount_attr`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MountAttr {
    pub(crate) set: u64,
    pub(crate) clear: u64,
    pub(crate) propagation: u64,
    pub(crate) userns_fd: u64,
}

impl MountAttr {
    pub(crate) fn is_noop(&self) -> bool {
        *self == Self::default()
    }
}

/// Which side of [`clone3`] this is.
pub(crate) enum Cloned {
    Child,
    Parent { pid: i32, pidfd: OwnedFd },
}

fn check(result: c_long) -> Result<c_long, Errno> {
    if result < 0 { Err(last_errno()) } else { Ok(result) }
}

fn check_int(result: i32) -> Result<i32, Errno> {
    if result < 0 { Err(last_errno()) } else { Ok(result) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Forks with new namespaces, into a v2 cgroup if one is given.
///
/// The caller's process must have a single thread: the child goes on with everything that the C
/// library and the allocator had in memory.
pub(crate) fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Cloned, Errno> {
    let signal = u64::try_from(libc::SIGCHLD).unwrap_or_default();
    clone_with(flags, signal, cgroup)
}

/// As [`clone3`], but the new process is this one's sibling: its parent, and the one to reap it, is this
/// process's own parent.
pub(crate) fn clone3_sibling(flags: u64) -> Result<Cloned, Errno> {
    // The signal at its end is the one that this process's would be.
    clone_with(flags | CLONE_PARENT, 0, None)
}

fn clone_with(flags: u64, exit_signal: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Cloned, Errno> {
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: flags | CLONE_PIDFD,
        pidfd: ptr::from_mut(&mut pidfd) as u64,
        exit_signal,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::try_from(cgroup.as_raw_fd()).unwrap_or_default();
    }
    // SAFETY: without CLONE_VM the child runs on a copy of this address space, as after fork; `args`
    // and `pidfd` live across the call; the only thread is the caller (documented requirement).
    let result = unsafe {
        libc::syscall(libc::SYS_clone3, ptr::from_mut(&mut args), std::mem::size_of::<CloneArgs>())
    };
    match check(result)? {
        0 => Ok(Cloned::Child),
        pid => {
            // SAFETY: CLONE_PIDFD stored a descriptor that nothing else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid: i32::try_from(pid).unwrap_or(-1), pidfd })
        }
    }
}

/// Changes flags and propagation of the mount that `fd` is on, which must be its root.
pub(crate) fn mount_setattr(fd: impl AsFd, recursive: bool, attr: &MountAttr) -> Result<(), Errno> {
    mount_setattr_at(fd.as_fd(), c"", libc::AT_EMPTY_PATH, recursive, attr)
}

/// Changes flags and propagation of the mount at a path.
pub(crate) fn mount_setattr_at(
    fd: BorrowedFd<'_>,
    path: &CStr,
    flags: i32,
    recursive: bool,
    attr: &MountAttr,
) -> Result<(), Errno> {
    let flags = flags | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the pointers are to a C string and a structure of the size that is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            path.as_ptr(),
            flags,
            ptr::from_ref(attr),
            std::mem::size_of::<MountAttr>(),
        )
    };
    check(result).map(drop)
}

/// Joins the namespaces in `flags` of a process (pidfd) or the one namespace that `fd` is of.
pub(crate) fn setns(fd: BorrowedFd<'_>, flags: u64) -> Result<(), Errno> {
    let flags = i32::try_from(flags).map_err(|_| Errno::INVAL)?;
    // SAFETY: no memory is involved.
    check_int(unsafe { libc::setns(fd.as_raw_fd(), flags) }).map(drop)
}

/// Makes new namespaces.
pub(crate) fn unshare(flags: u64) -> Result<(), Errno> {
    let flags = i32::try_from(flags).map_err(|_| Errno::INVAL)?;
    // SAFETY: no memory is involved; CLONE_FILES, which could pull descriptors from under others, is
    // never among the flags.
    check_int(unsafe { libc::unshare(flags) }).map(drop)
}

/// Installs a seccomp filter for this thread.
pub(crate) fn seccomp_load(filter: &[SockFilter], flags: u64) -> Result<(), Errno> {
    #[repr(C)]
    struct Program {
        length: u16,
        filter: *const SockFilter,
    }
    let program =
        Program { length: u16::try_from(filter.len()).map_err(|_| Errno::INVAL)?, filter: filter.as_ptr() };
    const SET_MODE_FILTER: u64 = 1;
    // SAFETY: `SockFilter` has the layout of `struct sock_filter`, and the program outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, ptr::from_ref(&program)) };
    check(result).map(drop)
}

/// Gives this process a fresh session keyring, so that it does not share its parent's.
pub(crate) fn join_new_session_keyring() -> Result<(), Errno> {
    const KEYCTL_JOIN_SESSION_KEYRING: u64 = 1;
    // SAFETY: a null name makes an anonymous keyring; no memory is involved.
    let result =
        unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, ptr::null::<libc::c_char>()) };
    check(result).map(drop)
}

/// Back to the dispositions and the mask that a fresh program expects: what a shim ignores or blocks
/// would otherwise be inherited through `execve`.
pub(crate) fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL needs no handler. Fails harmlessly for SIGKILL, SIGSTOP and those that the C
        // library keeps for itself.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: the set is initialised by sigemptyset before it is used.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, ptr::null_mut());
    }
}

/// Marks every descriptor from `first` on close-on-exec.
pub(crate) fn close_range_on_exec(first: u32) -> Result<(), Errno> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: descriptors stay open, so no owner loses one.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) };
    check(result).map(drop)
}

/// Replaces the program. Returns only on failure.
pub(crate) fn execve(path: &CStr, args: &[CString], env: &[CString]) -> Errno {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end in a null pointer, and their strings live until the call returns.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    last_errno()
}

/// Ends this process at once, without running anything that the parent registered.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: never returns; no destructors are wanted in a forked child.
    unsafe { libc::_exit(code) }
}

/// `personality(2)`.
pub(crate) fn personality(persona: u64) -> Result<(), Errno> {
    // SAFETY: no memory is involved.
    check_int(unsafe { libc::personality(persona) }).map(drop)
}

/// Makes `fd` the descriptor `to`, without close-on-exec.
pub(crate) fn dup_to(fd: BorrowedFd<'_>, to: RawFd) -> Result<(), Errno> {
    if fd.as_raw_fd() == to {
        // dup2 onto itself would leave close-on-exec set.
        // SAFETY: no memory is involved.
        return check_int(unsafe { libc::fcntl(to, libc::F_SETFD, 0) }).map(drop);
    }
    // SAFETY: `to` is 0, 1 or 2, which no `OwnedFd` of the forked child owns.
    check_int(unsafe { libc::dup2(fd.as_raw_fd(), to) }).map(drop)
}

/// `bpf(2)`.
pub(crate) fn bpf<T>(command: u64, attr: &mut T) -> Result<c_long, Errno> {
    // SAFETY: callers pass the structure that the kernel reads for `command`, with its size.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_mut(attr), std::mem::size_of::<T>()) })
}

/// Takes ownership of a descriptor that a system call has just returned.
pub(crate) fn own(fd: c_long) -> Result<OwnedFd, Errno> {
    let fd = RawFd::try_from(fd).map_err(|_| Errno::BADF)?;
    // SAFETY: callers pass what the kernel has just made for them.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
