// SPDX-License-Identifier: Apache-2.0
//! Memory and CPU time of processes, as the kernel tells them.

use std::collections::BTreeMap;

/// CPU time of processes in seconds, user and system, by pid. Compare two with [`spent`].
#[must_use]
pub fn cpu(pids: &[i32]) -> BTreeMap<i32, f64> {
    pids.iter().filter_map(|pid| Some((*pid, cpu_of(*pid)?))).collect()
}

/// Seconds of CPU spent between two looks by the processes of the later one. What ended in between is not counted: keep
/// processes alive while measuring.
#[must_use]
pub fn spent(before: &BTreeMap<i32, f64>, after: &BTreeMap<i32, f64>) -> f64 {
    after.iter().map(|(pid, now)| now - before.get(pid).unwrap_or(&0.0)).sum()
}

fn cpu_of(pid: i32) -> Option<f64> {
    // schedstat has nanoseconds where stat has ticks of 10 ms, but is per thread.
    let mut total = 0.0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let nanoseconds: f64 = text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0.0);
        total += nanoseconds / 1e9;
    }
    // Threads that ended are only in the sum of the process, by ticks.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: f64 = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(total.max(ticks / 100.0))
}

/// Proportional set size in MB: each page shared by n processes counts 1/n.
#[must_use]
pub fn pss(pids: &[i32]) -> f64 {
    pids.iter().filter_map(|pid| rollup(*pid, "Pss:")).sum::<f64>() / 1024.0
}

fn rollup(pid: i32, field: &str) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find(|line| line.starts_with(field))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
