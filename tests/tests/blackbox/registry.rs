// SPDX-License-Identifier: Apache-2.0
//! Images on their way out: pushed to registries that tests may write to, saved and loaded back.

use std::process::Command;

use berth_tests::fixtures;
use berth_tests::harness::{Bed, Output, Registry};

use crate::with_each_cli;

/// `u` with the password `secret`, as htpasswd's bcrypt has it.
const USERS: &str = "u:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

fn field(bed: &Bed, image: &str, format: &str) -> String {
    bed.docker(&["image", "inspect", "-f", format, image]).ok()
}

/// The digest in `1: digest: sha256:... size: 123`.
fn digest(output: &str) -> String {
    let line =
        output.lines().find(|l| l.contains(": digest: ")).unwrap_or_else(|| panic!("no digest: {output}"));
    line.split(' ').nth(2).expect("a digest").to_owned()
}

#[test]
fn push_and_pull_back() {
    let bed = Bed::start();
    let store = bed.path().join("store");
    let registry = Registry::start(&bed, 5001, &store, None);
    // The layers of flask are large enough to go as a stream, those of twelve go side by side.
    for name in ["redis", "flask", "twelve"] {
        let pulled = bed.docker(&["pull", name]).ok();
        let source = pulled.lines().find_map(|l| l.strip_prefix("Digest: ")).unwrap().to_owned();
        let id = field(&bed, name, "{{.Id}}");
        let there = format!("{}/my/{name}:1", registry.host);
        bed.docker(&["tag", name, &there]).ok();
        let pushed = bed.docker(&["push", &there]).ok();
        assert!(
            pushed.contains(&format!("The push refers to repository [{}/my/{name}]", registry.host)),
            "{pushed}"
        );
        assert!(pushed.contains(": Pushed") || name != "redis", "{pushed}");
        // The reference's own store packs layers anew.
        let source = if bed.is_ours() { source } else { digest(&pushed) };
        assert_eq!(digest(&pushed), source, "byte for byte what was pulled");
        let digests = field(&bed, name, "{{json .RepoDigests}}");
        assert!(digests.contains(&format!("{}/my/{name}@{source}", registry.host)), "{digests}");

        bed.docker(&["rmi", "-f", &id]).ok();
        let back = bed.docker(&["pull", &there]).ok();
        assert!(back.contains(&format!("Digest: {source}")), "{back}");
        assert_eq!(field(&bed, &there, "{{.Id}}"), id);
    }
    let there = format!("{}/my/flask:1", registry.host);
    assert_eq!(bed.docker(&["run", "--rm", &there, "echo", "ok"]).ok(), "ok");
    let again = bed.docker(&["push", &there]).ok();
    assert!(again.contains("Layer already exists") && !again.contains("Pushed"), "{again}");
    let neighbour = format!("{}/your/flask:1", registry.host);
    bed.docker(&["tag", &there, &neighbour]).ok();
    let mounted = bed.docker(&["push", &neighbour]).ok();
    assert!(mounted.contains("Mounted from my/flask") && !mounted.contains("Pushed"), "{mounted}");
    drop(registry);
    bed.finish();
}

#[test]
fn the_lines_of_a_push() {
    let bed = Bed::start();
    let registry = Registry::start(&bed, 5001, &bed.path().join("store"), None);
    bed.docker(&["pull", "redis"]).ok();
    let there = format!("{}/a/redis", registry.host);
    for tag in ["1", "2"] {
        bed.docker(&["tag", "redis", &format!("{there}:{tag}")]).ok();
    }
    let push = |name: &str, query: &str| {
        let path = format!("/images/{name}/push{query}");
        let response = bed.api_with("POST", &path, &[("X-Registry-Auth", "e30=")], b"");
        assert_eq!(response.status, 200, "{}", response.text());
        let text = response.text();
        text.split_terminator("\r\n").map(str::to_owned).collect::<Vec<_>>()
    };
    push(&there, "?tag=1");
    let lines = push(&there, "?tag=1");
    assert_eq!(lines[0], format!("{{\"status\":\"The push refers to repository [{there}]\"}}"));
    let layer = lines.iter().find(|l| l.contains("Layer already exists")).expect("a layer that is there");
    assert!(
        layer.starts_with("{\"status\":\"Layer already exists\",\"progressDetail\":{},\"id\":\""),
        "{layer}"
    );
    if bed.is_ours() {
        let last: serde_json::Value = serde_json::from_str(lines.last().unwrap()).unwrap();
        let digest = last["aux"]["Digest"].as_str().expect("the result");
        let said = format!("{{\"status\":\"1: digest: {digest} size: {}\"}}", last["aux"]["Size"]);
        assert_eq!(lines[lines.len() - 2], said);
        let all = push(&there, "");
        assert_eq!(all.iter().filter(|l| l.contains(": digest: ")).count(), 2, "every tag: {all:?}");
    }
    let missing = push(&format!("{}/nosuch", registry.host), "?tag=1");
    // The words of the reference's two stores; ours are the newer one's.
    let newer = format!("tag does not exist: {}/nosuch:1", registry.host);
    let older = format!("An image does not exist locally with the tag: {}/nosuch", registry.host);
    let words = if bed.is_ours() { newer } else { older };
    assert_eq!(
        missing.last().unwrap(),
        &format!("{{\"errorDetail\":{{\"message\":\"{words}\"}},\"error\":\"{words}\"}}")
    );
    drop(registry);
    bed.finish();
}

#[test]
fn an_index_goes_whole_or_not_at_all() {
    let bed = Bed::start();
    if !bed.is_ours() {
        return;
    }
    let store = bed.path().join("store");
    let source = fixtures::ensure().join("registry");
    Output::of(Command::new("cp").arg("-a").arg(source).arg(&store)).ok();
    let registry = Registry::start(&bed, 5001, &store, None);
    let there = format!("{}/library/busybox", registry.host);
    let pulled = bed.docker(&["pull", &there]).ok();
    let index = pulled.lines().find_map(|l| l.strip_prefix("Digest: ")).unwrap().to_owned();
    // The other platforms are in this repository already.
    bed.docker(&["tag", &there, &format!("{there}:again")]).ok();
    assert_eq!(digest(&bed.docker(&["push", &format!("{there}:again")]).ok()), index);
    // Elsewhere they are not, and one manifest goes.
    let other = format!("{}/other/busybox:1", registry.host);
    bed.docker(&["tag", &there, &other]).ok();
    let pushed = bed.docker(&["push", &other]);
    let (stdout, stderr) = (pushed.stdout.clone(), pushed.stderr.clone());
    pushed.ok();
    assert_ne!(digest(&stdout), index);
    assert!(
        format!("{stdout}{stderr}").contains("only the available single-platform image was pushed"),
        "{stdout}{stderr}"
    );
    drop(registry);
    bed.finish();
}

#[test]
fn login_with_a_password() {
    let bed = Bed::start();
    let registry = Registry::start(&bed, 5001, &bed.path().join("store"), Some(USERS));
    let host = registry.host.clone();
    bed.docker(&["pull", "redis"]).ok();
    let there = format!("{host}/a/redis:1");
    bed.docker(&["tag", "redis", &there]).ok();
    let refused = bed.docker(&["push", &there]).fails(1);
    assert!(refused.contains("no basic auth credentials") || refused.contains("authorization"), "{refused}");

    let login = |password: &str| {
        let body =
            serde_json::json!({"username": "u", "password": password, "serveraddress": host}).to_string();
        bed.api("POST", "/auth", &body)
    };
    let wrong = login("wrong");
    // By plain HTTP the reference answers 500.
    assert!(wrong.status == 401 || !bed.is_ours(), "{}", wrong.text());
    assert!(wrong.message().to_lowercase().contains("unauthorized"), "{}", wrong.text());
    let right = login("secret");
    assert_eq!(right.status, 200, "{}", right.text());
    assert_eq!(right.json()["Status"], "Login Succeeded");
    assert_eq!(right.json()["IdentityToken"], "");

    let wrong = bed.docker(&["login", "-u", "u", "-p", "wrong", &host]).fails(1);
    assert!(wrong.to_lowercase().contains("unauthorized"), "{wrong}");
    assert!(bed.docker(&["login", "-u", "u", "-p", "secret", &host]).ok().contains("Login Succeeded"));
    bed.docker(&["push", &there]).ok();
    bed.docker(&["rmi", &there]).ok();
    bed.docker(&["pull", &there]).ok();
    drop(registry);
    bed.finish();
}

/// Image id, layers and manifest: what must not change on the way through an archive.
fn identity(bed: &Bed, image: &str) -> String {
    let manifest = if bed.is_ours() { " {{.Descriptor}}" } else { "" };
    field(bed, image, &format!("{{{{.Id}}}} {{{{.RootFS.Layers}}}}{manifest}"))
}

#[test]
fn save_and_load_back() {
    let bed = Bed::start();
    let names = ["redis:latest", "busybox:latest", "twelve:latest"];
    for name in names {
        bed.docker(&["pull", name]).ok();
    }
    bed.docker(&["tag", "redis", "another/name:2"]).ok();
    let before: Vec<String> = names.iter().map(|name| identity(&bed, name)).collect();
    let file = bed.path().join("saved.tar");
    let path = file.to_str().unwrap();
    bed.docker(&["save", "-o", path, "redis", "another/name:2", "busybox:latest", "twelve"]).ok();
    let list = Output::of(Command::new("tar").args(["-tf", path])).ok();
    for part in ["oci-layout", "index.json", "manifest.json"] {
        assert!(list.lines().any(|l| l == part), "{part} is missing: {list}");
    }
    // Every blob is what its name says.
    let unpacked = bed.path().join("saved");
    std::fs::create_dir(&unpacked).unwrap();
    Output::of(Command::new("tar").args(["-xf", path, "-C"]).arg(&unpacked)).ok();
    let sums = "cd blobs/sha256 && for b in *; do echo \"$b  $b\"; done | sha256sum -c --quiet";
    Output::of(Command::new("sh").args(["-c", sums]).current_dir(&unpacked)).ok();

    for name in names {
        bed.docker(&["rmi", "-f", name]).ok();
    }
    bed.docker(&["rmi", "-f", "another/name:2"]).ok();
    let loaded = bed.docker(&["load", "-i", path]).ok();
    for name in names.iter().chain(&["another/name:2"]) {
        assert!(loaded.contains(&format!("Loaded image: {name}")), "{name}: {loaded}");
    }
    if bed.is_ours() {
        let after: Vec<String> = names.iter().map(|name| identity(&bed, name)).collect();
        assert_eq!(before, after);
    }
    assert_eq!(bed.docker(&["run", "--rm", "another/name:2", "echo", "ok"]).ok(), "ok");

    // By its id: no name goes along.
    let id = field(&bed, "twelve", "{{.Id}}");
    let one = bed.api("GET", &format!("/images/{id}/get"), "");
    assert_eq!((one.status, one.header("Content-Type")), (200, Some("application/x-tar")));
    bed.docker(&["rmi", "-f", "twelve"]).ok();
    let anonymous = bed.path().join("anonymous.tar");
    std::fs::write(&anonymous, &one.body).unwrap();
    let loaded = bed.docker(&["load", "-i", anonymous.to_str().unwrap()]).ok();
    assert!(loaded.contains("Loaded image ID: sha256:"), "{loaded}");
    assert_eq!(bed.api("GET", "/images/get?names=nosuch", "").status, 404);
    bed.finish();
}

with_each_cli! {
fn pushed_and_saved_by_either(bed, cli) {
    let registry = Registry::start(bed, 5001, &bed.path().join("store"), None);
    let there = format!("{}/a/busybox", registry.host);
    bed.docker(&["pull", "busybox"]).ok();
    bed.docker(&["tag", "busybox", &format!("{there}:latest")]).ok();
    let pushed = bed.run(cli, &["push", &there]).ok();
    assert!(pushed.starts_with("Using default tag: latest\nThe push refers to repository"), "{pushed}");
    assert!(pushed.contains("latest: digest: sha256:"), "{pushed}");
    let quiet = bed.run(cli, &["push", "-q", &format!("{there}:latest")]).ok();
    assert_eq!(quiet.lines().next(), Some(format!("{there}:latest").as_str()));
    assert!(bed.run(cli, &["push", &format!("{there}:nosuch")]).fails(1).contains("tag does not exist"));
    let file = bed.path().join("saved.tar");
    bed.run(cli, &["save", "-o", file.to_str().unwrap(), "busybox", &there]).ok();
    let names: Vec<_> = std::fs::read_dir(bed.path()).unwrap().filter_map(|e| e.unwrap().file_name().into_string().ok()).collect();
    assert!(!names.iter().any(|n| n.contains("saved.tar.") || n.starts_with(".tmp-")), "{names:?}");
    bed.docker(&["rmi", "-f", "busybox", &there]).ok();
    let loaded = bed.docker(&["load", "-i", file.to_str().unwrap()]).ok();
    assert!(loaded.contains("Loaded image: busybox:latest") && loaded.contains(&format!("{there}:latest")), "{loaded}");
    let missing = bed.run(cli, &["save", "-o", file.to_str().unwrap(), "nosuch"]).fails(1);
    assert!(missing.contains("No such image") || missing.contains("reference does not exist"), "{missing}");
    assert!(file.metadata().unwrap().len() > 0, "what was there stays");
    drop(registry);
}
}
