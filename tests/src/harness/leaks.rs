// SPDX-License-Identifier: Apache-2.0
//! What an engine may leave behind and must not.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::netns::NetNs;

/// Pids of processes in the network namespace.
#[must_use]
pub fn processes_in(netns: &NetNs) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("reading /proc").filter_map(Result::ok) {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        if std::fs::metadata(entry.path().join("ns/net")).is_ok_and(|m| m.ino() == netns.inode()) {
            found.push(pid);
        }
    }
    found
}

/// A process, for messages.
#[must_use]
pub fn describe(pid: i32) -> String {
    let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!("{pid} {}", String::from_utf8_lossy(&cmdline).replace('\0', " "))
}

/// Mounts whose mount point or source lies beneath `root`.
#[must_use]
pub fn mounts_beneath(root: &Path) -> Vec<String> {
    let root = root.to_string_lossy().into_owned();
    std::fs::read_to_string("/proc/self/mountinfo")
        .expect("reading mountinfo")
        .lines()
        .filter(|l| l.contains(&root))
        .map(str::to_owned)
        .collect()
}

/// Cgroups beneath `parent` (a name like `berth-test-1`) in every hierarchy.
#[must_use]
pub fn cgroups(parent: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut roots = vec![Path::new("/sys/fs/cgroup").to_owned()];
    if let Ok(entries) = std::fs::read_dir("/sys/fs/cgroup") {
        roots.extend(
            entries.filter_map(Result::ok).map(|e| e.path()).filter(|p| p.is_dir() && !p.is_symlink()),
        );
    }
    for root in roots {
        if let Ok(entries) = std::fs::read_dir(root.join(parent)) {
            found.extend(
                entries
                    .filter_map(Result::ok)
                    .map(|e| e.path())
                    .filter(|p| p.is_dir())
                    .map(|p| p.display().to_string()),
            );
        }
    }
    found
}

/// Removes the test's empty parent cgroups.
pub fn remove_cgroup_parent(parent: &str) {
    let mut roots = vec![Path::new("/sys/fs/cgroup").to_owned()];
    if let Ok(entries) = std::fs::read_dir("/sys/fs/cgroup") {
        roots.extend(entries.filter_map(Result::ok).map(|e| e.path()));
    }
    for root in roots {
        let dir = root.join(parent);
        if dir.is_dir() {
            match std::fs::remove_dir(&dir) {
                // Slices are their service manager's, who may be quicker.
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    panic!("removing {}: {e}", dir.display())
                }
                _ => {}
            }
        }
    }
}

/// Links of the namespace, by name.
#[must_use]
pub fn links(netns: &NetNs) -> Vec<String> {
    let text = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/dev").expect("reading net/dev"));
    text.lines().skip(2).filter_map(|l| l.split(':').next()).map(|l| l.trim().to_owned()).collect()
}

/// Names in a directory; none if it is not there.
#[must_use]
pub fn names_in(dir: &Path) -> Vec<String> {
    std::fs::read_dir(dir)
        .map(|entries| {
            entries.filter_map(Result::ok).map(|e| e.file_name().to_string_lossy().into_owned()).collect()
        })
        .unwrap_or_default()
}
