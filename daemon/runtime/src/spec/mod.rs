// SPDX-License-Identifier: Apache-2.0
//! Domain to OCI runtime spec: a pure function of what was asked, what the daemon's defaults are and what
//! the host can do. The default posture is Docker's to the letter.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use berth_api::types::container_create::{ContainerConfig, HostConfig, Resources, Ulimit};
use berth_domain::{ContainerId, Error, Result};
use oci_spec::runtime::{LinuxResources, Mount, Process, Spec};

use crate::HostFacts;

/// Where a namespace comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Share {
    /// A new one of its own.
    #[default]
    Private,
    /// The host's.
    Host,
    /// Another container's, by path (`/proc/<pid>/ns/<kind>`). For networks the path is not written into
    /// the spec: the descriptor travels in `Launch::netns`.
    Path(PathBuf),
}

/// Where each namespace comes from, resolved by the engine from `NetworkMode`, `IpcMode`, `PidMode`, `UTSMode`,
/// `CgroupnsMode` and `UsernsMode`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)] // The names are the kernel's own.
pub struct Namespaces {
    pub network: Share,
    pub ipc: Share,
    pub pid: Share,
    pub uts: Share,
    pub cgroup: Share,
}

/// What `/dev/shm` is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Shm {
    /// A tmpfs of `HostConfig::shm_size` in the container's own mount namespace.
    #[default]
    Private,
    /// The host's (`--ipc host`).
    Host,
    /// A tmpfs that the engine mounted on the host (`--ipc shareable` and containers that join it).
    Directory(PathBuf),
    /// None at all (`--ipc none`).
    None,
}

/// The daemon's defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct Defaults {
    /// Parent of container cgroups, `/berth`.
    pub cgroup_parent: String,
    /// `default-ulimits`.
    pub ulimits: Vec<Ulimit>,
    /// `default-shm-size` in bytes.
    pub shm_size: i64,
    /// `no-new-privileges`.
    pub no_new_privileges: bool,
    /// `seccomp-profile`: the JSON content of a file, `None` for the built-in one.
    pub seccomp_profile: Option<String>,
    /// `init`.
    pub init: bool,
    /// Program bind-mounted as the container's `/sbin/docker-init`; `None` when there is none.
    pub init_path: Option<PathBuf>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            cgroup_parent: "/berth".to_owned(),
            ulimits: Vec::new(),
            shm_size: 64 << 20,
            no_new_privileges: false,
            seccomp_profile: None,
            init: false,
            init_path: None,
        }
    }
}

/// Everything the spec depends on.
#[derive(Debug, Clone, Copy)]
pub struct SpecInput<'a> {
    /// The container.
    pub id: &'a ContainerId,
    /// Its config, the image's merged in.
    pub config: &'a ContainerConfig,
    /// Its host config, passed through [`normalise`] at create.
    pub host: &'a HostConfig,
    /// Its hostname.
    pub hostname: &'a str,
    /// Where its namespaces come from.
    pub namespaces: &'a Namespaces,
    /// What `/dev/shm` is.
    pub shm: &'a Shm,
    /// Binds, volumes and tmpfs (`berth_volume::Volumes::oci_mounts`), and the `/etc` files that the engine made. They
    /// follow the default mounts, and replace those at the same destination.
    pub mounts: &'a [Mount],
    /// The daemon's defaults.
    pub defaults: &'a Defaults,
    /// What the host can do.
    pub facts: &'a HostFacts,
}

/// A spec and what could not be given.
#[derive(Debug, Clone)]
pub struct Built {
    /// The spec; `linux.seccomp` is set unless unconfined.
    pub spec: Spec,
    /// For the client and the log.
    pub warnings: Vec<String>,
}

/// A further process (`exec`).
#[derive(Debug, Clone, Copy)]
pub struct ExecInput<'a> {
    /// The container's config.
    pub config: &'a ContainerConfig,
    /// The container's host config.
    pub host: &'a HostConfig,
    /// The daemon's defaults.
    pub defaults: &'a Defaults,
    /// What the host can do.
    pub facts: &'a HostFacts,
    /// The container's hostname.
    pub hostname: &'a str,
    /// Program and arguments.
    pub args: &'a [String],
    /// `--env`, added to the container's.
    pub env: &'a [String],
    /// `--workdir`; empty for the container's.
    pub working_dir: &'a str,
    /// `--tty`.
    pub tty: bool,
    /// `--privileged`.
    pub privileged: bool,
}

/// Fills in what create decides (swap, shm size, namespaces modes, masks, capability names), and refuses what cannot be, as
/// Docker does at create. Returns warnings for the client; limits that the host cannot give are taken out.
///
/// # Errors
///
/// Invalid input, in Docker's words where clients may match them.
pub fn normalise(host: &mut HostConfig, defaults: &Defaults, facts: &HostFacts) -> Result<Vec<String>> {
    let _unused = (host, defaults, facts);
    Err(Error::not_implemented("normalise"))
}

/// The same checks for `POST /containers/{id}/update`.
///
/// # Errors
///
/// Invalid input, in Docker's words.
pub fn normalise_update(resources: &mut Resources, facts: &HostFacts) -> Result<Vec<String>> {
    let _unused = (resources, facts);
    Err(Error::not_implemented("normalise_update"))
}

/// The OCI runtime spec of a container.
///
/// # Errors
///
/// Invalid input: a capability, device, security option, sysctl or limit that does not exist.
pub fn build(input: &SpecInput<'_>) -> Result<Built> {
    let _unused = input;
    Err(Error::not_implemented("build"))
}

/// `process` of an exec.
///
/// # Errors
///
/// As [`build`].
pub fn exec_process(input: &ExecInput<'_>) -> Result<Process> {
    let _unused = input;
    Err(Error::not_implemented("exec_process"))
}

/// `linux.resources` of limits alone, for `Request::Update`.
///
/// # Errors
///
/// As [`build`].
pub fn resources(resources: &Resources, facts: &HostFacts) -> Result<LinuxResources> {
    let _unused = (resources, facts);
    Err(Error::not_implemented("resources"))
}

/// Program and arguments as `inspect` shows them: entrypoint then command.
///
/// # Errors
///
/// `no command specified` when both are empty.
pub fn args(config: &ContainerConfig) -> Result<Vec<String>> {
    let _unused = config;
    Err(Error::not_implemented("args"))
}

#[allow(unused)]
type Keep = (BTreeMap<String, String>, &'static Path);
