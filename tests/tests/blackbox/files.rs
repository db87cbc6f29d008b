// SPDX-License-Identifier: Apache-2.0
//! Containers' files from outside: copied in and out, compared with the image, exported.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use berth_tests::harness::Bed;

const SLEEP: [&str; 3] = ["busybox", "sleep", "1000"];

fn running(bed: &Bed, name: &str, options: &[&str]) {
    let mut args = vec!["run", "-d", "--name", name];
    args.extend_from_slice(options);
    args.extend_from_slice(&SLEEP);
    bed.docker(&args).ok();
}

fn tar(dir: &Path, more: &[&str]) -> Vec<u8> {
    let out = Command::new("tar").arg("-C").arg(dir).arg("-c").args(more).output().expect("tar");
    assert!(out.status.success(), "{out:?}");
    out.stdout
}

fn put(bed: &Bed, name: &str, query: &str, body: &[u8]) -> (u16, String) {
    let path = format!("/containers/{name}/archive?{query}");
    let response = bed.api_with("PUT", &path, &[("Content-Type", "text/plain")], body);
    let message = if response.status == 200 { String::new() } else { response.message() };
    (response.status, message)
}

/// The described path of a HEAD.
fn stat(bed: &Bed, name: &str, path: &str) -> serde_json::Value {
    let response = bed.api("HEAD", &format!("/containers/{name}/archive?path={path}"), "");
    assert_eq!(response.status, 200, "{path}");
    let header = response.header("X-Docker-Container-Path-Stat").expect("the header").to_owned();
    let mut child =
        Command::new("base64").arg("-d").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(header.as_bytes()).unwrap();
    serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap()
}

/// Both ways, for a container in whichever state.
fn check_copies(bed: &Bed, name: &str, state: &str) {
    let here = bed.path().join(format!("copies-{state}"));
    let tree = here.join("tree");
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::write(tree.join("sub/f"), "content\n").unwrap();
    fs::write(tree.join("big"), vec![b'x'; 3_000_000]).unwrap();
    symlink("sub/f", tree.join("link")).unwrap();
    let at = |path: &str| format!("{name}:{path}");
    let text = |path: &Path| path.to_str().unwrap().to_owned();

    bed.docker(&["cp", &text(&tree), &at("/tmp")]).ok();
    bed.docker(&["cp", &at("/tmp/tree"), &text(&here.join("back"))]).ok();
    assert_eq!(fs::read_to_string(here.join("back/sub/f")).unwrap(), "content\n");
    assert_eq!(fs::metadata(here.join("back/big")).unwrap().len(), 3_000_000);
    assert_eq!(fs::read_link(here.join("back/link")).unwrap(), Path::new("sub/f"));
    // Contents only, into a directory that is there; a file under another name; through a link.
    bed.docker(&["cp", &format!("{}/.", text(&tree.join("sub"))), &at("/var")]).ok();
    bed.docker(&["cp", &at("/var/f"), &text(&here.join("renamed"))]).ok();
    assert_eq!(fs::read_to_string(here.join("renamed")).unwrap(), "content\n");
    bed.docker(&["cp", "-L", &at("/tmp/tree/link"), &text(&here.join("followed"))]).ok();
    assert_eq!(fs::read_to_string(here.join("followed")).unwrap(), "content\n");
    // A volume's content, which is in no layer.
    bed.docker(&["cp", &text(&here.join("renamed")), &at("/vol/in")]).ok();
    bed.docker(&["cp", &at("/vol/in"), &text(&here.join("out"))]).ok();
    assert_eq!(fs::read_to_string(here.join("out")).unwrap(), "content\n");
    let refused = bed.docker(&["cp", &text(&here.join("renamed")), &at("/fixed/in")]).fails(1);
    assert!(refused.contains("read-only"), "{refused}");
}

#[test]
fn files_go_in_and_out_of_running_and_stopped_containers() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    bed.docker(&["volume", "create", "fixed"]).ok();
    let volumes = ["-v", "/vol", "-v", "fixed:/fixed:ro"];
    running(&bed, "up", &volumes);
    let mut create = vec!["create", "--name", "made"];
    create.extend_from_slice(&volumes);
    create.extend_from_slice(&SLEEP);
    bed.docker(&create).ok();
    check_copies(&bed, "up", "running");
    check_copies(&bed, "made", "created");
    bed.docker(&["kill", "up"]).ok();
    bed.docker(&["wait", "up"]).ok();
    check_copies(&bed, "up", "exited");
    // What was copied in while it was not running is there when it runs.
    bed.docker(&["start", "made"]).ok();
    assert_eq!(bed.docker(&["exec", "made", "cat", "/var/f", "/vol/in"]).ok(), "content\ncontent");
    bed.docker(&["rm", "-f", "-v", "up", "made"]).ok();
    bed.docker(&["volume", "rm", "fixed"]).ok();
    bed.finish();
}

#[test]
fn paths_are_described_and_refused_as_the_reference_does() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    running(&bed, "g1", &[]);
    bed.docker(&[
        "exec",
        "g1",
        "sh",
        "-c",
        "ln -s /var/../etc/passwd /l; ln -s nowhere /d; mkfifo /p; mkdir -m 1777 /s",
    ])
    .ok();
    for (method, body) in [("GET", &b""[..]), ("PUT", b"x")] {
        let response = bed.api_with(method, "/containers/g1/archive?path=/nope", &[], body);
        let answer = (response.status, response.message());
        assert_eq!(answer, (404, "Could not find the file /nope in container g1".into()), "{method}");
    }
    assert_eq!(bed.api("HEAD", "/containers/g1/archive?path=/nope", "").status, 404);
    assert_eq!(
        bed.api("GET", "/containers/nobody/archive?path=/", "").message(),
        "No such container: nobody"
    );
    let file = stat(&bed, "g1", "/etc/passwd");
    assert_eq!(
        (&file["name"], &file["mode"], &file["linkTarget"]),
        (&"passwd".into(), &0o644.into(), &"".into())
    );
    let link = stat(&bed, "g1", "/l");
    assert_eq!((&link["mode"], &link["linkTarget"]), (&(1u32 << 27 | 0o777).into(), &"/etc/passwd".into()));
    assert_eq!(stat(&bed, "g1", "/d")["linkTarget"], "/nowhere");
    assert_eq!(stat(&bed, "g1", "/s/")["mode"], 1u32 << 31 | 1 << 20 | 0o777);
    // A pipe is not waited for.
    assert_eq!(stat(&bed, "g1", "/p")["mode"], 1u32 << 25 | 0o644);
    let listed = bed.api("GET", "/containers/g1/archive?path=/p", "");
    // One header, and here one more with the nanoseconds of its time.
    assert!(listed.status == 200 && [1536, 2560].contains(&listed.body.len()), "{}", listed.body.len());
    assert_eq!(put(&bed, "g1", "path=/etc/passwd", b"").1, "extraction point is not a directory");
    // The kernel's own files are no part of an archive of everything.
    let all = bed.api("GET", "/containers/g1/archive?path=/", "");
    assert!(all.status == 200 && all.body.len() < 100 << 20);
    bed.finish();
}

#[test]
fn archives_keep_to_their_directory_whatever_they_say() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    running(&bed, "cc", &[]);
    let dir = bed.path().join("hostile");
    let canary = dir.join("canary");
    fs::create_dir_all(&canary).unwrap();
    fs::write(canary.join("file"), "untouched").unwrap();
    fs::write(dir.join("victim"), "evil").unwrap();
    let more = |transform: &str| tar(&dir, &["-P", &format!("--transform={transform}"), "victim"]);
    let (status, message) = put(&bed, "cc", "path=/tmp", &more("s,victim,../../victim,"));
    // The reference takes it for a failure of its own.
    assert!(
        (status == 400 && message.contains("leads out"))
            || (!bed.is_ours() && status == 500 && message.contains("invalid entry name")),
        "{status} {message}"
    );
    assert_eq!(put(&bed, "cc", "path=/tmp", &more("s,victim,/abs/victim,")).0, 200);
    assert_eq!(bed.docker(&["exec", "cc", "cat", "/tmp/abs/victim"]).ok(), "evil");
    // A link in the container to a directory of the host leads to the container's own.
    let host = canary.to_str().unwrap();
    bed.docker(&["exec", "cc", "sh", "-c", &format!("mkdir -p /tmp/x {host}; ln -s {host} /tmp/x/out")]).ok();
    assert_eq!(put(&bed, "cc", "path=/tmp/x", &more("s,victim,out/file,")).0, 200);
    assert_eq!(put(&bed, "cc", "path=/tmp/x/out", &more("s,victim,file2,")).0, 200);
    assert_eq!(
        bed.docker(&["exec", "cc", "cat", &format!("{host}/file"), &format!("{host}/file2")]).ok(),
        "evilevil"
    );
    assert_eq!(fs::read_to_string(canary.join("file")).unwrap(), "untouched");
    assert_eq!(fs::read_dir(&canary).unwrap().count(), 1);
    // Kinds are kept when that is asked for, and replaced otherwise.
    let keep = "path=/tmp&noOverwriteDirNonDir=true";
    let (status, message) = put(&bed, "cc", keep, &more("s,victim,x,"));
    assert!(status == 400 && message.contains("cannot overwrite directory"), "{message}");
    assert_eq!(put(&bed, "cc", "path=/tmp", &more("s,victim,x,")).0, 200);
    assert_eq!(bed.docker(&["exec", "cc", "cat", "/tmp/x"]).ok(), "evil");
    // Not an archive; one that is cut off.
    assert_eq!(put(&bed, "cc", "path=/tmp", &[b'x'; 1024]).0, 400);
    let whole = more("s,victim,whole,");
    assert_eq!(put(&bed, "cc", "path=/tmp", &whole[..514]).0, 400);
    bed.finish();
}

#[test]
fn packed_archives_are_unpacked_by_no_program() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    // Whoever ran one of these in the container's root, or as the host, would leave a mark.
    let script = "for p in xz gzip unpigz zstd; do printf '#!/bin/sh\\necho ran > /marker\\n' > /usr/local/bin/$p; done;
        chmod 755 /usr/local/bin/*; exec sleep 1000";
    bed.docker(&[
        "run",
        "-d",
        "--name",
        "zz",
        "busybox",
        "sh",
        "-c",
        &format!("mkdir -p /usr/local/bin; {script}"),
    ])
    .ok();
    bed.docker(&["exec", "zz", "sh", "-c", "while [ ! -x /usr/local/bin/zstd ]; do :; done"]).ok();
    let dir = bed.path().join("packed");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("f"), "packed\n").unwrap();
    for flag in ["-z", "-j", "-J", "--zstd"] {
        if flag == "-J" && !bed.is_ours() {
            // The reference runs a program for it, which its machine may not have.
            continue;
        }
        let name = format!("f{flag}");
        fs::write(dir.join(&name), flag).unwrap();
        assert_eq!(
            put(&bed, "zz", "path=/tmp", &tar(&dir, &[flag, &format!("./{name}")])),
            (200, String::new()),
            "{flag}"
        );
        assert_eq!(bed.docker(&["exec", "zz", "cat", &format!("/tmp/{name}")]).ok(), flag);
    }
    // The reference runs the host's xz, whose failure it takes for its own (500).
    for garbage in [
        &b"\xfd7zXZ\0"[..],
        b"\xfd7zXZ\0garbage",
        b"\x1f\x8bgarbage",
        b"BZh9garbage",
        b"\x28\xb5\x2f\xfdgarbage",
    ] {
        let status = put(&bed, "zz", "path=/tmp", garbage).0;
        assert!(status == 400 || (!bed.is_ours() && status == 500), "{garbage:?}: {status}");
    }
    bed.docker(&["exec", "zz", "test", "-e", "/marker"]).fails(1);
    bed.finish();
}

#[test]
fn owners_are_the_archives_or_the_containers_user() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    running(&bed, "oo", &["-u", "app"]);
    let dir = bed.path().join("owned");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("f"), "x").unwrap();
    let archive = tar(&dir, &["--owner=:1234", "--group=:4321", "f"]);
    let owner = || bed.docker(&["exec", "oo", "stat", "-c", "%u:%g", "/tmp/f"]).ok();
    assert_eq!(put(&bed, "oo", "path=/tmp", &archive).0, 200);
    assert_eq!(owner(), "1234:4321");
    assert_eq!(put(&bed, "oo", "path=/tmp&copyUIDGID=1", &archive).0, 200);
    assert_eq!(owner(), "1000:1000");
    bed.finish();
}

/// A container swaps a directory for a link to the host's root and back, as fast as it can, while its files are read and written.
#[test]
fn a_swapped_directory_never_leads_to_the_host() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let canary = bed.path().join("host-canary");
    fs::create_dir_all(&canary).unwrap();
    fs::write(canary.join("secret"), "of the host").unwrap();
    let before = fs::metadata(canary.join("secret")).unwrap();
    let host = canary.to_str().unwrap().to_owned();
    let script = format!(
        "mkdir -p /w/real{host}; echo inside > /w/real{host}/secret; ln -s / /w/link; mkdir -p {host}; \
         echo inside > {host}/secret; cp -a /w/link /w/swap; echo ready; \
         while :; do mv -T /w/swap /w/l; mv -T /w/real /w/swap; mv -T /w/swap /w/real; mv -T /w/l /w/swap; done"
    );
    bed.docker(&["run", "-d", "--name", "race", "busybox", "sh", "-c", &script]).ok();
    bed.docker(&["exec", "race", "sh", "-c", "while [ ! -e /w/link ]; do :; done"]).ok();
    let dir = bed.path().join("race");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("new"), "from the archive").unwrap();
    let archive = tar(&dir, &["new"]);
    let mut seen = 0;
    for _ in 0..300 {
        let path = format!("/containers/race/archive?path=/w/swap{host}/secret");
        let got = bed.api("GET", &path, "");
        assert!([200, 404].contains(&got.status), "{}", got.text());
        assert!(!got.text().contains("of the host"), "the host's file was read");
        seen += u32::from(got.status == 200);
        let head = bed.api("HEAD", &path, "");
        assert!([200, 404].contains(&head.status), "{}", head.status);
        let (status, message) = put(&bed, "race", &format!("path=/w/swap{host}"), &archive);
        assert!([200, 400, 404, 500].contains(&status), "{status} {message}");
    }
    assert!(seen > 0, "the container's own file was never found");
    let after = fs::metadata(canary.join("secret")).unwrap();
    assert_eq!((before.mtime_nsec(), before.ctime_nsec()), (after.mtime_nsec(), after.ctime_nsec()));
    assert_eq!(fs::read_dir(&canary).unwrap().count(), 1, "something was written to the host");
    bed.finish();
}

#[test]
fn changes_and_export_show_what_the_container_made() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let script =
        "echo x > /etc/new; rm /etc/os-release; echo more >> /etc/group; mkdir -p /a/b; touch /a/b/c;
        rm -r /home/app; mkdir /home/app";
    bed.docker(&["run", "--name", "dd", "-v", "/data", "busybox", "sh", "-c", script]).ok();
    let diff = bed.docker(&["diff", "dd"]).ok();
    let mut lines: Vec<&str> = diff.lines().collect();
    lines.sort_by_key(|line| line.split_at(2).1);
    let expected = [
        "A /a",
        "A /a/b",
        "A /a/b/c",
        "A /data",
        "C /etc",
        "C /etc/group",
        "A /etc/new",
        "D /etc/os-release",
    ];
    assert_eq!(lines, expected);
    bed.docker(&["create", "--name", "untouched", "busybox"]).ok();
    assert_eq!(bed.api("GET", "/containers/untouched/changes", "").text().trim(), "null");

    let archive = bed.path().join("export.tar");
    bed.docker(&["export", "-o", archive.to_str().unwrap(), "dd"]).ok();
    let list = Command::new("tar").arg("-tf").arg(&archive).output().unwrap();
    assert!(list.status.success());
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let has = |name: &str| list.lines().any(|line| line == name);
    assert!(has("etc/new") && has("a/b/c") && has("usr/bin/busybox") && !has("etc/os-release"), "{list}");
    bed.docker(&["rm", "-v", "dd"]).ok();
    bed.finish();
}

#[test]
fn stats_have_the_references_shape() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    running(&bed, "ss", &["-m", "64m"]);
    bed.docker(&["create", "--name", "off", "busybox"]).ok();
    let get =
        |name: &str, query: &str| bed.api("GET", &format!("/containers/{name}/stats?{query}"), "").json();
    let once = get("ss", "stream=0&one-shot=1");
    assert_eq!(
        (&once["preread"], &once["memory_stats"]["limit"]),
        (&"0001-01-01T00:00:00Z".into(), &67_108_864.into())
    );
    assert!(once["memory_stats"]["usage"].as_u64() > Some(0) && once["memory_stats"]["stats"].is_object());
    assert!(once["cpu_stats"]["cpu_usage"]["total_usage"].as_u64() > Some(0));
    assert!(
        once["cpu_stats"]["system_cpu_usage"].as_u64() > Some(0)
            && once["cpu_stats"]["online_cpus"].as_u64() > Some(0)
    );
    assert_eq!(once["pids_stats"]["current"], 1);
    assert!(once["networks"]["eth0"]["rx_bytes"].is_u64(), "{once}");
    let pair = get("ss", "stream=0");
    assert_eq!(pair["name"], "/ss");
    assert!(
        pair["precpu_stats"]["system_cpu_usage"].as_u64() < pair["cpu_stats"]["system_cpu_usage"].as_u64()
    );
    let id = bed.docker(&["inspect", "-f", "{{.Id}}", "off"]).ok();
    let zeroed = format!(
        r#"{{"name":"/off","id":"{id}","read":"0001-01-01T00:00:00Z","preread":"0001-01-01T00:00:00Z","pids_stats":{{}},"blkio_stats":{{"io_service_bytes_recursive":null,"io_serviced_recursive":null,"io_queue_recursive":null,"io_service_time_recursive":null,"io_wait_time_recursive":null,"io_merged_recursive":null,"io_time_recursive":null,"sectors_recursive":null}},"num_procs":0,"storage_stats":{{}},"cpu_stats":{{"cpu_usage":{{"total_usage":0,"usage_in_kernelmode":0,"usage_in_usermode":0}},"throttling_data":{{"periods":0,"throttled_periods":0,"throttled_time":0}}}},"precpu_stats":{{"cpu_usage":{{"total_usage":0,"usage_in_kernelmode":0,"usage_in_usermode":0}},"throttling_data":{{"periods":0,"throttled_periods":0,"throttled_time":0}}}},"memory_stats":{{}}}}"#
    );
    assert_eq!(bed.api("GET", "/containers/off/stats?stream=0", "").text().trim(), zeroed);
    let table =
        bed.docker(&["stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}} {{.PIDs}}", "ss"]).ok();
    assert!(table.starts_with("ss ") && table.contains("/ 64MiB 1"), "{table}");
    bed.finish();
}
