// SPDX-License-Identifier: Apache-2.0
//! Images as they are pulled, loaded, listed and refused.

use std::process::Command;

use berth_tests::fixtures;
use berth_tests::harness::{Bed, Output};

use crate::with_each_cli;

/// A tar of a fixture's OCI layout.
fn layout_tar(bed: &Bed, name: &str) -> std::path::PathBuf {
    let tar = bed.path().join(format!("{name}.tar"));
    let layout = fixtures::ensure().join("oci").join(name);
    Output::of(Command::new("tar").arg("-cf").arg(&tar).arg("-C").arg(layout).arg(".")).ok();
    tar
}

#[test]
fn layers_stack_with_whiteouts_and_opaque_directories() {
    let bed = Bed::start();
    bed.docker(&["pull", "twelve"]).ok();
    let script = "cat /data/counter; ls /data | grep -c ^layer; test -e /data/layer3 || echo gone; ls /opq; stat -c %a /kept";
    assert_eq!(bed.docker(&["run", "--rm", "twelve", "sh", "-c", script]).ok(), "11\n10\ngone\nnew\n1770");
    bed.finish();
}

#[test]
fn pull_by_digest() {
    let bed = Bed::start();
    let pulled = bed.docker(&["pull", "busybox"]).ok();
    let digest = pulled.lines().find_map(|l| l.strip_prefix("Digest: ")).unwrap().to_owned();
    bed.docker(&["rmi", "busybox"]).ok();
    let by_digest = format!("busybox@{digest}");
    let again = bed.docker(&["pull", &by_digest]).ok();
    assert!(again.contains(&format!("Digest: {digest}")), "{again}");
    assert_eq!(bed.docker(&["run", "--rm", &by_digest, "echo", "ok"]).ok(), "ok");
    let wrong = format!("127.0.0.1:5000/library/busybox@sha256:{}", "0".repeat(64));
    assert!(bed.docker(&["pull", &wrong]).fails(1).contains("not found"));
    bed.finish();
}

with_each_cli! {
fn load_an_oci_layout_compressed_or_not(bed, cli) {
    if !bed.is_ours() {
        // The reference engine reads plain OCI layouts only with its other image store.
        return;
    }
    let tar = layout_tar(bed, "redis");
    let loaded = bed.run(cli, &["load", "-i", tar.to_str().unwrap()]).ok();
    assert!(loaded.contains("Loaded image: redis:latest"), "{loaded}");
    assert_eq!(bed.run(cli, &["run", "--rm", "redis", "echo", "loaded"]).ok(), "loaded");
    bed.run(cli, &["rmi", "redis"]).ok();
    Output::of(Command::new("gzip").arg("-1").arg(&tar)).ok();
    let gz = format!("{}.gz", tar.display());
    assert!(bed.run(cli, &["load", "-i", &gz]).ok().contains("Loaded image: redis:latest"));
}
}

#[test]
fn load_refuses_garbage() {
    let bed = Bed::start();
    let file = bed.path().join("garbage");
    std::fs::write(&file, b"this is no archive").unwrap();
    let refused = bed.docker(&["load", "-i", file.to_str().unwrap()]);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(bed.docker(&["images", "-q"]).ok().is_empty() || !bed.is_ours());
    bed.finish();
}

#[test]
fn shared_layers_are_pulled_once() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let second = bed.docker(&["pull", "redis"]).ok();
    assert!(second.contains("Already exists") || second.contains("Download complete"), "{second}");
    // Removing one image leaves the other's layers.
    bed.docker(&["rmi", "busybox"]).ok();
    assert_eq!(bed.docker(&["run", "--rm", "redis", "echo", "whole"]).ok(), "whole");
    bed.finish();
}

#[test]
fn an_ambiguous_prefix_is_refused() {
    let bed = Bed::start();
    if !bed.is_ours() {
        // The reference engine's ids are digests of manifests, so that the prefix would be another one.
        return;
    }
    let (prefix, archive) = berth_tests::fixtures::images::colliding_pair();
    let file = bed.path().join("pair.tar");
    std::fs::write(&file, archive).unwrap();
    bed.docker(&["load", "-i", file.to_str().unwrap()]).ok();
    let refused = bed.docker(&["rmi", &prefix]).fails(1);
    assert!(refused.contains(&format!("Multiple IDs found with provided prefix: {prefix}")), "{refused}");
    assert_eq!(bed.docker(&["images", "-q"]).ok().lines().count(), 2);
    bed.finish();
}

#[test]
fn nginx_and_flask_serve() {
    use std::io::{Read, Write};
    let bed = Bed::start();
    let get = |port: u16| {
        bed.netns.run(|| {
            berth_tests::harness::until("the server answers", || {
                let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
                stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
                let mut text = String::new();
                stream.read_to_string(&mut text).ok()?;
                text.contains("200 OK").then_some(text)
            })
        })
    };
    bed.docker(&["run", "-d", "--name", "web", "-p", "8080:80", "nginx"]).ok();
    assert!(get(8080).contains("Welcome to nginx!"));
    bed.docker(&["run", "-d", "--name", "app", "-p", "127.0.0.1:5001:5000", "flask"]).ok();
    assert!(get(5001).contains("Hello from Flask"));
    bed.docker(&["stop", "web"]).ok();
    assert_eq!(
        bed.docker(&["inspect", "-f", "{{.State.ExitCode}}", "web"]).ok(),
        "0",
        "the image's stop signal is SIGQUIT"
    );
    bed.finish();
}
