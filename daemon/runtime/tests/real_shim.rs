// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]
//! A container under the real shim: what the spec says and what the kernel then shows. Needs root, a static busybox and
//! `BERTH_SHIM=<path of berth-shim>`, so they are run by
//! name: `BERTH_SHIM=target/debug/berth-shim cargo test -p berth-runtime --test real_shim -- --ignored`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use berth_api::types::container_create::{ContainerConfig, HostConfig, StrSlice};
use berth_domain::ContainerId;
use berth_runtime::spec::{self, Defaults, Namespaces, Share, Shm, SpecInput};
use berth_runtime::{Adoption, HostFacts, SeccompCache, Shim, ShimConfig, ShimEvent, Shims};
use berth_shim_proto::{Attach, Exec, Launch, Log, Root, Runtime, SPEC_FILE, Target, User};

struct Bed {
    dir: tempfile::TempDir,
    shims: Shims,
    facts: HostFacts,
    cache: SeccompCache,
    id: ContainerId,
    cgroup_parent: String,
}

fn bed(n: u8) -> Bed {
    let shim_path = PathBuf::from(std::env::var_os("BERTH_SHIM").expect("BERTH_SHIM names the program"));
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("lower/bin");
    std::fs::create_dir_all(&root).unwrap();
    std::fs::copy("/usr/bin/busybox", root.join("busybox")).unwrap();
    for name in ["sh", "cat", "grep", "sleep", "mount", "id", "ls", "true"] {
        std::os::unix::fs::symlink("busybox", root.join(name)).unwrap();
    }
    for name in ["init", "run", "upper", "work", "init/proc", "init/dev", "init/sys"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    let shims = Shims::new(ShimConfig { shim_path, exec_root: dir.path().join("run") }).unwrap();
    let pid = u8::try_from(std::process::id() & 0xff).unwrap();
    Bed {
        dir,
        shims,
        facts: HostFacts::probe().unwrap(),
        cache: SeccompCache::new(),
        id: ContainerId::from_bytes([n ^ pid; 32]),
        cgroup_parent: format!("/berth-runtime-test-{n}"),
    }
}

fn attach(fd: u16) -> Attach {
    Attach {
        fd,
        early: Vec::new(),
        stdin: false,
        stdout: true,
        stderr: true,
        multiplexed: false,
        detach_keys: Vec::new(),
        from_start: false,
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let hierarchies = berth_sys::cgroup::Hierarchies::detect().expect("mountinfo");
        hierarchies.remove(&self.cgroup_parent).expect("the tests' own cgroup");
    }
}

impl Bed {
    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Starts a container whose output comes out of the socket.
    async fn start(&self, host: &mut HostConfig, args: &[&str]) -> (Shim, std::os::unix::net::UnixStream) {
        let config = ContainerConfig {
            cmd: Some(StrSlice::Many(args.iter().map(|a| (*a).to_owned()).collect())),
            ..ContainerConfig::default()
        };
        let defaults = Defaults { cgroup_parent: self.cgroup_parent.clone(), ..Defaults::default() };
        spec::normalise(host, &defaults, &self.facts).unwrap();
        let built = spec::build(&SpecInput {
            id: &self.id,
            config: &config,
            host,
            hostname: "box",
            linked: &[],
            namespaces: &Namespaces { network: Share::Host, cgroup: Share::Host, ..Namespaces::default() },
            shm: &Shm::Private,
            mounts: &[],
            defaults: &defaults,
            facts: &self.facts,
            seccomp_apart: false,
            id_map: None,
        })
        .unwrap();
        let run = self.dir.path().join("run");
        std::fs::write(run.join(SPEC_FILE), serde_json::to_vec(&built.spec).unwrap()).unwrap();
        let filter =
            built.spec.linux().as_ref().unwrap().seccomp().as_ref().map(|p| self.cache.get(p).unwrap());
        let shim = self.shims.spawn(&self.id, &run).await.unwrap();
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let theirs = OwnedFd::from(theirs);
        let mut fds = vec![theirs.as_fd()];
        let seccomp = filter.as_ref().map(|filter| {
            fds.push(filter.as_fd());
            1
        });
        let launch = Launch {
            sources: Vec::new(),
            container_id: self.id.as_str().to_owned(),
            bundle: self.path("run"),
            root: Root::Overlay {
                lower: vec![self.path("lower"), self.path("init")],
                upper: self.path("upper"),
                work: self.path("work"),
                volatile: true,
                mapped: false,
            },
            user: User::default(),
            terminal: None,
            open_stdin: false,
            stdin_once: false,
            log: Log::default(),
            netns: None,

            userns: None,
            held: Vec::new(),
            seccomp,
            attach: vec![attach(0)],
            runtime: Runtime::Native,
            trace: false,
        };
        let launched = shim.launch(launch, &fds).await.unwrap();
        assert!(launched.pid > 0);
        (shim, ours)
    }
}

async fn read_all(stream: std::os::unix::net::UnixStream) -> String {
    tokio::task::spawn_blocking(move || std::io::read_to_string(stream).unwrap()).await.unwrap()
}

async fn check_exit(shim: &Shim, code: i32) {
    let mut events = shim.events().unwrap();
    let seen = tokio::time::timeout(Duration::from_secs(60), async {
        let mut seen = Vec::new();
        while let Some(event) = events.recv().await {
            seen.push(event);
        }
        seen
    });
    let seen = seen.await.unwrap();
    assert_eq!(seen.last(), Some(&ShimEvent::Gone));
    assert!(seen.iter().any(|e| matches!(e, ShimEvent::Exited(record) if record.code == code)), "{seen:?}");
}

#[tokio::test]
#[ignore = "needs BERTH_SHIM"]
async fn the_kernel_shows_the_default_posture() {
    let bed = bed(1);
    let script = "grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/self/status; cat /proc/sys/kernel/hostname; \
        (echo x > /proc/sys/kernel/hostname) 2>&1; cat /proc/keys; ls /sys/firmware; \
        mount -t tmpfs none /mnt 2>&1; grep ' /dev/shm ' /proc/mounts; id -u; exit 7";
    let (shim, output) = bed.start(&mut HostConfig::default(), &["sh", "-c", script]).await;
    let text = read_all(output).await;
    check_exit(&shim, 7).await;
    for line in [
        "CapInh:\t0000000000000000",
        "CapPrm:\t00000000a80425fb",
        "CapEff:\t00000000a80425fb",
        "CapBnd:\t00000000a80425fb",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t0",
        "Seccomp:\t2",
        "box",
    ] {
        assert!(text.lines().any(|l| l == line), "{line:?} is missing in:\n{text}");
    }
    assert!(text.contains("Read-only file system"), "{text}");
    assert!(text.contains("mounting none on /mnt failed") || text.contains("permission denied"), "{text}");
    assert!(text.contains("size=65536k"), "{text}");
}

#[tokio::test]
#[ignore = "needs BERTH_SHIM"]
async fn privileged_has_all_capabilities_and_no_filter() {
    let bed = bed(2);
    let mut host = HostConfig { privileged: true, ..HostConfig::default() };
    let (shim, output) =
        bed.start(&mut host, &["grep", "-E", "^(CapEff|Seccomp:)", "/proc/self/status"]).await;
    let text = read_all(output).await;
    check_exit(&shim, 0).await;
    assert!(
        text.contains("Seccomp:\t0") && text.contains(&format!("{:016x}", bed.facts.capabilities)),
        "{text}"
    );
}

#[test]
#[ignore = "needs BERTH_SHIM"]
fn a_restarted_daemon_finds_its_container() {
    let bed = bed(3);
    let run = bed.dir.path().join("run");
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let first = runtime();
    let (shim, _output) = first.block_on(bed.start(&mut HostConfig::default(), &["sleep", "1000"]));
    let pid = shim.pid();
    // The daemon falls: its tasks and sockets are gone, its shims are not.
    first.shutdown_background();
    drop(shim);
    runtime().block_on(async {
        let Adoption::Alive(shim) = bed.shims.connect(&bed.id, &run).await.unwrap() else { panic!("not found") };
        assert_eq!(shim.pid(), pid);
        assert!(shim.state().await.unwrap().exited.is_none());
        let process = serde_json::json!({"args": ["/bin/cat", "/proc/1/cmdline"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": []});
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let theirs = OwnedFd::from(theirs);
        let exec = Exec {
            exec_id: "e1".into(),
            process,
            user: User::default(),
            privileged: false,
            terminal: None,
            attach: Some(attach(5)),
        };
        assert!(shim.exec(exec, Some(theirs.as_fd())).await.unwrap() > 0);
        drop(theirs);
        assert_eq!(read_all(ours).await, "sleep\x001000\x00");
        shim.signal(Target::Init, 9, false).await.unwrap();
        check_exit(&shim, 137).await;
        let Adoption::Ended(record) = bed.shims.connect(&bed.id, &run).await.unwrap() else { panic!("not ended") };
        assert_eq!(record.code, 137);
    });
}
