// SPDX-License-Identifier: Apache-2.0
//! What the rest of the program sees of a container: a value that its task publishes after each change.
//! Reading it never waits for the task.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use berth_api::types::container_create::{ContainerConfig, HostConfig, NetworkingConfig};
use berth_domain::{ContainerId, IdMap, ImageId, Platform, Status};
use berth_network::SandboxRecord;
use berth_volume::MountPoint;
use jiff::Timestamp;

/// A container at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its id.
    pub id: ContainerId,
    /// Its name, without the API's leading slash.
    pub name: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// What it runs, merged with its image's config.
    pub config: Arc<ContainerConfig>,
    /// How it meets its host, defaults filled in.
    pub host_config: Arc<HostConfig>,
    /// The networks asked for.
    pub networking: Arc<NetworkingConfig>,
    /// Its image.
    pub image: ImageId,
    /// The image as it was named at create.
    pub image_name: String,
    /// The platform of its image.
    pub platform: Platform,
    /// The program (first of entrypoint and command).
    pub path: String,
    /// The program's arguments.
    pub args: Vec<String>,
    /// What it is doing.
    pub state: State,
    /// Its place on the network while it runs.
    pub sandbox: Option<Arc<SandboxRecord>>,
    /// What is mounted into it.
    pub mounts: Arc<[MountPoint]>,
    /// Its log file; `None` when output is not recorded.
    pub log_path: Option<PathBuf>,
    /// The last run's cgroup, as it was laid out then.
    pub cgroup: Option<Arc<str>>,
    /// Its users and groups, if they are not the host's.
    pub id_map: Option<Arc<IdMap>>,
    /// Files and directories of it.
    pub paths: Arc<Paths>,
}

/// What a container is doing, and did.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// The state.
    pub status: Status,
    /// Pid of the init process as the host sees it; 0 when there is none.
    pub pid: i32,
    /// The last run's exit code; 128+n for a death by signal n.
    pub exit_code: i32,
    /// Why the last start failed.
    pub error: String,
    /// Whether the kernel killed one of its processes for memory during the last run.
    pub oom_killed: bool,
    /// When init was last started.
    pub started_at: Option<Timestamp>,
    /// The same by the clock that nobody sets, while it runs.
    pub up_since: Option<Instant>,
    /// When init last ended.
    pub finished_at: Option<Timestamp>,
    /// Starts by the restart policy since the last start by a person.
    pub restart_count: u32,
    /// Runs that ended since the daemon came up; waiters compare it.
    pub exits: u64,
    /// Whether the container is gone: the last snapshot of all.
    pub removed: bool,
    /// Its health, if it has a health check and runs.
    pub health: Option<Arc<Health>>,
}

/// What the health check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The verdict.
    pub status: HealthStatus,
    /// Failed probes in a row.
    pub failing_streak: u32,
    /// The last five probes, oldest first.
    pub log: Vec<Probe>,
}

/// A health check's verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthStatus {
    /// No verdict yet.
    Starting,
    /// The last probe went well.
    Healthy,
    /// Too many probes failed in a row.
    Unhealthy,
}

impl HealthStatus {
    /// The word the API uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// One run of a health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// Its exit code; -1 when it ran out of time.
    pub exit_code: i32,
    /// What it printed, at most 4 KiB.
    pub output: String,
}

/// Where a container keeps its things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// Its directory in the data root.
    pub dir: PathBuf,
    /// Its directory in the exec root.
    pub run_dir: PathBuf,
    /// Upper directory of its root filesystem.
    pub upper: PathBuf,
    /// Work directory of its root filesystem.
    pub work: PathBuf,
    /// `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// `/etc/hostname`.
    pub hostname: PathBuf,
    /// `/etc/hosts`.
    pub hosts: PathBuf,
}

impl Paths {
    /// The paths of container `id`.
    #[must_use]
    pub fn of(config: &crate::EngineConfig, id: &ContainerId) -> Self {
        let dir = config.data_root.join("containers").join(id.as_str());
        Self {
            run_dir: config.exec_root.join("containers").join(id.as_str()),
            upper: dir.join("upper"),
            work: dir.join("work"),
            resolv_conf: dir.join("resolv.conf"),
            hostname: dir.join("hostname"),
            hosts: dir.join("hosts"),
            dir,
        }
    }

    /// The json-file log of container `id`.
    #[must_use]
    pub fn json_log(&self, id: &ContainerId) -> PathBuf {
        self.dir.join(format!("{id}-json.log"))
    }
}
