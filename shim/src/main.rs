// SPDX-License-Identifier: Apache-2.0
//! `berth-shim`: one small process beside every container.
//!
//! It is the parent of the container's processes and holds whatever must live as long as they do: their
//! standard streams and the log made of them, the attached clients' connections, the network namespace
//! and the sockets that reserve published ports. The daemon drives it over `shim/proto` and may die,
//! hang or be replaced at any moment; the exit status is on disk before anybody is told of it.
//!
//! Called `docker-init` it is something else: the init of containers that ask for one, see `reaper`.
//!
//! One thread, one loop over `poll`, nothing that waits:
//!
//! ```text
//!  daemon ⇄ link ─ requests ─┐
//!  signals ─ reaper ─────────┼─ container ─ runtime (native | OCI command line)
//!  timers ───────────────────┘      └─ processes ─ stdio ─ log, clients
//! ```

mod container;
mod detach;
mod files;
mod flusher;
mod link;
mod log;
mod oom;
mod process;
mod reaper;
mod requests;
mod runtime;
mod say;
mod shim;
mod stdcopy;
mod stdio;
mod sys;
mod watch;

use std::os::fd::AsFd;
use std::process::ExitCode;

use crate::say::say;
use crate::shim::Shim;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    if reaper::is_asked_for(args.next().as_deref()) {
        return ExitCode::from(u8::try_from(reaper::run(args)).unwrap_or(u8::MAX));
    }
    let role = match args.next().as_ref().and_then(|arg| arg.to_str()) {
        Some("hold") => hold,
        Some("namespaces") => namespaces,
        _ => serve,
    };
    match role() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The role of a placeholder: the first process of a systemd scope, until the container's own is there.
fn hold() -> std::io::Result<()> {
    sys::name_process(c"berth-hold");
    std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()).map(drop)
}

/// The role of a founder: makes a user namespace, or joins the one that standard output is, makes a network namespace that
/// it owns, says so, and stays for whoever opens them.
fn namespaces() -> std::io::Result<()> {
    use std::io::{Read as _, Write as _};
    sys::name_process(c"berth-found");
    let mut socket = std::os::unix::net::UnixStream::from(sys::take_stdin(stdio::null()?.as_fd())?);
    sys::found_namespaces(std::io::stdout().as_fd())?;
    socket.write_all(b"+")?;
    socket.read_to_end(&mut Vec::new()).map(drop)
}

fn serve() -> std::io::Result<()> {
    sys::name_process(c"berth-shim");
    let socket = sys::take_stdin(stdio::null()?.as_fd())?;
    if !rustix::net::sockopt::socket_type(&socket)
        .is_ok_and(|kind| kind == rustix::net::SocketType::SEQPACKET)
    {
        return Err(std::io::Error::other("standard input is not the daemon's socket"));
    }
    // The daemon's session and its service manager's signals are not ours. Fails for a leader, which is fine.
    rustix::process::setsid().ok();
    std::env::set_current_dir("/")?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    Ok(Shim::new(socket)?.run()?)
}
