// SPDX-License-Identifier: Apache-2.0
//! The engine itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_api::types::event::{Event, EventActor};
use berth_api::types::image::{AuthConfig, AuthResponse};
use berth_api::types::system::{
    AddressPool, Commit, DeviceInfo, FirewallInfo, IndexInfo, Info, PluginsInfo, RegistryServiceConfig,
    RuntimeInfo, SwarmInfo, Version, VersionComponent, VersionPlatform,
};
use berth_api::{ApiVersion, Operation};
use berth_domain::{Error, Result};
use berth_engine::NATIVE_RUNTIME;
use http::{HeaderValue, StatusCode, header};
use tracing::Instrument as _;

use crate::app::App;
use crate::host;
use crate::http::serve::stopped;
use crate::http::{Answer, Body, Call, JSON, Response, ok, text};
use crate::wire;

/// `GET` and `HEAD /_ping`
pub(crate) async fn system_ping(_app: Arc<App>, call: Call) -> Answer {
    let mut response = if call.operation == Operation::SystemPingHead {
        let mut head = text(StatusCode::OK, "");
        head.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        head
    } else {
        text(StatusCode::OK, "OK")
    };
    let headers = response.headers_mut();
    // BuildKit is not there: builds go the classic way.
    headers.insert("Builder-Version", HeaderValue::from_static("1"));
    headers.insert("Swarm", HeaderValue::from_static("inactive"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    Ok(response)
}

/// `GET /version`
pub(crate) async fn system_version(app: Arc<App>, call: Call) -> Answer {
    let (min, arch) = (app.settings().min_api_version.to_string(), host::go_arch());
    let details: BTreeMap<String, String> = [
        ("ApiVersion", crate::API_VERSION),
        ("Arch", &arch),
        ("BuildTime", crate::BUILD_TIME),
        ("Experimental", "false"),
        ("GitCommit", crate::GIT_COMMIT),
        ("GoVersion", crate::GO_VERSION),
        ("KernelVersion", &app.host.kernel),
        ("MinAPIVersion", &min),
        ("Os", "linux"),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect();
    let part = |name: &str, details| VersionComponent {
        name: name.to_owned(),
        version: crate::VERSION.to_owned(),
        details,
    };
    let commit = [("GitCommit".to_owned(), crate::GIT_COMMIT.to_owned())].into();
    call.ok(&Version {
        platform: VersionPlatform { name: "Berth".to_owned() },
        components: vec![part("Engine", details), part("berth-shim", commit)],
        version: crate::VERSION.to_owned(),
        api_version: crate::API_VERSION.to_owned(),
        min_api_version: min,
        git_commit: crate::GIT_COMMIT.to_owned(),
        go_version: crate::GO_VERSION.to_owned(),
        os: "linux".to_owned(),
        arch,
        kernel_version: app.host.kernel.clone(),
        experimental: false,
        build_time: crate::BUILD_TIME.to_owned(),
    })
}

/// `GET /info`
pub(crate) async fn system_info(app: Arc<App>, call: Call) -> Answer {
    let settings = app.settings();
    let host = &app.host;
    let limits = &host.facts.limits;
    let counts = app.engine.counts();
    let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let mut runtimes: BTreeMap<String, RuntimeInfo> = settings
        .runtimes
        .iter()
        .map(|(name, r)| {
            let info = RuntimeInfo {
                path: r.path.display().to_string(),
                runtime_args: r.args.clone(),
                ..RuntimeInfo::default()
            };
            (name.clone(), info)
        })
        .collect();
    runtimes.insert(
        NATIVE_RUNTIME.to_owned(),
        RuntimeInfo { path: "berth-shim".to_owned(), ..RuntimeInfo::default() },
    );
    let dirs = settings.cdi_spec_dirs.clone();
    let (devices, troubles) = tokio::task::spawn_blocking(move || devices(&dirs))
        .await
        .map_err(|error| Error::internal("reading CDI files").because(error))?;
    let mut warnings = host.warnings();
    warnings.extend(troubles);
    let open_files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let pools: Vec<AddressPool> = settings
        .default_address_pools
        .iter()
        .map(|p| AddressPool { base: p.base.to_string(), size: p.size })
        .collect();
    // As the registry client reads them.
    let proxy = |given: &Option<String>, name: &str| match given {
        Some(value) => value.clone(),
        None => std::env::var(name).or_else(|_| std::env::var(name.to_ascii_lowercase())).unwrap_or_default(),
    };
    call.ok(&Info {
        id: app.id.clone(),
        containers: number(counts.all),
        containers_running: number(counts.running),
        containers_paused: number(counts.paused),
        containers_stopped: number(counts.stopped),
        images: number(app.images.list().len()),
        driver: wire::container::STORAGE_DRIVER.to_owned(),
        driver_status: vec![
            ["Supports d_type".to_owned(), "true".to_owned()],
            ["Native Overlay Diff".to_owned(), "true".to_owned()],
        ],
        plugins: PluginsInfo {
            volume: vec!["local".to_owned()],
            network: ["bridge", "host", "ipvlan", "macvlan", "null"].map(str::to_owned).into(),
            authorization: None,
            log: berth_engine::LOG_DRIVERS.map(str::to_owned).into(),
        },
        memory_limit: limits.memory,
        swap_limit: limits.swap,
        cpu_cfs_period: limits.cpu_quota,
        cpu_cfs_quota: limits.cpu_quota,
        cpu_shares: limits.cpu_shares,
        cpu_set: limits.cpuset,
        pids_limit: limits.pids,
        ipv4_forwarding: host.ipv4_forwarding(),
        debug: matches!(settings.log_level, crate::config::LogLevel::Debug | crate::config::LogLevel::Trace),
        n_fd: number(open_files),
        oom_kill_disable: limits.oom_kill_disable,
        n_goroutines: number(tokio::runtime::Handle::current().metrics().num_alive_tasks()),
        system_time: jiff::Timestamp::now().to_string(),
        logging_driver: settings.log_driver.clone(),
        cgroup_driver: settings.cgroup_driver.name().to_owned(),
        cgroup_version: host.cgroup_version().to_owned(),
        n_events_listener: 0,
        kernel_version: host.kernel.clone(),
        operating_system: host.os.clone(),
        os_version: host.os_version.clone(),
        os_type: "linux".to_owned(),
        architecture: host.machine.clone(),
        index_server_address: "https://index.docker.io/v1/".to_owned(),
        registry_config: Some(registries(&settings.registry_mirrors, &settings.insecure_registries)),
        ncpu: number(host.cpus),
        mem_total: wire::signed(host.memory),
        generic_resources: None,
        docker_root_dir: settings.data_root.display().to_string(),
        http_proxy: without_password(&proxy(&settings.proxies.http_proxy, "HTTP_PROXY")),
        https_proxy: without_password(&proxy(&settings.proxies.https_proxy, "HTTPS_PROXY")),
        no_proxy: proxy(&settings.proxies.no_proxy, "NO_PROXY"),
        name: host.name.clone(),
        labels: settings.labels.clone(),
        experimental_build: false,
        server_version: crate::VERSION.to_owned(),
        runtimes,
        default_runtime: settings.default_runtime.clone(),
        swarm: SwarmInfo { local_node_state: "inactive".to_owned(), ..SwarmInfo::default() },
        live_restore_enabled: true,
        isolation: String::new(),
        init_binary: settings
            .init_path
            .as_deref()
            .map_or_else(|| "docker-init".to_owned(), |path| path.display().to_string()),
        containerd_commit: Commit::default(),
        runc_commit: Commit::default(),
        init_commit: Commit::default(),
        security_options: host.security_options(&settings, app.engine.remaps_users()),
        default_address_pools: (!pools.is_empty()).then_some(pools),
        firewall_backend: Some(FirewallInfo { driver: "nftables".to_owned(), info: None }),
        cdi_spec_dirs: settings.cdi_spec_dirs.iter().map(|dir| dir.display().to_string()).collect(),
        discovered_devices: devices,
        warnings: (!warnings.is_empty()).then_some(warnings),
    })
}

/// What CDI files have, and what is wrong with them.
fn devices(dirs: &[std::path::PathBuf]) -> (Vec<DeviceInfo>, Vec<String>) {
    let cdi = berth_engine::Cdi::read(dirs);
    let one = |id: &str| DeviceInfo { source: "cdi".to_owned(), id: id.to_owned() };
    let trouble = |(path, why): (&std::path::Path, &str)| {
        format!("CDI: Error associated with spec file {}: {why}", path.display())
    };
    (cdi.names().map(one).collect(), cdi.troubles().map(trouble).collect())
}

fn registries(mirrors: &[String], insecure: &[String]) -> RegistryServiceConfig {
    let mut indexes: BTreeMap<String, IndexInfo> = BTreeMap::new();
    let hub =
        IndexInfo { mirrors: mirrors.to_vec(), name: "docker.io".to_owned(), official: true, secure: true };
    indexes.insert(hub.name.clone(), hub);
    let mut ranges = vec!["::1/128".to_owned(), "127.0.0.0/8".to_owned()];
    for registry in insecure {
        if registry.contains('/') {
            ranges.push(registry.clone());
        } else {
            let index = IndexInfo { name: registry.clone(), ..IndexInfo::default() };
            indexes.insert(registry.clone(), index);
        }
    }
    RegistryServiceConfig {
        index_configs: indexes,
        insecure_registry_cidrs: ranges,
        mirrors: Some(mirrors.to_vec()),
    }
}

/// A proxy's address without the credentials in it.
fn without_password(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://xxxxx:xxxxx@{host}"),
        _ => url.to_owned(),
    }
}

/// `POST /auth`
pub(crate) async fn system_auth(app: Arc<App>, mut call: Call) -> Answer {
    let config: AuthConfig = call.json().await?.unwrap_or_default();
    let server = config.serveraddress.clone();
    let host = server.split_once("://").map_or(server.as_str(), |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or_default();
    let registry = match host {
        "" | "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    };
    let token = app.registry.login(registry, &wire::auth::into_auth(config)).await?;
    ok(&AuthResponse { identity_token: token.unwrap_or_default(), status: "Login Succeeded".to_owned() })
}

/// `GET /events`
pub(crate) async fn system_events(app: Arc<App>, call: Call) -> Answer {
    let mut events =
        app.engine.events_subscribe(call.timestamp("since")?, call.timestamp("until")?, call.filters()?)?;
    let version = call.version;
    let (sender, body) = Body::channel();
    let mut shutdown = app.shutdown.clone();
    let follow = async move {
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = sender.closed() => return,
                () = stopped(&mut shutdown) => return,
            };
            let Some(event) = event else { return };
            match event_line(&event, version) {
                Ok(line) => {
                    if sender.send(line.into()).await.is_err() {
                        return;
                    }
                }
                Err(error) => tracing::error!(error = %error.chain(), "an event was left out"),
            }
        }
    };
    tokio::spawn(follow.in_current_span());
    let mut response = Response::new(body);
    let kind =
        if version < ApiVersion::v1(52) { JSON } else { HeaderValue::from_static("application/jsonl") };
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

fn event_line(event: &berth_domain::Event, version: ApiVersion) -> Result<Vec<u8>> {
    let broken = |e| Error::internal("an event cannot be written as JSON").because(e);
    let event = Event {
        kind: event.kind.as_str().to_owned(),
        action: event.action.clone(),
        actor: EventActor { id: event.actor.clone(), attributes: event.attributes.clone() },
        scope: "local".to_owned(),
        time: event.time.div_euclid(1_000_000_000),
        time_nano: event.time,
    };
    let mut value = serde_json::to_value(&event).map_err(broken)?;
    if crate::versions::lowers(Operation::SystemEvents, version) {
        crate::versions::lower(Operation::SystemEvents, version, &mut value);
    }
    let mut line = serde_json::to_vec(&value).map_err(broken)?;
    line.push(b'\n');
    Ok(line)
}
