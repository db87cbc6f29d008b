// SPDX-License-Identifier: Apache-2.0
//! `ContainerTop`: the host's `ps`, cut down to the container's processes.

use std::collections::BTreeSet;
use std::process::Stdio;

use berth_domain::container::Request;
use berth_domain::{Error, Result};
use berth_sys::cgroup::Hierarchies;

use crate::Engine;
use crate::files::blocking;

/// A table of processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Top {
    /// Column heads.
    pub titles: Vec<String>,
    /// Rows.
    pub processes: Vec<Vec<String>>,
}

impl Engine {
    /// The processes of a container as the host's `ps` shows them with `ps_args` (empty: `-ef`).
    ///
    /// # Errors
    ///
    /// No such container; it does not run; `ps` refuses its arguments.
    pub async fn container_top(&self, name: &str, ps_args: &str) -> Result<Top> {
        let handle = self.index.resolve(name)?;
        handle.admit(Request::Processes, name)?;
        let arguments: Vec<&str> = match ps_args.trim() {
            "" => vec!["-ef"],
            words => words.split_whitespace().collect(),
        };
        let cgroup = self.cgroup_path(&handle.now());
        let pids = blocking(move || members(&cgroup)).await?;
        // By their numbers, so that ps looks at no others and leaves none of them out for want of a terminal. Some arguments
        // do not go together with that.
        let numbers: Vec<String> = pids.iter().map(ToString::to_string).collect();
        let selection = format!("-q{}", numbers.join(","));
        let mut output = ps(arguments.iter().copied().chain([selection.as_str()])).await?;
        if !output.status.success() {
            output = ps(arguments.iter().copied()).await?;
        }
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Error::invalid(format!("ps: {}", said.lines().next().unwrap_or("failed").trim())));
        }
        let top = table(&String::from_utf8_lossy(&output.stdout), &pids)?;
        self.container_event(&handle.now(), "top", &[]);
        Ok(top)
    }
}

/// Runs the host's `ps`. The arguments are the client's, who is root's equal; no shell reads them.
async fn ps<'a>(arguments: impl Iterator<Item = &'a str>) -> Result<std::process::Output> {
    let running =
        tokio::process::Command::new("ps").args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    running.await.map_err(|error| Error::internal("running the host's ps").because(error))
}

fn members(cgroup: &str) -> Result<BTreeSet<i32>> {
    let failed = |error| Error::internal("reading the container's cgroup").because(error);
    let mut pids = BTreeSet::new();
    for directory in Hierarchies::detect().and_then(|cgroups| cgroups.directories(cgroup)).map_err(failed)? {
        let mut todo = vec![directory];
        while let Some(directory) = todo.pop() {
            let Ok(text) = std::fs::read_to_string(directory.join("cgroup.procs")) else { continue };
            pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
            let Ok(entries) = std::fs::read_dir(&directory) else { continue };
            todo.extend(
                entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()),
            );
        }
    }
    Ok(pids)
}

/// The rows of these processes. The last column holds the rest of its line.
fn table(text: &str, pids: &BTreeSet<i32>) -> Result<Top> {
    let mut lines = text.lines();
    let titles: Vec<String> =
        lines.next().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let Some(column) = titles.iter().position(|title| title == "PID") else {
        return Err(Error::invalid("Couldn't find PID field in ps output"));
    };
    let mut processes = Vec::new();
    for line in lines {
        let row = cells(line, titles.len());
        let pid = row.get(column).and_then(|cell| cell.parse::<i32>().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            processes.push(row);
        }
    }
    Ok(Top { titles, processes })
}

fn cells(line: &str, columns: usize) -> Vec<String> {
    let mut rest = line.trim_start();
    let mut row = Vec::with_capacity(columns);
    while row.len() + 1 < columns && !rest.is_empty() {
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        row.push(rest[..end].to_owned());
        rest = rest[end..].trim_start();
    }
    if !rest.is_empty() {
        row.push(rest.trim_end().to_owned());
    }
    row
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn rows_of_the_containers_processes() {
        let text = "UID   PID  PPID CMD\nroot    1     0 /sbin/init  splash\nroot   42     1 sleep 1000\n";
        let top = table(text, &BTreeSet::from([42])).unwrap();
        assert_eq!(top.titles, ["UID", "PID", "PPID", "CMD"]);
        assert_eq!(top.processes, [["root", "42", "1", "sleep 1000"]]);
        table("USER CMD\n", &BTreeSet::new()).expect_err("no PID column");
    }
}
