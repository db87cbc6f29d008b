// SPDX-License-Identifier: Apache-2.0
//! Volumes with options, of plugins, in part; images as mounts.

use std::fs;
use std::path::Path;

use berth_tests::harness::{Bed, until};

fn running(bed: &Bed, name: &str, options: &[&str]) {
    let mut args = vec!["run", "-d", "--name", name];
    args.extend_from_slice(options);
    args.extend(["busybox", "sleep", "1000"]);
    bed.docker(&args).ok();
}

fn exec(bed: &Bed, name: &str, script: &str) -> String {
    bed.docker(&["exec", name, "sh", "-c", script]).ok()
}

/// Lines of the host's mount table about a path.
fn mounted(path: &str) -> usize {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().filter(|line| line.split(' ').nth(4) == Some(path)).count()
}

#[test]
fn options_of_local_volumes_are_those_of_mount() {
    let mut bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let ram = ["-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,mode=750,uid=1000,noexec"];
    bed.docker(&[&["volume", "create"], &ram[..], &["ram"]].concat()).ok();
    let place = bed.docker(&["volume", "inspect", "-f", "{{.Mountpoint}}", "ram"]).ok();
    running(&bed, "one", &["-v", "ram:/ram"]);
    exec(&bed, "one", "echo shared > /ram/f");
    running(&bed, "two", &["-v", "ram:/ram:ro"]);
    assert_eq!(
        exec(&bed, "two", "cat /ram/f; stat -c '%a %u' /ram; touch /ram/g 2>&1 | grep -c Read-only"),
        "shared\n750 1000\n1"
    );
    let table = exec(&bed, "one", "grep ' /ram ' /proc/mounts");
    assert!(table.contains("noexec") && table.contains("size=1024k"), "{table}");
    if bed.is_ours() {
        // Mounted once, for both, and no more than they need it; a new daemon knows.
        assert_eq!(mounted(&place), 1);
        bed.kill_daemon();
        bed.start_daemon();
        assert_eq!(mounted(&place), 1);
    }
    bed.docker(&["kill", "one"]).ok();
    bed.docker(&["wait", "one"]).ok();
    assert_eq!(exec(&bed, "two", "cat /ram/f"), "shared");
    bed.docker(&["start", "one"]).ok();
    assert_eq!(exec(&bed, "one", "cat /ram/f"), "shared");
    bed.docker(&["rm", "-f", "one", "two"]).ok();
    if bed.is_ours() {
        until("the volume is unmounted", || (mounted(&place) == 0).then_some(()));
    }
    // Content of memory went with its last user; a copy into a stopped container mounts it for the time of the copy.
    bed.docker(&["create", "--name", "cold", "-v", "ram:/ram", "busybox", "sleep", "1000"]).ok();
    bed.docker(&["cp", "/etc/hosts", "cold:/ram/h"]).ok();
    bed.docker(&["start", "cold"]).ok();
    assert_eq!(exec(&bed, "cold", "ls /ram"), "");
    bed.docker(&["rm", "-f", "cold"]).ok();
    bed.docker(&["volume", "rm", "ram"]).ok();

    // A directory of the host, read-only. The reference engine has a host of its own.
    let host = bed.path().join("device");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("f"), "of the host").unwrap();
    let device = format!("device={}", host.display());
    if bed.is_ours() {
        bed.docker(&["volume", "create", "-o", "type=none", "-o", "o=bind,ro", "-o", &device, "fixed"]).ok();
        let look = "cat /x/f; touch /x/g 2>&1 | grep -c Read-only";
        assert_eq!(
            bed.docker(&["run", "--rm", "-v", "fixed:/x", "busybox", "sh", "-c", look]).ok(),
            "of the host1"
        );
        bed.docker(&["volume", "rm", "fixed"]).ok();
    }
    assert!(host.join("f").exists());

    let refused = |options: &[&str], words: &str| {
        let error = bed.docker(&[&["volume", "create"], options, &["bad"]].concat()).fails(1);
        assert!(error.contains(words), "{options:?}: {error}");
    };
    refused(&["-o", "foo=bar"], "invalid option: \"foo\"");
    refused(&["-o", "o=size=1m"], "missing required option");
    refused(&["-o", "type=tmpfs"], "missing required option: \"device\"");
    refused(&["-o", "size=10m"], "quota");
    refused(&["-d", "nobody-has-this"], "plugin \"nobody-has-this\" not found");
    // What cannot be mounted is a failure of the start, and says what of.
    bed.docker(&["volume", "create", "-o", "type=nosuchfs", "-o", "device=x", "none"]).ok();
    let error = bed.docker(&["run", "--rm", "-v", "none:/x", "busybox", "true"]).fails(125);
    assert!(error.contains("failed to mount local volume"), "{error}");
    bed.docker(&["volume", "rm", "none"]).ok();
    bed.finish();
}

#[test]
fn volumes_are_filled_shared_kept_and_removed() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    // Filled from the image on first use, and not again; not at all when told so.
    let count = |name: &str| exec(&bed, name, "ls /etc | wc -l").trim().parse::<u32>().unwrap();
    running(&bed, "full", &["-v", "full:/etc"]);
    let files = count("full");
    assert!(files > 3, "{files}");
    running(&bed, "none", &["-v", "empty:/etc:nocopy"]);
    assert!(count("none") < files, "only what the engine mounts");
    exec(&bed, "full", "touch /etc/mine");
    running(&bed, "again", &["--mount", "type=volume,source=full,target=/etc"]);
    assert_eq!(count("again"), files + 1);
    // Volumes of another container, read-only if asked.
    running(&bed, "donor", &["-v", "/anon", "-v", "named:/named"]);
    exec(&bed, "donor", "echo a > /anon/f; echo n > /named/f");
    running(&bed, "heir", &["--volumes-from", "donor:ro"]);
    assert_eq!(
        exec(&bed, "heir", "cat /anon/f /named/f; touch /named/g 2>&1 | grep -c Read-only"),
        "a\nn\n1"
    );
    let modes = "{{range .Mounts}}{{.Destination}}={{.Mode}}/{{.RW}} {{end}}";
    let shown = |name: &str| -> Vec<String> {
        let mut shown: Vec<_> =
            bed.docker(&["inspect", "-f", modes, name]).ok().split_whitespace().map(str::to_owned).collect();
        shown.sort();
        shown
    };
    assert_eq!(shown("donor"), ["/anon=/true", "/named=z/true"]);
    // In use, also by a container that does not run.
    bed.docker(&["kill", "donor"]).ok();
    let error = bed.docker(&["volume", "rm", "named"]).fails(1);
    assert!(error.contains("volume is in use"), "{error}");
    let anonymous =
        || bed.docker(&["volume", "ls", "-q", "--filter", "label=com.docker.volume.anonymous"]).ok();
    assert_eq!(anonymous().lines().count(), 1);
    // The heir keeps what the donor leaves with -v.
    bed.docker(&["rm", "-v", "donor"]).ok();
    assert_eq!(exec(&bed, "heir", "cat /anon/f"), "a");
    bed.docker(&["rm", "-f", "-v", "heir"]).ok();
    if bed.is_ours() {
        // The reference forgets what `--volumes-from` took over.
        assert_eq!(anonymous(), "");
    }
    bed.docker(&["volume", "inspect", "named"]).ok();
    bed.docker(&["run", "--rm", "-v", "/gone", "busybox", "true"]).ok();
    if bed.is_ours() {
        until("the volume goes with its container", || anonymous().is_empty().then_some(()));
    }
    bed.docker(&["rm", "-f", "full", "none", "again"]).ok();
    let usage = bed.api("GET", "/system/df?type=volume", "").json();
    let size = |name: &str| {
        let volumes = usage["Volumes"].as_array().unwrap();
        volumes.iter().find(|v| v["Name"] == name).unwrap()["UsageData"]["Size"].as_i64().unwrap()
    };
    assert!(size("full") > size("named"), "{usage}");
    for filter in ["dangling=true", "driver=local", "name=nam"] {
        let listed = bed.docker(&["volume", "ls", "-q", "--filter", filter]).ok();
        assert!(listed.lines().any(|name| name == "named"), "{filter}: {listed}");
    }
    bed.docker(&["volume", "prune", "-f", "-a"]).ok();
    let left = bed.docker(&["volume", "ls", "-q"]).ok();
    assert!(left.lines().all(|name| !["full", "empty", "named"].contains(&name)), "{left}");
    bed.finish();
}

#[test]
fn parts_of_volumes_are_mounted_and_never_lead_out() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    running(&bed, "maker", &["-v", "parts:/all"]);
    exec(
        &bed,
        "maker",
        "mkdir -p /all/a/b; echo deep > /all/a/b/f; ln -s a/b /all/inside; ln -s /etc /all/out; ln -s ../.. /all/up",
    );
    let mount = |subpath: &str| format!("type=volume,source=parts,target=/part,volume-subpath={subpath}");
    let run = |subpath: &str, command: &[&str]| {
        bed.docker(&[&["run", "--rm", "--mount", &mount(subpath), "busybox"], command].concat())
    };
    assert_eq!(run("a", &["cat", "/part/b/f"]).ok(), "deep");
    assert_eq!(run("a/b/f", &["cat", "/part"]).ok(), "deep");
    assert_eq!(run("inside", &["cat", "/part/f"]).ok(), "deep");
    run("a/b", &["sh", "-c", "echo more > /part/g"]).ok();
    assert_eq!(exec(&bed, "maker", "cat /all/a/b/g"), "more");
    for (bad, words) in [("nothing", "no such file or directory"), ("out", "escapes"), ("up", "escapes")] {
        let failed = run(bad, &["true"]);
        // The command line takes some of the words for those of a missing command (127).
        assert!([125, 127].contains(&failed.code), "{bad}: {failed:?}");
        let as_theirs = !bed.is_ours() && failed.stderr.contains("cannot access path");
        assert!(failed.stderr.contains(words) || as_theirs, "{bad}: {failed:?}");
    }
    for bad in ["/etc", "../x"] {
        let error = run(bad, &["true"]).fails(125);
        assert!(error.contains("relative path"), "{bad}: {error}");
    }
    // Seen from outside as from inside, running or not.
    let copied = |name: &str| {
        let to = bed.path().join("copied");
        bed.docker(&["cp", &format!("{name}:/part/f"), to.to_str().unwrap()]).ok();
        fs::read_to_string(to).unwrap()
    };
    bed.docker(&["create", "--name", "cold", "--mount", &mount("a/b"), "busybox", "sleep", "1000"]).ok();
    assert_eq!(copied("cold"), "deep\n");
    bed.docker(&["start", "cold"]).ok();
    assert_eq!(copied("cold"), "deep\n");
    bed.docker(&["restart", "-t", "0", "cold"]).ok();
    assert_eq!(exec(&bed, "cold", "cat /part/f"), "deep");
    bed.docker(&["rm", "-f", "cold", "maker"]).ok();
    bed.docker(&["volume", "rm", "parts"]).ok();
    bed.finish();
}

#[test]
fn an_image_is_a_read_only_mount() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    bed.docker(&[
        "run",
        "--name",
        "made",
        "busybox",
        "sh",
        "-c",
        "mkdir -p /data/sub; echo v1 > /data/sub/f; rm /etc/os-release",
    ])
    .ok();
    bed.docker(&["commit", "made", "content:v1"]).ok();
    bed.docker(&["rm", "made"]).ok();
    let whole = "type=image,source=content:v1,target=/img";
    let look = "cat /img/data/sub/f; ls /img/etc/os-release 2>/dev/null; touch /img/x 2>&1 | grep -c Read-only; cat /proc/mounts | grep -c ' /img '";
    let seen = bed.docker(&["run", "--rm", "--mount", whole, "busybox", "sh", "-c", look]);
    assert_eq!(seen.ok(), "v1\n1\n1");
    let part = "type=image,source=content:v1,target=/img,image-subpath=data/sub";
    bed.docker(&["create", "--name", "cold", "--mount", part, "busybox", "sleep", "1000"]).ok();
    let to = bed.path().join("copied");
    if bed.is_ours() {
        bed.docker(&["cp", "cold:/img/f", to.to_str().unwrap()]).ok();
        assert_eq!(fs::read_to_string(&to).unwrap(), "v1\n");
        assert!(bed.docker(&["cp", to.to_str().unwrap(), "cold:/img/g"]).fails(1).contains("read-only"));
    }
    bed.docker(&["start", "cold"]).ok();
    assert_eq!(exec(&bed, "cold", "cat /img/f"), "v1");
    let shown = bed
        .docker(&["inspect", "-f", "{{range .Mounts}}{{.Type}} {{.Name}} {{.Destination}}{{end}}", "cold"])
        .ok();
    assert!(shown.starts_with("image ") && shown.ends_with(" /img"), "{shown}");
    if bed.is_ours() {
        // Nothing of it is in the host's table, and the image stays as long as the container.
        assert!(
            !fs::read_to_string("/proc/self/mountinfo")
                .unwrap()
                .contains(&format!("{}", bed.exec_root().join("containers").display()))
        );
        let error = bed.docker(&["rmi", "content:v1"]).fails(1);
        assert!(error.contains("using"), "{error}");
    }
    let error = bed
        .docker(&["run", "--rm", "--mount", "type=image,source=nobody:has,target=/img", "busybox", "true"])
        .fails(125);
    assert!(
        error.contains("No such image") || error.contains("not found") || error.contains("no such image"),
        "{error}"
    );
    bed.docker(&["rm", "-f", "cold"]).ok();
    bed.docker(&["rmi", "content:v1"]).ok();
    bed.finish();
}

#[test]
fn a_removed_volume_frees_its_place_for_another() {
    let bed = Bed::start();
    let create = |name: &str, label: &str| bed.docker(&["volume", "create", "--label", label, name]).ok();
    assert_eq!(create("again", "n=1"), "again");
    assert_eq!(create("again", "n=2"), "again");
    let label = || bed.docker(&["volume", "inspect", "-f", "{{.Labels.n}}", "again"]).ok();
    assert_eq!(label(), "1", "what is there stays as it is");
    let place = bed.docker(&["volume", "inspect", "-f", "{{.Mountpoint}}", "again"]).ok();
    bed.docker(&["volume", "rm", "again"]).ok();
    assert!(!bed.is_ours() || !Path::new(&place).exists());
    create("again", "n=3");
    assert_eq!(label(), "3");
    bed.docker(&["volume", "rm", "again"]).ok();
    assert!(bed.docker(&["volume", "inspect", "again"]).fails(1).contains("no such volume"));
    bed.docker(&["volume", "rm", "-f", "again"]).ok();
    bed.finish();
}
