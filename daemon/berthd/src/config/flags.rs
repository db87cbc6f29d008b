// SPDX-License-Identifier: Apache-2.0
//! The command line.

use std::collections::BTreeMap;
use std::path::PathBuf;

use berth_domain::{Error, Result};
use clap::Parser;

use super::Given;
use super::given::{Pool, Proxies, Runtime, Ulimit};

/// The daemon of Berth, a container engine that speaks Docker's API.
#[derive(Debug, Parser)]
#[command(name = "berthd", version = crate::VERSION, disable_version_flag = true)]
pub(crate) struct Flags {
    /// Where to listen: unix:///path, tcp://address:port or fd:// (systemd); may be repeated
    #[arg(short = 'H', long = "host", value_name = "ADDRESS")]
    host: Vec<String>,
    /// Directory for what must last
    #[arg(long, value_name = "DIR")]
    data_root: Option<String>,
    /// Directory for what lives as long as the host runs
    #[arg(long, value_name = "DIR")]
    exec_root: Option<String>,
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config_file: Option<PathBuf>,
    /// File for the daemon's process id
    #[arg(short = 'p', long, value_name = "FILE")]
    pidfile: Option<String>,
    /// Group of the unix socket
    #[arg(short = 'G', long, value_name = "GROUP")]
    group: Option<String>,
    /// Same as --log-level debug
    #[arg(short = 'D', long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    debug: Option<bool>,
    /// debug, info, warn, error or fatal
    #[arg(short = 'l', long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// text or json
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Registry to ask before Docker Hub; may be repeated
    #[arg(long, value_name = "URL")]
    registry_mirror: Vec<String>,
    /// Registry that may be spoken to in the clear; may be repeated
    #[arg(long, value_name = "REGISTRY")]
    insecure_registry: Vec<String>,
    /// Layers downloaded at a time
    #[arg(long, value_name = "N")]
    max_concurrent_downloads: Option<i64>,
    /// Layers uploaded at a time
    #[arg(long, value_name = "N")]
    max_concurrent_uploads: Option<i64>,
    /// Times a download is tried
    #[arg(long, value_name = "N")]
    max_download_attempts: Option<i64>,
    /// Proxy for plain HTTP, instead of the environment's
    #[arg(long, value_name = "URL")]
    http_proxy: Option<String>,
    /// Proxy for HTTPS, instead of the environment's
    #[arg(long, value_name = "URL")]
    https_proxy: Option<String>,
    /// Hosts, domains and networks that are asked directly, instead of the environment's
    #[arg(long, value_name = "LIST")]
    no_proxy: Option<String>,
    /// Address and subnet of the default bridge
    #[arg(long, value_name = "CIDR")]
    bip: Option<String>,
    /// Addresses for containers on the default bridge
    #[arg(long, value_name = "CIDR")]
    fixed_cidr: Option<String>,
    /// Whether the default bridge has IPv6 too
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ipv6: Option<bool>,
    /// IPv6 address and subnet of the default bridge
    #[arg(long, value_name = "CIDR")]
    bip6: Option<String>,
    /// IPv6 subnet of the default bridge
    #[arg(long, value_name = "CIDR")]
    fixed_cidr_v6: Option<String>,
    /// Address that containers on the default bridge go out by
    #[arg(long, value_name = "IP")]
    default_gateway: Option<String>,
    /// IPv6 address that containers on the default bridge go out by
    #[arg(long, value_name = "IP")]
    default_gateway_v6: Option<String>,
    /// DRIVER=KEY=VALUE for new networks that do not set it; may be repeated
    #[arg(long, value_name = "OPTION")]
    default_network_opt: Vec<String>,
    /// Whether published ports are reached from elsewhere at the container's own address too
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    allow_direct_routing: Option<bool>,
    /// Interface of the default bridge; "none" for no default network
    #[arg(short = 'b', long, value_name = "NAME")]
    bridge: Option<String>,
    /// MTU of the default bridge
    #[arg(long, value_name = "BYTES")]
    mtu: Option<i64>,
    /// Whether containers on the default bridge reach one another
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    icc: Option<bool>,
    /// Host address that ports are published on
    #[arg(long, value_name = "IP")]
    ip: Option<String>,
    /// Turn on the kernel's forwarding
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ip_forward: Option<bool>,
    /// Masquerade what leaves the default bridge
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ip_masq: Option<bool>,
    /// base=CIDR,size=BITS that networks take their subnets from; may be repeated
    #[arg(long, value_name = "POOL")]
    default_address_pool: Vec<String>,
    /// Name server for containers; may be repeated
    #[arg(long, value_name = "IP")]
    dns: Vec<String>,
    /// Resolver option for containers; may be repeated
    #[arg(long, value_name = "OPTION")]
    dns_opt: Vec<String>,
    /// Search domain for containers; may be repeated
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// What host-gateway stands for in --add-host; may be repeated
    #[arg(long, value_name = "IP")]
    host_gateway_ip: Vec<String>,
    /// Log driver of containers that name none
    #[arg(long, value_name = "DRIVER")]
    log_driver: Option<String>,
    /// KEY=VALUE for that driver; may be repeated
    #[arg(long, value_name = "OPTION")]
    log_opt: Vec<String>,
    /// Runtime of containers that name none
    #[arg(long, value_name = "NAME")]
    default_runtime: Option<String>,
    /// NAME=PATH of an OCI runtime; may be repeated
    #[arg(long, value_name = "RUNTIME")]
    add_runtime: Vec<String>,
    /// NAME=SOFT[:HARD] for containers that do not set it; may be repeated
    #[arg(long, value_name = "ULIMIT")]
    default_ulimit: Vec<String>,
    /// Size of /dev/shm for containers that ask for none
    #[arg(long, value_name = "SIZE")]
    default_shm_size: Option<String>,
    /// private or shareable
    #[arg(long, value_name = "MODE")]
    default_ipc_mode: Option<String>,
    /// private or host
    #[arg(long, value_name = "MODE")]
    default_cgroupns_mode: Option<String>,
    /// Run an init process in containers that do not say
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    init: Option<bool>,
    /// Program to run as the init process (docker-init, tini, catatonit)
    #[arg(long, value_name = "FILE")]
    init_path: Option<String>,
    /// Seccomp profile of containers that name none: a file or "builtin"
    #[arg(long, value_name = "FILE")]
    seccomp_profile: Option<String>,
    /// Cgroup under which those of containers are made
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<String>,
    /// Microseconds of realtime of a CPU that all containers together have in each period
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_rt_runtime: Option<i64>,
    /// The period of --cpu-rt-runtime
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_rt_period: Option<i64>,
    /// Where CDI spec files are, the directory that wins last; may be repeated, empty for nowhere
    #[arg(long, value_name = "DIR")]
    cdi_spec_dir: Vec<String>,
    /// KEY=VALUE: native.cgroupdriver is cgroupfs or systemd; may be repeated
    #[arg(long, value_name = "OPTION")]
    exec_opt: Vec<String>,
    /// Set no_new_privs in every container
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    no_new_privileges: Option<bool>,
    /// Users of containers are subordinate ids of this user: "default", USER or USER:GROUP
    #[arg(long, value_name = "USER")]
    userns_remap: Option<String>,
    /// KEY=VALUE shown by info; may be repeated
    #[arg(long, value_name = "LABEL")]
    label: Vec<String>,
    /// Seconds that a shutdown waits for requests
    #[arg(long, value_name = "SECONDS")]
    shutdown_timeout: Option<i64>,
    /// The berth-shim program
    #[arg(long, value_name = "FILE")]
    shim_path: Option<String>,
    /// Accepted for compatibility: containers always survive the daemon
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    live_restore: Option<bool>,
    /// Rebuild the metadata index from files, then end
    #[arg(long)]
    rebuild_index: bool,
    /// Check the configuration, then end
    #[arg(long)]
    validate: bool,
    /// Print the version, then end
    #[arg(short = 'v', long)]
    version: bool,
}

/// What the program is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Serve.
    Run,
    /// Check the settings and end.
    Validate,
    /// Write the index anew and end.
    RebuildIndex,
    /// Say the version and end.
    Version,
}

fn list(values: &[String]) -> Option<Vec<String>> {
    (!values.is_empty()).then(|| values.to_vec())
}

fn pairs<T>(
    values: &[String],
    flag: &str,
    read: impl Fn(&str) -> Result<T>,
) -> Result<Option<BTreeMap<String, T>>> {
    if values.is_empty() {
        return Ok(None);
    }
    let one = |text: &String| {
        let (key, value) = text.split_once('=').ok_or_else(|| {
            Error::invalid(format!("invalid argument {text:?} for --{flag}: KEY=VALUE expected"))
        })?;
        let value = read(value).map_err(|e| e.context(format!("invalid argument {text:?} for --{flag}")))?;
        Ok((key.to_owned(), value))
    };
    values.iter().map(one).collect::<Result<_>>().map(Some)
}

fn pool(text: &str) -> Result<Pool> {
    let bad = || {
        Error::invalid(format!(
            "invalid argument {text:?} for --default-address-pool: base=CIDR,size=BITS expected"
        ))
    };
    let (mut base, mut size) = (None, None);
    for part in text.split(',') {
        match part.split_once('=') {
            Some(("base", value)) => base = Some(value.to_owned()),
            Some(("size", value)) => size = Some(value.parse().map_err(|_| bad())?),
            _ => return Err(bad()),
        }
    }
    Ok(Pool { base: base.ok_or_else(bad)?, size: size.ok_or_else(bad)? })
}

type NetworkOptions = BTreeMap<String, BTreeMap<String, String>>;

fn network_options(values: &[String]) -> Result<Option<NetworkOptions>> {
    let mut all = NetworkOptions::new();
    for text in values {
        let bad = || {
            Error::invalid(format!(
                "invalid argument {text:?} for --default-network-opt: DRIVER=KEY=VALUE expected"
            ))
        };
        let (driver, option) = text.split_once('=').ok_or_else(bad)?;
        let (key, value) = option.split_once('=').ok_or_else(bad)?;
        all.entry(driver.to_owned()).or_default().insert(key.to_owned(), value.to_owned());
    }
    Ok((!all.is_empty()).then_some(all))
}

fn ulimit(text: &str) -> Result<(i64, i64)> {
    let number = |t: &str| match t {
        "unlimited" => Ok(-1),
        t => t.parse::<i64>().map_err(|e| Error::invalid(format!("{t:?} is no number")).because(e)),
    };
    let (soft, hard) = text.split_once(':').unwrap_or((text, text));
    Ok((number(soft)?, number(hard)?))
}

impl Flags {
    /// What to do.
    pub(crate) fn action(&self) -> Action {
        match self {
            Self { version: true, .. } => Action::Version,
            Self { validate: true, .. } => Action::Validate,
            Self { rebuild_index: true, .. } => Action::RebuildIndex,
            _ => Action::Run,
        }
    }

    /// The file named, if one was.
    pub(crate) fn config_file(&self) -> Option<&std::path::Path> {
        self.config_file.as_deref()
    }

    /// What was said.
    ///
    /// # Errors
    ///
    /// A value that cannot be taken apart; the flag is named.
    pub(crate) fn given(&self) -> Result<Given> {
        let ulimits = pairs(&self.default_ulimit, "default-ulimit", ulimit)?;
        Ok(Given {
            hosts: list(&self.host),
            data_root: self.data_root.clone(),
            exec_root: self.exec_root.clone(),
            pidfile: self.pidfile.clone(),
            group: self.group.clone(),
            debug: self.debug,
            log_level: self.log_level.clone(),
            log_format: self.log_format.clone(),
            registry_mirrors: list(&self.registry_mirror),
            insecure_registries: list(&self.insecure_registry),
            max_concurrent_downloads: self.max_concurrent_downloads,
            max_concurrent_uploads: self.max_concurrent_uploads,
            max_download_attempts: self.max_download_attempts,
            proxies: Some(Proxies {
                http_proxy: self.http_proxy.clone(),
                https_proxy: self.https_proxy.clone(),
                no_proxy: self.no_proxy.clone(),
            })
            .filter(|proxies| *proxies != Proxies::default()),
            bip: self.bip.clone(),
            fixed_cidr: self.fixed_cidr.clone(),
            ipv6: self.ipv6,
            bip6: self.bip6.clone(),
            fixed_cidr_v6: self.fixed_cidr_v6.clone(),
            default_gateway: self.default_gateway.clone(),
            default_gateway_v6: self.default_gateway_v6.clone(),
            default_network_opts: network_options(&self.default_network_opt)?,
            allow_direct_routing: self.allow_direct_routing,
            bridge: self.bridge.clone(),
            mtu: self.mtu,
            icc: self.icc,
            ip: self.ip.clone(),
            ip_forward: self.ip_forward,
            ip_masq: self.ip_masq,
            default_address_pools: match self.default_address_pool.as_slice() {
                [] => None,
                pools => Some(pools.iter().map(|p| pool(p)).collect::<Result<_>>()?),
            },
            dns: list(&self.dns),
            dns_opts: list(&self.dns_opt),
            dns_search: list(&self.dns_search),
            host_gateway_ip: None,
            host_gateway_ips: list(&self.host_gateway_ip),
            log_driver: self.log_driver.clone(),
            log_opts: pairs(&self.log_opt, "log-opt", |v| Ok(v.to_owned()))?,
            default_runtime: self.default_runtime.clone(),
            runtimes: pairs(&self.add_runtime, "add-runtime", |path| {
                Ok(Runtime { path: path.to_owned(), ..Runtime::default() })
            })?,
            default_ulimits: ulimits.map(|map| {
                map.into_iter()
                    .map(|(name, (soft, hard))| (name.clone(), Ulimit { name, hard, soft }))
                    .collect()
            }),
            default_shm_size: self.default_shm_size.clone().map(serde_json::Value::String),
            default_ipc_mode: self.default_ipc_mode.clone(),
            default_cgroupns_mode: self.default_cgroupns_mode.clone(),
            init: self.init,
            init_path: self.init_path.clone(),
            seccomp_profile: self.seccomp_profile.clone(),
            cgroup_parent: self.cgroup_parent.clone(),
            cpu_rt_runtime: self.cpu_rt_runtime,
            cpu_rt_period: self.cpu_rt_period,
            cdi_spec_dirs: list(&self.cdi_spec_dir),
            features: None,
            exec_opts: list(&self.exec_opt),
            no_new_privileges: self.no_new_privileges,
            userns_remap: self.userns_remap.clone(),
            labels: list(&self.label),
            shutdown_timeout: self.shutdown_timeout,
            shim_path: self.shim_path.clone(),
            min_api_version: None,
        })
    }
}
