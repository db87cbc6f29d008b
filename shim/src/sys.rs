// SPDX-License-Identifier: Apache-2.0
//! The system calls that rustix does not have, or not safely.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io::{Error, Result};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Blocks the signals that the shim must not die of and gives a descriptor that tells of them.
///
/// Blocking rather than ignoring: what is ignored would stay so in programs that are executed.
pub(crate) fn signals() -> Result<OwnedFd> {
    default_dispositions();
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set before anything reads it, and all pointers are to it.
    let fd = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in [
            libc::SIGCHLD,
            libc::SIGTERM,
            libc::SIGINT,
            libc::SIGHUP,
            libc::SIGQUIT,
            libc::SIGPIPE,
            libc::SIGUSR1,
            libc::SIGUSR2,
            libc::SIGALRM,
            libc::SIGWINCH,
            libc::SIGTSTP,
            libc::SIGTTIN,
            libc::SIGTTOU,
        ] {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        if libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) != 0 {
            return Err(Error::last_os_error());
        }
        libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    owned(fd)
}

/// Nothing is ignored: neither what the daemon's parent had ignored, nor SIGPIPE, which the standard
/// library ignores. By the system call itself, since libc keeps two real-time signals from its callers.
fn default_dispositions() {
    // As large as the kernel's `struct sigaction` is anywhere; all zeros is SIG_DFL without flags.
    let default = [0u64; 8];
    for signal in 1..=64 {
        let (old, set_size) = (std::ptr::null_mut::<u64>(), 8usize);
        // SAFETY: the kernel reads its struct from `default`, which is no smaller, and writes nothing.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), old, set_size);
        }
    }
}

/// Has a command start with no signal blocked; those of this process would be, and stay so in whatever the
/// command executes.
pub(crate) fn unblock_signals(command: &mut Command) {
    let unblock = || {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set before it is read.
        let failed = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut()) != 0
        };
        if failed { Err(Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: the closure calls two async-signal-safe functions and allocates nothing.
    unsafe {
        command.pre_exec(unblock);
    }
}

/// The kernel's number, for who gets numbers.
pub(crate) const SIGCHLD: i32 = libc::SIGCHLD;

/// Signals that are waited for.
#[derive(Debug)]
pub(crate) struct AllSignals(libc::sigset_t);

/// Blocks every signal but those that a broken program sends itself.
pub(crate) fn block_all_signals() -> Result<AllSignals> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset initialises the set before anything reads it, and all pointers are to it.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        for signal in [
            libc::SIGFPE,
            libc::SIGILL,
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGABRT,
            libc::SIGTRAP,
            libc::SIGSYS,
        ] {
            libc::sigdelset(set.as_mut_ptr(), signal);
        }
        if libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) != 0 {
            return Err(Error::last_os_error());
        }
        Ok(AllSignals(set.assume_init()))
    }
}

impl AllSignals {
    /// The next one's number.
    pub(crate) fn wait(&self) -> Result<i32> {
        loop {
            // SAFETY: the set is initialised, and a null siginfo asks for none.
            let signal = unsafe { libc::sigwaitinfo(&raw const self.0, std::ptr::null_mut()) };
            if signal > 0 {
                return Ok(signal);
            }
            let error = Error::last_os_error();
            if error.kind() != std::io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

/// Sends a signal to a process that may have ended.
pub(crate) fn kill(pid: i32, signal: i32) {
    // SAFETY: takes no pointers.
    unsafe {
        libc::kill(pid, signal);
    }
}

/// Has a command start as leader of a process group, which is the foreground of the terminal if standard input is one,
/// and with no signal blocked.
pub(crate) fn lead_foreground(command: &mut Command) {
    let lead = || {
        // SAFETY: neither call takes pointers. That there is no terminal is no error; that this is not the foreground
        // stops nobody, since SIGTTOU is still blocked.
        unsafe {
            if libc::setpgid(0, 0) != 0 {
                return Err(Error::last_os_error());
            }
            libc::tcsetpgrp(0, libc::getpid());
        }
        Ok(())
    };
    // SAFETY: the closure calls async-signal-safe functions and allocates nothing.
    unsafe {
        command.pre_exec(lead);
    }
    unblock_signals(command);
}

/// A further process like this one. Sound here: this process has one thread.
pub(crate) fn fork() -> Result<Option<i32>> {
    // SAFETY: the shim is single-threaded, so no lock can be held by another thread in the child.
    match unsafe { libc::fork() } {
        -1 => Err(Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(pid)),
    }
}

/// In a forked child: closes every descriptor but standard error and these two.
pub(crate) fn keep_only(kept: [OwnedFd; 2]) -> Result<[OwnedFd; 2]> {
    let [a, b] = kept;
    let mut moved = [0; 2];
    for (fd, place) in [&a, &b].into_iter().zip(&mut moved) {
        // Far up first, so that neither lands on the other.
        // SAFETY: takes no pointers; the result is owned below.
        *place = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD, 1 << 9) };
        if *place < 0 {
            return Err(Error::last_os_error());
        }
    }
    std::mem::forget((a, b));
    let range = |from: i32, to: i32| {
        let (from, to) = (from.unsigned_abs(), to.unsigned_abs());
        // SAFETY: takes no pointers. In this process nothing uses the descriptors any more: it ends through
        // exit, and no destructor of their owners runs.
        unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) }
    };
    let [a, b] = moved;
    for (from, to) in [(3, a - 1), (a + 1, b - 1), (b + 1, i32::MAX)] {
        if from <= to && range(from, to) != 0 {
            return Err(Error::last_os_error());
        }
    }
    Ok([owned(a)?, owned(b)?])
}

/// An own copy of the mount table.
pub(crate) fn unshare_mounts() -> Result<()> {
    // SAFETY: takes no pointers.
    match unsafe { libc::unshare(libc::CLONE_NEWNS) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

/// A network namespace in a user namespace: the one that the descriptor is of, or else a new one.
pub(crate) fn found_namespaces(userns: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: takes no pointers; whether the descriptor is a user namespace is what is asked.
    let flags = match unsafe { libc::setns(userns.as_raw_fd(), libc::CLONE_NEWUSER) } {
        0 => libc::CLONE_NEWNET,
        _ if Error::last_os_error().raw_os_error() == Some(libc::EINVAL) => {
            libc::CLONE_NEWUSER | libc::CLONE_NEWNET
        }
        _ => return Err(Error::last_os_error()),
    };
    // SAFETY: takes no pointers.
    match unsafe { libc::unshare(flags) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

/// Sends a signal of any number, the real-time ones included.
pub(crate) fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    let (info, flags) = (std::ptr::null::<libc::siginfo_t>(), 0);
    // SAFETY: a null siginfo asks for that of kill(2).
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, flags) };
    if sent == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

/// Gives free memory at the end of the heap back to the kernel.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointers.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Takes over standard input, which must be a descriptor of ours, leaving `/dev/null` in its place.
pub(crate) fn take_stdin(null: BorrowedFd<'_>) -> Result<OwnedFd> {
    // SAFETY: fcntl and dup3 take no pointers; descriptor 0 is not owned by any Rust value.
    let taken = owned(unsafe { libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 64) })?;
    // SAFETY: as above.
    if unsafe { libc::dup2(null.as_raw_fd(), 0) } == -1 {
        return Err(Error::last_os_error());
    }
    Ok(taken)
}

/// Names the process: one started from a memfd is called by its number.
pub(crate) fn name_process(name: &CStr) {
    // SAFETY: the pointer is to a C string that outlives the call.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, name.as_ptr());
    }
}

fn owned(fd: RawFd) -> Result<OwnedFd> {
    if fd < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: the kernel just returned it as a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
