// SPDX-License-Identifier: Apache-2.0
//! Real containers from a busybox root. Needs root; every test leaves the host as it found it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use berth_launch::Kind;
use common::{Box, cgroups_path, set};
use serde_json::json;

/// Runs a script and compares what it prints.
fn check(container: &Box, want: &str) {
    let output = container.run().unwrap();
    assert_eq!(output.out, want, "stderr: {} warnings: {:?}", output.err, output.warnings);
}

fn check_error(container: &Box, kind: Kind, want: &str) {
    let error = container.run().unwrap_err();
    assert!(error.kind == kind && error.message.contains(want), "{error:?}, wanted {kind:?} {want:?}");
}

fn exit_codes() {
    assert_eq!(Box::new("").args(&["true"]).run().unwrap().code, 0);
    assert_eq!(Box::new("exit 7").run().unwrap().code, 7);
    assert_eq!(Box::new("kill -9 $$").run().unwrap().code, 0, "pid 1 is not killed by itself");
    check(&Box::new("").args(&["echo", "hello world"]), "hello world\n");
}

fn namespaces() {
    check(&Box::new("echo $$; hostname; set -- /proc/[0-9]*; echo $#"), "1\nbox\n1\n");
    let mine = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
    let output = Box::new("for n in mnt net uts pid ipc cgroup user; do readlink /proc/self/ns/$n; done")
        .run()
        .unwrap();
    for kind in ["mnt", "net", "uts", "pid", "ipc", "cgroup"] {
        assert!(!output.out.contains(&mine(kind)), "{kind} is the host's: {}", output.out);
    }
    assert!(output.out.contains(&mine("user")));
}

fn host_pid_and_network() {
    let container = Box::new("readlink /proc/self/ns/pid; readlink /proc/self/ns/net")
        .with(
            "/linux/namespaces",
            json!([{"type": "mount"}, {"type": "network", "path": "/proc/self/ns/net"}]),
        )
        .with("/hostname", json!(null));
    let mine = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
    check(&container, &format!("{}\n{}\n", mine("pid"), mine("net")));
}

fn joins_another_containers_namespaces() {
    let one = Box::new("sleep 1000").start();
    let path = |kind: &str| format!("/proc/{}/ns/{kind}", one.launched.pid);
    let two = Box::new("ls /proc | grep -c '^1$'; readlink /proc/self/ns/ipc; cat /proc/1/cmdline")
        .with("/linux/namespaces/3", json!({"type": "pid", "path": path("pid")}))
        .with("/linux/namespaces/4", json!({"type": "ipc", "path": path("ipc")}));
    let ipc = fs::read_link(path("ipc")).unwrap().display().to_string();
    check(&two, &format!("1\n{ipc}\nsleep\x001000\x00"));
    // The launcher itself is back where it was.
    assert_eq!(
        fs::read_link("/proc/self/ns/pid_for_children").unwrap(),
        fs::read_link("/proc/self/ns/pid").unwrap()
    );
}

fn mounts() {
    let output = Box::new("cat /proc/mounts; ls -l /dev").run().unwrap();
    let has = |line: &str| assert!(output.out.contains(line), "{line:?} is not in {}", output.out);
    has("proc /proc proc rw,nosuid,nodev,noexec,relatime 0 0");
    has("tmpfs /dev tmpfs rw,nosuid,size=65536k,mode=755");
    has("devpts /dev/pts devpts rw,nosuid,noexec,relatime,gid=5,mode=620,ptmxmode=666");
    has("sysfs /sys sysfs ro,nosuid,nodev,noexec,relatime 0 0");
    has("mqueue /dev/mqueue mqueue rw,nosuid,nodev,noexec,relatime");
    has("shm /dev/shm tmpfs rw,nosuid,nodev,noexec,relatime,size=65536k");
    has(" ptmx -> pts/ptmx");
    has(" stdout -> /proc/self/fd/1");
    assert!(!output.out.contains(" /oldroot") && !output.out.contains("/dev/vda /mnt"), "{}", output.out);
    let host_mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!host_mounts.contains("overlay"), "{host_mounts}");
}

fn devices() {
    check(
        &Box::new("stat -c '%n %t:%T %a' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/nd /dev/net/x /srv/nd; echo x > /dev/null")
            .with("/linux/devices", json!([
                {"path": "/dev/nd", "type": "c", "major": 10, "minor": 9, "fileMode": 0o640, "uid": 3},
                {"path": "/dev/net/x", "type": "c", "major": 10, "minor": 8},
                {"path": "/srv/nd", "type": "b", "major": 1, "minor": 2}])),
        "/dev/null 1:3 666\n/dev/zero 1:5 666\n/dev/full 1:7 666\n/dev/random 1:8 666\n/dev/urandom 1:9 666\n/dev/tty 5:0 666\n/dev/nd a:9 640\n/dev/net/x a:8 666\n/srv/nd 1:2 666\n",
    );
}

fn masked_and_read_only_paths() {
    check(
        &Box::new(
            "for f in /proc/keys /proc/timer_list /proc/interrupts; do stat -c %t:%T $f; cat $f | wc -c; done
             ls /sys/firmware | wc -l
             for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /sys/power/state; do echo x 2>/dev/null > $f || echo refused; done
             touch /sys/firmware/x 2>/dev/null || echo refused",
        ),
        "1:3\n0\n1:3\n0\n1:3\n0\n0\nrefused\nrefused\nrefused\nrefused\n",
    );
}

fn capabilities_and_privileges() {
    check(
        &Box::new("grep -E 'Cap|NoNew|Seccomp:' /proc/self/status"),
        "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\n\
         CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\n",
    );
    check(
        &Box::new("grep -E 'Cap|NoNew|Seccomp:' /proc/self/status; id")
            .user("web", &["video", "7"])
            .with("/process/noNewPrivileges", json!(true)),
        "CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
         CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n\
         uid=33(web) gid=44(www) groups=7,44(www),45(video)\n",
    );
    check(
        &Box::new("grep -E 'Cap(Eff|Amb)' /proc/self/status")
            .user("33", &[])
            .with("/process/capabilities/inheritable", json!(["CAP_CHOWN"]))
            .with("/process/capabilities/ambient", json!(["CAP_CHOWN"])),
        "CapEff:\t0000000000000001\nCapAmb:\t0000000000000001\n",
    );
}

fn only_three_descriptors() {
    let leak = fs::File::open("/etc").unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    check(&Box::new("").args(&["ls", "/proc/self/fd"]), "0\n1\n2\n3\n");
}

fn seccomp_filter_works() {
    check(
        &Box::new("swapon() { busybox swapon /nothing 2>&1; }; busybox swapon /bin/busybox 2>&1"),
        "swapon: /bin/busybox: Operation not supported\n",
    );
}

fn users() {
    check(&Box::new("id -u; id -g; echo $HOME").user("web", &[]), "33\n44\n/srv\n");
    check(&Box::new("id -u; id -g; echo $HOME").user("1000", &[]), "1000\n0\n/\n");
    check(&Box::new("id -u; id -G; echo $HOME").user("", &[]), "0\n0\n/root\n");
    check(&Box::new("echo hi > /dev/stderr; echo hi > /dev/stdout").user("web", &[]), "hi\n");
    check_error(
        &Box::new("").user("nobody", &[]),
        Kind::InvalidInput,
        "unable to find user nobody: no matching entries in passwd file",
    );
    check_error(&Box::new("").user("4294967296", &[]), Kind::InvalidInput, "4294967296");
}

fn commands_that_cannot_run() {
    for (command, kind, message) in [
        ("nosuchbin", Kind::CommandNotFound, r#"exec: "nosuchbin": executable file not found in $PATH"#),
        ("/nosuchbin", Kind::CommandNotFound, r#"exec: "/nosuchbin": no such file or directory"#),
        ("/etc", Kind::CommandNotExecutable, r#"exec: "/etc": permission denied"#),
        ("/etc/passwd", Kind::CommandNotExecutable, r#"exec: "/etc/passwd": permission denied"#),
        ("", Kind::CommandNotFound, r#"exec: "": executable file not found in $PATH"#),
        ("/bin/noformat", Kind::CommandNotExecutable, r#"exec: "/bin/noformat": exec format error"#),
    ] {
        let container = Box::new("").args(&[command]);
        let file = container.root().join("bin/noformat");
        fs::write(&file, "\0\0").unwrap();
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let error = container.run().unwrap_err();
        assert_eq!((error.kind, error.message.as_str()), (kind, message));
    }
}

fn working_directories() {
    check(&Box::new("pwd").with("/process/cwd", json!("/made/for/you")), "/made/for/you\n");
    let container = Box::new("pwd").with("/process/cwd", json!("/link/x"));
    symlink("/../../../outside", container.root().join("link")).unwrap();
    check(&container, "/outside/x\n");
    assert!(!std::path::Path::new("/outside").exists());
    for fd in 3..20 {
        let path = format!("/proc/self/fd/{fd}");
        let result = Box::new("pwd").with("/process/cwd", json!(path)).run();
        assert!(result.is_err(), "{path}: {result:?}");
    }
}

fn overlay_root() {
    let container =
        Box::new("echo new > /etc/new; cat /etc/new; grep -c ' / overlay ' /proc/mounts").overlay();
    check(&container, "new\n1\n");
    assert!(!container.root().join("etc/new").exists());
    assert!(container.dir.path().join("upper/etc/new").exists());
    // Started again, although volatile mounts leave a mark.
    check(&container.args(&["cat", "/etc/new"]), "new\n");
}

/// As many layers as Docker allows, also the way that older kernels need.
fn overlays_of_many_layers() {
    let container = Box::new("cat /layer; echo new > /new");
    let at = |name: &str| {
        let path = container.dir.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    };
    let mut lower: Vec<_> = (0..127).map(|n| at(&format!("a-rather-long-name-for-a-layer-{n}"))).collect();
    lower.push(container.root());
    fs::write(lower[0].join("layer"), "topmost\n").unwrap();
    fs::write(lower[126].join("layer"), "other\n").unwrap();
    type Make = fn(&berth_launch::Overlay) -> Result<OwnedFd, berth_launch::Error>;
    let ways: [Make; 2] =
        [|overlay| berth_launch::overlay(overlay, None), berth_launch::overlay_for_old_kernels];
    for (n, make) in ways.iter().enumerate() {
        let (upper, work) = (at(&format!("upper{n}")), at(&format!("work{n}")));
        let overlay = berth_launch::Overlay {
            lower: lower.clone(),
            upper: upper.clone(),
            work,
            volatile: true,
            mapped: false,
        };
        let mount = make(&overlay).unwrap();
        let output = container.run_on(berth_launch::Root::Mount(mount)).unwrap();
        assert_eq!(output.out, "topmost\n", "{output:?}");
        assert!(upper.join("new").exists());
    }
    assert!(!fs::read_to_string("/proc/self/mounts").unwrap().contains("overlay"));
}

/// A time namespace, which exec has to join too.
fn time_namespace() {
    let mut container = Box::new("sleep 1000");
    container.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"}));
    let running = container.start();
    let init = fs::read_link(format!("/proc/{}/ns/time", running.launched.pid)).unwrap();
    assert_ne!(init, fs::read_link("/proc/self/ns/time").unwrap());
    let output = running.exec(&["readlink", "/proc/self/ns/time"], |_| {}).unwrap();
    assert_eq!(output.out.trim(), init.display().to_string());
}

fn read_only_root() {
    check(
        &Box::new("touch /x 2>/dev/null || echo refused; echo ok > /dev/shm/x; cat /dev/shm/x")
            .with("/root/readonly", json!(true)),
        "refused\nok\n",
    );
}

fn bind_mounts() {
    let volume = tempfile::tempdir().unwrap();
    fs::write(volume.path().join("file"), "content\n").unwrap();
    let bind = |to: &str, options: &[&str]| json!({"destination": to, "type": "bind", "source": volume.path(), "options": options});
    check(
        &Box::new("cat /data/file /ro/file /run/deep/hosts; echo new > /data/new; touch /ro/x 2>/dev/null || echo refused; grep -c '/ro .* ro,nosuid' /proc/mounts")
            .mount(bind("/data", &["rbind", "rprivate"]))
            .mount(bind("/ro", &["rbind", "ro", "nosuid", "rprivate"]))
            .mount(json!({"destination": "/run/deep/hosts", "type": "bind", "source": volume.path().join("file"), "options": ["rbind"]})),
        "content\ncontent\ncontent\nrefused\n1\n",
    );
    assert!(volume.path().join("new").exists());
    check_error(
        &Box::new("").mount(json!({"destination": "/bin/busybox", "type": "bind", "source": volume.path(), "options": ["rbind"]})),
        Kind::InvalidInput,
        "directory cannot be mounted onto a file",
    );
    check_error(
        &Box::new("")
            .mount(json!({"destination": "/x", "type": "bind", "source": "/no/such", "options": ["rbind"]})),
        Kind::InvalidInput,
        "/no/such",
    );
}

fn tmpfs_takes_the_mode_of_the_image() {
    check(
        &Box::new("stat -c %a /tmp /srv")
            .mount(json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]}))
            .mount(
                json!({"destination": "/srv", "type": "tmpfs", "source": "tmpfs", "options": ["mode=700"]}),
            ),
        "1777\n700\n",
    );
}

/// Images and volumes that try to lead mounts astray.
fn hostile_roots() {
    for name in ["proc", "sys", "dev"] {
        let container = Box::new("true");
        fs::remove_dir(container.root().join(name)).unwrap();
        symlink("/etc", container.root().join(name)).unwrap();
        check_error(&container, Kind::InvalidInput, "ordinary directory");
    }
    check_error(
        &Box::new("").mount(json!({"destination": "/proc/sys", "type": "tmpfs"})),
        Kind::InvalidInput,
        "inside /proc",
    );
    let container = Box::new("").mount(json!({"destination": "/trap", "type": "tmpfs"}));
    symlink("/proc/sys", container.root().join("trap")).unwrap();
    check_error(&container, Kind::InvalidInput, "leads into /proc");
    let volume = tempfile::tempdir().unwrap();
    check_error(
        &Box::new("").with(
            "/mounts/0",
            json!({"destination": "/proc", "type": "bind", "source": volume.path(), "options": ["rbind"]}),
        ),
        Kind::InvalidInput,
        "must be a proc file system",
    );
    // /dev/null of the image is no matter: the mask is the host's.
    let container = Box::new("stat -c %t:%T /proc/keys; stat -c %t:%T /dev/null");
    symlink("/proc/sys/kernel/core_pattern", container.root().join("dev/null")).unwrap();
    check(&container, "1:3\n1:3\n");
}

/// A container that swaps a directory of a shared volume for links to the root while others are started
/// with a mount there: whatever happens to those starts, the host is not touched.
fn racing_for_a_destination() {
    let volume = tempfile::tempdir().unwrap();
    let bind = json!({"destination": "/vol", "type": "bind", "source": volume.path(), "options": ["rbind"]});
    let _attacker = Box::new(
        "cd /vol; while true; do mkdir x 2>/dev/null; rmdir x 2>/dev/null; ln -s ../../../.. x; rm -rf x; done",
    )
    .mount(bind.clone())
    .start();
    let canary = tempfile::tempdir().unwrap();
    let name = "berth-launch-canary";
    let mut started = 0;
    for _ in 0..60 {
        let victim = Box::new("echo ran")
            .mount(bind.clone())
            .mount(json!({"destination": format!("/vol/x/{name}"), "type": "bind", "source": canary.path(), "options": ["rbind"]}));
        started += usize::from(victim.run().is_ok());
        // Made in the victim's own root at most.
        assert!(!victim.dir.path().join(name).exists());
    }
    assert!(started > 0, "not one start got through");
    assert!(!std::path::Path::new("/").join(name).exists());
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(name));
}

fn sysctls_and_names() {
    check(
        &Box::new("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni /proc/sys/kernel/domainname")
            .with("/domainname", json!("example.org"))
            .with("/linux/sysctl", json!({"net.ipv4.ip_unprivileged_port_start": "0", "kernel.shmmni": "123"})),
        "0\n123\nexample.org\n",
    );
    check_error(
        &Box::new("").with("/linux/sysctl", json!({"kernel.core_pattern": "x"})),
        Kind::InvalidInput,
        "not in a separate",
    );
}

fn limits_are_written() {
    let container = Box::new("sleep 1000").with(
        "/linux/resources",
        json!({"memory": {"limit": 67_108_864, "swap": 134_217_728}, "pids": {"limit": 77},
               "cpu": {"shares": 512, "quota": 50_000, "period": 100_000}}),
    );
    let running = container.start();
    let directory = |controller: &str| running.launched.cgroup.directory_of(controller).unwrap();
    let read = |controller: &str, file: &str| {
        fs::read_to_string(directory(controller).join(file)).unwrap().trim().to_owned()
    };
    if directory("memory").join("memory.max").exists() {
        assert_eq!(read("memory", "memory.max"), "67108864");
        assert_eq!(read("cpu", "cpu.max"), "50000 100000");
    } else {
        assert_eq!(read("memory", "memory.limit_in_bytes"), "67108864");
        assert_eq!(read("cpu", "cpu.cfs_quota_us"), "50000");
        assert_eq!(read("cpu", "cpu.shares"), "512");
    }
    assert_eq!(read("pids", "pids.max"), "77");
    assert_eq!(running.launched.cgroup.pids().unwrap(), [running.launched.pid]);
    // In every hierarchy.
    let mine = fs::read_to_string(format!("/proc/{}/cgroup", running.launched.pid)).unwrap();
    let path = running.container.spec["linux"]["cgroupsPath"].as_str().unwrap();
    assert!(mine.lines().all(|line| line.ends_with(path)), "{mine}");

    let update = serde_json::from_value(
        json!({"memory": {"limit": 268_435_456, "swap": 536_870_912}, "pids": {"limit": -1}}),
    )
    .unwrap();
    assert_eq!(running.launched.cgroup.update(&update).unwrap(), Vec::<String>::new());
    assert_eq!(read("pids", "pids.max"), "max");
    assert_eq!(running.launched.cgroup.oom_kills().unwrap(), 0);
}

fn cgroup_view() {
    let output = Box::new("cat /proc/self/cgroup; grep cgroup /proc/mounts; ls /sys/fs/cgroup; mkdir /sys/fs/cgroup/memory/x /sys/fs/cgroup/x || echo refused").run().unwrap();
    assert!(
        output.out.lines().take_while(|line| line.contains(':')).all(|line| line.ends_with(":/")),
        "{}",
        output.out
    );
    assert!(output.out.ends_with("refused\n"), "{}", output.out);
}

fn device_cgroup() {
    // 10:229 may be made, as by Docker, and not opened.
    check(
        &Box::new(
            "busybox mknod /tmp/fuse c 10 229; cat /tmp/fuse 2>&1; busybox mknod /tmp/null c 1 3; cat /tmp/null; echo end",
        ),
        "cat: can't open '/tmp/fuse': Operation not permitted\nend\n",
    );
}

fn freeze_and_kill() {
    let running = Box::new("while true; do true; done").start();
    let state = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", running.launched.pid)).unwrap();
        stat.rsplit(')').next().unwrap().trim().chars().next().unwrap()
    };
    running.launched.cgroup.freeze(true).unwrap();
    assert_ne!(state(), 'R');
    running.launched.cgroup.freeze(false).unwrap();
    running.launched.cgroup.freeze(true).unwrap();
    // Dropping kills it, frozen as it is.
}

fn oom_kills_are_counted() {
    let container = Box::new("dd if=/dev/zero of=/dev/null bs=200M count=1 & wait $!; echo $?; sleep 1000")
        .with("/linux/resources", json!({"memory": {"limit": 33_554_432, "swap": 33_554_432}}));
    let (stdio, out, _err) = common::pipes();
    let running =
        common::Running { launched: container.launch(stdio).unwrap(), spec: container.oci(), container };
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
    assert_eq!(line, "137\n");
    assert!(running.launched.cgroup.oom_kills().unwrap() >= 1);
}

fn terminal() {
    use std::io::Read as _;
    let container = Box::new("tty; stty size; stat -c %t /dev/console; test -t 0 && test -t 2 && echo tty; readlink /proc/self/fd/0; stat -c '%u %t:%T' $(tty); echo x > /dev/console; echo hello > /dev/tty").user("web", &[]);
    let size = berth_launch::TerminalSize { rows: 24, columns: 100 };
    let launched = container.launch(berth_launch::Stdio::Terminal(size)).unwrap();
    let mut master = fs::File::from(launched.pty_master.unwrap());
    let mut text = Vec::new();
    // The end of a terminal is EIO.
    let end = master.read_to_end(&mut text).unwrap_err();
    assert_eq!(end.raw_os_error(), Some(5));
    common::wait(&launched.pidfd);
    launched.cgroup.remove().unwrap();
    let text = String::from_utf8_lossy(&text).replace("\r\n", "\n");
    assert_eq!(text, "/dev/pts/0\n24 100\n88\ntty\n/dev/pts/0\n33 88:0\nx\nhello\n");
}

fn rlimits_and_oom_score() {
    let output = Box::new("ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj; umask")
        .with("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 123, "hard": 456}]))
        .with("/process/oomScoreAdj", json!(321))
        .run()
        .unwrap();
    assert_eq!((output.out.as_str(), output.warnings.as_slice()), ("123\n456\n321\n0022\n", [].as_slice()));
    // What the host does not grant is a warning.
    let output = Box::new("echo ran")
        .with(
            "/process/rlimits",
            json!([{"type": "RLIMIT_NOFILE", "soft": 1_000_000_000, "hard": 1_000_000_000}]),
        )
        .with("/process/oomScoreAdj", json!(-999))
        .run();
    match output {
        Ok(output) => assert_eq!(output.out, "ran\n"),
        // With every capability the kernel's own bound (fs.nr_open) is the one that speaks.
        Err(error) => assert!(error.message.contains("Nofile"), "{error:?}"),
    }
}

fn exec_in_a_container() {
    let container = Box::new("sleep 1000").with("/process/noNewPrivileges", json!(true));
    let running = container.start();
    let output = running.exec(&["sh", "-c", "hostname; grep -E 'Seccomp:|NoNew|Cap' /proc/self/status; cat /proc/1/cmdline; ls /proc/self/fd | wc -l; cat /proc/self/cgroup"], |_| {}).unwrap();
    assert!(
        output.out.starts_with(
            "box\nCapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\n\
         CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nsleep\x001000\x00"
        ),
        "{output:?}"
    );
    assert!(
        output.out.lines().rev().take_while(|line| line.contains(':')).all(|line| line.ends_with(":/")),
        "{output:?}"
    );
    for kind in ["mnt", "net", "uts", "pid", "ipc", "cgroup"] {
        let output = running.exec(&["readlink", &format!("/proc/self/ns/{kind}")], |_| {}).unwrap();
        let init = fs::read_link(format!("/proc/{}/ns/{kind}", running.launched.pid)).unwrap();
        assert_eq!(output.out.trim(), init.display().to_string());
    }

    let output = running
        .exec(&["id"], |input| input.user = Some(berth_launch::UserRequest { user: "web", groups: &[] }))
        .unwrap();
    assert_eq!(output.out, "uid=33(web) gid=44(www) groups=44(www),45(video)\n");

    let output = running
        .exec(&["grep", "-E", "Cap(Inh|Amb)|Seccomp:", "/proc/self/status"], |input| input.privileged = true)
        .unwrap();
    assert_eq!(output.out, "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\nSeccomp:\t2\n");
    // Whoever joins the mount namespace finds the container's root, and nothing of the host's below it.
    let output = running.exec(&["sh", "-c", "ls /; grep -c ' / ' /proc/mounts"], |_| {}).unwrap();
    assert_eq!(output.out, "bin\ndev\netc\nproc\nroot\nsrv\nsys\ntmp\n1\n");
    let error = running.exec(&["nosuchbin"], |_| {}).unwrap_err();
    assert_eq!(error.message, r#"exec: "nosuchbin": executable file not found in $PATH"#);
    assert_eq!(
        fs::read_link("/proc/self/ns/pid_for_children").unwrap(),
        fs::read_link("/proc/self/ns/pid").unwrap()
    );
}

fn exec_with_a_terminal() {
    use std::io::Read as _;
    let running = Box::new("sleep 1000").start();
    let mut process = running.spec.process().clone().unwrap();
    process.set_args(Some(vec!["sh".into(), "-c".into(), "tty; stty size".into()]));
    let size = berth_launch::TerminalSize { rows: 5, columns: 6 };
    let launched =
        berth_launch::exec(running.exec_input(&process, berth_launch::Stdio::Terminal(size))).unwrap();
    let mut text = Vec::new();
    fs::File::from(launched.pty_master.unwrap()).read_to_end(&mut text).unwrap_err();
    common::wait(&launched.pidfd);
    assert_eq!(String::from_utf8_lossy(&text), "/dev/pts/0\r\n5 6\r\n");
}

fn exec_after_the_end() {
    let container = Box::new("true");
    let (stdio, ..) = common::pipes();
    let launched = container.launch(stdio).unwrap();
    // Ended and not yet reaped.
    let options = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
    rustix::process::waitid(
        rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(&launched.pidfd)),
        options,
    )
    .unwrap();
    let running = common::Running { launched, spec: container.oci(), container };
    let error = running.exec(&["true"], |_| {}).unwrap_err();
    assert_eq!(error.kind, Kind::NotRunning, "{error:?}");
}

fn user_namespace() {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    let container = Box::new("id -u; cat /proc/self/uid_map; stat -c %t:%T /dev/null; hostname; echo x > /dev/null; touch /tmp/x && stat -c %u /tmp/x; ulimit -n; cat /proc/self/oom_score_adj; stat -c %t:%T /proc/keys")
        .with("/linux/uidMappings", map.clone())
        .with("/linux/gidMappings", map)
        .with("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 123, "hard": 456}]))
        .with("/process/oomScoreAdj", json!(321));
    let mut container = container;
    container.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    let output = container.run().unwrap();
    assert_eq!(output.out, "0\n         0     100000      65536\n1:3\nbox\n0\n123\n321\n1:3\n", "{output:?}");
    container.spec["process"]["args"] = json!(["sleep", "1000"]);
    container.spec["linux"]["cgroupsPath"] = json!(cgroups_path());
    let running = container.start();
    let output = running
        .exec(
            &["sh", "-c", "id -u; cat /proc/self/uid_map; grep CapEff /proc/self/status; ulimit -n"],
            |_| {},
        )
        .unwrap();
    assert_eq!(
        output.out, "0\n         0     100000      65536\nCapEff:\t00000000a80425fb\n123\n",
        "{output:?}"
    );
}

/// A user namespace with its ids mapped, and a network namespace that it owns.
fn namespaces_of_others() -> (OwnedFd, PathBuf, std::process::Child) {
    let process = std::process::Command::new("unshare")
        .args(["-Un", "sleep", "1000"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let pid = process.id();
    let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    while of(&pid.to_string()) == of("self") {
        std::thread::yield_now();
    }
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{pid}/{map}"), "0 100000 65536").unwrap();
    }
    let user = fs::File::open(format!("/proc/{pid}/ns/user")).unwrap();
    (user.into(), format!("/proc/{pid}/ns/net").into(), process)
}

fn user_namespace_of_others() {
    let (user, net, mut process) = namespaces_of_others();
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    let mut container = Box::new(
        "id -u; cat /proc/self/uid_map; stat -c %u:%g /bin/busybox / /vol /vol/f; touch /new && stat -c %u /new; \
         echo y > /vol/g; echo 1 > /proc/sys/net/ipv4/ip_forward && cat /proc/sys/net/ipv4/ip_forward; \
         ip link set lo up; rm /bin/ln; echo ok > /dev/stdout; ps | wc -l",
    )
    .overlay()
    .with("/linux/uidMappings", map.clone())
    .with("/linux/gidMappings", map)
    .with("/linux/readonlyPaths", json!([]));
    let caps = container.spec["process"]["capabilities"].as_object_mut().unwrap();
    for set in ["bounding", "permitted", "effective"] {
        caps[set].as_array_mut().unwrap().push(json!("CAP_NET_ADMIN"));
    }
    let volume = container.dir.path().join("vol");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("f"), "x").unwrap();
    let upper = container.dir.path().join("upper");
    fs::create_dir(&upper).unwrap();
    std::os::unix::fs::chown(&upper, Some(100_000), Some(100_000)).unwrap();
    container = container.mount(json!({
        "destination": "/vol", "type": "bind", "source": volume, "options": ["rbind", "idmap"],
    }));
    container.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    set(&mut container.spec, "/linux/namespaces/1", json!({"type": "network", "path": net}));
    container.userns = Some(user);
    let output = container.run().unwrap();
    assert_eq!(
        output.out, "0\n         0     100000      65536\n0:0\n0:0\n0:0\n0:0\n0\n1\nok\n4\n",
        "{output:?}"
    );
    // What the container writes to its own files is shifted, what it writes to the volume is not.
    let owner = |path: PathBuf| std::os::unix::fs::MetadataExt::uid(&fs::symlink_metadata(path).unwrap());
    assert_eq!((owner(upper.join("new")), owner(volume.join("g"))), (100_000, 0));
    assert_eq!(owner(container.root().join("bin/busybox")), 0, "the layer is as it was");
    container.spec["process"]["args"] = json!(["sleep", "1000"]);
    container.spec["linux"]["cgroupsPath"] = json!(cgroups_path());
    let running = container.start();
    let output = running
        .exec(&["sh", "-c", "id -u; cat /proc/self/uid_map; echo ok > /dev/stdout; stat -c %u /new"], |_| {})
        .unwrap();
    assert_eq!(output.out, "0\n         0     100000      65536\nok\n0\n", "{output:?}");
    drop(running);
    process.kill().unwrap();
    process.wait().unwrap();
}

fn failures_leave_nothing() {
    let container = Box::new("").args(&["nosuchbin"]);
    container.run().unwrap_err();
    let path = container.spec["linux"]["cgroupsPath"].as_str().unwrap();
    assert!(!std::path::Path::new("/sys/fs/cgroup/memory").join(path.trim_start_matches('/')).exists());
    // A cgroup in use is not taken, nor harmed.
    let running = Box::new("sleep 1000").start();
    let taken = running.spec.linux().as_ref().unwrap().cgroups_path().clone().unwrap();
    check_error(&Box::new("").with("/linux/cgroupsPath", json!(taken)), Kind::InvalidInput, "in use");
    assert_eq!(running.launched.cgroup.pids().unwrap().len(), 1);
    for (pointer, value) in [
        ("/hooks", json!({"startContainer": [{"path": "/bin/true"}]})),
        ("/hooks", json!({"createRuntime": [{"path": "bin/true"}]})),
        ("/hooks", json!({"createRuntime": [{"path": "/bin/true", "timeout": 0}]})),
        ("/linux/mountLabel", json!("system_u:object_r:x")),
        ("/process/selinuxLabel", json!("system_u:object_r:x")),
        ("/process/args", json!([])),
        ("/linux/rootfsPropagation", json!("sideways")),
    ] {
        assert_eq!(
            Box::new("").with(pointer, value).run().unwrap_err().kind,
            Kind::InvalidInput,
            "{pointer}"
        );
    }
}

/// Neither success nor failure leaves a descriptor or a child behind.
fn nothing_is_leaked() {
    let count = || fs::read_dir("/proc/self/fd").unwrap().count();
    let running = Box::new("sleep 1000").start();
    let before = count();
    for _ in 0..3 {
        Box::new("true").overlay().run().unwrap();
        Box::new("").args(&["nosuchbin"]).overlay().run().unwrap_err();
        Box::new("").with("/hostname", json!("x".repeat(100))).run().unwrap_err();
        Box::new("").mount(json!({"destination": "/proc/sys", "type": "tmpfs"})).run().unwrap_err();
        Box::new("").mount(json!({"destination": "/x", "type": "nosuchfs"})).run().unwrap_err();
        let mut bad = Box::new("");
        bad.spec["linux"]["resources"] = json!({"cpu": {"cpus": "4000"}});
        bad.run().unwrap_err();
        running.exec(&["true"], |_| {}).unwrap();
        running.exec(&["nosuchbin"], |_| {}).unwrap_err();
    }
    assert_eq!(count(), before);
    drop(running);
    let options = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOHANG;
    let children = rustix::process::waitid(rustix::process::WaitId::All, options);
    assert_eq!(children.unwrap_err(), rustix::io::Errno::CHILD);
}

/// A hook that appends what it is told, and what it sees, to a file.
fn hook(file: &std::path::Path, more: &str) -> serde_json::Value {
    let script = format!(
        "{{ echo \"$0 $A\"; sed 's/.*\"status\":\"\\([a-z]*\\)\".*/\\1/'; echo; {more}; }} >> {}",
        file.display()
    );
    json!({"path": "/bin/sh", "args": ["sh", "-c", script, "me"], "env": ["A=b", "PATH=/usr/bin:/bin"]})
}

fn hooks_run_where_and_when_they_should() {
    let dir = tempfile::tempdir().unwrap();
    let said = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap_or_default();
    let at = |name: &str, more: &str| json!([hook(&dir.path().join(name), more)]);
    let container = Box::new("cat /from-hook; ls /made 2>&1").overlay().with(
        "/hooks",
        json!({
            "prestart": at("pre", "hostname >/dev/null"),
            "createRuntime": at("runtime", "test $(hostname) != box"),
            "createContainer": at("container", "hostname; test -d proc/self; test -c dev/null; echo made > from-hook"),
            "poststart": at("post", "true"),
            "poststop": at("stop", "true"),
        }),
    );
    let output = container.run().unwrap();
    assert_eq!(output.out, "made\nls: /made: No such file or directory\n", "{output:?}");
    assert_eq!(said("pre"), "me b\ncreating\n");
    assert_eq!(said("runtime"), "me b\ncreating\n");
    assert_eq!(said("container"), "me b\ncreating\nbox\n");
    assert_eq!(said("post"), "me b\nrunning\n");
    assert_eq!(said("stop"), "", "what runs it is its owner's end");
    let bundle = berth_launch::Bundle { id: "box", path: dir.path() };
    assert_eq!(berth_launch::poststop(&container.oci(), bundle), Vec::<String>::new());
    assert_eq!(said("stop"), "me b\nstopped\n");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("rootfs"), "the root never shows outside: {mounts}");
}

fn hooks_that_fail_end_the_start() {
    let dir = tempfile::tempdir().unwrap();
    for moment in ["prestart", "createRuntime", "createContainer"] {
        let mut bad = hook(&dir.path().join("x"), "true");
        bad["args"] = json!(["sh", "-c", "echo so not; exit 7"]);
        let stop = hook(&dir.path().join(moment), "true");
        let container = Box::new("true").overlay().with("/hooks", json!({moment: [bad], "poststop": [stop]}));
        let named = if moment == "prestart" { "createRuntime" } else { moment };
        check_error(
            &container,
            Kind::Internal,
            &format!("error running {named} hook #0: /bin/sh: exit status 7, output: so not"),
        );
        assert!(fs::read_to_string(dir.path().join(moment)).unwrap().contains("stopped"), "{moment}");
    }
    let slow = json!({"path": "/bin/sh", "args": ["sh", "-c", "exec sleep 1000"], "env": ["PATH=/usr/bin:/bin"], "timeout": 1});
    check_error(
        &Box::new("true").with("/hooks", json!({"createRuntime": [slow]})),
        Kind::Internal,
        "not done within 1 s",
    );
    let missing = json!({"createRuntime": [{"path": "/no/such"}]});
    check_error(&Box::new("true").with("/hooks", missing), Kind::Internal, "/no/such: exec: No such file");
}

fn without_a_dev_mount() {
    let mut container =
        Box::new("stat -c %t:%T /dev/null; echo x > /dev/null; cat /proc/mounts | grep -c ' /dev'");
    container.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    check(&container, "1:3\n0\n");
}

fn main() {
    tests![
        exit_codes,
        namespaces,
        host_pid_and_network,
        joins_another_containers_namespaces,
        mounts,
        devices,
        masked_and_read_only_paths,
        capabilities_and_privileges,
        only_three_descriptors,
        seccomp_filter_works,
        users,
        commands_that_cannot_run,
        working_directories,
        overlay_root,
        overlays_of_many_layers,
        time_namespace,
        read_only_root,
        bind_mounts,
        tmpfs_takes_the_mode_of_the_image,
        hostile_roots,
        racing_for_a_destination,
        sysctls_and_names,
        limits_are_written,
        cgroup_view,
        device_cgroup,
        freeze_and_kill,
        oom_kills_are_counted,
        terminal,
        rlimits_and_oom_score,
        exec_in_a_container,
        exec_with_a_terminal,
        exec_after_the_end,
        user_namespace,
        user_namespace_of_others,
        failures_leave_nothing,
        hooks_run_where_and_when_they_should,
        hooks_that_fail_end_the_start,
        without_a_dev_mount,
        nothing_is_leaked,
    ];
}
