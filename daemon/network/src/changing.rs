// SPDX-License-Identifier: Apache-2.0
//! Changes of running containers' networks that are under way, on disk: whoever comes after a daemon that died meanwhile tells by
//! them what is left to undo, and leaves alone what the container itself made of its links and routes.
//!
//! A change counts until the container's record says otherwise, so that nobody has to say that it was recorded. Nothing is
//! synced: no container outlives a power cut.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use berth_domain::{ContainerId, Error, Result};
use serde::{Deserialize, Serialize};

use crate::{EndpointRecord, SandboxRecord};

/// A container joins or leaves a network.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Change {
    /// Its endpoints as its record has them.
    pub(crate) before: Vec<EndpointRecord>,
    /// Its endpoints as they are to be.
    pub(crate) after: Vec<EndpointRecord>,
}

/// The directory of changes: `data-root/networks/changing/<container>`.
#[derive(Debug)]
pub(crate) struct Changes {
    dir: PathBuf,
}

impl Changes {
    pub(crate) fn open(data_root: &Path) -> Result<Self> {
        let dir = data_root.join("networks/changing");
        fs::create_dir_all(&dir).map_err(|e| Error::io("making", &dir, e))?;
        Ok(Self { dir })
    }

    /// Before the first thing is changed.
    pub(crate) fn begin(&self, container: &ContainerId, change: &Change) -> Result<()> {
        let json =
            serde_json::to_vec(change).map_err(|e| Error::internal("writing down a change").because(e))?;
        let path = self.path(container);
        let temporary = path.with_extension("tmp");
        fs::write(&temporary, json)
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|e| Error::io("writing", &path, e))
    }

    /// The change that was begun, and that the container's record knows nothing of.
    pub(crate) fn under_way(&self, container: &ContainerId, record: &SandboxRecord) -> Option<Change> {
        let path = self.path(container);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "reading a change that was under way");
                return None;
            }
        };
        match serde_json::from_slice::<Change>(&bytes) {
            Ok(change) => same(&change.before, &record.endpoints).then_some(change),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "a change that was under way cannot be used");
                None
            }
        }
    }

    /// It was undone, or does not matter any more. There being none is fine.
    pub(crate) fn end(&self, container: &ContainerId) {
        remove(&self.path(container));
    }

    /// Forgets those of containers that are no more.
    pub(crate) fn retain(&self, live: &[ContainerId]) -> Result<()> {
        for entry in fs::read_dir(&self.dir).map_err(|e| Error::io("reading", &self.dir, e))? {
            let path = entry.map_err(|e| Error::io("reading", &self.dir, e))?.path();
            if !live.iter().any(|container| path.file_name().is_some_and(|name| name == container.as_str())) {
                remove(&path);
            }
        }
        Ok(())
    }

    fn path(&self, container: &ContainerId) -> PathBuf {
        self.dir.join(container.as_str())
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(path = %path.display(), %error, "forgetting a change"),
    }
}

fn same(a: &[EndpointRecord], b: &[EndpointRecord]) -> bool {
    a.len() == b.len() && a.iter().all(|one| b.iter().any(|other| other.endpoint_id == one.endpoint_id))
}
