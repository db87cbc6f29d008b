// SPDX-License-Identifier: Apache-2.0
//! An archive that is unpacked while it arrives and written down at the same time: its bytes become the layer's blob.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use berth_domain::Result;

use crate::layout::io_error;

/// The file that becomes the blob; removed unless it did.
pub(crate) struct BlobFile(pub(crate) PathBuf);

impl BlobFile {
    /// Makes it, for an archive to be written into.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub(crate) fn keep<R: Read>(&self, archive: R) -> Result<Kept<R>> {
        let path: &Path = &self.0;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        Ok(Kept { archive, file: file.map_err(|e| io_error("making", path, e))? })
    }
}

impl Drop for BlobFile {
    fn drop(&mut self) {
        match std::fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.0.display(), %error, "left in staging until the next start");
            }
            _ => {}
        }
    }
}

/// What is read is also written.
pub(crate) struct Kept<R> {
    archive: R,
    file: File,
}

impl<R: Read> Read for Kept<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.archive.read(buffer)?;
        self.file.write_all(&buffer[..n])?;
        Ok(n)
    }
}
