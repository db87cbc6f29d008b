// SPDX-License-Identifier: Apache-2.0
//! Bodies and errors field by field, against those of the reference engine: which fields there are, of which kind, and
//! whether an empty one is `null`, `[]` or `""`. Names, ids, times and sizes differ and are left out.
//!
//! `tests/golden/shapes.json` was recorded from Docker 28.5.2 by this same test: run it there with `BERTH_TEST_RECORD=1`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use berth_tests::harness::{Bed, until};
use serde_json::{Value, json};

/// Where we differ on purpose, as `request: path`; `*` for any request. Each with its reason.
const ON_PURPOSE: &[&str] = &[
    // No containerd underneath: the driver is overlay2, whose directories clients may look for; the manifest's descriptor
    // is for engines that keep several platforms of an image.
    "*: .GraphDriver",
    "*: .Driver",
    "*: .ImageManifestDescriptor",
    "*: .0.ImageManifestDescriptor",
    // The runtime is our own.
    "*: .HostConfig.Runtime",
    "GET /info: .DefaultRuntime",
    "GET /info: .Runtimes",
    "GET /info: .RuncCommit",
    "GET /info: .Containerd",
    // What this engine has, and what the reference has.
    "GET /info: .DriverStatus",
    "GET /info: .FirewallBackend",
    "GET /info: .KernelMemoryTCP",
    "GET /info: .LiveRestoreEnabled",
    "GET /info: .OSVersion",
    "GET /info: .Plugins",
    "GET /version: .BuildTime",
    "GET /version: .GitCommit",
    "GET /version: .Components",
    "GET /version: .Platform",
    // The place of a volume is told in lists too.
    "GET /containers/json?all=1&filters={\"label\":[]}: .0.Mounts",
    "GET /containers/json?all=1&filters={\"name\":[\"full\"]}: .0.Mounts",
    "GET /containers/json?filters={\"name\":[\"full\"]}: .0.Mounts",
    "GET /system/df: .Containers.0.Mounts",
    "GET /system/df: .Containers.1.Mounts",
    // An image is known with its manifest's descriptor, and since when it has its name.
    "*: .Descriptor",
    "*: .0.Descriptor",
    "GET /system/df: .Images.0.Descriptor",
    "GET /images/busybox/json: .Metadata.LastTagTime",
    // Kernel features that the reference asks of other programs.
    "*: .NetworkSettings.SandboxKey",
    // What the cgroup hierarchy and the number of processors make of it.
    "stats",
    // Our own words, which say more or do not speak of Go.
    "limit=x",
    "since=x",
    "publish",
    "CpusetCpus",
    "b@d:::",
    "IPAMConfig\":{\"IPv4Address\":\"nope",
    // An engine without quotas says so.
    "StorageOpt",
];

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/shapes.json")
}

/// A value with all that differs between runs taken out.
fn shape(value: &Value) -> Value {
    match value {
        Value::String(text) if text.is_empty() => json!(""),
        Value::String(text) if text.starts_with("0001-01-01") => json!("no time"),
        Value::String(text) if text.len() >= 20 && text.as_bytes()[4] == b'-' && text.ends_with('Z') => {
            json!("time")
        }
        Value::String(text) if text.chars().any(|c| c.is_ascii_digit() || c == '/') => json!("text"),
        Value::Number(n) if n.as_f64() != Some(0.0) => json!("number"),
        Value::Array(items) => {
            // The reference lists mounts and ports in the order of a hash table.
            let mut items: Vec<&Value> = items.iter().collect();
            items.sort_by_key(|item| {
                let text = |key: &str| item[key].as_str().unwrap_or_default().to_owned();
                let name = item["Names"][0].as_str().unwrap_or_default().to_owned();
                // Names of anonymous volumes are as random as the order; what else is in them is not.
                let named = if text("Name").len() == 64 { "~".to_owned() } else { text("Name") };
                (text("Destination"), item["PublicPort"].as_u64(), name, named)
            });
            items.into_iter().map(shape).collect()
        }
        Value::Object(fields) => fields.iter().map(|(k, v)| (k.clone(), shape(v))).collect(),
        other => other.clone(),
    }
}

/// Ids and addresses in messages.
fn words(message: &str) -> String {
    let mut out: Vec<String> = Vec::new();
    for word in message.split(' ') {
        let bare: String = word.chars().filter(char::is_ascii_hexdigit).collect();
        out.push(if bare.len() >= 12 { "ID".to_owned() } else { word.replace("runc", "berth-shim") });
    }
    out.join(" ")
}

struct Recorder<'a> {
    bed: &'a Bed,
    seen: BTreeMap<String, Value>,
}

impl Recorder<'_> {
    fn ask(&mut self, name: &str, method: &str, path: &str, body: &Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let encoded = path.replace('{', "%7B").replace('}', "%7D").replace('"', "%22");
        let answer = self.bed.api(method, &format!("/v1.51{encoded}"), &body);
        let value: Value = serde_json::from_slice(&answer.body).unwrap_or_else(|_| json!(answer.text()));
        let seen = match value.get("message").and_then(Value::as_str) {
            Some(message) if answer.status >= 400 => json!(words(message)),
            _ => shape(&value),
        };
        let kind = answer.header("content-type").unwrap_or_default().to_owned();
        self.seen.insert(name.to_owned(), json!({"status": answer.status, "type": kind, "body": seen}));
        value
    }

    fn get(&mut self, path: &str) -> Value {
        self.ask(&format!("GET {path}"), "GET", path, &Value::Null)
    }

    fn post(&mut self, path: &str, body: &Value) -> Value {
        let name = if body.is_null() { format!("POST {path}") } else { format!("POST {path} {body}") };
        self.ask(&name, "POST", path, body)
    }

    fn delete(&mut self, path: &str) {
        self.ask(&format!("DELETE {path}"), "DELETE", path, &Value::Null);
    }
}

fn compare(at: &str, theirs: &Value, ours: &Value, out: &mut Vec<String>) {
    match (theirs, ours) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
                let path = format!("{at}.{key}");
                match (a.get(key), b.get(key)) {
                    (Some(x), Some(y)) => compare(&path, x, y, out),
                    (Some(x), None) => out.push(format!("{path}: {x} is missing")),
                    (_, y) => out.push(format!("{path}: {} is invented", y.unwrap_or(&Value::Null))),
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (x, y)) in a.iter().zip(b).enumerate() {
                compare(&format!("{at}.{i}"), x, y, out);
            }
        }
        _ if theirs == ours => {}
        _ => out.push(format!("{at}: {theirs} there, {ours} here")),
    }
}

fn on_purpose(request: &str, difference: &str) -> bool {
    ON_PURPOSE.iter().any(|rule| match rule.split_once(": ") {
        Some(("*", path)) => difference.strip_prefix(path).is_some_and(|rest| rest.starts_with([':', '.'])),
        Some((which, path)) => request == which && difference.starts_with(path),
        None => request.contains(rule),
    })
}

fn walk(bed: &Bed) -> BTreeMap<String, Value> {
    let mut r = Recorder { bed, seen: BTreeMap::new() };
    let none = Value::Null;
    bed.docker(&["volume", "prune", "-a", "-f"]).ok();
    bed.docker(&["pull", "busybox"]).ok();
    bed.docker(&["network", "create", "--subnet", "172.30.0.0/24", "gn"]).ok();
    bed.docker(&["volume", "create", "gv"]).ok();

    // A plain one, through all its states.
    r.post("/containers/create?name=plain", &json!({"Image": "busybox", "Cmd": ["sleep", "1000"]}));
    r.get("/containers/plain/json");
    r.post("/containers/plain/start", &none);
    r.post("/containers/plain/start", &none);
    r.get("/containers/plain/json?size=0");
    r.get("/containers/json");
    r.post("/containers/plain/pause", &none);
    r.post("/containers/plain/pause", &none);
    r.get("/containers/json?all=1");
    r.delete("/containers/plain");
    r.post("/containers/plain/unpause", &none);
    r.post("/containers/plain/unpause", &none);
    r.get("/containers/plain/top");
    r.get("/containers/plain/top?ps_args=aux");
    r.post("/containers/plain/update", &json!({"Memory": 67108864, "MemorySwap": 134217728}));
    r.post("/containers/plain/update", &json!({"CpuPeriod": 1}));
    r.post("/containers/plain/update", &json!({"RestartPolicy": {"Name": "nope"}}));
    r.get("/containers/plain/changes");
    r.post("/containers/plain/rename?name=", &none);
    r.post("/containers/plain/rename?name=plain", &none);
    r.post("/containers/plain/rename?name=b@d", &none);
    r.post("/containers/plain/resize?h=1", &none);
    r.post("/containers/plain/kill?signal=NOPE", &none);
    r.post("/containers/plain/wait?condition=nope", &none);
    let exec = r.post("/containers/plain/exec", &json!({"Cmd": ["sh", "-c", "exit 3"]}));
    let exec = exec["Id"].as_str().unwrap().to_owned();
    r.ask("POST exec start", "POST", &format!("/exec/{exec}/start"), &json!({"Detach": true}));
    until("the exec has ended", || {
        let seen = bed.api("GET", &format!("/exec/{exec}/json"), "").json();
        (seen["Running"] == json!(false)).then_some(())
    });
    r.ask("GET exec", "GET", &format!("/exec/{exec}/json"), &none);
    r.ask("POST exec start again", "POST", &format!("/exec/{exec}/start"), &json!({"Detach": true}));
    r.post("/containers/plain/exec", &json!({}));
    r.get("/exec/nope/json");
    r.post("/containers/plain/stop?t=0", &none);
    r.post("/containers/plain/stop", &none);
    r.get("/containers/plain/json?size=1");
    r.post("/containers/plain/wait", &none);
    r.post("/containers/plain/kill", &none);
    r.post("/containers/plain/pause", &none);
    r.get("/containers/plain/top");
    r.post("/containers/plain/exec", &json!({"Cmd": ["true"]}));
    r.post("/containers/plain/resize?h=1&w=1", &none);
    r.get("/containers/plain/logs");
    r.get("/containers/plain/stats?stream=0&one-shot=1");

    // One with everything.
    r.post(
        "/containers/create?name=full",
        &json!({"Image": "busybox", "Cmd": ["sleep", "1000"], "Hostname": "hh", "Env": ["A=b"],
            "Labels": {"x": "y"}, "ExposedPorts": {"80/tcp": {}, "53/udp": {}}, "Volumes": {"/anon": {}},
            "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 1000000000u64},
            "StopSignal": "SIGUSR1", "StopTimeout": 3,
            "HostConfig": {"Binds": ["gv:/data", "/tmp:/host:ro"], "NetworkMode": "gn",
                "Mounts": [{"Type": "tmpfs", "Target": "/mt"}, {"Type": "volume", "Source": "gv", "Target": "/again"}],
                "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18082"}]},
                "RestartPolicy": {"Name": "unless-stopped"}, "CapAdd": ["NET_ADMIN"], "Dns": ["1.1.1.1"],
                "ExtraHosts": ["foo:1.2.3.4"], "Tmpfs": {"/t": ""}, "Sysctls": {"net.ipv4.ip_forward": "1"},
                "Memory": 67108864, "NanoCpus": 500000000,
                "Ulimits": [{"Name": "nofile", "Hard": 2048, "Soft": 1024}], "SecurityOpt": ["no-new-privileges"]},
            "NetworkingConfig": {"EndpointsConfig": {"gn": {"Aliases": ["al"],
                "IPAMConfig": {"IPv4Address": "172.30.0.9"}}}}}),
    );
    r.get("/containers/full/json");
    r.post("/containers/full/start", &none);
    until("it is healthy", || {
        let seen = bed.api("GET", "/containers/full/json", "").json();
        (seen["State"]["Health"]["Status"] == "healthy").then_some(())
    });
    r.ask("GET full running", "GET", "/containers/full/json", &none);
    r.get("/containers/json?filters={\"name\":[\"full\"]}");
    r.post("/containers/full/stop?t=0", &none);
    r.ask("GET full stopped", "GET", "/containers/full/json", &none);
    r.get("/containers/json?all=1&filters={\"name\":[\"full\"]}");

    // The engine itself, and what the containers are of.
    for path in [
        "/info",
        "/version",
        "/system/df",
        // What other tests left on a shared engine is none of it.
        "/networks?filters={\"name\":[\"gn\",\"bridge\",\"host\",\"none\"]}",
        "/networks/gn",
        "/networks/none",
        "/volumes",
        "/volumes/gv",
        "/images/json",
        "/images/busybox/json",
        "/images/busybox/history",
        "/_ping",
    ] {
        r.get(path);
    }

    // Refusals.
    let image = |more: Value| {
        let mut body = json!({"Image": "busybox", "Cmd": ["true"]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for more in [
        json!({"HostConfig": {"Memory": 1000}}),
        json!({"HostConfig": {"MemorySwap": 1000}}),
        json!({"HostConfig": {"Memory": 67108864, "MemorySwap": 1000}}),
        json!({"HostConfig": {"MemorySwappiness": 200}}),
        json!({"HostConfig": {"CpuPeriod": 1}}),
        json!({"HostConfig": {"CpuQuota": 1}}),
        json!({"HostConfig": {"NanoCpus": -1}}),
        json!({"HostConfig": {"NanoCpus": 1, "CpuQuota": 10000}}),
        json!({"HostConfig": {"CpusetCpus": "9000"}}),
        json!({"HostConfig": {"CpusetCpus": "x"}}),
        json!({"HostConfig": {"BlkioWeight": 1}}),
        json!({"HostConfig": {"OomScoreAdj": 2000}}),
        json!({"HostConfig": {"ShmSize": -1}}),
        json!({"HostConfig": {"IpcMode": "nope"}}),
        json!({"HostConfig": {"PidMode": "nope"}}),
        json!({"HostConfig": {"UTSMode": "nope"}}),
        json!({"HostConfig": {"UsernsMode": "nope"}}),
        json!({"HostConfig": {"CgroupnsMode": "nope"}}),
        json!({"HostConfig": {"NetworkMode": "container:"}}),
        json!({"HostConfig": {"IpcMode": "container:nope"}}),
        json!({"HostConfig": {"PidMode": "container:nope"}}),
        json!({"HostConfig": {"CapAdd": ["NOPE"]}}),
        json!({"HostConfig": {"SecurityOpt": ["nope"]}}),
        json!({"HostConfig": {"SecurityOpt": ["seccomp=nope"]}}),
        json!({"HostConfig": {"Runtime": "nope"}}),
        json!({"HostConfig": {"Isolation": "hyperv"}}),
        json!({"HostConfig": {"RestartPolicy": {"Name": "nope"}}}),
        json!({"HostConfig": {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 3}}}),
        json!({"HostConfig": {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": -1}}}),
        json!({"HostConfig": {"AutoRemove": true, "RestartPolicy": {"Name": "always"}}}),
        json!({"HostConfig": {"LogConfig": {"Type": "nope"}}}),
        json!({"HostConfig": {"LogConfig": {"Type": "json-file", "Config": {"nope": "1"}}}}),
        json!({"HostConfig": {"LogConfig": {"Type": "json-file", "Config": {"max-size": "x"}}}}),
        json!({"HostConfig": {"Binds": ["x"]}}),
        json!({"HostConfig": {"Binds": ["/a:/b:nope"]}}),
        json!({"HostConfig": {"Binds": ["/a:b"]}}),
        json!({"HostConfig": {"Binds": ["gv:/a", "gv:/a"]}}),
        json!({"HostConfig": {"Mounts": [{"Type": "bind", "Source": "/no/such", "Target": "/x"}]}}),
        json!({"HostConfig": {"Mounts": [{"Type": "nope", "Target": "/x"}]}}),
        json!({"HostConfig": {"Mounts": [{"Type": "volume", "Target": ""}]}}),
        json!({"HostConfig": {"VolumesFrom": ["nope"]}}),
        json!({"HostConfig": {"Tmpfs": {"/t": "nope=1"}}}),
        json!({"HostConfig": {"Sysctls": {"kernel.nope": "1"}}}),
        json!({"HostConfig": {"Ulimits": [{"Name": "nope", "Hard": 1, "Soft": 1}]}}),
        json!({"HostConfig": {"Ulimits": [{"Name": "nofile", "Hard": 1, "Soft": 2}]}}),
        json!({"HostConfig": {"Devices": [{"PathOnHost": "/no/such", "PathInContainer": "/dev/x", "CgroupPermissions": "rwm"}]}}),
        json!({"HostConfig": {"DeviceCgroupRules": ["nope"]}}),
        json!({"HostConfig": {"ExtraHosts": ["nope"]}}),
        json!({"HostConfig": {"ExtraHosts": ["a:nope"]}}),
        json!({"HostConfig": {"Dns": ["nope"]}}),
        json!({"HostConfig": {"Links": ["nope:x"]}}),
        json!({"HostConfig": {"Links": ["a:b:c"]}}),
        json!({"HostConfig": {"NetworkMode": "host", "Links": ["plain:x"]}}),
        json!({"HostConfig": {"PortBindings": {"nope": []}}}),
        json!({"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "99999"}]}}}),
        json!({"HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": "nope"}]}}}),
        json!({"HostConfig": {"Annotations": {"": "x"}}}),
        json!({"HostConfig": {"StorageOpt": {"nope": "1"}}}),
        json!({"HostConfig": {"NetworkMode": "host", "PublishAllPorts": true}}),
        json!({"ExposedPorts": {"nope": {}}}),
        json!({"WorkingDir": "relative"}),
        json!({"Env": ["=x"]}),
        json!({"Env": [""]}),
        json!({"Hostname": "a/b"}),
        json!({"StopSignal": "NOPE"}),
        json!({"Cmd": [], "Entrypoint": []}),
        json!({"Healthcheck": {"Test": ["CMD"], "Interval": 1}}),
        json!({"Healthcheck": {"Test": ["NOPE"]}}),
        json!({"Healthcheck": {"Test": ["CMD", "true"], "Retries": -1}}),
        json!({"MacAddress": "nope"}),
        json!({"NetworkingConfig": {"EndpointsConfig": {"gn": {"IPAMConfig": {"IPv4Address": "nope"}}}}}),
        json!({"Image": "no/such"}),
        json!({"Image": "b@d:::"}),
        json!({"Image": ""}),
        json!({"Nope": 1}),
    ] {
        let made = r.post("/containers/create", &image(more));
        if let Some(id) = made["Id"].as_str() {
            drop(r.bed.api("DELETE", &format!("/containers/{id}?force=1&v=1"), ""));
        }
    }
    for path in ["json", "top", "changes", "logs?stdout=1", "stats", "export", "archive?path=/", "nope"] {
        r.get(&format!("/containers/nope/{path}"));
    }
    for verb in [
        "start",
        "stop",
        "kill",
        "restart",
        "pause",
        "unpause",
        "wait",
        "rename?name=x",
        "resize?h=1&w=1",
        "attach",
    ] {
        r.post(&format!("/containers/nope/{verb}"), &none);
    }
    r.post("/containers/nope/update", &json!({}));
    r.post("/containers/nope/exec", &json!({"Cmd": ["true"]}));
    r.delete("/containers/nope");
    r.delete("/containers/nope?force=1");
    for filters in [
        "{\"nope\":[\"x\"]}",
        "nope",
        "{\"status\":[\"nope\"]}",
        "{\"exited\":[\"x\"]}",
        "{\"health\":[\"x\"]}",
        "{\"before\":[\"nope\"]}",
        "{\"volume\":[\"nope\"]}",
        "{\"is-task\":[\"x\"]}",
        "{\"publish\":[\"x\"]}",
        "{\"label\":[]}",
    ] {
        r.get(&format!("/containers/json?all=1&filters={filters}"));
    }
    r.get("/containers/json?limit=x");
    r.post("/containers/prune?filters={\"nope\":[\"x\"]}", &none);
    r.post("/containers/prune?filters={\"until\":[\"x\"]}", &none);
    r.get("/events?since=2&until=1");
    r.get("/events?since=x");
    r.get("/events?until=1&filters={\"nope\":[\"x\"]}");
    r.delete("/containers/plain");
    r.delete("/containers/full?v=1");
    r.post("/containers/prune", &none);
    r.seen
}

#[test]
fn bodies_and_errors_are_the_references() {
    let bed = Bed::start();
    let seen = walk(&bed);
    bed.docker(&["network", "rm", "gn"]).ok();
    bed.docker(&["volume", "rm", "gv"]).ok();
    if std::env::var_os("BERTH_TEST_RECORD").is_some() {
        assert!(!bed.is_ours(), "recordings are made of the reference engine");
        std::fs::write(file(), serde_json::to_string_pretty(&seen).unwrap() + "\n").unwrap();
    }
    let recorded: BTreeMap<String, Value> =
        serde_json::from_str(&std::fs::read_to_string(file()).expect("the recording")).expect("JSON");
    let mut wrong = Vec::new();
    for (request, theirs) in &recorded {
        let Some(ours) = seen.get(request) else {
            wrong.push(format!("{request}: not asked any more"));
            continue;
        };
        let mut differences = Vec::new();
        // Bad input is told at create, not first at start, and is never taken for our own failure.
        if (theirs["status"] == 201 && ours["status"] == 400)
            || (theirs["status"] == 500 && ours["status"] == 400 && theirs["body"] == ours["body"])
        {
            continue;
        }
        for field in ["status", "type"] {
            if theirs[field] != ours[field] {
                differences.push(format!("{field}: {} there, {} here", theirs[field], ours[field]));
            }
        }
        compare("", &theirs["body"], &ours["body"], &mut differences);
        differences.retain(|difference| !on_purpose(request, difference));
        wrong.extend(differences.into_iter().map(|difference| format!("{request}\n    {difference}")));
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
    bed.finish();
}
