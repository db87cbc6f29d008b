// SPDX-License-Identifier: Apache-2.0
//! What cannot be is refused with words that help, and nothing is lost or left behind.

use std::process::Command;

use berth_tests::fixtures::layer::Layer;
use berth_tests::harness::{Bed, Options, Output};

fn bed() -> Bed {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    bed
}

#[test]
fn unknown_images() {
    let bed = Bed::start();
    let missing = bed.docker(&["pull", "127.0.0.1:5000/library/no-such-image"]).fails(1);
    assert!(missing.contains("not found") || missing.contains("does not exist"), "{missing}");
    // The mirror does not have it and Docker Hub cannot be reached: the error says which host.
    let missing = bed.docker(&["pull", "no-such-image"]).fails(1);
    assert!(missing.contains("registry-1.docker.io"), "{missing}");
    assert_eq!(bed.docker(&["run", "--rm", "no-such-image"]).code, 125);
    assert_eq!(bed.docker(&["run", "--rm", "Upper:Case"]).code, 125);
    let create = bed.api("POST", "/containers/create", r#"{"Image":"no-such-image"}"#);
    assert_eq!((create.status, create.message()), (404, "No such image: no-such-image:latest".into()));
    bed.finish();
}

#[test]
fn names() {
    let bed = bed();
    let id = bed.docker(&["create", "--name", "taken", "busybox"]).ok();
    let again = bed.api("POST", "/containers/create?name=taken", r#"{"Image":"busybox"}"#);
    assert_eq!(again.status, 409);
    assert_eq!(
        again.message(),
        format!(
            "Conflict. The container name \"/taken\" is already in use by container \"{id}\". You have to remove (or rename) that container to be able to reuse that name."
        )
    );
    let bad = bed.api("POST", "/containers/create?name=b@d", r#"{"Image":"busybox"}"#);
    assert_eq!(
        (bad.status, bad.message()),
        (400, "Invalid container name (b@d), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed".into())
    );
    // One of many wins.
    let winners: usize = std::thread::scope(|scope| {
        let all: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    bed.api("POST", "/containers/create?name=race", r#"{"Image":"busybox"}"#).status
                })
            })
            .collect();
        all.into_iter().map(|t| usize::from(t.join().unwrap() == 201)).sum()
    });
    assert_eq!(winners, 1);
    bed.finish();
}

#[test]
fn create_says_which_field_is_wrong() {
    let bed = bed();
    let check = |body: &str, status: u16, message: &str| {
        let response = bed.api("POST", "/containers/create", body);
        assert_eq!((response.status, response.message()), (status, message.to_owned()), "{body}");
    };
    check(r#"{"Image":"busybox","HostConfig":{"Memory":1000}}"#, 400, "Minimum memory limit allowed is 6MB");
    check(
        r#"{"Image":"busybox","HostConfig":{"Mounts":[{"Type":"bind","Source":"/nope/q","Target":"/y"}]}}"#,
        400,
        "invalid mount config for type \"bind\": bind source path does not exist: /nope/q",
    );
    check(
        r#"{"Image":"busybox","HostConfig":{"RestartPolicy":{"Name":"bad"}}}"#,
        400,
        "invalid restart policy: unknown policy 'bad'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'",
    );
    for body in [
        r#"{"Image":"busybox","HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"99999"}]}}}"#,
        r#"{"Image":"busybox","HostConfig":{"CapAdd":["NOT_A_CAP"]}}"#,
        r#"{"Image":"busybox","HostConfig":{"Binds":["relative:also"]}}"#,
        r#"{"Image":"busybox""#,
        "{\"Image\":\"busybox\"} trailing",
    ] {
        let response = bed.api("POST", "/containers/create", body);
        // The reference takes the blame for a bad path.
        let status = if !bed.is_ours() && body.contains("relative") { 500 } else { 400 };
        assert_eq!(response.status, status, "{body}: {}", response.text());
        assert!(!response.message().is_empty());
    }
    let bad_port = bed.docker(&["run", "-p", "80:80:80:80", "busybox"]);
    assert_eq!(bad_port.code, 125, "{bad_port:?}");
    bed.finish();
}

#[test]
fn states_that_do_not_fit() {
    let bed = bed();
    let id = bed.docker(&["create", "--name", "idle", "busybox", "sleep", "1000"]).ok();
    let check = |method: &str, path: &str, status: u16, message: &str| {
        let response = bed.api(method, path, "");
        assert_eq!(response.status, status, "{path}: {}", response.text());
        if !message.is_empty() {
            assert_eq!(response.message(), message, "{path}");
        }
    };
    check("POST", "/containers/idle/stop", 304, "");
    check(
        "POST",
        "/containers/idle/kill",
        409,
        &format!("cannot kill container: idle: container {id} is not running"),
    );
    check("POST", "/containers/idle/resize?h=1&w=1", 409, &format!("container {id} is not running"));
    check("POST", "/containers/idle/start", 204, "");
    check("POST", "/containers/idle/start", 304, "");
    check(
        "DELETE",
        "/containers/idle",
        409,
        "cannot remove container \"idle\": container is running: stop the container before removing or force remove",
    );
    check("POST", "/containers/idle/kill?signal=NOPE", 400, "");
    check("POST", "/containers/nosuch/start", 404, "No such container: nosuch");
    check("DELETE", "/containers/nosuch", 404, "No such container: nosuch");
    check("GET", "/containers/nosuch/json", 404, "No such container: nosuch");
    bed.finish();
}

#[test]
fn the_registry_is_down() {
    let mut bed = Bed::start();
    if !bed.is_ours() {
        return;
    }
    bed.stop_registry();
    let out = bed.docker(&["pull", "127.0.0.1:5000/library/busybox"]).fails(1);
    assert!(out.contains("127.0.0.1:5000") && out.contains("refused"), "{out}");
    bed.finish();
}

#[test]
fn a_full_disk_during_a_pull() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let (image, mounted) = (dir.path().join("disk.img"), dir.path().join("mnt"));
    std::fs::create_dir(&mounted).unwrap();
    std::fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
    Output::of(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image)).ok();
    Output::of(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mounted)).ok();
    let _mounted = Mounted(mounted.clone());
    let bed = Bed::with(Options { data_root: Some(mounted.join("data")), ..Options::default() });
    if bed.is_ours() {
        let out = bed.docker(&["pull", "flask"]).fails(1);
        assert!(out.to_lowercase().contains("no space left on device"), "{out}");
        // The daemon lives, nothing of the image is there, and what fits can be pulled.
        assert_eq!(bed.docker(&["images", "-q"]).ok(), "");
        bed.docker(&["pull", "busybox"]).ok();
        assert_eq!(bed.docker(&["run", "--rm", "busybox", "echo", "alive"]).ok(), "alive");
    }
    bed.finish();
}

/// Unmounts when dropped, after a failed test too.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let out = Output::of(Command::new("umount").arg("-l").arg(&self.0));
        if out.code != 0 {
            eprintln!("{out:?}");
        }
    }
}

/// A docker-archive of one image with this layer.
fn archive(layer: &[u8], diff_id: &str) -> Vec<u8> {
    let config = serde_json::json!({"architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "config": {}, "rootfs": {"type": "layers", "diff_ids": [diff_id]}});
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": ["hostile:latest"], "Layers": ["layer.tar"]}]);
    Layer::default()
        .file("layer.tar", 0o644, layer)
        .file("config.json", 0o644, config.to_string())
        .file("manifest.json", 0o644, manifest.to_string())
        .tar()
}

/// A tar of raw entries: names as given, however bad.
fn raw_tar(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, target) in entries {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        let content: &[u8] = if *kind == tar::EntryType::Regular { target.as_bytes() } else { b"" };
        header.set_size(content.len() as u64);
        if *kind != tar::EntryType::Regular {
            header.set_link_name_literal(target).unwrap();
        }
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn layers_that_reach_outside() {
    use tar::EntryType::{Link, Regular, Symlink};
    let bed = Bed::start();
    let canary = bed.path().join("canary");
    std::fs::write(&canary, "untouched").unwrap();
    let outside = canary.to_str().unwrap();
    let inside_link = format!("link{}", bed.path().display());
    for entries in [
        vec![("../../../../../../../../../../../../tmp/berth-escape", Regular, "escaped")],
        vec![("/tmp/berth-escape", Regular, "escaped")],
        vec![("link", Symlink, "/tmp"), ("link/berth-escape", Regular, "escaped")],
        vec![("link", Symlink, bed.path().to_str().unwrap()), ("link/canary", Regular, "escaped")],
        vec![("hard", Link, outside), ("hard", Regular, "escaped")],
        vec![("hard", Link, "../../../../../../../../etc/passwd")],
        vec![("a/../../../../../../../../../../../tmp/berth-escape", Regular, "escaped")],
        vec![("link", Symlink, "/"), (inside_link.as_str(), Regular, "escaped")],
    ] {
        let layer = raw_tar(&entries);
        let file = bed.path().join("hostile.tar");
        std::fs::write(&file, archive(&layer, &berth_tests::fixtures::oci::digest(&layer))).unwrap();
        // Refused, or taken relative to the root: either way the host is as it was.
        let out = bed.docker(&["load", "-i", file.to_str().unwrap()]);
        assert!(!std::path::Path::new("/tmp/berth-escape").exists(), "{entries:?} escaped: {out:?}");
        assert_eq!(std::fs::read_to_string(&canary).unwrap(), "untouched", "{entries:?}");
        if out.code == 0 {
            bed.docker(&["rmi", "-f", "hostile"]).ok();
        }
    }
    bed.finish();
}

#[test]
fn a_layer_that_is_not_what_it_says() {
    let bed = Bed::start();
    let layer = Layer::default().file("file", 0o644, "content").tar();
    let file = bed.path().join("corrupt.tar");
    std::fs::write(&file, archive(&layer, &format!("sha256:{}", "1".repeat(64)))).unwrap();
    let out = bed.docker(&["load", "-i", file.to_str().unwrap()]);
    let listed = bed.docker(&["images", "-q", "hostile"]).ok();
    assert!(out.code != 0 && listed.is_empty(), "{out:?} {listed}");
    bed.finish();
}

#[test]
fn a_corrupt_layer_from_the_registry() {
    let mut bed = Bed::start();
    if !bed.is_ours() {
        return;
    }
    // The registry's files, with one byte of redis' last layer flipped.
    let store = bed.path().join("store");
    let cache = berth_tests::fixtures::ensure();
    Output::of(Command::new("cp").args(["-a", "--reflink=auto"]).arg(cache.join("registry")).arg(&store))
        .ok();
    let manifest = std::fs::read_to_string(cache.join("oci/redis/index.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let blob = |digest: &str| {
        let hex = digest.trim_start_matches("sha256:").to_owned();
        store.join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
    };
    let text = std::fs::read_to_string(blob(manifest["manifests"][0]["digest"].as_str().unwrap())).unwrap();
    let image: serde_json::Value = serde_json::from_str(&text).unwrap();
    let layer = blob(image["layers"][2]["digest"].as_str().unwrap());
    let mut bytes = std::fs::read(&layer).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&layer, bytes).unwrap();
    bed.stop_registry();
    bed.start_registry_on(&store);
    let out = bed.docker(&["pull", "redis"]).fails(1);
    assert!(out.contains("digest") || out.contains("corrupt") || out.contains("invalid"), "{out}");
    assert_eq!(bed.docker(&["images", "-q"]).ok(), "");
    bed.docker(&["pull", "busybox"]).ok();
    bed.finish();
}

#[test]
fn a_refusal_is_read_though_the_client_still_sends() {
    use std::io::{Read as _, Write as _};
    let bed = bed();
    if !bed.is_ours() {
        // There the connection is closed on a client that still sends.
        return;
    }
    // The socket's buffer holds far less than this: who is refused and cut off meets a broken pipe while it writes.
    let piece = [0u8; 64 << 10];
    for _ in 0..10 {
        let mut stream = std::os::unix::net::UnixStream::connect(bed.socket()).unwrap();
        let head = "PUT /v1.50/containers/nope/archive?path=/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        for _ in 0..64 {
            stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).unwrap();
            stream.write_all(&piece).unwrap();
            stream.write_all(b"\r\n").unwrap();
        }
        stream.write_all(b"0\r\n\r\n").unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 404");
    }
    bed.finish();
}
