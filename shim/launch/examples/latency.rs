// SPDX-License-Identifier: Apache-2.0
//! How long a start takes: `latency [rounds] [gap in milliseconds]`, as root, on an otherwise idle host.
//!
//! Prints the median and the 10th percentile of: `launch()` to the running program, from there to the
//! exit of `/bin/true`, the removal of the cgroups, and `exec()` in a container that runs. The processor
//! times of a start say something on a loaded host too; the child's includes `/bin/true`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, missing_docs)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::{Box, cgroups_path, pipes, wait};
use serde_json::json;

fn show(name: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |part: usize| times[times.len() * part / 100].as_micros();
    println!(
        "{name:10} median {:6} us   p10 {:6} us   p90 {:6} us   least {:6} us",
        at(50),
        at(10),
        at(90),
        at(0)
    );
}

/// Processor time of this process, or of its children that were reaped.
fn used(who: i32) -> Duration {
    // SAFETY: the structure is plain data that the call fills.
    #[allow(unsafe_code)]
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(who, &mut usage), 0);
        usage
    };
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.unsigned_abs()) + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>().unwrap());
    let (rounds, gap) = (args.next().unwrap_or(100), Duration::from_millis(args.next().unwrap_or(20)));
    let (mut parent, mut child) = (Vec::new(), Vec::new());
    let (mut start, mut exit, mut remove, mut execs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut container = Box::new("").args(&["true"]).overlay();
    if std::env::var_os("LATENCY_SHARES").is_some() {
        // On a loaded host: at least do not queue behind everyone else once in the cgroup.
        container = container.with("/linux/resources/cpu", json!({"shares": 262_144}));
    }
    for _ in 0..rounds {
        container.spec["linux"]["cgroupsPath"] = json!(cgroups_path());
        let (stdio, ..) = pipes();
        for name in ["upper", "work"] {
            let path = container.dir.path().join(name);
            if path.exists() {
                std::fs::remove_dir_all(&path).unwrap();
            }
        }
        std::thread::sleep(gap);
        let cpu = used(libc::RUSAGE_SELF);
        let begin = Instant::now();
        let launched = container.launch(stdio).unwrap();
        start.push(begin.elapsed());
        parent.push(used(libc::RUSAGE_SELF) - cpu);
        let cpu = used(libc::RUSAGE_CHILDREN);
        let begin = Instant::now();
        wait(&launched.pidfd);
        exit.push(begin.elapsed());
        child.push(used(libc::RUSAGE_CHILDREN) - cpu);
        let begin = Instant::now();
        launched.cgroup.remove().unwrap();
        remove.push(begin.elapsed());
    }
    let running = Box::new("sleep 1000").start();
    let mut process = running.spec.process().clone().unwrap();
    process.set_args(Some(vec!["true".to_owned()]));
    for _ in 0..rounds {
        let (stdio, ..) = pipes();
        std::thread::sleep(gap);
        let begin = Instant::now();
        let launched = berth_launch::exec(running.exec_input(&process, stdio)).unwrap();
        execs.push(begin.elapsed());
        wait(&launched.pidfd);
    }
    drop(running);
    common::remove_parent_cgroup();
    show("launch", &mut start);
    show(" cpu here", &mut parent);
    show(" cpu child", &mut child);
    show("exit", &mut exit);
    show("remove", &mut remove);
    show("exec", &mut execs);
}
