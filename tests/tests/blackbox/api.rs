// SPDX-License-Identifier: Apache-2.0
//! The API's global rules, byte by byte.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use berth_tests::harness::{Bed, Options};

fn bare() -> Bed {
    Bed::with(Options { registry: false, ..Options::default() })
}

#[test]
fn ping() {
    let bed = bare();
    let get = bed.api("GET", "/_ping", "");
    assert_eq!((get.status, get.text().as_str()), (200, "OK"));
    assert_eq!(get.header("Content-Type"), Some("text/plain; charset=utf-8"));
    for header in
        ["Api-Version", "Server", "Ostype", "Docker-Experimental", "Builder-Version", "Swarm", "Pragma"]
    {
        assert!(get.header(header).is_some(), "{header} is missing: {:?}", get.headers);
    }
    assert_eq!(get.header("Cache-Control"), Some("no-cache, no-store, must-revalidate"));
    let head = bed.api("HEAD", "/_ping", "");
    assert_eq!((head.status, head.header("Content-Length")), (200, Some("0")));
    bed.finish();
}

#[test]
fn versions_and_errors() {
    let bed = bare();
    assert_eq!(bed.api("GET", "/v1.24/containers/json", "").status, 200);
    let new = bed.api("GET", "/v9.99/containers/json", "");
    assert_eq!(new.status, 400);
    assert!(
        new.message().starts_with("client version 9.99 is too new. Maximum supported API version is "),
        "{}",
        new.text()
    );
    assert_eq!(new.header("Content-Type"), Some("application/json"));
    for (method, path) in [("GET", "/nope"), ("DELETE", "/version"), ("POST", "/containers/json/extra/words")]
    {
        let response = bed.api(method, path, "");
        assert_eq!(
            (response.status, response.message().as_str()),
            (404, "page not found"),
            "{method} {path}"
        );
    }
    let swarm = bed.api("GET", "/services", "");
    assert_eq!(swarm.status, 503);
    assert!(swarm.message().starts_with("This node is not a swarm manager."));
    let filter = bed.api("GET", "/containers/json?filters=%7B%22nope%22%3A%5B%22x%22%5D%7D", "");
    assert_eq!((filter.status, filter.message().as_str()), (400, "invalid filter 'nope'"));
    assert_eq!(
        bed.api("GET", "/containers/json?filters=%7B%22label%22%3A%7B%22a%3Db%22%3Atrue%7D%7D", "").status,
        200
    );
    assert_eq!(
        bed.api("GET", "/containers/json?filters=%7B%22label%22%3A%5B%22a%3Db%22%5D%7D", "").status,
        200
    );
    bed.finish();
}

/// Sends a request and reads only the head of the answer, as it arrives.
fn head_of(bed: &Bed, request: &str) -> (String, UnixStream) {
    let mut stream = UnixStream::connect(bed.socket()).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    let mut byte = [0u8];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    (String::from_utf8(head).unwrap(), stream)
}

#[test]
fn streams_send_their_head_at_once() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    bed.docker(&["create", "--name", "ss", "busybox", "echo", "out"]).ok();
    for request in [
        "POST /v1.41/containers/ss/wait?condition=next-exit HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        "GET /v1.41/events HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /v1.41/containers/ss/logs?follow=1&stdout=1 HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let (head, _stream) = head_of(&bed, request);
        assert!(head.starts_with("HTTP/1.1 200 "), "{request}{head}");
    }
    bed.finish();
}

#[test]
fn attach_is_hijacked_with_stdcopy_frames() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    bed.docker(&["create", "--name", "hh", "busybox", "sh", "-c", "echo out; echo err >&2"]).ok();
    let request = "POST /v1.43/containers/hh/attach?stream=1&stdout=1&stderr=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n";
    let (head, mut stream) = head_of(&bed, request);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let lower = head.to_lowercase();
    assert!(lower.contains("content-type: application/vnd.docker.multiplexed-stream\r\n"), "{head}");
    assert!(lower.contains("upgrade: tcp\r\n") && lower.contains("connection: upgrade\r\n"), "{head}");
    assert_eq!(bed.api("POST", "/containers/hh/start", "").status, 204);
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let mut frames = Vec::new();
    let mut rest = all.as_slice();
    while rest.len() >= 8 {
        let size = u32::from_be_bytes(rest[4..8].try_into().unwrap()) as usize;
        frames.push((rest[0], String::from_utf8_lossy(&rest[8..8 + size]).into_owned()));
        rest = &rest[8 + size..];
    }
    assert!(rest.is_empty());
    frames.sort();
    assert_eq!(frames, [(1, "out\n".to_owned()), (2, "err\n".to_owned())]);
    // An error before the hijack is plain text.
    let response = bed.api("POST", "/containers/nosuch/attach?stream=1&stdout=1", "");
    assert_eq!(response.status, 404);
    assert!(response.text().starts_with("No such container: nosuch"), "{}", response.text());
    bed.finish();
}

#[test]
fn start_order_of_docker_run_loses_nothing() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    for _ in 0..20 {
        assert_eq!(
            bed.docker(&["run", "--rm", "--network", "none", "busybox", "echo", "quick"]).ok(),
            "quick"
        );
    }
    bed.finish();
}

#[test]
fn events_come_in_their_order() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let mut events = bed.events("type=container");
    bed.docker(&["run", "--rm", "--name", "ev", "busybox", "true"]).ok();
    let seen = events.until("container destroy ev");
    let own: Vec<&str> =
        seen.iter().filter(|l| l.ends_with(" ev")).map(|l| l.split(' ').nth(1).unwrap()).collect();
    assert_eq!(own, ["create", "attach", "start", "die", "destroy"]);
    bed.finish();
}

#[test]
fn what_is_not_there_yet_says_so() {
    let bed = bare();
    if !bed.is_ours() {
        return;
    }
    let mut absent = Vec::new();
    // Events have no end.
    for route in berth_api::ROUTES.iter().filter(|r| r.template != "/events") {
        let path: String = route
            .template
            .split('/')
            .map(|part| if part.starts_with('{') { "x" } else { part })
            .collect::<Vec<_>>()
            .join("/");
        let response = bed.api(route.method.as_str(), &path, "");
        if response.status == 501 {
            // Answers to HEAD have no body.
            assert!(route.method == berth_api::Method::Head || !response.message().is_empty());
            absent.push(format!("{} {}", route.method.as_str(), route.template));
        }
        assert_ne!(response.status, 500, "{} {}: {}", route.method.as_str(), route.template, response.text());
    }
    println!("answered with 501: {absent:#?}");
    bed.finish();
}

/// Old clients ask for no upgrade: they get 200 and bytes until the connection closes.
#[test]
fn attach_without_upgrade_is_raw_until_close() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    bed.docker(&["create", "--name", "raw", "busybox", "echo", "out"]).ok();
    let request = "POST /v1.43/containers/raw/attach?stream=1&stdout=1&stderr=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    let (head, mut stream) = head_of(&bed, request);
    let lower = head.to_lowercase();
    assert!(head.split(' ').nth(1) == Some("200"), "{head}");
    assert!(lower.contains("content-type: application/vnd.docker.raw-stream\r\n"), "{head}");
    assert!(!lower.contains("content-length") && !lower.contains("transfer-encoding"), "{head}");
    assert_eq!(bed.api("POST", "/containers/raw/start", "").status, 204);
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"\x01\0\0\0\0\0\0\x04out\n");
    bed.finish();
}
