// SPDX-License-Identifier: Apache-2.0
//! Devices by name: what vendors' CDI files say of them is done to the container.

use std::path::{Path, PathBuf};

use berth_tests::harness::{Bed, Options};
use serde_json::json;

/// The engine's root directory as this process sees it: the reference of `make test-reference` has one of its own.
fn root_of_engine() -> PathBuf {
    let Some(target) = std::env::var_os("BERTH_TEST_TARGET") else { return PathBuf::from("/") };
    let socket = target.into_string().unwrap().trim_start_matches("unix://").to_owned();
    let stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    let peer = rustix::net::sockopt::socket_peercred(&stream).unwrap();
    PathBuf::from(format!("/proc/{}/root", peer.pid.as_raw_nonzero()))
}

/// A directory that the engine reads, and what is in it while this lives.
struct Specs {
    root: PathBuf,
    /// As the engine sees them: the directory of spec files, and one for whatever else.
    at: PathBuf,
    dir: PathBuf,
    mine: Vec<PathBuf>,
}

impl Specs {
    fn new(test: &str) -> Self {
        let root = root_of_engine();
        let dir = PathBuf::from(format!("/var/tmp/berth-cdi-{test}-{}", std::process::id()));
        // The reference was started by others, with the usual directories.
        let shared = std::env::var_os("BERTH_TEST_TARGET").is_some();
        let at = if shared { PathBuf::from("/etc/cdi") } else { dir.join("cdi") };
        let specs = Self { root, at, dir, mine: Vec::new() };
        std::fs::create_dir_all(specs.seen(&specs.at)).unwrap();
        std::fs::create_dir_all(specs.seen(&specs.dir)).unwrap();
        specs
    }

    /// A path of the engine's as this process sees it.
    fn seen(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap())
    }

    fn bed(&self) -> Bed {
        let flags = vec!["--cdi-spec-dir".to_owned(), self.at.display().to_string()];
        let bed = Bed::with(Options { flags, ..Options::default() });
        bed.docker(&["pull", "busybox"]).ok();
        bed
    }

    fn write(&mut self, name: &str, text: &str) {
        let path = self.seen(&self.at.join(name));
        std::fs::write(&path, text).unwrap();
        self.mine.push(path);
    }

    fn scratch(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Drop for Specs {
    fn drop(&mut self) {
        for path in &self.mine {
            drop(std::fs::remove_file(path));
        }
        drop(std::fs::remove_dir_all(self.seen(&self.dir)));
    }
}

/// A hook that appends the state's status and what else it is told to do to a file.
fn hook(moment: &str, file: &Path, more: &str) -> String {
    let script = format!(
        "(sed 's/.*\"status\":\"\\([a-z]*\\)\".*/{moment} \\1/'; echo) >> {}; {more}",
        file.display()
    );
    let args = serde_json::to_string(&["sh", "-c", &script]).unwrap();
    format!("{{hookName: {moment}, path: /bin/sh, args: {args}, env: [\"PATH=/usr/bin:/bin\"]}}")
}

#[test]
fn a_device_is_what_its_file_says() {
    let mut specs = Specs::new("device");
    let (said, file) = (specs.scratch("said"), specs.scratch("file"));
    std::fs::write(specs.seen(&file), "from the host").unwrap();
    let hooks = [
        hook("createRuntime", &said, "true"),
        // It sees the container's root as its working directory.
        hook("createContainer", &said, "echo linked > made-by-hook"),
        hook("poststop", &said, "true"),
    ];
    specs.write(
        "berth-test-devices.yaml",
        &format!(
            "---
cdiVersion: 0.7.0
kind: berth.test/thing
containerEdits:
  env: [OF_ALL=1]
devices:
  - name: one
    containerEdits:
      env: [OF_ONE=2]
      additionalGids: [4242]
      deviceNodes:
        - {{path: /dev/nothing, hostPath: /dev/null, fileMode: 438}}
        - {{path: /dev/messages, hostPath: /dev/kmsg, permissions: r}}
      mounts:
        - {{hostPath: {file}, containerPath: /opt/file, options: [ro, nosuid, bind]}}
      hooks: [{hooks}]
  - name: two
    containerEdits:
      env: [OF_TWO=3]
",
            file = file.display(),
            hooks = hooks.join(", "),
        ),
    );
    let bed = specs.bed();
    let script = "env | grep ^OF_; stat -c '%t:%T %a' /dev/nothing; echo x > /dev/nothing && echo written;
        cat /opt/file; echo; cat /made-by-hook; id -G; (echo x > /dev/messages) 2>&1 | sed 's/.*: //'; echo x > /opt/file";
    let out = bed.docker(&[
        "run",
        "--name",
        "box",
        "--device",
        "berth.test/thing=one",
        "--user",
        "0:0",
        "busybox",
        "sh",
        "-c",
        script,
    ]);
    let lines: Vec<&str> = out.stdout.lines().collect();
    assert_eq!(
        lines,
        [
            "OF_ALL=1",
            "OF_ONE=2",
            "1:3 666",
            "written",
            "from the host",
            "linked",
            lines.get(6).copied().unwrap_or_default(),
            "Operation not permitted",
        ],
        "{out:?}"
    );
    assert!(lines[6].split(' ').any(|gid| gid == "4242"), "{out:?}");
    assert!(out.stderr.contains("Read-only file system"), "{out:?}");
    let told = || std::fs::read_to_string(specs.seen(&said)).unwrap_or_default();
    berth_tests::harness::until("the last hook has run", || {
        told().ends_with("poststop stopped\n").then_some(())
    });
    assert_eq!(told(), "createRuntime creating\ncreateContainer creating\npoststop stopped\n");
    // What an exec gets is the container's own: Docker gives it no variables of devices.
    let inspect = bed.api("GET", "/containers/box/json", "").json();
    let request = &inspect["HostConfig"]["DeviceRequests"][0];
    assert_eq!(request["Driver"], "cdi");
    assert_eq!(request["DeviceIDs"], json!(["berth.test/thing=one"]));

    // Found anew at each start.
    let both = ["--device", "berth.test/thing=one", "--device", "berth.test/thing=two"];
    let run = [&["run", "--rm"][..], &both, &["busybox", "sh", "-c", "env | grep -c ^OF_"]].concat();
    assert_eq!(bed.docker(&run).ok(), "3");
    let told =
        bed.docker(&["run", "--name", "bad", "--device", "berth.test/thing=ten", "busybox"]).fails(125);
    let words = "CDI device injection failed: unresolvable CDI devices berth.test/thing=ten";
    assert!(told.contains(words), "{told}");
    let start = bed.api("POST", "/containers/bad/start", "");
    assert_eq!((start.status, start.message()), (500, words.to_owned()));
    let info = bed.api("GET", "/info", "").json();
    let devices = info["DiscoveredDevices"].as_array().unwrap().iter();
    let mut mine: Vec<&str> =
        devices.filter_map(|d| d["ID"].as_str()).filter(|id| id.starts_with("berth.test/")).collect();
    mine.sort_unstable();
    assert_eq!(mine, ["berth.test/thing=one", "berth.test/thing=two"], "{info}");
    let dirs = info["CDISpecDirs"].as_array().unwrap();
    assert!(dirs.contains(&json!(specs.at)), "{info}");
    let older = bed.api("GET", "/v1.49/info", "").json();
    assert!(older.get("DiscoveredDevices").is_none());
    for (request, words) in [
        (
            json!({"Driver": "cdi", "Count": 1, "DeviceIDs": ["berth.test/thing=one"]}),
            "unexpected count in CDI device request",
        ),
        (json!({"Driver": "cdi", "Options": {"a": "b"}}), "unexpected options in CDI device request"),
        (
            json!({"Driver": "nope", "Capabilities": [["x", "y"], ["z"]]}),
            "could not select device driver \"nope\" with capabilities: [[x y] [z]]",
        ),
    ] {
        let body = json!({"Image": "busybox", "HostConfig": {"DeviceRequests": [request]}});
        let answer = bed.api("POST", "/containers/create", &body.to_string());
        // The reference makes the container and has its say at each start.
        let (status, message) = if bed.is_ours() {
            (400, answer.message())
        } else {
            let id = answer.json()["Id"].as_str().unwrap().to_owned();
            (500, bed.api("POST", &format!("/containers/{id}/start"), "").message())
        };
        assert_eq!(message, words, "{body}");
        assert!(answer.status == status || !bed.is_ours(), "{}", answer.status);
    }
    bed.finish();
}

#[test]
fn a_hook_that_fails_ends_the_start() {
    let mut specs = Specs::new("hook");
    let said = specs.scratch("said");
    let devices = json!([{"name": "bad", "containerEdits": {"hooks": [
        {"hookName": "createContainer", "path": "/bin/sh", "args": ["sh", "-c", "echo too bad >&2; exit 3"]},
        {"hookName": "poststop", "path": "/bin/sh", "args": ["sh", "-c", format!("echo gone >> {}", said.display())]},
    ]}}]);
    let file = json!({"cdiVersion": "0.5.0", "kind": "berth.fails/hook", "devices": devices});
    specs.write("berth-test-hooks.json", &file.to_string());
    let bed = specs.bed();
    let told = bed.docker(&["run", "--name", "box", "--device", "berth.fails/hook=bad", "busybox", "true"]);
    assert!(told.stderr.contains("error running createContainer hook #0"), "{told:?}");
    assert!(told.stderr.contains("too bad") && told.stderr.contains("exit status 3"), "{told:?}");
    let state = bed.api("GET", "/containers/box/json", "").json();
    assert_eq!(state["State"]["Status"], "created", "{state}");
    bed.finish();
}

#[test]
fn gpus_are_devices_by_name_where_the_vendor_says_so() {
    let mut specs = Specs::new("gpu");
    let bed = specs.bed();
    if bed.is_ours() {
        let gpus = ["run", "--rm", "--gpus", "all", "busybox", "env"];
        let told = bed.docker(&gpus).fails(125);
        assert!(told.contains("could not select device driver \"\" with capabilities: [[gpu]]"), "{told}");
        let devices = json!([{"name": "all", "containerEdits": {"env": ["GPUS=all"]}},
            {"name": "0", "containerEdits": {"env": ["GPU0=yes"]}}]);
        let file = json!({"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": devices});
        specs.write("nvidia.json", &file.to_string());
        assert!(bed.docker(&gpus).ok().contains("GPUS=all"));
        let first = bed.docker(&["run", "--rm", "--gpus", "1", "busybox", "env"]).ok();
        assert!(first.contains("GPU0=yes") && !first.contains("GPUS"), "{first}");
    }
    bed.finish();
}

#[test]
fn the_feature_can_be_turned_off() {
    let bed = Bed::with(Options { flags: vec!["--cdi-spec-dir=".to_owned()], ..Options::default() });
    if bed.is_ours() {
        bed.docker(&["pull", "busybox"]).ok();
        let told =
            bed.docker(&["run", "--rm", "--device", "vendor.com/class=dev", "busybox", "true"]).fails(125);
        assert!(told.contains("could not select device driver \"cdi\" with capabilities: "), "{told}");
        assert_eq!(bed.api("GET", "/info", "").json()["CDISpecDirs"], json!([]));
    }
    bed.finish();
}
