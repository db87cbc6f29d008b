// SPDX-License-Identifier: Apache-2.0
//! An archive's files, set down in staging under numbers: no name from the archive ever becomes a name on disk.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use berth_domain::{Digest, Error, Result};
use sha2::{Digest as _, Sha256};

use crate::document::finished;
use crate::layer::to_error;
use crate::layout::{Layout, make_new_dir, remove_dir};
use crate::tar::{Entry, Kind, Reader};
use crate::unpack::{Limits, check_space, clean};

/// Entries of an archive of images; it has some dozens.
const ENTRIES_MAX: usize = 100_000;
/// Bytes of an archive's manifests and configs, each as often as it is named: a manifest of an image is short, and a
/// list of them may name one config a hundred thousand times.
const DOCUMENTS_MAX: u64 = 64 << 20;
/// Links from one name to the next.
const LINKS_MAX: usize = 8;

/// A file of the archive.
#[derive(Debug, Clone)]
pub(super) struct Spooled {
    pub(super) path: PathBuf,
    pub(super) size: u64,
    pub(super) digest: Digest,
    /// Bytes of documents read from the archive so far.
    read: Arc<AtomicU64>,
}

impl Spooled {
    pub(super) fn open(&self) -> Result<File> {
        File::open(&self.path).map_err(|e| Error::io("opening", &self.path, e))
    }

    /// All of it, if it is not longer than `max`.
    pub(super) fn read(&self, max: u64) -> Result<Vec<u8>> {
        if self.size > max {
            return Err(Error::invalid(format!(
                "a document of {} bytes in the archive, {max} at most",
                self.size
            )));
        }
        if self.read.fetch_add(self.size, Ordering::Relaxed).saturating_add(self.size) > DOCUMENTS_MAX {
            return Err(Error::invalid(format!(
                "the archive's manifests and configs come to more than {DOCUMENTS_MAX} bytes: load its images one by one"
            )));
        }
        let mut bytes = Vec::new();
        self.open()?.read_to_end(&mut bytes).map_err(|e| Error::io("reading", &self.path, e))?;
        Ok(bytes)
    }
}

#[derive(Debug)]
enum Item {
    File(Spooled),
    /// The clean name it leads to.
    Link(Vec<u8>),
}

/// Files of one archive; removed with it, except for those that were moved elsewhere.
#[derive(Debug)]
pub(super) struct Spool {
    dir: PathBuf,
    handle: OwnedFd,
    limits: Limits,
    items: HashMap<Vec<u8>, Item>,
    read: Arc<AtomicU64>,
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Err(error) = remove_dir(&self.dir) {
            tracing::warn!(path = %self.dir.display(), error = %error.chain(), "left in staging until the next start");
        }
    }
}

impl Spool {
    pub(super) fn new(layout: &Layout, limits: &Limits) -> Result<Self> {
        let dir = layout.fresh("load");
        make_new_dir(&dir, 0o700)?;
        let handle = File::open(&dir).map_err(|e| Error::io("opening", &dir, e))?.into();
        Ok(Self { dir, handle, limits: limits.clone(), items: HashMap::new(), read: Arc::default() })
    }

    pub(super) fn fill<R: BufRead>(&mut self, mut archive: Reader<R>, given_up: &AtomicBool) -> Result<()> {
        let fail = |e| to_error("reading the archive", e);
        let mut entries = 0;
        while let Some(entry) = archive.next_entry().map_err(fail)? {
            entries += 1;
            if entries > ENTRIES_MAX {
                return Err(Error::invalid(format!("the archive has more than {ENTRIES_MAX} entries")));
            }
            self.entry(&mut archive, &entry, entries, given_up).map_err(fail)?;
        }
        Ok(())
    }

    fn entry<R: BufRead>(
        &mut self,
        archive: &mut Reader<R>,
        entry: &Entry,
        n: usize,
        given_up: &AtomicBool,
    ) -> io::Result<()> {
        let name = clean(&entry.path)?;
        let item = match entry.kind {
            Kind::File if entry.sparse.is_none() => Item::File(self.file(archive, n, given_up)?),
            // Relative to the link's own directory; it cannot leave the archive.
            Kind::Symlink => {
                let mut target = match entry.link.first() {
                    Some(b'/') => Vec::new(),
                    _ => name.clone(),
                };
                target.extend_from_slice(b"/../");
                target.extend_from_slice(&entry.link);
                Item::Link(clean(target.strip_prefix(b"/../").unwrap_or(&target))?)
            }
            Kind::HardLink => Item::Link(clean(&entry.link)?),
            _ => return Ok(()),
        };
        self.items.insert(name, item);
        Ok(())
    }

    fn file<R: BufRead>(
        &mut self,
        archive: &mut Reader<R>,
        n: usize,
        given_up: &AtomicBool,
    ) -> io::Result<Spooled> {
        let path = self.dir.join(n.to_string());
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let mut sum = Sha256::new();
        let (mut size, mut checked_at) = (0, 0);
        check_space(&self.handle, &self.limits)?;
        loop {
            let bytes = archive.data()?;
            let n = bytes.len();
            if n == 0 {
                return Ok(Spooled { path, size, digest: finished(sum), read: Arc::clone(&self.read) });
            }
            sum.update(bytes);
            file.write_all(bytes)?;
            archive.consume(n);
            size += n as u64;
            if size - checked_at >= 64 << 20 {
                checked_at = size;
                check_space(&self.handle, &self.limits)?;
            }
            if given_up.load(Ordering::Relaxed) {
                return Err(io::Error::other(Error::cancelled("given up")));
            }
        }
    }

    /// The file of this name, through links.
    pub(super) fn get(&self, name: &str) -> Option<&Spooled> {
        let mut name = clean(name.as_bytes()).ok()?;
        for _ in 0..LINKS_MAX {
            match self.items.get(&name)? {
                Item::File(file) => return Some(file),
                Item::Link(to) => name.clone_from(to),
            }
        }
        None
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(super) fn require(&self, name: &str) -> Result<&Spooled> {
        self.get(name).ok_or_else(|| Error::invalid(format!("the archive lacks {name:?}")))
    }

    /// A blob of an OCI layout, if it is what its name says.
    pub(super) fn blob(&self, digest: &Digest) -> Option<&Spooled> {
        self.get(&format!("blobs/sha256/{}", digest.hex())).filter(|file| file.digest == *digest)
    }
}
