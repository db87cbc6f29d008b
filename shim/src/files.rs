// SPDX-License-Identifier: Apache-2.0
//! What the shim leaves in the run directory for a daemon that comes later.

use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use berth_shim_proto::{BOOT_ID, EXIT_FILE, ExitRecord, PID_FILE, PidRecord, SOCKET_NAME};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::Serialize;

/// Listens for daemons in the run directory.
pub(crate) fn listen(bundle: &Path) -> Result<OwnedFd> {
    let path = bundle.join(SOCKET_NAME);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    // Through a descriptor: the path may be longer than the 108 bytes that a socket's address holds.
    let directory =
        rustix::fs::open(bundle, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let address = format!("/proc/self/fd/{}/{SOCKET_NAME}", directory.as_fd().as_raw_fd());
    let umask = rustix::process::umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
    let bound = rustix::net::bind(&socket, &SocketAddrUnix::new(address)?);
    rustix::process::umask(umask);
    bound?;
    rustix::net::listen(&socket, 16)?;
    Ok(socket)
}

/// Writes down who the shim and init are.
pub(crate) fn write_pids(bundle: &Path, init: i32) -> Result<()> {
    let shim = i32::try_from(std::process::id()).map_err(Error::other)?;
    let boot_id = fs::read_to_string(BOOT_ID)?.trim().to_owned();
    let (shim_started, init_started) = (started_at(shim)?, started_at(init)?);
    let record = PidRecord { shim, shim_started, init, init_started, boot_id };
    write(bundle, PID_FILE, &record)
}

/// Writes down how init ended.
pub(crate) fn write_exit(bundle: &Path, record: &ExitRecord) -> Result<()> {
    write(bundle, EXIT_FILE, record)
}

/// Whole or not at all. The directory is on a tmpfs: there is nothing to sync.
fn write(bundle: &Path, name: &str, record: &impl Serialize) -> Result<()> {
    let partial = bundle.join(format!("{name}.tmp"));
    fs::write(&partial, serde_json::to_vec(record)?)?;
    fs::rename(&partial, bundle.join(name))
}

/// Start time of a process in clock ticks since boot.
fn started_at(pid: i32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name before it may hold spaces and parentheses; the start time is the 22nd field of all.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace());
    let field = fields.and_then(|mut fields| fields.nth(19)).and_then(|field| field.parse().ok());
    field.ok_or_else(|| Error::new(ErrorKind::InvalidData, format!("/proc/{pid}/stat")))
}
