// SPDX-License-Identifier: Apache-2.0
//! What was asked, checked: the form that the engine works with, derived from the record's API shapes by
//! [`derive`], at create as after a restart of the daemon.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use berth_api::types::container_create::{ContainerConfig, EndpointSettings, HostConfig, NetworkingConfig};
use berth_domain::port::{PortRequest as AskedPort, Ports, Protocol as AskedProtocol};
use berth_domain::{Error, RestartPolicy, Result, Signal};
use berth_network::{EndpointRequest, HostPorts, PortRequest, Protocol};
use berth_shim_proto::{Runtime, User};

use crate::config::{EngineConfig, NATIVE_RUNTIME};
use crate::etc::split_extra_host;
use crate::health::HealthCheck;
use crate::log_config::LogChoice;

/// A container's wishes, checked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) stop_signal: Signal,
    /// `None` waits for ever.
    pub(crate) stop_timeout: Option<Duration>,
    pub(crate) restart: RestartPolicy,
    pub(crate) auto_remove: bool,
    pub(crate) network: NetworkChoice,
    pub(crate) ports: Vec<PortRequest>,
    pub(crate) ipc: IpcChoice,
    pub(crate) pid: NamespaceChoice,
    pub(crate) uts: NamespaceChoice,
    pub(crate) cgroup: NamespaceChoice,
    pub(crate) log: LogChoice,
    pub(crate) runtime: RuntimeChoice,
    pub(crate) user: User,
    pub(crate) health: Option<HealthCheck>,
    /// Why this cannot be started: an earlier daemon's record that this one does not accept.
    pub(crate) refusal: Option<String>,
}

impl Asked {
    /// What is left of a record that is not accepted: enough to look at the container, to stop and to remove it.
    pub(crate) fn refused(why: &Error) -> Self {
        Self {
            stop_signal: Signal::TERM,
            stop_timeout: stop_timeout(None),
            restart: RestartPolicy::No,
            auto_remove: false,
            network: NetworkChoice::None,
            ports: Vec::new(),
            ipc: IpcChoice::Private,
            pid: NamespaceChoice::Private,
            uts: NamespaceChoice::Private,
            cgroup: NamespaceChoice::Private,
            log: LogChoice::json_file(),
            runtime: RuntimeChoice::Native,
            user: User::default(),
            health: None,
            refusal: Some(why.chain()),
        }
    }
}

/// Where the network comes from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum NetworkChoice {
    None,
    Host,
    /// Another container's, by name or id.
    Container(String),
    Networks(Vec<EndpointRequest>),
}

/// Where a namespace comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NamespaceChoice {
    Private,
    Host,
    /// Another container's, by name or id.
    Container(String),
}

/// Where IPC and `/dev/shm` come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum IpcChoice {
    Private,
    Host,
    /// Private, without `/dev/shm`.
    NoShm,
    /// Its own, and others may join.
    Shareable,
    /// Another container's, by name or id.
    Container(String),
}

/// Who builds the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RuntimeChoice {
    Native,
    Oci { path: String, args: Vec<String> },
}

impl RuntimeChoice {
    /// As the shim is told. `root` is where the runtime keeps its own state.
    pub(crate) fn for_shim(&self, root: &std::path::Path) -> Runtime {
        match self {
            Self::Native => Runtime::Native,
            Self::Oci { path, args } => {
                Runtime::Oci { path: path.clone(), args: args.clone(), root: root.display().to_string() }
            }
        }
    }
}

/// How long a stop waits where nobody says.
const STOP_TIMEOUT: i64 = 10;

/// Seconds as the API gives them: below 0 waits for ever.
pub(crate) fn stop_timeout(seconds: Option<i64>) -> Option<Duration> {
    u64::try_from(seconds.unwrap_or(STOP_TIMEOUT)).ok().map(Duration::from_secs)
}

/// Fills in what the engine decides about a host config at create, so that `inspect` shows it. Limits, namespaces
/// and the like are `berth_runtime::spec::normalise`'s.
pub(crate) fn normalise(engine: &EngineConfig, config: &ContainerConfig, host: &mut HostConfig) {
    if config.network_disabled {
        host.network_mode = "none".into();
    }
    if host.network_mode.is_empty() || host.network_mode == "default" {
        host.network_mode = "bridge".into();
    }
    if host.restart_policy.name.is_empty() {
        host.restart_policy.name = "no".into();
    }
    if host.log_config.r#type.is_empty() {
        host.log_config.r#type.clone_from(&engine.log_driver);
    }
    if host.log_config.r#type == engine.log_driver {
        for (key, value) in &engine.log_opts {
            host.log_config.config.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    if host.ipc_mode.is_empty() {
        host.ipc_mode.clone_from(&engine.default_ipc_mode);
    }
    if host.cgroupns_mode.is_empty() {
        host.cgroupns_mode.clone_from(&engine.default_cgroupns_mode);
    }
    if host.runtime.is_empty() {
        host.runtime.clone_from(&engine.default_runtime);
    }
    for bindings in host.port_bindings.values_mut() {
        // A port without a binding asks for any; inspect shows an empty binding.
        if bindings.as_ref().is_none_or(Vec::is_empty) {
            *bindings = Some(vec![berth_api::types::container_create::PortBinding::default()]);
        }
    }
}

/// Checks what was asked.
///
/// # Errors
///
/// Invalid input in the reference engine's words; not implemented, naming the field.
pub(crate) fn derive(
    engine: &EngineConfig,
    config: &ContainerConfig,
    host: &HostConfig,
    networking: &NetworkingConfig,
) -> Result<Asked> {
    refuse_unknown_wishes(host)?;
    check_config(config)?;
    check_names(host)?;
    let restart = RestartPolicy::parse(&host.restart_policy.name, host.restart_policy.maximum_retry_count)?;
    if host.auto_remove && restart != RestartPolicy::No {
        return Err(Error::invalid("can't create 'AutoRemove' container with restart policy"));
    }
    let ports = ports(config, host)?;
    let network = network(config, host, networking)?;
    check_network_conflicts(config, host, &network)?;
    let stop_signal =
        if config.stop_signal.is_empty() { Signal::TERM } else { config.stop_signal.parse()? };
    Ok(Asked {
        stop_signal,
        stop_timeout: stop_timeout(config.stop_timeout),
        restart,
        auto_remove: host.auto_remove,
        ports: if network == NetworkChoice::Host { Vec::new() } else { ports },
        network,
        ipc: ipc(&host.ipc_mode)?,
        pid: namespace("PID", &host.pid_mode)?,
        uts: match namespace("UTS", &host.uts_mode)? {
            NamespaceChoice::Container(_) => {
                return Err(Error::invalid(format!("invalid UTS mode: {}", host.uts_mode)));
            }
            choice => choice,
        },
        cgroup: match &*host.cgroupns_mode {
            "host" => NamespaceChoice::Host,
            "" | "private" => NamespaceChoice::Private,
            other => return Err(Error::invalid(format!("invalid cgroup namespace mode: {other}"))),
        },
        log: LogChoice::derive(&host.log_config, config)?,
        runtime: runtime(engine, &host.runtime)?,
        user: User { user: config.user.clone(), groups: host.group_add.clone().unwrap_or_default() },
        health: HealthCheck::derive(config)?,
        refusal: None,
    })
}

fn refuse_unknown_wishes(host: &HostConfig) -> Result<()> {
    let not_yet = |asked: bool, field: &str| {
        if asked {
            Err(Error::not_implemented(format!("HostConfig.{field} is not implemented")))
        } else {
            Ok(())
        }
    };
    crate::storage::size(host)?;
    if !matches!(&*host.userns_mode, "" | "host") {
        return Err(Error::invalid(format!("invalid USER mode: {}", host.userns_mode)));
    }
    if !matches!(&*host.isolation, "" | "default") {
        return Err(Error::invalid(format!(
            "invalid isolation ({}): linux only supports 'default'",
            host.isolation
        )));
    }
    not_yet(!host.cgroup.is_empty(), "Cgroup")
}

fn check_config(config: &ContainerConfig) -> Result<()> {
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return Err(Error::invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_dir
        )));
    }
    for variable in config.env.iter().flatten() {
        if variable.is_empty() || variable.starts_with('=') {
            return Err(Error::invalid(format!("invalid environment variable: {variable}")));
        }
        if variable.contains('\0') {
            return Err(Error::invalid("invalid environment variable: it holds a NUL byte"));
        }
    }
    // HOST_NAME_MAX; the kernel would refuse it at start.
    if config.hostname.len() > 64 || config.hostname.contains(['\0', '\n', '/']) {
        return Err(Error::invalid(format!("invalid hostname: {:?}", config.hostname)));
    }
    Ok(())
}

/// What goes into `/etc/hosts` and `/etc/resolv.conf`.
fn check_names(host: &HostConfig) -> Result<()> {
    for entry in host.extra_hosts.iter().flatten() {
        let (_, address) = split_extra_host(entry)
            .ok_or_else(|| Error::invalid(format!("bad format for add-host: {entry:?}")))?;
        if address != "host-gateway" && address.parse::<IpAddr>().is_err() {
            return Err(Error::invalid(format!("invalid IP address in add-host: {address:?}")));
        }
    }
    for server in host.dns.iter() {
        if server.parse::<IpAddr>().is_err() {
            return Err(Error::invalid(format!("bad nameserver address {server}")));
        }
    }
    match host.dns_search.iter().chain(host.dns_options.iter()).find(|word| word.contains(char::is_control)) {
        Some(word) => Err(Error::invalid(format!("bad search domain or resolver option {word:?}"))),
        None => Ok(()),
    }
}

fn ports(config: &ContainerConfig, host: &HostConfig) -> Result<Vec<PortRequest>> {
    let mut asked = BTreeSet::new();
    let mut bound = BTreeSet::new();
    for (port, bindings) in host.port_bindings.iter() {
        let ports: Ports = port.parse()?;
        bound.extend(ports.iter().map(|port| (ports.protocol, port)));
        for binding in bindings.iter().flatten() {
            asked.extend(AskedPort::parse(ports, &binding.host_ip, &binding.host_port)?);
        }
    }
    for port in config.exposed_ports.keys() {
        let ports: Ports = port.parse()?;
        if host.publish_all_ports {
            for port in ports.iter().filter(|port| !bound.contains(&(ports.protocol, *port))) {
                asked.extend(AskedPort::parse(Ports { first: port, last: port, ..ports }, "", "")?);
            }
        }
    }
    let protocol = |protocol| match protocol {
        AskedProtocol::Tcp => Protocol::Tcp,
        AskedProtocol::Udp => Protocol::Udp,
        AskedProtocol::Sctp => Protocol::Sctp,
    };
    let request = |port: AskedPort| PortRequest {
        protocol: protocol(port.protocol),
        container_port: port.container_port,
        host_ip: port.host_ip,
        host_ports: match (port.host_first, port.host_last) {
            (0, _) => HostPorts::Any,
            (first, last) => HostPorts::Range(first, last),
        },
    };
    Ok(asked.into_iter().map(request).collect())
}

/// Whether a network mode names a network of the user's.
pub(crate) fn is_user_defined(mode: &str) -> bool {
    !matches!(mode, "" | "default" | "bridge" | "host" | "none") && !mode.starts_with("container:")
}

fn network(
    config: &ContainerConfig,
    host: &HostConfig,
    networking: &NetworkingConfig,
) -> Result<NetworkChoice> {
    let mode = match &*host.network_mode {
        "" | "default" => "bridge",
        mode => mode,
    };
    let is_mode = |name: &str| name == mode || (name == "default" && mode == "bridge");
    let others = networking.endpoints_config.keys().filter(|name| !is_mode(name)).count();
    if others > 0 && !(is_user_defined(mode) || mode == "bridge") {
        return Err(Error::invalid(format!(
            "conflicting options: cannot attach to further networks in network mode {mode}"
        )));
    }
    match mode {
        "none" => return Ok(NetworkChoice::None),
        "host" => return Ok(NetworkChoice::Host),
        _ => {}
    }
    if let Some(container) = mode.strip_prefix("container:") {
        return if container.is_empty() {
            Err(Error::invalid("invalid network mode: invalid container format container:<name|id>"))
        } else {
            Ok(NetworkChoice::Container(container.to_owned()))
        };
    }
    // The mode says where to go when nothing else does: a container may have been taken off that network.
    if networking.endpoints_config.is_empty() {
        return Ok(NetworkChoice::Networks(vec![endpoint(mode, None, &config.mac_address)?]));
    }
    let mut endpoints = Vec::new();
    for (name, settings) in &networking.endpoints_config {
        if is_mode(name) {
            endpoints.insert(0, endpoint(mode, settings.as_ref(), &config.mac_address)?);
        } else {
            endpoints.push(endpoint(name, settings.as_ref(), "")?);
        }
    }
    Ok(NetworkChoice::Networks(endpoints))
}

pub(crate) fn endpoint(
    network: &str,
    settings: Option<&EndpointSettings>,
    mac: &str,
) -> Result<EndpointRequest> {
    let mut request = EndpointRequest::on(network);
    let mac = settings.map(|s| &*s.mac_address).filter(|mac| !mac.is_empty()).unwrap_or(mac);
    if !mac.is_empty() {
        request.mac = Some(mac.parse().map_err(|_| {
            Error::invalid(format!("invalid config for network {network}: invalid MAC address {mac}"))
        })?);
    }
    let Some(settings) = settings else { return Ok(request) };
    if let Some(ipam) = &settings.ipam_config {
        if !ipam.ipv4_address.is_empty() {
            let address = &ipam.ipv4_address;
            request.ipv4 = Some(
                address.parse().map_err(|_| Error::invalid(format!("invalid IPv4 address: {address}")))?,
            );
        }
        if !ipam.ipv6_address.is_empty() {
            let address = &ipam.ipv6_address;
            request.ipv6 = Some(
                address.parse().map_err(|_| Error::invalid(format!("invalid IPv6 address: {address}")))?,
            );
        }
        if !is_user_defined(network) && (request.ipv4.is_some() || request.ipv6.is_some()) {
            return Err(Error::invalid(format!(
                "invalid config for network {network}: invalid endpoint settings:\n* user specified IP address is \
                 supported on user defined networks only\n* user specified IP address is supported only when connecting \
                 to networks with user configured subnets"
            )));
        }
    }
    for link in settings.links.iter().flatten() {
        let (name, alias) = crate::links::parse(link)?;
        request.links.push((alias.to_owned(), name.to_owned()));
    }
    request.aliases = settings.aliases.clone().unwrap_or_default();
    request.options = settings.driver_opts.clone().unwrap_or_default();
    request.gateway_priority = settings.gw_priority;
    Ok(request)
}

fn check_network_conflicts(
    config: &ContainerConfig,
    host: &HostConfig,
    network: &NetworkChoice,
) -> Result<()> {
    let conflict = |what: &str| Err(Error::invalid(format!("conflicting options: {what}")));
    if host.uts_mode == "host" && !config.hostname.is_empty() && *network != NetworkChoice::Host {
        return conflict("hostname and the UTS mode");
    }
    let NetworkChoice::Container(_) = network else { return Ok(()) };
    if !config.hostname.is_empty() {
        return conflict("hostname and the network mode");
    }
    if !host.dns.is_empty() {
        return conflict("dns and the network mode");
    }
    if host.extra_hosts.as_ref().is_some_and(|hosts| !hosts.is_empty()) {
        return conflict("custom host-to-IP mapping and the network mode");
    }
    if !config.mac_address.is_empty() {
        return conflict("mac-address and the network mode");
    }
    if !host.port_bindings.is_empty() || host.publish_all_ports {
        return conflict("port publishing and the container type network mode");
    }
    Ok(())
}

fn namespace(kind: &str, mode: &str) -> Result<NamespaceChoice> {
    match mode {
        "" | "private" => Ok(NamespaceChoice::Private),
        "host" => Ok(NamespaceChoice::Host),
        mode => match mode.strip_prefix("container:") {
            Some(container) if !container.is_empty() => Ok(NamespaceChoice::Container(container.to_owned())),
            _ => Err(Error::invalid(format!("invalid {kind} mode: {mode}"))),
        },
    }
}

fn ipc(mode: &str) -> Result<IpcChoice> {
    Ok(match mode {
        "none" => IpcChoice::NoShm,
        "shareable" => IpcChoice::Shareable,
        mode => match namespace("IPC", mode)? {
            NamespaceChoice::Private => IpcChoice::Private,
            NamespaceChoice::Host => IpcChoice::Host,
            NamespaceChoice::Container(container) => IpcChoice::Container(container),
        },
    })
}

fn runtime(engine: &EngineConfig, name: &str) -> Result<RuntimeChoice> {
    if name.is_empty() || name == NATIVE_RUNTIME {
        return Ok(RuntimeChoice::Native);
    }
    match engine.runtimes.get(name) {
        Some(runtime) => {
            Ok(RuntimeChoice::Oci { path: runtime.path.display().to_string(), args: runtime.args.clone() })
        }
        None => Err(Error::invalid(format!("unknown or invalid runtime name: {name}"))),
    }
}

#[cfg(test)]
#[path = "asked_tests.rs"]
mod tests;
