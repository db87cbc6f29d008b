// SPDX-License-Identifier: Apache-2.0
//! Finding a shim that an earlier daemon started.

use std::path::Path;
use std::time::{Duration, Instant};

use berth_domain::{ContainerId, Error, Result};
use berth_shim_proto::SOCKET_NAME;
use berth_sys::pidfd::PidFd;
use berth_sys::seqpacket;

use super::requests::Socket;
use super::{Adoption, remains, shims, supervisor};

/// How long a living shim is given to accept and to say what runs, or to end after its socket has gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one is that was still starting its container when the daemon fell.
const LONE_PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

/// Connects to the socket in a run directory and checks who is there: our own uid, and the expected process.
pub(super) fn reach(run_dir: &Path, pid: i32) -> Result<Socket> {
    let path = run_dir.join(SOCKET_NAME);
    let failed = |e: std::io::Error| Error::io("connecting to", &path, e);
    let socket = seqpacket::connect(&path).map_err(failed)?;
    let peer = seqpacket::peer(&socket).map_err(failed)?;
    let uid = rustix::process::geteuid().as_raw();
    if peer.uid != uid || peer.pid != pid {
        return Err(Error::internal(format!(
            "{}: process {} of user {} listens, not the shim {pid}",
            path.display(),
            peer.pid,
            peer.uid
        )));
    }
    supervisor::register(socket).map_err(failed)
}

/// See [`super::Shims::connect`].
pub(super) async fn adopt(id: &ContainerId, run_dir: &Path) -> Result<Adoption> {
    let Some(pids) = remains::read_pids(run_dir)? else {
        // The daemon fell before the container ran: a shim that still builds it has no pid file yet.
        return match lone_shim(run_dir)? {
            Some([process, again]) => match meet(id, run_dir, process, LONE_PATIENCE).await {
                Err(error) => {
                    // It hangs in the kernel, perhaps, and ends when that lets it go. Nobody waits for its container.
                    tracing::warn!(
                        error = error.chain(),
                        "killing a shim that starts a container and does not answer"
                    );
                    again.kill().map_err(|e| Error::io("killing the shim of", run_dir, e))?;
                    Ok(Adoption::Lost(None))
                }
                found => found,
            },
            None => Ok(remains::read_exit(run_dir)?.map_or(Adoption::Lost(None), Adoption::Ended)),
        };
    };
    let process = PidFd::open_started(pids.shim, pids.shim_started).map_err(|e| {
        Error::internal(format!("looking for the shim {} of {}", pids.shim, id.short())).because(e)
    })?;
    match process {
        Some(process) => match meet(id, run_dir, process, PATIENCE).await? {
            Adoption::Lost(_) => Ok(Adoption::Lost(Some(pids))),
            found => Ok(found),
        },
        None => Ok(remains::read_exit(run_dir)?.map_or(Adoption::Lost(Some(pids)), Adoption::Ended)),
    }
}

/// A shim known by nothing but its socket, twice.
fn lone_shim(run_dir: &Path) -> Result<Option<[PidFd; 2]>> {
    let path = run_dir.join(SOCKET_NAME);
    let Ok(socket) = seqpacket::connect(&path) else { return Ok(None) };
    let peer = seqpacket::peer(&socket).map_err(|e| Error::io("asking who listens at", &path, e))?;
    match PidFd::open(peer.pid).and_then(|process| Ok([process, PidFd::open(peer.pid)?])) {
        Ok(processes) => Ok(Some(processes)),
        // It ended between the two calls.
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(None),
        Err(e) => Err(Error::io("watching who listens at", &path, e)),
    }
}

async fn meet(id: &ContainerId, run_dir: &Path, process: PidFd, patience: Duration) -> Result<Adoption> {
    let deadline = Instant::now() + patience;
    loop {
        let ended = process.has_ended().map_err(|e| Error::io("polling the shim of", run_dir, e))?;
        if ended {
            return Ok(remains::read_exit(run_dir)?.map_or(Adoption::Lost(None), Adoption::Ended));
        }
        match reach(run_dir, process.pid()) {
            Ok(socket) => {
                let answer = shims::assemble_found(id, run_dir, process, socket, patience).await;
                return answer.map(Adoption::Alive);
            }
            // It may be on its way out, or busy with the connection of the daemon that fell.
            Err(error) if Instant::now() >= deadline => {
                let living = format!("the shim of container {} lives and does not answer", id.short());
                return Err(Error::unavailable(living).because(error));
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
