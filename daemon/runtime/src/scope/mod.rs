// SPDX-License-Identifier: Apache-2.0
//! Transient scopes: what systemd wants to know of a container's cgroup before there is one.
//!
//! A scope needs a process to begin with, and init must be born in the container's group. So a placeholder, a second copy
//! of the shim's program that does nothing, is the first process of the scope; it steps aside into a group of its own
//! (a group with processes cannot have controllers for its children) and ends once init runs, or when the daemon dies.
//! systemd removes the scope when its last process has gone.

mod bus;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use berth_domain::cgroup::scope_name;
use berth_domain::{ContainerId, Error, Result};
use tokio::process::{Child, Command};
use zvariant::{OwnedObjectPath, Value};

use self::bus::{Bus, Method};

/// systemd's own socket: root needs no message bus to speak to it.
const PRIVATE: &str = "/run/systemd/private";
/// A manager that takes longer has other worries.
const PATIENCE: Duration = Duration::from_secs(30);
/// The placeholder's group, beside the container's.
const ASIDE: &str = "hold";
/// What makes the shim's program a placeholder.
const HOLD: &str = "hold";

type Properties<'a> = Vec<(&'a str, Value<'a>)>;

const START: Method<'_> = Method {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
    member: "StartTransientUnit",
};

/// A scope that stays while this does, or longer if the container's processes have moved in.
#[derive(Debug)]
pub struct Scope {
    /// Ends when its standard input does. Its exit status is collected by the runtime.
    _placeholder: Child,
}

/// A scope for a container in a slice.
///
/// # Errors
///
/// systemd is not there, refuses, or takes too long.
pub(crate) async fn start(
    program: BorrowedFd<'_>,
    id: &ContainerId,
    slice: &str,
    unified: &Path,
    path: &str,
) -> Result<Scope> {
    let failed = || Error::internal(format!("asking systemd for the scope of container {}", id.short()));
    let placeholder = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
        .arg0("berth-hold")
        .arg(HOLD)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|e| failed().because(e))?;
    let pid = placeholder.id().ok_or_else(failed)?;
    let asked = tokio::time::timeout(PATIENCE, ask(id, slice, pid)).await;
    asked.map_err(|e| failed().because(e))?.map_err(|e| failed().because(e))?;
    let scope = unified.join(path.trim_start_matches('/'));
    let scope = scope.parent().unwrap_or(unified).to_owned();
    // One write of the kernel's, though it may wait for a grace period.
    let moved = tokio::task::spawn_blocking(move || step_aside(&scope, pid)).await;
    moved.map_err(|e| failed().because(e))?.map_err(|(path, e)| Error::io("writing", &path, e))?;
    Ok(Scope { _placeholder: placeholder })
}

async fn ask(id: &ContainerId, slice: &str, pid: u32) -> io::Result<()> {
    // A connection for each: systemd tells every one of them of every unit, and an idle one fills up with that.
    let mut bus = Bus::connect(Path::new(PRIVATE)).await?;
    loop {
        match start_unit(&mut bus, id, slice, pid).await {
            // The last run's scope is on its way out.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => removal(&mut bus, id).await?,
            done => return done,
        }
    }
}

/// Waits until a container's unit is gone. It was there when a call on this connection was refused for its sake, so that
/// what tells of its removal comes behind that.
async fn removal(bus: &mut Bus, id: &ContainerId) -> io::Result<()> {
    let unit = scope_name(id.as_str());
    loop {
        let message = bus.next().await?;
        if message.is_signal("UnitRemoved") && message.content::<(String, OwnedObjectPath)>()?.0 == unit {
            return Ok(());
        }
    }
}

async fn start_unit(bus: &mut Bus, id: &ContainerId, slice: &str, pid: u32) -> io::Result<()> {
    let description = format!("Berth container {}", id.short());
    let properties: Properties<'_> = vec![
        ("Description", description.into()),
        ("Slice", slice.into()),
        ("PIDs", vec![pid].into()),
        ("Delegate", true.into()),
        // Containers outlive the daemon and are stopped by nobody but it.
        ("DefaultDependencies", false.into()),
        // A container that the kernel killed leaves no failed unit behind.
        ("CollectMode", "inactive-or-failed".into()),
        ("TasksMax", u64::MAX.into()),
    ];
    let unit = scope_name(id.as_str());
    let auxiliary: Vec<(&str, Properties<'_>)> = Vec::new();
    let serial = bus.call(START, &(unit.as_str(), "replace", properties, auxiliary)).await?;
    // The job may end before the reply to the call that began it.
    let (mut job, mut ended) = (None, HashMap::new());
    loop {
        let message = bus.next().await?;
        if message.answers(serial) {
            job = Some(message.content::<OwnedObjectPath>()?);
        } else if message.is_signal("JobRemoved") {
            let (_, path, _, result): (u32, OwnedObjectPath, String, String) = message.content()?;
            ended.insert(path, result);
        }
        let result = job.as_ref().and_then(|job| ended.get(job));
        match result.map(String::as_str) {
            None => {}
            Some("done") => return Ok(()),
            Some(other) => return Err(io::Error::other(format!("the job for {unit} ended as {other:?}"))),
        }
    }
}

/// Moves a process from the scope's group to one below it.
fn step_aside(scope: &Path, pid: u32) -> Result<(), (PathBuf, io::Error)> {
    let group = scope.join(ASIDE);
    match fs::create_dir(&group) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err((group, e)),
        _ => {}
    }
    let procs = group.join("cgroup.procs");
    fs::write(&procs, pid.to_string()).map_err(|e| (procs, e))
}
