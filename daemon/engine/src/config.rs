// SPDX-License-Identifier: Apache-2.0
//! What the engine is told by its program.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use berth_api::types::container_create::Ulimit;
use berth_domain::{CgroupDriver, IdMap};

/// Settings of the engine.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Where what must last is kept (`/var/lib/berth`).
    pub data_root: PathBuf,
    /// Where what lives as long as the host runs is kept (`/run/berth`).
    pub exec_root: PathBuf,
    /// Name servers for containers that name none.
    pub dns: Vec<IpAddr>,
    /// Search domains for containers that name none.
    pub dns_search: Vec<String>,
    /// Resolver options for containers that name none.
    pub dns_options: Vec<String>,
    /// Log driver of containers that name none: one of [`crate::LOG_DRIVERS`].
    pub log_driver: String,
    /// Options of that driver.
    pub log_opts: BTreeMap<String, String>,
    /// Where journald listens.
    pub journal_socket: PathBuf,
    /// Runtime of containers that name none: [`NATIVE_RUNTIME`] or a key of `runtimes`.
    pub default_runtime: String,
    /// External OCI runtimes by name.
    pub runtimes: BTreeMap<String, OciRuntime>,
    /// Resource limits of containers that do not set them themselves.
    pub default_ulimits: Vec<Ulimit>,
    /// Size of `/dev/shm` in bytes where none is asked for.
    pub default_shm_size: i64,
    /// Ipc mode where none is asked for: `private` or `shareable`.
    pub default_ipc_mode: String,
    /// Cgroup namespace mode where none is asked for: `private` or `host`; empty for `private` on cgroup v2, else `host`.
    pub default_cgroupns_mode: String,
    /// Run an init process in containers that do not say.
    pub init: bool,
    /// Cgroup under which containers' cgroups are made.
    pub cgroup_parent: String,
    /// Who lays out the cgroups below it.
    pub cgroup_driver: CgroupDriver,
    /// Set no_new_privs in every container.
    pub no_new_privileges: bool,
    /// Content of the seccomp profile that containers get; `None` for the built-in one.
    pub seccomp_profile: Option<String>,
    /// Program bind-mounted as the init process of containers that ask for one; `None` when there is none.
    pub init_path: Option<PathBuf>,
    /// Microseconds that all containers together may spend in realtime of each `cpu_rt_period`; 0 for the kernel's choice.
    pub cpu_rt_runtime: i64,
    /// Microseconds; 0 for the kernel's choice.
    pub cpu_rt_period: i64,
    /// Where CDI spec files are, the directory that wins last; empty when devices cannot be asked for by name.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// What `host-gateway` in `--add-host` stands for; empty for the default bridge's gateway.
    pub host_gateway_ips: Vec<IpAddr>,
    /// Users and groups of new containers, where they are not the host's (`userns-remap`).
    pub id_map: Option<Arc<IdMap>>,
}

/// Name of the launcher built into the shim.
pub const NATIVE_RUNTIME: &str = "berth";

/// An external runtime that speaks the OCI command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciRuntime {
    /// The program.
    pub path: PathBuf,
    /// Global arguments before the verb.
    pub args: Vec<String>,
}

impl EngineConfig {
    /// The defaults with these two roots.
    #[must_use]
    pub fn new(data_root: impl Into<PathBuf>, exec_root: impl Into<PathBuf>) -> Self {
        Self {
            data_root: data_root.into(),
            exec_root: exec_root.into(),
            dns: Vec::new(),
            dns_search: Vec::new(),
            dns_options: Vec::new(),
            log_driver: "json-file".into(),
            log_opts: BTreeMap::new(),
            journal_socket: "/run/systemd/journal/socket".into(),
            default_runtime: NATIVE_RUNTIME.into(),
            runtimes: BTreeMap::new(),
            default_ulimits: Vec::new(),
            default_shm_size: 64 << 20,
            default_ipc_mode: "private".into(),
            default_cgroupns_mode: String::new(),
            init: false,
            cgroup_parent: "/berth".into(),
            cgroup_driver: CgroupDriver::Cgroupfs,
            no_new_privileges: false,
            seccomp_profile: None,
            init_path: None,
            cpu_rt_runtime: 0,
            cpu_rt_period: 0,
            cdi_spec_dirs: berth_runtime::cdi::DEFAULT_DIRS.map(PathBuf::from).into(),
            host_gateway_ips: Vec::new(),
            id_map: None,
        }
    }
}
