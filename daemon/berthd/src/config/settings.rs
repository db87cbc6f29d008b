// SPDX-License-Identifier: Apache-2.0
//! Settings with defaults filled in and values checked.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use berth_api::ApiVersion;
use berth_api::types::container_create::Ulimit;
use berth_domain::{CgroupDriver, Error, Result};
use berth_engine::OciRuntime;
use berth_network::{AddressPool, Ipv4Net, Ipv6Net};

use super::Given;
use super::given::Proxies;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP port.
    Tcp(SocketAddr),
    /// The sockets that systemd opened for us; a name picks those of that name.
    Systemd(Option<String>),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Systemd(None) => f.write_str("fd://"),
            Self::Systemd(Some(name)) => write!(f, "fd://{name}"),
        }
    }
}

impl FromStr for Host {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let bad = |why: &str| Error::invalid(format!("invalid host {s:?}: {why}"));
        if let Some(path) = s.strip_prefix("unix://") {
            if !path.starts_with('/') {
                return Err(bad("an absolute path expected"));
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        if let Some(name) = s.strip_prefix("fd://") {
            return Ok(Self::Systemd((!name.is_empty() && name != "*").then(|| name.to_owned())));
        }
        if let Some(address) = s.strip_prefix("tcp://") {
            let (host, port) = match address.rsplit_once(':') {
                Some((host, port)) if !port.ends_with(']') => (host, port),
                _ => (address, "2375"),
            };
            let port: u16 = port.parse().map_err(|_| bad("the port is no number below 65536"))?;
            let host = if host.is_empty() { "0.0.0.0" } else { host };
            return (host.trim_start_matches('[').trim_end_matches(']'), port)
                .to_socket_addrs()
                .ok()
                .and_then(|mut all| all.next())
                .map(Self::Tcp)
                .ok_or_else(|| bad("the address cannot be resolved"));
        }
        Err(bad("unix:///path, tcp://address:port or fd:// expected"))
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogLevel {
    /// Every step of a start too, for `make trace`.
    Trace,
    /// For developers.
    Debug,
    /// State changes.
    Info,
    /// Odd but handled.
    Warn,
    /// An operator must act.
    Error,
}

impl LogLevel {
    /// As a directive of tracing's filter.
    pub(crate) fn directive(self) -> &'static str {
        match self {
            Self::Trace => "debug,hyper=info,hyper_util=info,rustls=info,sled=info,berth::path=trace",
            // Connections and TLS at debug level drown everything else.
            Self::Debug => "debug,hyper=info,hyper_util=info,rustls=info,sled=info",
            Self::Info => "info,sled=warn",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// What the daemon goes by.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    pub(crate) hosts: Vec<Host>,
    pub(crate) data_root: PathBuf,
    pub(crate) exec_root: PathBuf,
    pub(crate) pidfile: Option<PathBuf>,
    pub(crate) group: String,
    pub(crate) log_level: LogLevel,
    pub(crate) log_format: LogFormat,
    pub(crate) registry_mirrors: Vec<String>,
    pub(crate) insecure_registries: Vec<String>,
    /// Where registries' certificates and `hosts.toml` are, in order; the file's place decides.
    pub(crate) certs_dirs: Vec<PathBuf>,
    pub(crate) max_concurrent_downloads: usize,
    pub(crate) max_concurrent_uploads: usize,
    pub(crate) max_download_attempts: u32,
    pub(crate) proxies: Proxies,
    pub(crate) bip: Option<Ipv4Net>,
    pub(crate) fixed_cidr: Option<Ipv4Net>,
    pub(crate) ipv6: bool,
    pub(crate) bip6: Option<Ipv6Net>,
    pub(crate) fixed_cidr_v6: Option<Ipv6Net>,
    pub(crate) default_gateway: Option<Ipv4Addr>,
    pub(crate) default_gateway_v6: Option<Ipv6Addr>,
    pub(crate) default_network_opts: BTreeMap<String, BTreeMap<String, String>>,
    pub(crate) allow_direct_routing: bool,
    /// `None`: there is no default network.
    pub(crate) bridge: Option<String>,
    pub(crate) mtu: u32,
    pub(crate) icc: bool,
    pub(crate) ip: Ipv4Addr,
    pub(crate) ip_forward: bool,
    pub(crate) ip_masq: bool,
    pub(crate) default_address_pools: Vec<AddressPool>,
    pub(crate) dns: Vec<IpAddr>,
    pub(crate) dns_opts: Vec<String>,
    pub(crate) dns_search: Vec<String>,
    pub(crate) host_gateway_ips: Vec<IpAddr>,
    pub(crate) log_driver: String,
    pub(crate) log_opts: BTreeMap<String, String>,
    pub(crate) default_runtime: String,
    pub(crate) runtimes: BTreeMap<String, OciRuntime>,
    pub(crate) default_ulimits: Vec<Ulimit>,
    pub(crate) default_shm_size: i64,
    pub(crate) default_ipc_mode: String,
    pub(crate) default_cgroupns_mode: String,
    pub(crate) init: bool,
    pub(crate) init_path: Option<PathBuf>,
    /// The profile's text; `None` for the built-in one.
    pub(crate) seccomp_profile: Option<String>,
    pub(crate) cgroup_parent: String,
    pub(crate) cgroup_driver: CgroupDriver,
    pub(crate) no_new_privileges: bool,
    /// Whose subordinate ids containers get, as it was said.
    pub(crate) userns_remap: Option<String>,
    pub(crate) labels: Vec<String>,
    pub(crate) shutdown_timeout: Duration,
    pub(crate) shim_path: Option<PathBuf>,
    pub(crate) min_api_version: ApiVersion,
    /// Microseconds, 0 for what the kernel has.
    pub(crate) cpu_rt_period: i64,
    pub(crate) cpu_rt_runtime: i64,
    /// Empty when devices cannot be asked for by name.
    pub(crate) cdi_spec_dirs: Vec<PathBuf>,
}

/// Where the daemon listens when nothing says.
pub(crate) const DEFAULT_SOCKET: &str = "/run/berth/berth.sock";

fn bad(key: &str, value: impl fmt::Display, why: &str) -> Error {
    Error::invalid(format!("invalid {key} {:?}: {why}", value.to_string()))
}

fn parsed<T: FromStr>(key: &str, value: Option<&String>, why: &str) -> Result<Option<T>> {
    value.map(|text| text.parse().map_err(|_| bad(key, text, why))).transpose()
}

fn absolute(key: &str, value: Option<&String>, default: &str) -> Result<PathBuf> {
    let path = PathBuf::from(value.map_or(default, String::as_str));
    if path.is_absolute() {
        return Ok(path);
    }
    std::path::absolute(&path).map_err(|e| bad(key, path.display(), "it has no absolute form").because(e))
}

fn at_least<T: TryFrom<i64>>(key: &str, value: Option<i64>, default: i64, least: i64) -> Result<T> {
    let value = value.unwrap_or(default);
    let why = format!("a number of at least {least} expected");
    if value < least {
        return Err(bad(key, value, &why));
    }
    T::try_from(value).map_err(|_| bad(key, value, "too large"))
}

fn addresses(key: &str, values: Option<&Vec<String>>) -> Result<Vec<IpAddr>> {
    let one = |text: &String| text.parse().map_err(|_| bad(key, text, "an IP address expected"));
    values.into_iter().flatten().map(one).collect()
}

/// A number of bytes with an optional unit (`64m`, `1GiB`), binary multiples.
fn bytes(key: &str, value: &serde_json::Value) -> Result<i64> {
    if let Some(n) = value.as_i64().filter(|n| *n > 0) {
        return Ok(n);
    }
    let why = "a size such as 64m expected";
    let text = value.as_str().ok_or_else(|| bad(key, value, why))?;
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let shift = match unit.trim().trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(bad(key, text, why)),
    };
    let number: i64 = number.parse().map_err(|_| bad(key, text, why))?;
    number.checked_mul(1 << shift).filter(|n| *n > 0).ok_or_else(|| bad(key, text, why))
}

fn one_of<'a>(key: &str, value: Option<&'a String>, known: &[&'a str]) -> Result<&'a str> {
    let value = value.map_or(known[0], String::as_str);
    if known.contains(&value) {
        return Ok(value);
    }
    Err(bad(key, value, &format!("one of {} expected", known.join(", "))))
}

impl Settings {
    /// Fills in defaults and checks.
    ///
    /// # Errors
    ///
    /// The first value that cannot be, with its key.
    pub(crate) fn from_given(given: &Given) -> Result<Self> {
        let hosts = match given.hosts.as_deref() {
            None | Some([]) => vec![Host::Unix(PathBuf::from(DEFAULT_SOCKET))],
            Some(hosts) => hosts.iter().map(|h| h.parse()).collect::<Result<_>>()?,
        };
        let level = given.log_level.as_deref().unwrap_or("info");
        let log_level = match level.to_ascii_lowercase().as_str() {
            "trace" => LogLevel::Trace,
            "debug" => LogLevel::Debug,
            "info" => LogLevel::Info,
            "warn" | "warning" => LogLevel::Warn,
            "error" | "fatal" | "panic" => LogLevel::Error,
            _ => return Err(bad("log-level", level, "debug, info, warn, error or fatal expected")),
        };
        let log_level = if given.debug == Some(true) { LogLevel::Debug } else { log_level };
        let log_format = match one_of("log-format", given.log_format.as_ref(), &["text", "json"])? {
            "json" => LogFormat::Json,
            _ => LogFormat::Text,
        };
        let log_driver = given.log_driver.clone().unwrap_or_else(|| "json-file".to_owned());
        let log_opts = given.log_opts.clone().unwrap_or_default();
        berth_engine::check_log_options(&log_driver, &log_opts)
            .map_err(|e| Error::invalid("log-driver and log-opts").because(e))?;
        let bridge = match given.bridge.as_deref() {
            None | Some("") => Some("berth0".to_owned()),
            Some("none") => None,
            Some(name) if name.len() > 15 || name.contains(['/', ' ']) => {
                return Err(bad("bridge", name, "no interface can have this name"));
            }
            Some(name) => Some(name.to_owned()),
        };
        let cidr = "an address with a prefix length expected";
        if let Some(labels) = &given.labels {
            if let Some(label) = labels.iter().find(|l| !l.contains('=')) {
                return Err(bad("label", label, "KEY=VALUE expected"));
            }
        }
        for mirror in given.registry_mirrors.iter().flatten() {
            if !mirror.starts_with("https://") && !mirror.starts_with("http://") {
                return Err(bad("registry-mirror", mirror, "an http:// or https:// URL expected"));
            }
        }
        let runtimes = Self::runtimes(given)?;
        let default_runtime =
            given.default_runtime.clone().unwrap_or_else(|| berth_engine::NATIVE_RUNTIME.into());
        if default_runtime != berth_engine::NATIVE_RUNTIME && !runtimes.contains_key(&default_runtime) {
            return Err(bad("default-runtime", default_runtime, "there is no such runtime"));
        }
        let gateways = match (&given.host_gateway_ip, &given.host_gateway_ips) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid(
                    "host-gateway-ip and host-gateway-ips are the same: give one of them",
                ));
            }
            (Some(one), None) => addresses("host-gateway-ip", Some(&vec![one.clone()]))?,
            (None, many) => addresses("host-gateway-ip", many.as_ref())?,
        };
        let cgroup_driver = Self::cgroup_driver(given)?;
        let min: Option<ApiVersion> =
            parsed("min-api-version", given.min_api_version.as_ref(), "major.minor expected")?;
        let min = min.unwrap_or(ApiVersion::OLDEST);
        if min < ApiVersion::OLDEST || min > ApiVersion::NEWEST {
            return Err(bad(
                "min-api-version",
                min,
                &format!("from {} to {} expected", ApiVersion::OLDEST, ApiVersion::NEWEST),
            ));
        }
        Ok(Self {
            hosts,
            data_root: absolute("data-root", given.data_root.as_ref(), "/var/lib/berth")?,
            exec_root: absolute("exec-root", given.exec_root.as_ref(), "/run/berth")?,
            pidfile: match given.pidfile.as_deref() {
                None | Some("") => None,
                Some(_) => Some(absolute("pidfile", given.pidfile.as_ref(), "")?),
            },
            group: given.group.clone().unwrap_or_else(|| "berth".to_owned()),
            log_level,
            log_format,
            registry_mirrors: given.registry_mirrors.clone().unwrap_or_default(),
            insecure_registries: given.insecure_registries.clone().unwrap_or_default(),
            certs_dirs: Vec::new(),
            max_concurrent_downloads: at_least(
                "max-concurrent-downloads",
                given.max_concurrent_downloads,
                6,
                1,
            )?,
            max_concurrent_uploads: at_least("max-concurrent-uploads", given.max_concurrent_uploads, 5, 1)?,
            max_download_attempts: at_least("max-download-attempts", given.max_download_attempts, 5, 1)?,
            proxies: given.proxies.clone().unwrap_or_default(),
            bip: parsed("bip", given.bip.as_ref(), cidr)?,
            fixed_cidr: parsed("fixed-cidr", given.fixed_cidr.as_ref(), cidr)?,
            ipv6: given.ipv6.unwrap_or(false),
            bip6: parsed("bip6", given.bip6.as_ref(), cidr)?,
            fixed_cidr_v6: parsed("fixed-cidr-v6", given.fixed_cidr_v6.as_ref(), cidr)?,
            default_gateway: parsed(
                "default-gateway",
                given.default_gateway.as_ref(),
                "an IPv4 address expected",
            )?,
            default_gateway_v6: parsed(
                "default-gateway-v6",
                given.default_gateway_v6.as_ref(),
                "an IPv6 address expected",
            )?,
            default_network_opts: Self::network_opts(given)?,
            allow_direct_routing: given.allow_direct_routing.unwrap_or(false),
            bridge,
            mtu: match given.mtu {
                None | Some(0) => 1500,
                some => at_least("mtu", some, 1500, 68)?,
            },
            icc: given.icc.unwrap_or(true),
            ip: parsed("ip", given.ip.as_ref(), "an IPv4 address expected")?.unwrap_or(Ipv4Addr::UNSPECIFIED),
            ip_forward: given.ip_forward.unwrap_or(true),
            ip_masq: given.ip_masq.unwrap_or(true),
            default_address_pools: Self::pools(given)?,
            dns: addresses("dns", given.dns.as_ref())?,
            dns_opts: given.dns_opts.clone().unwrap_or_default(),
            dns_search: given.dns_search.clone().unwrap_or_default(),
            host_gateway_ips: gateways,
            log_driver,
            log_opts,
            default_runtime,
            runtimes,
            default_ulimits: Self::ulimits(given)?,
            default_shm_size: match &given.default_shm_size {
                None => 64 << 20,
                Some(value) => bytes("default-shm-size", value)?,
            },
            default_ipc_mode: one_of(
                "default-ipc-mode",
                given.default_ipc_mode.as_ref(),
                &["private", "shareable"],
            )?
            .to_owned(),
            default_cgroupns_mode: one_of(
                "default-cgroupns-mode",
                given.default_cgroupns_mode.as_ref(),
                &["", "private", "host"],
            )?
            .to_owned(),
            init: given.init.unwrap_or(false),
            init_path: Self::init_path(given)?,
            seccomp_profile: Self::seccomp_profile(given)?,
            cgroup_parent: Self::cgroup_parent(given, cgroup_driver)?,
            cgroup_driver,
            no_new_privileges: given.no_new_privileges.unwrap_or(false),
            userns_remap: given.userns_remap.clone().filter(|said| !said.is_empty()),
            labels: given.labels.clone().unwrap_or_default(),
            shutdown_timeout: Duration::from_secs(at_least(
                "shutdown-timeout",
                given.shutdown_timeout,
                15,
                0,
            )?),
            shim_path: given.shim_path.as_ref().map(PathBuf::from),
            min_api_version: min,
            cpu_rt_period: at_least("cpu-rt-period", given.cpu_rt_period, 0, 0)?,
            cpu_rt_runtime: at_least("cpu-rt-runtime", given.cpu_rt_runtime, 0, 0)?,
            cdi_spec_dirs: Self::cdi_spec_dirs(given)?,
        })
    }

    /// Where CDI files are: nowhere if the feature is off or the one directory that is named is empty.
    fn cdi_spec_dirs(given: &Given) -> Result<Vec<PathBuf>> {
        if given.features.iter().flatten().any(|(name, on)| name == "cdi" && !on) {
            return Ok(Vec::new());
        }
        match given.cdi_spec_dirs.as_deref() {
            None => Ok(berth_engine::DEFAULT_CDI_DIRS.map(PathBuf::from).into()),
            Some([one]) if one.is_empty() => Ok(Vec::new()),
            Some(dirs) => dirs.iter().map(|dir| absolute("cdi-spec-dir", Some(dir), "")).collect(),
        }
    }

    /// Who lays out cgroups.
    fn cgroup_driver(given: &Given) -> Result<CgroupDriver> {
        let mut driver = CgroupDriver::default();
        for option in given.exec_opts.iter().flatten() {
            driver = match option.split_once('=') {
                Some(("native.cgroupdriver", "cgroupfs")) => CgroupDriver::Cgroupfs,
                Some(("native.cgroupdriver", "systemd")) => CgroupDriver::Systemd,
                _ => {
                    return Err(bad(
                        "exec-opts",
                        option,
                        "native.cgroupdriver=cgroupfs or =systemd expected",
                    ));
                }
            };
        }
        Ok(driver)
    }

    /// Below what the cgroups of containers are made, as the driver knows it.
    fn cgroup_parent(given: &Given, driver: CgroupDriver) -> Result<String> {
        let parent = match given.cgroup_parent.as_deref() {
            None | Some("") => driver.default_parent(),
            Some(path) if path.ends_with(".slice") && driver == CgroupDriver::Cgroupfs => {
                return Err(bad("cgroup-parent", path, "slices need --exec-opt native.cgroupdriver=systemd"));
            }
            Some(path) => path,
        };
        driver.path(parent, "id").map_err(|e| bad("cgroup-parent", parent, &e.to_string()))?;
        Ok(parent.to_owned())
    }

    /// As told; otherwise it is our own.
    fn init_path(given: &Given) -> Result<Option<PathBuf>> {
        match given.init_path.as_deref() {
            None | Some("") => Ok(None),
            Some(path) if Path::new(path).is_file() => Ok(Some(PathBuf::from(path))),
            Some(path) => Err(bad("init-path", path, "there is no such file")),
        }
    }

    fn seccomp_profile(given: &Given) -> Result<Option<String>> {
        match given.seccomp_profile.as_deref() {
            None | Some("" | "builtin") => Ok(None),
            Some("unconfined") => Ok(Some("unconfined".to_owned())),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|e| bad("seccomp-profile", path, "it cannot be read").because(e))?;
                serde_json::from_str::<serde_json::Value>(&text)
                    .map_err(|e| bad("seccomp-profile", path, "it is not JSON").because(e))?;
                Ok(Some(text))
            }
        }
    }

    fn runtimes(given: &Given) -> Result<BTreeMap<String, OciRuntime>> {
        let mut runtimes = BTreeMap::new();
        for (name, runtime) in given.runtimes.iter().flatten() {
            if name == berth_engine::NATIVE_RUNTIME {
                return Err(bad("runtime", name, "this name is the built-in runtime's"));
            }
            if !runtime.runtime_type.is_empty() {
                return Err(bad(
                    "runtime",
                    name,
                    "runtimeType is not supported: give the path of an OCI runtime",
                ));
            }
            if runtime.path.is_empty() {
                return Err(bad("runtime", name, "it has no path"));
            }
            runtimes.insert(
                name.clone(),
                OciRuntime { path: PathBuf::from(&runtime.path), args: runtime.runtime_args.clone() },
            );
        }
        // As Docker has runc built in, the usual ones are there when they are installed.
        for name in ["runc", "crun"] {
            if !runtimes.contains_key(name) {
                if let Some(path) = find_program(name) {
                    runtimes.insert(name.to_owned(), OciRuntime { path, args: Vec::new() });
                }
            }
        }
        Ok(runtimes)
    }

    fn network_opts(given: &Given) -> Result<BTreeMap<String, BTreeMap<String, String>>> {
        let drivers = given.default_network_opts.clone().unwrap_or_default();
        match drivers.keys().find(|driver| !["bridge", "macvlan", "ipvlan"].contains(&driver.as_str())) {
            Some(driver) => {
                Err(bad("default-network-opts", driver, "the driver bridge, macvlan or ipvlan expected"))
            }
            None => Ok(drivers),
        }
    }

    fn pools(given: &Given) -> Result<Vec<AddressPool>> {
        let one = |pool: &super::given::Pool| {
            let base: berth_network::IpNet = pool.base.parse().map_err(|_| {
                bad("default-address-pool", &pool.base, "an address with a prefix length expected")
            })?;
            if pool.size < base.prefix_len() || pool.size > base.max_prefix_len() {
                return Err(bad("default-address-pool", &pool.base, "its size does not fit into its base"));
            }
            Ok(AddressPool { base, size: pool.size })
        };
        given.default_address_pools.iter().flatten().map(one).collect()
    }

    fn ulimits(given: &Given) -> Result<Vec<Ulimit>> {
        let one = |(key, limit): (&String, &super::given::Ulimit)| {
            let name = if limit.name.is_empty() { key.clone() } else { limit.name.clone() };
            if limit.hard != -1 && (limit.soft == -1 || limit.soft > limit.hard) {
                return Err(bad("default-ulimit", name, "the soft limit is above the hard one"));
            }
            Ok(Ulimit { name, hard: limit.hard, soft: limit.soft })
        };
        given.default_ulimits.iter().flatten().map(one).collect()
    }
}

/// A program in the usual places.
fn find_program(name: &str) -> Option<PathBuf> {
    ["/usr/libexec/docker", "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .into_iter()
        .map(|dir| PathBuf::from(dir).join(name))
        .find(|path| path.is_file())
}
