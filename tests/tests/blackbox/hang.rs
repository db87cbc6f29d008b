// SPDX-License-Identifier: Apache-2.0
//! While one request on a container hangs, others on it are answered.

use berth_tests::harness::{Bed, StuckFs, until};

/// A request whose answer nobody waits for.
fn send(bed: &Bed, method: &str, path: &str) -> std::thread::JoinHandle<u16> {
    let (socket, method, path) = (bed.socket().to_owned(), method.to_owned(), path.to_owned());
    std::thread::spawn(move || berth_tests::harness::request(&socket, &method, &path).status)
}

/// A start waits for a file system that never answers, and cannot be killed.
#[test]
fn a_start_stuck_in_a_stopped_file_system() {
    let bed = Bed::start();
    if !bed.is_ours() {
        // There inspect, kill and rm wait for the start.
        return;
    }
    bed.docker(&["pull", "busybox"]).ok();
    // One each, so that none waits for another's request.
    let names = ["killed", "removed", "again"];
    let mut stuck = names.map(|_| StuckFs::mount());
    for (name, stuck) in names.into_iter().zip(&stuck) {
        let bind = format!("{}:/x", stuck.inside().display());
        bed.docker(&["create", "--name", name, "-v", &bind, "busybox", "sleep", "1000"]).ok();
    }
    bed.docker(&["run", "-d", "--name", "other", "busybox", "sleep", "1000"]).ok();
    stuck.iter().for_each(StuckFs::stop);

    let first = send(&bed, "POST", "/containers/killed/start");
    let second = send(&bed, "POST", "/containers/removed/start");
    for stuck in &stuck[..2] {
        until("the start is stuck", || (stuck.waiting() > 0).then_some(()));
    }
    // Looking does not wait.
    assert_eq!(bed.docker(&["inspect", "-f", "{{.State.Running}}", "killed"]).ok(), "false");
    assert_eq!(bed.docker(&["ps", "-a", "-q"]).ok().lines().count(), 4);
    assert_eq!(bed.docker(&["info", "-f", "{{.Containers}}"]).ok(), "4");
    // A kill gives the start up; so does a removal.
    assert_eq!(bed.api("POST", "/containers/killed/kill", "").status, 204);
    assert_ne!(first.join().unwrap(), 204, "the start that was killed");
    assert_eq!(bed.api("DELETE", "/containers/removed?force=1", "").status, 204);
    assert_ne!(second.join().unwrap(), 204, "the start of what was removed");
    assert_eq!(bed.api("GET", "/containers/removed/json", "").status, 404);
    // And everything else goes on.
    assert_eq!(bed.docker(&["exec", "other", "echo", "works"]).ok(), "works");
    bed.docker(&["run", "--rm", "busybox", "true"]).ok();
    bed.docker(&["rm", "-f", "other", "killed"]).ok();

    // A daemon that comes up while one hangs serves.
    let third = send(&bed, "POST", "/containers/again/start");
    until("that start is stuck", || (stuck[2].waiting() > 0).then_some(()));
    let mut bed = bed;
    bed.kill_daemon();
    drop(third.join());
    bed.start_daemon();
    assert_eq!(bed.docker(&["ps", "-a", "--format", "{{.Names}}"]).ok(), "again");
    assert_eq!(bed.api("DELETE", "/containers/again?force=1", "").status, 204);

    stuck.iter_mut().for_each(StuckFs::release);
    bed.finish();
}

/// A registry that does not answer holds up its pull, and nothing else.
#[test]
fn a_pull_from_a_silent_registry() {
    let bed = Bed::start();
    if !bed.is_ours() {
        return;
    }
    bed.docker(&["pull", "busybox"]).ok();
    bed.docker(&["run", "-d", "--name", "cc", "busybox", "sleep", "1000"]).ok();
    let silent = bed.netns.run(|| std::net::TcpListener::bind("127.0.0.1:5005").unwrap());
    let pull = send(&bed, "POST", "/images/create?fromImage=127.0.0.1:5005/x&tag=1");
    // Accepted, read, and never answered.
    let connection = silent.accept().unwrap();
    assert_eq!(bed.docker(&["inspect", "-f", "{{.State.Running}}", "cc"]).ok(), "true");
    assert_eq!(bed.docker(&["images", "-q"]).ok().lines().count(), 1);
    bed.docker(&["run", "--rm", "busybox", "true"]).ok();
    bed.docker(&["kill", "cc"]).ok();
    bed.docker(&["rm", "-f", "cc"]).ok();
    drop((connection, silent));
    drop(pull.join());
    bed.finish();
}

#[test]
fn a_volume_whose_server_stopped_holds_up_no_restart() {
    let mut bed = Bed::start();
    if !bed.is_ours() {
        return bed.finish();
    }
    bed.docker(&["pull", "busybox"]).ok();
    let mut stuck = StuckFs::mount();
    let device = format!("device={}", stuck.inside().display());
    bed.docker(&["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", &device, "remote"]).ok();
    bed.docker(&["run", "-d", "--name", "user", "-v", "remote:/m:nocopy", "busybox", "sleep", "1000"]).ok();
    stuck.stop();
    bed.kill_daemon();
    bed.start_daemon();
    assert_eq!(bed.docker(&["ps", "-q", "--filter", "name=user"]).ok().lines().count(), 1);
    bed.docker(&["volume", "ls"]).ok();
    bed.docker(&["exec", "user", "true"]).ok();
    bed.docker(&["rm", "-f", "user"]).ok();
    bed.docker(&["volume", "rm", "remote"]).ok();
    stuck.release();
    bed.finish();
}
