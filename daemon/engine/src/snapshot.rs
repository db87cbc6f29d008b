// SPDX-License-Identifier: Apache-2.0
//! What the rest of the program sees of a container: a value that its task publishes after each change.
//! Reading it never waits for the task.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use berth_api::types::container_create::{ContainerConfig, HostConfig, NetworkingConfig};
use berth_domain::{ContainerId, ImageId, Platform, Status};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

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
    pub sandbox: Option<Arc<Sandbox>>,
    /// What is mounted into it.
    pub mounts: Arc<[MountPoint]>,
    /// Its log file; `None` when output is not recorded.
    pub log_path: Option<PathBuf>,
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

/// A container's place on the network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sandbox {
    /// The sandbox's id, 64 hexadecimal digits.
    pub id: String,
    /// Path of its network namespace; empty when it has none of its own.
    pub key: String,
    /// One for each network joined.
    pub endpoints: Vec<Endpoint>,
    /// Container ports published on the host.
    pub ports: Vec<PublishedPort>,
}

/// A container's place on one network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    /// Name of the network.
    pub network: String,
    /// Id of the network.
    pub network_id: String,
    /// Driver of the network (`bridge`, `host`, `null`).
    pub driver: String,
    /// Id of this endpoint.
    pub endpoint_id: String,
    /// IPv4 address.
    pub ip: Option<IpAddr>,
    /// Length of its prefix.
    pub prefix_len: u8,
    /// IPv4 gateway.
    pub gateway: Option<IpAddr>,
    /// IPv6 address.
    pub ipv6: Option<IpAddr>,
    /// Length of its prefix.
    pub ipv6_prefix_len: u8,
    /// IPv6 gateway.
    pub ipv6_gateway: Option<IpAddr>,
    /// Hardware address, `02:42:...`.
    pub mac: String,
    /// Names it answers to on the network besides the container's own.
    pub aliases: Vec<String>,
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PublishedPort {
    /// Port in the container.
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Address on the host.
    pub host_ip: IpAddr,
    /// Port on the host.
    pub host_port: u16,
}

/// Something mounted into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    /// What kind.
    pub kind: MountKind,
    /// A volume's name; empty otherwise.
    pub name: String,
    /// Path on the host; empty for a tmpfs.
    pub source: PathBuf,
    /// Path in the container.
    pub destination: String,
    /// A volume's driver; empty otherwise.
    pub driver: String,
    /// The mode string asked for (`ro`, `z`, ...).
    pub mode: String,
    /// Whether it can be written to.
    pub rw: bool,
    /// A bind's propagation; empty otherwise.
    pub propagation: String,
    /// Whether the volume was made for this container and goes with `rm -v`.
    pub anonymous: bool,
}

/// The kind of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// A path of the host.
    Bind,
    /// A volume.
    Volume,
    /// Memory.
    Tmpfs,
}

impl MountKind {
    /// The word the API uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Volume => "volume",
            Self::Tmpfs => "tmpfs",
        }
    }
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
