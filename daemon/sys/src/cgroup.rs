// SPDX-License-Identifier: Apache-2.0
//! Cgroups from outside: finding where they are mounted, killing and removing what a dead shim left.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::pidfd::PidFd;

/// A mounted version 1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct V1 {
    /// Where.
    pub mount: PathBuf,
    /// Its controllers; empty for a named hierarchy.
    pub controllers: Vec<String>,
}

/// Where cgroups are mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hierarchies {
    /// The unified hierarchy.
    pub unified: Option<PathBuf>,
    /// Version 1 hierarchies.
    pub v1: Vec<V1>,
}

impl Hierarchies {
    /// As this process sees them.
    ///
    /// # Errors
    ///
    /// `/proc` is missing.
    pub fn detect() -> io::Result<Self> {
        Ok(Self::parse(&std::fs::read_to_string("/proc/self/mountinfo")?))
    }

    /// From `mountinfo`. Only mounts of a hierarchy's root beneath `/sys/fs/cgroup` count; the first of several wins.
    #[must_use]
    pub fn parse(mountinfo: &str) -> Self {
        const NO_CONTROLLER: [&str; 3] = ["rw", "ro", "xattr"];
        let mut found = Self::default();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let (left, right): (Vec<&str>, Vec<&str>) =
                (left.split(' ').collect(), right.split(' ').collect());
            let (Some(point), Some(kind)) = (left.get(4), right.first()) else { continue };
            if !Path::new(point).starts_with("/sys/fs/cgroup") {
                continue;
            }
            let mount = PathBuf::from(point);
            match *kind {
                "cgroup2" if found.unified.is_none() => found.unified = Some(mount),
                "cgroup" => {
                    let options = right.get(2).copied().unwrap_or_default();
                    let controllers: Vec<String> = options
                        .split(',')
                        .filter(|o| !NO_CONTROLLER.contains(o) && !o.contains('='))
                        .map(str::to_owned)
                        .collect();
                    let same = |v: &V1| v.controllers == controllers && !controllers.is_empty();
                    if !found.v1.iter().any(same) {
                        found.v1.push(V1 { mount, controllers });
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// The controllers that can be used.
    #[must_use]
    pub fn controllers(&self) -> BTreeSet<String> {
        let mut all: BTreeSet<String> = self.v1.iter().flat_map(|v| v.controllers.iter().cloned()).collect();
        if let Some(unified) = &self.unified {
            // A hierarchy that cannot be read has no controllers for us.
            let list = std::fs::read_to_string(unified.join("cgroup.controllers")).unwrap_or_default();
            all.extend(list.split_whitespace().map(str::to_owned));
        }
        all
    }

    /// The directories of a cgroup, whether they exist or not.
    ///
    /// # Errors
    ///
    /// The path is `/` or has `..` in it.
    pub fn directories(&self, cgroups_path: &str) -> io::Result<Vec<PathBuf>> {
        let mut relative = PathBuf::new();
        for part in Path::new(cgroups_path).components() {
            match part {
                std::path::Component::Normal(name) => relative.push(name),
                std::path::Component::RootDir | std::path::Component::CurDir => {}
                _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "`..` in a cgroup path")),
            }
        }
        if relative.as_os_str().is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the root cgroup is not ours"));
        }
        let v1 = self.v1.iter().map(|v| &v.mount);
        Ok(self.unified.iter().chain(v1).map(|mount| mount.join(&relative)).collect())
    }

    /// Kills all processes of a cgroup and waits for their end; true if none is left.
    ///
    /// # Errors
    ///
    /// The path is not one of ours; a file cannot be written.
    pub fn kill(&self, cgroups_path: &str, limit: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + limit;
        let directories = self.directories(cgroups_path)?;
        loop {
            let mut pids = BTreeSet::new();
            for directory in &directories {
                processes(directory, &mut pids)?;
            }
            if pids.is_empty() {
                return Ok(true);
            }
            // Descriptors first: the pids are of living members now, and what is killed below is what was read here.
            let mut victims = Vec::new();
            for pid in pids {
                match PidFd::open(pid) {
                    Ok(fd) => victims.push(fd),
                    Err(e) if e.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => {}
                    Err(e) => return Err(e),
                }
            }
            for directory in &directories {
                write_if_there(&directory.join("cgroup.kill"), "1")?;
            }
            for victim in &victims {
                victim.kill()?;
            }
            // A version 1 freezer holds even the killed.
            for directory in &directories {
                write_if_there(&directory.join("freezer.state"), "THAWED")?;
            }
            for victim in &victims {
                if !victim.wait(deadline.saturating_duration_since(Instant::now()))? {
                    return Ok(false);
                }
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
        }
    }

    /// Removes a cgroup and those beneath it from every hierarchy; false if processes were left in it.
    ///
    /// # Errors
    ///
    /// The path is not one of ours; the kernel refused.
    pub fn remove(&self, cgroups_path: &str) -> io::Result<bool> {
        let mut clean = true;
        for directory in self.directories(cgroups_path)? {
            clean &= remove_tree(&directory)?;
        }
        Ok(clean)
    }
}

fn children(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let listing = match std::fs::read_dir(directory) {
        Ok(listing) => listing,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut found = Vec::new();
    for entry in listing {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn processes(directory: &Path, pids: &mut BTreeSet<i32>) -> io::Result<()> {
    match std::fs::read_to_string(directory.join("cgroup.procs")) {
        // Zero stands for a process outside our pid namespace.
        Ok(list) => pids.extend(list.lines().filter_map(|l| l.parse::<i32>().ok()).filter(|p| *p > 0)),
        Err(e) if e.kind() == io::ErrorKind::NotFound || is(&e, Errno::NODEV) => return Ok(()),
        // A threaded cgroup lists nothing; its members are in the domain above it.
        Err(e) if is(&e, Errno::OPNOTSUPP) => {}
        Err(e) => return Err(e),
    }
    for child in children(directory)? {
        processes(&child, pids)?;
    }
    Ok(())
}

fn remove_tree(directory: &Path) -> io::Result<bool> {
    let mut clean = true;
    for child in children(directory)? {
        clean &= remove_tree(&child)?;
    }
    match std::fs::remove_dir(directory) {
        Ok(()) => Ok(clean),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(clean),
        Err(e) if is(&e, Errno::BUSY) => Ok(false),
        Err(e) => Err(e),
    }
}

fn write_if_there(path: &Path, value: &str) -> io::Result<()> {
    match std::fs::OpenOptions::new().write(true).open(path) {
        Ok(mut file) => match io::Write::write_all(&mut file, value.as_bytes()) {
            Err(e) if is(&e, Errno::NODEV) => Ok(()),
            other => other,
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn hierarchies_of_a_hybrid_host() {
        let text = "\
25 20 0:22 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
26 25 0:23 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
27 25 0:24 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
28 25 0:25 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
29 25 0:26 / /elsewhere/memory rw - cgroup cgroup rw,memory
";
        let found = Hierarchies::parse(text);
        assert_eq!(found.unified.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(found.v1.len(), 2);
        assert_eq!(found.v1[0].controllers, Vec::<String>::new());
        assert_eq!(found.v1[1].controllers, ["cpu", "cpuacct"]);
        let paths = found.directories("/berth/x").unwrap();
        assert_eq!(paths[2], Path::new("/sys/fs/cgroup/cpu,cpuacct/berth/x"));
        assert!(found.directories("/").is_err() && found.directories("/a/../../x").is_err());
    }

    #[test]
    fn a_left_cgroup_is_emptied_and_removed() {
        let all = Hierarchies::detect().unwrap();
        let Ok(directories) = all.directories(&format!("/berth-test-{}/inner", std::process::id())) else {
            return;
        };
        let place = directories.last().expect("some hierarchy").clone();
        std::fs::create_dir_all(&place).unwrap();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        std::fs::write(place.join("cgroup.procs"), child.id().to_string()).unwrap();
        let path = format!("/berth-test-{}", std::process::id());
        assert!(!all.remove(&path).unwrap());
        assert!(all.kill(&path, Duration::from_secs(60)).unwrap());
        child.wait().unwrap();
        assert!(all.remove(&path).unwrap());
        assert!(!place.exists());
        assert!(all.remove(&path).unwrap() && all.kill(&path, Duration::ZERO).unwrap());
    }
}
