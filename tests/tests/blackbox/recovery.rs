// SPDX-License-Identifier: Apache-2.0
//! What a daemon makes of containers whose host was rebooted, whose shims died with the last daemon, or whose surroundings
//! hang: each is in a state that is true, and what is due to it happens once.

use std::path::PathBuf;
use std::process::{Child, Command};

use berth_tests::harness::{Bed, Events, until};
use serde_json::{Value, json};

use crate::files_plugins::Plugin;

fn alive(pid: i64) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "))
}

fn kill9(pid: i64) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success(), "killing {pid}");
    until("it is dead", || (!alive(pid)).then_some(()));
}

/// A frozen process of a version 1 group does not die.
fn thaw(pid: i64) {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    if let Some(path) = groups.lines().find_map(|line| line.split_once(":freezer:/").map(|(_, path)| path)) {
        std::fs::write(PathBuf::from("/sys/fs/cgroup/freezer").join(path).join("freezer.state"), "THAWED")
            .unwrap();
    }
}

fn edit(path: &std::path::Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

struct Box<'a> {
    bed: &'a Bed,
    id: String,
}

impl Box<'_> {
    fn pids_file(&self) -> PathBuf {
        self.bed.exec_root().join(format!("containers/{}/pids.json", self.id))
    }

    fn pids(&self) -> (i64, i64) {
        let pids: Value = serde_json::from_slice(&std::fs::read(self.pids_file()).unwrap()).unwrap();
        (pids["shim"].as_i64().unwrap(), pids["init"].as_i64().unwrap())
    }
}

fn state(bed: &Bed, name: &str) -> (String, i64) {
    let state = bed.api("GET", &format!("/containers/{name}/json"), "").json();
    (
        state["State"]["Status"].as_str().unwrap_or("gone").to_owned(),
        state["State"]["ExitCode"].as_i64().unwrap_or(0),
    )
}

/// A process that has nothing to do with any of it.
struct Innocent(Child);

impl Innocent {
    fn new() -> Self {
        Self(Command::new("sleep").arg("1000").spawn().unwrap())
    }

    fn pid_and_start(&self) -> (i64, u64) {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let started = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
        (self.0.id().into(), started)
    }
}

impl Drop for Innocent {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn after_a_reboot_nothing_runs_but_what_is_to_be_started() {
    let mut bed = Bed::start();
    if !bed.is_ours() {
        return;
    }
    bed.docker(&["pull", "busybox"]).ok();
    let policies = [
        ("no", "no"),
        ("always", "always"),
        ("unless", "unless-stopped"),
        ("stopped", "unless-stopped"),
        ("failure", "on-failure:3"),
        ("paused", "no"),
    ];
    let mut ids: Vec<String> = Vec::new();
    for (name, policy) in policies {
        ids.push(
            bed.docker(&["run", "-d", "--name", name, "--restart", policy, "busybox", "sleep", "1000"]).ok(),
        );
    }
    ids.push(bed.docker(&["run", "-d", "--name", "auto", "--rm", "busybox", "sleep", "1000"]).ok());
    bed.docker(&["stop", "-t", "0", "stopped"]).ok();
    bed.docker(&["pause", "paused"]).ok();
    bed.kill_daemon();

    // The run directories are on a disk here and outlast the boot. Another process now has the pids, and even the times.
    let innocent = Innocent::new();
    let (pid, started) = innocent.pid_and_start();
    for (number, id) in ids.iter().enumerate() {
        let this = Box { bed: &bed, id: id.clone() };
        if !this.pids_file().exists() {
            continue;
        }
        let (shim, init) = this.pids();
        thaw(init);
        [shim, init].into_iter().filter(|pid| alive(*pid)).for_each(kill9);
        if number % 2 == 0 {
            edit(&this.pids_file(), |pids| {
                *pids = json!({"shim": pid, "shim_started": started, "init": pid, "init_started": started,
                    "boot_id": "00000000-1111-2222-3333-444444444444"});
            });
        } else {
            // On a tmpfs they are gone.
            std::fs::remove_dir_all(this.pids_file().parent().unwrap()).unwrap();
        }
    }
    bed.start_daemon();
    assert_eq!(state(&bed, "no"), ("exited".to_owned(), 255));
    assert_eq!(state(&bed, "paused"), ("exited".to_owned(), 255));
    assert_eq!(state(&bed, "stopped"), ("exited".to_owned(), 137));
    for name in ["always", "unless", "failure"] {
        until("it has been started again", || (state(&bed, name).0 == "running").then_some(()));
    }
    until("--rm is finished", || (bed.api("GET", "/containers/auto/json", "").status == 404).then_some(()));
    assert!(alive(pid), "who has the pid now is no business of ours");
    // Once each, and all are told to have ended.
    bed.docker(&["create", "--name", "last", "busybox"]).ok();
    let seen: Vec<String> = Events::until(&mut bed.events("type=container"), "container create last");
    for (name, starts, ends) in [
        ("no", 0, 1),
        ("always", 1, 1),
        ("unless", 1, 1),
        ("failure", 1, 1),
        ("stopped", 0, 0),
        ("auto", 0, 1),
    ] {
        let count =
            |action: &str| seen.iter().filter(|line| **line == format!("container {action} {name}")).count();
        assert_eq!((count("start"), count("die")), (starts, ends), "{name}: {seen:#?}");
    }
    let finished = bed.docker(&["inspect", "-f", "{{.State.FinishedAt}}", "no"]).ok();
    assert!(!finished.starts_with("0001"), "{finished}");
    bed.finish();
}

#[test]
fn a_daemon_and_a_shim_that_died_together() {
    let mut bed = Bed::start();
    if !bed.is_ours() {
        return;
    }
    bed.docker(&["pull", "busybox"]).ok();
    let mut inits = Vec::new();
    let mut shims = Vec::new();
    for (name, more) in
        [("plain", &["--restart", "no"][..]), ("again", &["--restart", "on-failure"]), ("auto", &["--rm"])]
    {
        let id = bed
            .docker(&[&["run", "-d", "--name", name][..], more, &["busybox", "sleep", "1000"]].concat())
            .ok();
        let (shim, init) = Box { bed: &bed, id }.pids();
        shims.push(shim);
        inits.push(init);
    }
    bed.kill_daemon();
    shims.into_iter().for_each(kill9);
    bed.start_daemon();
    assert_eq!(state(&bed, "plain"), ("exited".to_owned(), 255));
    for init in inits {
        until("what ran under it is ended", || (!alive(init)).then_some(()));
    }
    until("the policy has been applied", || (state(&bed, "again").0 == "running").then_some(()));
    until("--rm is finished", || (bed.api("GET", "/containers/auto/json", "").status == 404).then_some(()));
    bed.docker(&["start", "plain"]).ok();
    assert_eq!(bed.docker(&["exec", "plain", "echo", "works"]).ok(), "works");
    bed.finish();
}

#[test]
fn health_checks_go_on_under_the_next_daemon() {
    let mut bed = Bed::start();
    if !bed.is_ours() {
        return;
    }
    bed.docker(&["pull", "busybox"]).ok();
    let flags = bed.path().join("flags");
    std::fs::create_dir(&flags).unwrap();
    let bind = format!("{}:/flags", flags.display());
    let check = "test ! -e /flags/sick";
    bed.docker(&[
        "run",
        "-d",
        "--name",
        "box",
        "-v",
        &bind,
        "--health-cmd",
        check,
        "--health-interval",
        "100ms",
        "--health-retries",
        "2",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    let becomes = |bed: &Bed, wanted: &str| {
        until(&format!("it is {wanted}"), || {
            let state = bed.api("GET", "/containers/box/json", "").json();
            (state["State"]["Health"]["Status"] == wanted).then_some(())
        });
    };
    becomes(&bed, "healthy");
    bed.kill_daemon();
    std::fs::write(flags.join("sick"), "").unwrap();
    bed.start_daemon();
    becomes(&bed, "unhealthy");
    bed.kill_daemon();
    std::fs::remove_file(flags.join("sick")).unwrap();
    bed.start_daemon();
    becomes(&bed, "healthy");
    let mut events = bed.events("event=health_status");
    events.until("container health_status: healthy box");
    drop(events);
    bed.finish();
}

#[test]
fn how_long_it_is_up_does_not_depend_on_the_clock() {
    let mut bed = Bed::start();
    if !bed.is_ours() {
        return;
    }
    bed.docker(&["pull", "busybox"]).ok();
    let id = bed.docker(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).ok();
    bed.kill_daemon();
    // To a daemon that comes up after the clock was set forward, the start looks long ago.
    let file = bed.data_root().join(format!("containers/{id}/state.json"));
    edit(&file, |state| {
        let at = state.pointer_mut("/started_at").expect("when it was started");
        assert!(at.is_string(), "{at}");
        *at = json!("2020-01-02T03:04:05.678Z");
    });
    bed.start_daemon();
    let status = bed.docker(&["ps", "--format", "{{.Status}}"]).ok();
    assert!(status.starts_with("Up ") && status.contains("second"), "{status}");
    let started = bed.docker(&["inspect", "-f", "{{.State.StartedAt}}", "box"]).ok();
    assert_eq!(started, "2020-01-02T03:04:05.678Z", "what was written down stays");
    bed.finish();
}

#[test]
fn a_volume_driver_that_hangs_does_not_hold_up_the_daemon() {
    let mut bed = Bed::start();
    if !bed.is_ours() {
        return;
    }
    let place = bed.path().join("elsewhere");
    std::fs::create_dir_all(&place).unwrap();
    let plugin = Plugin::start("hangs", &place, &[]);
    bed.docker(&["pull", "busybox"]).ok();
    for number in ["1", "2"] {
        let volume = format!("vol{number}");
        bed.docker(&["volume", "create", "-d", &plugin.name, &volume]).ok();
        let bind = format!("{volume}:/v");
        bed.docker(&[
            "run",
            "-d",
            "--name",
            &format!("box{number}"),
            "-v",
            &bind,
            "busybox",
            "sleep",
            "1000",
        ])
        .ok();
    }
    bed.kill_daemon();
    let hanging = plugin.hang();
    bed.start_daemon();
    let names = bed.docker(&["ps", "--format", "{{.Names}}"]).ok();
    assert_eq!(names, "box2\nbox1");
    assert_eq!(bed.docker(&["exec", "box1", "echo", "works"]).ok(), "works");
    bed.docker(&["run", "--rm", "-v", "other:/v", "busybox", "touch", "/v/x"]).ok();
    // In use, whatever the driver says or does not.
    let told = bed.docker(&["volume", "rm", "vol1"]).fails(1);
    assert!(told.contains("volume is in use"), "{told}");
    drop(hanging);
    bed.docker(&["rm", "-f", "box1", "box2"]).ok();
    until("the driver has heard of both ends", || {
        (plugin.calls("VolumeDriver.Unmount").len() == 2).then_some(())
    });
    bed.docker(&["volume", "rm", "vol1", "vol2", "other"]).ok();
    bed.finish();
}
