// SPDX-License-Identifier: Apache-2.0
//! Where in the cgroup tree a container is, by the two ways of laying it out.
//!
//! With `cgroupfs` the tree below a parent is ours. With `systemd` every group belongs to a unit: a container gets a
//! transient scope in a slice, delegated to us, and lives one level below it, where the service manager never writes
//! (systemd's "Control Group APIs and Delegation": only the group that is the unit's own is still its to change).

use crate::{Error, Result};

/// Who lays out the tree (`native.cgroupdriver`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupDriver {
    /// We do, below `--cgroup-parent`, `/berth` by default.
    #[default]
    Cgroupfs,
    /// systemd does, in slices, `system.slice` by default.
    Systemd,
}

impl CgroupDriver {
    /// The driver's name in the API and in `native.cgroupdriver`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cgroupfs => "cgroupfs",
            Self::Systemd => "systemd",
        }
    }

    /// The parent where none is asked for.
    #[must_use]
    pub fn default_parent(self) -> &'static str {
        match self {
            Self::Cgroupfs => "/berth",
            Self::Systemd => "system.slice",
        }
    }

    /// The path of a container's group, from the root of every hierarchy: `/berth/<id>` or
    /// `/system.slice/berth-<id>.scope/container`.
    ///
    /// # Errors
    ///
    /// The parent has `..` in it, or is not the name of a slice.
    pub fn path(self, parent: &str, id: &str) -> Result<String> {
        match self {
            Self::Cgroupfs => {
                let parts = parent.split('/').filter(|part| !matches!(*part, "" | "."));
                let mut path = String::new();
                for part in parts {
                    if part == ".." {
                        return Err(Error::invalid(format!(
                            "invalid cgroup parent {parent:?}: `..` is not allowed"
                        )));
                    }
                    path.push('/');
                    path.push_str(part);
                }
                Ok(format!("{path}/{id}"))
            }
            Self::Systemd => Ok(format!("{}/{}/container", slice_path(parent)?, scope_name(id))),
        }
    }
}

/// The unit of a container.
#[must_use]
pub fn scope_name(id: &str) -> String {
    format!("berth-{id}.scope")
}

/// Where a slice is: `/a.slice/a-b.slice` for `a-b.slice` (systemd.slice(5)); empty for the root, `-.slice`.
fn slice_path(slice: &str) -> Result<String> {
    let refused = || {
        Error::invalid(format!(
            "cgroup-parent for systemd cgroup should be a valid slice named as \"xxx.slice\", got {slice:?}"
        ))
    };
    let name = slice.strip_suffix(".slice").ok_or_else(refused)?;
    if name == "-" {
        return Ok(String::new());
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:\\@".contains(c);
    let whole = !name.is_empty() && slice.len() < 256 && name.chars().all(allowed);
    if !whole || name.split('-').any(str::is_empty) {
        return Err(refused());
    }
    let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    Ok(ends.map(|end| format!("/{}.slice", &name[..end])).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn paths_by_driver() {
        for (driver, parent, path) in [
            (CgroupDriver::Cgroupfs, "/berth", "/berth/x"),
            (CgroupDriver::Cgroupfs, "pods//a/./", "/pods/a/x"),
            (CgroupDriver::Systemd, "system.slice", "/system.slice/berth-x.scope/container"),
            (CgroupDriver::Systemd, "-.slice", "/berth-x.scope/container"),
            (
                CgroupDriver::Systemd,
                "kube-pod-1.slice",
                "/kube.slice/kube-pod.slice/kube-pod-1.slice/berth-x.scope/container",
            ),
        ] {
            assert_eq!(driver.path(parent, "x").unwrap(), path, "{parent}");
        }
    }

    #[test]
    fn parents_that_are_none() {
        assert!(CgroupDriver::Cgroupfs.path("a/../b", "x").is_err());
        for parent in [
            "",
            "/berth",
            ".slice",
            "a--b.slice",
            "-a.slice",
            "a-.slice",
            "a/b.slice",
            "ä.slice",
            "a.slice/b",
        ] {
            let refused = CgroupDriver::Systemd.path(parent, "x").expect_err(parent);
            assert!(refused.to_string().contains("valid slice"), "{parent}: {refused}");
        }
    }
}
