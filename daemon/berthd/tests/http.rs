// SPDX-License-Identifier: Apache-2.0
//! The rules of HTTP that every endpoint follows, over a real socket of a real daemon.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{Read as _, Write as _};

use berth_api::{ApiVersion, Method, ROUTES};
use support::{Home, Reply};

#[test]
fn ping_says_what_clients_negotiate_by() {
    let home = Home::new();
    let daemon = home.start(&[]);
    let get = daemon.get("/_ping");
    assert_eq!((get.status, get.body.as_str()), (200, "OK"));
    assert_eq!(get.header("content-type"), Some("text/plain; charset=utf-8"));
    let head = daemon.ask("HEAD", "/_ping", &[], "");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(head.header("content-length"), Some("0"));
    for reply in [get, head, daemon.get("/v1.24/_ping")] {
        assert_eq!(reply.header("api-version"), Some("1.55"));
        assert_eq!(reply.header("ostype"), Some("linux"));
        assert_eq!(reply.header("docker-experimental"), Some("false"));
        assert_eq!(reply.header("swarm"), Some("inactive"));
        assert_eq!(reply.header("cache-control"), Some("no-cache, no-store, must-revalidate"));
        assert_eq!(reply.header("pragma"), Some("no-cache"));
        assert!(reply.header("builder-version").is_some());
        let server = reply.header("server").unwrap();
        assert!(server.starts_with("Docker/") && server.ends_with(" (linux)"), "{server}");
    }
}

#[test]
fn versions_are_gated() {
    let home = Home::new();
    let daemon = home.start(&[]);
    for version in ["/v1.24", "/v1.41", "/v1.53", "/v1.55", ""] {
        assert_eq!(daemon.get(&format!("{version}/version")).json()["ApiVersion"], "1.55", "{version}");
    }
    daemon
        .get("/v1.56/version")
        .refused(400, "client version 1.56 is too new. Maximum supported API version is 1.55");
    let old = daemon.get("/v1.23/version");
    assert_eq!(old.status, 400);
    assert_eq!(old.header("content-type"), Some("text/plain; charset=utf-8"));
    assert!(
        old.body.starts_with("client version 1.23 is too old. Minimum supported API version is 1.24"),
        "{old:?}"
    );
    // What came later is not there before, and what is nowhere is nowhere in any version.
    daemon.ask("PUT", "/v1.41/volumes/x", &[], "").refused(404, "page not found");
    daemon.get("/v9.99/nope").refused(404, "page not found");
}

#[test]
fn errors_have_one_shape() {
    let home = Home::new();
    let daemon = home.start(&[]);
    daemon.get("/nope").refused(404, "page not found");
    daemon.get("/v1.41/containers/create").refused(404, "page not found");
    daemon.ask("PATCH", "/info", &[], "").refused(404, "page not found");
    daemon.get("/containers/nope/json").refused(404, "No such container: nope");
    daemon.get("/images/nope/json").refused(404, "No such image: nope:latest");
    daemon.get("/images/localhost:5000/a/b/json").refused(404, "No such image: localhost:5000/a/b:latest");
    daemon.get("/volumes/nope").refused(404, "get nope: no such volume");
    daemon.get("/networks/nope").refused(404, "network nope not found");
    daemon.get("/exec/nope/json").refused(404, "No such exec instance: nope");
    daemon.get("/plugins/x/json").refused(404, "plugin \"x\" not found");
    daemon.get("/containers/json?filters=x").json()["message"]
        .as_str()
        .unwrap()
        .starts_with("invalid filter")
        .then_some(())
        .expect("a filter that is none");
    daemon
        .get("/containers/json?filters=%7B%22nope%22%3A%5B%221%22%5D%7D")
        .refused(400, "invalid filter 'nope'");
    let options = daemon.ask("OPTIONS", "/anything", &[], "");
    assert_eq!((options.status, options.body.as_str()), (200, ""));
}

#[test]
fn an_engine_outside_a_swarm_says_so() {
    let home = Home::new();
    let daemon = home.start(&[]);
    let manager = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.";
    for path in ["/swarm", "/services", "/nodes", "/tasks", "/secrets/x", "/configs"] {
        daemon.get(path).refused(503, manager);
    }
    daemon.post("/swarm/leave", "").refused(503, "This node is not part of a swarm");
    assert_eq!(daemon.get("/plugins").json(), serde_json::json!([]));
}

#[test]
fn json_bodies_are_read_strictly() {
    let home = Home::new();
    let daemon = home.start(&[]);
    let create = "/v1.50/volumes/create";
    let untyped = daemon.ask("POST", create, &[("Content-Type", "text/plain")], "{}");
    untyped.refused(400, "unsupported Content-Type header (text/plain): must be 'application/json'");
    daemon.post(create, "{} {}").refused(400, "unexpected content after JSON");
    assert_eq!(daemon.post(create, "{").status, 400);
    assert_eq!(daemon.post(create, "[]").status, 400);
    daemon
        .post("/containers/create", "")
        .refused(400, "config cannot be empty in order to create a container");

    // Longer than is read: refused by its length, before it is sent.
    let mut stream = daemon.connect();
    let head = "POST /volumes/create HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 999999999\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let reply = Reply::read(&mut stream);
    assert_eq!(reply.status, 400, "{reply:?}");
    assert!(reply.body.contains("longer than"), "{reply:?}");
}

#[test]
fn a_client_that_waits_for_100_continue_is_told_to_go_on() {
    let home = Home::new();
    let daemon = home.start(&[]);
    let mut stream = daemon.connect();
    let head = "POST /volumes/create HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 14\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut first = [0; 25];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"{\"Name\":\"vol\"}").unwrap();
    let reply = Reply::read(&mut stream);
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(reply.json()["Name"], "vol");
}

#[test]
fn connections_are_kept_alive() {
    let home = Home::new();
    let daemon = home.start(&[]);
    let mut stream = daemon.connect();
    for _ in 0..3 {
        stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\nOK") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            seen.push(byte[0]);
        }
    }
}

#[test]
fn a_head_without_end_is_refused() {
    let home = Home::new();
    let daemon = home.start(&[]);
    let mut stream = daemon.connect();
    stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\n").unwrap();
    let line = format!("X-Filler: {}\r\n", "a".repeat(8000));
    // It is cut off on the way.
    while stream.write_all(line.as_bytes()).is_ok() {}
    assert_eq!(daemon.get("/_ping").status, 200, "others are served");
}

#[test]
fn streams_send_their_head_at_once() {
    let home = Home::new();
    let daemon = home.start(&[]);
    for (version, kind) in [("1.51", "application/json"), ("1.52", "application/jsonl")] {
        let mut stream = daemon.connect();
        stream.write_all(format!("GET /v{version}/events HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(head.starts_with("http/1.1 200 ok"), "{head}");
        assert!(head.contains(&format!("content-type: {kind}\r\n")), "{head}");
        assert!(head.contains("transfer-encoding: chunked"), "{head}");
    }
}

#[test]
fn attaching_to_nothing_is_told_in_plain_text() {
    let home = Home::new();
    let daemon = home.start(&[]);
    let headers = [("Upgrade", "tcp"), ("Connection", "Upgrade")];
    let mut stream = daemon.connect();
    let mut request = "POST /v1.50/containers/nope/attach?stream=1 HTTP/1.1\r\nHost: x\r\n".to_owned();
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{request}\r\n").as_bytes()).unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"No such container: nope\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
    }
    let seen = String::from_utf8(seen).unwrap();
    assert!(seen.starts_with("HTTP/1.1 404 Not Found\r\n"), "{seen}");
    assert!(seen.to_lowercase().contains("content-type: application/vnd.docker.raw-stream"), "{seen}");
}

/// Whatever is asked is either done or says that it is not, with its name; the table has no dead ends.
#[test]
fn every_route_answers() {
    let home = Home::new();
    // No registry can be reached from here: once is enough to know.
    let daemon = home.start(&["--max-download-attempts", "1"]);
    let mut left = Vec::new();
    for route in ROUTES {
        // It goes on until the client hangs up.
        if route.template == "/events" {
            continue;
        }
        let path = route.template.replace("{checkpoint}", "cp").replace("{profile}", "heap");
        let path = path.replace("{id}", "nope").replace("{name}", "nope");
        let method = route.method.as_str();
        let reply = match route.method {
            Method::Get | Method::Head | Method::Delete => daemon.ask(method, &path, &[], ""),
            Method::Post | Method::Put => {
                daemon.ask(method, &path, &[("Content-Type", "application/json")], "")
            }
        };
        assert!(reply.status < 600 && reply.status != 500, "{method} {path}: {reply:?}");
        assert!(!reply.body.contains("page not found"), "{method} {path}: {reply:?}");
        if reply.status == 501 {
            if route.method != Method::Head {
                let message = reply.json()["message"].as_str().unwrap().to_owned();
                assert!(message.contains("not implemented"), "{method} {path}: {message}");
            }
            left.push(route.operation.name());
        }
    }
    left.dedup();
    println!("{} operations answer 501: {}", left.len(), left.join(", "));
}

#[test]
fn info_and_version_tell_of_this_host() {
    let home = Home::new();
    let daemon = home.start(&["--label", "a=b"]);
    let info = daemon.get("/info").json();
    assert_eq!(info["Swarm"]["LocalNodeState"], "inactive");
    assert_eq!(info["OSType"], "linux");
    assert_eq!(info["CgroupDriver"], "cgroupfs");
    assert_eq!(info["Labels"], serde_json::json!(["a=b"]));
    assert_eq!(info["DockerRootDir"], home.path("data").display().to_string());
    assert!(info["MemTotal"].as_i64().unwrap() > 1 << 20);
    assert!(info["Runtimes"].get("berth").is_some());
    assert!(info["SecurityOptions"].as_array().unwrap().iter().any(|o| o == "name=seccomp,profile=builtin"));
    assert!(info.get("KernelMemoryTCP").is_none());
    assert!(daemon.get("/v1.51/info").json().get("KernelMemoryTCP").is_some());

    let version = daemon.get("/version").json();
    let engine = &version["Components"][0];
    assert_eq!(engine["Name"], "Engine");
    assert_eq!(engine["Details"]["ApiVersion"], ApiVersion::NEWEST.to_string());
    assert_eq!(version["MinAPIVersion"], "1.24");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(version["KernelVersion"], kernel.trim());
}
