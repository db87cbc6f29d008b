// SPDX-License-Identifier: Apache-2.0
//! Sockets that a service manager opened for us (sd_listen_fds(3)).

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_setfd};

const FIRST: RawFd = 3;
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The sockets with their names, empty where there is no name. Once in a process's life: afterwards none is left.
///
/// # Errors
///
/// The variables make no sense, or what they name is not open.
pub fn take() -> io::Result<Vec<(String, OwnedFd)>> {
    let var = |name: &str| std::env::var(name).unwrap_or_default();
    let for_us = var("LISTEN_PID").parse::<u32>().is_ok_and(|pid| pid == std::process::id());
    if !for_us || TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    let bad =
        |e: std::num::ParseIntError| io::Error::new(io::ErrorKind::InvalidInput, format!("LISTEN_FDS: {e}"));
    let count: u16 = var("LISTEN_FDS").parse().map_err(bad)?;
    let names = var("LISTEN_FDNAMES");
    let mut names = names.split(':');
    let mut sockets = Vec::new();
    for fd in FIRST..FIRST + RawFd::from(count) {
        #[allow(unsafe_code)]
        // SAFETY: the manager opened these for this process, LISTEN_PID says so, and TAKEN lets nobody own them twice.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        if let Err(e) = fcntl_setfd(&socket, FdFlags::CLOEXEC) {
            // Not open: dropping it would close what somebody opens under this number later.
            std::mem::forget(socket);
            return Err(e.into());
        }
        sockets.push((names.next().unwrap_or_default().to_owned(), socket));
    }
    Ok(sockets)
}
