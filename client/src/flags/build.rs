// SPDX-License-Identifier: Apache-2.0
//! From flags to the body of `POST /containers/create`.

use std::path::Path;

use berth_api::types::container_create::{
    ContainerConfig, ContainerCreateBody, HealthConfig, HostConfig, LogConfig, Resources, StrSlice,
};

use super::container::ContainerFlags;
use super::network::{First, extra_host, networks};
use super::ports::Ports;
use super::{boolean, device, duration, env, limits, map, mount, network, security, size, some};
use crate::fail::{Fail, Result};

/// What of the client's own surroundings matters.
pub(crate) struct Surroundings<'a> {
    pub(crate) cwd: &'a Path,
    pub(crate) env: &'a dyn Fn(&str) -> Option<String>,
}

/// Which streams the flags ask for: stdin, stdout, stderr.
pub(crate) fn attached(flags: &ContainerFlags, detached: bool) -> Result<[bool; 3]> {
    let mut streams = [false; 3];
    for name in &flags.attach {
        match name.to_ascii_lowercase().as_str() {
            "stdin" => streams[0] = true,
            "stdout" => streams[1] = true,
            "stderr" => streams[2] = true,
            _ => return Err(Fail::new(format!("valid streams are STDIN, STDOUT and STDERR: {name}"))),
        }
    }
    if detached {
        return if flags.attach.is_empty() {
            Ok([false; 3])
        } else {
            Err(Fail::new("conflicting options: cannot specify both --attach and --detach"))
        };
    }
    if flags.attach.is_empty() {
        streams = [flags.interactive, true, true];
    }
    Ok(streams)
}

/// The body of the request, for a container whose client attaches to `streams`.
pub(crate) fn body(
    flags: &ContainerFlags,
    streams: [bool; 3],
    around: &Surroundings<'_>,
) -> Result<ContainerCreateBody> {
    let (image, command) =
        flags.image_and_command.split_first().ok_or_else(|| Fail::new("an image is needed"))?;
    let ports = Ports::parse(&flags.publish, &flags.expose)?;
    let (binds, anonymous) = mount::volumes(&flags.volume, around.cwd)?;
    let (network_mode, networking_config) = networks(
        &flags.network,
        &First {
            aliases: &flags.network_alias,
            ip: flags.ip.as_deref(),
            ip6: flags.ip6.as_deref(),
            link_local: &flags.link_local_ip,
            mac: flags.mac_address.as_deref(),
        },
    )?;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let config = ContainerConfig {
        hostname: text(&flags.hostname),
        domainname: text(&flags.domainname),
        user: text(&flags.user),
        attach_stdin: streams[0],
        attach_stdout: streams[1],
        attach_stderr: streams[2],
        exposed_ports: ports.exposed,
        tty: flags.tty,
        open_stdin: flags.interactive,
        stdin_once: flags.interactive && streams[0],
        env: some(&env::env(&flags.env_file, &flags.env, around.env)?),
        cmd: (!command.is_empty()).then(|| StrSlice::Many(command.to_vec())),
        healthcheck: health(flags)?,
        image: image.clone(),
        volumes: (!anonymous.is_empty()).then_some(anonymous),
        working_dir: text(&flags.workdir),
        entrypoint: flags.entrypoint.clone().map(|e| StrSlice::Many(vec![e])),
        mac_address: text(&flags.mac_address),
        labels: map(&env::labels(&flags.label_file, &flags.label)?),
        stop_signal: text(&flags.stop_signal),
        stop_timeout: flags.stop_timeout,
        ..ContainerConfig::default()
    };
    let (cap_add, cap_drop) = security::capabilities(&flags.cap_add, &flags.cap_drop);
    let (security_opt, unmask) = security::options(&flags.security_opt)?;
    let host_config = HostConfig {
        binds: some(&binds),
        container_id_file: flags.cidfile.as_ref().map(|p| p.display().to_string()).unwrap_or_default(),
        log_config: LogConfig {
            r#type: text(&flags.log_driver),
            config: map(&flags.log_opt).unwrap_or_default(),
        },
        network_mode,
        port_bindings: ports.bindings.into(),
        restart_policy: limits::restart(&flags.restart)?,
        auto_remove: flags.rm,
        volume_driver: text(&flags.volume_driver),
        volumes_from: some(&flags.volumes_from),
        annotations: map(&flags.annotation),
        cap_add: some(&cap_add),
        cap_drop: some(&cap_drop),
        cgroupns_mode: text(&flags.cgroupns),
        dns: flags.dns.iter().map(|d| network::dns(d)).collect::<Result<Vec<_>>>()?.into(),
        dns_options: flags.dns_option.clone().into(),
        dns_search: flags.dns_search.clone().into(),
        extra_hosts: some(&flags.add_host.iter().map(|h| extra_host(h)).collect::<Result<Vec<_>>>()?),
        group_add: some(&flags.group_add),
        ipc_mode: text(&flags.ipc),
        links: some(&flags.link),
        oom_score_adj: flags.oom_score_adj.unwrap_or_default(),
        pid_mode: text(&flags.pid),
        privileged: flags.privileged,
        publish_all_ports: flags.publish_all,
        readonly_rootfs: flags.read_only,
        security_opt: some(&security_opt),
        storage_opt: map(&flags.storage_opt),
        tmpfs: mount::tmpfs(&flags.tmpfs),
        uts_mode: text(&flags.uts),
        userns_mode: text(&flags.userns),
        shm_size: flags.shm_size.as_deref().map_or(Ok(0), |s| size::bytes(s, "shm-size"))?,
        sysctls: map(&flags.sysctl),
        runtime: text(&flags.runtime),
        isolation: text(&flags.isolation),
        resources: resources(flags)?,
        mounts: some(&flags.mount.iter().map(|m| mount_flag(m)).collect::<Result<Vec<_>>>()?),
        masked_paths: unmask.then(Vec::new),
        readonly_paths: unmask.then(Vec::new),
        init: match flags.init.as_deref() {
            None => None,
            Some(text) => {
                let on = boolean(text)
                    .ok_or_else(|| Fail::new(format!("invalid argument {text:?} for \"--init\" flag")))?;
                Some(on)
            }
        },
        ..HostConfig::default()
    };
    if flags.rm && host_config.restart_policy.name != "no" && !host_config.restart_policy.name.is_empty() {
        return Err(Fail::new("conflicting options: cannot specify both --restart and --rm"));
    }
    Ok(ContainerCreateBody { config, host_config, networking_config })
}

fn mount_flag(flag: &str) -> Result<berth_api::types::container_create::Mount> {
    mount::mount(flag).map_err(|e| Fail::new(format!("invalid argument {flag:?} for \"--mount\" flag: {e}")))
}

fn resources(flags: &ContainerFlags) -> Result<Resources> {
    let bytes = |value: &Option<String>, flag: &str| value.as_deref().map_or(Ok(0), |v| size::bytes(v, flag));
    if flags.memory_swappiness.is_some_and(|s| !(-1..=100).contains(&s)) {
        return Err(Fail::new("invalid value for --memory-swappiness: valid range is 0-100"));
    }
    Ok(Resources {
        cpu_shares: flags.cpu_shares.unwrap_or_default(),
        memory: bytes(&flags.memory, "memory")?,
        nano_cpus: flags.cpus.as_deref().map_or(Ok(0), limits::cpus)?,
        cgroup_parent: flags.cgroup_parent.clone().unwrap_or_default(),
        blkio_weight: flags.blkio_weight.unwrap_or_default(),
        blkio_weight_device: each(&flags.blkio_weight_device, limits::weight)?.into(),
        blkio_device_read_bps: each(&flags.device_read_bps, limits::throttle_bytes)?.into(),
        blkio_device_write_bps: each(&flags.device_write_bps, limits::throttle_bytes)?.into(),
        blkio_device_read_iops: each(&flags.device_read_iops, limits::throttle_operations)?.into(),
        blkio_device_write_iops: each(&flags.device_write_iops, limits::throttle_operations)?.into(),
        cpu_period: flags.cpu_period.unwrap_or_default(),
        cpu_quota: flags.cpu_quota.unwrap_or_default(),
        cpuset_cpus: flags.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: flags.cpuset_mems.clone().unwrap_or_default(),
        devices: each(&flags.device, device::device)?.into(),
        device_cgroup_rules: some(&flags.device_cgroup_rule),
        memory_reservation: bytes(&flags.memory_reservation, "memory-reservation")?,
        memory_swap: flags
            .memory_swap
            .as_deref()
            .map_or(Ok(0), |v| size::bytes_or_unlimited(v, "memory-swap"))?,
        memory_swappiness: flags.memory_swappiness.filter(|s| *s >= 0),
        oom_kill_disable: flags.oom_kill_disable.then_some(true),
        pids_limit: flags.pids_limit,
        ulimits: each(&flags.ulimit, limits::ulimit)?.into(),
        ..Resources::default()
    })
}

fn each<T>(flags: &[String], parse: impl Fn(&str) -> Result<T>) -> Result<Vec<T>> {
    flags.iter().map(|flag| parse(flag)).collect()
}

fn health(flags: &ContainerFlags) -> Result<Option<HealthConfig>> {
    let given = flags.health_cmd.is_some()
        || flags.health_interval.is_some()
        || flags.health_timeout.is_some()
        || flags.health_start_period.is_some()
        || flags.health_start_interval.is_some()
        || flags.health_retries.is_some();
    if flags.no_healthcheck {
        return if given {
            Err(Fail::new("--no-healthcheck conflicts with --health-* options"))
        } else {
            Ok(Some(HealthConfig { test: Some(vec!["NONE".into()]), ..HealthConfig::default() }))
        };
    }
    if !given {
        return Ok(None);
    }
    let retries = flags.health_retries.unwrap_or_default();
    if retries < 0 {
        return Err(Fail::new("--health-retries cannot be negative"));
    }
    Ok(Some(HealthConfig {
        test: flags
            .health_cmd
            .clone()
            .filter(|c| !c.is_empty())
            .map(|command| vec!["CMD-SHELL".into(), command]),
        interval: duration::interval(flags.health_interval.as_deref(), "health-interval")?,
        timeout: duration::interval(flags.health_timeout.as_deref(), "health-timeout")?,
        start_period: duration::interval(flags.health_start_period.as_deref(), "health-start-period")?,
        start_interval: duration::interval(flags.health_start_interval.as_deref(), "health-start-interval")?,
        retries,
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;

    fn parse(line: &[&str]) -> Result<Value> {
        let flags: ContainerFlags = crate::cli::parse("run", "", line.iter().map(Into::into))
            .map_err(|e| Fail::new(e.to_string()))?;
        let streams = attached(&flags, false)?;
        let around = Surroundings { cwd: Path::new("/cwd"), env: &|_| None };
        Ok(serde_json::to_value(body(&flags, streams, &around)?).unwrap())
    }

    fn check(line: &[&str], pointer: &str, expected: &Value) {
        let body = parse(line).unwrap();
        assert_eq!(body.pointer(pointer).unwrap_or(&Value::Null), expected, "{line:?} {pointer}");
    }

    #[test]
    fn flags_land_where_the_api_has_them() {
        check(&["busybox"], "/Image", &json!("busybox"));
        check(&["busybox"], "/Cmd", &json!(null));
        check(&["busybox"], "/AttachStdout", &json!(true));
        check(&["busybox"], "/AttachStdin", &json!(false));
        check(&["busybox", "sh", "-c", "echo --rm"], "/Cmd", &json!(["sh", "-c", "echo --rm"]));
        check(&["busybox", "-it"], "/Cmd", &json!(["-it"]));
        check(&["-it", "busybox"], "/Tty", &json!(true));
        check(&["-it", "busybox"], "/StdinOnce", &json!(true));
        check(&["-i=false", "busybox"], "/OpenStdin", &json!(false));
        check(&["--rm=true", "busybox"], "/HostConfig/AutoRemove", &json!(true));
        check(&["--rm", "busybox"], "/HostConfig/AutoRemove", &json!(true));
        check(&["--init", "busybox"], "/HostConfig/Init", &json!(true));
        check(&["-eA=1", "-e", "B=2", "x"], "/Env", &json!(["A=1", "B=2"]));
        check(&["-h", "name", "x"], "/Hostname", &json!("name"));
        check(&["--entrypoint", "", "x"], "/Entrypoint", &json!([""]));
        check(
            &["-p", "8080:80", "x"],
            "/HostConfig/PortBindings",
            &json!({"80/tcp":[{"HostIp":"","HostPort":"8080"}]}),
        );
        check(&["-p", "8080:80", "x"], "/ExposedPorts", &json!({"80/tcp":{}}));
        check(&["-v", "v:/d", "-v", "/a", "x"], "/HostConfig/Binds", &json!(["v:/d"]));
        check(&["-v", "v:/d", "-v", "/a", "x"], "/Volumes", &json!({"/a":{}}));
        check(&["-m", "64m", "x"], "/HostConfig/Memory", &json!(64 << 20));
        check(&["--memory-swap", "-1", "x"], "/HostConfig/MemorySwap", &json!(-1));
        check(&["--memory-swap=-1", "x"], "/HostConfig/MemorySwap", &json!(-1));
        check(&["--cpus", "0.5", "x"], "/HostConfig/NanoCpus", &json!(500_000_000));
        check(&["--pids-limit", "-1", "x"], "/HostConfig/PidsLimit", &json!(-1));
        check(
            &["--restart", "on-failure:2", "x"],
            "/HostConfig/RestartPolicy",
            &json!({"Name":"on-failure","MaximumRetryCount":2}),
        );
        check(&["--network", "none", "x"], "/HostConfig/NetworkMode", &json!("none"));
        check(&["--net=host", "x"], "/HostConfig/NetworkMode", &json!("host"));
        check(&["x"], "/HostConfig/NetworkMode", &json!("default"));
        check(
            &["--health-cmd", "true", "--health-interval", "1s", "x"],
            "/Healthcheck",
            &json!({"Test":["CMD-SHELL","true"],"Interval":1_000_000_000}),
        );
        check(&["--no-healthcheck", "x"], "/Healthcheck/Test", &json!(["NONE"]));
        check(&["--security-opt", "systempaths=unconfined", "x"], "/HostConfig/MaskedPaths", &json!([]));
        check(&["-l", "a=b", "--label", "c", "x"], "/Labels", &json!({"a":"b","c":""}));
        check(&["--tmpfs", "/t:size=1m", "x"], "/HostConfig/Tmpfs", &json!({"/t":"size=1m"}));
        check(&["--stop-timeout", "3", "x"], "/StopTimeout", &json!(3));
        check(&["-c", "512", "x", "-c", "y"], "/HostConfig/CpuShares", &json!(512));
    }

    #[test]
    fn contradictions_are_refused() {
        for (line, why) in [
            (&["--rm", "--restart", "always", "x"][..], "--restart and --rm"),
            (&["--no-healthcheck", "--health-cmd", "x", "x"], "--no-healthcheck conflicts"),
            (&["-a", "stdfoo", "x"], "valid streams"),
            (&["--health-interval", "-1s", "x"], "health-interval"),
            (&["--mount", "type=bind", "x"], "target is required"),
            (&["--bogus", "x"], "--bogus"),
            (&[], "IMAGE"),
        ] {
            let message = parse(line).unwrap_err().message;
            assert!(message.contains(why), "{line:?}: {message}");
        }
    }
}
