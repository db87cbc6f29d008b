// SPDX-License-Identifier: Apache-2.0
//! The files a shim leaves, and the processes it may leave.

use std::path::Path;
use std::time::Duration;

use berth_domain::{Error, Result};
use berth_shim_proto::{BOOT_ID, EXIT_FILE, ExitRecord, PID_FILE, PidRecord};
use berth_sys::cgroup::Hierarchies;
use berth_sys::pidfd::PidFd;
use serde::de::DeserializeOwned;

/// Both files are written by rename: there is a whole one or none.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("reading", path, e)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| Error::internal(format!("reading {}", path.display())).because(e))
}

pub(super) fn read_exit(run_dir: &Path) -> Result<Option<ExitRecord>> {
    read(&run_dir.join(EXIT_FILE))
}

/// Whom a shim noted; nobody if that was before a reboot.
///
/// # Errors
///
/// The file is there and cannot be read.
pub fn read_pids(run_dir: &Path) -> Result<Option<PidRecord>> {
    let path = Path::new(BOOT_ID);
    let boot_id = std::fs::read_to_string(path).map_err(|e| Error::io("reading", path, e))?;
    Ok(read::<PidRecord>(&run_dir.join(PID_FILE))?.map(|record| record.in_boot(&boot_id)))
}

/// Removes what an earlier shim left in a run directory.
pub(super) fn forget(run_dir: &Path) -> Result<()> {
    for name in [EXIT_FILE, PID_FILE] {
        let path = run_dir.join(name);
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("removing", &path, e)),
        }
    }
    Ok(())
}

pub(super) fn kill_process(pid: i32, started: u64) -> Result<()> {
    let killed = PidFd::open_started(pid, started).and_then(|process| match process {
        Some(process) => process.kill(),
        None => Ok(false),
    });
    killed.map(drop).map_err(|e| Error::internal(format!("killing process {pid}")).because(e))
}

/// Kills what a lost shim left running and removes its cgroup: init and the shim by their recorded pids (guarded by their start
/// times), everything else by the cgroup. Blocks up to `limit`; false if something would not die.
///
/// # Errors
///
/// The kernel refused.
pub fn kill_remains(pids: Option<&PidRecord>, cgroups_path: &str, limit: Duration) -> Result<bool> {
    if let Some(pids) = pids {
        kill_process(pids.shim, pids.shim_started)?;
        kill_process(pids.init, pids.init_started)?;
    }
    let failed = |e| Error::io("emptying cgroup", cgroups_path, e);
    let hierarchies = Hierarchies::detect().map_err(failed)?;
    let dead = hierarchies.kill(cgroups_path, limit).map_err(failed)?;
    Ok(dead && hierarchies.remove(cgroups_path).map_err(failed)?)
}
