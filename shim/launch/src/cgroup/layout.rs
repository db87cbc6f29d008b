// SPDX-License-Identifier: Apache-2.0
//! Which cgroup hierarchies this host has.

use std::path::{Path, PathBuf};

use rustix::fs::statfs;

use crate::error::{Context as _, Error, Result};
use crate::sys::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC};

const ROOT: &str = "/sys/fs/cgroup";

/// A v1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// What the kernel calls it: `memory`, `cpu,cpuacct`, `name=systemd`.
    pub(crate) controllers: String,
    /// Where it is mounted.
    pub(crate) mount: PathBuf,
}

impl Hierarchy {
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.split(',').any(|candidate| candidate == controller)
    }

    /// The name of its directory under /sys/fs/cgroup.
    pub(crate) fn directory_name(&self) -> &str {
        directory_name(&self.controllers)
    }
}

/// The hierarchies of a host. On the hybrid layout both fields are filled and the controllers are
/// (mostly) in `v1`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) v1: Vec<Hierarchy>,
    /// Mount point of the unified hierarchy.
    pub(crate) unified: Option<PathBuf>,
}

impl Layout {
    /// Only v2.
    pub(crate) fn is_unified(&self) -> bool {
        self.v1.is_empty() && self.unified.is_some()
    }

    /// Asks the kernel. The well-known mount points are tried first, since the cost of reading the mount
    /// table grows with the number of mounts on the host.
    pub(crate) fn detect() -> Result<Self> {
        if magic(Path::new(ROOT)) == Some(CGROUP2_SUPER_MAGIC) {
            return Ok(Self { v1: Vec::new(), unified: Some(PathBuf::from(ROOT)) });
        }
        let mine = std::fs::read_to_string("/proc/self/cgroup").context(|| "/proc/self/cgroup")?;
        let mut layout = Self::default();
        let mut table = None;
        for controllers in hierarchies(&mine) {
            let (guess, kind) = match controllers {
                "" => (Path::new(ROOT).join("unified"), CGROUP2_SUPER_MAGIC),
                named => (Path::new(ROOT).join(directory_name(named)), CGROUP_SUPER_MAGIC),
            };
            let mount = if magic(&guess) == Some(kind) {
                Some(guess)
            } else {
                let table = match &mut table {
                    Some(table) => table,
                    none => none.insert(
                        std::fs::read_to_string("/proc/self/mountinfo").context(|| "/proc/self/mountinfo")?,
                    ),
                };
                mounted_at(table, controllers)
            };
            match (controllers, mount) {
                (_, None) => {}
                ("", Some(mount)) => layout.unified = Some(mount),
                (named, Some(mount)) => {
                    layout.v1.push(Hierarchy { controllers: named.to_owned(), mount });
                }
            }
        }
        if layout.v1.is_empty() && layout.unified.is_none() {
            return Err(Error::internal("no cgroup hierarchy is mounted"));
        }
        Ok(layout)
    }
}

fn magic(path: &Path) -> Option<i64> {
    #[allow(clippy::unnecessary_cast)] // The field's width differs between architectures.
    statfs(path).ok().map(|stat| stat.f_type as i64)
}

fn directory_name(controllers: &str) -> &str {
    controllers.strip_prefix("name=").unwrap_or(controllers)
}

/// Controller lists of /proc/PID/cgroup lines; the unified hierarchy's is empty.
fn hierarchies(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.split(':').nth(1))
}

/// Looks a hierarchy's mount point up in /proc/PID/mountinfo.
fn mounted_at(table: &str, controllers: &str) -> Option<PathBuf> {
    for line in table.lines() {
        let Some((mount, filesystem)) = line.split_once(" - ") else { continue };
        let mut words = filesystem.split(' ');
        let (kind, options) = (words.next()?, words.nth(1).unwrap_or_default());
        let matches = match (kind, controllers) {
            ("cgroup2", "") => true,
            ("cgroup", named) if !named.is_empty() => {
                named.split(',').all(|one| options.split(',').any(|option| option == one))
            }
            _ => false,
        };
        if matches {
            return mount.split(' ').nth(4).map(PathBuf::from);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_proc_cgroup() {
        let text = "11:cpu,cpuacct:/\n9:name=systemd:/user.slice\n0::/user.slice/a:b\n";
        assert_eq!(hierarchies(text).collect::<Vec<_>>(), ["cpu,cpuacct", "name=systemd", ""]);
        assert_eq!(directory_name("name=systemd"), "systemd");
    }

    #[test]
    fn reads_mountinfo() {
        let table = "25 20 0:22 / /cg/u rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n\
                     26 20 0:23 / /cg/c rw - cgroup cgroup rw,cpu,cpuacct\n\
                     27 20 0:24 / /cg/s rw - cgroup cgroup rw,xattr,name=systemd\n";
        assert_eq!(mounted_at(table, ""), Some(PathBuf::from("/cg/u")));
        assert_eq!(mounted_at(table, "cpu,cpuacct"), Some(PathBuf::from("/cg/c")));
        assert_eq!(mounted_at(table, "name=systemd"), Some(PathBuf::from("/cg/s")));
        assert_eq!(mounted_at(table, "memory"), None);
    }

    #[test]
    fn this_host_has_a_layout() {
        assert!(Layout::detect().is_ok());
    }
}
