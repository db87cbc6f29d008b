// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]
//! The whole spec: Docker's default posture as a fixture that is reviewed as a diff. `BERTH_UPDATE_FIXTURES=1` rewrites it.

use std::path::Path;

use super::*;
use berth_api::types::container_create::StrSlice;
use serde_json::Value;

fn config() -> ContainerConfig {
    ContainerConfig {
        cmd: Some(StrSlice::Many(vec!["sh".into()])),
        env: Some(vec!["LANG=C.UTF-8".into()]),
        ..ContainerConfig::default()
    }
}

fn build_with(config: &ContainerConfig, host: &mut HostConfig, namespaces: &Namespaces) -> Result<Spec> {
    let facts = HostFacts::capable();
    let defaults = Defaults::default();
    normalise(host, &defaults, &facts)?;
    let id = ContainerId::from_bytes([0xab; 32]);
    let built = build(&SpecInput {
        id: &id,
        config,
        host,
        hostname: "abababababab",
        linked: &[],
        namespaces,
        shm: &Shm::Private,
        mounts: &[],
        defaults: &defaults,
        facts: &facts,
        seccomp_apart: false,
        id_map: None,
    })?;
    Ok(built.spec)
}

fn private() -> Namespaces {
    Namespaces::default()
}

/// Sets have no order in the spec's types; a fixture needs one. The seccomp rules have their own tests.
fn stable(spec: &Spec) -> Value {
    let mut value = serde_json::to_value(spec).unwrap();
    for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
        let names = value["process"]["capabilities"][set].as_array_mut().unwrap();
        names.sort_by_key(ToString::to_string);
    }
    let rules = value["linux"]["seccomp"]["syscalls"].as_array().map(Vec::len);
    if let Some(rules) = rules {
        value["linux"]["seccomp"]["syscalls"] = Value::from(format!("{rules} rules"));
        value["linux"]["seccomp"]["architectures"] = Value::from("the host's");
    }
    value
}

#[test]
fn the_default_container_has_dockers_posture() {
    let spec = build_with(&config(), &mut HostConfig::default(), &private()).unwrap();
    let text = format!("{:#}\n", stable(&spec));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/default-spec.json");
    if std::env::var_os("BERTH_UPDATE_FIXTURES").is_some() {
        std::fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
        std::fs::write(path, &text).unwrap();
    }
    // As values: the order of keys is serde_json's affair, and differs with the features that others turn on.
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(stable(&spec), kept, "{text}");
}

#[test]
fn privileged_opens_what_docker_opens() {
    let mut host = HostConfig { privileged: true, ..HostConfig::default() };
    let spec = build_with(&config(), &mut host, &private()).unwrap();
    let linux = spec.linux().as_ref().unwrap();
    assert!(linux.seccomp().is_none());
    assert!(linux.masked_paths().as_ref().unwrap().is_empty());
    assert!(linux.readonly_paths().as_ref().unwrap().is_empty());
    assert!(linux.devices().as_ref().unwrap().iter().any(|d| d.path() == Path::new("/dev/null")));
    let capabilities = spec.process().as_ref().unwrap().capabilities().clone().unwrap();
    assert_eq!(capabilities.bounding().as_ref().unwrap().len(), 41);
    assert_eq!(host.security_opt.as_deref(), Some(&["label=disable".to_owned()][..]));
    assert!(host.masked_paths.is_none());
}

#[test]
fn shared_namespaces_leave_the_spec() {
    let namespaces = Namespaces {
        network: Share::Host,
        ipc: Share::Path("/proc/7/ns/ipc".into()),
        pid: Share::Host,
        uts: Share::Host,
        cgroup: Share::Host,
    };
    let spec = build_with(&config(), &mut HostConfig::default(), &namespaces).unwrap();
    let linux = spec.linux().as_ref().unwrap();
    let kinds: Vec<String> =
        linux.namespaces().as_ref().unwrap().iter().map(|n| n.typ().to_string()).collect();
    assert_eq!(kinds, ["mnt", "time", "ipc"]);
    assert_eq!(linux.namespaces().as_ref().unwrap()[2].path().as_deref(), Some(Path::new("/proc/7/ns/ipc")));
    assert!(spec.hostname().is_none());
    assert!(linux.sysctl().as_ref().unwrap().is_empty());
}

#[test]
fn a_joined_network_has_no_path_and_no_sysctls() {
    let namespaces = Namespaces { network: Share::Path("/proc/7/ns/net".into()), ..private() };
    let spec = build_with(&config(), &mut HostConfig::default(), &namespaces).unwrap();
    let linux = spec.linux().as_ref().unwrap();
    let network = &linux.namespaces().as_ref().unwrap()[1];
    assert!(network.typ() == LinuxNamespaceType::Network && network.path().is_none());
    assert!(linux.sysctl().as_ref().unwrap().is_empty());
}

#[test]
fn options_reach_the_spec() {
    let list = |items: &[&str]| Some(items.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
    let mut host = HostConfig {
        security_opt: list(&["no-new-privileges", "seccomp=unconfined", "systempaths=unconfined"]),
        cap_drop: list(&["ALL"]),
        readonly_rootfs: true,
        oom_score_adj: 500,
        sysctls: Some([("net.ipv4.ping_group_range".to_owned(), "0 0".to_owned())].into()),
        console_size: [24, 80],
        ..HostConfig::default()
    };
    host.resources.cgroup_parent = "pods/a".into();
    let config = ContainerConfig { tty: true, working_dir: "/a/../b".into(), ..config() };
    let spec = build_with(&config, &mut host, &private()).unwrap();
    let process = spec.process().as_ref().unwrap();
    assert_eq!(process.no_new_privileges(), Some(true));
    assert_eq!(process.oom_score_adj(), Some(500));
    assert_eq!(process.cwd(), Path::new("/b"));
    assert_eq!(process.console_size().unwrap().width(), 80);
    assert!(process.env().as_ref().unwrap().contains(&"TERM=xterm".to_owned()));
    assert!(process.capabilities().as_ref().unwrap().bounding().as_ref().unwrap().is_empty());
    let linux = spec.linux().as_ref().unwrap();
    assert!(linux.seccomp().is_none() && linux.masked_paths().as_ref().unwrap().is_empty());
    assert_eq!(linux.sysctl().as_ref().unwrap()["net.ipv4.ping_group_range"], "0 0");
    let parent = linux.cgroups_path().as_ref().unwrap().parent().unwrap().to_owned();
    assert_eq!(parent, Path::new("/pods/a"));
    assert_eq!(spec.root().as_ref().unwrap().readonly(), Some(true));
}

#[test]
fn normalising_twice_changes_nothing() {
    let mut host = HostConfig::default();
    host.resources.memory = 64 << 20;
    host.pid_mode = "host".into();
    normalise(&mut host, &Defaults::default(), &HostFacts::capable()).unwrap();
    assert_eq!(host.resources.memory_swap, 128 << 20);
    assert_eq!(
        (host.shm_size, host.ipc_mode.as_str(), host.cgroupns_mode.as_str()),
        (64 << 20, "private", "private")
    );
    let once = host.clone();
    normalise(&mut host, &Defaults::default(), &HostFacts::capable()).unwrap();
    assert_eq!(host, once);
}

#[test]
fn what_cannot_be_is_refused_at_create() {
    let refused = |change: fn(&mut HostConfig)| {
        let mut host = HostConfig::default();
        change(&mut host);
        normalise(&mut host, &Defaults::default(), &HostFacts::capable()).unwrap_err().chain()
    };
    assert_eq!(refused(|h| h.ipc_mode = "x".into()), "invalid IPC mode: x");
    assert_eq!(refused(|h| h.pid_mode = "container:".into()), "invalid PID mode: container:");
    assert_eq!(refused(|h| h.uts_mode = "x".into()), "invalid UTS mode: x");
    assert_eq!(refused(|h| h.shm_size = -1), "SHM size can not be less than 0");
    assert_eq!(
        refused(|h| h.isolation = "hyperv".into()),
        "invalid isolation (hyperv): linux only supports 'default'"
    );
    assert!(refused(|h| h.oom_score_adj = 1001).contains("range for oom score adj"));
    assert!(
        refused(|h| h.security_opt = Some(vec!["seccomp={".into()]))
            .starts_with("Decoding seccomp profile failed")
    );
    assert!(refused(|h| h.resources.cgroup_parent = "/a/../..".into()).contains("cgroup parent"));
    assert!(refused(|h| h.cap_add = Some(vec!["x".into()])).starts_with("invalid CapAdd"));
}

#[test]
fn an_exec_has_the_containers_confinement() {
    let facts = HostFacts::capable();
    let defaults = Defaults::default();
    let host = HostConfig { cap_drop: Some(vec!["MKNOD".into()]), ..HostConfig::default() };
    let config = ContainerConfig { working_dir: "/srv".into(), ..config() };
    let args = ["ls".to_owned()];
    let env = ["A=1".to_owned()];
    let input = ExecInput {
        config: &config,
        host: &host,
        defaults: &defaults,
        facts: &facts,
        hostname: "h",
        linked: &[],
        args: &args,
        env: &env,
        working_dir: "",
        tty: false,
        privileged: false,
    };
    let process = exec_process(&input).unwrap();
    assert_eq!(process.cwd(), Path::new("/srv"));
    let count = |p: &Process| p.capabilities().as_ref().unwrap().effective().as_ref().unwrap().len();
    assert_eq!(count(&process), 13);
    assert!(process.env().as_ref().unwrap().ends_with(&["LANG=C.UTF-8".to_owned(), "A=1".to_owned()]));
    let process = exec_process(&ExecInput { privileged: true, working_dir: "/tmp", ..input }).unwrap();
    assert_eq!(count(&process), 41);
    assert!(process.capabilities().as_ref().unwrap().ambient().as_ref().unwrap().is_empty());
    assert!(exec_process(&ExecInput { args: &[], ..input }).is_err());
}
