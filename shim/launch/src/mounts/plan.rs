// SPDX-License-Identifier: Apache-2.0
//! What the parent makes of the spec's mounts before it forks.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, Mount, Spec};
use rustix::fs::{FileType, fstat};

use super::fs::make_bind;
use super::idmap::IdMap;
use super::options::{Options, parse};
use crate::error::{Context as _, Error, Result};
use crate::path::{Missing, clean};
use crate::sys::{MS_PRIVATE, MS_SHARED, MS_SLAVE, MS_UNBINDABLE};

/// Where a mount comes from.
#[derive(Debug)]
pub(crate) enum Source {
    /// Cloned from the host, options applied.
    Bind { mount: OwnedFd, kind: Missing },
    /// To be made in the container's namespaces.
    Fs { kind: String, source: Option<String> },
    /// The container's view of its cgroups.
    Cgroup,
}

/// One entry of the spec's `mounts`.
#[derive(Debug)]
pub(crate) struct MountPlan {
    pub(crate) destination: PathBuf,
    pub(crate) options: Options,
    pub(crate) source: Source,
}

/// The container's file system, planned.
#[derive(Debug)]
pub(crate) struct RootPlan<'a> {
    /// Those that are, or lie below, a mount at /proc, /sys or /dev; these come first and in order.
    pub(crate) staged: Vec<MountPlan>,
    /// All others, in the spec's order.
    pub(crate) others: Vec<MountPlan>,
    pub(crate) masked: &'a [String],
    pub(crate) read_only: &'a [String],
    pub(crate) devices: &'a [LinuxDevice],
    pub(crate) root_read_only: bool,
    /// Propagation of `/`, 0 for private.
    pub(crate) propagation: u64,
}

/// /proc, /sys or /dev, if `path` is one of them or below.
fn top_of(path: &Path) -> Option<&'static str> {
    ["proc", "sys", "dev"].into_iter().find(|top| path.starts_with(Path::new("/").join(top)))
}

impl MountPlan {
    fn new(mount: &Mount, spec: &Spec) -> Result<Self> {
        let destination = clean(mount.destination());
        let name = destination.display().to_string();
        if destination == Path::new("/") {
            return Err(Error::invalid("a mount's destination is the container's root"));
        }
        let mut options = parse(&name, mount.options().as_deref().unwrap_or_default())?;
        let idmap = IdMap::of(mount, &options, spec)?;
        let kind = mount.typ().as_deref().unwrap_or_default();
        let source = if kind == "bind" || options.bind.is_some() {
            let source = mount
                .source()
                .as_ref()
                .ok_or_else(|| Error::invalid(format!("mount {name}: a bind mount needs a source")))?;
            options.bind = Some(options.bind.unwrap_or(true));
            let mount = make_bind(source, &options, idmap.as_ref())?;
            let stat = fstat(&mount).context(|| source.display().to_string())?;
            let kind = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => Missing::Directory,
                _ => Missing::File,
            };
            Source::Bind { mount, kind }
        } else if idmap.is_some() {
            return Err(Error::invalid(format!("mount {name}: only owners of a bind mount can be mapped")));
        } else if kind == "cgroup" || kind == "cgroup2" {
            Source::Cgroup
        } else if kind.is_empty() {
            return Err(Error::invalid(format!("mount {name} has no type")));
        } else {
            let source = mount.source().as_ref().map(|source| source.to_string_lossy().into_owned());
            Source::Fs { kind: kind.to_owned(), source }
        };
        Ok(Self { destination, options, source })
    }

    /// `proc`, `sys` or `dev` if that is where this mount goes.
    pub(crate) fn as_top(&self) -> Option<&'static str> {
        top_of(&self.destination).filter(|top| self.destination == Path::new("/").join(top))
    }
}

impl<'a> RootPlan<'a> {
    pub(crate) fn new(spec: &'a Spec) -> Result<Self> {
        let linux = spec.linux().as_ref();
        let mounts = spec.mounts().iter().flatten();
        let mounts = mounts.map(|mount| MountPlan::new(mount, spec)).collect::<Result<Vec<_>>>()?;
        if mounts.iter().filter(|mount| matches!(mount.source, Source::Cgroup)).count() > 1 {
            return Err(Error::invalid("the cgroups are mounted twice"));
        }
        let tops: Vec<&str> = mounts.iter().filter_map(MountPlan::as_top).collect();
        let (mut staged, others): (Vec<_>, Vec<_>) = mounts
            .into_iter()
            .partition(|mount| top_of(&mount.destination).is_some_and(|top| tops.contains(&top)));
        staged.sort_by_key(|mount| mount.as_top().is_none());
        if let Some(twice) = tops.iter().find(|top| tops.iter().filter(|other| other == top).count() > 1) {
            return Err(Error::invalid(format!("/{twice} is mounted twice")));
        }
        let list = |list: Option<&'a Vec<String>>| list.map(Vec::as_slice).unwrap_or_default();
        Ok(Self {
            staged,
            others,
            masked: list(linux.and_then(|linux| linux.masked_paths().as_ref())),
            read_only: list(linux.and_then(|linux| linux.readonly_paths().as_ref())),
            devices: linux.and_then(|linux| linux.devices().as_deref()).unwrap_or_default(),
            root_read_only: spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly) == Some(true),
            propagation: propagation(linux.and_then(|linux| linux.rootfs_propagation().as_deref()))?,
        })
    }

    /// Whether the container is to see its cgroups, and whether read-only.
    pub(crate) fn cgroup_view(&self) -> Option<bool> {
        let mut mounts = self.staged.iter().chain(&self.others);
        let mount = mounts.find(|mount| matches!(mount.source, Source::Cgroup))?;
        Some(mount.options.is_read_only())
    }
}

fn propagation(word: Option<&str>) -> Result<u64> {
    Ok(match word.unwrap_or_default() {
        "" => 0,
        "private" | "rprivate" => MS_PRIVATE,
        "slave" | "rslave" => MS_SLAVE,
        "shared" | "rshared" => MS_SHARED,
        "unbindable" | "runbindable" => MS_UNBINDABLE,
        other => return Err(Error::invalid(format!("rootfsPropagation {other:?} is unknown"))),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn spec(mounts: &str) -> Spec {
        serde_json::from_str(&format!(r#"{{"ociVersion":"1.2.0","mounts":{mounts}}}"#)).unwrap()
    }

    #[test]
    fn what_lies_below_a_top_is_staged_after_it() {
        let spec = spec(
            r#"[{"destination":"/dev/shm","type":"tmpfs"},{"destination":"/data","type":"tmpfs"},
                {"destination":"/dev","type":"tmpfs"},{"destination":"/sys/fs/cgroup","type":"cgroup","options":["ro"]}]"#,
        );
        let plan = RootPlan::new(&spec).unwrap();
        let names = |mounts: &[MountPlan]| -> Vec<String> {
            mounts.iter().map(|mount| mount.destination.display().to_string()).collect()
        };
        assert_eq!(names(&plan.staged), ["/dev", "/dev/shm"]);
        assert_eq!(names(&plan.others), ["/data", "/sys/fs/cgroup"]);
        assert_eq!(plan.cgroup_view(), Some(true));
    }

    #[test]
    fn bad_mounts_are_refused() {
        for mounts in [
            r#"[{"destination":"/","type":"tmpfs"}]"#,
            r#"[{"destination":"/a/..","type":"tmpfs"}]"#,
            r#"[{"destination":"/a"}]"#,
            r#"[{"destination":"/a","type":"bind"}]"#,
            r#"[{"destination":"/a","type":"bind","source":"/no/such/path"}]"#,
            r#"[{"destination":"/proc","type":"proc"},{"destination":"/proc/","type":"proc"}]"#,
        ] {
            assert!(RootPlan::new(&spec(mounts)).is_err(), "{mounts}");
        }
    }
}
