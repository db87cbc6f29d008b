// SPDX-License-Identifier: Apache-2.0
//! What a start has done so far and how to take it back, newest first.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use berth_domain::ContainerId;
use berth_runtime::ShimEvent;
use berth_sys::{cgroup::Hierarchies, in_root, mount};
use berth_volume::{MountPoint, MountType, Volumes};
use tokio::sync::mpsc;

use crate::Engine;
use crate::seam::Shim;

/// How long processes that were killed may take to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a killed shim may. One that hangs in the kernel, in a file system that does not answer, ends when that lets
/// it go; whoever gave up the start is not to wait so long.
const SHIM_PATIENCE: Duration = Duration::from_secs(2);

/// One thing that was done.
#[derive(Debug)]
pub(crate) enum Step {
    /// The run directory was made.
    RunDir(PathBuf),
    /// A sandbox was asked for. Said before asking: releasing one that never came to be is no error.
    Sandbox,
    /// A tmpfs was mounted.
    Shm(PathBuf),
    /// Volumes were mounted, or some of them.
    Volumes(Arc<[MountPoint]>),
    /// A shim was spawned, and may have launched something.
    Shim(Arc<dyn Shim>, Option<mpsc::Receiver<ShimEvent>>),
}

/// The steps of one start.
#[derive(Debug, Default)]
pub(crate) struct Undo {
    steps: Vec<Step>,
}

impl Undo {
    pub(crate) fn push(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// Takes the shim's events out: the start went well.
    pub(crate) fn settle(&mut self) -> Option<mpsc::Receiver<ShimEvent>> {
        let mut events = None;
        for step in self.steps.drain(..) {
            if let Step::Shim(_, receiver) = step {
                events = receiver;
            }
        }
        events
    }

    /// Volumes are somebody else's to unmount.
    pub(crate) fn leave_volumes(&mut self) {
        self.steps.retain(|step| !matches!(step, Step::Volumes(_)));
    }

    /// Takes everything back. What cannot be is logged; the rest goes on.
    pub(crate) async fn run(&mut self, engine: &Engine, id: &ContainerId, cgroup: &str) {
        while let Some(step) = self.steps.pop() {
            match step {
                Step::Shim(shim, events) => {
                    shim.kill();
                    until_gone(events).await;
                    clear_cgroup(cgroup.to_owned()).await;
                }
                Step::Sandbox => engine.backends.networks.release(id).await,
                Step::Shm(path) => unmount(&path),
                Step::Volumes(points) => {
                    unmount_volumes(engine.backends.volumes.clone(), points, id.clone()).await;
                }
                Step::RunDir(path) => remove_dir(path).await,
            }
        }
    }
}

/// Waits until a shim's process has ended.
pub(crate) async fn until_gone(events: Option<mpsc::Receiver<ShimEvent>>) {
    let Some(mut events) = events else { return };
    let gone = async { while !matches!(events.recv().await, None | Some(ShimEvent::Gone)) {} };
    if tokio::time::timeout(SHIM_PATIENCE, gone).await.is_err() {
        tracing::error!("a killed shim does not end");
    }
}

/// Kills what is left in a cgroup and removes it.
pub(crate) async fn clear_cgroup(path: String) {
    let work = move || -> std::io::Result<bool> {
        let cgroups = Hierarchies::detect()?;
        Ok(cgroups.kill(&path, PATIENCE)? && cgroups.remove(&path)?)
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(true)) => {}
        Ok(Ok(false)) => tracing::error!("processes of a container cannot be killed"),
        Ok(Err(error)) => tracing::warn!(%error, "a container's cgroup could not be removed"),
        Err(error) => tracing::error!(%error, "removing a cgroup"),
    }
}

/// Lets go of the volumes of a run that has ended.
pub(crate) async fn unmount_volumes(volumes: Volumes, points: Arc<[MountPoint]>, id: ContainerId) {
    if points.iter().all(|point| point.r#type != MountType::Volume) {
        return;
    }
    // Its own thread: a volume's driver may be slow.
    let work = move || volumes.unmount_all(&points, &id);
    if let Err(error) = tokio::task::spawn_blocking(work).await {
        tracing::error!(%error, "unmounting volumes");
    }
}

pub(crate) fn unmount(path: &Path) {
    if let Err(error) = mount::detach(path) {
        tracing::warn!(path = %path.display(), %error, "unmounting");
    }
}

/// Removes a directory and all in it.
pub(crate) async fn remove_dir(path: PathBuf) {
    let shown = path.display().to_string();
    if let Err(error) = tokio::task::spawn_blocking(move || discard(&path)).await {
        tracing::error!(path = shown, %error, "removing a directory");
    }
}

/// The same; blocks. A container's bound goes with its directory, in whichever way that goes.
pub(crate) fn discard(path: &Path) {
    berth_volume::clear_places(path);
    let project = crate::storage::project_of(path);
    if let Err(error) = in_root::remove_path(path) {
        tracing::warn!(path = %path.display(), %error, "removing a directory");
        return;
    }
    if let Some(parent) = path.parent() {
        crate::storage::lift(parent, project);
    }
}
