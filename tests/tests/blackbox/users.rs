// SPDX-License-Identifier: Apache-2.0
//! `userns-remap`: containers whose users are not the host's.
//!
//! The reference takes this as a setting of its daemon alone, and keeps a second store for it, so that these are not run
//! against it. Identities and refusals are as its source has them; images and volumes that are shared with other containers are
//! ours alone.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use berth_tests::harness::{Bed, Options, until};

/// First id on the host, and how many.
const BASE: u32 = 400_000;
const COUNT: u32 = 65_536;

/// A bed whose daemon gives containers the subordinate ids of a user; the folder is where it finds him.
fn remapped() -> (Bed, tempfile::TempDir) {
    let etc = tempfile::tempdir().unwrap();
    fs::write(etc.path().join("passwd"), "root:x:0:0::/:/bin/sh\ntester:x:1234:1234::/:/bin/sh\n").unwrap();
    fs::write(etc.path().join("group"), "tester:x:1234:\n").unwrap();
    for file in ["subuid", "subgid"] {
        fs::write(etc.path().join(file), format!("tester:{BASE}:{COUNT}\n")).unwrap();
    }
    let bed = Bed::with(Options {
        flags: vec!["--userns-remap".into(), "tester".into()],
        env: vec![("BERTH_ETC".into(), etc.path().display().to_string())],
        ..Options::default()
    });
    bed.docker(&["pull", "busybox"]).ok();
    (bed, etc)
}

fn run(bed: &Bed, options: &[&str], script: &str) -> String {
    bed.docker(&[&["run", "--rm"], options, &["busybox", "sh", "-c", script]].concat()).ok()
}

fn start(bed: &Bed, name: &str, options: &[&str]) {
    bed.docker(&[&["run", "-d", "--name", name], options, &["busybox", "sleep", "1000"]].concat()).ok();
}

fn exec(bed: &Bed, name: &str, script: &str) -> String {
    bed.docker(&["exec", name, "sh", "-c", script]).ok()
}

fn inspect(bed: &Bed, name: &str, what: &str) -> String {
    bed.docker(&["inspect", "-f", &format!("{{{{{what}}}}}"), name]).ok()
}

fn upper(bed: &Bed, name: &str) -> PathBuf {
    bed.data_root().join("containers").join(inspect(bed, name, ".Id")).join("upper")
}

fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    let found = fs::symlink_metadata(path.as_ref()).unwrap_or_else(|e| panic!("{:?}: {e}", path.as_ref()));
    (found.uid(), found.gid())
}

/// A field of a process's status on the host.
fn status(pid: &str, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    text.lines().find_map(|line| line.strip_prefix(field)).unwrap().trim().to_owned()
}

#[test]
fn root_in_a_container_is_nobody_outside() {
    let (bed, _etc) = remapped();
    assert!(bed.docker(&["info", "-f", "{{.SecurityOptions}}"]).ok().contains("name=userns"));
    start(&bed, "one", &[]);
    let pid = inspect(&bed, "one", ".State.Pid");
    let uid = format!("{BASE}\t{BASE}\t{BASE}\t{BASE}");
    assert_eq!((status(&pid, "Uid:"), status(&pid, "Gid:")), (uid.clone(), uid));
    let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "400000", "65536"]);
    assert_eq!(
        exec(
            &bed,
            "one",
            "id -u; awk '{print $1, $2, $3}' /proc/self/uid_map /proc/1/gid_map; cat /proc/1/comm"
        ),
        "0\n0 400000 65536\n0 400000 65536\nsleep"
    );
    // The image's files are root's there, as they are on disk; a process can reach its streams by name.
    assert_eq!(
        exec(&bed, "one", "stat -c %u:%g /bin /etc/passwd /etc/hosts / /proc/1; echo out > /dev/stdout"),
        "0:0\n0:0\n0:0\n0:0\n0:0\nout"
    );
    assert_eq!(
        run(&bed, &["-u", "app"], "id -u; echo ok > /dev/stderr; touch /tmp/x && stat -c %u /tmp/x"),
        "1000\n1000"
    );
    // All that is made in its directory belongs to its users; of the image nothing was copied.
    exec(
        &bed,
        "one",
        "echo x > /root/f; chown 1000:1000 /root/f; ln -s f /root/l; mkdir /root/d; rm /bin/ls",
    );
    let upper = upper(&bed, "one");
    assert_eq!(owner(upper.join("root/f")), (BASE + 1000, BASE + 1000));
    assert_eq!((owner(upper.join("root/l")), owner(upper.join("root/d"))), ((BASE, BASE), (BASE, BASE)));
    assert_eq!(exec(&bed, "one", "chown 70000 /root/f 2>/dev/null; echo $?; stat -c %u /root/f"), "1\n1000");
    let diff = bed.docker(&["diff", "one"]).ok();
    let mut diff: Vec<&str> = diff.lines().collect();
    diff.sort_unstable();
    assert!(
        diff.contains(&"A /root/f")
            && diff.iter().any(|line| line.starts_with("D ") && line.ends_with("bin/ls")),
        "{diff:?}"
    );
    assert!(!diff.iter().any(|line| line.ends_with("/etc")), "copied up is not changed: {diff:?}");
    // Restarts, with what it wrote.
    bed.docker(&["restart", "-t", "0", "one"]).ok();
    assert_eq!(exec(&bed, "one", "stat -c %u /root/f /root/d"), "1000\n0");
    let layers = bed.data_root().join("layers");
    for layer in fs::read_dir(layers).unwrap().flatten() {
        assert_eq!(owner(layer.path().join("fs")), (0, 0));
    }
    bed.finish();
}

#[test]
fn what_only_the_hosts_root_may_have_is_refused() {
    let (bed, _etc) = remapped();
    for (option, words) in [
        ("--privileged", "privileged mode is incompatible with user namespaces."),
        ("--network=host", "cannot share the host's network namespace when user namespaces are enabled"),
        ("--pid=host", "cannot share the host PID namespace when user namespaces are enabled"),
    ] {
        let said = bed.docker(&["create", option, "busybox"]).fails(1);
        assert!(said.contains(words), "{option}: {said}");
        bed.docker(&["create", option, "--userns=host", "--name", "opted", "busybox"]).ok();
        bed.docker(&["rm", "opted"]).ok();
    }
    let odd = r#"{"Image":"busybox","HostConfig":{"UsernsMode":"keep-id"}}"#;
    let odd = bed.api("POST", "/containers/create", odd);
    assert_eq!((odd.status, odd.text().contains("keep-id")), (400, true), "{}", odd.text());
    let out = run(&bed, &["--userns=host", "--privileged"], "cat /proc/self/uid_map; stat -c %u /bin");
    assert_eq!(out.split_whitespace().collect::<Vec<_>>(), ["0", "0", "4294967295", "0"]);
    // Rights over the host's things are not there, rights over its own are.
    let script = "mknod /tmp/x c 1 1 2>/dev/null || echo no nodes; \
        mount -t tmpfs t /mnt 2>/dev/null || echo no mounts; \
        echo 1 > /proc/sysrq-trigger 2>/dev/null || echo no sysrq; \
        dd if=/dev/zero of=/dev/null count=1 2>/dev/null && echo devices; \
        hostname other 2>/dev/null || echo no name; \
        cat /proc/1/environ > /dev/null && echo own";
    assert_eq!(run(&bed, &[], script), "no nodes\nno mounts\nno sysrq\ndevices\nno name\nown");
    let script = "ip link set lo mtu 1400 && ip link show lo | grep -c 1400; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; \
        mount -t tmpfs t /tmp && echo mounted";
    let caps = ["--cap-add=NET_ADMIN", "--cap-add=SYS_ADMIN", "--security-opt", "apparmor=unconfined"];
    let out = run(&bed, &caps, script);
    assert!(out == "1\n0\nmounted", "{out}");
    let out = run(&bed, &["--sysctl", "net.ipv4.ip_forward=1"], "cat /proc/sys/net/ipv4/ip_forward");
    assert_eq!(out, "1");
    bed.finish();
}

#[test]
fn volumes_are_shared_with_other_containers() {
    let (bed, _etc) = remapped();
    start(&bed, "mapped", &["-v", "vol:/vol", "-v", "up:/etc", "--tmpfs", "/ram:size=1m"]);
    start(&bed, "plain", &["-v", "vol:/vol", "--userns=host"]);
    exec(&bed, "mapped", "echo m > /vol/m; mkdir /vol/d; touch /vol/d/app; chown 1000:1000 /vol/d/app");
    exec(&bed, "plain", "echo p > /vol/p; chown 5:6 /vol/p");
    let script = "stat -c %u:%g /vol /vol/m /vol/d /vol/d/app /vol/p";
    assert_eq!(exec(&bed, "mapped", script), "0:0\n0:0\n0:0\n1000:1000\n5:6");
    assert_eq!(exec(&bed, "plain", script), "0:0\n0:0\n0:0\n1000:1000\n5:6");
    assert_eq!(owner(bed.data_root().join("volumes/vol/_data/m")), (0, 0));
    // Filled from the image with its owners; memory is the container's.
    assert_eq!(
        exec(&bed, "mapped", "stat -c %u:%g /etc/passwd; echo x > /etc/new; stat -c %u /etc/new"),
        "0:0\n0"
    );
    assert_eq!(exec(&bed, "mapped", "echo x > /ram/f; stat -c %u /ram /ram/f /dev/shm"), "0\n0\n0");

    // Binds are as they are, which the reference has, too.
    let bind = bed.path().join("bind");
    fs::create_dir(&bind).unwrap();
    fs::write(bind.join("f"), "x").unwrap();
    let place = bind.display().to_string();
    let script = "stat -c %u:%g /b /b/f; touch /b/g 2>/dev/null || echo no";
    assert_eq!(run(&bed, &["-v", &format!("{place}:/b")], script), "65534:65534\n65534:65534\nno");
    std::os::unix::fs::chown(&bind, Some(BASE), Some(BASE)).unwrap();
    assert_eq!(run(&bed, &["-v", &format!("{place}:/b")], script), "0:0\n65534:65534");
    assert_eq!(owner(bind.join("g")), (BASE, BASE));
    // What is made for it is its.
    run(&bed, &["-v", &format!("{place}/new/deep:/b")], "touch /b/h");
    assert_eq!((owner(bind.join("new")), owner(bind.join("new/deep/h"))), ((BASE, BASE), (BASE, BASE)));
    // A part of a volume, and an image.
    exec(&bed, "plain", "mkdir -p /vol/part; echo 1 > /vol/part/x");
    let part = ["--mount", "type=volume,src=vol,dst=/v,volume-subpath=part"];
    assert_eq!(run(&bed, &part, "stat -c %u /v/x; touch /v/y; stat -c %u /v/y"), "0\n0");
    let image = ["--mount", "type=image,src=busybox,dst=/i"];
    assert_eq!(run(&bed, &image, "stat -c %u:%g /i/etc/passwd"), "0:0");
    bed.docker(&["rm", "-f", "mapped", "plain"]).ok();
    bed.docker(&["volume", "rm", "vol", "up"]).ok();
    bed.finish();
}

/// `cp` both ways, of running and of stopped containers.
#[test]
fn copies_have_the_owners_that_the_container_sees() {
    let (bed, _etc) = remapped();
    start(&bed, "one", &["-v", "vol:/vol"]);
    bed.docker(&["create", "--name", "cold", "-v", "vol:/vol", "busybox", "true"]).ok();
    let from = bed.path().join("from");
    fs::create_dir(&from).unwrap();
    fs::write(from.join("f"), "x").unwrap();
    std::os::unix::fs::chown(from.join("f"), Some(7), Some(8)).unwrap();
    let from = from.display().to_string();
    exec(&bed, "one", "touch /root/app; chown 1000:1001 /root/app");
    let entry = |name: &str, path: &str| {
        let body = bed.api("GET", &format!("/containers/{name}/archive?path={path}"), "").body;
        let mut archive = tar::Archive::new(&body[..]);
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        (entry.header().uid().unwrap(), entry.header().gid().unwrap())
    };
    for name in ["one", "cold"] {
        // Like the reference's, ours makes what comes without -a the container root's.
        for place in ["/root", "/vol"] {
            bed.docker(&["cp", "-a", &from, &format!("{name}:{place}/{name}")]).ok();
            assert_eq!(entry(name, &format!("{place}/{name}/f")), (7, 8), "{name} {place}");
        }
        assert_eq!(entry(name, "/etc/passwd"), (0, 0));
    }
    assert_eq!(exec(&bed, "one", "stat -c %u:%g /root/one/f /vol/one/f /vol/cold/f"), "7:8\n7:8\n7:8");
    assert_eq!(entry("one", "/root/app"), (1000, 1001));
    assert_eq!(owner(upper(&bed, "one").join("root/one/f")), (BASE + 7, BASE + 8));
    assert_eq!(owner(upper(&bed, "cold").join("root/cold/f")), (BASE + 7, BASE + 8));
    assert_eq!(owner(upper(&bed, "cold").join("root")), (BASE, BASE), "copied up with its owner");
    assert_eq!(owner(bed.data_root().join("volumes/vol/_data/one/f")), (7, 8));
    // Somebody whom the container cannot have.
    let foreign = bed.path().join("foreign");
    fs::write(&foreign, "x").unwrap();
    std::os::unix::fs::chown(&foreign, Some(COUNT + 5), Some(0)).unwrap();
    let said = bed.docker(&["cp", "-a", &foreign.display().to_string(), "one:/root/foreign"]).fails(1);
    assert!(said.contains("none of the container's users"), "{said}");
    bed.docker(&["start", "-a", "cold"]).ok();
    bed.docker(&["rm", "-f", "-v", "one", "cold"]).ok();
    bed.docker(&["volume", "rm", "vol"]).ok();
    bed.finish();
}

#[test]
fn commits_and_exports_are_for_any_container() {
    let (bed, _etc) = remapped();
    start(&bed, "one", &[]);
    exec(
        &bed,
        "one",
        "echo x > /made; chown 1000:1000 /made; chmod 4755 /made; mkdir /d; chown app /d; rm -r /etc/hosts.allow /srv 2>/dev/null; true",
    );
    bed.docker(&["commit", "one", "made"]).ok();
    let script = "stat -c '%u:%g %a' /made /d; stat -c %u /bin/busybox";
    let want = "1000:1000 4755\n1000:0 755\n0";
    for options in [&["--rm"][..], &["--rm", "--userns=host"]] {
        let args = [&["run"], options, &["made", "sh", "-c", script]].concat();
        assert_eq!(bed.docker(&args).ok(), want, "{options:?}");
    }
    let tar = bed.path().join("one.tar");
    bed.docker(&["export", "-o", &tar.display().to_string(), "one"]).ok();
    let listed =
        std::process::Command::new("tar").arg("--numeric-owner").arg("-tvf").arg(&tar).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.lines().any(|line| line.contains(" 1000/1000 ") && line.ends_with(" made")), "{listed}");
    assert!(!listed.contains("4000"), "no id of the host: {listed}");
    bed.docker(&["rm", "-f", "one"]).ok();
    bed.docker(&["rmi", "made"]).ok();
    bed.finish();
}

#[test]
fn networks_terminals_health_and_company() {
    let (mut bed, _etc) = remapped();
    bed.docker(&["network", "create", "mine"]).ok();
    bed.docker(&[
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "mine",
        "-p",
        "8088:80",
        "--init",
        "--health-cmd",
        "test $(id -u) = 0",
        "--health-interval",
        "100ms",
        "busybox",
        "sh",
        "-c",
        "echo hello > /tmp/index.html; httpd -f -p 80 -h /tmp",
    ])
    .ok();
    until("it is healthy", || (inspect(&bed, "web", ".State.Health.Status") == "healthy").then_some(()));
    assert_eq!(run(&bed, &["--network", "mine"], "wget -qO- http://web/"), "hello");
    let published = bed.netns.run(|| {
        until("the port answers", || {
            use std::io::{Read as _, Write as _};
            let mut stream = std::net::TcpStream::connect("127.0.0.1:8088").ok()?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).ok()?;
            text.contains("hello").then_some(text)
        })
    });
    assert!(published.contains("200"), "{published}");
    // A terminal of its own.
    assert_eq!(run(&bed, &["-t"], "stat -c '%u %a' $(tty); id -u").replace('\r', ""), "0 620\n0");
    // Company shares the user namespace; others do not get in.
    let user =
        |name: &str| fs::read_link(format!("/proc/{}/ns/user", inspect(&bed, name, ".State.Pid"))).unwrap();
    start(&bed, "beside", &["--network", "container:web", "--pid", "container:web"]);
    assert_eq!(user("beside"), user("web"));
    assert_eq!(
        exec(&bed, "beside", "wget -qO- http://127.0.0.1/; kill -0 1 && echo reaches"),
        "hello\nreaches"
    );
    start(&bed, "ipc", &["--ipc", "shareable"]);
    start(&bed, "guest", &["--ipc", "container:ipc"]);
    assert_eq!(exec(&bed, "guest", "touch /dev/shm/x && stat -c %u /dev/shm/x /dev/shm"), "0\n0");
    assert_ne!(user("ipc"), user("web"));
    bed.docker(&[
        "create",
        "--name",
        "torn",
        "--network",
        "container:web",
        "--ipc",
        "container:ipc",
        "busybox",
        "true",
    ])
    .ok();
    assert!(bed.docker(&["start", "torn"]).fails(1).contains("another user namespace"));
    start(&bed, "plain", &["--userns=host"]);
    bed.docker(&["create", "--name", "odd", "--network", "container:plain", "busybox", "true"]).ok();
    assert!(bed.docker(&["start", "odd"]).fails(1).contains("mapped otherwise"));
    // A new daemon, and one that maps no more: containers stay what they are.
    bed.kill_daemon();
    bed.start_daemon();
    assert_eq!(
        exec(&bed, "web", "awk '{print $2}' /proc/self/uid_map; wget -qO- http://127.0.0.1/"),
        "400000\nhello"
    );
    bed.docker(&["network", "connect", "mine", "ipc"]).ok();
    assert_eq!(exec(&bed, "ipc", "wget -qO- http://web/"), "hello");
    bed.docker(&["rm", "-f", "beside", "ipc", "guest", "torn", "plain", "odd"]).ok();
    bed.docker(&["restart", "-t", "0", "web"]).ok();
    assert_eq!(exec(&bed, "web", "awk '{print $2}' /proc/self/uid_map"), "400000");
    bed.docker(&["stats", "--no-stream", "web"]).ok();
    assert!(bed.docker(&["top", "web"]).ok().contains("httpd"));
    bed.docker(&["rm", "-f", "web"]).ok();
    bed.docker(&["network", "rm", "mine"]).ok();
    bed.finish();
}

/// Capabilities of files hold in the container that set them, and travel with copies.
#[test]
fn capabilities_of_files() {
    let (bed, _etc) = remapped();
    start(&bed, "one", &[]);
    let upper = upper(&bed, "one");
    exec(&bed, "one", "cp /bin/busybox /tmp/tool; ls -l /tmp > /dev/null");
    let attribute = |path: &Path| {
        let mut value = [0; 64];
        rustix::fs::getxattr(path, "security.capability", &mut value[..]).map(|n| value[..n].to_vec())
    };
    // cap_net_raw=ep, as setcap would have it: for the container's root.
    let plain: Vec<u8> = [&[1, 0, 0, 2][..], &(1u32 << 13).to_le_bytes(), &[0; 12]].concat();
    let mut archive = tar::Builder::new(Vec::new());
    let mut head = tar::Header::new_gnu();
    head.set_size(4);
    head.set_mode(0o755);
    archive.append_pax_extensions([("SCHILY.xattr.security.capability", &plain[..])]).unwrap();
    archive.append_data(&mut head, "raw", &b"tool"[..]).unwrap();
    let archive = archive.into_inner().unwrap();
    let put = bed.api_with(
        "PUT",
        "/containers/one/archive?path=/tmp",
        &[("Content-Type", "application/x-tar")],
        &archive,
    );
    assert_eq!(put.status, 200, "{}", put.text());
    let stored = attribute(&upper.join("tmp/raw")).unwrap();
    assert_eq!((stored.len(), &stored[20..]), (24, &BASE.to_le_bytes()[..]), "for this root alone");
    let back = bed.api("GET", "/containers/one/archive?path=/tmp/raw", "").body;
    assert!(back.windows(plain.len()).any(|window| window == plain), "as the container sees it");
    assert_eq!(fs::metadata(upper.join("tmp/raw")).unwrap().permissions().mode() & 0o7777, 0o755);
    bed.finish();
}
