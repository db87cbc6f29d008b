// SPDX-License-Identifier: Apache-2.0
//! The one place where everything is wired.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_api::types::container_create::Ulimit;
use berth_domain::{CgroupDriver, Error, Result};
use berth_engine::{Engine, EngineConfig};
use berth_image::{Images, ImagesConfig};
use berth_network::{Founder, NetworkConfig, Networks, UserNamespace};
use berth_registry::{Client, Proxies, RegistryConfig};
use berth_runtime::link::Owner;
use berth_runtime::{ShimConfig, Shims};
use berth_volume::Volumes;
use tokio::sync::watch;

use crate::app::{App, Parts};
use crate::config::Settings;
use crate::host::HostInfo;
use crate::pidfile::RootLock;
use crate::remap;

/// Where packages put the shim.
const PACKAGED_SHIM: &str = "/usr/libexec/berth/berth-shim";

/// Makes the roots, closed to other users.
///
/// # Errors
///
/// A directory cannot be made.
pub(crate) fn make_roots(settings: &Settings) -> Result<()> {
    make_dir(&settings.data_root, 0o710)?;
    make_dir(&settings.exec_root, 0o711)
}

fn make_dir(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir_all(path).map_err(|e| Error::io("making", path, e))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(|e| Error::io("setting the mode of", path, e))
}

/// The limit of open files that the daemon was started with. It raises its own, for it holds a few for each container;
/// containers get what they would have got without that: some programs walk through all they may open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenFiles(rustix::process::Rlimit);

impl OpenFiles {
    /// As it is now.
    pub(crate) fn now() -> Self {
        Self(rustix::process::getrlimit(rustix::process::Resource::Nofile))
    }

    fn ulimit(self) -> Ulimit {
        let number = |limit: Option<u64>| limit.and_then(|n| i64::try_from(n).ok()).unwrap_or(-1);
        Ulimit { name: "nofile".to_owned(), hard: number(self.0.maximum), soft: number(self.0.current) }
    }
}

/// Opens everything, lowest floor first.
///
/// # Errors
///
/// What cannot be opened, with what was being done.
pub(crate) async fn open(
    settings: Settings,
    files: OpenFiles,
    shutdown: watch::Receiver<bool>,
) -> Result<App> {
    let host = blocking(HostInfo::read).await?;
    check_cgroup_driver(settings.cgroup_driver, &host)?;
    let registry = Client::new(registry_config(&settings))?;
    let images = {
        let (config, registry) = (images_config(&settings), registry.clone());
        blocking(move || Images::open(config, registry)).await.map_err(|e| e.context("opening the images"))?
    };
    let volumes = {
        let root = settings.data_root.join("volumes");
        blocking(move || Volumes::open(&root)).await.map_err(|e| e.context("opening the volumes"))?
    };
    let shim_path = shim_path(settings.shim_path.as_deref())?;
    let shims = Shims::new(ShimConfig { shim_path, exec_root: settings.exec_root.clone() })?;
    let id_map = remap::resolve(settings.userns_remap.as_deref())?;
    let networks = NetworkConfig {
        founder: Some(founder(shims.clone())),
        id_map: id_map.clone(),
        ..network_config(&settings)
    };
    let networks = Networks::open(networks).await.map_err(|e| e.context("opening the networks"))?;
    let facts = host.facts.clone();
    berth_engine::check_realtime(settings.cpu_rt_period, settings.cpu_rt_runtime, &facts)?;
    let engine = Engine::open(
        EngineConfig { id_map: id_map.map(Arc::new), ..engine_config(&settings, files) },
        images.clone(),
        networks,
        volumes.clone(),
        shims,
        facts,
    )
    .await
    .map_err(|e| e.context("opening the engine"))?;
    let id = engine_id(&settings.data_root)?;
    let parts = Parts { engine, images, volumes, registry, host, id };
    Ok(App::new(parts, settings, shutdown))
}

/// By the shim's program: the daemon's own process has too many threads for it.
fn founder(shims: Shims) -> Founder {
    Founder::new(move |user| {
        let founded = match user {
            UserNamespace::Host => return Err(Error::internal("the host's user namespace is there already")),
            UserNamespace::Mapped(map) => shims.found(Owner::New(map))?,
            UserNamespace::Of(userns) => shims.found(Owner::Joined(userns.as_fd()))?,
        };
        Ok((founded.user, founded.net))
    })
}

/// Better refused now than at every start.
fn check_cgroup_driver(driver: CgroupDriver, host: &HostInfo) -> Result<()> {
    let refused = |why: &str| {
        Err(Error::invalid(format!(
            "exec-opts native.cgroupdriver=systemd: {why}; use native.cgroupdriver=cgroupfs"
        )))
    };
    match driver {
        CgroupDriver::Systemd if host.cgroup_version() != "2" => {
            refused("this host does not use the unified cgroup hierarchy (cgroup v2) alone")
        }
        CgroupDriver::Systemd if !Path::new("/run/systemd/private").exists() => {
            refused("systemd does not run on this host")
        }
        CgroupDriver::Systemd | CgroupDriver::Cgroupfs => Ok(()),
    }
}

/// Work on the disk runs beside the tasks.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal("opening ended abnormally").because(e))?
}

fn registry_config(settings: &Settings) -> RegistryConfig {
    let mut config = RegistryConfig {
        mirrors: settings.registry_mirrors.clone(),
        insecure: settings.insecure_registries.clone(),
        user_agent: format!("berth/{}", crate::VERSION),
        certs_dirs: settings.certs_dirs.clone(),
        proxies: Proxies {
            http: settings.proxies.http_proxy.clone(),
            https: settings.proxies.https_proxy.clone(),
            no: settings.proxies.no_proxy.clone(),
            from_env: true,
        },
        ..RegistryConfig::default()
    };
    config.retries.count = settings.max_download_attempts.saturating_sub(1);
    config
}

fn images_config(settings: &Settings) -> ImagesConfig {
    let mut config = ImagesConfig::new(&settings.data_root);
    config.max_concurrent_downloads = settings.max_concurrent_downloads;
    config.max_concurrent_uploads = settings.max_concurrent_uploads;
    config
}

fn network_config(settings: &Settings) -> NetworkConfig {
    NetworkConfig {
        bridge: settings.bridge.clone(),
        bip: settings.bip,
        fixed_cidr: settings.fixed_cidr,
        ipv6: settings.ipv6,
        bip6: settings.bip6,
        fixed_cidr_v6: settings.fixed_cidr_v6,
        default_gateway: settings.default_gateway,
        default_gateway_v6: settings.default_gateway_v6,
        default_network_options: settings.default_network_opts.clone(),
        direct_routing: settings.allow_direct_routing,
        default_address_pools: settings.default_address_pools.clone(),
        mtu: settings.mtu,
        icc: settings.icc,
        masquerade: settings.ip_masq,
        ip_forward: settings.ip_forward,
        default_host_ip: settings.ip,
        ..NetworkConfig::new(&settings.data_root)
    }
}

fn engine_config(settings: &Settings, files: OpenFiles) -> EngineConfig {
    let mut default_ulimits = settings.default_ulimits.clone();
    if !default_ulimits.iter().any(|u| u.name == "nofile") {
        default_ulimits.push(files.ulimit());
    }
    EngineConfig {
        dns: settings.dns.clone(),
        dns_search: settings.dns_search.clone(),
        dns_options: settings.dns_opts.clone(),
        log_driver: settings.log_driver.clone(),
        log_opts: settings.log_opts.clone(),
        journal_socket: std::env::var_os("BERTH_JOURNAL_SOCKET")
            .map_or_else(|| "/run/systemd/journal/socket".into(), Into::into),
        default_runtime: settings.default_runtime.clone(),
        runtimes: settings.runtimes.clone(),
        default_ulimits,
        default_shm_size: settings.default_shm_size,
        default_ipc_mode: settings.default_ipc_mode.clone(),
        default_cgroupns_mode: settings.default_cgroupns_mode.clone(),
        init: settings.init,
        init_path: settings.init_path.clone(),
        seccomp_profile: settings.seccomp_profile.clone(),
        cgroup_parent: settings.cgroup_parent.clone(),
        cgroup_driver: settings.cgroup_driver,
        cpu_rt_runtime: settings.cpu_rt_runtime,
        cpu_rt_period: settings.cpu_rt_period,
        cdi_spec_dirs: settings.cdi_spec_dirs.clone(),
        no_new_privileges: settings.no_new_privileges,
        host_gateway_ips: settings.host_gateway_ips.clone(),
        ..EngineConfig::new(&settings.data_root, &settings.exec_root)
    }
}

/// Puts in force what other crates keep of the settings that a reload may change.
///
/// # Errors
///
/// A mirror or registry that cannot be read; nothing has changed then.
pub(crate) fn reload(app: &App, settings: &Settings) -> Result<()> {
    app.registry.reconfigure(registry_config(settings))?;
    app.images.set_max_concurrent_downloads(settings.max_concurrent_downloads);
    app.images.set_max_concurrent_uploads(settings.max_concurrent_uploads);
    Ok(())
}

/// `--rebuild-index`: makes the metadata index anew from files.
///
/// # Errors
///
/// A daemon runs on this data root; the files cannot be read.
pub(crate) fn rebuild_index(settings: &Settings) -> Result<()> {
    make_roots(settings)?;
    let _lock = RootLock::take(&settings.data_root)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::internal("starting the runtime").because(e))?;
    let _inside = runtime.enter();
    let images = Images::open(images_config(settings), Client::new(registry_config(settings))?)?;
    let found = images.rebuild_index()?;
    tracing::info!(images = found, "the index was rebuilt");
    Ok(())
}

/// The shim: as told, beside the daemon, or where packages put it.
fn shim_path(told: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = told {
        return Ok(path.to_path_buf());
    }
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("berth-shim")));
    let places = [beside, Some(PathBuf::from(PACKAGED_SHIM))];
    places.into_iter().flatten().find(|p| p.is_file()).ok_or_else(|| {
        Error::not_found(format!(
            "berth-shim is neither beside berthd nor at {PACKAGED_SHIM}: use --shim-path"
        ))
    })
}

/// This engine's id, made once and kept.
fn engine_id(data_root: &Path) -> Result<String> {
    let path = data_root.join("engine-id");
    match std::fs::read_to_string(&path) {
        Ok(id) if !id.trim().is_empty() => return Ok(id.trim().to_owned()),
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::io("reading", &path, e)),
    }
    const SOURCE: &str = "/proc/sys/kernel/random/uuid";
    let id = std::fs::read_to_string(SOURCE).map_err(|e| Error::io("reading", SOURCE, e))?.trim().to_owned();
    std::fs::write(&path, format!("{id}\n")).map_err(|e| Error::io("writing", &path, e))?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn the_id_stays() {
        let dir = tempfile::tempdir().unwrap();
        let first = engine_id(dir.path()).unwrap();
        assert_eq!(first.len(), 36);
        assert_eq!(engine_id(dir.path()).unwrap(), first);
    }

    #[test]
    fn roots_are_closed_to_others() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        make_dir(&path, 0o710).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o710);
    }
}
