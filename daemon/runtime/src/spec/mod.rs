// SPDX-License-Identifier: Apache-2.0
//! Domain to OCI runtime spec: a pure function of what was asked, what the daemon's defaults are and what
//! the host can do. The default posture is Docker's to the letter.

mod capabilities;
mod devices;
mod mounts;
mod process;
mod resources;
mod security;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use berth_api::types::container_create::{ContainerConfig, HostConfig, Resources, Ulimit};
use berth_domain::{CgroupDriver, ContainerId, Error, Extent, IdMap, Result};
use oci_spec::runtime::{
    BoxBuilder, Linux, LinuxBuilder, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace,
    LinuxNamespaceBuilder, LinuxNamespaceType, LinuxResources, Mount, Process, ProcessBuilder, RootBuilder,
    Spec, SpecBuilder, UserBuilder,
};

use self::mounts::MountInput;
use self::resources::Occasion;
use self::security::SecurityOptions;
use crate::seccomp::Profile;
use crate::{CgroupLayout, HostFacts};

pub use self::process::args;

/// Nothing that a spec of ours says is newer than 1.0.2, and crun before 1.9 refuses later versions unread.
const OCI_VERSION: &str = "1.0.2";
/// Where an init program is mounted in the container, by Docker's name.
const INIT_PATH: &str = "/sbin/docker-init";
/// The kernel's `HOST_NAME_MAX`.
const MAX_HOSTNAME: usize = 64;

fn broken(error: &impl std::fmt::Display) -> Error {
    Error::internal(format!("building an OCI spec: {error}"))
}

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
    /// Who lays out the tree below it.
    pub cgroup_driver: CgroupDriver,
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
            cgroup_driver: CgroupDriver::Cgroupfs,
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
    /// Variables that tell of linked containers; the config's own win.
    pub linked: &'a [String],
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
    /// Leave the built-in seccomp profile out of the spec: its filter travels compiled, and its text is most of a spec.
    pub seccomp_apart: bool,
    /// Its users and groups, if they are not the host's: it then has a user namespace, which travels as a descriptor.
    pub id_map: Option<&'a IdMap>,
}

/// A spec and what could not be given.
#[derive(Debug, Clone)]
pub struct Built {
    /// The spec; `linux.seccomp` is set unless unconfined, or left out as [`SpecInput::seccomp_apart`] says.
    pub spec: Spec,
    /// The profile, `None` if unconfined.
    pub seccomp: Option<Profile>,
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
    /// Variables that tell of linked containers; the config's own win.
    pub linked: &'a [String],
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

/// Fills in what create decides (swap, shm size, namespace modes, masks), and refuses what cannot be, as Docker does at
/// create. Returns warnings for the client; limits that the host cannot keep are taken out. Doing it twice changes nothing.
///
/// # Errors
///
/// Invalid input, in Docker's words where clients may match them.
pub fn normalise(host: &mut HostConfig, defaults: &Defaults, facts: &HostFacts) -> Result<Vec<String>> {
    fill_in(host, defaults, facts);
    let mut warnings = resources::check(&mut host.resources, facts, Occasion::Create)?;
    if host.auto_remove && !matches!(host.restart_policy.name.as_str(), "" | "no") {
        return Err(Error::invalid("can't create 'AutoRemove' container with restart policy"));
    }
    capabilities::check(host.cap_add.as_ref(), host.cap_drop.as_ref(), facts)?;
    if !matches!(host.isolation.to_ascii_lowercase().as_str(), "" | "default") {
        return Err(Error::invalid(format!(
            "invalid isolation ({}): linux only supports 'default'",
            host.isolation
        )));
    }
    if host.annotations.iter().flatten().any(|(key, _)| key.is_empty()) {
        return Err(Error::invalid(
            "invalid Annotations: the empty string is not permitted as an annotation key",
        ));
    }
    check_modes(host)?;
    if host.shm_size < 0 {
        return Err(Error::invalid("SHM size can not be less than 0"));
    }
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        return Err(Error::invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj
        )));
    }
    if host.network_mode == "host" && !host.port_bindings.is_empty() {
        warnings.push("Published ports are discarded when using host network mode".to_owned());
    }
    if host.cgroupns_mode == "private" && !facts.cgroup_namespaces {
        warnings.push(
            "Your kernel does not support cgroup namespaces.  Cgroup namespace setting discarded.".to_owned(),
        );
    }
    security::check_sysctls(
        host.sysctls.as_ref(),
        host.network_mode != "host",
        host.ipc_mode != "host",
        host.uts_mode != "host",
    )?;
    process::rlimits(&host.resources.ulimits, &[])?;
    cgroups_path(host, defaults, "x")?;
    let options = SecurityOptions::parse(host.security_opt.as_ref(), defaults)?;
    if options.seccomp.is_some() {
        // Whether there is such a profile; what it comes to is seen at start.
        security::seccomp_profile(&options, host, defaults, facts, &[])?;
    }
    if !host.privileged {
        let paths = |unless: Vec<String>| if options.system_paths_unconfined { Vec::new() } else { unless };
        host.masked_paths.get_or_insert_with(|| paths(security::default_masked(facts)));
        host.readonly_paths.get_or_insert_with(|| paths(security::default_read_only()));
    }
    Ok(warnings)
}

fn fill_in(host: &mut HostConfig, defaults: &Defaults, facts: &HostFacts) {
    let r = &mut host.resources;
    if r.memory > 0 && r.memory_swap == 0 {
        r.memory_swap = r.memory.saturating_mul(2);
    }
    r.oom_kill_disable.get_or_insert(false);
    if host.shm_size == 0 {
        host.shm_size = defaults.shm_size;
    }
    if host.ipc_mode.is_empty() {
        "private".clone_into(&mut host.ipc_mode);
    }
    if host.cgroupns_mode.is_empty() {
        let private = facts.cgroups == CgroupLayout::V2;
        if private { "private" } else { "host" }.clone_into(&mut host.cgroupns_mode);
    }
    // What the reference shows for containers that SELinux would not confine.
    let label = "label=disable";
    let unlabelled = host.privileged || host.ipc_mode == "host" || host.pid_mode == "host";
    let options = host.security_opt.get_or_insert_default();
    if unlabelled && !options.iter().any(|o| o.starts_with("label")) {
        options.push(label.to_owned());
    }
    if options.is_empty() {
        host.security_opt = None;
    }
}

fn check_modes(host: &HostConfig) -> Result<()> {
    let joins = |mode: &str| mode.strip_prefix("container:").is_some_and(|id| !id.is_empty());
    let check = |what: &str, mode: &str, plain: &[&str], may_join: bool| {
        if plain.contains(&mode) || (may_join && joins(mode)) {
            Ok(())
        } else {
            Err(Error::invalid(format!("invalid {what}: {mode}")))
        }
    };
    check("IPC mode", &host.ipc_mode, &["", "host", "none", "private", "shareable"], true)?;
    check("PID mode", &host.pid_mode, &["", "host"], true)?;
    check("UTS mode", &host.uts_mode, &["", "host"], false)?;
    check("cgroup namespace mode", &host.cgroupns_mode, &["", "host", "private"], false)?;
    check("user namespace mode", &host.userns_mode, &["", "host"], false)
}

/// The checks of a container's own config: working directory (cleaned), environment, hostname.
///
/// # Errors
///
/// Invalid input, in Docker's words.
pub fn normalise_config(config: &mut ContainerConfig) -> Result<()> {
    if !config.working_dir.is_empty() {
        let clean = process::working_directory(&config.working_dir)?;
        config.working_dir = clean.to_string_lossy().into_owned();
    }
    process::check_environment(config.env.as_deref().unwrap_or_default())?;
    if config.hostname.len() > MAX_HOSTNAME {
        return Err(Error::invalid(format!(
            "hostname {:?} is too long (maximum {MAX_HOSTNAME} bytes)",
            config.hostname
        )));
    }
    Ok(())
}

/// The same checks for `POST /containers/{id}/update`.
///
/// # Errors
///
/// Invalid input, in Docker's words.
pub fn normalise_update(resources: &mut Resources, facts: &HostFacts) -> Result<Vec<String>> {
    resources::check(resources, facts, Occasion::Update)
}

/// The OCI runtime spec of a container. The user of the process is not in it: names are looked up inside the container's root, by the shim.
///
/// # Errors
///
/// Invalid input: a capability, device, security option, sysctl or limit that does not exist.
pub fn build(input: &SpecInput<'_>) -> Result<Built> {
    let SpecInput { id, config, host, hostname, namespaces, defaults, facts, .. } = *input;
    let options = SecurityOptions::parse(host.security_opt.as_ref(), defaults)?;
    let caps = capabilities::names(host.cap_add.as_ref(), host.cap_drop.as_ref(), host.privileged, facts)?;
    let devices = devices::devices(host)?;
    let mut mounts = mounts::mounts(MountInput {
        user: input.mounts,
        shm: input.shm,
        shm_size: if host.shm_size > 0 { host.shm_size } else { defaults.shm_size },
        privileged: host.privileged,
        writable_cgroups: options.writable_cgroups.unwrap_or(host.privileged),
        // Nobody but the host's root may mount the host's queues.
        host_queues: input.id_map.is_some() && namespaces.ipc == Share::Host,
    })?;
    let mut args = process::args(config)?;
    if host.init.unwrap_or(defaults.init) && namespaces.pid == Share::Private {
        let Some(path) = &defaults.init_path else {
            return Err(Error::not_implemented("no init program is configured for --init"));
        };
        mounts.push(mounts::read_only_bind(path, INIT_PATH)?);
        args.splice(0..0, [INIT_PATH.to_owned(), "--".to_owned()]);
    }
    let env = config.env.as_deref().unwrap_or_default();
    let process = process_of(ProcessParts {
        args,
        env: process::environment(hostname, config.tty, &[input.linked, env]),
        working_dir: &config.working_dir,
        tty: config.tty,
        console: host.console_size,
        caps: &caps,
        options: &options,
        host,
        defaults,
        facts,
    })?;
    let mut limits = resources::build(&host.resources)?;
    limits.set_devices(Some(devices.rules));
    let seccomp = security::seccomp_profile(&options, host, defaults, facts, &caps)?;
    let linux = linux(input, &options, seccomp.as_ref(), devices.nodes, limits)?;
    let root = RootBuilder::default().path("rootfs").readonly(host.readonly_rootfs).build();
    let mut spec = SpecBuilder::default()
        .version(OCI_VERSION)
        .root(root.map_err(|e| broken(&e))?)
        .process(process)
        .mounts(mounts)
        .linux(linux)
        .annotations(
            host.annotations
                .iter()
                .flatten()
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect::<std::collections::HashMap<_, _>>(),
        )
        .build()
        .map_err(|e| broken(&e))?;
    let own_hostname = namespaces.uts == Share::Private && !hostname.is_empty();
    spec.set_hostname(own_hostname.then(|| hostname.to_owned()));
    tracing::debug!(container = id.short(), "built the OCI spec");
    Ok(Built { spec, seccomp, warnings: devices.warnings })
}

fn linux(
    input: &SpecInput<'_>,
    options: &SecurityOptions,
    seccomp: Option<&Profile>,
    nodes: Vec<oci_spec::runtime::LinuxDevice>,
    limits: LinuxResources,
) -> Result<Linux> {
    let SpecInput { id, config, host, facts, defaults, .. } = *input;
    let paths = |given: &Option<Vec<String>>, default: Vec<String>| match given {
        Some(given) => given.clone(),
        None if host.privileged || options.system_paths_unconfined => Vec::new(),
        None => default,
    };
    let mut namespaces = namespaces_of(input.namespaces, facts)?;
    if input.id_map.is_some() {
        let user = LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::User).build();
        namespaces.push(user.map_err(|e| broken(&e))?);
    }
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces)
        .cgroups_path(cgroups_path(host, defaults, id.as_str())?)
        .sysctl(security::sysctls(host, &config.domainname, input.namespaces, facts, input.id_map.is_some())?)
        .devices(nodes)
        .resources(limits)
        .masked_paths(paths(&host.masked_paths, security::default_masked(facts)))
        .readonly_paths(paths(&host.readonly_paths, security::default_read_only()))
        .build()
        .map_err(|e| broken(&e))?;
    let in_spec =
        seccomp.filter(|profile| !(input.seccomp_apart && matches!(profile, Profile::Default { .. })));
    linux.set_seccomp(in_spec.cloned().map(Profile::into_oci).transpose()?);
    linux.set_rootfs_propagation(root_propagation(input.mounts));
    if let Some(map) = input.id_map {
        linux.set_uid_mappings(Some(mappings(&map.uids)?));
        linux.set_gid_mappings(Some(mappings(&map.gids)?));
    }
    Ok(linux)
}

fn mappings(extents: &[Extent]) -> Result<Vec<LinuxIdMapping>> {
    let one = |extent: &Extent| {
        LinuxIdMappingBuilder::default()
            .container_id(extent.container)
            .host_id(extent.host)
            .size(extent.count)
            .build()
            .map_err(|e| broken(&e))
    };
    extents.iter().map(one).collect()
}

/// A mount that is to receive or send propagation needs a root that does.
fn root_propagation(mounts: &[Mount]) -> Option<String> {
    let asks = |names: [&str; 2]| {
        mounts.iter().flat_map(|m| m.options().iter().flatten()).any(|o| names.contains(&o.as_str()))
    };
    if asks(["shared", "rshared"]) {
        Some("shared".to_owned())
    } else if asks(["slave", "rslave"]) {
        Some("rslave".to_owned())
    } else {
        None
    }
}

fn namespaces_of(shares: &Namespaces, facts: &HostFacts) -> Result<Vec<LinuxNamespace>> {
    use LinuxNamespaceType as Kind;
    let none = Share::Private;
    let time = if facts.time_namespaces { &Share::Private } else { &Share::Host };
    let cgroup = if facts.cgroup_namespaces { &shares.cgroup } else { &Share::Host };
    // The network namespace of another container travels as a descriptor, not as a path.
    let network = if shares.network == Share::Host { &Share::Host } else { &Share::Private };
    let all = [
        (Kind::Mount, &none),
        (Kind::Network, network),
        (Kind::Time, time),
        (Kind::Uts, &shares.uts),
        (Kind::Pid, &shares.pid),
        (Kind::Ipc, &shares.ipc),
        (Kind::Cgroup, cgroup),
    ];
    let mut built = Vec::new();
    for (kind, share) in all {
        let namespace = LinuxNamespaceBuilder::default().typ(kind);
        let namespace = match share {
            Share::Host => continue,
            Share::Private => namespace,
            Share::Path(path) => namespace.path(path.clone()),
        };
        built.push(namespace.build().map_err(|e| broken(&e))?);
    }
    Ok(built)
}

fn cgroups_path(host: &HostConfig, defaults: &Defaults, id: &str) -> Result<PathBuf> {
    let asked = host.resources.cgroup_parent.as_str();
    let parent = if asked.is_empty() { &defaults.cgroup_parent } else { asked };
    defaults.cgroup_driver.path(parent, id).map(PathBuf::from)
}

struct ProcessParts<'a> {
    args: Vec<String>,
    env: Vec<String>,
    working_dir: &'a str,
    tty: bool,
    console: [u32; 2],
    caps: &'a [&'static str],
    options: &'a SecurityOptions,
    host: &'a HostConfig,
    defaults: &'a Defaults,
    facts: &'a HostFacts,
}

fn process_of(parts: ProcessParts<'_>) -> Result<Process> {
    let user = UserBuilder::default().uid(0u32).gid(0u32).build().map_err(|e| broken(&e))?;
    let mut process = ProcessBuilder::default()
        .terminal(parts.tty)
        .user(user)
        .args(parts.args)
        .env(parts.env)
        .cwd(process::working_directory(parts.working_dir)?)
        .capabilities(capabilities::sets(parts.caps)?)
        .rlimits(process::rlimits(&parts.host.resources.ulimits, &parts.defaults.ulimits)?)
        .no_new_privileges(parts.options.no_new_privileges)
        .oom_score_adj(parts.host.oom_score_adj)
        .build()
        .map_err(|e| broken(&e))?;
    let [height, width] = parts.console;
    if parts.tty && height > 0 && width > 0 {
        let size = BoxBuilder::default().height(height).width(width).build();
        process.set_console_size(Some(size.map_err(|e| broken(&e))?));
    }
    if parts.facts.apparmor {
        let profile = match parts.options.apparmor.as_deref() {
            Some("unconfined") => None,
            Some(profile) => Some(profile.to_owned()),
            None if parts.host.privileged || !parts.facts.apparmor_default => None,
            None => Some("docker-default".to_owned()),
        };
        process.set_apparmor_profile(profile);
    }
    Ok(process)
}

/// `process` of an exec.
///
/// # Errors
///
/// As [`build`].
pub fn exec_process(input: &ExecInput<'_>) -> Result<Process> {
    let ExecInput { config, host, defaults, facts, .. } = *input;
    if input.args.is_empty() {
        return Err(Error::invalid("No exec command specified"));
    }
    process::check_environment(input.env)?;
    let options = SecurityOptions::parse(host.security_opt.as_ref(), defaults)?;
    let privileged = host.privileged || input.privileged;
    let caps = capabilities::names(host.cap_add.as_ref(), host.cap_drop.as_ref(), privileged, facts)?;
    let own = config.env.as_deref().unwrap_or_default();
    process_of(ProcessParts {
        args: input.args.to_vec(),
        env: process::environment(input.hostname, input.tty, &[input.linked, own, input.env]),
        working_dir: if input.working_dir.is_empty() { &config.working_dir } else { input.working_dir },
        tty: input.tty,
        console: [0, 0],
        caps: &caps,
        options: &options,
        host,
        defaults,
        facts,
    })
}

/// `linux.resources` of limits alone, for `Request::Update`. Devices are not touched by an update.
///
/// # Errors
///
/// As [`build`].
pub fn resources(resources: &Resources, facts: &HostFacts) -> Result<LinuxResources> {
    let mut kept = resources.clone();
    // Its warnings went to the client when the request was checked.
    resources::check(&mut kept, facts, Occasion::Update)?;
    resources::build(&kept)
}
