// SPDX-License-Identifier: Apache-2.0
//! `--storage-opt size=`: how much a container may write, as a project quota on its directories.

use std::path::{Path, PathBuf};

use berth_api::types::container_create::HostConfig;
use berth_domain::{Error, Result};
use berth_sys::quota;

use crate::snapshot::Paths;

/// What is asked for, in bytes.
///
/// # Errors
///
/// An option that does not exist; a size that is none.
pub(crate) fn size(host: &HostConfig) -> Result<Option<u64>> {
    let mut size = None;
    for (key, value) in host.storage_opt.iter().flatten() {
        if !key.eq_ignore_ascii_case("size") {
            return Err(Error::invalid(format!("unknown option {key}")));
        }
        size = Some(berth_volume::bytes(value)?);
    }
    // Nothing is no bound, as in the reference.
    Ok(size.filter(|size| *size > 0))
}

/// Bounds a new container's directories. Both are in one project: what is copied up is renamed from one to the other.
///
/// # Errors
///
/// The data root's file system has no project quotas.
pub(crate) fn bound(paths: &Paths, size: u64) -> Result<()> {
    let project = berth_volume::bound(&paths.upper, size).map_err(|error| {
        Error::invalid("--storage-opt size is supported only on a data root with project quotas")
            .because(error)
    })?;
    quota::set_project(&paths.work, project)
        .map_err(|error| Error::io("setting the quota of", &paths.work, error))
}

/// For a container that has used up its room, a little more of it while this is there: mounting an overlay makes a directory,
/// and where that fails (on xfs root's writes count, too) the kernel mounts it read-only and says so nowhere but in its log.
#[derive(Debug)]
pub(crate) struct Room {
    directory: PathBuf,
    project: u32,
    size: u64,
}

/// What making a directory may ask for, for a moment.
const LENT: u64 = 4 << 20;
/// What the container may have beyond its bound in all, for it could write in that moment and be started again and again.
const LENT_MAX: u64 = 64 << 20;

impl Room {
    /// Lends it, if the container has a bound.
    pub(crate) fn lend(host: &HostConfig, paths: &Paths) -> Option<Self> {
        let size = size(host).ok().flatten()?;
        let directory = paths.dir.clone();
        let project = project_of(&directory)?;
        let lent = quota::usage(&directory, project).and_then(|(used, _)| {
            let most = used.max(size).saturating_add(LENT).min(size.saturating_add(LENT_MAX));
            quota::limit(&directory, project, most)
        });
        if let Err(error) = lent {
            tracing::warn!(path = %directory.display(), %error, "making room for a mount");
        }
        Some(Self { directory, project, size })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Err(error) = quota::limit(&self.directory, self.project, self.size) {
            tracing::error!(path = %self.directory.display(), %error, "a container's quota");
        }
    }
}

/// Forgets the bound of a container whose directory this was, once its files are gone.
pub(crate) fn lift(beside: &Path, project: Option<u32>) {
    let Some(project) = project else { return };
    if let Err(error) = quota::limit(beside, project, 0) {
        tracing::warn!(project, %error, "lifting a container's quota");
    }
}

/// The project of a container's directory, if it has a bound.
pub(crate) fn project_of(directory: &Path) -> Option<u32> {
    quota::project(&directory.join("upper")).ok().filter(|project| *project != 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn only_a_size_is_known() {
        let host = |key: &str, value: &str| HostConfig {
            storage_opt: Some([(key.to_owned(), value.to_owned())].into()),
            ..HostConfig::default()
        };
        assert_eq!(size(&HostConfig::default()).unwrap(), None);
        assert_eq!(size(&host("size", "10M")).unwrap(), Some(10 << 20));
        assert_eq!(size(&host("Size", "0")).unwrap(), None);
        assert_eq!(size(&host("inodes", "10")).unwrap_err().to_string(), "unknown option inodes");
        assert!(size(&host("size", "much")).is_err());
    }
}
