// SPDX-License-Identifier: Apache-2.0
//! Images out of root filesystems.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use berth_tests::harness::Bed;

use crate::with_each_cli;

/// A container's root as a tar, exported.
fn root(bed: &Bed) -> std::path::PathBuf {
    bed.docker(&["pull", "busybox"]).ok();
    bed.docker(&["create", "--name", "source", "busybox"]).ok();
    let tar = bed.path().join("root.tar");
    bed.docker(&["export", "-o", tar.to_str().unwrap(), "source"]).ok();
    bed.docker(&["rm", "source"]).ok();
    tar
}

with_each_cli! {
fn a_file_with_changes(bed, cli) {
    let tar = root(bed);
    let args = ["import", "-m", "from a root", "-c", "CMD [\"echo\", \"by default\"]", "-c", "ENV A=1 B=$A",
        "-c", "LABEL a=\"b c\"", "-c", "WORKDIR /tmp", "-c", "EXPOSE 80", "-c", "ENTRYPOINT []", tar.to_str().unwrap(), "imported:1"];
    let id = bed.run(cli, &args).ok();
    let id = id.lines().last().unwrap();
    assert!(id.starts_with("sha256:"), "{id}");
    assert_eq!(bed.docker(&["run", "--rm", "imported:1"]).ok(), "by default");
    let image = bed.api("GET", "/images/imported:1/json", "").json();
    assert_eq!(image["Config"]["Labels"]["a"], "b c");
    assert_eq!(image["Config"]["WorkingDir"], "/tmp");
    assert_eq!(image["Config"]["ExposedPorts"], serde_json::json!({"80/tcp": {}}));
    assert!(image["Config"]["Env"].as_array().unwrap().contains(&"A=1".into()), "{}", image["Config"]["Env"]);
    assert_eq!(image["Comment"], "from a root");
    let history = bed.api("GET", "/images/imported:1/history", "").json();
    assert_eq!(history[0]["Comment"], "from a root");
    assert_eq!(history.as_array().unwrap().len(), 1);
}
}

#[test]
fn packed_and_piped() {
    let bed = Bed::start();
    let tar = root(&bed);
    for program in ["gzip", "xz", "bzip2", "zstd"] {
        // The reference runs a program of that name, which need not be on its host.
        if program == "xz" && !bed.is_ours() {
            continue;
        }
        // Where the machine has no such program there is nothing to pack with.
        let Ok(packed) = Command::new(program).args(["-c", "-1"]).arg(&tar).output() else { continue };
        let name = format!("by-{program}:1");
        let mut import = bed
            .command(berth_tests::harness::Cli::Docker, &["import", "-", &name])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        import.stdin.take().unwrap().write_all(&packed.stdout).unwrap();
        assert!(import.wait().unwrap().success(), "{program}");
        assert_eq!(bed.docker(&["run", "--rm", &name, "echo", "ok"]).ok(), "ok", "{program}");
    }
    bed.finish();
}

#[test]
fn from_a_url() {
    let bed = Bed::start();
    let tar = std::fs::read(root(&bed)).unwrap();
    let listener = bed.netns.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut head = [0; 4096];
            let n = client.read(&mut head).unwrap();
            let found = head[..n].starts_with(b"GET /root.tar ");
            let (status, body) =
                if found { ("200 OK", tar.as_slice()) } else { ("404 Not Found", &b"no"[..]) };
            let head =
                format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            // Who asks may hang up.
            drop(client.write_all(head.as_bytes()).and_then(|()| client.write_all(body)));
        }
    });
    let url = format!("http://127.0.0.1:{port}/root.tar");
    let said = bed.docker(&["import", &url, "fetched:1"]).ok();
    assert!(said.contains("Downloading from") && said.contains("sha256:"), "{said}");
    assert_eq!(bed.docker(&["run", "--rm", "fetched:1", "echo", "ok"]).ok(), "ok");
    let image = bed.api("GET", "/images/fetched:1/json", "").json();
    assert_eq!(image["Comment"], format!("Imported from {url}"));
    bed.docker(&["import", &format!("http://127.0.0.1:{port}/nothing"), "none:1"]).fails(1);
    assert_eq!(bed.docker(&["images", "-q", "none"]).ok(), "");
    bed.finish();
}

#[test]
fn what_cannot_be_imported() {
    let bed = Bed::start();
    let tar = root(&bed);
    let bytes = std::fs::read(&tar).unwrap();
    let import =
        |query: &str, body: &[u8]| bed.api_with("POST", &format!("/images/create?{query}"), &[], body);
    for (query, status, words) in [
        ("fromSrc=-&repo=UPPER", 400, "invalid reference format"),
        ("fromSrc=-&repo=a&changes=BOGUS%20x", 400, "BOGUS"),
        ("fromSrc=-&repo=a&changes=RUN%20x", 400, "RUN"),
        ("fromSrc=-&repo=a&changes=EXPOSE%20x", 400, "x"),
        ("fromSrc=-&repo=a&changes=HEALTHCHECK%20--interval%3Dsoon%20CMD%20x", 400, "soon"),
    ] {
        let refused = import(query, &bytes);
        assert_eq!(refused.status, status, "{query}: {}", refused.text());
        assert!(refused.text().contains(words), "{query}: {}", refused.text());
    }
    let garbage = import("fromSrc=-&repo=a", &b"no tar at all".repeat(100));
    assert!(garbage.status >= 400 || garbage.text().contains("errorDetail"), "{}", garbage.text());
    assert_eq!(bed.docker(&["images", "-q", "a"]).ok(), "");
    let mut events = bed.events("type=image");
    let named = import("fromSrc=-&repo=a&tag=2", &bytes);
    assert_eq!(named.status, 200, "{}", named.text());
    let id = bed.docker(&["image", "inspect", "-f", "{{.Id}}", "a:2"]).ok();
    let seen = events.until(&format!("image import {id}"));
    assert!(seen.contains(&"image tag a:2".to_owned()), "{seen:?}");
    bed.finish();
}
