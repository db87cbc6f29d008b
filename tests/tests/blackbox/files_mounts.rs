// SPDX-License-Identifier: Apache-2.0
//! Binds and tmpfs in their forms: how deep read-only reaches, what is shared with the host, what lies on what.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use berth_tests::harness::{Bed, Output};

fn run(bed: &Bed, options: &[&str], script: &str) -> String {
    bed.docker(&[&["run", "--rm"], options, &["busybox", "sh", "-c", script]].concat()).ok()
}

/// A tmpfs of the host, until this is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(at: &Path) -> Self {
        fs::create_dir_all(at).unwrap();
        Output::of(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(at)).ok();
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(Command::new("umount").args(["-R", "-l"]).arg(&self.0).status());
    }
}

#[test]
fn read_only_reaches_as_far_as_is_said() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    if !bed.is_ours() {
        // The reference engine has mounts of its own.
        return bed.finish();
    }
    let top = bed.path().join("top");
    let outer = Mounted::tmpfs(&top);
    let inner = Mounted::tmpfs(&top.join("sub"));
    fs::write(top.join("sub/here"), "").unwrap();
    let look = "ls /m/sub; touch /m/a 2>/dev/null && echo top; touch /m/sub/b 2>/dev/null && echo sub; true";
    let bind = |more: &str| {
        run(&bed, &["--mount", &format!("type=bind,source={},target=/m{more}", top.display())], look)
    };
    assert_eq!(bind(""), "here\ntop\nsub");
    fs::remove_file(top.join("sub/b")).unwrap();
    assert_eq!(bind(",readonly"), "here", "mounts beneath it too");
    assert_eq!(bind(",bind-recursive=disabled"), "top\nsub", "without what is mounted beneath it");
    fs::remove_dir_all(top.join("sub").join("b")).unwrap_or_default();
    assert_eq!(bind(",readonly,bind-recursive=writable"), "here\nsub");
    fs::remove_file(top.join("sub/b")).unwrap();
    assert_eq!(bind(",readonly,bind-recursive=readonly,bind-propagation=rprivate"), "here");
    assert_eq!(run(&bed, &["-v", &format!("{}:/m:ro", top.display())], look), "here");
    drop((inner, outer));
    bed.finish();
}

#[test]
fn propagation_is_what_is_asked_in_all_six_kinds() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    if !bed.is_ours() {
        return bed.finish();
    }
    let top = bed.path().join("top");
    let outer = Mounted::tmpfs(&top);
    Output::of(Command::new("mount").arg("--make-rshared").arg(&top)).ok();
    for kind in ["private", "rprivate", "slave", "rslave", "shared", "rshared"] {
        let (receives, sends) = (!kind.ends_with("private"), kind.ends_with("shared"));
        let bind = format!("{}:/m:{kind}", top.display());
        bed.docker(&[
            "run",
            "-d",
            "--name",
            kind,
            "--cap-add",
            "SYS_ADMIN",
            "--security-opt",
            "apparmor=unconfined",
            "-v",
            &bind,
            "busybox",
            "sleep",
            "1000",
        ])
        .ok();
        let exec = |script: &str| bed.docker(&["exec", kind, "sh", "-c", script]).ok();
        let late = top.join(format!("late-{kind}"));
        let mounted = Mounted::tmpfs(&late);
        fs::write(late.join("f"), "").unwrap();
        assert_eq!(
            exec(&format!("ls /m/late-{kind}")),
            if receives { "f" } else { "" },
            "{kind}: from the host"
        );
        exec(&format!("mkdir /m/back-{kind}; mount -t tmpfs tmpfs /m/back-{kind}; touch /m/back-{kind}/g"));
        assert_eq!(top.join(format!("back-{kind}/g")).exists(), sends, "{kind}: to the host");
        bed.docker(&["rm", "-f", kind]).ok();
        drop(mounted);
    }
    let private = bed.path().join("private");
    let own = Mounted::tmpfs(&private);
    Output::of(Command::new("mount").arg("--make-rprivate").arg(&private)).ok();
    for kind in ["shared", "rslave"] {
        let bind = format!("{}:/m:{kind}", private.display());
        let error = bed.docker(&["run", "--rm", "-v", &bind, "busybox", "true"]).fails(125);
        assert!(error.contains("but it is not a shared"), "{error}");
    }
    drop((own, outer));
    bed.finish();
}

#[test]
fn mounts_lie_on_one_another_and_on_whatever_is_there() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    // Nested, whatever the order in which they are given.
    let nested = [
        "--tmpfs",
        "/a/b/c:size=1m,mode=0711",
        "-v",
        "deep:/a/b",
        "--tmpfs",
        "/a:exec",
        "-v",
        "inside:/a/b/c/d",
    ];
    let look = "grep -o ' /a[^ ]* ' /proc/mounts | tr -d ' ' | sort; stat -c %a /a/b/c; df -k /a/b/c | tail -1 | awk '{print $2}'";
    assert_eq!(run(&bed, &nested, look), "/a\n/a/b\n/a/b/c\n/a/b/c/d\n711\n1024");
    // On a link, which leads where it leads in the container.
    run(&bed, &["-v", "deep:/var/run/x/y"], "touch /var/run/x/y/f");
    // Files, devices and sockets on files; labels of SELinux are accepted.
    run(&bed, &["-v", "/dev/null:/etc/os-release"], "[ -c /etc/os-release ]");
    run(&bed, &["-v", "deep:/z:z", "-v", "inside:/Z:Z"], "true");
    if bed.is_ours() {
        let host = bed.path().join("host");
        fs::create_dir(&host).unwrap();
        fs::write(host.join("file"), "of the host").unwrap();
        let _listener = UnixListener::bind(host.join("socket")).unwrap();
        let bind = |name: &str, target: &str| format!("{}:{target}", host.join(name).display());
        let options =
            [bind("file", "/etc/passwd"), bind("file", "/new/file"), bind("socket", "/run/some.sock")];
        let options: Vec<&str> = options.iter().flat_map(|option| ["-v", option]).collect();
        assert_eq!(
            run(&bed, &options, "cat /etc/passwd /new/file; [ -S /run/some.sock ] && echo socket"),
            "of the hostof the hostsocket"
        );
        let error = bed.docker(&["run", "--rm", "-v", &bind("file", "/etc"), "busybox", "true"]).fails(125);
        assert!(error.contains("a directory"), "{error}");
        // Only -v makes what is missing.
        run(&bed, &["-v", &bind("missing/dir", "/m")], "touch /m/f");
        assert!(host.join("missing/dir/f").exists());
        let mount = format!("type=bind,source={},target=/m", host.join("nothing").display());
        let error = bed.docker(&["run", "--rm", "--mount", &mount, "busybox", "true"]).fails(125);
        assert!(error.contains("bind source path does not exist"), "{error}");
        assert!(!host.join("nothing").exists());
        let asked = serde_json::json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": {"Mounts": [{
            "Type": "bind", "Source": host.join("nothing"), "Target": "/m", "BindOptions": {"CreateMountpoint": true}}]}});
        let made = bed.api("POST", "/containers/create?name=making", &asked.to_string());
        assert_eq!(made.status, 201, "{}", made.text());
        bed.docker(&["start", "-a", "making"]).ok();
        assert!(host.join("nothing").is_dir());
    }
    let tmpfs = ["--mount", "type=tmpfs,target=/t,tmpfs-size=2m,tmpfs-mode=1755"];
    assert_eq!(
        run(
            &bed,
            &tmpfs,
            "stat -c %a /t; df -k /t | tail -1 | awk '{print $2}'; grep -c ' /t .*nosuid.*noexec' /proc/mounts"
        ),
        "1755\n2048\n1"
    );
    for (options, words) in [
        (["-v", "deep:/x:bogus"], "invalid mode"),
        (["-v", "deep:relative"], "must be absolute"),
        (["-v", "deep:/"], "destination can't be '/'"),
        (["--tmpfs", "/t:bogus"], "invalid tmpfs option"),
    ] {
        let error = bed.docker(&["run", "--rm", options[0], options[1], "busybox", "true"]).fails(125);
        assert!(error.contains(words), "{options:?}: {error}");
    }
    let twice =
        bed.docker(&["run", "--rm", "-v", "deep:/x", "-v", "inside:/x", "busybox", "true"]).fails(125);
    assert!(twice.contains("Duplicate mount point: /x"), "{twice}");
    bed.docker(&["volume", "rm", "deep", "inside"]).ok();
    bed.finish();
}
