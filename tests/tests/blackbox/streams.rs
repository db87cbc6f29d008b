// SPDX-License-Identifier: Apache-2.0
//! Sessions by the hundred (by the ten thousand in the long forms): what daemon and shim hold is the same afterwards.

use std::path::Path;

use berth_tests::harness::{Bed, Options, until};

use super::attach::Stream;

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    threads: usize,
    /// Anonymous memory in KiB.
    memory: u64,
}

impl Held {
    fn of(pid: &str) -> Self {
        let proc = Path::new("/proc").join(pid);
        let count = |name: &str| std::fs::read_dir(proc.join(name)).unwrap().count();
        let status = std::fs::read_to_string(proc.join("status")).unwrap();
        let memory = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        Self {
            descriptors: count("fd"),
            threads: count("task"),
            memory: memory.trim().trim_end_matches(" kB").parse().unwrap(),
        }
    }
}

/// A daemon and the shim of its container `cc`.
struct Pair {
    bed: Bed,
    shim: String,
}

impl Pair {
    fn start(run: &[&str]) -> Self {
        // More threads come with load and go after a while of none; how many is not the question here.
        let bed = Bed::with(Options {
            env: vec![("TOKIO_WORKER_THREADS".into(), "2".into())],
            ..Options::default()
        });
        bed.docker(&["pull", "busybox"]).ok();
        bed.docker(&[&["run", "-d", "--name", "cc"], run].concat()).ok();
        let shim = if bed.is_ours() {
            let id = bed.docker(&["inspect", "-f", "{{.Id}}", "cc"]).ok();
            let file = bed.exec_root().join("containers").join(id.trim()).join("pids.json");
            let pids: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
            pids["shim"].to_string()
        } else {
            "self".to_owned()
        };
        Self { bed, shim }
    }

    fn tasks(&self) -> u64 {
        self.bed.api("GET", "/info", "").json()["NGoroutines"].as_u64().unwrap()
    }

    /// Runs cycles and compares what is held before and after, once some have warmed everything up.
    fn check(&self, cycles: u32, cycle: impl Fn(u32)) {
        let warm = (cycles / 10).clamp(30, 1000);
        (0..warm).for_each(&cycle);
        if !self.bed.is_ours() {
            return (0..cycles).for_each(cycle);
        }
        let daemon = self.bed.daemon_pid().to_string();
        let look = || (Held::of(&daemon), Held::of(&self.shim), self.tasks());
        // What the warm-up left on its way out would count as held before.
        let mut before = look();
        until("the warm-up has gone", || {
            let now = look();
            let same = (now.0.descriptors, now.1.descriptors, now.2)
                == (before.0.descriptors, before.1.descriptors, before.2);
            before = now;
            same.then_some(())
        });
        (0..cycles).for_each(cycle);
        let mut now = look();
        until("nothing more is held than before", || {
            now = look();
            let fewer = |now: Held, before: Held| now.descriptors <= before.descriptors;
            (fewer(now.0, before.0) && fewer(now.1, before.1) && now.1.threads == 1 && now.2 <= before.2)
                .then_some(())
        });
        println!("{cycles} cycles: before {before:?}, after {now:?}");
        // Allocators keep some; a leak of a kilobyte a cycle would be ten megabytes in the long form.
        assert!(now.0.memory < before.0.memory + 4096, "the daemon grew from {before:?} to {now:?}");
        assert!(now.1.memory < before.1.memory + 512, "the shim grew from {before:?} to {now:?}");
        // Blocking threads of the daemon's runtime come and go.
        assert!(now.0.threads <= before.0.threads + 16, "threads from {before:?} to {now:?}");
    }
}

fn attach_and_detach(cycles: u32) {
    let pair = Pair::start(&["-it", "busybox", "cat"]);
    pair.check(cycles, |n| {
        let mut stream = Stream::attach(&pair.bed, "cc", "stream=1&stdin=1&stdout=1&stderr=1");
        let resized = pair.bed.api("POST", &format!("/containers/cc/resize?h={}&w=80", 20 + n % 50), "");
        assert_eq!(resized.status, 200);
        match n % 3 {
            0 => {
                stream.write(b"\x10\x11");
                stream.raw();
            }
            1 => stream.half_close(),
            _ => {}
        }
    });
    assert_eq!(pair.bed.docker(&["inspect", "-f", "{{.State.Running}}", "cc"]).ok(), "true");
    pair.bed.finish();
}

fn execs(cycles: u32) {
    let pair = Pair::start(&["busybox", "sleep", "100000"]);
    pair.check(cycles, |n| {
        let body = format!(
            r#"{{"Cmd":["sh","-c","echo {n}; exit {}"],"AttachStdin":true,"AttachStdout":true,"AttachStderr":true,"Tty":{}}}"#,
            n % 100,
            n % 4 == 3,
        );
        let made = pair.bed.api("POST", "/containers/cc/exec", &body);
        let id = made.json()["Id"].as_str().unwrap_or_else(|| panic!("{}", made.text())).to_owned();
        let stream = Stream::exec_with(&pair.bed, &id, &format!(r#"{{"Tty":{}}}"#, n % 4 == 3));
        let text = if n % 4 == 3 { stream.raw() } else { stream.rest().0 };
        assert_eq!(String::from_utf8_lossy(&text).trim(), n.to_string());
        let seen = pair.bed.api("GET", &format!("/exec/{id}/json"), "").json();
        assert_eq!((&seen["Running"], &seen["ExitCode"]), (&false.into(), &(n % 100).into()), "{seen}");
    });
    let left = pair.bed.docker(&["exec", "cc", "sh", "-c", "ls -d /proc/[0-9]* | wc -l"]).ok();
    assert!(left.trim().parse::<u32>().unwrap() <= 4, "{left} processes are left");
    pair.bed.finish();
}

#[test]
fn a_hundred_attachments_leave_nothing() {
    attach_and_detach(100);
}

#[test]
fn a_hundred_exec_sessions_leave_nothing() {
    execs(100);
}

#[test]
#[ignore = "long form: make soak"]
fn ten_thousand_attachments_leave_nothing() {
    attach_and_detach(10_000);
}

#[test]
#[ignore = "long form: make soak"]
fn ten_thousand_exec_sessions_leave_nothing() {
    execs(10_000);
}

/// An exec whose client does not read waits for it; neither memory nor disk fills. (The reference's container takes
/// no further exec meanwhile.)
#[test]
fn an_exec_without_a_reader_is_bounded() {
    let pair = Pair::start(&["busybox", "sleep", "100000"]);
    if !pair.bed.is_ours() {
        return pair.bed.finish();
    }
    let made = pair.bed.api("POST", "/containers/cc/exec", r#"{"Cmd":["yes"],"AttachStdout":true}"#);
    let id = made.json()["Id"].as_str().unwrap().to_owned();
    let mut stream = Stream::exec(&pair.bed, &id);
    stream.until("y\ny\n");
    let state = || pair.bed.docker(&["exec", "cc", "sh", "-c", "cat /proc/$(pidof yes)/stat"]).ok();
    until("it waits for its reader", || (state().split(' ').nth(2) == Some("S")).then_some(()));
    assert!(Held::of(&pair.shim).memory < 8 * 1024, "{:?}", Held::of(&pair.shim));
    // It still can be killed, and others work.
    pair.bed.docker(&["exec", "cc", "killall", "yes"]).ok();
    // What is left for it is kept for a while otherwise.
    drop(stream);
    pair.bed.finish();
}
