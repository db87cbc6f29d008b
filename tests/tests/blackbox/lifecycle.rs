// SPDX-License-Identifier: Apache-2.0
//! From start to end and again: restart policies, stopping, signals, health, statistics, names.

use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::net::UnixStream;

use berth_tests::harness::{Bed, DEADLINE, until};
use serde_json::Value;

fn inspect(bed: &Bed, name: &str) -> Value {
    bed.api("GET", &format!("/containers/{name}/json"), "").json()
}

#[test]
fn restart_policies_restart_as_often_as_they_say() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let run = |name: &str, policy: &str, script: &str| {
        bed.docker(&["run", "-d", "--name", name, "--restart", policy, "busybox", "sh", "-c", script]).ok();
    };
    run("thrice", "on-failure:2", "echo run; exit 5");
    run("content", "on-failure:2", "echo run; exit 0");
    run("never", "no", "exit 6");
    run("ever", "always", "echo run; exit 0");
    // It fails until its file is there.
    run("heals", "on-failure", "test -e /x && exec sleep 1000; touch /x; exit 1");
    let settles = |name: &str, status: &str, code: i64, restarts: i64| {
        until(&format!("{name} has come to rest"), || {
            let seen = inspect(&bed, name);
            (seen["State"]["Status"] == status && seen["RestartCount"] == restarts).then_some(())
        });
        assert_eq!(inspect(&bed, name)["State"]["ExitCode"], code, "{name}");
    };
    settles("thrice", "exited", 5, 2);
    assert_eq!(bed.docker(&["logs", "thrice"]).ok(), "run\nrun\nrun");
    settles("content", "exited", 0, 0);
    settles("never", "exited", 6, 0);
    settles("heals", "running", 0, 1);
    until("it has been started again and again", || {
        (inspect(&bed, "ever")["RestartCount"].as_i64()? >= 2).then_some(())
    });
    // Whoever stops it has the last word, also between two runs.
    bed.docker(&["stop", "-t", "1", "ever"]).ok();
    let seen = inspect(&bed, "ever");
    assert_eq!((&seen["State"]["Status"], &seen["State"]["Restarting"]), (&"exited".into(), &false.into()));
    // A person's start begins to count anew.
    bed.docker(&["update", "--restart", "no", "thrice"]).ok();
    bed.docker(&["start", "thrice"]).ok();
    settles("thrice", "exited", 5, 0);
    bed.docker(&["kill", "heals"]).ok();
    // Killed by hand is not failed.
    until("it has ended", || (inspect(&bed, "heals")["State"]["Status"] == "exited").then_some(()));
    bed.finish();
}

#[test]
fn stopping_asks_first_and_kills_then() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let run = |name: &str, more: &[&str], script: &str| {
        let script = format!("{script}; touch /ready; while :; do sleep 0.02; done");
        bed.docker(&[&["run", "-d", "--name", name][..], more, &["busybox", "sh", "-c", &script]].concat())
            .ok();
        until("it heeds signals", || {
            (bed.docker(&["exec", name, "test", "-e", "/ready"]).code == 0).then_some(())
        });
    };
    let code = |name: &str| inspect(&bed, name)["State"]["ExitCode"].as_i64().unwrap();
    run("deaf", &[], "trap '' TERM");
    bed.docker(&["stop", "-t", "1", "deaf"]).ok();
    assert_eq!(code("deaf"), 137);
    run("polite", &[], "trap 'exit 9' TERM");
    bed.docker(&["stop", "polite"]).ok();
    assert_eq!(code("polite"), 9);
    run("own", &["--stop-signal", "USR2"], "trap 'exit 8' USR2; trap '' TERM");
    bed.docker(&["stop", "own"]).ok();
    assert_eq!(code("own"), 8);
    bed.docker(&["start", "own"]).ok();
    until("it heeds signals", || {
        (bed.docker(&["exec", "own", "test", "-e", "/ready"]).code == 0).then_some(())
    });
    // Another signal for once.
    run("once", &[], "trap 'exit 6' HUP; trap '' TERM");
    bed.docker(&["stop", "-s", "HUP", "once"]).ok();
    assert_eq!(code("once"), 6);
    // By name, by number, by half a name; and what is none.
    for (signal, wanted) in [("SIGUSR1", 138), ("usr1", 138), ("10", 138), ("SIGRTMIN+3", 165), ("KILL", 137)]
    {
        let name = format!("k{signal}").replace('+', "-");
        bed.docker(&["run", "-d", "--init", "--name", &name, "busybox", "sleep", "1000"]).ok();
        bed.docker(&["kill", "-s", signal, &name]).ok();
        assert_eq!(bed.docker(&["wait", &name]).ok(), wanted.to_string(), "{signal}");
    }
    for signal in ["NOPE", "0", "65", "-1"] {
        let answer = bed.api("POST", &format!("/containers/own/kill?signal={signal}"), "");
        assert_eq!(answer.status, 400, "{signal}: {}", answer.text());
    }
    bed.finish();
}

#[test]
fn health_is_judged_by_what_the_check_says() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let run = |name: &str, check: &str, more: &[&str]| {
        let args = ["run", "-d", "--name", name, "--health-cmd", check, "--health-interval", "100ms"];
        bed.docker(&[&args[..], more, &["busybox", "sleep", "1000"]].concat()).ok();
    };
    let health = |name: &str| inspect(&bed, name)["State"]["Health"].clone();
    let becomes = |name: &str, status: &str| {
        until(&format!("{name} is {status}"), || (health(name)["Status"] == status).then_some(()));
    };
    run("well", "echo fine", &[]);
    run("ill", "echo so bad; exit 3", &["--health-retries", "2"]);
    run("slow", "echo begins; sleep 1000", &["--health-timeout", "1s", "--health-retries", "1"]);
    // Failures do not count before the period is over, a success ends it.
    run(
        "young",
        "exit 1",
        &["--health-start-period", "1h", "--health-start-interval", "100ms", "--health-retries", "1"],
    );
    run(
        "grown",
        "test -e /up",
        &["--health-start-period", "1h", "--health-start-interval", "100ms", "--health-retries", "1"],
    );
    becomes("well", "healthy");
    let first = health("well")["Log"][0].clone();
    assert_eq!((&first["ExitCode"], &first["Output"]), (&0.into(), &"fine\n".into()), "{first}");
    becomes("ill", "unhealthy");
    let ill = health("ill");
    assert!(ill["FailingStreak"].as_i64().unwrap() >= 2, "{ill}");
    assert_eq!((&ill["Log"][0]["ExitCode"], &ill["Log"][0]["Output"]), (&3.into(), &"so bad\n".into()));
    becomes("slow", "unhealthy");
    let slow = health("slow");
    assert_eq!(slow["Log"][0]["ExitCode"], -1, "{slow}");
    assert!(slow["Log"][0]["Output"].as_str().unwrap().contains("exceeded timeout (1s)"), "{slow}");
    until("several probes have failed", || (health("young")["Log"].as_array()?.len() >= 3).then_some(()));
    assert_eq!(
        (&health("young")["Status"], &health("young")["FailingStreak"]),
        (&"starting".into(), &0.into())
    );
    bed.docker(&["exec", "grown", "touch", "/up"]).ok();
    becomes("grown", "healthy");
    bed.docker(&["exec", "grown", "rm", "/up"]).ok();
    becomes("grown", "unhealthy");
    let mut events = bed.events("container=ill");
    events.until("container health_status: unhealthy ill");
    drop(events);
    // Five probes are remembered.
    until("five are there", || (health("well")["Log"].as_array()?.len() == 5).then_some(()));
    let ps = bed.docker(&["ps", "--filter", "name=well", "--format", "{{.Status}}"]).ok();
    assert!(ps.starts_with("Up ") && ps.ends_with("(healthy)"), "{ps}");

    // An image's own check, and no check at all.
    bed.docker(&["create", "--name", "base", "busybox"]).ok();
    bed.docker(&[
        "commit",
        "-c",
        "HEALTHCHECK --interval=100ms CMD test -e /etc/passwd",
        "base",
        "checked:1",
    ])
    .ok();
    bed.docker(&["run", "-d", "--name", "own", "checked:1", "sleep", "1000"]).ok();
    becomes("own", "healthy");
    bed.docker(&["run", "-d", "--name", "none", "--no-healthcheck", "checked:1", "sleep", "1000"]).ok();
    assert!(inspect(&bed, "none")["State"].get("Health").is_none_or(Value::is_null));
    bed.docker(&["rm", "-f", "base", "own", "none"]).ok();
    bed.docker(&["rmi", "checked:1"]).ok();
    bed.finish();
}

#[test]
fn statistics_come_as_a_stream_and_at_once() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    bed.docker(&["run", "-d", "--name", "box", "busybox", "sh", "-c", "while :; do :; done"]).ok();
    let mut stream = UnixStream::connect(bed.socket()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"GET /containers/box/stats HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let objects = BufReader::new(stream).lines().map_while(Result::ok).filter(|line| line.starts_with('{'));
    let objects: Vec<Value> = objects.take(3).map(|line| serde_json::from_str(&line).unwrap()).collect();
    let used = |object: &Value| object["cpu_stats"]["cpu_usage"]["total_usage"].as_u64().unwrap();
    assert!(used(&objects[2]) > used(&objects[1]), "{objects:#?}");
    assert_eq!(objects[2]["precpu_stats"], objects[1]["cpu_stats"], "the last one's figures come along");
    for field in ["memory_stats", "pids_stats", "blkio_stats", "networks", "read", "preread"] {
        assert!(!objects[2][field].is_null(), "{field}");
    }
    assert!(objects[2]["memory_stats"]["usage"].as_u64().unwrap() > 0);
    assert_eq!(objects[2]["pids_stats"]["current"], 1);
    let once = bed.api("GET", "/containers/box/stats?stream=0&one-shot=1", "").json();
    assert!(used(&once) > 0);
    assert_eq!(once["precpu_stats"]["cpu_usage"]["total_usage"], 0);
    let both = bed.api("GET", "/containers/box/stats?stream=0", "").json();
    assert!(both["precpu_stats"]["cpu_usage"]["total_usage"].as_u64().unwrap() > 0);
    bed.docker(&["kill", "box"]).ok();
    bed.docker(&["wait", "box"]).ok();
    let ended = bed.api("GET", "/containers/box/stats?stream=0", "").json();
    assert_eq!(ended["name"], "/box");
    assert!(ended["memory_stats"]["usage"].is_null(), "{ended}");
    bed.finish();
}

#[test]
fn processes_are_listed_as_ps_would() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    bed.docker(&[
        "run",
        "-d",
        "--name",
        "box",
        "-u",
        "1234",
        "busybox",
        "sh",
        "-c",
        "sleep 1001 & sleep 1002; :",
    ])
    .ok();
    let titles = |query: &str| {
        let seen = bed.api("GET", &format!("/containers/box/top{query}"), "").json();
        (seen["Titles"].clone(), seen["Processes"].as_array().cloned().unwrap_or_default())
    };
    until("all three are there", || (titles("").1.len() == 3).then_some(()));
    let (names, rows) = titles("");
    assert_eq!(names, serde_json::json!(["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]));
    assert!(rows.iter().all(|row| row[0] == "1234"), "{rows:?}");
    let commands: Vec<&str> = rows.iter().filter_map(|row| row[7].as_str()).collect();
    assert!(commands.contains(&"sleep 1001") && commands.contains(&"sleep 1002"), "{commands:?}");
    let (names, rows) = titles("?ps_args=-o%20pid,args");
    assert_eq!((names, rows.len()), (serde_json::json!(["PID", "COMMAND"]), 3));
    let answer = bed.api("GET", "/containers/box/top?ps_args=-o%20args", "");
    assert!(answer.status >= 400, "{}", answer.text());
    bed.docker(&["rm", "-f", "box"]).ok();
    bed.finish();
}

#[test]
fn a_new_name_is_the_only_one() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let id = bed.docker(&["run", "-d", "--name", "old", "busybox", "sleep", "1000"]).ok();
    bed.docker(&["create", "--name", "other", "busybox"]).ok();
    let rename = |from: &str, to: &str| {
        let answer = bed.api("POST", &format!("/containers/{from}/rename?name={to}"), "");
        (answer.status, if answer.status < 300 { String::new() } else { answer.message() })
    };
    let taken = rename("old", "other");
    assert_eq!(taken.0, 409, "{taken:?}");
    assert!(taken.1.contains("The container name \"/other\" is already in use by container"), "{taken:?}");
    assert_eq!(rename("old", "old").0, 400);
    assert_eq!(rename("old", "b@d").0, 400);
    assert_eq!(rename("old", "new").0, 204);
    assert_eq!(bed.api("GET", "/containers/old/json", "").status, 404);
    assert_eq!(inspect(&bed, "new")["Id"], id.as_str());
    assert_eq!(bed.docker(&["exec", "new", "echo", "still there"]).ok(), "still there");
    bed.docker(&["create", "--name", "old", "busybox"]).ok();
    bed.finish();
}
