// SPDX-License-Identifier: Apache-2.0
//! Filters and wait conditions, a row each: what is asked, and what comes back. Held to the reference by running there.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{SystemTime, UNIX_EPOCH};

use berth_tests::harness::{Bed, DEADLINE, request, until};
use serde_json::{Value, json};

/// A query's value, percent-encoded.
fn encode(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

/// Rows that came back otherwise than they should.
#[derive(Default)]
struct Rows(Vec<String>);

impl Rows {
    fn check(&mut self, asked: &dyn std::fmt::Display, got: &[&str], wanted: &[&str]) {
        if got != wanted {
            self.0.push(format!("{asked}: {got:?}, not {wanted:?}"));
        }
    }

    #[track_caller]
    fn none_differs(self) {
        assert!(self.0.is_empty(), "\n{}", self.0.join("\n"));
    }
}

#[test]
fn filters_of_lists() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    bed.docker(&["network", "create", "fnet"]).ok();
    bed.docker(&["volume", "create", "fvol"]).ok();
    let run = |args: &[&str]| bed.docker(args).ok();
    let sleep = ["busybox", "sleep", "1000"];
    let with = |args: &[&str]| run(&[args, &sleep].concat());
    let alpha = with(&[
        "run",
        "-d",
        "--name",
        "alpha",
        "--label",
        "color=red",
        "--label",
        "size=",
        "-p",
        "18081:80",
        "--expose",
        "53/udp",
        "--network",
        "fnet",
        "-v",
        "fvol:/data",
    ]);
    bed.docker(&["run", "--name", "beta", "--label", "color=blue", "busybox", "sh", "-c", "exit 3"]).fails(3);
    run(&["commit", "beta", "child:1"]);
    run(&["create", "--name", "gamma", "--network", "none", "child:1", "true"]);
    let delta = with(&["run", "-d", "--name", "delta", "--health-cmd", "true", "--health-interval", "1s"]);
    until("delta is healthy", || {
        let state = bed.api("GET", "/containers/delta/json", "").json();
        (state["State"]["Health"]["Status"] == "healthy").then_some(())
    });
    with(&["run", "-d", "--name", "eps", "--health-cmd", "false", "--health-interval", "1h", "-v", "/anon"]);
    run(&["pause", "eps"]);
    let net = bed.docker(&["network", "inspect", "-f", "{{.Id}}", "fnet"]).ok();

    let ask = |query: &str, filters: &Value| {
        let filters = encode(&filters.to_string());
        bed.api("GET", &format!("/containers/json?{query}&filters={filters}"), "")
    };
    let all = ["alpha", "beta", "delta", "eps", "gamma"];
    let rows: Vec<(&str, Value, &[&str])> = vec![
        ("", json!({}), &["alpha", "delta", "eps"]),
        ("all=1", json!({}), &all),
        ("limit=2", json!({}), &["delta", "eps"]),
        ("limit=0", json!({}), &["alpha", "delta", "eps"]),
        ("limit=1", json!({"status": ["exited"]}), &["beta"]),
        ("", json!({"status": ["exited"]}), &["beta"]),
        ("", json!({"status": ["created", "paused"]}), &["eps", "gamma"]),
        ("", json!({"status": {"running": true}}), &["alpha", "delta"]),
        ("", json!({"status": ["restarting"]}), &[]),
        ("", json!({"exited": ["3"]}), &[]),
        ("all=1", json!({"exited": ["3", "0"]}), &["beta"]),
        ("", json!({"name": ["alpha"]}), &["alpha"]),
        ("", json!({"name": ["beta"]}), &[]),
        ("all=1", json!({"name": ["^/be"]}), &["beta"]),
        ("all=1", json!({"name": ["^be"]}), &["beta"]),
        ("all=1", json!({"name": ["eta"]}), &["beta"]),
        ("all=1", json!({"name": ["lph", "gam"]}), &["alpha", "gamma"]),
        ("all=1", json!({"name": ["a$"]}), &["alpha", "beta", "delta", "gamma"]),
        ("all=1", json!({"id": [&alpha[..12]]}), &["alpha"]),
        ("all=1", json!({"id": [&alpha, &delta[..8]]}), &["alpha", "delta"]),
        ("all=1", json!({"id": ["zzz"]}), &[]),
        ("all=1", json!({"label": ["color"]}), &["alpha", "beta", "gamma"]),
        ("all=1", json!({"label": ["color=red"]}), &["alpha"]),
        ("all=1", json!({"label": ["color=red", "size"]}), &["alpha"]),
        ("all=1", json!({"label": ["color=blue", "size"]}), &[]),
        ("all=1", json!({"label": ["size="]}), &["alpha"]),
        ("all=1", json!({"before": ["gamma"]}), &["alpha", "beta"]),
        ("all=1", json!({"since": ["gamma"]}), &["delta", "eps"]),
        ("all=1", json!({"since": ["alpha"], "before": ["delta"]}), &["beta", "gamma"]),
        ("all=1", json!({"network": ["fnet"]}), &["alpha"]),
        ("all=1", json!({"network": [&net]}), &["alpha"]),
        ("all=1", json!({"network": ["none"]}), &["gamma"]),
        ("all=1", json!({"network": ["fnet", "bridge"]}), &["alpha", "beta", "delta", "eps"]),
        ("all=1", json!({"volume": ["fvol"]}), &["alpha"]),
        ("all=1", json!({"volume": ["/data"]}), &["alpha"]),
        ("all=1", json!({"volume": ["/anon"]}), &["eps"]),
        ("all=1", json!({"volume": ["fv"]}), &[]),
        ("all=1", json!({"publish": ["18081"]}), &["alpha"]),
        ("all=1", json!({"publish": ["18080-18090/tcp"]}), &["alpha"]),
        ("all=1", json!({"publish": ["80"]}), &[]),
        ("all=1", json!({"expose": ["53/udp"]}), &["alpha"]),
        ("all=1", json!({"expose": ["80"]}), &["alpha"]),
        ("all=1", json!({"expose": ["81"]}), &[]),
        ("all=1", json!({"health": ["healthy"]}), &["delta"]),
        ("all=1", json!({"health": ["none"]}), &["alpha", "beta", "gamma"]),
        ("all=1", json!({"health": ["starting", "unhealthy"]}), &["eps"]),
        ("all=1", json!({"is-task": ["true"]}), &[]),
        ("all=1", json!({"is-task": ["false"]}), &all),
        ("all=1", json!({"ancestor": ["busybox"]}), &all),
        ("all=1", json!({"ancestor": ["child:1"]}), &["gamma"]),
        ("all=1", json!({"ancestor": ["no/such"]}), &[]),
        ("all=1", json!({"isolation": ["default"]}), &all),
        ("", json!({"name": ["a"], "label": ["color"], "network": ["fnet"]}), &["alpha"]),
    ];
    let mut wrong = Rows::default();
    for (query, filters, names) in &rows {
        let answer = ask(query, filters);
        let listed = answer.json();
        let Some(listed) = listed.as_array() else {
            wrong.check(&format!("{query} {filters}"), &[&answer.text()], names);
            continue;
        };
        let found: BTreeSet<&str> =
            listed.iter().filter_map(|c| c["Names"][0].as_str()).map(|n| n.trim_start_matches('/')).collect();
        wrong.check(&format!("{query} {filters}"), &found.into_iter().collect::<Vec<_>>(), names);
    }
    for (filters, status, words) in [
        (json!({"nope": ["x"]}), "400", "invalid filter 'nope'"),
        (
            json!({"status": ["nope"]}),
            "400",
            "invalid value for state (nope): must be one of created, running",
        ),
        (json!({"exited": ["x"]}), "400", "strconv.Atoi"),
        (json!({"health": ["x"]}), "400", "must be one of none, starting, healthy, unhealthy"),
        (json!({"before": ["nope"]}), "404", "No such container: nope"),
        (json!({"is-task": ["x"]}), "400", "invalid filter 'is-task=[x]'"),
        // Where a bad request is the reference's own failure.
        (json!({"publish": ["x"]}), if bed.is_ours() { "400" } else { "500" }, "x"),
        (json!([]), "400", "invalid"),
    ] {
        let answer = ask("all=1", &filters);
        let said = if answer.text().contains(words) { words.to_owned() } else { answer.text() };
        wrong.check(&filters, &[&answer.status.to_string(), &said], &[status, words]);
    }
    wrong.none_differs();
    bed.docker(&["rmi", "-f", "child:1"]).ok();
    bed.finish();
}

/// Seconds since 1970 with nanoseconds, as `since` and `until` take them.
fn now() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    format!("{}.{:09}", now.as_secs(), now.subsec_nanos())
}

#[test]
fn filters_of_events() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let run = |args: &[&str]| bed.docker(args).ok();
    let since = now();
    run(&["network", "create", "net-ev"]);
    run(&["volume", "create", "vol-ev"]);
    let id = run(&[
        "create",
        "--name",
        "evbox",
        "--label",
        "kind=one",
        "--label",
        "x",
        "--network",
        "net-ev",
        "-v",
        "vol-ev:/v",
        "busybox",
        "sleep",
        "1000",
    ]);
    run(&["start", "evbox"]);
    run(&["exec", "evbox", "true"]);
    let middle = now();
    run(&["rename", "evbox", "evbox2"]);
    run(&["kill", "evbox2"]);
    until("it has ended", || {
        let state = bed.api("GET", "/containers/evbox2/json", "").json();
        (state["State"]["Status"] == "exited").then_some(())
    });
    run(&["create", "--name", "other", "--label", "kind=two", "--network", "none", "busybox", "true"]);
    run(&["rm", "evbox2"]);
    run(&["volume", "rm", "vol-ev"]);
    run(&["network", "rm", "net-ev"]);
    run(&["tag", "busybox", "tagged:ev"]);
    run(&["rmi", "tagged:ev"]);
    let end = now();
    let between = |since: &str, until: &str, filters: &Value| {
        let filters = encode(&filters.to_string());
        bed.api("GET", &format!("/events?since={since}&until={until}&filters={filters}"), "")
    };
    let lines = |answer: &str| -> Vec<String> {
        let read = |line: &str| {
            let event: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
            let action = event["Action"].as_str().unwrap().split(':').next().unwrap().to_owned();
            let name = event["Actor"]["Attributes"]["name"].as_str().or(event["Actor"]["ID"].as_str());
            format!("{} {action} {}", event["Type"].as_str().unwrap(), name.unwrap())
        };
        answer.lines().map(read).collect()
    };
    let first = [
        "container create evbox",
        "container start evbox",
        "container exec_create evbox",
        "container exec_start evbox",
        "container exec_die evbox",
    ];
    let then = ["container rename evbox2", "container kill evbox2", "container die evbox2"];
    let container: Vec<&str> = first.into_iter().chain(then).chain(["container destroy evbox2"]).collect();
    let network = [
        "network create net-ev",
        "network connect net-ev",
        "network disconnect net-ev",
        "network destroy net-ev",
    ];
    let volume =
        ["volume create vol-ev", "volume mount vol-ev", "volume unmount vol-ev", "volume destroy vol-ev"];
    let other = "container create other";
    let all_containers: Vec<&str> =
        first.into_iter().chain(then).chain([other, "container destroy evbox2"]).collect();
    let image = bed.docker(&["image", "inspect", "-f", "{{.Id}}", "busybox"]).ok();
    let untagged = format!("image untag {image}");
    let rows: Vec<(Value, Vec<&str>)> = vec![
        (json!({"type": ["container"]}), all_containers.clone()),
        (json!({"type": ["network"]}), network.into()),
        (json!({"type": ["volume"]}), volume.into()),
        (json!({"type": ["network", "volume"], "event": ["create"]}), vec![network[0], volume[0]]),
        (json!({"type": ["image"]}), vec!["image tag tagged:ev", &untagged]),
        (json!({"type": ["nope"]}), vec![]),
        (json!({"event": ["create"]}), vec![network[0], volume[0], first[0], other]),
        (json!({"event": ["exec_create"]}), vec![first[2]]),
        (
            json!({"event": ["die", "destroy"], "type": ["container"]}),
            vec![then[2], "container destroy evbox2"],
        ),
        (json!({"container": ["evbox"]}), container.clone()),
        (json!({"container": ["evbox2"]}), vec![then[0], then[1], then[2], "container destroy evbox2"]),
        (json!({"container": [&id]}), container.clone()),
        (json!({"container": [&id[..10]]}), container.clone()),
        (json!({"container": ["evbox", "other"]}), all_containers.clone()),
        (json!({"label": ["kind=one"]}), container.clone()),
        (json!({"label": ["kind"]}), all_containers.clone()),
        (json!({"label": ["kind", "x"]}), container.clone()),
        (json!({"label": ["kind=three"]}), vec![]),
        (json!({"network": ["net-ev"]}), network.into()),
        (json!({"volume": ["vol"]}), volume.into()),
        (
            json!({"image": ["busybox"], "event": ["create", "destroy"]}),
            vec![first[0], other, "container destroy evbox2"],
        ),
        (json!({"image": ["busybox"], "type": ["container"]}), all_containers.clone()),
        (json!({"scope": ["local"], "type": ["network"]}), network.into()),
        (json!({"scope": ["swarm"]}), vec![]),
        (json!({"daemon": ["nobody"]}), vec![]),
    ];
    let mut wrong = Rows::default();
    for (filters, wanted) in &rows {
        let got = lines(&between(&since, &end, filters).text());
        let got: Vec<&str> = got.iter().map(String::as_str).collect();
        wrong.check(filters, &got, wanted);
    }
    // Times bound it on both sides.
    let only = json!({"container": ["evbox"]});
    let got = lines(&between(&since, &middle, &only).text());
    wrong.check(&"until the middle", &got.iter().map(String::as_str).collect::<Vec<_>>(), &first);
    let got = lines(&between(&middle, &end, &only).text());
    let rest: Vec<&str> = then.into_iter().chain(["container destroy evbox2"]).collect();
    wrong.check(&"since the middle", &got.iter().map(String::as_str).collect::<Vec<_>>(), &rest);
    for (query, status) in [
        ("filters=%5B%5D", "400"),
        ("since=x", if bed.is_ours() { "400" } else { "500" }),
        ("since=2&until=1", "400"),
    ] {
        let answer = bed.api("GET", &format!("/events?{query}"), "");
        wrong.check(&query, &[&answer.status.to_string()], &[status]);
    }
    wrong.none_differs();
    bed.finish();
}

#[test]
fn filters_of_prunes() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let run = |args: &[&str]| bed.docker(args).ok();
    // What other tests left on a shared engine.
    run(&["volume", "prune", "-a", "-f"]);
    run(&["create", "--name", "red", "--label", "color=red", "busybox", "true"]);
    run(&["create", "--name", "blue", "--label", "color=blue", "busybox", "true"]);
    run(&["create", "--name", "plain", "busybox", "true"]);
    run(&["run", "-d", "--name", "running", "--label", "color=red", "busybox", "sleep", "1000"]);
    for (name, label) in [("nred", "color=red"), ("nblue", "color=blue")] {
        run(&["network", "create", "--label", label, name]);
        run(&["volume", "create", "--label", label, &format!("v{name}")]);
    }
    // Anonymous ones alone go without being asked for.
    let anonymous = bed.api("POST", "/volumes/create", r#"{"Labels":{"color":"blue"}}"#).json();
    let anonymous = anonymous["Name"].as_str().unwrap().to_owned();
    let later = now();

    let mut wrong = Rows::default();
    let mut prune = |noun: &str, filters: &Value, wanted: &[&str]| {
        let answer = bed.api("POST", &format!("/{noun}/prune?filters={}", encode(&filters.to_string())), "");
        let key = match noun {
            "containers" => "ContainersDeleted",
            "networks" => "NetworksDeleted",
            _ => "VolumesDeleted",
        };
        let gone = answer.json();
        let mut names: Vec<String> = match gone[key].as_array() {
            Some(names) => names.iter().map(|n| n.as_str().unwrap().to_owned()).collect(),
            None if gone[key].is_null() && answer.status == 200 => Vec::new(),
            None => vec![answer.status.to_string()],
        };
        names.sort();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        wrong.check(&format!("{noun} {filters}"), &names, wanted);
    };
    let id = |name: &str| bed.docker(&["inspect", "-f", "{{.Id}}", name]).ok();
    let (red, blue, plain) = (id("red"), id("blue"), id("plain"));
    prune("containers", &json!({"nope": ["x"]}), &["400"]);
    prune("containers", &json!({"until": ["x"]}), &["400"]);
    prune("containers", &json!({"until": ["1", "2"]}), &["400"]);
    prune("containers", &json!({"until": ["1h"]}), &[]);
    prune("containers", &json!({"until": ["1000000000"]}), &[]);
    prune("containers", &json!({"label": ["color=green"]}), &[]);
    prune("containers", &json!({"label": ["color=red"]}), &[&red]);
    prune("containers", &json!({"label!": ["color"]}), &[&plain]);
    prune("containers", &json!({"label": ["color"], "until": [&later]}), &[&blue]);
    prune("containers", &json!({}), &[]);
    prune("networks", &json!({"nope": ["x"]}), &["400"]);
    prune("networks", &json!({"until": ["1h"]}), &[]);
    prune("networks", &json!({"label": ["color=red"]}), &["nred"]);
    prune("networks", &json!({"label!": ["color=red"]}), &["nblue"]);
    prune("volumes", &json!({"nope": ["x"]}), &["400"]);
    prune("volumes", &json!({"until": ["1h"]}), &["400"]);
    prune("volumes", &json!({"label": ["color=red"]}), &[]);
    prune("volumes", &json!({"label": ["color=red"], "all": ["true"]}), &["vnred"]);
    prune("volumes", &json!({}), &[&anonymous]);
    prune("volumes", &json!({"label!": ["color=green"], "all": ["1"]}), &["vnblue"]);
    prune("volumes", &json!({"all": ["x"]}), &["400"]);
    wrong.none_differs();
    assert_eq!(bed.docker(&["ps", "-a", "--format", "{{.Names}}"]).ok(), "running");
    bed.finish();
}

/// A wait whose answer has begun.
struct Waiting(UnixStream);

impl Waiting {
    fn begin(bed: &Bed, path: &str) -> Self {
        let mut stream = UnixStream::connect(bed.socket()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        Self(stream)
    }

    fn has_more(&self) -> bool {
        use rustix::net::{RecvFlags, recv};
        recv(&self.0, &mut [0u8; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT).is_ok()
    }

    /// The JSON that comes.
    fn rest(mut self) -> Value {
        let mut body = String::new();
        self.0.read_to_string(&mut body).unwrap();
        let json = body.find('{').zip(body.rfind('}')).map(|(from, to)| &body[from..=to]);
        json.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_else(|| panic!("{body:?}"))
    }
}

/// What is done once somebody waits.
enum Then {
    Nothing,
    Kill,
    Start,
    Remove,
    KillThenStart,
}

#[test]
fn the_three_conditions_of_wait() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let script = "trap 'exit 7' USR1; touch /ready; while :; do sleep 0.02; done";
    let make = |name: &str, state: &str, remove: bool| {
        let ends = state == "exited" || state == "created";
        let script = if ends { "exit 3" } else { script };
        let mut args = vec!["create", "--name", name];
        args.extend(remove.then_some("--rm"));
        args.extend(["busybox", "sh", "-c", script]);
        bed.docker(&args).ok();
        if state != "created" {
            bed.docker(&["start", name]).ok();
        }
        until("it is as it should be", || {
            let now = bed.api("GET", &format!("/containers/{name}/json"), "").json();
            if now["State"]["Status"] != state {
                return None;
            }
            // Not before it heeds signals.
            (ends || bed.docker(&["exec", name, "test", "-e", "/ready"]).code == 0).then_some(())
        });
    };
    use Then::{Kill, KillThenStart, Nothing, Remove, Start};
    let rows: &[(&str, &str, bool, Then, i64)] = &[
        ("created", "", false, Nothing, 0),
        ("created", "not-running", false, Nothing, 0),
        ("created", "next-exit", false, Start, 3),
        ("created", "removed", false, Remove, 0),
        ("running", "", false, Kill, 7),
        ("running", "not-running", false, Kill, 7),
        ("running", "next-exit", false, Kill, 7),
        ("running", "next-exit", false, KillThenStart, 7),
        ("running", "removed", false, Remove, 137),
        ("running", "removed", true, Kill, 7),
        ("exited", "", false, Nothing, 3),
        ("exited", "not-running", false, Nothing, 3),
        ("exited", "next-exit", false, Start, 3),
        ("exited", "removed", false, Remove, 3),
    ];
    let mut wrong = Rows::default();
    for (number, (state, condition, remove, then, code)) in rows.iter().enumerate() {
        let name = format!("w{number}");
        make(&name, state, *remove);
        let query = if condition.is_empty() { String::new() } else { format!("?condition={condition}") };
        let socket = bed.socket().to_owned();
        let path = format!("/containers/{name}/wait{query}");
        // The head of the answer says that the wait is registered.
        let waiting = Waiting::begin(&bed, &path);
        if !matches!(then, Nothing) {
            assert!(!waiting.has_more(), "{state} {condition:?} was over at once");
        }
        let act = |method: &str, rest: &str| {
            let answer = request(&socket, method, &format!("/containers/{name}{rest}"));
            assert!(answer.status < 300, "{}", answer.text());
        };
        match then {
            Nothing => {}
            Kill => act("POST", "/kill?signal=USR1"),
            Start => act("POST", "/start"),
            Remove => act("DELETE", "?force=1"),
            KillThenStart => {
                act("POST", "/kill?signal=USR1");
                until("it has ended", || {
                    let now = bed.api("GET", &format!("/containers/{name}/json"), "").json();
                    (now["State"]["Status"] == "exited").then_some(())
                });
                act("POST", "/start");
            }
        }
        let got = waiting.rest()["StatusCode"].to_string();
        wrong.check(&format!("{state} {condition:?}"), &[&got], &[&code.to_string()]);
    }
    let bad = bed.api("POST", "/containers/w0/wait?condition=nope", "");
    wrong.check(&"nope", &[&bad.status.to_string()], &["400"]);
    let none = bed.api("POST", "/containers/nope/wait?condition=removed", "");
    wrong.check(&"no container", &[&none.status.to_string()], &["404"]);
    wrong.none_differs();
    bed.finish();
}
