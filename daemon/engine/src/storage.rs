// SPDX-License-Identifier: Apache-2.0
//! `--storage-opt size=`: how much a container may write, as a project quota on its directories.

use std::path::Path;

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

/// Forgets the bound of a container whose directory this was, once its files are gone.
pub(crate) fn lift(containers: &Path, project: Option<u32>) {
    let Some(project) = project else { return };
    if let Err(error) = quota::limit(containers, project, 0) {
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
