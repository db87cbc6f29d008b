// SPDX-License-Identifier: Apache-2.0
//! `ContainerExport`: a container's own files, its image's included, as an archive. Without volumes, as the reference has it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use berth_domain::{Error, Result};
use rustix::fs::{Mode, OFlags};
use tokio::sync::mpsc;

use crate::Engine;
use crate::container::archive::ArchivePieces;
use crate::container::view::Purpose;
use crate::tarball;

/// Pieces ahead of a slow reader.
const AHEAD: usize = 4;

impl Engine {
    /// An archive of a container's root filesystem.
    ///
    /// # Errors
    ///
    /// No such container; it is being removed.
    pub async fn container_export(self: &Arc<Self>, name: &str) -> Result<ArchivePieces> {
        let handle = self.index.resolve(name)?;
        let view = self.view(&handle, Purpose::OwnFiles).await?;
        let root: OwnedFd =
            view.root()
                .open("/".as_ref(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
                .map_err(|error| Error::internal("opening the container's root").because(error))?;
        let (sender, pieces) = mpsc::channel(AHEAD);
        drop(tokio::task::spawn_blocking(move || {
            let ids = view.ids();
            tarball::send(sender, &root, b"", tarball::Of::Files, ids);
            drop(view);
        }));
        self.container_event(&handle.now(), "export", &[]);
        Ok(pieces)
    }
}
