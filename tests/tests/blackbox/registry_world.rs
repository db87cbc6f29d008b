// SPDX-License-Identifier: Apache-2.0
//! What else is asked of registries: all tags, what a name means there, search, mirrors of any registry, proxies,
//! indexes with attestations.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};

use berth_tests::harness::{Bed, NetNs, Options, Output, Registry};
use serde_json::json;

/// A request's head as far as its empty line.
fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && head.first() != Some(&0x16) {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// A server of one's own on the bed's loopback; the heads of what it was asked.
fn serve(
    netns: &NetNs,
    port: u16,
    answer: impl Fn(&str, TcpStream) + Send + Sync + 'static,
) -> Arc<Mutex<Vec<String>>> {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let (log, answer) = (Arc::clone(&heads), Arc::new(answer));
    let listener = netns.run(|| TcpListener::bind(("127.0.0.1", port)).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let head = head(&mut stream);
                // TLS is tried first, and is not spoken here.
                if head.starts_with(|c: char| c.is_ascii_uppercase()) {
                    log.lock().unwrap().push(head.clone());
                    answer(&head, stream);
                }
            });
        }
    });
    heads
}

fn say(mut stream: TcpStream, status: &str, body: &str) {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    // Who asks may hang up.
    drop(stream.write_all(head.as_bytes()));
}

#[test]
fn all_tags_and_what_a_name_means() {
    let bed = Bed::start();
    let registry = Registry::start(&bed, 5001, &bed.path().join("store"), None);
    let repository = format!("{}/many/tags", registry.host);
    for (image, tag) in [("busybox", "1"), ("busybox", "2"), ("redis", "3")] {
        bed.docker(&["pull", "-q", image]).ok();
        bed.docker(&["tag", image, &format!("{repository}:{tag}")]).ok();
    }
    bed.docker(&["push", "-a", &repository]).ok();
    for tag in 1..=3 {
        bed.docker(&["rmi", &format!("{repository}:{tag}")]).ok();
    }
    bed.docker(&["pull", "-a", &repository]).ok();
    let tags = bed.docker(&["images", "--format", "{{.Tag}}", &repository]).ok();
    let mut tags: Vec<&str> = tags.lines().collect();
    tags.sort_unstable();
    assert_eq!(tags, ["1", "2", "3"]);

    let told = bed.api("GET", &format!("/distribution/{repository}:3/json"), "");
    assert_eq!(told.status, 200, "{}", told.text());
    let told = told.json();
    let digests =
        bed.docker(&["image", "inspect", "-f", "{{json .RepoDigests}}", &format!("{repository}:3")]).ok();
    assert!(digests.contains(told["Descriptor"]["digest"].as_str().expect("a digest")), "{told} {digests}");
    assert!(told["Descriptor"]["size"].as_i64() > Some(0), "{told}");
    assert_eq!(told["Platforms"][0]["os"], "linux");
    let missing = bed.api("GET", &format!("/distribution/{repository}:none/json"), "");
    assert!(matches!(missing.status, 401 | 404), "{}", missing.text());
    drop(registry);
    bed.finish();
}

#[test]
fn search_on_a_local_index() {
    let bed = Bed::start();
    let heads = serve(&bed.netns, 5003, |head, stream| {
        let found = json!({"num_results": 3, "num_pages": 1, "page": 1, "query": "redis", "results": [
            {"name": "redis", "description": "a store", "star_count": 100, "is_official": true},
            {"name": "some/redis", "description": "", "star_count": 7, "is_official": false},
            {"name": "other/redis", "description": "x", "star_count": 1, "is_official": false, "is_automated": true},
        ]});
        if head.starts_with("GET /v1/search?") {
            say(stream, "200 OK", &found.to_string());
        } else if head.starts_with("GET /v1/_ping") {
            say(stream, "200 OK", r#"{"standalone": true}"#);
        } else {
            say(stream, "404 Not Found", "{}");
        }
    });
    let search = |filters: &[&str]| {
        let mut args = vec!["search", "--format", "{{.Name}} {{.StarCount}} {{.IsOfficial}}"];
        for filter in filters {
            args.extend(["--filter", *filter]);
        }
        args.push("127.0.0.1:5003/redis");
        bed.docker(&args).ok().lines().map(|l| l.trim_end().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(search(&[]).len(), 3);
    let question = heads.lock().unwrap().iter().find(|h| h.starts_with("GET /v1/search")).cloned();
    let question = question.expect("a question");
    assert!(question.contains("q=redis") && question.contains("n=25"), "{question}");
    assert_eq!(search(&["is-official=true"]), ["redis 100 [OK]"]);
    assert_eq!(search(&["stars=7"]).len(), 2);
    let bad = bed.docker(&["search", "--filter", "nope=1", "127.0.0.1:5003/redis"]).fails(1);
    assert!(bad.contains("invalid filter 'nope"), "{bad}");
    let bad = bed.docker(&["search", "--limit", "101", "127.0.0.1:5003/redis"]).fails(1);
    assert!(bad.contains("outside the range of [1, 100]"), "{bad}");
    bed.finish();
}

/// Containerd's `hosts.toml`: the registry itself need not even be there.
#[test]
fn a_mirror_of_any_registry() {
    let bed = Bed::start();
    if !bed.is_ours() {
        return;
    }
    let dir = bed.path().join("certs.d/registry.example");
    std::fs::create_dir_all(&dir).unwrap();
    let text = "server = \"https://registry.example\"\n[host.\"http://127.0.0.1:5000\"]\n  capabilities = [\"pull\", \"resolve\"]\n";
    std::fs::write(dir.join("hosts.toml"), text).unwrap();
    bed.docker(&["pull", "registry.example/library/busybox"]).ok();
    assert_eq!(bed.docker(&["run", "--rm", "registry.example/library/busybox", "echo", "ok"]).ok(), "ok");
    // A file that cannot be used is said to be so, not passed over.
    std::fs::write(dir.join("hosts.toml"), "server = 7").unwrap();
    let said = bed.docker(&["pull", "registry.example/library/redis"]).fails(1);
    assert!(said.contains("registry.example/hosts.toml") && said.contains("server"), "{said}");
    bed.finish();
}

/// A proxy for plain HTTP: it is asked for whole URLs, and here passes all of them to the fixtures' registry.
fn proxy(netns: &NetNs, port: u16) -> Arc<Mutex<Vec<String>>> {
    let there = netns.clone();
    serve(netns, port, move |head, mut client| {
        let mut words = head.split(' ');
        let (method, url) = (words.next().unwrap(), words.next().unwrap());
        let path =
            url.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..])).unwrap_or("/");
        let rest: String = head
            .split_inclusive("\r\n")
            .skip(1)
            .filter(|l| !l.to_lowercase().starts_with("proxy-"))
            .collect();
        let passed = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n{rest}");
        let mut server = there.run(|| TcpStream::connect("127.0.0.1:5000")).unwrap();
        server.write_all(passed.as_bytes()).unwrap();
        // Who asks may hang up.
        drop(std::io::copy(&mut server, &mut client));
    })
}

#[test]
fn proxies_of_the_environment() {
    let env = [("HTTP_PROXY", "http://me:pw@127.0.0.1:5004"), ("NO_PROXY", "direct.example:81,192.0.2.0/24")];
    let bed = Bed::with(Options {
        env: env.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        flags: ["proxied.example:81", "direct.example", "192.0.2.0/24"]
            .iter()
            .map(|r| format!("--insecure-registry={r}"))
            .chain([
                "--insecure-registry=direct.example:81".to_owned(),
                "--max-download-attempts=1".to_owned(),
            ])
            .collect(),
        ..Options::default()
    });
    if !bed.is_ours() {
        return;
    }
    let heads = proxy(&bed.netns, 5004);
    bed.docker(&["pull", "proxied.example:81/library/busybox"]).ok();
    let asked: Vec<String> = std::mem::take(&mut *heads.lock().unwrap());
    let first = asked.iter().find(|h| h.contains("/manifests/")).expect("a manifest was asked for");
    assert!(first.contains(" http://proxied.example:81/v2/library/busybox/manifests/latest "), "{first}");
    for one in &asked {
        assert!(one.to_lowercase().contains("proxy-authorization: basic bwu6chc="), "{one}");
    }
    // Nobody answers there, and the proxy is not asked.
    bed.docker(&["pull", "direct.example:81/library/busybox"]).fails(1);
    bed.docker(&["pull", "192.0.2.7/library/busybox"]).fails(1);
    assert!(heads.lock().unwrap().is_empty(), "{:?}", heads.lock().unwrap());
    bed.finish();
}

fn put(bed: &Bed, host: &str, path: &str, kind: &str, body: &str) {
    let mut curl = Command::new("curl");
    curl.args(["-sf", "-X", "PUT", "-H", &format!("Content-Type: {kind}"), "--data-binary", body]);
    curl.arg(format!("http://{host}{path}"));
    bed.netns.place(&mut curl);
    Output::of(&mut curl).ok();
}

fn get(bed: &Bed, host: &str, path: &str) -> String {
    let mut curl = Command::new("curl");
    curl.args(["-sf", "-H", "Accept: application/vnd.oci.image.index.v1+json", "-H"]);
    curl.arg("Accept: application/vnd.oci.image.manifest.v1+json").arg(format!("http://{host}{path}"));
    bed.netns.place(&mut curl);
    Output::of(&mut curl).ok()
}

/// An index with a statement about its image, as BuildKit pushes it.
#[test]
fn an_index_with_an_attestation() {
    let bed = Bed::start();
    if !bed.is_ours() {
        return;
    }
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    let registry = Registry::start(&bed, 5001, &bed.path().join("store"), None);
    bed.docker(&["pull", "twelve"]).ok();
    let there = format!("{}/a/attested", registry.host);
    bed.docker(&["tag", "twelve", &format!("{there}:plain")]).ok();
    bed.docker(&["push", &format!("{there}:plain")]).ok();
    let image = bed.api("GET", "/images/twelve/json", "").json();
    let manifest = get(&bed, &registry.host, "/v2/a/attested/manifests/plain");
    let config = &serde_json::from_str::<serde_json::Value>(&manifest).unwrap()["config"];
    // Any blob that is there will do for the statement.
    let statement =
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": []}).to_string();
    let digest = |text: &str| berth_tests::fixtures::oci::digest(text.as_bytes());
    put(
        &bed,
        &registry.host,
        &format!("/v2/a/attested/manifests/{}", digest(&statement)),
        MANIFEST,
        &statement,
    );
    let own = image["Descriptor"]["digest"].as_str().unwrap();
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        {"mediaType": MANIFEST, "digest": own, "size": manifest.len(),
            "platform": {"os": "linux", "architecture": image["Architecture"]}},
        {"mediaType": MANIFEST, "digest": digest(&statement), "size": statement.len(),
            "platform": {"os": "unknown", "architecture": "unknown"},
            "annotations": {"vnd.docker.reference.digest": own, "vnd.docker.reference.type": "attestation-manifest"}},
    ]}).to_string();
    put(&bed, &registry.host, "/v2/a/attested/manifests/1", INDEX, &index);

    bed.docker(&["pull", &format!("{there}:1")]).ok();
    let lines = bed.api("GET", "/images/json?manifests=1", "").json();
    let line =
        lines.as_array().unwrap().iter().find(|l| l["RepoTags"].to_string().contains(":1\"")).expect("it");
    let [told, statement] = &line["Manifests"].as_array().expect("manifests")[..] else { panic!("{line}") };
    assert_eq!(
        (&told["Kind"], &told["Available"], &told["ID"]),
        (&json!("image"), &json!(true), &json!(own))
    );
    assert!(told["Size"]["Content"].as_i64() > Some(manifest.len() as i64), "{told}");
    assert_eq!(told["ImageData"]["Size"]["Unpacked"], image["Size"]);
    assert_eq!((&statement["Kind"], &statement["Available"]), (&json!("attestation"), &json!(false)));
    assert_eq!(statement["AttestationData"]["For"], own);
    assert_eq!(statement["Descriptor"]["annotations"]["vnd.docker.reference.type"], "attestation-manifest");
    let inspected = bed.api("GET", &format!("/images/{there}:1/json?manifests=1"), "").json();
    assert_eq!(inspected["Manifests"], line["Manifests"]);

    // What refers to the image there stays as it is: the index goes back byte for byte.
    bed.docker(&["tag", &format!("{there}:1"), &format!("{there}:2")]).ok();
    bed.docker(&["push", &format!("{there}:2")]).ok();
    assert_eq!(get(&bed, &registry.host, "/v2/a/attested/manifests/2"), index);
    drop(registry);
    bed.finish();
}
