// SPDX-License-Identifier: Apache-2.0
//! Transient scopes: what systemd wants to know of a container's cgroup before there is one.
//!
//! A scope needs a process to begin with, and init must be born in the container's group. So a placeholder, a second copy
//! of the shim's program that does nothing, is the first process of the scope; it steps aside into a group of its own
//! (a group with processes cannot have controllers for its children) and ends once init runs, or when the daemon dies.
//! systemd removes the scope when its last process has gone.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use berth_domain::cgroup::scope_name;
use berth_domain::{ContainerId, Error, Result};
use futures_util::StreamExt as _;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use zbus::zvariant::{OwnedObjectPath, Value};

/// systemd's own socket: root needs no message bus to speak to it.
const PRIVATE: &str = "unix:path=/run/systemd/private";
/// A manager that takes longer has other worries.
const PATIENCE: Duration = Duration::from_secs(30);
/// The placeholder's group, beside the container's.
const ASIDE: &str = "hold";
/// What makes the shim's program a placeholder.
const HOLD: &str = "hold";

type Properties<'a> = Vec<(&'a str, Value<'a>)>;

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1",
    gen_blocking = false
)]
trait Manager {
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: Properties<'_>,
        aux: Vec<(&str, Properties<'_>)>,
    ) -> zbus::Result<OwnedObjectPath>;

    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: OwnedObjectPath, unit: String, result: String) -> zbus::Result<()>;
}

/// Asks systemd for scopes.
#[derive(Debug, Default)]
pub(crate) struct Scopes {
    /// Kept between containers; made anew when systemd has closed it, as it does when it is re-executed.
    connection: Mutex<Option<zbus::Connection>>,
}

/// A scope that stays while this does, or longer if the container's processes have moved in.
#[derive(Debug)]
pub struct Scope {
    /// Ends when its standard input does. Its exit status is collected by the runtime.
    _placeholder: Child,
}

impl Scopes {
    /// A scope for a container in a slice.
    ///
    /// # Errors
    ///
    /// systemd is not there, refuses, or takes too long.
    pub(crate) async fn start(
        &self,
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
        let asked = tokio::time::timeout(PATIENCE, self.ask(id, slice, pid)).await;
        asked.map_err(|e| failed().because(e))?.map_err(|e| failed().because(e))?;
        let scope = unified.join(path.trim_start_matches('/'));
        let scope = scope.parent().unwrap_or(unified).to_owned();
        // One write of the kernel's, though it may wait for a grace period.
        let moved = tokio::task::spawn_blocking(move || step_aside(&scope, pid)).await;
        moved.map_err(|e| failed().because(e))?.map_err(|(path, e)| Error::io("writing", &path, e))?;
        Ok(Scope { _placeholder: placeholder })
    }

    async fn ask(&self, id: &ContainerId, slice: &str, pid: u32) -> zbus::Result<()> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = &*kept {
            match start_unit(connection, id, slice, pid).await {
                Err(error) if broken(&error) => tracing::debug!(%error, "systemd has closed the connection"),
                done => return done,
            }
        }
        let connection = zbus::connection::Builder::address(PRIVATE)?.p2p().build().await?;
        let done = start_unit(&connection, id, slice, pid).await;
        *kept = Some(connection);
        done
    }
}

/// Whether another connection may do better.
fn broken(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::InputOutput(_))
}

async fn start_unit(
    connection: &zbus::Connection,
    id: &ContainerId,
    slice: &str,
    pid: u32,
) -> zbus::Result<()> {
    let manager = ManagerProxy::new(connection).await?;
    let mut removed = manager.receive_job_removed().await?;
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
    let job = manager.start_transient_unit(&unit, "replace", properties, Vec::new()).await?;
    while let Some(signal) = removed.next().await {
        let ended = signal.args()?;
        if ended.job == job {
            return match ended.result.as_str() {
                "done" => Ok(()),
                other => Err(zbus::Error::Failure(format!("the job for {unit} ended as {other:?}"))),
            };
        }
    }
    Err(zbus::Error::InputOutput(std::sync::Arc::new(io::ErrorKind::ConnectionReset.into())))
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
