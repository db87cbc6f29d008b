// SPDX-License-Identifier: Apache-2.0
//! Volumes of plugins, which are little servers on sockets. The reference engine of `make test-reference` has a /run of its
//! own and does not see them; what is asked and answered is taken from docs.docker.com/engine/extend/plugins_volume.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use berth_tests::harness::{Bed, until};
use serde_json::{Value, json};

/// A volume driver, for as long as this is there.
pub(crate) struct Plugin {
    pub(crate) name: String,
    /// By which it is found.
    file: PathBuf,
    gate: Arc<Mutex<()>>,
    calls: Arc<Mutex<Vec<(String, Value)>>>,
}

#[derive(Default)]
struct Driver {
    volumes: BTreeMap<String, Value>,
    /// Answers to be given instead, by operation.
    instead: BTreeMap<String, String>,
}

impl Plugin {
    pub(crate) fn start(kind: &str, place: &Path, instead: &[(&str, &str)]) -> Self {
        let name = format!("berth-test-{kind}-{}", std::process::id());
        let sockets = Path::new("/run/docker/plugins");
        fs::create_dir_all(sockets).unwrap();
        let socket = sockets.join(format!("{name}.sock"));
        let listener = UnixListener::bind(&socket).unwrap();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let (place, seen) = (place.to_owned(), Arc::clone(&calls));
        let instead = instead.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let gate = Arc::new(Mutex::new(()));
        let through = Arc::clone(&gate);
        let mut driver = Driver { volumes: BTreeMap::new(), instead };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                drop(through.lock().unwrap());
                drop(serve(stream, &mut driver, &place, &seen));
            }
        });
        Self { name, file: socket, gate, calls }
    }

    /// One that is found by a description: a file of this kind with what it says.
    fn described(folder: &str, kind: &str, says: &str) -> Self {
        let name = format!("berth-test-{}-{}", says.len(), std::process::id());
        fs::create_dir_all(folder).unwrap();
        let file = Path::new(folder).join(format!("{name}.{kind}"));
        fs::write(&file, says).unwrap();
        Self { name, file, gate: Arc::default(), calls: Arc::default() }
    }

    /// It answers nobody until this is dropped.
    pub(crate) fn hang(&self) -> std::sync::MutexGuard<'_, ()> {
        self.gate.lock().unwrap()
    }

    /// Bodies of the calls of one operation.
    pub(crate) fn calls(&self, operation: &str) -> Vec<Value> {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|(name, _)| name == operation).map(|(_, body)| body.clone()).collect()
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.file));
    }
}

fn serve(
    stream: impl Read + Write,
    driver: &mut Driver,
    place: &Path,
    seen: &Mutex<Vec<(String, Value)>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    let mut path = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if path.is_empty() {
            path = line.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
        }
        if let Some((name, value)) = line.split_once(':') {
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let asked: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    seen.lock().unwrap().push((path.clone(), asked.clone()));
    if path == "VolumeDriver.Mount" {
        // A driver that waits for a server that does not answer.
        until("the driver goes on", || (!place.join("hold").exists()).then_some(()));
    }
    let name = asked["Name"].as_str().unwrap_or_default().to_owned();
    let directory = place.join(&name);
    let shown =
        |name: &str| json!({"Name": name, "Mountpoint": place.join(name), "Status": {"from": "plugin"}});
    let answer = match driver.instead.get(&path) {
        Some(text) => text.clone(),
        None => match path.as_str() {
            "Plugin.Activate" => json!({"Implements": ["VolumeDriver"]}),
            "VolumeDriver.Create" => {
                fs::create_dir_all(&directory)?;
                driver.volumes.insert(name, asked["Opts"].clone());
                json!({"Err": ""})
            }
            "VolumeDriver.Remove" => {
                driver.volumes.remove(&name);
                json!({"Err": ""})
            }
            "VolumeDriver.Mount" | "VolumeDriver.Path" => json!({"Mountpoint": directory, "Err": ""}),
            "VolumeDriver.Unmount" => json!({"Err": ""}),
            "VolumeDriver.Get" if driver.volumes.contains_key(&name) => json!({"Volume": shown(&name)}),
            "VolumeDriver.Get" => json!({"Err": "no such volume"}),
            "VolumeDriver.List" => {
                json!({"Volumes": driver.volumes.keys().map(|n| shown(n)).collect::<Vec<_>>()})
            }
            "VolumeDriver.Capabilities" => json!({"Capabilities": {"Scope": "global"}}),
            _ => json!({"Err": "unknown"}),
        }
        .to_string(),
    };
    let mut stream = reader.into_inner();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{answer}",
        answer.len()
    )
}

#[test]
fn a_plugin_makes_mounts_lists_and_removes_its_volumes() {
    let mut bed = Bed::start();
    if !bed.is_ours() {
        return bed.finish();
    }
    bed.docker(&["pull", "busybox"]).ok();
    let place = bed.path().join("plugin");
    let plugin = Plugin::start("good", &place, &[]);
    let driver = plugin.name.clone();
    bed.docker(&["volume", "create", "-d", &driver, "-o", "colour=blue", "--label", "l=1", "theirs"]).ok();
    assert_eq!(plugin.calls("VolumeDriver.Create"), [json!({"Name": "theirs", "Opts": {"colour": "blue"}})]);
    let shown = bed
        .docker(&[
            "volume",
            "inspect",
            "-f",
            "{{.Driver}} {{.Scope}} {{.Mountpoint}} {{.Status.from}} {{.Labels.l}}",
            "theirs",
        ])
        .ok();
    assert_eq!(shown, format!("{driver} global {} plugin 1", place.join("theirs").display()));
    let listed = bed.docker(&["volume", "ls", "--format", "{{.Driver}} {{.Name}}"]).ok();
    assert!(listed.lines().any(|line| line == format!("{driver} theirs")), "{listed}");

    bed.docker(&[
        "run",
        "-d",
        "--name",
        "up",
        "-v",
        "theirs:/data",
        "busybox",
        "sh",
        "-c",
        "echo kept > /data/f; exec sleep 1000",
    ])
    .ok();
    until("it was written", || {
        fs::read_to_string(place.join("theirs/f")).ok().filter(|text| text == "kept\n")
    });
    bed.docker(&[
        "run",
        "--rm",
        "--mount",
        &format!("type=volume,volume-driver={driver},source=more,target=/m"),
        "busybox",
        "touch",
        "/m/x",
    ])
    .ok();
    assert!(place.join("more/x").exists());
    bed.kill_daemon();
    bed.start_daemon();
    assert!(bed.docker(&["volume", "rm", "theirs"]).fails(1).contains("in use"));
    let mount =
        plugin.calls("VolumeDriver.Mount").into_iter().rfind(|call| call["Name"] == "theirs").unwrap();
    bed.docker(&["rm", "-f", "up"]).ok();
    until("it is unmounted for whom it was mounted", || {
        plugin.calls("VolumeDriver.Unmount").contains(&mount).then_some(())
    });
    bed.docker(&["volume", "rm", "theirs", "more"]).ok();
    assert_eq!(plugin.calls("VolumeDriver.Remove").len(), 2);
    assert!(bed.docker(&["volume", "inspect", "theirs"]).fails(1).contains("no such volume"));
    bed.finish();
}

#[test]
fn what_a_plugin_refuses_or_says_wrongly_is_told() {
    let bed = Bed::start();
    if !bed.is_ours() {
        return bed.finish();
    }
    bed.docker(&["pull", "busybox"]).ok();
    let place = bed.path().join("plugin");
    let bad = Plugin::start("bad", &place, &[("VolumeDriver.Create", r#"{"Err":"the storage is on fire"}"#)]);
    let error = bed.docker(&["volume", "create", "-d", &bad.name, "v1"]).fails(1);
    assert!(error.contains("VolumeDriver.Create: the storage is on fire"), "{error}");
    let odd = Plugin::start("odd", &place, &[("VolumeDriver.Mount", r#"{"Err":"cannot"}"#)]);
    bed.docker(&["volume", "create", "-d", &odd.name, "v2"]).ok();
    let error = bed.docker(&["run", "--rm", "-v", "v2:/x", "busybox", "true"]).fails(125);
    assert!(error.contains("VolumeDriver.Mount: cannot"), "{error}");
    bed.docker(&["volume", "rm", "v2"]).ok();
    let other = Plugin::start("other", &place, &[("Plugin.Activate", r#"{"Implements":["NetworkDriver"]}"#)]);
    let error = bed.docker(&["volume", "create", "-d", &other.name, "v3"]).fails(1);
    assert!(error.contains("does not implement"), "{error}");
    let lost = Plugin::start(
        "lost",
        &place,
        &[("VolumeDriver.Mount", r#"{"Mountpoint":"../x"}"#), ("VolumeDriver.List", "not JSON")],
    );
    bed.docker(&["volume", "create", "-d", &lost.name, "v4"]).ok();
    let error = bed.docker(&["run", "--rm", "-v", "v4:/x", "busybox", "true"]).fails(125);
    assert!(error.contains("no absolute path"), "{error}");
    let list = bed.api("GET", "/volumes", "").json();
    assert!(list["Warnings"].to_string().contains("no JSON"), "{list}");
    bed.docker(&["volume", "rm", "v4"]).ok();
    for name in ["../evil", "..", "a/b"] {
        assert!(bed.docker(&["volume", "create", "-d", name, "v5"]).fails(1).contains("not found"));
    }
    bed.finish();
}

#[test]
fn plugins_are_found_by_their_descriptions() {
    let bed = Bed::start();
    if !bed.is_ours() {
        return bed.finish();
    }
    bed.docker(&["pull", "busybox"]).ok();
    let place = bed.path().join("plugin");
    let (etc, lib) = ("/etc/docker/plugins", "/usr/lib/docker/plugins");
    let listen = |driver: Driver| {
        // On the daemon's own loopback.
        let listener = bed.netns.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
        let (port, place, mut driver) = (listener.local_addr().unwrap().port(), place.clone(), driver);
        std::thread::spawn(move || {
            let seen = Mutex::default();
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                drop(serve(stream, &mut driver, &place, &seen));
            }
        });
        port
    };
    let socket = bed.path().join("elsewhere.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let beside = place.clone();
    std::thread::spawn(move || {
        let (mut driver, seen) = (Driver::default(), Mutex::default());
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            drop(serve(stream, &mut driver, &beside, &seen));
        }
    });
    let (one, two) = (listen(Driver::default()), listen(Driver::default()));
    let described = [
        Plugin::described(etc, "spec", &format!("tcp://127.0.0.1:{one}\n")),
        Plugin::described(lib, "spec", &format!("unix://{}", socket.display())),
        Plugin::described(
            lib,
            "json",
            &json!({"Name": "x", "Addr": format!("http://localhost:{two}")}).to_string(),
        ),
    ];
    for (n, plugin) in described.iter().enumerate() {
        let volume = format!("described{n}");
        bed.docker(&["volume", "create", "-d", &plugin.name, &volume]).ok();
        let mount = format!("{volume}:/m");
        bed.docker(&["run", "--rm", "-v", &mount, "busybox", "sh", "-c", "echo kept > /m/f"]).ok();
        assert_eq!(fs::read_to_string(place.join(&volume).join("f")).unwrap(), "kept\n");
        let listed = bed.docker(&["volume", "ls", "--format", "{{.Driver}} {{.Name}}"]).ok();
        assert!(listed.lines().any(|line| line == format!("{} {volume}", plugin.name)), "{listed}");
        bed.docker(&["volume", "rm", &volume]).ok();
    }
    drop(described);
    for (kind, says, words) in [
        ("spec", "gopher://hole", "is no address"),
        ("json", "{\"Addr\": 5", "no such JSON"),
        ("json", "{\"Addr\":\"https://127.0.0.1:1\",\"TLSConfig\":{\"CAFile\":\"/x\"}}", "TLS"),
        ("spec", "tcp://127.0.0.1:9", "does not answer"),
    ] {
        let plugin = Plugin::described(etc, kind, says);
        let error = bed.docker(&["volume", "create", "-d", &plugin.name, "none"]).fails(1);
        assert!(error.contains(words), "{says}: {error}");
    }
    assert_eq!(bed.docker(&["volume", "ls", "-q", "--filter", "driver=local"]).ok(), "");
    bed.finish();
}

/// Who gives a start up does not wait for the driver; what it mounts in the end is given back.
#[test]
fn a_start_is_given_up_while_its_driver_hangs() {
    let bed = Bed::start();
    if !bed.is_ours() {
        return bed.finish();
    }
    bed.docker(&["pull", "busybox"]).ok();
    let place = bed.path().join("slow");
    fs::create_dir(&place).unwrap();
    let plugin = Plugin::start("slow", &place, &[]);
    bed.docker(&["volume", "create", "-d", &plugin.name, "slow"]).ok();
    bed.docker(&["create", "--name", "one", "-v", "slow:/x:nocopy", "busybox", "sleep", "1000"]).ok();
    let before = plugin.calls("VolumeDriver.Mount").len();
    fs::write(place.join("hold"), "").unwrap();
    let mut start = bed.command(berth_tests::harness::Cli::Docker, &["start", "one"]).spawn().unwrap();
    until("the driver is asked", || (plugin.calls("VolumeDriver.Mount").len() > before).then_some(()));
    bed.docker(&["kill", "one"]).ok();
    assert!(!start.wait().unwrap().success(), "the start was given up");
    let inspected = bed.docker(&["inspect", "-f", "{{.State.Running}} {{.State.Pid}}", "one"]).ok();
    assert_eq!(inspected, "false 0");
    assert!(place.join("hold").exists());
    fs::remove_file(place.join("hold")).unwrap();
    until("what it mounted is given back", || {
        let calls = |what: &str| plugin.calls(&format!("VolumeDriver.{what}")).len();
        (calls("Mount") == calls("Unmount")).then_some(())
    });
    bed.docker(&["start", "one"]).ok();
    bed.docker(&["rm", "-f", "one"]).ok();
    bed.docker(&["volume", "rm", "slow"]).ok();
    bed.finish();
}
