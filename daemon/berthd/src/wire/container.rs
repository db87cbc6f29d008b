// SPDX-License-Identifier: Apache-2.0
//! Containers: from a snapshot to `inspect` and to a line of `list`.

use std::collections::BTreeMap;
use std::time::Duration;

use berth_api::text::{self, Standing};
use berth_api::types::container::{
    ContainerInspect, ContainerState, ContainerSummary, DriverData, Health, HealthResult, HealthSummary,
    MountPoint, NetworkSettings, Port, SummaryHostConfig, SummaryNetworks,
};
use berth_api::types::container_create::{
    ContainerConfig, EndpointSettings, HostConfig, PortBinding, PortMap,
};
use berth_domain::{ContainerId, Status};
use berth_engine::{EndpointRecord, MountType, SandboxRecord, Sizes, Snapshot};
use jiff::Timestamp;

use super::{signed, time};
use crate::app::App;

/// The storage driver's name, as clients know it.
pub(crate) const STORAGE_DRIVER: &str = "overlay2";

/// Both sizes of a container.
pub(crate) fn sizes(sizes: Sizes) -> (Option<i64>, Option<i64>) {
    (Some(signed(sizes.rw)), Some(signed(sizes.root_fs)))
}

/// The same in a list, which leaves out nothing written, as the reference's does.
pub(crate) fn listed_sizes(sizes: Sizes) -> (Option<i64>, Option<i64>) {
    let (rw, root_fs) = self::sizes(sizes);
    (rw.filter(|rw| *rw != 0), root_fs)
}

/// `GET /containers/{id}/json`
pub(crate) fn inspect(app: &App, c: &Snapshot) -> ContainerInspect {
    let path = |p: &std::path::Path| p.display().to_string();
    // Before that there are no such files.
    let once_started = |p: &std::path::Path| {
        if c.state.started_at.is_some() { path(p) } else { String::new() }
    };
    let lower = app.images.layers(&c.image).unwrap_or_default();
    let lower: Vec<String> = lower.iter().map(|l| path(l)).collect();
    let execs: Vec<String> = app.engine.exec_ids(&c.id).iter().map(ToString::to_string).collect();
    ContainerInspect {
        id: c.id.to_string(),
        created: c.created_at.to_string(),
        path: c.path.clone(),
        args: c.args.clone(),
        state: state(c),
        image: c.image.to_string(),
        resolv_conf_path: once_started(&c.paths.resolv_conf),
        hostname_path: once_started(&c.paths.hostname),
        hosts_path: once_started(&c.paths.hosts),
        log_path: c.log_path.as_deref().map(once_started).unwrap_or_default(),
        name: format!("/{}", c.name),
        restart_count: i64::from(c.state.restart_count),
        driver: STORAGE_DRIVER.to_owned(),
        platform: c.platform.os.clone(),
        exec_ids: (!execs.is_empty()).then_some(execs),
        host_config: HostConfig { links: app.engine.links_shown(c), ..host_config(c) },
        graph_driver: Some(DriverData {
            data: Some(
                [
                    ("ID".to_owned(), c.id.to_string()),
                    ("LowerDir".to_owned(), lower.join(":")),
                    ("UpperDir".to_owned(), path(&c.paths.upper)),
                    ("WorkDir".to_owned(), path(&c.paths.work)),
                ]
                .into(),
            ),
            name: STORAGE_DRIVER.to_owned(),
        }),
        mounts: mounts(c),
        config: config(c),
        network_settings: network_settings(app, c),
        ..ContainerInspect::default()
    }
}

/// No limit is shown as none, not as zero.
fn host_config(c: &Snapshot) -> HostConfig {
    let mut config = (*c.host_config).clone();
    config.resources.pids_limit = config.resources.pids_limit.filter(|n| *n != 0);
    config
}

/// Clients send an empty map where they ask for no volumes.
fn config(c: &Snapshot) -> ContainerConfig {
    let mut config = (*c.config).clone();
    config.volumes = config.volumes.filter(|v| !v.is_empty());
    config
}

fn state(c: &Snapshot) -> ContainerState {
    let s = &c.state;
    ContainerState {
        status: s.status.to_string(),
        // A container that waits to be started again counts as running.
        running: s.status.has_processes() || s.status == Status::Restarting,
        paused: s.status == Status::Paused,
        restarting: s.status == Status::Restarting,
        oom_killed: s.oom_killed,
        dead: s.status == Status::Dead,
        pid: i64::from(s.pid),
        exit_code: i64::from(s.exit_code),
        error: s.error.clone(),
        started_at: time(s.started_at),
        finished_at: time(s.finished_at),
        health: s.health.as_ref().map(|h| Health {
            status: h.status.as_str().to_owned(),
            failing_streak: i64::from(h.failing_streak),
            log: h
                .log
                .iter()
                .map(|p| HealthResult {
                    start: p.started_at.to_string(),
                    end: p.ended_at.to_string(),
                    exit_code: i64::from(p.exit_code),
                    output: p.output.clone(),
                })
                .collect(),
        }),
    }
}

fn mounts(c: &Snapshot) -> Vec<MountPoint> {
    c.mounts.iter().filter(|m| !m.hidden).map(mount).collect()
}

fn mount(m: &berth_engine::MountPoint) -> MountPoint {
    let kind = match m.r#type {
        MountType::Bind => "bind",
        MountType::Volume => "volume",
        MountType::Tmpfs => "tmpfs",
        MountType::Image => "image",
    };
    MountPoint {
        r#type: kind.to_owned(),
        name: m.name.clone(),
        source: m.source.clone(),
        destination: m.destination.clone(),
        driver: m.driver.clone(),
        mode: m.mode.clone(),
        rw: m.rw,
        propagation: m.propagation.clone(),
    }
}

fn network_settings(app: &App, c: &Snapshot) -> NetworkSettings {
    let sandbox = c.sandbox.as_deref();
    NetworkSettings {
        sandbox_id: sandbox.map(|s| s.sandbox_id.clone()).unwrap_or_default(),
        sandbox_key: sandbox.map(|s| sandbox_key(c, s)).unwrap_or_default(),
        ports: sandbox.map(|s| port_map(c, s)).unwrap_or_default(),
        networks: endpoints(app, c),
    }
}

/// A path that leads to the network namespace while the container runs. Another's is not shown.
fn sandbox_key(c: &Snapshot, sandbox: &SandboxRecord) -> String {
    if sandbox.sandbox_id.is_empty() || c.state.pid == 0 {
        return String::new();
    }
    format!("/proc/{}/ns/net", c.state.pid)
}

/// Published ports with where they are published, exposed ones with `null`.
fn port_map(c: &Snapshot, sandbox: &SandboxRecord) -> PortMap {
    let mut map: PortMap = c.config.exposed_ports.keys().map(|port| (with_protocol(port), None)).collect();
    for port in &sandbox.ports {
        let key = format!("{}/{}", port.container_port, port.protocol);
        let binding =
            PortBinding { host_ip: port.host_ip.to_string(), host_port: shown_port(port.host_port) };
        map.entry(key).or_default().get_or_insert_default().push(binding);
    }
    map
}

/// A container reached at its own address has no port of the host.
fn shown_port(port: u16) -> String {
    if port == 0 { String::new() } else { port.to_string() }
}

fn with_protocol(port: &str) -> String {
    if port.contains('/') { port.to_owned() } else { format!("{port}/tcp") }
}

/// The networks that are joined, or while it does not run those that will be.
fn endpoints(app: &App, c: &Snapshot) -> BTreeMap<String, EndpointSettings> {
    let asked = |network: &str| {
        let all = &c.networking.endpoints_config;
        let default = if network == "bridge" { all.get("default") } else { None };
        all.get(network).or(default).cloned().flatten().unwrap_or_default()
    };
    if let Some(sandbox) = &c.sandbox {
        return sandbox
            .endpoints
            .iter()
            .map(|e| (e.network_name.clone(), endpoint(c, e, asked(&e.network_name))))
            .collect();
    }
    let name = |network: &str| if network == "default" { "bridge".to_owned() } else { network.to_owned() };
    let mut all: BTreeMap<String, EndpointSettings> =
        c.networking.endpoints_config.keys().map(|n| (name(n), asked(n))).collect();
    let mode = c.host_config.network_mode.as_str();
    if all.is_empty() && !mode.starts_with("container:") {
        let network = if mode.is_empty() { "bridge".to_owned() } else { name(mode) };
        all.insert(network, EndpointSettings::default());
    }
    // What a run was given stays to be seen, but for its addresses.
    if c.state.started_at.is_some() {
        for (name, endpoint) in &mut all {
            let Ok(network) = app.engine.network_inspect(name) else { continue };
            endpoint.network_id.clone_from(&network.record.id);
            if is_user_defined(name) {
                endpoint.dns_names = Some(dns_names(c, endpoint.aliases.as_deref().unwrap_or_default()));
            }
        }
    }
    all
}

fn endpoint(c: &Snapshot, e: &EndpointRecord, asked: EndpointSettings) -> EndpointSettings {
    fn shown<T: ToString>(value: Option<T>) -> String {
        value.map(|v| v.to_string()).unwrap_or_default()
    }
    let user_defined = is_user_defined(&e.network_name);
    EndpointSettings {
        aliases: asked.aliases.or_else(|| (!e.aliases.is_empty()).then(|| e.aliases.clone())),
        mac_address: shown(e.mac),
        network_id: e.network_id.clone(),
        endpoint_id: e.endpoint_id.clone(),
        gateway: shown(e.gateway.filter(|ip| !ip.is_unspecified())),
        ip_address: shown(e.ipv4),
        ip_prefix_len: e.ipv4_prefix,
        ipv6_gateway: shown(e.ipv6_gateway.filter(|ip| !ip.is_unspecified())),
        global_ipv6_address: shown(e.ipv6),
        global_ipv6_prefix_len: e.ipv6_prefix,
        dns_names: user_defined.then(|| dns_names(c, &e.aliases)),
        ..asked
    }
}

fn is_user_defined(network: &str) -> bool {
    !matches!(network, "bridge" | "host" | "none")
}

/// What a container answers to on a user-defined network: each once, its own name first.
fn dns_names(c: &Snapshot, aliases: &[String]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let own = [c.name.clone()].into_iter();
    let rest = [c.id.short().to_owned(), c.config.hostname.clone()].into_iter();
    for name in own.chain(aliases.iter().cloned()).chain(rest) {
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Whether the image's name is still its: one that was given to another image since does not name this container's.
pub(crate) fn still_named(app: &App, c: &Snapshot) -> bool {
    app.images.resolve(&c.image_name).is_ok_and(|id| id == c.image)
}

/// A line of `GET /containers/json`
pub(crate) fn summary(
    app: &App,
    c: &Snapshot,
    now: Timestamp,
    links: &BTreeMap<ContainerId, Vec<String>>,
) -> ContainerSummary {
    let still = still_named(app, c);
    let health = c.state.health.as_ref();
    ContainerSummary {
        id: c.id.to_string(),
        names: [format!("/{}", c.name)]
            .into_iter()
            .chain(links.get(&c.id).into_iter().flatten().cloned())
            .collect(),
        image: if still { c.image_name.clone() } else { c.image.to_string() },
        image_id: c.image.to_string(),
        command: command(&c.path, &c.args),
        created: c.created_at.as_second(),
        ports: ports(c),
        labels: c.config.labels.clone().unwrap_or_default(),
        state: c.state.status.to_string(),
        status: status(c, now),
        health: Some(HealthSummary {
            status: health.map_or("none", |h| h.status.as_str()).to_owned(),
            failing_streak: health.map_or(0, |h| i64::from(h.failing_streak)),
        }),
        host_config: SummaryHostConfig {
            network_mode: c.host_config.network_mode.clone(),
            annotations: c.host_config.annotations.clone(),
        },
        network_settings: SummaryNetworks {
            // The list leaves out what only inspect needs.
            networks: endpoints(app, c)
                .into_iter()
                .map(|(n, e)| (n, EndpointSettings { dns_names: None, aliases: None, ..e }))
                .collect(),
        },
        mounts: mounts(c),
        ..ContainerSummary::default()
    }
}

/// Program and arguments in a line; arguments with spaces are quoted.
fn command(path: &str, args: &[String]) -> String {
    let mut line = path.to_owned();
    for arg in args {
        line.push(' ');
        if arg.contains(' ') {
            line.push_str(&format!("'{arg}'"));
        } else {
            line.push_str(arg);
        }
    }
    line
}

fn ports(c: &Snapshot) -> Vec<Port> {
    // Only what runs has ports.
    let Some(sandbox) = &c.sandbox else { return Vec::new() };
    let mut ports: Vec<Port> = sandbox
        .ports
        .iter()
        .map(|p| Port {
            ip: p.host_ip.to_string(),
            private_port: p.container_port,
            public_port: Some(p.host_port),
            r#type: p.protocol.to_string(),
        })
        .collect();
    for exposed in c.config.exposed_ports.keys() {
        let (number, protocol) = exposed.split_once('/').unwrap_or((exposed, "tcp"));
        let Ok(private_port) = number.parse() else { continue };
        if !ports.iter().any(|p| p.private_port == private_port && p.r#type == protocol) {
            ports.push(Port { private_port, r#type: protocol.to_owned(), ..Port::default() });
        }
    }
    ports.sort();
    ports
}

/// How it stands and how long, in words. How long it has been up is asked of a clock that nobody sets; times of what has
/// ended are all that is left of it.
pub(crate) fn status(c: &Snapshot, now: Timestamp) -> String {
    // A clock that was set back must not make durations of centuries.
    let since = |at: Option<Timestamp>| {
        at.and_then(|at| Duration::try_from(now.duration_since(at)).ok()).unwrap_or_default()
    };
    let s = &c.state;
    text::status(match s.status {
        Status::Created => Standing::Created,
        Status::Running | Status::Paused => Standing::Up {
            since: s.up_since.map_or_else(|| since(s.started_at), |up| up.elapsed()),
            paused: s.status == Status::Paused,
            health: s.health.as_ref().map_or("", |h| h.status.as_str()),
        },
        Status::Restarting => {
            Standing::Restarting { code: i64::from(s.exit_code), ago: since(s.finished_at) }
        }
        Status::Removing => Standing::Removing,
        Status::Dead => Standing::Dead,
        // A start that failed never ended.
        Status::Exited if s.finished_at.is_none() => Standing::Created,
        Status::Exited => Standing::Exited { code: i64::from(s.exit_code), ago: since(s.finished_at) },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_quote_what_has_spaces() {
        let args = ["-c".to_owned(), "echo hi".to_owned()];
        assert_eq!(command("sh", &args), "sh -c 'echo hi'");
        assert_eq!(command("sh", &[]), "sh");
    }

    #[test]
    fn exposed_ports_have_a_protocol() {
        assert_eq!(with_protocol("80"), "80/tcp");
        assert_eq!(with_protocol("53/udp"), "53/udp");
    }
}
